"""Closed forms beside networks: the best filter and linear map are the solutions that they claim to be."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import call

from jaxgen import experiment
from jaxgen.metrics import baselines
from jaxgen.systems import dcgan, edsr, gated
from jaxgen.systems.shared import degrading

RNG = np.random.default_rng(0)
pytestmark = pytest.mark.usefixtures("fast_compilation", "scripts_in_process")


def test_the_best_filter_finds_the_filter_that_made_the_images():
    source = RNG.uniform(-0.5, 0.5, (12, 20, 20, 3)).astype(np.float32)
    kernel = RNG.uniform(-0.2, 0.2, (3, 3))
    padded = np.pad(source, [(0, 0), (1, 1), (1, 1), (0, 0)], "edge")
    image = 0.1 + sum(kernel[i, j] * padded[:, i : i + 20, j : j + 20] for i in range(3) for j in range(3))
    method = baselines.best_filter([(source[:5], image[:5]), (source[5:], image[5:])], taps=5)
    expected = np.zeros((5, 5))
    expected[1:4, 1:4] = kernel
    np.testing.assert_allclose(method.arrays[:-1].reshape(5, 5), expected, atol=2e-4)
    np.testing.assert_allclose(method.arrays[-1], 0.1, atol=2e-4)
    np.testing.assert_allclose(method.apply(method.arrays, source, None), np.clip(image, -1, 1), atol=1e-3)


def test_the_best_filter_beats_every_other_of_its_size_on_its_pairs():
    image = RNG.uniform(-0.5, 0.5, (6, 16, 16, 1)).astype(np.float32).cumsum(axis=2) / 8
    source = image + 0.2 * RNG.standard_normal(image.shape).astype(np.float32)
    method = baselines.best_filter([(source, image)], taps=3)
    windows = baselines._windows(jnp.asarray(source), 3)
    least = float(jnp.mean((windows @ method.arrays - image) ** 2))
    for key in jax.random.split(jax.random.key(0), 20):
        other = method.arrays + 0.02 * jax.random.normal(key, method.arrays.shape)
        assert float(jnp.mean((windows @ other - image) ** 2)) > least
    assert least < float(np.mean((source - image) ** 2))


def test_the_best_linear_map_is_a_ridge_regression_whose_strength_leaving_out_chooses():
    source = RNG.standard_normal((24, 3, 3, 1)).astype(np.float32)
    weights = RNG.standard_normal((9, 4)).astype(np.float32) / 8
    image = (source.reshape(24, 9) @ weights + 0.05 * RNG.standard_normal((24, 4))).reshape(24, 2, 2, 1)
    method = baselines.best_linear_map(source, image)
    x, y = source.reshape(24, 9).astype(np.float64), image.reshape(24, 4).astype(np.float64)
    x, y = x - x.mean(0), y - y.mean(0)
    largest = np.linalg.eigvalsh(x @ x.T)[-1]

    def fitted(strength, x, y):
        return np.linalg.solve(x.T @ x + strength * largest * np.eye(9), x.T @ y)

    chosen = float(method.words.split("ridge of ")[1].split()[0])
    np.testing.assert_allclose(method.arrays[0], fitted(chosen, x, y), rtol=1e-3, atol=1e-4)

    def left_out(strength):
        rest = [np.delete(np.arange(24), i) for i in range(24)]
        return np.mean([np.square(y[i] - x[i] @ fitted(strength, x[r], y[r])).sum() for i, r in enumerate(rest)])

    errors = {strength: left_out(strength) for strength in baselines.STRENGTHS}
    assert errors[chosen] <= 1.02 * min(errors.values())  # 128 directions and a centre of all tell almost the same


def test_the_nearest_neighbour_looks_at_known_pixels_alone():
    images = RNG.uniform(-1, 1, (7, 4, 4, 1)).astype(np.float32)
    method = baselines.nearest(images / 2, images)
    np.testing.assert_array_equal(method.apply(method.arrays, jnp.asarray(images[[3, 5]] / 2), None), images[[3, 5]])
    mask = np.zeros((2, 4, 4, 1), np.float32)
    mask[:, :3] = 1
    spoilt = np.where(mask > 0, 0.9, images[[2, 6]]).astype(np.float32)
    np.testing.assert_array_equal(method.apply(method.arrays, jnp.asarray(spoilt), mask), images[[2, 6]])


def test_a_filter_of_enlarged_images_whose_windows_hardly_differ_is_no_worse_than_the_enlargement():
    image = jax.image.resize(RNG.uniform(-1, 1, (6, 6, 6, 1)).astype(np.float32), (6, 32, 32, 1), "cubic")
    source = jax.image.resize(image, (6, 8, 8, 1), "cubic")
    method = baselines.best_filter([(source, image)], taps=13)
    found, plain = method.apply(method.arrays, source, None), baselines.enlarged(source, (32, 32, 1))
    assert float(jnp.mean((found - image) ** 2)) < float(jnp.mean((plain - image) ** 2))


@pytest.mark.parametrize(("taps", "pairs", "words"), [(4, [1], "odd number"), (3, [], "no pairs")])
def test_what_cannot_be_fitted_is_refused(taps, pairs, words):
    with pytest.raises(ValueError, match=words):
        baselines.best_filter(pairs, taps=taps)


@pytest.mark.parametrize("num_images", [20, 60])
def test_principal_components_are_those_of_a_singular_value_decomposition(num_images):
    generator = np.random.default_rng(0)
    images = np.clip(generator.normal(0, 0.1, (num_images, 4, 4, 2)) + generator.normal(0, 0.2, (4, 4, 2)), -1, 1)
    method = baselines.principal_components(images, 5)
    x = images.reshape(num_images, -1)
    rows = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:5]
    new = np.clip(generator.normal(0, 0.1, (3, 4, 4, 2)), -1, 1)
    expected = (new.reshape(3, -1) - x.mean(axis=0)) @ rows.T @ rows + x.mean(axis=0)
    found = method.apply(method.arrays, new.astype(np.float32), None)
    np.testing.assert_allclose(found, expected.reshape(new.shape), atol=1e-5)
    with pytest.raises(ValueError, match="components are of 1 or more and 2 images or more, not 0 of"):
        baselines.principal_components(images, 0)


def test_a_linear_map_of_one_pair_is_refused():
    with pytest.raises(ValueError, match="2 pairs or more, not 1"):
        baselines.best_linear_map(np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 2, 1)))


def evaluated(path, capsys):
    assert call("evaluate", path, "--baselines", "--json") == 0
    return json.loads(capsys.readouterr().out)


def trained(module, path, **changes):
    config = dataclasses.replace(module.TINY, num_steps=1, **changes)
    experiment.train(config, str(path), progress=False)
    return path


@pytest.mark.slow
def test_evaluate_shows_them_beside_a_network_that_enlarges(tmp_path, capsys):
    data = dataclasses.replace(edsr.TINY.data, num_examples=200)
    record = evaluated(trained(edsr, tmp_path / "run", data=data), capsys)
    found = record["metrics"]
    assert found["psnr_of_linear_filter"] > found["psnr_of_lanczos"] + 0.5 > found["psnr_of_bicubic"]
    assert "200 training pairs" in record["protocol"]["the linear filter"]


@pytest.mark.slow
def test_evaluate_shows_them_beside_a_network_that_fills_the_middle(tmp_path, capsys):
    middle = degrading.Holes("centre")
    record = evaluated(trained(gated, tmp_path / "run", source=middle), capsys)
    found = record["metrics"]
    for method in ("linear_map", "nearest"):
        assert found[f"psnr_in_hole_of_{method}"] > found["psnr_in_hole_of_mean_colour"]


@pytest.mark.slow
def test_evaluate_refuses_them_for_a_run_without_sources(tmp_path, capsys):
    run = trained(dcgan, tmp_path / "run")
    assert call("evaluate", run, "--baselines") == 2
    assert "--baselines stand beside" in capsys.readouterr().err
