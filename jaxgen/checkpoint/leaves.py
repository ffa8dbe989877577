"""The leaves of a state: what is written of each, its digest, and how it comes back to its place."""

import json
import zlib
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgen.checkpoint.errors import CheckpointMismatch

if TYPE_CHECKING:
    from etils import epath

SHOWN = 6  # differing leaves named in an error


def without_frozen(state: Any) -> Any:
    """A state without the arrays that training never changes (`state.frozen`): what is worth a checkpoint."""
    return state if getattr(state, "frozen", None) is None else state.replace(frozen=())


def with_frozen(state: Any, frozen: Any) -> Any:
    """A restored state with its frozen arrays, if it has a place for them."""
    return state if frozen is None else state.replace(frozen=frozen)


def flatten(tree: Any) -> tuple[list[tuple[str, Any]], Any]:
    """Leaves named as one would reach them in Python, `.params['Dense_0']['kernel']`, and the tree structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves], structure


def is_key(leaf: Any) -> bool:
    """Whether an array or its shape holds random keys, which are saved as their numbers."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def signature(path: str, leaf: Any) -> list[Any]:
    """[shape, dtype] as they stand in the record."""
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        raise TypeError(
            f"the leaf {path or 'of the state'} is {leaf!r} of type {type(leaf).__name__}; a state holds arrays only: "
            "wrap it in jnp.asarray, or keep it in the metadata"
        )
    return [list(leaf.shape), str(leaf.dtype)]


def host_copy(leaf: Any) -> np.ndarray | None:
    """The values on the host (on CPU a view, no copy); None when this process does not hold the whole array."""
    if isinstance(leaf, jax.Array) and is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array):
        if leaf.ndim == 0 or leaf.is_fully_replicated:
            leaf = leaf.addressable_shards[0].data
        elif not leaf.is_fully_addressable:
            whole = [shard.data for shard in leaf.addressable_shards if shard.data.shape == leaf.shape]
            if not whole:
                return None
            leaf = whole[0]
    return np.asarray(leaf)


def parts(leaf: jax.Array) -> list[tuple[list[list[int]], int]]:
    """Of an array that is divided over processes, each part: ([start, stop] of each dimension, its crc32).

    In the same order on every process; 0 stands for the crc32 of a part that this process does not hold.
    """

    def bounds(index):
        return tuple(part.indices(size)[:2] for part, size in zip(index, leaf.shape, strict=True))

    own = {bounds(shard.index): crc32(np.asarray(shard.data)) or 0 for shard in leaf.addressable_shards}
    everywhere = sorted({bounds(index) for index in leaf.sharding.devices_indices_map(leaf.shape).values()})
    return [([list(pair) for pair in part], own.get(part, 0)) for part in everywhere]


def storable(leaf: Any) -> Any:
    """What Orbax gets to write for a leaf."""
    if leaf.size == 0:
        return np.zeros(())  # a stand-in: Orbax refuses empty arrays
    if isinstance(leaf, jax.Array):
        return jax.random.key_data(leaf) if is_key(leaf) else leaf
    return np.asarray(leaf)  # numpy scalars too; Orbax copies them


def crc32(values: np.ndarray | None) -> int | None:
    """The checksum of an array's bytes in row-major order; None without an array."""
    # Viewed as bytes, since bfloat16 and its like have no buffer protocol.
    return None if values is None else zlib.crc32(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def check_same_model(directory: "epath.Path", step: int, expected: dict[str, list], record: dict[str, Any]) -> None:
    """Raises a CheckpointMismatch that names the leaves of other shapes or dtypes than the state to restore."""
    found = {path: leaf[:2] for path, leaf in record["leaves"].items()}
    paths = [*expected, *(path for path in found if path not in expected)]
    differing = [path for path in paths if expected.get(path) != found.get(path)]
    if not differing:
        return

    def text(leaf: list | None) -> str:
        return "nothing" if leaf is None else f"{leaf[1]}{leaf[0]}"

    doubled = {"float32": "float64", "int32": "int64", "uint32": "uint64", "complex64": "complex128"}
    doubled |= {wide: narrow for narrow, wide in doubled.items()}
    if all(p in found and p in expected for p in differing) and all(
        found[p][0] == expected[p][0] and doubled.get(found[p][1]) == expected[p][1] for p in differing
    ):
        wide = "64" in expected[differing[0]][1] or "128" in expected[differing[0]][1]
        here, there = ("on", "off") if wide else ("off", "on")
        raise CheckpointMismatch(
            f"the checkpoint of step {step} in {directory} was saved with jax_enable_x64 {there}, and it is {here} "
            f"now: {len(differing)} of {len(paths)} leaves have the other precision, such as "
            f"{differing[0] or 'the state'} ({found[differing[0]][1]} there, {expected[differing[0]][1]} here). "
            f"Switch it {there}: set "
            f"JAX_ENABLE_X64={int(not wide)}, or jax.config.update('jax_enable_x64', {not wide})"
        )

    lines = [f"{p or 'the state'}: expected {text(expected.get(p))}, found {text(found.get(p))}" for p in differing]
    if len(lines) > SHOWN:
        lines = [*lines[:SHOWN], f"... and {len(lines) - SHOWN} more"]
    metadata = f" It was saved with {json.dumps(record['metadata'])}." if record["metadata"] else ""
    raise CheckpointMismatch(
        f"the checkpoint of step {step} in {directory} is of another model: {len(differing)} of {len(paths)} leaves "
        "differ:\n  " + "\n  ".join(lines) + f"\nBuild the state with the configuration of that run, or use another "
        f"directory.{metadata}"
    )


def place(values: np.ndarray, like: Any, key_impl: str | None) -> Any:
    """Host values to where the template's leaf is, keeping what jit looks at (commitment, weak type): no retrace."""
    if isinstance(like, np.ndarray | np.generic):
        return values
    # An array that was never committed (fresh from init) may still follow others to any device; so may its successor.
    sharding = like.sharding if getattr(like, "committed", True) else None
    if sharding is not None and not sharding.is_fully_addressable:
        array = jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
    elif getattr(like, "weak_type", False) and values.ndim == 0:
        array = jax.device_put(values.item(), sharding)
    else:
        array = jax.device_put(values, sharding)
    return array if key_impl is None else jax.random.wrap_key_data(array, impl=key_impl)
