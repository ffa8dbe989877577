"""The site's page of each published system says what its file says: `docs/system_pages.py`."""

import importlib.util
from pathlib import Path

import pytest

from jaxgen import systems

FILE = Path(__file__).parents[1] / "docs" / "system_pages.py"
SPEC = importlib.util.spec_from_file_location("system_pages", FILE)
pages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pages)

AGAIN = "is not what docs/system_pages.py writes: run it again"


@pytest.mark.parametrize("module", systems.MODULES, ids=systems.name_of)
def test_a_page_says_what_its_system_says(module):
    name = systems.name_of(module)
    counts = pages.stored_counts(name)
    assert list(counts) == list(module.PRESETS)
    assert pages.page(module, counts) == (pages.FOLDER / f"{name}.md").read_text(), f"docs/systems/{name}.md {AGAIN}"


def test_there_is_a_page_for_each_system_and_no_other():
    assert pages.index() == (pages.FOLDER / "index.md").read_text(), f"docs/systems/index.md {AGAIN}"
    there = {file.stem for file in pages.FOLDER.glob("*.md")}
    assert there == {systems.name_of(module) for module in systems.MODULES} | {"index"}


def test_the_list_of_presets_that_help_shows_is_complete():
    assert systems.LISTED.read_text() == systems.listing(), f"jaxgen/systems/presets.txt {AGAIN}"


@pytest.mark.slow
@pytest.mark.parametrize("module", systems.MODULES, ids=systems.name_of)
def test_counts_of_a_page_are_those_of_the_networks(module):
    counts = {preset: pages.counts_of(preset) for preset in module.PRESETS}
    assert counts == pages.stored_counts(systems.name_of(module))
