"""`jaxgen evaluate RUN --representation`, and traversals: what codes of a run are good for."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from in_process import call
from PIL import Image

from jaxgen import building, data, description, images, loading, systems, traversal
from jaxgen.evaluation import representation
from jaxgen.metrics import amortisation, disentanglement
from jaxgen.system import MissingCapability
from jaxgen.systems import aae, cgan, vae, vqvae
from jaxgen.systems.preset import Preset

pytestmark = pytest.mark.usefixtures("fast_compilation", "scripts_in_process")


def error_of(capsys, *arguments) -> str:
    assert call(*arguments) == 2
    return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A beta-VAE of shapes that has hardly learnt anything."""
    path = tmp_path_factory.mktemp("runs") / "shapes"
    arguments = ["--model", "mlp", "--latent-dim", 4, "--batch-size", 8, "--num-steps", 2, "--num-devices", 1]
    arguments += ["--sample-every", 0, "--evaluate-every", 0, "--checkpoint-every", 0]
    assert call("train", "factors-beta-vae", *arguments, "--directory", path) == 0
    return path


@pytest.fixture
def short(monkeypatch):
    """A search for posteriors that takes no time."""
    for name, value in (("num_steps", 3), ("num_samples", 1), ("eval_samples", 2)):
        monkeypatch.setitem(representation.SEARCH, name, value)
    monkeypatch.setattr(representation, "NUM_OPTIMISED", 5)


