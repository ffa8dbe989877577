"""Data: sets that ship with the package, image folders, array files, hub sets, toys; batches addressed by step."""

from jaxgen.data import augmentation, binarisation, conversion, convertible, decode, masks, pieces, toy
from jaxgen.data.arrays import array_file
from jaxgen.data.augmentation import random_flip, random_shift
from jaxgen.data.batches import (
    batch,
    batch_indices,
    batch_rows,
    epoch_permutation,
    prefetch,
    process_slice,
    sequential_batches,
)
from jaxgen.data.check import check_batch, check_images
from jaxgen.data.dataset import Dataset, Factor, fingerprint_of, from_arrays, prepare_default, subset, to_unit_range
from jaxgen.data.emoji import emoji, emoji_captions, emoji_subcategories, unpaired_emoji
from jaxgen.data.factors import factors
from jaxgen.data.folder import image_folder
from jaxgen.data.hub import hub_dataset
from jaxgen.data.mnist import mnist, stacked_mnist
from jaxgen.data.pairs import halves, pair_folders
from jaxgen.data.records import record_files
from jaxgen.data.sources import augmented, degraded, pair_as_source, with_holes
from jaxgen.data.unpaired import unpaired

__all__ = [
    "Dataset",
    "Factor",
    "array_file",
    "augmentation",
    "augmented",
    "batch",
    "batch_indices",
    "batch_rows",
    "binarisation",
    "check_batch",
    "check_images",
    "conversion",
    "convertible",
    "decode",
    "degraded",
    "emoji",
    "emoji_captions",
    "emoji_subcategories",
    "epoch_permutation",
    "factors",
    "fingerprint_of",
    "from_arrays",
    "halves",
    "hub_dataset",
    "image_folder",
    "masks",
    "mnist",
    "pair_as_source",
    "pair_folders",
    "pieces",
    "prefetch",
    "prepare_default",
    "process_slice",
    "random_flip",
    "random_shift",
    "record_files",
    "sequential_batches",
    "stacked_mnist",
    "subset",
    "to_unit_range",
    "toy",
    "unpaired",
    "unpaired_emoji",
    "with_holes",
]
