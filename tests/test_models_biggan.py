import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from jaxgen import building, description, network
from jaxgen.losses import terms
from jaxgen.models import biggan
from jaxgen.models.attention import SelfAttention
from jaxgen.models.resampling import enlarge, halve
from jaxgen.network import count_parameters
from jaxgen.system import Spec
from jaxgen.systems import biggan as system

pytestmark = pytest.mark.usefixtures("fast_compilation")

SMALL = {"features": 2, "num_classes": 3}
GENERATOR = biggan.Generator(28, 1, embedding_dim=5, **SMALL)  # two blocks, three chunks
DISCRIMINATOR = biggan.Discriminator(**SMALL)
LABELS = jnp.array([0, 2, 1, 2])


@functools.partial(jax.jit, static_argnums=0)
def apply(module, variables, *inputs):
    return module.apply(variables, *inputs, train=False)


def shapes(module, shape):
    """(output, variables) as shapes, without computing anything."""
    x, label = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    key = jax.random.key(0)
    return jax.eval_shape(lambda x, label: module.init_with_output(key, x, label, train=True), x, label)


def drawn(module, shape, seed=0):
    """Variables that no initialisation had to be compiled for."""
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes(module, shape)[1]
    )
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(lambda x: 0.1 + jnp.abs(x), variables["batch_stats"])
    return variables


# Counts ---------------------------------------------------------------------------------------------------------------


def counts(image_size, latent_dim, features=96, num_classes=1000, wide=True, **settings):
    shared = {"features": features, "num_classes": num_classes, "deep": settings.pop("deep", False)}
    made, variables = shapes(biggan.Generator(image_size, **shared, **settings), (2, latent_dim))
    assert (made.shape, made.dtype) == ((2, image_size, image_size, 3), jnp.float32)
    logits, judging = shapes(biggan.Discriminator(wide=wide, **shared), made.shape)
    assert (logits.shape, logits.dtype) == ((2,), jnp.float32)
    return count_parameters(variables["params"]), count_parameters(judging["params"])


def test_networks_have_as_many_parameters_as_the_published_ones():
    assert counts(128, 120) == (70_433_988, 87_982_370)
    assert counts(128, 120, features=64) == (31_978_628, 39_448_258)
    assert counts(64, 120, features=64) == (31_969_540, 20_571_842)


@pytest.mark.slow
def test_at_256_pixels_the_latent_of_the_paper_adds_three_numbers_to_each_chunk_of_the_published_count():
    assert counts(256, 119) == (82_108_548, 99_225_890)  # 7 chunks of 17, as the first author's code divides 120
    added = 16 * 96 * 16 + 2 * 96 * (16 + 16 + 16 + 8 + 8 + 8 + 8 + 4 + 4 + 2 + 2 + 1)  # the first map, and the norms
    assert counts(256, 140)[0] == 82_108_548 + 3 * added


def test_without_an_embedding_cifars_generator_has_as_many_parameters_as_sngans_with_projection():
    thin = counts(32, 128, 64, 10, embedding_dim=0, wide=False)
    assert thin == (4_304_387, 3_617_365)
    wide = counts(32, 128, 64, 10, embedding_dim=0)
    hidden = (9 * 256 * 256 + 256) - (9 * 3 * 3 + 3)  # of the first block: 256 channels instead of the image's 3
    assert wide == (4_304_387, 3_617_365 + hidden)


def test_biggan_deep_has_as_many_parameters_as_the_published_one():
    assert counts(128, 128, 128, deep=True) == (50_244_484, 34_590_210)


@pytest.mark.slow
@pytest.mark.parametrize("name", system.PRESETS)
def test_presets_are_described_without_data(name):
    preset = system.PRESETS[name]
    built = building.build_system(preset.config, description.spec_of(preset.config, preset))
    expected = {
        "cifar-biggan": (4_304_387, 3_617_365),
        "imagenet-biggan-128": (70_433_988, 87_982_370),
        "imagenet-biggan-256": (82_108_548, 99_225_890),
        "imagenet-biggan-deep-128": (50_244_484, 34_590_210),
    }
    found = built.parameters["generator"], built.parameters["discriminator"]
    assert found == expected.get(name, found)
    steps = preset.config.ema_half_life / preset.config.batch_size
    assert 0.5 ** (1 / steps) == pytest.approx(0.9999, abs=1e-6)


# The generator --------------------------------------------------------------------------------------------------------


