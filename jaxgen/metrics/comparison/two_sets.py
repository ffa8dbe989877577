"""Metrics of two sets of images by name: which is computed how, with what chance does to it."""

import warnings
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from jaxgen.arguments import check_key
from jaxgen.metrics import confidence, fid, inception_score, kid, prdc, sliced_wasserstein
from jaxgen.metrics.comparison.measured import Measured, Metric
from jaxgen.metrics.comparison.seen import Seen
from jaxgen.metrics.features import Backbone

NUM_DIVISIONS = 5
"""Of the real images in halves, for what chance does."""
NUM_GROUPS = 10
"""Of the fake images, of which one is left out at a time, for the error of a distance."""
NUM_NEIGHBOURS = 5


def frechet(real: Seen, fake: Seen, key: jax.Array) -> Measured:
    """`fid`; `fid_standard_error`, of other draws of the fake images; `fid_floor`, the distance between two random
    halves of the real images, in the mean of five divisions; and `fid_of_equal_sets`, what equal distributions have at
    these two numbers of images.

    The bias of an FID goes with 1/M + 1/N (Chong and Forsyth 2020), by which the floor of the halves is scaled. It is
    left out where a half has no more images than features.
    """
    a, b = (fid.feature_statistics([seen.features]) for seen in (real, fake))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", fid.RankDeficientWarning)
        value = fid.frechet_distance(*a[:2], *b[:2])
    values = {"fid": value}
    if len(fake.features) >= 2 * NUM_GROUPS:
        values["fid_standard_error"] = fid.standard_error(a, fake.features, key, NUM_GROUPS)
    m, n, width = len(real.features), len(fake.features), len(a.mean)
    if m >= 4:
        with warnings.catch_warnings():  # half the images: what is wrong with all of them is said
            warnings.simplefilter("ignore", fid.RankDeficientWarning)
            keys = jax.random.split(key, NUM_DIVISIONS)
            values["fid_floor"] = float(np.mean([fid.distance_between_halves(real.features, k) for k in keys]))
        half = m // 2
        if half > width:
            values["fid_of_equal_sets"] = values["fid_floor"] * (1 / m + 1 / n) / (1 / half + 1 / (m - half))
    deficient = [name for name, statistics in (("real", a), ("fake", b)) if statistics.is_rank_deficient]
    for name in deficient:
        warnings.warn(
            f"only {m if name == 'real' else n} {name} images for {width} features: their covariance has not the full "
            f"rank, and the FID tells more of the number of images than of them. Take more than {width} images, or the "
            "KID",
            fid.RankDeficientWarning,
            stacklevel=2,
        )
    if not deficient:
        found = [c.message for c in caught if isinstance(c.message, fid.RankDeficientWarning)]
        ranks = {"real" if message.which == "a" else "fake": message.rank or 0 for message in found}
        deficient = [f"rank {rank} of {len(a.mean)} ({name})" for name, rank in ranks.items()]
        full = ranks.get("real", len(a.mean))
        if ranks.get("fake", full) < full / 2:  # fewer than that are dead units of the network: said, but harmless
            warnings.warn(
                f"the fake images have hardly any variety: their features have rank {ranks['fake']} of "
                f"{len(a.mean)}, those of the real images {full}",
                fid.RankDeficientWarning,
                stacklevel=2,
            )
    equal = values.get("fid_of_equal_sets")
    if equal is not None and 0 < value < 1.3 * equal:
        warnings.warn(
            f"the FID, {value:.3g}, shows no difference: {m:,} and {n:,} images of one distribution have about "
            f"{equal:.3g}, and this is below 1.3 times that. With more images a difference may show",
            stacklevel=2,
        )
    divided = [name for name in ("fid_floor", "fid_of_equal_sets") if name in values]
    own: dict[str, Any] = {name: {"num_divisions": NUM_DIVISIONS} for name in divided}
    if "fid_standard_error" in values:
        own["fid_standard_error"] = {"num_groups": NUM_GROUPS}
    of_fid = {"rank_deficient": ", ".join(deficient) or "no"}
    return Measured(values, {}, {"fid": of_fid, **own})


