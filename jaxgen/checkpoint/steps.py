"""The directory of checkpoints: one directory for each finished step."""

import os
import tempfile
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxgen import buckets, files, orbax_log
from jaxgen.local_path import local

if TYPE_CHECKING:  # orbax costs 0.3 s to import: inside the functions, it is paid by those who save and restore
    import orbax.checkpoint as ocp
    from etils import epath


def all_steps(source: "ocp.CheckpointManager | str | os.PathLike") -> list[int]:
    """The finished steps of a manager or directory, in increasing order; empty when there is no such directory."""
    import orbax.checkpoint as ocp

    orbax_log.quieten()
    directory = directory_of(source)
    with files.explained(directory, "read"):
        if not directory.is_dir():
            return []
        found = ocp.step.standard_name_format().find_all(directory)
        return sorted(step.step for step in found if step.path.is_dir())


def latest_step(source: "ocp.CheckpointManager | str | os.PathLike") -> int | None:
    """The newest finished step of a manager or directory, None when there is none."""
    return max(all_steps(source), default=None)


def directory_of(source: "ocp.CheckpointManager | str | os.PathLike") -> "epath.Path":
    """A manager's directory, an absolute path (Orbax insists), or a bucket's address as it is."""
    from etils import epath  # comes with orbax

    if not isinstance(source, str | os.PathLike):
        return source.directory
    if "://" in os.fspath(source):
        return epath.Path(source)
    return epath.Path(os.path.abspath(local(source, "the directory of checkpoints")))


def check_writable(path: "epath.Path") -> None:
    """Makes the directory, and raises an OSError with the path and what to do if no file can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if "://" not in os.fspath(path):
            with tempfile.TemporaryFile(dir=path):  # asks the file system itself: read-only mounts fool os.access
                pass
    except OSError as error:
        kind = NotADirectoryError if isinstance(error, FileExistsError) else type(error)
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise kind(
            error.errno,
            f"checkpoints cannot be written to {path}: {reason}. Choose a directory that can be created and written",
        ) from error


def move_aside(manager: "ocp.CheckpointManager", steps: list[int]) -> None:
    """Rename damaged steps so that their numbers are free again; nothing is deleted."""
    if jax.process_index() == 0 or buckets.each_host_for_itself(manager.directory):
        for step in steps:
            path = manager.directory / str(step)
            number = 1
            while (path.parent / f"{step}.damaged-{number}").exists():
                number += 1
            path.rename(path.parent / f"{step}.damaged-{number}")
    worst_of_all_processes(0)  # a barrier: no process lists the steps before they are renamed
    manager.reload()


def largest_of_all_processes(numbers: np.ndarray) -> np.ndarray:
    """Of each of some numbers the largest that a process gives. All must call it."""
    from jax.experimental import multihost_utils

    return np.max(multihost_utils.process_allgather(numbers), axis=0)


def worst_of_all_processes(status: int) -> int:
    """The largest status over all processes, at the price of one small collective when there are several."""
    if jax.process_count() == 1:
        return status
    return int(largest_of_all_processes(np.asarray(status, np.int32)))
