"""R3GAN's game: its loss with both penalties against published numbers, and what its burn-in changes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import augmentation, building, description, gan, optim, turns
from jaxgen.losses import adversarial, penalties
from jaxgen.options import Optimizer
from jaxgen.system import Spec
from jaxgen.systems import r3gan
from jaxgen.systems.preset import Preset

pytestmark = pytest.mark.usefixtures("fast_compilation")
SPEC = Spec.of_images((8, 8, 3), 9)


def built(spec=SPEC, **changes):
    config = dataclasses.replace(r3gan.TINY, widths=(4, 2), **changes)
    return config, building.build_system(config, spec)


# The game on two numbers ----------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """G(z) = w z, w = 0.7."""

    @nn.compact
    def __call__(self, z, *, train):
        return self.param("w", nn.initializers.constant(0.7), ()) * z.reshape(-1, 2, 2, 3)


class Squared(nn.Module):
    """D(x) = w |x|^2 / 2, w = 0.3."""

    @nn.compact
    def __call__(self, x, *, train):
        return self.param("w", nn.initializers.constant(0.3), ()) * jnp.sum(jnp.square(x), (1, 2, 3)) / 2


def test_loss_penalties_and_both_gradients_are_those_of_the_authors_code():
    """Two images of twelve numbers, gamma 0.05; their numbers were computed by running that code once."""
    x, z = (f(np.arange(24.0)).astype(np.float32) for f in (np.sin, np.cos))
    weigh = functools.partial(turns.from_penalty, weight=lambda step: 0.05)
    settings = {
        "generator_optimizer": optim.recording(),
        "discriminator_optimizer": optim.recording(),
        "latent_dim": 12,
        "discriminator_terms": [weigh(penalties.r1(1.0)), weigh(penalties.r2(1.0))],
    }
    step = gan.make_train_step(
        Scaled(),
        Squared(),
        loss=adversarial.relativistic,
        sample_latent=lambda key, shape: jnp.asarray(z).reshape(shape),
        **settings,
    )
    state = gan.init(jax.random.key(0), Scaled(), Squared(), **settings)
    after, metrics = jax.jit(step)(state, {"image": jnp.asarray(x).reshape(2, 2, 2, 3)}, jax.random.key(1))
    found = {name: float(value) for name, value in metrics.items()}
    r1, r2 = (0.54012699420 + 0.51406879768) / 2, (0.26453777284 + 0.27730628914) / 2
    assert found["generator/loss"] == pytest.approx(0.9293679627149184, rel=1e-6)
    assert found["discriminator/loss"] == pytest.approx((0.48963221559 + 0.51518416001) / 2, rel=1e-6)
    assert found["penalty/r1"] == pytest.approx(0.05 / 2 * r1, rel=1e-6)
    assert found["penalty/r2"] == pytest.approx(0.05 / 2 * r2, rel=1e-6)
    total = found["discriminator/loss"] + found["penalty/r1"] + found["penalty/r2"]
    assert total == pytest.approx(0.5223586859719855, rel=1e-6)
    assert float(after.generator.opt_state.gradient["w"]) == pytest.approx(-0.7804347593051335, rel=1e-6)
    assert float(after.discriminator.opt_state.gradient["w"]) == pytest.approx(-0.4281541888134881, rel=1e-6)


def test_the_paired_loss_has_the_value_of_the_authors_code():
    real, fake = jnp.array([-2.0, 0.4, 12.5, 2.7]), jnp.array([10.0, 4.4, -5.5, 3.6])
    loss = adversarial.relativistic
    assert float(jnp.mean(loss.generator(real, fake))) == pytest.approx(4.589827490518, rel=1e-6)
    assert float(jnp.mean(loss.discriminator(real, fake))) == pytest.approx(4.314827490518, rel=1e-6)


def test_the_second_derivatives_of_both_penalties_are_those_of_a_quadratic_discriminator():
    """gamma / 2 E |w x|^2 has the derivative gamma w E |x|^2 in w."""
    x = jax.random.normal(jax.random.key(0), (5, 2, 2, 3))
    for penalty, seen in ((penalties.r1(0.3), x), (penalties.r2(0.3), 2 * x)):
        value = lambda w: penalty(lambda x: w * jnp.sum(x**2, (1, 2, 3)) / 2, x, 2 * x, None)  # noqa: B023, E731
        expected = 0.3 * 0.7 * float(jnp.mean(jnp.sum(seen**2, (1, 2, 3))))
        assert float(jax.grad(value)(0.7)) == pytest.approx(expected, rel=1e-5)


# The burn-in ----------------------------------------------------------------------------------------------------------


def test_a_schedule_is_half_a_cosine_over_the_images_seen_and_then_constant():
    schedule = r3gan.BurnIn(num_images=800).schedule(0.9, 0.1, images_per_step=8)
    found = [float(schedule(jnp.array(step))) for step in (0, 25, 50, 75, 100, 101, 10_000)]
    quarter = (1 - np.cos(np.pi / 4)) / 2
    expected = [0.9, 0.9 - 0.8 * quarter, 0.5, 0.1 + 0.8 * quarter, 0.1, 0.1, 0.1]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_both_penalties_weigh_what_the_images_seen_say():
    """TINY's burn-in is of 24 images, three steps of eight; R1 sees the same images whatever the step."""
    _, system = built(burn_in=r3gan.BurnIn(num_images=32, gamma=0.1), r1=0.4, r2=0.2)
    step, state = jax.jit(system.train_step), system.init(jax.random.key(0))
    batch = {"image": jax.random.uniform(jax.random.key(1), (8, 8, 8, 3), minval=-1), "label": jnp.arange(8)}
    metrics = [step(state.replace(step=jnp.array(i)), batch, jax.random.key(2))[1] for i in (0, 2, 4, 9)]
    r1 = np.array([m["penalty/r1"] for m in metrics])
    np.testing.assert_allclose(r1 / r1[0], [1, 0.25 / 0.4, 0.1 / 0.4, 0.1 / 0.4], rtol=1e-5)
    assert all(float(m["penalty/r2"]) > 0 for m in metrics)
    _, system = built(r2=0.0)
    metrics = jax.eval_shape(system.train_step, system.shapes, SPEC.example(8), jax.random.key(0))[1]
    assert "penalty/r1" in metrics and "penalty/r2" not in metrics


