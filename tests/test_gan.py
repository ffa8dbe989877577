import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import lax

from jaxgen import gan, network, optim
from jaxgen.losses import adversarial, penalties
from jaxgen.models import mlp
from jaxgen.stability import games, updates

KEY = jax.random.key(7)

pytestmark = pytest.mark.usefixtures("fast_compilation")


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), a, b)


def differ(a, b):
    return any(np.any(np.asarray(x) != np.asarray(y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


# ------------------------------------------------------------------------------------------------------ Dirac-GAN


class Point(nn.Module):
    """The generator of the Dirac-GAN: always the point theta."""

    start: float

    @nn.compact
    def __call__(self, z, *, train):
        theta = self.param("theta", lambda key: jnp.asarray(self.start, float))
        return jnp.full((z.shape[0], 1), theta)


class Slope(nn.Module):
    """The discriminator of the Dirac-GAN: D(x) = psi x."""

    start: float

    @nn.compact
    def __call__(self, x, *, train):
        return self.param("psi", lambda key: jnp.asarray(self.start, float)) * x[:, 0]


def dirac_trajectory(num_steps, theta=1.0, psi=0.5, rates=(0.1, 0.1), data=0.0, **options):
    """(theta, psi) after each step of the library's train step."""
    generator_rate, discriminator_rate = rates
    arguments = dict(
        generator_optimizer=optax.sgd(generator_rate), discriminator_optimizer=optax.sgd(discriminator_rate)
    )
    players = Point(theta), Slope(psi)
    step = gan.make_train_step(*players, **arguments, latent_dim=1, **options)
    state = gan.init(KEY, *players, **arguments, latent_dim=1)
    batch = {"image": jnp.full((2 * options.get("num_discriminator_steps", 1), 1), data)}

    def scanned(state, _):
        state, _ = step(state, batch, KEY)
        return state, (state.generator.params["theta"], state.discriminator.params["psi"])

    return np.stack(jax.jit(lambda s: lax.scan(scanned, s, None, length=num_steps)[1])(state), axis=1)


def sigmoid(t):
    return 1 / (1 + np.exp(-t))


# Slopes by hand: dL_D/dpsi of the fake term at (theta, psi), and the generator's -dL_G/dtheta.
BY_HAND = {
    "minimax": (lambda t, p: t * sigmoid(p * t), lambda t, p: p * sigmoid(p * t)),
    "non_saturating": (lambda t, p: t * sigmoid(p * t), lambda t, p: p * sigmoid(-p * t)),
    "wasserstein": (lambda t, p: t, lambda t, p: p),
    "least_squares": (lambda t, p: p * t * t, lambda t, p: -(p * t - 1) * p),
}


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("gamma", "k"), [(0.0, 1), (0.7, 3)])
@pytest.mark.parametrize("name", BY_HAND)
def test_the_dirac_gan_follows_its_alternating_closed_form(name, gamma, k):
    rate_g, rate_d = 0.05, 0.3  # two time scales: a rate used for the wrong player shows at once
    descend, ascend = BY_HAND[name]
    theta, psi, expected = 1.0, 0.5, []
    for _ in range(8):
        for _ in range(k):
            psi = psi - rate_d * (descend(theta, psi) + gamma * psi)
        theta = theta + rate_g * ascend(theta, psi)
        expected.append((theta, psi))
    trajectory = dirac_trajectory(
        8,
        rates=(rate_g, rate_d),
        loss=getattr(adversarial, name),
        penalties=[penalties.r1(gamma)],
        num_discriminator_steps=k,
    )
    np.testing.assert_allclose(trajectory, expected, rtol=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_alternating_wasserstein_players_stay_on_the_conserved_ellipse():
    h = 0.3
    theta, psi = dirac_trajectory(300, rates=(h, h), loss=adversarial.wasserstein).T
    # theta^2 + psi^2 - h theta psi is what the alternating step conserves; simultaneous descent would have grown
    # by sqrt(1 + h^2) a step.
    np.testing.assert_allclose(theta**2 + psi**2 - h * theta * psi, 1 + 0.25 - h * 0.5, rtol=1e-10)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("rates", "stable"), [((1.9, 1.0), True), ((2.1, 1.0), False), ((0.3, 1.7), True)])
def test_r1_stabilises_exactly_where_the_theory_of_two_rates_says(rates, stable):
    gamma = 1.0  # alternating, slope 1: stable iff 0 < eta_D gamma < 2 and eta_G eta_D < 4 - 2 eta_D gamma
    assert (rates[0] * rates[1] < 4 - 2 * rates[1] * gamma) == stable
    trajectory = dirac_trajectory(300, rates=rates, loss=adversarial.wasserstein, penalties=[penalties.r1(gamma)])
    radius = np.linalg.norm(trajectory[-1])
    assert radius < 1e-4 if stable else radius > 1e4


@pytest.mark.usefixtures("double_precision")
def test_penalties_act_at_their_own_points_and_add_up():
    # With D(x) = psi x every penalty depends on psi alone, so that their gradients add.
    kinds = [penalties.r1(0.2), penalties.r2(0.3), penalties.gradient_penalty(0.5), penalties.dragan(0.7)]
    ((_, psi),) = dirac_trajectory(1, loss=adversarial.wasserstein, penalties=kinds, data=0.4)
    slope = (1.0 - 0.4) + (0.2 + 0.3) * 0.5 + 2 * (0.5 + 0.7) * (0.5 - 1)
    assert psi == pytest.approx(0.5 - 0.1 * slope, rel=1e-12)


# --------------------------------------------------------------------------------------------------- small images


class Generator(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(4, use_bias=False)(z))
        return jnp.tanh(x).reshape(-1, 2, 2, 1)


class Discriminator(nn.Module):
    """Normalises its input, so that its running statistics do not depend on its weights."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x.reshape(x.shape[0], -1))
        return nn.Dense(1)(nn.leaky_relu(nn.Dense(3)(x)))[:, 0]


PLAYERS = Generator(), Discriminator()
LATENT_DIM = 3
IMAGES = np.random.default_rng(0).uniform(-1, 1, (8, 2, 2, 1)).astype(np.float32)
BATCH = {"image": IMAGES}


def make(generator_optimizer=None, discriminator_optimizer=None, players=PLAYERS, init_key=KEY, **options):
    """(state, train_step)."""
    arguments = dict(
        generator_optimizer=optax.sgd(0.1) if generator_optimizer is None else generator_optimizer,
        discriminator_optimizer=optax.sgd(0.2) if discriminator_optimizer is None else discriminator_optimizer,
        latent_dim=LATENT_DIM,
    )
    step = gan.make_train_step(*players, **arguments, **options)
    return gan.init(init_key, *players, **arguments), step


@functools.cache
def default():
    """(state, compiled train step), shared by all tests that need nothing special."""
    state, step = make()
    return state, jax.jit(step)


def test_a_generator_that_does_not_learn_is_left_bit_for_bit_and_so_is_a_discriminator():
    state, _ = make(optax.sgd(0.1), optax.sgd(0.1))

    @jax.jit
    def train(generator_rate, discriminator_rate):
        _, step = make(optax.sgd(generator_rate), optax.sgd(discriminator_rate))
        return step(state, BATCH, KEY)[0]

    new = train(0.0, 0.2)
    equal(new.generator.params, state.generator.params)
    assert differ(new.discriminator.params, state.discriminator.params)
    new = train(0.1, 0.0)
    equal(new.discriminator.params, state.discriminator.params)
    assert differ(new.generator.params, state.generator.params)


def test_each_player_learns_with_its_own_optimiser_and_rate():
    # Adam's first update has the size of its rate in every coordinate, whatever the gradient is.
    state, step = make(optax.adam(0.003, eps=0.0), optax.adam(0.04, eps=0.0))
    new, _ = jax.jit(step)(state, BATCH, KEY)
    for player, rate in (("generator", 0.003), ("discriminator", 0.04)):
        old_params, new_params = (getattr(s, player).params for s in (state, new))
        moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)), old_params, new_params)
        largest = max(float(m.max()) for m in jax.tree.leaves(moved))
        assert largest == pytest.approx(rate, rel=1e-2)
    counts = [int(getattr(new, player).opt_state[0].count) for player in ("generator", "discriminator")]
    assert counts == [1, 1]

    state, step = make(discriminator_optimizer=optax.rmsprop(0.01), num_discriminator_steps=4)
    assert jax.tree.structure(state.discriminator.opt_state) != jax.tree.structure(state.generator.opt_state)
    jax.eval_shape(step, state, BATCH, KEY)


def test_the_state_holds_arrays_only_and_the_average_is_a_copy():
    state, _ = default()
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert int(state.step) == 0 and state.step.dtype == jnp.int32
    equal(state.ema, state.generator.variables)
    pointers = [
        {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)}
        for tree in (state.ema, state.generator.variables)
    ]
    assert not pointers[0] & pointers[1]


def test_initialisation_follows_its_key_and_can_be_mapped_over_seeds():
    other = jax.random.key(8)
    assert differ(default()[0], make(init_key=other)[0])
    many = jax.jit(jax.vmap(lambda key: make(init_key=key)[0]))(jnp.stack([other, KEY]))
    close(jax.tree.map(lambda x: x[1], many), default()[0], rtol=1e-5, atol=1e-6)


def test_compiled_and_eager_steps_agree():
    state, step = make(players=(Point(1.0), Slope(0.5)), penalties=[penalties.r1(0.3)])
    batch = {"image": jnp.full((2, 1), 0.4)}
    close(step(state, batch, KEY), jax.jit(step)(state, batch, KEY), rtol=1e-5)


def test_the_step_is_traced_once_however_often_a_notebook_cell_is_run():
    traces = []
    _, step = make()

    @jax.jit
    def compiled(state, batch, key):
        traces.append(1)
        return step(state, batch, key)

    for cell in range(3):  # each makes its state and optimisers anew
        state, _ = make(init_key=jax.random.key(cell))
        for i in range(3):
            state, _ = compiled(state, BATCH, jax.random.key(i))
    assert len(traces) == 1


def test_a_player_may_have_no_parameters():
    class Identity(nn.Module):
        @nn.compact
        def __call__(self, z, *, train):
            return z

    state, step = make(players=(Identity(), mlp.Discriminator(widths=())))
    new, metrics = jax.jit(step)(state, {"image": IMAGES.reshape(8, 4)[:, :LATENT_DIM]}, KEY)
    assert float(metrics["generator/grad_norm"]) == 0
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_the_old_state_can_be_donated():
    state, step = make()
    new, _ = jax.jit(step, donate_argnums=0)(state, BATCH, KEY)
    jax.block_until_ready(new)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.generator, state.discriminator, state.ema)))
    state, step = default()
    equal(new, step(state, BATCH, KEY)[0])


def run(step, state, num_steps, key=KEY):
    for _ in range(num_steps):
        state, metrics = step(state, BATCH, key)
    return state, metrics


def test_the_same_key_gives_the_same_numbers_and_another_one_others():
    state, step = default()
    equal(run(step, state, 3), run(step, state, 3))
    assert differ(run(step, state, 3)[0], run(step, state, 3, jax.random.key(8))[0])


def test_every_step_draws_its_own_latents_from_the_constant_key():
    state, step = default()
    losses = [
        float(step(state.replace(step=jnp.array(i)), BATCH, KEY)[1]["generator/loss"]) for i in range(3)
    ]  # of one and the same network
    assert len(set(losses)) == 3


def test_a_resumed_run_needs_no_key_and_repeats_the_uninterrupted_one_bit_for_bit():
    state, step = make(optax.adam(0.1), optax.adam(0.1), ema_decay=network.warmed_up(0.9), num_discriminator_steps=2)
    step = jax.jit(step)
    saved = jax.device_get(run(step, state, 2)[0])
    equal(run(step, saved, 2), run(step, state, 4))


def test_two_runs_side_by_side_do_not_disturb_each_other():
    first, second = default(), make(optax.sgd(0.1), optax.sgd(0.2), loss=adversarial.hinge)
    steps = first[1], jax.jit(second[1])
    states = [first[0], second[0]]
    for _ in range(2):
        states = [step(state, BATCH, KEY)[0] for step, state in zip(steps, states, strict=True)]
    for alone, state, step in zip(states, (first[0], second[0]), steps, strict=True):
        equal(alone, run(step, state, 2)[0])


@pytest.mark.slow
def test_vmap_over_seeds_and_rates_equals_a_loop():
    players = mlp.Generator(widths=()), mlp.Discriminator(widths=(4,))
    batch = {"image": IMAGES[:, 0, :, 0]}

    def train(seed, rate, gamma, clip):
        state, step = make(
            optax.sgd(rate),
            optax.chain(optim.clip_by_global_norm(clip), optax.sgd(4 * rate, momentum=0.5)),
            players,
            jax.random.key(seed),
            penalties=[penalties.r1(gamma)],
        )
        state, _ = step(state, batch, jax.random.key(100))
        return step(state, batch, jax.random.key(100))

    sweep = (np.arange(3), np.array([0.1, 0.01, 0.001]), np.array([0.0, 1.0, 10.0]), np.array([10.0, 1.0, 0.1]))
    sweep = [np.asarray(values, np.int32 if values.dtype == int else np.float32) for values in sweep]
    together = jax.jit(jax.vmap(train))(*sweep)
    alone = jax.jit(train)
    for i in range(3):
        close(jax.tree.map(lambda x, i=i: x[i], together), alone(*(v[i] for v in sweep)), rtol=1e-4, atol=1e-5)
    assert together[0].step.tolist() == [2, 2, 2]


# --------------------------------------------------------------------------------- several discriminator steps


def test_several_discriminator_steps_use_every_kth_image_each_and_equal_a_loop_by_hand():
    k, players = 3, (mlp.Generator(widths=(4,)), mlp.Discriminator(widths=(4,)))
    x = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    z = np.random.default_rng(2).normal(size=(2, LATENT_DIM)).astype(np.float32)
    optimizers = optax.adam(0.01), optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.02))
    state, step = make(
        *optimizers,
        players,
        penalties=[penalties.r1(0.5)],
        num_discriminator_steps=k,
        sample_latent=lambda key, shape: jnp.asarray(z),
    )

    def by_hand(state):
        generator, discriminator = players
        params, opt_state = state.discriminator.params, state.discriminator.opt_state
        fake = generator.apply(state.generator.variables, z, train=True)

        def judge(params, x):
            return discriminator.apply({"params": params}, x, train=True)

        def discriminator_loss(params, real):
            loss = jnp.mean(jax.nn.softplus(-judge(params, real)) + jax.nn.softplus(judge(params, fake)))
            slope = jax.vmap(jax.grad(lambda x: judge(params, x[None])[0]))(real)
            return loss + 0.25 * jnp.mean(jnp.sum(slope**2, axis=1))

        for i in range(k):
            gradients = jax.grad(discriminator_loss)(params, x[i::k])
            updates, opt_state = optimizers[1].update(gradients, opt_state, params)
            params = optax.apply_updates(params, updates)

        def generator_loss(generator_params):
            fake = generator.apply({"params": generator_params}, z, train=True)
            return jnp.mean(jax.nn.softplus(-judge(params, fake)))

        gradients = jax.grad(generator_loss)(state.generator.params)
        updates, _ = optimizers[0].update(gradients, state.generator.opt_state)
        return params, optax.apply_updates(state.generator.params, updates)

    new, _ = jax.jit(step)(state, {"image": x}, KEY)
    close((new.discriminator.params, new.generator.params), jax.jit(by_hand)(state), rtol=1e-5, atol=1e-6)


def test_every_discriminator_step_draws_fresh_latents():
    seen = []

    def sample_latent(key, shape):
        z = jax.random.normal(key, shape)
        jax.debug.callback(lambda z: seen.append(np.asarray(z)), z)
        return z

    state, step = make(num_discriminator_steps=4, sample_latent=sample_latent)
    jax.block_until_ready(jax.jit(step)(state, BATCH, KEY))
    jax.effects_barrier()
    assert len(seen) == 4  # the generator shares the last batch of fake images
    assert all(z.shape == (2, LATENT_DIM) for z in seen)
    assert len({float(z[0, 0]) for z in seen}) == 4


# ------------------------------------------------------------------------------------------------- update rules


def by_the_laboratory(rule, game, num_steps, theta=1.0, psi=0.5):
    start = games.Players(jnp.asarray(theta), jnp.asarray(psi))
    trajectory = jax.jit(lambda start: updates.run(rule, games.field(game), start, num_steps))(start)
    return np.stack(trajectory, axis=1)[1:]


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", ["minimax", "non_saturating", "wasserstein"])
@pytest.mark.parametrize(
    ("train_rule", "rule"),
    [
        (gan.alternating, functools.partial(updates.alternating, discriminator_first=True)),
        (gan.simultaneous, updates.simultaneous),
        (gan.extragradient, updates.extragradient),
    ],
)
def test_the_train_step_is_the_rule_that_the_laboratory_studies(train_rule, rule, name):
    loss, rates, terms = getattr(adversarial, name), (0.2, 0.3), [penalties.r1(0.4)]
    trajectory = dirac_trajectory(6, rates=rates, loss=loss, penalties=terms, update_rule=train_rule)
    # There psi stands for what is fake, here for what is real.
    theta, psi = by_the_laboratory(rule(games.Players(*rates)), games.dirac(loss, terms), 6, psi=-0.5).T
    np.testing.assert_allclose(trajectory, np.stack([theta, -psi], axis=1), rtol=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_extragradient_converges_where_the_other_rules_do_not():
    radii = {
        rule: np.linalg.norm(
            dirac_trajectory(200, rates=(0.3, 0.3), loss=adversarial.wasserstein, update_rule=rule)[-1]
        )
        for rule in (gan.extragradient, gan.alternating, gan.simultaneous)
    }
    assert radii[gan.extragradient] < 1e-3 < 0.5 < radii[gan.alternating] < 2 < 1e3 < radii[gan.simultaneous]
    # |1 + z + z^2| at z = 0.3 i
    expected = np.hypot(1.0, 0.5) * abs(1 + 0.3j - 0.09) ** 200
    assert radii[gan.extragradient] == pytest.approx(expected, rel=1e-10)


@pytest.mark.usefixtures("double_precision")
def test_simultaneous_steps_with_optimistic_optimisers_are_optimistic():
    rates = (0.2, 0.3)
    optimizers = dict(
        generator_optimizer=optax.optimistic_gradient_descent(rates[0]),
        discriminator_optimizer=optax.optimistic_gradient_descent(rates[1]),
    )
    players = Point(1.0), Slope(0.5)
    options = dict(latent_dim=1, loss=adversarial.wasserstein, update_rule=gan.simultaneous)
    step = jax.jit(gan.make_train_step(*players, **optimizers, **options))
    state = gan.init(KEY, *players, **optimizers, latent_dim=1)
    points = []
    for _ in range(6):
        state, _ = step(state, {"image": jnp.zeros((2, 1))}, KEY)
        points.append((float(state.generator.params["theta"]), float(state.discriminator.params["psi"])))
    game = games.dirac(adversarial.wasserstein)
    theta, psi = by_the_laboratory(updates.optimistic(games.Players(*rates)), game, 6, psi=-0.5).T
    np.testing.assert_allclose(points, np.stack([theta, -psi], axis=1), rtol=1e-12)


def test_extragradient_advances_optimisers_statistics_and_average_by_one_step_on_one_batch():
    latents, fakes = [], []

    def sample_latent(key, shape):
        z = jax.random.normal(key, shape)
        jax.debug.callback(lambda z: latents.append(np.asarray(z)), z)
        return z

    def spy(discriminator_fn, real, fake, key):
        jax.debug.callback(lambda x: fakes.append(np.asarray(x)), fake, ordered=True)
        return 0.0

    optimizers = optax.adam(0.01), optax.adam(0.02)
    rule = dict(update_rule=gan.extragradient, ema_decay=0.5)
    state, step = make(*optimizers, penalties=[spy], sample_latent=sample_latent, **rule)
    new, metrics = jax.jit(step)(state, BATCH, KEY)
    jax.effects_barrier()
    assert all(np.array_equal(z, latents[0]) for z in latents)  # the look-ahead sees the images that the move sees
    assert len(fakes) == 2 and differ(*fakes)  # made of the same latents by the generator ahead
    assert [int(getattr(new, player).opt_state[0].count) for player in ("generator", "discriminator")] == [1, 1]
    assert int(new.step) == 1
    mean = 0.1 * (0.9 * IMAGES.reshape(8, -1).mean(0) + fakes[1].reshape(8, -1).mean(0))
    statistics = new.discriminator.model_state["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(statistics, mean, rtol=1e-5, atol=1e-7)
    close(new.ema, jax.tree.map(lambda e, v: (e + v) / 2, state.ema, new.generator.variables), rtol=1e-6)
    assert set(metrics) == set(jax.eval_shape(default()[1], state, BATCH, KEY)[1]) | {"penalty/spy"}


def test_a_rule_that_looks_ahead_by_nothing_is_simultaneous_and_yours_can_be_written_in_three_lines():
    def not_ahead(players, fakes, moves):
        ahead = gan.Players(*(player.replace(opt_state=None) for player in players))
        return gan.simultaneous(ahead, moves.generate(players.generator), moves)

    state, step = make(update_rule=not_ahead)
    close(
        jax.jit(step)(state, BATCH, KEY), jax.jit(make(update_rule=gan.simultaneous)[1])(state, BATCH, KEY), rtol=1e-6
    )


def test_with_several_discriminator_steps_the_rule_joins_the_last_one():
    trajectory = dirac_trajectory(
        1, rates=(0.1, 0.3), loss=adversarial.wasserstein, num_discriminator_steps=3, update_rule=gan.simultaneous
    )
    psi_before_last = 0.5 - 2 * 0.3 * 1.0
    np.testing.assert_allclose(trajectory[0], [1.0 + 0.1 * psi_before_last, psi_before_last - 0.3], rtol=1e-6)


# -------------------------------------------------------------------------------------- statistics and averages


def test_running_statistics_see_real_then_fake_images_once_each():
    fakes = []

    def spy(discriminator_fn, real, fake, key):
        jax.debug.callback(lambda x: fakes.append(np.asarray(x)), fake)
        return 0.0

    state, step = make(penalties=[spy])
    new, _ = jax.jit(step)(state, BATCH, KEY)
    jax.effects_barrier()
    mean = np.zeros(4)
    for images in (IMAGES, fakes[0]):
        mean = 0.9 * mean + 0.1 * images.reshape(8, -1).mean(0)
    np.testing.assert_allclose(
        new.discriminator.model_state["batch_stats"]["BatchNorm_0"]["mean"], mean, rtol=1e-5, atol=1e-7
    )
    assert differ(new.generator.model_state, state.generator.model_state)


def test_the_average_covers_parameters_and_batch_statistics():
    state, step = make(ema_decay=network.warmed_up(0.99))
    step = jax.jit(step)
    for i in range(3):
        new, _ = step(state, BATCH, KEY)
        d = (1 + i) / (10 + i)
        expected = jax.tree.map(lambda e, v, d=d: d * e + (1 - d) * v, state.ema, new.generator.variables)
        close(new.ema, expected, rtol=1e-5, atol=1e-7)
        state = new
    assert set(state.ema) == {"params", "batch_stats"}
    assert differ(state.ema["batch_stats"], state.generator.model_state["batch_stats"])


def test_samples_use_running_statistics_so_that_an_image_depends_on_its_own_latent_only():
    state, step = default()
    state, _ = step(state, BATCH, KEY)
    z = jax.random.normal(KEY, (5, LATENT_DIM))
    images = gan.sample(PLAYERS[0], state.ema, z)
    assert images.shape == (5, 2, 2, 1) and np.abs(images).max() <= 1
    np.testing.assert_allclose(gan.sample(PLAYERS[0], state.ema, z[1:2]), images[1:2], rtol=1e-5)
    assert differ(images, gan.sample(PLAYERS[0], state.generator.variables, z))


# ------------------------------------------------------------------------------------------------------- metrics


def test_metrics_are_scalars_under_these_names():
    clip = optim.clip_by_global_norm(1.0)
    state, step = make(
        optax.chain(clip, optax.sgd(0.1)),
        optim.skip_large_updates(optax.chain(clip, optax.sgd(0.1))),
        penalties=[penalties.r1(1.0), penalties.gradient_penalty(1.0)],
    )
    _, metrics = jax.eval_shape(step, state, BATCH, KEY)
    assert set(metrics) == {
        "generator/loss",
        "generator/grad_norm",
        "generator/update_norm",
        "generator/clipped",
        "discriminator/loss",
        "discriminator/grad_norm",
        "discriminator/update_norm",
        "discriminator/clipped",
        "discriminator/skipped",
        "discriminator/real_logits",
        "discriminator/fake_logits",
        "discriminator/accuracy",
        "penalty/r1",
        "penalty/gradient_penalty",
    }
    assert all(m.shape == () and m.dtype == jnp.float32 for m in metrics.values())
    state, step = default()
    assert set(step(state, BATCH, KEY)[1]).isdisjoint({"generator/clipped", "generator/skipped"})


def test_losses_are_reported_without_penalties_at_the_logits_before_the_update():
    players = Point(1.0), Slope(0.5)
    state, step = make(optax.sgd(0.1), optax.sgd(0.1), players, penalties=[penalties.r1(4.0)])
    _, metrics = jax.jit(step)(state, {"image": jnp.full((2, 1), 2.0)}, KEY)
    # real logit 0.5 * 2, fake logit 0.5 * 1, R1 4 / 2 * 0.5^2
    assert float(metrics["discriminator/real_logits"]) == 1.0
    assert float(metrics["discriminator/fake_logits"]) == 0.5
    assert float(metrics["discriminator/loss"]) == pytest.approx(np.log1p(np.exp(-1.0)) + np.log1p(np.exp(0.5)))
    assert float(metrics["discriminator/accuracy"]) == 0.5
    assert float(metrics["penalty/r1"]) == 0.5
    slope = -2 * sigmoid(-1.0) + sigmoid(0.5) + 4 * 0.5
    assert float(metrics["discriminator/grad_norm"]) == pytest.approx(abs(slope), rel=1e-5)
    psi = 0.5 - 0.1 * slope  # the generator meets the discriminator that has just learnt
    assert float(metrics["generator/loss"]) == pytest.approx(np.log1p(np.exp(-psi)), rel=1e-5)
    assert float(metrics["generator/grad_norm"]) == pytest.approx(psi * sigmoid(-psi), rel=1e-5)


def test_gradient_norms_are_those_before_the_clip_and_the_flag_tells_of_it():
    @jax.jit
    def metrics_with(max_norm):
        state, step = make(*[optax.chain(optim.clip_by_global_norm(max_norm), optax.sgd(1.0)) for _ in range(2)])
        return step(state, BATCH, KEY)[1]

    tight, loose = metrics_with(1e-3), metrics_with(1e3)
    norm = float(loose["discriminator/grad_norm"])
    assert float(tight["discriminator/grad_norm"]) == norm > 0.01
    for player in ("generator", "discriminator"):
        assert [float(metrics[f"{player}/clipped"]) for metrics in (tight, loose)] == [1, 0]
        assert float(tight[f"{player}/update_norm"]) == pytest.approx(1e-3, rel=1e-5)
        assert float(loose[f"{player}/update_norm"]) == pytest.approx(float(loose[f"{player}/grad_norm"]), rel=1e-5)


def test_a_bad_batch_is_skipped_with_everything_that_would_have_changed():
    # The relativistic generator sees the real images too, so both players meet the NaN.
    state, step = make(
        optim.skip_large_updates(optax.sgd(0.1, momentum=0.9)),
        optim.skip_large_updates(optax.sgd(0.1, momentum=0.9)),
        loss=adversarial.relativistic,
    )
    step = jax.jit(step)
    state, _ = step(state, BATCH, KEY)
    bad = IMAGES.copy()
    bad[3, 0, 1, 0] = np.nan
    after, metrics = step(state, {"image": bad}, KEY)
    assert float(metrics["generator/skipped"]) == float(metrics["discriminator/skipped"]) == 1
    for player in ("generator", "discriminator"):
        old, new = getattr(state, player), getattr(after, player)
        equal(new.params, old.params)
        equal(new.model_state, old.model_state)
        equal(new.opt_state.inner, old.opt_state.inner)
        assert int(new.opt_state.num_skipped) == 1
    equal(after.ema, state.ema)
    assert int(after.step) == 2
    healed, metrics = step(after, BATCH, KEY)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((healed, metrics)))
    assert float(metrics["generator/skipped"]) == float(metrics["discriminator/skipped"]) == 0
    assert differ(healed.ema, state.ema)


def test_a_discriminator_may_drop_out_with_another_mask_at_every_step():
    class Dropping(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = nn.Dropout(0.5, deterministic=not train)(x.reshape(x.shape[0], -1))
            return nn.Dense(1)(x)[:, 0]

    state, step = make(optax.sgd(0.0), optax.sgd(0.0), (mlp.Generator(features=4, widths=()), Dropping()))
    step = jax.jit(step)
    logits = []
    for _ in range(2):
        state, metrics = step(state, {"image": IMAGES.reshape(8, 4)}, KEY)
        logits.append(float(metrics["discriminator/real_logits"]))
    assert logits[0] != logits[1]


# --------------------------------------------------------------------------------------------------------- errors


def test_bytes_are_refused_at_trace_time_with_the_remedy():
    state, step = default()
    with pytest.raises(TypeError, match=r"uint8.*127\.5"):
        step(state, {"image": np.zeros((8, 2, 2, 1), np.uint8)}, KEY)


@pytest.mark.parametrize("k", [1, 2])
def test_images_of_another_shape_than_the_generators_are_refused(k):
    state, step = default()[0], make(num_discriminator_steps=k)[1]
    with pytest.raises(ValueError, match=r"images of shape \(2, 2, 1\), but the data have \(2, 3, 1\)"):
        jax.eval_shape(step, state, {"image": jnp.zeros((8, 2, 3, 1))}, KEY)


def test_a_batch_that_does_not_divide_into_discriminator_steps_is_refused():
    state, step = default()[0], make(num_discriminator_steps=3)[1]
    with pytest.raises(ValueError, match="3 discriminator steps need a batch of a multiple of 3 images, not 8"):
        jax.eval_shape(step, state, BATCH, KEY)


def test_arguments_without_meaning_are_refused_at_once():
    with pytest.raises(ValueError, match="num_discriminator_steps must be at least 1, not 0"):
        make(num_discriminator_steps=0)
    with pytest.raises(ValueError, match="two share one: r1, r1"):
        make(penalties=[penalties.r1(1.0), penalties.r1(2.0)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "hinge"}, "loss must be a pair of functions, such as adversarial.hinge or .*not 'hinge'"),
        ({"loss": lambda real, fake: real}, "loss must be a pair of functions"),
        ({"penalties": penalties.r1(gamma=1.0)}, r"a list of functions: write penalties=\[penalties.r1\(gamma=1.0\)\]"),
        ({"penalties": ["r1"]}, "a penalty must be a function with a __name__, under which it is reported, not 'r1'"),
        ({"update_rule": "simultaneous"}, "update_rule must be a function such as gan.simultaneous"),
        ({"generator_optimizer": 1e-4}, r"generator_optimizer must be an optax transformation .*, not 0.0001"),
        ({"discriminator_optimizer": "adam"}, "discriminator_optimizer must be an optax transformation"),
    ],
)
def test_what_is_not_of_the_right_kind_is_told_at_once(arguments, message):
    valid = {"generator_optimizer": optax.sgd(0.1), "discriminator_optimizer": optax.sgd(0.1), "latent_dim": 3}
    with pytest.raises(TypeError, match=message):
        gan.make_train_step(mlp.Generator(), mlp.Discriminator(), **valid | arguments)


def test_latents_and_variables_that_do_not_fit_are_told():
    generator = mlp.Generator(widths=(4,))
    state = gan.init(
        KEY,
        generator,
        mlp.Discriminator(widths=(4,)),
        generator_optimizer=optax.sgd(0.1),
        discriminator_optimizer=optax.sgd(0.1),
        latent_dim=3,
    )
    assert gan.sample(generator, state.ema, jnp.zeros((2, 3))).shape == (2, 2)
    with pytest.raises(TypeError, match="not a whole GANState: give state.ema"):
        gan.sample(generator, state, jnp.zeros((2, 3)))
    with pytest.raises(
        ValueError, match=r"do not fit z of shape \[2, 5\]: they are of another latent_dim, or of another"
    ):
        gan.sample(generator, state.ema, jnp.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"z must have the shape \[N, latent_dim\], not \[3\]"):
        gan.sample(generator, state.ema, jnp.zeros(3))
    with pytest.raises(TypeError, match="the optimizer must be an optax transformation"):
        network.Network.new(state.ema, 1e-3)
