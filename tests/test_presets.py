"""Presets: every configuration survives JSON, and the command line shows what the tables hold."""

import dataclasses
import json
import re
import types
import typing

import pytest

from jaxgen import presets


def through_json(config: presets.Config) -> presets.Config:
    return presets.from_dict(json.loads(json.dumps(presets.to_dict(config, preset="x"))))


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_survives_json(name):
    config = presets.PRESETS[name].config
    assert through_json(config) == config
    assert presets.PRESETS[name].about and "\n" not in presets.PRESETS[name].about


def test_settings_survive_json_whatever_they_are():
    config = presets.Classifier(
        data=presets.Data(name="arrays", path="a.npz", value_range=(0.0, 1.0)),
        widths=(8,),
        num_devices=2,
        optimizer=presets.Optimizer(clip_norm=1.0, learning_rate=3e-4),
    )
    restored = through_json(config)
    assert restored == config and isinstance(restored.widths, tuple) and isinstance(restored.data.value_range, tuple)


def test_a_gan_stored_before_there_was_a_choice_of_update_rules_alternates():
    stored = presets.to_dict(presets.GAN(r1=2.0))
    del stored["update_rule"]
    assert presets.from_dict(stored) == presets.GAN(r1=2.0, update_rule="alternating")
    assert presets.added_since(stored, presets.GAN(r1=1.0)) == ("update_rule",)
    assert presets.added_since(stored, presets.GAN(update_rule="simultaneous")) == ()


def test_settings_of_another_version_are_named():
    stored = presets.to_dict(presets.GAN())
    with pytest.raises(ValueError, match=r"does not know the settings \['learned_prior'\] of GAN"):
        presets.from_dict(stored | {"learned_prior": True})
    with pytest.raises(ValueError, match=r"\['huge'\] of Optimizer"):
        presets.from_dict(stored | {"generator": {"huge": 1}})
    with pytest.raises(ValueError, match="no family 'Diffusion'"):
        presets.from_dict(stored | {"family": "Diffusion"})
    with pytest.raises(ValueError, match="no family"):
        presets.from_dict({"features": 4})


@pytest.mark.parametrize(
    "names, table",
    [
        (presets.LossName, presets.LOSSES),
        (presets.UpdateRuleName, presets.UPDATE_RULES),
        (presets.OptimizerName, presets.OPTIMIZERS),
        (presets.ScheduleName, presets.SCHEDULES),
        (presets.LikelihoodName, presets.LIKELIHOODS),
        (presets.BinarisationName, presets.BINARISATIONS),
        (presets.PrecisionName, presets.PRECISIONS),
        (presets.DatasetName, presets.DATASETS),
    ],
)
def test_the_choices_of_the_command_line_are_the_keys_of_the_table(names, table):
    assert typing.get_args(names) == tuple(table)


def test_what_may_change_exists_and_changes_no_number():
    known = {f.name for family in typing.get_args(presets.Config) for f in dataclasses.fields(family)} | {"preset"}
    assert set(presets.MAY_CHANGE) <= known
    constant = presets.GAN()
    assert "num_steps" in presets.may_change(constant)
    for schedule in ("linear", "cosine"):
        config = dataclasses.replace(constant, discriminator=presets.Optimizer(schedule=schedule))
        assert "num_steps" not in presets.may_change(config)


def test_a_name_without_anything_near_lists_what_there_is():
    with pytest.raises(ValueError, match=re.escape("there is no loss 'xyz'; there is: a, b")) as raised:
        presets.lookup({"a": 1, "b": 2}, "xyz", "loss")
    assert "did you mean" not in str(raised.value)
    with pytest.raises(ValueError, match=re.escape("did you mean 'fid'? There is: fid, kid")):
        presets.lookup({"fid": 1, "kid": 2}, "FID", "metric")


def test_settings_that_a_message_names_as_python_does_are_found_as_flags():
    gan = presets.GAN()
    assert presets.flags_named_in("pass value_range=(0, 1)", gan) == ["--data.value-range"]
    assert presets.flags_named_in("a smaller clip_norm may help", gan) == [
        "--generator.clip-norm",
        "--discriminator.clip-norm",
    ]
    for text in (
        "the name of a path",
        "--data.image-size",
        "penalty/gradient_penalty 3",
        "runs/seed_1",
        "eval_imagesx",
    ):
        assert presets.flags_named_in(text, gan) == []


def test_a_run_that_names_no_directory_shares_that_of_its_preset_only_if_it_could_be_resumed_there():
    def default(name, **changes):
        return presets.default_directory(name, dataclasses.replace(presets.PRESETS[name].config, **changes))

    for name in presets.PRESETS:
        assert default(name) == default(name, num_devices=2, log_every=7, keep_last=5) == f"runs/{name}"
    assert default("mnist-dcgan", num_steps=5) == "runs/mnist-dcgan-num-steps-5"
    assert default("emoji-dcgan-r1", num_steps=5) == "runs/emoji-dcgan-r1"  # no schedule: the preset goes on from there
    assert default("mnist-dcgan", seed=1, r1=0.5) == "runs/mnist-dcgan-seed-1-r1-0.5"
    assert default("emoji-dcgan-r1", generator=presets.Optimizer(learning_rate=1e-3)).startswith(
        "runs/emoji-dcgan-r1-generator.learning-rate-0.001-"
    )
    folders = [
        default("mnist-cnn", data=presets.Data("folder", path=path)) for path in ("a/b", "a-b", "a_b", "a b", "x" * 99)
    ]
    assert len(set(folders)) == 5 and max(map(len, folders)) < 80
    assert all(re.fullmatch(r"runs/[\w.-]+", folder) for folder in folders)


def test_every_setting_has_a_sentence():
    """What the command line shows is the string under each field."""
    from tyro._docstrings import get_field_docstring

    families = [*typing.get_args(presets.Config), presets.Data, presets.Optimizer]
    missing = [
        f"{family.__name__}.{field.name}"
        for family in families
        for field in dataclasses.fields(family)
        if not get_field_docstring(family, field.name, ())
    ]
    assert missing == []
    for family in families:
        for kind in typing.get_type_hints(family).values():
            assert not isinstance(kind, types.UnionType) or type(None) in typing.get_args(kind)
