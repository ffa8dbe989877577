"""The one training loop: data, steps, metrics, samples, checkpoints, preemption. Any family, any number of devices.

Several train steps run in one dispatch, as a compiled loop whose trip count is an argument: one program, whatever the
number, so that a run stopped and resumed anywhere computes the same bits as one that never stopped. The host looks at a
dispatch two behind the newest; the device never waits for it.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen import checkpoint, console, data, dispatch, health, images, report, run_directory, sharding, stop_signals
from jaxgen.local_path import local

SECONDS_BETWEEN_REPORTS = 60.0
LONG_STRIP = 6  # images in a group, from which on each group has a row of the picture for itself


class NonFiniteLoss(RuntimeError):
    """A loss, an update or the state became NaN or infinite; the message says where, and names the last checkpoint."""


class Result(NamedTuple):
    """How a run ended."""

    state: Any
    step: int
    stopped_by: int | None  # the signal's number, or None for a finished run
    evaluation: dict[str, float]  # of the last state, if the loop evaluates


# The loop -------------------------------------------------------------------------------------------------------------


def train(
    train_step: Callable,
    state: Any,
    dataset: data.Dataset,
    *,
    directory: str | Path,
    num_steps: int,
    batch_size: int,
    key: jax.Array,
    config: Mapping[str, Any] | None = None,
    may_change: Sequence[str] = (),
    upgrade: Callable[[Mapping], Mapping] = dict,
    facts: Mapping[str, Any] | None = None,
    seed: int = 0,
    num_devices: int | None = None,
    log_every: int = 100,
    sample_every: int = 1000,
    evaluate_every: int = 1000,
    checkpoint_every: int = 1000,
    keep_last: int = 3,
    sample: Callable[[Any], Mapping[str, jax.Array]] | None = None,
    evaluate: Callable[[Any], Mapping[str, float]] | None = None,
    best_metric: str | None = None,
    best_mode: str = "max",
    max_rollbacks: int = 0,
    tensorboard: bool = True,
    progress: bool = True,
) -> Result:
    """Trains until `num_steps`, from the newest good checkpoint in the run directory if it holds one.

    Args:
      train_step: `(state, batch, key) -> (state, metrics)`, not compiled, in the global view.
      state: a fresh state with a `step`; also the template for restoring.
      dataset: batches are addressed by their step, so the step is all that a resumed run needs to know.
      directory: the run directory. Metrics, samples, checkpoints and report go there.
      num_steps: where to stop, counted from the run's beginning.
      batch_size: images a step, over all devices and hosts.
      key: the run's constant key.
      config, may_change, upgrade: for `run_directory.hold`, called once the first batch has proved good, so that a
        mistake leaves no directory behind. Without a config the directory must be there.
      facts: what the run is of, for its report: `system`, `can`, `parameters`.
      seed: of the data order.
      num_devices: how many devices to use; all by default.
      log_every: steps between lines of the log; each holds means over the steps since the line before (of this
        process: the first line after a resume tells of the steps since the resume).
      sample_every, evaluate_every, checkpoint_every: steps between these; 0 for only at the end.
      keep_last: how many of the newest checkpoints to keep, beside the best.
      sample: `state -> {name: images [N, H, W, C]}`, always of the same latents; each a PNG and a TensorBoard image.
        Of [N, K, H, W, C] the K images of each group are drawn as one.
      evaluate: `state -> numbers`, logged under `eval/`; a checkpoint follows.
      best_metric: name of the number (as in the log) by which the best checkpoint is kept.
      best_mode: "max" or "min".
      max_rollbacks: how often in the run's life to go back to the last checkpoint (or the beginning), with fresh noise
        and another data order, when a loss is not finite; 0 stops the run.
      tensorboard: whether to write TensorBoard events.
      progress: whether to show a progress bar (on a terminal) or each line of the log in short (elsewhere).

    Returns:
      The end of the run. After SIGINT (Ctrl-C) or SIGTERM the state has been saved first; a second signal ends at once.
      Of a run that had finished before: its state as it was saved.

    Raises:
      ValueError: for no steps, intervals below zero, a batch that the devices cannot share, a run beyond `num_steps`,
        or a `best_metric` that is not evaluated.
      NonFiniteLoss: see there.
      run_directory.ConfigMismatch: if the run began with another configuration.
      run_directory.RunLocked: if another process trains there.
      checkpoint.CheckpointError, OSError: with what went wrong, where, and what to do.
    """
    _check_numbers(
        num_steps=num_steps,
        batch_size=batch_size,
        log_every=log_every,
        sample_every=sample_every,
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
        max_rollbacks=max_rollbacks,
    )
    if best_metric is not None and evaluate is None:
        raise ValueError(f"best_metric is {best_metric!r}, but nothing evaluates; give evaluate, too")
    mesh = sharding.make_mesh(num_devices)
    sharding.check_divisible(batch_size, mesh.size)
    directory, primary = local(directory, "the run directory"), jax.process_index() == 0
    train_step = _traced_once(train_step)
    plan = _Plan(num_steps, log_every, sample_every, evaluate_every, checkpoint_every, sample, evaluate, best_metric)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_telling_of_lost_hosts())
        with _on_all_hosts(mesh):
            metric_names = _check_first_batch(train_step, dataset, batch_size, seed, state, key, mesh)
            _check_pictures(sample, state, dataset)
        with _on_all_hosts(mesh):  # only now: a mistake on any host leaves no directory behind
            hold = run_directory.hold(directory, config, may_change=may_change, upgrade=upgrade, is_primary=primary)
            stack.enter_context(hold)
            if primary:
                _describe_data(directory, dataset, seed)
                if facts is not None:
                    run_directory.write_facts(directory, facts)
        manager = checkpoint.open_checkpoints(
            directory / "checkpoints", keep_last=keep_last, best_metric=best_metric, best_mode=best_mode
        )
        record_status = _status_recorder(directory, primary)
        stack.enter_context(_failures_told(record_status))
        stack.callback(checkpoint.close, manager)
        stop = stack.enter_context(stop_signals.listen(mesh))
        not_finite = functools.partial(health.not_finite, mesh, fresh=state)
        run = _Run(plan, directory, manager, stop, record_status, primary, not_finite)
        rollbacks = 0
        while True:
            current, record = _restore_or_start(manager, mesh, state)
            step, rollbacks = int(current.step), max(rollbacks, record["metadata"].get("rollbacks", 0))
            if step > num_steps:
                raise ValueError(f"{directory} is at step {step} already, beyond num_steps {num_steps}")
            if step == num_steps:
                if progress and primary:
                    print(f"{directory} is finished already, at step {step}", file=sys.stderr)
                run.record_status("finished", step, _doubts(run, dataset))
                return Result(current, step, None, record["metrics"])
            try:
                with (
                    run_directory.open_metrics(
                        directory, resume_step=step, tensorboard=tensorboard, is_primary=primary
                    ) as log,
                    console.Display(num_steps, step, mesh, directory, show=progress and primary) as display,
                    dispatch.dispatcher(
                        train_step,
                        dataset,
                        mesh,
                        batch_size=batch_size,
                        key=jax.random.fold_in(key, rollbacks) if rollbacks else key,
                        seed=seed + rollbacks,
                        start_step=step,
                        metric_names=metric_names,
                    ) as (take_steps, most),
                ):
                    attempt = _Attempt(rollbacks, take_steps, console.Pace(mesh, batch_size, most), log, display)
                    result = _train_on(run, attempt, current, step)
                checkpoint.wait(manager)
            except _WentWrong as bad:
                checkpoint.wait(manager)
                message = _describe(bad, directory, checkpoint.latest_step(manager))
                if rollbacks >= max_rollbacks:
                    run.record_status("non-finite", bad.step, message)
                    raise NonFiniteLoss(message) from None
                rollbacks += 1
                warnings.warn(f"{message} Going back ({rollbacks} of {max_rollbacks} times).", stacklevel=2)
            else:
                if result.stopped_by is not None:
                    run.record_status("stopped", result.step)
                    return result
                if message := _doubts(run, dataset):
                    warnings.warn(message, stacklevel=2)
                run.record_status("finished", result.step, message)
                return result


def make_evaluate(
    eval_step: Callable,
    summarize: Callable,
    dataset: data.Dataset,
    *,
    key: jax.Array,
    batch_size: int = 250,
    mesh: jax.sharding.Mesh | None = None,
    variables: Callable[[Any], Any] = lambda state: state.ema,
) -> Callable[[Any], dict[str, float]]:
    """Builds `evaluate(state) -> numbers` over every example of a data set, once each, in order.

    Args:
      eval_step: `(variables, batch, key) -> dict of arrays [B, ...]`, one row for each image, from a family.
      summarize: `dict of arrays [N, ...] -> numbers`, from the same family.
      dataset: the split to evaluate on.
      key: of binarisation and latents; the same at every call, so that two calls differ by the state alone.
      batch_size: images at once, over all devices. Where they cannot share it equally, copies of the last image fill it
        up and do not count: any number of devices gives the same numbers, up to rounding.
      mesh: whose devices share each batch, from `sharding.make_mesh`; all devices by default.
      variables: state -> what `eval_step` takes.

    Returns:
      A function of a state.
    """
    mesh = sharding.make_mesh() if mesh is None else mesh
    batch_size = min(batch_size, dataset.num_examples)

    def numbers_of(variables, raw, key):
        data_key, eval_key = jax.random.split(key)
        return eval_step(variables, dataset.prepare(raw, data_key), eval_key)

    run = sharding.jit_global(numbers_of, mesh, batch_axes=(None, 0, None))

    def evaluate(state) -> dict[str, float]:
        local, rows = sharding.as_replicated(mesh, variables(state)), []
        for i, (raw, num_valid) in enumerate(data.sequential_batches(dataset, batch_size)):
            per_image = run(local, sharding.divide(mesh, raw), jax.random.fold_in(key, i))
            if not sharding.can_run_ahead(mesh):
                jax.block_until_ready(per_image)
            rows.append((num_valid, per_image))
        rows = [jax.tree.map(lambda x, n=num_valid: np.asarray(x)[:n], per_image) for num_valid, per_image in rows]
        return summarize({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})

    return evaluate


# What the loop is made of --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What there is to do beside the steps of a run, and when."""

    num_steps: int
    log_every: int
    sample_every: int
    evaluate_every: int
    checkpoint_every: int
    sample: Callable | None
    evaluate: Callable | None
    best_metric: str | None

    def next_line(self, step: int) -> int:
        """The first step after this one with a line of the log."""
        return min(_next_multiple(step, self.log_every), self.num_steps)

    def next_pause(self, step: int) -> int:
        """The first step after this one at which the steps pause for samples, an evaluation or a checkpoint."""
        every = [
            self.checkpoint_every,
            self.sample_every if self.sample else 0,
            self.evaluate_every if self.evaluate else 0,
        ]
        return min([self.num_steps, *(_next_multiple(step, number) for number in every if number)])

    def is_due(self, step: int, every: int) -> bool:
        return step == self.num_steps or (every > 0 and step % every == 0)


