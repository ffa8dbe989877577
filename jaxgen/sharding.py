"""Many devices: the only file that knows about them.

A train step written for the global view runs on a mesh by `jit_step`: the batch is sharded along its first axis over
the mesh axis "data", the state is replicated, or divided too (`state_sharding`), and means and batch normalisation are
over the global batch because the program does not know that it was divided. One device or eight, the numbers are the
same up to the order of summation.

`pmap_step` runs a train step made with an `axis_name`, in the per-device view, for those who work that way.

Several hosts: every process calls `hosts.initialize_hosts()` first, then the same script; `make_mesh()` spans all of
them and `shard_batch` assembles the global batch from each host's own rows.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxgen import compilation, state_sharding
from jaxgen.arguments import check_key
from jaxgen.data import check
from jaxgen.models import onednn

AXIS = "data"


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A one-dimensional mesh with the axis "data" over the first `num_devices` devices of all hosts (all by default).

    Raises:
      ValueError: if there are not so many devices, or several hosts would leave some out.
    """
    devices = jax.devices()
    num_devices = len(devices) if num_devices is None else num_devices
    if not 1 <= num_devices <= len(devices):
        raise ValueError(
            f"{num_devices} devices asked for, but this program sees {len(devices)} ({devices[0].platform})"
        )
    if num_devices < len(devices) and jax.process_count() > 1:
        raise ValueError(f"several hosts train on all of their {len(devices)} devices, not on {num_devices}")
    return jax.make_mesh((num_devices,), (AXIS,), devices=devices[:num_devices], axis_types=(AxisType.Auto,))


def check_divisible(batch_size: int, num_devices: int) -> None:
    """Raises a ValueError unless every device gets the same number of images."""
    if batch_size % num_devices:
        raise ValueError(
            f"a batch of {batch_size} images cannot be divided over {num_devices} devices; "
            f"use a multiple of {num_devices}, for example {divisible(batch_size, num_devices)}"
        )


def divisible(num_rows: int, num_devices: int) -> int:
    """The smallest number of rows, `num_rows` or more, of which every device gets as many."""
    return math.ceil(num_rows / num_devices) * num_devices


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Puts a copy of every array on every device of the mesh. The copies are new: donating one does not free `tree`."""
    return state_sharding.put(mesh, tree, state_sharding.replicated)


def replicated_shapes(mesh: Mesh, tree: Any) -> Any:
    """Shapes, dtypes and places of what `replicate` returns, without memory on any device: a template to restore."""
    return state_sharding.shapes(mesh, tree, state_sharding.replicated)


def as_replicated(mesh: Mesh, tree: Any) -> Any:
    """The same arrays where they are on every device of the mesh already; otherwise, and from any device, copies."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: x if getattr(x, "sharding", None) == sharding else jax.device_put(x, sharding), tree)


def where_it_lies(function: Callable, mesh: Mesh) -> Any:
    """Compiles a function of arrays that stay where they are on the mesh; its results are replicated."""
    return jax.jit(function, out_shardings=NamedSharding(mesh, PartitionSpec()))


def max_over_hosts(mesh: Mesh, number: np.generic) -> jax.Array:
    """The largest of the numbers that the hosts pass, on every host. All must call it, in the same order of programs.

    Like other computations it is queued, and waits when it is read.
    """
    local = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
    return _compiled_max(mesh)(shard_batch(mesh, np.full(local, number)))


@functools.lru_cache
def _compiled_max(mesh: Mesh) -> Callable:
    return where_it_lies(jnp.max, mesh)


def shard_batch(mesh: Mesh, batch: Any, *, axis: int = 0) -> Any:
    """Divides arrays along `axis` over the devices of the mesh.

    Args:
      mesh: from `make_mesh()`.
      batch: a pytree of host arrays. With several processes each passes its own rows, the global batch being their
        concatenation in the order of the processes.
      axis: the batch axis (0; 1 for a stack of batches).

    Returns:
      The same tree of global arrays.

    Raises:
      ValueError: if the batch cannot be divided evenly.
    """
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))
    processes = len({device.process_index for device in mesh.devices.flat})

    def put(x):
        x = np.asarray(x)
        check_divisible(x.shape[axis] * processes, mesh.size)
        return jax.make_array_from_process_local_data(sharding, x)

    return jax.tree.map(put, batch)


def divide(mesh: Mesh, batch: Any) -> Any:
    """Divides arrays that every host has as a whole along their first axis, copies of the last row filling it up.

    Returns:
      The same tree of global arrays of `divisible` rows, in the same order. (`shard_batch` is for hosts that each have
      rows of their own.)
    """
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def put(x):
        x = np.asarray(x)
        x = x[np.minimum(np.arange(divisible(len(x), mesh.size)), len(x) - 1)]
        return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])

    return jax.tree.map(put, batch)


