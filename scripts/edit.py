#!/usr/bin/env python
"""The command `jaxgen edit`, for those who work in a clone: `scripts/edit.py --help`."""

from jaxgen import commands

if __name__ == "__main__":
    commands.run("edit")
