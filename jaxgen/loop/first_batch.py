"""What is looked at before a training begins, so that a mistake leaves no directory behind."""

import contextlib
import re
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgen import data, sharding, state_sharding
from jaxgen.arguments import described


def check_numbers(**numbers: int) -> None:
    """Raises a ValueError for no steps, no images, and intervals below zero."""
    for name, number in numbers.items():
        least = 1 if name in ("num_steps", "batch_size", "log_every") else 0
        if number < least:
            hint = "; 0 stands for only at the end" if name.endswith("_every") and least == 0 else ""
            raise ValueError(f"{name} must be at least {least}, not {number}{hint}")


def check_dataset(dataset: Any, name: str = "dataset") -> None:
    """Raises a TypeError for what is no `data.Dataset`, such as a dict of arrays."""
    if not isinstance(dataset, data.Dataset):
        raise TypeError(
            f'{name} must be a jaxgen.data.Dataset, such as data.from_arrays("mine", image=images) of images '
            f"[N, H, W, C], not {described(dataset)}"
        )


def traced_once(train_step: Callable) -> Callable:
    """The step, remembering its trace, which the check of the first batch makes, for as long as this training lasts.

    A new function, so that another training traces anew what may have changed meanwhile, as in a notebook.
    """

    def step(state, batch, key):
        return train_step(state, batch, key)

    return jax.jit(step, inline=True)


def check_first_batch(
    train_step: Callable,
    dataset: data.Dataset,
    batch_size: int,
    seed: int,
    state: Any,
    key: jax.Array,
    mesh: Mesh,
    state_rule: state_sharding.Rule = state_sharding.replicated,
) -> list[str]:
    """Looks at this host's part of the first batch: wrong ranges and NaN train without an error, and badly.

    Returns the names of the metrics, for which nothing is run or compiled.
    """
    rows = data.batch_rows(dataset, 0, batch_size=batch_size, seed=seed)
    raw = dataset.fetch(data.process_slice(rows, jax.process_index(), jax.process_count()))
    batch = dataset.prepare(raw, key)
    data.check_batch(batch, image_shape=dataset.image_shape)
    known = dataset.prepare is data.prepare_default and np.asarray(raw["image"]).dtype == np.uint8
    if not known and (doubt := data.check.doubt_of_range(np.asarray(batch["image"], np.float32))):
        warnings.warn(f"{dataset.name}: the first batch has {doubt}", stacklevel=3)

    traced, arguments = _on_whole_batch(train_step, dataset, raw, batch_size, state, key, mesh, state_rule)
    shapes = traced.eval_shape(*arguments)
    for name, shape in shapes.items():
        if shape.shape:
            raise ValueError(f"the metric {name!r} has shape {shape.shape}; a train step returns scalars")
    return list(shapes)


def _on_whole_batch(
    train_step: Callable,
    dataset: data.Dataset,
    raw: Any,
    batch_size: int,
    state: Any,
    key: jax.Array,
    mesh: Mesh,
    state_rule: state_sharding.Rule,
) -> tuple[Any, Any]:
    """The metrics of a step as a compiled function would give them, and the shapes of its arguments."""

    def metrics_of(state, raw, key):
        return train_step(state, dataset.prepare(raw, key), key)[1]

    whole = {name: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype) for name, x in raw.items()}
    arguments = sharding.replicated_shapes(mesh, (state, whole, key))
    # By the loop's own rule: a trace is remembered, see `traced_once`.
    traced = sharding.jit_global(
        metrics_of, mesh, batch_axes=(None, None, None), may_be_kept=False, state_rule=state_rule
    )
    return traced, arguments


def program_of(
    train_step: Callable,
    dataset: data.Dataset,
    batch_size: int,
    state: Any,
    key: jax.Array,
    mesh: Mesh,
    state_rule: state_sharding.Rule = state_sharding.replicated,
) -> str:
    """A step as text, without what differs between processes: hosts whose texts differ compute other things.

    Numbers that a step closes over, such as a rate, are in it; arrays are not, but for their shapes.
    """
    raw = dataset.fetch(np.zeros(1, np.int64))
    traced, arguments = _on_whole_batch(train_step, dataset, raw, batch_size, state, key, mesh, state_rule)
    return re.sub(r" at 0x[0-9a-f]+", "", str(traced.trace(*arguments).jaxpr))


def check_pictures(sample: Callable | None, state: Any, dataset: data.Dataset) -> None:
    """Refuses pictures that are neither grey nor colour now, where their shapes can be told without drawing."""
    if sample is None or dataset.image_shape[2] in (1, 3):
        return
    shapes = {}
    with contextlib.suppress(Exception):  # a function that cannot be traced
        shapes = {name: shown.shape for name, shown in jax.eval_shape(sample, state).items()}
    data.check.check_pictures(shapes)
