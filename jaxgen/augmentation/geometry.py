"""Rotating, scaling and moving images by any amount without aliasing: ADA's geometric changes (Karras et al. 2020b).

An image is enlarged to twice its size by a wavelet's filter, each point of the large image is looked up where it comes
from, between four neighbours, and the adjoint filter brings it back. The filter is that of the symlet with six
vanishing moments: it is orthogonal to its shifts by two, so that enlarging and shrinking alone change nothing, and what
is linear in the position stays so.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.arguments import check_key
from jaxgen.sharding import draw

# Daubechies 1992, "Ten Lectures on Wavelets", section 8.1: the least asymmetric filter of 12 taps.
SYMLET_6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466),
    *(0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578),
    *(0.0017677118642428036, -0.007800708325034148),
)
_TAPS = np.asarray(SYMLET_6)
_CENTRE = float(np.arange(len(_TAPS)) @ _TAPS / _TAPS.sum())  # of the filter, in points of the large image


def warped(images: jax.Array, matrix: jax.Array, shift: jax.Array) -> jax.Array:
    """out(q) = image(M q + t) for the position q of each pixel, counted from the image's centre; borders reflect.

    Args:
      images: [B, H, W, C].
      matrix: M [B, 2, 2], of (row, column).
      shift: t [B, 2], in pixels.

    Returns:
      [B, H, W, C], in the dtype of the images.
    """
    return jax.vmap(_warped)(images, matrix, shift)


def _warped(image, matrix, shift):
    (height, width, channels), num_taps = image.shape, len(_TAPS)
    size = np.array([height, width])
    large = _along_both(_enlarging, image)
    # Point k of the large image is at (k - centre) / 2 pixels; these are all that shrinking sees.
    rows, columns = ((np.arange(2 * (n - 1) + num_taps) - _CENTRE) / 2 - (n - 1) / 2 for n in size)
    rows, columns = (a.astype(np.float32) for a in np.meshgrid(rows, columns, indexing="ij"))
    shape, num_columns = rows.shape, large.shape[1]

    def source(axis):
        """(index of the point before, share of the one after) along an axis, [points]."""
        at = matrix[axis, 0] * rows.ravel() + matrix[axis, 1] * columns.ravel() + shift[axis] + (size[axis] - 1) / 2
        last = max(size[axis] - 1, 1)
        at = last - jnp.abs(jnp.mod(at, 2 * last) - last) if size[axis] > 1 else jnp.zeros_like(at)
        at = 2 * at + _CENTRE
        before = jnp.floor(at)
        return before.astype(jnp.int32), (at - before).astype(image.dtype)[:, None]

    (i, of_row), (j, of_column) = source(0), source(1)
    flat = large.reshape(-1, channels)
    index = i * num_columns + j

    def row(first):
        return (1 - of_column) * flat[first] + of_column * flat[first + 1]

    moved = (1 - of_row) * row(index) + of_row * row(index + num_columns)
    return _along_both(_shrinking, moved.reshape(*shape, channels), size)


def _along_both(matrix_of, image, size=None):
    """The image [H, W, C] times a matrix of each axis: cheap, and one operation where a filter would be dozens."""
    rows, columns = (jnp.asarray(matrix_of(n), image.dtype) for n in (image.shape[:2] if size is None else size))
    exact = functools.partial(jnp.einsum, precision="highest")
    return exact("jw,iwc->ijc", columns, exact("ih,hwc->iwc", rows, image))


@functools.cache
def _shrinking(size):
    """[size, 2 size + 10]: the filter at every second point of the large image."""
    found = np.zeros((size, 2 * (size - 1) + len(_TAPS)))
    for pixel in range(size):
        found[pixel, 2 * pixel : 2 * pixel + len(_TAPS)] = _TAPS / np.sqrt(2)
    return found


@functools.cache
def _enlarging(size):
    """[2 size + 10, size]: the large image, with what it has outside of a border that reflects."""
    reach, found = len(_TAPS) // 2, np.zeros((2 * (size - 1) + len(_TAPS), size))
    last = max(size - 1, 1)
    for pixel in range(-reach, size + reach):
        origin = last - abs(pixel % (2 * last) - last) if size > 1 else 0
        for tap, weight in enumerate(_TAPS * np.sqrt(2)):
            if 0 <= 2 * pixel + tap < len(found):
                found[2 * pixel + tap, origin] += weight
    return found


def geometric(key: jax.Array, images: jax.Array, probability: jax.Array) -> jax.Array:
    """Scaling, rotation, stretching, another rotation and a translation, each of each image with a probability.

    A scale of 2^(0.2 n), n standard normal; a stretch by as much along one axis, and its inverse along the other; a
    rotation by any angle before, and one after it, of which at least one is made with the probability; a translation by
    0.125 n of the image's size along each axis. An image of which none is drawn is left as it is.

    Args:
      key: of the draws.
      images: [B, H, W, C].
      probability: in [0, 1], a scalar.
    """
    check_key(key)
    matrix, shift, is_changed = affine_maps(key, len(images), images.shape[1:3], probability)
    return jnp.where(is_changed[:, None, None, None], warped(images, matrix, shift), images)


def affine_maps(
    key: jax.Array, count: int, size: tuple[int, ...], probability: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What `geometric` draws: M [count, 2, 2] and t [count, 2] of `warped`, and which images are changed, [count].

    Args:
      key: of the draws.
      count: of images.
      size: height and width.
      probability: in [0, 1], a scalar.
    """
    check_key(key)
    keys, probability = jax.random.split(key, 6), jnp.asarray(probability, jnp.float32)
    of_rotation = 1 - jnp.sqrt(1 - probability)
    likely = jnp.stack([probability, probability, probability, of_rotation, of_rotation])
    gates = draw(lambda key, shape: jax.random.bernoulli(key, likely, shape), keys[0], (count, 5))
    scaled, stretched, shifted, turned_before, turned_after = gates.T

    def factor(key, gate):
        return jnp.where(gate, jnp.exp2(0.2 * draw(jax.random.normal, key, (count,))), 1.0)

    def rotation(key, gate):
        angle = draw(lambda key, shape: jax.random.uniform(key, shape, minval=-np.pi, maxval=np.pi), key, (count,))
        return _rotation(jnp.where(gate, angle, 0.0))

    scale, stretch = factor(keys[1], scaled), factor(keys[2], stretched)
    moved = 0.125 * np.array(size, np.float32) * draw(jax.random.normal, keys[3], (count, 2))
    # Where a pixel comes from: each change undone, the last one first.
    axes = jnp.stack([stretch, 1 / stretch], axis=-1)[:, :, None] * jnp.eye(2)
    with jax.default_matmul_precision("highest"):  # of single precision: positions count
        matrix = rotation(keys[4], turned_before) @ axes @ rotation(keys[5], turned_after) / scale[:, None, None]
        shift = -jnp.einsum("bij,bj->bi", matrix, jnp.where(shifted[:, None], moved, 0.0))
    return matrix, shift, gates.any(-1)


def _rotation(angle):
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cosine, -sine], -1), jnp.stack([sine, cosine], -1)], -2)
