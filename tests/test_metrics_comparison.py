"""Comparisons of two sets: what is cached, what is told of small sets, and the measures of memorisation."""

import warnings

import jax
import numpy as np
import pytest

from jaxgen import data
from jaxgen.metrics import comparison, fid
from jaxgen.metrics.comparison import Seen, copies
from jaxgen.metrics.features import Backbone

KEY = jax.random.key(0)


def flat(images):
    """A backbone that can be computed by hand: the pixels are the features."""
    x = np.asarray(images).reshape(len(images), -1)
    return x, x[:, :2]


def counting(digest="1" * 64):
    calls = []
    return Backbone("flat", digest, "none", lambda x: calls.append(len(x)) or flat(x)), calls


def some_images(n=20, seed=0, name="some"):
    return data.from_arrays(name, np.random.RandomState(seed).randint(0, 256, (n, 2, 2, 1)).astype(np.uint8))


def seen(n, d=4, seed=0, shift=0.0):
    x = np.random.RandomState(seed).randn(n, d).astype(np.float32) + np.float32(shift)
    return Seen(x, x)


def test_what_a_network_sees_are_its_features_of_every_image_in_order():
    backbone, calls = counting()
    images = some_images()
    found = comparison.see(backbone, images, batch_size=8)
    expected = images.arrays["image"].reshape(20, 4).astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(found.features, expected, atol=1e-6)
    assert calls == [8, 8, 8]  # one shape, one compilation


def test_floats_are_seen_as_the_pictures_that_they_would_be_stored_as():
    backbone, _ = counting()
    images = some_images()
    stored = images.arrays["image"]
    floats = data.from_arrays("floats", (stored.astype(np.float32) + np.float32(0.3)) / np.float32(127.5) - 1)
    assert comparison.content_digest(images) == comparison.content_digest(floats)
    assert np.array_equal(comparison.see(backbone, images).features, comparison.see(backbone, floats).features)


def test_the_cache_goes_by_content_and_network_and_never_by_name(tmp_path):
    backbone, calls = counting()
    first = comparison.see(backbone, some_images(), cache=tmp_path)
    again = comparison.see(backbone, some_images(name="another name"), cache=tmp_path)
    assert len(calls) == 1 and np.array_equal(first.features, again.features)
    comparison.see(backbone, some_images(seed=1), cache=tmp_path)  # the same name, other images
    assert len(calls) == 2
    other, other_calls = counting(digest="2" * 64)  # the same name, other weights
    comparison.see(other, some_images(), cache=tmp_path)
    assert len(other_calls) == 1 and len(list(tmp_path.iterdir())) == 3


