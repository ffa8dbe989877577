"""Tiles: with the overlap that the gradient tells they are the whole, with a pixel less they are not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.tree_util import Partial

from jaxgen.editing import tiling
from jaxgen.models.convolution import Conv, ConvTranspose

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY = jax.random.key(4)


class Residual(nn.Module):
    """A small stack of the form of EDSR: residual blocks of 3x3 convolutions, enlarged by a pixel shuffle."""

    blocks: int = 2
    scale: int = 2
    width: int = 6

    @nn.compact
    def __call__(self, x):
        x = head = Conv(self.width, 3, padding=1)(x)
        for _ in range(self.blocks):
            x = x + Conv(self.width, 3, padding=1)(nn.relu(Conv(self.width, 3, padding=1)(x)))
        x = head + Conv(self.width, 3, padding=1)(x)
        if self.scale > 1:
            s = self.scale
            x = Conv(self.width * s * s, 3, padding=1)(x)
            n, h, w, _ = x.shape
            x = x.reshape(n, h, w, s, s, -1).transpose(0, 1, 3, 2, 4, 5).reshape(n, s * h, s * w, -1)
        return Conv(3, 3, padding=1)(x)


class Strided(nn.Module):
    """Halves and doubles the size."""

    @nn.compact
    def __call__(self, x):
        y = nn.relu(Conv(6, 4, 2, 1)(x))
        return ConvTranspose(3, 4, 2, 1)(y) + Conv(3, 3, padding=1)(x)


def function_of(module, channels=3, size=16):
    variables = jax.jit(module.init)(KEY, jnp.zeros((1, size, size, channels)))
    return Partial(module.apply, variables)


def image_of(height, width, channels=3):
    return np.asarray(jax.random.uniform(KEY, (height, width, channels), minval=-1))


def compiled(function):
    run = jax.jit(lambda f, x: f(x))
    return lambda x: run(function, x)


# 1 + 2 blocks of 2 + 1 pixels at the input's size; enlarged, 1 more, and the last one counts half.
@pytest.mark.parametrize("blocks, scale, radius", [(1, 2, 6), pytest.param(2, 1, 7, marks=pytest.mark.slow)])
def test_the_radius_of_an_edsr_is_that_of_its_layers_and_tiles_are_exact_from_it_on(blocks, scale, radius):
    function = function_of(Residual(blocks, scale))
    field = tiling.field_of(function, 3, key=KEY)
    assert field == tiling.Field(radius, 1, 1, scale, 3)
    side = 2 * radius + 12
    image, run = image_of(side + 24, side + 12), compiled(function)  # all tiles are of this size
    whole = np.asarray(run(image[None])[0])
    np.testing.assert_allclose(tiling.tiled(run, image, field, side=side), whole, atol=1e-5)
    np.testing.assert_array_equal(tiling.tiled(run, image, field), whole)  # a tile that holds all of it
    less = field._replace(radius=radius - 1)
    assert np.max(np.abs(tiling.tiled(run, image, less, side=side - 2) - whole)) > 1e-5


def test_a_network_with_a_stride_is_tiled_at_its_multiples():
    function = function_of(Strided())
    field = tiling.field_of(function, 3, key=KEY)
    assert (field.multiple, field.align, field.scale) == (2, 2, 1) and field.radius % 2 == 0
    image, run = image_of(60, 46), compiled(function)
    whole = np.asarray(run(image[None])[0])
    np.testing.assert_allclose(tiling.tiled(run, image, field, side=20), whole, atol=1e-5)
    unaligned = field._replace(align=1)  # the second tile would begin at pixel 9
    with pytest.raises(TypeError):
        tiling.tiled(run, image, unaligned, side=2 * field.radius + 9)


def test_an_odd_size_is_padded_by_mirroring_and_cropped_again():
    function = function_of(Strided())
    field = tiling.field_of(function, 3, key=KEY)
    image, run = image_of(31, 45), compiled(function)
    padded = tiling.padded(image, 2)
    assert padded.shape == (32, 46, 3)
    np.testing.assert_array_equal(padded[:31, :45], image)
    np.testing.assert_array_equal(padded[31], padded[29])
    np.testing.assert_allclose(
        tiling.tiled(run, image, field, side=16), np.asarray(run(padded[None])[0])[:31, :45], atol=1e-5
    )


def test_one_that_pads_by_itself_takes_any_size_and_is_still_tiled_at_its_stride():
    inner = function_of(Strided())

    def function(x):
        h, w = x.shape[1:3]
        return inner(jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0))))[:, :h, :w]

    field = tiling.field_of(function, 3, key=KEY)
    assert (field.multiple, field.align) == (1, 2)
    image, run = image_of(37, 51), jax.jit(function)
    np.testing.assert_allclose(tiling.tiled(run, image, field, side=18), np.asarray(run(image[None])[0]), atol=1e-5)


def instance_norm(x):
    x = x - jnp.mean(x, axis=(1, 2), keepdims=True)
    return x / jnp.sqrt(jnp.mean(x**2, axis=(1, 2), keepdims=True) + 1e-5)


@pytest.mark.parametrize(
    "function",
    [
        instance_norm,
        lambda x: x * jax.nn.sigmoid(jnp.mean(x, axis=(1, 2), keepdims=True)),  # squeeze and excitation
        lambda x: jnp.fft.irfft2(nn.relu(jnp.fft.rfft2(x, axes=(1, 2)).real) + 0j, x.shape[1:3], axes=(1, 2)),
    ],
)
def test_what_sees_everything_is_refused_with_the_reason(function):
    with pytest.raises(tiling.SeesEverything, match="sees further than 32 pixels, or everything .a norm or a pooling"):
        tiling.field_of(function, 1, key=KEY, most=32)


def test_what_knows_where_it_is_or_draws_noise_is_refused():
    def noisy(x):
        return x + jax.random.normal(KEY, x.shape)

    with pytest.raises(ValueError, match="it draws noise, knows where it is"):
        tiling.field_of(noisy, 1, key=KEY)


def test_what_is_not_for_any_size_is_refused_with_what_it_says():
    def fixed(x):
        if x.shape[1:3] != (28, 28):
            raise ValueError(f"only 28x28, not {x.shape[1]}x{x.shape[2]}")
        return x

    with pytest.raises(ValueError, match="not for images of any size: only 28x28"):
        tiling.field_of(fixed, 1, key=KEY)
    with pytest.raises(ValueError, match=r"become an array of \[16, 48, 1\]"):
        tiling.sizes_of(lambda x: x[:, ::4, ::4], 1)


def test_targets_of_tiles_cover_the_output_once_and_keep_away_from_inner_edges():
    field = tiling.Field(radius=8, multiple=4, align=4, scale=3, channels=1)
    count = np.zeros((3 * 100, 3 * 64), int)
    for tile in tiling.tiles(100, 64, field, side=37):
        count[tile.target] += 1
        for (source, kept, target), length in zip(zip(*tile, strict=True), (100, 64), strict=True):
            assert source.stop - source.start <= 36 and source.start % 4 == 0
            assert target.start == 3 * source.start + kept.start and target.stop == 3 * source.start + kept.stop
            assert source.start == 0 or kept.start >= 24
            assert source.stop == length or 3 * (source.stop - source.start) - kept.stop >= 24
    assert count.min() == count.max() == 1
    with pytest.raises(ValueError, match="at least 20, better 36"):
        tiling.tiles(100, 64, field, side=16)
    with pytest.raises(ValueError, match="no multiples of 4"):
        tiling.tiles(99, 64, field)


def test_an_activation_that_is_off_hides_no_path():
    def thrice(x):  # sees two pixels to each side, but only where all between are positive
        for _ in range(2):
            x = jnp.minimum(jnp.roll(x, 1, axis=2), jnp.roll(x, -1, axis=2)) + x
        return x

    assert (
        tiling.field_of(
            lambda x: jnp.pad(thrice(x)[:, :, 2:-2], ((0, 0), (0, 0), (2, 2), (0, 0))), 1, key=KEY, num_probes=6
        ).radius
        == 2
    )


def test_dataclass_modules_are_not_baked_into_the_program():
    function = function_of(Residual(1, 1, 64))
    assert dataclasses.is_dataclass(Residual)
    text = jax.jit(lambda f, x: f(x)).lower(function, jnp.zeros((1, 16, 16, 3))).as_text()
    assert len(text) < 200_000
