"""What a game can do whose generator reconstructs the image that it is told: in the place of drawing one."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen import network, sharding, turns
from jaxgen.metrics import codes as of_codes
from jaxgen.models import quantise
from jaxgen.options import Run
from jaxgen.system import Measure, System


def instead_of_drawing(
    system: System, config: Run, model: nn.Module, latents_shape: tuple[int, ...], num_codes: int
) -> System:
    """A two-player system that encodes, decodes and reconstructs.

    Args:
      system: of `two_player.build`.
      config: settings.
      model: the generator, with the methods `quantised(images)`, which returns `quantise.Quantised`, and
        `decode(codes)`.
      latents_shape: of the latents of an image.
      num_codes: of which they are; 0: they are numbers, which a standard normal stands for.
    """

    def encode(variables, batch):
        own, image = network.member(variables, "generator"), network.images_of(batch)
        return network.evaluate(model, own, image, what="images", method="quantised").codes

    def decode(variables, codes):
        own = network.member(variables, "generator")
        return jnp.clip(network.evaluate(model, own, codes, what="codes", method="decode"), -1.0, 1.0)

    def latents(key, n):
        if not num_codes:
            return sharding.draw(jax.random.normal, key, (n, *latents_shape))
        return quantise.uniform_codes(key, (n, *latents_shape), num_codes)

    def of_batch(variables, batch, key):
        codes = encode(variables, batch)
        error = decode(variables, codes) - batch["image"]
        rows = {"distortion": turns.per_picture(jnp.abs(error)), "squared_error": turns.per_picture(error**2)}
        return rows | ({"codes": codes.reshape(len(codes), -1)} if num_codes else {})

    def summarize(rows):
        return of_codes.summarize(rows, num_codes) if num_codes else of_codes.means(rows)

    what = "codes, all alike" if num_codes else "numbers of a standard normal"
    return dataclasses.replace(
        system,
        draw=None,
        choices={},
        latent_choices=(),
        batch_statistics=None,
        latents=latents,
        encode=encode,
        decode=decode,
        reconstruct=lambda variables, batch: decode(variables, encode(variables, batch)),
        measure=Measure(of_batch, summarize, best="distortion", mode="min"),
        protocol={
            "latents": f"{what}: there is no prior of them yet, and nothing is drawn",
            "images": "reconstructions, clipped",
            **config.weights,
        },
    )
