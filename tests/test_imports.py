"""Modules that many others need can be the first that are imported, as commands over several hosts do it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["console", "hosts", "loop.agreement", "sharding", "data", "opening"])
def test_a_module_can_be_the_first_one_that_is_imported(name):
    done = subprocess.run([sys.executable, "-c", f"import jaxgen.{name}"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
