from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen import models
from jaxgen.models import article, cnn, conv_vae, dcgan, mlp
from jaxgen.models.convolution import max_pool
from jaxgen.network import count_parameters

SIZES = range(28, 65)

pytestmark = pytest.mark.usefixtures("fast_compilation")


def shapes(module, *inputs, **options):
    """(output, variables) as shapes, without computing anything."""
    key = jax.random.key(0)
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs]
    return jax.eval_shape(lambda *x: module.init_with_output(key, *x, train=True, **options), *inputs)


def kernels(variables):
    """Shapes of the kernels in the order of the layers."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        if path[-1].key == "kernel":
            named[path[0].key] = leaf.shape
    return named


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.slow
def test_dcgan_and_the_convolutional_vae_make_and_read_every_size_from_28_to_64(channels):
    for size in SIZES:
        image = (2, size, size, channels)
        y, _ = shapes(dcgan.Generator(image_size=size, channels=channels, features=4), (2, 8))
        assert (y.shape, y.dtype) == (image, jnp.float32)
        y, _ = shapes(dcgan.Discriminator(features=4), image)
        assert (y.shape, y.dtype) == ((2,), jnp.float32)
        (mean, logvar), _ = shapes(conv_vae.Encoder(latent_dim=5, features=4), image)
        assert mean.shape == logvar.shape == (2, 5)
        logits, _ = shapes(conv_vae.Decoder(image_size=size, channels=channels, features=4), (2, 5))
        assert logits.shape == image


def test_images_are_halved_down_to_a_map_of_three_to_five_pixels():
    assert dcgan.sizes(28) == [28, 14, 7, 3]
    assert dcgan.sizes(47) == [47, 23, 11, 5]
    assert dcgan.sizes(32) == [32, 16, 8, 4]
    assert dcgan.sizes(63) == [63, 31, 15, 7, 3]
    assert dcgan.sizes(64) == [64, 32, 16, 8, 4]
    for size in SIZES:
        assert 3 <= dcgan.sizes(size)[-1] <= 5


@pytest.mark.parametrize("size", [27, 65, 0])
def test_sizes_outside_of_28_to_64_are_refused_by_name(size):
    image = (2, size, size, 3)
    for module, x in (
        (dcgan.Generator(image_size=size), (2, 8)),
        (dcgan.Discriminator(), image),
        (conv_vae.Encoder(), image),
        (conv_vae.Decoder(image_size=size), (2, 8)),
    ):
        with pytest.raises(ValueError, match=f"28 to 64 pixels, not {size}"):
            shapes(module, x)


def test_images_that_are_not_square_are_refused():
    for module in (dcgan.Discriminator(), conv_vae.Encoder()):
        with pytest.raises(ValueError, match="square images, not 32x28"):
            shapes(module, (2, 32, 28, 3))


def test_dcgan_has_the_widths_of_the_paper():
    _, variables = shapes(dcgan.Generator(image_size=64, channels=3, features=64), (2, 100))
    assert kernels(variables) == {
        "Dense_0": (100, 4 * 4 * 512),
        "ConvTranspose_0": (4, 4, 256, 512),
        "ConvTranspose_1": (4, 4, 128, 256),
        "ConvTranspose_2": (4, 4, 64, 128),
        "ConvTranspose_3": (4, 4, 3, 64),
    }
    _, variables = shapes(dcgan.Discriminator(features=64), (2, 64, 64, 3))
    assert kernels(variables) == {
        "Conv_0": (4, 4, 3, 64),
        "Conv_1": (4, 4, 64, 128),
        "Conv_2": (4, 4, 128, 256),
        "Conv_3": (4, 4, 256, 512),
        "Dense_0": (4 * 4 * 512, 1),
    }


def test_dcgan_normalises_all_layers_but_the_generators_last_and_the_discriminators_first():
    _, variables = shapes(dcgan.Generator(image_size=64, channels=3, features=4), (2, 8))
    widths = [s["mean"].shape for s in variables["batch_stats"].values()]
    assert widths == [(32,), (16,), (8,), (4,)]
    _, variables = shapes(dcgan.Discriminator(features=4), (2, 64, 64, 3))
    assert [s["mean"].shape for s in variables["batch_stats"].values()] == [(8,), (16,), (32,)]
    _, variables = shapes(dcgan.Discriminator(features=4, batch_norm=False), (2, 64, 64, 3))
    assert "batch_stats" not in variables
    # A bias before a normalisation would have no effect; without one it must be there.
    assert all("bias" in layer for layer in variables["params"].values())


def test_dcgan_is_drawn_with_a_standard_deviation_of_two_hundredths():
    module = dcgan.Generator(image_size=28, channels=1, features=16)
    params = jax.jit(lambda key: module.init(key, jnp.zeros((2, 16)), train=True))(jax.random.key(0))["params"]
    for name in ("Dense_0", "ConvTranspose_0"):
        assert float(jnp.std(params[name]["kernel"])) == pytest.approx(0.02, rel=0.05)
        assert float(jnp.mean(params[name]["kernel"])) == pytest.approx(0, abs=2e-3)
    scale = params["BatchNorm_0"]["scale"]
    assert float(jnp.mean(scale)) == pytest.approx(1, abs=0.02) and 0.005 < float(jnp.std(scale)) < 0.04


def test_an_odd_dcgan_makes_images_between_minus_one_and_one_that_its_discriminator_reads():
    generator = dcgan.Generator(image_size=29, channels=1, features=4)
    discriminator = dcgan.Discriminator(features=4)

    @jax.jit
    def run(key):
        z = jax.random.normal(key, (3, 8))
        image, variables = generator.init_with_output(key, 50 * z, train=True)
        logits, _ = discriminator.init_with_output(key, image, train=True)
        return image, logits, generator.apply(variables, z, train=False)

    image, logits, sampled = run(jax.random.key(0))
    assert image.shape == sampled.shape == (3, 29, 29, 1)
    assert np.isfinite(image).all() and np.abs(image).max() <= 1
    assert np.std(image, axis=0).min() > 0  # every pixel is reached, the odd row and column too
    assert logits.shape == (3,) and np.isfinite(logits).all()


def test_without_batch_norm_an_image_is_judged_by_itself():
    images = jax.random.normal(jax.random.key(1), (4, 28, 28, 1))
    for batch_norm in (False, True):
        module = dcgan.Discriminator(features=4, batch_norm=batch_norm)

        @jax.jit
        def alone_and_together(images, module=module):
            variables = module.init(jax.random.key(0), images, train=True)

            def judge(x):
                return module.apply(variables, x, train=True, mutable=["batch_stats"])[0]

            return judge(images)[:2], judge(images[:2])

        together, alone = alone_and_together(images)
        assert np.allclose(together, alone, atol=1e-5) != batch_norm


def test_the_article_network_has_exactly_the_shapes_of_the_article():
    y, variables = shapes(article.Generator(), (2, 100))
    assert y.shape == (2, 56, 56, 3)
    assert kernels(variables) == {
        "Dense_0": (100, 128),
        "Dense_1": (128, 128),
        "Dense_2": (128, 1024),
        "Dense_3": (1024, 7 * 7 * 256),
        "ConvTranspose_0": (4, 4, 128, 256),
        "ConvTranspose_1": (4, 4, 64, 128),
        "ConvTranspose_2": (4, 4, 3, 64),
    }
    assert len(variables["batch_stats"]) == 6  # four dense layers, two of the three transposed convolutions
    y, variables = shapes(article.Discriminator(), (2, 56, 56, 3))
    assert y.shape == (2,)
    assert kernels(variables) == {
        "Conv_0": (4, 4, 3, 64),
        "Conv_1": (4, 4, 64, 128),
        "Conv_2": (4, 4, 128, 256),
        "Dense_0": (7 * 7 * 256, 1),
    }
    assert "batch_stats" not in variables


def test_the_classifier_returns_logits_and_on_request_its_features():
    module = cnn.CNN(num_classes=10, widths=(4, 8), num_features=16)
    logits, variables = shapes(module, (2, 28, 28, 1))
    assert logits.shape == (2, 10)
    assert kernels(variables) == {
        "Conv_0": (3, 3, 1, 4),
        "Conv_1": (3, 3, 4, 8),
        "Dense_0": (7 * 7 * 8, 16),
        "Dense_1": (16, 10),
    }
    (logits, features), _ = shapes(module, (2, 28, 28, 1), return_features=True)
    assert logits.shape == (2, 10) and features.shape == (2, 16)


def test_the_classifier_refuses_images_that_its_poolings_would_empty():
    with pytest.raises(ValueError, match="at least 8 pixels, not 32x7"):
        shapes(cnn.CNN(num_classes=10), (2, 32, 7, 3))
    shapes(cnn.CNN(num_classes=10), (2, 8, 9, 3))  # need not be square


def test_the_classifier_drops_out_in_training_only_and_uses_running_statistics_otherwise():
    module = cnn.CNN(num_classes=3, widths=(4,), num_features=32, dropout=0.5)
    x = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    variables = jax.jit(lambda key: module.init(key, x, train=True))(jax.random.key(1))

    @jax.jit
    def train(seed):
        return module.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(seed)})[
            0
        ]

    assert not np.allclose(train(0), train(1))
    evaluate = jax.jit(lambda x: module.apply(variables, x, train=False))
    np.testing.assert_allclose(evaluate(x)[:2], evaluate(x[:2]), atol=1e-6)


def test_max_pooling_finds_its_maxima_where_its_input_could_be_computed_twice():
    # A normalisation and a rectifier, as before every pooling: JAX 0.12 without optimisation rounds it in two ways.
    rng = np.random.default_rng(0)
    x, weights = (rng.normal(size=shape).astype(np.float32) for shape in ((16, 28, 28, 2), (16, 14, 14, 2)))

    def gradient(pool, activation):
        def f(x, scale, bias):
            x = (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5) * scale + bias
            return jnp.sum(weights * pool(activation(x)))

        return jax.jit(jax.grad(f, (0, 1, 2)))(x, np.array([0.7, 1.3], np.float32), np.array([0.1, -0.2], np.float32))

    for activation in (lambda x: x, nn.relu):
        ours = gradient(max_pool, activation)
        theirs = gradient(lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)), activation)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_max_pooling_gives_each_window_one_gradient_and_keeps_nan():
    x = np.ones((1, 4, 6, 1), np.float32)  # all equal
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x))))(x)
    assert float(jnp.sum(gradient)) == 6 and set(np.unique(gradient)) == {0.0, 1.0}
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        bad = x.copy()
        bad[0, row, column] = np.nan
        pooled = max_pool(bad)
        assert np.isnan(pooled[0, 0, 0, 0]) and np.isnan(pooled).sum() == 1
    three = np.arange(36, dtype=np.float32).reshape(1, 6, 6, 1)
    np.testing.assert_array_equal(max_pool(three, 3)[0, :, :, 0], [[14, 17], [32, 35]])


def test_the_perceptrons_of_the_iwae_paper_have_its_sizes():
    (mean, logvar), variables = shapes(mlp.Encoder(), (2, 28, 28, 1))
    assert mean.shape == logvar.shape == (2, 50)
    assert kernels(variables) == {"Dense_0": (784, 200), "Dense_1": (200, 200), "Dense_2": (200, 100)}
    logits, variables = shapes(mlp.BernoulliDecoder(), (2, 50))
    assert logits.shape == (2, 28, 28, 1)
    assert kernels(variables) == {"Dense_0": (50, 200), "Dense_1": (200, 200), "Dense_2": (200, 784)}
    assert count_parameters(variables["params"]) == 51 * 200 + 201 * 200 + 201 * 784


def test_the_encoder_reads_black_pixels_as_zero_and_white_ones_as_one():
    module = mlp.Encoder(latent_dim=1, widths=())
    variables = module.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)), train=True)
    black, white = -jnp.ones((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1))
    kernel = variables["params"]["Dense_0"]["kernel"]
    assert [float(x[0, 0]) for x in module.apply(variables, black, train=False)] == [0, 0]
    means = [x[0, 0] for x in module.apply(variables, white, train=False)]
    np.testing.assert_allclose(means, kernel.sum(0), rtol=1e-6)


def test_the_players_for_points_in_the_plane_have_the_shapes_asked_for():
    y, _ = shapes(mlp.Generator(features=2, widths=(7, 9)), (5, 3))
    assert y.shape == (5, 2)
    y, variables = shapes(mlp.Discriminator(widths=(7, 9)), (5, 2))
    assert y.shape == (5,)
    assert kernels(variables) == {"Dense_0": (2, 7), "Dense_1": (7, 9), "Dense_2": (9, 1)}


def test_a_decoder_with_a_learned_width_adds_one_number_per_channel():
    (x, log_width), variables = shapes(conv_vae.Decoder(image_size=28, channels=3, learned_width=True), (2, 8))
    assert x.shape == log_width.shape == (2, 28, 28, 3)
    assert variables["params"]["log_width"].shape == (3,)
    start = conv_vae.Decoder(image_size=28, channels=1, features=2, learned_width=True)
    _, log_width = jax.jit(lambda key: start.init_with_output(key, jnp.zeros((1, 2)), train=True)[0])(jax.random.key(0))
    np.testing.assert_array_equal(log_width, -3)


BFLOAT16 = jnp.bfloat16
IN_HALF_PRECISION = {
    "dcgan.Generator": (dcgan.Generator(image_size=28, channels=1, features=4, dtype=BFLOAT16), (2, 8)),
    "dcgan.Discriminator": (dcgan.Discriminator(features=4, dtype=BFLOAT16), (2, 28, 28, 1)),
    "article.Generator": (article.Generator(dtype=BFLOAT16), (2, 8)),
    "article.Discriminator": (article.Discriminator(dtype=BFLOAT16), (2, 56, 56, 3)),
    "cnn.CNN": (cnn.CNN(num_classes=10, dtype=BFLOAT16), (2, 28, 28, 1)),
    "conv_vae.Encoder": (conv_vae.Encoder(features=4, dtype=BFLOAT16), (2, 28, 28, 1)),
    "conv_vae.Decoder": (conv_vae.Decoder(features=4, dtype=BFLOAT16), (2, 8)),
    "mlp.Generator": (mlp.Generator(dtype=BFLOAT16), (2, 8)),
    "mlp.Discriminator": (mlp.Discriminator(dtype=BFLOAT16), (2, 2)),
    "mlp.Encoder": (mlp.Encoder(dtype=BFLOAT16), (2, 28, 28, 1)),
    "mlp.BernoulliDecoder": (mlp.BernoulliDecoder(dtype=BFLOAT16), (2, 50)),
}


def equations(jaxpr):
    """All equations, those of inner programs included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("name", IN_HALF_PRECISION)
