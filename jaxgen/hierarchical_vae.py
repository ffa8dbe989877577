"""Hierarchical variational autoencoders: latents in layers, each with a prior that those before it make.

    ELBO = E_q log p(x|z) - sum_l E_q KL(q(z_l | z_<l, x) || p(z_l | z_<l)) = -distortion - rate

What is minimised is (distortion + rate) / dims, nats for each sub-pixel, as very deep ones are trained (Child 2021).
Modules are like those of `models.vdvae`:

    maps = encoder(images, train=)                        # whatever the decoder takes
    decoded = decoder(noise, maps, train=)                # a models.vdvae.Decoded; noise [B, decoder.num_latents]
    decoded = decoder(noise, temperature=1.0, train=)     # the same of the priors' latents

All that is drawn of a layer is standard normal noise, of which it makes its latents. Noise of the priors that would
have made the same latents is `decoded.latents`: an image's code, [B, num_latents], and standard normal for new images.
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
from jaxgen.arguments import check_key, check_module
from jaxgen.data import check
from jaxgen.losses import variational


def init(
    key: jax.Array,
    encoder: nn.Module,
    decoder: Any,
    *,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
) -> objective.State:
    """The state before the first step, for images [H, W, C]: of a group {"encoder": ..., "decoder": ...}.

    Raises:
      TypeError: for a seed instead of a key, or what is no Linen module that takes `train`.
      ValueError: for an `image_shape` whose channels come first, or images that the modules do not fit.
    """
    check_key(key)
    check_module(encoder, "encoder")
    check_module(decoder, "decoder")
    network.check_optimizer(optimizer)
    check.check_layout(image_shape, f"image_shape is {tuple(image_shape)}, expected (H, W, C)")

    def build(key):
        keys = jax.random.split(key)
        maps, encoder_variables = network.init_with_output(
            encoder, keys[0], jnp.zeros((2, *image_shape)), name="encoder"
        )
        noise = jnp.zeros((2, decoder.num_latents))
        _, decoder_variables = network.init_with_output(decoder, keys[1], noise, maps, name="decoder")
        variables = {"encoder": encoder_variables, "decoder": decoder_variables}
        return objective.init_group(variables, optimizer=optimizer)

    return network.compiled_init(build, key)


def make_train_step(
    encoder: nn.Module,
    decoder: Any,
    *,
    optimizer: optax.GradientTransformation,
    likelihood: variational.Likelihood,
    ema_decay: network.Decay = 0.0,
    gradients: ways.Way = ways.plain,
    axis_name: str | None = None,
) -> Callable:
    """Builds `train_step(state, batch, key) -> (state, metrics)`.

    Args:
      encoder, decoder: as above.
      optimizer: any optax transformation.
      likelihood: what the decoder's output means.
      ema_decay: of the average of all variables; 0 keeps the latest. A number or a schedule.
      gradients: how gradients are taken: `gradients.plain`, `gradients.accumulated(n)`.
      axis_name: as in `gan.make_train_step`.

    Returns:
      A pure function, not compiled. Metrics are means over the batch: `loss` in nats for each sub-pixel; in nats for
      each image `elbo`, `distortion`, `rate` and its parts by size of map, `rate/8x8`; `bits_per_dim` of the ELBO; and
      `grad_norm`, `update_norm`, `clipped`, `skipped`.

    Raises:
      TypeError: at once, for an optimiser or module that is none; at trace time, for a seed instead of a key, or images
        that are not floating point.
      ValueError: at trace time, for images that the modules do not fit.
    """
    check_module(encoder, "encoder")
    check_module(decoder, "decoder")
    network.check_optimizer(optimizer)

    def negative_bound(params, old, batch, key, step):
        image = network.images_of(batch)
        maps, encoder_state = network.apply(encoder, params["encoder"], old["encoder"], image, key=key)
        shape = (len(image), decoder.num_latents)
        noise = sharding.draw(jax.random.normal, jax.random.fold_in(key, 1), shape, axis_name=axis_name)
        decoded, decoder_state = network.apply(decoder, params["decoder"], old["decoder"], noise, maps, key=key)
        found = jax.tree.map(jnp.mean, _bound(likelihood, decoded, image))
        loss = -found["elbo"] / image[0].size
        metrics = {"loss": loss, "bits_per_dim": loss / jnp.log(2.0)} | found
        return loss, ({"encoder": encoder_state, "decoder": decoder_state}, metrics)

    return objective.make_train_step(
        negative_bound,
        optimizer=optimizer,
        ema_decay=ema_decay,
        gradients=gradients,
        variables_of=objective.variables_of_group,
        axis_name=axis_name,
    )


def _bound(likelihood, decoded, image):
    """{name: [B] nats} of images: elbo, distortion, rate and its parts."""
    shape = jax.eval_shape(likelihood.mean, decoded.output).shape
    if shape != image.shape:  # a grey decoder for colour images would broadcast, without an error
        raise ValueError(f"the decoder makes images of shape {shape[1:]}, but the data have {image.shape[1:]}")
    distortion, rate = -likelihood.log_prob(decoded.output, image), sum(decoded.rates.values())
    parts = {f"rate/{size}": part for size, part in decoded.rates.items()}
    return {"elbo": -distortion - rate, "distortion": distortion, "rate": rate, **parts}


def make_eval_step(
    encoder: nn.Module, decoder: Any, *, likelihood: variational.Likelihood, num_samples: int = 1
) -> Callable:
    """Builds `eval_step(variables, batch, key) -> dict` of numbers for each image.

    Args:
      encoder, decoder, likelihood: as for `make_train_step`.
      num_samples: k draws of all latents for each image, one after another: the memory of one.

    Returns:
      A pure function, not compiled, of `state.ema`, a batch and a key. Its dict holds, in nats and [B]: `elbo`,
      `distortion`, `rate`, `rate/8x8` and so on, means over the draws (given the latents before them, rates are
      analytic), and `importance_weighted_bound` with k samples. `elbo_bits_per_dim` are bits for each sub-pixel.

    Raises:
      ValueError: at once, for k below 1; at trace time as `make_train_step`.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}")

    def eval_step(variables, batch: Mapping[str, jax.Array], key: jax.Array):
        check_key(key)
        image = network.images_of(batch)
        maps = network.evaluate(encoder, network.member(variables, "encoder"), image, what="images")
        own = network.member(variables, "decoder")

        def once(index):
            shape = (len(image), decoder.num_latents)
            noise = sharding.draw(jax.random.normal, jax.random.fold_in(key, index), shape)
            decoded = network.evaluate(decoder, own, noise, maps, what="noise")
            found = _bound(likelihood, decoded, image)
            return found, decoded.log_ratio - found["distortion"]

        found, log_weights = lax.map(once, jnp.arange(num_samples))
        found = {name: jnp.mean(x, axis=0) for name, x in found.items()}
        bound = variational.importance_weighted_bound(log_weights, axis=0)
        bits = variational.bits_per_dim(-found["elbo"], image[0].size)
        return found | {"importance_weighted_bound": bound, "elbo_bits_per_dim": bits}

    return eval_step


