"""Update rules: each against its definition by hand, and under jit, vmap and pytrees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.stability import games, updates
from jaxgen.stability.games import Players

pytestmark = pytest.mark.usefixtures("double_precision")

START = Players(np.array([1.0, -0.5]), np.array([0.3, 0.8, -1.1]))
RATES = Players(0.05, 0.2)
H = np.array([0.05] * 2 + [0.2] * 3)
MATRIX = np.random.default_rng(0).normal(size=(2, 3))


def losses(players):
    """Neither bilinear nor zero-sum, and not separable."""
    theta, psi = players
    value = theta @ jnp.asarray(MATRIX) @ psi
    return Players(value + 0.1 * jnp.sum(theta**4) + jnp.sin(value), -value + 0.2 * jnp.sum(jnp.cosh(psi)))


FIELD = games.field(games.Game(losses, START, START))


def flat(players):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(players)])


def v(w):
    return flat(FIELD(Players(jnp.asarray(w[:2]), jnp.asarray(w[2:]))))


def trajectory(rule, num_steps=4, field=FIELD):
    players = jax.jit(lambda start: updates.run(rule, field, start, num_steps))(START)
    return np.concatenate(list(players), axis=1)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def follow(step, num_steps=4):
    """The trajectory of w -> step(w)."""
    points = [flat(START)]
    for _ in range(num_steps):
        points.append(step(points[-1]))
    return np.stack(points)


def test_simultaneous_is_a_step_along_the_field_with_each_players_rate():
    close(trajectory(updates.simultaneous(RATES)), follow(lambda w: w + H * v(w)))


def test_one_rate_is_a_rate_for_both():
    close(trajectory(updates.simultaneous(0.1)), trajectory(updates.simultaneous(Players(0.1, 0.1))))


@pytest.mark.parametrize("discriminator_first", [False, True])
def test_alternating_players_take_their_steps_one_after_the_other(discriminator_first):
    def player_step(w, player, times):
        for _ in range(times):
            mask = np.array([player == 0] * 2 + [player == 1] * 3)
            w = w + mask * H * v(w)
        return w

    def step(w):
        order = [(0, 2), (1, 3)]
        for player, times in reversed(order) if discriminator_first else order:
            w = player_step(w, player, times)
        return w

    rule = updates.alternating(
        RATES, num_generator_steps=2, num_discriminator_steps=3, discriminator_first=discriminator_first
    )
    close(trajectory(rule), follow(step))


@pytest.mark.parametrize("b", [0.4, -0.3])
def test_heavy_ball_is_a_step_and_a_share_of_the_last_one(b):
    points = [flat(START), flat(START)]
    for _ in range(4):
        points.append(points[-1] + H * v(points[-1]) + b * (points[-1] - points[-2]))
    close(trajectory(updates.heavy_ball(RATES, b)), points[1:])
    close(trajectory(updates.heavy_ball(RATES, 0.0)), trajectory(updates.simultaneous(RATES)))


def test_alternating_players_keep_a_momentum_each():
    b = Players(-0.4, 0.2)
    w, old, points = flat(START), flat(START), [flat(START)]
    for _ in range(4):
        new = w.copy()
        new[:2] = w[:2] + H[:2] * v(w)[:2] + b.generator * (w - old)[:2]
        new[2:] = w[2:] + H[2:] * v(new)[2:] + b.discriminator * (w - old)[2:]
        w, old = new, w
        points.append(w)
    close(trajectory(updates.alternating(RATES, momentum=b)), points)


def test_extragradient_moves_along_the_field_ahead():
    close(trajectory(updates.extragradient(RATES)), follow(lambda w: w + H * v(w + H * v(w))))
    close(trajectory(updates.extragradient(RATES, 0.01)), follow(lambda w: w + H * v(w + 0.01 * v(w))))


def test_optimistic_steps_are_twice_this_field_less_the_last_one():
    points, previous = [flat(START)], v(flat(START))
    for _ in range(4):
        now = v(points[-1])
        points.append(points[-1] + H * (2 * now - previous))
        previous = now
    close(trajectory(updates.optimistic(RATES)), points)


@pytest.mark.parametrize("inner", [updates.simultaneous(RATES), updates.heavy_ball(RATES, 0.3)])
def test_lookahead_goes_a_part_of_the_way_that_its_inner_rule_went(inner):
    fast = trajectory(inner, 6)
    slow = trajectory(updates.lookahead(inner, 6, 0.25), 1)
    close(slow[1], fast[0] + 0.25 * (fast[-1] - fast[0]))
    if not jax.tree.leaves(inner.init(FIELD, START)):
        close(trajectory(updates.lookahead(inner, 1, 1.0)), trajectory(inner))


# -------------------------------------------------------------------------------------------------------------- fields


def jacobian(w):
    columns = jax.jacobian(lambda w: jnp.concatenate(list(FIELD(Players(w[:2], w[2:])))))
    return np.asarray(columns(jnp.asarray(w)))


def test_consensus_descends_the_exact_gradient_of_half_the_squared_field():
    w, e = flat(START), 1e-5
    half = [0.5 * (np.sum(v(w + e * d) ** 2) - np.sum(v(w - e * d) ** 2)) / (2 * e) for d in np.eye(5)]
    found = flat(updates.consensus(FIELD, 0.3)(START))
    np.testing.assert_allclose(found, v(w) - 0.3 * np.array(half), rtol=1e-8)
    close(found, v(w) - 0.3 * jacobian(w).T @ v(w))


def test_symplectic_adjustment_uses_the_antisymmetric_part_of_the_jacobian():
    w = flat(START)
    j = jacobian(w)
    close(flat(updates.symplectic_gradient_adjustment(FIELD, 0.3)(START)), v(w) + 0.3 * (j - j.T) / 2 @ v(w))
    # Balduzzi et al. write xi = -v for the gradient, A for the antisymmetric part of its Jacobian: xi + lambda A^T xi.
    xi, a = -v(w), -(j - j.T) / 2
    close(flat(updates.symplectic_gradient_adjustment(FIELD, 0.3)(START)), -(xi + 0.3 * a.T @ xi))


def test_the_gradient_norm_term_moves_the_generator_alone():
    w = flat(START)
    expected = v(w)
    expected[:2] -= 0.3 * 2 * jacobian(w)[2:, :2].T @ v(w)[2:]
    close(flat(updates.gradient_norm_term(FIELD, 0.3)(START)), expected)


def test_clips_shorten_the_joint_field_or_each_players_and_keep_what_is_short():
    w = v(flat(START))
    close(flat(updates.clip_jointly(FIELD, 0.1)(START)), 0.1 * w / np.linalg.norm(w))
    clipped = updates.clip_per_player(FIELD, Players(0.1, 1e3))(START)
    close(clipped.generator, 0.1 * w[:2] / np.linalg.norm(w[:2]))
    np.testing.assert_array_equal(clipped.discriminator, w[2:])
    for clip in (updates.clip_jointly, updates.clip_per_player):
        for loose in (1e3, jnp.inf):
            np.testing.assert_array_equal(flat(clip(FIELD, loose)(START)), w)


def test_a_clipped_field_can_be_differentiated_at_the_equilibrium():
    game = games.bilinear(np.eye(2))
    for clip in (updates.clip_jointly, updates.clip_per_player):
        step, point = updates.step_map(updates.simultaneous(0.1), clip(games.field(game), 0.5), game.equilibrium)
        free, _ = updates.step_map(updates.simultaneous(0.1), games.field(game), game.equilibrium)
        close(jax.jacobian(step)(point), jax.jacobian(free)(point))


def test_weight_clipping_projects_parameters_and_is_not_gradient_clipping():
    rule = updates.clip_discriminator_weights(updates.simultaneous(RATES), 0.5)
    points = trajectory(rule)
    free = flat(START) + H * v(flat(START))
    close(points[1, :2], free[:2])
    close(points[1, 2:], np.clip(free[2:], -0.5, 0.5))
    assert np.abs(points[1:, 2:]).max() == 0.5 < np.abs(free[2:]).max()


# ------------------------------------------------------------------------------------------------------ how it composes

RULES = {
    "simultaneous": updates.simultaneous,
    "heavy ball": lambda rates: updates.heavy_ball(rates, -0.2),
    "alternating": lambda rates: updates.alternating(rates, num_discriminator_steps=2, momentum=0.1),
    "extragradient": updates.extragradient,
    "optimistic": updates.optimistic,
    "lookahead": lambda rates: updates.lookahead(updates.optimistic(rates), 3, 0.5),
    "weight clipping": lambda rates: updates.clip_discriminator_weights(updates.simultaneous(rates), 0.4),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_every_rule_can_be_mapped_over_rates_and_clips_and_equals_a_loop(name):
    def final(rates, norm):
        field = updates.clip_per_player(updates.consensus(FIELD, 0.1 * norm), norm)
        return jax.tree.map(lambda x: x[-1], updates.run(RULES[name](rates), field, START, 5))

    rates = Players(jnp.array([0.1, 0.05, 0.2]), jnp.array([0.1, 0.2, 0.01]))
    norms = jnp.array([0.1, 0.5, 2.0])
    together = jax.jit(jax.vmap(final))(rates, norms)
    for i in range(3):
        alone = final(Players(float(rates.generator[i]), float(rates.discriminator[i])), float(norms[i]))
        close(flat(jax.tree.map(lambda x, i=i: x[i], together)), flat(alone))


@pytest.mark.parametrize("name", RULES)
def test_every_rule_rests_at_an_equilibrium_and_keeps_types(name):
    game = games.dirac()
    rule = RULES[name](0.1)
    step, point = updates.step_map(rule, games.field(game), game.equilibrium)
    np.testing.assert_array_equal(step(point), point)
    with jax.enable_x64(False):
        start = Players(jnp.float32(1), jnp.float32(2))
        ends = updates.run(rule, games.field(game), start, 2)
        assert {x.dtype for x in jax.tree.leaves(ends)} == {np.dtype("float32")}


@pytest.mark.slow
def test_nested_players_move_like_flat_ones():
    def nested(players):
        flat_players = Players(jnp.stack(players.generator["a"]), players.discriminator[0])
        v = FIELD(flat_players)
        return Players({"a": list(v.generator)}, (v.discriminator,))

    start = Players({"a": list(START.generator)}, (START.discriminator,))
    for name, rule in RULES.items():
        ends = updates.run(rule(RATES), nested, start, 3)
        found = np.concatenate([np.array(ends.generator["a"])[:, -1], ends.discriminator[0][-1]])
        np.testing.assert_allclose(found, trajectory(rule(RATES), 3)[-1], rtol=1e-11, err_msg=name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: updates.simultaneous(0.0), "the generator's rate must be above 0, not 0.0"),
        (lambda: updates.extragradient(Players(0.1, -1.0)), "the discriminator's rate must be above 0, not -1.0"),
        (lambda: updates.optimistic(float("nan")), "must be above 0, not nan"),
        (lambda: updates.heavy_ball(0.1, 1.0), r"momentum must be in \(-1, 1\), not 1.0"),
        (lambda: updates.alternating(0.1, num_discriminator_steps=0), "num_discriminator_steps must be at least 1"),
        (lambda: updates.alternating(0.1, num_generator_steps=0), "num_generator_steps must be at least 1, not 0"),
        (lambda: updates.lookahead(updates.simultaneous(0.1), 0), "num_steps of lookahead must be at least 1, not 0"),
        (lambda: updates.lookahead(updates.simultaneous(0.1), 5, 1.5), r"alpha of lookahead must be in \(0, 1\]"),
        (lambda: updates.clip_jointly(FIELD, -1.0), "a clip norm must be above 0, not -1.0"),
        (lambda: updates.clip_per_player(FIELD, Players(1.0, 0.0)), "a clip norm must be above 0, not 0.0"),
        (
            lambda: updates.clip_discriminator_weights(updates.simultaneous(0.1), 0.0),
            "the limit of weight clipping must be above 0, not 0.0",
        ),
    ],
)
def test_arguments_without_meaning_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_known_rates_are_checked_under_jit_too_and_traced_ones_are_taken():
    @functools.partial(jax.jit, static_argnums=1)
    def final(rate, known):
        rule = updates.simultaneous(jnp.asarray(0.1) if known else rate)
        return updates.run(rule, FIELD, START, 1)

    close(flat(final(0.1, False)), flat(final(0.1, True)))
