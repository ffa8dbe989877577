"""What an image that fills a hole costs: absolute differences, styles, and how rough the filling is.

All return one number for each image, [B]. Masks are [B, H, W, 1], 1 where the image is missing.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def absolute(image: jax.Array, target: jax.Array, where: jax.Array) -> jax.Array:
    """mean where |image - target|: [B]. The mean is over all numbers of an image, so that small holes weigh little.

    Args:
      image, target: [B, H, W, C].
      where: [B, H, W, 1], 1 for what counts.
    """
    return jnp.mean(where * jnp.abs(image - target), axis=(1, 2, 3))


def gram(x: jax.Array) -> jax.Array:
    """sum over positions of x x' / (H W C): maps [B, H, W, C] -> [B, C, C], which know of no places."""
    return jnp.einsum("bhwc,bhwd->bcd", x, x) / x[0].size


def of_maps(maps: Sequence[jax.Array], targets: Sequence[jax.Array]) -> jax.Array:
    """sum over maps of mean |map - target|: [B]. Liu et al. 2018, eq. 3."""
    return sum((jnp.mean(jnp.abs(x - y), axis=(1, 2, 3)) for x, y in zip(maps, targets, strict=True)), jnp.zeros(()))


def style(maps: Sequence[jax.Array], targets: Sequence[jax.Array]) -> jax.Array:
    """sum over maps of mean |gram(map) - gram(target)|: [B]. Liu et al. 2018, eq. 4 and 5."""
    pairs = [(gram(x), gram(y)) for x, y in zip(maps, targets, strict=True)]
    return sum((jnp.mean(jnp.abs(x - y), axis=(1, 2)) for x, y in pairs), jnp.zeros(()))


def total_variation(image: jax.Array, mask: jax.Array) -> jax.Array:
    """sum over neighbours of |their difference| / numbers of the image: [B], of pairs of which one is missing.

    Liu et al. 2018, eq. 6, whose region is the hole grown by one pixel.
    """
    total = jnp.zeros(())
    for axis in (1, 2):
        first, second = (jax.lax.slice_in_dim(x, 0, x.shape[axis] - 1, axis=axis) for x in (image, mask))
        after, missing = (jax.lax.slice_in_dim(x, 1, x.shape[axis], axis=axis) for x in (image, mask))
        total += jnp.sum(jnp.maximum(second, missing) * jnp.abs(after - first), axis=(1, 2, 3))
    return total / image[0].size
