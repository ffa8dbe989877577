"""Layers and networks that fill holes: what they see, what they keep, and how many parameters they have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.losses import completion as losses
from jaxgen.models import context_encoder, contextual_attention, fourier_convolution, gated, lama, partial_convolution
from jaxgen.models.convolution import Conv

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY, RNG = jax.random.key(0), np.random.default_rng(0)


def drawn(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


# Fourier convolutions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (6, 5), (1, 3), (3, 1)])
def test_a_spectrum_goes_back_to_its_map_for_odd_sides_too_and_keeps_its_energy(size):
    x = drawn(2, *size, 3)
    found = fourier_convolution.spectrum(x)
    assert found.shape == (2, size[0], size[1] // 2 + 1, 6)
    np.testing.assert_allclose(fourier_convolution.from_spectrum(found, size), x, atol=1e-5)
    whole = np.fft.fft2(np.asarray(x), axes=(1, 2), norm="ortho")
    np.testing.assert_allclose((np.abs(whole) ** 2).sum(), (np.asarray(x) ** 2).sum(), rtol=1e-4)
    np.testing.assert_allclose(found[..., :3], whole.real[:, :, : size[1] // 2 + 1], atol=1e-5)


def test_a_spectral_transform_sees_the_whole_map_and_does_not_commute_with_shifts():
    x = drawn(1, 16, 15, 12)
    layer = fourier_convolution.SpectralTransform(12)
    variables = layer.init(KEY, x, train=False)
    run = jax.jit(lambda x: layer.apply(variables, x, train=False))
    seen = jax.grad(lambda x: jnp.sum(run(x)[0, 8, 7] * jnp.arange(1.0, 13.0)))(x)
    assert float(jnp.mean(jnp.any(seen != 0, axis=-1))) > 0.8
    shifted = jnp.roll(run(x), (3, 2), axis=(1, 2)) - run(jnp.roll(x, (3, 2), axis=(1, 2)))
    assert float(jnp.abs(shifted).max()) > 1e-3


def test_without_a_global_part_a_fourier_convolution_is_a_convolution_and_parts_add_up_to_its_features():
    x, layer = drawn(1, 8, 8, 3), fourier_convolution.FourierConv(8, share=0.75)
    (near, far), variables = layer.init_with_output(KEY, (x, None), train=False)
    assert near.shape == (1, 8, 8, 2) and far.shape == (1, 8, 8, 6)
    plain = fourier_convolution.FourierConv(8, share=0.0)
    (near, far), variables = plain.init_with_output(KEY, (x, None), train=False)
    reflected = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    conv = Conv(8, 3, use_bias=False).apply({"params": variables["params"]["Conv_0"]}, reflected)
    assert far is None
    np.testing.assert_allclose(near, nn.relu(conv / np.sqrt(1 + 1e-5)), atol=1e-5)


def test_lamas_generator_refuses_sides_that_it_cannot_halve():
    model = lama.LaMa(features=2, halvings=2, blocks=1)
    shape = jax.eval_shape(lambda x: model.init_with_output(KEY, x, train=False)[0], jnp.zeros((1, 20, 16, 4)))
    assert shape.shape == (1, 20, 16, 3) and shape.dtype == jnp.float32
    with pytest.raises(ValueError, match="multiples of 4, not 18x16"):
        jax.eval_shape(lambda x: model.init(KEY, x, train=False), jnp.zeros((1, 18, 16, 4)))


# Partial convolutions -------------------------------------------------------------------------------------------------


def test_what_is_missing_has_no_gradient_and_is_closed_from_its_border_on():
    x, known = drawn(1, 12, 12, 3), jnp.ones((1, 12, 12, 1)).at[:, 4:8, 4:8].set(0)
    layer = partial_convolution.PartialConv(5)
    variables = layer.init(KEY, x, known)

    def twice(x, known):
        sizes, again = [], partial_convolution.PartialConv(5)
        y, known = layer.apply(variables, x, known)
        sizes.append(int(jnp.sum(known == 0)) if not isinstance(known, jax.core.Tracer) else 0)
        y, known = again.apply(again.init(KEY, y, known), y, known)
        return y, known, sizes

    y, after, sizes = twice(x, known)
    assert sizes == [2 * 2] and int(jnp.sum(after == 0)) == 0
    seen = jax.grad(lambda x: jnp.sum(jnp.square(twice(x, known)[0])))(x)
    assert np.all(np.asarray(seen)[:, 4:8, 4:8] == 0) and np.any(np.asarray(seen) != 0)


def test_with_all_known_it_is_a_convolution_inside_three_halves_of_it_at_edges_and_nine_quarters_in_corners():
    x = drawn(1, 6, 7, 3)
    layer = partial_convolution.PartialConv(4, use_bias=False)
    variables = layer.init(KEY, x, jnp.ones((1, 6, 7, 1)))
    y, known = layer.apply(variables, x, jnp.ones((1, 6, 7, 1)))
    plain = Conv(4, 3, padding=1, use_bias=False).apply({"params": variables["params"]["Conv_0"]}, x)
    factor = np.ones((6, 7))
    factor[[0, -1]] *= 1.5
    factor[:, [0, -1]] *= 1.5
    np.testing.assert_allclose(y, plain * factor[None, :, :, None], rtol=1e-4, atol=1e-5)
    assert np.all(np.asarray(known) == 1)


def test_a_window_without_a_known_pixel_is_0_and_channels_may_be_known_apart():
    x, known = drawn(1, 5, 5, 2), jnp.zeros((1, 5, 5, 1))
    layer = partial_convolution.PartialConv(3)
    variables = layer.init(KEY, x, known)
    variables = {"params": variables["params"] | {"bias": jnp.ones(3)}}
    y, after = layer.apply(variables, x, known)
    assert np.all(np.asarray(y) == 0) and np.all(np.asarray(after) == 0)
    half = jnp.ones((1, 5, 5, 2)).at[..., 1].set(0)
    one = {"params": {"Conv_0": {"kernel": variables["params"]["Conv_0"]["kernel"][:, :, :1]}, "bias": jnp.ones(3)}}
    alone, _ = layer.apply(one, x[..., :1], jnp.ones((1, 5, 5, 1)))
    y, _ = layer.apply(variables, x, half)
    np.testing.assert_allclose(y - 1, 2 * (alone - 1), rtol=1e-4, atol=1e-5)  # half of the entries are known


# Gated convolutions and contextual attention --------------------------------------------------------------------------


def test_with_its_gate_open_a_gated_convolution_is_a_convolution_and_with_it_shut_nothing():
    x, layer = drawn(1, 8, 8, 3), gated.GatedConv(4)
    params = layer.init(KEY, x)["params"]["Conv_0"]
    plain = Conv(4, 3, padding=1).apply({"params": {"kernel": params["kernel"][..., :4], "bias": jnp.zeros(4)}}, x)
    for gate, expected in ((jnp.inf, nn.elu(plain)), (-jnp.inf, jnp.zeros_like(plain))):
        bias = jnp.zeros(8).at[4:].set(gate)
        found = layer.apply({"params": {"Conv_0": {"kernel": params["kernel"], "bias": bias}}}, x)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("rate", [2, 3, 8])
def test_a_convolution_of_every_nth_pixel_is_a_dilated_one(rate):
    x, kernel = drawn(2, 10, 9, 3), drawn(3, 3, 3, 4)
    conv = Conv(4, 3, padding=1, use_bias=False)
    found = gated.at_rate(lambda x: conv.apply({"params": {"kernel": kernel}}, x), x, rate)
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(rate, rate)] * 2,
        rhs_dilation=(rate, rate),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_pasting_is_the_adjoint_of_cutting_patches():
    x, y = drawn(2, 8, 6, 3), drawn(2, 4, 3, 16, 3)
    cut = contextual_attention.patches(x, 4, 2, 1)
    assert cut.shape == y.shape
    back = contextual_attention.pasted(y, x.shape, 4, 2, 1)
    np.testing.assert_allclose(jnp.sum(cut * y), jnp.sum(x * back), rtol=1e-4)


@pytest.mark.slow
def test_contextual_attention_makes_holes_of_a_periodic_map_whole_and_takes_nothing_from_them():
    tile = drawn(1, 4, 4, 8)
    x = jnp.tile(tile, (1, 8, 8, 1))
    mask = jnp.zeros((1, 32, 32, 1)).at[:, 14:18, 14:18].set(1)
    found = contextual_attention.contextual_attention(x, mask, scale=1000.0)
    inner = np.s_[:, 8:24, 8:24]
    np.testing.assert_allclose(found[inner], x[inner], atol=1e-3)
    seen = jax.grad(lambda pasted: jnp.sum(contextual_attention.contextual_attention(pasted, jnp.ones_like(mask))))(x)
    assert np.all(np.asarray(seen) == 0)  # nothing is known, nothing is pasted
    with pytest.raises(ValueError, match="31x32 cannot be halved"):
        contextual_attention.contextual_attention(x[:, 1:], mask[:, 1:])


def test_scores_of_neighbours_that_go_on_alike_are_added_up():
    scores = jnp.eye(12)[None]  # each place with itself, 3x4
    found = np.asarray(contextual_attention.fused(scores, (3, 4), (3, 4)))[0]
    assert found[5, 5] == 9 and np.all(found - np.diag(np.diag(found)) == 0)
    lone = contextual_attention.fused(jnp.zeros((1, 12, 12)).at[0, 5, 0].set(1.0), (3, 4), (3, 4))
    assert float(lone[0, 6, 1]) == 1 and float(lone[0, 9, 4]) == 1 and float(lone[0, 5, 0]) == 1  # right of it, below


# Context encoder ------------------------------------------------------------------------------------------------------


def test_a_context_encoder_draws_the_middle_of_any_size_that_halves_down_to_four_pixels():
    model = context_encoder.ContextEncoder(2, 4, 3)
    for side in (32, 40):
        shapes = jax.eval_shape(lambda x: model.init_with_output(KEY, x, train=False)[0], jnp.zeros((1, side, 32, 3)))
        assert shapes.shape == (1, side // 2, 16, 3)
    with pytest.raises(ValueError, match="multiples of 8 from 32 on, not 24x32"):
        jax.eval_shape(lambda x: model.init(KEY, x, train=False), jnp.zeros((1, 24, 32, 3)))
    x = drawn(1, 16, 12, 3)
    inside = context_encoder.around(context_encoder.middle(x))
    np.testing.assert_array_equal(inside[:, 4:12, 3:9], x[:, 4:12, 3:9])
    assert float(jnp.abs(inside).sum()) == pytest.approx(float(jnp.abs(x[:, 4:12, 3:9]).sum()), rel=1e-5)


# Losses ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_styles_do_not_know_where_things_are_and_variation_counts_the_hole_and_its_border_alone():
    x, order = drawn(2, 4, 4, 3), RNG.permutation(16)
    moved = x.reshape(2, 16, 3)[:, order].reshape(x.shape)
    assert np.allclose(losses.style([x], [moved]), 0, atol=1e-6)
    assert np.all(np.asarray(losses.of_maps([x], [moved])) > 0.1)
    np.testing.assert_allclose(losses.gram(jnp.ones((1, 2, 2, 2))), np.full((1, 2, 2), 4 / 8))
    image = jnp.zeros((1, 6, 6, 1)).at[0, 2, 2, 0].set(1.0)
    inside, elsewhere = (jnp.zeros((1, 6, 6, 1)).at[0, i, i].set(1) for i in (2, 5))
    np.testing.assert_allclose(losses.total_variation(image, inside), [4 / 36])
    np.testing.assert_allclose(losses.total_variation(image, elsewhere), [0])
    np.testing.assert_allclose(losses.absolute(image, -image, inside), [2 / 36])
