"""A run of two players as a game: its networks, the batch of its next step, and the vector field that moves it."""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax

from jaxgen import building, checkpoint, configuration, data, gan, loading, options, run_directory, turns
from jaxgen.local_path import local
from jaxgen.stability import oracles, spectrum
from jaxgen.stability.games import Field, Players
from jaxgen.system import System

OwnSystem = System | ModuleType
"""What reads a run that is not of one of ours: the system it was trained with, or the module that builds it."""


class Opened(NamedTuple):
    """A run of two players, without its checkpoints and data."""

    system: System
    config: options.Run | None  # None: of a system that was not made from a preset
    stored: Mapping[str, Any]  # RUN/config.json

    @property
    def game(self) -> gan.Game:
        """The players with all settings."""
        assert self.system.game is not None  # `open_run` refuses others
        return self.system.game

    @property
    def num_steps(self) -> int:
        """Of the run, over which its schedules fall."""
        return self.stored["num_steps"]

    @property
    def images_per_update(self) -> int:
        """In the batch of each of the discriminator's updates."""
        return self.system.images_per_step // num_discriminator_steps(self.game)


class GameRun(NamedTuple):
    """A checkpoint of such a run with what its next train step would see."""

    opened: Opened
    state: gan.GANState
    batch: dict[str, jax.Array]  # of the next step
    key: jax.Array  # for the train step
    field: Field  # of the game on that batch

    @property
    def system(self) -> System:
        """As it was trained, optimisers, clips and the order of the players included; in single precision."""
        return self.opened.system

    @property
    def game(self) -> gan.Game:
        """The players with all settings."""
        return self.opened.game

    @property
    def players(self) -> Players:
        """The parameters of both."""
        return Players(self.state.generator.params, self.state.discriminator.params)


def open_run(directory: str | os.PathLike, *, system: OwnSystem | None = None, **changes: Any) -> Opened:
    """Builds the system of a run of two players; reads neither checkpoints nor data.

    Args:
      directory: of the run.
      system: of a run that is not of one of ours.
      changes: settings to build it with instead of its own, such as `precision="float32"`. A system that is given whole
        is what it is.

    Raises:
      ValueError: for a run of anything but two players; for settings of another version.
      RunDirectoryError: if the directory is no run.
      systems.NotInstalled: for a run of a user's own system that is not given.
    """
    stored, config = run_directory.load_config(directory), None
    if not isinstance(system, System):
        try:
            config = dataclasses.replace(configuration.from_dict(stored, system), **changes)
            system = building.build_system(config, configuration.spec_of(stored)[0])
        except ValueError as error:
            error.add_note(f"The run is {directory}")
            raise
    if system.game is None:
        raise ValueError(
            f"{directory} is a run of the system {system.name!r}, which is no game: the stability laboratory needs a "
            "two-player system, a generator against a discriminator"
        )
    _check_stored(stored, directory)
    return Opened(system, config, stored)


def _check_stored(stored, directory):
    """Raises a ValueError unless a run says what its data were, from which seed it came, and how long it was to be."""
    wrong = [name for name in ("seed", "num_steps") if type(stored.get(name)) is not int or stored[name] < 0]
    if not isinstance(stored.get("images"), Mapping):
        wrong.append("images")
    if wrong:
        raise ValueError(
            f"{directory}/{run_directory.CONFIG} does not say {' and '.join(wrong)}, as train wrote it: it is damaged, "
            "or of another program; restore it from a copy"
        )


def open_data(opened: Opened, directory: str | os.PathLike, dataset: data.Dataset | None = None) -> data.Dataset:
    """What a run was trained on.

    Args:
      opened: the run.
      directory: of the run, for messages.
      dataset: its data, which a run that was not made from a preset does not name.

    Raises:
      ValueError: for a run whose data nobody names.
    """
    if dataset is None:
        if opened.config is None:
            raise ValueError(
                f"{directory} does not say where its data are, being of a system of your own: give dataset="
            )
        dataset = opened.config.open("train")
    if dataset.fingerprint != opened.stored["images"].get("data_fingerprint"):
        warnings.warn(f"the data of {directory} have changed since it was trained", stacklevel=3)
    return dataset


def load_game(
    directory: str | os.PathLike,
    *,
    step: int | None = None,
    batch_size: int | None = None,
    system: OwnSystem | None = None,
    dataset: data.Dataset | None = None,
) -> GameRun:
    """Reads a checkpoint of a run of two players and the batch of its next step; computes in single precision.

    Args:
      directory: of the run.
      step: of the checkpoint; the newest good one by default.
      batch_size: images for each of the discriminator's updates instead of the run's own number; other images, then.
      system: of a run that is not of one of ours. A whole `System` computes in the precision that it has.
      dataset: the data of a run that was trained on a dataset of a user's own.

    Raises:
      ValueError: for a run of anything but two players, a batch size below 1 or of a system that was given whole;
        before anything is read.
      RunDirectoryError, checkpoint.CheckpointError and others: what reading the run and its data raises.
    """
    # Half precision would drown all but the outermost eigenvalues; parameters are float32 in any case.
    changes = {"precision": "float32"} | ({} if batch_size is None else {"batch_size": batch_size})
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, not {batch_size}")
    opened = open_run(directory, system=system, **changes)
    if batch_size is not None and opened.config is None:
        raise ValueError(
            f"the batch size of a system of your own is the system's: it takes {opened.system.images_per_step} images"
        )
    try:
        state = loading.load(Path(directory), step=step, system=system).state
    except checkpoint.CheckpointDamaged as error:
        others = [str(other) for other in checkpoint.all_steps(Path(directory) / "checkpoints") if other != step]
        if step is not None:
            error.add_note(f"Bring back a copy of it, or take another step: {', '.join(others) or 'there is none'}")
        raise
    dataset = open_data(opened, directory, dataset)
    indices = data.batch_rows(
        dataset, int(state.step), batch_size=opened.system.images_per_step, seed=opened.stored["seed"]
    )
    # The keys of `experiment.train` and `dispatch.make_one_step`, in this order.
    data_key, key = jax.random.split(jax.random.fold_in(jax.random.key(opened.stored["seed"]), 3))
    batch = dict(dataset.prepare(dataset.fetch(indices), jax.random.fold_in(data_key, state.step)))
    return GameRun(opened, state, batch, key, spectrum.field_of_game(opened.game, state, batch, key))


