"""Batches read ahead by processes, past one interpreter's lock: Grain starts, feeds and watches them.

Grain hands out steps and brings batches back in order; which rows a step has stays ours, so that any number of workers,
on any number of hosts, reads the same batches, and a run resumes at its step.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np

from jaxgen.data import reading, records
from jaxgen.data.dataset import Raw

AHEAD = 2  # batches that each worker holds ready
SECONDS_AFTER_SIGNAL = 60.0  # for the training to end after a SIGTERM that went to all processes


class _Failed(NamedTuple):
    error: Exception


def read_ahead(
    fetch: Callable[[np.ndarray], Raw],
    indices_for_step: Callable[[int], np.ndarray],
    start_step: int = 0,
    *,
    stop_step: int | None = None,
    num_workers: int,
) -> Generator[Raw]:
    """Yield the raw batches of steps `start_step`, `start_step + 1`, ..., as `batches.prefetch` with threads.

    The processes are started at the first `next`, which takes some seconds, and end with the generator. A script that
    is run must have its calls under `if __name__ == "__main__":`, since each of them imports it.

    Args:
        fetch, indices_for_step: sent to the processes, so they may hold nothing that cannot be (by `cloudpickle`).
        start_step, stop_step: as for `batches.prefetch`.
        num_workers: how many processes; about one per core that the training leaves.

    Yields:
        The raw batch of each step, in the order of steps.

    Raises:
        ImportError: if Grain is not installed; says how to install it.
        ValueError: for functions that cannot be sent.
        RuntimeError: if a worker was killed, such as by a machine without memory.
        Exception: what `fetch` or `indices_for_step` raised for a step, when that step's turn comes.
    """
    grain = records.import_grain()
    import cloudpickle
    from absl import flags

    try:
        cloudpickle.dumps((fetch, indices_for_step))
    except Exception as error:
        raise ValueError(
            f"these data cannot be sent to other processes ({reading.describe_error(error)}): read them without "
            "workers, or hold no open file, lock or the like in their functions"
        ) from error
    if not flags.FLAGS.is_parsed():  # Grain asks for its own, whose defaults serve
        flags.FLAGS.mark_as_parsed()
    return _read_ahead(grain, fetch, indices_for_step, start_step, stop_step, num_workers)


def _read_ahead(grain, fetch, indices_for_step, start_step, stop_step, num_workers) -> Generator[Raw]:
    def batch_of(step):
        try:
            return fetch(indices_for_step(int(step)))
        except Exception as error:
            error.add_note(f"This happened while reading the batch of step {int(step)}.")
            return _Failed(error)

    steps = grain.MapDataset.range(start_step, sys.maxsize if stop_step is None else stop_step)
    one_at_a_time = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    several = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=AHEAD)
    # Through pipes and not shared memory, of which containers often have 64 MB, and whose end is a killed process.
    piped = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
    read = grain.experimental.WithOptionsIterDataset(steps.map(batch_of).to_iter_dataset(one_at_a_time), piped)
    batches = iter(read.mp_prefetch(several, worker_init_fn=_begin))
    try:
        while True:
            try:
                raw = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                raise RuntimeError(
                    "a process that reads the data ended by itself (perhaps the machine has no memory left; fewer "
                    f"--data.workers need less): {str(error).splitlines()[0]}"
                ) from error
            if isinstance(raw, _Failed):
                raise raw.error
            yield raw
    finally:
        batches.close()


def _begin(index: int, count: int) -> None:
    """In each process, before it reads: it leaves signals to the training, ends with it, and takes no accelerator."""
    del index, count
    import multiprocessing

    import jax

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _later().start())
    jax.config.update("jax_platforms", "cpu")
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _later() -> threading.Timer:
    timer = threading.Timer(SECONDS_AFTER_SIGNAL, os._exit, (1,))
    timer.daemon = True
    return timer
