"""The one training loop: data, steps, metrics, samples, checkpoints, preemption. Any family, any number of devices.

Several train steps run in one dispatch, as a compiled loop whose trip count is an argument: one program, whatever the
number, so that a run stopped and resumed anywhere computes the same bits as one that never stopped. The host looks at a
dispatch two behind the newest; the device never waits for it.
"""

import collections
import contextlib
import functools
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen import checkpoint, data, images, report, run_directory, sharding

MAX_STEPS_PER_DISPATCH = 64
SECONDS_PER_DISPATCH = 0.25  # what a progress bar or Ctrl-C waits for at the most, about
SECONDS_BETWEEN_REPORTS = 60.0
RUN_AHEAD = 2  # dispatches in flight


class NonFiniteLoss(RuntimeError):
    """A loss or an update became NaN or infinite; the message names the step, its metrics and the last checkpoint."""


class Result(NamedTuple):
    """How a run ended."""

    state: Any
    step: int
    stopped_by: int | None  # the signal's number, or None for a finished run
    evaluation: dict[str, float]  # of the last state, if the loop evaluates


@flax.struct.dataclass
class Tally:
    """Metrics summed on the device since the last line of the log, and the first step that went wrong."""

    sums: dict[str, jax.Array]
    count: jax.Array
    bad_step: jax.Array  # -1 as long as all is well
    bad_metrics: dict[str, jax.Array]


def went_wrong(metrics: Mapping[str, jax.Array]) -> jax.Array:
    """Whether a loss, bound or update is not finite, in a player whose update was not skipped: a boolean scalar."""
    wrong = jnp.array(False)
    for name, value in metrics.items():
        prefix, _, last = name.rpartition("/")
        if last in ("loss", "elbo", "update_norm") or prefix == "penalty":
            player = {"penalty": "discriminator/"}.get(prefix, prefix + "/" if prefix else "")
            skipped = metrics.get(f"{player}skipped", 0.0) > 0
            wrong |= ~jnp.isfinite(value) & ~skipped
    return wrong


def _add(tally: Tally, metrics: Mapping[str, jax.Array], step: jax.Array) -> Tally:
    wrong = went_wrong(metrics)
    return Tally(
        sums={name: tally.sums[name] + value for name, value in metrics.items()},
        count=tally.count + 1,
        bad_step=jnp.where(wrong, step, tally.bad_step),
        bad_metrics=jax.tree.map(lambda new, old: jnp.where(wrong, new, old), dict(metrics), tally.bad_metrics),
    )


def make_many_steps(train_step: Callable, prepare: Callable, gather: Callable) -> Callable:
    """Builds `(state, tally, indices, key, count, arrays) -> (state, tally)`, which takes `count` train steps.

    Args:
      train_step: `(state, batch, key) -> (state, metrics)`.
      prepare: `(raw, key) -> batch`, of the data set.
      gather: `(arrays, indices [B]) -> raw`, of the data set.

    Returns:
      A pure function. `indices` is [S, B] int32, of which the first `count` <= S rows are used; `count` is traced. It
      stops after a step that went wrong.
    """

    def many_steps(state, tally, indices, key, count, arrays):
        def unfinished(carry):
            i, _, tally = carry
            return (i < count) & (tally.bad_step < 0)

        def step(carry):
            i, state, tally = carry
            raw = gather(arrays, lax.dynamic_index_in_dim(indices, i, keepdims=False))
            return i + 1, *one_step(state, tally, raw, key)

        one_step = make_one_step(train_step, prepare)
        return lax.while_loop(unfinished, step, (jnp.zeros((), jnp.int32), state, tally))[1:]

    return many_steps


def make_one_step(train_step: Callable, prepare: Callable) -> Callable:
    """Builds `(state, tally, raw, key) -> (state, tally)`: one train step on a batch that the host has read."""

    def one_step(state, tally, raw, key):
        data_key, train_key = jax.random.split(key)
        batch = prepare(raw, jax.random.fold_in(data_key, state.step))
        new_state, metrics = train_step(state, batch, train_key)
        return new_state, _add(tally, metrics, state.step)

    return one_step


