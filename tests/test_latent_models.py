"""The mathematics of posteriors, priors, bounds and terms of variational autoencoders."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import linen as nn

from jaxgen import latent_model, vae
from jaxgen.losses import bounds, latent, variational
from jaxgen.losses import von_mises_fisher as vmf
from jaxgen.metrics import likelihood
from jaxgen.models import flows, posteriors, priors

KEY = jax.random.key(5)
DRAW = latent_model.drawing(KEY)

pytestmark = pytest.mark.usefixtures("fast_compilation")


def close(a, b, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), a, b)


# -------------------------------------------------------------------------------- the linear VAE, in numbers of ours

W = np.array([[1, 0], [0.5, 1], [0, -1], [2, 0.3]])
MU, NOISE, X = np.array([0.1, -0.2, 0.3, 0.0]), 0.25, np.array([0.5, 0.2, -0.4, 1.1])
PRECISION = np.eye(2) + W.T @ W / NOISE
EXACT_MEAN = np.linalg.solve(PRECISION, W.T @ (X - MU) / NOISE)
LOG_PX = -3.992576167477


class Told(nn.Module):
    """An encoder that returns the same numbers for every image: parameters."""

    output: tuple

    @nn.compact
    def __call__(self, x, *, train):
        rows = [self.param(f"o{i}", lambda key, v=v: jnp.array(v)) for i, v in enumerate(self.output)]
        found = tuple(jnp.broadcast_to(row, (x.shape[0], row.shape[0])) for row in rows)
        return found


class Linear(nn.Module):
    """p(x|z) = N(W z + mu, NOISE)."""

    @nn.compact
    def __call__(self, z, *, train):
        w = self.param("w", lambda key: jnp.array(W))
        mean = (z @ w.T + MU).reshape(-1, 2, 2, 1)
        return mean, jnp.full(mean.shape, math.log(NOISE))


def entries_of(factor):
    """What a Cholesky encoder returns for a factor."""
    found = np.where(np.eye(len(factor), dtype=bool), np.log(np.where(factor > 0, factor, 1.0)), factor)
    return tuple(found[np.tril_indices(len(factor))].tolist())


def evaluated(output, posterior, k, prior=latent_model.STANDARD, n=1):
    encoder = Told(tuple(map(tuple, output)))
    image = jnp.broadcast_to(jnp.array(X).reshape(1, 2, 2, 1), (n, 2, 2, 1))
    variables = {"encoder": encoder.init(KEY, image, train=True), "decoder": {"params": {"w": jnp.array(W)}}}
    step = vae.make_eval_step(
        encoder, Linear(), likelihood=variational.gaussian, num_samples=k, posterior=posterior, prior=prior
    )
    return jax.jit(step)(variables, {"image": image}, KEY)


@pytest.mark.usefixtures("double_precision")
def test_the_linear_vae_is_probabilistic_pca_to_its_published_digits():
    """Lucas et al. 2019: the exact posterior has a full covariance, and the gap of the best diagonal one a formula."""
    exact = entries_of(np.linalg.cholesky(np.linalg.inv(PRECISION)))
    found = evaluated((EXACT_MEAN, exact), posteriors.Cholesky(), 3)
    assert float(found["importance_weighted_bound"][0]) == pytest.approx(LOG_PX, abs=1e-9)
    assert float(found["rate"][0]) == pytest.approx(1.873800359, abs=1e-8)
    diagonal = -np.log(np.diag(PRECISION))
    numbers = evaluated((EXACT_MEAN, diagonal), posteriors.Diagonal(), 20_000, n=1)
    gap = 0.5 * (np.log(np.diag(PRECISION)).sum() - np.linalg.slogdet(PRECISION)[1])
    assert gap == pytest.approx(0.049367420343, abs=1e-10)
    assert LOG_PX - gap == pytest.approx(-4.041943587820, abs=1e-9)
    assert float(numbers["elbo"][0]) == pytest.approx(LOG_PX - gap, abs=0.03)
    # The distortion of a Gaussian posterior in closed form, so that the ELBO has all its digits.
    error = np.sum((X - MU - W @ EXACT_MEAN) ** 2) + np.sum(W**2 @ np.exp(diagonal))
    distortion = 2 * math.log(2 * math.pi * NOISE) + error / (2 * NOISE)
    assert -distortion - float(numbers["rate"][0]) == pytest.approx(LOG_PX - gap, abs=1e-6)


# ---------------------------------------------------------------------------------------------------- posteriors


@pytest.mark.usefixtures("double_precision")
def test_a_full_covariance_has_the_density_of_scipy_and_its_draws_the_covariance():
    rng = np.random.default_rng(0)
    factor = np.tril(rng.normal(size=(3, 3)), -1) + np.diag([0.5, 1.5, 1.0])
    mean = rng.normal(size=3)
    q = posteriors.Cholesky()
    output = q.read((jnp.array([mean]), jnp.array([entries_of(factor)])))
    draws = jax.jit(lambda output: q(output, DRAW, 20_000))(output)
    law = scipy.stats.multivariate_normal(mean, factor @ factor.T)
    np.testing.assert_allclose(draws.log_q[0, :50], law.logpdf(draws.z[0, :50]), rtol=1e-9)
    np.testing.assert_allclose(q.log_prob(output, draws.z)[0, :50], draws.log_q[0, :50], rtol=1e-9)
    np.testing.assert_allclose(np.cov(draws.z[0].T), factor @ factor.T, atol=0.06)
    log_ratio = priors.StandardNormal().log_prob(draws.z) - draws.log_q
    kl = float(q.kl(output, priors.StandardNormal())[0, 0])
    assert -float(log_ratio.mean()) == pytest.approx(kl, abs=4 * float(log_ratio.std()) / 20_000**0.5)


FLOWS = {
    "planar": posteriors.Flow(flows.Planar(3)),
    "autoregressive": posteriors.Flow(flows.Autoregressive(3, length=2, width=8, context=4)),
    "couplings": posteriors.Flow(flows.Couplings(3, length=3, width=8, context=4)),
}


def with_flow(posterior, seed=0):
    """(bound posterior, output) with numbers that are far from the identity."""
    rng = np.random.default_rng(seed)
    output = tuple(jnp.array(rng.normal(size=(2, n))) for n in posterior.sizes(3))
    variables = posterior.init(KEY, output, DRAW, 1)
    moved = jax.tree.map(lambda x: x + 0.4 * jnp.array(rng.normal(size=x.shape)), variables)
    return posterior.bind(moved), posterior.read(output), moved


@pytest.mark.slow
@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("posterior", FLOWS.values(), ids=FLOWS)
def test_a_flows_log_determinant_is_that_of_its_jacobian(posterior):
    q, output, _ = with_flow(posterior)
    context = [c[0] for c in output[2:]]
    z = jnp.array([0.3, -1.2, 0.8])
    jacobian = jax.jacfwd(lambda z: q.flow(z, *context)[0])(z)
    found, log_det = q.flow(z, *context)
    assert float(log_det) == pytest.approx(np.linalg.slogdet(jacobian)[1], abs=1e-10)
    assert abs(float(log_det)) > 0.05
    draws = q(output, DRAW, 5)
    base = scipy.stats.norm.logpdf(draws.noise).sum(-1) - 0.5 * np.asarray(output[1]).sum(-1)[:, None]
    start = posteriors.reparameterize(output[0][:, None], output[1][:, None], draws.noise)
    expected = base - q.flow(start, *(c[:, None] for c in output[2:]))[1]
    np.testing.assert_allclose(draws.log_q, expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("double_precision")
def test_couplings_are_inverted_and_an_autoregressive_unit_sees_only_those_before_it():
    q, output, _ = with_flow(FLOWS["couplings"])
    draws = q(output, DRAW, 4)
    np.testing.assert_allclose(q.log_prob(output, draws.z), draws.log_q, rtol=1e-9)
    one = flows.Autoregressive(4, length=1, width=9, context=2)
    variables = one.init(KEY, jnp.ones(4), jnp.ones(2))
    jacobian = jax.jacfwd(lambda z: one.apply(variables, z, jnp.ones(2))[0])(jnp.array([0.1, -0.4, 0.7, 1.0]))
    assert np.all(np.triu(jacobian[::-1], 1) == 0) and np.all(np.diag(jacobian[::-1]) != 0)
    assert np.all(np.tril(jacobian[::-1], -1)[np.tril_indices(4, -1)] != 0)


@pytest.mark.parametrize("name", ["planar", "autoregressive"])
def test_a_flow_without_inverse_says_so(name):
    q, output, _ = with_flow(FLOWS[name])
    with pytest.raises(ValueError, match="take couplings"):
        q.log_prob(output, jnp.zeros((2, 1, 3)))


@pytest.mark.usefixtures("double_precision")
def test_the_von_mises_fisher_law_has_its_published_divergence_and_integrates_to_one():
    for d, kappa, published in ((3, 1.0, 0.1515959239), (3, 10.0, 1.9957323168), (10, 10.0, 2.4844695868)):
        assert float(vmf.kl_to_uniform(jnp.array(kappa), d)) == pytest.approx(published, abs=1e-9)
    angle = np.linspace(0, math.pi, 20_001)
    for d, kappa in ((2, 0.7), (2, 300.0), (3, 5.0), (12, 2.0), (50, 400.0)):
        ring = np.exp(vmf.log_area(d - 1)) * np.sin(angle) ** (d - 2)
        density = np.exp(vmf.log_prob(jnp.cos(angle), jnp.array(kappa), d)) * ring
        assert np.trapezoid(density, angle) == pytest.approx(1, abs=2e-7)
        x = scipy.special.ive(d / 2, kappa) / scipy.special.ive(d / 2 - 1, kappa)
        assert float(vmf.mean_cosine(jnp.array(kappa), d)) == pytest.approx(x, rel=1e-9)
        normalizer = scipy.stats.vonmises_fisher(np.eye(d)[0], kappa).logpdf(np.eye(d)[0]) - kappa
        assert float(vmf.log_normalizer(jnp.array(kappa), d)) == pytest.approx(normalizer, rel=1e-8)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("d", "kappa"), [(2, 3.0), (10, 15.0)])
@pytest.mark.slow
def test_draws_on_the_sphere_have_the_law_and_the_derivative_of_its_mean(d, kappa):
    """E cos is the derivative of log Z, and so d E cos / d kappa its second derivative, which draws must follow."""
    n = 3000
    proposed = vmf.proposals(KEY, (n,), d)
    kappa = jnp.array(kappa)
    w, slope = jax.jit(
        lambda kappa: jax.jvp(lambda k: vmf.cosine(proposed, jnp.full(n, k), d), (kappa,), (jnp.ones(()),))
    )(kappa)
    for found, expected in (
        (w, vmf.mean_cosine(kappa, d)),
        (slope, jax.grad(lambda k: vmf.mean_cosine(k, d))(kappa)),
        (2 * w * slope, jax.grad(lambda k: second_moment(k, d))(kappa)),
    ):
        assert float(found.mean()) == pytest.approx(float(expected), abs=4.5 * float(found.std()) / n**0.5)
    q = posteriors.VonMisesFisher()
    output = q.read((jnp.ones((1, d)), jnp.full((1, 1), 0.3)))
    draws = q(output, DRAW, 100)
    np.testing.assert_allclose(np.linalg.norm(draws.z, axis=-1), 1, rtol=1e-6)


def second_moment(kappa, d):
    """E cos^2 = Z'' / Z."""
    mean = vmf.mean_cosine(kappa, d)
    return mean**2 + jax.grad(lambda k: vmf.mean_cosine(k, d))(kappa)


# -------------------------------------------------------------------------------------------------------- priors


@pytest.mark.slow
@pytest.mark.usefixtures("double_precision")
def test_a_vampprior_is_the_mixture_of_the_models_own_posteriors():
    class Encoder(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            flat = x.reshape(x.shape[0], -1)
            return nn.Dense(2)(flat), 0.3 * nn.Dense(2)(flat)

    encoder, prior = Encoder(), priors.VampPrior((2, 2, 1), 3)
    state = vae.init(KEY, encoder, Linear(), optimizer=optax.sgd(0.1), image_shape=(2, 2, 1), prior=prior)
    model = latent_model.for_evaluation(encoder, None, state.ema, posteriors.Diagonal(), prior)
    pseudo = jnp.clip(state.ema["prior"]["params"]["pseudo_inputs"], -1, 1)
    mean, logvar = encoder.apply(state.ema["encoder"], pseudo, train=False)
    z = np.random.default_rng(0).normal(size=(4, 2, 2))
    of_each = scipy.stats.norm.logpdf(z[..., None, :], mean, np.exp(logvar / 2)).sum(-1)
    np.testing.assert_allclose(model.log_prior(z), np.log(np.exp(of_each).mean(-1)), rtol=1e-6)
    drawn = vae.draw_latents(prior, state.ema, KEY, 3000, encoder=encoder)
    np.testing.assert_allclose(drawn.mean(0), mean.mean(0), atol=0.1)
    with pytest.raises(ValueError, match="give the encoder and its posterior"):
        vae.draw_latents(prior, state.ema, KEY, 3)


PRIORS = {
    "standard": priors.StandardNormal(2),
    "learned": priors.LearnedNormal(2),
    "mixture": priors.Mixture(2, 3),
    "flow": priors.Flow(flows.Couplings(2, length=2, width=5), 2),
}


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
@pytest.mark.slow
def test_a_priors_density_is_one_and_is_the_law_of_its_samples(prior):
    rng = np.random.default_rng(1)
    variables = prior.init(KEY, jnp.zeros((1, 2)), method="log_prob")
    variables = jax.tree.map(lambda x: x + 0.3 * jnp.array(rng.normal(size=x.shape)), variables)
    p = prior.bind(variables)
    axis = np.linspace(-8, 8, 321)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    density = np.exp(p.log_prob(jnp.array(grid)))
    assert np.trapezoid(np.trapezoid(density, axis), axis) == pytest.approx(1, abs=1e-4)
    drawn = p.sample(DRAW, 20_000)
    mean = np.einsum("ij,ijk->k", density, grid) * (axis[1] - axis[0]) ** 2
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.05)
    nats = p.log_prob(drawn)
    entropy = -np.sum(np.where(density > 1e-300, density * np.log(np.maximum(density, 1e-300)), 0))
    entropy *= (axis[1] - axis[0]) ** 2
    assert -float(nats.mean()) == pytest.approx(entropy, abs=4 * float(nats.std()) / 20_000**0.5)


# -------------------------------------------------------------------------------------------------------- bounds


def gaussian_weights(params, noise):
    """A model of one latent: p = N(z; 0, 1) N(x; a z, 1), q = N(m, e^s); `log_weights` by parameters (a, m, s)."""
    held, x = jax.lax.stop_gradient, 0.7

    def log_weights(fixed=()):
        a, m, s = params
        z = m + jnp.exp(s / 2) * noise
        z = held(z) if "latents" in fixed else z
        a = held(a) if "model" in fixed else a
        m, s = (held(m), held(s)) if "posterior" in fixed else (m, s)
        log_q = -0.5 * ((z - m) ** 2 * jnp.exp(-s) + s + variational.LOG_2PI)
        return -0.5 * (z**2 + (x - a * z) ** 2) - variational.LOG_2PI - log_q

    return log_weights


PARAMS = tuple(jnp.array(x) for x in (1.3, 0.9, 0.4))


@functools.cache
def gradients_of(name, k=4, n=40_000):
    """(values [n], gradients [n, 3]) of a bound over many draws."""
    bound = {
        "elbo": bounds.elbo,
        "iwae": bounds.iwae,
        "stl": bounds.stl,
        "dreg": bounds.dreg,
        "miwae": bounds.miwae(2),
        "piwae": bounds.piwae(2),
        "ciwae": bounds.ciwae(0.3),
    }[name]
    noise = jax.random.normal(KEY, (n, 1, k))
    one = jax.value_and_grad(lambda p, noise: bound(gaussian_weights(p, noise))[0])
    values, gradients = jax.jit(jax.vmap(one, (None, 0)))(PARAMS, noise)
    return np.asarray(values), np.stack(gradients, axis=-1)


def agree(a, b, columns=slice(None)):
    """Whether two estimates of one expectation, from the same draws, differ by no more than chance."""
    difference = (a - b)[:, columns]
    error = difference.std(0) / len(a) ** 0.5
    return bool(np.all(np.abs(difference.mean(0)) < 4.5 * error + 1e-9))


def test_iwae_is_log_mean_exp_and_rises_with_k_in_expectation():
    found = gradients_of("iwae", 4)[0]
    noise = jax.random.normal(KEY, (40_000, 1, 4))
    weights = np.exp(np.asarray(gaussian_weights(PARAMS, noise)(), np.float64))[:, 0]
    np.testing.assert_allclose(found, np.log(weights.mean(1)), rtol=1e-4, atol=1e-5)
    exact = scipy.stats.norm.logpdf(0.7, 0, math.sqrt(1 + 1.3**2))
    means = [gradients_of("iwae", k)[0].mean() for k in (1, 2, 4)]
    assert gradients_of("elbo", 4)[0].mean() < means[1] < means[2] < exact and means[0] < means[1]


def test_sticking_the_landing_has_the_gradient_of_the_elbo_in_expectation_and_none_at_the_exact_posterior():
    _, plain = gradients_of("elbo")
    _, found = gradients_of("stl")
    assert agree(plain, found) and not np.allclose(plain, found)
    a = 1.3
    exact = (jnp.array(a), jnp.array(a * 0.7 / (1 + a**2)), jnp.array(-math.log(1 + a**2)))
    noise = jax.random.normal(KEY, (1, 6))
    gradient = jax.grad(lambda p: bounds.stl(gaussian_weights(p, noise))[0])(exact)
    assert abs(float(gradient[1])) < 1e-5 and abs(float(gradient[2])) < 1e-5
    plain = jax.grad(lambda p: bounds.elbo(gaussian_weights(p, noise))[0])(exact)
    assert abs(float(plain[2])) > 1e-3


def test_double_reparameterisation_has_the_gradient_of_iwae_with_less_variance():
    values, plain = gradients_of("iwae")
    of_dreg, found = gradients_of("dreg")
    np.testing.assert_allclose(of_dreg, values, rtol=1e-6)
    assert agree(plain, found)
    np.testing.assert_allclose(plain[:, 0], found[:, 0], rtol=1e-4, atol=1e-5)  # the model's is the same
    assert np.all(found[:, 1:].var(0) < 0.8 * plain[:, 1:].var(0))
    assert not agree(plain, gradients_of("elbo")[1])


def test_bounds_between_are_what_their_names_say():
    values = {name: gradients_of(name) for name in ("elbo", "iwae", "miwae", "ciwae", "piwae")}
    weights = np.asarray(gaussian_weights(PARAMS, jax.random.normal(KEY, (40_000, 1, 4)))())[:, 0]
    pairs = np.log(np.exp(weights.reshape(-1, 2, 2)).mean(2)).mean(1)
    np.testing.assert_allclose(values["miwae"][0], pairs, rtol=1e-4, atol=1e-5)
    mixed = 0.3 * values["elbo"][0] + 0.7 * values["iwae"][0]
    np.testing.assert_allclose(values["ciwae"][0], mixed, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values["piwae"][0], values["iwae"][0], rtol=1e-6)
    np.testing.assert_allclose(values["piwae"][1][:, 0], values["iwae"][1][:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values["piwae"][1][:, 1:], values["miwae"][1][:, 1:], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="4 samples cannot be divided into 3 groups"):
        bounds.miwae(3)(gaussian_weights(PARAMS, jnp.zeros((1, 4))))
    with pytest.raises(ValueError, match="between 0 and 1"):
        bounds.ciwae(1.5)


# ------------------------------------------------------------------------------------------- in the step of the VAE

IMAGES = np.where(np.random.default_rng(0).random((6, 2, 2, 1)) < 0.4, 1.0, -1.0).astype(np.float32)
BATCH = {"image": IMAGES}


class Heads(nn.Module):
    """Images -> as many arrays as a posterior reads."""

    sizes: tuple

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.tanh(nn.Dense(4)(x.reshape(x.shape[0], -1)))
        found = tuple(nn.Dense(n)(x) for n in self.sizes)
        return found if len(found) > 1 else found[0]


class Logits(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        return nn.Dense(4)(nn.tanh(nn.Dense(4)(z))).reshape(-1, 2, 2, 1)


def make(posterior=latent_model.DIAGONAL, prior=latent_model.STANDARD, d=3, optimizer=None, **options):
    """(state, step)."""
    modules, parts = (Heads(posterior.sizes(d)), Logits()), {"posterior": posterior, "prior": prior}
    optimizer = optimizer or optax.sgd(1.0)
    state = vae.init(KEY, *modules, optimizer=optimizer, image_shape=(2, 2, 1), **parts)
    return state, vae.make_train_step(*modules, optimizer=optimizer, **parts, **options), modules


def moved(state, step):
    """Largest change of each network in a step."""
    new, metrics = jax.jit(step)(state, BATCH, KEY)
    largest = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), new.network.params, state.network.params)
    return {name: max(jax.tree.leaves(part)) for name, part in largest.items()}, metrics


@pytest.mark.slow
def test_what_is_fixed_has_no_gradient_at_all():
    for fixed, still in (
        (("posterior", "latents"), ("encoder", "posterior")),
        (("model",), ("decoder", "prior")),
        (("posterior", "latents", "model"), ("encoder", "posterior", "decoder", "prior")),
    ):
        state, step, _ = make(
            posteriors.Flow(flows.Couplings(3, length=1, width=2)),
            priors.LearnedNormal(3),
            num_samples=2,
            bound=lambda log_weights, fixed=fixed: jnp.mean(log_weights(fixed=fixed), axis=1),
        )
        changes, _ = moved(state, step)
        assert {name for name, change in changes.items() if change == 0} == set(still)


@pytest.mark.slow
def test_bounds_see_the_same_weights_whatever_is_fixed():
    values = {}
    for name, bound in (("plain", bounds.iwae), ("dreg", bounds.dreg), ("piwae", bounds.piwae(2))):
        state, step, _ = make(num_samples=4, bound=bound)
        values[name] = {k: float(v) for k, v in jax.jit(step)(state, BATCH, KEY)[1].items()}
    for name in ("dreg", "piwae"):
        assert values[name]["loss"] == pytest.approx(values["plain"]["loss"], rel=1e-5)
    assert values["plain"]["loss"] == pytest.approx(-values["plain"]["importance_weighted_bound"], rel=1e-6)
    state, step, _ = make(num_samples=4, importance_weighted=True)
    assert float(jax.jit(step)(state, BATCH, KEY)[1]["loss"]) == values["plain"]["loss"]


PAIRS = {
    "cholesky": (posteriors.Cholesky(), priors.LearnedNormal(3)),
    "sphere": (posteriors.VonMisesFisher(), priors.UniformOnSphere(3)),
    "planar": (FLOWS["planar"], priors.StandardNormal(3)),
    "autoregressive": (FLOWS["autoregressive"], priors.Mixture(3, 2)),
    "couplings": (FLOWS["couplings"], priors.Flow(flows.Couplings(3, width=4), 3)),
    "pseudo-inputs": (posteriors.Diagonal(), priors.VampPrior((2, 2, 1), 3)),
}


SLOW = {"planar", "autoregressive"}  # their law is tested above, and their compilation takes long


@pytest.mark.parametrize(
    "pair", [pytest.param(pair, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, pair in PAIRS.items()]
)
@pytest.mark.slow
def test_each_posterior_and_prior_is_trained_measured_and_drawn_from(pair):
    state, step, modules = make(*pair, num_samples=2, importance_weighted=True)
    changes, metrics = moved(state, step)
    assert all(change > 0 for change in changes.values()) and np.isfinite(float(metrics["loss"]))
    parts = {"posterior": pair[0], "prior": pair[1]}
    bound = {}
    for module in (vae, likelihood) if pair == PAIRS["cholesky"] else (likelihood,):
        evaluate = jax.jit(module.make_eval_step(*modules, num_samples=100, **parts))
        found = evaluate(state.ema, BATCH, KEY)
        assert found["posterior_mean"].shape == (6, 3)
        np.testing.assert_allclose(found["kl_per_unit"].sum(1), found["rate"], rtol=1e-5, atol=1e-6)
        bound[module] = float(found["importance_weighted_bound"].mean())
        assert found["elbo"].mean() < bound[module] < math.log(2) * 4 + 0.1
    assert bound.get(vae, bound[likelihood]) == pytest.approx(bound[likelihood], abs=0.3)
    z = vae.draw_latents(pair[1], state.ema, KEY, 4, encoder=modules[0], posterior=pair[0])
    assert vae.sample(modules[1], state.ema, z).shape == (4, 2, 2, 1)
    assert vae.reconstruct(*modules, state.ema, IMAGES, posterior=pair[0]).shape == IMAGES.shape


def test_a_rate_that_draws_make_negative_counts_as_it_is():
    """Of a mixture the rate is log q(z) - log p(z) of draws: below 0 in some batches of one image."""
    state, step, _ = make(posteriors.Diagonal(), priors.Mixture(3, 2))
    one_image = {name: x[:1] for name, x in BATCH.items()}
    _, found = jax.jit(jax.vmap(step, (None, None, 0)))(state, one_image, jax.random.split(KEY, 64))
    found = [{name: float(x[i]) for name, x in found.items()} for i in range(64)]
    negative = [metrics for metrics in found if metrics["rate"] < 0]
    assert 0 < len(negative) < 64
    for metrics in negative:
        assert metrics["loss"] == pytest.approx(metrics["distortion"] + metrics["rate"], rel=1e-6)


# --------------------------------------------------------------------------------------------------------- terms


@pytest.mark.usefixtures("double_precision")
def test_stratified_weights_are_unbiased_over_all_batches_of_a_small_data_set():
    """N = 7, B = 4: every batch that holds an image, and every place that it can have in it."""
    rng = np.random.default_rng(0)
    n, size = 7, 4
    density = rng.uniform(0.1, 2.0, (n, n))  # q(z_i | x_j)
    weights = np.exp(latent.stratified_log_weights(size, n))
    for place in range(size):
        totals, counts = np.zeros(n), np.zeros(n)
        for batch in itertools.permutations(range(n), size):
            i = batch[place]
            totals[i] += weights[place] @ density[i, list(batch)]
            counts[i] += 1
        np.testing.assert_allclose(totals / counts / density.mean(1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="2 to N are needed"):
        latent.stratified_log_weights(8, 7)


@pytest.mark.usefixtures("double_precision")
def test_the_total_correlation_of_a_whole_data_set_is_exact():
    rng = np.random.default_rng(3)
    mean, logvar, z = (rng.normal(size=(5, 2)) for _ in range(3))
    q = scipy.stats.norm.pdf(z[:, None], mean, np.exp(logvar / 2))
    expected = np.mean(np.log(q.prod(-1).mean(1)) - np.log(q.mean(1)).sum(-1))
    assert float(latent.total_correlation_of(z, mean, logvar, 5)) == pytest.approx(expected, rel=1e-6)


def test_mmd_between_two_samples_of_one_law_is_zero_in_expectation_and_positive_for_others():
    def one(key, shift):
        x, y = jax.random.normal(key, (2, 8, 3))
        return latent.mmd_of(x + shift, y), latent.mmd_of(x + shift, y, latent.rbf)

    keys = jax.random.split(KEY, 4000)
    for found in jax.jit(jax.vmap(lambda key: one(key, 0.0)))(keys):
        assert abs(float(found.mean())) < 4 * float(found.std()) / 4000**0.5
        assert float(found.min()) < 0
    for found in jax.jit(jax.vmap(lambda key: one(key, 1.0)))(keys):
        assert float(found.mean()) > 20 * float(found.std()) / 4000**0.5


def seen_of(**told):
    known = dict.fromkeys(latent.Seen._fields) | told
    return latent.Seen(**known)


def test_dip_penalises_the_covariance_of_means_or_of_latents():
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=(2, 9, 3)).astype(np.float32)
    seen = seen_of(posterior=posteriors.Posterior(jnp.array(mean), jnp.array(logvar)))
    for kind in (1, 2):
        c = np.cov(mean.T, bias=True) + (kind == 2) * np.diag(np.exp(logvar).mean(0))
        expected = 3 * (np.sum(c**2) - np.sum(np.diag(c) ** 2)) + 2 * np.sum((np.diag(c) - 1) ** 2)
        assert float(latent.dip(3.0, 2.0, kind).value(seen)) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="kind 1"):
        latent.dip(1.0, 1.0, 3)
    with pytest.raises(ValueError, match="diagonal Gaussian posterior"):
        latent.dip(1.0, 1.0).value(seen_of(posterior=jnp.ones((4, 2))))


def test_the_capacity_is_the_distance_of_the_rate_and_the_slope_the_frobenius_norm():
    rate = jnp.array([1.0, 4.0])
    assert float(latent.capacity(5.0, lambda step: 0.5 * step).value(seen_of(rate=rate, step=2))) == 1.5
    with pytest.raises(ValueError, match="has none"):
        latent.capacity(5.0, 1.0).value(seen_of())
    a = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    n = 20_000
    seen = seen_of(
        z=jnp.zeros((n, 3)),
        images=lambda z: (z @ a.T).reshape(-1, 2, 2, 1),
        key=KEY,
        batch={"image": jnp.zeros((n, 2, 2, 1))},
    )
    assert float(latent.decoder_slope(1.0).value(seen)) == pytest.approx(np.sum(a**2), rel=0.05)


TERMS = (
    latent.total_correlation(1.0, num_examples=100),
    latent.dip(1.0, 1.0),
    latent.mmd(10.0),
    latent.decoder_slope(0.5),
)


@pytest.mark.slow
def test_terms_see_the_batch_of_all_devices():
    from jaxgen import sharding

    found = {}
    for axis_name in (None, sharding.AXIS):
        state, step, _ = make(
            prior=priors.StandardNormal(3), terms=TERMS, axis_name=axis_name, optimizer=optax.sgd(0.1)
        )
        run = (
            sharding.pmap_step(step, num_devices=2)
            if axis_name
            else sharding.jit_step(step, sharding.make_mesh(2), donate=False)
        )
        found[axis_name] = jax.device_get(run(state, BATCH, KEY))
    close(found[sharding.AXIS][0].network.params, found[None][0].network.params, rtol=1e-4, atol=1e-6)
    close(found[sharding.AXIS][1], found[None][1], rtol=1e-4, atol=1e-6)


def test_a_deterministic_autoencoder_has_a_distortion_and_its_terms():
    terms = (latent.latent_size(0.5), latent.decoder_size(0.1), latent.fitted_prior())
    state, step, modules = make(posteriors.Point(), priors.Mixture(3, 2), terms=terms)
    changes, m = moved(state, step)
    assert all(change > 0 for change in changes.values()) and not {"elbo", "rate"} & set(m)
    expected = m["distortion"] + 0.5 * m["latent_size"] + 0.1 * m["decoder_size"] + m["prior_nll"]
    assert float(m["loss"]) == pytest.approx(float(expected), rel=1e-6)
    rows = vae.make_eval_step(*modules, posterior=posteriors.Point(), prior=priors.Mixture(3, 2))(state.ema, BATCH, KEY)
    assert set(vae.summarize(rows)) == {"distortion", "active_units"}


# -------------------------------------------------------------------------------------------------------- errors


@pytest.mark.slow
def test_what_has_no_meaning_is_refused_in_a_sentence():
    for told, message in (
        (dict(bound=bounds.iwae, importance_weighted=True), "give one of them"),
        (dict(bound=bounds.dreg, beta=2.0), "the bound dreg is defined for beta = 1"),
        (dict(terms=(latent.mmd(1.0), latent.mmd(2.0))), "a name of its own"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**told)
    for told, message in (
        (dict(bound="iwae"), "bound=bounds.iwae"),
        (dict(terms=(1.0,)), "terms are of losses.latent"),
    ):
        with pytest.raises(TypeError, match=message):
            make(**told)
    state, step, _ = make(posteriors.Point(), bound=bounds.iwae)
    with pytest.raises(ValueError, match="has no importance weights"):
        jax.eval_shape(step, state, BATCH, KEY)
    with pytest.raises(ValueError, match="needs latent_dim of 2 or more, not 1"):
        make(posteriors.VonMisesFisher(), priors.UniformOnSphere(1), d=1)
    state, step, _ = make(bound=lambda log_weights: jnp.mean(log_weights(fixed="model"), axis=1))
    with pytest.raises(ValueError, match="fixed names some of"):
        jax.eval_shape(step, state, BATCH, KEY)
    with pytest.raises(ValueError, match="has 6 entries, not 5"):
        posteriors.Cholesky().read((jnp.zeros((2, 3)), jnp.zeros((2, 5))))
