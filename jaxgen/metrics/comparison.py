"""Two sets of images as a feature network sees them: which metric is computed how, and what belongs to its record."""

import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgen import data, files, images
from jaxgen.arguments import check_key
from jaxgen.console import Progress, no_progress
from jaxgen.data import npz
from jaxgen.metrics import confidence, fid, inception_score, kid, prdc, sliced_wasserstein
from jaxgen.metrics.double_precision import check_features, check_same_width
from jaxgen.metrics.features import Backbone, check_shape

PREPROCESSING = "clipped to [-1, 1], rounded to 256 levels"
CACHE_FORMAT = 1  # part of the key: raise it when features of the same images by the same network change
BLOCK_ELEMENTS = 2**23
ROUNDING = 1e-5  # of float32 features, relative to their norm
NUM_DIVISIONS = 5
"""Of the real images in halves, for what chance does."""
NUM_GROUPS = 10
"""Of the fake images, of which one is left out at a time, for the error of a distance."""
NUM_NEIGHBOURS = 5


class Seen(NamedTuple):
    """What a network sees in a set of images.

    features: float32 [N, D].
    logits: float32 [N, K].
    """

    features: np.ndarray
    logits: np.ndarray


class Measured(NamedTuple):
    """What a metric gives.

    values: name -> number.
    settings: what all of them depend on, beyond both sets and the network.
    own: what single ones depend on besides, by name.
    """

    values: dict[str, Any]
    settings: dict[str, Any]
    own: dict[str, dict[str, Any]] = {}  # noqa: RUF012


Metric = Callable[[Seen, Seen, jax.Array], Measured]
"""(real, fake, key) -> Measured."""


# Metrics --------------------------------------------------------------------------------------------------------------


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


# Copies ---------------------------------------------------------------------------------------------------------------


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


