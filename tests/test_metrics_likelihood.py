import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from flax import linen as nn

from jaxgen import vae
from jaxgen.losses import variational
from jaxgen.metrics import likelihood
from jaxgen.metrics.double_precision import double_precision
from jaxgen.models import mlp

pytestmark = pytest.mark.usefixtures("fast_compilation")  # the time of this file is XLA's

KEY = jax.random.key(0)
SHAPE = (2, 2, 1)
ENCODER, DECODER = mlp.Encoder(latent_dim=2, widths=(8,)), mlp.BernoulliDecoder(image_shape=SHAPE, widths=(8,))
IMAGES = np.where(np.random.default_rng(0).random((12, *SHAPE)) < 0.4, 1.0, -1.0).astype(np.float32)


@functools.cache
def variables():
    # A decoder at its initialisation hardly uses its latents: larger weights do. Posteriors much narrower than priors
    # would give importance weights without a variance, and no bound would converge: smaller weights for the encoder.
    state = vae.init(jax.random.key(3), ENCODER, DECODER, optimizer=optax.sgd(0.1), image_shape=SHAPE)
    scale = {"encoder": 0.4, "decoder": 2.0}
    return {name: jax.tree.map(lambda x, name=name: scale[name] * x, state.ema[name]) for name in scale}


