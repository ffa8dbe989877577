"""The directory of one training run: its configuration, environment, metrics log and lock.

    RUN/config.json        the configuration; what a resumed run is compared with
    RUN/environment.json   versions, devices, commit and command line of the first start, and what differed on resumes
    RUN/system.json        what is trained: its name, what it can do, parameters of each network
    RUN/data.json          what it is trained on: name, number and shape of the images, classes
    RUN/real.png           some of them
    RUN/metrics.jsonl      one flat JSON object a line: {"step": 100, "time": 1700000000.0, "generator/loss": 0.69}
    RUN/events.out.*       the same numbers and the pictures for TensorBoard
    RUN/status.json        {"status": "running", "step": 100, "message": ""}
    RUN/.lock              held by the process that trains here

Every file that is rewritten is replaced as a whole (temporary file, fsync, `os.replace`), so a kill at any moment
leaves the old file or the new one. The log is only appended to; a kill in the middle of a write costs its last line.

JSON has no NaN. Wherever a number is not finite, the files hold one of the strings "NaN", "Infinity" and "-Infinity":
strict parsers accept the file, `float(text)` in Python and `Number(text)` in JavaScript give the number back, and the
readers here return floats.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import json
import math
import os
import platform
import secrets
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxgen.local_path import local

CONFIG = "config.json"
ENVIRONMENT = "environment.json"
SYSTEM = "system.json"
DATA = "data.json"
REAL = "real.png"
METRICS = "metrics.jsonl"
STATUS = "status.json"
LOCK = ".lock"
STATUSES = ("running", "finished", "stopped", "non-finite", "failed")
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_ABSENT = object()


class RunDirectoryError(ValueError):
    """A run directory that cannot be used as asked; the message names the path and says what to do."""


class ConfigMismatch(RunDirectoryError):
    """A run directory that was started with other settings; the message lists each difference."""


class RunLocked(RunDirectoryError):
    """A run directory in which another process is training."""


# Files ---------------------------------------------------------------------------------------------------------------


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
            errno.EEXIST: "something that is not a directory lies there: choose another directory",
        }.get(error.errno, error.strerror or str(error))
        raise OSError(error.errno, f"could not {action} {path}: {remedy}") from error


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Replaces a file as a whole: a temporary file beside it, fsync, then `os.replace`.

    Args:
      path: the file; its directory exists.
      data: the new content.

    Raises:
      OSError: with the path and what to do; the old file is then untouched and nothing is left behind.
    """
    path = Path(path)
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


def _encoded(value):
    """The value as strict JSON holds it: tuples to lists, array scalars to numbers, non-finite numbers to strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _encoded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encoded(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars
        return _encoded(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _decoded(value):
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def _json_bytes(value) -> bytes:
    return (json.dumps(_encoded(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def read_json(path: Path, remedy: str) -> dict:
    """Reads one of the JSON files of a run.

    Args:
      path: the file.
      remedy: the end of the error message: what to do about a damaged file.

    Returns:
      The object, with floats for "NaN", "Infinity" and "-Infinity".

    Raises:
      RunDirectoryError: if the file is empty, damaged or holds no object.
      OSError: with the path and what to do, if it cannot be read.
    """
    with explained(path, "read"):
        data = path.read_bytes()
    try:
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not an object")
    except ValueError as error:
        what = "is empty" if not data.strip(b"\0 \n") else f"is damaged ({error})"
        raise RunDirectoryError(f"{path} {what}; {remedy}") from error
    return _decoded(value)


def flatten(config: Mapping, prefix: str = "") -> dict[str, object]:
    """Nested dicts, and lists that hold dicts, as one dict with dotted names: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, name + "."))
        else:
            flat[name] = value
    return flat


# A run and its configuration -----------------------------------------------------------------------------------------


def _checked(path: str | os.PathLike) -> Path:
    try:
        return local(path, "the run directory")
    except ValueError as error:
        raise RunDirectoryError(str(error)) from None


