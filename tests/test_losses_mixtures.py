"""The mixture of logistics over pixels, against numbers computed elsewhere, its own sum, and its own samples."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses import mixtures, variational
from jaxgen.losses.mixtures import Mixture

pytestmark = pytest.mark.usefixtures("fast_compilation")

PIXEL = Mixture(
    logits=np.array([[0.2, -0.4]]),
    means=np.array([[[0.5, 0.1], [-0.2, 0.0], [-0.6, -0.3]]]),
    log_scales=np.array([[[-2.0, -1.0], [-1.5, -3.0], [-2.5, -2.0]]]),
    coefficients=np.array([[[0.3, -0.2], [0.1, 0.5], [-0.4, 0.2]]]),
)
log_likelihood = jax.jit(mixtures.log_likelihood, static_argnums=2)


def of_seed(seed, channels=3, num_mixtures=2, scale=1.0):
    """A mixture of one pixel, its numbers of a moderate size."""
    output = scale * np.random.default_rng(seed).normal(size=(1, mixtures.num_outputs(num_mixtures, channels)))
    return mixtures.mixture_of(jnp.asarray(output), channels)


def repeated(mixture, n):
    return Mixture(*(jnp.broadcast_to(x, (n, *x.shape[1:])) for x in mixture))


def test_a_pixel_has_one_component_for_all_its_channels(double_precision):
    """Both numbers were computed elsewhere; the second one is of a component for each channel."""
    x = np.array([[200, 100, 30]]) / 127.5 - 1
    found = float(log_likelihood(PIXEL, x, 8)[0])
    assert found == pytest.approx(-15.6749411971, abs=1e-9)
    weights, each = jax.nn.log_softmax(PIXEL.logits[0]), 0.0
    for c in range(3):
        mean = np.asarray(mixtures._mean(PIXEL, c, jnp.asarray(x)))[0]
        mass = variational.discretized_logistic_log_mass(mean, PIXEL.log_scales[0, c], jnp.round((x[0, c] + 1) * 127.5))
        each += jax.nn.logsumexp(weights + mass)
    assert float(each) == pytest.approx(-15.6140897407, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_masses_of_all_256_levels_of_one_channel_sum_to_one(seed, double_precision):
    mixture = of_seed(seed, channels=1, num_mixtures=3, scale=4.0)
    levels = np.arange(256)[:, None] / 127.5 - 1
    mass = np.exp(np.asarray(log_likelihood(repeated(mixture, 256), levels, 8)))
    assert mass.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("channels", "num_bits"), [(3, 3), (2, 4), (1, 5)])
def test_masses_of_all_colours_sum_to_one(channels, num_bits, double_precision):
    colours = np.array(list(itertools.product(range(2**num_bits), repeat=channels)))
    values = np.asarray(mixtures.value_of(colours, num_bits))
    mixture = repeated(of_seed(1, channels), len(colours))
    mass = np.exp(np.asarray(log_likelihood(mixture, values, num_bits)))
    assert mass.sum() == pytest.approx(1, abs=1e-12)
    assert mass.max() < 0.9  # of several colours


def test_samples_are_of_the_distribution_that_the_likelihood_is_of():
    num_bits, n = 2, 40_000
    mixture = of_seed(3)
    drawn = jax.jit(mixtures.sample, static_argnums=2)(repeated(mixture, n), jax.random.key(0), num_bits)
    colours = np.array(list(itertools.product(range(4), repeat=3)))
    values = np.asarray(mixtures.value_of(colours, num_bits), np.float32)
    mass = np.exp(np.asarray(log_likelihood(repeated(mixture, len(colours)), values, num_bits)))
    index = np.asarray(mixtures.level_of(drawn, num_bits)).astype(int) @ [16, 4, 1]
    frequency = np.bincount(index, minlength=64) / n
    deviation = np.sqrt(mass * (1 - mass) / n)
    assert np.all(np.abs(frequency - mass) < 4.5 * deviation + 1e-5)
    assert np.max(np.abs(drawn)) <= 1


def test_a_sampler_that_rounds_down_or_forgets_the_channels_before_would_be_found():
    """What the test above can see: of a colour distribution whose channels move each other."""
    mixture = of_seed(3)
    alone = mixture._replace(coefficients=jnp.zeros_like(mixture.coefficients))
    colours = np.array(list(itertools.product(range(4), repeat=3)))
    values = np.asarray(mixtures.value_of(colours, 2), np.float32)
    mass, other = (np.exp(np.asarray(log_likelihood(repeated(m, len(colours)), values, 2))) for m in (mixture, alone))
    assert np.max(np.abs(mass - other) / np.sqrt(mass * (1 - mass) / 40_000)) > 20


@pytest.mark.parametrize("num_bits", [1, 2, 5, 8])
def test_an_image_of_fewer_bits_has_the_levels_of_the_image_that_it_was_made_of(num_bits):
    x = jnp.arange(256.0) / 127.5 - 1
    level = mixtures.level_of(x, num_bits)
    np.testing.assert_array_equal(level, np.arange(256) // 2 ** (8 - num_bits))
    np.testing.assert_array_equal(mixtures.level_of(mixtures.value_of(level, num_bits), num_bits), level)
    assert float(mixtures.level_of(jnp.array(3.0), num_bits)) == 2**num_bits - 1


def test_one_component_of_one_channel_is_the_discretised_logistic():
    output = jnp.array([[[[0.3, 0.2, -3.0]]]])  # a weight, a mean, a scale
    x = jnp.array([[[[100 / 127.5 - 1]]]])
    likelihood = mixtures.discretized_logistic_mixture(channels=1)
    expected = jax.jit(variational.discretized_logistic_log_likelihood)(output[..., 1:2], output[..., 2:], x)
    np.testing.assert_allclose(jax.jit(likelihood.log_prob)(output, x), expected, rtol=1e-6)
    np.testing.assert_allclose(likelihood.mean(output), 0.2, rtol=1e-6)
    assert likelihood.sample(output, jax.random.key(0)).shape == x.shape


def test_the_mean_of_narrow_components_is_that_of_their_samples():
    mixture = PIXEL._replace(log_scales=jnp.full((1, 3, 2), -6.0))
    drawn = jax.jit(mixtures.sample)(repeated(mixture, 20_000), jax.random.key(1))
    np.testing.assert_allclose(np.mean(drawn, axis=0), mixtures.mean(mixture)[0], atol=0.01)


def test_scales_have_a_floor():
    floor, below = (PIXEL._replace(log_scales=jnp.full((1, 3, 2), scale)) for scale in (-7.0, -40.0))
    x = jnp.array([[0.1, 0.2, 0.3]])
    np.testing.assert_array_equal(log_likelihood(below, x, 8), log_likelihood(floor, x, 8))


@pytest.mark.parametrize("size", [0.0, 1e2, 1e6, 1e30])
def test_values_and_gradients_are_finite_for_outputs_of_any_size(size):
    output = size * jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (64, 20)), jnp.float32)
    x = jnp.asarray(np.random.default_rng(1).choice([-1.0, -0.2, 1.0], (64, 3)), jnp.float32)

    def nats(output):
        return jnp.mean(log_likelihood(mixtures.mixture_of(output, 3), x, 8))

    value, gradient = jax.value_and_grad(nats)(output)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_what_is_no_mixture_is_refused():
    with pytest.raises(ValueError, match="10 numbers for each component, which do not divide the 12"):
        mixtures.mixture_of(jnp.zeros((1, 12)), 3)
    for channels, num_bits in ((0, 8), (3, 0), (3, 9)):
        with pytest.raises(ValueError, match=f"1 to 8 bits, not {channels} of {num_bits}"):
            mixtures.discretized_logistic_mixture(channels, num_bits)
