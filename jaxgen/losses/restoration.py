"""Losses of a network that returns an image: functions `(output, target) -> ` one number for each image.

Both are [B, H, W, C] in [-1, 1]; the losses are those of images in which black is 0 and white 1, as published recipes
have them: a difference counts half. All are minimised, means over an image's own numbers, not over the batch.

`sure` needs no target.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.arguments import check_key

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def _difference(output, target):
    """Half of it, float32: of images in [0, 1]."""
    if output.shape != target.shape:  # would broadcast, without an error
        raise ValueError(f"an output of shape {list(output.shape)} is compared with a target of {list(target.shape)}")
    return 0.5 * (output.astype(jnp.float32) - target)


def _mean(x):
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def l1(output: jax.Array, target: jax.Array) -> jax.Array:
    """mean |d|, d = (output - target) / 2: [B].

    Raises:
      ValueError: for unequal shapes, as all of these losses.
    """
    return _mean(jnp.abs(_difference(output, target)))


def mse(output: jax.Array, target: jax.Array) -> jax.Array:
    """mean d^2, d = (output - target) / 2: [B]."""
    return _mean(jnp.square(_difference(output, target)))


def charbonnier(output: jax.Array, target: jax.Array, epsilon: float = 1e-3) -> jax.Array:
    """mean sqrt(d^2 + epsilon^2), d = (output - target) / 2: [B], at least epsilon.

    A smooth |d|. Charbonnier et al. 1994; epsilon of Lai et al. 2017 (LapSRN).
    """
    return _mean(jnp.sqrt(jnp.square(_difference(output, target)) + epsilon**2))


def psnr_loss(output: jax.Array, target: jax.Array, epsilon: float = 1e-8) -> jax.Array:
    """10 log10(mean d^2 + epsilon), d = (output - target) / 2: [B], minus the PSNR in dB.

    Its gradient is that of the squared error divided by it: an image that is nearly right pulls as much as any. Chen et
    al. 2022 (NAFNet).
    """
    return 10 * jnp.log10(mse(output, target) + epsilon)


LOSSES: dict[str, Loss] = {"l1": l1, "mse": mse, "charbonnier": charbonnier, "psnr": psnr_loss}
"""By name."""


def sure(
    denoise: Callable[[jax.Array], jax.Array], source: jax.Array, sigma: float | jax.Array, key: jax.Array
) -> jax.Array:
    """Stein's unbiased estimate of the `mse` of a denoiser, without a clean image: [B].

        (mean (y - f(y))^2 - s^2 + 2 s^2 / n tr J) / 4,  y = x + s e,  e ~ N(0, 1)

    The trace of f's Jacobian J is b' J b for a b of random signs, one for each image: its mean over b is the trace. Its
    mean over the noise e is the mean of `mse(f(y), x)`, for any f that is differentiable almost everywhere. It may be
    negative.

    Args:
      denoise: f, sources [B, H, W, C] -> images of the same shape, none of which depends on the source of another.
      source: y, not clipped: clipped noise is not normal.
      sigma: s, in units of the source, whose range is 2: 50 / 255 for noise of 25 levels. A number, or [B].
      key: of b.

    Raises:
      TypeError: for a seed instead of a key.
      ValueError: for an output of another shape than the source.

    Stein 1981; the trace by random vectors: Ramani, Blu and Unser 2008, here by a derivative and not a difference.
    """
    check_key(key)
    output, pull_back = jax.vjp(denoise, source)
    if output.shape != source.shape:
        raise ValueError(f"a denoiser keeps the shape of its source, {list(source.shape)}, not {list(output.shape)}")
    signs = jax.random.rademacher(key, source.shape, source.dtype)
    trace = _mean(signs * pull_back(signs.astype(output.dtype))[0])  # b' J b / n
    variance = jnp.square(jnp.asarray(sigma, jnp.float32))
    return (_mean(jnp.square(output - source)) - variance + 2 * variance * trace) / 4
