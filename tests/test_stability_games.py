"""The games of the stability laboratory are the ones of the literature, made of the library's own losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses import adversarial, penalties
from jaxgen.stability import games, oracles, verdict
from jaxgen.stability.games import Players

pytestmark = pytest.mark.usefixtures("double_precision")

POINTS = np.random.default_rng(0).normal(size=(5, 2))


def sigmoid(t):
    return 1 / (1 + np.exp(-t))


def logistic_slope(t):
    """f'(t) of f(t) = -log(1 + exp(-t))."""
    return sigmoid(-t)


def check_field(game, by_hand):
    v = jax.jit(games.field(game))
    for theta, psi in POINTS:
        np.testing.assert_allclose(v(Players(theta, psi)), by_hand(theta, psi), rtol=1e-10, atol=1e-13)


def test_the_dirac_gans_are_those_of_the_paper():
    check_field(
        games.dirac(), lambda t, p: (-p * logistic_slope(p * t), t * logistic_slope(p * t))
    )  # v = (-dL/dtheta, +dL/dpsi)
    check_field(
        games.dirac(adversarial.non_saturating),
        lambda t, p: (-p * logistic_slope(-p * t), t * logistic_slope(p * t)),
    )
    check_field(games.dirac(adversarial.wasserstein), lambda t, p: (-p, t))


def test_penalties_add_what_the_literature_says_to_the_discriminator_alone():
    terms = [penalties.r1(0.3), penalties.r2(0.5)]
    check_field(games.dirac(adversarial.wasserstein, terms), lambda t, p: (-p, t - 0.8 * p))
    g, g0 = 0.7, 0.4
    check_field(
        games.dirac(adversarial.wasserstein, [penalties.gradient_penalty(g / 2, g0)]),
        lambda t, p: (-p, t - g * (abs(p) - g0) * np.sign(p)),
    )
    # At psi = 0, where the norm has a kink, the penalty leaves psi alone.
    v = games.field(games.dirac(adversarial.wasserstein, [penalties.gradient_penalty(g / 2, g0)]))
    assert [float(x) for x in v(Players(0.3, 0.0))] == [0.0, 0.3]


@pytest.mark.parametrize("loss", [adversarial.minimax, adversarial.relativistic])
@pytest.mark.slow
def test_instance_noise_is_the_expectation_over_independent_noises(loss):
    std, (theta, psi) = 0.7, (0.8, -0.6)
    v = games.field(games.dirac(loss, instance_noise=std))(Players(theta, psi))
    noises = std * np.random.default_rng(1).normal(size=(2, 400_000))

    def sampled(players):
        logits = -players.discriminator * noises[0], -players.discriminator * (players.generator + noises[1])
        return Players(jnp.mean(loss.generator(*logits)), jnp.mean(loss.discriminator(*logits)))

    expected = games.field(games.Game(sampled, Players(theta, psi), Players(0.0, 0.0)))(Players(theta, psi))
    np.testing.assert_allclose(v, expected, atol=3e-3)
    finer = games.field(games.dirac(loss, instance_noise=std, num_nodes=24))(Players(theta, psi))
    np.testing.assert_allclose(v, finer, atol=1e-7)


def test_no_noise_and_noise_of_std_zero_are_one_game():
    point = Players(0.4, -1.2)
    quiet, noisy = (games.field(games.dirac(instance_noise=std))(point) for std in (None, 0.0))
    np.testing.assert_allclose(quiet, noisy, rtol=1e-13)


@pytest.mark.parametrize(
    ("loss", "link"),
    [
        (adversarial.minimax, oracles.LOGISTIC),
        (adversarial.non_saturating, oracles.LOGISTIC),
        (adversarial.wasserstein, oracles.WASSERSTEIN),
        (adversarial.hinge, oracles.WASSERSTEIN),
    ],
)
def test_the_links_are_the_derivatives_of_the_librarys_losses(loss, link):
    def value(t):  # what the discriminator maximises, as a function of its fake score t = -logit
        return -loss.discriminator(jnp.zeros(1), -t[None])[0]

    assert abs(jax.grad(value)(0.0)) == pytest.approx(link.slope)
    assert abs(jax.grad(jax.grad(value))(0.0)) == pytest.approx(link.curvature)


def test_the_shift_gan_in_one_dimension_with_one_point_at_zero_is_the_dirac_gan():
    terms = [penalties.r1(0.3)]
    shift = games.field(games.shift(np.zeros((1, 1)), adversarial.non_saturating, terms))
    dirac = games.field(games.dirac(adversarial.non_saturating, terms))
    for theta, psi in POINTS:
        v = shift(Players(np.array([theta]), np.array([psi])))
        np.testing.assert_allclose(np.ravel(v), dirac(Players(theta, psi)), rtol=1e-12)


def test_the_shift_gan_rests_at_zero_whatever_its_batch():
    game = games.shift(np.random.default_rng(2).normal(1.0, 2.0, size=(7, 3)), penalties=[penalties.r1(1.0)])
    np.testing.assert_allclose(np.concatenate(games.field(game)(game.equilibrium)), np.zeros(6), atol=1e-15)


def test_sigma_points_have_mean_zero_and_the_moments_asked_for():
    root = np.random.default_rng(3).normal(size=(4, 4))
    covariance = root @ root.T
    points = games.sigma_points(covariance)
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-14)
    np.testing.assert_allclose(points.T @ points / len(points), covariance, rtol=1e-12)


def test_the_bilinear_game_turns_and_the_saddle_of_two_time_scales_attracts():
    matrix = np.random.default_rng(4).normal(size=(3, 2))
    theta, psi = np.arange(3.0), np.array([-1.0, 2.0])
    v = games.field(games.bilinear(matrix))(Players(theta, psi))
    np.testing.assert_allclose(v.generator, -matrix @ psi, rtol=1e-13)
    np.testing.assert_allclose(v.discriminator, matrix.T @ theta, rtol=1e-13)
    check_field(games.ttur_saddle(), lambda x, y: (-2 * x * (100 - y**2), -2 * y * (1 + x**2)))


def test_players_may_be_any_trees():
    def losses(players):
        value = jnp.sum(players.generator["a"]) * players.discriminator[0] + players.generator["b"] ** 2
        return Players(value, -value)

    w = Players({"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}, [jnp.array(4.0)])
    v = games.field(games.Game(losses, w, w))(w)
    np.testing.assert_allclose(v.generator["a"], [-4.0, -4.0])
    assert float(v.generator["b"]) == -6 and float(v.discriminator[0]) == 3


def test_games_made_in_single_precision_are_used_in_double_and_back():
    with jax.enable_x64(False):
        game = games.dirac(penalties=[penalties.r1(0.1)])
        assert games.field(game)(game.start).generator.dtype == jnp.float32
    assert games.field(game)(game.start).generator.dtype == jnp.float64
    assert len(verdict.field_eigenvalues(games.field(game), game.equilibrium)) == 2


def test_a_penalty_weight_can_be_mapped():
    def direction(gamma):
        return games.field(games.dirac(adversarial.wasserstein, [penalties.r1(gamma)]))(Players(1.0, 2.0)).discriminator

    np.testing.assert_allclose(jax.vmap(direction)(jnp.array([0.0, 0.5])), [1.0, 0.0])


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"samples are \[N, d\] with N at least 1, not of shape \(3,\)"):
        games.shift(np.zeros(3))
    with pytest.raises(ValueError, match=r"not of shape \(0, 2\)"):
        games.shift(np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"a matrix \[n, m\], not an array of shape \(2,\)"):
        games.bilinear(np.zeros(2))
