"""Gated convolutions, and the networks of DeepFill v2 (Yu et al. 2019): 4,052,478 and 5,946,816 parameters.

A layer learns where to look: one half of a convolution's outputs, through a sigmoid, says how much of the other half
passes. The generator fills the hole coarsely, and fills it again beside what it knows; one of the two branches of the
second stage pastes known patches. The discriminator has spectral normalisation, and a logit for each number of its
last map.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.contextual_attention import contextual_attention
from jaxgen.models.convolution import Conv, max_pool
from jaxgen.models.spectral_norm import SpectralConv
from jaxgen.network import Output

xavier = nn.initializers.xavier_uniform()


def at_rate(run: Callable[[jax.Array], jax.Array], x: jax.Array, rate: int) -> jax.Array:
    """What a function of maps makes of every `rate`-th pixel, of each of the rate^2 such maps: [B, H, W, C] -> C'.

    With a convolution that keeps sizes and is padded by zeros it is the same convolution dilated by `rate`.
    """
    if rate == 1:
        return run(x)
    b, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -height % rate), (0, -width % rate), (0, 0)))
    h, w = x.shape[1] // rate, x.shape[2] // rate
    x = x.reshape(b, h, rate, w, rate, channels).transpose(0, 2, 4, 1, 3, 5).reshape(-1, h, w, channels)
    y = run(x)
    y = y.reshape(b, rate, rate, h, w, -1).transpose(0, 3, 1, 4, 2, 5).reshape(b, h * rate, w * rate, -1)
    return y[:, :height, :width]


def doubled(x: jax.Array) -> jax.Array:
    """Each pixel four times: [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class GatedConv(nn.Module):
    """activation(y) sigmoid(g), y and g the halves of a convolution of 2 `features`: [B, H, W, C] -> features.

    Padded by zeros so that sizes stay, or are halved with strides of 2. Yu et al. 2019, eq. 3.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    rate: int = 1  # of dilation
    activation: Callable[[jax.Array], jax.Array] = nn.elu
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = self.kernel_size
        conv = Conv(2 * self.features, size, self.strides, size // 2, kernel_init=xavier, dtype=self.dtype)
        y, gate = jnp.split(at_rate(conv, x, self.rate), 2, axis=-1)
        return self.activation(y) * nn.sigmoid(gate)


class GatedGenerator(nn.Module):
    """Images with their mask as the last channel [B, H, W, C + 1] -> an `Output`: completed images, and stages.

    Completed images are [B, H, W, C] in [-1, 1], float32: those of the second stage in the hole, the source elsewhere.
    The stages, (coarse, fine), are what both make of the whole image.

    Raises:
      ValueError: at trace time, for sides that are no multiples of 8.
    """

    features: int = 24  # channels of the first layer, doubled at both halvings
    rates: tuple[int, ...] = (2, 4, 8, 16)  # of dilated layers
    attention: bool = True
    dtype: Any = None

    factor = 8

    @nn.compact
    def __call__(self, told: jax.Array, *, train: bool) -> Output:
        if told.shape[1] % 8 or told.shape[2] % 8:
            raise ValueError(
                f"sides are halved three times: they must be multiples of 8, not {told.shape[1]}x{told.shape[2]}"
            )
        image, mask = told[..., :-1], told[..., -1:]
        channels, width = image.shape[-1], self.features
        image = image * (1 - mask)

        def gated(x, times, size=3, strides=1, **settings):
            return GatedConv(int(times * width), size, strides, dtype=self.dtype, **settings)(x)

        def dilated(x):
            for rate in self.rates:
                x = gated(x, 4, rate=rate)
            return x

        def decoded(x):
            x = gated(gated(x, 4), 4)
            x = gated(gated(doubled(x), 2), 2)
            x = gated(gated(doubled(x), 1), 0.5)
            x = Conv(channels, 3, padding=1, kernel_init=xavier, dtype=self.dtype)(x)
            return jnp.tanh(x.astype(jnp.float32))

        x = jnp.concatenate([image, jnp.ones_like(mask), mask], axis=-1)
        x = gated(gated(gated(x, 1, 5), 2, strides=2), 2)
        x = gated(gated(gated(x, 4, strides=2), 4), 4)
        coarse = decoded(dilated(x))
        again = jnp.where(mask > 0, coarse, image)
        x = gated(gated(gated(again, 1, 5), 1, strides=2), 2)
        x = gated(gated(gated(x, 2, strides=2), 4), 4)
        branch = dilated(x)
        if self.attention:
            y = gated(gated(gated(again, 1, 5), 1, strides=2), 2)
            y = gated(gated(gated(y, 4, strides=2), 4), 4, activation=nn.relu)
            y = contextual_attention(y, max_pool(mask, 4))
            branch = jnp.concatenate([branch, gated(gated(y, 4), 4)], axis=-1)
        fine = decoded(branch)
        return Output(jnp.where(mask > 0, fine, image), (coarse, fine))


class SNPatchDiscriminator(nn.Module):
    """Images [B, H, W, C] and their mask [B, H, W, 1] -> logits [B, h, w, c], float32, a number of the last map each.

    5x5 convolutions with strides of 2 and leaky ReLU 0.2; the last has none. Yu et al. 2019, section 3.3.
    """

    features: int = 64
    num_layers: int = 6
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool) -> jax.Array:
        x = jnp.concatenate([x, mask.astype(x.dtype)], axis=-1)
        for i in range(self.num_layers):
            x = nn.leaky_relu(x, 0.2) if i else x
            width = self.features * min(2**i, 4)
            x = SpectralConv(width, 5, 2, 2, kernel_init=xavier, dtype=self.dtype)(x, train=train)
        return x.astype(jnp.float32)
