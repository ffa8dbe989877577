"""Networks from image to image: published sizes, what a logit sees, whose statistics normalise, what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen import network
from jaxgen.models import cut, padding, patchgan, resnet_generator, stargan, unet
from jaxgen.models.convolution import Conv
from jaxgen.models.normalisation import Norm, of_each_image

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY, RNG = jax.random.key(0), np.random.default_rng(0)


def counted(module, *shapes):
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    output, variables = jax.eval_shape(lambda *x: module.init_with_output(KEY, *x, train=True), *inputs)
    return output, network.count_parameters(variables["params"])


def made(module, *inputs, train=False):
    """Variables, compiled: one by one the operations take seconds."""
    return jax.jit(lambda *inputs: module.init(KEY, *inputs, train=train))(*inputs)


def images(*shape, scale=1.0):
    return jnp.asarray(scale * RNG.uniform(-1, 1, shape), jnp.float32)


# Sizes ----------------------------------------------------------------------------------------------------------------

RESNET = resnet_generator.ResNetGenerator


@pytest.mark.parametrize(
    "module, side, channels, size",
    [
        (unet.UNet(), 256, 3, 54_413_955),
        (unet.UNet(halvings=6), 64, 3, 29_244_035),
        (unet.UNet(halvings=5), 32, 3, 16_659_075),
        (unet.UNet(norm="instance"), 256, 3, 54_409_603),
        (RESNET(), 256, 3, 11_378_179),
        (RESNET(norm="batch"), 256, 3, 11_383_427),
        (RESNET(1), 256, 1, 11_365_633),
        (RESNET(blur=True), 256, 3, 11_378_179),
        (RESNET(dropout=0.5, residual=True), 256, 3, 11_378_179),
        (RESNET(halvings=4), 64, 3, 182_443_267),
        (RESNET(halvings=4), 64, 36, 182_546_755),
        (resnet_generator.Enhancer(), 64, 36, 182_857_059),
    ],
)
def test_generators_are_of_the_published_sizes_and_return_images_as_large_as_they_are_given(
    module, side, channels, size
):
    output, found = counted(module, (2, side, side, channels))
    assert found == size
    assert output.shape == (2, side, side, module.channels) and output.dtype == jnp.float32


def test_cuts_heads_are_made_with_its_generator_and_are_as_many_as_published():
    x = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: cut.Generator().init(KEY, x, train=True), x)
    found = {name: network.count_parameters(variables["params"][name]) for name in ("translator", "heads")}
    assert found == {"translator": 11_378_179, "heads": 560_384}


@pytest.mark.parametrize("num_domains, size", [(5, 8_430_528), (10, 8_446_208), (2, 8_421_120)])
def test_stargans_generator_grows_by_its_domains_alone(num_domains, size):
    module = stargan.Generator(num_domains)
    told = jax.ShapeDtypeStruct((2, 128, 128, 3), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    output, variables = jax.eval_shape(lambda *told: module.init_with_output(KEY, told, train=True), *told)
    assert network.count_parameters(variables["params"]) == size
    assert output.shape == (2, 128, 128, 3)


@pytest.mark.parametrize(
    "module, shapes, size, logits",
    [
        (patchgan.PatchDiscriminator(), [(2, 256, 256, 3)] * 2, 2_768_705, (2, 30, 30)),
        (patchgan.PatchDiscriminator(norm="instance"), [(2, 256, 256, 3)] * 2, 2_767_809, (2, 30, 30)),
        (patchgan.PatchDiscriminator(norm="instance"), [(2, 256, 256, 3)], 2_764_737, (2, 30, 30)),
        (patchgan.PatchDiscriminator(norm="instance"), [(2, 256, 256, 1)], 2_762_689, (2, 30, 30)),
        (patchgan.PatchDiscriminator(norm="instance", blur=True), [(2, 256, 256, 3)], 2_764_737, (2, 30, 30)),
        (patchgan.PatchDiscriminator(), [(2, 64, 64, 3)] * 2, 2_768_705, (2, 6, 6)),
        (patchgan.PatchDiscriminator(norm="instance"), [(2, 28, 28, 1)], 2_762_689, (2, 1, 1)),
        (patchgan.PixelDiscriminator(), [(2, 256, 256, 3)] * 2, 9_024, (2, 256, 256)),
    ],
)
def test_discriminators_of_patches_are_of_the_published_sizes(module, shapes, size, logits):
    output, found = counted(module, *shapes)
    assert (output.shape, output.dtype, found) == (logits, jnp.float32, size)


def test_two_layers_leave_25_logits_of_a_digit():
    output, _ = counted(patchgan.PatchDiscriminator(num_layers=2), (2, 28, 28, 1))
    assert output.shape == (2, 5, 5)


def test_pix2pixhds_discriminators_judge_two_scales_and_hand_out_their_maps():
    output, size = counted(patchgan.MultiScale(), (2, 128, 128, 3), (2, 128, 128, 36))
    assert size == 5_603_202
    assert [x.shape for x in output.value] == [(2, 19, 19), (2, 11, 11)]
    assert [[m.shape[1:] for m in maps] for maps in output.aux] == [
        [(65, 65, 64), (33, 33, 128), (17, 17, 256), (18, 18, 512)],
        [(33, 33, 64), (17, 17, 128), (9, 9, 256), (10, 10, 512)],
    ]


@pytest.mark.parametrize("side, halvings, num_domains, size", [(128, 6, 5, 44_762_048), (64, 5, 2, 11_163_584)])
def test_stargans_discriminator_is_of_the_published_sizes(side, halvings, num_domains, size):
    output, found = counted(stargan.Discriminator(num_domains, halvings=halvings), (2, side, side, 3))
    assert output.value.shape == (2, 2, 2) and output.aux.shape == (2, num_domains)
    assert found == size


# What a logit sees ----------------------------------------------------------------------------------------------------


def seen_by_one(module, side):
    """How many pixels, along either axis, change a logit in the middle: kernels are positive, so that none cancels."""
    x = jnp.ones((1, side, side, 1))
    variables = jax.eval_shape(lambda x: module.init(KEY, x, train=False), x)
    variables = jax.tree.map(lambda p: jnp.full(p.shape, 0.1), variables)

    def middle(x):
        logits = module.apply(variables, x, train=False)
        return logits[0, logits.shape[1] // 2, logits.shape[2] // 2]

    gradient = np.asarray(jax.jit(jax.grad(middle))(x))[0, :, :, 0] != 0
    return int(gradient.any(1).sum()), int(gradient.any(0).sum())


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "num_layers, pixels",
    [(1, 16), (2, 34), (3, 70), pytest.param(4, 142, marks=SLOW), pytest.param(5, 286, marks=SLOW)],
)
def test_a_logit_sees_so_many_pixels(double_precision, num_layers, pixels):
    module = patchgan.PatchDiscriminator(1, num_layers, "none")
    assert seen_by_one(module, min(512, 32 << num_layers)) == (pixels, pixels)


@pytest.mark.slow
def test_with_filters_a_logit_sees_84_pixels_and_a_pixels_own_logit_sees_it_alone(double_precision):
    assert seen_by_one(patchgan.PatchDiscriminator(1, 3, "none", blur=True), 256) == (84, 84)
    assert seen_by_one(patchgan.PixelDiscriminator(2, "none"), 8) == (1, 1)


# Filters --------------------------------------------------------------------------------------------------------------


def test_means_of_nine_and_filters_keep_what_is_constant_up_to_the_border():
    x = jnp.full((2, 7, 6, 3), 0.7)
    for function, shape in (
        (patchgan.mean_of_nine, (2, 4, 3, 3)),
        (patchgan.blur_and_halve, (2, 4, 3, 3)),
        (resnet_generator.blur_and_double, (2, 14, 12, 3)),
    ):
        found = function(x)
        assert found.shape == shape
        np.testing.assert_allclose(found, 0.7, rtol=1e-6)


def test_filters_are_1_2_1_and_1_3_3_1():
    impulse = jnp.zeros((1, 7, 7, 1)).at[0, 2, 4, 0].set(1.0)
    along = np.array([0, 1, 0, 0]) / 2, np.array([0, 0, 1, 0]) / 2  # at even places 1/2, at odd ones 1/4 on both sides
    np.testing.assert_allclose(patchgan.blur_and_halve(impulse)[0, :, :, 0], np.outer(*along), atol=1e-7)
    odd = jnp.zeros((1, 7, 7, 1)).at[0, 3, 4, 0].set(1.0)
    expected = np.outer(np.array([0, 1, 1, 0]) / 4, along[1])
    np.testing.assert_allclose(patchgan.blur_and_halve(odd)[0, :, :, 0], expected, atol=1e-7)
    doubled = resnet_generator.blur_and_double(impulse)[0, :, :, 0]
    taps = np.array([1, 3, 3, 1]) / 4
    np.testing.assert_allclose(doubled[3:7, 7:11], np.outer(taps, taps), atol=1e-7)
    assert float(doubled.sum()) == pytest.approx(4.0)


def test_nine_pixels_are_averaged_of_those_that_are_there():
    x = images(1, 4, 4, 1)
    found = patchgan.mean_of_nine(x)[0, :, :, 0]
    assert float(found[0, 0]) == pytest.approx(float(x[0, :2, :2].mean()), rel=1e-5)
    assert float(found[1, 1]) == pytest.approx(float(x[0, 1:4, 1:4].mean()), rel=1e-5)


# Normalisation --------------------------------------------------------------------------------------------------------


def test_of_one_image_batch_normalisation_in_training_is_instance_normalisation_with_scale_and_shift():
    x = images(1, 5, 6, 4, scale=3.0)
    batch, instance = Norm("batch"), Norm("affine_instance")
    variables = batch.init(KEY, x, train=True)
    params = {"scale": images(4), "bias": images(4)}
    found, _ = batch.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
    expected = instance.apply({"params": params}, x, train=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_normalised_maps_have_mean_0_and_variance_1_and_no_parameters_unless_they_are_asked_for():
    x = 3 + images(2, 9, 8, 4)
    found = np.asarray(of_each_image(x))
    np.testing.assert_allclose(found.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(found.var((1, 2)), 1, rtol=1e-3)
    assert Norm("instance").init(KEY, x, train=True) == {} and Norm("none").init(KEY, x, train=True) == {}
    np.testing.assert_array_equal(Norm("none").apply({}, x, train=True), x)
    np.testing.assert_array_equal(of_each_image(x[:, :1, :1]), 0)
    with pytest.raises(ValueError, match="one of batch, instance, affine_instance, none, .*not 'layer' with 'image'"):
        Norm("layer").init(KEY, x, train=True)


def test_outside_of_training_statistics_are_each_images_own_or_running_averages_as_is_asked():
    x = images(4, 6, 6, 3, scale=2.0) + jnp.arange(4.0)[:, None, None, None]
    own, running = Norm("batch"), Norm("batch", "running")
    variables = own.init(KEY, x, train=True)
    variables = {**variables, "batch_stats": {"mean": jnp.array([1.0, 2, 3]), "var": jnp.array([4.0, 1, 9])}}
    found = own.apply(variables, x, train=False)
    for i in range(4):
        np.testing.assert_allclose(found[i], own.apply(variables, x[i : i + 1], train=False)[0], rtol=1e-4, atol=1e-5)
    scale = variables["params"]["scale"]
    np.testing.assert_allclose(found.mean((1, 2)), 0, atol=1e-4)
    expected = (x - jnp.array([1.0, 2, 3])) / jnp.sqrt(jnp.array([4.0, 1, 9]) + 1e-5) * scale
    np.testing.assert_allclose(running.apply(variables, x, train=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "module, side",
    [
        (RESNET(features=2, blocks=1), 16),
        pytest.param(RESNET(features=2, blocks=1, blur=True), 16, marks=SLOW),
        pytest.param(RESNET(features=2, blocks=1, dropout=0.5, residual=True), 16, marks=SLOW),
        pytest.param(unet.UNet(features=2, halvings=6), 64, marks=SLOW),
        pytest.param(resnet_generator.Enhancer(3, 2, 1, 2, 1), 32, marks=SLOW),
    ],
)
def test_an_image_comes_out_by_itself_as_it_does_in_a_batch(module, side):
    x = images(3, side, side, 3)
    variables = made(module, x)
    translate = jax.jit(lambda x, key: network.evaluate(module, variables, x, key=key))
    together = translate(x, KEY)
    for i in range(3):
        np.testing.assert_allclose(together[i], translate(x[i : i + 1], KEY)[0], rtol=1e-4, atol=1e-5)


# A residual -----------------------------------------------------------------------------------------------------------


def test_a_residual_translator_adds_what_it_finds_to_the_image_and_clips_that():
    x = images(2, 16, 16, 3, scale=1.5)  # noise is not clipped
    plain = RESNET(features=2, blocks=1)
    variables = made(plain, x)
    bias = variables["params"]["Conv_3"]["bias"]
    variables["params"]["Conv_3"]["bias"] = jnp.array([0.0, 0.3, -2.0])
    found, added = (
        jax.jit(lambda m=m: network.evaluate(m, variables, x))() for m in (plain, plain.clone(residual=True))
    )
    assert bias.shape == (3,) and float(jnp.abs(x + found).max()) > 1.5
    np.testing.assert_allclose(added, jnp.clip(x + found, -1, 1), atol=1e-6)
    assert float(jnp.abs(added).max()) == 1
    # Without a last convolution it is the image, cut to the range of images.
    nothing = variables | {
        "params": variables["params"] | {"Conv_3": jax.tree.map(jnp.zeros_like, variables["params"]["Conv_3"])}
    }
    np.testing.assert_array_equal(network.evaluate(plain.clone(residual=True), nothing, x), jnp.clip(x, -1, 1))
    with pytest.raises(ValueError, match="what has 1 channels is not added to images of 3"):
        counted(RESNET(1, residual=True), (2, 16, 16, 3))


# Noise ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_dropout_stays_at_test_time_by_a_key_and_goes_where_that_is_asked_for():
    x = images(2, 64, 64, 3)
    noisy, still = (unet.UNet(features=4, halvings=6, dropout_at_test=stays) for stays in (True, False))
    variables = made(noisy, x)
    run, quiet = (jax.jit(lambda key, m=m: network.evaluate(m, variables, x, key=key)) for m in (noisy, still))
    first, again, other = run(KEY), run(KEY), run(jax.random.key(1))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 1e-4
    np.testing.assert_array_equal(quiet(KEY), quiet(jax.random.key(1)))
    assert noisy.draws_at_test and not still.draws_at_test
    assert not unet.UNet(halvings=5).draws_at_test  # of so few blocks none drops


@pytest.mark.slow
def test_in_training_each_image_has_its_own_dropout():
    x = jnp.broadcast_to(images(1, 64, 64, 3), (2, 64, 64, 3))
    module = unet.UNet(features=4, halvings=6, norm="instance")
    variables = made(module, x, train=True)
    found = jax.jit(lambda x: network.apply(module, variables["params"], {}, x, key=KEY)[0])(x)
    assert float(jnp.abs(found[0] - found[1]).max()) > 1e-4


def test_a_residual_block_drops_what_its_first_convolution_found_in_training_and_by_a_key_at_test_time():
    x = jnp.broadcast_to(images(1, 8, 8, 6), (2, 8, 8, 6))
    block = resnet_generator.ResidualBlock(dropout=0.5)
    plain, still = resnet_generator.ResidualBlock(), block.clone(dropout_at_test=False)
    variables = made(plain, x)
    assert jax.tree.structure(jax.eval_shape(lambda: block.init(KEY, x, train=True))) == jax.tree.structure(variables)
    in_training = jax.jit(lambda key: network.apply(block, variables["params"], {}, x, key=key)[0])(KEY)
    assert float(jnp.abs(in_training[0] - in_training[1]).max()) > 1e-2  # a draw for each image
    noisy, quiet = (jax.jit(lambda key, m=m: network.evaluate(m, variables, x, key=key)) for m in (block, still))
    first, other = noisy(KEY), noisy(jax.random.key(1))
    np.testing.assert_array_equal(first[0], first[1])  # one draw for all
    assert float(jnp.abs(first - other).max()) > 1e-2
    np.testing.assert_allclose(quiet(KEY), network.evaluate(plain, variables, x), atol=1e-5)


@pytest.mark.parametrize(
    "changes, draws",
    [({}, False), ({"dropout": 0.5}, True), ({"dropout": 0.5, "dropout_at_test": False}, False)],
)
def test_a_residual_translator_says_whether_it_draws_at_test_time(changes, draws):
    assert RESNET(**changes).draws_at_test is draws


# Told -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode, told", [("reflect", False), ("zeros", True)])
def test_with_reflected_borders_a_normalisation_takes_away_what_planes_tell(double_precision, mode, told):
    """Why StarGAN's generator pads by zeros."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, label):
            planes = jnp.broadcast_to(label, (1, 12, 12, 3))
            x = jnp.concatenate([jnp.asarray(PICTURE), planes], axis=-1)
            x = nn.relu(of_each_image(Conv(5, 7)(padding.pad(x, 3, mode)), 1e-12))
            return Conv(2, 3)(x)

    label = jnp.array([0.3, 1.0, 0.0])

    def jacobian(label):
        variables = jax.tree.map(lambda p: p.astype(jnp.float64), Net().init(KEY, label))
        return jax.jacrev(lambda label: jnp.sum(Net().apply(variables, label), (0, 1, 2)))(label)

    jacobian = jax.jit(jacobian)(label)
    size = float(jnp.abs(jacobian).max())
    assert size > 1e-2 if told else size < 1e-9


