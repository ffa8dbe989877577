"""RUN/report.html: one run on one page that opens anywhere, without a network and without this library.

`write` reads what the run directory holds (configuration, system, environment, status, metrics log, sample pictures)
and leaves out what is not there yet. Pictures are embedded, curves are inline SVG, nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import re
import shlex
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxgen import files, metrics_log, report_curves, run_directory
from jaxgen import report_page as page

REPORT = "report.html"
MAX_PICTURES = 24
MAX_PICTURE_BYTES = 16 * 2**20
MAX_CLASSES = 20  # named
MAX_ROWS = 16  # of classes, in a picture of samples

CAPTIONS = {"reconstructions": "In each pair: left an original, right its reconstruction."}

# The last part of a metric's name says which way is better; names that are not here get no best value.
_LOWER = ("fid", "kid", "nll", "bits_per_dim", "loss", "distortion", "error", "mse", "perplexity", "distance", "swd")
_HIGHER = (
    *("elbo", "bound", "log_likelihood", "accuracy", "inception_score", "precision", "recall", "coverage"),
    *("density", "psnr", "ssim", "active_units"),
)
_NO_DIRECTION = ("std", "stderr", "seconds", "time", "num", "gap")


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
    path = Path(run_directory_path)
    if not path.is_dir():
        raise run_directory.RunDirectoryError(f"{path} is not a directory; give the --directory of a training run")
    notes: list[str] = []
    config = _optional_json(path / run_directory.CONFIG, notes)
    system = _optional_json(path / run_directory.SYSTEM, notes) or _system_of(config)
    environment = _optional_json(path / run_directory.ENVIRONMENT, notes)
    status = _optional_json(path / run_directory.STATUS, notes)
    try:
        records = metrics_log.read_metrics(path)
    except (OSError, run_directory.RunDirectoryError) as error:
        records = []
        notes.append(_in_words(error))
    series = _series(records)
    pictures, hints = _pictures(path / "samples", notes)
    facts = _optional_json(path / run_directory.DATA, notes)
    real = _png(path / run_directory.REAL, notes)

    name = path.resolve().name
    sections = [
        _header(name, config, status, records, series),
        "".join(f'<p class="note">{page.text(note)}</p>' for note in notes),
        _key_numbers(records, series, _starts(environment)),
        _unmeasured(system, series),
        _data(facts),
        _samples(pictures, hints, real, _rows(system, facts)),
        report_curves.sections(series),
        _all_metrics(series),
        _commands(path, config, system, environment),
        _networks(system),
        _table("Configuration", run_directory.flatten(config)),
        _environment(environment),
    ]
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    text = page.PAGE.format(
        title=page.text(f"{name}: {config['preset']}" if config.get("preset") else name),
        style=page.STYLE,
        body="\n".join(section for section in sections if section),
        now=page.text(now),
    )
    if tell is not None:
        for note in notes:
            tell(note)
    files.write_atomically(path / REPORT, text.encode("utf-8", errors="replace"))
    return path / REPORT


# Reading -------------------------------------------------------------------------------------------------------------


def _in_words(error: Exception) -> str:
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)


def _optional_json(file: Path, notes: list[str]) -> dict:
    if not file.exists():
        return {}
    try:
        return run_directory.read_json(file, "it was left out of this report")
    except (OSError, run_directory.RunDirectoryError) as error:
        notes.append(_in_words(error))
    return {}


def _system_of(config: Mapping) -> dict:
    """What RUN/system.json would say of a run from before there was one; nothing of one that cannot be rebuilt."""
    from jaxgen import building, configuration, experiment
    from jaxgen.system import Spec

    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = configuration.from_dict(config)
        system = building.build_system(settings, Spec.from_dict(config["images"]))
        return experiment.facts_of(system, has_test_split=settings.data.has_test_split)
    return {}


def _series(records: Sequence[Mapping]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Metric names, in the order of their first line, to (steps [n] int64, values [n] float64)."""
    steps: dict[str, list] = {}
    values: dict[str, list] = {}
    for record in records:
        for name, value in record.items():
            if name in ("step", "time") or not isinstance(value, (int, float)):
                continue
            steps.setdefault(name, []).append(record["step"])
            values.setdefault(name, []).append(value)
    return {name: (np.array(steps[name]), np.array(values[name], np.float64)) for name in steps}


