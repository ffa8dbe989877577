import math

import jax
import numpy as np
import pytest

from jaxgen.metrics import kid
from jaxgen.metrics.kid import kernel_distance


def sets(m=40, n=25, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, d)).astype(np.float32), (rng.normal(size=(n, d)) * 1.3 + 0.4).astype(np.float32)


def by_pairs(x, y):
    """The definition, one pair of points after the other."""
    x, y = x.astype(np.float64), y.astype(np.float64)

    def mean(a, b, same):
        values = [(p @ q / len(p) + 1) ** 3 for i, p in enumerate(a) for j, q in enumerate(b) if not (same and i == j)]
        return math.fsum(values) / len(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


@pytest.mark.parametrize(("m", "n"), [(40, 25), (3, 30), (2, 2)])
def test_it_is_the_mean_over_pairs_of_distinct_points_also_for_unequal_sizes(m, n):
    real, fake = sets(m, n)
    result = kernel_distance(real, fake)
    assert result.mean == pytest.approx(by_pairs(real, fake), rel=1e-11)
    assert float(result) == result.mean and math.isnan(result.standard_deviation)


def test_blocks_of_the_kernel_matrix_do_not_change_it(monkeypatch):
    real, fake = sets()
    whole = float(kernel_distance(real, fake))
    monkeypatch.setattr(kid, "BLOCK_ELEMENTS", 7 * 25)
    jax.clear_caches()  # the block size is read when traced
    assert float(kernel_distance(real, fake)) == pytest.approx(whole, rel=1e-12)
    jax.clear_caches()


def test_two_points_a_side_have_the_value_computed_by_hand():
    # D = 1: k(1, 2) = 27, k(0, 3) = 1, k(1, 0) = 1, k(1, 3) = 64, k(2, 0) = 1, k(2, 3) = 343
    assert float(kernel_distance([[1], [2]], [[0], [3]])) == pytest.approx(
        27 + 1 - 2 * (1 + 64 + 1 + 343) / 4, rel=1e-14
    )


def test_it_is_unbiased_so_equal_distributions_have_distances_of_both_signs_around_zero():
    rng = np.random.default_rng(1)
    values = [float(kernel_distance(rng.normal(size=(10, 2)), rng.normal(size=(30, 2)))) for _ in range(400)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))


def test_digits_survive_features_far_from_zero():
    real, fake = sets()
    real, fake = real + 50, fake + 50  # kernels of 2500^3, a distance of 1e5
    assert float(kernel_distance(real, fake)) == pytest.approx(by_pairs(real, fake), rel=1e-9)


def test_subsets_average_to_the_distance_of_all_rows():
    real, fake = sets(60, 50)
    whole = float(kernel_distance(real, fake))
    result = kernel_distance(real, fake, subset_size=20, num_subsets=300, key=jax.random.key(0))
    # Every subset is an unbiased estimate of the whole.
    assert abs(result.mean - whole) < 4 * result.standard_deviation / math.sqrt(300)
    again = kernel_distance(real, fake, subset_size=20, num_subsets=300, key=jax.random.key(0))
    assert again == result
    assert kernel_distance(real, fake, subset_size=20, num_subsets=3, key=jax.random.key(1)) != result


def test_a_subset_has_no_row_twice():
    real, fake = sets(30, 30)
    result = kernel_distance(real, fake, subset_size=30, num_subsets=2, key=jax.random.key(0))
    assert result.mean == pytest.approx(float(kernel_distance(real, fake)), rel=1e-11)
    assert result.standard_deviation < 1e-11


def test_the_standard_error_is_that_of_the_influence_of_single_images():
    real, fake = sets(20, 12)
    x, y = real.astype(np.float64), fake.astype(np.float64)
    among, between = ((y @ other.T / 6 + 1) ** 3 for other in (y, x))
    influence = (among.sum(axis=1) - np.diag(among)) / 11 - between.mean(axis=1)
    expected = 2 * np.std(influence, ddof=1) / 12**0.5
    assert kid.standard_error(real, fake) == pytest.approx(expected, rel=1e-10)


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match=r"not a seed: write jax.random.key\(0\)"):
        kernel_distance(*sets(), subset_size=5, num_subsets=2, key=0)
    real, fake = sets()
    with pytest.raises(ValueError, match="real features must have at least 2 rows"):
        kernel_distance(real[:1], fake)
    with pytest.raises(ValueError, match="real features have 6 dimensions and fake features 5"):
        kernel_distance(real, fake[:, :5])
    with pytest.raises(ValueError, match="rows of fake features hold NaN or infinity, the first is row 0"):
        kernel_distance(real, fake * np.inf)
    with pytest.raises(ValueError, match=r"real features must have the shape \[N, D\]"):
        kernel_distance(real[None], fake)
    with pytest.raises(ValueError, match="give all three of them, or none"):
        kernel_distance(real, fake, subset_size=10)
    with pytest.raises(ValueError, match="2 subsets of 30 cannot be drawn from 40 real and 25 fake"):
        kernel_distance(real, fake, subset_size=30, num_subsets=2, key=jax.random.key(0))
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(kernel_distance)(real, fake)
