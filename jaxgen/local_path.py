"""Paths as users give them: local ones, with `~` expanded. What is remote is refused before a `Path` is made of it.

A `Path` forgets that it was an address: `Path("gs://bucket/run")` is `gs:/bucket/run`, a local directory. So those that
were made elsewhere are refused, too.
"""

import os
import re
from pathlib import Path

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # two letters at least: C:/ is a drive


def is_address(path: str | os.PathLike) -> bool:
    """Whether a path is the address of something remote, such as `gs://bucket/run`, or a `Path` made of one."""
    return _ADDRESS.match(os.fspath(path)) is not None


def local(path: str | os.PathLike, what: str = "the path") -> Path:
    """The path with `~` expanded.

    Args:
      path: as it was given.
      what: it is of, for messages, such as "the run directory".

    Raises:
      ValueError: for an empty path, an address, and a `~` of a user without a home.
    """
    text = os.fspath(path)
    if not text.strip():
        raise ValueError(f"{what} is an empty path; name one, for example runs/first")
    if "\0" in text:
        raise ValueError(f"{what} {text!r} holds a zero byte, which no path does")
    if is_address(text):
        kind, _, rest = text.partition(":/")
        raise ValueError(
            f"{what} {kind}://{rest.lstrip('/')} is an URL, and only local paths can be read and written; mount the "
            "bucket (for example with gcsfuse), or download the files, and give the path where they are then"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{what} {text} begins with ~, and this user has no home directory; write it out") from error
