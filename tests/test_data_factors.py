"""Shapes whose factors are known: drawn as the factors say, all of them, each once."""

import jax
import numpy as np
import pytest

from jaxgen import data, description, opening, options
from jaxgen.data.factors import draw
from jaxgen.system import Spec
from jaxgen.systems import vae
from jaxgen.systems.preset import Preset

COUNTS = (3, 4, 8, 16, 16)


@pytest.fixture(scope="module")
def sets():
    return data.factors("train"), data.factors("test")


def ink(images):
    """In [0, 1], float64 [N, H, W]."""
    return np.asarray(images, np.float64)[..., 0] / 255


def centred(images):
    """(ink, x and y of pixels in pixels from the centroid of each image [N, H, W])."""
    weight, size = ink(images), images.shape[1]
    y, x = np.mgrid[:size, :size] + 0.5
    total = weight.sum(axis=(1, 2), keepdims=True)
    middle = [(weight * axis).sum(axis=(1, 2), keepdims=True) / total for axis in (x, y)]
    return weight, middle, x - middle[0], y - middle[1]


def test_each_combination_is_there_once_in_one_of_the_splits(sets):
    train, test = sets
    assert (train.num_examples, test.num_examples) == (20_480, 4096) and train.image_shape == (32, 32, 1)
    rows = [np.ravel_multi_index(s.arrays["factor"].T, COUNTS) for s in sets]
    assert len(set(rows[0]) & set(rows[1])) == 0
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(np.prod(COUNTS)))
    for dataset in sets:  # and in any part of them there are all values, about equally often
        for column, count in zip(dataset.arrays["factor"][:1000].T, COUNTS, strict=True):
            assert 0.5 < np.bincount(column, minlength=count).min() * count / 1000
        np.testing.assert_array_equal(dataset.arrays["label"], dataset.arrays["factor"][:, 0])
    assert [len(factor.values) for factor in train.factors] == list(COUNTS) and train.factors == test.factors
    assert [factor.name for factor in train.factors if factor.categorical] == ["shape"]
    assert train.class_names == ("rectangle", "ellipse", "triangle")


def test_every_factor_can_be_read_off_an_image_since_no_two_are_equal(sets):
    images = np.concatenate([s.arrays["image"] for s in sets])
    assert len({image.tobytes() for image in images}) == len(images) == 24_576


def test_the_ink_is_the_area_and_its_middle_the_place(sets):
    arrays = sets[1].arrays
    weight, middle, _, _ = centred(arrays["image"])
    size, x, y = (np.array(sets[1].factors[k].values)[arrays["factor"][:, k]] for k in (1, 3, 4))
    np.testing.assert_allclose(weight.sum(axis=(1, 2)), (32 * size) ** 2, rtol=0.06)
    np.testing.assert_allclose(weight.sum(axis=(1, 2)).mean(), ((32 * size) ** 2).mean(), rtol=0.01)
    for found, known in zip(middle, (x, y), strict=True):
        np.testing.assert_allclose(found[:, 0, 0], 32 * known, atol=0.12)
    edge = np.concatenate([weight[:, [0, -1]].ravel(), weight[:, :, [0, -1]].ravel()])
    assert edge.max() == 0


def test_the_long_axis_of_a_rectangle_and_an_ellipse_lies_as_the_orientation_says(sets):
    arrays = sets[1].arrays
    chosen = (arrays["factor"][:, 0] < 2) & (arrays["factor"][:, 1] == 3)
    weight, _, x, y = centred(arrays["image"][chosen])
    xx, yy, xy = ((weight * a * b).sum(axis=(1, 2)) for a, b in ((x, x), (y, y), (x, y)))
    angle = np.degrees(0.5 * np.arctan2(2 * xy, xx - yy))  # clockwise, since y goes down
    known = np.array(sets[1].factors[2].values)[arrays["factor"][chosen, 2]]
    away = (angle - known + 90) % 180 - 90
    assert np.abs(away).max() < 2


def test_a_triangle_points_up_at_orientation_zero_and_turns_clockwise():
    up, turned = (draw("triangle", 0.3, angle, (0.5,), 64)[0, 0] for angle in (0.0, 78.75))
    rows, columns = up.sum(axis=1) / 255, turned.sum(axis=0) / 255
    assert rows.argmax() > 32 and columns.argmax() < 32  # the broad side is below, and then at the left


def test_more_pixels_show_the_same_shapes():
    small, large = (draw("ellipse", 0.25, 22.5, (0.4, 0.6), size) for size in (32, 64))
    means = large.reshape(2, 2, 32, 2, 32, 2).mean(axis=(3, 5))
    assert np.abs(means - small).max() < 30 and np.abs(means - small).mean() < 0.5


def test_pixels_can_be_made_binary_and_splits_and_sizes_are_checked():
    dataset = data.factors("test", binarise=data.binarisation.threshold)
    batch = dataset.prepare(dataset.fetch(np.arange(8)), jax.random.key(0))
    assert set(np.unique(batch["image"])) == {-1.0, 1.0}
    assert batch["factor"].shape == (8, 5) and batch["factor"].dtype == np.int32
    fingerprints = {data.factors(s, image_size=n).fingerprint for s in ("train", "test") for n in (16, 32)}
    assert len(fingerprints | {dataset.fingerprint}) == 5
    with pytest.raises(ValueError, match="'valid'"):
        data.factors("valid")
    with pytest.raises(ValueError, match="from 16 to 128, got 8"):
        data.factors(image_size=8)
    with pytest.raises(ValueError, match="no shape 'heart'; there is: rectangle, ellipse, triangle"):
        draw("heart", 0.2, 0.0, (0.5,), 32)


def test_they_are_opened_by_name():
    chosen = options.Data("factors", image_size=16, binarise="threshold")
    options.check_data(chosen, {})
    dataset = chosen.open("test")
    assert dataset.image_shape == (16, 16, 1) and dataset.name == "factors/test" and chosen.has_test_split
    config = vae.Config(data=chosen)
    assert description.spec_of(config, Preset("", config)) == Spec.of(dataset)
    side = opening.open_images("factors:train", num=5)
    assert (side.dataset.image_shape, side.dataset.num_examples, side.resize) == ((32, 32, 1), 5, "none")
    assert opening.open_images("factors", shape=(64, 64, 1)).resize == "drawn at 64x64"
    few = data.subset(dataset, 10)
    assert few.factors == dataset.factors and few.arrays["factor"].shape == (10, 5)
