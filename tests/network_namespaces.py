"""Two machines that one machine pretends to be: network namespaces, a link between them, a name of its own for each.

Needs root, and `ip` of the package iproute2.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ADDRESSES = ("10.213.7.1", "10.213.7.2")
# Each has a name of its own that leads to its address: by it a host tells the others where it is found.
ENTER = 'hostname "$1" && mount --make-rprivate / && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'


class Machines(NamedTuple):
    """Two namespaces.

    Attributes:
      names: of the namespaces.
      inside: for each, the words before a command that runs in it.
    """

    names: tuple[str, str]
    inside: tuple[tuple[str, ...], tuple[str, ...]]

    def cut(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        self._link("down")

    def restore(self) -> None:
        """What is sent from now on comes through."""
        self._link("up")

    def _link(self, state: str) -> None:
        ip("-n", self.names[1], "link", "set", "middle", state)


def ip(*words: str) -> None:
    """Runs `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def two_machines(directory: Path) -> Iterator[Machines]:
    """Makes them, and removes them; skips the test where that cannot be done.

    Between them lies a bridge, whose ports are what is cut: both machines keep a carrier, as behind a switch.

    Args:
      directory: for files of each.
    """
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "mount", "hostname"))):
        pytest.skip("network namespaces need root, ip (package iproute2), unshare, mount and hostname")
    stem = f"jaxgen{os.getpid()}"
    names = (f"{stem}a", f"{stem}b")
    hosts = directory / "hosts"
    hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for a, n in zip(ADDRESSES, names, strict=True)))
    with contextlib.ExitStack() as stack:
        try:
            for name in names:
                ip("netns", "add", name)
                stack.callback(subprocess.run, ["ip", "netns", "delete", name], capture_output=True)
            # Of the first one a cable leads to a bridge in the second one, which has a cable to that bridge, too.
            ip("-n", names[1], "link", "add", "between", "type", "bridge")
            ip("-n", names[1], "link", "set", "between", "up")
            ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "middle", "netns", names[1])
            ip("-n", names[1], "link", "add", "cable", "type", "veth", "peer", "name", "own")
            for port in ("middle", "own"):
                ip("-n", names[1], "link", "set", port, "master", "between", "up")
            for name, address in zip(names, ADDRESSES, strict=True):
                ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
                ip("-n", name, "link", "set", "cable", "up")
                ip("-n", name, "link", "set", "lo", "up")
            inside = tuple(
                ("ip", "netns", "exec", n, "unshare", "--uts", "--mount", "sh", "-c", ENTER, "sh", n, str(hosts))
                for n in names
            )
            subprocess.run([*inside[0], "true"], check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine makes no network namespaces: {(error.stderr or str(error)).strip()}")
        yield Machines(names, inside)
