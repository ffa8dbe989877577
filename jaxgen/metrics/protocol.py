"""Numbers with what they depend on, and tables that hold only numbers of one kind.

An evaluation is stored as one JSON object:

    {"subject": "runs/mnist-dcgan", "metrics": {"fid": 3.2, ...}, "protocol": {"n_fake": 10000, ...},
     "settings": {"precision": {"num_neighbours": 5}, ...}, "warnings": ["only 600 fake images ..."]}

`protocol` holds for all metrics of the evaluation, and `settings` has what one metric depends on beyond it.
"""

import dataclasses
import hashlib
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen import files, fingerprints
from jaxgen.fingerprints import short
from jaxgen.local_path import local

SUBJECT = ("images", "latents", "labels", "weights", "precision")
"""Entries that say what was evaluated: they may differ within a table, which then says so below it."""
MADE_BY = ("commit", "jax", "device_kind")
"""Entries that say what computed a number; an evaluation made again has the same numbers, up to rounding."""
REPLICATES = (
    *("seed", "step", "run", "preset", "config_sha256", "training_seed", "fake", "fake_sha256"),
    *("rank_deficient", "in_training", *MADE_BY),
    *SUBJECT,
)
"""Entries of a protocol in which numbers of one table may differ: what was evaluated and which draw of it, not how."""

OTHER_FILES = ("config.json", "system.json", "environment.json", "status.json", "data.json", "sweep.json")
"""What lies in the directories of runs and sweeps, and is no evaluation."""

OF_REAL = ("_floor", "_of_real", "_of_test_images", "_of_equal_sets", "_of_train")
"""How names of numbers end that are of the real images, not of what was evaluated: they have no spread."""


class UnlikeProtocols(ValueError):
    """Numbers that were made in different ways; the message says how they differ."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One number with everything that it depends on.

    Attributes:
      subject: what was evaluated.
      metric: its name.
      value: the number.
      protocol: names to numbers and strings: backbone and its sha256, resize rule, n_real, n_fake, reference with its
        split and sha256, preprocessing, seed, version, and the settings of the metric.
      file: where it is stored.
      warnings: what is doubtful about the evaluation.
    """

    subject: str
    metric: str
    value: float
    protocol: Mapping[str, Any]
    file: str = ""
    warnings: tuple[str, ...] = ()


