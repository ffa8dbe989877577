"""What a command line says before it is parsed: what means nothing is refused, and words of other programs are known.

An empty argument (most often a shell variable that is not set) would be read as the working directory, or as nothing
asked.
"""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jaxgen import buckets, local_path

OTHER_NAMES = {
    "--lr": "learning-rate",
    "--rate": "learning-rate",
    "--steps": "num-steps",
    "--iterations": "num-steps",
    "--max-steps": "num-steps",
    "--total-steps": "num-steps",
    "--n": "num-images",
    "-n": "num-images",
    "--num": "num-images",
    "--num-samples": "num-images",
    "--bs": "batch-size",
    "--batch": "batch-size",
    "--out": "output",
    "-o": "output",
    "--output": "directory",
    "--dir": "directory",
    "--output-dir": "directory",
    "--log-dir": "directory",
    "--data-dir": "data.path",
    "--dataset": "data.name",
    "--image-size": "data.image-size",
    "--classes": "label",
    "--class": "label",
}
"""What other programs call an option, and the end of its name here."""

_ELSEWHERE = {
    "wgan": "wasserstein",
    "wgan-gp": "wasserstein, with --gradient-penalty 10",
    "lsgan": "least_squares",
    "mse": "least_squares",
    "bce": "non_saturating",
    "vanilla": "non_saturating",
    "ns": "non_saturating",
    "nsgan": "non_saturating",
    "rpgan": "relativistic",
    "rgan": "relativistic",
}
"""What other programs call a loss."""


_MAY_LIE_IN_A_BUCKET = ("--directory", "--start-from")


def check(arguments: Sequence[str]) -> None:
    """Refuses empty arguments, and addresses where none is taken.

    Runs alone may lie in a bucket; those that a command reads are copies by now.

    Raises:
      ValueError: naming the option that the argument belongs to.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, value = argument.partition("=") if argument.startswith("--") else (before, "", argument)
        whose = option if option.startswith("-") else "the argument"
        if not argument or (equals and not value):
            raise ValueError(f"{whose} is empty: '' names nothing; is a shell variable not set?")
        if local_path.is_address(value) and not (whose in _MAY_LIE_IN_A_BUCKET and buckets.is_bucket(value)):
            local_path.local(value, whose)


def suggest(arguments: Sequence[str], known: Sequence[str]) -> None:
    """Says what options are called here that other programs have under another name.

    Args:
      arguments: the command line.
      known: the options that there are, such as `--generator.learning-rate`.

    Raises:
      ValueError: for the first option of `OTHER_NAMES` that is not known while what it means is.
    """
    for argument in arguments:
        option = argument.partition("=")[0]
        if option in known or (ending := OTHER_NAMES.get(option)) is None:
            continue
        meant = [flag for flag in known if flag == f"--{ending}" or flag.endswith(f".{ending}")]
        if meant:
            raise ValueError(f"there is no option {option}; it is called {' and '.join(meant)} here")
    _suggest_near(arguments, known)


def _suggest_near(arguments: Sequence[str], known: Sequence[str]) -> None:
    """Names the options whose last word is nearly that of one that there is not: `--lerning-rate`."""
    by_ending: dict[str, list[str]] = {}
    for flag in known:
        by_ending.setdefault(flag.removeprefix("--").rpartition(".")[2], []).append(flag)
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        if not option.startswith("--") or option in known or option.startswith("--no-"):
            continue
        near = difflib.get_close_matches(option.removeprefix("--").rpartition(".")[2], by_ending, n=1, cutoff=0.8)
        if near and f"--{near[0]}" not in known:  # those are suggested in any case
            raise ValueError(f"there is no option {option}; did you mean {' or '.join(by_ending[near[0]])}?")


EPOCHS = ("--epochs", "--num-epochs", "--max-epochs", "--n-epochs")


def without(arguments: Sequence[str], options: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without the first of some options, and the value that it has; all of them and None without any."""
    for at, argument in enumerate(arguments):
        if argument.partition("=")[0] in options:
            end = at + (1 if "=" in argument else 2)
            return [*arguments[:at], *arguments[end:]], value_of(arguments[at:], argument.partition("=")[0])
    return list(arguments), None


def value_of(arguments: Sequence[str], option: str) -> str | None:
    """What stands after an option, or after its equals sign; None without it."""
    for argument, after in zip(arguments, [*arguments, None][1:], strict=True):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else after
    return None


def check_loss(arguments: Sequence[str], losses: Sequence[str]) -> None:
    """Says what a loss is called here that others call otherwise.

    Raises:
      ValueError: for one of those.
    """
    given = value_of(arguments, "--loss")
    if given is not None and given not in losses and (ours := _ELSEWHERE.get(given.lower())):
        raise ValueError(f"there is no loss {given!r}; it is called {ours} here. There is: {', '.join(losses)}")


def check_data(arguments: Sequence[str], sets: Sequence[str]) -> None:
    """Says how a set that does not come with the package is got.

    Raises:
      ValueError: for a name that is no embedded set and no way to open one's own.
    """
    given = value_of(arguments, "--data.name")
    if given is not None and given not in sets and not difflib.get_close_matches(given, sets, n=1):  # no mistyped one
        raise ValueError(
            f"{given!r} does not come with the package; there is: {', '.join(sets)}. Put its images into a folder (one "
            "folder a class) and give --data.name folder --data.path FOLDER, or take it from a hub: --data.name hub "
            "--data.path OWNER/NAME --data.image-size 32"
        )


def flags_of(config: Any, prefix: str = "") -> list[str]:
    """The options of a configuration: `--num-steps`, `--data.path`, ..."""
    flags = []
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name.replace('_', '-')}"
        flags += flags_of(value, f"{name}.") if dataclasses.is_dataclass(value) else [f"--{name}"]
    return flags


def options_of(function: Callable) -> list[str]:
    """The options of a command that is a function, with their other names."""
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        found.append(f"--{name.removeprefix('as_').replace('_', '-')}")
        for extra in getattr(parameter.annotation, "__metadata__", ()):
            found += getattr(extra, "aliases", None) or ()
    return found


def take_numbers(arguments: list[str], option: str, count: int) -> tuple[int, ...] | None:
    """Takes an option with whole numbers out of the arguments.

    Args:
      arguments: the command line, which is changed.
      option: such as "--image-shape".
      count: how many numbers follow it.

    Raises:
      ValueError: for anything else after it.
    """
    if option not in arguments:
        return None
    at = arguments.index(option)
    values = arguments[at + 1 : at + 1 + count]
    del arguments[at : at + 1 + count]
    least = 0 if option == "--num-classes" else 1
    if len(values) < count or not all(value.isdecimal() and int(value) >= least for value in values):
        what = {1: "a whole number of at least 0", 3: "three whole numbers: height, width, channels"}[count]
        raise ValueError(f"{option} takes {what}, not {' '.join(values) or 'nothing'}")
    return tuple(map(int, values))


def take_flag(arguments: list[str], option: str) -> bool:
    """Takes an option without a value out of the arguments; returns whether it was there."""
    there = option in arguments
    if there:
        arguments.remove(option)
    return there
