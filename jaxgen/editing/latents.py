"""Latents as rows of numbers: trees with leaves [n, ...], of whatever form a system has, as one matrix and back."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def rows_of(latents: Any) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """Latents as a matrix [n, D], and the function that makes such a matrix, of any number of rows, latents again.

    Args:
      latents: a tree with leaves [n, ...] of real numbers.

    Raises:
      ValueError: for codes, which are no real numbers: nothing lies between them.
    """
    leaves, tree = jax.tree.flatten(latents)
    check_real(latents)
    shapes = [jnp.shape(leaf)[1:] for leaf in leaves]
    sizes = [int(np.prod(shape)) for shape in shapes]

    def back(rows):
        parts = jnp.split(rows, np.cumsum(sizes)[:-1], axis=1)
        return tree.unflatten([part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)])

    return jnp.concatenate([jnp.reshape(leaf, (len(leaf), -1)) for leaf in leaves], axis=1), back


def check_real(latents: Any) -> None:
    """Raises a ValueError for latents that are no real numbers, such as codes."""
    for leaf in jax.tree.leaves(latents):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"these latents are codes of {jnp.result_type(leaf)}, no real numbers: nothing lies between them, and "
                "no gradient leads from one to the next"
            )


def num_of(latents: Any) -> int:
    """n of latents with leaves [n, ...].

    Raises:
      ValueError: for leaves of several lengths, or none.
    """
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(latents)}
    if len(lengths) != 1 or lengths == {()}:
        raise ValueError(f"latents are arrays of one length, not of {sorted(lengths)}")
    return lengths.pop()[0]
