"""Terms of the evidence lower bound. Sums over pixels and latents, one number per image [B], in nats.

Log-likelihoods are log-likelihoods: larger is better. The negative is the distortion, the KL divergence the rate, and
ELBO = -distortion - rate.

Where a true value is a finite number of the dtype, so are the value and its gradient, for logits, scales and variances
of any size. Ordinary inputs take the plain formula: no bit of theirs depends on the care for others.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxgen.arguments import described, short

LOG_2PI = math.log(2 * math.pi)


def _sum_per_image(x):
    return jnp.sum(x, axis=range(1, x.ndim))


@jax.custom_jvp
def _finite(x):
    """x, infinities replaced by the largest number of the dtype; the derivative is 1 everywhere, and NaN stays NaN."""
    largest = jnp.finfo(x.dtype).max
    return jax.lax.clamp(-largest, x, largest)


_finite.defjvps(lambda tangent, _, x: tangent)


@jax.custom_jvp
def _square_over_variance(x, logvar):
    """x^2 exp(-logvar), finite wherever that is."""
    factor, inverse_variance = _factors(logvar)
    return (x * factor) ** 2 * inverse_variance


@_square_over_variance.defjvp
def _square_over_variance_jvp(primals, tangents):
    x, logvar = primals
    factor, inverse_variance = _factors(logvar)
    squared = (x * factor) ** 2
    value = squared * inverse_variance
    # Each factor by itself, in the order of the plain formula, whose roundings these are.
    of_x = tangents[0] * (2 * (x * factor)) * inverse_variance * factor
    return value, of_x + squared * (-tangents[1] * inverse_variance)


def _factors(logvar):
    """(f, b) with f^2 b = exp(-logvar): 1 and that, or its root and 1, where it is at the end of the dtype's range."""
    end = 0.9 * math.log(jnp.finfo(logvar.dtype).max)
    far = jnp.abs(logvar) > end
    found = jnp.exp(-jnp.where(far, jnp.maximum(0.5 * logvar, -end), logvar))
    return jnp.where(far, found, 1.0), jnp.where(far, 1.0, found)


def gaussian_kl_per_unit(
    mean: jax.Array, logvar: jax.Array, prior_mean: ArrayLike = 0.0, prior_logvar: ArrayLike = 0.0
) -> jax.Array:
    """KL(N(mean, exp(logvar)) || N(prior_mean, exp(prior_logvar))) of every coordinate, in nats, the shape of `mean`.

    (prior_logvar - logvar + (exp(logvar) + (mean - prior_mean)^2) / exp(prior_logvar) - 1) / 2
    """
    prior_mean, prior_logvar = jnp.asarray(prior_mean), jnp.asarray(prior_logvar)
    return 0.5 * (
        prior_logvar - logvar + jnp.exp(logvar - prior_logvar) + (mean - prior_mean) ** 2 * jnp.exp(-prior_logvar) - 1.0
    )


def gaussian_kl(
    mean: jax.Array, logvar: jax.Array, prior_mean: ArrayLike = 0.0, prior_logvar: ArrayLike = 0.0
) -> jax.Array:
    """KL divergence between diagonal Gaussians, summed over latents (Kingma and Welling 2014, appendix B).

    Args:
      mean: posterior mean [B, ...].
      logvar: log of the posterior variance (not of the standard deviation), the shape of `mean`.
      prior_mean: broadcasts against `mean`.
      prior_logvar: broadcasts against `mean`.

    Returns:
      [B], non-negative, in nats.
    """
    return _sum_per_image(gaussian_kl_per_unit(mean, logvar, prior_mean, prior_logvar))


def bernoulli_log_likelihood(logits: jax.Array, x: jax.Array) -> jax.Array:
    """log p(x) = sum_i x_i log sigmoid(logits_i) + (1 - x_i) log(1 - sigmoid(logits_i)).

    Args:
      logits: [B, ...]; an infinite one counts as the largest number.
      x: the shape of `logits`, in {0, 1}. Grey levels in between give a number, but no likelihood: binarise first.

    Returns:
      [B], at most 0, in nats.
    """
    logits = _finite(logits)  # infinite ones would be inf - inf, or 0 * inf
    return -_sum_per_image(_softplus(logits) - x * logits)


