"""Resizing as Pillow does it on floats: with antialiasing, at borders renormalised. And the kernels that it takes.

    out[i] = sum_j k((j + 1/2 - c_i) / s) in[j] / sum_j k((j + 1/2 - c_i) / s)
    c_i = (i + 1/2) n_in / n_out,   s = max(1, n_in / n_out)

along each axis. PSNRs of super-resolution depend on who made the small images: MATLAB's `imresize` is the same inside
and differs in a border of 4 pixels (it mirrors), OpenCV does not widen the kernel (no antialiasing), and Pillow rounds
and clips bytes after either axis.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Kernel = Callable[[Any], Any]
"""Distance in pixels -> weight, of NumPy's or JAX's arrays."""


def _of(x: Any) -> Any:
    return jnp if isinstance(x, jax.Array) else np


def box(x: Any) -> Any:
    """1 for -1/2 < x <= 1/2: averages over blocks when an image shrinks, repeated pixels when it grows."""
    return _of(x).where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def bilinear(x: Any) -> Any:
    """max(0, 1 - |x|)."""
    return _of(x).maximum(0.0, 1.0 - abs(x))


def bicubic(x: Any, *, a: float = -0.5) -> Any:
    """Cubic convolution; a = -1/2 is Pillow's and MATLAB's, -3/4 OpenCV's and PyTorch's. Keys 1981."""
    x = abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x**2 + 1.0
    far = a * (((x - 5.0) * x + 8.0) * x - 4.0)
    return _of(x).where(x < 1, near, _of(x).where(x < 2, far, 0.0))


def lanczos3(x: Any) -> Any:
    """sinc(x) sinc(x / 3) for |x| < 3. Duchon 1979."""
    xp = _of(x)
    return xp.where(abs(x) < 3, xp.sinc(x) * xp.sinc(x / 3), 0.0)


def weights(
    size: Any, new_size: Any, kernel: Kernel, *, room: tuple[int, int] | None = None, antialias: bool = True
) -> Any:
    """What each new pixel takes of each old one, along one axis.

    Args:
        size: of the axis.
        new_size: of the resized axis.
        kernel: distance -> weight.
        room: (rows, columns) of the result, at least (new_size, size), which may be traced then. Rows beyond new_size
            repeat the last one, columns beyond size are 0. (new_size, size) by default.
        antialias: whether the kernel is widened where an image shrinks.

    Returns:
        float32 [rows, columns], each row adding up to 1; of NumPy where both sizes are numbers.
    """
    traced = isinstance(size, jax.Array) or isinstance(new_size, jax.Array)
    xp: Any = jnp if traced else np
    dtype = np.float32 if traced else np.float64
    rows, columns = (new_size, size) if room is None else room
    row = xp.minimum(xp.arange(rows, dtype=dtype), new_size - 1)[:, None]
    column = xp.arange(columns, dtype=dtype)[None]
    spread = xp.maximum(1.0, size / new_size) if antialias else 1.0
    found = kernel((column + 0.5 - (row + 0.5) * (size / new_size)) / spread)
    found = xp.where(column < size, found, 0.0)
    return (found / xp.sum(found, axis=1, keepdims=True)).astype(np.float32)


def apply_weights(image: jax.Array, rows: Any, columns: Any) -> jax.Array:
    """rows image columns^T, for each channel: [h, H], [..., H, W, C], [w, W] -> [..., h, w, C], in full precision."""
    along = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    return along("wv,...hvc->...hwc", columns, along("hg,...gwc->...hwc", rows, image))


def resize(
    image: jax.Array, key: jax.Array | None = None, *, shape: tuple[int, int], kernel: Kernel = bicubic
) -> jax.Array:
    """Brings an image to another size, with antialiasing where it shrinks. Linear; nothing is rounded or clipped.

    Args:
        image: [..., H, W, C] float.
        key: unused; here because other degradations draw.
        shape: (h, w).
        kernel: `bicubic`, `bilinear`, `box`, `lanczos3`, or distance -> weight of your own. All but `box` may leave
            the range of the image a little.

    Returns:
        [..., h, w, C]: within 5e-4 of 255 levels what Pillow makes of float32.

    Raises:
        ValueError: for a size below 1.
    """
    del key
    if min(shape) < 1:
        raise ValueError(f"an image is resized to at least 1x1 pixels, not {shape[0]}x{shape[1]}")
    height, width = image.shape[-3:-1]
    return apply_weights(image, weights(height, shape[0], kernel), weights(width, shape[1], kernel))


def downscale(image: jax.Array, key: jax.Array | None = None, *, scale: int = 4, kernel: Kernel = bicubic) -> jax.Array:
    """The image at 1 / scale of its size, as `resize` makes it: the usual source of super-resolution.

    Args:
        image: [..., H, W, C].
        key: unused.
        scale: a whole number that divides H and W.
        kernel: as for `resize`.

    Returns:
        [..., H / scale, W / scale, C].

    Raises:
        ValueError: for a scale below 1, or one that does not divide the image.
    """
    height, width = image.shape[-3:-1]
    if scale < 1 or height % scale or width % scale:
        raise ValueError(
            f"a scale of {scale} does not divide images of {height}x{width}: crop them to a multiple of it"
        )
    return resize(image, key, shape=(height // scale, width // scale), kernel=kernel)


def upscale(image: jax.Array, key: jax.Array | None = None, *, scale: int = 4, kernel: Kernel = bicubic) -> jax.Array:
    """The image at `scale` times its size, as `resize` makes it: what super-resolution has to beat.

    Args:
        image: [..., H, W, C].
        key: unused.
        scale: a whole number.
        kernel: as for `resize`.

    Returns:
        [..., H scale, W scale, C].

    Raises:
        ValueError: for a scale below 1.
    """
    height, width = image.shape[-3:-1]
    if scale < 1:
        raise ValueError(f"a scale is at least 1, not {scale}")
    return resize(image, key, shape=(height * scale, width * scale), kernel=kernel)
