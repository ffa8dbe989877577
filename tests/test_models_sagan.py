import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen import building, description, network
from jaxgen.models import sagan, sngan
from jaxgen.models.attention import SelfAttention
from jaxgen.network import count_parameters
from jaxgen.system import Spec
from jaxgen.systems import sagan as system

pytestmark = pytest.mark.usefixtures("fast_compilation")

GENERATOR = sagan.Generator(image_size=28, channels=1, features=8, num_classes=3)
DISCRIMINATOR = sagan.Discriminator(features=8, num_classes=3)
LABELS = jnp.array([0, 2, 1, 2])


@functools.partial(jax.jit, static_argnums=0)
def apply(module, variables, *inputs):
    return module.apply(variables, *inputs, train=False)


def shapes(module, shape, num_classes=0):
    """(output, variables) as shapes, without computing anything."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    label = jax.ShapeDtypeStruct(shape[:1], jnp.int32) if num_classes > 0 else None
    key = jax.random.key(0)
    return jax.eval_shape(lambda x, label: module.init_with_output(key, x, label, train=True), x, label)


def drawn(module, shape, seed=0):
    """Variables that no initialisation had to be compiled for."""
    rng = np.random.default_rng(seed)
    _, variables = shapes(module, shape, module.num_classes)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), variables)


@pytest.mark.parametrize(
    ("image_size", "num_classes", "generator", "discriminator"),
    [
        (32, 10, 4_386_308, 1_075_586),
        (32, 0, 4_276_739 + 81_921, 1_053_825 + 20_481),  # SNGAN's, and attention
        (128, 1000, 41_996_931 + 81_921, 30_062_338),
    ],
)
def test_networks_have_as_many_parameters_as_the_published_ones(image_size, num_classes, generator, discriminator):
    made, variables = shapes(sagan.Generator(image_size, num_classes=num_classes), (2, 128), num_classes)
    assert (made.shape, made.dtype) == ((2, image_size, image_size, 3), jnp.float32)
    assert count_parameters(variables["params"]) == generator
    logits, variables = shapes(sagan.Discriminator(num_classes=num_classes), made.shape, num_classes)
    assert (logits.shape, logits.dtype) == ((2,), jnp.float32)
    assert count_parameters(variables["params"]) == discriminator


def attending(module, shape, label=None):
    """The maps that attend to themselves."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)

    def run(x):
        variables = module.init(jax.random.key(0), x, train=True)
        keep = lambda m, _: isinstance(m, SelfAttention)  # noqa: E731
        return module.apply(variables, x, train=False, capture_intermediates=keep, mutable=["intermediates"])[1]

    found = jax.eval_shape(run, x).get("intermediates", {})
    return [layer["__call__"][0].shape[1:] for layer in found.values()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image_size", "size", "of_generator", "of_discriminator"),
    [(28, 14, 256, 128), (32, 16, 256, 128), (48, 24, 128, 64), (64, 32, 128, 64), (128, 32, 256, 128)],
)
def test_one_map_of_either_player_attends_to_itself(image_size, size, of_generator, of_discriminator):
    assert attending(sagan.Generator(image_size), (2, 128)) == [(size, size, of_generator)]
    assert attending(sagan.Discriminator(), (2, image_size, image_size, 3)) == [(size, size, of_discriminator)]


def test_another_map_can_attend_or_none_and_one_that_is_not_there_is_refused():
    assert attending(sagan.Generator(64, attention=16), (2, 128)) == [(16, 16, 256)]
    assert attending(sagan.Discriminator(attention=8), (2, 32, 32, 3)) == [(8, 8, 128)]  # once, of three such maps
    assert attending(sagan.Generator(64, attention=0), (2, 128)) == []
    for module, shape in (
        (sagan.Generator(64, attention=64), (2, 8)),
        (sagan.Discriminator(attention=4), (2, 64, 64, 3)),
    ):
        with pytest.raises(ValueError, match=r"maps of 32, 16, 8 pixels \(0: nowhere\) in this network"):
            shapes(module, shape)


@pytest.mark.parametrize(("module", "shape"), [(GENERATOR, (2, 4)), (DISCRIMINATOR, (2, 28, 28, 1))])
def test_every_matrix_of_both_players_is_spectrally_normalised(module, shape):
    _, variables = shapes(module, shape, 3)
    owners = {path[:-1] for path in flatten_dict(variables["params"]) if path[-1] in ("kernel", "embedding")}
    assert {path[:-1] for path in flatten_dict(variables["spectral_norm"])} == owners
    tables = {path[-1] for path in flatten_dict(variables["params"]) if path[:-1] not in owners}
    assert tables == {"gain"} | ({"scale", "bias"} if module is GENERATOR else set())


def silenced(variables):
    """With gains of 0; and the same without attention at all."""
    params = {p: x * (p[-1] != "gain") for p, x in flatten_dict(variables["params"]).items()}
    silent = {**variables, "params": unflatten_dict(params)}
    keep = {kind: {n: x for n, x in tree.items() if "Attention" not in n} for kind, tree in silent.items()}
    return silent, keep


