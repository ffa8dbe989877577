"""The numbers of a sweep as files: members.csv, columns.txt, sweep.json."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen import files
from jaxgen.local_path import local
from jaxgen.stability.sweep.result import Result
from jaxgen.stability.sweep.scores import budget_curve, failures, over_seeds


def write(
    result: Result,
    directory: str | os.PathLike,
    *,
    failed_below: float | None = None,
    facts: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Writes the numbers of a sweep.

    `members.csv` has one row a member, `columns.txt` what its columns mean, and `sweep.json` all numbers: members,
    settings, budget curve, history.

    Args:
      result: of `run`.
      directory: where to.
      failed_below: a final score below this is a failure, besides what is not finite.
      facts: what else belongs into `sweep.json`.

    Returns:
      The paths. What is not finite is empty in the table and null in JSON.

    Raises:
      OSError: with the path and what to do, if a file cannot be written.
    """
    directory = local(directory, "the directory for results")
    with files.explained(directory, "make the directory"):
        directory.mkdir(parents=True, exist_ok=True)
    result = result._replace(table=result.table | {"failed": failures(result.table, failed_below)})
    names = list(result.table)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in zip(*(result.table[name].tolist() for name in names), strict=True):
        writer.writerow(["" if isinstance(x, float) and math.isnan(x) else x for x in row])
    record: dict[str, Any] = {
        "members": len(result.settings["seed"]),
        "seconds": result.seconds,
        "failed_below": failed_below,
        **(facts or {}),
        "steps": result.steps.tolist(),
        "table": {name: values.tolist() for name, values in result.table.items()},
    }
    if "final_score" in result.table:
        record["settings"] = over_seeds(result.table, list(result.settings), failed_below=failed_below)
        scores = result.table["final_score"]
        worst = np.nanmin(result.history["score"]) if np.isfinite(result.history["score"]).any() else 0.0
        record["failure_score"] = float(worst)
        record["budget_curve"] = budget_curve(scores, failure_score=float(worst)).tolist()
    record["history"] = {name: values.tolist() for name, values in result.history.items()}
    legend = "".join(f"{name}: {_meaning(name, result.settings)}\n" for name in names)
    contents = {
        "members.csv": text.getvalue(),
        "columns.txt": legend,
        "sweep.json": json.dumps(finite_json(record), allow_nan=False),
    }
    for name, content in contents.items():
        files.write_atomically(directory / name, content.encode())
    return [directory / name for name in contents]


MEANINGS = {
    "finite": "whether all numbers were finite to the end",
    "first_bad_step": "the step, from 0, whose numbers were not finite; -1 for none",
    "final_score": "at the end, more is better; empty where numbers were not finite",
    "failed": "not finite to the end, or a final score below failed_below in sweep.json",
    "best_score": "the best of all records",
    "best_step": "the step of that record",
    "growth_law": "of the distance from the equilibrium (games), or of the length of all parameters (networks): decay, "
    "cycle (neither grows nor decays), square-root growth (any slower than exponential), exponential",
}
"""What the columns of a table mean that are not settings; see `summarize`."""


def _meaning(name, settings):
    if name in settings:
        return "a setting of the member"
    if name in MEANINGS:
        return MEANINGS[name]
    if name.endswith("clip_share"):
        return "share of the steps in which the clip shortened this gradient"
    if name.endswith("tail_index"):
        return (
            "Hill's index of this gradient's norms, late in training: small is heavy-tailed, below 2 without a variance"
        )
    if name.startswith("final_"):
        return f"{name.removeprefix('final_')}, beside the score at the end"
    return "measured at the end"


def finite_json(value: Any) -> Any:
    """The same with NumPy values as Python's, and null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(name): finite_json(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
