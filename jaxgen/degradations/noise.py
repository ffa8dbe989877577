"""Noise: of one strength everywhere, or growing with the light."""

import jax
import jax.numpy as jnp

from jaxgen.arguments import check_key


def gaussian_noise(
    image: jax.Array,
    key: jax.Array,
    *,
    sigma: float | tuple[float, float] = 25.0,
    grey: bool | jax.Array = False,
    clip: bool = False,
) -> jax.Array:
    """image + N(0, sigma^2), drawn for each pixel and channel.

    Args:
        image: [H, W, C] in [-1, 1].
        key: of the draw.
        sigma: standard deviation in levels of 255, as papers give it; in [-1, 1] it is sigma / 127.5. A pair: drawn
            evenly between these, one for the image.
        grey: whether all channels of a pixel get the same draw.
        clip: whether the result is cut to [-1, 1], as a file of bytes would be. Denoisers are usually trained and
            tested without (DnCNN); clipped noise of sigma 50 is some 10 % weaker.

    Returns:
        The same shape, beyond [-1, 1] unless clipped.

    Raises:
        TypeError: for what is no key.
        ValueError: for a sigma below 0.
    """
    check_key(key)
    of_level, of_pixels = jax.random.split(key)
    level = number_between(of_level, sigma, "sigma") / 127.5
    noisy = image + level * _grey_or_not(jax.random.normal(of_pixels, image.shape, image.dtype), grey)
    return jnp.clip(noisy, -1.0, 1.0) if clip else noisy


def poisson_noise(
    image: jax.Array,
    key: jax.Array,
    *,
    peak: float | tuple[float, float] = 30.0,
    strength: float | tuple[float, float] = 1.0,
    grey: bool | jax.Array = False,
    clip: bool = True,
) -> jax.Array:
    """Counts of photons: with x = (image + 1) / 2 in [0, 1],

        x + strength (Poisson(peak x) / peak - x),   back in [-1, 1].

    The variance on [0, 1] is strength^2 x / peak: proportional to the light.

    Args:
        image: [H, W, C]; below -1 it counts as black.
        key: of the draw.
        peak: mean count of a white pixel; the smaller, the noisier. A pair: drawn evenly between these.
        strength: of the difference; 1 for counts themselves. A pair likewise.
        grey: whether all channels of a pixel get the same difference: that of their mean.
        clip: whether the result is cut to [-1, 1].

    Returns:
        The same shape.

    Raises:
        TypeError: for what is no key.
        ValueError: for a peak of 0 or below, or a strength below 0.
    """
    check_key(key)
    of_peak, of_strength, of_pixels = jax.random.split(key, 3)
    times = number_between(of_strength, strength, "strength")
    most = number_between(of_peak, peak, "peak", above_zero=True)
    light = jnp.maximum((image + 1.0) / 2.0, 0.0)
    seen = jnp.where(grey, jnp.mean(light, axis=-1, keepdims=True), light)
    counts = jax.random.poisson(of_pixels, most * seen).astype(image.dtype)
    noisy = image + 2.0 * times * _grey_or_not(counts / most - seen, grey)
    return jnp.clip(noisy, -1.0, 1.0) if clip else noisy


def number_between(
    key: jax.Array | None, value: float | tuple[float, float], name: str, *, above_zero: bool = False
) -> float | jax.Array:
    """A number as it is, or one drawn evenly between the two of a pair.

    Raises:
        ValueError: for a number below 0 (or 0, where it must be above), and a pair whose first is the larger.
    """
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if all(isinstance(end, (int, float)) for end in pair):  # traced ones nobody knows
        least, most = pair
        if least < 0 or (above_zero and least == 0):
            raise ValueError(f"{name} must be {'above 0' if above_zero else 'at least 0'}, not {least:g}")
        if most < least:
            raise ValueError(f"{name} is drawn between two numbers, the smaller first, not {least:g} and {most:g}")
    if isinstance(value, (tuple, list)):
        check_key(key)
        assert key is not None
        return jax.random.uniform(key, (), minval=value[0], maxval=value[1])
    return value


def _grey_or_not(noise, grey):
    return jnp.where(grey, noise[..., :1], noise)
