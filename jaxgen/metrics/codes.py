"""How a tokenizer uses its codes, over a whole data set.

The perplexity of a batch is at most its number of codes: what codes a tokenizer uses shows only in many, 50 for each
entry of the codebook or more.
"""

from collections.abc import Mapping

import numpy as np


def perplexity(counts: np.ndarray) -> float:
    """exp of the entropy of the shares that counts [K] are of their sum: 1 for one code, K for all alike.

    Raises:
      ValueError: for counts that are all 0, or below it.
    """
    counts = np.asarray(counts, np.float64)
    if counts.size == 0 or counts.min() < 0 or counts.sum() == 0:
        raise ValueError("a perplexity is of counts of codes, some of which are above 0 and none below")
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def summary(codes: np.ndarray, num_codes: int) -> dict[str, float]:
    """The numbers of all codes of a data set.

    Args:
      codes: whole numbers [...], from 0 to num_codes - 1.
      num_codes: of the codebook.

    Returns:
      `perplexity`; `bits_per_token`, its base-2 logarithm: what a code costs that knows how often each is used, and
      nothing else; `used_share` and `dead_codes`: the share and the number of codes that occur, and do not.

    Raises:
      ValueError: for a code outside of the codebook.
    """
    codes = np.asarray(codes).reshape(-1)
    if codes.size and (codes.min() < 0 or codes.max() >= num_codes):
        raise ValueError(f"codes are from 0 to {num_codes - 1}, and these go from {codes.min()} to {codes.max()}")
    counts = np.bincount(codes, minlength=num_codes)
    found, used = perplexity(counts), int(np.sum(counts > 0))
    return {
        "perplexity": found,
        "bits_per_token": float(np.log2(found)),
        "used_share": used / num_codes,
        "dead_codes": num_codes - used,
    }


def summarize(rows: Mapping[str, np.ndarray], num_codes: int) -> dict[str, float]:
    """The numbers of a data set from those of its images: `summary` of "codes" [N, ...], and the means of all others.

    Args:
      rows: name -> array [N, ...].
      num_codes: of the codebook.
    """
    others = {name: x for name, x in rows.items() if name != "codes"}
    return means(others) | summary(np.asarray(rows["codes"]), num_codes)


def means(rows: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each array, in double precision."""
    # asarray: NumPy hands the mean of a JAX array back to JAX, which has no float64.
    return {name: float(np.mean(np.asarray(x), dtype=np.float64)) for name, x in rows.items()}