def test_each_chunk_reaches_the_scales_and_shifts_of_its_own_block_and_no_others():
    z = jax.random.normal(jax.random.key(0), (2, 6))
    variables = drawn(GENERATOR, z.shape)

    def scales_and_shifts(z):
        keep = lambda m, _: m.name in ("scale", "shift")  # noqa: E731
        _, kept = GENERATOR.apply(
            variables, z, LABELS[:2], train=False, capture_intermediates=keep, mutable=["intermediates"]
        )
        return flatten_dict(kept["intermediates"])

    jacobians = jax.jit(jax.jacobian(scales_and_shifts))(z)
    assert len(jacobians) == 2 * 2 * 2  # blocks, norms, scale and shift
    for path, (jacobian,) in jacobians.items():
        block = int(path[0].removeprefix("GeneratorBlock_"))
        of_chunks = np.abs(jacobian).sum((0, 1, 2)).reshape(3, 2).sum(-1)
        np.testing.assert_array_equal(of_chunks > 0, np.arange(3) == block + 1, err_msg=str(path))


def test_the_first_chunk_alone_makes_the_first_map():
    z = jax.random.normal(jax.random.key(0), (2, 6))
    variables = drawn(GENERATOR, z.shape)

    def first(z):
        keep = lambda m, _: m.name == "SpectralDense_0"  # noqa: E731
        kept = GENERATOR.apply(variables, z, LABELS[:2], train=False, capture_intermediates=keep, mutable=True)[1]
        return kept["intermediates"]["SpectralDense_0"]["__call__"][0]

    of_latent = np.abs(jax.jit(jax.jacobian(first))(z)).sum((0, 1, 2))
    np.testing.assert_array_equal(of_latent > 0, np.arange(6) < 2)


@pytest.mark.slow
def test_the_embedding_is_one_table_of_which_an_image_sees_the_row_of_its_label():
    z = jax.random.normal(jax.random.key(0), (2, 6))
    variables = drawn(GENERATOR, z.shape)
    tables = {path: leaf for path, leaf in flatten_dict(variables["params"]).items() if path[-1] == "embedding"}
    assert {path: leaf.shape for path, leaf in tables.items()} == {("embedding",): (3, 5)}

    def total(params):
        return jnp.sum(GENERATOR.apply({**variables, "params": params}, z, jnp.array([2, 2]), train=False) ** 2)

    gradients = jax.jit(jax.grad(total))(variables["params"])
    np.testing.assert_array_equal(np.any(gradients["embedding"], axis=1), [False, False, True])
    assert all(np.any(gradient) for gradient in jax.tree.leaves(gradients))


def test_without_an_embedding_each_normalisation_has_a_table_and_all_of_the_latent_makes_the_first_map():
    module = GENERATOR.clone(embedding_dim=0)
    _, variables = shapes(module, (2, 7))  # 7 makes no three chunks
    params = flatten_dict(variables["params"])
    assert params["SpectralDense_0", "kernel"].shape[0] == 7
    tables = [path for path, leaf in params.items() if leaf.shape == (3, 8)]
    assert len(tables) == 2 * 2 * 2 and ("embedding",) not in params


def test_in_biggan_deep_everything_sees_the_embedding_and_all_of_the_latent():
    _, variables = shapes(GENERATOR.clone(deep=True), (2, 7))
    params = flatten_dict(variables["params"])
    told = [leaf.shape[0] for path, leaf in params.items() if path[-2:] in (("scale", "kernel"), ("shift", "kernel"))]
    assert told == [5 + 7] * (2 * 2 * 4 * 2)  # two blocks at each of two sizes, four norms, scale and shift
    assert params["SpectralDense_0", "kernel"].shape[0] == 5 + 7


def norm_over_exact_values(kernel):
    return np.asarray(kernel) / np.linalg.norm(kernel, 2), {"u": jnp.asarray(np.linalg.svd(kernel)[2][0])}


@pytest.mark.usefixtures("double_precision")
def test_a_normalisation_is_one_plus_a_linear_scale_and_a_linear_shift():
    rng = np.random.default_rng(0)
    x, told, a, b = (rng.normal(size=shape) for shape in ((4, 3, 3, 5), (4, 2), (2, 5), (2, 5)))
    (scale, of_scale), (shift, of_shift) = norm_over_exact_values(a), norm_over_exact_values(b)
    variables = {
        "params": {"scale": {"kernel": jnp.asarray(a)}, "shift": {"kernel": jnp.asarray(b)}},
        "spectral_norm": {"scale": of_scale, "shift": of_shift},
    }
    module = biggan.ToldBatchNorm()
    stats = jax.eval_shape(lambda: module.init(jax.random.key(0), x, told, train=True))["batch_stats"]
    variables["batch_stats"] = jax.tree.map(lambda s: jnp.ones(s.shape), stats)
    y, _ = module.apply(variables, x, told, train=True, mutable=["batch_stats", "spectral_norm"])
    normal = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-4)
    expected = normal * (1 + told @ scale)[:, None, None] + (told @ shift)[:, None, None]
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


