"""The discriminator of Real-ESRGAN: a U-Net with spectral normalisation, one logit a pixel (Wang et al. 2021).

Three halvings by 4x4 convolutions, three bilinear enlargements, maps of equal size added: 4,376,897 parameters with 64
features. The first and the last convolution are not normalised and have biases; the others have none.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models import fir
from jaxgen.models.restoring import same, uniform
from jaxgen.models.spectral_norm import SpectralConv


def bilinear(x: jax.Array) -> jax.Array:
    """Bilinear interpolation to twice the size, edge pixels repeated: [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    return fir.upsample(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"))[:, 2:-2, 2:-2]


class UNetDiscriminator(nn.Module):
    """Images [B, H, W, C] -> logits [B, H, W], float32.

    Raises:
      ValueError: at trace time, for sides that are no multiples of 8.
    """

    features: int = 64
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if x.shape[1] % 8 or x.shape[2] % 8:
            raise ValueError(
                f"the U-Net discriminator halves sides three times: it needs multiples of 8 pixels, not "
                f"{x.shape[1]}x{x.shape[2]}"
            )

        def layer(x, width, halve=False):
            size, stride = (4, 2) if halve else (3, 1)
            conv = SpectralConv(width, size, stride, 1, use_bias=False, kernel_init=uniform, dtype=self.dtype)
            return nn.leaky_relu(conv(x, train=train), 0.2)

        maps = [nn.leaky_relu(same(self.features, 3, self.dtype)(x), 0.2)]
        for factor in (2, 4, 8):
            maps.append(layer(maps[-1], factor * self.features, halve=True))
        y = maps.pop()
        for factor in (4, 2, 1):
            y = layer(bilinear(y), factor * self.features) + maps.pop()
        for _ in range(2):
            y = layer(y, self.features)
        return same(1, 3, self.dtype)(y)[..., 0].astype(jnp.float32)
