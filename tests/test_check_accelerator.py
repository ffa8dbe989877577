"""The check of an accelerator ends in ten minutes whatever a part does, and keeps what each found."""

import json
import sys

import pytest


@pytest.fixture
def check(scripts):
    return scripts("check_accelerator")


def python(*lines):
    return [sys.executable, "-c", "\n".join(lines)]


DEVICE = {
    "platform": "gpu",
    "device": "NVIDIA H100 80GB",
    "num_devices": 1,
    "memory_bytes": 2**36,
    "matrix_flops_per_second": {"float32": 4e14, "bfloat16": 6.9e14},
    "published_bfloat16_flops_per_second": 9.89e14,
    "share_of_published": 6.9 / 9.89,
    "versions": {"jax": "0.10.2"},
}


def test_all_parts_together_take_ten_minutes_at_the_most(check):
    assert sum(check.LIMITS.values()) <= 600 and set(check.INSIDE) < set(check.LIMITS)


def test_a_part_that_fails_or_is_cut_is_recorded_and_the_next_one_begins(check, tmp_path, monkeypatch, capsys):
    commands = {
        "device": [python(f"print({json.dumps(DEVICE)!r})")],
        "equality": [python("import time", "print('{\"dcgan\": 1}', flush=True)", "time.sleep(60)")],
        "tests": [python("import os", "print(os.environ['JAX_PLATFORMS'])", "print('7 passed in 1 s')")],
        "benchmark": [["/nowhere/python"]],
        "fid": [python("import sys", "print('no memory', file=sys.stderr)", "sys.exit(3)"), ["never run"]],
    }
    monkeypatch.setattr(check, "commands_of", lambda part, settings, directory: commands[part])
    monkeypatch.setattr(check, "LIMITS", dict.fromkeys(commands, 20) | {"equality": 2})
    monkeypatch.setattr(sys, "argv", ["check_accelerator.py", "--output", str(tmp_path)])
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert check.main() == 1
    assert "failed: equality, benchmark, fid" in capsys.readouterr().out
    (file,) = tmp_path.glob("accelerator-NVIDIA-H100-80GB-*.json")
    parts = json.loads(file.read_text())["parts"]
    assert list(parts) == list(commands) and parts["device"]["found"] == DEVICE
    assert parts["equality"]["failed"] == "cut after 2 s" and parts["equality"]["found"] == {"dcgan": 1}
    assert parts["tests"]["ok"] and parts["tests"]["found"] == "7 passed in 1 s"
    assert "nowhere" in parts["benchmark"]["failed"]
    assert parts["fid"]["failed"] == "exit code 3" and "no memory" in parts["fid"]["said"]
    text = file.with_suffix(".md").read_text()
    assert "# jaxgen on NVIDIA H100 80GB" in text and "(70% of the published)" in text and "no memory" in text


def test_a_part_that_finds_a_difference_has_failed_though_its_process_ended_well(check, tmp_path, monkeypatch):
    found = {"dcgan": {"same": False}, "failed": "dcgan compute other losses than on a CPU"}
    monkeypatch.setattr(check, "commands_of", lambda *_: [python(f"print({json.dumps(found)!r})")])
    settings = check.argparse.Namespace(tiny=True, patience=1.0, platform="")
    result = check.run("equality", settings, tmp_path)
    assert not result["ok"] and result["failed"] == found["failed"] and result["found"] == found
