"""SSGAN: SNGAN whose discriminator also tells by how many quarters an image was turned (Chen et al. 2019).

The discriminator has a second head, of four logits, which learns turns of real images; the generator makes images
whose turns it can tell. Weights are 1 and 0.2. Hinge loss, Adam with b1 = 0 and b2 = 0.9, two discriminator updates for
each of the generator, rates that fall linearly to 0: as in the common reproduction (mimicry; Lee and Town 2020).

Deviations: those of `sngan`. Image i of a batch is turned by i mod 4 quarters, where the authors turn a quarter of the
batch in all four ways.
"""

import dataclasses

from jaxgen.losses import terms
from jaxgen.models import sngan as networks
from jaxgen.options import square_size
from jaxgen.ranges import Count, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import residual_players, two_player


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(residual_players.Players):
    """A residual GAN that tells turns apart, for square images of 28, 32, 48, 64 or 128 pixels; labels are not used."""

    num_discriminator_steps: Count = 2
    """Discriminator updates for each generator update, each on fresh images."""
    discriminator_turned: Weight = 1.0
    """Weight of the turns of real images in the discriminator's objective."""
    generator_turned: Weight = 0.2
    """Weight of the turns of fake images in the generator's objective."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a size without a network.
    """
    size, channels = square_size(spec.image_shape, "SSGAN"), spec.image_shape[2]
    return two_player.build(
        config,
        spec,
        networks.Generator(size, channels, config.generator_features, dtype=config.dtype),
        networks.Discriminator(config.discriminator_features, num_turns=4, dtype=config.dtype),
        name="SSGAN",
        generator_terms=[terms.turned(config.generator_turned, "fake")] if config.generator_turned > 0 else [],
        discriminator_terms=[terms.turned(config.discriminator_turned, "real")]
        if config.discriminator_turned > 0
        else [],
    )


TINY = Config(
    generator_features=4, discriminator_features=4, latent_dim=4, batch_size=8, num_steps=4, num_discriminator_steps=2
)

_PAPER = "Chen, Zhai, Ritter, Lucic and Houlsby 2019; networks after Miyato et al. 2018"

PRESETS = {
    "emoji-ssgan": Preset(
        "32x32 colour emoji by a narrow SSGAN with DiffAugment",
        Config(**residual_players.EMOJI, **residual_players.SMALL),
        paper=_PAPER,
    ),
    "cifar-ssgan": Preset(
        "CIFAR-10 by SSGAN; give --data.path, a folder of images, or --data.name hub",
        Config(data=residual_players.CIFAR, **residual_players.PUBLISHED),
        paper=_PAPER,
        published="FID 17.88 (10,000 and 10,000 images); a reproduction 14.65 (50,000 and 50,000)",
        spec=((32, 32, 3), 10),
    ),
}
