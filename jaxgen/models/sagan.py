"""The networks of SAGAN (Zhang, Goodfellow, Metaxas and Odena 2019), for square images of 28, 32, 48, 64 or 128 pixels.

SNGAN's residual networks (`models.sngan`: layouts, widths, initial values, and what is said there about enlarging) with
two changes: every kernel of the generator is spectrally normalised, too, and in both players one map attends to itself:
that of 32x32 pixels, or where the image has less than 64, that of half its size. With classes, the generator's batch
normalisations are conditional, whose tables are not spectrally normalised, and the discriminator adds a projection.

The numbers of parameters are those of the common reproduction (mimicry; Lee and Town 2020). Deviation: attention of
images that are smaller than the paper's 128 pixels is where that reproduction has it, for 28 and 48 pixels ours.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.attention import SelfAttention, check_size
from jaxgen.models.batch_norm import check_label
from jaxgen.models.residual import doubled, projected, widths_of
from jaxgen.models.sngan import batch_norm, discriminator_block, layout_of, residual_init, xavier_init
from jaxgen.models.spectral_norm import SpectralConv, SpectralDense, SpectralEnlargingConv


def attention_size(image_size: int, size: int | None = None) -> int:
    """The side of the map that attends to itself in both players; None: as published, 0: none.

    Raises:
      ValueError: for an image size without a network, or a map that one of the two does not have.
    """
    layout = layout_of(image_size)
    read = [image_size >> i for i in range(1, layout.num_halvings + 1)]
    return check_size(min(32, image_size // 2) if size is None else size, [s for s in read if s > layout.smallest])


class GeneratorBlock(nn.Module):
    """Doubles the size: norm, ReLU, enlarge, 3x3, norm, ReLU, 3x3, plus an enlarged 1x1 shortcut."""

    features: int
    num_classes: int = 0
    dtype: Any = None
    axis_name: str | None = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array:
        def norm(x):
            return batch_norm(x, label, self.num_classes, train=train, dtype=self.dtype, axis_name=self.axis_name)

        def conv(layer, *size, kernel_init=residual_init, name):
            layer = layer(self.features, *size, kernel_init=kernel_init, dtype=self.dtype, name=name)
            return functools.partial(layer, train=train)

        return doubled(
            x,
            conv(SpectralConv, 1, kernel_init=xavier_init, name="shortcut"),
            norm,
            conv(SpectralEnlargingConv, name="SpectralConv_0"),
            conv(SpectralConv, 3, 1, 1, name="SpectralConv_1"),
        )


class Generator(nn.Module):
    """[B, latent_dim] and labels [B] -> images [B, image_size, image_size, channels] in [-1, 1], float32.

    Raises:
      ValueError: for another image size, a map of attention that is not there, features that the widths do not divide,
        for a missing label (num_classes > 0) or a needless one (num_classes = 0).
    """

    image_size: int = 32
    channels: int = 3
    features: int | None = None  # of the first map; None: as published, 256 (28, 32), 512 (48) or 1024 (64, 128)
    num_classes: int = 0
    attention: int | None = None  # side of the map that attends to itself; None: as published, 0: none
    dtype: Any = None
    axis_name: str | None = None  # synchronises batch statistics in the per-device view

    @nn.compact
    def __call__(self, z: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array:
        layout, attending = layout_of(self.image_size), attention_size(self.image_size, self.attention)
        check_label(label, self.num_classes, len(z))
        features = self.features or layout.generator_features
        widths = widths_of(features, layout.generator)
        xavier = {"kernel_init": xavier_init, "dtype": self.dtype}
        x = SpectralDense(layout.smallest**2 * features, **xavier)(z, train=train)
        x = x.reshape(-1, layout.smallest, layout.smallest, features)
        for width in widths:
            x = GeneratorBlock(width, self.num_classes, self.dtype, self.axis_name)(x, label, train=train)
            if x.shape[1] == attending:
                x = SelfAttention(**xavier)(x, train=train)
        x = batch_norm(x, None, 0, train=train, dtype=self.dtype, axis_name=self.axis_name)  # no classes, as published
        x = nn.relu(x)
        x = SpectralConv(self.channels, 3, padding=1, **xavier)(x, train=train)
        return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
    """Images [B, H, W, C] in [-1, 1] and labels [B] -> logits [B], float32. The size is read off x.

    The logits are those of `residual.projected`.

    Raises:
      ValueError: for another image size or images that are not square, a map of attention that is not there, features
        that the widths do not divide, for a missing label (num_classes > 0) or a needless one (num_classes = 0).
    """

    features: int | None = None  # of the last map; None: as published, 128 (28, 32) or 1024 (48, 64, 128)
    num_classes: int = 0
    attention: int | None = None  # side of the map that attends to itself; None: as published, 0: none
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array:
        if x.shape[1] != x.shape[2]:
            raise ValueError(f"SAGAN needs square images, not {x.shape[1]}x{x.shape[2]}; crop or resize them")
        layout, attending = layout_of(x.shape[1]), attention_size(x.shape[1], self.attention)
        check_label(label, self.num_classes, len(x))
        widths = widths_of(self.features or layout.discriminator_features, layout.discriminator)
        for i, width in enumerate(widths):
            halve = i < layout.num_halvings
            x = discriminator_block(x.shape[-1], width, halve, i == 0, self.dtype)(x, train=train)
            if halve and x.shape[1] == attending:
                x = SelfAttention(kernel_init=xavier_init, dtype=self.dtype)(x, train=train)
        return projected(x, label, self.num_classes, kernel_init=xavier_init, train=train)
