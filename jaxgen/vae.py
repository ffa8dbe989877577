"""Variational autoencoders: the reparameterised evidence lower bound (Kingma and Welling 2014; Rezende et al. 2014).

    ELBO = E_q(z|x) log p(x|z) - KL(q(z|x) || p(z)) = -distortion - rate

is a bound on log p(x) in nats and is reported at beta = 1. What is minimised is distortion + beta * rate.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax

from jaxgen import gradients as ways
from jaxgen import network, objective, sharding
from jaxgen.arguments import at_step, check_key, check_module, described
from jaxgen.data import check
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
    """The state before the first step, for images [H, W, C].

    Raises:
      TypeError: for a seed instead of a key, or what is no Linen module that takes `train`.
      ValueError: for an `image_shape` whose channels come first, or an encoder that does not return (mean, logvar).
    """
    check_key(key)
    _check_modules(encoder, decoder)
    network.check_optimizer(optimizer)
    check.check_layout(image_shape, f"image_shape is {tuple(image_shape)}, expected (H, W, C)")

    def build(key):
        encoder_key, decoder_key = jax.random.split(key)
        images = jnp.zeros((2, *image_shape))
        output, encoder_variables = network.init_with_output(encoder, encoder_key, images, name="encoder")
        mean, _ = _posterior(output)
        _, decoder_variables = network.init_with_output(decoder, decoder_key, mean, name="decoder")
        variables = {"encoder": encoder_variables, "decoder": decoder_variables}
        return objective.init_group(variables, optimizer=optimizer)

    return network.compiled_init(build, key)


def _check_modules(encoder, decoder):
    check_module(encoder, "encoder")
    check_module(decoder, "decoder")


class Posterior(NamedTuple):
    """q(z|x) = N(mean, exp(logvar)) of each image, both [B, latent_dim]."""

    mean: jax.Array
    logvar: jax.Array  # of the variance, not of the standard deviation


def _posterior(output):
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
      TypeError: at once, for an optimiser or likelihood that is a name or a number, or what is no Linen module that
        takes `train`; at trace time for a seed instead of a key.
    """
    _check_modules(encoder, decoder)
    network.check_optimizer(optimizer)
    _check_likelihood(likelihood)
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
        weight = jnp.asarray(at_step(beta, step, "beta"))
        output, encoder_state = network.apply(encoder, params["encoder"], old["encoder"], image, key=dropout_key)
        mean, logvar = _posterior(output)
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


def _check_likelihood(likelihood):
    if not (callable(getattr(likelihood, "log_prob", None)) and callable(getattr(likelihood, "mean", None))):
        raise TypeError(
            f"likelihood must be one of losses.variational, such as variational.bernoulli, not {described(likelihood)}"
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

    Raises:
      TypeError, ValueError: as `make_train_step`, and at trace time as `sample` for other variables.
    """
    _check_modules(encoder, decoder)
    _check_likelihood(likelihood)

    def eval_step(variables, batch: Mapping[str, jax.Array], key: jax.Array):
        check_key(key)
        image = network.images_of(batch)
        mean, logvar = encode(encoder, variables, image)
        noise = sharding.draw(jax.random.normal, key, (mean.shape[0], num_samples, mean.shape[1]))
        z = reparameterize(mean[:, None], logvar[:, None], noise)
        output = network.images_from(decoder, network.member(variables, "decoder"), z.reshape(-1, z.shape[-1]))
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


def encode(encoder: nn.Module, variables: Any, image: jax.Array) -> Posterior:
    """The posterior q(z|x) of images, with running batch statistics.

        posterior = vae.encode(encoder, state.ema, image)
        z = vae.reparameterize(*posterior, jax.random.normal(key, posterior.mean.shape))  # a draw from it
        image = vae.sample(decoder, state.ema, z)

    Args:
      encoder: the module.
      variables: `state.ema`, which holds those of encoder and decoder.
      image: [B, H, W, C] in [-1, 1], or with noise on it.

    Returns:
      `Posterior(mean, logvar)`, each [B, latent_dim]; logvar is the log of the variance.

    Raises:
      TypeError, ValueError: for a whole state or one network's variables instead of `state.ema`; for images that are
        not floating point, whose channels come first or, where the values are known, that are those of bytes.
    """
    own = network.member(variables, "encoder")
    check.check_traced(image)
    if not isinstance(image, jax.core.Tracer):
        values = np.asarray(image)  # not jnp: inside of a jit its results are traced, of known images, too
        if values.size and values.min() >= 0 and values.max() > 2:
            check.check_known(image)  # of bytes: it raises
    return _posterior(network.evaluate(encoder, own, image, what="images"))


def sample(
    decoder: nn.Module, variables: Any, z: jax.Array, *, likelihood: variational.Likelihood = variational.bernoulli
) -> jax.Array:
    """Mean images [N, H, W, C] in [-1, 1] for latents z [N, latent_dim] (drawn from N(0, 1), for new images).

    Args:
      decoder: the module.
      variables: `state.ema`, which holds those of encoder and decoder.
      z: [N, latent_dim].
      likelihood: as for `make_train_step`.

    Raises:
      TypeError: for a whole state instead of variables, or a likelihood that is a name.
      ValueError: for one network's variables (`state.ema["decoder"]`), or latents that do not fit.
    """
    _check_likelihood(likelihood)
    return likelihood.mean(network.images_from(decoder, network.member(variables, "decoder"), z))


def reconstruct(
    encoder: nn.Module,
    decoder: nn.Module,
    variables: Any,
    image: jax.Array,
    *,
    likelihood: variational.Likelihood = variational.bernoulli,
) -> jax.Array:
    """Mean images through the posterior mean: [N, H, W, C] -> [N, H, W, C] in [-1, 1].

    `variables` is `state.ema`. Raises as `encode` and `sample`.
    """
    return sample(decoder, variables, encode(encoder, variables, image).mean, likelihood=likelihood)
