"""A folder of the user's own images as a data set."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxgen.data import decode, reading
from jaxgen.data.dataset import Dataset, fingerprint_of, function_name

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}
# Also those of formats that Pillow reads but the extensions do not promise: a GIF called .jpg is a usual accident.
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")


def image_folder(
    path: str | os.PathLike,
    *,
    image_size: int | tuple[int, int],
    channels: int = 3,
    background: str = "white",
    crop: decode.Crop = decode.centre_crop,
    resize: decode.Resize = decode.area,
    labelled: bool = True,
    class_names: Sequence[str] | None = None,
    split: str = "train",
    validation_share: float = 0.0,
    max_broken_share: float = 0.01,
    max_bytes_in_memory: int = reading.MAX_BYTES_IN_MEMORY,
    num_threads: int | None = None,
) -> Dataset:
    """Open a folder of PNG, JPEG and WebP images of any sizes.

    Images in subfolders are labelled by the subfolder of `path` that they are in, at any depth below it; the labels
    follow the sorted names. Images directly in `path` are unlabelled. Links are followed; hidden files and other files
    are ignored. How pixels are made is told in `jaxgen.data.decode.decode_image`.

    Opening reads the first bytes of every file. A set of up to `max_bytes_in_memory` decoded bytes is then decoded
    into memory, and broken files are left out. A larger set is decoded while training: a file that proves to be broken
    is replaced by the next readable one, the same after a resume. Both are reported in the log `jaxgen.data`.

    Args:
        path: the folder.
        image_size: the side of a square, or (height, width).
        channels: 3 for RGB, 1 for grey.
        background: what transparent images are composited on, a colour by name or "#rrggbb".
        crop: `decode.centre_crop`, `decode.squash` or a function like them.
        resize: `decode.area`, `decode.lanczos` or a function like them.
        labelled: False ignores the subfolders: everything is one unlabelled set.
        class_names: the subfolders in the order of the labels, for a set that must agree with another
            (`class_names=train.class_names`) or whose names do not sort well ("10" sorts before "2").
        split: "train" or "validation"; the latter needs a validation_share.
        validation_share: the share of the files held out, chosen by a hash of their names.
        max_broken_share: the share of broken files that is tolerated; a single one is in any case, unless this is 0.
        max_bytes_in_memory: the largest set to decode into memory (it then lives on the device); 0: never.
        num_threads: how many files to read at once; None: one per core.

    Returns:
        A `Dataset` with `image` [N, H, W, C] and, if labelled, `label` [N]. The fingerprint covers names and sizes of
        the files and the options above, not their bytes.

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError: if the folder cannot be read.
        ValueError: for options without meaning, a folder without images, images both beside and inside subfolders,
            subfolders that look like splits, or too many broken files.
    """
    root = os.path.abspath(os.path.expanduser(os.fspath(path)))
    name = f"folder:{root}"
    height, width = decode.image_size_pair(image_size)
    decode.check_pixel_options(channels, background)
    _check_split(split, validation_share)
    _check_root(root)

    files, dangling, folders, ignored = _walk(root)
    if ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.most_common(5))
        reading.logger.info("%s: ignored %d files that are no images (%s)", name, sum(ignored.values()), kinds)
    if not files:
        found = (
            f"; it holds {sum(ignored.values())} other files, e.g. {ignored.most_common(1)[0][0]}" if ignored else ""
        )
        raise ValueError(f"{root}: no image found (extensions {', '.join(EXTENSIONS)}, also in capitals){found}")
    names, label = _labels(root, files, folders, class_names) if labelled else ((), None)

    threads = num_threads or os.cpu_count() or 1
    reasons, sizes = _check_headers(root, files, threads)
    broken = [f"{_show(file)} (dangling link)" for file in dangling]
    broken += [f"{_show(file)} ({reason})" for file, reason in zip(files, reasons, strict=True) if reason]
    reading.report_broken(name, broken, len(files) + len(dangling), max_broken_share, "left out")
    keep = [i for i, reason in enumerate(reasons) if not reason]
    if not keep:
        raise ValueError(f"{root}: none of its {len(files)} images can be read: {'; '.join(broken[:5])}")
    if validation_share:
        keep = _part(files, keep, split, validation_share, root)
        name = f"{name}/{split}"
    kept = [files[i] for i in keep]
    options = (height, width, channels, background, function_name(crop), function_name(resize), names)
    return reading.from_reader(
        name,
        lambda row: decode.decode_image(
            os.path.join(root, kept[row]),
            image_size=(height, width),
            channels=channels,
            background=background,
            crop=crop,
            resize=resize,
        ),
        lambda row: _show(kept[row]),
        num_examples=len(kept),
        image_shape=(height, width, channels),
        label=None if label is None else label[keep],
        class_names=names,
        fingerprint=fingerprint_of("folder", options, "\n".join(kept), np.array(sizes, np.int64)[keep]),
        max_bytes_in_memory=max_bytes_in_memory,
        max_broken_share=max_broken_share,
        num_threads=threads,
    )


def _check_split(split, validation_share):
    if split not in ("train", "validation"):
        raise ValueError(f'split must be "train" or "validation", got {split!r}')
    if not 0.0 <= validation_share < 1.0:
        raise ValueError(f"validation_share must be in [0, 1), got {validation_share}")
    if split == "validation" and not validation_share:
        raise ValueError(
            "split='validation' needs a validation_share, e.g. 0.1; or pass the path of a validation folder"
        )


def _check_root(root):
    if not os.path.lexists(root):
        raise FileNotFoundError(f"{root}: no such folder")
    if not os.path.exists(root):
        raise FileNotFoundError(f"{root}: a link that leads nowhere")
    if not os.path.isdir(root):
        advice = " (for .npz and .npy files there is array_file)" if root.endswith((".npz", ".npy")) else ""
        raise NotADirectoryError(f"{root}: a file; image_folder wants the folder that holds the images{advice}")


def _walk(root) -> tuple[list[str], list[str], list[str], Counter]:
    """Return the sorted image files, the dangling links to images, the top folders, and what was ignored, by kind."""
    files, dangling, folders, ignored = [], [], [], Counter()

    def visit(directory, prefix, ancestors):
        try:
            entries = list(os.scandir(directory))
            status = os.stat(directory)
        except PermissionError as error:
            raise PermissionError(f"{directory}: no permission to read this folder (chmod u+rx)") from error
        identity = (status.st_dev, status.st_ino)
        if identity in ancestors:  # a link back up
            return
        for entry in entries:
            if entry.name == "__MACOSX":  # left by the archiver of macOS
                continue
            if entry.name.startswith("."):
                ignored["hidden"] += 1
                continue
            if _is(entry.is_dir):
                if not prefix:
                    folders.append(entry.name)
                visit(entry.path, f"{prefix}{entry.name}/", ancestors | {identity})
            elif not entry.name.lower().endswith(EXTENSIONS):
                ignored[os.path.splitext(entry.name)[1].lower() or "without extension"] += 1
            elif _is(entry.is_file):
                files.append(prefix + entry.name)
            elif entry.is_symlink():
                dangling.append(prefix + entry.name)
            else:
                ignored["special"] += 1  # a pipe or a socket: opening it would block

    visit(root, "", frozenset())
    return sorted(files), sorted(dangling), sorted(folders), ignored


def _is(test) -> bool:
    try:
        return test()
    except OSError:  # a link to itself
        return False


def _labels(root, files, folders, class_names) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Return the class names and the label of each file; (), None for a flat folder."""
    tops = [file.split("/", 1)[0] if "/" in file else None for file in files]
    num_flat = sum(top is None for top in tops)
    if num_flat == len(files):
        if class_names:
            raise ValueError(f"{root}: class_names were given, but the images are in no subfolders")
        return (), None
    found = sorted({top for top in tops if top is not None})
    if num_flat:
        example = next(file for file, top in zip(files, tops, strict=True) if top is None)
        raise ValueError(
            f"{root}: {num_flat} images (e.g. {_show(example)}) lie beside {len(found)} subfolders with images (e.g. "
            f"{_show(found[0])}). Move them into a subfolder that names their class, or pass labelled=False to take "
            "everything as one unlabelled set"
        )
    if class_names is None:
        if all(top.lower() in SPLIT_NAMES for top in found):
            raise ValueError(
                f"{root}: its subfolders look like splits, not classes: {', '.join(found)}. Pass "
                f"{os.path.join(root, found[0])!r}, or labelled=False to join them, or class_names if they are classes"
            )
        for folder in folders:
            if folder not in found:
                reading.logger.warning("folder:%s: %s holds no images and is no class", root, _show(folder))
        class_names = found
    class_names = tuple(class_names)
    if len(set(class_names)) != len(class_names):
        raise ValueError(f"class_names has doubles: {class_names}")
    number = {class_name: i for i, class_name in enumerate(class_names)}
    unknown = [top for top in found if top not in number]
    if unknown:
        raise ValueError(f"{root}: subfolders that are not in class_names: {', '.join(map(_show, unknown[:5]))}")
    return class_names, np.array([number[top] for top in tops], np.int32)


