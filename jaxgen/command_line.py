"""What the scripts share: errors as sentences, and the compilation cache."""

import os
import sys
from collections.abc import Callable
from pathlib import Path


def use_compilation_cache() -> None:
    """Keeps compiled programs between processes, in $JAX_COMPILATION_CACHE_DIR or the user's cache directory.

    A directory that cannot be written costs the cache, not the run.
    """
    import jax

    directory = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if directory is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        directory = Path(base) / "jaxgen" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(directory))


def run(main: Callable[[], int | None]) -> None:
    """Ends the process with main's exit code. Errors that a user can mend are one message and code 2, no traceback."""
    try:
        code = main()
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("JAXGEN_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        print("(set JAXGEN_TRACEBACK=1 to see where in the code)", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
