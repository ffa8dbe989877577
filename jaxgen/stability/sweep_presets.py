"""Sweeps by name, for the command line: what is trained, over which settings, for how long."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from jaxgen import data, evaluation, gan, opening, vae
from jaxgen.data import toy
from jaxgen.metrics.sliced_wasserstein import sliced_wasserstein_distance
from jaxgen.models import dcgan, mlp
from jaxgen.options import UPDATE_RULES, Optimizer
from jaxgen.stability import games, members, runs, sweep, sweep_report

OPTIMIZERS = {"adam": members.adam, "sgd": members.sgd}
RING_STD = 0.05


@dataclasses.dataclass(frozen=True)
class Preset:
    """A sweep that only waits for its numbers.

    axes: setting -> values; the members are all combinations, for each seed.
    program: (optimizer, update rule or None) -> Program.
    data: (batch size) -> Data.
    draw: (state, key, n) -> images, for a picture and metrics; None for points.
    drawing: how it draws, in words, for the protocol of metrics.
    real: 16 real images, for the picture.
    held_out: what drawn images are compared with; None: nothing but the score compares them.
    scale: what scores mean.
    origin: of a run: its own settings, in words.
    """

    axes: Mapping[str, Sequence[float]]
    program: Callable[[str | None, str | None], sweep.Program]
    data: Callable[[int], sweep.Data]
    seeds: int
    num_steps: int
    num_records: int
    batch_size: int
    draw: Callable[[Any, jax.Array, int], jax.Array] | None = None
    drawing: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"latents": "standard normal"})
    real: Any = None
    held_out: Callable[[], opening.Images] | None = None
    block_size: int | None = None
    scale: sweep_report.Scale = sweep_report.Scale()
    origin: str = ""


def _rule(update):
    if update is not None and update not in UPDATE_RULES:
        raise ValueError(
            f"GANs cannot use {update}: it is for games with a closed form (see `dirac`); GANs have "
            f"{', '.join(UPDATE_RULES)}, and optimistic steps by an optimiser of yours in the library"
        )
    return UPDATE_RULES[update or "alternating"]


def ring() -> Preset:
    """The ring of eight: clip norm, R1 and two rates, as in the atlas, for SGD."""
    return _points(toy.ring, toy.ring_modes(), RING_STD, 32, {"r1": (0.0, 0.1, 1.0), "clip": (0.1, 1.0, float("inf"))})


def grid() -> Preset:
    """The grid of 25."""
    return _points(toy.grid, toy.grid_modes(), 0.05, 64, {"r1": (0.0, 0.1), "clip": (1.0, float("inf"))})


def _points(draw, centres, std, width, axes):
    generator, discriminator = mlp.Generator(widths=(width, width)), mlp.Discriminator(widths=(width, width))
    score = members.mode_score(generator, 8, centres, std)
    return Preset(
        axes={"generator_rate": (0.03, 0.1), "discriminator_rate": (0.03, 0.1)} | axes,
        program=lambda optimizer, update: members.gan(
            generator,
            discriminator,
            latent_dim=8,
            optimizer=OPTIMIZERS[optimizer or "sgd"],
            update_rule=_rule(update),
            score=score,
            name=f"points, {len(centres)} modes, {width}, {optimizer or 'sgd'}, {update or 'alternating'}",
        ),
        data=lambda batch_size: sweep.stream(lambda key: draw(key, batch_size, std=std)),
        seeds=3,
        num_steps=4000,
        num_records=40,
        batch_size=64,
    )


def mnist_gan() -> Preset:
    """Sixteen small DCGANs on MNIST: two rates and a clip norm."""
    generator = dcgan.Generator(image_size=28, channels=1, features=8)
    discriminator = dcgan.Discriminator(features=8)
    dataset = data.mnist()

    def program(optimizer, update):
        real = members.images_of(dataset, 256)
        return members.gan(
            generator,
            discriminator,
            latent_dim=64,
            optimizer=OPTIMIZERS[optimizer or "adam"],
            update_rule=_rule(update),
            score=members.sliced_wasserstein_score(generator, 64, real),
            name=f"mnist gan, {optimizer or 'adam'}, {update or 'alternating'}",
        )

    return Preset(
        axes={
            "generator_rate": (4e-4, 1.6e-3),
            "discriminator_rate": (1e-4, 4e-4, 1.6e-3, 6.4e-3),
            "clip": (0.3, float("inf")),
        },
        program=program,
        data=lambda batch_size: sweep.of_dataset(dataset, batch_size),
        seeds=1,
        num_steps=2000,
        num_records=10,
        batch_size=64,
        draw=lambda state, key, n: gan.sample(generator, state.generator.variables, jax.random.normal(key, (n, 64))),
        real=members.images_of(dataset, 16),
        held_out=_test_digits,
        block_size=1 if jax.default_backend() == "cpu" else None,  # batched convolutions are slow on CPU
    )


def mnist_vae() -> Preset:
    """The 200-200 VAE of Burda et al. on binarised MNIST: rate, clip norm and beta."""
    encoder, decoder = mlp.Encoder(50), mlp.BernoulliDecoder((28, 28, 1))
    dataset = data.mnist(binarise=data.binarisation.dynamic)

    def program(optimizer, update):
        if update is not None:
            raise ValueError(f"a VAE has one network and cannot use the update {update}")
        test = data.mnist("test", binarise=data.binarisation.threshold)
        score = members.elbo_score(encoder, decoder, {"image": members.images_of(test, 1000)})
        return members.vae(
            encoder,
            decoder,
            image_shape=(28, 28, 1),
            optimizer=OPTIMIZERS[optimizer or "adam"],
            score=score,
            name=f"mnist vae, {optimizer or 'adam'}",
        )

    return Preset(
        axes={
            "learning_rate": (3e-4, 1e-3, 3e-3),
            "clip": (10.0, float("inf")),
            "beta": (1.0, 2.0),
            "momentum": (0.9,),
        },
        program=program,
        data=lambda batch_size: sweep.of_dataset(dataset, batch_size),
        seeds=1,
        num_steps=2000,
        num_records=10,
        batch_size=100,
        draw=lambda state, key, n: vae.sample(decoder, state.ema, jax.random.normal(key, (n, 50))),
        real=members.images_of(data.mnist(), 16),
        held_out=_test_digits,
    )


def of_run(directory: Path, *, system: runs.OwnSystem | None = None, dataset: data.Dataset | None = None) -> Preset:
    """The two players of a run directory, trained anew at other rates and clip norms: which rates do they bear?

    Everything is the run's (networks, data, batches, loss, terms, optimisers, order of the players), but for the
    schedules: all rates are constant. Of what draws, the score is minus the sliced Wasserstein distance to real images;
    half way from that of real images to that of an untrained network, a member has failed. Of what makes images of
    sources, it is the number by which its system calls a checkpoint the best, of 64 held-out images; no better than an
    untrained network, a member has failed.

    Args:
      directory: of the run.
      system: of a run that is not of one of ours.
      dataset: the data of a run that was trained on a dataset of a user's own.

    Raises:
      ValueError: for a run of anything but two players, or data that do not fit on the device; for sources without a
        true image.
      MissingCapability: for players that make no images.
    """
    opened = runs.open_run(directory, system=system)
    dataset = runs.open_data(opened, directory, dataset)
    game, config, players = opened.game, opened.config, opened.game.players
    if players is not None and any(player.skip_norm is not None for player in players):
        warnings.warn(f"{directory} skips large updates; its sweep does not", stacklevel=2)
    looked_at = _translated if opened.system.draw is None and opened.system.translate else _drawn
    looks = looked_at(opened, dataset, directory)
    digest = evaluation.config_digest(opened.stored if config is None else config)

    def program(optimizer, update):
        if optimizer is None and players is None:
            raise ValueError(
                f"the optimisers of {directory} are optax objects, which do not tell their rates: give "
                "--generator-rate, --discriminator-rate, and --optimizer adam or sgd"
            )
        own = None if players is None else [functools.partial(_own_optimizer, player) for player in players]
        changes = {} if update is None else {"update_rule": _rule(update)}
        return members.of_game(
            game._replace(settings={**game.settings, **changes}),
            optimizer=OPTIMIZERS[optimizer] if optimizer else games.Players(*own),
            score=looks.score,
            name=f"{digest[:16]}, {optimizer or 'its own'}, {update or 'its own'}",
        )

    names = [getattr(penalty, "__name__", "") for penalty in game.settings.get("penalties", ())]
    weight = getattr(config, "r1", None)
    return Preset(
        axes=_own_axes(players) | ({"r1": (weight,)} if "r1" in names and weight is not None else {}),
        program=program,
        data=lambda batch_size: sweep.of_dataset(dataset, batch_size * runs.num_discriminator_steps(game)),
        seeds=1,
        num_steps=500,
        num_records=10,
        batch_size=opened.images_per_update,
        draw=looks.draw,
        drawing={name: how for name, how in opened.system.protocol.items() if name in ("latents", "labels")}
        | dict(looks.labels),
        real=looks.real,
        held_out=looks.held_out,
        block_size=1 if jax.default_backend() == "cpu" else None,
        scale=looks.scale,
        origin=f"The run itself: {opened.num_steps:,} steps, {_own_settings(players)}.",
    )


class _Looks(NamedTuple):
    """How the members of a run's sweep are judged: as in `Preset`."""

    score: Callable
    scale: sweep_report.Scale
    draw: Callable
    real: Any
    held_out: Callable[[], opening.Images] | None
    labels: Mapping[str, str] = MappingProxyType({})


