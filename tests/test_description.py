"""`jaxgen describe` says what a preset is, exactly, without data and without training."""

import json
import time

import pytest
from in_process import call

from jaxgen import building, description, systems
from jaxgen.system import Spec
from jaxgen.systems import dcgan

PUBLISHED = {
    "cifar-sngan": ([], {"generator": 4_276_739, "discriminator": 1_053_825}),
    "cifar-sngan-projection": ([], {"generator": 4_304_387, "discriminator": 1_055_105}),
    "emoji-sngan": (
        ["--data.image-size", 64, "--generator-features", 1024, "--discriminator-features", 1024],
        {"generator": 12_220_675, "discriminator": 10_141_441},
    ),
    "mnist-vae": ([], {"encoder": 217_300, "decoder": 207_984}),
}


def record_of(capsys, *arguments) -> dict:
    assert call("describe", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


OFTEN = ("cifar-sngan-projection", "mnist-vae")


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in PUBLISHED]
)
def test_the_numbers_of_parameters_are_the_published_ones(preset, capsys):
    arguments, expected = PUBLISHED[preset]
    began = time.process_time()
    record = record_of(capsys, preset, *arguments)
    assert {name: network["parameters"] for name, network in record["networks"].items()} == expected
    assert record["preset"] == preset and record["parameters"] == sum(expected.values())
    assert time.process_time() - began < 30  # a few where nothing else runs


def test_a_description_knows_layers_memory_and_arithmetic(capsys):
    record = record_of(capsys, "mnist-dcgan", "--features", 4, "--latent-dim", 7)
    generator = record["networks"]["generator"]
    assert generator["layers"]["Dense_0/kernel"] == [7, 3 * 3 * 16]
    assert record["batch"] == {"image": [64, 28, 28, 1], "label": [64]}
    # Twice Adam's moments beside parameters, and the generator's average with its statistics.
    assert record["state_bytes"] > 4 * (3 * record["parameters"] + generator["parameters"])
    wide = record_of(capsys, "mnist-dcgan", "--features", 8, "--latent-dim", 7)
    assert 2.5 < wide["operations_per_step"] / record["operations_per_step"] < 4.5
    doubled = record_of(capsys, "mnist-dcgan", "--features", 4, "--latent-dim", 7, "--batch-size", 128)
    assert doubled["operations_per_step"] == pytest.approx(2 * record["operations_per_step"], rel=1e-3)


def test_the_images_can_be_others_than_the_presets(capsys):
    record = record_of(capsys, "mnist-cgan", "--image-shape", 64, 64, 3, "--num-classes", 5)
    assert record["batch"]["image"] == [64, 64, 64, 3] and record["choices"]["label"] == 5


def test_measured_numbers_are_told_of_what_was_measured_alone(capsys):
    told = []
    for arguments in ((), ("--num-classes", 5), ("--image-shape", 32, 32, 3), ("--r1", 1)):
        assert call("describe", "mnist-cgan", *arguments, "--json") == 0
        told.append(bool(json.loads(capsys.readouterr().out)["measured"]))
    assert told == [True, False, False, False]


def test_the_state_that_is_described_is_the_one_that_is_trained():
    config = dcgan.TINY
    spec = Spec.of_images((28, 28, 1), 10)
    record = description.describe(config, spec)
    import jax

    state = building.build_system(config, spec).init(jax.random.key(0))
    assert record["state_bytes"] == sum(x.nbytes for x in jax.tree.leaves(state))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["mnist-dcgn"], "no preset 'mnist-dcgn'; did you mean 'mnist-dcgan'"),
        (["mnist-dcgan", "--data.name", "folder", "--data.path", "x"], "give --image-shape H W C"),
        (["mnist-dcgan", "--image-shape", "64", "64"], "--image-shape takes three whole numbers"),
        (["mnist-dcgan", "--num-classes", "many"], "--num-classes takes a whole number of at least 0, not many"),
        (["mnist-sngan", "--image-shape", "30", "30", "1"], "28, 32, 48, 64 or 128 pixels, not 30"),
        (["mnist-cgan", "--num-classes", "0"], "these data have none"),
    ],
)
def test_what_cannot_be_described_is_one_sentence(capsys, arguments, message):
    assert call("describe", *arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[0]


def test_help_and_words(capsys):
    assert call("describe", "--help") == 0
    assert "--image-shape H W C" in capsys.readouterr().out
    assert call("describe", "cifar-vqvae", "--layers") == 0
    text = capsys.readouterr().out
    assert "662,723" in text and "van den Oord" in text and "distortion 0.056" in text and "/kernel" in text


def data_and_sources(preset):
    """What fixes the shape of its batches."""
    config = preset.config
    return repr((config.data, type(config).wrap.__qualname__, getattr(config, "source", None)))


UNLIKE = {data_and_sources(preset): name for name, preset in systems.PRESETS.items() if preset.spec is None}


@pytest.mark.parametrize("name", UNLIKE.values())
def test_built_in_data_have_the_shape_that_descriptions_take_them_to_have(name):
    preset = systems.PRESETS[name]
    assert description.spec_of(preset.config, preset) == Spec.of(preset.config.open("train"))