def write(path: str | os.PathLike, new: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Stores an evaluation, and loses none that is there.

    If the file holds an evaluation of the same protocol, its other metrics are kept beside the new ones. If it holds
    one that was made otherwise (of other images, counts, seeds, training images, ...), that stays, and the new one gets
    a file of its own, with a digest of how it was made in its name.

    Returns:
      The file, and what it holds now.

    Raises:
      OSError: with the path and what to do.
    """
    path = local(path, "the evaluation")
    how = _how(new)
    digest = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:8]
    whole = dict(new)
    for file in (path, path.with_name(f"{path.stem}_{digest}{path.suffix}")):
        old = stored(file)
        if old is None:
            break
        theirs = _how(old)
        shared = theirs["settings"].keys() & how["settings"].keys()
        if theirs["protocol"] == how["protocol"] and all(
            theirs["settings"][metric] == how["settings"][metric] for metric in shared
        ):
            whole = _merged(old, new)
            break
    with files.explained(file, "write"):
        file.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(file, (json.dumps(whole, indent=2) + "\n").encode())
    return file, whole


def _how(evaluation) -> dict[str, Any]:
    """What numbers depend on: the protocol, and what each metric depends on beyond it."""
    settings = evaluation.get("settings", {})

    def entries(found):
        return {name: value for name, value in found.items() if name not in (*MADE_BY, "rank_deficient")}

    return {
        "protocol": entries(evaluation["protocol"]),
        "settings": {metric: entries(settings.get(metric, {})) for metric in evaluation["metrics"]},
    }


def stored(file: Path) -> dict[str, Any] | None:
    """An evaluation that can be read, or None: what is damaged is replaced."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        is_whole = isinstance(found["metrics"], dict) and isinstance(found["protocol"], dict)
        return found if is_whole and not files.was_changed(found) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _merged(old, new) -> dict[str, Any]:
    kept = [name for name in old["metrics"] if name not in new["metrics"]]
    settings = {
        name: {
            **{entry: old["protocol"].get(entry) for entry in MADE_BY if entry in new["protocol"]},
            **old.get("settings", {}).get(name, {}),
        }
        for name in kept
    }
    told = dict.fromkeys([*(old.get("warnings", []) if kept else []), *new.get("warnings", [])])
    return {
        **new,
        "metrics": {name: old["metrics"][name] for name in kept} | new["metrics"],
        "settings": settings | new.get("settings", {}),
        **({"warnings": list(told)} if told else {}),
    }


REMEDY = "; leave it out, or delete it and evaluate again"


def read(path: str | os.PathLike) -> list[Record]:
    """The records of a stored evaluation; of a run directory, those of all evaluations in it.

    Raises:
      FileNotFoundError: if there is nothing.
      ValueError: for a file that is no evaluation, or was changed since (of those that hold a checksum).
    """
    path = local(path, "the evaluation")
    if path.is_dir():
        there = sorted((path / "evaluation").glob("*.json")) or sorted(path.glob("*.json"))
        there = [file for file in there if file.name not in OTHER_FILES]
        if not there:
            raise FileNotFoundError(
                f"{path} holds no evaluation: `jaxgen evaluate` writes those of a run into it, those of other images "
                "into evaluation/, and `stability.py sweep ... --metrics` those of a sweep's networks"
            )
        return [record for file in there for record in read(file)]
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such evaluation")
    try:
        with files.explained(path, "read"):
            found = json.loads(path.read_text(encoding="utf-8"))
        stated = [dataclasses.replace(record, file=str(path)) for record in records(found, subject=path.stem)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"no JSON ({error})" if isinstance(error, ValueError) else error
        raise ValueError(f"{path} is no evaluation with `metrics` and `protocol`: {why}{REMEDY}") from error
    if files.was_changed(found):
        raise ValueError(f"{path} was changed after it was written: it does not say what was measured{REMEDY}")
    if not stated:
        raise ValueError(f"{path} is no evaluation: it holds no number{REMEDY}")
    return stated


def records(stored: Mapping[str, Any], *, subject: str = "") -> list[Record]:
    """An evaluation as one record for each metric that is a number. NaN is a number: it was measured, and is told."""
    settings = stored.get("settings", {})
    name = stored.get("subject") or stored["protocol"].get("run") or subject
    return [
        Record(
            str(name),
            metric,
            float(value),
            {**stored["protocol"], **settings.get(metric, {})},
            warnings=tuple(stored.get("warnings", ())),
        )
        for metric, value in stored["metrics"].items()
        if isinstance(value, int | float)
    ]


def by_preset(records: Sequence[Record]) -> list[Record]:
    """The same records with presets for subjects: runs of one configuration with several seeds become one row.

    Raises:
      UnlikeProtocols: for runs of one preset whose configurations differ in more than the seed.
    """
    configurations: dict[str, dict[str, str]] = {}
    renamed = []
    for record in records:
        preset, digest = (record.protocol.get(name) for name in ("preset", "config_sha256"))
        if not preset or not digest:
            renamed.append(record)
            continue
        of_preset = configurations.setdefault(preset, {})
        of_preset.setdefault(digest, record.subject)
        if len(of_preset) > 1:
            raise UnlikeProtocols(
                f"{' and '.join(of_preset.values())} began as {preset}, but their configurations differ in more than "
                "the seed; show them without --by-preset"
            )
        renamed.append(dataclasses.replace(record, subject=preset))
    return renamed


def differences(records: Sequence[Record], *, ignoring: Sequence[str] = REPLICATES) -> dict[str, list[Any]]:
    """In which entries the protocols differ, with each entry's values in the order of the records; None: not stated."""
    names = dict.fromkeys(name for record in records for name in record.protocol if name not in ignoring)
    references = {record.protocol.get("reference_sha256") for record in records}
    if len(references) == 1 and all(references):  # the same images, whatever they are called
        names = {name: None for name in names if name not in ("reference", "reference_split")}
    values = {name: [record.protocol.get(name) for record in records] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def require_alike(records: Sequence[Record]) -> None:
    """Raises UnlikeProtocols, naming what differs and where, unless all numbers were made in the same way."""
    for metric, group in _by_metric(records).items():
        if unlike := differences(group):
            raise UnlikeProtocols(
                f"these values of {metric} cannot stand in one table, because they were not made in the same way:\n"
                + "\n".join(_told(name, group) for name in unlike)
                + "\nGive the files of one protocol, evaluate again under one, or ask for a mixed table (--mix), which "
                "says all this."
            )


def _told(name, group) -> str:
    texts = [fingerprints.entry(name, record.protocol) for record in group]
    whose: dict[str, dict[str, None]] = {}  # text -> subjects, or files where a subject alone does not tell
    for record, text in zip(group, texts, strict=True):
        unlike = any(r.subject == record.subject and t != text for r, t in zip(group, texts, strict=True))
        whose.setdefault(text, {})[record.file if unlike and record.file else record.subject] = None
    return f"  {name}: " + "; ".join(f"{text} ({', '.join(who)})" for text, who in whose.items())


def _by_metric(records: Sequence[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.metric, []).append(record)
    return groups


def table(records: Sequence[Record], *, mix: bool = False) -> str:
    """A Markdown table, a row for each subject and a column for each metric, with the protocols below it.

    Values of one subject, metric and step that differ in their seed alone become mean and standard deviation (of the
    sample, n - 1), with n: of trainings where there are several, each the mean of its draws, and else of draws. Of
    images that no run drew they become a mean alone, since a seed then only chose subsets of the same images.
    `by_preset` makes runs of one preset with several seeds one subject.

    Args:
      records: from `read`.
      mix: print values of unlike protocols, too; each that is not like the first of its column is marked, and what
        differs is told below the table.

    Raises:
      UnlikeProtocols: for values in one column that were not made in the same way, unless `mix`.
      ValueError: for no records.
    """
    if not records:
        raise ValueError(
            "there are no numbers to show: give JSON files that `jaxgen evaluate` wrote, or run directories"
        )
    if not mix:
        require_alike(records)
    columns = _by_metric(records)
    notes: list[str] = []
    steps: dict[str, set] = {}
    contents: dict[str, set] = {}
    for record in records:
        steps.setdefault(record.subject, set()).add(record.protocol.get("step"))
        contents.setdefault(record.subject, set()).add(record.protocol.get("fake_sha256"))

    def row_of(record):  # two checkpoints of one run are no two seeds, and other images under one name are others
        step, images = record.protocol.get("step"), record.protocol.get("fake_sha256")
        if len(steps[record.subject]) > 1:
            return f"{record.subject} at step {step}"
        if "run" not in record.protocol and step is None and len(contents[record.subject]) > 1:
            return fingerprints.after(record.subject, "the images", images) if images else record.subject
        return record.subject

    rows = {
        row: [_cells([r for r in group if row_of(r) == row], group[0], notes) for group in columns.values()]
        for row in dict.fromkeys(map(row_of, records))
    }
    lines = [["", *columns], ["---", *["---"] * len(columns)], *([subject, *cells] for subject, cells in rows.items())]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    told: dict[str, list[str]] = {}  # warning -> whose
    for record in records:
        for warning in record.warnings:
            whose = told.setdefault(warning, [])
            if record.subject not in whose:
                whose.append(record.subject)
    below = [*_protocols(records), *_subjects(records)]
    below += [f"Note of {', '.join(whose)}: {warning}" for warning, whose in told.items()]
    return "\n".join([text, "", *below, *(f"[{i}] {note}" for i, note in enumerate(notes, 1))])


def _cells(found: Sequence[Record], first: Record, notes: list[str]) -> str:
    """The values of one subject and metric: one text for each way in which they were made."""
    groups: list[list[Record]] = []
    for record in found:
        for group in groups:
            if not differences([group[0], record]):
                group.append(record)
                break
        else:
            groups.append([record])
    texts = []
    for group in groups:
        text = _mean(group)
        if unlike := differences([first, group[0]]):
            pairs = {
                name: [fingerprints.entry(name, record.protocol) for record in (group[0], first)] for name in unlike
            }
            why = "; ".join(f"{name} {here} instead of {there}" for name, (here, there) in pairs.items())
            if why not in notes:
                notes.append(why)
            text += f" [{notes.index(why) + 1}]"
        texts.append(text)
    return "; ".join(texts)


def _mean(group: Sequence[Record]) -> str:
    # The same draw, evaluated twice, is one value and not two; and several draws of one training are one training.
    trainings: dict[Any, dict[Any, float]] = {}
    for record in group:
        of = record.protocol.get
        training = (of("training_seed"), of("config_sha256"))
        trainings.setdefault(training, {})[of("seed"), of("fake_sha256") or of("run")] = record.value
    means = [statistics.fmean(draws.values()) for draws in trainings.values()]
    are_draws = "run" in group[0].protocol or "training_seed" in group[0].protocol
    values, what = (means, "trainings") if len(means) > 1 else ([*next(iter(trainings.values())).values()], "draws")
    fixed_images = not are_draws or group[0].metric.endswith(OF_REAL)  # a seed cannot change all of these
    if len(values) == 1 or (len(set(values)) == 1 and fixed_images):
        return f"{values[0]:.4g}"
    if not are_draws:  # of the same images: their seeds drew subsets, whose spread is no error of the number
        return f"{statistics.fmean(values):.4g} (mean of {len(values)} seeds)"
    return f"{statistics.fmean(values):.4g} ± {statistics.stdev(values):.2g} (n = {len(values)} {what})"


def _subjects(records: Sequence[Record]) -> list[str]:
    """What was evaluated, a line for each entry that somebody states."""
    lines = []
    seeds = {record.protocol.get("seed") for record in records}
    for name in (*SUBJECT, *(["seed"] if len(seeds) > 1 else [])):
        stated: dict[str, dict[Any, None]] = {}
        for record in records:
            values = stated.setdefault(record.subject, {})
            if (value := record.protocol.get(name)) is not None:
                values[value] = None
        if not any(stated.values()):
            continue
        whose: dict[str, list[str]] = {}
        for subject, values in stated.items():
            whose.setdefault(" or ".join(map(str, values)) or "not stated", []).append(subject)
        told = [value if len(whose) == 1 else f"{value} ({', '.join(who)})" for value, who in whose.items()]
        lines.append(f"{name.capitalize()}: {'; '.join(told)}")
    return lines


def _protocols(records: Sequence[Record]) -> list[str]:
    """What all numbers have in common, and then what else those of some metrics have."""
    shared = _common(records)
    whose: dict[str, list[str]] = {}  # entry -> metrics
    for metric, group in _by_metric(records).items():
        for name, value in _common(group).items():
            if name not in shared:
                whose.setdefault(_in_a_line({name: value}), []).append(metric)
    entries: dict[str, list[str]] = {}  # metrics -> entries
    for entry, metrics in whose.items():
        entries.setdefault(", ".join(metrics), []).append(entry)
    told = [f"  of {metrics}: {', '.join(own)}" for metrics, own in entries.items()]
    return [f"Protocol: {_in_a_line(shared) or 'nothing in common'}", *told]


def _in_a_line(entries: Mapping[str, Any]) -> str:
    return ", ".join(f"{fingerprints.label(name)} {short(value)}" for name, value in entries.items())


def _common(records: Sequence[Record]) -> dict[str, Any]:
    unlike = differences(records)
    return {
        name: value
        for name, value in records[0].protocol.items()
        if name not in unlike and name not in REPLICATES and all(name in r.protocol for r in records)
    }