def quality_scale(score: Callable, untrained: Any, real: jax.Array) -> sweep_report.Scale:
    """What the score of drawn images means, `members.distance_score` from the first half of some real ones.

    Args:
      score: (settings, state, key) -> dict with `score`.
      untrained: the state that is 0 %; below half of the way to real images is a failure.
      real: of which the other half is 100 %.
    """
    num, key = len(real) // 2, jax.random.key(0)
    of_untrained = float(score({}, untrained, key)["score"])
    of_real = -float(sliced_wasserstein_distance(real[:num], real[num : 2 * num], key, num_projections=256))
    return sweep_report.Scale(of_untrained, of_real, (of_real + of_untrained) / 2)


def _drawn(opened, dataset, directory) -> _Looks:
    draw_of = opened.system.need("draw", f"a sweep of {directory}")
    real = members.images_of(dataset, 512)
    num = len(real) // 2
    if num < 2:
        raise ValueError(f"{dataset.name} has {dataset.num_examples} images, too few for a score")

    label = data.labels.of_some(dataset, 10_000, opened.system.choices.get("label", 0), jax.random.key(0))

    def draw(state, key, n):
        told = {} if label is None else {"label": jax.random.choice(jax.random.fold_in(key, 7), label, (n,))}
        return draw_of(opened.system.variables(state), key, n, **told)  # the average of a sweep is the latest weights

    score = members.distance_score(draw, real[:num])
    scale = quality_scale(score, opened.game.init(jax.random.key(0)), real)
    labels = {} if label is None else {"labels": opening.AS_TRAINED}
    return _Looks(score, scale, draw, real[:16], lambda: _held_out(opened, directory), labels)


