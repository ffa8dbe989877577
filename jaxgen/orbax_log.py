"""What Orbax logs and is not worth a reader's time: steps of its work, and tracebacks of errors that it raises as well.

Nothing of other users of the same loggers is dropped.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable

_ORBAX = f"{os.sep}orbax{os.sep}"


def quieten() -> None:
    """Drops what Orbax logs below ERROR, and errors that reach whoever saves or restores as exceptions.

    Of several arrays that cannot be written (a full disk) one error is raised; asyncio tells of the others where they
    are forgotten.
    """
    for name, keep in (("absl", _keep_of_absl), ("asyncio", _keep_of_asyncio)):
        logger = logging.getLogger(name)
        if keep not in logger.filters:
            logger.addFilter(keep)
    if not hasattr(sys.unraisablehook, "of_orbax_log"):
        sys.unraisablehook = _without_late_writes(sys.unraisablehook)


def _keep_of_absl(log: logging.LogRecord) -> bool:
    return _ORBAX not in log.pathname or (log.levelno >= logging.ERROR and not log.exc_info)


def _keep_of_asyncio(log: logging.LogRecord) -> bool:
    error = log.exc_info[1] if isinstance(log.exc_info, tuple) else None
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    return not any(_ORBAX in frame.filename for frame in frames) and _ORBAX not in str(log.msg)


def _without_late_writes(shown: Callable) -> Callable:
    """The hook for errors that nobody can catch, without those of arrays written on after one failed.

    Orbax has closed its event loop by then, to which TensorStore's threads report. Nothing of ours or a user's ends so:
    such an error begins in asyncio itself.
    """

    def hook(unraisable) -> None:
        trace, error = unraisable.exc_traceback, unraisable.exc_value
        begins = trace is not None and trace.tb_frame.f_code.co_name == "call_soon_threadsafe"
        if not (begins and isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            shown(unraisable)

    hook.of_orbax_log = True  # type: ignore[attr-defined]
    return hook