PICTURE = RNG.uniform(-1, 1, (1, 12, 12, 1))


def test_stargans_generator_hears_its_domain_as_a_label_or_as_a_vector():
    module, x = stargan.Generator(3, 1, 4, 1, 1), images(2, 12, 12, 1)
    label = jnp.array([0, 2])
    variables = made(module, (x, label))
    run = jax.jit(lambda label: module.apply(variables, (x, label), train=False))
    found, other = run(label), run(jnp.array([1, 2]))
    np.testing.assert_allclose(found, run(jax.nn.one_hot(label, 3)), atol=1e-6)
    assert float(jnp.abs(found[0] - other[0]).max()) > 1e-3
    np.testing.assert_allclose(found[1], other[1], atol=1e-6)
    assert np.isnan(run(jnp.array([3, 0]))[0]).all()
    with pytest.raises(ValueError, match=r"labels \[B\], or vectors \[B, 3\], not an array of shape \[2, 2\]"):
        module.apply(variables, (x, jnp.zeros((2, 2))), train=False)


@pytest.mark.slow
def test_patches_are_unit_vectors_of_the_same_places_and_turn_back_what_was_mirrored():
    module, x = cut.Generator(3, 2, 2, 1, head_features=32), images(2, 12, 12, 3)
    variables = jax.tree.map(lambda p: 10 * p, made(module, x, train=True))
    patches = jax.jit(
        lambda x, key, num, mirrored=None: module.apply(variables, x, key, num, mirrored, method="patches"),
        static_argnums=2,
    )
    found = patches(x, KEY, 7)
    assert [v.shape for v in found] == [(2, 7, 32)] * 4 and module.num_maps == 4
    for v in found:
        np.testing.assert_allclose(jnp.linalg.norm(v, axis=-1), 1, rtol=1e-3)
    turned = patches(x[:, :, ::-1], KEY, 7, jnp.array([True, False]))
    np.testing.assert_allclose(turned[0][0], found[0][0], rtol=1e-3, atol=1e-4)  # the image itself
    assert float(jnp.abs(turned[0][1] - found[0][1]).max()) > 1e-3
    every = jax.eval_shape(lambda x: module.apply(variables, x, KEY, 10_000, method="patches"), x)
    assert [v.shape[1] for v in every] == [18 * 18, 12 * 12, 6 * 6, 3 * 3]
    run = jax.jit(lambda x: module.apply(variables, x, train=False))
    told = {"image": x, "mirrored": jnp.array([True, False])}
    np.testing.assert_array_equal(run(told), run(x))


