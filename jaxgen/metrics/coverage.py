"""Mode coverage where modes can be counted: rings and grids of Gaussians, and Stacked MNIST. Jittable and vmappable."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def mode_coverage(
    samples: ArrayLike, centres: ArrayLike, std: float, *, num_stds: float = 3.0, probabilities: ArrayLike | None = None
) -> dict[str, jax.Array]:
    """How many modes of a mixture of Gaussians a generator finds, how sharply, and in what proportion.

    A sample belongs to the nearest centre and is of high quality within `num_stds` standard deviations of it. A mode is
    captured if it has a sample of high quality. The divergence is over all samples, of high quality or not.

    In the plane, a perfect sampler's high-quality share is 1 - exp(-num_stds^2 / 2), 98.9 % for 3.

    Args:
      samples: [N, D]. A sample that is not finite belongs to no mode, and counts as one of low quality.
      centres: [K, D], such as `toy.ring_modes()` or `toy.grid_modes()`.
      std: standard deviation of each Gaussian along each axis; a number, or one for each mode [K].
      num_stds: radius of high quality. Papers take 3 or 4.
      probabilities: the mixture's weights [K], known when traced. None: equal ones.

    Returns:
      A dict of scalars: `modes` (int32), `high_quality_share` in [0, 1], and `kl` and `kl_floor` as in
      `label_coverage`. Without one finite sample `kl` is NaN.

    Raises:
      ValueError: for shapes that do not fit.

    Source: Metz, Poole, Pfau, Sohl-Dickstein 2017, "Unrolled Generative Adversarial Networks"; Lin, Khetan, Fanti, Oh
    2018, "PacGAN".
    """
    samples, centres = jnp.asarray(samples), jnp.asarray(centres)
    if samples.ndim != 2 or centres.ndim != 2 or samples.shape[1] != centres.shape[1] or not len(samples):
        raise ValueError(
            f"samples [N, D] and centres [K, D] must have the same D, but have the shapes {list(samples.shape)} and "
            f"{list(centres.shape)}"
        )
    num_modes = len(centres)
    distances = jnp.linalg.norm(samples[:, None] - centres, axis=-1)
    finite = jnp.all(jnp.isfinite(samples), axis=1)
    # num_modes is one more than the last mode: those samples fall out of the counts.
    nearest = jnp.where(finite, jnp.argmin(distances, axis=1), num_modes)
    reach = jnp.broadcast_to(num_stds * jnp.asarray(std), (num_modes,))
    good = jnp.any((jnp.arange(num_modes) == nearest[:, None]) & (distances < reach), axis=1)
    captured = jnp.bincount(jnp.where(good, nearest, num_modes), length=num_modes + 1)[:num_modes] > 0
    return label_coverage(nearest, num_modes, probabilities=probabilities) | {
        "modes": jnp.sum(captured, dtype=jnp.int32),
        "high_quality_share": jnp.mean(good),
    }


def stacked_mode_coverage(
    channels: Any, *, num_classes: int = 10, probabilities: ArrayLike | None = None
) -> dict[str, jax.Array]:
    """Mode coverage of Stacked MNIST: a classifier's opinion of each channel names one of num_classes^3 modes.

    The usual protocol draws 26,000 samples. Even a perfect sampler then has a divergence of 0.0193 nats, and what the
    classifier misreads adds to it: report the same numbers for real images beside those of a generator.

    Args:
      channels: logits [N, C, num_classes] of one classifier for C channels, or labels [N, C], whole numbers. The mode
        is 100 red + 10 green + blue for 3 channels, as in `data.mnist.stacked_mnist`.
      num_classes: of each channel, for labels; logits say it themselves.
      probabilities: as in `label_coverage`, [num_classes^C].

    Returns:
      A dict of scalars: `modes`, `kl`, `kl_floor`, as `label_coverage`. An image with logits that are not finite
      belongs to no mode.

    Raises:
      TypeError: for floating point numbers that are no logits, by their shape.
      ValueError: for another shape, or another number of classes than logits have.
    """
    channels = jnp.asarray(channels)
    if jnp.issubdtype(channels.dtype, jnp.floating):
        if channels.ndim != 3:
            raise TypeError(
                f"logits must have the shape [N, channels, classes], not {list(channels.shape)}; "
                "labels are whole numbers"
            )
        num_classes = channels.shape[2]
        finite = jnp.all(jnp.isfinite(channels), axis=2)
        channels = jnp.where(finite, jnp.argmax(channels, axis=2), -1)
    if channels.ndim != 2:
        raise ValueError(f"labels of channels must have the shape [N, channels], not {list(channels.shape)}")
    num_modes = num_classes ** channels.shape[1]
    place = num_classes ** np.arange(channels.shape[1])[::-1]
    known = jnp.all((channels >= 0) & (channels < num_classes), axis=1)
    return label_coverage(jnp.where(known, channels @ place, num_modes), num_modes, probabilities=probabilities)


def label_coverage(
    labels: ArrayLike, num_modes: int, *, probabilities: ArrayLike | None = None
) -> dict[str, jax.Array]:
    """How many of the modes occur among N samples, and how far their shares are from what they should be.

        kl = sum_k q_k log(q_k / p_k), q_k the share of mode k among samples that have a mode

    the divergence of the samples from the target, finite where modes are missing. For finite N it is not 0 even for
    samples from the target; `kl_floor` is its expectation then, about (num_modes - 1) / (2 N).

    Args:
      labels: [N] whole numbers. One outside of 0..num_modes - 1 belongs to no mode.
      num_modes: K.
      probabilities: the target p [K], positive, known when traced. None: 1 / K.

    Returns:
      A dict of scalars: `modes` (int32), those that have a sample; `kl` in nats, NaN if no sample has a mode;
      `kl_floor` in nats, for N samples.

    Raises:
      TypeError: for labels that are not whole numbers.
      ValueError: for no samples, another shape, or probabilities that are none.
    """
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels of modes must be whole numbers, not {labels.dtype}")
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels of modes must have the shape [N], with N of at least 1, not {list(labels.shape)}")
    probabilities = _probabilities(num_modes, probabilities)
    labels = jnp.where((labels < 0) | (labels > num_modes), num_modes, labels)
    counts = jnp.bincount(labels, length=num_modes + 1)[:num_modes]
    share = counts / jnp.sum(counts)
    # xlogy is 0 at 0, but its derivative is not wanted here, and log(0) would not be.
    kl = jnp.sum(jnp.where(counts > 0, share * jnp.log(jnp.where(counts > 0, share, 1.0) / probabilities), 0.0))
    return {
        "modes": jnp.sum(counts > 0, dtype=jnp.int32),
        "kl": jnp.where(jnp.sum(counts) > 0, kl, jnp.nan),
        "kl_floor": jnp.asarray(kl_floor(len(labels), probabilities), share.dtype),
    }


def kl_floor(num_samples: int, probabilities: ArrayLike) -> float:
    """The expected divergence of num_samples samples of a distribution from that distribution itself, in nats.

    E sum_k q_k log(q_k / p_k) with N q_k binomial, summed exactly over its N + 1 values in float64 on the host.

    Args:
      num_samples: N.
      probabilities: p [K], positive, adding up to 1.

    Returns:
      Nats. About (K - 1) / (2 N) for large N.
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num_samples + 1)))])
    count = np.arange(1, num_samples + 1)  # a mode without samples adds 0
    log_choose = log_factorial[num_samples] - log_factorial[count] - log_factorial[num_samples - count]
    floor = 0.0
    for p, multiplicity in zip(*np.unique(np.asarray(probabilities, np.float64), return_counts=True), strict=True):
        log_not_p = math.log1p(-p) if p < 1 else -np.inf
        rest = num_samples - count
        log_binomial = log_choose + count * math.log(p) + np.where(rest > 0, np.maximum(rest, 1) * log_not_p, 0.0)
        share = count / num_samples
        floor += multiplicity * np.sum(np.exp(log_binomial) * share * np.log(share / p))
    return float(floor)


def expected_modes(num_samples: int, probabilities: ArrayLike) -> float:
    """How many modes num_samples samples of a distribution hit, on average: sum_k 1 - (1 - p_k)^N."""
    p = np.asarray(probabilities, np.float64)
    with np.errstate(divide="ignore"):
        return float(np.sum(-np.expm1(num_samples * np.log1p(-p))))


def _probabilities(num_modes: int, probabilities) -> np.ndarray:
    if probabilities is None:
        return np.full(num_modes, 1 / num_modes)
    if isinstance(probabilities, jax.core.Tracer):
        raise ValueError("probabilities of modes must be known when traced: close over an array instead of passing it")
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.shape != (num_modes,) or not (probabilities > 0).all() or abs(probabilities.sum() - 1) > 1e-5:
        raise ValueError(f"probabilities must be {num_modes} positive numbers that add up to 1")
    return probabilities / probabilities.sum()
