"""Class-conditional generation: are images of the class that was asked for, and like the real ones of that class?

A generator that ignores its label can have a perfect FID. What it has then is an `as_asked` of 1 over the number of
classes, and a large `fid_within_classes`.
"""

import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxgen.arguments import check_key
from jaxgen.metrics import fid
from jaxgen.metrics.comparison import Measured, Seen
from jaxgen.metrics.double_precision import check_features, check_same_width

MAX_NAMED = 5  # classes in a sentence


class WithinClasses(NamedTuple):
    """A distance for each class.

    distances: class -> Fréchet distance, for classes with at least 2 images of either side.
    skipped: the other classes.
    deficient: classes of `distances` in which a side has not more images than there are features.
    """

    distances: dict[int, float]
    skipped: list[int]
    deficient: list[int]

    @property
    def mean(self) -> float:
        """Over classes, each with the same weight; NaN where there is none."""
        return float(np.mean(list(self.distances.values()))) if self.distances else float("nan")


def share_as_asked(logits: ArrayLike, label: ArrayLike, *, among: Any = None) -> float:
    """The share of images that a classifier takes for members of the class that they were asked for.

        sum_c w_c  mean_(i: label_i = c) [argmax_k logits_ik = c]

    Args:
      logits: [N, num_classes] of a classifier that was trained on real images.
      label: [N] integers, what was asked for; of real images, what they are.
      among: labels [M] of another set, whose classes give the weights w_c, so that two sets with unlike shares of
        classes compare; by default `label` itself, and so a plain share. A class without an image has no weight.

    Returns:
      In [0, 1]; 1 over num_classes where the label is ignored.

    Raises:
      ValueError: for no images, unequal numbers of rows, or labels outside of the classes.

    Source: Shmelkov, Schmid and Alahari 2018, "How good is my GAN?" (GAN-test).
    """
    logits = check_features(logits, "logits")
    label = _checked(label, len(logits), logits.shape[1])
    right = np.argmax(logits, axis=1) == label
    count = np.bincount(label, minlength=logits.shape[1])
    weights = count if among is None else np.bincount(np.asarray(among), minlength=logits.shape[1])
    there = (count > 0) & (weights > 0)
    if not there.any():
        raise ValueError("the two sets have no class in common")
    of_class = np.bincount(label, weights=right, minlength=logits.shape[1])[there] / count[there]
    return float(np.average(of_class, weights=weights[there]))


def frechet_within_classes(
    real: ArrayLike, real_label: ArrayLike, fake: ArrayLike, fake_label: ArrayLike, num_classes: int
) -> WithinClasses:
    """The Fréchet distance between the real and the fake images of each class.

    Its mean is what is called intra-FID. A class has fewer images than all together, so it is biased upwards by more
    than an FID: compare it with the same of as many training images, and with nothing else.

    Args:
      real: features [M, D].
      real_label: [M] integers.
      fake: features [N, D].
      fake_label: [N] integers, what was asked for.
      num_classes: K; labels are 0 to K - 1.

    Raises:
      ValueError: for shapes that do not fit, values that are not finite, labels outside of the classes.

    Source: Miyato and Koyama 2018, "cGANs with projection discriminator".
    """
    real, fake = check_features(real, "real features"), check_features(fake, "fake features")
    check_same_width(real, fake)
    labels = _checked(real_label, len(real), num_classes), _checked(fake_label, len(fake), num_classes)
    found = WithinClasses({}, [], [])
    for c in range(num_classes):
        a, b = real[labels[0] == c], fake[labels[1] == c]
        if min(len(a), len(b)) < 2:
            found.skipped.append(c)
            continue
        found.distances[c] = _frechet_distance(a, b)
        if min(len(a), len(b)) <= real.shape[1]:
            found.deficient.append(c)
    return found


def _frechet_distance(a, b) -> float:
    """`fid.frechet_distance` of two sets of features, also of a few of very many."""
    if max(len(a), len(b)) > a.shape[1]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fid.RankDeficientWarning)
            statistics = fid.feature_statistics([a]), fid.feature_statistics([b])
            return fid.frechet_distance(*statistics[0][:2], *statistics[1][:2])
    # With centred rows A and B the trace of the root is the sum of the singular values of A B', and this is small.
    means = [x.mean(axis=0, dtype=np.float64) for x in (a, b)]
    centred = [(x - mean) / np.sqrt(len(x) - 1) for x, mean in zip((a, b), means, strict=True)]
    trace = sum(np.sum(x**2) for x in centred)
    root = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    return max(0.0, float(np.sum((means[0] - means[1]) ** 2) + trace - 2 * root))


