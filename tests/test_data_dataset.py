import dataclasses
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import data


def small(n=6, **kwargs):
    image = np.random.RandomState(0).randint(0, 256, (n, 4, 4, 3), np.uint8)
    return data.from_arrays("small", image, np.arange(n) % 3, **kwargs)


def test_uint8_maps_linearly_and_its_ends_exactly():
    values = np.arange(256, dtype=np.uint8)
    mapped = np.asarray(data.to_unit_range(jnp.asarray(values)))
    assert mapped.dtype == np.float32
    assert mapped[0] == -1.0 and mapped[255] == 1.0
    np.testing.assert_allclose(mapped, values / 127.5 - 1.0, atol=1e-6)


def test_the_map_to_the_unit_range_is_the_same_inside_and_outside_of_jit():
    values = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(jax.jit(data.to_unit_range)(values), data.to_unit_range(values))


def test_floats_pass_through_and_other_integers_are_refused():
    x = jnp.array([-1.0, 0.25, 1.0])
    np.testing.assert_array_equal(data.to_unit_range(x), x)
    with pytest.raises(TypeError, match="int32"):
        data.to_unit_range(jnp.array([0, 255]))


def test_gather_in_jit_equals_fetch_on_the_host():
    dataset = small(pair=np.ones((6, 4, 4, 3), np.uint8))
    indices = np.array([5, 0, 0, 3], np.int32)
    raw = jax.jit(dataset.gather)(dataset.arrays, indices)
    fetched = dataset.fetch(indices)
    assert sorted(raw) == sorted(fetched) == ["image", "label", "pair"]
    for name in raw:
        np.testing.assert_array_equal(raw[name], fetched[name])
        assert raw[name].dtype == fetched[name].dtype


def test_gather_works_on_the_host_arrays_with_a_traced_index():
    dataset = small()
    raw = jax.jit(lambda i: dataset.gather(dataset.arrays, i))(jnp.array([2, 1]))
    np.testing.assert_array_equal(raw["label"], [2, 1])


def test_prepared_batches_have_float_images_and_int32_labels():
    dataset = small(pair=np.full((6, 4, 4, 3), 255, np.uint8))
    batch = jax.jit(dataset.prepare)(dataset.fetch(np.arange(2)), jax.random.key(0))
    assert batch["image"].dtype == batch["pair"].dtype == jnp.float32
    assert batch["label"].dtype == jnp.int32
    np.testing.assert_array_equal(batch["pair"], 1.0)
    data.check_batch(batch, image_shape=dataset.image_shape, num_classes=3)


def test_the_fingerprint_changes_with_a_single_pixel_and_is_stable_otherwise():
    image = np.zeros((3, 4, 4, 1), np.uint8)
    other = image.copy()
    other[2, 3, 3, 0] = 1
    assert data.from_arrays("a", image).fingerprint == data.from_arrays("a", image.copy()).fingerprint
    assert data.from_arrays("a", image).fingerprint != data.from_arrays("a", other).fingerprint


def test_arrays_of_a_dataset_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        small().arrays["image"][0] = 0


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.zeros((3, 4, 4), np.uint8), None, r"\[N, H, W, C\].*\[..., None\]"),
        (np.zeros((0, 4, 4, 1), np.uint8), None, "empty"),
        (np.zeros((3, 4, 4, 1), np.int64), None, "int64"),
        (np.zeros((3, 3, 8, 8), np.uint8), None, r"channels first: give x.transpose\(0, 2, 3, 1\)"),
        (np.zeros((3, 1, 28, 20), np.float32), None, "channels first"),
        (np.zeros((3, 4, 4, 1), np.uint8), np.zeros(2, int), "2 labels for 3 images"),
        (np.zeros((3, 4, 4, 1), np.uint8), np.array([0, -1, 2]), "negative labels, the first at row 1"),
        (np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3), "float64"),
        (np.zeros((3, 4, 4, 1), np.uint8), np.eye(3, dtype=int), "argmax"),
    ],
)
def test_wrong_arrays_are_refused_with_what_was_found(image, label, message):
    with pytest.raises(ValueError, match=message):
        data.from_arrays("wrong", image, label)


