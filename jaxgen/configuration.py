"""What a run stores of its settings, and how settings that were stored are read: RUN/config.json."""

import dataclasses
import re
import types
import typing
import warnings
import zlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from jaxgen import data, ranges, systems
from jaxgen.options import Run
from jaxgen.ranges import CountOrZero
from jaxgen.run_directory import flatten
from jaxgen.system import Spec

_BESIDE = ("preset", "system", "images", "frozen_sha256")  # what config.json holds beside the settings

MAY_CHANGE = (
    *("num_devices", "state", "remat"),  # where and how the same numbers are computed
    *("log_every", "sample_every", "evaluate_every", "checkpoint_every", "keep_last", "max_rollbacks"),
    *("preset", "eval_samples", "eval_metric", "eval_images"),
    *("images.batch", "images.class_names"),  # older runs lack them; the data's fingerprint tells other data
    "images.held_out_fingerprint",  # no number of the training depends on them
    "data.workers",  # which read the same batches
)
"""Settings that a resumed run may have other than it began with."""


def to_dict(
    config: Run, *, preset: str = "", dataset: data.Dataset | None = None, held_out: data.Dataset | None = None
) -> dict[str, Any]:
    """A configuration as plain data, for RUN/config.json, with the preset it began as and what the images were."""
    names = {"preset": preset, "system": systems.name_of(systems.module_of(config))}
    images = images_of(dataset, held_out) if dataset is not None else {}
    return names | dataclasses.asdict(config) | {"images": images}


def images_of(dataset: data.Dataset, held_out: data.Dataset | None = None) -> dict[str, Any]:
    """What a run stores of its data: enough to build its system without them, and to know them again."""
    found = {"class_names": list(dataset.class_names), "data_fingerprint": dataset.fingerprint}
    if held_out is not None:
        found["held_out_fingerprint"] = held_out.fingerprint
    return Spec.of(dataset).to_dict() | found


def moved(stored: Mapping[str, Any], config: Run, held_out: data.Dataset | None) -> tuple[str, ...]:
    """Where its data lie, of which a resumed run may say another place: that they are the same their fingerprint tells.

    Args:
      stored: what a RUN/config.json holds.
      config: what is asked now.
      held_out: the images that the training is evaluated on, if it is.

    Returns:
      Dotted names of settings.
    """
    before, now = stored.get("images", {}).get("held_out_fingerprint"), held_out and held_out.fingerprint
    if before and now and before != now:
        warnings.warn(
            "the held-out images have changed since this run began: its numbers from before and after do not compare",
            stacklevel=4,
        )
        return ("data.path", "data.target_path")
    if now and not before and stored.get("data", {}).get("test_path", config.data.test_path) != config.data.test_path:
        warnings.warn(
            "this run does not say what its held-out images were: whether those of --data.test-path are the same is "
            "unknown",
            stacklevel=4,
        )
    return ("data.path", "data.target_path", "data.test_path", "data.test_target_path")


def from_dict(stored: Mapping[str, Any], module: ModuleType | None = None) -> Run:
    """The configuration of a RUN/config.json.

    Args:
      stored: what the file holds.
      module: a system of a user's own, for a run of theirs.

    Raises:
      systems.NotInstalled: for a system of a user's own that is not given.
      ValueError: for a system or a setting that this version does not know.
    """
    stored = upgraded(stored)
    if "system" not in stored:
        raise ValueError("this run does not say of which system it is; jaxgen.load(..., system=...) reads it")
    if not isinstance(stored["system"], str):
        raise ValueError(f"its system is {stored['system']!r:.80}, which is no name; was it written by train?")
    found = systems.named(stored["system"], module)
    settings = {name: value for name, value in stored.items() if name not in _BESIDE}
    return _typed(_config_of(found), settings)


def _config_of(module):
    return type(next(iter(module.PRESETS.values())).config)