def test_half_precision_computes_in_bfloat16_with_single_precision_parameters_and_results(name):
    module, shape = IN_HALF_PRECISION[name]
    output, variables = shapes(module, shape)
    assert {leaf.dtype for leaf in jax.tree.leaves((output, variables))} == {jnp.dtype(jnp.float32)}

    def run(variables, x):
        key = jax.random.key(0)
        return module.apply(variables, x, train=True, mutable=list(variables), rngs={"dropout": key})[0]

    gradient = jax.grad(lambda *args: sum(map(jnp.sum, jax.tree.leaves(run(*args)))))
    for program in (run, gradient):
        jaxpr = jax.make_jaxpr(program)(variables, jax.ShapeDtypeStruct(shape, jnp.float32)).jaxpr
        products = [e for e in equations(jaxpr) if e.primitive.name in ("conv_general_dilated", "dot_general")]
        assert len(products) >= len(kernels(variables))
        for equation in products:
            assert {v.aval.dtype for v in equation.invars} == {jnp.dtype(BFLOAT16)}, equation


def test_modules_can_be_compared_and_hashed_so_that_they_may_be_static_arguments():
    for module, _ in IN_HALF_PRECISION.values():
        assert isinstance(hash(module), int) and module == module.clone()
        assert isinstance(module, nn.Module)


def test_every_convolution_is_ours():
    """Flax's are slow backwards, twice backwards and in loops on CPU (`models.convolution`)."""
    for file in sorted(Path(models.__file__).parent.glob("*.py")):
        code = file.read_text().split('"""', 2)[-1]
        for theirs in ("nn.Conv(", "nn.ConvTranspose(", "nn.ConvLocal(", "linen.Conv("):
            assert theirs not in code, f"{file.name} uses {theirs}"
