"""Checkpoints: a state and its record, written by Orbax in the background, verified bit for bit when read.

`open_checkpoints` once, `save` now and then, `restore` at the start, `close` at the end:

    manager = open_checkpoints("run/checkpoints", keep_last=3, keep_best=1, best_metric="fid")
    if all_steps(manager):
        state, record = restore(manager, state)
    ...
    save(manager, step, state, metrics={"fid": 12.3}, metadata={"preset": "mnist_gan"})
    close(manager)

One step is one directory: `<step>/state` (the arrays, in Orbax's usual format, for any reader of Orbax) and
`<step>/record` (JSON: what was saved, with a crc32 of every leaf). Orbax writes both under a temporary name and
renames at the end, so a killed process leaves a whole checkpoint or none. It does not notice a flipped byte in a data
file, nor a template of another dtype; the record is there for both.

Arrays are read to the host, compared with the record, and only then placed by the template's shardings. So a
checkpoint of eight devices resumes on one and the other way round, and a checkpoint that cannot be trusted never
reaches a device.

With several processes every one of them calls `save` and `restore` with the same arguments, on a directory that
all of them see; only the first renames and deletes.
"""

import asyncio
import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import tempfile
import textwrap
import time
import warnings
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from jaxgen import __version__, orbax_log
from jaxgen.local_path import local

if TYPE_CHECKING:  # orbax costs 0.3 s to import: inside the functions, it is paid by those who save and restore
    import orbax.checkpoint as ocp
    from etils import epath

FORMAT = 1
_SHOWN = 6  # differing leaves named in an error


class CheckpointError(RuntimeError):
    """Base of the errors below."""


class SaveFailed(CheckpointError):
    """A checkpoint could not be written; the earlier ones are untouched."""


class CheckpointDamaged(CheckpointError):
    """What was read is not what was saved: missing, cut, unreadable or changed files."""


class CheckpointMismatch(CheckpointError):
    """The checkpoint is whole and belongs to another state: other leaves, shapes or dtypes, or a newer format."""


# ---------------------------------------------------------------------------------------------- open, wait, close


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
    path = _directory(directory)
    if jax.process_index() == 0:
        _check_writable(path)
    policy = _KeepLastAndBest(path, keep_last, keep_best if best_metric else 0, best_metric, best_mode)
    options = ocp.CheckpointManagerOptions(preservation_policy=policy, cleanup_tmp_directories=True)
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


# --------------------------------------------------------------------------------------------------------- save


def without_frozen(state: Any) -> Any:
    """A state without the arrays that training never changes (`state.frozen`): what is worth a checkpoint."""
    return state if getattr(state, "frozen", None) is None else state.replace(frozen=())


def with_frozen(state: Any, frozen: Any) -> Any:
    """A restored state with its frozen arrays, if it has a place for them."""
    return state if frozen is None else state.replace(frozen=frozen)


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
    leaves, structure = _flatten(state)
    digests = {path: [*_signature(path, leaf), _crc32(_host_copy(leaf))] for path, leaf in leaves}
    record = {
        "format": FORMAT,
        "jaxgen": __version__,
        "step": int(step),
        "leaves": digests,
        "keys": {path: str(jax.random.key_impl(leaf)) for path, leaf in leaves if _is_key(leaf)},
        "metrics": {name: float(value) for name, value in (metrics or {}).items()},
        "metadata": dict(metadata or {}),
    }
    try:
        record = json.loads(json.dumps(record))
    except TypeError as error:
        raise TypeError(f"metadata of step {step} must hold JSON values only: {error}. Got {metadata}") from error
    record["crc32"] = _record_crc32(record)

    existing = sorted(manager.all_steps())
    if step in existing and not force:
        try:
            same = read_record(manager, step)["leaves"] == record["leaves"]
        except CheckpointDamaged as error:
            warnings.warn(f"{error}. It is moved aside and saved anew.", stacklevel=2)
            _move_aside(manager, [step])
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

    arrays = [_storable(leaf) for _, leaf in leaves]
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


# ------------------------------------------------------------------------------------------------------ restore


