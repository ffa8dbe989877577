"""A sweep's checkpoints: what they hold, how they are read back, and whether they are of the same sweep."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import checkpoint, fingerprints
from jaxgen.stability.sweep.program import Data, Program

if TYPE_CHECKING:
    import orbax.checkpoint as ocp


def fingerprint_of(
    program: Program, settings: Mapping[str, np.ndarray], num_steps: int, num_records: int, seed: int
) -> dict[str, Any]:
    """What tells sweeps apart, stored with each checkpoint; `values` are for messages alone."""
    digest = hashlib.sha256()
    for name in sorted(settings):
        digest.update(name.encode() + np.asarray(settings[name], np.float64).tobytes())
    return {
        "program": program.name,
        "settings": digest.hexdigest()[:16],
        "members": len(settings["seed"]),
        "num_steps": num_steps,
        "num_records": num_records,
        "seed": seed,
        "precision": str(jnp.zeros(()).dtype),
        "values": {name: " ".join(f"{x:g}" for x in np.unique(settings[name])[:50]) for name in sorted(settings)},
    }


def check_same_sweep(
    manager: "ocp.CheckpointManager", fingerprint: dict[str, Any], directory: str | os.PathLike
) -> None:
    """Raises a ValueError where the newest checkpoint that can be read is of another sweep, or of no sweep at all."""
    for step in reversed(checkpoint.all_steps(manager)):
        with contextlib.suppress(checkpoint.CheckpointDamaged):  # `restore` tells of these, and takes an older one
            found = checkpoint.read_record(manager, step)["metadata"]
            break
    else:
        return
    if "program" not in found:
        raise ValueError(f"{directory} holds checkpoints of something else, a training run perhaps: choose another one")
    differing = [name for name, value in fingerprint.items() if name != "values" and found.get(name) != value]
    if differing:
        theirs, ours = found.get("values", {}), fingerprint["values"]
        if "settings" in differing and theirs.keys() | ours.keys() and theirs != ours:
            found, fingerprint = {**found, **theirs}, {**fingerprint, **ours}
            unlike = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
            differing = [name for name in differing if name not in ("settings", "members")] + unlike
        told = "; ".join(f"{name} {_shown(name, found)} there, {_shown(name, fingerprint)} now" for name in differing)
        raise ValueError(f"{directory} holds another sweep ({told}): choose another directory for this one")


def _shown(name, fingerprint) -> str:
    """An entry of a fingerprint in words, digests behind what they are of."""
    value = str(fingerprint.get(name))
    if name == "settings":
        return fingerprints.after("", "all of them in their order", value)
    of_run = re.match(r"([0-9a-f]{16})(, .*)", value) if name == "program" else None  # a run's is called by a digest
    return value if of_run is None else fingerprints.after("a run", "its settings", of_run[1]) + of_run[2]


def state_of(members: Any, history: Mapping[str, np.ndarray], seconds: float) -> dict[str, Any]:
    """What a checkpoint holds."""
    return {"members": members, "history": history, "seconds": np.asarray(seconds, np.float64)}


def restore(
    manager: "ocp.CheckpointManager", members: Any, names: Mapping[str, Any], num_records: int
) -> tuple[Any, int]:
    """(what the newest checkpoint holds, in NumPy and writable; its step), from the shapes of members and records."""
    num = len(members.first_bad_step)
    template = state_of(
        jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), members),
        {name: np.zeros((num, num_records), dtype) for name, dtype in names.items()},
        0.0,
    )
    found, record = checkpoint.restore(manager, template)
    return jax.tree.map(np.array, found), record["step"]


def record_types(
    advance_one: Callable, members: Any, settings: Mapping[str, np.ndarray], data: Data, chunk: int
) -> dict[str, Any]:
    """The names and types of what is recorded, without computing it."""
    inputs = data.inputs(0, chunk)

    def one(settings, member):
        return advance_one(settings, member, data.arrays, inputs, jnp.zeros((), jnp.int32))[1]

    return {name: x.dtype for name, x in jax.eval_shape(jax.vmap(one), settings, members).items()}
