"""Context Encoder: the middle of an image, told by what is around it (Pathak et al. 2016).

An encoder sees the image with a hole in the middle, through a bottleneck without places; a decoder draws the middle, of
half the sides, which a discriminator judges by itself:

    generator        0.999 mean w (G - x)^2 - 0.001 log D(G)
    discriminator    -log D(x) - log(1 - D(G))

with w = 10 where the middle is known, 1 in the hole. Adam, b1 = 0.5, 2e-4 for the discriminator and ten times that for
the generator; a batch of 64, 128 pixels, a hole of 56, so that of the middle a border of 4 pixels is known.

Deviations: holes are filled with grey, not with the mean colour of ImageNet. In the emoji's preset the hole is all of
the middle. The published version with holes of any form, which has another network, is not here.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxgen import network, turns
from jaxgen.models import context_encoder as networks
from jaxgen.options import LOSSES, Data, Optimizer
from jaxgen.ranges import Count, Share, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import completing, two_player
from jaxgen.systems.shared.degrading import Holes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.Adversaries, completing.Completing):
    """An encoder of what is around, a decoder of the middle, for images of 4 * 2^halvings pixels."""

    loss: Literal[*LOSSES] = "non_saturating"
    """Of both players."""
    source: Holes = Holes("centre", 0.4375)
    """The holes: a box in the middle, at most half of either side."""
    features: Count = 64
    """Channels of the first two layers, doubled by each further one."""
    bottleneck: Count = 4000
    """Numbers that stand for all that is around the hole."""
    halvings: Count = 5
    """Of an image in the encoder: five for 128 pixels, down to four."""
    discriminator_features: Count = 64
    """Channels of the discriminator's first map."""
    adversarial: Share = 0.001
    """Weight of the adversarial loss in the generator's objective; the squared error has the rest."""
    border: Weight = 10.0
    """Weight of the squared error where the middle is known."""
    batch_size: Count = 64
    """Images in a step, over all devices and hosts."""
    generator: Optimizer = Optimizer(learning_rate=2e-3, b1=0.5)
    """The generator's optimiser."""
    discriminator: Optimizer = Optimizer(learning_rate=2e-4, b1=0.5)
    """The discriminator's optimiser."""


def told_around(batch: Mapping[str, Any], step: Any, key: Any) -> turns.Conditions:
    """The generator's source, grey in the hole."""
    hole = completing.mask_of(batch) > 0
    return turns.Conditions(generator=jnp.where(hole, 0.0, batch["source"]))


def middles(batch: Mapping[str, Any], step: Any) -> jax.Array:
    """What is imitated: the middle of each image."""
    return networks.middle(network.images_of(batch))


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for an augmentation, or other holes than such in the middle; when it is traced, for sides that do not
        fit the halvings.
    """
    if config.source.kind != "centre" or config.source.share > 0.5:
        raise ValueError(
            "a context encoder fills the middle of an image, half of either side: give --source.kind centre, and a "
            "--source.share of at most 0.5"
        )
    generator = networks.ContextEncoder(config.features, config.bottleneck, config.halvings, dtype=config.dtype)
    judge = networks.MiddleDiscriminator(config.discriminator_features, config.halvings - 1, dtype=config.dtype)

    def pixels(turn):
        hole = networks.middle(completing.mask_of(turn.batch))
        weight = jnp.where(hole > 0, 1.0, config.border)
        return turns.per_picture(weight * jnp.square(turn.fake - turn.real))

    def complete(variables, told, key):
        source, mask = told[..., :-1], told[..., -1:]
        given = jnp.where(mask > 0, 0.0, source)
        found = network.evaluate(generator, variables, given, key=key, what="sources")
        return networks.around(found)

    system = completing.of_players(
        config,
        spec,
        generator,
        judge,
        name="Context Encoder",
        condition=told_around,
        complete=complete,
        real=middles,
        generator_terms=[turns.term(pixels, weight=1 - config.adversarial)],
        adversarial_weight=config.adversarial,
    )
    of_middle = two_player.judging(judge, None)

    def discriminate(variables, batch):
        return of_middle(variables, {"image": middles(batch, None)})

    return dataclasses.replace(system, discriminate=discriminate)


_TINY: Settings = {"features": 2, "bottleneck": 4, "halvings": 3, "discriminator_features": 2}
TINY = Config(data=Data("emoji", image_size=32), batch_size=8, num_steps=4, **_TINY)

_PAPER = "Pathak, Krahenbuhl, Donahue, Darrell and Efros 2016"

PRESETS = {
    "emoji-context-encoder": Preset(
        "the middle of 64x64 emoji, a box of half the sides, by a narrow Context Encoder",
        Config(
            data=Data("emoji", image_size=64),
            source=Holes("centre", 0.5),
            features=32,
            bottleneck=512,
            halvings=4,
            discriminator_features=32,
            generator=Optimizer(learning_rate=5e-4, b1=0.5),
            num_steps=10_000,
        ),
        paper=_PAPER,
        measured="not run to its end; with --num-steps 3000 PSNR in the hole 15.24 dB, feature distance 0.0060 in 11 "
        "minutes (the best linear map 13.71 dB and 0.0074, the nearest training image 12.50 and 0.0094) (440 test "
        "emoji; one seed, one core of an Intel Xeon, 2026-11-30)",
    ),
    "places-context-encoder": Preset(
        "the middle of photographs of places, 128 pixels, as published; give --data.path",
        Config(
            data=Data("folder", path="places365", image_size=128, labelled=False),
            num_steps=500_000,
            sample_every=5000,
            evaluate_every=5000,
            checkpoint_every=5000,
        ),
        paper=_PAPER,
        spec=((128, 128, 3), 0),
    ),
}
