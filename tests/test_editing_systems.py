"""Every system that decodes can be inverted, by its latents or by its encoder; StyleGAN's spaces draw what it draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_systems import EVERY, batch_of, built

from jaxgen.editing.decoder import Decoder
from jaxgen.editing.latents import rows_of
from jaxgen.editing.translator import translator
from jaxgen.loading import Trained
from jaxgen.systems import stylegan2, vqvae

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY = jax.random.key(1)


@functools.cache
def trained_of(module):
    system, spec = built(module)
    return Trained(system, jax.jit(system.init)(KEY), {}, {}, spec)


@EVERY
@pytest.mark.slow
def test_what_decodes_is_inverted_and_what_translates_is_of_sizes_that_are_known(module):
    system, spec = built(module)
    state = jax.jit(system.init)(KEY)
    trained = Trained(system, state, {}, {}, spec)
    images = np.asarray(batch_of(system, spec)["image"][:2])
    if system.decode is not None:
        found, told = Decoder.of(trained).invert(images, KEY, num_steps=2)
        assert found.images.shape == images.shape and np.isfinite(found.losses).all()
        again = Decoder.of(trained).decoded(found.latents, told)
        np.testing.assert_allclose(again, found.images, atol=1e-4)
    if system.translate is not None and "label" not in spec.batch:
        multiple, scale, _ = translator(trained, key=KEY).sizes
        assert multiple in (1, 2, 4, 8, 16, 32, 64) and scale in (1, 2, 3, 4)


@pytest.mark.slow
def test_a_run_of_codes_is_inverted_by_its_encoder_and_completes_nothing():
    trained = trained_of(vqvae)
    batch = batch_of(trained.system, trained.spec)
    found, told = Decoder.of(trained).invert(np.asarray(batch["image"]), KEY)
    np.testing.assert_allclose(found.images, trained.reconstruct(batch), atol=1e-5)
    assert told is None and jnp.issubdtype(found.latents.dtype, jnp.integer)
    mask = np.ones((*batch["image"].shape[:3], 1), np.float32)
    with pytest.raises(ValueError, match="no real numbers"):
        Decoder.of(trained).invert(np.asarray(batch["image"]), KEY, mask=mask)


@pytest.mark.slow
def test_styles_of_two_latents_are_mixed_in_w_plus_as_by_the_generator():
    trained = trained_of(stylegan2)
    variables, label, z = trained.variables, jnp.array([0, 1, 2]), trained.latents(KEY, 3)
    space = trained.system.spaces["w+"]
    first, second = (space.of(variables, one, label=label) for one in (z, z[::-1]))
    own = jnp.where(jnp.arange(first.shape[1])[:, None] < 2, first, second)
    mixed = trained.decode(z, label=label, mixing=2, fine=z[::-1])
    np.testing.assert_allclose(space.decode(variables, own), mixed, atol=1e-5)


@pytest.mark.slow
def test_the_spaces_of_a_stylegan_draw_what_its_latents_draw():
    trained = trained_of(stylegan2)
    variables, label = trained.variables, jnp.array([0, 1, 2])
    z = trained.latents(KEY, 3)
    images = trained.decode(z, label=label)
    spaces = trained.system.spaces
    w, w_plus = (spaces[name].of(variables, z, label=label) for name in ("w", "w+"))
    np.testing.assert_array_equal(w_plus, jnp.broadcast_to(w[:, None], w_plus.shape))
    decode = jax.jit(spaces["w"].decode)
    for styles in (w, w_plus):
        np.testing.assert_allclose(decode(variables, styles), images, atol=1e-5)


@pytest.mark.slow
def test_directions_of_styles_by_weights_are_of_the_layers_that_styles_enter():
    trained = trained_of(stylegan2)
    kernels = trained.system.spaces["w"].kernels(trained.variables)
    assert len(kernels) == 5  # of 4x4 pixels a convolution and a picture, of 8x8 two convolutions and a picture
    assert {kernel.shape[0] for kernel in kernels} == {6}
    found = Decoder.of(trained, space="w").directions(KEY, by="weights", num=3)
    together = np.concatenate(kernels, axis=1)
    _, values, _ = np.linalg.svd(together.T)
    np.testing.assert_allclose(found.strengths, values[:3] ** 2, rtol=1e-4)
    by_styles = Decoder.of(trained, space="w").directions(KEY, num=2)
    assert by_styles.rows.shape == (2, 6) and by_styles.strengths[0] >= by_styles.strengths[1]


@pytest.mark.slow
def test_a_start_in_w_is_its_mean_and_what_becomes_of_an_image_does_not_depend_on_others():
    trained = trained_of(stylegan2)
    inverter = Decoder.of(trained, space="w", label=(1,))
    images = np.asarray(batch_of(trained.system, trained.spec)["image"][:3])
    found, told = inverter.invert(images, KEY, num_steps=0, num_starts=2)
    assert told["label"].tolist() == [1, 1, 1]
    alone, _ = inverter.invert(images[1:2], KEY, num_steps=0, num_starts=2)
    np.testing.assert_allclose(alone.losses[0], found.losses[1], rtol=1e-5)
    rows, _ = rows_of(found.latents)
    assert rows.shape == (3, 6)
