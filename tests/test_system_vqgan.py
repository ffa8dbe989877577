"""VQGAN: sizes, layers, the adaptive weight, the late start, and perceptual distances."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import lax

from jaxgen import building, description, gan, optim, systems, turns
from jaxgen.losses import adversarial, perceptual, terms
from jaxgen.models import vqgan as networks
from jaxgen.network import Output, count_parameters
from jaxgen.system import Spec
from jaxgen.systems import vqgan
from jaxgen.systems.shared.vector_quantised import Quantiser

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY, RNG = jax.random.key(0), np.random.default_rng(0)


def drawn(module, x, **told):
    """Variables none of which is 0."""
    shapes = jax.eval_shape(lambda: module.init(KEY, x, **told))
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * RNG.normal(size=leaf.shape), leaf.dtype), shapes)


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "generator", "latents"),
    [("imagenet-vqgan-f16", 72_141_699, (16, 16)), ("openimages-klgan-f8", 83_653_863, (32, 32, 4))],
)
def test_published_presets_have_the_published_sizes_without_data(name, generator, latents):
    preset = systems.PRESETS[name]
    system = building.build_system(preset.config, description.spec_of(preset.config, preset))
    assert system.parameters == {"generator": generator, "discriminator": 2_765_633}
    assert jax.eval_shape(lambda: system.latents(KEY, 2)).shape == (2, *latents)
    parts = {name: count_parameters(part) for name, part in system.shapes.generator.params.items()}
    if name == "imagenet-vqgan-f16":
        convolutions = parts["to_vectors"] + parts["from_vectors"]
        assert (parts["encoder"], parts["decoder"], convolutions) == (29_298_176, 42_449_795, 131_584)
        assert parts["quantiser"] == 1024 * 256


def test_the_published_recipe():
    config = systems.PRESETS["imagenet-vqgan-f16"].config
    assert config.generator.learning_rate == pytest.approx(4.5e-6 * config.batch_size)
    assert (config.generator.b1, config.generator.b2, config.start) == (0.5, 0.9, 250_001)
    assert config.quantiser == Quantiser("gradient", 1024, 256, beta=0.25)
    assert (config.adversarial, config.loss, config.discriminator) == (0.8, "hinge", config.generator)
    kl = systems.PRESETS["openimages-klgan-f8"].config
    assert (kl.rate_weight, kl.adversarial, kl.start) == (1e-6, 0.5, 50_001)


# Layers ---------------------------------------------------------------------------------------------------------------


def convolved(x, layer, stride=1, padding=None):
    padding = [(layer["kernel"].shape[0] // 2,) * 2] * 2 if padding is None else padding
    found = lax.conv_general_dilated(
        x, layer["kernel"], (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return found + layer["bias"]


def normalised(x, layer, groups):
    grouped = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean, var = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    return ((grouped - mean) / np.sqrt(var + 1e-6)).reshape(x.shape) * layer["scale"] + layer["bias"]


def test_a_block_normalises_groups_and_convolves_twice_beside_a_shortcut():
    x = jnp.asarray(RNG.normal(size=(2, 4, 4, 64)), jnp.float32)  # 32 groups of two channels
    block = networks.Block(6)
    variables = drawn(block, x)
    p, y = variables["params"], np.asarray(x)
    for i, groups in enumerate((32, 2)):  # two is all that divides 32 and 6
        y = convolved(nn.swish(normalised(np.asarray(y), p[f"GroupNorm_{i}"], groups)), p[f"Conv_{i}"])
    expected = convolved(x, p["shortcut"]) + y
    np.testing.assert_allclose(jax.jit(block.apply)(variables, x), expected, rtol=1e-3, atol=1e-4)


def test_attention_divides_products_by_the_root_of_the_channels():
    x = jnp.asarray(RNG.normal(size=(2, 3, 3, 4)), jnp.float32)
    module = networks.Attention()
    variables = drawn(module, x)
    p = variables["params"]
    y = normalised(np.asarray(x), p["GroupNorm_0"], 4)
    q, k, v = (np.asarray(convolved(y, p[name])).reshape(2, 9, 4) for name in ("query", "key", "value"))
    seen = np.stack([np.asarray(nn.softmax(q[i] @ k[i].T / 2)) @ v[i] for i in range(2)]).reshape(x.shape)
    expected = x + convolved(jnp.asarray(seen), p["output"])
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x), expected, rtol=1e-4, atol=1e-5)


def test_maps_are_halved_with_pixels_added_below_and_to_the_right_alone():
    x = jnp.asarray(RNG.normal(size=(1, 6, 6, 1)), jnp.float32)
    encoder = networks.Encoder(outputs=2, features=2, multiples=(1, 1), blocks=1, attention=0)
    variables = drawn(encoder, x, train=False)

    def told(layer, _):
        return layer.name in ("Block_0", "Conv_0") and len(layer.path) == 1

    _, found = encoder.apply(variables, x, train=False, capture_intermediates=told, mutable=["intermediates"])
    block, halved = (found["intermediates"][name]["__call__"][0] for name in ("Block_0", "Conv_0"))
    expected = convolved(block, variables["params"]["Conv_0"], 2, [(0, 1), (0, 1)])
    assert halved.shape == (1, 3, 3, 2)
    np.testing.assert_allclose(halved, expected, rtol=1e-4, atol=1e-5)


def test_a_gaussian_draws_in_training_and_is_its_mean_otherwise_and_its_rate_is_that_of_an_image():
    module = networks.Gaussian(3)
    mean = jnp.asarray(RNG.normal(size=(2, 2, 2, 3)), jnp.float32)
    moments = jnp.concatenate([mean, jnp.full_like(mean, np.log(0.25))], axis=-1)
    assert module.dim == 6
    still = module.apply({}, moments, train=False)
    np.testing.assert_array_equal(still.vectors, mean)
    np.testing.assert_array_equal(still.codes, mean)
    by_hand = 0.5 * np.sum(np.asarray(mean) ** 2 + 0.25 - 1 - np.log(0.25), axis=(1, 2, 3)).mean()
    assert float(still.loss) == pytest.approx(by_hand, rel=1e-5)
    many = jnp.broadcast_to(moments[:1], (4000, *moments.shape[1:]))
    z = module.apply({}, many, train=True, rngs={"noise": KEY}).vectors
    np.testing.assert_allclose(z.mean(0), mean[0], atol=0.04)
    np.testing.assert_allclose(z.std(0), 0.5, atol=0.03)
    far = jnp.concatenate([mean, jnp.full_like(mean, 200.0)], axis=-1)
    assert np.isfinite(module.apply({}, far, train=False).loss)


def test_the_discriminator_judges_patches_and_images_that_are_too_small_are_one_sentence():
    def logits(module, size):
        x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
        return jax.eval_shape(lambda x: module.init_with_output(KEY, x, train=True), x)

    found, variables = logits(networks.Discriminator(), 256)
    assert found.shape == (2, 30, 30) and set(variables["batch_stats"]) == {f"BatchNorm_{i}" for i in range(3)}
    assert logits(networks.Discriminator(4), 24)[0].shape == (2, 1, 1)
    with pytest.raises(ValueError, match="halves sides 3 times needs at least 24 pixels, not 23x23"):
        logits(networks.Discriminator(4), 23)


# The adaptive weight --------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """x -> W x, of the image it is told."""

    @nn.compact
    def __call__(self, x, *, train):
        return Output(nn.Dense(3, name="last")(jnp.tanh(nn.Dense(3, name="first")(x))), {"half": 0.5 * x})


class Judge(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(jnp.tanh(nn.Dense(4)(x)))[:, 0]


@pytest.mark.parametrize(("most", "clipped"), [(1e4, False), (1e-3, True)])
@pytest.mark.slow
def test_the_weight_is_the_ratio_of_both_gradients_at_the_last_layer_and_a_constant(double_precision, most, clipped):
    images = {"image": jnp.asarray(RNG.uniform(-1, 1, (6, 3)))}

    def distance(image, real):
        return jnp.mean(jnp.abs(image - real))

    settings = dict(
        generator_optimizer=optim.recording(),
        discriminator_optimizer=optax.sgd(0.1),
        latent_dim=None,
        condition=lambda batch, step, key: turns.Conditions(generator=batch["image"]),
        generator_terms=[terms.reconstruction(1.0)],
    )
    weight = terms.adaptive_weight(
        lambda turn, output: distance(output.value, turn.real), ("last", "kernel"), factor=0.8, most=most
    )
    state = gan.init(KEY, Linear(), Judge(), example=images, **settings)
    state = jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)
    step = gan.make_train_step(Linear(), Judge(), loss=adversarial.hinge, adversarial_weight=weight, **settings)
    after, metrics = jax.jit(step)(state, images, KEY)
    judge = after.discriminator.params  # the generator is judged by the discriminator that has just moved

    def both(params):
        image = Linear().apply({"params": params}, images["image"], train=True).value
        return distance(image, images["image"]), -jnp.mean(Judge().apply({"params": judge}, image, train=True))

    of_distance, of_judge = (jax.grad(lambda params, i=i: both(params)[i])(state.generator.params) for i in (0, 1))
    norms = [float(jnp.linalg.norm(g["last"]["kernel"])) for g in (of_distance, of_judge)]
    expected = 0.8 * min(norms[0] / (norms[1] + 1e-4), most)
    assert clipped == (expected == 0.8 * most)
    assert float(metrics["generator/adversarial_weight"]) == pytest.approx(expected, rel=1e-6)
    whole = jax.tree.map(lambda a, b: a + expected * b, of_distance, of_judge)  # as of a constant
    recorded = after.generator.opt_state.gradient
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12), recorded, whole)


@pytest.mark.slow
def test_the_adversary_begins_late_with_an_optimiser_that_has_not_aged():
    system = building.build_system(dataclasses.replace(vqgan.TINY, perceptual="none"), Spec.of_images((8, 8, 1)))
    batch, state = {"image": jnp.asarray(RNG.uniform(-1, 1, (8, 8, 8, 1)), jnp.float32)}, system.init(KEY)
    step, before = jax.jit(system.train_step), state.discriminator.params
    moved, weights, losses = [], [], []
    for _ in range(4):
        state, metrics = step(state, batch, KEY)
        change = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before, state.discriminator.params)
        before = state.discriminator.params
        moved.append(max(jax.tree.leaves(change)))
        weights.append(float(metrics["generator/adversarial_weight"]))
        losses.append(float(metrics["generator/quantiser"]))
    rate = vqgan.TINY.discriminator.learning_rate
    assert moved[:2] == [0, 0] and weights[:2] == [0, 0] and min(weights[2:]) > 0
    assert moved[2] == pytest.approx(rate, rel=1e-2)  # Adam's first step: no number moves further than the rate
    assert losses[0] > 0 and float(metrics["generator/reconstruction"]) > 0
    assert system.can == ("decode", "encode", "reconstruct", "discriminate")  # there is no prior to draw from
    rows, images = jax.jit(lambda v: (system.measure.of_batch(v, batch, KEY), system.reconstruct(v, batch)))(
        system.variables(state)
    )
    assert rows["codes"].shape == (8, 16) and rows["codes"].dtype == jnp.int32
    np.testing.assert_allclose(rows["distortion"], jnp.abs(images - batch["image"]).mean((1, 2, 3)), rtol=1e-4)
    found = system.measure.summarize(rows)
    assert found["distortion"] == pytest.approx(float(rows["distortion"].mean()), rel=1e-5)
    assert 1 <= found["perplexity"] <= 6


@pytest.mark.slow
def test_a_gaussian_rate_weighs_a_millionth_beside_an_image_whose_errors_are_added_up():
    config = dataclasses.replace(vqgan.TINY, latents="gaussian", latent_dim=2, start=0)
    system = building.build_system(config, Spec.of_images((28, 28, 1)))
    batch, state = {"image": jnp.asarray(RNG.uniform(-1, 1, (8, 28, 28, 1)), jnp.float32)}, system.init(KEY)
    _, metrics = jax.jit(system.train_step)(state, batch, KEY)
    model = networks.VQGAN(networks.Gaussian(2), 1, 2, 4, 4, (1, 2), 1, 0)
    found = model.apply(system.variables(state)["generator"], batch["image"], method="quantised")
    assert float(metrics["generator/rate"]) == pytest.approx(1e-6 * float(found.loss) / 784, rel=1e-3)
    assert 0 < float(metrics["generator/adversarial_weight"]) <= 0.8 * 1e4 / 784
    assert float(metrics["generator/perceptual"]) > 0
    assert set(system.measure.summarize(system.measure.of_batch(system.variables(state), batch, KEY))) == {
        "distortion",
        "squared_error",
    }


# Perceptual distances -------------------------------------------------------------------------------------------------


def test_maps_are_compared_by_the_directions_of_their_vectors():
    u = jnp.asarray(RNG.normal(size=(2, 3, 3, 4)), jnp.float32)
    v = jnp.asarray(RNG.normal(size=(2, 3, 3, 4)), jnp.float32)
    cosine = np.sum(u * v, -1) / (np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1))
    expected = (2 - 2 * cosine).mean((1, 2)) / 4  # |u - v|^2 of vectors of length 1
    np.testing.assert_allclose(perceptual.distance_of_maps([u], [3 * v]), expected, rtol=1e-4)
    only = jnp.array([0.0, 1.0, 0.0, 0.0])
    second = (u[..., 1] / np.linalg.norm(u, axis=-1) - v[..., 1] / np.linalg.norm(v, axis=-1)) ** 2
    found = perceptual.distance_of_maps([u, v], [v, v], [only, only])
    np.testing.assert_allclose(found, second.mean((1, 2)), rtol=1e-4)
    gradient = jax.grad(lambda u: perceptual.distance_of_maps([u], [v]).sum())(jnp.zeros_like(u))
    assert np.isfinite(gradient).all()


def test_the_packages_own_judge_finds_images_different_that_are_and_no_others():
    found = perceptual.judge((28, 28, 1))
    x, y = (jnp.asarray(RNG.uniform(-1, 1, (2, 28, 28, 1)), jnp.float32) for _ in range(2))
    distance = jax.jit(found.distance)
    np.testing.assert_allclose(distance(found.weights, x, x), 0, atol=1e-12)
    there, back = distance(found.weights, x, y), distance(found.weights, y, x)
    assert float(there.min()) > 1e-3
    np.testing.assert_allclose(there, back, rtol=1e-4)
    near = distance(found.weights, x, 0.9 * x + 0.1 * y)
    assert np.all(near < there)
    assert perceptual.named("none", (28, 28, 1)) is None


@pytest.mark.slow
def test_vgg_is_thirteen_convolutions_whose_last_of_each_stage_is_compared(tmp_path, monkeypatch):
    assert sum(np.prod(shape) for shape in perceptual.vgg_shapes().values()) == 14_714_688
    weights = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in perceptual.vgg_shapes().items()}
    maps = jax.eval_shape(perceptual.vgg_maps, weights, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32))
    sides, widths = (64, 32, 16, 8, 4), (64, 128, 256, 512, 512)
    assert [m.shape for m in maps] == [(2, s, s, c) for s, c in zip(sides, widths, strict=True)]
    monkeypatch.setattr(perceptual, "VGG", {f"conv{i}": (2 + i,) for i in range(1, 6)})  # narrow, and as deep
    arrays = {n: 0.5 * RNG.normal(size=s).astype(np.float32) for n, s in perceptual.vgg_shapes().items()}
    learned = {f"lpips{i}": RNG.uniform(size=2 + i).astype(np.float32) for i in range(1, 6)}
    np.savez(tmp_path / "vgg.npz", **arrays, **learned)
    found = perceptual.named(str(tmp_path / "vgg.npz"), (16, 16, 3))
    x, y = (jnp.asarray(RNG.uniform(-1, 1, (2, 16, 16, 3)), jnp.float32) for _ in range(2))
    of_x, of_y = (perceptual.vgg_maps(arrays, images) for images in (x, y))
    scaled = (x - jnp.array([-0.030, -0.088, -0.188])) / jnp.array([0.458, 0.448, 0.450])
    layer = {"kernel": arrays["conv1_1/kernel"], "bias": arrays["conv1_1/bias"]}
    np.testing.assert_allclose(of_x[0], jnp.maximum(convolved(scaled, layer), 0), rtol=1e-3, atol=1e-4)
    expected = perceptual.distance_of_maps(of_x, of_y, list(learned.values()))
    np.testing.assert_allclose(found.distance(found.weights, x, y), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="VGG-16 is for colour images of at least 16x16 pixels, not .16, 16, 1."):
        perceptual.vgg_maps(arrays, x[..., :1])


def test_files_and_settings_that_do_not_fit_are_one_sentence(tmp_path):
    def built(shape=(8, 8, 1), **changes):
        system = building.build_system(dataclasses.replace(vqgan.TINY, **changes), Spec.of_images(shape))
        return jax.eval_shape(system.init, KEY)

    absent, other = tmp_path / "absent.npz", tmp_path / "other.npz"
    with pytest.raises(FileNotFoundError, match="there is no file .*absent.npz: .* which jaxgen does not download"):
        built(perceptual=str(absent))
    np.savez(other, **{"conv1_1/kernel": np.zeros((3, 3, 1, 64))})
    with pytest.raises(ValueError, match=r"'conv1_1/kernel' is of shape \[3, 3, 1, 64\], and should be of shape"):
        built(perceptual=str(other))
    np.savez(other, x=np.zeros(1))
    with pytest.raises(ValueError, match="'conv1_1/kernel' is not there"):
        built(perceptual=str(other))
    other.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no arrays can be read from it"):
        built(perceptual=str(other))
    words = "no feature network for images of 8x8 pixels and 1 channel"
    with pytest.raises(ValueError, match=f"{words}.*give --perceptual none, or the path"):
        built()
    with pytest.raises(ValueError, match=re.escape("an encoder of 2 levels needs sides that are multiples of 2")):
        built((9, 9, 1), perceptual="none")
