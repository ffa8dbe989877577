"""Methods of other libraries beside networks: they fill and clean what they should, and say what is not installed."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from in_process import call

from jaxgen import experiment
from jaxgen.metrics import classical
from jaxgen.systems import classifier, dncnn, gated
from jaxgen.systems.shared import degrading

pytestmark = pytest.mark.usefixtures("fast_compilation", "scripts_in_process")


@pytest.fixture
def libraries():
    pytest.importorskip("skimage")
    pytest.importorskip("cv2")


def ramps(count, side=24):
    """Images of linear ramps of colours [N, side, side, 3] in [-1, 1]."""
    y, x = np.mgrid[:side, :side] / (side - 1) - 0.5
    slopes = np.random.default_rng(0).uniform(-0.8, 0.8, (count, 1, 1, 3, 2))
    return (slopes[..., 0] * x[..., None] + slopes[..., 1] * y[..., None]).astype(np.float32)


def steps(count, side=24):
    """Images of a dark and a bright half."""
    image = np.full((count, side, side, 3), -0.6, np.float32)
    image[:, :, side // 2 :] = 0.6
    return image


def middle(count, side=24):
    mask = np.zeros((count, side, side, 1), np.float32)
    mask[:, 8:16, 8:16] = 1
    return mask


def test_completions_continue_a_ramp_and_leave_what_is_known(libraries):
    image, mask = ramps(3), middle(3)
    source = np.where(mask > 0, 0.0, image)
    methods, missing = classical.completions()
    assert list(methods) == ["biharmonic", "telea", "navier_stokes"] and not missing
    for name, most in (("biharmonic", 0.02), ("telea", 0.25), ("navier_stokes", 0.15)):
        filled = methods[name].apply(None, source, mask)
        assert filled.dtype == np.float32 and filled.shape == image.shape
        np.testing.assert_array_equal(np.where(mask > 0, 0, filled), np.where(mask > 0, 0, image))
        assert np.abs(filled - image).max() < most, name


def test_completions_of_grey_images_and_of_holes_that_are_all_or_nothing(libraries):
    image = ramps(3)[..., :1]
    mask = middle(3)
    mask[1], mask[2] = 0, 1
    for name, method in classical.completions()[0].items():
        filled = method.apply(None, np.where(mask > 0, 0.0, image), mask)
        np.testing.assert_array_equal(filled[1], image[1], err_msg=name)
        np.testing.assert_array_equal(filled[2], np.zeros_like(image[2]), err_msg=name)


def test_denoisers_choose_a_strength_like_the_noise_and_halve_the_error(libraries, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)  # installed or not, it is slow
    image = steps(12)
    noise = np.random.default_rng(1).standard_normal(image.shape).astype(np.float32) * (2 * 25 / 255)
    methods, missing = classical.denoisers(image[:6] + noise[:6], image[:6])
    assert list(methods) == ["total_variation", "non_local_means"] and ["BM3D" in text for text in missing] == [True]
    before = np.mean(np.square(np.clip(image + noise, -1, 1) - image)[6:])
    for name, method in methods.items():
        found = method.apply(None, (image + noise)[6:], None)
        assert np.mean(np.square(found - image[6:])) < before / 4, name
    level = float(methods["non_local_means"].words.split("a noise of ")[1].split(",")[0])
    assert 20 <= level <= 35


def test_bm3d_is_told_colours_and_levels_where_it_is_installed(libraries, monkeypatch):
    class Bm3d:
        @staticmethod
        def bm3d_rgb(image, sigma):
            return image - (0.1 if abs(sigma - 10 / 255) < 1e-9 else 0.3)

        @staticmethod
        def bm3d(image, sigma):
            return Bm3d.bm3d_rgb(image, sigma)[..., 0]

    monkeypatch.setitem(sys.modules, "bm3d", Bm3d)
    image = ramps(2)
    for channels in (1, 3):
        methods, missing = classical.denoisers(image[..., :channels] + 0.2, image[..., :channels])
        assert not missing and "a noise of 10, chosen on 2 training pairs" in methods["bm3d"].words
        np.testing.assert_allclose(
            methods["bm3d"].apply(None, image + 0.2, None)[..., :channels], image[..., :channels], atol=1e-6
        )


def test_what_is_not_installed_is_named_with_how_to_get_it(monkeypatch):
    for name in ("skimage", "skimage.restoration", "cv2", "bm3d"):
        monkeypatch.setitem(sys.modules, name, None)
    methods, missing = classical.completions()
    assert not methods and len(missing) == 2 and all('pip install "jaxgen[classical]"' in text for text in missing)
    methods, missing = classical.denoisers(ramps(2), ramps(2))
    assert not methods and ["jaxgen[classical]" in text for text in missing] == [True, False]


@pytest.mark.parametrize(("sources", "images"), [(0, 0), (2, 3)])
def test_pairs_that_are_none_are_refused(sources, images):
    with pytest.raises(ValueError, match="no pairs of one shape"):
        classical.denoisers(ramps(sources), ramps(images))


def trained(module, path, **changes):
    config = dataclasses.replace(module.TINY, num_steps=1, **changes)
    experiment.train(config, str(path), progress=False)
    return path


@pytest.mark.slow
def test_evaluate_shows_them_with_the_fid_of_each_in_one_table(tmp_path, capsys, libraries):
    run = trained(gated, tmp_path / "run", source=degrading.Holes("centre"))
    side = gated.TINY.data.image_size
    data = dataclasses.replace(classifier.TINY.data, name="emoji", image_size=side)
    judge = trained(classifier, tmp_path / "judge", data=data)
    assert call("evaluate", run, "--baselines", "--backbone", judge) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = next(i for i, line in enumerate(lines) if line.startswith(" ") and "psnr_in_hole" in line.split())
    table = [line.split("  ")[0] for line in lines[heads + 1 :]]
    methods = ["linear map", "nearest", "biharmonic", "telea", "navier stokes"]
    assert table == ["this run", "mean colour", *methods] and " ± " in lines[-1]
    record = json.loads(next((run / "evaluation").glob("*.json")).read_text())
    found = record["metrics"]
    assert found["psnr_in_hole_of_telea"] > found["psnr_in_hole_of_mean_colour"] - 5
    assert all(found[f"fid_of_{name}"] > 0 for name in ("linear_map", "nearest", "biharmonic", "telea"))
    assert record["protocol"]["the telea"].startswith("OpenCV") and record["protocol"]["backbone_sha256"]


@pytest.mark.slow
def test_evaluate_names_what_is_left_out(tmp_path, capsys, monkeypatch):
    for name in ("skimage", "skimage.restoration", "bm3d"):
        monkeypatch.setitem(sys.modules, name, None)
    data = dataclasses.replace(dncnn.TINY.data, num_examples=20)
    run = trained(dncnn, tmp_path / "run", data=data)
    with pytest.warns(UserWarning, match="left out: total variation and non-local means"):
        assert call("evaluate", run, "--baselines", "--json") == 0
    assert "BM3D" in json.loads(capsys.readouterr().out)["protocol"]["left out"]
