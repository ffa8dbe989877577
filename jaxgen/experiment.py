"""Training an experiment: settings and data become a system, which is trained in a run directory.

`train` is what the command does, `train_system` trains a system of your own on data of your own. `building` builds what
is trained, `loading` reads a run back, `drawing` draws new images of it.
"""

import contextlib
import functools
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen import (
    buckets,
    checkpoint,
    configuration,
    data,
    hosts,
    loop,
    memory,
    options,
    run_directory,
    sharding,
    state_sharding,
    systems,
)
from jaxgen.building import build
from jaxgen.loading import digest_of
from jaxgen.local_path import local
from jaxgen.loop import agreement, first_batch
from jaxgen.metrics import comparison
from jaxgen.options import Run
from jaxgen.starting import started_from
from jaxgen.system import System
from jaxgen.watching import Experiment, assemble


@buckets.in_local_copy
def train(
    config: Run, directory: str, *, preset: str = "", start_from: str | Path | None = None, progress: bool = True
) -> loop.Result:
    """Builds an experiment and trains it in a run directory, from its newest checkpoint if it holds one.

    Args:
      config: of the run.
      directory: of the run, or its address in a bucket (`gs://...`, `s3://...`).
      preset: whose configuration it was, for the report.
      start_from: the directory of another run, whose networks a new run begins with, see `with_networks_of`.
      progress: shows it on the console.
    """
    local(directory, "the run directory")  # refused before the data are opened
    with _naming_flags(config):
        return _train(config, directory, preset, start_from, progress)


@contextlib.contextmanager
def _naming_flags(config: Run) -> Iterator[None]:
    """Notes beside an error which flags stand for the settings that the library names in it."""
    try:
        yield
    except run_directory.RunDirectoryError:
        raise  # names settings as config.json does
    except Exception as error:
        if flags := options.flags_named_in(str(error), config):
            error.add_note(f"On the command line: {', '.join(flags)}")
        raise


def _train(config: Run, directory: str, preset: str, start_from: str | Path | None, progress: bool) -> loop.Result:
    if hosts.count() > 1:  # now, since hosts that open unlike data could wait for each other there
        agreement.check(agreement.of_settings(configuration.to_dict(config, preset=preset), directory))
    sharding.check_divisible(config.batch_size, sharding.make_mesh(config.num_devices).size)
    stored = _stored_in(directory)
    built = build(config, stored=stored)
    if config.batch_size > built.dataset.num_examples and not (local(directory) / run_directory.CONFIG).exists():
        raise ValueError(
            f"--batch-size {config.batch_size:,} is more than the {built.dataset.num_examples:,} images of "
            f"{built.dataset.name}: a step would see some twice; give at most that"
        )
    steps = checkpoint.all_steps(local(directory) / "checkpoints") if stored else []
    if start_from is not None and not steps:
        built = built._replace(system=started_from(start_from, built.system, systems.module_of(config)))
    if steps and steps[-1] > config.num_steps:
        raise ValueError(
            f"{directory} is at step {steps[-1]:,} already, beyond --num-steps {config.num_steps:,}; to go on with it "
            f"give --num-steps {stored.get('num_steps', steps[-1])}, as it had, or more"
        )
    if message := _of_other_length(stored, config):
        warnings.warn(message, stacklevel=3)
    return _in_loop(
        built,
        directory,
        config=configuration.to_dict(config, preset=preset, dataset=built.dataset, held_out=built.held_out),
        may_change=(
            *configuration.may_change(config),
            "num_steps",
            *_added_since(stored, config),
            *configuration.moved(stored, config, built.held_out),
        ),
        num_steps=config.num_steps,
        seed=config.seed,
        num_devices=config.num_devices,
        state_rule=config.state_rule,
        log_every=config.log_every,
        sample_every=config.sample_every,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        keep_last=config.keep_last,
        max_rollbacks=config.max_rollbacks,
        progress=progress,
        has_test_split=config.data.has_test_split,
    )


def _stored_in(directory: str) -> dict[str, Any]:
    """What a run that goes on has stored; {} where no run can be read, which is told of later."""
    with contextlib.suppress(OSError, ValueError):
        return run_directory.load_config(directory)
    return {}


def _added_since(stored: Mapping[str, Any], config: Run) -> tuple[str, ...]:
    """Settings that a run of an older version lacks."""
    with contextlib.suppress(ValueError):
        return configuration.added_since(stored, config) if stored else ()
    return ()


def _of_other_length(stored: Mapping[str, Any], config: Run) -> str:
    """What another number of steps does to a run that goes on, in words; "" where it only ends elsewhere."""
    before, now = stored.get("num_steps"), config.num_steps
    scheduled = {name: o for name, o in config.optimizers.items() if o.schedule != "constant"}
    if not isinstance(before, int) or before == now or not scheduled:
        return ""
    kinds = ", ".join(f"{name}'s is {o.schedule}" for name, o in scheduled.items())
    return (
        f"this run had {before:,} steps and now has {now:,}. The learning rate follows a schedule over all of them "
        f"({kinds}): from here on it is that of a training of {now:,} steps, {'higher' if now > before else 'lower'} "
        "than it was, so the whole differs from one that had this length from its beginning"
    )


