"""Whether generated images are copies of training images, and whether a discriminator knows these by heart."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgen.metrics.comparison.measured import Measured
from jaxgen.metrics.double_precision import check_features, check_same_width

BLOCK_ELEMENTS = 2**23
ROUNDING = 1e-5  # of float32 features, relative to their norm


def nearest_neighbours(queries: Any, points: Any, but: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Which of the points is nearest to each query, and how far it is.

    Args:
      queries: features [N, D].
      points: features [M, D].
      but: for each query a row of `points` that does not count [N]; None for none.

    Returns:
      (rows of `points` [N], Euclidean distances float64 [N]). The search is in float32, in blocks. The distance to
      what it finds is exact, and 0 where it is no more than the rounding of float32 features: a copy has the distance
      0, also if the network saw it in a batch of another size.

    Raises:
      ValueError: for unequal D, empty sets, or values that are not finite.
    """
    queries, points = check_features(queries, "queries"), check_features(points, "points")
    check_same_width(points, queries)
    middle = points.mean(axis=0, dtype=np.float64)
    shifted = jnp.asarray(points - middle, jnp.float32)
    rows = max(1, BLOCK_ELEMENTS // len(points))
    but = np.full(len(queries), -1) if but is None else np.asarray(but)
    found = [
        np.asarray(_nearest(jnp.asarray(queries[i : i + rows] - middle, jnp.float32), shifted, but[i : i + rows]))
        for i in range(0, len(queries), rows)
    ]
    index = np.concatenate(found)
    queries, found = queries.astype(np.float64), points[index].astype(np.float64)
    distance = np.linalg.norm(queries - found, axis=1)
    return index, np.where(distance <= ROUNDING * np.linalg.norm(found, axis=1), 0.0, distance)


@jax.jit
def _nearest(queries, points, but):
    distance = jnp.sum(points**2, axis=1) - 2 * queries @ points.T
    return jnp.argmin(jnp.where(jnp.arange(len(points)) == but[:, None], jnp.inf, distance), axis=1)


def memorisation(train: Any, held_out: Any, fake: Any) -> Measured:
    """Whether generated images are nearer to the training images than held-out images are.

    The nearest training image of each held-out image gives the distances of new images of the same kind.

    Args:
      train: features [M, D] of training images.
      held_out: features [L, D] of images that were not trained on.
      fake: features [N, D].

    Returns:
      `nearest_ratio`, the median distance of fakes over that of held-out images: about 1 for a perfect generator, 0 for
      copies; `nearer_share`, the share of fakes nearer to their training image than 1 % of the held-out images are:
      about 0.01 for a perfect generator, 1 for copies; and `nearer_share_by_chance`, how large that may be by chance.
      Held-out images at the distance 0 are training images, and left out; NaN if all are. Blurred or unlike images are
      far from both: a large ratio is no merit, and a network that ignores details sees copies where there are none.
    """
    _, of_held_out = nearest_neighbours(held_out, train)
    _, of_fake = nearest_neighbours(fake, train)
    among = of_held_out == 0  # these are training images: how near new ones are they cannot say
    of_held_out = of_held_out[~among]
    if among.any() and len(of_held_out):
        warnings.warn(
            f"{among.sum():,} of the {len(among):,} reference images are training images, or look so to the network: "
            "they are left out where copying is measured, and numbers against the reference look better than they are",
            stacklevel=2,
        )
    if not len(of_held_out):
        return Measured({"nearest_ratio": float("nan"), "nearer_share": float("nan")}, {"n_held_out": 0})
    typical, limit = np.median(of_held_out), np.quantile(of_held_out, 0.01)
    nearer = float(np.mean(of_fake < limit))
    # Both the 1 % and the share that it is compared with are counts.
    by_chance = float(0.01 + 4 * np.sqrt(0.01 * (1 / len(of_held_out) + 1 / len(of_fake))))
    if nearer > by_chance:
        warnings.warn(
            f"{nearer:.1%} of the images are nearer to a training image than 1 % of the held-out images are (by chance "
            f"up to {by_chance:.1%}): {'most' if nearer > 0.5 else 'some'} seem to be copies, unless the network "
            "ignores how they differ. Look at them",
            stacklevel=2,
        )
    values = {
        "nearest_ratio": float(np.median(of_fake) / typical),
        "nearer_share": nearer,
        "nearer_share_by_chance": by_chance,
    }
    return Measured(values, {"n_train": len(train), "n_held_out": len(of_held_out)})


def discriminator_gap(train_logits: ArrayLike, held_out_logits: ArrayLike, fake_logits: ArrayLike) -> dict[str, float]:
    """Whether a discriminator tells the training images from held-out ones.

        discriminator_overfitting = (E D(train) - E D(held out)) / (E D(train) - E D(fake))

    Args:
      train_logits, held_out_logits, fake_logits: [N] each, of one discriminator.

    Returns:
      The means `logit_of_train`, `logit_of_held_out`, `logit_of_fake`, and `discriminator_overfitting`: 0 where
      held-out images look as real as those of the training, 1 where they look as fake as generated ones. NaN where the
      discriminator tells nothing apart.

    Source: Karras et al. 2020, "Training generative adversarial networks with limited data", eq. 1.
    """
    of_train, of_held_out, of_fake = (
        float(np.mean(np.asarray(logits), dtype=np.float64)) for logits in (train_logits, held_out_logits, fake_logits)
    )
    gap = of_train - of_fake
    return {
        "logit_of_train": of_train,
        "logit_of_held_out": of_held_out,
        "logit_of_fake": of_fake,
        "discriminator_overfitting": (of_train - of_held_out) / gap if gap else float("nan"),
    }
