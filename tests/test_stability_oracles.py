"""Closed forms against what games and update rules do: Jacobians of the field and of the step, and simulations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses import adversarial, penalties
from jaxgen.stability import games, oracles, trajectories, updates, verdict
from jaxgen.stability.games import Players
from jaxgen.stability.oracles import LOGISTIC, WASSERSTEIN

pytestmark = pytest.mark.usefixtures("double_precision")

LOSSES = {
    "logistic": (adversarial.minimax, LOGISTIC),
    "non-saturating": (adversarial.non_saturating, LOGISTIC),
    "wasserstein": (adversarial.wasserstein, WASSERSTEIN),
}


def same_spectrum(found, expected, atol=1e-8):
    """Equal as multisets of complex numbers: every number of one has a partner in the other."""
    found, expected = np.ravel(found), list(np.ravel(expected))
    assert len(found) == len(expected)
    for value in found:
        nearest = min(range(len(expected)), key=lambda i: abs(expected[i] - value))
        assert abs(expected.pop(nearest) - value) < atol, (found, expected)


def spectrum(game, adjust=lambda field: field):
    return verdict.field_eigenvalues(adjust(games.field(game)), game.equilibrium)


def random_numbers(seed, num=4, low=0.05, high=3.0):
    return np.random.default_rng(seed).uniform(low, high, num)


# ------------------------------------------------------------------------------------------------------- eigenvalues


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.slow
def test_eigenvalues_of_the_dirac_gan_are_those_of_the_differentiated_field(name):
    loss, link = LOSSES[name]
    same_spectrum(spectrum(games.dirac(loss)), oracles.dirac_eigenvalues(link))
    np.testing.assert_allclose(oracles.dirac_eigenvalues(link), [1j * link.slope, -1j * link.slope])
    for gamma, other, noise in random_numbers(0, (2, 3)):
        r1, r2 = penalties.r1(gamma), penalties.r2(other)
        for terms, weights in (([r1], {"r1": gamma}), ([r2], {"r2": other}), ([r1, r2], {"r1": gamma, "r2": other})):
            same_spectrum(spectrum(games.dirac(loss, terms)), oracles.dirac_eigenvalues(link, **weights))
        found = spectrum(games.dirac(loss, [r1], instance_noise=noise))
        same_spectrum(found, oracles.dirac_eigenvalues(link, r1=gamma, instance_noise=noise))


def test_r1_and_r2_of_one_weight_have_the_eigenvalues_of_the_reference_square_included():
    gamma, s = 0.3, LOGISTIC.slope
    both = oracles.dirac_eigenvalues(LOGISTIC, r1=gamma, r2=gamma)
    same_spectrum(both, [-gamma + 1j * np.sqrt(s**2 - gamma**2), -gamma - 1j * np.sqrt(s**2 - gamma**2)])


@pytest.mark.parametrize("link", [LOGISTIC, WASSERSTEIN])
def test_damping_is_fastest_at_the_critical_weight(link):
    def slowest(gamma, **more):
        return oracles.dirac_eigenvalues(link, r1=gamma, **more).real.max()

    gamma = oracles.critical_gamma(link)
    assert slowest(gamma) < min(slowest(0.9 * gamma), slowest(1.1 * gamma))
    assert np.all(np.abs(oracles.dirac_eigenvalues(link, r1=1.01 * gamma).imag) == 0)
    assert np.all(np.abs(oracles.dirac_eigenvalues(link, r1=0.99 * gamma).imag) > 0)
    half = oracles.critical_gamma(link, num_penalties=2)
    assert slowest(half, r2=half) == pytest.approx(slowest(gamma))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logistic", "wasserstein"])
def test_eigenvalues_of_adjusted_fields(name):
    loss, link = LOSSES[name]
    for weight in random_numbers(1, 2):
        for adjust, oracle in (
            (updates.consensus, oracles.consensus_eigenvalues),
            (updates.symplectic_gradient_adjustment, oracles.symplectic_eigenvalues),
            (updates.gradient_norm_term, oracles.gradient_norm_eigenvalues),
        ):
            found = spectrum(games.dirac(loss), lambda field, a=adjust, w=weight: a(field, w))
            same_spectrum(found, oracle(link, weight))


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_eigenvalues_of_the_shift_gan_hold_for_any_batch(name):
    loss, link = LOSSES[name]
    rng = np.random.default_rng(2)
    for gamma in (0.0, 0.6):
        samples = rng.normal(0.3, 1.5, size=(6, 3))
        found = spectrum(games.shift(samples, loss, [penalties.r1(gamma)]))
        same_spectrum(found, oracles.shift_eigenvalues(link, samples.T @ samples / 6, gamma))
    covariance = np.diag([0.5, 2.0, 7.0])
    found = spectrum(games.shift(games.sigma_points(covariance), loss))
    same_spectrum(found, oracles.shift_eigenvalues(link, covariance))


def test_eigenvalues_of_the_bilinear_game_and_of_the_saddle():
    for shape in ((3, 3), (2, 4), (4, 1)):
        matrix = np.random.default_rng(3).normal(size=shape)
        same_spectrum(spectrum(games.bilinear(matrix)), oracles.bilinear_eigenvalues(matrix))
    same_spectrum(spectrum(games.ttur_saddle()), oracles.SADDLE_EIGENVALUES)


# ------------------------------------------------------------------------------------ the table from spectrum to step

STEPS = {  # (rule of a rate, factor of z)
    "simultaneous": (updates.simultaneous, oracles.simultaneous_factor),
    "heavy ball": (
        lambda h: updates.heavy_ball(h, 0.6),
        functools.partial(oracles.heavy_ball_factor, momentum=0.6),
    ),
    "negative momentum": (
        lambda h: updates.heavy_ball(h, -0.4),
        functools.partial(oracles.heavy_ball_factor, momentum=-0.4),
    ),
    "extragradient": (updates.extragradient, oracles.extragradient_factor),
    "optimistic": (updates.optimistic, oracles.optimistic_factor),
    "lookahead": (
        lambda h: updates.lookahead(updates.simultaneous(h), 4, 0.3),
        functools.partial(oracles.lookahead_factor, num_steps=4, alpha=0.3),
    ),
}


def random_games():
    """(game, eigenvalues in closed form): rotating, damped, overdamped, of several dimensions."""
    rng = np.random.default_rng(4)
    for loss, link in LOSSES.values():
        for gamma in (0.0, 0.4, 2.5):
            yield games.dirac(loss, [penalties.r1(gamma)]), oracles.dirac_eigenvalues(link, r1=gamma)
    matrix = rng.normal(size=(3, 3))
    yield games.bilinear(matrix), oracles.bilinear_eigenvalues(matrix)
    covariance = np.diag([0.2, 1.0, 5.0])
    yield games.shift(games.sigma_points(covariance)), oracles.shift_eigenvalues(LOGISTIC, covariance)


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_the_table_gives_the_spectral_radius_of_the_step_and_the_rate_at_which_it_reaches_one(name):
    rule, factor = STEPS[name]
    for game, eigenvalues in random_games():
        radius = radius_of_rate(rule, game)
        for h in random_numbers(5, 3, 0.01, 1.5):
            assert radius(h) == pytest.approx(factor(h * eigenvalues).max(), abs=1e-8)
        limit = oracles.largest_stable_rate(eigenvalues, factor)
        if limit == 0:
            assert radius(1e-3) >= 1 - 1e-12
        else:
            assert radius(0.999 * limit) < 1 < radius(1.001 * limit)
            assert radius(0.5 * limit) < 1


def radius_of_rate(rule, game):
    """rate -> spectral radius of the differentiated step at the equilibrium."""

    @jax.jit
    def jacobian(h):
        step, point = updates.step_map(rule(h), games.field(game), game.equilibrium)
        return jax.jacobian(step)(point)

    return lambda h: np.abs(np.linalg.eigvals(np.asarray(jacobian(h)))).max()


def test_the_ellipse_of_heavy_ball_is_where_both_roots_are_inside_the_unit_circle():
    rng = np.random.default_rng(6)
    z = rng.uniform(-4.5, 0.5, 4000) + 1j * rng.uniform(-2, 2, 4000)
    b = rng.uniform(-0.99, 0.99, 4000)
    inside = oracles.heavy_ball_is_stable(z, b)
    np.testing.assert_array_equal(inside, oracles.heavy_ball_factor(z, b) < 1)
    assert 0.05 < inside.mean() < 0.95


@pytest.mark.slow
def test_the_proximal_factor_is_that_of_the_implicit_step():
    for game, eigenvalues in random_games():
        size = len(eigenvalues)
        step, _ = updates.step_map(updates.simultaneous(1.0), games.field(game), game.equilibrium)
        jacobian = jax.jacobian(step)(jnp.zeros(size)) - np.eye(size)
        implicit = np.linalg.inv(np.eye(size) - 0.7 * jacobian)
        found = np.abs(np.linalg.eigvals(implicit)).max()
        assert found == pytest.approx(oracles.proximal_factor(0.7 * eigenvalues).max(), abs=1e-7)


def test_the_largest_simultaneous_rate_has_a_closed_form():
    rng = np.random.default_rng(7)
    for _ in range(5):
        mu = rng.uniform(-3, -0.1, 4) + 1j * rng.normal(size=4)
        assert oracles.largest_stable_rate(mu) == pytest.approx(oracles.largest_simultaneous_rate(mu), rel=1e-9)
    assert oracles.largest_simultaneous_rate([1j, -1j]) == oracles.largest_stable_rate([1j, -1j]) == 0
    assert oracles.largest_stable_rate([0.0]) == 0
    assert oracles.largest_stable_rate([-1.0], oracles.proximal_factor) == np.inf
    # Both players at one rate on the saddle of two time scales: 2 / 200.
    assert oracles.largest_stable_rate(oracles.SADDLE_EIGENVALUES) == pytest.approx(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_the_simulated_slope_is_the_logarithm_of_the_spectral_radius(name):
    rule, factor = STEPS[name]
    for loss, link in LOSSES.values():
        for gamma, h in ((0.0, 0.3), (0.3, 0.2)):
            game = games.dirac(loss, [penalties.r1(gamma)])
            start = Players(1e-100, 1e-100)  # so near that nothing but the linear part is left
            distance = distances(rule(h), game, start, 1200)
            predicted = np.log(factor(h * oracles.dirac_eigenvalues(link, r1=gamma)).max())
            assert float(trajectories.slope(distance)) == pytest.approx(predicted, abs=1e-4)


# ------------------------------------------------------------------------------------------------ two rates, exactly


def random_rates(seed, num=2000):
    """Log-uniform rates and weights on both sides of every boundary."""
    return np.exp(np.random.default_rng(seed).uniform(np.log(0.03), np.log(30), (3, num)))


def two_rate_radius(make_rule, loss, rates):
    """Spectral radii of the differentiated step, [num]."""

    def jacobian(eta_g, eta_d, gamma):
        game = games.dirac(loss, [penalties.r1(gamma)])
        step, point = updates.step_map(make_rule(Players(eta_g, eta_d)), games.field(game), game.equilibrium)
        return jax.jacobian(step)(point)

    return np.abs(np.linalg.eigvals(np.asarray(jax.jit(jax.vmap(jacobian))(*rates)))).max(axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_two_rates_and_r1_are_stable_exactly_where_the_closed_forms_say(name):
    loss, link = LOSSES[name]
    rates = random_rates(8)
    cases = [(updates.simultaneous, oracles.simultaneous_is_stable, {})]
    for counts in ((1, 1), (1, 3), (2, 1), (2, 2)):
        steps = dict(zip(("num_generator_steps", "num_discriminator_steps"), counts, strict=True))
        for first in (False, True):
            rule = functools.partial(updates.alternating, discriminator_first=first, **steps)
            cases.append((rule, oracles.alternating_is_stable, steps))
    for rule, oracle, steps in cases:
        stable = two_rate_radius(rule, loss, rates) < 1
        np.testing.assert_array_equal(stable, oracle(*rates, link.slope, **steps))
        assert 0.01 < stable.mean() < 0.99


def test_with_one_step_each_the_alternating_region_is_the_one_of_the_reference():
    g, d, gamma = random_rates(9)
    expected = (0 < d * gamma) & (d * gamma < 2) & (g * d * 0.25 < 4 - 2 * d * gamma)
    np.testing.assert_array_equal(oracles.alternating_is_stable(g, d, gamma, 0.5), expected)


def test_alternating_is_not_always_the_more_stable():
    assert oracles.simultaneous_is_stable(1.0, 1.0, 2.0) and not oracles.alternating_is_stable(1.0, 1.0, 2.0)
    game = games.dirac(adversarial.wasserstein, [penalties.r1(2.0)])
    found = verdict.step_eigenvalues(updates.simultaneous(1.0), games.field(game), game.equilibrium)
    np.testing.assert_allclose(found, 0, atol=1e-7)  # it lands on the equilibrium


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_without_a_penalty_only_the_product_of_the_rates_matters(name):
    loss, link = LOSSES[name]
    g, d, _ = random_rates(10)
    radius = two_rate_radius(updates.simultaneous, loss, (g, d, np.zeros_like(g)))
    np.testing.assert_allclose(radius, oracles.simultaneous_growth(g, d, link.slope), rtol=1e-8)
    for counts in ((1, 1), (2, 3)):
        steps = dict(zip(("num_generator_steps", "num_discriminator_steps"), counts, strict=True))
        radius = two_rate_radius(functools.partial(updates.alternating, **steps), loss, (g, d, np.zeros_like(g)))
        keeps = oracles.alternating_keeps_an_orbit(g, d, link.slope, **steps)
        np.testing.assert_allclose(radius[keeps], 1, atol=1e-7)
        assert radius[~keeps].min() > 1 + 1e-6
        assert 0.05 < keeps.mean() < 0.95


@pytest.mark.parametrize("discriminator_first", [False, True])
def test_alternating_steps_conserve_their_ellipse(discriminator_first):
    game = games.dirac(adversarial.wasserstein)
    for h in (0.1, 0.9, 1.9):
        rule = updates.alternating(h, discriminator_first=discriminator_first)
        theta, psi = updates.run(rule, games.field(game), Players(1.0, 0.4), 500)
        invariant = oracles.alternating_invariant(theta, psi, h, discriminator_first=discriminator_first)
        np.testing.assert_allclose(invariant, invariant[0], rtol=1e-10)
        assert np.ptp(oracles.alternating_invariant(theta, psi, h, discriminator_first=not discriminator_first)) > 0.01


def test_momentum_stabilises_alternating_players_where_it_is_negative_and_simultaneous_ones_nowhere():
    game = games.dirac(adversarial.wasserstein)
    rng = np.random.default_rng(11)
    rates, momenta = rng.uniform(0.02, 3, 1000), rng.uniform(-0.98, 0.98, 1000)

    def radii(make_rule):
        def jacobian(h, b):
            step, point = updates.step_map(make_rule(h, b), games.field(game), game.equilibrium)
            return jax.jacobian(step)(point)

        return np.abs(np.linalg.eigvals(np.asarray(jax.jit(jax.vmap(jacobian))(rates, momenta)))).max(axis=-1)

    assert radii(updates.heavy_ball).min() > 1
    alternating = radii(lambda h, b: updates.alternating(h, momentum=b))
    stable = oracles.alternating_momentum_is_stable(rates, momenta)
    np.testing.assert_array_equal(alternating < 1, stable)
    assert 0.1 < stable.mean() < 0.5


# ------------------------------------------------------------------------------------------------- cycles and clipping


def distances(rule, game, start, num_steps, field=lambda field: field):
    run = jax.jit(lambda start: updates.run(rule, field(games.field(game)), start, num_steps))
    return np.asarray(trajectories.radius(run(start), game.equilibrium))


@pytest.mark.slow
def test_simultaneous_non_saturating_players_end_on_a_cycle_that_grows_with_the_root_of_the_rate():
    game = games.dirac(adversarial.non_saturating)
    for h, tolerance in ((0.08, 0.02), (0.02, 0.005)):
        for start in (0.3, 1.5):  # from inside and from outside
            scaled = Players(start * np.sqrt(2 * h), 0.0)
            radius = distances(updates.simultaneous(h), game, scaled, round(80 / h**2))
            tail = radius[-round(40 * np.pi / h) :]
            assert np.sqrt(np.mean(tail**2)) == pytest.approx(oracles.non_saturating_cycle_radius(h), rel=tolerance)
            assert trajectories.GROWTH_LAWS[trajectories.growth_law(jnp.asarray(radius))] == "cycle"


@pytest.mark.slow
def test_alternating_non_saturating_players_decay_like_one_over_the_root_of_time():
    game, h = games.dirac(adversarial.non_saturating), 0.02
    radius = distances(updates.alternating(h), game, Players(0.3, 0.0), 200_000)
    for t in (20_000, 200_000):
        assert radius[t] == pytest.approx(oracles.non_saturating_radius(0.3, t, h), rel=0.02)
    assert trajectories.GROWTH_LAWS[trajectories.growth_law(jnp.asarray(radius))] == "decay"


def test_the_wasserstein_gan_with_gradient_penalty_ends_on_its_cycle():
    weight, h = 0.05, 0.002
    for target in (1.0, 0.3):
        game = games.dirac(adversarial.wasserstein, [penalties.gradient_penalty(weight / 2, target)])
        for rule, gain in ((updates.simultaneous, 1), (updates.alternating, 0), (updates.extragradient, -1)):
            radius = distances(rule(h), game, Players(0.0, 2 * target), 200_000)
            mean = np.sqrt(np.mean(radius[-round(20 * np.pi / h) :] ** 2))
            expected = oracles.gradient_penalty_cycle_radius(target, gain * h / weight)
            assert mean == pytest.approx(expected, rel=0.002)


@pytest.mark.slow
def test_a_joint_clip_turns_exponential_divergence_into_square_root_growth():
    game, h, c = games.bilinear(np.eye(1), start=(np.array([0.8]), np.array([0.6]))), 0.1, 0.5
    rule = updates.simultaneous(h)
    clipped = distances(rule, game, game.start, 3000, lambda field: updates.clip_jointly(field, c))
    np.testing.assert_allclose(clipped, oracles.jointly_clipped_radius(1.0, np.arange(3001), h, c), rtol=1e-10)
    assert trajectories.GROWTH_LAWS[trajectories.growth_law(jnp.asarray(clipped))] == "square-root growth"
    free = distances(rule, game, game.start, 3000)
    np.testing.assert_allclose(free, oracles.simultaneous_growth(h, h) ** np.arange(3001), rtol=1e-10)
    assert trajectories.GROWTH_LAWS[trajectories.growth_law(jnp.asarray(free))] == "exponential"


def test_a_joint_clip_keeps_orbits_and_a_clip_per_player_keeps_the_huber_energy():
    game, c = games.dirac(adversarial.wasserstein), 0.4
    start, h = Players(1.3, -0.2), 1e-3
    ends = {}
    for name, clip in (("joint", updates.clip_jointly), ("per player", updates.clip_per_player)):
        run = jax.jit(
            lambda start, clip=clip: updates.run(updates.simultaneous(h), clip(games.field(game), c), start, 20_000)
        )
        ends[name] = run(start)
    squares = {name: np.asarray(theta**2 + psi**2) for name, (theta, psi) in ends.items()}
    energies = {name: oracles.per_player_clip_energy(*end, c) for name, end in ends.items()}
    np.testing.assert_allclose(squares["joint"], squares["joint"][0], rtol=5e-3)  # the Euler step adds h^2 c^2
    np.testing.assert_allclose(energies["per player"], energies["per player"][0], rtol=5e-3)
    assert np.ptp(squares["per player"]) > 0.3 and np.ptp(energies["joint"]) > 0.05
    assert np.abs(np.asarray(ends["joint"].generator)).min() < 0.01  # they did turn


def test_the_slope_of_huber_is_the_clipped_number():
    x = np.linspace(-2, 2, 41) + 0.01
    slope = (oracles.huber(x + 1e-6, 0.7) - oracles.huber(x - 1e-6, 0.7)) / 2e-6
    np.testing.assert_allclose(slope, np.clip(x, -0.7, 0.7), atol=1e-6)


# -------------------------------------------------------------------------------------------------------- mode coverage


def test_a_perfect_sampler_has_the_share_and_the_kl_that_are_its_floor():
    rng = np.random.default_rng(12)
    points = rng.normal(size=(400_000, 2))
    assert np.mean(np.linalg.norm(points, axis=1) < 3) == pytest.approx(oracles.perfect_high_quality_share(), abs=5e-4)
    assert oracles.perfect_high_quality_share() == pytest.approx(1 - np.exp(-4.5))
    for num_modes in (8, 25):
        counts = rng.multinomial(2500, np.full(num_modes, 1 / num_modes), size=4000) / 2500
        kl = np.sum(counts * np.log(counts * num_modes), axis=1).mean()
        assert kl == pytest.approx(oracles.perfect_sampler_kl(num_modes, 2500), rel=0.03)


def test_closed_forms_are_double_precision_whatever_jax_is_set_to():
    with jax.enable_x64(False):
        assert oracles.dirac_eigenvalues(LOGISTIC, r1=np.float32(0.3)).dtype == np.complex128
        assert oracles.shift_eigenvalues(LOGISTIC, jnp.eye(2)).dtype == np.complex128
        found = verdict.judge(
            updates.simultaneous,
            Players(0.1, 0.2),
            games.field(games.dirac(penalties=[penalties.r1(1.0)])),
            start=Players(1.0, 1.0),
            equilibrium=Players(0.0, 0.0),
            num_steps=100,
        )
        same_spectrum(found.eigenvalues, oracles.dirac_eigenvalues(LOGISTIC, r1=1.0), atol=1e-7)
        assert found.final.generator.dtype == np.float64
