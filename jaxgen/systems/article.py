"""The example network of the survey article: a dense stem before three transposed convolutions, 56x56 colour images."""

import dataclasses

from jaxgen.models import article
from jaxgen.options import Data
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import two_player


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.TwoPlayers):
    """The survey article's GAN, for images of 56 pixels."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of 56x56 pixels.

    Raises:
      ValueError: for images of another size.
    """
    height, width, channels = spec.image_shape
    if (height, width) != (56, 56):
        raise ValueError(
            f"the article's network makes 56x56 images, but the data are {height}x{width}; use --data.image-size 56 "
            "or a dcgan preset"
        )
    generator = article.Generator(channels=channels, dtype=config.dtype)
    discriminator = article.Discriminator(dtype=config.dtype)
    return two_player.build(config, spec, generator, discriminator, name="the article's GAN")


TINY = Config(data=Data("emoji", image_size=56), latent_dim=4, batch_size=8, num_steps=4)

PRESETS = {
    "emoji-article": Preset(
        "56x56 colour emoji by the example network of the survey article",
        Config(
            data=Data("emoji", image_size=56),
            num_steps=2000,
            log_every=50,
            sample_every=250,
            checkpoint_every=500,
            ema_half_life=10_000,
        ),
        paper="the survey article's network; Goodfellow et al. 2014",
    ),
}
