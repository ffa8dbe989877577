"""The verdict on one setting of a small game: spectra, the largest stable rate, and what a simulation then does."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxgen.stability import oracles, trajectories, updates
from jaxgen.stability.games import Field, Players


class Verdict(NamedTuple):
    """What `judge` finds. NumPy and Python values in double precision."""

    eigenvalues: np.ndarray  # complex, of the field's Jacobian at the equilibrium
    step_eigenvalues: np.ndarray  # complex, of one update's Jacobian there, the rule's state included
    spectral_radius: float  # the largest modulus of the latter
    stable: bool  # whether that is below 1
    largest_stable_scale: float  # by how much both rates may be multiplied: 0 if by nothing, infinity if by anything
    final: Players  # where the simulation ended
    final_radius: float  # its distance from the equilibrium
    growth_law: str  # one of trajectories.GROWTH_LAWS


def judge(
    make_rule: Callable[[Players], updates.Rule],
    rates: Players,
    field: Field,
    *,
    start: Players,
    equilibrium: Players,
    num_steps: int,
) -> Verdict:
    """Spectra at the equilibrium and a simulation from the start, in double precision whatever the global setting.

    Args:
      make_rule: from both players' rates, which may be traced, to an update rule.
      rates: of the players.
      field: the vector field, clips and adjustments included.
      start: of the simulation.
      equilibrium: where the field is 0, and differentiable.
      num_steps: updates to simulate, at least 31.

    Returns:
      A `Verdict`.

    Raises:
      ValueError: if the field is not 0 at the equilibrium, or the run is too short for a growth law.
    """
    if num_steps < 31:
        raise ValueError(f"a growth law needs at least 31 steps, not {num_steps}")
    with jax.enable_x64(True):
        start, equilibrium = (
            Players(*jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tuple(p))) for p in (start, equilibrium)
        )
        left = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(field(equilibrium)))
        if not left < 1e-9:
            raise ValueError(f"the field is not 0 at the equilibrium but {left:g}: this is another game's equilibrium")
        eigenvalues = field_eigenvalues(field, equilibrium)
        jacobian = jax.jit(jax.vmap(lambda scale: _step_jacobian(make_rule(_times(rates, scale)), field, equilibrium)))

        def spectra(scales):
            return np.linalg.eigvals(np.asarray(jacobian(jnp.asarray(scales))))

        def radii(scales):
            return np.abs(spectra(scales)).max(axis=-1)

        (step_eigenvalues,) = spectra(np.ones(1))
        # Rates are measured in turns and dampings of the field: |h mu| from far below 1 to far above.
        unit = 1 / max(np.abs(_field_eigenvalues(field, equilibrium, rates)).max(), 1e-30)
        run = jax.jit(lambda start: updates.run(make_rule(rates), field, start, num_steps))
        trajectory = run(start)
        distance = trajectories.radius(trajectory, equilibrium)
        law = trajectories.GROWTH_LAWS[int(trajectories.growth_law(distance))]
        return Verdict(
            eigenvalues=eigenvalues,
            step_eigenvalues=step_eigenvalues,
            spectral_radius=float(np.abs(step_eigenvalues).max()),
            stable=bool(np.abs(step_eigenvalues).max() < oracles.STABLE_BELOW),
            largest_stable_scale=oracles.first_unstable(radii, 1e-5 * unit, 1e4 * unit),
            final=Players(*jax.tree.map(lambda x: np.asarray(x[-1]), tuple(trajectory))),
            final_radius=float(distance[-1]),
            growth_law=law,
        )


def field_eigenvalues(field: Field, players: Players) -> np.ndarray:
    """The eigenvalues of J = dv/dw, dense: for small games. Complex [n]."""
    return _field_eigenvalues(field, players, Players(1.0, 1.0))


def step_eigenvalues(rule: updates.Rule, field: Field, players: Players) -> np.ndarray:
    """The eigenvalues of the Jacobian of one update, the rule's state included, dense. Complex [n]."""
    return np.linalg.eigvals(np.asarray(jax.jit(lambda: _step_jacobian(rule, field, players))()))


def _field_eigenvalues(field, players, rates):
    """Of diag(rates) J."""
    point, unravel = ravel_pytree(Players(*jax.tree.map(jnp.asarray, tuple(players))))

    def direction(w):
        v = field(unravel(w))
        return ravel_pytree(Players(*(jax.tree.map(lambda x, h=h: h * x, x) for x, h in zip(v, rates, strict=True))))[0]

    return np.linalg.eigvals(np.asarray(jax.jit(jax.jacobian(direction))(point)))


def _step_jacobian(rule, field, players):
    step, point = updates.step_map(rule, field, players)
    return jax.jacobian(step)(point)


def _times(rates, scale):
    return Players(*(rate * scale for rate in rates))
