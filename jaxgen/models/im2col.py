"""Convolution as one matrix product: what `convolution` runs on CPU for few channels or few outputs.

Each output's patch of the image becomes a row, and the convolution is patches x kernel. Patches are put together from
blocks of `strides` pixels, so the kernel must be whole strides wide. With kernel size k they are (k / stride)^2 times
as large as the image, which pays where the image is thin (the first and last layers of a GAN), where patches are single
pixels, or where the map is so small that XLA's convolution is slow and Winograd's tiles would be half empty. With
stride 1 and thin outputs they are taken of these: such a convolution is the transposed one of another.

Chellapilla, Puri, Simard 2006, "High Performance Convolutional Neural Networks for Document Processing".
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.models.direct import adjoint, adjoint_kernel
from jaxgen.models.geometry import Geometry

SHORT = 64  # numbers in a patch, up to which it pays


def fits(operation: str, geometry: Geometry, num_channels: int, num_outputs: int, dtype: Any) -> bool:
    """Whether the kernel is whole strides, and patches are short or few, or no larger than the image."""
    del operation, dtype
    whole = all(k % s == 0 for k, s in zip(geometry.kernel_size, geometry.strides, strict=True))
    pixels = math.prod(geometry.kernel_size)
    short = pixels * num_channels <= SHORT or max(geometry.output_size) <= 3 or pixels == 1
    return whole and (short or _thin_outputs(geometry, num_channels, num_outputs))


def _thin_outputs(geometry, num_channels, num_outputs):
    """Whether patches of the outputs are the shorter ones: as the last layer of a generator has them."""
    limit = min(SHORT, math.prod(geometry.kernel_size) * num_channels - 1)
    return geometry.strides == (1, 1) and math.prod(geometry.kernel_size) * num_outputs <= limit


def convolve(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.convolve`."""
    if _thin_outputs(geometry, *w.shape[2:]):
        return _transposed(x, adjoint_kernel(w), adjoint(geometry))
    return _convolve(x, w, geometry)


def transposed(y: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.transposed`."""
    if _thin_outputs(geometry, *w.shape[2:]):
        return _convolve(y, adjoint_kernel(w), adjoint(geometry))
    return _transposed(y, w, geometry)


def kernel_gradient(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.kernel_gradient`."""
    if _thin_outputs(geometry, x.shape[-1], y.shape[-1]):
        return adjoint_kernel(_kernel_gradient(y, x, adjoint(geometry)))
    return _kernel_gradient(x, y, geometry)


def _convolve(x, w, geometry):
    return (_patches(x, geometry) @ _matrix(w, geometry)).reshape(len(x), *geometry.output_size, -1)


def _transposed(y, w, geometry):
    return _from_patches(_rows(y) @ _matrix(w, geometry).T, geometry, len(y))


def _kernel_gradient(x, y, geometry):
    return _from_matrix(_patches(x, geometry).T @ _rows(y), geometry)


def _rows(y):
    return y.reshape(-1, y.shape[-1])


def _num_blocks(geometry):
    """How many blocks a patch has along each axis."""
    return tuple(k // s for k, s in zip(geometry.kernel_size, geometry.strides, strict=True))


def _pad_to_blocks(geometry):
    """Padding (before, after) that leaves the blocks which patches touch. It may be negative."""
    return [
        (before, (m + blocks - 1) * s - n - before)
        for n, s, (before, _), m, blocks in zip(
            geometry.image_size,
            geometry.strides,
            geometry.padding,
            geometry.output_size,
            _num_blocks(geometry),
            strict=True,
        )
    ]


def pad(x: jax.Array, padding: Any) -> jax.Array:
    """Zeros around images; where the padding is negative, a crop."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)))


def _patches(x, geometry):
    """[N, H, W, C] -> [outputs, blocks pixels C]."""
    (oh, ow), (sh, sw), (mh, mw) = geometry.output_size, geometry.strides, _num_blocks(geometry)
    x = pad(x, _pad_to_blocks(geometry))
    x = x.reshape(len(x), oh + mh - 1, sh, ow + mw - 1, sw * x.shape[-1]).swapaxes(2, 3)
    x = x.reshape(*x.shape[:3], -1)
    patches = [x[:, i : i + oh, j : j + ow] for i, j in itertools.product(range(mh), range(mw))]
    return _rows(jnp.concatenate(patches, axis=-1))


def _from_patches(patches, geometry, num_images):
    """The transpose of `_patches`: blocks in which patches overlap are summed."""
    (oh, ow), (sh, sw), (mh, mw) = geometry.output_size, geometry.strides, _num_blocks(geometry)
    patches = patches.reshape(num_images, oh, ow, mh, mw, -1)
    x = sum(
        jnp.pad(patches[:, :, :, i, j], ((0, 0), (i, mh - 1 - i), (j, mw - 1 - j), (0, 0)))
        for i, j in itertools.product(range(mh), range(mw))
    )
    rows, columns = oh + mh - 1, ow + mw - 1
    x = x.reshape(num_images, rows, columns, sh, -1).swapaxes(2, 3).reshape(num_images, rows * sh, columns * sw, -1)
    return pad(x, [(-before, -after) for before, after in _pad_to_blocks(geometry)])


def _matrix(w, geometry):
    """[kh, kw, C, O] -> [blocks pixels C, O], in the order of a patch."""
    (sh, sw), (mh, mw), (*_, c, o) = geometry.strides, _num_blocks(geometry), w.shape
    return w.reshape(mh, sh, mw, sw * c, o).swapaxes(1, 2).reshape(-1, o)


def _from_matrix(matrix, geometry):
    """The transpose of `_matrix`."""
    (sh, _), (mh, mw), o = geometry.strides, _num_blocks(geometry), matrix.shape[-1]
    w = matrix.reshape(mh, mw, sh, -1, o).swapaxes(1, 2)
    return w.reshape(*geometry.kernel_size, -1, o)