# Sizes that do not fit ------------------------------------------------------------------------------------------------


def test_images_that_do_not_fit_are_one_sentence():
    def traced(module, *shapes):
        return counted(module, *shapes)

    with pytest.raises(ValueError, match="a U-Net of 6 halvings, .* multiples of 64, not 64x96; resize the data, or"):
        traced(unet.UNet(halvings=6), (1, 64, 96, 3))
    with pytest.raises(ValueError, match="a generator of 2 halvings takes sides that are multiples of 4, not 30x32"):
        traced(RESNET(), (1, 30, 32, 3))
    with pytest.raises(ValueError, match="4x4 pixels are too few to be reflected by 4"):
        padding.pad(jnp.zeros((1, 4, 4, 1)), 4)
    with pytest.raises(ValueError, match="halves sides 3 times needs at least 24 pixels, not 23x40; give fewer layers"):
        traced(patchgan.PatchDiscriminator(), (1, 23, 40, 3))
    assert traced(patchgan.PatchDiscriminator(), (1, 24, 40, 3))[0].shape == (1, 1, 3)
    with pytest.raises(ValueError, match="an image of 32x32 pixels is judged beside one of 64x64"):
        traced(patchgan.PatchDiscriminator(), (1, 32, 32, 3), (1, 64, 64, 3))
    with pytest.raises(ValueError, match="halves images 6 times needs at least 64 pixels, not 32x32"):
        traced(stargan.Discriminator(2), (1, 32, 32, 3))
