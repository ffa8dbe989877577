"""Writes docs/systems/*.md, a page for each published system, from its file: `python docs/system_pages.py [NAME ...]`.

And jaxgen/systems/presets.txt, the list that `jaxgen train --help` shows.

Counts of parameters take a trace of each network, a minute for all. They are stored in the pages, and `tests/` compares
everything else with the systems at each run, the counts with `-m slow`. A picture docs/systems/NAME.png is shown where
there is one, with the first line of docs/systems/NAME.txt below it.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).with_name("systems")
NOT_RUN = "not run to its end"


def counts_of(preset: str) -> dict[str, int]:
    """Network -> trainable scalars."""
    from jaxgen import building, description, systems

    found = systems.PRESETS[preset]
    spec = description.spec_of(found.config, found)
    return building.build_system(found.config, spec).parameters


def stored_counts(name: str) -> dict[str, dict[str, int]]:
    """Preset -> counts, as the page of a system has them."""
    lines = (FOLDER / f"{name}.md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("% counts: "))
    return json.loads(line.removeprefix("% counts: "))


def page(module: ModuleType, counts: Mapping[str, Mapping[str, int]]) -> str:
    """The page of a system, in MyST's Markdown.

    Args:
      module: of `systems.MODULES`.
      counts: preset -> network -> trainable scalars.
    """
    from jaxgen import building, description, systems

    name, presets = systems.name_of(module), module.PRESETS
    first = next(iter(presets))
    spec = description.spec_of(presets[first].config, presets[first])
    system = building.build_system(presets[first].config, spec)
    lines = [f"% counts: {json.dumps(counts)}", "", f"# {system.name} (`{name}`)", ""]
    lines += ["```{eval-rst}", f".. automodule:: jaxgen.systems.{name}", "   :no-members:", "   :no-index:", "```", ""]
    if (FOLDER / f"{name}.png").exists():
        caption = (FOLDER / f"{name}.txt").read_text().splitlines()[0]
        lines += [f"![what {system.name} draws]({name}.png)", "", caption, ""]
    lines += ["```sh", *commands(first, presets, system), "```", ""]
    for preset, found in presets.items():
        lines += [f"## {preset}", "", f"{found.about[0].upper()}{found.about[1:]}.", ""]
        sizes = ", ".join(f"{network.replace('_', ' ')} {size:,}" for network, size in counts[preset].items())
        told = {"paper": found.paper, "trainable parameters": sizes, "published": found.published}
        told["measured"] = found.measured or NOT_RUN
        lines += [f"* **{what}**: {text}" for what, text in told.items() if text] + [""]
    choices = ", ".join(f"`--{choice}`" for choice in system.choices if choice != "fine")
    lines += [f"`{first}` can {', '.join(f'`{verb}`' for verb in system.can)}."]
    lines += [f"What it draws can be told {choices}."] if choices else []
    return "\n".join(lines) + "\n"


def commands(first: str, presets: Mapping, system: Any) -> list[str]:
    """What to type."""
    last = list(presets)[-1]
    drawn = [f"jaxgen sample runs/{first}"] if "draw" in system.can else []
    by_itself = "" if system.measure is not None else " --metrics fid kid prdc"
    return [f"jaxgen train {first}", *drawn, f"jaxgen evaluate runs/{first}{by_itself}", f"jaxgen describe {last}"]


def index() -> str:
    """The page above them."""
    from jaxgen import systems

    names = [systems.name_of(module) for module in systems.MODULES]
    text = (
        "A file each in `jaxgen/systems`, a page each here: what it follows and where it departs from it, its presets, "
        "what was measured."
    )
    return "\n".join(["# Published systems", "", text, "", "```{toctree}", ":maxdepth: 1", "", *names, "```", ""])


def main(names: Sequence[str] = ()) -> None:
    """Writes the pages of some systems, or of all."""
    from jaxgen import systems

    for name in names or map(systems.name_of, systems.MODULES):
        module = systems.BY_NAME[name]
        print(name, file=sys.stderr)
        counts = {preset: counts_of(preset) for preset in module.PRESETS}
        (FOLDER / f"{name}.md").write_text(page(module, counts))
    (FOLDER / "index.md").write_text(index())
    systems.LISTED.write_text(systems.listing())


if __name__ == "__main__":
    main(sys.argv[1:])
