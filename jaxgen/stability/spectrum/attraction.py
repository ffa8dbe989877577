"""Attraction and rotation: how much of a Jacobian is symmetric, and how much antisymmetric."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.arguments import check_key
from jaxgen.stability.spectrum.products import Map, exactly, flat_operator, like


class Shares(NamedTuple):
    """How much of |J|_F^2 is in the symmetric part (J + J^T) / 2, and how much in the antisymmetric one."""

    symmetric: float  # in [0, 1] up to sampling error: attraction, repulsion, stiffness
    antisymmetric: float  # 1 - symmetric: rotation
    standard_error: float  # of both
    norm: float  # |J|_F, estimated


def shares(field: Map, point: Any, *, rates: Any = None, num_probes: int = 16, key: jax.Array | None = None) -> Shares:
    """Symmetric and antisymmetric share of the Jacobian, by Hutchinson's probes: two reverse passes for each.

    |S|_F^2 = (|J|_F^2 + tr J^2) / 2 and |A|_F^2 = (|J|_F^2 - tr J^2) / 2, with E |J^T w|^2 = |J|_F^2 and
    E w^T J^T J^T w = tr J^2 for random signs w.

    Args:
      field: the vector field.
      point: where to differentiate.
      rates: as for `ritz_values`, in its symmetric form R^(1/2) J R^(1/2).
      num_probes: at least 2.
      key: of the probes.

    Raises:
      ValueError: for fewer than two probes, or a Jacobian that is 0 or not finite.
    """
    if key is not None:
        check_key(key)
    if num_probes < 2:
        raise ValueError(f"num_probes must be at least 2, not {num_probes}")
    point = jax.tree.map(jnp.asarray, point)
    rates = like(1.0 if rates is None else rates, point)
    key = jax.random.key(0) if key is None else key
    squares, traces = (np.asarray(x, np.float64) for x in _probe(field, point, rates, key, num_probes))
    mean = squares.mean()
    if not (np.isfinite(mean) and mean > 0):
        raise ValueError(f"the Jacobian has the squared norm {mean:g}: it has no shares")
    ratio = traces.mean() / mean
    error = np.std(traces - ratio * squares, ddof=1) / (mean * math.sqrt(num_probes)) / 2
    return Shares((1 + ratio) / 2, (1 - ratio) / 2, float(error), float(np.sqrt(mean)))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _probe(field, point, rates, key, num_probes):
    with exactly():
        operator, flat = flat_operator(field, point, rates)

        def probe(key):
            w = jax.random.rademacher(key, flat.shape, flat.dtype)
            once = operator(w)
            return once @ once, w @ operator(once)

        return lax.map(probe, jax.random.split(key, num_probes))
