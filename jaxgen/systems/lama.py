"""LaMa: large holes filled by fast Fourier convolutions (Suvorov et al. 2022).

A generator whose layers see the whole image is told it with its mask m; patches of what it returns are judged, and a
patch without a missing pixel counts as real:

    generator        10 E -log D(G) + 10 mean (1 - m) |G - x| + 100 mean (D's maps of x and G)^2 + 30 perceptual
    discriminator    E -log D(x) - m log(1 - D(G)) - (1 - m) log D(G) + 0.001 |grad_x sum D(x)|^2

Differences are those of images in [0, 1], and nothing says what the hole should be but the discriminator and what
networks see. Adam, 1e-3 and 1e-4, b1 = 0.9; a batch of ten, 256 pixels; boxes or strokes, at equal odds.

Deviations: the perceptual distance is that of VGG-16's maps or the package's own network, not of a ResNet-50 trained
to segment, so that its weight means something else. The emoji's preset is narrow, and weighs what it has otherwise.
There is no refinement of large images.
"""

import dataclasses
from typing import Any, Literal

import jax
import numpy as np

from jaxgen import turns
from jaxgen.losses import penalties, terms
from jaxgen.losses import perceptual as distances
from jaxgen.models import lama as networks
from jaxgen.models.patchgan import PatchDiscriminator
from jaxgen.models.restoring import uniform
from jaxgen.options import Data, Optimizer
from jaxgen.ranges import Count, Share, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import completing, two_player
from jaxgen.systems.shared.degrading import Holes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.Adversaries, completing.Completing):
    """Fast Fourier convolutions, and a discriminator of patches."""

    loss: Literal["non_saturating"] = "non_saturating"
    """Of both players; a known patch that counts as real is defined for it alone."""
    features: Count = 64
    """Channels of the generator's first map, doubled at each halving."""
    halvings: Count = 3
    """Of an image in the generator."""
    blocks: Count = 9
    """Residual blocks of two fast Fourier convolutions; Big LaMa has 18."""
    share: Share = 0.75
    """Of channels that are global."""
    discriminator_features: Count = 64
    """Channels of the discriminator's first map."""
    discriminator_layers: Count = 4
    """Of the discriminator that halve."""
    adversarial: Weight = 10.0
    """Weight of the adversarial loss in the generator's objective."""
    pixels: Weight = 10.0
    """Weight of the mean absolute difference of known pixels."""
    hole: Weight = 0.0
    """The same of missing ones; published 0."""
    matching: Weight = 100.0
    """Weight of the mean squared differences of the discriminator's maps."""
    perceptual: str = "shipped"
    """Network of the perceptual distance: shipped, none, or the path of a .npz with VGG-16's weights."""
    perceptual_weight: Weight = 30.0
    """Weight of the perceptual distance."""
    gradient: Weight = 0.001
    """Weight of the squared gradient of the sum of a real image's logits, for images in [0, 1]."""
    batch_size: Count = 10
    """Images in a step, over all devices and hosts."""
    generator: Optimizer = Optimizer(learning_rate=1e-3, b1=0.9)
    """The generator's optimiser."""
    discriminator: Optimizer = Optimizer(learning_rate=1e-4, b1=0.9)
    """The discriminator's optimiser."""


def known_is_real(turn: turns.Turn) -> jax.Array:
    """-E (1 - m) D(G), which turns -log(1 - D) of patches of a fake without a missing pixel into -log D."""
    logits = turn.fake_logits
    return -turns.per_picture(
        (1 - completing.missing_patches(completing.mask_of(turn.batch), logits.shape[1:])) * logits
    )


def matching(turn: turns.Turn) -> jax.Array:
    """The mean over maps of the mean squared difference of the discriminator's maps of real and fake."""
    return turns.per_picture(jax.tree.map(terms.l2, turn.fake_aux, turn.real_aux)) / len(turn.real_aux)


