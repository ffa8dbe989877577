"""The discriminator of SRGAN and ESRGAN, in the manner of VGG: each second convolution halves (Ledig et al. 2017).

For 128 pixels and 64 features it has 14,499,401 parameters, as ESRGAN's authors build it: halving convolutions have 4x4
taps, and 100 numbers before the logit. (The first paper halves by 3x3 convolutions and has 1024.)
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv
from jaxgen.models.restoring import uniform


class VGGDiscriminator(nn.Module):
    """Images [B, H, W, C] -> logits [B], float32. The size of the images belongs to the parameters.

    Leaky ReLU 0.2, batch normalisation in all layers but the first and the dense ones.

    Raises:
      ValueError: at trace time, for images that are too small for the halvings.
    """

    features: int = 64  # of the first layers, doubled by each halving up to eight times as many
    halvings: int = 5  # 5 for 128 pixels, 6 for 256
    hidden: int = 100  # numbers before the logit
    dtype: Any = None
    axis_name: str | None = None  # synchronises batch statistics in the per-device view

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if min(x.shape[1:3]) >> self.halvings < 1:
            raise ValueError(
                f"a discriminator that halves sides {self.halvings} times needs at least {1 << self.halvings} pixels, "
                f"not {x.shape[1]}x{x.shape[2]}; give fewer --halvings"
            )

        def layer(x, width, halve, norm=True):
            size, stride = (4, 2) if halve else (3, 1)
            x = Conv(width, size, stride, 1, use_bias=not norm, kernel_init=uniform, dtype=self.dtype)(x)
            if norm:
                x = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=0.9,
                    epsilon=1e-5,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                )(x)
            return nn.leaky_relu(x, 0.2)

        for i in range(self.halvings):
            width = self.features * min(2**i, 8)
            x = layer(x, width, halve=False, norm=i > 0)
            x = layer(x, width, halve=True)
        x = x.reshape(len(x), -1)
        x = nn.leaky_relu(nn.Dense(self.hidden, dtype=self.dtype)(x), 0.2)
        return nn.Dense(1, dtype=self.dtype)(x)[:, 0].astype(jnp.float32)
