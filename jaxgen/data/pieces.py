"""Photographs cut to pieces of one size at their own pixels, on which networks that restore and enlarge are trained.

    pieces.cut("DIV2K_train_HR", "DIV2K_pieces", size=480, step=240)

A photograph that is brought to a small square has lost its details and its noise, and one that is read as a whole for a
single patch keeps the training waiting.
"""

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxgen import files
from jaxgen.data import decode, folder, listing, reading
from jaxgen.names import show
from jaxgen.progress import Progress, no_progress

if TYPE_CHECKING:
    import PIL.Image

SETTINGS = ".cut.json"
_TOGETHER = 256  # photographs that are handed to the threads at once
_COMPRESSION = 1  # of PNG, for speed


class Cut(NamedTuple):
    """What was written.

    root: the folder.
    num_photographs: how many have pieces.
    num_pieces: how many these are.
    """

    root: Path
    num_photographs: int
    num_pieces: int


def cut(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    *,
    size: int,
    step: int | None = None,
    validation_share: float = 0.0,
    max_broken_share: float = 0.01,
    num_threads: int | None = None,
    progress: Progress = no_progress,
    tell: Callable[[str], None] = reading.as_warning,
) -> Cut:
    """Cut the images of a folder and of its subfolders to squares, PNG files; of an interrupted cut what is missing.

    A piece is called NAME_ROW_COLUMN.png, in the subfolder that its photograph is in: two folders of pairs that are cut
    alike are pairs again. The last piece of a row or column ends at the edge, and may overlap the one before. Pixels
    are those of the file, turned as its EXIF says and of 8 bits; what is transparent stays so.

    Whoever holds out a share of the pieces trains on neighbours of what is tested: hold out whole photographs, by
    `validation_share`, by subfolders train/ and test/ of the source, which stay, or by a folder that is cut by itself.

    Pieces are written into DESTINATION.unfinished, which is renamed at the end: nothing reads it before it is whole.

    Args:
        source: a folder of images of any sizes.
        destination: a folder that does not exist, or is empty.
        size: the side of a piece in pixels.
        step: pixels from the beginning of a piece to that of the next; `size` by default.
        validation_share: the share of the photographs that goes to a subfolder test/, by a hash of their names, so that
            pairs stay together; the others go to train/.
        max_broken_share: the share of broken files that is told and left out, as for `data.image_folder`.
        num_threads: how many photographs to cut at once; None: one per core.
        progress: shows how many are cut.
        tell: is called with a line on what is left out: broken files, photographs smaller than a piece, other files.

    Returns:
        A `Cut`.

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError: if the folder cannot be read.
        ValueError: for a size or step below 1, a share that leaves nothing on one side, a folder without images of that
            size, photographs of one name, a destination that holds other things or lies in the source, too many broken
            files.
        OSError: if a piece cannot be written.
    """
    step = size if step is None else step
    for what, value in (("size", size), ("step", step)):
        if value < 1:
            raise ValueError(f"{what} must be at least 1 pixel, not {value}")
    found = listing.list_images(source)
    root = Path(os.path.abspath(os.path.expanduser(destination)))
    if not found.files:
        raise ValueError(folder.nothing_found(found))
    _check_names(found.files)
    if root.is_relative_to(found.root):
        raise ValueError(f"{show(str(root))} lies in the folder that is cut: choose a destination outside of it")
    part = _parts(found, validation_share)
    settings = {"source": found.root, "size": size, "step": step, "validation_share": validation_share}
    unfinished = _begun(root, settings)
    folder.tell_ignored(show(found.root), found, tell)

    def cut_one(file: str) -> _Done:
        stem = os.path.join(unfinished, part[file], os.path.splitext(file)[0])
        return _cut_one(os.path.join(found.root, file), stem, size, step)

    with decode.quiet_bombs(), ThreadPoolExecutor(num_threads or os.cpu_count() or 1, "jaxgen-cut") as pool:
        done = list(progress(_in_turn(pool, cut_one, found.files), len(found.files), "cutting photographs"))
    _tell_left_out(found, done, size, max_broken_share, tell)
    with files.explained(root, "rename what was cut to"):
        os.replace(unfinished, root)
        (root / SETTINGS).unlink()
    counts = [one.num_pieces for one in done if one.num_pieces]
    return Cut(root, len(counts), sum(counts))


def _parts(found: listing.Listing, validation_share: float) -> dict[str, str]:
    """File -> the subfolder that its pieces go to: "train" or "test", or "" where nothing is held out."""
    if not validation_share:
        return dict.fromkeys(found.files, "")
    folder.check_split("train", validation_share)
    if splits := folder.split_folders(found.root):
        there = " and ".join(splits[split] for split in ("train", "validation", "test") if split in splits)
        raise ValueError(f"{show(found.root)} holds {there} already, which stay: give no validation_share")
    names = [os.path.splitext(file)[0] for file in found.files]
    rows = folder.part_of(names, range(len(names)), "validation", validation_share, found.root)
    held_out = {found.files[row] for row in rows}
    return {file: "test" if file in held_out else "train" for file in found.files}


