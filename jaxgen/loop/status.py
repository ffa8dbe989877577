"""What a run tells of itself while it goes on and when it ends: RUN/status.json and the report."""

import contextlib
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from jaxgen import report, run_directory

SECONDS_BETWEEN_REPORTS = 60.0


class Recorder:
    """`record(status, step, message="")` writes RUN/status.json, and the report now and then and at the end.

    Attributes:
      last: the last status and step, or None.
    """

    def __init__(self, directory: Path, primary: bool) -> None:
        self.last: tuple[str, int] | None = None
        self._directory, self._primary = directory, primary
        self._last_report = time.monotonic()

    def __call__(self, status: str, step: int, message: str = "") -> None:
        self.last = (status, step)
        run_directory.write_status(self._directory, status, step=step, message=message, is_primary=self._primary)
        is_due = status != "running" or time.monotonic() - self._last_report > SECONDS_BETWEEN_REPORTS
        if self._primary and is_due:
            try:
                report.write(self._directory)
            except Exception as error:  # a picture of the run is never worth the run
                warnings.warn(f"the report could not be written: {error}", stacklevel=2)
            self._last_report = time.monotonic()


@contextlib.contextmanager
def failures_told(record: Recorder) -> Iterator[None]:
    """Records that a run which was going failed, and why; where not even that can be written, nothing."""
    try:
        yield
    except BaseException as error:
        if record.last is not None and record.last[0] == "running":
            message = str(error) or f"it was ended at once ({type(error).__name__})"
            with contextlib.suppress(OSError):
                record("failed", record.last[1], message)
        raise
