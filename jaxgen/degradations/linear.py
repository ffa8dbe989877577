"""Degradations one after the other, and what a linear one does backwards."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.arguments import takes


def chain(image: jax.Array, key: jax.Array, *, parts: tuple[Callable, ...]) -> jax.Array:
    """One degradation after the other, each with a key of its own.

    Args:
        image: [H, W, C].
        key: split over the parts.
        parts: degradations `(image, key) -> image`, the first one first.

    Returns:
        What the last one makes.

    >>> from functools import partial
    >>> small_and_noisy = partial(chain, parts=(partial(downscale, scale=4), partial(gaussian_noise, sigma=5)))
    """
    for number, part in enumerate(parts):
        image = part(image, jax.random.fold_in(key, number))
    return image


def adjoint(degrade: Callable, image_shape: tuple[int, ...]) -> Callable[[jax.Array], jax.Array]:
    """The transpose of a linear degradation A, by `jax.linear_transpose`: <A x, y> = <x, A' y> for all x and y.

    Args:
        degrade: `(image) -> source` or `(image, key) -> source`, linear in the image: `resize`, `blur`, `hide`, and
            chains of such. Nothing may be drawn, clipped, rounded or added.
        image_shape: (H, W, C) of its argument.

    Returns:
        `(source) -> image`.

    Raises:
        ValueError: for a degradation that is not linear.
    """
    key = jax.random.key(0)

    def linear(image):
        return degrade(image, key) if takes(degrade, 2) else degrade(image)  # what is linear has no use for it

    # A transposition does not see an added constant, and takes some functions for linear that are not.
    with jax.ensure_compile_time_eval():
        one, other = 2.0 * jax.random.normal(key, (2, *image_shape))
        apart, together = linear(one) - 3.0 * linear(other), linear(one - 3.0 * other)
        if not bool(jnp.max(jnp.abs(apart - together)) <= 1e-3 * (1.0 + jnp.max(jnp.abs(together)))):
            raise ValueError("the degradation is not linear in the image, and so has no adjoint")
    transposed = jax.linear_transpose(linear, jax.ShapeDtypeStruct(tuple(image_shape), jnp.float32))
    return lambda source: transposed(source)[0]


def hide(image: jax.Array, key: jax.Array | None = None, *, mask: jax.Array) -> jax.Array:
    """The known pixels of an image: (1 - mask) image. Linear.

    Args:
        image: [..., H, W, C].
        key: unused.
        mask: [..., H, W, 1], 1 where the image is missing.

    Returns:
        The same shape, 0 where the image is missing.
    """
    del key
    return (1.0 - mask) * image


def stored(image: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """The image as a file of bytes holds it: cut to [-1, 1] and rounded to 256 levels.

    Args:
        image: any shape.
        key: unused.

    Returns:
        The same shape. Its derivative is that of the cut alone: rounding passes it on.
    """
    del key
    cut = jnp.clip(image, -1.0, 1.0)
    levels = jnp.round((cut + 1.0) * 127.5)
    return cut + jax.lax.stop_gradient((2.0 * levels - 255.0) * jnp.float32(1 / 255) - cut)