def divided(array: jax.Array) -> jax.Array:
    """Asks, inside `jit_global`, for an array to be divided along its first axis, if the devices divide its rows.

    Elsewhere, and for other numbers of rows, it is left as it is. The values are the same in any case.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if AXIS in mesh.auto_axes and array.shape[0] % mesh.shape[AXIS] == 0:
        return lax.with_sharding_constraint(array, PartitionSpec(AXIS))
    return array


def can_run_ahead(mesh: Mesh) -> bool:
    """Whether the host may queue a program before the one before has ended.

    Free-running collectives of virtual CPU devices can deadlock in JAX before 0.12.
    """
    return mesh.size == 1 or mesh.devices.flat[0].platform != "cpu"


def draw(sampler: Callable, key: jax.Array, shape: tuple[int, ...], *, axis_name: str | None = None) -> jax.Array:
    """Random numbers for a batch, the same for the same key however many devices share it.

    Args:
      sampler: `(key, shape) -> array`, such as `jax.random.normal`; its first axis is the batch.
      key: the same on every device.
      shape: of what the caller gets: the global batch in the global view, this device's part in the per-device view.
      axis_name: the mapped axis, in the per-device view.

    Returns:
      In the global view `sampler(key, shape)`, divided over the mesh like the batch: left alone, it would be
      replicated, and every device would run the generator on the whole batch. In the per-device view this device's
      rows of `sampler(key, global shape)`.

    Raises:
      TypeError: for what is no key, such as a seed.
    """
    check_key(key)
    if axis_name is not None:
        rows = shape[0]
        everything = sampler(key, (rows * lax.axis_size(axis_name), *shape[1:]))
        return lax.dynamic_slice_in_dim(everything, lax.axis_index(axis_name) * rows, rows)
    return divided(sampler(key, shape))


def shuffled(key: jax.Array, array: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """The rows of a batch [B, ...] in another order, that of all devices together: divided as they were.

    Args:
      key: of the order, the same on every device.
      array: the global batch in the global view, this device's part in the per-device view.
      axis_name: the mapped axis, in the per-device view.
    """
    check_key(key)
    if axis_name is None:
        return divided(jax.random.permutation(key, array))
    everywhere = jax.random.permutation(key, lax.all_gather(array, axis_name, tiled=True))
    return lax.dynamic_slice_in_dim(everywhere, lax.axis_index(axis_name) * len(array), len(array))


def per_device_key(key: jax.Array, axis_name: str | None) -> jax.Array:
    """A key that differs from device to device, in the per-device view: for dropout, which must not repeat on each."""
    check_key(key)
    return key if axis_name is None else jax.random.fold_in(key, lax.axis_index(axis_name))


def jit_global(
    function: Callable,
    mesh: Mesh,
    *,
    batch_axes: Sequence[int | None],
    donate: Sequence[int] = (),
    may_be_kept: bool = True,
    state: Any = None,
    state_rule: state_sharding.Rule = state_sharding.replicated,
) -> Any:
    """Compiles a function in the global view.

    Args:
      function: of positional arguments, each a pytree of arrays.
      mesh: from `make_mesh()`.
      batch_axes: for each argument the axis along which its arrays are divided over the devices, or None: replicated.
      donate: positions of arguments whose memory the results may take.
      may_be_kept: on disk, in JAX's cache of compiled programs. False: for speed the function may call what cannot be
        kept, and is then compiled anew by each process.
      state: the first argument, or its shapes, where that lies as `state_rule` says: the function returns a pair, whose
        first part has the same form and places.
      state_rule: by which the state is divided, see `state_sharding`.

    Returns:
      The compiled function; its results are replicated, but for a state. `draw` inside it divides what it draws.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    shardings: list[Any] = [
        replicated if axis is None else NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS)) for axis in batch_axes
    ]
    results: Any = replicated
    if state is not None:
        shardings[0] = state_sharding.places(mesh, state, state_rule)
        results = (shardings[0], replicated)

    @functools.wraps(function)
    def on_mesh(*arguments):
        with (
            jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
            state_sharding.dividing(state_rule),
            contextlib.nullcontext() if may_be_kept else onednn.uncached(),
        ):
            return function(*arguments)

    compiled = jax.jit(
        on_mesh,
        in_shardings=shardings,
        out_shardings=results,
        donate_argnums=donate,
        compiler_options=compilation.options(mesh.devices.flat[0].platform),
    )
    calls = not may_be_kept and mesh.size == 1 and mesh.devices.flat[0].platform == "cpu" and onednn.is_there()
    return compilation.never_kept(compiled) if calls else compiled


