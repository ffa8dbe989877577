"""What the discriminator sees: differentiable changes of images, and how their probability adapts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import augmentation
from jaxgen.turns import Conditions

KEY = jax.random.key(8)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (64, 8, 8, 3)).astype(np.float32)

pytestmark = pytest.mark.usefixtures("fast_compilation")


def changed(transform, *arguments, images=IMAGES):
    return np.asarray(jax.jit(transform)(KEY, images, *arguments))


def test_brightness_adds_one_number_to_each_image():
    added = changed(augmentation.brightness) - IMAGES
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1, :1], added.shape), atol=1e-6)
    assert -0.5 <= added.min() < -0.4 and 0.4 < added.max() <= 0.5


def test_saturation_scales_colour_around_grey_and_leaves_grey_images_grey():
    found = changed(augmentation.saturation)
    np.testing.assert_allclose(found.mean(-1), IMAGES.mean(-1), atol=1e-5)
    scale = np.std(found, axis=-1) / np.std(IMAGES, axis=-1)
    np.testing.assert_allclose(scale, np.broadcast_to(scale[:, :1, :1], scale.shape), rtol=1e-2)
    assert 0 <= scale.min() < 0.2 and 1.8 < scale.max() <= 2.001
    grey = IMAGES[..., :1]
    np.testing.assert_array_equal(changed(augmentation.saturation, images=grey), grey)


def test_contrast_scales_an_image_around_its_mean():
    found = changed(augmentation.contrast)
    np.testing.assert_allclose(found.mean((1, 2, 3)), IMAGES.mean((1, 2, 3)), atol=1e-5)
    scale = np.std(found, axis=(1, 2, 3)) / np.std(IMAGES, axis=(1, 2, 3))
    assert 0.5 <= scale.min() < 0.6 and 1.4 < scale.max() <= 1.5 + 1e-5


def shift_of(found, image, reach, fill):
    """The only (rows, columns) by which padding and cropping `image` gives `found`, or None."""
    size = image.shape[0]
    if fill == "reflect":
        padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    else:
        padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)))
    for i in range(2 * reach + 1):
        for j in range(2 * reach + 1):
            if np.array_equal(padded[i : i + size, j : j + size], found):
                return i - reach, j - reach
    return None


def test_translation_moves_by_up_to_an_eighth_and_fills_with_grey():
    found = changed(augmentation.translation)
    shifts = [shift_of(f, x, 1, "grey") for f, x in zip(found, IMAGES, strict=True)]
    assert None not in shifts and len(set(shifts)) == 9
    wide = IMAGES[:, :, :4]  # each axis by its own size
    found = changed(lambda key, x: augmentation.translation(key, x, 0.25), images=wide)
    assert not np.any(found[np.any(found[:, 0] != 0, axis=(1, 2))][:, 2:6, 1:3] == 0)


def test_cutout_greys_one_rectangle_of_half_the_size_that_may_end_at_the_border():
    found = changed(augmentation.cutout)
    cut = np.all(found == 0, axis=-1)
    np.testing.assert_array_equal(found[~cut], IMAGES[~cut])
    heights, widths = cut.any(2).sum(1), cut.any(1).sum(1)
    np.testing.assert_array_equal(cut.sum((1, 2)), heights * widths)  # a rectangle
    assert set(heights) == set(widths) == {2, 3, 4}  # centres 0 to 8: 2 to 4 of 8 rows are inside
    odd = np.all(changed(augmentation.cutout, images=IMAGES[:, :5, :6]) == 0, axis=-1)
    assert set(odd.any(2).sum(1)) == {2, 3} and set(odd.any(1).sum(1)) == {2, 3}  # 3 of 5, centres 0 to 4; 3 of 6


def test_differentiable_augmentation_is_a_policy_of_functions_one_after_another():
    augment = augmentation.diff_augment()
    found = changed(augment)
    assert found.shape == IMAGES.shape and np.any(found != IMAGES)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(augment(KEY, x) ** 2)))(IMAGES)
    assert np.isfinite(gradient).all() and np.any(gradient != 0)
    doubled = augmentation.diff_augment([lambda key, x: 2 * x, lambda key, x: x + 1])
    np.testing.assert_allclose(doubled(KEY, IMAGES), 2 * IMAGES + 1)
    np.testing.assert_array_equal(augmentation.diff_augment([])(KEY, IMAGES), IMAGES)
    with pytest.raises(TypeError, match=r"a list of functions such as \[augmentation.translation\], not 'color'"):
        augmentation.diff_augment("color")


# ---------------------------------------------------------------------------------------------------------------- ADA


def test_blits_of_probability_zero_change_nothing():
    np.testing.assert_array_equal(changed(augmentation.blits, 0.0), IMAGES)


def test_every_blit_is_a_rotated_mirrored_and_shifted_image_and_all_occur():
    images = np.concatenate([IMAGES] * 4)
    found = changed(augmentation.blits, 1.0, images=images)
    kinds = []
    for f, x in zip(found, images, strict=True):
        candidates = {
            (flip, quarters): np.rot90(x[:, ::-1] if flip else x, quarters) for flip in (0, 1) for quarters in range(4)
        }
        shifts = {kind: shift_of(f, y, 1, "reflect") for kind, y in candidates.items()}
        (kind,) = [kind for kind, shift in shifts.items() if shift is not None]
        kinds.append((*kind, *shifts[kind]))
    kinds = np.array(kinds)
    np.testing.assert_allclose(kinds[:, 0].mean(), 0.5, atol=0.1)
    np.testing.assert_allclose(np.bincount(kinds[:, 1]) / len(kinds), [0.25] * 4, atol=0.1)
    for axis in (2, 3):  # u ~ U[-1, 1] pixels, rounded
        np.testing.assert_allclose(np.bincount(kinds[:, axis] + 1) / len(kinds), [0.25, 0.5, 0.25], atol=0.1)


def test_the_probability_is_that_of_each_change_of_each_image():
    images = np.concatenate([IMAGES] * 8)
    found = changed(augmentation.blits, 0.5, images=images)
    same = np.all(found == images, axis=(1, 2, 3)).mean()
    # No mirror image, no rotation, no shift: each is left out, or draws what changes nothing.
    assert same == pytest.approx((0.5 + 0.5 / 2) * (0.5 + 0.5 / 4) * (0.5 + 0.5 / 4), abs=0.06)


def test_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="rotations by 90 degrees need square images, not 8 x 4"):
        augmentation.blits(KEY, jnp.zeros((2, 8, 4, 1)), 0.5)


def test_the_probability_follows_the_sign_of_real_logits_with_the_speed_of_images():
    ada = augmentation.adaptive(50, num_images=1000, target=0.5, decay=0.5, probability=0.02)
    state = ada.init()
    observed = ada.observe(jnp.array([3.0, 1.0, 2.0, -5.0]))
    assert float(observed["sign"]) == 0.5
    state = ada.update(state, {"sign": 0.8})  # r = 0.4, below its target
    assert (float(state["probability"]), float(state["sign"])) == (0, pytest.approx(0.4))  # not below 0
    for i in range(1, 23):
        state = ada.update(state, {"sign": 1.0})  # r above its target from here on
        assert float(state["probability"]) == pytest.approx(min(0.05 * i, 1.0), abs=1e-6)
    assert float(state["sign"]) == pytest.approx(1, abs=1e-4)
    assert {name: float(x) for name, x in ada.metrics(state).items()} == {
        "probability": 1.0,
        "sign": float(state["sign"]),
    }


@pytest.mark.slow
def test_an_adaptive_augmentation_changes_as_many_images_as_its_state_says_and_not_what_they_are_told():
    told = {"label": jnp.arange(64)}
    pipeline = augmentation.adaptive(64, pipeline=lambda key, images, probability: images * probability)
    state = {"probability": jnp.array(0.25), "sign": jnp.zeros(())}
    image, condition = pipeline.apply(KEY, IMAGES, told, state, 0)
    np.testing.assert_allclose(image, 0.25 * IMAGES)
    assert condition is told
    default = augmentation.adaptive(64).apply(KEY, IMAGES, told, state, 0)[0]
    np.testing.assert_array_equal(default, augmentation.pipeline(*augmentation.BGC)(KEY, IMAGES, 0.25))


def test_a_scheduled_augmentation_has_the_probability_of_its_step_and_no_state():
    scheduled = augmentation.scheduled(lambda step: step / 10, pipeline=lambda key, images, p: images * p)
    told = {"label": jnp.arange(64)}
    for step in (0, 4):
        image, condition = scheduled.apply(KEY, IMAGES, told, None, step)
        np.testing.assert_allclose(image, step / 10 * IMAGES)
        assert condition is told
    assert scheduled.init is None and scheduled.update is None
    fixed = augmentation.scheduled(0.3).apply(KEY, IMAGES, told, None, 7)[0]
    np.testing.assert_array_equal(fixed, augmentation.blits(KEY, IMAGES, 0.3))


def test_a_probability_that_would_not_move_or_jump_is_refused():
    for batch_size, num_images in ((0, 100), (200, 100)):
        with pytest.raises(ValueError, match=r"p moves by batch_size / num_images = \d+ / 100, which must be in"):
            augmentation.adaptive(batch_size, num_images=num_images)


def test_a_pseudo_augmentation_shows_as_many_fakes_as_real_as_its_state_says_with_what_they_are_told():
    apa = augmentation.pseudo(64, augment=lambda key, images: 2 * images)
    told = Conditions(fake={"label": jnp.zeros(64, int)}, real={"label": jnp.ones(64, int)})
    for p in (0.0, 0.25, 1.0):
        state = {"probability": jnp.array(p), "sign": jnp.zeros(())}
        image, label = apa.replace(KEY, jnp.asarray(IMAGES), -jnp.asarray(IMAGES) - 3, told, state, 0)
        fake = np.asarray(label["label"]) == 0
        np.testing.assert_array_equal(image[fake], -IMAGES[fake] - 3)
        np.testing.assert_array_equal(image[~fake], IMAGES[~fake])
        assert abs(fake.mean() - p) < 0.2 and (p == 0.25 or fake.mean() == p)
        shown, condition = apa.apply(KEY, IMAGES, told, state, 0)
        np.testing.assert_array_equal(shown, 2 * IMAGES)
        assert condition is told
    ada = augmentation.adaptive(64, probability=0.3)
    observed, state = {"sign": jnp.array(1.0)}, {"probability": jnp.array(0.3), "sign": jnp.array(0.9)}
    assert apa.update(state, observed) == ada.update(state, observed)  # p moves as that of ADA


def test_a_pseudo_augmentation_that_cannot_be_is_one_sentence():
    with pytest.raises(TypeError, match=r"augment must be a function \(key, images\) -> images, not 'diff'"):
        augmentation.pseudo(64, augment="diff")
    apa, told = augmentation.pseudo(64), Conditions(fake=None, real=jnp.ones(64))
    with pytest.raises(ValueError, match="only where both are told things of the same structure"):
        apa.replace(KEY, jnp.asarray(IMAGES), jnp.asarray(IMAGES), told, apa.init(), 0)
