import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax import lax

from jaxgen import network
from jaxgen.models import sngan
from jaxgen.network import count_parameters

pytestmark = pytest.mark.usefixtures("fast_compilation")

GENERATOR = sngan.Generator(image_size=28, channels=1, features=4, num_classes=3)
DISCRIMINATOR = sngan.Discriminator(features=4, num_classes=3)


def shapes(module, shape, num_classes=0):
    """(output, variables) as shapes, without computing anything."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    label = jax.ShapeDtypeStruct(shape[:1], jnp.int32) if num_classes > 0 else None
    key = jax.random.key(0)
    return jax.eval_shape(lambda x, label: module.init_with_output(key, x, label, train=True), x, label)


@functools.partial(jax.jit, static_argnums=0)
def init(module, key, *inputs):
    variables = module.init(key, *inputs, train=True)
    return jax.tree.map(lambda leaf: leaf.astype(float), variables)  # parameters are of single precision by themselves


@pytest.mark.parametrize(
    ("image_size", "num_classes", "generator", "discriminator"),
    [
        (32, 0, 4_276_739, 1_053_825),
        (32, 10, 4_304_387, 1_055_105),
        (48, 0, None, 10_141_441),
        (64, 0, 12_220_675, 10_141_441),
        (128, 0, 32_150_787, 29_017_857),
        (128, 1000, 41_996_931, 30_041_857),
    ],
)
def test_networks_have_as_many_parameters_as_the_published_ones(image_size, num_classes, generator, discriminator):
    made, variables = shapes(sngan.Generator(image_size, num_classes=num_classes), (2, 128), num_classes)
    assert (made.shape, made.dtype) == ((2, image_size, image_size, 3), jnp.float32)
    assert generator is None or count_parameters(variables["params"]) == generator
    logits, variables = shapes(sngan.Discriminator(num_classes=num_classes), made.shape, num_classes)
    assert (logits.shape, logits.dtype) == ((2,), jnp.float32)
    assert count_parameters(variables["params"]) == discriminator


def test_the_generator_for_48_pixels_starts_from_6x6x512_and_halves_its_width_three_times():
    _, variables = shapes(sngan.Generator(48), (2, 128))
    count = (128 + 1) * 6 * 6 * 512
    for c, o in ((512, 256), (256, 128), (128, 64)):
        count += 2 * c + 9 * c * o + o + 2 * o + 9 * o * o + o + c * o + o  # norm, 3x3, norm, 3x3, shortcut
    count += 2 * 64 + 9 * 64 * 3 + 3
    assert count_parameters(variables["params"]) == count


@pytest.mark.parametrize("image_size", sngan.LAYOUTS)
def test_every_size_is_made_and_read_in_any_number_of_channels_at_a_width_of_ones_own(image_size):
    image = (2, image_size, image_size, 1)
    generator = sngan.Generator(image_size, channels=1, features=16, num_classes=2)
    assert shapes(generator, (2, 8), 2)[0].shape == image
    discriminator = sngan.Discriminator(features=16, num_classes=2)
    assert shapes(discriminator, image, 2)[0].shape == (2,)


def test_28_pixels_are_made_from_7x7_in_two_blocks_and_read_in_two_more_at_7x7():
    def maps(module, shape):
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        blocks = lambda m, _: isinstance(m, (sngan.GeneratorBlock, sngan.DiscriminatorBlock))  # noqa: E731

        def run(x):
            variables = module.init(jax.random.key(0), x, train=True)
            return module.apply(variables, x, train=False, capture_intermediates=blocks, mutable=["intermediates"])[1]

        found = jax.eval_shape(run, x)["intermediates"]
        return [found[name]["__call__"][0].shape[1:] for name in sorted(found)]

    assert maps(sngan.Generator(28), (2, 128)) == [(14, 14, 256), (28, 28, 256)]
    sizes = [(14, 14, 128), (7, 7, 128), (7, 7, 128), (7, 7, 128)]
    assert maps(sngan.Discriminator(), (2, 28, 28, 1)) == sizes
    assert maps(sngan.Discriminator(), (2, 32, 32, 3)) == [(16, 16, 128)] + 3 * [(8, 8, 128)]


def test_the_last_normalisation_of_the_generator_knows_no_classes_and_all_others_do():
    _, variables = shapes(GENERATOR, (2, 8), 3)
    scales = {path[-2]: leaf.shape for path, leaf in flatten_dict(variables["params"]).items() if path[-1] == "scale"}
    assert scales == {"ConditionalBatchNorm_0": (3, 4), "ConditionalBatchNorm_1": (3, 4), "BatchNorm_0": (4,)}


def test_every_matrix_of_the_discriminator_is_spectrally_normalised():
    _, variables = shapes(DISCRIMINATOR, (2, 28, 28, 1), 3)
    assert set(variables) == {"params", "spectral_norm"}
    params = flatten_dict(variables["params"])
    owners = {path[:-1] for path in params if path[-1] in ("kernel", "embedding")}
    assert {path[:-1] for path in flatten_dict(variables["spectral_norm"])} == owners
    assert {path[:-1] for path in params} == owners


@pytest.mark.slow
@pytest.mark.usefixtures("double_precision")
def test_xavier_bounds_are_wider_in_residual_branches_by_the_square_root_of_two():
    key = jax.random.key(0)
    generator = init(sngan.Generator(32, features=32), key, jnp.zeros((1, 64)))["params"]
    discriminator = init(sngan.Discriminator(32, 10), key, jnp.zeros((1, 28, 28, 3)), jnp.zeros(1, int))["params"]
    for path, leaf in (flatten_dict(generator) | flatten_dict(discriminator)).items():
        if path[-1] == "bias":
            np.testing.assert_array_equal(leaf, np.zeros_like(leaf))
        elif path[-1] in ("kernel", "embedding"):
            residual = path[0].endswith(tuple(f"Block_{i}" for i in range(4))) and path[1] != "shortcut"
            fans = np.prod(leaf.shape[:-2]) * (leaf.shape[-2] + leaf.shape[-1])
            bound = np.sqrt((2 if residual else 1) * 6 / fans)
            assert np.abs(leaf).max() <= bound and np.abs(leaf).max() > 0.7 * bound, path
            assert leaf.size < 1000 or np.std(leaf) == pytest.approx(bound / np.sqrt(3), rel=0.05), path


def _conv(params, x, normalised=False):
    kernel = params["kernel"]
    if normalised:
        kernel = kernel / np.linalg.norm(np.asarray(kernel).reshape(-1, kernel.shape[-1]), 2)
    y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + params["bias"]


@pytest.mark.usefixtures("double_precision")
@pytest.mark.slow
def test_a_generator_block_is_the_published_one_whose_shortcut_is_enlarged_first():
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 5))
    module = sngan.GeneratorBlock(2)
    variables = init(module, jax.random.key(1), x)
    params = jax.tree.map(lambda p: p + 0.3, variables["params"])  # biases that are not zero

    def norm(p, x):
        return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * p["scale"] + p["bias"]

    def enlarge(x):
        return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)

    h = _conv(params["Conv_0"], enlarge(nn.relu(norm(params["BatchNorm_0"], x))))
    h = _conv(params["Conv_1"], nn.relu(norm(params["BatchNorm_1"], h)))
    y, _ = module.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, h + _conv(params["shortcut"], enlarge(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    ("first", "halve", "features"), [(True, True, 2), (False, True, 2), (False, False, 2), (False, False, 5)]
)
@pytest.mark.slow
def test_a_discriminator_block_is_the_published_one_whose_shortcut_is_averaged_last(first, halve, features):
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 5))
    module = sngan.discriminator_block(5, features, halve, first, dtype=None)
    variables = init(module, jax.random.key(1), x)
    params = jax.tree.map(lambda p: p + 0.3, variables["params"])

    def singular_vector(layer):
        return {"u": jnp.asarray(np.linalg.svd(layer["kernel"].reshape(-1, layer["kernel"].shape[-1]))[2][0])}

    def average(x):
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4 if halve else x

    h = _conv(params["SpectralConv_0"], x if first else nn.relu(x), normalised=True)
    h = average(_conv(params["SpectralConv_1"], nn.relu(h), normalised=True))
    shortcut = average(_conv(params["shortcut"], x, normalised=True)) if "shortcut" in params else x
    assert ("shortcut" in params) == (halve or features != 5)
    variables = {"params": params, "spectral_norm": {name: singular_vector(p) for name, p in params.items()}}
    np.testing.assert_allclose(module.apply(variables, x, train=False), h + shortcut, rtol=1e-9, atol=1e-9)


def drawn(module, shape, seed=0):
    """Variables that no initialisation had to be compiled for."""
    rng = np.random.default_rng(seed)
    _, variables = shapes(module, shape, module.num_classes)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), variables)


def game(seed):
    """Variables of the generator and of the discriminator, latents and labels."""
    rng = np.random.default_rng(seed)
    variables = drawn(GENERATOR, (4, 8), seed), drawn(DISCRIMINATOR, (4, 28, 28, 1), seed)
    return *variables, jnp.asarray(rng.normal(size=(4, 8)), jnp.float32), jnp.asarray(rng.permutation(4) % 3)


def play(generator, discriminator, variables, judge_variables, z, label):
    """Images, logits and states after a pass through both networks in training."""
    state = {"batch_stats": variables["batch_stats"]}
    image, stats = network.apply(generator, variables["params"], state, z, label)
    state = {"spectral_norm": judge_variables["spectral_norm"]}
    logits, state = network.apply(discriminator, judge_variables["params"], state, image, label)
    return {"image": image, "logits": logits, "states": {**stats, **state}}


@pytest.fixture(scope="module")
def full():
    """Two games alone, in float32."""
    run = jax.jit(functools.partial(play, GENERATOR, DISCRIMINATOR))
    return [run(*game(seed)) for seed in (0, 1)]


@pytest.mark.slow
def test_images_are_between_minus_one_and_one_and_every_pixel_depends_on_the_latent(full):
    image = full[0]["image"]
    assert image.shape == (4, 28, 28, 1) and np.abs(image).max() <= 1
    assert np.std(image, axis=0).min() > 0


@pytest.mark.slow
def test_two_seeds_under_vmap_are_two_runs(full):
    games = jax.tree.map(lambda *leaves: jnp.stack(leaves), game(0), game(1))
    together = jax.jit(jax.vmap(functools.partial(play, GENERATOR, DISCRIMINATOR)))(*games)
    for i, alone in enumerate(full):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-3), together, alone)


@pytest.mark.slow
def test_in_bfloat16_images_logits_and_states_are_float32_and_close(full):
    half = {"dtype": jnp.bfloat16}
    result = jax.jit(functools.partial(play, GENERATOR.clone(**half), DISCRIMINATOR.clone(**half)))(*game(0))
    for leaf in jax.tree.leaves(result):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()
    np.testing.assert_allclose(result["image"], full[0]["image"], atol=0.1)
    np.testing.assert_allclose(result["logits"], full[0]["logits"], rtol=0.1, atol=0.1)


LABELS = jnp.array([[0, 1, 2, 1], [2, 2, 0, 1]])


@pytest.mark.slow
def test_gradients_of_hinge_and_of_a_gradient_penalty_reach_every_parameter_of_the_discriminator_in_bfloat16():
    module = DISCRIMINATOR.clone(dtype=jnp.bfloat16)
    x = jax.random.uniform(jax.random.key(0), (4, 28, 28, 1), minval=-1)
    variables = drawn(module, x.shape)
    state = {"spectral_norm": variables["spectral_norm"]}

    def objective(params):
        def judge(x):
            logits, new = network.apply(module, params, state, x, LABELS[0])
            return logits.sum(), (logits, new)

        dx, (logits, new) = jax.grad(judge, has_aux=True)(x)
        return nn.relu(1 - logits).mean() + jnp.sum(dx**2) / len(x), new

    gradients, _ = jax.jit(jax.grad(objective, has_aux=True))(variables["params"])
    for path, gradient in flatten_dict(gradients).items():
        assert gradient.dtype == jnp.float32 and np.isfinite(gradient).all() and np.any(gradient), path


def test_two_labels_differ_in_their_logit_by_the_inner_product_with_the_difference_of_their_embeddings():
    x = jax.random.uniform(jax.random.key(0), (4, 28, 28, 1), minval=-1)
    variables = drawn(DISCRIMINATOR, x.shape)
    table = variables["params"]["SpectralEmbed_0"]["embedding"]
    left, sigmas, right = np.linalg.svd(table)
    variables["spectral_norm"]["SpectralEmbed_0"]["u"] = jnp.asarray(right[0])

    @jax.jit
    def judge(label):
        return DISCRIMINATOR.apply(
            variables, x, label, train=False, capture_intermediates=True, mutable="intermediates"
        )

    (a, kept), (b, _) = judge(LABELS[0]), judge(LABELS[1])
    h = nn.relu(kept["intermediates"]["DiscriminatorBlock_3"]["__call__"][0]).sum((1, 2))
    embedding = table / sigmas[0]
    expected = ((embedding[LABELS[0]] - embedding[LABELS[1]]) * h).sum(-1)
    np.testing.assert_allclose(a - b, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).max() > 0.1
    dense = kept["intermediates"]["SpectralDense_0"]["__call__"][0][:, 0]
    np.testing.assert_allclose(a, dense + (embedding[LABELS[0]] * h).sum(-1), rtol=1e-4, atol=1e-5)


def test_an_image_is_judged_by_itself_and_a_label_that_does_not_exist_spoils_its_own_logit_alone():
    x = jax.random.uniform(jax.random.key(0), (4, 28, 28, 1), minval=-1)
    variables = drawn(DISCRIMINATOR, x.shape)
    judge = jax.jit(lambda x, label: DISCRIMINATOR.apply(variables, x, label, train=True, mutable=["spectral_norm"])[0])
    logits = judge(x, LABELS[0])
    np.testing.assert_array_equal(judge(x.at[2:].set(0.5), LABELS[0])[:2], logits[:2])
    spoilt = judge(x, jnp.array([0, 3, 2, -1]))
    np.testing.assert_array_equal(np.isnan(spoilt), [False, True, False, True])
    np.testing.assert_array_equal(spoilt[::2], logits[::2])


@pytest.mark.parametrize("size", [27, 56, 256])
def test_other_sizes_are_refused_with_those_that_are_allowed(size):
    for module, shape in ((sngan.Generator(size), (2, 8)), (sngan.Discriminator(), (2, size, size, 3))):
        with pytest.raises(ValueError, match=f"28, 32, 48, 64 or 128 pixels, not {size}"):
            shapes(module, shape)


def test_images_that_are_not_square_and_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="square images, not 32x28"):
        shapes(sngan.Discriminator(), (2, 32, 28, 3))
    with pytest.raises(ValueError, match="features must be a multiple of 8 for this image size, not 12"):
        shapes(sngan.Generator(48, features=12), (2, 8))
    with pytest.raises(ValueError, match="features must be a multiple of 16 for this image size, not 8"):
        shapes(sngan.Discriminator(features=8), (2, 64, 64, 3))


def test_a_label_is_given_if_and_only_if_there_are_classes_and_one_for_each_image():
    for build, shape in (
        (functools.partial(sngan.Generator, 28, 1, 4), (2, 8)),
        (functools.partial(sngan.Discriminator, 4), (2, 28, 28, 1)),
    ):
        with pytest.raises(ValueError, match=r"give a label \[B\] in 0\.\.2"):
            shapes(build(num_classes=3), shape)
        with pytest.raises(ValueError, match="knows no classes"):
            shapes(build(), shape, num_classes=3)
        with pytest.raises(ValueError, match=r"label must have the shape \[2\], one for each image, not \[2, 3\]"):
            build(num_classes=3).init(jax.random.key(0), jnp.zeros(shape), jnp.zeros((2, 3)), train=True)
