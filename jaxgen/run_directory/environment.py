"""What the numbers of a process depend on: versions, devices, commit, command line."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path


def of_this_process() -> dict[str, object]:
    """What the numbers of this process depend on: versions, devices, commit, command line, date.

    Returns:
      A flat dict of strings and numbers. Looks up the JAX devices, so it starts the backend.
    """
    import jax

    record: dict[str, object] = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([os.path.basename(sys.executable or "python"), *sys.argv]),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }
    record.update(versions())
    devices = jax.devices()
    record.update(
        backend=devices[0].platform,
        device_kind=devices[0].device_kind,
        device_count=len(devices),
        process_count=jax.process_count(),
    )
    return record


def versions() -> dict[str, str | None]:
    """Of the packages that compute; None for one that is not installed."""
    from importlib import metadata

    record: dict[str, str | None] = {}
    for package in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"):
        try:
            record[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            record[package] = None
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