def rows_of_each_class(label: Any, counts: Any, key: jax.Array) -> np.ndarray:
    """Rows drawn at random, of each class as many as `counts` says, or all that there are."""
    check_key(key)
    order = np.asarray(jax.random.permutation(key, len(label)))
    of_class = np.asarray(label)[order]
    return np.concatenate([order[of_class == c][:count] for c, count in enumerate(counts)])


# As metrics -----------------------------------------------------------------------------------------------------------


class Labelled(NamedTuple):
    """What a network sees in a set of images, with their labels [N]."""

    seen: Seen
    label: np.ndarray


def as_asked(real: Labelled, fake: Labelled) -> Measured:
    """`as_asked` by the network's logits, and `as_asked_of_real`, with the classes in the same shares.

    The latter is what a perfect generator has; where it is low, the network does not know these classes.
    """
    values = {"as_asked": share_as_asked(fake.seen.logits, fake.label)}
    if np.isin(real.label, fake.label).any():
        values["as_asked_of_real"] = share_as_asked(real.seen.logits, real.label, among=fake.label)
    return Measured(values, {"num_classes": fake.seen.logits.shape[1]})


def within_classes(real: Labelled, fake: Labelled, num_classes: int) -> Measured:
    """`fid_within_classes`, the mean over classes; without it, and with a warning, where no class can be compared."""
    found = frechet_within_classes(real.seen.features, real.label, fake.seen.features, fake.label, num_classes)
    _tell(found, num_classes, real.seen.features.shape[1])
    if not found.distances:
        return Measured({}, {})
    return Measured({"fid_within_classes": found.mean}, _settings(found))


def within_classes_of_train(
    train: Labelled, real: Labelled, fake: Labelled, num_classes: int, key: jax.Array
) -> Measured:
    """`fid_within_classes_of_train`, of as many training images of each class as there are fake ones, or all.

    About what a generator has that learnt the training images' distribution in each class without any error.
    """
    check_key(key)
    rows = rows_of_each_class(train.label, np.bincount(fake.label, minlength=num_classes), key)
    drawn = train.seen.features[rows], train.label[rows]
    found = frechet_within_classes(real.seen.features, real.label, *drawn, num_classes)
    if not found.distances:
        return Measured({}, {})
    return Measured({"fid_within_classes_of_train": found.mean}, _settings(found) | {"n_train": len(rows)})


def _settings(found: WithinClasses):
    deficient = f"{len(found.deficient)} of {len(found.distances)} classes" if found.deficient else "no"
    return {"num_classes": len(found.distances), "rank_deficient": deficient}


def _tell(found: WithinClasses, num_classes: int, num_features: int) -> None:
    if found.skipped:
        more = ", ..." if len(found.skipped) > MAX_NAMED else ""
        warnings.warn(
            f"{len(found.skipped)} of {num_classes} classes ({', '.join(map(str, found.skipped[:MAX_NAMED]))}{more}) "
            "have fewer than 2 images, drawn or real, and are left out of the FID within classes",
            stacklevel=3,
        )
    if found.deficient:
        warnings.warn(
            f"{len(found.deficient)} of {len(found.distances)} classes have no more images than the {num_features} "
            "features: the FID within classes tells more of the number of images than of them. Take more, and compare "
            "it with that of as many training images",
            fid.RankDeficientWarning,
            stacklevel=3,
        )


def _checked(label, num_rows: int, num_classes: int) -> np.ndarray:
    label = np.asarray(label)
    if label.shape != (num_rows,) or label.dtype.kind not in "iu":
        raise ValueError(f"labels must be {num_rows} integers, not {label.dtype} of shape {list(label.shape)}")
    if label.size and not (label.min() >= 0 and label.max() < num_classes):
        raise ValueError(f"labels must be from 0 to {num_classes - 1}, but go from {label.min()} to {label.max()}")
    return label
