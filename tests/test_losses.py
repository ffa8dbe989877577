import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxgen.losses import adversarial, penalties, variational

LOSSES = {
    "minimax": adversarial.minimax,
    "non_saturating": adversarial.non_saturating,
    "least_squares": adversarial.least_squares,
    "hinge": adversarial.hinge,
    "wasserstein": adversarial.wasserstein,
    "relativistic": adversarial.relativistic,
}
each_loss = pytest.mark.parametrize("name", LOSSES)

pytestmark = pytest.mark.usefixtures("fast_compilation")


# ---------------------------------------------------------------------------------------------------- adversarial


# At logits (log 3, log 7) the probabilities of "real" are 3/4 and 7/8, at minus these 1/4 and 1/8.
REAL, FAKE = [math.log(3), -math.log(3)], [math.log(7), -math.log(7)]
LOG = math.log
BY_HAND = {
    "minimax": ([LOG(1 / 8), LOG(7 / 8)], [LOG(4 / 3) + LOG(8), LOG(4) + LOG(8 / 7)]),
    "non_saturating": ([LOG(8 / 7), LOG(8)], [LOG(4 / 3) + LOG(8), LOG(4) + LOG(8 / 7)]),
    "least_squares": (
        [(LOG(7) - 1) ** 2 / 2, (LOG(7) + 1) ** 2 / 2],
        [(LOG(3) - 1) ** 2 / 2 + LOG(7) ** 2 / 2, (LOG(3) + 1) ** 2 / 2 + LOG(7) ** 2 / 2],
    ),
    "hinge": ([-LOG(7), LOG(7)], [1 + LOG(7), 1 + LOG(3)]),
    "wasserstein": ([-LOG(7), LOG(7)], [LOG(7) - LOG(3), LOG(3) - LOG(7)]),
    "relativistic": ([LOG(1 + 3 / 7), LOG(1 + 7 / 3)], [LOG(1 + 7 / 3), LOG(1 + 3 / 7)]),
}


@each_loss
def test_losses_equal_their_formulas_at_probabilities_computed_by_hand(name):
    for player, expected in zip(LOSSES[name], BY_HAND[name], strict=True):
        np.testing.assert_allclose(player(jnp.array(REAL), jnp.array(FAKE)), expected, rtol=2e-6)


def exact_losses(real, fake):
    """The same losses in NumPy's float64, (generator, discriminator)."""

    def s(t):
        return np.logaddexp(0, t)

    cross_entropy = s(-real) + s(fake)
    return {
        "minimax": (-s(fake), cross_entropy),
        "non_saturating": (s(-fake), cross_entropy),
        "least_squares": ((fake - 1) ** 2 / 2, (real - 1) ** 2 / 2 + fake**2 / 2),
        "hinge": (-fake, np.maximum(0, 1 - real) + np.maximum(0, 1 + fake)),
        "wasserstein": (-fake, fake - real),
        "relativistic": (s(real - fake), s(fake - real)),
    }


@each_loss
def test_losses_and_their_gradients_are_finite_and_right_at_huge_logits(name):
    extreme = np.array([-1e4, -90.0, -20.0, 0.0, 20.0, 90.0, 1e4])
    real, fake = (x.ravel() for x in np.meshgrid(extreme, extreme))
    for i, player in enumerate(LOSSES[name]):
        arguments = real.astype(np.float32), fake.astype(np.float32)
        np.testing.assert_allclose(player(*arguments), exact_losses(real, fake)[name][i], rtol=1e-6, atol=1e-30)
        gradients = jax.grad(lambda r, f, player=player: jnp.sum(player(r, f)), (0, 1))(*arguments)
        assert np.isfinite(gradients).all()


