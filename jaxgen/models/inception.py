"""The Inception v3 of the FID: the network of TensorFlow's `inception-2015-12-05`, and the resizing in front of it.

Names and shapes of the layers are those of torchvision's Inception v3, as in the PyTorch port of these weights; the
network is another one. It differs from the one that classifies ImageNet in torchvision:

* average pools in blocks A, C and E divide by the pixels there are, 4 in a corner, and not always by 9;
* the pool in the last block, Mixed_7c, takes the maximum;
* there are 1,008 logits (1,000 classes, eight never used) and no auxiliary classifier.

It only infers: batch normalisation uses the stored statistics.

Source: Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision"; Heusel et al. 2017, for its
use.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.models.convolution import Conv

IMAGE_SIZE = 299
NUM_FEATURES = 2048
NUM_LOGITS = 1008
SMALLEST_IMAGE = 75  # leaves a map of one pixel


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation by stored statistics, ReLU. [B, H, W, C] -> [B, H', W', width]."""

    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = False  # padded to keep the size; otherwise no padding
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding = [n // 2 if self.same else 0 for n in self.kernel]
        # GPUs and TPUs otherwise round the factors of float32 products to 10 bits or fewer
        with jax.default_matmul_precision("highest"):
            x = Conv(self.width, self.kernel, self.stride, padding, use_bias=False, dtype=self.dtype, name="conv")(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, dtype=self.dtype, name="bn")(x))


def average_pool(x: jax.Array) -> jax.Array:
    """The mean of each pixel and those neighbours, of eight, that are inside of the map. [B, H, W, C] -> the same."""
    # The sum in float32: nine bfloat16 numbers would lose another bit or two.
    total = nn.avg_pool(x.astype(jnp.float32), (3, 3), padding="SAME", count_include_pad=False)
    return total.astype(x.dtype)


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum of each pixel and its neighbours. [B, H, W, C] -> the same."""
    return nn.max_pool(x, (3, 3), padding="SAME")


def halving_pool(x: jax.Array) -> jax.Array:
    """Maxima of 3x3 pixels at every second place, no padding: n -> floor((n - 1) / 2) rows."""
    return nn.max_pool(x, (3, 3), strides=(2, 2))


class BlockA(nn.Module):
    """Mixed_5b, 5c, 5d: 224 + pool_width channels."""

    pool_width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = functools.partial(ConvNorm, dtype=self.dtype)
        one = conv(64, name="branch1x1")(x)
        five = conv(48, name="branch5x5_1")(x)
        five = conv(64, (5, 5), same=True, name="branch5x5_2")(five)
        three = conv(64, name="branch3x3dbl_1")(x)
        three = conv(96, (3, 3), same=True, name="branch3x3dbl_2")(three)
        three = conv(96, (3, 3), same=True, name="branch3x3dbl_3")(three)
        pool = conv(self.pool_width, name="branch_pool")(average_pool(x))
        return jnp.concatenate([one, five, three, pool], axis=-1)


class BlockB(nn.Module):
    """Mixed_6a: 480 more channels on half the size."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = functools.partial(ConvNorm, dtype=self.dtype)
        single = conv(384, (3, 3), stride=2, name="branch3x3")(x)
        double = conv(64, name="branch3x3dbl_1")(x)
        double = conv(96, (3, 3), same=True, name="branch3x3dbl_2")(double)
        double = conv(96, (3, 3), stride=2, name="branch3x3dbl_3")(double)
        return jnp.concatenate([single, double, halving_pool(x)], axis=-1)


class BlockC(nn.Module):
    """Mixed_6b to 6e: 768 channels, by kernels of 1x7 and 7x1 with `width` channels between them."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = functools.partial(ConvNorm, same=True, dtype=self.dtype)
        one = conv(192, name="branch1x1")(x)
        seven = conv(self.width, name="branch7x7_1")(x)
        seven = conv(self.width, (1, 7), name="branch7x7_2")(seven)
        seven = conv(192, (7, 1), name="branch7x7_3")(seven)
        double = conv(self.width, name="branch7x7dbl_1")(x)
        double = conv(self.width, (7, 1), name="branch7x7dbl_2")(double)
        double = conv(self.width, (1, 7), name="branch7x7dbl_3")(double)
        double = conv(self.width, (7, 1), name="branch7x7dbl_4")(double)
        double = conv(192, (1, 7), name="branch7x7dbl_5")(double)
        pool = conv(192, name="branch_pool")(average_pool(x))
        return jnp.concatenate([one, seven, double, pool], axis=-1)


class BlockD(nn.Module):
    """Mixed_7a: 512 more channels on half the size."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = functools.partial(ConvNorm, dtype=self.dtype)
        three = conv(192, name="branch3x3_1")(x)
        three = conv(320, (3, 3), stride=2, name="branch3x3_2")(three)
        seven = conv(192, name="branch7x7x3_1")(x)
        seven = conv(192, (1, 7), same=True, name="branch7x7x3_2")(seven)
        seven = conv(192, (7, 1), same=True, name="branch7x7x3_3")(seven)
        seven = conv(192, (3, 3), stride=2, name="branch7x7x3_4")(seven)
        return jnp.concatenate([three, seven, halving_pool(x)], axis=-1)


