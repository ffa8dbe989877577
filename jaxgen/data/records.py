"""Images in ArrayRecord files, for sets that are larger than memory: written by `data.conversion`, read here.

Grain's random access source reads the records of a batch; which these are, what they hold, how they are checked and
decoded is ours. A record is a head of 20 bytes and an image: a whole file (PNG, JPEG, ...) or plain pixels. Nothing is
unpickled. `dataset.json` beside the files says what they hold, and is written when all of them are whole.
"""

import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgen import files
from jaxgen.data import decode, reading
from jaxgen.data.dataset import Dataset, fingerprint_of, function_name
from jaxgen.names import show

INDEX = "dataset.json"
VERSION = 1
_HEAD = struct.Struct("<4sBBxxIIi")  # magic, kind, channels, height, width (0 of a file), label (-1: none)
_MAGIC = b"jxg1"
_FILE, _PIXELS = 0, 1


class Record(NamedTuple):
    """What a record holds: a whole image file, or pixels uint8 [H, W, C]; and a label, or None."""

    image: bytes | np.ndarray
    label: int | None


def pack(record: Record) -> bytes:
    """A record as the bytes of a file of records."""
    label = -1 if record.label is None else record.label
    if isinstance(record.image, bytes):
        return _HEAD.pack(_MAGIC, _FILE, 0, 0, 0, label) + record.image
    height, width, channels = record.image.shape
    return _HEAD.pack(_MAGIC, _PIXELS, channels, height, width, label) + record.image.tobytes()


def unpack(packed: bytes) -> Record:
    """The inverse of `pack`.

    Raises:
        ValueError: for bytes that `pack` did not write.
    """
    if len(packed) < _HEAD.size or packed[:4] != _MAGIC:
        raise ValueError("no record of jaxgen")
    _, kind, channels, height, width, label = _HEAD.unpack_from(packed)
    body: Any = packed[_HEAD.size :]
    if kind == _PIXELS:
        if len(body) != height * width * channels:
            raise ValueError(f"{len(body)} bytes, where {height}x{width}x{channels} are told")
        body = np.frombuffer(body, np.uint8).reshape(height, width, channels)
    elif kind != _FILE:
        raise ValueError(f"a record of the unknown kind {kind}")
    return Record(body, None if label < 0 else label)


def record_files(
    path: str | os.PathLike,
    *,
    image_size: int | tuple[int, int] | None = None,
    split: str = "train",
    channels: int | None = None,
    background: str = "white",
    crop: decode.Crop = decode.centre_crop,
    resize: decode.Resize = decode.area,
    labelled: bool | None = True,
    max_broken_share: float = 0.01,
    max_bytes_in_memory: int = reading.MAX_BYTES_IN_MEMORY,
    num_threads: int | None = None,
    tell: Callable[[str], None] = reading.logger.warning,
) -> Dataset:
    """Open images that `jaxgen convert` wrote to ArrayRecord files.

    Images are decoded as those of a folder are, by `decode.decode_image`: the records of a folder give the same pixels,
    in the same order. A batch is read by its rows alone, so the records need not be in any order on disk.

    Args:
        path: the folder that holds dataset.json, or that file.
        image_size: the side of a square, or (height, width); by default what the records were written with, or 64.
        split: "train" or "test".
        channels: 3 for RGB, 1 for grey; by default as the records were written, or 3.
        background, crop, resize: as for `image_folder`.
        labelled: False ignores the labels; None takes them where there are some.
        max_broken_share, max_bytes_in_memory, num_threads, tell: as for `image_folder`.

    Returns:
        A `Dataset` with `image` [N, H, W, C] and, if there are labels, `label` [N].

    Raises:
        ImportError: if Grain is not installed; says how to install it.
        FileNotFoundError: if there is no dataset.json, or one of its files is not there.
        ValueError: for files that were changed or cut since they were written, an unknown split, or too many broken
            images.
    """
    root, index = read_index(path)
    if split not in index["splits"]:
        raise ValueError(f"{show(str(root))} has no split {split!r}, only {', '.join(index['splits'])}")
    part = index["splits"][split]
    stored = index["image_shape"]
    channels = channels or (3 if stored is None else stored[2])
    decode.check_pixel_options(channels, background)
    height, width = decode.image_size_pair(image_size or (64 if stored is None else tuple(stored[:2])))
    name = f"records:{show(str(root))}/{split}"
    source = _source(root, part, name)
    label = _labels(root, part, name) if labelled in (True, None) and part["labels"] else None
    names = tuple(index["class_names"]) if label is not None else ()

    def bring(rows: Sequence[int]) -> Sequence[Any]:
        try:
            return source.__getitems__(list(rows))
        except Exception:  # one of them is damaged: which one, only each by itself tells
            return [_one(source, row) for row in rows]

    def read(packed: bytes) -> np.ndarray:
        return pixels_of(
            unpack(packed).image,
            image_size=(height, width),
            channels=channels,
            background=background,
            crop=crop,
            resize=resize,
        )

    options = (height, width, channels, background, function_name(crop), function_name(resize), names)
    return reading.from_reader(
        name,
        read,
        lambda row: f"record {row}",
        num_examples=part["num_examples"],
        image_shape=(height, width, channels),
        label=label,
        class_names=names,
        fingerprint=fingerprint_of("records", part["fingerprint"], options),
        max_bytes_in_memory=max_bytes_in_memory,
        max_broken_share=max_broken_share,
        num_threads=num_threads,
        tell=tell,
        bring=bring,
    )


