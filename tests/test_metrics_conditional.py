"""Class-conditional generation: obeying labels, and distances within classes."""

import warnings

import jax
import numpy as np
import pytest

from jaxgen.metrics import conditional, fid
from jaxgen.metrics.comparison import Seen
from jaxgen.metrics.conditional import Labelled

KEY = jax.random.key(0)


def logits_of(predicted, num_classes=3):
    return np.eye(num_classes)[predicted]


def labelled(n, num_classes=3, d=4, seed=0, shift=0.0):
    """Gaussians, one for each class, all of them shifted."""
    label = np.arange(n) % num_classes
    x = np.random.RandomState(seed).randn(n, d) + 5.0 * label[:, None] + shift
    return Labelled(Seen(x.astype(np.float32), logits_of(label, num_classes)), label)


# Labels that are obeyed -----------------------------------------------------------------------------------------------


def test_the_share_as_asked_counts_the_images_of_the_class_that_was_asked_for():
    assert conditional.share_as_asked(logits_of([0, 1, 2, 0]), [0, 1, 2, 1]) == 0.75
    assert conditional.share_as_asked(logits_of([0, 1, 2]), [1, 2, 0]) == 0


def test_a_generator_that_ignores_labels_has_one_over_the_number_of_classes():
    drawn = np.random.RandomState(0).randint(0, 5, 20_000)
    found = conditional.share_as_asked(logits_of(drawn, 5), np.arange(20_000) % 5)
    assert found == pytest.approx(1 / 5, abs=4 * np.sqrt(0.2 * 0.8 / 20_000))


def test_shares_of_sets_with_other_shares_of_classes_compare():
    # The network knows half of class 0 and all of class 1; a set of all classes alike has 0.75.
    label = np.array([0] * 8 + [1] * 2)
    logits = logits_of([0, 2] * 4 + [1] * 2)
    assert conditional.share_as_asked(logits, label) == pytest.approx(0.6)
    assert conditional.share_as_asked(logits, label, among=[0, 1]) == pytest.approx(0.75)
    assert conditional.share_as_asked(logits, label, among=[0, 1, 2, 2]) == pytest.approx(0.75)  # no image of class 2
    with pytest.raises(ValueError, match="no class in common"):
        conditional.share_as_asked(logits, label, among=[2])


def test_labels_that_fit_no_logits_are_refused():
    for label, message in (([0, 1], "3 integers"), ([0.0, 1.0, 2.0], "3 integers"), ([0, 1, 3], "from 0 to 2")):
        with pytest.raises(ValueError, match=message):
            conditional.share_as_asked(logits_of([0, 1, 2]), label)


def test_the_real_images_are_measured_beside_in_the_shares_that_were_asked_for():
    real, fake = labelled(9), labelled(6, seed=1)
    confused = Labelled(real.seen._replace(logits=logits_of([0] * 9)), real.label)
    found = conditional.as_asked(confused, fake)
    assert found.values == {"as_asked": 1.0, "as_asked_of_real": pytest.approx(1 / 3)}
    assert found.settings == {"num_classes": 3}
    one = Labelled(Seen(real.seen.features[:1], real.seen.logits[:1]), real.label[:1])
    two = Labelled(Seen(real.seen.features[1:2], real.seen.logits[1:2]), real.label[1:2])
    assert conditional.as_asked(one, two).values == {"as_asked": 1.0}


# Distances within classes ---------------------------------------------------------------------------------------------


def test_the_distance_within_classes_is_the_mean_of_each_class_by_itself():
    real, fake = labelled(90), labelled(60, seed=1, shift=0.5)
    found = conditional.frechet_within_classes(real.seen.features, real.label, fake.seen.features, fake.label, 3)
    for c, distance in found.distances.items():
        a, b = (fid.feature_statistics([s.seen.features[s.label == c]]) for s in (real, fake))
        assert distance == pytest.approx(fid.frechet_distance(*a[:2], *b[:2]), rel=1e-9)
    assert found.mean == pytest.approx(np.mean(list(found.distances.values())))
    assert (found.skipped, found.deficient) == ([], [])


