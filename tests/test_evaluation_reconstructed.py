"""Reconstructions of test images: PSNR, SSIM and FID by numpy, of what a run was given and of what is stored."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from jaxgen import building, data, description, images, loading, systems
from jaxgen.evaluation import reconstructed
from jaxgen.metrics.features import Backbone
from jaxgen.systems.preset import Preset

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 12, 12, 1), np.uint8)
FLAT = Backbone("flat", "0" * 64, "none", lambda x: (x[:, ::4, ::6, 0].reshape(len(x), 6),) * 2)


def a_run(reconstruct):
    system = types.SimpleNamespace(need=lambda *what: None)
    return types.SimpleNamespace(system=system, reconstruct=reconstruct)


@pytest.mark.parametrize("batch_size", [10, 250])
def test_numbers_are_those_of_each_image_whatever_the_batches(monkeypatch, batch_size):
    monkeypatch.setattr(reconstructed, "BATCH", batch_size)
    half = a_run(lambda batch: np.asarray(batch["image"]) / 2)
    found = reconstructed.numbers(half, data.from_arrays("noise", IMAGES), jax.random.key(0), backbone=FLAT)
    x = IMAGES / 127.5 - 1
    of_image = [peak_signal_noise_ratio(a, b) for a, b in zip(IMAGES, images.to_uint8(x / 2), strict=True)]
    np.testing.assert_allclose(found["metrics"]["reconstruction_psnr"], np.mean(of_image), rtol=1e-5)
    # Features are the pixels themselves: half as large, their mean and their deviations are.
    seen = [y[:, ::4, ::6, 0].reshape(len(y), 6) for y in (x, images.to_uint8(x / 2) / 127.5 - 1)]
    a, b = ((y.mean(axis=0), np.cov(y, rowvar=False)) for y in seen)
    root = np.linalg.eigvals(a[1] @ b[1]).real ** 0.5
    expected = ((a[0] - b[0]) ** 2).sum() + np.trace(a[1] + b[1]) - 2 * root.sum()
    np.testing.assert_allclose(found["metrics"]["reconstruction_fid"], expected, rtol=1e-4)
    assert found["settings"]["reconstruction_fid"]["backbone"] == "flat"
    assert "backbone" not in found["settings"]["reconstruction_psnr"]


def test_perfect_reconstructions_of_binarised_images_are_perfect_beside_these_and_not_beside_the_stored():
    grey = data.from_arrays("grey", IMAGES)
    binary = dataclasses.replace(
        grey, prepare=lambda raw, key: {"image": data.binarisation.dynamic(grey.prepare(raw, key)["image"], key)}
    )
    exact = a_run(lambda batch: np.asarray(batch["image"]))
    found = reconstructed.numbers(exact, binary, jax.random.key(0), backbone=FLAT)["metrics"]
    np.testing.assert_allclose(found["reconstruction_ssim"], 1, rtol=1e-5)
    assert found["reconstruction_psnr"] == 100  # dB, as of equal images everywhere
    assert found["reconstruction_fid"] > 0.1


def test_reconstructions_that_are_not_finite_are_refused():
    broken = a_run(lambda batch: np.full(batch["image"].shape, np.nan))
    with pytest.raises(ValueError, match="reconstructions of noise hold NaN"):
        reconstructed.numbers(broken, data.from_arrays("noise", IMAGES), jax.random.key(0))


RECONSTRUCT = (
    "aae",
    "bigan",
    "cvae",
    "cyclegan",
    "dvae",
    "factor_vae",
    "flexible_vae",
    "iwae",
    "m2",
    "regularised_vae",
)
RECONSTRUCT += ("vae", "vae_gan", "vdvae", "vqgan", "vqvae", "vqvae2")
OF_WHOLE_NUMBERS = ("dvae", "vqgan", "vqvae", "vqvae2")  # codes


def stand_in(name):
    """A system with the weights that it begins with, and five test images of noise as its data bring them."""
    (module,) = (module for module in systems.MODULES if systems.name_of(module) == name)
    config = module.TINY
    spec = description.spec_of(config, Preset("", config))
    system = building.build_system(config, spec)
    kinds = {name: entry.shape for name, entry in spec.batch.items() if len(entry.shape) == 3}
    generator = np.random.default_rng(0)
    found = {name: generator.integers(0, 256, (5, *shape), np.uint8) for name, shape in kinds.items()}
    label = np.arange(5) % spec.num_classes if spec.num_classes else None
    names = tuple(map(str, range(spec.num_classes)))
    prepare = data.prepare_default
    noise = data.dataset.in_memory("noise", found.pop("image"), label, names, prepare, fingerprint="", **found)
    trained = loading.Trained(system, system.init(jax.random.key(0)), {}, {}, spec)
    return trained, config.wrap(noise, "test")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "vae" else pytest.mark.slow) for name in RECONSTRUCT]
)
def test_whatever_reconstructs_is_measured(name):
    trained, test = stand_in(name)
    found = reconstructed.numbers(trained, test, jax.random.key(0))["metrics"]
    assert 0 < found["reconstruction_psnr"] < 100


def test_components_are_as_many_as_a_code_has_numbers():
    trained, test = stand_in("vae")  # three numbers, five images
    found = reconstructed.numbers(trained, test, jax.random.key(0), train=test)
    psnr = found["metrics"]["reconstruction_psnr_of_principal_components"]
    assert found["metrics"]["reconstruction_psnr"] < psnr < 100
    assert found["settings"]["reconstruction_psnr_of_principal_components"]["fitted"] == (
        "the mean and 3 components of 5 training images"
    )


@pytest.mark.parametrize(
    "name", ["vqvae", *(pytest.param(n, marks=pytest.mark.slow) for n in OF_WHOLE_NUMBERS if n != "vqvae")]
)
def test_codes_of_whole_numbers_have_no_components(name):
    trained, test = stand_in(name)
    with pytest.raises(ValueError, match="--baselines is of codes that are real numbers"):
        reconstructed.numbers(trained, test, jax.random.key(0), train=test)
