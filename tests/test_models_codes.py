"""The networks of VQ-VAE, VQ-VAE-2 and DALL-E's discrete VAE: their sizes, and what goes where."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models import dvae, vqvae, vqvae2
from jaxgen.models.quantise import EMAVectorQuantiser, FiniteScalarQuantiser, VectorQuantiser
from jaxgen.network import count_parameters

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY = jax.random.key(0)
NARROW = {"features": 4, "blocks": 1, "inner": 2}


def shapes(module, shape):
    """(output, variables) without computing anything."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(KEY, x, train=True), x)


@pytest.mark.parametrize(
    ("quantiser", "parameters", "state"),
    [(EMAVectorQuantiser(), 662_723, 2 * 32_768 + 512 + 1), (VectorQuantiser(), 662_723 + 32_768, 0)],
    ids=["averages", "gradient"],
)
def test_vqvae_has_as_many_parameters_as_the_published_one_and_the_codebook_is_one_of_them_or_state(
    quantiser, parameters, state
):
    found, variables = shapes(vqvae.VQVAE(quantiser), (2, 32, 32, 3))
    assert found.image.shape == (2, 32, 32, 3) and found.image.dtype == jnp.float32
    assert found.codes.shape == (2, 8, 8) and found.codes.dtype == jnp.int32
    assert count_parameters(variables["params"]) == parameters
    assert count_parameters(variables.get("code_averages", {})) == state


def test_vqvae2_has_as_many_parameters_as_the_published_one():
    model = vqvae2.VQVAE2(EMAVectorQuantiser(), EMAVectorQuantiser())
    found, variables = shapes(model, (2, 256, 256, 3))
    assert found.image.shape == (2, 256, 256, 3) and found.codes.shape == (2, 32 * 32 + 64 * 64)
    assert count_parameters(variables["params"]) == 1_388_867
    vectors = {name: own["vectors"].size for name, own in variables["code_averages"].items()}
    assert vectors == {"top": 32_768, "bottom": 32_768}


def test_dalles_encoder_and_decoder_have_as_many_parameters_as_the_published_ones():
    logits, variables = shapes(dvae.Encoder(), (2, 256, 256, 3))
    assert logits.shape == (2, 32, 32, 8192) and logits.dtype == jnp.float32
    assert count_parameters(variables["params"]) == 53_786_240
    (mean, log_scale), variables = shapes(dvae.Decoder(), logits.shape)
    assert mean.shape == log_scale.shape == (2, 256, 256, 3) and mean.dtype == jnp.float32
    assert count_parameters(variables["params"]) == 43_829_766


MODELS = {
    "vqvae": vqvae.VQVAE(FiniteScalarQuantiser((5, 3)), (16, 24, 2), **NARROW),
    "vqvae2": vqvae2.VQVAE2(FiniteScalarQuantiser((5, 3)), FiniteScalarQuantiser((5, 3)), (16, 24, 2), **NARROW),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_images_of_codes_are_the_reconstructions_and_another_code_changes_its_surroundings_alone(name):
    model, x = MODELS[name], jax.random.uniform(KEY, (2, 16, 24, 2), minval=-1)
    variables = jax.jit(functools.partial(model.init, train=True))(KEY, x)
    apply = jax.jit(model.apply, static_argnames=("train", "method"))
    found = apply(variables, x, train=False)
    codes = apply(variables, x, method="encode")
    np.testing.assert_array_equal(codes, found.codes)
    assert codes.shape[1:] == model.codes_shape
    image = apply(variables, codes, method="decode")
    np.testing.assert_allclose(image, found.image, rtol=1e-5, atol=1e-6)
    last = codes.at[(0, *(-1,) * (codes.ndim - 1))].add(1) % 15  # bottom right, of the finest map
    changed = np.abs(apply(variables, last, method="decode") - image).max(-1)
    assert changed[0, -4:, -4:].max() > 0 and changed[1].max() == 0
    assert changed[0, :2, :2].max() == 0


def test_the_bottom_codes_follow_the_top_codes_and_the_top_codes_nothing_below():
    """The top map is quantised first, and the bottom map's vectors are made with what is decoded of it."""
    model, x = MODELS["vqvae2"], jax.random.uniform(KEY, (2, 16, 24, 2), minval=-1)
    _, found = shapes(model, x.shape)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), found["params"])
    quantised = jax.jit(functools.partial(model.apply, train=False, method="quantised"))
    top, bottom = quantised({"params": params}, x)

    def turned(name):
        return {"params": params | {name: jax.tree.map(lambda w: -w, params[name])}}

    other_top, other_bottom = quantised(turned("to_top"), x)
    assert np.any(other_top.codes != top.codes) and np.any(other_bottom.codes != bottom.codes)
    same_top, other_bottom = quantised(turned("to_bottom"), x)
    np.testing.assert_array_equal(same_top.codes, top.codes)
    assert np.any(other_bottom.codes != bottom.codes)


def test_a_block_of_the_discrete_vae_adds_four_convolutions_by_the_number_of_blocks_squared():
    x = jax.random.normal(KEY, (1, 4, 4, 8))
    block = dvae.Block(8, (3, 3, 3, 1), 1 / 64)
    variables = jax.jit(block.init)(KEY, x)
    apply = jax.jit(lambda gain: block.clone(gain=gain).apply(variables, x))
    assert {name: own["kernel"].shape for name, own in variables["params"].items()} == {
        "Conv_0": (3, 3, 8, 2),
        "Conv_1": (3, 3, 2, 2),
        "Conv_2": (3, 3, 2, 2),
        "Conv_3": (1, 1, 2, 8),
    }
    once, twice = (apply(gain) - x for gain in (1 / 64, 1 / 32))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-4, atol=1e-5)
    bound = jax.eval_shape(lambda x: dvae.Block(16, (1, 3, 3, 3), 1.0).init(KEY, x), x)
    assert bound["params"]["around"]["kernel"].shape == (1, 1, 8, 16)
    assert bound["params"]["Conv_0"]["kernel"].shape == (1, 1, 8, 4)


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (MODELS["vqvae"], (2, 18, 16, 2), "halves sides 2 times: they must be multiples of 4, not 18x16"),
        (MODELS["vqvae2"], (2, 12, 16, 2), "they must be multiples of 8, not 12x16"),
        (dvae.Encoder(6, 4, groups=3), (2, 30, 32, 3), "3 groups needs sides that are multiples of 4, not 30x32"),
        (dvae.Encoder(6, 6, groups=2), (2, 32, 32, 3), "6 must be a multiple of 4"),
        (dvae.Decoder(3, 6, 6, groups=2), (2, 4, 4, 5), "6 must be a multiple of 4"),
    ],
)
def test_what_does_not_fit_is_one_sentence(module, shape, message):
    with pytest.raises(ValueError, match=message):
        shapes(module, shape)


def test_another_number_of_codes_than_the_images_have_is_refused():
    model = MODELS["vqvae2"]
    _, variables = shapes(model, (2, 16, 24, 2))
    with pytest.raises(ValueError, match=r"codes must be \[B, 30\], the top map's first, not \[2, 31\]"):
        jax.eval_shape(lambda v: model.apply(v, jnp.zeros((2, 31), jnp.int32), method="decode"), variables)
