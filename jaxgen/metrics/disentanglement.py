"""Whether single latents stand for single factors of variation: MIG, DCI and SAP, of codes and the factors behind them.

Codes are [N, D], such as posterior means; factors [N, K] are whole numbers, a column for each factor, whose values are
categories (mutual information, DCI) or numbers in order (SAP). All is in NumPy and float64, and nothing is drawn. Each
is 1 at best; which of them is high differs between models that look alike, so report all, with their settings.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxgen.metrics.double_precision import check_features


class Gap(NamedTuple):
    """How far the best latent of each factor is ahead of the second best.

    score: the mean over factors.
    of_factors: [K].
    table: [D, K], what each latent knows of each factor.
    """

    score: float
    of_factors: np.ndarray
    table: np.ndarray


class DCI(NamedTuple):
    """Disentanglement, completeness, informativeness.

    Attributes:
      disentanglement: 1 where each latent that matters is important for one factor alone.
      completeness: 1 where for each factor one latent alone is important.
      informativeness: 1 where codes tell all factors of images that were not learnt from; 0 where they tell no more
        than how frequent values are.
      of_latents: [D], the disentanglement of each.
      of_factors: [K], the completeness of each.
      accuracy: [K], share of codes whose value of a factor is predicted.
      importance: [D, K], of each latent for each factor; columns sum to 1, or are 0 where a factor is not told.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    of_latents: np.ndarray
    of_factors: np.ndarray
    accuracy: np.ndarray
    importance: np.ndarray


def mutual_information_gap(codes: ArrayLike, factors: ArrayLike, *, num_bins: int = 20) -> Gap:
    """MIG = 1/K sum_k (I(z_a; v_k) - I(z_b; v_k)) / H(v_k), a and b the two latents that know most of factor k.

    I and H are those of frequencies in a table of bins and values (the plug-in estimate), the bins of a latent equally
    wide between its smallest and largest code. That overestimates each I by about (bins - 1)(values - 1) / 2N nats,
    which cancels from the gap where all latents have it.

    Args:
      codes: [N, D], D at least 2. Posterior means, where the paper has draws: as is usual.
      factors: [N, K], whole numbers.
      num_bins: of each latent, at least 2. 20 is usual. A latent with more values loses some.

    Returns:
      A `Gap`, whose table is I(z_j; v_k) / H(v_k).

    Raises:
      TypeError: for factors that are no whole numbers.
      ValueError: for a factor that is constant, fewer codes than cells of a table, one latent alone, or codes that are
        not finite.

    Source: Chen, Li, Grosse, Duvenaud 2018, section 4.1; bins of Locatello et al. 2019.
    """
    codes, values = _checked(codes, factors)
    if num_bins < 2:
        raise ValueError(f"num_bins must be at least 2, not {num_bins}")
    _check_enough(codes, values, num_bins)
    bins = _equally_wide(codes, num_bins)
    table = np.array([[_mutual_information(z, v) for v in values.T] for z in bins.T])
    return _gap(table / [_mutual_information(v, v) for v in values.T])


def sap(codes: ArrayLike, factors: ArrayLike, *, categorical: Sequence[int] = (), num_bins: int = 20) -> Gap:
    """SAP: how much better the best latent alone predicts a factor than the second best.

    Of a factor in order it is predicted linearly, and the score is R^2, the squared correlation. Of a categorical one
    by thresholds: each bin of a latent names the value that is most frequent in it, values weighing the same, and the
    score is (balanced accuracy - 1/n) / (1 - 1/n) for n values. The paper has no such correction for chance; with it
    1 is the best for both kinds.

    Args:
      codes: [N, D], D at least 2.
      factors: [N, K], whole numbers, in order but for those named.
      categorical: the columns of factors whose values have no order, such as a shape.
      num_bins: equally wide bins of a latent, of whose edges thresholds are made.

    Returns:
      A `Gap`, whose table has the scores.

    Raises:
      TypeError, ValueError: as `mutual_information_gap`, and for a column that there is not.

    Source: Kumar, Sattigeri, Balakrishnan 2018, section 3.
    """
    codes, values = _checked(codes, factors)
    if num_bins < 2:
        raise ValueError(f"num_bins must be at least 2, not {num_bins}")
    if wrong := [k for k in categorical if not 0 <= k < values.shape[1]]:
        raise ValueError(f"there is no factor number {wrong[0]} of {values.shape[1]}, counted from 0")
    bins = _equally_wide(codes, num_bins)
    if len(categorical):
        _check_enough(codes, values[:, list(categorical)], num_bins)
    ordered = _squared_correlation(codes, np.asarray(factors, np.float64))
    columns = [
        [_by_thresholds(z, values[:, k]) for z in bins.T] if k in categorical else ordered[:, k]
        for k in range(values.shape[1])
    ]
    return _gap(np.stack(columns, axis=1))


