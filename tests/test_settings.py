"""Settings: every configuration survives JSON, and the command line shows what the tables hold."""

import dataclasses
import json
import re
import types
import typing

import pytest

from jaxgen import configuration, options, systems
from jaxgen.systems import classifier, dcgan


def through_json(config: options.Run) -> options.Run:
    return configuration.from_dict(json.loads(json.dumps(configuration.to_dict(config, preset="x"))))


@pytest.mark.parametrize("name", systems.PRESETS)
def test_every_preset_survives_json(name):
    config = systems.PRESETS[name].config
    assert through_json(config) == config
    assert systems.PRESETS[name].about and "\n" not in systems.PRESETS[name].about


def test_settings_survive_json_whatever_they_are():
    config = classifier.Config(
        data=options.Data(name="arrays", path="a.npz", value_range=(0.0, 1.0)),
        widths=(8,),
        num_devices=2,
        optimizer=options.Optimizer(clip_norm=1.0, learning_rate=3e-4),
    )
    restored = through_json(config)
    assert restored == config and isinstance(restored.widths, tuple) and isinstance(restored.data.value_range, tuple)


def test_a_gan_stored_before_there_was_a_choice_of_update_rules_alternates():
    stored = configuration.to_dict(dcgan.Config(r1=2.0))
    del stored["update_rule"]
    assert configuration.from_dict(stored) == dcgan.Config(r1=2.0, update_rule="alternating")
    assert configuration.added_since(stored, dcgan.Config(r1=1.0)) == ("update_rule",)
    assert configuration.added_since(stored, dcgan.Config(update_rule="simultaneous")) == ()


def test_settings_of_another_version_are_named():
    stored = configuration.to_dict(dcgan.Config())
    with pytest.raises(ValueError, match=r"does not know the settings \['learned_prior'\] of Config"):
        configuration.from_dict(stored | {"learned_prior": True})
    with pytest.raises(ValueError, match=r"\['huge'\] of Optimizer"):
        configuration.from_dict(stored | {"generator": {"huge": 1}})
    with pytest.raises(ValueError, match="no system 'diffusion'; .*dcgan"):
        configuration.from_dict(stored | {"system": "diffusion"})
    with pytest.raises(ValueError, match="does not say of which system it is"):
        configuration.from_dict({"features": 4})
    with pytest.raises(systems.NotInstalled, match="a run of mine.py, .*--system mine.py"):
        configuration.from_dict(stored | {"system": "mine.py"})


def test_families_of_version_0_1_are_systems_of_today():
    stored = configuration.to_dict(dcgan.Config(features=8))
    del stored["system"]
    older = stored | {"family": "GAN", "model": "dcgan"}
    assert configuration.from_dict(older) == dcgan.Config(features=8)
    assert configuration.upgraded(older) == configuration.to_dict(dcgan.Config(features=8))
    article = configuration.from_dict(older | {"model": "article"})
    assert systems.name_of(systems.module_of(article)) == "article" and article.latent_dim == 100


@pytest.mark.parametrize(
    "group, field, table",
    [
        (dcgan.Config, "loss", options.LOSSES),
        (dcgan.Config, "update_rule", options.UPDATE_RULES),
        (dcgan.Config, "precision", options.PRECISIONS),
        (options.Optimizer, "name", options.OPTIMIZERS),
        (options.Optimizer, "schedule", options.SCHEDULES),
        (options.Data, "binarise", options.BINARISATIONS),
        (options.Data, "name", options.DATASETS),
    ],
)
def test_the_choices_of_the_command_line_are_the_keys_of_the_table(group, field, table):
    assert typing.get_args(typing.get_type_hints(group)[field]) == tuple(table)


def test_what_may_change_exists_and_changes_no_number():
    known = {f.name for module in systems.MODULES for f in dataclasses.fields(module.TINY)} | {"preset"}
    known |= {f"data.{f.name}" for f in dataclasses.fields(options.Data)}
    assert {name for name in configuration.MAY_CHANGE if not name.startswith("images.")} <= known
    constant = dcgan.Config()
    assert "num_steps" in configuration.may_change(constant)
    for schedule in ("linear", "cosine"):
        config = dataclasses.replace(constant, discriminator=options.Optimizer(schedule=schedule))
        assert "num_steps" not in configuration.may_change(config)


def test_a_name_without_anything_near_lists_what_there_is():
    with pytest.raises(ValueError, match=re.escape("there is no loss 'xyz'; there is: a, b")) as raised:
        options.lookup({"a": 1, "b": 2}, "xyz", "loss")
    assert "did you mean" not in str(raised.value)
    with pytest.raises(ValueError, match=re.escape("did you mean 'fid'? There is: fid, kid")):
        options.lookup({"fid": 1, "kid": 2}, "FID", "metric")


def test_settings_that_a_message_names_as_python_does_are_found_as_flags():
    gan = dcgan.Config()
    assert options.flags_named_in("pass value_range=(0, 1)", gan) == ["--data.value-range"]
    assert options.flags_named_in("a smaller clip_norm may help", gan) == [
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
        assert options.flags_named_in(text, gan) == []


def test_a_run_that_names_no_directory_shares_that_of_its_preset_only_if_it_could_be_resumed_there():
    def default(name, **changes):
        plain = systems.PRESETS[name].config
        return configuration.default_directory(name, dataclasses.replace(plain, **changes), plain)

    for name in systems.PRESETS:
        assert default(name) == default(name, num_devices=2, log_every=7, keep_last=5) == f"runs/{name}"
    assert default("mnist-dcgan", num_steps=5) == "runs/mnist-dcgan-num-steps-5"
    assert default("emoji-dcgan-r1", num_steps=5) == "runs/emoji-dcgan-r1"  # no schedule: the preset goes on from there
    assert default("mnist-dcgan", seed=1, r1=0.5) == "runs/mnist-dcgan-seed-1-r1-0.5"
    assert default("emoji-dcgan-r1", generator=options.Optimizer(learning_rate=1e-3)).startswith(
        "runs/emoji-dcgan-r1-generator.learning-rate-0.001-"
    )
    folders = [
        default("mnist-cnn", data=options.Data("folder", path=path)) for path in ("a/b", "a-b", "a_b", "a b", "x" * 99)
    ]
    assert len(set(folders)) == 5 and max(map(len, folders)) < 80
    assert all(re.fullmatch(r"runs/[\w.-]+", folder) for folder in folders)


def test_every_setting_has_a_sentence():
    """What the command line shows is the string under each field."""
    from tyro._docstrings import get_field_docstring

    families = [*(type(module.TINY) for module in systems.MODULES), options.Data, options.Optimizer]
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
