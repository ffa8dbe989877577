"""Residual networks of super-resolution without normalisation: EDSR (Lim, Son, Kim, Nah and Lee 2017), and MSRResNet.

EDSR-baseline (64 features, 16 blocks) has 1,369,859 parameters for x2, 1,554,499 for x3, 1,517,571 for x4; the large
one (256 features, 32 blocks, residual scale 0.1) 40,729,603 for x2 and 43,089,923 for x4. MSRResNet is SRResNet without
batch normalisation, as ESRGAN's authors changed it (Wang et al. 2018): as many parameters as EDSR-baseline.

Convolutions begin as PyTorch's do, biases at 0.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.pixel_shuffle import ShuffledEnlargement
from jaxgen.models.restoring import enlarged, same, uniform

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # of each channel of its training images, black being 0 and white 1
LEVELS = 127.5  # of 255, for images in [-1, 1]

small = nn.initializers.variance_scaling(2 * 0.1**2, "fan_in", "normal")  # He's, a tenth as large


def centre_of(mean: tuple[float, ...], channels: int) -> jax.Array:
    """A mean of colours in [0, 1] as it is in [-1, 1]; of another number of channels, the mean of it for each."""
    found = jnp.asarray(mean, jnp.float32) if channels == len(mean) else jnp.full(channels, sum(mean) / len(mean))
    return 2 * found - 1


class ResidualBlock(nn.Module):
    """x + residual_scale Conv(ReLU(Conv(x))), 3x3: [B, H, W, C], the same."""

    residual_scale: float = 1.0
    kernel_init: Any = uniform
    dtype: Any = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        settings = {"kernel_init": self.kernel_init}
        y = nn.relu(same(x.shape[-1], 3, self.dtype, **settings)(x))
        y = same(x.shape[-1], 3, self.dtype, **settings)(y)
        return x + (y if self.residual_scale == 1 else self.residual_scale * y)


class EDSR(nn.Module):
    """Images [B, h, w, channels] in [-1, 1] -> [B, scale h, scale w, channels], float32, not bounded.

    As published the network sees levels of 255 from which the mean colour of DIV2K is subtracted, and returns such.

    Raises:
      ValueError: at trace time, for a scale that is neither 3 nor a power of two.
    """

    scale: int = 4
    channels: int = 3
    features: int = 64
    blocks: int = 16
    residual_scale: float = 1.0  # of each block's branch; 0.1 for 256 features
    mean: tuple[float, ...] = DIV2K_MEAN
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        centre = centre_of(self.mean, self.channels)
        head = same(self.features, 3, self.dtype)(LEVELS * (x - centre))
        y = head
        for _ in range(self.blocks):
            y = ResidualBlock(self.residual_scale, dtype=self.dtype)(y)
        y = head + same(self.features, 3, self.dtype)(y)
        y = ShuffledEnlargement(self.features, self.scale, kernel_init=uniform, dtype=self.dtype)(y)
        return same(self.channels, 3, self.dtype)(y).astype(jnp.float32) / LEVELS + centre


def leaky(x: jax.Array) -> jax.Array:
    """Leaky ReLU of slope 0.1."""
    return nn.leaky_relu(x, 0.1)


class MSRResNet(nn.Module):
    """Images [B, h, w, channels] -> [B, scale h, scale w, channels], float32, not bounded.

    Leaky ReLU 0.1 outside of the blocks; bilinear interpolation beside the network. Kernels begin small.
    """

    scale: int = 4
    channels: int = 3
    features: int = 64
    blocks: int = 16
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        settings = {"kernel_init": small}
        y = leaky(same(self.features, 3, self.dtype, **settings)(x))
        for _ in range(self.blocks):
            y = ResidualBlock(kernel_init=small, dtype=self.dtype)(y)
        y = ShuffledEnlargement(self.features, self.scale, lambda: leaky, small, self.dtype)(y)
        y = leaky(same(self.features, 3, self.dtype, **settings)(y))
        y = same(self.channels, 3, self.dtype, **settings)(y).astype(jnp.float32)
        return y + enlarged(x, self.scale, "linear")
