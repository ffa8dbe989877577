"""Hundreds of settings in one compiled program: sweeps, and what they say about a setting.

A sweep advances many *members* at once. A member is a row of `settings`: arrays of one number for each member, among
them `seed`. What a member does is a `Program`, three pure functions of its settings; `jaxgen.stability.members` makes
programs of GANs, VAEs and games.

    settings = sweep.product({"r1": [0.0, 0.1, 1.0]}, {"generator_clip": [0.1, 1.0, math.inf]}, {"seed": range(4)},
                             {"generator_rate": [0.1], "discriminator_rate": [0.1]})
    program = members.gan(generator, discriminator, latent_dim=8, optimizer=members.sgd, score=...)
    result = sweep.run(program, sweep.stream(lambda key: toy.ring(key, 64)), settings, num_steps=8000)
    sweep.write(result, "ring")

All members see the same data, and members of one seed the same initial networks and latents: settings are compared in
pairs. A member whose numbers stop being finite is frozen where it last was finite, and changes nothing for the others.
"""

import csv
import functools
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxgen import checkpoint, console, files
from jaxgen.arguments import short
from jaxgen.data.batches import batch_rows
from jaxgen.data.dataset import Dataset
from jaxgen.local_path import local
from jaxgen.memory import free, in_words
from jaxgen.stability import trajectories

Settings = Mapping[str, Any]
AXIS = "members"


class Program(NamedTuple):
    """What a member does: pure functions of its settings, a dict of traced scalars.

    Attributes:
      name: of the kind of program; a sweep is resumed by the same kind only.
      init: (settings, key) -> state. The key is the sweep's, with the member's seed folded in.
      step: (settings, state, batch, key) -> (state, metrics), a dict of scalars. The key is constant: fold a step
        counter into it. Metrics that end in `grad_norm` get a tail index, those that end in `clipped` a share.
      score: (settings, state, key) -> dict of scalars with `score`, of which more is better; None for none.
      radius: (settings, state) -> a distance whose growth law is asked for; None for none.
      check: settings (of all members, on the host) -> None, or a ValueError.
    """

    name: str
    init: Callable
    step: Callable
    score: Callable | None = None
    radius: Callable | None = None
    check: Callable | None = None

    def __repr__(self) -> str:
        return short(self)


class Data(NamedTuple):
    """The batches of a sweep, shared by all its members.

    arrays: a pytree that stays on the device.
    inputs: (first step, number of steps) -> arrays with that number as their leading axis, on the host.
    batch: (arrays, inputs of one step) -> batch; traced.
    """

    arrays: Any
    inputs: Callable[[int, int], Any]
    batch: Callable[[Any, Any], Any]


def stream(draw: Callable[[jax.Array], jax.Array], seed: int = 0) -> Data:
    """Data drawn on the fly: `draw(key) -> x` with a key for each step, as the batch `{"image": x}`."""

    def batch(_, step):
        return {"image": draw(jax.random.fold_in(jax.random.key(seed), step))}

    return Data((), lambda first, number: np.arange(first, first + number, dtype=np.int32), batch)


def of_dataset(dataset: Dataset, batch_size: int, seed: int = 0) -> Data:
    """Batches of a data set that fits on the device, in the order in which `loop.train` reads it.

    Raises:
      ValueError: for a data set that is read from files.
    """
    if dataset.arrays is None:
        raise ValueError(f"{dataset.name} is too large for the device; a sweep needs a data set with arrays")

    def inputs(first, number):
        rows = [batch_rows(dataset, step, batch_size=batch_size, seed=seed) for step in range(first, first + number)]
        return np.stack(rows), np.arange(first, first + number, dtype=np.int32)

    def batch(arrays, inputs):
        rows, step = inputs
        return dataset.prepare(dataset.gather(arrays, rows), jax.random.fold_in(jax.random.key(seed), step))

    return Data(dict(dataset.arrays), inputs, batch)


NO_DATA = Data((), lambda first, number: np.arange(first, first + number, dtype=np.int32), lambda arrays, step: step)
"""For games that have none: the batch is the number of the step."""


# ------------------------------------------------------------------------------------------------------------- settings


