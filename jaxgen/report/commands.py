"""The commands that go on from a run: what a reader of its page can type next."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from jaxgen import buckets
from jaxgen.report.reading import Run


def of(run: Run) -> tuple[list[tuple[str, list[str]]], str]:
    """What can be done with a run.

    Returns:
      (what it does, its words quoted for a shell) of each command; and a line of Python for a run that no command can
      read, or nothing.
    """
    from jaxgen import configuration

    train = _train_command(run.environment)
    of_scripts = train is not None and not train.startswith("jaxgen ")
    config = configuration.upgraded(run.config)
    name, python = str(config.get("system", "")), ""
    items = []
    if not _has_checkpoint(run.path):
        if train:
            items.append(("Start again: there is no checkpoint yet to go on from", shlex.split(train)))
    else:
        if train:
            items.append(("Resume from the last checkpoint: the same command again", shlex.split(train)))
        asked = {"sample": [] if "draw" in run.can else None, "evaluate": _evaluate_options(config, run)}
        for command, options in asked.items():
            if options is None or not name:  # nothing says which settings a system was built from
                continue
            words = ["python", f"scripts/{command}.py"] if of_scripts else ["jaxgen", command]
            words += [buckets.shown(run.path)]
            words += [*options, *(["--system", _file_of(name, train)] if name.endswith(".py") else [])]
            items.append(({"sample": "Draw samples", "evaluate": "Evaluate"}[command], words))
        if run.system and not name:
            python = f"jaxgen.load({buckets.shown(run.path)!r}, system=...)"
    return [(what, [shlex.quote(word) for word in words]) for what, words in items], python


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


def _evaluate_options(config: Mapping, run: Run) -> list[str] | None:
    """What `jaxgen evaluate` needs beside the run to work without other files; None where there is no such way."""
    from jaxgen.metrics import features

    system, draws = run.system, "draw" in run.can
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
