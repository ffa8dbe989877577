"""What networks that restore or enlarge images share: convolutions that keep sizes, padding, enlarged images."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv

uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # as PyTorch's convolutions begin
zeros = nn.initializers.zeros


def same(features: int, kernel_size: int = 3, dtype: Any = None, **settings: Any) -> Conv:
    """A convolution of odd size whose output is as large as its input, padded by zeros."""
    return Conv(
        features,
        kernel_size,
        padding=kernel_size // 2,
        dtype=dtype,
        **{"kernel_init": uniform} | settings,
    )


def at_multiples(run: Callable[[jax.Array], jax.Array], x: jax.Array, multiple: int, scale: int = 1) -> jax.Array:
    """What `run` makes of images whose sides it needs to be multiples of a number, for images of any size.

    Edge pixels are repeated below and to the right; what they become is cut off.

    Args:
      run: [B, h, w, C] -> [B, scale h, scale w, C'], for h and w that are multiples.
      x: [B, H, W, C].
      multiple: of which number.
      scale: how much `run` enlarges.

    Returns:
      [B, scale H, scale W, C'].
    """
    height, width = x.shape[1:3]
    below, right = -height % multiple, -width % multiple
    if not below and not right:
        return run(x)
    padded = jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
    return run(padded)[:, : scale * height, : scale * width]


def enlarged(x: jax.Array, scale: int, method: str = "cubic") -> jax.Array:
    """Images enlarged by interpolation: [B, H, W, C] -> [B, scale H, scale W, C].

    Args:
      x: images.
      scale: whole number.
      method: of `jax.image.resize`: cubic (Keys, a = -1/2), lanczos3, linear, nearest. Border weights add up to 1, as
        Pillow's do.
    """
    b, height, width, channels = x.shape
    return jax.image.resize(x, (b, scale * height, scale * width, channels), method)
