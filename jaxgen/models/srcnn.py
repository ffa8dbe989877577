"""SRCNN: three convolutions on the image that bicubic interpolation has enlarged (Dong, Loy, He and Tang 2016).

The published one of 9-1-5 taps has 8,129 parameters for grey images, that of 9-5-5 taps 57,281, and 69,251 for colour.

Deviation: maps are padded with zeros, so that the output is as large as the target; the paper trains without padding,
against the middle of the target.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.restoring import enlarged, same


class SRCNN(nn.Module):
    """Images [B, h, w, channels] -> [B, scale h, scale w, channels], float32, not bounded."""

    scale: int = 3
    channels: int = 3
    widths: tuple[int, ...] = (64, 32)  # of the two hidden maps
    kernel_sizes: tuple[int, ...] = (9, 5, 5)  # one more than widths
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = enlarged(x, self.scale) if self.scale > 1 else x
        for width, size in zip(self.widths, self.kernel_sizes, strict=False):
            x = nn.relu(same(width, size, self.dtype)(x))
        return same(self.channels, self.kernel_sizes[-1], self.dtype)(x).astype(jnp.float32)