def upgraded(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration of an earlier version means today.

    Version 0.1 had three families; two of the GAN's networks are systems of their own now.
    """
    stored = dict(stored)
    family = stored.pop("family", None)
    if family == "GAN":
        stored["system"] = stored.pop("model", "dcgan")
        if stored["system"] == "article":  # it had no use for these
            for name in ("features", "discriminator_batch_norm"):
                stored.pop(name, None)
    elif family in ("VAE", "Classifier"):
        stored["system"] = family.lower()
    elif family is not None:
        stored["system"] = family
    return stored


def _typed(cls: type, stored: Mapping[str, Any]) -> Any:
    if not isinstance(stored, Mapping):
        raise ValueError(f"where the settings of a group, {cls.__name__}, should stand, there is {stored!r:.80}")
    kinds = typing.get_type_hints(cls)
    if unknown := set(stored) - set(kinds):
        raise ValueError(f"this version does not know the settings {sorted(unknown)} of {cls.__name__}")
    return cls(**{name: _value(kinds[name], value) for name, value in stored.items()})


def _value(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _typed(kind, value)
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    is_tuple = any(typing.get_origin(k) is tuple for k in kinds)
    return tuple(value) if is_tuple and isinstance(value, list) else value  # what else it is, `options.check` refuses


def spec_of(stored: Mapping[str, Any]) -> tuple[Spec, tuple[str, ...]]:
    """What the batches of a run hold, and the names of its classes, from its RUN/config.json.

    Raises:
      ValueError: where it does not say so.
    """
    shown = stored.get("images") or {}
    if not isinstance(shown, Mapping) or not {"image_shape", "num_classes"} <= set(shown):
        raise ValueError("it does not say what the images were; was it written by train?")
    names = shown.get("class_names") or ()
    wrong = not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names)
    wrong = wrong or bool(ranges.broken(CountOrZero, shown["num_classes"]))
    try:
        spec = Spec.from_dict(shown)
        wrong = wrong or len(spec.image_shape) != 3
        wrong = wrong or any(ranges.broken(CountOrZero, n) for s in spec.batch.values() for n in s.shape)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        wrong = True
    if wrong:
        raise ValueError("what it says of the images (images: batch, num_classes, class_names) is damaged")
    return spec, tuple(names) or tuple(map(str, range(min(spec.num_classes, 1_000_000))))


def added_since(stored: Mapping[str, Any], config: Run) -> tuple[str, ...]:
    """Settings that the version which stored a configuration did not know, and that still have the default they got.

    Args:
      stored: what a RUN/config.json holds.
      config: what is asked now.

    Returns:
      Dotted names that a resumed run need not have stored.

    Raises:
      ValueError: as `from_dict`.
    """
    module = systems.module_of(config)
    before, now = (flatten(dataclasses.asdict(c)) for c in (from_dict(stored, module), config))
    there = flatten(upgraded(stored))
    return tuple(name for name, value in now.items() if name not in there and before.get(name) == value)


def may_change(config: Run) -> tuple[str, ...]:
    """`MAY_CHANGE`, and num_steps where no schedule depends on it."""
    constant = all(o.schedule == "constant" for o in config.optimizers.values())
    return (*MAY_CHANGE, "num_steps") if constant else MAY_CHANGE


def default_directory(preset: str, config: Run, plain: Run) -> str:
    """Where a run goes that names no directory: runs/PRESET, with what a resumed run could not change in the name.

    So a short trial of a preset does not take the place of the preset itself.

    Args:
      preset: its name.
      config: what is asked.
      plain: the preset's own configuration.
    """
    usual, asked = (flatten(to_dict(c)) for c in (plain, config))
    fixed = {name: value for name, value in asked.items() if value != usual[name] and name not in may_change(config)}
    if not fixed:
        return f"runs/{preset}"
    text = "-".join(f"{name.replace('_', '-')}-{value}" for name, value in fixed.items())
    suffix = re.sub(r"[^\w.-]+", "-", text)
    if suffix != text or len(suffix) > 60:  # two settings must not share a directory
        suffix = f"{suffix[:50]}-{zlib.crc32(text.encode()):08x}"
    return f"runs/{preset}-{suffix}"
