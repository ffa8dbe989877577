"""What tells that a training is not well although its steps were: a state that is not finite, and what its log shows.

A step whose loss or update is not finite is noticed by the loop itself.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import sharding

_SHOWN = 3  # arrays named in a message
LASTING = 0.1  # share of a run's steps for which a player must have skipped all updates to be spoken of
EXPLODED = 1000.0  # times the smallest a loss was, or its largest plausible size

# A state ------------------------------------------------------------------------------------------------------------


def not_finite(mesh: jax.sharding.Mesh, state: Any, fresh: Any) -> str:
    """Which arrays of a state are not finite, in words; "" if all are.

    The devices look, and one small array is read; a state that is finite costs no more.

    Args:
      mesh: whose devices hold the state.
      state: a pytree of arrays; integers and PRNG keys are finite.
      fresh: the state that training began with, or a function that makes it: what is not finite there is so by design,
        such as the best loss so far.
    """
    leaves = {path: leaf for path, leaf in _named(state).items() if _is_inexact(leaf)}
    if not leaves:
        return ""
    wrong = [
        path for path, fine in zip(leaves, np.asarray(_look(mesh)(list(leaves.values()))), strict=True) if not fine
    ]
    if wrong:
        begun = _named(fresh() if callable(fresh) else fresh)
        wrong = [path for path in wrong if path not in begun or bool(_is_finite(begun[path]))]
    names = ", ".join(path.lstrip(".") or "the state" for path in wrong[:_SHOWN])
    return names + (f" and {len(wrong) - _SHOWN} more arrays" if len(wrong) > _SHOWN else "")


def _named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _is_inexact(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


@jax.jit
def _is_finite(leaf):
    return jnp.isfinite(leaf).all()


@functools.lru_cache
def _look(mesh: jax.sharding.Mesh) -> Callable:
    def look(leaves):
        return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])

    return sharding.where_it_lies(look, mesh)


# A log --------------------------------------------------------------------------------------------------------------


def doubts(records: Sequence[Mapping[str, float]], image_shape: Sequence[int]) -> str:
    """A sentence on a training that reached its end and hardly trained; "" where the log shows no such thing.

    Args:
      records: lines of its log, in order, as `metrics_log.read_metrics` gives them: means over the steps since the
        line before.
      image_shape: (H, W, C), which a likelihood's size goes with.
    """
    names = dict.fromkeys(name for record in records for name in record)
    found = [*_skipping(records, names), *_exploded(records, names, math.prod(image_shape))]
    if not found:
        return ""
    return f"This run is not well: {'; '.join(found)}. A smaller learning rate may help, in a new run."


def _skipping(records, names) -> list[str]:
    """Players that skipped every update to the end, or most of all."""
    found = []
    for name in names:
        player, _, last = name.rpartition("/")
        if last != "skipped":
            continue
        lines, before, counted = [], 0, 0.0
        for record in records:
            if name in record and (steps := record["step"] - before) > 0:
                lines.append((before, steps, record[name]))
                before = record["step"]
        total = sum(steps for _, steps, _ in lines)
        since = before
        for start, _, share in reversed(lines):
            if share < 1:
                break
            since = start
        counted = sum(steps * share for _, steps, share in lines if math.isfinite(share))
        who = f"the {player}" if player else "the network"
        if total and before - since >= LASTING * total:
            when = f" after step {since:,}" if since else ""
            found.append(f"{who} skipped every update{when} (skip_norm), and learnt nothing there")
        elif total and counted >= total / 2:
            found.append(f"{who} skipped {counted / total:.0%} of its updates (skip_norm)")
    return found


def _exploded(records, names, numbers) -> list[str]:
    """Losses that ended far above what they were, or what they could mean."""
    found = []
    for name in names:
        if name.startswith("eval/") or name.rpartition("/")[2] not in ("loss", "elbo"):
            continue
        sizes = [abs(record[name]) for record in records if name in record]
        # Neither the first line, which may have exploded already, nor a loss near 0 is a measure by itself.
        least = min([size for size in sizes if math.isfinite(size)], default=0.0)
        if sizes and sizes[-1] > EXPLODED * min(max(1.0, least), 1.0 + numbers):
            found.append(f"the {name.replace('/', ' ')} has grown to {sizes[-1]:.3g}".replace("the loss", "its loss"))
    return found
