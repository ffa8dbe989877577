"""StarGAN: one generator for all pairs of domains, which are the labels (Choi, Choi, Kim, Ha, Kim and Choo 2018).

The generator is told an image x and a domain c', a label that another image of the batch has; c is its own:

    generator        -E D(G(x, c')) - E log C(c' | G(x, c')) + 10 mean |G(G(x, c'), c) - x|
    discriminator    E D(G(x, c')) - E D(x) - E log C(c | x) + 10 E (|grad D| - 1)^2.

D is the mean of the discriminator's patches, C its head, which learns of real images alone. Adam, 1e-4, b1 = 0.5,
b2 = 0.999, five discriminator updates for one; the rate is constant in the first half of the steps and linear to 0 in
the second, as the paper says (in the authors' code it hardly falls).

`translate` takes `label=`, a domain or one for each image; without it images go to the domain after their own.

Deviations: domains are labels, one for each image, as the paper's expressions; not attributes that hold at once. The
penalty is of the mean of the patches, in the authors' code of their sum. Digits are halved three times to be judged.
"""

import dataclasses
from typing import Literal

from jaxgen import data, turns
from jaxgen.data import augmentation
from jaxgen.losses import terms
from jaxgen.models import stargan as networks
from jaxgen.options import LOSSES, Data, Optimizer
from jaxgen.ranges import Count, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import domains, two_player

ADAM = Optimizer(learning_rate=1e-4, b1=0.5, schedule="linear_half")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.Adversaries):
    """A generator that is told a domain, and a discriminator that says which one it sees."""

    features: Count = 64
    """Channels of the generator's first map, doubled at each halving."""
    halvings: Count = 2
    """Of an image in the generator."""
    blocks: Count = 6
    """Residual blocks of the generator."""
    discriminator_features: Count = 64
    """Channels of the discriminator's first map, doubled at each halving."""
    discriminator_halvings: Count = 6
    """Of an image in the discriminator: six for 128 pixels, down to two."""
    loss: Literal[*LOSSES] = "wasserstein"
    """Of both players."""
    gradient_penalty: Weight = 10.0
    """Weight of the WGAN-GP penalty."""
    auxiliary: Weight = 1.0
    """Weight of the domains in the objective of either player."""
    cycle: Weight = 10.0
    """Weight of the error of going to another domain and back."""
    num_discriminator_steps: Count = 5
    """Discriminator updates for each generator update, each on fresh images."""
    flips: bool = True
    """Mirror training images at random."""
    batch_size: Count = 16
    """Images in a step (for each discriminator step), over all devices and hosts."""
    generator: Optimizer = ADAM
    """The generator's optimiser."""
    discriminator: Optimizer = ADAM
    """The discriminator's optimiser."""

    def wrap(self, dataset: data.Dataset, split: Literal["train", "test"]) -> data.Dataset:
        """Training images mirrored."""
        if split == "test" or not self.flips:
            return dataset
        return data.augmented(dataset, augmentation.alike(augmentation.random_flip))


def build(config: Config, spec: Spec) -> System:
    """The system for labelled images of a shape.

    Raises:
      ValueError: for data without labels; when it is traced, for sides that cannot be halved so often.
    """
    num_domains, channels = spec.num_classes, spec.image_shape[2]
    if num_domains < 2:
        raise ValueError(
            "StarGAN's domains are labels, and these data have none, or one: put images into one folder a domain"
        )
    generator = networks.Generator(
        num_domains, channels, config.features, config.halvings, config.blocks, dtype=config.dtype
    )
    judge = networks.Discriminator(
        num_domains, config.discriminator_features, config.discriminator_halvings, dtype=config.dtype
    )

    def of_domains(sides):
        return terms.auxiliary_classifier(config.auxiliary, sides=sides, labels=domains.domains_of)

    told: Settings = {"discriminator_terms": [of_domains(("real",))], "generator_terms": [of_domains(("fake",))]}
    if config.cycle > 0:
        told["generator_terms"].append(turns.term(domains.cycle, weight=config.cycle))
    game = two_player.game_of(
        config, spec, generator, judge, latent_dim=None, condition=domains.to_another_domain, **told
    )
    return domains.system(config, spec, game, name="StarGAN")


# Without the penalty, whose points a slice of a batch draws for itself.
TINY = Config(
    features=2,
    blocks=1,
    discriminator_features=2,
    discriminator_halvings=3,
    loss="hinge",
    gradient_penalty=0.0,
    r1=1.0,
    num_discriminator_steps=2,
    batch_size=8,
    num_steps=4,
)

_PAPER = "Choi, Choi, Kim, Ha, Kim and Choo 2018"

PRESETS = {
    "mnist-stargan": Preset(
        "digits taken to other digits, by a narrow StarGAN",
        Config(
            features=32,
            blocks=3,
            discriminator_features=32,
            discriminator_halvings=3,
            num_discriminator_steps=2,
            flips=False,
            batch_size=32,
            num_steps=10_000,
        ),
        paper=_PAPER,
    ),
    "celeba-stargan": Preset(
        "faces at 128 pixels taken to five domains, a folder each, StarGAN as published; give --data.path",
        Config(
            data=Data("folder", path="celeba", image_size=128),
            num_steps=40_000,
            sample_every=1000,
            checkpoint_every=1000,
            evaluate_every=5000,
        ),
        paper=_PAPER,
        spec=((128, 128, 3), 5),
    ),
}
