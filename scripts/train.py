#!/usr/bin/env python
"""The command `jaxgen train`, for those who work in a clone: `scripts/train.py --help`."""

from jaxgen.command_line import run
from jaxgen.commands import train

if __name__ == "__main__":
    run(train.main)