def _pictures(directory: Path, notes: list[str]) -> tuple[dict[str, list[tuple[str, bytes, int]]], dict[str, str]]:
    """Kinds of picture ("" for RUN/samples/00001000.png) to (label, PNG bytes, width), in the order of their steps.

    Keeps at most MAX_PICTURES of a kind and MAX_PICTURE_BYTES in all: first, last, and evenly spaced between. The
    second result has a hint for each kind that lost some.
    """
    files: dict[str, list[tuple[int, Path]]] = {}
    with contextlib.suppress(OSError):
        for file in sorted(directory.glob("*.png")):
            match = re.fullmatch(r"(.*?)[-_.]?(?:step[-_]?)?(\d+)", file.stem)
            kind, step = (match[1], int(match[2])) if match else (file.stem, -1)
            files.setdefault(kind, []).append((step, file))
    found: dict[str, list[tuple[str, bytes, int]]] = {}
    hints: dict[str, str] = {}
    for kind, entries in files.items():
        entries.sort()
        sizes = [file.stat().st_size for _, file in entries]
        for count in (MAX_PICTURES, 16, 12, 8, 4, 2, 1):
            count = min(count, len(entries))
            # The last is the one that matters most, so a single picture is the last.
            chosen = np.unique(np.linspace(len(entries) - 1, 0, count).round().astype(int))
            if sum(sizes[index] for index in chosen) <= MAX_PICTURE_BYTES / len(files):
                break
        else:
            notes.append(f"The pictures in {directory.name} are too large to embed; open them there.")
            continue
        if len(chosen) < len(entries):
            hints[kind] = f" {len(chosen)} of {len(entries)} are shown; all are in {directory.name}/."
        for index in chosen:
            step, file = entries[index]
            picture = _png(file, notes)
            if picture is not None:
                label = f"step {step:,}" if step >= 0 else file.stem
                found.setdefault(kind, []).append((label, *picture))
    return found, hints


def _png(file: Path, notes: list[str]) -> tuple[bytes, int] | None:
    """A PNG file's bytes and width; None where there is none."""
    if not file.exists():
        return None
    try:
        with files.explained(file, "read"):
            data = file.read_bytes()
    except OSError as error:
        notes.append(f"{error.strerror}. It was left out.")
        return None
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 33:
        notes.append(f"{file.parent.name}/{file.name} is not a PNG file and was left out.")
        return None
    return data, struct.unpack(">I", data[16:20])[0]


# Pieces of the page --------------------------------------------------------------------------------------------------


def _duration(seconds: float) -> str:
    seconds = int(seconds)
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def _header(name: str, config: Mapping, status: Mapping, records: Sequence[Mapping], series: Mapping) -> str:
    flat = run_directory.flatten(config)
    totals = [value for key, value in flat.items() if key.split(".")[-1] == "num_steps" and isinstance(value, int)]
    total = totals[0] if totals else 0
    step = max((record["step"] for record in records), default=0)
    if isinstance(status.get("step"), int):
        step = status["step"]
    word = str(status.get("status") or ("finished" if total and step >= total else "no status"))
    kind = word if word in run_directory.STATUSES else "unknown"
    preset = f"<p class=preset>{page.text(config['preset'])}</p>" if config.get("preset") else ""
    message = f"<p>{page.text(status['message'])}</p>" if status.get("message") else ""
    of_total = f" of {total:,}" if total else ""
    bar = f'<progress max="{total}" value="{min(step, total)}"></progress>' if total > 0 else ""
    bad = []
    for metric, (steps, values) in series.items():
        wrong = ~np.isfinite(values)
        if wrong.any():
            bad.append((int(steps[wrong][0]), metric, int(wrong.sum()), len(values)))
    warning = ""
    if bad:
        items = [f"{page.text(m)} from step {s:,} ({n:,} of {of:,} values)" for s, m, n, of in sorted(bad)[:6]]
        more = f", and {len(bad) - 6} more metrics" if len(bad) > 6 else ""
        warning = f'<p class="warning"><b>Not finite:</b> {", ".join(items)}{more}.</p>'
    return (
        f"<header>{preset}<h1>{page.text(name)}</h1>"
        f'<p class="status"><span class="badge {kind}">{page.text(word)}</span> step {step:,}{of_total}</p>'
        f"{bar}{message}{warning}</header>"
    )


