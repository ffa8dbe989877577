"""Runs read back: their settings, one of their checkpoints, and what their system can do."""

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from jaxgen import buckets, checkpoint, compilation, configuration, run_directory
from jaxgen.building import build_system
from jaxgen.local_path import local
from jaxgen.options import Run
from jaxgen.system import CAPABILITIES, Spec, System


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run read back; its data need not be there.

    What its system can do are methods here, with the variables bound: `run.draw(key, 16)`, `run.decode(z)`,
    `run.reconstruct(batch)`; `run.can` names them. They are compiled at the first call for shapes, and can be called
    inside of `jax.jit` and `jax.grad`.

    Attributes:
      system: what it is a run of.
      state: of the checkpoint.
      record: of the checkpoint: step, metrics, ...
      stored: RUN/config.json.
      spec: of its batches.
      class_names: of its labels.
      config: its settings, where it was made from a preset.
    """

    system: System
    state: Any
    record: dict[str, Any]
    stored: dict[str, Any]
    spec: Spec
    class_names: tuple[str, ...] = ()
    config: Run | None = None

    @property
    def step(self) -> int:
        """Finished train steps."""
        return int(self.state.step)

    @property
    def can(self) -> tuple[str, ...]:
        """Its capabilities."""
        return self.system.can

    @functools.cached_property
    def variables(self) -> Any:
        """What capabilities take."""
        return self.system.variables(self.state)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of its data."""
        return self.spec.image_shape

    @functools.cached_property
    def _compiled(self) -> dict[str, Callable]:
        return {}

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("_") or name == "system":  # not there yet: a copy in the making
            raise AttributeError(name)
        if name not in CAPABILITIES and name != "latents":
            raise AttributeError(f"a run has no {name!r}; it can {', '.join(self.can)}")
        function = self.system.latents if name == "latents" else self.system.need(name, f"run.{name}")
        if function is None:
            raise AttributeError("this system has no latents")
        if name == "latents":
            return functools.partial(_told, self.system, name, function)
        if name not in self._compiled:
            self._compiled[name] = compilation.jit(function, **_static(name, function))
        compiled = functools.partial(_compiled_unless_traced, self._compiled[name], function, self.variables)
        return functools.partial(_told, self.system, name, compiled) if name in ("draw", "decode") else compiled


def _static(name: str, function: Callable) -> dict[str, Any]:
    """Which arguments of a capability are no arrays, as `jax.jit` takes it."""
    if name == "draw":
        return {"static_argnums": (2,)}
    return {"static_argnames": ("direction",)} if "direction" in inspect.signature(function).parameters else {}


def _compiled_unless_traced(compiled: Callable, function: Callable, *arguments: Any, **choices: Any) -> Any:
    """Inside the caller's own jit or gradient the function itself: options of a compiler are of whole programs only."""
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((arguments, choices)))
    return (function if traced else compiled)(*arguments, **choices)


def _told(system: System, name: str, function: Callable, *arguments: Any, **choices: Any) -> jax.Array:
    """The function's result for choices that the system has for it."""
    check_choices(system, choices)
    for choice in choices:
        of_latents = choice in system.latent_choices
        if of_latents if name == "decode" else name == "latents" and not of_latents:
            whose = "latents, which decode is given: tell latents" if of_latents else "images: tell decode"
            raise ValueError(f"{choice} of {system.name} is of its {whose}, or draw")
    return function(*arguments, **choices)


def load(directory: str | Path, *, step: int | None = None, system: System | ModuleType | None = None) -> Trained:
    """Reads a run's configuration and one of its checkpoints, on one device: `jaxgen.load`.

    Args:
      directory: of the run, or its address in a bucket (`gs://...`, `s3://...`).
      step: of the checkpoint; the newest good one by default.
      system: of a run that is not of one of ours: the `System` it was trained with, or the module that builds it
        (`systems.from_file`). Nothing that a run names is imported.

    Raises:
      FileNotFoundError, run_directory.RunDirectoryError: if the directory is no run or holds no checkpoint.
      checkpoint.CheckpointError: if the checkpoint is damaged or of another model.
      systems.NotInstalled: for a run of a user's own system that is not given.
      ValueError: for settings of another version.
    """
    if isinstance(directory, str) and buckets.is_bucket(directory):
        try:
            with buckets.reading(directory, step=step, newest_only=True) as copy:
                return load(copy, step=step, system=system)
        except checkpoint.CheckpointDamaged:
            if step is not None:
                raise
        with buckets.reading(directory) as copy:  # an older one may be good
            return load(copy, system=system)
    stored = run_directory.load_config(directory)
    config = None
    try:
        spec, class_names = configuration.spec_of(stored)
        if not isinstance(system, System):
            config = configuration.from_dict(stored, system)
            system = build_system(config, spec)
    except ValueError as error:
        error.add_note(f"The run is {directory}; its settings are in {directory}/{run_directory.CONFIG}")
        raise
    if system.frozen is not None and stored.get("frozen_sha256") != digest_of(system.frozen):
        raise ValueError(f"{directory} was trained with other frozen arrays (a perceptual network, perhaps) than these")
    shapes = checkpoint.without_frozen(system.shapes)
    state, record = checkpoint.restore(local(directory, "the run") / "checkpoints", shapes, step=step)
    state = checkpoint.with_frozen(state, system.frozen)
    return Trained(system, state, record, stored, spec, class_names, config)


def check_choices(system: System, choices: Mapping[str, Any]) -> None:
    """Raises a ValueError for what a system cannot be told when it draws, or a number outside of its range."""
    if unknown := set(choices) - set(system.choices):
        able = f"only {', '.join(system.choices)}" if system.choices else "nothing of what to draw"
        raise ValueError(f"{system.name} cannot be told {', '.join(sorted(unknown))}: it is told {able}")
    for name, value in choices.items():
        allowed = system.choices[name]
        if isinstance(value, (type(None), jax.core.Tracer)):
            continue
        if name == "label":
            check_label(system, value)
        elif isinstance(allowed, int) and not (isinstance(value, int) and 0 <= value < allowed):
            raise ValueError(f"{name} of {system.name} is a whole number from 0 to {allowed - 1}, not {value!r}")
        elif isinstance(allowed, tuple) and not np.all((allowed[0] <= np.asarray(value)) & (value <= allowed[1])):
            raise ValueError(f"{name} of {system.name} is a number from {allowed[0]:g} to {allowed[1]:g}, not {value}")


def check_label(system: System, label: Sequence[int] | np.ndarray) -> None:
    """Raises a ValueError for labels that a system cannot be told."""
    num = system.choices.get("label", 0)
    if not num:
        raise ValueError(f"{system.name} draws images of no chosen class: it was trained without labels")
    if not np.issubdtype(np.asarray(label).dtype, np.integer):
        raise ValueError(f"a label is a whole number from 0 to {num - 1}, not {label!r}")
    if wrong := [value for value in np.ravel(label).tolist() if not 0 <= value < num]:
        raise ValueError(f"there is no label {wrong[0]}; {system.name} has the labels 0 to {num - 1}")


def digest_of(tree: Any) -> str:
    """A digest of arrays, their names and shapes."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()
