"""Files that are written as a whole, JSON that holds any number, and errors that name the file.

Every file that is rewritten is replaced as a whole (temporary file, fsync, `os.replace`), so a kill at any moment
leaves the old file or the new one.

JSON has no NaN. Wherever a number is not finite, the files hold one of the strings "NaN", "Infinity" and "-Infinity":
strict parsers accept the file, `float(text)` in Python and `Number(text)` in JavaScript give the number back, and
`decoded` returns floats.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import secrets
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@contextlib.contextmanager
def explained(path: str | os.PathLike, action: str) -> Iterator[None]:
    """Gives an OSError of its block the path and what to do; the type and errno stay what they were."""
    try:
        yield
    except OSError as error:
        remedy = {
            errno.ENOSPC: "the disk is full: free some space, then run the same command again",
            errno.EDQUOT: "the disk quota is used up: free some space, then run the same command again",
            errno.EACCES: "permission denied: change its permissions or choose another directory",
            errno.EPERM: "not permitted: change its permissions or choose another directory",
            errno.EROFS: "the file system is read-only: choose another directory",
            errno.ENOTDIR: "a part of this path is a file, not a directory: choose another directory",
            errno.EISDIR: "a directory lies there, where a file is expected: move it away",
            errno.EEXIST: "something that is not a directory lies there: choose another directory",
        }.get(error.errno or 0, error.strerror or str(error))
        raise OSError(error.errno, f"could not {action} {path}: {remedy}") from error


def write_atomically(path: str | os.PathLike, data: bytes | memoryview) -> None:
    """Replaces a file as a whole: a temporary file beside it, fsync, then `os.replace`.

    Of several hosts that compute together only the first writes: the others hold the same bytes.

    Args:
      path: the file; its directory exists.
      data: the new content.

    Raises:
      OSError: with the path and what to do; the old file is then untouched and nothing is left behind.
    """
    path = Path(path)
    hosts = sys.modules.get("jaxgen.hosts")
    if hosts is not None and hosts.are_connected() and hosts.index() > 0:
        return
    with explained(path, "write"):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        # Not `tempfile`: its mode 0600 would stay, and colleagues could not read the run.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def check_replaceable(path: str | os.PathLike) -> None:
    """Raises the OSError of `write_atomically` where a directory lies in the place of a file, before there is any.

    Raises:
      IsADirectoryError: with the path and what to do.
    """
    with explained(path, "write"):
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, "a directory")


def check_directory(path: str | os.PathLike) -> None:
    """Raises an OSError where something else lies in the place of a directory that is to be made, or is there.

    Raises:
      FileExistsError: with the path and what to do.
    """
    with explained(path, "make the directory"):
        if Path(path).exists() and not Path(path).is_dir():
            raise FileExistsError(errno.EEXIST, "no directory")


def record_crc32(record: Mapping[str, Any]) -> int:
    """The checksum of a JSON record without its own entry `crc32`, whatever the order of its names."""
    rest = {name: value for name, value in record.items() if name != "crc32"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def was_changed(record: Any) -> bool:
    """Whether a JSON record that holds its checksum is not what was written; False for one that holds none."""
    return isinstance(record, dict) and "crc32" in record and record["crc32"] != record_crc32(record)


def encoded(value: Any) -> Any:
    """The value as strict JSON holds it: tuples to lists, array scalars to numbers, non-finite numbers to strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): encoded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encoded(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars
        return encoded(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def decoded(value: Any) -> Any:
    """The value with floats for "NaN", "Infinity" and "-Infinity", at any depth: the inverse of `encoded`."""
    if isinstance(value, dict):
        return {key: decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decoded(item) for item in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def json_bytes(value: Any) -> bytes:
    """The value as a strict JSON file, of any of the kinds that `encoded` takes."""
    return (json.dumps(encoded(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