def pixels_of(image: bytes | np.ndarray, **options: Any) -> np.ndarray:
    """Pixels uint8 [H, W, C] of what a record holds; options as for `decode.decode_image`."""
    if isinstance(image, bytes):
        return decode.decode_image(image, **options)
    if image.shape == (*options["image_size"], options["channels"]):
        return image
    from PIL import Image

    return decode.fit_image(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), **options)


def is_records(path: str | os.PathLike) -> bool:
    """Whether this is a folder that holds records, or its dataset.json."""
    found = Path(path).expanduser()
    return found.name == INDEX and found.is_file() or (found / INDEX).is_file()


def has_split(path: str | os.PathLike, split: str) -> bool:
    """Whether records can be read there, with this split."""
    try:
        return split in read_index(path)[1]["splits"]
    except (OSError, ValueError):
        return False


def read_index(path: str | os.PathLike) -> tuple[Path, dict[str, Any]]:
    """The folder of records, and what its dataset.json says.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for one that was changed, or that a newer version wrote.
    """
    root = Path(path).expanduser().absolute()
    root = root.parent if root.name == INDEX else root
    shown = show(str(root))
    try:
        index = json.loads((root / INDEX).read_bytes())
    except FileNotFoundError:
        what = "no such folder" if not root.exists() else f"no {INDEX} in it"
        raise FileNotFoundError(
            f"{shown}: {what}: records are written by `jaxgen convert SOURCE {shown}`, and if that was interrupted the "
            "same command goes on"
        ) from None
    except ValueError:
        index = None
    if not isinstance(index, Mapping) or "crc32" not in index or files.was_changed(index):
        raise ValueError(f"{shown}: {INDEX} is not as it was written; convert the images again")
    if index.get("version") != VERSION:
        raise ValueError(f"{shown}: records of version {index.get('version')!r}, and this program reads {VERSION}")
    return root, dict(index)


def import_grain() -> Any:
    """Grain, or an ImportError that says how to install it."""
    try:
        import grain
    except ImportError as error:
        raise ImportError('files of records and workers need one more library: pip install "jaxgen[grain]"') from error
    return grain


def import_array_record() -> Any:
    """The module of ArrayRecord's files, which comes with Grain, or an ImportError that says how to install it."""
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise ImportError('files of records need one more library: pip install "jaxgen[grain]"') from error
    return array_record_module


def _source(root: Path, part: Mapping[str, Any], name: str) -> Any:
    """Grain's source of a split, whose files are as long as they were and hold as many records.

    Raises:
        FileNotFoundError, ValueError: for a file that is not.
    """
    sources, paths = import_grain().sources, []
    for file in part["files"]:
        path = root / file["name"]
        if not path.is_file():
            raise FileNotFoundError(f"{name}: {show(file['name'])} is not there; copy it, or convert the images again")
        if (size := path.stat().st_size) != file["bytes"]:
            raise ValueError(
                f"{name}: {show(file['name'])} has {size:,} bytes and not {file['bytes']:,}: it was cut or changed; "
                "copy it once more, or convert the images again"
            )
        paths.append(str(path))
    for path, file in zip(paths, part["files"], strict=True):
        try:
            count = len(sources.ArrayRecordDataSource([path]))  # a damaged list of records is mostly read as none
        except Exception:
            count = 0
        if count != file["num_examples"]:
            raise ValueError(
                f"{name}: {show(file['name'])} holds {count:,} records and not {file['num_examples']:,}: it is "
                "damaged; copy it once more, or convert the images again"
            )
    return sources.ArrayRecordDataSource(paths)


def _labels(root: Path, part: Mapping[str, Any], name: str) -> np.ndarray:
    file = part["labels"]
    try:
        packed = (root / file["name"]).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: {show(file['name'])} is not there; copy it, too") from None
    if zlib.crc32(packed) != file["crc32"]:
        raise ValueError(f"{name}: {show(file['name'])} is not as it was written; copy it once more")
    return np.frombuffer(packed, "<i4").astype(np.int32)


def _one(source: Any, row: int) -> Any:
    try:
        return source[row]
    except Exception as error:
        return error