def product(*axes: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """All combinations of several axes, the last one changing fastest.

    Args:
      axes: each a dict of one or more lists of one length, which change together: `{"generator_rate": [0.1, 0.2],
        "discriminator_rate": [0.4, 0.2]}` is one axis of two points.

    Returns:
      name -> [N], where N is the product of the lengths.

    Raises:
      ValueError: for an axis that is empty or of lists of different lengths, or a name in two axes.
      MemoryError: for more members than memory has room for the settings of.

    >>> {name: column.tolist() for name, column in product({"r1": [0, 1]}, {"seed": [0, 1]}).items()}
    {'r1': [0, 0, 1, 1], 'seed': [0, 1, 0, 1]}
    """
    lengths: list[int] = []
    names: list[str] = []
    for axis in axes:
        length = {name: len(values) for name, values in axis.items()}
        if not length or min(length.values()) == 0:
            raise ValueError(f"an axis of the grid is empty: {', '.join(axis) or 'no name at all'}")
        if len(set(length.values())) > 1:
            raise ValueError(
                "the lists of one axis change together and must have one length, but "
                + ", ".join(f"{name} has {number}" for name, number in length.items())
            )
        lengths.append(next(iter(length.values())))
        names += axis
    if not axes:
        raise ValueError("the grid is empty: give at least one axis, such as {'seed': range(4)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"in two axes of the grid: {', '.join(twice)}")
    try:
        index = np.indices(lengths).reshape(len(lengths), -1)
        return {
            name: np.asarray(values)[rows]
            for axis, rows in zip(axes, index, strict=True)
            for name, values in axis.items()
        }
    except MemoryError as error:
        raise MemoryError(
            f"a grid of {math.prod(lengths):,} members: not even their settings fit into memory. Run it in parts"
        ) from error


def check_numbers(settings: Settings) -> None:
    """Raises a ValueError for numbers that no family can use, judged by the last part of their names.

    `..rate` above 0; `..clip` above 0, infinity for none; `..momentum` in (-1, 1); `seed` a whole number, at least 0;
    all others finite, and `r1`, `r2`, `gradient_penalty`, `beta`, `..weight` and `loss/..` at least 0.
    """
    for name, values in settings.items():
        values = np.asarray(values)
        last = name.replace("/", "_").split("_")[-1]
        if last == "rate":
            good, rule = np.isfinite(values) & (values > 0), "must be above 0 and finite"
        elif last == "clip":
            good, rule = values > 0, "is a norm to clip at and must be above 0, infinity for no clip"
        elif last == "momentum":
            good, rule = np.abs(values) < 1, "must be between -1 and 1"
        elif name == "seed":
            good, rule = (values >= 0) & (values == np.floor(values)), "must be a whole number, at least 0"
        elif name in ("r1", "r2", "gradient_penalty", "beta") or last == "weight" or name.startswith("loss/"):
            good, rule = np.isfinite(values) & (values >= 0), "must be at least 0 and finite"
        else:
            good, rule = np.isfinite(values), "must be finite"
        if not np.all(good):
            bad = int(np.argmin(good))
            raise ValueError(f"{name} {rule}, but is {values[bad]:g} for member {bad}")


class _Named(dict):
    """Settings as a program sees them: one that is not there is told by name."""

    def __missing__(self, name):
        raise ValueError(f"the program asks for the setting {name!r}, but the sweep has {', '.join(sorted(self))}")


def _checked(settings):
    if not settings:
        raise ValueError("a sweep without settings has no members; see sweep.product")
    settings = {name: np.asarray(values) for name, values in settings.items()}
    for name, values in settings.items():
        if values.ndim != 1 or values.dtype.kind not in "biuf":
            raise ValueError(
                f"settings are numbers, one for each member, but {name} is {values.dtype} {list(values.shape)}"
            )
    lengths = {name: len(values) for name, values in settings.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "settings have one number for each member, but their numbers differ: "
            + ", ".join(f"{name} {number}" for name, number in lengths.items())
        )
    num = next(iter(lengths.values()))
    if num == 0:
        raise ValueError("the sweep has no members: the settings are empty")
    settings.setdefault("seed", np.zeros(num, np.int32))
    check_numbers(settings)
    settings["seed"] = settings["seed"].astype(np.int32)
    return settings


# -------------------------------------------------------------------------------------------------------------- running


class Result(NamedTuple):
    """What a sweep found. NumPy arrays; N members, R records at equal intervals.

    Attributes:
      settings: name -> [N].
      table: name -> [N]: the settings and, for each member, what `summarize` says.
      steps: [R], the number of steps at each record.
      history: metrics (means over the steps since the record before, NaN once frozen), `score..` and `radius` (at the
        record): name -> [N, R].
      states: the last finite state of each member, leaves [N, ...].
      seconds: of computation, those of a resumed sweep added up; compilation left out.
    """

    settings: dict[str, np.ndarray]
    table: dict[str, np.ndarray]
    steps: np.ndarray
    history: dict[str, np.ndarray]
    states: Any
    seconds: float


@flax.struct.dataclass
class _Member:
    state: Any
    first_bad_step: jax.Array  # int32, -1 as long as everything is finite
    clipped: dict[str, jax.Array]  # sums
    largest: dict[str, jax.Array]  # of the gradient norms of the second half, in falling order


def run(
    program: Program,
    data: Data,
    settings: Settings,
    *,
    num_steps: int,
    num_records: int = 50,
    seed: int = 0,
    block_size: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    directory: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
    progress: bool = False,
    memory: int | None = None,
    on_record: Callable[[int, dict], None] | None = None,
) -> Result:
    """Advances all members by `num_steps` steps and sums up what became of each.

    Args:
      program: what a member does.
      data: what all members see.
      settings: name -> [N]; `seed` is 0 if it is not there.
      num_steps: a multiple of `num_records`.
      num_records: R. At least 32 for a growth law.
      seed: of the sweep. A member's initialisation and noise come from this and its own seed.
      block_size: how many members a device advances at once. One block after the other runs through all steps up to
        the next record, so a block of small networks stays in a processor's cache. By default all members on an
        accelerator, where that is fastest, and on CPU 1 with several devices and 4 with one. Convolutions on CPU are
        slow in blocks of more than 1. Block sizes agree up to rounding.
      devices: to divide the members over; all by default. `JAX_NUM_CPU_DEVICES=2` makes two of two cores.
      directory: keeps checkpoints there, and resumes from the newest. A sweep that was killed and resumed ends with the
        same bits as one that was not.
      checkpoint_every: records between checkpoints; a tenth of all by default.
      progress: whether to show a bar, or a line for each tenth where there is no terminal.
      memory: bytes that may be used on each device; what is free by default.
      on_record: called with the number of steps and the record, name -> [N], after each.

    Returns:
      A `Result`.

    Raises:
      ValueError: for settings that cannot be, before anything is compiled; for a sweep of which the directory holds
        another one.
      TypeError: for a program or data that are none.
      MemoryError: for more members than fit, with what would fit.
    """
    if not isinstance(program, Program):
        raise TypeError(f"program is a sweep.Program, from members.gan for example, not {type(program).__name__}")
    if not isinstance(data, Data):
        raise TypeError(
            f"data is what sweep.stream, sweep.of_dataset or sweep.NO_DATA gives, not {type(data).__name__}"
        )
    directory = None if directory is None else local(directory, "the directory of checkpoints")
    settings = _checked(settings)
    if program.check is not None:
        program.check(settings)
    _check_lengths(num_steps, num_records, block_size)
    num = len(settings["seed"])
    devices = list(jax.devices() if devices is None else devices)[:num]
    if block_size is None:
        block_size = num if devices[0].platform != "cpu" else 1 if len(devices) > 1 else 4
    layout = _layout(num, block_size, devices)
    num_largest = _num_largest(num_steps)
    chunk = num_steps // num_records
    tell = _Tell(num, devices, memory, layout)

    def init(settings):
        settings = _Named(settings)
        state = program.init(settings, _key(seed, settings))
        metrics = jax.eval_shape(lambda: program.step(settings, state, _one_batch(data), _key(seed, settings))[1])
        if wrong := [name for name, value in metrics.items() if jnp.shape(value)]:
            raise ValueError(f"metrics of a step are scalars, but {', '.join(wrong)} is not: take a mean")
        return _Member(
            state=state,
            first_bad_step=jnp.full((), -1, jnp.int32),
            clipped={name: jnp.zeros(()) for name in metrics if name.split("/")[-1] == "clipped"},
            largest={name: jnp.zeros(num_largest) for name in metrics if name.split("/")[-1] == "grad_norm"},
        )

    advance_one = functools.partial(_advance, program, data, seed, num_steps)
    rows = jax.tree.map(layout.place, settings)
    tell.check_states(init, settings)
    compiled_init = jax.jit(layout.over_members(lambda settings, _: init(settings)))
    compiled_advance = jax.jit(
        layout.over_members(lambda inputs, shared: advance_one(inputs[0], inputs[1], *shared)), donate_argnums=()
    )

    history: dict[str, np.ndarray] = {}
    begun, seconds, manager = 0, 0.0, None
    fingerprint = _fingerprint(program, settings, num_steps, num_records, seed)
    try:
        if directory is not None:
            manager = checkpoint.open_checkpoints(directory / "checkpoints", keep_last=2)
            _check_same_sweep(manager, fingerprint, directory)
        arrays = jax.tree.map(layout.replicate, data.arrays)
        if manager is not None and checkpoint.all_steps(manager):
            shapes = jax.eval_shape(jax.vmap(init), settings)
            names = _record_shapes(advance_one, shapes, settings, data, chunk)
            found, step = _restore(manager, shapes, names, num_records)
            history, begun, seconds = found["history"], step // chunk, float(found["seconds"])
            members = jax.tree.map(layout.place, found["members"])
        else:
            members = compiled_init(rows, ())
        every = max(1, num_records // 10) if checkpoint_every is None else checkpoint_every
        bar = _bar(progress, num, num_records, begun)
        program_compiled = None
        for index in range(begun, num_records):
            inputs = jax.tree.map(layout.replicate, data.inputs(index * chunk, chunk))
            shared = (arrays, inputs, layout.replicate(np.asarray(index * chunk, np.int32)))
            if program_compiled is None:
                program_compiled = compiled_advance.lower((rows, members), shared).compile()
                tell.check_program(program_compiled)
            start = time.perf_counter()
            members, record = program_compiled((rows, members), shared)
            record = {name: layout.take(values) for name, values in record.items()}
            seconds += time.perf_counter() - start
            if not history:
                history = {name: np.full((num, num_records), np.nan, x.dtype) for name, x in record.items()}
            for name, values in record.items():
                history[name][:, index] = values
            bar.update(1)
            finite = int(np.sum(layout.take(members.first_bad_step) < 0))
            bar.set_postfix_str(f"{finite} finite", refresh=False)
            told = index == begun or (index + 1) % max(1, num_records // 10) == 0  # at first, for the time it will take
            if progress and bar.disable and told:  # no terminal: lines instead
                left = seconds / (index + 1) * (num_records - index - 1)
                step = f"step {(index + 1) * chunk:,}/{num_steps:,}{f', {console.in_words(left)} left' if left else ''}"
                print(f"{step}: {finite} of {num} finite", file=sys.stderr)
            if manager is not None and ((index + 1) % every == 0 or index + 1 == num_records):
                state = _state(jax.tree.map(layout.take, members), history, seconds)
                checkpoint.save(manager, (index + 1) * chunk, state, metadata=fingerprint)
            if on_record is not None:
                on_record((index + 1) * chunk, record)
        bar.close()
        members = jax.tree.map(layout.take, members)
    finally:
        if manager is not None:
            checkpoint.close(manager)
    steps = chunk * np.arange(1, num_records + 1)
    table = dict(settings) | summarize(members, history, steps)
    return Result(dict(settings), table, steps, history, members.state, seconds)


def _check_lengths(num_steps, num_records, block_size):
    if num_steps < 1 or num_records < 1 or num_steps % num_records:
        raise ValueError(
            f"num_steps must be a positive multiple of num_records, but {num_steps} steps are asked for in "
            f"{num_records} records"
        )
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1, not {block_size}")


def _key(seed, settings):
    return jax.random.fold_in(jax.random.key(seed), settings["seed"])


def _one_batch(data):
    return data.batch(data.arrays, jax.tree.map(lambda x: x[0], data.inputs(0, 1)))


def _advance(program, data, seed, num_steps, settings, member, arrays, inputs, first_step):
    """One member, from one record to the next."""
    settings = _Named(settings)
    key = _key(seed, settings)

    def one_step(carry, step_inputs):
        state, first_bad_step, step = carry
        new, metrics = program.step(settings, state, data.batch(arrays, step_inputs), key)
        metrics = {name: jnp.asarray(value) for name, value in metrics.items()}
        alive = first_bad_step < 0
        good = alive & _all_finite((new, metrics))
        state = jax.tree.map(lambda old, new: jnp.where(good, new, old), state, new)
        first_bad_step = jnp.where(alive & ~good, step, first_bad_step)
        metrics = {name: jnp.where(good, value, jnp.nan) for name, value in metrics.items()}
        return (state, first_bad_step, step + 1), metrics

    carry = member.state, member.first_bad_step, first_step
    (state, first_bad_step, _), metrics = lax.scan(one_step, carry, inputs)
    steps = first_step + jnp.arange(len(jax.tree.leaves(inputs)[0]))
    counted = steps >= num_steps // 2
    largest = {}
    for name, values in member.largest.items():
        norms = jnp.where(counted & jnp.isfinite(metrics[name]), metrics[name], 0.0)
        largest[name] = lax.top_k(jnp.concatenate([values, norms.astype(values.dtype)]), len(values))[0]
    clipped = {name: (total + jnp.nansum(metrics[name])).astype(total.dtype) for name, total in member.clipped.items()}
    record = {name: jnp.nanmean(values) for name, values in metrics.items()}
    alive = first_bad_step < 0
    if program.score is not None:
        scores = program.score(settings, state, jax.random.fold_in(key, 1))
        if not isinstance(scores, Mapping) or "score" not in scores:
            found = ", ".join(scores) if isinstance(scores, Mapping) else f"a {type(scores).__name__}"
            raise ValueError(f"a score function returns a dict with 'score' (more is better), not {found}")
        for name, value in scores.items():
            name = name if name == "score" else f"score/{name}"
            record[name] = jnp.where(alive, jnp.asarray(value, jnp.zeros(()).dtype), jnp.nan)
    if program.radius is not None:
        record["radius"] = jnp.where(alive, program.radius(settings, state), jnp.nan)
    return _Member(state, first_bad_step, clipped, largest), record


def _all_finite(tree):
    finite = {}  # shape -> one array for all leaves of that shape: few large operations instead of many small ones
    for x in jax.tree.leaves(tree):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            finite[x.shape] = finite.get(x.shape, True) & jnp.isfinite(x)
    return functools.reduce(jnp.logical_and, [jnp.all(x) for x in finite.values()], jnp.asarray(True))


class _Layout(NamedTuple):
    place: Callable  # host array [N, ...] -> on the devices, filled up by copies of the last row
    take: Callable  # back: [N, ...] on the host
    replicate: Callable  # host array -> on every device
    over_members: Callable  # (row, shared) -> row, to the same of all rows
    block_size: int
    num_rows: int


def _layout(num, block_size, devices):
    per_device = math.ceil(num / len(devices))
    num_blocks = math.ceil(per_device / block_size)
    block_size = math.ceil(per_device / num_blocks)  # no larger than asked for, and no row more than needed
    num_rows = len(devices) * num_blocks * block_size
    mesh = jax.make_mesh((len(devices),), (AXIS,), devices=devices, axis_types=(AxisType.Auto,))
    divided, everywhere = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((AXIS,), ()))

    def over_members(function):
        def of_device(rows, shared):
            if num_blocks == 1:
                return jax.vmap(lambda row: function(row, shared))(rows)
            if block_size == 1:  # no vmap of one: a batched convolution is another, and slower on CPU
                return lax.map(lambda row: function(row, shared), rows)
            return lax.map(lambda row: function(row, shared), rows, batch_size=block_size)

        if len(devices) == 1:
            return of_device
        specs = (PartitionSpec(AXIS), PartitionSpec())
        return jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False)

    def place(x):
        return jax.device_put(np.asarray(x)[np.minimum(np.arange(num_rows), num - 1)], divided)

    return _Layout(
        place=place,
        take=lambda x: np.asarray(x)[:num],
        replicate=lambda x: jax.device_put(x, everywhere),
        over_members=over_members,
        block_size=block_size,
        num_rows=num_rows,
    )


def _bar(progress, num, num_records, begun):
    from tqdm import tqdm

    return tqdm(
        total=num_records, initial=begun, disable=None if progress else True, desc=f"{num} members", unit="record"
    )


# --------------------------------------------------------------------------------------------------------------- memory


class _Tell:
    """Whether a sweep fits, and if not what would."""

    def __init__(self, num, devices, memory, layout):
        self.num, self.num_devices, self.layout = num, len(devices), layout
        self.memory = memory if memory is not None else free(devices)

    def check_states(self, init, settings):
        """Before anything is compiled: two copies of all states must fit."""
        row = {name: jax.ShapeDtypeStruct((), jax.dtypes.canonicalize_dtype(x.dtype)) for name, x in settings.items()}
        self.state = 2 * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(init, row)))
        need = self.state * self.layout.num_rows // self.num_devices
        if self.memory is not None and need > self.memory:
            fit = self.memory // self.state * self.num_devices
            raise MemoryError(
                f"the states of {self.num:,} members need {in_words(need)} on each device, and {in_words(self.memory)} "
                f"are free: up to {fit:,} members fit. Run the sweep in parts, of other seeds for example, or with "
                "smaller networks"
            )

    def check_program(self, compiled):
        analysis = compiled.memory_analysis()
        working = getattr(analysis, "temp_size_in_bytes", 0)
        states = self.state * self.layout.num_rows // self.num_devices
        if self.memory is None or states + working <= self.memory:
            return
        each = max(1, working // self.layout.block_size)
        room = self.memory - states
        if room >= each and self.layout.block_size > 1:
            advice = f"use block_size={max(1, min(self.layout.block_size - 1, room // each))}"
        else:
            fit = max(0, (self.memory - each) // self.state) * self.num_devices
            advice = f"run at most {fit} members at once, with block_size=1, or a smaller batch"
        raise MemoryError(
            f"{self.num} members in blocks of {self.layout.block_size} need {in_words(states + working)} on each "
            f"device, and {in_words(self.memory)} are free: {advice}"
        )


# ------------------------------------------------------------------------------------------------------------- resuming


def _fingerprint(program, settings, num_steps, num_records, seed):
    import hashlib

    digest = hashlib.sha256()
    for name in sorted(settings):
        digest.update(name.encode() + np.asarray(settings[name], np.float64).tobytes())
    return {
        "program": program.name,
        "settings": digest.hexdigest()[:16],
        "members": len(settings["seed"]),
        "num_steps": num_steps,
        "num_records": num_records,
        "seed": seed,
        "precision": str(jnp.zeros(()).dtype),
        "values": {name: " ".join(f"{x:g}" for x in np.unique(settings[name])[:50]) for name in sorted(settings)},
    }


def _check_same_sweep(manager, fingerprint, directory):
    steps = checkpoint.all_steps(manager)
    if not steps:
        return
    found = checkpoint.read_record(manager, steps[-1])["metadata"]
    if "program" not in found:
        raise ValueError(f"{directory} holds checkpoints of something else, a training run perhaps: choose another one")
    differing = [name for name, value in fingerprint.items() if name != "values" and found.get(name) != value]
    if differing:
        theirs, ours = found.get("values", {}), fingerprint["values"]
        if "settings" in differing and theirs.keys() | ours.keys() and theirs != ours:
            found, fingerprint = {**found, **theirs}, {**fingerprint, **ours}
            unlike = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
            differing = [name for name in differing if name not in ("settings", "members")] + unlike
        told = "; ".join(f"{name} {found.get(name)} there, {fingerprint.get(name)} now" for name in differing)
        raise ValueError(f"{directory} holds another sweep ({told}): choose another directory for this one")


def _state(members, history, seconds):
    """What a checkpoint holds."""
    return {"members": members, "history": history, "seconds": np.asarray(seconds, np.float64)}


def _restore(manager, members, names, num_records):
    """(what the newest checkpoint holds, in NumPy and writable; its step), from the shapes of members and records."""
    num = len(members.first_bad_step)
    template = _state(
        jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), members),
        {name: np.zeros((num, num_records), dtype) for name, dtype in names.items()},
        0.0,
    )
    found, record = checkpoint.restore(manager, template)
    return jax.tree.map(np.array, found), record["step"]


