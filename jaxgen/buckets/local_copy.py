"""Local copies of runs in buckets: for a training, which mirrors what it writes, and for programs that read."""

import contextlib
import functools
import hashlib
import inspect
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from jaxgen import hosts
from jaxgen.buckets import mirror
from jaxgen.buckets.lock import BucketLocked, Lock
from jaxgen.buckets.store import DRIVERS, Store

_addresses: dict[str, str] = {}  # local copy that is in use -> address
_Function = TypeVar("_Function", bound=Callable[..., Any])


def is_bucket(path: str | os.PathLike) -> bool:
    """Whether a path is the address of a directory in a bucket, such as `gs://bucket/run`.

    >>> is_bucket("s3://bucket/run"), is_bucket("runs/first"), is_bucket("http://x/y")
    (True, False, False)
    """
    kind, separator, rest = os.fspath(path).partition("://")
    return isinstance(path, str) and bool(separator) and kind in DRIVERS and bool(rest.strip("/"))


def shown(path: str | os.PathLike) -> str:
    """The address that a path is a copy of, or the path."""
    text = os.fspath(path)
    for local, address in _addresses.items():
        if text == local or text.startswith(local + os.sep):
            return address + text[len(local) :].replace(os.sep, "/")
    return text


def each_host_for_itself(path: str | os.PathLike) -> bool:
    """Whether a directory is a copy of a bucket: then each of several hosts has one of its own."""
    return shown(path) != os.fspath(path)


@contextlib.contextmanager
def training(address: str) -> Iterator[Path]:
    """A local copy of a run to train in, mirrored to its bucket until the block ends; other trainings are kept out.

    Of several hosts the first one mirrors, and each has a copy of its own, in which each keeps checkpoints.

    Args:
      address: of the run, which need not be there yet.

    Yields:
      The directory.

    Raises:
      BucketLocked: if another process trains there, or has taken over meanwhile.
      ValueError: without the driver.
      OSError: if the bucket cannot be read or written, with what to do; at the end with where the copy lies.
    """
    from jaxgen.command_line import cache_directory
    from jaxgen.loop.hosts import on_all_hosts

    primary, copying = hosts.index() == 0, None
    with on_all_hosts():
        store = Store(address)
    lock = Lock(store)
    digest = hashlib.sha256(store.address.encode()).hexdigest()[:16]
    directory = cache_directory() / "buckets" / f"{digest}-{hosts.index()}" / store.address.rpartition("/")[2]
    with on_all_hosts():
        if primary:
            lock.take()
    with on_all_hosts():  # now nobody else uses these
        shutil.rmtree(directory.parent, ignore_errors=True)
        directory.mkdir(parents=True)
        mirror.pull_files(store, directory)
        mirror.pull_steps(store, directory)
    _addresses[str(directory)] = store.address
    try:
        if primary:
            copying = mirror.Copying(store, directory, lock, lambda: os.kill(os.getpid(), signal.SIGTERM))
            copying.start()
        try:
            with _naming(directory, store.address):
                yield directory
        finally:
            if copying is not None:
                _finish(copying, store, directory)
    finally:
        del _addresses[str(directory)]
    shutil.rmtree(directory.parent, ignore_errors=True)
    if copying is not None and copying.is_lost:
        raise BucketLocked(
            f"another process has taken over {store.address}, since this one could not renew its lock there; what it "
            "did since then was not kept"
        )


def _finish(copying: mirror.Copying, store: Store, directory: Path) -> None:
    try:
        copying.finish()
    except OSError as error:
        raise OSError(
            None,
            f"{error.strerror or error}. What was trained since the last copy lies in {directory} until the next start "
            f"of this run on this machine: copy it to {store.address} by hand before",
        ) from error


@contextlib.contextmanager
def reading(address: str, *, step: int | None = None, newest_only: bool = False) -> Iterator[Path]:
    """A copy of a run to read, which is removed at the end of the block; what was written there is copied back.

    Args:
      address: of the run.
      step: the only checkpoint to copy, if it is there; all by default.
      newest_only: whether to copy none but the newest checkpoint.

    Raises:
      FileNotFoundError: where there is no run.
      ValueError, OSError: as `training`.
    """
    store = Store(address)
    with tempfile.TemporaryDirectory(prefix="jaxgen-") as place:
        directory = Path(place) / store.address.rpartition("/")[2]
        directory.mkdir()
        mirror.pull_files(store, directory)
        if not any(directory.iterdir()):
            raise FileNotFoundError(None, f"{store.address} is no run: there is nothing in the bucket below this name")
        for _ in range(3):  # a training beside may delete what is copied, once there is a newer one
            steps = mirror.complete_steps(store.sizes(mirror.CHECKPOINTS))
            wanted = [step] if step is not None else steps[-1:] if newest_only else steps
            if not wanted or mirror.pull_steps(store, directory, wanted):
                break
        before = mirror.Mirror(store, directory)
        _addresses[str(directory)] = store.address
        try:
            with _naming(directory, store.address):
                yield directory
            if hosts.index() == 0:
                for name in before.push_files():
                    print(f"copied to {store.address}/{name}", file=sys.stderr)
        finally:
            del _addresses[str(directory)]


@contextlib.contextmanager
def _naming(directory: Path, address: str) -> Iterator[None]:
    """Errors name the bucket, and not the copy."""

    def renamed(value: Any) -> Any:
        return value.replace(str(directory), address) if isinstance(value, str) else value

    try:
        yield
    except Exception as error:
        error.args = tuple(map(renamed, error.args))
        if isinstance(error, OSError):
            error.strerror = renamed(error.strerror)
        raise


def in_local_copy(train: _Function) -> _Function:
    """The function, whose argument `directory` may be the address of a bucket: then it trains in a copy."""
    signature = inspect.signature(train)

    @functools.wraps(train)
    def trained(*arguments: Any, **options: Any) -> Any:
        try:
            given = signature.bind(*arguments, **options)
        except TypeError:  # which the function words itself
            return train(*arguments, **options)
        directory = given.arguments.get("directory")
        if not isinstance(directory, str) or not is_bucket(directory):
            return train(*arguments, **options)
        if hosts.count() > 1:
            from jaxgen.loop import agreement

            agreement.check({agreement.SAME_COMMAND: {"--directory": directory}})
        with training(directory) as local:
            given.arguments["directory"] = str(local)
            return train(*given.args, **given.kwargs)

    return trained  # type: ignore[return-value]


__all__ = ["BucketLocked", "each_host_for_itself", "in_local_copy", "is_bucket", "reading", "shown", "training"]
