"""Variational autoencoders: the reparameterised evidence lower bound (Kingma and Welling 2014; Rezende et al. 2014).

    ELBO = E_q(z|x) log p(x|z) - KL(q(z|x) || p(z)) = -distortion - rate

is a bound on log p(x) in nats and is reported at beta = 1. What is minimised is distortion + beta * rate.

Four arguments carry the methods: `posterior` (what the encoder's output means), `prior`, `bound` (what is maximised
instead of the ELBO, and how its gradient is estimated) and `terms` (what is added to the loss).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax

from jaxgen import gradients as ways
from jaxgen import latent_model, network, objective, sharding
from jaxgen.arguments import at_step, called, check_function, check_key, check_module
from jaxgen.data import check
from jaxgen.latent_model import DIAGONAL, STANDARD, Condition, drawing, for_evaluation, told
from jaxgen.losses import bounds, latent, variational
from jaxgen.models import priors
from jaxgen.models.posteriors import Posterior as Posterior
from jaxgen.models.posteriors import reparameterize as reparameterize

VAEState = objective.State
"""Its network's params and model_state are dicts {"encoder": ..., "decoder": ...}, with "posterior" and "prior" where
these have parameters."""


def init(
    key: jax.Array,
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    posterior: nn.Module = DIAGONAL,
    prior: nn.Module = STANDARD,
    condition: jax.Array | jax.ShapeDtypeStruct | None = None,
) -> VAEState:
    """The state before the first step, for images [H, W, C].

    `posterior` and `prior` as for `make_train_step`; `condition` is what one image's networks are told, or its shape.

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
        given = () if condition is None else (jnp.zeros((2, *condition.shape), condition.dtype),)
        output, encoder_variables = network.init_with_output(encoder, encoder_key, images, *given, name="encoder")
        output = posterior.read(output)
        draw = drawing(jax.random.fold_in(key, 2))
        own = posterior.init(jax.random.fold_in(key, 3), output, draw, 1)
        mean = posterior.apply(own, output, method="mean")
        _, decoder_variables = network.init_with_output(decoder, decoder_key, mean, *given, name="decoder")
        variables = {"encoder": encoder_variables, "decoder": decoder_variables}
        # A prior's parameters do not depend on what the posterior says.
        silent = priors.Recognition(lambda images, z: jnp.zeros((len(z), len(images))), None)
        parts = {"posterior": own, "prior": prior.init(jax.random.fold_in(key, 4), mean, silent, method="log_prob")}
        variables |= {name: found for name, found in parts.items() if found}
        return objective.init_group(variables, optimizer=optimizer)

    return network.compiled_init(build, key)


def _check_modules(encoder, decoder):
    check_module(encoder, "encoder")
    check_module(decoder, "decoder")


