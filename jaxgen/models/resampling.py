"""Enlarging and halving images by two, and 3x3 convolutions joined with them.

A 3x3 convolution before a mean over 2x2 pixels, or after each pixel was repeated 2x2 times, is one convolution of 4x4
taps with strides of 2: exactly, borders included, with 2.25 times fewer multiplications, and the larger map is never
stored. The parameters stay the 3x3 kernel, whose four shifted copies add up to the 4x4 one.
"""

import jax
import jax.numpy as jnp

from jaxgen.models.convolution import Conv, Geometry, convolve, transposed


def enlarge(x: jax.Array, factor: int = 2) -> jax.Array:
    """Each pixel f * f times, f = factor: [B, H, W, C] -> [B, f H, f W, C]."""
    b, h, w, c = x.shape
    repeated = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, factor, w, factor, c))
    return repeated.reshape(b, factor * h, factor * w, c)


def halve(x: jax.Array) -> jax.Array:
    """The mean of 2x2 pixels: [B, H, W, C] -> [B, H / 2, W / 2, C]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def averaged(x: jax.Array, size: int) -> jax.Array:
    """Means of squares of pixels: [B, H, H, C] -> [B, size, size, C]; size divides H."""
    b, h, _, c = x.shape
    return x.reshape(b, size, h // size, size, h // size, c).mean((2, 4))


def doubling_sizes(image_size: int, model: str) -> list[int]:
    """Sides of the maps, from the smallest one on, doubling: 4, 8, 16, 32 for 32 pixels; 7, 14, 28 for 28.

    Args:
      image_size: of the pictures.
      model: what errors call whose maps they are.

    Raises:
      ValueError: for a size that halving does not bring to 4, 5, 6 or 7.
    """
    sizes = [image_size]
    while sizes[0] % 2 == 0 and sizes[0] >= 8:
        sizes.insert(0, sizes[0] // 2)
    if not 4 <= sizes[0] <= 7:
        raise ValueError(
            f"{model} needs square images of 4, 5, 6 or 7 times a power of two pixels (28, 32, 48, 64, 128, ...), not "
            f"{image_size}; resize the data"
        )
    return sizes


def convolve_then_halve(x: jax.Array, w: jax.Array) -> jax.Array:
    """halve(convolve(x, w)) of a 3x3 kernel with padding 1: [B, H, W, C] -> [B, H / 2, W / 2, O].

    Args:
      x: images of even height and width.
      w: kernel [3, 3, C, O].
    """
    return convolve(x, _shifted_sum(w) / 4, Geometry(x.shape[1:3], (4, 4), (2, 2), ((1, 1), (1, 1))))


def enlarge_then_convolve(x: jax.Array, w: jax.Array) -> jax.Array:
    """convolve(enlarge(x), w) of a 3x3 kernel with padding 1: [B, H, W, C] -> [B, 2 H, 2 W, O].

    Args:
      x: images.
      w: kernel [3, 3, C, O].
    """
    size = (2 * x.shape[1], 2 * x.shape[2])
    adjoint = jnp.flip(w, (0, 1)).swapaxes(2, 3)  # the kernel of the convolution that this is the adjoint of
    return transposed(x, _shifted_sum(adjoint), Geometry(size, (4, 4), (2, 2), ((1, 1), (1, 1))))


def _shifted_sum(w):
    """[3, 3, ...] -> [4, 4, ...]: the kernel seen from each of four neighbouring pixels, added up."""
    shifts = [(i, j) for i in (0, 1) for j in (0, 1)]
    return sum(jnp.pad(w, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i, j in shifts)


class EnlargingConv(Conv):
    """A 3x3 convolution with padding 1 of the enlarged image: [B, H, W, C] -> [B, 2 H, 2 W, features]."""

    kernel_size: int = 3
    padding: int = 1

    def operation(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Without the bias."""
        return enlarge_then_convolve(x, kernel)


class HalvingConv(Conv):
    """A 3x3 convolution with padding 1, then the mean of 2x2 pixels: [B, H, W, C] -> [B, H / 2, W / 2, features]."""

    kernel_size: int = 3
    padding: int = 1

    def operation(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Without the bias."""
        return convolve_then_halve(x, kernel)
