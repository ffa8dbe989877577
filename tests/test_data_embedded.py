import hashlib
import re
import struct
import subprocess
import sys
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen import data
from jaxgen.data.mnist import load_mnist


@pytest.mark.parametrize(
    ("split", "size", "digest"),
    [
        ("train", 60_000, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        ("test", 10_000, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    ],
)
def test_mnist_written_back_as_idx_has_the_sum_of_the_original_file(split, size, digest):
    image, label = load_mnist(split)
    header = struct.pack(">IIII", 0x00000803, size, 28, 28)
    assert hashlib.sha256(header + image.tobytes()).hexdigest() == digest
    assert label.shape == (size,) and set(label) == set(range(10))


def test_the_mean_and_deviation_of_mnist_are_the_known_ones():
    image = data.mnist().arrays["image"] / 255.0
    assert image.mean() == pytest.approx(0.13066, abs=1e-5)
    assert image.std() == pytest.approx(0.30811, abs=1e-5)


def test_mnist_is_padded_with_black_equally_on_all_sides():
    plain, padded = data.mnist("test"), data.mnist("test", image_size=32)
    assert padded.image_shape == (32, 32, 1)
    image = padded.arrays["image"]
    np.testing.assert_array_equal(image[:, 2:-2, 2:-2], plain.arrays["image"])
    assert image.sum(dtype=np.int64) == plain.arrays["image"].sum(dtype=np.int64)
    batch = padded.prepare(padded.fetch(np.arange(4)), jax.random.key(0))
    assert float(batch["image"][0, 0, 0, 0]) == -1.0
    assert data.mnist("test", image_size=64).image_shape == (64, 64, 1)


@pytest.mark.parametrize("image_size", [27, 29, 66, 0])
def test_sizes_that_padding_cannot_reach_are_refused(image_size):
    with pytest.raises(ValueError, match="even number from 28 to 64"):
        data.mnist("test", image_size=image_size)


def test_unknown_splits_are_refused_by_name():
    with pytest.raises(ValueError, match="'valid'"):
        data.mnist("valid")
    with pytest.raises(ValueError, match="'valid'"):
        data.emoji("valid")
    with pytest.raises(ValueError, match="'valid'"):
        data.emoji_captions("valid")


def test_fingerprints_tell_the_embedded_sets_apart():
    sets = [
        data.mnist("test"),
        data.mnist("train"),
        data.mnist("test", image_size=32),
        data.mnist("test", binarise=data.binarisation.dynamic),
        data.mnist("test", binarise=data.binarisation.threshold),
        data.stacked_mnist("test", num_examples=10),
        data.stacked_mnist("test", num_examples=10, seed=1),
        data.emoji("test", image_size=8),
        data.emoji("test", image_size=8, drawn_by="twemoji"),
    ]
    assert len({s.fingerprint for s in sets}) == len(sets)
    assert data.mnist("test").fingerprint == sets[0].fingerprint


def test_dynamic_binarisation_has_the_grey_image_as_its_mean():
    image = jnp.broadcast_to(jnp.linspace(-1, 1, 9), (20_000, 9))
    drawn = jax.jit(data.binarisation.dynamic)(image, jax.random.key(0))
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    np.testing.assert_allclose(drawn.mean(0), image[0], atol=5 / np.sqrt(20_000))
    assert (drawn[:, 0] == -1).all() and (drawn[:, -1] == 1).all()


def test_dynamic_binarisation_draws_anew_with_every_key():
    dataset = data.mnist("test", binarise=data.binarisation.dynamic)
    raw = dataset.fetch(np.arange(16))
    a, b, c = (dataset.prepare(raw, jax.random.key(seed))["image"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert dataset.prepare(raw, jax.random.key(0))["label"].dtype == jnp.int32


def test_dynamic_binarisation_is_the_same_on_one_device_and_on_eight():
    image = jnp.asarray(np.random.RandomState(0).uniform(-1, 1, (16, 4, 4, 1)), jnp.float32)
    draw = jax.jit(data.binarisation.dynamic)
    mesh = jax.make_mesh((8,), ("data",), devices=jax.devices()[:8])
    sharded = jax.device_put(image, NamedSharding(mesh, PartitionSpec("data")))
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_array_equal(draw(image, jax.random.key(3)), draw(sharded, jax.random.key(3)))


def test_threshold_binarisation_puts_the_border_between_127_and_128():
    image = data.to_unit_range(jnp.array([0, 127, 128, 255], jnp.uint8))
    np.testing.assert_array_equal(data.binarisation.threshold(image, None), [-1, -1, 1, 1])
    assert data.binarisation.threshold(jnp.zeros(1), None)[0] == -1
    np.testing.assert_array_equal(data.binarisation.none(image, None), image)


def test_stacked_mnist_stacks_the_digits_that_its_label_names():
    dataset = data.stacked_mnist("test", num_examples=500, image_size=32)
    assert dataset.image_shape == (32, 32, 3) and len(dataset.class_names) == 1000
    indices = np.array([0, 499, 17, 17])
    raw = dataset.fetch(indices)
    assert raw["image"].shape == (4, 32, 32, 3) and raw["image"].dtype == np.uint8
    mnist = data.mnist("test", image_size=32).arrays
    for example, image, label in zip(indices, raw["image"], raw["label"], strict=True):
        rows = dataset.arrays["rows"][example]
        for channel in range(3):
            np.testing.assert_array_equal(image[:, :, channel], mnist["image"][rows[channel], :, :, 0])
        assert label == np.dot(mnist["label"][rows], [100, 10, 1])
        assert dataset.class_names[label] == "".join(str(digit) for digit in mnist["label"][rows])
    gathered = jax.jit(dataset.gather)(dataset.arrays, indices)
    np.testing.assert_array_equal(gathered["image"], raw["image"])
    np.testing.assert_array_equal(gathered["label"], raw["label"])
    data.check_batch(dataset.prepare(gathered, None), image_shape=(32, 32, 3), num_classes=1000)


def test_stacked_mnist_covers_all_modes_evenly_and_repeats_by_its_seed():
    dataset = data.stacked_mnist()
    assert dataset.num_examples == 128_000
    digits = dataset.arrays["digit"][dataset.arrays["rows"]]
    counts = np.bincount(digits @ [100, 10, 1], minlength=1000)
    assert counts.shape == (1000,) and counts.min() > 70 and counts.max() < 210
    again, other = data.stacked_mnist(), data.stacked_mnist(seed=1)
    np.testing.assert_array_equal(dataset.arrays["rows"], again.arrays["rows"])
    assert (dataset.arrays["rows"] != other.arrays["rows"]).mean() > 0.9
    with pytest.raises(ValueError, match="num_examples"):
        data.stacked_mnist(num_examples=0)


def without(pattern, codepoints):
    return tuple(c for c in codepoints.split("-") if not re.fullmatch(pattern, c))


def concepts(split, normalise):
    from jaxgen.data.emoji import _table

    return {normalise(row["codepoints"]) for row in _table() if row["split"] == split}


def test_no_emoji_differs_from_one_of_the_other_split_only_in_skin_tone():
    def toneless(codepoints):
        return without("1F3F[B-F]|FE0F", codepoints)

    assert len(concepts("test", toneless)) == 195
    assert not concepts("train", toneless) & concepts("test", toneless)


def test_exactly_the_six_documented_concepts_have_genders_on_both_sides():
    from jaxgen.data.emoji import SPLIT_BY_GENDER, _table

    def genderless(codepoints):
        kept = without("1F3F[B-F]|200D|2640|2642|FE0F", codepoints)
        return tuple("1F9D1" if c in ("1F468", "1F469") else c for c in kept)

    divided = concepts("train", genderless) & concepts("test", genderless)
    assert divided == {(codepoint,) for codepoint in SPLIT_BY_GENDER}
    assert sum(row["split"] == "test" and genderless(row["codepoints"]) in divided for row in _table()) == 54


def test_the_emoji_splits_have_the_stated_sizes_labels_and_captions():
    train, test = data.emoji("train", image_size=8), data.emoji("test", image_size=8)
    assert (train.num_examples, test.num_examples) == (3341, 440)
    assert train.class_names == test.class_names and len(train.class_names) == 9
    assert len(data.emoji_subcategories()) == 98
    assert set(train.arrays["label"]) == set(range(9))
    assert train.arrays["subcategory"].max() == 97
    captions = data.emoji_captions("test")
    assert len(captions) == 440 and len(data.emoji_captions("train")) == 3341
    row = captions.index("zambia flag")
    assert test.class_names[test.arrays["label"][row]] == "Flags"
    assert data.emoji_subcategories()[test.arrays["subcategory"][row]] == "country-flag"


def test_the_two_houses_are_each_others_pair():
    noto, twemoji = data.emoji("test"), data.emoji("test", drawn_by="twemoji")
    np.testing.assert_array_equal(noto.arrays["image"], twemoji.arrays["pair"])
    np.testing.assert_array_equal(noto.arrays["pair"], twemoji.arrays["image"])
    assert noto.image_shape == (64, 64, 3)


def test_drawings_of_one_emoji_resemble_each_other_more_than_those_of_others():
    arrays = data.emoji("test", image_size=8).arrays
    image, pair = (arrays[name].reshape(440, -1).astype(float) for name in ("image", "pair"))
    distance = ((image[:, None] - pair[None]) ** 2).sum(-1)
    rank = (distance < np.diag(distance)[:, None]).sum(1)
    assert np.median(rank) < 20  # of 440; by chance 220


def test_zambia_is_green_in_the_cell_of_its_caption():
    dataset = data.emoji("test", image_size=16)
    red, green, blue = dataset.arrays["image"][data.emoji_captions("test").index("zambia flag"), 8, 4].astype(int)
    assert green > red + 50 and green > blue + 50


def test_small_emoji_are_area_averages():
    large, small = data.emoji("test"), data.emoji("test", image_size=16)
    means = large.arrays["image"].reshape(440, 16, 4, 16, 4, 3).mean((2, 4))
    assert np.abs(small.arrays["image"] - means).max() <= 1.0
    assert data.emoji("test", image_size=48).image_shape == (48, 48, 3)


def test_enlarged_emoji_and_unknown_houses_are_refused():
    with pytest.raises(ValueError, match="1..64, got 128"):
        data.emoji(image_size=128)
    with pytest.raises(ValueError, match="'apple'"):
        data.emoji(drawn_by="apple")


def test_the_licences_travel_with_the_data():
    text = (resources.files("jaxgen.data") / "files" / "LICENSES.md").read_text()
    for fact in ("CC BY-SA 3.0", "Apache License 2.0", "CC BY 4.0", "Twitter, Inc and other contributors", "MIT"):
        assert fact in text


@pytest.mark.slow
def test_embedded_sets_load_quickly_in_a_fresh_process():
    code = """if True:
        import time
        from jaxgen import data
        for load in (data.mnist, data.emoji):
            start = time.process_time(); load(); print(time.process_time() - start)
    """
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=data.__path__[0] + "/../..", capture_output=True, text=True, check=True
    )
    mnist_seconds, emoji_seconds = map(float, run.stdout.split())
    # Processor time, which other processes do not lengthen much: about 0.2 s and 0.9 s.
    assert mnist_seconds < 0.75 and emoji_seconds < 2.5
