"""Encoder, decoder and discriminator with objectives of their own: the step, and VAE-GAN."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import adversarial_autoencoder, building, description, network, sharding, systems, vae
from jaxgen.losses import adversarial, variational
from jaxgen.models import vae_gan as networks
from jaxgen.options import Optimizer
from jaxgen.system import Spec
from jaxgen.systems import vae_gan

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY, RNG = jax.random.key(0), np.random.default_rng(0)
SGD = dict.fromkeys(adversarial_autoencoder.NAMES, optax.sgd(1.0))


# The step -------------------------------------------------------------------------------------------------------------


class Coded(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(2)(x.reshape(len(x), -1))


class Drawn(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        return nn.Dense(4)(jnp.tanh(z)).reshape(-1, 2, 2, 1)


class Judge(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        return nn.Dense(1)(jnp.tanh(nn.Dense(3)(z)))[:, 0]


MODULES = (Coded(), Drawn(), Judge())
BATCH = {"image": jnp.asarray(RNG.uniform(-1, 1, (8, 2, 2, 1)), jnp.float32)}


def first_state(optimizers=SGD):
    return adversarial_autoencoder.init(
        KEY, *MODULES, optimizers=optimizers, image_shape=(2, 2, 1), judged=lambda image, z: (z,)
    )


def objectives(axis_name=None):
    def losses(players, batch, key, step):
        z = players.encode(batch["image"])
        error = jnp.mean(jnp.square(players.decode(z) - batch["image"]))
        prior = sharding.draw(jax.random.normal, key, z.shape, axis_name=axis_name)
        real, fake = players.discriminate(prior), players.discriminate(z)
        loss = adversarial.non_saturating
        return {
            "encoder": error + jnp.mean(loss.generator(real, fake)),
            "decoder": 3 * error,
            "discriminator": jnp.mean(loss.discriminator(real, fake)),
        }, {"distortion": error}

    return losses


@pytest.mark.slow
def test_each_network_moves_along_its_own_loss_at_its_own_parameters():
    state = first_state()
    step = adversarial_autoencoder.make_train_step(*MODULES, objectives(), optimizers=SGD)
    after, metrics = jax.jit(step)(state, BATCH, KEY)
    own = {name: getattr(state, name).params for name in adversarial_autoencoder.NAMES}

    def loss(params, name):
        players = adversarial_autoencoder.Networks(
            dict(zip(adversarial_autoencoder.NAMES, MODULES, strict=True)), params, dict.fromkeys(own, {}), KEY
        )
        return objectives()(players, BATCH, jax.random.fold_in(KEY, 0), 0)[0][name]

    for name in own:
        found = jax.tree.map(lambda a, b: a - b, own[name], getattr(after, name).params)
        expected = jax.grad(loss)(own, name)[name]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)
        assert float(metrics[f"{name}/loss"]) == pytest.approx(float(loss(own, name)), rel=1e-5)
        assert float(metrics[f"{name}/grad_norm"]) == pytest.approx(float(optax.tree.norm(expected)), rel=1e-4)
    assert set(after.ema) == {"encoder", "decoder"} and int(after.step) == 1


def test_two_devices_with_a_name_for_their_axis_compute_what_one_computes():
    state = first_state()
    expected, metrics = jax.jit(adversarial_autoencoder.make_train_step(*MODULES, objectives(), optimizers=SGD))(
        state, BATCH, KEY
    )
    step = adversarial_autoencoder.make_train_step(*MODULES, objectives("data"), optimizers=SGD, axis_name="data")
    found = sharding.pmap_step(step, num_devices=2)(state, BATCH, KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, (expected, metrics))


def test_a_network_that_waits_stays_bit_for_bit_what_it_is_and_its_optimiser_too():
    adam = dict.fromkeys(adversarial_autoencoder.NAMES, optax.adam(0.1))
    state = first_state(adam)

    def moves(metrics):
        return {"decoder": metrics["distortion"] > 100, "discriminator": metrics["distortion"] > 0}

    step = adversarial_autoencoder.make_train_step(*MODULES, objectives(), optimizers=adam, moves=moves)
    after, metrics = jax.jit(step)(state, BATCH, KEY)
    jax.tree.map(np.testing.assert_array_equal, after.decoder, state.decoder)
    jax.tree.map(np.testing.assert_array_equal, after.ema["decoder"], state.decoder.variables)
    for name in ("encoder", "discriminator"):
        assert int(getattr(after, name).opt_state[0].count) == 1
    assert (metrics["decoder/moved"], metrics["discriminator/moved"]) == (0, 1) and "encoder/moved" not in metrics


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"optimizers": {"encoder": optax.sgd(1.0)}}, ValueError, "with the keys encoder, decoder, discriminator"),
        ({"optimizers": SGD | {"decoder": 0.1}}, TypeError, r"optimizers\['decoder'\] must be an optax transformation"),
        ({"objectives": "mse"}, TypeError, "objectives must be a function"),
        ({"objectives": lambda n, b, k, s: ({"encoder": jnp.zeros(())}, {})}, ValueError, "not encoder"),
        (
            {"objectives": lambda n, b, k, s: (dict.fromkeys(SGD, n.encode(b["image"])), {})},
            ValueError,
            r"the loss of the encoder must be a number, not of shape \(8, 2\): take the mean",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(changes, error, message):
    given = {"optimizers": SGD, "objectives": objectives()} | changes
    with pytest.raises(error, match=message):
        step = adversarial_autoencoder.make_train_step(*MODULES, **given)
        jax.eval_shape(step, jax.eval_shape(first_state), BATCH, KEY)
    with pytest.raises(TypeError, match="decoder must be a Flax Linen module"):
        adversarial_autoencoder.make_train_step(Coded(), "decoder", Judge(), objectives(), optimizers=SGD)


# VAE-GAN --------------------------------------------------------------------------------------------------------------


def test_the_published_networks_are_those_of_the_papers_table():
    preset = systems.PRESETS["celeba-vae-gan"]
    system = building.build_system(preset.config, description.spec_of(preset.config, preset))
    conv = lambda *widths: sum(25 * a * b + 2 * b for a, b in zip(widths, widths[1:], strict=False))  # noqa: E731
    dense = lambda a, b: a * b + 2 * b  # noqa: E731  (scale and shift of the normalisation)
    flat = 8 * 8 * 256
    assert system.parameters == {
        "encoder": conv(3, 64, 128, 256) + dense(flat, 2048) + 2049 * 256,
        "decoder": dense(128, flat) + conv(256, 256, 128, 32) + 25 * 32 * 3 + 3,
        "discriminator": 25 * 3 * 32 + 32 + conv(32, 128, 256, 256) + dense(flat, 512) + 513,
    }
    assert preset.config.gamma == 1e-6 and preset.config.margin == 0.35 and not preset.config.judge_reconstructions


@pytest.mark.slow
def test_no_adversary_reaches_the_encoder_and_no_error_of_features_the_discriminator():
    """The gradient of each loss at each network, by hand, and which of them the step goes along."""
    gamma, names = 0.01, adversarial_autoencoder.NAMES
    plain = dict.fromkeys(names, Optimizer("sgd", learning_rate=1.0, b1=0.0))
    config = dataclasses.replace(vae_gan.TINY, gamma=gamma, margin=0.0, **plain)
    spec = Spec.of_images((8, 8, 1))
    system = building.build_system(config, spec)
    state, batch = system.init(KEY), {"image": jnp.asarray(RNG.uniform(-1, 1, (8, 8, 8, 1)), jnp.float32)}
    image = batch["image"]
    own = {name: getattr(state, name) for name in names}
    encoder, decoder = networks.Encoder(3, 4, 8), networks.Decoder((8, 8, 1), 4)
    discriminator = networks.Discriminator(4, 8)
    noise, prior = (jax.random.normal(k, (8, 3)) for k in jax.random.split(jax.random.fold_in(KEY, 0)))

    def three_losses(params):
        def run(module, name, x):
            return network.apply(module, params[name], own[name].model_state, x)[0]

        mean, logvar = run(encoder, "encoder", image)
        again = run(decoder, "decoder", vae.reparameterize(mean, logvar, noise))
        new = run(decoder, "decoder", prior)
        (real, f), (fake, f_again), (fake_new, _) = (
            run(discriminator, "discriminator", x) for x in (image, again, new)
        )
        s = jax.nn.softplus
        return {
            "prior": variational.gaussian_kl(mean, logvar).mean(),
            "features": 0.5 * jnp.mean(jnp.sum((f - f_again) ** 2, axis=(1, 2, 3))),
            "gan": jnp.mean(s(-real)) + 0.5 * jnp.mean(s(fake)) + 0.5 * jnp.mean(s(fake_new)),
        }

    params = {name: player.params for name, player in own.items()}
    (after, metrics), blocks = jax.jit(
        lambda state, params: (system.train_step(state, batch, KEY), jax.jacrev(three_losses)(params))
    )(state, params)
    norms = {loss: {name: float(optax.tree.norm(of[name])) for name in names} for loss, of in blocks.items()}
    assert norms["prior"]["decoder"] == norms["prior"]["discriminator"] == 0
    assert min(norms["gan"].values()) > 1e-4 and min(norms["features"].values()) > 1e-4  # there is something to mask

    def total(name, **weights):
        return jax.tree.map(
            lambda *parts: sum(w * part for w, part in zip(weights.values(), parts, strict=True)),
            *(blocks[loss][name] for loss in weights),
        )

    expected = {
        "encoder": total("encoder", prior=1.0, features=1.0),
        "decoder": total("decoder", features=gamma, gan=-1.0),
        "discriminator": total("discriminator", gan=1.0),
    }
    for name in names:
        found = jax.tree.map(lambda a, b: a - b, params[name], getattr(after, name).params)
        scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected[name]))
        jax.tree.map(
            lambda a, b, scale=scale: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3 * scale),
            found,
            expected[name],
        )
    assert float(metrics["rate"]) > 0 and float(metrics["feature_distortion"]) > 0


def test_the_stronger_side_waits_and_never_both():
    def moving(real, fake):
        costs = {"discriminator/real_cost": jnp.array(real), "discriminator/fake_cost": jnp.array(fake)}
        found = vae_gan.who_moves(costs, 0.68, 0.35)
        return bool(found["discriminator"]), bool(found["decoder"])

    assert moving(0.68, 0.68) == (True, True)
    assert moving(0.30, 0.68) == moving(0.68, 0.30) == (False, True)  # the discriminator knows real, or fake, images
    assert moving(1.10, 0.68) == moving(0.68, 1.10) == (True, False)
    assert moving(0.30, 1.10) == (True, True)


def test_other_sides_than_multiples_of_eight_are_one_sentence():
    with pytest.raises(ValueError, match="they must be multiples of 8, not 28x28; resize the data"):
        building.build_system(vae_gan.TINY, Spec.of_images((28, 28, 1)))
