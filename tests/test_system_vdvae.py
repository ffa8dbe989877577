"""The hierarchical bound of a whole system, what its settings mean, and what they refuse."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import building, hierarchical_vae, systems
from jaxgen.losses import variational
from jaxgen.models.vdvae import Decoded
from jaxgen.options import Data
from jaxgen.system import Spec
from jaxgen.systems import vdvae

pytestmark = pytest.mark.usefixtures("fast_compilation")
GREY = Spec.of_images((28, 28, 1), 10)


# A model whose likelihood is known ------------------------------------------------------------------------------------


class Same(nn.Module):
    """The image itself."""

    @nn.compact
    def __call__(self, x, *, train):
        return x


class Chain(nn.Module):
    """z1 ~ N(0, 1), z2 ~ N(z1, 1), x ~ N(z2, 1); q(z2 | z1, x) exact, q(z1 | x) = N(x / 3 + shift, 2 / 3)."""

    num_latents: int = 2

    @nn.compact
    def __call__(self, noise, maps=None, *, temperature=1.0, train):
        shift = self.param("shift", nn.initializers.constant(0.5), ())
        if maps is None:
            z1 = temperature * noise[:, 0]
            z2 = z1 + temperature * noise[:, 1]
            return Decoded(self.output(z2), temperature * noise, {}, None)
        x = maps.reshape(-1)
        mean1, logvar1 = x / 3 + shift, jnp.full_like(x, math.log(2 / 3))
        z1 = mean1 + jnp.exp(logvar1 / 2) * noise[:, 0]
        mean2, logvar2 = (z1 + x) / 2, jnp.full_like(x, math.log(1 / 2))
        z2 = mean2 + jnp.exp(logvar2 / 2) * noise[:, 1]
        rates = {
            "1x1": variational.gaussian_kl_per_unit(mean1, logvar1),
            "2x2": variational.gaussian_kl_per_unit(mean2, logvar2, z1, 0.0),
        }
        log_ratio = 0.5 * ((noise**2).sum(1) - z1**2 - (z2 - z1) ** 2 + logvar1 + logvar2)
        return Decoded(self.output(z2), jnp.stack([z1, z2 - z1], axis=1), rates, log_ratio)

    def output(self, z2):
        mean = z2.reshape(-1, 1, 1, 1)
        return mean, jnp.zeros_like(mean)


X = jnp.array([0.3, -0.8]).reshape(2, 1, 1, 1)
EVIDENCE = np.asarray(jax.scipy.stats.norm.logpdf(X.reshape(-1), 0.0, math.sqrt(3.0)))


def chain_of(shift, num_samples):
    step = hierarchical_vae.make_eval_step(Same(), Chain(), likelihood=variational.gaussian, num_samples=num_samples)
    variables = {"encoder": {}, "decoder": {"params": {"shift": jnp.asarray(shift)}}}
    return jax.jit(step)(variables, {"image": X}, jax.random.key(0))


def test_with_exact_posteriors_one_draw_is_the_evidence_itself():
    found = chain_of(0.0, 1)
    np.testing.assert_allclose(found["importance_weighted_bound"], EVIDENCE, rtol=1e-5)


def test_with_a_wrong_posterior_the_bound_is_below_the_evidence_by_its_divergence_and_rises_with_k():
    """KL(q(z1) || p(z1 | x)) = shift^2 / (2 * 2/3)."""
    found = chain_of(0.5, 20_000)
    np.testing.assert_allclose(found["elbo"], EVIDENCE - 0.5**2 * 0.75, atol=0.03)
    np.testing.assert_allclose(found["importance_weighted_bound"], EVIDENCE, atol=0.01)
    np.testing.assert_allclose(found["elbo"], -found["distortion"] - found["rate"], rtol=1e-5)
    np.testing.assert_allclose(found["rate"], found["rate/1x1"] + found["rate/2x2"], rtol=1e-5)
    np.testing.assert_allclose(found["elbo_bits_per_dim"], -found["elbo"] / math.log(2), rtol=1e-5)
    summary = hierarchical_vae.summarize(found)
    assert summary["elbo"] == pytest.approx(float(np.mean(found["elbo"])))


def test_training_minimises_nats_for_each_sub_pixel_and_tells_the_parts():
    settings = {"optimizer": optax.sgd(0.2)}
    step = jax.jit(hierarchical_vae.make_train_step(Same(), Chain(), likelihood=variational.gaussian, **settings))
    state = hierarchical_vae.init(jax.random.key(0), Same(), Chain(), image_shape=(1, 1, 1), **settings)
    batch = {"image": jnp.tile(X, (64, 1, 1, 1))}
    for _ in range(60):
        state, metrics = step(state, batch, jax.random.key(1))
    assert float(state.network.params["decoder"]["shift"]) == pytest.approx(0.0, abs=0.1)  # the exact posterior
    parts = {name: float(value) for name, value in metrics.items()}
    assert parts["loss"] == pytest.approx(-parts["elbo"], rel=1e-5)  # of one sub-pixel
    assert parts["bits_per_dim"] == pytest.approx(parts["loss"] / math.log(2), rel=1e-5)
    assert parts["rate"] == pytest.approx(parts["rate/1x1"] + parts["rate/2x2"], rel=1e-5)
    assert parts["elbo"] == pytest.approx(float(np.mean(EVIDENCE)), abs=0.15)


# The system -----------------------------------------------------------------------------------------------------------


def test_grey_digits_need_no_padding_and_their_nats_are_of_784_pixels():
    config = dataclasses.replace(
        systems.PRESETS["mnist-vdvae"].config, encoder_blocks="28d2,14d2,7d7,1", decoder_blocks="1,7m1,14m7,28m14"
    )
    system = building.build_system(config, GREY)
    image = jax.ShapeDtypeStruct((3, 28, 28, 1), jnp.float32)
    found = jax.eval_shape(system.measure.of_batch, system.shapes.ema, {"image": image}, jax.random.key(0))
    assert {name for name in found if name.startswith("rate/")} == {"rate/1x1", "rate/7x7", "rate/14x14", "rate/28x28"}
    decoder = vdvae.networks.Decoder(1, config.decoder_blocks, latent_dim=config.latent_dim)
    assert decoder.num_latents == 8 * (1 + 7**2 + 14**2 + 28**2)


@pytest.fixture(scope="module")
def tiny():
    system = building.build_system(vdvae.TINY, Spec.of_images((8, 8, 3)))
    rng = np.random.default_rng(0)
    return system, jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), system.shapes.ema)


@pytest.mark.slow
def test_images_are_drawn_on_the_levels_and_colder_ones_are_more_alike(tiny):
    system, variables = tiny
    draw = jax.jit(lambda v, k, t: (system.draw(v, k, 16, temperature=t), system.decode(v, system.latents(k, 16), t)))
    (warm, means), (cold, cold_means) = (draw(variables, jax.random.key(0), t) for t in (1.0, 0.0))
    levels = (np.asarray(warm) + 1) * 15.5  # of 5 bits
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    np.testing.assert_allclose(cold_means - cold_means[:1], 0.0, atol=1e-5)
    assert np.std(means, axis=0).max() > 1e-2
    assert np.std(cold, axis=0).max() > 0  # the likelihood's own noise is left


def test_what_published_presets_say_of_themselves():
    for name, (batch_size, decay) in {
        "cifar-vdvae": (32, 0.9999),
        "imagenet-vdvae-32": (256, 0.999),
        "imagenet-vdvae-64": (128, 0.999),
        "ffhq-vdvae-256": (32, 0.999),
    }.items():
        preset = systems.PRESETS[name]
        assert preset.config.batch_size == batch_size and "ELBO, test split" in preset.published
        assert 0.5 ** (batch_size / preset.config.ema_half_life) == pytest.approx(decay, rel=1e-9)
        assert not preset.measured


def test_the_learning_rate_rises_from_zero_over_the_first_updates():
    rate = dataclasses.replace(vdvae.ADAMW, schedule="linear").rate(1000)
    found = [float(rate(step)) for step in (0, 50, 100, 550)]
    np.testing.assert_allclose(found, [0.0, 0.95e-4, 1.8e-4, 0.9e-4], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"likelihood": "bernoulli"}, "--likelihood bernoulli and --data.binarise none do not fit"),
        ({"data": Data(binarise="dynamic")}, "--likelihood mixture and --data.binarise dynamic do not fit"),
        ({}, "make images of 32 pixels, and these have 28: the last size must be the images'"),
        ({"num_bits": 9}, "--num-bits must be at"),
        ({"pixels": (127.5, 0.0)}, "--pixels must be"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        building.build_system(vdvae.Config(**changes), GREY)
