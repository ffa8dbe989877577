"""JPEG as libjpeg does it, there and back: colours, subsampled chroma, blocks of 8x8, quantisation. No file is made.

The entropy coding in between is without loss, and so left out. ITU-T T.81 (1992), with the tables of its annex K and
libjpeg's rule of quality; JFIF's colours.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.arguments import check_key

LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.int32,
)
CHROMA_TABLE = np.full((8, 8), 99, np.int32)
CHROMA_TABLE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_TO_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.5],
        [0.5, -0.587 / 1.402, -0.114 / 1.402],
    ],
    np.float32,
)
_TO_RGB = np.array(
    [[1.0, 0.0, 1.402], [1.0, -0.114 * 1.772 / 0.587, -0.299 * 1.402 / 0.587], [1.0, 1.772, 0.0]], np.float32
)
_FREQUENCY = np.arange(8)[:, None]
_COSINES = np.cos((2 * np.arange(8)[None] + 1) * _FREQUENCY * np.pi / 16) / 2
_COSINES[0] /= np.sqrt(2)  # [frequency, place], orthogonal
_COSINES = _COSINES.astype(np.float32)
# libjpeg rounds halves up in one column and down in the next: less than the step between two sums decides.
_TIE_OF_MEANS, _TIE_OF_NEIGHBOURS = np.float32(1 / 8), np.float32(1 / 32)
_TIE_OF_QUOTIENTS = np.float32(1e-3)


def to_nearest(x: jax.Array) -> jax.Array:
    """The nearest whole number, halves away from 0. Its derivative is 0 everywhere."""
    return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


def straight_through(x: jax.Array) -> jax.Array:
    """The nearest whole number, whose derivative is taken to be 1."""
    return x + lax.stop_gradient(to_nearest(x) - x)


def cubic_rounding(x: jax.Array) -> jax.Array:
    """round(x) + (x - round(x))^3: no whole number, but differentiable. Shin and Song 2017, "JPEG-resistant"."""
    nearest = lax.stop_gradient(to_nearest(x))
    return nearest + (x - nearest) ** 3


def quantisation_table(quality: Any, table: np.ndarray = LUMA_TABLE) -> Any:
    """libjpeg's table for a quality: clip((T s + 50) // 100, 1, 255), s = 5000 // q below 50 and 200 - 2 q from there.

    Args:
        quality: a whole number from 1 to 100; may be traced.
        table: `LUMA_TABLE` or `CHROMA_TABLE`, which are those of quality 50.

    Returns:
        int32 [8, 8], vertical by horizontal frequency.
    """
    xp = jnp if isinstance(quality, jax.Array) else np
    scale = xp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return xp.clip((table * scale + 50) // 100, 1, 255)


def jpeg(
    image: jax.Array,
    key: jax.Array | None = None,
    *,
    quality: int | tuple[int, int] = 75,
    subsampled: bool = True,
    rounding: Callable[[jax.Array], jax.Array] = to_nearest,
) -> jax.Array:
    """The image as it comes back from a JPEG file.

    Pixels differ by 0.01 to 0.5 levels in the mean from Pillow's (libjpeg computes in whole numbers), more at high
    qualities; where a coefficient lies between two steps, a block may be rounded otherwise. PSNRs are the same.

    Args:
        image: [H, W, C] in [-1, 1], of any size, grey (C = 1) or RGB; rounded to 256 levels first, as in a file.
        key: of the quality; unused where that is a number.
        quality: from 1 to 100. A pair: drawn evenly between these, both included, one for the image.
        subsampled: whether chroma has half the height and width (4:2:0, what Pillow and most cameras do), or all of it
            (4:4:4).
        rounding: how quantised coefficients are rounded, and pixels with them. With `straight_through` the result is
            the same and has a derivative; with `cubic_rounding` it is another.

    Returns:
        [H, W, C] in [-1, 1], on 256 levels.

    Raises:
        TypeError: for a quality that is drawn, and no key.
        ValueError: for a quality outside of 1..100, and for other channels than grey or RGB.
    """
    height, width, channels = image.shape
    if channels not in (1, 3):
        raise ValueError(f"JPEG holds 1 channel (grey) or 3 (RGB), not {channels}")
    number = _quality(key, quality)
    pixels = rounding(jnp.clip((image + 1.0) * 127.5, 0.0, 255.0))
    if channels == 1:
        pixels = _coded(pixels[..., 0], quantisation_table(number), rounding)[..., None]
        return _in_range(pixels)
    luma, blue, red = jnp.moveaxis(_times(_TO_YCBCR, pixels) + np.array([0.0, 128.0, 128.0], np.float32), -1, 0)
    luma = _coded(rounding(luma), quantisation_table(number), rounding)
    table = quantisation_table(number, CHROMA_TABLE)
    blue, red = (_coded_chroma(rounding(part), table, rounding, subsampled) for part in (blue, red))
    found = jnp.stack([luma, blue - 128.0, red - 128.0], axis=-1)
    return _in_range(rounding(jnp.clip(_times(_TO_RGB, found), 0.0, 255.0)))


def _quality(key, quality):
    pair = quality if isinstance(quality, (tuple, list)) else (quality, quality)
    if all(isinstance(end, int) for end in pair) and not 1 <= pair[0] <= pair[1] <= 100:
        shown = f"{pair[0]} to {pair[1]}" if isinstance(quality, (tuple, list)) else quality
        raise ValueError(f"the quality of a JPEG is from 1 to 100, not {shown}")
    if isinstance(quality, (tuple, list)):
        check_key(key)
        return jax.random.randint(key, (), quality[0], quality[1] + 1)
    return quality


def _in_range(pixels):
    return (2.0 * pixels - 255.0) * np.float32(1 / 255)


def _times(matrix, pixels):
    return jnp.einsum("dc,hwc->hwd", matrix, pixels, precision=lax.Precision.HIGHEST)


def _coded(plane, table, rounding):
    """One plane [H, W] of 0..255, quantised and back."""
    height, width = plane.shape
    padded = jnp.pad(plane, [(0, -height % 8), (0, -width % 8)], mode="edge")
    blocks = padded.reshape(padded.shape[0] // 8, 8, padded.shape[1] // 8, 8) - 128.0
    table = jnp.asarray(table, jnp.float32)[:, None, :]
    transform = jnp.asarray(_COSINES)
    coefficients = jnp.einsum("ui,hiwj,vj->huwv", transform, blocks, transform, precision=lax.Precision.HIGHEST)
    quotients = coefficients / table
    # Means of whole numbers lie on halves often, which floats miss by a little.
    kept = rounding(quotients + _TIE_OF_QUOTIENTS * jnp.sign(quotients)) * table
    found = jnp.einsum("ui,huwv,vj->hiwj", transform, kept, transform, precision=lax.Precision.HIGHEST)
    found = found.reshape(padded.shape)[:height, :width] + 128.0
    return rounding(jnp.clip(found, 0.0, 255.0))


def _coded_chroma(plane, table, rounding, subsampled):
    if not subsampled:
        return _coded(plane, table, rounding)
    height, width = plane.shape
    # As libjpeg: columns are repeated before they are averaged, up to a block, and rows after it.
    whole = jnp.pad(plane, [(0, height % 2), (0, -width % 16)], mode="edge")
    small = jnp.mean(whole.reshape(whole.shape[0] // 2, 2, whole.shape[1] // 2, 2), axis=(1, 3))
    small = _coded(rounding(small - _TIE_OF_MEANS * (np.arange(small.shape[1]) % 2 == 0)), table, rounding)
    small = small[:, : -(-width // 2)]
    large = _doubled(_doubled(small, 0), 1)[:height, :width]
    return rounding(large - _TIE_OF_NEIGHBOURS * (np.arange(width) % 2 == 1))


def _doubled(plane, axis):
    """Twice as long: 3/4 of the pixel that it lies in, 1/4 of the nearer neighbour, which libjpeg calls fancy."""
    plane = jnp.moveaxis(plane, axis, 0)
    before = jnp.concatenate([plane[:1], plane[:-1]])
    after = jnp.concatenate([plane[1:], plane[-1:]])
    pairs = jnp.stack([0.75 * plane + 0.25 * before, 0.75 * plane + 0.25 * after], axis=1)
    return jnp.moveaxis(pairs.reshape(-1, *plane.shape[1:]), 0, axis)
