"""The scripts as people use them: help, errors, signals, pictures, numbers."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from in_process import SCRIPTS, call, script
from PIL import Image

from jaxgen import checkpoint, command_line, data, files, run_directory, systems
from jaxgen.run_directory import metrics_log

pytestmark = pytest.mark.usefixtures("scripts_in_process")


def start(name: str, *arguments, **options) -> subprocess.Popen:
    command = [sys.executable, SCRIPTS / f"{name}.py", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# Help and errors ------------------------------------------------------------------------------------------------------


def test_help_comes_quickly_and_without_a_preset_lists_them():
    begin = time.monotonic()
    processes = [start("train", *arguments) for arguments in (["--help"], ["mnist-dcgan", "--help"])]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [errors for _, errors in outputs] == ["", ""]
    assert all(name in outputs[0][0] for name in systems.PRESETS)
    assert "--discriminator.learning-rate" in outputs[1][0] and "two learning rates are TTUR" in outputs[1][0]
    assert "runs/mnist-dcgan-SETTINGS if it has other" in " ".join(outputs[1][0].replace("│", "").split())
    assert time.monotonic() - begin < 30  # 2 s on an idle machine; JAX itself takes one to import


def test_a_reader_that_leaves_early_causes_no_error():
    process = start("train", "--help", bufsize=0)
    process.stdout.close()  # before anything is printed
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["mnist-dcgn"], "there is no preset 'mnist-dcgn'; did you mean 'mnist-dcgan' (or "),
        (["mnist-dcgan", "--generator.learning-rate", "0"], "--generator.learning-rate must be above 0, not 0.0"),
        (["mnist-dcgan", "--data.name", "folder"], "the data set 'folder' needs --data.path"),
        (["mnist-dcgan", "--data.name", "folder", "--data.path", "/no"], "/no: no such folder"),
        (["mnist-cnn", "--batch-size", "12", "--num-devices", "8"], "cannot be divided over 8 devices"),
        (["mnist-cnn", "--num-devices", "9"], "9 devices asked for, but this program sees 8 (cpu)"),
        (["mnist-dcgan", "--data.image-size", "100"], "image_size must be an even number from 28 to 64, got 100"),
        (
            ["emoji-article", "--data.image-size", "64"],
            "56x56 images, but the data are 64x64; use --data.image-size 56",
        ),
        (["mnist-dcgan", "--num-steps", "0"], "--num-steps must be at least 1, not 0"),
        (["mnist-dcgan", "--latent-dim", "0"], "--latent-dim must be at least 1, not 0"),
        (["mnist-dcgan", "--keep-last", "0"], "--keep-last must be at least 1, not 0"),
        (["mnist-dcgan", "--features", "0"], "--features must be at least 1, not 0"),
        (["mnist-dcgan", "--num-discriminator-steps", "0"], "--num-discriminator-steps must be at least 1, not 0"),
        (["mnist-dcgan", "--generator.b1", "2"], "--generator.b1 must be from -1 up and below 1, not 2.0"),
        (["mnist-dcgan", "--r1", "-1"], "--r1 must be at least 0 and finite, not -1.0"),
        (["emoji-vae", "--data.image-size", "0"], "--data.image-size must be at least 1, not 0"),
        (
            ["mnist-cgan", "--micro-batches", "2", "--features", "1"],
            "micro-batches by a network with batch normalisation",
        ),
        (
            ["mnist-cnn", "--eval-metric", "fid", "--num-devices", "1"],
            "classifier has no 'draw', it can classify images",
        ),
        (["mine.py"], "there is no file mine.py: a system of your own is a Python file"),
        (["mnist-dcgan", "--data.path", "photos"], "--data.path is photos, which means nothing for --data.name mnist"),
    ],
)
def test_a_mistake_is_one_sentence_and_makes_no_directory(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert call("train", *arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("On the command line: --")]
    assert len(errors) == 2 and errors[0].startswith("error: ") and message in errors[0]
    assert "JAXGEN_TRACEBACK" in errors[1]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arrays, flags",
    [
        ({"image": np.linspace(0, 1, 8 * 28 * 28, dtype=np.float32).reshape(8, 28, 28)}, "--data.value-range"),
        ({"image": np.full((8, 28, 28), 9, np.uint8), "x": np.zeros(8)}, "--data.image-key"),
        ({"image": np.full((8, 28, 28), 9, np.uint8), "y": np.zeros(8), "label": np.zeros(8)}, "--data.label-key"),
    ],
)
def test_where_the_library_names_an_argument_the_flag_is_told(tmp_path, capsys, arrays, flags):
    np.savez(tmp_path / "digits.npz", **arrays)
    assert call("train", "mnist-dcgan", "--data.name", "arrays", "--data.path", tmp_path / "digits.npz") == 2
    assert f"\nOn the command line: {flags}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, messages",
    [
        (["mnist-cnn", "--widhts", "4"], ["Unrecognized options: --widhts", "--widths"]),
        (["mnist-dcgan", "--loss", "hing"], ["invalid choice 'hing'", "'hinge'"]),
        (["mnist-dcgan", "--data.name", "mnst"], ["invalid choice 'mnst'", "'mnist'"]),
        (["mnist-dcgan", "--num-steps", "many"], ["many", "--num-steps"]),
    ],
)
def test_wrong_options_are_explained_with_what_is_near(capsys, arguments, messages):
    assert call("train", *arguments) == 2
    text = capsys.readouterr().err
    assert all(message in text for message in messages) and "Traceback" not in text


def test_a_traceback_is_shown_to_those_who_ask(monkeypatch):
    monkeypatch.setenv("JAXGEN_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no preset"):
        command_line.run(lambda: script("train").main(["nothing"]))


@pytest.mark.parametrize("kind", [OSError, MemoryError])
def test_notes_of_an_error_are_shown_and_warnings_are_one_line(capsys, kind):
    def main():
        error = kind("gone")
        error.add_note("This happened at night.")
        raise error

    with pytest.raises(SystemExit):
        command_line.run(main)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["error: gone", "This happened at night."]
    assert warnings.formatwarning("the disk is slow", UserWarning, "f.py", 1) == "warning: the disk is slow\n"


def test_a_file_that_cannot_be_read_is_told_without_numbers_of_errors(tmp_path, capsys):
    (tmp_path / "a.json").mkdir()

    def main():
        with files.explained(tmp_path / "a.json", "read"):
            (tmp_path / "a.json").read_bytes()

    with pytest.raises(SystemExit):
        command_line.run(main)
    told = capsys.readouterr().err
    assert told.startswith(
        f"error: could not read {tmp_path / 'a.json'}: a directory lies there, where a file is expected"
    )


def test_an_interruption_before_the_first_step_is_one_word(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        command_line.run(main)
    assert end.value.code == 130 and capsys.readouterr().err == "interrupted\n"


# Signals and kills ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Twenty-two labelled 28x28 images as a file."""
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    image = np.random.RandomState(0).randint(0, 256, (22, 28, 28, 1)).astype(np.uint8)
    np.savez(path, image=image, label=np.arange(22) % 3)
    return path


