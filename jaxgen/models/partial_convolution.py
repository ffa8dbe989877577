"""Partial convolutions and their U-Net (Liu, Reda, Shih, Wang, Tao and Catanzaro 2018).

A convolution of what is known alone, weighed by how little that is; a pixel is known afterwards if its window held any
that was. With kernel W, bias b and what is known k (1, or 0 in a hole), window by window:

    y = W . (x k) * (number of entries) / sum k + b  where sum k > 0, else 0;    k' = [sum k > 0]

A border counts as a hole: with everything known, y is a convolution's in the interior, 1.5 times it (without b) along
an edge of a 3x3 kernel, and 2.25 times in a corner.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxgen.models.convolution import Conv
from jaxgen.models.gated import doubled
from jaxgen.models.normalisation import Norm

kaiming = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class PartialConv(nn.Module):
    """Maps [B, H, W, C] and what is known of them -> ([B, H', W', features], known [B, H', W', 1]).

    H' = ceil(H / strides) for odd kernels. What is known is [B, H, W, 1], or [B, H, W, C] where channels differ.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    use_bias: bool = True
    kernel_init: Any = kaiming
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, known: jax.Array) -> tuple[jax.Array, jax.Array]:
        size, pad = self.kernel_size, self.kernel_size // 2
        conv = Conv(
            self.features,
            size,
            self.strides,
            pad,
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
        )
        y = conv(jnp.where(known > 0, x, 0))
        share = lax.stop_gradient(jnp.mean(known.astype(jnp.float32), axis=-1, keepdims=True))
        window, strides = (1, size, size, 1), (1, self.strides, self.strides, 1)
        count = lax.reduce_window(share, 0.0, lax.add, window, strides, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        after = (count > 0).astype(jnp.float32)
        y = y * (after * size**2 / jnp.maximum(count, 1 / x.shape[-1])).astype(y.dtype)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(y.dtype)
            y *= after.astype(y.dtype)
        return y, after


class PartialUNet(nn.Module):
    """Images with their mask as the last channel [B, H, W, C + 1] -> images [B, H, W, C], not bounded, float32.

    Halvings by 7x7, 5x5, 5x5 and 3x3 partial convolutions with batch normalisation (but in the first) and ReLU, up to
    eight times `features`; then each map is doubled, put beside the one of that size, and convolved, with leaky ReLU
    0.2. 32,859,732 parameters with eight halvings and 64 features.

    Raises:
      ValueError: at trace time, for sides that cannot be halved so often.
    """

    features: int = 64
    halvings: int = 8
    statistics: str = "running"
    dtype: Any = None
    axis_name: str | None = None

    @property
    def factor(self) -> int:
        """Of which sides of images are multiples."""
        return 2**self.halvings

    @nn.compact
    def __call__(self, told: jax.Array, *, train: bool) -> jax.Array:
        if told.shape[1] % self.factor or told.shape[2] % self.factor:
            raise ValueError(
                f"a U-Net of {self.halvings} halvings takes sides that are multiples of {self.factor}, not "
                f"{told.shape[1]}x{told.shape[2]}"
            )
        x, known = told[..., :-1], 1 - told[..., -1:]
        channels, ones = x.shape[-1], nn.initializers.ones

        def normalised(x):
            norm = Norm("batch", self.statistics, scale_init=ones, dtype=self.dtype, axis_name=self.axis_name)
            return norm(x, train=train)

        def width(i):
            return self.features * min(2**i, 8)

        maps = [(x, known)]
        for i in range(self.halvings):
            size = (7, 5, 5)[i] if i < 3 else 3
            x, known = PartialConv(width(i), size, 2, use_bias=False, dtype=self.dtype)(*maps[-1])
            maps.append((nn.relu(normalised(x) if i else x), known))
        x, known = maps.pop()
        for i in reversed(range(self.halvings)):
            skip, seen = maps.pop()
            of_each = [jnp.repeat(doubled(known), x.shape[-1], axis=-1), jnp.repeat(seen, skip.shape[-1], axis=-1)]
            x = jnp.concatenate([doubled(x), skip.astype(x.dtype)], axis=-1)
            last = i == 0
            conv = PartialConv(channels if last else width(i - 1), use_bias=last, dtype=self.dtype)
            x, known = conv(x, jnp.concatenate(of_each, axis=-1))
            x = x if last else nn.leaky_relu(normalised(x), 0.2)
        return x.astype(jnp.float32)
