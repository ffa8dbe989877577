"""What the commands share: errors as sentences, quiet pipes, and the compilation cache."""

import contextlib
import functools
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from jaxgen import last_words
from jaxgen.names import show


def use_compilation_cache() -> None:
    """Keeps compiled programs between processes, in $JAX_COMPILATION_CACHE_DIR or the user's cache directory.

    Call it before JAX is imported. A directory that cannot be written costs the cache, not the run.
    """
    given = os.path.expanduser(os.environ.get("JAX_COMPILATION_CACHE_DIR", "~"))  # JAX makes a directory called ~
    if given.startswith("~") or "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        given = str(cache_directory() / "compiled")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = given
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")  # by default 1, which most are below


def meet_hosts(arguments: Sequence[str]) -> None:
    """Connects this process with those on other hosts, if there are any; all must have been given the same command.

    Raises:
      ValueError: on all hosts, where they have not, or have other versions; as `hosts.initialize_hosts`.
    """
    if {"-h", "--help"}.intersection(arguments):
        return
    from jaxgen import hosts

    hosts.initialize_hosts()
    if hosts.are_connected():
        from jaxgen.loop import agreement

        command = {"the command": shlex.join(arguments)}
        agreement.check({agreement.SAME_COMMAND: command, agreement.SAME_VERSIONS: agreement.versions()})


def program(command: str) -> str:
    """How this command was called, for its usage: "train.py" as a script, else "jaxgen train"."""
    return f"{command}.py" if os.path.basename(sys.argv[0]) == f"{command}.py" else f"jaxgen {command}"


def cache_directory() -> Path:
    """Where this package keeps what can be made again, for this user."""
    given = os.path.expanduser(os.environ.get("XDG_CACHE_HOME", ""))
    home = os.path.expanduser("~")
    if os.path.isabs(given):  # the XDG standard tells to ignore others, such as a "~" of a user without a home
        return Path(given) / "jaxgen"
    return Path(home) / ".cache" / "jaxgen" if os.path.isabs(home) else _cache_without_home()


@functools.cache
def _cache_without_home() -> Path:
    """A directory of this user alone: what others could write there would be run."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    directory = Path(tempfile.gettempdir()) / f"jaxgen-{user}"
    with contextlib.suppress(OSError):
        directory.mkdir(mode=0o700)
    found = directory.lstat() if directory.is_dir() and not directory.is_symlink() else None
    mine = found is not None and (user == "user" or (found.st_uid == user and not found.st_mode & 0o022))
    return directory if mine else Path(tempfile.mkdtemp(prefix="jaxgen-"))


SECONDS_BETWEEN_LINES = 10.0


def progress(batches: Iterable, total: int, what: str) -> Iterator:
    """The same batches, with a bar on a terminal, and elsewhere a line at first and every ten seconds.

    Minutes of silence look like a program that hangs.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(batches, what, total, dynamic_ncols=True, leave=False)
        return
    print(f"{what} ...", file=sys.stderr, flush=True)
    begun = told = time.monotonic()
    for count, batch in enumerate(batches):
        now = time.monotonic()
        if count and now - told >= SECONDS_BETWEEN_LINES:
            from jaxgen.console import in_words

            left = in_words((now - begun) / count * (total - count))
            print(f"{what}: {count:,} of {total:,}, {left} left", file=sys.stderr, flush=True)
            told = now
        yield batch


def run(main: Callable[[], int | None]) -> None:
    """Ends the process with main's exit code. Errors that a user can mend are one message and code 2, no traceback."""
    warnings.formatwarning = _sentences()
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupted)
    code: int | str | None
    try:
        code = main()
    except SystemExit as end:  # --help, or wrong options
        code = end.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
        _leave_other_hosts(code, "it was interrupted")
    except BrokenPipeError:  # whoever read what we print has left, like `head`
        code = _leave_quietly()
    except (ValueError, TypeError, OSError, RuntimeError, ImportError, MemoryError) as error:
        if os.environ.get("JAXGEN_TRACEBACK"):
            raise
        # What JAX notes beside errors that pass through it is for those who ask for a traceback.
        notes = [note for note in getattr(error, "__notes__", []) if "JAX_TRACEBACK_FILTERING" not in note]
        # What `files.explained` says has no number of an error before it.
        text = error.strerror if isinstance(error, OSError) and error.filename is None and error.strerror else error
        text = _of_lost_host(error) or text
        if not last_words.said():
            print(_shown("\n".join([f"error: {text}", *notes])), file=sys.stderr)
            print("(set JAXGEN_TRACEBACK=1 to see where in the code)", file=sys.stderr)
        code = 2
        _leave_other_hosts(code, str(text))
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _leave_quietly()
    sys.exit(code)


def _interrupted(number: int, frame: types.FrameType | None) -> NoReturn:
    """Ctrl-C as Python means it; but at once while modules are imported, which compiled ones take for a fault."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"interrupted\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def _shown(text: object) -> str:
    """As a terminal may take it: a file's name may hold escape sequences, which would be obeyed."""
    return "\n".join(map(show, str(text).split("\n")))


def _sentences() -> Callable[..., str]:
    """Warnings as a line each; those of a cache that cannot be used once, and not for each function or set."""
    told = set()

    def line(message, *_, **__) -> str:
        text = str(message)
        for sign in ("persistent compilation cache", "what was seen could not be kept"):
            if sign in text:
                if sign in told:
                    return ""
                told.add(sign)
                if sign == "persistent compilation cache":
                    reason = text.partition("': ")[2] or text
                    text = f"compiled programs are not kept for the next time, which costs nothing else: {reason}"
        return f"warning: {_shown(text)}\n"

    return line


def _of_lost_host(error: Exception) -> str | None:
    hosts = sys.modules.get("jaxgen.hosts")
    return hosts.sentence_of_lost_host(error) if hosts is not None and hosts.are_connected() else None


def _leave_other_hosts(code: int, message: str) -> None:
    """On several hosts: ends this process, and so what the others wait for, now and not after minutes of goodbyes."""
    hosts = sys.modules.get("jaxgen.hosts")
    if hosts is not None and hosts.are_connected():
        hosts.tell_of_failure(message)
        hosts.leave_hosts()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _leave_quietly() -> int:
    """Python flushes once more at its end, and would complain. Returns the exit code of a broken pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
