"""The networks of VAE-GAN (Larsen, Sonderby, Larochelle and Winther 2016, table 1), for sides that are multiples of 8.

5x5 convolutions that halve or double sides, batch normalisation and ReLU after all layers but the first of the
discriminator and the last ones.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv, ConvTranspose
from jaxgen.network import Output


def _normalised(x, train, dtype, axis_name):
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=dtype, axis_name=axis_name)(x)


def check_sides(image_shape: tuple[int, ...]) -> None:
    """Raises a ValueError for images [H, W, C] whose sides cannot be halved three times."""
    if image_shape[0] % 8 or image_shape[1] % 8:
        raise ValueError(
            f"VAE-GAN halves sides three times: they must be multiples of 8, not {image_shape[0]}x{image_shape[1]}; "
            "resize the data"
        )


class Encoder(nn.Module):
    """Images [B, H, W, C] in [-1, 1] -> posterior (mean, logvar), each [B, latent_dim], float32."""

    latent_dim: int = 128
    features: int = 64  # of the first layer; twice and four times as many follow
    hidden: int = 2048  # of the dense layer
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        check_sides(x.shape[1:])
        for times in (1, 2, 4):
            x = Conv(times * self.features, 5, 2, 2, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(_normalised(x, train, self.dtype, self.axis_name))
        x = nn.Dense(self.hidden, use_bias=False, dtype=self.dtype)(x.reshape(len(x), -1))
        x = nn.relu(_normalised(x, train, self.dtype, self.axis_name))
        mean, logvar = jnp.split(nn.Dense(2 * self.latent_dim, dtype=self.dtype)(x).astype(jnp.float32), 2, axis=-1)
        return mean, logvar


class Decoder(nn.Module):
    """[B, latent_dim] -> images [B, *image_shape] in [-1, 1], float32."""

    image_shape: tuple[int, int, int] = (64, 64, 3)
    features: int = 64
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
        check_sides(self.image_shape)
        h, w, channels = self.image_shape
        width = 4 * self.features
        x = nn.Dense(h // 8 * (w // 8) * width, use_bias=False, dtype=self.dtype)(z)
        x = nn.relu(_normalised(x, train, self.dtype, self.axis_name)).reshape(-1, h // 8, w // 8, width)
        for width in (4 * self.features, 2 * self.features, self.features // 2):
            x = ConvTranspose(width, 5, 2, 2, 1, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(_normalised(x, train, self.dtype, self.axis_name))
        return jnp.tanh(Conv(channels, 5, padding=2, dtype=self.dtype)(x).astype(jnp.float32))


class Discriminator(nn.Module):
    """Images [B, H, W, C] -> `network.Output` of logits [B] and the last map before its normalisation, both float32."""

    features: int = 64
    hidden: int = 512  # of the dense layer
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Output:
        check_sides(x.shape[1:])
        x = nn.relu(Conv(self.features // 2, 5, padding=2, dtype=self.dtype)(x))
        for i, times in enumerate((2, 4, 4)):
            if i:
                x = nn.relu(_normalised(x, train, self.dtype, self.axis_name))
            x = Conv(times * self.features, 5, 2, 2, use_bias=False, dtype=self.dtype)(x)
        map_ = x.astype(jnp.float32)
        x = nn.relu(_normalised(x, train, self.dtype, self.axis_name)).reshape(len(x), -1)
        x = nn.Dense(self.hidden, use_bias=False, dtype=self.dtype)(x)
        x = nn.relu(_normalised(x, train, self.dtype, self.axis_name))
        return Output(nn.Dense(1, dtype=self.dtype)(x)[:, 0].astype(jnp.float32), map_)
