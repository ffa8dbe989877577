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
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxgen import data, network, sharding, turns
from jaxgen.data import augmentation
from jaxgen.losses import terms
from jaxgen.metrics import codes, features
from jaxgen.models import stargan as networks
from jaxgen.models.restoring import at_multiples
from jaxgen.options import LOSSES, Data, Optimizer
from jaxgen.ranges import Count, Weight
from jaxgen.system import Measure, Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import two_player

ADAM = Optimizer(learning_rate=1e-4, b1=0.5, schedule="linear_half")
SHOWN = 10  # domains in a row of pictures


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
        return terms.auxiliary_classifier(config.auxiliary, sides=sides, labels=domains_of)

    told: Settings = {"discriminator_terms": [of_domains(("real",))], "generator_terms": [of_domains(("fake",))]}
    if config.cycle > 0:
        told["generator_terms"].append(turns.term(cycle, weight=config.cycle))
    game = two_player.game_of(config, spec, generator, judge, latent_dim=None, condition=to_another_domain, **told)

    def translated(variables, image, domain):
        own = network.member(variables, "generator")
        domain = jnp.broadcast_to(jnp.asarray(domain, jnp.int32), image.shape[:1])
        run = lambda x: network.evaluate(generator, own, (x, domain), what="images")  # noqa: E731
        return at_multiples(run, image, generator.factor)

    def translate(variables, batch, key, label=None):
        label = next_domain(batch, num_domains) if label is None else label
        return translated(variables, network.images_of(batch), label)

    def of_batch(variables, batch, key):
        image, asked = network.images_of(batch), next_domain(batch, num_domains)
        made = translated(variables, image, asked)
        back = translated(variables, made, batch["label"])
        told = judge.apply(network.member(variables, "discriminator"), made, train=False).aux
        found = {"cycle_l1": back - image, "change": made - image}
        found = {name: 0.5 * turns.per_picture(jnp.abs(x)) for name, x in found.items()}
        found["as_the_discriminator_says"] = jnp.argmax(told, -1) == asked
        if (backbone := judge_of(spec)) is not None:
            found["as_asked"] = jnp.argmax(backbone.apply(made)[1], -1) == asked
        return {name: x.astype(jnp.float32) for name, x in found.items()}

    def views(variables, batch):
        image = network.images_of(batch)
        made = [translated(variables, image, domain) for domain in range(min(num_domains, SHOWN))]
        return {"translations": jnp.stack([image, *made], axis=1)}

    judged = judge_of(spec) is not None
    return System(
        init=game.init,
        train_step=game.train_step(),
        images_per_step=config.batch_size * config.num_discriminator_steps,
        variables=two_player.variables_of,
        translate=translate,
        discriminate=two_player.judging(judge, to_another_domain),
        views=views,
        measure=Measure(
            of_batch, codes.means, best="as_asked" if judged else "cycle_l1", mode="max" if judged else "min"
        ),
        protocol={
            "images": "the generator's output, each held-out image taken to the domain after its own",
            "numbers": "as_asked: share that the package's classifier takes for the domain; cycle_l1 (there and back) "
            "and change: mean absolute differences, black 0 and white 1",
            **config.weights,
        },
        game=game,
        name="StarGAN",
    )


def judge_of(spec: Spec) -> features.Backbone | None:
    """The package's classifier of such images, if it knows as many classes as there are domains."""
    try:
        backbone = features.shipped_for(spec.image_shape)
    except ValueError:
        return None
    module, _ = backbone.network
    return backbone if module.num_classes == spec.num_classes else None


def next_domain(batch: Any, num_domains: int) -> jax.Array:
    """The domain after each image's own, [B].

    Raises:
      ValueError: for a batch without labels.
    """
    if "label" not in batch:
        raise ValueError("images go to the domain after their own, and these have no labels: give label=")
    return (batch["label"] + 1) % num_domains


def to_another_domain(batch, step, key) -> turns.Conditions:
    """The generator is told each image with the label of one of the batch, and the discriminator nothing."""
    label = sharding.divided(jax.random.permutation(key, batch["label"]))
    return turns.Conditions(generator=(batch["image"], label))


def domains_of(turn: turns.Turn) -> tuple[jax.Array, jax.Array]:
    """Labels of the real images, and those that the generator was asked for."""
    return turn.batch["label"], turn.inputs[0][1]


def cycle(turn: turns.Turn) -> jax.Array:
    """mean |G(G(x, c'), c) - x| for each image."""
    back = network.split_output(turn.generator((turn.fake, turn.batch["label"])))[0]
    return turns.per_picture(jnp.abs(back - turn.inputs[0][0]))


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
