#!/usr/bin/env python
"""The command `jaxgen train`, for those who work in a clone: `scripts/train.py --help`."""

from jaxgen import commands

if __name__ == "__main__":
    commands.run("train")