def without_last_convolution(module, shape, *more):
    """Variables of a block whose residual branch returns 0."""
    inputs = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, *more)]
    found = jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x, train=True), *inputs)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), found)
    last = variables["params"]["SpectralConv_3"]
    variables["params"]["SpectralConv_3"] = jax.tree.map(jnp.zeros_like, last)
    return variables


@pytest.mark.parametrize("enlarging", [False, True])
@pytest.mark.slow
def test_the_shortcut_of_a_deep_generator_block_drops_the_last_channels(enlarging):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    told = jax.random.normal(jax.random.key(1), (2, 3))
    module = biggan.DeepGeneratorBlock(6, 3, enlarge=enlarging)
    variables = without_last_convolution(module, x.shape, told.shape)
    assert variables["params"]["SpectralConv_1"]["kernel"].shape == (3, 3, 2, 2)
    y, _ = module.apply(variables, x, told, train=True, mutable=["batch_stats", "spectral_norm"])
    kept = x[..., :6]
    np.testing.assert_allclose(y, enlarge(kept) if enlarging else kept, rtol=1e-6)


@pytest.mark.parametrize("halving", [False, True])
def test_the_shortcut_of_a_deep_discriminator_block_keeps_all_channels_and_adds_linear_ones(halving):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    module = biggan.DeepDiscriminatorBlock(8, halving)
    variables = without_last_convolution(module, x.shape)
    kernel, bias = (variables["params"]["shortcut"][name] for name in ("kernel", "bias"))
    assert kernel.shape == (1, 1, 6, 2)
    u = variables["spectral_norm"]["shortcut"]["u"]
    kernel = kernel[0, 0] / np.linalg.norm(kernel[0, 0] @ (u / np.linalg.norm(u)))
    small = halve(x) if halving else x
    expected = jnp.concatenate([small, small @ kernel + bias], axis=-1)
    np.testing.assert_allclose(module.apply(variables, x, train=False), expected, rtol=1e-5, atol=1e-5)
    same = biggan.DeepDiscriminatorBlock(6, halving)
    assert "shortcut" not in without_last_convolution(same, x.shape)["params"]


# Both players ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("image_size", "size", "of_generator", "of_discriminator"),
    [(28, 14, 4, (4, 4)), (64, 32, 4, (1, 2)), (128, 64, 2, (1, 2)), (256, 64, 4, (2, 4))],
)
@pytest.mark.slow
def test_one_map_of_either_player_attends_to_itself(deep, image_size, size, of_generator, of_discriminator):
    def attending(module, shape):
        x, label = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
        keep = lambda m, _: isinstance(m, SelfAttention)  # noqa: E731

        def run(x, label):
            variables = module.init(jax.random.key(0), x, label, train=True)
            return module.apply(variables, x, label, train=False, capture_intermediates=keep, mutable=True)[1]

        found = jax.eval_shape(run, x, label)["intermediates"]
        return [layer["__call__"][0].shape[1:] for layer in found.values()]

    num_blocks = len(biggan.LAYOUTS[image_size].generator) - 1
    module = biggan.Generator(image_size, deep=deep, **SMALL)
    assert attending(module, (2, num_blocks + 1)) == [(size, size, 2 * of_generator)]
    expected = [(size, size, 2 * of_discriminator[deep])]
    assert attending(biggan.Discriminator(deep=deep, **SMALL), (2, image_size, image_size, 3)) == expected


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(("module", "shape"), [(GENERATOR, (2, 6)), (DISCRIMINATOR, (2, 28, 28, 1))])
def test_every_matrix_of_both_players_is_spectrally_normalised_but_the_shared_embedding(module, shape, deep):
    _, variables = shapes(module.clone(deep=deep), shape)
    owners = {path[:-1] for path in flatten_dict(variables["params"]) if path[-1] in ("kernel", "embedding")}
    assert {path[:-1] for path in flatten_dict(variables["spectral_norm"])} == owners - {()}
    assert (() in owners) == (module is GENERATOR)


@pytest.mark.slow
def test_kernels_and_embeddings_are_orthogonal_at_first():
    generator, discriminator = (
        jax.jit(lambda x, m=module: m.init(jax.random.key(0), x, LABELS, train=True))(jnp.zeros(shape))["params"]
        for module, shape in ((GENERATOR, (4, 6)), (DISCRIMINATOR, (4, 28, 28, 1)))
    )
    for path, leaf in (flatten_dict(generator) | flatten_dict(discriminator)).items():
        if path[-1] in ("kernel", "embedding"):
            w = np.asarray(leaf).reshape(-1, leaf.shape[-1])
            gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
            np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5, err_msg=str(path))
        elif path[-1] in ("bias", "gain"):
            np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


