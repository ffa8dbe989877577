"""Command lines: what means nothing is refused at once, and words of other programs are answered with ours."""

import re
import sys

import pytest

from jaxgen import command_line, options
from jaxgen.commands import describe, edit, evaluate, sample, stability, train, words

COMMANDS = {"train": train, "sample": sample, "edit": edit, "evaluate": evaluate}
COMMANDS |= {"stability": stability, "describe": describe}


def refused(command, words, message):
    with pytest.raises(ValueError, match=message):
        COMMANDS[command].main(list(words))


@pytest.mark.parametrize(
    "command, words, message",
    [
        ("train", ["--lr", "1e-3"], "no option --lr; .* --generator.learning-rate and --discriminator.learning-rate"),
        ("train", ["mnist-vae", "--lr=1e-3"], "called --optimizer.learning-rate here"),
        ("train", ["mnist-dcgan", "--steps", "5"], "called --num-steps here"),
        ("train", ["mnist-dcgan", "--output-dir", "x"], "called --directory here"),
        ("describe", ["mnist-dcgan", "--lr", "1"], "--generator.learning-rate"),
        ("sample", ["x", "--n", "16"], "no option --n; it is called --num-images"),
        ("evaluate", ["x", "--n=16"], "no option --n; it is called --num-images"),
        ("stability", ["sweep", "ring", "--lr", "1"], "called --learning-rate"),
        (
            "train",
            ["mnist-dcgan", "--loss", "wgan"],
            "no loss 'wgan'; it is called wasserstein here. There is: non_sat",
        ),
        ("train", ["mnist-sngan", "--loss=LSGAN"], "least_squares"),
        ("train", ["mnist-dcgan", "--data.name", "cifar10"], "--data.name folder --data.path FOLDER.* --data.name hub"),
    ],
)
def test_words_of_other_programs_are_answered_with_ours(command, words, message):
    refused(command, words, message)


def test_epochs_are_told_in_steps_for_these_data_and_this_batch():
    refused("train", ["mnist-dcgan", "--epochs", "5", "--batch-size", "100"], "--num-steps 3000 for 5 epochs of 60,000")
    refused("train", ["mnist-vae", "--num-epochs=1"], "--num-steps 600 for 1 epoch of 60,000 images, 100 in a step")
    refused("train", ["mnist-sngan", "--epochs", "0.5", "--num-discriminator-steps", "5"], "--num-steps 94 for 0.5")
    for wrong in ("many", "inf", "nan"):
        refused("train", ["mnist-dcgan", "--epochs", wrong], "give --num-steps$")
    refused("train", ["mnist-dcgan", "--epochs"], "give --num-steps$")
    refused("train", ["mnist-dcgan", "--epochs", "1", "--data.name", "folder"], "give --num-steps$")


def test_our_own_options_are_none_of_other_programs():
    for function in (sample.sample, edit.edit, evaluate.evaluate, *stability.COMMANDS.values()):
        known = words.options_of(function)
        words.suggest(known, known)
    assert {"--num", "-n"} <= set(words.options_of(sample.sample))


@pytest.mark.parametrize(
    "command, words, option",
    [
        ("train", ["mnist-dcgan", "--directory", ""], "--directory"),
        ("train", ["mnist-dcgan", "--data.path="], "--data.path"),
        ("train", [""], "the argument"),
        ("sample", [""], "the argument"),
        ("sample", ["runs/a", "--output", ""], "--output"),
        ("edit", ["runs/a", "restore", ""], "the argument"),
        ("edit", ["runs/a", "complete", "a.png", "--mask="], "--mask"),
        ("evaluate", ["runs/a", "mnist:test", "--metrics", ""], "--metrics"),
        ("evaluate", ["--table", ""], "--table"),
        ("stability", ["sweep", "ring", "--directory", ""], "--directory"),
        ("describe", ["mnist-dcgan", "--data.path", ""], "--data.path"),
    ],
)
def test_an_empty_argument_is_refused(command, words, option):
    refused(command, words, f"{option} is empty: '' names nothing")


