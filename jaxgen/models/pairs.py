"""Multilayer perceptrons between images and codes, and discriminators of codes and of pairs of both.

Of the adversarial autoencoder (Makhzani et al. 2015) and of BiGAN on MNIST (Donahue, Krahenbuhl and Darrell 2017).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def _hidden(x, widths, slope, batch_norm, train, dtype, axis_name, first=0):
    """Dense layers with leaky ReLU; batch normalisation from layer `first` on, if at all."""
    for i, width in enumerate(widths):
        normalised = batch_norm and i >= first
        x = nn.Dense(width, use_bias=not normalised, dtype=dtype)(x)
        if normalised:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=dtype, axis_name=axis_name)(x)
        x = nn.leaky_relu(x, slope)
    return x


class Encoder(nn.Module):
    """Images [B, H, W, C] in [-1, 1] -> codes [B, latent_dim], float32, not bounded."""

    latent_dim: int = 8
    widths: Sequence[int] = (1000, 1000)
    slope: float = 0.0  # of leaky ReLU below 0; 0: ReLU
    batch_norm: bool = False
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.reshape(len(x), -1)
        x = _hidden(x, self.widths, self.slope, self.batch_norm, train, self.dtype, self.axis_name)
        return nn.Dense(self.latent_dim, dtype=self.dtype)(x).astype(jnp.float32)


class Decoder(nn.Module):
    """Codes [B, latent_dim] -> images [B, *image_shape] in [-1, 1], float32."""

    image_shape: tuple[int, int, int] = (28, 28, 1)
    widths: Sequence[int] = (1000, 1000)
    batch_norm: bool = False
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
        h, w, c = self.image_shape
        x = _hidden(z, self.widths, 0.0, self.batch_norm, train, self.dtype, self.axis_name)
        return jnp.tanh(nn.Dense(h * w * c, dtype=self.dtype)(x).astype(jnp.float32)).reshape(-1, h, w, c)


class CodeDiscriminator(nn.Module):
    """Codes [B, latent_dim] -> logits [B], float32.

    With `log_prior`, log N(z; 0, 1) is added, so that the layers have to learn -log q(z) alone: the best logit is
    log p(z) - log q(z) (Tolstikhin et al. 2018).
    """

    widths: Sequence[int] = (1000, 1000)
    slope: float = 0.0
    log_prior: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
        x = _hidden(z, self.widths, self.slope, False, train, self.dtype, None)
        logits = nn.Dense(1, dtype=self.dtype)(x)[:, 0].astype(jnp.float32)
        if self.log_prior:
            logits += -0.5 * jnp.sum(jnp.square(z) + jnp.log(2 * jnp.pi), axis=-1)
        return logits


class PairDiscriminator(nn.Module):
    """Images [B, H, W, C] with codes [B, latent_dim] -> logits [B], float32: of the pair, not of either."""

    widths: Sequence[int] = (1024, 1024)
    batch_norm: bool = True  # in all layers but the first
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, z: jax.Array, *, train: bool) -> jax.Array:
        both = jnp.concatenate([x.reshape(len(x), -1), z], axis=-1)
        both = _hidden(both, self.widths, 0.2, self.batch_norm, train, self.dtype, self.axis_name, first=1)
        return nn.Dense(1, dtype=self.dtype)(both)[:, 0].astype(jnp.float32)
