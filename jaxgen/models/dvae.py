"""The networks of DALL-E's discrete VAE (Ramesh et al. 2021, appendix A): residual, 3x3, wide where the maps are small.

A block is x + Conv(f(Conv(f(Conv(f(Conv(f(x)))))))) / (number of blocks)^2, f = ReLU, with a 1x1 convolution around it
where the width changes. Between groups of blocks the encoder takes maxima of 2x2 pixels and the decoder repeats pixels.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv, max_pool
from jaxgen.models.resampling import enlarge

normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class Block(nn.Module):
    """[B, H, W, C] -> [B, H, W, features]; inner maps have a quarter of the features."""

    features: int
    kernel_sizes: tuple[int, ...]  # of its convolutions
    gain: float  # of what is added to the input
    dtype: Any = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shared = {"kernel_init": normal, "dtype": self.dtype}
        y, *inner, last = x, *self.kernel_sizes
        for size in inner:
            y = Conv(self.features // 4, size, padding=size // 2, **shared)(nn.relu(y))
        y = Conv(self.features, last, padding=last // 2, **shared)(nn.relu(y))
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, name="around", **shared)(x)
        return x + self.gain * y


class Encoder(nn.Module):
    """Images [B, H, W, C] -> logits of codes [B, H / 2^(groups - 1), W / 2^(groups - 1), num_codes], float32.

    Raises:
      ValueError: at trace time, for features that four does not divide, or sides that cannot be halved so often.
    """

    num_codes: int = 8192
    features: int = 256  # of the first group, doubled by each
    groups: int = 4
    blocks: int = 2  # of a group
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        factor = 2 ** (self.groups - 1)
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"an encoder of {self.groups} groups needs sides that are multiples of {factor}, not "
                f"{x.shape[1]}x{x.shape[2]}; resize the data, or give fewer groups"
            )
        _check_width(self.features)
        x = Conv(self.features, 7, padding=3, kernel_init=normal, dtype=self.dtype)(x)
        for group in range(self.groups):
            x = max_pool(x) if group else x
            for _ in range(self.blocks):
                gain = (self.groups * self.blocks) ** -2
                x = Block(self.features << group, (3, 3, 3, 1), gain, dtype=self.dtype)(x)
        return Conv(self.num_codes, 1, kernel_init=normal, dtype=self.dtype)(nn.relu(x)).astype(jnp.float32)


class Decoder(nn.Module):
    """(Relaxed) one-hot vectors [B, h, w, num_codes] -> two maps of images [B, h 2^(groups - 1), ...], float32.

    They are what `variational.logit_laplace` needs: mean and log of the scale.
    """

    channels: int = 3
    first: int = 128  # features of the map that the codes become
    features: int = 256  # of the last group, as the encoder's of its first
    groups: int = 4
    blocks: int = 2
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        _check_width(self.features)
        x = Conv(self.first, 1, kernel_init=normal, dtype=self.dtype)(z)
        for group in reversed(range(self.groups)):
            for _ in range(self.blocks):
                gain = (self.groups * self.blocks) ** -2
                x = Block(self.features << group, (1, 3, 3, 3), gain, dtype=self.dtype)(x)
            x = enlarge(x) if group else x
        x = Conv(2 * self.channels, 1, kernel_init=normal, dtype=self.dtype)(nn.relu(x)).astype(jnp.float32)
        mean, log_scale = jnp.split(x, 2, axis=-1)
        return mean, log_scale


def _check_width(features):
    if features % 4:
        raise ValueError(f"a block's inner maps have a quarter of its features: {features} must be a multiple of 4")
