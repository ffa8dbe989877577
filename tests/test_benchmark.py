"""The benchmark: its arithmetic by hand, and a tiny run of the real thing in processes of its own."""

import dataclasses
import functools
import importlib
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
from flax import linen as nn
from flax import traverse_util

from jaxgen import arithmetic, gan, network
from jaxgen.losses import adversarial
from jaxgen.models import convolution, dcgan, sngan

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "benchmark.py"
TORCH_PYTHON = os.environ.get("JAXGEN_TORCH_PYTHON") or (sys.executable if importlib.util.find_spec("torch") else None)


@pytest.fixture(scope="module")
def stages(scripts):
    return scripts("benchmark_jaxgen_stages")


def run(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, str(SCRIPT), "--quick", "--json", str(folder / "result.json"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "result.json").read_text()), done


@pytest.mark.parametrize("image_size", [28, 31, 32, 64])
def test_forward_flops_are_two_for_each_product_that_padding_does_not_make_zero(cases, image_size):
    case = dataclasses.replace(cases.CASES["dcgan"], batch_size=3, features=8, image_size=image_size)
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
        (generator, discriminator), shapes, layers, cases.layer_flops(case), strict=True
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
def test_sngans_forward_flops_are_those_of_plain_convolutions(cases, image_size, generator_sizes, discriminator_sizes):
    case = dataclasses.replace(cases.CASES["sngan"], batch_size=3, features=8, image_size=image_size)
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
    state, found = sngan_state(case), cases.layer_flops(case)
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


@pytest.mark.slow
def test_step_flops_are_those_of_a_traced_step_with_the_layers_as_jaxgen_runs_them(cases, monkeypatch):
    case = cases.CASES["sngan"]
    hand = cases.step_flops(case)
    generator, discriminator = sngan_players(case)
    step = gan.make_train_step(
        generator, discriminator, latent_dim=case.latent_dim, loss=adversarial.hinge, **plain_descent()
    )
    state, key = sngan_state(case), jax.random.key(0)
    images = jax.ShapeDtypeStruct((case.batch_size, 32, 32, 3), jnp.float32)
    latents = jax.ShapeDtypeStruct((case.batch_size, case.latent_dim), jnp.float32)
    traced = []
    for module, player, x, flops in (
        (generator, state.generator, latents, cases.layer_flops(case)[0]),
        (discriminator, state.discriminator, images, cases.layer_flops(case)[1]),
    ):
        forward = functools.partial(network.apply, module)
        total = arithmetic.operations(forward, player.params, player.model_state, x)
        traced.append(cases.Forward({"first": flops.of_input(), "rest": total - flops.of_input()}, ("first",)))
    monkeypatch.setattr(cases, "layer_flops", lambda case: traced)
    of_step = arithmetic.operations(step, state, {"image": images}, key)
    assert of_step == pytest.approx(cases.step_flops(case), rel=5e-4)  # an image gradient too many would be 2e-3
    assert of_step < 1.07 * hand  # with padding, and without what joining with enlarging and halving saves


def test_step_flops_count_each_pass_once(cases):
    case = cases.CASES["dcgan"]
    (g, d), (g0, d0) = zip(*[(f.total(), f.of_input()) for f in cases.layer_flops(case)], strict=True)
    real_and_fake = 2 * (d + d + d - d0)  # forwards, weights, inputs but the images
    through_discriminator = 2 * d
    generator = g + g + g - g0  # forwards, weights, inputs but the latents
    assert cases.step_flops(case) == real_and_fake + through_discriminator + generator
    r1, gp = (dataclasses.replace(case, penalty=name) for name in ("r1", "gradient_penalty"))
    assert cases.step_flops(gp) - cases.step_flops(r1) == d  # one forward pass that it does not share


STAGES = ["denoiser", "unet", "biggan-stage", "modulated", "r3gan-block", "vdvae-block"]


def traced(stages, stage):
    """Shapes of the state that a stage starts from, of its batch, and of what each layer of it is given, by name."""
    given = {}

    def note(call, args, kwargs, context):
        if context.method_name == "__call__":
            given["/".join(context.module.path)] = args[0].shape
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        state, batch = jax.eval_shape(lambda: stages.make(stage)[1:])
    return state, batch, given


def plain_products(size, kernel):
    """Of an output channel with each input channel, as `products`; a kernel of 2x2 has four for each pixel."""
    return 4 * size**2 if kernel[:2] == (2, 2) else products(size, kernel)