def kernel(real: Seen, fake: Seen, key: jax.Array) -> Measured:
    """`kid`; `kid_standard_error`, of other draws of the fake images; and `kid_of_equal_sets`, how far from 0 equal
    distributions typically are at these two numbers of images.

    By 100 subsets of 1,000, or by all images at once where there are fewer than 2,000: subsets of hardly more than
    1,000 would be nearly the same, and their standard deviation nearly 0. What chance does is the root mean square
    between random halves of the real images (of up to 1,000 each), times 1/M + 1/N over the same of the halves: under
    no difference the estimate's deviation goes with that (Gretton et al. 2012). A mean over subsets has the scatter of
    their draws besides.
    """
    options = _subsets(real, fake, key)
    subsets = {name: value for name, value in options.items() if name != "key"}
    found = kid.kernel_distance(real.features, fake.features, **options)
    values = {"kid": found.mean} | ({"kid_standard_deviation": found.standard_deviation} if subsets else {})
    m, n = len(real.features), len(fake.features)
    by_subsets = found.standard_deviation / np.sqrt(subsets["num_subsets"]) if subsets else 0.0
    if n >= 3:  # the deviation of the influence of one image is known well enough from 2,000
        some = [
            np.asarray(jax.random.permutation(k, len(x)))[:2000]
            for k, x in zip(jax.random.split(key), (real.features, fake.features), strict=True)
        ]
        error = kid.standard_error(real.features[some[0]], fake.features[some[1]]) * np.sqrt(len(some[1]) / n)
        values["kid_standard_error"] = float(np.hypot(error, by_subsets))
    half = min(1000, m // 2)
    if half >= 2:
        orders = [np.asarray(jax.random.permutation(k, m)) for k in jax.random.split(key, 2 * NUM_DIVISIONS)]
        between = [
            kid.kernel_distance(real.features[order[:half]], real.features[order[half : 2 * half]]).mean
            for order in orders
        ]
        equal = float(np.sqrt(np.mean(np.square(between)))) * (1 / m + 1 / n) / (2 / half)
        equal = float(np.hypot(equal, by_subsets))
        values["kid_of_equal_sets"] = equal
        if abs(found.mean) < 2 * equal:
            warnings.warn(
                f"the KID, {found.mean:.3g}, shows no difference: that of {m:,} and {n:,} images of one distribution "
                f"scatters around 0 by {equal:.2g}, and this is below twice that. With more images a difference may "
                "show",
                stacklevel=2,
            )
    return Measured(values, subsets or {"subset_size": "all", "num_subsets": 1})


def _subsets(real: Seen, fake: Seen, key: jax.Array) -> dict[str, Any]:
    """The subsets of a kernel distance; none where there are too few images."""
    enough = min(len(real.features), len(fake.features)) >= 2000
    return {"subset_size": 1000, "num_subsets": 100, "key": key} if enough else {}


def neighbours(real: Seen, fake: Seen, key: jax.Array) -> Measured:
    """`precision`, `recall`, `density`, `coverage` with 5 neighbours; and the first two and the last of equal sets.

    `coverage_of_equal_sets` is exact. `precision_of_equal_sets` and `recall_of_equal_sets` are those of the real images
    divided at random in the proportion M : N, one part in the place of each side, and so of smaller sets than these.
    """
    m, n = len(real.features), len(fake.features)
    values = prdc.precision_recall_density_coverage(real.features, fake.features, NUM_NEIGHBOURS)
    part = round(m * m / (m + n))
    if NUM_NEIGHBOURS < min(part, m - part):
        order = np.asarray(jax.random.permutation(key, m))
        equal = prdc.precision_recall_density_coverage(
            real.features[order[:part]], real.features[order[part:]], NUM_NEIGHBOURS
        )
        values |= {f"{name}_of_equal_sets": equal[name] for name in ("precision", "recall")}
    values["coverage_of_equal_sets"] = prdc.expected_coverage(m, n, NUM_NEIGHBOURS)
    return Measured(values, {"num_neighbours": NUM_NEIGHBOURS})


def inception(real: Seen, fake: Seen, key: jax.Array) -> Measured:
    """`inception_score` with 10 splits (of the network's own classes), and that of the real images."""
    splits = min(10, len(fake.logits), len(real.logits))
    found, of_real = (inception_score.inception_score(seen.logits, splits) for seen in (fake, real))
    values = {
        "inception_score": found.mean,
        "inception_score_standard_deviation": found.standard_deviation,
        "inception_score_of_real": of_real.mean,
    }
    return Measured(values, {"num_splits": splits, "num_classes": fake.logits.shape[1]})


def confident(real: Seen, fake: Seen, key: jax.Array) -> Measured:
    """`confident_share` and `class_shares` of the classifier, and the first for real images."""
    of_real = confidence.class_confidence(real.logits)["confident_share"]
    return Measured(confidence.class_confidence(fake.logits) | {"confident_share_of_real": of_real}, {"threshold": 0.9})


def sliced(real: Seen, fake: Seen, key: jax.Array) -> Measured:
    """`swd`, the sliced Wasserstein distance of the features along 1,000 directions."""
    distance = sliced_wasserstein.sliced_wasserstein_distance(real.features, fake.features, key, num_projections=1000)
    return Measured({"swd": float(distance)}, {"num_projections": 1000, "order": 2})


METRICS = {
    "fid": frechet,
    "kid": kernel,
    "prdc": neighbours,
    "inception_score": inception,
    "confidence": confident,
    "swd": sliced,
}
"""Metrics of two sets of images by name."""
OF_EVALUATION = ("fid", "kid")
"""Those that one number stands for, small is better: by which the best checkpoint can be kept."""


def of_train(train: Seen, real: Seen, num: int, metrics: Iterable[str], key: jax.Array) -> Measured:
    """What as many training images have in the place of the fake ones: `fid_of_train`, `kid_of_train`, `precision_..`,
    `recall_..`, `density_..` and `coverage_of_train`.

    A generator has about these numbers that draws from the distribution of its training images without any error. Where
    they are worse than those of equal sets, training images and reference differ: by their split, or by their order.

    Args:
      train: of the training images.
      real: of the reference.
      num: how many fake images there are; so many training images are drawn, or all if there are fewer.
      metrics: names in `METRICS`; those of `fid`, `kid` and `prdc` are computed.
      key: of the draw.
    """
    check_key(key)
    rows = np.asarray(jax.random.permutation(key, len(train.features)))[:num]
    drawn = Seen(train.features[rows], train.logits[rows])
    values = {}
    with warnings.catch_warnings():  # what is wrong with the numbers of images is said of the fake ones
        warnings.simplefilter("ignore")
        if "fid" in metrics:
            a, b = (fid.feature_statistics([seen.features]) for seen in (real, drawn))
            values["fid"] = fid.frechet_distance(*a[:2], *b[:2])
        if "kid" in metrics:
            values["kid"] = kid.kernel_distance(real.features, drawn.features, **_subsets(real, drawn, key)).mean
        if "prdc" in metrics and len(rows) > NUM_NEIGHBOURS:
            values |= prdc.precision_recall_density_coverage(real.features, drawn.features, NUM_NEIGHBOURS)
    return Measured({f"{name}_of_train": value for name, value in values.items()}, {"n_train": len(rows)})


def check_enough(metrics: dict[str, Metric], num_real: int, num_fake: int) -> None:
    """Raises a ValueError where there are too few images for a metric; before any of them is looked at."""
    for name, metric in metrics.items():
        least = 6 if metric is neighbours else 2
        if min(num_real, num_fake) < least:
            raise ValueError(
                f"{name} needs at least {least} images of each side, but there are {num_real:,} real and "
                f"{num_fake:,} fake ones; take more, or other metrics (--metrics)"
            )


def compare(
    backbone: Backbone, real: Seen, fake: Seen, metrics: dict[str, Metric], key: jax.Array
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Computes metrics by name.

    Returns:
      (values, settings), both by the names of the values.
    """
    check_key(key)
    values: dict[str, Any] = {}
    settings: dict[str, dict[str, Any]] = {}
    for name, metric in metrics.items():
        try:
            measured = metric(real, fake, key)
        except ValueError as error:
            error.add_note(
                f"This happened in {name} of {len(real.features)} real and {len(fake.features)} fake images."
            )
            raise
        values |= measured.values
        for value in measured.values:
            if own := measured.settings | measured.own.get(value, {}):
                settings[value] = own
    return values, settings
