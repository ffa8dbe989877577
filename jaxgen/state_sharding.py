"""Where the arrays of a state lie: a copy on every device, or a part of each on every device.

A rule says of an array's shape which dimension the devices share:

    rule(shape, num_devices) -> dimension, or None: every device has the whole array

`replicated` and `by_largest_dimension` are such rules. A state whose parameters, moments and averages are divided takes
as many times less memory as there are devices. While a step runs, each network's parameters are gathered where they are
used, and their gradients divided again (`gathered`), so that every device still works on its own part of the batch.
Left to itself, XLA would divide the channels of the activations instead, and each device would have the whole batch.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgen.arguments import check_key

Rule = Callable[[tuple[int, ...], int], int | None]
"""(shape, num_devices) -> the dimension that the devices share, or None."""

LEAST = 2**14  # numbers in an array, below which dividing it saves nothing worth a message


def replicated(shape: tuple[int, ...], num_devices: int) -> None:
    """The rule by which every device has every array."""
    del shape, num_devices


def by_largest_dimension(shape: tuple[int, ...], num_devices: int) -> int | None:
    """The rule by which the largest dimension that the number of devices divides is shared, of large arrays.

    Args:
      shape: of an array. Below `LEAST` numbers, 2^14, it is not divided.
      num_devices: that share it.

    Returns:
      The dimension; of equal ones the last. None where there is none, or one device.
    """
    if num_devices == 1 or math.prod(shape) < LEAST:
        return None
    sizes = [(size, dimension) for dimension, size in enumerate(shape) if size and size % num_devices == 0]
    return max(sizes)[1] if sizes else None


def places(mesh: Mesh, state: Any, rule: Rule) -> Any:
    """Where a rule puts the arrays of a state.

    Args:
      mesh: of one axis, from `sharding.make_mesh()`.
      state: arrays or their shapes. Random keys, and what training never changes (`state.frozen`), are replicated.
      rule: such as `by_largest_dimension`.

    Returns:
      The same tree of `NamedSharding`s.
    """

    def place(path, leaf):
        frozen = bool(path) and getattr(path[0], "name", None) == "frozen"
        whole = frozen or not hasattr(leaf, "dtype") or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return NamedSharding(mesh, _spec(None if whole else rule(tuple(leaf.shape), mesh.size), mesh.axis_names[0]))

    return jax.tree_util.tree_map_with_path(place, state)


def shapes(mesh: Mesh, state: Any, rule: Rule) -> Any:
    """Shapes, dtypes and places of a state, without memory on any device: a template to restore."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place, weak_type=x.weak_type),
        jax.eval_shape(lambda tree: tree, state),
        places(mesh, state, rule),
    )


def put(mesh: Mesh, state: Any, rule: Rule) -> Any:
    """A state where a rule puts it. The arrays are new: donating one does not free those of `state`."""
    return jax.jit(functools.partial(jax.tree.map, jnp.copy), out_shardings=places(mesh, state, rule))(state)


def is_put(mesh: Mesh, state: Any, rule: Rule) -> bool:
    """Whether a state lies where a rule puts it."""
    found = jax.tree.map(lambda x, place: getattr(x, "sharding", None) == place, state, places(mesh, state, rule))
    return all(jax.tree.leaves(found))


def made(make: Callable[[jax.Array], Any], key: jax.Array, mesh: Mesh, rule: Rule) -> Any:
    """`make(key)` where a rule puts it; no device ever holds the whole of it.

    Args:
      make: of a state, such as `System.init`.
      key: of its random numbers.
      mesh: from `sharding.make_mesh()`.
      rule: of its places.

    Raises:
      TypeError: for what is no key, such as a seed.
    """
    check_key(key)
    if isinstance(jnp.zeros(()), jax.core.Tracer):  # its shapes are asked for
        return make(key)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    options = {"xla_backend_optimization_level": 0} if on_cpu else None  # as in `network.compiled_init`
    made_there = jax.jit(make, out_shardings=places(mesh, jax.eval_shape(make, key), rule), compiler_options=options)
    return made_there(key)


def parts(mesh: Mesh, state: Any, rule: Rule) -> Any:
    """Shapes and dtypes of what each device holds of a state: `memory.of` them is the memory that it takes there."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(place.shard_shape(tuple(x.shape)), x.dtype),
        state,
        places(mesh, state, rule),
    )


# Inside of a step -----------------------------------------------------------------------------------------------------

_rule: contextvars.ContextVar[Rule] = contextvars.ContextVar("rule", default=replicated)


@contextlib.contextmanager
def dividing(rule: Rule) -> Iterator[None]:
    """While a step is traced, its state is divided by a rule: `gathered` gathers."""
    token = _rule.set(rule)
    try:
        yield
    finally:
        _rule.reset(token)


def gathered(tree: Any) -> Any:
    """Asks, in a step whose state is divided, for whole arrays on every device; their gradients are divided again.

    Elsewhere arrays are left as they are. The values are the same in any case.
    """
    rule, mesh = _rule.get(), jax.sharding.get_abstract_mesh()
    if rule is replicated or len(mesh.auto_axes) != 1:
        return tree
    (axis,) = mesh.auto_axes

    def gather(x):
        dimension = rule(tuple(jnp.shape(x)), mesh.size)
        if dimension is None:
            return x
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return lax.with_sharding_constraint(x, PartitionSpec())
        return _gather(x, dimension, axis)

    return jax.tree.map(gather, tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x, dimension, axis):
    return lax.with_sharding_constraint(x, PartitionSpec())


def _gather_backwards(dimension, axis, _, gradient):
    return (lax.with_sharding_constraint(gradient, _spec(dimension, axis)),)


_gather.defvjp(lambda x, dimension, axis: (_gather(x, dimension, axis), None), _gather_backwards)


def _spec(dimension, axis):
    return PartitionSpec() if dimension is None else PartitionSpec(*[None] * dimension, axis)
