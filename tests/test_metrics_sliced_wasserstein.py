import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxgen.metrics.sliced_wasserstein import sliced_wasserstein_distance

pytestmark = pytest.mark.usefixtures("fast_compilation")  # the time of this file is XLA's

KEY = jax.random.key(0)


@pytest.mark.parametrize(("m", "n"), [(50, 50), (50, 35), (7, 64), (1, 9)])
def test_on_a_line_it_is_the_wasserstein_distance_of_scipy_for_all_sizes(m, n):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(m, 1)), rng.normal(size=(n, 1)) * 2 + 1
    expected = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0])
    distance = sliced_wasserstein_distance(x, y, KEY, num_projections=3, order=1)
    assert float(distance) == pytest.approx(expected, rel=1e-5)


def test_for_equal_sizes_it_is_the_mean_difference_of_sorted_projections_in_double_precision():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 3)) + 1
    a = np.asarray(jax.random.normal(KEY, (70, 3)), np.float64)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    difference = np.sort(x @ a.T, axis=0) - np.sort(y @ a.T, axis=0)
    for p in (1, 2, 3):
        distance = sliced_wasserstein_distance(x, y, KEY, num_projections=70, order=p)  # 70 is no multiple of a block
        assert float(distance) == pytest.approx(np.mean(np.abs(difference) ** p) ** (1 / p), rel=1e-5)


def test_repeating_every_point_of_a_set_changes_nothing():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(12, 4)), rng.normal(size=(18, 4))
    distance = float(sliced_wasserstein_distance(x, y, KEY))
    assert float(sliced_wasserstein_distance(np.repeat(x, 3, 0), np.repeat(y, 2, 0), KEY)) == pytest.approx(
        distance, 1e-5
    )


def test_a_shift_has_its_length_over_the_root_of_the_dimension_also_far_from_zero():
    x = np.random.default_rng(3).normal(size=(30, 5)).astype(np.float32)
    v = np.array([1, -2, 0.5, 0, 3], np.float32)
    for far in (0, 1000):
        distance = sliced_wasserstein_distance(x + far, x + v + far, KEY, num_projections=20_000)
        assert float(distance) == pytest.approx(np.linalg.norm(v) / math.sqrt(5), rel=0.02)


def test_spherical_gaussians_of_unequal_width_differ_by_their_widths():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(20_000, 2)), 3 * rng.normal(size=(10_000, 2))
    assert float(sliced_wasserstein_distance(x, y, KEY, num_projections=50)) == pytest.approx(2, rel=0.03)


def test_a_set_has_no_distance_from_itself_in_any_order_and_images_are_flattened():
    x = np.random.default_rng(5).normal(size=(10, 4, 4, 1)).astype(np.float32)
    assert float(sliced_wasserstein_distance(x, x[::-1], KEY)) < 1e-6


def test_it_is_compiled_and_mapped():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2, 20, 3)), rng.normal(size=(2, 15, 3))
    mapped = jax.jit(jax.vmap(lambda x, y: sliced_wasserstein_distance(x, y, KEY, num_projections=40)))(x, y)
    for i in range(2):
        assert float(mapped[i]) == pytest.approx(
            float(sliced_wasserstein_distance(x[i], y[i], KEY, num_projections=40)), rel=1e-5
        )


def test_bad_input_is_refused():
    x = jnp.ones((4, 3))
    with pytest.raises(ValueError, match="real points have 3 dimensions and fake points 2"):
        sliced_wasserstein_distance(x, x[:, :2], KEY)
    with pytest.raises(ValueError, match=r"fake points must have the shape \[N, ...\], not \[0, 3\]"):
        sliced_wasserstein_distance(x, x[:0], KEY)
    with pytest.raises(ValueError, match="real points hold NaN"):
        sliced_wasserstein_distance(x * jnp.nan, x, KEY)
    with pytest.raises(ValueError, match="at least 1"):
        sliced_wasserstein_distance(x, x, KEY, num_projections=0)
