"""Pictures and one page of the atlas."""

import dataclasses
import enum
import hashlib
import inspect
import io
import json
import os
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxgen import files, pages
from jaxgen.local_path import local
from jaxgen.progress import tell_nobody
from jaxgen.stability import sweep
from jaxgen.stability.atlas import clipping, closed_forms, divergence, linear_vae, networks
from jaxgen.stability.atlas.record import Claim, Record, finish


class Size(enum.Enum):
    """How much is computed."""

    FULL = "full"
    QUICK = "quick"


@dataclasses.dataclass(frozen=True)
class Plate:
    """A function of the atlas, and what it is called with for a quick look. The full size is its defaults."""

    make: Callable[..., Record]
    quick: dict[str, Any]
    is_sweep: bool = False


PLATES = {
    "A1": Plate(closed_forms.ttur_and_r1, {"num_ratios": 41, "num_gammas": 40, "num_steps": 1024}),
    "A2": Plate(clipping.clipping, {"num_rates": 16, "num_norms": 17, "num_steps": 2048}),
    "A3": Plate(closed_forms.limit_cycles, {"num_rates": 4, "num_turns": 200}),
    "A4": Plate(divergence.shift_gan, {"dimension": 4, "gammas": (0.0, 1.0)}),
    "A5": Plate(networks.ring, {"ratios": (0.1, 1.0, 10.0), "gammas": (0.0, 0.1)}, True),
    "A6": Plate(
        networks.grid,
        {"losses": ("non-saturating", "Wasserstein", "relativistic"), "kinds": ("none", "R1"), "num_seeds": 2}
        | {"num_steps": 2000, "width": 64},
        True,
    ),
    "A7": Plate(networks.budget, {"num_members": 16, "num_steps": 1500}, True),
    "A8": Plate(linear_vae.collapse, {"num_betas": 10, "num_steps": 3000}, True),
    "A9": Plate(
        divergence.trained_ring, {"num_steps": 3000, "settling_steps": 3000, "test_steps": 400, "num_rates": 31}
    ),
}


def write(
    directory: str | os.PathLike,
    names: Sequence[str] = (),
    size: Size = Size.FULL,
    *,
    again: bool = False,
    progress: bool = False,
    tell: Callable[[str], None] = tell_nobody,
) -> list[Record]:
    """Computes plates and writes, after each, its pictures, numbers and the page of all plates so far.

    What is there is kept: a plate that the directory holds, computed with the same arguments, is read and not computed
    again, and a sweep that was interrupted goes on from its newest checkpoint. A plate is made anew of which a file is
    missing, damaged, or changed by hand.

    Args:
      directory: of `atlas.html`, `A1.png`, `A1.svg`, `A1.json`, ..., and of `sweeps/`, the checkpoints of its sweeps;
        created with its parents.
      names: of `PLATES`; all if empty.
      size: FULL or QUICK.
      again: make plates that are there anew, from the numbers of their sweeps where these are complete.
      progress: bars for the sweeps.
      tell: called with a line after each plate.

    Returns:
      The records; those of plates that were kept have no figure.

    Raises:
      ValueError: for a name that is no plate.
      OSError: with the path and what to do, if a file cannot be written.
    """
    names = list(names) or list(PLATES)
    unknown = [name for name in names if name not in PLATES]
    if unknown:
        raise ValueError(f"no plate of the atlas is called {', '.join(unknown)}; there are {', '.join(PLATES)}")
    directory = local(directory, "the directory of the atlas")
    with files.explained(directory, "make the directory"):
        directory.mkdir(parents=True, exist_ok=True)
    for file in ("atlas.html", *(f"{name}.{kind}" for name in names for kind in ("png", "svg", "json"))):
        files.check_replaceable(directory / file)
    records, shown = [], []
    for name in names:
        plate = PLATES[name]
        chosen = dict(plate.quick) if size is Size.QUICK else {}
        arguments = _arguments(plate.make, chosen)
        kept = _kept(directory, name, arguments)
        if kept is None or again:
            if plate.is_sweep:
                folder = f"{name}-{hashlib.sha256(json.dumps(arguments).encode()).hexdigest()[:8]}"
                chosen |= {"progress": progress, "run": {"directory": directory / "sweeps" / folder}}
            begin = time.perf_counter()
            record = plate.make(**chosen)
            # Made again from complete sweeps, a plate still took what these took.
            seconds = max(time.perf_counter() - begin, kept[1] if kept else 0.0)
            save(record, directory, seconds, arguments)
        else:
            record, seconds = kept
        records.append(record)
        shown.append((record, (directory / f"{name}.png").read_bytes(), seconds))
        files.write_atomically(directory / "atlas.html", _page(shown, size))
        failed = sum(claim.agrees is False for claim in record.claims)
        tell(
            f"{name}  {record.title}: {record.disagreeing} of {record.cells} cells disagree, "
            f"{failed} of {sum(claim.agrees is not None for claim in record.claims)} claims fail, {seconds:.0f} s"
            + (" (kept)" if record.figure is None else "")
        )
    return records


