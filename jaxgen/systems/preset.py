"""A preset: a configuration with where it comes from and what it reaches."""

from typing import Any, NamedTuple

Settings = dict[str, Any]
"""Some of the settings of a configuration, for several presets."""


class Preset(NamedTuple):
    """A named experiment.

    about: one line for --help.
    config: of its system.
    paper: whose it is.
    published: the number there, with its protocol.
    measured: what it reached here, with its protocol, machine and date; empty where nobody has run it to its end.
    spec: shape of the images and number of classes, where the data do not come with the package: (32, 32, 3), 10.
    """

    about: str
    config: Any
    paper: str = ""
    published: str = ""
    measured: str = ""
    spec: tuple[tuple[int, int, int], int] | None = None
