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


def bicubic(x: Any) -> Any:
    """Cubic convolution with a = -1/2, as Pillow's and MATLAB's. Keys 1981."""
    x = abs(x)
    near, far = (1.5 * x - 2.5) * x**2 + 1.0, ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return _of(x).where(x < 1, near, _of(x).where(x < 2, far, 0.0))


def lanczos3(x: Any) -> Any:
    """sinc(x) sinc(x / 3) for |x| < 3. Duchon 1979."""
    xp = _of(x)
    return xp.where(abs(x) < 3, xp.sinc(x) * xp.sinc(x / 3), 0.0)


def weights(size: int, new_size: Any, kernel: Kernel, *, num_rows: int | None = None) -> Any:
    """What each new pixel takes of each old one, along one axis.

    Args:
        size: of the axis.
        new_size: of the resized axis; may be traced, with num_rows.
        kernel: distance -> weight.
        num_rows: how many rows to make; those beyond a traced new_size are zero. new_size by default.

    Returns:
        float32 [num_rows, size], each row adding up to 1; of NumPy where new_size is a number.
    """
    xp = _of(new_size)
    dtype = np.float32 if xp is jnp else np.float64
    row = xp.arange(new_size if num_rows is None else num_rows, dtype=dtype)[:, None]
    centre = (row + 0.5) * (size / new_size)
    spread = xp.maximum(1.0, size / new_size)
    found = kernel((xp.arange(size, dtype=dtype)[None] + 0.5 - centre) / spread)
    # Rows beyond the end have nothing to be divided by.
    total = xp.sum(found, axis=1, keepdims=True)
    inside = row < new_size
    return xp.where(inside, found / xp.where(inside, total, 1.0), 0.0).astype(np.float32)


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
