"""Ranges of settings: each says in words what it allows, where a value is something else."""

import dataclasses
import math
from typing import Annotated, Literal

import numpy as np
import pytest

from jaxgen import options, ranges, systems
from jaxgen.ranges import Count, CountOrZero, Norm, Positive, Range, Seed, Share, Weight, WholeShare

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "kind, value, allowed",
    [
        (Count, 0, "at least 1"),
        (Count, 2**31, "at most 2,147,483,647"),
        (Count, 10**30, "at most 2,147,483,647"),
        (Count, 1.0, "a whole number"),
        (Count, True, "a whole number"),
        (Count, "8", "a whole number"),
        (Count, None, "a whole number"),
        (CountOrZero, -1, "at least 0"),
        (Seed, -1, "at least 0"),
        (Seed, 2**32, "at most 4,294,967,295"),
        (int, -(2**31), "at least -2,147,483,647"),
        (int, 2**31, "at most 2,147,483,647"),
        (Weight, -1.0, "at least 0 and finite"),
        (Weight, INF, "at least 0 and finite"),
        (Weight, NAN, "at least 0 and finite"),
        (Weight, 10**400, "at least 0 and finite"),
        (Positive, 0.0, "above 0"),
        (Positive, NAN, "above 0"),
        (Positive, INF, "above 0 and finite"),
        (Norm, 0, "above 0"),
        (Norm, NAN, "above 0"),
        (Share, 1.0, "from 0 up and below 1"),
        (Share, -0.1, "from 0 up and below 1"),
        (Share, NAN, "from 0 up and below 1"),
        (WholeShare, 1.5, "from 0 to 1"),
        (Annotated[float, Range(-1, 1, open_most=True)], -2.0, "from -1 up and below 1"),
        (float, NAN, "a finite number"),
        (float, "1", "a number"),
        (bool, 1, "True or False"),
        (str, 1, "text"),
        (str | None, 1, "text"),
        (Literal[1, 3], 2, "one of 1, 3"),
        (Literal[1, 3], True, "one of 1, 3"),
        (Literal["a", "b"], NAN, "one of a, b"),
        (Literal["a", "b"], ["a"], "one of a, b"),
        (tuple[Count, ...], (4, 0), "a list of values, each at least 1"),
        (tuple[Count, ...], 4, "a list"),
        (tuple[float, float], (1.0,), "2 values"),
        (tuple[float, float] | None, (1.0, NAN), "a list of values, each a finite number"),
        (Annotated[int | None, Range(1)], 0, "at least 1"),
        (Count | None, 0, "at least 1"),
    ],
)
def test_what_is_not_allowed_is_told_what_is(kind, value, allowed):
    assert ranges.broken(kind, value) == allowed


@pytest.mark.parametrize(
    "kind, value",
    [
        (Count, 1),
        (Count, np.int64(3)),
        (Seed, 2**32 - 1),
        (Weight, 0),
        (Weight, np.float32(2)),
        (Positive, 1e-30),
        (Norm, INF),
        (Share, 0.999),
        (WholeShare, 1.0),
        (Count | None, None),
        (tuple[float, float] | None, None),
        (tuple[Count, ...], [4, 4]),
        (float | Literal["none"], "none"),
        (Literal[1, 3], 3),
        (dict, {}),
    ],
)
def test_what_is_allowed_is(kind, value):
    assert ranges.broken(kind, value) == ""


def groups(config, prefix=""):
    for name, kind, value in ranges.fields(config):
        if dataclasses.is_dataclass(value):
            yield from groups(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind, value


@pytest.mark.parametrize("module", systems.MODULES, ids=systems.name_of)
def test_no_setting_takes_any_number(module):
    """Every number of every system has a range of its own: what means nothing is refused, whichever it is."""
    for name, kind, _ in groups(module.TINY):
        text = str(kind)
        if ("int" in text or "float" in text) and "Literal" not in text:
            assert any(ranges.broken(kind, wrong) for wrong in (-5, -5.0, (-5, -5))), name
            assert "Range" in text or name == "data.value_range", name
        for odd in (NAN, INF, -INF, 10**30, "x", [], {}, True, -(10**30)):
            said = ranges.broken(kind, odd)
            assert isinstance(said, str), (name, odd)


def change(config, name, value):
    first, _, rest = name.partition(".")
    return dataclasses.replace(config, **{first: change(getattr(config, first), rest, value) if rest else value})


@pytest.mark.parametrize("module", systems.MODULES, ids=systems.name_of)
def test_every_setting_out_of_its_range_is_refused_by_its_flag(module):
    for name, kind, _ in groups(module.TINY):
        for odd in (NAN, 10**30, -(10**30), {"a": 1}, [NAN]):
            if ranges.broken(kind, odd):
                flag = f"--{name}".replace("_", "-")
                with pytest.raises(ValueError, match=f"{flag} must be|there is no "):
                    options.check(change(module.TINY, name, odd))
        options.check(module.TINY)


def test_arguments_of_a_function_are_checked_by_its_annotations():
    @ranges.checked
    def draw(run: str, /, num_images: Count | None = None, seed: Seed = 0, as_json: bool = False):
        """Doc."""
        return run, num_images, seed

    assert draw("a", num_images=3) == ("a", 3, 0) and draw.__doc__ == "Doc."
    with pytest.raises(ValueError, match="^--num-images must be at least 1, not 0$"):
        draw("a", num_images=0)
    with pytest.raises(ValueError, match="^--seed must be at most 4,294,967,295, not 4294967296$"):
        draw("a", seed=2**32)
