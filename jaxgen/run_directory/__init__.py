"""The directory of one training run: what lies where, its configuration and its status.

    RUN/config.json        the configuration; what a resumed run is compared with
    RUN/environment.json   versions, devices, commit and command line of the first start, and what differed on resumes
    RUN/system.json        what is trained: its name, what it can do, parameters of each network
    RUN/data.json          what it is trained on: name, number and shape of the images, classes
    RUN/real.png           some of them
    RUN/metrics.jsonl      one flat JSON object a line: {"step": 100, "time": 1700000000.0, "generator/loss": 0.69}
    RUN/events.out.*       the same numbers and the pictures for TensorBoard
    RUN/status.json        {"status": "running", "step": 100, "message": ""}
    RUN/.lock              held by the process that trains here

`metrics_log` writes and reads the log, `lock` holds the lock, `files` replaces each file as a whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxgen import files
from jaxgen.local_path import local
from jaxgen.run_directory import environment

CONFIG = "config.json"
ENVIRONMENT = "environment.json"
SYSTEM = "system.json"
DATA = "data.json"
REAL = "real.png"
METRICS = "metrics.jsonl"
STATUS = "status.json"
LOCK = ".lock"
STATUSES = ("running", "finished", "stopped", "non-finite", "failed")
_ABSENT = object()


class RunDirectoryError(ValueError):
    """A run directory that cannot be used as asked; the message names the path and says what to do."""


class ConfigMismatch(RunDirectoryError):
    """A run directory that was started with other settings; the message lists each difference."""


def checked_path(path: str | os.PathLike) -> Path:
    """The path of a run directory with `~` expanded; a RunDirectoryError where it is none that can be used."""
    try:
        return local(path, "the run directory")
    except ValueError as error:
        raise RunDirectoryError(str(error)) from None


def create(
    path: str | os.PathLike,
    config: Mapping,
    *,
    may_change: Sequence[str] = (),
    upgrade: Callable[[Mapping], Mapping] = dict,
    is_primary: bool = True,
) -> Path:
    """Makes a run directory, or checks that an existing one was started with the same configuration.

    Never deletes anything. A new or empty directory gets config.json and environment.json. If config.json is there, it
    must equal `config` in every setting that `may_change` does not name; config.json then takes the new values, and
    environment.json notes what differs from the first start (a newer JAX, another number of devices).

    Args:
      path: the directory; parents are made, `~` is expanded.
      config: the configuration: nested dicts of strings, numbers, booleans, None, lists and tuples.
      may_change: dotted names of settings that a resumed run may change, for example ("num_steps",); a name covers
        everything below it ("evaluation" covers "evaluation.every").
      upgrade: what a stored configuration of an older version means today.
      is_primary: False on every host but the first: returns the path and touches nothing. On the primary host the
        devices are looked up, so `jax.distributed.initialize` comes first.

    Returns:
      The directory.

    Raises:
      ConfigMismatch: if the settings differ; lists every difference as `name: 1 there, 2 asked`.
      RunDirectoryError: if the path is a file, or a directory that holds other things, or its config.json is damaged.
      OSError: with the path and what to do, if it cannot be written.
    """
    path = checked_path(path)
    if is_primary:
        if prepare(path):
            _compare_and_update(path, config, may_change, upgrade)
        else:
            files.write_atomically(path / CONFIG, files.json_bytes(config))
        _record_environment(path)
    return path


def prepare(path: Path) -> bool:
    """Makes the directory unless it is there; refuses what is no run. Returns whether it holds a configuration."""
    with files.explained(path, "make the run directory"):
        if path.exists() and not path.is_dir():
            raise RunDirectoryError(f"{path} is a file, not a directory; choose another --directory")
        path.mkdir(parents=True, exist_ok=True)
    with files.explained(path, "read the run directory"):
        content = sorted(entry.name for entry in path.iterdir() if not _is_ours_before_config(entry.name))
    if content and CONFIG not in content:
        shown = ", ".join(content[:5]) + (", ..." if len(content) > 5 else "")
        raise RunDirectoryError(
            f"{path} holds {shown} but no {CONFIG}, so it is not a run; choose a new or empty --directory "
            "(nothing was changed there)"
        )
    return bool(content)


def _is_ours_before_config(name: str) -> bool:
    """What a run killed before its config.json leaves, and what file managers leave everywhere."""
    return name in (LOCK, ".DS_Store") or (name.startswith(".") and name.endswith(".tmp"))


def _compare_and_update(path: Path, config: Mapping, may_change: Sequence[str], upgrade: Callable) -> None:
    stored = files.encoded(upgrade(_read_config(path)))
    asked = files.encoded(config)
    there, wanted = flatten(stored), flatten(asked)
    lines = []
    for name in [*there, *(name for name in wanted if name not in there)]:
        old, new = there.get(name, _ABSENT), wanted.get(name, _ABSENT)
        # 1 == True in Python, but a switch and a number are different settings.
        same = old == new and isinstance(old, bool) == isinstance(new, bool)
        if same or any(name == free or name.startswith(free + ".") for free in may_change):
            continue
        left = "not there" if old is _ABSENT else f"{_shown(old)} there"
        right = "not asked" if new is _ABSENT else f"{_shown(new)} asked"
        lines.append(f"  {name}: {left}, {right}")
    if lines:
        raise ConfigMismatch(
            f"{path} was started with other settings:\n" + "\n".join(lines) + "\n"
            f"To resume it, give the same settings. For a new run, give another --directory, or delete {path} first."
        )
    if stored != asked:
        files.write_atomically(path / CONFIG, files.json_bytes(config))


def _shown(value) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def load_config(path: str | os.PathLike) -> dict:
    """Reads the configuration of a run.

    Args:
      path: the run directory.

    Returns:
      The configuration as it was given to `create`, with lists for tuples.

    Raises:
      RunDirectoryError: if the path is no run; says what it is instead and, where it can, which runs are near.
    """
    path = checked_path(path)
    if path.is_file():
        inside = f"; did you mean the run {path.parent}?" if (path.parent / CONFIG).is_file() else ""
        raise RunDirectoryError(f"{path} is a file, not a run directory{inside}")
    if not path.is_dir():
        raise RunDirectoryError(f"{path} does not exist{_near(path.parent)}")
    if (path / CONFIG).is_file():
        return _read_config(path)
    if _has_lost_its_config(path):
        raise RunDirectoryError(
            f"{path} holds checkpoints, but no file {CONFIG}, which says what they are of; restore it from a copy, or "
            "choose another --directory"
        )
    for parent in list(path.absolute().parents)[:3]:
        if (parent / CONFIG).is_file():
            raise RunDirectoryError(f"{path} holds no {CONFIG}, so it is not a run; did you mean the run {parent}?")
    raise RunDirectoryError(f"{path} holds no {CONFIG}, so it is not a run{_near(path)}")


def _read_config(path: Path) -> dict:
    return read_json(path / CONFIG, "restore it from a copy, or choose another --directory")


def is_run(path: str | os.PathLike) -> bool:
    """Whether a directory is a run's: other programs write a config.json, too, also beside pictures.

    One that cannot be read, or is lost, counts as a run's, whose reader then says what is wrong with it.
    """
    path = Path(path)
    if not (path / CONFIG).is_file():
        return _has_lost_its_config(path)
    if (path / "checkpoints").is_dir():
        return True
    try:
        stored = _read_config(path)
    except (OSError, RunDirectoryError):
        return True
    return any(name in stored for name in ("images", "system", "family"))


def _has_lost_its_config(path: Path) -> bool:
    return (path / METRICS).exists() and (path / "checkpoints").is_dir()


def _near(parent: Path) -> str:
    runs = []
    with contextlib.suppress(OSError):
        runs = sorted(str(child.parent) for child in parent.glob(f"*/{CONFIG}"))
    more = f" and {len(runs) - 10} more" if len(runs) > 10 else ""
    return f"; runs in {parent}: {', '.join(runs[:10])}{more}" if runs else "; give the --directory of a training run"


def write_facts(path: str | os.PathLike, facts: Mapping) -> None:
    """Writes RUN/system.json."""
    files.write_atomically(Path(path) / SYSTEM, files.json_bytes(facts))


def _record_environment(path: Path) -> None:
    now = environment.of_this_process()
    try:
        first = read_json(path / ENVIRONMENT, "it is written anew")
        changed = {key: value for key, value in now.items() if first.get(key, _ABSENT) != value or key == "date"}
        record = {**first, "resumed": [*first.get("resumed", []), changed]}
    except (OSError, RunDirectoryError, TypeError):  # missing or damaged: it is a note, not something to stop for
        record = now
    files.write_atomically(path / ENVIRONMENT, files.json_bytes(record))


def write_status(
    path: str | os.PathLike, status: str, *, step: int, message: str = "", is_primary: bool = True
) -> None:
    """Writes RUN/status.json: what the run is doing or how it ended.

    Args:
      path: the run directory.
      status: "running", "finished", "stopped", "non-finite" or "failed" (by an error, which the message tells).
      step: the number of finished train steps.
      message: one sentence for people, for example which metric was not finite.
      is_primary: False: does nothing (the other hosts).

    Raises:
      ValueError: if the status is another word.
    """
    if status not in STATUSES:
        raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {status!r}")
    if is_primary:
        record = {"status": status, "step": int(step), "message": message, "time": round(time.time(), 3)}
        files.write_atomically(Path(path) / STATUS, files.json_bytes(record))


def read_json(path: Path, remedy: str) -> dict:
    """Reads one of the JSON files of a run.

    Args:
      path: the file.
      remedy: the end of the error message: what to do about a damaged file.

    Returns:
      The object, with floats for "NaN", "Infinity" and "-Infinity".

    Raises:
      RunDirectoryError: if the file is empty, damaged or holds no object.
      OSError: with the path and what to do, if it cannot be read.
    """
    with files.explained(path, "read"):
        data = path.read_bytes()
    try:
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not an object")
    except ValueError as error:
        what = "is empty" if not data.strip(b"\0 \n") else f"is damaged ({error})"
        raise RunDirectoryError(f"{path} {what}; {remedy}") from error
    return files.decoded(value)


def flatten(config: Mapping, prefix: str = "") -> dict[str, object]:
    """Nested dicts, and lists that hold dicts, as one dict with dotted names: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, name + "."))
        else:
            flat[name] = value
    return flat
