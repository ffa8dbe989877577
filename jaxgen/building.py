"""Settings become a system, and open its data."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import jax

from jaxgen import data, options, rematerialisation, sharding, systems
from jaxgen.metrics import comparison
from jaxgen.options import Run
from jaxgen.system import Spec, System
from jaxgen.watching import Experiment, assemble

FEW_IMAGES = 100  # held out, below which a number from them is warned of


def build(config: Run, *, stored: Mapping[str, Any] | None = None) -> Experiment:
    """Turns a configuration into a system, and opens its data.

    `sample` and `evaluate` share their work over the devices that the configuration names.

    Args:
      config: of the run.
      stored: what the RUN/config.json of a run that goes on holds: settings of its data that mean nothing, and were not
        always refused, it keeps.

    Raises:
      ValueError: for settings that do not fit together, naming them; for more devices than there are.
      FileNotFoundError and others: what opening the data raises.
    """
    options.check(config)
    options.check_data(config.data, (stored or {}).get("data", {}))
    mesh = sharding.make_mesh(config.num_devices)
    dataset = config.open("train")
    system = build_system(config, Spec.of(dataset))
    watched = config.eval_metric != "none"
    if watched:
        system.need("draw", f"--eval-metric {config.eval_metric}")
        if not config.data.has_test_split:
            raise ValueError(f"eval_metric {config.eval_metric} needs a test split, and these data have none")
    needed = (system.measure is not None or watched) and config.data.has_test_split
    held_out = config.open("test") if needed else None
    if held_out is not None:
        warn_of_few(held_out, config.data)
    metrics = {config.eval_metric: comparison.METRICS[config.eval_metric]} if watched else {}
    return assemble(
        system,
        dataset,
        held_out,
        key=jax.random.key(config.seed),
        mesh=mesh,
        metrics=metrics,
        num_images=config.eval_images,
    )


def warn_of_few(held_out: data.Dataset, config: options.Data) -> None:
    """Warns of a test split with few images."""
    is_share = config.name == "folder" and options.test_folder(config) is None
    if held_out.num_examples < FEW_IMAGES:
        warnings.warn(
            f"{held_out.name}: only {held_out.num_examples} held-out images for evaluation; numbers from so few vary "
            "by chance, and so does the choice of the best checkpoint by them"
            + ("; a larger --data.validation-share gives more" if is_share else ""),
            stacklevel=3,
        )


def build_system(config: Run, spec: Spec) -> System:
    """The system of a configuration, for batches of a spec: no data are needed."""
    options.check(dataclasses.replace(config, seed=0))  # which is of a training, and was not limited always
    module = systems.module_of(config)
    own = module not in systems.MODULES
    try:
        system = module.build(config, spec)
    except Exception as error:
        if own:
            error.add_note(f"in build of {systems.name_of(module)}")
        raise
    if not isinstance(system, System):
        raise TypeError(f"build of {systems.name_of(module)} must return a jaxgen.System, and returned {system!r:.80}")
    step = rematerialisation.rematerialised(system.train_step, config.remat)
    return dataclasses.replace(system, train_step=step)
