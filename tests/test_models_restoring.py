"""Networks of restoration and super-resolution: published sizes, shuffled pixels, reach, scaling, identities."""

import functools
import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models import (
    dncnn,
    drunet,
    edsr,
    nafnet,
    pixel_shuffle,
    rcan,
    restoring,
    rrdb,
    srcnn,
    srresnet,
    unet_discriminator,
    vgg_discriminator,
)
from jaxgen.network import count_parameters

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY, RNG = jax.random.key(0), np.random.default_rng(0)

DNCNN, NAFNET = dncnn.DnCNN, nafnet.NAFNet
SIDD = {"encoder": (2, 2, 4, 8), "middle": 12, "decoder": (2, 2, 2, 2)}
GOPRO = {"encoder": (1, 1, 1, 28), "middle": 1, "decoder": (1, 1, 1, 1)}
SLOW = pytest.mark.slow
ONES = {"encoder": (1, 1, 1), "middle": 1, "decoder": (1, 1, 1)}
LARGE = {"features": 256, "blocks": 32, "residual_scale": 0.1}


def shapes(module, shape):
    """(output, variables) as shapes, without computing anything."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x, train=True), x)


def drawn(module, shape, seed=0):
    """Variables none of which is 0."""
    rng = np.random.default_rng(seed)
    _, variables = shapes(module, shape)
    variables = jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), variables)
    flat = flax.traverse_util.flatten_dict(variables)
    return flax.traverse_util.unflatten_dict({path: x**2 if path[-1] == "var" else x for path, x in flat.items()})


@functools.partial(jax.jit, static_argnums=0)
def apply(module, variables, x):
    return module.apply(variables, x, train=False)


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "channels", "scale", "count"),
    [
        (srcnn.SRCNN(2, 1, kernel_sizes=(9, 1, 5)), 1, 2, 8_129),
        (srcnn.SRCNN(3, 1), 1, 3, 57_281),
        (srcnn.SRCNN(4), 3, 4, 69_251),
        (edsr.EDSR(2), 3, 2, 1_369_859),
        (edsr.EDSR(3), 3, 3, 1_554_499),
        (edsr.EDSR(4), 3, 4, 1_517_571),
        (edsr.EDSR(2, **LARGE), 3, 2, 40_729_603),
        pytest.param(edsr.EDSR(4, **LARGE), 3, 4, 43_089_923, marks=SLOW),
        pytest.param(edsr.MSRResNet(2), 3, 2, 1_369_859, marks=SLOW),
        (edsr.MSRResNet(4), 3, 4, 1_517_571),
        (srresnet.SRResNet(4), 3, 4, 1_547_350),
        pytest.param(rcan.RCAN(2), 3, 2, 15_444_643, marks=SLOW),
        (rcan.RCAN(4), 3, 4, 15_592_355),
        pytest.param(rrdb.RRDBNet(4), 3, 4, 16_697_987, marks=SLOW),
        (rrdb.RRDBNet(2), 3, 2, 16_703_171),
        (DNCNN(), 1, 1, 557_057),
        (DNCNN(biases="without_norm"), 1, 1, 556_097),
        (DNCNN(biases="nowhere"), 1, 1, 556_032),
        (DNCNN(batch_norm=False), 1, 1, 555_137),
        pytest.param(DNCNN(layers=20, batch_norm=False), 1, 1, 665_921, marks=SLOW),
        pytest.param(DNCNN(layers=20, batch_norm=False), 3, 1, 668_227, marks=SLOW),
        (DNCNN(layers=20), 3, 1, 670_531),
        (DNCNN(layers=20, batch_norm=False, biases="nowhere"), 1, 1, 664_704),
        pytest.param(drunet.DRUNet(1), 2, 1, 32_638_656, marks=SLOW),
        (drunet.DRUNet(3), 4, 1, 32_640_960),
        (NAFNET(width=16, **ONES), 3, 1, 288_691),
        (NAFNET(**SIDD), 3, 1, 29_159_715),
        pytest.param(NAFNET(width=64, **SIDD), 3, 1, 115_982_915, marks=SLOW),
        pytest.param(NAFNET(width=64, **GOPRO), 3, 1, 67_888_835, marks=SLOW),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, flax.linen.Module) else str(value),
)
def test_networks_have_as_many_parameters_as_the_published_ones_and_take_any_size(module, channels, scale, count):
    output, variables = shapes(module, (2, 13, 10, channels))
    assert count_parameters(variables["params"]) == count
    outputs = getattr(module, "channels", channels)
    assert (output.shape, output.dtype) == ((2, 13 * scale, 10 * scale, outputs), jnp.float32)


def test_discriminators_have_as_many_parameters_as_the_published_ones():
    logits, variables = shapes(vgg_discriminator.VGGDiscriminator(), (2, 128, 128, 3))
    assert logits.shape == (2,) and count_parameters(variables["params"]) == 14_499_401
    logits, variables = shapes(unet_discriminator.UNetDiscriminator(), (2, 64, 40, 3))
    assert logits.shape == (2, 64, 40) and count_parameters(variables["params"]) == 4_376_897
    assert len(flax.traverse_util.flatten_dict(variables["spectral_norm"])) == 8  # all but the first and the last
    with pytest.raises(ValueError, match="needs at least 32 pixels, not 16x16; give fewer --halvings"):
        shapes(vgg_discriminator.VGGDiscriminator(), (2, 16, 16, 3))
    with pytest.raises(ValueError, match="multiples of 8 pixels, not 20x24"):
        shapes(unet_discriminator.UNetDiscriminator(), (2, 20, 24, 3))


def test_a_scale_without_a_network_is_one_sentence():
    with pytest.raises(ValueError, match="enlarge by 3 or by powers of two .*, not by 6"):
        shapes(edsr.EDSR(6), (1, 8, 8, 3))
    with pytest.raises(ValueError, match="enlarges by 1, 2 or 4, not by 3"):
        shapes(rrdb.RRDBNet(3), (1, 8, 8, 3))
    with pytest.raises(ValueError, match="encoder has 3 numbers of blocks, decoder 2"):
        shapes(NAFNET(encoder=(1, 1, 1), decoder=(1, 1)), (1, 8, 8, 3))


# Pixels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_shuffled_channel_is_a_pixel_of_a_block_in_the_order_of_pytorch(factor):
    x = RNG.normal(size=(2, 3, 4, 5 * factor**2)).astype(np.float32)
    found = pixel_shuffle.pixel_shuffle(jnp.asarray(x), factor)
    assert found.shape == (2, 3 * factor, 4 * factor, 5)
    for c, i, j in np.ndindex(5, factor, factor):
        np.testing.assert_array_equal(found[:, i::factor, j::factor, c], x[..., c * factor**2 + i * factor + j])
    np.testing.assert_array_equal(pixel_shuffle.pixel_unshuffle(found, factor), x)
    np.testing.assert_array_equal(
        pixel_shuffle.pixel_shuffle(pixel_shuffle.pixel_unshuffle(found, factor), factor), found
    )


def test_the_order_of_tensorflow_is_another_permutation():
    x = jnp.asarray(RNG.normal(size=(1, 2, 2, 8)), jnp.float32)
    theirs = x.reshape(1, 2, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(1, 4, 4, 2)  # (r, r, c)
    ours = pixel_shuffle.pixel_shuffle(x, 2)
    assert not np.array_equal(ours, theirs)
    np.testing.assert_array_equal(np.sort(np.ravel(ours)), np.sort(np.ravel(theirs)))


def test_pixels_that_do_not_fit_are_one_sentence():
    with pytest.raises(ValueError, match="from 4 C channels, not from 6"):
        pixel_shuffle.pixel_shuffle(jnp.zeros((1, 2, 2, 6)), 2)
    with pytest.raises(ValueError, match="sides that are multiples of it, not 3x4"):
        pixel_shuffle.pixel_unshuffle(jnp.zeros((1, 3, 4, 1)), 2)


def test_the_discriminators_maps_are_enlarged_by_bilinear_interpolation_with_repeated_edges():
    x = jnp.asarray(RNG.normal(size=(2, 3, 5, 2)), jnp.float32)
    expected = jax.image.resize(x, (2, 6, 10, 2), "linear")
    np.testing.assert_allclose(unet_discriminator.bilinear(x), expected, atol=1e-6)


def test_images_of_any_size_are_padded_by_their_edges_and_cut_again():
    x = jnp.asarray(RNG.normal(size=(2, 5, 8, 1)), jnp.float32)
    seen = []

    def run(x):
        seen.append(x)
        return restoring.enlarged(x, 2, "nearest")

    found = restoring.at_multiples(run, x, 4, 2)
    assert seen[0].shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(seen[0][:, 5:], jnp.repeat(x[:, 4:], 3, axis=1))
    np.testing.assert_array_equal(found, jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))
    assert restoring.at_multiples(lambda x: x, x[:, :4], 4).shape == (2, 4, 8, 1)


# What an output depends on --------------------------------------------------------------------------------------------


def reach(module, channels, scale, size):
    """How many pixels of the source from its own an output pixel sees, measured where no weight is negative."""
    x = jnp.ones((1, size, size, channels), jnp.float64)
    _, variables = shapes(module, x.shape)
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1, jnp.float64), variables)
    middle = size // 2

    def seen(x):
        output = module.apply(variables, x, train=False)
        return jnp.sum(output[:, middle * scale : (middle + 1) * scale, middle * scale : (middle + 1) * scale])

    rows = np.flatnonzero(np.abs(np.asarray(jax.jit(jax.grad(seen))(x))).sum((0, 2, 3)))
    assert rows[0] > 0 and rows[-1] < size - 1  # otherwise the image is too small to tell
    assert middle - rows[0] == rows[-1] - middle
    return middle - rows[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "scale", "radius"),
    [
        (srcnn.SRCNN(1, 1, (2, 2), (9, 1, 5)), 1, 6),
        (edsr.EDSR(4, 1, 2, 1), 4, 1 + 2 + 1 + 1 + 1 / 2 + 1 / 4),  # 16 blocks: 35.75
        (edsr.EDSR(2, 1, 2, 2), 2, 1 + 4 + 1 + 1 + 1 / 2),
        (edsr.MSRResNet(4, 1, 2, 1), 4, 1 + 2 + 1 + 1 / 2 + 2 / 4),  # 16 blocks: 35
        pytest.param(rrdb.RRDBNet(4, 1, 2, 1, 1), 4, 1 + 15 + 1 + 1 / 2 + 3 / 4, marks=SLOW),  # 23 blocks: 348.25
        (DNCNN(2, 5), 1, 5),
    ],
    ids=["srcnn", "edsr-x4", "edsr-x2", "msrresnet-x4", "rrdb-x4", "dncnn"],
)
def test_an_output_sees_as_far_as_the_sum_of_half_kernels_each_divided_by_the_scale_there(
    double_precision, module, scale, radius
):
    assert reach(module, 1, scale, 2 * math.ceil(radius) + 3) == math.ceil(radius)


def test_attention_over_channels_sees_the_whole_image(double_precision):
    with pytest.raises(AssertionError):
        reach(rcan.RCAN(2, 1, 2, 1, 1, 2), 1, 2, 25)


# Identities -----------------------------------------------------------------------------------------------------------


def test_a_network_without_biases_scales_with_its_input():
    x = jnp.asarray(RNG.normal(size=(2, 9, 11, 2)), jnp.float32)
    for module in (DNCNN(3, 4, False, "nowhere"), drunet.DRUNet(1, (2, 3), 1)):
        variables = drawn(module, x.shape)
        found, tripled = (apply(module, variables, a * x) for a in (1.0, 3.0))
        assert float(jnp.abs(found).max()) > 0.1
        np.testing.assert_allclose(tripled, 3 * found, rtol=1e-4, atol=1e-4)
    biased = DNCNN(3, 4, False)
    variables = drawn(biased, x.shape)
    assert not np.allclose(apply(biased, variables, 3 * x), 3 * apply(biased, variables, x), rtol=1e-2)


def test_a_nafnet_whose_last_convolution_is_zero_is_the_identity_to_the_bit():
    module = NAFNET(channels=3, width=4, encoder=(1, 1), middle=1, decoder=(1, 1))
    x = jnp.asarray(RNG.normal(size=(2, 7, 10, 3)), jnp.float32)
    variables = drawn(module, x.shape)
    assert float(jnp.abs(apply(module, variables, x) - x).max()) > 0.1
    variables["params"]["output"] = jax.tree.map(jnp.zeros_like, variables["params"]["output"])
    np.testing.assert_array_equal(apply(module, variables, x), x)


def test_a_new_block_of_nafnet_is_the_identity_and_its_branches_weigh_what_beta_and_gamma_say():
    block = nafnet.NAFBlock()
    x = jnp.asarray(RNG.normal(size=(2, 5, 5, 4)), jnp.float32)
    variables = jax.jit(lambda x: block.init(KEY, x))(x)
    np.testing.assert_array_equal(jax.jit(block.apply)(variables, x), x)

    def moved(beta, gamma):
        params = variables["params"] | {"beta": jnp.full(4, beta), "gamma": jnp.full(4, gamma)}
        return jax.jit(block.apply)({"params": params}, x) - x

    np.testing.assert_allclose(moved(2.0, 0.0), 2 * moved(1.0, 0.0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moved(0.0, 2.0), 2 * moved(0.0, 1.0), rtol=1e-4, atol=1e-5)


def test_a_normalisation_becomes_part_of_the_convolution_before_it():
    x = jnp.asarray(RNG.normal(size=(2, 6, 6, 1)), jnp.float32)
    for biases in ("everywhere", "without_norm", "nowhere"):
        variables = drawn(DNCNN(4, 4, biases=biases), x.shape)
        assert set(variables["batch_stats"]) == {"BatchNorm_0", "BatchNorm_1"}
        expected = apply(DNCNN(4, 4, biases=biases), variables, x)
        together = dncnn.merged(variables)
        np.testing.assert_allclose(apply(DNCNN(4, 4, False), together, x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="nothing to merge"):
        dncnn.merged(together)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.slow
def test_a_signal_comes_through_all_layers_of_a_dncnn_before_it_is_trained(batch_norm):
    model = DNCNN(features=16, layers=17, batch_norm=batch_norm)
    image = jnp.asarray(RNG.uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)
    variables = model.init(KEY, image, train=False)

    def found(params):
        out, _ = model.apply(variables | {"params": params}, image, train=True, mutable=["batch_stats"])
        return image - out

    assert 0.01 < float(jnp.std(found(variables["params"]))) < 2
    gradient = jax.grad(lambda params: jnp.sum(found(params) ** 2))(variables["params"])
    first, last = (float(jnp.linalg.norm(gradient[f"Conv_{i}"]["kernel"])) for i in (0, 16))
    assert first > 0.01 * last > 0


def test_channel_attention_multiplies_maps_by_numbers_between_zero_and_one():
    module = rcan.ChannelAttention(2)
    x = jnp.asarray(RNG.normal(size=(2, 3, 3, 4)), jnp.float32)
    p = jax.tree.map(
        lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape), jnp.float32), jax.eval_shape(module.init, KEY, x)
    )["params"]
    y = np.maximum(np.asarray(x).mean((1, 2)) @ p["Conv_0"]["kernel"][0, 0] + p["Conv_0"]["bias"], 0)
    share = 1 / (1 + np.exp(-(y @ p["Conv_1"]["kernel"][0, 0] + p["Conv_1"]["bias"])))
    np.testing.assert_allclose(module.apply({"params": p}, x), x * share[:, None, None], rtol=1e-4, atol=1e-6)


def test_a_network_with_levels_of_255_and_a_mean_is_its_inside_between_two_affine_maps():
    """EDSR(x) = inside(127.5 (x - c)) / 127.5 + c: without a last layer it is the mean colour."""
    module = edsr.EDSR(2, 3, 4, 1)
    x = jnp.asarray(RNG.uniform(-1, 1, (1, 4, 4, 3)), jnp.float32)
    variables = drawn(module, x.shape)
    variables["params"]["Conv_2"] = jax.tree.map(jnp.zeros_like, variables["params"]["Conv_2"])
    mean = 2 * np.array(edsr.DIV2K_MEAN) - 1
    np.testing.assert_allclose(apply(module, variables, x), np.broadcast_to(mean, (1, 8, 8, 3)), rtol=1e-6)
    np.testing.assert_allclose(edsr.centre_of(edsr.DIV2K_MEAN, 1), [mean.mean()], rtol=1e-5)


def test_a_dense_block_convolves_all_that_it_has_found_and_counts_a_fifth():
    block = rrdb.DenseBlock(2)
    x = jnp.asarray(RNG.normal(size=(2, 4, 4, 3)), jnp.float32)
    p = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * RNG.normal(size=leaf.shape), jnp.float32), jax.eval_shape(block.init, KEY, x)
    )["params"]
    found = x
    for i in range(5):
        y = jax.lax.conv_general_dilated(
            found, p[f"Conv_{i}"]["kernel"], (1, 1), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = y + p[f"Conv_{i}"]["bias"]
        found = jnp.concatenate([found, jnp.maximum(y, 0.2 * y)], axis=-1) if i < 4 else y
    np.testing.assert_allclose(jax.jit(block.apply)({"params": p}, x), x + 0.2 * found, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_blocks_of_a_loop_are_stacked_and_their_order_counts():
    module = rrdb.RRDBNet(4, 1, 3, 2, 2)
    x = jnp.asarray(RNG.normal(size=(1, 4, 4, 1)), jnp.float32)
    variables = drawn(module, x.shape)
    stacked = variables["params"]["blocks"]
    assert stacked["DenseBlock_0"]["Conv_0"]["kernel"].shape == (2, 3, 3, 3, 2)
    other = {"params": variables["params"] | {"blocks": jax.tree.map(lambda leaf: leaf[::-1], stacked)}}
    assert not np.allclose(apply(module, variables, x), apply(module, other, x), rtol=1e-3)
