"""Settings of data: which labels are taken, which images are held out, what is refused, and what may move."""

import dataclasses
import json
import os
import warnings

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen import building, configuration, data, evaluation, experiment, loop, options, run_directory
from jaxgen.loop import pictures as run_pictures
from jaxgen.system import Spec
from jaxgen.systems import cgan, classifier, dcgan, vae


def pictures(path, count, first=0):
    path.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        Image.fromarray(np.random.RandomState(i).randint(0, 256, (8, 8, 3), np.uint8)).save(path / f"{i:03d}.png")


def folder(path, **settings):
    return options.Data("folder", path=str(path), image_size=8, **settings)


def arrays(path, labels=None, shape=(6, 8, 8, 3), **settings):
    image = np.random.RandomState(0).randint(0, 256, shape, np.uint8)
    np.savez(path, image=image, **({} if labels is None else {"label": np.array(labels)}))
    return options.Data("arrays", path=str(path), **settings)


# Labels ---------------------------------------------------------------------------------------------------------------


def test_pictures_beside_subfolders_are_taken_without_labels_unless_labels_are_asked_for(tmp_path):
    pictures(tmp_path, 20)
    pictures(tmp_path / "album", 20, 20)
    with pytest.warns(UserWarning, match="lie beside 1 subfolders .* all are taken, without labels"):
        dataset = folder(tmp_path).open("train")
    assert dataset.num_examples == 38 and dataset.class_names == ()
    for module in (cgan, classifier):
        with pytest.raises(ValueError, match="and these data have none"):
            module.build(module.TINY, Spec.of(dataset))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert folder(tmp_path, labelled=False).open("train").num_examples == 38
    with pytest.raises(ValueError, match="lie beside 1 subfolders.*labelled=False"):
        folder(tmp_path, labelled=True).open("train")


def test_class_folders_are_labels_by_default_and_none_if_asked(tmp_path):
    for i, name in enumerate("ab"):
        pictures(tmp_path / name, 20, 20 * i)
    assert folder(tmp_path).open("train").class_names == ("a", "b")
    assert folder(tmp_path, labelled=False).open("train").class_names == ()
    pictures(tmp_path / "a" / "flat", 20)
    with pytest.raises(ValueError, match="--data.labelled is True, but folder:.* has no labels: put images into one"):
        folder(tmp_path / "a" / "flat", labelled=True).open("train")


def test_the_held_out_labels_of_arrays_mean_the_classes_of_the_training(tmp_path):
    test = arrays(tmp_path / "test.npz", ["dog", "dog", "eel", "eel", "dog", "eel"]).path
    train = arrays(tmp_path / "train.npz", ["cat", "dog", "eel", "eel", "dog", "cat"], test_path=test)
    assert train.open("train").class_names == train.open("test").class_names == ("cat", "dog", "eel")
    assert train.open("test").arrays["label"].tolist() == [1, 1, 2, 2, 1, 2]
    test = arrays(tmp_path / "test.npz", [2, 3, 2, 3, 2, 3]).path
    train = arrays(tmp_path / "train.npz", [1, 2, 3, 1, 2, 3], test_path=test)
    assert train.open("test").arrays["label"].tolist() == [1, 2, 1, 2, 1, 2]
    os.unlink(train.path)  # evaluation may have no training images
    assert train.open("test").num_examples == 6
    assert dataclasses.replace(train, labelled=False).open("test").class_names == ()


# Images that are held out ---------------------------------------------------------------------------------------------


def test_folders_with_train_and_test_subfolders_of_classes_are_both_splits(tmp_path):
    for i, part in enumerate(("train/cat", "train/dog", "test/dog", "val/dog")):
        pictures(tmp_path / part, 4, 10 * i)
    config = folder(tmp_path, validation_share=0.0)
    train, test = config.open("train"), config.open("test")
    assert config.has_test_split and train.num_examples == 8 and test.num_examples == 4
    assert train.class_names == test.class_names == ("cat", "dog") and set(test.arrays["label"]) == {1}
    assert test.name.endswith("/test")
    with_own = dataclasses.replace(config, test_path=str(tmp_path / "val"))
    assert with_own.open("test").name.endswith("/val")
    for part in ("test", "val"):
        (tmp_path / part).rename(tmp_path.parent / f"{part}_away")
    assert not config.has_test_split
    assert folder(tmp_path, validation_share=0.25).open("train").num_examples == 6  # of those for training