def _starts(environment: Mapping) -> np.ndarray:
    """When the run was started and resumed, in whole seconds since 1970."""
    resumed = environment.get("resumed")
    found = []
    for start in [environment, *(resumed if isinstance(resumed, list) else [])]:
        with contextlib.suppress(TypeError, ValueError, AttributeError, KeyError):
            found.append(datetime.datetime.fromisoformat(start["date"]).timestamp())
    return np.array(found)


def _is_training(times: Sequence[float], steps: Sequence[int], starts: np.ndarray) -> np.ndarray:
    """Which of the n - 1 gaps between n lines of the log were spent training.

    Not: where the run was started anew (which includes whatever was trained before a kill and had to be trained again),
    where the step or the clock goes back, and where the gap is far longer than usual (a machine that slept).
    """
    at = np.asarray(times, np.float64)
    gaps = np.diff(at)
    has_start = ((at[:-1, None] < starts) & (starts <= at[1:, None])).any(axis=1)
    return ~has_start & (np.diff(steps) >= 0) & (gaps >= 0) & (gaps <= max(300.0, 20.0 * float(np.median(gaps))))


def _key_numbers(records: Sequence[Mapping], series: Mapping, starts: np.ndarray) -> str:
    tiles = []
    for name, (steps, values) in series.items():
        group, _, rest = name.partition("/")
        if group != "eval" or report_curves.is_spread(name):
            continue
        lines = f"latest, step {steps[-1]:,}"
        finite = np.flatnonzero(np.isfinite(values))
        direction = _direction(name)
        if direction and len(finite) > 1:
            best = finite[np.argmin(direction * values[finite])]
            lines += f"<br>best {page.number(values[best])}, step {steps[best]:,}"
        tiles.append((rest, page.value(values[-1]), lines))
    timed = [(r["time"], r["step"]) for r in records if isinstance(r.get("time"), (int, float))]
    if len(timed) > 1:
        times, steps = zip(*timed, strict=True)
        is_training = _is_training(times, steps, starts)
        note = "between log lines, restarts and long gaps left out"
        tiles.append(("time trained", _duration(np.diff(times)[is_training].sum()), note))
        pauses = np.flatnonzero(~is_training)
        recent = timed[pauses[-1] + 1 if len(pauses) else 0 :][-20:]
        elapsed, done = recent[-1][0] - recent[0][0], recent[-1][1] - recent[0][1]
        if elapsed > 0 and done > 0:
            tiles.append(("steps a second", page.number(done / elapsed), f"over the last {len(recent)} log lines"))
    if not tiles:
        return ""
    cells = "".join(f"<div><dt>{page.name(a)}</dt><dd>{b}</dd><small>{c}</small></div>" for a, b, c in tiles)
    return f'<section><dl class="tiles">{cells}</dl></section>'


def _direction(name: str) -> int:
    """+1: lower is better, -1: higher is better, 0: unknown."""
    from jaxgen.metrics.protocol import OF_REAL

    last = name.split("/")[-1].lower()
    words = last.split("_")
    if any(word in words for word in _NO_DIRECTION) or last.endswith((*report_curves.SPREADS, *OF_REAL)):
        return 0
    padded = f"_{last}_"
    if any(f"_{key}_" in padded for key in _HIGHER):
        return -1
    return 1 if any(f"_{key}_" in padded for key in _LOWER) else 0


def _unmeasured(system: Mapping, series: Mapping) -> str:
    """What to do about a system that draws, and has no number for what it draws."""
    is_measured = system.get("measures") or any(name.startswith("eval/") for name in series)
    if "draw" not in _can(system) or is_measured:
        return ""
    return (
        '<p class="hint">Losses say little about the images that are drawn. --eval-metric fid (or kid) measures these '
        "while training, jaxgen evaluate afterwards.</p>"
    )


def _can(system: Mapping) -> list[str]:
    found = system.get("can")
    return found if isinstance(found, list) else []


def _networks(system: Mapping) -> str:
    """Which system it is, and each of its networks with the number of its parameters."""
    counts = system.get("parameters")
    counts = {name: n for name, n in counts.items() if isinstance(n, int)} if isinstance(counts, dict) else {}
    if len(counts) > 1:
        counts["together"] = sum(counts.values())
    title = f"Networks: {system['system']}" if isinstance(system.get("system"), str) else "Networks"
    return _table(title, {name: f"{count:,} parameters" for name, count in counts.items()})


