"""SRResNet, the generator of SRGAN, with batch normalisation (Ledig et al. 2017): 1,547,350 parameters for x4.

Convolutions before a normalisation have no bias (with them it is 1,549,462), and each PReLU has one slope.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.pixel_shuffle import ShuffledEnlargement
from jaxgen.models.restoring import same, uniform


def prelu() -> nn.PReLU:
    """A rectifier with one slope for all negative numbers, 0.25 at first."""
    return nn.PReLU(negative_slope_init=0.25)


class SRResNet(nn.Module):
    """Images [B, h, w, channels] -> [B, scale h, scale w, channels], float32, not bounded.

    Raises:
      ValueError: at trace time, for a scale that is neither 3 nor a power of two.
    """

    scale: int = 4
    channels: int = 3
    features: int = 64
    blocks: int = 16
    dtype: Any = None
    axis_name: str | None = None  # synchronises batch statistics in the per-device view

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def normalised(x):
            x = same(self.features, 3, self.dtype, use_bias=False)(x)
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                dtype=self.dtype,
                axis_name=self.axis_name,
            )(x)

        head = prelu()(same(self.features, 9, self.dtype)(x))
        y = head
        for _ in range(self.blocks):
            y = y + normalised(prelu()(normalised(y)))
        y = head + normalised(y)
        y = ShuffledEnlargement(self.features, self.scale, prelu, uniform, self.dtype)(y)
        return same(self.channels, 9, self.dtype)(y).astype(jnp.float32)
