"""The Fréchet distance between Gaussians fitted to features of two sets of images: FID (Heusel et al. 2017).

    |m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2))

A number depends on the feature network, the resizing of images and both sample sizes: the fewer images, the larger the
distance, even between two halves of one data set (`distance_between_halves`). Say all of these with it.
"""

import functools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.arguments import check_key
from jaxgen.metrics.double_precision import check_features, double_precision

BLOCK = 2048  # rows that enter the sums at once, whatever the batches of the caller


class RankDeficientWarning(UserWarning):
    """A covariance matrix has directions without variance: too few images, or features that never change.

    Attributes:
      which: the set, "a" or "b"; "" where a caller warns of both.
      rank: of its covariance; None where it was not computed.
    """

    def __init__(self, message: str, *, which: str = "", rank: int | None = None) -> None:
        super().__init__(message)
        self.which, self.rank = which, rank


class FeatureStatistics(NamedTuple):
    """What the Fréchet distance needs of a set of images.

    mean: float64 [D].
    covariance: float64 [D, D], divided by N - 1.
    num_examples: N.
    """

    mean: np.ndarray
    covariance: np.ndarray
    num_examples: int

    @property
    def is_rank_deficient(self) -> bool:
        """True when N <= D: the covariance then has rank N - 1 at most, and N is far too small for an FID."""
        return self.num_examples <= len(self.mean)


def feature_statistics(batches_of_features: Iterable) -> FeatureStatistics:
    """Mean and covariance of features that arrive in batches and never are in memory together.

    Sums run in float64 over blocks of 2,048 rows: two passes within a block, and blocks joined by the update of Chan,
    Golub and LeVeque (1979). Rows are divided into blocks regardless of batches, so that the size of the batches
    cannot change one bit of the result.

    Args:
      batches_of_features: an iterable of arrays [B, D], with any B.

    Returns:
      `FeatureStatistics` in float64. A covariance from N <= D rows has `is_rank_deficient` set.

    Raises:
      TypeError: inside of jit.
      ValueError: for fewer than 2 rows, values that are not finite, batches of unequal D or of another shape.
    """
    count = 0
    state: tuple[Any, ...] = ()
    with double_precision():
        for block in _blocks(batches_of_features):
            mean, scatter = _block_statistics(block)
            state = (mean, scatter) if not state else _merge(*state, float(count), mean, scatter, float(len(block)))
            count += len(block)
        if count < 2:
            raise ValueError(f"a covariance needs at least 2 rows of features, but there are {count}")
        mean, scatter = map(np.asarray, state)
    return FeatureStatistics(mean, scatter / (count - 1), count)


def _blocks(batches: Iterable) -> Iterator[np.ndarray]:
    """The same rows in blocks of BLOCK, and a rest."""
    waiting, num_waiting, width = [], 0, None
    for i, batch in enumerate(batches):
        if np.ndim(batch) == 1:
            raise ValueError(
                "each batch of features must have the shape [B, D], but one has a single axis; "
                "for one array of all features call feature_statistics([features])"
            )
        batch = check_features(batch, f"features of batch {i}", at_least=0)
        width = batch.shape[1] if width is None else width
        if batch.shape[1] != width:
            raise ValueError(f"batch {i} has {batch.shape[1]} features, but those before it have {width}")
        while len(batch):
            part, batch = batch[: BLOCK - num_waiting], batch[BLOCK - num_waiting :]
            waiting.append(part)
            num_waiting += len(part)
            if num_waiting == BLOCK:
                yield np.concatenate(waiting)
                waiting, num_waiting = [], 0
    if num_waiting:
        yield np.concatenate(waiting)


@jax.jit
def _block_statistics(block):
    block = block.astype(jnp.float64)
    mean = jnp.mean(block, axis=0)
    centred = block - mean
    return mean, centred.T @ centred


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _merge(mean, scatter, count, block_mean, block_scatter, block_count):
    total = count + block_count
    step = block_mean - mean
    scatter = scatter + block_scatter + (count * block_count / total) * jnp.outer(step, step)
    return mean + step * (block_count / total), scatter


