"""Sources and masks beside images: what a batch holds, that it is repeated, and that a run's commands see it."""

import dataclasses
import functools
import sys
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import (
    building,
    data,
    degradations,
    description,
    evaluation,
    experiment,
    loading,
    opening,
    options,
    run_directory,
    sharding,
)
from jaxgen.data import augmentation, masks
from jaxgen.evaluation import of_runs
from jaxgen.system import Measure, Spec, System
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import degrading

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY = jax.random.key(9)
IMAGES = np.random.RandomState(0).randint(0, 256, (50, 16, 16, 3), np.uint8)
NOISY = functools.partial(degradations.gaussian_noise, sigma=25.0)


def images(**others):
    return data.from_arrays("images", IMAGES, **others)


def batch_of(dataset, rows, key=KEY):
    return dataset.prepare(dataset.fetch(np.asarray(rows)), key)


def streamed(dataset):
    return dataclasses.replace(dataset, arrays=None)


# What a batch holds ---------------------------------------------------------------------------------------------------


def test_a_degraded_set_has_the_same_images_and_sources_of_the_degradations_shape():
    small = data.degraded(images(label=np.arange(50) % 4), functools.partial(degradations.downscale, scale=4))
    batch = batch_of(small, [3, 4])
    plain = batch_of(images(), [3, 4])
    assert np.array_equal(batch["image"], plain["image"]) and batch["label"].tolist() == [3, 0]
    assert batch["source"].shape == (2, 4, 4, 3) and batch["source"].dtype == jnp.float32
    np.testing.assert_allclose(batch["source"][1], degradations.downscale(plain["image"][1], scale=4), atol=1e-6)
    assert Spec.of(small).batch["source"].shape == (4, 4, 3) and small.image_shape == (16, 16, 3)


def test_each_image_has_its_own_noise_and_each_step_another():
    same = data.degraded(data.from_arrays("same", np.repeat(IMAGES[:1], 50, 0)), NOISY)
    noise = batch_of(same, range(8))["source"] - batch_of(same, range(8))["image"]
    assert float(jnp.max(jnp.abs(jnp.corrcoef(noise.reshape(8, -1)) - jnp.eye(8)))) < 0.15
    assert not np.any(batch_of(same, range(8), jax.random.key(1))["source"] == batch_of(same, range(8))["source"])
    assert np.array_equal(batch_of(same, range(8))["source"], batch_of(same, range(8))["source"])


def test_what_is_random_in_the_images_themselves_is_as_it_was():
    digits = data.mnist("test", binarise=data.binarisation.dynamic)
    wrapped = data.with_holes(data.degraded(digits, NOISY), masks.boxes)
    assert np.array_equal(batch_of(wrapped, [1, 2])["image"], batch_of(digits, [1, 2])["image"])


def test_held_out_images_are_degraded_alike_whatever_the_key_the_batch_and_the_place():
    once = data.degraded(images(), NOISY, once=True)
    first = batch_of(once, range(10))["source"]
    again = batch_of(once, [9, 3, 40], jax.random.key(77))["source"]
    np.testing.assert_array_equal(first[np.array([9, 3])], again[:2])
    assert np.array_equal(batch_of(streamed(once), [9, 3])["source"], again[:2])
    assert np.array_equal(batch_of(data.subset(once, 25), [2])["source"], first[4:5])
    noise = np.asarray(first - batch_of(once, range(10))["image"]).reshape(10, -1)
    assert np.max(np.abs(np.corrcoef(noise) - np.eye(10))) < 0.2


def test_holes_are_grey_and_known_pixels_are_those_of_the_image():
    holed = data.with_holes(images(), masks.random_pixels)
    batch = batch_of(holed, range(6))
    mask = np.asarray(batch["mask"])
    assert mask.shape == (6, 16, 16, 1) and set(np.unique(mask)) == {0.0, 1.0} and mask.dtype == np.float32
    source, image = np.asarray(batch["source"]), np.asarray(batch["image"])
    assert np.array_equal(source * (1 - mask), image * (1 - mask)) and not np.any(source * mask)
    assert len({m.tobytes() for m in mask}) == 6
    assert Spec.of(holed).batch["mask"].shape == (16, 16, 1)
    once = data.with_holes(images(), masks.random_pixels, once=True)
    assert np.array_equal(batch_of(once, [5])["mask"], batch_of(once, [1, 5], jax.random.key(2))["mask"][1:])


