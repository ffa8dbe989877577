"""SRGAN: super-resolution whose images a discriminator cannot tell from photographs (Ledig et al. 2017).

The network is SRResNet without batch normalisation (MSRResNet), as ESRGAN's authors train it, with the published one
by `--batch-norm True`. The discriminator is that of VGG's manner, the loss of both players the cross-entropy, weighing
0.005 beside the perceptual distance at 1 and the mean absolute difference at 0.01.

The perceptual distance is of a network that is not trained: `shipped`, the package's classifier of such images (of
their tiles of 32x32 pixels), or VGG-16 (LPIPS) with the weights of a file of yours: `losses.perceptual.vgg` tells what
is in it.

Deviations: that distance, where the paper compares the last maps of VGG-19 before their ReLU. The pre-training by the
pixels alone is the first `start` steps of the same run. The discriminator's loss is not halved, which Adam would not
notice.
"""

import dataclasses

from jaxgen.models import edsr, srresnet, vgg_discriminator
from jaxgen.options import Data, Optimizer
from jaxgen.ranges import Count
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import adversarial_restoring
from jaxgen.systems.shared.degrading import SuperResolution


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(adversarial_restoring.AdversarialRestoring):
    """A residual network that enlarges, and an adversary."""

    source: SuperResolution = SuperResolution(4)
    """The small images."""
    features: Count = 64
    """Channels of the generator's maps."""
    blocks: Count = 16
    """The generator's residual blocks."""
    batch_norm: bool = False
    """Whether the generator has batch normalisation, as first published."""
    discriminator_features: Count = 64
    """Channels of the discriminator's first layers."""
    halvings: Count = 5
    """Of an image's sides in the discriminator: 5 for 128 pixels."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a shipped perceptual network that there is not; when it is traced, for images that are too small
        for the discriminator's halvings.
      FileNotFoundError: for a file of weights that there is not.
    """
    network = srresnet.SRResNet if config.batch_norm else edsr.MSRResNet
    return adversarial_restoring.build(
        config,
        spec,
        network(config.source.scale, spec.image_shape[2], config.features, config.blocks, config.dtype),
        vgg_discriminator.VGGDiscriminator(config.discriminator_features, config.halvings, dtype=config.dtype),
        name="SRGAN",
    )


_SMALL: Settings = {"features": 4, "blocks": 1, "discriminator_features": 4, "halvings": 2, "start": 2}
TINY = Config(data=Data("emoji", image_size=32), source=SuperResolution(2), batch_size=8, num_steps=4, **_SMALL)

_PAPER = "Ledig, Theis, Huszar, Caballero, Cunningham, Acosta, Aitken, Tejani, Totz, Wang and Shi 2017"
_LONG: Settings = {"batch_size": 16, "patch": 128, "crop_border": 4, "ema_half_life": 11_000.0, "perceptual": "none"}
_LONG |= dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 5000)
_RATE = Optimizer(learning_rate=2e-4, b1=0.9, b2=0.99)

PRESETS = {
    "emoji-srgan-x4": Preset(
        "64x64 colour emoji from 16x16, by a narrow SRGAN",
        Config(
            data=Data("emoji"),
            features=48,
            blocks=8,
            discriminator_features=24,
            halvings=4,
            start=5000,
            batch_size=16,
            num_steps=8000,
            generator=_RATE,
            discriminator=_RATE,
            ema_half_life=5000.0,
            evaluate_every=1000,
        ),
        paper=_PAPER,
    ),
    "df2k-srgan-x4": Preset(
        "photographs four times as large, by SRGAN; give --data.path, 480x480 pieces (jaxgen cut), "
        "and --perceptual FILE",
        Config(
            data=Data("folder", path="df2k", image_size=480, labelled=False),
            start=1_000_000,
            num_steps=1_400_000,
            halve_at=(1_050_000, 1_100_000, 1_200_000, 1_300_000),
            **_LONG,
        ),
        paper=_PAPER,
        published="PSNR on RGB 28.02 dB (Set5, x4), by MSRResNet with VGG-19",
        spec=((480, 480, 3), 0),
    ),
}
