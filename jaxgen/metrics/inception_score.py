"""The Inception Score (Salimans et al. 2016): images should be of a clear class each, and of all classes together."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgen.metrics.double_precision import check_features, double_precision


class InceptionScore(NamedTuple):
    """mean and standard_deviation over the splits. `float(result)` is the mean."""

    mean: float
    standard_deviation: float

    def __float__(self) -> float:
        return self.mean


def inception_score(logits: ArrayLike, num_splits: int = 10) -> InceptionScore:
    """exp of the mean of KL(p(y|x) || p(y)) over images x, with p(y) the mean of p(y|x), in each split.

    Splits are consecutive: split i holds rows floor(i N / num_splits) to floor((i + 1) N / num_splits) - 1, as in the
    original code. So the order of images matters a little, and for data sorted by class a lot: shuffle first. The score
    of a split cannot exceed its number of images; published values are for 10 splits of 5,000. Computed in float64.

    Args:
      logits: [N, num_classes] before the softmax. Probabilities are not accepted in their place: nothing would tell.
      num_splits: 1 to N.

    Returns:
      `InceptionScore` (mean, standard_deviation), the latter divided by num_splits. Scores are in [1, num_classes].

    Raises:
      TypeError: inside of jit.
      ValueError: for more splits than images, another shape, a single class, or values that are not finite.
    """
    logits = check_features(logits, "logits")
    n, num_classes = logits.shape
    if not 1 <= num_splits <= n:
        raise ValueError(f"{n} images cannot be divided into {num_splits} splits")
    if num_classes < 2:
        raise ValueError("the Inception Score needs the logits of at least 2 classes, but there is 1")
    edges = [i * n // num_splits for i in range(num_splits + 1)]
    with double_precision():
        scores = [float(_score(logits[a:b])) for a, b in zip(edges, edges[1:], strict=False)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


@jax.jit
def _score(logits):
    log_p = jax.nn.log_softmax(logits.astype(jnp.float64), axis=1)
    log_mean = jax.nn.logsumexp(log_p, axis=0) - np.log(len(logits))
    # exp(log_p) is exactly 0 where log_p is very negative; both logarithms are finite there, so no 0 * infinity.
    return jnp.exp(jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_mean), axis=1)))