def create(
    path: str | os.PathLike,
    config: Mapping,
    *,
    may_change: Sequence[str] = (),
    upgrade: Callable[[Mapping], Mapping] = dict,
    is_primary: bool = True,
) -> Path:
    """Makes a run directory, or checks that an existing one was started with the same configuration.

    Never deletes anything. A new or empty directory gets config.json and environment.json. If config.json is there, it
    must equal `config` in every setting that `may_change` does not name; config.json then takes the new values, and
    environment.json notes what differs from the first start (a newer JAX, another number of devices).

    Args:
      path: the directory; parents are made, `~` is expanded.
      config: the configuration: nested dicts of strings, numbers, booleans, None, lists and tuples.
      may_change: dotted names of settings that a resumed run may change, for example ("num_steps",); a name covers
        everything below it ("evaluation" covers "evaluation.every").
      upgrade: what a stored configuration of an older version means today.
      is_primary: False on every host but the first: returns the path and touches nothing. On the primary host the
        devices are looked up, so `jax.distributed.initialize` comes first.

    Returns:
      The directory.

    Raises:
      ConfigMismatch: if the settings differ; lists every difference as `name: 1 there, 2 asked`.
      RunDirectoryError: if the path is a file, or a directory that holds other things, or its config.json is damaged.
      OSError: with the path and what to do, if it cannot be written.
    """
    path = _checked(path)
    if is_primary:
        if _prepare(path):
            _compare_and_update(path, config, may_change, upgrade)
        else:
            write_atomically(path / CONFIG, _json_bytes(config))
        _record_environment(path)
    return path


def _prepare(path: Path) -> bool:
    """Makes the directory unless it is there; refuses what is no run. Returns whether it holds a configuration."""
    with explained(path, "make the run directory"):
        if path.exists() and not path.is_dir():
            raise RunDirectoryError(f"{path} is a file, not a directory; choose another --directory")
        path.mkdir(parents=True, exist_ok=True)
    with explained(path, "read the run directory"):
        content = sorted(entry.name for entry in path.iterdir() if not _is_ours_before_config(entry.name))
    if content and CONFIG not in content:
        shown = ", ".join(content[:5]) + (", ..." if len(content) > 5 else "")
        raise RunDirectoryError(
            f"{path} holds {shown} but no {CONFIG}, so it is not a run; choose a new or empty --directory "
            "(nothing was changed there)"
        )
    return bool(content)


def _is_ours_before_config(name: str) -> bool:
    """What a run killed before its config.json leaves, and what file managers leave everywhere."""
    return name in (LOCK, ".DS_Store") or (name.startswith(".") and name.endswith(".tmp"))


def _compare_and_update(path: Path, config: Mapping, may_change: Sequence[str], upgrade: Callable) -> None:
    stored = _encoded(upgrade(_read_config(path)))
    asked = _encoded(config)
    there, wanted = flatten(stored), flatten(asked)
    lines = []
    for name in [*there, *(name for name in wanted if name not in there)]:
        old, new = there.get(name, _ABSENT), wanted.get(name, _ABSENT)
        # 1 == True in Python, but a switch and a number are different settings.
        same = old == new and isinstance(old, bool) == isinstance(new, bool)
        if same or any(name == free or name.startswith(free + ".") for free in may_change):
            continue
        left = "not there" if old is _ABSENT else f"{_shown(old)} there"
        right = "not asked" if new is _ABSENT else f"{_shown(new)} asked"
        lines.append(f"  {name}: {left}, {right}")
    if lines:
        raise ConfigMismatch(
            f"{path} was started with other settings:\n" + "\n".join(lines) + "\n"
            f"To resume it, give the same settings. For a new run, give another --directory, or delete {path} first."
        )
    if stored != asked:
        write_atomically(path / CONFIG, _json_bytes(config))


