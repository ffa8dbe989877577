"""What a sweep found, for people: a table of scores, the largest rates with what they rest on, and pictures."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgen import images
from jaxgen.stability import sweep
from jaxgen.stability.atlas.record import INK, LINES, SOFT, UNSTABLE, finish, new_figure

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


def summary(result: sweep.Result, scale: Scale, *, best: int = 10) -> list[str]:
    """How many failed, the scores of each setting, and the largest rates, as lines."""
    finite, steps = result.table["finite"], int(result.steps[-1])
    lines = [
        f"{len(finite)} network{'s' * (len(finite) > 1)}, {steps:,} steps at constant rates, trained in "
        f"{result.seconds:.0f} s: {int(finite.sum())} finite to the end"
    ]
    names = varied(result)
    rows = sweep.over_seeds(result.table, names, failed_below=scale.failed_below)
    rate = next((name for name in RATES if name in names), None)
    others = [name for name in names if name != rate]
    columns = sorted({tuple(row[name] for name in others) for row in rows})
    if rate is None or len({row[rate] for row in rows}) < 2:
        return lines + _ranking(rows, names, scale, best)
    if len(columns) <= MAX_COLUMNS:
        lines += _table(rows, rate, others, columns, scale)
    else:
        lines += _ranking(rows, names, scale, best)
    found = {column: _limit(rows, rate, others, column) for column in columns}
    return lines + _limits(found, rate, others, result, scale) + _clip_shares(result)


def varied(result: sweep.Result) -> list[str]:
    """The settings that tell members apart, without the seed; all of them where none does."""
    names = [name for name, values in result.settings.items() if name != "seed" and len(np.unique(values)) > 1]
    return names or [name for name in result.settings if name != "seed"]


def _label(others: Sequence[str], column: Sequence[float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in zip(others, column, strict=True)) or "all"


def _heading(scale: Scale, seeds: int) -> str:
    median = f", median of {seeds} seeds" if seeds > 1 else ""
    if scale.is_quality:
        return f"quality (0 %: an untrained network, 100 %: real images{median}; x: fails, {scale.failure()})"
    return f"score (more is better{median}; x: fails, {scale.failure()})"


def _ranking(rows, names, scale, best) -> list[str]:
    rows = sorted(rows, key=lambda row: -np.inf if np.isnan(row["median"]) else row["median"], reverse=True)
    lines = ["", _heading(scale, rows[0]["seeds"])]
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


def _table(rows, rate, others, columns, scale) -> list[str]:
    def cell(row):
        fails = ""
        if row["failures"]:
            fails = " x" if row["seeds"] == 1 else f" x {row['failures']}/{row['seeds']}"
        return scale.text(row["median"]) + fails

    cells = {(row[rate], tuple(row[name] for name in others)): cell(row) for row in rows}
    labels = [_label(others, column) for column in columns]
    width = max(len(text) for text in (*labels, *cells.values())) + 3
    lines = ["", _heading(scale, rows[0]["seeds"])]
    lines.append(f"  {rate:>20s}" + "".join(f"{label:>{width}s}" for label in labels))
    for value in sorted({row[rate] for row in rows}):
        lines.append(f"  {value:>20g}" + "".join(f"{cells.get((value, column), ''):>{width}s}" for column in columns))
    return lines


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
    lines = ["", f"largest {rate} without a failure ({scale.failure()})"]
    if nothing_failed:
        largest = max(limit.good for limit in found.values())
        lines.append(f"  Nothing failed in this grid: the limit lies above {largest:g}, the largest tried.")
    else:
        lines += [f"  {_label(others, column)}: {_limit_text(limit)}" for column, limit in found.items()]
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
        text = f"the limit of {_label(others, column)} is {times} that without a clip, by the gaps of this grid"
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


# Pictures -------------------------------------------------------------------------------------------------------------


def scores_figure(result: sweep.Result, scale: Scale) -> Any:
    """Scores against the rate, a line for each combination of the other settings; None where no rate was varied.

    Dots are members, lines the medians over seeds, crosses failures; at the lower edge those that are not finite.
    """
    names = varied(result)
    rate = next((name for name in RATES if name in names), None)
    if rate is None or "final_score" not in result.table:
        return None
    others = [name for name in names if name != rate]
    rows = sweep.over_seeds(result.table, names, failed_below=scale.failed_below)
    columns = sorted({tuple(row[name] for name in others) for row in rows})
    figure, ((axes,),) = new_figure(7.5, 4.2)
    score = scale.of(np.where(result.table["finite"], result.table["final_score"], np.nan))
    failed = sweep.failures(result.table, scale.failed_below)
    floor = np.nanmin(score) if np.isfinite(score).any() else 0.0
    for index, column in enumerate(columns):
        colour = LINES[index % len(LINES)]
        chosen = np.all([result.settings[name] == value for name, value in zip(others, column, strict=True)], axis=0)
        chosen = np.broadcast_to(chosen, score.shape)
        x, y, bad = result.settings[rate][chosen], np.nan_to_num(score[chosen], nan=floor), failed[chosen]
        axes.scatter(x[~bad], y[~bad], s=14, color=colour)
        axes.scatter(x[bad], y[bad], s=30, color=colour, marker="x")
        line = sorted((r[rate], scale.of(r["median"])) for r in rows if tuple(r[n] for n in others) == column)
        if len(columns) <= len(LINES):
            axes.plot(*zip(*line, strict=True), color=colour, label=_label(others, column))
    if scale.failed_below is not None:
        axes.axhline(scale.of(scale.failed_below), color=UNSTABLE, linewidth=1, linestyle="--", label="fails below")
    if scale.is_quality:
        axes.axhline(100, color=SOFT, linewidth=1, label="real images")
        axes.set_ylabel("quality, %")
    else:
        axes.set_ylabel("final score")
    axes.set_xscale("log")
    axes.set_xlabel(rate.replace("_", " "))
    axes.legend(fontsize=8)
    axes.set_title(f"{len(score)} networks after {result.steps[-1]:,} steps; lines: medians, x: failed", color=INK)
    finish(figure)
    return figure


def samples_figure(drawn: np.ndarray, real: np.ndarray | None, result: sweep.Result, scale: Scale) -> Any:
    """A row of samples for each member with its settings and score beside it, and one of real images above them.

    Args:
      drawn: [N, K, H, W, C] in [-1, 1].
      real: [K, H, W, C], or None.
      result: of the sweep.
      scale: of its scores.
    """
    names = [*varied(result), *(["seed"] if len(np.unique(result.settings["seed"])) > 1 else [])]
    failed = sweep.failures(result.table, scale.failed_below)
    labels = []
    for member in range(len(drawn)):
        setting = ", ".join(f"{name} {result.settings[name][member]:g}" for name in names)
        score = scale.text(float(result.table["final_score"][member])) if "final_score" in result.table else ""
        labels.append(f"{setting}\n{score}{', failed' if failed[member] else ''}")
    rows = drawn if real is None else np.concatenate([real[None], drawn])
    labels = labels if real is None else ["real images", *labels]
    picture = images.grid(rows.reshape(-1, *rows.shape[2:]), columns=rows.shape[1], upscale=None)
    height, width = picture.shape[:2]
    beside = 0.2 + 0.062 * max(
        len(line) for label in labels for line in label.split("\n")
    )  # inches for labels of size 7
    size = beside + width / 100, height / 100
    figure, ((axes,),) = new_figure(*size)
    figure.set_layout_engine("none")
    axes.set_position((beside / size[0], 0, width / 100 / size[0], 1))
    axes.imshow(picture, interpolation="nearest")
    each = height / len(labels)
    axes.set_yticks([each * (row + 0.5) for row in range(len(labels))], labels)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=7)
    return figure
