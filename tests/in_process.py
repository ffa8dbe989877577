"""Commands called in the process of a test, with the exit code that a shell would see."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from jaxgen import command_line

SCRIPTS = Path(__file__).parent.parent / "scripts"


def script(name: str) -> ModuleType:
    """A command as a fresh module, which a test may change."""
    spec = importlib.util.find_spec(f"jaxgen.commands.{name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(name: str, *arguments) -> int:
    """Runs a command; returns its exit code."""
    with pytest.raises(SystemExit) as end:
        command_line.run(lambda: script(name).main([str(argument) for argument in arguments]))
    return end.value.code or 0
