"""What several hosts must have in common before they train together: settings, versions, data, and a directory.

Hosts that differ in any of these compute different programs, or the same on different numbers: they wait for each other
for ever, or train to the end with states that differ. So they compare what they have before anything is compiled or
written, and all of them end with one sentence that names what differs, and where.
"""

import contextlib
import json
import os
import platform
import secrets
import time
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen import __version__, buckets, data, files, fingerprints, hosts, run_directory
from jaxgen.checkpoint import leaves
from jaxgen.run_directory import environment

SAME_COMMAND = "give all hosts the same command"
SAME_VERSIONS = "install the same versions on all hosts"
SAME_DATA = "give all hosts the same data"
SAME_STATE = "build it on all hosts in the same way, from the same key"
SHOWN = 4  # differences of a kind that are named
SECONDS_TO_SEE_A_FILE = 20.0  # network disks show what another host has written some seconds later
WHERE_DATA_LIE = ("data.path", "data.target_path", "data.test_path", "data.test_target_path")
"""Settings that hosts may have each for itself: that the images are the same their fingerprint tells."""

_NOTHING = "nothing"


class HostsDisagree(ValueError):
    """Hosts that were started with unlike settings, versions or data; the message names what differs, and where."""


def check(facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Compares facts over all hosts; each must call it. A process alone has nothing to compare.

    Args:
      facts: what to do about a difference -> name -> what this host has, plain data.

    Raises:
      HostsDisagree: on all hosts, with the same message.
      hosts.HostFailed: if another host ends with an error meanwhile.
    """
    told = hosts.exchange(json.dumps(files.encoded(facts), sort_keys=True))
    everyone = [json.loads(one) for one in told]
    lines = []
    for advice in dict.fromkeys(advice for one in everyone for advice in one):
        each = [one.get(advice, {}) for one in everyone]
        names = dict.fromkeys(name for one in each for name in one)
        found = [text for name in names if (text := _difference(name, [one.get(name, _NOTHING) for one in each]))]
        if found:
            more = f", and {len(found) - SHOWN} more differences" if len(found) > SHOWN else ""
            lines.append(f"{'; '.join(found[:SHOWN])}{more}: {advice}")
    if lines:
        raise HostsDisagree("\n".join(lines))


def _difference(name: str, values: list[Any]) -> str:
    """Which hosts have another value than host 0, in words; "" where none has."""
    texts = [json.dumps(value, sort_keys=True) for value in values]
    others = [text for text in dict.fromkeys(texts) if text != texts[0]]
    if not others:
        return ""
    parts = []
    for text in others:
        which = [index for index, one in enumerate(texts) if one == text]
        parts.append(f"{hosts.named(which)} {'has' if len(which) == 1 else 'have'} {name} {_shown(text)}")
    return f"{', '.join(parts)}, host 0 has {_shown(texts[0])}"


def _shown(text: str) -> str:
    value = json.loads(text)
    return fingerprints.short(value) if isinstance(value, str) and value else text


def of_settings(config: Mapping[str, Any], directory: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """What a command line can differ in, and versions: known before the data are opened.

    Args:
      config: nested settings, as they are stored; where the data lie is left to their fingerprint.
      directory: of the run.
    """
    flat = {name: value for name, value in run_directory.flatten(config).items() if name not in WHERE_DATA_LIE}
    is_copy = buckets.each_host_for_itself(directory)
    where = buckets.shown(directory) if is_copy else os.path.abspath(os.path.expanduser(directory))
    settings = {f"--{name}".replace("_", "-"): value for name, value in flat.items()}
    return {
        SAME_COMMAND: settings | {"--directory": where},
        SAME_VERSIONS: versions(),
    }


def versions() -> dict[str, Any]:
    """Of all that takes part in a computation."""
    return {"jaxgen": __version__, "Python": platform.python_version()} | environment.versions()


def of_training(
    config: Mapping[str, Any] | None,
    directory: str | os.PathLike,
    numbers: Mapping[str, Any],
    dataset: data.Dataset,
    key: jax.Array,
) -> dict[str, dict[str, Any]]:
    """What a training is made of: `of_settings` with the numbers, the data and the key.

    Args:
      config: as it is stored.
      directory: of the run.
      numbers: other arguments of the training, by name.
      dataset: what it is trained on.
      key: of the run.
    """
    facts = of_settings({}, directory)
    config = dict(config or {})
    images = config.pop("images", None) or {}
    flat = run_directory.flatten(config)
    facts[SAME_COMMAND] |= {name: value for name, value in flat.items() if name not in WHERE_DATA_LIE} | dict(numbers)
    facts[SAME_VERSIONS]["backend"] = jax.default_backend()
    facts[SAME_DATA] = {
        "the number of images": dataset.num_examples,  # not the name, which may be a path
        "the fingerprint of the data": dataset.fingerprint,
        "the fingerprint of the held-out data": images.get("held_out_fingerprint"),
    }
    facts[SAME_STATE] = {"the key": np.asarray(jax.random.key_data(key)).tolist()}
    return facts


def of_state(state: Any) -> dict[str, dict[str, Any]]:
    """What a training begins with, fresh, of another run or restored: a checksum of its arrays.

    Those that no host has as a whole are left out.
    """
    digest = 0
    for path, leaf in leaves.flatten(state)[0]:
        told = [path, *leaves.signature(path, leaf), leaves.crc32(leaves.host_copy(leaf))]
        digest = zlib.crc32(json.dumps(told).encode(), digest)
    return {SAME_STATE: {"the initial state": f"{digest:08x}"}}


def warn_of_unlike_programs(text: str) -> None:
    """Warns on all hosts if their train steps are other programs; each must call it.

    It is no error, since texts of one program may differ: two versions of Python may order a set otherwise.

    Args:
      text: of this host's step, from `first_batch.program_of`.
    """
    told = hosts.exchange(f"{zlib.crc32(text.encode()):08x}")
    if others := [i for i, one in enumerate(told) if one != told[0]]:
        warnings.warn(
            f"the train step of {hosts.named(others)} is another program than that of host 0: a rate, perhaps, or a "
            "loss; the hosts may wait for each other for ever, or train states that differ",
            stacklevel=3,
        )


def check_shared(directory: Path) -> None:
    """Makes a directory, unless it is there, and makes sure that all hosts see the same; all must call it.

    Each host writes a small file there and looks for those of all others. They are removed, and so is what was made.

    Raises:
      HostsDisagree: on all hosts, for hosts that see a directory of their own.
      OSError: where it cannot be made or written.
    """
    if hosts.count() == 1 or buckets.each_host_for_itself(directory):
        return
    index, number = hosts.index(), hosts.count()
    nonce = hosts.exchange(secrets.token_hex(4))[0]
    mine = directory / f".host-{index}-{nonce}.tmp"
    made: list[Path] = []
    error, is_seen = "", True
    try:
        if index == 0:
            made = [path for path in (directory, *directory.parents) if not path.exists()]
            with files.explained(directory, "make the run directory"):
                directory.mkdir(parents=True, exist_ok=True)
    except OSError as caught:
        error = caught.strerror or str(caught)
    hosts.exchange("")  # the others do not look before it is there
    try:
        is_seen = index == 0 or _is_there_soon(directory)
        if is_seen and not error:
            with files.explained(mine, "write"):
                mine.write_bytes(b"")
    except OSError as caught:
        error = caught.strerror or str(caught)
    told = [json.loads(text) for text in hosts.exchange(json.dumps([error, is_seen]))]
    strangers = [i for i, (_, seen) in enumerate(told) if not seen]
    failed = [f"host {i}: {text}" for i, (text, _) in enumerate(told) if text]
    if not failed and not strangers:
        found = [json.loads(text) for text in hosts.exchange(json.dumps(_names_soon(directory, nonce, number)))]
        strangers = sorted({i for i, others in enumerate(found) if others != found[0]} | {*range(number)} - {*found[0]})
    with contextlib.suppress(OSError):
        mine.unlink(missing_ok=True)
    if not failed and not strangers:
        return
    hosts.exchange("")  # all have removed their files
    with contextlib.suppress(OSError):
        for path in made:
            path.rmdir()
    if failed:
        raise OSError(None, failed[0])
    raise HostsDisagree(
        f"{directory} is not one directory: {hosts.named(strangers)} {'does' if len(strangers) == 1 else 'do'} not see "
        "there what host 0 writes. Give all hosts a directory on a disk that they share, or a bucket (gs://... or "
        "s3://...)"
    )


def _is_there_soon(directory: Path) -> bool:
    """Whether a directory that another host has made is seen here, after at most some seconds."""
    end = time.monotonic() + SECONDS_TO_SEE_A_FILE
    while not directory.is_dir():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _names_soon(directory: Path, nonce: str, number: int) -> list[int]:
    """The hosts whose files are seen here, all or those of after some seconds."""
    end = time.monotonic() + SECONDS_TO_SEE_A_FILE
    while True:
        names = os.listdir(directory)  # unlike a look for one file, this asks the server
        found = sorted(int(name.split("-")[1]) for name in names if name.endswith(f"-{nonce}.tmp"))
        if len(found) == number or time.monotonic() > end:
            return found
        time.sleep(0.1)
