#!/usr/bin/env python
"""The command `jaxgen sample`, for those who work in a clone: `scripts/sample.py --help`."""

from jaxgen import commands

if __name__ == "__main__":
    commands.run("sample")