def make_train_step(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    optimizer: optax.GradientTransformation,
    likelihood: variational.Likelihood = variational.bernoulli,
    posterior: nn.Module = DIAGONAL,
    prior: nn.Module = STANDARD,
    beta: float | Callable[[jax.Array], jax.Array] = 1.0,
    free_bits: float = 0.0,
    num_samples: int = 1,
    importance_weighted: bool = False,
    bound: bounds.Bound | None = None,
    terms: Sequence[latent.Term] = (),
    condition: Condition | None = None,
    ema_decay: network.Decay = 0.0,
    gradients: ways.Way = ways.plain,
    axis_name: str | None = None,
) -> Callable:
    """Builds `train_step(state, batch, key) -> (state, metrics)`.

    Args:
      encoder: `apply(variables, images, train=) -> (mean, logvar)`, each [B, latent_dim], or what `posterior` reads.
      decoder: `apply(variables, z [B, latent_dim], train=) -> output`, read by `likelihood`.
      optimizer: any optax transformation.
      likelihood: what the decoder's output means: `variational.bernoulli`, `gaussian`, `discretized_logistic`.
      posterior: of `models.posteriors`; the diagonal Gaussian by default.
      prior: of `models.priors`; the standard normal by default.
      beta: weight of the rate in the loss (Higgins et al. 2017); a number or a schedule step -> number (KL warm-up).
      free_bits: nats per latent unit below which the batch mean of its rate is not pushed down (Kingma et al. 2016,
        section C.8, with groups of one unit). Where the floor holds, the rate's gradient is exactly 0.
      num_samples: k latents for each image.
      importance_weighted: minimise the negative importance-weighted bound with k samples (Burda et al. 2016) instead
        of the average of k ELBO estimates. Then beta must be 1 and free_bits 0. Short for `bound=bounds.iwae`.
      bound: of `losses.bounds`, to be maximised instead of the ELBO at this beta.
      terms: of `losses.latent`, added to the loss.
      condition: the batch -> what encoder and decoder are told, such as `lambda batch: batch["label"]`.
      ema_decay: of the average of all variables; 0 keeps the latest. A number or a schedule.
      gradients: how gradients are taken: `gradients.plain`, `gradients.accumulated(n)`. In slices, free bits and
        `active_units` are of each slice.
      axis_name: as in `gan.make_train_step`.

    Returns:
      A pure function, not compiled. Metrics, in nats per image, means over the batch: `loss`, `elbo` (at beta = 1, free
      bits aside), `distortion`, `rate`, `importance_weighted_bound` (with k samples), `active_units` (how many units'
      posterior means vary over this batch by more than 0.01), `beta`, each term by its name, and `grad_norm`,
      `update_norm`, `clipped`, `skipped`. The rate is exact where posterior and prior have a formula. A posterior
      without density has no rate, ELBO or bound, and its loss is the distortion with the terms.

    Raises:
      TypeError: at trace time, for images that are not floating point.
      ValueError: at trace time, for images of another shape than the decoder's, or a bound of a posterior without
        density; at once, for k below 1, negative free bits, or a bound with another beta or free bits.
      TypeError: at once, for an optimiser or likelihood that is a name or a number, or what is no Linen module that
        takes `train`; at trace time for a seed instead of a key.
    """
    _check_modules(encoder, decoder)
    network.check_optimizer(optimizer)
    variational.check_likelihood(likelihood)
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}")
    if free_bits < 0:
        raise ValueError(f"free_bits must not be negative, but is {free_bits}")
    if importance_weighted and bound is not None:
        raise ValueError("importance_weighted=True is short for bound=bounds.iwae: give one of them")
    bound = bounds.iwae if importance_weighted else bound
    if bound is not None and (callable(beta) or beta != 1.0 or free_bits):
        what = "the importance-weighted bound is" if bound is bounds.iwae else f"the bound {called(bound)} is"
        raise ValueError(f"{what} defined for beta = 1 and no free bits")
    if bound is not None:
        check_function(bound, "log_weights", "bound", "bound=bounds.iwae")
    latent.check_terms(terms)

    def over_devices(x):
        return x if axis_name is None else lax.pmean(x, axis_name)

    def negative_bound(params, old, batch, key, step):
        image, given = network.images_of(batch), told(condition, batch)
        noise_key, dropout_key = jax.random.split(key)
        dropout_key = sharding.per_device_key(dropout_key, axis_name)
        weight = jnp.asarray(at_step(beta, step, "beta"))
        states = {}

        def with_params(params):
            def apply(name, module):
                return lambda x, *given: network.apply(module, params[name], old[name], x, *given, key=dropout_key)

            networks = apply("encoder", encoder), apply("decoder", decoder)
            variables = {name: {"params": own} for name, own in params.items()}
            return latent_model.of(*networks, variables, posterior, prior)

        model = with_params(params)
        output, states["encoder"] = model.encode(image, *given)
        draws = model.q(output, drawing(noise_key, axis_name), num_samples)
        log_px, states["decoder"] = model.log_likelihood(likelihood, draws.z, image, given)
        log_ratio = model.log_prior_over_posterior(output, draws)
        rates = model.rate_in_parts(output, log_ratio)
        distortion = loss = -jnp.mean(log_px)
        metrics = {"distortion": distortion, "beta": weight}
        if rates is not None:
            rate = jnp.mean(jnp.sum(rates, axis=1))
            log_weights = log_px + log_ratio
            weighted = jnp.mean(variational.importance_weighted_bound(log_weights, axis=1))
            mean_kl = over_devices(jnp.mean(rates, axis=0))
            # Not `maximum`, whose derivative compares for equality what XLA may have computed twice. NaN stays NaN.
            # Without free bits no floor, either: a rate that is estimated by samples may be negative.
            floored = jnp.where(mean_kl < free_bits, free_bits, mean_kl) if free_bits else mean_kl
            loss = distortion + weight * jnp.sum(floored)
            metrics |= {"elbo": -distortion - rate, "rate": rate, "importance_weighted_bound": weighted}
        if bound is not None:
            of = latent_model.log_weights_of(
                with_params,
                params,
                lambda model, z: model.log_likelihood(likelihood, z, image, given)[0],
                output,
                draws,
                None if rates is None else log_weights,
            )
            loss = -jnp.mean(bound(of))
        mean = model.q.mean(output)
        if terms:
            seen = latent.Seen(
                posterior=output,
                z=draws.z[:, 0],
                mean=mean,
                rate=None if rates is None else jnp.sum(rates, axis=1),
                batch=batch,
                params=params,
                images=lambda z: likelihood.mean(model.decode(z, *given)[0]),
                log_prior=model.log_prior,
                draw_prior=lambda num: model.p.sample(
                    drawing(jax.random.fold_in(key, 2), axis_name), num, model.recognition
                ),
                key=jax.random.fold_in(key, 3),
                step=step,
                axis_name=axis_name,
            )
            for term in terms:
                metrics[term.name] = value = term.value(seen)
                loss = loss + at_step(term.weight, step, f"the weight of {term.name}") * value
        mean_of_mean = over_devices(jnp.mean(mean, axis=0))
        variance = over_devices(jnp.mean((mean - mean_of_mean) ** 2, axis=0))
        metrics |= {"loss": loss, "active_units": jnp.sum(variance > ACTIVE_UNIT_VARIANCE)}
        return loss, (old | states, metrics)

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