@each_loss
def test_real_and_fake_cannot_be_swapped_unnoticed(name):
    loss = LOSSES[name]
    real, fake = jnp.array([0.4]), jnp.array([0.3])  # inside the hinge's margins and between least squares' targets

    def slopes(player):
        return [float(g[0]) for g in jax.grad(lambda r, f: jnp.sum(player(r, f)), (0, 1))(real, fake)]

    for_real, for_fake = slopes(loss.discriminator)
    assert for_real < 0 < for_fake  # the discriminator lifts real logits and lowers fake ones
    for_real, for_fake = slopes(loss.generator)
    assert for_fake < 0  # the generator lifts fake logits
    if name == "relativistic":
        assert for_real == pytest.approx(-for_fake)
    else:
        assert for_real == 0  # and sees nothing of the real ones
    for player in loss:
        assert not np.allclose(player(real, fake), player(fake, real))


@each_loss
def test_losses_give_one_number_per_image_that_depends_on_that_image_only(name):
    real, fake = jnp.array([0.3, -2.0, 5.0]), jnp.array([-0.7, 4.0, 0.1])
    for player in LOSSES[name]:
        together = player(real, fake)
        assert together.shape == (3,)
        one_by_one = [player(real[i : i + 1], fake[i : i + 1])[0] for i in range(3)]
        np.testing.assert_array_equal(together, one_by_one)


@pytest.mark.usefixtures("double_precision")
def test_the_optimal_discriminator_turns_minimax_into_the_jensen_shannon_divergence():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6])
    logits = jnp.log(p / q)  # D* = p / (p + q)

    def value(logits, p=p, q=q):  # E_real log D + E_fake log(1 - D): each kind at its own points and weights
        zeros = jnp.zeros_like(logits)
        of_real = adversarial.minimax.discriminator(logits, zeros) - math.log(2)
        of_fake = adversarial.minimax.discriminator(zeros, logits) - math.log(2)
        return -jnp.sum(p * of_real + q * of_fake)

    m = (p + q) / 2
    divergence = np.sum(p * np.log(p / m) + q * np.log(q / m)) / 2
    assert float(value(logits)) == pytest.approx(2 * divergence - math.log(4), abs=1e-12)
    np.testing.assert_allclose(jax.grad(value)(logits), 0, atol=1e-12)
    # Where the generator has learnt the data the game is worth -log 4.
    assert float(value(jnp.zeros(3), p, p)) == pytest.approx(-math.log(4), abs=1e-12)


def test_where_the_discriminator_wins_minimax_saturates_and_non_saturating_does_not():
    def slope(loss, fake_logit):
        return float(jax.grad(lambda f: loss.generator(0.0, f))(fake_logit))

    for t in (-12.0, -1.0, 0.5):
        probability = 1 / (1 + math.exp(-t))
        assert slope(adversarial.minimax, t) == pytest.approx(-probability, rel=1e-5)
        assert slope(adversarial.non_saturating, t) == pytest.approx(-(1 - probability), rel=1e-5)


def test_the_optimal_least_squares_discriminator_is_the_posterior_probability():
    p, q = 0.2, 0.6

    def expected_loss(t):
        loss = adversarial.least_squares.discriminator
        return p * (loss(t, 0.0) - loss(1.0, 0.0)) + q * (loss(1.0, t) - loss(1.0, 0.0))

    assert float(jax.grad(expected_loss)(p / (p + q))) == pytest.approx(0, abs=1e-6)


def test_the_hinge_discriminator_rests_outside_of_its_margins():
    real, fake = jnp.array([1.0, 7.0]), jnp.array([-1.5, -9.0])
    np.testing.assert_array_equal(adversarial.hinge.discriminator(real, fake), 0)
    gradient = jax.grad(lambda r: jnp.sum(adversarial.hinge.discriminator(r, fake)))(jnp.array([1.5, 7.0]))
    np.testing.assert_array_equal(gradient, 0)


def test_relativistic_and_wasserstein_do_not_see_a_shift_of_all_logits():
    real, fake = jnp.array([0.5, -2.0]), jnp.array([1.0, 3.0])
    for player in adversarial.relativistic:
        np.testing.assert_allclose(player(real + 8, fake + 8), player(real, fake), rtol=1e-6)
    critic = adversarial.wasserstein.discriminator
    np.testing.assert_allclose(critic(real + 8, fake + 8), critic(real, fake), rtol=1e-6)


