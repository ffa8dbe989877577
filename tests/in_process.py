"""Commands called in the process of a test, with the exit code that a shell would see."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from jaxgen import command_line

SCRIPTS = Path(__file__).parent.parent / "scripts"


def script(name: str) -> ModuleType:
    """A command's module."""
    return importlib.import_module(f"jaxgen.commands.{name}")


def call(name: str, *arguments) -> int:
    """Runs a command; returns its exit code."""
    with pytest.raises(SystemExit) as end:
        command_line.run(lambda: script(name).main([str(argument) for argument in arguments]))
    return end.value.code or 0
