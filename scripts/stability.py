#!/usr/bin/env python
"""The command `jaxgen stability`, for those who work in a clone: `scripts/stability.py --help`."""

from jaxgen.command_line import run
from jaxgen.commands import stability

if __name__ == "__main__":
    run(stability.main)
