"""Gradient transformations that optax lacks: a clip that tells whether it clipped; skipped, late and new beginnings.

All but the schedules `half_cosine`, `linear_at_last` and `in_stages` are ordinary optax transformations. Clipping
belongs before the optimiser in the chain, skipping, a late start and new beginnings around it:

    optax.chain(optim.clip_by_global_norm(1.0), optax.adam(2e-4, b1=0.5))
    optim.skip_large_updates(optax.adamax(1e-3), max_norm=200.0)
    optim.starting_at(10_000, optax.adam(2e-4))
    optim.restarting_at([10_000, 20_000], optax.adam(2e-4))
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


def half_cosine(first: float, last: float, num_steps: float) -> optax.Schedule:
    """step -> a number that goes from `first` to `last` along half a cosine, and stays there."""
    falling = optax.cosine_decay_schedule(1.0, num_steps)
    return lambda step: last + (first - last) * falling(step)


def linear_at_last(rate: float, num_steps: int, share: float = 0.5) -> optax.Schedule:
    """step -> the rate, and in the last share of num_steps what falls linearly from it to 0.

    Zhu et al. 2017 (CycleGAN), share one half, there by epochs. It is a function of the step alone, so that a run that
    goes on has the rate of one that was never stopped.

    Raises:
      ValueError: for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of the steps in which the rate falls is in (0, 1], not {share!r}")
    falling = max(1, round(share * num_steps))
    return optax.linear_schedule(rate, 0.0, falling, transition_begin=num_steps - falling)


class ClipState(NamedTuple):
    """Whether the last update was clipped, as 0. or 1."""

    clipped: jax.Array


