"""pix2pix: a conditional GAN of pairs, with the mean absolute error (Isola, Zhu, Zhou and Efros 2017).

The U-Net is told the source s, and the discriminator judges patches of the pair:

    generator        -log D(s, G(s)) + 100 mean |G(s) - x|
    discriminator    -log D(s, x) - log(1 - D(s, G(s))).

Dropout in the generator is all its noise, and stays when it translates; batch normalisation then takes the statistics
of each image itself. `--dropout-at-test False` and `--statistics running` say otherwise. Adam, 2e-4, b1 = 0.5, a batch
of one, the rate constant in the first half of the steps and linear to 0 in the second; the discriminator moves first.

Deviations: the discriminator's loss is not halved, which Adam does not notice. The emoji's presets have larger batches,
and a U-Net as deep as their size allows.
"""

import dataclasses
from typing import Literal

from jaxgen import data, turns
from jaxgen.losses import terms
from jaxgen.models import patchgan, unet
from jaxgen.models.normalisation import Kind, Statistics
from jaxgen.options import Data, Optimizer
from jaxgen.ranges import Count, CountOrZero, Share, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import translating, two_player

ADAM = Optimizer(learning_rate=2e-4, b1=0.5, schedule="linear_half")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.Adversaries):
    """A U-Net and a discriminator of pairs, for images whose sides are multiples of 2^halvings."""

    features: Count = 64
    """Channels of the U-Net's first map, doubled up to eight times as many."""
    halvings: Count = 8
    """Of an image in the U-Net: eight for 256 pixels, down to one."""
    norm: Literal[*Kind.__args__] = "batch"
    """Normalisation of both networks."""
    statistics: Literal[*Statistics.__args__] = "image"
    """Of batch normalisation when it translates: of each image itself, or running averages."""
    dropout: Share = 0.5
    """Share of the numbers that the U-Net's inner decoder drops."""
    dropout_at_test: bool = True
    """Whether it drops them when it translates, too, by a key."""
    discriminator_features: Count = 64
    """Channels of the discriminator's first map."""
    discriminator_layers: CountOrZero = 3
    """Of the discriminator that halve: a logit sees 70 pixels with 3, and 16, 34, 142 with 1, 2, 4; 0: each pixel."""
    pixels: Weight = 100.0
    """Weight of the mean absolute error."""
    patch: CountOrZero = 0
    """Side of the square that is cut out of a pair, for training at random; 0: whole images."""
    flips: bool = True
    """Mirror training pairs at random."""
    batch_size: Count = 1
    """Images in a step, over all devices and hosts."""
    generator: Optimizer = ADAM
    """The generator's optimiser."""
    discriminator: Optimizer = ADAM
    """The discriminator's optimiser."""

    def wrap(self, dataset: data.Dataset, split: Literal["train", "test"]) -> data.Dataset:
        """Pairs, with the source beside the image."""
        return translating.prepared(self, dataset, split)


def build(config: Config, spec: Spec) -> System:
    """The system for pairs of a shape.

    Raises:
      ValueError: for an augmentation; when it is traced, for sides that cannot be halved so often.
    """
    translating.check_augmentation(config)
    shared: Settings = {"norm": config.norm, "statistics": config.statistics, "dtype": config.dtype}
    generator = unet.UNet(
        spec.image_shape[2],
        config.features,
        config.halvings,
        dropout=config.dropout,
        dropout_at_test=config.dropout_at_test,
        **shared,
    )
    if config.discriminator_layers:
        judge = patchgan.PatchDiscriminator(config.discriminator_features, config.discriminator_layers, **shared)
    else:
        judge = patchgan.PixelDiscriminator(config.discriminator_features, **shared)  # type: ignore[assignment]
    l1 = [terms.reconstruction(config.pixels, name="l1")] if config.pixels > 0 else []
    return translating.of_players(
        config, spec, generator, judge, name="pix2pix", condition=turns.told("source"), generator_terms=l1
    )


TINY = Config(
    data=Data("emoji", image_size=64),
    features=2,
    halvings=6,
    discriminator_features=2,
    discriminator_layers=2,
    batch_size=8,
    num_steps=4,
)

_PAPER = "Isola, Zhu, Zhou and Efros 2017"
_OFTEN: Settings = dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 5000)


def _facades(size, **changes):
    """400 photographs with their maps to the right: 200 passes."""
    sides = Data("halves", path="facades", image_size=size * 143 // 128, direction="right-to-left")
    return Config(data=sides, patch=size, num_steps=80_000, **_OFTEN, **changes)


PRESETS = {
    "emoji-pix2pix": Preset(
        "Noto's emoji as Twemoji draws them, 64 pixels, by a narrow pix2pix",
        Config(data=Data("emoji", image_size=64, drawn_by="twemoji"), halvings=6, features=32, batch_size=16),
        paper=_PAPER,
        measured="not run to its end; with --num-steps 1500 (7 passes) in 16 minutes L1 0.175, SSIM 0.253: worse than "
        "the best linear map, 0.165 and 0.270, and the nearest training pair, 0.160 and 0.378 (440 test emoji; one "
        "seed, one core of an Intel Xeon, 2026-11-30)",
    ),
    "facades-pix2pix": Preset(
        "photographs of maps of facades, 256 pixels, pix2pix as published; give --data.path",
        _facades(256),
        paper=_PAPER,
        spec=((286, 286, 3), 0),
    ),
    "facades-pix2pix-128": Preset(
        "the same at 128 pixels; give --data.path",
        _facades(128, halvings=7),
        paper=_PAPER,
        spec=((143, 143, 3), 0),
    ),
}
