"""SNGAN: residual players, the discriminator's spectrally normalised (Miyato, Kataoka, Koyama, Yoshida 2018).

With projection (Miyato and Koyama 2018) the generator is told a label through conditional batch normalisation, and the
discriminator adds the inner product of its features with an embedding of the label. Hinge loss, Adam with b1 = 0 and
b2 = 0.9, five discriminator updates for each of the generator, rates that fall linearly to 0.

Deviations: `models.sngan` names those of the networks. Fake images have the labels of the batch in another order
(`turns.told_shuffled_labels`), which the paper draws all alike. It draws twice as many fake images for the generator's
update as for the discriminator's; here both see the same batch.
"""

import dataclasses
from typing import Any

from jaxgen import turns
from jaxgen.models import sngan
from jaxgen.options import Data, square_size
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import residual_players, two_player


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(residual_players.Players):
    """A residual GAN with spectral normalisation, for square images of 28, 32, 48, 64 or 128 pixels."""

    projection: bool = False
    """Tell both players the label: needs labelled data."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for projection on data without labels, or a size without a network.
    """
    size, channels = square_size(spec.image_shape, "SNGAN"), spec.image_shape[2]
    num_classes = classes_of(config, spec)
    generator = sngan.Generator(size, channels, config.generator_features, num_classes, dtype=config.dtype)
    discriminator = sngan.Discriminator(config.discriminator_features, num_classes, dtype=config.dtype)
    condition = turns.told_shuffled_labels() if num_classes else None
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

_PAPERS = "Miyato, Kataoka, Koyama, Yoshida 2018; networks after Gulrajani et al. 2017"
_PROJECTION = f"{_PAPERS}; projection of Miyato and Koyama 2018"

PRESETS = {
    "mnist-sngan": Preset(
        "digits by a narrow SNGAN",
        Config(**residual_players.SMALL),
        paper=_PAPERS,
        measured="FID 9.12 +- 0.12 in the package's CNN (10,000 drawn, 10,000 test digits; training images 0.18), 67.4 "
        "% confident (real: 98.6), precision 0.63, recall 0.78; one seed, 2026-11-29",
    ),
    "mnist-sngan-projection": Preset(
        "digits that were asked for, by a narrow SNGAN with projection",
        Config(**residual_players.SMALL, projection=True),
        paper=_PROJECTION,
        measured="FID 4.96 in the package's CNN (10,000 drawn, 10,000 test digits; training images 0.18), 98.5 % as "
        "asked (real: 99.5), precision 0.80, recall 0.25; one seed, 2026-11-28",
    ),
    "emoji-sngan": Preset(
        "32x32 colour emoji by a narrow SNGAN with DiffAugment",
        Config(**residual_players.EMOJI, **residual_players.SMALL),
        paper=_PAPERS,
        measured="FID 16.69 +- 0.06 in the package's emoji CNN (10,000 drawn, 440 test emoji; as many training images "
        "9.19), precision 0.71, recall 0.24: coarse; one seed, 2026-11-29",
    ),
    "emoji-sngan-projection": Preset(
        "32x32 colour emoji of nine categories by a narrow SNGAN with projection and DiffAugment",
        Config(**residual_players.EMOJI, **residual_players.SMALL, projection=True),
        paper=_PROJECTION,
        measured="FID 26.85 in the package's emoji CNN (10,000 drawn, 440 test emoji; as many training images 9.19), "
        "39 % as asked (real: 68), precision 0.87, recall 0.09: coarse; one seed, 2026-11-29",
    ),
    "cifar-sngan": Preset(
        "CIFAR-10 by SNGAN as published; give --data.path, a folder of images, or --data.name hub",
        Config(data=residual_players.CIFAR, **residual_players.PUBLISHED),
        paper=_PAPERS,
        published="FID 21.7 (10,000 test images, 5,000 drawn); a reproduction 16.77 (50,000 and 50,000)",
        spec=((32, 32, 3), 10),
    ),
    "stl-sngan-48": Preset(
        "STL-10's 100,000 unlabelled images at 48 pixels, by SNGAN as published; give --data.path",
        Config(data=Data("folder", path="stl10", image_size=48), **residual_players.PUBLISHED),
        paper=_PAPERS,
        published="FID 40.1 (5,000 drawn); a reproduction 39.56 (50,000 and 50,000)",
        spec=((48, 48, 3), 0),
    ),
    "celeba-sngan-64": Preset(
        "CelebA at 64 pixels by SNGAN as reproduced, at constant rates; give --data.path, a folder of aligned faces",
        Config(
            data=Data("folder", path="celeba", image_size=64),
            **residual_players.PUBLISHED,
            generator=residual_players.CONSTANT,
            discriminator=residual_players.CONSTANT,
        ),
        paper=_PAPERS,
        published="a reproduction FID 5.71 (50,000 and 50,000 images)",
        spec=((64, 64, 3), 0),
    ),
    "imagenet-sngan-128": Preset(
        "ImageNet at 128 pixels by class, by SNGAN with projection as published; give --data.path, one folder a class",
        Config(
            data=Data("folder", path="imagenet", image_size=128),
            **residual_players.PUBLISHED | {"num_steps": 450_000},
            projection=True,
        ),
        paper=_PROJECTION,
        published="IS 29.7 (450,000 steps); 36.8 and FID 27.62 after more (as quoted by Zhang et al. 2019)",
        spec=((128, 128, 3), 1000),
    ),
    "cifar-sngan-projection": Preset(
        "CIFAR-10 by class, by SNGAN with projection as published; give --data.path, one folder a class",
        Config(data=residual_players.CIFAR, **residual_players.PUBLISHED, projection=True),
        paper=_PROJECTION,
        published="FID 17.5 (10,000 test images, 5,000 drawn); a reproduction 10.84 (50,000 and 50,000)",
        spec=((32, 32, 3), 10),
    ),
}
