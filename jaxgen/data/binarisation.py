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


def static(image: jax.Array, key: jax.Array) -> jax.Array:
    """Draw every pixel once: `dynamic` with a key that is the image's own, so that each visit sees the same draw.

    A rule like that of Larochelle's and Murray's binarised MNIST, and another draw than their file: numbers on it are
    near, not equal. As there, a network can learn the draws by heart. Equal images have equal draws.

    Args:
        image: [..., H, W, C] in [-1, 1], on 256 levels.
        key: unused.

    Returns:
        The same shape and dtype, values in {-1, 1}.
    """
    del key
    images = image.reshape(-1, *image.shape[-3:])

    def draw(image, number):
        return dynamic(image, jax.random.fold_in(jax.random.key(2008), number))

    return jax.vmap(draw)(images, own_numbers(images)).reshape(image.shape)


def own_numbers(images: jax.Array) -> jax.Array:
    """A number of each image that looks drawn and depends on its pixels alone, uint32 [B]: the same at every visit.

    Args:
        images: [B, H, W, C] in [-1, 1], on 256 levels.

    sum_i (level_i + 1)^2 (odd multiple of i) modulo 2^32, its bits then mixed as MurmurHash3 ends.
    """
    levels = jnp.round((images + 1.0) * 127.5).astype(jnp.uint32).reshape(len(images), -1) + 1
    place = jnp.arange(levels.shape[1], dtype=jnp.uint32) * jnp.uint32(2654435761) + 1
    number = jnp.sum(levels * levels * place, axis=1, dtype=jnp.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        number = (number ^ (number >> shift)) * jnp.uint32(factor)
    return number ^ (number >> 16)


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