def joined(parts: Sequence[FeatureStatistics]) -> FeatureStatistics:
    """The statistics of several sets together, from those of each: no features are needed again.

        (N - 1) C = sum_i (n_i - 1) C_i + n_i (m_i - m)(m_i - m)'

    Args:
      parts: of each set, of one D. Each row of features belongs to one of them.

    Raises:
      ValueError: for no parts.

    Chan, Golub and LeVeque 1979.
    """
    if not parts:
        raise ValueError("there are no statistics to be joined")
    counts = np.array([part.num_examples for part in parts], np.float64)
    means = np.stack([part.mean for part in parts])
    mean = counts @ means / counts.sum()
    shifts = means - mean
    scatter = sum((part.num_examples - 1) * part.covariance for part in parts) + (counts * shifts.T) @ shifts
    return FeatureStatistics(mean, scatter / (counts.sum() - 1), int(counts.sum()))


def frechet_distance(
    mean_a: jax.Array | np.ndarray,
    cov_a: jax.Array | np.ndarray,
    mean_b: jax.Array | np.ndarray,
    cov_b: jax.Array | np.ndarray,
) -> float:
    """|m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)), the squared 2-Wasserstein distance between two Gaussians.

    With C_a = A A' and C_b = B B', by Cholesky or by symmetric eigenvalues, the trace of the square root is the sum of
    the singular values of A' B: the symmetric form Tr (C_a^(1/2) C_b C_a^(1/2))^(1/2), which is never complex. They
    are the roots of symmetric eigenvalues, the small ones computed twice, so that twelve digits hold where covariances
    are singular, too. LAPACK does all of it in float64 on the host. Its threads wait for each other at every step:
    where other programs keep the cores busy, OPENBLAS_NUM_THREADS=1 in the environment makes it many times faster.
    Of two `feature_statistics` a and b it is `frechet_distance(*a[:2], *b[:2])`.

    Args:
      mean_a: [D].
      cov_a: [D, D], symmetric.
      mean_b: [D].
      cov_b: [D, D], symmetric.

    Returns:
      The distance, squared units of the features, not negative. Symmetric in a and b.

    Raises:
      TypeError: inside of jit.
      ValueError: for shapes that do not fit, values that are not finite, a matrix that is not symmetric or has a
        negative eigenvalue beyond rounding.

    Warns:
      RankDeficientWarning: if a covariance is singular. The number is right, but says little about the distributions.

    Source: Dowson and Landau 1982, "The Fréchet distance between multivariate normal distributions"; Heusel et al.
    2017, "GANs trained by a two time-scale update rule converge to a local Nash equilibrium".
    """
    mean_a, factor_a, trace_a = _factor(mean_a, cov_a, "a")
    mean_b, factor_b, trace_b = _factor(mean_b, cov_b, "b")
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"the sets have features of unequal dimensions, {len(mean_a)} and {len(mean_b)}")
    trace_of_root = _sum_of_singular_values(factor_a.T @ factor_b)
    return max(0.0, float(np.sum((mean_a - mean_b) ** 2) + (trace_a + trace_b - 2 * trace_of_root)))


def _sum_of_singular_values(matrix):
    """To twelve digits by symmetric eigenvalues, much faster than an SVD where cores are shared with other programs."""
    total, negligible = 0.0, None
    while matrix.size:
        matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        squares, vectors = np.linalg.eigh(matrix @ matrix.T)
        negligible = np.finfo(np.float64).eps ** 2 * squares[-1] if negligible is None else negligible
        if squares[-1] <= negligible:
            break
        # The root of a square has few digits if it is small beside the largest. Those wait for the next round, in which
        # the large ones, that hide them, are projected out. Each round ends with at least one fewer.
        exact = squares > 1e-8 * squares[-1]
        total += np.sum(np.sqrt(squares[exact]))
        matrix = vectors[:, ~exact].T @ matrix
    return total


