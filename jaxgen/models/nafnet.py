"""NAFNet: a U-Net without activation functions, in which halves of channels gate each other (Chen, Chu, Zhang and Sun
2022).

Width 32 has 29,159,715 parameters with the blocks for SIDD (2, 2, 4, 8 down, 12 in the middle, 2, 2, 2, 2 up); width 64
has 115,982,915, and with those for GoPro (1, 1, 1, 28 down, 1 in the middle, 1, 1, 1, 1 up) 67,888,835.

Both branches of a block are weighed by numbers that begin at 0: a new block is the identity, to the bit, and so is a
network whose last convolution is 0.

Deviation: a block's attention always averages over the whole map. The authors average over windows of the size of
training images (TLC) where they test on larger ones.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv
from jaxgen.models.pixel_shuffle import pixel_shuffle
from jaxgen.models.restoring import at_multiples, same, uniform


def gated(x: jax.Array) -> jax.Array:
    """The first half of the channels times the second: [..., 2 C] -> [..., C]."""
    halves = x.reshape(*x.shape[:-1], 2, -1)  # of slices the gradient would be two maps padded with zeros
    return halves[..., 0, :] * halves[..., 1, :]


class NAFBlock(nn.Module):
    """y = x + beta f(x), then y + gamma g(y), for each channel: [B, H, W, C], the same.

    f: norm, 1x1 to 2 C, 3x3 of each channel by itself, gate, times a 1x1 convolution of the map's mean, 1x1.
    g: norm, 1x1 to 2 C, gate, 1x1. The norm is over the channels of a pixel.
    """

    dtype: Any = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]

        def norm(x):
            return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype)(x)

        def pointwise(x, features):
            return same(features, 1, self.dtype)(x)

        beta, gamma = (self.param(name, nn.initializers.zeros, (channels,), jnp.float32) for name in ("beta", "gamma"))
        y = pointwise(norm(x), 2 * channels)
        y = gated(same(2 * channels, 3, self.dtype, groups=2 * channels)(y))
        y = y * pointwise(jnp.mean(y, axis=(1, 2), keepdims=True), channels)
        x = x + pointwise(y, channels) * beta.astype(x.dtype)
        y = pointwise(gated(pointwise(norm(x), 2 * channels)), channels)
        return x + y * gamma.astype(x.dtype)


class NAFNet(nn.Module):
    """Sources [B, H, W, c] -> images [B, H, W, channels], float32, not bounded; any H and W.

    The network finds what is to be added to the first `channels` channels of its source.

    Raises:
      ValueError: at trace time, for blocks of unlike numbers of sizes.
    """

    channels: int = 3
    width: int = 32  # channels of the largest map, doubled by each halving
    encoder: tuple[int, ...] = (2, 2, 4, 8)  # blocks of each size of map, from the image's down
    middle: int = 12  # blocks of the smallest
    decoder: tuple[int, ...] = (2, 2, 2, 2)  # blocks of each size, up to the image's
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if len(self.encoder) != len(self.decoder):
            raise ValueError(
                f"as many sizes of maps go up as go down: encoder has {len(self.encoder)} numbers of blocks, decoder "
                f"{len(self.decoder)}"
            )
        return x[..., : self.channels] + at_multiples(self._found, x, 2 ** len(self.encoder))

    def _found(self, x):
        def blocks(x, count):
            for _ in range(count):
                x = NAFBlock(self.dtype)(x)
            return x

        x, maps = same(self.width, 3, self.dtype)(x), []
        for count in self.encoder:
            x = blocks(x, count)
            maps.append(x)
            x = Conv(2 * x.shape[-1], 2, 2, kernel_init=uniform, dtype=self.dtype)(x)
        x = blocks(x, self.middle)
        for count in self.decoder:
            x = same(2 * x.shape[-1], 1, self.dtype, use_bias=False)(x)
            x = blocks(pixel_shuffle(x, 2) + maps.pop(), count)
        return same(self.channels, 3, self.dtype, name="output")(x).astype(jnp.float32)