@pytest.mark.slow
def test_a_run_is_told_what_its_codes_are_good_for(run, short, capsys):
    assert call("evaluate", run, "--representation", "--num-images", 640, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    metrics, protocol, settings = (record[name] for name in ("metrics", "protocol", "settings"))
    assert metrics["latent_dim"] == 4 and 0 <= metrics["active_units"] <= 4
    assert 0.3 < metrics["accuracy_by_chance"] < 0.4 and 0.2 < metrics["probe_accuracy"] <= 1
    assert 0.2 < metrics["neighbours_accuracy"] <= 1
    for name in ("mig", "sap", "dci_disentanglement", "dci_completeness"):
        assert 0 <= metrics[name] <= 1
    assert len(metrics["mig_by_factor"]) == len(metrics["sap_by_factor"]) == 5
    assert metrics["generalisation_gap"] == pytest.approx(metrics["elbo_of_train"] - metrics["elbo"])
    assert abs(metrics["generalisation_gap"]) < 5 * metrics["generalisation_gap_standard_error"] < -metrics["elbo"]
    gap = metrics["elbo_optimised"] - metrics["elbo_of_encoder"]
    assert metrics["amortisation_gap"] == pytest.approx(gap, abs=1e-3)
    assert (protocol["n_real"], protocol["n_train"], protocol["split"]) == (640, 640, "test")
    assert protocol["codes"] == "posterior means" and protocol["data"]["name"] == "factors"
    assert settings["mig"] == {"num_bins": 20, "factors": "shape size orientation x y"}
    assert settings["amortisation_gap"]["num_steps"] == 3 and settings["amortisation_gap"]["images"] == 5
    (stored,) = (run / "evaluation").glob("*_representation_of_640.json")
    assert json.loads(stored.read_text()) == record
    text = stored.with_suffix(".html").read_text().replace("<wbr>", "")
    assert text.count("data:image/png;base64,") == 3 and "Traversals" in text and "Latents and factors" in text
    assert "no latent serves two factors" in text and "Features" not in text
    # The numbers are those of the functions, of the codes that the run gives.
    trained, test = loading.load(run), data.subset(data.factors("test", binarise=data.binarisation.threshold), 640)
    rows = representation.rows_of(trained, test, jax.random.key(7))
    gap = disentanglement.mutual_information_gap(rows["codes"], rows["factor"])
    assert gap.score == pytest.approx(metrics["mig"], abs=1e-4)
    assert call("evaluate", "--table", stored, "--metrics", "mig", "amortisation_gap") == 0
    assert "| mig | amortisation_gap |" in capsys.readouterr().out


@pytest.mark.slow
def test_words_say_how_to_read_the_numbers(run, short, capsys, tmp_path):
    arguments = ["--num-images", 640, "--no-pictures", "--samples", 2, "--output", tmp_path]
    assert call("evaluate", run, "--representation", *arguments) == 0
    lines = capsys.readouterr().out
    assert "mig " in lines and "mutual information gap" in lines and "of training images" in lines
    assert max(map(len, lines.splitlines())) <= 120
    (file,) = tmp_path.iterdir()  # no page
    assert json.loads(file.read_text())["protocol"]["samples"] == 2


@pytest.mark.slow
def test_the_amortisation_gap_of_a_run_is_that_of_its_own_bound(run):
    """The bound that is optimised is the one that is measured: the same mean over images."""
    trained = loading.load(run)
    test = data.subset(data.factors("test", binarise=data.binarisation.threshold), 16)
    batch = test.prepare(test.fetch(np.arange(16)), jax.random.key(0))
    inference, measure = trained.system.inference, trained.system.measure
    q = inference.posterior(trained.variables, batch)
    np.testing.assert_allclose(q[0], trained.encode(batch), atol=1e-5)
    found = amortisation.amortisation(
        q, lambda q, noise: inference.bound(trained.variables, batch, q, noise), jax.random.key(1), num_steps=1
    )
    elbo = measure.of_batch(trained.variables, batch, jax.random.key(2))["elbo"]
    np.testing.assert_allclose(found.of_encoder, elbo, rtol=0.02)


def stand_in(module, **changes):
    config = dataclasses.replace(module.TINY, **changes)
    spec = description.spec_of(config, Preset("", config))
    return loading.Trained(building.build_system(config, spec), None, {}, {}, spec)


@pytest.mark.parametrize(
    "modules", [(vae, vqvae, cgan), pytest.param(systems.MODULES, marks=pytest.mark.slow)], ids=["three", "all"]
)
def test_codes_are_vectors_or_maps_of_numbers_or_refused(modules):
    kinds = {}
    for module in modules:
        trained = stand_in(module)
        if trained.system.encode is None:
            with pytest.raises(MissingCapability, match="--representation needs a system that can encode images"):
                representation.code_shape(trained, "--representation")
            continue
        try:
            kinds[systems.name_of(module)] = representation.code_shape(trained, "--representation")
        except ValueError as error:
            kinds[systems.name_of(module)] = str(error)
    assert kinds["vae"] == (3,)
    assert "is of codes that are real numbers" in kinds["vqvae"] and "encodes two images to int32" in kinds["vqvae"]
    if len(modules) > 3:
        assert kinds["factor_vae"] == (3,) and len(kinds["vqgan"]) and len(kinds) > 12


def test_what_cannot_be_asked_is_refused(run, capsys, tmp_path):
    ask = ("evaluate", run, "--representation")
    assert "--representation is for a run by itself" in error_of(capsys, *ask, "--metrics", "kid")
    assert "--classifier judges images" in error_of(capsys, *ask, "--classifier", tmp_path)
    assert "--samples must be at least 1" in error_of(capsys, *ask, "--samples", 0)
    assert "is no run" in error_of(capsys, "evaluate", "mnist:test", "--representation")
    few = error_of(capsys, *ask, "--num-images", 100)
    assert "100 codes are fewer than the 320 cells of 20 bins and 16 values" in few
    gan = stand_in(cgan)
    with pytest.raises(MissingCapability):
        representation.represented(gan, "gan")


def test_a_generalisation_gap_is_positive_where_training_images_are_better():
    trained = stand_in(aae)
    rows = [{"distortion": value + np.array([-1.0, 0, 1])} for value in (1.0, 4.0)]
    found = representation.generalisation(trained.system, *rows)
    assert found["generalisation_gap"] == 3 and found["distortion"] == 4 and found["distortion_of_train"] == 1
    assert found["generalisation_gap_standard_error"] == pytest.approx((2 / 3) ** 0.5)


# Traversals -----------------------------------------------------------------------------------------------------------


def test_a_traversal_moves_one_unit_and_leaves_the_others(run):
    trained = loading.load(run)
    codes = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    found = traversal.traverse(trained, codes, [2, 0], values=[-1.0, 0.5])
    assert found.shape == (2, 2, 2, 32, 32, 1)
    for image in range(2):
        for row, unit in enumerate((2, 0)):
            for column, value in enumerate((-1.0, 0.5)):
                moved = codes[image].copy()
                moved[unit] = value
                np.testing.assert_allclose(found[image, row, column], trained.decode(moved[None])[0], atol=1e-5)
    each = traversal.traverse(trained, codes[:1], [1, 3], values=[[0.0, 1.0, 2.0], [5.0, 6.0, 7.0]])
    alone = traversal.traverse(trained, codes[:1], [3], values=[5.0, 6.0, 7.0])
    np.testing.assert_allclose(each[0, 1], alone[0, 0], atol=1e-5)
    assert traversal.traverse(trained, codes[:1], [1]).shape[2] == 11
    for arguments, message in (
        ((codes[0], [0]), "vectors"),
        ((codes, [4]), "no unit 4: codes have the units 0 to 3"),
        ((codes.astype(int), [0]), "numbers of vectors"),
    ):
        with pytest.raises(ValueError, match=message):
            traversal.traverse(trained, *arguments)
    with pytest.raises(ValueError, match=r"values are \[V\] or \[2, V\]"):
        traversal.traverse(trained, codes, [0, 1], values=np.zeros((3, 2)))


def test_units_come_in_the_order_of_how_much_they_vary():
    codes = np.array([[0.0, -1.0, 5.0, 0.5], [0.0, 1.0, 5.0, -0.5]])
    assert traversal.most_active(codes).tolist() == [1, 3, 0, 2]


def test_traversals_are_drawn_of_test_images(run, capsys, tmp_path):
    assert call("sample", run, "--traversals", "--image", 3, 10) == 0
    shown = capsys.readouterr()
    assert "units of the rows: " in shown.err
    (path,) = (run / "generated").glob("*_traversals_3-10.png")
    with Image.open(path) as picture:
        expected = images.grid(np.ones((11 * 10, 32, 32, 1)), columns=11, upscale=None)
        assert picture.size == expected.shape[1::-1]  # of each image a row with itself and four of units
    assert call("sample", run, "--traversals", "--output", tmp_path / "a.npz") == 0
    with np.load(tmp_path / "a.npz") as archive:
        drawn = archive["image"]
    assert drawn.shape == (5 * 11, 32, 32, 1)
    test = data.factors("test", binarise=data.binarisation.threshold)
    np.testing.assert_array_equal(drawn[0] > 127, test.arrays["image"][0] > 127)
    for arguments, message in (
        (["--traversals", "--image", 5000], "factors/test has the images 0 to 4095"),
        (["--image", 3], "--image would be ignored: it is of --traversals"),
        (["--traversals", "--film"], "--film would be ignored"),
        (["--traversals", "--num-images", 3], "--num-images would be ignored"),
    ):
        assert message in error_of(capsys, "sample", run, *arguments)
    assert "--traversals is for runs" in error_of(capsys, "sample", "mnist:test", "--traversals", "--output", "a.png")