def make_eval_step(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    likelihood: variational.Likelihood = variational.bernoulli,
    num_samples: int = 1,
    posterior: nn.Module = DIAGONAL,
    prior: nn.Module = STANDARD,
    condition: Condition | None = None,
) -> Callable:
    """Builds `eval_step(variables, batch, key) -> dict` of numbers for each image.

    Args:
      encoder, decoder, likelihood, posterior, prior, condition: as for `make_train_step`.
      num_samples: k latents for each image. All k are held at once: a large k goes with a small batch.

    Returns:
      A pure function, not compiled, of `state.ema`, a batch and a key. Its dict holds, in nats: `elbo`, `distortion`,
      `rate`, `importance_weighted_bound` (with k samples), each [B]; `kl_per_unit` and `posterior_mean`,
      [B, latent_dim]. `kl_per_unit` is [B, 1], the rate, where it does not fall into units; a posterior without density
      has `distortion` and `posterior_mean` alone. `summarize` makes the numbers of a whole data set from these.

    Raises:
      TypeError, ValueError: as `make_train_step`, and at trace time as `sample` for other variables.
    """
    _check_modules(encoder, decoder)
    variational.check_likelihood(likelihood)

    def eval_step(variables, batch: Mapping[str, jax.Array], key: jax.Array):
        check_key(key)
        image, given = network.images_of(batch), told(condition, batch)
        model = for_evaluation(encoder, decoder, variables, posterior, prior)
        output, _ = model.encode(image, *given)
        draws = model.q(output, drawing(key), num_samples)
        log_px, _ = model.log_likelihood(likelihood, draws.z, image, given)
        log_ratio = model.log_prior_over_posterior(output, draws)
        bound = None if log_ratio is None else variational.importance_weighted_bound(log_px + log_ratio, axis=1)
        rates = model.rate_in_parts(output, log_ratio)
        return model.per_image(output, jnp.mean(log_px, axis=1), rates, bound)

    return eval_step


