"""The collapse map: active units of small autoencoders beside the linear theory, all in one program."""

import json

import jax
import numpy as np
import pytest
from in_process import call

from jaxgen import data
from jaxgen.metrics import collapse
from jaxgen.stability import collapse_map

pytestmark = pytest.mark.usefixtures("scripts_in_process")
EIGENVALUES = np.array([2.0, 0.5, 0.125])


def points(num=4096, seed=0):
    """Images of 2x2 pixels with these eigenvalues, and a small fourth one, in directions that are not the axes'."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    x = rng.normal(size=(num, 4)) * np.sqrt([*EIGENVALUES, 0.01]) @ turn.T
    return data.dataset.in_memory("points", (0.25 * x).reshape(-1, 2, 2, 1).astype(np.float32))


def test_eigenvalues_are_those_of_the_images():
    np.testing.assert_allclose(collapse_map.eigenvalues_of(points(), 3), 0.0625 * EIGENVALUES, rtol=0.1)


@pytest.mark.slow
def test_the_linear_autoencoder_has_the_units_and_the_rate_that_theory_says(tmp_path):
    found = collapse_map.collapse_map(
        points(),
        points(seed=2),
        kind="linear",
        betas=(4.0, 32.0, 256.0),
        num_seeds=2,
        latent_dim=2,
        variance=2e-3,
        learning_rate=5e-2,
        num_steps=800,
        num_records=1,
        batch_size=256,
        devices=jax.devices()[:1],
    )
    assert found.observed.shape == (3, 2)
    assert found.predicted.tolist() == [2, 1, 0]
    for counts in (found.observed, found.directions):
        np.testing.assert_array_equal(counts, np.repeat(found.predicted[:, None], 2, axis=1))
    np.testing.assert_allclose(found.rate, np.repeat(found.predicted_rate[:, None], 2, axis=1), atol=0.15)
    paths = collapse_map.write(tmp_path, found)
    assert [path.name for path in paths] == ["collapse.json", "collapse.txt", "collapse.png"]
    stored = json.loads(paths[0].read_text())
    assert stored["predicted"] == [2, 1, 0] and stored["settings"]["num_steps"] == 800
    assert len(paths[1].read_text().splitlines()) == 2 + 3 and paths[2].read_bytes()[:4] == b"\x89PNG"
    expected = collapse.active_units(found.eigenvalues, 2e-3, found.betas)
    np.testing.assert_array_equal(found.predicted, expected)


def test_an_unknown_model_and_too_many_units_are_refused():
    with pytest.raises(ValueError, match="linear or mlp, not 'deep'"):
        collapse_map.modules("deep", (2, 2, 1), 2, 1.0)
    with pytest.raises(ValueError, match="there are 4 pixels, fewer than latent_dim 5"):
        collapse_map.collapse_map(points(64), points(64), latent_dim=5)


@pytest.mark.slow
def test_the_command_writes_a_map_and_resumes(tmp_path, capsys):
    arguments = ["--data", "factors", "--beta", 4, 64, "--seeds", 2, "--latent-dim", 3, "--num-steps", 4]
    arguments += ["--records", 2, "--batch-size", 8, "--num-devices", 1, "--directory", tmp_path]
    assert call("stability", "collapse", *arguments) == 0
    shown = capsys.readouterr()
    assert "4 autoencoders" in shown.err and "directions" in shown.out
    first = json.loads((tmp_path / "collapse.json").read_text())
    assert np.shape(first["observed"]) == (2, 2)
    assert call("stability", "collapse", *arguments) == 0
    assert json.loads((tmp_path / "collapse.json").read_text()) == first
