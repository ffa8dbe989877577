"""One train step as a differentiable map of what it moves."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.arguments import check_key
from jaxgen.stability.spectrum.products import Map


def train_step_map(train_step: Callable, state: Any, batch: Any, key: jax.Array) -> tuple[Map, list[jax.Array]]:
    """One train step on one batch as a map of parameters and optimiser state, and the point that stands for `state`.

    Its eigenvalues tell what the step that is really run does to a small deviation: the order of the players, momentum,
    Adam's moments, clips, what terms keep. Leaves that are no floating point numbers (counters) stay as they are, and
    so do the moving average, frozen networks and the mutable collections: the rest of a train step does not depend on
    batch statistics; that the vectors of spectral normalisation follow the weights is left out.

    Args:
      train_step: (state, batch, key) -> (state, metrics), of any family.
      state: where to differentiate.
      batch: of the step.
      key: of the step.

    Returns:
      (map, point), for `ritz_values`. Every leaf is measured in units of its root mean square, or as
      they are if all are 0: the eigenvalues are the same, and Adam's tiny second moments do not spoil the precision of
      all others. Second moments below 1e-30 are read as 1e-30, since Adam's root has no derivative at 0; it adds 1e-8
      to the root anyway.
    """
    check_key(key)
    paths, structure = jax.tree_util.tree_flatten_with_path(state)
    leaves = [jnp.asarray(leaf) if not hasattr(leaf, "dtype") else leaf for _, leaf in paths]

    def moves(path, leaf):
        names = {getattr(part, "name", None) for part in path}
        return not names & {"ema", "model_state", "frozen"} and jnp.issubdtype(leaf.dtype, jnp.floating)

    chosen = [i for i, (path, _) in enumerate(paths) if moves(path, leaves[i])]
    for i in chosen:
        if any(getattr(part, "name", None) == "nu" for part in paths[i][0]):
            leaves[i] = jnp.maximum(leaves[i], 1e-30)
    sizes = [float(jnp.sqrt(jnp.mean(jnp.square(leaves[i])))) for i in chosen]
    units = [
        jnp.asarray(size if size > 0 and math.isfinite(size) else 1.0, leaves[i].dtype)
        for i, size in zip(chosen, sizes, strict=True)
    ]

    def step(scaled):
        moved = list(leaves)
        for i, unit, leaf in zip(chosen, units, scaled, strict=True):
            moved[i] = unit * leaf
        after, _ = train_step(jax.tree.unflatten(structure, moved), batch, key)
        after = jax.tree.leaves(after)
        return [after[i] / unit for i, unit in zip(chosen, units, strict=True)]

    return step, [leaves[i] / unit for i, unit in zip(chosen, units, strict=True)]
