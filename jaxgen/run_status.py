"""What a run tells of itself while it goes on and when it ends: RUN/status.json and the report."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxgen import report, run_directory

SECONDS_BETWEEN_REPORTS = 60.0


def recorder(directory: Path, primary: bool) -> Callable:
    """`(status, step, message="")`: writes RUN/status.json, and the report now and then and at the end.

    Its `last` is the last status and step, or None.
    """
    last_report = time.monotonic()

    def record_status(status: str, step: int, message: str = "") -> None:
        nonlocal last_report
        record_status.last = (status, step)
        run_directory.write_status(directory, status, step=step, message=message, is_primary=primary)
        if primary and (status != "running" or time.monotonic() - last_report > SECONDS_BETWEEN_REPORTS):
            try:
                report.write(directory)
            except Exception as error:  # a picture of the run is never worth the run
                warnings.warn(f"the report could not be written: {error}", stacklevel=2)
            last_report = time.monotonic()

    record_status.last = None
    return record_status


@contextlib.contextmanager
def failures_told(record_status: Callable) -> Iterator[None]:
    """Records that a run which was going failed, and why; where not even that can be written, nothing."""
    try:
        yield
    except BaseException as error:
        if record_status.last is not None and record_status.last[0] == "running":
            message = str(error) or f"it was ended at once ({type(error).__name__})"
            with contextlib.suppress(OSError):
                record_status("failed", record_status.last[1], message)
        raise
