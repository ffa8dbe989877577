"""The lock of a run directory, so that two processes do not train into one run."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxgen import files, run_directory


class RunLocked(run_directory.RunDirectoryError):
    """A run directory in which another process is training."""


@contextlib.contextmanager
def hold(
    path: str | os.PathLike,
    config: Mapping | None,
    *,
    may_change: Sequence[str] = (),
    upgrade: Callable[[Mapping], Mapping] = dict,
    is_primary: bool = True,
) -> Iterator[Path]:
    """Makes or resumes a run directory and holds its lock inside a `with` block: `create` under `lock`.

    The lock comes first, so that a second process is refused before it has changed a setting of the first.

    Args:
      path, config, may_change, upgrade, is_primary: as for `create`. Without a config the directory must be there, and
        only the lock is taken.

    Yields:
      The directory.

    Raises:
      RunLocked: if another process holds it; nothing was changed there.
      ConfigMismatch, RunDirectoryError, OSError: as `create`.
    """
    path = run_directory.checked_path(path)
    if is_primary and config is not None:
        run_directory.prepare(path)  # a lock file needs a directory, and has no place in one that is no run
    with lock(path, is_primary=is_primary):
        if config is not None:
            run_directory.create(path, config, may_change=may_change, upgrade=upgrade, is_primary=is_primary)
        yield path


@contextlib.contextmanager
def lock(path: str | os.PathLike, *, is_primary: bool = True) -> Iterator[None]:
    """Holds RUN/.lock inside a `with` block, so that two processes do not train into one run.

    The operating system drops the lock when the process ends, `kill -9` included: there is no stale lock to remove.
    Where the file system has no locks (some network mounts, buckets) or the system has no `flock`, it warns and goes on
    without one.

    Args:
      path: the run directory, which exists.
      is_primary: False: does nothing (the other hosts).

    Raises:
      RunLocked: if another process holds it; names the process.
      OSError: with the path and what to do, if the lock file cannot be made.
    """
    if not is_primary:
        yield
        return
    file = Path(path) / run_directory.LOCK
    with files.explained(file, "open"):
        # Python's descriptors are closed in child programs, so a TensorBoard started from here does not keep the lock.
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(descriptor, file)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, file: Path) -> None:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        me = holder.startswith(f"process {os.getpid()} on {platform.node()} ")
        raise RunLocked(
            f"{file.parent} is in use: {'this very process' if me else holder or 'another process'} trains there; wait "
            "until it ends, stop it, or choose another --directory"
        ) from error
    except (ImportError, OSError) as error:
        warnings.warn(
            f"could not lock {file} ({error}); training goes on without a lock, so take care that no other process "
            "trains into this directory",
            stacklevel=4,
        )
    started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    note = f"process {os.getpid()} on {platform.node()} since {started}\n".encode()
    with contextlib.suppress(OSError):  # the note only serves the message
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, note, 0)
