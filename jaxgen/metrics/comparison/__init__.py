"""Two sets of images as a feature network sees them: which metric is computed how, and what belongs to its record."""

from jaxgen.metrics.comparison.copies import discriminator_gap, memorisation, nearest_neighbours
from jaxgen.metrics.comparison.distance import fid_to
from jaxgen.metrics.comparison.measured import Measured, Metric
from jaxgen.metrics.comparison.seen import (
    PREPROCESSING,
    Seen,
    content_digest,
    image_digests,
    see,
    shared_images,
    stored_images,
)
from jaxgen.metrics.comparison.two_sets import (
    METRICS,
    NUM_DIVISIONS,
    NUM_GROUPS,
    NUM_NEIGHBOURS,
    OF_EVALUATION,
    check_enough,
    compare,
    confident,
    frechet,
    inception,
    kernel,
    neighbours,
    of_train,
    sliced,
)

__all__ = [
    "Seen",
    "Measured",
    "Metric",
    "frechet",
    "fid_to",
    "kernel",
    "neighbours",
    "inception",
    "confident",
    "sliced",
    "METRICS",
    "OF_EVALUATION",
    "NUM_DIVISIONS",
    "NUM_GROUPS",
    "NUM_NEIGHBOURS",
    "nearest_neighbours",
    "memorisation",
    "of_train",
    "discriminator_gap",
    "PREPROCESSING",
    "stored_images",
    "content_digest",
    "image_digests",
    "see",
    "shared_images",
    "check_enough",
    "compare",
]
