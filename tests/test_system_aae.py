"""Adversaries of codes (adversarial autoencoder, WAE-GAN, FactorVAE) and of pairs (BiGAN)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import adversarial_autoencoder, building, description, network, sharding, systems
from jaxgen.losses import adversarial, latent
from jaxgen.models import pairs
from jaxgen.options import Data, Optimizer
from jaxgen.system import Spec
from jaxgen.systems import aae, bigan, factor_vae

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY, RNG = jax.random.key(0), np.random.default_rng(0)
NAMES = adversarial_autoencoder.NAMES
PLAIN = dict.fromkeys(NAMES, Optimizer("sgd", learning_rate=1e-3, b1=0.0))


def built(module, shape=(4, 4, 1), **changes):
    return building.build_system(dataclasses.replace(module.TINY, **changes), Spec.of_images(shape))


def batch_of(shape=(4, 4, 1)):
    return {"image": jnp.asarray(RNG.uniform(-1, 1, (8, *shape)), jnp.float32)}


def moved(system, state, batch):
    """(how far each network moved, metrics)."""
    after, metrics = jax.jit(system.train_step)(state, batch, KEY)
    found = {
        name: jax.tree.map(lambda a, b: np.asarray(a - b), getattr(after, name).params, getattr(state, name).params)
        for name in NAMES
    }
    return found, metrics


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mnist-aae", {"encoder": 784 * 1000 + 1000 + 1001 * 1000 + 1001 * 8, "discriminator": 9000 + 1001 * 1001}),
        ("mnist-bigan", {"decoder": 50 * 1024 + 1024**2 + 4 * 1024 + 1025 * 784}),
        ("mnist-factor-vae", {"discriminator": 11 * 1000 + 5 * 1001 * 1000 + 1001}),
    ],
)
def test_networks_have_the_published_widths(name, parameters):
    preset = systems.PRESETS[name]
    found = building.build_system(preset.config, description.spec_of(preset.config, preset)).parameters
    assert parameters.items() <= found.items() and set(found) == set(NAMES)


# A discriminator of codes ---------------------------------------------------------------------------------------------


def test_the_priors_density_is_added_to_the_logits_where_that_is_asked_for():
    z = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32)
    variables = pairs.CodeDiscriminator((4,)).init(KEY, z, train=True)
    plain, added = (pairs.CodeDiscriminator((4,), log_prior=on).apply(variables, z, train=True) for on in (False, True))
    log_density = -0.5 * np.sum(np.asarray(z) ** 2, axis=1) - 1.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(added - plain, log_density, rtol=1e-4)


@pytest.mark.slow
def test_the_adversary_of_codes_moves_the_encoder_alone():
    batch = batch_of()
    state = built(aae, **PLAIN).init(KEY)
    without, none = moved(built(aae, weight=0.0, **PLAIN), state, batch)
    found, metrics = moved(built(aae, weight=10.0, **PLAIN), state, batch)
    for name in ("decoder", "discriminator"):
        jax.tree.map(np.testing.assert_array_equal, found[name], without[name])
    both = zip(jax.tree.leaves(found["encoder"]), jax.tree.leaves(without["encoder"]), strict=True)
    assert max(float(np.abs(a - b).max()) for a, b in both) > 1e-5
    assert float(none["encoder/loss"]) == float(none["decoder/loss"]) == float(none["distortion"])
    variables = state.ema
    z = pairs.Encoder(3, (6, 5)).apply(variables["encoder"], batch["image"], train=True)
    again = pairs.Decoder((4, 4, 1), (6, 5)).apply(variables["decoder"], z, train=True)
    logits = pairs.CodeDiscriminator((4,), log_prior=True).apply(state.discriminator.variables, z, train=True)
    error = float(jnp.sum((again - batch["image"]) ** 2)) / 8
    assert float(metrics["distortion"]) == pytest.approx(error, rel=1e-4)
    expected = error + 10 * float(jax.nn.softplus(-logits).mean())
    assert float(metrics["encoder/loss"]) == pytest.approx(expected, rel=1e-4)


# The total correlation ------------------------------------------------------------------------------------------------


def test_columns_are_permuted_each_for_itself_over_the_whole_batch():
    z = jnp.asarray(RNG.normal(size=(800, 3)), jnp.float32).at[:, 1].set(0)
    z = z.at[:, 1].set(z[:, 0])  # two columns that are one
    found = np.asarray(latent.permuted(KEY, z))
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(z, axis=0))
    assert abs(np.corrcoef(found[:, 0], found[:, 1])[0, 1]) < 0.1
    assert np.mean(found == np.asarray(z)) < 0.02
    for shares in (2, 4):
        parts = z.reshape(shares, -1, 3)
        of_devices = jax.pmap(
            lambda z: latent.permuted(KEY, z, axis_name="data"), axis_name="data", devices=jax.devices()[:shares]
        )(parts)
        np.testing.assert_array_equal(np.asarray(of_devices).reshape(-1, 3), found)
    with pytest.raises(TypeError, match="key"):
        latent.permuted(0, z)


def test_a_discriminator_that_tells_them_apart_estimates_the_total_correlation_of_a_gaussian():
    """Of two numbers with correlation r it is -log(1 - r^2) / 2."""
    r, module, optimizer = 0.8, pairs.CodeDiscriminator((32, 32), slope=0.2), optax.adam(1e-2)

    def draw(key, n):
        a, b = jax.random.normal(key, (2, n))
        return jnp.stack([a, r * a + math.sqrt(1 - r**2) * b], axis=1)

    def step(carry, key):
        params, opt_state = carry
        keys = jax.random.split(key)
        z = draw(keys[0], 512)

        def loss(params):
            sides = (module.apply(params, x, train=True) for x in (z, latent.permuted(keys[1], z)))
            return jnp.mean(adversarial.non_saturating.discriminator(*sides))

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def estimate(key):
        params = module.init(key, jnp.zeros((1, 2)), train=True)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, 400))
        return jnp.mean(module.apply(params, draw(key, 20_000), train=True))

    assert float(estimate(KEY)) == pytest.approx(-0.5 * math.log(1 - r**2), rel=0.15)


@pytest.mark.slow
def test_the_encoder_minimises_the_bound_and_the_total_correlation_and_the_decoder_the_distortion():
    system = built(factor_vae, (28, 28, 1), gamma=7.0)
    state, batch = system.init(KEY), batch_of((28, 28, 1))
    _, metrics = jax.jit(system.train_step)(state, batch, KEY)
    found = {name: float(x) for name, x in metrics.items()}
    assert found["elbo"] == pytest.approx(-found["distortion"] - found["rate"], rel=1e-5)
    whole = found["distortion"] + found["rate"] + 7 * found["total_correlation"]
    assert found["encoder/loss"] == pytest.approx(whole, rel=1e-5)
    assert found["decoder/loss"] == pytest.approx(found["distortion"], rel=1e-6)
    assert abs(found["total_correlation"]) > 1e-5
    assert system.measure.best == "elbo"


def test_a_bernoulli_likelihood_of_grey_images_is_refused():
    with pytest.raises(ValueError, match="a Bernoulli likelihood needs binarised images"):
        built(factor_vae, (28, 28, 1), likelihood="bernoulli", data=Data())


# Pairs ----------------------------------------------------------------------------------------------------------------


def test_a_pair_is_judged_and_not_its_members():
    """Swapped partners have other logits, and not such as sums of an image's and of a code's would be."""
    x, z = batch_of()["image"][:2], jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32)
    module = pairs.PairDiscriminator((16, 16), batch_norm=False)
    variables = module.init(KEY, x, z, train=True)
    logits = lambda x, z: np.asarray(module.apply(variables, x, z, train=False))  # noqa: E731
    own, swapped = logits(x, z), logits(x, z[::-1])
    assert np.all(np.abs(own - swapped) > 1e-3)
    assert abs(own.sum() - swapped.sum()) > 1e-3  # 0 for a sum of what is said of images and of codes


@pytest.mark.slow
def test_encoder_and_generator_share_one_loss_of_the_exchanged_pairs_and_both_move():
    system, batch = built(bigan, **PLAIN), batch_of()
    state = system.init(KEY)
    found, metrics = moved(system, state, batch)
    assert float(metrics["encoder/loss"]) == float(metrics["decoder/loss"])
    assert all(max(np.abs(x).max() for x in jax.tree.leaves(found[name])) > 1e-6 for name in NAMES)
    z = jax.random.uniform(jax.random.fold_in(KEY, 0), (8, 3), minval=-1, maxval=1)
    run = lambda module, name, *x: network.apply(  # noqa: E731
        module, getattr(state, name).params, getattr(state, name).model_state, *x
    )[0]
    code = run(pairs.Encoder(3, (6, 5), slope=0.2, batch_norm=True), "encoder", batch["image"])
    image = run(pairs.Decoder((4, 4, 1), (6, 5), batch_norm=True), "decoder", z)
    judge = pairs.PairDiscriminator((6, 5))
    real, fake = run(judge, "discriminator", batch["image"], code), run(judge, "discriminator", image, z)
    s = lambda x: float(jax.nn.softplus(x).mean())  # noqa: E731
    assert float(metrics["discriminator/loss"]) == pytest.approx(s(-real) + s(fake), rel=1e-4)
    assert float(metrics["encoder/loss"]) == pytest.approx(s(real) + s(-fake), rel=1e-4)
    drawn = system.latents(KEY, 1000)
    assert -1 <= float(drawn.min()) < -0.98 and 0.98 < float(drawn.max()) <= 1


def test_what_is_judged_of_an_image_is_what_the_discriminator_is_for():
    """Images' codes for an adversary of codes, and the pair of both for one of pairs."""
    batch = batch_of()
    for module, judge in (
        (aae, pairs.CodeDiscriminator((4,), log_prior=True)),
        (bigan, pairs.PairDiscriminator((6, 5))),
    ):
        system = built(module)
        variables = system.variables(system.init(KEY))
        z = system.encode(variables, batch)
        inputs = (z,) if module is aae else (batch["image"], z)
        expected = judge.apply(variables["discriminator"], *inputs, train=False)
        np.testing.assert_allclose(system.discriminate(variables, batch), expected, rtol=1e-4, atol=1e-5)


def test_latents_are_divided_over_devices_like_the_batch():
    system = built(aae)
    mesh = sharding.make_mesh(2)
    draw = sharding.jit_global(lambda key: system.latents(key, 8), mesh, batch_axes=(None,))
    np.testing.assert_array_equal(draw(KEY), system.latents(KEY, 8))