def restore(
    source: "ocp.CheckpointManager | str | os.PathLike", template: Any, *, step: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """Read a state back, verified, in the structure and on the devices of a template.

    A damaged newest step is skipped with a warning, and the one before it is taken. When `source` is a manager
    the damaged directory is renamed to `<step>.damaged-<n>` once an older step has proved good, so that the run can
    save that step again. When `source` is a directory nothing in it is touched: safe beside a running training.

    Args:
      source: a manager, or the directory of one.
      template: a state, or the same pytree of `jax.ShapeDtypeStruct`. Leaves with a sharding are placed by it,
        leaves without one (and arrays that were never committed to a device) go to the default device.
      step: exactly this step; None takes the newest good one.

    Returns:
      `(state, record)`; the record is the dict of `read_record`. A leaf whose crc32 in `record["leaves"]` is
      None was sharded over processes and could not be verified.

    Raises:
      FileNotFoundError: when there is no checkpoint, or not that step.
      CheckpointMismatch: when the newest readable checkpoint is of another state. Never a reason to fall back.
      CheckpointDamaged: when `step`, or every step, is damaged.
    """
    directory, manager = (_directory(source), None) if _is_path(source) else (source.directory, source)
    if manager is not None:
        wait(manager)
    while True:
        steps = all_steps(directory)
        if not steps:
            raise FileNotFoundError(f"no checkpoint in {directory}: nothing was saved there yet, or the path is wrong")
        if step is not None and step not in steps:
            raise FileNotFoundError(f"no checkpoint of step {step} in {directory}; available steps: {steps}")
        try:
            host_leaves, record, damaged = _newest_good(directory, template, step, steps)
        except _Deleted:  # by a training beside, which keeps few
            continue
        break
    if damaged and manager is not None:
        _move_aside(manager, damaged)

    leaves, structure = _flatten(template)
    placed = [_place(host_leaves[path], leaf, record["keys"].get(path)) for path, leaf in leaves]
    return jax.tree.unflatten(structure, placed), record


class _Deleted(Exception):
    """Steps were deleted while they were read: what there is must be looked up again."""


def _newest_good(
    directory: "epath.Path", template: Any, step: int | None, steps: list[int]
) -> tuple[dict[str, np.ndarray], dict[str, Any], list[int]]:
    """(leaves, record, damaged steps that are newer) of this step, or of the newest one that is not damaged.

    Raises:
      _Deleted: when a step was deleted meanwhile, which looks like damage.
      CheckpointError and others: as `restore`.
    """
    damaged = {}
    for candidate in reversed(steps) if step is None else [step]:
        error = None
        try:
            host_leaves, record = _read_verified(directory, candidate, template)
        except Exception as caught:
            error = caught
            now = all_steps(directory) if isinstance(caught, (CheckpointDamaged, FileNotFoundError)) else steps
            if jax.process_count() == 1 and (candidate not in now or now[-1] > steps[-1]):
                raise _Deleted from None
        # The processes must take the same step, whatever each of them could read.
        worst = _worst_of_all_processes(0 if error is None else 1 if isinstance(error, CheckpointDamaged) else 2)
        if worst == 0:
            break
        if worst == 2 or step is not None:
            raise error or CheckpointError(f"another process could not read step {candidate} of {directory}")
        damaged[candidate] = str(error or f"step {candidate} of {directory} is damaged for another process")
        older = [other for other in steps if other < candidate]
        if older:
            warnings.warn(f"{damaged[candidate]}. Trying step {older[-1]} instead.", stacklevel=3)
    else:
        raise CheckpointDamaged(
            f"every checkpoint in {directory} is damaged; nothing was changed there:\n  "
            + "\n  ".join(damaged.values())
            + "\nBring back a copy of one of them, or start again in another directory."
        )
    return host_leaves, record, list(damaged)


def all_steps(source: "ocp.CheckpointManager | str | os.PathLike") -> list[int]:
    """The finished steps of a manager or directory, in increasing order; empty when there is no such directory."""
    import orbax.checkpoint as ocp

    orbax_log.quieten()
    directory = _directory(source) if _is_path(source) else source.directory
    if not directory.is_dir():
        return []
    return sorted(found.step for found in ocp.step.standard_name_format().find_all(directory) if found.path.is_dir())


def latest_step(source: "ocp.CheckpointManager | str | os.PathLike") -> int | None:
    """The newest finished step of a manager or directory, None when there is none."""
    return max(all_steps(source), default=None)


def read_record(source: "ocp.CheckpointManager | str | os.PathLike", step: int) -> dict[str, Any]:
    """Read what was saved beside a state, without the state.

    Returns:
      A dict: `format`, `jaxgen` (version), `step`, `leaves` (path -> [shape, dtype, crc32 or None]), `keys`
      (path -> implementation of a typed PRNG key), `metrics`, `metadata`, `crc32` (of all the rest).

    Raises:
      FileNotFoundError: when there is no such step.
      CheckpointDamaged: when the record is missing, unreadable or changed.
      CheckpointMismatch: when a newer jaxgen wrote it.
    """
    directory = _directory(source) if _is_path(source) else source.directory
    if not (directory / str(step)).is_dir():
        raise FileNotFoundError(f"no checkpoint of step {step} in {directory}; available steps: {all_steps(directory)}")
    path = directory / str(step) / "record" / "metadata"
    damaged = f"the checkpoint of step {step} is damaged: its record {path}"
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointDamaged(f"{damaged} is missing") from error
    except ValueError as error:  # not JSON, or not even text
        raise CheckpointDamaged(f"{damaged} is not readable as JSON ({error})") from error
    if not isinstance(record, dict) or record.get("crc32") != _record_crc32(record):
        raise CheckpointDamaged(f"{damaged} was changed after it was written (crc32 differs)")
    if record["format"] > FORMAT:
        raise CheckpointMismatch(
            f"{path} has format {record['format']}, written by jaxgen {record['jaxgen']}; this is jaxgen {__version__} "
            f"and reads up to format {FORMAT}. Upgrade jaxgen to read it."
        )
    return record


# ------------------------------------------------------------------------------------------- which steps to keep


@dataclasses.dataclass(frozen=True)
class _KeepLastAndBest:
    """Orbax's `PreservationPolicy` protocol: keep the newest steps and the best ones by a metric of the record.

    Orbax's own `BestN` needs the metrics as an item of their own, and a damaged one would keep the manager from
    opening at all.
    """

    directory: "epath.Path"
    keep_last: int | None
    keep_best: int
    metric: str | None
    mode: str

    def should_preserve(self, checkpoints, *, context=None) -> list[bool]:
        del context
        if self.keep_last is None or not checkpoints:
            return [True] * len(checkpoints)
        newest = sorted(info.step for info in checkpoints)[-self.keep_last :]
        keep = {*newest, checkpoints[-1].step}  # the last entry is the one being saved, also with force=True
        if self.keep_best:
            values = {info.step: self._value(info) for info in checkpoints}
            ranked = sorted((step for step in values if math.isfinite(values[step])), key=values.get)
            keep.update(ranked[: self.keep_best] if self.mode == "min" else ranked[-self.keep_best :])
        return [info.step in keep for info in checkpoints]

    def _value(self, info) -> float:
        metrics = info.metrics  # known for steps saved by this manager, on disk for earlier runs
        if metrics is None:
            try:
                metrics = read_record(self.directory, info.step)["metrics"]
            except (CheckpointError, OSError):
                metrics = {}
        return metrics.get(self.metric, math.nan)


# ----------------------------------------------------------------------------------------- leaves and their digests


def _flatten(tree: Any) -> tuple[list[tuple[str, Any]], Any]:
    """Leaves named as one would reach them in Python, `.params['Dense_0']['kernel']`, and the tree structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves], structure


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _signature(path: str, leaf: Any) -> list[Any]:
    """[shape, dtype] as they stand in the record."""
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        raise TypeError(
            f"the leaf {path or 'of the state'} is {leaf!r} of type {type(leaf).__name__}; a state holds arrays only: "
            "wrap it in jnp.asarray, or keep it in the metadata"
        )
    return [list(leaf.shape), str(leaf.dtype)]


def _host_copy(leaf: Any) -> np.ndarray | None:
    """The values on the host (on CPU a view, no copy); None when this process does not hold the whole array."""
    if isinstance(leaf, jax.Array) and _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array):
        if leaf.ndim == 0 or leaf.is_fully_replicated:
            leaf = leaf.addressable_shards[0].data
        elif not leaf.is_fully_addressable:
            whole = [shard.data for shard in leaf.addressable_shards if shard.data.shape == leaf.shape]
            if not whole:
                return None
            leaf = whole[0]
    return np.asarray(leaf)


def _storable(leaf: Any) -> Any:
    """What Orbax gets to write for a leaf."""
    if leaf.size == 0:
        return np.zeros(())  # a stand-in: Orbax refuses empty arrays
    if isinstance(leaf, jax.Array):
        return jax.random.key_data(leaf) if _is_key(leaf) else leaf
    return np.asarray(leaf)  # numpy scalars too; Orbax copies them


def _crc32(values: np.ndarray | None) -> int | None:
    # Viewed as bytes, since bfloat16 and its like have no buffer protocol.
    return None if values is None else zlib.crc32(np.ascontiguousarray(values).reshape(-1).view(np.uint8))


def _record_crc32(record: dict[str, Any]) -> int:
    rest = {name: value for name, value in record.items() if name != "crc32"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


# -------------------------------------------------------------------------------------------- reading and placing


def _read_verified(directory: "epath.Path", step: int, template: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The leaves of a step as host arrays by path (PRNG keys as their data), compared with its record."""
    import orbax.checkpoint as ocp

    record = read_record(directory, step)
    leaves, structure = _flatten(template)
    _check_same_model(directory, step, {path: _signature(path, leaf) for path, leaf in leaves}, record)

    # The handler itself, without a manager: no barrier between processes that may disagree on what is damaged.
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, _settling_reader()))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    try:
        as_numpy = jax.tree.unflatten(structure, [ocp.RestoreArgs(restore_type=np.ndarray)] * len(leaves))
        placeholders = jax.tree.unflatten(structure, [np.zeros(())] * len(leaves))
        tree = handler.restore(
            directory / str(step) / "state", args=ocp.args.PyTreeRestore(item=placeholders, restore_args=as_numpy)
        )
    except (MemoryError, PermissionError):
        raise  # says nothing about the checkpoint
    except Exception as error:
        what = textwrap.shorten(str(error), 400, placeholder=" ...")
        raise CheckpointDamaged(
            f"the checkpoint of step {step} is damaged: {directory / str(step) / 'state'} cannot be read "
            f"({type(error).__name__}: {what})"
        ) from error
    finally:
        handler.close()
    arrays = {path: np.asarray(leaf) for path, leaf in _flatten(tree)[0]}
    for path, leaf in leaves:
        if leaf.size == 0:
            empty = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
            arrays[path] = np.zeros(empty.shape, empty.dtype)
    changed = [path for path, (_, _, crc32) in record["leaves"].items() if crc32 not in (None, _crc32(arrays[path]))]
    if changed:
        raise CheckpointDamaged(
            f"the checkpoint of step {step} is damaged: in {directory / str(step) / 'state'} {len(changed)} of "
            f"{len(arrays)} leaves changed after they were saved (crc32 differs): {', '.join(changed[:_SHOWN])}"
        )
    return arrays, record