def _shown(value) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _read_config(path: Path) -> dict:
    return read_json(path / CONFIG, "restore it from a copy, or choose another --directory")


def load_config(path: str | os.PathLike) -> dict:
    """Reads the configuration of a run.

    Args:
      path: the run directory.

    Returns:
      The configuration as it was given to `create`, with lists for tuples.

    Raises:
      RunDirectoryError: if the path is no run; says what it is instead and, where it can, which runs are near.
    """
    path = _checked(path)
    if path.is_file():
        inside = f"; did you mean the run {path.parent}?" if (path.parent / CONFIG).is_file() else ""
        raise RunDirectoryError(f"{path} is a file, not a run directory{inside}")
    if not path.is_dir():
        raise RunDirectoryError(f"{path} does not exist{_near(path.parent)}")
    if (path / CONFIG).is_file():
        return _read_config(path)
    for parent in list(path.absolute().parents)[:3]:
        if (parent / CONFIG).is_file():
            raise RunDirectoryError(f"{path} holds no {CONFIG}, so it is not a run; did you mean the run {parent}?")
    raise RunDirectoryError(f"{path} holds no {CONFIG}, so it is not a run{_near(path)}")


def is_run(path: str | os.PathLike) -> bool:
    """Whether a directory is a run's: other programs write a config.json, too, also beside pictures.

    One that cannot be read counts as a run's, whose reader then says what is wrong with it.
    """
    path = Path(path)
    if not (path / CONFIG).is_file():
        return False
    if (path / "checkpoints").is_dir():
        return True
    try:
        stored = _read_config(path)
    except (OSError, RunDirectoryError):
        return True
    return any(name in stored for name in ("images", "system", "family"))


def _near(parent: Path) -> str:
    runs = []
    with contextlib.suppress(OSError):
        runs = sorted(str(child.parent) for child in parent.glob(f"*/{CONFIG}"))
    more = f" and {len(runs) - 10} more" if len(runs) > 10 else ""
    return f"; runs in {parent}: {', '.join(runs[:10])}{more}" if runs else "; give the --directory of a training run"


def write_facts(path: str | os.PathLike, facts: Mapping) -> None:
    """Writes RUN/system.json."""
    write_atomically(Path(path) / SYSTEM, _json_bytes(facts))


