"""Sweeps: many settings in one program behave as one after the other."""

import csv
import dataclasses
import functools
import itertools
import json
import math
import re
import shutil
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from a_run import Page
from flax import linen as nn
from in_process import call, script

from jaxgen import checkpoint, data, evaluation, experiment, opening, turns
from jaxgen import gan as gans
from jaxgen import vae as vaes
from jaxgen.data import toy
from jaxgen.losses import adversarial, penalties
from jaxgen.metrics import comparison, features, protocol
from jaxgen.models import dcgan, mlp
from jaxgen.stability import (
    games,
    members,
    oracles,
    sweep,
    sweep_metrics,
    sweep_page,
    sweep_presets,
    sweep_report,
    updates,
)
from jaxgen.system import System
from jaxgen.systems import pix2pix

pytestmark = pytest.mark.usefixtures("fast_compilation")
GENERATOR, DISCRIMINATOR, LATENT_DIM = mlp.Generator(widths=(8,)), mlp.Discriminator(widths=(8,)), 3
ONE_DEVICE = jax.devices()[:1]


def ring_program(*, scored=False, **arguments):
    score = members.mode_score(GENERATOR, LATENT_DIM, toy.ring_modes(), 0.1, num_samples=64) if scored else None
    return members.gan(GENERATOR, DISCRIMINATOR, latent_dim=LATENT_DIM, score=score, **arguments)


RING = sweep.stream(lambda key: toy.ring(key, 16, std=0.1))


def settings_of(num, **more):
    rates = np.geomspace(1e-3, 1e-2, num)
    return {"generator_rate": rates, "discriminator_rate": 2 * rates[::-1], "r1": np.linspace(0, 1, num)} | {
        name: np.asarray(values) for name, values in more.items()
    }


def run(settings, program=None, **arguments):
    arguments = {"num_steps": 20, "num_records": 4, "devices": ONE_DEVICE} | arguments
    return sweep.run(program or ring_program(), RING, settings, **arguments)


@pytest.mark.slow
def test_a_sweep_of_64_equals_a_loop_over_its_settings():
    num = 64
    settings = settings_of(num, clip=np.resize([0.5, math.inf, 1.0, 0.1], num), seed=np.arange(num) % 5)
    program = ring_program()
    result = run(settings, program, num_steps=50, num_records=1, block_size=num)
    key = lambda row: jax.random.fold_in(jax.random.key(0), row["seed"])  # noqa: E731
    init = jax.jit(lambda row: program.init(row, key(row)))
    step = jax.jit(lambda row, state, index: program.step(row, state, RING.batch((), index), key(row))[0])
    for member in range(num):
        row = {name: jnp.asarray(values[member]) for name, values in settings.items()}
        state = init(row)
        for index in range(50):
            state = step(row, state, index)
        for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(result.states), strict=True):
            np.testing.assert_allclose(other[member], one, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_blocks_and_devices_change_nothing_beyond_rounding():
    settings = settings_of(5)
    reference = run(settings, block_size=5)
    for arguments in ({"block_size": 1}, {"block_size": 2}, {"block_size": 2, "devices": jax.devices()[:2]}):
        other = run(settings, **arguments)
        assert list(other.history) == list(reference.history)
        for name in ("generator/loss", "discriminator/grad_norm", "penalty/r1", "radius"):
            np.testing.assert_allclose(other.history[name], reference.history[name], rtol=2e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [4, 2])
def test_a_member_that_blows_up_leaves_all_others_bit_for_bit_as_they_are(block_size):
    healthy = settings_of(4)
    poisoned = {name: values.copy() for name, values in healthy.items()}
    poisoned["generator_rate"][1] = 1e38
    good = run(healthy, ring_program(optimizer=members.sgd, scored=True), block_size=block_size)
    bad = run(poisoned, ring_program(optimizer=members.sgd, scored=True), block_size=block_size)
    assert bad.table["finite"].tolist() == [True, False, True, True]
    first = bad.table["first_bad_step"][1]
    assert 0 <= first < 5 and bad.table["first_bad_step"][0] == -1
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(bad.states))  # frozen where it last was finite
    assert np.isnan(bad.history["generator/loss"][1, 1:]).all() and np.isnan(bad.table["final_score"][1])
    others = [0, 2, 3]
    for one, other in zip(jax.tree.leaves(good.states), jax.tree.leaves(bad.states), strict=True):
        np.testing.assert_array_equal(one[others], other[others])
    for name in good.history:
        np.testing.assert_array_equal(good.history[name][others], bad.history[name][others])


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_as_uninterrupted(tmp_path):
    settings = settings_of(3)
    program = ring_program(scored=True)
    whole = run(settings, program)

    def kill(step, record):
        if step == 10:
            raise KeyboardInterrupt

    arguments = {"directory": tmp_path, "checkpoint_every": 1}
    with pytest.raises(KeyboardInterrupt):
        run(settings, program, on_record=kill, **arguments)
    seen = []
    resumed = run(settings, program, on_record=lambda step, record: seen.append(step), **arguments)
    assert seen == [15, 20]
    for one, other in zip(jax.tree.leaves(whole.states), jax.tree.leaves(resumed.states), strict=True):
        np.testing.assert_array_equal(one, other)
    for name in whole.table:
        np.testing.assert_array_equal(whole.table[name], resumed.table[name])
    for name in whole.history:
        np.testing.assert_array_equal(whole.history[name], resumed.history[name])
    again = run(settings, program, on_record=lambda step, record: seen.append(step), **arguments)
    assert seen == [15, 20] and again.table["final_score"].tolist() == whole.table["final_score"].tolist()
    with pytest.raises(ValueError, match="holds another sweep .r1 0 0.5 1 there, 1 now"):
        run(settings | {"r1": np.ones(3)}, program, **arguments)


@pytest.mark.slow
def test_members_of_one_seed_start_alike_and_see_the_same_data():
    settings = settings_of(4, seed=[0, 1, 0, 1]) | {"r1": np.zeros(4)}
    settings |= {"generator_rate": np.full(4, 1e-3), "discriminator_rate": np.full(4, 1e-3)}
    result = run(settings, block_size=4)
    for leaf in jax.tree.leaves(result.states):
        np.testing.assert_array_equal(leaf[0], leaf[2])
        np.testing.assert_array_equal(leaf[1], leaf[3])
    kernel = result.states.generator.params["Dense_0"]["kernel"]
    assert not np.array_equal(kernel[0], kernel[1])


