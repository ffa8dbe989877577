"""Degradations: closed forms of noise and blur, resizing as Pillow's, adjoints, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import special

from jaxgen import degradations
from jaxgen.data.dataset import function_name
from jaxgen.degradations import blurring, kernels, resizing, two_rounds

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY = jax.random.key(5)
IMAGE = np.random.RandomState(0).uniform(-1, 1, (24, 36, 3)).astype(np.float32)
PILLOW = {
    "bicubic": (degradations.bicubic, Image.Resampling.BICUBIC),
    "bilinear": (degradations.bilinear, Image.Resampling.BILINEAR),
    "lanczos3": (degradations.lanczos3, Image.Resampling.LANCZOS),
    "box": (degradations.box, Image.Resampling.BOX),
}


def partial(function, **settings):
    return functools.partial(function, **settings)


# Resizing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("shape", [(6, 9), (48, 72), (17, 40)])
def test_resizing_is_pillows_on_floats(name, shape):
    kernel, rule = PILLOW[name]
    planes = [Image.fromarray(np.ascontiguousarray(IMAGE[..., c])).resize(shape[::-1], rule) for c in range(3)]
    ours = degradations.resize(jnp.asarray(IMAGE), shape=shape, kernel=kernel)
    assert np.max(np.abs(np.stack([np.asarray(p) for p in planes], -1) - ours)) * 127.5 < 5e-4


@pytest.mark.parametrize("name, method", [("bicubic", "cubic"), ("bilinear", "linear"), ("lanczos3", "lanczos3")])
def test_resizing_is_that_of_jax_with_antialiasing(name, method):
    ours = degradations.resize(jnp.asarray(IMAGE), shape=(10, 50), kernel=PILLOW[name][0])
    theirs = jax.image.resize(jnp.asarray(IMAGE), (10, 50, 3), method=method, antialias=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_averaging_what_was_enlarged_by_repetition_gives_the_image_back(scale):
    up = degradations.upscale(jnp.asarray(IMAGE), scale=scale, kernel=degradations.box)
    assert np.array_equal(up, np.repeat(np.repeat(IMAGE, scale, 0), scale, 1))
    np.testing.assert_allclose(degradations.downscale(up, scale=scale, kernel=degradations.box), IMAGE, atol=1e-6)


@pytest.mark.parametrize("name", PILLOW)
def test_a_flat_image_stays_flat_and_traced_sizes_are_the_same(name):
    kernel = PILLOW[name][0]
    flat = degradations.resize(jnp.full((9, 7, 1), 0.3), shape=(5, 20), kernel=kernel)
    np.testing.assert_allclose(flat, 0.3, atol=1e-6)
    traced = jax.jit(lambda old, new: resizing.weights(old, new, kernel, room=(16, 12)))(9, 14)
    np.testing.assert_allclose(traced[:14, :9], resizing.weights(9, 14, kernel), atol=2e-6)
    assert np.array_equal(traced[14:], traced[np.array([13, 13])]) and not np.any(traced[:, 9:])


def test_backprojection_through_the_pseudoinverse_restores_the_small_image():
    small, large = jnp.asarray(IMAGE[:6, :9]), jnp.asarray(IMAGE)
    rows, columns = resizing.weights(24, 6, degradations.bicubic), resizing.weights(36, 9, degradations.bicubic)
    error = small - degradations.downscale(large, scale=4)
    mended = large + resizing.apply_weights(error, np.linalg.pinv(rows), np.linalg.pinv(columns))
    np.testing.assert_allclose(degradations.downscale(mended, scale=4), small, atol=1e-5)


# Linear ones ----------------------------------------------------------------------------------------------------------

MASK = (np.random.RandomState(1).uniform(size=(24, 36, 1)) < 0.5).astype(np.float32)
BLURRED = partial(degradations.blur, kernel=kernels.gaussian(9, 2.0, sigma_across=0.8, angle=0.4))
LINEAR = {
    "resize": partial(degradations.resize, shape=(10, 50)),
    "downscale": partial(degradations.downscale, scale=4),
    "upscale": partial(degradations.upscale, scale=2, kernel=degradations.lanczos3),
    "box": partial(degradations.downscale, scale=3, kernel=degradations.box),
    "blur": BLURRED,
    "gaussian_blur": partial(degradations.gaussian_blur, sigma=1.6),
    "hide": partial(degradations.hide, mask=MASK),
    "chain": partial(degradations.chain, parts=(BLURRED, partial(degradations.downscale, scale=2))),
}


@pytest.mark.parametrize("name", LINEAR)
def test_the_adjoint_of_a_linear_degradation_passes_the_dot_product_test(name):
    degrade = LINEAR[name]
    forward = functools.partial(degrade, key=KEY)
    x = jax.random.normal(KEY, IMAGE.shape)
    y = jax.random.normal(jax.random.key(1), jax.eval_shape(forward, x).shape)
    back = jax.jit(degradations.adjoint(degrade, IMAGE.shape))
    np.testing.assert_allclose(jnp.vdot(forward(x), y), jnp.vdot(x, back(y)), rtol=2e-4, atol=2e-3)


@pytest.mark.parametrize(
    "degrade",
    [
        partial(degradations.gaussian_noise, sigma=25.0),
        partial(degradations.gaussian_noise, sigma=0.0, clip=True),
        degradations.stored,
        degradations.sharpen,
        lambda image: image**2,
        lambda image: image + 1,
    ],
)
def test_what_is_not_linear_has_no_adjoint(degrade):
    with pytest.raises(ValueError, match="not linear in the image"):
        degradations.adjoint(degrade, (8, 8, 1))


# Noise ----------------------------------------------------------------------------------------------------------------


def drawn(degrade, image, num=64):
    return jax.jit(jax.vmap(degrade, (None, 0)))(jnp.asarray(image), jax.random.split(KEY, num)) - image


def test_gaussian_noise_has_the_sigma_that_is_asked_for_and_independent_channels():
    noise = np.asarray(drawn(partial(degradations.gaussian_noise, sigma=25.0), np.full((32, 32, 3), 0.9)))
    covariance = np.cov(noise.reshape(-1, 3).T * 127.5)
    np.testing.assert_allclose(covariance, 625 * np.eye(3), atol=0.02 * 625)
    assert abs(noise.mean()) * 127.5 < 0.3 and (0.9 + noise).max() > 1.2  # not clipped


def test_grey_noise_is_the_same_in_all_channels():
    noise = np.asarray(drawn(partial(degradations.gaussian_noise, sigma=25.0, grey=True), np.zeros((32, 32, 3))))
    assert np.array_equal(noise[..., 0], noise[..., 1]) and np.array_equal(noise[..., 0], noise[..., 2])
    np.testing.assert_allclose(np.std(noise) * 127.5, 25.0, rtol=0.02)


def test_a_range_of_sigma_is_drawn_evenly_one_for_an_image():
    noise = np.asarray(drawn(partial(degradations.gaussian_noise, sigma=(10.0, 50.0)), np.zeros((32, 32, 1)), 400))
    sigmas = 127.5 * np.std(noise, axis=(1, 2, 3))
    assert 9 < sigmas.min() < 12 and 48 < sigmas.max() < 53
    np.testing.assert_allclose([sigmas.mean(), sigmas.std()], [30, 40 / np.sqrt(12)], rtol=0.1)


def test_clipped_noise_stays_in_the_range_and_none_changes_nothing():
    noisy = degradations.gaussian_noise(jnp.asarray(IMAGE), KEY, sigma=80.0, clip=True)
    assert float(jnp.max(jnp.abs(noisy))) == 1.0
    assert np.array_equal(degradations.gaussian_noise(jnp.asarray(IMAGE), KEY, sigma=0.0), IMAGE)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_the_variance_of_poisson_noise_is_proportional_to_the_light(strength):
    light = np.array([0.1, 0.3, 0.5, 0.8], np.float32)
    image = np.broadcast_to(2 * light - 1, (24, 24, 4))
    noise = drawn(partial(degradations.poisson_noise, peak=30.0, strength=strength, clip=False), image, 8)
    variance = np.var(np.asarray(noise).reshape(-1, 4) / 2, axis=0)
    np.testing.assert_allclose(variance, strength**2 * light / 30, rtol=0.08)
    np.testing.assert_allclose(np.mean(np.asarray(noise), axis=(0, 1, 2)), 0, atol=1e-2)


def test_grey_poisson_noise_is_the_same_in_all_channels():
    noise = np.asarray(degradations.poisson_noise(jnp.asarray(IMAGE), KEY, grey=True, clip=False) - IMAGE)
    np.testing.assert_allclose(noise[..., 0], noise[..., 2], atol=1e-6)
    assert noise.std() > 0.1


def test_without_light_there_are_no_photons():
    assert np.array_equal(degradations.poisson_noise(jnp.full((8, 8, 3), -1.0), KEY), np.full((8, 8, 3), -1.0))


# Blur -----------------------------------------------------------------------------------------------------------------


def moments(kernel):
    kernel = np.asarray(kernel, np.float64)
    axis = np.arange(len(kernel)) - len(kernel) // 2
    mass = [kernel.sum(0), kernel.sum(1)]
    cross = (kernel * axis[:, None] * axis[None]).sum()
    return np.array([[(mass[0] * axis**2).sum(), cross], [cross, (mass[1] * axis**2).sum()]])


@pytest.mark.parametrize("sigma", [0.8, 1.6, 3.0])
def test_a_gaussian_kernel_adds_up_to_1_and_has_the_variance_sigma_squared(sigma):
    kernel = kernels.gaussian(31, sigma)
    np.testing.assert_allclose([kernel.sum(), kernel.min() >= 0], [1, True], rtol=1e-5)
    np.testing.assert_allclose(moments(kernel), sigma**2 * np.eye(2), atol=2e-3 * sigma**2 + 1e-4)


def test_an_anisotropic_kernel_has_the_covariance_of_its_turned_axes():
    kernel = kernels.gaussian(41, 3.0, sigma_across=1.2, angle=0.5)
    turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    np.testing.assert_allclose(moments(kernel), turn @ np.diag([9.0, 1.44]) @ turn.T, atol=0.02)


def test_all_kernels_add_up_to_1_and_are_symmetric():
    some = [
        kernels.gaussian(21, 2.0, sigma_across=1.0, angle=1.0, beta=0.5),
        kernels.gaussian(21, 2.0, beta=4.0),
        kernels.gaussian(21, 2.0, sigma_across=1.0, angle=1.0, beta=1.5, plateau=True),
        kernels.sinc(21, np.pi / 3),
        kernels.motion(15, 9.0, 0.7),
        kernels.identity(7),
    ]
    for kernel in some:
        np.testing.assert_allclose(kernel.sum(), 1, rtol=1e-5)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)


def test_the_sinc_kernel_is_the_bessel_function_and_passes_low_frequencies_alone():
    size, cutoff = 201, np.pi / 3
    kernel = np.asarray(kernels.sinc(size, cutoff))
    axis = np.arange(size) - size // 2
    r = np.hypot(axis[:, None], axis[None])
    near = (r > 0) & (r < 70)  # a mean of 128 cosines is exact up to there
    wanted = cutoff * special.j1(cutoff * r[near]) / (2 * np.pi * r[near])
    np.testing.assert_allclose(kernel[near] / kernel[100, 100], wanted / (cutoff**2 / (4 * np.pi)), atol=2e-5)
    passed = np.abs(np.fft.fft2(kernels.sinc(61, cutoff), s=(120, 120)))
    assert abs(passed[10, 0] - 1) < 0.1 and passed[40, 0] < 0.1  # pi / 6 and 2 pi / 3


def test_motion_blur_is_a_line_of_its_length():
    np.testing.assert_allclose(kernels.motion(9, 5.0, 0.0)[4], [0, 0, 0.2, 0.2, 0.2, 0.2, 0.2, 0, 0], atol=1e-6)


def test_blur_is_the_convolution_of_the_mirrored_image():
    kernel = np.random.RandomState(2).uniform(size=(7, 7)).astype(np.float32)
    padded = np.pad(IMAGE, [(3, 3), (3, 3), (0, 0)], mode="reflect")
    wanted = sum(kernel[6 - i, 6 - j] * padded[i : i + 24, j : j + 36] for i in range(7) for j in range(7))
    np.testing.assert_allclose(degradations.blur(jnp.asarray(IMAGE), kernel=kernel), wanted, atol=1e-4)


def test_both_gaussian_blurs_are_one_and_no_blur_is_none():
    separate = degradations.gaussian_blur(jnp.asarray(IMAGE), sigma=1.6, radius=7)
    together = degradations.blur(jnp.asarray(IMAGE), kernel=kernels.gaussian(15, 1.6))
    np.testing.assert_allclose(together, separate, atol=1e-5)
    np.testing.assert_allclose(degradations.blur(jnp.asarray(IMAGE), kernel=kernels.identity(9)), IMAGE, atol=1e-6)


def test_blur_of_a_part_does_not_see_what_is_beside_it():
    kernel = kernels.gaussian(9, 2.0)
    wanted = degradations.blur(jnp.asarray(IMAGE[:10, :12]), kernel=kernel)
    part = jax.jit(lambda h, w: blurring.convolve(jnp.asarray(IMAGE), kernel, (h, w)))(10, 12)
    np.testing.assert_allclose(part[:10, :12], wanted, atol=1e-5)


def test_the_unsharp_mask_leaves_flat_images_and_steepens_edges():
    assert np.array_equal(degradations.sharpen(jnp.full((32, 32, 3), 0.25)), np.full((32, 32, 3), 0.25))
    edge = jnp.broadcast_to(jnp.where(jnp.arange(32) < 16, -0.4, 0.4)[None, :, None], (32, 32, 1))
    sharp = degradations.sharpen(edge)
    assert float(sharp[16, 16, 0] - sharp[16, 15, 0]) > 0.9


# Storing --------------------------------------------------------------------------------------------------------------


def test_what_is_stored_has_256_levels_and_the_derivative_of_the_cut():
    levels = np.asarray(degradations.stored(jnp.linspace(-1.5, 1.5, 3001))) * 127.5 + 127.5
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    assert len(np.unique(np.round(levels))) == 256
    slope = jax.grad(lambda x: degradations.stored(x).sum())(jnp.array([-1.2, -0.5, 0.123, 1.2]))
    assert np.array_equal(slope, [0, 1, 1, 0])


# Two rounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_world_is_drawn_for_each_image_and_has_one_shape():
    degrade = partial(degradations.real_world, scale=4)
    smooth = np.broadcast_to(np.linspace(-0.8, 0.8, 64, dtype=np.float32)[:, None, None], (64, 64, 3))
    spoil, keys = jax.jit(jax.vmap(degrade, (None, 0))), jax.random.split(KEY, 24)
    many = spoil(smooth, keys)
    assert many.shape == (24, 16, 16, 3) and bool(jnp.all(jnp.isfinite(many))) and float(jnp.max(jnp.abs(many))) <= 1
    levels = np.asarray(many) * 127.5 + 127.5
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert np.array_equal(spoil(smooth, keys[::-1]), many[::-1])  # whatever is beside an image
    wanted = degradations.downscale(jnp.asarray(smooth), scale=4, kernel=degradations.box)
    errors = np.sqrt(np.mean((np.asarray(many) - wanted) ** 2, axis=(1, 2, 3))) * 127.5
    assert errors.max() > 3 * errors.min() and np.median(errors) < 40  # spoilt, more or less, and not destroyed
    np.testing.assert_allclose(np.mean(many, axis=0), wanted, atol=0.2)


@pytest.mark.slow
def test_without_any_strength_the_two_rounds_are_a_resize_and_two_jpegs():
    none = two_rounds.Round(0.0, (0.2, 3.0), 0.0, 0.0, (1.0, 1.0), (0.0, 0.0), (0.0, 0.0), quality=(100, 100))
    smooth = np.broadcast_to(np.linspace(-0.8, 0.8, 32, dtype=np.float32)[:, None, None], (32, 32, 3))
    degrade = partial(degradations.real_world, scale=2, first=none, second=none, last_sinc=0.0, sharpened=False)
    found = jax.jit(jax.vmap(degrade, (None, 0)))(smooth, jax.random.split(KEY, 4))
    wanted = degradations.downscale(jnp.asarray(smooth), scale=2, kernel=degradations.box)
    np.testing.assert_allclose(found[:, 2:-2], np.broadcast_to(wanted, found.shape)[:, 2:-2], atol=4 / 127.5)


def test_kernels_of_a_round_add_up_to_1_and_are_of_all_kinds():
    draw = jax.jit(jax.vmap(lambda key: two_rounds.blur_kernel(key, two_rounds.SECOND)))
    found = np.asarray(draw(jax.random.split(KEY, 300)))
    np.testing.assert_allclose(found.sum(axis=(1, 2)), 1, rtol=1e-4)
    none = np.isclose(found[:, 10, 10], 1)
    assert 0.1 < none.mean() < 0.35  # 0.2, and the narrowest of the others
    assert 0.03 < (found.min(axis=(1, 2)) < -1e-4).mean() < 0.15  # of sincs, 0.08
    sides = {int(np.max(np.nonzero(np.abs(kernel).sum(0))[0])) - 9 for kernel in found[~none]}
    assert sides <= set(range(1, 12)) and max(sides) == 11


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda x: degradations.downscale(x, scale=5), "a scale of 5 does not divide images of 24x36"),
        (lambda x: degradations.downscale(x, scale=0), "a scale of 0 does not divide"),
        (lambda x: degradations.upscale(x, scale=0), "a scale is at least 1"),
        (lambda x: degradations.resize(x, shape=(0, 3)), "at least 1x1 pixels, not 0x3"),
        (lambda x: degradations.gaussian_noise(x, KEY, sigma=-1.0), "sigma must be at least 0, not -1"),
        (lambda x: degradations.gaussian_noise(x, KEY, sigma=(5.0, 1.0)), "the smaller first, not 5 and 1"),
        (lambda x: degradations.poisson_noise(x, KEY, peak=0.0), "peak must be above 0"),
        (lambda x: degradations.gaussian_blur(x, sigma=0.0), "the sigma of a blur must be above 0"),
        (lambda x: kernels.gaussian(21, 0.0), "the sigma of a blur must be above 0"),
        (lambda x: kernels.gaussian(20, 1.0), "must be odd"),
        (lambda x: degradations.blur(x, kernel=np.ones((4, 4))), r"an odd k, not \[4, 4\]"),
        (lambda x: degradations.real_world(x, KEY, scale=5), "a scale of 5 does not divide"),
    ],
)
def test_settings_without_meaning_are_refused_in_a_sentence(call, text):
    with pytest.raises(ValueError, match=text):
        call(jnp.asarray(IMAGE))


def test_a_seed_is_no_key():
    with pytest.raises(TypeError, match="must be a random key"):
        degradations.gaussian_noise(jnp.asarray(IMAGE), 0)


def test_the_name_of_a_degradation_says_its_settings_and_no_address():
    parts = (partial(degradations.downscale, scale=2), degradations.stored)
    name = function_name(partial(degradations.chain, parts=parts))
    assert name == "chain()[('parts', (downscale()[('scale', 2)], stored))]"