def environment() -> dict[str, object]:
    """What the numbers of this process depend on: versions, devices, commit, command line, date.

    Returns:
      A flat dict of strings and numbers. Looks up the JAX devices, so it starts the backend.
    """
    from importlib import metadata

    import jax

    record: dict[str, object] = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([os.path.basename(sys.executable or "python"), *sys.argv]),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }
    for package in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"):
        try:
            record[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            record[package] = None
    devices = jax.devices()
    record.update(
        backend=devices[0].platform,
        device_kind=devices[0].device_kind,
        device_count=len(devices),
        process_count=jax.process_count(),
    )
    return record


def _commit() -> str | None:
    """The commit of this source tree, or None for an installed package, outside a repository or without git."""
    package = Path(__file__).resolve().parent

    def git(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", "-C", str(package), *arguments], capture_output=True, text=True, timeout=10)

    try:
        # A virtual environment inside somebody's repository must not report that repository's commit.
        if git("ls-files", "--error-unmatch", Path(__file__).name).returncode:
            return None
        head = git("rev-parse", "HEAD")
        if head.returncode:
            return None
        changed = git("diff", "--quiet", "HEAD", "--", ".").returncode == 1
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + (" with uncommitted changes" if changed else "")


def _record_environment(path: Path) -> None:
    now = environment()
    try:
        first = read_json(path / ENVIRONMENT, "it is written anew")
        changed = {key: value for key, value in now.items() if first.get(key, _ABSENT) != value or key == "date"}
        record = {**first, "resumed": [*first.get("resumed", []), changed]}
    except (OSError, RunDirectoryError, TypeError):  # missing or damaged: it is a note, not something to stop for
        record = now
    write_atomically(path / ENVIRONMENT, _json_bytes(record))


def write_status(
    path: str | os.PathLike, status: str, *, step: int, message: str = "", is_primary: bool = True
) -> None:
    """Writes RUN/status.json: what the run is doing or how it ended.

    Args:
      path: the run directory.
      status: "running", "finished", "stopped", "non-finite" or "failed" (by an error, which the message tells).
      step: the number of finished train steps.
      message: one sentence for people, for example which metric was not finite.
      is_primary: False: does nothing (the other hosts).

    Raises:
      ValueError: if the status is another word.
    """
    if status not in STATUSES:
        raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {status!r}")
    if is_primary:
        record = {"status": status, "step": int(step), "message": message, "time": round(time.time(), 3)}
        write_atomically(Path(path) / STATUS, _json_bytes(record))


# The lock ------------------------------------------------------------------------------------------------------------


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
    path = _checked(path)
    if is_primary and config is not None:
        _prepare(path)  # a lock file needs a directory, and has no place in one that is no run
    with lock(path, is_primary=is_primary):
        if config is not None:
            create(path, config, may_change=may_change, upgrade=upgrade, is_primary=is_primary)
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
    file = Path(path) / LOCK
    with explained(file, "open"):
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


# The metrics log -----------------------------------------------------------------------------------------------------


class MetricsWriter:
    """Appends numbers to RUN/metrics.jsonl and to TensorBoard; made by `open_metrics`, closed by `close` or `with`.

    Every call hands its bytes to the operating system before it returns. TensorBoard events are written here and now
    and not from tensorboardX's queue, whose `flush` leaves events behind and whose `put` blocks for ever once a full
    disk has ended its thread.
    """

    def __init__(self, descriptor: int | None, path: Path, events):
        self._descriptor = descriptor
        self._path = path
        self._events = events

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line.

        Args:
          step: the number of finished train steps.
          metrics: names to scalars: Python, NumPy or JAX, of any precision.

        Raises:
          ValueError: if a value is no scalar or a name is "step" or "time"; names it.
          OSError: with the path and what to do; the log then ends with the last whole line.
        """
        values = {name: _scalar(name, value) for name, value in metrics.items()}
        if self._descriptor is None:
            return
        now = time.time()
        record = {"step": int(step), "time": round(now, 3), **_encoded(values)}
        line = (json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n").encode()
        with explained(self._path, "append to"):
            end = os.lseek(self._descriptor, 0, os.SEEK_END)
            try:
                written = os.write(self._descriptor, line)
                if written < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, end)
                raise
        if self._events is not None and values:
            from tensorboardX.proto.summary_pb2 import Summary

            entries = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
            self._write_event(step, now, Summary(value=entries))

    def write_image(self, step: int, name: str, image) -> None:
        """Shows a picture in TensorBoard.

        Args:
          step: the number of finished train steps.
          name: its name there, for example "samples".
          image: uint8 [H, W, 3], as `images.grid` returns it.
        """
        if self._events is None:
            return
        from tensorboardX import summary

        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3:
            raise ValueError(f"{name}: expected a uint8 picture [H, W, 3], got {image.dtype} {image.shape}; use `grid`")
        self._write_event(step, time.time(), summary.image(name, image, dataformats="HWC"))

    def _write_event(self, step: int, now: float, summary) -> None:
        from tensorboardX.proto.event_pb2 import Event

        with explained(self._path.parent, "write TensorBoard events to"):
            self._events.write_event(Event(wall_time=now, step=int(step), summary=summary))
            self._events.flush()

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        descriptor, events, self._descriptor, self._events = self._descriptor, self._events, None, None
        if descriptor is not None:
            os.close(descriptor)
        if events is not None:
            with explained(self._path.parent, "write TensorBoard events to"):
                events.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _scalar(name: str, value) -> float:
    if name in ("step", "time"):
        raise ValueError(f"a metric cannot be called {name!r}, which is a column of the log; rename it")
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(f"metric {name!r} must be a scalar, got shape {array.shape}; average it first")
    return float(array.reshape(()))


def open_metrics(
    path: str | os.PathLike, *, resume_step: int | None = None, tensorboard: bool = True, is_primary: bool = True
) -> MetricsWriter:
    """Opens the metrics log of a run.

    A run killed after its last checkpoint has logged steps that the resumed run takes again. With `resume_step` these
    lines are dropped (the file is rewritten as a whole) and TensorBoard is told to hide its events, so no step shows
    twice. A last line that a kill cut short is dropped in any case.

    Args:
      path: the run directory, which exists.
      resume_step: the step of the state that training goes on from. Lines up to it stay. 0 starts the log anew: at
        step 0 nothing has been done. None: append to whatever is there.
      tensorboard: whether to write TensorBoard events too.
      is_primary: False: nothing is read or written, `write` only checks its values (the other hosts).

    Returns:
      The writer.

    Raises:
      RunDirectoryError: if a line before the last is damaged.
      OSError: with the path and what to do, if a file cannot be written.
    """
    file = Path(path) / METRICS
    if not is_primary:
        return MetricsWriter(None, file, None)
    data = b""
    if file.exists():
        with explained(file, "read"):
            data = file.read_bytes()
    records = _parsed(data, file)
    if resume_step is not None:
        records = [(line, record) for line, record in records if 0 < resume_step and record["step"] <= resume_step]
    kept = b"".join(line + b"\n" for line, _ in records)
    if kept != data:
        write_atomically(file, kept)
    events = None
    if tensorboard:
        with explained(file.parent, "write TensorBoard events to"):
            events = _open_events(file.parent, resume_step)
    try:
        with explained(file, "open"):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        if events is not None:
            events.close()
        raise
    return MetricsWriter(descriptor, file, events)


def _open_events(path: Path, resume_step: int | None):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    # The name that tensorboardX makes ends in whole seconds, and it truncates: a run resumed within the second would
    # erase its own events. TensorBoard reads the files in the order of their names, so the number sorts too.
    number = len(list(path.glob("events.out.tfevents.*")))
    events = EventsWriter(str(path / "events"), filename_suffix=f".{number:04d}")
    if resume_step is not None:
        # TensorBoard hides earlier files' events from the step of a session start on (its "purge step").
        purge_step = resume_step + 1 if resume_step > 0 else 0
        start = SessionLog(status=SessionLog.START)
        events.write_event(Event(wall_time=time.time(), step=purge_step, session_log=start))
    events.flush()
    return events


def _parsed(data: bytes, file: Path) -> list[tuple[bytes, dict]]:
    """The whole lines of a log with what they hold; a damaged tail is left out, damage before it is an error."""
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    records: list[tuple[bytes, dict]] = []
    damaged = None
    for number, line in lines:
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise ValueError("no object with a step")
        except ValueError:
            damaged = number if damaged is None else damaged
            continue
        if damaged is not None:
            raise RunDirectoryError(
                f"{file}, line {damaged} is damaged, with good lines after it; delete this line to go on"
            )
        records.append((line, record))
    return records


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
    """Reads the metrics log of a run.

    Args:
      path: the run directory, or the file itself.

    Returns:
      One dict a line, in the order written: `step` (int), `time` (seconds since 1970) and the metrics, with float NaN
      and infinities where the run had them. Empty if there is no log yet. A last line cut short is left out.

    Raises:
      RunDirectoryError: if a line before the last is damaged; names it.
    """
    file = Path(path)
    if file.is_dir():
        file = file / METRICS
    if not file.exists():
        return []
    with explained(file, "read"):
        data = file.read_bytes()
    return [_decoded(record) for _, record in _parsed(data, file)]