def test_adams_rate_and_second_moment_follow_the_burn_in():
    config = r3gan.BurnIn(num_images=6, learning_rate=0.01, b2=0.99)
    adam = Optimizer(learning_rate=0.1, b1=0.0, b2=0.5)
    rate, b2 = config.schedule(0.1, 0.01, 2), config.schedule(0.5, 0.99, 2)
    transformation = adam.build(100, rate=rate, b2=b2)
    params = {"w": jnp.zeros(3)}
    state, update = transformation.init(params), jax.jit(transformation.update)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    v = np.zeros(3)
    for i in range(5):
        g = np.array([1.0, -2.0, 0.5]) * (1 + i)
        step = min(i / 3, 1)
        now = [last + (first - last) * (1 + np.cos(np.pi * step)) / 2 for first, last in ((0.1, 0.01), (0.5, 0.99))]
        v = now[1] * v + (1 - now[1]) * g**2
        expected = -now[0] * g / (np.sqrt(v / (1 - now[1] ** (i + 1))) + 1e-8)
        found, state = update({"w": jnp.asarray(g, jnp.float32)}, state, params)
        np.testing.assert_allclose(found["w"], expected, rtol=1e-5)


def test_a_constant_b2_makes_the_state_that_it_always_made():
    adam = Optimizer(learning_rate=0.1)
    state = adam.build(10).init({"w": jnp.zeros(3)})
    assert jax.tree.structure(state) == jax.tree.structure(optax.adam(lambda step: 0.1).init({"w": jnp.zeros(3)}))


@pytest.mark.slow
def test_the_average_begins_as_the_generator_and_its_half_life_grows():
    config, system = built(burn_in=r3gan.BurnIn(num_images=80), ema_half_life=64.0, r1=0.0, r2=0.0)
    decay = [float(config.ema_decay(jnp.array(step))) for step in (0, 5, 10, 50)]
    np.testing.assert_allclose(decay, [0, 0.5 ** (8 / 32), 0.5 ** (8 / 64), 0.5 ** (8 / 64)], rtol=1e-5)
    batch = {"image": jax.random.uniform(jax.random.key(1), (8, 8, 8, 3), minval=-1), "label": jnp.arange(8)}
    first, _ = jax.jit(system.train_step)(system.init(jax.random.key(0)), batch, jax.random.key(2))
    for average, now in zip(jax.tree.leaves(first.ema), jax.tree.leaves(first.generator.variables), strict=True):
        np.testing.assert_array_equal(average, now)


