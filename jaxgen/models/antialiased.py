"""3x3 convolutions that change the size by two without aliasing (Zhang 2019; Karras et al. 2019, 2020).

Enlarging: zeros between pixels, the convolution, then the filter 1 3 3 1. Halving: the filter, then the convolution at
every second pixel. Either is one convolution at the smaller size; one at the larger size, before or after the filter,
would take four times the arithmetic. Away from the border the order does not matter; at the border what a filter or a
kernel sees of the outside is zero.

The kernel gets a fourth row and column of zeros: then it is two strides wide, as the fast forms for CPUs need it
(`models.winograd`), with nine multiplications for each pixel of the smaller map and channel, as three taps would take.
Accelerators multiply these zeros: 16 for 9, in one of the two convolutions of a block, the cheaper one.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.models import fir
from jaxgen.models.convolution import Geometry, convolve, transposed
from jaxgen.models.equalised import EqualisedConv

_TAPS = np.asarray(fir.BINOMIAL) / sum(fir.BINOMIAL)


def enlarge(x: jax.Array, w: jax.Array) -> jax.Array:
    """The convolution of the enlarged image: [B, H, W, C] -> [B, 2 H, 2 W, O].

    Args:
      x: images.
      w: kernel [3, 3, C, O].
    """
    adjoint = _four_wide(jnp.flip(w, (0, 1)).swapaxes(2, 3))  # of the convolution that this is the adjoint of
    size = tuple(2 * n + 2 for n in x.shape[1:3])
    spread = transposed(x, adjoint, Geometry(size, (4, 4), (2, 2), ((0, 0), (0, 0))))
    return fir.upfirdn(spread, 2 * _TAPS, padding=(1, 0))


def halve(x: jax.Array, w: jax.Array) -> jax.Array:
    """Every second pixel, along both axes, of the convolution of the filtered image: [B, H / 2, W / 2, O].

    Args:
      x: images [B, H, W, C] of even height and width.
      w: kernel [3, 3, C, O].
    """
    filtered = fir.upfirdn(x, _TAPS, padding=(2, 3))
    return convolve(filtered, _four_wide(w), Geometry(filtered.shape[1:3], (4, 4), (2, 2), ((0, 0), (0, 0))))


def _four_wide(w):
    return jnp.pad(w, ((0, 1), (0, 1), (0, 0), (0, 0)))


class HalvingConv(EqualisedConv):
    """A 3x3 convolution that halves the size: [B, H, W, C] -> [B, H / 2, W / 2, features], the rate equalised."""

    kernel_size: int = 3

    def scaled_operation(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Without the bias."""
        return halve(x, kernel)