def options(digits, directory, *, num_steps, checkpoint_every, log_every=None, preset="mnist-cnn", **others):
    arguments = [preset, "--data.name", "arrays", "--data.path", digits, "--directory", directory]
    arguments += ["--batch-size", 8, "--num-steps", num_steps, "--num-devices", 1, "--sample-every", 0]
    arguments += ["--log-every", log_every or checkpoint_every, "--checkpoint-every", checkpoint_every]
    arguments += ["--evaluate-every", 0]
    return [*arguments, *(part for name, value in others.items() for part in (f"--{name.replace('_', '-')}", value))]


def wait_for(condition, process, timeout=120) -> None:
    end = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.01)


def lines(directory) -> dict[int, dict]:
    return {
        line["step"]: {
            name: value for name, value in line.items() if name not in ("time", "images_per_second", "data_wait")
        }
        for line in metrics_log.read_metrics(directory)
    }


def test_a_run_stopped_and_killed_at_any_moment_ends_bit_for_bit_like_one_that_was_not(tmp_path, digits, capsys):
    run, whole = tmp_path / "run", tmp_path / "whole"
    settings = {"num_steps": 1600, "checkpoint_every": 20, "widths": 4}

    def last_line() -> int:
        with contextlib.suppress(ValueError):  # read in the middle of a write
            return max(lines(run), default=0)
        return -1

    interrupted_at = []
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        process = start("train", *options(digits, run, **settings))
        before = last_line()
        wait_for(lambda before=before: last_line() > before + 40, process)
        if number == signal.SIGTERM:  # nobody else may train there meanwhile
            assert call("train", *options(digits, run, **settings)) == 2
            assert f"is in use: process {process.pid} on" in capsys.readouterr().err
        time.sleep(random.uniform(0, 0.3))
        process.send_signal(number)
        output, errors = process.communicate(timeout=120)
        interrupted_at.append(last_line())
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            step = json.loads((run / "status.json").read_text())["step"]
            assert process.returncode == 128 + number, (output, errors)
            assert f"stopped at step {step} of 1600; the same command goes on from there" in output
            assert checkpoint.latest_step(run / "checkpoints") == step
    assert interrupted_at[-1] < 1600, "the machine is too fast for this test: raise num_steps"
    assert call("train", *options(digits, run, **settings)) == 0
    assert f"finished at step 1600; look at {run}/report.html" in capsys.readouterr().out

    seldom = options(digits, whole, **settings | {"checkpoint_every": 800}, log_every=20)
    assert call("train", *seldom) == 0
    records = [checkpoint.read_record(d / "checkpoints", 1600)["leaves"] for d in (run, whole)]
    assert records[0] == records[1]
    assert list(lines(run)) == list(lines(whole)) == list(range(20, 1601, 20))
    # Only the first line after a clean stop holds the means of fewer steps.
    assert sum(lines(run)[step] != line for step, line in lines(whole).items()) <= 2