def test_while_the_gain_is_zero_the_discriminator_is_sngans():
    x = jax.random.uniform(jax.random.key(0), (4, 28, 28, 1), minval=-1)
    silent, without = silenced(drawn(DISCRIMINATOR, x.shape))
    expected = apply(sngan.Discriminator(features=8, num_classes=3), without, x, LABELS)
    np.testing.assert_allclose(apply(DISCRIMINATOR, silent, x, LABELS), expected, rtol=1e-5, atol=1e-6)


def test_while_the_gain_is_zero_the_generator_is_sngans_with_kernels_over_their_singular_values():
    z = jax.random.normal(jax.random.key(0), (4, 4))
    variables = drawn(GENERATOR, z.shape)
    variables["batch_stats"] = jax.tree.map(lambda x: 1 + jnp.abs(x), variables["batch_stats"])
    silent, without = silenced(variables)
    vectors, plain = flatten_dict(without["spectral_norm"]), {}
    for path, leaf in flatten_dict(without["params"]).items():
        if path[-1] == "kernel":
            u = vectors[*path[:-1], "u"]
            leaf = leaf / np.linalg.norm(leaf.reshape(-1, leaf.shape[-1]) @ (u / np.linalg.norm(u)))
        plain[tuple(name.removeprefix("Spectral") for name in path)] = leaf
    plain = {"params": unflatten_dict(plain), "batch_stats": without["batch_stats"]}
    expected = apply(sngan.Generator(28, 1, 8, 3), plain, z, LABELS)
    found = apply(GENERATOR, silent, z, LABELS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.std(found) > 0.01


def test_a_label_that_does_not_exist_spoils_its_own_image_and_logit_alone():
    z, label = jax.random.normal(jax.random.key(0), (4, 4)), jnp.array([0, 3, 2, -1])
    variables = drawn(GENERATOR, z.shape)
    variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    image = apply(GENERATOR, variables, z, label)
    np.testing.assert_array_equal(np.isnan(image).all((1, 2, 3)), [False, True, False, True])
    np.testing.assert_array_equal(np.isnan(image).any((1, 2, 3)), [False, True, False, True])
    x = jax.random.uniform(jax.random.key(0), (4, 28, 28, 1), minval=-1)
    logits = apply(DISCRIMINATOR, drawn(DISCRIMINATOR, x.shape), x, label)
    np.testing.assert_array_equal(np.isnan(logits), [False, True, False, True])


def play(generator, discriminator):
    """Images, logits and states after a pass through both players in training."""
    z = jax.random.normal(jax.random.key(0), (4, 4))
    ours, theirs = drawn(GENERATOR, z.shape), drawn(DISCRIMINATOR, (4, 28, 28, 1))
    state = {name: ours[name] for name in ("batch_stats", "spectral_norm")}
    image, state = network.apply(generator, ours["params"], state, z, LABELS)
    judged, vectors = network.apply(
        discriminator, theirs["params"], {"spectral_norm": theirs["spectral_norm"]}, image, LABELS
    )
    return {"image": image, "logits": judged, "states": (state, vectors)}


@pytest.mark.slow
def test_in_bfloat16_images_logits_and_states_are_float32_and_close():
    full = jax.jit(lambda: play(GENERATOR, DISCRIMINATOR))()
    half = {"dtype": jnp.bfloat16}
    found = jax.jit(lambda: play(GENERATOR.clone(**half), DISCRIMINATOR.clone(**half)))()
    for leaf in jax.tree.leaves(found):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()
    np.testing.assert_allclose(found["image"], full["image"], atol=0.15)
    np.testing.assert_allclose(found["logits"], full["logits"], rtol=0.15, atol=0.15)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="28, 32, 48, 64 or 128 pixels, not 256"):
        shapes(sagan.Generator(256), (2, 8))
    with pytest.raises(ValueError, match="square images, not 32x28"):
        shapes(sagan.Discriminator(), (2, 32, 28, 3))
    with pytest.raises(ValueError, match="features must be a multiple of 8 for this image size, not 12"):
        shapes(sagan.Generator(48, features=12), (2, 8))
    with pytest.raises(ValueError, match="knows no classes"):
        shapes(sagan.Generator(28), (2, 8), num_classes=3)
    with pytest.raises(ValueError, match="these data have none; use --projection False"):
        system.build(system.TINY, Spec.of_images((28, 28, 1)))


def test_the_preset_of_cifar_is_described_without_data_and_its_rates_are_two():
    preset = system.PRESETS["cifar-sagan"]
    built = building.build_system(preset.config, description.spec_of(preset.config, preset))
    assert built.parameters == {"generator": 4_386_308, "discriminator": 1_075_586}
    assert (preset.config.generator.learning_rate, preset.config.discriminator.learning_rate) == (1e-4, 4e-4)
    assert preset.config.num_discriminator_steps == 1
