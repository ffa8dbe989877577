"""From images of any kind (`data.convertible`) to files of records, which `data.records` reads.

A file is whole or not there, and what is done is noted after each: a conversion that was interrupted goes on where it
stopped. dataset.json, without which nothing is opened, is written last.
"""

import contextlib
import datetime
import hashlib
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen import files
from jaxgen.data import reading, records
from jaxgen.data.convertible import Source
from jaxgen.data.dataset import fingerprint_of
from jaxgen.names import show
from jaxgen.progress import Progress, no_progress

PARTIAL = "partial.json"
BYTES_PER_FILE = 2**30
TOGETHER = 256  # images that are read at once
_SAMPLED = 16  # images by whose size the number of files is chosen


def convert(
    sources: Mapping[str, Source],
    destination: str | os.PathLike,
    *,
    num_shards: int | None = None,
    max_broken_share: float = 0.01,
    made: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
    tell: Callable[[str], None] = reading.as_warning,
) -> Path:
    """Write splits as files of records; of an interrupted conversion those that are missing.

    Args:
        sources: by the names of their splits, "train" and "test".
        destination: a folder, new or empty or of the same conversion.
        num_shards: files of each split; by default of about 1 GiB.
        max_broken_share: up to which broken images are told and left out, as for `data.image_folder`.
        made: how, for dataset.json.
        progress: shows each file.
        tell: is called with a line on what is left out.

    Returns:
        The folder.

    Raises:
        ImportError: if Grain is not installed; says how to install it.
        ValueError: for a folder that holds other things, or too many broken images.
        OSError: if a file cannot be written.
    """
    writer_of = records.import_array_record().ArrayRecordWriter
    root = Path(destination).expanduser().absolute()
    files.check_directory(root)
    plans: dict[str, Any] = {}
    for split, source in sources.items():
        size = _size_of_record(source)
        shards = num_shards or max(1, -(-int(size * source.num_examples) // BYTES_PER_FILE))
        if not 1 <= shards <= source.num_examples:
            raise ValueError(f"{source.name} has {source.num_examples} images, which cannot be in {shards} files")
        plans[split] = {"fingerprint": source.fingerprint, "num_shards": shards, "bytes": size * source.num_examples}
    plan = {split: [part["fingerprint"], part["num_shards"]] for split, part in plans.items()}
    done = _begun(root, plan)
    if done is None:
        return root
    for unfinished in root.glob(".*.array_record.*.tmp"):  # which a killed conversion has left
        unfinished.unlink(missing_ok=True)
    _check_space(root, sum(part["bytes"] for part in plans.values()), done)
    splits = {
        split: _convert_split(
            split, source, plan, root, done, writer_of, max_broken_share=max_broken_share, progress=progress, tell=tell
        )
        for split, source in sources.items()
    }
    first = next(iter(sources.values()))
    index = {
        "version": records.VERSION,
        "splits": splits,
        "class_names": list(first.class_names),
        "image_shape": None if first.image_shape is None else list(first.image_shape),
        "made": {"date": datetime.date.today().isoformat(), "plan": plan} | dict(made or {}),
    }
    index = files.encoded(index)
    index["crc32"] = files.record_crc32(index)
    files.write_atomically(root / records.INDEX, files.json_bytes(index))
    (root / PARTIAL).unlink(missing_ok=True)
    return root


def _convert_split(split, source, plan, root, done, writer_of, *, max_broken_share, progress, tell) -> dict[str, Any]:
    """Writes the files of a split that are missing, and its labels; returns what dataset.json says of it."""
    num, num_shards = source.num_examples, plan[split][1]
    shards, num_broken = [], 0
    for shard in range(num_shards):
        name = f"{split}-{shard:05d}-of-{num_shards:05d}.array_record"
        rows = range(shard * num // num_shards, (shard + 1) * num // num_shards)
        if name not in done:
            begins = range(rows.start, rows.stop, TOGETHER)
            shown = progress(begins, len(begins), f"converting {split} images, file {shard + 1} of {num_shards}")
            done[name] = _write(source, rows, root / name, writer_of, shown)
            files.write_atomically(root / PARTIAL, files.json_bytes({"plan": plan, "done": done}))
        shards.append(done[name] | {"name": name})
        num_broken += len(done[name]["broken"])
        if num_broken > reading.num_tolerated(num, max_broken_share):
            break
    broken = [reason for shard in shards for reason in shard["broken"]]
    reading.report_broken(source.name, broken, num, max_broken_share, "left out", tell)
    if num == len(broken):
        raise ValueError(f"{source.name}: none of the {num} images can be decoded: {'; '.join(broken[:5])}")
    labels = None
    if source.class_names:
        packed = b"".join(bytes.fromhex(shard["labels"]) for shard in shards)
        labels = {"name": f"{split}-labels.int32", "crc32": zlib.crc32(packed)}
        files.write_atomically(root / labels["name"], packed)
    return {
        "num_examples": sum(shard["num_examples"] for shard in shards),
        "files": [
            {key: shard[key] for key in ("name", "num_examples", "bytes", "sha256")}
            for shard in shards
            if shard["num_examples"]
        ],
        "labels": labels,
        "fingerprint": fingerprint_of(source.class_names, [shard["sha256"] for shard in shards]),
        "left_out": broken,
    }


def _write(source: Source, rows: range, path: Path, writer_of: Any, begins: Iterable[int]) -> dict[str, Any]:
    """Writes one file as a whole, rows from each of `begins` on together; returns what is to be known of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    digest, labels, broken, count = hashlib.sha256(), [], [], 0
    try:
        # One record in a group: each is read by itself. Images are compressed already, or would be of little use so.
        writer = writer_of(str(temporary), "group_size:1,uncompressed")
        try:
            for begin in begins:
                chunk = range(begin, min(begin + TOGETHER, rows.stop))
                for row, record in zip(chunk, source.read(chunk), strict=True):
                    if isinstance(record, Exception):
                        broken.append(f"{source.describe(row)} ({reading.describe_error(record)})")
                        continue
                    packed = records.pack(record)
                    writer.write(packed)
                    digest.update(packed)
                    labels.append(-1 if record.label is None else record.label)
                    count += 1
        finally:
            writer.close()
        there = len(records.import_grain().sources.ArrayRecordDataSource([str(temporary)]))
        if there != count:
            raise OSError(f"could not write {path}: of {count} records {there} are there; is the disk full?")
        with files.explained(path, "write"):
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except RuntimeError as error:  # how the library tells that a disk is full
        raise OSError(f"could not write {path}: {reading.describe_error(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    return {
        "num_examples": count,
        "bytes": path.stat().st_size,
        "sha256": digest.hexdigest(),
        "labels": np.array(labels, "<i4").tobytes().hex(),
        "broken": broken,
    }


def _begun(root: Path, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is done already of a conversion; None if it is finished.

    Raises:
        ValueError: for a folder of anything else.
    """
    shown = show(str(root))
    if (root / records.INDEX).exists():
        _, index = records.read_index(root)
        if index["made"].get("plan") == plan:
            return None
        raise ValueError(f"{shown} holds records of other images, or made in another way: choose another folder")
    with contextlib.suppress(FileNotFoundError):
        try:
            begun = json.loads((root / PARTIAL).read_bytes())
            if begun["plan"] == plan:
                sizes = {name: (root / name).stat().st_size for name in begun["done"] if (root / name).is_file()}
                return {name: file for name, file in begun["done"].items() if sizes.get(name) == file["bytes"]}
        except (ValueError, KeyError, TypeError):
            pass
        raise ValueError(
            f"{shown} holds a conversion of other images, or in another way, that was not finished: give its command "
            "again, or choose another folder"
        )
    with files.explained(root, "make the folder"):
        root.mkdir(parents=True, exist_ok=True)
    if others := sorted(entry.name for entry in root.iterdir() if not entry.name.startswith(".")):
        raise ValueError(f"{shown} is not empty ({show(others[0])}): choose a new or empty folder")
    files.write_atomically(root / PARTIAL, files.json_bytes({"plan": plan, "done": {}}))
    return {}


def _size_of_record(source: Source) -> float:
    """The mean number of bytes of a few records; 0 if all of these are broken."""
    rows = [i * source.num_examples // _SAMPLED for i in range(_SAMPLED)]
    packed = [len(records.pack(record)) for record in source.read(rows) if not isinstance(record, Exception)]
    return float(np.mean(packed)) if packed else 0.0


def _check_space(root: Path, needed: float, done: Mapping[str, Any]) -> None:
    needed -= sum(file["bytes"] for file in done.values())
    if needed > (free := shutil.disk_usage(root).free):
        raise OSError(
            f"{show(str(root))}: about {needed / 1e9:.1f} GB will be written, and {free / 1e9:.1f} GB are free"
        )
