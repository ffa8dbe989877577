"""ADA's groups of changes: what each does to an image, that nothing is drawn at 0, and that gradients go through."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxgen import augmentation, sharding
from jaxgen.augmentation import geometry, pixels

pytestmark = pytest.mark.usefixtures("fast_compilation")

KEY = jax.random.key(8)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (128, 8, 8, 3)).astype(np.float32)
GROUPS = pytest.mark.parametrize("group", augmentation.ALL, ids=lambda group: group.__name__)
GREY = np.full((3, 3), 1 / 3)


def changed(group, images=IMAGES, probability=1.0, key=KEY):
    return np.asarray(jax.jit(group)(key, images, probability))


@GROUPS
def test_at_probability_zero_nothing_changes_and_at_one_every_image_may(group):
    np.testing.assert_array_equal(changed(group, probability=0.0), IMAGES)
    same = np.all(changed(group) == IMAGES, axis=(1, 2, 3)).mean()
    assert same < 0.1


@GROUPS
def test_the_probability_is_that_of_each_change_of_each_image_and_most_are_left_as_they_are(group):
    same = np.all(changed(group, probability=0.1) == IMAGES, axis=(1, 2, 3)).mean()
    assert 0.4 < same < 0.97


@GROUPS
@pytest.mark.slow
def test_gradients_are_finite_and_those_of_a_change_that_is_linear_in_the_image(group):
    apply = jax.jit(functools.partial(group, KEY, probability=0.5))
    x, y, v = (jnp.asarray(RNG.normal(size=(16, 8, 8, 3)), jnp.float32) for _ in range(3))
    gradient = jax.jit(jax.grad(lambda x: jnp.vdot(apply(x), v)))(x)
    assert np.isfinite(gradient).all() and np.any(gradient != 0)
    # Affine in the image: differences along any direction are those of the gradient.
    np.testing.assert_allclose(jnp.vdot(apply(x + y) - apply(x), v), jnp.vdot(gradient, y), rtol=1e-3, atol=1e-2)


@pytest.mark.slow
@GROUPS
def test_images_that_are_divided_over_devices_are_changed_as_on_one_and_none_is_gathered(group):
    images = np.tile(IMAGES[:64], (1, 2, 2, 1))
    mesh = sharding.make_mesh(8)
    run = sharding.jit_global(lambda x, key: sharding.divided(group(key, x, 0.7)), mesh, batch_axes=(0, None))
    program = run.lower(images, KEY).compile()
    np.testing.assert_allclose(program(sharding.shard_batch(mesh, images), KEY), changed(group, images, 0.7), atol=1e-5)
    moved = [line for line in program.as_text().splitlines() if "all-gather(" in line or "all-to-all(" in line]
    of_images = [line for line in moved if re.search(r"f32\[\d+,\d+,\d+,\d+\]", line)]
    assert len(of_images) <= 1  # of the result, which is replicated


@pytest.mark.parametrize("channels", [1, 3])
def test_all_groups_together_keep_the_shape_and_the_type(channels):
    for dtype in (jnp.float32, jnp.bfloat16):
        images = jnp.asarray(IMAGES[..., :channels], dtype)
        made = jax.eval_shape(augmentation.pipeline(*augmentation.ALL), KEY, images, jnp.float32(0.5))
        assert (made.shape, made.dtype) == (images.shape, images.dtype)


def test_a_pipeline_is_its_groups_one_after_another_and_the_default_is_bgc():
    found = changed(augmentation.pipeline(lambda key, x, p: x + p, lambda key, x, p: 2 * x), probability=0.5)
    np.testing.assert_allclose(found, 2 * (IMAGES + 0.5), rtol=1e-6)
    np.testing.assert_array_equal(changed(augmentation.pipeline()), IMAGES)
    with pytest.raises(TypeError, match="a pipeline is made of functions such as augmentation.blits, not 'bgc'"):
        augmentation.pipeline("bgc")


# ------------------------------------------------------------------------------------------------------------ geometry


def test_the_filter_is_orthogonal_to_its_shifts_and_has_six_vanishing_moments():
    h = np.array(geometry.SYMLET_6)
    for shift in range(6):
        assert h[2 * shift :] @ h[: len(h) - 2 * shift] == pytest.approx(float(shift == 0), abs=1e-11)
    k = np.arange(12.0)
    np.testing.assert_allclose([((k - 5) ** m * (-1) ** k) @ h for m in range(6)], 0, atol=1e-9)
    assert abs(((k - 5) ** 6 * (-1) ** k) @ h) > 1
    low = np.array(pixels.SYMLET_2)
    np.testing.assert_allclose([low @ low, low[2:] @ low[:2], low.sum() ** 2], [1, 0, 2], atol=1e-12)


def test_a_ramp_is_looked_up_exactly_wherever_an_affine_map_takes_it():
    size = 20
    row, column = np.meshgrid(*[np.arange(size) - (size - 1) / 2] * 2, indexing="ij")
    ramp = np.stack([0.2 + 0.02 * row - 0.05 * column, 0.03 * column], -1)[None].astype(np.float32)
    for matrix, shift in (
        (np.eye(2), (0.3, -0.45)),
        ([[0.8, 0.3], [-0.2, 0.9]], (0.2, 0.1)),
        ([[0, -1], [1, 0]], (0, 0)),
    ):
        matrix, shift = np.array(matrix, np.float32), np.array(shift, np.float32)
        found = geometry.warped(ramp, matrix[None], shift[None])[0]
        i, j = np.einsum("ij,jhw->ihw", matrix, np.stack([row, column])) + shift[:, None, None]
        expected = np.stack([0.2 + 0.02 * i - 0.05 * j, 0.03 * j], -1)
        np.testing.assert_allclose(found[6:-6, 6:-6], expected[6:-6, 6:-6], atol=5e-5)


def test_enlarging_and_shrinking_alone_change_nothing_and_whole_pixels_are_exact():
    for size in (5, 16):  # borders included
        enlarging, shrinking = geometry._enlarging(size), geometry._shrinking(size)
        np.testing.assert_allclose(shrinking @ enlarging, np.eye(size), atol=1e-11)
        np.testing.assert_allclose(enlarging.sum(1), 1, atol=1e-11)  # a constant stays one
    x = RNG.normal(size=(1, 16, 16, 2)).astype(np.float32)
    still, inside = np.eye(2, dtype=np.float32)[None], np.s_[:, 5:-5, 5:-5]
    moved = geometry.warped(x, still, np.array([[2.0, -1.0]], np.float32))
    np.testing.assert_allclose(moved[inside], np.roll(x, (-2, 1), (1, 2))[inside], atol=2e-4)


def smooth(number=16, size=32):
    """Images without high frequencies, which any good interpolation looks up alike."""
    noise = RNG.normal(size=(number, size, size, 1))
    found = ndimage.gaussian_filter(noise, (0, 3, 3, 0), mode="mirror")
    return (found / found.std()).astype(np.float32)


def test_it_agrees_with_splines_on_smooth_images_and_is_undone_by_the_inverse():
    x, angle = smooth(), 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    matrix, shift = 0.9 * turn, np.array([1.3, -0.4], np.float32)
    count = len(x)
    found = geometry.warped(x, np.tile(matrix, (count, 1, 1)), np.tile(shift, (count, 1)))
    centre = (32 - 1) / 2
    expected = np.stack(
        [
            ndimage.affine_transform(image[..., 0], matrix, centre + shift - matrix @ [centre, centre], mode="mirror")
            for image in x
        ]
    )
    np.testing.assert_allclose(found[:, 4:-4, 4:-4, 0], expected[:, 4:-4, 4:-4], atol=0.06)
    inverse = np.linalg.inv(matrix)
    back = geometry.warped(found, np.tile(inverse, (count, 1, 1)), np.tile(-inverse @ shift, (count, 1)))
    np.testing.assert_allclose(back[:, 10:-10, 10:-10], x[:, 10:-10, 10:-10], atol=0.1)


def test_positions_vary_as_the_paper_says_and_one_of_two_rotations_is_made_with_the_probability():
    draws = jax.jit(geometry.affine_maps, static_argnums=(1, 2))
    matrix, shift, is_changed = draws(KEY, 4000, (32, 16), 1.0)
    assert np.all(is_changed)
    scales = -np.log2(np.linalg.det(matrix)) / 2
    assert scales.std() == pytest.approx(0.2, rel=0.05) and abs(scales.mean()) < 0.01
    largest, smallest = np.log2(np.linalg.svd(matrix)[1]).T
    stretches = (largest - smallest) / 2
    assert stretches.mean() == pytest.approx(0.2 * np.sqrt(2 / np.pi), rel=0.05)
    moved = -np.linalg.solve(matrix, np.asarray(shift)[..., None])[..., 0]  # where the centre goes
    np.testing.assert_allclose(moved.std(0), [4, 2], rtol=0.05)
    matrix, shift, is_changed = draws(KEY, 4000, (32, 16), 0.5)
    assert np.mean(~is_changed) == pytest.approx(0.5**4, abs=0.02)  # no scale, no stretch, no shift, no rotation
    np.testing.assert_allclose(matrix[~is_changed], np.tile(np.eye(2), (np.sum(~is_changed), 1, 1)), atol=1e-6)
    assert not np.any(shift[~is_changed])


# -------------------------------------------------------------------------------------------------------------- values


def test_colours_are_changed_by_one_affine_map_of_an_image_made_of_what_the_paper_has():
    found, images = changed(augmentation.colours).reshape(128, -1, 3), IMAGES.reshape(128, -1, 3)
    flips = 0
    for y, x in zip(found, images, strict=True):
        solved, *_ = np.linalg.lstsq(np.concatenate([x, np.ones((len(x), 1))], 1), y, rcond=None)
        matrix, shift = solved[:3].T, solved[3]
        np.testing.assert_allclose(x @ matrix.T + shift, y, atol=1e-4)
        np.testing.assert_allclose(shift, shift.mean(), atol=1e-4)  # brightness
        np.testing.assert_allclose(matrix @ GREY, GREY @ matrix, atol=1e-3)
        luma = np.trace(GREY @ matrix)
        flips += luma < 0
        chroma = (np.eye(3) - GREY) @ matrix
        ratio = np.linalg.norm(chroma, 2) ** 2  # contrast times saturation, times a rotation
        np.testing.assert_allclose(chroma @ chroma.T, ratio * (np.eye(3) - GREY), atol=1e-3 * max(1, ratio))
    assert 0.3 < flips / 128 < 0.7


def test_grey_images_are_changed_as_colour_images_of_three_equal_channels():
    grey = IMAGES[..., :1]
    colour = changed(augmentation.colours, np.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(changed(augmentation.colours, grey), colour.mean(-1, keepdims=True), atol=1e-5)
    with pytest.raises(ValueError, match="colours can be changed in images of 1 or 3 channels, not 2"):
        augmentation.colours(KEY, IMAGES[..., :2], 1.0)


def test_bands_add_up_to_the_image_and_each_keeps_its_own_frequencies():
    size = 128
    found = pixels.bands(size)
    np.testing.assert_allclose(found.sum(0), np.eye(size), atol=1e-12)
    assert np.allclose(pixels.bands(5).sum(0), np.eye(5))  # smaller than the filters
    for band, frequency in enumerate((1 / 32, 3 / 16, 3 / 8, 3 / 4)):
        wave = np.cos(np.pi * frequency * np.arange(size))
        energy = [np.sum((matrix @ wave)[32:-32] ** 2) for matrix in found]
        assert np.argmax(energy) == band
    np.testing.assert_allclose(found[1:] @ np.ones(size), 0, atol=1e-12)  # a constant is of the lowest band


def test_filters_keep_the_expected_power_of_an_image_whose_bands_have_that_of_natural_ones():
    # White noise has the powers 1/8, 1/8, 1/4, 1/2: make the images of the powers that are expected.
    powers = pixels.POWERS
    parts = np.einsum("kij,bj->kbi", pixels.bands(64), RNG.normal(size=(64, 64)))
    rows = sum(part * np.sqrt(power) / part.std() for part, power in zip(parts, powers, strict=True))
    columns = np.tile(rows[:, :, None, None], (1, 1, 64, 1)).astype(np.float32)  # the same along the other axis
    found = changed(augmentation.filters, columns)
    lowest = (found / columns.std()).std((1, 2, 3))
    assert 0.3 < np.median(lowest) < 2
    assert not np.allclose(found, columns, atol=0.1)


def test_noise_is_of_one_deviation_for_each_image_and_half_normal():
    added = changed(augmentation.noises, np.zeros((512, 8, 8, 3), np.float32))
    deviation = added.std((1, 2, 3))
    assert deviation.mean() == pytest.approx(0.1 * np.sqrt(2 / np.pi), rel=0.1)
    assert np.sqrt((deviation**2).mean()) == pytest.approx(0.1, rel=0.1)
    assert abs((added / deviation[:, None, None, None]).mean()) < 0.01


def test_a_cutout_is_one_rectangle_of_half_the_size_around_a_uniform_point():
    found = changed(augmentation.cutouts, np.ones((512, 16, 16, 1), np.float32))[..., 0] == 0
    heights, widths = found.any(2).sum(1), found.any(1).sum(1)
    np.testing.assert_array_equal(found.sum((1, 2)), heights * widths)
    assert set(heights) <= set(range(4, 9)) and heights.max() == widths.max() == 8
    assert np.mean(heights) == pytest.approx(
        7, abs=0.3
    )  # half of the centres lie within a quarter of a border: 6 there
