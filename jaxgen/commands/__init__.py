"""The commands of `jaxgen COMMAND`: a module each, with `main(arguments) -> exit code`. They parse, call, and print."""

import contextlib
import importlib
import itertools
import sys

COMMANDS = {
    "train": "train a preset, or a system of your own",
    "sample": "draw images from a run",
    "edit": "pictures in, pictures out: translate, restore, complete, invert, walk, mix",
    "evaluate": "measure a run, or anybody's images against others",
    "report": "write a run's page anew",
    "describe": "what a preset is: networks, parameters, arithmetic, paper; without data or training",
    "cut": "photographs to pieces of one size, for networks that restore and enlarge",
    "convert": "images to files that training reads fast, also beyond memory",
    "plan": "whether a preset fits on TPUs or GPUs that are not there, compiled for them on this machine",
    "stability": "the stability laboratory: dirac, spectrum, sweep, collapse, atlas",
}

DOES_FIRST = {"train": "setting up", "describe": "building", "plan": "planning", "stability": "setting up"}
"""What a command begins with, in words; the others read what they are given."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        rows = "\n".join(f"  {name:<{width}}  {about}" for name, about in COMMANDS.items())
        print(f"usage: jaxgen COMMAND ...\n\ncommands (jaxgen COMMAND --help tells more):\n{rows}")
        return 0
    name, *rest = arguments
    if name == "--version":
        from jaxgen import __version__

        print(__version__)
        return 0
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? There is" if near else "there is"
        raise ValueError(f"there is no command {name!r}; {hint}: {', '.join(COMMANDS)}")
    command = importlib.import_module(f"jaxgen.commands.{name}")
    num_runs = {"report": len(rest), "sample": 1, "evaluate": 1, "edit": 1}.get(name, 0)  # that come first
    if not any("://" in argument for argument in rest[:num_runs]):
        return command.main(rest)
    from jaxgen import buckets

    with contextlib.ExitStack() as stack:  # runs in buckets are copied here, and back what was written into them
        runs = dict.fromkeys(run for run in rest[:num_runs] if buckets.is_bucket(run))
        copies = {run: str(stack.enter_context(buckets.reading(run))) for run in runs}
        return command.main([*(copies.get(run, run) for run in rest[:num_runs]), *rest[num_runs:]])


def run(name: str | None = None) -> None:
    """Runs the command that the command line names, or the one of this name, and ends the process."""
    from jaxgen import command_line

    arguments = [*([] if name is None else [name]), *sys.argv[1:]]
    if line := first_line(arguments):
        print(line, file=sys.stderr, flush=True)
    command_line.run(lambda: main(arguments))


def first_line(arguments: list[str]) -> str:
    """What is said before JAX is imported, which takes a second and more; "" for help and where nothing is to be done.

    >>> first_line(["sample", "runs/first", "--seed", "1"])
    'reading runs/first ...'
    """
    name, *rest = arguments or [""]
    if name not in COMMANDS or not (rest or name == "train") or {"-h", "--help"}.intersection(rest):
        return ""
    named = list(itertools.takewhile(lambda word: not word.startswith("-"), rest))
    if name == "edit":  # the run; what follows are the action and pictures
        named = named[:1]
    if not named:  # options come first
        named = ["the default preset"] if name in ("train", "plan") else rest[-1:]
    from jaxgen.names import show

    return f"{DOES_FIRST.get(name, 'reading')} {show(' '.join(named))} ..."
