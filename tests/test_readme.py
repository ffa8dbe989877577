"""What the README and the pages in docs/ show runs as it stands."""

import re
import shlex
from pathlib import Path

import pytest
from in_process import call, script

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


def commands(name):
    """Arguments of each command of a name that a page shows, without comments."""
    shell = "\n".join(block for page in PAGES.values() for block in re.findall(r"```sh\n(.*?)```", page, re.S))
    found = re.findall(rf"(?:python3? scripts/{name}\.py|jaxgen {name}\b)([^\n#&]*)", shell.replace("\\\n", " "))
    return [shlex.split(arguments.partition(">")[0]) for arguments in dict.fromkeys(found)]


def test_python_snippets_of_the_readme_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    snippets = re.findall(r"(?<!-->\n)```python\n(.*?)```", README, re.S)
    assert len(snippets) == 3
    for snippet in snippets:
        for long, short in {
            "range(600)": "range(4)",
            "num_steps=1000": "num_steps=20",
            "num_steps=200": "num_steps=4",
        }.items():
            snippet = snippet.replace(long, short)
        exec(compile(snippet, "README.md", "exec"), namespace)
    (sharded,) = re.findall(r"```python\n(.*?)```", PAGES[ROOT / "docs" / "devices.md"], re.S)
    exec(compile(sharded, "devices.md", "exec"), namespace)
    assert int(namespace["state"].step) == 5 and namespace["metrics"]["penalty/r1"] > 0
    assert namespace["run"].step == 20
    assert all((tmp_path / name).exists() for name in ("digits.png", "mine.png"))
    assert all((tmp_path / "runs" / name / "report.html").exists() for name in ("mine", "denoiser"))


@pytest.mark.parametrize("arguments", commands("train"), ids=" ".join)
def test_train_commands_are_understood(arguments, capsys, tmp_path, monkeypatch):
    train = script("train")
    if arguments[:1] == ["mine.py"]:
        monkeypatch.chdir(tmp_path)
        Path("mine.py").write_text(own_file())
    if "--help" in arguments:
        with pytest.raises(SystemExit) as end:
            train.parse(arguments)
        assert not end.value.code
        assert "train" in capsys.readouterr().out
    else:
        chosen = train.parse(arguments)
        assert chosen.name and str(chosen.directory).startswith(("runs/", "gs://"))


def own_file():
    """The file of a system that docs/extending.md shows."""
    (shown,) = re.findall(r"```python\n(.*?)```", PAGES[ROOT / "docs" / "extending.md"], re.S)
    return shown


@pytest.mark.usefixtures("scripts_in_process")
def test_the_system_of_ones_own_that_is_shown_is_trained_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(own_file())
    few = ("--num-steps", "2", "--batch-size", "8", "--num-devices", "1")
    assert call("train", "mine.py", "--latent-dim", "3", *few, "--directory", "runs/mine") == 0
    assert call("sample", "runs/mine", "--system", "mine.py", "--num-images", "4") == 0
    assert list(Path("runs/mine").rglob("*.png"))


def test_every_preset_has_a_row_and_every_linked_file_exists():
    from jaxgen import systems

    for name in systems.PRESETS:
        assert f"| `{name}` |" in PAGES[ROOT / "docs" / "results.md"], name
    for path, page in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)\)", page) + re.findall(r'src="([^"]+)"', page):
            if "://" not in target:
                target = target.partition("#")[0]
                assert (path.parent / target).exists(), (path, target)


def test_the_readme_is_a_page_to_read():
    lines = [line for line in README.splitlines() if not line.startswith(("|", "<img", "#"))]
    assert len(README.splitlines()) <= 220 and max(map(len, lines)) <= 120
