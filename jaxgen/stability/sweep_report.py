"""What a sweep found, in words: a table of scores, and the largest rates with what they rest on."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.stability import sweep

RATES = ("discriminator_rate", "generator_rate", "learning_rate")
MAX_COLUMNS = 6
"""More combinations of the other settings than these are listed instead of tabulated."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """What scores mean: more is better.

    untrained, real: the scores of an untrained network and of real images; None where nobody knows them. Scores are
      then told as a quality: 0 % an untrained network, 100 % real images.
    failed_below: a final score below this is a failure; None: only what is not finite is.
    """

    untrained: float | None = None
    real: float | None = None
    failed_below: float | None = None

    @property
    def is_quality(self) -> bool:
        """Whether scores can be told as a quality."""
        return self.untrained is not None and self.real is not None

    def score_of(self, shown: float) -> float:
        """The score that is shown as this: of a quality in percent, or itself."""
        if self.untrained is None or self.real is None:
            return shown
        return self.untrained + shown / 100 * (self.real - self.untrained)

    def of(self, score: Any) -> Any:
        """A score, or an array of them, as it is shown: in percent of quality, or itself."""
        if self.untrained is None or self.real is None:
            return score
        return 100 * (score - self.untrained) / (self.real - self.untrained)

    def text(self, score: float) -> str:
        """A score in words."""
        if math.isnan(score):
            return "not finite"
        return f"{self.of(score):.0f} %" if self.is_quality else f"{score:.4g}"

    def failure(self) -> str:
        """What counts as a failure, in words."""
        if self.failed_below is None:
            return "not finite"
        what = "quality" if self.is_quality else "final score"
        return f"not finite, or a {what} below {self.text(self.failed_below)}"


# Words ----------------------------------------------------------------------------------------------------------------


class Grid(NamedTuple):
    """Scores as a table.

    heading: what they are.
    rate: the setting of its rows.
    columns: the other settings of each column, in words.
    rows: (rate, a text a column); empty where a combination was not tried.
    """

    heading: str
    rate: str
    columns: list[str]
    rows: list[tuple[float, list[str]]]


def summary(result: sweep.Result, scale: Scale, *, best: int = 10) -> list[str]:
    """How many failed, the scores of each setting, and the largest rates, as lines."""
    grid = scores(result, scale)
    lines = [overview(result), "", *(ranking(result, scale, best=best) if grid is None else _table(grid))]
    rates = largest_rates(result, scale)
    return [*lines, *([""] if rates else []), *rates]


def overview(result: sweep.Result) -> str:
    """How many networks there were, and how many stayed finite."""
    finite, steps = result.table["finite"], int(result.steps[-1])
    return (
        f"{len(finite)} network{'s' * (len(finite) > 1)}, {steps:,} steps at constant rates, trained in "
        f"{result.seconds:.0f} s: {int(finite.sum())} finite to the end"
    )


def scores(result: sweep.Result, scale: Scale) -> Grid | None:
    """The table of scores; None where no rate was varied, or more combinations than MAX_COLUMNS beside it."""
    found = _found(result, scale)
    if found is None or len(found.columns) > MAX_COLUMNS:
        return None

    def cell(row):
        fails = ""
        if row["failures"]:
            fails = " x" if row["seeds"] == 1 else f" x {row['failures']}/{row['seeds']}"
        return scale.text(row["median"]) + fails

    cells = {(row[found.rate], tuple(row[name] for name in found.others)): cell(row) for row in found.rows}
    rates = sorted({row[found.rate] for row in found.rows})
    return Grid(
        _heading(scale, found.rows[0]["seeds"]),
        found.rate,
        [label(found.others, column) for column in found.columns],
        [(rate, [cells.get((rate, column), "") for column in found.columns]) for rate in rates],
    )


def ranking(result: sweep.Result, scale: Scale, *, best: int = 10) -> list[str]:
    """What the scores are, and the best settings, as lines."""
    names = varied(result)
    rows = sweep.over_seeds(result.table, names, failed_below=scale.failed_below)
    return _ranking(rows, names, scale, best)


def largest_rates(result: sweep.Result, scale: Scale) -> list[str]:
    """The largest rates without a failure and what they rest on, as lines; none where no rate was varied."""
    found = _found(result, scale)
    if found is None:
        return []
    limits = {column: _limit(found.rows, found.rate, found.others, column) for column in found.columns}
    return _limits(limits, found.rate, found.others, result, scale) + _clip_shares(result)


class _Found(NamedTuple):
    """Medians over seeds, the rate that was varied, the other settings, and their combinations."""

    rows: list[dict]
    rate: str
    others: list[str]
    columns: list[tuple]


def _found(result, scale) -> _Found | None:
    names = varied(result)
    rows = sweep.over_seeds(result.table, names, failed_below=scale.failed_below)
    rate = next((name for name in RATES if name in names), None)
    if rate is None or len({row[rate] for row in rows}) < 2:
        return None
    others = [name for name in names if name != rate]
    return _Found(rows, rate, others, sorted({tuple(row[name] for name in others) for row in rows}))


def varied(result: sweep.Result) -> list[str]:
    """The settings that tell members apart, without the seed; all of them where none does."""
    names = [name for name, values in result.settings.items() if name != "seed" and len(np.unique(values)) > 1]
    return names or [name for name in result.settings if name != "seed"]


def label(others: Sequence[str], column: Sequence[float]) -> str:
    """A combination of settings in words."""
    return ", ".join(f"{name} {value:g}" for name, value in zip(others, column, strict=True)) or "all"


def _heading(scale: Scale, seeds: int) -> str:
    median = f", median of {seeds} seeds" if seeds > 1 else ""
    if scale.is_quality:
        return f"quality (0 %: an untrained network, 100 %: real images{median}; x: fails, {scale.failure()})"
    return f"score (more is better{median}; x: fails, {scale.failure()})"


def _ranking(rows, names, scale, best) -> list[str]:
    rows = sorted(rows, key=lambda row: -np.inf if np.isnan(row["median"]) else row["median"], reverse=True)
    lines = [_heading(scale, rows[0]["seeds"])]
    for row in rows[:best]:
        spread = ""
        if row["seeds"] > 1:
            low, high = (scale.text(row[name]) for name in ("quantile_10", "quantile_90"))
            spread = f" (10 to 90 %: {low} to {high})"
        fails = f", fails {row['failures']} of {row['seeds']}" if row["failures"] else ""
        setting = ", ".join(f"{name} {row[name]:g}" for name in names)
        lines.append(f"  {scale.text(row['median'])}{spread}{fails}: {setting}")
    if len(rows) > best:
        lines.append(f"  and {len(rows) - best} other settings, in sweep.json")
    return lines


def _table(grid: Grid) -> list[str]:
    width = max(len(text) for text in (*grid.columns, *(cell for _, cells in grid.rows for cell in cells))) + 3
    lines = [grid.heading, f"  {grid.rate:>20s}" + "".join(f"{label:>{width}s}" for label in grid.columns)]
    return lines + [f"  {rate:>20g}" + "".join(f"{cell:>{width}s}" for cell in cells) for rate, cells in grid.rows]


@dataclasses.dataclass(frozen=True)
class _Limit:
    """Where the limit of a rate lies, for one combination of the other settings."""

    good: float  # the largest rate up to which nothing failed; 0 if the smallest tried failed
    bad: float  # the next one, at which something did; infinity if nothing did
    failures: int  # there
    seeds: int


def _limit(rows, rate, others, column) -> _Limit:
    ordered = sorted((row for row in rows if tuple(row[name] for name in others) == column), key=lambda row: row[rate])
    good = list(itertools.takewhile(lambda row: row["failures"] == 0, ordered))
    bad = ordered[len(good)] if len(good) < len(ordered) else None
    return _Limit(
        good=good[-1][rate] if good else 0.0,
        bad=bad[rate] if bad else math.inf,
        failures=bad["failures"] if bad else 0,
        seeds=ordered[0]["seeds"],
    )


def _limits(found, rate, others, result, scale) -> list[str]:
    nothing_failed = all(limit.bad == math.inf for limit in found.values())
    lines = [f"largest {rate} without a failure ({scale.failure()})"]
    if nothing_failed:
        largest = max(limit.good for limit in found.values())
        lines.append(f"  Nothing failed in this grid: the limit lies above {largest:g}, the largest tried.")
    else:
        lines += [f"  {label(others, column)}: {_limit_text(limit)}" for column, limit in found.items()]
        lines += _compared(found, others)
    seeds = next(iter(found.values())).seeds
    fixed = [
        f"{name} {values[0]:g}"
        for name, values in result.settings.items()
        if name not in (*others, rate, "seed") and len(np.unique(values)) == 1
    ]
    lines.append(f"This holds for {result.steps[-1]:,} steps at constant rates{'; ' * bool(fixed)}{', '.join(fixed)}.")
    if scale.failed_below is not None:
        lines.append("What did not fail may still look poor: see samples.png, and --failed-below for a stricter line.")
    if not nothing_failed:
        # The largest p with (1 - p)^n = 5 %: more failures than that would have shown.
        lines.append(
            f"A rate at which none of {seeds} seed{'s' * (seeds > 1)} failed may still fail in up to "
            f"{1 - 0.05 ** (1 / seeds):.0%} of trainings (with 95 % confidence): more --seeds tell more."
        )
    if all(limit.good == 0 for limit in found.values()):
        few = "since a few teach no network anything"
        lines.append(f"Every setting failed: try smaller rates, or more --num-steps, {few}.")
    elif next_rates := _next_rates(found.values()):
        networks = 3 * len(next_rates) * len(found)
        minutes = result.seconds / len(result.table["finite"]) * networks / 60
        rates = " ".join(f"{value:g}" for value in next_rates)
        lines.append(
            f"{'To find it' if nothing_failed else 'To narrow it down'}: the same with --{rate.replace('_', '-')} "
            f"{rates} --seeds 3 and another --directory ({networks} networks, about {max(1, minutes):.0f} min)."
        )
    return lines


def _limit_text(limit: _Limit) -> str:
    if limit.good == 0:
        return f"below {limit.bad:g}, the smallest tried ({limit.failures} of {limit.seeds} failed)"
    if limit.bad == math.inf:
        return f"{limit.good:g} or more: the largest tried"
    return f"{limit.good:g}; at {limit.bad:g} {limit.failures} of {limit.seeds} failed"


def _next_rates(limits) -> list[float]:
    """Rates between the last good and the first bad one, and above where nothing failed."""
    rates = set()
    for limit in limits:
        if limit.good > 0:
            ratio = limit.bad / limit.good if math.isfinite(limit.bad) else 8.0
            rates |= {float(f"{limit.good * ratio**part:.2g}") for part in (1 / 3, 2 / 3)}
    return sorted(rates)


def _compared(found, others) -> list[str]:
    """How large the limit with a clip is beside that without one, from the ends of the intervals in which both lie."""
    if "clip" not in others:
        return []
    place, lines = others.index("clip"), []
    for column, limit in found.items():
        without = found.get((*column[:place], math.inf, *column[place + 1 :]))
        if without is None or without is limit:
            continue
        low = limit.good / without.bad if math.isfinite(without.bad) else 0.0
        high = limit.bad / without.good if without.good and math.isfinite(limit.bad) else math.inf
        if low == 0 and high == math.inf:
            continue  # neither limit is known
        times = f"{low:.3g} to {high:.3g} times"
        if low == 0 or high == math.inf:
            times = f"at most {high:.3g} times" if low == 0 else f"at least {low:.3g} times"
        text = f"the limit of {label(others, column)} is {times} that without a clip, by the gaps of this grid"
        lines.append(f"  {text}{'' if low > 1 or high < 1 else ': no change is shown'}")
    return lines


def _clip_shares(result) -> list[str]:
    lines = []
    for clip in np.unique(result.settings.get("clip", [])):
        chosen = (result.settings["clip"] == clip) & result.table["finite"]
        shares = {
            name.removesuffix("_clip_share"): np.mean(values[chosen])
            for name, values in result.table.items()
            if name.endswith("_clip_share") and chosen.any()
        }
        if math.isfinite(clip) and shares:
            told = " and ".join(f"{share:.0%} of the {player}'s steps" for player, share in shares.items())
            lines.append(f"The clip at {clip:g}, of each player's own gradient, acted in {told}.")
    return lines
