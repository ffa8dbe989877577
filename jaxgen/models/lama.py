"""LaMa's generator: a residual network of fast Fourier convolutions that fills holes (Suvorov et al. 2022).

A 7x7 convolution, three halvings, nine blocks (eighteen in Big LaMa) of which three quarters of the channels are
global, three transposed convolutions, a 7x7 convolution and a sigmoid: 27,048,835 parameters with nine blocks,
50,975,875 with eighteen.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv, ConvTranspose
from jaxgen.models.fourier_convolution import FourierBlock, FourierConv
from jaxgen.models.normalisation import Norm
from jaxgen.models.padding import pad
from jaxgen.models.restoring import uniform

transposed_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2)


class LaMa(nn.Module):
    """Images with their mask as the last channel [B, H, W, C + 1] -> images [B, H, W, C] in [-1, 1], float32.

    What is under the mask, 1 where the image is missing, is not seen.

    Raises:
      ValueError: at trace time, for sides that cannot be halved so often, or that are too few to be reflected.
    """

    features: int = 64  # channels of the first map, doubled at each halving
    halvings: int = 3
    blocks: int = 9
    share: float = 0.75  # of channels that are global
    dtype: Any = None
    axis_name: str | None = None

    @property
    def factor(self) -> int:
        """Of which sides of images are multiples."""
        return 2**self.halvings

    @nn.compact
    def __call__(self, told: jax.Array, *, train: bool) -> jax.Array:
        if told.shape[1] % self.factor or told.shape[2] % self.factor:
            raise ValueError(
                f"a generator of {self.halvings} halvings takes sides that are multiples of {self.factor}, not "
                f"{told.shape[1]}x{told.shape[2]}"
            )
        image, mask = told[..., :-1], told[..., -1:]
        channels = image.shape[-1]
        x = jnp.concatenate([(image + 1) / 2 * (1 - mask), mask], axis=-1)
        own: dict[str, Any] = {"dtype": self.dtype, "axis_name": self.axis_name}

        def rectified(x):
            return nn.relu(Norm("batch", "running", scale_init=nn.initializers.ones, **own)(x, train=train))

        x = rectified(Conv(self.features, 7, use_bias=False, kernel_init=uniform, dtype=self.dtype)(pad(x, 3)))
        parts: Any = (x, None)
        for i in range(1, self.halvings + 1):
            share = self.share if i == self.halvings else 0.0
            parts = FourierConv(self.features << i, share=share, strides=2, **own)(parts, train=train)
        for _ in range(self.blocks):
            parts = FourierBlock(self.features << self.halvings, share=self.share, **own)(parts, train=train)
        x = jnp.concatenate(parts, axis=-1)
        for i in reversed(range(self.halvings)):
            up = ConvTranspose(self.features << i, 3, 2, 1, 1, kernel_init=transposed_uniform, dtype=self.dtype)
            x = rectified(up(x))
        x = Conv(channels, 7, kernel_init=uniform, dtype=self.dtype)(pad(x, 3))
        return 2 * nn.sigmoid(x.astype(jnp.float32)) - 1
