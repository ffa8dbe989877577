"""ProGAN as a system: stages that follow the step, in one program, and optimisers that begin anew with them."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import building, description, experiment, loading, optim, report
from jaxgen.losses import penalties, terms
from jaxgen.models import progan as networks
from jaxgen.models import resampling
from jaxgen.systems import progan
from jaxgen.systems.preset import Preset

pytestmark = pytest.mark.usefixtures("fast_compilation")

CONFIG = dataclasses.replace(progan.TINY, stable_images=16, fade_images=24)  # whole for 2 steps, faded for 3
SPEC = description.spec_of(CONFIG, Preset("", CONFIG))
SYSTEM = building.build_system(CONFIG, SPEC)


def batch(seed):
    rng = np.random.default_rng(seed)
    found = {name: np.zeros(x.shape, x.dtype) for name, x in SPEC.example(8).items()}
    return found | {"image": rng.uniform(-1, 1, found["image"].shape).astype(np.float32)}


@pytest.fixture(scope="module")
def states():
    """States before each of seven steps, and how often the step was traced."""
    traced = []

    def step(*arguments):
        traced.append(1)
        return SYSTEM.train_step(*arguments)

    compiled, found = jax.jit(step), [SYSTEM.init(jax.random.key(0))]
    for seed in range(6):
        state, metrics = compiled(found[-1], batch(seed), jax.random.key(1))
        assert all(np.isfinite(value) for value in metrics.values())
        found.append(state)
    return jax.device_get(found), len(traced)


# Schedule -------------------------------------------------------------------------------------------------------------


def test_progress_goes_from_stage_to_stage_by_fades_and_rests_between_them():
    found = [float(CONFIG.progress(step, 2)) for step in range(14)]
    expected = [0, 0, 1 / 3, 2 / 3, 1, 1, 1, 4 / 3, 5 / 3, 2, 2, 2, 2, 2]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert [found[i] for i in (1, 4, 6, 9, 13)] == [0, 1, 1, 2, 2]  # exactly
    assert [CONFIG.begins(stage) for stage in range(3)] == [0, 2, 7]
    assert float(CONFIG.progress(10**9, 8)) == 8


def test_phases_are_in_images_whatever_the_batch():
    published = progan.PRESETS["celebahq-progan"].config
    assert published.phases() == (50_000, 50_000)
    assert dataclasses.replace(published, batch_size=32).phases() == (25_000, 25_000)
    assert dataclasses.replace(published, num_discriminator_steps=2).phases() == (25_000, 25_000)
    assert published.num_steps == published.begins(8) + sum(published.phases()) == 850_000
    assert dataclasses.replace(published, stable_images=1).phases()[1] == 1


@pytest.mark.parametrize("name", progan.PRESETS)
def test_presets_end_with_the_whole_last_stage(name):
    preset = progan.PRESETS[name]
    last = len(networks.stages_of(description.spec_of(preset.config, preset).image_shape[0])) - 1
    assert preset.config.num_steps == preset.config.begins(last) + sum(preset.config.phases())
    assert float(preset.config.progress(preset.config.num_steps - 1, last)) == last


# Steps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_program_serves_all_stages(states):
    assert states[1] == 1


def test_layers_of_a_later_stage_stay_as_they_are_and_then_move_by_the_rate_as_others_do(states):
    """With b1 = 0 Adam's first update is the rate, times the sign of the gradient: its moments know no other."""
    found = states[0]
    assert [int(state.step) for state in found] == list(range(7))
    for player in ("generator", "discriminator"):
        params = [getattr(state, player).params for state in found]
        later = [name for name in params[0] if name.endswith("_8")]
        assert len(later) == 2
        for name in later:
            jax.tree.map(np.testing.assert_array_equal, params[2][name], params[0][name])
        for name in params[0]:
            moved = jax.tree.map(lambda a, b: np.abs(a - b), params[3][name], params[2][name])
            moved = np.concatenate([x.ravel() for x in jax.tree.leaves(moved)])
            assert np.max(moved) < 1.01 * progan.ADAM.learning_rate
            if name in later:
                assert np.median(moved) == pytest.approx(progan.ADAM.learning_rate, rel=0.01)
    averages = [state.ema["params"]["stage_8"] for state in found]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), averages[2], averages[0])


