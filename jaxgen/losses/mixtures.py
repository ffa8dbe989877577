"""The discretised mixture of logistics over whole pixels (Salimans, Karpathy, Chen and Kingma 2017, PixelCNN++).

A pixel has one component for all its channels, which see each other through their means:

    p(x) = sum_i pi_i prod_c logistic_mass(x_c; mean_ic + sum_{d < c} tanh(k_icd) x_d, max(log_scale_ic, -7))

With one component for each channel the channels were independent, and the sum another number. x_d are values in [-1, 1]
on the levels: true ones in the likelihood, drawn and rounded ones in `sample`, so that both are of one distribution.

    likelihood = mixtures.discretized_logistic_mixture(channels=3)
    nats = likelihood.log_prob(output, image)      # output [B, H, W, num_outputs(10, 3)] of a decoder
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen import sharding
from jaxgen.arguments import check_key
from jaxgen.losses import variational

LEAST_LOG_SCALE = -7.0  # below it a logistic is narrower than a tenth of a level


class Mixture(NamedTuple):
    """Of K components for each pixel of C channels.

    logits: of the components [..., K].
    means, log_scales: [..., C, K].
    coefficients: before tanh [..., C (C - 1) / 2, K], for the pairs (c, d): (1, 0), (2, 0), (2, 1), ...
    """

    logits: jax.Array
    means: jax.Array
    log_scales: jax.Array
    coefficients: jax.Array


def num_outputs(num_mixtures: int, channels: int) -> int:
    """Numbers for each pixel that a decoder returns: 10 for each component of three channels, 3 of one."""
    return num_mixtures * (1 + 2 * channels + math.comb(channels, 2))


def mixture_of(output: jax.Array, channels: int) -> Mixture:
    """A decoder's output [..., num_outputs(K, C)] as a mixture.

    Raises:
      ValueError: for a number of outputs that is no such number.
    """
    each = num_outputs(1, channels)
    num_mixtures, rest = divmod(output.shape[-1], each)
    if rest or not num_mixtures:
        raise ValueError(
            f"a mixture over {channels} channels takes {each} numbers for each component, which do not divide the "
            f"{output.shape[-1]} of the decoder's output: give it mixtures.num_outputs(num_mixtures, {channels})"
        )
    parts = output.reshape(*output.shape[:-1], each, num_mixtures)
    logits, means, log_scales, coefficients = jnp.split(parts, (1, 1 + channels, 1 + 2 * channels), axis=-2)
    return Mixture(logits[..., 0, :], means, log_scales, coefficients)


def level_of(x: jax.Array, num_bits: int = 8) -> jax.Array:
    """The level 0..2^bits - 1, as floating point, of values in [-1, 1].

    It is the nearest of 256 levels without its last 8 - bits binary digits, which 2^bits levels evenly from -1 to 1
    keep, too: it is the same for an image of 8 bits and for what becomes of it.
    """
    return jnp.floor(jnp.clip(jnp.round((x + 1) * 127.5), 0, 255) / 2 ** (8 - num_bits))


def value_of(level: jax.Array, num_bits: int = 8) -> jax.Array:
    """Where a level stands in [-1, 1]: 2 level / (2^bits - 1) - 1."""
    return level * (2 / (2**num_bits - 1)) - 1


def log_likelihood(mixture: Mixture, x: jax.Array, num_bits: int = 8) -> jax.Array:
    """log p(x), summed over pixels.

    Args:
      mixture: logits [B, ..., K] and so on.
      x: images [B, ..., C] in [-1, 1] (moved to the level of `level_of`).
      num_bits: of a channel.

    Returns:
      [B], at most 0, in nats. The probabilities of all images sum to 1.
    """
    level = level_of(x, num_bits)
    means = [_mean(mixture, c, value_of(level, num_bits)) for c in range(x.shape[-1])]
    log_mass = variational.discretized_logistic_log_mass(
        jnp.stack(means, axis=-2), _floored(mixture.log_scales), level[..., None], 2**num_bits
    )
    log_weights = jax.nn.log_softmax(mixture.logits)
    per_pixel = jax.nn.logsumexp(log_weights + jnp.sum(log_mass, axis=-2), axis=-1)
    return jnp.sum(per_pixel, axis=range(1, per_pixel.ndim))


def _mean(mixture, channel, values):
    """The means of a channel [..., K], given the values of those before it [..., C] (of others no matter what)."""
    mean, first = mixture.means[..., channel, :], math.comb(channel, 2)
    for d in range(channel):
        mean = mean + jnp.tanh(mixture.coefficients[..., first + d, :]) * values[..., d, None]
    return mean


def _floored(log_scale):
    # Not `maximum`, whose derivative compares for equality what XLA may have computed twice. NaN stays NaN.
    return jnp.where(log_scale < LEAST_LOG_SCALE, LEAST_LOG_SCALE, log_scale)


def sample(mixture: Mixture, key: jax.Array, num_bits: int = 8) -> jax.Array:
    """Images [B, ..., C] on the levels in [-1, 1], drawn from the distribution of `log_likelihood`.

    A component for each pixel; then channel after channel a logistic number, rounded to the nearest level (the first or
    the last one beyond them), which moves the means of the next channels.

    Raises:
      TypeError: for a seed instead of a key.
    """
    check_key(key)
    component_key, noise_key = jax.random.split(key)
    gumbel = sharding.draw(jax.random.gumbel, component_key, mixture.logits.shape)
    component = jnp.argmax(mixture.logits + gumbel, axis=-1)
    channels, half = mixture.means.shape[-2], (2**num_bits - 1) / 2
    noise = sharding.draw(jax.random.logistic, noise_key, (*component.shape, channels))

    def chosen(x):  # [..., N, K] -> [..., N, 1]
        return jnp.take_along_axis(x, component[..., None, None], axis=-1)

    mixture = Mixture(mixture.logits, *(chosen(x) for x in mixture[1:]))
    values = jnp.zeros_like(noise)
    for c in range(channels):
        x = _mean(mixture, c, values)[..., 0] + jnp.exp(_floored(mixture.log_scales[..., c, 0])) * noise[..., c]
        level = jnp.clip(jnp.round((x + 1) * half), 0, 2 * half)
        values = values.at[..., c].set(value_of(level, num_bits))
    return values


def mean(mixture: Mixture) -> jax.Array:
    """The components' means, weighed: images [B, ..., C] in [-1, 1], clipped.

    A channel's mean follows from the means of those before it. It is the mean before anything is rounded and clipped.
    """
    found: list[jax.Array] = []  # [..., K] for each channel
    for c in range(mixture.means.shape[-2]):
        own, first = mixture.means[..., c, :], math.comb(c, 2)
        for d, other in enumerate(found):
            own = own + jnp.tanh(mixture.coefficients[..., first + d, :]) * other
        found.append(jnp.clip(own, -1, 1))
    weights = jax.nn.softmax(mixture.logits)[..., None, :]
    return jnp.sum(weights * jnp.stack(found, axis=-2), axis=-1)


def discretized_logistic_mixture(channels: int, num_bits: int = 8) -> variational.Likelihood:
    """The likelihood of images [B, H, W, channels] whose channels have 2^num_bits levels.

    The decoder returns [B, H, W, num_outputs(K, channels)] for K components.

    Raises:
      ValueError: for channels below 1, or bits that are not from 1 to 8.
    """
    if channels < 1 or not 1 <= num_bits <= 8:
        raise ValueError(f"a mixture is over 1 or more channels of 1 to 8 bits, not {channels} of {num_bits}")
    split = functools.partial(mixture_of, channels=channels)
    return variational.Likelihood(
        log_prob=lambda output, image: log_likelihood(split(output), image, num_bits),
        mean=lambda output: mean(split(output)),
        sample=lambda output, key: sample(split(output), key, num_bits),
    )
