"""Systems that translate images: what their terms make of data whose answer is known, and what they can do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import building, cycle, data, description, gan, loading, network, optim, systems, turns
from jaxgen.losses import adversarial, penalties, terms
from jaxgen.options import Data, Optimizer
from jaxgen.systems import cut, cyclegan, pix2pix, pix2pixhd, stargan
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import domains, translating

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY, RNG = jax.random.key(0), np.random.default_rng(0)


def built(config):
    spec = description.spec_of(config, Preset("", config))
    return building.build_system(config, spec), spec


def batch_of(spec, num=8):
    found = {}
    for name, shape in spec.example(num).items():
        if jnp.issubdtype(shape.dtype, jnp.floating):
            found[name] = jnp.asarray(RNG.uniform(-1, 1, shape.shape), shape.dtype)
        else:
            found[name] = jnp.asarray(RNG.integers(0, spec.num_classes, shape.shape), shape.dtype)
    return found


# Losses whose answer is known -----------------------------------------------------------------------------------------


class Shifted(nn.Module):
    """The source, shifted."""

    @nn.compact
    def __call__(self, x, *, train):
        return x + self.param("shift", nn.initializers.constant(0.6), ())


class Indifferent(nn.Module):
    @nn.compact
    def __call__(self, x, told, *, train):
        return jnp.zeros(len(x)) * self.param("nothing", nn.initializers.zeros, ())


@pytest.mark.parametrize("distance, expected", [(terms.l1, 0.0), (terms.l2, 1 / 3)])
def test_absolute_errors_find_the_median_and_squared_ones_the_mean(distance, expected):
    """B = A + noise, which is 0 twice and 1 once."""
    source = jnp.asarray(RNG.uniform(-1, 0, (3, 2, 2, 1)), jnp.float32)
    batch = {"source": source, "image": source + jnp.array([0.0, 0.0, 1.0])[:, None, None, None]}
    rate = optax.linear_schedule(0.05, 0.0, 300)
    settings = dict(
        generator_optimizer=optax.sgd(rate),
        discriminator_optimizer=optax.sgd(0.0),
        latent_dim=None,
        condition=turns.told("source"),
        generator_terms=[terms.reconstruction(1.0, distance)],
    )
    state = gan.init(KEY, Shifted(), Indifferent(), example=batch, **settings)
    step = gan.make_train_step(Shifted(), Indifferent(), **settings)
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, batch, KEY), s, None, 300))(state)
    assert float(state.generator.params["shift"]) == pytest.approx(expected, abs=0.01)


def test_the_rate_is_constant_in_the_first_half_and_falls_to_0_in_the_last_also_after_a_resume():
    half, quarter = (Optimizer(learning_rate=2e-4, schedule=s).rate(1000) for s in ("linear_half", "linear_quarter"))
    for step, expected in ((0, 1.0), (500, 1.0), (750, 0.5), (999, 0.002), (1000, 0.0), (2000, 0.0)):
        assert float(half(step)) == pytest.approx(2e-4 * expected, rel=1e-4, abs=1e-12)
    for step, expected in ((749, 1.0), (875, 0.5), (1000, 0.0)):
        assert float(quarter(step)) == pytest.approx(2e-4 * expected, rel=1e-4, abs=1e-12)
    with pytest.raises(ValueError, match=r"in \(0, 1\], not 0"):
        optim.linear_at_last(1e-4, 100, 0)


# pix2pix --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_published_presets_have_networks_of_the_published_sizes():
    for name, sizes in {
        "facades-pix2pix": {"generator": 54_413_955, "discriminator": 2_768_705},
        "cityscapes-pix2pixhd": {"generator": 182_443_267, "discriminator": 2 * (2_764_737 + 3 * 16 * 64)},
        "horse2zebra-cyclegan": dict.fromkeys(cycle.GENERATORS, 11_378_179)
        | dict.fromkeys(cycle.DISCRIMINATORS, 2_764_737),
        "horse2zebra-cut": {"generator": 11_378_179 + 560_384, "discriminator": 2_764_737},
        "celeba-stargan": {"generator": 8_430_528, "discriminator": 44_762_048},
    }.items():
        preset = systems.PRESETS[name]
        system = building.build_system(preset.config, description.spec_of(preset.config, preset))
        assert system.parameters == sizes, name


@pytest.mark.slow
def test_pix2pix_judges_the_pair_and_weighs_absolute_errors_100_times():
    system, spec = built(dataclasses.replace(pix2pix.TINY, dropout=0.0))
    state, batch = system.init(KEY), batch_of(spec)
    _, metrics = jax.jit(system.train_step)(state, batch, KEY)
    made, _ = network.apply(
        system.game.generator, state.generator.params, state.generator.model_state, batch["source"], key=KEY
    )
    assert float(metrics["generator/l1"]) == pytest.approx(100 * float(jnp.abs(made - batch["image"]).mean()), rel=1e-3)
    variables = system.variables(state)
    logits = system.discriminate(variables, batch)
    other = system.discriminate(variables, batch | {"source": -batch["source"]})
    assert float(jnp.abs(logits - other).max()) > 1e-5


@pytest.mark.slow
def test_a_key_draws_what_is_dropped_and_images_come_out_one_by_one_as_in_a_batch():
    system, spec = built(pix2pix.TINY)
    variables, batch = system.variables(system.init(KEY)), batch_of(spec, 3)
    translate = jax.jit(system.translate)
    together = translate(variables, batch, KEY)
    assert together.shape == (3, *spec.image_shape)
    for i in range(3):
        alone = translate(variables, {name: x[i : i + 1] for name, x in batch.items()}, KEY)
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-3, atol=1e-5)
    assert float(jnp.abs(together - translate(variables, batch, jax.random.key(1))).max()) > 0
    still, _ = built(dataclasses.replace(pix2pix.TINY, dropout_at_test=False))
    quiet = jax.jit(still.translate)
    np.testing.assert_array_equal(quiet(variables, batch, KEY), quiet(variables, batch, jax.random.key(1)))
    assert "dropout" in system.protocol["images"] and "nothing is drawn" in still.protocol["images"]
    with pytest.raises(ValueError, match="what is translated is the source, and the batch has only image"):
        system.translate(variables, {"image": batch["image"]}, KEY)


@pytest.mark.slow
def test_images_of_any_size_are_translated():
    system, _ = built(dataclasses.replace(cyclegan.TINY, pool_size=0))
    variables = system.variables(system.init(KEY))
    source = jnp.asarray(RNG.uniform(-1, 1, (2, 18, 27, 3)), jnp.float32)
    translate = jax.jit(system.translate)
    found = translate(variables, {"source": source}, KEY)
    assert found.shape == source.shape
    padded = jnp.pad(source, ((0, 0), (0, 2), (0, 1), (0, 0)), mode="edge")
    np.testing.assert_allclose(found, translate(variables, {"source": padded}, KEY)[:, :18, :27], atol=1e-5)


@pytest.mark.slow
def test_numbers_of_a_perfect_translation_and_of_the_source_itself():
    image = jnp.asarray(RNG.uniform(-1, 1, (2, 32, 32, 3)), jnp.float32)
    compared = jax.jit(translating.numbers)
    found = compared(image, image)
    assert set(found) == {"l1", "psnr", "ssim", "feature_distance"}
    assert float(found["l1"].max()) == 0 and float(found["ssim"].min()) == pytest.approx(1, rel=1e-5)
    assert float(found["feature_distance"].max()) < 1e-6 and (found["psnr"] == 100.0).all()
    white, black = jnp.ones_like(image), -jnp.ones_like(image)
    assert float(compared(white, black)["l1"][0]) == 1
    measure = translating.measure(lambda variables, batch, key: batch["source"], truth=True)
    rows = jax.jit(measure.of_batch)({}, {"image": image, "source": white}, KEY)
    np.testing.assert_allclose(rows["l1"], rows["l1_of_input"])
    assert float(rows["change"].max()) == float(rows["drift"].max()) == 0
    without = translating.measure(lambda variables, batch, key: -batch["source"], truth=False)
    rows = without.of_batch({}, {"image": image, "source": white}, KEY)
    assert set(rows) == {"change", "drift"} and float(rows["drift"][0]) == 1 and without.best is None


def test_pairs_are_mirrored_and_cut_alike_in_training_and_in_the_middle_otherwise():
    config = dataclasses.replace(pix2pix.TINY, data=Data("emoji", image_size=64, drawn_by="twemoji"), patch=32)
    image = RNG.uniform(-1, 1, (4, 64, 64, 3)).astype(np.float32)
    dataset = data.from_arrays("same", image, source=image.copy())
    train, test = (config.wrap(dataset, split) for split in ("train", "test"))
    raw = train.fetch(np.arange(4))
    batches = [train.prepare(raw, jax.random.key(i)) for i in range(3)]
    for batch in batches:
        np.testing.assert_array_equal(batch["image"], batch["source"])
        assert batch["image"].shape == (4, 32, 32, 3)
    assert any(float(jnp.abs(a["image"] - batches[0]["image"]).max()) > 0 for a in batches[1:])
    held_out = test.prepare(test.fetch(np.arange(4)), KEY)
    np.testing.assert_array_equal(held_out["image"], image[:, 16:48, 16:48])


@pytest.mark.slow
def test_pix2pixhd_matches_the_maps_of_each_scale_with_the_published_weights():
    config = dataclasses.replace(pix2pixhd.TINY, perceptual="none", enhancer=False)
    system, spec = built(config)
    state, batch = system.init(KEY), batch_of(spec)
    _, metrics = jax.jit(
        system.game.train_step(discriminator_optimizer=optax.sgd(0.0))  # judged by what is there at first
    )(system.game.init(KEY, discriminator_optimizer=optax.sgd(0.0)), batch, KEY)
    made, _ = network.apply(system.game.generator, state.generator.params, {}, batch["source"])

    def maps(x):
        return network.apply(system.game.discriminator, state.discriminator.params, {}, x, batch["source"])[0].aux

    by_hand = sum(
        jnp.mean(jnp.abs(a - b))
        for real, fake in zip(maps(batch["image"]), maps(made), strict=True)
        for a, b in zip(real, fake, strict=True)
    )
    # Ten, 4 / (two layers + 1) for each map, 1 / 2 for each scale.
    assert float(metrics["generator/feature_matching"]) == pytest.approx(10 * 4 / 3 / 2 * float(by_hand), rel=1e-3)
    logits = network.apply(system.game.discriminator, state.discriminator.params, {}, made, batch["source"])[0].value
    expected = sum(0.5 * jnp.mean((x - 1) ** 2) for x in logits)
    assert float(metrics["generator/loss"]) == pytest.approx(float(expected), rel=1e-3)
    assert float(metrics["generator/adversarial_weight"]) == 2


# Without pairs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cyclegan_goes_both_ways_and_a_run_is_told_which():
    system, spec = built(cyclegan.TINY)
    state, batch = system.init(KEY), batch_of(spec, 4)
    variables = system.variables(state)
    translate = jax.jit(system.translate, static_argnames="direction")
    there, back = (translate(variables, batch, KEY, direction=name) for name in ("to_image", "to_source"))
    assert there.shape == back.shape and float(jnp.abs(there - back).max()) > 0.01
    again = translate(variables, {"source": back}, KEY)
    np.testing.assert_allclose(jax.jit(system.reconstruct)(variables, batch), again, atol=1e-5)
    with pytest.raises(ValueError, match="direction is one of to_image, to_source, not 'sideways'"):
        system.translate(variables, batch, KEY, direction="sideways")
    run = loading.Trained(system, state, {}, {}, spec)
    np.testing.assert_allclose(run.translate(batch, KEY, direction="to_source"), back, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run.translate(batch, KEY), there, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_cut_is_told_sources_that_are_mirrored_one_by_one_where_that_is_asked_for():
    batch = {"source": jnp.asarray(RNG.uniform(-1, 1, (64, 4, 4, 1))), "image": jnp.zeros((64, 4, 4, 1))}
    told = cut.source_mirrored(batch, 0, KEY).generator
    turned = np.asarray(told["mirrored"])
    assert 16 < turned.sum() < 48
    np.testing.assert_array_equal(told["image"][turned], batch["source"][turned, :, ::-1])
    np.testing.assert_array_equal(told["image"][~turned], batch["source"][~turned])
    system, spec = built(dataclasses.replace(cut.TINY, mirrored=True, identity=False, nce=10.0))
    _, metrics = jax.eval_shape(system.train_step, system.shapes, batch_of(spec), KEY)
    assert {"generator/nce", "generator/adversarial_weight"} < set(metrics)


# StarGAN --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stargan_learns_domains_of_real_images_asks_for_others_and_comes_back():
    system, spec = built(dataclasses.replace(stargan.TINY, num_discriminator_steps=1))
    state, batch = system.init(KEY), batch_of(spec)
    _, metrics = jax.jit(system.train_step)(state, batch, KEY)
    of_real = network.apply(system.game.discriminator, state.discriminator.params, {}, batch["image"])[0].aux
    expected = -jax.nn.log_softmax(of_real)[jnp.arange(8), batch["label"]].mean()
    assert float(metrics["discriminator/auxiliary_classifier"]) == pytest.approx(float(expected), rel=1e-4)
    latent_key, _ = jax.random.split(jax.random.split(jax.random.fold_in(KEY, 0), 1)[0])
    asked = domains.to_another_domain(batch, 0, jax.random.fold_in(latent_key, turns.CONDITION)).generator[1]
    np.testing.assert_array_equal(np.sort(asked), np.sort(batch["label"]))
    run = lambda x, c: system.game.generator.apply({"params": state.generator.params}, (x, c), train=True)  # noqa: E731
    back = run(run(batch["image"], asked), batch["label"])
    assert float(metrics["generator/cycle"]) == pytest.approx(
        10 * float(jnp.abs(back - batch["image"]).mean()), rel=1e-3
    )


@pytest.mark.slow
def test_stargan_takes_images_to_the_domain_that_is_asked_for_or_to_the_next():
    system, spec = built(stargan.TINY)
    variables, batch = system.variables(system.init(KEY)), batch_of(spec, 4)
    translate = jax.jit(system.translate)
    found = translate(variables, batch, KEY, label=3)
    np.testing.assert_allclose(found, translate(variables, batch, KEY, label=jnp.full(4, 3)), atol=1e-6)
    following = (batch["label"] + 1) % 10
    np.testing.assert_allclose(
        translate(variables, batch, KEY), translate(variables, batch, KEY, label=following), atol=1e-6
    )
    rows = jax.eval_shape(system.measure.of_batch, variables, batch, KEY)
    assert set(rows) == {"cycle_l1", "change", "as_the_discriminator_says", "as_asked"}
    with pytest.raises(ValueError, match="these have no labels: give label="):
        system.translate(variables, {"image": batch["image"]}, KEY)
    with pytest.raises(ValueError, match="StarGAN's domains are labels, and these data have none"):
        stargan.build(stargan.TINY, dataclasses.replace(spec, num_classes=0))


def test_its_penalty_of_a_linear_critic_is_of_the_length_of_its_weights():
    w = jnp.asarray(RNG.normal(size=(4, 4, 1)), jnp.float32)
    x, y = (jnp.asarray(RNG.uniform(-1, 1, (3, 4, 4, 1)), jnp.float32) for _ in range(2))
    found = penalties.gradient_penalty(10.0)(lambda x: jnp.sum(x * w, axis=(1, 2, 3)), x, y, KEY)
    assert float(found) == pytest.approx(10 * (float(jnp.linalg.norm(w)) - 1) ** 2, rel=1e-4)
    assert adversarial.wasserstein is stargan.LOSSES["wasserstein"]


def test_augmentations_of_the_image_alone_are_refused_where_pairs_are_judged():
    for module in (pix2pix, pix2pixhd):
        with pytest.raises(ValueError, match="--augmentation diff would change the image and not the source"):
            built(dataclasses.replace(module.TINY, augmentation="diff"))
    assert built(dataclasses.replace(cut.TINY, augmentation="diff"))[0].name == "CUT"