@pytest.mark.parametrize("m, n", [(5, 5), (7, 3), (2, 2), (40, 5)])
def test_a_few_images_of_many_features_have_the_distance_of_their_covariances(m, n):
    real, fake = (np.random.RandomState(seed).randn(size, 16) for seed, size in enumerate((m, n)))
    found = conditional.frechet_within_classes(real, np.zeros(m, int), fake, np.zeros(n, int), 1)
    covariances = [np.cov(x.T) for x in (real, fake)]
    product = np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)
    expected = np.sum((real.mean(0) - fake.mean(0)) ** 2) + sum(map(np.trace, covariances))
    expected -= 2 * np.sum(np.sqrt(product)).real
    assert found.mean == pytest.approx(expected, rel=1e-5)
    assert found.deficient == [0]


def test_a_generator_that_ignores_labels_is_far_within_classes_and_near_in_all():
    real, fake = labelled(600), labelled(600, seed=1)
    ignoring = Labelled(fake.seen, np.random.RandomState(2).permutation(fake.label))
    everything = [fid.feature_statistics([side.seen.features]) for side in (real, ignoring)]
    assert fid.frechet_distance(*everything[0][:2], *everything[1][:2]) < 0.5
    obeying, ignored = (
        conditional.within_classes(real, side, 3).values["fid_within_classes"] for side in (fake, ignoring)
    )
    assert obeying < 0.5 < 20 < ignored


def test_equal_classes_have_distance_zero_and_a_shift_of_all_has_its_square():
    real = labelled(300)
    assert conditional.within_classes(real, real, 3).values["fid_within_classes"] < 1e-6
    moved = Labelled(Seen(real.seen.features + np.float32(2), real.seen.logits), real.label)
    assert conditional.within_classes(real, moved, 3).values["fid_within_classes"] == pytest.approx(16, rel=1e-5)


def test_classes_without_two_images_are_left_out_and_told():
    real, fake = labelled(300), labelled(300, seed=1)
    keep = (fake.label != 1) | (np.arange(300) == 1)
    fake = Labelled(Seen(fake.seen.features[keep], fake.seen.logits[keep]), fake.label[keep])
    with pytest.warns(UserWarning, match=r"1 of 3 classes \(1\) have fewer than 2 images, drawn or real"):
        found = conditional.within_classes(real, fake, 3)
    assert found.settings["num_classes"] == 2
    with pytest.warns(UserWarning, match="3 of 3 classes"):
        single = Labelled(Seen(fake.seen.features[:1], fake.seen.logits[:1]), fake.label[:1])
        assert conditional.within_classes(real, single, 3) == ({}, {}, {})


def test_classes_of_no_more_images_than_features_are_told_and_recorded():
    real, few = labelled(300, d=4), labelled(11, d=4, seed=1)
    with pytest.warns(fid.RankDeficientWarning, match="3 of 3 classes have no more images than the 4 features"):
        assert conditional.within_classes(real, few, 3).settings["rank_deficient"] == "3 of 3 classes"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert conditional.within_classes(real, labelled(15, seed=1), 3).settings["rank_deficient"] == "no"


def test_training_images_are_drawn_as_many_of_each_class_as_were_drawn():
    label = np.array([0] * 50 + [1] * 3 + [2] * 20)
    rows = conditional.rows_of_each_class(label, [10, 10, 0], KEY)
    assert np.bincount(label[rows], minlength=3).tolist() == [10, 3, 0] and len(set(rows.tolist())) == 13
    assert not np.array_equal(rows[:10], np.arange(10))  # at random, not the first


def test_what_a_perfect_learner_has_within_classes_is_what_other_draws_have():
    real, train = labelled(300), labelled(1200, seed=1, shift=0.3)
    found = conditional.within_classes_of_train(train, real, labelled(150), 3, KEY)
    draws = [
        conditional.within_classes(real, labelled(150, seed=2 + i, shift=0.3), 3).values["fid_within_classes"]
        for i in range(10)
    ]
    of_train = found.values["fid_within_classes_of_train"]
    assert abs(of_train - np.mean(draws)) < 4 * np.std(draws)
    assert found.settings == {"num_classes": 3, "rank_deficient": "no", "n_train": 150}