def test_pictures_are_those_of_the_stage_of_the_last_update(states):
    assert [float(SYSTEM.variables(state)["progress"]) for state in states[0]] == pytest.approx(
        [0, 0, 0, 1 / 3, 2 / 3, 1, 1]
    )
    z = SYSTEM.latents(jax.random.key(3), 4)
    drawn = SYSTEM.draw(SYSTEM.variables(states[0][2]), jax.random.key(3), 4)
    np.testing.assert_array_equal(drawn, SYSTEM.decode(SYSTEM.variables(states[0][2]), z))
    np.testing.assert_array_equal(drawn, drawn[:, ::2, ::2].repeat(2, 1).repeat(2, 2))
    faded = SYSTEM.decode(SYSTEM.variables(states[0][3]), z)
    assert np.any(faded != faded[:, ::2, ::2].repeat(2, 1).repeat(2, 2))


def test_a_picture_is_judged_as_training_judges_it(states):
    variables = SYSTEM.variables(states[0][3])
    module, params = SYSTEM.game.discriminator, states[0][3].discriminator.params
    seen = networks.faded(batch(0)["image"], 1 / 3)
    expected = module.apply({"params": params}, seen, 1 / 3, train=False)
    np.testing.assert_allclose(SYSTEM.discriminate(variables, batch(0)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 3, 5])  # before a fade, in it, and after it
def test_a_run_that_is_resumed_at_the_edges_of_a_fade_ends_with_the_same_bits(at, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "write", lambda directory: None)
    config = dataclasses.replace(CONFIG, num_steps=6, num_devices=1, sample_every=0, checkpoint_every=1, keep_last=6)
    whole = experiment.train(config, str(tmp_path / "whole"), progress=False)
    experiment.train(dataclasses.replace(config, num_steps=at), str(tmp_path / "parts"), progress=False)
    parts = experiment.train(config, str(tmp_path / "parts"), progress=False)
    assert whole.step == parts.step == 6
    jax.tree.map(np.testing.assert_array_equal, whole.state, parts.state)
    assert loading.load(tmp_path / "parts").draw(jax.random.key(0), 3).shape == (3, 8, 8, 3)


# Parts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2, 4])
def test_the_penalty_of_enlarged_pictures_is_that_of_the_small_ones(times):
    """Of a discriminator that looks at means, as all finer stages' is."""
    rng = np.random.default_rng(0)
    real, fake, w = (jnp.asarray(rng.normal(size=(5, 3, 3, 2)), jnp.float32) for _ in range(3))
    own = lambda x: jnp.tanh(jnp.sum(x * w, axis=(1, 2, 3)))  # noqa: E731
    full = lambda x: own(resampling.averaged(x, x.shape[1] // times))  # noqa: E731
    repeated = [x.repeat(times, 1).repeat(times, 2) for x in (real, fake)]
    pictures = dict(zip(("real", "fake"), repeated, strict=True))
    turn = types.SimpleNamespace(as_real=full, key=jax.random.key(0), step=7, **pictures)
    term = terms.gradient_penalty_of_enlarged(10.0, 0.8, lambda step: float(times) if step == 7 else np.nan)
    expected = penalties.gradient_penalty(10.0, 0.8)(own, real, fake, jax.random.key(0))
    np.testing.assert_allclose(term.value(turn, None)[0], expected, rtol=1e-5)
    assert (term.prefix, term.name) == ("penalty", "gradient_penalty")


def test_an_optimiser_that_begins_anew_is_a_new_one_but_for_its_schedule():
    rate = optax.linear_schedule(1.0, 0.0, 6)
    rng, params = np.random.default_rng(0), {"w": jnp.ones(3)}
    gradients = [{"w": jnp.asarray(rng.normal(size=3), jnp.float32)} for _ in range(6)]
    rule = optim.restarting_at([4], optim.skip_large_updates(optax.chain(optax.adam(rate, b1=0.5))))
    state, found = rule.init(params), []
    for gradient in gradients:
        updates, state = rule.update(gradient, state, params)
        found.append(updates["w"])
    for first, last in ((0, 4), (4, 6)):
        plain = optax.adam(1.0, b1=0.5)
        inner = plain.init(params)
        for i in range(first, last):
            updates, inner = plain.update(gradients[i], inner)
            np.testing.assert_allclose(found[i], (1 - i / 6) * updates["w"], rtol=1e-5)
    without = optim.restarting_at([], optax.sgd(0.1))
    np.testing.assert_allclose(without.update(gradients[0], without.init(params))[0]["w"], -0.1 * gradients[0]["w"])