def _check_headers(root, files, num_threads) -> tuple[list[str], list[int]]:
    """Return, for each file, what is wrong with its first bytes ("" if nothing) and its size in bytes."""

    def check(file):
        try:
            # Unbuffered: one read of twelve bytes, not of a block, for what may be a million files on a network.
            with open(os.path.join(root, file), "rb", buffering=0) as stream:
                start = stream.read(12)
                size = os.fstat(stream.fileno()).st_size
        except OSError as error:
            return reading.describe_error(error), 0
        if not start:
            return "empty file", 0
        if not start.startswith(SIGNATURES) or (start.startswith(b"RIFF") and start[8:] != b"WEBP"):
            return "no image by its first bytes", size
        return "", size

    chunks = [files[i : i + 1024] for i in range(0, len(files), 1024)]
    with ThreadPoolExecutor(num_threads) as pool:
        checked = [pair for part in pool.map(lambda chunk: [check(file) for file in chunk], chunks) for pair in part]
    return [reason for reason, _ in checked], [size for _, size in checked]


def _part(files, keep, split, validation_share, root) -> list[int]:
    # By a hash of the name, not by position: a file added later does not move the others across.
    order = sorted(keep, key=lambda i: hashlib.blake2b(os.fsencode(files[i]), digest_size=8).digest())
    held_out = round(validation_share * len(keep))
    chosen = sorted(order[:held_out] if split == "validation" else order[held_out:])
    if not chosen or not held_out:
        raise ValueError(
            f"{root}: validation_share={validation_share:g} of {len(keep)} images leaves {held_out} for validation and "
            f"{len(keep) - held_out} for training: both need at least one"
        )
    return chosen


def _show(file: str) -> str:
    # Names that are not UTF-8 hold surrogates, which a terminal or a log file refuses.
    return file.encode("utf-8", "backslashreplace").decode("utf-8")