def test_a_damaged_cache_is_told_and_made_anew(tmp_path):
    backbone, calls = counting()
    first = comparison.see(backbone, some_images(), cache=tmp_path)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[content.index(first.features.tobytes()) + 5] ^= 1
    file.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="is damaged, and made anew"):
        again = comparison.see(backbone, some_images(), cache=tmp_path)
    assert len(calls) == 2 and np.array_equal(first.features, again.features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        comparison.see(backbone, some_images(), cache=tmp_path)
    assert len(calls) == 2


def test_the_digest_of_content_is_one_of_pixels_order_and_shape():
    pixels = some_images().arrays["image"]
    digests = {
        comparison.content_digest(data.from_arrays("x", image))
        for image in (pixels, pixels[::-1], pixels[:-1], pixels.reshape(20, 4, 1, 1))
    }
    assert len(digests) == 4


def test_a_set_against_itself_has_distance_zero_and_the_floor_is_of_the_real_images():
    real = seen(200)
    measured = comparison.frechet(real, real, KEY)
    assert measured.values["fid"] < 1e-6 and measured.own["fid"] == {"rank_deficient": "no"}
    floors = [fid.distance_between_halves(real.features, key) for key in jax.random.split(KEY, 5)]
    assert measured.values["fid_floor"] == pytest.approx(np.mean(floors)) and min(floors) > 0
    assert measured.own["fid_floor"] == {"num_divisions": 5} == measured.own["fid_of_equal_sets"]
    moved = comparison.frechet(real, Seen(real.features + np.float32(2), real.logits), KEY)
    assert moved.values["fid"] == pytest.approx(16, rel=1e-5)  # 4 dimensions, moved by 2


def test_too_few_images_for_a_full_rank_are_said_and_not_hidden():
    with pytest.warns(fid.RankDeficientWarning, match="only 3 fake images for 4 features"):
        measured = comparison.frechet(seen(50), seen(3, seed=1), KEY)
    assert measured.own["fid"] == {"rank_deficient": "fake"}


def test_constant_features_are_recorded_and_images_without_variety_are_warned_of():
    real, fake = seen(50), seen(50, seed=1)
    fake.features[:, 3] = 7  # a unit that never fires is harmless
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert comparison.frechet(real, fake, KEY).own["fid"] == {"rank_deficient": "rank 3 of 4 (fake)"}
    fake.features[:, 1:] = 7
    with pytest.warns(fid.RankDeficientWarning, match="hardly any variety: their features have rank 1 of 4, .* 4"):
        assert comparison.frechet(real, fake, KEY).own["fid"] == {"rank_deficient": "rank 1 of 4 (fake)"}


def test_too_few_images_for_a_metric_are_refused_before_anything_is_computed():
    comparison.check_enough({"prdc": comparison.neighbours}, 6, 6)
    with pytest.raises(ValueError, match="prdc needs at least 6 images of each side, but there are 6 real and 5 fake"):
        comparison.check_enough({"fid": comparison.frechet, "prdc": comparison.neighbours}, 6, 5)
    with pytest.raises(ValueError, match="fid needs at least 2 images"):
        comparison.check_enough({"fid": comparison.frechet}, 1, 100)


@pytest.mark.slow
def test_the_kernel_distance_takes_subsets_only_where_there_are_enough_images():
    assert comparison.kernel(seen(30), seen(20, seed=1), KEY).settings["subset_size"] == "all"
    assert comparison.kernel(seen(1999), seen(2001, seed=1), KEY).settings["subset_size"] == "all"
    assert comparison.kernel(seen(2000), seen(2001, seed=1), KEY).settings == {
        "subset_size": 1000,
        "num_subsets": 100,
    }


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(600, 600), (900, 150), (300, 1200)])
@pytest.mark.filterwarnings("ignore:the .ID, .* shows no difference")
def test_what_equal_sets_have_is_what_draws_of_one_distribution_are_found_to_have(sizes):
    m, n = sizes
    measures = {"fid": comparison.frechet, "kid": comparison.kernel, "prdc": comparison.neighbours}
    draws = [
        comparison.compare(None, seen(m, 8, seed), seen(n, 8, 1000 + seed), measures, KEY)[0] for seed in range(12)
    ]
    found = {name: np.array([draw[name] for draw in draws]) for name in draws[0]}
    assert np.mean(found["fid"]) == pytest.approx(np.mean(found["fid_of_equal_sets"]), rel=0.2)
    ratio = np.sqrt(np.mean(found["kid"] ** 2)) / np.sqrt(np.mean(found["kid_of_equal_sets"] ** 2))
    assert 0.6 < ratio < 1.6
    np.testing.assert_allclose(np.mean(found["coverage"]), found["coverage_of_equal_sets"][0], atol=0.02)
    for name in ("precision", "recall"):  # of smaller sets, and so about
        np.testing.assert_allclose(np.mean(found[name]), np.mean(found[f"{name}_of_equal_sets"]), atol=0.06)


def test_no_difference_is_told_and_a_difference_is_not():
    real = seen(500, 32)
    for measure in (comparison.frechet, comparison.kernel):
        with pytest.warns(UserWarning, match="shows no difference: .*500 and 400 images of one distribution"):
            measure(real, seen(400, 32, seed=1), KEY)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            measure(real, seen(400, 32, seed=1, shift=0.5), KEY)


@pytest.mark.slow
def test_errors_are_the_spread_over_other_draws_of_the_generator():
    real = seen(800, 8)
    measures = {"fid": comparison.frechet, "kid": comparison.kernel}
    draws = [comparison.compare(None, real, seen(300, 8, 1 + seed, shift=0.5), measures, KEY)[0] for seed in range(40)]
    for name in measures:
        spread = np.std([draw[name] for draw in draws], ddof=1)
        assert np.mean([draw[f"{name}_standard_error"] for draw in draws]) == pytest.approx(spread, rel=0.3)


