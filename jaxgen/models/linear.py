"""A linear encoder and decoder: the autoencoder of which theory knows everything (`metrics.collapse`)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


class Encoder(nn.Module):
    """Images [B, H, W, C] -> mean, linear in the image, and logvar, the same for all images: each [B, latent_dim]."""

    latent_dim: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        mean = nn.Dense(self.latent_dim, dtype=self.dtype)(x.reshape(x.shape[0], -1))
        mean = mean.astype(jnp.promote_types(mean.dtype, jnp.float32))
        logvar = self.param("logvar", nn.initializers.zeros, (self.latent_dim,), mean.dtype)
        return mean, jnp.broadcast_to(logvar, mean.shape)


class Decoder(nn.Module):
    """[B, latent_dim] -> (mean, logvar) of images [B, H, W, C], for `variational.gaussian`; the variance is fixed.

    The mean is linear in the latents or, with `widths`, behind tanh layers of these.
    """

    image_shape: tuple[int, int, int]
    variance: float
    widths: Sequence[int] = ()
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        x, (h, w, c) = z, self.image_shape
        for width in self.widths:
            x = nn.tanh(nn.Dense(width, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype)(x))
        mean = nn.Dense(h * w * c, dtype=self.dtype)(x).reshape(-1, h, w, c)
        mean = mean.astype(jnp.promote_types(mean.dtype, jnp.float32))
        return mean, jnp.full_like(mean, np.log(self.variance))
