import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax import lax

from jaxgen.models import fir, r3gan
from jaxgen.network import count_parameters

pytestmark = pytest.mark.usefixtures("fast_compilation")

SMALL = {"widths": (8, 8, 4), "blocks": 1, "group_width": 4}  # images of 16x16
GENERATOR, DISCRIMINATOR = r3gan.Generator(**SMALL), r3gan.Discriminator(**SMALL)
TOLD_GENERATOR = r3gan.Generator(**SMALL, num_classes=3)
TOLD_DISCRIMINATOR = r3gan.Discriminator(**SMALL, num_classes=3)
LABELS = jnp.array([0, 2, 1, 2])
Z = jax.random.normal(jax.random.key(0), (4, 5))
X = jax.random.uniform(jax.random.key(1), (4, 16, 16, 3), minval=-1)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(module, variables, *inputs, train=True):
    return module.apply(variables, *inputs, train=train)


@functools.partial(jax.jit, static_argnums=0)
def made(module, *inputs):
    return module.init(jax.random.key(2), *inputs, train=True)


def shapes(module, shape, num_classes=0):
    """(output, variables) as shapes, without computing anything."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    label = jax.ShapeDtypeStruct(shape[:1], jnp.int32) if num_classes > 0 else None
    key = jax.random.key(0)
    return jax.eval_shape(lambda x, label: module.init_with_output(key, x, label, train=True), x, label)


def drawn(module, shape, seed=0):
    """Variables none of which is 0, and that no initialisation had to be compiled for."""
    rng = np.random.default_rng(seed)
    _, variables = shapes(module, shape, module.num_classes)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), variables)


FFHQ = (768, 768, 768, 768, 384, 192, 96)


@pytest.mark.parametrize(
    ("widths", "group_width", "num_classes", "generator", "discriminator"),
    [
        ((768,) * 4, 16, 10, 20_781_952, 21_280_512),
        ((768,) * 4, 16, 0, 20_732_160, 20_683_776),
        (FFHQ, 16, 0, 23_057_952, 23_009_568),
        ((1536,) * 4, 32, 1000, 82_914_304, 86_548_992),
        ((1536,) * 5, 32, 1000, 103_570_432, 107_205_120),
    ],
    ids=["cifar-by-class", "cifar", "ffhq-256", "imagenet-32", "imagenet-64"],
)
def test_networks_have_as_many_parameters_as_the_published_ones(
    widths, group_width, num_classes, generator, discriminator
):
    settings = {"widths": widths, "group_width": group_width, "num_classes": num_classes}
    size = 2 ** (len(widths) + 1)
    image, variables = shapes(r3gan.Generator(**settings), (2, 64), num_classes)
    assert (image.shape, image.dtype) == ((2, size, size, 3), jnp.float32)
    assert count_parameters(variables["params"]) == generator
    logits, variables = shapes(r3gan.Discriminator(**settings), image.shape, num_classes)
    assert (logits.shape, logits.dtype) == ((2,), jnp.float32)
    assert count_parameters(variables["params"]) == discriminator


# The mathematics of a layer -------------------------------------------------------------------------------------------


def convolved(x, kernel, groups=1):
    padding = [(kernel.shape[0] // 2,) * 2] * 2
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def test_a_block_is_two_biased_leaky_convolutions_the_second_in_groups_and_a_third_beside_its_input():
    block = r3gan.Block(group_width=4)
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 6))
    variables = jax.tree.map(
        lambda leaf: 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape),
        jax.eval_shape(block.init, jax.random.key(0), x),
    )
    p = variables["params"]
    assert {name: p[name]["kernel"].shape for name in p} == {
        "Conv_0": (1, 1, 6, 12),
        "Conv_1": (3, 3, 4, 12),
        "Conv_2": (1, 1, 12, 6),
    }
    y = convolved(x, p["Conv_0"]["kernel"]) + p["Conv_0"]["bias"]
    y = jnp.maximum(y, 0.2 * y)
    y = convolved(y, p["Conv_1"]["kernel"], groups=3) + p["Conv_1"]["bias"]
    y = jnp.maximum(y, 0.2 * y)
    expected = x + convolved(y, p["Conv_2"]["kernel"])
    np.testing.assert_allclose(jax.jit(block.apply)(variables, x), expected, rtol=1e-5, atol=1e-5)


def test_maps_are_enlarged_by_bilinear_interpolation():
    inside = (slice(None), slice(1, -1), slice(1, -1))
    expected = jax.image.resize(X, (4, 32, 32, 3), "bilinear")[inside]
    np.testing.assert_allclose(fir.upsample(X)[inside], expected, atol=1e-5)


# At the beginning -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_generator_begins_as_enlarged_pictures_that_the_latent_weighs():
    variables = made(GENERATOR, Z)
    p = variables["params"]
    x = (Z @ p["Dense_0"]["kernel"])[:, None, None] * p["basis"]
    x = fir.upsample(x)
    x = convolved(fir.upsample(x), p["Conv_0"]["kernel"])  # 8 channels to 4: before enlarging it is the same
    expected = convolved(x, p["Conv_1"]["kernel"])
    np.testing.assert_allclose(apply(GENERATOR, variables, Z), expected, rtol=1e-4, atol=1e-4)
    assert np.std(expected) > 0.1


@pytest.mark.slow
def test_the_discriminator_begins_as_one_linear_function_of_the_halved_image():
    variables = made(DISCRIMINATOR, X)
    p = variables["params"]
    x = fir.downsample(convolved(X, p["Conv_0"]["kernel"]))
    x = fir.downsample(convolved(x, p["Conv_1"]["kernel"]))
    x = jnp.einsum("bijc,ijc->bc", x, p["WeightedSum_0"]["kernel"][:, :, 0])
    expected = (x @ p["Dense_0"]["kernel"])[:, 0]
    np.testing.assert_allclose(apply(DISCRIMINATOR, variables, X), expected, rtol=1e-4, atol=1e-5)


def test_at_first_twice_the_input_is_twice_the_output_and_no_longer_once_the_last_layers_of_blocks_are_not_zero():
    for module, x in ((GENERATOR, Z), (DISCRIMINATOR, X)):
        for variables, linear in ((made(module, x), True), (drawn(module, x.shape), False)):
            twice, once = (np.asarray(apply(module, variables, scale * x)) for scale in (2.0, 1.0))
            assert np.allclose(twice, 2 * once, rtol=1e-4, atol=1e-4) == linear


@pytest.mark.slow
def test_kernels_begin_with_the_variance_of_their_fan_in_and_those_of_blocks_with_that_of_their_depth():
    """The paper's network has eight blocks: gains are divided by the fourth root of that."""
    wide = {"widths": (64, 64, 64, 64), "blocks": 2}
    variables = made(r3gan.Discriminator(**wide, num_classes=50), X[:1].repeat(2, 1).repeat(2, 2), LABELS[:1])
    found = {"/".join(path[-3:]): leaf for path, leaf in flatten_dict(variables["params"]).items()}
    gain = np.sqrt(2 / 1.04) / 8**0.25
    expected = {
        "Block_0/Conv_0/kernel": gain / np.sqrt(64),
        "Block_7/Conv_1/kernel": gain / np.sqrt(9 * 16),
        "Block_3/Conv_2/kernel": 0.0,
        "Block_0/Conv_0/bias": 0.0,
        "Dense_0/kernel": 1 / np.sqrt(64),
        "WeightedSum_0/kernel": 1 / np.sqrt(16),
        "embedding/kernel": 1 / np.sqrt(50 * 64),
    }
    assert {name: float(np.std(found[name])) for name in expected} == pytest.approx(expected, rel=0.1)