@pytest.mark.slow
@pytest.mark.skipif(jax.device_count() != 8, reason="needs the eight virtual devices of conftest.py")
def test_one_device_and_eight_make_the_same_batch_and_divide_the_work():
    degrade = functools.partial(
        degradations.chain, parts=(functools.partial(degradations.gaussian_blur, sigma=1.0), NOISY)
    )
    wrapped = data.with_holes(data.degraded(images(), degrade), masks.one_of)
    wrapped = data.degraded(wrapped, degrade)
    raw = wrapped.fetch(np.arange(16))
    one = jax.jit(wrapped.prepare)(raw, KEY)
    mesh = sharding.make_mesh()
    compiled = (
        jax.jit(
            wrapped.prepare,
            in_shardings=(jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")), None),
            out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")),
        )
        .lower(raw, KEY)
        .compile()
    )
    eight = jax.block_until_ready(compiled(sharding.shard_batch(mesh, raw), KEY))
    for name in one:
        np.testing.assert_allclose(one[name], eight[name], atol=2e-6, err_msg=name)
    text = compiled.as_text()
    assert "all-gather" not in text and "[16,16,16,3]" not in text and "[2,16,16,3]" in text


# Changed alike --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "augment",
    [
        augmentation.alike(augmentation.random_flip),
        augmentation.alike(augmentation.random_turn),
        augmentation.alike(augmentation.random_flip, augmentation.random_turn),
        functools.partial(augmentation.random_crop, size=8),
        functools.partial(augmentation.centre_crop, size=8),
    ],
)
def test_equal_pairs_stay_equal_and_are_changed(augment):
    changed = data.augmented(images(pair=IMAGES), augment)
    batch = batch_of(changed, range(32))
    assert np.array_equal(batch["image"], batch["pair"]) and changed.image_shape == batch["image"].shape[1:]
    assert not np.array_equal(batch["image"], batch_of(images(), range(32))["image"])


def test_flips_and_turns_make_all_eight_of_a_square_alike():
    image = np.repeat(IMAGES[:1], 400, 0)
    changed = batch_of(
        data.augmented(
            data.from_arrays("same", image), augmentation.alike(augmentation.random_flip, augmentation.random_turn)
        ),
        range(400),
    )["image"]
    own = np.asarray(batch_of(images(), [0])["image"][0])
    eight = {np.rot90(side, k).tobytes() for side in (own, own[:, ::-1]) for k in range(4)}
    found = [np.asarray(one).tobytes() for one in changed]
    counts = [found.count(one) for one in eight]
    assert set(found) == eight and min(counts) > 25


def test_a_change_is_drawn_apart_from_what_it_is_wrapped_around():
    """Keys of `split` and of `fold_in` are the same: equal numbers would make the second flip undo the first."""
    flip = augmentation.alike(augmentation.random_flip)
    twice = data.augmented(data.augmented(data.from_arrays("same", np.repeat(IMAGES[:1], 400, 0)), flip), flip)
    changed = batch_of(twice, range(400))["image"]
    same = np.all(np.asarray(changed) == np.asarray(batch_of(images(), [0])["image"]), axis=(1, 2, 3))
    assert 0.4 < np.mean(same) < 0.6


def test_squares_are_cut_out_of_small_sources_and_large_images_at_the_same_place():
    large = np.repeat(np.repeat(IMAGES, 4, 1), 4, 2)
    pairs = data.augmented(
        data.from_arrays("sr", large, source=IMAGES), functools.partial(augmentation.random_crop, size=24)
    )
    batch = batch_of(pairs, range(32))
    assert batch["image"].shape == (32, 24, 24, 3) and batch["source"].shape == (32, 6, 6, 3)
    small = jax.vmap(functools.partial(degradations.downscale, scale=4, kernel=degradations.box))(batch["image"])
    np.testing.assert_allclose(small, batch["source"], atol=1e-5)
    assert len({np.asarray(x).tobytes() for x in batch_of(pairs, [0] * 200)["source"]}) > 50
    assert pairs.image_shape == (24, 24, 3)


@pytest.mark.parametrize(
    "size, shapes, text",
    [
        (20, {"image": (16, 16)}, "a square of 20 pixels cannot be cut out of images of 16x16"),
        (
            6,
            {"image": (16, 16), "source": (4, 4)},
            "squares of 6 pixels cannot be cut alike .* image 16x16, source 4x4",
        ),
        (6, {"image": (16, 16), "source": (15, 16)}, "cannot be cut alike"),
        (6, {"image": (16, 16), "source": (8, 16)}, "cannot be cut alike"),
    ],
)
def test_squares_that_cannot_be_cut_are_refused(size, shapes, text):
    pictures = {name: jnp.zeros((2, *shape, 3)) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=text):
        augmentation.random_crop(KEY, pictures, size=size)


def test_images_that_are_not_square_are_not_turned():
    with pytest.raises(ValueError, match="images of 4x6 cannot be turned"):
        augmentation.random_turn(KEY, jnp.zeros((2, 4, 6, 1)))


