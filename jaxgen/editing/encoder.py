"""An encoder for a decoder that is already there, such as a GAN's generator: an objective for `jaxgen.objective`.

loss = encoder.objective_of(module, decode, latents)
step = objective.make_train_step(loss, optimizer=optimizer)
state = objective.init(module.init(key, images, train=True), optimizer=optimizer, frozen=run.variables)
state, metrics = jax.jit(step)(state, {"image": images}, key)
z = encoder.encode(module, state.ema, images)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen import network
from jaxgen.arguments import check_module
from jaxgen.editing.latents import rows_of
from jaxgen.objective import Objective


def objective_of(
    encoder: nn.Module,
    decode: Callable[[Any, Any], jax.Array],
    latents: Callable[[jax.Array, int], Any],
    *,
    of_drawn: float = 1.0,
    of_real: float = 1.0,
    distance: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Objective:
    """The objective of an encoder E for a frozen decoder G.

        of_drawn * E_z mean (E(G(z)) - z)^2 + of_real * E_x [mean (G(E(x)) - x)^2 + distance(G(E(x)), x)]

    The first alone needs no images, and of a linear decoder finds its pseudo-inverse; the second is of the images that
    are to be encoded, which a generator need not be able to draw.

    Args:
      encoder: images [B, H, W, C] -> rows [B, D] of the latents' numbers; takes `train`.
      decode: (variables of the decoder, latents) -> images; the variables are the state's `frozen`.
      latents: (key, n) -> latents of new images, leaves [n, ...].
      of_drawn, of_real: weights; 0 leaves a part out.
      distance: (images, targets) -> [B], such as a perceptual one.

    Returns:
      An objective for `objective.make_train_step`. Metrics: `loss`, `latent_error` (mean over numbers), `pixel_error`
      (mean over pixels and channels, in units of [-1, 1]).

    Raises:
      TypeError: at once, for what is no Linen module that takes `train`.
      ValueError: at once, for two weights of 0.
    """
    check_module(encoder, "encoder")
    if of_drawn <= 0 and of_real <= 0:
        raise ValueError("an encoder learns from drawn images, from real ones or from both: one weight is above 0")

    def errors(params, model_state, batch, key, step, frozen):
        image = network.images_of(batch)
        of_latents, of_encoder = jax.random.split(key)
        drawn = latents(of_latents, len(image))
        z, back = rows_of(drawn)
        state, metrics, loss = model_state, {}, jnp.zeros(())
        if of_drawn > 0:
            seen = jax.lax.stop_gradient(decode(frozen, drawn))
            found, state = network.apply(encoder, params, state, seen, key=of_encoder)
            metrics["latent_error"] = jnp.mean((_checked(found, z) - z) ** 2)
            loss = loss + of_drawn * metrics["latent_error"]
        if of_real > 0:
            found, state = network.apply(encoder, params, state, image, key=jax.random.fold_in(of_encoder, 1))
            again = decode(frozen, back(_checked(found, z)))
            metrics["pixel_error"] = jnp.mean((again - image) ** 2)
            loss = loss + of_real * metrics["pixel_error"]
            if distance is not None:
                loss = loss + of_real * jnp.mean(distance(again, image))
        return loss, (state, metrics | {"loss": loss})

    found: Any = errors  # an objective that is given `frozen`
    return found


def _checked(found, z):
    if found.shape != z.shape:
        raise ValueError(
            f"the encoder returns rows of {list(found.shape[1:])}, and the latents of the decoder have {z.shape[1]} "
            "numbers"
        )
    return found


def encode(encoder: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
    """Rows [B, D] of latents of images [B, H, W, C], as the encoder is evaluated; `latents.rows_of` knows their form.

    Raises:
      TypeError, ValueError: for a whole state instead of variables, or variables of another network.
    """
    return network.evaluate(encoder, variables, images, what="images")
