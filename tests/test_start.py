"""What a command does in its first second: it says what it is about, and imports nothing that it does not need yet."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxgen import commands

ROOT = Path(__file__).parents[1]
HEAVY = ("jax", "flax", "optax", "orbax", "matplotlib", "tensorboardX", "PIL", "numpy")


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)


def imported_by(*arguments: str) -> set[str]:
    """Which of the heavy packages a command line has imported by its end."""
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('\\nimported:', *[name for name in {HEAVY} if name in sys.modules]))\n"
        "from jaxgen import commands\n"
        "commands.run()\n"
    )
    done = python(code, *arguments)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("imported:")[2].split())


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["report", "--help"], ["describe", "--help"], ["plan", "--help"]],
)
def test_help_that_is_a_text_imports_nothing(arguments):
    assert imported_by(*arguments) == set()


@pytest.mark.parametrize(
    "arguments",
    [["sample", "--help"], ["evaluate", "--help"], ["evaluate", "--table", "--help"], ["stability", "--help"]]
    + [["stability", name, "--help"] for name in ("dirac", "spectrum", "sweep", "collapse", "atlas")],
)
def test_help_of_options_imports_no_jax(arguments):
    assert imported_by(*arguments) <= {"numpy"}


@pytest.mark.parametrize("arguments", [["train", "--help"], ["train", "mnist-dcgan", "--help"]])
def test_help_of_presets_imports_nothing_that_only_a_run_needs(arguments):
    assert imported_by(*arguments) <= {"jax", "flax", "optax", "numpy"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train"], "setting up the default preset ..."),
        (["train", "--num-steps", "20"], "setting up the default preset ..."),
        (["evaluate", "--table", "runs"], "reading runs ..."),
        (["train", "mnist-dcgan", "--num-steps", "20"], "setting up mnist-dcgan ..."),
        (["sample", "runs/first", "--seed", "1"], "reading runs/first ..."),
        (["evaluate", "runs/first", "mnist:test"], "reading runs/first mnist:test ..."),
        (["report", "runs/first"], "reading runs/first ..."),
        (["describe", "mnist-dcgan", "--json"], "building mnist-dcgan ..."),
        (["plan", "mnist-dcgan", "--on", "cpu"], "planning mnist-dcgan ..."),
        (["stability", "sweep", "ring"], "setting up sweep ring ..."),
    ],
)
def test_what_a_command_does_is_said_before_jax_is_imported(arguments, line):
    assert commands.first_line(arguments) == line
    # With None in its place, an import of JAX is an error: whatever was said was said before.
    done = python("import sys; sys.modules['jax'] = None; from jaxgen import commands; commands.run()", *arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == line


def test_a_name_with_escape_sequences_is_not_obeyed_by_the_terminal():
    assert "\x1b" not in commands.first_line(["sample", "runs/\x1b[2J"])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train", "--help"], ["stability"], ["report"], ["nothing"]])
def test_nothing_is_said_where_only_a_text_is_printed(arguments):
    assert commands.first_line(arguments) == ""


def test_ctrl_c_while_modules_are_imported_is_an_interrupt_and_no_fault(tmp_path):
    # A module that is being imported for long, as JAX is on a busy machine.
    (tmp_path / "slow.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    code = "from jaxgen import command_line\ncommand_line.run(lambda: __import__('slow'))"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
    ) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "interrupted\n")
