"""SNGAN: residual players, the discriminator's spectrally normalised (Miyato, Kataoka, Koyama, Yoshida 2018).

With projection (Miyato and Koyama 2018) the generator is told a label through conditional batch normalisation, and the
discriminator adds the inner product of its features with an embedding of the label. Hinge loss, Adam with b1 = 0 and
b2 = 0.9, five discriminator updates for each of the generator, rates that fall linearly to 0.

Deviations: `models.sngan` names those of the networks. Fake labels are drawn, all classes alike. The paper draws twice
as many fake images for the generator's update as for the discriminator's; here both see the same batch.
"""

import dataclasses
from typing import Any, Literal

from jaxgen import turns
from jaxgen.models import sngan
from jaxgen.options import LOSSES, Data, Optimizer, square_size
from jaxgen.ranges import Count
from jaxgen.system import Spec, System
from jaxgen.systems import two_player
from jaxgen.systems.preset import Preset

ADAM = Optimizer(learning_rate=2e-4, b1=0.0, b2=0.9, schedule="linear")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.TwoPlayers):
    """A residual GAN with spectral normalisation, for square images of 28, 32, 48, 64 or 128 pixels."""

    latent_dim: Count = 128
    """Numbers of noise from which the generator makes an image."""
    loss: Literal[*LOSSES] = "hinge"
    """Of both players."""
    generator: Optimizer = ADAM
    """The generator's optimiser."""
    discriminator: Optimizer = ADAM
    """The discriminator's optimiser; two learning rates are TTUR."""
    num_discriminator_steps: Count = 5
    """Discriminator updates for each generator update, each on fresh images."""
    projection: bool = False
    """Tell both players the label: needs labelled data."""
    generator_features: Count | None = None
    """Width of the generator; the published one of the image size by default."""
    discriminator_features: Count | None = None
    """Width of the discriminator; the published one of the image size by default."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for projection on data without labels, or a size without a network.
    """
    size, channels = square_size(spec.image_shape, "SNGAN"), spec.image_shape[2]
    num_classes = classes_of(config, spec)
    generator = sngan.Generator(size, channels, config.generator_features, num_classes, dtype=config.dtype)
    discriminator = sngan.Discriminator(config.discriminator_features, num_classes, dtype=config.dtype)
    condition = turns.told_drawn_labels(num_classes) if num_classes else None
    told: dict[str, Any] = {"num_labels": num_classes, "condition": condition}
    return two_player.build(config, spec, generator, discriminator, name="SNGAN", **told)


def classes_of(config: Config, spec: Spec) -> int:
    """How many classes both players are told of; 0 without projection.

    Raises:
      ValueError: for projection on data without labels.
    """
    if config.projection and not spec.num_classes:
        raise ValueError("projection tells both players a label, and these data have none; use --projection False")
    return spec.num_classes if config.projection else 0


TINY = Config(
    generator_features=4,
    discriminator_features=4,
    latent_dim=4,
    batch_size=8,
    num_steps=4,
    num_discriminator_steps=2,
    projection=True,
)

# Widths and steps that two CPU cores bear in minutes; the networks are the paper's in all else.
_SMALL: dict[str, Any] = {
    "generator_features": 64,
    "discriminator_features": 32,
    "num_discriminator_steps": 1,
    "num_steps": 6000,
    "ema_half_life": 10_000,
}
_EMOJI: dict[str, Any] = {"data": Data("emoji", image_size=32), "augmentation": "diff"}  # 3,341 images are few
_CIFAR: dict[str, Any] = {"batch_size": 64, "num_steps": 100_000, "sample_every": 5000, "checkpoint_every": 5000}
_CIFAR_DATA = Data("folder", path="cifar10", image_size=32)
_PAPERS = "Miyato, Kataoka, Koyama, Yoshida 2018; networks after Gulrajani et al. 2017"
_PROJECTION = f"{_PAPERS}; projection of Miyato and Koyama 2018"

PRESETS = {
    "mnist-sngan": Preset(
        "digits by a narrow SNGAN",
        Config(**_SMALL),
        paper=_PAPERS,
        measured="FID 9.12 +- 0.12 in the package's CNN (10,000 drawn, 10,000 test digits; training images 0.18), 67.4 "
        "% confident (real: 98.6), precision 0.63, recall 0.78; one seed, 2026-11-29",
    ),
    "mnist-sngan-projection": Preset(
        "digits that were asked for, by a narrow SNGAN with projection",
        Config(**_SMALL, projection=True),
        paper=_PROJECTION,
        measured="FID 4.96 in the package's CNN (10,000 drawn, 10,000 test digits; training images 0.18), 98.5 % as "
        "asked (real: 99.5), precision 0.80, recall 0.25; one seed, 2026-11-28",
    ),
    "emoji-sngan": Preset(
        "32x32 colour emoji by a narrow SNGAN with DiffAugment", Config(**_EMOJI, **_SMALL), paper=_PAPERS
    ),
    "emoji-sngan-projection": Preset(
        "32x32 colour emoji of nine categories by a narrow SNGAN with projection and DiffAugment",
        Config(**_EMOJI, **_SMALL, projection=True),
        paper=_PROJECTION,
        measured="FID 26.85 in the package's emoji CNN (10,000 drawn, 440 test emoji; as many training images 9.19), "
        "39 % as asked (real: 68), precision 0.87, recall 0.09: coarse; one seed, 2026-11-29",
    ),
    "cifar-sngan": Preset(
        "CIFAR-10 by SNGAN as published; give --data.path, a folder of images, or --data.name hub",
        Config(data=_CIFAR_DATA, **_CIFAR),
        paper=_PAPERS,
        published="FID 21.7 (10,000 test images, 5,000 drawn); a reproduction 16.77 (50,000 and 50,000)",
        spec=((32, 32, 3), 10),
    ),
    "cifar-sngan-projection": Preset(
        "CIFAR-10 by class, by SNGAN with projection as published; give --data.path, one folder a class",
        Config(data=_CIFAR_DATA, **_CIFAR, projection=True),
        paper=_PROJECTION,
        published="FID 17.5 (10,000 test images, 5,000 drawn); a reproduction 10.84 (50,000 and 50,000)",
        spec=((32, 32, 3), 10),
    ),
}
