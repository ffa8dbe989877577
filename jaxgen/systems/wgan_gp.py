"""WGAN-GP: residual players, a critic whose gradient is pulled to norm 1 (Gulrajani et al. 2017).

Wasserstein loss, gradient penalty of weight 10 between real and fake images, no normalisation in the discriminator,
five discriminator updates for each of the generator, Adam with b1 = 0 and b2 = 0.9, rates that fall linearly to 0.

Deviations: `models.wgan_gp` and `models.sngan` name those of the networks, which are as wide as SNGAN's. The paper
draws twice as many fake images for the generator's update; here both players see the same batch.
"""

import dataclasses
from typing import Literal

from jaxgen.models import sngan as generators
from jaxgen.models import wgan_gp as networks
from jaxgen.options import LOSSES, square_size
from jaxgen.ranges import Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import residual_players, two_player


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(residual_players.Players):
    """A residual GAN with a gradient penalty, for square images of 28, 32, 48, 64 or 128 pixels, without labels."""

    loss: Literal[*LOSSES] = "wasserstein"
    """Of both players."""
    gradient_penalty: Weight = 10.0
    """Weight of the WGAN-GP penalty."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a size without a network.
    """
    size, channels = square_size(spec.image_shape, "WGAN-GP"), spec.image_shape[2]
    generator = generators.Generator(size, channels, config.generator_features, dtype=config.dtype)
    discriminator = networks.Discriminator(config.discriminator_features, dtype=config.dtype)
    return two_player.build(config, spec, generator, discriminator, name="WGAN-GP")


TINY = Config(
    generator_features=4, discriminator_features=4, latent_dim=4, batch_size=8, num_steps=4, num_discriminator_steps=2
)

_PAPER = "Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville 2017"

PRESETS = {
    "emoji-wgan-gp": Preset(
        "32x32 colour emoji by a narrow residual WGAN-GP with DiffAugment",
        Config(**residual_players.EMOJI, **residual_players.SMALL | {"num_discriminator_steps": 2}),
        paper=_PAPER,
    ),
    "cifar-wgan-gp": Preset(
        "CIFAR-10 by the residual WGAN-GP; give --data.path, a folder of images, or --data.name hub",
        Config(data=residual_players.CIFAR, **residual_players.PUBLISHED),
        paper=_PAPER,
        published="FID 29.3 (50,000 and 50,000 images; Heusel et al. 2017); a reproduction 22.29",
        spec=((32, 32, 3), 10),
    ),
}