def summarize(per_image: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The numbers of a data set from those of its images, concatenated: their means."""
    return {name: float(np.mean(np.asarray(x), dtype=np.float64)) for name, x in per_image.items()}


def encode(encoder: nn.Module, decoder: Any, variables: Any, image: jax.Array) -> jax.Array:
    """Codes [B, num_latents] of images [B, H, W, C]: every layer's posterior mean, given those before it.

    `variables` is `state.ema`. What `sample` makes of them is a reconstruction. Raises as `network.evaluate`.
    """
    maps = network.evaluate(encoder, network.member(variables, "encoder"), image, what="images")
    noise = jnp.zeros((len(image), decoder.num_latents))
    return network.evaluate(decoder, network.member(variables, "decoder"), noise, maps, what="noise").latents


def sample(
    decoder: Any,
    variables: Any,
    latents: jax.Array,
    *,
    likelihood: variational.Likelihood,
    temperature: float | jax.Array = 1.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Images [N, H, W, C] in [-1, 1] of latents or codes [N, num_latents].

    Args:
      decoder: the module.
      variables: `state.ema`.
      latents: deviations of every layer from its prior's mean, in the prior's; standard normal for new images.
      likelihood: as for `make_train_step`.
      temperature: by which the latents are multiplied; below 1 for better and more similar images.
      key: draws from the likelihood, where it can be drawn from; without it images are its means.

    Raises:
      TypeError: for a whole state instead of variables, or a seed instead of a key.
      ValueError: for another number of latents.
    """
    if key is not None:
        check_key(key)
    own = network.member(variables, "decoder")
    output = network.images_from(decoder, own, latents, temperature=temperature).output
    if key is None or likelihood.sample is None:
        return likelihood.mean(output)
    return likelihood.sample(output, key)
