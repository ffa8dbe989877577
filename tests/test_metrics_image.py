import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxgen.metrics.image import psnr, ssim

pytestmark = pytest.mark.usefixtures("fast_compilation")  # the time of this file is XLA's


def pair(shape=(3, 20, 24, 2), seed=0):
    rng = np.random.default_rng(seed)
    reference = scipy.ndimage.gaussian_filter(rng.normal(size=shape), (0, 2, 2, 0)) * 2
    reference = np.clip(reference, -1, 1)
    return np.clip(reference + rng.normal(size=shape) * 0.2, -1, 1), reference


def ssim_by_windows(x, y, data_range=2.0, size=11, std=1.5, k1=0.01, k2=0.03):
    """In double precision, one window after the other, with variances about their own mean."""
    offset = np.arange(size) - (size - 1) / 2
    window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * std**2))
    window /= window.sum()
    c1, c2 = (k1 * data_range) ** 2, (k2 * data_range) ** 2
    values = []
    for i in range(x.shape[0] - size + 1):
        for j in range(x.shape[1] - size + 1):
            for c in range(x.shape[2]):
                a, b = (z[i : i + size, j : j + size, c] for z in (x, y))
                m_a, m_b = np.sum(window * a), np.sum(window * b)
                v_a, v_b = np.sum(window * (a - m_a) ** 2), np.sum(window * (b - m_b) ** 2)
                covariance = np.sum(window * (a - m_a) * (b - m_b))
                values.append(
                    (2 * m_a * m_b + c1) * (2 * covariance + c2) / ((m_a**2 + m_b**2 + c1) * (v_a + v_b + c2))
                )
    return np.mean(values)


def test_psnr_has_its_value_by_hand():
    reference = np.zeros((2, 2, 2, 1), np.float32)
    image = reference + np.array([0.2, 2.0], np.float32).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(psnr(image, reference), [20, 0], atol=1e-4)
    np.testing.assert_allclose(
        psnr(image, reference, data_range=1.0), [20 - 20 * math.log10(2)] * 1 + [-6.0206], atol=1e-4
    )
    assert np.isposinf(psnr(image, image)).all()


def test_psnr_of_bytes_does_not_wrap_around_and_equals_that_of_scaled_images():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 256, (2, 4, 8, 8, 3), dtype=np.uint8)
    scaled = psnr(a / np.float32(127.5) - 1, b / np.float32(127.5) - 1)
    np.testing.assert_allclose(psnr(a, b, data_range=255), scaled, rtol=1e-5)
    np.testing.assert_allclose(psnr(a, b), scaled, rtol=1e-5)
    np.testing.assert_array_equal(ssim(a, b, window_size=5), ssim(a, b, window_size=5, data_range=255))
    for x, y in ((a, b / 255.0), (a.astype(np.int32), b)):
        with pytest.raises(ValueError, match="no range in common that could be guessed"):
            psnr(x, y)
    exact = 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(scaled, exact, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"window_size": 7, "window_std": 1.0, "k1": 0.03, "k2": 0.1}, {"window_size": 8}, {"data_range": 1.0}],
)
def test_ssim_equals_its_definition_window_by_window(options):
    image, reference = pair()
    names = {"window_size": "size", "window_std": "std"}
    expected = [
        ssim_by_windows(x, y, **{names.get(k, k): v for k, v in options.items()})
        for x, y in zip(image, reference, strict=True)
    ]
    np.testing.assert_allclose(
        ssim(image.astype(np.float32), reference.astype(np.float32), **options), expected, rtol=1e-5
    )


@pytest.mark.usefixtures("double_precision")
def test_ssim_in_double_precision_is_exact():
    image, reference = pair()
    expected = [ssim_by_windows(x, y) for x, y in zip(image, reference, strict=True)]
    np.testing.assert_allclose(ssim(image, reference), expected, rtol=1e-12)


def test_single_precision_is_enough_for_ssim_of_nearly_white_paper():
    # Where nearly all is at one end of the range, variances are differences of nearly equal numbers.
    rng = np.random.default_rng(2)
    reference = 0.97 + 0.02 * rng.random((1, 16, 16, 1))
    image = reference + 0.01 * rng.normal(size=reference.shape)
    expected = ssim_by_windows(image[0], reference[0])
    assert float(ssim(image, reference)[0]) == pytest.approx(expected, rel=1e-5)


def test_ssim_is_symmetric_and_one_for_equal_images_only():
    image, reference = pair()
    np.testing.assert_allclose(ssim(image, reference), ssim(reference, image), rtol=1e-5)
    np.testing.assert_allclose(ssim(image, image), 1, rtol=1e-6)
    assert (ssim(image, reference) < 0.9).all()
    board = np.where(np.indices((1, 16, 16, 1)).sum(0) % 2, 1.0, -1.0)
    assert float(ssim(board, -board)[0]) < -0.99  # equal means, opposite structure


def test_ssim_of_flat_images_is_the_comparison_of_their_luminance():
    a, b = np.full((1, 12, 12, 1), 0.5), np.full((1, 12, 12, 1), -0.25)
    assert float(ssim(a, b)[0]) == pytest.approx((-0.25 + 4e-4) / (0.25 + 0.0625 + 4e-4), rel=1e-5)


@pytest.mark.slow
def test_both_are_compiled_mapped_and_differentiable():
    image, reference = (x.astype(np.float32) for x in pair())
    for metric in (psnr, ssim):
        np.testing.assert_allclose(jax.jit(metric)(image, reference), metric(image, reference), rtol=1e-5)
        gradient = jax.grad(lambda x, metric=metric: jnp.sum(metric(x, reference)))(image)
        assert np.isfinite(gradient).all()
        step = 0.01 * gradient / jnp.linalg.norm(gradient)
        assert metric(image + step, reference).sum() > metric(image, reference).sum()


def test_bad_input_is_refused():
    image, reference = pair()
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match=r"not \[3, 20, 24, 2\] with \[3, 20, 24, 1\]"):
            metric(image, reference[..., :1])
        with pytest.raises(ValueError, match=r"of the same shape \[B, H, W, C\]"):
            metric(image[0], reference[0])
    with pytest.raises(ValueError, match="a window of 11 pixels does not fit into images of 8x24"):
        ssim(image[:, :8], reference[:, :8])
