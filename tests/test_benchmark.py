"""The benchmark: its arithmetic by hand, and a tiny run of the real thing in processes of its own."""

import dataclasses
import functools
import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import traverse_util

from jaxgen import arithmetic, gan, network
from jaxgen.losses import adversarial
from jaxgen.models import convolution, dcgan, sngan

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "benchmark.py"
TORCH_PYTHON = os.environ.get("JAXGEN_TORCH_PYTHON") or (sys.executable if importlib.util.find_spec("torch") else None)


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules["benchmark"]


def run(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, str(SCRIPT), "--quick", "--json", str(folder / "result.json"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "result.json").read_text()), done


@pytest.mark.parametrize("image_size", [28, 31, 32, 64])
def test_forward_flops_are_two_for_each_product_that_padding_does_not_make_zero(benchmark, image_size):
    case = dataclasses.replace(benchmark.CASES["dcgan"], batch_size=3, features=8, image_size=image_size)
    sizes = dcgan.sizes(image_size)
    products = []  # of each convolution and pair of channels: what a kernel of ones counts in images of ones
    for n in sizes[:-1]:
        geometry = convolution.Geometry((n, n), (4, 4), (2, 2), ((1, 1), (1, 1)))
        products.append(int(jnp.sum(convolution.convolve(jnp.ones((1, n, n, 1)), jnp.ones((4, 4, 1, 1)), geometry))))
    generator = dcgan.Generator(image_size=image_size, channels=3, features=8)
    discriminator = dcgan.Discriminator(features=8)
    shapes = (3, 100), (3, image_size, image_size, 3)
    convolutions = range(len(products))
    layers = (
        [("Dense_0", 1), *((f"ConvTranspose_{i}", products[-1 - i] / 16) for i in convolutions)],
        [*((f"Conv_{i}", products[i] / 16) for i in convolutions), ("Dense_0", 1)],
    )
    for module, shape, places, flops in zip(
        (generator, discriminator), shapes, layers, benchmark.layer_flops(case), strict=True
    ):
        variables = jax.eval_shape(functools.partial(module.init, train=True), jax.random.key(0), jnp.zeros(shape))
        params = variables["params"]
        assert flops.layers == {name: 2 * 3 * n * params[name]["kernel"].size for name, n in places}
        assert flops.on_input == (places[0][0],)


def sngan_players(case):
    return sngan.Generator(case.image_size, features=2 * case.features), sngan.Discriminator(features=case.features)


def sngan_state(case):
    """Shapes of the state; the optimisers have none."""
    init = functools.partial(gan.init, latent_dim=case.latent_dim, **plain_descent())
    return jax.eval_shape(lambda key: init(key, *sngan_players(case)), jax.random.key(0))


def plain_descent():
    return {"generator_optimizer": optax.sgd(0.1), "discriminator_optimizer": optax.sgd(0.1)}


@pytest.mark.parametrize(
    "image_size, generator_sizes, discriminator_sizes",
    [(28, [7, 14, 28], [28, 14, 7]), (32, [4, 8, 16, 32], [32, 16, 8])],
)
def test_sngans_forward_flops_are_those_of_plain_convolutions(
    benchmark, image_size, generator_sizes, discriminator_sizes
):
    case = dataclasses.replace(benchmark.CASES["sngan"], batch_size=3, features=8, image_size=image_size)
    smallest = generator_sizes[0]
    generator = {"Dense_0": None, "Conv_0": image_size}  # sizes of the maps that a layer sees
    for i, (size, larger) in enumerate(zip(generator_sizes, generator_sizes[1:], strict=False)):
        names = (f"GeneratorBlock_{i}/{name}" for name in ("shortcut", "Conv_0", "Conv_1"))
        generator |= dict(zip(names, (size, larger, larger), strict=True))
    discriminator = {"SpectralDense_0": None}
    for i in range(4):
        size = discriminator_sizes[min(i, 2)]
        discriminator |= {f"DiscriminatorBlock_{i}/SpectralConv_{j}": size for j in (0, 1)}
        if i < 2:
            discriminator[f"DiscriminatorBlock_{i}/shortcut"] = discriminator_sizes[i + 1]
    state, found = sngan_state(case), benchmark.layer_flops(case)
    for player, sizes, flops in zip(
        (state.generator, state.discriminator), (generator, discriminator), found, strict=True
    ):
        params = traverse_util.flatten_dict(player.params, sep="/")
        kernels = {name.removesuffix("/kernel"): x.shape for name, x in params.items() if name.endswith("/kernel")}
        assert flops.layers == {
            name: 2 * 3 * products(sizes[name], kernel) * math.prod(kernel[-2:]) for name, kernel in kernels.items()
        }
    assert found[0].on_input == ("Dense_0",) and found[0].of_input() == 2 * 3 * 128 * smallest**2 * 16
    assert set(found[1].on_input) == {"DiscriminatorBlock_0/SpectralConv_0", "DiscriminatorBlock_0/shortcut"}


