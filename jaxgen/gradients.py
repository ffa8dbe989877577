"""How gradients are taken of a batch: at once, or in slices that are added up. One argument for every train step.

A way is a function

    way(gradient_of, examples, key) -> (gradients, rest)

where `gradient_of(examples, key) -> (gradients, rest)` is what a train step would do with a batch, or with a part of
it: means over the examples that it is given. `examples` is a pytree with leaves [B, ...]; `rest` is everything else
that a turn finds out: the networks' mutable collections, states of terms, metrics. A way returns means of both over the
whole batch. Way and step know nothing else of each other, so the same way serves GANs, VAEs and classifiers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.arguments import check_function

Way = Callable[[Callable, Any, jax.Array], tuple[Any, Any]]
"""(gradient_of, examples, key) -> (gradients, rest)."""

COUPLING = {"batch_stats": "batch normalisation", "code_averages": "a codebook of moving averages"}
"""Collections of layers whose state is of a whole batch, and what such layers are called."""


def plain(gradient_of: Callable, examples: Any, key: jax.Array) -> tuple[Any, Any]:
    """The gradient of the whole batch at once."""
    return gradient_of(examples, key)


def check_way(way: Any) -> None:
    """Raises a TypeError for what is no way of taking gradients: a number, a name, `accumulated` itself."""
    check_function(way, "gradient_of, examples, key", "gradients", "gradients=gradients.accumulated(4)")


def accumulated(num_slices: int) -> Way:
    """The mean of the gradients of slices of the batch, one after another: the memory of a slice, the same update.

    Slice i holds examples i, i + n, i + 2n, ..., so that a batch which is divided over devices stays divided alike. All
    slices start from the same parameters and collections, whose updates are averaged. Slice i draws what it draws
    (dropout, augmentation, a generator's noise, the points of a gradient penalty) with `fold_in(key, i)`: other numbers
    than the whole batch would draw, of the same distribution. Whatever a loss computes of a batch mean (free bits, the
    count of active units) is computed for each slice.

    Raises:
      ValueError: at once for fewer than one slice. At trace time for a batch that cannot be divided, and for batch
        normalisation or a codebook of moving averages, whose statistics would be those of a slice: another training,
        without an error.
    """
    if num_slices < 1:
        raise ValueError(f"the number of micro-batches must be at least 1, not {num_slices}")
    if num_slices == 1:
        return plain

    def way(gradient_of, examples, key):
        sizes = {jnp.shape(x)[:1] for x in jax.tree.leaves(examples)}
        if len(sizes) > 1 or () in sizes:
            raise ValueError(
                "for micro-batches each array of a batch, and of what the generator returns, needs a row for each "
                f"image; here they have {', '.join(sorted(str(*size) or 'no' for size in sizes))} rows"
            )
        slices = jax.tree.map(lambda x: divide(x, num_slices, "micro-batches"), examples)
        first = jax.tree.map(lambda x: x[0], slices)
        shapes = jax.eval_shape(gradient_of, first, key)
        check_no_coupling(shapes)

        def add(total, numbered):
            i, part = numbered
            found = gradient_of(part, jax.random.fold_in(key, i))
            # What is no floating point number (a counter) is the same in every slice, or has no mean.
            return jax.tree.map(lambda t, x: t + x if _has_mean(x) else jnp.asarray(x, t.dtype), total, found), None

        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = lax.scan(add, zeros, (jnp.arange(num_slices), slices))
        return jax.tree.map(lambda t: t / num_slices if _has_mean(t) else t, total)

    return way


def divide(x: jax.Array, num: int, what: str) -> jax.Array:
    """[n B, ...] -> [n, B, ...], part i being x[i::n]: a batch divided over devices stays divided the same way.

    Raises:
      ValueError: if the first axis cannot be divided, naming what was to be made.
    """
    if x.shape[0] % num:
        raise ValueError(f"{num} {what} need a batch of a multiple of {num} images, not {x.shape[0]}")
    return jnp.moveaxis(x.reshape(x.shape[0] // num, num, *x.shape[1:]), 1, 0)


def check_no_coupling(rest: Any) -> None:
    """Raises a ValueError if a tree holds the state of a layer whose statistics are of a batch (`COUPLING`)."""
    for path, _ in jax.tree_util.tree_leaves_with_path(rest):
        names = [str(getattr(part, "key", getattr(part, "name", ""))) for part in path]
        if coupling := next((COUPLING[name] for name in names if name in COUPLING), ""):
            raise ValueError(
                f"a batch cannot be taken in micro-batches by a network with {coupling}: its statistics would be those "
                f"of a slice ({'/'.join(filter(None, names))}); use a network without it, or fewer images"
            )


def _has_mean(x):
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)
