"""Posteriors q(z|x) of variational autoencoders: what the numbers that an encoder returns mean.

A posterior is a Flax module, often without parameters, with

    sizes(latent_dim)                 how many numbers of an image an encoder returns: (50, 50)
    read(output)                      the encoder's output, checked: a tree of arrays [B, ...]
    __call__(output, draw, k)         -> Draws: k latents of each image, and log q where they stand
    log_prob(output, z [B, k, d])     -> [B, k], at given latents; a ValueError where there is no formula
    mean(output)                      -> [B, d]: the latents that `encode` shows
    kl(output, prior)                 -> [B, parts] nats that sum to the rate, or None where only draws can tell

`draw(sampler, shape, number=0)` draws for the whole batch, however many devices share it; draws that are to differ have
numbers. `k` is a number of samples. All are in nats and in single precision.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.arguments import described
from jaxgen.losses import variational
from jaxgen.losses import von_mises_fisher as vmf

Draw = Callable[..., jax.Array]
"""(sampler, shape, number=0) -> array; its first axis is the batch."""


class Draws(NamedTuple):
    """Latents that were drawn, and their log density."""

    z: jax.Array  # [B, k, latent_dim]
    log_q: jax.Array | None  # [B, k]; None of a point, which has no density
    noise: jax.Array | None = None  # the standard normal numbers they were made of


class Posterior(NamedTuple):
    """q(z|x) = N(mean, exp(logvar)) of each image, both [B, latent_dim]."""

    mean: jax.Array
    logvar: jax.Array  # of the variance, not of the standard deviation


def reparameterize(mean: jax.Array, logvar: jax.Array, noise: jax.Array) -> jax.Array:
    """z = mean + exp(logvar / 2) * noise, noise ~ N(0, 1)."""
    return mean + jnp.exp(0.5 * logvar) * noise


def log_normal(z: jax.Array, mean: Any = 0.0, logvar: Any = 0.0) -> jax.Array:
    """log N(z; mean, exp(logvar)), summed over the last axis: [..., d] -> [...]."""
    mean, logvar = jnp.asarray(mean, z.dtype), jnp.asarray(logvar, z.dtype)
    return -0.5 * jnp.sum(variational.LOG_2PI + logvar + (z - mean) ** 2 * jnp.exp(-logvar), axis=-1)


class Diagonal(nn.Module):
    """N(mean, exp(logvar)), units independent (Kingma and Welling 2014). The encoder returns (mean, logvar)."""

    @staticmethod
    def sizes(latent_dim: int) -> tuple[int, ...]:
        """Of the encoder's output."""
        return latent_dim, latent_dim

    def read(self, output: Any) -> Posterior:
        """What an encoder returned, as (mean, logvar).

        Raises:
          ValueError: for anything else than two arrays [B, latent_dim].
        """
        if not isinstance(output, (tuple, list)) or len(output) != 2:
            raise ValueError(f"an encoder returns (mean, logvar), each [B, latent_dim], not {described(output)}")
        shapes = [jnp.shape(x) for x in output]
        if shapes[0] != shapes[1] or len(shapes[0]) != 2:
            raise ValueError(
                f"an encoder returns (mean, logvar), each [B, latent_dim], not shapes {' and '.join(map(str, shapes))}"
            )
        return Posterior(*output)

    def __call__(self, output: Posterior, draw: Draw, num_samples: int) -> Draws:
        """z = mean + exp(logvar / 2) noise."""
        mean, logvar = output
        noise = draw(jax.random.normal, (mean.shape[0], num_samples, mean.shape[1]))
        z = reparameterize(mean[:, None], logvar[:, None], noise)
        return Draws(z, -0.5 * jnp.sum(noise**2 + logvar[:, None] + variational.LOG_2PI, axis=-1), noise)

    def log_prob(self, output: Posterior, z: jax.Array) -> jax.Array:
        """[B, k] of z [B, k, d]."""
        return log_normal(z, output.mean[:, None], output.logvar[:, None])

    def mean(self, output: Posterior) -> jax.Array:
        """[B, d]."""
        return output.mean

    def kl(self, output: Posterior, prior: Any) -> jax.Array | None:
        """[B, d], one number for each unit, where the prior is a diagonal Gaussian."""
        gaussian = getattr(prior, "gaussian", None)
        return None if gaussian is None else variational.gaussian_kl_per_unit(*output, *gaussian())


