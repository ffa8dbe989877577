"""Holes: areas, reproducibility, margins, and what is refused."""

import functools

import jax
import numpy as np
import pytest

from jaxgen.data import masks

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY = jax.random.key(1)
SHAPE = (48, 48)


@functools.cache
def drawer(name):
    return jax.jit(jax.vmap(functools.partial(getattr(masks, name), shape=SHAPE)))


@functools.cache
def drawn(name):
    return np.asarray(drawer(name)(jax.random.split(KEY, 80)))


ALL = ("boxes", "one_box", "strokes", "brush", "random_pixels", "one_of", "union")


@pytest.mark.parametrize("name", ALL)
def test_masks_are_zeros_and_ones_and_the_same_for_the_same_key(name):
    found = drawn(name)
    assert found.shape == (80, 48, 48, 1) and found.dtype == np.float32 and set(np.unique(found)) == {0.0, 1.0}
    again = drawer(name)(jax.random.split(KEY, 80)[::-1])
    assert np.array_equal(again, found[::-1])  # whatever is beside a mask
    assert len({mask.tobytes() for mask in found}) > 60


@pytest.mark.parametrize("name", ALL)
def test_some_pixels_are_missing_and_some_are_not(name):
    areas = drawn(name).mean(axis=(1, 2, 3))
    assert areas.min() > 0 and np.mean(areas < 1) > 0.9


def test_the_centre_is_a_box_in_the_middle():
    mask = masks.centre(None, (64, 48), share=0.5)
    assert mask.shape == (64, 48, 1) and float(mask.sum()) == 32 * 24
    assert np.array_equal(mask, mask[::-1, ::-1]) and float(mask[16:48, 12:36].min()) == 1


def test_one_box_has_the_area_of_its_sides_and_keeps_the_margin():
    draw = jax.jit(jax.vmap(lambda key: masks.boxes(key, SHAPE, num=(1, 1))))
    found = np.asarray(draw(jax.random.split(KEY, 400)))
    heights, widths = found.max(axis=2).sum(axis=(1, 2)), found.max(axis=1).sum(axis=(1, 2))
    assert np.array_equal(found.sum(axis=(1, 2, 3)), heights * widths)
    least, most = round(30 * 48 / 256), round(150 * 48 / 256)
    for sides in (heights, widths):
        assert sides.min() == least and sides.max() == most
        np.testing.assert_allclose(sides.mean(), (least + most) / 2, rtol=0.05)
    border = round(10 * 48 / 256)
    inner = found[:, border:-border, border:-border]
    assert inner.sum() == found.sum() and inner[:, 0].any() and inner[:, -1].any() and inner[:, :, -1].any()


def test_the_missing_share_of_pixels_is_that_asked_for():
    for share in (0.1, 0.5, 0.9):
        found = jax.vmap(lambda key, s=share: masks.random_pixels(key, SHAPE, share=s))(jax.random.split(KEY, 50))
        np.testing.assert_allclose(np.mean(found), share, atol=0.005)
    assert not np.any(masks.random_pixels(KEY, SHAPE, share=0.0)) and np.all(masks.random_pixels(KEY, SHAPE, share=1.0))


def test_a_stroke_of_one_piece_is_a_line_with_round_ends():
    settings = {"num": (1, 1), "pieces": (1, 1), "length": (0.2, 0.2), "width": (0.1, 0.1), "turn": (1.0, 1.0)}
    draw = jax.jit(jax.vmap(lambda key: masks.strokes(key, (200, 200), **settings)))
    found = np.asarray(draw(jax.random.split(KEY, 40)))
    area = found.sum(axis=(1, 2, 3))
    inside = ~(found[:, [0, -1]].any(axis=(1, 2, 3)) | found[:, :, [0, -1]].any(axis=(1, 2, 3)))
    assert inside.sum() > 10
    whole = np.abs(area - (40 * 20 + np.pi * 100)) < 40  # those cut short at the border lie at it
    assert whole[inside].all()


def test_the_same_holes_are_drawn_at_any_size_in_proportion():
    small, large = (jax.jit(lambda key, s=side: masks.strokes(key, (s, s)))(KEY) for side in (64, 256))
    coarse = np.asarray(large).reshape(64, 4, 64, 4).mean(axis=(1, 3))
    assert np.mean(np.abs(coarse - np.asarray(small)[..., 0])) < 0.03


def test_the_mixture_draws_both_kinds_at_equal_odds():
    num = 400
    only = [functools.partial(masks.random_pixels, share=share) for share in (0.0, 1.0)]
    keys = jax.random.split(KEY, num)
    found = jax.vmap(lambda key: masks.one_of(key, (4, 4), kinds=tuple(only)))(keys)
    np.testing.assert_allclose(np.mean(found), 0.5, atol=3 * 0.5 / np.sqrt(num))


def test_a_union_covers_all_its_parts():
    kinds = (masks.one_box, functools.partial(masks.random_pixels, share=0.3))
    of = jax.random.split(KEY, 2)
    parts = [kind(key, shape=SHAPE) for kind, key in zip(kinds, of, strict=True)]
    assert np.array_equal(masks.union(KEY, SHAPE, kinds=kinds), np.maximum(*map(np.asarray, parts)))


def test_published_holes_cover_a_usual_share_of_the_image():
    """LaMa's wide masks cover some fifth to a third, DeepFill's box alone between a seventh and a quarter."""
    assert 0.15 < drawn("one_of").mean() < 0.45
    box = drawn("one_box").mean(axis=(1, 2, 3))
    assert 0.13 < box.min() and box.max() <= 0.25
    assert 0.02 < drawn("brush").mean() < 0.3


@pytest.mark.parametrize(
    "draw, text",
    [
        (lambda: masks.centre(None, SHAPE, share=1.5), "a hole of 72x72 pixels is larger than the 48x48"),
        (lambda: masks.centre(None, (4, 4), share=0.05), "has no pixel in an image of 4x4"),
        (lambda: masks.boxes(KEY, SHAPE, side=(0.1, 1.1)), "a box of 53x53 pixels is larger than the 44x44"),
        (lambda: masks.boxes(KEY, SHAPE, num=(0, 3)), "number of boxes .* not 0 and 3"),
        (lambda: masks.strokes(KEY, SHAPE, width=(0.1, 2.0)), "wider than the image"),
        (lambda: masks.strokes(KEY, SHAPE, pieces=(3, 2)), "number of pieces .* not 3 and 2"),
        (lambda: masks.random_pixels(KEY, SHAPE, share=1.2), "from 0 to 1, not 1.2"),
    ],
)
def test_holes_that_cannot_be_are_refused(draw, text):
    with pytest.raises(ValueError, match=text):
        draw()


def test_a_seed_is_no_key():
    with pytest.raises(TypeError, match="must be a random key"):
        masks.strokes(0, SHAPE)
