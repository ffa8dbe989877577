"""Spectra found matrix-free are those of the dense matrices and of theory, and the rates they predict are the rates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from jaxgen import gan, network, turns
from jaxgen.losses import adversarial, penalties
from jaxgen.models import convolution, dcgan, mlp, spectral_norm
from jaxgen.stability import games, oracles, spectrum, updates, verdict
from jaxgen.stability.games import Players

pytestmark = pytest.mark.usefixtures("double_precision", "fast_compilation")


def assert_same_spectrum(values, expected, atol):
    """Each value has its own among the expected ones, whatever the order."""
    left = list(np.asarray(expected, complex))
    assert len(values) == len(left)
    for value in values:
        nearest = min(left, key=lambda other: abs(other - value))
        assert abs(nearest - value) < atol
        left.remove(nearest)


def double(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64), tree)


def inner(x, y):
    return float(ravel_pytree(x)[0] @ ravel_pytree(y)[0])


def random_like(seed, tree):
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.random.normal(jax.random.key(seed), flat.shape, flat.dtype))


# Two GANs: a linear one with a closed form, and a small network ------------------------------------------------------


class Shift(nn.Module):
    """x = z + theta."""

    @nn.compact
    def __call__(self, z, *, train):
        return z + self.param("theta", nn.initializers.zeros, z.shape[1:], jnp.float64)


class Slope(nn.Module):
    """Logits -psi . x."""

    @nn.compact
    def __call__(self, x, *, train):
        return -x @ self.param("psi", nn.initializers.zeros, x.shape[1:], jnp.float64)


COVARIANCE = np.diag([0.5, 1.0, 2.0]) + 0.1
SAMPLES = games.sigma_points(COVARIANCE)
GAMMA = 0.3
AT_REST = Players({"theta": np.zeros(3)}, {"psi": np.zeros(3)})


def field_of(generator, discriminator, real, z, **settings):
    """The field of a GAN on these images and latents, read off its train step."""
    settings |= {**spectrum.RECORDING, "latent_dim": z.shape[1], "sample_latent": lambda key, shape: jnp.asarray(z)}
    game = gan.Game(generator, discriminator, settings)
    return spectrum.field_of_game(game, game.init(jax.random.key(0)), {"image": real}, jax.random.key(0))


@pytest.fixture
def shift_field():
    return field_of(Shift(), Slope(), SAMPLES, SAMPLES, loss=adversarial.minimax, penalties=[penalties.r1(GAMMA)])


def shift_step(optimizer, update_rule=gan.simultaneous):
    """The library's own train step on the shift GAN, with the data for latents, and a state beside its equilibrium."""
    optimizers = {"generator_optimizer": optimizer, "discriminator_optimizer": optimizer}
    step = gan.make_train_step(
        Shift(),
        Slope(),
        **optimizers,
        latent_dim=3,
        loss=adversarial.minimax,
        penalties=[penalties.r1(GAMMA)],
        update_rule=update_rule,
        sample_latent=lambda key, shape: jnp.asarray(SAMPLES),
    )
    return step, gan.init(jax.random.key(0), Shift(), Slope(), **optimizers, latent_dim=3)


@pytest.fixture
def small_gan():
    """A GAN of multilayer perceptrons with R1: (field, players), 39 parameters."""
    generator = mlp.Generator(widths=(4,), activation=nn.tanh)
    discriminator = mlp.Discriminator(widths=(4,), activation=nn.tanh)
    z, real = jax.random.normal(jax.random.key(0), (2, 6, 2))
    theta = generator.init(jax.random.key(1), z, train=True)["params"]
    psi = discriminator.init(jax.random.key(2), real, train=True)["params"]
    field = field_of(generator, discriminator, real, z, penalties=[penalties.r1(1.0)])
    return field, double(Players(theta, psi))


def jacobian_of(function, point):
    flat, unravel = ravel_pytree(point)
    return np.asarray(jax.jit(jax.jacobian(lambda w: ravel_pytree(function(unravel(w)))[0]))(flat))


# The field, written out by hand ---------------------------------------------------------------------------------------


class Points(nn.Module):
    """A generator of points in the plane, with batch normalisation or an embedding of a label."""

    batch_norm: bool = False
    num_classes: int = 0

    @nn.compact
    def __call__(self, z, label=None, *, train):
        x = nn.Dense(3)(z)
        x = nn.BatchNorm(use_running_average=not train)(x) if self.batch_norm else x
        x = x + nn.Embed(self.num_classes, 3)(label) if self.num_classes else x
        return nn.Dense(2)(nn.tanh(x))