# sample.py and evaluate.py --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits):
    """A tiny run of each family."""
    path = tmp_path_factory.mktemp("runs")
    common = {"num_steps": 2, "checkpoint_every": 1}
    tested = {"data.test_path": digits}
    gan = {"features": 4, "generator.learning_rate": 0.1}  # so that images differ after two steps
    conv = {"model": "conv", "likelihood": "discretized_logistic", "data.binarise": "none", "features": 4}
    assert call("train", *options(digits, path / "gan", preset="mnist-dcgan", **gan, **common)) == 0
    assert call("train", *options(digits, path / "cnn", widths=4, **common, **tested)) == 0
    assert call("train", *options(digits, path / "vae", preset="mnist-vae", **conv, **common, **tested)) == 0
    return path


@pytest.mark.slow
def test_sampling_writes_a_picture_an_array_or_many_pictures(runs, tmp_path, capsys):
    gan = runs / "gan"
    assert call("sample", gan, "--num", 9) == 0
    assert capsys.readouterr().out == f"{gan}/generated/00000002_0.png\n"
    with Image.open(gan / "generated" / "00000002_0.png") as picture:
        assert picture.size[0] == picture.size[1] >= 3 * 28
    for seed, name in ((3, "a"), (3, "b"), (4, "c")):
        assert call("sample", gan, "--num", 5, "--seed", seed, "--output", tmp_path / "new" / f"{name}.npz") == 0
    a, b, c = (np.load(tmp_path / "new" / f"{name}.npz")["image"] for name in "abc")
    assert a.shape == (5, 28, 28, 1) and a.dtype == np.uint8
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert call("sample", gan, "--num", 3, "--separate", "--output", tmp_path / "many", "--step", 1) == 0
    assert sorted(os.listdir(tmp_path / "many")) == ["000000.png", "000001.png", "000002.png"]
    with Image.open(tmp_path / "many" / "000002.png") as picture:
        assert picture.size == (28, 28)


