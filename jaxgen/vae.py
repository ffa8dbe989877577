"""Variational autoencoders: the reparameterised evidence lower bound (Kingma and Welling 2014; Rezende et al. 2014).

    ELBO = E_q(z|x) log p(x|z) - KL(q(z|x) || p(z)) = -distortion - rate

is a bound on log p(x) in nats and is reported at beta = 1. What is minimised is distortion + beta * rate.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax

from jaxgen import gradients as ways
from jaxgen import network, objective, sharding
from jaxgen.losses import variational

VAEState = objective.State
"""Its network's params and model_state are dicts {"encoder": ..., "decoder": ...}."""


def init(
    key: jax.Array,
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
) -> VAEState:
    """The state before the first step, for images [H, W, C]."""
    network.check_optimizer(optimizer)

    def build(key):
        encoder_key, decoder_key = jax.random.split(key)
        (mean, _), encoder_variables = encoder.init_with_output(encoder_key, jnp.zeros((2, *image_shape)), train=True)
        variables = {"encoder": encoder_variables, "decoder": decoder.init(decoder_key, mean, train=True)}
        return objective.init_group(variables, optimizer=optimizer)

    return network.compiled_init(build, key)


def reparameterize(mean: jax.Array, logvar: jax.Array, noise: jax.Array) -> jax.Array:
    """z = mean + exp(logvar / 2) * noise, noise ~ N(0, 1)."""
    return mean + jnp.exp(0.5 * logvar) * noise


def make_train_step(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    optimizer: optax.GradientTransformation,
    likelihood: variational.Likelihood = variational.bernoulli,
    beta: float | Callable[[jax.Array], jax.Array] = 1.0,
    free_bits: float = 0.0,
    num_samples: int = 1,
    importance_weighted: bool = False,
    ema_decay: network.Decay = 0.0,
    gradients: ways.Way = ways.plain,
    axis_name: str | None = None,
) -> Callable:
    """Builds `train_step(state, batch, key) -> (state, metrics)`.

    Args:
      encoder: `apply(variables, images, train=) -> (mean, logvar)`, each [B, latent_dim].
      decoder: `apply(variables, z [B, latent_dim], train=) -> output`, read by `likelihood`.
      optimizer: any optax transformation.
      likelihood: what the decoder's output means: `variational.bernoulli`, `gaussian`, `discretized_logistic`.
      beta: weight of the rate in the loss (Higgins et al. 2017); a number or a schedule step -> number (KL warm-up).
      free_bits: nats per latent unit below which the batch mean of its rate is not pushed down (Kingma et al. 2016,
        section C.8, with groups of one unit). Where the floor holds, the rate's gradient is exactly 0.
      num_samples: k latents for each image.
      importance_weighted: minimise the negative importance-weighted bound with k samples (Burda et al. 2016) instead
        of the average of k ELBO estimates. Then beta must be 1 and free_bits 0.
      ema_decay: of the average of all variables; 0 keeps the latest. A number or a schedule.
      gradients: how gradients are taken: `gradients.plain`, `gradients.accumulated(n)`. In slices, free bits and
        `active_units` are of each slice.
      axis_name: as in `gan.make_train_step`.

    Returns:
      A pure function, not compiled. Metrics, in nats per image, means over the batch: `loss`, `elbo` (at beta = 1, free
      bits aside), `distortion`, `rate`, `importance_weighted_bound` (with k samples), `active_units` (how many units'
      posterior means vary over this batch by more than 0.01), `beta`, and `grad_norm`, `update_norm`, `clipped`,
      `skipped`.

    Raises:
      TypeError: at trace time, for images that are not floating point.
      ValueError: at trace time, for images of another shape than the decoder's; at once, for k below 1, negative free
        bits, or importance weighting with another beta or free bits.
      TypeError: at once, for an optimiser or likelihood that is a name or a number.
    """
    network.check_optimizer(optimizer)
    if not hasattr(likelihood, "log_prob"):
        raise TypeError(f"likelihood must be one of losses.variational, such as bernoulli, not {likelihood!r}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}")
    if free_bits < 0:
        raise ValueError(f"free_bits must not be negative, but is {free_bits}")
    if importance_weighted and (callable(beta) or beta != 1.0 or free_bits):
        raise ValueError("the importance-weighted bound is defined for beta = 1 and no free bits")

    def over_devices(x):
        return x if axis_name is None else lax.pmean(x, axis_name)

    def negative_bound(params, old, batch, key, step):
        image = network.images_of(batch)
        noise_key, dropout_key = jax.random.split(key)
        dropout_key = sharding.per_device_key(dropout_key, axis_name)
        weight = jnp.asarray(beta(step) if callable(beta) else beta)
        (mean, logvar), encoder_state = network.apply(
            encoder, params["encoder"], old["encoder"], image, key=dropout_key
        )
        noise = sharding.draw(
            jax.random.normal, noise_key, (mean.shape[0], num_samples, mean.shape[1]), axis_name=axis_name
        )
        z = reparameterize(mean[:, None], logvar[:, None], noise)
        output, decoder_state = network.apply(
            decoder, params["decoder"], old["decoder"], z.reshape(-1, z.shape[-1]), key=dropout_key
        )
        log_px = _log_likelihood(likelihood, output, image, num_samples)
        kl_per_unit = variational.gaussian_kl_per_unit(mean, logvar)
        rate = jnp.mean(jnp.sum(kl_per_unit, axis=1))
        distortion = -jnp.mean(log_px)
        log_weights = log_px + _log_prior_over_posterior(z, noise, logvar[:, None])
        bound = jnp.mean(variational.importance_weighted_bound(log_weights, axis=1))
        mean_kl = over_devices(jnp.mean(kl_per_unit, axis=0))
        # Not `maximum`, whose derivative compares for equality what XLA may have computed twice. NaN stays NaN.
        floored = jnp.sum(jnp.where(mean_kl < free_bits, free_bits, mean_kl))
        loss = -bound if importance_weighted else distortion + weight * floored
        mean_of_mean = over_devices(jnp.mean(mean, axis=0))
        variance = over_devices(jnp.mean((mean - mean_of_mean) ** 2, axis=0))
        metrics = {
            "loss": loss,
            "elbo": -distortion - rate,
            "distortion": distortion,
            "rate": rate,
            "importance_weighted_bound": bound,
            "active_units": jnp.sum(variance > ACTIVE_UNIT_VARIANCE),
            "beta": weight,
        }
        return loss, ({"encoder": encoder_state, "decoder": decoder_state}, metrics)

    return objective.make_train_step(
        negative_bound,
        optimizer=optimizer,
        ema_decay=ema_decay,
        gradients=gradients,
        variables_of=objective.variables_of_group,
        axis_name=axis_name,
    )