# Names and fingerprints -----------------------------------------------------------------------------------------------


def test_name_and_fingerprint_say_the_degradation_and_are_the_same_in_every_process():
    def said(degrade, **settings):
        wrapped = data.degraded(images(), degrade, **settings)
        return wrapped.name, wrapped.fingerprint

    names = [
        said(NOISY),
        said(functools.partial(NOISY, sigma=15.0)),
        said(NOISY, once=True),
        said(functools.partial(degradations.downscale, scale=4)),
        said(functools.partial(degradations.downscale, scale=4, kernel=degradations.box)),
        said(degrading.SuperResolution().build()),
    ]
    assert len({fingerprint for _, fingerprint in names}) == len(names) and images().fingerprint not in dict(names)
    assert names[0] == said(functools.partial(degradations.gaussian_noise, sigma=25.0))
    assert names[0][0] == "images, degraded by gaussian_noise(sigma=25.0)"
    assert not any("0x" in name for name, _ in names)
    flipped = data.augmented(images(), augmentation.alike(augmentation.random_flip))
    assert flipped.name == "images" and flipped.fingerprint != images().fingerprint


def test_what_is_no_degradation_is_refused():
    with pytest.raises(TypeError, match="degrade must be a function"):
        data.degraded(images(), "noise")
    with pytest.raises(TypeError, match="degrade is called with"):
        data.degraded(images(), lambda image: image)
    with pytest.raises(ValueError, match="a scale of 5 does not divide images of 16x16"):
        Spec.of(data.degraded(images(), functools.partial(degradations.downscale, scale=5)))
    with pytest.raises(ValueError, match="a hole of 24x24 pixels is larger than the 16x16"):
        Spec.of(data.with_holes(images(), functools.partial(masks.centre, share=1.5)))


# The emoji's pairs ----------------------------------------------------------------------------------------------------


def test_the_other_houses_drawing_is_the_source():
    emoji = data.emoji("test", image_size=16, drawn_by="twemoji")
    paired = data.pair_as_source(emoji)
    batch, plain = batch_of(paired, [0, 5]), batch_of(emoji, [0, 5])
    assert np.array_equal(batch["source"], plain["pair"]) and "pair" not in batch
    assert np.array_equal(batch["image"], plain["image"]) and data.pair_as_source(paired) is paired
    with pytest.raises(ValueError, match="images has images without sources: a batch has only image"):
        data.pair_as_source(images())


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", degrading.DEGRADATIONS)
def test_every_degradation_by_name_builds_one_that_its_words_describe(name):
    group = degrading.Degradation(name)
    options.check(group)
    wrapped = degrading.with_sources(images(), group, "train")
    side = 4 if name in ("super_resolution", "real_world") else 16
    assert Spec.of(wrapped).batch["source"].shape == (side, side, 3)
    if name != "real_world":  # which takes long to compile
        assert bool(jnp.all(jnp.isfinite(batch_of(wrapped, range(3))["source"])))
    assert group.words and group.words == group.chosen.words
    once = degrading.with_sources(images(), group, "test")
    assert once.name.endswith(", once")


@pytest.mark.parametrize("kind", degrading.HOLES)
def test_every_kind_of_holes_by_name(kind):
    group = degrading.Holes(kind)
    options.check(group)
    batch = batch_of(degrading.with_sources(data.emoji("test"), group, "test"), range(3))
    assert 0 < float(jnp.mean(batch["mask"])) < 1 and "grey" in group.words


@pytest.mark.parametrize(
    "group, text",
    [
        (degrading.Noise(sigma=-1.0), "--sigma must be at least 0"),
        (degrading.Jpeg(quality=0), "--quality must be at least 1|from 1 to 100"),
        (degrading.SuperResolution(scale=0), "--scale must be at least 1"),
        (degrading.Blur(sigma=0.0), "--sigma must be above 0"),
        (degrading.Holes(share=1.5), "--share must be above 0 and at most 1"),
    ],
)
def test_settings_without_meaning_are_refused(group, text):
    with pytest.raises(ValueError, match=text):
        options.check(group)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'bicubic'"):
        degrading.SuperResolution(kernel="bicubik").build()
    with pytest.raises(ValueError, match="did you mean 'noise'"):
        degrading.Degradation("nois").build()


# A run ----------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Run):
    noise: degrading.Noise = degrading.Noise(sigma=20.0)

    def wrap(self, dataset, split):
        return degrading.with_sources(dataset, self.noise, split)


PRESETS = {"noisy": Preset("", Config())}


class State(NamedTuple):
    step: jax.Array


