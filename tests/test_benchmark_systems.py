"""Whole systems in the benchmark: that both sides build the preset's networks, and compute the same in a step."""

import dataclasses
import importlib
import importlib.util
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen import network, sharding, systems
from jaxgen.losses import latent

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"
TORCH_PYTHON = os.environ.get("JAXGEN_TORCH_PYTHON") or (sys.executable if importlib.util.find_spec("torch") else None)
NAMES = ["sagan", "biggan", "stylegan2", "r3gan", "progan", "fastgan", "wgan-gp", "ssgan", "cgan", "acgan", "pix2pix"]
NAMES += ["pix2pixhd", "cyclegan", "cut", "stargan", "gated", "context", "vae-gan", "vqgan", "aae", "bigan", "lama"]
NAMES += ["factor-vae", "classifier", "vae", "cvae", "m2", "regularised", "flexible", "iwae", "vqvae", "vqvae2", "dvae"]
NAMES += ["vdvae", "srcnn", "srgan", "esrgan", "real-esrgan", "deblurgan", "edsr", "partial", "rcan", "nafnet", "dncnn"]
NAMES += ["drunet"]
SMALLER_BATCHES = ("esrgan", "real-esrgan", "rcan")  # than published
needs_torch = pytest.mark.skipif(
    TORCH_PYTHON is None, reason="no PyTorch; JAXGEN_TORCH_PYTHON can name an interpreter that has it"
)


@pytest.fixture(scope="module")
def ours(scripts):
    return scripts("benchmark_jaxgen_systems")


@pytest.fixture(scope="module")
def draws(scripts):
    return scripts("benchmark_jaxgen_draws")


@pytest.fixture(scope="module")
def torch(benchmark):
    """Asks PyTorch's side, one process for all cases."""
    with benchmark.worker(benchmark.command_of("torch", TORCH_PYTHON), dict(os.environ)) as ask:
        yield ask


def build(benchmark, torch, ours, case, rival="torch"):
    """Builds a case there; the numbers of parameters."""
    told = dataclasses.replace(case, **ours.told(case))
    settings = benchmark.parse(["--threads", "1"])
    return torch("build", **benchmark.build_arguments(told, rival, settings))["parameters"]


def test_every_system_of_the_benchmark_is_tested_here(cases):
    assert [name for name, case in cases.CASES.items() if isinstance(case, cases.System)] == NAMES
    assert set(cases.TINY) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_system_is_its_preset_but_for_augmentation_and_the_changes_that_its_case_says(cases, ours, name):
    case = cases.CASES[name]
    config, published = ours.config_of(case), systems.PRESETS[case.preset].config
    changed = {field for field, value in vars(config).items() if value != getattr(published, field)}
    smaller = {"batch_size"} if name in SMALLER_BATCHES else set()
    assert changed <= {"augmentation", "burn_in", *smaller, *case.changes}
    assert config.batch_size <= published.batch_size
    assert getattr(config, "augmentation", "none") == "none"
    if "burn_in" in changed:
        assert config.burn_in == dataclasses.replace(published.burn_in, augmentation=0.0)


def test_progan_is_timed_when_all_of_it_has_grown(cases, ours):
    case = cases.CASES["progan"]
    config = ours.config_of(case)
    first = ours.first_step(case)
    assert config.progress(first, 3) == 3.0 > config.progress(first - 2, 3)


def test_a_round_of_stylegan2_has_each_lazy_term_as_often_as_a_period(benchmark, cases, ours):
    case = cases.CASES["stylegan2"]
    config = ours.config_of(case)
    assert case.period % config.r1_every == case.period % config.path_length_every == 0
    assert benchmark.choose_steps(0.1, 2.0, case.period) == 16
    assert benchmark.choose_steps(0.01, 2.0, case.period) == 192


def test_what_a_step_draws_is_recorded_in_the_order_of_a_program(draws):
    def draw(key):
        return sharding.draw(jax.random.normal, key, (2,))

    def step(key):
        first = draw(key)

        def body(total, key):
            return total + draw(key) * draw(jax.random.fold_in(key, 1)), None

        total, _ = jax.lax.scan(body, first, jax.random.split(key, 3))
        maybe = jax.lax.cond(total[0] == 123.0, lambda: draw(key), lambda: total)  # is not run, is not recorded
        return total + maybe + jax.grad(lambda x: jnp.sum(x * draw(jax.random.fold_in(key, 9))))(first)

    key = jax.random.key(3)
    with draws.recorded() as drawn:
        jax.block_until_ready(jax.jit(step)(key))
        jax.effects_barrier()
    keys = [key]
    for one in jax.random.split(key, 3):
        keys += [one, jax.random.fold_in(one, 1)]
    expected = [jax.random.normal(one, (2,)) for one in (*keys, jax.random.fold_in(key, 9))]
    np.testing.assert_allclose(draws.in_order(drawn), expected, rtol=1e-6)


