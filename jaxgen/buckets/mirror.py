"""What is copied between a run on the local disk and its bucket, and in which order."""

import contextlib
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from jaxgen.buckets.lock import NAME as LOCK
from jaxgen.buckets.lock import SECONDS_BETWEEN_SIGNS, Lock
from jaxgen.buckets.store import Store

CHECKPOINTS = "checkpoints"
LAST = "_CHECKPOINT_METADATA"
"""The file of a checkpoint that Orbax writes last: copied last and deleted first, it says that the others are there."""

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_SMALL_FILES = 10.0
SECONDS_TO_TRY = 60.0  # at the end, when what is not copied is lost with the machine


# From the bucket ----------------------------------------------------------------------------------------------------


def complete_steps(names: Iterable[str]) -> list[int]:
    """The steps of whole checkpoints among the names of objects, in increasing order."""
    parts = [name.split("/") for name in names]
    return sorted(int(p[1]) for p in parts if len(p) == 3 and p[0] == CHECKPOINTS and p[2] == LAST and p[1].isdecimal())


def pull_files(store: Store, directory: Path) -> None:
    """Copies all but checkpoints."""
    names = [name for name in store.sizes() if not name.startswith(f"{CHECKPOINTS}/") and _is_ours(name)]
    store.download(directory, names)