def _rows(system: Mapping, facts: Mapping) -> str:
    """What the rows of a class-conditional run's samples are."""
    choices, names = system.get("choices"), facts.get("class_names")
    if not isinstance(choices, dict) or not choices.get("label") or not isinstance(names, list) or not names:
        return ""
    more = f", the first {MAX_ROWS} of {len(names)}" if len(names) > MAX_ROWS else ""
    return f"Rows are classes{more}, from the top: {', '.join(map(str, names[:MAX_ROWS]))}."


def _data(facts: Mapping) -> str:
    """What the run was trained on, in one line."""
    try:
        height, width, channels = facts["image_shape"]
        names = [str(name) for name in facts["class_names"]]
        kind = {1: ", grey", 3: ", colour"}.get(channels, f", {channels} channels")
        text = f"{facts['name']}: {facts['num_examples']:,} images of {height} × {width} pixels{kind}"
    except (KeyError, TypeError, ValueError):  # no such file, or not by this version
        return ""
    shown = ", ".join(names[:MAX_CLASSES]) + (", ..." if len(names) > MAX_CLASSES else "")
    classes = f"; {len(names)} classes ({shown})" if names else "; no labels"
    return f'<p class="facts"><b>Training data</b> {page.text(text + classes)}</p>'


def _samples(
    pictures: Mapping[str, Sequence[tuple[str, bytes, int]]],
    hints: Mapping[str, str],
    real: tuple[bytes, int] | None,
    rows: str,
) -> str:
    shown = "" if real is None else _figure("Real images", "real images", *real, "latest")
    parts = []
    for kind, entries in pictures.items():
        title = kind.replace("_", " ").replace("-", " ").capitalize() if kind else "Samples"
        label, data, width = entries[-1]
        parts.append(f"<section><h2>{page.text(title)}</h2>")
        if caption := CAPTIONS.get(kind, rows if not kind else ""):
            parts.append(f'<p class="hint">{page.text(caption)}</p>')
        latest = _figure(title, label, data, width, "latest")
        if not kind and shown:
            latest, shown = f'<div class="beside">{latest}{shown}</div>', ""
        parts.append(latest)
        if len(entries) > 1:
            earlier = "".join(_figure(title, *entry, "small") for entry in entries[:-1])
            hint = "Earlier, in order; press one to enlarge it." + page.text(hints.get(kind, ""))
            parts.append(f'<p class="hint">{hint}</p><div class="strip">{earlier}</div>')
        parts.append("</section>")
    if shown:  # nothing to compare them with, yet
        parts.append(f"<section><h2>Real images</h2>{shown}</section>")
    return "".join(parts)


