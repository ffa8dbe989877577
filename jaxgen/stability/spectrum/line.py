"""The field along the straight line from one point to another."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxgen.stability.spectrum.products import Map, exactly


class Line(NamedTuple):
    """The field along the straight line from one point to another, each [n]."""

    positions: np.ndarray  # a in w = (1 - a) start + a end
    angles: np.ndarray  # path-angle: cosine of v with end - start, in [-1, 1]; NaN where v is 0
    norms: np.ndarray  # path-norm: |v|


def path(field: Map, start: Any, end: Any, positions: np.ndarray | None = None) -> Line:
    """Path-angle and path-norm between two points, such as two checkpoints.

    The players move along v. Where the end point attracts, the cosine goes from + to - there, in one jump; rotation
    around it shows as a bump that keeps its sign.

    Args:
      field: v.
      start: a = 0, often the initialisation or an early checkpoint.
      end: a = 1, the point in question.
      positions: values of a; 31 from 0 to 1.5 by default, so beyond the end.

    Raises:
      ValueError: if both points are the same.

    Berard et al. 2020, "A closer look at the optimization landscapes of generative adversarial networks", whose field
    is the gradient: their cosine has the other sign.
    """
    positions = np.linspace(0, 1.5, 31) if positions is None else np.asarray(positions, np.float64)
    start, end = (jax.tree.map(jnp.asarray, point) for point in (start, end))
    angles, norms, length = _along(field, start, end, jnp.asarray(positions, ravel_pytree(start)[0].dtype))
    if not length > 0:
        raise ValueError("a line needs two different points, and these are one")
    return Line(positions, np.asarray(angles, np.float64), np.asarray(norms, np.float64))


@functools.partial(jax.jit, static_argnums=0)
def _along(field, start, end, positions):
    with exactly():
        (first, unravel), (last, _) = ravel_pytree(start), ravel_pytree(end)
        straight = last - first
        length = jnp.linalg.norm(straight)

        def at(position):
            v = ravel_pytree(field(unravel(first + position * straight)))[0]
            norm = jnp.linalg.norm(v)
            return v @ straight / (norm * length), norm

        return *lax.map(at, positions), length
