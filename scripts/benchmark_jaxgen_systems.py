"""The whole systems of `benchmark.py` in jaxgen: what `benchmark_jaxgen` times and compares, for a `System`.

A system is built from its preset by its own module. What its step draws is recorded, so that PyTorch can be given it.
"""

import contextlib
import dataclasses
import functools
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmark_cases import System
from benchmark_jaxgen_gan import near_singular_vectors, networks_of, optimizers

from jaxgen import network, sharding, systems, turns
from jaxgen.models import progan
from jaxgen.system import Spec

__all__ = ["make", "networks_of", "numbers_of", "reference", "settings_of"]

CHECK_CHANGE = 0.3  # of all weights in the step that is compared, in units of their size: none of them is then 0 or 1
FAST = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None  # that step runs once
TUPLES = ("widths",)  # of settings, which come as lists


def config_of(case: System):
    """The preset's settings with the case's changes."""
    config = systems.PRESETS[case.preset].config
    changes = {name: tuple(x) if name in TUPLES else x for name, x in case.changes.items()}
    if hasattr(config, "burn_in"):
        changes["burn_in"] = dataclasses.replace(config.burn_in, augmentation=0.0)
    return dataclasses.replace(config, batch_size=case.batch_size, precision=case.dtype, augmentation="none", **changes)


def settings_of(case: System):
    """The same by name, for PyTorch's side."""
    return dataclasses.asdict(config_of(case))


def game_of(case: System):
    """Modules and arguments of the step."""
    config, shape = config_of(case), (case.image_size, case.image_size, case.channels)
    spec = Spec.of_images(shape, case.num_classes)
    return systems.module_of(config).build(config, spec).game


def first_step(case: System):
    """The step that is the first one: of players that grow, one in which they are whole."""
    config = config_of(case)
    if case.name != "progan":
        return 0
    last = len(progan.stages_of(case.image_size)) - 1
    return config.begins(last) + config.phases()[0]


def make_batch(case: System):
    """Real images and labels: noise, for the numbers do not matter to the clock."""
    config = config_of(case)
    images = case.batch_size * config.num_discriminator_steps
    image_key, label_key = jax.random.split(jax.random.key(1))
    shape = (images, case.image_size, case.image_size, case.channels)
    batch = {"image": jax.random.uniform(image_key, shape, minval=-1.0, maxval=1.0)}
    if case.num_classes:
        batch["label"] = jax.random.randint(label_key, (images,), 0, case.num_classes)
    return batch


def make(case: System):
    """The step, the state that it starts from and its batch."""
    game = game_of(case)
    state = game.init(jax.random.key(0)).replace(step=jnp.int32(first_step(case)))
    return game.train_step(), state, make_batch(case)


def numbers_of(metrics):
    """Both losses, and each penalty and term as it is added to them."""
    numbers = {f"{player}_loss": float(metrics[f"{player}/loss"]) for player in ("generator", "discriminator")}
    for name, x in metrics.items():
        player, _, term = name.partition("/")
        if player == "penalty" or term in ("path_length", "drift", "autoencoding"):
            numbers[term] = float(x)
    return numbers


# What is drawn


@contextlib.contextmanager
def recorded():
    """What `sharding.draw` draws in a step that is traced and run meanwhile: a list of (place in the trace, array)."""
    drawn, places, draw = [], itertools.count(), sharding.draw

    def recording(sampler, key, shape, *, axis_name=None):
        x, place = draw(sampler, key, shape, axis_name=axis_name), next(places)
        jax.debug.callback(lambda x: drawn.append((place, np.asarray(x))), x)
        return x

    with mock.patch.object(sharding, "draw", recording):
        yield drawn


def in_order(drawn):
    """What was recorded as a program draws it: place by place, and where several are run again together, in turns."""
    of_place = {}
    for place, x in drawn:
        of_place.setdefault(place, []).append(x)
    order = []
    for _, together in itertools.groupby((of_place[place] for place in sorted(of_place)), len):
        order.extend(itertools.chain.from_iterable(zip(*together, strict=True)))
    return order


@contextlib.contextmanager
def replayed(numbers):
    """`sharding.draw` takes these numbers, one after another."""
    numbers = iter(numbers)
    with mock.patch.object(sharding, "draw", lambda sampler, key, shape, *, axis_name=None: next(numbers)):
        yield


# The comparison


def changed(player):
    """The player with weights that have moved, and the vectors of spectral normalisation near their singular ones."""
    leaves, structure = jax.tree.flatten(player.params)
    generator = np.random.default_rng(1)

    def moved(x):
        x = np.asarray(x)
        size = np.sqrt(np.mean(np.square(x))) or 0.1
        return jnp.asarray(x + CHECK_CHANGE * size * generator.normal(size=x.shape), x.dtype)

    return near_singular_vectors(player.replace(params=jax.tree.unflatten(structure, map(moved, leaves))))


def forward_passes(case: System, game, state, batch, key):
    """(output, collections) of the generator for the first latents, of the discriminator for an update's images."""
    part = jax.tree.map(lambda x: x[:: len(x) // case.batch_size], batch)
    told = turns.conditions_of(game.settings.get("condition"), part, state.step, key, case.batch_size)
    z = sharding.draw(jax.random.normal, key, (case.batch_size, game.settings["latent_dim"]))
    return [
        network.apply(module, player.params, player.model_state, *turns.given(x, of_it), key=key)
        for module, player, x, of_it in (
            (game.generator, state.generator, z, told.generator),
            (game.discriminator, state.discriminator, part["image"], told.real),
        )
    ]


def reference(case: System, state, batch):
    """The initial weights, everything that a step draws, and what jaxgen makes of it in float32.

    The step that is compared is plain gradient descent: Adam's first step is little more than the gradient's sign.
    """
    case = dataclasses.replace(case, dtype="float32")
    game, key = game_of(case), jax.random.key(2)
    descent = optimizers(lambda: optax.sgd(case.check_learning_rate))
    step = game.train_step(**descent)

    def before_descent(player):
        player = changed(player)
        return player.replace(opt_state=descent["generator_optimizer"].init(player.params))

    before = state.replace(generator=before_descent(state.generator), discriminator=before_descent(state.discriminator))
    with jax.default_matmul_precision("highest"):
        with recorded() as drawn:
            after, metrics = jax.block_until_ready(jax.jit(step, compiler_options=FAST)(before, batch, key))
            jax.effects_barrier()
        numbers = in_order(drawn)
        with replayed(numbers):
            passes = functools.partial(forward_passes, case, game)
            (images, generated), (logits, judged) = jax.jit(passes, compiler_options=FAST)(before, batch, key)
    moved = before.replace(
        generator=before.generator.replace(model_state=generated),
        discriminator=before.discriminator.replace(model_state=judged),
    )
    arrays = {f"draw_{i}": x for i, x in enumerate(numbers)}
    arrays |= {"real": batch["image"], "images": images, "logits": network.split_output(logits)[0]}
    arrays |= {"label": batch["label"]} if "label" in batch else {}
    arrays["learning_rate"] = case.check_learning_rate
    states = {"initial": state, "before": before, "moved": moved, "after": after}
    return arrays, {when: networks_of(one) for when, one in states.items()}, metrics
