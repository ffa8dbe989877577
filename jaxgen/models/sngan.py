"""The ResNet GAN of spectral normalisation, for square images of 28, 32, 48, 64 or 128 pixels, with or without classes.

Residual networks after Gulrajani et al. (2017) as in Miyato et al. (2018); with classes, conditional batch
normalisation in the generator and the projection discriminator of Miyato and Koyama (2018). Widths are those of the
common reproduction (mimicry; Lee and Town, 2020), and the numbers of parameters agree with it. Weights are Xavier
uniform, with gain sqrt(2) for the two convolutions of a residual branch and 1 for all others; biases are 0.

Blocks and logits are those of `residual`. A 3x3 convolution beside enlarging or halving is one of 4x4 taps with strides
of 2 (`resampling`).

Deviations. From the reproduction, where it departs from the paper's authors: maps are enlarged by repeating pixels
(there bilinearly); shortcuts see a block's input (there, by an activation in place, its rectified input); biases start
at 0, the class scales at exactly 1. From all: 28 pixels are ours, the network for 32 pixels with a generator that
starts from 7x7 and has two blocks.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.batch_norm import ConditionalBatchNorm, check_label
from jaxgen.models.convolution import Conv
from jaxgen.models.resampling import EnlargingConv
from jaxgen.models.residual import DiscriminatorBlock, doubled, layout_for, projected, summed, widths_of
from jaxgen.models.spectral_norm import SpectralDense
from jaxgen.network import Output

residual_init = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")  # Xavier uniform with gain sqrt(2)
xavier_init = nn.initializers.xavier_uniform()


class Layout(NamedTuple):
    """The published network for one image size. Widths are given as what `features` is divided by."""

    smallest: int  # the generator's first map is smallest x smallest x features
    generator_features: int
    generator: tuple[int, ...]  # a block each; all of them double the size
    discriminator_features: int
    discriminator: tuple[int, ...]  # a block each
    num_halvings: int  # the discriminator's first blocks, which halve the size


LAYOUTS = {
    28: Layout(7, 256, (1, 1), 128, (1, 1, 1, 1), 2),
    32: Layout(4, 256, (1, 1, 1), 128, (1, 1, 1, 1), 2),
    48: Layout(6, 512, (2, 4, 8), 1024, (16, 8, 4, 2, 1), 4),
    64: Layout(4, 1024, (2, 4, 8, 16), 1024, (16, 8, 4, 2, 1), 5),
    128: Layout(4, 1024, (1, 2, 4, 8, 16), 1024, (16, 8, 4, 2, 1, 1), 5),
}


def layout_of(image_size: int) -> Layout:
    """The network for square images of this size.

    Raises:
      ValueError: for a size without one.
    """
    return layout_for(LAYOUTS, image_size)


def batch_norm(
    x: jax.Array, label: jax.Array | None, num_classes: int, *, train: bool, dtype: Any, axis_name: str | None
) -> jax.Array:
    """Batch normalisation, conditional where there are classes, of the module in whose compact method it is called."""
    shared = {"momentum": 0.9, "epsilon": 1e-5, "dtype": dtype, "axis_name": axis_name}
    if num_classes == 0:
        return nn.BatchNorm(use_running_average=not train, **shared)(x)
    assert label is not None  # `check_label` has refused it
    return ConditionalBatchNorm(num_classes, **shared)(x, label, train=train)


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

        residual = {"kernel_init": residual_init, "dtype": self.dtype}
        return doubled(
            x,
            Conv(self.features, 1, kernel_init=xavier_init, dtype=self.dtype, name="shortcut"),
            norm,
            EnlargingConv(self.features, **residual, name="Conv_0"),
            Conv(self.features, 3, padding=1, **residual, name="Conv_1"),
        )


def discriminator_block(channels: int, features: int, halve: bool, first: bool, dtype: Any) -> DiscriminatorBlock:
    """SNGAN's: hidden maps are as wide as the input, those of the first block as the output."""
    hidden = features if first else channels
    return DiscriminatorBlock(features, hidden, halve, first, residual_init, xavier_init, dtype=dtype)


class Generator(nn.Module):
    """[B, latent_dim] and labels [B] -> images [B, image_size, image_size, channels] in [-1, 1], float32.

    Raises:
      ValueError: for another image size, for features that the widths do not divide, for a missing label
        (num_classes > 0) or a needless one (num_classes = 0).
    """

    image_size: int = 32
    channels: int = 3
    features: int | None = None  # of the first map; None: as published, 256 (28, 32), 512 (48) or 1024 (64, 128)
    num_classes: int = 0
    dtype: Any = None
    axis_name: str | None = None  # synchronises batch statistics in the per-device view

    @nn.compact
    def __call__(self, z: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array:
        layout = layout_of(self.image_size)
        check_label(label, self.num_classes, len(z))
        features = self.features or layout.generator_features
        widths = widths_of(features, layout.generator)
        x = nn.Dense(layout.smallest**2 * features, kernel_init=xavier_init, dtype=self.dtype)(z)
        x = x.reshape(-1, layout.smallest, layout.smallest, features)
        for width in widths:
            x = GeneratorBlock(width, self.num_classes, self.dtype, self.axis_name)(x, label, train=train)
        x = batch_norm(x, None, 0, train=train, dtype=self.dtype, axis_name=self.axis_name)  # no classes, as published
        x = nn.relu(x)
        x = Conv(self.channels, 3, padding=1, kernel_init=xavier_init, dtype=self.dtype)(x)
        return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
    """Images [B, H, W, C] in [-1, 1] and labels [B] -> logits [B], float32. The size is read off x.

    The logits are those of `residual.projected`. Every kernel is spectrally normalised. With a head for turns it
    returns `network.Output(logits, [B, num_turns])`: logits of how far an image was turned (Chen et al. 2019).

    Raises:
      ValueError: for another image size or images that are not square, for features that the widths do not divide, for
        a missing label (num_classes > 0) or a needless one (num_classes = 0).
    """

    features: int | None = None  # of the last map; None: as published, 128 (28, 32) or 1024 (48, 64, 128)
    num_classes: int = 0
    num_turns: int = 0  # that the head tells apart: 4 in SSGAN; 0: no head
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array | Output:
        if x.shape[1] != x.shape[2]:
            raise ValueError(f"SNGAN needs square images, not {x.shape[1]}x{x.shape[2]}; crop or resize them")
        layout = layout_of(x.shape[1])
        check_label(label, self.num_classes, len(x))
        widths = widths_of(self.features or layout.discriminator_features, layout.discriminator)
        for i, width in enumerate(widths):
            block = discriminator_block(x.shape[-1], width, i < layout.num_halvings, i == 0, self.dtype)
            x = block(x, train=train)
        logits = projected(x, label, self.num_classes, kernel_init=xavier_init, train=train)
        if not self.num_turns:
            return logits
        return Output(logits, SpectralDense(self.num_turns, kernel_init=xavier_init)(summed(x), train=train))