def _translated(opened, dataset, directory) -> _Looks:
    system, measure = opened.system, opened.system.measure
    if measure is None or measure.best is None or opened.config is None:
        raise ValueError(f"a sweep of {directory} has no score: nothing says what its sources should become")
    held_out = opened.config.wrap(_held_out(opened, directory).dataset, "test")
    batch, key = members.batch_of(held_out, 64), jax.random.key(0)
    score = members.measured_score(measure, batch, system.variables, key)

    def draw(state, key, n):
        few = jax.tree.map(lambda x: x[:n], batch)
        return system.translate(system.variables(state), few, key)

    untrained = float(jax.jit(score)({}, opened.game.init(key), key)["score"])
    return _Looks(score, sweep_report.Scale(failed_below=untrained), draw, batch["image"][:16], None)


def _own_axes(players):
    """Rates around a run's own, with a clip and without."""
    if players is None:
        return {"clip": (1.0, float("inf"))}
    theirs, ours = players
    norms = {norm for norm in (theirs.clip_norm, ours.clip_norm) if norm is not None} or {1.0}
    return {
        "generator_rate": (theirs.learning_rate,),
        "discriminator_rate": tuple(float(f"{ours.learning_rate * factor:.12g}") for factor in (1, 4, 16, 64)),
        "clip": (*sorted(norms), float("inf")),
    }


def _own_settings(players):
    """A run's optimisers in words."""
    if players is None:
        return "optimisers of its own"
    return ", ".join(
        f"{name} {player.name} at {player.learning_rate:g} ({player.schedule}), "
        + ("no clip" if player.clip_norm is None else f"clip {player.clip_norm:g}")
        for name, player in zip(games.Players._fields, players, strict=True)
    )


def _own_optimizer(own: Optimizer, rate, momentum):
    """A run's optimiser at a traced rate, and a traced momentum where one is swept."""
    if momentum is None:
        return own.rule(rate)
    if own.name == "sgd":
        return members.sgd(rate, momentum)
    if own.name == "rmsprop":
        raise ValueError("the run's optimiser is rmsprop, whose momentum cannot be swept")
    return dataclasses.replace(own, b1=momentum).rule(rate)


def _held_out(opened, directory):
    if opened.config is None:
        raise ValueError(f"{directory} names no held-out images to be compared with, being of a system of your own")
    return opening.open_test_split(opened.config.data, str(directory))


def _test_digits():
    return opening.Images(data.mnist("test"), "mnist", "test")


PRESETS = {"ring": ring, "grid": grid, "mnist-gan": mnist_gan, "mnist-vae": mnist_vae}