@pytest.mark.slow
def test_the_orthogonal_term_sees_every_kernel_of_the_generator_and_neither_embedding_nor_biases():
    params = drawn(GENERATOR, (2, 6))["params"]
    one = terms.orthogonal()

    def value(params):
        return one.value(types.SimpleNamespace(gradient=lambda f: None, generator_params=params), None)[0]

    for path, gradient in flatten_dict(jax.grad(value)(params)).items():
        several = path[-1] == "kernel" and gradient.shape[-1] > 1  # a single filter has no other
        assert np.any(gradient) == several, path
    turned = params | {"embedding": 2 * params["embedding"]}
    assert value(turned) == value(params) > 0


@pytest.mark.slow
def test_a_label_that_does_not_exist_spoils_its_own_image_and_logit_alone():
    z, label = jax.random.normal(jax.random.key(0), (4, 6)), jnp.array([0, 3, 2, -1])
    for module in (GENERATOR, GENERATOR.clone(deep=True), GENERATOR.clone(embedding_dim=0)):
        image = apply(module, drawn(module, z.shape), z, label)
        for every in (np.all, np.any):
            np.testing.assert_array_equal(every(np.isnan(image), axis=(1, 2, 3)), [False, True, False, True])
    x = jax.random.uniform(jax.random.key(0), (4, 28, 28, 1), minval=-1)
    logits = apply(DISCRIMINATOR, drawn(DISCRIMINATOR, x.shape), x, label)
    np.testing.assert_array_equal(np.isnan(logits), [False, True, False, True])


@pytest.mark.slow
def test_the_logit_is_linear_in_the_last_map_and_in_the_embedding_of_the_label():
    x = jax.random.uniform(jax.random.key(0), (4, 28, 28, 1), minval=-1)
    variables = drawn(DISCRIMINATOR, x.shape)
    keep = lambda m, _: m.name in ("DiscriminatorBlock_3", "SpectralDense_0")  # noqa: E731
    logits, kept = DISCRIMINATOR.apply(
        variables, x, LABELS, train=False, capture_intermediates=keep, mutable=["intermediates"]
    )
    kept = {name: layer["__call__"][0] for name, layer in kept["intermediates"].items()}
    h = nn.relu(kept["DiscriminatorBlock_3"]).sum((1, 2))
    table, u = variables["params"]["SpectralEmbed_0"]["embedding"], variables["spectral_norm"]["SpectralEmbed_0"]["u"]
    embedding = table / np.linalg.norm(table @ (u / np.linalg.norm(u)))
    expected = kept["SpectralDense_0"][:, 0] + (embedding[LABELS] * h).sum(-1)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.slow
def test_in_bfloat16_images_logits_and_states_are_float32_and_close(deep):
    def play(dtype):
        generator, discriminator = (m.clone(deep=deep, dtype=dtype) for m in (GENERATOR, DISCRIMINATOR))
        z = jax.random.normal(jax.random.key(0), (4, 6))
        ours, theirs = drawn(generator, z.shape), drawn(discriminator, (4, 28, 28, 1))
        state = {name: ours[name] for name in ("batch_stats", "spectral_norm")}
        image, state = network.apply(generator, ours["params"], state, z, LABELS)
        judged, vectors = network.apply(
            discriminator, theirs["params"], {"spectral_norm": theirs["spectral_norm"]}, image, LABELS
        )
        return {"image": image, "logits": judged, "states": (state, vectors)}

    full, half = (jax.jit(play, static_argnums=0)(dtype) for dtype in (jnp.float32, jnp.bfloat16))
    for leaf in jax.tree.leaves(half):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()
    np.testing.assert_allclose(half["image"], full["image"], atol=0.2)
    assert np.std(full["image"], axis=0).min() > 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="28, 32, 64, 128 or 256 pixels, not 48"):
        shapes(biggan.Generator(48), (2, 120))
    with pytest.raises(
        ValueError, match="into 6 chunks for this image size: latent_dim must be a multiple of that, not 128"
    ):
        shapes(biggan.Generator(128), (2, 128))
    with pytest.raises(ValueError, match="square images, not 32x28"):
        shapes(biggan.Discriminator(), (2, 32, 28, 3))
    with pytest.raises(ValueError, match=r"maps of 64, 32, 16, 8 pixels \(0: nowhere\) in this network, not 128"):
        shapes(biggan.Generator(128, attention=128), (2, 120))
    with pytest.raises(ValueError, match=r"give a label \[B\] in 0\.\.2"):
        GENERATOR.init(jax.random.key(0), jnp.zeros((2, 6)), None, train=True)
    with pytest.raises(ValueError, match="BigGAN is told labels, and these data have none"):
        system.build(system.TINY, Spec.of_images((28, 28, 1)))
