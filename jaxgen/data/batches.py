"""Batches addressed by their step: the step counter is the whole state of the input pipeline.

A run reads one endless stream of examples: position `p` is row `permutation(seed, epoch)[p % N]` of epoch `p // N`.
Step `s` reads the positions `s * B` to `(s + 1) * B - 1`. A run resumed at step `s` therefore reads exactly what the
uninterrupted one would have read, with nothing about data in the checkpoint. No example is dropped at the end of an
epoch: a batch may straddle two epochs, or span many when it is larger than the set.
"""

import contextlib
import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from jaxgen.arguments import check_key
from jaxgen.data.dataset import Dataset, Raw, read_only


@functools.lru_cache(maxsize=8)
def epoch_permutation(seed: int, epoch: int, num_examples: int, stream: int = 0) -> np.ndarray:
    """Return the order in which an epoch visits the examples.

    The generator is NumPy's legacy `RandomState`, whose stream is frozen for all future NumPy versions (that of
    `np.random.Generator` is not): a run can be repeated years later.

    Args:
        seed: the data seed of the run, not negative.
        epoch: counts from 0.
        num_examples: N.
        stream: another order of the same seed, for what is read beside the examples.

    Returns:
        int32 [N], each of 0..N-1 once; not writable because it is cached.

    Raises:
        ValueError: for a negative seed or epoch, or an N outside of 1..2**31-1.
    """
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed and epoch must not be negative, got seed={seed}, epoch={epoch}")
    if not 0 < num_examples < 2**31:
        raise ValueError(f"num_examples must be in 1..2**31-1, got {num_examples}")
    entropy = [seed, epoch, stream] if stream else [seed, epoch]
    generator = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(entropy)))
    return read_only(generator.permutation(np.arange(num_examples, dtype=np.int32)))


def batch_indices(step: int, *, batch_size: int, num_examples: int, seed: int, stream: int = 0) -> np.ndarray:
    """Return the rows of the batch of one step.

    Args:
        step: counts from 0.
        batch_size: B; may exceed N.
        num_examples: N.
        seed: the data seed of the run.
        stream: as for `epoch_permutation`.

    Returns:
        int32 [B].

    Raises:
        TypeError: for a step of `jit`, `vmap` or `scan`: the order is NumPy's, made on the host. `batch` shows the way.
        ValueError: for a negative step or a batch size below 1.
    """
    if isinstance(step, jax.core.Tracer):
        raise TypeError(
            "the step of a batch must be a number that is known, not one inside of jit, vmap or scan: the order of the "
            "data is NumPy's. Make data.batch_indices of all steps beforehand, and inside use dataset.gather and "
            "dataset.prepare; help(jaxgen.data.batch) shows how"
        )
    if isinstance(seed, jax.Array) and jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key):
        raise TypeError("the seed of the order must be a whole number such as 0, not a key")
    step = int(step)
    if step < 0 or batch_size < 1:
        raise ValueError(f"step must be at least 0 and batch_size at least 1, got {step} and {batch_size}")
    position, remaining, rows = step * batch_size, batch_size, []
    while remaining:
        epoch, offset = divmod(position, num_examples)
        part = epoch_permutation(seed, epoch, num_examples, stream)[offset : offset + remaining]
        rows.append(part)
        position += len(part)
        remaining -= len(part)
    return np.concatenate(rows)


def batch_rows(dataset: Dataset, step: int, *, batch_size: int, seed: int) -> np.ndarray:
    """Return what `gather` and `fetch` of a data set take for the batch of one step.

    Args:
        dataset: any.
        step, batch_size, seed: as for `batch_indices`.

    Returns:
        int32 [B]; of `data.unpaired` [B, 2], rows of images and of sources in two orders.

    Raises:
        TypeError, ValueError: as `batch_indices`.
    """
    rows = batch_indices(step, batch_size=batch_size, num_examples=dataset.num_examples, seed=seed)
    if not dataset.num_sources:
        return rows
    others = batch_indices(step, batch_size=batch_size, num_examples=dataset.num_sources, seed=seed, stream=1)
    return np.stack([rows, others], axis=1)


def batch(dataset: Dataset, step: int, *, batch_size: int, seed: int, key: jax.Array) -> Mapping[str, jax.Array]:
    """Return the batch of one step, ready for a train step: for notebooks, where a loop of one's own is enough.

    Not inside of `jit`, `vmap` or `scan`. There the same batches, of a set whose `arrays` are on the device:

        rows = np.stack([data.batch_rows(dataset, i, batch_size=64, seed=0) for i in range(100)])
        arrays = jax.device_put(dataset.arrays)

        def body(state, at):
            i, rows = at
            batch = dataset.prepare(dataset.gather(arrays, rows), jax.random.fold_in(key, i))
            return train_step(state, batch, key)

        state, metrics = jax.jit(lambda state: jax.lax.scan(body, state, (np.arange(100), rows)))(state)

    Args:
        dataset: any.
        step: counts from 0; the same step gives the same batch.
        batch_size: B.
        seed: of the order.
        key: of what is random in the data, such as dynamic binarisation; the step is folded in.

    Returns:
        `image` [B, H, W, C] float32 in [-1, 1], `label` [B] int32 if there are labels, others by name.

    Raises:
        TypeError: for a step of `jit`, `vmap` or `scan`, or a seed instead of a key.
        ValueError: as `batch_indices`.
    """
    check_key(key)
    rows = batch_rows(dataset, step, batch_size=batch_size, seed=seed)
    return dataset.prepare(dataset.fetch(rows), jax.random.fold_in(key, step))


