import functools
import html
import inspect
import json
import re
import shlex
from pathlib import Path

import in_process
import pytest
from a_run import read, started_with, system_of, told

from jaxgen import building, command_line, configuration, experiment, options, run_directory
from jaxgen.system import Spec
from jaxgen.systems import cgan, classifier, dcgan, vae


def commands(path):
    """The commands of a report, as words."""
    text, _ = read(path)
    lines = re.findall(r"<pre>(.*?)</pre>", text)
    return [shlex.split(html.unescape(re.sub("<[^>]*>", "", line))) for line in lines]


def understood(words):
    """Parses a command with the command line of its own module; (its name, what it was asked to do)."""
    if words[0] == "jaxgen":
        name, arguments = words[1], words[2:]
    else:
        assert words[0] == "python" and words[1].startswith("scripts/")
        name, arguments = Path(words[1]).stem, words[2:]
    script = in_process.script(name)
    if name == "train":
        return name, script.parse(arguments)
    asked = {}
    target = getattr(script, name)

    @functools.wraps(target)
    def instead(*arguments, **options):
        asked.update(inspect.signature(target).bind(*arguments, **options).arguments)
        return "nothing"

    setattr(script, name, instead)
    assert script.main(arguments) == 0
    return name, asked


def make_typed_run(path, config, image_shape, *, checkpoint=True, facts=True):
    spec = Spec.of_images(image_shape, 10)
    stored = configuration.to_dict(config, preset="mnist-dcgan") | {"images": spec.to_dict()}
    run_directory.create(path, stored)
    if facts:
        system = building.build_system(config, spec)
        run_directory.write_facts(
            path, experiment.facts_of(system, has_test_split=config.data.has_test_split) | {"parameters": {"a": 1}}
        )
    started_with(path, shlex.join(["python", "scripts/train.py", "mnist-dcgan", "--directory", str(path)]))
    if checkpoint:
        (path / "checkpoints" / "1000").mkdir(parents=True)
    return path


RUNS = {
    "gan": (dcgan.Config(), (28, 28, 1), ["train", "sample", "evaluate"], ("fid", "kid", "prdc")),
    "stacked": (dcgan.Config(data=options.Data("stacked_mnist")), (28, 28, 3), ["train", "sample", "evaluate"], None),
    "large_stacked": (dcgan.Config(data=options.Data("stacked_mnist")), (32, 32, 3), ["train", "sample"], None),
    "emoji": (dcgan.Config(data=options.Data("emoji")), (64, 64, 3), ["train", "sample"], None),
    "no_test": (dcgan.Config(data=options.Data("arrays", path="a.npz")), (28, 28, 1), ["train", "sample"], None),
    "conditional": (cgan.Config(), (28, 28, 1), ["train", "sample", "evaluate"], ("fid", "kid", "prdc")),
    "vae": (
        vae.Config(data=options.Data(binarise="dynamic")),
        (28, 28, 1),
        ["train", "sample", "evaluate"],
        None,
    ),
    "vae_no_test": (
        vae.Config(data=options.Data("hub", path="a/b"), model="conv", likelihood="gaussian"),
        (28, 28, 1),
        ["train", "sample"],
        None,
    ),
    "classifier": (classifier.Config(), (28, 28, 1), ["train", "evaluate"], None),
}


@pytest.mark.filterwarnings("ignore:a gradient penalty beside batch normalisation")
@pytest.mark.parametrize("facts", [True, False])
@pytest.mark.parametrize("run", RUNS)
def test_each_command_is_one_that_its_module_takes_for_such_a_run(tmp_path, run, facts, monkeypatch):
    monkeypatch.setattr(command_line, "use_compilation_cache", lambda: None)
    config, shape, names, metrics = RUNS[run]
    run = make_typed_run(tmp_path / "my run", config, shape, facts=facts)
    found = dict(understood(words) for words in commands(run))
    assert list(found) == names
    assert found["train"].name == "mnist-dcgan" and found["train"].directory == str(run)
    if "sample" in found:
        assert found["sample"]["what"] == str(run)
    if "evaluate" in found:
        asked = found["evaluate"]
        assert (asked["what"], asked["reference"], asked["metrics"]) == (str(run), None, metrics or ())


