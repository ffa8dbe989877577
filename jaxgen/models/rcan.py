"""RCAN: residual groups of blocks with channel attention (Zhang, Li, Li, Wang, Zhong and Fu 2018).

Ten groups of 20 blocks with 64 features have 15,444,643 parameters for x2 and 15,592,355 for x4. The blocks of a group
are a loop (`nn.scan`) with stacked parameters, so that 400 convolutions are compiled as 40.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.edsr import DIV2K_MEAN, LEVELS, centre_of
from jaxgen.models.pixel_shuffle import ShuffledEnlargement
from jaxgen.models.restoring import same, uniform


class ChannelAttention(nn.Module):
    """x sigmoid(W ReLU(V mean of x)), the mean over pixels: [B, H, W, C], the same. V has C / reduction outputs."""

    reduction: int = 16
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        y = jnp.mean(x, axis=(1, 2), keepdims=True)
        y = nn.relu(same(max(1, channels // self.reduction), 1, self.dtype)(y))
        return x * nn.sigmoid(same(channels, 1, self.dtype)(y))


class Block(nn.Module):
    """x + attention(Conv(ReLU(Conv(x)))): [B, H, W, C], the same."""

    reduction: int = 16
    dtype: Any = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(same(x.shape[-1], 3, self.dtype)(x))
        y = same(x.shape[-1], 3, self.dtype)(y)
        return x + ChannelAttention(self.reduction, self.dtype)(y)


class _Step(nn.Module):
    """A block as `nn.scan` wants it."""

    reduction: int
    dtype: Any

    @nn.compact
    def __call__(self, x, _):
        return Block(self.reduction, self.dtype, name="block")(x), None


class RCAN(nn.Module):
    """Images [B, h, w, channels] in [-1, 1] -> [B, scale h, scale w, channels], float32, not bounded.

    As EDSR it sees levels of 255 without the mean colour. Its attention looks at whole images: no tiling is exact.

    Raises:
      ValueError: at trace time, for a scale that is neither 3 nor a power of two.
    """

    scale: int = 4
    channels: int = 3
    features: int = 64
    groups: int = 10
    blocks: int = 20  # of a group
    reduction: int = 16
    mean: tuple[float, ...] = DIV2K_MEAN
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        centre = centre_of(self.mean, self.channels)
        x = same(self.features, 3, self.dtype)(LEVELS * (x - centre))
        blocks = nn.scan(_Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.blocks)
        y = x
        for i in range(self.groups):
            inner, _ = blocks(self.reduction, self.dtype, name=f"group_{i}")(y, None)
            y = y + same(self.features, 3, self.dtype)(inner)
        y = x + same(self.features, 3, self.dtype)(y)
        y = ShuffledEnlargement(self.features, self.scale, kernel_init=uniform, dtype=self.dtype)(y)
        return same(self.channels, 3, self.dtype)(y).astype(jnp.float32) / LEVELS + centre
