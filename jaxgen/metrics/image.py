"""How near an image is to the one it should be: PSNR and SSIM. One number for each image, jittable, differentiable."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def psnr(
    image: jax.Array | np.ndarray, reference: jax.Array | np.ndarray, *, data_range: float | None = None
) -> jax.Array:
    """Peak signal-to-noise ratio, 10 log10(data_range^2 / mean squared error).

    The error is averaged over all pixels and channels of an image before the logarithm; a mean over images is for the
    caller to take, after it.

    Args:
      image: [B, H, W, C].
      reference: the same shape.
      data_range: the largest difference that two pixels can have. By default 2 for floats, which are images in
        [-1, 1], and 255 for uint8, which are converted, so that they do not wrap around. For images in [0, 1] give 1.

    Returns:
      [B] decibels, infinite for equal images.

    Raises:
      ValueError: for unequal shapes, another number of axes, bytes beside floats, or other integers without a range.
    """
    image, reference, data_range = _pair(image, reference, data_range)
    error = jnp.mean((image - reference) ** 2, axis=(1, 2, 3))
    return 10 * jnp.log10(data_range**2 / error)


def ssim(
    image: jax.Array | np.ndarray,
    reference: jax.Array | np.ndarray,
    *,
    data_range: float | None = None,
    window_size: int = 11,
    window_std: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
) -> jax.Array:
    """Mean structural similarity.

        ((2 m_x m_y + c_1) (2 s_xy + c_2)) / ((m_x^2 + m_y^2 + c_1) (s_x^2 + s_y^2 + c_2)), c_i = (k_i data_range)^2

    Means m and (co)variances s are under a Gaussian window that adds up to 1, at every place where it fits inside of
    the image (no padding), for each channel on its own; then averaged over places and channels. The defaults are those
    of the paper. Others differ: uniform windows, padding, unbiased variances, or a conversion to grey.

    Args:
      image: [B, H, W, C].
      reference: the same shape.
      data_range: as for `psnr`.
      window_size: side of the window in pixels.
      window_std: standard deviation of the window in pixels.
      k1: stabilises dark places.
      k2: stabilises flat places.

    Returns:
      [B], at most 1, and 1 for equal images only. Symmetric.

    Raises:
      ValueError: as for `psnr`, or for images smaller than the window.

    Source: Wang, Bovik, Sheikh, Simoncelli 2004, "Image quality assessment: from error visibility to structural
    similarity".
    """
    image, reference, data_range = _pair(image, reference, data_range)
    if window_size < 1 or min(image.shape[1:3]) < window_size:
        raise ValueError(
            f"a window of {window_size} pixels does not fit into images of {image.shape[1]}x{image.shape[2]}: "
            "choose a smaller window_size, and state it with the number"
        )
    offset = np.arange(window_size) - (window_size - 1) / 2
    window = np.exp(-0.5 * (offset / window_std) ** 2)
    window /= window.sum()

    def average(x):
        return _filter(_filter(x, window, axis=1), window, axis=2)

    # A shift does not change variances, and near 0 fewer digits are lost by E x^2 - (E x)^2.
    x_shift, y_shift = (jnp.mean(x, axis=(1, 2), keepdims=True) for x in (image, reference))
    x, y = image - x_shift, reference - y_shift
    x_mean, y_mean = average(x), average(y)
    x_variance, y_variance = average(x * x) - x_mean**2, average(y * y) - y_mean**2
    covariance = average(x * y) - x_mean * y_mean
    x_mean, y_mean = x_mean + x_shift, y_mean + y_shift
    c1, c2 = (k1 * data_range) ** 2, (k2 * data_range) ** 2
    luminance = (2 * x_mean * y_mean + c1) / (x_mean**2 + y_mean**2 + c1)
    structure = (2 * covariance + c2) / (x_variance + y_variance + c2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _pair(image, reference, data_range):
    image, reference = jnp.asarray(image), jnp.asarray(reference)
    if image.shape != reference.shape or image.ndim != 4:
        raise ValueError(
            f"images are compared with as many of the same shape [B, H, W, C], not {list(image.shape)} with "
            f"{list(reference.shape)}"
        )
    if data_range is None:
        kinds = {str(x.dtype) if jnp.issubdtype(x.dtype, jnp.integer) else "floats" for x in (image, reference)}
        if kinds not in ({"floats"}, {"uint8"}):
            raise ValueError(
                f"images of {' and '.join(sorted(kinds))} have no range in common that could be guessed: bring both to "
                "one, and give data_range"
            )
        data_range = 255.0 if kinds == {"uint8"} else 2.0
    dtype = jnp.promote_types(jnp.promote_types(image.dtype, reference.dtype), jnp.float32)
    return image.astype(dtype), reference.astype(dtype), data_range


def _filter(x, window, axis):
    """Weighted mean along an axis, where the window fits."""
    size = x.shape[axis] - len(window) + 1
    return sum(w * lax.slice_in_dim(x, i, i + size, axis=axis) for i, w in enumerate(window.tolist()))
