"""The very deep VAE's networks: published sizes, the layers' mathematics, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax import lax
from jax.scipy import stats

from jaxgen.losses import variational
from jaxgen.models import vdvae
from jaxgen.network import count_parameters

pytestmark = pytest.mark.usefixtures("fast_compilation")

ENCODER = vdvae.Encoder("4x1,4d2,2d2,1x1", width=6, custom_widths="4:4")
DECODER = vdvae.Decoder(2, "1x2,2m1,4m2", width=6, custom_widths="4:4", latent_dim=3, no_bias_above=2)
X = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 2)), jnp.float32)
NOISE = jnp.asarray(np.random.default_rng(1).normal(size=(3, DECODER.num_latents)), jnp.float32)


def shapes(encoder, decoder, image_shape):
    """(output, variables of both) as shapes, without computing anything."""

    def build(x, noise):
        maps, of_encoder = encoder.init_with_output(jax.random.key(0), x, train=True)
        decoded, of_decoder = decoder.init_with_output(jax.random.key(0), noise, maps, train=True)
        return decoded, of_encoder["params"], of_decoder["params"]

    inputs = (jax.ShapeDtypeStruct((2, *shape), jnp.float32) for shape in (image_shape, (decoder.num_latents,)))
    return jax.eval_shape(build, *inputs)


@functools.cache
def drawn():
    """Variables none of which is 0, and that no initialisation had to be compiled for."""
    rng = np.random.default_rng(2)
    _, *both = shapes(ENCODER, DECODER, X.shape[1:])
    return jax.tree.map(lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), leaf.dtype), both)


@jax.jit
def decoded_of(both, x, noise):
    return DECODER.apply({"params": both[1]}, noise, ENCODER.apply({"params": both[0]}, x, train=True), train=True)


@jax.jit
def decoded_from(both, noise, temperature=1.0):
    return DECODER.apply({"params": both[1]}, noise, temperature=temperature, train=False)


# Sizes ----------------------------------------------------------------------------------------------------------------

COUNTS = {
    "cifar": (vdvae.CIFAR, 32, 384, 39_145_700),
    "imagenet-32": (vdvae.IMAGENET_32, 32, 512, 119_280_868),
    "imagenet-64": (vdvae.IMAGENET_64, 64, 512, 125_005_860),
    "ffhq-256": (vdvae.FFHQ_256, 256, 512, 114_874_852),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "cifar" else pytest.mark.slow) for name in COUNTS]
)
def test_networks_have_as_many_parameters_as_the_published_ones(name):
    """Of ImageNet-64 125 million are published; the others are exact."""
    blocks, size, width, expected = COUNTS[name]
    encoder, decoder = vdvae.Encoder(blocks[0], width=width), vdvae.Decoder(100, blocks[1], width=width)
    decoded, *both = shapes(encoder, decoder, (size, size, 3))
    assert decoded.output.shape == (2, size, size, 100) and decoded.latents.shape == (2, decoder.num_latents)
    assert count_parameters(both) == expected


def test_a_text_names_blocks_and_those_at_one_size_are_one_loop():
    assert vdvae.stages_of("8x3,8d2,4", "d") == [(8, 3, 0), (8, 1, 2), (4, 1, 0)]
    decoder = vdvae.stages_of("1x2,4m1,4x2,8m4", "m")
    assert vdvae.joined(decoder) == [(1, 2, 0), (4, 3, 1), (8, 1, 4)]
    assert vdvae.num_blocks(decoder) == vdvae.num_blocks(vdvae.joined(decoder)) == 6
    assert vdvae.num_blocks(vdvae.stages_of(vdvae.CIFAR[0], "d")) == 33
    assert vdvae.num_blocks(vdvae.stages_of(vdvae.CIFAR[1], "m")) == 43


# The mathematics of a layer -------------------------------------------------------------------------------------------


def convolved(x, p, i=0):
    kernel, bias = p["kernel"][i], p["bias"][i]
    padding = [(kernel.shape[0] // 2,) * 2] * 2
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias


def block(x, p, i):
    for name in ("Conv_0", "Conv_1", "Conv_2", "Conv_3"):
        x = convolved(jax.nn.gelu(x, approximate=False), p[name], i)
    return x


@pytest.mark.slow
def test_the_encoders_maps_are_those_written_out():
    p = drawn()[0]
    rows = [p[f"ScanAddingBlock_{i}"]["Block_0"] for i in range(4)]
    assert rows[0]["Conv_1"]["kernel"].shape == (1, 3, 3, 1, 1) and rows[3]["Conv_1"]["kernel"].shape == (1, 1, 1, 1, 1)

    @jax.jit
    def both_ways(p, rows, x):
        found = ENCODER.apply({"params": p}, x, train=True)
        x = convolved(x, {name: leaf[None] for name, leaf in p["Conv_0"].items()})
        four = x + block(x, rows[0], 0)
        two = jnp.pad(vdvae.averaged(four + block(four, rows[1], 0), 2), ((0, 0), (0, 0), (0, 0), (0, 2)))
        one = vdvae.averaged(two + block(two, rows[2], 0), 1)
        return found, {4: four, 2: two, 1: one + block(one, rows[3], 0)}

    found, expected = both_ways(p, rows, X)
    assert set(found) == set(expected)
    for size, maps in expected.items():
        np.testing.assert_allclose(found[size], maps, rtol=2e-4, atol=2e-4)


@jax.jit
def written_out(both, x):
    """(output, log p(z) - log q(z), rates) of the decoder's two blocks at 1x1, one at 2x2 and one at 4x4."""
    maps = ENCODER.apply({"params": both[0]}, x, train=True)
    p, found, start, log_ratio, rates = both[1], {}, 0, 0.0, {}
    for row, (size, count, smaller) in enumerate([(1, 2, 0), (2, 1, 1), (4, 1, 2)]):
        width = {1: 6, 2: 6, 4: 4}[size]
        x = jnp.broadcast_to(p[f"map_{size}"] if size <= 2 else 0.0, (3, size, size, width))
        if smaller:
            x = x + jnp.repeat(jnp.repeat(found[smaller][..., :width], 2, axis=1), 2, axis=2)
        q = p[f"ScanLatentBlock_{row}"]
        for i in range(count):
            eps, start = NOISE[:, start : start + 3 * size**2].reshape(3, size, size, 3), start + 3 * size**2
            prior_mean, prior_log_std, change = jnp.split(block(x, q["prior"], i), (3, 6), axis=-1)
            mean, log_std = jnp.split(block(jnp.concatenate([x, maps[size]], -1), q["posterior"], i), 2, axis=-1)
            z = mean + jnp.exp(log_std) * eps
            log_p = stats.norm.logpdf(z, prior_mean, jnp.exp(prior_log_std))
            log_ratio += (log_p - stats.norm.logpdf(z, mean, jnp.exp(log_std))).sum((1, 2, 3))
            kl = variational.gaussian_kl(mean, 2 * log_std, prior_mean, 2 * prior_log_std)
            rates[f"{size}x{size}"] = rates.get(f"{size}x{size}", 0.0) + kl
            x = x + change + convolved(z, q["of_z"], i)
            x = x + block(x, q["after"], i)
        found[size] = x
    last = {name: leaf[None] for name, leaf in p["Conv_0"].items()}
    return convolved(found[4] * p["gain"] + p["bias"], last), log_ratio, rates


