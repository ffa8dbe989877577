"""The one training loop: data, steps, metrics, samples, checkpoints, preemption. Any family, any number of devices.

Several train steps run in one dispatch, as a compiled loop whose trip count is an argument: one program, whatever the
number, so that a run stopped and resumed anywhere computes the same bits as one that never stopped. The host looks at a
dispatch two behind the newest; the device never waits for it.
"""

import collections
import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from jaxgen import buckets, checkpoint, console, data, run_directory, sharding, state_sharding
from jaxgen.local_path import local
from jaxgen.loop import agreement, dispatch, first_batch, health, hosts, pictures, status, stop_signals
from jaxgen.loop.plan import Plan
from jaxgen.run_directory import lock, metrics_log


class NonFiniteLoss(RuntimeError):
    """A loss, an update or the state became NaN or infinite; the message says where, and names the last checkpoint."""


class Result(NamedTuple):
    """How a run ended."""

    state: Any
    step: int
    stopped_by: int | None  # the signal's number, or None for a finished run
    evaluation: dict[str, float]  # of the last state, if the loop evaluates


@buckets.in_local_copy
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
    state_rule: state_sharding.Rule = state_sharding.replicated,
    log_every: int = 100,
    sample_every: int = 1000,
    evaluate_every: int = 1000,
    checkpoint_every: int = 1000,
    keep_last: int = 3,
    sample: Callable[[Any], Mapping[str, jax.Array]] | None = None,
    evaluate: Callable[[Any], Mapping[str, float]] | None = None,
    best_metric: str | None = None,
    best_mode: Literal["min", "max"] = "max",
    max_rollbacks: int = 0,
    tensorboard: bool = True,
    progress: bool = True,
) -> Result:
    """Trains until `num_steps`, from the newest good checkpoint in the run directory if it holds one.

    Args:
      train_step: `(state, batch, key) -> (state, metrics)`, not compiled, in the global view.
      state: a fresh state with a `step`; also the template for restoring. Or a function of no arguments that makes one,
        called only where it is needed: nothing is held of it while the loop trains.
      dataset: batches are addressed by their step, so the step is all that a resumed run needs to know.
      directory: the run directory, or the address of one in a bucket. Metrics, samples, checkpoints and report go
        there.
      num_steps: where to stop, counted from the run's beginning.
      batch_size: images a step, over all devices and hosts.
      key: the run's constant key.
      config, may_change, upgrade: for `run_directory.lock.hold`, called once the first batch has proved good, so that a
        mistake leaves no directory behind. Without a config the directory must be there.
      facts: what the run is of, for its report: `system`, `can`, `parameters`.
      seed: of the data order.
      num_devices: how many devices to use; all by default.
      state_rule: where the state lies: on every device, or `state_sharding.by_largest_dimension`: divided over them. A
        resumed run may have another.
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
      agreement.HostsDisagree: for hosts with unlike settings, versions or data, or each with a directory of its own.
      ValueError: for no steps, intervals below zero, a batch that the devices cannot share, a run beyond `num_steps`,
        or a `best_metric` that is not evaluated.
      NonFiniteLoss: see there.
      run_directory.ConfigMismatch: if the run began with another configuration.
      lock.RunLocked: if another process trains there.
      checkpoint.CheckpointError, OSError: with what went wrong, where, and what to do.
    """
    directory, primary = local(directory, "the run directory"), jax.process_index() == 0
    first_batch.check_numbers(
        num_steps=num_steps,
        batch_size=batch_size,
        log_every=log_every,
        sample_every=sample_every,
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
        max_rollbacks=max_rollbacks,
    )
    first_batch.check_dataset(dataset)
    if best_metric is not None and evaluate is None:
        raise ValueError(f"best_metric is {best_metric!r}, but nothing evaluates; give evaluate, too")
    mesh = sharding.make_mesh(num_devices)
    sharding.check_divisible(batch_size, mesh.size)
    train_step = first_batch.traced_once(train_step)
    plan = Plan(num_steps, log_every, sample_every, evaluate_every, checkpoint_every, sample, evaluate, best_metric)
    with contextlib.ExitStack() as stack:
        stack.enter_context(hosts.telling_of_lost_hosts())
        shapes = jax.eval_shape(state) if callable(state) else state
        if jax.process_count() > 1:
            numbers = {"batch_size": batch_size, "seed": seed, "keep_last": keep_last, "max_rollbacks": max_rollbacks}
            agreement.check(agreement.of_training(config, directory, plan.numbers | numbers, dataset, key))
        with hosts.on_all_hosts():
            metric_names = first_batch.check_first_batch(
                train_step, dataset, batch_size, seed, shapes, key, mesh, state_rule
            )
            first_batch.check_pictures(sample, shapes, dataset)
        if jax.process_count() > 1:
            program = first_batch.program_of(train_step, dataset, batch_size, shapes, key, mesh, state_rule)
            agreement.warn_of_unlike_programs(program)
        agreement.check_shared(directory)
        with hosts.on_all_hosts():  # only now: a mistake on any host leaves no directory behind
            hold = lock.hold(directory, config, may_change=may_change, upgrade=upgrade, is_primary=primary)
            stack.enter_context(hold)
            if primary:
                pictures.describe_data(directory, dataset, seed)
                if facts is not None:
                    run_directory.write_facts(directory, facts)
        manager = checkpoint.open_checkpoints(
            directory / "checkpoints", keep_last=keep_last, best_metric=best_metric, best_mode=best_mode
        )
        record_status = status.Recorder(directory, primary)
        stack.enter_context(status.failures_told(record_status))
        stack.enter_context(hosts.telling_of_lost_hosts())  # in the words in which the failure is recorded
        stack.callback(checkpoint.close, manager)
        stop = stack.enter_context(stop_signals.listen(mesh))
        not_finite = functools.partial(health.not_finite, mesh, fresh=state)
        run = _Run(plan, directory, manager, stop, record_status, primary, not_finite)
        rollbacks = 0
        while True:
            current, record = _restore_or_start(manager, mesh, state, state_rule)
            if jax.process_count() > 1:
                agreement.check(agreement.of_state(current))
            step, rollbacks = int(current.step), max(rollbacks, record["metadata"].get("rollbacks", 0))
            if step > num_steps:
                raise ValueError(f"{directory} is at step {step} already, beyond num_steps {num_steps}")
            if step == num_steps:
                if progress and primary:
                    print(f"{buckets.shown(directory)} is finished already, at step {step}", file=sys.stderr)
                run.record_status("finished", step, _doubts(run, dataset))
                return Result(current, step, None, record["metrics"])
            try:
                with (
                    metrics_log.open_metrics(
                        directory, resume_step=step, tensorboard=tensorboard, is_primary=primary
                    ) as log,
                    console.Display(num_steps, step, mesh, directory, dataset, show=progress and primary) as display,
                    dispatch.dispatcher(
                        train_step,
                        dataset,
                        mesh,
                        batch_size=batch_size,
                        key=jax.random.fold_in(key, rollbacks) if rollbacks else key,
                        seed=seed + rollbacks,
                        start_step=step,
                        metric_names=metric_names,
                        state=current,
                        state_rule=state_rule,
                    ) as (take_steps, most, waited),
                ):
                    attempt = _Attempt(
                        rollbacks, take_steps, console.Pace(mesh, batch_size, most, waited), log, display
                    )
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


