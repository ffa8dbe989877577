"""Types of the public functions, and that the checker sees what users write."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CALLED_BY_PYTHON = ("__init__", "__call__", "__enter__", "__exit__", "__getattr__")


def public_functions(body, name=""):
    """(name, definition) of the functions and methods in a module or class that others call."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{name}{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name in CALLED_BY_PYTHON):
            yield f"{name}{node.name}", node


def untyped(function):
    """The arguments without a type, and "return" for a result without one."""
    taken = function.args
    arguments = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, *filter(None, (taken.vararg, taken.kwarg))]
    found = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
    return found + ([] if function.returns else ["return"])


def test_every_public_function_says_the_types_of_what_it_takes_and_returns():
    missing = {}
    for file in sorted((ROOT / "jaxgen").rglob("*.py")):
        for name, function in public_functions(ast.parse(file.read_text()).body):
            if found := untyped(function):
                missing[f"{file.relative_to(ROOT)}: {name}"] = found
    assert missing == {}


def test_a_function_without_types_is_found():
    source = (
        "class Box:\n    def put(self, what, *, how: str) -> None: ...\n\ndef _own(x): ...\n\ndef draw(n: int): ..."
    )
    found = {name: untyped(function) for name, function in public_functions(ast.parse(source).body)}
    assert found == {"Box.put": ["what"], "draw": ["return"]}


@pytest.mark.slow
def test_the_checker_passes_a_users_notebook_and_finds_what_is_wrong_in_another(tmp_path):
    pytest.importorskip("mypy")
    notebook = (ROOT / "tests" / "typing" / "notebook.py").read_text()
    wrong = {
        "latent_dim=64,\n        generator_optimizer": 'latent_dim="many",\n        generator_optimizer',
        'jaxgen.train(system, binary, "runs/mine", num_steps=1000)': "jaxgen.train(system, binary, num_steps=1000)",
        "result.step, int": "result.step, str",
        'return result.evaluation["eval/accuracy"]': "return result",
    }
    for right in wrong:
        assert right in notebook
    for number, text in enumerate([notebook, *(notebook.replace(*pair) for pair in wrong.items())]):
        (tmp_path / "user.py").write_text(text)
        command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", tmp_path / "user.py"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == (number > 0), done.stdout
