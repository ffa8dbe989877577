"""Convolutions whose channels a style scales, and whose outputs are brought back to unit variance (Karras et al. 2020).

With a style s the kernel of an image is w'_abco = s_c w_abco, and demodulated

    w''_abco = w'_abco / sqrt(sum_abc w'_abco^2 + 1e-8),

so that outputs of independent inputs of unit variance have unit variance. No image needs a kernel of its own: scaling
the input's channels by s, and the output's by one over that root, is the same, in one convolution of the whole batch.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from jaxgen.models import antialiased
from jaxgen.models.convolution import Geometry, convolve
from jaxgen.models.equalised import EqualisedDense, equalised
from jaxgen.models.noise import draw_noise


def activate(x: jax.Array) -> jax.Array:
    """sqrt(2) times the leaky ReLU of slope 0.2."""
    return nn.leaky_relu(x, 0.2) * np.asarray(np.sqrt(2), x.dtype)


def modulated(
    x: jax.Array, w: jax.Array, style: jax.Array, *, enlarge: bool = False, demodulate: bool = True
) -> jax.Array:
    """Convolution of each image with its own kernel.

    Args:
      x: images [B, H, W, C].
      w: kernel [k, k, C, O] of odd k, before it is modulated; 3 with enlarge.
      style: [B, C].
      enlarge: whether the image is enlarged to twice its size (`antialiased.enlarge`).
      demodulate: whether outputs are brought back to unit variance.

    Returns:
      [B, H, W, O], or [B, 2 H, 2 W, O], in the dtype of x.
    """
    style, w = style.astype(jnp.float32), w.astype(jnp.float32)
    scaled, kernel = x * style[:, None, None].astype(x.dtype), w.astype(x.dtype)
    if enlarge:
        y = antialiased.enlarge(scaled, kernel)
    else:
        padding = ((len(w) // 2,) * 2,) * 2
        y = convolve(scaled, kernel, Geometry(x.shape[1:3], w.shape[:2], (1, 1), padding))
    if demodulate:
        scale = lax.rsqrt(jnp.square(style) @ jnp.sum(jnp.square(w), axis=(0, 1)) + 1e-8)
        y = y * scale[:, None, None].astype(y.dtype)
    return y


class StyledConv(nn.Module):
    """Maps [B, H, W, C] and styles [B, D] -> [B, H, W, features], or twice that size.

    A modulated 3x3 convolution, noise of a learned strength (0 at first), a bias and the activation. The style's own
    scale of a channel is linear in w, 1 at first.
    """

    features: int
    enlarge: bool = False
    dtype: Any = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
        style = EqualisedDense(x.shape[-1], bias_init=1.0, name="style")(w)
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        strength = self.param("noise_strength", nn.initializers.zeros, (), jnp.float32)
        x = modulated(x.astype(self.dtype or x.dtype), equalised(kernel), style, enlarge=self.enlarge)
        noise = strength * draw_noise(self, x.shape)
        return activate(x + noise.astype(x.dtype) + bias.astype(x.dtype))


class ToImage(nn.Module):
    """Maps [B, H, W, C] and styles [B, D] -> [B, H, W, features], float32: a 1x1 convolution, modulated alone."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
        style = EqualisedDense(x.shape[-1], bias_init=1.0, name="style")(w)
        shape = (1, 1, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        y = modulated(x.astype(self.dtype or x.dtype), equalised(kernel), style, demodulate=False)
        return y.astype(jnp.float32) + bias
