"""What would save memory: other settings of the same training, each to be compiled and compared.

`OPTIONS` names the settings that every run has for it: another one needs a line there, and nothing else.
"""

import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxgen import options


class Option(NamedTuple):
    """Another setting.

    Attributes:
      name: what it is called in a table.
      arguments: of the command line.
    """

    name: str
    arguments: tuple[str, ...]


def _micro_batches(config: Any, devices: int) -> list[str]:
    """Twice and four times as many slices, where the batch can be divided so."""
    numbers = [config.micro_batches * times for times in (2, 4)]
    return [str(number) for number in numbers if config.batch_size % (number * devices) == 0]


def _precision(config: Any, devices: int) -> list[str]:
    return ["bfloat16"] if config.precision == "float32" else []


def _others(name: str) -> Callable[[Any, int], list[str]]:
    """All other values of a choice."""

    def values(config: Any, devices: int) -> list[str]:
        kind, now = typing.get_type_hints(type(config))[name], getattr(config, name)
        return [value for value in typing.get_args(kind) if value != now]

    return values


OPTIONS: dict[str, Callable[[Any, int], list[str]]] = {
    "micro_batches": _micro_batches,
    "precision": _precision,
    "remat": _others("remat"),
    "state": _others("state"),
}
"""Name of a setting -> (configuration, number of devices) -> the values that may save memory, as flags take them."""


def alternatives(config: options.Run, devices: int) -> list[Option]:
    """The settings to compare with those of a configuration, one changed in each."""
    found = []
    for name, values in OPTIONS.items():
        flag = f"--{name.replace('_', '-')}"
        found += [Option(f"{flag} {value}", (flag, value)) for value in values(config, devices)]
    return found