class Judge(nn.Module):
    """A discriminator of points, with batch or spectral normalisation or a projection of a label."""

    batch_norm: bool = False
    spectral: bool = False
    num_classes: int = 0

    @nn.compact
    def __call__(self, x, label=None, *, train):
        dense = lambda n: spectral_norm.SpectralDense(n) if self.spectral else nn.Dense(n)  # noqa: E731
        options = {"train": train} if self.spectral else {}
        x = dense(4)(x, **options)
        h = nn.tanh(nn.BatchNorm(use_running_average=not train)(x) if self.batch_norm else x)
        told = jnp.sum(nn.Embed(self.num_classes, 4)(label) * h, -1) if self.num_classes else 0.0
        return dense(1)(h, **options)[:, 0] + told


class Pictures(nn.Module):
    """Latents -> 6x6 pictures."""

    @nn.compact
    def __call__(self, z, *, train):
        return convolution.ConvTranspose(1, 4, 2, 1)(nn.tanh(nn.Dense(18)(z)).reshape(-1, 3, 3, 2))


class JudgeOfEach(nn.Module):
    """A convolutional discriminator whose penalty shares a backward pass with its loss, by rules of its own."""

    images_are_independent = True

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(nn.tanh(convolution.Conv(2, 4, 2, 1)(x)).reshape(len(x), -1))[:, 0]


def written_out(generator, discriminator, state, images, z, key, *, loss, terms=(), added=lambda fake: 0.0, label=None):
    """v = (-d loss_G / d theta, -d loss_D / d psi) with both losses in full, by nothing of the train step."""
    told = () if label is None else (label,)
    collections = state.discriminator.model_state

    def judge(psi, x, held=collections):
        return network.apply(discriminator, psi, held, x, *told)

    def fakes(theta):
        return network.apply(generator, theta, state.generator.model_state, z, *told)[0]

    def generator_loss(theta, psi):
        fake = fakes(theta)
        return jnp.mean(loss.generator(judge(psi, images)[0], judge(psi, fake)[0])) + added(fake)

    def discriminator_loss(psi, fake):
        real_logits, held = judge(psi, images)
        total = jnp.mean(loss.discriminator(real_logits, judge(psi, fake, held)[0]))
        for i, term in enumerate(terms):
            total += term(lambda x: judge(psi, x)[0], images, fake, jax.random.fold_in(key, i))
        return total

    def field(players):
        theta, psi = players
        ours = jax.grad(discriminator_loss)(psi, fakes(theta))
        return Players(*jax.tree.map(jnp.negative, (jax.grad(generator_loss)(theta, psi), ours)))

    return field


R1, R2, GP = penalties.r1(1.0), penalties.r2(0.5), penalties.gradient_penalty(2.0)
PLAYED = {
    "batch norm": (Points(batch_norm=True), Judge(batch_norm=True), {}),
    "R1": (Points(), Judge(), {"penalties": [R1]}),
    "relativistic with R1 and R2": (Points(), Judge(), {"loss": adversarial.relativistic, "penalties": [R1, R2]}),
    "three discriminator steps, penalties that draw": (
        Points(),
        Judge(),
        {"loss": adversarial.wasserstein, "penalties": [R1, GP], "num_discriminator_steps": 3},
    ),
    "judged one by one": (Pictures(), JudgeOfEach(), {"penalties": [R1]}),
    "told labels": (
        Points(num_classes=3),
        Judge(num_classes=3),
        {"loss": adversarial.hinge, "penalties": [R1], "condition": turns.told("label")},
    ),
    "spectral norm": (Points(), Judge(spectral=True), {"loss": adversarial.least_squares}),
    "terms of both players, one with a state": (
        Points(),
        Judge(),
        {
            "generator_terms": [turns.term(lambda turn: 0.5 * jnp.mean(turn.fake**2), name="small")],
            "discriminator_terms": [
                turns.Term(
                    "near",
                    lambda turn, state: (jnp.mean((turn.real_logits - state) ** 2), state + 1.0),
                    init=lambda players: jnp.asarray(0.25),
                )
            ],
        },
    ),
}
BY_HAND = {  # what the terms come to
    "terms of both players, one with a state": {
        "terms": [lambda judge, real, fake, key: jnp.mean((judge(real) - 0.25) ** 2)],
        "added": lambda fake: 0.5 * jnp.mean(fake**2),
    }
}


def play(name):
    """(the field read off the train step of a game, the same written out, both players)."""
    generator, discriminator, settings = PLAYED[name]
    k, key = settings.get("num_discriminator_steps", 1), jax.random.key(9)
    shape = (5 * k, 6, 6, 1) if isinstance(generator, Pictures) else (5 * k, 2)
    batch = {"image": jnp.tanh(jax.random.normal(jax.random.key(1), shape)), "label": jnp.arange(5 * k) % 3}
    trained = {"generator_optimizer": optax.adam(0.1), "discriminator_optimizer": optax.sgd(0.1)}
    example = {name: jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype) for name, x in batch.items()}
    game = gan.Game(generator, discriminator, {"latent_dim": 3, **trained, **settings}, example)
    state = game.init(jax.random.key(2))
    # The last of the discriminator's updates and the generator's see every k-th image.
    latent_key, turn_key = jax.random.split(jax.random.split(jax.random.fold_in(key, 0), k)[-1])
    expected = written_out(
        generator,
        discriminator,
        state,
        batch["image"][k - 1 :: k],
        jax.random.normal(latent_key, (5, 3)),
        turn_key,
        loss=settings.get("loss", adversarial.non_saturating),
        label=batch["label"][k - 1 :: k] if "condition" in settings else None,
        **BY_HAND.get(name, {"terms": settings.get("penalties", ())}),
    )
    players = double(Players(state.generator.params, state.discriminator.params))
    return spectrum.field_of_game(game, state, batch, key), expected, players