def pull_steps(store: Store, directory: Path, steps: Iterable[int] | None = None) -> list[int]:
    """Copies whole checkpoints, all or some; returns those that were there, in increasing order.

    One that is deleted meanwhile, by a training that keeps few, is left out.
    """
    names = store.sizes(CHECKPOINTS)
    there = [step for step in complete_steps(names) if steps is None or step in set(steps)]
    copied, part = [], directory / ".copying.tmp"
    for step in there:
        (directory / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        place = f"{CHECKPOINTS}/{step}"
        with contextlib.suppress(FileNotFoundError):
            store.download(part, [name for name in names if name.startswith(f"{place}/")])
            os.replace(part / place, directory / place)
            copied.append(step)
        shutil.rmtree(part, ignore_errors=True)
    return copied


def _is_ours(name: str) -> bool:
    """Whether a file is worth copying: no lock, and nothing unfinished."""
    last = name.rpartition("/")[2]
    return last not in (LOCK, ".lock") and not (last.startswith(".") and last.endswith(".tmp"))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a disk without links
        shutil.copyfile(source, target)


# To the bucket ------------------------------------------------------------------------------------------------------


class Mirror:
    """Copies to the bucket what has changed in a directory since it was last looked at.

    Args:
      store: the bucket.
      directory: holds what is in the bucket already.
    """

    def __init__(self, store: Store, directory: Path) -> None:
        self._store, self._directory = store, directory
        self._files = self._small_files()
        self._steps = self._finished_steps()

    def push(self) -> list[str]:
        """Copies what is new: small files first, so that the log is never behind a checkpoint. Returns their names."""
        finished = self._finished_steps()  # before the files: what is copied next tells of these steps already
        pushed = self.push_files()
        for step, made in sorted(finished.items()):
            if self._steps.get(step) != made:
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, as one of few that are kept
                    self._push_step(step)
                    self._steps[step] = made
        for step in sorted(self._steps.keys() - self._finished_steps().keys()):
            if step != max(self._steps):  # always one is left, however fast they come and go
                self._delete_step(step)
                del self._steps[step]
        return pushed

    def has_new_steps(self) -> bool:
        """Whether checkpoints were finished or deleted since they were copied."""
        finished = self._finished_steps()
        return any(self._steps.get(step) != made for step, made in finished.items()) or len(self._steps) > len(finished)

    def push_files(self) -> list[str]:
        """Copies what is new but checkpoints, and returns the names."""
        now = self._small_files()
        changed = [name for name, stamp in now.items() if self._files.get(name) != stamp]
        for name in changed:
            with contextlib.suppress(FileNotFoundError):
                self._store.write(name, (self._directory / name).read_bytes())
                self._files[name] = now[name]
        return changed

    def delete_unfinished(self) -> None:
        """Deletes what killed copies of checkpoints have left in the bucket."""
        names = self._store.sizes(CHECKPOINTS)
        whole = {str(step) for step in complete_steps(names)}
        self._store.delete([name for name in names if name.split("/")[1] not in whole])

    def _push_step(self, step: int) -> None:
        """Copies a checkpoint, which may be deleted meanwhile: by links to its files, which outlive that."""
        place, links = f"{CHECKPOINTS}/{step}", self._directory / ".links.tmp"
        shutil.rmtree(links, ignore_errors=True)
        try:
            shutil.copytree(self._directory / place, links / place, copy_function=_link)
            names = [path.relative_to(links).as_posix() for path in links.rglob("*") if path.is_file()]
            self._delete_step(step)
            self._store.upload(links, [name for name in names if name != f"{place}/{LAST}"])
            self._store.upload(links, [f"{place}/{LAST}"])
        except shutil.Error as error:  # files that were gone already
            raise FileNotFoundError(None, str(error)) from error
        finally:
            shutil.rmtree(links, ignore_errors=True)

    def _delete_step(self, step: int) -> None:
        names = self._store.sizes(f"{CHECKPOINTS}/{step}")
        last = f"{CHECKPOINTS}/{step}/{LAST}"
        self._store.delete([last] if last in names else [])
        self._store.delete([name for name in names if name != last])

    def _finished_steps(self) -> dict[int, int]:
        """Step -> when it was finished, of the local checkpoints: Orbax gives a directory its name at the end."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._directory / CHECKPOINTS):
                if entry.name.isdecimal():
                    with contextlib.suppress(FileNotFoundError):
                        found[int(entry.name)] = os.stat(os.path.join(entry.path, LAST)).st_mtime_ns
        return found

    def _small_files(self) -> dict[str, tuple[int, int]]:
        """Name -> size and time of what is no checkpoint."""
        found = {}
        for place, folders, names in os.walk(self._directory):
            relative = os.path.relpath(place, self._directory)
            if relative == ".":
                folders[:] = [name for name in folders if name != CHECKPOINTS and _is_ours(name)]
            for name in names:
                path = os.path.normpath(os.path.join(relative, name)).replace(os.sep, "/")
                if _is_ours(path):
                    with contextlib.suppress(FileNotFoundError):
                        stat = os.stat(os.path.join(place, name))
                        found[path] = (stat.st_size, stat.st_mtime_ns)
        return found


class Copying:
    """A thread that mirrors a directory and renews its lock, from `start` to `finish`.

    A bucket that does not answer for a while is told of and tried again: the training goes on.

    Attributes:
      is_lost: whether another process has taken the lock, so that nothing more is copied.
    """

    def __init__(self, store: Store, directory: Path, lock: Lock, when_lost: Callable[[], None]) -> None:
        self.is_lost = False
        self._store, self._lock, self._when_lost = store, lock, when_lost
        self._mirror = Mirror(store, directory)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True, name="bucket")

    def start(self) -> None:
        """Begins to copy."""
        self._mirror.delete_unfinished()
        self._thread.start()

    def _go_on(self) -> None:
        threading.Thread(target=self._give_signs, daemon=True, name="bucket lock").start()
        copied, failing = time.monotonic(), False
        while not self._ended.wait(SECONDS_BETWEEN_LOOKS):
            if self.is_lost:
                return
            try:
                if self._mirror.has_new_steps():
                    self._mirror.push()
                elif time.monotonic() - copied > SECONDS_BETWEEN_SMALL_FILES:
                    self._mirror.push_files()
                    copied = time.monotonic()
                failing = False
            except OSError as error:
                if not failing:
                    warnings.warn(
                        f"{error.strerror or error}; it is tried again while the training goes on", stacklevel=2
                    )
                failing = True

    def _give_signs(self) -> None:
        """Apart from the copying: a large checkpoint takes longer than the lock lives without a sign."""
        while not self._ended.wait(SECONDS_BETWEEN_SIGNS):
            with contextlib.suppress(OSError):
                if not self._lock.renew():
                    self.is_lost = True
                    self._when_lost()
                    return

    def finish(self) -> None:
        """Copies what is left and releases the lock.

        Raises:
          OSError: if it cannot be copied within a minute.
        """
        self._ended.set()
        self._thread.join()
        if self.is_lost:
            return
        end = time.monotonic() + SECONDS_TO_TRY
        while True:
            try:
                self._mirror.push()
                self._lock.release()
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(SECONDS_BETWEEN_LOOKS)
