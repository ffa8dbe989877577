"""StyleGAN2's networks: exact counts, and what modulation, groups, truncation and mixing are by hand."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from jaxgen import building, description, gan
from jaxgen.models import antialiased, fir, group_deviation, resampling, stylegan2
from jaxgen.models.convolution import Geometry, convolve
from jaxgen.models.modulated import modulated
from jaxgen.network import count_parameters
from jaxgen.systems import stylegan2 as system

pytestmark = pytest.mark.usefixtures("fast_compilation")

RNG = np.random.default_rng(0)
KEY = jax.random.key(5)
SMALL = {"capacity": 32, "max_features": 6, "mapping_layers": 2}
GENERATOR = stylegan2.Generator(8, 1, style_dim=5, num_classes=3, **SMALL)  # sizes 4 and 8: four layers
LABELS = jnp.array([0, 2, 1, 2])
Z = jnp.asarray(RNG.normal(size=(4, 7)), jnp.float32)


def shapes(module, shape, labelled):
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape[:1], jnp.int32)]
    init = functools.partial(module.init_with_output, jax.random.key(0), train=True)
    return jax.eval_shape(init, *inputs[: 1 + labelled])


def drawn(module, shape, labelled=True):
    """Variables that no initialisation had to be compiled for, noise strengths and the mean style included."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        size = 100 if "Mapping" in str(path) or "mapping_network" in str(path) else 1  # their rate is 0.01
        return jnp.asarray(size * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes(module, shape, labelled)[1])


VARIABLES = drawn(GENERATOR, Z.shape)


@functools.partial(jax.jit, static_argnames=("truncated_layers", "mixing"))
def made(z, **told):
    return GENERATOR.apply(VARIABLES, z, LABELS[: len(z)], train=False, **told)


# Counts ---------------------------------------------------------------------------------------------------------------


def counts(image_size, num_classes=0, architecture="residual", **settings):
    mapping = settings.pop("mapping_layers", 8)
    generator = stylegan2.Generator(image_size, num_classes=num_classes, mapping_layers=mapping, **settings)
    image, making = shapes(generator, (4, 512), num_classes > 0)
    assert (image.shape, image.dtype) == ((4, image_size, image_size, 3), jnp.float32)
    discriminator = stylegan2.Discriminator(num_classes=num_classes, architecture=architecture, **settings)
    logits, judging = shapes(discriminator, image.shape, num_classes > 0)
    assert (logits.shape, logits.dtype) == ((4,), jnp.float32)
    return count_parameters(making["params"]), count_parameters(judging["params"])


def test_networks_have_as_many_parameters_as_the_published_ones():
    cifar = {"mapping_layers": 2, "architecture": "orig"}
    assert counts(32, 10, **cifar) == (20_215_315, 23_089_664)
    assert counts(32, **cifar) == (19_947_539, 20_720_641)
    assert counts(256, capacity=16384) == (24_767_458, 24_001_089)
    assert counts(256, capacity=16384, mapping_layers=2) == (23_191_522, 24_001_089)
    assert counts(256) == (30_034_338, 28_864_129)
    assert counts(512) == (30_276_583, 28_982_849)
    assert counts(1024) == (30_370_060, 29_012_513)