@pytest.mark.slow
def test_what_a_perfect_learner_of_the_training_images_has_is_what_they_have_themselves():
    real, train = seen(400, 8), seen(900, 8, seed=1, shift=0.3)
    metrics = ["fid", "kid", "prdc"]
    found = comparison.of_train(train, real, 300, metrics, KEY)
    assert found.settings == {"n_train": 300}
    measures = {"fid": comparison.frechet, "kid": comparison.kernel, "prdc": comparison.neighbours}
    others = [comparison.compare(None, real, seen(300, 8, 2 + i, shift=0.3), measures, KEY)[0] for i in range(8)]
    names = ["fid", "kid", "precision", "recall", "density", "coverage"]
    assert list(found.values) == [f"{name}_of_train" for name in names]
    for name in names:
        draws = [other[name] for other in others]
        assert abs(found.values[f"{name}_of_train"] - np.mean(draws)) < 4 * np.std(draws) + 0.02
    assert comparison.of_train(train, real, 5000, ["swd"], KEY) == ({}, {"n_train": 900}, {})


def test_held_out_images_that_were_trained_on_do_not_hide_copies():
    train, held_out = (seen(n, seed=seed).features for seed, n in enumerate((1000, 1000)))
    copies = train[:500] + np.float32(1e-3)
    mixed = np.concatenate([held_out, train[:50]])  # 5 % of the reference: their quantile of 1 % would be 0
    with pytest.warns(UserWarning) as caught:
        measured = comparison.memorisation(train, mixed, copies)
    told = " ".join(str(warning.message) for warning in caught)
    assert "50 of the 1,050 reference images are training images" in told and "most seem to be copies" in told
    assert measured.values["nearer_share"] == 1 and measured.settings["n_held_out"] == 1000
    assert np.isnan(comparison.memorisation(train, train[:50], copies).values["nearest_ratio"])


def test_metrics_that_lack_images_say_which_metric_and_how_many():
    with pytest.raises(ValueError, match="num_neighbours must be from 1 to 3") as raised:
        comparison.compare(None, seen(50), seen(4), {"prdc": comparison.neighbours}, KEY)
    assert "prdc of 50 real and 4 fake images" in raised.value.__notes__[0]


def test_nearest_neighbours_are_those_of_all_distances(monkeypatch):
    monkeypatch.setattr(copies, "BLOCK_ELEMENTS", 64)
    queries, points = seen(23, seed=1, shift=100).features, seen(17, shift=100).features
    index, distance = comparison.nearest_neighbours(queries, points)
    every = np.linalg.norm(queries[:, None].astype(np.float64) - points, axis=-1)
    assert np.array_equal(index, every.argmin(axis=1))
    np.testing.assert_allclose(distance, every.min(axis=1), rtol=1e-12)
    assert comparison.nearest_neighbours(points[3:5], points)[1].tolist() == [0.0, 0.0]
    others = np.linalg.norm(points[:, None].astype(np.float64) - points, axis=-1) + np.diag([np.inf] * 17)
    index, _ = comparison.nearest_neighbours(points, points, but=np.arange(17))
    assert np.array_equal(index, others.argmin(axis=1))


def test_copies_are_nearer_than_new_images_and_new_images_are_not():
    train, held_out, new = (seen(n, seed=seed).features for seed, n in enumerate((1000, 1000, 1000)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        perfect = comparison.memorisation(train, held_out, new)
    assert perfect.values["nearest_ratio"] == pytest.approx(1, abs=0.1)
    assert perfect.values["nearer_share"] < 0.03
    with pytest.warns(UserWarning, match=r"100.0% of the images are nearer .* \(by chance up to 5.2%\)"):
        copies = comparison.memorisation(train, held_out, train[:100]).values
    assert copies == {
        "nearest_ratio": 0.0,
        "nearer_share": 1.0,
        "nearer_share_by_chance": pytest.approx(0.0520, abs=1e-4),
    }
    with pytest.warns(UserWarning, match="most seem to be copies"):
        half = comparison.memorisation(train, held_out, np.concatenate([train[:500], new[:500]])).values
    assert half["nearer_share"] == pytest.approx(0.5, abs=0.03)
    assert perfect.settings == {"n_train": 1000, "n_held_out": 1000}


def test_the_discriminators_gap_is_0_for_like_logits_and_1_where_held_out_images_look_fake():
    assert comparison.discriminator_gap([2.0, 4.0], [3.0], [-1.0])["discriminator_overfitting"] == 0
    assert comparison.discriminator_gap([3.0], [-1.0], [-1.0])["discriminator_overfitting"] == 1
    found = comparison.discriminator_gap([3.0], [2.0], [-1.0])
    assert found == {
        "logit_of_train": 3.0,
        "logit_of_held_out": 2.0,
        "logit_of_fake": -1.0,
        "discriminator_overfitting": 0.25,
    }
    assert np.isnan(comparison.discriminator_gap([1.0], [0.0], [1.0])["discriminator_overfitting"])
