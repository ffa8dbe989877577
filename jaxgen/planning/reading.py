"""What a compiled program holds, read from its text (`hlo`): collectives, precision of products, padding of channels.

A loop whose number of rounds the compiler knows counts as often as it runs; training's own loop over steps has none
that it knows, and counts once: what is counted is what one step does.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.planning.hlo import Instruction, Shape, bits_of, computations, counted

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"window={([^}]*)}")


class Product(NamedTuple):
    """A convolution or a product of matrices.

    Attributes:
      kind: "convolution" or "product of matrices".
      dtype: of its factors, the wider one.
      operations: additions and multiplications, without those by the zeros of borders and between pixels; 0 where the
        text does not say.
      contracted: channels that it sums over (taps of a kernel apart); 0 where the text does not say.
      made: channels that it makes; 0 where the text does not say.
      where: in the model, as far as it is known.
      arrays: both factors and what is made of them.
    """

    kind: str
    dtype: str
    operations: float
    contracted: int
    made: int
    where: str
    arrays: tuple[Shape, ...] = ()


def collectives(text: str) -> dict[str, dict[str, int]]:
    """What the devices tell one another in a step: kind -> {"number": how often, "bytes": of a device's results}."""
    found: dict[str, dict[str, int]] = {}
    for instruction, times, _ in counted(text):
        kind = instruction.kind.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        shapes = instruction.shapes
        if instruction.kind.endswith("-start") and kind != "all-reduce" and len(shapes) >= 2:
            shapes = shapes[1:2]  # beside the result stand what went in, and counters
        entry = found.setdefault(kind, {"number": 0, "bytes": 0})
        entry["number"] += times
        entry["bytes"] += times * sum(shape.bytes for shape in shapes)
    return dict(sorted(found.items()))


def products(text: str) -> list[tuple[Product, int]]:
    """Convolutions and products of matrices, each with how often it runs in a step."""
    found = []
    for instruction, times, beside in counted(text):
        factors = [shape for name in instruction.operands[:2] if name in beside for shape in beside[name].shapes[:1]]
        if product := _product(instruction, factors):
            found.append((product._replace(arrays=(*factors, *instruction.shapes[:1])), times))
    return found


def _product(instruction: Instruction, factors: list[Shape]) -> Product | None:
    rest, where = instruction.rest, _where(instruction.rest)
    if instruction.kind == "dot" and len(factors) == 2 and instruction.shapes:
        depth = math.prod(factors[0].sides[i] for i in _numbers(rest, "lhs_contracting_dims"))
        batch = math.prod(factors[0].sides[i] for i in _numbers(rest, "lhs_batch_dims"))
        made = factors[1].size // max(1, depth * batch)
        operations = 2.0 * depth * instruction.shapes[0].size
        return Product("product of matrices", _wider(factors), operations, depth, made, where)
    if instruction.kind == "convolution" and len(factors) == 2 and (labels := _LABELS.search(rest)):
        sides = dict(zip(labels[2], factors[1].sides, strict=False))
        made, contracted = sides.get("o", 1), sides.get("i", 1)
        pairs = _pairs(rest, labels, factors[0].sides, instruction.shapes[0].sides)
        others = [side for name, side in zip(labels[3], instruction.shapes[0].sides, strict=False) if name in "bf"]
        operations = 2.0 * math.prod(others) * contracted * pairs
        kind = "convolution" if _WINDOW.search(rest) else "product of matrices"
        return Product(kind, _wider(factors), operations, contracted, made, where)
    if instruction.kind == "custom-call" and factors:
        name = re.search(r'custom_call_target="([^"]*)"', rest)
        if name and name[1].startswith("__cudnn$conv"):
            return Product("convolution", _wider(factors), 0.0, 0, 0, where)
        if name and name[1].startswith("__cublas$"):
            return Product("product of matrices", _wider(factors), 0.0, 0, 0, where)
        if name and "onednn" in name[1].lower():
            return Product("convolution", _wider(factors), 0.0, 0, 0, where)
    return None


def _pairs(rest: str, labels: re.Match, into: Sequence[int], out: Sequence[int]) -> int:
    """How many pairs there are of a pixel that is made and a pixel that it sees, over all sides of an image."""
    window = _WINDOW.search(rest)
    if not window:
        return 1
    said = dict(part.split("=") for part in window[1].split() if "=" in part)
    sizes = [int(size) for size in said["size"].split("x")]

    def of_each(name: str, default: str) -> list[str]:
        return said[name].split("x") if name in said else [default] * len(sizes)

    total = 1
    for at, size in enumerate(sizes):
        stride, low = int(of_each("stride", "1")[at]), int(of_each("pad", "0_0")[at].split("_")[0])
        spread, step = int(of_each("lhs_dilate", "1")[at]), int(of_each("rhs_dilate", "1")[at])
        pixels, made = into[labels[1].index(str(at))], out[labels[3].index(str(at))]
        seen = np.arange(made)[:, None] * stride + np.arange(size) * step - low
        total *= int(((seen >= 0) & (seen <= (pixels - 1) * spread) & (seen % spread == 0)).sum())
    return total


def _numbers(text: str, name: str) -> list[int]:
    found = re.search(rf"{name}={{([\d,]*)}}", text)
    return [int(number) for number in found[1].split(",") if number] if found else []


def _wider(factors: list[Shape]) -> str:
    return max(factors, key=lambda shape: bits_of(shape.dtype)).dtype


def _where(rest: str) -> str:
    found = re.search(r'op_name="([^"]*)"', rest)
    return found[1] if found else ""


def operations(found: list[tuple[Product, int]]) -> float | None:
    """Of all products in a step; None where the text does not say it of some, which libraries compute."""
    if any(not product.operations for product, _ in found):
        return None
    return sum(times * product.operations for product, times in found)


def precision(found: list[tuple[Product, int]]) -> dict[str, dict[str, int]]:
    """Of products: kind -> dtype of the factors -> how many stand in the program."""
    counts: dict[str, dict[str, int]] = {}
    for product, _ in found:
        kind = counts.setdefault(product.kind, {})
        kind[product.dtype] = kind.get(product.dtype, 0) + 1
    return counts


def padding(found: list[tuple[Product, int]], width: int) -> float | None:
    """The share of a matrix unit's work that goes into channels that are not there; None without products.

    Both the channels that are summed over and those that are made are taken to be filled up to a multiple of the width,
    as they are where each channel has a lane. A compiler that puts several pixels or taps into the lanes does better:
    this is the most that is wasted so.
    """
    real = padded = 0.0
    for product, times in found:
        if product.contracted and product.made:
            share = math.prod(n / (math.ceil(n / width) * width) for n in (product.contracted, product.made))
            real += times * product.operations
            padded += times * product.operations / share
    return 1 - real / padded if padded else None


def filling(found: list[tuple[Product, int]]) -> float | None:
    """The share of the memory of the arrays around products that holds no number, as the program lays them out.

    TPUs keep arrays in tiles of 8 rows of 128 lanes. None without products.
    """
    size = sum(times * shape.size for product, times in found for shape in product.arrays)
    filled = sum(times * shape.filled for product, times in found for shape in product.arrays)
    return 1 - size / filled if filled else None


def narrowest(found: list[tuple[Product, int]], width: int, most: int = 3) -> list[dict[str, Any]]:
    """The products that waste most of a matrix unit, largest waste first: channels, and where they are."""
    wasted = []
    for product, times in found:
        if product.contracted and product.made:
            share = math.prod(n / (math.ceil(n / width) * width) for n in (product.contracted, product.made))
            waste = times * product.operations * (1 / share - 1)
            wasted.append((waste, product))
    wasted.sort(key=lambda pair: -pair[0])
    return [
        {"channels": [product.contracted, product.made], "where": product.where, "wasted_operations": waste}
        for waste, product in wasted[:most]
        if waste > 0
    ]


_ARGUMENT = re.compile(r'op_name="(?:arguments\[(\d+)\]|(\w+))')


def arguments(text: str, groups: Sequence[str], names: Sequence[str] = ()) -> dict[str, int]:
    """Bytes that a device holds of a program's arguments, without padding: those that the program uses.

    Args:
      text: of the program.
      groups: of each argument, under which it counts.
      names: of the arguments, by which the text calls them; where it has `arguments[0]` they are not needed.
    """
    found, entry = computations(text)
    total = dict.fromkeys(groups, 0)
    for instruction in found[entry]:
        if instruction.kind != "parameter" or not (called := _ARGUMENT.search(instruction.rest)):
            continue
        at = int(called[1]) if called[1] else list(names).index(called[2]) if called[2] in names else None
        if at is not None and at < len(groups):
            total[groups[at]] += sum(shape.bytes for shape in instruction.shapes)
    return total


def memory(compiled: Any, groups: dict[str, int]) -> dict[str, int]:
    """Of one device, in bytes, as the compiler says.

    Args:
      compiled: of `jax.jit(...).lower(...).compile()`.
      groups: name -> bytes that a device holds of some of the arguments, as they are counted without padding.

    Returns:
      The groups; `padding` of the arguments as they lie in memory; `temporaries`; `results` that take none of the
      arguments' memory; `program`; `needed`: all of it.
    """
    told = compiled.memory_analysis()
    arguments = int(told.argument_size_in_bytes)
    found = dict(groups) | {
        "padding": max(0, arguments - sum(groups.values())),
        "temporaries": int(told.temp_size_in_bytes),
        "results": max(0, int(told.output_size_in_bytes) - int(told.alias_size_in_bytes)),
        "program": int(told.generated_code_size_in_bytes),
    }
    return found | {"needed": sum(found.values())}


# As libtpu says it: in version 0.0.52, and in older ones. The first figure counts arguments, too.
_USED = (
    re.compile(r"\(([\d.]+)([KMGT]?)i?B?\) exceeds available HBM \(([\d.]+)([KMGT]?)i?B?\)"),
    re.compile(r"[Uu]sed ([\d.]+)([KMGT]?)i?B? of ([\d.]+)([KMGT]?)i?B? (?:of )?hbm"),
)


def out_of_memory(message: str) -> tuple[int, int] | None:
    """(bytes needed, bytes there) of the compiler's complaint that a program is too large; None for other messages."""
    found = next(filter(None, (pattern.search(message) for pattern in _USED)), None)
    if not found or "RESOURCE_EXHAUSTED" not in message:
        return None
    unit = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    return int(float(found[1]) * unit[found[2]]), int(float(found[3]) * unit[found[4]])
