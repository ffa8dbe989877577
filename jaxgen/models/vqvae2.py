"""The network of VQ-VAE-2 with two levels (Razavi, van den Oord and Vinyals 2019, figure 2a).

The bottom encoder makes a map of a quarter of the image's sides, the top encoder one of an eighth of that. The top map
is quantised first. Decoded again, it is given to the quantiser of the bottom map, beside that map: the bottom codes say
what the top codes do not. The decoder sees both, the top one enlarged.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen import network
from jaxgen.models.convolution import Conv, ConvTranspose
from jaxgen.models.quantise import Quantised
from jaxgen.models.vqvae import Decoder, Encoder, Reconstruction


class VQVAE2(nn.Module):
    """Images [B, H, W, C] in [-1, 1] -> codes [B, H W / 64 + H W / 16], the top map's first, row by row -> images.

    Raises:
      ValueError: at trace time, for sides that are no multiples of 8.
    """

    top: nn.Module  # quantisers
    bottom: nn.Module
    image_shape: tuple[int, int, int] = (256, 256, 3)
    features: int = 128
    blocks: int = 2
    inner: int = 32
    dtype: Any = None

    def setup(self) -> None:
        """Layers."""
        shared = {"features": self.features, "blocks": self.blocks, "inner": self.inner, "dtype": self.dtype}
        self.encode_bottom = Encoder(**shared)
        self.encode_top = Encoder(halvings=1, **shared)
        self.to_top = Conv(self.top.dim, 1, dtype=self.dtype)
        self.decode_top = Decoder(self.bottom.dim, doublings=1, **shared)
        self.to_bottom = Conv(self.bottom.dim, 1, dtype=self.dtype)
        self.enlarge_top = ConvTranspose(self.top.dim, 4, 2, 1, dtype=self.dtype)
        self.decoder = Decoder(self.image_shape[2], **shared)

    def __call__(self, x: jax.Array, *, train: bool) -> Reconstruction:
        top, bottom = self.quantised(x, train=train)
        metrics = network.prefixed("top", top.metrics) | network.prefixed("bottom", bottom.metrics)
        image = self.decoded(top.vectors, bottom.vectors, train=train)
        return Reconstruction(image, _joined(top, bottom), top.loss + bottom.loss, metrics)

    def quantised(self, x: jax.Array, *, train: bool) -> tuple[Quantised, Quantised]:
        """(top, bottom) of images."""
        if x.shape[1] % 8 or x.shape[2] % 8:
            raise ValueError(
                f"VQ-VAE-2 halves sides three times: they must be multiples of 8, not {x.shape[1]}x{x.shape[2]}; "
                "resize the data"
            )
        below = self.encode_bottom(x, train=train)
        top = self.top(self.to_top(self.encode_top(below, train=train)), train=train)
        told = self.decode_top(top.vectors, train=train)
        bottom = self.bottom(self.to_bottom(jnp.concatenate([told, below], axis=-1)), train=train)
        return top, bottom

    def decoded(self, top: jax.Array, bottom: jax.Array, *, train: bool) -> jax.Array:
        """Images of the vectors of both maps."""
        return self.decoder(jnp.concatenate([self.enlarge_top(top), bottom], axis=-1), train=train)

    def encode(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Images -> codes."""
        return _joined(*self.quantised(x, train=train))

    def decode(self, codes: jax.Array, *, train: bool = False) -> jax.Array:
        """Codes -> images, not clipped.

        Raises:
          ValueError: for another number of codes than the images have.
        """
        if codes.ndim != 2 or codes.shape[1:] != self.codes_shape:
            raise ValueError(f"codes must be [B, {self.codes_shape[0]}], the top map's first, not {list(codes.shape)}")
        first, others = jnp.split(codes, [math.prod(self.maps["top"])], axis=1)
        top, bottom = first.reshape(-1, *self.maps["top"]), others.reshape(-1, *self.maps["bottom"])
        return self.decoded(self.top.embed(top), self.bottom.embed(bottom), train=train)

    @property
    def maps(self) -> dict[str, tuple[int, int]]:
        """The sides of both maps of codes."""
        height, width, _ = self.image_shape
        return {"top": (height // 8, width // 8), "bottom": (height // 4, width // 4)}

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Of the codes of an image."""
        return (sum(math.prod(sides) for sides in self.maps.values()),)


def _joined(top, bottom):
    return jnp.concatenate([q.codes.reshape(len(q.codes), -1) for q in (top, bottom)], axis=1)
