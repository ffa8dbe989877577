"""Convolution in fewer multiplications: what `convolution` runs on CPU for kernels of two or three strides.

A kernel of r strides covers r blocks of `strides` pixels along each axis, so the convolution is one with a kernel of r
and stride one, over blocks. Along one axis two neighbouring outputs of it need 2 r products; r + 1 are enough. With
r = 2

    y0 = d0 g0 + d1 g1 = m0 + m1        m0 = (d0 - d1) g0
    y1 = d1 g0 + d2 g1 = m1 + m2        m1 = d1 (g0 + g1)        m2 = (d2 - d1) g1

    y = A^T [(G g) * (B^T d)]

with the image blocks d of a tile and the kernel blocks g: along both axes nine products for sixteen, and sixteen for
thirty-six with r = 3. The matrices hold 0, 1, -1 and 1/2 alone, so hardly a digit is lost. The products are matrices:
tiles x (pixels and channels of a block) times that x output channels. The expression is a trilinear form in d, g and
the cotangent of y, so the same transformations, transposed, give both adjoints.

A large batch goes through it in chunks that stay in the cache.

Winograd 1980, "Arithmetic Complexity of Computations"; Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural
Networks", whose letters these are.
"""

import functools
import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.models import chunks
from jaxgen.models.direct import adjoint
from jaxgen.models.geometry import Geometry
from jaxgen.models.im2col import pad

# Numbers, of images or of outputs, that a chunk of the batch has, by the kernel's size in strides. A kernel's gradient
# has twice as many; two strides are faster all at once.
CHUNK = {2: 1 << 40, 3: 1 << 19}


class Transforms(NamedTuple):
    """Of image blocks, of kernel blocks, and of products, as in y = A^T [(G g) * (B^T d)]."""

    b_t: tuple
    g: tuple
    a_t: tuple


