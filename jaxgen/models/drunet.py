"""DRUNet: a U-Net of residual blocks that is told the noise level as a channel (Zhang, Li, Zuo, Zhang, Van Gool and
Timofte 2021).

No biases and no normalisation: 32,638,656 parameters for a grey image beside its noise level, 32,640,960 for a colour
one. Maps are halved by 2x2 convolutions and doubled by transposed ones, and those of equal size are added.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv, ConvTranspose
from jaxgen.models.restoring import at_multiples, same, uniform

doubling = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2)  # transposed kernels


class ResidualBlock(nn.Module):
    """x + Conv(ReLU(Conv(x))), 3x3 without biases: [B, H, W, C], the same."""

    dtype: Any = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(same(x.shape[-1], 3, self.dtype, use_bias=False)(x))
        return x + same(x.shape[-1], 3, self.dtype, use_bias=False)(y)


class DRUNet(nn.Module):
    """Sources [B, H, W, c] -> images [B, H, W, channels], float32, not bounded; any H and W.

    The source is an image and whatever it is told beside it in further channels, such as the noise level of each pixel.
    """

    channels: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 512)  # of maps, for each size from the image's down
    blocks: int = 4  # of each size, down and up
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return at_multiples(self._restore, x, 2 ** (len(self.widths) - 1))

    def _restore(self, x):
        def blocks(x):
            for _ in range(self.blocks):
                x = ResidualBlock(self.dtype)(x)
            return x

        settings = {"use_bias": False, "dtype": self.dtype}
        x = same(self.widths[0], 3, self.dtype, use_bias=False)(x)
        maps = [x]
        for width in self.widths[1:]:
            x = Conv(width, 2, 2, kernel_init=uniform, **settings)(blocks(x))
            maps.append(x)
        x = blocks(x)
        for width in reversed(self.widths[:-1]):
            x = ConvTranspose(width, 2, 2, kernel_init=doubling, **settings)(x + maps.pop())
            x = blocks(x)
        return same(self.channels, 3, self.dtype, use_bias=False)(x + maps.pop()).astype(jnp.float32)
