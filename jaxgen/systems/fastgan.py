"""FastGAN: a light GAN for a hundred images or more (Liu, Zhu, Song and Elgammal 2021).

The generator's large maps are scaled channel by channel by small ones (skip-layer excitation), so that gradients reach
all sizes at once; the discriminator also draws the real images that it sees, whole and one quarter, from its maps, so
that these describe all of an image. Hinge loss, Adam with b1 = 0.5 and a rate of 2e-4, batches of 8, DiffAugment.

Deviations: `models.fastgan` names those of the networks. Drawn pictures are compared with images by L1, each pixel (the
paper: LPIPS, by a network trained on ImageNet, which this package does not have; `losses.autoencoding` takes the
features of a frozen one). Each image has a quarter of its own (the authors' code: one for the batch). DiffAugment has
all of its changes, where theirs leaves the cutout out. The loss is the hinge of the paper; their code draws its margin
from 0.8 to 1. The generator's update sees the fake images of the discriminator's, as theirs.
"""

import dataclasses
from typing import Any, Literal

from jaxgen.losses import autoencoding
from jaxgen.models import fastgan as networks
from jaxgen.options import AUGMENTATIONS, LOSSES, Data, Optimizer, square_size
from jaxgen.ranges import Count, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import two_player


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.TwoPlayers):
    """A light GAN, for square images of 32, 64, 128, 256, 512 or 1024 pixels; labels are not used."""

    latent_dim: Count = 256
    """Numbers of noise from which the generator makes an image."""
    loss: Literal[*LOSSES] = "hinge"
    """Of both players."""
    augmentation: Literal[*AUGMENTATIONS] = "diff"
    """Of what the discriminator sees, for few images: DiffAugment, adaptive (ADA), or fakes shown as real (APA)."""
    batch_size: Count = 8
    """Images in a step (for each discriminator step), over all devices and hosts."""
    generator: Optimizer = Optimizer(learning_rate=2e-4, b1=0.5)
    """The generator's optimiser."""
    discriminator: Optimizer = Optimizer(learning_rate=2e-4, b1=0.5)
    """The discriminator's optimiser; two learning rates are TTUR."""
    ema_half_life: Weight = 5500.0
    """Of the moving average of the weights, in images; 0: the latest weights."""
    generator_features: Count = 64
    """Channels of the generator's map of 128x128; smaller maps have up to 16 times as many."""
    discriminator_features: Count = 64
    """Channels of the discriminator's map of 64x64; smaller maps have up to 8 times as many."""
    generator_ratio: Count = 16
    """How many times larger a map is than the one that excites its channels, in the generator."""
    discriminator_ratio: Count = 8
    """How many times smaller, in the discriminator."""
    autoencoding: Weight = 1.0
    """Weight of the pictures that the discriminator draws of real images; 0: none."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a size without a network.
    """
    size, channels = square_size(spec.image_shape, "FastGAN"), spec.image_shape[2]
    networks.check_size(size)
    shared = {"dtype": config.dtype}
    terms = [autoencoding.autoencoding(config.autoencoding)] if config.autoencoding > 0 else []
    return two_player.build(
        config,
        spec,
        networks.Generator(size, channels, config.generator_features, config.generator_ratio, **shared),
        networks.Discriminator(size, channels, config.discriminator_features, config.discriminator_ratio, **shared),
        name="FastGAN",
        discriminator_terms=terms,
    )


_SMALL: dict[str, Any] = {"generator_ratio": 4, "discriminator_ratio": 4}  # below 128 pixels

TINY = Config(
    data=Data("emoji", image_size=32, num_examples=50),
    generator_features=2,
    discriminator_features=2,
    latent_dim=4,
    batch_size=8,
    num_steps=4,
    **_SMALL,
)

_PAPER = "Liu, Zhu, Song and Elgammal 2021; augmentation of Zhao et al. 2020"

PRESETS = {
    "emoji-fastgan": Preset(
        "500 of the 32x32 colour emoji by a narrow FastGAN",
        Config(
            data=Data("emoji", image_size=32, num_examples=500),
            generator_features=16,
            discriminator_features=16,
            latent_dim=128,
            batch_size=16,
            num_steps=6000,
            ema_half_life=10_000,
            **_SMALL,
        ),
        paper=_PAPER,
    ),
    "few-fastgan-256": Preset(
        "a hundred images or more at 256 pixels, by FastGAN; give --data.path, a folder",
        Config(
            data=Data("folder", path="few", image_size=256, labelled=False),
            num_steps=50_000,
            sample_every=5000,
            checkpoint_every=5000,
        ),
        paper=_PAPER,
        published="FID of a hundred images each, against them: panda 10.03, grumpy cat 26.65, Obama 41.05",
        spec=((256, 256, 3), 0),
    ),
}
