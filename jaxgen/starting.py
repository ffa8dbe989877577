"""A new run that begins with the networks of another one."""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from jaxgen import network, systems
from jaxgen.loading import load
from jaxgen.system import System


def started_from(directory: str | Path, system: System, module: ModuleType) -> System:
    """The system, whose first state has the networks of another run."""
    other = load(directory, system=None if module in systems.MODULES else module)
    with_networks_of(system.shapes, other.state, str(directory))  # what does not fit is told here, and not in a trace
    return dataclasses.replace(system, init=lambda key: with_networks_of(system.init(key), other.state, str(directory)))


def with_networks_of(fresh: Any, other: Any, whose: str) -> Any:
    """A state before its first step, with the networks and the average of another one.

    Parameters and what modules keep (batch statistics, spectral vectors) are taken. Optimisers, what terms and
    augmentation keep, and the step are those of the fresh state.

    Args:
      fresh: what `init` returns: a dataclass whose fields are `network.Network`s, perhaps with `ema`.
      other: a state of such networks.
      whose: it is, for errors.

    Raises:
      ValueError: where there is no such field, or arrays have other names or shapes.
    """
    taken = {}
    for field in dataclasses.fields(fresh) if dataclasses.is_dataclass(fresh) else ():
        new, given = getattr(fresh, field.name), getattr(other, field.name, None)
        if isinstance(new, network.Network) and isinstance(given, network.Network):
            _check_alike(new.variables, given.variables, field.name, whose)
            taken[field.name] = dataclasses.replace(new, params=given.params, model_state=given.model_state)
        elif field.name == "ema" and given is not None:
            _check_alike(new, given, field.name, whose)
            taken["ema"] = given
    if not taken:
        raise ValueError(
            f"nothing can be taken from {whose}: its state holds no network.Network that this one has, too"
        )
    return fresh.replace(**taken)


def _check_alike(new: Any, given: Any, what: str, whose: str) -> None:
    here, there = (
        {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (new, given)
    )
    if differing := [path for path in {**here, **there} if here.get(path) != there.get(path)]:
        path = differing[0]
        raise ValueError(
            f"the {what} of {whose} is another network: {len(differing)} of {len(here)} arrays differ, such as {path} "
            f"({list(here[path]) if path in here else 'not'} here, {list(there[path]) if path in there else 'not'} "
            "there); give the settings of its networks"
        )
