"""Convolution of each channel by itself, as sums of shifted maps: what `convolution` runs for such groups on CPU.

XLA has no fast code for them there: of a 3x3 kernel on 16 maps of 64x64 pixels and 48 channels, forwards 379 ms of one
core's time become 7, a gradient in the kernel 87 become 15 (Zen 3, JAX 0.10.2).

Of images that are divided over several CPU devices the kernel's gradient gathers all on each: the same numbers, slowly.
"""

import functools
import itertools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.models import direct
from jaxgen.models.geometry import Geometry

MOST_TAPS = 49  # of a kernel; a sum of more is long to compile


def fits(operation: str, geometry: Geometry, num_channels: int, num_outputs: int, dtype: Any) -> bool:
    """Whether there is one channel and one output in each group, and no stride."""
    del operation, dtype
    kh, kw = geometry.kernel_size
    alone = geometry.groups > 1 and num_channels == num_outputs == 1
    return alone and geometry.strides == (1, 1) and kh * kw <= MOST_TAPS


def convolve(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.convolve`: y[n,i,j,c] = sum_{a,b} w[a,b,0,c] x[n, i + a, j + b, c], of padded x."""
    rows, columns = geometry.output_size
    padded, taps = _padded(x, geometry), w.astype(_wide(w.dtype))
    terms = [taps[a, b, 0] * padded[:, a : a + rows, b : b + columns] for a, b in _places(geometry)]
    return lax.optimization_barrier(functools.reduce(operator.add, terms).astype(x.dtype))


def transposed(y: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.transposed`, which is a convolution, too."""
    return convolve(y, direct.adjoint_kernel(w, geometry.groups), direct.adjoint(geometry))


def kernel_gradient(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.kernel_gradient`: dw[a,b,0,c] = sum_{n,i,j} x[n, i + a, j + b, c] y[n,i,j,c], of padded x.

    Row by row, into sums for each column that stay in the cache; XLA would walk through all of x for each number.
    """
    (rows, columns), (kh, kw), channels = geometry.output_size, geometry.kernel_size, x.shape[-1]
    padded = _padded(x, geometry)

    def add_row(i, sums):
        n, row = i // rows, i % rows
        above = lax.dynamic_slice(padded, (n, row, 0, 0), (1, kh, *padded.shape[2:]))[0]
        of_row = lax.dynamic_slice(y, (n, row, 0, 0), (1, 1, columns, channels))[0, 0].astype(padded.dtype)
        places = zip(sums, _places(geometry), strict=True)
        return tuple(total + above[a, b : b + columns] * of_row for total, (a, b) in places)

    zeros = tuple(jnp.zeros((columns, channels), padded.dtype) for _ in _places(geometry))
    sums = lax.fori_loop(0, len(x) * rows, add_row, zeros)
    return jnp.stack([jnp.sum(total, axis=0) for total in sums]).reshape(kh, kw, 1, channels).astype(x.dtype)


def _places(geometry):
    kh, kw = geometry.kernel_size
    return list(itertools.product(range(kh), range(kw)))


def _wide(dtype):
    """At least float32: of half precision only what comes out is rounded."""
    return jnp.promote_types(dtype, jnp.float32)


def _padded(x, geometry):
    edges = ((0, 0, 0), *((before, after, 0) for before, after in geometry.padding), (0, 0, 0))
    x = x.astype(_wide(x.dtype))
    return lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), edges))