def test_a_run_of_version_0_1_without_facts_is_offered_what_its_system_can(tmp_path):
    settings = configuration.to_dict(dcgan.Config())
    old = {"family": "GAN", "model": "dcgan", **{n: v for n, v in settings.items() if n not in ("system", "images")}}
    run_directory.create(tmp_path, old | {"images": {"image_shape": [28, 28, 1], "num_classes": 10}})
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    assert [words[:2] for words in commands(tmp_path)] == [["jaxgen", "sample"], ["jaxgen", "evaluate"]]
    run_directory.create(tmp_path / "other", old | {"family": "Flow", "images": {}})
    (tmp_path / "other" / "checkpoints" / "1").mkdir(parents=True)
    assert commands(tmp_path / "other") == []


def test_a_run_of_a_users_file_is_read_back_with_that_file(tmp_path):
    run = make_typed_run(tmp_path / "run", dcgan.Config(), (28, 28, 1))
    stored = run_directory.load_config(run)
    (run / "config.json").write_text(json.dumps(stored | {"system": "mine.py"}))
    started_with(run, "python /somewhere/bin/jaxgen train 'my systems/mine.py:other' --seed 1")
    train, sample, evaluate = commands(run)
    assert train == ["jaxgen", "train", "my systems/mine.py:other", "--seed", "1"]
    assert sample == ["jaxgen", "sample", str(run), "--system", "my systems/mine.py"]
    assert evaluate[:3] == ["jaxgen", "evaluate", str(run)] and evaluate[-2:] == ["--system", "my systems/mine.py"]
    started_with(run, "a notebook")
    assert commands(run)[0][-2:] == ["--system", "mine.py"]


def test_a_run_whose_system_nothing_names_is_read_back_in_python(tmp_path):
    run_directory.create(tmp_path, {"settings": {}, "seed": 0, "images": {"image_shape": [28, 28, 1]}})
    told(tmp_path, system_of(draw=dict))
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    assert commands(tmp_path) == []
    assert f"jaxgen.load('{tmp_path}', system=...)" in read(tmp_path)[1].text


def test_a_run_without_a_checkpoint_offers_only_to_start_again(tmp_path):
    config = vae.Config(data=options.Data(binarise="dynamic"))
    run = make_typed_run(tmp_path / "my run", config, (28, 28, 1), checkpoint=False)
    (run / "checkpoints" / "1000.orbax-checkpoint-tmp").mkdir(parents=True)
    _, page = read(run)
    assert [words[1] for words in commands(run)] == ["scripts/train.py"]
    assert "Start again" in page.text and "Resume" not in page.text


@pytest.mark.slow
def test_the_command_of_the_last_start_is_repeated_and_only_one_of_the_training_script(tmp_path):
    run = make_typed_run(tmp_path / "my run", dcgan.Config(), (64, 64, 3))
    again = [{"command": "python scripts/train.py x --num-steps 9 --a 'b c'"}]
    started_with(run, "python scripts/train.py x", resumed=again)
    assert commands(run)[0] == ["python", "scripts/train.py", "x", "--num-steps", "9", "--a", "b c"]
    _, page = read(run)
    assert "the same command again python scripts/train.py x --num-steps 9 --a 'b c'" in page.text
    started_with(run, "python scripts/train.py x --seed 3", resumed=[{"date": "2026-01-01T00:00:00+00:00"}])
    assert commands(run)[0][-1] == "3"
    for other in ("python -m pytest tests/test_train.py", "notebook", "python scripts/train.py 'open", 3, None):
        started_with(run, other)
        assert [words[:2] for words in commands(run)] == [["jaxgen", "sample"]]
