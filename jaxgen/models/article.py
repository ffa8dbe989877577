"""The example network of the survey article: a dense stem before three transposed convolutions, 56x56 colour images.

Generator: latent -> dense 128, 128, 1024, 7*7*256, each with batch normalisation and leaky ReLU -> transposed
convolutions 128, 64, 3 with strides of 2 -> tanh. Discriminator: convolutions 64, 128, 256 with strides of 2 -> dense
logit. The article leaves open kernel sizes and slopes: 4 and 0.2 here, as in DCGAN.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv, ConvTranspose

normal_init = nn.initializers.normal(0.02)


class Generator(nn.Module):
    """[B, latent_dim] -> images [B, 56, 56, channels] in [-1, 1]."""

    channels: int = 3
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
        def normalise_and_activate(x):
            norm = nn.BatchNorm(
                use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, axis_name=self.axis_name
            )
            return nn.leaky_relu(norm(x), 0.2)

        x = z
        for width in (128, 128, 1024, 7 * 7 * 256):
            x = normalise_and_activate(nn.Dense(width, use_bias=False, dtype=self.dtype)(x))
        x = x.reshape(-1, 7, 7, 256)
        for width in (128, 64):
            x = ConvTranspose(width, 4, 2, 1, use_bias=False, kernel_init=normal_init, dtype=self.dtype)(x)
            x = normalise_and_activate(x)
        x = ConvTranspose(self.channels, 4, 2, 1, kernel_init=normal_init, dtype=self.dtype)(x)
        return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
    """Images [B, H, W, C] in [-1, 1] -> logits [B]."""

    dtype: Any = None
    images_are_independent = True  # no image affects another's logit

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for width in (64, 128, 256):
            x = nn.leaky_relu(Conv(width, 4, 2, 1, kernel_init=normal_init, dtype=self.dtype)(x), 0.2)
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(1, kernel_init=normal_init, dtype=self.dtype)(x)[:, 0].astype(jnp.float32)
