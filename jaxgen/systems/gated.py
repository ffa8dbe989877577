"""Gated convolutions: holes of any form, filled in two stages (Yu, Lin, Yang, Shen, Lu and Huang 2019, "DeepFill v2").

Layers learn where to look, a branch of the second stage pastes patches of what is known, and the discriminator is told
the mask m beside the completed image c = m G + (1 - m) x:

    generator        -E D(c, m) + mean |coarse - x| + mean |fine - x|
    discriminator    E max(0, 1 - D(x, m)) + max(0, 1 + D(c, m))

with means over the numbers of the discriminator's last map, and differences of images in [-1, 1]. Adam, 1e-4, b1 = 0.5;
a batch of 16, 256 pixels; a box and strokes in each image. D has spectral normalisation.

Deviations: convolutions with strides are padded alike on both sides. The discriminator's last map has no activation,
where the authors' code has a leaky ReLU. Its loss is not halved, which Adam does not notice. A cell of the map of which
any pixel is missing is missing for the attention, not one whose first pixel is. No sketch guides it.
"""

import dataclasses
from typing import Literal

import jax

from jaxgen import turns
from jaxgen.losses import terms
from jaxgen.models import gated as networks
from jaxgen.options import LOSSES, Data, Optimizer
from jaxgen.ranges import Count, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import completing, two_player
from jaxgen.systems.shared.degrading import Holes

ADAM = Optimizer(learning_rate=1e-4, b1=0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.Adversaries, completing.Completing):
    """Two stages of gated convolutions and a discriminator that is told the mask; sides are multiples of 8."""

    loss: Literal[*LOSSES] = "hinge"
    """Of both players."""
    source: Holes = Holes("deepfill")
    """The holes."""
    features: Count = 24
    """Channels of each stage's first map, doubled at both halvings."""
    rates: tuple[Count, ...] = (2, 4, 8, 16)
    """Of the dilated layers."""
    attention: bool = True
    """Whether the second stage has a branch that pastes known patches."""
    discriminator_features: Count = 64
    """Channels of the discriminator's first map."""
    discriminator_layers: Count = 6
    """Of the discriminator, of which each halves."""
    adversarial: Weight = 1.0
    """Weight of the adversarial loss in the generator's objective."""
    pixels: Weight = 1.0
    """Weight of the mean absolute difference of both stages."""
    batch_size: Count = 16
    """Images in a step, over all devices and hosts."""
    generator: Optimizer = ADAM
    """The generator's optimiser."""
    discriminator: Optimizer = ADAM
    """The discriminator's optimiser."""


def of_stages(turn: turns.Turn) -> jax.Array:
    """The mean absolute differences of both stages' images, whole ones, added up."""
    coarse, fine = turn.generated_aux
    return turns.per_picture([terms.l1(coarse, turn.real), terms.l1(fine, turn.real)])


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for an augmentation; when it is traced, for sides that are no multiples of 8.
    """
    pixels = [turns.term(of_stages, name="pixels", weight=config.pixels)] if config.pixels > 0 else []
    return completing.of_players(
        config,
        spec,
        networks.GatedGenerator(config.features, config.rates, config.attention, dtype=config.dtype),
        networks.SNPatchDiscriminator(config.discriminator_features, config.discriminator_layers, dtype=config.dtype),
        name="DeepFill v2",
        condition=completing.told_mask,
        generator_terms=pixels,
        adversarial_weight=config.adversarial,
    )


TINY = Config(
    data=Data("emoji", image_size=32),
    features=2,
    rates=(2, 4),
    discriminator_features=2,
    discriminator_layers=3,
    batch_size=8,
    num_steps=4,
)

_PAPER = "Yu, Lin, Yang, Shen, Lu and Huang 2019"
_OFTEN: Settings = dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 10_000)

PRESETS = {
    "emoji-gated": Preset(
        "the middle of 64x64 emoji, a box of half the sides, by narrow gated convolutions",
        Config(
            data=Data("emoji", image_size=64),
            source=Holes("centre"),
            features=16,
            discriminator_features=16,
            discriminator_layers=5,
            num_steps=12_000,
            pixels=10.0,
        ),
        paper=_PAPER,
    ),
    "places-gated": Preset(
        "holes of any form in photographs of places, 256 pixels, as published; give --data.path",
        Config(
            data=Data("folder", path="places365", image_size=256, labelled=False),
            num_steps=1_000_000,
            **_OFTEN,
        ),
        paper=_PAPER,
        spec=((256, 256, 3), 0),
    ),
}