# Invariances ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [DISCRIMINATOR, TOLD_DISCRIMINATOR], ids=["alone", "told"])
def test_no_image_moves_the_logit_of_another(module):
    told = (LABELS,) if module.num_classes else ()
    variables = drawn(module, X.shape)
    whole = np.asarray(apply(module, variables, X, *told))
    others = X.at[1:].set(-X[1:])
    changed = np.asarray(apply(module, variables, others, *told))
    assert changed[0] == pytest.approx(whole[0], rel=1e-5)
    assert np.all(np.abs(changed[1:] - whole[1:]) > 1e-3)
    assert module.images_are_independent


def test_a_label_is_an_embedding_beside_the_latent_and_a_projection_of_the_last_features():
    variables = drawn(TOLD_GENERATOR, Z.shape)
    p = dict(variables["params"])
    z = jnp.concatenate([Z, p.pop("embedding")["kernel"][LABELS]], axis=-1)
    found = apply(TOLD_GENERATOR, variables, Z, LABELS)
    np.testing.assert_allclose(found, apply(GENERATOR, {"params": p}, z), rtol=1e-4, atol=1e-4)
    variables = drawn(TOLD_DISCRIMINATOR, X.shape)
    p = dict(variables["params"])
    table, last = p.pop("embedding")["kernel"], p.pop("Dense_0")["kernel"]
    for label in range(3):
        alone = {"params": p | {"Dense_0": {"kernel": last @ table[label][:, None]}}}
        found = apply(TOLD_DISCRIMINATOR, variables, X, jnp.full(4, label))
        np.testing.assert_allclose(found, apply(DISCRIMINATOR, alone, X), rtol=1e-4, atol=1e-4)


def test_a_label_that_does_not_exist_spoils_its_own_image_and_logit_alone():
    label = jnp.array([0, 3, 2, -1])
    image = apply(TOLD_GENERATOR, drawn(TOLD_GENERATOR, Z.shape), Z, label)
    np.testing.assert_array_equal(np.isnan(image).all((1, 2, 3)), [False, True, False, True])
    logits = apply(TOLD_DISCRIMINATOR, drawn(TOLD_DISCRIMINATOR, X.shape), X, label)
    np.testing.assert_array_equal(np.isnan(logits), [False, True, False, True])


def test_images_are_clipped_where_they_are_drawn_and_not_in_training():
    variables = drawn(GENERATOR, Z.shape)
    trained, seen = (np.asarray(apply(GENERATOR, variables, 9 * Z, train=train)) for train in (True, False))
    assert np.abs(trained).max() > 1.5
    np.testing.assert_allclose(seen, np.clip(trained, -1, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("module", "inputs", "message"),
    [
        (DISCRIMINATOR, (X[:, :8, :8],), "with 3 widths is for images of 16x16 pixels, not 8x8"),
        (DISCRIMINATOR, (X, LABELS), "this network knows no classes"),
        (TOLD_GENERATOR, (Z,), "this network is told the class of each image"),
        (r3gan.Generator((6, 6), group_width=8), (Z,), "groups of 8 .group_width. do not divide"),
    ],
)
def test_what_does_not_fit_is_one_sentence(module, inputs, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda *inputs: module.init(jax.random.key(0), *inputs, train=True), *inputs)
