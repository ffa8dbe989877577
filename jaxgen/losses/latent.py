"""Terms that a variational autoencoder adds to its loss, for the list `terms` of `vae.make_train_step`.

    step = vae.make_train_step(..., terms=[latent.total_correlation(5.0, num_examples=60_000)])

A term is a name, a function of what a step has `Seen`, and a weight: a number or a schedule step -> number. Its value,
before the weight, is a metric under its name. All are minimised, in nats where nothing else is said. What couples the
images of a batch (covariances, kernels between latents) sees the whole batch, however many devices share it; in slices
(`gradients.accumulated`) it sees a slice.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen import sharding
from jaxgen.arguments import check_key, described
from jaxgen.losses import variational

Weight = float | Callable[[jax.Array], jax.Array]
IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Seen(NamedTuple):
    """What a step has computed when terms are asked. B is the batch, or this device's part of it.

    posterior: the encoder's output as the posterior reads it: (mean, logvar), each [B, d], of a diagonal Gaussian.
    z: one latent of each image [B, d].
    mean: of the posterior [B, d].
    rate: [B] nats, None without density.
    batch: as the step was given it.
    params: {"encoder": ..., "decoder": ...} and what posterior and prior have.
    images: z [B, d] -> the mean images that the decoder makes of them.
    log_prior: z [..., d] -> [...] nats.
    draw_prior: n -> [n, d] latents of the prior.
    key: of the terms' own draws.
    step: number of updates so far.
    axis_name: of the per-device view.
    """

    posterior: Any
    z: jax.Array
    mean: jax.Array
    rate: jax.Array | None
    batch: Mapping[str, jax.Array]
    params: Any
    images: Callable
    log_prior: Callable
    draw_prior: Callable
    key: jax.Array
    step: jax.Array
    axis_name: str | None = None

    def everywhere(self, x: jax.Array) -> jax.Array:
        """The rows of all devices, in the per-device view."""
        return x if self.axis_name is None else lax.all_gather(x, self.axis_name, tiled=True)

    def average(self, x: jax.Array) -> jax.Array:
        """The mean over rows of all devices."""
        mean = jnp.mean(x, axis=0)
        return mean if self.axis_name is None else lax.pmean(mean, self.axis_name)


class Term(NamedTuple):
    """name: of the metric; value: `Seen` -> a number; weight: of it in the loss, a number or a schedule."""

    name: str
    value: Callable[[Seen], jax.Array]
    weight: Weight = 1.0


def check_terms(terms: Sequence[Term]) -> None:
    """Raises a TypeError for what is no term, a ValueError for two of one name."""
    for term in terms:
        if not isinstance(term, Term):
            raise TypeError(f"terms are of losses.latent, such as latent.capacity(...), not {described(term)}")
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise ValueError(f"each term needs a name of its own, but these are called {', '.join(names)}")


def _gaussian(seen, who):
    found = seen.posterior
    if not (hasattr(found, "mean") and hasattr(found, "logvar")):
        raise ValueError(f"{who} needs a diagonal Gaussian posterior, whose encoder returns (mean, logvar)")
    return found.mean, found.logvar


# Of the aggregate posterior -------------------------------------------------------------------------------------------


def stratified_log_weights(batch_size: int, num_examples: int) -> jax.Array:
    """log W [B, B] with sum_j W_ij q(z_i|x_j) an unbiased estimate of q(z_i) = 1/N sum_n q(z_i|x_n), z_i from q(.|x_i).

    W_ii = 1/N, since x_i is always there; the others stand for the N - 1 that they are drawn from without repetition:
    W_ij = (N - 1) / (N (B - 1)). Chen et al. 2018, appendix C, in a form that treats all others alike.

    Raises:
      ValueError: for batches of one image, or larger than the data set.
    """
    if not 2 <= batch_size <= num_examples:
        raise ValueError(f"a batch of {batch_size} images says nothing about q(z) of {num_examples}: 2 to N are needed")
    others = math.log((num_examples - 1) / (num_examples * (batch_size - 1)))
    return jnp.where(jnp.eye(batch_size, dtype=bool), -math.log(num_examples), others)


def total_correlation_of(z: jax.Array, mean: jax.Array, logvar: jax.Array, num_examples: int) -> jax.Array:
    """An estimate of KL(q(z) || prod_j q(z_j)) in nats from z_i ~ N(mean_i, exp(logvar_i)), each [B, d].

    mean_i [log q(z_i) - sum_j log q(z_ij)], each density by `stratified_log_weights`. The estimates of densities are
    unbiased, their logarithms are not: too small by up to log(N / B).
    """
    of_units = -0.5 * (variational.LOG_2PI + logvar + (z[:, None] - mean) ** 2 * jnp.exp(-logvar))  # [i, j, unit]
    log_weights = stratified_log_weights(len(z), num_examples)
    joint = jax.nn.logsumexp(log_weights + jnp.sum(of_units, axis=-1), axis=1)
    marginals = jax.nn.logsumexp(log_weights[..., None] + of_units, axis=1)
    return jnp.mean(joint - jnp.sum(marginals, axis=1))


def total_correlation(weight: Weight, *, num_examples: int) -> Term:
    """weight * TC: beta-TC-VAE with beta = 1 + weight, where the loss has the rate at 1 (Chen et al. 2018, eq. 4).

    The rate is mutual information + TC + dimension-wise KL, so that more TC is what their beta adds for alpha = gamma
    = 1. Their code draws all three; here the rate is exact.
    """

    def value(seen):
        mean, logvar = map(seen.everywhere, _gaussian(seen, "the total correlation"))
        return total_correlation_of(seen.everywhere(seen.z), mean, logvar, num_examples)

    return Term("total_correlation", value, weight)


def dip(off_diagonal: float, diagonal: float, kind: int = 1) -> Term:
    """DIP-VAE: off_diagonal sum_(i != j) C_ij^2 + diagonal sum_i (C_ii - 1)^2 (Kumar et al. 2018, eq. 6 and 7).

    C is the covariance of the posterior means over the batch (kind 1), or that of z: plus the mean posterior variance
    (kind 2). The covariance divides by B.
    """
    if kind not in (1, 2):
        raise ValueError(f"DIP-VAE is of kind 1 (means) or 2 (latents), not {kind!r}")

    def value(seen):
        mean, logvar = _gaussian(seen, "DIP-VAE")
        mean = seen.everywhere(mean)
        centred = mean - jnp.mean(mean, axis=0)
        covariance = centred.T @ centred / len(mean)
        if kind == 2:
            covariance = covariance + jnp.diag(seen.average(jnp.exp(logvar)))
        own = jnp.diagonal(covariance)
        others = jnp.sum(covariance**2) - jnp.sum(own**2)
        return off_diagonal * others + diagonal * jnp.sum((own - 1) ** 2)

    return Term("dip", value)


# Between latents and prior --------------------------------------------------------------------------------------------


def imq(x: jax.Array, y: jax.Array) -> jax.Array:
    """sum over s of C / (C + |x_i - y_j|^2), C = 2 d s for scales s from 0.1 to 10: [n, d], [m, d] -> [n, m].

    Inverse multiquadratics of Tolstikhin et al. 2018, section 4; 2 d is the expected squared distance of two standard
    normal points.
    """
    squared = jnp.sum((x[:, None] - y) ** 2, axis=-1)
    base = 2.0 * x.shape[1]
    return sum((base * s / (base * s + squared) for s in IMQ_SCALES), jnp.zeros_like(squared))


def rbf(x: jax.Array, y: jax.Array) -> jax.Array:
    """exp(-|x_i - y_j|^2 / d), as InfoVAE's code has it: [n, d], [m, d] -> [n, m]."""
    return jnp.exp(-jnp.sum((x[:, None] - y) ** 2, axis=-1) / x.shape[1])