def _record_shapes(advance_one, members, settings, data, chunk):
    """The names and types of what is recorded, without computing it."""
    inputs = data.inputs(0, chunk)

    def one(settings, member):
        return advance_one(settings, member, data.arrays, inputs, jnp.zeros((), jnp.int32))[1]

    return {name: x.dtype for name, x in jax.eval_shape(jax.vmap(one), settings, members).items()}


# -------------------------------------------------------------------------------------------------------- summing it up


def _num_largest(num_steps):
    """How many of the largest norms of the second half the tail index reads: 5 %, one for the threshold included."""
    return max(2, min(1 + num_steps // 40, 1000))


def hill_tail_index(largest: np.ndarray) -> np.ndarray:
    """alpha = 1 / mean_i log(x_(i) / x_(k+1)), the exponent of P(X > x) ~ x^-alpha, from the k + 1 largest values.

    Small means heavy tails: below 2 a variance does not exist. Large values (10 and more) are what light tails give.

    Args:
      largest: [..., k + 1], in falling order, positive.

    Returns:
      [...]; NaN where a value is not positive, infinity where all are equal.

    Hill 1975, "A simple general approach to inference about the tail of a distribution".
    """
    largest = np.asarray(largest, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 / np.mean(np.log(largest[..., :-1]) - np.log(largest[..., -1:]), axis=-1)


def summarize(members: _Member, history: Mapping[str, np.ndarray], steps: np.ndarray) -> dict[str, np.ndarray]:
    """What became of each member, name -> [N].

    `finite`; `first_bad_step` (counted from 0, -1 for none); with a score `final_score` (NaN for a member that failed),
    `best_score`, `best_step` and `final_..` for the other numbers of the score; with a radius and 32 records
    `growth_law`; for each metric ending in `clipped` the share of clipped steps, `.._clip_share`; for each ending in
    `grad_norm` `.._tail_index` (Hill, of the largest tenth of the second half's values; NaN for members that failed).
    """
    first_bad = np.asarray(members.first_bad_step)
    finite = first_bad < 0
    table: dict[str, np.ndarray] = {"finite": finite, "first_bad_step": first_bad}
    if "score" in history:
        score = history["score"]
        seen = np.where(np.isfinite(score), score, -np.inf)
        best = np.argmax(seen, axis=1)
        table["final_score"] = score[:, -1]
        table["best_score"] = np.where(np.isfinite(seen.max(axis=1)), seen.max(axis=1), np.nan)
        table["best_step"] = np.where(np.isfinite(seen.max(axis=1)), steps[best], -1)
        for name, values in history.items():
            if name.startswith("score/"):
                table[f"final_{name.removeprefix('score/')}"] = values[:, -1]
    if "radius" in history and len(steps) >= 32:
        with jax.enable_x64(True):
            law = np.asarray(trajectories.growth_law(jnp.asarray(history["radius"], jnp.float64)))
        table["growth_law"] = np.array(trajectories.GROWTH_LAWS)[law]
    num_good = np.where(finite, steps[-1], first_bad)
    for name, total in members.clipped.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            table[f"{_flat(name, 'clipped')}clip_share"] = np.asarray(total, np.float64) / num_good
    for name, largest in members.largest.items():
        index = hill_tail_index(np.asarray(largest))
        table[f"{_flat(name, 'grad_norm')}tail_index"] = np.where(finite, index, np.nan)
    return table


def _flat(name, last):
    return name.removesuffix(last).replace("/", "_")


def failures(table: Mapping[str, np.ndarray], failed_below: float | None, score: str = "final_score") -> np.ndarray:
    """Which members failed, bool [N]: not finite to the end, or a score below a threshold (None: no threshold)."""
    failed = ~np.asarray(table["finite"])
    if score in table:
        values = np.asarray(table[score], np.float64)
        failed = failed | (~np.isfinite(values) if failed_below is None else ~(values >= failed_below))
    return failed


def over_seeds(
    table: Mapping[str, np.ndarray],
    settings: Sequence[str],
    *,
    score: str = "final_score",
    failed_below: float | None = None,
) -> list[dict[str, Any]]:
    """One row for each setting: the spread of a score over its seeds, and how often it fails.

    Args:
      table: of a `Result`.
      settings: the names that tell settings apart; without `seed`.
      score: the column to describe.
      failed_below: a score below this is a failure, too; None: only numbers that are not finite are.

    Returns:
      Dicts with the settings, `seeds` (how many), `median`, `quantile_10`, `quantile_90`, `lowest`, `highest` over the
      members that are finite, `failures`, `failure_probability` and its 95 % interval by Wilson, `failure_low` and
      `failure_high`.
    """
    columns = np.stack([np.asarray(table[name], np.float64) for name in settings if name != "seed"], axis=1)
    rows, members = np.unique(columns, axis=0, return_inverse=True)
    members, all_failed = members.ravel(), failures(table, failed_below, score)
    found = []
    for index, row in enumerate(rows):
        chosen = members == index
        values = np.asarray(table[score], np.float64)[chosen]
        kept = values[np.isfinite(values)]
        failed = all_failed[chosen]
        low, high = wilson_interval(int(failed.sum()), len(failed))
        quantiles = np.quantile(kept, [0.5, 0.1, 0.9, 0.0, 1.0]) if len(kept) else np.full(5, np.nan)
        found.append(
            dict(zip([name for name in settings if name != "seed"], row.tolist(), strict=True))
            | {"seeds": len(failed)}
            | dict(zip(("median", "quantile_10", "quantile_90", "lowest", "highest"), quantiles.tolist(), strict=True))
            | {
                "failures": int(failed.sum()),
                "failure_probability": float(failed.mean()),
                "failure_low": low,
                "failure_high": high,
            }
        )
    return found


def wilson_interval(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The interval for a probability after so many successes, 95 % by default (Wilson 1927)."""
    p, z2 = successes / trials, z * z
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def budget_curve(scores: Sequence[float] | np.ndarray, *, failure_score: float | None = None) -> np.ndarray:
    """E[best of k] for k = 1..n: what a random search of k runs finds on average, unbiased from n runs.

        E[best of k] = sum_i x_(i) C(n - i, k - 1) / C(n, k),    x_(1) >= x_(2) >= ...

    the mean of the largest over all subsets of k of the n scores.

    Args:
      scores: [n], more is better.
      failure_score: what a run counts that is not finite; None refuses such runs.

    Returns:
      [n], which never falls; its last is the largest score.

    Raises:
      ValueError: for no scores, or scores that are not finite without a `failure_score`.

    Dodge et al. 2019, "Show your work", whose estimate draws with replacement; this one does not.
    """
    x = np.asarray(scores, np.float64).ravel()
    if not len(x):
        raise ValueError("a budget curve needs at least one score")
    if failure_score is not None:
        x = np.where(np.isfinite(x), x, failure_score)
    if not np.all(np.isfinite(x)):
        raise ValueError(f"{int(np.sum(~np.isfinite(x)))} scores are not finite: say what a failure counts")
    x, n = np.sort(x)[::-1], len(x)
    curve = np.empty(n)
    for k in range(1, n + 1):
        weight, total = k / n, 0.0  # C(n - 1, k - 1) / C(n, k) for the largest; each next by a ratio
        for i in range(1, n - k + 2):
            total += weight * x[i - 1]
            weight *= (n - i - k + 1) / (n - i) if n > i else 0.0
        curve[k - 1] = total
    return curve


def measure(result: Result, of_member: Callable[[int, Any], Mapping[str, Any]], *, progress: bool = False) -> Result:
    """Adds to the table what no compiled score can hold, an FID for example: computed on the host, once, at the end.

        result = sweep.measure(result, lambda member, state: {"fid": my_fid(state)})
        sweep.over_seeds(result.table, ["clip"], score="fid")

    Args:
      result: of `run`.
      of_member: (row of the table, the member's last state) -> numbers by name. Called for the members that are
        finite to the end; the others get NaN.
      progress: whether to show a bar.

    Returns:
      The result with a column for each name.

    Raises:
      ValueError: for a name that is a column already.
      TypeError: for anything but a dict.
    """
    from tqdm import tqdm

    columns: dict[str, np.ndarray] = {}
    for member in tqdm(np.flatnonzero(result.table["finite"]), "measuring", disable=not progress, unit="member"):
        measured = of_member(int(member), jax.tree.map(lambda x, i=member: x[i], result.states))
        if not isinstance(measured, Mapping):
            raise TypeError(f"of_member returns a dict of numbers, not a {type(measured).__name__}")
        for name, value in measured.items():
            if name in result.table:
                raise ValueError(f"the table has a column {name} already: give what is measured another name")
            columns.setdefault(name, np.full(len(result.table["finite"]), np.nan))[member] = value
    return result._replace(table=result.table | columns)


# -------------------------------------------------------------------------------------------------------------- writing


def write(
    result: Result,
    directory: str | os.PathLike,
    *,
    failed_below: float | None = None,
    facts: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Writes the numbers of a sweep.

    `members.csv` has one row a member, `columns.txt` what its columns mean, and `sweep.json` all numbers: members,
    settings, budget curve, history.

    Args:
      result: of `run`.
      directory: where to.
      failed_below: a final score below this is a failure, besides what is not finite.
      facts: what else belongs into `sweep.json`.

    Returns:
      The paths. What is not finite is empty in the table and null in JSON.
    """
    directory = local(directory, "the directory for results")
    directory.mkdir(parents=True, exist_ok=True)
    result = result._replace(table=result.table | {"failed": failures(result.table, failed_below)})
    names = list(result.table)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in zip(*(result.table[name].tolist() for name in names), strict=True):
        writer.writerow(["" if isinstance(x, float) and math.isnan(x) else x for x in row])
    record: dict[str, Any] = {
        "members": len(result.settings["seed"]),
        "seconds": result.seconds,
        "failed_below": failed_below,
        **(facts or {}),
        "steps": result.steps.tolist(),
        "table": {name: values.tolist() for name, values in result.table.items()},
    }
    if "final_score" in result.table:
        record["settings"] = over_seeds(result.table, list(result.settings), failed_below=failed_below)
        scores = result.table["final_score"]
        worst = np.nanmin(result.history["score"]) if np.isfinite(result.history["score"]).any() else 0.0
        record["failure_score"] = float(worst)
        record["budget_curve"] = budget_curve(scores, failure_score=float(worst)).tolist()
    record["history"] = {name: values.tolist() for name, values in result.history.items()}
    legend = "".join(f"{name}: {_meaning(name, result.settings)}\n" for name in names)
    contents = {
        "members.csv": text.getvalue(),
        "columns.txt": legend,
        "sweep.json": json.dumps(finite_json(record), allow_nan=False),
    }
    for name, content in contents.items():
        files.write_atomically(directory / name, content.encode())
    return [directory / name for name in contents]


MEANINGS = {
    "finite": "whether all numbers were finite to the end",
    "first_bad_step": "the step, from 0, whose numbers were not finite; -1 for none",
    "final_score": "at the end, more is better; empty where numbers were not finite",
    "failed": "not finite to the end, or a final score below failed_below in sweep.json",
    "best_score": "the best of all records",
    "best_step": "the step of that record",
    "growth_law": "of the distance from the equilibrium (games), or of the length of all parameters (networks): decay, "
    "cycle (neither grows nor decays), square-root growth (any slower than exponential), exponential",
}
"""What the columns of a table mean that are not settings; see `summarize`."""


def _meaning(name, settings):
    if name in settings:
        return "a setting of the member"
    if name in MEANINGS:
        return MEANINGS[name]
    if name.endswith("clip_share"):
        return "share of the steps in which the clip shortened this gradient"
    if name.endswith("tail_index"):
        return (
            "Hill's index of this gradient's norms, late in training: small is heavy-tailed, below 2 without a variance"
        )
    if name.startswith("final_"):
        return f"{name.removeprefix('final_')}, beside the score at the end"
    return "measured at the end"


def finite_json(value: Any) -> Any:
    """The same with NumPy values as Python's, and null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(name): finite_json(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
