"""The metrics log of a run: RUN/metrics.jsonl, one flat JSON object a line, and TensorBoard's events.

The log is only appended to; a kill in the middle of a write costs its last line. Numbers that are not finite are
strings there, see `files`; the reader returns floats.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen import files
from jaxgen.run_directory import METRICS, RunDirectoryError


class MetricsWriter:
    """Appends numbers to RUN/metrics.jsonl and to TensorBoard; made by `open_metrics`, closed by `close` or `with`.

    Every call hands its bytes to the operating system before it returns. TensorBoard events are written here and now
    and not from tensorboardX's queue, whose `flush` leaves events behind and whose `put` blocks for ever once a full
    disk has ended its thread.
    """

    def __init__(self, descriptor: int | None, path: Path, events: Any) -> None:
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
        record = {"step": int(step), "time": round(now, 3), **files.encoded(values)}
        line = (json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n").encode()
        with files.explained(self._path, "append to"):
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

    def write_image(self, step: int, name: str, image: Any) -> None:
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

        with files.explained(self._path.parent, "write TensorBoard events to"):
            self._events.write_event(Event(wall_time=now, step=int(step), summary=summary))
            self._events.flush()

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        descriptor, events, self._descriptor, self._events = self._descriptor, self._events, None, None
        if descriptor is not None:
            os.close(descriptor)
        if events is not None:
            with files.explained(self._path.parent, "write TensorBoard events to"):
                events.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
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
        with files.explained(file, "read"):
            data = file.read_bytes()
    records = _parsed(data, file)
    if resume_step is not None:
        records = [(line, record) for line, record in records if 0 < resume_step and record["step"] <= resume_step]
    kept = b"".join(line + b"\n" for line, _ in records)
    if kept != data:
        files.write_atomically(file, kept)
    events = None
    if tensorboard:
        with files.explained(file.parent, "write TensorBoard events to"):
            events = _open_events(file.parent, resume_step)
    try:
        with files.explained(file, "open"):
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
    """The whole lines of a log with what they hold; a damaged last line is left out, other damage is an error."""
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip(b"\0 \t\r")]
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
    if damaged is not None and damaged != lines[-1][0]:  # a kill cuts one line, and a power cut leaves zeros
        raise RunDirectoryError(
            f"{file} is damaged from line {damaged} on; restore it from a copy, or delete these lines to go on"
        )
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
    with files.explained(file, "read"):
        data = file.read_bytes()
    return [files.decoded(record) for _, record in _parsed(data, file)]
