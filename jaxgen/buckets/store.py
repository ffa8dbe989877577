"""The objects below an address: listed, read, written and deleted, by names like those of files in a directory."""

import concurrent.futures
import contextlib
import json
import logging
import os
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

DRIVERS = {"gs": "gcsfs", "s3": "s3fs", "memory": "fsspec"}
"""Kinds of addresses, and the package that talks to each. `memory` is of one process, for tests."""

SECONDS_TO_ANSWER = 20.0

_CREDENTIALS = {
    "gs": "sign in by `gcloud auth application-default login`, or name a key file in GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}
_Result = TypeVar("_Result")


class Store:
    """What lies below an address such as `s3://bucket/runs/first`; it is asked for at once.

    Raises:
      ValueError: without the driver; says how to install it.
      OSError: if the bucket does not answer within some seconds, or refuses; says what to do.
    """

    def __init__(self, address: str) -> None:
        self.kind, _, rest = address.partition("://")
        self.address = f"{self.kind}://{rest.strip('/')}"
        self._root = rest.strip("/")
        driver = DRIVERS[self.kind]
        try:
            self._files = _answered(self._opened, self.address)
        except ImportError as error:
            raise ValueError(
                f"{self.address} is an URL, and only local paths can be read and written without {driver}, the driver "
                "for this kind of bucket: pip install 'jaxgen[buckets]', or mount the bucket"
            ) from error

    def _opened(self) -> Any:
        import fsspec

        logging.getLogger("gcsfs").setLevel(logging.ERROR)  # it warns of what it tries first
        cached = {} if self.kind == "memory" else {"use_listings_cache": False, "skip_instance_cache": True}
        with self._told("open"):
            files = fsspec.filesystem(self.kind, **cached)
            with contextlib.suppress(FileNotFoundError):
                files.find(self._root)
            return files

    def sizes(self, below: str = "") -> dict[str, int]:
        """Name -> bytes of all objects, or of those whose names begin with `below/`."""
        root = f"{self._root}/{below}".rstrip("/")
        with self._told("list"):
            try:
                found = self._files.find(root, detail=True)
            except FileNotFoundError:
                if "/" not in self._root:
                    raise
                return {}
        start = len(self._root) + 1
        return {path.lstrip("/")[start:]: int(entry["size"]) for path, entry in found.items()}

    def read(self, name: str) -> bytes:
        """The content of an object; a FileNotFoundError where there is none."""
        with self._told(f"read {name} of"):
            return self._files.cat_file(self._path(name))

    def write(self, name: str, content: bytes) -> None:
        """Replaces an object as a whole."""
        with self._told(f"write {name} to"):
            self._files.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Writes an object unless there is one of that name; whether it was written. The bucket decides, at once."""
        try:
            self._files.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        except Exception as error:
            if any(sign in f"{type(error).__name__} {error}" for sign in ("PreconditionFailed", "412", "condition")):
                return False
            raise _explained(error, self.address, f"write {name} to") from error
        return True

    def upload(self, directory: Path, names: Sequence[str]) -> None:
        """Copies files of a directory to objects of the same names; a FileNotFoundError where one is gone."""
        if names:
            for name in names:
                os.stat(directory / name)
            with self._told("copy files to"):
                self._files.put([str(directory / name) for name in names], [self._path(name) for name in names])

    def download(self, directory: Path, names: Sequence[str]) -> None:
        """Copies objects to files of the same names below a directory."""
        for parent in {(directory / name).parent for name in names}:
            parent.mkdir(parents=True, exist_ok=True)
        if names:
            with self._told("copy files from"):
                self._files.get([self._path(name) for name in names], [str(directory / name) for name in names])

    def delete(self, names: Sequence[str]) -> None:
        """Deletes objects; those that are gone do not matter."""
        if names:
            with self._told("delete files of"), contextlib.suppress(FileNotFoundError):
                self._files.rm([self._path(name) for name in names])

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _told(self, action: str) -> Iterator[None]:
        try:
            yield
        except ImportError:
            raise
        except (FileNotFoundError, FileExistsError) as error:
            raise type(error)(None, f"could not {action} {self.address}: {error}") from error
        except Exception as error:
            raise _explained(error, self.address, action) from error


def _answered(function: Callable[[], _Result], address: str) -> _Result:
    """The result of a function that asks the bucket; drivers may try for minutes where nobody answers."""
    answer: concurrent.futures.Future[_Result] = concurrent.futures.Future()

    def ask() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(SECONDS_TO_ANSWER)
    except concurrent.futures.TimeoutError:
        raise OSError(
            None,
            f"could not open {address}: nobody answers within {SECONDS_TO_ANSWER:g} seconds; is there a network, and "
            f"are there credentials? To give some, {_CREDENTIALS.get(address.partition('://')[0], 'see its driver')}",
        ) from None


def _explained(error: Exception, address: str, action: str) -> OSError:
    """An OSError with the address and what to do."""
    kind = address.partition("://")[0]
    text = textwrap.shorten(" ".join(f"{type(error).__name__}: {error}".split()), 300, placeholder=" ...")
    signs = ("credential", "token", "401", "403", "denied", "forbidden", "unauthorized", "signature", "anonymous")
    if isinstance(error, PermissionError) or any(sign in text.lower() for sign in signs):
        advice = f"this user may not; {_CREDENTIALS.get(kind, 'give credentials')}"
    elif isinstance(error, FileNotFoundError) or "nosuchbucket" in text.lower():
        advice = "is there such a bucket? Training makes none"
    else:
        advice = "look at the network and the address, then run the same command again"
    return OSError(None, f"could not {action} {address} ({text}): {advice}")


def to_json(record: Any) -> bytes:
    """A small record as an object holds it."""
    return (json.dumps(record, indent=2) + "\n").encode()
