"""Systems that fill holes: published sizes, what they keep, and what their terms make of data whose answer is known."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import building, description, systems
from jaxgen.losses import adversarial
from jaxgen.options import Data
from jaxgen.systems import context_encoder, gated, lama, partial_convolution
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import completing
from jaxgen.systems.shared.degrading import Holes

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY, RNG = jax.random.key(0), np.random.default_rng(0)
MODULES = (lama, gated, partial_convolution, context_encoder)


def built(config):
    spec = description.spec_of(config, Preset("", config))
    return building.build_system(config, spec), spec


def batch_of(spec, num=2):
    """Random images with a hole in the middle."""
    image = jnp.asarray(RNG.uniform(-1, 1, (num, *spec.image_shape)), jnp.float32)
    mask = jnp.zeros((num, *spec.image_shape[:2], 1)).at[:, 10:20, 9:21].set(1)
    return {"image": image, "mask": mask, "source": jnp.where(mask > 0, 0.0, image)}


@pytest.mark.slow
def test_published_presets_have_networks_of_the_published_sizes():
    for name, sizes in {
        "places-lama": {"generator": 27_048_835, "discriminator": 6_962_369},
        "places-big-lama": {"generator": 50_975_875, "discriminator": 6_962_369},
        "places-gated": {"generator": 4_052_478, "discriminator": 5_946_816},
        "places-partial": {"network": 32_859_732},
        "places-context-encoder": {"generator": 71_130_531, "discriminator": 2_766_529},
    }.items():
        preset = systems.PRESETS[name]
        system = building.build_system(preset.config, description.spec_of(preset.config, preset))
        assert system.parameters == sizes, name
    preset = systems.PRESETS["places-context-encoder"]
    config = dataclasses.replace(preset.config, bottleneck=100)
    system = building.build_system(config, description.spec_of(config, preset))
    assert system.parameters["generator"] == 7_221_231


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES, ids=systems.name_of)
def test_known_pixels_come_out_to_the_bit_and_what_lies_under_the_mask_is_not_seen(module):
    system, spec = built(module.TINY)
    batch, variables = batch_of(spec), system.variables(system.init(KEY))
    translate = jax.jit(system.translate)
    found = translate(variables, batch, KEY)
    mask = np.broadcast_to(np.asarray(batch["mask"]) > 0, found.shape)
    np.testing.assert_array_equal(np.asarray(found)[~mask], np.asarray(batch["image"])[~mask])
    assert np.abs(found).max() <= 1 and np.any(np.asarray(found)[mask] != 0)
    unseen = translate(variables, batch | {"source": batch["image"]}, KEY)
    np.testing.assert_array_equal(found, unseen)


def test_data_bring_a_mask_and_a_source_and_held_out_images_have_their_hole_for_good():
    config = lama.TINY
    spec = description.spec_of(config, Preset("", config))
    assert spec.batch["mask"].shape == (32, 32, 1) and spec.batch["source"].shape == (32, 32, 3)
    with pytest.raises(ValueError, match="what fills holes needs a mask, and the batch has only image, source"):
        completing.mask_of({"image": 0, "source": 0})


# Numbers --------------------------------------------------------------------------------------------------------------


def test_the_number_of_the_hole_is_of_missing_pixels_alone_and_mean_colours_are_those_of_the_known():
    target = jnp.zeros((1, 16, 16, 3))
    mask = jnp.zeros((1, 16, 16, 1)).at[:, :4, :4].set(1)
    image = jnp.where(mask > 0, 0.2, target)
    levels = round(127.5 * 1.2) - round(127.5)
    found = completing.numbers(image, target, mask)
    in_hole = 20 * np.log10(255 / levels)
    assert float(found["psnr_in_hole"][0]) == pytest.approx(in_hole, rel=1e-5)
    assert float(found["psnr"][0]) == pytest.approx(in_hole + 10 * np.log10(16), rel=1e-5)  # of a 16th of the pixels
    assert float(completing.numbers(target, target, mask)["psnr"][0]) == 100
    source = jnp.where(mask > 0, 0.0, jnp.linspace(-1, 1, 256).reshape(1, 16, 16, 1))
    filled = completing.mean_filled(source, mask)
    mean = np.asarray(source)[np.asarray(mask) == 0].mean()
    np.testing.assert_allclose(filled, np.where(mask > 0, mean, source), atol=1e-6)


# LaMa -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side, patches", [(16, 7), (64, 7), (32, 32), (5, 2)])
def test_a_patch_is_missing_if_any_of_its_pixels_is(side, patches):
    mask = (RNG.uniform(size=(2, side, side + 3, 1)) < 2 / side).astype(np.float32)
    found = completing.missing_patches(jnp.asarray(mask), (patches, patches - 1))

    def part(i, count, length):
        return slice(i * length // count, -(-(i + 1) * length // count))

    for i in range(patches):
        for j in range(patches - 1):
            expected = mask[:, part(i, patches, side), part(j, patches - 1, side + 3)].max(axis=(1, 2, 3))
            np.testing.assert_array_equal(found[:, i, j], expected)


def test_known_patches_of_fakes_count_as_real_and_the_others_as_fake():
    logits, mask = jnp.asarray(RNG.normal(size=(3, 4, 4)), jnp.float32), np.zeros((3, 8, 8, 1), np.float32)
    mask[0, :2, :6] = mask[1] = 1
    turn = types.SimpleNamespace(fake_logits=logits, batch={"mask": jnp.asarray(mask), "source": None})
    real = jnp.zeros((3, 4, 4))
    found = jnp.mean(adversarial.non_saturating.discriminator(real, logits)) + jnp.mean(lama.known_is_real(turn))
    missing = mask.reshape(3, 4, 2, 4, 2).max(axis=(2, 4))
    softplus = jax.nn.softplus
    expected = softplus(-real) + missing * softplus(logits) + (1 - missing) * softplus(-logits)
    assert float(found) == pytest.approx(float(jnp.mean(expected)), rel=1e-5)


def test_the_gradient_that_is_penalised_is_of_the_sum_of_logits_at_images_between_0_and_1():
    w = jnp.asarray(RNG.normal(size=(4, 4, 3)), jnp.float32)
    real = jnp.asarray(RNG.uniform(-1, 1, (5, 4, 4, 3)), jnp.float32)
    logits = jnp.zeros((5, 7, 6))  # each w . x, so that their mean is the same
    turn = types.SimpleNamespace(
        real_logits=logits, real=real, fake=real, key=KEY, as_real=lambda x: jnp.sum(w * x, axis=(1, 2, 3))
    )
    value, _ = lama.gradient_of_sum(0.001).value(turn, None)
    assert float(value) == pytest.approx(0.001 * (2 * 42) ** 2 * float(jnp.sum(w**2)), rel=1e-5)


# Refused --------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_trained_is_refused_with_what_to_give():
    for config, said in (
        (dataclasses.replace(context_encoder.TINY, source=Holes("lama")), "give --source.kind centre"),
        (dataclasses.replace(context_encoder.TINY, source=Holes("centre", 0.6)), "at most 0.5"),
        (dataclasses.replace(gated.TINY, augmentation="diff"), "would change the image and not its mask"),
        (dataclasses.replace(gated.TINY, data=Data("emoji", image_size=36)), "multiples of 8, not 36x36"),
    ):
        with pytest.raises(ValueError, match=said):
            jax.eval_shape(built(config)[0].init, KEY)