def clip_by_global_norm(max_norm: float | jax.Array) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` that remembers in its state whether it clipped: g -> g min(1, max_norm / |g|).

    The train steps report it as the metric `clipped`. `max_norm` may be traced, so that `vmap` can sweep it. A NaN or
    infinite gradient makes every update NaN, as with optax: see `skip_large_updates`.
    """

    def init(params):
        return ClipState(jnp.zeros((), jnp.float32))

    def update(updates, state, params=None):
        norm = optax.tree.norm(updates)
        clipped = norm > max_norm
        scale = jnp.where(clipped, max_norm / jnp.where(clipped, norm, 1.0), 1.0)
        # A non-finite norm is not larger than anything, yet must not pass for a good update.
        scale = jnp.where(jnp.isfinite(norm), scale, jnp.nan)
        updates = jax.tree.map(lambda g: (g * scale).astype(g.dtype), updates)
        return updates, ClipState(clipped.astype(jnp.float32))

    return optax.GradientTransformation(init, update)


class SkipState(NamedTuple):
    """State of `skip_large_updates`."""

    skipped: jax.Array  # whether the last update was skipped, as 0. or 1.
    num_skipped: jax.Array  # how many so far
    inner: Any
    in_a_row: Any = ()  # how many since the last update that was done, where these are limited


def skip_large_updates(
    inner: optax.GradientTransformation, max_norm: float | jax.Array = jnp.inf, *, most_in_a_row: int | None = None
) -> optax.GradientTransformation:
    """Skips the update where the gradient's global norm is at or over `max_norm`, or is not finite.

    With `most_in_a_row` the update after so many skipped ones is done, however large it is, unless it is not finite.
    Otherwise a threshold below the usual norm stops a training for good, without an error: what is skipped changes
    nothing, so the next norm is as large. With clipping inside such an update is no larger than others.

    The norm is that of the gradient given to this transformation, so put clipping inside. In a skipped update the
    parameters and the inner state stay as they are; the train steps then leave batch statistics and the EMA as they
    are, too, and report the metric `skipped`. The rule of VDVAE (Child 2021), with thresholds of 200 to 400 there.

    `optax.skip_large_updates` under `optax.MultiSteps` looks at the norm alike, but its caller cannot see it.

    Raises:
      ValueError: for most_in_a_row below 1.
    """
    if most_in_a_row is not None and most_in_a_row < 1:
        raise ValueError(f"most_in_a_row must be at least 1, not {most_in_a_row}")

    def init(params):
        in_a_row = () if most_in_a_row is None else jnp.zeros((), jnp.int32)
        return SkipState(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32), inner.init(params), in_a_row)

    def update(updates, state, params=None):
        norm = optax.tree.norm(updates)
        skip, in_a_row = ~(norm < max_norm), ()  # true for NaN; infinity is not below infinity
        if most_in_a_row is not None:
            skip &= (state.in_a_row < most_in_a_row) | ~jnp.isfinite(norm)
            in_a_row = jnp.where(skip, state.in_a_row + 1, 0)
        new_updates, new_inner = inner.update(updates, state.inner, params)
        new_updates = jax.tree.map(lambda u: jnp.where(skip, jnp.zeros_like(u), u), new_updates)
        new_inner = jax.tree.map(lambda old, new: jnp.where(skip, old, new), state.inner, new_inner)
        return new_updates, SkipState(skip.astype(jnp.float32), state.num_skipped + skip, new_inner, in_a_row)

    return optax.GradientTransformation(init, update)


class LateState(NamedTuple):
    """State of `starting_at`."""

    step: jax.Array  # updates so far, int32
    inner: Any


def starting_at(step: int | jax.Array, inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Neither moves nor ages before update `step` (counted from 0); from there on it is `inner`, fresh.

    The way to start a player or a new layer late. Weight 0 for its loss instead would age Adam: after 5,000 gradients
    of zero its first update is 10 times the rate (b1 0, b2 0.99), since the second moment has forgotten its bias
    correction.
    """

    def init(params):
        return LateState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None):
        new_updates, new_inner = inner.update(updates, state.inner, params)
        started = state.step >= step
        new_updates = jax.tree.map(lambda u: jnp.where(started, u, jnp.zeros_like(u)), new_updates)
        new_inner = jax.tree.map(lambda old, new: jnp.where(started, new, old), state.inner, new_inner)
        return new_updates, LateState(state.step + 1, new_inner)

    return optax.GradientTransformation(init, update)


class RestartedState(NamedTuple):
    """State of `restarting_at`."""

    step: jax.Array  # updates so far, int32
    inner: Any


def restarting_at(steps: Sequence[int], inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, whose state is that of its beginning again at each of these updates (counted from 0).

    For networks to which layers are added: until then the gradient of the new ones is zero, which ages Adam (see
    `starting_at`). Schedules of the rate go on.
    """

    def init(params):
        return RestartedState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None):
        restart = jnp.any(state.step == jnp.asarray(steps, jnp.int32))

        def begun(old, new):
            scheduled = isinstance(old, optax.ScaleByScheduleState)
            return old if scheduled else jax.tree.map(lambda o, n: jnp.where(restart, n, o), old, new)

        fresh = inner.init(updates if params is None else params)
        old = jax.tree.map(begun, state.inner, fresh, is_leaf=lambda x: isinstance(x, optax.ScaleByScheduleState))
        updates, new = inner.update(updates, old, params)
        return updates, RestartedState(state.step + 1, new)

    return optax.GradientTransformation(init, update)


class RecordedState(NamedTuple):
    """State of `recording`."""

    gradient: Any


def recording() -> optax.GradientTransformation:
    """Moves nothing and keeps the gradient it was given in its state: what a train step would do, read off it."""

    def init(params):
        return RecordedState(jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        return jax.tree.map(jnp.zeros_like, updates), RecordedState(updates)

    return optax.GradientTransformation(init, update)


def update_flags(opt_state: Any) -> dict[str, jax.Array]:
    """What `clip_by_global_norm` and `skip_large_updates` anywhere in an optimiser's state say of its last update.

    Returns:
      A dict with `clipped` and `skipped`, each only if such a transformation is there; 0. or 1.
    """
    flags: dict[str, jax.Array] = {}
    for leaf in jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, (ClipState, SkipState))):
        if isinstance(leaf, ClipState):
            flags["clipped"] = jnp.maximum(flags.get("clipped", 0.0), leaf.clipped)
        elif isinstance(leaf, SkipState):
            flags["skipped"] = jnp.maximum(flags.get("skipped", 0.0), leaf.skipped)
            for name, flag in update_flags(leaf.inner).items():
                # Where it was skipped, the inner state still tells of the update before.
                flags[name] = jnp.maximum(flags.get(name, 0.0), flag * (1 - leaf.skipped))
    return flags


def keep_if_skipped(flags: dict[str, jax.Array], old: Any, new: Any) -> Any:
    """`old` where the flags say that the update was skipped, else `new`; `new` itself where nothing can skip."""
    if "skipped" not in flags:
        return new
    return jax.tree.map(lambda o, n: jnp.where(flags["skipped"] > 0, o, n), old, new)


def in_stages(rate: float, num_steps: int, num_stages: int = 8) -> optax.Schedule:
    """Stages of Burda et al. 2016, section 5: stage i = 0, 1, ... takes 3^i parts of the steps, at a rate of

        rate * round(10^(1 - i / (num_stages - 1)), 1) / 10

    which falls to a tenth. Their eight stages are 1 + 3 + ... + 2187 = 3,280 passes, from 1e-3 to 1e-4.

    Args:
      rate: of the first stage.
      num_steps: of all stages.
      num_stages: 2 or more.

    Returns:
      step -> rate.
    """
    ends = num_steps * (np.cumsum(3.0 ** np.arange(num_stages)) / sum(3**i for i in range(num_stages)))
    rates = [rate * round(10 ** (1 - i / (num_stages - 1)), 1) / 10 for i in range(num_stages)]
    boundaries = np.round(ends[:-1]).astype(np.int32)
    table = np.asarray(rates, np.float32)
    return lambda step: jnp.asarray(table)[jnp.searchsorted(boundaries, step, side="right")]
