"""The settings of a sweep: one row a member, made as a grid and checked before anything is compiled."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Settings = Mapping[str, Any]
"""name -> [N], one number a member, among them `seed`."""


def product(*axes: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """All combinations of several axes, the last one changing fastest.

    Args:
      axes: each a dict of one or more lists of one length, which change together: `{"generator_rate": [0.1, 0.2],
        "discriminator_rate": [0.4, 0.2]}` is one axis of two points.

    Returns:
      name -> [N], where N is the product of the lengths.

    Raises:
      ValueError: for an axis that is empty or of lists of different lengths, or a name in two axes.
      MemoryError: for more members than memory has room for the settings of.

    >>> {name: column.tolist() for name, column in product({"r1": [0, 1]}, {"seed": [0, 1]}).items()}
    {'r1': [0, 0, 1, 1], 'seed': [0, 1, 0, 1]}
    """
    lengths: list[int] = []
    names: list[str] = []
    for axis in axes:
        length = {name: len(values) for name, values in axis.items()}
        if not length or min(length.values()) == 0:
            raise ValueError(f"an axis of the grid is empty: {', '.join(axis) or 'no name at all'}")
        if len(set(length.values())) > 1:
            raise ValueError(
                "the lists of one axis change together and must have one length, but "
                + ", ".join(f"{name} has {number}" for name, number in length.items())
            )
        lengths.append(next(iter(length.values())))
        names += axis
    if not axes:
        raise ValueError("the grid is empty: give at least one axis, such as {'seed': range(4)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"in two axes of the grid: {', '.join(twice)}")
    try:
        index = np.indices(lengths).reshape(len(lengths), -1)
        return {
            name: np.asarray(values)[rows]
            for axis, rows in zip(axes, index, strict=True)
            for name, values in axis.items()
        }
    except MemoryError as error:
        raise MemoryError(
            f"a grid of {math.prod(lengths):,} members: not even their settings fit into memory. Run it in parts"
        ) from error


def check_numbers(settings: Settings) -> None:
    """Raises a ValueError for numbers that no family can use, judged by the last part of their names.

    `..rate` above 0; `..clip` above 0, infinity for none; `..momentum` in (-1, 1); `seed` a whole number, at least 0;
    all others finite, and `r1`, `r2`, `gradient_penalty`, `beta`, `..weight`, `loss/..` and `weight/..` at least 0.
    """
    for name, values in settings.items():
        values = np.asarray(values)
        last = name.replace("/", "_").split("_")[-1]
        if last == "rate":
            good, rule = np.isfinite(values) & (values > 0), "must be above 0 and finite"
        elif last == "clip":
            good, rule = values > 0, "is a norm to clip at and must be above 0, infinity for no clip"
        elif last == "momentum":
            good, rule = np.abs(values) < 1, "must be between -1 and 1"
        elif name == "seed":
            good, rule = (values >= 0) & (values == np.floor(values)), "must be a whole number, at least 0"
        elif (
            name in ("r1", "r2", "gradient_penalty", "beta")
            or last == "weight"
            or name.startswith(("loss/", "weight/"))
        ):
            good, rule = np.isfinite(values) & (values >= 0), "must be at least 0 and finite"
        else:
            good, rule = np.isfinite(values), "must be finite"
        if not np.all(good):
            bad = int(np.argmin(good))
            raise ValueError(f"{name} {rule}, but is {values[bad]:g} for member {bad}")


class Named(dict):
    """Settings as a program sees them: one that is not there is told by name."""

    def __missing__(self, name):
        raise ValueError(f"the program asks for the setting {name!r}, but the sweep has {', '.join(sorted(self))}")


def checked(settings: Settings) -> dict[str, np.ndarray]:
    """Settings as arrays of one length, with a seed; a ValueError for what can be none."""
    if not settings:
        raise ValueError("a sweep without settings has no members; see sweep.product")
    settings = {name: np.asarray(values) for name, values in settings.items()}
    for name, values in settings.items():
        if values.ndim != 1 or values.dtype.kind not in "biuf":
            raise ValueError(
                f"settings are numbers, one for each member, but {name} is {values.dtype} {list(values.shape)}"
            )
    lengths = {name: len(values) for name, values in settings.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "settings have one number for each member, but their numbers differ: "
            + ", ".join(f"{name} {number}" for name, number in lengths.items())
        )
    num = next(iter(lengths.values()))
    if num == 0:
        raise ValueError("the sweep has no members: the settings are empty")
    settings.setdefault("seed", np.zeros(num, np.int32))
    check_numbers(settings)
    settings["seed"] = settings["seed"].astype(np.int32)
    return settings
