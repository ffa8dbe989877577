"""BiGAN, or ALI: a discriminator of pairs teaches an encoder and a generator that never meet (Donahue et al. 2017).

The discriminator is shown an image with its code, (x, Enc(x)), as real, and a new image with the code that it was made
of, (Dec(z), z), as fake; z is uniform in [-1, 1]. Encoder and generator (here the decoder) minimise one loss, in which
the two are exchanged:

    discriminator             -log D(x, Enc(x)) - log(1 - D(Dec(z), z))
    encoder and generator     -log(1 - D(x, Enc(x))) - log D(Dec(z), z).

There is no error of reconstruction: at the optimum Enc inverts Dec. The same method is ALI (Dumoulin et al. 2017),
whose encoder draws codes. `mnist-bigan` has the paper's multilayer perceptrons and lengths.

Deviations: the rate is constant for all 400 epochs, and weights do not decay. Encoder, generator and discriminator move
at once.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp

from jaxgen import sharding
from jaxgen.models import pairs as networks
from jaxgen.options import LOSSES, lookup
from jaxgen.ranges import Count
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import three_networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(three_networks.ThreeNetworks):
    """An encoder and a generator with a discriminator of pairs."""

    latent_dim: Count = 50
    """Numbers of which an image is made."""
    widths: tuple[Count, ...] = (1024, 1024)
    """Units of the hidden layers of each network."""
    loss: Literal[*LOSSES] = "non_saturating"
    """The discriminator's, which encoder and generator minimise with the pairs exchanged."""


uniform = functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape."""
    loss = lookup(LOSSES, config.loss, "loss").discriminator

    def objectives(players, batch, key, step):
        image = batch["image"]
        code = players.encode(image)
        z = sharding.draw(uniform, key, code.shape)
        real = players.discriminate(image, code)
        fake = players.discriminate(players.decode(z), z)
        exchanged = jnp.mean(loss(fake, real))
        losses = {"encoder": exchanged, "decoder": exchanged, "discriminator": jnp.mean(loss(real, fake))}
        accuracy = 0.5 * (jnp.mean(real > 0) + jnp.mean(fake < 0))
        return losses, {"discriminator/accuracy": accuracy}

    return three_networks.build(
        config,
        spec,
        networks.Encoder(config.latent_dim, config.widths, slope=0.2, batch_norm=True, dtype=config.dtype),
        networks.Decoder(spec.image_shape, config.widths, batch_norm=True, dtype=config.dtype),
        networks.PairDiscriminator(config.widths, dtype=config.dtype),
        objectives,
        name="BiGAN",
        judged=three_networks.both,
        sampler=uniform,
        prior="uniform in [-1, 1]",
    )


TINY = Config(latent_dim=3, widths=(6, 5), batch_size=8, num_steps=4)

PRESETS = {
    "mnist-bigan": Preset(
        "digits by BiGAN with multilayer perceptrons",
        Config(batch_size=128, num_steps=187_500, sample_every=5000, checkpoint_every=5000),
        paper="Donahue, Krahenbuhl and Darrell 2017; Dumoulin et al. 2017",
        published="97.35 % of test digits by the nearest training digit in the encoder's penultimate features "
        "(authors' log, 400 epochs)",
    ),
}