def test_what_dropout_keeps_is_recorded_and_can_be_given_back(draws):
    x, key = jnp.ones((4, 5)), jax.random.key(0)
    dropout = nn.Dropout(0.5, deterministic=False)

    def dropped():
        return dropout.apply({}, x, rngs={"dropout": key})

    expected = dropped()
    with draws.recorded() as drawn:
        np.testing.assert_array_equal(jax.jit(dropped)(), expected)
        jax.effects_barrier()
    (kept,) = draws.in_order(drawn)
    np.testing.assert_array_equal(kept, expected > 0)
    with draws.replayed([~kept]):
        np.testing.assert_array_equal(dropped(), 2.0 * ~kept)


def test_what_is_permuted_is_recorded_and_can_be_given_back(draws):
    label, z, key = jnp.arange(6), jnp.arange(8.0).reshape(4, 2), jax.random.key(1)

    def permuted():
        return jax.random.permutation(key, label), latent.permuted(key, z)

    expected = permuted()
    with draws.recorded() as drawn:
        jax.block_until_ready(jax.jit(permuted)())
        jax.effects_barrier()
    order, numbers = draws.in_order(drawn)
    np.testing.assert_array_equal(order, expected[0])
    np.testing.assert_array_equal(np.take_along_axis(z, np.argsort(numbers, axis=0), axis=0), expected[1])
    with draws.replayed([order[::-1], -numbers]):
        again = permuted()
    np.testing.assert_array_equal(again[0], expected[0][::-1])
    np.testing.assert_array_equal(again[1], expected[1][::-1])


def test_a_batch_is_what_the_presets_data_make_of_images(cases, ours):
    shapes = {name: ours.told(cases.tiny(cases.CASES[name]))["batch"] for name in ("vae", "edsr", "gated", "cyclegan")}
    assert shapes == {
        "vae": {"image": [8, 28, 28, 1]},
        "edsr": {"image": [8, 64, 64, 3], "source": [8, 32, 32, 3]},
        "gated": {"image": [8, 64, 64, 3], "mask": [8, 64, 64, 1], "source": [8, 64, 64, 3]},
        "cyclegan": {"image": [8, 32, 32, 3], "source": [8, 32, 32, 3]},
    }
    assert set(np.unique(ours.make_batch(cases.tiny(cases.CASES["vae"]))["image"])) == {-1.0, 1.0}


def test_blocks_that_one_loop_runs_are_taken_apart_for_pytorch(ours):
    stacked = {"ScanBlock_0": {"Conv_0": {"bias": jnp.arange(6.0).reshape(2, 3)}}, "Conv_0": {"bias": jnp.ones(3)}}
    found = ours.in_pieces({"network": network.Network({"encoder": stacked}, {}, ())})["network"].params["encoder"]
    np.testing.assert_array_equal(found["ScanBlock_0"]["1"]["Conv_0"]["bias"], [3.0, 4.0, 5.0])
    np.testing.assert_array_equal(found["Conv_0"]["bias"], [1.0, 1.0, 1.0])


@needs_torch
@pytest.mark.parametrize("name", NAMES)
def test_pytorchs_networks_have_as_many_parameters_as_the_presets(benchmark, cases, ours, torch, name):
    case = cases.CASES[name]
    state = jax.eval_shape(lambda: ours.make(case)[1])
    expected = [network.count_parameters(one.params) for one in ours.networks_of(state).values()]
    assert build(benchmark, torch, ours, case) == expected


@needs_torch
@pytest.mark.slow
@pytest.mark.usefixtures("fast_compilation")
@pytest.mark.parametrize("name", NAMES)
def test_pytorch_and_jaxgen_make_the_same_images_logits_losses_and_step(
    benchmark, cases, ours, scripts, torch, tmp_path, name
):
    case = cases.tiny(cases.CASES[name])
    worker = scripts("benchmark_jaxgen")
    worker.worker.update(zip(("case", "kind"), (case, ours), strict=True))
    _, worker.worker["state"], worker.worker["batch"] = ours.make(case)
    expected = worker.write_reference(str(tmp_path / "reference.npz"))
    later = benchmark.AFTER_FIRST if getattr(ours.config_of(case), "num_discriminator_steps", 1) > 1 else ()
    for rival in benchmark.rivals_for(case, ["torch", "torch-channels-last", "torch-joined"]):
        build(benchmark, torch, ours, case, rival)
        found = benchmark.check(torch("compare", path=str(tmp_path / "reference.npz")), expected, later)
        assert found["same"], found["differences"]
        assert set(expected) < set(found["differences"])
