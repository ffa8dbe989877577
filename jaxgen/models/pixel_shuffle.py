"""Channels become pixels, and pixels channels: how networks of super-resolution enlarge maps (Shi et al. 2016).

The order is PyTorch's, (c, r, r): channel c r^2 + i r + j of a pixel is channel c of the pixel in row i and column j of
the block that it becomes. TensorFlow's `depth_to_space` has (r, r, c), which is another permutation: weights that were
trained with one make noise with the other.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from jaxgen.models.convolution import Conv


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """y[b, r h + i, r w + j, c] = x[b, h, w, c r^2 + i r + j], r = factor: [B, H, W, r^2 C] -> [B, r H, r W, C].

    Raises:
      ValueError: at trace time, for channels that are no multiple of r^2.
    """
    b, h, w, channels = x.shape
    if channels % factor**2:
        raise ValueError(f"{factor}x{factor} pixels are shuffled from {factor**2} C channels, not from {channels}")
    x = x.reshape(b, h, w, channels // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, factor * h, factor * w, channels // factor**2)


def pixel_unshuffle(x: jax.Array, factor: int) -> jax.Array:
    """The inverse of `pixel_shuffle`: [B, r H, r W, C] -> [B, H, W, r^2 C].

    Raises:
      ValueError: at trace time, for sides that are no multiples of r.
    """
    b, height, width, channels = x.shape
    if height % factor or width % factor:
        raise ValueError(f"pixels are unshuffled by {factor} from sides that are multiples of it, not {height}x{width}")
    x = x.reshape(b, height // factor, factor, width // factor, factor, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(b, height // factor, width // factor, channels * factor**2)


class ShuffledEnlargement(nn.Module):
    """3x3 convolutions to r^2 times the features, each shuffled: [B, H, W, C] -> [B, scale H, scale W, features].

    A scale of 2^n takes n convolutions with r = 2, one of 3 a single one with r = 3, one of 1 none.

    Raises:
      ValueError: at trace time, for another scale.
    """

    features: int
    scale: int
    after: Callable[[], Callable[[jax.Array], jax.Array]] | None = None  # makes what is called after each shuffle
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for factor in factors_of(self.scale):
            conv = Conv(self.features * factor**2, 3, padding=1, kernel_init=self.kernel_init, dtype=self.dtype)
            x = pixel_shuffle(conv(x), factor)
            x = x if self.after is None else self.after()(x)
        return x


def factors_of(scale: int) -> list[int]:
    """2, 2, ... for powers of two, 3 for 3: the enlargements whose product is a scale.

    Raises:
      ValueError: for another scale.
    """
    if scale == 3:
        return [3]
    if scale < 1 or scale & (scale - 1):
        raise ValueError(f"networks enlarge by 3 or by powers of two (1, 2, 4, 8), not by {scale}")
    return [2] * (scale.bit_length() - 1)
