"""CUT's generator: a translator whose maps of source and output are compared patch by patch (Park et al. 2020).

The generator is `resnet_generator.ResNetGenerator`, with blur. A patch is a place of one of its maps; two dense layers
with ReLU between them, for each map its own, make a unit vector of it. These heads are parameters from the beginning,
made with those of the translator; the authors' code makes them at the first batch.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.resnet_generator import ResNetGenerator, xavier


class Head(nn.Module):
    """Vectors [..., C] -> vectors of length 1 [..., features], float32: a dense layer, ReLU, another, divided."""

    features: int = 256
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layers = [nn.Dense(self.features, kernel_init=xavier, dtype=self.dtype) for _ in range(2)]
        x = layers[1](nn.relu(layers[0](x))).astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)


class Heads(nn.Module):
    """A `Head` for each map: lists of vectors [..., C_i] -> lists of vectors [..., features]."""

    num: int
    features: int = 256
    dtype: Any = None

    @nn.compact
    def __call__(self, vectors: list[jax.Array]) -> list[jax.Array]:
        return [Head(self.features, self.dtype, name=f"map_{i}")(x) for i, x in enumerate(vectors)]


class Generator(nn.Module):
    """Images, or {"image": images, ...}, [B, H, W, C] -> images [B, H, W, channels] in [-1, 1], float32."""

    channels: int = 3
    features: int = 64
    halvings: int = 2
    blocks: int = 9
    blocks_seen: tuple[int, ...] = (0, 4)  # whose maps are compared
    head_features: int = 256
    norm: str = "instance"
    blur: bool = True
    dtype: Any = None

    draws_at_test = False

    def setup(self) -> None:
        """Layers."""
        self.translator = ResNetGenerator(
            self.channels,
            self.features,
            self.halvings,
            self.blocks,
            norm=self.norm,
            blur=self.blur,
            kernel_init=xavier,
            dtype=self.dtype,
        )
        self.heads = Heads(self.num_maps, self.head_features, self.dtype)

    @property
    def factor(self) -> int:
        """Of which sides of images are multiples."""
        return 2**self.halvings

    @property
    def seen(self) -> tuple[int, ...]:
        """Those of `blocks_seen` that there are."""
        return tuple(i for i in self.blocks_seen if i < self.blocks) or (self.blocks - 1,)

    @property
    def num_maps(self) -> int:
        """How many maps are compared."""
        return 1 + self.halvings + len(self.seen)

    def __call__(self, x: jax.Array | Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        x = x["image"] if isinstance(x, Mapping) else x
        if self.is_initializing():
            self.patches(x, jax.random.key(0), 1, train=train)
        return self.translator(x, train=train)

    def patches(
        self,
        x: jax.Array,
        key: jax.Array,
        num: int,
        mirrored: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> list[jax.Array]:
        """Unit vectors [B, P, head_features] of P = min(num, h w) places of each map, the same ones in all images.

        Args:
          x: images.
          key: of the places, drawn without replacement: the same key, the same places.
          num: of each map.
          mirrored: [B], whether the maps of an image are turned left to right before places are taken.
          train: as for images.
        """
        vectors = []
        for i, m in enumerate(self.translator.maps(x, self.seen, train=train)):
            if mirrored is not None:
                m = jnp.where(mirrored[:, None, None, None], m[:, :, ::-1], m)
            flat = m.reshape(m.shape[0], -1, m.shape[-1])
            places = jax.random.permutation(jax.random.fold_in(key, i), flat.shape[1])[:num]
            vectors.append(flat[:, places])
        return self.heads(vectors)
