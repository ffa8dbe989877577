"""ADA's changes of values: colours, bands of frequencies, noise and cutouts (Karras et al. 2020b, appendix B).

Each function is called as `(key, images [B, H, W, C], probability) -> images` and makes each of its changes to each
image with the probability, by numbers of the image's own. At probability 0 nothing is changed, at any an image for
which nothing is drawn.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.arguments import check_key
from jaxgen.sharding import draw

SYMLET_2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)  # Daubechies 1992
BANDS = 4  # of frequencies: up to 1/8 of the highest, to 1/4, to 1/2, to 1
POWERS = np.array([10, 1, 1, 1]) / 13  # what the bands of natural images are expected to have

_exact = functools.partial(jnp.einsum, precision="highest")  # on accelerators single precision is no default


def _along(x):
    return x.reshape(-1, *(1,) * 3)


def _normal(key, count, *shape):
    return draw(jax.random.normal, key, (*count, *shape))


def _gated(key, probability, count):
    return draw(lambda key, shape: jax.random.bernoulli(key, probability, shape), key, count)


def colours(key: jax.Array, images: jax.Array, probability: jax.Array) -> jax.Array:
    """Brightness, contrast, a flip of the luma, a turn of the hue, saturation, in this order: x <- M x + t.

    Brightness: t + 0.2 n, n standard normal. Contrast: times 2^(0.5 n). The flip, in half of the images: a reflection
    that turns (1, 1, 1) around. The hue: a rotation about (1, 1, 1) by any angle. Saturation: what is orthogonal to
    (1, 1, 1) times 2^n. Grey images are colour images of three equal channels, whose mean is kept.

    Args:
      key: of the draws.
      images: [B, H, W, C], of one channel or three.
      probability: in [0, 1], a scalar.

    Raises:
      ValueError: for another number of channels.
    """
    check_key(key)
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise ValueError(f"colours can be changed in images of 1 or 3 channels, not {channels}")
    keys, count = jax.random.split(key, 10), images.shape[:1]
    grey = np.full((3, 3), 1 / 3)  # projects onto (1, 1, 1)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)  # the cross product with it
    rest = np.eye(3) - grey

    def changed(i, amount, neutral):
        return jnp.where(_gated(keys[i], probability, count), amount, neutral)[:, None, None]

    brightness = changed(0, 0.2 * _normal(keys[1], count), 0.0)
    contrast = changed(2, jnp.exp2(0.5 * _normal(keys[3], count)), 1.0)
    flip = changed(4, 1 - 2.0 * _gated(keys[5], 0.5, count), 1.0)
    angle = changed(6, draw(functools.partial(jax.random.uniform, minval=-np.pi, maxval=np.pi), keys[7], count), 0.0)
    saturation = changed(8, jnp.exp2(_normal(keys[9], count)), 1.0)
    # All of these commute with the two projections, so that they multiply.
    turned = jnp.cos(angle) * rest + jnp.sin(angle) * cross
    matrix, shift = contrast * (flip * grey + saturation * turned), brightness * contrast * flip
    is_changed = (brightness != 0) | (contrast != 1) | (flip != 1) | (angle != 0) | (saturation != 1)
    matrix, shift = matrix.astype(images.dtype), shift.astype(images.dtype)
    if channels == 1:
        matrix = jnp.mean(matrix.sum(-1, keepdims=True), axis=1, keepdims=True)
    pixels = images.reshape(len(images), -1, channels)
    found = (_exact("bpc,boc->bpo", pixels, matrix) + shift).reshape(images.shape)
    return jnp.where(_along(is_changed), found, images)


def bands(size: int) -> np.ndarray:
    """What keeps one band of frequencies of a row of pixels with reflecting borders, as matrices [BANDS, size, size].

    Made of L(z) = H(z) H(1/z) / 2 and 1 - L(z), with H the filter of the symlet with two vanishing moments: the highest
    band is 1 - L(z), the next L(z) (1 - L(z^2)), then L(z) L(z^2) (1 - L(z^4)), and the rest. They add up to one.
    """
    low, delta = np.convolve(SYMLET_2, SYMLET_2[::-1]) / 2, np.array([1.0])

    def spread(taps, factor):
        found = np.zeros((len(taps) - 1) * factor + 1)
        found[::factor] = taps
        return found

    below = delta
    filters: list[np.ndarray] = []
    for level in range(BANDS - 1):
        kept = np.convolve(below, spread(low, 2**level))
        centred = np.pad(below, (len(kept) - len(below)) // 2)
        filters.insert(0, centred - kept)
        below = kept
    filters.insert(0, below)
    found = np.zeros((BANDS, size, size))
    for matrix, taps in zip(found, filters, strict=True):
        for offset, tap in enumerate(taps, start=-(len(taps) // 2)):
            at = np.arange(size) + offset
            last = max(size - 1, 1)
            at = last - np.abs(at % (2 * last) - last) if size > 1 else 0 * at
            np.add.at(matrix, (np.arange(size), at), tap)
    return found


def filters(key: jax.Array, images: jax.Array, probability: jax.Array) -> jax.Array:
    """Each of four bands of frequencies times 2^n, n standard normal, with the expected power of the image as before.

    The gains of all bands are g <- g v / sqrt(sum_i POWERS_i v_i^2), once for each band that is changed, with v = 1 but
    for that band. Rows and columns are filtered alike; borders reflect.

    Args:
      key: of the draws.
      images: [B, H, W, C].
      probability: in [0, 1], a scalar.
    """
    check_key(key)
    count = images.shape[:1]
    gates = _gated(jax.random.fold_in(key, 0), probability, (*count, BANDS))
    amounts = jnp.where(gates, jnp.exp2(_normal(jax.random.fold_in(key, 1), count, BANDS)), 1.0)
    gains = jnp.ones((*count, BANDS))
    for band in range(BANDS):
        v = jnp.where(jnp.arange(BANDS) == band, amounts[:, band, None], 1.0)
        gains = gains * v / jnp.sqrt(jnp.square(v) @ POWERS.astype(np.float32))[:, None]

    def along(axis):
        return _exact("bk,kij->bij", gains, bands(images.shape[axis]).astype(np.float32)).astype(images.dtype)

    found = _exact("bij,bjwc->biwc", along(1), images)
    found = _exact("bij,bhjc->bhic", along(2), found)
    return jnp.where(_along(gates.any(-1)), found, images)


def noises(key: jax.Array, images: jax.Array, probability: jax.Array) -> jax.Array:
    """x + 0.1 |n| e, with n standard normal for each image and e for each of its numbers."""
    check_key(key)
    gate_key, size_key, noise_key = jax.random.split(key, 3)
    count = images.shape[:1]
    size = jnp.where(_gated(gate_key, probability, count), 0.1 * jnp.abs(_normal(size_key, count)), 0.0)
    return images + (_along(size) * draw(jax.random.normal, noise_key, images.shape)).astype(images.dtype)


def cutouts(key: jax.Array, images: jax.Array, probability: jax.Array) -> jax.Array:
    """0 (grey) in a rectangle of half the size along each axis around a uniform point, ending at the border."""
    check_key(key)
    gate_key, *centre_keys = jax.random.split(key, 3)
    cut = _along(_gated(gate_key, probability, images.shape[:1]))
    for axis, own_key in zip((1, 2), centre_keys, strict=True):
        size = images.shape[axis]
        centre = _along(size * draw(jax.random.uniform, own_key, images.shape[:1]))
        position = jnp.arange(size).reshape([-1 if i == axis else 1 for i in range(4)]) + 0.5
        cut = cut & (jnp.abs(position - centre) < size / 4)
    return jnp.where(cut, 0, images)
