"""Posterior collapse of the linear autoencoder: closed forms against probabilistic PCA and against training."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import vae
from jaxgen.losses import variational
from jaxgen.metrics import collapse
from jaxgen.models import linear

pytestmark = pytest.mark.usefixtures("double_precision")
RNG = np.random.default_rng(0)
EIGENVALUES = np.array([4.0, 2.0, 1.0, 0.5])
TURN = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
COVARIANCE = TURN @ np.diag(EIGENVALUES) @ TURN.T


def log_likelihood(model_covariance, data_covariance):
    """The mean over data of the log density of a Gaussian at their mean."""
    inner = np.trace(np.linalg.solve(model_covariance, data_covariance))
    size = len(data_covariance)
    return -0.5 * (size * math.log(2 * math.pi) + np.linalg.slogdet(model_covariance)[1] + inner)


def test_the_optimum_is_probabilistic_pca_to_its_published_digits():
    found = collapse.linear_vae(COVARIANCE, 2)
    assert found.variance == pytest.approx(0.75, abs=1e-12)  # the mean of the eigenvalues that are left
    assert found.elbo == pytest.approx(-6.427792831206828, abs=1e-10)
    np.testing.assert_allclose(found.posterior_variance, [0.1875, 0.375], atol=1e-12)
    np.testing.assert_allclose(found.rate, [0.83698822, 0.49041463], atol=1e-8)
    model = found.decoder @ found.decoder.T + found.variance * np.eye(4)
    assert found.elbo == pytest.approx(log_likelihood(model, COVARIANCE), abs=1e-12)


@pytest.mark.parametrize(("variance", "active"), [(1.5, 2), (3.0, 1), (4.5, 0), (0.4, 4)])
def test_units_are_active_whose_eigenvalue_is_above_the_noise(variance, active):
    found = collapse.linear_vae(COVARIANCE, 4, variance=variance)
    assert np.sum(found.rate > 0) == np.sum(found.posterior_variance < 1) == active
    assert np.sum(np.abs(found.decoder).max(axis=0) > 0) == np.sum(np.abs(found.encoder).max(axis=1) > 0) == active
    assert collapse.active_units(EIGENVALUES, variance, least=0) == active
    np.testing.assert_allclose(collapse.rates(EIGENVALUES, variance), found.rate, atol=1e-12)
    # beta is worth noise, and nothing else: a half of either is the other.
    np.testing.assert_allclose(collapse.rates(EIGENVALUES, variance / 2, 2.0), found.rate, atol=1e-12)


def test_active_units_are_counted_by_the_variance_of_the_posterior_mean():
    found = collapse.linear_vae(COVARIANCE, 4, variance=0.6, beta=1.3)
    of_mean = np.diag(found.encoder @ COVARIANCE @ found.encoder.T)
    np.testing.assert_allclose(of_mean, np.maximum(1 - 0.78 / EIGENVALUES, 0), atol=1e-12)
    just = collapse.active_units(np.array([1.009, 1.011]), 1.0)
    assert just == 1 and collapse.active_units(np.array([1.009, 1.011]), 1.0, least=0) == 2
    betas = np.array([[0.5, 1.5], [3.0, 9.0]])
    np.testing.assert_array_equal(collapse.active_units(EIGENVALUES, 1.0, betas), [[3, 2], [1, 0]])
    np.testing.assert_array_equal(collapse.active_units(EIGENVALUES, 1.0, betas, latent_dim=1), [[1, 1], [1, 0]])


def test_the_networks_with_these_numbers_have_the_log_likelihood_as_their_bound():
    """At beta = 1 the posterior is exact: each importance weight is p(x)."""
    mean = np.array([0.2, -0.1, 0.0, 0.3])
    x = RNG.multivariate_normal(mean, COVARIANCE, size=50)
    covariance = np.cov(x.T, bias=True)
    found = collapse.linear_vae(covariance, 2)
    variables = variables_of(found, x.mean(axis=0))
    modules = linear.Encoder(2), linear.Decoder((2, 2, 1), found.variance)
    evaluate = jax.jit(vae.make_eval_step(*modules, likelihood=variational.gaussian, num_samples=3))
    numbers = evaluate(variables, {"image": jnp.asarray(x.reshape(-1, 2, 2, 1))}, jax.random.key(0))
    model = found.decoder @ found.decoder.T + found.variance * np.eye(4)
    away = x - x.mean(axis=0)
    quadratic = np.sum(away @ np.linalg.inv(model) * away, axis=1)
    known = -0.5 * (4 * math.log(2 * math.pi) + np.linalg.slogdet(model)[1] + quadratic)
    np.testing.assert_allclose(numbers["importance_weighted_bound"], known, atol=1e-6)
    assert float(np.mean(known)) == pytest.approx(found.elbo, abs=1e-10)
    assert float(numbers["rate"].mean()) == pytest.approx(found.rate.sum(), abs=1e-6)


def variables_of(found, mean):
    encoder = {"kernel": found.encoder.T, "bias": -found.encoder @ mean}
    decoder = {"kernel": found.decoder.T, "bias": mean}
    params = {
        "encoder": {"Dense_0": encoder, "logvar": np.log(found.posterior_variance)},
        "decoder": {"Dense_0": decoder},
    }
    return {name: {"params": jax.tree.map(jnp.asarray, own)} for name, own in params.items()}


def objective(params, covariance, beta, variance=None):
    """-(E log p(x|z) - beta KL), whose expectations are taken exactly."""
    w, v, log_d, log_s = (params[name] for name in ("w", "v", "log_d", "log_s"))
    s = jnp.exp(log_s) if variance is None else variance
    size, d = len(covariance), jnp.exp(log_d)
    rest = jnp.eye(size) - w @ v
    error = jnp.trace(rest @ covariance @ rest.T) + jnp.sum(w**2 @ d)
    distortion = 0.5 * size * jnp.log(2 * math.pi * s) + error / (2 * s)
    rate = 0.5 * (jnp.sum(jnp.diag(v @ covariance @ v.T)) + jnp.sum(d - 1 - log_d))
    return distortion + beta * rate


def trained(covariance, latent_dim, beta, variance, seed=1):
    """Where L-BFGS arrives from random weights."""
    rng = np.random.default_rng(seed)
    size = len(covariance)
    params = {"w": rng.normal(size=(size, latent_dim)), "v": rng.normal(size=(latent_dim, size))}
    params |= {"log_d": np.zeros(latent_dim), "log_s": np.zeros(())}
    params = jax.tree.map(jnp.asarray, params)

    def loss(params):
        return objective(params, jnp.asarray(covariance), beta, variance)

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    @jax.jit
    def run(params):
        def body(_, carry):
            params, state = carry
            value, gradient = value_and_grad(params, state=state)
            updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
            return optax.apply_updates(params, updates), state

        params, _ = jax.lax.fori_loop(0, 400, body, (params, optimizer.init(params)))
        return params, loss(params)

    return run(params)


SLOW = [
    pytest.param(beta, variance, marks=pytest.mark.slow) for beta, variance in ((1.0, None), (1.0, 0.6), (3.0, 0.5))
]


@pytest.mark.slow
@pytest.mark.parametrize(("beta", "variance"), [(1.4, None), *SLOW])
def test_training_arrives_at_the_closed_form(beta, variance):
    params, value = trained(COVARIANCE, 3, beta, variance)
    found = collapse.linear_vae(COVARIANCE, 3, variance=variance, beta=beta)
    assert float(value) == pytest.approx(found.distortion + beta * found.rate.sum(), abs=1e-6)
    order = np.argsort(params["log_d"])
    np.testing.assert_allclose(np.exp(params["log_d"])[order], np.sort(found.posterior_variance), atol=1e-3)
    w = np.asarray(params["w"])[:, order]
    np.testing.assert_allclose(w @ w.T, found.decoder @ found.decoder.T, atol=1e-3)
    if variance is None:
        assert float(jnp.exp(params["log_s"])) == pytest.approx(found.variance, abs=1e-5)
    own = {"w": found.decoder, "v": found.encoder, "log_d": np.log(found.posterior_variance)}
    own |= {"log_s": np.log(found.variance)}
    gradient = jax.grad(objective)(jax.tree.map(jnp.asarray, own), jnp.asarray(COVARIANCE), beta, variance)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0, atol=1e-10)


def test_a_learnt_variance_collapses_no_unit_at_beta_one_and_does_above():
    values = np.array([5.0, 3.0, 1.0, 0.2, 0.2, 0.2])
    assert collapse.learned_variance(values, 3) == pytest.approx(0.2)
    assert collapse.learned_variance(values, 0) == pytest.approx(values.mean())
    assert collapse.active_units(values, collapse.learned_variance(values, 3), latent_dim=3) == 3
    # (0.6 + 1) / (6 - 2 beta) with two units, once the third is not worth it
    third = collapse.learned_variance(values, 3, beta=1.9)
    assert third == pytest.approx(1.6 / (6 - 2 * 1.9)) and collapse.active_units(values, third, 1.9, latent_dim=3) == 2
    sizes = [collapse.learned_variance(values, 3, beta) for beta in (0.5, 1.0, 1.5, 2.5, 10.0)]
    assert sizes == sorted(sizes) and sizes[-1] == pytest.approx(values.mean())


def test_what_has_no_optimum_is_refused():
    with pytest.raises(ValueError, match="the variance goes to 0"):
        collapse.learned_variance([2.0, 1.0, 0.0], 2)
    for call, message in (
        (lambda: collapse.linear_vae(COVARIANCE, 4), "latent_dim must be from 0 to 3, less than the dimensions"),
        (lambda: collapse.linear_vae(COVARIANCE, 5, variance=1.0), "from 1 to the 4 dimensions"),
        (lambda: collapse.linear_vae(COVARIANCE[:2], 1), r"a covariance is \[D, D\]"),
        (lambda: collapse.linear_vae(np.triu(COVARIANCE), 1), "is symmetric"),
        (lambda: collapse.rates([1.0, -1.0], 1.0), "at least 0"),
        (lambda: collapse.rates([1.0], 0.0), "must be above 0"),
        (lambda: collapse.learned_variance([2.0, 1.0], 1, beta=0.0), "beta must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
