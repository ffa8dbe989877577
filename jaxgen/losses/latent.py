"""What is asked of the codes of a batch as a whole, not of each."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.arguments import check_key


def permuted(key: jax.Array, z: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Each column of z [B, D] in an order of its own: its numbers of the batch, with all dependence between them gone.

    If rows of z are draws of q(z), those of the result are nearly draws of the product of q's marginals (Kim and Mnih
    2018, algorithm 1; Arcones and Gine 1992).

    Args:
      key: of the orders.
      z: [B, D].
      axis_name: the mapped axis, in the per-device view: the batch is that of all devices.

    Returns:
      [B, D].
    """
    check_key(key)
    every = z if axis_name is None else lax.all_gather(z, axis_name, tiled=True)
    order = jnp.argsort(jax.random.uniform(key, every.shape), axis=0)
    if axis_name is not None:
        order = lax.dynamic_slice_in_dim(order, lax.axis_index(axis_name) * len(z), len(z))
    return jnp.take_along_axis(every, order, axis=0)
