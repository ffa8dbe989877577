"""CycleGAN: two domains without pairs, a generator each way, each to undo the other (Zhu, Park, Isola, Efros 2017).

    generators       (D(G(s)) - 1)^2 + 10 mean |F(G(s)) - s| + 5 mean |G(x) - x|, and the same with domains exchanged
    discriminators   (D(x) - 1)^2 + D(fake)^2, halved, of fakes from a pool of 50 earlier ones,

of sources s and images x (see `jaxgen.cycle`). Generators are residual networks with instance normalisation, nine
blocks for 256 pixels and six for 128, discriminators judge patches of 70 pixels. Adam, 2e-4, b1 = 0.5, a batch of one,
the rate constant in the first half of the steps and linear to 0 in the second, by steps.

`translate` takes sources to images, and with `direction="to_source"` images to sources. In the log `change` tells a
generator that does nothing, and `drift` one that inverts colours.

Deviations: the emoji's presets have larger batches and narrower networks.
"""

import dataclasses
from typing import Any, Literal

from jaxgen import cycle, data, network, turns
from jaxgen.models import patchgan, resnet_generator
from jaxgen.options import LOSSES, Data, Optimizer, Run, lookup
from jaxgen.ranges import Count, CountOrZero, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import translating

ADAM = Optimizer(learning_rate=2e-4, b1=0.5, schedule="linear_half")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Run):
    """Two residual translators and two discriminators of patches, for images whose sides are multiples of four."""

    features: Count = 64
    """Channels of a generator's first map, doubled at each halving."""
    halvings: Count = 2
    """Of an image in a generator."""
    blocks: Count = 9
    """Residual blocks of a generator: nine for 256 pixels, six for 128."""
    discriminator_features: Count = 64
    """Channels of a discriminator's first map."""
    discriminator_layers: Count = 3
    """Of a discriminator that halve: a logit sees 70 pixels with 3, and 16, 34, 142 with 1, 2, 4."""
    loss: Literal[*LOSSES] = "least_squares"
    """Of both sides."""
    adversarial: Weight = 2.0
    """Weight of the adversarial loss in the generators' objective; 2 for the half that least_squares has."""
    cycle: Weight = 10.0
    """Weight of the errors of going there and back."""
    identity: Weight = 0.5
    """Weight, times that of the cycle, of the errors of images that are in the domain already."""
    pool_size: CountOrZero = 50
    """Earlier fakes of either domain that the discriminators may see; 0: the newest alone."""
    patch: CountOrZero = 0
    """Side of the square that is cut out of an image, for training at random; 0: whole images."""
    flips: bool = True
    """Mirror training images at random."""
    batch_size: Count = 1
    """Images of either domain in a step, over all devices and hosts."""
    generators: Optimizer = ADAM
    """The optimiser of both generators."""
    discriminators: Optimizer = ADAM
    """The optimiser of both discriminators."""

    def wrap(self, dataset: data.Dataset, split: Literal["train", "test"]) -> data.Dataset:
        """Sources and images that have nothing to do with each other; of the emoji held-out pairs."""
        return translating.prepared(self, dataset, split)


def build(config: Config, spec: Spec) -> System:
    """The system for two domains.

    Raises:
      ValueError: for data without sources; when it is traced, for sides that cannot be halved so often.
    """
    source, image = translating.source_of(spec.batch), spec.batch["image"]
    generators = {
        name: resnet_generator.ResNetGenerator(
            made.shape[-1], config.features, config.halvings, config.blocks, dtype=config.dtype
        )
        for name, made in (("to_image", image), ("to_source", source))
    }
    judge = patchgan.PatchDiscriminator(
        config.discriminator_features, config.discriminator_layers, "instance", dtype=config.dtype
    )
    modules = (*generators.values(), judge, judge)
    optimizers: Settings = {
        "generator_optimizer": config.generators.build(config.num_steps),
        "discriminator_optimizer": config.discriminators.build(config.num_steps),
    }
    truth = translating.has_truth(config)

    def translate(variables, batch, key, direction="to_image"):
        if direction not in generators:
            raise ValueError(f"direction is one of {', '.join(generators)}, not {direction!r}")
        given = translating.source_of(batch) if direction == "to_image" else network.images_of(batch)
        own = network.member(variables, direction)
        return translating.of_network(generators[direction], own, given, key)

    def reconstruct(variables, batch):
        """Images, taken to the other domain and back."""
        there = translating.of_network(generators["to_source"], variables["to_source"], batch["image"], None)
        return translating.of_network(generators["to_image"], variables["to_image"], there, None)

    def discriminate(variables, batch):
        logits = network.evaluate(judge, network.member(variables, "of_image"), network.images_of(batch))
        return turns.per_picture(logits)

    return System(
        init=lambda key: cycle.init(
            key,
            *modules,
            **optimizers,
            image_shape=spec.image_shape,
            source_shape=source.shape,
            pool_size=config.pool_size,
        ),
        train_step=cycle.make_train_step(
            *modules,
            **optimizers,
            loss=lookup(LOSSES, config.loss, "loss"),
            adversarial_weight=config.adversarial,
            cycle_weight=config.cycle,
            identity_weight=config.identity,
            pool_size=config.pool_size,
            ema_decay=config.ema_decay,
            gradients=config.gradients,
        ),
        images_per_step=config.batch_size,
        variables=variables_of,
        translate=translate,
        reconstruct=reconstruct,
        discriminate=discriminate,
        views=translating.looks(translate, truth=truth),
        measure=translating.measure(translate, truth=truth),
        protocol=translating.protocol(config, generators["to_image"], truth=truth),
        name="CycleGAN",
    )


def variables_of(state: cycle.State) -> dict[str, Any]:
    """The averages of both generators, and both discriminators as they are."""
    judges = state.discriminators
    now = {n: {"params": judges.params[n], **judges.model_state[n]} for n in cycle.DISCRIMINATORS}
    return {**state.ema, **now}


TINY = Config(
    data=Data("unpaired_emoji", image_size=16),
    features=2,
    blocks=1,
    discriminator_features=2,
    discriminator_layers=1,
    pool_size=3,
    batch_size=8,
    num_steps=4,
)

_PAPER = "Zhu, Park, Isola and Efros 2017"
_OFTEN: Settings = dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 10_000)


def _horses(size, **changes):
    """1,067 horses and 1,334 zebras: 200 passes."""
    sides = Data("unpaired", path="horse2zebra", image_size=size * 143 // 128)
    return Config(data=sides, patch=size, num_steps=266_800, **_OFTEN, **changes)


PRESETS = {
    "emoji-cyclegan": Preset(
        "Noto's emoji as Twemoji draws them and back, without pairs, 32 pixels, by a narrow CycleGAN",
        Config(
            data=Data("unpaired_emoji", image_size=32, drawn_by="twemoji"),
            features=32,
            blocks=4,
            discriminator_features=32,
            discriminator_layers=2,
            flips=False,
            batch_size=8,
            num_steps=6000,
        ),
        paper=_PAPER,
    ),
    "horse2zebra-cyclegan": Preset(
        "horses as zebras and back, 256 pixels, CycleGAN as published; give --data.path",
        _horses(256),
        paper=_PAPER,
        spec=((286, 286, 3), 0),
    ),
    "horse2zebra-cyclegan-128": Preset(
        "the same at 128 pixels, with six blocks; give --data.path",
        _horses(128, blocks=6),
        paper=_PAPER,
        spec=((143, 143, 3), 0),
    ),
}
