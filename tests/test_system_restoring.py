"""Systems of super-resolution and restoration: published sizes and recipes, their data, numbers beside numbers."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from jaxgen import building, configuration, data, description, options, restoration, systems, turns, watching
from jaxgen.losses import perceptual
from jaxgen.system import Spec
from jaxgen.systems import deblurgan, dncnn, drunet, edsr, esrgan, nafnet, real_esrgan, srcnn, srgan
from jaxgen.systems.shared import adversarial_restoring, degrading, restoring

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY, RNG = jax.random.key(0), np.random.default_rng(0)
SMALL = data.dataset.subset(data.emoji("test", image_size=32), 12)


def built(module, **changes):
    config = dataclasses.replace(module.TINY, **changes)
    return config, building.build_system(config, description.spec_of(config, systems.Preset("", config)))


def first(dataset, n=4, key=KEY):
    return dataset.prepare(dataset.fetch(np.arange(n)), key)


# As published ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes", "patch"),
    [
        ("t91-srcnn-x4", {"network": 57_281}, 32),
        ("div2k-edsr-x2", {"network": 1_369_859}, 96),
        ("div2k-edsr-x4", {"network": 1_517_571}, 192),
        ("df2k-rcan-x4", {"network": 15_592_355}, 192),
        ("df2k-srgan-x4", {"generator": 1_517_571, "discriminator": 14_499_401}, 128),
        ("df2k-esrgan-x4", {"generator": 16_697_987, "discriminator": 14_499_401}, 128),
        ("real-esrgan-x4", {"generator": 16_697_987, "discriminator": 4_376_897}, 256),
        ("gopro-deblurgan", {"generator": 11_378_179, "discriminator": 2_764_737}, 256),
        ("bsd-dncnn", {"network": 557_057}, 40),
        ("photographs-drunet", {"network": 32_640_960}, 128),
        ("sidd-nafnet-32", {"network": 29_159_715}, 256),
        ("gopro-nafnet-32", {"network": 17_111_907}, 256),
    ],
)
def test_published_presets_have_the_published_sizes_and_patches_without_data(name, sizes, patch):
    preset = systems.PRESETS[name]
    spec = description.spec_of(preset.config, preset)
    assert building.build_system(preset.config, spec).parameters == sizes
    assert spec.image_shape[:2] == (patch, patch)
    scale = getattr(preset.config.source, "scale", 1)
    assert spec.batch["source"].shape[:2] == (patch // scale,) * 2


def test_the_published_recipes():
    x4 = systems.PRESETS["div2k-edsr-x4"].config
    assert (x4.loss, x4.batch_size, x4.num_steps, x4.halve_at, x4.crop_border) == ("l1", 16, 300_000, (200_000,), 4)
    assert x4.optimizer == options.Optimizer(learning_rate=1e-4, b1=0.9, b2=0.99)
    sidd, gopro = (systems.PRESETS[f"{name}-nafnet-32"].config for name in ("sidd", "gopro"))
    for config in (sidd, gopro):
        assert (config.loss, config.num_steps, config.batch_size, config.data.name) == ("psnr", 200_000, 32, "pairs")
        assert (config.optimizer.learning_rate, config.optimizer.b1, config.optimizer.b2) == (1e-3, 0.9, 0.9)
    assert (sidd.optimizer.weight_decay, gopro.optimizer.weight_decay) == (0, 1e-3)
    published = systems.PRESETS["df2k-esrgan-x4"].config
    assert (
        published.loss == "relativistic_average" and systems.PRESETS["real-esrgan-x4"].config.loss == "non_saturating"
    )
    assert (published.pixels, published.perceptual_weight, published.adversarial) == (0.01, 1.0, 0.005)
    assert [step - published.start for step in published.halve_at] == [50_000, 100_000, 200_000, 300_000]
    real = systems.PRESETS["real-esrgan-x4"].config
    assert (real.pixels, real.perceptual_weight, real.adversarial, real.batch_size) == (1.0, 1.0, 0.1, 48)
    deblur = systems.PRESETS["gopro-deblurgan"].config
    assert (deblur.loss, deblur.gradient_penalty, deblur.num_discriminator_steps) == ("wasserstein", 10.0, 5)
    assert (deblur.pixels, deblur.perceptual_weight, deblur.adversarial, deblur.start) == (0.0, 100.0, 1.0, 0)
    assert (deblur.batch_size, deblur.num_steps, deblur.blocks, deblur.dropout) == (1, 300 * 1000, 9, 0.5)
    expected = options.Optimizer(learning_rate=1e-4, b1=0.5, b2=0.999, schedule="linear_half")
    assert deblur.generator == deblur.discriminator == expected


# Data -----------------------------------------------------------------------------------------------------------------


def test_training_images_are_patches_turned_anew_and_held_out_ones_are_whole_and_spoilt_once_for_all():
    config = dataclasses.replace(dncnn.TINY, patch=8)
    train, test = (config.wrap(SMALL, split) for split in ("train", "test"))
    assert train.image_shape == (8, 8, 3) and test.image_shape == (32, 32, 3)
    one, other = (first(train, key=key) for key in jax.random.split(KEY))
    assert not np.allclose(one["image"], other["image"])
    one, other = (first(test, key=key) for key in jax.random.split(KEY))
    for name in ("image", "source"):
        np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_array_equal(one["image"], first(SMALL)["image"])
    noise = np.asarray(one["source"] - one["image"]) * 127.5
    assert noise.std() == pytest.approx(25, rel=0.03)
    plain = dataclasses.replace(dncnn.TINY, flips=False).wrap(SMALL, "train")
    np.testing.assert_array_equal(first(plain)["image"], first(SMALL)["image"])


def test_a_small_source_is_made_of_the_patch_that_it_goes_with():
    config = dataclasses.replace(edsr.TINY, patch=16, source=degrading.SuperResolution(4, stored=False))
    batch = first(config.wrap(SMALL, "train"))
    assert batch["image"].shape == (4, 16, 16, 3) and batch["source"].shape == (4, 4, 4, 3)
    box = batch["image"].reshape(4, 4, 4, 4, 4, 3).mean((2, 4))
    assert float(jnp.abs(batch["source"] - box).mean()) < 0.2 * float(jnp.abs(box - box.mean()).mean())


def test_photographs_that_are_brought_to_a_smaller_size_are_told_with_what_to_do(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.fromarray(np.zeros((48, 60, 3), np.uint8)).save(tmp_path / "in" / "a" / "b.png")
    dataset = data.image_folder(tmp_path / "in", image_size=32, labelled=False)
    settings = {"data": options.Data("folder", path=str(tmp_path / "in"), image_size=32), "patch": 16}
    config = dataclasses.replace(dncnn.TINY, **settings)
    with pytest.warns(
        UserWarning,
        match=r"b.png has 60x48 pixels, and images are brought to 32x32.*jaxgen cut .*in PIECES --size 32`$",
    ):
        config.wrap(dataset, "train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config.wrap(dataset, "test")
        config.wrap(data.image_folder(tmp_path / "in", image_size=48, labelled=False), "train")


def test_data_that_bring_sources_are_taken_as_they_are_and_changed_alike():
    pairs = data.pair_as_source(SMALL)
    config = dataclasses.replace(nafnet.TINY, patch=8)
    batch = first(config.wrap(dataclasses.replace(pairs, prepare=lambda raw, key: _twice(SMALL, raw, key)), "train"))
    np.testing.assert_array_equal(batch["image"], batch["source"])
    real = dataclasses.replace(config, data=options.Data("pairs", path="a", target_path="b"))
    spec = Spec.of(config.wrap(pairs, "train"))
    assert building.build_system(real, spec).protocol["source"] == "what the data bring"
    assert "Gaussian noise of sigma 25 of 255" in building.build_system(config, spec).protocol["source"]


def _twice(dataset, raw, key):
    batch = dict(dataset.prepare(raw, key))
    return batch | {"source": batch["image"]}


def test_a_level_of_noise_stands_beside_what_is_noisy():
    image = jnp.zeros((200, 200, 3))
    noisy = drunet.noise_beside_its_level(image, KEY, sigma=30.0)
    assert noisy.shape == (200, 200, 4)
    np.testing.assert_allclose(noisy[..., 3] * 127.5, 30, rtol=1e-5)
    assert float(noisy[..., :3].std()) * 127.5 == pytest.approx(30, rel=0.01)
    keys = jax.random.split(KEY, 500)
    levels = jax.vmap(lambda key: drunet.noise_beside_its_level(image[:1, :1], key, sigma=(0.0, 50.0))[0, 0, 3])(keys)
    assert 0 <= float(levels.min()) and float(levels.max()) <= 50 / 127.5
    assert float(levels.mean()) * 127.5 == pytest.approx(25, abs=2.5)
    _, system = built(drunet)
    assert system.shapes.network.params["Conv_0"]["kernel"].shape == (3, 3, 4, 3)


# What they can do -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [edsr, nafnet, drunet, esrgan, deblurgan], ids=systems.name_of)
def test_a_system_takes_images_of_other_sizes_than_it_was_trained_on(module):
    config, system = built(module)
    variables = jax.eval_shape(system.variables, system.shapes)
    scale = getattr(config.source, "scale", 1)
    channels = 4 if module is drunet else 3
    source = jax.ShapeDtypeStruct((2, 13, 17, channels), jnp.float32)
    found = jax.eval_shape(system.translate, variables, {"source": source}, KEY)
    assert (found.shape, found.dtype) == ((2, 13 * scale, 17 * scale, 3), jnp.float32)


def test_what_is_looked_at_is_the_source_the_output_and_the_image_in_rows():
    config, system = built(edsr)
    state = system.init(KEY)
    batch = first(config.wrap(SMALL, "test"))
    shown = system.views(system.variables(state), batch)["restored"]
    assert shown.shape == (4, 3, 32, 32, 3)
    np.testing.assert_array_equal(shown[:, 0, ::2, ::2], jnp.clip(batch["source"], -1, 1))
    np.testing.assert_array_equal(shown[:, 1], system.translate(system.variables(state), batch, KEY))
    np.testing.assert_array_equal(shown[:, 2], batch["image"])


@pytest.mark.slow
def test_numbers_stand_beside_those_of_the_source_or_its_enlargement():
    for module, beside in ((edsr, ("bicubic", "lanczos")), (nafnet, ("input",))):
        config, system = built(module)
        state = system.init(KEY)
        dataset = config.wrap(SMALL, "test")
        evaluate = watching.assemble(system, dataset, dataset, key=KEY).evaluate
        found = evaluate(state)
        assert set(found) == {
            f"{number}{suffix}" for number in ("psnr", "ssim") for suffix in ("", *(f"_of_{name}" for name in beside))
        }
        batch = first(dataset, 12)
        for name, image in restoration.classical(batch["source"], (32, 32, 3)).items():
            expected = restoration.numbers(image, batch["image"])["psnr"].mean()
            assert found[f"psnr_of_{name}"] == pytest.approx(float(expected), rel=1e-5)
        assert system.measure.best == "psnr" and system.measure.mode == "max"


def test_borders_and_luminance_and_eight_ways_are_settings_that_the_protocol_names():
    config, plain = built(edsr)
    _, other = built(edsr, crop_border=2, on_luminance=True, self_ensemble=True)
    state, batch = plain.init(KEY), first(config.wrap(SMALL, "test"))
    variables = plain.variables(state)
    image = restoration.self_ensemble(lambda y: plain.translate(variables, {"source": y}, KEY))(batch["source"])
    expected = restoration.numbers(image, batch["image"], crop_border=2, on_luminance=True)
    found = other.measure.of_batch(variables, batch, KEY)
    np.testing.assert_allclose(found["psnr"], expected["psnr"], rtol=1e-4)
    assert "luminance" in other.protocol["numbers"] and "without 2 pixels a side" in other.protocol["numbers"]
    assert "eight ways" in other.protocol["output"] and "eight" not in plain.protocol["output"]


def test_large_images_are_measured_fewer_at_once():
    _, system = built(nafnet)
    assert system.measure.most_pixels == 250 * 64 * 64
    seen = []
    large = data.from_arrays("large", RNG.integers(0, 256, (5, 640, 640, 1)).astype(np.uint8))

    def of_batch(variables, batch, key):
        seen.append(batch["image"].shape[0])
        return {"x": jnp.zeros(len(batch["image"]))}

    measure = system.measure._replace(of_batch=of_batch)
    one = dataclasses.replace(
        system, measure=measure, views=lambda v, b: {"image": b["image"]}, variables=lambda s: 0.0
    )
    mesh = watching.sharding.make_mesh(1)
    watching.assemble(one, large, large, key=KEY, mesh=mesh).evaluate(None)
    assert set(seen) == {2}  # 1,024,000 pixels at most, of 409,600 each


# Rates, and what is refused -------------------------------------------------------------------------------------------


def test_a_rate_is_halved_at_updates():
    rule = restoring.rate_of(options.Optimizer("sgd", learning_rate=0.8, b1=0.0), (2, 3), 100)
    state, moved = rule.init(jnp.zeros(())), []
    for _ in range(5):
        update, state = rule.update(jnp.ones(()), state, jnp.zeros(()))
        moved.append(-float(update))
    np.testing.assert_allclose(moved, [0.8, 0.8, 0.4, 0.2, 0.2], rtol=1e-6)
    assert isinstance(restoring.rate_of(options.Optimizer(), (), 10), optax.GradientTransformation)
    with pytest.raises(ValueError, match="--halve-at is for a constant rate, and this one's schedule is cosine"):
        built(edsr, halve_at=(3,), optimizer=options.Optimizer(schedule="cosine"))


def test_settings_that_mean_nothing_are_one_sentence():
    with pytest.raises(ValueError, match="--kernel-sizes are odd"):
        built(srcnn, kernel_sizes=(9, 2, 5))
    with pytest.raises(ValueError, match="--layers must be at least 2"):
        built(dncnn, layers=1)
    small = degrading.Degradation("super_resolution", super_resolution=degrading.SuperResolution(2))
    with pytest.raises(ValueError, match="DnCNN keeps the size of its source: 8x8 pixels do not become 16x16"):
        built(dncnn, source=small)
    with pytest.raises(ValueError, match="needs a source, and the batch has only image"):
        building.build_system(edsr.TINY, Spec.of_images((16, 16, 3)))
    with pytest.raises(ValueError, match="a scale of 5 does not divide"):
        built(edsr, source=degrading.SuperResolution(5))


# With an adversary ----------------------------------------------------------------------------------------------------


def adversarial_batch(config, system):
    return first(config.wrap(SMALL, "train"), system.images_per_step)


def change(before, after):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before, after)))


@pytest.mark.slow
def test_the_adversary_begins_at_a_step_before_which_the_pixels_count_alone():
    config, system = built(srgan)
    batch, state, step = adversarial_batch(config, system), system.init(KEY), jax.jit(system.train_step)
    found = []
    for _ in range(3):
        before = state.discriminator.params
        state, metrics = step(state, batch, KEY)
        found.append((change(before, state.discriminator.params), jax.device_get(metrics)))
    (moved_0, early), (moved_1, _), (moved_2, late) = found
    assert moved_0 == moved_1 == 0 and moved_2 > 0
    assert early["generator/adversarial_weight"] == 0 and early["generator/perceptual"] == 0
    assert late["generator/adversarial_weight"] == pytest.approx(0.005) and late["generator/perceptual"] > 0
    assert late["generator/pixels"] < 0.1 * early["generator/pixels"]  # it weighs a hundredth then
    rows = system.measure.of_batch(system.variables(state), batch, KEY)
    assert {"psnr", "perceptual", "psnr_of_lanczos"} <= set(rows)
    assert (system.measure.best, system.measure.mode) == ("perceptual", "min")
    assert system.can == ("translate", "discriminate")


@pytest.mark.slow
def test_pixels_compare_with_the_sharpened_image_and_the_adversary_with_the_image():
    from jaxgen import degradations

    config, system = built(real_esrgan, pixels=1.0, perceptual="none")
    batch, state = adversarial_batch(config, system), system.init(KEY)
    _, metrics = jax.jit(system.train_step)(state, batch, KEY)
    generator = system.game.generator
    output = generator.apply(state.generator.variables, batch["source"], train=True)
    by_hand = 0.5 * jnp.abs(output - degradations.sharpen(batch["image"])).mean()
    assert float(metrics["generator/pixels"]) == pytest.approx(float(by_hand), rel=1e-3)
    assert float(jnp.abs(degradations.sharpen(batch["image"]) - batch["image"]).max()) > 0.05
    real, _ = system.game.discriminator.apply(
        state.discriminator.variables, batch["image"], train=True, mutable=["spectral_norm"]
    )
    assert float(metrics["discriminator/real_logits"]) == pytest.approx(float(real.mean()), rel=1e-2, abs=1e-4)


@pytest.mark.slow
def test_deblurgan_moves_its_critic_five_times_on_images_of_its_own_and_then_the_generator_once():
    config, system = built(deblurgan, num_discriminator_steps=5, dropout=0.0, batch_size=2)
    assert system.images_per_step == 10
    batch, state = adversarial_batch(config, system), system.init(KEY)
    after, metrics = jax.jit(system.train_step)(state, batch, KEY)
    assert [int(player.opt_state[0].count) for player in (after.generator, after.discriminator)] == [1, 5]
    # The generator's turn is that of the last images, through the critic that has just moved.
    y, x = batch["source"][4::5], batch["image"][4::5]
    output = system.game.generator.apply(state.generator.variables, y, train=True)
    assert float(jnp.abs(output).max()) <= 1
    judge = perceptual.judge((32, 32, 3))
    by_hand = {
        "loss": -turns.per_picture(system.game.discriminator.apply(after.discriminator.variables, output, train=True)),
        "perceptual": 100 * judge.distance(judge.weights, output, x),
    }
    for name, value in by_hand.items():
        assert float(metrics[f"generator/{name}"]) == pytest.approx(float(value.mean()), rel=1e-3, abs=1e-5), name
    assert metrics["generator/adversarial_weight"] == 1 and metrics["penalty/gradient_penalty"] >= 0
    assert "generator/pixels" not in metrics


@pytest.mark.slow
def test_deblurgans_critic_is_paid_for_a_gradient_of_norm_1_and_judges_images_alone():
    config, system = built(deblurgan, num_discriminator_steps=1, dropout=0.0, batch_size=4)
    batch, state = adversarial_batch(config, system), system.init(KEY)
    critic, judged = system.game.discriminator, state.discriminator.variables
    nothing = dataclasses.replace(state.discriminator, params=jax.tree.map(jnp.zeros_like, judged["params"]))
    step = jax.jit(system.train_step)
    _, metrics = step(dataclasses.replace(state, discriminator=nothing), batch, KEY)
    assert metrics["penalty/gradient_penalty"] == 10 and metrics["discriminator/loss"] == 0  # 10 (0 - 1)^2
    _, metrics = step(state, batch, KEY)
    fake = system.game.generator.apply(state.generator.variables, batch["source"], train=True)
    real, fake = (turns.per_picture(critic.apply(judged, image, train=True)).mean() for image in (batch["image"], fake))
    assert float(metrics["discriminator/loss"]) == pytest.approx(float(fake - real), rel=1e-2, abs=1e-5)


def test_deblurgan_restores_by_a_key_and_what_it_returns_is_clipped():
    config, system = built(deblurgan)
    assert system.protocol["output"] == "the network's, clipped; with dropout, one draw for all images"
    variables = {"generator": system.init(KEY).generator.variables}
    batch = {name: 1.5 * jnp.sign(x) for name, x in first(config.wrap(SMALL, "test"), 2).items() if name != "label"}
    one, again, other = (system.translate(variables, batch, key) for key in (KEY, KEY, jax.random.key(1)))
    np.testing.assert_array_equal(one, again)
    assert float(jnp.abs(one - other).max()) > 1e-5
    assert one.min() == -1 and one.max() == 1


def test_deblurgan_refuses_what_compares_with_no_image_and_sources_of_another_size():
    for changes in ({"perceptual": "none"}, {"perceptual_weight": 0.0}):
        with pytest.raises(ValueError, match="nothing tells the generator which image its source is of: give"):
            built(deblurgan, **changes)
        built(deblurgan, pixels=1.0, **changes)
    small = degrading.Degradation("super_resolution", super_resolution=degrading.SuperResolution(2))
    with pytest.raises(ValueError, match="DeblurGAN keeps the size of its source: 16x16 pixels do not become 32x32"):
        built(deblurgan, source=small)


def test_there_are_no_latents_and_settings_survive_json():
    config, system = built(esrgan)
    assert system.draw is None and system.latents is None and system.choices == {}
    stored = configuration.to_dict(config)
    assert stored["latent_dim"] == 0 and configuration.from_dict(stored) == config
    with pytest.raises(ValueError, match="--latent-dim must be one of 0"):
        built(esrgan, latent_dim=5)
    told = adversarial_restoring._told_source({"source": 1, "image": 2}, 0, KEY)
    assert told.generator == 1 and told.real is None and told.fake is None


@pytest.mark.slow
def test_images_are_judged_tile_by_tile_where_the_package_has_no_judge_of_their_size():
    x, y = (jnp.asarray(RNG.uniform(-1, 1, (2, 64, 32, 3)), jnp.float32) for _ in range(2))
    tiled, one = perceptual.judge_of_tiles((64, 32, 3)), perceptual.judge((32, 32, 3))
    found = jax.jit(tiled.distance)(tiled.weights, x, y)
    halves = [jax.jit(one.distance)(one.weights, x[:, i : i + 32], y[:, i : i + 32]) for i in (0, 32)]
    np.testing.assert_allclose(found, (halves[0] + halves[1]) / 2, rtol=1e-4)
    same = perceptual.judge_of_tiles((32, 32, 3))
    np.testing.assert_allclose(same.distance(same.weights, x[:, :32], y[:, :32]), halves[0], rtol=1e-4)
    with pytest.raises(ValueError, match="no feature network for images of"):
        perceptual.judge_of_tiles((48, 48, 3))
