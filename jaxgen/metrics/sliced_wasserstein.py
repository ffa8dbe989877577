"""The sliced Wasserstein distance: sorting along random directions. It needs no network and assumes no Gaussian."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.arguments import check_key


def sliced_wasserstein_distance(
    real: jax.Array | np.ndarray,
    fake: jax.Array | np.ndarray,
    key: jax.Array,
    *,
    num_projections: int = 1000,
    order: float = 2.0,
    block_size: int = 32,
) -> jax.Array:
    """(E W_p(<a, X>, <a, Y>)^p)^(1/p) over directions a, uniform on the unit sphere.

    On a line W_p is exact, for sets of unequal sizes too: the p-th mean difference of the two quantile functions.
    A shift of all points by v in D dimensions gives |v| / sqrt(D) for p = 2: values of unequal D are not comparable.
    Two samples of one distribution have a positive distance, which falls with their size.

    Args:
      real: [M, ...], flattened to [M, D]: features, points or images.
      fake: [N, ...], the same D.
      key: of the directions. The same key gives comparable numbers.
      num_projections: directions. The relative error of the estimate falls with their square root.
      order: p, at least 1.
      block_size: directions that are sorted at once, which bounds memory.

    Returns:
      A scalar in the units of the data. Jittable.

    Raises:
      ValueError: for unequal D, empty sets, no directions, p below 1; outside of jit for values that are not finite.

    Source: Rabin, Peyré, Delon, Bernot 2011, "Wasserstein barycenter and its application to texture mixing".
    """
    check_key(key)
    real, fake = (_flat(x, name) for x, name in ((real, "real"), (fake, "fake")))
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"real points have {real.shape[1]} dimensions and fake points {fake.shape[1]}")
    if num_projections < 1 or block_size < 1 or order < 1:
        raise ValueError("num_projections, block_size and order must be at least 1")
    # Both sets are moved by the same vector, which changes nothing but keeps digits of data far from 0.
    shift = jnp.mean(real, axis=0)
    real, fake = real - shift, fake - shift
    widths, of_real, of_fake = _common_quantiles(len(real), len(fake))

    def distance(direction):
        x, y = jnp.sort(real @ direction), jnp.sort(fake @ direction)
        return jnp.sum(jnp.asarray(widths, x.dtype) * jnp.abs(x[of_real] - y[of_fake]) ** order)

    directions = jax.random.normal(key, (num_projections, real.shape[1]), real.dtype)
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    return jnp.mean(lax.map(distance, directions, batch_size=min(block_size, num_projections))) ** (1 / order)


def _flat(points, name):
    points = jnp.asarray(points)
    if points.ndim < 2 or 0 in points.shape:
        raise ValueError(f"{name} points must have the shape [N, ...], not {list(points.shape)}")
    points = points.reshape(len(points), -1).astype(jnp.promote_types(points.dtype, jnp.float32))
    if not isinstance(points, jax.core.Tracer) and not np.isfinite(np.asarray(points)).all():
        raise ValueError(f"{name} points hold NaN or infinity")
    return points


def _common_quantiles(m: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces of [0, 1] on which both quantile functions are constant: widths, and the rank in either set."""
    # In units of 1 / lcm(m, n) the steps of both are whole numbers: no rounding decides which rank comes next.
    common = math.lcm(m, n)
    edges = np.unique(np.concatenate([np.arange(m + 1) * (common // m), np.arange(n + 1) * (common // n)]))
    return np.diff(edges) / common, edges[:-1] // (common // m), edges[:-1] // (common // n)
