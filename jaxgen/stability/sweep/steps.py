"""One member, from one record to the next: its steps, what is counted on the way, and where it is frozen."""

import functools
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.stability.sweep.program import Data, Program
from jaxgen.stability.sweep.settings import Named


@flax.struct.dataclass
class Member:
    """What a sweep carries of a member from step to step."""

    state: Any
    first_bad_step: jax.Array  # int32, -1 as long as everything is finite
    clipped: dict[str, jax.Array]  # sums
    largest: dict[str, jax.Array]  # of the gradient norms of the second half, in falling order


def key_of(seed: int, settings: Mapping[str, Any]) -> jax.Array:
    """A member's key: the sweep's, with the member's own seed folded in."""
    return jax.random.fold_in(jax.random.key(seed), settings["seed"])


def one_batch(data: Data) -> Any:
    """The first batch, for shapes."""
    return data.batch(data.arrays, jax.tree.map(lambda x: x[0], data.inputs(0, 1)))


def advance(
    program: Program,
    data: Data,
    seed: int,
    num_steps: int,
    settings: Mapping[str, Any],
    member: Member,
    arrays: Any,
    inputs: Any,
    first_step: jax.Array,
) -> tuple[Member, dict[str, jax.Array]]:
    """One member, from one record to the next.

    Args:
      program, data, seed, num_steps: of the sweep.
      settings: of the member.
      member: as it is at `first_step`.
      arrays: of the data, on the device.
      inputs: of the steps up to the next record, with their number as the leading axis.
      first_step: the first of them, counted from 0.

    Returns:
      (the member at the next record, what is recorded of it: name -> scalar).

    Raises:
      ValueError: for a score function that returns anything but a dict with `score`.
    """
    settings = Named(settings)
    key = key_of(seed, settings)

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
    return Member(state, first_bad_step, clipped, largest), record


def _all_finite(tree):
    finite = {}  # shape -> one array for all leaves of that shape: few large operations instead of many small ones
    for x in jax.tree.leaves(tree):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            finite[x.shape] = finite.get(x.shape, True) & jnp.isfinite(x)
    return functools.reduce(jnp.logical_and, [jnp.all(x) for x in finite.values()], jnp.asarray(True))
