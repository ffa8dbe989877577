"""FastGAN's networks: exact numbers of parameters, excitation, noise, and pictures that the discriminator draws."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import building, network
from jaxgen.losses import autoencoding, terms
from jaxgen.models import fastgan, resampling
from jaxgen.system import Spec
from jaxgen.systems import fastgan as system

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)

pytestmark = pytest.mark.usefixtures("fast_compilation")


def shapes_of(module, *inputs):
    return jax.eval_shape(lambda key, *inputs: module.init(key, *inputs, train=True), KEY, *inputs)


def count(module, shape):
    return network.count_parameters(shapes_of(module, jax.ShapeDtypeStruct(shape, jnp.float32))["params"])


# Counts ---------------------------------------------------------------------------------------------------------------


def norm(width):
    return 2 * width


def enlarging(before, after, noise=False):
    first = 9 * before * 2 * after + norm(2 * after)
    return first + (9 * after * 2 * after + norm(2 * after) + 2 if noise else 0)


def halving(before, after, residual=True):
    first = 16 * before * after + norm(after)
    return first + (9 * after * after + norm(after) + before * after + norm(after) if residual else 0)


def excitation(low, high):
    return 16 * low * high + high * high


def decoder(before):
    return enlarging(before, 128) + enlarging(128, 64) + enlarging(64, 64) + enlarging(64, 32) + 9 * 32 * 3


@pytest.mark.slow
def test_the_published_size_has_as_many_parameters_as_its_layers_add_up_to():
    first = 256 * 16 * 2048 + norm(2048)
    blocks = enlarging(1024, 512, True) + enlarging(512, 256) + enlarging(256, 128, True) + enlarging(128, 128)
    blocks += enlarging(128, 64, True) + enlarging(64, 32)
    excited = excitation(1024, 128) + excitation(512, 64) + excitation(256, 32)
    assert count(fastgan.Generator(256), (2, 256)) == first + blocks + excited + 9 * 32 * 3 == 29_127_654
    # Half as wide at 512 pixels, and twice as wide without noise: the published number of a light variant.
    larger = enlarging(32, 16, True) + excitation(128, 16) + 9 * 16 * 3 - 9 * 32 * 3
    assert count(fastgan.Generator(512), (2, 256)) == 29_127_654 + larger
    assert count(fastgan.Generator(256, features=128, noisy=()), (2, 256)) == 79_354_307 - 3  # which has three biases

    whole = 9 * 3 * 16 + halving(16, 32) + halving(32, 64) + halving(64, 128) + halving(128, 256) + halving(256, 512)
    whole += excitation(16, 128) + excitation(32, 256) + excitation(64, 512)
    whole += 512 * 1024 + norm(1024) + 16 * 1024
    small = 16 * 3 * 32 + halving(32, 64, False) + halving(64, 128, False) + halving(128, 256, False) + 16 * 256
    drawn = decoder(512) + 2 * decoder(256)
    assert count(fastgan.Discriminator(256), (2, 256, 256, 3)) == whole + small + drawn == 11_526_160
    for size, before in ((512, 16 * 3 * 16), (1024, 16 * 3 * 8 + halving(8, 16, False))):
        expected = 11_526_160 - 9 * 3 * 16 + before
        assert count(fastgan.Discriminator(size), (2, size, size, 3)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 64, 128])
def test_smaller_images_have_the_same_shapes_of_logits_and_maps(size):
    generator, discriminator = fastgan.Generator(size, 1, 4, 4), fastgan.Discriminator(size, 1, 4, 4)
    assert jax.eval_shape(lambda key: generator.init_with_output(key, jnp.zeros((3, 5)), train=True)[0], KEY).shape == (
        3,
        size,
        size,
        1,
    )
    logits, maps = jax.eval_shape(
        lambda key: discriminator.init_with_output(key, jnp.zeros((3, size, size, 1)), train=True)[0], KEY
    )
    assert logits.shape == (3, 50) and logits.dtype == jnp.float32
    assert {name: x.shape[1] for name, x in maps.items()} == {"whole": 8, "small": 8, "part": 16}
    drawn = jax.eval_shape(
        lambda v, maps: discriminator.apply(v, maps, train=False, method="decode"),
        shapes_of(discriminator, jnp.zeros((2, size, size, 1))),
        maps | {"part": jax.ShapeDtypeStruct((3, 8, 8, maps["part"].shape[3]), jnp.float32)},
    )
    assert {x.shape for x in drawn.values()} == {(3, size // 2, size // 2, 1)}


# Layers ---------------------------------------------------------------------------------------------------------------


def test_excitation_scales_channels_of_an_image_whole_between_nothing_and_all():
    low, high = (RNG.normal(size=shape).astype(np.float32) for shape in ((3, 8, 8, 4), (3, 16, 16, 5)))
    layer = fastgan.Excitation()
    variables = layer.init(KEY, low, high, train=True)
    found = layer.apply(variables, low, high, train=False)
    factor = found / high
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1, :1], factor.shape), rtol=1e-4)
    assert 0 < factor.min() and factor.max() < 1 and np.ptp(factor[:, 0, 0]) > 0.01
    np.testing.assert_allclose(layer.apply(variables, low, 3 * high, train=False), 3 * found, rtol=1e-5)
    mixed = low.reshape(3, 4, 2, 4, 2, 4)[:, :, ::-1, :, ::-1].reshape(low.shape)  # the same means of 2x2 pixels
    np.testing.assert_allclose(layer.apply(variables, mixed, high, train=False), found, rtol=1e-4)


def test_a_gated_unit_is_one_half_times_the_sigmoid_of_the_other():
    np.testing.assert_allclose(fastgan.gated(jnp.array([[2.0, -4.0, 0.0, np.log(3)]])), [[1.0, -3.0]])


def test_a_quarter_of_an_image_is_the_one_that_is_named_and_resizing_means_pixels():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1).repeat(4, 0)
    quarters = autoencoding.quarter(x, jnp.arange(4))[..., 0]
    np.testing.assert_array_equal(quarters[1], [[2, 3], [6, 7]])
    np.testing.assert_array_equal(quarters[2], [[8, 9], [12, 13]])
    np.testing.assert_array_equal(resampling.averaged(x, 2)[0, ..., 0].ravel(), np.mean(quarters, axis=(1, 2)))
    assert resampling.averaged(x, 4) is not None and np.array_equal(resampling.averaged(x, 4), x)


def test_noise_is_nothing_at_first_and_then_follows_the_key_and_is_always_the_same_without_one():
    block, x = fastgan.EnlargingBlock(2, noise=True), RNG.normal(size=(2, 2, 2, 3)).astype(np.float32)
    variables = block.init(KEY, x, train=True)

    def run(variables, key=None):
        return np.asarray(block.apply(variables, x, train=False, rngs=None if key is None else {"params": key}))

    one, other = jax.random.split(KEY)
    np.testing.assert_array_equal(run(variables, one), run(variables, other))
    loud = jax.tree_util.tree_map_with_path(
        lambda path, p: p + 1.0 if "strength" in jax.tree_util.keystr(path) else p, variables
    )
    assert np.abs(run(loud, one) - run(loud, other)).max() > 0.01
    np.testing.assert_array_equal(run(loud), run(loud))


# Drawing what is seen -------------------------------------------------------------------------------------------------


def turn_of(decode, image, **given):
    return types.SimpleNamespace(
        **{
            "real_aux": {"whole": image, "part": image},
            "real_seen": image,
            "key": KEY,
            "frozen": None,
            "discriminator": lambda maps, *, method, keep: {("decode", True): decode}[method, keep](maps),
        }
        | given
    )


def draw(maps, shift=0.0):
    return {
        "whole": resampling.averaged(maps["whole"], 4) + shift,
        "part": resampling.averaged(maps["part"], 4) + 2 * shift,
    }


def test_pictures_are_compared_with_the_image_as_it_was_seen_and_a_part_with_the_same_part():
    image = jnp.asarray(RNG.uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32))
    term = autoencoding.autoencoding(0.5)
    assert (term.name, term.weight) == ("autoencoding", 0.5)
    np.testing.assert_allclose(term.value(turn_of(draw, image), None)[0], np.zeros(6))
    shifted = turn_of(lambda maps: draw(maps, 0.1), image)
    np.testing.assert_allclose(term.value(shifted, None)[0], np.full(6, 0.1 + 0.2), rtol=1e-5)
    squares = autoencoding.autoencoding(distance=terms.l2)
    np.testing.assert_allclose(squares.value(shifted, None)[0], np.full(6, 0.01 + 0.04), rtol=1e-4)
    perceptual = autoencoding.autoencoding(features=lambda frozen, images: [frozen * images, images.mean((1, 2))])
    frozen = turn_of(lambda maps: draw(maps, 0.1), image, frozen=3.0)
    np.testing.assert_allclose(perceptual.value(frozen, None)[0], np.full(6, 0.3 + 5 * 0.1 - 0.1 + 2 * 0.4), rtol=1e-4)


def test_quarters_are_the_same_in_the_per_device_view():
    image = jnp.asarray(RNG.uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32))

    def found(image, axis_name=None):
        def of_part(maps):
            return {"part": jnp.zeros((len(maps["part"]), 4, 4, 1))}

        return autoencoding.autoencoding(axis_name=axis_name).value(turn_of(of_part, image), None)[0]

    parts = jax.vmap(lambda image: found(image, "data"), axis_name="data")(image.reshape(2, 4, 8, 8, 1))
    np.testing.assert_allclose(parts.ravel(), found(image), rtol=1e-6)
    assert len(set(np.round(np.asarray(found(image)), 6))) > 1


def test_what_cannot_be_drawn_or_judged_is_one_sentence():
    with pytest.raises(TypeError, match=r"distance must be a function such as terms\.l1, not 'l1'"):
        autoencoding.autoencoding(distance="l1")
    with pytest.raises(ValueError, match="draws pictures from the discriminator's maps, but it returns none"):
        autoencoding.autoencoding().value(turn_of(draw, jnp.zeros((2, 8, 8, 1)), real_aux=None), None)
    with pytest.raises(ValueError, match="square images of 32, 64, 128, 256, 512 or 1024 pixels, not 48"):
        shapes_of(fastgan.Generator(48), jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="this network is for images of 64 pixels, not 32x32"):
        shapes_of(fastgan.Discriminator(64), jnp.zeros((2, 32, 32, 3)))
    with pytest.raises(ValueError, match="not 28"):
        building.build_system(system.TINY, Spec.of_images((28, 28, 1)))


@pytest.mark.slow
def test_decoders_learn_from_their_term_alone_and_other_layers_from_both():
    moved = {}
    batch = {"image": jnp.asarray(RNG.uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32))}
    for weight in (0.0, 1.0):
        config = dataclasses.replace(system.TINY, autoencoding=weight, batch_size=4)
        game = building.build_system(config, Spec.of_images((32, 32, 3))).game
        plain = {f"{player}_optimizer": optax.sgd(0.1) for player in ("generator", "discriminator")}

        @jax.jit
        def step(key, game=game, plain=plain):
            state = game.init(key, **plain)
            after, metrics = game.train_step(**plain)(state, batch, key)
            change = jax.tree.map(
                lambda a, b: jnp.max(jnp.abs(a - b)), after.discriminator.params, state.discriminator.params
            )
            vectors = [s.discriminator.model_state["spectral_norm"] for s in (state, after)]
            return change, jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), *vectors), metrics

        moved[weight], turned, metrics = step(KEY)
        assert all(
            (x > 0) == (weight > 0) for n in turned for x in jax.tree.leaves(turned[n]) if n.startswith("decoders")
        )
        assert ("discriminator/autoencoding" in metrics) == (weight > 0)
        assert max(jax.tree.leaves(moved[weight]["eyes"])) > 0
    decoders = [name for name in moved[0.0] if name.startswith("decoders")]
    assert len(decoders) == 3
    for name in decoders:
        assert max(jax.tree.leaves(moved[0.0][name])) == 0 < min(jax.tree.leaves(moved[1.0][name]))
