"""RUN/report.html: one run on one page that opens anywhere, without a network and without this library.

`write` reads what the run directory holds (configuration, environment, status, metrics log, sample pictures) and leaves
out what is not there yet. Pictures are embedded, curves are inline SVG, nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import datetime
import html
import io
import json
import math
import os
import re
import shlex
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxgen import run_directory

REPORT = "report.html"
MAX_PICTURES = 24
MAX_PICTURE_BYTES = 16 * 2**20
MAX_CLASSES = 20  # named
MAX_PANELS = 60
MAX_CURVES = 8
RAW_BINS = 150  # two points a bin; a panel is some 400 pixels wide
SMOOTH_POINTS = 150
SMOOTH_FROM = 100  # fewer points than this are drawn as they are

# Mid tones that read on white and on near-black; the first two differ for every kind of colour vision.
COLOURS = ("#2f80ed", "#e8710a", "#1a9c6b", "#b455d6", "#d6336c", "#8a8f00", "#0f9fb5", "#8c6d5a")
_INK = "#0a0b0c"  # stands for the page's text colour, which the SVG takes from CSS
_FRAME = "#0d0e0f"

CAPTIONS = {"reconstructions": "In each pair: left an original, right its reconstruction."}

# The last part of a metric's name says which way is better; names that are not here get no best value.
_LOWER = ("fid", "kid", "nll", "bits_per_dim", "loss", "distortion", "error", "mse", "perplexity", "distance", "swd")
_HIGHER = (
    *("elbo", "bound", "log_likelihood", "accuracy", "inception_score", "precision", "recall", "coverage"),
    *("density", "psnr", "ssim", "active_units"),
)
_SPREADS = ("_std", "_standard_error")  # how the names of error bars end
_NO_DIRECTION = ("std", "stderr", "seconds", "time", "num", "gap")


def write(run_directory_path: str | os.PathLike) -> Path:
    """Writes RUN/report.html from what the run directory holds now.

    Everything is optional: configuration, environment, status, metrics, samples. Long curves are thinned before they
    are drawn, keeping the extremes of each stretch, and get a moving mean on top.

    Args:
      run_directory_path: the run directory.

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
    environment = _optional_json(path / run_directory.ENVIRONMENT, notes)
    status = _optional_json(path / run_directory.STATUS, notes)
    try:
        records = run_directory.read_metrics(path)
    except run_directory.RunDirectoryError as error:
        records = []
        notes.append(str(error))
    series = _series(records)
    pictures, hints = _pictures(path / "samples", notes)
    facts = _optional_json(path / run_directory.DATA, notes)
    real = _png(path / run_directory.REAL, notes)

    name = path.resolve().name
    sections = [
        _header(name, config, status, records, series),
        "".join(f'<p class="note">{_text(note)}</p>' for note in notes),
        _key_numbers(records, series, _starts(environment)),
        _unmeasured(config, series),
        _data(facts),
        _samples(pictures, hints, real),
        _curves(series),
        _all_metrics(series),
        _commands(path, config, environment),
        _table("Configuration", run_directory.flatten(config)),
        _environment(environment),
    ]
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    page = _PAGE.format(
        title=_text(f"{name}: {config['preset']}" if config.get("preset") else name),
        style=_STYLE,
        body="\n".join(section for section in sections if section),
        now=_text(now),
    )
    run_directory.write_atomically(path / REPORT, page.encode("utf-8", errors="replace"))
    return path / REPORT


# Reading -------------------------------------------------------------------------------------------------------------


def _optional_json(file: Path, notes: list[str]) -> dict:
    if not file.exists():
        return {}
    try:
        return run_directory.read_json(file, "it was left out of this report")
    except (OSError, run_directory.RunDirectoryError) as error:
        notes.append(str(error))
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
    data = file.read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 33:
        notes.append(f"{file.parent.name}/{file.name} is not a PNG file and was left out.")
        return None
    return data, struct.unpack(">I", data[16:20])[0]


# Pieces of the page --------------------------------------------------------------------------------------------------


def _text(value) -> str:
    return html.escape(str(value), quote=True)


def _name(name) -> str:
    """A dotted or slashed name as HTML that may break after these signs, and not in the middle of a word."""
    return re.sub(r"(?<=\w)([./_]+)(?=\w)", r"\1<wbr>", _text(name))


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}".replace("-", "−")
    return (f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}").replace("-", "−")


