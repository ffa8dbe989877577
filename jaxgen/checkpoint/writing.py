"""Opening a directory of checkpoints, saving a state in the background, waiting for it, closing."""

import contextlib
import json
import logging
import os
import textwrap
import time
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import jax
import numpy as np

from jaxgen import __version__, buckets, files, orbax_log
from jaxgen.checkpoint import record as records
from jaxgen.checkpoint.errors import CheckpointDamaged, SaveFailed
from jaxgen.checkpoint.leaves import crc32, flatten, host_copy, is_key, parts, signature, storable
from jaxgen.checkpoint.retention import KeepLastAndBest
from jaxgen.checkpoint.steps import all_steps, check_writable, directory_of, largest_of_all_processes, move_aside

if TYPE_CHECKING:
    import orbax.checkpoint as ocp
    from etils import epath


def open_checkpoints(
    directory: str | os.PathLike,
    *,
    keep_last: int | None = 3,
    keep_best: int = 1,
    best_metric: str | None = None,
    best_mode: Literal["min", "max"] = "min",
) -> "ocp.CheckpointManager":
    """Open (or create) a directory of checkpoints for writing.

    A directory has one writer: leftovers of killed saves are removed here. To read the checkpoints of a run that may
    still be going, give the directory to `restore` instead.

    Args:
      directory: where the steps live; created with its parents.
      keep_last: how many of the newest steps to keep; None keeps every step.
      keep_best: how many of the best steps by `best_metric` to keep besides the newest.
      best_metric: name of a number in the `metrics` given to `save`. Steps without it, or where it is not finite,
        are never best.
      best_mode: "min" when smaller is better (FID, loss), "max" when larger is (inception score).

    Returns:
      An Orbax `CheckpointManager`. `close` it at the end.

    Raises:
      ValueError: for a `keep_last` below 1, a negative `keep_best` or another `best_mode`.
      OSError: when the directory cannot be created or written (NotADirectoryError, PermissionError, ...).
    """
    if keep_last is not None and keep_last < 1:
        raise ValueError(f"keep_last must be at least 1, or None to keep every step; got {keep_last}")
    if keep_best < 0:
        raise ValueError(f"keep_best must not be negative; got {keep_best}")
    if best_mode not in ("min", "max"):
        raise ValueError(f'best_mode must be "min" or "max"; got {best_mode!r}')
    import orbax.checkpoint as ocp

    orbax_log.quieten()
    path = directory_of(directory)
    alone = buckets.each_host_for_itself(path)
    if alone or jax.process_index() == 0:
        check_writable(path)
    policy = KeepLastAndBest(path, keep_last, keep_best if best_metric else 0, best_metric, best_mode)
    options = ocp.CheckpointManagerOptions(preservation_policy=policy, cleanup_tmp_directories=True)
    if alone and jax.process_count() > 1:
        index = jax.process_index()
        options.multiprocessing_options = ocp.options.MultiprocessingOptions(
            primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"host{index}"
        )
        options.create = False  # it is there
        # In the background its word that a directory is there goes to all hosts: one would take that of another for
        # its own, and write to what is not there yet.
        options.async_options = ocp.AsyncOptions(create_directories_asynchronously=False)
    return ocp.CheckpointManager(path, options=options)


def wait(manager: "ocp.CheckpointManager") -> None:
    """Block until the save in flight, if any, is on disk.

    Raises:
      SaveFailed: when it could not be written.
    """
    steps = manager.all_steps()  # a save in flight is the last entry
    try:
        manager.wait_until_finished()
    except Exception as error:
        _raise_save_failed(manager, steps[-1] if steps else None, error)


def close(manager: "ocp.CheckpointManager") -> None:
    """`wait`, then release Orbax's threads. The manager is closed even when the last save failed.

    Raises:
      SaveFailed: when the save in flight could not be written.
    """
    try:
        wait(manager)
    finally:
        try:
            manager.close()
        except Exception:  # an error that `wait` or `save` has told of already: Orbax raises it once more, bare
            logging.getLogger("absl").debug("closing the checkpoints", exc_info=True)


