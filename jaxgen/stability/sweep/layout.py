"""How members are laid out: over devices, and in blocks that a device advances at once."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXIS = "members"


class Layout(NamedTuple):
    """How rows, one a member, come to the devices and back, and how a function of one row is applied to all."""

    place: Callable  # host array [N, ...] -> on the devices, filled up by copies of the last row
    take: Callable  # back: [N, ...] on the host
    replicate: Callable  # host array -> on every device
    over_members: Callable  # (row, shared) -> row, to the same of all rows
    block_size: int
    num_rows: int


def layout_of(num: int, block_size: int, devices: Sequence[jax.Device]) -> Layout:
    """The layout of so many members on these devices, in blocks of at most this size."""
    per_device = math.ceil(num / len(devices))
    num_blocks = math.ceil(per_device / block_size)
    block_size = math.ceil(per_device / num_blocks)  # no larger than asked for, and no row more than needed
    num_rows = len(devices) * num_blocks * block_size
    mesh = jax.make_mesh((len(devices),), (AXIS,), devices=devices, axis_types=(AxisType.Auto,))
    divided, everywhere = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((AXIS,), ()))

    def over_members(function):
        def of_device(rows, shared):
            if num_blocks == 1:
                return jax.vmap(lambda row: function(row, shared))(rows)
            if block_size == 1:  # no vmap of one: a batched convolution is another, and slower on CPU
                return lax.map(lambda row: function(row, shared), rows)
            return lax.map(lambda row: function(row, shared), rows, batch_size=block_size)

        if len(devices) == 1:
            return of_device
        specs = (PartitionSpec(AXIS), PartitionSpec())
        return jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False)

    def place(x):
        return jax.device_put(np.asarray(x)[np.minimum(np.arange(num_rows), num - 1)], divided)

    return Layout(
        place=place,
        take=lambda x: np.asarray(x)[:num],
        replicate=lambda x: jax.device_put(x, everywhere),
        over_members=over_members,
        block_size=block_size,
        num_rows=num_rows,
    )