class BlockE(nn.Module):
    """Mixed_7b (pool=average_pool) and 7c (pool=max_pool): 2,048 channels."""

    pool: Callable[[jax.Array], jax.Array]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = functools.partial(ConvNorm, same=True, dtype=self.dtype)
        one = conv(320, name="branch1x1")(x)
        three = conv(384, name="branch3x3_1")(x)
        double = conv(448, name="branch3x3dbl_1")(x)
        double = conv(384, (3, 3), name="branch3x3dbl_2")(double)
        parts = [
            one,
            conv(384, (1, 3), name="branch3x3_2a")(three),
            conv(384, (3, 1), name="branch3x3_2b")(three),
            conv(384, (1, 3), name="branch3x3dbl_3a")(double),
            conv(384, (3, 1), name="branch3x3dbl_3b")(double),
            conv(192, name="branch_pool")(self.pool(x)),
        ]
        return jnp.concatenate(parts, axis=-1)


class InceptionV3(nn.Module):
    """Images [B, H, W, 3] as `preprocess` makes them -> (features [B, 2048], logits [B, 1008]), both float32.

    Attributes:
      logits_bias: adds the last layer's bias. The Inception Score of Salimans et al. was computed from logits without
        it, and still is by most code: theirs multiplied by the matrix alone. Features do not depend on it.
      dtype: of the convolutions; None is float32. jnp.bfloat16 is faster on accelerators; with random weights it
        changed features by 0.5 %. Say so beside such numbers.
    """

    logits_bias: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        if x.ndim != 4 or x.shape[-1] != 3 or min(x.shape[1:3]) < SMALLEST_IMAGE:
            raise ValueError(
                f"this network reads images [B, H, W, 3] of at least {SMALLEST_IMAGE}x{SMALLEST_IMAGE} pixels "
                f"({IMAGE_SIZE}x{IMAGE_SIZE} for an FID), not {list(x.shape)}; `preprocess` makes them"
            )
        conv = functools.partial(ConvNorm, dtype=self.dtype)
        x = conv(32, (3, 3), stride=2, name="Conv2d_1a_3x3")(x)
        x = conv(32, (3, 3), name="Conv2d_2a_3x3")(x)
        x = conv(64, (3, 3), same=True, name="Conv2d_2b_3x3")(x)
        x = halving_pool(x)
        x = conv(80, name="Conv2d_3b_1x1")(x)
        x = conv(192, (3, 3), name="Conv2d_4a_3x3")(x)
        x = halving_pool(x)
        for name, pool_width in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = BlockA(pool_width, dtype=self.dtype, name=name)(x)
        x = BlockB(dtype=self.dtype, name="Mixed_6a")(x)
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = BlockC(width, dtype=self.dtype, name=name)(x)
        x = BlockD(dtype=self.dtype, name="Mixed_7a")(x)
        x = BlockE(average_pool, dtype=self.dtype, name="Mixed_7b")(x)
        x = BlockE(max_pool, dtype=self.dtype, name="Mixed_7c")(x)
        features = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        last = nn.Dense(NUM_LOGITS, use_bias=self.logits_bias, precision=jax.lax.Precision.HIGHEST, name="fc")
        return features, last(features)


def tf1_bilinear(size_in: int, size_out: int) -> np.ndarray:
    """TensorFlow 1's bilinear resizing along one axis, with neither aligned corners nor half-pixel centres.

    Pixel i of the output lies at s = i size_in / size_out of the input (its corner, not its centre), between floor(s)
    and the one behind it, the last one at most. There is no filter against aliasing: images above twice the size lose
    every pixel that no s is near to.

    Args:
      size_in: pixels of the input.
      size_out: pixels of the output.

    Returns:
      float64 [size_out, size_in]; each row sums to 1 and has two entries at most.

    >>> tf1_bilinear(2, 4)
    array([[1. , 0. ],
           [0.5, 0.5],
           [0. , 1. ],
           [0. , 1. ]])
    """
    matrix = np.zeros((size_out, size_in))
    # In float32, as there: where s is a whole number, rounding decides which two pixels are taken.
    place = np.arange(size_out, dtype=np.float32) * (np.float32(size_in) / np.float32(size_out))
    low = np.minimum(np.floor(place).astype(int), size_in - 1)
    share = (place - np.floor(place)).astype(np.float64)
    rows = np.arange(size_out)
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, np.minimum(low + 1, size_in - 1)), share)
    return matrix