@pytest.mark.slow
def test_a_swept_penalty_takes_the_place_of_the_games_own():
    optimizers = {"generator_optimizer": None, "discriminator_optimizer": None}  # of no account
    game = gans.Game(
        GENERATOR, DISCRIMINATOR, {**optimizers, "latent_dim": LATENT_DIM, "penalties": [penalties.r1(5.0)]}
    )
    plain = {name: values for name, values in settings_of(2).items() if name != "r1"}
    own = run(plain, members.of_game(game)).history
    swept = run(plain | {"r1": np.array([5.0, 0.0])}, members.of_game(game)).history
    assert [name for name in swept if name.startswith("penalty/")] == ["penalty/r1"]
    np.testing.assert_allclose(swept["discriminator/loss"][0], own["discriminator/loss"][0], rtol=1e-5)
    assert (swept["penalty/r1"][1] == 0).all() and (own["penalty/r1"] > 0).all()
    both = run(plain | {"gradient_penalty": np.ones(2)}, members.of_game(game)).history
    assert {name for name in both if name.startswith("penalty/")} == {"penalty/r1", "penalty/gradient_penalty"}


@pytest.mark.slow
def test_a_swept_weight_takes_the_place_of_that_of_the_games_own_term():
    def spread(turn):
        return jnp.mean(turn.fake**2)

    def of_weight(weight):
        terms = [turns.term(spread, weight=weight)]
        return gans.Game(GENERATOR, DISCRIMINATOR, {"latent_dim": LATENT_DIM, "generator_terms": terms})

    plain = {name: values for name, values in settings_of(3).items() if name != "r1"}
    alone = [run(plain, members.of_game(of_weight(weight))).states for weight in (0.0, 3.0)]
    weights = {"weight/spread": np.array([0.0, 3.0, 3.0])}
    swept = run(plain | weights, members.of_game(of_weight(7.0))).states
    for found, expected in zip((0, 1, 2), (alone[0], alone[1], alone[1]), strict=True):
        for x, y in zip(
            jax.tree.leaves(swept.generator.params), jax.tree.leaves(expected.generator.params), strict=True
        ):
            np.testing.assert_allclose(x[found], y[found], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="cannot use weight/width; its settings are .*weight/spread"):
        run(plain | {"weight/width": np.ones(3)}, members.of_game(of_weight(7.0)))
    with pytest.raises(ValueError, match="weight/spread must be at least 0"):
        run(plain | {"weight/spread": -np.ones(3)}, members.of_game(of_weight(7.0)))


@pytest.mark.slow
def test_a_sweep_of_what_makes_images_of_sources_is_scored_on_held_out_pairs(tmp_path, capsys, scripts_in_process):
    small = dataclasses.replace(pix2pix.TINY.data, image_size=16)
    config = dataclasses.replace(pix2pix.TINY, data=small, halvings=3, discriminator_layers=1, num_steps=1)
    experiment.train(config, str(tmp_path / "run"), progress=False)
    arguments = ("--discriminator-rate", 0.001, "--clip", "none", "--weight", "l1=0,100", "--steps", 4, "--records", 1)
    assert call("stability", "sweep", tmp_path / "run", *arguments, "--directory", tmp_path / "sweep") == 0
    assert "weight/l1" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "sweep" / "members.csv").open()))
    assert [float(row["weight/l1"]) for row in rows] == [0, 100]
    for row in rows:
        assert float(row["final_score"]) == pytest.approx(-float(row["final_l1"])) and 0 < float(row["final_l1"]) < 1
        assert 0 < float(row["final_psnr"]) < 100
    assert (tmp_path / "sweep" / "samples.png").exists()
    assert call("stability", "sweep", tmp_path / "run", "--metrics", "fid") == 2
    assert "give no --metrics" in capsys.readouterr().err
    assert call("stability", "sweep", tmp_path / "run", "--weight", "l1:3") == 2
    assert "such as l1=10,100" in capsys.readouterr().err