def products(size, kernel):
    """Of a layer and one pair of channels, without padding's: what a kernel of ones counts in images of ones."""
    if size is None:
        return 1
    geometry = convolution.Geometry((size, size), kernel[:2], (1, 1), ((kernel[0] // 2,) * 2,) * 2)
    return int(jnp.sum(convolution.convolve(jnp.ones((1, size, size, 1)), jnp.ones((*kernel[:2], 1, 1)), geometry)))


def test_step_flops_are_those_of_a_traced_step_with_the_layers_as_jaxgen_runs_them(benchmark, monkeypatch):
    case = benchmark.CASES["sngan"]
    hand = benchmark.step_flops(case)
    generator, discriminator = sngan_players(case)
    step = gan.make_train_step(
        generator, discriminator, latent_dim=case.latent_dim, loss=adversarial.hinge, **plain_descent()
    )
    state, key = sngan_state(case), jax.random.key(0)
    images = jax.ShapeDtypeStruct((case.batch_size, 32, 32, 3), jnp.float32)
    latents = jax.ShapeDtypeStruct((case.batch_size, case.latent_dim), jnp.float32)
    traced = []
    for module, player, x, flops in (
        (generator, state.generator, latents, benchmark.layer_flops(case)[0]),
        (discriminator, state.discriminator, images, benchmark.layer_flops(case)[1]),
    ):
        forward = functools.partial(network.apply, module)
        total = arithmetic.operations(forward, player.params, player.model_state, x)
        traced.append(benchmark.Forward({"first": flops.of_input(), "rest": total - flops.of_input()}, ("first",)))
    monkeypatch.setattr(benchmark, "layer_flops", lambda case: traced)
    of_step = arithmetic.operations(step, state, {"image": images}, key)
    assert of_step == pytest.approx(benchmark.step_flops(case), rel=5e-4)  # an image gradient too many would be 2e-3
    assert of_step < 1.07 * hand  # with padding, and without what joining with enlarging and halving saves


def test_step_flops_count_each_pass_once(benchmark):
    case = benchmark.CASES["dcgan"]
    (g, d), (g0, d0) = zip(*[(f.total(), f.of_input()) for f in benchmark.layer_flops(case)], strict=True)
    real_and_fake = 2 * (d + d + d - d0)  # forwards, weights, inputs but the images
    through_discriminator = 2 * d
    generator = g + g + g - g0  # forwards, weights, inputs but the latents
    assert benchmark.step_flops(case) == real_and_fake + through_discriminator + generator
    r1, gp = (dataclasses.replace(case, penalty=name) for name in ("r1", "gradient_penalty"))
    assert benchmark.step_flops(gp) - benchmark.step_flops(r1) == d  # one forward pass that it does not share


def test_ratios_are_taken_within_a_round(benchmark):
    def rounds(*seconds):
        return {"rounds": [{"steps": 10, "seconds": s} for s in seconds]}

    result = {
        "rivals": {"jaxgen": rounds(1.0, 2.0, 4.0), "torch": rounds(2.0, 4.0, 8.0)},
        "limit": {"rounds": [{"jaxgen": 1e9, "torch": 2e9}] * 3},
        "flops": {"hand": 10**8},
    }
    result = benchmark.summarize(benchmark.CASES["dcgan"], result)
    assert result["ratios"] == {"jaxgen / torch": {"median": 2.0, "min": 2.0, "max": 2.0}}
    assert result["rivals"]["torch"]["images_per_second"] == {"median": 160.0, "min": 80.0, "max": 320.0}
    assert result["limit"]["better"] == "torch"
    assert result["rivals"]["jaxgen"]["share_of_limit"]["max"] == pytest.approx(10 * 1e8 / 2e9)


@pytest.mark.parametrize(
    "name, wrong", [("images", 2e-4), ("generator_step", 6e-3), ("power_iteration", 6e-3), ("penalty", 1.001)]
)
def test_another_computation_is_noticed(benchmark, name, wrong):
    expected = {"generator_loss": 0.7, "discriminator_loss": 1.4, "penalty": 1.0}
    found = expected | {"images": 1e-6, "logits": 1e-6, "generator_step": 1e-5, "discriminator_step": 1e-5}
    found["power_iteration"] = 1e-4
    assert benchmark.check(found, expected)["same"]
    assert not benchmark.check(found | {name: wrong}, expected)["same"]


@pytest.mark.parametrize("step_seconds, steps", [(10.0, 10), (0.1, 20), (1e-6, 2000)])
def test_rounds_are_whole_dispatches_of_ten_steps(benchmark, step_seconds, steps):
    assert benchmark.choose_steps(step_seconds, 2.0) == steps


def test_a_worker_reports_what_went_wrong_and_goes_on(benchmark, tmp_path):
    program = "import benchmark; benchmark.serve({'half': lambda x: print('noise') or 1 / x, 'stop': lambda: exit(3)})"
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parent)}
    with benchmark.worker([sys.executable, "-c", program], environment) as ask:
        with pytest.raises(benchmark.WorkerError, match="ZeroDivisionError"):
            ask("half", x=0)
        assert ask("half", x=2) == 0.5
        with pytest.raises(benchmark.WorkerError, match="status 3"):
            ask("stop")


@pytest.mark.slow
def test_a_quick_run_without_torch_times_jaxgen_both_ways(tmp_path):
    result, done = run(tmp_path, "--cases", "dcgan", "sngan", "startup", "--torch-python", str(tmp_path / "no-python"))
    assert "PyTorch is left out" in done.stderr
    assert "jaxgen-loop" in done.stdout and "startup" in done.stdout
    assert [case["case"]["name"] for case in result["cases"]] == ["dcgan", "sngan"]
    for case in result["cases"]:
        assert not case["failed"]
        assert set(case["rivals"]) == {"jaxgen", "jaxgen-loop"}
        for rival in case["rivals"].values():
            assert [r["steps"] for r in rival["rounds"]] == [2, 2]
            low, middle, high = (rival["steps_per_second"][name] for name in ("min", "median", "max"))
            assert 0 < low <= middle <= high < math.inf
            assert 0 < rival["share_of_limit"]["median"] < 1
        single, loop = (case["rivals"][name]["rounds"][-1] for name in ("jaxgen", "jaxgen-loop"))
        same_three_steps = pytest.approx(loop["discriminator_loss"], rel=1e-4)
        assert single["discriminator_loss"] == same_three_steps
    assert 0.8 < result["cases"][0]["flops"]["hand"] / result["cases"][0]["flops"]["xla"] < 1.2
    assert set(result["startup"]["jaxgen"]) == {"cold", "warm"}
    assert {"date", "threads", "processor", "jax"} <= set(result["machine"])


@pytest.mark.skipif(TORCH_PYTHON is None, reason="no PyTorch; JAXGEN_TORCH_PYTHON can name an interpreter that has it")
@pytest.mark.parametrize("name", ["dcgan", "dcgan-r1", "dcgan-gp", "sngan"])
def test_pytorch_and_jaxgen_compute_the_same(tmp_path, name):
    rivals = ["torch", "torch-channels-last", *(["torch-joined"] if name == "sngan" else [])]
    result, _ = run(tmp_path, "--cases", name, "--torch-python", TORCH_PYTHON, "--rivals", *rivals)
    (case,) = result["cases"]
    assert not case["failed"]
    for rival in rivals:
        assert case["rivals"][rival]["check"]["same"], case["rivals"][rival]["check"]
        assert case["ratios"][f"jaxgen / {rival}"]["median"] > 0


def test_the_published_sngan_has_its_number_of_parameters_in_jaxgen_and_in_pytorch(benchmark):
    case = benchmark.CASES["sngan-published"]
    state = sngan_state(case)
    published = [4_276_739, 1_053_825]
    assert [network.count_parameters(player.params) for player in (state.generator, state.discriminator)] == published
    if TORCH_PYTHON is not None:
        settings = benchmark.parse(["--threads", "1"])
        with benchmark.worker(benchmark.command_of("torch", TORCH_PYTHON), dict(os.environ)) as ask:
            assert ask("build", **benchmark.build_arguments(case, "torch", settings))["parameters"] == published
