#!/usr/bin/env python
"""The command `jaxgen evaluate`, for those who work in a clone: `scripts/evaluate.py --help`."""

from jaxgen.command_line import run
from jaxgen.commands import evaluate

if __name__ == "__main__":
    run(evaluate.main)