def test_the_generator_learns_from_its_best_images_alone_and_the_discriminator_as_before():
    fake, real = jnp.array([0.5, -3.0, 2.0, 1.0, -1.0]), jnp.zeros(5)
    for share, kept in ((1.0, [0, 1, 2, 3, 4]), (0.6, [0, 2, 3]), (0.01, [2]), (lambda step: 1 - step / 10, [2, 3])):
        chosen = adversarial.top_k(adversarial.hinge, share)(jnp.asarray(6))
        found = jax.grad(lambda fake: jnp.mean(chosen.generator(real, fake)))(fake)  # noqa: B023
        expected = np.zeros(5)
        expected[kept] = -1 / len(kept)  # the mean of the k
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert chosen.discriminator is adversarial.hinge.discriminator
    two = jnp.stack([fake, jnp.array([0.0, 9.0, 0, 0, 0])], axis=1)  # two logits each: ranked by their mean
    found = adversarial.top_k(adversarial.wasserstein, 0.4)(0).generator(two, two)
    np.testing.assert_allclose(found, -two * np.array([0, 1, 1, 0, 0])[:, None] * 5 / 2, rtol=1e-6)


def test_the_best_images_are_those_of_all_devices_in_the_per_device_view():
    fake = jnp.array([0.5, -3.0, 2.0, 1.0, -1.0, 2.0, 5.0, -9.0])
    whole = adversarial.top_k(adversarial.non_saturating, 0.5)(0).generator(fake, fake)
    one = adversarial.top_k(adversarial.non_saturating, 0.5, axis_name="data")(0).generator
    parts = jax.vmap(one, axis_name="data")(fake.reshape(2, 4), fake.reshape(2, 4))
    np.testing.assert_array_equal(parts.ravel(), whole)


def test_top_k_of_what_is_no_loss_or_no_share_is_one_sentence():
    with pytest.raises(TypeError, match="loss must be a pair of functions, such as adversarial.hinge"):
        adversarial.top_k("hinge", 0.5)
    for share in (0, 1.5):
        with pytest.raises(ValueError, match=r"share is the part of fake images .* in \(0, 1\], not"):
            adversarial.top_k(adversarial.hinge, share)


def test_accuracy_weighs_both_kinds_alike_and_counts_logit_zero_as_wrong():
    accuracy = adversarial.discriminator_accuracy
    assert accuracy(jnp.array([1.0, -1.0, 2.0, 3.0]), jnp.array([-1.0, 2.0])) == pytest.approx(0.5 * (3 / 4 + 1 / 2))
    assert accuracy(jnp.ones(3), -jnp.ones(3)) == 1
    assert accuracy(jnp.zeros(3), jnp.zeros(3)) == 0


# ------------------------------------------------------------------------------------------------------ penalties

KEY = jax.random.key(0)
SHAPE = (5, 4, 3, 2)


def draw(seed, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape).astype(jax.dtypes.canonicalize_dtype(float))


def linear(psi):
    return lambda x: jnp.sum(psi * x, axis=range(1, x.ndim)) + 3.0


def quadratic(scale):
    return lambda x: scale / 2 * jnp.sum(x**2, axis=range(1, x.ndim))


ALL_PENALTIES = [
    penalties.r1(gamma=3.0),
    penalties.r2(gamma=3.0),
    penalties.gradient_penalty(weight=3.0, target=0.5),
    penalties.dragan(weight=3.0),
]
each_penalty = pytest.mark.parametrize("penalty", ALL_PENALTIES, ids=lambda p: p.__name__)


def test_penalties_are_named_after_their_factories():
    assert [p.__name__ for p in ALL_PENALTIES] == ["r1", "r2", "gradient_penalty", "dragan"]


@pytest.mark.parametrize("factory", [penalties.r1, penalties.r2])
def test_r1_and_r2_of_a_linear_discriminator_are_half_its_squared_weights(factory):
    psi = draw(1, SHAPE[1:])
    penalty = factory(gamma=7.0)(linear(psi), draw(2), draw(3), KEY)
    assert penalty.shape == ()
    assert float(penalty) == pytest.approx(7 / 2 * float(jnp.sum(psi**2)), rel=1e-6)
    gradient = jax.grad(lambda psi: factory(gamma=7.0)(linear(psi), draw(2), draw(3), KEY))(psi)
    np.testing.assert_allclose(gradient, 7 * psi, rtol=1e-5)


