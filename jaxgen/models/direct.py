"""Convolution as XLA's own: what `convolution` runs on CPU where no other form pays.

Three arrangements make it fast there. A transposed convolution is one small convolution for each pixel of a block of
`strides`, instead of one over an image in which most entries are zeros. The gradient of a kernel is a convolution, too,
in which channels act as the batch; a large batch goes through it in chunks that stay in the cache. And maps are padded
to the size of the kernel, below which XLA's convolution is 20 times slower.

Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
Network": the small convolutions are its sub-pixel ones.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.models import chunks
from jaxgen.models.geometry import Geometry

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
CHUNK = 1 << 21  # numbers, of images or of outputs, that a chunk of the batch has: about as many as a cache holds


def convolve(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.convolve`."""
    x, padding = _at_least_the_kernel(x, geometry.kernel_size, geometry.padding)
    return lax.conv_general_dilated(x, w, geometry.strides, padding, dimension_numbers=DIMENSIONS)


def transposed(y: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.transposed`."""
    axes = zip(geometry.image_size, geometry.kernel_size, geometry.strides, strict=True)
    if all(n % s == 0 and k % s == 0 for n, k, s in axes):
        return _by_pixel_of_a_block(y, w, geometry)
    return dilated(y, w, geometry)


def dilated(y: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.transposed`: one convolution of y with strides - 1 zeros put between its entries."""
    padding = []
    for n, n_out, k, s, (before, _) in zip(
        geometry.image_size, y.shape[1:3], geometry.kernel_size, geometry.strides, geometry.padding, strict=True
    ):
        spread = (n_out - 1) * s + 1  # size of y with the zeros
        padding.append((k - 1 - before, n - spread + before))
    y, padding = _at_least_the_kernel(y, geometry.kernel_size, padding, dilation=geometry.strides)
    return lax.conv_general_dilated(
        y,
        adjoint_kernel(w, geometry.groups),
        (1, 1),
        padding,
        lhs_dilation=geometry.strides,
        dimension_numbers=DIMENSIONS,
        feature_group_count=geometry.groups,
    )


def adjoint(geometry: Geometry) -> Geometry:
    """Of strides 1: the geometry whose convolution, by `adjoint_kernel`, is the transposed convolution of this one."""
    padding = tuple(
        (k - 1 - before, n - m + before)
        for n, m, k, (before, _) in zip(
            geometry.image_size, geometry.output_size, geometry.kernel_size, geometry.padding, strict=True
        )
    )
    return geometry._replace(image_size=geometry.output_size, padding=padding)


def adjoint_kernel(w: jax.Array, groups: int = 1) -> jax.Array:
    """Turned by 180 degrees, with the channels and the outputs of each group exchanged: [kh, kw, O / G, C]."""
    kh, kw, c, _ = w.shape
    return jnp.flip(w, (0, 1)).reshape(kh, kw, c, groups, -1).swapaxes(2, 4).reshape(kh, kw, -1, groups * c)


def _by_pixel_of_a_block(y, w, geometry):
    """x[s q + j] = sum_t y[q + first - t] w[s t + r] along each axis, with (first, r) = divmod(j + before, s)."""
    (sh, sw), (h, width) = geometry.strides, geometry.image_size

    def pixels(axis):
        """For each j: r, and the padding of y."""
        s, rows = geometry.strides[axis], geometry.image_size[axis] // geometry.strides[axis]
        for j in range(s):
            first, r = divmod(j + geometry.padding[axis][0], s)
            yield r, (geometry.kernel_size[axis] // s - 1 - first, first + rows - y.shape[1 + axis])

    def pixel(row, column):
        (r, above), (c, left) = row, column
        taps = adjoint_kernel(w[r::sh, c::sw])
        padded, padding = _at_least_the_kernel(y, taps.shape[:2], (above, left))
        return lax.conv_general_dilated(padded, taps, (1, 1), padding, dimension_numbers=DIMENSIONS)

    block = jnp.stack([jnp.stack([pixel(row, column) for column in pixels(1)], axis=3) for row in pixels(0)], axis=2)
    return block.reshape(len(y), h, width, -1)


def kernel_gradient(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.kernel_gradient`."""
    size = chunks.images_of(len(x), max(x[0].size, y[0].size), CHUNK)
    return chunks.summed(lambda x, y: _kernel_gradient(x, y, geometry), (x, y), size)


def _kernel_gradient(x, y, geometry):
    """One ordinary convolution: channels act as the batch, the batch as channels, y as the (dilated) kernel."""
    padding = []
    for n, n_out, k, s, (before, _) in zip(
        geometry.image_size, y.shape[1:3], geometry.kernel_size, geometry.strides, geometry.padding, strict=True
    ):
        padding.append((before, k - 1 + (n_out - 1) * s + 1 - n - before))
    gradient = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        y.transpose(1, 2, 0, 3),
        (1, 1),
        padding,
        rhs_dilation=geometry.strides,
        dimension_numbers=DIMENSIONS,
    )
    return gradient.transpose(1, 2, 0, 3)


def _at_least_the_kernel(x, kernel_size, padding, dilation=(1, 1)):
    """Moves some of the padding into the array."""
    missing = [max(0, k - n) for k, n in zip(kernel_size, x.shape[1:3], strict=True)]
    padding = [(before, after - m * d) for (before, after), m, d in zip(padding, missing, dilation, strict=True)]
    return (jnp.pad(x, ((0, 0), *((0, m) for m in missing), (0, 0))) if any(missing) else x), padding
