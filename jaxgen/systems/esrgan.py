"""ESRGAN: dense residual blocks enlarge, and an adversary compares with the average (Wang et al. 2018).

The generator is RRDBNet, 23 blocks of three dense blocks; the discriminator that of VGG's manner; the loss of both
players the relativistic average one, weighing 0.005 beside the perceptual distance at 1 and the mean absolute
difference at 0.01. Adam at 1e-4, halved four times; patches of 128x128 pixels, 16 a batch.

The perceptual distance is that of `srgan`, with the weights of a file of yours by `--perceptual FILE`.

Deviations: those of SRGAN. The rate of the first million steps, by the pixels alone, is 1e-4 and not twice that.
Neither player's loss is halved, as the paper has it, and its code has not.
"""

import dataclasses
from typing import Literal

from jaxgen.models import rrdb, vgg_discriminator
from jaxgen.options import LOSSES, Data
from jaxgen.ranges import Count
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import adversarial_restoring
from jaxgen.systems.shared.degrading import SuperResolution


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(adversarial_restoring.AdversarialRestoring):
    """Dense residual blocks that enlarge by 1, 2 or 4, and an adversary."""

    source: SuperResolution = SuperResolution(4)
    """The small images."""
    loss: Literal[*LOSSES] = "relativistic_average"
    """Of both players."""
    features: Count = 64
    """Channels of the generator's maps."""
    blocks: Count = 23
    """The generator's blocks, of three dense ones each."""
    growth: Count = 32
    """Channels that a convolution of a dense block adds."""
    discriminator_features: Count = 64
    """Channels of the discriminator's first layers."""
    halvings: Count = 5
    """Of an image's sides in the discriminator: 5 for 128 pixels."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a shipped perceptual network that there is not; when it is traced, for a scale other than 1, 2 and
        4, or images that are too small for the discriminator's halvings.
      FileNotFoundError: for a file of weights that there is not.
    """
    sizes = (config.source.scale, spec.image_shape[2], config.features, config.blocks, config.growth)
    return adversarial_restoring.build(
        config,
        spec,
        rrdb.RRDBNet(*sizes, config.dtype),
        vgg_discriminator.VGGDiscriminator(config.discriminator_features, config.halvings, dtype=config.dtype),
        name="ESRGAN",
    )


_SMALL: Settings = {"features": 4, "blocks": 1, "growth": 2, "discriminator_features": 4, "halvings": 2}
TINY = Config(data=Data("emoji", image_size=32), source=SuperResolution(2), batch_size=8, num_steps=4, **_SMALL)

_PAPER = "Wang, Yu, Wu, Gu, Liu, Dong, Qiao and Loy 2018"
_OFTEN: Settings = dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 5000)

PRESETS = {
    "df2k-esrgan-x4": Preset(
        "photographs (DIV2K and Flickr2K) four times as large, by ESRGAN; give --data.path, "
        "480x480 pieces (jaxgen cut), and --perceptual FILE",
        Config(
            data=Data("folder", path="df2k", image_size=480, labelled=False),
            patch=128,
            batch_size=16,
            start=1_000_000,
            num_steps=1_400_000,
            halve_at=(1_050_000, 1_100_000, 1_200_000, 1_300_000),
            ema_half_life=11_000.0,
            perceptual="none",
            crop_border=4,
            **_OFTEN,
        ),
        paper=_PAPER,
        published="PSNR on Y 32.73 dB (Set5, x4) by the pixels alone, before the adversary",
        spec=((480, 480, 3), 0),
    )
}
