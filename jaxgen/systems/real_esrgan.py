"""Real-ESRGAN: images as they are found, blurred, noisy and compressed twice over, are enlarged (Wang, Xie, Dong and
Shan 2021).

Sources are made of sharpened images by two rounds of blur, resizing, noise and JPEG, each image with settings of its
own; pixels and perceptual distance compare with the sharpened image, the adversary with the image itself. The generator
is ESRGAN's, the discriminator a U-Net with spectral normalisation that judges each pixel; weights 1, 1 and 0.1. Adam at
1e-4; patches of 256x256 pixels, 48 a batch.

Deviations: each image draws its own size in the first round (there a batch shares one, and a pool of 180 pairs mixes
them). The perceptual distance is that of `srgan`, with the weights of a file of yours; the paper's is of five maps of
VGG-19. The rate of the first million steps, by the pixels alone, is 1e-4 and not twice that.
"""

import dataclasses

from jaxgen import degradations
from jaxgen.models import rrdb, unet_discriminator
from jaxgen.options import Data
from jaxgen.ranges import Count, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import adversarial_restoring
from jaxgen.systems.shared.degrading import RealWorld


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(adversarial_restoring.AdversarialRestoring):
    """Dense residual blocks that enlarge what is spoilt, and an adversary that judges each pixel."""

    source: RealWorld = RealWorld(4)
    """The small, spoilt images."""
    features: Count = 64
    """Channels of the generator's maps."""
    blocks: Count = 23
    """The generator's blocks, of three dense ones each."""
    growth: Count = 32
    """Channels that a convolution of a dense block adds."""
    discriminator_features: Count = 64
    """Channels of the discriminator's first map."""
    pixels: Weight = 1.0
    """Weight of the mean absolute difference to the sharpened image."""
    adversarial: Weight = 0.1
    """Weight of the adversarial loss in the generator's."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a shipped perceptual network that there is not; when it is traced, for a scale other than 1, 2 and
        4, or sides that are no multiples of 8.
      FileNotFoundError: for a file of weights that there is not.
    """
    sizes = (config.source.scale, spec.image_shape[2], config.features, config.blocks, config.growth)
    return adversarial_restoring.build(
        config,
        spec,
        rrdb.RRDBNet(*sizes, config.dtype),
        unet_discriminator.UNetDiscriminator(config.discriminator_features, config.dtype),
        name="Real-ESRGAN",
        target=degradations.sharpen if config.source.sharpened else adversarial_restoring.unchanged,
    )


_SMALL: Settings = {"features": 4, "blocks": 1, "growth": 2, "discriminator_features": 4}
TINY = Config(data=Data("emoji", image_size=32), source=RealWorld(2), batch_size=8, num_steps=4, **_SMALL)

_OFTEN: Settings = dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 5000)

PRESETS = {
    "real-esrgan-x4": Preset(
        "photographs as they are found four times as large, by Real-ESRGAN; give --data.path, "
        "480x480 pieces (jaxgen cut), and --perceptual FILE",
        Config(
            data=Data("folder", path="df2k", image_size=480, labelled=False),
            patch=256,
            batch_size=48,
            start=1_000_000,
            num_steps=1_400_000,
            ema_half_life=33_000.0,
            perceptual="none",
            **_OFTEN,
        ),
        paper="Wang, Xie, Dong and Shan 2021",
        spec=((480, 480, 3), 0),
    )
}