# What would be ignored ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config, flag",
    [
        (options.Data("folder", path="a", value_range=(0, 1)), "--data.value-range is (0, 1)"),
        (options.Data("folder", path="a", image_key="x"), "--data.image-key is x"),
        (options.Data("folder", path="a", binarise="dynamic"), "--data.binarise is dynamic"),
        (options.Data("arrays", path="a", channels=1), "--data.channels is 1"),
        (options.Data("arrays", path="a", validation_share=0.5), "--data.validation-share is 0.5"),
        (options.Data("arrays", path="a", max_broken_share=0.5), "--data.max-broken-share is 0.5"),
        (options.Data("hub", path="a", test_path="b"), "--data.test-path is b"),
        (options.Data("emoji", binarise="dynamic"), "--data.binarise is dynamic"),
        (options.Data("mnist", drawn_by="twemoji"), "--data.drawn-by is twemoji"),
        (options.Data("mnist", labelled=False), "--data.labelled is False"),
        (options.Data("mnist", background="red"), "--data.background is red"),
    ],
)
def test_a_setting_that_means_nothing_for_the_data_is_refused_but_of_a_run_that_goes_on(tmp_path, config, flag):
    with pytest.raises(ValueError) as raised:
        options.check_data(config, {})
    assert flag in str(raised.value) and "which means nothing for --data.name" in str(raised.value)
    options.check_data(config, dataclasses.asdict(config))
    options.check_data(config, json.loads(json.dumps(dataclasses.asdict(config))))
    options.check_data(options.Data("emoji", image_size=32, drawn_by="twemoji"), {})
    with pytest.raises(ValueError, match="which means nothing"):
        experiment.train(
            dcgan.Config(data=dataclasses.replace(config, name="hub", channels=1, drawn_by="twemoji")), "x"
        )


def test_every_setting_of_data_is_of_some_set_or_of_all():
    fields = {field.name for field in dataclasses.fields(options.Data)}
    assert set(options.OF_DATA) == fields - {"name", "image_size", "num_examples"}
    assert all(set(kinds) < set(options.DATASETS) for kinds in options.OF_DATA.values())


def test_a_size_that_a_preset_brings_is_told_to_mean_nothing_for_arrays(tmp_path):
    config = arrays(tmp_path / "a.npz", image_size=32)
    with pytest.warns(
        UserWarning, match="--data.image-size 32 .* does not apply to array files: .* are 8x8, and taken"
    ):
        assert config.open("train").image_shape == (8, 8, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (None, 8):
            dataclasses.replace(config, image_size=size).open("train")


def test_images_with_opacity_from_the_command_line_are_composited(tmp_path):
    config = arrays(tmp_path / "a.npz", shape=(6, 8, 8, 4), background="black")
    black = config.open("train")
    assert black.image_shape == (8, 8, 3)
    assert (
        black.arrays["image"].mean()
        < dataclasses.replace(config, background="white").open("train").arrays["image"].mean()
    )


# What may move --------------------------------------------------------------------------------------------------------


def stored_in(directory, config, dataset, held_out=None):
    """A run directory as training makes and resumes it; what `moved` allows may be other."""
    stored = run_directory.load_config(directory) if directory.exists() else {}
    run_directory.create(
        directory,
        configuration.to_dict(config, dataset=dataset, held_out=held_out),
        may_change=(*configuration.may_change(config), *configuration.moved(stored, config, held_out)),
    )
    return run_directory.load_config(directory)


def test_a_run_goes_on_with_its_images_at_another_place_and_not_with_others(tmp_path):
    pictures(tmp_path / "old", 30)
    config = dcgan.Config(data=folder(tmp_path / "old"))
    stored_in(tmp_path / "run", config, config.data.open("train"))
    (tmp_path / "old").rename(tmp_path / "new")
    moved = dataclasses.replace(config, data=folder(tmp_path / "new"))
    assert stored_in(tmp_path / "run", moved, moved.data.open("train"))["data"]["path"] == str(tmp_path / "new")
    pictures(tmp_path / "other", 31)
    other = dataclasses.replace(config, data=folder(tmp_path / "other"))
    with pytest.raises(run_directory.ConfigMismatch, match="data_fingerprint"):
        stored_in(tmp_path / "run", other, other.data.open("train"))


def test_held_out_images_may_move_and_not_be_others(tmp_path):
    given = arrays(tmp_path / "train.npz", test_path=arrays(tmp_path / "test.npz", shape=(9, 8, 8, 3)).path)
    config = vae.Config(data=given)
    stored_in(tmp_path / "run", config, given.open("train"), given.open("test"))
    os.rename(tmp_path / "test.npz", tmp_path / "moved.npz")
    moved = dataclasses.replace(given, test_path=str(tmp_path / "moved.npz"))
    stored_in(tmp_path / "run", dataclasses.replace(config, data=moved), given.open("train"), moved.open("test"))
    other = dataclasses.replace(given, test_path=arrays(tmp_path / "other.npz", shape=(7, 8, 8, 3)).path)
    with pytest.warns(UserWarning, match="held-out images have changed"):
        with pytest.raises(run_directory.ConfigMismatch, match="data.test_path: .*moved.npz there, .*other.npz asked"):
            stored_in(
                tmp_path / "run", dataclasses.replace(config, data=other), given.open("train"), other.open("test")
            )


def test_a_run_from_before_labels_could_be_left_out_is_the_same_run():
    config = dcgan.Config(data=options.Data("folder", path="a"))
    stored = configuration.to_dict(config)
    del stored["data"]["labelled"]
    assert configuration.from_dict(stored) == config
    assert configuration.added_since(stored, config) == ("data.labelled",)
    asked = dataclasses.replace(config, data=dataclasses.replace(config.data, labelled=False))
    assert configuration.added_since(stored, asked) == ()
    before = {name: value for name, value in dataclasses.asdict(config).items() if name != "data"}
    before["data"] = {n: v for n, v in dataclasses.asdict(config.data).items() if n != "labelled"}
    assert evaluation.config_digest(config) == evaluation.config_digest({"system": "dcgan", **before})
    assert evaluation.config_digest(asked) != evaluation.config_digest(config)


def test_flags_of_one_word_are_named_where_a_message_gives_their_value():
    config = dcgan.Config()
    assert options.flags_named_in("or pass labelled=False to take everything", config) == ["--data.labelled"]
    assert options.flags_named_in("the images are not labelled", config) == []


# Before a run directory exists ----------------------------------------------------------------------------------------


@flax.struct.dataclass
class Counted:
    step: jax.Array


def train(directory, dataset, **settings):
    """A run that ends before its first step: nothing is compiled."""

    def stop(dataset, *arguments):
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_pictures, "describe_data", stop)
        return loop.train(
            lambda state, batch, key: (state.replace(step=state.step + 1), {"loss": batch["image"].mean()}),
            Counted(jnp.zeros((), jnp.int32)),
            dataset,
            directory=directory,
            config={},
            num_steps=1,
            batch_size=8,
            num_devices=1,
            key=jax.random.key(0),
            **settings,
        )