def _next_multiple(step: int, every: int) -> int:
    return (step // every + 1) * every


class _Run(NamedTuple):
    """What all attempts at a run share."""

    plan: _Plan
    directory: Path
    manager: Any  # of the checkpoints
    stop: stop_signals.Stop
    record_status: Callable
    primary: bool
    not_finite: Callable  # state -> which of its arrays are not finite, in words


class _Attempt(NamedTuple):
    """What belongs to one attempt: from a restored state to the end, a signal, or a step that went wrong."""

    rollbacks: int  # before it
    take_steps: Callable  # of dispatch.dispatcher
    pace: console.Pace
    log: run_directory.MetricsWriter
    display: console.Display


class _InFlight(NamedTuple):
    """A dispatch that the device may still be working on."""

    step: int  # finished steps after it
    count: int  # its own steps
    tally: dispatch.Tally
    is_line: bool  # whether its tally makes a line of the log
    stop: Any  # of Stop.ask


def _train_on(run: _Run, attempt: _Attempt, state: Any, step: int) -> Result:
    """Trains on to the end or a signal, and saves.

    Raises:
      _WentWrong: for a step that did.
      ValueError: for a `best_metric` that is not evaluated, after its checkpoint; for steps that do not count.
    """
    plan, metadata = run.plan, {"rollbacks": attempt.rollbacks}
    run.record_status("running", step)
    saved_step, tally, evaluation = step, None, {}
    while step < plan.num_steps and not run.stop.number:
        state, tally, step = _advance(run, attempt, state, tally, step)
        if int(state.step) != step:
            raise ValueError(
                f"after {step} train steps the state's step is {int(state.step)}: train_step must return a state whose "
                "step is one larger than that of the state it was given, as in state.replace(step=state.step + 1)"
            )
        evaluates = plan.evaluate is not None and plan.is_due(step, plan.evaluate_every)
        saves = evaluates or plan.is_due(step, plan.checkpoint_every)
        if saves:
            _check_state(run, state, step)
        if plan.sample is not None and plan.is_due(step, plan.sample_every):
            _write_samples(run, attempt.log, step, plan.sample(state))
        evaluation = _evaluation(plan, attempt, state, step) if evaluates else {}
        if evaluation or plan.is_due(step, plan.checkpoint_every):
            checkpoint.save(run.manager, step, checkpoint.without_frozen(state), metrics=evaluation, metadata=metadata)
            run.record_status("running", step)
            saved_step = step
        if evaluation and plan.best_metric is not None and plan.best_metric not in evaluation:
            raise ValueError(f"best_metric is {plan.best_metric!r}, but evaluated are: {', '.join(evaluation)}")
    if saved_step < step:  # a signal came between two checkpoints
        _check_state(run, state, step)
        checkpoint.save(run.manager, step, checkpoint.without_frozen(state), metadata=metadata)
    return Result(state, step, run.stop.number if step < plan.num_steps else None, evaluation)


def _advance(
    run: _Run, attempt: _Attempt, state: Any, tally: dispatch.Tally | None, step: int
) -> tuple[Any, dispatch.Tally | None, int]:
    """Takes steps up to the next pause, or to wherever a signal finds it. Nothing is in flight at the end.

    Args and Returns: the state, the sums since the last line of the log (None just after one), and the finished steps.
    """
    pace, until, queue = attempt.pace, run.plan.next_pause(step), collections.deque()
    pace.resume()
    while queue or (step < until and not run.stop.number):
        if step < until and not run.stop.number:
            line = run.plan.next_line(step)
            count = min(pace.steps_per_dispatch(), until - step, line - step)
            state, tally = attempt.take_steps(state, tally, step, count)
            if not pace.run_ahead:
                jax.block_until_ready(tally)
            step += count
            queue.append(_InFlight(step, count, tally, step == line, run.stop.ask()))
            tally = None if step == line else tally
            if len(queue) <= pace.run_ahead:
                continue
        _finish(run, attempt, queue.popleft())
    return state, tally, step


def _finish(run: _Run, attempt: _Attempt, in_flight: _InFlight) -> None:
    """Waits for a dispatch, while the next ones are queued on the device, and looks at what it did."""
    if (bad_step := int(in_flight.tally.bad_step)) >= 0:
        raise _WentWrong(bad_step, jax.device_get(in_flight.tally.bad_metrics))
    attempt.pace.finished(in_flight.count)
    run.stop.hear(in_flight.stop)
    if in_flight.is_line:
        means = dispatch.means(in_flight.tally) | attempt.pace.images_per_second()
        attempt.log.write(in_flight.step, means)
        attempt.display.show(in_flight.step, means)
    else:
        attempt.display.show(in_flight.step)


def _check_state(run: _Run, state: Any, step: int) -> None:
    """Raises `_WentWrong` for a state that is not finite: it would look like a good checkpoint, and be none.

    Moments of an optimiser may be infinite while losses and updates are finite. Nothing is in flight.
    """
    if names := run.not_finite(state):
        raise _WentWrong(step, {}, names)


def _evaluation(plan: _Plan, attempt: _Attempt, state: Any, step: int) -> dict[str, float]:
    """The numbers of a state, logged and shown."""
    evaluation = {f"eval/{name}": float(value) for name, value in plan.evaluate(state).items()}
    attempt.log.write(step, evaluation)
    attempt.display.tell(step, evaluation)
    return evaluation


class _WentWrong(Exception):
    """Raised where the host learns that a step went wrong."""

    def __init__(self, step: int, metrics: Mapping[str, Any], arrays: str = ""):
        super().__init__(step)
        self.step, self.metrics = step, {name: float(value) for name, value in metrics.items()}
        self.arrays = arrays  # of the state, that are not finite, in words


def _describe(bad: _WentWrong, directory: Path, last_good: int | None) -> str:
    numbers = ", ".join(f"{name} {value:g}" for name, value in bad.metrics.items())
    where = f"The last good checkpoint is {directory / 'checkpoints' / str(last_good)}."
    if last_good is None:
        where = f"There is no checkpoint yet in {directory}."
    what = f"The step after step {bad.step} went wrong, a loss or an update is not finite: {numbers}."
    if bad.arrays:
        what = f"After step {bad.step} the state is not finite, and was not saved: {bad.arrays}."
    return (
        f"{what} {where} With max_rollbacks above 0 the same run goes back and on with fresh noise; a smaller learning "
        "rate, clip_norm or skip_norm is for a new run."
    )


def _check_numbers(**numbers: int) -> None:
    for name, number in numbers.items():
        least = 1 if name in ("num_steps", "batch_size", "log_every") else 0
        if number < least:
            hint = "; 0 stands for only at the end" if name.endswith("_every") and least == 0 else ""
            raise ValueError(f"{name} must be at least {least}, not {number}{hint}")


def _traced_once(train_step: Callable) -> Callable:
    """The step, remembering its trace, which the check of the first batch makes, for as long as this training lasts.

    A new function, so that another training traces anew what may have changed meanwhile, as in a notebook.
    """

    def step(state, batch, key):
        return train_step(state, batch, key)

    return jax.jit(step, inline=True)


def _check_first_batch(
    train_step: Callable, dataset: data.Dataset, batch_size: int, seed: int, state: Any, key: jax.Array, mesh
) -> list[str]:
    """Looks at this host's part of the first batch: wrong ranges and NaN train without an error, and badly.

    Returns the names of the metrics, for which nothing is run or compiled.
    """
    rows = data.batch_indices(0, batch_size=batch_size, num_examples=dataset.num_examples, seed=seed)
    raw = dataset.fetch(data.process_slice(rows, jax.process_index(), jax.process_count()))
    batch = dataset.prepare(raw, key)
    data.check_batch(batch, image_shape=dataset.image_shape)
    known = dataset.prepare is data.prepare_default and np.asarray(raw["image"]).dtype == np.uint8
    if not known and (doubt := data.check.doubt_of_range(np.asarray(batch["image"], np.float32))):
        warnings.warn(f"{dataset.name}: the first batch has {doubt}", stacklevel=3)

    def metrics_of(state, raw, key):
        return train_step(state, dataset.prepare(raw, key), key)[1]

    whole = {name: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype) for name, x in raw.items()}
    arguments = sharding.replicated_shapes(mesh, (state, whole, key))
    traced = sharding.jit_global(metrics_of, mesh, batch_axes=(None, None, None), may_be_kept=False)
    shapes = traced.eval_shape(*arguments)
    for name, shape in shapes.items():
        if shape.shape:
            raise ValueError(f"the metric {name!r} has shape {shape.shape}; a train step returns scalars")
    return list(shapes)


