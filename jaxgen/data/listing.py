"""Which files of a folder are images: one list for training, evaluation and sampling, with what was left out."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from jaxgen.data import reading
from jaxgen.names import show

EXTENSIONS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp"),
    *(".gif", ".bmp", ".tif", ".tiff"),
)
"""Endings of the formats in `decode.FORMATS`, in small letters; those of files may be in capitals."""
NOT_LOOKED_INTO = ("__MACOSX",)  # left by the archiver of macOS; names that begin with a dot are hidden
# How those formats begin, whatever a file is called: a GIF called .jpg is a usual accident.
SIGNATURES = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM"),
    *(b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
)


class Listing(NamedTuple):
    """What a folder holds.

    root: the absolute path of the folder.
    files: paths of the images below it, sorted, with "/" between their parts.
    broken: (path, reason) of what is called an image and is none that could be opened, such as a link to nothing.
    folders: names of the subfolders that are directly in it, sorted.
    ignored: how many other files, by ending or kind.
    """

    root: str
    files: list[str]
    broken: list[tuple[str, str]]
    folders: list[str]
    ignored: Counter

    @property
    def told(self) -> str:
        """What was ignored in words, such as "3 .txt, 2 hidden"; "" for nothing."""
        return ", ".join(f"{count} {show(kind)}" for kind, count in self.ignored.most_common(5))


def is_image_name(name: str) -> bool:
    """Whether a file of this name would be taken for an image."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def list_images(path: str | os.PathLike) -> Listing:
    """List the images in a folder and below. Nothing is opened.

    Only regular files count; links to files and folders are followed, though not in circles. Hidden files and folders
    (`.ipynb_checkpoints`), `__MACOSX`, other endings, and what is no file (pipes, devices) are left out and counted.

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError: if the folder, or one in it, cannot be read.
    """
    root = os.path.abspath(os.path.expanduser(os.fspath(path)))
    check_folder(root)
    files, broken, folders, ignored = [], [], [], Counter[str]()

    def visit(directory, prefix, ancestors):
        try:
            entries = list(os.scandir(directory))
            status = os.stat(directory)
        except PermissionError as error:
            where = show(directory)
            raise PermissionError(f"{where}: no permission to read this folder (chmod u+rx)") from error
        identity = (status.st_dev, status.st_ino)
        if identity in ancestors:  # a link back up
            return
        for entry in entries:
            if entry.name in NOT_LOOKED_INTO:
                continue
            if entry.name.startswith("."):
                ignored["hidden"] += 1
            elif _is(entry.is_dir):
                if not prefix:
                    folders.append(entry.name)
                visit(entry.path, f"{prefix}{entry.name}/", ancestors | {identity})
            elif not is_image_name(entry.name):
                ignored[os.path.splitext(entry.name)[1].lower() or "without extension"] += 1
            elif _is(entry.is_file):
                files.append(prefix + entry.name)
            elif entry.is_symlink() and not os.path.exists(entry.path):
                broken.append((prefix + entry.name, "dangling link"))
            else:
                ignored["special"] += 1  # a pipe or a device: opening it would block, or never end

    visit(root, "", frozenset())
    return Listing(root, sorted(files), sorted(broken), sorted(folders), ignored)


def first_image(path: str | os.PathLike) -> str | None:
    """The path of an image in a folder or below, without a look at all of them; None where there is none."""
    for directory, folders, names in os.walk(os.path.expanduser(os.fspath(path))):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in NOT_LOOKED_INTO)
        for name in sorted(names):
            if is_image_name(name):
                return os.path.join(directory, name)
    return None


def check_folder(root: str) -> None:
    """Raise what is wrong with a path that should be a folder."""
    shown = show(root)
    if not os.path.lexists(root):
        raise FileNotFoundError(f"{shown}: no such folder")
    if not os.path.exists(root):
        raise FileNotFoundError(f"{shown}: a link that leads nowhere")
    if not os.path.isdir(root):
        advice = " (for .npz and .npy files there is array_file)" if root.endswith((".npz", ".npy")) else ""
        raise NotADirectoryError(f"{shown}: a file; give the folder that holds the images{advice}")


def check_regular(path: str | os.PathLike) -> None:
    """Raise a ValueError for a pipe, a socket or a device, whose reading would block or never end."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        shown = show(os.fspath(path))
        raise ValueError(f"{shown}: a pipe, a socket or a device, and no file; save what it gives as a file first")


def check_headers(root: str, files: Sequence[str], num_threads: int) -> tuple[list[str], list[int]]:
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


def _is(test) -> bool:
    try:
        return test()
    except OSError:  # a link to itself
        return False
