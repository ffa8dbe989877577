"""How much memory there is, and whether what is asked for fits: told before any is taken."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np


def free(devices: Sequence[jax.Device]) -> int | None:
    """Bytes that each of some devices can still give, None where nobody knows; CPU devices share the machine's."""
    if devices[0].platform == "cpu":
        available = free_of_machine()
        return None if available is None else int(0.9 * available / len(devices))
    stats = devices[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    return None if limit is None else int(0.95 * limit) - stats.get("bytes_in_use", 0)


def free_of_machine() -> int | None:
    """Bytes that this machine, or the container that this process is in, can still give; None where nobody knows."""
    found = []
    try:  # free pages alone would leave out what the system caches and gives back
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        pass
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        found.append(max(0, limit - used))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        pass
    return min(found, default=None)


def in_words(number: float) -> str:
    """A number of bytes for people."""
    for power, name in ((50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 2**power:
            return f"{number / 2**power:.3g} {name}"
    return f"{number} bytes"


def of(tree: Any) -> int:
    """Bytes of a tree of arrays or of their shapes; PRNG keys count as nothing."""
    return sum(
        int(np.prod([int(n) for n in leaf.shape], dtype=object)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )


def check(needed: int, available: int | None, what: str, advice: str) -> None:
    """Refuses what cannot fit.

    Raises:
      MemoryError: with what is needed and what there is.
    """
    if available is not None and needed > available:
        raise MemoryError(f"{what} needs at least {in_words(needed)}, and {in_words(available)} are free: {advice}")
