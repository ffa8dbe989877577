import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxgen.data import toy
from jaxgen.metrics.coverage import (
    expected_modes,
    kl_floor,
    label_coverage,
    mode_coverage,
    stacked_mode_coverage,
)

pytestmark = pytest.mark.usefixtures("fast_compilation")  # the time of this file is XLA's

KEY = jax.random.key(0)


def numbers(result):
    return {name: float(value) for name, value in result.items()}


def test_samples_of_the_ring_and_the_grid_themselves_cover_every_mode():
    for samples, centres, std in (
        (toy.ring(KEY, 4000, std=0.05), toy.ring_modes(), 0.05),
        (toy.grid(KEY, 4000), toy.grid_modes(), 0.05),
    ):
        result = numbers(mode_coverage(samples, centres, std))
        assert result["modes"] == len(centres)
        assert result["high_quality_share"] == pytest.approx(1 - math.exp(-4.5), abs=0.006)
        assert result["kl"] == pytest.approx(result["kl_floor"], abs=3 * result["kl_floor"])
        assert result["kl_floor"] == pytest.approx((len(centres) - 1) / 8000, rel=0.02)


def test_modes_quality_and_divergence_have_the_values_counted_by_hand():
    centres, std = jnp.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]), 1.0
    samples = jnp.array([[0.0, 2.9], [0.0, -2.9], [0.1, 0.0], [13.1, 0.0]])  # the last is near mode 1, but not enough
    result = numbers(mode_coverage(samples, centres, std))
    assert result["modes"] == 1 and result["high_quality_share"] == 0.75
    # Shares 3/4, 1/4, 0 against thirds.
    assert result["kl"] == pytest.approx(0.75 * math.log(2.25) + 0.25 * math.log(0.75), rel=1e-6)
    wider = numbers(mode_coverage(samples, centres, std, num_stds=4.0))
    assert wider["modes"] == 2 and wider["high_quality_share"] == 1 and wider["kl"] == result["kl"]
    each = numbers(mode_coverage(samples, centres, jnp.array([0.5, 2.0, 1.0])))
    assert each["modes"] == 2 and each["high_quality_share"] == 0.5


def test_a_collapsed_generator_has_one_mode_and_a_divergence_of_the_logarithm_of_their_number():
    result = numbers(mode_coverage(jnp.tile(toy.ring_modes()[:1], (50, 1)), toy.ring_modes(), 0.05))
    assert result["modes"] == 1 and result["high_quality_share"] == 1
    assert result["kl"] == pytest.approx(math.log(8), rel=1e-6)


def test_samples_that_are_not_finite_belong_to_no_mode():
    good = toy.ring(KEY, 90, std=0.01)
    bad = jnp.full((10, 2), jnp.nan).at[5:].set(jnp.inf)
    result = numbers(mode_coverage(jnp.concatenate([bad, good]), toy.ring_modes(), 0.01))
    alone = numbers(mode_coverage(good, toy.ring_modes(), 0.01))
    assert result["kl"] == pytest.approx(alone["kl"], rel=1e-5) and result["modes"] == alone["modes"]
    assert result["high_quality_share"] == pytest.approx(0.9 * alone["high_quality_share"])
    diverged = numbers(mode_coverage(bad, toy.ring_modes(), 0.01))
    assert diverged["modes"] == diverged["high_quality_share"] == 0 and math.isnan(diverged["kl"])


def test_it_is_compiled_and_mapped_over_runs_with_the_same_numbers():
    samples = jnp.stack([toy.ring(jax.random.key(i), 200, num_modes=modes) for i, modes in enumerate((2, 4, 8))])
    stds = jnp.array([0.01, 0.02, 0.005])
    mapped = jax.jit(jax.vmap(lambda x, std: mode_coverage(x, toy.ring_modes(), std)))(samples, stds)
    np.testing.assert_array_equal(mapped["modes"], [2, 4, 8])
    for i in range(3):
        alone = mode_coverage(samples[i], toy.ring_modes(), stds[i])
        assert numbers({k: v[i] for k, v in mapped.items()}) == pytest.approx(numbers(alone), rel=1e-5, abs=1e-6)


# ----------------------------------------------------------------------------------------------- labels and stacks


def test_the_divergence_of_labels_is_that_of_scipy():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(12))
    labels = rng.integers(0, 9, 300)
    shares = np.bincount(labels, minlength=12) / 300
    result = label_coverage(labels, 12, probabilities=p)
    assert float(result["kl"]) == pytest.approx(scipy.stats.entropy(shares, p), rel=1e-5)
    assert int(result["modes"]) == 9


