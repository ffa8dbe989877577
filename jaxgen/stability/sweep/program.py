"""What a sweep trains: a program of each member, and the data that all of them see."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.arguments import short
from jaxgen.data.batches import batch_rows
from jaxgen.data.dataset import Dataset


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
