"""What pictures from the net went through, twice: blur, resize, noise, JPEG, of strengths drawn for each image.

The pipeline of Real-ESRGAN (Wang, Xie, Dong and Shan 2021, "Real-ESRGAN: Training Real-World Blind Super-Resolution
with Pure Synthetic Data"), with its published ranges. Here every image has its own draws, the size in between, too (the
official code draws one for a batch, and shuffles pairs in a pool), and one shape comes out: in between, an image is the
upper left part of an array that holds the largest.

Other than there: Poisson noise counts 256 photons of a white pixel, whatever the number of levels in an image, and grey
one follows the mean of the channels; qualities are whole numbers.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.arguments import check_key
from jaxgen.degradations import kernels, resizing
from jaxgen.degradations.blurring import convolve, sharpen
from jaxgen.degradations.compression import jpeg
from jaxgen.degradations.linear import stored
from jaxgen.degradations.noise import gaussian_noise, poisson_noise

SIZES = tuple(range(7, 22, 2))
"""Sides of kernels of blur, in pixels, all alike."""


@dataclasses.dataclass(frozen=True)
class Round:
    """Ranges of one of the two rounds; pairs are the least and the most of what is drawn evenly.

    Attributes:
      blur: probability that there is any.
      sigma: of the blur, in pixels, along either axis.
      up, down: probabilities that the image grows or shrinks; else it keeps its size.
      scale: least and most factor of the size.
      gaussian: sigma of the Gaussian noise, in levels of 255; half of the images have it.
      poisson: strength of the Poisson noise; the other half has it.
    """

    blur: float
    sigma: tuple[float, float]
    up: float
    down: float
    scale: tuple[float, float]
    gaussian: tuple[float, float]
    poisson: tuple[float, float]
    kinds: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Odds of blurs: Gaussian, generalised, with a plateau; of each first isotropic, then anisotropic."""
    generalised: tuple[float, float] = (0.5, 4.0)
    """Beta of the generalised Gaussian."""
    plateau: tuple[float, float] = (1.0, 2.0)
    """Beta of the one with a plateau."""
    sinc: float = 0.1
    """Probability that the blur is a sinc filter instead."""
    grey: float = 0.4
    """Probability that noise is grey."""
    quality: tuple[int, int] = (30, 95)
    """Of the JPEG."""


FIRST = Round(1.0, (0.2, 3.0), 0.2, 0.7, (0.15, 1.5), (1.0, 30.0), (0.05, 3.0))
"""On the image at its size."""
SECOND = Round(0.8, (0.2, 1.5), 0.3, 0.4, (0.3, 1.2), (1.0, 25.0), (0.05, 2.5))
"""On the result; its sizes are those of what comes out, times the factor."""