TRANSFORMS = {  # by the kernel's size in strides
    2: Transforms(
        b_t=((1, -1, 0), (0, 1, 0), (0, -1, 1)),
        g=((1, 0), (1, 1), (0, 1)),
        a_t=((1, 1, 0), (0, 1, 1)),
    ),
    3: Transforms(
        b_t=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        g=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
        a_t=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
}


def fits(operation: str, geometry: Geometry, num_channels: int, num_outputs: int, dtype: Any) -> bool:
    """Whether the kernel is two or three strides and the form pays.

    Tiles are two outputs wide and a half-empty one costs as much as a full one; with few channels the sums cost more
    than the products save; bfloat16 would lose digits in the sums.
    """
    del operation
    size = _size_in_strides(geometry)
    filled = math.prod(n / (n + n % 2) for n in geometry.output_size)
    many = min(num_channels, num_outputs) >= 64 and (size == 2 or num_channels + num_outputs >= 192 and filled > 0.8)
    return size in TRANSFORMS and min(geometry.output_size) >= 4 and many and jnp.finfo(dtype).bits >= 32


def _size_in_strides(geometry):
    """Of the kernel, or None: the same whole number along both axes."""
    sizes = {divmod(k, s) for k, s in zip(geometry.kernel_size, geometry.strides, strict=True)}
    size, rest = sizes.pop()
    return None if sizes or rest else size


def convolve(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.convolve`."""
    return _convolve(x, _kernel_tiles(w, geometry), "tc,co->to", w.shape[3], geometry)


def _convolve(x, kernel, subscripts, num_outputs, geometry):
    def of_chunk(x):
        return _from_output_tiles(_products(subscripts, _image_tiles(x, geometry), kernel), geometry, len(x))

    image_size = max(x[0].size, math.prod(geometry.output_size) * num_outputs)
    return chunks.joined(of_chunk, x, chunks.images_of(len(x), image_size, CHUNK[_size_in_strides(geometry)]))


def transposed(y: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.transposed`. Of strides 1 it is a convolution, too, and as such is faster."""
    if geometry.strides == (1, 1):
        return _convolve(y, _kernel_tiles(jnp.flip(w, (0, 1)), geometry), "to,co->tc", w.shape[2], adjoint(geometry))
    kernel = _kernel_tiles(w, geometry)

    def of_chunk(y):
        return _from_image_tiles(_products("to,co->tc", _output_tiles(y, geometry), kernel), geometry, len(y))

    image_size = max(y[0].size, math.prod(geometry.image_size) * w.shape[2])
    return chunks.joined(of_chunk, y, chunks.images_of(len(y), image_size, CHUNK[_size_in_strides(geometry)]))


def kernel_gradient(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.kernel_gradient`."""

    def of_chunk(x, y):
        return _products("tc,to->co", _image_tiles(x, geometry), _output_tiles(y, geometry))

    size = chunks.images_of(len(x), max(x[0].size, y[0].size), 2 * CHUNK[_size_in_strides(geometry)])
    return _from_kernel_tiles(chunks.summed(of_chunk, (x, y), size), geometry)


def _products(subscripts, a, b):
    return [[jnp.einsum(subscripts, p, q) for p, q in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]


def _transpose(grid):
    return list(zip(*grid, strict=True))


def _combine(matrix, terms):
    """The products of a matrix with a column of arrays."""

    def row(coefficients):
        added = [_times(c, t) for c, t in zip(coefficients, terms, strict=True) if c > 0]
        taken = [_times(-c, t) for c, t in zip(coefficients, terms, strict=True) if c < 0]
        if not added:
            return -sum(taken[1:], taken[0])
        return functools.reduce(operator.sub, taken, sum(added[1:], added[0]))

    return [row(coefficients) for coefficients in matrix]


def _times(coefficient, x):
    return x if coefficient == 1 else coefficient * x


def _along_both(matrix, grid):
    """M X M^T for a matrix M and a grid X of arrays."""
    along_width = [_combine(matrix, row) for row in grid]
    return _transpose([_combine(matrix, column) for column in _transpose(along_width)])


def _num_tiles(geometry):
    return tuple(-(-n // 2) for n in geometry.output_size)


def _pad_to_tiles(geometry):
    """Padding (before, after) that makes the image two blocks for each tile and two more. It may be negative."""
    return [
        (before, (2 * tiles + 2) * s - n - before)
        for n, s, (before, _), tiles in zip(
            geometry.image_size, geometry.strides, geometry.padding, _num_tiles(geometry), strict=True
        )
    ]


def _image_tiles(x, geometry):
    """B^T d B: [N, H, W, C] -> (r + 1) x (r + 1) arrays [tiles, block pixels C]. Neighbouring tiles share blocks."""
    (th, tw), (sh, _), r = _num_tiles(geometry), geometry.strides, _size_in_strides(geometry)
    x = pad(x, _pad_to_tiles(geometry))
    x = x.reshape(len(x), th + 1, 2, sh, tw + 1, 2, -1)
    blocks = [(slice(i // 2, i // 2 - 1 or None), i % 2) for i in range(r + 1)]
    grid = _along_both(TRANSFORMS[r].b_t, [[x[:, i, p, :, j, q] for j, q in blocks] for i, p in blocks])
    return [[d.swapaxes(2, 3).reshape(len(x) * th * tw, -1) for d in row] for row in grid]


def _from_image_tiles(grid, geometry, num_images):
    """The transpose of `_image_tiles`."""
    (th, tw), (sh, sw), r = _num_tiles(geometry), geometry.strides, _size_in_strides(geometry)
    grid = [[d.reshape(num_images, th, tw, sh, -1).swapaxes(2, 3) for d in row] for row in grid]

    def overlay(d, axis):
        def grow(array, before, after):
            return jnp.pad(array, [(before, after) if i == axis else (0, 0) for i in range(array.ndim)])

        here, next_ = d[:2], d[2:]
        pairs = [grow(x, 0, 1) + grow(y, 1, 0) for x, y in zip(here, next_, strict=False)]
        return jnp.stack(pairs + [grow(x, 0, 1) for x in here[len(next_) :]], axis + 1)

    grid = _along_both(_transpose(TRANSFORMS[r].b_t), grid)
    x = overlay([overlay(row, 3) for row in grid], 1)
    x = x.reshape(num_images, (2 * th + 2) * sh, (2 * tw + 2) * sw, -1)
    return pad(x, [(-before, -after) for before, after in _pad_to_tiles(geometry)])


def _kernel_tiles(w, geometry):
    """G g G^T: [kh, kw, C, O] -> (r + 1) x (r + 1) arrays [block pixels C, O]."""
    (sh, sw), (*_, c, o), r = geometry.strides, w.shape, _size_in_strides(geometry)
    w = w.reshape(r, sh, r, sw * c, o)
    grid = _along_both(TRANSFORMS[r].g, [[w[i, :, j] for j in range(r)] for i in range(r)])
    return [[g.reshape(sh * sw * c, o) for g in row] for row in grid]


def _from_kernel_tiles(grid, geometry):
    """The transpose of `_kernel_tiles`."""
    (sh, sw), (rows, o), r = geometry.strides, grid[0][0].shape, _size_in_strides(geometry)
    grid = [[g.reshape(sh, rows // sh, o) for g in row] for row in grid]
    grid = _along_both(_transpose(TRANSFORMS[r].g), grid)
    return jnp.stack([jnp.stack(row, axis=1) for row in grid]).reshape(r * sh, r * sw, -1, o)


def _from_output_tiles(grid, geometry, num_images):
    """A^T m A: (r + 1) x (r + 1) arrays [tiles, O] -> [N, *geometry.output_size, O]."""
    (th, tw), r = _num_tiles(geometry), _size_in_strides(geometry)
    grid = [[m.reshape(num_images, th, tw, -1) for m in row] for row in grid]
    grid = _along_both(TRANSFORMS[r].a_t, grid)
    y = jnp.stack([jnp.stack(row, axis=3) for row in grid], axis=2).reshape(num_images, 2 * th, 2 * tw, -1)
    return y[:, : geometry.output_size[0], : geometry.output_size[1]]


def _output_tiles(y, geometry):
    """The transpose of `_from_output_tiles`."""
    (th, tw), r = _num_tiles(geometry), _size_in_strides(geometry)
    y = pad(y, [(0, 2 * tiles - n) for tiles, n in zip((th, tw), geometry.output_size, strict=True)])
    y = y.reshape(len(y), th, 2, tw, 2, -1)
    grid = _along_both(_transpose(TRANSFORMS[r].a_t), [[y[:, :, i, :, j] for j in range(2)] for i in range(2)])
    return [[m.reshape(len(y) * th * tw, -1) for m in row] for row in grid]