def test_images_in_zero_to_one_are_warned_of_and_dark_ones_are_not():
    ramp = np.linspace(0, 1, 2 * 16, dtype=np.float32).reshape(2, 4, 4, 1)
    with pytest.warns(UserWarning, match=r"values from 0 to 1, none below 0, .* give 2 \* image - 1"):
        data.from_arrays("a", ramp)
    with pytest.warns(UserWarning, match="uint8 images without any value above 1"):
        data.from_arrays("a", (ramp > 0.5).astype(np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dark in (ramp - 1, ramp * 0.1 - 1, np.zeros_like(ramp), (ramp * 9).astype(np.uint8)):
            data.from_arrays("a", dark)
        assert data.from_arrays("a", ramp[:, :1, :1].repeat(8, 3) - 1).image_shape == (1, 1, 8)  # no picture


def test_names_of_classes_may_be_labels():
    dataset = data.from_arrays("pets", np.zeros((3, 4, 4, 1), np.uint8), np.array(["dog", "cat", "dog"]))
    assert dataset.class_names == ("cat", "dog") and dataset.arrays["label"].tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="2 labels for 3 images"):
        data.from_arrays("pets", np.zeros((3, 4, 4, 1), np.uint8), np.array(["dog", "cat"]))


def test_labels_beyond_the_class_names_and_names_without_labels_are_refused():
    image = np.zeros((2, 4, 4, 1), np.uint8)
    with pytest.raises(ValueError, match="label 2 at row 1, but only 2 class names"):
        data.from_arrays("wrong", image, np.array([0, 2]), ("a", "b"))
    with pytest.raises(ValueError, match="no labels"):
        data.from_arrays("wrong", image, None, ("a", "b"))
    with pytest.raises(ValueError, match="'pair' has 3 rows for 2 images"):
        data.from_arrays("wrong", image, pair=np.zeros((3, 4, 4, 1), np.uint8))


def test_images_that_fit_pass_the_check():
    data.check_images(np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 4, 4, 1), image_shape=(4, 4, 1))
    data.check_images(jnp.full((1, 2, 2, 3), 1.0, jnp.bfloat16))
    data.check_images(np.full((1, 2, 2, 3), 1.0005, np.float32))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.full((1, 2, 2, 1), 255.0), ValueError, r"255.*x / 127.5 - 1"),
        (np.full((1, 2, 2, 1), 1.01, np.float32), ValueError, r"1.01, expected \[-1, 1\]"),
        (np.full((1, 2, 2, 1), -1.01, np.float32), ValueError, "from -1.01"),
        (np.zeros((1, 2, 2, 1), np.uint8), TypeError, r"uint8.*x / 127.5 - 1"),
        (np.zeros((2, 2, 1), np.float32), ValueError, "channel axis"),
        (np.array([0, np.nan, 0, np.inf], np.float32).reshape(1, 2, 2, 1), ValueError, r"2 values.*\(0, 0, 1, 0\)"),
    ],
)
def test_the_image_check_says_what_was_found_and_what_to_do(image, error, message):
    with pytest.raises(error, match=message):
        data.check_images(image)


def test_the_batch_check_sees_transposed_images_and_foreign_labels():
    for shape in ((8, 8, 3), (3, 8, 8)):
        with pytest.raises(ValueError, match=r"transpose\(0, 2, 3, 1\)"):
            data.check_batch({"image": np.zeros((2, 3, 8, 8), np.float32)}, image_shape=shape)
    image = np.zeros((2, 8, 8, 3), np.float32)
    with pytest.raises(ValueError, match="labels from 0 to 10, expected 0 to 9"):
        data.check_batch({"image": image, "label": np.array([0, 10])}, image_shape=(8, 8, 3), num_classes=10)
    with pytest.raises(KeyError, match="no labels"):
        data.check_batch({"image": image}, image_shape=(8, 8, 3), num_classes=10)
    with pytest.raises(KeyError, match="label"):
        data.check_batch({"label": np.zeros(2, int)}, image_shape=(8, 8, 3))


def test_importing_the_data_room_imports_neither_pillow_nor_datasets():
    code = "import sys, jaxgen.data; sys.exit(any(m in sys.modules for m in ('PIL', 'datasets', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=data.__path__[0] + "/../..").returncode == 0


@pytest.mark.parametrize("make", [lambda: small(10), lambda: data.stacked_mnist("test", num_examples=10)])
def test_a_subset_is_evenly_spaced_rows_however_they_are_read(make):
    whole = make()
    few = data.subset(whole, 4)
    rows, indices = np.array([0, 2, 5, 7]), np.arange(4)
    expected = whole.fetch(rows)
    for raw in (few.fetch(indices), jax.jit(few.gather)(few.arrays, indices)):
        for name, value in expected.items():
            np.testing.assert_array_equal(raw[name], value)
    assert (few.num_examples, few.class_names) == (4, whole.class_names)
    assert len({whole.fingerprint, few.fingerprint, data.subset(whole, 5).fingerprint}) == 3
    assert data.subset(whole, 10) is whole


def test_a_subset_of_none_or_of_more_than_there_are_is_refused():
    for count in (0, 7):
        with pytest.raises(ValueError, match=f"small has 6 examples: 1 to 6 of them can be taken, not {count}"):
            data.subset(small(), count)


@pytest.mark.parametrize(
    ("values", "message"),
    [([0.0, 254.9], "scale with x / 127.5 - 1"), ([-1.0, np.nan], "not finite"), ([-3.0, 3.0], r"expected \[-1, 1\]")],
)
def test_floats_out_of_range_are_refused_where_they_come_in(values, message):
    image = np.resize(np.float32(values), (4, 6, 6, 1))
    with pytest.raises(ValueError, match=message):
        data.from_arrays("mine", image)
    brought = data.from_arrays("mine", image, prepare=lambda raw, key: {"image": raw["image"] / 1000})
    assert brought.num_examples == 4  # whoever prepares the rows knows their range


def test_labels_of_some_images_are_those_of_images_drawn_once_each_in_memory_or_not():
    label = np.repeat([0, 1, 2], [6, 30, 4])
    held = data.from_arrays("held", np.zeros((40, 4, 4, 1), np.uint8), label=label, class_names=tuple("abc"))
    read = dataclasses.replace(held, arrays=None)
    key = jax.random.key(0)
    for dataset in (held, read):
        assert np.bincount(data.labels.of_some(dataset, 100, 3, key)).tolist() == [6, 30, 4]
    some = data.labels.of_some(held, 10, 3, key)
    assert some.shape == (10,) and some.dtype == np.int32
    np.testing.assert_array_equal(some, data.labels.of_some(read, 10, 3, key))
    assert data.labels.of_some(held, 10, 4, key) is None and data.labels.of_some(held, 10, 0, key) is None
    hidden = dataclasses.replace(held, arrays={**held.arrays, "label": np.where(label == 1, -1, label)})  # half known
    assert np.bincount(data.labels.of_some(hidden, 100, 3, key)).tolist() == [6, 0, 4]
    none = dataclasses.replace(held, arrays={**held.arrays, "label": np.full(40, -1)})
    assert data.labels.of_some(none, 100, 3, key) is None