def _factor(mean, covariance, name):
    """(mean, A with A A' = covariance and as many columns as its rank, trace)."""
    if isinstance(mean, jax.core.Tracer) or isinstance(covariance, jax.core.Tracer):
        raise TypeError("frechet_distance computes in float64 on the host: call it outside of jit and vmap")
    mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or len(mean) == 0:
        raise ValueError(
            f"mean and covariance must have the shapes [D] and [D, D], but those of set {name} have "
            f"{list(mean.shape)} and {list(covariance.shape)}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"the mean or covariance of set {name} holds NaN or infinity")
    size = np.max(np.abs(covariance))
    if np.max(np.abs(covariance - covariance.T)) > 1e-5 * size:
        raise ValueError(f"the covariance of set {name} is not symmetric")
    covariance = (covariance + covariance.T) / 2
    try:  # several times faster than eigenvalues, and as good where nothing is near to singular
        lower = np.linalg.cholesky(covariance)
        pivots = np.diag(lower) ** 2
        if pivots.min() > 1e-10 * pivots.max():
            return mean, lower, np.trace(covariance)
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -1e-4 * size:
        raise ValueError(f"the covariance of set {name} has a negative eigenvalue, {values[0]:.3g}")
    # Eigenvalues that are 0 come out as some rounding errors, whose square roots would be a million times larger.
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    if not kept.all():
        message = (
            f"the covariance of set {name} has rank {kept.sum()} of {len(values)}: either there were not more images "
            "than features, or some features never change. Distances between such sets are dominated by their size"
        )
        warnings.warn(RankDeficientWarning(message, which=name, rank=int(kept.sum())), stacklevel=3)
    return mean, vectors[:, kept] * np.sqrt(values[kept]), np.sum(values[kept])


def standard_error(
    reference: FeatureStatistics, features: jax.Array | np.ndarray, key: jax.Array, num_groups: int = 10
) -> float:
    """How much the distance from a reference would scatter if the same generator drew other images.

        sqrt((g - 1) / g  sum_i (d_i - mean d)^2),    d_i the distance without the images of group i

    the jackknife with g groups, to which images are dealt out at random: their order says nothing. The reference is
    held, so two generators that were measured against one reference differ by more than chance where their distances
    differ by more than about twice the root of both squared errors added up. With 10 groups it is itself known to about
    a quarter.

    Args:
      reference: of the real images.
      features: [N, D] of generated images, independent draws.
      key: of the groups.
      num_groups: g.

    Returns:
      In the units of the distance. No part of it is the bias of small sets.

    Raises:
      ValueError: for fewer than two images in a group, or as `frechet_distance`.

    Source: Efron and Stein 1981, "The jackknife estimate of variance".
    """
    check_key(key)
    features = check_features(features, "features", at_least=2 * num_groups)
    order = np.asarray(jax.random.permutation(key, len(features)))
    groups = [feature_statistics([features[rows]]) for rows in np.array_split(order, num_groups)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankDeficientWarning)
        rests = [joined(groups[:i] + groups[i + 1 :]) for i in range(num_groups)]
        distances = [frechet_distance(*reference[:2], *rest[:2]) for rest in rests]
    return float(np.sqrt((num_groups - 1) * np.var(distances)))


def distance_between_halves(features: jax.Array | np.ndarray, key: jax.Array) -> float:
    """The floor: the Fréchet distance between two random halves of one set, which would be 0 for infinitely many.

    A generator that copied the data's distribution would score about this with half as many images of either side.

    Args:
      features: [N, D] of real images.
      key: of the division.

    Returns:
      The distance between floor(N / 2) rows and the others.

    Raises:
      ValueError: for fewer than 4 rows, or as `feature_statistics`.
    """
    check_key(key)
    features = check_features(features, "features", at_least=4)
    order = np.asarray(jax.random.permutation(key, len(features)))
    first, second = (feature_statistics([features[half]]) for half in np.split(order, [len(order) // 2]))
    return frechet_distance(*first[:2], *second[:2])