def jit_step(
    train_step: Callable,
    mesh: Mesh | None = None,
    *,
    donate: bool = True,
    state_rule: state_sharding.Rule = state_sharding.replicated,
) -> Callable:
    """Compiles a train step in the global view for a mesh.

    Args:
      train_step: `(state, batch, key) -> (state, metrics)`, made without an `axis_name`.
      mesh: from `make_mesh()`; all devices by default.
      donate: lets the new state take the memory of the old one, which cannot be used afterwards. False suits a notebook
        whose cells run twice.
      state_rule: where the state lies: `state_sharding.by_largest_dimension` divides its large arrays over the devices.

    Returns:
      A function with the arguments of `train_step`. The batch holds global arrays or (one process) host arrays, and is
      divided over the devices; key and metrics are replicated, and so is the state, but for `state_rule`.

    Raises:
      ValueError: at the first call with batches of a shape, if they cannot be divided evenly, or if their images
        [B, H, W, C] are not finite or not in [-1, 1].
    """
    mesh = make_mesh() if mesh is None else mesh
    donated = (0,) if donate else ()
    steps, checked_shapes = dict[Any, tuple[Callable, list]](), set()

    def step_for(state):
        """The compiled step, and the places of the state's arrays, for states of this form."""
        form = jax.tree.structure(state), tuple(map(jnp.shape, jax.tree.leaves(state)))
        if form not in steps:
            step = jit_global(
                train_step,
                mesh,
                batch_axes=(None, 0, None),
                donate=donated,
                may_be_kept=False,
                state=state,
                state_rule=state_rule,
            )
            steps[form] = step, jax.tree.leaves(state_sharding.places(mesh, state, state_rule))
        return steps[form]

    @functools.wraps(train_step)
    def checked_step(state, batch, key):
        check_key(key)
        shapes = tuple(x.shape for x in jax.tree.leaves(batch))
        if shapes not in checked_shapes:  # once, before it is traced
            for shape in shapes:
                check_divisible(shape[0], mesh.size)
            _check_values(batch)
            checked_shapes.add(shapes)
        step, places = step_for(state)
        if any(getattr(x, "sharding", None) != place for x, place in zip(jax.tree.leaves(state), places, strict=True)):
            # Fresh from `init`, on one device. Left there, the step would be compiled for it, and again for its result.
            state = state_sharding.put(mesh, state, state_rule)
        return step(state, batch, key)

    return checked_step


def _check_values(batch):
    image = batch.get("image") if isinstance(batch, Mapping) else None
    if image is not None and image.ndim == 4 and jnp.issubdtype(image.dtype, jnp.floating):
        if getattr(image, "is_fully_addressable", True):
            check.check_known(image)


def pmap_step(train_step: Callable, *, axis_name: str = AXIS, num_devices: int | None = None) -> Callable:
    """Runs a train step in the per-device view with `jax.pmap`.

    For code bases that work this way, on TPU VMs above all. Today's `jax.pmap` is itself `jit` of `shard_map`, in
    maintenance mode: new code is better off with `jit_step`, which needs neither axis names nor synchronised layers.

    The state goes in and comes out as one copy, not stacked, so it can be checkpointed as it is (by one process: with
    several, `pmap` returns host-local arrays, which Orbax refuses; use `jit_step` there).

    Args:
      train_step: made with this `axis_name`, from modules whose batch normalisation and penalties that carry it too
        (without, batch statistics are per device).
      axis_name: the name of the mapped axis.
      num_devices: how many of this host's devices; all by default.

    Returns:
      A function with the arguments of `train_step`. The batch is divided over this host's devices along its first
      axis.

    Raises:
      ValueError: if this host has not so many devices; at a call whose batch cannot be divided evenly.
    """
    devices = jax.local_devices()
    if num_devices is not None:
        if not 1 <= num_devices <= len(devices):
            raise ValueError(f"{num_devices} devices asked for, but this host has {len(devices)}")
        devices = devices[:num_devices]
    step = jax.pmap(train_step, axis_name, in_axes=(None, 0, None), out_axes=(None, None), devices=devices)

    @functools.wraps(train_step)
    def divided_step(state, batch, key):
        check_key(key)

        def divide(x):
            check_divisible(x.shape[0], len(devices))
            return x.reshape(len(devices), x.shape[0] // len(devices), *x.shape[1:])

        return step(state, jax.tree.map(divide, batch), key)

    return divided_step
