#!/usr/bin/env python
"""The command `jaxgen sample`, for those who work in a clone: `scripts/sample.py --help`."""

from jaxgen.command_line import run
from jaxgen.commands import sample

if __name__ == "__main__":
    run(sample.main)