def _arguments(make: Callable, chosen: dict) -> dict[str, Any]:
    """Everything that a plate's numbers depend on, as JSON would give it back."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(make).parameters.items()
        if name not in ("progress", "run")
    }
    return json.loads(json.dumps(sweep.finite_json(defaults | chosen)))


def _kept(directory: Path, name: str, arguments: dict) -> tuple[Record, float] | None:
    """(record without a figure, seconds) of a plate that is there and was made with these arguments."""
    try:
        found = json.loads((directory / f"{name}.json").read_text())
        if found["arguments"] != arguments or files.was_changed(found) or not _has_pictures(directory, name, found):
            return None
        claims = [Claim(**claim) for claim in found["claims"]]
        told = {key: found[key] for key in ("name", "title", "question", "theory", "cells", "disagreeing", "numbers")}
        record = Record(**told, claims=claims, figure=None)
        return record, found["seconds"]
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: it is made anew
        return None


def _has_pictures(directory: Path, name: str, found: dict) -> bool:
    """Whether both pictures are there, and the one that the page shows is that of the record."""
    png = (directory / f"{name}.png").read_bytes()
    is_its_own = found.get("png_crc32", zlib.crc32(png)) == zlib.crc32(png)  # older atlases do not say
    return png.startswith(b"\x89PNG\r\n") and is_its_own and (directory / f"{name}.svg").is_file()


def save(record: Record, directory: Path, seconds: float = 0.0, arguments: dict | None = None) -> None:
    """Writes NAME.png, NAME.svg and, last, NAME.json."""
    from matplotlib import rc_context

    finish(record.figure)
    png, svg = io.BytesIO(), io.StringIO()
    with rc_context({"svg.hashsalt": "jaxgen"}):
        record.figure.savefig(png, format="png", dpi=130)
        record.figure.savefig(svg, format="svg", dpi=130, metadata={"Date": None})
    files.write_atomically(directory / f"{record.name}.png", png.getvalue())
    files.write_atomically(directory / f"{record.name}.svg", svg.getvalue().encode())
    numbers = {
        "name": record.name,
        "title": record.title,
        "question": record.question,
        "theory": list(record.theory),
        "arguments": arguments,
        "cells": record.cells,
        "disagreeing": record.disagreeing,
        "claims": [dataclasses.asdict(claim) for claim in record.claims],
        "seconds": seconds,
        "numbers": _plain(record.numbers),
        "png_crc32": zlib.crc32(png.getvalue()),
    }
    stored = sweep.finite_json(numbers)
    text = json.dumps(stored | {"crc32": files.record_crc32(stored)}, allow_nan=False)
    files.write_atomically(directory / f"{record.name}.json", text.encode())


def _plain(value):
    """Complex numbers as [real, imaginary]."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if getattr(getattr(value, "dtype", None), "kind", "") == "c":
        return [[float(x.real), float(x.imag)] for x in value.ravel()]
    return value


def _page(plates: Sequence[tuple[Record, bytes, float]], size: Size) -> bytes:
    records = [record for record, _, _ in plates]
    checked = [claim for r in records for claim in r.claims if claim.agrees is not None]
    return pages.render(
        "atlas",
        title="Atlas of stability",
        size=size.value,
        cells=sum(r.cells for r in records),
        disagreeing=sum(r.disagreeing for r in records),
        checked=len(checked),
        failed=sum(claim.agrees is False for claim in checked),
        plates=[
            {
                "record": record,
                "png": png,
                "seconds": seconds,
                "checked": sum(claim.agrees is not None for claim in record.claims),
                "failed": sum(claim.agrees is False for claim in record.claims),
            }
            for record, png, seconds in plates
        ],
    )