@jax.custom_jvp
def _softplus(x):
    """log(1 + exp(x)): `jax.nn.softplus`, two to four times faster on CPU, and smooth at 0 to every order."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


# Derived piece by piece, the second derivative would be 0 instead of 1/4 at 0, where both pieces have a corner.
_softplus.defjvps(lambda tangent, _, x: tangent * jax.nn.sigmoid(x))


def gaussian_log_likelihood(mean: jax.Array, logvar: jax.Array, x: jax.Array) -> jax.Array:
    """log N(x; mean, exp(logvar)), a density with its normaliser, summed over pixels.

    Args:
      mean: [B, ...].
      logvar: log of the variance; broadcasts against `mean`.
      x: the shape of `mean`.

    Returns:
      [B] in nats.
    """
    return -0.5 * _sum_per_image(LOG_2PI + logvar + _square_over_variance(x - mean, logvar))


def discretized_logistic_log_likelihood(mean: jax.Array, log_scale: jax.Array, x: jax.Array) -> jax.Array:
    """log of the logistic distribution's mass on the bin of each of 256 levels, summed over pixels.

    A level k in 0..255 stands at x = k / 127.5 - 1; its bin reaches 1/255 to both sides, and the first and the last
    bin reach to infinity, so that the 256 masses sum to exactly 1 for every mean and scale (Salimans et al. 2017,
    eq. 2, one component; Kingma et al. 2016, appendix).

    Args:
      mean: [B, ...].
      log_scale: log of the logistic scale; broadcasts against `mean`.
      x: the shape of `mean`, in [-1, 1] on the 256 levels (moved to the nearest level if it is off).

    Returns:
      [B], at most 0, in nats.
    """
    level = jnp.clip(jnp.round((x + 1) * 127.5), 0, 255)
    return _sum_per_image(discretized_logistic_log_mass(mean, log_scale, level))


def discretized_logistic_log_mass(
    mean: jax.Array, log_scale: jax.Array, level: jax.Array, num_levels: int = 256
) -> jax.Array:
    """log of the logistic distribution's mass on the bin of a level, of each number by itself.

    Level k in 0..n - 1 stands at 2 k / (n - 1) - 1; its bin reaches 1 / (n - 1) to both sides, and the first and the
    last bin reach to infinity.

    Args:
      mean: any shape.
      log_scale: log of the logistic scale; broadcasts against `mean`.
      level: whole numbers, as floating point; broadcasts against `mean`.
      num_levels: n.

    Returns:
      Their common shape, at most 0, in nats.
    """
    last, half = num_levels - 1, (num_levels - 1) / 2
    mean = _finite(mean)
    inverse_scale = jnp.exp(-_at_least(log_scale, -math.log(jnp.finfo(log_scale.dtype).max)))
    # From half-integers, which are exact: the upper edge of a bin is the lower edge of the next to the last bit.
    upper = ((level + 0.5) / half - 1 - mean) * inverse_scale
    lower = ((level - 0.5) / half - 1 - mean) * inverse_scale
    # log(sigmoid(upper) - sigmoid(lower)) = log_sigmoid(upper) + log_sigmoid(-lower) + log(1 - exp(lower - upper)),
    # which keeps its precision where both sigmoids are near 0 or 1.
    width = jnp.broadcast_to(2 / last * inverse_scale, upper.shape)
    below, above = jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower)
    middle = below + above + _log1mexp(width, math.log(2 / last) - log_scale)
    return jnp.where(level <= 0, below, jnp.where(level >= last, above, middle))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _at_least(x, smallest):
    """max(x, smallest) with the derivative 1, just above the end of the range."""
    return jnp.maximum(x, 0.999 * smallest)


@_at_least.defjvp
def _at_least_jvp(smallest, primals, tangents):
    return _at_least(*primals, smallest), tangents[0]


def _log1mexp(a, log_a):
    """log(1 - exp(-a)) for a > 0, without cancellation at either end; log_a is log(a), where a itself vanishes."""
    vanishing = a < 2 * jnp.finfo(a.dtype).tiny
    small = a < math.log(2)
    # Branches not taken get a harmless argument: where a derivative is infinite, its product with the 0 of `where`
    # would be NaN.
    ordinary = jnp.where(
        small,
        jnp.log(-jnp.expm1(-jnp.where(vanishing, 1.0, a))),
        jnp.log1p(-jnp.exp(-jnp.where(small, 1.0, a))),
    )
    return jnp.where(vanishing, log_a, ordinary)


def logit_laplace_log_likelihood(mean: jax.Array, log_scale: jax.Array, x: jax.Array) -> jax.Array:
    """log of the density of a number in (0, 1) whose logit is Laplace, summed over pixels (Ramesh et al. 2021, A.3).

    log p(x) = -|logit(x) - mean| / scale - log(2 scale) - log(x (1 - x)); it integrates to 1 over (0, 1).

    Args:
      mean: of the logit, [B, ...].
      log_scale: log of the Laplace scale; broadcasts against `mean`.
      x: the shape of `mean`, in (0, 1): images are mapped to [0.1, 0.9] first (`logit_laplace`).

    Returns:
      [B] in nats of a density of x, so it can be positive.
    """
    logit = jnp.log(x) - jnp.log1p(-x)
    factor, inverse_scale = _factors(log_scale)  # in pieces: the inverse alone can be too large for the dtype
    distance = jnp.abs(logit - mean) * factor * inverse_scale * factor
    return -_sum_per_image(distance + math.log(2) + log_scale + jnp.log(x) + jnp.log1p(-x))


def importance_weighted_bound(log_weights: jax.Array, axis: int = 0) -> jax.Array:
    """log (1/k sum_i w_i), w_i = p(x, z_i) / q(z_i | x): a lower bound of log p(x), tighter with k (Burda et al. 2016).

    Args:
      log_weights: log w, with the k samples along `axis`.
      axis: the axis of the samples.

    Returns:
      `log_weights` without `axis`, in nats. k = 1 is the ELBO's single-sample estimate.
    """
    return jax.nn.logsumexp(log_weights, axis=axis) - math.log(log_weights.shape[axis])


def bits_per_dim(nll: jax.Array | float, dims: int) -> jax.Array | float:
    """nll / (dims ln 2), for a negative log-likelihood in nats over `dims` real (not padded) sub-pixels."""
    return nll / (dims * math.log(2))


class Likelihood(NamedTuple):
    """What a decoder's output means: a distribution over images in [-1, 1].

    log_prob: `(decoder output, image [B, H, W, C]) -> [B]` nats.
    mean: `(decoder output) -> image [B, H, W, C]` in [-1, 1], what `sample` and `reconstruct` show.
    sample: `(decoder output, key) -> image [B, H, W, C]`, a draw from it, where one is worth looking at.
    """

    log_prob: Callable
    mean: Callable
    sample: Callable | None = None

    def __repr__(self) -> str:
        return short(self)


def check_likelihood(likelihood: Any) -> None:
    """Raises a TypeError for what is no likelihood, such as a name."""
    if not (callable(getattr(likelihood, "log_prob", None)) and callable(getattr(likelihood, "mean", None))):
        raise TypeError(
            f"likelihood must be one of losses.variational, such as variational.bernoulli, not {described(likelihood)}"
        )


def _bernoulli_log_prob(logits, image):
    return bernoulli_log_likelihood(logits, (image + 1) / 2)


def _bernoulli_mean(logits):
    return 2 * jax.nn.sigmoid(logits) - 1


bernoulli = Likelihood(_bernoulli_log_prob, _bernoulli_mean)
"""The decoder returns logits of the pixel being 1; images are binarised, so they are -1 or 1."""


def _gaussian_log_prob(output, image):
    return gaussian_log_likelihood(*output, image)


def _clipped_mean(output):
    return jnp.clip(output[0], -1, 1)


gaussian = Likelihood(_gaussian_log_prob, _clipped_mean)
"""The decoder returns (mean, logvar); a density, so its nats are not comparable with those of discrete pixels."""


def _discretized_logistic_log_prob(output, image):
    return discretized_logistic_log_likelihood(*output, image)


discretized_logistic = Likelihood(_discretized_logistic_log_prob, _clipped_mean)
"""The decoder returns (mean, log_scale) for images on 256 levels."""


EDGE = 0.1  # what a logit-Laplace likelihood keeps images away from 0 and 1 by


def _logit_laplace_log_prob(output, image):
    return logit_laplace_log_likelihood(*output, EDGE + (1 - 2 * EDGE) * (image + 1) / 2)


def _logit_laplace_mean(output):
    return 2 * jnp.clip((jax.nn.sigmoid(output[0]) - EDGE) / (1 - 2 * EDGE), 0, 1) - 1


logit_laplace = Likelihood(_logit_laplace_log_prob, _logit_laplace_mean)
"""The decoder returns (mean, log_scale) of the logits of pixels that are mapped from [-1, 1] to [0.1, 0.9].

A density of the mapped pixels, so its nats are not comparable with those of discrete ones; what is shown is the image
of its median.
"""
