"""RRDBNet, the generator of ESRGAN (Wang et al. 2018) and of Real-ESRGAN (Wang, Xie, Dong and Shan 2021).

Residual-in-residual dense blocks: 23 of them have 16,697,987 parameters for x4. For x2 and x1 the pixels of the source
are unshuffled into channels first, so that the network always enlarges by four: 16,703,171 for x2. The blocks are a
loop (`nn.scan`) with stacked parameters. Kernels of dense blocks begin a tenth as large as He's.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.edsr import small
from jaxgen.models.pixel_shuffle import pixel_unshuffle
from jaxgen.models.resampling import EnlargingConv
from jaxgen.models.restoring import at_multiples, same, uniform


def leaky(x: jax.Array) -> jax.Array:
    """Leaky ReLU of slope 0.2."""
    return nn.leaky_relu(x, 0.2)


class DenseBlock(nn.Module):
    """x + 0.2 y, y the fifth of five 3x3 convolutions, each of x and of all before it: [B, H, W, C], the same."""

    growth: int = 32  # features of the first four
    dtype: Any = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        found = x
        for _ in range(4):
            y = leaky(same(self.growth, 3, self.dtype, kernel_init=small)(found))
            found = jnp.concatenate([found, y], axis=-1)
        return x + 0.2 * same(x.shape[-1], 3, self.dtype, kernel_init=small)(found)


class _Step(nn.Module):
    """x + 0.2 of three dense blocks, as `nn.scan` wants it."""

    growth: int
    dtype: Any

    @nn.compact
    def __call__(self, x, _):
        y = x
        for _ in range(3):
            y = DenseBlock(self.growth, self.dtype)(y)
        return x + 0.2 * (y.astype(x.dtype)), None


class RRDBNet(nn.Module):
    """Images [B, h, w, channels] -> [B, scale h, scale w, channels], float32, not bounded; any h and w.

    Raises:
      ValueError: at trace time, for a scale other than 1, 2 and 4.
    """

    scale: int = 4
    channels: int = 3
    features: int = 64
    blocks: int = 23
    growth: int = 32
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.scale not in (1, 2, 4):
            raise ValueError(f"RRDBNet enlarges by 1, 2 or 4, not by {self.scale}")
        return at_multiples(self._enlarge, x, 4 // self.scale, self.scale)

    def _enlarge(self, x):
        x = same(self.features, 3, self.dtype)(pixel_unshuffle(x, 4 // self.scale))
        blocks = nn.scan(_Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.blocks)
        y, _ = blocks(self.growth, self.dtype, name="blocks")(x, None)
        y = x + same(self.features, 3, self.dtype)(y)
        for _ in range(2):
            y = leaky(EnlargingConv(self.features, kernel_init=uniform, dtype=self.dtype)(y))
        y = leaky(same(self.features, 3, self.dtype)(y))
        return same(self.channels, 3, self.dtype)(y).astype(jnp.float32)