class Point(nn.Module):
    """One latent for each image, without density: of a deterministic autoencoder. There is no rate, and no bound."""

    @staticmethod
    def sizes(latent_dim: int) -> tuple[int, ...]:
        """Of the encoder's output."""
        return (latent_dim,)

    def read(self, output: Any) -> jax.Array:
        """z [B, d]."""
        return _arrays(output, 1, "z")[0]

    def __call__(self, output: jax.Array, draw: Draw, num_samples: int) -> Draws:
        """The latent, k times."""
        return Draws(jnp.repeat(output[:, None], num_samples, axis=1), None)

    def log_prob(self, output: jax.Array, z: jax.Array) -> jax.Array:
        """Raises a ValueError: a point has no density."""
        raise ValueError("a deterministic encoder has no log q(z|x): take another posterior, or no bound")

    def mean(self, output: jax.Array) -> jax.Array:
        """[B, d]."""
        return output

    def kl(self, output: jax.Array, prior: Any) -> None:
        """None."""


class Cholesky(nn.Module):
    """N(mean, L L'), all covariances free. The encoder returns (mean, L row by row), logarithms on its diagonal."""

    @staticmethod
    def sizes(latent_dim: int) -> tuple[int, ...]:
        """Of the encoder's output."""
        return latent_dim, latent_dim * (latent_dim + 1) // 2

    def read(self, output: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(mean [B, d], L [B, d, d], log det L [B])."""
        mean, entries = _arrays(output, 2, "mean, entries of L")
        d = mean.shape[1]
        if entries.shape[1] != self.sizes(d)[1]:
            raise ValueError(
                f"a triangular matrix for {d} latents has {self.sizes(d)[1]} entries, not {entries.shape[1]}"
            )
        rows, columns = jnp.tril_indices(d)
        full = jnp.zeros((len(mean), d, d), entries.dtype).at[:, rows, columns].set(entries)
        log_diagonal = jnp.diagonal(full, axis1=1, axis2=2)
        eye = jnp.eye(d, dtype=bool)
        factor = jnp.where(eye, jnp.exp(jnp.where(eye, full, 0.0)), full)
        return mean, factor, jnp.sum(log_diagonal, axis=1)

    def __call__(self, output: Any, draw: Draw, num_samples: int) -> Draws:
        """z = mean + L noise."""
        mean, factor, log_det = output
        noise = draw(jax.random.normal, (mean.shape[0], num_samples, mean.shape[1]))
        z = mean[:, None] + jnp.einsum("bij,bkj->bki", factor, noise)
        return Draws(z, log_normal(noise) - log_det[:, None], noise)

    def log_prob(self, output: Any, z: jax.Array) -> jax.Array:
        """[B, k] of z [B, k, d]."""
        mean, factor, log_det = output
        difference = jnp.swapaxes(z - mean[:, None], 1, 2)
        noise = jax.scipy.linalg.solve_triangular(factor, difference, lower=True)
        return log_normal(jnp.swapaxes(noise, 1, 2)) - log_det[:, None]

    def mean(self, output: Any) -> jax.Array:
        """[B, d]."""
        return output[0]

    def kl(self, output: Any, prior: Any) -> jax.Array | None:
        """[B, 1]: (tr V^-1 (L L' + m m') - d + log det V) / 2 - log det L, to N(p, V) diagonal, with m = mean - p."""
        gaussian = getattr(prior, "gaussian", None)
        if gaussian is None:
            return None
        mean, factor, log_det = output
        prior_mean, prior_logvar = (jnp.asarray(x, mean.dtype) for x in gaussian())
        second = jnp.sum(factor**2, axis=2) + (mean - prior_mean) ** 2
        parts = 0.5 * (prior_logvar - 1 + second * jnp.exp(-prior_logvar))
        return (jnp.sum(parts, axis=1) - log_det)[:, None]


class VonMisesFisher(nn.Module):
    """On the unit sphere in d dimensions (Davidson et al. 2018). The encoder returns (direction [B, d], [B, 1]).

    The direction is scaled to length 1, and the concentration is kappa = 1 + softplus of the other number, as in the
    paper's code. A draw is w mean + sqrt(1 - w^2) v: w by rejection (Ulrich 1984; Wood 1994), v a tangent. Its
    derivative by kappa is the implicit one, without the variance of a correction term for rejection.
    """

    @staticmethod
    def sizes(latent_dim: int) -> tuple[int, ...]:
        """Of the encoder's output."""
        vmf.check_dim(latent_dim)
        return latent_dim, 1

    def read(self, output: Any) -> tuple[jax.Array, jax.Array]:
        """(mean direction [B, d], kappa [B])."""
        direction, concentration = _arrays(output, 2, "direction, concentration")
        vmf.check_dim(direction.shape[1])
        length = jnp.sqrt(jnp.sum(direction**2, axis=1, keepdims=True) + 1e-12)
        return direction / length, 1 + jax.nn.softplus(concentration[:, 0])

    def __call__(self, output: Any, draw: Draw, num_samples: int) -> Draws:
        """Latents of length 1."""
        mean, kappa = output
        shape = (*mean.shape[:1], num_samples)
        d = mean.shape[1]
        proposed = draw(lambda key, shape: vmf.proposals(key, shape, d), shape)
        w = vmf.cosine(proposed, kappa[:, None], d)
        free = draw(jax.random.normal, (*shape, d), 1)
        tangent = free - jnp.sum(free * mean[:, None], axis=-1, keepdims=True) * mean[:, None]
        tangent = tangent / jnp.sqrt(jnp.sum(tangent**2, axis=-1, keepdims=True) + 1e-12)
        z = w[..., None] * mean[:, None] + jnp.sqrt(jnp.maximum(1 - w**2, 1e-12))[..., None] * tangent
        return Draws(z, self.log_prob(output, z))

    def log_prob(self, output: Any, z: jax.Array) -> jax.Array:
        """[B, k] of z [B, k, d] on the sphere, by its surface."""
        mean, kappa = output
        return vmf.log_prob(jnp.sum(z * mean[:, None], axis=-1), kappa[:, None], mean.shape[1])

    def mean(self, output: Any) -> jax.Array:
        """The mean direction [B, d]."""
        return output[0]

    def kl(self, output: Any, prior: Any) -> jax.Array | None:
        """[B, 1], to the uniform law of the sphere."""
        mean, kappa = output
        return vmf.kl_to_uniform(kappa, mean.shape[1])[:, None] if getattr(prior, "uniform_on_sphere", False) else None


class Flow(nn.Module):
    """A diagonal Gaussian sent through a flow. The encoder returns (mean, logvar, *what the flow is told).

    log q(z|x) = log N(z0; mean, exp(logvar)) - log |dz / dz0| (Rezende and Mohamed 2015, eq. 6).
    """

    flow: nn.Module  # of jaxgen.models.flows

    def sizes(self, latent_dim: int) -> tuple[int, ...]:
        """Of the encoder's output."""
        return latent_dim, latent_dim, *self.flow.context_sizes(latent_dim)

    def read(self, output: Any) -> tuple[jax.Array, ...]:
        """(mean, logvar, *context)."""
        if not isinstance(output, (tuple, list)) or len(output) < 2:
            raise ValueError(f"the encoder of a flow returns (mean, logvar, ...), not {described(output)}")
        wanted = self.sizes(jnp.shape(output[0])[1])
        found = _arrays(output, len(wanted), "mean, logvar, context")
        if tuple(x.shape[1] for x in found) != wanted:
            raise ValueError(f"the flow needs numbers {wanted} of an image, not {tuple(x.shape[1] for x in found)}")
        return found

    def __call__(self, output: Any, draw: Draw, num_samples: int) -> Draws:
        """The flow of a Gaussian draw."""
        mean, logvar, *context = output
        noise = draw(jax.random.normal, (mean.shape[0], num_samples, mean.shape[1]))
        log_q = -0.5 * jnp.sum(noise**2 + logvar[:, None] + variational.LOG_2PI, axis=-1)
        z, log_det = self.flow(reparameterize(mean[:, None], logvar[:, None], noise), *(c[:, None] for c in context))
        return Draws(z, log_q - log_det, noise)

    def log_prob(self, output: Any, z: jax.Array) -> jax.Array:
        """[B, k] of z [B, k, d], by the inverse of the flow, where it has one."""
        mean, logvar, *context = output
        start, log_det = self.flow.inverse(z, *(c[:, None] for c in context))
        return log_normal(start, mean[:, None], logvar[:, None]) - log_det

    def mean(self, output: Any) -> jax.Array:
        """The flow of the Gaussian's mean: not the mean of q."""
        start, _, *context = output
        return self.flow(start[:, None], *(c[:, None] for c in context))[0][:, 0]

    def kl(self, output: Any, prior: Any) -> None:
        """None: only draws can tell."""


def _arrays(output, number, names):
    """The arrays [B, n] that an encoder returned."""
    found = tuple(output) if isinstance(output, (tuple, list)) else (output,)
    shapes = [jnp.shape(x) for x in found]
    if len(found) != number or any(len(s) != 2 for s in shapes):
        raise ValueError(f"an encoder returns ({names}), each [B, n], here, not {_in_words(output, shapes)}")
    return found


def _in_words(output, shapes):
    return f"shapes {', '.join(map(str, shapes))}" if isinstance(output, (tuple, list)) else described(output)