def summarize(per_image: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The numbers of a data set from those of its images, concatenated: means, and the count of active units."""
    names = [n for n in ("elbo", "distortion", "rate", "importance_weighted_bound") if n in per_image]
    # asarray: NumPy hands the mean of a JAX array back to JAX, which has no float64.
    summary = {name: float(np.mean(np.asarray(per_image[name]), dtype=np.float64)) for name in names}
    variance = np.var(np.asarray(per_image["posterior_mean"]), axis=0, dtype=np.float64)
    summary["active_units"] = int(np.sum(variance > ACTIVE_UNIT_VARIANCE))
    return summary


def encode(
    encoder: nn.Module, variables: Any, image: jax.Array, *condition: jax.Array, posterior: nn.Module = DIAGONAL
) -> Any:
    """The posterior q(z|x) of images, with running batch statistics.

        posterior = vae.encode(encoder, state.ema, image)
        z = vae.reparameterize(*posterior, jax.random.normal(key, posterior.mean.shape))  # a draw from it
        image = vae.sample(decoder, state.ema, z)

    Args:
      encoder: the module.
      variables: `state.ema`, which holds those of encoder and decoder.
      image: [B, H, W, C] in [-1, 1], or with noise on it.
      condition: what the encoder is told, if anything.
      posterior: as for `make_train_step`.

    Returns:
      `Posterior(mean, logvar)`, each [B, latent_dim]; logvar is the log of the variance. For another posterior what it
      reads.

    Raises:
      TypeError, ValueError: for a whole state or one network's variables instead of `state.ema`; for images that are
        not floating point, whose channels come first or, where the values are known, that are those of bytes.
    """
    return for_evaluation(encoder, None, variables, posterior, STANDARD).encode(image, *condition)[0]


def posterior_mean(
    encoder: nn.Module, variables: Any, image: jax.Array, *condition: jax.Array, posterior: nn.Module = DIAGONAL
) -> jax.Array:
    """The latents [B, latent_dim] that stand for images: what the posterior calls its mean. Raises as `encode`."""
    model = for_evaluation(encoder, None, variables, posterior, STANDARD)
    return model.q.mean(model.encode(image, *condition)[0])


def draw_latents(
    prior: nn.Module,
    variables: Any,
    key: jax.Array,
    num: int,
    *,
    encoder: nn.Module | None = None,
    posterior: nn.Module = DIAGONAL,
) -> jax.Array:
    """Latents [num, latent_dim] of new images from the prior; `encoder` and `posterior` for a VampPrior alone.

    Raises:
      TypeError, ValueError: for a whole state instead of `state.ema`, or a VampPrior without encoder.
    """
    check_key(key)
    model = for_evaluation(encoder, None, variables, posterior, prior)
    return model.p.sample(drawing(key), num, None if encoder is None else model.recognition)


def sample(
    decoder: nn.Module,
    variables: Any,
    z: jax.Array,
    condition: jax.Array | None = None,
    *,
    likelihood: variational.Likelihood = variational.bernoulli,
) -> jax.Array:
    """Mean images [N, H, W, C] in [-1, 1] for latents z [N, latent_dim] (drawn from N(0, 1), for new images).

    Args:
      decoder: the module.
      variables: `state.ema`, which holds those of encoder and decoder.
      z: [N, latent_dim].
      condition: what the decoder is told, if anything.
      likelihood: as for `make_train_step`.

    Raises:
      TypeError: for a whole state instead of variables, or a likelihood that is a name.
      ValueError: for one network's variables (`state.ema["decoder"]`), or latents that do not fit.
    """
    variational.check_likelihood(likelihood)
    return likelihood.mean(network.images_from(decoder, network.member(variables, "decoder"), z, condition))


def reconstruct(
    encoder: nn.Module,
    decoder: nn.Module,
    variables: Any,
    image: jax.Array,
    condition: jax.Array | None = None,
    *,
    likelihood: variational.Likelihood = variational.bernoulli,
    posterior: nn.Module = DIAGONAL,
) -> jax.Array:
    """Mean images through the posterior mean: [N, H, W, C] -> [N, H, W, C] in [-1, 1].

    `variables` is `state.ema`. Raises as `encode` and `sample`.
    """
    given = () if condition is None else (condition,)
    z = posterior_mean(encoder, variables, image, *given, posterior=posterior)
    return sample(decoder, variables, z, condition, likelihood=likelihood)
