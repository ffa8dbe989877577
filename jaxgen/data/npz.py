"""Arrays from .npz files, zip files of .npy ones: every entry's checksum is compared, and nothing is unpickled.

`numpy.load` reads as many bytes as an array's head asks for, and so never comes to the end of a damaged entry, where
its checksum would be compared.
"""

import contextlib
import errno
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np
from numpy.lib import format as npy

from jaxgen.data.reading import describe_error
from jaxgen.names import show

MAX_RATIO = 100
MAX_BYTES = 2**30
"""More than so many bytes, unpacked from a hundredth of it or less, are taken for a decompression bomb."""
_PICKLED = (
    "it holds Python objects (pickled). Such arrays are not loaded because a pickle can run code; images "
    "of different sizes must be brought to one size and stacked first"
)


class Damaged(ValueError):
    """A file that is not as it was written; the message says how."""


class Refused(ValueError):
    """A file that is as it was written, and is not read; the message says why."""


def read_arrays(path: str | os.PathLike, choose: Callable[[list[str]], list[str]]) -> dict[str, np.ndarray]:
    """Read some arrays of a .npz.

    Args:
        path: the file.
        choose: the names of all arrays -> the names of those to read.

    Returns:
        name -> array.

    Raises:
        Damaged: for whatever is wrong with the bytes.
        Refused: for pickled objects, and for an entry that unpacks to suspiciously much.
        Exception: what `choose` raises.
        OSError: if the file cannot be read.
    """
    with explained(), zipfile.ZipFile(path) as archive:
        entries = _entries(path, archive)
    wanted = choose(list(entries))
    with explained(), zipfile.ZipFile(path) as archive:
        return {name: _read_array(archive, entries[name], name) for name in wanted}


def _entries(path, archive) -> dict[str, zipfile.ZipInfo]:
    """The entries by the names of their arrays. One that the directory calls otherwise than its head would be lost."""
    entries = archive.infolist()
    if (counted := _counted(path)) not in (len(entries), 0xFFFF):  # the latter stands for more
        raise Damaged(f"it lists {len(entries)} arrays, but says that it holds {counted}")
    for entry in entries:
        archive.open(entry).close()  # compares the names
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise Damaged(f"several arrays are called {show(max(names, key=names.count))}")
    return {entry.filename.removesuffix(".npy"): entry for entry in entries}


def _counted(path) -> int:
    """How many entries the last record of a zip file says that there are."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2**16 - 22))  # it ends with a comment of up to so many bytes
        end = file.read()
    at = end.rfind(b"PK\5\6")
    return int.from_bytes(end[at + 10 : at + 12], "little")


def check_head(file: IO[bytes], num_bytes: int, what: str) -> None:
    """Raise `Damaged` unless the head of a .npy fits its size, before anything of the size that it claims is made.

    Args:
        file: at its beginning.
        num_bytes: that it has.
        what: it is, for errors.
    """
    version = npy.read_magic(file)
    read_head = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read_head is None:
        raise Damaged(f"{what} is of version {version} of the .npy format")
    shape, _, dtype = read_head(file)
    if dtype.hasobject:
        raise Refused(_PICKLED)
    size = math.prod(map(int, shape)) * dtype.itemsize
    if min(shape, default=0) < 0 or file.tell() + size != num_bytes:
        raise Damaged(f"{what} should have {size:,} bytes by its head, and has {max(0, num_bytes - file.tell()):,}")


def _read_array(archive, entry, name) -> np.ndarray:
    if entry.file_size > MAX_BYTES and entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
        raise Refused(
            f"the array {show(name)!r} would unpack {entry.compress_size:,} bytes to {entry.file_size:,}, as "
            "decompression bombs do; if it is real, save it with numpy.savez or numpy.save, uncompressed"
        )
    with archive.open(entry) as file:
        check_head(file, entry.file_size, f"the array {show(name)!r}")
    with archive.open(entry) as file:
        array = npy.read_array(file, allow_pickle=False)
        if file.read(1):  # at the end the checksum is compared
            raise Damaged(f"the array {show(name)!r} is longer than it should be")
    return array


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Makes one kind of error of the dozen that zip, its decompressors and NumPy raise for damaged bytes."""
    try:
        yield
    except (Damaged, Refused):
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # an entry that lies before the file's beginning is invalid
            raise  # no permission, a failing disk: not the bytes
        raise Damaged(describe_error(error)) from error
    except Exception as error:
        text = str(error)
        if "allow_pickle" in text or "Object arrays" in text or "pickled" in text:
            raise Refused(_PICKLED) from error
        known = isinstance(error, zipfile.BadZipFile | EOFError | ValueError)
        raise Damaged(("" if known else f"{type(error).__name__}: ") + describe_error(error)) from error