@pytest.mark.parametrize("name", PLAYED)
@pytest.mark.slow
def test_the_field_read_off_the_train_step_is_the_one_written_out_and_so_are_its_products(name):
    read, expected, players = play(name)
    u, w = random_like(0, players), random_like(1, players)

    def numbers(field):
        transposed = spectrum.transposed_product(field, players)
        return jax.jit(lambda: (field(players), transposed(u), spectrum.jacobian_product(field, players)(w)))()

    for one, other in zip(numbers(read), numbers(expected), strict=True):
        for x, y in zip(one, other, strict=True):  # of each player
            x, y = ravel_pytree(x)[0], ravel_pytree(y)[0]
            assert jnp.linalg.norm(y) > 1e-3
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9 * float(jnp.linalg.norm(y)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["told labels", "spectral norm"])
def test_a_game_of_labels_and_one_of_spectral_normalisation_have_spectra(name):
    read, expected, players = play(name)
    found = spectrum.ritz_values(read, players, num_iterations=ravel_pytree(players)[0].size)
    dense = verdict.field_eigenvalues(expected, players)
    settled = found.values[found.errors < 1e-9]
    assert len(settled) > 5 and np.abs(settled[:, None] - dense).min(axis=1).max() < 1e-7
    assert np.abs(found.values[0]) == pytest.approx(np.abs(dense).max(), rel=1e-7)


# Arnoldi -------------------------------------------------------------------------------------------------------------


def test_arnoldi_is_orthonormal_and_its_residuals_are_what_they_say():
    matrix = np.random.default_rng(0).normal(size=(30, 30))
    basis, hessenberg = spectrum.arnoldi(lambda x: jnp.asarray(matrix) @ x, jnp.arange(1.0, 31.0), 12)
    np.testing.assert_allclose(basis @ basis.T, np.eye(13), atol=1e-13)
    np.testing.assert_allclose(matrix @ basis[:12].T, basis.T @ hessenberg, atol=1e-12)
    ritz = spectrum.ritz_of(hessenberg, 0.0)
    for value, residual in zip(ritz.values, ritz.residuals, strict=True):
        values, vectors = np.linalg.eig(np.asarray(hessenberg[:12]))
        y = basis[:12].T @ vectors[:, np.abs(values - value).argmin()]
        assert np.linalg.norm(matrix @ y - value * y) == pytest.approx(residual, rel=1e-8)


def test_with_as_many_iterations_as_dimensions_all_eigenvalues_are_found():
    matrix = jnp.asarray(np.random.default_rng(1).normal(size=(12, 12)))
    ritz = spectrum.ritz_values(lambda w: matrix @ w, jnp.ones(12), num_iterations=500)
    assert_same_spectrum(ritz.values, np.linalg.eigvals(matrix), 1e-11)
    assert ritz.residuals.max() < 1e-12


def test_a_repeated_eigenvalue_is_found_once_and_the_search_ends_there():
    diagonal = jnp.asarray([3.0, 3.0, 3.0, -1.0, -1.0, 0.5])
    ritz = spectrum.ritz_values(lambda w: diagonal * w, jnp.ones(6))
    np.testing.assert_allclose(ritz.values, [3, -1, 0.5], atol=1e-12)
    np.testing.assert_allclose(ritz.conditions, 1, atol=1e-9)  # a normal matrix


def test_the_condition_tells_of_eigenvalues_that_rounding_could_move():
    matrix = jnp.asarray([[1.0, 1e4], [0.0, 2.0]])
    ritz = spectrum.ritz_values(lambda w: matrix @ w, jnp.ones(2))
    np.testing.assert_allclose(ritz.conditions, 1e4, rtol=1e-3)
    np.testing.assert_allclose(ritz.errors, ritz.residuals * ritz.conditions)


def test_rates_multiply_the_rows_of_the_jacobian():
    matrix = np.random.default_rng(2).normal(size=(6, 6))
    rates = np.array([0.1, 0.1, 0.1, 0.1, 4.0, 4.0])

    def field(players):
        v = jnp.asarray(matrix) @ jnp.concatenate(players)
        return Players(v[:4], v[4:])

    point = Players(jnp.ones(4), jnp.ones(2))
    expected = np.linalg.eigvals(rates[:, None] * matrix)
    for form in (Players(0.1, 4.0), Players(0.1 * jnp.ones(4), 4.0)):
        assert_same_spectrum(spectrum.ritz_values(field, point, rates=form).values, expected, 1e-12)