def gradient_of_sum(weight: float) -> turns.Term:
    """weight E |grad_x sum over patches of D(x)|^2, x in [0, 1]; reported as penalty/r1."""

    def value(turn, state):
        patches = np.prod(turn.real_logits.shape[1:])  # whose mean is what `as_real` gives
        penalty = penalties.r1(2 * weight * float(2 * patches) ** 2)
        return penalty(turn.as_real, turn.real, turn.fake, turn.key), state

    return turns.Term("r1", value, prefix="penalty")


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for an augmentation, or a shipped perceptual network that there is not; when it is traced, for sides
        that cannot be halved so often.
      FileNotFoundError: for a file of weights that there is not.
    """

    def pixels(turn):
        mask = completing.mask_of(turn.batch)
        weight = config.pixels * (1 - mask) + config.hole * mask
        return turns.per_picture(weight * terms.l1(turn.fake, turn.real)) / 2

    generator_terms = [turns.term(pixels)]
    if config.matching > 0:
        generator_terms.append(turns.term(matching, weight=config.matching))
    perceptual = distances.named(config.perceptual, spec.image_shape) if config.perceptual_weight > 0 else None
    if perceptual is not None:

        def of_maps(turn):
            return perceptual.distance(turn.frozen, turn.fake, turn.real)

        generator_terms.append(turns.term(of_maps, name="perceptual", weight=config.perceptual_weight))
    sizes: Settings = {"halvings": config.halvings, "blocks": config.blocks, "share": config.share}
    judge = PatchDiscriminator(
        config.discriminator_features,
        config.discriminator_layers,
        "batch",
        "running",
        padding=2,
        maps=True,
        kernel_init=uniform,
        use_bias=True,
        dtype=config.dtype,
    )
    gradient: list[Any] = [gradient_of_sum(config.gradient)] if config.gradient > 0 else []
    return completing.of_players(
        config,
        spec,
        networks.LaMa(config.features, dtype=config.dtype, **sizes),
        judge,
        name="LaMa",
        condition=completing.told_generator,
        generator_terms=generator_terms,
        discriminator_terms=[turns.term(known_is_real), *gradient],
        adversarial_weight=config.adversarial,
        frozen=None if perceptual is None else perceptual.weights,
    )


_SMALL: Settings = {"features": 2, "halvings": 2, "blocks": 1, "discriminator_features": 2, "discriminator_layers": 2}
TINY = Config(data=Data("emoji", image_size=32), batch_size=8, num_steps=4, **_SMALL)

_PAPER = "Suvorov, Logacheva, Mashikhin, Remizova, Ashukha, Silvestrov, Kong, Goka, Park and Lempitsky 2022"
_PLACES = Data("folder", path="places365", image_size=256, labelled=False)
_OFTEN: Settings = dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 10_000)

PRESETS = {
    "emoji-lama": Preset(
        "holes in 64x64 emoji, boxes or strokes, by a narrow LaMa",
        Config(
            data=Data("emoji", image_size=64),
            source=Holes("lama"),
            features=16,
            blocks=4,
            discriminator_features=16,
            discriminator_layers=3,
            batch_size=16,
            num_steps=8000,
            hole=10.0,
            adversarial=1.0,
            matching=10.0,
            perceptual_weight=10.0,
        ),
        paper=_PAPER,
    ),
    "places-lama": Preset(
        "holes in photographs of places, 256 pixels, LaMa as published; give --data.path and --perceptual FILE",
        Config(data=_PLACES, perceptual="none", num_steps=1_000_000, **_OFTEN),
        paper=_PAPER,
        spec=((256, 256, 3), 0),
    ),
    "places-big-lama": Preset(
        "the same by Big LaMa, with 18 blocks; give --data.path and --perceptual FILE",
        Config(data=_PLACES, perceptual="none", num_steps=1_000_000, blocks=18, **_OFTEN),
        paper=_PAPER,
        spec=((256, 256, 3), 0),
    ),
}
