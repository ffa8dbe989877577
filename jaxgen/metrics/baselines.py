"""What there is to beat without a network: closed forms, fitted to training pairs, or images that codes are made of.

    method = baselines.best_filter(pairs)                 # or best_linear_map(...), nearest(...)
    images = method.apply(method.arrays, source, mask)    # [B, h, w, c] -> [B, H, W, C]

The best linear filter is the Wiener filter of a limited support, with the spectra of the training images instead of
assumed ones. The best linear map is the conditional mean of jointly Gaussian sources and images, where their mean and
covariance are those of the training pairs, shrunk.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import restoration

STRENGTHS = tuple(10.0**power for power in range(-6, 2))
"""Of the ridge, in units of the largest eigenvalue."""


class Method(NamedTuple):
    """A fitted method.

    Attributes:
      words: how it was fitted, for a protocol.
      arrays: what it learnt.
      apply: (arrays, source [B, h, w, c], mask [B, H, W, 1] or None) -> images [B, H, W, C] in [-1, 1]. It is compiled,
        or runs on the host.
    """

    words: str
    arrays: Any
    apply: Callable


def enlarged(source: jax.Array, image_shape: Sequence[int]) -> jax.Array:
    """Sources of the size and channels of images: by Lanczos interpolation where they are smaller."""
    found = restoration.classical(source, tuple(image_shape))
    return found["input"] if "input" in found else found["lanczos"]


def best_filter(pairs: Iterable[tuple[jax.Array, jax.Array]], *, taps: int = 13) -> Method:
    """The linear filter, the same at every pixel and of every colour, with the least squared error on training pairs.

    Small sources are enlarged by Lanczos interpolation first. The sums are in double precision, since the windows of
    what was enlarged are nearly linearly dependent.

    Args:
      pairs: batches of (source [B, h, w, c], image [B, H, W, C]).
      taps: its side in pixels, odd. What lies outside of an image is taken to be like its edge.

    Raises:
      ValueError: for an even number of taps; without pairs.
    """
    if taps % 2 == 0 or taps < 1:
        raise ValueError(f"the side of a filter is an odd number of pixels, not {taps}")
    size = taps * taps + 1
    gram, moment = np.zeros((size, size)), np.zeros(size)
    shape: tuple[int, ...] = ()
    count = 0
    for source, image in pairs:
        shape = image.shape[1:]
        for part in np.array_split(np.arange(len(image)), -(-len(image) // 8)):  # windows take memory
            windows = np.asarray(_rows(jnp.asarray(source)[part], shape, taps), np.float64)
            gram, moment = gram + windows.T @ windows, moment + windows.T @ np.asarray(image)[part].ravel()
        count += len(image)
    if not count:
        raise ValueError("there are no pairs to fit a filter to")
    # Where the windows do not say which of many filters it is, the one that is nearest to doing nothing.
    ridge, nothing = 1e-6 * np.trace(gram) / size, np.eye(size)[taps * taps // 2]
    weights = jnp.asarray(nothing + np.linalg.solve(gram + ridge * np.eye(size), moment - gram @ nothing), jnp.float32)

    def apply(weights, source, mask):
        return jnp.clip(_windows(enlarged(source, shape), taps) @ weights, -1.0, 1.0)

    return Method(
        f"least squares over {count:,} training pairs, {taps}x{taps} taps and a constant", weights, jax.jit(apply)
    )


def _windows(image: jax.Array, taps: int) -> jax.Array:
    """[B, H, W, C] -> [B, H, W, C, taps^2 + 1]: the window around each number, and 1."""
    (height, width), reach = image.shape[1:3], taps // 2
    padded = jnp.pad(image, [(0, 0), (reach, reach), (reach, reach), (0, 0)], "edge")
    shifts = [padded[:, i : i + height, j : j + width] for i in range(taps) for j in range(taps)]
    return jnp.stack([*shifts, jnp.ones_like(image)], axis=-1)


@functools.partial(jax.jit, static_argnames=("image_shape", "taps"))
def _rows(source, image_shape, taps):
    windows = _windows(enlarged(source, image_shape), taps)
    return windows.reshape(-1, windows.shape[-1])


def best_linear_map(source: np.ndarray, image: np.ndarray) -> Method:
    """The linear map of all pixels to all pixels with the least squared error, and a ridge.

    The strength of the ridge is the one of `STRENGTHS` with the least error on pairs that are left out one by one,
    which has a closed form: residuals (Y - H Y)_i / (1 - H_ii) for H = K (K + s I)^-1.

    Args:
      source: [N, h, w, c].
      image: [N, H, W, C].

    Raises:
      ValueError: for fewer than 2 pairs, or unlike numbers of sources and images.
    """
    x, y = (jnp.asarray(each, jnp.float32).reshape(len(each), -1) for each in (source, image))
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"a linear map is fitted to 2 pairs or more, not {len(x)} sources and {len(y)} images")
    centre, mean = jnp.mean(x, axis=0), jnp.mean(y, axis=0)
    x, y = x - centre, y - mean
    values, vectors = jnp.linalg.eigh(x @ x.T)
    values = jnp.maximum(values, 0.0)
    few = vectors.T @ (y @ jax.random.normal(jax.random.key(0), (y.shape[1], 128)))  # directions tell as much as all

    def left_out(strength):
        share = values / (values + strength)
        kept = jnp.sum(jnp.square(vectors) * share, axis=1)
        residual = vectors @ ((1 - share)[:, None] * few)
        return float(jnp.mean(jnp.square(residual / (1 - kept)[:, None])))

    strengths = [float(values[-1]) * share for share in STRENGTHS]
    errors = [left_out(strength) for strength in strengths]
    chosen = int(np.nanargmin(errors))
    dual = vectors @ ((vectors.T @ y) / (values + strengths[chosen])[:, None])
    weights, shape = x.T @ dual, image.shape[1:]

    def apply(arrays, source, mask):
        weights, centre, mean = arrays
        found = (source.reshape(len(source), -1) - centre) @ weights + mean
        return jnp.clip(found.reshape(-1, *shape), -1.0, 1.0)

    said = f"ridge of {STRENGTHS[chosen]:g} of the largest eigenvalue, by leaving out, over {len(x):,} training pairs"
    return Method(said, (weights, centre, mean), jax.jit(apply))


def principal_components(image: np.ndarray, num: int) -> Method:
    """Images by the num numbers that say most of them: the mean and the leading principal components.

    No linear code of as many numbers has a smaller squared error on the images that it is fitted to (Eckart and Young
    1936).

    Args:
      image: [N, H, W, C].
      num: K, of the components; images of N - 1 or H W C have no more.

    Raises:
      ValueError: for less than one component or 2 images.
    """
    if num < 1 or len(image) < 2:
        raise ValueError(f"components are of 1 or more and 2 images or more, not {num} of {len(image)} images")
    x, shape = jnp.asarray(image, jnp.float32).reshape(len(image), -1), image.shape[1:]
    mean = jnp.mean(x, axis=0)
    x = x - mean
    if len(x) < x.shape[1]:  # the smaller of the two matrices with the same eigenvalues
        values, vectors = jnp.linalg.eigh(x @ x.T)
        rows = (vectors[:, -num:].T @ x) / jnp.sqrt(jnp.maximum(values[-num:, None], 1e-6 * values[-1]))
    else:
        rows = jnp.linalg.eigh(x.T @ x)[1][:, -num:].T

    def apply(arrays, source, mask):
        rows, mean = arrays
        code = (source.reshape(len(source), -1) - mean) @ rows.T
        return jnp.clip((code @ rows + mean).reshape(-1, *shape), -1.0, 1.0)

    said = f"the mean and {len(rows):,} components of {len(image):,} training images"
    return Method(said, (rows, mean), jax.jit(apply))


def nearest(source: np.ndarray, image: np.ndarray) -> Method:
    """The image of the training pair whose source is nearest, by squared differences; of known pixels where some miss.

    Args:
      source: [N, h, w, c]. Where pixels are missing, they are compared with the images.
      image: [N, H, W, C].
    """
    arrays = (jnp.asarray(source, jnp.float32), jnp.asarray(image, jnp.float32))

    def apply(arrays, source, mask):
        sources, images = arrays
        if mask is not None:
            known = jnp.broadcast_to(1 - mask, source.shape).reshape(len(source), -1)
            asked, there = source.reshape(len(source), -1), images.reshape(len(images), -1)
            distance = known @ jnp.square(there).T - 2 * (known * asked) @ there.T
        else:
            asked, there = source.reshape(len(source), -1), sources.reshape(len(sources), -1)
            distance = jnp.sum(jnp.square(there), axis=1) - 2 * asked @ there.T
        return images[jnp.argmin(distance, axis=1)]

    return Method(f"of {len(arrays[1]):,} training pairs the one with the nearest source", arrays, jax.jit(apply))