def test_what_has_no_spectrum_is_refused():
    with pytest.raises(ValueError, match="derivative at this point is not finite"):
        spectrum.ritz_values(lambda w: jnp.sqrt(w), jnp.zeros(2))
    with pytest.raises(ValueError, match="num_iterations must be at least 1, not 0"):
        spectrum.ritz_values(lambda w: w, jnp.ones(2), num_iterations=0)
    with pytest.raises(ValueError, match="rates must be above 0"):
        spectrum.ritz_values(lambda w: w, jnp.ones(2), rates=-1.0)
    with pytest.raises(ValueError, match="num_probes must be at least 2, not 1"):
        spectrum.shares(lambda w: w, jnp.ones(2), num_probes=1)
    with pytest.raises(ValueError, match="it has no shares"):
        spectrum.shares(lambda w: 0 * w, jnp.ones(2))


def test_what_does_not_fit_into_memory_is_refused_with_what_would():
    point = {"a": jnp.ones((1000, 8)), "b": jnp.ones(192)}  # 64 KiB in double precision
    spectrum.check_memory(point, 40)
    spectrum.check_memory(point, 7, free=2**20)
    with pytest.raises(ValueError, match="8 iterations with 8,192 numbers need .* GiB are free: 7 iterations would"):
        spectrum.check_memory(point, 8, free=2**20)


# Products ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_reverse_passes_are_one_forward_pass(small_gan):
    field, players = small_gan
    w = random_like(0, players)
    twice = jax.jit(lambda p, w: spectrum.jacobian_product(field, p)(w))(players, w)
    _, forward = jax.jit(lambda p, w: jax.jvp(field, (p,), (w,)))(players, w)
    np.testing.assert_allclose(ravel_pytree(twice)[0], ravel_pytree(forward)[0], rtol=1e-10, atol=1e-13)


@pytest.mark.slow
def test_products_of_a_dcgan_are_each_others_transposes_and_equal_differences():
    generator = dcgan.Generator(image_size=28, channels=1, features=2)
    discriminator = dcgan.Discriminator(features=2, batch_norm=False, activation=nn.tanh)
    z = jax.random.normal(jax.random.key(0), (3, 4))
    image, theta = jax.jit(functools.partial(generator.init_with_output, train=True))(jax.random.key(1), z)
    psi = jax.jit(functools.partial(discriminator.init, train=True))(jax.random.key(2), image)["params"]
    real = jnp.tanh(jax.random.normal(jax.random.key(3), image.shape))
    field = field_of(generator, discriminator, real, z, penalties=[penalties.r1(1.0)])
    # At their usual scale of 0.02 such small networks do nothing.
    players = jax.tree.map(lambda x: 5 * x, double(Players(theta["params"], psi)))
    u, w = random_like(0, players), random_like(1, players)

    @jax.jit
    def numbers(players):
        ends = jax.lax.map(lambda s: field(jax.tree.map(lambda x, d: x + s * d, players, w)), jnp.array([1e-5, -1e-5]))
        return (
            spectrum.jacobian_product(field, players)(w),
            spectrum.transposed_product(field, players)(u),
            jax.tree.map(lambda x: (x[0] - x[1]) / 2e-5, ends),
        )

    forward, backward, difference = numbers(players)
    assert inner(u, forward) == pytest.approx(inner(backward, w), rel=1e-5)
    # Images are rounded to single precision, so differences cannot be fine.
    for one, other in zip(forward, difference, strict=True):
        one, other = ravel_pytree(one)[0], ravel_pytree(other)[0]
        assert jnp.linalg.norm(one - other) < 0.002 * jnp.linalg.norm(one)


# The game of a GAN ---------------------------------------------------------------------------------------------------


def test_the_shift_gan_of_flax_modules_has_the_eigenvalues_of_theory(shift_field):
    ritz = spectrum.ritz_values(shift_field, AT_REST)
    theory = oracles.shift_eigenvalues(oracles.LOGISTIC, SAMPLES.T @ SAMPLES / len(SAMPLES), GAMMA)
    assert_same_spectrum(ritz.values, theory, 1e-11)


@pytest.mark.slow
def test_ritz_values_of_a_network_are_the_dense_eigenvalues(small_gan):
    field, players = small_gan
    dense = verdict.field_eigenvalues(field, players)
    assert_same_spectrum(spectrum.ritz_values(field, players, num_iterations=39).values, dense, 1e-8)
    few = spectrum.ritz_values(field, players, num_iterations=16)
    good = few.residuals < 1e-3 * np.abs(few.values)
    assert good[:2].all() and not good.all()
    distance = np.abs(few.values[:, None] - dense).min(axis=1)
    assert (distance[good] <= 3 * few.errors[good] + 1e-12).all()


