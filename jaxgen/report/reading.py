"""What a run directory holds, read for its page: everything is optional, and what is damaged is told and left out."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxgen import files, images, run_directory
from jaxgen.pages.pictures import Picture
from jaxgen.run_directory import metrics_log

MAX_PICTURES = 24
MAX_PICTURE_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory.

    path: where it is.
    config, system, environment, status, facts: its JSON files; empty where there is none. `facts` are of the data.
    records: the lines of its log.
    series: metric -> (steps [n] int64, values [n] float64), in the order of their first line.
    notes: what could not be read, in sentences.
    """

    path: Path
    config: Mapping
    system: Mapping
    environment: Mapping
    status: Mapping
    facts: Mapping
    records: Sequence[Mapping]
    series: Mapping[str, tuple[np.ndarray, np.ndarray]]
    notes: list[str]

    @property
    def name(self) -> str:
        """Of its directory."""
        return self.path.resolve().name

    @functools.cached_property
    def num_steps(self) -> int:
        """How many steps were asked for; 0 where nobody knows."""
        flat = run_directory.flatten(self.config)
        totals = [value for key, value in flat.items() if key.split(".")[-1] == "num_steps" and isinstance(value, int)]
        return totals[0] if totals else 0

    @functools.cached_property
    def step(self) -> int:
        """Where it is."""
        if isinstance(self.status.get("step"), int):
            return self.status["step"]
        return max((record["step"] for record in self.records), default=0)

    @property
    def word(self) -> str:
        """Its status in a word."""
        is_done = self.num_steps and self.step >= self.num_steps
        return str(self.status.get("status") or ("finished" if is_done else "no status"))

    @property
    def can(self) -> list[str]:
        """What its system can do."""
        found = self.system.get("can")
        return found if isinstance(found, list) else []

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """When it was started and resumed, in whole seconds since 1970."""
        resumed = self.environment.get("resumed")
        found = []
        for start in [self.environment, *(resumed if isinstance(resumed, list) else [])]:
            with contextlib.suppress(TypeError, ValueError, AttributeError, KeyError):
                found.append(datetime.datetime.fromisoformat(start["date"]).timestamp())
        return np.array(found)

    @property
    def class_names(self) -> list[str]:
        """Of what it draws by class; empty for a run that does not."""
        choices, names = self.system.get("choices"), self.facts.get("class_names")
        if not isinstance(choices, dict) or not choices.get("label") or not isinstance(names, list):
            return []
        return [str(name) for name in names]


def read(path: str | os.PathLike) -> Run:
    """Reads a run directory.

    Raises:
      RunDirectoryError: if the path is no directory.
    """
    path = Path(path)
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
    facts = _optional_json(path / run_directory.DATA, notes)
    return Run(path, config, system, environment, status, facts, records, _series(records), notes)


def _optional_json(file: Path, notes: list[str]) -> dict:
    if not file.exists():
        return {}
    try:
        return run_directory.read_json(file, "it was left out of this report")
    except (OSError, run_directory.RunDirectoryError) as error:
        notes.append(_in_words(error))
    return {}


def _in_words(error: Exception) -> str:
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)


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
    steps: dict[str, list] = {}
    values: dict[str, list] = {}
    for record in records:
        for name, value in record.items():
            if name in ("step", "time") or not isinstance(value, (int, float)):
                continue
            steps.setdefault(name, []).append(record["step"])
            values.setdefault(name, []).append(value)
    return {name: (np.array(steps[name]), np.array(values[name], np.float64)) for name in steps}


def pictures(directory: Path, notes: list[str]) -> tuple[dict[str, list[Picture]], dict[str, str]]:
    """The pictures that a run drew on its way.

    Keeps at most MAX_PICTURES of a kind and MAX_PICTURE_BYTES in all: first, last, and evenly spaced between.

    Args:
      directory: RUN/samples.
      notes: gets a sentence for each that cannot be read.

    Returns:
      Kinds ("" for RUN/samples/00001000.png) to pictures in the order of their steps; and a hint for each kind that
      lost some.
    """
    of_kind: dict[str, list[tuple[int, Path]]] = {}
    with contextlib.suppress(OSError):
        for file in sorted(directory.glob("*.png")):
            match = re.fullmatch(r"(.*?)[-_.]?(?:step[-_]?)?(\d+)", file.stem)
            kind, step = (match[1], int(match[2])) if match else (file.stem, -1)
            of_kind.setdefault(kind, []).append((step, file))
    found: dict[str, list[Picture]] = {}
    hints: dict[str, str] = {}
    for kind, entries in of_kind.items():
        entries.sort()
        sizes = [file.stat().st_size for _, file in entries]
        for count in (MAX_PICTURES, 16, 12, 8, 4, 2, 1):
            count = min(count, len(entries))
            # The last is the one that matters most, so a single picture is the last.
            chosen = np.unique(np.linspace(len(entries) - 1, 0, count).round().astype(int))
            if sum(sizes[index] for index in chosen) <= MAX_PICTURE_BYTES / len(of_kind):
                break
        else:
            notes.append(f"The pictures in {directory.name} are too large to embed; open them there.")
            continue
        if len(chosen) < len(entries):
            hints[kind] = f"{len(chosen)} of {len(entries)} are shown; all are in {directory.name}/."
        for index in chosen:
            step, file = entries[index]
            picture = png(file, f"step {step:,}" if step >= 0 else file.stem, notes)
            if picture is not None:
                found.setdefault(kind, []).append(picture)
    return found, hints


def png(file: Path, label: str, notes: list[str]) -> Picture | None:
    """A PNG file; None where there is none."""
    if not file.exists():
        return None
    try:
        with files.explained(file, "read"):
            data = file.read_bytes()
    except OSError as error:
        notes.append(f"{error.strerror}. It was left out.")
        return None
    try:
        return Picture.of(data, label)
    except ValueError:
        notes.append(f"{file.parent.name}/{file.name} is not a PNG file and was left out.")
        return None


def is_row_of_each(picture: Picture, rows: int, image_height: int) -> bool:
    """Whether a picture of samples has this many rows of images of this height, as the loop lays out groups of them."""
    each, rest = divmod(picture.height - images.STRIP_PADDING, rows)
    height = each - images.STRIP_PADDING
    return rest == 0 and height > 0 and image_height > 0 and height % image_height == 0