def nearest_neighbours(queries: Any, points: Any, but: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Which of the points is nearest to each query, and how far it is.

    Args:
      queries: features [N, D].
      points: features [M, D].
      but: for each query a row of `points` that does not count [N]; None for none.

    Returns:
      (rows of `points` [N], Euclidean distances float64 [N]). The search is in float32, in blocks. The distance to
      what it finds is exact, and 0 where it is no more than the rounding of float32 features: a copy has the distance
      0, also if the network saw it in a batch of another size.

    Raises:
      ValueError: for unequal D, empty sets, or values that are not finite.
    """
    queries, points = check_features(queries, "queries"), check_features(points, "points")
    check_same_width(points, queries)
    middle = points.mean(axis=0, dtype=np.float64)
    shifted = jnp.asarray(points - middle, jnp.float32)
    rows = max(1, BLOCK_ELEMENTS // len(points))
    but = np.full(len(queries), -1) if but is None else np.asarray(but)
    found = [
        np.asarray(_nearest(jnp.asarray(queries[i : i + rows] - middle, jnp.float32), shifted, but[i : i + rows]))
        for i in range(0, len(queries), rows)
    ]
    index = np.concatenate(found)
    queries, found = queries.astype(np.float64), points[index].astype(np.float64)
    distance = np.linalg.norm(queries - found, axis=1)
    return index, np.where(distance <= ROUNDING * np.linalg.norm(found, axis=1), 0.0, distance)


@jax.jit
def _nearest(queries, points, but):
    distance = jnp.sum(points**2, axis=1) - 2 * queries @ points.T
    return jnp.argmin(jnp.where(jnp.arange(len(points)) == but[:, None], jnp.inf, distance), axis=1)


def memorisation(train: Any, held_out: Any, fake: Any) -> Measured:
    """Whether generated images are nearer to the training images than held-out images are.

    The nearest training image of each held-out image gives the distances of new images of the same kind.

    Args:
      train: features [M, D] of training images.
      held_out: features [L, D] of images that were not trained on.
      fake: features [N, D].

    Returns:
      `nearest_ratio`, the median distance of fakes over that of held-out images: about 1 for a perfect generator, 0 for
      copies; `nearer_share`, the share of fakes nearer to their training image than 1 % of the held-out images are:
      about 0.01 for a perfect generator, 1 for copies; and `nearer_share_by_chance`, how large that may be by chance.
      Held-out images at the distance 0 are training images, and left out; NaN if all are. Blurred or unlike images are
      far from both: a large ratio is no merit, and a network that ignores details sees copies where there are none.
    """
    _, of_held_out = nearest_neighbours(held_out, train)
    _, of_fake = nearest_neighbours(fake, train)
    among = of_held_out == 0  # these are training images: how near new ones are they cannot say
    of_held_out = of_held_out[~among]
    if among.any() and len(of_held_out):
        warnings.warn(
            f"{among.sum():,} of the {len(among):,} reference images are training images, or look so to the network: "
            "they are left out where copying is measured, and numbers against the reference look better than they are",
            stacklevel=2,
        )
    if not len(of_held_out):
        return Measured({"nearest_ratio": float("nan"), "nearer_share": float("nan")}, {"n_held_out": 0})
    typical, limit = np.median(of_held_out), np.quantile(of_held_out, 0.01)
    nearer = float(np.mean(of_fake < limit))
    # Both the 1 % and the share that it is compared with are counts.
    by_chance = float(0.01 + 4 * np.sqrt(0.01 * (1 / len(of_held_out) + 1 / len(of_fake))))
    if nearer > by_chance:
        warnings.warn(
            f"{nearer:.1%} of the images are nearer to a training image than 1 % of the held-out images are (by chance "
            f"up to {by_chance:.1%}): {'most' if nearer > 0.5 else 'some'} seem to be copies, unless the network "
            "ignores how they differ. Look at them",
            stacklevel=2,
        )
    values = {
        "nearest_ratio": float(np.median(of_fake) / typical),
        "nearer_share": nearer,
        "nearer_share_by_chance": by_chance,
    }
    return Measured(values, {"n_train": len(train), "n_held_out": len(of_held_out)})


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


def discriminator_gap(train_logits: ArrayLike, held_out_logits: ArrayLike, fake_logits: ArrayLike) -> dict[str, float]:
    """Whether a discriminator tells the training images from held-out ones.

        discriminator_overfitting = (E D(train) - E D(held out)) / (E D(train) - E D(fake))

    Args:
      train_logits, held_out_logits, fake_logits: [N] each, of one discriminator.

    Returns:
      The means `logit_of_train`, `logit_of_held_out`, `logit_of_fake`, and `discriminator_overfitting`: 0 where
      held-out images look as real as those of the training, 1 where they look as fake as generated ones. NaN where the
      discriminator tells nothing apart.

    Source: Karras et al. 2020, "Training generative adversarial networks with limited data", eq. 1.
    """
    of_train, of_held_out, of_fake = (
        float(np.mean(np.asarray(logits), dtype=np.float64)) for logits in (train_logits, held_out_logits, fake_logits)
    )
    gap = of_train - of_fake
    return {
        "logit_of_train": of_train,
        "logit_of_held_out": of_held_out,
        "logit_of_fake": of_fake,
        "discriminator_overfitting": (of_train - of_held_out) / gap if gap else float("nan"),
    }


# Images -> what is seen in them ---------------------------------------------------------------------------------------


def stored_images(dataset: data.Dataset, batch_size: int) -> Iterable[np.ndarray]:
    """A set's images as uint8 batches, each image once; floats as they would be stored.

    Raises:
      ValueError: for NaN.
    """
    for i, (raw, num_valid) in enumerate(data.sequential_batches(dataset, min(batch_size, dataset.num_examples))):
        image = np.asarray(raw["image"])[:num_valid]
        if image.dtype != np.uint8:
            if np.isnan(image).any():
                raise ValueError(f"{dataset.name}: batch {i} holds NaN; no metric has a meaning for such images")
            image = images.to_uint8(image)
        yield image


def content_digest(dataset: data.Dataset) -> str:
    """sha256 of the pixels of all images in order, as they are stored (uint8), and of their shape."""
    digest = hashlib.sha256(repr((dataset.num_examples, *dataset.image_shape)).encode())
    for batch in stored_images(dataset, 500):
        digest.update(np.ascontiguousarray(batch).data)
    return digest.hexdigest()


def image_digests(dataset: data.Dataset) -> list[bytes]:
    """A digest of the pixels of each image, as they are stored."""
    return [
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        for batch in stored_images(dataset, 500)
        for image in batch
    ]


def shared_images(dataset: data.Dataset, others: data.Dataset) -> int:
    """How many images of a set are in another one, too, pixel by pixel."""
    known = set(image_digests(others))
    return sum(digest in known for digest in image_digests(dataset))


def see(
    backbone: Backbone,
    dataset: data.Dataset,
    *,
    batch_size: int = 250,
    cache: str | os.PathLike | None = None,
    digest: str | None = None,
    progress: Progress = no_progress,
) -> Seen:
    """Runs a network over every image of a set.

    Args:
      backbone: the network.
      dataset: the images.
      batch_size: images at once; changes nothing but the time.
      cache: a directory that keeps what is seen, by the digest of the pixels and that of the network, never by name.
      digest: of the pixels, from `content_digest`, if it is known already.
      progress: `(batches, number of batches, what) -> batches`, such as a progress bar.

    Raises:
      ValueError: for images of another shape than the network takes, for NaN in images or features.
    """
    check_shape(backbone, dataset.image_shape, dataset.name)
    file = None
    if cache is not None:
        content = content_digest(dataset) if digest is None else digest
        names = json.dumps([CACHE_FORMAT, content, backbone.digest, backbone.resize])
        file = Path(cache) / f"{hashlib.sha256(names.encode()).hexdigest()}.npz"
        if (seen := _cached(file, dataset.num_examples)) is not None:
            return seen
    size = min(batch_size, dataset.num_examples)
    batches = progress(stored_images(dataset, size), -(-dataset.num_examples // size), dataset.name)
    features, logits = [], []
    for i, batch in enumerate(batches):
        padded = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])  # one compilation
        pair = backbone.apply(data.to_unit_range(jnp.asarray(padded)))
        found = [np.asarray(x, np.float32)[: len(batch)] for x in pair]
        if not np.isfinite(found[0]).all():
            row = i * size + int(np.flatnonzero(~np.isfinite(found[0]).all(axis=1))[0])
            raise ValueError(f"{dataset.name}: features of image {row} by {backbone.name} are NaN or infinite")
        features.append(found[0])
        logits.append(found[1])
    seen = Seen(np.concatenate(features), np.concatenate(logits))
    if file is not None:
        _keep(file, seen)
    return seen


def _cached(file: Path, num_examples: int) -> Seen | None:
    try:
        seen = Seen(**npz.read_arrays(file, lambda names: ["features", "logits"]))  # checksums are compared
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, ValueError, KeyError) as error:
        warnings.warn(f"{file} is damaged, and made anew: {error}", RuntimeWarning, stacklevel=3)
        return None
    return seen if len(seen.features) == num_examples else None


def _keep(file: Path, seen: Seen) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **seen._asdict())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(file, buffer.getvalue())
    except OSError as error:
        warnings.warn(f"what was seen could not be kept: {error}", RuntimeWarning, stacklevel=3)  # no note of a number


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
