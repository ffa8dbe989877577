"""What systems of encoder, decoder and discriminator share: optimisers, and what all of them can do."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen import adversarial_autoencoder, network, sharding, turns
from jaxgen.adversarial_autoencoder import NAMES, Objectives, code_of, image_alone
from jaxgen.metrics import codes
from jaxgen.options import Optimizer, Run
from jaxgen.ranges import Count
from jaxgen.system import Measure, Spec, System


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThreeNetworks(Run):
    """Encoder, decoder and discriminator."""

    latent_dim: Count = 128
    """Numbers that the encoder describes an image with."""
    encoder: Optimizer = Optimizer(b1=0.5)
    """The encoder's optimiser."""
    decoder: Optimizer = Optimizer(b1=0.5)
    """The decoder's optimiser."""
    discriminator: Optimizer = Optimizer(b1=0.5)
    """The discriminator's optimiser."""


def code_alone(image: jax.Array, z: jax.Array) -> tuple[jax.Array, ...]:
    """What a discriminator of codes is shown."""
    return (z,)


def both(image: jax.Array, z: jax.Array) -> tuple[jax.Array, ...]:
    """What a discriminator of pairs is shown."""
    return image, z


def clipped(output: jax.Array) -> jax.Array:
    """Images of a decoder that returns them: within [-1, 1]."""
    return jnp.clip(output, -1.0, 1.0)


def build(
    config: ThreeNetworks,
    spec: Spec,
    encoder: nn.Module,
    decoder: nn.Module,
    discriminator: nn.Module,
    objectives: Objectives,
    *,
    name: str,
    judged: Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]] = image_alone,
    sampler: Callable = jax.random.normal,
    prior: str = "standard normal, not truncated",
    picture: Callable[[Any], jax.Array] = clipped,
    moves: Callable | None = None,
) -> System:
    """The system of three modules.

    Args:
      config: optimisers, averages.
      spec: of the batches.
      encoder, decoder, discriminator, objectives, moves: as for `adversarial_autoencoder.make_train_step`.
      name: of the system.
      judged: (images, their codes) -> what the discriminator is given.
      sampler: `(key, shape) -> latents` of new images.
      prior: the same in words.
      picture: what the decoder returns -> images.
    """
    modules = (encoder, decoder, discriminator)
    optimizers = {which: getattr(config, which).build(config.num_steps) for which in NAMES}

    def latents(key, n):
        return sharding.draw(sampler, key, (n, config.latent_dim))

    def decode(variables, z):
        return picture(network.images_from(decoder, network.member(variables, "decoder"), z))

    def encode(variables, batch):
        own, image = network.member(variables, "encoder"), network.images_of(batch)
        return code_of(network.evaluate(encoder, own, image, what="images"))

    def reconstruct(variables, batch):
        return decode(variables, encode(variables, batch))

    def discriminate(variables, batch):
        inputs = judged(network.images_of(batch), encode(variables, batch))
        own = network.member(variables, "discriminator")
        return turns.per_picture(network.evaluate(discriminator, own, *inputs))

    def of_batch(variables, batch, key):
        return {"distortion": turns.per_picture(jnp.square(reconstruct(variables, batch) - batch["image"]))}

    return System(
        init=lambda key: adversarial_autoencoder.init(
            key, *modules, optimizers=optimizers, image_shape=spec.image_shape, judged=judged
        ),
        train_step=adversarial_autoencoder.make_train_step(
            *modules,
            objectives,
            optimizers=optimizers,
            moves=moves,
            ema_decay=config.ema_decay,
            gradients=config.gradients,
        ),
        images_per_step=config.batch_size,
        variables=variables_of,
        draw=lambda variables, key, n: decode(variables, latents(key, n)),
        latents=latents,
        decode=decode,
        encode=encode,
        reconstruct=reconstruct,
        discriminate=discriminate,
        measure=Measure(of_batch, codes.means, best="distortion", mode="min"),
        protocol={"latents": prior, "images": "the decoder's output", **config.weights},
        name=name,
    )


def variables_of(state: adversarial_autoencoder.State) -> dict[str, Any]:
    """The averages of encoder and decoder, and the discriminator as it is."""
    return {**state.ema, "discriminator": state.discriminator.variables}
