"""Experiments: settings and data become a system, which is trained in a run directory, and read back.

Commands and notebooks are these functions: `train`, `load`, `generate`; `build` and `build_system` are the parts.
`train_system` trains a system of your own, on data of your own.
"""

import contextlib
import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from jaxgen import (
    checkpoint,
    compilation,
    configuration,
    data,
    loop,
    memory,
    network,
    options,
    run_directory,
    sharding,
    systems,
)
from jaxgen.local_path import local
from jaxgen.metrics import comparison
from jaxgen.options import Run
from jaxgen.system import CAPABILITIES, Spec, System
from jaxgen.watching import Experiment, assemble, batch_drawer

FEW_IMAGES = 100  # held out, below which a number from them is warned of

# Building -------------------------------------------------------------------------------------------------------------


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
    dataset = config.data.open("train")
    system = build_system(config, Spec.of(dataset))
    watched = config.eval_metric != "none"
    if watched:
        system.need("draw", f"--eval-metric {config.eval_metric}")
        if not config.data.has_test_split:
            raise ValueError(f"eval_metric {config.eval_metric} needs a test split, and these data have none")
    needed = (system.measure is not None or watched) and config.data.has_test_split
    held_out = config.data.open("test") if needed else None
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
    if held_out.num_examples < FEW_IMAGES:
        warnings.warn(
            f"{held_out.name}: only {held_out.num_examples} held-out images for evaluation; numbers from so few vary "
            "by chance, and so does the choice of the best checkpoint by them"
            + ("; a larger --data.validation-share gives more" if config.name == "folder" else ""),
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
    return system


# Training -------------------------------------------------------------------------------------------------------------


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


def train(
    config: Run, directory: str, *, preset: str = "", start_from: str | Path | None = None, progress: bool = True
) -> loop.Result:
    """Builds an experiment and trains it in a run directory, from its newest checkpoint if it holds one.

    Args:
      config: of the run.
      directory: of the run.
      preset: whose configuration it was, for the report.
      start_from: the directory of another run, whose networks a new run begins with, see `with_networks_of`.
      progress: shows it on the console.
    """
    local(directory, "the run directory")  # refused before the data are opened
    with _naming_flags(config):
        return _train(config, directory, preset, start_from, progress)


def _train(config: Run, directory: str, preset: str, start_from: str | Path | None, progress: bool) -> loop.Result:
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
        built = built._replace(system=_started_from(start_from, built.system, systems.module_of(config)))
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
        log_every=config.log_every,
        sample_every=config.sample_every,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        keep_last=config.keep_last,
        max_rollbacks=config.max_rollbacks,
        progress=progress,
        has_test_split=config.data.has_test_split,
    )


def _started_from(directory: str | Path, system: System, module: ModuleType) -> System:
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
            taken[field.name] = new.replace(params=given.params, model_state=given.model_state)
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