ACTIVE_UNIT_VARIANCE = 0.01
"""A unit is active if its posterior mean varies over the data by more than this (Burda et al. 2016, section 5.2)."""


def _log_likelihood(likelihood, output, image, num_samples):
    """log p(x|z) of k = num_samples latents for each image: decoder output for B * k latents, B images -> [B, k]."""
    shape = jax.eval_shape(likelihood.mean, output).shape
    if shape[1:] != image.shape[1:]:  # a grey decoder for colour images would broadcast, without an error
        raise ValueError(f"the decoder makes images of shape {shape[1:]}, but the data have {image.shape[1:]}")
    return likelihood.log_prob(output, jnp.repeat(image, num_samples, axis=0)).reshape(-1, num_samples)


def _log_prior_over_posterior(z, noise, logvar):
    """log p(z) - log q(z|x) at z = mean + exp(logvar / 2) noise, summed over latents."""
    return jnp.sum(0.5 * (noise**2 + logvar - z**2), axis=-1)


def make_eval_step(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    likelihood: variational.Likelihood = variational.bernoulli,
    num_samples: int = 1,
) -> Callable:
    """Builds `eval_step(variables, batch, key) -> dict` of numbers for each image.

    Args:
      encoder, decoder, likelihood: as for `make_train_step`.
      num_samples: k latents for each image. All k are held at once: a large k goes with a small batch.

    Returns:
      A pure function, not compiled, of `state.ema`, a batch and a key. Its dict holds, in nats: `elbo`, `distortion`,
      `rate`, `importance_weighted_bound` (with k samples), each [B]; `kl_per_unit` and `posterior_mean`,
      [B, latent_dim]. `summarize` makes the numbers of a whole data set from these.
    """

    def eval_step(variables, batch: Mapping[str, jax.Array], key: jax.Array):
        image = network.images_of(batch)
        mean, logvar = encoder.apply(variables["encoder"], image, train=False)
        noise = sharding.draw(jax.random.normal, key, (mean.shape[0], num_samples, mean.shape[1]))
        z = reparameterize(mean[:, None], logvar[:, None], noise)
        output = decoder.apply(variables["decoder"], z.reshape(-1, z.shape[-1]), train=False)
        log_px = _log_likelihood(likelihood, output, image, num_samples)
        kl_per_unit = variational.gaussian_kl_per_unit(mean, logvar)
        distortion, rate = -jnp.mean(log_px, axis=1), jnp.sum(kl_per_unit, axis=1)
        log_weights = log_px + _log_prior_over_posterior(z, noise, logvar[:, None])
        return {
            "elbo": -distortion - rate,
            "distortion": distortion,
            "rate": rate,
            "importance_weighted_bound": variational.importance_weighted_bound(log_weights, axis=1),
            "kl_per_unit": kl_per_unit,
            "posterior_mean": mean,
        }

    return eval_step


def summarize(per_image: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The numbers of a data set from those of its images, concatenated: means, and the count of active units."""
    names = ("elbo", "distortion", "rate", "importance_weighted_bound")
    # asarray: NumPy hands the mean of a JAX array back to JAX, which has no float64.
    summary = {name: float(np.mean(np.asarray(per_image[name]), dtype=np.float64)) for name in names}
    variance = np.var(np.asarray(per_image["posterior_mean"]), axis=0, dtype=np.float64)
    summary["active_units"] = int(np.sum(variance > ACTIVE_UNIT_VARIANCE))
    return summary


def sample(
    decoder: nn.Module, variables: Any, z: jax.Array, *, likelihood: variational.Likelihood = variational.bernoulli
) -> jax.Array:
    """Mean images [N, H, W, C] in [-1, 1] for latents z [N, latent_dim] (drawn from N(0, 1), for new images).

    `variables` is `state.ema`.
    """
    if not hasattr(variables, "ema"):  # of a whole state the next line says what to give
        variables = variables["decoder"]
    return likelihood.mean(network.images_from(decoder, variables, z))


def reconstruct(
    encoder: nn.Module,
    decoder: nn.Module,
    variables: Any,
    image: jax.Array,
    *,
    likelihood: variational.Likelihood = variational.bernoulli,
) -> jax.Array:
    """Mean images through the posterior mean: [N, H, W, C] -> [N, H, W, C] in [-1, 1]. `variables` is `state.ema`."""
    mean, _ = encoder.apply(variables["encoder"], image, train=False)
    return sample(decoder, variables, mean, likelihood=likelihood)
