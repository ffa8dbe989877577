"""The numbers at the top of a run's page: how long it trained, how fast, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxgen.pages import curves, words
from jaxgen.report.reading import Run

# The last part of a metric's name says which way is better; names that are not here get no best value.
_LOWER = ("fid", "kid", "nll", "bits_per_dim", "loss", "distortion", "error", "mse", "perplexity", "distance", "swd")
_HIGHER = (
    *("elbo", "bound", "log_likelihood", "accuracy", "inception_score", "precision", "recall", "coverage"),
    *("density", "psnr", "ssim", "active_units", "mig", "disentanglement", "completeness", "informativeness", "sap"),
)
_NO_DIRECTION = ("std", "stderr", "seconds", "time", "num", "gap")


class Tile(NamedTuple):
    """A number, its name, and what it is a number of, in lines."""

    name: str
    value: float | str
    lines: list[str]


def tiles(run: Run) -> list[Tile]:
    """The numbers of a run, its time first."""
    return [*_times(run), *_evaluations(run.series)]


def _evaluations(series: Mapping) -> list[Tile]:
    found = []
    for name, (steps, values) in series.items():
        group, _, rest = name.partition("/")
        if group != "eval" or curves.is_spread(name):
            continue
        lines = [f"latest, step {steps[-1]:,}"]
        finite = np.flatnonzero(np.isfinite(values))
        way = direction(name)
        if way and len(finite) > 1:
            best = finite[np.argmin(way * values[finite])]
            lines.append(f"best {words.number(values[best])}, step {steps[best]:,}")
        found.append(Tile(rest, float(values[-1]), lines))
    return found


def _timed(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """(times, steps) of the lines that have a time."""
    timed = [(record["time"], record["step"]) for record in run.records if isinstance(record.get("time"), (int, float))]
    return np.array([time for time, _ in timed], np.float64), np.array([step for _, step in timed])


def _times(run: Run) -> list[Tile]:
    times, steps = _timed(run)
    if len(times) < 2:
        return []
    is_training = _is_training(times, steps, run.starts)
    note = "between log lines, restarts and long gaps left out"
    found = [Tile("time trained", words.duration(np.diff(times)[is_training].sum()), [note])]
    pauses = np.flatnonzero(~is_training)
    first = max(pauses[-1] + 1 if len(pauses) else 0, len(times) - 20)
    elapsed, done = times[-1] - times[first], int(steps[-1] - steps[first])
    if elapsed > 0 and done > 0:
        if run.word == "running" and run.num_steps > run.step:
            left = words.duration((run.num_steps - run.step) * elapsed / done)
            found.append(Tile("time left", left, ["at the latest speed, when this page was written"]))
        found.append(Tile("steps a second", done / elapsed, [f"over the last {len(times) - first} log lines"]))
    return found


def time_trained(run: Run) -> str:
    """In words; nothing for a run whose log does not tell."""
    return next((str(tile.value) for tile in _times(run)[:1]), "")


def _is_training(times: np.ndarray, steps: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Which of the n - 1 gaps between n lines of the log were spent training.

    Not: where the run was started anew (which includes whatever was trained before a kill and had to be trained again),
    where the step or the clock goes back, and where the gap is far longer than usual (a machine that slept).
    """
    gaps = np.diff(times)
    has_start = ((times[:-1, None] < starts) & (starts <= times[1:, None])).any(axis=1)
    return ~has_start & (np.diff(steps) >= 0) & (gaps >= 0) & (gaps <= max(300.0, 20.0 * float(np.median(gaps))))


def direction(name: str) -> int:
    """+1: lower is better, -1: higher is better, 0: unknown."""
    from jaxgen.metrics.protocol import OF_REAL

    last = name.split("/")[-1].lower()
    parts = last.split("_")
    if any(part in parts for part in _NO_DIRECTION) or last.endswith((*curves.SPREADS, *OF_REAL)):
        return 0
    padded = f"_{last}_"
    if any(f"_{key}_" in padded for key in _HIGHER):
        return -1
    return 1 if any(f"_{key}_" in padded for key in _LOWER) else 0


def stands_alone(name: str) -> bool:
    """Whether a number says something of what was evaluated; the others say how good it can be, or how sure it is."""
    from jaxgen.metrics.protocol import OF_REAL

    return not name.endswith((*OF_REAL, "_standard_error", "_standard_deviation", "_by_chance"))


def not_finite(series: Mapping) -> str:
    """Which metrics have values that are not finite, and from which step on; nothing where none has."""
    bad = []
    for metric, (steps, values) in series.items():
        wrong = ~np.isfinite(values)
        if wrong.any():
            bad.append((int(steps[wrong][0]), metric, int(wrong.sum()), len(values)))
    if not bad:
        return ""
    items = [f"{metric} from step {step:,} ({n:,} of {of:,} values)" for step, metric, n, of in sorted(bad)[:6]]
    more = f", and {len(bad) - 6} more metrics" if len(bad) > 6 else ""
    return f"{', '.join(items)}{more}."


def of_all(series: Mapping) -> list[dict]:
    """A row for each metric: `name`, `latest`, `lowest`, `highest` (of the finite ones, or None), `step`, `count`."""
    rows: list[dict] = []
    for name, (steps, values) in sorted(series.items()):
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (None, None)
        row = {"name": name, "latest": float(values[-1]), "lowest": low, "highest": high}
        rows.append(row | {"step": int(steps[-1]), "count": len(values)})
    return rows