def test_r1_is_taken_at_real_images_and_r2_at_fake_ones():
    real, fake = draw(1), 2 + draw(2)

    def expected(x):  # |grad D|^2 = 0.5^2 |x|^2, summed over pixels, averaged over images
        return 10 / 2 * 0.25 * np.sum(np.square(x)) / len(x)

    assert float(penalties.r1()(quadratic(0.5), real, fake, KEY)) == pytest.approx(expected(real), rel=1e-5)
    assert float(penalties.r2()(quadratic(0.5), real, fake, KEY)) == pytest.approx(expected(fake), rel=1e-5)


@pytest.mark.parametrize("target", [1.0, 0.0, 2.5])
def test_gradient_penalty_of_a_linear_discriminator_is_the_squared_distance_to_the_target(target):
    psi = draw(1, SHAPE[1:])
    norm = float(jnp.linalg.norm(psi.ravel()))
    penalty = penalties.gradient_penalty(weight=4.0, target=target)(linear(psi), draw(2), draw(3), KEY)
    assert float(penalty) == pytest.approx(4 * (norm - target) ** 2, rel=1e-5)


def test_dragan_of_a_linear_discriminator_is_the_squared_distance_to_one():
    psi = draw(1, SHAPE[1:])
    norm = float(jnp.linalg.norm(psi.ravel()))
    penalty = penalties.dragan(weight=4.0)(linear(psi), draw(2), draw(3), KEY)
    assert float(penalty) == pytest.approx(4 * (norm - 1) ** 2, rel=1e-5)


@each_penalty
def test_gradients_are_finite_for_a_flat_discriminator(penalty):
    def f(psi):
        return penalty(linear(psi), draw(2), draw(3), KEY)

    value, gradient = jax.value_and_grad(f)(jnp.zeros(SHAPE[1:]))
    target = {"gradient_penalty": 0.5, "dragan": 1.0}.get(penalty.__name__, 0.0)
    assert float(value) == pytest.approx(3 * target**2)
    np.testing.assert_array_equal(gradient, 0)


def points_of(penalty, real, fake, key=KEY):
    """The images at which a penalty differentiates the discriminator."""
    seen = []

    def spy(x):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return jnp.sum(x, axis=range(1, x.ndim))

    penalty(spy, real, fake, key)
    jax.effects_barrier()
    return seen[0]


def test_gradient_penalty_looks_at_one_point_on_the_line_between_each_pair():
    real, fake = draw(1, (400, 2, 2, 1)), draw(2, (400, 2, 2, 1))
    u = (points_of(penalties.gradient_penalty(), real, fake) - fake) / (real - fake)
    np.testing.assert_allclose(u, np.broadcast_to(u[:, :1, :1], u.shape), atol=2e-2)
    per_image = np.sort(np.median(u, axis=(1, 2, 3)))
    # Uniform on [0, 1]: the largest deviation of the empirical distribution is below 0.1 (Kolmogorov, p ~ 7e-4).
    assert np.abs(per_image - (np.arange(400) + 0.5) / 400).max() < 0.1


def test_gradient_penalty_of_a_quadratic_discriminator_has_its_expected_value():
    # real = -fake = c e: x' = (2u - 1) c e, so E |grad| = s/2 and E |grad|^2 = s^2/3 with s = scale * c.
    real = jnp.full((100_000, 1), 1.5)
    penalty = penalties.gradient_penalty(weight=10.0)(quadratic(2.0), real, -real, KEY)
    assert float(penalty) == pytest.approx(10 * (3.0**2 / 3 - 3.0 + 1), rel=0.02)