def test_channels_of_stacked_digits_name_the_mode_of_the_data_set():
    labels = np.array([[1, 2, 3], [1, 2, 3], [3, 2, 1], [0, 0, 0], [9, 9, 9]])
    result = numbers(stacked_mode_coverage(labels))
    assert result["modes"] == 4
    shares = np.array([0.4, 0.2, 0.2, 0.2])
    assert result["kl"] == pytest.approx(np.sum(shares * np.log(1000 * shares)), rel=1e-5)
    logits = np.random.default_rng(0).normal(size=(5, 3, 10)) + 100 * np.eye(10)[labels]
    assert numbers(stacked_mode_coverage(logits)) == result
    p = np.full(1000, 0.5 / 999)
    p[123] = 0.5  # red is the first digit
    weighted = float(stacked_mode_coverage(labels, probabilities=p)["kl"])
    assert weighted == pytest.approx(0.4 * math.log(0.8) + 0.6 * math.log(0.2 * 999 / 0.5), rel=1e-5)


def test_channels_without_an_opinion_belong_to_no_mode():
    logits = np.zeros((4, 3, 10), np.float32)
    logits[0, 1, 5] = np.nan
    result = numbers(stacked_mode_coverage(logits))
    assert result["modes"] == 1 and result["kl"] == pytest.approx(math.log(1000), rel=1e-6)
    negative = numbers(stacked_mode_coverage(np.array([[0, 0, 1], [0, -1, 1], [0, 10, 1]])))
    assert negative["modes"] == 1


# ------------------------------------------------------------------------------------------------------- floors


@pytest.mark.parametrize("p", [[0.5, 0.5], [0.2, 0.3, 0.5], [1.0], [0.01, 0.99]])
def test_the_floor_is_the_expectation_over_all_outcomes(p):
    n, expected, modes = 6, 0.0, 0.0
    for outcome in itertools.product(range(len(p)), repeat=n):
        counts = np.bincount(outcome, minlength=len(p))
        probability = np.prod(np.array(p) ** counts)
        expected += probability * scipy.stats.entropy(counts / n, p)
        modes += probability * np.sum(counts > 0)
    assert kl_floor(n, p) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert expected_modes(n, p) == pytest.approx(modes, rel=1e-9)


def test_samples_of_a_thousand_modes_reach_the_floor_of_stacked_mnist_and_no_less():
    n = 26_000
    labels = np.random.default_rng(0).integers(0, 10, (20, n, 3))
    results = [numbers(stacked_mode_coverage(x)) for x in labels]
    floor = results[0]["kl_floor"]
    assert floor == pytest.approx(0.0193, abs=5e-5)  # as stated in the docstring
    spread = np.std([r["kl"] for r in results])
    assert np.mean([r["kl"] for r in results]) == pytest.approx(floor, abs=4 * spread / math.sqrt(20))
    assert all(r["modes"] == 1000 for r in results)
    assert expected_modes(n, np.full(1000, 1e-3)) == pytest.approx(1000, abs=1e-6)


def test_bad_input_is_refused():
    centres = toy.ring_modes()
    with pytest.raises(ValueError, match=r"have the shapes \[5, 3\] and \[8, 2\]"):
        mode_coverage(jnp.zeros((5, 3)), centres, 0.1)
    with pytest.raises(ValueError, match="must have the same D"):
        mode_coverage(jnp.zeros((0, 2)), centres, 0.1)
    with pytest.raises(ValueError, match="8 positive numbers that add up to 1"):
        mode_coverage(jnp.zeros((5, 2)), centres, 0.1, probabilities=np.ones(8))
    with pytest.raises(ValueError, match="known when traced"):
        jax.jit(lambda p: label_coverage(jnp.arange(3), 3, probabilities=p))(jnp.ones(3) / 3)
    with pytest.raises(TypeError, match="whole numbers, not float32"):
        label_coverage(jnp.ones(3), 3)
    with pytest.raises(TypeError, match=r"logits must have the shape \[N, channels, classes\]"):
        stacked_mode_coverage(jnp.ones((3, 10)))
    with pytest.raises(ValueError, match=r"labels of channels must have the shape \[N, channels\]"):
        stacked_mode_coverage(jnp.arange(3))