def log_marginal(images):
    """log p(x) of the small model by quadrature over its two latents, in float64."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    log_weight = np.log(np.outer(weights, weights).ravel() / (2 * math.pi))
    logits = np.asarray(DECODER.apply(variables()["decoder"], z, train=False), np.float64).reshape(len(z), -1)
    x = (images.reshape(len(images), 1, -1) + 1) / 2
    log_px = np.sum(x * logits - np.logaddexp(0, logits), axis=-1)
    return scipy.special.logsumexp(log_px + log_weight, axis=1)


def evaluate(images=IMAGES, batch_size=12, **options):
    options = {"split": "test", "binarisation": "none", "num_samples": 30, "chunk_size": 10} | options
    batches = ({"image": images[i : i + batch_size]} for i in range(0, len(images), batch_size))
    return likelihood.evaluate(ENCODER, DECODER, variables(), batches, KEY, **options)


def eval_step(**options):
    return jax.jit(likelihood.make_eval_step(ENCODER, DECODER, **options))(variables(), {"image": IMAGES}, KEY)


# ----------------------------------------------------------------------------------------------- the bound is one


def test_the_bound_rises_with_k_from_the_elbo_to_the_logarithm_of_the_marginal_likelihood():
    exact = log_marginal(IMAGES)
    bounds = [
        np.asarray(eval_step(num_samples=k, chunk_size=500)["importance_weighted_bound"]) for k in (1, 20, 20_000)
    ]
    np.testing.assert_allclose(bounds[2], exact, atol=0.02)
    assert bounds[0].mean() < bounds[1].mean() < exact.mean()
    elbo = np.asarray(eval_step(num_samples=20_000, chunk_size=500)["elbo"])
    assert (elbo < exact).all()
    assert exact.mean() - elbo.mean() > 0.05  # so that the rise means something


def test_every_sum_over_chunks_is_the_same_bound():
    whole = eval_step(num_samples=23, chunk_size=23)
    for chunk_size in (1, 5, 22, 100):
        parts = eval_step(num_samples=23, chunk_size=chunk_size)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5), parts, whole)


@pytest.mark.slow
def test_chunks_agree_with_log_mean_exp_at_extreme_weights():
    log_weights = jnp.array([[-1e4, 3.0, -jnp.inf, 80.0, 1.0], [-1e4, -2.0, -jnp.inf, 81.0, jnp.nan]]).repeat(4, 0)
    expected = scipy.special.logsumexp(np.asarray(log_weights, np.float64), axis=0) - math.log(8)
    for chunk_size in (1, 3, 8):
        bound = likelihood.importance_weighted_bound(lambda i: log_weights[i], 8, chunk_size=chunk_size)
        np.testing.assert_allclose(bound, expected, rtol=1e-6)  # NaN stays NaN, and log 0 is minus infinity


def test_its_numbers_are_those_of_the_eval_step_of_the_family():
    ours = eval_step(num_samples=4000, chunk_size=400)
    theirs = vae.make_eval_step(ENCODER, DECODER, num_samples=4000)
    theirs = jax.jit(theirs)(variables(), {"image": IMAGES}, jax.random.key(1))
    assert ours.keys() == theirs.keys()
    for name in ours:
        exact = name in ("rate", "kl_per_unit", "posterior_mean")
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5 if exact else 0, atol=1e-6 if exact else 0.15)


def test_a_whole_data_set_has_the_means_of_its_images_with_what_they_depend_on():
    result = evaluate(batch_size=5)
    exact = -log_marginal(IMAGES).mean()
    assert result["nll"] == -result["importance_weighted_bound"] == pytest.approx(exact, abs=0.1)
    assert result["elbo"] == pytest.approx(-result["distortion"] - result["rate"], rel=1e-6)
    assert result["rate"] == pytest.approx(sum(result["kl_per_unit"]), rel=1e-6)
    mean, logvar = ENCODER.apply(variables()["encoder"], IMAGES, train=False)
    mean, variance = np.asarray(mean, np.float64), np.exp(np.asarray(logvar, np.float64))
    np.testing.assert_allclose(
        result["kl_per_unit"], np.mean(0.5 * (mean**2 + variance - 1 - np.log(variance)), axis=0), rtol=1e-4
    )
    assert result["active_units"] == np.sum(mean.var(axis=0) > 0.01)
    stated = {name: result[name] for name in ("num_samples", "num_examples", "dims", "split", "binarisation")}
    assert stated == {"num_samples": 30, "num_examples": 12, "dims": 4, "split": "test", "binarisation": "none"}


def test_the_stratified_estimate_of_the_aggregate_posterior_is_exact_for_the_whole_data_set():
    rng = np.random.default_rng(1)
    z, mean, logvar = rng.normal(size=(3, 7, 2))
    log_q = scipy.stats.norm.logpdf(z[:, None], mean, np.exp(logvar / 2)).sum(-1)
    expected = scipy.special.logsumexp(log_q, axis=1) - math.log(7)
    np.testing.assert_allclose(likelihood.log_aggregate_posterior(z, mean, logvar, num_examples=7), expected, rtol=1e-5)


# ------------------------------------------------------------- ten defects of well-known code, which ours must not have


@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 2.0])
def test_defect_1_the_discretized_logistic_loses_or_invents_mass_at_its_edges(log_scale):
    values = np.arange(256, dtype=np.float32).reshape(-1, 1, 1, 1) / 127.5 - 1
    for mean in (-1.3, -1.0, -0.995, 0.0, 0.993, 1.0):
        output = (jnp.full(values.shape, mean), jnp.full(values.shape, log_scale))
        mass = np.exp(np.asarray(variational.discretized_logistic.log_prob(output, values), np.float64))
        assert mass.sum() == pytest.approx(1, abs=1e-4)


def test_defect_2_the_stratified_weight_of_an_image_itself_is_in_another_column():
    rng = np.random.default_rng(2)
    n, size = 5, 3
    mean, logvar = rng.normal(size=(2, n, 2)) * 2
    z = mean + np.exp(logvar / 2) * rng.normal(size=(n, 2))
    log_q = scipy.stats.norm.logpdf(z[:, None], mean, np.exp(logvar / 2)).sum(-1)
    exact = np.exp(log_q).mean(1)
    estimates = np.zeros((n, 0)).tolist()
    for batch in map(list, itertools.permutations(range(n), size)):  # every batch without repetition
        log_estimate = likelihood.log_aggregate_posterior(z[batch], mean[batch], logvar[batch], num_examples=n)
        for i, value in zip(batch, np.exp(log_estimate), strict=True):
            estimates[i].append(value)
    np.testing.assert_allclose(np.mean(estimates, axis=1), exact, rtol=1e-5)


def test_defect_3_the_log_weights_have_their_sign_flipped_or_the_value_is_a_surrogate():
    log_weights = jnp.log(jnp.array([[1.0], [2.0], [6.0]]))
    assert float(likelihood.importance_weighted_bound(lambda i: log_weights[i], 3)[0]) == pytest.approx(math.log(3))
    step = vae.make_train_step(ENCODER, DECODER, optimizer=optax.sgd(0.0), num_samples=500, importance_weighted=True)
    state = vae.init(jax.random.key(3), ENCODER, DECODER, optimizer=optax.sgd(0.0), image_shape=SHAPE)
    state = state.replace(network=state.network.replace(params={name: v["params"] for name, v in variables().items()}))
    _, metrics = jax.jit(step)(state, {"image": IMAGES}, KEY)
    assert -float(metrics["loss"]) == pytest.approx(log_marginal(IMAGES).mean(), abs=0.03)


def test_defect_4_the_nll_has_the_sign_of_the_log_likelihood():
    assert evaluate()["nll"] > 0  # of binary pixels, whose probabilities are at most 1


@pytest.mark.parametrize(("k", "chunk_size"), [(1, 10), (7, 3), (13, 5), (12, 12)])
def test_defect_4_k_is_rounded_to_whole_batches(k, chunk_size):
    class Counting(nn.Module):
        """A decoder that remembers every latent that it decodes."""

        @nn.compact
        def __call__(self, z, *, train):
            jax.debug.callback(lambda z: seen.append(np.asarray(z)), z)
            return DECODER.apply(variables()["decoder"], z, train=train)

    seen = []
    step = likelihood.make_eval_step(ENCODER, Counting(), num_samples=k, chunk_size=chunk_size)
    jax.block_until_ready(jax.jit(step)(variables() | {"decoder": {}}, {"image": IMAGES}, KEY))
    jax.effects_barrier()
    latents = np.concatenate([z.reshape(-1, 2) for z in seen])
    assert len(np.unique(latents, axis=0)) == len(latents) == k * len(IMAGES)  # each drawn, none twice
    constant = likelihood.importance_weighted_bound(lambda i: jnp.full((len(i), 1), -5.0), k, chunk_size=chunk_size)
    assert float(constant[0]) == pytest.approx(-5, rel=1e-6)  # and it is k that divides


def test_defect_6_the_rate_is_a_sum_over_the_batch_or_has_a_hidden_weight():
    def metrics_of(images):
        optimizer = optax.sgd(0.1)
        state = vae.init(jax.random.key(3), ENCODER, DECODER, optimizer=optimizer, image_shape=SHAPE)
        _, metrics = jax.jit(vae.make_train_step(ENCODER, DECODER, optimizer=optimizer))(state, {"image": images}, KEY)
        return {name: float(value) for name, value in metrics.items()}

    once, thrice = metrics_of(IMAGES), metrics_of(np.tile(IMAGES, (3, 1, 1, 1)))
    assert thrice["rate"] == pytest.approx(once["rate"], rel=1e-5)
    assert once["loss"] == pytest.approx(-once["elbo"], rel=1e-6)  # by default the loss is the bound
    assert once["rate"] > 0


def test_defect_7_bits_per_dim_are_per_padded_pixel():
    padded, real = evaluate(), evaluate(dims=3)
    assert padded["bits_per_dim"] == pytest.approx(padded["nll"] / (4 * math.log(2)), rel=1e-6)
    assert real["bits_per_dim"] == pytest.approx(real["nll"] / (3 * math.log(2)), rel=1e-6)
    assert (padded["dims"], real["dims"]) == (4, 3)
    for dims in (0, 5):
        with pytest.raises(ValueError, match="dims must be from 1 to the 4 sub-pixels"):
            evaluate(dims=dims)


def test_defect_8_nobody_says_which_split_was_evaluated():
    with pytest.raises(TypeError, match="split"):
        likelihood.evaluate(ENCODER, DECODER, variables(), [{"image": IMAGES}], KEY, binarisation="none")
    assert evaluate(split="validation")["split"] == "validation"


def test_defect_9_the_step_is_not_compiled_or_samples_are_no_probabilities():
    traces = []

    class Tracing(nn.Module):
        @nn.compact
        def __call__(self, z, *, train):
            traces.append(z.shape)
            return DECODER.apply(variables()["decoder"], z, train=train)

    batches = [{"image": IMAGES}] * 5
    likelihood.evaluate(
        ENCODER,
        Tracing(),
        variables() | {"decoder": {}},
        batches,
        KEY,
        split="test",
        binarisation="none",
        num_samples=20,
        chunk_size=10,
    )
    assert len(traces) == 1  # one trace for five batches of two chunks
    means = variational.bernoulli.mean(jnp.array([-50.0, 0.0, 50.0]).reshape(3, 1, 1, 1))
    np.testing.assert_allclose(means.ravel(), [-1, 0, 1], atol=1e-6)


def test_defect_10_a_bernoulli_likelihood_is_taken_of_grey_levels():
    grey = IMAGES.copy()
    grey[7, 0, 0, 0] = 0.5
    with pytest.raises(ValueError, match="batch 1 has values between -1 and 1: binarise the data, and name the rule"):
        evaluate(grey, batch_size=6)


# --------------------------------------------------------------------------------------------------------- bad input


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="no images to evaluate"):
        evaluate(IMAGES[:0])
    with pytest.raises(ValueError, match="at least 1, not 0 and 10"):
        evaluate(num_samples=0)
    with pytest.raises(ValueError, match="at least 1, not 3 and 0"):
        likelihood.importance_weighted_bound(lambda i: jnp.zeros((len(i), 1)), 3, chunk_size=0)
    with pytest.raises(
        ValueError, match=r"the decoder makes images of shape \(2, 2, 1\), but the data have \(2, 2, 3\)"
    ):
        step = likelihood.make_eval_step(nn_encoder_of_colour(), DECODER)
        step(variables(), {"image": np.repeat(IMAGES, 3, -1)}, KEY)
    with pytest.raises(ValueError, match=r"batch 1 has images of shape \(2, 1, 1\)"):
        batches = [{"image": IMAGES}, {"image": IMAGES[:, :, :1]}]
        likelihood.evaluate(ENCODER, DECODER, variables(), batches, KEY, split="test", binarisation="none")
    with pytest.raises(ValueError, match="batch 0 is not finite: are the parameters"):
        broken = jax.tree.map(lambda x: x * jnp.nan, variables())
        likelihood.evaluate(ENCODER, DECODER, broken, [{"image": IMAGES}], KEY, split="test", binarisation="none")
    with pytest.raises(ValueError, match="a batch of 1 images says nothing"):
        likelihood.log_aggregate_posterior(jnp.zeros((1, 2)), jnp.zeros((1, 2)), jnp.zeros((1, 2)), num_examples=4)


def nn_encoder_of_colour():
    class Encoder(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return ENCODER.apply(variables()["encoder"], x[..., :1], train=train)

    return Encoder()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_bernoulli_likelihood_and_two_derivatives_are_exact_and_finite_up_to_logits_of_ten_thousand(dtype):
    sizes = np.logspace(-8, 4, 97)
    logits = np.concatenate([-sizes[::-1], [0.0], sizes]).astype(dtype)
    exact = logits.astype(np.float64)
    probability = scipy.special.expit(exact)
    with double_precision():
        for x in (0.0, 0.3, 1.0):

            def log_p(logit, x=x):
                return variational.bernoulli_log_likelihood(logit[None, None], jnp.full((1, 1), x, dtype))[0]

            for function, expected in [
                (log_p, x * exact - np.logaddexp(0, exact)),
                (jax.grad(log_p), x - probability),
                (jax.grad(jax.grad(log_p)), -probability * scipy.special.expit(-exact)),  # -1/4 at 0
            ]:
                found = np.asarray(jax.vmap(function)(jnp.asarray(logits)))
                assert found.dtype == dtype and np.isfinite(found).all()
                error = np.abs(found - expected) / np.maximum(1, np.abs(exact))
                assert error.max() < 2 * np.finfo(dtype).eps
