"""FastGAN among the systems: settings that it shares with others, and what they make of a step."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxgen import building, description, systems
from jaxgen.losses import adversarial
from jaxgen.system import Spec
from jaxgen.systems import fastgan

SPEC = Spec.of_images((32, 32, 3))


def test_only_the_best_fake_images_count_from_half_of_the_steps_on():
    config = dataclasses.replace(fastgan.TINY, top_k=0.25, num_steps=8)
    loss = building.build_system(config, SPEC).game.settings["loss"]
    fake = jnp.arange(8.0)
    for step, kept in ((0, 8), (2, 5), (4, 2), (7, 2)):
        found = loss(jnp.asarray(step)).generator(fake, fake + 1)
        assert int(jnp.sum(found != 0)) == kept
        assert float(found[-1]) == pytest.approx(-8 * 8 / kept)
    whole = building.build_system(fastgan.TINY, SPEC).game.settings["loss"]
    assert whole is adversarial.hinge
    with pytest.raises(ValueError, match="--top-k must be"):
        building.build_system(dataclasses.replace(fastgan.TINY, top_k=0.0), SPEC)


def test_fakes_shown_as_real_are_a_setting_whose_state_is_kept():
    system = building.build_system(dataclasses.replace(fastgan.TINY, augmentation="pseudo"), SPEC)
    assert set(system.shapes.discriminator.terms["augment"]) == {"probability", "sign"}


@pytest.mark.slow
@pytest.mark.parametrize("name", fastgan.PRESETS)
def test_presets_describe_themselves_without_data(name):
    preset = systems.PRESETS[name]
    system = building.build_system(preset.config, description.spec_of(preset.config, preset))
    drawn = jax.eval_shape(lambda key: system.draw(system.variables(system.init(key)), key, 2), jax.random.key(0))
    size = preset.config.data.image_size
    assert drawn.shape == (2, size, size, 3)
