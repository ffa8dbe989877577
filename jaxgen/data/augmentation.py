"""Random changes that keep an image's meaning: functions `(key, images [B, H, W, C]) -> images`, jittable."""

import jax
import jax.numpy as jnp


def random_shift(key: jax.Array, image: jax.Array, *, pixels: int = 2, fill: float = -1.0) -> jax.Array:
    """Moves each image by up to `pixels` along each axis, uniformly; what comes in from outside is `fill` (black)."""
    batch, height, width, _ = image.shape
    padded = jnp.pad(image, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), constant_values=fill)
    offset = jax.random.randint(key, (batch, 2), 0, 2 * pixels + 1)
    rows = offset[:, :1] + jnp.arange(height)  # [B, H]
    columns = offset[:, 1:] + jnp.arange(width)  # [B, W]
    return padded[jnp.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability one half."""
    flip = jax.random.bernoulli(key, shape=(image.shape[0], 1, 1, 1))
    return jnp.where(flip, image[:, :, ::-1], image)
