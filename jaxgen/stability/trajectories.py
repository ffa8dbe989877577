"""What a trajectory did: how its distance from the equilibrium grows or decays, as a law and as a rate."""

import jax
import jax.numpy as jnp

from jaxgen.stability.games import Players

GROWTH_LAWS = ("decay", "cycle", "square-root growth", "exponential")
"""The names of what `growth_law` returns."""

DECAY, CYCLE, SQUARE_ROOT, EXPONENTIAL = range(4)


def radius(trajectory: Players, equilibrium: Players) -> jax.Array:
    """Euclidean distance of both players together from the equilibrium, at every time.

    Args:
      trajectory: leaves with a leading axis of length T, from `updates.run`.
      equilibrium: the same tree without that axis.

    Returns:
      [T].
    """

    differences = [
        jnp.abs(jnp.asarray(x) - jnp.asarray(centre)).reshape(len(x), -1)
        for x, centre in zip(*map(jax.tree.leaves, (tuple(trajectory), tuple(equilibrium))), strict=True)
    ]
    moved = jnp.concatenate(differences, axis=1)
    # In units of the largest coordinate: the square of a tiny number would be 0, that of a huge one infinite.
    largest = jnp.max(moved, axis=1)
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    return unit * jnp.linalg.norm(moved / unit[:, None], axis=1)


def growth_law(radius: jax.Array, tolerance: float = 1e-3) -> jax.Array:
    """Which of four laws a distance from the equilibrium follows at the end of a run.

    The energy E = r^2 is averaged in three windows of the second half, smoothly, so that turns within a window cancel.
    Their differences tell the laws apart: `exponential` growth multiplies them by the same factor as E itself;
    `square-root growth` (r^2 linear in time, what joint clipping makes of exponential growth) leaves them equal, and
    stands for all growth that is slower than exponential; a `cycle` is where E changes by no more than the tolerance,
    by no more than its own noise, or where the shrinking differences lead to a limit that is nearly reached; `decay` is
    whatever else goes down, also as slowly as 1 / sqrt(t). A clipped run may look stable by its last value; its law
    tells. What comes to rest away from the equilibrium, or at the noise of its gradients, is a `cycle`, too: all that a
    distance can tell is that it neither grows nor decays.

    Args:
      radius: [..., T] at equal intervals, T at least 32, the start included; a run that turned to NaN or infinity is
        `exponential`. For a safe verdict each eighth of the run should hold several turns.
      tolerance: the relative change of E between the first and the last window that still is a cycle.

    Returns:
      int32 [...], an index into `GROWTH_LAWS`.

    Raises:
      ValueError: for fewer than 32 values.
    """
    num = radius.shape[-1]
    if num < 32:
        raise ValueError(f"a growth law needs at least 32 values, not {num}")
    finite = jnp.all(jnp.isfinite(radius), axis=-1, keepdims=True)
    radius = jnp.where(finite, radius, 1.0)
    # In units of its largest value: squares of tiny numbers must not be lost before they are compared.
    largest = jnp.max(radius, axis=-1, keepdims=True)
    relative = jnp.square(radius / jnp.where(largest > 0, largest, 1.0))
    early, middle, first, second, third = (_smooth_mean(relative, centre, num // 4) for centre in (1, 3, 5, 6, 7))

    rounding = jnp.finfo(radius.dtype).eps
    step, next_step = second - first, third - second
    # The limit of a geometric approach, by Aitken's formula, where there is one.
    ratio = next_step / jnp.where(step == 0, 1.0, step)
    shrinks = (ratio > 0) & (ratio < 0.9)
    limit = third + next_step * ratio / jnp.where(shrinks, 1 - ratio, 1.0)
    settled = shrinks & (jnp.abs(limit - third) < 0.1 * third)
    change, early_change = _log_ratio(third, first), _log_ratio(middle, early)
    # 1 where differences grow as fast as the energy, 0 where they stay equal.
    grows = (step > 0) & (next_step > 0)
    curvature = jnp.log(jnp.where(grows, ratio, 1.0)) / jnp.where(grows, change / 2, 1.0)

    # What started exponentially and has slowed down is not exponential, however uneven its turns are.
    exponential = (curvature > 0.5) & (change > 0.5 * early_change)
    exponential |= change > jnp.log(100.0)  # no power of time grows like that from 5/8 to 7/8 of a run
    law = jnp.where(exponential, EXPONENTIAL, SQUARE_ROOT)
    law = jnp.where(change < 0, DECAY, law)
    steady = (jnp.abs(change) < tolerance) | settled
    steady |= (jnp.abs(change) < jnp.log(2.0)) & ~_has_trend(relative)
    law = jnp.where(steady, CYCLE, law)
    law = jnp.where(third < rounding, DECAY, law)  # nothing of the largest value is left
    return jnp.where(finite[..., 0], law, EXPONENTIAL).astype(jnp.int32)


def _has_trend(x, threshold=4.0):
    """Whether the second half of x goes up or down by more than it scatters, by Student's t of six windows in it."""
    num = x.shape[-1]
    values = jnp.stack([_smooth_mean(x, 4.5 + 0.6 * i, num // 8) for i in range(6)], axis=-1)
    times = jnp.arange(6) - 2.5
    slope = values @ times / jnp.sum(times**2)
    scatter = values - jnp.mean(values, axis=-1, keepdims=True) - slope[..., None] * times
    return jnp.abs(slope) > threshold * jnp.sqrt(jnp.sum(scatter**2, axis=-1) / 4 / jnp.sum(times**2))


def _log_ratio(x, y):
    return jnp.log(jnp.maximum(x, 1e-37)) - jnp.log(jnp.maximum(y, 1e-37))


def slope(radius: jax.Array) -> jax.Array:
    """The rate of the exponential growth (above 0) or decay (below 0) per step, d log r / dt, over the second half.

    Between two smooth averages of log r, so that turns cancel. In the linear regime it is log(spectral radius).

    Args:
      radius: [..., T], positive, at equal intervals.

    Returns:
      [...], in nats per interval.
    """
    num = radius.shape[-1]
    logs = jnp.log(radius)
    width = num // 4
    return (_smooth_mean(logs, 7, width) - _smooth_mean(logs, 5, width)) / (
        _centre(num, 7, width) - _centre(num, 5, width)
    )


def _centre(num, eighths, width):
    """The middle of a window of that width around so many eighths of the run."""
    return _begin(num, eighths, width) + (width - 1) / 2


def _begin(num, eighths, width):
    return min(num - width, max(0, round(num * eighths / 8 - width / 2)))


def _smooth_mean(x, eighths, width):
    """The mean over a window, weighted by 1 - cos: a sine of n whole or broken turns in it leaves about 1 / n^3."""
    begin = _begin(x.shape[-1], eighths, width)
    phase = 2 * jnp.pi * (jnp.arange(width, dtype=x.dtype) + 0.5) / width
    return x[..., begin : begin + width] @ ((1 - jnp.cos(phase)) / width)
