"""Equalised learning rates: layers that scale their kernel when they run, not when it is drawn (Karras et al. 2018).

Every kernel is standard normal at first, and is multiplied by gain / sqrt(fan_in) in each pass. Outputs start as with
the initialisation of He et al.; but Adam, whose steps have the size of its rate, then moves all kernels by the same
share of their size, wide layers as fast as narrow ones. A gain of sqrt(2) makes up for a ReLU after the layer.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from jaxgen.models.convolution import Conv


def equalised(kernel: jax.Array, gain: float = 1.0) -> jax.Array:
    """kernel * gain / sqrt(fan_in), fan_in being the product of all axes but the last."""
    return kernel * np.asarray(gain / np.sqrt(np.prod(kernel.shape[:-1])), kernel.dtype)


class EqualisedDense(nn.Module):
    """y = rate (x W gain / sqrt(fan_in) + b): [..., fan_in] -> [..., features].

    W is normal with deviation 1 / rate at first, so that y does not depend on `rate` then; from there on an optimiser
    such as Adam moves y `rate` times as far. The bias starts at bias_init / rate for the same reason.
    """

    features: int
    rate: float = 1.0  # multiplies the optimiser's learning rate
    gain: float = 1.0
    bias_init: float = 0.0  # what it adds to y at first
    dtype: Any = None  # of the computation; parameters are float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        normal, constant = nn.initializers.normal(1 / self.rate), nn.initializers.constant(self.bias_init / self.rate)
        kernel = self.param("kernel", normal, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", constant, (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, equalised(kernel, self.gain * self.rate), bias, dtype=self.dtype)
        return x @ kernel + bias * self.rate


class EqualisedConv(Conv):
    """A convolution [N, H, W, C] -> [N, H', W', features] of the kernel times gain / sqrt(fan_in)."""

    gain: float = 1.0
    kernel_init: Any = nn.initializers.normal(1.0)

    def operation(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Without the bias."""
        return self.scaled_operation(x, equalised(kernel, self.gain))

    def scaled_operation(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """With the scaled kernel; a layer that joins the convolution with something else replaces it."""
        return super().operation(x, kernel)


def normalised(x: jax.Array) -> jax.Array:
    """x over the root of the mean square of its last axis, float32."""
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-8)
