"""A plan in words."""

from collections.abc import Mapping
from typing import Any

from jaxgen.memory import in_words
from jaxgen.planning import programs

_PARTS = {
    "state": "state",
    "variables": "networks that draw",
    "data": "data set",
    "batch": "batch",
    "padding": "padding of these",
    "temporaries": "temporaries",
    "results": "results",
    "program": "program",
    "needed": "of the program",
}
_HEADS = {"train": "train step", "pictures": "pictures", "evaluation": "evaluation"}


def tell(name: str, record: Mapping[str, Any]) -> str:
    """A record of `answering.plan` for people.

    Args:
      name: of the preset.
      record: of the plan.
    """
    train = record["programs"]["train"]
    devices, batch = train["devices"], train["batch_size"]
    each = f", {batch // devices:,} on each device" if devices > 1 else ""
    lines = [
        f"{name} on {record['target']}: {devices:,} device{'s' * (devices > 1)}, {batch:,} images a step{each}",
        verdict(record),
        "",
    ]
    if train["fits_compiler"]:
        lines += _memory(record) + [""] + _work(record)
    lines.append(_row("compiled", _compiled(record)))
    if found := record.get("largest_batch"):
        lines += ["", largest(found)]
    if rows := record.get("compared"):
        lines += ["", *_compared(rows)]
    return "\n".join(lines)


def verdict(record: Mapping[str, Any]) -> str:
    """Whether a training fits, and by how much, in a sentence."""
    there, needed = record["there"], record["needed"]
    kind = max(needed, key=lambda kind: needed[kind])
    what = f"{in_words(needed[kind])} of {'what nobody knows' if there is None else in_words(there)}"
    most = "" if kind == "train" else f", most of it in {programs.KINDS[kind]}"
    if there is None:
        return f"it needs {what} a device{most}"
    if record["fits"] is False:
        return f"does not fit: needs {what} a device, {in_words(max(0, needed[kind] - there))} too much{most}"
    return f"fits: needs {what} a device ({needed[kind] / there:.1%}), {in_words(there - needed[kind])} are left{most}"


def largest(found: Mapping[str, Any]) -> str:
    """What `fitting.largest_batch` found, in a sentence."""
    tried = f"; {len(found['needed'])} batches were compiled"
    if not found["fits"]:
        return f"no batch fits: {found['too_large']:,} images need too much{tried}"
    if found["too_large"] is None:
        return f"largest batch: {found['fits']:,} images fit, and no limit was found{tried}"
    return f"largest batch: {found['fits']:,} images fit, {found['too_large']:,} do not{tried}"


def _row(name: str, text: str) -> str:
    return f"{name:<24}{text}"


def _memory(record: Mapping[str, Any]) -> list[str]:
    kinds = [kind for kind, one in record["programs"].items() if one["fits_compiler"]]
    lines = [_row("memory of a device", "".join(f"{_HEADS[kind]:>14}" for kind in kinds))]
    for part, words in _PARTS.items():
        values = [record["programs"][kind]["memory"].get(part) for kind in kinds]
        if any(values):
            cells = ("" if value is None else in_words(value) if value else "0" for value in values)
            lines.append(_row(words, "".join(f"{cell:>14}" for cell in cells)))
    cells = (in_words(record["needed"][kind]) for kind in kinds)
    return [*lines, _row("with what lies there", "".join(f"{cell:>14}" for cell in cells))]


def _work(record: Mapping[str, Any]) -> list[str]:
    train, device, bounds = record["programs"]["train"], record["device"], record["bounds"]
    lines = [_row("collectives of a step", collectives(train["collectives"]))]
    for kind, plural in (("convolution", "convolutions"), ("product of matrices", "products of matrices")):
        counts = train["precision"].get(kind, {})
        text = ", ".join(f"{number} in {dtype}" for dtype, number in sorted(counts.items())) or "none in the program"
        lines.append(_row(plural, text))
    work = f"{train['operations'] / 1e9:,.4g} GFLOP a device and step"
    if "arithmetic" in bounds:
        rate = train["operations"] / bounds["arithmetic"] / 1e12
        work = f"at least {bounds['arithmetic'] * 1e3:.3g} ms: {work}, at most {rate:,.4g} TFLOP/s"
    lines.append(_row("arithmetic bound", work))
    if train.get("bytes_accessed"):
        moved = f"{train['bytes_accessed'] / 1e9:,.4g} GB a device and step"
        if "memory" in bounds:
            rate = device["bandwidth"] / 1e9
            moved = f"at least {bounds['memory'] * 1e3:.3g} ms: {moved}, at most {rate:,.4g} GB/s"
        lines.append(_row("memory bound", moved))
    if train.get("padding") is not None:
        lines.append(_row("padding of channels", _padding(train, device["matrix_unit"])))
        lines.append(_row("padding of arrays", f"{train['filling']:.0%} of the memory of what these work on"))
    return lines


def collectives(found: Mapping[str, Mapping[str, int]]) -> str:
    """What devices tell one another in a step, in words."""
    parts = (f"{kind} {entry['number']:,} times, {in_words(entry['bytes'])}" for kind, entry in found.items())
    return "; ".join(parts) or "none"


def _padding(train: Mapping[str, Any], width: int) -> str:
    text = f"at most {train['padding']:.0%} of the work of a matrix unit {width} wide"
    if train["narrowest"]:
        first, second = train["narrowest"][0]["channels"]
        text += f", most of it where {first} channels become {second}"
    return text


def _compiled(record: Mapping[str, Any]) -> str:
    train = record["programs"]["train"]
    took = sum(sum(one["seconds"].values()) for one in record["programs"].values())
    kept = " (kept from then)" if all(one.get("kept") for one in record["programs"].values()) else ""
    versions = ", ".join(f"{name} {version}" for name, version in train["versions"].items())
    return f"in {took:,.0f} s on {train['date']} with {versions}{kept}"


def _compared(rows: list[Mapping[str, Any]]) -> list[str]:
    heads = ("needed", "temporaries", "GB moved", "collectives")
    width = max(len(row["option"]) for row in rows) + 2
    lines = [f"{'of a device':<{width}}" + "".join(f"{head:>14}" for head in heads)]
    for row in rows:
        if "refused" in row:
            lines.append(f"{row['option']:<{width}}  refused: {row['refused']}")
            continue
        one = row["record"]
        if not one["fits_compiler"]:
            lines.append(f"{row['option']:<{width}}{in_words(one['needed']):>14}  does not fit")
            continue
        moved = one.get("bytes_accessed")
        cells = (
            in_words(one["memory"]["needed"]),
            in_words(one["memory"]["temporaries"]),
            "" if moved is None else f"{moved / 1e9:.3g}",
            in_words(sum(entry["bytes"] for entry in one["collectives"].values())),
        )
        lines.append(f"{row['option']:<{width}}" + "".join(f"{cell:>14}" for cell in cells))
    return lines
