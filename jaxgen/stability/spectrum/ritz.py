"""Ritz values: approximate eigenvalues of a Jacobian by Arnoldi's method, with what their errors may be."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxgen.arguments import check_key
from jaxgen.stability.spectrum.products import Map, exactly, flat_operator, like


class Ritz(NamedTuple):
    """Approximate eigenvalues from a Krylov space, the largest modulus first. NumPy in double precision."""

    values: np.ndarray  # complex [k]
    residuals: np.ndarray  # [k], |J^T y - mu y| of the unit Ritz vector y, rounding included
    conditions: np.ndarray  # [k], at least 1: first-order error of mu = residual * condition; 1 for a normal matrix

    @property
    def errors(self) -> np.ndarray:
        """How far each value may be from an eigenvalue, to first order: residual times condition. [k]."""
        return self.residuals * self.conditions


def arnoldi(operator: Callable[[jax.Array], jax.Array], start: jax.Array, num_iterations: int) -> tuple:
    """Arnoldi's method with full reorthogonalisation: A V = V H + the last row's rest. Jittable.

    Every new vector is made orthogonal to all before it twice, which is enough for orthogonality to rounding. Where the
    Krylov space is exhausted the remaining columns are 0.

    Args:
      operator: x [n] -> A x [n], linear.
      start: [n], not 0.
      num_iterations: m, applications of the operator.

    Returns:
      (V [m + 1, n] with orthonormal rows, H [m + 1, m] upper Hessenberg).

    Arnoldi 1951; twice is enough: Giraud, Langou, Rozloznik, van den Eshof 2005.
    """
    rounding = 100 * jnp.finfo(start.dtype).eps  # every short rest before has made the errors of its vector longer

    def iterate(j, carry):
        basis, hessenberg = carry
        x = operator(basis[j])
        length = jnp.linalg.norm(x)
        column = jnp.zeros(num_iterations + 1, start.dtype)
        for _ in range(2):  # rows of the basis that are not there yet are 0
            overlap = basis @ x
            x, column = x - overlap @ basis, column + overlap
        rest = jnp.linalg.norm(x)
        exhausted = rest <= rounding * length
        basis = basis.at[j + 1].set(jnp.where(exhausted, 0.0, x / jnp.where(exhausted, 1.0, rest)))
        return basis, hessenberg.at[:, j].set(column.at[j + 1].set(jnp.where(exhausted, 0.0, rest)))

    basis = jnp.zeros((num_iterations + 1, start.size), start.dtype).at[0].set(start / jnp.linalg.norm(start))
    hessenberg = jnp.zeros((num_iterations + 1, num_iterations), start.dtype)
    return lax.fori_loop(0, num_iterations, iterate, (basis, hessenberg))


def ritz_of(hessenberg: np.ndarray, precision: float) -> Ritz:
    """Ritz values with their residuals from Arnoldi's H.

    Args:
      hessenberg: [m + 1, m], of `arnoldi`.
      precision: machine epsilon of the numbers that it was made in.

    Raises:
      ValueError: if H is not finite.
    """
    hessenberg = np.asarray(hessenberg, np.float64)
    if not np.isfinite(hessenberg).all():
        raise ValueError(
            "a derivative at this point is not finite, so there is no spectrum: the network has diverged, or a root "
            "or norm is differentiated at 0"
        )
    rests = np.diag(hessenberg, -1)
    exhausted = np.flatnonzero(rests == 0)
    size = int(exhausted[0]) + 1 if exhausted.size else hessenberg.shape[1]
    square = hessenberg[:size, :size]
    values, right = np.linalg.eig(square)
    residuals = rests[size - 1] * np.abs(right[-1]) + precision * np.linalg.norm(square, 2)
    try:
        left = np.linalg.inv(right)
    except np.linalg.LinAlgError:  # a defective matrix has fewer eigenvectors
        left = np.full_like(right, np.inf)
    conditions = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=0)
    order = np.lexsort((-values.imag, -np.abs(values).round(12)))
    return Ritz(values[order].astype(complex), residuals[order], conditions[order])


def ritz_values(
    function: Map, point: Any, *, rates: Any = None, num_iterations: int = 40, key: jax.Array | None = None
) -> Ritz:
    """Ritz values of J = d function / d point, or of diag(rates) J: approximate eigenvalues, the outermost first.

    Compiled once for every function object and shape. Arnoldi's method on w -> R^(1/2) J^T R^(1/2) w, whose eigenvalues
    are those of R J. Values on the outside of the spectrum come first to convergence, and these decide on stability;
    inner ones need not be eigenvalues at all: look at the residuals. A repeated eigenvalue is found once. With as many
    iterations as parameters, all are found.

    Args:
      function: a field, or a step as `train_step_map` and `updates.step_map` return it.
      point: where to differentiate; floating point leaves.
      rates: above 0: a tree like the point, or one with a number in place of whole subtrees, such as
        `Players(0.1, 0.4)`; None for 1.
      num_iterations: one reverse pass each, and one vector of the size of the point in memory each.
      key: of the random start.

    Raises:
      ValueError: if a derivative is not finite, rates are not above 0, or the memory does not hold the vectors.
    """
    if key is not None:
        check_key(key)
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be at least 1, not {num_iterations}")
    point = jax.tree.map(jnp.asarray, point)
    rates = 1.0 if rates is None else rates
    if any(np.any(~(np.asarray(rate) > 0)) for rate in jax.tree.leaves(rates)):
        raise ValueError("rates must be above 0")
    rates = like(rates, point)
    size = sum(leaf.size for leaf in jax.tree.leaves(point))
    key = jax.random.key(0) if key is None else key
    check_memory(point, num_iterations)
    hessenberg = _factorise(function, point, rates, key, min(num_iterations, size))
    return ritz_of(hessenberg, float(jnp.finfo(hessenberg.dtype).eps))


def check_memory(point: Any, num_iterations: int, free: int | None = None) -> None:
    """Whether Arnoldi's vectors fit: one as long as all leaves of the point for each iteration, and as many to spare.

    Args:
      point: of `ritz_values`.
      num_iterations: of the same.
      free: bytes; what the first device has by default, where that is known.

    Raises:
      ValueError: if they do not; says how many would.
    """
    flat = jax.eval_shape(lambda tree: ravel_pytree(tree)[0], point)
    vectors, one = min(num_iterations, flat.size) + 1, flat.size * flat.dtype.itemsize
    free = _free_memory() if free is None else free
    # XLA may copy the basis once where it writes a row.
    if free is not None and 2 * vectors * one > free:
        raise ValueError(
            f"{num_iterations} iterations with {flat.size:,} numbers need {2 * vectors * one / 2**30:.2g} GiB, and "
            f"{free / 2**30:.2g} GiB are free: {max(0, free // (2 * one) - 1)} iterations would fit"
        )


def _free_memory():
    """Bytes of the first device, None where nobody knows."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else None
    try:
        with open("/proc/meminfo") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


@functools.partial(jax.jit, static_argnums=(0, 4))
def _factorise(function, point, rates, key, num_iterations):
    with exactly():
        operator, flat = flat_operator(function, point, rates)
        return arnoldi(operator, jax.random.normal(key, flat.shape, flat.dtype), num_iterations)[1]