class _Done(NamedTuple):
    """What became of a photograph: the number of its pieces; or its width and height, or why it is broken."""

    num_pieces: int = 0
    too_small: tuple[int, int] | None = None
    broken: str = ""


def _cut_one(path: str, stem: str, size: int, step: int) -> _Done:
    """Writes the pieces of a photograph that are missing."""
    try:
        width, height, _ = decode.look(path)
        if min(width, height) < size:
            return _Done(too_small=(width, height))
        pieces = {
            f"{stem}_{row:02d}_{column:02d}.png": (top, left)
            for row, top in enumerate(_beginnings(height, size, step))
            for column, left in enumerate(_beginnings(width, size, step))
        }
        missing = {piece: place for piece, place in pieces.items() if not os.path.exists(piece)}
        pixels = np.asarray(_plain(decode.upright_image(path))) if missing else None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        return _Done(broken=reading.describe_error(error))
    os.makedirs(os.path.dirname(stem), exist_ok=True)
    for piece, (top, left) in missing.items():
        assert pixels is not None
        files.write_atomically(piece, _png(pixels[top : top + size, left : left + size]))
    return _Done(len(pieces))


def _beginnings(length: int, size: int, step: int) -> list[int]:
    """Where pieces begin along a side, the last one so that it ends at the edge."""
    return [*range(0, length - size, step), length - size]


def _plain(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """Grey or RGB, with an opacity where there is one: what PNG holds without a palette."""
    grey = image.mode in ("1", "L", "LA", "La") and "transparency" not in image.info
    return image.convert(("L" if grey else "RGB") + ("A" if decode.has_opacity(image) else ""))


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=_COMPRESSION)
    return buffer.getvalue()


def _in_turn(pool: ThreadPoolExecutor, function: Callable[[str], _Done], names: Sequence[str]) -> Iterator[_Done]:
    """function(name) of each, a bounded number ahead: whoever stops does not wait for all that is left."""
    for begin in range(0, len(names), _TOGETHER):
        yield from pool.map(function, names[begin : begin + _TOGETHER])


def _check_names(names: Iterable[str]) -> None:
    """Raises a ValueError where pieces of two photographs would have one name."""
    first: dict[str, str] = {}
    for name in names:
        stem = os.path.splitext(name)[0]
        if stem in first:
            raise ValueError(f"{show(first[stem])} and {show(name)} would have pieces of the same names: rename one")
        first[stem] = name


def _begun(root: Path, settings: dict[str, Any]) -> Path:
    """The folder that pieces are written into, new or of the same settings, without what a kill has left half.

    Raises:
        ValueError: for a destination that is not empty, or an unfinished folder of other settings.
    """
    files.check_directory(root)
    if root.exists() and (others := sorted(os.listdir(root))):
        raise ValueError(f"{show(str(root))} is not empty ({show(others[0])}): choose a new or empty folder")
    unfinished = root.with_name(f"{root.name}.unfinished")
    files.check_directory(unfinished)
    if unfinished.exists() and any(not name.startswith(".") for name in os.listdir(unfinished)):
        try:
            same = json.loads((unfinished / SETTINGS).read_bytes()) == settings
        except (OSError, ValueError):
            same = False
        if not same:
            raise ValueError(
                f"{show(str(unfinished))} holds pieces of other photographs, or of another size, step or share: give "
                "the command that they are of again, delete that folder, or choose another destination"
            )
        for half in unfinished.rglob(".*.tmp"):
            half.unlink(missing_ok=True)
    with files.explained(unfinished, "make the folder"):
        unfinished.mkdir(parents=True, exist_ok=True)
    files.write_atomically(unfinished / SETTINGS, files.json_bytes(settings))
    return unfinished


def _tell_left_out(found: listing.Listing, done: Sequence[_Done], size: int, max_broken_share: float, tell) -> None:
    """Tells which photographs have no pieces.

    Raises:
        ValueError: if none has, or too many are broken.
    """
    name, total = show(found.root), len(found.files) + len(found.broken)
    reasons = [*found.broken, *((file, one.broken) for file, one in zip(found.files, done, strict=True) if one.broken)]
    broken = [f"{show(file)} ({reason})" for file, reason in reasons]
    small = [(one.too_small, file) for file, one in zip(found.files, done, strict=True) if one.too_small]
    if not any(one.num_pieces for one in done) and small:
        (width, height), file = max(small, key=lambda pair: min(pair[0]))
        raise ValueError(
            f"{name}: none of the {len(small)} photographs has {size}x{size} pixels; {show(file)} has most, "
            f"{width}x{height}: give a smaller size"
        )
    reading.report_broken(name, broken, total, max_broken_share, "left out", tell)
    if len(broken) == total:
        raise ValueError(f"{name}: none of the {total} images can be decoded: {'; '.join(broken[:5])}")
    if small:
        some = ", ".join(f"{show(file)} ({width}x{height})" for (width, height), file in small[:5])
        tell(
            f"{name}: left out {len(small)} of {total} photographs, which are smaller than {size}x{size} pixels: {some}"
            + (", ..." if len(small) > 5 else "")
        )
