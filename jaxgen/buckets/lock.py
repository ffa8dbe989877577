"""The lock of a run in a bucket: an object that its owner renews, since no operating system drops it with the owner."""

import json
import os
import platform
import secrets
import sys
import time
from typing import Any

from jaxgen.buckets.store import Store, to_json

NAME = ".lock.json"
SECONDS_BETWEEN_SIGNS = 10.0
SIGNS_MISSED = 4  # after which the owner counts as dead


class BucketLocked(RuntimeError):
    """A run in a bucket into which another process trains."""


class Lock:
    """Held from `take` to `release`; `renew` is called every `SECONDS_BETWEEN_SIGNS`.

    Whether an owner lives is judged by whether its signs go on coming, by the clock of who waits: clocks of two
    machines need not agree. A lock that is left by a dead process is so taken over after some seconds; the bucket lets
    only one of several create it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._nonce = secrets.token_hex(8)
        self._signs = 0

    def take(self) -> None:
        """Takes the lock, or waits until it is clear whether its owner lives.

        Raises:
          BucketLocked: if it does.
          OSError: if the bucket cannot be written.
        """
        told = False
        # Asked first, since some servers that imitate a bucket create what is there.
        while (before := self._read()) is not None or not self._store.create(NAME, self._content()):
            if before is None:
                continue
            if not _ended_here(before):
                if not told:
                    print(
                        f"{self._store.address} has a lock of {_owner(before)}; looking whether that is alive, at most "
                        f"{SECONDS_BETWEEN_SIGNS * SIGNS_MISSED:.0f} seconds ...",
                        file=sys.stderr,
                        flush=True,
                    )
                    told = True
                end = time.monotonic() + SECONDS_BETWEEN_SIGNS * SIGNS_MISSED
                while time.monotonic() < end and (now := self._read()) is not None:
                    if now != before:
                        raise BucketLocked(
                            f"{self._store.address} is in use: {_owner(now)} trains there; wait until it ends, stop "
                            "it, or choose another --directory"
                        )
                    time.sleep(SECONDS_BETWEEN_SIGNS / 10)
            if self._read() == before:
                self._store.delete([NAME])

    def renew(self) -> bool:
        """Gives a sign of life; False if the lock is another's now."""
        found = self._read()
        if found is not None and found.get("nonce") != self._nonce:
            return False
        self._signs += 1
        self._store.write(NAME, self._content())
        return True

    def release(self) -> None:
        """Deletes the lock, if it is still this one's."""
        found = self._read()
        if found is not None and found.get("nonce") == self._nonce:
            self._store.delete([NAME])

    def _content(self) -> bytes:
        owner = {"process": os.getpid(), "host": platform.node(), "boot": _boot(), "nonce": self._nonce}
        return to_json(owner | {"signs": self._signs, "time": round(time.time(), 3)})

    def _read(self) -> dict[str, Any] | None:
        try:
            record = json.loads(self._store.read(NAME))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return record if isinstance(record, dict) else {}


def _owner(record: dict[str, Any]) -> str:
    return f"process {record.get('process', '?')} on {record.get('host', 'an unknown host')}"


def _boot() -> str:
    """Which start of which machine this is; "" where that is not told."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _ended_here(record: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine, and is no more: then nothing has to be waited for."""
    number = record.get("process")
    if not isinstance(number, int) or not _boot() or record.get("boot") != _boot():
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
