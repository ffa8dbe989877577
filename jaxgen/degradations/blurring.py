"""Blur by any kernel, by a Gaussian, and its opposite, the unsharp mask. Beyond its border an image is mirrored."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.arguments import check_key
from jaxgen.degradations.noise import number_between
from jaxgen.degradations.resizing import apply_weights


def blur(image: jax.Array, key: jax.Array | None = None, *, kernel: Any) -> jax.Array:
    """The image, convolved with a kernel; each channel on its own. Linear.

    By a Fourier transform, to rounding: its time does not depend on the kernel, of which each image of a batch may have
    its own.

    Args:
        image: [..., H, W, C].
        key: unused.
        kernel: [k, k], k odd; see `jaxgen.degradations.kernels`.

    Returns:
        The same shape.

    Raises:
        ValueError: for a kernel that has no middle.
    """
    del key
    return convolve(image, kernel)


def convolve(image: jax.Array, kernel: Any, size: tuple[Any, Any] | None = None) -> jax.Array:
    """As `blur`, of an image that is the upper left part of an array.

    Args:
        image: [..., H, W, C].
        kernel: [k, k].
        size: (h, w) of the part, may be traced; what lies beyond it in the result is mirrored. All by default.
    """
    side = kernel.shape[0]
    if kernel.ndim != 2 or kernel.shape[1] != side or side % 2 == 0:
        raise ValueError(f"a kernel of blur is [k, k] with an odd k, not {list(kernel.shape)}")
    shape = image.shape[-3:-1]
    rows, columns = (_mirrored(n, side // 2, own) for n, own in zip(shape, size or shape, strict=True))
    padded = jnp.take(jnp.take(image, rows, axis=-3), columns, axis=-2)
    height, width = padded.shape[-3:-1]
    down, across = _frequencies(height), _frequencies(width)[: width // 2 + 1]  # of real numbers half tells the rest
    spectrum = _along("vh,wx,...hxc->...vwc", down, across, padded)
    response = _along("vh,wx,hx->vw", down[:, :side], across[:, :side], jnp.asarray(kernel, jnp.float32))
    times = np.where((np.arange(width // 2 + 1) * 2) % width == 0, 1.0, 2.0).astype(np.float32)[:, None]
    back_down, back_across = down.conj()[:, side - 1 :] / height, across.conj()[:, side - 1 :] * times / width
    found = _along("vh,wx,...vwc->...hxc", back_down, back_across, spectrum * response[..., None])
    return jnp.real(found).astype(image.dtype)  # without what went around, which ends before side - 1


def _frequencies(size):
    """The discrete Fourier transform as a matrix [frequency, place].

    XLA gathers what is divided over devices for its own transform, and every device would do all images.
    """
    turns = np.outer(np.arange(size), np.arange(size)) % size
    return np.exp(-2j * np.pi * turns / size).astype(np.complex64)


def _along(axes, *factors):
    return jnp.einsum(axes, *factors, precision=lax.Precision.HIGHEST)


def _mirrored(length: int, reach: int, size: Any) -> Any:
    """The pixels -reach, ..., length + reach - 1 of an axis of a size, mirrored at both of its ends."""
    xp: Any = jnp if isinstance(size, jax.Array) else np
    period = xp.maximum(2 * (size - 1), 1)
    place = np.arange(-reach, length + reach) % period
    return xp.minimum(place, period - place)


def gaussian_blur(
    image: jax.Array,
    key: jax.Array | None = None,
    *,
    sigma: float | tuple[float, float] = 1.6,
    radius: int | None = None,
) -> jax.Array:
    """The image, convolved with a Gaussian; linear for a sigma that is a number.

    Args:
        image: [..., H, W, C].
        key: of the sigma; unused where that is a number.
        sigma: standard deviation in pixels. A pair: drawn evenly between these, one for the image.
        radius: beyond which the Gaussian is cut; by default 4 sigma, rounded up.

    Returns:
        The same shape.

    Raises:
        ValueError: for a sigma of 0 or below.
    """
    most = sigma
    if isinstance(sigma, (tuple, list)):
        check_key(key)
        most = max(sigma)
    found = number_between(key, sigma, "the sigma of a blur", above_zero=True)
    reach = int(np.ceil(4 * most)) if radius is None else radius
    offset = np.arange(-reach, reach + 1, dtype=np.float32)
    share = jnp.exp(-0.5 * (offset / found) ** 2)
    share = share / jnp.sum(share)

    def along(size):
        mirrored = _mirrored(size, reach, size)
        taken = np.lib.stride_tricks.sliding_window_view(mirrored, 2 * reach + 1)  # [size, offsets]
        return jnp.zeros((size, size)).at[np.arange(size)[:, None], taken].add(share)

    return apply_weights(image, along(image.shape[-3]), along(image.shape[-2]))


def sharpen(
    image: jax.Array, key: jax.Array | None = None, *, amount: float = 0.5, threshold: float = 10.0, sigma: float = 8.0
) -> jax.Array:
    """The unsharp mask, where an image differs from its blur by more than a threshold, with soft borders.

        m = blur(|x - blur(x)| > threshold),   m clip(x + amount (x - blur(x))) + (1 - m) x

    Real-ESRGAN trains towards images that are sharpened like this; the defaults are its own (a window of 51 pixels).

    Args:
        image: [..., H, W, C] in [-1, 1].
        key: unused.
        amount: of what is added.
        threshold: in levels of 255.
        sigma: of the blur, in pixels.

    Returns:
        The same shape, in [-1, 1].
    """
    del key
    reach = round(25 * sigma / 8)
    rest = image - gaussian_blur(image, sigma=sigma, radius=reach)
    where = (jnp.abs(rest) * 127.5 > threshold).astype(image.dtype)
    soft = gaussian_blur(where, sigma=sigma, radius=reach)
    return soft * jnp.clip(image + amount * rest, -1.0, 1.0) + (1.0 - soft) * image