def train(
    train_step: Callable,
    state: Any,
    dataset: data.Dataset,
    *,
    directory: str | Path,
    num_steps: int,
    batch_size: int,
    key: jax.Array,
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
      directory: the run directory, made by `run_directory.create`. Metrics, samples, checkpoints and report go there.
      num_steps: where to stop, counted from the run's beginning.
      batch_size: images a step, over all devices and hosts.
      key: the run's constant key.
      seed: of the data order.
      num_devices: how many devices to use; all by default.
      log_every: steps between lines of the log; each holds means over the steps since the line before.
      sample_every, evaluate_every, checkpoint_every: steps between these; 0 for only at the end.
      keep_last: how many of the newest checkpoints to keep, beside the best.
      sample: `state -> {name: images [N, H, W, C]}`, always of the same latents; each a PNG and a TensorBoard image.
      evaluate: `state -> numbers`, logged under `eval/`; a checkpoint follows.
      best_metric: name of the number (as in the log) by which the best checkpoint is kept.
      best_mode: "max" or "min".
      max_rollbacks: how often to go back to the last checkpoint, with fresh noise and another data order, when a loss
        is not finite; 0 stops the run.
      tensorboard: whether to write TensorBoard events.
      progress: whether to show a progress bar (on a terminal) or a line now and then (elsewhere).

    Returns:
      The end of the run. After SIGINT (Ctrl-C) or SIGTERM the state has been saved first; a second signal ends at once.

    Raises:
      ValueError: for zero steps or intervals below zero, or a batch that the devices cannot share.
      NonFiniteLoss: see there.
      run_directory.RunLocked: if another process trains there.
      checkpoint.CheckpointError, OSError: with what went wrong, where, and what to do.
    """
    if num_steps < 1 or batch_size < 1:
        raise ValueError(f"num_steps and batch_size must be at least 1, not {num_steps} and {batch_size}")
    intervals = {"sample": sample_every, "evaluate": evaluate_every, "checkpoint": checkpoint_every, "log": log_every}
    for name, every in intervals.items():
        if every < 0 or (name == "log" and every == 0):
            raise ValueError(f"{name}_every is {every}; it counts steps (0: only at the end; log_every at least 1)")
    mesh = sharding.make_mesh(num_devices)
    sharding.check_divisible(batch_size, mesh.size)
    directory, primary = Path(directory), jax.process_index() == 0
    _check_first_batch(dataset, batch_size, seed, key)
    fresh = sharding.replicate(mesh, state)

    with contextlib.ExitStack() as stack:
        stack.enter_context(run_directory.lock(directory, is_primary=primary))
        manager = checkpoint.open_checkpoints(
            directory / "checkpoints", keep_last=keep_last, best_metric=best_metric, best_mode=best_mode
        )
        stack.callback(manager.close)
        stop = stack.enter_context(_stop_signals())
        record_status = _status_recorder(directory, primary)

        def attempt(rollbacks: int) -> Result:
            """From the newest checkpoint to the end, a signal, or a step that went wrong."""
            state, step, record = _restore_or_start(manager, fresh)
            if step > num_steps:
                raise ValueError(
                    f"{directory} is at step {step} already, beyond num_steps {num_steps}; ask for more steps"
                )
            rollbacks = max(rollbacks, record.get("metadata", {}).get("rollbacks", 0))
            evaluation = {}
            with (
                run_directory.open_metrics(
                    directory, resume_step=step, tensorboard=tensorboard, is_primary=primary
                ) as log,
                _Progress(num_steps, step, batch_size, mesh, show=progress and primary) as bar,
                _dispatcher(
                    train_step,
                    dataset,
                    mesh,
                    batch_size=batch_size,
                    key=jax.random.fold_in(key, rollbacks) if rollbacks else key,
                    seed=seed + rollbacks,
                    start_step=step,
                    metrics=_metrics_of(train_step, dataset, batch_size, state, key),
                ) as dispatch,
            ):

                def on_log(step, means):
                    log.write(step, means)
                    bar.show(means)

                record_status("running", step)
                saved, tally = step, None
                while step < num_steps and not stop():
                    events = [every for name, every in intervals.items() if every and name != "log"]
                    until = min([num_steps, *((step // every + 1) * every for every in events)])
                    state, tally, step = _advance(
                        dispatch,
                        state,
                        tally,
                        step,
                        until=until,
                        num_steps=num_steps,
                        log_every=log_every,
                        stop=stop,
                        on_log=on_log,
                        bar=bar,
                    )
                    due = {
                        name: step == num_steps or (every and step % every == 0) for name, every in intervals.items()
                    }
                    if sample is not None and due["sample"]:
                        _write_samples(directory, log, step, sample(state), primary)
                    if evaluate is not None and due["evaluate"]:
                        evaluation = {f"eval/{name}": float(value) for name, value in evaluate(state).items()}
                        log.write(step, evaluation)
                        bar.show(evaluation)
                    if due["checkpoint"] or due["evaluate"] or stop():
                        numbers = evaluation if due["evaluate"] else {}
                        checkpoint.save(manager, step, state, metrics=numbers, metadata={"rollbacks": rollbacks})
                        record_status("running", step)
                        saved = step
                if saved < step:
                    checkpoint.save(manager, step, state, metadata={"rollbacks": rollbacks})
            checkpoint.wait(manager)
            return Result(state, step, stop.signal() if step < num_steps else None, evaluation)

        rollbacks = 0
        while True:
            try:
                result = attempt(rollbacks)
            except _WentWrong as bad:
                checkpoint.wait(manager)
                message = _describe(bad, directory, checkpoint.latest_step(manager))
                if rollbacks == max_rollbacks or checkpoint.latest_step(manager) is None:
                    record_status("non-finite", bad.step, message)
                    raise NonFiniteLoss(message) from None
                rollbacks += 1
                warnings.warn(f"{message} Going back ({rollbacks} of {max_rollbacks} times).", stacklevel=2)
            else:
                record_status("finished" if result.stopped_by is None else "stopped", result.step)
                return result


def make_evaluate(
    eval_step: Callable, summarize: Callable, dataset: data.Dataset, *, key: jax.Array, batch_size: int = 250
) -> Callable[[Any], dict[str, float]]:
    """Builds `evaluate(state) -> numbers` over every example of a data set, once each, in order.

    Args:
      eval_step: `(variables, batch, key) -> dict of arrays [B, ...]`, one row for each image, from a family.
      summarize: `dict of arrays [N, ...] -> numbers`, from the same family.
      dataset: the split to evaluate on.
      key: of binarisation and latents; the same at every call, so that two calls differ by the state alone.
      batch_size: images at once.

    Returns:
      A function of a state, whose `ema` it evaluates.
    """

    @jax.jit
    def run(variables, raw, key):
        data_key, eval_key = jax.random.split(key)
        return eval_step(variables, dataset.prepare(raw, data_key), eval_key)

    def evaluate(state) -> dict[str, float]:
        rows = []
        for i, (raw, num_valid) in enumerate(data.sequential_batches(dataset, min(batch_size, dataset.num_examples))):
            rows.append((num_valid, run(state.ema, raw, jax.random.fold_in(key, i))))
        rows = [jax.tree.map(lambda x, n=num_valid: np.asarray(x)[:n], per_image) for num_valid, per_image in rows]
        return summarize({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})

    return evaluate


# What the loop is made of --------------------------------------------------------------------------------------------


class _WentWrong(Exception):
    """Raised where the host learns that a step went wrong."""

    def __init__(self, step: int, metrics: Mapping[str, float]):
        super().__init__(step)
        self.step, self.metrics = step, metrics


def _describe(bad: _WentWrong, directory: Path, last_good: int | None) -> str:
    numbers = ", ".join(f"{name} {value:g}" for name, value in bad.metrics.items())
    where = f"The last good checkpoint is {directory / 'checkpoints' / str(last_good)}."
    if last_good is None:
        where = f"There is no checkpoint yet in {directory}."
    return f"Step {bad.step} went wrong, a loss or an update is not finite: {numbers}. {where}"


def _check_first_batch(dataset: data.Dataset, batch_size: int, seed: int, key: jax.Array) -> None:
    """Wrong ranges and NaN train without an error, and badly: look once, on the host."""
    raw = dataset.fetch(data.batch_indices(0, batch_size=batch_size, num_examples=dataset.num_examples, seed=seed))
    data.check_batch(dataset.prepare(raw, key), image_shape=dataset.image_shape)


def _metrics_of(train_step, dataset, batch_size, state, key) -> dict[str, jax.ShapeDtypeStruct]:
    """Names of the metrics, without running or compiling anything."""
    raw = dataset.fetch(np.zeros(batch_size, np.int32))

    def step(state, raw, key):
        return train_step(state, dataset.prepare(raw, key), key)[1]

    return jax.eval_shape(step, state, raw, key)


def _restore_or_start(manager, fresh: Any) -> tuple[Any, int, dict[str, Any]]:
    if checkpoint.latest_step(manager) is None:
        # A copy, because the first step takes the memory of what it is given, and a rollback may need it again.
        return jax.tree.map(jnp.copy, fresh), int(fresh.step), {}
    state, record = checkpoint.restore(manager, fresh)
    return state, int(state.step), record


@contextlib.contextmanager
def _dispatcher(train_step, dataset, mesh, *, batch_size, key, seed, start_step, metrics):
    """Yields `dispatch`, a function `(state, tally or None, step, count) -> (state, tally, count)` that takes steps.

    Small sets live on the device and many steps run in one dispatch. Large ones are read ahead by threads, a step each.
    `dispatch.most` is the largest count that it takes.
    """
    rows = functools.partial(data.batch_indices, batch_size=batch_size, num_examples=dataset.num_examples, seed=seed)
    shard = functools.partial(data.process_slice, process_index=jax.process_index(), process_count=jax.process_count())
    zeros = {name: np.zeros((), np.float32) for name in metrics}
    empty = sharding.replicate(mesh, Tally(zeros, np.zeros((), np.int32), np.full((), -1, np.int32), dict(zeros)))

    if dataset.arrays is not None:
        arrays = sharding.replicate(mesh, dict(dataset.arrays))
        run = sharding.jit_global(
            make_many_steps(train_step, dataset.prepare, dataset.gather),
            mesh,
            batch_axes=(None, None, 1, None, None, None),
            donate=(0,),
        )

        def dispatch(state, tally, step, count):
            # Always as many rows, of which the program uses the first `count`: one compilation.
            indices = np.stack([shard(rows(step + min(i, count - 1))) for i in range(MAX_STEPS_PER_DISPATCH)])
            indices = sharding.shard_batch(mesh, indices, axis=1)
            return run(state, empty if tally is None else tally, indices, key, np.int32(count), arrays)

        dispatch.most = MAX_STEPS_PER_DISPATCH
        yield dispatch
        return

    run = sharding.jit_global(
        make_one_step(train_step, dataset.prepare), mesh, batch_axes=(None, None, 0, None), donate=(0,)
    )
    with contextlib.closing(data.prefetch(dataset.fetch, lambda step: shard(rows(step)), start_step)) as batches:

        def dispatch(state, tally, step, count):
            return run(state, empty if tally is None else tally, sharding.shard_batch(mesh, next(batches)), key)

        dispatch.most = 1
        yield dispatch


def _advance(dispatch, state, tally, step, *, until, num_steps, log_every, stop, on_log, bar):
    """Takes steps up to `until`, or to wherever a signal finds it; then nothing is in flight.

    Returns (state, tally, step), the tally being None or what was summed since the last line of the log.
    """
    in_flight = collections.deque()
    bar.resume()
    while (step < until and not stop()) or in_flight:
        if step < until and not stop():
            count = min(bar.steps_per_dispatch(dispatch.most), until - step, (step // log_every + 1) * log_every - step)
            state, tally = dispatch(state, tally, step, count)
            step += count
            at_log = step % log_every == 0 or step == num_steps
            in_flight.append((step, count, tally, at_log))
            tally = None if at_log else tally
            if len(in_flight) <= bar.run_ahead:
                continue
        done, count, finished, at_log = in_flight.popleft()
        bad_step = int(finished.bad_step)  # waits for this dispatch, while the next ones are queued on the device
        if bad_step >= 0:
            raise _WentWrong(bad_step, {name: float(value) for name, value in finished.bad_metrics.items()})
        bar.advance(done, count)
        if at_log:
            sums = jax.device_get((finished.sums, finished.count))
            means = {name: float(value) / int(sums[1]) for name, value in sums[0].items()}
            on_log(done, means | {"images_per_second": bar.images_per_second()})
    return state, tally, step


def _write_samples(directory: Path, log, step: int, samples: Mapping[str, jax.Array], primary: bool) -> None:
    if primary:
        for name, shown in samples.items():
            picture = images.grid(np.asarray(shown), upscale=None)
            file = f"{step:08d}.png" if name == "samples" else f"{name}_{step:08d}.png"
            images.save_png(directory / "samples" / file, picture)
            log.write_image(step, name, picture)


@contextlib.contextmanager
def _stop_signals():
    """Yields `stop() -> bool`, true after the first SIGINT or SIGTERM; the second one acts as if nobody listened."""
    received = []

    def on_signal(number, frame):
        signal.signal(number, previous[number])
        received.append(number)
        print(
            f"\n{signal.Signals(number).name}: saving a checkpoint, then stopping. Once more to stop at once.",
            file=sys.stderr,
        )

    def stop() -> bool:
        if jax.process_count() == 1:
            return bool(received)
        from jax.experimental import multihost_utils

        return bool(np.max(multihost_utils.process_allgather(np.int32(bool(received)))))

    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    stop.signal = lambda: received[0] if received else signal.SIGTERM
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _status_recorder(directory: Path, primary: bool) -> Callable:
    """`(status, step, message="")`: writes RUN/status.json, and the report now and then and at the end."""
    last_report = time.monotonic()

    def record_status(status: str, step: int, message: str = "") -> None:
        nonlocal last_report
        run_directory.write_status(directory, status, step=step, message=message, is_primary=primary)
        if primary and (status != "running" or time.monotonic() - last_report > SECONDS_BETWEEN_REPORTS):
            try:
                report.write(directory)
            except Exception as error:  # a picture of the run is never worth the run
                warnings.warn(f"the report could not be written: {error}", stacklevel=2)
            last_report = time.monotonic()

    return record_status


class _Progress:
    """The progress bar, and the pace of the run that it shows."""

    def __init__(self, num_steps: int, step: int, batch_size: int, mesh, *, show: bool):
        from tqdm import tqdm

        self.batch_size, self.num_steps = batch_size, num_steps
        self.terminal = sys.stderr.isatty()
        self.lines = show and not self.terminal
        self.bar = tqdm(
            total=num_steps, initial=step, unit="step", dynamic_ncols=True, disable=not (show and self.terminal)
        )
        # Free-running collectives of virtual CPU devices can deadlock in JAX before 0.12.
        self.run_ahead = 0 if mesh.size > 1 and mesh.devices.flat[0].platform == "cpu" else RUN_AHEAD
        # Hosts must agree on the program they run next, so they do not choose by their own clocks.
        self.fixed = 16 if jax.process_count() > 1 else None
        self.seconds_per_step = None
        self.finished, self.since, self.counted, self.spent = step, None, 0, 0.0
        self.next_line = time.monotonic()
        if show and step < num_steps:
            print(f"{'Resuming at' if step else 'Starting at'} step {step} of {num_steps}; compiling.", file=sys.stderr)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.bar.close()

    def steps_per_dispatch(self, most: int) -> int:
        if self.fixed or most == 1:
            return min(self.fixed or 1, most)
        if self.seconds_per_step is None:
            return 1
        return max(1, min(most, int(SECONDS_PER_DISPATCH / self.seconds_per_step)))

    def resume(self) -> None:
        """Steps follow; what came before them does not count."""
        self.since = time.monotonic()

    def advance(self, step: int, count: int) -> None:
        """`count` more steps are finished on the device."""
        now = time.monotonic()
        if self.finished == step - count and self.seconds_per_step is None and self.since is not None:
            self.seconds_per_step = float("inf")  # the first dispatch: mostly compilation
        else:
            self.seconds_per_step = (now - self.since) / count
            self.counted, self.spent = self.counted + count, self.spent + now - self.since
        self.since = now
        self.bar.update(step - self.finished)
        self.finished = step

    def images_per_second(self) -> float:
        """Since the last call."""
        rate = self.counted * self.batch_size / self.spent if self.spent else float("nan")
        self.counted, self.spent = 0, 0.0
        return rate

    def show(self, metrics: Mapping[str, float]) -> None:
        """Metrics beside the bar, or a line of them now and then where there is no terminal."""
        chosen = {name: value for name, value in metrics.items() if name.endswith(("loss", "elbo", "accuracy"))}
        if "images_per_second" in metrics:
            chosen = {"images/s": metrics["images_per_second"]} | chosen
        text = ", ".join(f"{name} {value:.4g}" for name, value in list(chosen.items())[:5])
        self.bar.set_postfix_str(text)
        if self.lines and (time.monotonic() >= self.next_line or self.finished == self.num_steps):
            print(f"step {self.finished}/{self.num_steps}: {text}", file=sys.stderr)
            self.next_line = time.monotonic() + 10.0