def save(
    manager: "ocp.CheckpointManager",
    step: int,
    state: Any,
    *,
    metrics: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    force: bool = False,
) -> bool:
    """Start writing the state of a step; returns once the values are copied, before they are on disk.

    The arrays may be donated or overwritten as soon as this returns. A save still in flight is waited for first.

    Args:
      manager: from `open_checkpoints`.
      step: the number of the step, at least 0.
      state: a pytree of arrays (`jax.Array` of any dtype, typed PRNG keys, `numpy` arrays). With several
        processes its arrays are global ones, as `jaxgen.sharding.replicate` makes them.
      metrics: scalars to keep in the record, among them `best_metric`.
      metadata: JSON values to keep in the record, for example the name of the preset.
      force: replace an existing checkpoint of this step, and allow a step older than the newest.

    Returns:
      True when a save was started; False when this step holds the very same state already (nothing is written).

    Raises:
      SaveFailed: when this save could not start, or when the *previous* one failed in the background.
      ValueError: when this step holds another state or newer steps exist (a run continued from an older step into
        the same directory): a resume could not tell the two histories apart.
      TypeError: when a leaf is not an array, or `metadata` is not JSON.
    """
    import orbax.checkpoint as ocp

    if step < 0:
        raise ValueError(f"step must not be negative; got {step}")
    wait(manager)
    leaves, structure = flatten(state)
    digests = {path: [*signature(path, leaf), crc32(host_copy(leaf))] for path, leaf in leaves}
    record = {
        "format": records.FORMAT,
        "jaxgen": __version__,
        "step": int(step),
        "leaves": digests,
        **_digests_of_parts([(path, leaf) for path, leaf in leaves if digests[path][-1] is None]),
        "keys": {path: str(jax.random.key_impl(leaf)) for path, leaf in leaves if is_key(leaf)},
        "metrics": {name: float(value) for name, value in (metrics or {}).items()},
        "metadata": dict(metadata or {}),
    }
    try:
        record = json.loads(json.dumps(record))
    except TypeError as error:
        raise TypeError(f"metadata of step {step} must hold JSON values only: {error}. Got {metadata}") from error
    record["crc32"] = files.record_crc32(record)

    existing = sorted(manager.all_steps())
    if step in existing and not force:
        try:
            before = records.read_record(manager, step)
            same = before["leaves"] == record["leaves"] and before.get("parts") == record.get("parts")
        except CheckpointDamaged as error:
            warnings.warn(f"{error}. It is moved aside and saved anew.", stacklevel=2)
            move_aside(manager, [step])
            existing.remove(step)
        else:
            if same:
                return False
            raise ValueError(
                f"{manager.directory} holds another state for step {step}. Was this run continued from an older step? "
                "Save to another directory, remove the steps that are no longer wanted, or replace with force=True."
            )
    newer = [other for other in existing if other > step]
    if newer and not force:
        raise ValueError(
            f"step {step} is older than steps {newer} in {manager.directory}, and a resume would take those. "
            "Save to another directory, remove the steps that are no longer wanted, or save with force=True."
        )

    alone = jax.process_count() > 1 and buckets.each_host_for_itself(manager.directory)
    arrays = [_as_one_host_has_it(path, leaf) if alone else storable(leaf) for path, leaf in leaves]
    try:
        if step in existing:
            manager.delete(step)
        return manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(jax.tree.unflatten(structure, arrays)),
                record=ocp.args.JsonSave(record),
            ),
            metrics=record["metrics"],
            force=True,  # whether to save was decided above
        )
    except Exception as error:
        _raise_save_failed(manager, step, error)


def _digests_of_parts(leaves: list[tuple[str, Any]]) -> dict[str, Any]:
    """What a record says of arrays of which no process holds the whole: the crc32 of each part. {} without such."""
    if not leaves:
        return {}
    found = {path: parts(jax.random.key_data(leaf) if is_key(leaf) else leaf) for path, leaf in leaves}
    own = np.asarray([digest for of_leaf in found.values() for _, digest in of_leaf], np.uint32)
    digests = iter(largest_of_all_processes(own).tolist())
    return {"parts": {path: [[bounds, next(digests)] for bounds, _ in of_leaf] for path, of_leaf in found.items()}}


def _as_one_host_has_it(path: str, leaf: Any) -> Any:
    """What a host writes that has a directory of its own: the whole array, since it reads no other."""
    values = host_copy(leaf)
    if values is None:
        raise SaveFailed(
            f"{path} is divided over hosts, and each of them keeps checkpoints in a copy of the bucket of its own: "
            "give a --directory on a disk that all hosts share"
        )
    return storable(values)


def _remove_unfinished(directory: "epath.Path", step: int | None, attempts: int = 20) -> None:
    """Removes what a failed save of a step has left; other arrays of it may still be on their way for a moment."""
    for attempt in range(attempts):
        left = [path for path in directory.iterdir() if path.name.startswith(f"{step}.orbax-checkpoint-tmp")]
        for path in left:
            with contextlib.suppress(OSError):
                path.rmtree()
        if not left:
            return
        time.sleep(0.0 if attempt == 0 else 0.05)


def _raise_save_failed(manager: "ocp.CheckpointManager", step: int | None, error: Exception) -> NoReturn:
    """Turn Orbax's error into one that says what to do, and leave the manager fit for the next save."""
    text = " ".join(str(error).split())
    if any(sign in text for sign in ("ENOSPC", "No space left", "RESOURCE_EXHAUSTED", "EDQUOT", "EFBIG", "too large")):
        advice = "The disk or quota is full: free space or keep fewer checkpoints, then go on or resume."
    elif isinstance(error, OSError):
        advice = "Check that the directory exists and can be written, then go on or resume."
    else:
        advice = "Mend that, then go on or resume."
    try:
        if jax.process_index() == 0:  # what the failed save had written takes the room that the next one needs
            _remove_unfinished(manager.directory, step)
        manager.reload()  # Orbax forgets the steps that it meant to delete after this save
    except OSError:
        pass  # the directory itself is gone: the message below says so
    raise SaveFailed(
        f"the checkpoint of step {step} could not be written to {manager.directory} "
        f"({type(error).__name__}: {textwrap.shorten(text, 400, placeholder=' ...')}). {advice} "
        f"Earlier checkpoints are untouched: steps "
        f"{all_steps(manager)}."
    ) from error