def inputs_of(run: GameRun) -> tuple[tuple, tuple]:
    """What the generator and the discriminator are given, as positional arguments: latents, images, and conditions.

    Latents are of the run's distribution, and the discriminator's are real images with what it is told beside them;
    for what needs shapes, or some inputs.
    """
    settings, batch = run.game.settings, run.batch
    key = jax.random.fold_in(run.key, run.state.step)
    make_real = settings.get("real")
    real = batch["image"] if make_real is None else make_real(batch, run.state.step)
    told = turns.conditions_of(settings.get("condition"), batch, run.state.step, key, len(real))
    z = None
    if settings["latent_dim"] is not None:
        z = settings.get("sample_latent", jax.random.normal)(key, (len(real), settings["latent_dim"]))
    return turns.given(z, told.generator), turns.given(real, told.real)


def num_discriminator_steps(game: gan.Game) -> int:
    """The discriminator's updates for each of the generator's."""
    return game.settings.get("num_discriminator_steps", 1)


def update_rule_of(game: gan.Game) -> str:
    """What the rule is called that joins the players' moves."""
    rule = game.settings.get("update_rule", gan.alternating)
    named = [name for name, known in options.UPDATE_RULES.items() if known is rule]
    return named[0] if named else getattr(rule, "__name__", "a rule of your own")


def moving_steps(directory: str | os.PathLike, *, system: OwnSystem | None = None) -> list[int]:
    """The checkpoints of a run at which its schedules leave a rate above 0, and a train step moves; the newest last.

    Empty where there is none: at the end of a cosine or linear schedule nothing moves any more; and where nobody knows
    the schedules, of optimisers that are no `options.Optimizer`.
    """
    opened = open_run(directory, system=system)
    steps = checkpoint.all_steps(local(directory, "the run") / "checkpoints")
    return [step for step in steps if any(learning_rates(opened, step) or ())]


def moving_step(directory: str | os.PathLike, *, system: OwnSystem | None = None) -> int | None:
    """The newest of `moving_steps`; None where there is none."""
    return max(moving_steps(directory, system=system), default=None)


def load_newest(
    directory: str | os.PathLike,
    steps: Sequence[int],
    *,
    batch_size: int | None = None,
    system: OwnSystem | None = None,
) -> GameRun:
    """The newest of these checkpoints that is not damaged, as `load_game` reads it; warns of those that are.

    Args:
      directory: of the run.
      steps: of checkpoints, in increasing order; the newest good one of all if empty.
      batch_size, system: as for `load_game`.

    Raises:
      checkpoint.CheckpointDamaged: if all are.
      ValueError, RunDirectoryError and others: as `load_game`.
    """
    for place in range(len(steps) - 1, 0, -1):
        try:
            return load_game(directory, step=steps[place], batch_size=batch_size, system=system)
        except checkpoint.CheckpointDamaged as error:
            warnings.warn(f"{error}. Trying step {steps[place - 1]} instead.", stacklevel=2)
    return load_game(directory, step=steps[0] if steps else None, batch_size=batch_size, system=system)


def peak_rates(game: gan.Game) -> Players | None:
    """Both learning rates at the top of their schedules; None where nobody knows them."""
    return None if game.players is None else Players(*(player.learning_rate for player in game.players))


def learning_rates(opened: Opened, step: int) -> Players | None:
    """Where both schedules stand at a step, skipped updates not counted; None where nobody knows them."""
    if opened.game.players is None:
        return None
    theirs, ours = opened.game.players
    k = num_discriminator_steps(opened.game)
    return Players(float(theirs.rate(opened.num_steps)(step)), float(ours.rate(opened.num_steps * k)(step * k)))


def own_rule(run: GameRun) -> tuple[str, Any, Any] | None:
    """The run's optimisers as a rule of `oracles`, if they are one: plain descent, momentum, or Adam.

    Returns:
      (name, rates for `spectrum.ritz_values` in units of the discriminator's learning rate, z -> |factor|), or None
      where the two optimisers differ in more than their rates, or are others, or the players neither alternate nor move
      at once. They count as simultaneous otherwise, and clips and schedules as absent. Adam's second moments are held.
    """
    if run.game.players is None or update_rule_of(run.game) not in ("alternating", "simultaneous"):
        return None
    theirs, ours = run.game.players
    ratio = theirs.learning_rate / ours.learning_rate
    if (theirs.name, theirs.b1) != (ours.name, ours.b1):
        return None
    if ours.name == "sgd":
        name = f"gradient descent, momentum {ours.b1:g}"
        return name, Players(ratio, 1.0), lambda z: oracles.heavy_ball_factor(z, ours.b1)
    if ours.name in ("adam", "adamw"):
        rates = Players(
            spectrum.adam_rates(run.state.generator.opt_state, b2=theirs.b2, eps=theirs.eps, learning_rate=ratio),
            spectrum.adam_rates(run.state.discriminator.opt_state, b2=ours.b2, eps=ours.eps),
        )
        return f"Adam, b1 = {ours.b1:g}, moments held", rates, lambda z: spectrum.adam_factor(z, ours.b1)
    return None
