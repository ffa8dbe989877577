"""A bucket on this machine: the server of moto, for tests that need several processes."""

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

VARIABLES = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "mine", "AWS_DEFAULT_REGION": "us-east-1"}


def need() -> None:
    """Skips where the packages are not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "s3fs")):
        pytest.skip("needs s3fs and moto: pip install -e '.[test-buckets]'")


@contextlib.contextmanager
def running(bucket: str = "bucket") -> Iterator[dict[str, str]]:
    """Yields the variables by which processes reach the server, which has one empty bucket."""
    need()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        address, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{address}/{bucket}", method="PUT"), timeout=5).close()
                break
            except OSError:
                if time.monotonic() > end or server.poll() is not None:
                    raise
                time.sleep(0.2)
        yield VARIABLES | {"AWS_ENDPOINT_URL": address}
    finally:
        server.kill()
        server.wait()


def set_in(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process reach the server, too."""
    for name, value in variables.items():
        monkeypatch.setitem(os.environ, name, value)