def test_a_first_batch_in_zero_to_one_is_warned_of_and_dark_and_bright_pictures_are_not(tmp_path):
    ramp = np.linspace(0, 1, 16 * 64, dtype=np.float32).reshape(16, 8, 8, 1)
    with pytest.warns(UserWarning, match="small"):
        wrong = data.from_arrays("small", ramp)
    halves = data.from_arrays("halves", (ramp * 255).astype(np.uint8), prepare=lambda raw, key: {"image": ramp[:8]})
    for dataset in (wrong, halves):
        with pytest.warns(UserWarning, match=f"{dataset.name}: the first batch has values from .* none below 0"):
            with pytest.raises(InterruptedError):
                train(tmp_path / dataset.name, dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, image in (("dark", ramp / 9 - 1), ("bright", (200 + ramp * 55).astype(np.uint8))):
            with pytest.raises(InterruptedError):
                train(tmp_path / name, data.from_arrays(name, image))


def test_pictures_that_cannot_be_shown_leave_no_directory(tmp_path):
    dataset = data.from_arrays("opaque", np.random.RandomState(0).randint(0, 256, (16, 8, 8, 4), np.uint8))
    with pytest.raises(ValueError, match="samples: images of 4 channels, .* cannot be shown"):
        train(tmp_path / "run", dataset, sample=lambda state: {"samples": jnp.zeros((2, 8, 8, 4))})
    assert not (tmp_path / "run").exists()
    with pytest.raises(InterruptedError):  # a sample that shows something else of them
        train(tmp_path / "run", dataset, sample=lambda state: {"samples": jnp.zeros((2, 8, 8, 3))})
    system = building.build_system(dcgan.TINY, Spec.of_images((32, 32, 4)))
    images = data.from_arrays("opaque", np.random.RandomState(0).randint(0, 256, (16, 32, 32, 4), np.uint8))
    with pytest.raises(ValueError, match="samples: images of 4 channels, .* cannot be shown"):
        experiment.train_system(system, images, tmp_path / "system", num_steps=1, num_devices=1)
    assert not (tmp_path / "system").exists()


def test_channels_first_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"channels first: give x.transpose\(0, 2, 3, 1\)"):
        data.from_arrays("first", np.zeros((16, 3, 8, 8), np.uint8))
    last = data.from_arrays("own", np.random.RandomState(0).randint(0, 256, (16, 8, 8, 3), np.uint8))
    first = dataclasses.replace(
        last,
        image_shape=(3, 8, 8),
        prepare=lambda raw, key: {"image": last.prepare(raw)["image"].transpose(0, 3, 1, 2)},
    )
    with pytest.raises(ValueError, match="channels first"):
        train(tmp_path / "run", first)
    assert not (tmp_path / "run").exists()


def test_a_number_of_examples_is_of_the_training_side_alone():
    few, whole = options.Data("mnist", num_examples=100), options.Data("mnist")
    assert (few.open("train").num_examples, few.open("test").num_examples) == (100, 10_000)
    np.testing.assert_array_equal(few.open("train").arrays["image"], whole.open("train").arrays["image"][::600])
    with pytest.raises(ValueError, match="1 to 60000 of them can be taken, not 60001"):
        dataclasses.replace(few, num_examples=60_001).open("train")
