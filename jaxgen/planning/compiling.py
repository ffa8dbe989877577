"""Compiling one program for one target, in a process of its own: a process knows the devices of one target alone.

`compiled` starts it and waits; `python -m jaxgen.planning.compiling RESULT` is that process, which takes the task from
its standard input. What was read from a compiled program is kept in the user's cache, by the text of the program before
it was compiled, the versions of the compilers and the target.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxgen import command_line, files
from jaxgen.planning import targets

NEEDS = {
    "tpu": (("libtpu",), "the compiler for TPUs, which runs on any Linux machine: pip install 'jaxgen[plan]'"),
    "gpu": (
        ("jax_cuda12_plugin", "jax_cuda13_plugin"),
        "the compiler for GPUs, which needs none to run: pip install 'jax[cuda12]', in an environment of its own",
    ),
}
"""Kind of device -> packages of which one has to be there, and how to get them."""

VERSIONS = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
LAYOUT = 2  # of a kept record: another number makes all older ones unread


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be compiled.

    Attributes:
      arguments: of the command line: a preset and its settings.
      target: a name of `targets.target`.
      program: one of `programs.KINDS`.
      image_shape, num_classes: of other data than the preset's.
    """

    arguments: tuple[str, ...]
    target: str
    program: str = "train"
    image_shape: tuple[int, int, int] | None = None
    num_classes: int | None = None

    def with_settings(self, *arguments: str) -> "Task":
        """The same with settings, flag by flag with its value, in the place of those that it had."""
        rest = list(self.arguments)
        for flag in arguments[::2]:
            while flag in rest:
                del rest[rest.index(flag) : rest.index(flag) + 2]
            rest = [word for word in rest if not word.startswith(f"{flag}=")]
        return dataclasses.replace(self, arguments=(*rest, *arguments))


Record = dict[str, Any]
"""Plain data of one compiled program: see `_record`."""


def check_installed(target: targets.Target) -> None:
    """Raises an ImportError where the compiler for a target is not installed, with how to get it."""
    packages, what = NEEDS.get(target.device.kind, ((), ""))
    if packages and not any(importlib.util.find_spec(name) for name in packages):
        raise ImportError(f"a plan for {target.name} needs {what}")


def versions() -> dict[str, str]:
    """Of the compilers that are installed."""
    found = {}
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def compiled(task: Task, tell: Callable[[float], None] | None = None) -> Record | None:
    """What a program needs on a target: compiled by another process, or kept from an earlier time.

    Args:
      task: which.
      tell: is called every second, with those that have passed.

    Returns:
      See `_record`; None where the system has no such program.

    Raises:
      ImportError: where the target's compiler is not installed.
      ValueError: for settings that do not fit together, in the words of what refuses them.
      RuntimeError: for a compiler that fails, with what it said last.
    """
    target = targets.target(task.target)
    check_installed(target)
    with tempfile.TemporaryDirectory(prefix="jaxgen-plan-") as directory:
        result, said = Path(directory) / "result.json", Path(directory) / "said.txt"
        with said.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "jaxgen.planning.compiling", str(result)],
                env=environment_for(target),
                stdin=subprocess.PIPE,
                stdout=stderr,
                stderr=stderr,
            )
            try:
                _wait(process, json.dumps(dataclasses.asdict(task)).encode(), tell)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if not result.exists():
            last = (said.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1][:500]
            raise RuntimeError(f"the compiler for {task.target} ended with exit code {process.returncode}: {last}")
        found = json.loads(result.read_text())
    if found and "error" in found:
        raise {"ImportError": ImportError, "ValueError": ValueError}.get(found["kind"], RuntimeError)(found["error"])
    return found


def environment_for(target: targets.Target) -> dict[str, str]:
    """Of a process that compiles for a target: this one's, without what would be in its way."""
    found = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    root = str(Path(__file__).parents[2])
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [root, found.get("PYTHONPATH", "")]))
    if target.device.kind == "tpu" and "XLA_FLAGS" in found:  # libtpu ends a process for a flag that it does not know
        flags = [flag for flag in found["XLA_FLAGS"].split() if not flag.startswith(("--xla_cpu_", "--xla_gpu_"))]
        found["XLA_FLAGS"] = " ".join(flags)
    return found | target.environment


def _wait(process: subprocess.Popen, task: bytes, tell: Callable[[float], None] | None) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(task)
        process.stdin.close()
    began = time.monotonic()
    while True:
        try:
            process.wait(timeout=1)
            return
        except subprocess.TimeoutExpired:
            if tell is not None:
                tell(time.monotonic() - began)


