"""A user's own system is as good as ours: in a notebook, and as one file on the command line."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import own_system
import pytest
from in_process import call

import jaxgen
from jaxgen import building, data, experiment, loading, report, run_directory, systems
from jaxgen.system import MissingCapability, Spec

pytestmark = pytest.mark.usefixtures("scripts_in_process", "fast_compilation")
FILE = Path(own_system.__file__)
WRITE_REPORT = report.write


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# In a notebook --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    arrays = data.mnist("test").arrays
    return data.from_arrays("digits", arrays["image"][:200], arrays["label"][:200])


@pytest.fixture(scope="module")
def system():
    return own_system.build(own_system.Config(batch_size=8), Spec.of_images((28, 28, 1), 10))


@pytest.fixture(scope="module")
def directory(system, digits, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "notebook"
    jaxgen.train(system, digits, directory, num_steps=3, held_out=digits, num_devices=1, progress=False)
    return directory


def test_a_system_of_ones_own_is_trained_loaded_and_drawn_from(system, digits, directory):
    run = jaxgen.load(directory, system=system)
    assert run.step == 3 and run.can == ("draw",)
    images = run.draw(jax.random.key(1), 16)
    assert images.shape == (16, 28, 28, 1) and np.isfinite(images).all()
    np.testing.assert_array_equal(images, run.draw(jax.random.key(1), 16))
    assert run.record["metrics"]["eval/nll"] < 784  # that of mean 0 and deviation 1, pixels being mostly -1
    assert json.loads((directory / "system.json").read_text())["parameters"] == {"network": 2 * 784}


def test_the_same_call_with_more_steps_goes_on_to_the_same_bits(system, digits, directory, tmp_path):
    whole = jaxgen.train(system, digits, tmp_path / "whole", num_steps=6, num_devices=1, progress=False)
    shutil.copytree(directory, tmp_path / "parts")
    parts = jaxgen.train(system, digits, tmp_path / "parts", num_steps=6, num_devices=1, progress=False)
    assert whole.step == parts.step == 6 and same(whole.state, parts.state)


def test_settings_that_a_run_stores_are_compared_when_it_is_resumed(system, digits, tmp_path):
    def train(num_steps, **settings):
        jaxgen.train(
            system,
            digits,
            tmp_path / "run",
            num_steps=num_steps,
            num_devices=1,
            settings=settings,
            may_change=["note"],
            progress=False,
        )

    train(1, width=3, note="first")
    train(2, width=3, note="second")
    with pytest.raises(run_directory.ConfigMismatch, match="settings.width: 3 there, 4 asked"):
        train(3, width=4, note="third")


def test_what_a_system_cannot_do_is_one_line_that_says_what_it_can(system, digits, directory):
    run = jaxgen.load(directory, system=system)
    with pytest.raises(MissingCapability, match="independent pixels has no 'decode', it can draw images"):
        run.decode(np.zeros((2, 3)))
    with pytest.raises(AttributeError, match="a run has no 'paint'"):
        _ = run.paint
    blind = jaxgen.System(init=system.init, train_step=system.train_step, images_per_step=8)
    with pytest.raises(MissingCapability, match="metrics needs a system that can draw images.*can only train"):
        jaxgen.train(blind, digits, directory, num_steps=1, metrics=["fid"], held_out=digits)
    with pytest.raises(ValueError, match="give held_out for fid"):
        jaxgen.train(system, digits, directory, num_steps=1, metrics=["fid"])
    with pytest.raises(TypeError, match="draw of a system is a function, not 3"):
        jaxgen.System(init=system.init, train_step=system.train_step, images_per_step=8, draw=3)


def test_a_run_of_a_system_that_is_not_given_says_what_to_give(directory, tmp_path):
    with pytest.raises(ValueError, match="does not say of which system it is; jaxgen.load.*system="):
        jaxgen.load(directory)


def test_the_package_names_its_parts_without_loading_them():
    assert {"System", "train", "load", "gan", "vae"} <= set(dir(jaxgen))
    assert jaxgen.train is experiment.train_system and jaxgen.gan.make_train_step
    with pytest.raises(AttributeError, match="no attribute 'diffusion'"):
        _ = jaxgen.diffusion


# As a file ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "pixels"
    assert call("train", FILE, "--directory", directory) == 0
    return directory


def test_one_file_is_trained_and_resumed_to_the_same_bits(run, tmp_path):
    module = systems.from_file(FILE)
    parts = tmp_path / "parts"
    assert call("train", FILE, "--num-steps", 2, "--directory", parts) == 0
    assert call("train", FILE, "--directory", parts) == 0
    whole, resumed = (loading.load(directory, system=module) for directory in (run, parts))
    assert whole.step == resumed.step == 4 and same(whole.state, resumed.state)
    stored = run_directory.load_config(run)
    assert stored["system"] == "own_system.py" and stored["preset"] == "pixels"
    assert whole.config == module.PRESETS["pixels"].config


def test_one_file_is_sampled_with_the_system_and_not_without(run, capsys):
    assert call("sample", run, "--num-images", 4, "--system", FILE) == 0
    assert (run / "generated" / "00000004_0.png").exists()
    assert call("sample", run) == 2
    error = capsys.readouterr().err
    assert "a run of own_system.py, which is no part of jaxgen" in error and "--system own_system.py" in error


@pytest.mark.slow
def test_one_file_is_evaluated_by_its_measure_and_by_what_it_draws(run, tmp_path, capsys):
    assert call("evaluate", run, "--system", FILE, "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["nll"] == pytest.approx(
        loading.load(run, system=systems.from_file(FILE)).record["metrics"]["eval/nll"], rel=1e-5
    )
    assert call("evaluate", run, "mnist:test", "--system", FILE, "--num-images", 50, "--metrics", "fid") == 0
    assert list((run / "evaluation").glob("*.html"))


def test_one_file_is_reported(run):
    page = WRITE_REPORT(run).read_text()
    assert "independent" in page and "Samples" in page and "1,568" in page


def test_another_preset_of_the_file_is_named_after_a_colon(tmp_path):
    assert call("train", f"{FILE}:quiet-pixels", "--num-steps", 1, "--directory", tmp_path / "quiet") == 0
    assert run_directory.load_config(tmp_path / "quiet")["images"]["image_shape"] == [32, 32, 1]
    assert call("train", f"{FILE}:loud", "--directory", tmp_path / "loud") == 2


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "there is no file"),
        ("x = 1", "lacks a function build.* and PRESETS"),
        ("def build(config, spec): pass\nPRESETS = {}", "has no preset"),
        ("def build((config", r"broken.py, line 1: .*def build\(\(config"),
        ("def build(config, spec): pass\nPRESETS = {'a': 3}", "the preset 'a' is no"),
        (
            "from jaxgen.systems.dcgan import Config\nfrom jaxgen.systems.preset import Preset\n"
            "def build(config, spec): pass\nPRESETS = {'a': Preset('a', Config())}",
            "defined elsewhere; write class Config",
        ),
    ],
)
def test_a_file_that_is_no_system_says_what_it_lacks(tmp_path, text, message):
    file = tmp_path / "broken.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        systems.from_file(file)


def test_what_a_file_raises_names_the_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import no_such_module")
    with pytest.raises(ImportError) as raised:
        systems.from_file(file)
    assert raised.value.__notes__ == [f"in {file}"]
    file.write_text(FILE.read_text().replace("    return System(", "    return dict("))
    module = systems.from_file(file)
    with pytest.raises(TypeError, match=r"build of mine.py must return a jaxgen.System, and returned \{'init'"):
        building.build_system(module.Config(), Spec.of_images((28, 28, 1)))
    file.write_text(FILE.read_text().replace("        init=", "        game="))
    module = systems.from_file(file)
    with pytest.raises(TypeError, match="init") as raised:
        building.build_system(module.Config(), Spec.of_images((28, 28, 1)))
    assert raised.value.__notes__ == ["in build of mine.py"]


def test_a_step_that_does_not_count_and_a_draw_of_another_number_are_refused(system, digits, tmp_path):
    still = dataclasses.replace(
        system, train_step=lambda state, batch, key: (state, {"loss": state.network.params["mean"][0, 0, 0]})
    )
    with pytest.raises(ValueError, match="after 2 train steps the state's step is 0: train_step must return"):
        jaxgen.train(still, digits, tmp_path / "still", num_steps=2, num_devices=1, progress=False)
    seven = dataclasses.replace(system, draw=lambda variables, key, n: system.draw(variables, key, 7))
    with pytest.raises(ValueError, match=r"draw\(variables, key, n=64\) of independent pixels must return images"):
        jaxgen.train(seven, digits, tmp_path / "seven", num_steps=2, num_devices=1, progress=False)


def test_a_file_that_has_the_name_of_one_of_ours_hides_nothing(tmp_path):
    file = tmp_path / "dcgan.py"
    file.write_text(FILE.read_text())
    module = systems.from_file(file)
    assert systems.name_of(module) == "dcgan.py" and systems.named("dcgan") is not module
    assert systems.named("dcgan.py", module) is module


# Frozen arrays --------------------------------------------------------------------------------------------------------


def test_frozen_arrays_travel_in_the_state_and_are_not_checkpointed(system, digits, tmp_path):
    """A perceptual network, say: the same after training, in no checkpoint, named by its digest."""
    import flax

    @flax.struct.dataclass
    class State:
        step: jax.Array
        weight: jax.Array
        ema: jax.Array
        frozen: jax.Array

    def with_frozen(frozen):
        def step(state, batch, key):
            moved = state.weight + 0.1 * (state.frozen.mean() - state.weight)
            return state.replace(step=state.step + 1, weight=moved, ema=moved), {"loss": moved}

        def init(key):
            zero = jax.numpy.zeros(())
            return State(jax.numpy.zeros((), "int32"), zero, jax.numpy.copy(zero), jax.numpy.asarray(frozen))

        return jaxgen.System(init=init, train_step=step, images_per_step=8, frozen=frozen)

    frozen = np.linspace(0, 2, 100_000, dtype=np.float32)
    settings = {"num_devices": 1, "progress": False}
    whole = jaxgen.train(with_frozen(frozen), digits, tmp_path / "whole", num_steps=4, **settings)
    jaxgen.train(with_frozen(frozen), digits, tmp_path / "parts", num_steps=2, **settings)
    parts = jaxgen.train(with_frozen(frozen), digits, tmp_path / "parts", num_steps=4, **settings)
    assert same(whole.state, parts.state) and np.array_equal(whole.state.frozen, frozen)
    assert sum(f.stat().st_size for f in (tmp_path / "whole").rglob("*") if f.is_file()) < frozen.nbytes
    assert np.array_equal(jaxgen.load(tmp_path / "whole", system=with_frozen(frozen)).state.frozen, frozen)
    with pytest.raises(run_directory.ConfigMismatch, match="frozen_sha256"):
        jaxgen.train(with_frozen(frozen + 1), digits, tmp_path / "parts", num_steps=5, **settings)
    with pytest.raises(ValueError, match="other frozen arrays"):
        jaxgen.load(tmp_path / "whole", system=with_frozen(frozen + 1))
