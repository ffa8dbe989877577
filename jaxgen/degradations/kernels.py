"""Kernels of blur: arrays [size, size] that add up to 1, their centre in the middle. Settings may be traced.

Shapes are those of Real-ESRGAN's pipeline (Wang, Xie, Dong and Shan 2021, section 3).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def gaussian(
    size: int, sigma: Any, *, sigma_across: Any = None, angle: Any = 0.0, beta: Any = 1.0, plateau: bool = False
) -> jax.Array:
    """A Gaussian and its relatives: with q = x' S^-1 x,

        exp(-q^beta / 2),   or with a plateau   1 / (1 + q^beta)

    where the axes of S have the standard deviations sigma and sigma_across. Of beta 1 without a plateau the covariance
    is S, as far as the kernel holds it and the grid is fine enough (sigma from 0.7 on).

    Args:
        size: side in pixels, odd.
        sigma: standard deviation in pixels along the first axis.
        sigma_across: along the second one; as sigma by default (isotropic).
        angle: of the first axis, in radians from the horizontal.
        beta: 1 for a Gaussian; less has longer tails, more is flatter.
        plateau: the second formula.

    Returns:
        float32 [size, size].

    Raises:
        ValueError: for an even size, or a sigma of 0 or below.
    """
    x, y = _grid(size)
    across = sigma if sigma_across is None else sigma_across
    for value in (sigma, across):
        if isinstance(value, (int, float)) and value <= 0:
            raise ValueError(f"the sigma of a blur must be above 0, not {value:g}")
    along = (jnp.cos(angle) * x + jnp.sin(angle) * y) / sigma
    aside = (jnp.cos(angle) * y - jnp.sin(angle) * x) / across
    q = (along**2 + aside**2) ** beta
    return _normalised(1.0 / (1.0 + q) if plateau else jnp.exp(-0.5 * q))


def sinc(size: int, cutoff: Any) -> jax.Array:
    """The circular low-pass filter c J_1(c r) / (2 pi r), which rings as sharpened and compressed pictures do.

    Args:
        size: side in pixels, odd.
        cutoff: c, in radians a pixel, up to pi.

    Returns:
        float32 [size, size].
    """
    x, y = _grid(size)
    distance = np.hypot(x, y)
    away = np.where(distance > 0, distance, 1.0)
    ring = cutoff * _bessel_1(cutoff * away) / (2.0 * np.pi * away)
    return _normalised(jnp.where(distance > 0, ring, cutoff**2 / (4.0 * np.pi)))


def motion(size: int, length: Any, angle: Any) -> jax.Array:
    """A straight stroke through the middle, one pixel wide, its edges antialiased.

    Args:
        size: side in pixels, odd.
        length: of the stroke in pixels.
        angle: in radians from the horizontal.

    Returns:
        float32 [size, size].
    """
    x, y = _grid(size)
    along, aside = jnp.cos(angle) * x + jnp.sin(angle) * y, jnp.cos(angle) * y - jnp.sin(angle) * x
    beyond = jnp.maximum(0.0, jnp.abs(along) - (length - 1.0) / 2.0)
    return _normalised(jnp.maximum(0.0, 1.0 - jnp.hypot(beyond, aside)))


def identity(size: int) -> jax.Array:
    """1 in the middle: no blur. float32 [size, size]."""
    _grid(size)
    return jnp.zeros((size, size)).at[size // 2, size // 2].set(1.0)


def _grid(size):
    if size < 1 or size % 2 == 0:
        raise ValueError(f"a kernel has a middle: its size must be odd and at least 1, not {size}")
    axis = np.arange(size, dtype=np.float32) - size // 2
    return np.meshgrid(axis, axis)


def _normalised(kernel):
    return kernel / jnp.sum(kernel)


def _bessel_1(x, points=128):
    """J_1(x), the mean of cos(t - x sin t) over a period: to rounding for |x| below some 80, as all terms before
    J_127 cancel."""
    t = np.arange(points, dtype=np.float32) * np.float32(2.0 * np.pi / points)
    return jnp.mean(jnp.cos(t - x[..., None] * np.sin(t)), axis=-1)
