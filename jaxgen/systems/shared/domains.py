"""What a game does whose generator takes images to the domain that it is told, the domains being their labels."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen import gan, network, sharding, turns
from jaxgen.arguments import check_key
from jaxgen.metrics import codes, features
from jaxgen.models.restoring import at_multiples
from jaxgen.system import Measure, Spec, System
from jaxgen.systems.shared import two_player

SHOWN = 10  # domains in a row of pictures


def system(config: two_player.Adversaries, spec: Spec, game: gan.Game, *, name: str) -> System:
    """The system of a game.

    Args:
      config: settings.
      spec: of the batches.
      game: its generator is told (images, labels), and its discriminator nothing; that returns `network.Output(logits,
        logits of domains)`.
      name: of the system.
    """
    generator: Any = game.generator
    judge, num_domains = game.discriminator, spec.num_classes
    classifier = judge_of(spec)

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
        if classifier is not None:
            module, weights = classifier
            found["as_asked"] = jnp.argmax(module.apply(weights, made, train=False), -1) == asked
        return {name: x.astype(jnp.float32) for name, x in found.items()}

    def views(variables, batch):
        image = network.images_of(batch)
        made = [translated(variables, image, domain) for domain in range(min(num_domains, SHOWN))]
        return {"translations": jnp.stack([image, *made], axis=1)}

    judged = classifier is not None
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
        name=name,
    )


def judge_of(spec: Spec) -> tuple[Any, Any] | None:
    """(module, variables) of the package's classifier of such images, if it knows as many classes as there are."""
    try:
        backbone = features.shipped_for(spec.image_shape)
    except ValueError:
        return None
    module, _ = backbone.network
    return backbone.network if module.num_classes == spec.num_classes else None


def next_domain(batch: Any, num_domains: int) -> jax.Array:
    """The domain after each image's own, [B].

    Raises:
      ValueError: for a batch without labels.
    """
    if "label" not in batch:
        raise ValueError("images go to the domain after their own, and these have no labels: give label=")
    return (batch["label"] + 1) % num_domains


def to_another_domain(batch: Mapping[str, jax.Array], step: jax.Array, key: jax.Array) -> turns.Conditions:
    """The generator is told each image with the label of one of the batch, and the discriminator nothing."""
    check_key(key)
    label = sharding.shuffled(key, batch["label"])
    return turns.Conditions(generator=(batch["image"], label))


def domains_of(turn: turns.Turn) -> tuple[jax.Array, jax.Array]:
    """Labels of the real images, and those that the generator was asked for."""
    return turn.batch["label"], turn.inputs[0][1]


def cycle(turn: turns.Turn) -> jax.Array:
    """mean |G(G(x, c'), c) - x| for each image."""
    back = network.split_output(turn.generator((turn.fake, turn.batch["label"])))[0]
    return turns.per_picture(jnp.abs(back - turn.inputs[0][0]))