def _antialiased(size_in: int, size_out: int, kernel: Callable[[np.ndarray], np.ndarray], support: float) -> np.ndarray:
    scale = size_in / size_out
    width = max(scale, 1.0)  # the kernel widens with the scale where images shrink, and never narrows
    centre = (np.arange(size_out)[:, None] + 0.5) * scale
    # Pixels beyond the ends are left out and the rest is normalised. Pillow takes whole pixels from the rounded ends of
    # the support; a pixel that this drops has the weight 0, or nearly.
    first = np.maximum(np.floor(centre - support * width + 0.5), 0)
    end = np.minimum(np.floor(centre + support * width + 0.5), size_in)
    pixel = np.arange(size_in)[None, :]
    weights = np.where((pixel >= first) & (pixel < end), kernel((pixel + 0.5 - centre) / width), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def antialiased_bilinear(size_in: int, size_out: int) -> np.ndarray:
    """Resizing along one axis by a triangle that is as wide as two pixels of the coarser side: Pillow's BILINEAR.

    Args:
      size_in: pixels of the input.
      size_out: pixels of the output.

    Returns:
      float64 [size_out, size_in]; each row sums to 1.
    """
    return _antialiased(size_in, size_out, lambda t: np.maximum(1 - np.abs(t), 0.0), 1.0)


def antialiased_bicubic(size_in: int, size_out: int) -> np.ndarray:
    """Resizing along one axis by Keys's cubic (a = -1/2), four pixels of the coarser side wide: Pillow's BICUBIC.

    Args:
      size_in: pixels of the input.
      size_out: pixels of the output.

    Returns:
      float64 [size_out, size_in]; each row sums to 1. Some entries are negative: edges overshoot.

    Source: Keys 1981, "Cubic convolution interpolation for digital image processing"; Parmar et al. 2022, "On aliased
    resizing and surprising subtleties in GAN evaluation", for its use in front of this network.
    """

    def cubic(t):
        t = np.abs(t)
        inner, outer = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
        return np.where(t < 1, inner, np.where(t < 2, outer, 0.0))

    return _antialiased(size_in, size_out, cubic, 2.0)


Rule = Callable[[int, int], np.ndarray]


def resize(images: jax.Array, height: int, width: int, rule: Rule) -> jax.Array:
    """Each channel as rows X columns^T, with the matrices of the rule: one kernel for every linear way to resize.

    Args:
      images: [B, H, W, C] floats.
      height: of the result; the sides are stretched separately.
      width: of the result.
      rule: `tf1_bilinear`, `antialiased_bilinear`, `antialiased_bicubic`, or any (size_in, size_out) -> [out, in].

    Returns:
      [B, height, width, C] in the type of `images`.
    """
    highest = jax.lax.Precision.HIGHEST
    if images.shape[2] != width:
        columns = jnp.asarray(rule(images.shape[2], width), images.dtype)
        images = jnp.einsum("pw,bhwc->bhpc", columns, images, precision=highest)
    if images.shape[1] != height:
        rows = jnp.asarray(rule(images.shape[1], height), images.dtype)
        images = jnp.einsum("oh,bhpc->bopc", rows, images, precision=highest)
    return images


def preprocess(images: jax.Array, *, rule: Rule = tf1_bilinear, quantise: bool = True) -> jax.Array:
    """Images in [-1, 1] as the network wants them: 0..255, resized to 299x299, then (u - 128) / 128.

    Not x itself: u = 127.5 (x + 1) is divided by 128 around 128 in the TensorFlow graph, so that white is 127/128.
    (The PyTorch port of the FID maps to [-1, 1] instead.)

    Args:
      images: [B, H, W, C] floats in [-1, 1], C = 1 (repeated three times) or 3. Other values are clipped; NaN stays.
      rule: how to resize, see `resize`. Overshoot of the bicubic rule is clipped to 0..255.
      quantise: rounds to the 256 levels of a stored image first, so that a set scores the same from memory and from
        PNG files.

    Returns:
      float32 [B, 299, 299, 3] in [-1, 127/128].

    Raises:
      TypeError: for integers: stored pixels belong to [-1, 1] first.
      ValueError: for another shape or number of channels.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"expected floats in [-1, 1], not {images.dtype}; bring stored pixels there by x / 127.5 - 1")
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:]:
        raise ValueError(
            f"expected images [B, H, W, C] with 1 (grey) or 3 (RGB) channels, not {list(images.shape)}; "
            "drop an alpha channel, or blend it with a background, first"
        )
    levels = jnp.clip((images.astype(jnp.float32) + 1) * 127.5, 0, 255)
    if quantise:
        levels = jnp.round(levels)
    levels = jnp.clip(resize(levels, IMAGE_SIZE, IMAGE_SIZE, rule), 0, 255)
    if levels.shape[-1] == 1:
        levels = jnp.repeat(levels, 3, axis=-1)
    return (levels - 128) / 128