@pytest.mark.slow
def test_the_decoder_is_the_one_written_out_with_its_rates_and_its_weights_of_importance():
    both = drawn()
    output, log_ratio, rates = written_out(both, X)
    decoded = decoded_of(both, X, NOISE)
    np.testing.assert_allclose(decoded.output, output, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(decoded.log_ratio, log_ratio, rtol=1e-3, atol=1e-3)
    assert decoded.rates.keys() == rates.keys()
    for size, rate in rates.items():
        np.testing.assert_allclose(decoded.rates[size], rate, rtol=1e-3, atol=1e-3)
        assert np.all(rate > 0)


@pytest.mark.slow
def test_latents_given_again_as_the_priors_noise_make_the_same_output():
    both = drawn()
    decoded = decoded_of(both, X, NOISE)
    assert not np.allclose(decoded.latents, NOISE, atol=0.1)
    again = decoded_from(both, decoded.latents)
    np.testing.assert_allclose(again.output, decoded.output, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(again.latents, decoded.latents, rtol=1e-5)
    assert again.rates == {} and again.log_ratio is None


@pytest.mark.slow
def test_a_temperature_multiplies_what_every_prior_draws():
    both = drawn()
    half, zero = decoded_from(both, NOISE, 0.5), decoded_from(both, NOISE, 0.0)
    np.testing.assert_allclose(half.output, decoded_from(both, 0.5 * NOISE).output, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(zero.output, jnp.broadcast_to(zero.output[:1], zero.output.shape), rtol=1e-5)
    assert np.max(np.abs(half.output - zero.output)) > 0.1


def test_no_image_moves_the_bound_of_another():
    both = drawn()
    found = decoded_of(both, X, NOISE)
    other = decoded_of(both, X.at[1].set(-X[1]), NOISE)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-5, atol=1e-5)
        assert np.max(np.abs(a[1] - b[1])) > 1e-4


# At the beginning -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_at_first_priors_are_standard_normal_and_kernels_have_the_variance_of_their_fan_in_and_depth():
    decoder = vdvae.Decoder(2, "1x4", width=64, latent_dim=16)
    maps = {1: jnp.ones((1, 1, 1, 64))}
    init = jax.jit(functools.partial(decoder.init_with_output, train=True))
    decoded, variables = init(jax.random.key(0), jnp.zeros((1, decoder.num_latents)), maps)
    p = {"/".join(path): leaf for path, leaf in flatten_dict(variables["params"]).items()}
    row = "ScanLatentBlock_0/"
    expected = {
        "prior/Conv_0": np.sqrt(1 / (3 * 64)),
        "prior/Conv_3": 0.0,
        "posterior/Conv_3": np.sqrt(1 / (3 * 16)),
        "after/Conv_3": np.sqrt(1 / (3 * 16 * 4)),  # of four blocks
        "of_z": np.sqrt(1 / (3 * 16 * 4)),
    }
    for name, deviation in expected.items():
        kernel = p[f"{row}{name}/kernel"]
        assert kernel.shape[0] == 4 and float(np.std(kernel)) == pytest.approx(deviation, rel=0.1, abs=1e-9), name
        assert float(np.abs(kernel).max()) <= np.sqrt(3) * deviation + 1e-6  # uniform
        assert not np.allclose(kernel[0], kernel[1]) or deviation == 0
    assert all(np.all(leaf == 0) for name, leaf in p.items() if name.endswith("bias") or "map_" in name)
    assert decoded.output.shape == (1, 1, 1, 2)


def test_gelu_is_the_exact_one():
    x = jnp.linspace(-6, 6, 101)
    np.testing.assert_allclose(vdvae._gelu(x), jax.nn.gelu(x, approximate=False), atol=2e-6)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "decoder", "size", "message"),
    [
        ("4x", "4", 4, "'4x' in '4x' names no blocks: write 32x11 .* 32d2 for one that halves"),
        ("4m1", "4", 4, "'4m1' in '4m1' names no blocks"),
        ("4", "4,d", 4, "'d' in '4,d' names no blocks: .* 32m16 for one that adds"),
        ("8x1", "4", 4, "come to maps of 4x4 pixels where they name 8"),
        ("4d3", "4", 4, "come to maps of 4x4 pixels where they name 4d3"),
        ("4d2,4x1", "4", 4, "come to maps of 2x2 pixels where they name 4"),
        ("4", "1x1,4m1", 4, "the decoder has blocks of 1 pixels, and the encoder makes no such map"),
        ("4,4d4", "4m1,1", 4, "4m1 in '4m1,1' adds a map of 1 pixels: blocks of that size must come before it"),
        ("4,4d4", "4x1,1x1", 4, "the last of the blocks '4x1,1x1' must be of the largest size"),
    ],
)
def test_blocks_that_do_not_fit_are_one_sentence(encoder, decoder, size, message):
    with pytest.raises(ValueError, match=message):
        shapes(vdvae.Encoder(encoder, width=4), vdvae.Decoder(2, decoder, width=4, latent_dim=1), (size, size, 1))


def test_widths_that_do_not_fit_are_one_sentence():
    with pytest.raises(ValueError, match="'8' in '8' is no width: write 256:64"):
        vdvae.widths_of(4, "8", {8})
    narrow = vdvae.Encoder("4d4,1", width=4, custom_widths="1:2")
    with pytest.raises(ValueError, match="maps of 1 pixels must have as many channels as those of 4, or more"):
        shapes(narrow, DECODER, (4, 4, 1))
    with pytest.raises(ValueError, match=f"these blocks have {DECODER.num_latents} latents, and are given noise"):
        jax.eval_shape(lambda: DECODER.init(jax.random.key(0), NOISE[:, 1:], train=True))
