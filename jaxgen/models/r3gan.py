"""R3GAN's players (Huang, Gokaslan, Kuleshov and Tompkin 2024, configuration E): residual networks, not normalised.

Either player is a row of stages, one for each size of map, from 4x4 pixels to the image's, doubling. A stage is a few
blocks of the same width. A block widens its map by a 1x1 convolution, looks around by a 3x3 convolution in groups,
narrows by a 1x1 convolution, and adds its input. A bias and a leaky ReLU (slope 0.2) follow the first two; no other
layer has a bias, and nothing follows a sum.

Between stages maps are enlarged, or halved, by bilinear interpolation (taps 1, 3, 3, 1, zeros beyond the border), and a
1x1 convolution changes the width where it changes; in the generator it comes first, which costs less and is the same.
The generator's first map is a learned 4x4 picture for each channel, times a linear function of the latent; the
discriminator's last one is multiplied by such pictures and summed. Images come from the last map, and go into the first
one, through a 1x1 convolution.

A label is embedded: in the generator beside the latent, as many numbers as that has; in the discriminator the logit is
<e_label, h> instead of <w, h>.

At first all kernels are normal with variance 1 / fan-in, times leaky ReLU's gain 2 / 1.04 and (number of blocks)^(-1/2)
in a block, where the last one is 0: every block returns its input, and either player is linear (after fix-up: Zhang,
Dauphin and Ma 2019).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models import fir
from jaxgen.models.batch_norm import check_label, rows_of
from jaxgen.models.convolution import Conv

SMALLEST = 4  # the first stage's maps are 4x4
SLOPE = 0.2  # of leaky ReLU below 0
unit_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def image_size_of(widths: tuple[int, ...]) -> int:
    """The side of the images of a network with so many stages."""
    return SMALLEST << (len(widths) - 1)


class Block(nn.Module):
    """x + Conv1x1(f(Conv3x3(f(Conv1x1(x))))), f(y) = leaky_relu(y + bias): [B, H, W, C] -> [B, H, W, C].

    Raises:
      ValueError: at trace time, for groups that do not divide the inner channels.
    """

    expansion: int = 2  # inner channels for each of x
    group_width: int = 16  # inner channels that a group sees
    num_blocks: int = 1  # of the network: its first gains are divided by the fourth root
    dtype: Any = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inner = self.expansion * x.shape[-1]
        if inner % self.group_width:
            raise ValueError(
                f"a block of {x.shape[-1]} channels has {inner} inner ones, which groups of {self.group_width} "
                "(group_width) do not divide"
            )
        variance = 2 / (1 + SLOPE**2) * self.num_blocks**-0.5
        kernel_init = nn.initializers.variance_scaling(variance, "fan_in", "normal")
        groups = inner // self.group_width
        y = Conv(inner, 1, kernel_init=kernel_init, dtype=self.dtype)(x)
        y = nn.leaky_relu(y, SLOPE)
        y = Conv(inner, 3, padding=1, groups=groups, kernel_init=kernel_init, dtype=self.dtype)(y)
        y = nn.leaky_relu(y, SLOPE)
        zeros = nn.initializers.zeros
        return x + Conv(x.shape[-1], 1, use_bias=False, kernel_init=zeros, dtype=self.dtype)(y)


class WeightedSum(Conv):
    """A convolution of single channels that is as large as the map: [B, H, W, C] -> [B, 1, 1, C]."""

    def operation(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Products and a sum: on CPU a convolution in as many groups as channels is slow."""
        return jnp.sum(x * kernel[:, :, 0], (1, 2), keepdims=True)


def _block_settings(player):
    num_blocks = player.blocks * len(player.widths)
    return {"group_width": player.group_width, "num_blocks": num_blocks, "dtype": player.dtype}


def _embedded(label, num_classes, features, variance):
    """A learned vector for each label; a dense layer, as `network.apply_to_each` needs. NaN where there is no such."""
    kernel_init = nn.initializers.normal(variance**0.5)
    one_hot = rows_of(jnp.eye(num_classes), label)
    return nn.Dense(features, use_bias=False, kernel_init=kernel_init, name="embedding")(one_hot)


class Generator(nn.Module):
    """[B, latent_dim] -> images [B, H, H, channels], float32, H = 4 * 2^(stages - 1); with classes, of labels [B].

    In training images are not bounded, as in the paper; otherwise they are clipped to [-1, 1].

    Raises:
      ValueError: at trace time, for groups that do not divide a stage's channels; for a label that is missing, of
        another shape, or not expected.
    """

    widths: tuple[int, ...] = (768,) * 4  # channels of each stage, from 4x4 pixels up
    channels: int = 3
    num_classes: int = 0  # 0: it is told no label
    blocks: int = 2  # in each stage
    group_width: int = 16
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array:
        check_label(label, self.num_classes, z.shape[0])
        shared = {"kernel_init": unit_init, "use_bias": False, "dtype": self.dtype}
        if self.num_classes:
            z = jnp.concatenate([z, _embedded(label, self.num_classes, z.shape[-1], 1 / self.num_classes)], axis=-1)
        first, *_ = self.widths
        inner = _block_settings(self)
        weights = nn.Dense(first, **shared)(z)
        basis = self.param("basis", nn.initializers.normal(1.0), (SMALLEST, SMALLEST, first), jnp.float32)
        x = weights[:, None, None] * basis.astype(weights.dtype)
        for stage, width in enumerate(self.widths):
            if width != x.shape[-1]:
                x = Conv(width, 1, **shared)(x)
            if stage:
                x = fir.upsample(x)
            for _ in range(self.blocks):
                x = Block(**inner)(x)
        x = Conv(self.channels, 1, **shared)(x).astype(jnp.float32)
        return x if train else jnp.clip(x, -1.0, 1.0)


class Discriminator(nn.Module):
    """Images [B, H, H, C] in [-1, 1] -> logits [B], float32; with classes, beside labels [B].

    Raises:
      ValueError: at trace time, for images of another size than the stages are for; and as the generator.
    """

    widths: tuple[int, ...] = (768,) * 4  # channels of each stage, from 4x4 pixels up
    num_classes: int = 0  # 0: it is told no label
    blocks: int = 2  # in each stage
    group_width: int = 16
    dtype: Any = None

    images_are_independent = True  # no image affects another's logit

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array:
        check_label(label, self.num_classes, x.shape[0])
        size = image_size_of(self.widths)
        if x.shape[1:3] != (size, size):
            raise ValueError(
                f"R3GAN with {len(self.widths)} widths is for images of {size}x{size} pixels, not "
                f"{x.shape[1]}x{x.shape[2]}: give a width for each size of map from 4x4 up, or resize the data"
            )
        shared = {"kernel_init": unit_init, "use_bias": False, "dtype": self.dtype}
        inner = _block_settings(self)
        last, *narrower = reversed(self.widths)
        x = Conv(last, 1, **shared)(x)
        for width in (*narrower, None):
            for _ in range(self.blocks):
                x = Block(**inner)(x)
            if width is not None:
                x = fir.downsample(x)
                x = Conv(width, 1, **shared)(x) if width != x.shape[-1] else x
        x = WeightedSum(x.shape[-1], SMALLEST, groups=x.shape[-1], **shared)(x)[:, 0, 0]
        if not self.num_classes:
            return nn.Dense(1, **shared)(x)[:, 0].astype(jnp.float32)
        h = nn.Dense(x.shape[-1], **shared)(x).astype(jnp.float32)
        scale = 1 / (self.num_classes * h.shape[-1])
        return jnp.sum(h * _embedded(label, self.num_classes, h.shape[-1], scale), axis=-1)
