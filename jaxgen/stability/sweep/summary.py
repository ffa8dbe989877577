"""What became of each member, from its records: a table with one row a member."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.stability import trajectories
from jaxgen.stability.sweep.steps import Member


def num_largest_of(num_steps: int) -> int:
    """How many of the largest norms of the second half the tail index reads: 5 %, one for the threshold included."""
    return max(2, min(1 + num_steps // 40, 1000))


def hill_tail_index(largest: np.ndarray) -> np.ndarray:
    """alpha = 1 / mean_i log(x_(i) / x_(k+1)), the exponent of P(X > x) ~ x^-alpha, from the k + 1 largest values.

    Small means heavy tails: below 2 a variance does not exist. Large values (10 and more) are what light tails give.

    Args:
      largest: [..., k + 1], in falling order, positive.

    Returns:
      [...]; NaN where a value is not positive, infinity where all are equal.

    Hill 1975, "A simple general approach to inference about the tail of a distribution".
    """
    largest = np.asarray(largest, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 / np.mean(np.log(largest[..., :-1]) - np.log(largest[..., -1:]), axis=-1)


def summarize(members: Member, history: Mapping[str, np.ndarray], steps: np.ndarray) -> dict[str, np.ndarray]:
    """What became of each member, name -> [N].

    `finite`; `first_bad_step` (counted from 0, -1 for none); with a score `final_score` (NaN for a member that failed),
    `best_score`, `best_step` and `final_..` for the other numbers of the score; with a radius and 32 records
    `growth_law`; for each metric ending in `clipped` the share of clipped steps, `.._clip_share`; for each ending in
    `grad_norm` `.._tail_index` (Hill, of the largest tenth of the second half's values; NaN for members that failed).
    """
    first_bad = np.asarray(members.first_bad_step)
    finite = first_bad < 0
    table: dict[str, np.ndarray] = {"finite": finite, "first_bad_step": first_bad}
    if "score" in history:
        score = history["score"]
        seen = np.where(np.isfinite(score), score, -np.inf)
        best = np.argmax(seen, axis=1)
        table["final_score"] = score[:, -1]
        table["best_score"] = np.where(np.isfinite(seen.max(axis=1)), seen.max(axis=1), np.nan)
        table["best_step"] = np.where(np.isfinite(seen.max(axis=1)), steps[best], -1)
        for name, values in history.items():
            if name.startswith("score/"):
                table[f"final_{name.removeprefix('score/')}"] = values[:, -1]
    if "radius" in history and len(steps) >= 32:
        with jax.enable_x64(True):
            law = np.asarray(trajectories.growth_law(jnp.asarray(history["radius"], jnp.float64)))
        table["growth_law"] = np.array(trajectories.GROWTH_LAWS)[law]
    num_good = np.where(finite, steps[-1], first_bad)
    for name, total in members.clipped.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            table[f"{_flat(name, 'clipped')}clip_share"] = np.asarray(total, np.float64) / num_good
    for name, largest in members.largest.items():
        index = hill_tail_index(np.asarray(largest))
        table[f"{_flat(name, 'grad_norm')}tail_index"] = np.where(finite, index, np.nan)
    return table


def _flat(name, last):
    return name.removesuffix(last).replace("/", "_")
