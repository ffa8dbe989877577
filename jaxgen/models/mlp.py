"""Small multilayer perceptrons: both players for two-dimensional toy data, encoder and decoder of the IWAE paper."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def _at_least_single_precision(x):
    # Half precision ends here; double precision, in which theory is tested, goes on.
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Generator(nn.Module):
    """[B, latent_dim] -> points [B, features]."""

    features: int = 2
    widths: Sequence[int] = (128, 128)
    activation: Callable = nn.relu
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
        x = z
        for width in self.widths:
            x = self.activation(nn.Dense(width, dtype=self.dtype)(x))
        return _at_least_single_precision(nn.Dense(self.features, dtype=self.dtype)(x))


class Discriminator(nn.Module):
    """Points [B, ...] -> logits [B]."""

    widths: Sequence[int] = (128, 128)
    activation: Callable = nn.relu
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for width in self.widths:
            x = self.activation(nn.Dense(width, dtype=self.dtype)(x))
        return _at_least_single_precision(nn.Dense(1, dtype=self.dtype)(x)[:, 0])


class Encoder(nn.Module):
    """Images [B, H, W, C] -> posterior (mean, logvar), each [B, latent_dim]. 784-200-200-50, tanh (Burda et al. 2016).

    Weights are drawn as by Glorot and Bengio (2010), the paper's initialisation. Pixels of {-1, 1} go in as {0, 1}.
    """

    latent_dim: int = 50
    widths: Sequence[int] = (200, 200)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        x = (x.reshape(x.shape[0], -1) + 1) / 2
        for width in self.widths:
            x = nn.tanh(nn.Dense(width, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype)(x))
        x = nn.Dense(2 * self.latent_dim, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype)(x)
        mean, logvar = jnp.split(_at_least_single_precision(x), 2, axis=-1)
        return mean, logvar


class BernoulliDecoder(nn.Module):
    """[B, latent_dim] -> logits [B, *image_shape] of the pixels being 1. 50-200-200-784, tanh (Burda et al. 2016)."""

    image_shape: tuple[int, int, int] = (28, 28, 1)
    widths: Sequence[int] = (200, 200)
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
        x, (h, w, c) = z, self.image_shape
        for width in self.widths:
            x = nn.tanh(nn.Dense(width, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype)(x))
        x = nn.Dense(h * w * c, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype)(x)
        return _at_least_single_precision(x.reshape(-1, h, w, c))