@pytest.mark.parametrize("address", ["gs://b/r", "s3://b/r", "http://x/y", "gs:/b/r"])
@pytest.mark.parametrize(
    "command, words",
    [
        ("train", ["mnist-dcgan", "--directory", "@"]),
        ("train", ["emoji-dcgan-r1", "--data.name=folder", "--data.path=@"]),
        ("sample", ["@"]),
        ("sample", ["runs/a", "--output", "@"]),
        ("edit", ["@", "restore", "a.png"]),
        ("edit", ["runs/a", "restore", "@"]),
        ("evaluate", ["@"]),
        ("evaluate", ["runs/a", "@"]),
        ("evaluate", ["runs/a", "mnist:test", "--backbone", "@"]),
        ("evaluate", ["--table", "@"]),
        ("stability", ["spectrum", "@"]),
        ("stability", ["sweep", "ring", "--directory", "@"]),
        ("stability", ["atlas", "--directory", "@"]),
    ],
)
def test_no_command_takes_an_address_without_a_driver(command, words, address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for driver in ("gcsfs", "s3fs"):
        monkeypatch.setitem(sys.modules, driver, None)
    refused(command, [word.replace("@", address) for word in words], "is an URL, and only local paths")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_line():
    line = command_line._sentences()
    texts = [
        f"Error writing persistent compilation cache entry for 'jit_{name}': PermissionError: [Errno 13] /c/x"
        for name in ("f", "g", "h")
    ]
    assert re.fullmatch(r"warning: compiled programs are not kept .*: \[Errno 13\] /c/x\n", line(texts[0]))
    assert [line(text) for text in texts] == ["", "", ""]
    assert line("what was seen could not be kept: a") and not line("what was seen could not be kept: b")
    assert line("another") == line("another") == "warning: another\n"


def test_a_cache_that_cannot_be_written_is_no_note_of_an_evaluation():
    import warnings

    from jaxgen import evaluation

    with pytest.warns(UserWarning) as told, evaluation.kept_warnings() as said:
        warnings.warn("Error writing persistent compilation cache entry for 'jit_f': OSError: full", stacklevel=1)
        warnings.warn("few images", stacklevel=1)
    assert said == ["few images"] and len(told) == 2


def test_a_run_of_another_length_names_the_one_that_may_have_been_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    longer = train.parse(["mnist-dcgan", "--num-steps", "20000"])
    assert train._meant(longer) == ""  # there is nothing to go on with
    (tmp_path / "runs" / "mnist-dcgan" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "mnist-dcgan" / "config.json").write_text("{}")
    assert "To go on with runs/mnist-dcgan to step 20,000, give --directory runs/mnist-dcgan" in train._meant(longer)
    for others in ([], ["--num-steps", "20000", "--seed", "1"], ["--num-steps", "20000", "--directory", "runs/x"]):
        assert train._meant(train.parse(["mnist-dcgan", *others])) == ""


def test_a_run_that_begins_with_another_has_a_directory_of_its_own():
    asked = train.parse(["mnist-dcgan", "--start-from", "runs/old/"])
    assert (asked.directory, asked.start_from) == ("runs/mnist-dcgan-from-old", "runs/old/")
    assert train.parse(["mnist-dcgan", "--start-from", "runs/old", "--directory", "runs/x"]).directory == "runs/x"


def test_an_option_that_is_nearly_one_of_a_group_is_named():
    known = ["--num-steps", "--generator.learning-rate", "--discriminator.learning-rate"]
    with pytest.raises(ValueError, match="did you mean --generator.learning-rate or --discriminator.learning-rate"):
        words.suggest(["--lerning-rate", "3"], known)
    for fine in ("--generator.learning-rate", "--num_steps", "--no-pictures", "-3"):
        words.suggest([fine, "3"], known)


def test_of_many_names_an_error_tells_the_nearest():
    table = dict.fromkeys(f"preset-{i}" for i in range(100))
    with pytest.raises(ValueError, match=r"did you mean 'preset-77'.*There are 100") as error:
        options.lookup(table, "preset-777", "preset")
    assert len(str(error.value)) < 200
