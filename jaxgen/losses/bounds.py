"""Bounds on log p(x) from importance weights, and the estimators of their gradients.

    bound(log_weights) -> [B], in nats, to be maximised

`log_weights(fixed=())` is log w = log p(x|z) + log p(z) - log q(z|x) of k latents for each image, [B, k], in which the
named parts are constants to differentiation:

    "posterior"   the parameters inside log q(z|x), not the z at which it stands
    "latents"     z, and with it all that the encoder does to log p(x, z)
    "model"       the parameters inside log p(x|z) and log p(z)

What is computed forwards does not depend on `fixed`, so that a compiler finds it once. Each bound's value is the bound
itself, and not a surrogate that has its gradient.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.losses.variational import importance_weighted_bound

PARTS = ("posterior", "latents", "model")
Bound = Callable[[Callable[..., jax.Array]], jax.Array]
"""(log_weights) -> [B]."""


def elbo(log_weights: Callable) -> jax.Array:
    """1/k sum_i log w_i (Kingma and Welling 2014, their estimator A, with draws in the place of the analytic rate)."""
    return jnp.mean(log_weights(), axis=1)


def iwae(log_weights: Callable) -> jax.Array:
    """log 1/k sum_i w_i (Burda et al. 2016)."""
    return importance_weighted_bound(log_weights(), axis=1)


def stl(log_weights: Callable) -> jax.Array:
    """The ELBO without the score of log q, whose mean is 0: "sticking the landing" (Roeder et al. 2017).

    Where q is the exact posterior every draw's gradient is 0. For more than one sample it is the mean of k such
    estimates: inside of log 1/k sum_i w_i the same omission would be biased (Tucker et al. 2019), and `dreg` is right.
    """
    return jnp.mean(log_weights(fixed=("posterior",)), axis=1)


def dreg(log_weights: Callable) -> jax.Array:
    """`iwae`, whose encoder follows squared normalised weights: doubly reparameterised (Tucker et al. 2019, eq. 8).

        encoder:  sum_i v_i^2 dlog w_i / dz_i dz_i / dphi,    model:  sum_i v_i dlog w_i / dtheta

    with v the normalised weights. The expectation of `iwae`'s gradient, with a signal that does not vanish with k.
    """
    plain = lax.stop_gradient(log_weights())
    share = jax.nn.softmax(plain, axis=1)
    surrogate = jnp.sum(share**2 * log_weights(fixed=("posterior", "model")), axis=1)
    surrogate += jnp.sum(share * log_weights(fixed=("posterior", "latents")), axis=1)
    return _with_gradient_of(importance_weighted_bound(plain, axis=1), surrogate)


def miwae(groups: int) -> Bound:
    """The mean of `groups` bounds of k / groups samples each (Rainforth et al. 2018, MIWAE(groups, k / groups))."""

    def miwae(log_weights):
        return _grouped(log_weights(), groups)

    return miwae


def ciwae(beta: float) -> Bound:
    """beta `elbo` + (1 - beta) `iwae` (Rainforth et al. 2018, CIWAE)."""
    if not 0 <= beta <= 1:
        raise ValueError(f"beta of CIWAE is between 0 and 1, not {beta}")

    def ciwae(log_weights):
        found = log_weights()
        return beta * jnp.mean(found, axis=1) + (1 - beta) * importance_weighted_bound(found, axis=1)

    return ciwae


def piwae(groups: int) -> Bound:
    """The model follows `iwae`, whose value it has, the encoder `miwae(groups)` (Rainforth et al. 2018, PIWAE)."""

    def piwae(log_weights):
        of_model = importance_weighted_bound(log_weights(fixed=("posterior", "latents")), axis=1)
        of_encoder = _grouped(log_weights(fixed=("model",)), groups)
        return of_model + (of_encoder - lax.stop_gradient(of_encoder))

    return piwae


def _grouped(log_weights, groups):
    k = log_weights.shape[1]
    if groups < 1 or k % groups:
        raise ValueError(f"{k} samples cannot be divided into {groups} groups: num_samples must be a multiple of them")
    return jnp.mean(importance_weighted_bound(log_weights.reshape(-1, groups, k // groups), axis=2), axis=1)


def _with_gradient_of(value, surrogate):
    return value + (surrogate - lax.stop_gradient(surrogate))
