"""What is saved beside a state: JSON, with a crc32 of every leaf and one of itself."""

import json
import os
from typing import TYPE_CHECKING, Any

from jaxgen import __version__, files
from jaxgen.checkpoint.errors import CheckpointDamaged, CheckpointMismatch
from jaxgen.checkpoint.steps import all_steps, directory_of

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

FORMAT = 1


def read_record(source: "ocp.CheckpointManager | str | os.PathLike", step: int) -> dict[str, Any]:
    """Read what was saved beside a state, without the state.

    Returns:
      A dict: `format`, `jaxgen` (version), `step`, `leaves` (path -> [shape, dtype, crc32 or None]), `keys`
      (path -> implementation of a typed PRNG key), `metrics`, `metadata`, `crc32` (of all the rest). Where leaves were
      divided over processes, `parts`, too (path -> [[start, stop] of each dimension, crc32] of each part).

    Raises:
      FileNotFoundError: when there is no such step.
      CheckpointDamaged: when the record is missing, unreadable or changed.
      CheckpointMismatch: when a newer jaxgen wrote it.
    """
    directory = directory_of(source)
    if not (directory / str(step)).is_dir():
        raise FileNotFoundError(f"no checkpoint of step {step} in {directory}; available steps: {all_steps(directory)}")
    path = directory / str(step) / "record" / "metadata"
    damaged = f"the checkpoint of step {step} is damaged: its record {path}"
    try:
        with files.explained(path, "read"):
            record = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointDamaged(f"{damaged} is missing") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise CheckpointDamaged(f"{damaged} is no file") from error
    except ValueError as error:  # not JSON, or not even text
        raise CheckpointDamaged(f"{damaged} is not readable as JSON ({error})") from error
    if not isinstance(record, dict) or record.get("crc32") != files.record_crc32(record):
        raise CheckpointDamaged(f"{damaged} was changed after it was written (crc32 differs)")
    if record["format"] > FORMAT:
        raise CheckpointMismatch(
            f"{path} has format {record['format']}, written by jaxgen {record['jaxgen']}; this is jaxgen {__version__} "
            f"and reads up to format {FORMAT}. Upgrade jaxgen to read it."
        )
    return record
