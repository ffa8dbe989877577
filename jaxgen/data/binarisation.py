"""Ways to make the pixels of grey images binary. Each takes `(image, key)`, with images in [-1, 1], and is jittable.

The likelihoods published for binarised MNIST differ by several nats between these rules; say which one was used.
"""

import jax
import jax.numpy as jnp


def none(image: jax.Array, key: jax.Array) -> jax.Array:
    """Return the grey images as they are.

    Args:
        image: any shape.
        key: unused.

    Returns:
        The same array.
    """
    del key
    return image


def threshold(image: jax.Array, key: jax.Array) -> jax.Array:
    """Set pixels above zero to 1 and all others, zero included, to -1: `x > 0 ? 1 : -1`.

    In uint8 the rule is: 128 and above is ink, 127 and below is paper. Nothing is random.

    Args:
        image: any shape, in [-1, 1].
        key: unused.

    Returns:
        The same shape and dtype, values in {-1, 1}.
    """
    del key
    return jnp.where(image > 0, 1.0, -1.0).astype(image.dtype)


def dynamic(image: jax.Array, key: jax.Array) -> jax.Array:
    """Draw every pixel anew at every step: 1 with probability `(x + 1) / 2`, else -1.

    The expectation of the draw is the grey image. A pixel at -1 or 1 never changes. Inside `jit` the draw is of the
    global batch: it is the same on one device and on many.

    Args:
        image: any shape, in [-1, 1].
        key: a key that differs from step to step.

    Returns:
        The same shape and dtype, values in {-1, 1}.

    Source: Burda, Grosse, Salakhutdinov 2016, "Importance Weighted Autoencoders".
    """
    # uniform() draws from [0, 1): probability 0 is never, probability 1 always below.
    uniform = jax.random.uniform(key, image.shape, jnp.float32)
    return jnp.where(uniform < (image + 1.0) / 2.0, 1.0, -1.0).astype(image.dtype)