@pytest.mark.slow
def test_the_field_is_the_direction_of_the_simultaneous_train_step():
    generator, discriminator = mlp.Generator(widths=(4,)), mlp.Discriminator(widths=(4,))
    terms = [penalties.r1(2.0), penalties.gradient_penalty(1.0)]  # the second draws random numbers
    optimizers = {"generator_optimizer": optax.sgd(0.5), "discriminator_optimizer": optax.sgd(0.25)}
    z, real = jax.random.normal(jax.random.key(0), (2, 5, 2))
    step = gan.make_train_step(
        generator,
        discriminator,
        **optimizers,
        latent_dim=2,
        penalties=terms,
        loss=adversarial.relativistic,
        update_rule=gan.simultaneous,
        sample_latent=lambda key, shape: z,
    )
    state = gan.init(jax.random.key(1), generator, discriminator, **optimizers, latent_dim=2)
    key = jax.random.key(7)
    after, _ = jax.jit(step)(state, {"image": real}, key)
    settings = {"latent_dim": 2, "loss": adversarial.relativistic, "penalties": terms}
    game = gan.Game(generator, discriminator, settings | {"sample_latent": lambda key, shape: z})
    field = spectrum.field_of_game(game, state, {"image": real}, key)
    v = jax.jit(field)(Players(state.generator.params, state.discriminator.params))
    for name, rate in (("generator", 0.5), ("discriminator", 0.25)):
        moved = jax.tree.map(jnp.subtract, getattr(after, name).params, getattr(state, name).params)
        expected = rate * ravel_pytree(getattr(v, name))[0]
        np.testing.assert_allclose(ravel_pytree(moved)[0], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_shares_are_those_of_the_matrix_within_their_error(small_gan):
    field, players = small_gan
    found = spectrum.shares(field, players, num_probes=400)
    matrix = jacobian_of(field, players)
    exact = np.sum(((matrix + matrix.T) / 2) ** 2) / np.sum(matrix**2)
    assert found.symmetric + found.antisymmetric == pytest.approx(1)
    assert abs(found.symmetric - exact) < 4 * found.standard_error < 0.1
    assert found.norm == pytest.approx(np.linalg.norm(matrix), rel=0.2)


def test_a_bilinear_game_is_all_rotation_and_a_valley_is_none():
    rotation = games.bilinear(np.diag([1.0, 3.0]))
    assert spectrum.shares(games.field(rotation), rotation.start).antisymmetric == pytest.approx(1)
    assert spectrum.shares(lambda w: -jnp.array([1.0, 5.0]) * w, jnp.ones(2)).symmetric == pytest.approx(1)


# The train-step map --------------------------------------------------------------------------------------------------


def test_momentum_in_the_optimiser_gives_the_eigenvalues_of_heavy_ball():
    rate, momentum = 0.3, 0.5
    step, state = shift_step(optax.sgd(rate, momentum=momentum))
    found = spectrum.ritz_values(*spectrum.train_step_map(step, state, {"image": SAMPLES}, jax.random.key(0)))
    mu = oracles.shift_eigenvalues(oracles.LOGISTIC, SAMPLES.T @ SAMPLES / len(SAMPLES), GAMMA)
    roots = np.concatenate([np.roots([1, -(1 + momentum + rate * m), momentum]) for m in mu])
    assert_same_spectrum(found.values, roots, 1e-9)


def adam_state(num_steps):
    """A small network after some steps of Adam, in double precision: (step, state, batch)."""
    generator = mlp.Generator(widths=(3,), activation=nn.tanh)
    discriminator = mlp.Discriminator(widths=(3,), activation=nn.tanh)
    optimizers = {name: optax.adam(0.01, b1=0.5, b2=0.9) for name in ("generator_optimizer", "discriminator_optimizer")}
    step = gan.make_train_step(generator, discriminator, **optimizers, latent_dim=1)
    state = gan.init(jax.random.key(0), generator, discriminator, **optimizers, latent_dim=1)
    state = jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)
    batch = {"image": jax.random.uniform(jax.random.key(1), (8, 2), jnp.float64)}
    compiled = jax.jit(step)
    for _ in range(num_steps):
        state, _ = compiled(state, batch, jax.random.key(2))
    return step, state, batch


