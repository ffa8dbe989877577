"""The resident memory of this process, in bytes. Linux tells it; elsewhere it is None."""

import contextlib
import ctypes
import gc
import pathlib
from collections.abc import Callable
from typing import Any


def resident() -> int | None:
    """Now."""
    return _status("VmRSS")


def peak_during(work: Callable[[], Any]) -> int | None:
    """At most while `work()` runs. Memory that is free already is given back to the system before."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except OSError:
        work()
        return None
    work()
    return _status("VmHWM")


def _status(name):
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return None