def mmd_of(x: jax.Array, y: jax.Array, kernel: Callable = imq) -> jax.Array:
    """The unbiased estimate of MMD^2 between the laws of x [n, d] and y [n, d]: it may be below 0.

    mean_(i != j) k(x_i, x_j) + mean_(i != j) k(y_i, y_j) - 2 mean_(i, j) k(x_i, y_j)    (Gretton et al. 2012, eq. 3)
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"MMD is between samples of 2 or more, not of {len(x)} and {len(y)}")

    def within(a):
        found = kernel(a, a)
        return (jnp.sum(found) - jnp.trace(found)) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * jnp.mean(kernel(x, y))


def mmd(weight: Weight, kernel: Callable = imq) -> Term:
    """weight * MMD^2(q(z), p(z)), of one latent of each image and as many of the prior.

    WAE-MMD (Tolstikhin et al. 2018): beta = 0, weight lambda. InfoVAE (Zhao et al. 2019): beta = 1 - alpha, weight
    alpha + lambda - 1.
    """

    def value(seen):
        return mmd_of(seen.everywhere(seen.z), seen.everywhere(seen.draw_prior(len(seen.z))), kernel)

    return Term("mmd", value, weight)


def capacity(weight: Weight, target: Weight) -> Term:
    """weight * |mean rate - target|, in the place of beta times the rate (Burgess et al. 2018, eq. 8): beta = 0.

    `target` is C in nats: a number, or a schedule that rises.
    """

    def value(seen):
        if seen.rate is None:
            raise ValueError("the capacity is one of the rate, and a posterior without density has none")
        return jnp.abs(seen.average(seen.rate) - (target(seen.step) if callable(target) else target))

    return Term("capacity", value, weight)


# Of deterministic autoencoders ----------------------------------------------------------------------------------------


def latent_size(weight: Weight) -> Term:
    """weight * mean |z|^2 / 2: keeps codes from growing (Ghosh et al. 2020, eq. 5)."""
    return Term("latent_size", lambda seen: 0.5 * jnp.mean(jnp.sum(seen.z**2, axis=-1)), weight)


def decoder_size(weight: Weight) -> Term:
    """weight * sum of the squared parameters of the decoder: RAE-L2 (Ghosh et al. 2020, section 3.1)."""

    def value(seen):
        return sum((jnp.sum(x**2) for x in jax.tree.leaves(seen.params["decoder"])), jnp.zeros(()))

    return Term("decoder_size", value, weight)


def decoder_slope(weight: Weight) -> Term:
    """weight * mean |dD/dz|_F^2 of the images D(z): RAE-GP (Ghosh et al. 2020, section 3.1).

    The Frobenius norm by one random projection y ~ N(0, I) of each image: E |J' y|^2 = |J|_F^2.
    """

    def value(seen):
        y = sharding.draw(jax.random.normal, seen.key, seen.batch["image"].shape, axis_name=seen.axis_name)
        slope = jax.grad(lambda z: jnp.sum(seen.images(z) * y))(seen.z)
        return jnp.mean(jnp.sum(slope**2, axis=-1))

    return Term("decoder_slope", value, weight)


def fitted_prior(weight: Weight = 1.0) -> Term:
    """weight * mean -log p(z), of the prior alone: latents are constants to it, and it has no part in the rate.

    A density of the codes of a deterministic autoencoder, to draw from; the ex-post density of Ghosh et al. 2020,
    section 4, learned beside the networks instead of after them.
    """
    return Term("prior_nll", lambda seen: -jnp.mean(seen.log_prior(lax.stop_gradient(seen.z))), weight)


def permuted(key: jax.Array, z: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Each column of z [B, D] in an order of its own: its numbers of the batch, with all dependence between them gone.

    If rows of z are draws of q(z), those of the result are nearly draws of the product of q's marginals (Kim and Mnih
    2018, algorithm 1; Arcones and Gine 1992).

    Args:
      key: of the orders.
      z: [B, D].
      axis_name: the mapped axis, in the per-device view: the batch is that of all devices.

    Returns:
      [B, D].
    """
    check_key(key)
    every = z if axis_name is None else lax.all_gather(z, axis_name, tiled=True)
    order = jnp.argsort(jax.random.uniform(key, every.shape), axis=0)
    if axis_name is not None:
        order = lax.dynamic_slice_in_dim(order, lax.axis_index(axis_name) * len(z), len(z))
    return jnp.take_along_axis(every, order, axis=0)
