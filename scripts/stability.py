#!/usr/bin/env python
"""The command `jaxgen stability`, for those who work in a clone: `scripts/stability.py --help`."""

from jaxgen import commands

if __name__ == "__main__":
    commands.run("stability")
