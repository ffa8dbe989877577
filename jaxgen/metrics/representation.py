"""What codes of images tell of labels: a linear probe and nearest neighbours, taught by codes of training images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike

from jaxgen.metrics.double_precision import check_features, double_precision

BLOCK_ELEMENTS = 2**23  # of a matrix of distances that exist at once: 64 MiB


def linear_probe(
    train_codes: ArrayLike,
    train_labels: ArrayLike,
    codes: ArrayLike,
    labels: ArrayLike,
    *,
    decay: float = 1e-3,
    max_steps: int = 500,
    tolerance: float = 1e-5,
) -> float:
    """Share of codes whose label a multinomial logistic regression names that has learnt from the training codes.

        mean of -log softmax(W z + b)_label + decay / 2 |W|^2, minimised over W and b

    z are the codes, each unit moved and scaled to mean 0 and variance 1 over the training codes (a constant one is
    left out). The minimum is unique but for what is added to all logits; L-BFGS finds it from W = 0, b = 0, in float64.
    Nothing is drawn.

    Args:
      train_codes: [N, D].
      train_labels: [N], whole numbers from 0.
      codes: [M, D], of other images.
      labels: [M]. One that no training code has is never named.
      decay: weight of the squared weights, above 0; biases have none.
      max_steps: of L-BFGS.
      tolerance: it has arrived where no entry of the gradient is larger.

    Returns:
      Accuracy in [0, 1]. Chance is the share of the most frequent label.

    Raises:
      TypeError: inside of jit; for labels that are no whole numbers.
      ValueError: for unlike D, labels of another number or below 0, training labels that are all one, codes that are
        not finite, or a decay that is not above 0.

    Source: Alain and Bengio 2017, "Understanding intermediate layers using linear classifier probes".
    """
    train_codes, train_labels, codes, labels = _checked(train_codes, train_labels, codes, labels)
    if not decay > 0:
        raise ValueError(f"decay must be above 0, not {decay}: without it a probe of separable codes has no optimum")
    if len(np.unique(train_labels)) < 2:
        raise ValueError("all training labels are the same: a probe learns to tell at least two apart")
    mean, deviation = np.mean(train_codes, axis=0), np.std(train_codes, axis=0)
    scale = np.where(deviation > 1e-12 * np.abs(mean), 1 / np.where(deviation > 0, deviation, 1.0), 0.0)
    with double_precision():
        weights, bias = _logistic_regression(
            jnp.asarray((train_codes - mean) * scale),
            jnp.asarray(train_labels),
            int(train_labels.max()) + 1,
            max_steps,
            decay,
            tolerance,
        )
    named = np.argmax((codes - mean) * scale @ np.asarray(weights) + np.asarray(bias), axis=1)
    return float(np.mean(named == labels))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _logistic_regression(z, label, num_classes, max_steps, decay, tolerance):
    def loss(params):
        weights, bias = params
        log_prob = jax.nn.log_softmax(z @ weights + bias)
        of_label = jnp.take_along_axis(log_prob, label[:, None], axis=1)
        return -jnp.mean(of_label) + 0.5 * decay * jnp.sum(weights**2)

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def body(carry):
        params, state, _, step = carry
        value, gradient = value_and_grad(params, state=state)
        updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
        largest = jnp.maximum(*(jnp.max(jnp.abs(leaf)) for leaf in gradient))
        return optax.apply_updates(params, updates), state, largest, step + 1

    params = jnp.zeros((z.shape[1], num_classes)), jnp.zeros(num_classes)
    carry = params, optimizer.init(params), jnp.asarray(jnp.inf), 0
    return lax.while_loop(lambda carry: (carry[2] > tolerance) & (carry[3] < max_steps), body, carry)[0]


def k_nearest_neighbours(
    train_codes: ArrayLike, train_labels: ArrayLike, codes: ArrayLike, labels: ArrayLike, *, num_neighbours: int = 5
) -> float:
    """Share of codes whose label most of their k nearest training codes have.

    Distances are Euclidean, of codes as they are. Of labels with as many votes the one counts whose vote is nearest.

    Args:
      train_codes: [N, D].
      train_labels: [N], whole numbers from 0.
      codes: [M, D], of other images.
      labels: [M].
      num_neighbours: k, from 1 to N.

    Returns:
      Accuracy in [0, 1]. Chance is the share of the most frequent label.

    Raises:
      TypeError, ValueError: as `linear_probe`, and for a k that there is not.

    Source: Cover and Hart 1967, "Nearest neighbor pattern classification".
    """
    train_codes, train_labels, codes, labels = _checked(train_codes, train_labels, codes, labels)
    if not 1 <= num_neighbours <= len(train_codes):
        raise ValueError(f"num_neighbours is from 1 to the {len(train_codes)} training codes, not {num_neighbours}")
    middle = np.mean(train_codes, axis=0)  # |x - y|^2 by its three terms loses the digits that a common shift has
    points, queries = train_codes - middle, codes - middle
    norms, right = np.sum(points**2, axis=1), 0
    size = max(1, BLOCK_ELEMENTS // len(points))
    for start in range(0, len(queries), size):
        distance = norms - 2 * queries[start : start + size] @ points.T  # but for what all of a row have in common
        near = np.argpartition(distance, num_neighbours - 1, axis=1)[:, :num_neighbours]
        order = np.argsort(np.take_along_axis(distance, near, axis=1), axis=1, kind="stable")
        votes = train_labels[np.take_along_axis(near, order, axis=1)]
        count = np.sum(votes[:, :, None] == votes[:, None, :], axis=2)
        named = np.take_along_axis(votes, np.argmax(count, axis=1)[:, None], axis=1)[:, 0]
        right += int(np.sum(named == labels[start : start + size]))
    return right / len(queries)


def _checked(
    train_codes: ArrayLike, train_labels: ArrayLike, codes: ArrayLike, labels: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All in NumPy, codes in float64."""
    sides: list[np.ndarray] = []
    for name, x, y in (("training ", train_codes, train_labels), ("", codes, labels)):
        x = check_features(x, f"{name}codes").astype(np.float64)
        y = np.asarray(y)
        if y.dtype.kind not in "iu":
            raise TypeError(f"{name}labels must be whole numbers, not {y.dtype}")
        if y.shape != (len(x),):
            raise ValueError(f"{name}labels must be one for each of {len(x)} codes, not of the shape {list(y.shape)}")
        if y.min() < 0:
            raise ValueError(f"{name}labels count from 0, and one is {y.min()}")
        sides += [x, y.astype(np.int64)]
    if sides[0].shape[1] != sides[2].shape[1]:
        raise ValueError(f"training codes have {sides[0].shape[1]} numbers each, and codes {sides[2].shape[1]}")
    return sides[0], sides[1], sides[2], sides[3]
