"""ACGAN: the generator is told a class, and the discriminator says which one it sees (Odena, Olah and Shlens 2017).

A head of the discriminator learns the classes of real and of fake images (their eq. 3); the generator adds to its loss
how badly its classes are told. The discriminator itself is not told any. Adam with b1 = 0.5 and b2 = 0.999.

Deviations: players are the residual ones with which ACGAN is compared since (PyTorch-StudioGAN; Kang et al. 2022), with
batch normalisation in both, conditional in the generator, and the hinge loss; the paper's are of plain convolutions,
with dropout and the saturating loss. The last map is averaged over its pixels (there summed). Fake images have the
labels of the batch in another order (`turns.told_shuffled_labels`).
"""

import dataclasses

from jaxgen import turns
from jaxgen.losses import terms
from jaxgen.models import sngan as generators
from jaxgen.models import wgan_gp as networks
from jaxgen.options import Optimizer, square_size
from jaxgen.ranges import Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import residual_players, two_player

ADAM = Optimizer(learning_rate=2e-4, b1=0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(residual_players.Players):
    """A residual GAN with an auxiliary classifier, for labelled square images of 28, 32, 48, 64 or 128 pixels."""

    generator: Optimizer = ADAM
    """The generator's optimiser."""
    discriminator: Optimizer = ADAM
    """The discriminator's optimiser; two learning rates are TTUR."""
    auxiliary: Weight = 1.0
    """Weight of the classes in the objective of either player."""


def build(config: Config, spec: Spec) -> System:
    """The system for labelled images of a shape.

    Raises:
      ValueError: for data without labels, or a size without a network.
    """
    size, channels, num_classes = square_size(spec.image_shape, "ACGAN"), spec.image_shape[2], spec.num_classes
    if not num_classes:
        raise ValueError(
            "ACGAN is told labels, and these data have none; put images into one folder a class, or choose an sngan "
            "preset"
        )
    two_player.warn_of_penalties_beside_batch_norm(config)
    shuffled_labels = turns.told_shuffled_labels()

    def condition(batch, step, key):
        return turns.Conditions(generator=shuffled_labels(batch, step, key).generator)

    auxiliary = [terms.auxiliary_classifier(config.auxiliary)] if config.auxiliary > 0 else []
    return two_player.build(
        config,
        spec,
        generators.Generator(size, channels, config.generator_features, num_classes, dtype=config.dtype),
        networks.Discriminator(config.discriminator_features, num_classes, batch_norm=True, dtype=config.dtype),
        name="ACGAN",
        num_labels=num_classes,
        condition=condition,
        generator_terms=auxiliary,
        discriminator_terms=auxiliary,
    )


TINY = Config(
    generator_features=4, discriminator_features=4, latent_dim=4, batch_size=8, num_steps=4, num_discriminator_steps=2
)

_PAPER = "Odena, Olah and Shlens 2017; networks after Kang et al. 2022"

PRESETS = {
    "mnist-acgan": Preset(
        "digits that were asked for, by a narrow residual ACGAN",
        Config(**residual_players.SMALL),
        paper=_PAPER,
    ),
    "cifar-acgan": Preset(
        "CIFAR-10 by class, by the residual ACGAN of common benchmarks; give --data.path, one folder a class",
        Config(data=residual_players.CIFAR, **residual_players.PUBLISHED),
        paper=_PAPER,
        published="a reproduction FID 33.39, IS 7.19 (PyTorch-StudioGAN, training images)",
        spec=((32, 32, 3), 10),
    ),
}
