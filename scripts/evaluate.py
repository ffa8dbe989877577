#!/usr/bin/env python
"""The command `jaxgen evaluate`, for those who work in a clone: `scripts/evaluate.py --help`."""

from jaxgen import commands

if __name__ == "__main__":
    commands.run("evaluate")
