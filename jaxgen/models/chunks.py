"""A large batch in chunks that stay in the cache: how forms of convolution go through it on CPU."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def images_of(num_images: int, image_size: int, most: int) -> int:
    """Images of a chunk: a divisor of the batch, or all of it where no divisor fills half a chunk or more.

    Args:
      num_images: of the batch.
      image_size: numbers that an image has.
      most: numbers that a chunk may have.
    """
    wanted = max(1, most // image_size)
    size = next(size for size in range(min(wanted, num_images), 0, -1) if num_images % size == 0)
    return num_images if size < wanted / 2 else size  # 61 images would go one by one, which is slower than all at once


def joined(f: Callable, x: jax.Array, size: int) -> jax.Array:
    """f(x) [N, ...] of x [N, ...], where f looks at each image alone, by chunks of `size` images."""
    if size == len(x):
        return f(x)
    chunks = _divided(x, size)
    made = jax.eval_shape(f, chunks[:, 0])
    result = jnp.zeros((size, chunks.shape[1], *made.shape[1:]), made.dtype)
    result = lax.fori_loop(0, chunks.shape[1], lambda i, result: result.at[:, i].set(f(chunks[:, i])), result)
    return result.reshape(len(x), *made.shape[1:])


def summed(f: Callable, arrays: Any, size: int) -> Any:
    """f(*arrays), where f sums over images, by chunks of `size` images."""
    if size == len(arrays[0]):
        return f(*arrays)
    chunks = [_divided(x, size) for x in arrays]

    def of(i):
        return f(*(x[:, i] for x in chunks))

    return lax.fori_loop(1, chunks[0].shape[1], lambda i, total: jax.tree.map(jnp.add, total, of(i)), of(0))


def _divided(x, size):
    """[size, chunks, ...]: each takes every few images, so that a batch divided over devices stays where it is."""
    return x.reshape(size, -1, *x.shape[1:])