@pytest.mark.slow
def test_the_step_of_adam_has_the_eigenvalues_of_its_dense_jacobian():
    step, state, batch = adam_state(5)
    key = jax.random.key(3)

    def moving(state):
        return [
            (player.params, player.opt_state[0].mu, player.opt_state[0].nu)
            for player in (state.generator, state.discriminator)
        ]

    flat, unravel = ravel_pytree(moving(state))

    def dense(w):
        players = []
        for player, (params, mu, nu) in zip((state.generator, state.discriminator), unravel(w), strict=True):
            adam = player.opt_state[0]._replace(mu=mu, nu=nu)
            players.append(player.replace(params=params, opt_state=(adam, *player.opt_state[1:])))
        after, _ = step(state.replace(generator=players[0], discriminator=players[1]), batch, key)
        return ravel_pytree(moving(after))[0]

    expected = np.linalg.eigvals(np.asarray(jax.jit(jax.jacrev(dense))(flat)))
    found = spectrum.ritz_values(*spectrum.train_step_map(step, state, batch, key), num_iterations=60)
    outer = found.values[found.residuals < 1e-9]
    assert len(outer) >= 3
    assert np.abs(outer[:, None] - expected).min(axis=1).max() < 1e-6
    assert np.abs(found.values).max() == pytest.approx(np.abs(expected).max(), rel=1e-8)


@pytest.mark.slow
def test_a_fresh_adam_whose_second_moments_are_zero_has_a_finite_linearisation():
    step, state, batch = adam_state(0)
    state = state.replace(  # a dead discriminator: no gradient for anyone but its last bias
        discriminator=state.discriminator.replace(params=jax.tree.map(jnp.zeros_like, state.discriminator.params))
    )
    found = spectrum.ritz_values(*spectrum.train_step_map(step, state, batch, jax.random.key(0)), num_iterations=10)
    assert np.isfinite(found.values).all() and found.values.size > 1


def test_adam_rates_are_what_adam_multiplies_a_steady_gradient_with():
    gradient, optimizer = {"a": jnp.array([1e-3, 2.0, -5.0])}, optax.adam(0.1, b1=0.0, b2=0.9, eps=1e-4)
    state = optimizer.init(gradient)
    for _ in range(3):
        moved, state = optimizer.update(gradient, state)
    rates = spectrum.adam_rates(state, b2=0.9, eps=1e-4, learning_rate=0.1)
    np.testing.assert_allclose(moved["a"], -rates["a"] * gradient["a"], rtol=1e-6)
    with pytest.raises(ValueError, match="holds 0 Adams"):
        spectrum.adam_rates(optax.sgd(0.1).init(gradient), b2=0.9)


def test_the_factor_of_adam_is_that_of_its_own_recursion():
    b1, z = 0.7, np.array([-0.3 + 1j, -2.0, 0.1j])
    for value in z:  # (w, m) -> (w + m', m') with m' = b1 m + (1 - b1) z w
        matrix = np.array([[1 + (1 - b1) * value, b1], [(1 - b1) * value, b1]])
        expected = np.abs(np.linalg.eigvals(matrix)).max()
        assert spectrum.adam_factor(value, b1) == pytest.approx(expected, rel=1e-12)


# From eigenvalues to the step ----------------------------------------------------------------------------------------


