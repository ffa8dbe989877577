import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import network, optim, vae
from jaxgen.losses import variational
from jaxgen.models import conv_vae, mlp

KEY = jax.random.key(3)
SHAPE = (2, 2, 1)
IMAGES = np.where(np.random.default_rng(0).random((6, *SHAPE)) < 0.4, 1.0, -1.0).astype(np.float32)
BATCH = {"image": IMAGES}
MODULES = mlp.Encoder(latent_dim=2, widths=(3,)), mlp.BernoulliDecoder(image_shape=SHAPE, widths=(3,))

pytestmark = pytest.mark.usefixtures("fast_compilation")


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), a, b)


def differ(a, b):
    return any(np.any(np.asarray(x) != np.asarray(y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def make(optimizer=None, modules=MODULES, init_key=KEY, image_shape=SHAPE, **options):
    """(state, train_step)."""
    optimizer = optax.sgd(0.1) if optimizer is None else optimizer
    step = vae.make_train_step(*modules, optimizer=optimizer, **options)
    return vae.init(init_key, *modules, optimizer=optimizer, image_shape=image_shape), step


@functools.cache
def default():
    """(state, compiled train step), shared by all tests that need nothing special."""
    state, step = make()
    return state, jax.jit(step)


# ------------------------------------------------------------------- the linear VAE is probabilistic PCA, exactly


class LinearEncoder(nn.Module):
    """q(z|x) = N(V (x - mu), diag(exp(logvar)))."""

    v: tuple
    mu: tuple
    logvar: tuple

    @nn.compact
    def __call__(self, x, *, train):
        mean = (x.reshape(x.shape[0], -1) - jnp.array(self.mu)) @ jnp.array(self.v).T
        return mean, jnp.broadcast_to(jnp.array(self.logvar), mean.shape)


class LinearDecoder(nn.Module):
    """p(x|z) = N(W z + mu, noise)."""

    w: tuple
    mu: tuple
    noise: float

    @nn.compact
    def __call__(self, z, *, train):
        mean = (z @ jnp.array(self.w).T + jnp.array(self.mu)).reshape(-1, *SHAPE)
        return mean, jnp.full(mean.shape, math.log(self.noise))


def nested(array):
    return tuple(map(tuple, array)) if np.ndim(array) == 2 else tuple(array.tolist())


def probabilistic_pca(seed=0, latent_dim=2):
    """Data, the modules at the optimum of their likelihood, and log p(x) of each image."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 4)) @ np.diag([0.3, 0.2, 0.05, 0.04]) @ np.linalg.qr(rng.normal(size=(4, 4)))[0] + 0.1
    mu = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[latent_dim:].mean()
    w = vectors[:, :latent_dim] * np.sqrt(values[:latent_dim] - noise)
    m = w.T @ w + noise * np.eye(latent_dim)  # diagonal: a mean-field posterior is exact
    encoder = LinearEncoder(nested(np.linalg.inv(m) @ w.T), nested(mu), nested(np.log(noise / np.diag(m))))
    decoder = LinearDecoder(nested(w), nested(mu), float(noise))
    covariance = w @ w.T + noise * np.eye(4)
    centred = x - mu
    quadratic = np.sum(centred @ np.linalg.inv(covariance) * centred, axis=1)
    log_px = -0.5 * (4 * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1] + quadratic)
    return x.reshape(-1, *SHAPE), (encoder, decoder), log_px


EMPTY = {"encoder": {}, "decoder": {}}  # the linear modules have no variables


@pytest.mark.usefixtures("double_precision")
def test_the_elbo_of_a_linear_vae_is_tight_at_its_optimum():
    x, modules, log_px = probabilistic_pca()
    for k in (1, 7):  # with the exact posterior every importance weight is p(x), however few samples there are
        evaluate = jax.jit(vae.make_eval_step(*modules, likelihood=variational.gaussian, num_samples=k))
        numbers = evaluate(EMPTY, {"image": x}, KEY)
        np.testing.assert_allclose(numbers["importance_weighted_bound"], log_px, rtol=1e-10)
    evaluate = jax.jit(vae.make_eval_step(*modules, likelihood=variational.gaussian, num_samples=2000))
    numbers = evaluate(EMPTY, {"image": x}, KEY)
    assert float(numbers["elbo"].mean()) == pytest.approx(log_px.mean(), abs=0.01)


@pytest.mark.usefixtures("double_precision")
def test_away_from_its_optimum_the_elbo_is_below_the_likelihood_and_the_bound_between():
    x, (encoder, decoder), log_px = probabilistic_pca()
    worse = encoder.clone(logvar=tuple(v + 1.0 for v in encoder.logvar))
    evaluate = jax.jit(vae.make_eval_step(worse, decoder, likelihood=variational.gaussian, num_samples=200))
    numbers = evaluate(EMPTY, {"image": x}, KEY)
    # KL of the posterior from the exact one: 2 units of (e - 1 - 1) / 2
    assert float(numbers["elbo"].mean()) == pytest.approx(log_px.mean() - (math.e - 2), abs=0.02)
    assert numbers["elbo"].mean() + 0.5 < numbers["importance_weighted_bound"].mean() < log_px.mean() + 0.01


@pytest.mark.usefixtures("double_precision")
def test_rate_and_distortion_of_a_linear_vae_have_their_closed_forms():
    x, (encoder, decoder), _ = probabilistic_pca()
    evaluate = jax.jit(vae.make_eval_step(encoder, decoder, likelihood=variational.gaussian, num_samples=4000))
    numbers = evaluate(EMPTY, {"image": x[:5]}, KEY)
    flat = x[:5].reshape(5, 4)
    mean, variance = (flat - np.array(encoder.mu)) @ np.array(encoder.v).T, np.exp(encoder.logvar)
    rate = 0.5 * (mean**2 + variance - 1 - np.log(variance))
    np.testing.assert_allclose(numbers["kl_per_unit"], rate, rtol=1e-10)
    np.testing.assert_allclose(numbers["rate"], rate.sum(1), rtol=1e-10)
    np.testing.assert_allclose(numbers["posterior_mean"], mean, rtol=1e-10)
    w = np.array(decoder.w)
    error = np.sum((flat - mean @ w.T - np.array(decoder.mu)) ** 2, axis=1) + np.sum((w**2) @ variance)
    distortion = 2 * math.log(2 * math.pi * decoder.noise) + error / (2 * decoder.noise)
    np.testing.assert_allclose(numbers["distortion"], distortion, atol=0.05)


# ------------------------------------------------------------------------------------------------ the train step


def test_the_loss_is_distortion_plus_beta_times_rate_and_the_elbo_is_at_beta_one():
    state, step = make(beta=lambda step: 0.1 * (1 + step), num_samples=2)
    step = jax.jit(step)
    for i in range(2):
        state, m = step(state, BATCH, KEY)
        assert float(m["beta"]) == pytest.approx(0.1 * (1 + i))
        assert float(m["loss"]) == pytest.approx(float(m["distortion"] + m["beta"] * m["rate"]), rel=1e-6)
        assert float(m["elbo"]) == pytest.approx(-float(m["distortion"] + m["rate"]), rel=1e-6)
        assert float(m["rate"]) > 0.01


def test_with_no_options_the_loss_is_the_negative_elbo():
    state, step = default()
    _, m = step(state, BATCH, KEY)
    assert float(m["loss"]) == -float(m["elbo"])
    assert float(m["beta"]) == 1


def test_metrics_are_scalars_under_these_names():
    state, step = make(optim.skip_large_updates(optax.chain(optim.clip_by_global_norm(1.0), optax.sgd(0.1))))
    _, metrics = jax.eval_shape(step, state, BATCH, KEY)
    assert set(metrics) == {
        "loss",
        "elbo",
        "distortion",
        "rate",
        "importance_weighted_bound",
        "active_units",
        "beta",
        "grad_norm",
        "update_norm",
        "clipped",
        "skipped",
    }
    assert all(m.shape == () and m.dtype == jnp.float32 for m in metrics.values())


class Posterior(nn.Module):
    """The same posterior for every image: its mean and logvar are parameters."""

    mean: tuple
    logvar: tuple

    @nn.compact
    def __call__(self, x, *, train):
        return tuple(
            jnp.broadcast_to(self.param(name, lambda key, v=v: jnp.array(v)), (x.shape[0], len(v)))
            for name, v in (("mean", self.mean), ("logvar", self.logvar))
        )


class Deaf(nn.Module):
    """A decoder that does not listen to z, so that the rate is all that moves the encoder."""

    @nn.compact
    def __call__(self, z, *, train):
        return jnp.broadcast_to(self.param("logits", lambda key: jnp.full(SHAPE, 0.3)), (z.shape[0], *SHAPE))


def test_free_bits_stop_the_gradient_of_units_below_the_floor_exactly():
    mean, logvar = (0.5, 1.5), (0.1, -0.3)
    rates = [0.5 * (m * m + math.exp(v) - 1 - v) for m, v in zip(mean, logvar, strict=True)]
    assert rates[0] < 0.5 < rates[1]
    modules = Posterior(mean, logvar), Deaf()
    state, step = make(optax.sgd(1.0), modules, free_bits=0.5, beta=2.0)
    new, m = jax.jit(step)(state, BATCH, KEY)
    moved = jax.tree.map(lambda a, b: np.asarray(b - a), *(s.network.params["encoder"] for s in (state, new)))
    assert moved["mean"][0] == 0 and moved["logvar"][0] == 0
    np.testing.assert_allclose(moved["mean"][1], -2 * mean[1], rtol=1e-5)
    np.testing.assert_allclose(moved["logvar"][1], -2 * 0.5 * (math.exp(logvar[1]) - 1), rtol=1e-5)
    assert float(m["rate"]) == pytest.approx(sum(rates), rel=1e-5)  # what is reported is the true rate
    assert float(m["loss"]) == pytest.approx(float(m["distortion"]) + 2 * (0.5 + rates[1]), rel=1e-5)
    assert float(m["elbo"]) == pytest.approx(-float(m["distortion"]) - sum(rates), rel=1e-5)


def test_free_bits_hold_for_the_mean_over_the_batch_not_for_single_images():
    class Shifted(nn.Module):  # images of white and black first pixels have rates of 2 and 0 nats: 1 on average
        @nn.compact
        def __call__(self, x, *, train):
            mean = self.param("scale", lambda key: jnp.array(1.0)) * (1 + x[:, :1, 0, 0])
            return mean, jnp.zeros_like(mean)

    images = np.ones((4, *SHAPE), np.float32)
    images[:2] = -1
    for floor, moves in ((0.9, True), (1.1, False)):
        state, step = make(optax.sgd(1.0), (Shifted(), Deaf()), free_bits=floor)
        new, m = jax.jit(step)(state, {"image": images}, KEY)
        assert float(m["rate"]) == 1
        assert differ(new.network.params["encoder"], state.network.params["encoder"]) == moves


def test_the_rate_is_pulled_down_by_gradient_descent_and_the_likelihood_up():
    # A rate entering with the wrong sign would push the posterior away from the prior.
    state, step = make(optax.sgd(0.5), (Posterior((1.0,), (1.0,)), Deaf()))
    step = jax.jit(step)
    first = None
    for _ in range(60):
        state, m = step(state, BATCH, KEY)
        first = m if first is None else first
    assert float(m["rate"]) < 1e-3 < 0.1 < float(first["rate"])
    assert float(m["distortion"]) < float(first["distortion"])
    frequency = (IMAGES.mean(0) + 1) / 2
    np.testing.assert_allclose(
        jax.nn.sigmoid(state.network.params["decoder"]["logits"]), frequency, atol=0.02
    )  # the maximum likelihood


def test_importance_weighted_training_minimises_the_negative_bound():
    state, step = make(num_samples=5, importance_weighted=True)
    _, m = jax.jit(step)(state, BATCH, KEY)
    assert float(m["loss"]) == -float(m["importance_weighted_bound"])
    # The reported number is the bound itself, log-mean-exp of the weights, above the ELBO of the same samples.
    averaged, step = make(num_samples=5)
    new, other = jax.jit(step)(averaged, BATCH, KEY)
    assert float(other["importance_weighted_bound"]) == pytest.approx(float(m["importance_weighted_bound"]), rel=1e-6)
    assert float(other["loss"]) == pytest.approx(-float(other["elbo"]), rel=1e-6)


@pytest.mark.usefixtures("double_precision")
def test_the_step_follows_the_gradient_of_its_objective():
    """The reparameterised objective by hand, at the noise that the step draws, for both bounds."""
    k, rate = 3, 0.05
    noise = np.random.default_rng(4).normal(size=(6, k, 2))
    images = IMAGES.astype(np.float64)
    encoder, decoder = MODULES

    def negative_bound(params, weighted):
        mean, logvar = encoder.apply({"params": params["encoder"]}, images, train=True)
        std = jnp.exp(logvar / 2)
        log_weights = []
        for i in range(k):
            z = mean + std * noise[:, i]
            logits = decoder.apply({"params": params["decoder"]}, z, train=True)
            log_px = jnp.sum(jnp.where(images > 0, jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)), (1, 2, 3))
            log_pz = jax.scipy.stats.norm.logpdf(z).sum(1)
            log_qz = jax.scipy.stats.norm.logpdf(z, mean, std).sum(1)
            analytic = 0.5 * jnp.sum(mean**2 + std**2 - 1 - logvar, axis=1)
            log_weights.append(log_px + log_pz - log_qz if weighted else log_px - analytic)
        log_weights = jnp.stack(log_weights)
        return -jnp.mean(jax.nn.logsumexp(log_weights, 0) - math.log(k) if weighted else jnp.mean(log_weights, 0))

    for weighted in (False, True):
        state, step = make(optax.sgd(rate), num_samples=k, importance_weighted=weighted)
        double = jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, state)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vae.sharding, "draw", lambda *args, **kwargs: jnp.asarray(noise))
            new, m = jax.jit(step)(double, {"image": images}, KEY)
        value, gradient = jax.jit(jax.value_and_grad(functools.partial(negative_bound, weighted=weighted)))(
            double.network.params
        )
        assert float(m["loss"]) == pytest.approx(float(value), rel=1e-6)  # metrics are single precision
        expected = jax.tree.map(lambda p, g: p - rate * g, double.network.params, gradient)
        close(new.network.params, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_compiled_and_eager_steps_agree():
    state, step = make(modules=(Posterior((0.5,), (0.1,)), Deaf()))
    close(step(state, BATCH, KEY), jax.jit(step)(state, BATCH, KEY), rtol=1e-5, atol=1e-6)


def test_the_step_is_traced_once():
    traces = []
    _, step = make()

    @jax.jit
    def compiled(state, batch, key):
        traces.append(1)
        return step(state, batch, key)

    for cell in range(2):
        state, _ = make(init_key=jax.random.key(cell))
        for _ in range(2):
            state, _ = compiled(state, BATCH, KEY)
    assert len(traces) == 1


def test_steps_repeat_with_their_key_and_draw_anew_at_every_step():
    state, step = default()
    equal(step(state, BATCH, KEY), step(state, BATCH, KEY))
    later = state.replace(step=state.step + 1)
    losses = [float(step(s, BATCH, k)[1]["loss"]) for s, k in ((state, KEY), (later, KEY), (state, jax.random.key(9)))]
    assert len(set(losses)) == 3


def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit():
    state, step = make(optax.adam(0.1), ema_decay=0.9, beta=lambda step: 0.1 * step)
    step = jax.jit(step)

    def run(state, n):
        for _ in range(n):
            state, metrics = step(state, BATCH, KEY)
        return state, metrics

    equal(run(jax.device_get(run(state, 2)[0]), 2), run(state, 4))


def test_the_average_covers_both_networks_and_without_decay_it_is_the_latest():
    state, step = default()
    new, _ = step(state, BATCH, KEY)
    latest = {name: {"params": new.network.params[name]} for name in ("encoder", "decoder")}
    equal(new.ema, latest)
    state, step = make(ema_decay=0.75)
    new, _ = jax.jit(step)(state, BATCH, KEY)
    latest = {name: {"params": new.network.params[name]} for name in ("encoder", "decoder")}
    close(new.ema, jax.tree.map(lambda e, v: 0.75 * e + 0.25 * v, state.ema, latest), rtol=1e-5, atol=1e-7)


def test_a_bad_batch_is_skipped_with_everything_that_would_have_changed():
    state, step = make(optim.skip_large_updates(optax.sgd(0.1, momentum=0.9)), ema_decay=0.5)
    step = jax.jit(step)
    state, _ = step(state, BATCH, KEY)
    bad = IMAGES.copy()
    bad[2, 1, 0, 0] = np.nan
    after, m = step(state, {"image": bad}, KEY)
    assert float(m["skipped"]) == 1 and int(after.network.opt_state.num_skipped) == 1
    equal(after.network.params, state.network.params)
    equal(after.network.opt_state.inner, state.network.opt_state.inner)
    equal(after.ema, state.ema)
    healed, m = step(after, BATCH, KEY)
    assert float(m["skipped"]) == 0 and np.isfinite(float(m["loss"]))
    assert differ(healed.network.params, state.network.params)


def test_active_units_are_those_whose_posterior_means_vary_by_more_than_a_hundredth():
    class Means(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            sign = x[:, :1, 0, 0]  # of variance 1 over the batch
            mean = sign * jnp.array([0.2, 0.11, 0.09, 0.0]) + jnp.array([0.0, 0.0, 5.0, 5.0])
            return mean, jnp.zeros_like(mean)

    images = np.ones((4, *SHAPE), np.float32)
    images[:2] = -1
    state, step = make(modules=(Means(), Deaf()))
    _, m = jax.jit(step)(state, {"image": images}, KEY)
    assert float(m["active_units"]) == 2
    per_image = jax.jit(vae.make_eval_step(Means(), Deaf()))(state.ema, {"image": images}, KEY)
    assert vae.summarize(per_image)["active_units"] == 2


# ---------------------------------------------------------------------------------------------------- evaluation


def test_evaluation_gives_numbers_for_each_image_in_nats():
    state, _ = default()
    evaluate = jax.jit(vae.make_eval_step(*MODULES, num_samples=50))
    numbers = evaluate(state.ema, BATCH, KEY)
    shapes = {name: value.shape for name, value in numbers.items()}
    assert shapes == {
        "elbo": (6,),
        "distortion": (6,),
        "rate": (6,),
        "importance_weighted_bound": (6,),
        "kl_per_unit": (6, 2),
        "posterior_mean": (6, 2),
    }
    np.testing.assert_array_equal(numbers["elbo"], -numbers["distortion"] - numbers["rate"])
    np.testing.assert_allclose(numbers["rate"], numbers["kl_per_unit"].sum(1), rtol=1e-6)
    assert (numbers["distortion"] > 0).all()  # a negative log-likelihood of discrete pixels, not a log-likelihood
    assert (numbers["importance_weighted_bound"] > numbers["elbo"] - 0.3).all()
    assert numbers["importance_weighted_bound"].mean() > numbers["elbo"].mean()
    np.testing.assert_array_equal(
        numbers["posterior_mean"],
        jax.jit(functools.partial(MODULES[0].apply, train=False))(state.ema["encoder"], IMAGES)[0],
    )


def test_the_number_of_samples_is_taken_as_it_is_given():
    state, _ = default()
    images = IMAGES[:4]
    for k in (1, 3, 7):  # below and above the batch size, not a multiple of it
        seen = []

        def log_prob(logits, image, seen=seen):
            seen.append(logits.shape[0])
            return variational.bernoulli.log_prob(logits, image)

        likelihood = variational.bernoulli._replace(log_prob=log_prob)
        step = vae.make_eval_step(*MODULES, likelihood=likelihood, num_samples=k)
        jax.eval_shape(step, state.ema, {"image": images}, KEY)
        assert seen == [4 * k]


def test_the_bound_rises_with_the_number_of_samples():
    state, _ = default()
    images = {"image": np.tile(IMAGES, (60, 1, 1, 1))}
    bounds = []
    for k in (1, 4, 40):
        evaluate = jax.jit(vae.make_eval_step(*MODULES, num_samples=k))
        numbers = evaluate(state.ema, images, KEY)
        bounds.append(float(numbers["importance_weighted_bound"].mean()))
        elbo, error = float(numbers["elbo"].mean()), float(numbers["distortion"].std()) / 360**0.5
        assert bounds[-1] > elbo - 5 * error
    assert bounds[0] < bounds[1] < bounds[2]


@pytest.mark.usefixtures("double_precision")
def test_the_bound_of_a_bernoulli_vae_approaches_the_exact_likelihood_which_sums_to_one():
    """All 16 images of four pixels: log p(x) by quadrature over the one latent."""
    images = np.where(np.arange(16)[:, None] >> np.arange(4) & 1, 1.0, -1.0).reshape(16, *SHAPE)
    modules = mlp.Encoder(latent_dim=1, widths=()), mlp.BernoulliDecoder(image_shape=SHAPE, widths=())
    state, _ = make(modules=modules)
    z = np.linspace(-8, 8, 2001)[:, None]
    logits = modules[1].apply(state.ema["decoder"], z, train=False)
    log_px_z = np.stack([variational.bernoulli.log_prob(logits, np.broadcast_to(x, logits.shape)) for x in images])
    density = np.exp(log_px_z - z[:, 0] ** 2 / 2) / math.sqrt(2 * math.pi)
    probability = np.trapezoid(density, z[:, 0], axis=1)
    assert probability.sum() == pytest.approx(1, abs=1e-9)
    evaluate = jax.jit(vae.make_eval_step(*modules, num_samples=3000))
    numbers = evaluate(state.ema, {"image": images}, KEY)
    np.testing.assert_allclose(numbers["importance_weighted_bound"], np.log(probability), atol=0.1)
    assert (np.asarray(numbers["elbo"]) < np.log(probability) + 0.03).all()


def test_a_summary_is_the_mean_over_images_of_all_batches():
    rng = np.random.default_rng(0)
    names = ("elbo", "distortion", "rate", "importance_weighted_bound")
    per_image = {name: rng.normal(size=11).astype(np.float32) for name in names}
    per_image["posterior_mean"] = rng.normal(size=(11, 3)).astype(np.float32) * [1.0, 0.01, 0.5]
    summary = vae.summarize(jax.tree.map(jnp.asarray, per_image | {"kl_per_unit": np.ones((11, 3))}))
    assert set(summary) == {*names, "active_units"}
    for name in names:
        assert summary[name] == pytest.approx(per_image[name].astype(np.float64).mean(), rel=1e-12)
    assert summary["active_units"] == 2


def test_samples_and_reconstructions_are_mean_images():
    state, _ = default()
    z = jax.random.normal(KEY, (5, 2))
    images = vae.sample(MODULES[1], state.ema, z)
    logits = MODULES[1].apply(state.ema["decoder"], z, train=False)
    assert images.shape == (5, *SHAPE)
    np.testing.assert_allclose(images, np.tanh(np.asarray(logits) / 2), rtol=1e-4, atol=1e-6)  # 2 sigmoid(t) - 1
    mean, _ = MODULES[0].apply(state.ema["encoder"], IMAGES, train=False)
    np.testing.assert_array_equal(vae.reconstruct(*MODULES, state.ema, IMAGES), vae.sample(MODULES[1], state.ema, mean))


# --------------------------------------------------------------------------------------------------------- errors


def test_bytes_are_refused_at_trace_time_with_the_remedy():
    state, step = default()
    with pytest.raises(TypeError, match=r"uint8.*127\.5"):
        step(state, {"image": np.zeros((6, *SHAPE), np.uint8)}, KEY)
    with pytest.raises(TypeError, match=r"uint8.*127\.5"):
        jax.eval_shape(vae.make_eval_step(*MODULES), state.ema, {"image": jnp.zeros((6, *SHAPE), jnp.uint8)}, KEY)


def test_a_grey_decoder_for_colour_images_is_refused():
    modules = conv_vae.Encoder(latent_dim=2, features=2), conv_vae.Decoder(image_size=28, channels=1, features=2)
    state = jax.eval_shape(lambda key: vae.init(key, *modules, optimizer=optax.sgd(0.1), image_shape=(28, 28, 3)), KEY)
    images = {"image": jax.ShapeDtypeStruct((2, 28, 28, 3), jnp.float32)}
    for step, first in (
        (vae.make_train_step(*modules, optimizer=optax.sgd(0.1)), state),
        (vae.make_eval_step(*modules), state.ema),
    ):
        with pytest.raises(ValueError, match=r"images of shape \(28, 28, 1\), but the data have \(28, 28, 3\)"):
            jax.eval_shape(step, first, images, KEY)


def test_arguments_without_meaning_are_refused_at_once():
    for options, message in (
        (dict(num_samples=0), "num_samples must be at least 1, not 0"),
        (dict(free_bits=-0.1), "free_bits must not be negative, but is -0.1"),
        (dict(importance_weighted=True, beta=0.5), "beta = 1 and no free bits"),
        (dict(importance_weighted=True, beta=lambda step: 1.0), "beta = 1 and no free bits"),
        (dict(importance_weighted=True, free_bits=0.1), "beta = 1 and no free bits"),
    ):
        with pytest.raises(ValueError, match=message):
            vae.make_train_step(*MODULES, optimizer=optax.sgd(0.1), **options)


def test_batch_statistics_of_both_networks_are_kept_and_averaged():
    class NormalisedEncoder(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x.reshape(x.shape[0], -1))
            return x[:, :2], x[:, 2:]

    class NormalisedDecoder(nn.Module):
        @nn.compact
        def __call__(self, z, *, train):
            z = nn.BatchNorm(use_running_average=not train, momentum=0.5)(z)
            return nn.Dense(4)(z).reshape(-1, *SHAPE)

    state, step = make(modules=(NormalisedEncoder(), NormalisedDecoder()), ema_decay=network.warmed_up(0.9))
    new, _ = jax.jit(step)(state, BATCH, KEY)
    statistics = new.network.model_state["encoder"]["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], 0.5 * IMAGES.reshape(6, -1).mean(0), rtol=1e-5, atol=1e-7)
    averaged = new.ema["encoder"]["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(averaged["mean"], 0.9 * np.asarray(statistics["mean"]), rtol=1e-5, atol=1e-7)
    assert differ(new.network.model_state["decoder"], state.network.model_state["decoder"])


def test_what_is_not_of_the_right_kind_is_told():
    state, _ = default()
    with pytest.raises(TypeError, match="not a whole State: give state.ema"):
        vae.sample(MODULES[1], state, jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"do not fit z of shape \[2, 9\]"):
        vae.sample(MODULES[1], state.ema, jnp.zeros((2, 9)))
    with pytest.raises(TypeError, match="likelihood must be one of losses.variational"):
        make(likelihood="bernoulli")
    for make_one in (make, lambda rate: vae.init(KEY, *MODULES, optimizer=rate, image_shape=SHAPE)):
        with pytest.raises(TypeError, match="the optimizer must be an optax transformation .*, not 0.1"):
            make_one(0.1)
