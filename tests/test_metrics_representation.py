"""A linear probe and nearest neighbours, where the answer is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.metrics import representation
from jaxgen.metrics.double_precision import double_precision
from jaxgen.metrics.representation import k_nearest_neighbours, linear_probe

pytestmark = pytest.mark.usefixtures("fast_compilation")  # whose time is that of L-BFGS's compilation
RNG = np.random.default_rng(0)


def halves(codes, labels):
    """Training codes with labels, and others with theirs."""
    half = len(codes) // 2
    return codes[:half], labels[:half], codes[half:], labels[half:]


def crosswise(num=400):
    """Four clumps, of which those across from each other have one label: no line tells them apart."""
    place = RNG.integers(0, 2, (num, 2))
    return place + 0.1 * RNG.normal(size=(num, 2)), place[:, 0] ^ place[:, 1]


def test_a_probe_tells_what_lines_tell_and_neighbours_what_places_tell():
    codes, labels = crosswise()
    assert 0.2 < linear_probe(*halves(codes, labels)) < 0.8
    assert k_nearest_neighbours(*halves(codes, labels)) == 1
    side = (codes[:, 0] > 0.5).astype(int)
    assert linear_probe(*halves(codes, side)) > 0.99


def test_three_classes_on_a_line_are_told_apart():
    """Least squares would never name the one in the middle."""
    labels = np.tile(np.arange(3), 60)
    codes = labels[:, None] + 0.1 * RNG.normal(size=(180, 1))
    assert linear_probe(*halves(codes, labels), decay=1e-6) == 1


def test_the_probe_is_at_the_minimum_of_its_loss():
    labels = RNG.integers(0, 3, 300)
    codes = RNG.normal(size=(300, 4)) + 0.5 * labels[:, None]
    with double_precision():
        z = jnp.asarray(codes)
        weights, bias = representation._logistic_regression(z, jnp.asarray(labels), 3, 500, 0.01, 1e-9)
        error = jax.nn.softmax(z @ weights + bias) - jax.nn.one_hot(labels, 3, dtype=z.dtype)
        np.testing.assert_allclose(z.T @ error / 300 + 0.01 * weights, 0, atol=1e-8)
        np.testing.assert_allclose(error.mean(axis=0), 0, atol=1e-8)


def test_the_scale_and_place_of_units_and_constant_ones_mean_nothing_to_a_probe():
    labels = RNG.integers(0, 3, 400)
    codes = RNG.normal(size=(400, 3)) + labels[:, None]
    moved = np.concatenate([codes * [1e-3, 1.0, 1e4] + [5, -7, 1e5], np.full((400, 1), 3.3)], axis=1)
    assert linear_probe(*halves(codes, labels)) == linear_probe(*halves(moved, labels))


def test_codes_that_say_nothing_are_told_by_chance():
    labels = RNG.integers(0, 4, 4000)
    sides = halves(RNG.normal(size=(4000, 5)), labels)
    assert linear_probe(*sides) == pytest.approx(0.25, abs=0.05)
    assert k_nearest_neighbours(*sides) == pytest.approx(0.25, abs=0.05)


def test_neighbours_vote_and_the_nearest_decides_a_tie():
    train = np.array([[0.0], [1.0], [1.1], [5.0]])
    labels = np.array([0, 1, 1, 2])
    for place, k, expected in ((0.1, 1, 0), (0.1, 3, 1), (0.1, 2, 0), (0.9, 2, 1), (4.0, 1, 2), (4.0, 4, 1)):
        named = [k_nearest_neighbours(train, labels, [[place]], [label], num_neighbours=k) for label in range(3)]
        assert named.index(1.0) == expected and sum(named) == 1
    codes, labels = RNG.normal(size=(50, 3)), RNG.integers(0, 5, 50)
    assert k_nearest_neighbours(codes, labels, codes, labels, num_neighbours=1) == 1  # itself


def test_blocks_of_distances_are_one(monkeypatch):
    codes, labels = crosswise(200)
    labels = np.where(RNG.random(200) < 0.3, 1 - labels, labels)
    whole = k_nearest_neighbours(*halves(codes, labels))
    monkeypatch.setattr(representation, "BLOCK_ELEMENTS", 700)
    assert k_nearest_neighbours(*halves(codes, labels)) == whole
    far = codes + 1e6  # where squares alone have lost what tells codes apart
    assert k_nearest_neighbours(*halves(far, labels)) == whole


def test_jax_arrays_of_any_precision_are_read():
    labels = RNG.integers(0, 2, 200)
    codes = jnp.asarray(labels[:, None] + 0.1 * RNG.normal(size=(200, 2)), jnp.bfloat16)
    for function, dtype in itertools.product((linear_probe, k_nearest_neighbours), (jnp.bfloat16, jnp.float32)):
        assert function(*halves(codes.astype(dtype), jnp.asarray(labels))) == 1


@pytest.mark.parametrize("function", [linear_probe, k_nearest_neighbours])
def test_what_is_no_code_or_no_label_is_refused(function):
    codes, labels = RNG.normal(size=(20, 2)), np.tile([0, 1], 10)
    for wrong, error, message in (
        ((codes, labels / 2, codes, labels), TypeError, "training labels must be whole numbers, not float64"),
        ((codes, labels, codes, labels[1:]), ValueError, r"labels must be one for each of 20 codes, not .* \[19\]"),
        ((codes, labels - 1, codes, labels), ValueError, "training labels count from 0, and one is -1"),
        ((codes, labels, codes[:, :1], labels), ValueError, "training codes have 2 numbers each, and codes 1"),
        ((codes, labels, codes * np.nan, labels), ValueError, "20 of 20 rows of codes hold NaN"),
    ):
        with pytest.raises(error, match=message):
            function(*wrong)
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(lambda x: function(x, labels, codes, labels))(codes)


def test_settings_that_mean_nothing_are_refused():
    codes, labels = RNG.normal(size=(20, 2)), np.tile([0, 1], 10)
    with pytest.raises(ValueError, match="all training labels are the same"):
        linear_probe(codes, 0 * labels, codes, labels)
    with pytest.raises(ValueError, match="decay must be above 0"):
        linear_probe(codes, labels, codes, labels, decay=0.0)
    with pytest.raises(ValueError, match="from 1 to the 20 training codes, not 21"):
        k_nearest_neighbours(codes, labels, codes, labels, num_neighbours=21)
