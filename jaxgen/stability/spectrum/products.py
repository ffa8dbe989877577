"""Jacobian products by reverse mode alone, and the operator whose eigenvalues are asked for."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

Map = Callable[[Any], Any]
"""A differentiable function from a pytree of floating point arrays to a tree like it: a field, or a step."""

# TensorFloat-32, the default of recent GPUs, has three digits: too few for eigenvalues.
exactly = functools.partial(jax.default_matmul_precision, "highest")


def transposed_product(function: Callable, point: Any) -> Callable[[Any], Any]:
    """u -> J^T u at the point, by one reverse pass. J = d function / d point; u is a tree like the function's value."""
    _, pull_back = jax.vjp(function, point)
    return lambda u: pull_back(u)[0]


def jacobian_product(function: Callable, point: Any) -> Callable[[Any], Any]:
    """w -> J w at the point for functions without forward mode. w is a tree like the point.

    u -> J^T u is linear, and the transpose of a linear map is its vector-Jacobian product, wherever that is taken.
    """
    value, pull_back = jax.vjp(function, point)
    _, transpose = jax.vjp(lambda u: pull_back(u)[0], jax.tree.map(jnp.zeros_like, value))
    return lambda w: transpose(w)[0]


def flat_operator(function: Map, point: Any, rates: Any) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """(w -> R^(1/2) J^T R^(1/2) w, the point), both of flat vectors."""
    flat, unravel = ravel_pytree(point)
    root = jnp.sqrt(ravel_pytree(rates)[0])
    transposed = transposed_product(function, point)
    return lambda w: root * ravel_pytree(transposed(unravel(root * w)))[0], flat


def like(prefix: Any, tree: Any) -> Any:
    """A tree like `tree` with the numbers of a prefix of it."""
    return jax.tree.map(
        lambda number, part: jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(number, x.dtype), x.shape), part),
        prefix,
        tree,
    )
