"""pix2pixHD: pairs of large images, judged at two scales, and compared in the judges' features (Wang et al. 2018).

A residual network G is told the source s; discriminators D_1 of the pair and D_2 of the pair at half its size judge
patches, and their maps of real and fake pairs are to agree:

    generator        sum_k (D_k(s, G(s)) - 1)^2 + 10 / K sum_k mean over maps of mean |D_k map(s, x) - D_k map(s, G(s))|
    discriminators   sum_k (D_k(s, x) - 1)^2 + D_k(s, G(s))^2, halved.

`--perceptual FILE` adds a perceptual distance with the weights of a network of yours. With `--enhancer` G has the local
enhancer around it, for twice the size. Adam, 2e-4, b1 = 0.5, a batch of one, the rate constant in the first half of the
steps and linear to 0 in the second.

Deviations: the perceptual distance is LPIPS with VGG-16, not VGG-19's absolute differences. The enhancer is trained
with what it enhances from the beginning. Sources are pictures (maps of labels in colours); there are no instance maps.
"""

import dataclasses
from typing import Literal

from jaxgen import data, turns
from jaxgen.losses import perceptual as distances
from jaxgen.losses import terms
from jaxgen.models import patchgan
from jaxgen.models import resnet_generator as networks
from jaxgen.options import LOSSES, Data, Optimizer
from jaxgen.ranges import Count, CountOrZero, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import translating, two_player

ADAM = Optimizer(learning_rate=2e-4, b1=0.5, schedule="linear_half")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.Adversaries):
    """A residual translator and discriminators of pairs at several scales."""

    features: Count = 64
    """Channels of the generator's first map, doubled at each halving."""
    halvings: Count = 4
    """Of an image in the generator, of which sides must be multiples of 2^halvings."""
    blocks: Count = 9
    """Residual blocks of the generator."""
    enhancer: bool = False
    """Put the local enhancer around the generator, which then works at half the size."""
    enhancer_blocks: Count = 3
    """Residual blocks of the enhancer."""
    discriminator_features: Count = 64
    """Channels of each discriminator's first map."""
    discriminator_layers: Count = 3
    """Of each discriminator that halve."""
    scales: Count = 2
    """Discriminators, each of half the size of the one before."""
    loss: Literal[*LOSSES] = "least_squares"
    """Of both players."""
    adversarial: Weight = 2.0
    """Weight of the adversarial loss in the generator's objective; 2 for the half that least_squares has."""
    matching: Weight = 10.0
    """Weight of the differences of the discriminators' maps."""
    perceptual: str = "none"
    """Network of the perceptual distance: shipped, none, or the path of a .npz with VGG-16's weights."""
    perceptual_weight: Weight = 10.0
    """Weight of the perceptual distance."""
    patch: CountOrZero = 0
    """Side of the square that is cut out of a pair, for training at random; 0: whole images."""
    flips: bool = True
    """Mirror training pairs at random."""
    batch_size: Count = 1
    """Images in a step, over all devices and hosts."""
    generator: Optimizer = ADAM
    """The generator's optimiser."""
    discriminator: Optimizer = ADAM
    """That of the discriminators."""

    def wrap(self, dataset: data.Dataset, split: Literal["train", "test"]) -> data.Dataset:
        """Pairs, with the source beside the image."""
        return translating.prepared(self, dataset, split)


def build(config: Config, spec: Spec) -> System:
    """The system for pairs of a shape.

    Raises:
      ValueError: for an augmentation, or a shipped perceptual network that there is not; when it is traced, for sides
        that cannot be halved so often.
      FileNotFoundError: for a file of weights that there is not.
    """
    translating.check_augmentation(config)
    channels, width = spec.image_shape[2], config.features
    if config.enhancer:
        generator = networks.Enhancer(
            channels, max(1, width // 2), config.enhancer_blocks, config.halvings, config.blocks, dtype=config.dtype
        )
    else:
        generator = networks.ResNetGenerator(  # type: ignore[assignment]
            channels, width, config.halvings, config.blocks, dtype=config.dtype
        )
    layers, scales = config.discriminator_layers, config.scales
    judge = patchgan.MultiScale(config.discriminator_features, layers, scales, dtype=config.dtype)
    generator_terms = []
    if config.matching > 0:
        generator_terms.append(terms.feature_matching(config.matching * 4 / (layers + 1) / scales))
    perceptual = distances.named(config.perceptual, spec.image_shape) if config.perceptual_weight > 0 else None
    if perceptual is not None:

        def of_maps(turn):
            return perceptual.distance(turn.frozen, turn.fake, turn.real)

        generator_terms.append(turns.term(of_maps, name="perceptual", weight=config.perceptual_weight))
    return translating.of_players(
        config,
        spec,
        generator,
        judge,
        name="pix2pixHD",
        condition=turns.told("source"),
        generator_terms=generator_terms,
        adversarial_weight=config.adversarial,
        frozen=None if perceptual is None else perceptual.weights,
    )


TINY = Config(
    data=Data("emoji", image_size=32),
    features=2,
    halvings=2,
    blocks=1,
    enhancer=True,
    enhancer_blocks=1,
    discriminator_features=2,
    discriminator_layers=2,
    perceptual="shipped",
    batch_size=8,
    num_steps=4,
)

_OFTEN: Settings = dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 10_000)
_STREETS = Data("pairs", path="cityscapes/maps", target_path="cityscapes/photographs", image_size=512)

PRESETS = {
    "cityscapes-pix2pixhd": Preset(
        "photographs of maps of streets, 512 pixels, pix2pixHD; give --data.path and --data.target-path",
        Config(data=_STREETS, num_steps=595_000, **_OFTEN),  # 2,975 pairs, 200 passes
        paper="Wang, Liu, Zhu, Tao, Kautz and Catanzaro 2018",
        spec=((512, 512, 3), 0),
    ),
}
