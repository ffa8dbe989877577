"""A convolutional encoder and decoder for square images of 28 to 64 pixels; sizes are halved as in DCGAN.

Strided convolutions with kernels of 4 and SiLU, without batch normalisation, whose noise a likelihood dislikes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models import mlp
from jaxgen.models.convolution import Conv, ConvTranspose
from jaxgen.models.dcgan import sizes as halved


class Encoder(nn.Module):
    """Images [B, H, W, C] in [-1, 1] -> posterior (mean, logvar), each [B, latent_dim], or arrays of other `sizes`."""

    latent_dim: int = 64
    features: int = 32  # of the first layer; doubled with every halving of the size
    dtype: Any = None
    sizes: tuple[int, ...] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, ...]:
        if x.shape[1] != x.shape[2]:
            raise ValueError(f"the encoder needs square images, not {x.shape[1]}x{x.shape[2]}; crop or resize them")
        for i in range(len(halved(x.shape[1])) - 1):
            x = nn.silu(Conv(self.features << i, 4, 2, 1, dtype=self.dtype)(x))
        x = nn.silu(nn.Dense(256, dtype=self.dtype)(x.reshape(x.shape[0], -1)))
        sizes = self.sizes or (self.latent_dim, self.latent_dim)
        return mlp.split(nn.Dense(sum(sizes), dtype=self.dtype)(x).astype(jnp.float32), sizes)


class Decoder(nn.Module):
    """[B, latent_dim] -> what the likelihood needs: logits, or (mean, log of the width), [B, size, size, channels].

    With `learned_width` the second output is one learned number per channel, broadcast over the image: the logarithm
    of the logistic scale or of the Gaussian variance, as the likelihood reads it. It starts at -3.
    """

    image_size: int = 28
    channels: int = 1
    features: int = 32
    learned_width: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array | tuple[jax.Array, jax.Array]:
        *larger, size = halved(self.image_size)
        width = self.features << (len(larger) - 1)
        x = nn.silu(nn.Dense(256, dtype=self.dtype)(z))
        x = nn.silu(nn.Dense(size * size * width, dtype=self.dtype)(x)).reshape(-1, size, size, width)
        for target in reversed(larger):
            if target == self.image_size:
                x = ConvTranspose(self.channels, 4, 2, 1, target % 2, dtype=self.dtype)(x).astype(jnp.float32)
            else:
                width //= 2
                x = nn.silu(ConvTranspose(width, 4, 2, 1, target % 2, dtype=self.dtype)(x))
        if not self.learned_width:
            return x
        log_width = self.param("log_width", nn.initializers.constant(-3.0), (self.channels,), jnp.float32)
        return x, jnp.broadcast_to(log_width, x.shape)
