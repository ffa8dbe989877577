"""CUT: one generator, whose output's patches are to be known again among the source's (Park, Efros, Zhang, Zhu 2020).

    generator        (D(G(s)) - 1)^2 + NCE(s, G(s)) / 2 + NCE(x, G(x)) / 2
    discriminator    (D(x) - 1)^2 + D(G(s))^2, halved,

for sources s and images x without pairs. NCE: 256 places of five maps of the generator's encoder, made unit vectors by
two dense layers each; a place of the output is to be nearer to the same place of the source than to the others of that
image, by a softmax at temperature 0.07 (`losses.contrastive`). Networks are CycleGAN's, with filters where maps are
halved and doubled. FastCUT has no NCE(x, G(x)), ten times the other, and half of all sources mirrored, with the maps of
their outputs turned back. Adam, 2e-4, b1 = 0.5, b2 = 0.999, a batch of one.

Deviations: the dense layers are parameters of the generator from the beginning, and share its optimiser, which has the
same settings as theirs. Sources are mirrored one by one, not batch by batch. The published code compares an output's
patch with its 255 negatives and the positive, and a masked number beside, which adds nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from jaxgen import data, sharding, turns
from jaxgen.arguments import check_key
from jaxgen.losses import contrastive
from jaxgen.models import cut as networks
from jaxgen.models import patchgan
from jaxgen.models.resnet_generator import xavier
from jaxgen.options import LOSSES, Data, Optimizer
from jaxgen.ranges import Count, CountOrZero, Positive, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import translating, two_player

ADAM = Optimizer(learning_rate=2e-4, b1=0.5, schedule="linear_half")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.Adversaries):
    """A residual translator with heads for its patches, and a discriminator, for sides that are multiples of four."""

    features: Count = 64
    """Channels of the generator's first map, doubled at each halving."""
    halvings: Count = 2
    """Of an image in the generator."""
    blocks: Count = 9
    """Residual blocks of the generator; the maps of the first and of the fifth are compared."""
    blur: bool = True
    """Halve and double maps by filters, in both networks, as published; else by strides, as CycleGAN."""
    head_features: Count = 256
    """Numbers of a patch's vector."""
    discriminator_features: Count = 64
    """Channels of the discriminator's first map."""
    discriminator_layers: Count = 3
    """Of the discriminator that halve."""
    loss: Literal[*LOSSES] = "least_squares"
    """Of both players."""
    adversarial: Weight = 2.0
    """Weight of the adversarial loss in the generator's objective; 2 for the half that least_squares has."""
    nce: Weight = 1.0
    """Weight of the contrastive loss."""
    identity: bool = True
    """Whether half of it is of images that are in the target domain already."""
    mirrored: bool = False
    """Mirror half of the sources before they are translated, and turn the outputs' maps back."""
    num_patches: Count = 256
    """Places of each map that are compared."""
    temperature: Positive = 0.07
    """Of the softmax."""
    patch: CountOrZero = 0
    """Side of the square that is cut out of an image, for training at random; 0: whole images."""
    flips: bool = True
    """Mirror training images at random."""
    batch_size: Count = 1
    """Images of either domain in a step, over all devices and hosts."""
    generator: Optimizer = ADAM
    """The generator's optimiser."""
    discriminator: Optimizer = ADAM
    """The discriminator's optimiser."""

    def wrap(self, dataset: data.Dataset, split: Literal["train", "test"]) -> data.Dataset:
        """Sources and images that have nothing to do with each other; of the emoji held-out pairs."""
        return translating.prepared(self, dataset, split)


def build(config: Config, spec: Spec) -> System:
    """The system for two domains.

    Raises:
      ValueError: when it is traced, for data without sources, or sides that cannot be halved so often.
    """
    generator = networks.Generator(
        spec.image_shape[2],
        config.features,
        config.halvings,
        config.blocks,
        head_features=config.head_features,
        blur=config.blur,
        dtype=config.dtype,
    )
    judge = patchgan.PatchDiscriminator(
        config.discriminator_features,
        config.discriminator_layers,
        "instance",
        blur=config.blur,
        kernel_init=xavier,
        dtype=config.dtype,
    )
    known_again = contrastive.patches_known_again(
        config.nce, num_patches=config.num_patches, temperature=config.temperature, identity=config.identity
    )
    return translating.of_players(
        config,
        spec,
        generator,
        judge,
        name="CUT",
        condition=source_mirrored if config.mirrored else source_alone,
        truth=translating.has_truth(config),
        generator_terms=[known_again] if config.nce > 0 else [],
        adversarial_weight=config.adversarial,
    )


def source_alone(batch: Mapping[str, jax.Array], step: jax.Array, key: jax.Array) -> turns.Conditions:
    """The generator is told the source, and the discriminator nothing."""
    check_key(key)
    return turns.Conditions(generator=translating.source_of(batch))


def source_mirrored(batch: Mapping[str, jax.Array], step: jax.Array, key: jax.Array) -> turns.Conditions:
    """The same with each source mirrored with probability one half, and whether it was."""
    check_key(key)
    source = translating.source_of(batch)
    mirrored = sharding.draw(jax.random.uniform, key, source.shape[:1]) < 0.5
    turned = jnp.where(mirrored[:, None, None, None], source[:, :, ::-1], source)
    return turns.Conditions(generator={"image": turned, "mirrored": mirrored})


TINY = Config(
    data=Data("emoji", image_size=16),
    features=2,
    blocks=1,
    head_features=16,
    discriminator_features=2,
    discriminator_layers=1,
    num_patches=1000,
    nce=1e-3,  # its heads begin so small that plain descent, by which tests compare, would throw them far
    batch_size=8,
    num_steps=4,
)

_PAPER = "Park, Efros, Zhang and Zhu 2020"
_OFTEN: Settings = dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 10_000)
_FAST: Settings = {"nce": 10.0, "identity": False, "mirrored": True}


def _horses(passes, **changes):
    """1,067 horses and 1,334 zebras."""
    sides = Data("unpaired", path="horse2zebra", image_size=286)
    return Config(data=sides, patch=256, num_steps=passes * 1334, **_OFTEN, **changes)


_LATE = dataclasses.replace(ADAM, schedule="linear_quarter")

PRESETS = {
    "emoji-cut": Preset(
        "Noto's emoji as Twemoji draws them, without pairs, 32 pixels, by a narrow CUT",
        Config(
            data=Data("unpaired_emoji", image_size=32, drawn_by="twemoji"),
            features=32,
            blocks=4,
            head_features=64,
            discriminator_features=32,
            discriminator_layers=2,
            num_patches=128,
            flips=False,
            batch_size=8,
            num_steps=6000,
        ),
        paper=_PAPER,
    ),
    "horse2zebra-cut": Preset(
        "horses as zebras, 256 pixels, CUT as published; give --data.path",
        _horses(400),
        paper=_PAPER,
        spec=((286, 286, 3), 0),
    ),
    "horse2zebra-fastcut": Preset(
        "horses as zebras, 256 pixels, FastCUT as published; give --data.path",
        _horses(200, generator=_LATE, discriminator=_LATE, **_FAST),
        paper=_PAPER,
        spec=((286, 286, 3), 0),
    ),
}