def _check_memory(system: System, dataset: data.Dataset, num_devices: int | None) -> None:
    """Refuses a state or a batch that cannot fit, before any of it is made; activations come on top of both.

    Raises:
      MemoryError: with what is needed, and of what.
    """
    mesh = sharding.make_mesh(num_devices)
    devices, state = list(mesh.devices.flat), memory.of(system.shapes)
    image = int(np.prod([int(n) for n in dataset.image_shape], dtype=object)) * 4
    batch = system.images_per_step * image
    if state > batch:
        parameters = ", ".join(f"{name} {number:,}" for name, number in system.parameters.items())
        what, advice = f"the state of {system.name}", f"its parameters are {parameters}; make it narrower"
    else:
        what = f"a step on {system.images_per_step:,} images, of {memory.in_words(image)} each,"
        advice = "take fewer, with a smaller batch_size"
    memory.check(state + batch // len(devices), memory.free(devices), what, advice)


def _in_loop(
    built: Experiment, directory: str | Path, *, seed: int, has_test_split: bool = False, **settings: Any
) -> loop.Result:
    system, key = built.system, jax.random.key(seed)
    _check_memory(system, built.dataset, settings["num_devices"])
    if system.frozen is not None:
        settings["config"] = dict(settings["config"]) | {"frozen_sha256": digest_of(system.frozen)}
    return loop.train(
        system.train_step,
        system.init(key),
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
      directory: the run directory; the same call resumes it, to the bit.
      num_steps: where to stop, counted from the run's beginning.
      held_out: images for `system.measure` and `metrics`.
      metrics: names such as "fid", of what the system draws, against the held-out images.
      num_images: how many are drawn for that.
      settings: plain data that the run stores, and whose change it refuses when it is resumed.
      may_change: names of those that may change.
      seed: of the initialisation, the noise and the order of the data.
      num_devices, log_every, sample_every, evaluate_every, checkpoint_every, keep_last, max_rollbacks, progress: as for
        `loop.train`.

    Returns:
      How the run ended.

    Raises:
      MissingCapability: for metrics of a system that does not draw.
      ValueError and others: as `loop.train`.
    """
    local(directory, "the run directory")
    if metrics:
        system.need("draw", "metrics")
        if held_out is None:
            raise ValueError(f"metrics compare what is drawn with held-out images; give held_out for {metrics[0]}")
    table = {name: options.lookup(comparison.METRICS, name, "metric") for name in metrics}
    mesh = sharding.make_mesh(num_devices)
    key = jax.random.key(seed)
    built = assemble(system, dataset, held_out, key=key, mesh=mesh, metrics=table, num_images=num_images)
    stored = {"settings": dict(settings or {}), "seed": seed, "num_steps": num_steps}
    return _in_loop(
        built,
        directory,
        config=stored | {"images": configuration.images_of(dataset)},
        may_change=(*configuration.MAY_CHANGE, "num_steps", *(f"settings.{name}" for name in may_change)),
        num_steps=num_steps,
        seed=seed,
        num_devices=num_devices,
        log_every=log_every,
        sample_every=sample_every,
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
        keep_last=keep_last,
        max_rollbacks=max_rollbacks,
        progress=progress,
    )


def digest_of(tree: Any) -> str:
    """A digest of arrays, their names and shapes."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


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


# Runs read back -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run read back; its data need not be there.

    What its system can do are methods here, with the variables bound: `run.draw(key, 16)`, `run.decode(z)`,
    `run.reconstruct(batch)`; `run.can` names them. They are compiled at the first call for shapes.

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
            return function
        if name not in self._compiled:
            self._compiled[name] = compilation.jit(function, static_argnums=(2,) if name == "draw" else ())
        compiled = functools.partial(self._compiled[name], self.variables)
        return functools.partial(_told, self.system, compiled) if name in ("draw", "decode") else compiled


def _told(system: System, function: Callable, *arguments: Any, **choices: Any) -> jax.Array:
    """The function's result for choices that the system has."""
    check_choices(system, choices)
    return function(*arguments, **choices)


def load(directory: str | Path, *, step: int | None = None, system: System | ModuleType | None = None) -> Trained:
    """Reads a run's configuration and one of its checkpoints, on one device: `jaxgen.load`.

    Args:
      directory: of the run.
      step: of the checkpoint; the newest good one by default.
      system: of a run that is not of one of ours: the `System` it was trained with, or the module that builds it
        (`systems.from_file`). Nothing that a run names is imported.

    Raises:
      FileNotFoundError, run_directory.RunDirectoryError: if the directory is no run or holds no checkpoint.
      checkpoint.CheckpointError: if the checkpoint is damaged or of another model.
      systems.NotInstalled: for a run of a user's own system that is not given.
      ValueError: for settings of another version.
    """
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


# Drawing --------------------------------------------------------------------------------------------------------------


def generate(
    trained: Trained,
    num: int,
    key: jax.Array,
    *,
    batch_size: int = 500,
    mesh: jax.sharding.Mesh | None = None,
    label: Sequence[int] | None = None,
    **choices: Any,
) -> np.ndarray:
    """Draws new images with the variables of a run, batch by batch with one compilation.

    Args:
      trained: from `load`.
      num: how many images.
      key: of the latents.
      batch_size: images at once, over all devices.
      mesh: whose devices share each batch, from `sharding.make_mesh`; all devices by default.
      label: of a class-conditional run: what to draw, taken in turns; all classes at random by default.
      choices: what else the run's system can be told (`System.choices`), such as `truncation=0.7`.

    Returns:
      [num, H, W, C] float32 in [-1, 1], on the host. The same key draws the same images, on any number of devices up to
      rounding.

    Raises:
      MissingCapability: for a run that draws nothing.
      ValueError: for num below 1, a label that there is not, or of a run that is told none; for other choices that the
        system does not have, or outside of their ranges.
    """
    batches = generate_batches(trained, num, key, batch_size=batch_size, mesh=mesh, label=label, **choices)
    needed = 8 * num * int(np.prod(trained.image_shape))  # float32, and joined
    memory.check(needed, memory.free_of_machine(), f"drawing {num:,} images", "draw fewer at once")
    return np.concatenate([batch["image"] for batch in batches])


def generate_batches(
    trained: Trained,
    num: int,
    key: jax.Array,
    *,
    batch_size: int = 500,
    mesh: jax.sharding.Mesh | None = None,
    label: Sequence[int] | None = None,
    **choices: Any,
) -> Iterator[dict[str, np.ndarray]]:
    """What `generate` draws, a batch of up to batch_size at a time, with its labels where it has any."""
    system = trained.system
    draw = system.need("draw", "drawing images")
    if num < 1:
        raise ValueError(f"the number of images must be at least 1, not {num}")
    if label is not None:
        check_label(system, label)
    check_choices(system, choices)
    mesh = sharding.make_mesh() if mesh is None else mesh
    size = min(num, batch_size)
    # Whole shares for all devices. What is drawn beyond the size is left out, and changes none of the others.
    rows = sharding.divisible(size, mesh.size)
    if label is None:
        draw = sharding.jit_global(batch_drawer(system, rows, **choices), mesh, batch_axes=(None, None))
    else:
        draw = sharding.jit_global(
            lambda variables, key, label: batch_drawer(system, rows, label=label, **choices)(variables, key),
            mesh,
            batch_axes=(None, None, None),
        )
    variables = sharding.as_replicated(mesh, trained.variables)

    def batches():
        for i in range(-(-num // size)):
            asked = ()
            if label is not None:
                asked = (np.resize(np.asarray(label, np.int32), num + rows)[i * size : i * size + rows],)
            drawn = jax.device_get(draw(variables, jax.random.fold_in(key, i), *asked))
            yield {name: value[: min(size, num - i * size)] for name, value in drawn.items()}

    return batches()


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
        elif isinstance(allowed, tuple) and not allowed[0] <= value <= allowed[1]:
            raise ValueError(f"{name} of {system.name} is a number from {allowed[0]:g} to {allowed[1]:g}, not {value}")


def check_label(system: System, label: Sequence[int]) -> None:
    """Raises a ValueError for labels that a system cannot be told."""
    num = system.choices.get("label", 0)
    if not num:
        raise ValueError(f"{system.name} draws images of no chosen class: it was trained without labels")
    if not np.issubdtype(np.asarray(label).dtype, np.integer):
        raise ValueError(f"a label is a whole number from 0 to {num - 1}, not {label!r}")
    if wrong := [value for value in np.ravel(label).tolist() if not 0 <= value < num]:
        raise ValueError(f"there is no label {wrong[0]}; {system.name} has the labels 0 to {num - 1}")