def test_dragan_moves_real_images_up_by_uniform_noise_of_half_their_standard_deviation():
    real, fake = 3 + 2 * draw(1, (50, 4, 4, 3)), draw(2, (50, 4, 4, 3))
    u = (points_of(penalties.dragan(), real, fake) - real) / (0.5 * np.std(real))
    assert -1e-5 < u.min() < 0.01 and 0.99 < u.max() < 1 + 1e-5
    assert np.mean(u) == pytest.approx(0.5, abs=0.02) and np.std(u) == pytest.approx(12**-0.5, abs=0.02)
    assert np.std(u, axis=(1, 2, 3)).min() > 0.2  # each pixel draws for itself


def test_penalties_with_random_points_follow_their_key():
    real, fake = draw(1), draw(2)
    for penalty in (penalties.gradient_penalty(), penalties.dragan()):
        first, again, other = (float(penalty(quadratic(0.3), real, fake, jax.random.key(seed))) for seed in (0, 0, 1))
        assert first == again != other


@each_penalty
@pytest.mark.usefixtures("double_precision")
def test_gradients_through_the_penalty_equal_finite_differences(penalty):
    real, fake = draw(1, (3, 4)), draw(2, (3, 4))
    params = {"w": draw(3, (4, 6)) / 2, "v": draw(4, (6,))}

    def f(params):
        return penalty(lambda x: jnp.tanh(x @ params["w"]) @ params["v"], real, fake, KEY)

    check_grads(f, (params,), order=1, modes=["rev"], rtol=1e-6)


def test_a_discriminator_that_couples_its_images_is_differentiated_as_a_sum():
    # D(x_i) = psi.(x_i - mean x): the sum of all logits is 0 whatever the images are.
    def centred(x):
        return jnp.sum(x - jnp.mean(x, axis=0), axis=range(1, x.ndim))

    assert float(penalties.r1()(centred, draw(1), draw(2), KEY)) == pytest.approx(0, abs=1e-10)


# ---------------------------------------------------------------------------------------------------- variational

# Compiled as wholes: operation by operation these tests would take most of their time to compile.
gaussian_kl = jax.jit(variational.gaussian_kl)
gaussian_kl_per_unit = jax.jit(variational.gaussian_kl_per_unit)
bernoulli_log_likelihood = jax.jit(variational.bernoulli_log_likelihood)
gaussian_log_likelihood = jax.jit(variational.gaussian_log_likelihood)
discretized_logistic_log_likelihood = jax.jit(variational.discretized_logistic_log_likelihood)
importance_weighted_bound = jax.jit(variational.importance_weighted_bound, static_argnames="axis")


def test_gaussian_kl_equals_numbers_computed_by_hand():
    # KL(N(1, 2^2) || N(0, 1)) = (4 + 1 - 1)/2 - log 2;  KL(N(1, 2^2) || N(2, 3^2)) = log(3/2) + (4 + 1)/18 - 1/2.
    mean, logvar = np.array([[1.0]]), np.array([[math.log(4)]])
    assert float(gaussian_kl(mean, logvar)[0]) == pytest.approx(2 - math.log(2), rel=1e-6)
    kl = gaussian_kl(mean, logvar, prior_mean=2.0, prior_logvar=math.log(9))
    assert float(kl[0]) == pytest.approx(math.log(1.5) + 5 / 18 - 0.5, rel=1e-6)


def test_gaussian_kl_is_a_sum_over_latents_for_each_image():
    mean, logvar, prior_mean = draw(1, (3, 2, 4)), draw(2, (3, 2, 4)), draw(3, (4,))
    kl = gaussian_kl(mean, logvar, prior_mean, 0.5)
    assert kl.shape == (3,)
    per_unit = gaussian_kl_per_unit(mean, logvar, prior_mean, 0.5)
    assert per_unit.shape == mean.shape
    np.testing.assert_allclose(kl, per_unit.sum((1, 2)), rtol=1e-6)
    one = gaussian_kl(mean[1, 0, 2].reshape(1, 1), logvar[1, 0, 2].reshape(1, 1), prior_mean[2], 0.5)
    assert float(per_unit[1, 0, 2]) == pytest.approx(float(one[0]), rel=1e-5)