@functools.cache
def _settling_reader() -> "ocp.type_handlers.TypeHandler":
    """Orbax's reader of arrays, except that an array that cannot be read is told of after all have been tried.

    Orbax raises the first error at once and closes its event loop, to which the reads still going on then report: each
    would print a traceback about that.
    """
    import orbax.checkpoint as ocp

    class SettlingReader(ocp.type_handlers.NumpyHandler):
        async def deserialize(self, infos, args=None):
            read, args = super().deserialize, args or [ocp.RestoreArgs()] * len(infos)
            each = (read([info], [arg]) for info, arg in zip(infos, args, strict=True))
            results = await asyncio.gather(*each, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            return [array for (array,) in results]

    return SettlingReader()


def _check_same_model(directory: "epath.Path", step: int, expected: dict[str, list], record: dict[str, Any]) -> None:
    found = {path: leaf[:2] for path, leaf in record["leaves"].items()}
    paths = [*expected, *(path for path in found if path not in expected)]
    differing = [path for path in paths if expected.get(path) != found.get(path)]
    if not differing:
        return

    def text(leaf: list | None) -> str:
        return "nothing" if leaf is None else f"{leaf[1]}{leaf[0]}"

    doubled = {"float32": "float64", "int32": "int64", "uint32": "uint64", "complex64": "complex128"}
    doubled |= {wide: narrow for narrow, wide in doubled.items()}
    if all(p in found and p in expected for p in differing) and all(
        found[p][0] == expected[p][0] and doubled.get(found[p][1]) == expected[p][1] for p in differing
    ):
        wide = "64" in expected[differing[0]][1] or "128" in expected[differing[0]][1]
        here, there = ("on", "off") if wide else ("off", "on")
        raise CheckpointMismatch(
            f"the checkpoint of step {step} in {directory} was saved with jax_enable_x64 {there}, and it is {here} "
            f"now: {len(differing)} of {len(paths)} leaves have the other precision, such as "
            f"{differing[0] or 'the state'} ({found[differing[0]][1]} there, {expected[differing[0]][1]} here). "
            f"Switch it {there}: set "
            f"JAX_ENABLE_X64={int(not wide)}, or jax.config.update('jax_enable_x64', {not wide})"
        )

    lines = [f"{p or 'the state'}: expected {text(expected.get(p))}, found {text(found.get(p))}" for p in differing]
    if len(lines) > _SHOWN:
        lines = [*lines[:_SHOWN], f"... and {len(lines) - _SHOWN} more"]
    metadata = f" It was saved with {json.dumps(record['metadata'])}." if record["metadata"] else ""
    raise CheckpointMismatch(
        f"the checkpoint of step {step} in {directory} is of another model: {len(differing)} of {len(paths)} leaves "
        "differ:\n  " + "\n  ".join(lines) + f"\nBuild the state with the configuration of that run, or use another "
        f"directory.{metadata}"
    )


def _place(values: np.ndarray, like: Any, key_impl: str | None) -> Any:
    """Host values to where the template's leaf is, keeping what jit looks at (commitment, weak type): no retrace."""
    if isinstance(like, np.ndarray | np.generic):
        return values
    # An array that was never committed (fresh from init) may still follow others to any device; so may its successor.
    sharding = like.sharding if getattr(like, "committed", True) else None
    if sharding is not None and not sharding.is_fully_addressable:
        array = jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
    elif getattr(like, "weak_type", False) and values.ndim == 0:
        array = jax.device_put(values.item(), sharding)
    else:
        array = jax.device_put(values, sharding)
    return array if key_impl is None else jax.random.wrap_key_data(array, impl=key_impl)


# ----------------------------------------------------------------------------------------- directories and failures


def _is_path(source: Any) -> bool:
    return isinstance(source, str | os.PathLike)


def _directory(path: str | os.PathLike) -> "epath.Path":
    """An absolute path (Orbax insists), or a bucket's address as it is."""
    from etils import epath  # comes with orbax

    if "://" in os.fspath(path):
        return epath.Path(path)
    return epath.Path(os.path.abspath(local(path, "the directory of checkpoints")))


def _check_writable(path: "epath.Path") -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if "://" not in os.fspath(path):
            with tempfile.TemporaryFile(dir=path):  # asks the file system itself: read-only mounts fool os.access
                pass
    except OSError as error:
        kind = NotADirectoryError if isinstance(error, FileExistsError) else type(error)
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise kind(
            error.errno,
            f"checkpoints cannot be written to {path}: {reason}. Choose a directory that can be created and written",
        ) from error


def _move_aside(manager: "ocp.CheckpointManager", steps: list[int]) -> None:
    """Rename damaged steps so that their numbers are free again; nothing is deleted."""
    if jax.process_index() == 0:
        for step in steps:
            path = manager.directory / str(step)
            number = 1
            while (path.parent / f"{step}.damaged-{number}").exists():
                number += 1
            path.rename(path.parent / f"{step}.damaged-{number}")
    _worst_of_all_processes(0)  # a barrier: no process lists the steps before they are renamed
    manager.reload()


def _worst_of_all_processes(status: int) -> int:
    """The largest status over all processes, at the price of one small collective when there are several."""
    if jax.process_count() == 1:
        return status
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(status))))


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


def _raise_save_failed(manager: "ocp.CheckpointManager", step: int | None, error: Exception) -> None:
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
