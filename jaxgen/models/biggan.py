"""BigGAN and BigGAN-deep (Brock, Donahue and Simonyan 2019), for labelled images of 28, 32, 64, 128 or 256 pixels.

Residual networks like SAGAN's, wider, every kernel spectrally normalised. What is new in the generator: one embedding e
of the class, which all normalisations share, and a latent in chunks. The first chunk makes the first map, and the
block i sees chunk i: its two batch normalisations have the scale 1 + A [e, z_i] and the shift B [e, z_i], with A and B
spectrally normalised matrices without biases. The discriminator is SAGAN's with as many hidden channels as it returns.

BigGAN-deep's blocks are of four convolutions, 1x1, 3x3, 3x3, 1x1, the inner ones with a quarter of the channels, two
blocks at each size; a shortcut drops channels, or adds what a 1x1 convolution makes; and everything sees [e, z].

Kernels and the embedding are orthogonal at first, biases 0. epsilon is 1e-4 in batch and spectral normalisation, as the
paper has it against rounding. The numbers of parameters are those of the authors' code, in both frameworks.

The networks for 32 and 64 pixels are those of the first author's PyTorch code. That for 32: the same width at every
size, no attention, and with `embedding_dim=0` neither embedding nor chunks: each normalisation has a table of scales
and shifts. That for 64 is that for 128 without the generator's last block and the discriminator's last but one.

Deviations: tables start at exactly 1 and 0. At 64 pixels attention is at half the image's size in both players, as at
128. The network for 28 pixels is ours: that for 32 starting from 7x7, in two blocks, with attention.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.attention import SelfAttention, check_size
from jaxgen.models.batch_norm import ConditionalBatchNorm, check_label, rows_of
from jaxgen.models.resampling import enlarge, halve
from jaxgen.models.residual import DiscriminatorBlock, doubled, layout_for, projected
from jaxgen.models.spectral_norm import SpectralConv, SpectralDense, SpectralEnlargingConv

EPSILON = 1e-4  # of batch and spectral normalisation
BOTTLENECK = 4  # BigGAN-deep: a block's inner channels are a quarter
orthogonal_init = nn.initializers.orthogonal()


class Layout(NamedTuple):
    """The network for one image size. Widths are given as what `features` is multiplied by."""

    smallest: int  # the generator's first map is smallest x smallest
    generator: tuple[int, ...]  # the first map, then what each block returns; all of them double the size
    discriminator: tuple[int, ...]  # what each block returns; BigGAN-deep: the first convolution, then each pair
    num_halvings: int  # the discriminator's first blocks, or pairs, which halve the size
    attention: int  # side of the map that attends to itself, in both; 0: none


LAYOUTS = {
    28: Layout(7, (4, 4, 4), (4, 4, 4, 4), 2, 14),
    32: Layout(4, (4, 4, 4, 4), (4, 4, 4, 4), 2, 0),
    64: Layout(4, (16, 16, 8, 4, 2), (1, 2, 4, 8, 16), 4, 32),
    128: Layout(4, (16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5, 64),
    256: Layout(4, (16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6, 64),
}


def layout_of(image_size: int) -> Layout:
    """The network for square images of this size.

    Raises:
      ValueError: for a size without one.
    """
    return layout_for(LAYOUTS, image_size)


def attention_size(image_size: int, size: int | None = None) -> int:
    """The side of the map that attends to itself in both players; None: as published, 0: none.

    Raises:
      ValueError: for an image size without a network, or a map that one of the two does not have.
    """
    layout = layout_of(image_size)
    read = [image_size >> i for i in range(1, layout.num_halvings + 1)]
    return check_size(layout.attention if size is None else size, [s for s in read if s > layout.smallest])


class ToldBatchNorm(nn.Module):
    """Batch normalisation of x [B, H, W, C] whose scale and shift are linear in what it is told, c [B, D].

    y = (1 + A c) (x - mean) / sqrt(var + epsilon) + B c, with A and B over their largest singular values, and mean and
    var over all axes but the last, of the whole batch; in training those of the batch, otherwise the running averages.
    """

    kernel_init: Any = orthogonal_init
    dtype: Any = None  # of what is returned; statistics, scale and shift are float32
    axis_name: str | None = None  # synchronises batch statistics in the per-device view

    @nn.compact
    def __call__(self, x: jax.Array, told: jax.Array, *, train: bool) -> jax.Array:
        def linear(name):
            shared = {"use_bias": False, "kernel_init": self.kernel_init, "epsilon": EPSILON}
            y = SpectralDense(x.shape[-1], **shared, name=name)(told, train=train)
            return y.reshape(-1, *(1,) * (x.ndim - 2), x.shape[-1])

        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=EPSILON,
            dtype=jnp.promote_types(x.dtype, jnp.float32),  # rounded once, after scale and shift
            use_scale=False,
            use_bias=False,
            axis_name=self.axis_name,
        )
        y = norm(x) * (1 + linear("scale")) + linear("shift")
        return y.astype(self.dtype or y.dtype)


def _spectral(block):
    return {"kernel_init": block.kernel_init, "dtype": block.dtype, "epsilon": EPSILON}


def _normalise(block, x, told, train):
    shared = {"dtype": block.dtype, "axis_name": block.axis_name}
    if jnp.issubdtype(told.dtype, jnp.integer):
        norm = ConditionalBatchNorm(block.num_classes, epsilon=EPSILON, **shared)
    else:
        norm = ToldBatchNorm(block.kernel_init, **shared)
    return norm(x, told, train=train)


class GeneratorBlock(nn.Module):
    """Doubles the size: norm, ReLU, enlarge, 3x3, norm, ReLU, 3x3, plus an enlarged 1x1 shortcut.

    The normalisations are told vectors [B, D], or labels [B] of `num_classes`.
    """

    features: int
    num_classes: int
    kernel_init: Any = orthogonal_init
    dtype: Any = None
    axis_name: str | None = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array, told: jax.Array, *, train: bool) -> jax.Array:
        def conv(layer, *size, name):
            return functools.partial(layer(self.features, *size, **_spectral(self), name=name), train=train)

        return doubled(
            x,
            conv(SpectralConv, 1, name="shortcut"),
            lambda x: _normalise(self, x, told, train),
            conv(SpectralEnlargingConv, name="SpectralConv_0"),
            conv(SpectralConv, 3, 1, 1, name="SpectralConv_1"),
        )


class DeepGeneratorBlock(nn.Module):
    """BigGAN-deep's: four times norm, ReLU and a convolution: 1x1, 3x3, 3x3, 1x1, the first three with C / 4 channels.

    Where it doubles the size, maps are enlarged before the first 3x3 convolution. The shortcut is the first `features`
    channels. The normalisations are told vectors [B, D], or labels [B] of `num_classes`.
    """

    features: int
    num_classes: int
    enlarge: bool = False
    kernel_init: Any = orthogonal_init
    dtype: Any = None
    axis_name: str | None = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array, told: jax.Array, *, train: bool) -> jax.Array:
        hidden, spectral = max(1, x.shape[-1] // BOTTLENECK), _spectral(self)
        shortcut = x[..., : self.features]
        second = SpectralEnlargingConv if self.enlarge else SpectralConv
        convs: list[nn.Module] = [
            SpectralConv(hidden, 1, **spectral, name="SpectralConv_0"),
            second(hidden, 3, padding=1, **spectral, name="SpectralConv_1"),
            SpectralConv(hidden, 3, padding=1, **spectral, name="SpectralConv_2"),
            SpectralConv(self.features, 1, **spectral, name="SpectralConv_3"),
        ]
        for conv in convs:
            x = conv(nn.relu(_normalise(self, x, told, train)), train=train)
        return x + (enlarge(shortcut) if self.enlarge else shortcut)


class DeepDiscriminatorBlock(nn.Module):
    """BigGAN-deep's: four times ReLU and a convolution: 1x1, 3x3, 3x3, 1x1, the first three with features / 4 channels.

    Where it halves the size, a mean over 2x2 precedes the last convolution. The shortcut is the input, averaged too,
    and beside it what a 1x1 convolution makes of it, where there are more features than channels.
    """

    features: int
    halve: bool = False
    kernel_init: Any = orthogonal_init
    dtype: Any = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        hidden, spectral = max(1, self.features // BOTTLENECK), _spectral(self)
        shortcut, new = halve(x) if self.halve else x, self.features - x.shape[-1]
        if new > 0:
            added = SpectralConv(new, 1, **spectral, name="shortcut")(shortcut, train=train)
            shortcut = jnp.concatenate([shortcut.astype(added.dtype), added], axis=-1)
        x = SpectralConv(hidden, 1, **spectral, name="SpectralConv_0")(nn.relu(x), train=train)
        x = SpectralConv(hidden, 3, padding=1, **spectral, name="SpectralConv_1")(nn.relu(x), train=train)
        x = nn.relu(SpectralConv(hidden, 3, padding=1, **spectral, name="SpectralConv_2")(nn.relu(x), train=train))
        x = halve(x) if self.halve else x
        return SpectralConv(self.features, 1, **spectral, name="SpectralConv_3")(x, train=train) + shortcut


class Generator(nn.Module):
    """[B, latent_dim] and labels [B] -> images [B, image_size, image_size, channels] in [-1, 1], float32.

    Latents are standard normal. The number of chunks, one more than there are blocks, has to divide latent_dim; it does
    not matter for BigGAN-deep and where embedding_dim is 0, which have no chunks.

    Raises:
      ValueError: for another image size, a map of attention that is not there, latents that make no chunks, a label
        that is missing or of another shape.
    """

    image_size: int = 128
    channels: int = 3
    features: int = 96  # of the last map, where its layout says 1
    num_classes: int = 1000
    embedding_dim: int = 128  # 0: neither an embedding nor chunks, but tables
    deep: bool = False
    attention: int | None = None  # side of the map that attends to itself; None: as published, 0: none
    kernel_init: Any = orthogonal_init  # of the embedding, too
    dtype: Any = None
    axis_name: str | None = None  # synchronises batch statistics in the per-device view

    @nn.compact
    def __call__(self, z: jax.Array, label: jax.Array, *, train: bool) -> jax.Array:
        layout, attending = layout_of(self.image_size), attention_size(self.image_size, self.attention)
        check_label(label, self.num_classes, len(z))
        first, *widths = (self.features * times for times in layout.generator)
        spectral = _spectral(self)
        norms: dict[str, Any] = {"num_classes": self.num_classes, "axis_name": self.axis_name}
        inner: dict[str, Any] = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        start, *told = self.inputs(z, label, len(widths))
        x = SpectralDense(layout.smallest**2 * first, **spectral)(start, train=train)
        x = x.reshape(-1, layout.smallest, layout.smallest, first)
        for width, seen in zip(widths, told, strict=True):
            if self.deep:
                x = DeepGeneratorBlock(x.shape[-1], **norms, **inner)(x, seen, train=train)
                x = DeepGeneratorBlock(width, enlarge=True, **norms, **inner)(x, seen, train=train)
            else:
                x = GeneratorBlock(width, **norms, **inner)(x, seen, train=train)
            if x.shape[1] == attending:
                x = SelfAttention(**spectral)(x, train=train)
        norm = nn.BatchNorm(not train, momentum=0.9, epsilon=EPSILON, dtype=self.dtype, axis_name=self.axis_name)
        x = SpectralConv(self.channels, 3, padding=1, **spectral)(nn.relu(norm(x)), train=train)
        return jnp.tanh(x.astype(jnp.float32))

    def inputs(self, z: jax.Array, label: jax.Array, num_blocks: int) -> list[jax.Array]:
        """What the first map is made of, then what each block is told."""
        if self.embedding_dim == 0:
            return [z] + [jnp.asarray(label)] * num_blocks
        table = self.param("embedding", self.kernel_init, (self.num_classes, self.embedding_dim), jnp.float32)
        embedded = rows_of(table, label)
        if self.deep:
            return [jnp.concatenate([embedded, z], axis=-1)] * (num_blocks + 1)
        if z.shape[-1] % (num_blocks + 1):
            raise ValueError(
                f"BigGAN divides its latents into {num_blocks + 1} chunks for this image size: latent_dim must be a "
                f"multiple of that, not {z.shape[-1]}"
            )
        start, *chunks = jnp.split(z, num_blocks + 1, axis=-1)
        return [start] + [jnp.concatenate([embedded, chunk], axis=-1) for chunk in chunks]


class Discriminator(nn.Module):
    """Images [B, H, W, C] in [-1, 1] and labels [B] -> logits [B], float32. The size is read off x.

    The logits are those of `residual.projected`.

    Raises:
      ValueError: for another image size or images that are not square, a map of attention that is not there, a label
        that is missing or of another shape.
    """

    features: int = 96  # of the first map, where its layout says 1
    num_classes: int = 1000
    deep: bool = False
    wide: bool = True  # hidden maps of BigGAN's blocks: as wide as their output; otherwise as their input, as SNGAN's
    attention: int | None = None  # side of the map that attends to itself; None: as published, 0: none
    kernel_init: Any = orthogonal_init  # of the embedding, too
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array, *, train: bool) -> jax.Array:
        if x.shape[1] != x.shape[2]:
            raise ValueError(f"BigGAN needs square images, not {x.shape[1]}x{x.shape[2]}; crop or resize them")
        layout, attending = layout_of(x.shape[1]), attention_size(x.shape[1], self.attention)
        check_label(label, self.num_classes, len(x))
        widths = [self.features * times for times in layout.discriminator]
        spectral, inner = _spectral(self), {"kernel_init": self.kernel_init, "dtype": self.dtype}
        if self.deep:
            first, *widths = widths
            x = SpectralConv(first, 3, padding=1, **spectral)(x, train=train)
        for i, width in enumerate(widths):
            halves = i < layout.num_halvings
            if self.deep:
                x = DeepDiscriminatorBlock(width, halves, **inner)(x, train=train)
                x = DeepDiscriminatorBlock(width, **inner)(x, train=train)
            else:
                hidden = width if self.wide else x.shape[-1]
                x = DiscriminatorBlock(width, hidden, halves, i == 0, **spectral)(x, train=train)
            if halves and x.shape[1] == attending:
                x = SelfAttention(**spectral)(x, train=train)
        shared = {"kernel_init": self.kernel_init, "epsilon": EPSILON}
        return projected(x, label, self.num_classes, **shared, train=train)
