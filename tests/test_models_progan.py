"""ProGAN's networks: exact counts, and that fades, stages and parts that are left out are what they should be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.models import progan, resampling
from jaxgen.network import count_parameters

pytestmark = pytest.mark.usefixtures("fast_compilation")

SMALL = {"capacity": 48, "max_features": 6}
GENERATOR = progan.Generator(image_size=16, channels=2, **SMALL)  # stages of 4, 8 and 16
DISCRIMINATOR = progan.Discriminator(group_size=2, **SMALL)
RNG = np.random.default_rng(0)
Z = jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32)
X = jnp.asarray(RNG.uniform(-1, 1, size=(4, 16, 16, 2)), jnp.float32)


def shapes(module, *shape):
    init = functools.partial(module.init, jax.random.key(0), train=True)
    return jax.eval_shape(init, jax.ShapeDtypeStruct(shape, jnp.float32))["params"]


def drawn(module, *shape):
    """Parameters that no initialisation had to be compiled for, biases included."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes(module, *shape))


MAKING, JUDGING = drawn(GENERATOR, *Z.shape), drawn(DISCRIMINATOR, *X.shape)


@jax.jit
def made(params, progress):
    return GENERATOR.apply({"params": params}, Z, progress, train=True)


@jax.jit
def judged(params, x, progress):
    return DISCRIMINATOR.apply({"params": params}, x, progress, train=True)


# Counts ---------------------------------------------------------------------------------------------------------------


def conv(size, inputs, outputs):
    return size * size * inputs * outputs + outputs


def published_widths(last):
    """The paper's table 2: channels of the maps of 4, 8, ... pixels."""
    return [512, 512, 512, 512, 256, 128, 64, 32, 16][: last + 1]


@pytest.mark.parametrize("size, last", [(1024, 8), (256, 6), (32, 3)])
@pytest.mark.slow
def test_networks_have_the_published_numbers_of_parameters(size, last):
    """Table 2 counts the last stage's network; those of the stages before have a 1x1 convolution more each."""
    widths = published_widths(last)
    pairs = list(zip(widths[:-1], widths[1:], strict=True))
    generator = conv(4, 512, 512) + conv(3, 512, 512) + sum(conv(3, a, b) + conv(3, b, b) for a, b in pairs)
    making = shapes(progan.Generator(image_size=size), 2, 512)
    assert count_parameters(making) == generator + sum(conv(1, width, 3) for width in widths)
    discriminator = conv(3, 513, 512) + conv(4, 512, 512) + 513 + sum(conv(3, b, b) + conv(3, b, a) for a, b in pairs)
    judging = shapes(progan.Discriminator(), 2, size, size, 3)
    assert count_parameters(judging) == discriminator + sum(conv(1, 3, width) for width in widths)
    if size == 1024:  # as the table says: 23.1 million each
        assert generator + conv(1, 16, 3) == 23_071_507 and discriminator + conv(1, 3, 16) == 23_077_137
        assert making["to_image_1024"]["bias"].size + making["to_image_1024"]["kernel"].size == 51


# Growing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_that_begins_to_fade_in_changes_nothing_and_the_stage_before_is_enlarged(stage):
    smaller = progan.Generator(image_size=4 * 2**stage, channels=2, **SMALL)
    own = {name: params for name, params in MAKING.items() if int(name.rpartition("_")[2]) <= 4 * 2**stage}
    found = np.asarray(smaller.apply({"params": own}, Z, train=True))
    for _ in range(2 - stage):
        found = found.repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(made(MAKING, float(stage)), found, atol=1e-6)


def test_a_stage_that_is_whole_has_no_part_of_the_picture_before_it():
    without = {name: jax.tree.map(jnp.zeros_like, p) if name == "to_image_8" else p for name, p in MAKING.items()}
    np.testing.assert_array_equal(made(MAKING, 2.0), made(without, 2.0))
    assert np.any(made(MAKING, 1.99) != made(without, 1.99))
    np.testing.assert_array_equal(made(MAKING, 2.0), made(MAKING, jnp.full(4, 2.0)))
    np.testing.assert_allclose(made(MAKING, 2.0), GENERATOR.apply({"params": MAKING}, Z, train=True), atol=1e-4)


def test_a_fade_of_the_generator_is_the_line_between_two_pictures():
    before, after = made(MAKING, 1.0), made(MAKING, 2.0)
    np.testing.assert_allclose(made(MAKING, 1.25), 0.75 * before + 0.25 * after, atol=1e-5)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0, 1.6, 2.0])
