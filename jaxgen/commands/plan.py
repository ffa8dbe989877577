"""Whether a preset fits on devices that are not there: `jaxgen plan PRESET --on v5e:2x4 [any setting]`."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from jaxgen import command_line
from jaxgen.commands import words

HELP = """usage: {program} [PRESET or FILE.py] --on TARGET [--largest-batch] [--compare] [--json]
       [--image-shape H W C] [--num-classes N] [settings]

Compiles what a training runs, with the target's own compiler, on this machine, which needs no such device. Tells
whether it fits and how much memory a device needs, what the devices tell one another, in which precision convolutions
are, and how fast a step can be at most. It computes nothing, reads no images of yours, and says no time: a bound is
none.

  --on TARGET           devices: {targets}
  --largest-batch       the largest batch that fits (a compilation for each that is tried)
  --compare             other settings that may save memory, each compiled: slices, precision, ...
  --json                one JSON object
  --image-shape H W C   of the images, where the data are not there or others are meant
  --num-classes N       of their labels
  settings              any of `{train} PRESET --help`, such as --batch-size 512 --precision bfloat16

Returns 0 where it fits, 1 where it does not, 2 for an error. TPUs need libtpu (pip install 'jaxgen[plan]'), GPUs
jax[cuda12]. What was compiled once is kept in the user's cache.

examples:
  {program} mnist-dcgan --on v5e:2x4 --batch-size 1024 --precision bfloat16
  {program} mnist-vae --on cpu:8 --largest-batch
"""


def main(arguments: list[str] | None = None) -> int:
    """Prints a plan; returns 0 where the training fits, 1 where it does not."""
    from jaxgen.planning import targets

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        told = {"program": command_line.program("plan"), "train": command_line.program("train")}
        print(HELP.format(targets=_wrapped(targets.EXAMPLES), **told))
        return 0
    words.check(arguments)
    shape: Any = words.take_numbers(arguments, "--image-shape", 3)
    num_classes = words.take_numbers(arguments, "--num-classes", 1)
    as_json, largest, compare = (words.take_flag(arguments, f) for f in ("--json", "--largest-batch", "--compare"))
    given, on = words.without(arguments, ["--on"])
    if on is None or on.startswith("-"):
        raise ValueError(f"--on says for which devices: {', '.join(targets.EXAMPLES)}")
    target = targets.target(on)

    from jaxgen.commands import train
    from jaxgen.planning import answering, compiling, telling

    compiling.check_installed(target)
    chosen = train.parse(given, "plan")
    task = compiling.Task(tuple(given), on, "train", shape, None if num_classes is None else num_classes[0])
    record = answering.plan(task, chosen.config, _compile(), largest=largest, compare=compare)
    record = {"preset": chosen.name} | record
    print(json.dumps(record, indent=2) if as_json else telling.tell(chosen.name, record))
    return 1 if record["fits"] is False else 0


def _wrapped(names: tuple[str, ...]) -> str:
    half = len(names) // 2
    return ", ".join(names[:half]) + ",\n" + 24 * " " + ", ".join(names[half:])


def _compile() -> Callable:
    """`compiling.compiled` that says on stderr what it does: minutes of silence look like a program that hangs."""
    from jaxgen.planning import compiling, programs

    def compile(task: Any) -> Any:
        with _told(f"compiling {programs.KINDS[task.program]} for {task.target}{_changed(task)}") as tell:
            return compiling.compiled(task, tell)

    return compile


def _changed(task: Any) -> str:
    """The settings of a task, of which the last ones are what is tried."""
    settings = task.arguments[0 if task.arguments and task.arguments[0].startswith("-") else 1 :]
    return f" ({' '.join(settings)})" if settings else ""


@contextlib.contextmanager
def _told(what: str) -> Iterator[Callable[[float], None]]:
    on_terminal, said = sys.stderr.isatty(), [0.0]

    def tell(seconds: float) -> None:
        if on_terminal:
            print(f"\r{what} ... {seconds:.0f} s", end="", file=sys.stderr, flush=True)
        elif seconds - said[0] >= 30:
            said[0] = seconds
            print(f"{what} ... {seconds:.0f} s", file=sys.stderr, flush=True)

    print(f"{what} ...", end="" if on_terminal else "\n", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        yield tell
    finally:
        if on_terminal:
            print(f"\r{what}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
