"""The amortisation gap, where the best posterior is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen import vae
from jaxgen.losses import variational
from jaxgen.metrics.amortisation import amortisation, make_inference
from jaxgen.models import priors

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY = jax.random.key(0)
# A linear decoder whose likelihood and best diagonal posterior have closed forms (Lucas et al. 2019).
W = np.array([[1, 0], [0.5, 1], [0, -1], [2, 0.3]])
MU, NOISE, X = np.array([0.1, -0.2, 0.3, 0.0]), 0.25, np.array([0.5, 0.2, -0.4, 1.1])
PRECISION = np.eye(2) + W.T @ W / NOISE
BEST = -4.041943587820
COLLAPSED = -19.623165411


class Linear(nn.Module):
    """p(x|z) = N(W z + mu, NOISE)."""

    @nn.compact
    def __call__(self, z, *, train):
        mean = (z @ jnp.array(W, z.dtype).T + jnp.array(MU, z.dtype)).reshape(-1, 2, 2, 1)
        return mean, jnp.full(mean.shape, math.log(NOISE), mean.dtype)


class Prior(nn.Module):
    """An encoder that has collapsed: q is the prior."""

    @nn.compact
    def __call__(self, x, *, train):
        return jnp.zeros((len(x), 2)), jnp.zeros((len(x), 2))


EMPTY = {"encoder": {}, "decoder": {}}  # the linear modules have no variables
BATCH = {"image": jnp.asarray(np.stack([X, X]).reshape(2, 2, 2, 1), jnp.float32)}


def inference():
    """(posterior of two equal images, bound of (posterior, noise, batch))."""
    posterior, bound = make_inference(Prior(), Linear(), likelihood=variational.gaussian)
    return jax.jit(posterior)(EMPTY, BATCH), lambda q, noise, batch: bound(EMPTY, batch, q, noise)


def test_the_optimised_posterior_is_the_best_one_of_its_kind():
    posterior, bound = inference()
    found = amortisation(
        posterior, bound, KEY, BATCH, num_steps=1500, learning_rate=0.05, num_samples=16, eval_samples=2000
    )
    mean, variance = np.linalg.solve(PRECISION, W.T @ (X - MU) / NOISE), 1 / np.diag(PRECISION)
    np.testing.assert_allclose(found.posterior.mean, [mean, mean], atol=0.02)
    np.testing.assert_allclose(np.exp(found.posterior.logvar), [variance, variance], rtol=0.1)
    assert found.of_encoder.shape == found.optimised.shape == (2,)
    np.testing.assert_allclose(found.of_encoder, COLLAPSED, atol=1.5)  # the spread of draws from the prior is large
    np.testing.assert_allclose(found.optimised, BEST, atol=0.08)
    assert found.gap == pytest.approx(float(np.mean(found.optimised - found.of_encoder)))
    again = amortisation(found.posterior, bound, KEY, BATCH, num_steps=50, learning_rate=1e-3, num_samples=16)
    assert abs(again.gap) < 0.02  # nothing is left to be found


def test_the_bound_of_the_best_posterior_is_that_of_theory():
    _, bound = inference()
    mean = np.linalg.solve(PRECISION, W.T @ (X - MU) / NOISE)
    best = vae.Posterior(*(jnp.tile(jnp.asarray(x), (2, 1)) for x in (mean, -np.log(np.diag(PRECISION)))))
    noise = jax.random.normal(KEY, (2, 10_000, 2))
    paired = jnp.concatenate([noise, -noise], axis=1)
    np.testing.assert_allclose(jax.jit(bound)(best, paired, BATCH), BEST, atol=0.03)


@pytest.mark.slow
def test_a_prior_without_a_formula_has_the_same_bound_by_draws():
    """A mixture of two equal Gaussians is one."""
    mixture = priors.Mixture(2, 2)
    variables = mixture.init(KEY, jnp.zeros((1, 2)), None, method="log_prob")
    assert jax.tree.leaves(variables)
    image = {"image": BATCH["image"][:1]}
    _, bound = make_inference(Prior(), Linear(), likelihood=variational.gaussian, prior=mixture)
    q = vae.Posterior(jnp.zeros((1, 2)), jnp.zeros((1, 2)))
    noise = jax.random.normal(KEY, (1, 20, 2))
    z = noise[0]
    known = variational.gaussian.log_prob(Linear().apply({}, z, train=False), jnp.repeat(image["image"], 20, axis=0))
    log_p = mixture.apply(variables, z, None, method="log_prob")
    log_q = -0.5 * jnp.sum(z**2 + math.log(2 * math.pi), axis=1)
    own = EMPTY | {"prior": variables}
    np.testing.assert_allclose(jax.jit(bound)(own, image, q, noise)[0], jnp.mean(known + log_p - log_q), rtol=1e-5)


@pytest.mark.slow
def test_images_do_not_meet():
    posterior, bound = inference()
    both = amortisation(posterior, bound, KEY, BATCH, num_steps=20, eval_samples=1)

    def other(q, noise, batch):  # the second image is given up
        found = bound(q, noise, batch)
        return found.at[1].set(jnp.sum(q.mean[1]))

    apart = amortisation(posterior, other, KEY, BATCH, num_steps=20, eval_samples=1)
    np.testing.assert_allclose(both.posterior.mean[0], apart.posterior.mean[0], rtol=1e-5)
    assert np.abs(both.posterior.mean[1] - apart.posterior.mean[1]).max() > 0.01


def test_what_means_nothing_is_refused():
    posterior, bound = inference()
    with pytest.raises(TypeError, match="must be a random key"):
        amortisation(posterior, bound, 0)
    for name in ("num_steps", "num_samples", "eval_samples"):
        with pytest.raises(ValueError, match="must be at least 1"):
            amortisation(posterior, bound, KEY, **{name: 0})
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        amortisation(posterior, bound, KEY, learning_rate=0.0)
