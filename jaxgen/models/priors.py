"""Priors p(z) of variational autoencoders.

A prior is a Flax module, often without parameters, with

    log_prob(z [..., d], recognition)   -> [...] nats
    sample(draw, n, recognition)        -> [n, d]; `draw` as in `posteriors`
    gaussian()                          -> (mean, logvar), where it is a diagonal Gaussian: then the rate is exact

`recognition` is the model's own q(z|x) as two functions of images, which only VampPrior asks for.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.losses import von_mises_fisher as vmf
from jaxgen.models.posteriors import Draw, log_normal


class Recognition(NamedTuple):
    """q(z|x) of the model whose prior this is.

    log_prob: (images [K, H, W, C], z [n, d]) -> [n, K] nats, each z under each image's posterior.
    sample: (images [n, H, W, C], draw) -> [n, d], one latent for each image.
    """

    log_prob: Callable
    sample: Callable


class StandardNormal(nn.Module):
    """N(0, I)."""

    latent_dim: int | None = None  # only `sample` needs it

    def gaussian(self) -> tuple[Any, Any]:
        """(0, 0)."""
        return 0.0, 0.0

    def log_prob(self, z: jax.Array, recognition: Recognition | None = None) -> jax.Array:
        """[..., d] -> [...]."""
        return log_normal(z)

    def sample(self, draw: Draw, num: int, recognition: Recognition | None = None) -> jax.Array:
        """[num, latent_dim]."""
        if self.latent_dim is None:
            raise ValueError("a standard normal prior is sampled by its number of latents: StandardNormal(latent_dim)")
        return draw(jax.random.normal, (num, self.latent_dim))


class LearnedNormal(nn.Module):
    """N(mean, exp(logvar)), both learned; they start at 0."""

    latent_dim: int

    def setup(self) -> None:
        """Its parameters."""
        self.mean = self.param("mean", nn.initializers.zeros, (self.latent_dim,), jnp.float32)
        self.logvar = self.param("logvar", nn.initializers.zeros, (self.latent_dim,), jnp.float32)

    def gaussian(self) -> tuple[Any, Any]:
        """(mean, logvar)."""
        return self.mean, self.logvar

    def log_prob(self, z: jax.Array, recognition: Recognition | None = None) -> jax.Array:
        """[..., d] -> [...]."""
        return log_normal(z, self.mean, self.logvar)

    def sample(self, draw: Draw, num: int, recognition: Recognition | None = None) -> jax.Array:
        """[num, d]."""
        return self.mean + jnp.exp(0.5 * self.logvar) * draw(jax.random.normal, (num, self.latent_dim))


class Mixture(nn.Module):
    """sum_j w_j N(mean_j, exp(logvar_j)), all learned; the means start as standard normal numbers."""

    latent_dim: int
    num_components: int = 10

    def setup(self) -> None:
        """Its parameters."""
        shape = (self.num_components, self.latent_dim)
        self.mean = self.param("mean", nn.initializers.normal(1.0), shape, jnp.float32)
        self.logvar = self.param("logvar", nn.initializers.zeros, shape, jnp.float32)
        self.logits = self.param("logits", nn.initializers.zeros, shape[:1], jnp.float32)

    def log_prob(self, z: jax.Array, recognition: Recognition | None = None) -> jax.Array:
        """[..., d] -> [...]."""
        of_each = log_normal(z[..., None, :], self.mean, self.logvar)
        return jax.nn.logsumexp(of_each + jax.nn.log_softmax(self.logits), axis=-1)

    def sample(self, draw: Draw, num: int, recognition: Recognition | None = None) -> jax.Array:
        """[num, d]."""
        chosen = draw(lambda key, shape: jax.random.categorical(key, self.logits, shape=shape), (num,), 1)
        noise = draw(jax.random.normal, (num, self.latent_dim))
        return self.mean[chosen] + jnp.exp(0.5 * self.logvar[chosen]) * noise


class VampPrior(nn.Module):
    """1/K sum_j q(z | u_j): the mean of the model's own posteriors at K learned pseudo-inputs u_j.

    Tomczak and Welling 2018, eq. 8. Pseudo-inputs are clipped to [-1, 1], as theirs are to [0, 1], and start around
    middle grey, where no clip holds them.
    """

    image_shape: tuple[int, int, int]
    num_components: int = 500

    def setup(self) -> None:
        """Its parameters."""
        shape = (self.num_components, *self.image_shape)
        self.pseudo = self.param("pseudo_inputs", nn.initializers.normal(0.1), shape, jnp.float32)

    def log_prob(self, z: jax.Array, recognition: Recognition | None = None) -> jax.Array:
        """[..., d] -> [...]."""
        of_each = _needed(recognition).log_prob(jnp.clip(self.pseudo, -1, 1), z.reshape(-1, z.shape[-1]))
        return (jax.nn.logsumexp(of_each, axis=-1) - math.log(self.num_components)).reshape(z.shape[:-1])

    def sample(self, draw: Draw, num: int, recognition: Recognition | None = None) -> jax.Array:
        """[num, d]: each from the posterior of a pseudo-input that is drawn."""
        chosen = draw(lambda key, shape: jax.random.randint(key, shape, 0, self.num_components), (num,), 3)
        return _needed(recognition).sample(jnp.clip(self.pseudo, -1, 1)[chosen], draw)


def _needed(recognition):
    if recognition is None:
        raise ValueError("a VampPrior is made of the posteriors of its model: give the encoder and its posterior")
    return recognition


class Flow(nn.Module):
    """A standard normal sent through a flow that has an inverse, such as `flows.Couplings`."""

    flow: nn.Module
    latent_dim: int

    def log_prob(self, z: jax.Array, recognition: Recognition | None = None) -> jax.Array:
        """[..., d] -> [...]."""
        start, log_det = self.flow.inverse(z)
        return log_normal(start) - log_det

    def sample(self, draw: Draw, num: int, recognition: Recognition | None = None) -> jax.Array:
        """[num, d]."""
        return self.flow(draw(jax.random.normal, (num, self.latent_dim)))[0]


class UniformOnSphere(nn.Module):
    """Uniform on the unit sphere in d dimensions, by its surface: for `posteriors.VonMisesFisher`."""

    latent_dim: int
    uniform_on_sphere = True

    def log_prob(self, z: jax.Array, recognition: Recognition | None = None) -> jax.Array:
        """[..., d] -> [...]."""
        return jnp.full(z.shape[:-1], -vmf.log_area(z.shape[-1]), z.dtype)

    def sample(self, draw: Draw, num: int, recognition: Recognition | None = None) -> jax.Array:
        """[num, d] of length 1."""
        z = draw(jax.random.normal, (num, self.latent_dim))
        return z / jnp.linalg.norm(z, axis=-1, keepdims=True)
