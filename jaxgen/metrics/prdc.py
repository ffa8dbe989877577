"""Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), by nearest neighbours."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxgen.metrics.double_precision import check_features, check_same_width, double_precision

BLOCK_ELEMENTS = 2**23  # of a matrix of distances that exist at once: 64 MiB for each step of the computation
TIE = 1e-12
"""Squared distances that differ by less than this, times the two squared norms, are equal: float64 cannot say more."""


def precision_recall_density_coverage(real: ArrayLike, fake: ArrayLike, num_neighbours: int = 5) -> dict[str, float]:
    """Where two sets of features overlap, with a ball around each point that reaches its k-th nearest neighbour.

    The ball of x has the distance to the k-th nearest *other* point of its own set as its radius, and its edge belongs
    to it (Kynkäänniemi et al. 2019, eq. 1). Other points at the same place count as neighbours.

        precision  share of fake points in the ball of some real point
        recall     share of real points in the ball of some fake point
        density    1 / (k N) sum over fake points of the number of real points' balls that they are in; may exceed 1
        coverage   share of real points whose ball has a fake point in it

    For two equal distributions and many points precision, recall and density are not exactly 1; coverage tends to
    1 - 2^-k. All depend on k, D and both sizes: state them. Distances are in float64, on the device, in blocks, so
    memory grows with M + N and not with M N.

    Args:
      real: features [M, D].
      fake: features [N, D].
      num_neighbours: k, at least 1 and less than both M and N. Papers take 3 for precision and recall and 5 for density
        and coverage.

    Returns:
      A dict of floats: `precision`, `recall`, `density`, `coverage`.

    Raises:
      TypeError: inside of jit.
      ValueError: for sets that have no k-th neighbour, unequal D, or values that are not finite.
    """
    real, fake = check_features(real, "real features", at_least=2), check_features(fake, "fake features", at_least=2)
    check_same_width(real, fake)
    if not 1 <= num_neighbours < min(len(real), len(fake)):
        raise ValueError(
            f"of {len(real)} real and {len(fake)} fake features not all have a neighbour number {num_neighbours}: "
            f"num_neighbours must be from 1 to {min(len(real), len(fake)) - 1}"
        )
    real_mean, fake_mean = (np.mean(x, axis=0, dtype=np.float64) for x in (real, fake))
    with double_precision():
        # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y loses the digits that norms have beyond distances: so a shift comes first.
        real_radius = _squared_radii(jnp.asarray(real) - real_mean, num_neighbours)
        fake_radius = _squared_radii(jnp.asarray(fake) - fake_mean, num_neighbours)
        middle = (real_mean + fake_mean) / 2
        real, fake = jnp.asarray(real) - middle, jnp.asarray(fake) - middle
        in_real_balls, in_a_fake_ball, covered = np.zeros(len(fake), np.int64), [], []
        for rows in _row_blocks(len(real), len(fake)):
            block_counts, block_in_a_fake_ball, block_covered = _compare(
                real[rows], real_radius[rows], fake, fake_radius
            )
            in_real_balls += np.asarray(block_counts)
            in_a_fake_ball.append(np.asarray(block_in_a_fake_ball))
            covered.append(np.asarray(block_covered))
    return {
        "precision": float(np.mean(in_real_balls > 0)),
        "recall": float(np.mean(np.concatenate(in_a_fake_ball))),
        "density": float(np.sum(in_real_balls) / (num_neighbours * len(fake))),
        "coverage": float(np.mean(np.concatenate(covered))),
    }


def expected_coverage(num_real: int, num_fake: int, num_neighbours: int) -> float:
    """The coverage to be expected of equal distributions: 1 - prod_{i=1..k} (M - i) / (M + N - i).

    A real point's ball is empty of fakes if its k nearest among the M + N - 1 other points are all real.
    Naeem et al. 2020, section 3.3.
    """
    i = np.arange(1, num_neighbours + 1)
    return float(1 - np.prod((num_real - i) / (num_real + num_fake - i)))


def _row_blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    size = max(1, BLOCK_ELEMENTS // num_columns)
    return (slice(start, start + size) for start in range(0, num_rows, size))


def _squared_distances(x, y):
    """(|x_i - y_j|^2, |x_i|^2 + |y_j|^2), both [M, N]."""
    norms = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)
    return jnp.maximum(norms - 2 * x @ y.T, 0.0), norms


@jax.jit
def _compare(real, real_radius, fake, fake_radius):
    """For a block of real points: balls that each fake point is in [N]; in some fake ball [m]; has a fake point [m]."""
    distance, norms = _squared_distances(real, fake)
    in_real_ball = distance <= real_radius[:, None] + TIE * norms
    in_fake_ball = distance <= fake_radius + TIE * norms
    return jnp.sum(in_real_ball, axis=0), jnp.any(in_fake_ball, axis=1), jnp.any(in_real_ball, axis=1)


def _squared_radii(x, k):
    """Squared distance of each point to its k-th nearest other point, [N]."""
    return jnp.concatenate([_block_radii(x, rows.start, x[rows], k) for rows in _row_blocks(len(x), len(x))])


@jax.jit
def _block_radii(x, start, block, k):
    distance, _ = _squared_distances(block, x)
    own = start + jnp.arange(len(block))[:, None] == jnp.arange(len(x))
    distance = jnp.where(own, jnp.inf, distance)  # a point is no neighbour of its own, but its copies are

    # From one distinct distance to the next until k points are as near: k passes at most, without a sort or a copy.
    def further(carry):
        radius, _ = carry
        nearest = jnp.min(jnp.where(distance > radius[:, None], distance, jnp.inf), axis=1)
        radius = jnp.where(_count(distance, radius) < k, nearest, radius)
        return radius, _count(distance, radius)

    start = jnp.full(len(block), -1.0)
    return lax.while_loop(lambda carry: jnp.any(carry[1] < k), further, (start, jnp.zeros(len(block), int)))[0]


def _count(distance, radius):
    return jnp.sum(distance <= radius[:, None], axis=1)
