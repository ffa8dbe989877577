"""SAGAN: residual players that attend to themselves, both spectrally normalised (Zhang et al. 2019).

One map of either player sees all of itself, by self-attention whose gain starts at 0. The two time-scale rule takes
the place of several discriminator steps: rates of 4e-4 for the discriminator and 1e-4 for the generator, one step each.
Hinge loss, Adam with b1 = 0 and b2 = 0.9. The paper's players are told the label (`projection`), as SNGAN's.

Deviations: `models.sagan` names those of the networks. Fake images have the labels of the batch in another order
(`turns.told_shuffled_labels`), which the paper draws all alike. The paper draws new fake images for the generator's
update; here it sees those of the discriminator's. The paper is of 128 pixels: how its settings are carried over to
smaller images is the reproductions', or ours.
"""

import dataclasses
from typing import Any

from jaxgen import turns
from jaxgen.models import sagan as networks
from jaxgen.options import Data, Optimizer, square_size
from jaxgen.ranges import Count, CountOrZero
from jaxgen.system import Spec, System
from jaxgen.systems import sngan
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import two_player


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(sngan.Config):
    """A residual GAN with self-attention, for square images of 28, 32, 48, 64 or 128 pixels."""

    generator: Optimizer = Optimizer(learning_rate=1e-4, b1=0.0, b2=0.9)
    """The generator's optimiser."""
    discriminator: Optimizer = Optimizer(learning_rate=4e-4, b1=0.0, b2=0.9)
    """The discriminator's optimiser; two learning rates are TTUR."""
    num_discriminator_steps: Count = 1
    """Discriminator updates for each generator update, each on fresh images."""
    attention: CountOrZero | None = None
    """Side of the map that attends to itself, in both players; half the image, and at most 32, by default; 0: none."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for projection on data without labels, a size without a network, or attention to a map that is not
        there.
    """
    size, channels = square_size(spec.image_shape, "SAGAN"), spec.image_shape[2]
    num_classes = sngan.classes_of(config, spec)
    shared = {"num_classes": num_classes, "attention": config.attention, "dtype": config.dtype}
    generator = networks.Generator(size, channels, config.generator_features, **shared)
    discriminator = networks.Discriminator(config.discriminator_features, **shared)
    condition = turns.told_shuffled_labels() if num_classes else None
    told: dict[str, Any] = {"num_labels": num_classes, "condition": condition}
    return two_player.build(config, spec, generator, discriminator, name="SAGAN", **told)


TINY = Config(
    generator_features=8,
    discriminator_features=4,
    latent_dim=4,
    batch_size=8,
    num_steps=4,
    projection=True,
)

_PAPER = "Zhang, Goodfellow, Metaxas and Odena 2019"

PRESETS = {
    "emoji-sagan": Preset(
        "32x32 colour emoji by a narrow SAGAN with DiffAugment",
        # Widths and steps that two CPU cores bear; 3,341 images are few.
        Config(
            data=Data("emoji", image_size=32),
            augmentation="diff",
            generator_features=64,
            discriminator_features=32,
            num_steps=6000,
            ema_half_life=10_000,
        ),
        paper=f"{_PAPER}; augmentation of Zhao et al. 2020",
    ),
    "cifar-sagan": Preset(
        "CIFAR-10 by class, by SAGAN; give --data.path, one folder a class",
        Config(
            data=Data("folder", path="cifar10", image_size=32),
            projection=True,
            batch_size=64,
            num_steps=100_000,
            sample_every=5000,
            checkpoint_every=5000,
        ),
        paper=_PAPER,
        published="none in the paper; a reproduction FID 10.35, IS 8.64 (PyTorch-StudioGAN, training images)",
        spec=((32, 32, 3), 10),
    ),
    "imagenet-sagan-128": Preset(
        "ImageNet at 128 pixels by class, by SAGAN as published; give --data.path, one folder a class",
        Config(
            data=Data("folder", path="imagenet", image_size=128),
            projection=True,
            batch_size=256,
            num_steps=1_000_000,
            sample_every=5000,
            checkpoint_every=5000,
        ),
        paper=_PAPER,
        published="FID 18.65, IS 52.52 (50,000 drawn)",
        spec=((128, 128, 3), 1000),
    ),
}