def test_the_discriminator_is_the_formula_that_computes_all_stages(progress):
    def part(name, layers, x):
        for layer, padding in layers:
            params = JUDGING[name][layer] if layer else JUDGING[name]
            kernel = params["kernel"] * np.sqrt(2 / np.prod(params["kernel"].shape[:-1]))
            pads = [(padding, padding)] * 2
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = nn.leaky_relu(x + params["bias"], 0.2)
        return x

    both, h, small = (("EqualisedConv_0", 1), ("EqualisedConv_1", 1)), None, X
    for size, stage in ((16, 2), (8, 1), (4, 0)):
        own = part(f"from_image_{size}", ((None, 0),), small)
        share = np.clip(progress - stage, 0, 1)  # of the stage after this one
        h = own if h is None else (1 - share) * own + share * h
        if stage:
            h, small = resampling.halve(part(f"stage_{size}", both, h)), resampling.halve(small)
    deviation = np.asarray(h).reshape(2, 2, *h.shape[1:]).std(axis=1).mean(axis=(1, 2, 3)).repeat(2)
    h = jnp.concatenate([h, np.broadcast_to(deviation[:, None, None, None], (*h.shape[:3], 1))], axis=-1)
    h = part("judging_4", (("EqualisedConv_0", 1), ("EqualisedConv_1", 0)), h).reshape(4, -1)
    line = JUDGING["judging_4"]["EqualisedDense_0"]
    expected = h @ line["kernel"] / np.sqrt(h.shape[1]) + line["bias"]
    np.testing.assert_allclose(judged(JUDGING, X, progress), expected[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_pixels_are_of_unit_mean_square_after_each_stage_of_the_generator():
    x = progan.pixel_norm(jnp.asarray(RNG.normal(size=(2, 3, 3, 7)), jnp.float32))
    np.testing.assert_allclose(jnp.mean(x**2, axis=-1), 1.0, rtol=1e-5)
    scaled = GENERATOR.apply({"params": MAKING}, 3.0 * Z, train=True)  # latents are on a sphere
    np.testing.assert_allclose(scaled, made(MAKING, 2.0), atol=1e-4)


@pytest.mark.slow
def test_layers_of_later_stages_have_no_gradient_before_they_begin_and_all_have_one_in_the_last():
    def norms(progress):
        making = jax.grad(lambda params: jnp.sum(jnp.square(made(params, progress) - X)))(MAKING)
        judging = jax.grad(lambda params: jnp.sum(jnp.square(judged(params, X, progress))))(JUDGING)
        return [{name: float(jnp.sum(jnp.abs(jnp.hstack([x.ravel() for x in jax.tree.leaves(part)]))))}
                for tree in (making, judging) for name, part in tree.items()]  # fmt: skip

    for progress, largest in ((0.0, 4), (0.5, 8), (1.0, 8), (1.5, 16)):
        moved = {name for pair in norms(progress) for name, norm in pair.items() if norm > 0}
        names = {*MAKING, *JUDGING}
        later = {name for name in names if int(name.rpartition("_")[2]) > largest}
        assert moved.isdisjoint(later)
        begun = {name for name in names - later if name.startswith(("first", "stage", "judging"))}
        assert begun <= moved


# Data -----------------------------------------------------------------------------------------------------------------


def test_real_images_are_faded_as_the_generators_are():
    x = np.asarray(X)
    halves = x.reshape(4, 8, 2, 8, 2, 2).mean((2, 4))
    repeated = halves.repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(progan.faded(X, 2.0), X, atol=1e-7)
    np.testing.assert_allclose(progan.faded(X, 1.0), repeated, atol=1e-6)
    np.testing.assert_allclose(progan.faded(X, 1.25), 0.75 * repeated + 0.25 * x, atol=1e-6)
    np.testing.assert_allclose(progan.faded(X, 0.0)[0, 3, 2], x[0, :4, :4].mean((0, 1)), atol=1e-6)
    for progress in (0.0, 0.4, 1.0, 1.7):  # what is judged of a picture is what is judged of the faded one
        again = progan.faded(progan.faded(X, np.ceil(progress)), progress)
        np.testing.assert_allclose(again, progan.faded(X, progress), atol=1e-6)


def test_other_sizes_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="ProGAN needs square images of 4, 5, 6 or 7 times a power of two pixels"):
        shapes(progan.Generator(image_size=36), 2, 5)
    with pytest.raises(ValueError, match="ProGAN needs square images, not 16x8"):
        shapes(progan.Discriminator(), 2, 16, 8, 3)
    with pytest.raises(ValueError, match="6 images does not divide into the groups of 4"):
        shapes(progan.Discriminator(), 6, 16, 16, 3)
    assert progan.stages_of(28) == [7, 14, 28] and progan.stages_of(1024)[-1] == 1024