def dci(
    train_codes: ArrayLike,
    train_factors: ArrayLike,
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    max_depth: int = 10,
    least_rows: int = 10,
    num_bins: int = 64,
) -> DCI:
    """Disentanglement, completeness and informativeness, by a decision tree for each factor.

    Of the tree (CART: at each node the threshold of one latent that lowers the Gini impurity most, the first of equals)
    R_jk is how much the splits of latent j lower the impurity for factor k, in all, and columns of R are scaled to sum
    to 1. Entropies have the number of entries as their base:

        D_j = 1 - H(R_j. / sum_k R_jk), weighed by sum_k R_jk;   C_k = 1 - H(R_.k)

    The paper takes Lasso, which sees what is linear, or random forests. One tree alone is the same each time, and 1 is
    1 where codes are factors; of two latents that say the same it takes the first.

    Args:
      train_codes: [N, D], D at least 2.
      train_factors: [N, K], K at least 2.
      codes: [M, D], of other images, by which informativeness is judged.
      factors: [M, K].
      max_depth: of the trees: splits from the root to a leaf.
      least_rows: training codes of a leaf.
      num_bins: thresholds of a latent lie between so many bins, with about as many training codes in each.

    Returns:
      A `DCI`. Informativeness is the mean over factors of 1 - (wrong by the tree) / (wrong by the most frequent value).

    Raises:
      TypeError, ValueError: as `mutual_information_gap`; for one factor alone, unlike D or K, or fewer training codes
        than two leaves take.

    Source: Eastwood and Williams 2018, "A framework for the quantitative evaluation of disentangled representations".
    """
    train_codes, train_values = _checked(train_codes, train_factors, "training ")
    codes, values = _checked(codes, factors, at_least=1)
    train_factors, factors = np.asarray(train_factors), np.asarray(factors)
    if train_codes.shape[1] != codes.shape[1] or train_values.shape[1] != values.shape[1]:
        pairs = (train_codes, train_values), (codes, values)
        there = [f"{x.shape[1]} latents and {y.shape[1]} factors" for x, y in pairs]
        raise ValueError(f"training codes have {there[0]}, and codes {there[1]}")
    if values.shape[1] < 2:
        raise ValueError("a latent for one factor alone is told from others where there are at least two factors")
    if len(train_codes) < 2 * least_rows:
        raise ValueError(f"{len(train_codes)} training codes are fewer than two leaves of {least_rows} take")
    bins, of_test = _equally_full(train_codes, codes, num_bins)
    importance, accuracy, skill = np.zeros((codes.shape[1], values.shape[1])), [], []
    for k in range(values.shape[1]):
        importance[:, k], leaf = _tree(bins, train_values[:, k], of_test, num_bins, max_depth, least_rows)
        names = np.unique(train_factors[:, k])  # what the numbers of train_values stand for
        wrong = np.mean(names[leaf] != factors[:, k])
        by_frequency = np.mean(names[np.argmax(np.bincount(train_values[:, k]))] != factors[:, k])
        accuracy.append(1 - wrong)
        skill.append(1 - wrong / by_frequency if by_frequency > 0 else 0.0)
    sums = importance.sum(axis=0)
    importance /= np.where(sums > 0, sums, 1.0)
    weight = importance.sum(axis=1)
    of_latents = _one_less_entropy(importance)
    of_factors = _one_less_entropy(importance.T)
    return DCI(
        disentanglement=float(weight @ of_latents / weight.sum()) if weight.sum() > 0 else 0.0,
        completeness=float(np.mean(of_factors)),
        informativeness=float(np.mean(skill)),
        of_latents=of_latents,
        of_factors=of_factors,
        accuracy=np.array(accuracy),
        importance=importance,
    )


# What goes in ---------------------------------------------------------------------------------------------------------


