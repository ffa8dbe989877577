"""Feature networks: what is loaded is what was saved, damage is told, and images are never resized in silence."""

import hashlib
from importlib import resources

import jax
import numpy as np
import pytest

from jaxgen import data
from jaxgen.metrics import comparison, features
from jaxgen.models import cnn

SHAPE = (8, 8, 1)
MODEL = cnn.CNN(3, (4,), num_features=5)


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(0), np.zeros((1, *SHAPE), np.float32), train=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, variables):
    path = tmp_path_factory.mktemp("weights") / "small.npz"
    features.save_cnn(path, MODEL, variables, SHAPE, half=False)
    return path


def some_images(n=7, shape=SHAPE, seed=0):
    return data.from_arrays("some", np.random.RandomState(seed).randint(0, 256, (n, *shape)).astype(np.uint8))


def test_the_shipped_weights_are_those_of_their_digest_and_read_digits():
    backbone = features.shipped("mnist-cnn")
    path = resources.files("jaxgen.metrics") / "weights" / "mnist-cnn.npz"
    assert backbone.digest == hashlib.sha256(path.read_bytes()).hexdigest() == features.SHIPPED["mnist-cnn"]
    readme = (resources.files("jaxgen.metrics") / "weights" / "README.md").read_text(encoding="utf-8")
    assert all(digest in readme for digest in features.SHIPPED.values())
    test = data.mnist("test")
    rows = np.arange(1000)
    some = data.from_arrays("thousand", test.fetch(rows)["image"])
    logits = comparison.see(backbone, some).logits
    assert np.mean(logits.argmax(axis=1) == test.fetch(rows)["label"]) >= 0.985  # 99.55 % of all of them
    channels = data.stacked_mnist("test", num_examples=200).fetch(np.arange(200))
    digits = features.per_channel_logits(backbone, [channels["image"]]).argmax(axis=2) @ [100, 10, 1]
    assert np.mean(digits == channels["label"]) > 0.95


def test_the_shipped_emoji_network_tells_the_categories_of_emoji_that_it_has_not_seen():
    test = data.emoji("test", image_size=32)
    backbone = features.shipped_for(test.image_shape)
    assert backbone.name == "emoji-cnn"
    labels = test.fetch(np.arange(test.num_examples))["label"]
    logits = comparison.see(backbone, test).logits
    assert np.mean(logits.argmax(axis=1) == labels) >= 0.88  # 89.1 %; the largest category holds 67.5 %


@pytest.mark.slow
def test_a_network_read_back_is_the_one_that_was_saved(saved, variables):
    backbone = features.load_cnn(saved)
    image = np.random.RandomState(0).uniform(-1, 1, (4, *SHAPE)).astype(np.float32)
    logits, expected = MODEL.apply(variables, image, train=False, return_features=True)
    found, found_logits = backbone.apply(image)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found_logits, logits, rtol=1e-5, atol=1e-6)
    in_memory = features.of_cnn(MODEL, variables, SHAPE, name="small")
    assert in_memory.digest == backbone.digest and backbone.name == "small"


@pytest.mark.slow
def test_half_precision_changes_weights_by_their_rounding_only(tmp_path, saved, variables):
    features.save_cnn(tmp_path / "half.npz", MODEL, variables, SHAPE)
    image = np.random.RandomState(0).uniform(-1, 1, (4, *SHAPE)).astype(np.float32)
    whole, half = (features.load_cnn(path).apply(image)[0] for path in (saved, tmp_path / "half.npz"))
    np.testing.assert_allclose(half, whole, rtol=5e-3, atol=5e-3)
    assert not np.array_equal(half, whole)


def test_damaged_and_foreign_weights_are_refused(tmp_path, saved, variables):
    with pytest.raises(FileNotFoundError, match="no such file of weights"):
        features.load_cnn(tmp_path / "absent.npz")
    damaged = tmp_path / "damaged.npz"
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    with pytest.raises(features.BackboneError, match="is damaged or another one"):
        features.load_cnn(damaged, digest=digest)
    (tmp_path / "cut.npz").write_bytes(content[:500])
    np.savez(tmp_path / "pickled.npz", architecture=np.array([{"evil": 1}], dtype=object))
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    for name in ("cut", "pickled", "other"):
        with pytest.raises(features.BackboneError, match="written by features.save_cnn"):
            features.load_cnn(tmp_path / f"{name}.npz")
    with np.load(saved) as archive:
        arrays = dict(archive)
    np.savez(tmp_path / "wide.npz", **(arrays | {"params/Dense_1/kernel": np.zeros((9, 3), np.float32)}))
    with pytest.raises(features.BackboneError, match=r"Dense_1/kernel, \(9, 3\) in the file and \(5, 3\) in the net"):
        features.load_cnn(tmp_path / "wide.npz")
    np.savez(tmp_path / "nan.npz", **(arrays | {"params/Dense_1/bias": np.full(3, np.nan, np.float32)}))
    with pytest.raises(features.BackboneError, match="Dense_1/bias holds NaN"):
        features.load_cnn(tmp_path / "nan.npz")
    with pytest.raises(ValueError, match="ships no network 'cifar', only: mnist-cnn"):
        features.shipped("cifar")


def test_the_digest_is_checked_when_shipped_weights_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(features.SHIPPED, "mnist-cnn", "0" * 64)
    with pytest.raises(features.BackboneError, match="should have 0000000000000000"):
        features.shipped("mnist-cnn")


def test_features_do_not_depend_on_the_batch_size(saved):
    backbone, images = features.load_cnn(saved), some_images()
    first, *others = [comparison.see(backbone, images, batch_size=size).features for size in (2, 7, 100)]
    assert first.shape == (7, 5)
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-5, atol=1e-6)


def test_images_of_another_size_or_number_of_channels_are_refused_with_both_sizes(saved):
    backbone = features.load_cnn(saved)
    for shape, words in (((9, 8, 1), "9x8 pixels and 1 channel"), ((8, 8, 3), "8x8 pixels and 3 channels")):
        with pytest.raises(
            ValueError, match=f"some has images of {words}, but the network small takes 8x8 pixels and 1"
        ):
            comparison.see(backbone, some_images(shape=shape))


def test_images_and_features_that_are_not_finite_are_refused(saved):
    images = np.zeros((5, *SHAPE), np.float32)
    images[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="some: batch 1 holds NaN"):
        comparison.see(features.load_cnn(saved), data.dataset.in_memory("some", images), batch_size=2)
    backbone = features.Backbone("broken", "0" * 64, "none", lambda x: (np.where(x > 0.9, np.nan, x)[:, 0, :, 0],) * 2)
    images = np.zeros((5, *SHAPE), np.uint8)
    images[3] = 255
    with pytest.raises(ValueError, match="some: features of image 3 by broken are NaN or infinite"):
        comparison.see(backbone, data.from_arrays("some", images), batch_size=2)
