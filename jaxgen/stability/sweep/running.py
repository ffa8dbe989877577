"""All members of a sweep, advanced together, record after record, with checkpoints."""

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import checkpoint, console
from jaxgen.local_path import local
from jaxgen.stability.sweep import resuming
from jaxgen.stability.sweep.layout import layout_of
from jaxgen.stability.sweep.memory import MemoryCheck
from jaxgen.stability.sweep.program import Data, Program
from jaxgen.stability.sweep.result import Result
from jaxgen.stability.sweep.settings import Named, Settings, checked
from jaxgen.stability.sweep.steps import Member, advance, key_of, one_batch
from jaxgen.stability.sweep.summary import num_largest_of, summarize


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
    settings = checked(settings)
    if program.check is not None:
        program.check(settings)
    _check_lengths(num_steps, num_records, block_size)
    num = len(settings["seed"])
    devices = list(jax.devices() if devices is None else devices)[:num]
    if block_size is None:
        block_size = num if devices[0].platform != "cpu" else 1 if len(devices) > 1 else 4
    layout = layout_of(num, block_size, devices)
    num_largest = num_largest_of(num_steps)
    chunk = num_steps // num_records
    memory_check = MemoryCheck(num, devices, memory, layout)

    def init(settings):
        settings = Named(settings)
        state = program.init(settings, key_of(seed, settings))
        metrics = jax.eval_shape(lambda: program.step(settings, state, one_batch(data), key_of(seed, settings))[1])
        if wrong := [name for name, value in metrics.items() if jnp.shape(value)]:
            raise ValueError(f"metrics of a step are scalars, but {', '.join(wrong)} is not: take a mean")
        return Member(
            state=state,
            first_bad_step=jnp.full((), -1, jnp.int32),
            clipped={name: jnp.zeros(()) for name in metrics if name.split("/")[-1] == "clipped"},
            largest={name: jnp.zeros(num_largest) for name in metrics if name.split("/")[-1] == "grad_norm"},
        )

    advance_one = functools.partial(advance, program, data, seed, num_steps)
    rows = jax.tree.map(layout.place, settings)
    memory_check.check_states(init, settings)
    compiled_init = jax.jit(layout.over_members(lambda settings, _: init(settings)))
    compiled_advance = jax.jit(
        layout.over_members(lambda inputs, shared: advance_one(inputs[0], inputs[1], *shared)), donate_argnums=()
    )

    history: dict[str, np.ndarray] = {}
    begun, seconds, manager = 0, 0.0, None
    fingerprint = resuming.fingerprint_of(program, settings, num_steps, num_records, seed)
    try:
        if directory is not None:
            manager = checkpoint.open_checkpoints(directory / "checkpoints", keep_last=2)
            resuming.check_same_sweep(manager, fingerprint, directory)
        arrays = jax.tree.map(layout.replicate, data.arrays)
        if manager is not None and checkpoint.all_steps(manager):
            shapes = jax.eval_shape(jax.vmap(init), settings)
            names = resuming.record_types(advance_one, shapes, settings, data, chunk)
            found, step = resuming.restore(manager, shapes, names, num_records)
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
                memory_check.check_program(program_compiled)
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
                place = (
                    f"step {(index + 1) * chunk:,}/{num_steps:,}{f', {console.in_words(left)} left' if left else ''}"
                )
                print(f"{place}: {finite} of {num} finite", file=sys.stderr)
            if manager is not None and ((index + 1) % every == 0 or index + 1 == num_records):
                state = resuming.state_of(jax.tree.map(layout.take, members), history, seconds)
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


def _bar(progress, num, num_records, begun):
    from tqdm import tqdm

    return tqdm(
        total=num_records, initial=begun, disable=None if progress else True, desc=f"{num} members", unit="record"
    )
