"""What the README shows runs as it stands."""

import re
import shlex
from pathlib import Path

import pytest
from in_process import script

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def commands(name):
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S)).replace("\\\n", " ")
    found = re.findall(rf"python3? scripts/{name}\.py([^\n#&]*)", shell)
    return [shlex.split(arguments) for arguments in found]


def test_python_snippets_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    snippets = re.findall(r"(?<!-->\n)```python\n(.*?)```", README, re.S)
    assert len(snippets) == 3
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), namespace)
    assert namespace["images"].shape == (16, 28, 28, 1) and (tmp_path / "mine.png").exists()
    assert namespace["run"].step == 200 and (tmp_path / "runs" / "mine" / "report.html").exists()
    assert int(namespace["state"].step) == 4
    assert namespace["metrics"]["penalty/r1"] > 0


@pytest.mark.parametrize("arguments", commands("train"), ids=" ".join)
def test_train_commands_are_understood(arguments, capsys):
    train = script("train")
    if "--help" in arguments:
        with pytest.raises(SystemExit) as end:
            train.parse(arguments)
        assert not end.value.code
        assert "train" in capsys.readouterr().out
    else:
        chosen = train.parse(arguments)
        assert chosen.name and str(chosen.directory).startswith("runs/")


def test_every_preset_has_a_row_and_every_linked_file_exists():
    from jaxgen import systems

    for name in systems.PRESETS:
        assert f"| `{name}` |" in README, name
    for target in re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r'src="([^"]+)"', README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
