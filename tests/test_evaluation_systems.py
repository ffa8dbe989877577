"""Evaluation asks systems what they can do: class-conditional ones, those of a user's own, and runs of version 0.1."""

import dataclasses
import json
import re
import shutil
import tarfile
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import call

import jaxgen
from jaxgen import data, evaluation, experiment, loading, opening, options, run_directory, systems, watching
from jaxgen.evaluation import of_runs, pictures
from jaxgen.evaluation import page as evaluation_page
from jaxgen.metrics import comparison, features
from jaxgen.system import MissingCapability, Spec, System
from jaxgen.systems import dcgan, edsr

pytestmark = pytest.mark.usefixtures("fast_compilation", "scripts_in_process")

OWN = '''
import dataclasses

import flax
import jax
import jax.numpy as jnp

from jaxgen.options import Data, Run
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset


@flax.struct.dataclass
class State:
    step: jax.Array
    ema: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Run):
    """Keeps an image of each class."""

    noise: float = 0.05
    """Of its images."""


def build(config, spec):
    num_classes = spec.num_classes

    def train_step(state, batch, key):
        return State(state.step + 1, state.ema.at[batch["label"]].set(batch["image"])), {"loss": 0.0 * state.step}

    def decode(memory, z, label=0):
        label = jnp.broadcast_to(jnp.asarray(label), len(z))
        return jnp.clip(memory[label] + config.noise * jnp.tanh(z.sum(1))[:, None, None, None], -1, 1)

    def latents(key, n):
        return jax.random.normal(key, (n, 3))

    return System(
        init=lambda key: State(jnp.zeros((), jnp.int32), jnp.zeros((num_classes, *spec.image_shape))),
        train_step=train_step,
        images_per_step=config.batch_size,
        draw=lambda memory, key, n, label=0: decode(memory, latents(key, n), label),
        choices={"label": num_classes},
        latents=latents,
        decode=decode,
        discriminate=lambda memory, batch: -jnp.abs(memory[batch["label"]] - batch["image"]).mean((1, 2, 3)),
        protocol={"latents": "standard normal", "images": "remembered ones", "labels": "drawn, all classes alike"},
        name="memory",
    )


PRESETS = {"remember": Preset("keeps an image of each class", Config(num_steps=40, batch_size=16, sample_every=0))}
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """(run of a class-conditional system of a user's own, its file); its data are 300 digits and 100 others."""
    path = tmp_path_factory.mktemp("own")
    (path / "memory.py").write_text(OWN)
    for name, rows in (("train", np.arange(300)), ("test", np.arange(300, 400))):
        np.savez(path / f"{name}.npz", **data.mnist("test").fetch(rows))
    config = next(iter(systems.from_file(path / "memory.py").PRESETS.values())).config
    arrays = options.Data("arrays", path=str(path / "train.npz"), test_path=str(path / "test.npz"))
    config = dataclasses.replace(config, data=arrays, num_devices=1)
    experiment.train(config, str(path / "run"), preset="remember", progress=False)
    return path / "run", path / "memory.py"


@flax.struct.dataclass
class State:
    step: jax.Array
    ema: jax.Array


def system_of(**capabilities):
    return System(
        init=lambda key: State(jnp.zeros((), jnp.int32), jnp.full((), -0.5)),
        train_step=lambda state, batch, key: (state.replace(step=state.step + 1), {"loss": state.ema}),
        images_per_step=8,
        **{"name": "mine"} | capabilities,
    )


def trained_of(system, **settings):
    """A run that nobody trained."""
    spec = Spec.of_images((28, 28, 1))
    return loading.Trained(system, system.init(jax.random.key(0)), {}, {"images": spec.to_dict()}, spec, **settings)


def grey(variables, key, n):
    return jnp.broadcast_to(variables + 0.1 * jax.random.normal(key, (n, 1, 1, 1)), (n, 28, 28, 1))


# Class-conditional systems --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_class_conditional_run_of_a_users_file_is_asked_for_all_classes_and_measured_within_them(own, capsys):
    run, file = own
    arguments = [run, "--system", file, "--metrics", "fid", "kid", "--num-images", 200, "--labels", "alike", "--json"]
    with pytest.warns(UserWarning, match="10 of 10 classes have no more images than the 128 features"):
        assert call("evaluate", *arguments) == 0
    record = json.loads(capsys.readouterr().out)
    metrics, protocol, settings = record["metrics"], record["protocol"], record["settings"]
    assert metrics["as_asked"] == 1 and metrics["as_asked_of_real"] > 0.9  # it remembers a digit of each class
    assert 0 < metrics["fid_within_classes_of_train"] < metrics["fid_within_classes"]
    assert settings["as_asked"] == {"num_classes": 10}
    assert settings["fid_within_classes"] == {"num_classes": 10, "rank_deficient": "10 of 10 classes"}
    # All 300 training images have fewer than 20 of some class.
    assert 190 < settings["fid_within_classes_of_train"]["n_train"] <= 200
    assert protocol["labels"] == "all classes alike, in turns" and protocol["latents"] == "standard normal"
    assert {"discriminator_overfitting", "logit_of_fake"} <= set(metrics)  # it is told the labels of all three kinds
    (page,) = (run / "evaluation").glob("*.html")
    text = page.read_text()
    samples, between = text.split("<h2>Samples</h2>")[1].split("<h2>Interpolations</h2>")
    named = [re.findall(r'<li title="([^"]*)"', part) for part in (samples, between)]
    assert named == [[str(label) for label in range(count)] for count in (10, 8)]  # a row of each class, and its name
    assert "of one class each." in text and "One latent of class 0" in text
    assert call("evaluate", "--table", run, "--metrics", "as_asked", "fid_within_classes") == 0
    heading = capsys.readouterr().out.splitlines()[0]
    assert heading == "|  | as_asked | as_asked_of_real | fid_within_classes | fid_within_classes_of_train |"


@pytest.mark.slow
def test_classes_have_the_shares_of_the_training_images(own):
    run, file = own
    there = np.load(run.parent / "train.npz")["label"]
    fake = opening.open_images(str(run), num=300, system=systems.from_file(file))
    label = fake.dataset.arrays["label"]
    assert np.bincount(label).tolist() == np.bincount(there).tolist()  # as many are drawn as there are
    assert len(set(np.bincount(label))) > 5 and label.tolist() != there.tolist()
    record = evaluation.compare(
        fake, opening.Images(data.mnist("test"), "mnist"), features.shipped("mnist-cnn"), ["kid"]
    )
    assert record["protocol"]["labels"] == "of training images, drawn at random"
    assert record["metrics"]["as_asked"] == 1  # the labels belong to their images
    more = opening.open_images(str(run), num=600, system=systems.from_file(file)).dataset.arrays["label"]
    assert np.bincount(more).tolist() == (2 * np.bincount(there)).tolist()
    other = opening.open_images(str(run), num=300, seed=1, system=systems.from_file(file)).dataset.arrays["label"]
    assert sorted(other) == sorted(label) and other.tolist() != label.tolist()


def test_while_a_run_trains_classes_have_the_shares_of_the_training_images_too(monkeypatch):
    def draw(variables, key, n, label=0):
        return jnp.broadcast_to((label / 10.0)[:, None, None, None], (n, 28, 28, 1))

    system = system_of(draw=draw, choices={"label": 3})
    label = np.repeat([0, 1, 2], [6, 30, 4])
    real = data.from_arrays("real", np.zeros((40, 28, 28, 1), np.uint8), label=label, class_names=tuple("abc"))
    seen = []
    monkeypatch.setattr(comparison, "see", lambda backbone, dataset: seen.append(dataset) or dataset)
    monkeypatch.setattr(comparison, "compare", lambda *of: ({}, {}))
    held_out = dataclasses.replace(real, num_examples=4)
    evaluate = watching.make_drawn_evaluate(system, real, held_out, None, {}, num=40, key=jax.random.key(0))
    evaluate(system.init(jax.random.key(0)))
    (drawn,) = [np.asarray(found.arrays["image"])[:, 0, 0, 0] for found in seen if found.num_examples == 40]
    assert np.bincount(np.round(10 * drawn).astype(int)).tolist() == [6, 30, 4]


def test_without_its_training_images_a_run_is_asked_for_all_classes_alike(own, tmp_path):
    run, file = own
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["data"]["path"] = str(tmp_path / "gone.npz")
    (copy / "config.json").write_text(json.dumps(config))
    with (
        pytest.warns(UserWarning, match="the images that .* was trained on cannot be opened"),
        pytest.warns(UserWarning, match="it is asked for all classes alike"),
    ):
        fake = opening.open_images(str(copy), num=20, system=systems.from_file(file))
    assert fake.labels == opening.IN_TURNS and fake.dataset.arrays["label"].tolist() == [*range(10)] * 2


def test_labels_alike_of_what_is_told_none_are_refused(tmp_path, capsys):
    assert call("evaluate", "mnist:test", "mnist:train", "--labels", "alike") == 2
    assert "--labels is of a class-conditional run, but mnist:test is no run" in capsys.readouterr().err
    system, digits = system_of(draw=grey), data.from_arrays("digits", np.zeros((8, 28, 28, 1), np.uint8))
    experiment.train_system(system, digits, tmp_path / "run", num_steps=1, num_devices=1, progress=False)
    with pytest.raises(ValueError, match="--labels alike is of a class-conditional run, and .* is told no labels"):
        opening.open_images(str(tmp_path / "run"), num=4, labels="alike", system=system)


def test_what_is_drawn_has_labels_in_turns_and_a_generator_that_ignores_them_is_found(own):
    run, file = own
    module = systems.from_file(file)
    fake = opening.open_images(str(run), num=100, labels="alike", system=module)
    assert fake.dataset.arrays["label"].tolist() == [*range(10)] * 10
    assert fake.dataset.class_names == tuple("0123456789")
    system = fake.run.system
    ignoring = dataclasses.replace(
        system, draw=lambda memory, key, n, label: system.draw(memory, key, n, label=(7 * label + 3) % 10)
    )
    fake = opening.draw(loading.load(run, system=ignoring), "ignoring", num=100)
    reference = opening.Images(data.mnist("test"), "mnist")
    reference = opening.first(reference, 600)
    record = evaluation.compare(fake, reference, features.shipped("mnist-cnn"), ["kid"])
    assert record["metrics"]["as_asked"] <= 0.1 < 0.95 < record["metrics"]["as_asked_of_real"]
    assert "fid_within_classes" not in record["metrics"]


def test_a_reference_without_labels_or_with_other_classes_leaves_the_numbers_of_classes_out(own):
    run, file = own
    fake = opening.open_images(str(run), num=50, system=systems.from_file(file))
    digits = data.mnist("test").fetch(np.arange(60))
    backbone = features.shipped("mnist-cnn")
    sets = {
        "has no labels": data.from_arrays("bare", digits["image"]),
        "has 3 classes and not 10": data.from_arrays("three", digits["image"], digits["label"] % 3),
    }
    for found, reference in sets.items():
        record = evaluation.compare(fake, opening.Images(reference, reference.name), backbone, ["fid"])
        assert "as_asked" not in record["metrics"] and "fid_within_classes" not in record["metrics"]
        assert any(found in text and "is not measured" in text for text in record["warnings"])
        with pytest.raises(ValueError, match="memory is told labels, but bare has none"):
            of_runs.discriminator_gap(fake.run, sets["has no labels"], reference)
    named = data.from_arrays("named", digits["image"], digits["label"], tuple("abcdefghij"))
    record = evaluation.compare(fake, opening.Images(named, "named"), backbone, ["kid"])
    assert any("have other names (0 and a, ...): they are compared in their order" in w for w in record["warnings"])
    assert "as_asked" in record["metrics"]


def test_a_run_of_a_users_file_is_never_imported_by_its_name(own, capsys):
    run, _ = own
    assert call("evaluate", run, "--metrics", "kid") == 2
    assert "give the file with --system memory.py" in capsys.readouterr().err


# Systems without settings ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A run of `jaxgen.train`: (directory, its system)."""
    system = system_of(draw=grey)
    path = tmp_path_factory.mktemp("bare")
    dataset = data.from_arrays("digits", data.mnist("test").fetch(np.arange(60))["image"])
    experiment.train_system(system, dataset, path, num_steps=2, num_devices=1, settings={"b": 1}, progress=False)
    return path, system


def test_a_run_whose_data_were_objects_is_compared_with_a_named_reference_and_says_so(bare):
    path, system = bare
    fake = opening.open_images(str(path), num=30, system=system)
    reference = opening.first(opening.open_images("mnist:test"), 40)
    record = evaluation.compare(fake, reference, features.shipped("mnist-cnn"), ["kid"])
    protocol = record["protocol"]
    assert (protocol["step"], protocol["preset"], protocol["training_seed"]) == (2, "", 0)
    assert len(protocol["config_sha256"]) == 64 and record["metrics"]["kid"] > 0.1
    with pytest.raises(ValueError, match="nothing says how to open the data of here again.* give a REFERENCE, and"):
        opening.data_of(fake.run, "here")


def test_the_digest_of_settings_that_are_plain_data_ignores_what_training_does_not_depend_on(bare):
    stored = run_directory.load_config(bare[0])
    same = stored | {"seed": 5, "log_every": 7, "preset": "x", "images": {**stored["images"], "class_names": ["a"]}}
    assert evaluation.config_digest(same) == evaluation.config_digest(stored)
    for other in ({"num_steps": 3}, {"settings": {"b": 2}}, {"images": stored["images"] | {"data_fingerprint": "x"}}):
        assert evaluation.config_digest(stored | other) != evaluation.config_digest(stored)


def test_a_run_of_version_0_1_has_the_digest_of_the_same_settings_today(tmp_path):
    with tarfile.open(Path(__file__).parent / "golden" / "runs_of_0.1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    for name in ("gan", "vae", "classifier"):
        trained = loading.load(tmp_path / name)
        old = run_directory.load_config(tmp_path / name)
        assert "family" in old and evaluation.training_of(trained)["training_seed"] == old["seed"]
        config = dataclasses.replace(trained.config, seed=99, num_devices=3, log_every=1, eval_images=7)
        if name == "gan":  # written down anew, not read from the file
            kinds = {n: options.Optimizer(**old[n]) for n in ("generator", "discriminator")}
            settings = {
                n: v for n, v in old.items() if n not in ("family", "model", "preset", "images", "data", *kinds)
            }
            config = dcgan.Config(data=options.Data(**old["data"]), **kinds, **settings | {"seed": 3})
        assert evaluation.training_of(trained)["config_sha256"] == evaluation.config_digest(config)
        other = dataclasses.replace(config, batch_size=config.batch_size + 1)
        assert evaluation.config_digest(other) != evaluation.config_digest(config)


# What a system cannot do ----------------------------------------------------------------------------------------------


def test_a_missing_capability_is_one_sentence_that_names_what_there_is(bare):
    classifying = trained_of(system_of(classify=lambda variables, images: images[:, 0, :3, 0]))
    with pytest.raises(MissingCapability, match="needs a system that can draw images; mine .* it can classify images"):
        opening.draw(classifying, "a run")
    drawing = trained_of(system_of(draw=grey))
    with pytest.raises(MissingCapability, match="--classifier there needs a system that can classify images; .* draw"):
        of_runs.confidence_of_drawn(drawing, drawing, "there")
    with pytest.raises(MissingCapability, match="tell real from fake images; mine .* it can draw images"):
        of_runs.discriminator_gap(drawing, None, None)
    with pytest.raises(ValueError, match="mine measures nothing by itself; give a REFERENCE"):
        of_runs.measured(drawing, "a run")
    with pytest.raises(MissingCapability, match=f"--backbone {bare[0]} needs a system that can classify images"):
        evaluation.open_backbone(str(bare[0]), (28, 28, 1), system=bare[1])
    unnamed = dataclasses.replace(bare[1], classify=lambda variables, images: images[:, 0, :3, 0])
    with pytest.raises(ValueError, match=r"classifies, but its system \(mine\) names no backbone for features"):
        evaluation.open_backbone(str(bare[0]), (28, 28, 1), system=unnamed)


def test_a_run_by_itself_does_what_its_system_can_and_else_says_what_to_give(tmp_path, capsys):
    with tarfile.open(Path(__file__).parent / "golden" / "runs_of_0.1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    for arguments, message in [
        (["gan"], "gan draws images, and measures nothing by itself: give a REFERENCE, or --metrics"),
        (["gan", "--samples", "3"], "--samples is for a run that measures a bound, and at least 1; got 3"),
        (["vae", "--samples", "0"], "--samples is for a run that measures a bound, and at least 1; got 0"),
        (
            ["classifier", "--samples", "3"],
            "--samples is for systems with the setting eval_samples, and classifier has",
        ),
        (
            ["classifier", "mnist:test"],
            "needs a system that can draw images; classifier has no 'draw', it can classify",
        ),
        (
            ["gan", "mnist:test", "--num-images", 5, "--backbone", tmp_path / "gan"],
            "needs a system that can classify images; DCGAN has no",
        ),
    ]:
        run, *rest = arguments
        assert call("evaluate", tmp_path / run, *rest) == 2, arguments
        assert message in capsys.readouterr().err, arguments


def test_only_what_can_be_decoded_or_reconstructed_gets_a_picture_of_it():
    codes = system_of(draw=grey, decode=lambda variables, z: z, latents=lambda key, n: jnp.zeros((n, 3), jnp.int32))
    assert pictures._latents(trained_of(codes)) == []
    assert pictures._latents(trained_of(system_of(draw=grey))) == []
    held_out = data.from_arrays("held out", data.mnist("test").fetch(np.arange(5))["image"])
    assert pictures.reconstructions(trained_of(system_of(draw=grey)), held_out) == []
    mirror = system_of(reconstruct=lambda variables, batch: batch["image"][:, :, ::-1])
    ((title, _, picture, _),) = pictures.reconstructions(trained_of(mirror), held_out)
    first = np.where(data.mnist("test").fetch(np.arange(1))["image"][0, :, :, 0] > 127, 255, 0)
    assert title == "Reconstructions"
    scale = (picture.shape[0] - 6) // 56
    left = picture[2 : 2 + 28 * scale : scale, 2 : 2 + 28 * scale : scale, 0]
    assert np.array_equal(np.where(left > 127, 255, 0), first)


def test_names_of_families_are_the_systems_own():
    package = Path(jaxgen.__file__).parent
    files = [*package.glob("evaluation/*.py"), *package.glob("report/*.py"), package / "commands" / "evaluate.py"]
    text = "".join(file.read_text() for file in files)
    assert len(files) >= 9
    assert not [name for name in ("GAN(", "VAE", "Classifier", "isinstance(config", ".family") if name in text]


def test_each_metric_has_a_name_and_says_how_it_is_read():
    real = comparison.Seen(*(np.random.RandomState(i).randn(40, 4).astype(np.float32) for i in range(2)))
    for metric in comparison.METRICS.values():
        values = metric(real, real, jax.random.key(0)).values
        assert set(values) <= set(evaluation_page.MEANINGS)


@pytest.mark.slow
def test_what_a_run_makes_of_its_test_sources_is_compared_with_its_test_images(tmp_path, capsys):
    config = dataclasses.replace(edsr.TINY, data=options.Data("emoji", image_size=32), num_steps=1)
    experiment.train(config, str(tmp_path / "run"), progress=False)
    trained = loading.load(tmp_path / "run")
    side = opening.open_images(str(tmp_path / "run"), num=20)
    test = config.wrap(config.open("test"), "test")
    batch = test.prepare(test.fetch(np.arange(20)), jax.random.key(0))  # spoilt alike whatever the key
    expected = np.asarray(trained.translate(batch, jax.random.key(0)))
    found = np.asarray(side.dataset.prepare(side.dataset.fetch(np.arange(20)), jax.random.key(0))["image"])
    np.testing.assert_allclose(found, expected, atol=1.01 / 127.5)
    assert opening.open_images(str(tmp_path / "run")).dataset.num_examples == 440
    assert call("evaluate", tmp_path / "run", "--metrics", "fid", "--no-pictures", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["metrics"]["fid"] > 0 and record["protocol"]["sources"] == "of the test split of the run's own data"
