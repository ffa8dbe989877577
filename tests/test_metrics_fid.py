import time
import warnings

import jax
import numpy as np
import pytest
import scipy.linalg

from jaxgen.metrics import fid
from jaxgen.metrics.fid import RankDeficientWarning, feature_statistics, frechet_distance


def covariance(rng, d, scale=1.0):
    x = rng.normal(size=(3 * d, d)) @ rng.normal(size=(d, d)) * scale
    return np.cov(x.T)


def features(n=500, d=7, seed=0):
    """Correlated and far from 0, as features behind a rectifier are."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 30).astype(np.float32)


def by_scipy(mean_a, cov_a, mean_b, cov_b):
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    return np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - 2 * root.real)


# ------------------------------------------------------------------------------------------------ closed forms


def test_the_distance_of_gaussians_with_diagonal_covariances_has_its_closed_form():
    rng = np.random.default_rng(0)
    m_a, m_b, v_a, v_b = rng.normal(size=6), rng.normal(size=6), rng.random(6), 10 * rng.random(6)
    expected = np.sum((m_a - m_b) ** 2) + np.sum((np.sqrt(v_a) - np.sqrt(v_b)) ** 2)
    assert frechet_distance(m_a, np.diag(v_a), m_b, np.diag(v_b)) == pytest.approx(expected, rel=1e-12)


def test_in_one_dimension_it_is_the_squared_difference_of_means_and_of_standard_deviations():
    assert frechet_distance([1.0], [[4.0]], [-2.0], [[9.0]]) == pytest.approx(3**2 + 1**2, rel=1e-14)


def test_covariances_that_do_not_commute_agree_with_a_general_square_root():
    rng = np.random.default_rng(1)
    for d in (2, 5, 60):
        arguments = rng.normal(size=d), covariance(rng, d), rng.normal(size=d), covariance(rng, d, 0.3)
        assert frechet_distance(*arguments) == pytest.approx(by_scipy(*arguments), rel=1e-9)


def test_it_is_symmetric_and_does_not_change_under_rotation_and_shift():
    rng = np.random.default_rng(2)
    m_a, c_a, m_b, c_b = rng.normal(size=8), covariance(rng, 8), rng.normal(size=8), covariance(rng, 8)
    distance = frechet_distance(m_a, c_a, m_b, c_b)
    assert frechet_distance(m_b, c_b, m_a, c_a) == pytest.approx(distance, rel=1e-12)
    q, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    moved = frechet_distance(q @ m_a + 5, q @ c_a @ q.T, q @ m_b + 5, q @ c_b @ q.T)
    assert moved == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(3 * m_a, 9 * c_a, 3 * m_b, 9 * c_b) == pytest.approx(9 * distance, rel=1e-12)


def test_singular_covariances_have_the_right_distance_and_are_said_to_be_singular():
    rng = np.random.default_rng(3)
    v, w = rng.normal(size=(2, 40))
    zero = np.zeros(40)
    with pytest.warns(RankDeficientWarning, match="has rank 1 of 40"):
        # Tr (vv' ww')^(1/2) = |v.w|
        distance = frechet_distance(zero, np.outer(v, v), zero, np.outer(w, w))
    assert distance == pytest.approx(v @ v + w @ w - 2 * abs(v @ w), rel=1e-12)
    with pytest.warns(RankDeficientWarning):
        assert frechet_distance(zero, np.zeros((40, 40)), zero, np.eye(40)) == pytest.approx(40, rel=1e-14)


def test_the_sum_of_singular_values_keeps_its_digits_over_all_orders_of_magnitude():
    rng = np.random.default_rng(6)
    u, v = (np.linalg.qr(rng.normal(size=(n, 60)))[0] for n in (60, 90))
    singular = np.geomspace(1, 1e-20, 60)
    for matrix in (u * singular @ v.T, v * singular @ u.T):
        assert fid._sum_of_singular_values(matrix) == pytest.approx(singular.sum(), rel=1e-11)
    tail = u[:, 20:] * singular[20:] @ v.T[20:]  # nothing but small ones
    assert fid._sum_of_singular_values(tail) == pytest.approx(singular[20:].sum(), rel=1e-9)
    assert fid._sum_of_singular_values(np.zeros((3, 4))) == 0


@pytest.mark.filterwarnings("ignore::jaxgen.metrics.fid.RankDeficientWarning")
@pytest.mark.parametrize("n", [20, 100, 400])
def test_the_distance_of_a_set_from_itself_is_zero_even_with_fewer_examples_than_features(n):
    # Spectra of trained networks fall over many orders of magnitude, and roots of what is lost in them would show.
    rng = np.random.default_rng(4)
    x = rng.normal(size=(n, 200)) * np.geomspace(30, 1e-9, 200) @ np.linalg.qr(rng.normal(size=(200, 200)))[0]
    mean, cov, _ = feature_statistics([x])
    assert 0 <= frechet_distance(mean, cov, mean, cov) < 1e-9


# -------------------------------------------------------------------------------------------------- statistics


def test_statistics_are_those_of_numpy_in_double_precision_for_single_precision_features():
    x = features(5000) + 1000  # float32 sums of squares would lose all of the covariance's digits but two
    mean, cov, n = feature_statistics([x])
    assert (n, mean.dtype, cov.dtype) == (5000, np.float64, np.float64)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=1e-14)
    np.testing.assert_allclose(cov, np.cov(x.astype(np.float64).T), rtol=1e-11, atol=1e-11 * np.abs(cov).max())
    assert not jax.config.jax_enable_x64  # the user's setting is as before


def test_the_batch_size_cannot_change_one_bit():
    x = features(5000)
    whole = feature_statistics([x])
    for size in (1700, 64, 5000 // 3):
        parts = feature_statistics(x[i : i + size] for i in range(0, len(x), size))
        np.testing.assert_array_equal(parts.mean, whole.mean)
        np.testing.assert_array_equal(parts.covariance, whole.covariance)


def test_device_arrays_half_precision_and_empty_batches_are_taken_as_they_are():
    x = features(100)
    half = jax.numpy.asarray(x, jax.numpy.bfloat16)
    mean, cov, n = feature_statistics([half[:60], half[60:60], half[60:]])
    exact = np.asarray(half).astype(np.float64)
    assert n == 100
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-14)
    np.testing.assert_allclose(cov, np.cov(exact.T), rtol=1e-11, atol=1e-10)


def test_too_few_examples_are_marked_in_the_statistics():
    assert feature_statistics([features(7)]).is_rank_deficient
    assert not feature_statistics([features(8)]).is_rank_deficient


def test_the_floor_between_halves_falls_with_the_number_of_images():
    floors = [fid.distance_between_halves(features(n), jax.random.key(0)) for n in (100, 10_000)]
    assert 0 < floors[1] < floors[0] / 20  # it falls like 1 / n
    assert fid.distance_between_halves(features(101), jax.random.key(0)) == fid.distance_between_halves(
        features(101), jax.random.key(0)
    )


# --------------------------------------------------------------------------------------------------- bad input


def test_statistics_of_parts_are_joined_to_those_of_all():
    x = np.random.default_rng(3).normal(5, 2, size=(101, 6))
    parts = [fid.feature_statistics([x[a:b]]) for a, b in ((0, 7), (7, 60), (60, 101))]
    joined, whole = fid.joined(parts), fid.feature_statistics([x])
    np.testing.assert_allclose(joined.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(joined.covariance, whole.covariance, rtol=1e-10, atol=1e-12)
    assert joined.num_examples == 101
    with pytest.raises(ValueError, match="no statistics"):
        fid.joined([])


def test_the_standard_error_of_one_dimension_is_that_of_its_closed_form():
    # (m_a - m_b)^2 with equal deviations: d/dm = 2 (m_b - m_a), so the error is 2 * 3 * std / sqrt(N) and little more.
    x = np.random.default_rng(4).normal(size=(4000, 1))
    reference = fid.FeatureStatistics(np.array([3.0]), np.array([[1.0]]), 10**6)
    assert fid.standard_error(reference, x, jax.random.key(0), 200) == pytest.approx(6 / 4000**0.5, rel=0.15)
    x = np.sort(x, axis=0)  # the order of the images says nothing
    assert fid.standard_error(reference, x, jax.random.key(0), 200) == pytest.approx(6 / 4000**0.5, rel=0.15)
    with pytest.raises(ValueError, match="at least 20"):
        fid.standard_error(reference, x[:19], jax.random.key(0))


def test_bad_features_are_refused_with_their_place():
    x = features(10)
    broken = x.copy()
    broken[3, 1] = np.nan
    with pytest.raises(
        ValueError, match="1 of 10 rows of features of batch 1 hold NaN or infinity, the first is row 3"
    ):
        feature_statistics([x, broken])
    with pytest.raises(ValueError, match="batch 1 has 3 features, but those before it have 7"):
        feature_statistics([x, x[:, :3]])
    with pytest.raises(ValueError, match=r"feature_statistics\(\[features\]\)"):
        feature_statistics(x)
    with pytest.raises(ValueError, match="at least 2 rows of features, but there are 1"):
        feature_statistics([x[:1]])
    with pytest.raises(ValueError, match="but there are 0"):
        feature_statistics([])
    with pytest.raises(ValueError, match="at least 4 rows"):
        fid.distance_between_halves(x[:3], jax.random.key(0))
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(lambda x: feature_statistics([x]))(x)


def test_what_is_no_mean_or_covariance_is_refused():
    m, c = np.zeros(3), np.eye(3)
    with pytest.raises(ValueError, match="unequal dimensions, 3 and 2"):
        frechet_distance(m, c, m[:2], c[:2, :2])
    with pytest.raises(ValueError, match=r"set b have \[3\] and \[2, 2\]"):
        frechet_distance(m, c, m, c[:2, :2])
    with pytest.raises(ValueError, match="set a holds NaN"):
        frechet_distance(m, c * np.nan, m, c)
    with pytest.raises(ValueError, match="set b is not symmetric"):
        frechet_distance(m, c, m, c + np.triu(c + 1, 1))
    with pytest.raises(ValueError, match="set b has a negative eigenvalue, -1"):
        frechet_distance(m, c, m, -c)
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(frechet_distance)(m, c, m, c)


# ------------------------------------------------------------------------------------------------------- speed


@pytest.mark.slow
def test_two_thousand_dimensions_take_seconds_and_agree_with_the_slower_general_square_root():
    # `pytest tests/test_metrics_fid.py -m slow -s` prints both times. Seen on two cores of an AMD EPYC (Zen 5), NumPy's
    # OpenBLAS and SciPy 1.17.1: 1.6 s and 9.0 s.
    rng = np.random.default_rng(5)
    d = 2048
    spectrum = np.geomspace(3, 1e-4, d)
    sets = [rng.normal(size=(4 * d, d)) * np.sqrt(spectrum) @ np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in "ab"]
    (m_a, c_a, _), (m_b, c_b, _) = (feature_statistics([x]) for x in sets)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distance = frechet_distance(m_a, c_a, m_b, c_b)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    reference = by_scipy(m_a, c_a, m_b, c_b)
    theirs = time.perf_counter() - start
    print(f"{ours:.2f} s; general square root {theirs:.2f} s, {theirs / ours:.1f} times as long")
    assert distance == pytest.approx(reference, rel=1e-6)
    assert ours < theirs
