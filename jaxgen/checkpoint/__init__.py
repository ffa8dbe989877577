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

from jaxgen.checkpoint.errors import CheckpointDamaged, CheckpointError, CheckpointMismatch, SaveFailed
from jaxgen.checkpoint.leaves import with_frozen, without_frozen
from jaxgen.checkpoint.reading import restore
from jaxgen.checkpoint.record import read_record
from jaxgen.checkpoint.steps import all_steps, latest_step
from jaxgen.checkpoint.writing import close, open_checkpoints, save, wait

__all__ = [
    "CheckpointDamaged",
    "CheckpointError",
    "CheckpointMismatch",
    "SaveFailed",
    "all_steps",
    "close",
    "latest_step",
    "open_checkpoints",
    "read_record",
    "restore",
    "save",
    "wait",
    "with_frozen",
    "without_frozen",
]
