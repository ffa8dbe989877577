"""What a training of a preset runs on its devices: the programs themselves, with the shapes of what they take.

The train step is what the loop dispatches: of a set that comes with the package many steps, with the set on the
devices; of others one step on a batch that comes from the host.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgen import arithmetic, building, data, description, options, sharding, state_sharding, watching
from jaxgen.loop import dispatch, first_batch
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset

KINDS = {"train": "the train step", "pictures": "the pictures of samples", "evaluation": "a batch of the evaluation"}
"""What is compiled, and what it is called."""


class Program(NamedTuple):
    """One program, not compiled.

    Attributes:
      run: of `jax.jit`.
      arguments: shapes of what it takes.
      groups: of each argument, what its memory counts as.
      operations: of its convolutions and products of matrices as they are traced, over all devices; of the train step
        in one step.
    """

    run: Any
    arguments: tuple[Any, ...]
    groups: tuple[str, ...]
    operations: int


class Parts(NamedTuple):
    """A system with what its data look like.

    Attributes:
      system: to be trained.
      dataset: that comes with the package, or one black example in the place of data that are not there.
      example: shapes of a batch.
      state_rule: where the state lies.
    """

    system: System
    dataset: data.Dataset
    example: dict[str, jax.ShapeDtypeStruct]
    state_rule: state_sharding.Rule = state_sharding.replicated


def parts_of(
    config: options.Run, preset: Preset, image_shape: tuple[int, int, int] | None, num_classes: int | None
) -> Parts:
    """The system of a configuration, without data of the user's.

    Args:
      config: its settings.
      preset: whose settings they are.
      image_shape, num_classes: of other data than the preset's.

    Raises:
      ValueError: for data whose shape only they know; for settings that do not fit together.
    """
    options.check(config)
    if config.data.name in description.BUILT_IN and image_shape is None and num_classes is None:
        dataset = config.open("train")
        spec = Spec.of(dataset)
    else:
        spec = description.spec_of(config, preset, image_shape, num_classes)
        seen = description.spec_of_data(config, preset, image_shape, num_classes)
        # As files are read: bytes, which the step itself turns into numbers.
        dataset = config.wrap(description.stand_in(seen, dtype=np.uint8), "train")
        dataset = dataclasses.replace(dataset, arrays=None)
    system = building.build_system(config, spec)
    return Parts(system, dataset, spec.example(system.images_per_step), config.state_rule)


def program(kind: str, parts: Parts, mesh: Mesh) -> Program | None:
    """One of `KINDS` for the devices of a mesh; None where the system has nothing of the kind.

    Raises:
      ValueError: for a batch that the devices cannot share.
    """
    return {"train": _train, "pictures": _pictures, "evaluation": _evaluation}[kind](parts, mesh)


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _rows_of(dataset: data.Dataset, num: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of raw rows, as they come from the host."""
    raw = dataset.fetch(np.zeros(1, np.int32))
    return {name: jax.ShapeDtypeStruct((num, *np.shape(x)[1:]), np.asarray(x).dtype) for name, x in raw.items()}


def _train(parts: Parts, mesh: Mesh) -> Program:
    system, dataset = parts.system, parts.dataset
    num = system.images_per_step
    sharding.check_divisible(num, mesh.size)
    step, state, key = first_batch.traced_once(system.train_step), system.shapes, _key()
    metrics = jax.eval_shape(step, state, parts.example, key)[1]
    tally = jax.eval_shape(lambda: dispatch.empty_tally(list(metrics)))
    if dataset.arrays is None:
        arguments: tuple[Any, ...] = (state, tally, _rows_of(dataset, num), key)
        groups: tuple[str, ...] = ("state", "batch", "batch", "batch")
    else:
        example = data.batch_rows(dataset, 0, batch_size=2, seed=0)
        indices = jax.ShapeDtypeStruct((dispatch.MAX_STEPS_PER_DISPATCH, num, *example.shape[1:]), np.int32)
        arrays = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in dataset.arrays.items()}
        arguments = (state, tally, indices, key, jax.ShapeDtypeStruct((), np.int32), arrays)
        groups = ("state", "batch", "batch", "batch", "batch", "data")
    operations = arithmetic.operations(system.train_step, state, parts.example, key)
    run = dispatch.program(step, dataset, mesh, state=state, state_rule=parts.state_rule)
    return Program(run, arguments, groups, operations)


def _pictures(parts: Parts, mesh: Mesh) -> Program | None:
    system, dataset = parts.system, parts.dataset
    views = system.views or watching.views_of(system, jax.random.key(0))
    if views is None:
        return None
    num = min(watching.SHOWN, dataset.num_examples) if dataset.arrays is not None else watching.SHOWN
    variables = jax.eval_shape(system.variables, system.shapes)
    batch = jax.eval_shape(dataset.prepare, _rows_of(dataset, num), _key())
    run = sharding.jit_global(views, mesh, batch_axes=(None, None))
    return Program(run, (variables, batch), ("variables", "batch"), arithmetic.operations(views, variables, batch))


def _evaluation(parts: Parts, mesh: Mesh) -> Program | None:
    system, dataset = parts.system, parts.dataset
    variables, key = jax.eval_shape(system.variables, system.shapes), _key()
    if system.measure is not None:
        num = sharding.divisible(watching.at_once(system.measure, dataset.image_shape), mesh.size)
        raw = _rows_of(dataset, num)
        run = watching.numbers_program(system.measure.of_batch, dataset, mesh)
        batch = jax.eval_shape(dataset.prepare, raw, key)
        operations = arithmetic.operations(system.measure.of_batch, variables, batch, key)
        return Program(run, (variables, raw, key), ("variables", "batch", "batch"), operations)
    if system.draw is None:
        return None
    draw = watching.batch_drawer(system, sharding.divisible(250, mesh.size))
    run = sharding.jit_global(draw, mesh, batch_axes=(None, None))
    return Program(run, (variables, key), ("variables", "batch"), arithmetic.operations(draw, variables, key))
