"""Several runs side by side on one page: what they differ in, what they draw, their curves and their numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen import pages, report, report_numbers, report_reading, run_directory
from jaxgen.metrics import protocol
from jaxgen.pages import curves
from jaxgen.report_reading import Run

PAGE = "comparison.html"
ABSENT = "not set"


def write(run_directories: Sequence[str | os.PathLike]) -> Path:
    """Writes `comparison.html` beside the first of several runs, with links to the reports of all.

    Args:
      run_directories: two to `curves.MAX_CURVES` runs.

    Returns:
      The path of the page, which was replaced as a whole.

    Raises:
      ValueError: for fewer or more runs, or one run twice.
      RunDirectoryError: if a path is no directory.
      OSError: with the path and what to do, if the page cannot be written.
    """
    paths = [Path(path).resolve() for path in run_directories]
    if not 2 <= len(paths) <= curves.MAX_CURVES:
        raise ValueError(f"{len(paths)} runs do not fit on one page: give 2 to {curves.MAX_CURVES}")
    if twice := [str(path) for path in dict.fromkeys(paths) if paths.count(path) > 1]:
        raise ValueError(f"{twice[0]} is named twice: give each run once")
    runs = dict(zip(_labels(paths), map(report_reading.read, paths), strict=True))
    page = paths[0].parent / PAGE
    differing, num_same = different_settings({label: run.config for label, run in runs.items()})
    evaluations, unlike = compared_evaluations({label: _evaluations_of(run) for label, run in runs.items()})
    cards = [_card(*item, colour, page) for item, colour in zip(runs.items(), curves.COLOURS, strict=False)]
    text = pages.render(
        "comparison",
        title=f"{len(runs)} runs side by side",
        runs=cards,
        settings=differing,
        num_same=num_same,
        panels=_panels(runs),
        numbers=_last_numbers(runs),
        evaluations=evaluations,
        unlike=unlike,
        measured_otherwise=[name for name in differing if _changes_a_measurement(name)],
    )
    run_directory.write_atomically(page, text)
    return page


def _labels(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def _card(label: str, run: Run, colour: str, page: Path) -> dict[str, Any]:
    views = report.views(run)
    return {
        "label": label,
        "colour": colour,
        "run": run,
        "badge": report.badge(run),
        "time": report_numbers.time_trained(run),
        "link": Path(os.path.relpath(run.path / report.REPORT, page.parent)).as_posix(),
        "not_finite": report_numbers.not_finite(run.series),
        "view": views[0] if views else None,
    }


def different_settings(configs: Mapping[str, Mapping]) -> tuple[dict[str, list[str]], int]:
    """The settings in which runs differ, with the value of each run as text; and how many are the same in all."""
    flat = [run_directory.flatten(config) for config in configs.values()]
    names = dict.fromkeys(name for config in flat for name in config)
    rows = {name: [report.setting(config[name]) if name in config else ABSENT for config in flat] for name in names}
    different = {name: values for name, values in rows.items() if len(set(values)) > 1}
    return different, len(rows) - len(different)


def _changes_a_measurement(setting: str) -> bool:
    """Whether numbers that are measured while training mean something else under another value of this setting."""
    return setting.startswith(("data.", "images.")) or setting.split(".")[-1].startswith("eval_")


def _panels(runs: Mapping[str, Run]) -> list[tuple[str, curves.Panel]]:
    """(metric, panel with a curve for each run) of every metric that two of the runs have."""
    names = dict.fromkeys(name for run in runs.values() for name in run.series if not curves.is_spread(name))
    shared = [name for name in names if sum(name in run.series for run in runs.values()) > 1]
    shared.sort(key=lambda name: not name.startswith("eval/"))
    span = curves.extent(found for run in runs.values() for found in run.series.values())
    found = []
    for index, name in enumerate(shared[: curves.MAX_PANELS]):
        # All runs have a place, so that each keeps its colour; one that lacks the metric has no curve.
        lines = [curves.curve(run.series, name, label) if name in run.series else None for label, run in runs.items()]
        found.append((name, curves.panel(f"p{index}", name, lines, span)))
    return found


def _last_numbers(runs: Mapping[str, Run]) -> dict[str, list[tuple[float, int] | None]]:
    """Metric -> (latest value, step) of each run, those of evaluations first."""
    names = sorted({name for run in runs.values() for name in run.series}, key=lambda n: (not n.startswith("eval/"), n))
    found = {}
    for name in names:
        of_runs = [run.series.get(name) for run in runs.values()]
        found[name] = [None if one is None else (float(one[1][-1]), int(one[0][-1])) for one in of_runs]
    return found


def _evaluations_of(run: Run) -> list[protocol.Record]:
    """The stored evaluations of a run that can be read."""
    found = []
    for file in sorted((run.path / "evaluation").glob("*.json")):
        try:
            found += protocol.read(file)
        except (ValueError, OSError) as error:
            run.notes.append(f"an evaluation was left out: {error}")
    return found


def compared_evaluations(
    evaluations: Mapping[str, Sequence[protocol.Record]],
) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """What was measured of several runs by `jaxgen evaluate`, compared only where it was measured in the same way.

    Args:
      evaluations: label of each run -> records of its evaluations.

    Returns:
      Rows of (metric, one text a run): all values in a row have one protocol. And a line for each other row of the
      same metric, which names the entries of the protocol in which it differs from the first.
    """
    rows, lines = [], []
    for metric in dict.fromkeys(record.metric for records in evaluations.values() for record in records):
        groups: list[list[tuple[str, protocol.Record]]] = []
        for label, records in evaluations.items():
            for record in records:
                if record.metric != metric:
                    continue
                alike = (group for group in groups if not protocol.differences([group[0][1], record]))
                group = next(alike, None)
                if group is None:
                    groups.append(group := [])
                group.append((label, record))
        groups.sort(key=lambda group: -len({label for label, _ in group}))
        for index, group in enumerate(groups):
            name = metric if len(groups) == 1 else f"{metric} [{index + 1}]"
            rows.append((name, [_value(record for label, record in group if label == run) for run in evaluations]))
            if index:
                lines.append(_difference(metric, index, groups[0], group))
    return rows, lines


def _value(records) -> str:
    """The values of one run under one protocol: of its newest step, and of each seed."""
    records = list(records)
    newest = max((record.protocol.get("step") or 0 for record in records), default=0)
    values = {pages.words.number(r.value): None for r in records if (r.protocol.get("step") or 0) == newest}
    return ", ".join(values)


def _difference(metric, index, first, group) -> str:
    unlike = protocol.differences([first[0][1], group[0][1]])
    told = "; ".join(f"{name} {_short(b)} instead of {_short(a)}" for name, (a, b) in unlike.items())
    return f"{metric} [{index + 1}] is not compared with [1], because it was measured otherwise: {told}."


def _short(value) -> str:
    return "not stated" if value is None else protocol.short(value)
