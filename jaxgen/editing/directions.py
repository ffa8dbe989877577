"""Directions of latents along which an image changes: from weights, from variances, from labels.

Each is a row of `Directions`, of length 1, in latents of D numbers (`latents.rows_of` makes rows of others). A walk
adds multiples of one to latents; at strength 0 it is the image itself.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.editing.latents import rows_of


class Directions(NamedTuple):
    """Directions, the strongest first.

    rows: [K, D], of length 1. Of a direction and its opposite, that whose largest number is positive.
    strengths: [K]: how much changes along each; what it is says the function that made it.
    """

    rows: jax.Array
    strengths: jax.Array


def _signed(rows):
    """Rows of which the number farthest from 0 is positive."""
    largest = jnp.take_along_axis(rows, jnp.argmax(jnp.abs(rows), axis=1)[:, None], axis=1)
    return rows * jnp.where(largest < 0, -1.0, 1.0)


def sefa(kernels: jax.Array | Sequence[jax.Array], num: int | None = None, *, normalised: bool = False) -> Directions:
    """Semantic factorisation: directions that the first layer A z enlarges most, the eigenvectors of A' A.

    Args:
      kernels: of the layer that latents enter, [D, F] as Dense layers hold it (A is its transpose); several such
        layers, as StyleGAN's for styles, count together.
      num: K; all D by default.
      normalised: divide the weights of each output by their length first, as the published code does, so that all
        outputs count alike. The directions are then others.

    Returns:
      `Directions`; strengths are eigenvalues |A n|^2, in falling order. Without the division these are the right
      singular vectors of A, and its squared singular values.

    Raises:
      ValueError: for kernels of several D, or more directions than D.

    Shen and Zhou 2021, eq. 6. Their code leaves eigenvectors in the order in which the solver returns them.
    """
    given: Any = [kernels] if hasattr(kernels, "shape") else kernels
    layers = [jnp.asarray(kernel) for kernel in given]
    if len({len(layer) for layer in layers}) != 1 or any(layer.ndim != 2 for layer in layers):
        raise ValueError(f"kernels are of the form [D, F] with one D, not {[layer.shape for layer in layers]}")
    weights = jnp.concatenate(layers, axis=1)
    if normalised:
        weights = weights / jnp.maximum(jnp.linalg.norm(weights, axis=0, keepdims=True), 1e-12)
    return _eigenvectors(weights @ weights.T, num)


def _eigenvectors(matrix, num):
    size = len(matrix)
    if num is not None and not 1 <= num <= size:
        raise ValueError(f"there are {size} directions, not {num}")
    values, vectors = jnp.linalg.eigh(matrix)  # in rising order
    return Directions(_signed(vectors[:, ::-1].T[:num]), values[::-1][:num])


def principal(rows: jax.Array, num: int | None = None) -> Directions:
    """Principal components: eigenvectors of the covariance of rows [N, D], such as styles w of StyleGAN.

    Returns:
      `Directions`; strengths are variances (divided by N - 1).

    Raises:
      ValueError: for fewer than two rows, or more directions than D.
    """
    if len(rows) < 2:
        raise ValueError(f"a covariance is of at least 2 rows, not {len(rows)}")
    centred = rows - jnp.mean(rows, axis=0)
    return _eigenvectors(centred.T @ centred / (len(rows) - 1), num)


def ganspace(latents: jax.Array, activations: jax.Array, num: int) -> Directions:
    """Directions of latents along which activations, or images, vary most.

    Principal components of the activations; the latents' directions are the least-squares regression of latents on the
    coordinates of the activations in these. Of activations that are linear in the latents and latents of a standard
    normal distribution they are the right singular vectors of the map.

    Args:
      latents: [N, D].
      activations: [N, ...] of the same rows: of a layer, or images.
      num: K, at most N - 1.

    Returns:
      `Directions`; strengths are variances of the activations along the components.

    Raises:
      ValueError: for other numbers of rows, or too many directions.

    Härkönen, Hertzmann, Lehtinen and Paris 2020, section 2.
    """
    if len(latents) != len(activations) or not 1 <= num <= len(latents) - 1:
        raise ValueError(f"{len(latents)} latents, {len(activations)} activations and {num} directions do not fit")
    a = activations.reshape(len(activations), -1)
    a, z = a - jnp.mean(a, axis=0), latents - jnp.mean(latents, axis=0)
    left, values, _ = jnp.linalg.svd(a, full_matrices=False)
    coordinates = left[:, :num] * values[:num]
    # Coordinates are orthogonal: each regression is of one of them.
    found = (coordinates.T @ z) / jnp.maximum(values[:num, None] ** 2, 1e-30)
    return Directions(_signed(unit(found)), values[:num] ** 2 / (len(a) - 1))


def unit(rows: jax.Array) -> jax.Array:
    """Rows [..., D], each divided by its length; 0 stays 0."""
    length = jnp.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / jnp.where(length > 0, length, 1.0)


def mean_difference(latents: jax.Array, has: jax.Array) -> jax.Array:
    """Attribute arithmetic: the mean of latents [N, D] with an attribute minus that of those without, [D].

    Added to latents without the attribute it moves their mean to that of those with it. Its length is not 1.

    Args:
      latents: [N, D].
      has: [N] bool.

    Raises:
      ValueError: where all have it, or none.
    """
    _check_two(latents, has)
    has = jnp.asarray(has, bool)[:, None]
    with_it, without = (jnp.sum(jnp.where(own, latents, 0), axis=0) / jnp.sum(own) for own in (has, ~has))
    return with_it - without


def _check_two(latents, has):
    num = int(jnp.sum(jnp.asarray(has, bool)))
    if jnp.shape(has) != (len(latents),) or num in (0, len(latents)):
        raise ValueError(
            f"an attribute is told by one bool for each of the {len(latents)} latents, some True and some False, not "
            f"by {num} True of the shape {list(jnp.shape(has))}"
        )


class Classifier(NamedTuple):
    """A linear classifier of latents: logit = z . normal * slope + bias.

    normal: [D], of length 1: the direction of the attribute.
    slope, bias: numbers.
    accuracy: on the latents that it was fitted to.
    """

    normal: jax.Array
    slope: jax.Array
    bias: jax.Array
    accuracy: jax.Array

    def logits(self, latents: jax.Array) -> jax.Array:
        """[N] of latents [N, D]."""
        return latents @ self.normal * self.slope + self.bias


def linear_classifier(latents: jax.Array, has: jax.Array, *, ridge: float = 1.0, num_steps: int = 30) -> Classifier:
    """Logistic regression of an attribute, by Newton's method: its normal is the direction of the attribute.

        minimise  sum log(1 + exp(-y_i (w . z_i + b))) + ridge |w|^2 / 2,   y = -1, 1

    Labels are those of the data (of encoded images) or a judge's, of drawn ones. Of two normal distributions with one
    covariance that is a multiple of 1 the normal tends to the mean difference.

    Args:
      latents: [N, D].
      has: [N] bool.
      ridge: above 0, so that there is an optimum also where a plane divides both.
      num_steps: of Newton, halved where one would not lower the loss; it converges in about ten.

    Returns:
      `Classifier`.

    Raises:
      ValueError: where all have the attribute, or none; for a ridge of 0.

    Shen, Gu, Tang and Zhou 2020 (InterFaceGAN), who fit a support vector machine.
    """
    _check_two(latents, has)
    if not ridge > 0:
        raise ValueError(f"the ridge is above 0, not {ridge}")
    ones = jnp.ones((len(latents), 1), latents.dtype)
    x, y = jnp.concatenate([latents, ones], axis=1), jnp.where(jnp.asarray(has, bool), 1.0, -1.0)
    weights = jnp.full(x.shape[1], ridge, x.dtype).at[-1].set(1e-6)

    def loss(w):
        return jnp.sum(jax.nn.softplus(-y * (x @ w))) + 0.5 * jnp.sum(weights * w**2)

    def newton(w, _):
        p = jax.nn.sigmoid(y * (x @ w))
        gradient = -x.T @ (y * (1 - p)) + weights * w
        hessian = (x * (p * (1 - p))[:, None]).T @ x + jnp.diag(weights)
        step = jnp.linalg.solve(hessian, gradient)
        shares = 0.5 ** jnp.arange(10.0)
        tried = w - shares[:, None].astype(w.dtype) * step
        losses = jax.vmap(loss)(tried)
        best = tried[jnp.argmin(losses)]
        return jnp.where(jnp.min(losses) < loss(w), best, w), None

    w, _ = jax.lax.scan(newton, jnp.zeros(x.shape[1], x.dtype), length=num_steps)
    slope = jnp.linalg.norm(w[:-1])
    accuracy = jnp.mean((x @ w > 0) == jnp.asarray(has, bool))
    return Classifier(unit(w[:-1]), slope, w[-1], accuracy)


def project_out(direction: jax.Array, others: jax.Array) -> jax.Array:
    """A direction [D] without what it shares with others [K, D], of length 1: a walk along it leaves those as they are.

    n1 - (n1 . n2) n2 for one other of length 1; for several, n1 minus its projection on the space that they span.

    Raises:
      ValueError: for a direction that lies in that space: nothing would be left.
    """
    others = jnp.atleast_2d(others)
    basis, _ = jnp.linalg.qr(others.T)
    left = direction - basis @ (basis.T @ direction)
    if float(jnp.linalg.norm(left)) < 1e-5 * float(jnp.linalg.norm(direction)):
        raise ValueError("nothing is left of this direction without the others: it is a mixture of them")
    return unit(left)


def walk(
    decode: Callable[[Any], jax.Array], latents: Any, direction: jax.Array, strengths: Iterable[float]
) -> jax.Array:
    """Images along a direction: decode(z + strength * direction) for each strength.

    `decode` is called once for each strength, with all latents: at strength 0 it is given what it is given for a
    reconstruction, and returns the same bits.

    Args:
      decode: latents with leaves [B, ...] -> images [B, H, W, C].
      latents: leaves [B, ...].
      direction: [D], or [B, D]: one for each.
      strengths: [S], such as -3 to 3.

    Returns:
      [S, B, H, W, C].
    """
    rows, back = rows_of(latents)
    return jnp.stack([decode(back(rows + strength * direction)) for strength in strengths])