def process_slice(indices: np.ndarray, process_index: int, process_count: int) -> np.ndarray:
    """Return the rows that one host of several reads: rows `[p * B / P, (p + 1) * B / P)` of the global batch.

    Args:
        indices: int [B], the same on every host.
        process_index: p, `jax.process_index()`.
        process_count: P, `jax.process_count()`.

    Returns:
        int [B / P].

    Raises:
        ValueError: if B is not divisible by P, or p is not in 0..P-1.
    """
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not in 0..{process_count - 1}")
    share, rest = divmod(len(indices), process_count)
    if rest:
        raise ValueError(
            f"a batch of {len(indices)} cannot be shared equally by {process_count} processes: "
            f"choose a batch size that is a multiple of {process_count}"
        )
    return indices[process_index * share : (process_index + 1) * share]


def prefetch(
    fetch: Callable[[np.ndarray], Raw],
    indices_for_step: Callable[[int], np.ndarray],
    start_step: int = 0,
    *,
    stop_step: int | None = None,
    depth: int = 4,
    num_threads: int = 2,
    num_workers: int = 0,
) -> Generator[Raw]:
    """Yield the raw batches of steps `start_step`, `start_step + 1`, ... while threads, or processes, read ahead.

    Threads mostly suffice: Pillow and NumPy release the interpreter lock while they decode and copy. They start at the
    first `next` and end when the generator is exhausted, closed or garbage-collected; `contextlib.closing` closes it at
    the end of a block:

        with contextlib.closing(prefetch(dataset.fetch, indices, start_step)) as batches:
            for step, raw in enumerate(batches, start_step): ...

    Args:
        fetch: rows to raw batch, e.g. `Dataset.fetch`; called from several threads at once.
        indices_for_step: step to rows, e.g. `functools.partial(batch_indices, batch_size=..., ...)`.
        start_step: the first step; any, which is how a run resumes.
        stop_step: the step before which to stop; None: endless.
        depth: how many batches to read ahead; this many are held in memory.
        num_threads: how many of them are read at the same time.
        num_workers: how many processes read, in the place of threads; needs Grain, see `data.workers`.

    Yields:
        The raw batch of each step, in the order of steps.

    Raises:
        ValueError: if depth or num_threads is below 1, or num_workers below 0.
        ImportError: for workers without Grain; says how to install it.
        Exception: what `fetch` or `indices_for_step` raised for a step, when that step's turn comes and not before,
            with a note that names the step.
    """
    if depth < 1 or num_threads < 1:
        raise ValueError(f"depth and num_threads must be at least 1, got {depth} and {num_threads}")
    if num_workers < 0:
        raise ValueError(f"num_workers must be at least 0, got {num_workers}")
    if num_workers:
        from jaxgen.data import workers

        return workers.read_ahead(fetch, indices_for_step, start_step, stop_step=stop_step, num_workers=num_workers)
    # An inner generator, so that wrong arguments are reported here and not at the first `next`.
    return _prefetch(fetch, indices_for_step, start_step, stop_step, depth, num_threads)


def _prefetch(fetch, indices_for_step, start_step, stop_step, depth, num_threads) -> Generator[Raw]:
    steps = itertools.count(start_step) if stop_step is None else iter(range(start_step, stop_step))
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="jaxgen-prefetch")
    pending: deque[tuple[int, Future]] = deque()

    def submit(count):
        for step in itertools.islice(steps, count):
            pending.append((step, pool.submit(lambda step: fetch(indices_for_step(step)), step)))

    try:
        submit(depth)
        while pending:
            step, future = pending.popleft()
            try:
                raw = future.result()
            except Exception as error:
                error.add_note(f"This happened while reading the batch of step {step}.")
                raise
            submit(1)  # before the caller starts to work on this batch
            yield raw
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def sequential_batches(dataset: Dataset, batch_size: int) -> Iterator[tuple[Raw, int]]:
    """Yield every example once, in order, in batches of one constant size (one compilation): for evaluation.

    Args:
        dataset: any.
        batch_size: B.

    Yields:
        `(raw, num_valid)`: `raw` has B rows, of which the first `num_valid` count. Only the last batch may have fewer
        than B valid rows; it is filled up with copies of the last one.

    Raises:
        ValueError: if batch_size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    num_examples = dataset.num_examples
    num_steps = -(-num_examples // batch_size)

    def indices_for_step(step):
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        return np.minimum(positions, num_examples - 1).astype(np.int32)

    def batches():
        with contextlib.closing(prefetch(dataset.fetch, indices_for_step, stop_step=num_steps, depth=2)) as raws:
            for step, raw in enumerate(raws):
                yield raw, min(batch_size, num_examples - step * batch_size)

    return batches()
