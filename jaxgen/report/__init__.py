"""RUN/report.html: one run on one page that opens anywhere, without a network and without this library.

`write` shows what the run directory holds (configuration, system, environment, status, metrics log, sample pictures)
and leaves out what is not there yet. Pictures are embedded, curves are inline SVG, nothing is loaded from elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxgen import files, fingerprints, pages, run_directory
from jaxgen.pages import curves
from jaxgen.pages.pictures import Picture
from jaxgen.report import commands as report_commands
from jaxgen.report import numbers, reading
from jaxgen.report.reading import Run

REPORT = "report.html"
MAX_CLASSES = 20  # named
MAX_ROWS = 16  # of classes, in a picture of samples

DIGESTS = {
    "images.data_fingerprint": "the data",
    "images.held_out_fingerprint": "the data",
    "frozen_sha256": "their weights",
}
"""Settings that are digests, and of what."""

CAPTIONS = {"reconstructions": "In each pair: left an original, right its reconstruction."}


def write(run_directory_path: str | os.PathLike, *, tell: Callable[[str], None] | None = None) -> Path:
    """Writes RUN/report.html from what the run directory holds now.

    Everything is optional: configuration, system, environment, status, metrics, samples. Long curves are thinned before
    they are drawn, keeping the extremes of each stretch, and get a moving mean on top.

    Args:
      run_directory_path: the run directory.
      tell: is given each note of the page, too: files that could not be read, and were left out.

    Returns:
      The path of the report, which was replaced as a whole.

    Raises:
      RunDirectoryError: if the path is no directory.
      OSError: with the path and what to do, if the report cannot be written.
    """
    run = reading.read(run_directory_path)
    kinds = views(run)
    real = reading.png(run.path / run_directory.REAL, "", run.notes)
    sections, left = curves.sections(run.series)
    commands, python = report_commands.of(run)
    preset = run.config.get("preset")
    page = pages.render(
        "report",
        title=f"{run.name}: {preset}" if preset else run.name,
        run=run,
        preset=preset,
        message=run.status.get("message"),
        badge=badge(run),
        not_finite=numbers.not_finite(run.series),
        tiles=numbers.tiles(run),
        is_unmeasured=_is_unmeasured(run),
        data=_data(run.facts),
        kinds=kinds,
        real=real,
        sections=sections,
        panels_left=left,
        metrics=numbers.of_all(run.series),
        commands=commands,
        python=python,
        networks=_networks(run.system),
        tables={"Configuration": _configuration(run), "Environment": _environment(run)},
    )
    if tell is not None:
        for note in run.notes:
            tell(note)
    files.write_atomically(run.path / REPORT, page)
    return run.path / REPORT


def badge(run: Run) -> str:
    """The class of the style sheet for its status."""
    return run.word if run.word in run_directory.STATUSES else "unknown"


def views(run: Run) -> list[dict]:
    """What a run drew, a dict for each kind: `title`, `caption`, `pictures`, `rows` (names of classes), `hint`,
    `is_over_time`."""
    found, hints = reading.pictures(run.path / "samples", run.notes)
    views = []
    for kind, pictures in found.items():
        title = kind.replace("_", " ").replace("-", " ").capitalize() if kind else "Samples"
        rows = [] if kind else _rows(run, pictures[-1])
        caption = CAPTIONS.get(kind, "" if kind or rows else _caption_of_rows(run))
        if rows and len(run.class_names) > len(rows):
            caption = f"The first {len(rows)} of {len(run.class_names)} classes."
        view = {"title": title, "caption": caption, "pictures": pictures, "rows": rows, "hint": hints.get(kind, "")}
        views.append(view | {"is_over_time": len(pictures) > 1})
    return views


def _rows(run: Run, picture: Picture) -> list[str]:
    """Names of the classes that the rows of this picture show; empty where its size does not say that it has such."""
    rows = run.class_names[:MAX_ROWS]
    try:
        height = int(run.facts["image_shape"][0])
    except (KeyError, TypeError, ValueError, IndexError):
        return []
    return rows if rows and reading.is_row_of_each(picture, len(rows), height) else []


def _caption_of_rows(run: Run) -> str:
    """What the rows of a class-conditional run's samples are, where they cannot be labelled."""
    names = run.class_names
    if not names:
        return ""
    more = f", the first {MAX_ROWS} of {len(names)}" if len(names) > MAX_ROWS else ""
    return f"Rows are classes{more}, from the top: {', '.join(names[:MAX_ROWS])}."


def _is_unmeasured(run: Run) -> bool:
    """Whether it is of a system that draws, and has no number for what it draws."""
    is_measured = run.system.get("measures") or any(name.startswith("eval/") for name in run.series)
    return "draw" in run.can and not is_measured


def _networks(system: Mapping) -> tuple[str, dict[str, str]]:
    """Which system it is, and each of its networks with the number of its parameters."""
    counts = system.get("parameters")
    counts = {name: n for name, n in counts.items() if isinstance(n, int)} if isinstance(counts, dict) else {}
    if len(counts) > 1:
        counts["together"] = sum(counts.values())
    title = f"Networks: {system['system']}" if isinstance(system.get("system"), str) else "Networks"
    return title, {name: f"{count:,} parameters" for name, count in counts.items()}


def _data(facts: Mapping) -> str:
    """What the run was trained on, in one line."""
    text = _images(facts)
    if not text or not isinstance(facts.get("class_names"), list):  # no such file, or not by this version
        return ""
    names = [str(name) for name in facts["class_names"]]
    shown = ", ".join(names[:MAX_CLASSES]) + (", ..." if len(names) > MAX_CLASSES else "")
    return text + (f"; {len(names)} classes ({shown})" if names else "; no labels")


def _images(facts: Mapping) -> str:
    """Name, number and size of the images that a run was trained on; nothing where it does not say."""
    try:
        height, width, channels = facts["image_shape"]
        kind = {1: ", grey", 3: ", colour"}.get(channels, f", {channels} channels")
        return f"{facts['name']}: {facts['num_examples']:,} images of {height} × {width} pixels{kind}"
    except (KeyError, TypeError, ValueError):
        return ""


def _configuration(run: Run) -> dict[str, str]:
    rows = settings(run_directory.flatten(run.config))
    return {name: digest_in_words(name, text, run) if name in DIGESTS else text for name, text in rows.items()}


def digest_in_words(name: str, digest: str, run: Run) -> str:
    """A setting in `DIGESTS` as a reader of the page wants it: what it is of, and then its beginning."""
    data = run_directory.flatten(run.config).get("data.name")
    if name == "images.data_fingerprint":
        words = _images(run.facts) or str(data or "training images")
    elif name == "images.held_out_fingerprint":
        words = f"held-out images of {data}" if data else "held-out images"
    else:
        words = "networks that are not trained"
    return fingerprints.after(words, DIGESTS[name], digest)


def settings(values: Mapping) -> dict[str, str]:
    """Settings as text."""
    return {name: setting(value) for name, value in values.items()}


def setting(value: object) -> str:
    """A setting as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _environment(run: Run) -> dict[str, str]:
    resumed = run.environment.get("resumed")
    rows = settings({key: value for key, value in run.environment.items() if key != "resumed"})
    for index, changes in enumerate(resumed if isinstance(resumed, list) else [], 1):
        if isinstance(changes, dict):
            rows[f"resume {index}"] = ", ".join(f"{key} {setting(value)}" for key, value in changes.items())
    return rows
