"""Discriminators that judge patches of an image, each by itself (Isola, Zhu, Zhou and Efros 2017).

A logit of `PatchDiscriminator` sees 16, 34, 70, 142 or 286 pixels with 1 to 5 layers that halve: 4x4 convolutions,
leaky ReLU 0.2, a normalisation in all layers but the first and the last, weights from N(0, 0.02^2). `MultiScale` is
several of them at halved sizes, which also return their maps (Wang et al. 2018). `PixelDiscriminator` judges each pixel
for itself. With `blur` a map is convolved first, then filtered by 1 2 1 and halved, as in CUT (Park et al. 2020): with
3 layers a logit then sees 84 pixels.

All can be told an image beside the one that they judge, such as the source, with which they judge the pair.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models import fir
from jaxgen.models.convolution import Conv
from jaxgen.models.normalisation import Norm, has_bias
from jaxgen.models.padding import pad
from jaxgen.network import Output

normal = nn.initializers.normal(0.02)


def beside(x: jax.Array, told: jax.Array | None) -> jax.Array:
    """Images with what is told beside them as further channels: the source first, as published.

    Raises:
      ValueError: for another height or width.
    """
    if told is None:
        return x
    if told.shape[:3] != x.shape[:3]:
        raise ValueError(
            f"an image of {x.shape[1]}x{x.shape[2]} pixels is judged beside one of {told.shape[1]}x{told.shape[2]}: "
            "they must be of one size"
        )
    return jnp.concatenate([told.astype(x.dtype), x], axis=-1)


def blur_and_halve(x: jax.Array) -> jax.Array:
    """Every second pixel of the image filtered by 1 2 1: [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C].

    The border is reflected. Zhang 2019.
    """
    return fir.upfirdn(pad(x, 1, "reflect"), (0.25, 0.5, 0.25), down=2)


def mean_of_nine(x: jax.Array) -> jax.Array:
    """Every second mean of 3x3 pixels, or of those of them that are there: [B, H, W, C] -> [B, ceil(H / 2), ..., C]."""
    count = fir.upfirdn(jnp.ones((1, *x.shape[1:3], 1), x.dtype), (1, 1, 1), down=2, padding=(1, 1))
    return fir.upfirdn(x, (1, 1, 1), down=2, padding=(1, 1)) / count


class PatchDiscriminator(nn.Module):
    """Images [B, H, W, C], and what is told beside them -> logits of patches [B, h, w], float32.

    256 pixels give 30x30 logits. With `maps` it returns `network.Output(logits, the maps of all layers but the last)`.

    Raises:
      ValueError: at trace time, for images that are too small.
    """

    features: int = 64  # channels of the first layer, doubled by each up to eight times as many
    num_layers: int = 3  # that halve
    norm: str = "batch"
    statistics: str = "image"
    padding: int = 1
    blur: bool = False
    maps: bool = False
    kernel_init: Any = normal
    dtype: Any = None
    axis_name: str | None = None
    use_bias: bool | None = None  # beside a normalisation, too; None: where that brings no shift of its own

    @nn.compact
    def __call__(self, x: jax.Array, told: jax.Array | None = None, *, train: bool) -> jax.Array | Output:
        biased = has_bias(self.norm) if self.use_bias is None else self.use_bias
        smallest = self._least()
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"a discriminator of patches that halves sides {self.num_layers} times needs at least {smallest} "
                f"pixels, not {x.shape[1]}x{x.shape[2]}; give fewer layers"
            )
        x, found = beside(x, told), []
        for i in range(self.num_layers + 1):
            width, halves = self.features * min(2**i, 8), i < self.num_layers
            x = Conv(
                width,
                4,
                2 if halves and not self.blur else 1,
                self.padding,
                use_bias=i == 0 or biased,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
            )(x)
            if i:
                x = Norm(self.norm, self.statistics, dtype=self.dtype, axis_name=self.axis_name)(x, train=train)
            x = nn.leaky_relu(x, 0.2)
            found.append(x)
            x = blur_and_halve(x) if halves and self.blur else x
        x = Conv(1, 4, 1, self.padding, kernel_init=self.kernel_init, dtype=self.dtype)(x)
        logits = x[..., 0].astype(jnp.float32)
        return Output(logits, [m.astype(jnp.float32) for m in found]) if self.maps else logits

    def _least(self):
        """The smallest side of an image of which a logit is left."""
        return next(side for side in range(2, 4096) if self._left(side) >= 1)

    def _left(self, side):
        for _ in range(self.num_layers):
            convolved = side + 2 * self.padding - 3  # without strides
            if convolved < 1 + self.blur:  # two pixels at least can be reflected
                return 0
            side = (convolved + 1) // 2
        return side + 4 * self.padding - 6


class PixelDiscriminator(nn.Module):
    """Images [B, H, W, C], and what is told beside them -> a logit for each pixel [B, H, W], float32."""

    features: int = 64
    norm: str = "batch"
    statistics: str = "image"
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, told: jax.Array | None = None, *, train: bool) -> jax.Array:
        shared: dict[str, Any] = {"kernel_init": normal, "dtype": self.dtype}
        x = nn.leaky_relu(Conv(self.features, 1, **shared)(beside(x, told)), 0.2)
        x = Conv(2 * self.features, 1, use_bias=has_bias(self.norm), **shared)(x)
        x = Norm(self.norm, self.statistics, dtype=self.dtype, axis_name=self.axis_name)(x, train=train)
        x = Conv(1, 1, use_bias=has_bias(self.norm), **shared)(nn.leaky_relu(x, 0.2))
        return x[..., 0].astype(jnp.float32)


class MultiScale(nn.Module):
    """Several `PatchDiscriminator`s, each of the image at half the size of the one before.

    Returns `network.Output([logits of each scale], [maps of each scale])`, the full size first. Wang et al. 2018, with
    a padding of 2.
    """

    features: int = 64
    num_layers: int = 3
    num_scales: int = 2
    norm: str = "instance"
    statistics: str = "image"
    padding: int = 2
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, told: jax.Array | None = None, *, train: bool) -> Output:
        x, logits, maps = beside(x, told), [], []
        for i in range(self.num_scales):
            judge = PatchDiscriminator(
                self.features,
                self.num_layers,
                self.norm,
                self.statistics,
                padding=self.padding,
                maps=True,
                dtype=self.dtype,
                axis_name=self.axis_name,
                name=f"scale_{i}",
            )
            found: Any = judge(x, train=train)
            logits.append(found.value)
            maps.append(found.aux)
            x = mean_of_nine(x) if i + 1 < self.num_scales else x
        return Output(logits, maps)
