"""From a folder of images, or any data set, to files of records, which `data.records` reads.

A file is whole or not there, and what is done is noted after each: a conversion that was interrupted goes on where it
stopped. dataset.json, without which nothing is opened, is written last.
"""

import contextlib
import datetime
import hashlib
import io
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxgen import files
from jaxgen.data import decode, folder, reading, records
from jaxgen.data.dataset import Dataset, fingerprint_of
from jaxgen.names import show

Encoding = Literal["original", "png", "raw"]
PARTIAL = "partial.json"
BYTES_PER_FILE = 2**30
TOGETHER = 256  # images that are read at once
_SAMPLED = 16  # images by whose size the number of files is chosen


class Source(NamedTuple):
    """A split that is to be converted.

    name: as messages call it.
    num_examples: N.
    read: rows to records, an exception in the place of a broken one.
    describe: a row to the name of its image.
    class_names: () without labels.
    image_shape: (H, W, C) of all images; None of files that are kept as they are.
    fingerprint: of what is read and how.
    """

    name: str
    num_examples: int
    read: Callable[[Sequence[int]], Sequence[records.Record | Exception]]
    describe: Callable[[int], str]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int] | None
    fingerprint: str


def of_folder(
    found: folder.Found,
    *,
    encoding: Encoding = "original",
    image_size: int | tuple[int, int] | None = None,
    channels: int = 3,
    background: str = "white",
    num_threads: int | None = None,
) -> Source:
    """The images of a folder, as the files that they are, or brought to a size as `data.image_folder` does.

    Args:
        found: of `folder.find_images`.
        encoding: "original" keeps each file to the byte, "png" and "raw" hold pixels.
        image_size, channels, background: of pixels, as for `data.image_folder`.
        num_threads: how many images to read at once; None: one per core.

    Raises:
        ValueError: for pixels without a size, or files with one.
    """
    if (encoding == "original") != (image_size is None):
        raise ValueError(
            "files that are kept as they are have no image_size, and png and raw need one: give image_size=64, or "
            "encoding='original'"
        )
    size = (1, 1) if image_size is None else decode.image_size_pair(image_size)
    threads = num_threads or os.cpu_count() or 1

    def one(row):
        label = None if found.label is None else int(found.label[row])
        try:
            content = Path(found.root, found.files[row]).read_bytes()
            pixels = decode.decode_image(content, image_size=size, channels=channels, background=background)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds
            return error
        return records.Record(content if encoding == "original" else _encoded(pixels, encoding), label)

    def read(rows):
        with decode.quiet_bombs(), ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, rows))

    shape = None if image_size is None else (*size, channels)
    return Source(
        found.name,
        len(found.files),
        read,
        lambda row: show(found.files[row]),
        found.class_names,
        shape,
        fingerprint_of(encoding, shape, background, found.class_names, "\n".join(found.files), found.sizes),
    )


def of_dataset(dataset: Dataset, *, encoding: Encoding = "png", num_threads: int | None = None) -> Source:
    """The images and labels of any data set, of 8 bits.

    Raises:
        ValueError: for images of floating point numbers, or images of images, which records do not hold.
    """
    if encoding == "original":
        raise ValueError(f"{dataset.name} has no files that could be kept: choose png or raw")
    example = dataset.fetch(np.array([[0, 0]] if dataset.num_sources else [0]))
    prepared = jax.eval_shape(dataset.prepare, example, jax.random.key(0))
    if beside := {"source", "mask"} & set(prepared):
        raise ValueError(
            f"{dataset.name} has a {min(beside)} beside each image, and records hold images and labels only"
        )
    if (dtype := example["image"].dtype) != np.uint8:
        raise ValueError(f"{dataset.name} holds {dtype} images, and records hold 8 bits: save them as uint8 first")
    if others := set(example) - {"image", "label"}:
        reading.as_warning(f"{dataset.name}: records hold images and labels; not kept are {', '.join(sorted(others))}")

    def read(rows):
        raw = dataset.fetch(np.array(rows))
        label = raw.get("label", [None] * len(rows)) if dataset.class_names else [None] * len(rows)
        with ThreadPoolExecutor(num_threads or os.cpu_count() or 1) as pool:
            images = pool.map(lambda pixels: _encoded(pixels, encoding), raw["image"])
            return [
                records.Record(image, None if one is None else int(one))
                for image, one in zip(images, label, strict=True)
            ]

    return Source(
        dataset.name,
        dataset.num_examples,
        read,
        lambda row: f"row {row}",
        dataset.class_names,
        dataset.image_shape,
        fingerprint_of(encoding, dataset.fingerprint),
    )


def convert(
    sources: Mapping[str, Source],
    destination: str | os.PathLike,
    *,
    num_shards: int | None = None,
    max_broken_share: float = 0.01,
    made: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int], None] = lambda split, done, total: None,
    tell: Callable[[str], None] = reading.as_warning,
) -> Path:
    """Write splits as files of records; of an interrupted conversion those that are missing.

    Args:
        sources: by the names of their splits, "train" and "test".
        destination: a folder, new or empty or of the same conversion.
        num_shards: files of each split; by default of about 1 GiB.
        max_broken_share: up to which broken images are told and left out, as for `data.image_folder`.
        made: how, for dataset.json.
        progress: is called with a split, how many of its images are done, and how many there are.
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
            done[name] = _write(source, rows, root / name, writer_of, lambda at: progress(split, at, num))
            files.write_atomically(root / PARTIAL, files.json_bytes({"plan": plan, "done": done}))
        progress(split, rows.stop, num)
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


def _write(source: Source, rows: range, path: Path, writer_of: Any, progress: Callable[[int], None]) -> dict[str, Any]:
    """Writes one file as a whole; returns what is to be known of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    digest, labels, broken, count = hashlib.sha256(), [], [], 0
    try:
        # One record in a group: each is read by itself. Images are compressed already, or would be of little use so.
        writer = writer_of(str(temporary), "group_size:1,uncompressed")
        try:
            for begin in range(rows.start, rows.stop, TOGETHER):
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
                progress(chunk.stop)
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


def _encoded(pixels: np.ndarray, encoding: str) -> bytes | np.ndarray:
    """Pixels uint8 [H, W, C] as a record holds them."""
    if encoding == "raw":
        return pixels
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()
