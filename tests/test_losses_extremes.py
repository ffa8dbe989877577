"""Losses and likelihoods at the ends of float32: right and finite, with finite gradients, wherever the truth is finite.

Ordinary inputs take the plain formula to the last bit: the formulas stand here a second time.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses import adversarial, penalties, variational

INF = math.inf


def value_and_gradients(function, *inputs, compiled):
    """Of single numbers, each made [1, 1]."""
    inputs = [jnp.full((1, 1), x, jnp.float32) for x in inputs]
    value, gradients = _derived(function, len(inputs), compiled)(*inputs)
    return float(value), [float(g[0, 0]) for g in gradients]


@functools.cache
def _derived(function, num_inputs, compiled):
    both = jax.value_and_grad(lambda *x: jnp.sum(function(*x)), argnums=tuple(range(num_inputs)))
    return jax.jit(both) if compiled else both


COMPILED = pytest.mark.parametrize("compiled", [False, True])


@COMPILED
@pytest.mark.parametrize("logit", [100.0, 3e38, INF])
def test_bernoulli_logits_of_any_size(logit, compiled):
    found = functools.partial(value_and_gradients, compiled=compiled)
    of_one, of_zero = (lambda t, x=x: variational.bernoulli_log_likelihood(t, jnp.full((1, 1), x)) for x in (1.0, 0.0))
    assert found(of_one, logit) == (0, [0])
    assert found(of_zero, -logit) == (0, [0])
    largest = min(logit, float(jnp.finfo(jnp.float32).max))  # the truth is -logit
    np.testing.assert_allclose(np.hstack(found(of_zero, logit)), [-largest, -1], rtol=1e-6)
    np.testing.assert_allclose(np.hstack(found(of_one, -logit)), [-largest, 1], rtol=1e-6)
    assert math.isnan(found(of_one, math.nan)[0])


@COMPILED
@pytest.mark.parametrize("logvar", [-300.0, -170.0, -100.0, -85.0, 85.0, 100.0, 170.0, 300.0])
@pytest.mark.parametrize("distance", [0.0, 1e-8, 0.5])
def test_gaussian_variances_of_any_size(logvar, distance, compiled):
    likelihood = lambda mean, logvar: variational.gaussian_log_likelihood(mean, logvar, jnp.zeros((1, 1)))  # noqa: E731
    value, (of_mean, of_logvar) = value_and_gradients(likelihood, distance, logvar, compiled=compiled)
    squared = float(np.float32(distance)) ** 2 * math.exp(-logvar)
    truth = -0.5 * (math.log(2 * math.pi) + logvar + squared)
    slope = -float(np.float32(distance)) * math.exp(-logvar)
    largest = float(jnp.finfo(jnp.float32).max)
    if abs(truth) < largest:
        assert value == pytest.approx(truth, rel=1e-5)
        assert of_logvar == pytest.approx(0.5 * (squared - 1), rel=1e-5)
        if abs(slope) < largest:
            assert of_mean == pytest.approx(slope, rel=1e-5, abs=1e-37)
    else:
        assert value == -INF


@COMPILED
@pytest.mark.parametrize("log_scale", [-INF, -300.0, -100.0, -88.5, -80.0, -40.0])
@pytest.mark.slow
def test_a_logistic_of_no_width_is_certain_of_the_bin_that_it_is_in(log_scale, compiled):
    for x, mean in [(1 / 255, 0.002), (1.0, 1.0), (1.0, 50.0), (-1.0, -1.0), (-1.0, -INF), (1.0, INF)]:
        likelihood = functools.partial(variational.discretized_logistic_log_likelihood, x=jnp.full((1, 1), x))
        value, gradients = value_and_gradients(likelihood, mean, log_scale, compiled=compiled)
        assert value == 0
        assert gradients == [0, 0]
    likelihood = functools.partial(variational.discretized_logistic_log_likelihood, x=jnp.full((1, 1), 1 / 255))
    value, gradients = value_and_gradients(likelihood, 0.5, log_scale, compiled=compiled)  # not in the bin
    assert value < -1e15
    assert np.isfinite([value, *gradients]).all()
    assert gradients[0] < 0 < gradients[1]  # towards the bin, and wider


@COMPILED
@pytest.mark.parametrize("log_scale", [20.0, 60.0, 80.0, 86.0, 88.0, 100.0, 1e30])
def test_a_logistic_of_any_width_has_the_mass_of_its_density_on_a_bin(log_scale, compiled):
    """width / (4 scale) in the middle, one half for both ends."""
    for x, truth in [(1 / 255, math.log(2 / 255 / 4) - log_scale), (1.0, -math.log(2)), (-1.0, -math.log(2))]:
        likelihood = functools.partial(variational.discretized_logistic_log_likelihood, x=jnp.full((1, 1), x))
        value, (of_mean, of_scale) = value_and_gradients(likelihood, 0.3, log_scale, compiled=compiled)
        assert value == pytest.approx(truth, rel=1e-6)
        assert of_scale == pytest.approx(-1 if abs(x) < 1 else 0, abs=1e-6)
        assert of_mean == pytest.approx(0, abs=1e-8)


def test_ordinary_inputs_take_the_plain_formulas_to_the_last_bit():
    rng = np.random.default_rng(0)
    mean, logvar, x = (jnp.asarray(rng.normal(size=(16, 28, 28, 1)), jnp.float32) for _ in range(3))

    def plain_gaussian(mean, logvar, x):
        terms = variational.LOG_2PI + logvar + (x - mean) ** 2 * jnp.exp(-logvar)
        return -0.5 * jnp.sum(terms, axis=(1, 2, 3))

    def plain_bernoulli(logits, _, x):
        return -jnp.sum(variational._softplus(logits) - (x > 0) * logits, axis=(1, 2, 3))

    pairs = [
        (plain_gaussian, variational.gaussian_log_likelihood),
        (plain_bernoulli, lambda logits, _, x: variational.bernoulli_log_likelihood(logits, x > 0)),
    ]
    for pair in pairs:
        found = [
            jax.jit(jax.value_and_grad(lambda *a, f=f: jnp.mean(f(*a)), argnums=(0, 1)))(5 * mean, 3 * logvar, x)
            for f in pair
        ]
        jax.tree.map(np.testing.assert_array_equal, *found)


LOSSES = {name: loss for name, loss in vars(adversarial).items() if isinstance(loss, adversarial.AdversarialLoss)}


@COMPILED
@pytest.mark.parametrize("name", LOSSES)
def test_adversarial_losses_of_large_logits(name, compiled):
    """Against the formula in double precision, wherever that is a number of float32."""
    largest = float(jnp.finfo(jnp.float32).max)
    for real in (-3e38, -1e15, -200.0, 200.0, 1e15, 3e38):
        for fake in (-3e38, -1e15, -200.0, 200.0, 1e15, 3e38):
            for player in LOSSES[name]:
                with jax.enable_x64(True):
                    truth = float(player(jnp.float64(real), jnp.float64(fake)))
                value, gradients = value_and_gradients(player, real, fake, compiled=compiled)
                if abs(truth) < largest:
                    assert value == pytest.approx(truth, rel=1e-5, abs=1e-6)
                    assert np.isfinite(gradients).all()
                else:
                    assert abs(value) == INF


@pytest.mark.parametrize(
    "penalty",
    [penalties.r1(), penalties.r2(), penalties.gradient_penalty(), penalties.dragan()],
    ids=lambda penalty: penalty.__name__,
)
@pytest.mark.parametrize("level", [-3e38, -1e20, 0.0, 1e20, 3e38])
def test_a_penalty_does_not_care_how_large_logits_are(penalty, level):
    """A logit and a constant: the gradient is 2 per pixel, or 0 where it is nothing to so large a constant."""
    real = jnp.full((2, 3, 3, 1), 0.5)

    def of_weight(weight):
        return penalty(lambda x: weight * jnp.sum(x, axis=(1, 2, 3)) + level, real, -real, jax.random.key(0))

    value, slope = jax.value_and_grad(of_weight)(2.0)
    expected = {"r1": 5 * 36, "r2": 5 * 36}.get(penalty.__name__, 10 * 25)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(float(slope))
