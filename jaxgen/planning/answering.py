"""The plan of a preset on a target: its programs compiled, and what follows from them."""

from collections.abc import Callable
from typing import Any

from jaxgen import memory
from jaxgen.planning import comparing, fitting, programs, targets
from jaxgen.planning.compiling import Record, Task

Compile = Callable[[Task], Record | None]
"""`compiling.compiled`, with its progress told."""

WITHIN = 1 / 32  # of the largest batch: each try is a compilation


def plan(task: Task, config: Any, compile: Compile, *, largest: bool = False, compare: bool = False) -> Record:
    """What a training needs on a target.

    Args:
      task: the preset with its settings, and the target.
      config: these settings.
      compile: compiles one program.
      largest: whether to look for the largest batch.
      compare: whether to compile other settings, which may save memory.

    Returns:
      A record of plain data: `target`, `device` (its public figures), `there` (bytes of a device), `programs` (kind ->
      see `compiling`), `needed` (bytes of a device, kind -> with what lies beside it in a training), `fits`, `bounds`
      (see `bounds`), and as asked `largest_batch` and `compared`.

    Raises:
      ImportError, ValueError, RuntimeError: as `compiling.compiled`.
    """
    target = targets.target(task.target)
    found = {}
    for kind in programs.KINDS:
        one = compile(Task(**(vars(task) | {"program": kind})))
        if one is not None:
            found[kind] = one
        if kind == "train" and one is not None and not one["fits_compiler"]:
            break  # there is no training in which the others could run
    there = _there(target, found["train"])
    needed = {kind: needed_of(one, found["train"]) for kind, one in found.items()}
    refused = not all(one["fits_compiler"] for one in found.values())
    record: Record = {
        "target": target.name,
        "device": vars(target.device) | {"operations": dict(target.device.operations)},
        "there": there,
        "programs": found,
        "needed": needed,
        "fits": None if there is None else not refused and max(needed.values()) <= there,
        "bounds": bounds(found["train"], target.device),
    }
    if largest:
        record["largest_batch"] = _largest(task, config, compile, there, found["train"]["devices"])
    if compare:
        record["compared"] = _compared(task, config, compile, found["train"])
    return record


def _there(target: targets.Target, train: Record) -> int | None:
    """Bytes of a device: what its compiler says, or its maker, or this machine."""
    if "there" in train:
        return train["there"]
    if target.device.kind != "cpu":
        return target.device.memory
    free = memory.free_of_machine()
    return None if free is None else free // train["devices"]


def needed_of(record: Record, train: Record) -> int:
    """Bytes of a device while a program runs in a training: the state and the data set lie there all the time."""
    if "memory" not in record:
        return record["needed"]
    own = record["memory"]
    if record["program"] == "train" or "memory" not in train:
        return own["needed"]
    resident = train["memory"]["state"] + train["memory"].get("data", 0)
    return resident + own["needed"] - own.get("variables", 0)


def bounds(train: Record, device: targets.Device) -> dict[str, float]:
    """Seconds that a step takes at least, from the peak figures of a device; {} where there are none.

    `arithmetic`: its convolutions and products of matrices at the peak rate of their precision. `memory`: the bytes
    that it reads and writes at the peak bandwidth. Both are bounds: a step takes longer than the larger of them.
    """
    found: dict[str, float] = {}
    if device.operations and "precision" in train:
        dtypes = [dtype for counts in train["precision"].values() for dtype in counts]
        rate = min((device.operations[d] for d in dtypes if d in device.operations), default=None)
        found |= {} if rate is None else {"arithmetic": train["operations"] / rate}
    if device.bandwidth and train.get("bytes_accessed"):
        found["memory"] = train["bytes_accessed"] / device.bandwidth
    return found


def _largest(task: Task, config: Any, compile: Compile, there: int | None, devices: int) -> Record | None:
    if there is None:
        return None

    def needed(batch: int) -> int:
        one = compile(task.with_settings("--batch-size", str(batch)))
        assert one is not None  # there is a train step always
        # A compiler keeps a part of the memory for itself, and refuses what would need that.
        return one["memory"]["needed"] if one["fits_compiler"] else max(one["needed"], there + 1)

    multiple = devices * config.micro_batches
    found = fitting.largest_batch(needed, there, start=config.batch_size, multiple=multiple, within=WITHIN)
    return found._asdict()


def _compared(task: Task, config: Any, compile: Compile, train: Record) -> list[Record]:
    rows: list[Record] = [{"option": "as asked", "record": train}]
    for option in comparing.alternatives(config, train["devices"]):
        try:
            rows.append({"option": option.name, "record": compile(task.with_settings(*option.arguments))})
        except (ValueError, RuntimeError) as error:  # a system may forbid it, and says why
            rows.append({"option": option.name, "refused": str(error)})
    return rows
