"""Ranges of settings, declared where a setting is: `batch_size: Annotated[int, Range(1)] = 64`, or `Count` for that.

`check` compares every field of a dataclass with its type and its range, and `checked` every argument of a function. A
whole number without a range must still fit into 32 bits, as all on a device do, and a number is never NaN.
"""

import dataclasses
import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any

LARGEST = 2**31 - 1
LARGEST_SEED = 2**32 - 1  # a larger one would be the key of its remainder


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number may be.

    Attributes:
      least, most: the ends, None: none (for whole numbers 32 bits).
      open_least, open_most: whether an end itself is left out.
      infinite: whether infinity may be meant, such as a clip at no norm.
    """

    least: float | None = None
    most: float | None = None
    open_least: bool = False
    open_most: bool = False
    infinite: bool = False

    def broken(self, value: Any) -> str:
        """What is allowed, where a number is not; "" where it is. NaN never is."""
        whole = isinstance(value, numbers.Integral)
        if whole:
            most = LARGEST if self.most is None else self.most
            if value > most or value < -LARGEST:
                least = -LARGEST if self.least is None else self.least
                return f"at most {most:,}" if value > 0 else f"at least {least:,}"
        elif math.isnan(value) or (math.isinf(value) and not self.infinite):
            return self._words(whole) + (" and finite" if value == math.inf and self.open_least else "")
        above = self.least is None or (value > self.least if self.open_least else value >= self.least)
        below = self.most is None or (value < self.most if self.open_most else value <= self.most)
        return "" if above and below else self._words(whole)

    def _words(self, whole: bool) -> str:
        if self.least is None:
            return "a finite number" if self.most is None else f"at most {self.most:,}"
        if self.most is None or whole:
            if self.open_least:
                return f"above {self.least:g}"
            return f"at least {self.least:g}" + ("" if whole or self.infinite else " and finite")
        if self.open_least:
            return (
                f"between {self.least:g} and {self.most:g}"
                if self.open_most
                else (f"above {self.least:g} and at most {self.most:g}")
            )
        if self.open_most:
            return f"from {self.least:g} up and below {self.most:g}"
        return f"from {self.least:g} to {self.most:g}"


Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, LARGEST_SEED)]
Weight = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, open_least=True)]
Norm = Annotated[float, Range(0, open_least=True, infinite=True)]
Share = Annotated[float, Range(0, 1, open_most=True)]
WholeShare = Annotated[float, Range(0, 1)]


def broken(kind: Any, value: Any) -> str:
    """What a value of a declared type must be, where it is something else; "" where it is that.

    Args:
      kind: a type as it is annotated: `int | None`, `Annotated[...]`, `tuple[int, ...]`, `Literal[...]`.
      value: of a setting or an argument.
    """
    kind, limits = _unwrapped(kind)
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        members = typing.get_args(kind)
        if value is None and type(None) in members:
            return ""
        said = [broken(_with(member, limits), value) for member in members if member is not type(None)]
        return "" if "" in said else said[0]
    if origin is typing.Literal:
        choices = typing.get_args(kind)
        return "" if _among(value, choices) else f"one of {', '.join(map(str, choices))}"
    if origin is tuple:
        return _broken_tuple(typing.get_args(kind), limits, value)
    if kind is bool:
        return "" if isinstance(value, bool) else "True or False"
    if kind is str:
        return "" if isinstance(value, str) else "text"
    if kind is int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            return "a whole number"
        return limits.broken(value)
    if kind is float:
        if isinstance(value, bool) or not (isinstance(value, numbers.Real) or getattr(value, "shape", None) == ()):
            return "a number"
        try:
            return limits.broken(float(value))
        except OverflowError:  # a whole number that no float holds
            return limits.broken(math.inf if value > 0 else -math.inf)
    return ""


def _unwrapped(kind: Any) -> tuple[Any, Range]:
    limits = Range()
    while typing.get_origin(kind) is Annotated:
        limits = next((extra for extra in kind.__metadata__ if isinstance(extra, Range)), limits)
        kind = kind.__origin__
    return kind, limits


def _with(kind: Any, limits: Range) -> Any:
    return kind if typing.get_origin(kind) is Annotated else Annotated[kind, limits]


def _among(value: Any, choices: tuple) -> bool:
    """Equality that tells a switch from a number."""
    return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices)


def _broken_tuple(members: tuple, limits: Range, value: Any) -> str:
    if not isinstance(value, (tuple, list)):
        return "a list"
    if len(members) == 2 and members[1] is Ellipsis:
        members = (members[0],) * len(value)
    elif len(members) != len(value):
        return f"{len(members)} values"
    for member, item in zip(members, value, strict=True):
        if said := broken(_with(member, limits), item):
            return f"a list of values, each {said}"
    return ""


def fields(settings: Any) -> Iterator[tuple[str, Any, Any]]:
    """(name, declared type, value) of each field of a dataclass."""
    kinds = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        yield field.name, kinds[field.name], getattr(settings, field.name)


def flag(name: str, prefix: str = "") -> str:
    """How a setting is called on the command line."""
    return f"--{prefix}{name}".replace("_", "-")


def checked(function: Callable) -> Callable:
    """The same function, which refuses arguments that its annotations do not allow, named as its options are.

    Raises:
      ValueError: for the first of them.
    """
    signature = inspect.signature(function)
    kinds = typing.get_type_hints(function, include_extras=True)

    @functools.wraps(function)
    def call(*arguments, **options):
        for name, value in signature.bind(*arguments, **options).arguments.items():
            if name in kinds and (allowed := broken(kinds[name], value)):
                raise ValueError(f"{flag(name.removeprefix('as_'))} must be {allowed}, not {value}")
        return function(*arguments, **options)

    return call