def build(config, spec):
    """A system that learns nothing, and measures how noisy its sources are."""
    assert spec.batch["source"].shape == spec.image_shape

    def of_batch(variables, batch, key):
        return {"sigma": jnp.sqrt(jnp.mean((batch["source"] - batch["image"]) ** 2, axis=(1, 2, 3))) * 127.5}

    def train_step(state, batch, key):
        return State(state.step + 1), {"loss": jnp.mean(batch["source"] ** 2)}

    return System(
        init=lambda key: State(jnp.zeros((), jnp.int32)),
        train_step=train_step,
        images_per_step=config.batch_size,
        variables=lambda state: state,
        translate=lambda variables, batch, key: batch["source"],
        measure=Measure(of_batch, lambda rows: {"sigma": float(np.mean(rows["sigma"])), "num": len(rows["sigma"])}),
        name="noisy",
    )


def test_a_runs_data_have_sources_and_those_of_comparisons_have_none():
    config = Config(data=options.Data("emoji", image_size=16))
    assert "source" in Spec.of(config.open("train")).batch and "source" not in Spec.of(config.data.open("train")).batch
    test = config.open("test")
    assert np.array_equal(batch_of(test, [3])["source"], batch_of(test, [4, 3], jax.random.key(1))["source"][1:])
    assert description.spec_of(config, Preset("", config)) == Spec.of(config.open("train"))


def test_a_run_is_built_of_its_sources_and_evaluated_on_the_same_noise_whatever_its_seed():
    config = Config(data=options.Data("emoji", image_size=16), batch_size=8)
    found = []
    for seed in (0, 1):
        built = building.build(dataclasses.replace(config, seed=seed))
        state = built.system.init(KEY)
        found += [built.evaluate(state), built.evaluate(state)]
    assert found.count(found[0]) == 4 and found[0]["num"] == 440 and abs(found[0]["sigma"] - 20) < 0.2
    assert built.dataset.name == "emoji/train, degraded by gaussian_noise(clip=False, grey=False, sigma=20.0)"


def test_a_run_trains_resumes_and_is_measured_on_its_own_sources(tmp_path):
    directory = str(tmp_path / "run")
    small = options.Data("emoji", image_size=8)
    config = Config(data=small, batch_size=8, num_steps=2, num_devices=1)
    experiment.train(config, directory, progress=False)
    experiment.train(dataclasses.replace(config, num_steps=3), directory, progress=False)
    with pytest.raises(run_directory.ConfigMismatch, match="noise.sigma"):
        experiment.train(dataclasses.replace(config, noise=degrading.Noise(sigma=5.0), num_steps=4), directory)
    trained = loading.load(directory, system=sys.modules[__name__])
    assert trained.step == 3 and trained.spec.batch["source"].shape == (8, 8, 3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        record = of_runs.measured(trained, "noisy", seed=7)
        assert opening.open_training_images(trained, "noisy").fingerprint == small.open("train").fingerprint
    assert not any("have changed" in str(one.message) for one in said)
    assert record["metrics"]["num"] == 440 and abs(record["metrics"]["sigma"] - 20) < 0.5


# What was learnt ------------------------------------------------------------------------------------------------------


def test_a_protocol_says_how_many_held_out_images_are_in_the_training_set():
    train, test = images(), data.from_arrays("test", np.concatenate([IMAGES[:2], 255 - IMAGES[:8]]))
    with pytest.warns(UserWarning, match="2 of 10 images of test are in images, too, pixel by pixel"):
        assert evaluation.leak_of(test, train) == {"in_training": "2 of 10 images"}
    assert evaluation.leak_of(data.from_arrays("other", 255 - IMAGES), train) == {}
    assert evaluation.leak_of(train, train) == {}  # told otherwise: it is the training set itself


def test_a_batch_with_wrong_sources_or_masks_is_refused():
    image = np.zeros((2, 8, 8, 3), np.float32)
    image[:, 4:] = -1
    checked = functools.partial(data.check_batch, image_shape=(8, 8, 3))
    checked({"image": image, "source": image[:, ::4, ::4] * 3, "mask": np.ones((2, 8, 8, 1))})
    for wrong, text in (
        ({"source": image[:1]}, r"source has the shape \(1, 8, 8, 3\), expected \[2, h, w, c\]"),
        ({"source": image * np.nan}, "source has values that are not finite"),
        ({"mask": np.ones((2, 8, 8, 3))}, r"mask has the shape .*, expected \[2, 8, 8, 1\]"),
        ({"mask": np.full((2, 8, 8, 1), 0.5)}, "mask has other values than 0, where the image is known"),
    ):
        with pytest.raises(ValueError, match=text):
            checked({"image": image, **wrong})
