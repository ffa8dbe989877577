"""Latents from images: for a linear decoder everything has a closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import degradations, objective
from jaxgen.editing import encoder, inversion, tuning
from jaxgen.editing.latents import rows_of

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY = jax.random.key(0)
D, SHAPE = 4, (6, 5, 2)
N = int(np.prod(SHAPE))


def problem(key=KEY):
    """A linear decoder z G + b, and images that it cannot quite draw."""
    of_g, of_b, of_z, of_noise = jax.random.split(key, 4)
    g = jax.random.normal(of_g, (D, N)) / np.sqrt(N) * 2
    b = 0.3 * jax.random.normal(of_b, (N,))
    z = jax.random.normal(of_z, (3, D))
    images = (z @ g + b).reshape(3, *SHAPE) + 0.2 * jax.random.normal(of_noise, (3, *SHAPE))
    return g, b, z, images


def decoder(g, b):
    return lambda z: (z @ g + b).reshape(-1, *SHAPE)


def posterior(a, y, noise, ridge=1.0):
    """(mean [B, D], covariance [D, D]) of z ~ N(0, I / ridge) from y = z a + noise."""
    precision = ridge * np.eye(len(a)) + a @ a.T / noise**2
    return np.linalg.solve(precision, a @ y.T / noise**2).T, np.linalg.inv(precision)


def found_by(decode, y, starts, **settings):
    return jax.jit(functools.partial(inversion.invert, decode, num_steps=800, **settings))(y, starts)


def starts_of(num):
    normal = lambda key, n: jax.random.normal(key, (n, D))  # noqa: E731
    return inversion.draw_starts(normal, jax.random.key(5), 3, num, scale=2.0)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_inversion_by_a_linear_decoder_is_ridge_from_any_of_16_starts(noise):
    g, b, _, images = problem()
    found = found_by(decoder(g, b), images, starts_of(16), noise=noise)
    expected, _ = posterior(np.asarray(g), np.asarray(images.reshape(3, -1) - b), noise)
    np.testing.assert_allclose(found.latents, expected, atol=1e-5)
    np.testing.assert_allclose(found.losses, np.broadcast_to(found.losses[:, :1], (3, 16)), rtol=1e-8)
    np.testing.assert_allclose(found.images, decoder(g, b)(found.latents), rtol=1e-6)


@pytest.mark.usefixtures("double_precision")
def test_without_a_prior_it_is_least_squares_and_recovers_what_was_drawn():
    g, b, z, images = problem()
    exact = decoder(g, b)(z)
    found = found_by(decoder(g, b), exact, starts_of(2), prior=None)
    np.testing.assert_allclose(found.latents, z, atol=1e-6)
    np.testing.assert_allclose(found.images, exact, atol=1e-6)
    found = found_by(decoder(g, b), images, starts_of(2), prior=None)
    expected = np.linalg.lstsq(np.asarray(g).T, np.asarray(images.reshape(3, -1) - b).T)[0].T
    np.testing.assert_allclose(found.latents, expected, atol=1e-5)


@pytest.mark.usefixtures("double_precision")
def test_completion_and_super_resolution_are_the_conditional_mean_of_what_was_measured():
    g, b, _, images = problem()
    known = jnp.ones((3, *SHAPE[:2], 1)).at[:, 2:4, 1:].set(0.0).at[2, 0].set(0.0)
    found = found_by(decoder(g, b), known * images, starts_of(2), measure=inversion.masked, given=known, noise=0.3)
    for i in range(3):
        m = np.broadcast_to(np.asarray(known[i]), SHAPE).ravel()
        expected, _ = posterior(np.asarray(g) * m, ((np.asarray(images[i]).ravel() - np.asarray(b)) * m)[None], 0.3)
        np.testing.assert_allclose(found.latents[i], expected[0], atol=1e-5)

    def halved(image):
        return image[:4].reshape(2, 2, 5, 2).mean(axis=1)

    def measure(drawn, given):
        del given
        return jax.vmap(halved)(drawn)

    a = np.asarray(measure(jnp.asarray(g).reshape(D, *SHAPE), None)).reshape(D, -1)
    small = measure(images, None)
    offset = np.asarray(halved(b.reshape(SHAPE))).ravel()
    found = found_by(decoder(g, b), small, starts_of(2), measure=measure, noise=0.3)
    expected, _ = posterior(a, np.asarray(small).reshape(3, -1) - offset, 0.3)
    np.testing.assert_allclose(found.latents, expected, atol=1e-5)


def test_a_degradation_of_training_data_is_a_measurement():
    g, b, z, _ = problem()
    blur = functools.partial(degradations.gaussian_blur, sigma=0.8)
    exact = decoder(g, b)(z)
    found = found_by(decoder(g, b), blur(exact), starts_of(1), measure=lambda x, _: blur(x), prior=None, noise=0.05)
    np.testing.assert_allclose(found.images, exact, atol=2e-3)


def test_images_are_inverted_alike_whatever_is_in_memory_at_once_and_beside_them():
    g, b, _, images = problem()
    starts = starts_of(3)
    whole = found_by(decoder(g, b), images, starts)
    for at_once in (1, 2, 4, 5):
        found = found_by(decoder(g, b), images, starts, rows_at_once=at_once)
        np.testing.assert_allclose(found.latents, whole.latents, atol=1e-4)
        assert found.losses.shape == (3, 3)
    alone = found_by(decoder(g, b), images[1:2], starts[1:2])
    np.testing.assert_allclose(alone.latents[0], whole.latents[1], atol=1e-4)


def test_the_best_start_is_kept_and_never_one_that_ended_in_nan():
    def decode(z):  # two basins: 1 and -1 draw the image, 0 is a saddle; and a place with NaN
        return jnp.where(z > 5, jnp.nan, z**2 - 1).reshape(-1, 1, 1, 1)

    starts = jnp.array([[[9.0], [0.0], [0.6]], [[0.0], [9.0], [-0.7]]])
    found = found_by(decode, jnp.zeros((2, 1, 1, 1)), starts, prior=None)
    assert found.best.tolist() == [2, 2] and np.isnan(found.losses[0, 0])
    np.testing.assert_allclose(found.latents, [[1.0], [-1.0]], atol=1e-3)


def test_nothing_happens_in_no_steps_and_what_is_told_stays_with_its_start():
    g, b, _, images = problem()

    def decode(z, told):
        return decoder(g, b)(z) + told["label"][:, None, None, None]

    starts = starts_of(2)
    told = {"label": jnp.broadcast_to(jnp.array([3, 0]), (3, 2))}
    found = inversion.invert(decode, images, starts, told=told, num_steps=0)
    assert found.best.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(found.latents, starts[:, 1])
    np.testing.assert_allclose(found.images, decoder(g, b)(starts[:, 1]), rtol=1e-5)


def test_latents_may_be_a_tree_and_a_distance_is_added():
    g, b, _, images = problem()

    def decode(latents):
        return decoder(g, b)(jnp.concatenate([latents["a"].reshape(-1, 2), latents["b"]], axis=1))

    starts = {"a": jnp.zeros((3, 1, 2, 1)), "b": jnp.zeros((3, 1, 2))}
    found = found_by(decode, images, starts)
    plain = found_by(decoder(g, b), images, jnp.zeros((3, 1, D)))
    np.testing.assert_allclose(rows_of(found.latents)[0], plain.latents, atol=1e-4)
    far = found_by(decoder(g, b), images, jnp.zeros((3, 1, D)), distance=lambda x, y: 7.0 + 0 * jnp.sum(x, (1, 2, 3)))
    np.testing.assert_allclose(far.losses, plain.losses + 7, rtol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"starts": jnp.zeros((3, 2, D), jnp.int32)}, "codes of int32, no real numbers"),
        ({"starts": jnp.zeros((2, 2, D))}, "3 images to invert, and starts for 2"),
        ({"noise": 0.0}, "noise of a measurement is above 0"),
        ({"num_steps": -1}, "at least 0 steps"),
        ({"measure": lambda x, _: x[:, :1]}, r"shape \[1, 5, 2\], and the target \[6, 5, 2\]"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, message):
    g, b, _, images = problem()
    settings = {"starts": starts_of(2)} | change
    with pytest.raises(ValueError, match=message):
        inversion.invert(decoder(g, b), images, settings.pop("starts"), **settings)


def test_known_pixels_of_a_composite_are_the_same_bits():
    known, filled = jax.random.normal(KEY, (2, 4, 5, 6, 3))
    mask = jax.random.bernoulli(KEY, 0.5, (4, 5, 6, 1)).astype(jnp.float32).at[0, 0, 0].set(0.25)
    found = np.asarray(inversion.composite(known, filled, mask))
    where = np.broadcast_to(np.asarray(mask), found.shape)
    np.testing.assert_array_equal(found[where == 0], np.asarray(known)[where == 0])
    np.testing.assert_array_equal(found[where == 1], np.asarray(filled)[where == 1])
    np.testing.assert_allclose(found[0, 0, 0], 0.75 * known[0, 0, 0] + 0.25 * filled[0, 0, 0], rtol=1e-6)


def test_draws_from_the_posterior_have_its_mean_and_covariance():
    g, b, _, images = problem()
    m = np.ones(SHAPE).astype(np.float32)
    m[2:] = 0
    known = jnp.asarray(m[None, ..., :1])
    image, noise = images[:1], 0.4
    mean, covariance = posterior(
        np.asarray(g) * m.ravel(), ((np.asarray(image).ravel() - np.asarray(b)) * m.ravel())[None], noise
    )
    starts = jnp.broadcast_to(jnp.asarray(mean, jnp.float32), (1, 64, D))
    draw = jax.jit(
        lambda key: inversion.posterior_samples(
            decoder(g, b),
            image * known,
            starts,
            key,
            measure=inversion.masked,
            given=known,
            noise=noise,
            num_samples=200,
            num_warmup=60,
        )
    )
    found = draw(jax.random.key(7))
    assert found.latents.shape == (1, 64, 200, D) and 0.6 < float(found.acceptance.mean()) < 0.98
    rows = np.asarray(found.latents, float).reshape(-1, D)
    deviation = np.sqrt(np.diag(covariance))
    # At least 3,000 of the 12,800 draws count as independent: 4 standard errors are 0.07 deviations, and 0.1 variances.
    np.testing.assert_allclose((rows.mean(axis=0) - mean[0]) / deviation, 0, atol=0.07)
    np.testing.assert_allclose(
        np.cov(rows.T) / np.outer(deviation, deviation), covariance / np.outer(deviation, deviation), atol=0.1
    )
    np.testing.assert_array_equal(draw(jax.random.key(7)).latents, found.latents)
    with pytest.raises(TypeError, match="not a seed"):
        inversion.posterior_samples(decoder(g, b), image, starts, 0)


# Tuning and encoders --------------------------------------------------------------------------------------------------


def tunable(variables, z):
    kernel, bias = variables["generator"]["params"]["map"]["kernel"], variables["generator"]["batch_stats"]["mean"]
    return (z @ kernel + bias).reshape(-1, *SHAPE)


def tuned_variables():
    g, b, _, images = problem()
    generator = {"params": {"map": {"kernel": g}}, "batch_stats": {"mean": b}}
    return {"generator": generator, "other": {"params": jnp.ones(3)}, "progress": jnp.float32(2.0)}, images


def test_a_decoder_that_is_tuned_in_no_steps_is_what_it_was():
    variables, images = tuned_variables()
    pivots = jax.random.normal(KEY, (3, D))
    found = tuning.pivotal_tuning(tunable, variables, pivots, images, num_steps=0)
    jax.tree.map(np.testing.assert_array_equal, found.variables, variables)
    np.testing.assert_array_equal(found.images, tunable(variables, pivots))
    others = jax.random.normal(jax.random.key(9), (5, D))
    np.testing.assert_array_equal(tunable(found.variables, others), tunable(variables, others))


def test_tuning_reaches_what_no_latent_decodes_to_and_leaves_what_is_no_parameter():
    variables, images = tuned_variables()
    pivot, others = jnp.ones((1, D)), jnp.array([[1.0, -1.0, 0.0, 0.0]])  # orthogonal: both can be had
    tune = functools.partial(
        tuning.pivotal_tuning, tunable, variables, pivot, images[:1], num_steps=400, optimizer=optax.adam(0.02)
    )
    found = jax.jit(tune)()
    assert float(jnp.max(jnp.abs(found.images - images[:1]))) < 0.01 and found.losses.shape == (400,)
    np.testing.assert_array_equal(
        found.variables["generator"]["batch_stats"]["mean"], variables["generator"]["batch_stats"]["mean"]
    )
    np.testing.assert_array_equal(found.variables["other"]["params"], 1.0)
    local = jax.jit(functools.partial(tune, others=others, locality=10.0))()
    before = tunable(variables, others)
    moved, kept = (float(jnp.max(jnp.abs(tunable(x.variables, others) - before))) for x in (found, local))
    assert kept < 0.02 and float(jnp.max(jnp.abs(local.images - images[:1]))) < 0.02
    assert moved > 0.0


class LinearEncoder(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(D, name="map")(x.reshape(len(x), -1))


def test_the_pseudo_inverse_of_a_linear_decoder_is_an_encoder_without_error_and_training_goes_there():
    g, b, z, _ = problem()
    frozen = {"g": g, "b": b}

    def decode(frozen, z):
        return decoder(frozen["g"], frozen["b"])(z)

    loss = encoder.objective_of(LinearEncoder(), decode, lambda key, n: jax.random.normal(key, (n, D)))
    inverse = np.linalg.pinv(np.asarray(g))
    exact = {"map": {"kernel": jnp.asarray(inverse), "bias": jnp.asarray(-np.asarray(b) @ inverse)}}
    batch = {"image": jnp.clip(0.3 * decoder(g, 0 * b)(z) + b.reshape(SHAPE), -1, 1)}
    value, (_, metrics) = loss(exact, {}, batch, KEY, 0, frozen=frozen)
    assert float(metrics["latent_error"]) < 1e-9
    state = objective.init({"params": exact}, optimizer=optax.adam(1e-3), frozen=frozen)
    step = jax.jit(objective.make_train_step(loss, optimizer=optax.adam(1e-2)))
    start = jax.tree.map(jnp.zeros_like, {"params": exact})
    state = objective.init(start, optimizer=optax.adam(1e-2), frozen=frozen)
    first = None
    for _ in range(60):
        state, metrics = step(state, batch, KEY)
        first = first or metrics
    assert metrics["latent_error"] < 0.1 * first["latent_error"]
    assert encoder.encode(LinearEncoder(), state.ema, batch["image"]).shape == (3, D)
    with pytest.raises(ValueError, match="one weight is above 0"):
        encoder.objective_of(LinearEncoder(), decode, None, of_drawn=0.0, of_real=0.0)