@pytest.mark.parametrize("name", STAGES)
def test_stage_flops_are_two_for_each_product_that_padding_does_not_make_zero(cases, stages, name):
    stage = cases.tiny(cases.CASES[name])
    state, _, given = traced(stages, stage)
    expected = {}
    for path, kernel in traverse_util.flatten_dict(state.network.params, sep="/").items():
        layer, _, leaf = path.rpartition("/")
        if leaf == "kernel":
            batch_size, *size, _ = given[layer]
            enlarged = 2 if (name, layer) == ("biggan-stage", "Conv_0") else 1  # written as a convolution after it
            places = plain_products(enlarged * size[0], kernel.shape) if size else 1
            expected[layer] = 2 * batch_size * places * math.prod(kernel.shape[-2:])
            if "ModulatedConv" in layer and size:
                expected[f"{layer}/demodulation"] = 2 * batch_size * math.prod(kernel.shape[-2:])
    assert cases.stage_flops(stage) == expected


@pytest.mark.parametrize("name", STAGES)
def test_a_stages_step_is_its_forward_pass_three_times_but_for_the_gradient_in_images(cases, stages, name):
    stage = cases.tiny(cases.CASES[name])
    state, batch, _ = traced(stages, stage)
    params, model_state = state.network.params, state.network.model_state
    apply = functools.partial(network.apply, stages.make_network(stage))
    forward = arithmetic.operations(lambda *given: apply(*given)[0], params, model_state, *batch["inputs"])
    step = arithmetic.operations(stages.make_train_step(stage, optax.sgd(0.1)), state, batch, jax.random.key(0))
    in_images = 0
    if stage.on_images:  # with padding, as the trace has it
        in_images = 2 * stage.batch_size * stage.image_size**2 * params["Conv_0"]["kernel"].size
    assert step == 3 * forward - in_images
    layers = cases.stage_flops(stage)
    assert cases.step_flops(stage) == 3 * sum(layers.values()) - (layers["Conv_0"] if stage.on_images else 0)


def test_a_stage_that_its_numbers_do_not_allow_is_refused(cases):
    with pytest.raises(ValueError, match="multiple of 4"):
        cases.step_flops(cases.resized(cases.CASES["unet"], image_size=30))


def test_sizes_of_images_are_not_those_of_maps_within_a_network(cases):
    changes = {"batch_size": 2, "features": 8, "image_size": None}
    unet, block = (cases.resized(cases.CASES[name], **changes) for name in ("unet", "vdvae-block"))
    assert (unet.batch_size, unet.features, unet.image_size) == (2, 8, 64)
    assert block == dataclasses.replace(cases.CASES["vdvae-block"], batch_size=2)


@pytest.mark.slow
def test_the_peak_of_memory_is_that_of_the_work_and_not_of_what_came_before(scripts):
    memory = scripts("benchmark_memory")
    if memory.peak_during(lambda: None) is None:
        pytest.skip("this system does not tell it")
    large = bytearray(200 << 20)
    del large
    before = memory.resident()
    small = memory.peak_during(lambda: bytearray(10 << 20)) - before
    assert abs(small / 2**20 - 10) < 20
    assert memory.peak_during(lambda: bytearray(100 << 20)) - before > 90 << 20


def test_ratios_are_taken_within_a_round(benchmark, cases):
    def rounds(*seconds):
        return {"rounds": [{"steps": 10, "seconds": s} for s in seconds]}

    result = {
        "rivals": {
            "jaxgen": rounds(1.0, 2.0, 4.0) | {"memory": 3 * 2**20},
            "torch": rounds(2.0, 4.0, 8.0) | {"memory": 4 * 2**20},
        },
        "limit": {"rounds": [{"jaxgen": 1e9, "torch": 2e9}] * 3},
        "flops": {"hand": 10**8},
    }
    result = benchmark.summarize(cases.CASES["dcgan"], result)
    assert result["ratios"] == {"jaxgen / torch": {"median": 2.0, "min": 2.0, "max": 2.0}}
    assert result["rivals"]["torch"]["images_per_second"] == {"median": 160.0, "min": 80.0, "max": 320.0}
    assert result["memory_ratios"] == {"jaxgen / torch": 0.75}
    assert result["limit"]["better"] == "torch"
    assert result["rivals"]["jaxgen"]["share_of_limit"]["max"] == pytest.approx(10 * 1e8 / 2e9)


@pytest.mark.parametrize(
    "name, wrong",
    [("images", 2e-4), ("generator_step", 6e-3), ("power_iteration", 6e-3), ("penalty", 1.001), ("x_gradient", 6e-3)],
)
def test_another_computation_is_noticed(benchmark, name, wrong):
    expected = {"generator_loss": 0.7, "discriminator_loss": 1.4, "penalty": 1.0}
    found = expected | {"images": 1e-6, "logits": 1e-6, "generator_step": 1e-5, "discriminator_step": 1e-5}
    found |= {"power_iteration": 1e-4, "x_gradient": 1e-4}
    assert benchmark.check(found, expected)["same"]
    assert not benchmark.check(found | {name: wrong}, expected)["same"]


@pytest.mark.parametrize("step_seconds, steps", [(10.0, 10), (0.1, 20), (1e-6, 2000)])
def test_rounds_are_whole_dispatches_of_ten_steps(benchmark, step_seconds, steps):
    assert benchmark.choose_steps(step_seconds, 2.0) == steps