@buckets.in_local_copy
def train_system(
    system: System,
    dataset: data.Dataset,
    directory: str | Path,
    *,
    num_steps: int,
    held_out: data.Dataset | None = None,
    metrics: Sequence[str] = (),
    num_images: int = 2000,
    settings: Mapping[str, Any] | None = None,
    may_change: Sequence[str] = (),
    seed: int = 0,
    num_devices: int | None = None,
    state_rule: state_sharding.Rule = state_sharding.replicated,
    log_every: int = 100,
    sample_every: int = 1000,
    evaluate_every: int = 0,
    checkpoint_every: int = 1000,
    keep_last: int = 3,
    max_rollbacks: int = 0,
    progress: bool = True,
) -> loop.Result:
    """Trains a system in a run directory, from its newest checkpoint if it holds one: `jaxgen.train`.

    Args:
      system: ours or your own.
      dataset: what it is trained on.
      directory: the run directory, or its address in a bucket; the same call resumes it, to the bit.
      num_steps: where to stop, counted from the run's beginning.
      held_out: images for `system.measure` and `metrics`.
      metrics: names such as "fid", of what the system draws, against the held-out images.
      num_images: how many are drawn for that.
      settings: plain data that the run stores, and whose change it refuses when it is resumed.
      may_change: names of those that may change.
      seed: of the initialisation, the noise and the order of the data.
      state_rule: where the state lies, as for `loop.train`; so are those that follow.
      num_devices, log_every, sample_every, evaluate_every, checkpoint_every, keep_last, max_rollbacks, progress: there.

    Returns:
      How the run ended.

    Raises:
      MissingCapability: for metrics of a system that does not draw.
      ValueError and others: as `loop.train`.
    """
    local(directory, "the run directory")
    first_batch.check_dataset(dataset)
    if metrics:
        system.need("draw", "metrics")
        if held_out is None:
            raise ValueError(f"metrics compare what is drawn with held-out images; give held_out for {metrics[0]}")
    table = {name: options.lookup(comparison.METRICS, name, "metric") for name in metrics}
    mesh = sharding.make_mesh(num_devices)
    key = jax.random.key(seed)
    built = assemble(system, dataset, held_out, key=key, mesh=mesh, metrics=table, num_images=num_images)
    stored = {"settings": dict(settings or {}), "seed": seed, "num_steps": num_steps}
    result = _in_loop(
        built,
        directory,
        config=stored | {"images": configuration.images_of(dataset)},
        may_change=(*configuration.MAY_CHANGE, "num_steps", *(f"settings.{name}" for name in may_change)),
        num_steps=num_steps,
        seed=seed,
        num_devices=num_devices,
        state_rule=state_rule,
        log_every=log_every,
        sample_every=sample_every,
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
        keep_last=keep_last,
        max_rollbacks=max_rollbacks,
        progress=progress,
    )
    if progress and result.stopped_by is None and jax.process_index() == 0:
        print(f"finished at step {result.step:,}; look at {buckets.shown(directory)}/report.html", file=sys.stderr)
    return result


def _in_loop(
    built: Experiment, directory: str | Path, *, seed: int, has_test_split: bool = False, **settings: Any
) -> loop.Result:
    system, key, rule = built.system, jax.random.key(seed), settings["state_rule"]
    mesh = sharding.make_mesh(settings["num_devices"])
    _check_memory(system, built.dataset, mesh, rule)
    if system.frozen is not None:
        settings["config"] = dict(settings["config"]) | {"frozen_sha256": digest_of(system.frozen)}
    return loop.train(
        system.train_step,
        system.init(key) if rule is state_sharding.replicated else functools.partial(_made, system, key, mesh, rule),
        built.dataset,
        directory=directory,
        upgrade=configuration.upgraded,
        facts=facts_of(system, has_test_split=has_test_split) | {"parameters": system.parameters},
        batch_size=system.images_per_step,
        key=jax.random.fold_in(key, 3),
        seed=seed,
        sample=built.sample,
        evaluate=built.evaluate,
        best_metric=built.best_metric if built.evaluate else None,
        best_mode=built.best_mode,
        **settings,
    )


def _made(system: System, key: jax.Array, mesh: jax.sharding.Mesh, rule: state_sharding.Rule) -> Any:
    """A fresh state of which no device holds the whole; frozen arrays are no constants of the program that makes it."""
    state = state_sharding.made(lambda key: checkpoint.without_frozen(system.init(key)), key, mesh, rule)
    return state if system.frozen is None else state.replace(frozen=sharding.replicate(mesh, system.frozen))


def _check_memory(system: System, dataset: data.Dataset, mesh: jax.sharding.Mesh, rule: state_sharding.Rule) -> None:
    """Refuses a state or a batch that cannot fit, before any of it is made; activations come on top of both.

    Raises:
      MemoryError: with what is needed, and of what.
    """
    devices, state = list(mesh.devices.flat), memory.of(state_sharding.parts(mesh, system.shapes, rule))
    image = int(np.prod([int(n) for n in dataset.image_shape], dtype=object)) * 4
    batch = system.images_per_step * image
    if state > batch:
        parameters = ", ".join(f"{name} {number:,}" for name, number in system.parameters.items())
        what, advice = f"the state of {system.name}", f"its parameters are {parameters}; make it narrower"
        if len(devices) > 1 and rule is state_sharding.replicated:
            advice += f", or divide it over the {len(devices)} devices (--state sharded)"
    else:
        what = f"a step on {system.images_per_step:,} images, of {memory.in_words(image)} each,"
        advice = "take fewer, with a smaller batch_size"
    memory.check(state + batch // len(devices), memory.free(devices), what, advice)


def facts_of(system: System, *, has_test_split: bool = False) -> dict[str, Any]:
    """What RUN/system.json says, for the report and for programs that need not build the system: all but parameters.

    Args:
      system: of the run.
      has_test_split: whether evaluation can open images that were held out, from the run's settings.
    """
    return {
        "system": system.name,
        "can": list(system.can),
        "choices": dict(system.choices),
        "measures": system.measure is not None,
        "has_test_split": has_test_split,
    }