@pytest.mark.usefixtures("double_precision")
def test_gaussian_kl_is_zero_and_flat_where_posterior_and_prior_agree():
    mean, logvar = draw(1, (3, 4)), draw(2, (3, 4))

    def kl(mean_, logvar_):
        return jnp.sum(gaussian_kl(mean_, logvar_, mean, logvar))

    assert float(kl(mean, logvar)) == pytest.approx(0, abs=1e-14)
    for gradient in jax.grad(kl, (0, 1))(mean, logvar):
        np.testing.assert_allclose(gradient, 0, atol=1e-14)
    assert (gaussian_kl(draw(3, (200, 4)), draw(4, (200, 4)), 0.3, -0.2) > 0).all()


@pytest.mark.usefixtures("double_precision")
def test_gaussian_kl_equals_a_monte_carlo_estimate_with_any_prior():
    mean, logvar, prior_mean, prior_logvar = 0.7, math.log(0.3), -0.4, math.log(1.7)
    z = mean + math.exp(logvar / 2) * np.random.default_rng(0).standard_normal(200_000)

    def log_normal(mean, logvar):
        return -0.5 * (math.log(2 * math.pi) + logvar + (z - mean) ** 2 / math.exp(logvar))

    estimates = log_normal(mean, logvar) - log_normal(prior_mean, prior_logvar)
    kl = gaussian_kl(np.array([[mean]]), np.array([[logvar]]), prior_mean, prior_logvar)
    assert float(kl[0]) == pytest.approx(estimates.mean(), abs=5 * estimates.std() / 200_000**0.5)


def all_binary_images(pixels):
    return (np.arange(2**pixels)[:, None] >> np.arange(pixels) & 1).astype(np.float32)


def test_bernoulli_probabilities_of_all_images_sum_to_one():
    x = all_binary_images(6).reshape(-1, 3, 2, 1)
    logits = np.broadcast_to(2 * draw(1, (3, 2, 1)), x.shape)
    log_likelihood = bernoulli_log_likelihood(logits, x)
    assert log_likelihood.shape == (64,)
    assert float(np.sum(np.exp(log_likelihood))) == pytest.approx(1, abs=1e-5)
    mean = np.einsum("b,bhwc->hwc", np.exp(log_likelihood), x)
    np.testing.assert_allclose(mean, jax.nn.sigmoid(logits[0]), rtol=1e-5)


def test_bernoulli_is_a_log_likelihood_and_finite_at_huge_logits():
    logits = np.array([[1e4], [1e4], [-1e4], [-1e4], [0.0]])
    x = np.array([[1.0], [0.0], [1.0], [0.0], [1.0]])
    expected = [0, -1e4, -1e4, 0, -math.log(2)]
    np.testing.assert_allclose(bernoulli_log_likelihood(logits, x), expected, rtol=1e-6)
    gradient = jax.grad(lambda t: jnp.sum(bernoulli_log_likelihood(t, x)))(logits)
    np.testing.assert_allclose(gradient, x - jax.nn.sigmoid(logits))


@pytest.mark.usefixtures("double_precision")
def test_gaussian_density_integrates_to_one_with_its_mean_and_variance():
    mean, variance = 0.3, 0.04
    x = np.linspace(-3, 3, 20_001)[:, None]
    density = np.exp(gaussian_log_likelihood(np.full_like(x, mean), np.log(variance), x))
    moments = [np.trapezoid(density * (x[:, 0] - mean) ** n, x[:, 0]) for n in range(3)]
    np.testing.assert_allclose(moments, [1, 0, variance], atol=1e-9)


