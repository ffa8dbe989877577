"""The kernel distance between features of two sets of images: KID (Bińkowski et al. 2018)."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxgen.arguments import check_key
from jaxgen.metrics.double_precision import check_features, check_same_width, double_precision

BLOCK_ELEMENTS = 2**23  # of the kernel matrix that exist at once: 64 MiB


class KernelDistance(NamedTuple):
    """mean: the distance. standard_deviation: over subsets, NaN without them. `float(result)` is the mean."""

    mean: float
    standard_deviation: float

    def __float__(self) -> float:
        return self.mean


def kernel_distance(
    real: ArrayLike,
    fake: ArrayLike,
    *,
    subset_size: int | None = None,
    num_subsets: int | None = None,
    key: jax.Array | None = None,
) -> KernelDistance:
    """Unbiased squared maximum mean discrepancy with the kernel k(x, y) = (x.y / D + 1)^3.

        mean of k(x_i, x_j) over i != j + mean of k(y_i, y_j) over i != j - 2 mean of k(x_i, y_j) over i, j

    Its mean does not depend on the sample sizes and is 0 for equal distributions, so single values may be negative. No
    factor of 1000 is applied. Sums are in float64, on the device, in blocks.

    Args:
      real: features [M, D].
      fake: features [N, D]; N need not be M.
      subset_size: rows of each set in one subset, drawn without replacement. None, with `num_subsets`: all rows, once.
      num_subsets: how many subsets. The usual protocol is 100 subsets of 1,000.
      key: of the draws.

    Returns:
      `KernelDistance`: the mean over subsets and their standard deviation (divided by `num_subsets`); without subsets
      the distance of all rows, and NaN.

    Raises:
      TypeError: inside of jit, or for a key that is none.
      ValueError: for fewer than 2 rows in a set or in a subset, larger subsets than sets, unequal D, values that are
        not finite, or only some of the three arguments of subsets.
    """
    if key is not None:
        check_key(key)
    real, fake = check_features(real, "real features", at_least=2), check_features(fake, "fake features", at_least=2)
    check_same_width(real, fake)
    if subset_size is None and num_subsets is None and key is None:
        with double_precision():
            return KernelDistance(float(_all_rows(real, fake)), math.nan)
    if subset_size is None or num_subsets is None or key is None:
        raise ValueError("subset_size, num_subsets and key go together: give all three of them, or none")
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)) and np.ndim(key) == 0:
        raise TypeError(f"key is a key of jax.random, such as jax.random.key(0), not {key!r}")
    if not 2 <= subset_size <= min(len(real), len(fake)) or num_subsets < 1:
        raise ValueError(
            f"{num_subsets} subsets of {subset_size} cannot be drawn from {len(real)} real and {len(fake)} fake "
            "features: a subset has at least 2 rows and no more than the smaller set, and there is at least 1"
        )
    with double_precision():
        real, fake = jnp.asarray(real), jnp.asarray(fake)
        # One program for one subset: a loop on the host costs nothing against 3 products of 1,000 x 1,000 x 2,048.
        distances = [float(_subset(real, fake, jax.random.fold_in(key, i), subset_size)) for i in range(num_subsets)]
    return KernelDistance(float(np.mean(distances)), float(np.std(distances)))


def standard_error(real: ArrayLike, fake: ArrayLike) -> float:
    """How much `kernel_distance` of all rows would scatter if the same generator drew other images.

        2 / sqrt(N) times the deviation over i of  mean of k(y_i, y_j) over j != i  -  mean of k(y_i, x_j) over j

    the error of a U-statistic to first order, with the real images held: two generators that were measured against one
    reference differ by more than chance where their distances differ by more than about twice the root of both squared
    errors added up. Near equal distributions, where the first order all but vanishes, it is too large by about a half.

    Args:
      real: features [M, D].
      fake: features [N, D], independent draws.

    Returns:
      In the units of the distance.

    Raises:
      TypeError: inside of jit.
      ValueError: for fewer than 3 fake rows, unequal D, or values that are not finite.

    Source: Hoeffding 1948, "A class of statistics with asymptotically normal distribution".
    """
    real, fake = check_features(real, "real features"), check_features(fake, "fake features", at_least=3)
    check_same_width(real, fake)
    with double_precision():
        return float(_first_order_error(real, fake))


@jax.jit
def _first_order_error(real, fake):
    real, fake = (jnp.asarray(x, jnp.float64) for x in (real, fake))
    n, d = fake.shape

    def influence(y):
        own = (y @ y / d + 1) ** 3
        among_fakes = (jnp.sum((fake @ y / d + 1) ** 3) - own) / (n - 1)
        return among_fakes - jnp.mean((real @ y / d + 1) ** 3)

    rows = max(1, min(n, BLOCK_ELEMENTS // max(n, len(real))))
    return 2 * jnp.std(lax.map(influence, fake, batch_size=rows), ddof=1) / jnp.sqrt(n)


@jax.jit
def _all_rows(real, fake):
    real, fake = (jnp.asarray(x, jnp.float64) for x in (real, fake))
    m, n = len(real), len(fake)
    return (
        (_kernel_sum(real, real) - _diagonal_sum(real)) / (m * (m - 1))
        + (_kernel_sum(fake, fake) - _diagonal_sum(fake)) / (n * (n - 1))
        - 2 * _kernel_sum(real, fake) / (m * n)
    )


@functools.partial(jax.jit, static_argnums=3)
def _subset(real, fake, key, size):
    real_key, fake_key = jax.random.split(key)
    return _all_rows(
        real[jax.random.choice(real_key, len(real), (size,), replace=False)],
        fake[jax.random.choice(fake_key, len(fake), (size,), replace=False)],
    )


def _kernel_sum(x, y):
    """sum_ij (x_i.y_j / D + 1)^3, with a bounded part of the matrix in memory."""
    rows = max(1, min(len(x), BLOCK_ELEMENTS // len(y)))

    def block_sum(block):
        return jnp.sum((block @ y.T / x.shape[1] + 1) ** 3)

    num_blocks = len(x) // rows
    blocks = x[: num_blocks * rows].reshape(num_blocks, rows, -1)
    return jnp.sum(lax.map(block_sum, blocks)) + block_sum(x[num_blocks * rows :])


def _diagonal_sum(x):
    return jnp.sum((jnp.sum(x**2, axis=1) / x.shape[1] + 1) ** 3)
