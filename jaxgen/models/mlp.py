"""Small multilayer perceptrons: both players for two-dimensional toy data, encoder and decoder of the IWAE paper."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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

    Weights are drawn as by Glorot and Bengio (2010), the paper's initialisation. Pixels of {-1, 1} go in as {0, 1}. For
    another posterior `sizes` are those of what it reads: then as many arrays are returned. With `num_classes` a label
    [B] goes in beside the pixels.
    """

    latent_dim: int = 50
    widths: Sequence[int] = (200, 200)
    dtype: Any = None
    sizes: tuple[int, ...] | None = None
    num_classes: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array | None = None, *, train: bool) -> tuple[jax.Array, ...]:
        x = _with_label((x.reshape(x.shape[0], -1) + 1) / 2, label, self.num_classes)
        for width in self.widths:
            x = nn.tanh(nn.Dense(width, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype)(x))
        sizes = self.sizes or (self.latent_dim, self.latent_dim)
        x = nn.Dense(sum(sizes), kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype)(x)
        return split(_at_least_single_precision(x), sizes)


def split(x: jax.Array, sizes: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """The last axis in parts of these sizes."""
    return tuple(jnp.split(x, np.cumsum(sizes)[:-1].tolist(), axis=-1))


def _with_label(x, label, num_classes):
    if (label is None) != (num_classes == 0):
        raise ValueError(f"a network for {num_classes} classes is told {'no label' if label is None else 'a label'}")
    return x if label is None else jnp.concatenate([x, jax.nn.one_hot(label, num_classes, dtype=x.dtype)], axis=-1)


class Gaussian(nn.Module):
    """[..., n] -> (mean, logvar), each [..., features], by tanh layers: between two layers of latents."""

    features: int
    widths: Sequence[int] = (100, 100)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        for width in self.widths:
            x = nn.tanh(nn.Dense(width, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype)(x))
        x = nn.Dense(2 * self.features, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype)(x)
        return split(_at_least_single_precision(x), (self.features, self.features))


class BernoulliDecoder(nn.Module):
    """[B, latent_dim] -> logits [B, *image_shape] of the pixels being 1. 50-200-200-784, tanh (Burda et al. 2016).

    With `num_classes` a label [B] goes in beside the latents; with `latent_dim` only so many of them, the first.
    """

    image_shape: tuple[int, int, int] = (28, 28, 1)
    widths: Sequence[int] = (200, 200)
    dtype: Any = None
    num_classes: int = 0
    latent_dim: int | None = None

    @nn.compact
    def __call__(self, z: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array:
        x, (h, w, c) = _with_label(z[..., : self.latent_dim], label, self.num_classes), self.image_shape
        for width in self.widths:
            x = nn.tanh(nn.Dense(width, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype)(x))
        x = nn.Dense(h * w * c, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype)(x)
        return _at_least_single_precision(x.reshape(-1, h, w, c))