# In the process that compiles -----------------------------------------------------------------------------------------


def _devices(target: targets.Target) -> list[Any]:
    import jax
    from jax.experimental import topologies

    if target.device.kind == "cpu":
        return jax.devices()
    if target.device.kind == "tpu":
        return topologies.get_topology_desc(target.name, platform="tpu").devices
    from jaxgen.planning import gpus

    count = target.shape[0]
    described = topologies.get_topology_desc(platform="cuda", target_config=gpus.H100, topology=f"1x1x{count}")
    return described.devices


def _compile(task: Task) -> Record | None:
    """Of the process that compiles: the record of one program."""
    import jax
    import numpy as np

    from jaxgen import sharding
    from jaxgen.commands import train
    from jaxgen.planning import programs

    target = targets.target(task.target)
    chosen = train.parse(list(task.arguments), "plan")
    parts = programs.parts_of(chosen.config, chosen.preset, task.image_shape, task.num_classes)
    mesh = jax.sharding.Mesh(np.array(_devices(target)).reshape(-1), (sharding.AXIS,))
    program = programs.program(task.program, parts, mesh)
    if program is None:
        return None
    began = time.monotonic()
    lowered = program.run.lower(*program.arguments)
    kept = _kept_at(lowered.as_text(), target)
    with contextlib.suppress(OSError, ValueError):
        return json.loads(kept.read_text()) | {"kept": True}
    seconds = {"lowering": time.monotonic() - began}
    began = time.monotonic()
    record: Record = {
        "program": task.program,
        "target": task.target,
        "devices": mesh.size,
        "batch_size": parts.system.images_per_step,
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    record |= _read(lowered, program, target, mesh.size)
    record["seconds"] = seconds | {"compiling": time.monotonic() - began}
    with contextlib.suppress(OSError):  # a cache that cannot be written costs the cache alone
        kept.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(kept, files.json_bytes(record))
    return record | {"kept": False}


def _kept_at(text: str, target: targets.Target) -> Path:
    digest = hashlib.sha256(text.encode())
    flags = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    digest.update(json.dumps([LAYOUT, target.name, versions(), flags], sort_keys=True).encode())
    return command_line.cache_directory() / "plans" / f"{digest.hexdigest()[:32]}.json"


def _read(lowered: Any, program: Any, target: targets.Target, devices: int) -> Record:
    """What the compiler makes of it.

    Returns:
      `fits_compiler`: False where the compiler refuses a program that is too large, with `needed` and `there` (bytes),
      and nothing else. Otherwise `memory` (see `reading.memory`), `collectives`, `precision`, `operations` (of a device
      and step, in convolutions and products of matrices), `bytes_accessed` (likewise, loops inside of a step once; None
      where the compiler does not tell), `padding`, `filling` and `narrowest` (None, None and [] where the target has no
      matrix unit).
    """
    import jax

    from jaxgen.planning import reading

    try:
        done = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if (found := reading.out_of_memory(str(error))) is None:
            raise
        return {"fits_compiler": False, "needed": found[0], "there": found[1]}
    text = done.as_text()
    products = reading.products(text)
    cost = done.cost_analysis() or {}
    width, names = target.device.matrix_unit, list(inspect.signature(program.run).parameters)
    return {
        "fits_compiler": True,
        "memory": reading.memory(done, reading.arguments(text, program.groups, names)),
        "collectives": reading.collectives(text),
        "precision": reading.precision(products),
        "operations": reading.operations(products) or program.operations / devices,
        "bytes_accessed": cost.get("bytes accessed"),
        "padding": reading.padding(products, width) if width > 1 else None,
        "filling": reading.filling(products) if width > 1 else None,
        "narrowest": reading.narrowest(products, width) if width > 1 else [],
    }


def _main(result: Path, given: Mapping[str, Any]) -> None:
    shape = given["image_shape"]
    task = Task(**dict(given) | {"arguments": tuple(given["arguments"]), "image_shape": shape and tuple(shape)})
    try:
        found = _compile(task)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError, MemoryError) as error:
        if os.environ.get("JAXGEN_TRACEBACK"):
            raise
        kind = next((k.__name__ for k in (ImportError, ValueError) if isinstance(error, k)), "RuntimeError")
        found = {"error": str(error), "kind": kind}
    files.write_atomically(result, files.json_bytes(found))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), json.load(sys.stdin))