def _figure(title: str, label: str, data: bytes, width: int, kind: str) -> str:
    source = base64.b64encode(data).decode()
    image = f'<img src="data:image/png;base64,{source}" alt="{page.text(title)}, {page.text(label)}"'
    if kind == "latest":
        # Whole factors only, so that pixels stay square; a small grid would be a stamp otherwise.
        shown = width * max(1, 480 // width) if width else width
        return f'<figure class="latest">{image} width="{shown}"><figcaption>{page.text(label)}</figcaption></figure>'
    return (
        f'<figure class="small"><label><input type="checkbox" aria-label="enlarge {page.text(label)}">{image} '
        f'loading="lazy"></label><figcaption>{page.text(label)}</figcaption></figure>'
    )


def _all_metrics(series: Mapping) -> str:
    rows = []
    for name, (steps, values) in sorted(series.items()):
        finite = values[np.isfinite(values)]
        low, high = (page.number(finite.min()), page.number(finite.max())) if len(finite) else ("", "")
        rows.append(
            f"<tr><th>{page.name(name)}</th><td>{page.value(values[-1])}</td><td>{low}</td><td>{high}</td>"
            f"<td>{steps[-1]:,}</td><td>{len(values):,}</td></tr>"
        )
    if not rows:
        return ""
    head = "<tr><th>metric</th><th>latest</th><th>lowest</th><th>highest</th><th>at step</th><th>values</th></tr>"
    return (
        "<section><details><summary><h2>All metrics</h2></summary>"
        f'<div class="scroll"><table class="numbers"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
        "</details></section>"
    )


def _table(title: str, values: Mapping, *, is_open: bool = True) -> str:
    if not values:
        return ""
    rows = "".join(
        f"<tr><th>{page.name(key)}</th><td>{page.text(_setting(value))}</td></tr>" for key, value in values.items()
    )
    return (
        f"<section><details{' open' if is_open else ''}><summary><h2>{page.text(title)}</h2></summary>"
        f'<div class="scroll"><table>{rows}</table></div></details></section>'
    )


def _setting(value) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _environment(environment: Mapping) -> str:
    resumed = environment.get("resumed")
    rows = {key: value for key, value in environment.items() if key != "resumed"}
    for index, changes in enumerate(resumed if isinstance(resumed, list) else [], 1):
        if isinstance(changes, dict):
            rows[f"resume {index}"] = ", ".join(f"{key} {_setting(value)}" for key, value in changes.items())
    return _table("Environment", rows)


def _commands(path: Path, config: Mapping, system: Mapping, environment: Mapping) -> str:
    from jaxgen import configuration

    train = _train_command(environment)
    of_scripts = train is not None and not train.startswith("jaxgen ")
    config = configuration.upgraded(config)
    name, hint = str(config.get("system", "")), ""
    items = []
    if not _has_checkpoint(path):
        if train:
            items.append(("Start again: there is no checkpoint yet to go on from", train))
    else:
        if train:
            items.append(("Resume from the last checkpoint: the same command again", train))
        asked = {"sample": [] if "draw" in _can(system) else None, "evaluate": _evaluate_options(config, system)}
        for command, options in asked.items():
            if options is None or not name:  # nothing says which settings a system was built from
                continue
            words = [*(["python", f"scripts/{command}.py"] if of_scripts else ["jaxgen", command]), str(path), *options]
            words += ["--system", _file_of(name, train)] if name.endswith(".py") else []
            items.append(({"sample": "Draw samples", "evaluate": "Evaluate"}[command], shlex.join(words)))
        if system and not name:
            call = f"jaxgen.load({str(path)!r}, system=...)"
            hint = f'<p class="hint">In Python, with the system that it was trained with: {page.text(call)}</p>'
    if not items and not hint:
        return ""
    lines = "".join(f"<dt>{page.text(what)}</dt><dd><pre>{_command(line)}</pre></dd>" for what, line in items)
    return f'<section><h2>Commands</h2><dl class="commands">{lines}</dl>{hint}</section>'


def _file_of(name: str, train: str | None) -> str:
    """Where the file of a user's system lay when it was trained, or its name."""
    files = [word.partition(":")[0] for word in shlex.split(train or "")]
    return next((file for file in files if re.split(r"[/\\]", file)[-1] == name), name)


def _train_command(environment: Mapping) -> str | None:
    """The command line of the last start (a resume may have asked for more steps); None if that was not train."""
    resumed = environment.get("resumed")
    starts = [environment, *(resumed if isinstance(resumed, list) else [])]
    # What a resume does not name is as it was at the first start.
    command = starts[-1].get("command", environment.get("command")) if isinstance(starts[-1], dict) else None
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:
        return None
    if len(words) > 2 and re.fullmatch(r"(.*[/\\])?jaxgen(\.exe)?", words[1]) and words[2] == "train":
        return shlex.join(["jaxgen", *words[2:]])
    return command if len(words) > 1 and re.fullmatch(r"(.*[/\\])?train\.py", words[1]) else None


def _has_checkpoint(path: Path) -> bool:
    """Whether a finished checkpoint is there; unfinished and damaged ones have other names than their step."""
    with contextlib.suppress(OSError):
        return any(entry.name.isdigit() and entry.is_dir() for entry in (path / "checkpoints").iterdir())
    return False


def _evaluate_options(config: Mapping, system: Mapping) -> list[str] | None:
    """What `jaxgen evaluate` needs beside the run to work without other files; None where there is no such way."""
    from jaxgen.metrics import features

    draws = "draw" in _can(system)
    try:
        shape, name = tuple(config["images"]["image_shape"]), config["data"]["name"]
    except (TypeError, KeyError):  # the run of another program
        return None
    if draws and not system.get("measures") and name == "stacked_mnist":
        return [] if shape == (28, 28, 3) else None
    if not system.get("has_test_split") or not (draws or system.get("measures")):
        return None
    if system.get("measures"):
        return []
    try:
        features.shipped_for(shape)
    except ValueError:
        return None
    return ["--metrics", "fid", "kid", "prdc"]


def _command(line: str) -> str:
    """A command line as HTML that breaks between its arguments only."""
    return " ".join(f"<span>{page.text(shlex.quote(word))}</span>" for word in shlex.split(line))
