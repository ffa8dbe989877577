"""MIG, DCI and SAP where the answer is known."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.metrics.disentanglement import dci, mutual_information_gap, sap

RNG = np.random.default_rng(0)
GRID = np.array(list(itertools.product(range(4), range(5), range(3))) * 12)  # 720 rows: all combinations, equally often


def all_scores(codes, factors, **settings):
    """(MIG, disentanglement, completeness, informativeness, SAP)."""
    found = dci(codes, factors, codes, factors)
    scores = found.disentanglement, found.completeness, found.informativeness
    return mutual_information_gap(codes, factors).score, *scores, sap(codes, factors, **settings).score


def test_codes_that_are_the_factors_in_another_order_scale_and_sign_score_one():
    codes = GRID[:, [2, 0, 1]] * np.array([-3.0, 0.1, 2.0]) + 7
    np.testing.assert_allclose(all_scores(codes, GRID), 1, atol=1e-12)
    np.testing.assert_allclose(all_scores(jnp.asarray(codes, jnp.float32), jnp.asarray(GRID)), 1, atol=1e-6)
    # A shape may be numbered in any order: R^2 would not be 1 then, thresholds are.
    shuffled = np.array([1, 0, 2])[GRID[:, 2]]
    codes[:, 0] = shuffled
    assert sap(codes, GRID, categorical=[2]).score == pytest.approx(1)
    assert sap(codes, GRID).score == pytest.approx((2 + 0.25) / 3)  # the correlation of (1, 0, 2) and (0, 1, 2) is 1/2


def test_latents_that_say_nothing_change_no_score():
    more = np.concatenate([GRID, np.zeros((len(GRID), 1))], axis=1).astype(float)
    np.testing.assert_allclose(all_scores(more, GRID), 1, atol=1e-12)
    found = dci(more, GRID, more, GRID)
    assert found.importance[3].sum() == 0 and found.of_latents[3] == 0
    np.testing.assert_allclose(found.importance[:3], np.eye(3), atol=1e-12)


def test_two_factors_turned_by_45_degrees_have_no_gap_and_share_their_latents():
    factors = np.array(list(itertools.product(range(8), range(8))) * 10)
    codes = np.stack([factors.sum(axis=1), factors[:, 0] - factors[:, 1]], axis=1) / math.sqrt(2)
    gap, predicted = mutual_information_gap(codes, factors), sap(codes, factors)
    assert gap.score == pytest.approx(0, abs=1e-12) and predicted.score == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(predicted.table, 0.5)
    found = dci(codes, factors, codes, factors)
    assert found.disentanglement < 0.1 and found.completeness < 0.1  # 1 without the turn
    assert found.informativeness > 0.95  # nothing is lost


def test_codes_that_are_independent_of_the_factors_score_about_zero():
    factors, codes = RNG.integers(0, 5, (20_000, 3)), RNG.normal(size=(20_000, 4))
    found = dci(codes[::2], factors[::2], codes[1::2], factors[1::2])
    assert mutual_information_gap(codes, factors).score < 0.005
    assert sap(codes, factors, categorical=[0]).score < 0.02
    assert abs(found.informativeness) < 0.03 and found.disentanglement < 0.1 and found.completeness < 0.1


def test_mutual_information_is_that_of_the_table():
    value = np.repeat(np.arange(4), 100)[:, None]
    halves, other = value // 2, np.tile(np.arange(2), 200)[:, None]
    gap = mutual_information_gap(np.concatenate([halves, other], axis=1), value)
    np.testing.assert_allclose(gap.table, [[0.5], [0.0]], atol=1e-12)  # log 2 of log 4
    assert gap.score == pytest.approx(0.5)
    assert mutual_information_gap(np.concatenate([halves, value % 2], axis=1), value).score == pytest.approx(0)


def test_the_gap_of_draws_is_that_of_a_noisy_channel():
    value = RNG.integers(0, 2, 200_000)
    flipped = value ^ (RNG.random(200_000) < 0.1)
    gap = mutual_information_gap(np.stack([flipped, RNG.normal(size=200_000)], axis=1), value[:, None])
    known = 1 + 0.1 * math.log2(0.1) + 0.9 * math.log2(0.9)  # bits of a symmetric channel
    assert gap.score == pytest.approx(known, abs=0.01)


def test_sap_is_the_difference_of_squared_correlations_and_of_balanced_accuracies():
    factors = np.array(list(itertools.product(range(4), range(4))) * 5)
    codes = np.stack([factors[:, 0], factors.sum(axis=1)], axis=1)
    np.testing.assert_allclose(sap(codes, factors).table, [[1, 0], [0.5, 0.5]], atol=1e-12)
    np.testing.assert_allclose(sap(codes, factors).of_factors, [0.5, 0.5])
    value = np.repeat(np.arange(3), 60)[:, None]
    codes = np.concatenate([value == 0, np.zeros_like(value)], axis=1).astype(float)
    # One of three is always right, and one of the other two: 2/3, where 1/3 is chance.
    np.testing.assert_allclose(sap(codes, value, categorical=[0]).table, [[0.5], [0.0]], atol=1e-12)
    rare = np.concatenate([value, np.zeros((1000, 1), int)])  # values weigh the same, however frequent
    codes = np.concatenate([rare == 0, np.zeros_like(rare)], axis=1).astype(float)
    np.testing.assert_allclose(sap(codes, rare, categorical=[0]).table, [[0.5], [0.0]], atol=1e-12)


def test_importance_is_how_much_the_splits_of_a_latent_lower_the_gini_impurity():
    value = np.array(list(itertools.product(range(4), range(2))) * 20)
    codes = np.stack([value[:, 0] // 2, value[:, 0] % 2, value[:, 1]], axis=1)
    found = dci(codes, value, codes, value)
    # 3/4 to 1/2 by the first bit, which comes first of two equals, and 1/2 to 0 by the second.
    np.testing.assert_allclose(found.importance, [[1 / 3, 0], [2 / 3, 0], [0, 1]], atol=1e-12)
    entropy = -(math.log(1 / 3) + 2 * math.log(2 / 3)) / 3
    np.testing.assert_allclose(found.of_factors, [1 - entropy / math.log(3), 1], atol=1e-12)
    np.testing.assert_allclose(found.of_latents, 1, atol=1e-12)
    assert found.informativeness == 1


def test_trees_see_order_alone():
    factors = RNG.integers(0, 4, (2000, 3))
    codes = factors + 0.4 * RNG.normal(size=(2000, 3))
    before, after = (dci(x, factors, x, factors) for x in (codes, np.exp(codes)))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    again = dci(codes, factors, codes, factors)
    np.testing.assert_array_equal(again.importance, before.importance)


def test_informativeness_is_of_images_that_were_not_learnt_from():
    factors = RNG.integers(0, 2, (400, 2))
    codes = RNG.normal(size=(400, 30))
    by_heart = dci(codes, factors, codes, factors, least_rows=1).informativeness
    assert by_heart > 0.9
    assert dci(codes[:200], factors[:200], codes[200:], factors[200:], least_rows=1).informativeness < 0.3


@pytest.mark.parametrize("function", [mutual_information_gap, sap, lambda x, y: dci(x, y, x, y)])
def test_what_has_no_answer_is_refused(function):
    codes = RNG.normal(size=(400, 3))
    factors = RNG.integers(0, 3, (400, 2))
    with pytest.raises(ValueError, match=r"factor number 1 \(from 0\) is the same for all 400 codes"):
        function(codes, np.stack([factors[:, 0], np.ones(400, int)], axis=1))
    with pytest.raises(TypeError, match="factors must be whole numbers, not float64"):
        function(codes, factors / 2)
    with pytest.raises(ValueError, match=r"with the N = 400 of the codes, not \[399, 2\]"):
        function(codes, factors[1:])
    with pytest.raises(ValueError, match="one latent alone has no second one"):
        function(codes[:, :1], factors)
    with pytest.raises(ValueError, match="rows of .*codes hold NaN or infinity"):
        function(np.where(codes > 2, np.nan, codes), factors)
    with pytest.raises(TypeError, match="call it outside of jit"):
        jax.jit(lambda x: function(x, factors))(codes)


def test_too_few_codes_and_other_numbers_are_refused():
    codes, factors = RNG.normal(size=(50, 3)), np.tile(np.arange(5), 10)[:, None]
    with pytest.raises(ValueError, match="50 codes are fewer than the 100 cells of 20 bins and 5 values"):
        mutual_information_gap(codes, factors)
    with pytest.raises(ValueError, match="50 codes are fewer than the 100 cells"):
        sap(codes, factors, categorical=[0])
    assert 0 <= sap(codes, factors).score <= 1  # of a line two numbers are learnt
    with pytest.raises(ValueError, match="there is no factor number 3 of 1"):
        sap(codes, factors, categorical=[3])
    with pytest.raises(ValueError, match="num_bins must be at least 2"):
        mutual_information_gap(codes, factors, num_bins=1)
    with pytest.raises(ValueError, match="at least two factors"):
        dci(codes, factors, codes, factors)
    both = np.concatenate([factors, factors], axis=1)
    with pytest.raises(ValueError, match="training codes have 3 latents and 2 factors, and codes 2 latents and 2"):
        dci(codes, both, codes[:, :2], both)
    with pytest.raises(ValueError, match="50 training codes are fewer than two leaves of 30 take"):
        dci(codes, both, codes, both, least_rows=30)
