"""The networks of VQ-VAE (van den Oord et al. 2017, section 4.1) and VQ-VAE-2 (Razavi et al. 2019).

Strided convolutions with kernels of 4, a 3x3 convolution and residual blocks, and the same backwards.

Both models return a `Reconstruction`, have the methods `encode(images) -> codes` and `decode(codes) -> images`, and say
in `maps` which codes of an image belong to which quantiser.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv, ConvTranspose


class Reconstruction(NamedTuple):
    """What an autoencoder with codes makes of images [B, H, W, C]."""

    image: jax.Array  # float32, the shape of the images; not clipped
    codes: jax.Array  # int32 [B, ...]
    loss: jax.Array  # of the quantisers, a scalar
    metrics: dict[str, jax.Array]


class ResidualBlock(nn.Module):
    """x + Conv1x1(relu(Conv3x3(relu(x)))): [B, H, W, C] -> [B, H, W, C]."""

    inner: int = 32  # channels between
    dtype: Any = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(Conv(self.inner, 3, padding=1, dtype=self.dtype)(nn.relu(x)))
        return x + Conv(x.shape[-1], 1, dtype=self.dtype)(y)


class Encoder(nn.Module):
    """[B, H, W, C] -> [B, H / 2^halvings, W / 2^halvings, features].

    Raises:
      ValueError: at trace time, for sides that cannot be halved so often.
    """

    features: int = 128
    halvings: int = 2
    blocks: int = 2
    inner: int = 32
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if x.shape[1] % 2**self.halvings or x.shape[2] % 2**self.halvings:
            raise ValueError(
                f"the encoder halves sides {self.halvings} times: they must be multiples of {2**self.halvings}, not "
                f"{x.shape[1]}x{x.shape[2]}; resize the data"
            )
        for i in range(self.halvings):
            width = self.features if i else self.features // 2
            x = nn.relu(Conv(width, 4, 2, 1, dtype=self.dtype)(x))
        x = Conv(self.features, 3, padding=1, dtype=self.dtype)(x)
        for _ in range(self.blocks):
            x = ResidualBlock(self.inner, dtype=self.dtype)(x)
        return nn.relu(x)


class Decoder(nn.Module):
    """[B, h, w, D] -> [B, h 2^doublings, w 2^doublings, outputs], float32."""

    outputs: int = 3
    features: int = 128
    doublings: int = 2
    blocks: int = 2
    inner: int = 32
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(self.features, 3, padding=1, dtype=self.dtype)(x)
        for _ in range(self.blocks):
            x = ResidualBlock(self.inner, dtype=self.dtype)(x)
        x = nn.relu(x)
        for i in range(1, self.doublings):
            width = self.features if i < self.doublings - 1 else self.features // 2
            x = nn.relu(ConvTranspose(width, 4, 2, 1, dtype=self.dtype)(x))
        return ConvTranspose(self.outputs, 4, 2, 1, dtype=self.dtype)(x).astype(jnp.float32)


class VQVAE(nn.Module):
    """Images [B, H, W, C] in [-1, 1] -> codes [B, H / 4, W / 4] -> images."""

    quantiser: nn.Module
    image_shape: tuple[int, int, int] = (32, 32, 3)
    features: int = 128
    blocks: int = 2
    inner: int = 32
    dtype: Any = None

    def setup(self) -> None:
        """Layers."""
        shared = {"features": self.features, "blocks": self.blocks, "inner": self.inner, "dtype": self.dtype}
        self.encoder = Encoder(**shared)
        self.to_vectors = Conv(self.quantiser.dim, 1, dtype=self.dtype)
        self.decoder = Decoder(self.image_shape[2], **shared)

    def __call__(self, x: jax.Array, *, train: bool) -> Reconstruction:
        found = self.quantised(x, train=train)
        return Reconstruction(self.decoder(found.vectors, train=train), found.codes, found.loss, found.metrics)

    def quantised(self, x: jax.Array, *, train: bool) -> Any:
        """What the quantiser makes of images."""
        return self.quantiser(self.to_vectors(self.encoder(x, train=train)), train=train)

    def encode(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Images -> codes."""
        return self.quantised(x, train=train).codes

    def decode(self, codes: jax.Array, *, train: bool = False) -> jax.Array:
        """Codes -> images, not clipped."""
        return self.decoder(self.quantiser.embed(codes), train=train)

    @property
    def maps(self) -> dict[str, tuple[int, int]]:
        """The sides of the map of codes."""
        return {"": (self.image_shape[0] // 4, self.image_shape[1] // 4)}

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Of the codes of an image."""
        return self.maps[""]
