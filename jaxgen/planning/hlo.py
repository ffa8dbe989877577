"""The text of a compiled program (XLA's HLO): its computations, their instructions, and how often each runs.

It is the same for CPU, TPU and GPU but for the names of the libraries that GPUs call.
"""

import collections
import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "s4": 4, "u4": 4, "s2": 2, "u2": 2}
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([\d,]*)(?::T\(([\d,]+)\))?)?")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|branch_computations|true_computation|false_computation|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_ROUNDS = re.compile(r"known_trip_count[^\d]{1,12}(\d+)")


class Shape(NamedTuple):
    """An array: "bf16", (8, 32, 32, 64), and how it lies in memory.

    Attributes:
      dtype, sides: of it.
      order: of its sides, the one whose neighbours lie side by side first; () where the text does not say.
      tile: to multiples of which the last sides are filled up, ().
    """

    dtype: str
    sides: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.sides)

    @property
    def bytes(self) -> int:
        """Without padding."""
        return self.size * bits_of(self.dtype) // 8

    @property
    def filled(self) -> int:
        """How many numbers there is room for where it lies."""
        sides = (
            [self.sides[i] for i in reversed(self.order)] if len(self.order) == len(self.sides) else list(self.sides)
        )
        for at, side in enumerate(reversed(self.tile), 1):
            if at <= len(sides):
                sides[-at] = math.ceil(sides[-at] / side) * side
        return math.prod(sides)


class Instruction(NamedTuple):
    """One line.

    Attributes:
      name: by which others call it.
      shapes: of what it gives, of a tuple all.
      kind: such as "convolution".
      operands: names.
      rest: everything after the operands.
    """

    name: str
    shapes: tuple[Shape, ...]
    kind: str
    operands: tuple[str, ...]
    rest: str


def bits_of(dtype: str) -> int:
    """Of a dtype as the text calls it; 0 for what is no number."""
    if dtype in _BITS:
        return _BITS[dtype]
    found = re.match(r"[a-z]+(\d+)", dtype)
    return int(found[1]) if found else 0


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """(name -> instructions, name of the entry) of a program's text."""
    found: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if not line.startswith(" ") and (header := _HEADER.match(line)) and " -> " in line:
            current = found.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (matched := _LINE.match(line)):
            if instruction := _instruction(matched[1], matched[2]):
                current.append(instruction)
    return found, entry


def _instruction(name: str, text: str) -> Instruction | None:
    if text.startswith("("):
        end = _closing(text, 0) + 1
    else:
        end = text.find(" ")
    kind, opening, _ = text[end:].strip().partition("(")
    if end <= 0 or not opening or " " in kind:
        return None
    start = text.index("(", end)
    close = _closing(text, start)
    operands = re.findall(r"%([\w.\-]+)", text[start:close])
    return Instruction(name, tuple(shapes(text[:end])), kind, tuple(operands), text[close + 1 :])


def _closing(text: str, at: int) -> int:
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text) - 1


def shapes(text: str) -> Iterator[Shape]:
    """The arrays that a piece of text names, such as `bf16[8,32]{1,0}`."""
    for dtype, *numbers in _SHAPE.findall(text):
        if bits_of(dtype) or dtype in _BITS:
            yield Shape(dtype, *(tuple(int(number) for number in group.split(",") if number) for group in numbers))


def counted(text: str) -> Iterator[tuple[Instruction, int, dict[str, Instruction]]]:
    """Each instruction of a program that runs, how often in one step, and the instructions beside it by name."""
    found, entry = computations(text)
    times: dict[str, int] = collections.defaultdict(int)
    times[entry] = 1
    for name in _callers_first(found, entry):
        for instruction in found[name]:
            rounds = _ROUNDS.search(instruction.rest) if instruction.kind == "while" else None
            for called in _called_by(instruction):
                if called in found:
                    times[called] += times[name] * (int(rounds[1]) if rounds else 1)
    for name, instructions in found.items():
        if times[name]:
            beside = {instruction.name: instruction for instruction in instructions}
            for instruction in instructions:
                yield instruction, times[name], beside


def _called_by(instruction: Instruction) -> Iterable[str]:
    for group in _CALLED.findall(instruction.rest):
        yield from re.findall(r"[\w.\-]+", group)


def _callers_first(found: dict[str, list[Instruction]], entry: str) -> list[str]:
    order: list[str] = []
    seen = set()
    stack = [(entry, False)]
    while stack:
        name, is_done = stack.pop()
        if is_done:
            order.append(name)
        elif name in found and name not in seen:
            seen.add(name)
            stack.append((name, True))
            stack += [(called, False) for instruction in found[name] for called in _called_by(instruction)]
    return order[::-1]