@pytest.mark.parametrize(
    "run, arguments, message",
    [
        ("gan", ["--output", "x.jpg"], "--output x.jpg should end in .png or .npz"),
        ("gan", ["--num", "0"], "must be at least 1, not 0"),
        ("gan", ["--step", "7"], "no checkpoint of step 7"),
        ("cnn", [], "needs a system that can draw images; classifier has no 'draw', it can classify images"),
        ("nothing", [], "does not exist; runs in"),
        ("gan/checkpoints", [], "did you mean the run"),
    ],
)
def test_what_cannot_be_sampled_is_one_sentence(runs, capsys, run, arguments, message):
    assert call("sample", runs / run, *arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("error: ") and message in errors[0] and len(errors) == 2


def test_images_of_a_built_in_set_become_files(tmp_path, capsys):
    assert call("sample", "mnist:test", "--num", 3, "--separate", "--output", tmp_path / "real") == 0
    files = sorted((tmp_path / "real").iterdir())
    digits = data.mnist("test").fetch(np.arange(3))["image"]
    np.testing.assert_array_equal([np.asarray(Image.open(file)) for file in files], digits[..., 0])
    assert call("sample", "mnist:test") == 2
    assert "mnist:test is a set and no run: say with --output" in capsys.readouterr().err


def test_a_folder_of_separate_images_holds_no_others(tmp_path, capsys):
    arguments = ["mnist:test", "--separate", "--output", tmp_path / "real", "--num"]
    assert call("sample", *arguments, 3) == call("sample", *arguments, 4) == 0  # the same ones, and one more
    assert call("sample", *arguments, 2) == 2
    assert "real holds 2 other images (000002.png, ...): choose another --output" in capsys.readouterr().err
    assert len(list((tmp_path / "real").iterdir())) == 4


def test_evaluation_prints_and_keeps_numbers_with_their_protocol(runs, capsys):
    records = {}
    for name, arguments in {
        "cnn": [],
        "vae": ["--samples", 3],
        "gan": ["--classifier", runs / "cnn", "--num", 30],
    }.items():
        capsys.readouterr()
        assert call("evaluate", runs / name, *arguments, "--json") == 0
        records[name] = json.loads(capsys.readouterr().out)
        what = {"cnn": "test", "vae": "bound_of_3", "gan": "confidence_of_30"}[name]
        assert json.loads((runs / name / "evaluation" / f"00000002_{what}.json").read_text()) == records[name]
        assert records[name]["protocol"]["step"] == 2
    assert set(records["cnn"]["metrics"]) == {"loss", "accuracy"}
    assert records["cnn"]["protocol"]["split"] == "test"
    last = metrics_log.read_metrics(runs / "cnn")[-1]  # training ended with the same evaluation
    assert records["cnn"]["metrics"]["loss"] == pytest.approx(last["eval/loss"], rel=1e-5)
    vae = records["vae"]
    assert vae["protocol"]["samples"] == 3
    assert vae["metrics"]["importance_weighted_bound"] > vae["metrics"]["elbo"]
    gan = records["gan"]
    assert gan["protocol"] | {"num": 30, "classifier": str(runs / "cnn")} == gan["protocol"]
    assert sum(gan["metrics"]["class_shares"]) == pytest.approx(1) and len(gan["metrics"]["class_shares"]) == 3
    assert 0 <= gan["metrics"]["confident_share"] <= 1 and "confident_share_of_test_images" in gan["metrics"]


@pytest.mark.parametrize(
    "run, arguments, message",
    [
        ("gan", [], "draws images, and measures nothing by itself"),
        ("gan", ["--classifier", "vae"], "needs a system that can classify images; VAE has no 'classify'"),
        ("cnn", ["--samples", "3"], "--samples is for systems with the setting eval_samples"),
        ("vae", ["--samples", "0"], "at least 1; got 0"),
        ("nothing", [], "does not exist"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(runs, capsys, run, arguments, message):
    arguments = [runs / value if value == "vae" else value for value in arguments]
    assert call("evaluate", runs / run, *arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[0]


def test_a_classifier_of_other_images_is_refused(runs, tmp_path, capsys):
    stored = run_directory.load_config(runs / "cnn")
    stored["images"]["image_shape"] = stored["images"]["batch"]["image"]["shape"] = [32, 32, 1]
    run_directory.create(tmp_path / "other", stored)
    (tmp_path / "other" / "checkpoints").symlink_to(runs / "cnn" / "checkpoints")
    assert call("evaluate", runs / "gan", "--classifier", tmp_path / "other") == 2
    assert capsys.readouterr().err.startswith("error: ")