def _checked(codes: ArrayLike, factors: ArrayLike, whose: str = "", at_least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """(codes in float64; factors as numbers from 0 of the values that each has, [N, K])."""
    codes = check_features(codes, f"{whose}codes", at_least=at_least).astype(np.float64)
    factors = np.asarray(factors)
    if factors.dtype.kind not in "iu":
        raise TypeError(f"{whose}factors must be whole numbers, not {factors.dtype}: number the values of each")
    if factors.ndim != 2 or len(factors) != len(codes) or not factors.shape[1]:
        raise ValueError(
            f"{whose}factors must have the shape [N, K] with the N = {len(codes)} of the codes, not "
            f"{list(factors.shape)}"
        )
    if codes.shape[1] < 2:
        raise ValueError("one latent alone has no second one to be ahead of: at least two are needed")
    values = np.stack([np.unique(column, return_inverse=True)[1].reshape(-1) for column in factors.T], axis=1)
    if at_least > 1 and not values.max(axis=0).all():
        constant = int(np.argmin(values.max(axis=0)))
        raise ValueError(f"factor number {constant} (from 0) is the same for all {len(codes)} codes: leave it out")
    return codes, values


def _check_enough(codes, values, num_bins):
    cells = num_bins * (int(values.max()) + 1)
    if len(codes) < cells:
        raise ValueError(
            f"{len(codes)} codes are fewer than the {cells} cells of {num_bins} bins and {cells // num_bins} values: "
            "frequencies would say nothing. Give more codes, or fewer bins"
        )


def _equally_wide(codes, num_bins):
    low, high = codes.min(axis=0), codes.max(axis=0)
    share = (codes - low) / np.where(high > low, high - low, 1.0)
    return np.minimum((share * num_bins).astype(np.int64), num_bins - 1)


def _equally_full(train, codes, num_bins):
    """Numbers of bins, of both; edges are quantiles of the first."""
    found = []
    for x, y in zip(train.T, codes.T, strict=True):
        inner = np.linspace(0, 1, num_bins + 1)[1:-1]
        edges = np.unique(np.quantile(x, inner, method="inverted_cdf"))
        found.append([np.searchsorted(edges, x, side="left"), np.searchsorted(edges, y, side="left")])
    return (np.stack(side, axis=1) for side in zip(*found, strict=True))


# Of one latent and one factor -----------------------------------------------------------------------------------------


def _table(a, b):
    """How often each pair occurs, [values of a, values of b]."""
    size = int(b.max()) + 1
    return np.bincount(a * size + b, minlength=(int(a.max()) + 1) * size).reshape(-1, size)


def _mutual_information(a, b):
    """Of two columns of whole numbers, in nats."""
    joint = _table(a, b) / len(a)
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    there = joint > 0
    return float(np.sum(joint[there] * np.log(joint[there] / apart[there])))


def _squared_correlation(codes, factors):
    """[D, K]; 0 of a constant latent."""
    z, v = (x - x.mean(axis=0) for x in (codes, factors))
    both = np.sum(z**2, axis=0)[:, None] * np.sum(v**2, axis=0)
    return (z.T @ v) ** 2 / np.where(both > 0, both, 1.0)


def _by_thresholds(bins, value):
    """Balanced accuracy of the value that is the most frequent in each bin, scaled so that chance is 0."""
    shares = _table(bins, value) / np.bincount(value)  # of each value's codes, in each bin
    number = shares.shape[1]
    return float((shares.max(axis=1).sum() / number - 1 / number) / (1 - 1 / number))


def _gap(table):
    first, second = np.sort(table, axis=0)[:-3:-1]
    return Gap(float(np.mean(first - second)), first - second, table)


# A decision tree ------------------------------------------------------------------------------------------------------


def _tree(bins, value, of_test, num_bins, max_depth, least_rows):
    """(how much the splits of each latent lower the impurity [D], the value that each row of of_test is given [M])."""
    number, lowered = int(value.max()) + 1, np.zeros(bins.shape[1])
    named = np.zeros(len(of_test), np.int64)
    nodes = [(np.arange(len(bins)), np.arange(len(of_test)), max_depth)]
    while nodes:
        rows, asked, depth = nodes.pop()
        counts = np.bincount(value[rows], minlength=number)
        named[asked] = np.argmax(counts)
        if depth == 0 or len(rows) < 2 * least_rows or counts.max() == len(rows):
            continue
        gain, latent, threshold = _best_split(bins[rows], value[rows], counts, num_bins, least_rows)
        if gain <= 1e-9 * len(rows):  # 0, but for rounding
            continue
        lowered[latent] += gain
        below, asked_below = bins[rows, latent] <= threshold, of_test[asked, latent] <= threshold
        nodes += [(rows[below], asked[asked_below], depth - 1), (rows[~below], asked[~asked_below], depth - 1)]
    return lowered, named


def _best_split(bins, value, counts, num_bins, least_rows):
    """(by how much, latent, last bin below): the fall of rows times Gini impurity, n - sum_c n_c^2 / n."""
    num_latents, number = bins.shape[1], len(counts)
    cell = (np.arange(num_latents) * num_bins + bins) * number + value[:, None]
    there = np.bincount(cell.ravel(), minlength=num_latents * num_bins * number)
    below = np.cumsum(there.reshape(num_latents, num_bins, number), axis=1)[:, :-1]
    above, num_below = counts - below, below.sum(axis=2)
    num_above = len(bins) - num_below
    kept = (below**2).sum(axis=2) / np.maximum(num_below, 1) + (above**2).sum(axis=2) / np.maximum(num_above, 1)
    gain = np.where((num_below >= least_rows) & (num_above >= least_rows), kept - (counts**2).sum() / len(bins), 0.0)
    best = int(np.argmax(gain))
    return gain.flat[best], *divmod(best, num_bins - 1)


def _one_less_entropy(rows):
    """1 - H of each row scaled to sum to 1, in units of the logarithm of its length; 0 of a row of zeros."""
    sums = rows.sum(axis=1, keepdims=True)
    share = rows / np.where(sums > 0, sums, 1.0)
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=1) / np.log(rows.shape[1])
    return np.where(sums[:, 0] > 0, 1 - entropy, 0.0)
