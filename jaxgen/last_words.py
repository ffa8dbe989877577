"""A sentence before JAX ends a process of several hosts by an abort, which alone leaves a stack trace of C++.

JAX aborts where another host is lost, from a thread that Python does not know. Its callback for this moment is no help:
called from Python it ends the process, too (jaxlib 0.10.2). So the abort is held up: the handler of SIGABRT is libc's
own `sleep`, which gets the signal's number for an argument, takes no lock and returns after six seconds, when the abort
goes on. Before it `faulthandler` writes into a pipe, and a thread that waits there has these seconds to speak. A thread
that aborts with Python's lock in its hands (Python itself, not JAX) keeps it from speaking, and dies as ever.
"""

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time

SECONDS_FOR_OTHERS = 1.0  # the main thread may learn of it as well, in better words

_lock = threading.Lock()
_is_said = False
_pipe: tuple[int, int] | None = None


def prepare(sentence: str, code: int = 2) -> None:
    """From now on an abort prints a sentence and ends the process with this exit code.

    Where that cannot be had (a machine without such a libc, a process that uses `faulthandler` for itself) an abort
    stays what it is. A second call does nothing.

    Args:
      sentence: for stderr.
      code: the exit code.
    """
    global _pipe
    if _pipe is not None or faulthandler.is_enabled():
        return
    try:
        libc = ctypes.CDLL(None)
        libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
        libc.signal(int(signal.SIGABRT), ctypes.cast(libc.sleep, ctypes.c_void_p))
    except (OSError, AttributeError, TypeError):
        return
    _pipe = os.pipe()
    faulthandler.enable(file=_pipe[1], all_threads=False)
    os.register_at_fork(after_in_child=faulthandler.disable)  # a child's end is not this one's
    threading.Thread(target=_wait, args=(_pipe[0], sentence, code), name="last words", daemon=True).start()


def said() -> bool:
    """Notes that this process says now why it ends, which is said once.

    Returns:
      Whether it had been said before; never where no abort is prepared for.
    """
    global _is_said
    with _lock:
        before, _is_said = _is_said, _pipe is not None
    return before


def _wait(pipe: int, sentence: str, code: int) -> None:
    text = b""
    while b"Aborted" not in text:
        text += (more := os.read(pipe, 4096))
        if not more:
            return
    time.sleep(SECONDS_FOR_OTHERS)
    if said():
        time.sleep(SECONDS_FOR_OTHERS)  # it is being said at this moment, perhaps
    else:
        os.write(2, f"{sentence}\n".encode())
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(code)
