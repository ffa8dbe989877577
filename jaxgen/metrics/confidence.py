"""What a classifier sees in generated images: how sure it is, and how often it sees each class."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def class_confidence(logits: ArrayLike, *, threshold: float = 0.9) -> dict[str, Any]:
    """Share of images with a class probability over a threshold, and the share of each class.

    Says whether images look like members of the classes and whether a class is missing or overdone; not whether they
    look like the data within a class. Real images do not score 100 %: report theirs beside it.

    Args:
      logits: [N, num_classes] of a classifier that was trained on real images.
      threshold: of the largest class probability.

    Returns:
      `confident_share` in [0, 1]; `class_shares`, a list of num_classes shares by the most probable class.
    """
    probability = jax.nn.softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    counts = np.bincount(np.asarray(jnp.argmax(probability, -1)), minlength=probability.shape[-1])
    return {
        "confident_share": float(jnp.mean(jnp.max(probability, -1) > threshold)),
        "class_shares": [float(share) for share in counts / len(probability)],
    }
