"""Convolution in nine multiplications for sixteen: what `convolution` runs on CPU where the kernel is two strides.

Such a kernel covers two blocks of `strides` pixels along each axis, so the convolution is one with a kernel of two and
stride one, over blocks. Along one axis two neighbouring outputs of it need four products; three are enough:

    y0 = d0 g0 + d1 g1 = m0 + m1        m0 = (d0 - d1) g0
    y1 = d1 g0 + d2 g1 = m1 + m2        m1 = d1 (g0 + g1)        m2 = (d2 - d1) g1

    y = A^T [(G g) * (B^T d)]                                                  (along both axes: nine for sixteen)

with the image blocks d of a tile, the kernel blocks g, and matrices of 0, 1 and -1 alone, so hardly a digit is lost.
The products are matrices: tiles x (pixels and channels of a block) times that x output channels. The expression is a
trilinear form in d, g and the cotangent of y, so the same transformations, transposed, give both adjoints; what two of
the three have in common (the transformed images, in the convolution and in its kernel's gradient) is computed once
under `jit`.

Winograd 1980, "Arithmetic Complexity of Computations"; Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural
Networks", whose letters these are.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxgen.models.im2col import pad

if TYPE_CHECKING:
    from jaxgen.models.convolution import Geometry

B_T = ((1, -1, 0), (0, 1, 0), (0, -1, 1))
G = ((1, 0), (1, 1), (0, 1))
A_T = ((1, 1, 0), (0, 1, 1))


def fits(operation: str, geometry: "Geometry", num_channels: int, num_outputs: int, dtype: Any) -> bool:
    """Whether the kernel is two strides and the form pays.

    Tiles are two outputs wide and a half-empty one costs as much as a full one; with few channels the sums cost more
    than the products save; bfloat16 would lose digits in the sums.
    """
    del operation
    two_strides = all(k == 2 * s for k, s in zip(geometry.kernel_size, geometry.strides, strict=True))
    large = min(geometry.output_size) >= 4 and min(num_channels, num_outputs) >= 64
    return two_strides and large and jnp.finfo(dtype).bits >= 32


def convolve(x: jax.Array, w: jax.Array, geometry: "Geometry") -> jax.Array:
    """As `convolution.convolve`."""
    products = _products("tc,co->to", _image_tiles(x, geometry), _kernel_tiles(w, geometry))
    return _from_output_tiles(products, geometry, len(x))


def transposed(y: jax.Array, w: jax.Array, geometry: "Geometry") -> jax.Array:
    """As `convolution.transposed`."""
    products = _products("to,co->tc", _output_tiles(y, geometry), _kernel_tiles(w, geometry))
    return _from_image_tiles(products, geometry, len(y))


def kernel_gradient(x: jax.Array, y: jax.Array, geometry: "Geometry") -> jax.Array:
    """As `convolution.kernel_gradient`."""
    products = _products("tc,to->co", _image_tiles(x, geometry), _output_tiles(y, geometry))
    return _from_kernel_tiles(products, geometry)


def _products(subscripts, a, b):
    return [[jnp.einsum(subscripts, p, q) for p, q in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]


def _transpose(grid):
    return list(zip(*grid, strict=True))


def _combine(matrix, terms):
    """The products of a matrix of 0, 1 and -1 with a column of arrays."""

    def row(coefficients):
        first, *others = [(c, t) for c, t in zip(coefficients, terms, strict=True) if c]
        total = first[1] if first[0] > 0 else -first[1]
        for c, t in others:
            total = total + t if c > 0 else total - t
        return total

    return [row(coefficients) for coefficients in matrix]


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
    """B^T d B: [N, H, W, C] -> 3 x 3 arrays [tiles, block pixels C]. Neighbouring tiles share a block."""
    (th, tw), (sh, _) = _num_tiles(geometry), geometry.strides
    x = pad(x, _pad_to_tiles(geometry))
    x = x.reshape(len(x), th + 1, 2, sh, tw + 1, 2, -1)
    blocks = ((slice(0, -1), 0), (slice(0, -1), 1), (slice(1, None), 0))
    grid = _along_both(B_T, [[x[:, i, p, :, j, q] for j, q in blocks] for i, p in blocks])
    return [[d.swapaxes(2, 3).reshape(len(x) * th * tw, -1) for d in row] for row in grid]


def _from_image_tiles(grid, geometry, num_images):
    """The transpose of `_image_tiles`."""
    (th, tw), (sh, sw) = _num_tiles(geometry), geometry.strides
    grid = [[d.reshape(num_images, th, tw, sh, -1).swapaxes(2, 3) for d in row] for row in grid]

    def overlay(d, axis):
        def grow(array, before, after):
            return jnp.pad(array, [(before, after) if i == axis else (0, 0) for i in range(array.ndim)])

        return jnp.stack([grow(d[0], 0, 1) + grow(d[2], 1, 0), grow(d[1], 0, 1)], axis + 1)

    grid = _along_both(_transpose(B_T), grid)
    x = overlay([overlay(row, 3) for row in grid], 1)
    x = x.reshape(num_images, (2 * th + 2) * sh, (2 * tw + 2) * sw, -1)
    return pad(x, [(-before, -after) for before, after in _pad_to_tiles(geometry)])


def _kernel_tiles(w, geometry):
    """G g G^T: [kh, kw, C, O] -> 3 x 3 arrays [block pixels C, O]."""
    (sh, sw), (*_, c, o) = geometry.strides, w.shape
    w = w.reshape(2, sh, 2, sw * c, o)
    grid = _along_both(G, [[w[i, :, j] for j in range(2)] for i in range(2)])
    return [[g.reshape(sh * sw * c, o) for g in row] for row in grid]


def _from_kernel_tiles(grid, geometry):
    """The transpose of `_kernel_tiles`."""
    (sh, sw), (rows, o) = geometry.strides, grid[0][0].shape
    grid = _along_both(_transpose(G), [[g.reshape(sh, rows // sh, o) for g in row] for row in grid])
    return jnp.stack([jnp.stack(row, axis=1) for row in grid]).reshape(2 * sh, 2 * sw, -1, o)


def _from_output_tiles(grid, geometry, num_images):
    """A^T m A: 3 x 3 arrays [tiles, O] -> [N, *geometry.output_size, O]."""
    th, tw = _num_tiles(geometry)
    grid = _along_both(A_T, [[m.reshape(num_images, th, tw, -1) for m in row] for row in grid])
    y = jnp.stack([jnp.stack(row, axis=3) for row in grid], axis=2).reshape(num_images, 2 * th, 2 * tw, -1)
    return y[:, : geometry.output_size[0], : geometry.output_size[1]]


def _output_tiles(y, geometry):
    """The transpose of `_from_output_tiles`."""
    th, tw = _num_tiles(geometry)
    y = pad(y, [(0, 2 * tiles - n) for tiles, n in zip((th, tw), geometry.output_size, strict=True)])
    y = y.reshape(len(y), th, 2, tw, 2, -1)
    grid = _along_both(_transpose(A_T), [[y[:, :, i, :, j] for j in range(2)] for i in range(2)])
    return [[m.reshape(len(y) * th * tw, -1) for m in row] for row in grid]