def final_distance(step, state, num_steps):
    """How far the shift GAN is from rest, after a push."""
    push = lambda player: player.replace(params=jax.tree.map(lambda x: x + 1e-3, player.params))  # noqa: E731
    state = state.replace(generator=push(state.generator), discriminator=push(state.discriminator))
    advance = lambda state, _: (step(state, {"image": SAMPLES}, jax.random.key(0))[0], None)  # noqa: E731
    end, _ = jax.jit(lambda state: jax.lax.scan(advance, state, length=num_steps))(state)
    return float(jnp.linalg.norm(ravel_pytree((end.generator.params, end.discriminator.params))[0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, optimizer, rule",
    [
        ("simultaneous", lambda h: optax.sgd(h), gan.simultaneous),
        ("heavy ball, b = -0.5", lambda h: optax.sgd(h, momentum=-0.5), gan.simultaneous),
        ("extragradient", lambda h: optax.sgd(h), gan.extragradient),
        ("optimistic", lambda h: optax.optimistic_gradient_descent(h), gan.simultaneous),
    ],
)
def test_the_train_step_converges_below_the_predicted_rate_and_diverges_above_it(shift_field, name, optimizer, rule):
    predicted = spectrum.stable_rates(spectrum.ritz_values(shift_field, AT_REST).values)[name]
    below, above = (final_distance(*shift_step(optimizer(s * predicted), rule), 2000) for s in (0.98, 1.02))
    assert below < 1e-3 / 10 and not above < 1e-1


@pytest.mark.slow
def test_a_trained_network_stays_below_the_predicted_rate_and_leaves_above_it_as_fast_as_predicted():
    generator = mlp.Generator(widths=(4,), activation=nn.tanh)
    discriminator = mlp.Discriminator(widths=(4,), activation=nn.tanh)
    keys = [jax.random.key(i) for i in (0, 5, 0, 0)]
    z, real = jax.random.normal(keys[0], (64, 2)), 1 + 0.5 * jax.random.normal(keys[1], (64, 2))
    theta = generator.init(keys[2], z, train=True)["params"]
    psi = discriminator.init(keys[3], real, train=True)["params"]
    field = field_of(generator, discriminator, real, z, penalties=[penalties.r1(5.0)])

    @functools.partial(jax.jit, static_argnums=2)
    def train(players, rate, num_steps):
        def advance(players, _):
            v = field(players)
            players = jax.tree.map(lambda x, v: x + rate * v, players, v)
            return players, jnp.linalg.norm(ravel_pytree(v)[0])

        return jax.lax.scan(advance, players, length=num_steps)

    players, _ = train(double(Players(theta, psi)), 0.1, 12_000)
    found = spectrum.ritz_values(field, players, num_iterations=39)
    predicted = spectrum.rate_table(found)["simultaneous"]
    assert predicted["all"] == predicted["damped"] > 0.1
    push = jax.tree.map(lambda x, d: x + 1e-9 * d, players, random_like(0, players))
    _, quiet = train(push, 0.97 * predicted["all"], 400)
    _, loud = train(push, 1.03 * predicted["all"], 400)
    assert quiet[-1] < quiet[0] / 10
    factor = np.abs(1 + 1.03 * predicted["all"] * found.values).max()
    assert float((loud[150] / loud[50]) ** (1 / 100)) == pytest.approx(factor, rel=1e-3)
    assert loud[150] > 100 * loud[50]


def test_the_largest_scale_of_alternating_steps_is_on_the_boundary_of_theory():
    game = games.dirac(adversarial.wasserstein, [penalties.r1(1.0)])
    found = spectrum.largest_stable_scale(
        functools.partial(updates.alternating), Players(0.5, 0.5), games.field(game), game.equilibrium
    )
    # eta_G eta_D < 4 - 2 eta_D at gamma = s = 1, so that equal rates must be below sqrt(5) - 1.
    assert 0.5 * found == pytest.approx(np.sqrt(5) - 1, rel=1e-3)


def test_a_scale_that_is_never_or_always_stable_is_said_to_be():
    rates = Players(0.1, 0.1)
    rotation, point = games.bilinear(np.eye(1)), Players(jnp.zeros(1), jnp.zeros(1))
    scale = functools.partial(spectrum.largest_stable_scale, updates.simultaneous, rates, tolerance=1e-15)
    assert scale(games.field(rotation), point) < 1e-5
    assert scale(lambda players: jax.tree.map(lambda x: 0 * x, players), point) == np.inf


def test_neutral_and_growing_directions_are_left_out_where_asked():
    eigenvalues = np.array([-2.0, 1e-9, 0.5])
    rate = lambda **options: spectrum.stable_rates(eigenvalues, **options)["simultaneous"]  # noqa: E731
    assert rate() == 0 and rate(damped_only=True) == pytest.approx(1.0)
    eigenvalues[2] = -0.5
    assert rate() == pytest.approx(1.0) and rate(neutral=0.0) == 0
    assert spectrum.stable_rates(np.zeros(2))["simultaneous"] == np.inf
    assert set(spectrum.stable_rates(eigenvalues)) == set(spectrum.RULES)


def test_values_that_have_not_converged_do_not_decide_on_rates():
    ritz = spectrum.Ritz(np.array([-100.0 + 0j, -2.0]), np.array([30.0, 1e-3]), np.ones(2))
    assert spectrum.rate_table(ritz)["simultaneous"] == {"all": pytest.approx(1.0), "damped": pytest.approx(1.0)}
    with pytest.raises(ValueError, match="no Ritz value has converged; take more iterations"):
        spectrum.rate_table(spectrum.Ritz(np.array([1.0 + 0j]), np.array([1.0]), np.ones(1)))


# Lines, layers, inputs -----------------------------------------------------------------------------------------------


def test_a_sink_turns_the_path_angle_and_a_rotation_keeps_its_sign():
    sink = spectrum.path(lambda w: -2 * w, jnp.array([3.0, 4.0]), jnp.zeros(2), np.array([0.0, 0.5, 1.5]))
    np.testing.assert_allclose(sink.angles, [1, 1, -1])
    np.testing.assert_allclose(sink.norms, [10, 5, 5])
    turning = jnp.array([[0.0, -1.0], [1.0, 0.0]])
    # Around the point (1, 1), from (0, 0) to (1, 0), one unit beside it.
    around = spectrum.path(lambda w: turning @ (w - 1), jnp.zeros(2), jnp.array([1.0, 0.0]), np.linspace(0, 2, 5))
    assert (around.angles > 0.5).all() and around.angles.argmax() == 2
    with pytest.raises(ValueError, match="two different points"):
        spectrum.path(lambda w: w, jnp.ones(2), jnp.ones(2))


class Layers(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = convolution.Conv(3, 4, 2, 1, name="down")(x)
        x = convolution.ConvTranspose(2, 4, 2, 1, name="up")(nn.relu(x))
        x = convolution.Conv(5, 1, name="mix")(x)
        return nn.Dense(4, name="out")(x.reshape(len(x), -1))


@pytest.mark.slow
def test_singular_values_of_layers_are_those_of_their_dense_matrices():
    x = jnp.zeros((2, 6, 6, 2))
    variables = double(Layers().init(jax.random.key(0), x, train=False))
    variables["params"]["down"]["bias"] += 1.0  # which does not count
    found = spectrum.layer_singular_values(Layers(), variables, x, num=2, num_iterations=72)
    assert list(found) == ["down", "up", "mix", "out"]
    inputs = {"down": (6, 6, 2), "up": (3, 3, 3), "mix": (6, 6, 2)}
    modules = {
        "down": convolution.Conv(3, 4, 2, 1, use_bias=False),
        "up": convolution.ConvTranspose(2, 4, 2, 1, use_bias=False),
        "mix": convolution.Conv(5, 1, use_bias=False),
    }
    for name, shape in inputs.items():
        size, kernel = int(np.prod(shape)), variables["params"][name]["kernel"]
        rows = modules[name].apply({"params": {"kernel": kernel}}, jnp.eye(size).reshape(size, *shape))
        exact = np.unique(np.linalg.svd(rows.reshape(size, -1), compute_uv=False).round(10))[::-1]
        np.testing.assert_allclose(found[name].operator, exact[:2], atol=1e-8)
        assert found[name].errors.max() < 1e-8
    matrix = np.linalg.svd(variables["params"]["mix"]["kernel"].reshape(2, 5), compute_uv=False)
    np.testing.assert_allclose(found["mix"].matrix, matrix)
    np.testing.assert_allclose(found["mix"].operator, matrix)  # without neighbours a convolution is its matrix
    kernel = variables["params"]["out"]["kernel"]
    np.testing.assert_allclose(found["out"].operator, np.linalg.svd(kernel, compute_uv=False)[:2])


class SpectralLayers(nn.Module):
    """Told labels, which count for nothing."""

    @nn.compact
    def __call__(self, x, label, *, train):
        x = spectral_norm.SpectralConv(3, 4, 2, 1, name="down")(x, train=train)
        x = spectral_norm.SpectralDense(4, name="out")(x.reshape(len(x), -1), train=train)
        return x + nn.Embed(3, 4)(label)


@pytest.mark.slow
def test_layers_under_spectral_norm_count_as_they_are_used_and_networks_may_be_told_labels():
    x, label = jnp.zeros((2, 6, 6, 2)), jnp.zeros(2, jnp.int32)
    variables = double(SpectralLayers().init(jax.random.key(0), x, label, train=False))
    _, after = SpectralLayers().apply(variables, x, label, train=True, mutable=["spectral_norm"])
    variables |= after
    found = spectrum.layer_singular_values(SpectralLayers(), variables, x, label, num=2, num_iterations=72)
    assert list(found) == ["down", "out"]
    for name, layer in (("down", spectral_norm.SpectralConv(3, 4, 2, 1)), ("out", spectral_norm.SpectralDense(4))):
        shape = {"down": (6, 6, 2), "out": (27,)}[name]
        own = {collection: tree[name] for collection, tree in variables.items() if name in tree}
        rows = layer.apply(own, jnp.eye(int(np.prod(shape))).reshape(-1, *shape), train=False)
        exact = np.unique(np.linalg.svd(rows.reshape(len(rows), -1), compute_uv=False).round(10))[::-1]
        np.testing.assert_allclose(found[name].operator, exact[:2], atol=1e-8)
    # Power iteration comes from below: a kernel over its estimate has a norm of a little more than 1.
    assert all(1 <= layer.matrix[0] < 2 for layer in found.values())


def test_the_input_jacobian_is_that_beside_the_condition_which_each_image_has():
    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, z, label, *, train):
            return network.Output(z * (1.0 + label[:, None]), None)

    found = spectrum.input_singular_values(Scaled(), {}, jnp.ones((3, 2)), jnp.arange(3))
    np.testing.assert_allclose(found, [[1, 1], [2, 2], [3, 3]])


def test_the_input_jacobian_of_a_linear_generator_is_its_kernel():
    generator = mlp.Generator(features=5, widths=())
    z = jax.random.normal(jax.random.key(0), (3, 2))
    variables = double(generator.init(jax.random.key(1), z, train=True))
    found = spectrum.input_singular_values(generator, variables, z)
    exact = np.linalg.svd(variables["params"]["Dense_0"]["kernel"], compute_uv=False)
    np.testing.assert_allclose(found, np.tile(exact, (3, 1)), rtol=1e-12)
    np.testing.assert_allclose(spectrum.condition_numbers(found), (exact[0] / exact[1]) ** 2)
    assert spectrum.condition_numbers(np.array([[1.0, 0.0]])) == np.inf