def _check_pictures(sample: Callable | None, state: Any, dataset: data.Dataset) -> None:
    """Refuses pictures that are neither grey nor colour now, where their shapes can be told without drawing."""
    if sample is None or dataset.image_shape[2] in (1, 3):
        return
    shapes = {}
    with contextlib.suppress(Exception):  # a function that cannot be traced
        shapes = {name: shown.shape for name, shown in jax.eval_shape(sample, state).items()}
    data.check.check_pictures(shapes)


@contextlib.contextmanager
def _on_all_hosts(mesh) -> Iterator[None]:
    """What fails on one host fails on all, which would otherwise wait for it."""
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    if jax.process_count() > 1:
        failed = int(sharding.max_over_hosts(mesh, np.int32(error is not None)))
        if failed and error is None:
            raise RuntimeError("another host could not start; it says why")
    if error is not None:
        raise error


@contextlib.contextmanager
def _telling_of_lost_hosts() -> Iterator[None]:
    """Adds to errors of the devices what most of them mean on several hosts."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() > 1:
            error.add_note(
                "On several hosts this means most often that another one has died or stopped: look at what it printed, "
                "then start all of them again; they go on from the last checkpoint."
            )
        raise


def _restore_or_start(manager, mesh, fresh: Any) -> tuple[Any, dict[str, Any]]:
    """The newest good checkpoint, or a copy of the fresh state: the first step takes the memory of what it is given."""
    if checkpoint.latest_step(manager) is None:
        return sharding.replicate(mesh, fresh), {"metadata": {}, "metrics": {}}
    shapes = sharding.replicated_shapes(mesh, checkpoint.without_frozen(fresh))
    state, record = checkpoint.restore(manager, shapes)
    frozen = getattr(fresh, "frozen", None)
    return checkpoint.with_frozen(state, None if frozen is None else sharding.replicate(mesh, frozen)), record


def _write_samples(run: _Run, log, step: int, samples: Mapping[str, jax.Array]) -> None:
    if run.primary:
        for name, shown in samples.items():
            picture = _picture(np.asarray(shown))
            file = f"{step:08d}.png" if name == "samples" else f"{name}_{step:08d}.png"
            images.save_png(run.directory / "samples" / file, picture)
            log.write_image(step, name, picture)


def _picture(shown: np.ndarray) -> np.ndarray:
    """A grid of images; of groups of images, each group a strip without gaps, on grey so that white ones show, too."""
    if shown.ndim == 4:
        return images.grid(shown, upscale=None)
    n, k, height, width, channels = shown.shape
    strips = shown.transpose(0, 2, 1, 3, 4).reshape(n, height, k * width, channels)
    columns = 1 if k >= LONG_STRIP else math.ceil(math.sqrt(n / k))
    return images.grid(strips, columns=columns, padding=images.STRIP_PADDING, background=0.6, upscale=None)


def _describe_data(directory: Path, dataset: data.Dataset, seed: int) -> None:
    """RUN/data.json and RUN/real.png: what the report tells of the data; 64 images of the run's order, or fewer."""
    facts = {
        "name": dataset.name,
        "num_examples": dataset.num_examples,
        "image_shape": dataset.image_shape,
        "class_names": dataset.class_names,
    }
    run_directory.write_atomically(directory / run_directory.DATA, (json.dumps(facts, indent=2) + "\n").encode())
    height, width, channels = dataset.image_shape
    if channels in (1, 3):  # others are no pictures
        num = min(64, max(9, 2**18 // (height * width)), dataset.num_examples)
        rows = data.batch_indices(0, batch_size=num, num_examples=dataset.num_examples, seed=seed)
        real = dataset.prepare(dataset.fetch(rows), jax.random.key(seed))["image"]
        images.save_png(directory / run_directory.REAL, images.grid(np.asarray(real), upscale=None))


def _doubts(run: _Run, dataset: data.Dataset) -> str:
    """What the log of a finished run gives to think of, in a sentence."""
    records = []
    with contextlib.suppress(OSError, ValueError):  # a log that cannot be read is no reason to fail at the end
        records = run_directory.read_metrics(run.directory) if run.primary else []
    return health.doubts(records, dataset.image_shape)


@contextlib.contextmanager
def _failures_told(record_status: Callable) -> Iterator[None]:
    """Records that a run which was going failed, and why; where not even that can be written, nothing."""
    try:
        yield
    except BaseException as error:
        if record_status.last is not None and record_status.last[0] == "running":
            message = str(error) or f"it was ended at once ({type(error).__name__})"
            with contextlib.suppress(OSError):
                record_status("failed", record_status.last[1], message)
        raise


def _status_recorder(directory: Path, primary: bool) -> Callable:
    """`(status, step, message="")`: writes RUN/status.json, and the report now and then and at the end.

    Its `last` is the last status and step, or None.
    """
    last_report = time.monotonic()

    def record_status(status: str, step: int, message: str = "") -> None:
        nonlocal last_report
        record_status.last = (status, step)
        run_directory.write_status(directory, status, step=step, message=message, is_primary=primary)
        if primary and (status != "running" or time.monotonic() - last_report > SECONDS_BETWEEN_REPORTS):
            try:
                report.write(directory)
            except Exception as error:  # a picture of the run is never worth the run
                warnings.warn(f"the report could not be written: {error}", stacklevel=2)
            last_report = time.monotonic()

    record_status.last = None
    return record_status