def test_gaussian_log_likelihood_sums_pixels_also_where_the_variance_is_shared():
    mean, x = draw(1), draw(2)
    shared = gaussian_log_likelihood(mean, np.array(0.7), x)
    full = gaussian_log_likelihood(mean, np.full(SHAPE, 0.7), x)
    by_hand = -0.5 * (math.log(2 * math.pi) + 0.7 + np.square(x - mean) / math.exp(0.7))
    assert shared.shape == (5,)
    np.testing.assert_allclose(shared, by_hand.sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(shared, full, rtol=1e-5)


LEVELS = np.arange(256.0)
MEANS = [-30.0, -5.0, -1.0, -0.999, -0.3, 0.0, 1 / 255, 0.5, 199.5 / 127.5 - 1, 1.0, 1.01, 30.0]  # some on edges
LOG_SCALES = [-60.0, -30.0, -12.0, -7.0, -3.0, 0.0, 3.0, 9.0, 13.0, 30.0, 60.0]


def log_masses(mean, log_scale):
    x = (LEVELS / 127.5 - 1)[:, None]
    return discretized_logistic_log_likelihood(np.full_like(x, mean), np.full_like(x, log_scale), x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_discretized_logistic_masses_sum_to_one_for_every_mean_and_scale(dtype):
    jax.config.update("jax_enable_x64", dtype == np.float64)
    try:
        x = jnp.asarray((LEVELS / 127.5 - 1)[:, None, None, None], dtype)
        mean = jnp.asarray(MEANS, dtype)[:, None]
        log_scale = jnp.asarray(LOG_SCALES, dtype)
        images = np.broadcast_to(x, (256, 1, len(MEANS), len(LOG_SCALES)))
        per_pixel = jax.vmap(  # one image of one pixel for each combination
            jax.vmap(
                lambda mean, log_scale, x: discretized_logistic_log_likelihood(
                    mean[None], log_scale[None], x[None, None]
                )[0]
            )
        )
        grids = [np.broadcast_to(a, (len(MEANS), len(LOG_SCALES))).ravel() for a in (mean, log_scale)]
        logs = per_pixel(*(np.broadcast_to(g, (256, g.size)) for g in grids), images.reshape(256, -1))
        assert logs.dtype == dtype
        assert np.all(np.isfinite(logs)) and np.all(logs <= 0)
        total = np.exp(np.asarray(logs, np.float64)).sum(0)
        np.testing.assert_allclose(total, 1, atol=1e-12 if dtype == np.float64 else 2e-5)
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.usefixtures("double_precision")
def test_discretized_logistic_masses_are_differences_of_the_distribution_function():
    mean, log_scale = 0.13, -2.0
    edges = (np.arange(1, 256) - 0.5) / 127.5 - 1  # between neighbouring levels
    distribution = np.concatenate([[0], 1 / (1 + np.exp(-(edges - mean) / np.exp(log_scale))), [1]])
    np.testing.assert_allclose(np.exp(log_masses(mean, log_scale)), np.diff(distribution), rtol=1e-9)


def test_discretized_logistic_has_finite_gradients_in_single_precision():
    x = (LEVELS / 127.5 - 1)[:, None]

    @jax.jit
    def gradients(mean, log_scale):
        def total(mean, log_scale):
            return jnp.sum(discretized_logistic_log_likelihood(mean, log_scale, x))

        return jax.grad(total, (0, 1))(jnp.full(x.shape, mean), jnp.full(x.shape, log_scale))

    for mean in MEANS:
        for log_scale in LOG_SCALES:
            assert np.isfinite(gradients(mean, log_scale)).all(), (mean, log_scale)


def test_discretized_logistic_moves_pixels_to_the_nearest_level():
    exact = log_masses(0.2, -3.0)
    for shift in (-0.49, 0.49):
        x = ((LEVELS + shift) / 127.5 - 1)[:, None]
        moved = discretized_logistic_log_likelihood(np.full_like(x, 0.2), np.full_like(x, -3.0), x)
        np.testing.assert_array_equal(moved, exact)
    beyond = np.array([[-1.5], [1.5]])
    off = discretized_logistic_log_likelihood(np.full((2, 1), 0.2), np.full((2, 1), -3.0), beyond)
    np.testing.assert_array_equal(off, exact[np.array([0, 255])])


def test_importance_weighted_bound_is_the_log_of_the_mean_weight():
    log_weights = draw(1, (7, 3))
    np.testing.assert_allclose(
        importance_weighted_bound(log_weights), np.log(np.mean(np.exp(log_weights), axis=0)), rtol=1e-5
    )
    shifted = importance_weighted_bound(log_weights - 3e4)  # weights that underflow by themselves
    np.testing.assert_allclose(shifted, importance_weighted_bound(log_weights) - 3e4, rtol=1e-6)


def test_importance_weighted_bound_with_one_sample_is_that_sample():
    log_weights = draw(1, (1, 5))
    np.testing.assert_array_equal(importance_weighted_bound(log_weights), log_weights[0])


def test_importance_weighted_bound_takes_the_samples_along_any_axis():
    log_weights = draw(1, (2, 3, 4))
    for axis in range(3):
        expected = importance_weighted_bound(np.moveaxis(log_weights, axis, 0))
        for a in (axis, axis - 3):
            np.testing.assert_allclose(importance_weighted_bound(log_weights, axis=a), expected, rtol=1e-5, atol=1e-6)


def linear_gaussian_log_weights(posterior_std_factor, k, n=20_000):
    """z ~ N(0, 1), x ~ N(2 z, 0.5^2) at x = 1.5, and the exact posterior with its deviation scaled by a factor."""
    a, s, x = 2.0, 0.5, 1.5
    variance = 1 / (1 + a**2 / s**2)
    mean, std = variance * a * x / s**2, posterior_std_factor * variance**0.5

    def log_normal(t, mean, std):
        return -0.5 * np.log(2 * np.pi) - np.log(std) - 0.5 * ((t - mean) / std) ** 2

    z = mean + std * np.random.default_rng(0).standard_normal((k, n))
    log_weights = log_normal(z, 0, 1) + log_normal(x, a * z, s) - log_normal(z, mean, std)
    return log_weights, log_normal(x, 0, (a**2 + s**2) ** 0.5)


@pytest.mark.usefixtures("double_precision")
def test_importance_weighted_bound_is_exact_with_the_exact_posterior():
    for k in (1, 3):
        log_weights, exact = linear_gaussian_log_weights(1.0, k, n=10)
        np.testing.assert_allclose(importance_weighted_bound(log_weights), exact, rtol=1e-12)


def test_importance_weighted_bound_rises_with_the_number_of_samples_to_the_likelihood():
    bounds = []
    for k in (1, 2, 5, 50):
        log_weights, exact = linear_gaussian_log_weights(2.0, k)
        bounds.append(float(importance_weighted_bound(log_weights).mean()))
    assert bounds[0] < bounds[1] - 0.1 < bounds[2] - 0.1 < bounds[3] - 0.1 < exact - 0.1
    assert bounds[-1] == pytest.approx(exact, abs=0.02)


def test_uniform_bytes_cost_eight_bits_per_dimension():
    assert float(variational.bits_per_dim(np.array(3 * 32 * 32 * math.log(256)), 3 * 32 * 32)) == pytest.approx(8)


def test_bernoulli_reads_images_in_minus_one_to_one_as_probabilities_in_zero_to_one():
    logits = np.array([[0.7], [0.7]])
    p = 1 / (1 + math.exp(-0.7))
    log_prob = variational.bernoulli.log_prob(logits, np.array([[1.0], [-1.0]]))
    np.testing.assert_allclose(log_prob, [math.log(p), math.log(1 - p)], rtol=1e-6)


def test_mean_images_are_means_of_the_distribution_in_minus_one_to_one():
    logits = np.array([[-1e4, -0.7, 0.0, 0.7, 1e4]])
    p = 1 / (1 + math.exp(-0.7))
    expected = [[-1, 1 - 2 * p, 0, 2 * p - 1, 1]]
    np.testing.assert_allclose(variational.bernoulli.mean(logits), expected, atol=1e-6)
    for likelihood in (variational.gaussian, variational.discretized_logistic):
        np.testing.assert_array_equal(
            likelihood.mean((np.array([[-3.0, 0.25, 3.0]]), None)), np.array([[-1.0, 0.25, 1.0]])
        )


def test_likelihoods_hand_their_parameters_over_in_order():
    mean, width, image = draw(1), draw(2), np.clip(draw(3), -1, 1)
    for likelihood, function in (
        (variational.gaussian, gaussian_log_likelihood),
        (variational.discretized_logistic, discretized_logistic_log_likelihood),
    ):
        np.testing.assert_allclose(likelihood.log_prob((mean, width), image), function(mean, width, image), rtol=1e-5)
