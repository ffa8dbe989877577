"""Penalties on the discriminator's gradient with respect to its input.

A penalty is called as `(discriminator_fn, real, fake, key) -> scalar`, where `discriminator_fn` maps images [B, ...] to
logits [B], as real ones are judged; a penalty whose attribute `side` is "fake" gets it as fake ones are, which may be
told and augmented otherwise. The factories below set weights. Gradients are summed over pixels and penalties averaged
over the batch.

A discriminator with batch normalisation couples the images of a batch; the gradient is then of the sum of logits, as
in every implementation. Prefer a discriminator without it where a penalty is used (Gulrajani et al. 2017, section 4).

In the per-device view of `pmap` or `shard_map` a penalty that draws random numbers or needs the statistics of the whole
batch takes the `axis_name`, as batch normalisation does.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen import sharding

Penalty = Callable[[Callable, jax.Array, jax.Array, jax.Array], jax.Array]


def squared_gradient_norm(discriminator_fn: Callable, x: jax.Array) -> jax.Array:
    """|grad_x D(x)|^2 for each image: x [B, ...] -> [B], summed over all other axes."""
    gradient = jax.grad(lambda x: jnp.sum(discriminator_fn(x)))(x)
    return jnp.sum(jnp.square(gradient), axis=range(1, x.ndim))


def r1(gamma: float = 10.0) -> Penalty:
    """gamma / 2 * E_real |grad_x D(x)|^2, the one half included.

    Mescheder, Geiger, Nowozin 2018, eq. 9. Their code leaves out the half: its 10 is our 20.
    """

    def r1(discriminator_fn, real, fake, key):
        return gamma / 2 * jnp.mean(squared_gradient_norm(discriminator_fn, real))

    return r1


def r2(gamma: float = 10.0) -> Penalty:
    """gamma / 2 * E_fake |grad_x D(x)|^2, the one half included (Mescheder, Geiger, Nowozin 2018, eq. 10)."""

    def r2(discriminator_fn, real, fake, key):
        return gamma / 2 * jnp.mean(squared_gradient_norm(discriminator_fn, fake))

    r2.side = "fake"  # type: ignore[attr-defined]
    return r2


def _norm_deviation(discriminator_fn, x, target):
    """E (|grad_x D(x)| - target)^2 with a norm whose derivative at 0 is 0 instead of NaN."""
    squared = squared_gradient_norm(discriminator_fn, x)
    positive = squared > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
    return jnp.mean((norm - target) ** 2)


def gradient_penalty(weight: float = 10.0, target: float = 1.0, axis_name: str | None = None) -> Penalty:
    """weight * E (|grad_x D(x')| - target)^2 at x' = u real + (1 - u) fake, u ~ U[0, 1] drawn per image.

    Gulrajani et al. 2017, eq. 3 (target 1). target 0 is the zero-centred penalty of Thanh-Tung et al. 2019.
    """

    def gradient_penalty(discriminator_fn, real, fake, key):
        shape = (real.shape[0],) + (1,) * (real.ndim - 1)
        u = sharding.draw(jax.random.uniform, key, shape, axis_name=axis_name).astype(real.dtype)
        return weight * _norm_deviation(discriminator_fn, u * real + (1 - u) * fake, target)

    return gradient_penalty


def dragan(weight: float = 10.0, axis_name: str | None = None) -> Penalty:
    """weight * E (|grad_x D(x')| - 1)^2 at x' = real + 0.5 std(real) u, u ~ U[0, 1] drawn per pixel.

    std is one number, over the whole batch. Kodali et al. 2017, algorithm 1, with the uniform noise of the authors'
    code instead of the Gaussian noise of the paper, and without that code's random point between real and x'.
    """

    def dragan(discriminator_fn, real, fake, key):
        mean, mean_square = jnp.mean(real), jnp.mean(real**2)
        if axis_name is not None:
            mean, mean_square = lax.pmean((mean, mean_square), axis_name)
        std = jnp.sqrt(jnp.maximum(mean_square - mean**2, 0.0))
        u = sharding.draw(jax.random.uniform, key, real.shape, axis_name=axis_name).astype(real.dtype)
        return weight * _norm_deviation(discriminator_fn, real + 0.5 * std * u, 1.0)

    return dragan
