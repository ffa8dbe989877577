"""Simulated games of known equilibrium, many members at once, and how fast they grow or decay."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.stability import trajectories, updates
from jaxgen.stability.games import Players

TINY = 1e-200  # a radius below this has decayed, whatever rounding does to it
HUGE = 1e150  # and one above this has diverged: its square is about to overflow


def simulate(
    make_rule: Callable,
    make_field: Callable,
    start: Players,
    settings: dict,
    num_steps: int,
    measure: Callable | None = None,
) -> np.ndarray:
    """The distance from the equilibrium at 0 of many members of a game, in double precision.

    Args:
      make_rule, make_field: settings of one member -> rule, field.
      start: of all.
      settings: name -> [N].
      num_steps: T.
      measure: (settings, trajectory) -> [T + 1], instead of the distance.

    Returns:
      [N, T + 1].
    """
    with jax.enable_x64(True):

        def one(settings):
            trajectory = updates.run(make_rule(settings), make_field(settings), start, num_steps)
            if measure is not None:
                return measure(settings, trajectory)
            centre = Players(*jax.tree.map(lambda x: jnp.zeros_like(jnp.asarray(x)), tuple(start)))
            return trajectories.radius(trajectory, centre)

        rows = {name: jnp.asarray(values, jnp.float64) for name, values in settings.items()}
        num = len(next(iter(rows.values())))
        return np.asarray(jax.jit(lambda rows: jax.lax.map(one, rows, batch_size=min(num, 1024)))(rows))


def slopes(radii: np.ndarray) -> np.ndarray:
    """Growth per step in nats, -inf where the radius has vanished and +inf where it is not finite: [N]."""
    with jax.enable_x64(True):
        slope = np.array(trajectories.slope(jnp.asarray(np.clip(np.nan_to_num(radii, nan=1.0), TINY, 1e250))))
    slope[radii[:, -1] <= TINY] = -np.inf
    slope[~(radii < HUGE).all(axis=1)] = np.inf
    return slope


def linear_slopes(radii: np.ndarray, low: float = 1e-12, high: float = 1e-2) -> np.ndarray:
    """Growth per step in nats while the radius is in (low, high): [N].

    Below there is nothing but the rounding of the loss, and above the game is not linear: what diverges at first may
    end on a cycle. Of that time the second half, in which the fastest direction is all that is left.
    """
    found = np.empty(len(radii))
    for row, radius in enumerate(radii):
        outside = np.flatnonzero(~((radius > low) & (radius < high)))
        stop = max(4, int(outside[0]) if len(outside) else len(radius))
        found[row] = np.polyfit(np.arange(stop // 2, stop), np.log(radius[stop // 2 : stop]), 1)[0]
    return found
