"""A plan says whether a training fits on devices that are not there: targets, the largest batch, words, errors."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import call

from jaxgen.commands import train, words
from jaxgen.planning import answering, comparing, compiling, fitting, targets, telling
from jaxgen.systems import dcgan

OWN = str(Path(__file__).parent / "own_system.py")
NO_LIBTPU = pytest.mark.skipif("libtpu" not in compiling.versions(), reason="libtpu is not installed")


# Targets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", targets.EXAMPLES)
def test_every_name_that_is_told_is_a_target(name):
    target = targets.target(name)
    assert target.name == name and target.environment["JAX_PLATFORMS"] == "cpu"
    assert target.device.source and (target.device.kind == "cpu") == (target.device.memory is None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5litepod-8", "no target 'v5litepod-8'; there is, among others: v4:2x2x1, .* v5e:2x4, .* cpu:8"),
        ("v5e", "no target 'v5e'"),
        ("v7x:2x2x1", "no target"),
        ("v5e:2x2x1", "v5e chips stand in a grid of 2 sides, such as v5e:1x1, not 2x2x1"),
        ("v5p:2x2", "v5p chips stand in a grid of 3 sides, such as v5p:2x2x1, not 2x2"),
        ("0xh100", "no target"),
        ("cpu:0", "no target"),
        ("", "no target"),
    ],
)
def test_other_targets_are_refused_with_those_that_work(name, message):
    with pytest.raises(ValueError, match=message):
        targets.target(name)


def test_a_device_that_is_half_a_chip_has_half_of_its_figures():
    half, whole = targets.target("v4:2x2x1").device, targets.target("v5e:2x4").device
    assert (half.memory, half.bandwidth, half.operations["bf16"]) == (16 * 2**30, 600e9, 137.5e12)
    assert (whole.memory, whole.bandwidth, whole.operations["bf16"]) == (16 * 2**30, 819e9, 197e12)


# The largest batch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [8, 64, 1000, 100_000])
@pytest.mark.parametrize("multiple", [1, 8, 24])
@pytest.mark.parametrize(
    "needed",
    [
        lambda batch: 1000 + 7 * batch,
        lambda batch: 5000 + 3 * batch + (40_000 if batch > 500 else 0),  # the compiler chooses another algorithm
        lambda batch: 100 + batch**2 // 50,
        lambda batch: 4096 * (1 + batch // 64),  # in steps
    ],
)
def test_the_largest_batch_is_the_largest_and_few_are_compiled(needed, multiple, start):
    there = 50_000
    found = fitting.largest_batch(needed, there, start=start, multiple=multiple)
    every = [batch for batch in range(multiple, 30_000, multiple) if needed(batch) <= there]
    assert found.fits == max(every) and found.too_large == found.fits + multiple
    assert found.needed == {batch: needed(batch) for batch in found.needed}
    assert len(found.needed) <= 22


def test_of_what_grows_in_proportion_four_batches_are_enough_where_the_start_is_near():
    found = fitting.largest_batch(lambda batch: 2**20 + 3000 * batch, 2**24, start=2048, multiple=8)
    assert len(found.needed) <= 5


def test_a_coarser_end_needs_fewer_compilations_and_says_both_sides():
    def needed(batch):
        return 100 + batch**2 // 50

    exact, coarse = (fitting.largest_batch(needed, 10**7, start=64, multiple=8, within=w) for w in (0.0, 1 / 32))
    assert coarse.fits <= exact.fits < coarse.too_large <= coarse.fits * (1 + 1 / 32)
    assert len(coarse.needed) < len(exact.needed)


def test_no_batch_and_no_limit_have_an_end():
    none = fitting.largest_batch(lambda batch: 10**9, 1000, start=512, multiple=8)
    assert (none.fits, none.too_large) == (0, 8)
    every = fitting.largest_batch(lambda batch: 10, 1000, start=512, multiple=8)
    assert every.fits >= fitting.MOST and every.too_large is None
    with pytest.raises(ValueError, match="multiple of at least 1"):
        fitting.largest_batch(lambda batch: 10, 1000, start=512, multiple=0)


def test_a_setting_that_is_tried_takes_the_place_of_the_one_that_was_asked():
    task = compiling.Task(("mnist-vae", "--batch-size", "64", "--seed=3"), "cpu")
    assert task.with_settings("--batch-size", "8").arguments == ("mnist-vae", "--seed=3", "--batch-size", "8")
    assert task.with_settings("--seed", "4").arguments == ("mnist-vae", "--batch-size", "64", "--seed", "4")


def test_more_memory_takes_no_smaller_batch():
    found = [
        fitting.largest_batch(lambda b: 300 + 11 * b, there, start=64, multiple=4).fits for there in range(400, 4000)
    ]
    assert found == sorted(found)


# Answers --------------------------------------------------------------------------------------------------------------


def compiled(task, **changes):
    """A compiler that knows the memory of a batch without compiling: 1 MB of state, 1 MB an image of 8 devices."""
    settings = dict(zip(task.arguments[1::2], task.arguments[2::2], strict=True))
    batch, slices = int(settings.get("--batch-size", 64)), int(settings.get("--micro-batches", 1))
    if slices == 4:
        raise ValueError("a batch cannot be taken in micro-batches by a network with batch normalisation")
    own = {"state" if task.program == "train" else "variables": 2**20, "temporaries": 2**20 * batch // 8 // slices}
    record = {
        "program": task.program,
        "target": task.target,
        "devices": 8,
        "batch_size": batch,
        "operations": 197e9,
        "versions": {"jax": "0"},
        "date": "2026-11-30",
        "fits_compiler": True,
        "memory": own | {"needed": sum(own.values())},
        "collectives": {"all-reduce": {"number": 2, "bytes": 4096}},
        "precision": {"convolution": {"bf16": 3}},
        "bytes_accessed": 819e6,
        "padding": 0.5,
        "filling": 0.25,
        "narrowest": [{"channels": [3, 64], "where": "", "wasted_operations": 1.0}],
        "seconds": {"lowering": 1.0, "compiling": 2.0},
        "kept": False,
    }
    return record | changes


def planned(*settings, **asked):
    config = train.parse(["mnist-dcgan", *settings], "plan").config
    return answering.plan(compiling.Task(("mnist-dcgan", *settings), "v5e:2x4"), config, compiled, **asked)


def test_a_plan_says_what_fits_and_bounds_a_step_by_public_figures():
    record = planned()
    assert record["fits"] and record["there"] == 16 * 2**30
    assert record["needed"]["train"] == 2**20 + 8 * 2**20
    assert record["needed"]["pictures"] == 2**20 + 8 * 2**20  # the state lies there, and what draws is a part of it
    assert record["bounds"] == {"arithmetic": pytest.approx(1e-3), "memory": pytest.approx(1e-3)}
    text = telling.tell("mnist-dcgan", record)
    assert "fits: needs 9 MiB of 16 GiB a device (0.1%)" in text and "all-reduce 2 times, 4 KiB" in text
    assert "at least 1 ms: 197 GFLOP a device and step, at most 197 TFLOP/s" in text
    assert "at most 50% of the work of a matrix unit 128 wide, most of it where 3 channels become 64" in text
    json.dumps(record)


def test_a_plan_that_does_not_fit_says_by_how_much():
    record = planned("--batch-size", "262144")
    assert record["fits"] is False
    assert "does not fit: needs 32 GiB of 16 GiB a device, 16 GiB too much" in telling.tell("x", record)


def test_a_compiler_that_refuses_is_believed_and_the_rest_is_not_compiled():
    asked = []

    def refuses(task):
        asked.append(task.program)
        found = compiled(task, fits_compiler=False, needed=20 * 2**30, there=int(15.75 * 2**30))
        return {name: value for name, value in found.items() if name not in ("memory", "precision", "bytes_accessed")}

    config = train.parse(["mnist-dcgan"], "plan").config
    record = answering.plan(compiling.Task(("mnist-dcgan",), "v5e:2x4"), config, refuses)
    assert asked == ["train"] and record["fits"] is False and record["bounds"] == {}
    assert "does not fit: needs 20 GiB of 15.8 GiB a device, 4.25 GiB too much" in telling.tell("x", record)


def test_a_batch_that_a_compiler_refuses_does_not_fit_even_where_its_maker_says_that_there_is_room():
    def refuses(task):
        found = compiled(task)
        if found["memory"]["needed"] <= int(15.75 * 2**30):
            return found
        return {"fits_compiler": False, "needed": found["memory"].pop("needed"), "there": int(15.75 * 2**30)} | {
            name: value for name, value in found.items() if name not in ("memory", "fits_compiler")
        }

    config = train.parse(["mnist-dcgan"], "plan").config
    record = answering.plan(compiling.Task(("mnist-dcgan",), "v5e:2x4"), config, refuses, largest=True)
    assert 1 + record["largest_batch"]["fits"] // 8 <= 15.75 * 1024 and record["largest_batch"]["fits"] > 120_000


def test_the_largest_batch_is_found_among_multiples_of_devices_and_slices():
    record = planned("--micro-batches", "2", largest=True)
    fits, too_large = record["largest_batch"]["fits"], record["largest_batch"]["too_large"]
    assert fits % 16 == 0 and fits // 16 <= 2**14 - 1 < too_large // 16
    assert too_large - fits <= fits / 32
    assert f"largest batch: {fits:,} images fit, {too_large:,} do not" in telling.tell("x", record)


def test_other_settings_are_compared_and_one_that_a_system_forbids_says_why():
    record = planned(compare=True)
    text = telling.tell("mnist-dcgan", record)
    options = [row["option"] for row in record["compared"]]
    assert options[:4] == ["as asked", "--micro-batches 2", "--micro-batches 4", "--precision bfloat16"]
    assert options[4:] == ["--remat blocks", "--remat all", "--state sharded"]
    halved = record["compared"][1]["record"]["memory"]["temporaries"]
    assert halved == record["compared"][0]["record"]["memory"]["temporaries"] // 2
    assert "--micro-batches 4" in text and "refused: a batch cannot be taken in micro-batches" in text


def test_only_other_settings_are_tried_and_slices_that_divide_the_batch():
    config = dcgan.Config(batch_size=64, precision="bfloat16", micro_batches=8)
    options = [option.arguments for option in comparing.alternatives(config, 8)]
    assert options == [("--remat", "blocks"), ("--remat", "all"), ("--state", "sharded")]
    config = dataclasses.replace(config, micro_batches=1, remat="all", state="sharded")
    options = [option.arguments for option in comparing.alternatives(config, 8)]
    assert options[:2] == [("--micro-batches", "2"), ("--micro-batches", "4")]
    assert options[2:] == [("--remat", "none"), ("--remat", "blocks"), ("--state", "replicated")]


# The command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnist-dcgan"], "--on says for which devices: v4:2x2x1"),
        (["mnist-dcgan", "--on", "v5litepod-8"], "there is no target 'v5litepod-8'"),
        (["mnist-dcgn", "--on", "cpu"], "no preset 'mnist-dcgn'; did you mean 'mnist-dcgan'"),
        (["mnist-dcgan", "--on", "cpu", "--image-shape", "64"], "--image-shape takes three whole numbers"),
        (["mnist-dcgan", "--on", "cpu", "--lr", "1"], "--generator.learning-rate"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(capsys, arguments, message):
    assert call("plan", *arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(("target", "how"), [("v5e:2x4", "pip install 'jaxgen[plan]'"), ("h100", "'jax[cuda12]'")])
def test_a_compiler_that_is_not_installed_is_one_sentence(capsys, monkeypatch, target, how):
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=f"a plan for {target} needs the compiler") as said:
        compiling.check_installed(targets.target(target))
    assert how in str(said.value)
    compiling.check_installed(targets.target("cpu:8"))


def test_flags_of_other_devices_are_kept_from_the_compiler_of_tpus_which_would_end_for_them(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_dump_to=here --xla_gpu_autotune_level=0")
    assert compiling.environment_for(targets.target("v5e:2x4"))["XLA_FLAGS"] == "--xla_dump_to=here"
    assert "--xla_cpu_use" in compiling.environment_for(targets.target("cpu:8"))["XLA_FLAGS"]


def test_the_exit_code_says_whether_it_fits(monkeypatch, capsys):
    monkeypatch.setattr(compiling, "compiled", lambda task, tell: compiled(task))
    monkeypatch.setattr(compiling, "check_installed", lambda target: None)
    assert call("plan", "mnist-dcgan", "--on", "v5e:2x4") == 0
    assert "compiling the train step for v5e:2x4 ..." in capsys.readouterr().err
    assert call("plan", "mnist-dcgan", "--on", "v5e:2x4", "--batch-size", 262144, "--json") == 1
    record = json.loads(capsys.readouterr().out)
    assert record["preset"] == "mnist-dcgan" and record["fits"] is False and record["device"]["name"] == "v5e"


def test_a_process_of_its_own_compiles_and_the_next_one_finds_it_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    task = compiling.Task((OWN, "--batch-size", "16"), "cpu:8")
    record = compiling.compiled(task)
    parameters = 2 * 28 * 28  # a mean and a deviation for each pixel
    assert (record["devices"], record["batch_size"], record["kept"]) == (8, 16, False)
    assert record["memory"]["state"] >= 4 * parameters and record["memory"]["data"] >= 60_000 * 28 * 28
    reduced = record["collectives"].pop("all-reduce")
    assert record["collectives"] == {} and 0 <= reduced["bytes"] - 4 * parameters <= 64
    assert len(list((tmp_path / "jaxgen" / "plans").iterdir())) == 1
    assert compiling.compiled(task) | {"kept": False} == record | {"collectives": {"all-reduce": reduced}}


def test_what_goes_wrong_in_the_other_process_is_told_in_its_words(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="12 images cannot be divided over 8 devices"):
        compiling.compiled(compiling.Task((OWN, "--batch-size", "12"), "cpu:8"))
    with pytest.raises(RuntimeError, match="exit code"):
        monkeypatch.setattr(sys, "executable", "/bin/false")
        compiling.compiled(compiling.Task((OWN,), "cpu"))


def test_every_plan_that_the_pages_show_is_understood():
    root = Path(__file__).parent.parent
    pages = [root / "README.md", *(root / "docs").glob("*.md")]
    shown = [line for page in pages for line in re.findall(r"^jaxgen plan ([^#\n]*)", page.read_text(), re.M)]
    assert len(shown) >= 3
    for line in shown:
        given, on = words.without(shlex.split(line), ["--on"])
        assert targets.target(on or "")
        given = [word for word in given if word not in ("--largest-batch", "--compare")]
        assert train.parse(given, "plan").name


@pytest.mark.slow
def test_the_command_plans_a_small_system_on_this_machine(tmp_path):
    command = [sys.executable, "-m", "jaxgen", "plan", OWN, "--on", "cpu:2", "--batch-size", "16", "--largest-batch"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "on cpu:2: 2 devices, 16 images a step, 8 on each device" in done.stdout
    assert "largest batch: " in done.stdout and "compiling the train step for cpu:2" in done.stderr


@pytest.mark.slow
@NO_LIBTPU
def test_a_small_dcgan_compiles_for_eight_chips_that_are_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = ("--features", "8", "--batch-size", "64", "--precision", "bfloat16")
    record = compiling.compiled(compiling.Task(("mnist-dcgan", *settings), "v5e:2x4"))
    assert record["devices"] == 8 and record["fits_compiler"]
    assert 0 < record["memory"]["needed"] < 2**30 and record["memory"]["data"] >= 60_000 * 28 * 28
    assert record["precision"]["convolution"].get("bf16", 0) > 10
    assert list(record["collectives"]) == ["all-reduce"] and 0.5 < record["padding"] < 1


@pytest.mark.slow
@NO_LIBTPU
def test_on_256_chips_a_training_without_batch_normalisation_reduces_each_gradient_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    record = compiling.compiled(compiling.Task(("mnist-vae", "--batch-size", "256"), "v5e:16x16"))
    assert record["devices"] == 256 and list(record["collectives"]) == ["all-reduce"]
    gradients = 4 * (217_300 + 207_984)
    assert 0 <= record["collectives"]["all-reduce"]["bytes"] - gradients <= 2000  # metrics of each latent


@pytest.mark.slow
@NO_LIBTPU
def test_what_no_chip_can_hold_is_an_answer(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    record = compiling.compiled(compiling.Task(("mnist-vae", "--batch-size", "4000000"), "v5e:1x1"))
    assert not record["fits_compiler"] and record["needed"] > record["there"] > 15 * 2**30