def _value(value: float) -> str:
    """A number as HTML, marked when it is not finite."""
    return _number(value) if math.isfinite(value) else f'<b class="bad">{_number(value)}</b>'


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
    preset = f"<p class=preset>{_text(config['preset'])}</p>" if config.get("preset") else ""
    message = f"<p>{_text(status['message'])}</p>" if status.get("message") else ""
    of_total = f" of {total:,}" if total else ""
    bar = f'<progress max="{total}" value="{min(step, total)}"></progress>' if total > 0 else ""
    bad = []
    for metric, (steps, values) in series.items():
        wrong = ~np.isfinite(values)
        if wrong.any():
            bad.append((int(steps[wrong][0]), metric, int(wrong.sum()), len(values)))
    warning = ""
    if bad:
        items = [f"{_text(m)} from step {s:,} ({n:,} of {of:,} values)" for s, m, n, of in sorted(bad)[:6]]
        more = f", and {len(bad) - 6} more metrics" if len(bad) > 6 else ""
        warning = f'<p class="warning"><b>Not finite:</b> {", ".join(items)}{more}.</p>'
    return (
        f"<header>{preset}<h1>{_text(name)}</h1>"
        f'<p class="status"><span class="badge {kind}">{_text(word)}</span> step {step:,}{of_total}</p>'
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
    times = np.asarray(times, np.float64)
    gaps = np.diff(times)
    has_start = ((times[:-1, None] < starts) & (starts <= times[1:, None])).any(axis=1)
    return ~has_start & (np.diff(steps) >= 0) & (gaps >= 0) & (gaps <= max(300.0, 20.0 * float(np.median(gaps))))


def _key_numbers(records: Sequence[Mapping], series: Mapping, starts: np.ndarray) -> str:
    tiles = []
    for name, (steps, values) in series.items():
        group, _, rest = name.partition("/")
        if group != "eval" or _is_spread(name):
            continue
        lines = f"latest, step {steps[-1]:,}"
        finite = np.flatnonzero(np.isfinite(values))
        direction = _direction(name)
        if direction and len(finite) > 1:
            best = finite[np.argmin(direction * values[finite])]
            lines += f"<br>best {_number(values[best])}, step {steps[best]:,}"
        tiles.append((rest, _value(values[-1]), lines))
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
            tiles.append(("steps a second", _number(done / elapsed), f"over the last {len(recent)} log lines"))
    if not tiles:
        return ""
    cells = "".join(f"<div><dt>{_name(a)}</dt><dd>{b}</dd><small>{c}</small></div>" for a, b, c in tiles)
    return f'<section><dl class="tiles">{cells}</dl></section>'


def _direction(name: str) -> int:
    """+1: lower is better, -1: higher is better, 0: unknown."""
    from jaxgen.metrics.protocol import OF_REAL

    last = name.split("/")[-1].lower()
    words = last.split("_")
    if any(word in words for word in _NO_DIRECTION) or last.endswith((*_SPREADS, *OF_REAL)):
        return 0
    padded = f"_{last}_"
    if any(f"_{key}_" in padded for key in _HIGHER):
        return -1
    return 1 if any(f"_{key}_" in padded for key in _LOWER) else 0


def _unmeasured(config: Mapping, series: Mapping) -> str:
    """What to do about a GAN without a number for its quality."""
    if config.get("family") != "GAN" or any(name.startswith("eval/") for name in series):
        return ""
    return (
        '<p class="hint">The losses of a GAN say little about its images. --eval-metric fid (or kid) measures them '
        "while training, scripts/evaluate.py afterwards.</p>"
    )


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
    return f'<p class="facts"><b>Training data</b> {_text(text + classes)}</p>'


def _samples(
    pictures: Mapping[str, Sequence[tuple[str, bytes, int]]],
    hints: Mapping[str, str],
    real: tuple[bytes, int] | None,
) -> str:
    shown = "" if real is None else _figure("Real images", "real images", *real, "latest")
    parts = []
    for kind, entries in pictures.items():
        title = kind.replace("_", " ").replace("-", " ").capitalize() if kind else "Samples"
        label, data, width = entries[-1]
        parts.append(f"<section><h2>{_text(title)}</h2>")
        if kind in CAPTIONS:
            parts.append(f'<p class="hint">{CAPTIONS[kind]}</p>')
        latest = _figure(title, label, data, width, "latest")
        if not kind and shown:
            latest, shown = f'<div class="beside">{latest}{shown}</div>', ""
        parts.append(latest)
        if len(entries) > 1:
            earlier = "".join(_figure(title, *entry, "small") for entry in entries[:-1])
            hint = "Earlier, in order; press one to enlarge it." + _text(hints.get(kind, ""))
            parts.append(f'<p class="hint">{hint}</p><div class="strip">{earlier}</div>')
        parts.append("</section>")
    if shown:  # nothing to compare them with, yet
        parts.append(f"<section><h2>Real images</h2>{shown}</section>")
    return "".join(parts)


def _figure(title: str, label: str, data: bytes, width: int, kind: str) -> str:
    source = base64.b64encode(data).decode()
    image = f'<img src="data:image/png;base64,{source}" alt="{_text(title)}, {_text(label)}"'
    if kind == "latest":
        # Whole factors only, so that pixels stay square; a small grid would be a stamp otherwise.
        shown = width * max(1, 480 // width) if width else width
        return f'<figure class="latest">{image} width="{shown}"><figcaption>{_text(label)}</figcaption></figure>'
    return (
        f'<figure class="small"><label><input type="checkbox" aria-label="enlarge {_text(label)}">{image} '
        f'loading="lazy"></label><figcaption>{_text(label)}</figcaption></figure>'
    )


def _all_metrics(series: Mapping) -> str:
    rows = []
    for name, (steps, values) in sorted(series.items()):
        finite = values[np.isfinite(values)]
        low, high = (_number(finite.min()), _number(finite.max())) if len(finite) else ("", "")
        rows.append(
            f"<tr><th>{_name(name)}</th><td>{_value(values[-1])}</td><td>{low}</td><td>{high}</td>"
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
    rows = "".join(f"<tr><th>{_name(key)}</th><td>{_text(_setting(value))}</td></tr>" for key, value in values.items())
    return (
        f"<section><details{' open' if is_open else ''}><summary><h2>{_text(title)}</h2></summary>"
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


def _commands(path: Path, config: Mapping, environment: Mapping) -> str:
    train, run = _train_command(environment), shlex.quote(str(path))
    items = []
    if not _has_checkpoint(path):
        if train:
            items.append(("Start again: there is no checkpoint yet to go on from", train))
    else:
        if train:
            items.append(("Resume from the last checkpoint: the same command again", train))
        if config.get("family") in ("GAN", "VAE"):
            items.append(("Draw samples", f"python scripts/sample.py {run}"))
        options = _evaluate_options(config)
        if options is not None:
            items.append(("Evaluate", " ".join(["python scripts/evaluate.py", run, *options])))
    if not items:
        return ""
    lines = "".join(f"<dt>{_text(what)}</dt><dd><pre>{_command(line)}</pre></dd>" for what, line in items)
    return f'<section><h2>Commands</h2><dl class="commands">{lines}</dl></section>'


def _train_command(environment: Mapping) -> str | None:
    """The command line of the last start (a resume may have asked for more steps); None if that was not train.py."""
    resumed = environment.get("resumed")
    starts = [environment, *(resumed if isinstance(resumed, list) else [])]
    # What a resume does not name is as it was at the first start.
    command = starts[-1].get("command", environment.get("command")) if isinstance(starts[-1], dict) else None
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:
        return None
    return command if len(words) > 1 and re.fullmatch(r"(.*[/\\])?train\.py", words[1]) else None


def _has_checkpoint(path: Path) -> bool:
    """Whether a finished checkpoint is there; unfinished and damaged ones have other names than their step."""
    with contextlib.suppress(OSError):
        return any(entry.name.isdigit() and entry.is_dir() for entry in (path / "checkpoints").iterdir())
    return False


def _evaluate_options(config: Mapping) -> list[str] | None:
    """What evaluate.py needs beside the run to work without other files; None where there is no such way."""
    from jaxgen import presets  # JAX comes with them
    from jaxgen.metrics import features

    try:
        typed = presets.from_dict(config)
        shape = tuple(config["images"]["image_shape"])
    except (ValueError, TypeError, KeyError, AttributeError):  # the run of another program, or of another version
        return None
    if isinstance(typed, presets.GAN) and typed.data.name == "stacked_mnist":
        return [] if shape == (28, 28, 3) else None
    if not presets.has_test_split(typed.data):
        return None
    if not isinstance(typed, presets.GAN):
        return []
    try:
        features.shipped_for(shape)
    except ValueError:
        return None
    return ["--metrics", "fid", "kid", "prdc"]


def _command(line: str) -> str:
    """A command line as HTML that breaks between its arguments only."""
    return " ".join(f"<span>{_text(shlex.quote(word))}</span>" for word in shlex.split(line))


# Curves --------------------------------------------------------------------------------------------------------------


def panels(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Sorts metrics into panels of related curves.

    The first rule that applies: the same last part in several groups (generator/loss and discriminator/loss); real_ and
    fake_ of one thing; names that differ only in digits. Everything else gets its own panel. A spread (eval/fid_std
    beside eval/fid) gets none: it is drawn as the error bar of what it belongs to.

    Args:
      names: metric names.

    Returns:
      (section, names) pairs. The section is the first part of the names, or the parts joined when they differ, or
      "other" for a part that has one panel only. In this order: eval, mixed, by their first metric, other.
    """
    names = [name for name in names if not (_is_spread(name) and name.removesuffix("_std") in names)]
    groups: dict[str, set[str]] = {}
    for name in names:
        group, slash, _ = name.partition("/")
        groups.setdefault(name.split("/")[-1], set()).add(group if slash else "")
    found: dict[tuple, list[str]] = {}
    for name in names:
        first, slash, rest = name.partition("/")
        last = name.split("/")[-1]
        if len(groups[last]) > 1:
            key = ("", last)
        elif re.match(r"(real|fake)_", last):
            key = (first, re.sub(r"(real|fake)_", "±_", last))
        else:
            key = (first, re.sub(r"\d+", "#", rest) if slash else "")
        found.setdefault(key, []).append(name)
    result = []
    for members in found.values():
        sections = dict.fromkeys(name.partition("/")[0] for name in members)
        for start in range(0, len(members), MAX_CURVES):
            result.append((" and ".join(sections), members[start : start + MAX_CURVES]))
    count = collections.Counter(section for section, _ in result)
    result = [
        (section if count[section] > 1 or section == "eval" or " and " in section else "other", members)
        for section, members in result
    ]
    order = {section: index for index, section in enumerate(dict.fromkeys(section for section, _ in result))}
    return sorted(
        result, key=lambda item: (item[0] == "other", item[0] != "eval", " and " not in item[0], order[item[0]])
    )


def _is_spread(name: str) -> bool:
    return name.startswith("eval/") and name.endswith(_SPREADS)


def _curves(series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    if not series:
        return '<section><h2>Curves</h2><p class="hint">No metrics were logged yet.</p></section>'
    arranged = panels(list(series))
    last_step = max(int(steps.max()) for steps, _ in series.values())
    first_step = min(0, min(int(steps.min()) for steps, _ in series.values()))
    parts, section = [], None
    for index, (title, names) in enumerate(arranged[:MAX_PANELS]):
        if title != section:
            parts.append(("</div></section>" if section else "") + f"<section><h2>{_text(_title(title, section))}</h2>")
            parts.append('<div class="panels">')
            section = title
        parts.append(_panel(index, names, series, first_step, last_step))
    parts.append("</div></section>")
    if len(arranged) > MAX_PANELS:
        left = len(arranged) - MAX_PANELS
        parts.append(f'<p class="hint">{left} more panels were not drawn; their numbers are under All metrics.</p>')
    return "".join(parts)


def _title(section: str, previous: str | None) -> str:
    if section == "eval":
        return "Evaluation"
    if section == "other" and previous in (None, "eval"):
        return "Training"
    return (section[:1].upper() + section[1:]).replace("_", " ")


def _panel(index: int, names: Sequence[str], series: Mapping, first_step: int, last_step: int) -> str:
    curves = [
        (
            series[name][0],
            _within_float32(series[name][1]),
            COLOURS[i % len(COLOURS)],
            name.startswith("eval/"),
            next((series[name + ending] for ending in _SPREADS if name + ending in series), None),
        )
        for i, name in enumerate(names)
    ]
    finite = np.concatenate([values[np.isfinite(values)] for _, values, *_ in curves])
    is_log = _is_log(names, finite)
    legend = "".join(
        f'<span><i style="background:{colour}"></i>{_name(name)} <b>{_value(series[name][1][-1])}</b></span>'
        for name, colour in zip(names, COLOURS, strict=False)
    )
    drawing = '<p class="hint">no finite value</p>'
    if len(finite):
        drawing = _svg(index, curves, first_step, last_step, is_log)
    scale = " <em>log scale</em>" if is_log else ""
    label = _text(", ".join(names))
    return (
        f'<figure class="panel"><figcaption>{legend}{scale}</figcaption>'
        f'<div role="img" aria-label="{label}">{drawing}</div></figure>'
    )


def _within_float32(values: np.ndarray) -> np.ndarray:
    """Keeps magnitudes that metrics of a float32 run cannot have out of Matplotlib, whose axes overflow on them."""
    clipped = np.clip(values, -1e38, 1e38)
    return np.where(np.isfinite(values), np.where(np.abs(clipped) < 1e-38, 0.0, clipped), values)


def _is_log(names: Sequence[str], finite: np.ndarray) -> bool:
    """Whether a logarithmic axis reads better: positive values over orders of magnitude, norms a little earlier."""
    if not len(finite) or finite.min() <= 0:
        return False
    ratio = finite.max() / finite.min()
    return ratio > (30 if all("norm" in name for name in names) else 1000)


def _svg(index: int, curves: Sequence[tuple], first_step: int, last_step: int, is_log: bool) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    # No pyplot: it would keep figures, choose a GUI backend and disturb the notebook that calls this.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxgen", "path.simplify_threshold": 0.3}):
        figure = Figure(figsize=(4.9, 2.4), facecolor="none")
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.125, 0.125, 0.855, 0.84), facecolor="none")
        for steps, values, colour, is_evaluation, spread in curves:
            steps, values = _last_of_each_step(steps, values)
            kept = np.isfinite(values)
            if is_evaluation or kept.sum() == 1:
                axes.plot(steps[kept], values[kept], color=colour, linewidth=1.2, marker="o", markersize=4.0)
                if is_evaluation and spread is not None:
                    radius = dict(zip(*_last_of_each_step(*spread), strict=True))
                    radii = np.nan_to_num([radius.get(step, 0.0) for step in steps[kept]], posinf=0.0, neginf=0.0)
                    axes.errorbar(steps[kept], values[kept], np.abs(radii), color=colour, linestyle="", capsize=2)
            elif len(values) < SMOOTH_FROM:
                axes.plot(steps, values, color=colour, linewidth=1.4, marker="o" if len(values) < 25 else "", ms=3)
            else:
                axes.plot(*_thinned(steps, values), color=colour, linewidth=0.7, alpha=0.3, zorder=2)
                axes.plot(*_smoothed(steps, values), color=colour, linewidth=1.7, zorder=3)
        span = max(last_step - first_step, 1)
        axes.set_xlim(first_step - 0.01 * span, last_step + 0.02 * span)
        if is_log:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
            low, high = axes.get_ylim()
            if high / low < 30:  # a single power of ten in sight would leave a single label
                axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: _tick(value)))
        else:
            finite = np.concatenate([values[np.isfinite(values)] for _, values, *_ in curves])
            size = float(np.abs(finite).max())
            if float(finite.max()) - float(finite.min()) <= 1e-6 * size:  # constant but for rounding: no zoom into it
                axes.set_ylim(finite[0] - 0.1 * size, finite[0] + 0.1 * size)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _step_tick(value)))
        axes.grid(True, which="major", color=_FRAME, linewidth=0.6)
        axes.tick_params(which="both", length=0, labelsize=9.5, labelcolor=_INK)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(_FRAME)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Inside HTML the namespaces are known, and a page without addresses is one that cannot load anything.
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg, count=2).replace("xlink:href", "href")
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)  # the style sheet decides
    # Identifiers are unique in a figure, not in a page of figures.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>p{index}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    return svg.replace(_INK, "currentColor").replace(_FRAME, "var(--line)")


def _tick(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def _step_tick(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _last_of_each_step(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps in order and one value a step, the one written last."""
    order = np.argsort(steps, kind="stable")
    steps, values = steps[order], values[order]
    last = np.append(steps[1:] != steps[:-1], True)
    return steps[last], values[last]


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest value of each of RAW_BINS stretches, so that no spike is lost; NaN stays a gap."""
    if len(values) <= 2 * RAW_BINS:
        return steps, values
    chosen = []
    for indices in np.array_split(np.arange(len(values)), RAW_BINS):
        finite = indices[np.isfinite(values[indices])]
        if len(finite):
            chosen.extend(sorted((finite[np.argmin(values[finite])], finite[np.argmax(values[finite])])))
        else:
            chosen.append(indices[0])
    chosen = np.unique(chosen)
    return steps[chosen], values[chosen]


def _smoothed(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A centred moving mean of the finite values over 1/40 of the curve; NaN where the window holds none."""
    half = max(1, len(values) // 80)
    at = np.unique(np.linspace(0, len(values) - 1, min(SMOOTH_POINTS, len(values))).round().astype(int))
    # Window by window: differences of one cumulative sum would lose every digit after a single spike of 1e30.
    windows = (values[max(index - half, 0) : index + half + 1] for index in at)
    finite = (window[np.isfinite(window)] for window in windows)
    return steps[at], np.array([window.mean() if len(window) else np.nan for window in finite])


_STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #ffffff; --ink: #1d2126; --soft: #626a73; --line: #dfe2e6;
  --accent: #2f80ed; --good: #17804f; --warn: #9a6200; --bad: #c42b3a; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1c2024; --ink: #e4e7ea; --soft: #99a1a9;
  --line: #343a41; --accent: #6aa7f7; --good: #4cc38a; --warn: #e0a544; --bad: #ff7a85; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 32px 24px 64px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header { margin-bottom: 24px; }
h1 { margin: 0; font-size: 30px; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; font-size: 18px; }
section { margin-top: 32px; }
p { margin: 8px 0; }
.preset { margin: 0 0 2px; color: var(--soft); font-size: 16px; }
.status { font-variant-numeric: tabular-nums; }
.badge { display: inline-block; margin-right: 8px; padding: 1px 10px; border-radius: 99px; border: 1px solid;
  color: var(--soft); font-size: 13px; font-weight: 600; }
.badge.running { color: var(--accent); } .badge.finished { color: var(--good); }
.badge.stopped { color: var(--warn); } .badge.non-finite { color: var(--bad); }
progress { width: 100%; height: 6px; border: 0; border-radius: 3px; appearance: none; background: var(--line);
  overflow: hidden; }
progress::-webkit-progress-bar { background: var(--line); }
progress::-webkit-progress-value { background: var(--accent); }
progress::-moz-progress-bar { background: var(--accent); }
.warning, .bad { color: var(--bad); }
.note, .hint { color: var(--soft); font-size: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(185px, 1fr)); gap: 12px; margin: 0; }
.tiles div { padding: 12px 16px; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
.tiles dt { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.tiles dd { margin: 0; font-size: 22px; font-weight: 600; line-height: 1.4; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.tiles small { display: block; color: var(--soft); line-height: 1.4; font-variant-numeric: tabular-nums; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; image-rendering: pixelated; }
.facts { color: var(--soft); overflow-wrap: anywhere; } .facts b { color: var(--ink); margin-right: 6px; }
.beside { display: flex; flex-wrap: wrap; gap: 16px 24px; } .beside figure { flex: 0 1 auto; min-width: 0; }
.latest figcaption { margin-top: 4px; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; }
.small label { display: block; cursor: zoom-in; }
.small img { width: 100%; image-rendering: auto; }
.small input { position: absolute; opacity: 0; width: 1px; height: 1px; }
.small input:focus-visible + img { outline: 3px solid var(--accent); outline-offset: 2px; }
.small:has(input:checked) { grid-column: 1 / -1; }
.small:has(input:checked) label { cursor: zoom-out; }
.small:has(input:checked) img { width: auto; min-width: min(100%, 480px); image-rendering: pixelated; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 370px), 1fr)); gap: 16px; }
.panel { padding: 12px 12px 6px; border: 1px solid var(--line); border-radius: 10px; background: var(--card);
  min-width: 0; }
.panel figcaption { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 0 4px 6px; overflow-wrap: anywhere; }
.panel figcaption i { display: inline-block; width: 14px; height: 3px; margin-right: 6px; vertical-align: middle;
  border-radius: 2px; }
.panel figcaption b { color: var(--ink); } .panel figcaption b.bad { color: var(--bad); }
.panel em { margin-left: auto; }
.panel svg { display: block; width: 100%; height: auto; color: var(--soft); font-family: inherit; }
summary { cursor: pointer; margin-bottom: 8px; } summary h2 { display: inline; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 16px 4px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
th { width: 34%; font-weight: 400; color: var(--soft); overflow-wrap: normal; }
.numbers th:not(:first-child) { width: auto; } .numbers th:not(:first-child), .numbers td { text-align: right; }
.numbers td { white-space: nowrap; }
.commands { margin: 0; } .commands dt { color: var(--soft); font-size: 14px; } .commands dd { margin: 4px 0 12px; }
pre { margin: 0; padding: 10px 14px; border: 1px solid var(--line); border-radius: 8px; background: var(--card);
  overflow-x: auto; white-space: pre-wrap; font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre span { white-space: pre; }
footer { margin-top: 40px; color: var(--soft); font-size: 13px; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<footer>Written by jaxgen on {now}.</footer>
</body>
</html>
"""