# What the loop is made of --------------------------------------------------------------------------------------------


class _Run(NamedTuple):
    """What all attempts at a run share."""

    plan: Plan
    directory: Path
    manager: Any  # of the checkpoints
    stop: stop_signals.Stop
    record_status: status.Recorder
    primary: bool
    not_finite: Callable  # state -> which of its arrays are not finite, in words


class _Attempt(NamedTuple):
    """What belongs to one attempt: from a restored state to the end, a signal, or a step that went wrong."""

    rollbacks: int  # before it
    take_steps: Callable  # of dispatch.dispatcher
    pace: console.Pace
    log: metrics_log.MetricsWriter
    display: console.Display


class _InFlight(NamedTuple):
    """A dispatch that the device may still be working on."""

    step: int  # finished steps after it
    num_steps: int  # its own steps
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
        run.stop.is_too_late = step >= plan.num_steps
        if int(state.step) != step:
            raise ValueError(
                f"after {step} train steps the state's step is {int(state.step)}: train_step must return a state whose "
                "step is one larger than that of the state it was given, as in state.replace(step=state.step + 1)"
            )
        evaluate = plan.evaluate if plan.is_due(step, plan.evaluate_every) else None
        saves = evaluate is not None or plan.is_due(step, plan.checkpoint_every)
        if saves:
            _check_state(run, state, step)
        if plan.sample is not None and plan.is_due(step, plan.sample_every):
            samples = plan.sample(state)  # on all hosts, since they share the work
            if run.primary:
                pictures.write_samples(run.directory, attempt.log, step, samples)
        evaluation = {} if evaluate is None else _evaluation(evaluate, attempt, state, step)
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
    pace, until, queue = attempt.pace, run.plan.next_pause(step), collections.deque[_InFlight]()
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
    attempt.pace.finished(in_flight.num_steps)
    run.stop.hear(in_flight.stop)
    if in_flight.is_line:
        means = dispatch.means(in_flight.tally) | attempt.pace.rates()
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


def _evaluation(evaluate: Callable, attempt: _Attempt, state: Any, step: int) -> dict[str, float]:
    """The numbers of a state, logged and shown."""
    evaluation = {f"eval/{name}": float(value) for name, value in evaluate(state).items()}
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
    where = f"The last good checkpoint is {buckets.shown(directory / 'checkpoints' / str(last_good))}."
    if last_good is None:
        where = f"There is no checkpoint yet in {buckets.shown(directory)}."
    what = f"The step after step {bad.step} went wrong, a loss or an update is not finite: {numbers}."
    if bad.arrays:
        what = f"After step {bad.step} the state is not finite, and was not saved: {bad.arrays}."
    return (
        f"{what} {where} With max_rollbacks above 0 the same run goes back and on with fresh noise; a smaller learning "
        "rate, clip_norm or skip_norm is for a new run."
    )


def _restore_or_start(manager, mesh, fresh: Any, rule: state_sharding.Rule) -> tuple[Any, dict[str, Any]]:
    """The newest good checkpoint, or a fresh state; of one that was given a copy, whose memory the first step takes."""
    make = fresh if callable(fresh) else lambda: fresh
    if checkpoint.latest_step(manager) is None:
        state = make()
        if not (callable(fresh) and state_sharding.is_put(mesh, state, rule)):
            state = state_sharding.put(mesh, state, rule)
        return state, {"metadata": {}, "metrics": {}}
    shapes = jax.eval_shape(make)
    state, record = checkpoint.restore(manager, state_sharding.shapes(mesh, checkpoint.without_frozen(shapes), rule))
    if getattr(shapes, "frozen", None) is not None:
        state = checkpoint.with_frozen(state, sharding.replicate(mesh, make().frozen))
    return state, record


def _doubts(run: _Run, dataset: data.Dataset) -> str:
    """What the log of a finished run gives to think of, in a sentence."""
    records = []
    with contextlib.suppress(OSError, ValueError):  # a log that cannot be read is no reason to fail at the end
        records = metrics_log.read_metrics(run.directory) if run.primary else []
    return health.doubts(records, dataset.image_shape)