def test_the_mapping_of_cifars_generator_is_an_embedding_and_two_layers():
    generator = stylegan2.Generator(32, num_classes=10, mapping_layers=2)
    params = shapes(generator, (2, 512), True)[1]["params"]
    assert {name: count_parameters(part) for name, part in params.items()} == {
        "mapping_network": 793_088,
        "synthesis_network": 19_422_227,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", system.PRESETS)
def test_presets_are_described_without_data(name):
    preset = system.PRESETS[name]
    built = building.build_system(preset.config, description.spec_of(preset.config, preset))
    expected = {
        "cifar-stylegan2": (20_215_315, 23_089_664),
        "ffhq-stylegan2-256": (24_767_458, 24_001_089),
        "ffhq-stylegan2-512": (30_276_583, 28_982_849),
    }
    found = built.parameters["generator"], built.parameters["discriminator"]
    assert found == expected.get(name, found)


def test_other_architectures_have_other_layers_and_the_same_pictures():
    shape, params = (4, 28, 28, 3), {}
    for architecture in stylegan2.GENERATORS:
        image, making = shapes(stylegan2.Generator(28, architecture=architecture, **SMALL), (4, 512), False)
        logits, judging = shapes(stylegan2.Discriminator(architecture=architecture, **SMALL), shape, False)
        assert image.shape == shape and logits.shape == (4,)
        synthesis = making["params"]["synthesis_network"]
        params[architecture] = [count_parameters(tree) for tree in (synthesis, judging["params"])]
    # Widths 4, 2, 1 of sides 7, 14, 28; styles of 512 numbers.
    to_image = {width: (512 * width + width) + (3 * width + 3) for width in (4, 2, 1)}
    shortcuts = 4 * 2 + 2 * 1
    assert params["skip"][0] - params["orig"][0] == to_image[4] + to_image[2]
    assert params["residual"][0] - params["orig"][0] == shortcuts
    assert params["residual"][1] - params["orig"][1] == shortcuts
    assert params["skip"][1] - params["orig"][1] == (3 * 2 + 2) + (3 * 4 + 4)


# Modulation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("enlarge", [True, False])
def test_scaling_inputs_and_outputs_is_a_kernel_of_its_own_for_each_image(enlarge, demodulate):
    x, w, style = (RNG.normal(size=s).astype(np.float32) for s in ((3, 4, 4, 5), (3, 3, 5, 6), (3, 5)))
    found = jax.jit(functools.partial(modulated, enlarge=enlarge, demodulate=demodulate))(x, w, style)
    for image, s, y in zip(x, style, found, strict=True):
        own = w * s[:, None]
        if demodulate:
            own = own / np.sqrt(np.sum(own**2, axis=(0, 1, 2)) + 1e-8)
        plain = Geometry((4, 4), (3, 3), (1, 1), ((1, 1), (1, 1)))
        expected = antialiased.enlarge(image[None], own) if enlarge else convolve(image[None], own, plain)
        np.testing.assert_allclose(y, expected[0], rtol=1e-4, atol=1e-5)


def test_demodulated_outputs_of_inputs_of_unit_variance_have_unit_variance_whatever_the_style():
    x = RNG.normal(size=(8, 12, 12, 24)).astype(np.float32)
    style = np.exp(RNG.normal(size=(8, 24))).astype(np.float32)
    w = 7 * RNG.normal(size=(3, 3, 24, 64)).astype(np.float32)
    y = np.asarray(modulated(x, w, style))[:, 1:-1, 1:-1]
    assert y.var() == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(y.var((1, 2, 3)), 1, atol=0.25)  # of each image, whose few channels differ by chance
    assert np.asarray(modulated(x, w, style, demodulate=False)).var() > 100


# Sizes without aliasing -----------------------------------------------------------------------------------------------


def by_scipy(x, w, enlarge):
    """Zeros between pixels, the kernel, the filter; or the filter, the kernel, every second pixel. All of the image."""
    taps = np.outer(fir.BINOMIAL, fir.BINOMIAL) / 64
    n, h, width, c = x.shape
    if enlarge:
        spread = np.zeros((n, 2 * h, 2 * width, c))
        spread[:, ::2, ::2] = x
        full = [
            [sum(signal.convolve2d(i[..., a], w[::-1, ::-1, a, o]) for a in range(c)) for o in range(w.shape[-1])]
            for i in spread
        ]
        full = [[signal.convolve2d(o, 4 * taps)[2:, 2:][: 2 * h, : 2 * width] for o in i] for i in full]
        return np.moveaxis(np.array(full), 1, -1)
    filtered = np.array([[signal.convolve2d(np.pad(i[..., a], 2), taps, "valid") for a in range(c)] for i in x])
    made = [
        [sum(signal.correlate2d(i[a], w[:, :, a, o], "valid") for a in range(c)) for o in range(w.shape[-1])]
        for i in filtered
    ]
    return np.moveaxis(np.array(made), 1, -1)[:, ::2, ::2]


@pytest.mark.parametrize("enlarge", [True, False], ids=["enlarge", "halve"])
def test_a_convolution_that_changes_the_size_is_a_direct_sum_borders_included(enlarge):
    x, w = RNG.normal(size=(2, 6, 8, 3)).astype(np.float32), RNG.normal(size=(3, 3, 3, 2)).astype(np.float32)
    found = jax.jit(antialiased.enlarge if enlarge else antialiased.halve)(x, w)
    assert found.shape == ((2, 12, 16, 2) if enlarge else (2, 3, 4, 2))
    np.testing.assert_allclose(found, by_scipy(x, w, enlarge), atol=1e-5)
    plain = functools.partial(convolve, w=w)
    if enlarge:
        other = plain(fir.upsample(x), geometry=Geometry((12, 16), (3, 3), (1, 1), ((1, 1), (1, 1))))
        inside = np.s_[:, 3:-3, 3:-3]
    else:
        other = fir.downsample(plain(x, geometry=Geometry((6, 8), (3, 3), (1, 1), ((1, 1), (1, 1)))))
        inside = np.s_[:, 1:-1, 1:-1]
    np.testing.assert_allclose(found[inside], other[inside], atol=1e-5)


# The discriminator's groups -------------------------------------------------------------------------------------------


def by_loop(x, size):
    found = np.zeros(len(x))
    for first in range(0, len(x), size):
        group = x[first : first + size].astype(np.float64)
        mean = sum(group) / size
        variance = sum((image - mean) ** 2 for image in group) / size
        found[first : first + size] = np.mean(np.sqrt(variance + 1e-8))
    return found


def test_the_deviation_of_a_group_is_that_of_a_loop_over_its_images():
    x = RNG.normal(size=(8, 3, 3, 5)).astype(np.float32)
    for size in (1, 2, 4, 8):
        found = group_deviation.deviation(x, size, train=True)
        np.testing.assert_allclose(found, by_loop(x, size), rtol=1e-5)
    np.testing.assert_allclose(group_deviation.deviation(x, 32, train=True), by_loop(x, 8), rtol=1e-5)  # all there are
    np.testing.assert_allclose(group_deviation.deviation(x[:6], 4, train=False), by_loop(x[:6], 3), rtol=1e-5)
    with pytest.raises(ValueError, match="a batch of 6 images does not divide into the groups of 4"):
        group_deviation.deviation(x[:6], 4, train=True)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_in_the_per_device_view_groups_are_of_the_global_batch(size):
    x = RNG.normal(size=(8, 3, 3, 5)).astype(np.float32)
    run = functools.partial(group_deviation.deviation, group_size=size, train=True, axis_name="data")
    found = jax.vmap(run, axis_name="data")(x.reshape(4, 2, 3, 3, 5)).reshape(8)
    np.testing.assert_allclose(found, by_loop(x, size), rtol=1e-5)


def test_the_discriminator_sees_how_far_the_images_of_a_group_differ_and_no_other_group():
    module = stylegan2.Discriminator(capacity=32, max_features=4, group_size=2)
    assert module.couples_images and not module.clone(group_size=1).couples_images
    x = jnp.asarray(RNG.uniform(-1, 1, (4, 8, 8, 1)), jnp.float32)
    variables = drawn(module, x.shape, labelled=False)
    logits = lambda x: module.apply(variables, x, train=False)  # noqa: E731
    moved = np.abs(jax.jit(jax.jacobian(logits))(x)).sum((2, 3, 4)) > 0
    np.testing.assert_array_equal(moved, np.kron(np.eye(2), np.ones((2, 2))) > 0)


# Styles ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_truncation_of_one_is_none_and_of_zero_the_image_of_the_mean_style():
    styles = GENERATOR.apply(VARIABLES, Z, LABELS, train=False, method="mapping")
    assert styles.shape == (4, 4, 5)
    np.testing.assert_array_equal(styles, np.broadcast_to(styles[:, :1], styles.shape))
    np.testing.assert_allclose(made(Z), made(Z, truncation=1.0), atol=1e-5)
    mean = jnp.broadcast_to(VARIABLES["averages"]["mean_style"], styles.shape)
    of_mean = GENERATOR.apply(VARIABLES, mean, train=False, method="synthesis")
    np.testing.assert_allclose(of_mean, np.broadcast_to(of_mean[:1], of_mean.shape), atol=1e-5)
    np.testing.assert_allclose(made(Z, truncation=0.0), of_mean, atol=1e-5)
    between = GENERATOR.apply(VARIABLES, mean + 0.7 * (styles - mean), train=False, method="synthesis")
    np.testing.assert_allclose(made(Z, truncation=0.7), between, atol=1e-4)
    some = jnp.concatenate([mean[:, :3], styles[:, 3:]], axis=1)
    expected = GENERATOR.apply(VARIABLES, some, train=False, method="synthesis")
    np.testing.assert_allclose(made(Z, truncation=0.0, truncated_layers=3), expected, atol=1e-4)
    np.testing.assert_allclose(made(Z, truncation=0.0, truncated_layers=0), made(Z), atol=1e-5)


@pytest.mark.slow
def test_mixing_equal_latents_changes_nothing_and_others_takes_the_last_layers_of_them():
    other = Z[::-1]
    labels = LABELS  # of the image: both latents are mapped with it
    np.testing.assert_allclose(made(Z, mixing=2, fine=Z), made(Z), atol=1e-5)
    np.testing.assert_allclose(made(Z, mixing=4, fine=other), made(Z), atol=1e-5)
    np.testing.assert_allclose(made(Z, mixing=0, fine=other), made(other), atol=1e-5)
    styles = [GENERATOR.apply(VARIABLES, z, labels, train=False, method="mapping") for z in (Z, other)]
    mixed = jnp.concatenate([styles[0][:, :1], styles[1][:, 1:]], axis=1)
    expected = GENERATOR.apply(VARIABLES, mixed, train=False, method="synthesis")
    np.testing.assert_allclose(made(Z, mixing=1, fine=other), expected, atol=1e-5)
    with pytest.raises(ValueError, match="with mixing= and fine= together"):
        made(Z, mixing=1)


def test_in_training_nine_of_ten_images_are_mixed_from_a_uniform_layer_on_and_the_first_is_their_own():
    z = jnp.asarray(RNG.normal(size=(2000, 7)), jnp.float32)
    label = jnp.zeros(2000, jnp.int32)
    run = functools.partial(GENERATOR.apply, VARIABLES, z, label, method="mapping")
    w = run(train=False)[:, :1]
    styles, _ = run(train=True, mutable=["averages"], rngs={"params": KEY})
    own = np.all(np.abs(styles - w) < 1e-5, axis=-1)
    assert np.all(own[:, 0]) and np.all(own[:, :-1] >= own[:, 1:])
    mixed_from = own.sum(1)  # 1, 2, 3 of 4 layers, or all
    np.testing.assert_allclose(np.bincount(mixed_from, minlength=5) / 2000, [0, 0.3, 0.3, 0.3, 0.1], atol=0.03)
    of_one = styles[mixed_from == 1]
    np.testing.assert_allclose(of_one[:, 1], of_one[:, 2], atol=1e-5)  # the other latent is one


@pytest.mark.slow
def test_the_running_mean_of_styles_moves_towards_the_batchs_own_and_is_not_moved_by_evaluation():
    w = GENERATOR.apply(VARIABLES, Z, LABELS, train=False, method="mapping")[:, 0]
    _, after = GENERATOR.apply(VARIABLES, Z, LABELS, train=True, mutable=["averages"], rngs={"params": KEY})
    before = VARIABLES["averages"]["mean_style"]
    found = after["averages"]["mean_style"]
    np.testing.assert_allclose(found, 0.995 * before + 0.005 * w.mean(0), rtol=1e-4, atol=1e-6)
    fresh = shapes(GENERATOR, Z.shape, True)[1]["averages"]["mean_style"]
    assert (fresh.shape, fresh.dtype) == ((5,), jnp.float32)


@pytest.mark.slow
def test_noise_is_drawn_from_a_key_and_without_one_always_the_same_and_has_no_strength_at_first():
    draw = jax.jit(functools.partial(gan.sample, GENERATOR, VARIABLES, Z, LABELS))
    np.testing.assert_array_equal(draw(), draw())
    assert np.abs(draw(key=KEY) - draw(key=jax.random.key(1))).max() > 0.1
    calm = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.zeros_like(x) if path[-1].key == "noise_strength" else x, VARIABLES
    )
    found = [gan.sample(GENERATOR, calm, Z, LABELS, key=key) for key in (KEY, jax.random.key(1), None)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert len({zlib.crc32(name.encode()) for name in calm["params"]["synthesis_network"]}) > 4  # other seeds, by name


def test_latents_count_by_their_direction_alone_and_labels_choose_an_embedding():
    np.testing.assert_allclose(made(Z), made(3 * Z), atol=1e-4)
    other = GENERATOR.apply(VARIABLES, Z, jnp.array([1, 1, 1, 1]), train=False)
    changed = np.abs(other - made(Z)).max((1, 2, 3)) > 1e-3
    np.testing.assert_array_equal(changed, [True, True, False, True])


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module, inputs, message",
    [
        (stylegan2.Generator(100), (Z,), "4, 5, 6 or 7 times a power of two .* not 100"),
        (stylegan2.Generator(8, architecture="resnet"), (Z,), "one of skip, residual, orig, not 'resnet'"),
        (stylegan2.Generator(8), (Z, LABELS), "this network knows no classes"),
        (GENERATOR, (Z,), "give a label"),
        (stylegan2.Discriminator(), (jnp.zeros((4, 8, 16, 3)),), "square images, not 8x16"),
        (stylegan2.Discriminator(architecture="deep"), (jnp.zeros((4, 8, 8, 3)),), "one of residual, skip, orig"),
        (stylegan2.Discriminator(), (jnp.zeros((6, 8, 8, 3)),), "a batch of 6 images does not divide"),
    ],
)
def test_what_cannot_be_is_one_sentence(module, inputs, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda *inputs: module.init(KEY, *inputs, train=True), *inputs)


def test_sizes_halve_to_four_to_seven_pixels():
    assert resampling.doubling_sizes(32, "it") == [4, 8, 16, 32]
    assert resampling.doubling_sizes(28, "it") == [7, 14, 28]
    assert resampling.doubling_sizes(48, "it") == [6, 12, 24, 48]
    assert resampling.doubling_sizes(5, "it") == [5]
    assert [stylegan2.num_layers_of(size) for size in (32, 256, 1024)] == [8, 14, 18]
