"""Filters of few taps along height and width, for enlarging and shrinking without aliasing (Zhang 2019; Karras et al.
2020, appendix B).

`upfirdn` puts zeros between pixels, pads, filters and keeps every few: the operation that StyleGAN2 calls upfirdn2d.
A filter is the same for both axes and all channels, so it is a sum of shifted images, weighted, along one axis and then
the other: no convolution, and no zeros are multiplied. As a convolution of single channels it is 100 times slower on
CPU. Everything is linear in the images, and so are all derivatives.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

BINOMIAL = (1, 3, 3, 1)  # StyleGAN2's taps


def upfirdn(
    x: jax.Array, taps: Sequence[float] | np.ndarray, *, up: int = 1, down: int = 1, padding: tuple[int, int] = (0, 0)
) -> jax.Array:
    """Zeros between pixels, padding, a convolution with the taps, and every `down`-th of what comes out, on both axes.

    Args:
      x: [N, H, W, C].
      taps: [T], of each axis, as they are: a mean needs taps that add up to 1.
      up: up - 1 zeros follow each pixel.
      down: of the filtered pixels, the first and every `down`-th after it are kept.
      padding: zeros (before, after) along both axes; negative ones crop.

    Returns:
      [N, H', W', C] with H' = (H up + sum(padding) - T) // down + 1, in the dtype of x.

    Raises:
      ValueError: at trace time, where nothing is left.
    """
    filtered_by = np.asarray(taps, np.float64)
    for axis in (1, 2):
        x = _along(x, axis, filtered_by, up, down, padding)
    return x


def _along(x, axis, taps, up, down, padding):
    size = (x.shape[axis] * up + sum(padding) - len(taps)) // down + 1
    if size < 1:
        raise ValueError(f"nothing is left of {x.shape[axis]} pixels after {len(taps)} taps with padding {padding}")
    period = up // math.gcd(up, down)  # outputs, after which the taps meet the same pixels again, `stride` further on
    count, stride = -(-size // period), period * down // up

    def phase(r):
        """Outputs r, r + period, ...: those taps alone that meet a pixel and not a zero."""
        meets = [
            (t, (r * down - padding[0] + t) // up) for t in range(len(taps)) if (r * down - padding[0] + t) % up == 0
        ]
        if not meets:
            return jnp.zeros((*x.shape[:axis], count, *x.shape[axis + 1 :]), x.dtype)
        first, last = meets[0][1], meets[-1][1] + (count - 1) * stride
        ends = [(-first, last + 1 - x.shape[axis], 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
        seen = lax.pad(x, jnp.zeros((), x.dtype), ends)
        shifted = (
            lax.slice_in_dim(seen, start - first, start - first + (count - 1) * stride + 1, stride, axis)
            for _, start in meets
        )
        weights = (taps[len(taps) - 1 - t] for t, _ in meets)  # a convolution meets the last tap first
        return sum(s * jnp.asarray(w, x.dtype) for s, w in zip(shifted, weights, strict=True))

    phases = jnp.stack([phase(r) for r in range(period)], axis + 1)
    phases = phases.reshape(*x.shape[:axis], count * period, *x.shape[axis + 1 :])
    return lax.slice_in_dim(phases, 0, size, axis=axis)


def upsample(x: jax.Array, taps: Sequence[float] = BINOMIAL, factor: int = 2) -> jax.Array:
    """[N, H, W, C] -> [N, factor H, factor W, C], of the same mean brightness: taps are scaled to add up to 1."""
    extra = len(taps) - factor
    return upfirdn(x, _unit(taps) * factor, up=factor, padding=((extra + 1) // 2 + factor - 1, extra // 2))


def downsample(x: jax.Array, taps: Sequence[float] = BINOMIAL, factor: int = 2) -> jax.Array:
    """[N, H, W, C] -> [N, H / factor, W / factor, C], of the same mean brightness: taps are scaled to add up to 1."""
    extra = len(taps) - factor
    return upfirdn(x, _unit(taps), down=factor, padding=((extra + 1) // 2, extra // 2))


def _unit(taps):
    return np.asarray(taps, np.float64) / np.sum(taps)
