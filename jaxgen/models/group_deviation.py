"""How far the images of a group differ, for a discriminator to see: ProGAN's minibatch standard deviation.

Karras et al. 2018, "Progressive Growing of GANs", section 3; in groups as in Karras et al. 2019.
"""

import jax
import jax.numpy as jnp
from jax import lax


def deviation(x: jax.Array, group_size: int, *, train: bool, axis_name: str | None = None) -> jax.Array:
    """How far images of a group differ: maps [B, H, W, C] -> one number for each image [B], the same within a group.

    The standard deviation over a group (biased, with 1e-8 added to the variance) of each number of a map, averaged over
    the map. Groups are neighbouring images; in the per-device view of the global batch.

    Args:
      x: the maps.
      group_size: images in a group; all, if there are fewer. In evaluation the largest number up to it that divides B.
      train: whether B must be a multiple of it.
      axis_name: the mapped axis, in the per-device view.

    Raises:
      ValueError: in training, for a batch that does not divide into groups.
    """
    own = len(x)
    x = x.astype(jnp.float32)
    if axis_name is not None and own % group_size:
        x = lax.all_gather(x, axis_name, tiled=True)
    size = min(group_size, len(x))
    if train and len(x) % size:
        raise ValueError(
            f"a batch of {len(x)} images does not divide into the groups of {size} whose deviation the discriminator "
            f"sees: use a multiple of {size}, or a group size that divides it"
        )
    size = next(n for n in range(size, 0, -1) if len(x) % n == 0)
    groups = x.reshape(-1, size, *x.shape[1:])
    found = jnp.sqrt(jnp.var(groups, axis=1) + 1e-8).mean(axis=(1, 2, 3))
    found = jnp.repeat(found, size)
    if len(found) > own:
        found = lax.dynamic_slice_in_dim(found, lax.axis_index(axis_name) * own, own)
    return found


def appended(x: jax.Array, group_size: int, *, train: bool, axis_name: str | None = None) -> jax.Array:
    """Maps [B, H, W, C] with their `deviation` as one more channel; as they are for groups of one."""
    if group_size == 1:
        return x
    found = deviation(x, group_size, train=train, axis_name=axis_name)
    found = jnp.broadcast_to(found[:, None, None, None], (*x.shape[:3], 1))
    return jnp.concatenate([x, found.astype(x.dtype)], axis=-1)