def real_world(
    image: jax.Array,
    key: jax.Array,
    *,
    scale: int = 4,
    first: Round = FIRST,
    second: Round = SECOND,
    last_sinc: float = 0.8,
    sharpened: bool = True,
) -> jax.Array:
    """A small, blurred, noisy, compressed version of an image, as it might be found.

    Blur, resize, noise, JPEG; again blur, resize, noise; then the resize to the final size with a sinc filter and a
    JPEG, in either order.

    Args:
        image: [H, W, C] in [-1, 1], grey or RGB.
        key: of all that is drawn.
        scale: by which height and width shrink; it divides them.
        first, second: the ranges of the two rounds.
        last_sinc: probability of the last filter.
        sharpened: whether the image goes through `sharpen` first, as in the training of Real-ESRGAN, whose target is
            the sharpened image, too.

    Returns:
        [H / scale, W / scale, C] in [-1, 1], on 256 levels.

    Raises:
        TypeError: for what is no key.
        ValueError: for a scale that does not divide the image, and for other channels than grey or RGB.
    """
    check_key(key)
    height, width = image.shape[:2]
    if scale < 1 or height % scale or width % scale:
        raise ValueError(
            f"a scale of {scale} does not divide images of {height}x{width}: crop them to a multiple of it"
        )
    final = (height // scale, width // scale)
    of_first, of_second, of_jpegs, of_end = jax.random.split(key, 4)
    of_qualities = jax.random.split(of_jpegs)
    image = sharpen(image) if sharpened else image
    size = (jnp.asarray(height), jnp.asarray(width))
    image, size = _round(image, size, of_first, first, (height, width))
    image = _jpeg(image, size, of_qualities[0], first.quality)
    image, size = _round(image, size, of_second, second, final)

    filtered, of_side, of_cutoff, kind, order = jax.random.uniform(of_end, (5,))
    ringing = _cut(kernels.sinc(SIZES[-1], _between(of_cutoff, (np.pi / 3, np.pi))), _side(of_side))
    kernel = jnp.where(filtered < last_sinc, ringing, kernels.identity(SIZES[-1]))

    def small(image, size):
        return convolve(_resized(image, size, (jnp.asarray(final[0]), jnp.asarray(final[1])), final, kind), kernel)

    small_first = jpeg(_clipped(small(image, size)), of_qualities[1], quality=second.quality)
    compressed_first = small(_jpeg(image, size, of_qualities[1], second.quality), size)
    return stored(jnp.where(order < 0.5, small_first, compressed_first))


def blur_kernel(key: jax.Array, ranges: Round) -> jax.Array:
    """A kernel of one of the kinds of a round, or none.

    Args:
        key: of the draw.
        ranges: of the round.

    Returns:
        float32 [21, 21], adding up to 1; smaller kernels have zeros around them.
    """
    check_key(key)
    # One call for all numbers: each takes a second to compile.
    draws = jax.random.uniform(key, (10,))
    kind = jnp.sum(draws[0] >= np.cumsum(ranges.kinds)[:-1] / np.sum(ranges.kinds))
    side = _side(draws[1])
    sigma, across = _between(draws[2], ranges.sigma), _between(draws[3], ranges.sigma)
    across = jnp.where(kind % 2 == 0, sigma, across)
    generalised, plateau = _between(draws[4], ranges.generalised), _between(draws[5], ranges.plateau)
    shape = functools.partial(
        kernels.gaussian, SIZES[-1], sigma, sigma_across=across, angle=_between(draws[6], (-np.pi, np.pi))
    )
    bell = shape(beta=jnp.where(kind < 2, 1.0, generalised))
    chosen = jnp.where(kind < 4, bell, shape(beta=plateau, plateau=True))
    least = jnp.where(side < 13, np.pi / 3, np.pi / 5)
    ringing = kernels.sinc(SIZES[-1], least + draws[7] * (np.pi - least))
    chosen = _cut(jnp.where(draws[8] < ranges.sinc, ringing, chosen), side)
    return jnp.where(draws[9] < ranges.blur, chosen, kernels.identity(SIZES[-1]))


def _between(draw, ends):
    return ends[0] + draw * (ends[1] - ends[0])


def _side(draw):
    return SIZES[0] + 2 * jnp.floor(draw * len(SIZES))


def _cut(kernel, side):
    """The middle of a kernel, of a side that is drawn."""
    far = np.abs(np.arange(SIZES[-1]) - SIZES[-1] // 2)
    kept = jnp.where(np.maximum(far[:, None], far[None]) <= side // 2, kernel, 0.0)
    return kept / jnp.sum(kept)


def _clipped(image):
    return jnp.clip(image, -1.0, 1.0)


def _round(image, size, key, ranges, reference):
    """Blur, resize, noise. Images are the upper left parts, of a size, of arrays with room for the largest."""
    of_kernel, of_numbers, of_noise = jax.random.split(key, 3)
    image = convolve(image, blur_kernel(of_kernel, ranges), size)
    way, amount, kind, grey, noise = jax.random.uniform(of_numbers, (5,))
    up, down = _between(amount, (1.0, ranges.scale[1])), _between(amount, (ranges.scale[0], 1.0))
    factor = jnp.where(way < ranges.up, up, jnp.where(way < ranges.up + ranges.down, down, 1.0))
    room = tuple(max(side, int(np.ceil(ranges.scale[1] * side))) for side in reference)
    new_size = tuple(
        jnp.clip(jnp.floor(side * factor).astype(jnp.int32), 1, most)
        for side, most in zip(reference, room, strict=True)
    )
    image = _clipped(_resized(image, size, new_size, room, kind))
    gaussian = gaussian_noise(image, of_noise, sigma=ranges.gaussian, grey=grey < ranges.grey, clip=True)
    poisson = poisson_noise(image, of_noise, peak=256.0, strength=ranges.poisson, grey=grey < ranges.grey, clip=True)
    return jnp.where(noise < 0.5, gaussian, poisson), new_size


def _resized(image, size, new_size, room, draw):
    """By area averages, bilinear or bicubic interpolation, at equal odds; the latter two without antialiasing."""
    interpolations = (
        (resizing.box, True),
        (resizing.bilinear, False),
        (functools.partial(resizing.bicubic, a=-0.75), False),
    )

    def along(axis):
        shape = (room[axis], image.shape[axis])
        found = [
            resizing.weights(size[axis], new_size[axis], kernel, room=shape, antialias=antialias)
            for kernel, antialias in interpolations
        ]
        return jnp.where(draw < 1 / 3, found[0], jnp.where(draw < 2 / 3, found[1], found[2]))

    return resizing.apply_weights(image, along(0), along(1))


def _jpeg(image, size, key, quality):
    """JPEG repeats the last pixels up to a block, and so does what is around the image."""
    rows, columns = (jnp.minimum(np.arange(n), side - 1) for n, side in zip(image.shape[:2], size, strict=True))
    return jpeg(image[rows][:, columns], key, quality=quality)
