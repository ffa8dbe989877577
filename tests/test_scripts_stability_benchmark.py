"""The benchmark of sweeps: its ratios by hand, and a tiny run of the real thing in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
SCRIPT = SCRIPTS / "benchmark_members.py"
TORCH_PYTHON = os.environ.get("JAXGEN_TORCH_PYTHON")
TINY = ("--few", "2", "--steps", "3", "--rounds", "1", "--width", "4", "--batch-size", "8", "--threads", "2")


@pytest.fixture
def benchmark_members(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import benchmark_members

    yield benchmark_members
    for name in ("benchmark", "benchmark_members"):
        sys.modules.pop(name, None)


def run(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPTS.parent), environment.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, timeout=600
    )


def test_ratios_are_taken_within_a_round(benchmark_members):
    found = {"program of 64": [2.0, 8.0, 30.0], "loop": [1.0, 2.0, 3.0], "torch": [1.0, 1.0, 1.0]}
    assert benchmark_members.ratios(found) == {("program of 64", "loop"): 4.0, ("program of 64", "torch"): 8.0}


def test_the_round_that_compiles_does_not_count(benchmark_members):
    asked = []

    def ask(rival, number, num_steps):
        asked.append((rival, number))
        return 100.0 if len(asked) <= 3 else number * num_steps / 10  # seconds: ten GAN-steps in each

    found = benchmark_members.measure(
        {"program": ask, "loop": ask}, {}, [2, 4], few=3, num_steps=5, rounds=2, tell=lambda line: None
    )
    assert asked[:3] == [("program", 2), ("program", 4), ("loop", 3)] and len(asked) == 9
    assert {name: [round(rate, 6) for rate in rates] for name, rates in found.items()} == {
        "program of 2": [10.0, 10.0],
        "program of 4": [10.0, 10.0],
        "loop": [10.0, 10.0],
    }


@pytest.mark.slow
def test_a_tiny_run_times_programs_beside_one_gan_after_the_other(tmp_path):
    done = run("--members", "2", "3", "--json", str(tmp_path / "result.json"), *TINY)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["gan_steps_per_second"]) == {"program of 2", "program of 3", "loop", "scan"}
    assert all(len(rates) == 1 and rates[0] > 0 for rates in result["gan_steps_per_second"].values())
    assert result["rivals"]["program"]["device"].startswith("2 x")  # a sweep divides its members over the cores
    assert result["rivals"]["loop"]["device"].startswith("1 x")
    assert "program of 3 / loop" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(TORCH_PYTHON is None, reason="no PyTorch; JAXGEN_TORCH_PYTHON can name an interpreter that has it")
def test_pytorch_does_the_same_work(tmp_path):
    done = run(
        "--members", "2", "--rivals", "loop", "--torch-python", TORCH_PYTHON, "--json", str(tmp_path / "r.json"), *TINY
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["largest_difference"] < 1e-4


@pytest.mark.parametrize("option, value", [("--members", "0"), ("--rounds", "0"), ("--rivals", "torch")])
def test_what_cannot_be_measured_is_refused_before_anything_starts(benchmark_members, capsys, option, value):
    with pytest.raises(SystemExit):
        benchmark_members.main([option, value])
    assert "must be at least 1" in (error := capsys.readouterr().err) or "nothing to be compared with" in error
