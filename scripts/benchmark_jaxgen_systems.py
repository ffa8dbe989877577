"""The whole systems of `benchmark.py` in jaxgen: what `benchmark_jaxgen` times and compares, for a `System`.

A system is built from its preset by its own module. What its step draws is recorded, so that PyTorch can be given it.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmark_cases import System
from benchmark_jaxgen_draws import in_order, recorded, replayed
from benchmark_jaxgen_gan import near_singular_vectors, optimizers

from jaxgen import data, description, network, objective, options, sharding, systems, turns
from jaxgen.models import progan
from jaxgen.system import Spec

__all__ = ["make", "networks_of", "numbers_of", "reference", "told"]

FAST = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None  # that step runs once
CHECK_VARIANCE = 4.0  # by which running variances, 1 at first, are multiplied: many layers would else make thousands
TUPLES = ("widths", "rates", "discriminator_widths")  # of settings, which come as lists
PLAYERS = ("generator", "discriminator", "generators", "discriminators", "encoder", "decoder")
LOSSES = ("loss", *(f"{player}/loss" for player in PLAYERS))
TERMS = ("path_length", "drift", "autoencoding", "distortion", "rate", "commitment", "l1", "pixels")
TERMS += ("feature_distortion", "reconstruction", "perceptual", "quantiser", "known_is_real", "matching")
TERMS += ("nce", "cycle", "turned", "auxiliary_classifier", "known", "hole", "variation", "style", "classification")
TERMS += ("total_correlation", "feature_matching")
LOOPS = ("Scan", "group_", "blocks")  # beginnings of names
COUNTERS = ("batches",)  # collections' numbers that are 0 in the first step alone, which does other work


# What is built


def config_of(case: System):
    """The preset's settings with the case's changes."""
    config = systems.PRESETS[case.preset].config
    changes = {name: tuple(x) if name in TUPLES else x for name, x in case.changes.items()}
    changes |= {"augmentation": "none"} if hasattr(config, "augmentation") else {}
    if hasattr(config, "burn_in"):
        changes["burn_in"] = dataclasses.replace(config.burn_in, augmentation=0.0)
    return dataclasses.replace(config, batch_size=case.batch_size, precision=case.dtype, **changes)


def make_batch(case: System):
    """A batch as the preset's data have it, made of noise: the numbers do not matter to the clock."""
    config = config_of(case)
    count = case.batch_size * getattr(config, "num_discriminator_steps", 1)
    image_shape = (case.image_size, case.image_size, case.channels)
    spec = description.spec_of_data(config, systems.PRESETS[case.preset], image_shape, case.num_classes)
    generator = np.random.default_rng(1)
    images = {
        name: generator.integers(0, 256, (count, *entry.shape), np.uint8)
        for name, entry in spec.batch.items()
        if len(entry.shape) == 3
    }
    labels = generator.integers(0, case.num_classes, count) if case.num_classes else None
    names = tuple(map(str, range(case.num_classes)))
    noise = data.dataset.in_memory(
        "noise", images.pop("image"), labels, names, data.prepare_default, fingerprint="", **images
    )
    noise = config.wrap(noise, "train")
    batch = noise.prepare(noise.fetch(np.arange(count)), jax.random.key(1))
    if config.data.binarise != "none":
        batch["image"] = jnp.where(batch["image"] > 0, 1.0, -1.0)
    return {name: x for name, x in batch.items() if name != "pair"}


def system_of(config, batch: Any, num_classes: int):
    """The system for such batches."""
    shapes = {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in batch.items()}
    return systems.module_of(config).build(config, Spec(shapes, num_classes))


def told(case: System):
    """What else PyTorch's side is told of the case: the preset's settings, and shapes of what a batch holds."""
    shapes = jax.eval_shape(lambda: make_batch(case))
    settings = dataclasses.asdict(config_of(case))
    return {"settings": settings, "batch": {name: list(x.shape) for name, x in shapes.items()}}


def first_step(case: System):
    """The step that is the first one: of players that grow, one in which they are whole; after schedules of a loss."""
    config = config_of(case)
    if case.name == "dvae":
        return max(config.temperature_steps, config.beta_steps)
    if case.name != "progan":
        return 0
    last = len(progan.stages_of(case.image_size)) - 1
    return config.begins(last) + config.phases()[0]


def make(case: System):
    """The step, the state that it starts from and its batch."""
    batch = make_batch(case)
    system = system_of(config_of(case), batch, case.num_classes)
    return system.train_step, system.init(jax.random.key(0)).replace(step=jnp.int32(first_step(case))), batch


def networks_of(state):
    """Those that are trained."""
    return {name: one for name, one in vars(state).items() if isinstance(one, network.Network)}


def numbers_of(metrics):
    """Losses, and each of their parts, penalties and terms that PyTorch's side has, too."""
    numbers = {name.replace("/", "_"): float(metrics[name]) for name in LOSSES if name in metrics}
    for name, x in metrics.items():
        player, _, term = name.rpartition("/")
        if player == "penalty" or term in TERMS:
            numbers[term] = float(x)
    return numbers


# The comparison


class Descent(NamedTuple):
    """A system trained by plain gradient descent: Adam's first step is little more than the gradient's sign."""

    system: Any
    init: Any
    train_step: Any