def test_the_augmentation_has_the_probability_of_the_step():
    config, system = built(burn_in=r3gan.BurnIn(num_images=80, augmentation=0.4))
    augment, key = system.game.settings["augment"], jax.random.key(0)
    images = jax.random.uniform(jax.random.key(1), (64, 8, 8, 3), minval=-1)
    for step, probability in ((0, 0.0), (5, 0.2), (10, 0.4), (50, 0.4)):
        found, told = jax.jit(augment.apply)(key, images, {"label": 1}, None, jnp.array(step))
        np.testing.assert_array_equal(found, jax.jit(augmentation.blits)(key, images, probability))
    np.testing.assert_array_equal(augment.apply(key, images, None, None, 0)[0], images)
    assert built(burn_in=r3gan.BurnIn())[1].game.settings["augment"] is None


# The presets and what they are told -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "spec", "message"),
    [
        (
            {},
            Spec.of_images((64, 64, 3), 9),
            "--widths has 4 numbers, for maps of 4 to 32 pixels, and the images have 64",
        ),
        ({}, Spec.of_images((32, 32, 3)), "--conditional tells both players a label, and these data have none"),
        (
            {"augmentation": "diff"},
            Spec.of_images((32, 32, 3), 9),
            "give only one of --burn-in.augmentation and --augmentation diff",
        ),
        (
            {"generator": Optimizer(schedule="linear")},
            Spec.of_images((32, 32, 3), 9),
            "--generator.schedule must be constant",
        ),
        ({"group_width": 3}, Spec.of_images((32, 32, 3), 9), "which groups of 3 .group_width. do not divide"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(changes, spec, message):
    with pytest.raises(ValueError, match=message):
        building.build_system(dataclasses.replace(r3gan.TINY, **changes), spec).shapes  # noqa: B018


@pytest.mark.slow
def test_a_label_chooses_the_image_and_real_and_fake_images_are_paired_by_it():
    _, system = built()
    noise = iter(jax.random.split(jax.random.key(2), 1000))
    state = system.init(jax.random.key(0))
    variables = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(noise), x.shape), system.variables(state))
    z = system.latents(jax.random.key(3), 1).repeat(9, 0)
    drawn = np.asarray(system.decode(variables, z, jnp.arange(9)))
    assert len({image.tobytes() for image in drawn}) == 9 and np.abs(drawn).max() <= 1
    judged = system.discriminate(variables, {"image": jnp.asarray(drawn[:1]).repeat(9, 0), "label": jnp.arange(9)})
    assert len(set(np.asarray(judged).tolist())) == 9
    told = system.game.settings["condition"]({"label": jnp.array([4, 1])}, 0, jax.random.key(0))
    np.testing.assert_array_equal(told.fake, told.real)
    assert system.choices["label"] == 9 and "label" not in built(conditional=False)[1].choices


@pytest.mark.parametrize("name", [name for name in r3gan.PRESETS if name != "emoji-r3gan"])
def test_a_published_preset_has_the_settings_of_the_papers_table(name):
    """Images in all and of the burn-in in millions, gamma, augmentation, half-life in millions of images."""
    expected = {
        "cifar-r3gan": (250, 20, 0.05, 0.55, 5),
        "ffhq-r3gan-64": (150, 20, 2, 0.3, 0.5),
        "ffhq-r3gan-256": (150, 20, 150, 0.3, 0.5),
        "imagenet-r3gan-32": (1000, 200, 0.5, 0.5, 50),
        "imagenet-r3gan-64": (1000, 200, 1, 0.4, 50),
    }[name]
    config: r3gan.Config = r3gan.PRESETS[name].config
    burn_in = config.burn_in
    found = (config.num_steps * config.batch_size / 1e6, burn_in.num_images / 1e6, config.r1, burn_in.augmentation)
    assert (*found, config.ema_half_life / 1e6) == pytest.approx(expected, rel=1e-4)
    assert (config.r2, burn_in.gamma) == (config.r1, pytest.approx(config.r1 / 10))
    for optimizer in config.optimizers.values():
        assert (optimizer.learning_rate, optimizer.b1, optimizer.b2) == (2e-4, 0, 0.9)
    assert (burn_in.learning_rate, burn_in.b2) == (5e-5, 0.99)
    spec = description.spec_of(config, r3gan.PRESETS[name])
    assert building.build_system(config, spec).choices.get("label", 0) == spec.num_classes
    assert isinstance(r3gan.PRESETS[name], Preset) and spec.image_shape[0] == config.data.image_size
