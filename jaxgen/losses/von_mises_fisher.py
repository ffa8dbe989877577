"""The von Mises-Fisher distribution on the unit sphere in d dimensions, for every d >= 2 and kappa > 0.

    p(z) = exp(kappa mean . z) / Z,   Z = |S^(d-2)| int_0^pi exp(kappa cos t) sin^(d-2)(t) dt

by the surface of the sphere. The integral is one of a smooth function of the angle to the mean, and is taken by
Gauss-Legendre nodes around its peak: no Bessel functions, and derivatives are integrals of the same kind. With 64 nodes
it is exact to the precision of the dtype.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.arguments import check_key

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_REACH = 16.0  # standard deviations of the peak that an integral covers
NUM_PROPOSALS = 24  # a proposal is accepted with probability 0.6 or more: all fail once in 10^10


def check_dim(latent_dim: int) -> None:
    """Raises a ValueError unless there is a sphere in so many dimensions."""
    if latent_dim < 2:
        raise ValueError(f"a hyperspherical posterior needs latent_dim of 2 or more, not {latent_dim}")


def log_area(d: int) -> float:
    """log of the surface 2 pi^(d/2) / Gamma(d/2) of the unit sphere in d dimensions."""
    return math.log(2) + 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d)


def _angles(lower, upper, dtype):
    """(nodes, log weights), each [..., 64], of an integral from `lower` to `upper`."""
    half = 0.5 * (upper - lower)
    return lower[..., None] + half[..., None] * jnp.asarray(1 + _NODES, dtype), jnp.log(
        half[..., None] * jnp.asarray(_WEIGHTS, dtype)
    )


def _log_integrand(t, kappa, d):
    """kappa (cos t - 1) + (d - 2) log sin t."""
    value = -2 * kappa * jnp.sin(0.5 * t) ** 2
    return value if d == 2 else value + (d - 2) * jnp.log(jnp.sin(t))


def _log_z(kappa, d):
    """log int_0^pi exp(kappa (cos t - 1)) sin^(d-2)(t) dt."""
    held = lax.stop_gradient(kappa)
    cosine = 2 * held / (d - 2 + jnp.sqrt((d - 2) ** 2 + 4 * held**2))  # of the peak
    sine2 = jnp.maximum(1 - cosine**2, 1e-12)
    width = 1 / jnp.sqrt(held * cosine + (d - 2) / sine2) if d > 2 else 1 / jnp.sqrt(held)
    peak = jnp.arctan2(jnp.sqrt(sine2), cosine) if d > 2 else jnp.zeros_like(held)
    lower, upper = jnp.maximum(peak - _REACH * width, 0.0), jnp.minimum(peak + _REACH * width, math.pi)
    t, log_weight = _angles(lower, upper, kappa.dtype)
    return jax.nn.logsumexp(_log_integrand(t, kappa[..., None], d) + log_weight, axis=-1)


def log_normalizer(kappa: jax.Array, d: int) -> jax.Array:
    """-log Z, which is log C_d(kappa) of the paper, in nats, the shape of `kappa`."""
    return -(log_area(d - 1) + kappa + _log_z(kappa, d))


def log_prob(cosine: jax.Array, kappa: jax.Array, d: int) -> jax.Array:
    """log density, by the surface, at the cosine of the angle to the mean."""
    return kappa * (cosine - 1) - log_area(d - 1) - _log_z(kappa, d)


def mean_cosine(kappa: jax.Array, d: int) -> jax.Array:
    """E cos(angle) = I_(d/2)(kappa) / I_(d/2-1)(kappa), the derivative of log Z."""
    return 1 + jax.grad(lambda kappa: jnp.sum(_log_z(kappa, d)))(kappa)


def kl_to_uniform(kappa: jax.Array, d: int) -> jax.Array:
    """KL(vMF(kappa) || uniform) in nats, the shape of `kappa` (Davidson et al. 2018, appendix B).

    kappa E cos - log Z + log |S^(d-1)|
    """
    return kappa * (mean_cosine(kappa, d) - 1) - log_area(d - 1) - _log_z(kappa, d) + log_area(d)


def proposals(key: jax.Array, shape: tuple[int, ...], d: int) -> jax.Array:
    """What `cosine` chooses from: [*shape, 2, NUM_PROPOSALS], beta((d-1)/2, (d-1)/2) and uniform numbers."""
    check_key(key)
    beta_key, uniform_key = jax.random.split(key)
    shape = (*shape, NUM_PROPOSALS)
    a = 0.5 * (d - 1)
    beta = jax.random.beta(beta_key, a, a, shape, jnp.float32)
    return jnp.stack([beta, jax.random.uniform(uniform_key, shape, jnp.float32)], axis=-2)


def cosine(proposed: jax.Array, kappa: jax.Array, d: int) -> jax.Array:
    """The cosine w of the angle of a draw to the mean, the shape of `kappa` against `proposed` without its last axes.

    The first of the proposals that rejection accepts. Its derivative by kappa is that of the quantile,

        dw / dkappa = int_w^1 (t - E cos) f(t) / f(w) dt,   f(t) = exp(kappa t) (1 - t^2)^((d-3)/2).

    Wood 1994, "Simulation of the von Mises Fisher distribution"; implicit derivatives: Figurnov et al. 2018.
    """
    beta, uniform = proposed[..., 0, :], proposed[..., 1, :]
    held = lax.stop_gradient(kappa)[..., None]
    b = (d - 1) / (2 * held + jnp.sqrt(4 * held**2 + (d - 1) ** 2))
    x0 = (1 - b) / (1 + b)
    c = held * x0 + (d - 1) * jnp.log1p(-(x0**2))
    w = (1 - (1 + b) * beta) / (1 - (1 - b) * beta)
    accepted = held * w + (d - 1) * jnp.log1p(-x0 * w) - c >= jnp.log(uniform)
    first = jnp.argmax(accepted, axis=-1, keepdims=True)
    w = jnp.clip(jnp.take_along_axis(w, first, axis=-1)[..., 0], -1.0, 1.0)
    return w + lax.stop_gradient(_slope(w, held[..., 0], d)) * (kappa - lax.stop_gradient(kappa))


def _slope(w, kappa, d):
    """dw / dkappa at a fixed quantile. In angles, where f(t) dt = exp(kappa cos t) sin^(d-2)(t) dt."""
    end = jnp.arccos(jnp.clip(w, -1 + 1e-6, 1 - 1e-7))
    t, log_weight = _angles(jnp.zeros_like(end), end, w.dtype)
    # f(w) by its own measure: exp(kappa w) sin^(d-3)
    at_end = _log_integrand(end, kappa, d) - jnp.log(jnp.sin(end))
    ratio = jnp.exp(_log_integrand(t, kappa[..., None], d) + log_weight - at_end[..., None])
    excess = jnp.cos(t) - mean_cosine(kappa, d)[..., None]
    return jnp.sum(excess * ratio, axis=-1)