def descent_of(case: System, batch):
    """It, in float32."""
    config, rate = config_of(dataclasses.replace(case, dtype="float32")), case.check_learning_rate
    system = system_of(config, batch, case.num_classes)
    if system.game is not None:  # whose optimisers may have rates of their own
        descent = optimizers(lambda: optax.sgd(rate))
        return Descent(system, functools.partial(system.game.init, **descent), system.game.train_step(**descent))
    rule = options.Optimizer("sgd", learning_rate=rate, b1=0.0)
    plain = dataclasses.replace(config, **dict.fromkeys(config.optimizers, rule))
    system = system_of(plain, batch, case.num_classes)
    return Descent(system, system.init, system.train_step)


def changed(player, share):
    """The player with weights and running variances that have moved, and spectral vectors near their singular ones."""
    leaves, structure = jax.tree.flatten(player.params)
    generator = np.random.default_rng(1)

    def moved(x):
        x = np.asarray(x)
        size = np.sqrt(np.mean(np.square(x))) or 0.1
        return jnp.asarray(x + share * size * generator.normal(size=x.shape), x.dtype)

    player = near_singular_vectors(player.replace(params=jax.tree.unflatten(structure, map(moved, leaves))))

    def counted(path, x):
        if path[-1].key in COUNTERS:
            return jnp.ones_like(x)
        return CHECK_VARIANCE * x if path[-1].key == "var" else x

    return player.replace(model_state=jax.tree_util.tree_map_with_path(counted, player.model_state))


def outputs_of(case: System, system, state, batch, key):
    """({name: array}, {network: its collections}) of a forward pass of each player; or images out of training.

    Of what makes no images, a classifier, its logits.
    """
    game = system.game
    if game is None and system.translate is None and system.reconstruct is None:
        return {"logits": system.classify(latest(state), batch["image"])}, {}
    if game is None:
        look = functools.partial(system.translate, key=key) if system.translate else system.reconstruct
        return {"images": look(latest(state), batch)}, {}
    part = jax.tree.map(lambda x: x[:: len(x) // case.batch_size], batch)
    told = turns.conditions_of(game.settings.get("condition"), part, state.step, key, case.batch_size)
    latents, real = game.settings["latent_dim"], game.settings.get("real")
    real = part["image"] if real is None else real(part, state.step)
    z = None if latents is None else sharding.draw(jax.random.normal, key, (case.batch_size, latents))
    (images, generated), (logits, judged) = (
        network.apply(module, player.params, player.model_state, *turns.given(x, of_it), key=key)
        for module, player, x, of_it in (
            (game.generator, state.generator, z, told.generator),
            (game.discriminator, state.discriminator, real, told.real),
        )
    )
    outputs = {"images": network.split_output(images)[0], "logits": in_one(network.split_output(logits)[0])}
    return outputs, {"generator": generated, "discriminator": judged}


def in_one(logits):
    """Logits as they are, or of several sizes one after another."""
    leaves = jax.tree.leaves(logits)
    return leaves[0] if len(leaves) == 1 else jnp.concatenate([x.ravel() for x in leaves])


def latest(state):
    """The weights that make images, as the average `state.ema` would have them."""
    own = networks_of(state)
    makes_images = next(iter(own.values()))
    if set(state.ema) <= set(own):
        return {name: own[name].variables for name in state.ema}
    grouped = set(state.ema) == set(makes_images.params)
    return objective.variables_of_group(makes_images) if grouped else makes_images.variables


def reference(case: System, state, batch):
    """The initial weights, everything that a step draws, and what jaxgen makes of it in float32."""
    descent, key = descent_of(case, batch), jax.random.key(2)
    fresh = networks_of(descent.init(jax.random.key(0)))
    moved = {name: one.replace(opt_state=fresh[name].opt_state) for name, one in networks_of(state).items()}
    before = state.replace(**{name: changed(one, case.check_change) for name, one in moved.items()})
    with jax.default_matmul_precision("highest"):
        with recorded() as drawn:
            step = jax.jit(descent.train_step, compiler_options=FAST)
            after, metrics = jax.block_until_ready(step(before, batch, key))
            jax.effects_barrier()
        numbers = in_order(drawn)
        with replayed(numbers):
            look = functools.partial(outputs_of, case, descent.system)
            outputs, collections = jax.jit(look, compiler_options=FAST)(before, batch, key)
    own = networks_of(before)
    moved = before.replace(**{name: own[name].replace(model_state=x) for name, x in collections.items()})
    arrays = {f"draw_{i}": x for i, x in enumerate(numbers)}
    arrays |= {f"batch_{name}": x for name, x in batch.items()}
    arrays |= outputs | {"learning_rate": case.check_learning_rate}
    states = {"initial": state, "before": before, "moved": moved, "after": after}
    networks = {when: in_pieces(networks_of(one)) for when, one in states.items()}
    if getattr(state, "frozen", None) is not None:
        rest = {name: x for name, x in state.frozen.items() if name != "params"}
        networks["frozen"] = {"judge": network.Network(state.frozen["params"], rest, ())}
    return arrays, networks, metrics


def in_pieces(networks):
    """The networks, each row of blocks that one loop runs (`LOOPS`, with their weights stacked) taken apart."""

    def apart(tree):
        if not isinstance(tree, dict):
            return tree
        return {
            name: {str(i): jax.tree.map(lambda x, i=i: x[i], own) for i in range(len(jax.tree.leaves(own)[0]))}
            if name.startswith(LOOPS)
            else apart(own)
            for name, own in tree.items()
        }

    return {name: one.replace(params=apart(one.params)) for name, one in networks.items()}
