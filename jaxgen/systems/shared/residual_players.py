"""Settings of residual GANs of 28 to 128 pixels: SNGAN, and WGAN-GP, ACGAN and SSGAN, which share its generator."""

import dataclasses
from typing import Any, Literal

from jaxgen.options import LOSSES, Data, Optimizer
from jaxgen.ranges import Count
from jaxgen.systems.shared import two_player

ADAM = Optimizer(learning_rate=2e-4, b1=0.0, b2=0.9, schedule="linear")
CONSTANT = dataclasses.replace(ADAM, schedule="constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Players(two_player.TwoPlayers):
    """Two residual players: Adam, five discriminator updates for one, and widths of ones own."""

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
    generator_features: Count | None = None
    """Width of the generator; the published one of the image size by default."""
    discriminator_features: Count | None = None
    """Width of the discriminator; the published one of the image size by default."""


# Widths and steps that two CPU cores bear in minutes; the networks are the paper's in all else.
SMALL: dict[str, Any] = {
    "generator_features": 64,
    "discriminator_features": 32,
    "num_discriminator_steps": 1,
    "num_steps": 6000,
    "ema_half_life": 10_000,
}
EMOJI: dict[str, Any] = {"data": Data("emoji", image_size=32), "augmentation": "diff"}  # 3,341 images are few
PUBLISHED: dict[str, Any] = {"batch_size": 64, "num_steps": 100_000, "sample_every": 5000, "checkpoint_every": 5000}
CIFAR = Data("folder", path="cifar10", image_size=32)
