"""Fills the table of docs/planning.md: large published systems, compiled for slices of TPUs. Run it again to go on.

Each cell is a compilation of minutes. What is known lies in docs/plans.json; only what is not there is compiled.

    python scripts/plan_table.py                              every cell that is empty, one after another
    python scripts/plan_table.py --only DCGAN v5e:2x4         cells whose row or column has one of these names
    python scripts/plan_table.py --minutes 20                 gives up a cell after so long
    python scripts/plan_table.py --write                      compiles nothing, writes the table
"""

import argparse
import json
import sys
from pathlib import Path

from jaxgen import files
from jaxgen.memory import in_words
from jaxgen.planning import compiling, targets

DOCS = Path(__file__).parent.parent / "docs"
KEPT, PAGE = DOCS / "plans.json", DOCS / "planning.md"
BEGIN, END = "<!-- the table -->", "<!-- the end of the table -->"

ROWS = {  # name -> preset, images a step at least, settings
    "DCGAN, 64 pixels": ("emoji-dcgan-r1", 1024, ("--data.image-size", "64")),
    "R3GAN, ImageNet-64": ("imagenet-r3gan-64", 4096, ()),
    "BigGAN, ImageNet-128": ("imagenet-biggan-128", 2048, ()),
    "StyleGAN2, FFHQ-256": ("ffhq-stylegan2-256", 64, ()),
    "VDVAE, FFHQ-256": ("ffhq-vdvae-256", 32, ()),
    "VQGAN f16, ImageNet-256": ("imagenet-vqgan-f16", 16, ()),
}
COLUMNS = {"v5e:2x4": 8, "v5e:16x16": 256, "v6e:2x4": 8, "v5p:2x2x1": 4}
SETTINGS = ("--precision", "bfloat16")


class GivenUp(Exception):
    """A cell that took too long."""


def batch_of(row: str, column: str) -> int:
    """The published batch, or an image for each device where that is more."""
    return max(ROWS[row][1], COLUMNS[column])


def fill(row: str, column: str, minutes: float) -> dict:
    """One cell, compiled."""
    preset, _, settings = ROWS[row]
    arguments = (preset, *settings, *SETTINGS, "--batch-size", str(batch_of(row, column)))

    def tell(seconds: float) -> None:
        if seconds > 60 * minutes:
            raise GivenUp

    record = compiling.compiled(compiling.Task(arguments, column), tell)
    assert record is not None
    return record | {"arguments": list(arguments)}


def words_of(record: dict | None) -> str:
    """A cell of the table."""
    if record is None:
        return "not compiled"
    batch = f"{record['batch_size']:,} images"
    if not record["fits_compiler"]:
        return f"{batch}: does not fit, needs {in_words(record['needed'])} of {in_words(record['there'])}"
    needed = record["memory"]["needed"]
    there = targets.target(record["target"]).device.memory
    assert there is not None
    fits = "fits" if needed <= there else "does not fit"
    reduced = sum(entry["bytes"] for entry in record["collectives"].values())
    seconds = sum(record["seconds"].values())
    found = f"{batch}: {fits}, {in_words(needed)} of {in_words(there)}"
    return f"{found}; collectives {in_words(reduced)}; {seconds:,.0f} s"


def table(kept: dict) -> str:
    """All cells, as Markdown."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "| --- " * (1 + len(COLUMNS)) + "|"]
    for row in ROWS:
        cells = (words_of(kept.get(f"{row} on {column}")) for column in COLUMNS)
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(kept: dict) -> None:
    """Puts the table into its place on the page."""
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    versions = sorted({", ".join([*map(" ".join, r["versions"].items()), r["date"]]) for r in kept.values()})
    said = f"Compiled with {'; '.join(versions)}." if versions else ""
    files.write_atomically(PAGE, f"{before}{BEGIN}\n\n{table(kept)}\n\n{said}\n\n{END}{after}".encode())


def main() -> None:
    """Fills what is empty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="names of rows or columns")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which a cell is given up")
    parser.add_argument("--write", action="store_true", help="compile nothing")
    given = parser.parse_args()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for row in ROWS:
        for column in COLUMNS:
            name = f"{row} on {column}"
            asked = all(any(part in which for which in (row, column)) for part in given.only)
            if given.write or name in kept or not asked:
                continue
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                kept[name] = fill(row, column, given.minutes)
            except GivenUp:
                print(f"{name}: given up after {given.minutes:g} minutes", file=sys.stderr)
                continue
            except (RuntimeError, ValueError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            files.write_atomically(KEPT, files.json_bytes(kept))
            print(f"{name}: {words_of(kept[name])}", file=sys.stderr, flush=True)
    if PAGE.exists():
        write(kept)


if __name__ == "__main__":
    main()