@pytest.mark.slow
def test_a_swept_cycle_weight_is_that_of_members_trained_by_themselves():
    class Translator(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return jnp.tanh(nn.Dense(2)(x))

    class Judge(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(1)(x)[..., 0]

    def draw(arrays, step):
        source, image = jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (2, 4, 3, 3, 2))
        return {"source": source, "image": 0.5 * image + 0.2}

    both = sweep.NO_DATA._replace(batch=draw)
    modules, shape = (Translator(), Translator(), Judge(), Judge()), (3, 3, 2)
    program = members.domains(*modules, image_shape=shape, optimizer=members.sgd, pool_size=2, identity_weight=0.0)
    rates = {"generator_rate": np.full(2, 0.01), "discriminator_rate": np.full(2, 0.02)}
    settings = rates | {"cycle_weight": np.array([0.0, 5.0]), "seed": np.array([1, 1])}
    arguments = {"num_steps": 6, "num_records": 2, "devices": ONE_DEVICE}
    swept = sweep.run(program, both, settings, **arguments)
    assert swept.table["finite"].all() and swept.steps.tolist() == [3, 6]
    for member, weight in enumerate((0.0, 5.0)):
        fixed = members.domains(
            *modules, image_shape=shape, optimizer=members.sgd, pool_size=2, identity_weight=0.0, cycle_weight=weight
        )
        alone = sweep.run(fixed, both, {name: rates[name][:1] for name in rates} | {"seed": [1]}, **arguments)
        for x, y in zip(jax.tree.leaves(swept.states), jax.tree.leaves(alone.states), strict=True):
            np.testing.assert_allclose(x[member], y[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="a sweep of two domains cannot use r1"):
        sweep.run(program, both, rates | {"r1": np.ones(2)}, **arguments)


@pytest.mark.slow
def test_losses_are_mixed_by_weights_and_one_weight_is_one_loss():
    losses = {"hinge": adversarial.hinge, "wasserstein": adversarial.wasserstein}
    settings = settings_of(3) | {"loss/hinge": np.array([2.0, 0.0, 1.0]), "loss/wasserstein": np.array([0.0, 1.0, 1.0])}
    mixed = run(settings, ring_program(losses=losses)).history["discriminator/loss"]
    plain = {name: value for name, value in settings.items() if not name.startswith("loss/")}
    for member, loss in enumerate(losses.values()):
        alone = run(plain, ring_program(losses=loss)).history["discriminator/loss"]
        np.testing.assert_allclose(mixed[member], alone[member], rtol=1e-4, atol=1e-5)
        assert not np.allclose(mixed[2], alone[2], rtol=1e-3)


@pytest.mark.slow
def test_clip_shares_count_and_an_infinite_norm_is_no_clip():
    settings = settings_of(3, generator_clip=[1e-6, math.inf, 1e6], discriminator_clip=[math.inf, 1e-6, math.inf])
    table = run(settings).table
    assert table["generator_clip_share"].tolist() == [1, 0, 0]
    assert table["discriminator_clip_share"].tolist() == [0, 1, 0]


@pytest.mark.slow
def test_every_update_rule_of_gans_can_be_swept():
    ends = [
        run(settings_of(2), ring_program(update_rule=rule)).history["radius"][:, -1]
        for rule in (gans.alternating, gans.simultaneous, gans.extragradient)
    ]
    assert all(np.isfinite(end).all() for end in ends)
    assert all(not np.array_equal(one, other) for one, other in itertools.combinations(ends, 2))


def test_a_game_follows_its_closed_form(double_precision):
    def field(settings):
        return games.field(games.dirac(adversarial.wasserstein, [penalties.r1(settings["r1"])]))

    def rule(settings):
        return updates.simultaneous(games.Players(settings["generator_rate"], settings["discriminator_rate"]))

    program = members.game(rule, field, games.Players(1.0, 0.5), games.Players(0.0, 0.0))
    settings = sweep.product({"r1": [0.0, 0.5]}, {"generator_rate": [0.1], "discriminator_rate": [0.2]})
    result = sweep.run(program, sweep.NO_DATA, settings, num_steps=640, num_records=64, devices=ONE_DEVICE)
    growth = oracles.simultaneous_growth(0.1, 0.2)
    slope = np.polyfit(result.steps, np.log(result.history["radius"][0]), 1)[0]
    np.testing.assert_allclose(slope, np.log(growth), rtol=1e-2)
    assert result.table["growth_law"].tolist() == ["exponential", "decay"]


@pytest.mark.slow
def test_image_gans_are_members_like_any_other():
    generator, discriminator = dcgan.Generator(image_size=28, channels=1, features=1), dcgan.Discriminator(features=1)
    real = jax.random.uniform(jax.random.key(0), (8, 28, 28, 1), minval=-1)
    score = members.sliced_wasserstein_score(generator, 3, real, num_projections=8)
    program = members.gan(generator, discriminator, latent_dim=3, score=score)
    data = sweep.stream(lambda key: jax.random.uniform(key, (4, 28, 28, 1), minval=-1))
    settings = {"generator_rate": [1e-3, 2e-3], "discriminator_rate": [1e-3, 1e-3], "r1": [0.0, 1.0]}
    result = sweep.run(program, data, settings, num_steps=2, num_records=2, block_size=1, devices=ONE_DEVICE)
    assert result.table["finite"].all() and (result.table["final_sliced_wasserstein"] > 0).all()
    assert result.states.generator.params is not None


def test_away_from_a_terminal_the_progress_is_a_line_for_each_tenth_and_no_bar(capsys):
    program = sweep.Program("fall", lambda settings, key: settings["x"], lambda settings, x, batch, key: (x / 0.5, {}))
    sweep.run(program, sweep.NO_DATA, {"x": [1e-30, 1e38]}, num_steps=40, num_records=20, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11 and lines[-1] == "step 40/40: 1 of 2 finite"  # and one at first
    assert re.fullmatch(r"step 2/40, \d+ s left: [12] of 2 finite", lines[0])
    sweep.run(program, sweep.NO_DATA, {"x": [1e-30]}, num_steps=40, num_records=20)
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_vaes_are_members_and_beta_is_a_setting():
    encoder, decoder = mlp.Encoder(2, widths=(8,)), mlp.BernoulliDecoder((4, 4, 1), widths=(8,))
    image = jnp.sign(jax.random.normal(jax.random.key(0), (8, 4, 4, 1)))
    program = members.vae(
        encoder, decoder, image_shape=(4, 4, 1), score=members.elbo_score(encoder, decoder, {"image": image})
    )
    data = sweep.Data((), lambda first, number: np.arange(first, first + number), lambda _, step: {"image": image})
    result = sweep.run(
        program,
        data,
        {"learning_rate": [0.01, 0.01], "beta": [0.1, 10.0]},
        num_steps=40,
        num_records=4,
        devices=ONE_DEVICE,
    )
    assert result.table["final_rate"][0] > result.table["final_rate"][1]
    assert vaes.VAEState is type(result.states)
    with pytest.raises(
        ValueError, match="a sweep of VAEs cannot use discriminator_rate; its settings are learning_rate, clip"
    ):
        sweep.run(program, data, {"learning_rate": [1.0], "discriminator_rate": [1.0]}, num_steps=1, num_records=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no members"),
        ({"generator_rate": []}, "settings are empty"),
        ({"generator_rate": [1.0], "r1": [1.0, 2.0]}, "generator_rate 1, r1 2"),
        ({"generator_rate": [[1.0]]}, r"one for each member, but generator_rate is float64 \[1, 1\]"),
        (
            {"generator_rate": [0.1, 0.0], "discriminator_rate": [1, 1]},
            "generator_rate must be above 0 .* is 0 for memb",
        ),
        ({"generator_rate": [-1.0]}, "generator_rate must be above 0"),
        ({"generator_rate": [math.nan]}, "generator_rate must be above 0"),
        ({"generator_rate": [1.0], "discriminator_rate": [1.0], "clip": [-1.0]}, "clip is a norm to clip at and must"),
        ({"generator_rate": [1.0], "discriminator_rate": [1.0], "r1": [-1.0]}, "r1 must be at least 0"),
        (
            {"generator_rate": [1.0], "discriminator_rate": [1.0], "momentum": [1.0]},
            "momentum must be between -1 and 1",
        ),
        ({"generator_rate": [1.0], "discriminator_rate": [1.0], "seed": [0.5]}, "seed must be a whole number"),
        ({"generator_rate": [1.0]}, "a sweep of GANs needs the setting discriminator_rate"),
        ({"generator_rate": [1.0], "discriminator_rate": [1.0], "beta": [1.0]}, "a sweep of GANs cannot use beta"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        run(settings)


def test_other_mistakes_are_explained():
    with pytest.raises(ValueError, match="an axis of the grid is empty: r1"):
        sweep.product({"r1": []})
    with pytest.raises(ValueError, match="must have one length, but a has 1, b has 2"):
        sweep.product({"a": [1], "b": [1, 2]})
    with pytest.raises(ValueError, match="in two axes of the grid: a"):
        sweep.product({"a": [1]}, {"a": [1]})
    with pytest.raises(ValueError, match="the grid is empty"):
        sweep.product()
    with pytest.raises(ValueError, match="20 steps are asked for in 3 records"):
        run(settings_of(2), num_records=3)
    with pytest.raises(ValueError, match="block_size must be at least 1, not 0"):
        run(settings_of(2), block_size=0)
    with pytest.raises(TypeError, match="a GAN cannot use this update"):
        ring_program(update_rule=updates.simultaneous(0.1))
    with pytest.raises(TypeError, match="a GAN cannot use this update"):
        ring_program(update_rule=updates.consensus)


@pytest.mark.slow
def test_a_sweep_too_large_for_memory_says_what_would_fit():
    with pytest.raises(MemoryError, match=r"the states of 64 members need .* are free: up to \d+ members fit"):
        run(settings_of(64), memory=20_000)
    with pytest.raises(MemoryError, match=r"64 members in blocks of 64 need .* use block_size=\d+"):
        run(settings_of(64), block_size=64, memory=300_000)
    with pytest.raises(MemoryError, match="a grid of 20,000,000,000,000 members: .* Run it in parts"):
        sweep.product({"r1": [0.0, 1.0]}, {"seed": range(10**13)})


def test_the_budget_curve_is_the_mean_of_the_best_over_all_subsets():
    scores = np.array([0.3, -1.0, 2.0, 2.0, 0.7])
    exact = [np.mean([max(subset) for subset in itertools.combinations(scores, k)]) for k in range(1, 6)]
    np.testing.assert_allclose(sweep.budget_curve(scores), exact, rtol=1e-12)
    np.testing.assert_allclose(sweep.budget_curve([1.0, math.nan], failure_score=0.0), [0.5, 1.0])
    big = np.random.default_rng(0).normal(size=400)
    curve = sweep.budget_curve(big)
    assert (
        np.all(np.diff(curve) >= -1e-12)
        and curve[-1] == pytest.approx(big.max())
        and curve[0] == pytest.approx(big.mean())
    )
    with pytest.raises(ValueError, match="1 scores are not finite"):
        sweep.budget_curve([1.0, math.nan])
    with pytest.raises(ValueError, match="at least one"):
        sweep.budget_curve([])


def test_the_tail_index_of_a_pareto_sample_is_its_exponent():
    sample = np.random.default_rng(0).pareto(1.5, 200_000) + 1
    largest = np.sort(sample)[::-1][:5001]
    assert sweep.hill_tail_index(largest) == pytest.approx(1.5, rel=0.05)
    assert math.isnan(sweep.hill_tail_index([1.0, 0.0, 0.0])) or sweep.hill_tail_index([1.0, 0.0, 0.0]) == 0


def test_over_seeds_counts_failures_and_quantiles():
    table = {
        "r1": np.array([0.0, 0.0, 0.0, 1.0]),
        "seed": np.array([0, 1, 2, 0]),
        "finite": np.array([True, True, False, True]),
        "final_score": np.array([0.2, 0.8, np.nan, 0.5]),
    }
    first, second = sweep.over_seeds(table, ["r1", "seed"], failed_below=0.3)
    assert first["r1"] == 0 and first["seeds"] == 3 and first["failures"] == 2
    assert first["median"] == pytest.approx(0.5) and first["highest"] == 0.8
    assert 0 < first["failure_low"] < 2 / 3 < first["failure_high"] < 1
    assert second["failure_probability"] == 0 and second["failure_low"] == 0


def test_results_are_one_tidy_table_and_json(tmp_path):
    settings = settings_of(3) | {"clip": np.array([1.0, math.inf, 1.0]), "generator_rate": np.array([1e-3, 1e38, 1e-3])}
    result = run(settings, ring_program(optimizer=members.sgd, scored=True))
    table, _, record = sweep.write(result, tmp_path / "made")
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 3 and float(rows[1]["clip"]) == math.inf and rows[1]["finite"] == "False"
    assert rows[1]["final_score"] == "" and float(rows[0]["r1"]) == 0
    found = json.loads(record.read_text())
    assert found["members"] == 3 and len(found["budget_curve"]) == 3
    assert found["table"]["clip"][1] is None and len(found["history"]["radius"][0]) == 4


@pytest.mark.slow
def test_the_step_is_traced_once_however_many_records():
    traces = []
    program = ring_program()

    def step(*arguments):
        traces.append(1)
        return program.step(*arguments)

    counts = []
    for num_records in (2, 4):
        traces.clear()
        run(settings_of(3), program._replace(step=step), num_steps=8, num_records=num_records)
        counts.append(len(traces))
    assert counts[0] == counts[1]


def command(*arguments):
    return call("stability", "sweep", *arguments)


SMALL = "--num-steps 4 --records 2 --seeds 1 --batch-size 8 --num-devices 1 --r1 0 --generator-rate 0.1"


@pytest.mark.slow
def test_the_command_writes_a_table_and_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    arguments = ["ring", "--directory", tmp_path / "made", "--clip", "1", "none", *SMALL.split()]
    arguments += ["--discriminator-rate", "0.1"]
    assert command(*arguments) == 0
    output = capsys.readouterr().out
    assert (
        output.startswith("2 networks, 4 steps at constant rates, ")
        and "2 finite to the end" in output
        and "members.csv" in output
    )
    rows = list(csv.DictReader((tmp_path / "made" / "members.csv").open()))
    legend = (tmp_path / "made" / "columns.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in legend] == list(rows[0]) and all(line.split(": ")[1] for line in legend)
    assert [row["clip"] for row in rows] == ["1.0", "inf"] and "discriminator_clip_share" in rows[0]
    assert command(*arguments) == 0  # from its checkpoint
    assert list(csv.DictReader((tmp_path / "made" / "members.csv").open())) == rows
    capsys.readouterr()
    assert command(*arguments, "--steps", "8") == 2
    assert "holds another sweep (num_steps 4 there, 8 now)" in capsys.readouterr().err
    arguments[arguments.index("--clip") + 1] = "2"
    assert command(*arguments) == 2
    assert "holds another sweep (clip 1 inf there, 2 inf now): choose another" in capsys.readouterr().err


# Directories that somebody damaged ------------------------------------------------------------------------------------


def half(file):
    """Cuts a file in the middle."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def a_directory(path):
    """Puts a directory in the place of what is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.mkdir()


def arrays_of(step):
    """The largest file of a checkpoint, which holds numbers."""
    return max((file for file in (step / "state").rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


RECORD = "record/metadata"
DAMAGES = {
    "its record is gone": lambda step: (step / RECORD).unlink(),
    "its record is empty": lambda step: (step / RECORD).write_bytes(b""),
    "its record was cut": lambda step: half(step / RECORD),
    "its record is no text": lambda step: (step / RECORD).write_bytes(b"\xff\xfe\x80"),
    "its record is a list": lambda step: (step / RECORD).write_text("[1]"),
    "a directory lies in its record's place": lambda step: a_directory(step / RECORD),
    "a setting was edited": lambda step: (step / RECORD).write_text(
        (step / RECORD).read_text().replace("fall", "rise")
    ),
    "its numbers were cut": lambda step: half(arrays_of(step)),
    "a number was changed": lambda step: arrays_of(step).write_bytes(
        bytes(b ^ 1 for b in arrays_of(step).read_bytes())
    ),
    "its numbers are gone": lambda step: shutil.rmtree(step / "state"),
    "it is an empty directory": a_directory,
}
FALL = sweep.Program(
    "fall", lambda s, key: s["x"], lambda s, x, batch, key: (x / 2, {"loss": x}), lambda s, x, key: {"score": x}
)


def fall(directory, seen=None):
    """Four records of two members, of which the last two have a checkpoint each."""
    settings, arguments = {"x": [1.0, 3.0]}, {"num_steps": 8, "num_records": 4, "devices": ONE_DEVICE}
    on_record = None if seen is None else lambda step, record: seen.append(step)
    return sweep.run(
        FALL, sweep.NO_DATA, settings, directory=directory, checkpoint_every=1, on_record=on_record, **arguments
    )


@pytest.fixture(scope="module")
def fallen(tmp_path_factory):
    """(directory of a finished sweep, its result)."""
    directory = tmp_path_factory.mktemp("sweep") / "made"
    return directory, fall(directory)


def same_result(one, other):
    assert list(one.table) == list(other.table) and list(one.history) == list(other.history)
    for name in one.table:
        np.testing.assert_array_equal(one.table[name], other.table[name])
    for name in one.history:
        np.testing.assert_array_equal(one.history[name], other.history[name])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.slow
def test_what_a_damaged_checkpoint_held_is_computed_again(fallen, tmp_path, damage):
    directory = shutil.copytree(fallen[0], tmp_path / "made")
    DAMAGES[damage](directory / "checkpoints" / "8")
    seen = []
    with pytest.warns(UserWarning, match="the checkpoint of step 8 is damaged: .*Trying step 6 instead"):
        same_result(fall(directory, seen), fallen[1])
    assert seen == [8]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is whole again
        same_result(fall(directory, seen), fallen[1])
    assert seen == [8]


def test_a_sweep_without_a_whole_checkpoint_says_so_and_one_without_any_begins_anew(fallen, tmp_path):
    directory = shutil.copytree(fallen[0], tmp_path / "made")
    half(directory / "checkpoints" / "8" / RECORD)
    half(arrays_of(directory / "checkpoints" / "6"))
    with pytest.warns(UserWarning), pytest.raises(checkpoint.CheckpointDamaged) as raised:
        fall(directory)
    told = str(raised.value)
    assert (
        told.startswith(f"every checkpoint in {directory / 'checkpoints'} is damaged") and "another directory" in told
    )
    shutil.rmtree(directory / "checkpoints")
    seen = []
    same_result(fall(directory, seen), fallen[1])
    assert seen == [2, 4, 6, 8]
    shutil.rmtree(directory / "checkpoints")
    (directory / "checkpoints").write_text("")
    with pytest.raises(OSError, match="checkpoints cannot be written to .*: it is a file. Choose a directory"):
        fall(directory)


def test_what_else_lies_beside_checkpoints_changes_nothing(fallen, tmp_path):
    directory = shutil.copytree(fallen[0], tmp_path / "made")
    (directory / "notes.json").write_text("{")
    (directory / "checkpoints" / "notes.txt").write_text("mine")
    (directory / "checkpoints" / "old").mkdir()
    (directory / "checkpoints" / "9").write_text("no checkpoint")
    seen = []
    same_result(fall(directory, seen), fallen[1])
    assert not seen and (directory / "checkpoints" / "notes.txt").read_text() == "mine"
    shutil.rmtree(directory / "checkpoints" / "6")  # the older one, which nobody needs
    same_result(fall(directory, seen), fallen[1])
    assert not seen


@pytest.mark.slow
def test_files_of_a_sweep_are_written_anew_and_a_directory_in_their_place_is_told_before_training(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    made = tmp_path / "made"
    arguments = ["ring", "--directory", made, "--clip", "1", *SMALL.split(), "--discriminator-rate", "0.1"]
    assert command(*arguments) == 0
    table, record = (made / "members.csv").read_bytes(), json.loads((made / "sweep.json").read_text())
    half(made / "members.csv")
    (made / "sweep.json").write_text(json.dumps(record | {"members": 7}))
    (made / "columns.txt").unlink()
    (made / "sweep.html").write_bytes(b"\xff")
    assert command(*arguments) == 0
    assert (made / "members.csv").read_bytes() == table and json.loads((made / "sweep.json").read_text()) == record
    assert (made / "columns.txt").read_text() and "Sweep of ring" in (made / "sweep.html").read_text()
    monkeypatch.setattr(sweep, "run", None)  # nothing is trained before it is told
    for name in ("members.csv", "sweep.json", "sweep.html", "scores.png"):
        a_directory(made / name)
        capsys.readouterr()
        assert command(*arguments) == 2
        errors = capsys.readouterr().err.splitlines()
        assert f"error: could not write {made / name}: a directory lies there, where a file is expected" in errors[-2]
        shutil.rmtree(made / name)
    (tmp_path / "file").write_text("")
    arguments[arguments.index(made)] = tmp_path / "file"
    assert command(*arguments) == 2 and "file: something that is not a directory lies there" in capsys.readouterr().err
    with pytest.raises(OSError, match="could not make the directory .*file: something that is not a directory lies"):
        sweep.write(made_up(falls_without_a_clip), tmp_path / "file")


RECORDS = {
    "gone": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "cut": half,
    "no text": lambda file: file.write_bytes(b"\xff\xfe\x80"),
    "a list": lambda file: file.write_text("[]"),
    "without metrics": lambda file: file.write_text('{"protocol": {}}'),
    "another number": lambda file: file.write_text(file.read_text().replace('"swd": 0', '"swd": 9')),
    "a word for a number": lambda file: file.write_text(file.read_text().replace('"swd": 0', '"swd": "none", "x": 0')),
    "another setting": lambda file: file.write_text(file.read_text().replace('"n_fake": 6', '"n_fake": 60')),
}


@pytest.mark.parametrize("damage", RECORDS)
def test_a_record_of_a_member_that_was_damaged_is_measured_again_and_no_table_takes_it(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reference = opening.Images(data.from_arrays("real", np.zeros((8, 2, 2, 1), np.uint8)), "real", "test")
    backbone, directory = features.Backbone("none", "1" * 64, "none", None), tmp_path / "made" / "evaluation"
    settings = {"clip": np.array([1.0, np.inf]), "seed": np.zeros(2, int)}
    table = settings | {"finite": np.ones(2, bool)}
    result = sweep.Result(settings, table, np.array([1]), {}, jnp.array([0.0, 0.5]), 1.0)
    draw = lambda state, key, n: jnp.full((n, 2, 2, 1), state)  # noqa: E731
    preset = sweep_presets.Preset({}, None, None, 1, 1, 1, 1, draw=draw)
    compared = []

    def compare(fake, *_, **__):
        compared.append(fake.name)
        same = {"fake_sha256": comparison.content_digest(fake.dataset), "backbone_sha256": backbone.digest}
        same["reference_sha256"] = comparison.content_digest(reference.dataset)
        told = {"metrics": {"swd": len(fake.name) / 100}, "protocol": same | {"n_fake": 6} | evaluation.code_version()}
        return told | {"subject": fake.name}

    monkeypatch.setattr(evaluation, "compare", compare)
    measure = functools.partial(
        sweep_metrics.measure, "toy", preset, result, reference, backbone, ["swd"], 6, directory, False
    )
    measured = measure().table["swd"]
    assert compared == ["clip 1", "clip inf"] and measure().table["swd"].tolist() == measured.tolist()
    assert len(compared) == 2
    RECORDS[damage](directory / "member_0000.json")
    if damage != "gone":
        with pytest.raises(ValueError, match="member_0000.json .*; leave it out, or delete it and evaluate again"):
            protocol.read(directory.parent)
    assert measure().table["swd"].tolist() == measured.tolist() and compared[2:] == ["clip 1"]
    assert [record.value for record in protocol.read(directory.parent)] == measured.tolist()


def test_a_file_in_the_place_of_the_records_and_a_directory_in_that_of_one_are_told(tmp_path):
    sweep_metrics.check_place(tmp_path / "evaluation", 3)
    (tmp_path / "evaluation").write_text("")
    with pytest.raises(OSError, match="could not make the directory .*evaluation: something that is not a directory"):
        sweep_metrics.check_place(tmp_path / "evaluation", 3)
    (tmp_path / "evaluation").unlink()
    (tmp_path / "evaluation" / "member_0002.json").mkdir(parents=True)
    sweep_metrics.check_place(tmp_path / "evaluation", 2)
    with pytest.raises(OSError, match="member_0002.json: a directory lies there, where a file is expected"):
        sweep_metrics.check_place(tmp_path / "evaluation", 3)


def test_the_help_of_the_command_tells_the_presets_values():
    told = " ".join(script("stability").sweep.__doc__.split())
    for name, make in sweep_presets.PRESETS.items():
        preset, text = make(), told[told.index(f"{name}: ") :]
        for setting, values in preset.axes.items():
            option = f"--{setting.replace('_', '-')} {' '.join(f'{value:g}' for value in values)}"
            assert option in text or name == "grid" and option in told, (name, option)
        assert f"{preset.num_steps} steps, {preset.seeds} seed" in text or name == "grid"


@pytest.mark.slow
def test_what_is_not_of_the_right_kind_is_told():
    settings, program = settings_of(2), ring_program()
    arguments = {"num_steps": 2, "num_records": 1, "devices": ONE_DEVICE}
    for wrong, message in [
        ((program, toy.ring), "data is what sweep.stream, .* gives, not function"),
        ((GENERATOR, RING), "program is a sweep.Program, from members.gan for example, not Generator"),
    ]:
        with pytest.raises(TypeError, match=message):
            sweep.run(*wrong, settings, **arguments)
    field = games.field(games.dirac(adversarial.wasserstein))
    game = members.game(
        lambda s: updates.simultaneous(s["rate"]), lambda s: field, games.Players(1.0, 0.0), games.Players(0.0, 0.0)
    )
    for changed, message in [
        (program._replace(score=lambda *_: 1.0), "returns a dict with 'score' .more is better., not a float"),
        (program._replace(score=lambda *_: {"s": 1.0}), "not s"),
        (
            program._replace(step=lambda s, state, b, k: (state, {"x": jnp.zeros(3)})),
            "metrics of a step are scalars, but x",
        ),
        (
            game,
            "the program asks for the setting 'rate', but the sweep has discriminator_rate, generator_rate, r1, seed",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            sweep.run(changed, RING, settings, **arguments)
    with pytest.raises(TypeError, match="of_member returns a dict of numbers, not a float"):
        sweep.measure(sweep.run(program, RING, settings, **arguments), lambda member, state: 1.0)


def made_up(scores, seeds=2):
    """A sweep of three rates with and without a clip, with these scores."""
    settings = sweep.product(
        {"discriminator_rate": [0.1, 0.2, 0.4]},
        {"clip": [1.0, np.inf]},
        {"seed": range(seeds)},
        {"generator_rate": [0.1]},
    )
    score = scores(settings)
    shares = {"discriminator_clip_share": np.where(np.isinf(settings["clip"]), 0.0, 0.25)}
    table = settings | {"finite": np.isfinite(score), "final_score": score} | shares
    return sweep.Result(settings, table, np.array([10]), {"score": score[:, None]}, None, 1.0)


def falls_without_a_clip(settings):
    score = np.where((settings["discriminator_rate"] > 0.1) & np.isinf(settings["clip"]), 0.2, 0.9)
    score[-1] = np.nan  # one of two seeds, at the largest rate without a clip
    return score


def test_the_summary_tells_up_to_which_rate_nothing_failed_and_what_that_rests_on():
    result = made_up(falls_without_a_clip)
    lines = sweep_report.summary(result, sweep_report.Scale(failed_below=0.5))
    assert lines[0].endswith("11 finite to the end")
    assert lines[2:7] == [
        "score (more is better, median of 2 seeds; x: fails, not finite, or a final score below 0.5)",
        "    discriminator_rate      clip 1    clip inf",
        "                   0.1         0.9         0.9",
        "                   0.2         0.9   0.2 x 2/2",
        "                   0.4         0.9   0.2 x 2/2",
    ]
    assert lines[8:12] == [
        "largest discriminator_rate without a failure (not finite, or a final score below 0.5)",
        "  clip 1: 0.4 or more: the largest tried",
        "  clip inf: 0.1; at 0.2 2 of 2 failed",
        "  the limit of clip 1 is at least 2 times that without a clip, by the gaps of this grid",
    ]
    told = "\n".join(lines[12:])
    assert "10 steps at constant rates; generator_rate 0.1." in told and "--failed-below for a stricter line" in told
    sentence = "A rate at which none of 2 seeds failed may still fail in up to 78% of trainings"  # 0.22^2 = 5 %
    assert sentence in told
    assert "--discriminator-rate 0.13 0.16 0.8 1.6 --seeds 3" in told and "(24 networks, about 1 min)" in told
    assert lines[-1] == "The clip at 1, of each player's own gradient, acted in 25% of the discriminator's steps."
    lines = sweep_report.summary(result, sweep_report.Scale())
    assert "  clip inf: 0.2; at 0.4 1 of 2 failed" in lines
    lines = sweep_report.summary(result, sweep_report.Scale(failed_below=0.95))
    assert "  clip inf: below 0.1, the smallest tried (2 of 2 failed)" in lines
    assert any(line.startswith("Every setting failed") for line in lines)


def test_a_grid_without_a_failure_is_told_plainly_with_what_to_try_next():
    result = made_up(lambda settings: np.full(len(settings["seed"]), 0.9))
    lines = sweep_report.summary(result, sweep_report.Scale(failed_below=0.5))
    place = lines.index("largest discriminator_rate without a failure (not finite, or a final score below 0.5)")
    assert lines[place + 1] == "  Nothing failed in this grid: the limit lies above 0.4, the largest tried."
    told = "\n".join(lines)
    assert "To find it: the same with --discriminator-rate 0.8 1.6 --seeds 3 and another --directory" in told
    assert "at least 0 times" not in told and "may still fail" not in told and "or more: the largest tried" not in told
    # One of the two limits is known: a clip then lowers it to at most half of what it is without.
    result = made_up(
        lambda settings: np.where((settings["discriminator_rate"] > 0.1) & (settings["clip"] == 1), 0.2, 0.9)
    )
    lines = sweep_report.summary(result, sweep_report.Scale(failed_below=0.5))
    assert "  the limit of clip 1 is at most 0.5 times that without a clip, by the gaps of this grid" in lines


def test_scores_are_told_as_a_quality_where_it_is_known_what_none_and_all_of_it_are():
    scale = sweep_report.Scale(untrained=-1.0, real=-0.2, failed_below=-0.6)
    assert [scale.text(score) for score in (-1.0, -0.6, -0.2, np.nan)] == ["0 %", "50 %", "100 %", "not finite"]
    result = made_up(lambda s: np.where(s["discriminator_rate"] > 0.2, -0.9, -0.4), seeds=1)
    lines = sweep_report.summary(result, scale)
    assert "a quality below 50 %" in lines[2] and lines[5].split() == ["0.2", "75", "%", "75", "%"]
    assert lines[6].split() == ["0.4", "12", "%", "x", "12", "%", "x"]
    # Both limits lie between 0.2 and 0.4: a clip may halve or double them, for all that is known.
    told = "  the limit of clip 1 is 0.5 to 2 times that without a clip, by the gaps of this grid: no change is shown"
    assert told in lines
    assert scale.score_of(50) == pytest.approx(-0.6)


def test_members_that_failed_are_marked_and_the_threshold_is_stored(tmp_path):
    result = made_up(falls_without_a_clip)
    sweep.write(result, tmp_path, failed_below=0.5, facts={"score_of_real": 0.95})
    rows = list(csv.DictReader((tmp_path / "members.csv").open()))
    assert [row["failed"] for row in rows] == [str(bool(bad)) for bad in ~(result.table["final_score"] >= 0.5)]
    stored = json.loads((tmp_path / "sweep.json").read_text())
    assert (stored["failed_below"], stored["score_of_real"]) == (0.5, 0.95)


def test_the_pictures_of_a_sweep_name_each_row_and_mark_failures():
    result, scale = made_up(falls_without_a_clip), sweep_report.Scale(failed_below=0.5)
    drawn, real = np.zeros((12, 3, 8, 8, 1)), np.ones((3, 8, 8, 1))
    (axes,) = sweep_page.samples_figure(drawn, real, result, scale).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:2] == ["real images", "discriminator_rate 0.1, clip 1, seed 0\n0.9"] and len(labels) == 13
    assert labels[-1] == "discriminator_rate 0.4, clip inf, seed 1\nnot finite, failed"
    (axes,) = sweep_page.scores_figure(result, scale).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["clip 1", "clip inf", "fails below"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "0.2", "0.4"]
    one = result._replace(settings=result.settings | {"discriminator_rate": np.full(12, 0.1)})
    assert sweep_page.scores_figure(one, scale) is None  # no rate was varied


@pytest.mark.parametrize("num_clips, has_lines", [(12, True), (60, False)])
def test_many_combinations_have_lines_as_long_as_they_can_be_told_apart(num_clips, has_lines, recwarn):
    clips, rates = (x.ravel() for x in np.meshgrid(np.arange(1.0, num_clips + 1), [0.1, 0.2], indexing="ij"))
    few, num = made_up(falls_without_a_clip), len(clips)
    settings = {"clip": clips, "discriminator_rate": rates, "seed": np.zeros(num, int)}
    table = {name: np.resize(column, num) for name, column in few.table.items()} | settings
    (axes,) = sweep_page.scores_figure(few._replace(settings=settings, table=table), sweep_report.Scale()).axes
    assert len(axes.get_lines()) == (num_clips if has_lines else 0)
    styles = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert len(styles) == len(axes.get_lines()) and (axes.get_legend() is not None) == has_lines
    assert ("medians" in axes.get_title()) == has_lines and not recwarn


def test_a_page_of_a_sweep_holds_its_scores_limits_and_samples_and_takes_names_as_text(tmp_path):
    result, scale = made_up(falls_without_a_clip), sweep_report.Scale(failed_below=0.5)
    drawn = {"drawn": np.zeros((12, 3, 8, 8, 1)), "real": np.ones((3, 8, 8, 1)), "origin": "<i>as in</i>"}
    text = sweep_page.write(tmp_path / "sweep.html", "<script>", result, scale, **drawn).read_text()
    page = Page(text)
    assert page.count("script") == page.count("i") == 0 and "Sweep of <script>" in page.text
    assert page.count("svg") == 1 and page.count("img") == 13
    assert "discriminator_rate clip 1 clip inf 0.1 0.9 0.9 0.2 0.9 0.2 x 2/2 0.4 0.9 0.2 x 2/2" in page.text
    for line in sweep_report.largest_rates(result, scale)[1:]:
        assert " ".join(line.split()) in page.text
    assert page.text.count("failed discriminator_rate") == 4  # those of the table, with their samples


@pytest.mark.slow
def test_measured_numbers_are_columns_of_the_table():
    good = run(settings_of(3))
    bad = good._replace(table=good.table | {"finite": np.array([True, False, True])})

    def rate_and_step(member, state):
        return {"twice_the_rate": 2 * good.settings["generator_rate"][member], "done": state.step}

    table = sweep.measure(bad, rate_and_step).table
    twice = 2 * good.settings["generator_rate"]
    np.testing.assert_allclose(table["twice_the_rate"], [twice[0], np.nan, twice[2]])  # NaN for what failed
    np.testing.assert_allclose(table["done"], [20, np.nan, 20])
    with pytest.raises(ValueError, match="a column finite already"):
        sweep.measure(good, lambda member, state: {"finite": 1.0})


@pytest.mark.slow
def test_networks_of_a_sweep_are_compared_with_real_images(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = "--learning-rate 1e-3 --beta 1 --clip 1 inf --seeds 2 --steps 2 --records 1 --batch-size 8"
    arguments += " --num-devices 1 --metrics fid swd --num-images 100"
    with pytest.warns(UserWarning) as caught:
        assert command("mnist-vae", "--directory", tmp_path / "made", *arguments.split()) == 0
    assert sum("only 100 fake images" in str(warning.message) for warning in caught) == 1  # for all members together
    rows = list(csv.DictReader((tmp_path / "made" / "members.csv").open()))
    assert len(rows) == 4 and all(float(row["fid"]) > 10 * float(row["fid_floor"]) > 0 for row in rows)
    assert all(float(row["swd"]) > 0 for row in rows)
    stored = [r for r in protocol.read(tmp_path / "made") if r.metric == "fid"]
    assert [r.subject for r in stored] == [f"clip {c}, seed {seed}" for c in ("1", "inf") for seed in (0, 1)]
    assert [r.value for r in stored] == pytest.approx([float(row["fid"]) for row in rows])
    assert {r.protocol["backbone"] for r in stored} == {"mnist-cnn"} and stored[0].protocol["n_fake"] == 100
    protocol.require_alike(stored)
    assert (tmp_path / "made" / "samples.png").exists()
    # Seeds are one row of a table.
    lines = protocol.table(protocol.by_preset(protocol.read(tmp_path / "made"))).splitlines()
    assert lines[2].startswith("| mnist-vae: clip 1 |") and lines[3].startswith("| mnist-vae: clip inf |")
    assert all("± " in line and "(n = 2 trainings)" in line for line in lines[2:4])
    # Shown once more, nothing is measured again.
    compared = []
    monkeypatch.setattr(evaluation, "compare", lambda *args, **kwargs: compared.append(args))
    assert command("mnist-vae", "--directory", tmp_path / "made", *arguments.split()) == 0
    assert not compared and list(csv.DictReader((tmp_path / "made" / "members.csv").open())) == rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("ring --clip", "an axis of the grid is empty: clip"),
        ("ring --clip -1", "--clip must be a list of values, each above 0"),
        ("ring --generator-rate 0", "--generator-rate must be a list of values, each above 0"),
        ("ring --beta 1", "a sweep of GANs cannot use beta"),
        ("ring --update consensus", "GANs cannot use consensus: it is for games with a closed form"),
        ("ring --failed-below nan", "--failed-below must be a finite number, not nan"),
        ("ring --seeds 0", "--seeds must be at least 1, not 0"),
        ("ring --steps 7 --records 2", "7 steps are asked for in 2 records"),
        ("ring --num-devices 99", "99 devices asked for, but this program sees 8"),
        ("ring --block-size 0", "--block-size must be at least 1, not 0"),
        ("ring --metrics fid", "this sweep is of points"),
        ("mnist-gan --metrics fdi", "did you mean 'fid'"),
        ("mnist-gan --metrics prdc --num-images 5", "prdc needs at least 6 images"),
    ],
)
def test_the_command_explains_mistakes_before_it_trains(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    assert command(*arguments.split(), "--directory", tmp_path / "made") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_members_of_a_class_conditional_run_draw_classes_in_the_shares_of_their_data():
    def draw(variables, key, n, label):
        return jnp.broadcast_to((label / 10.0)[:, None, None, None], (n, 28, 28, 1))

    system = System(
        init=None, train_step=None, images_per_step=8, draw=draw, choices={"label": 3}, variables=lambda state: state
    )
    opened = SimpleNamespace(system=system, game=SimpleNamespace(init=lambda key: jnp.zeros(())), config=None)
    label = np.repeat([0, 1, 2], [6, 30, 4])
    dataset = data.from_arrays("rows", np.zeros((40, 28, 28, 1), np.uint8), label, tuple("abc"))
    looks = sweep_presets._drawn(opened, dataset, "run")
    drawn = np.round(10 * looks.draw(jnp.zeros(()), jax.random.key(0), 4000)[:, 0, 0, 0]).astype(int)
    np.testing.assert_allclose(np.bincount(drawn) / 4000, [0.15, 0.75, 0.1], atol=0.03)
    assert looks.labels == {"labels": "of training images, drawn at random"}
