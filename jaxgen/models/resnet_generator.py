"""Residual networks from image to image (Johnson, Alahi and Fei-Fei 2016), as CycleGAN, CUT and pix2pixHD have them.

A 7x7 convolution, `halvings` 3x3 convolutions with strides of 2, residual blocks at the smallest size, transposed
convolutions back, a 7x7 convolution and tanh. Borders are reflected where sizes stay, and continued by zeros where they
change. A normalisation and ReLU follow each convolution but the last. Weights are drawn from N(0, 0.02^2).

* CycleGAN (Zhu et al. 2017): two halvings, nine blocks for 256 pixels, six for 128.
* CUT (Park et al. 2020): `blur`: convolutions keep the size; maps are halved by a filter 1 2 1, doubled by 1 3 3 1.
* pix2pixHD (Wang et al. 2018): four halvings. `Enhancer` joins a smaller network to the last map of such a one.
* DeblurGAN (Kupyn et al. 2018): `residual`: what is found is added to the image; and `dropout` within each block.

Dropout may stay at test time. There one key is one draw for all images of a batch, so that none depends on the others.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv, ConvTranspose
from jaxgen.models.normalisation import Norm, has_bias
from jaxgen.models.padding import pad
from jaxgen.models.patchgan import blur_and_halve, mean_of_nine

normal = nn.initializers.normal(0.02)
xavier = nn.initializers.variance_scaling(0.02**2, "fan_avg", "normal")  # CUT begins so


def blur_and_double(x: jax.Array) -> jax.Array:
    """Between pixels 3/4 of the nearer and 1/4 of the other, along both axes: [B, H, W, C] -> [B, 2 H, 2 W, C].

    Beyond the border is its last pixel. The filter 1 3 3 1 of Zhang 2019.
    """
    for axis in (1, 2):
        first, last = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, x.shape[axis] - 1))
        before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, x.shape[axis] - 1, axis=axis)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, x.shape[axis], axis=axis), last], axis)
        both = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = both.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    return x


class ResidualBlock(nn.Module):
    """x + norm(Conv(drop(relu(norm(Conv(x)))))), 3x3 convolutions with reflected borders: [B, H, W, C] -> the same."""

    norm: str = "instance"
    statistics: str = "image"
    kernel_init: Any = normal
    dtype: Any = None
    axis_name: str | None = None
    dropout: float = 0.0
    dropout_at_test: bool = True

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y, width = x, x.shape[-1]
        for last in (False, True):
            y = Conv(width, 3, use_bias=has_bias(self.norm), kernel_init=self.kernel_init, dtype=self.dtype)(pad(y, 1))
            y = Norm(self.norm, self.statistics, dtype=self.dtype, axis_name=self.axis_name)(y, train=train)
            y = y if last else nn.relu(y)
            if self.dropout and not last:
                still = not (train or self.dropout_at_test)
                # At test time one draw for all images.
                y = nn.Dropout(self.dropout, broadcast_dims=() if train else (0,), deterministic=still)(y)
        return x + y


class ResNetGenerator(nn.Module):
    """Images [B, H, W, C] -> images [B, H, W, channels] in [-1, 1], float32.

    Raises:
      ValueError: at trace time, for sides that cannot be halved so often or are too few, or channels that do not fit.
    """

    channels: int = 3  # of what comes out; 0: the last map [B, H, W, features] is what is returned
    features: int = 64  # channels of the first map, doubled at each halving
    halvings: int = 2
    blocks: int = 9
    norm: str = "instance"
    statistics: str = "image"
    blur: bool = False
    kernel_init: Any = normal
    dtype: Any = None
    axis_name: str | None = None
    dropout: float = 0.0  # after the first convolution of each block
    dropout_at_test: bool = True
    residual: bool = False  # clip(x + what is found, -1, 1) is returned

    @property
    def factor(self) -> int:
        """Of which sides of images are multiples."""
        return 2**self.halvings

    @property
    def draws_at_test(self) -> bool:
        """Whether what comes out depends on a key outside of training."""
        return self.dropout_at_test and self.dropout > 0 and self.blocks > 0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, blocks_seen: tuple[int, ...] = ()) -> Any:
        """Images; with `blocks_seen` what `maps` returns, and no more is computed than that takes."""
        if x.shape[1] % self.factor or x.shape[2] % self.factor:
            raise ValueError(
                f"a generator of {self.halvings} halvings takes sides that are multiples of {self.factor}, not "
                f"{x.shape[1]}x{x.shape[2]}; resize the data"
            )
        if self.residual and x.shape[-1] != self.channels:
            raise ValueError(f"what has {self.channels} channels is not added to images of {x.shape[-1]}")
        source = x.astype(jnp.float32)
        names = ("norm", "statistics", "kernel_init", "dtype", "axis_name", "dropout", "dropout_at_test")
        own: dict[str, Any] = {name: getattr(self, name) for name in names}
        shared = {"use_bias": has_bias(self.norm), "kernel_init": self.kernel_init, "dtype": self.dtype}

        def rectified(x):
            norm = Norm(self.norm, self.statistics, dtype=self.dtype, axis_name=self.axis_name)
            return nn.relu(norm(x, train=train))

        maps = [pad(x, 3)]
        x = rectified(Conv(self.features, 7, **shared)(maps[0]))
        for i in range(self.halvings):
            maps.append(Conv(self.features << (i + 1), 3, 1 if self.blur else 2, 1, **shared)(x))
            x = rectified(maps[-1])
            x = blur_and_halve(x) if self.blur else x
        for i in range(self.blocks):
            x = ResidualBlock(**own)(x, train=train)
            maps += [x] if i in blocks_seen else []
            if blocks_seen and i == max(blocks_seen):
                return maps
        for i in reversed(range(self.halvings)):
            if self.blur:
                x = rectified(Conv(self.features << i, 3, 1, 1, **shared)(blur_and_double(x)))
            else:
                x = rectified(ConvTranspose(self.features << i, 3, 2, 1, output_padding=1, **shared)(x))
        if not self.channels:
            return x
        x = Conv(self.channels, 7, kernel_init=self.kernel_init, dtype=self.dtype)(pad(x, 3))
        x = nn.tanh(x.astype(jnp.float32))
        return jnp.clip(source + x, -1.0, 1.0) if self.residual else x

    def maps(self, x: jax.Array, blocks_seen: tuple[int, ...] = (0, 4), *, train: bool = False) -> list[jax.Array]:
        """What CUT compares: the padded image, each halving's convolution, and what some of the blocks return.

        Args:
          x: images.
          blocks_seen: numbers of the blocks, from 0; the first and the fifth are published.
          train: as for images.
        """
        return self(x, train=train, blocks_seen=blocks_seen)


class Enhancer(nn.Module):
    """pix2pixHD's local enhancer: images [B, H, W, C] -> images [B, H, W, channels] in [-1, 1], float32.

    A `ResNetGenerator` of twice the features works at half the size, without its last convolution; what it makes is
    added to the first halved map of a network at the full size, which ends in `blocks` residual blocks, a doubling and
    a 7x7 convolution. Wang et al. 2018, section 3.2.

    Raises:
      ValueError: at trace time, as for `ResNetGenerator`.
    """

    channels: int = 3
    features: int = 32
    blocks: int = 3
    halvings: int = 4  # of the network at half the size
    blocks_at_half: int = 9
    norm: str = "instance"
    statistics: str = "image"
    dtype: Any = None
    axis_name: str | None = None

    draws_at_test = False

    @property
    def factor(self) -> int:
        """Of which sides of images are multiples."""
        return 2 ** (self.halvings + 1)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        names = ("norm", "statistics", "dtype", "axis_name")
        own: dict[str, Any] = {name: getattr(self, name) for name in names}
        shared = {"use_bias": has_bias(self.norm), "kernel_init": normal, "dtype": self.dtype}

        def rectified(x):
            norm = Norm(self.norm, self.statistics, dtype=self.dtype, axis_name=self.axis_name)
            return nn.relu(norm(x, train=train))

        at_half = ResNetGenerator(0, 2 * self.features, self.halvings, self.blocks_at_half, **own, name="global")
        coarse = at_half(mean_of_nine(x), train=train)
        x = rectified(Conv(self.features, 7, **shared)(pad(x, 3)))
        x = rectified(Conv(2 * self.features, 3, 2, 1, **shared)(x)) + coarse
        for _ in range(self.blocks):
            x = ResidualBlock(**own)(x, train=train)
        x = rectified(ConvTranspose(self.features, 3, 2, 1, output_padding=1, **shared)(x))
        x = Conv(self.channels, 7, kernel_init=normal, dtype=self.dtype)(pad(x, 3))
        return nn.tanh(x.astype(jnp.float32))
