"""Growth laws and slopes, of made-up and of real trajectories; the verdict on a setting."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses import adversarial, penalties
from jaxgen.stability import games, trajectories, updates, verdict
from jaxgen.stability.games import Players

TIME = np.arange(4001.0)
TURN = 0.3 * np.sin(0.11 * TIME)  # an orbit that is no circle


def law(radius):
    return trajectories.GROWTH_LAWS[int(trajectories.growth_law(jnp.asarray(radius)))]


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("turning", [False, True])
@pytest.mark.parametrize(
    ("radius", "expected"),
    [
        (np.exp(-0.01 * TIME), "decay"),
        (np.exp(-1e-4 * TIME), "decay"),
        (np.exp(-1.0 * TIME), "decay"),  # below the smallest number
        (1 / np.sqrt(1 + 0.1 * TIME), "decay"),
        (0.5 + np.exp(-0.01 * TIME), "cycle"),  # from outside
        (0.5 - 0.4 * np.exp(-0.002 * TIME), "cycle"),  # from inside
        (np.ones_like(TIME), "cycle"),
        (np.sqrt(1 + 0.1 * TIME), "square-root growth"),
        (np.sqrt(1 + 1e-4 * TIME), "square-root growth"),
        (np.sqrt(TIME), "square-root growth"),
        (TIME**0.3, "square-root growth"),  # all that is slower than exponential
        (1 + TIME, "square-root growth"),
        (np.exp(0.01 * TIME), "exponential"),
        (np.exp(2e-4 * TIME), "exponential"),
        (np.exp(0.17 * TIME), "exponential"),
        (np.exp(0.1 * TIME) * 1e-200, "exponential"),
    ],
)
def test_laws_of_made_up_radii(radius, expected, turning):
    assert law(radius * (1 + TURN) if turning else radius) == expected


@pytest.mark.usefixtures("double_precision")
def test_the_law_does_not_depend_on_the_unit():
    for radius in (np.exp(-0.01 * TIME), np.ones_like(TIME), np.sqrt(1 + TIME), np.exp(0.01 * TIME)):
        assert len({law(scale * radius) for scale in (1e-250, 1.0, 1e250)}) == 1


def test_what_is_not_finite_has_exploded_and_what_is_zero_has_decayed():
    for value in (np.nan, np.inf):
        radius = np.ones(100, np.float32)
        radius[70:] = value
        assert law(radius) == "exponential"
    assert law(np.zeros(100, np.float32)) == "decay"


@pytest.mark.usefixtures("double_precision")
def test_noise_around_a_level_is_no_growth_and_growth_under_noise_is():
    noise = np.random.default_rng(0).normal(size=(200, 100))
    fallen = np.exp(-0.2 * TIME[:100]) + 0.1 * np.exp(0.3 * noise)  # converged, up to the noise of its gradients
    found = np.asarray(trajectories.growth_law(jnp.asarray(fallen)))
    assert np.mean(found == trajectories.CYCLE) > 0.95
    grown = np.sqrt(1 + 0.1 * TIME[:100]) * np.exp(0.05 * noise)
    assert np.mean(np.asarray(trajectories.growth_law(jnp.asarray(grown))) == trajectories.SQUARE_ROOT) > 0.95
    shrunk = np.exp(-0.01 * TIME[:100]) * np.exp(0.05 * noise)
    assert np.mean(np.asarray(trajectories.growth_law(jnp.asarray(shrunk))) == trajectories.DECAY) > 0.95


@pytest.mark.slow
def test_laws_are_mapped_over_members_in_single_precision():
    radii = np.stack([np.exp(-0.01 * TIME), 1 + TURN, np.sqrt(1 + TIME), np.exp(0.005 * TIME)]).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(trajectories.growth_law)(radii), range(4))
    np.testing.assert_array_equal(jax.vmap(trajectories.growth_law)(radii), range(4))
    np.testing.assert_array_equal(trajectories.growth_law(radii[:, ::40]), [0, 1, 2, 3])


def test_too_short_a_run_has_no_law():
    with pytest.raises(ValueError, match="needs at least 32 values, not 31"):
        trajectories.growth_law(jnp.ones(31))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("rate", [-0.3, -1e-4, 0.0, 0.05])
def test_the_slope_is_the_rate_of_the_exponential_whatever_the_turns(rate):
    radius = np.exp(rate * TIME[:2001]) * (1 + TURN[:2001])
    assert float(trajectories.slope(jnp.asarray(radius))) == pytest.approx(rate, abs=1e-6)


@pytest.mark.usefixtures("double_precision")
def test_the_radius_is_the_distance_of_both_players_together_and_never_underflows():
    trajectory = Players(jnp.array([[3.0, 0.0], [1e-200, 0.0]]), {"a": jnp.array([5.0, 1.0])})
    radius = trajectories.radius(trajectory, Players(jnp.zeros(2), {"a": jnp.array(1.0)}))
    np.testing.assert_allclose(radius, [5.0, 1e-200])
    assert np.isinf(trajectories.radius(Players(jnp.array([jnp.inf]), jnp.array([1.0])), Players(0.0, 0.0)))
    assert float(trajectories.radius(Players(jnp.array([1e300]), jnp.array([1e300])), Players(0.0, 0.0))[0]) > 1e300


# --------------------------------------------------------------------------------------------------------- the verdict

WASSERSTEIN = games.dirac(adversarial.wasserstein)


def judge(make_rule, game=WASSERSTEIN, rates=(0.1, 0.1), clip=lambda field: field, num_steps=4000):
    start = Players(1.0, 0.5)
    field = clip(games.field(game))
    return verdict.judge(
        make_rule, Players(*rates), field, start=start, equilibrium=game.equilibrium, num_steps=num_steps
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make_rule", "expected"),
    [
        (updates.simultaneous, "exponential"),
        (updates.alternating, "cycle"),
        (functools.partial(updates.alternating, momentum=-0.2), "decay"),
        (functools.partial(updates.alternating, momentum=0.2), "exponential"),
        (functools.partial(updates.heavy_ball, momentum=-0.5), "exponential"),
        (updates.extragradient, "decay"),
        (updates.optimistic, "decay"),
        (lambda rates: updates.lookahead(updates.simultaneous(rates), 5, 0.5), "decay"),
    ],
)
def test_laws_of_the_update_rules_on_a_game_that_only_turns(make_rule, expected):
    found = judge(make_rule)
    assert found.growth_law == expected
    assert found.stable == (expected == "decay")


@pytest.mark.parametrize(
    ("clip", "expected"),
    [(updates.clip_jointly, "square-root growth"), (updates.clip_per_player, "square-root growth")],
)
def test_a_clip_hides_divergence_from_the_last_value_but_not_from_the_law(clip, expected):
    found = judge(updates.simultaneous, clip=lambda field: clip(field, 0.1))
    assert found.growth_law == expected and found.final_radius < 2
    assert not found.stable and found.largest_stable_scale == 0


def test_the_largest_scale_of_two_rates_is_that_of_the_closed_form():
    gamma, (eta_g, eta_d) = 1.2, (0.1, 0.4)
    game = games.dirac(adversarial.wasserstein, [penalties.r1(gamma)])
    # eta_G < gamma and eta_D (gamma - eta_G / 2) < 2, the first root of the latter in the common factor
    first = gamma / eta_g
    roots = np.roots([-eta_d * eta_g / 2, eta_d * gamma, -2])
    second = min(root.real for root in roots if abs(root.imag) < 1e-12)
    found = judge(updates.simultaneous, game, (eta_g, eta_d))
    assert found.largest_stable_scale == pytest.approx(min(first, second), rel=1e-8)
    found = judge(updates.alternating, game, (eta_g, eta_d))
    # eta_G eta_D k^2 < 4 - 2 eta_D gamma k
    root = max(np.roots([eta_g * eta_d, 2 * eta_d * gamma, -4]))
    assert found.largest_stable_scale == pytest.approx(min(2 / (eta_d * gamma), root), rel=1e-8)
    assert found.stable and found.growth_law == "decay" and found.final_radius < 1e-100


@pytest.mark.slow
def test_tiny_and_huge_rates_have_a_largest_scale_too():
    game = games.dirac(adversarial.wasserstein, [penalties.r1(0.5)])
    limits = [
        judge(updates.simultaneous, game, (h, h), num_steps=40).largest_stable_scale * h for h in (1e-6, 0.1, 1e3)
    ]
    np.testing.assert_allclose(limits, 0.5, rtol=1e-7)


def test_another_games_equilibrium_and_too_short_a_run_are_refused():
    with pytest.raises(ValueError, match="the field is not 0 at the equilibrium but 1"):
        verdict.judge(
            updates.simultaneous,
            Players(0.1, 0.1),
            games.field(WASSERSTEIN),
            start=Players(1.0, 1.0),
            equilibrium=Players(1.0, 0.0),
            num_steps=100,
        )
    with pytest.raises(ValueError, match="at least 31 steps, not 30"):
        judge(updates.simultaneous, num_steps=30)
