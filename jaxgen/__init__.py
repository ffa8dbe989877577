"""jaxgen: functional neural image generation in JAX. Functions in, function out.

import jaxgen
from jaxgen import data, gan, losses, models, vae       # train steps to import

jaxgen.train(system, dataset, "runs/mine", num_steps=1000)   # any system: ours, or a jaxgen.System of your own
run = jaxgen.load("runs/mine", system=system)                # ours need no system=
images = run.draw(key, 16)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` finds
    from jaxgen.experiment import train_system as train
    from jaxgen.loading import load
    from jaxgen.system import Measure, Spec, System

__version__ = "0.2.0"

_AT = {"System": "system", "Spec": "system", "Measure": "system", "load": "loading", "train": "experiment"}
_CALLED = {"train": "train_system"}
_MODULES = (
    *("classifier", "data", "degradations", "experiment", "gan", "gradients", "hierarchical_vae", "images", "loop"),
    *("losses", "metrics", "models", "network", "objective", "optim", "options", "sharding", "stability", "systems"),
    *("turns", "vae"),
)

__all__ = ["__version__", "Measure", "Spec", "System", "load", "train", *_MODULES]


def __getattr__(name: str) -> Any:
    """Loads a part when it is first asked for: `import jaxgen` alone costs nothing."""
    if name in _AT:
        return getattr(importlib.import_module(f"jaxgen.{_AT[name]}"), _CALLED.get(name, name))
    if name in _MODULES:
        return importlib.import_module(f"jaxgen.{name}")
    raise AttributeError(f"module 'jaxgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
