"""A folder of the user's own images as a data set."""

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxgen.data import decode, listing, reading
from jaxgen.data.dataset import Dataset, fingerprint_of, function_name
from jaxgen.data.listing import EXTENSIONS
from jaxgen.names import show

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of subfolders, in small letters, and the splits that they mean."""


def image_folder(
    path: str | os.PathLike,
    *,
    image_size: int | tuple[int, int],
    channels: int = 3,
    background: str = "white",
    crop: decode.Crop = decode.centre_crop,
    resize: decode.Resize = decode.area,
    labelled: bool | None = True,
    class_names: Sequence[str] | None = None,
    split: str = "train",
    validation_share: float = 0.0,
    max_broken_share: float = 0.01,
    max_bytes_in_memory: int = reading.MAX_BYTES_IN_MEMORY,
    num_threads: int | None = None,
    tell: Callable[[str], None] = reading.logger.warning,
) -> Dataset:
    """Open a folder of PNG, JPEG, WebP, GIF, BMP and TIFF images of any sizes.

    Images in subfolders are labelled by the subfolder of `path` that they are in, at any depth below it; the labels
    follow the sorted names. Images directly in `path` are unlabelled. Which files count is told in
    `jaxgen.data.listing.list_images`, and how pixels are made in `jaxgen.data.decode.decode_image`.

    Opening reads the first bytes of every file. A set of up to `max_bytes_in_memory` decoded bytes is then decoded
    into memory, and broken files are left out. A larger set is decoded while training: a file that proves to be broken
    is replaced by the next readable one, the same after a resume. Both are reported in the log `jaxgen.data`, as are
    files that are no images.

    Args:
        path: the folder.
        image_size: the side of a square, or (height, width).
        channels: 3 for RGB, 1 for grey.
        background: what transparent images are composited on, a colour by name or "#rrggbb".
        crop: `decode.centre_crop`, `decode.squash` or a function like them.
        resize: `decode.area`, `decode.lanczos` or a function like them.
        labelled: False ignores the subfolders: everything is one unlabelled set. None does so where they cannot be
            classes because there are images beside them, and tells it.
        class_names: the subfolders in the order of the labels, for a set that must agree with another
            (`class_names=train.class_names`) or whose names do not sort well ("10" sorts before "2").
        split: "train" or "validation"; the latter needs a validation_share.
        validation_share: the share of the files held out, chosen by a hash of their names.
        max_broken_share: the share of broken files that is tolerated; a single one is in any case, unless this is 0.
        max_bytes_in_memory: the largest set to decode into memory (it then lives on the device); 0: never.
        num_threads: how many files to read at once; None: one per core.
        tell: is called with a line on what is left out or ignored at the opening; by default the log's warning.

    Returns:
        A `Dataset` with `image` [N, H, W, C] and, if labelled, `label` [N]. The fingerprint covers names and sizes of
        the files and the options above, not their bytes.

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError: if the folder cannot be read.
        ValueError: for options without meaning, a folder without images, images both beside and inside subfolders,
            subfolders that look like splits, or too many broken files.
    """
    height, width = decode.image_size_pair(image_size)
    decode.check_pixel_options(channels, background)
    threads = num_threads or os.cpu_count() or 1
    found = find_images(
        path,
        labelled=labelled,
        class_names=class_names,
        split=split,
        validation_share=validation_share,
        max_broken_share=max_broken_share,
        num_threads=threads,
        tell=tell,
    )
    root, kept, names = found.root, found.files, found.class_names
    options = (height, width, channels, background, function_name(crop), function_name(resize), names)
    return reading.from_reader(
        found.name,
        lambda row: decode.decode_image(
            os.path.join(root, kept[row]),
            image_size=(height, width),
            channels=channels,
            background=background,
            crop=crop,
            resize=resize,
        ),
        lambda row: show(kept[row]),
        num_examples=len(kept),
        image_shape=(height, width, channels),
        label=found.label,
        class_names=names,
        fingerprint=fingerprint_of("folder", options, "\n".join(kept), found.sizes),
        max_bytes_in_memory=max_bytes_in_memory,
        max_broken_share=max_broken_share,
        num_threads=threads,
        tell=tell,
    )


class Found(NamedTuple):
    """The images of a split of a folder, of which only the first bytes have been read.

    name: of the data set.
    root: the absolute path of the folder.
    files: their paths below it, sorted.
    sizes: int64 [N], in bytes.
    label: int32 [N], or None without labels.
    class_names: one per label.
    """

    name: str
    root: str
    files: list[str]
    sizes: np.ndarray
    label: np.ndarray | None
    class_names: tuple[str, ...]


def find_images(
    path: str | os.PathLike,
    *,
    labelled: bool | None = True,
    class_names: Sequence[str] | None = None,
    split: str = "train",
    validation_share: float = 0.0,
    max_broken_share: float = 0.01,
    num_threads: int = 1,
    tell: Callable[[str], None] = reading.logger.warning,
) -> Found:
    """What `image_folder` reads, with its arguments: which files, in which order, and their labels.

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError, ValueError: as `image_folder`.
    """
    check_split(split, validation_share)
    listed = listing.list_images(path)
    root, files = listed.root, listed.files
    name = f"folder:{show(root)}"
    tell_ignored(name, listed, tell)
    if not files:
        raise ValueError(nothing_found(listed))
    names, label = _labels(listed, class_names, labelled, tell) if labelled in (True, None) else ((), None)

    reasons, sizes = listing.check_headers(root, files, num_threads)
    broken = [f"{show(file)} ({reason})" for file, reason in listed.broken]
    broken += [f"{show(file)} ({reason})" for file, reason in zip(files, reasons, strict=True) if reason]
    reading.report_broken(name, broken, len(files) + len(listed.broken), max_broken_share, "left out", tell)
    keep = [i for i, reason in enumerate(reasons) if not reason]
    if not keep:
        raise ValueError(f"{show(root)}: none of its {len(files)} images can be read: {'; '.join(broken[:5])}")
    if validation_share:
        keep = part_of(files, keep, split, validation_share, root)
        name = f"{name} ({'training' if split == 'train' else 'held-out'} part)"
    return Found(
        name,
        root,
        [files[i] for i in keep],
        np.array(sizes, np.int64)[keep],
        None if label is None else label[keep],
        names,
    )


def split_folders(path: str | os.PathLike) -> dict[str, str]:
    """The subfolders of a folder that hold its splits, by what they mean: {"train": "training", "test": "test"}.

    Returns:
        {} unless one is for training, all that hold images are called like splits, no two mean the same, and no image
        lies beside them.

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError: as `jaxgen.data.listing.list_images`.
    """
    root = os.path.abspath(os.path.expanduser(os.fspath(path)))
    listing.check_folder(root)
    entries = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]
    if not any(SPLIT_NAMES.get(entry.name.lower()) == "train" and entry.is_dir() for entry in entries):
        return {}  # without a walk through all files
    tops = {file.split("/", 1)[0] if "/" in file else "" for file in listing.list_images(root).files}
    meant = {SPLIT_NAMES[top.lower()]: top for top in tops if top.lower() in SPLIT_NAMES}
    return meant if "train" in meant and len(meant) == len(tops) else {}


def class_names_of(path: str | os.PathLike, labelled: bool | None = True) -> tuple[str, ...]:
    """The class names of a folder as `image_folder` finds them, without opening a file; () for one without labels.

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError, ValueError: as `image_folder`.
    """
    return _labels(listing.list_images(path), None, labelled, lambda text: None)[0]


def nothing_found(found: listing.Listing) -> str:
    """What to say of a folder without images."""
    endings = f"endings {', '.join(EXTENSIONS)}, also in capitals"
    other, total = "", sum(found.ignored.values())
    if found.broken:
        other = f"; {show(found.broken[0][0])} is a {found.broken[0][1]}"
    elif total:
        other = f"; it holds {total} other files, e.g. {show(found.ignored.most_common(1)[0][0])}"
    return f"{show(found.root)}: no image found ({endings}){other}"


def tell_ignored(name: str, found: listing.Listing, tell: Callable[[str], None]) -> None:
    """Tell which files of a folder are no images; of hidden ones alone in the log only."""
    if total := sum(found.ignored.values()):
        # Hidden files are nobody's pictures; of others their owner may think that they count.
        say = tell if set(found.ignored) - {"hidden"} else reading.logger.info
        what = "1 file that is no image" if total == 1 else f"{total} files that are no images"
        say(f"{name}: ignored {what} ({found.told})")


def check_split(split: str, validation_share: float) -> None:
    """Raise a ValueError for a split or a share that `image_folder` does not know."""
    if split not in ("train", "validation"):
        raise ValueError(f'split must be "train" or "validation", got {split!r}')
    if not 0.0 <= validation_share < 1.0:
        raise ValueError(f"validation_share must be in [0, 1), got {validation_share}")
    if split == "validation" and not validation_share:
        raise ValueError(
            "split='validation' needs a validation_share, e.g. 0.1; or pass the path of a validation folder"
        )


def _labels(listed, class_names, labelled, tell) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Return the class names and the label of each file; (), None for a folder without labels."""
    root, files = show(listed.root), listed.files
    tops = [file.split("/", 1)[0] if "/" in file else None for file in files]
    num_flat = sum(top is None for top in tops)
    if num_flat == len(files):
        if class_names:
            raise ValueError(f"{root}: class_names were given, but the images are in no subfolders")
        return (), None
    found = sorted({top for top in tops if top is not None})
    if num_flat:
        example = next(file for file, top in zip(files, tops, strict=True) if top is None)
        beside = (
            f"{root}: {num_flat} images (e.g. {show(example)}) lie beside {len(found)} subfolders with images (e.g. "
            f"{show(found[0])})"
        )
        if labelled is None and class_names is None:
            tell(
                f"{beside}, which are therefore no classes: all are taken, without labels. For labels move them into a "
                "subfolder that names their class"
            )
            return (), None
        raise ValueError(
            f"{beside}. Move them into a subfolder that names their class, or pass labelled=False to take everything "
            "as one unlabelled set"
        )
    if class_names is None:
        if all(top.lower() in SPLIT_NAMES for top in found):
            raise ValueError(
                f"{root}: its subfolders look like splits, not classes: {', '.join(map(show, found))}. Pass "
                f"{os.path.join(root, show(found[0]))!r}, or labelled=False to join them, or class_names if they are "
                "classes"
            )
        for folder in listed.folders:
            if folder not in found:
                tell(f"folder:{root}: {show(folder)} holds no images and is no class")
        class_names = found
    class_names = tuple(class_names)
    if len(set(class_names)) != len(class_names):
        raise ValueError(f"class_names has doubles: {class_names}")
    number = {class_name: i for i, class_name in enumerate(class_names)}
    unknown = [top for top in found if top not in number]
    if unknown:
        raise ValueError(f"{root}: subfolders that are not in class_names: {', '.join(map(show, unknown[:5]))}")
    return class_names, np.array([number[top] for top in tops], np.int32)


def part_of(files: Sequence[str], keep: Sequence[int], split: str, validation_share: float, root: str) -> list[int]:
    """The rows among `keep` of a split of a folder, of which a share is held out.

    Raises:
        ValueError: where one of the two would be empty.
    """
    # By a hash of the name, not by position: a file added later does not move the others across.
    order = sorted(keep, key=lambda i: hashlib.blake2b(os.fsencode(files[i]), digest_size=8).digest())
    held_out = round(validation_share * len(keep))
    chosen = sorted(order[:held_out] if split == "validation" else order[held_out:])
    if not chosen or not held_out:
        raise ValueError(
            f"{show(root)}: validation_share={validation_share:g} of {len(keep)} images leaves {held_out} for "
            f"validation and {len(keep) - held_out} for training: both need at least one. A share of 0 holds none out"
        )
    return chosen
