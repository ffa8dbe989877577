"""The tutorials of the site run as they stand; the site itself is built in continuous integration."""

import re
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parent.parent / "docs" / "tutorials").glob("*.md"))


@pytest.mark.slow
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(tutorial, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = re.findall(r"```\{code-cell\}\n(.*?)```", tutorial.read_text(), re.S)
    assert len(cells) > 3
    namespace = {}
    for cell in cells:
        exec(compile(cell, tutorial.name, "exec"), namespace)


def test_every_tutorial_is_on_the_site():
    index = (TUTORIALS[0].parent.parent / "index.md").read_text()
    assert all(f"tutorials/{tutorial.stem}\n" in index for tutorial in TUTORIALS)
