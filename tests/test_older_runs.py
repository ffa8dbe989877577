"""Runs that version 0.1 wrote still load, draw, and go on: one of each of its families, made with its code."""

import dataclasses
import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from test_gan_golden import GOLDEN, environment

from jaxgen import drawing, experiment, loading, report

STORED = Path(__file__).parent / "golden" / "runs_of_0.1.tar.xz"
EXPECTED = json.loads(STORED.with_name("runs_of_0.1.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs")
    with tarfile.open(STORED) as archive:
        archive.extractall(directory, filter="data")
    return directory


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(report, "write", lambda directory: None)


def digest(tree) -> str:
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


@pytest.mark.parametrize(
    "name, system",
    [
        ("gan", "DCGAN"),
        pytest.param("vae", "VAE", marks=pytest.mark.slow),
        pytest.param("classifier", "classifier", marks=pytest.mark.slow),
    ],
)
def test_a_run_of_version_0_1_loads_draws_and_goes_on(runs, tmp_path, name, system):
    trained, expected = loading.load(runs / name), EXPECTED[name]
    assert trained.system.name == system and trained.step == 4
    assert digest(trained.state) == expected["restored"]
    if "drawn" in expected:
        drawn = drawing.generate(trained, 2, jax.random.key(0))
        np.testing.assert_allclose(drawn.ravel()[:5], expected["drawn"], rtol=1e-4, atol=1e-6)
    shutil.copytree(runs / name, tmp_path / name)
    config = dataclasses.replace(trained.config, num_steps=6)
    result = experiment.train(config, str(tmp_path / name), progress=False)
    assert result.step == 6
    means = [float(np.float64(np.asarray(leaf)).mean()) for leaf in jax.tree.leaves(result.state)]
    np.testing.assert_allclose(means, expected["means"], rtol=2e-2, atol=1e-4)
    for number, value in expected["evaluation"].items():
        assert result.evaluation[number] == pytest.approx(value, rel=1e-3)
    if environment() == json.loads(GOLDEN.read_text())["environment"]:
        assert digest(result.state) == expected["continued"]
    stored = json.loads((tmp_path / name / "config.json").read_text())
    assert stored["system"] == {"gan": "dcgan"}.get(name, name) and "family" not in stored
