"""Reading a checkpoint back, verified: the newest good one, or exactly one."""

import asyncio
import functools
import os
import textwrap
import warnings
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgen import files
from jaxgen.checkpoint.errors import CheckpointDamaged, CheckpointError
from jaxgen.checkpoint.leaves import SHOWN, check_same_model, crc32, flatten, is_key, place, signature
from jaxgen.checkpoint.record import read_record
from jaxgen.checkpoint.steps import all_steps, directory_of, move_aside, worst_of_all_processes
from jaxgen.checkpoint.writing import wait

if TYPE_CHECKING:
    import orbax.checkpoint as ocp
    from etils import epath


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
      None was divided over processes, and was verified part by part (`record["parts"]`).

    Raises:
      FileNotFoundError: when there is no checkpoint, or not that step.
      CheckpointMismatch: when the newest readable checkpoint is of another state. Never a reason to fall back.
      CheckpointDamaged: when `step`, or every step, is damaged.
    """
    directory, manager = directory_of(source), None if isinstance(source, str | os.PathLike) else source
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
        move_aside(manager, damaged)

    leaves, structure = flatten(template)
    placed = [place(host_leaves[path], leaf, record["keys"].get(path)) for path, leaf in leaves]
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
        worst = worst_of_all_processes(0 if error is None else 1 if isinstance(error, CheckpointDamaged) else 2)
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


def _read_verified(directory: "epath.Path", step: int, template: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The leaves of a step as host arrays by path (PRNG keys as their data), compared with its record."""
    import orbax.checkpoint as ocp

    record = read_record(directory, step)
    leaves, structure = flatten(template)
    check_same_model(directory, step, {path: signature(path, leaf) for path, leaf in leaves}, record)

    # The handler itself, without a manager: no barrier between processes that may disagree on what is damaged.
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, _settling_reader()))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    try:
        as_numpy = jax.tree.unflatten(structure, [ocp.RestoreArgs(restore_type=np.ndarray)] * len(leaves))
        placeholders = jax.tree.unflatten(structure, [np.zeros(())] * len(leaves))
        tree = handler.restore(
            directory / str(step) / "state", args=ocp.args.PyTreeRestore(item=placeholders, restore_args=as_numpy)
        )
    except MemoryError:
        raise  # says nothing about the checkpoint, as the next one
    except PermissionError as error:
        with files.explained(error.filename or directory / str(step) / "state", "read"):
            raise
    except Exception as error:
        what = textwrap.shorten(str(error), 400, placeholder=" ...")
        raise CheckpointDamaged(
            f"the checkpoint of step {step} is damaged: {directory / str(step) / 'state'} cannot be read "
            f"({type(error).__name__}: {what})"
        ) from error
    finally:
        handler.close()
    arrays = {path: np.asarray(leaf) for path, leaf in flatten(tree)[0]}
    for path, leaf in leaves:
        if leaf.size == 0:
            empty = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
            arrays[path] = np.zeros(empty.shape, empty.dtype)
    changed = [path for path, (_, _, digest) in record["leaves"].items() if digest not in (None, crc32(arrays[path]))]
    for path, of_leaf in record.get("parts", {}).items():
        cut = ((tuple(slice(*pair) for pair in bounds), digest) for bounds, digest in of_leaf)
        if any(crc32(arrays[path][part]) != digest for part, digest in cut):
            changed.append(path)
    if changed:
        raise CheckpointDamaged(
            f"the checkpoint of step {step} is damaged: in {directory / str(step) / 'state'} {len(changed)} of "
            f"{len(arrays)} leaves changed after they were saved (crc32 differs): {', '.join(changed[:SHOWN])}"
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
