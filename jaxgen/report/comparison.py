"""Several runs side by side on one page: what they differ in, what they draw, their curves and their numbers."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen import files, fingerprints, pages, report, run_directory
from jaxgen.metrics import protocol
from jaxgen.pages import curves, words
from jaxgen.report import numbers, reading
from jaxgen.report.reading import Run

ABSENT = "not set"


def write(run_directories: Sequence[str | os.PathLike]) -> Path:
    """Writes a page, named after them, beside the first of several runs, with links to the reports of all.

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
    runs = dict(zip(_labels(paths), map(reading.read, paths), strict=True))
    page = paths[0].parent / name_of(paths)
    differing, num_same, partly = different_settings({label: run.config for label, run in runs.items()})
    evaluations, unlike = compared_evaluations({label: _evaluations_of(run) for label, run in runs.items()})
    cards = [_card(*item, colour, page) for item, colour in zip(runs.items(), curves.COLOURS, strict=False)]
    text = pages.render(
        "comparison",
        title=f"{len(runs)} runs side by side",
        runs=cards,
        settings=_with_words(differing, runs),
        num_same=num_same,
        partly=_with_words(partly, runs),
        panels=_panels(runs),
        numbers=_last_numbers(runs),
        evaluations=evaluations,
        unlike=unlike,
        measured_otherwise=[name for name in (*differing, *partly) if _changes_a_measurement(name)],
    )
    files.write_atomically(page, text)
    return page


def name_of(paths: Sequence[Path]) -> str:
    """The page's: `comparison-of-A-and-B.html`, so that another comparison does not replace it."""
    first, *rest = (re.sub(r"[^A-Za-z0-9._-]+", "-", path.name) for path in paths)
    name = "-and-".join((first, *rest))
    if len(name) > 150:
        name = f"{first[:60]}-and-{len(rest)}-others-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"comparison-of-{name}.html"


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
        "time": numbers.time_trained(run),
        "link": Path(os.path.relpath(run.path / report.REPORT, page.parent)).as_posix(),
        "not_finite": numbers.not_finite(run.series),
        "view": views[0] if views else None,
    }


def different_settings(configs: Mapping[str, Mapping]) -> tuple[dict[str, list[str]], int, dict[str, list[str]]]:
    """What runs were told otherwise.

    Returns:
      The settings in which runs differ, with the value of each run as text; how many are the same in all; and those
      that not all of the runs have, since other systems or other choices have others.
    """
    flat = [run_directory.flatten(config) for config in configs.values()]
    names = dict.fromkeys(name for config in flat for name in config)
    rows = {name: [report.setting(config[name]) if name in config else ABSENT for config in flat] for name in names}
    partly = {name: values for name, values in rows.items() if ABSENT in values}
    different = {name: values for name, values in rows.items() if name not in partly and len(set(values)) > 1}
    return different, len(rows) - len(different) - len(partly), partly


def _with_words(rows: Mapping[str, list[str]], runs: Mapping[str, Run]) -> dict[str, list[str]]:
    """Settings of runs, those that are digests behind what they are of."""
    return {
        name: [
            value if value == ABSENT else report.digest_in_words(name, value, run)
            for value, run in zip(values, runs.values(), strict=True)
        ]
        if name in report.DIGESTS
        else values
        for name, values in rows.items()
    }


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


def _last_numbers(runs: Mapping[str, Run]) -> dict[str, list[tuple[float, int | None] | None]]:
    """Metric -> (latest value, its step where that is not the run's) of each run, those of evaluations first."""
    names = sorted({name for run in runs.values() for name in run.series}, key=lambda n: (not n.startswith("eval/"), n))
    return {name: [_last_number(run, name) for run in runs.values()] for name in names}


def _last_number(run: Run, name: str) -> tuple[float, int | None] | None:
    if name not in run.series:
        return None
    steps, values = run.series[name]
    step = int(steps[-1])
    return float(values[-1]), None if step == run.step else step


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
) -> tuple[dict[str, list[str]], list[tuple[list[str], list[str]]]]:
    """What was measured of several runs by `jaxgen evaluate`, compared only where it was measured in the same way.

    Args:
      evaluations: label of each run -> records of its evaluations.

    Returns:
      metric -> one text a run, of one protocol in all, with its standard error where there is one; of the protocol
      that most runs have, if there are several. And (metrics, lines) of what is not compared: each line is an entry of
      the protocol with the runs' values.
    """
    rows: dict[str, list[str]] = {}
    unlike: dict[tuple[str, ...], list[str]] = {}
    for metric in dict.fromkeys(record.metric for records in evaluations.values() for record in records):
        if not numbers.stands_alone(metric):
            continue
        groups = _alike({run: [r for r in records if r.metric == metric] for run, records in evaluations.items()})
        most = max(groups, key=len)
        if len(most) > 1:
            rows[metric] = [_value(most.get(run, []), evaluations[run]) for run in evaluations]
        left = set().union(*groups) - set(most)
        if left:  # runs whose evaluations are all of another kind
            firsts = {run: records[0] for group in groups for run, records in group.items()}
            firsts |= {run: records[0] for run, records in most.items()}
            lines = [
                f"{name}: " + ", ".join(f"{fingerprints.entry(name, r.protocol)} ({run})" for run, r in firsts.items())
                for name in protocol.differences(list(firsts.values()))
            ]
            unlike.setdefault(tuple(lines), []).append(metric)
    return rows, [(metrics, list(lines)) for lines, metrics in unlike.items()]


def _alike(found: Mapping[str, Sequence[protocol.Record]]) -> list[dict[str, list[protocol.Record]]]:
    """Records of one metric, run by run, in groups of one protocol each."""
    groups: list[dict[str, list[protocol.Record]]] = []
    for run, records in found.items():
        for record in records:
            alike = (g for g in groups if not protocol.differences([next(iter(g.values()))[0], record]))
            group = next(alike, None)
            if group is None:
                groups.append(group := {})
            group.setdefault(run, []).append(record)
    return groups


def _value(records: Sequence[protocol.Record], of_run: Sequence[protocol.Record]) -> str:
    """The values of one run under one protocol: of its newest step, and of each seed."""
    newest = max((record.protocol.get("step") or 0 for record in records), default=0)
    texts: dict[str, None] = {}  # in order, each once
    for record in records:
        if (record.protocol.get("step") or 0) == newest:
            error = (r.value for r in of_run if (r.metric, r.file) == (f"{record.metric}_standard_error", record.file))
            texts[" ± ".join(words.number(value) for value in (record.value, *error))] = None
    return ", ".join(texts)
