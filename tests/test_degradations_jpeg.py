"""JPEG in JAX beside Pillow's: tables, decoded pixels, derivatives."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen import data, degradations
from jaxgen.degradations import compression

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY = jax.random.key(3)


def through_pillow(image, quality, subsampled):
    """uint8 [H, W, C] through a file; its tables too."""
    stream = io.BytesIO()
    picture = Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
    picture.save(stream, "JPEG", quality=quality, subsampling=2 if subsampled else 0)
    with Image.open(io.BytesIO(stream.getvalue())) as found:
        return np.asarray(found).reshape(image.shape), found.quantization


@functools.partial(jax.jit, static_argnames="subsampled")
def coded(image, quality, subsampled):
    return degradations.jpeg(data.to_unit_range(image), quality=quality, subsampled=subsampled)


def through_ours(image, quality, subsampled):
    return np.asarray(coded(jnp.asarray(image), jnp.asarray(quality), subsampled) * 127.5 + 127.5)


def test_both_tables_are_pillows_at_all_qualities():
    image = np.zeros((16, 16, 3), np.uint8)
    for quality in range(1, 101):
        luma, chroma = (np.array(table).reshape(8, 8) for table in through_pillow(image, quality, True)[1].values())
        assert np.array_equal(compression.quantisation_table(quality), luma), quality
        assert np.array_equal(compression.quantisation_table(quality, compression.CHROMA_TABLE), chroma), quality


def test_a_traced_quality_has_the_same_table():
    found = jax.jit(jax.vmap(compression.quantisation_table))(jnp.arange(1, 101))
    assert np.array_equal(found, np.stack([compression.quantisation_table(q) for q in range(1, 101)]))


@functools.cache
def pictures():
    emoji = np.asarray(data.emoji("test").arrays["image"])[[3, 50, 200]]
    smooth = np.clip(np.random.RandomState(0).normal(128, 40, (3, 7, 9, 3)), 0, 255).astype(np.uint8)
    smooth = [np.asarray(Image.fromarray(x).resize((75, 50), Image.Resampling.BICUBIC)) for x in smooth]
    return [*emoji, *smooth]


@pytest.mark.parametrize("subsampled", [True, False])
@pytest.mark.parametrize("quality, mean", [(10, 0.3), (40, 0.3), (75, 0.3), (95, 0.55)])
def test_decoded_pixels_differ_from_pillows_by_less_than_half_a_level(quality, mean, subsampled):
    for image in pictures():
        theirs, ours = through_pillow(image, quality, subsampled)[0], through_ours(image, quality, subsampled)
        np.testing.assert_allclose(ours, np.round(ours), atol=1e-3)
        error = np.abs(np.round(ours) - theirs)
        assert error.mean() < mean and np.mean(error <= 1) > 0.88 and error.max() <= 40


@pytest.mark.parametrize("quality", [10, 50, 95])
def test_grey_images_and_odd_sizes_too(quality):
    for image in (pictures()[4][:45, :61, :1], pictures()[4][:41, :37]):
        theirs, ours = through_pillow(image, quality, True)[0], through_ours(image, quality, True)
        assert np.mean(np.abs(ours - theirs)) < 0.3


def test_the_bars_of_the_emoji_are_those_of_pillow():
    """Mean PSNR of 60 test emoji at quality 10 is Pillow's within a hundredth of a decibel."""
    from jaxgen.metrics import image as metrics

    images = np.asarray(data.emoji("test").arrays["image"])[:60]
    ours = jax.jit(jax.vmap(functools.partial(coded, quality=jnp.asarray(10), subsampled=True)))(images)
    theirs = np.stack([through_pillow(image, 10, True)[0] for image in images])
    ours = np.clip(np.round(np.asarray(ours) * 127.5 + 127.5), 0, 255).astype(np.uint8)
    found = [float(jnp.mean(metrics.psnr(side, images))) for side in (ours, theirs)]
    assert abs(found[0] - found[1]) < 0.01


def test_a_flat_block_comes_back_as_it_was_and_compression_is_nearly_idempotent():
    flat = np.full((16, 16, 1), 77, np.uint8)
    assert np.array_equal(through_ours(flat, 100, True).round(), flat)
    once = np.round(through_ours(pictures()[0], 50, False)).astype(np.uint8)
    assert np.mean(np.abs(through_ours(once, 50, False) - once)) < 1


def test_a_range_of_quality_is_drawn_for_each_image():
    image = jnp.broadcast_to(data.to_unit_range(jnp.asarray(pictures()[0])), (40, 64, 64, 3))
    degrade = functools.partial(degradations.jpeg, quality=(5, 95))
    found = jax.jit(jax.vmap(degrade))(image, jax.random.split(KEY, 40))
    errors = np.sqrt(np.mean((np.asarray(found) - np.asarray(image)) ** 2, axis=(1, 2, 3)))
    assert errors.max() > 3 * errors.min()
    with pytest.raises(TypeError, match="must be a random key"):
        degrade(image[0])


def test_rounding_straight_through_gives_the_same_pixels_and_a_derivative():
    image = data.to_unit_range(jnp.asarray(pictures()[0]))
    degrade = functools.partial(degradations.jpeg, quality=50)

    def with_slope(rounding, image):
        total = jax.jit(jax.value_and_grad(lambda x: (jnp.sum(y := degrade(x, rounding=rounding)), y), has_aux=True))
        (_, found), slope = total(image)
        return found, slope

    nearest, straight = (with_slope(r, image) for r in (compression.to_nearest, compression.straight_through))
    assert np.array_equal(nearest[0], straight[0]) and not np.any(nearest[1])
    inside = 0.9 * image  # where nothing is cut the derivative is that of the identity
    assert float(jnp.median(with_slope(compression.straight_through, inside)[1])) == pytest.approx(1.0, abs=0.01)
    assert np.any(with_slope(compression.cubic_rounding, inside)[1])


@pytest.mark.parametrize("quality", [0, 101, -3, (0, 50), (60, 50)])
def test_a_quality_that_there_is_not_is_refused(quality):
    with pytest.raises(ValueError, match="the quality of a JPEG is from 1 to 100, not"):
        degradations.jpeg(jnp.zeros((8, 8, 3)), KEY, quality=quality)


def test_two_channels_are_refused():
    with pytest.raises(ValueError, match=r"1 channel \(grey\) or 3 \(RGB\), not 2"):
        degradations.jpeg(jnp.zeros((8, 8, 2)))
