"""The networks of the Context Encoder (Pathak, Krahenbuhl, Donahue, Darrell and Efros 2016): what is around a hole.

4x4 convolutions that halve, one of them without padding down to a single pixel of `bottleneck` channels, and the same
back to half the sides, the middle of the image. 71,130,531 parameters with a bottleneck of 4000 for 128 pixels,
7,221,231 with one of 100; the discriminator of the middle has 2,766,529.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv, ConvTranspose
from jaxgen.models.normalisation import Norm

normal = nn.initializers.normal(0.02)


def middle(x: jax.Array) -> jax.Array:
    """The middle of images, half of either side: [B, H, W, C] -> [B, H / 2, W / 2, C]."""
    height, width = x.shape[1:3]
    return x[:, height // 4 : height // 4 + height // 2, width // 4 : width // 4 + width // 2]


def around(x: jax.Array) -> jax.Array:
    """Images of which these are the `middle`, 0 elsewhere: [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    height, width = x.shape[1:3]
    return jnp.pad(x, ((0, 0), (height // 2, -(-height // 2)), (width // 2, -(-width // 2)), (0, 0)))


class ContextEncoder(nn.Module):
    """Images with holes [B, H, W, C] -> their `middle` [B, H / 2, W / 2, C] in [-1, 1], float32.

    The first convolution and the second have `features` channels, the others twice those of the one before.

    Raises:
      ValueError: at trace time, for sides that are no multiples of 2^halvings, or less than four times that.
    """

    features: int = 64
    bottleneck: int = 4000
    halvings: int = 5  # down to 4 pixels: five for 128
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        factor = 2**self.halvings
        if any(side % factor or side < 4 * factor for side in x.shape[1:3]):
            raise ValueError(
                f"a context encoder of {self.halvings} halvings takes sides that are multiples of {factor} from "
                f"{4 * factor} on, not {x.shape[1]}x{x.shape[2]}"
            )
        channels, own = x.shape[-1], {"kernel_init": normal, "dtype": self.dtype}

        def normalised(x):
            return Norm("batch", "running", dtype=self.dtype, axis_name=self.axis_name)(x, train=train)

        def width(i):
            return self.features << max(i - 1, 0)

        for i in range(self.halvings):
            x = Conv(width(i), 4, 2, 1, **own)(x)
            x = nn.leaky_relu(normalised(x) if i else x, 0.2)
        x = nn.leaky_relu(normalised(Conv(self.bottleneck, 4, **own)(x)), 0.2)
        x = nn.relu(normalised(ConvTranspose(width(self.halvings - 1), 4, **own)(x)))
        for i in reversed(range(1, self.halvings - 1)):
            x = nn.relu(normalised(ConvTranspose(width(i), 4, 2, 1, **own)(x)))
        return jnp.tanh(ConvTranspose(channels, 4, 2, 1, **own)(x).astype(jnp.float32))


class MiddleDiscriminator(nn.Module):
    """Images [B, H, W, C] -> logits [B, h, w], one for 2^(halvings + 2) pixels: DCGAN's, with biases."""

    features: int = 64
    halvings: int = 4
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(self.halvings):
            x = Conv(self.features << i, 4, 2, 1, kernel_init=normal, dtype=self.dtype)(x)
            if i:
                x = Norm("batch", "running", dtype=self.dtype, axis_name=self.axis_name)(x, train=train)
            x = nn.leaky_relu(x, 0.2)
        return Conv(1, 4, kernel_init=normal, dtype=self.dtype)(x)[..., 0].astype(jnp.float32)
