"""What scores say about a setting: failures, the spread over seeds, and how many settings one must try."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def failures(table: Mapping[str, np.ndarray], failed_below: float | None, score: str = "final_score") -> np.ndarray:
    """Which members failed, bool [N]: not finite to the end, or a score below a threshold (None: no threshold)."""
    failed = ~np.asarray(table["finite"])
    if score in table:
        values = np.asarray(table[score], np.float64)
        failed = failed | (~np.isfinite(values) if failed_below is None else ~(values >= failed_below))
    return failed


def over_seeds(
    table: Mapping[str, np.ndarray],
    settings: Sequence[str],
    *,
    score: str = "final_score",
    failed_below: float | None = None,
) -> list[dict[str, Any]]:
    """One row for each setting: the spread of a score over its seeds, and how often it fails.

    Args:
      table: of a `Result`.
      settings: the names that tell settings apart; without `seed`.
      score: the column to describe.
      failed_below: a score below this is a failure, too; None: only numbers that are not finite are.

    Returns:
      Dicts with the settings, `seeds` (how many), `median`, `quantile_10`, `quantile_90`, `lowest`, `highest` over the
      members that are finite, `failures`, `failure_probability` and its 95 % interval by Wilson, `failure_low` and
      `failure_high`.
    """
    columns = np.stack([np.asarray(table[name], np.float64) for name in settings if name != "seed"], axis=1)
    rows, members = np.unique(columns, axis=0, return_inverse=True)
    members, all_failed = members.ravel(), failures(table, failed_below, score)
    found = []
    for index, row in enumerate(rows):
        chosen = members == index
        values = np.asarray(table[score], np.float64)[chosen]
        kept = values[np.isfinite(values)]
        failed = all_failed[chosen]
        low, high = wilson_interval(int(failed.sum()), len(failed))
        quantiles = np.quantile(kept, [0.5, 0.1, 0.9, 0.0, 1.0]) if len(kept) else np.full(5, np.nan)
        found.append(
            dict(zip([name for name in settings if name != "seed"], row.tolist(), strict=True))
            | {"seeds": len(failed)}
            | dict(zip(("median", "quantile_10", "quantile_90", "lowest", "highest"), quantiles.tolist(), strict=True))
            | {
                "failures": int(failed.sum()),
                "failure_probability": float(failed.mean()),
                "failure_low": low,
                "failure_high": high,
            }
        )
    return found


def wilson_interval(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The interval for a probability after so many successes, 95 % by default (Wilson 1927)."""
    p, z2 = successes / trials, z * z
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def budget_curve(scores: Sequence[float] | np.ndarray, *, failure_score: float | None = None) -> np.ndarray:
    """E[best of k] for k = 1..n: what a random search of k runs finds on average, unbiased from n runs.

        E[best of k] = sum_i x_(i) C(n - i, k - 1) / C(n, k),    x_(1) >= x_(2) >= ...

    the mean of the largest over all subsets of k of the n scores.

    Args:
      scores: [n], more is better.
      failure_score: what a run counts that is not finite; None refuses such runs.

    Returns:
      [n], which never falls; its last is the largest score.

    Raises:
      ValueError: for no scores, or scores that are not finite without a `failure_score`.

    Dodge et al. 2019, "Show your work", whose estimate draws with replacement; this one does not.
    """
    x = np.asarray(scores, np.float64).ravel()
    if not len(x):
        raise ValueError("a budget curve needs at least one score")
    if failure_score is not None:
        x = np.where(np.isfinite(x), x, failure_score)
    if not np.all(np.isfinite(x)):
        raise ValueError(f"{int(np.sum(~np.isfinite(x)))} scores are not finite: say what a failure counts")
    x, n = np.sort(x)[::-1], len(x)
    curve = np.empty(n)
    for k in range(1, n + 1):
        weight, total = k / n, 0.0  # C(n - 1, k - 1) / C(n, k) for the largest; each next by a ratio
        for i in range(1, n - k + 2):
            total += weight * x[i - 1]
            weight *= (n - i - k + 1) / (n - i) if n > i else 0.0
        curve[k - 1] = total
    return curve