def test_a_worker_reports_what_went_wrong_and_goes_on(benchmark, tmp_path):
    requests = "{'half': lambda x: print('noise') or 1 / x, 'stop': lambda: exit(3)}"
    program = f"import benchmark_workers; benchmark_workers.serve({requests})"
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parent)}
    with benchmark.worker([sys.executable, "-c", program], environment) as ask:
        with pytest.raises(benchmark.WorkerError, match="ZeroDivisionError"):
            ask("half", x=0)
        assert ask("half", x=2) == 0.5
        with pytest.raises(benchmark.WorkerError, match="status 3"):
            ask("stop")


@pytest.mark.slow
def test_a_quick_run_without_torch_times_jaxgen_both_ways(tmp_path):
    names = ["dcgan", "sngan", "resnet-r1", *STAGES]
    result, done = run(tmp_path, "--cases", *names, "startup", "--torch-python", str(tmp_path / "no-python"))
    assert "PyTorch is left out" in done.stderr
    assert "jaxgen-loop" in done.stdout and "startup" in done.stdout
    assert [case["case"]["name"] for case in result["cases"]] == names
    for case in result["cases"]:
        assert not case["failed"]
        assert set(case["rivals"]) == {"jaxgen", "jaxgen-loop"}
        for rival in case["rivals"].values():
            assert [r["steps"] for r in rival["rounds"]] == [2, 2]
            low, middle, high = (rival["steps_per_second"][name] for name in ("min", "median", "max"))
            assert 0 < low <= middle <= high < math.inf
            assert 0 < rival["share_of_limit"]["median"] < 1
        single, loop = (case["rivals"][name]["rounds"][-1] for name in ("jaxgen", "jaxgen-loop"))
        loss = "loss" if case["case"]["name"] in STAGES else "discriminator_loss"
        assert single[loss] == pytest.approx(loop[loss], rel=1e-4)  # after the same three steps
        assert case["rivals"]["jaxgen"]["memory_planned"] > 0
    assert 0.8 < result["cases"][0]["flops"]["hand"] / result["cases"][0]["flops"]["xla"] < 1.2
    assert set(result["startup"]["jaxgen"]) == {"cold", "warm"}
    assert {"date", "threads", "processor", "jax"} <= set(result["machine"])


@pytest.mark.skipif(TORCH_PYTHON is None, reason="no PyTorch; JAXGEN_TORCH_PYTHON can name an interpreter that has it")
@pytest.mark.parametrize(
    "name",
    [
        "dcgan",
        "dcgan-r1",
        "dcgan-gp",
        "sngan",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet-r1", *STAGES)),
    ],
)
def test_pytorch_and_jaxgen_compute_the_same(tmp_path, name):
    rivals = ["torch", "torch-channels-last", *(["torch-joined"] if name in ("sngan", "biggan-stage") else [])]
    result, _ = run(tmp_path, "--cases", name, "--torch-python", TORCH_PYTHON, "--rivals", *rivals)
    (case,) = result["cases"]
    assert not case["failed"]
    for rival in rivals:
        assert case["rivals"][rival]["check"]["same"], case["rivals"][rival]["check"]
        assert case["ratios"][f"jaxgen / {rival}"]["median"] > 0


def test_the_published_sngan_has_its_number_of_parameters_in_jaxgen_and_in_pytorch(benchmark, cases):
    case = cases.CASES["sngan-published"]
    state = sngan_state(case)
    published = [4_276_739, 1_053_825]
    assert [network.count_parameters(player.params) for player in (state.generator, state.discriminator)] == published
    if TORCH_PYTHON is not None:
        settings = benchmark.parse(["--threads", "1"])
        with benchmark.worker(benchmark.command_of("torch", TORCH_PYTHON), dict(os.environ)) as ask:
            assert ask("build", **benchmark.build_arguments(case, "torch", settings))["parameters"] == published


@pytest.mark.slow
def test_forms_of_convolutions_are_timed_and_the_one_that_is_taken_is_among_them(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("convolutions", SCRIPT.parent / "benchmark_convolutions.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert len({layer.name for layer in script.LAYERS}) == len(script.LAYERS)
    results = script.main(["--only", "MNIST", "--seconds", "0.001", "--json", str(tmp_path / "forms.json")])
    assert results == json.loads((tmp_path / "forms.json").read_text())
    (found,) = results.values()
    assert list(found) == ["convolve", "transposed", "kernel_gradient"]
    assert all({"taken": "im2col"}.items() <= row.items() for row in found.values())
    assert all(time > 0 for row in found.values() for time in row["milliseconds"].values())
    table = capsys.readouterr().out
    assert table.count("*") == 4 and "MNIST's first 5x5" in table  # one of them in the heading
    with pytest.raises(SystemExit):
        script.main(["--only", "nothing"])
    assert "no layer's name contains 'nothing'" in capsys.readouterr().err
