"""What training runs on the devices: several steps in one dispatch, with their metrics summed up."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from jaxgen import data, sharding, state_sharding

MAX_STEPS_PER_DISPATCH = 64


@flax.struct.dataclass
class Tally:
    """Metrics summed on the device since the last line of the log, and the first step that went wrong."""

    sums: dict[str, jax.Array]
    counts: dict[str, jax.Array]  # steps in each sum
    bad_step: jax.Array  # finished steps before the one that went wrong; -1 as long as all is well
    bad_metrics: dict[str, jax.Array]


def went_wrong(metrics: Mapping[str, jax.Array]) -> jax.Array:
    """Whether a loss, bound or update is not finite, in a player whose update was not skipped: a boolean scalar."""
    wrong = jnp.array(False)
    for name, value in metrics.items():
        prefix, _, last = name.rpartition("/")
        if last in ("loss", "elbo", "update_norm") or prefix == "penalty":
            player = {"penalty": "discriminator/"}.get(prefix, prefix + "/" if prefix else "")
            taken = jnp.asarray(metrics.get(f"{player}skipped", 0.0)) <= 0
            wrong |= taken & ~jnp.isfinite(value)
    return wrong


def _add(tally: Tally, metrics: Mapping[str, jax.Array], step: jax.Array) -> Tally:
    metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
    wrong = went_wrong(metrics)
    skipped = jnp.array(False)
    for name, value in metrics.items():
        if name.rpartition("/")[2] == "skipped":
            skipped |= value > 0
    # What a skipped update could not use would make the means of all other steps useless, too.
    counted = {name: jnp.isfinite(value) | ~skipped for name, value in metrics.items()}
    return Tally(
        sums={name: tally.sums[name] + jnp.where(counted[name], value, 0.0) for name, value in metrics.items()},
        counts={name: tally.counts[name] + counted[name] for name in metrics},
        bad_step=jnp.where(wrong, step, tally.bad_step),
        bad_metrics={name: jnp.where(wrong, value, tally.bad_metrics[name]) for name, value in metrics.items()},
    )


def make_one_step(train_step: Callable, prepare: Callable) -> Callable:
    """Builds `(state, tally, raw, key) -> (state, tally)`: one train step on a raw batch.

    Args:
      train_step: `(state, batch, key) -> (state, metrics)`.
      prepare: `(raw, key) -> batch`, of the data set.
    """

    def one_step(state, tally, raw, key):
        data_key, train_key = jax.random.split(key)
        batch = prepare(raw, jax.random.fold_in(data_key, state.step))
        new_state, metrics = train_step(state, batch, train_key)
        return new_state, _add(tally, metrics, state.step)

    return one_step


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
    one_step = make_one_step(train_step, prepare)

    def many_steps(state, tally, indices, key, count, arrays):
        def unfinished(carry):
            i, _, tally = carry
            return (i < count) & (tally.bad_step < 0)

        def step(carry):
            i, state, tally = carry
            raw = gather(arrays, lax.dynamic_index_in_dim(indices, i, keepdims=False))
            return i + 1, *one_step(state, tally, raw, key)

        return lax.while_loop(unfinished, step, (jnp.zeros((), jnp.int32), state, tally))[1:]

    return many_steps


def program(
    train_step: Callable, dataset: data.Dataset, mesh: Mesh, *, state: Any, state_rule: state_sharding.Rule
) -> Any:
    """What the dispatcher runs: `make_many_steps` of a set that lives on the device, `make_one_step` of another.

    `state` is one, or its shapes; `state_rule` says where it lies.
    """
    batch_axes: tuple[int | None, ...]
    if dataset.arrays is None:
        steps, batch_axes = make_one_step(train_step, dataset.prepare), (None, None, 0, None)
    else:
        steps = make_many_steps(train_step, dataset.prepare, dataset.gather)
        batch_axes = (None, None, 1, None, None, None)
    return sharding.jit_global(
        steps, mesh, batch_axes=batch_axes, donate=(0,), may_be_kept=False, state=state, state_rule=state_rule
    )


def empty_tally(metric_names: Sequence[str]) -> Tally:
    """Of no step."""
    zero: Any = np.zeros((), np.float32)
    none: Any = np.zeros((), np.int32)
    return Tally(
        sums={name: zero for name in metric_names},
        counts={name: none for name in metric_names},
        bad_step=np.full((), -1, np.int32),  # type: ignore[arg-type]
        bad_metrics={name: zero for name in metric_names},
    )


@contextlib.contextmanager
def dispatcher(
    train_step: Callable,
    dataset: data.Dataset,
    mesh: Mesh,
    *,
    batch_size: int,
    key: jax.Array,
    seed: int,
    start_step: int,
    metric_names: Sequence[str],
    state: Any,
    state_rule: state_sharding.Rule = state_sharding.replicated,
) -> Iterator[tuple[Callable, int, Callable[[], float] | None]]:
    """Yields `dispatch`, a function `(state, tally or None, step, count) -> (state, tally)`, and the largest count.

    Small sets live on the device and many steps run in one dispatch. Large ones are read ahead by threads or processes,
    a step each; then the third is a function that says for how many seconds batches were waited for since it was asked.
    `state` is one, or its shapes; `state_rule` says where it lies.
    """
    rows = functools.partial(data.batch_rows, dataset, batch_size=batch_size, seed=seed)
    shard = functools.partial(data.process_slice, process_index=jax.process_index(), process_count=jax.process_count())
    empty = sharding.replicate(mesh, empty_tally(metric_names))
    run = program(train_step, dataset, mesh, state=state, state_rule=state_rule)

    if dataset.arrays is not None:
        arrays = sharding.replicate(mesh, dict(dataset.arrays))
        most = MAX_STEPS_PER_DISPATCH

        def dispatch(state, tally, step, count):
            # Always as many rows, of which the program uses the first `count`: one compilation.
            indices = np.stack([shard(rows(step + min(i, count - 1))) for i in range(most)])
            indices = sharding.shard_batch(mesh, indices, axis=1)
            return run(state, empty if tally is None else tally, indices, key, np.int32(count), arrays)

        yield dispatch, most, None
        return

    ahead = data.prefetch(dataset.fetch, lambda step: shard(rows(step)), start_step, num_workers=dataset.workers)
    with contextlib.closing(ahead) as batches:
        waited = 0.0

        def dispatch(state, tally, step, count):
            nonlocal waited
            begun = time.monotonic()
            raw = next(batches)
            waited += time.monotonic() - begun
            return run(state, empty if tally is None else tally, sharding.shard_batch(mesh, raw), key)

        def seconds_waited():
            nonlocal waited
            seconds, waited = waited, 0.0
            return seconds

        yield dispatch, 1, seconds_waited


def means(tally: Tally) -> dict[str, float]:
    """Of each metric over the steps in its sum, on the host; NaN where there is none."""
    sums, counts = jax.device_get((tally.sums, tally.counts))
    return {name: float(value) / int(counts[name]) if counts[name] else float("nan") for name, value in sums.items()}
