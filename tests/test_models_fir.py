"""Filters against a direct sum in SciPy, and what enlarging and shrinking keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from jaxgen.models import fir

pytestmark = pytest.mark.usefixtures("double_precision")


def direct(x, taps, up, down, padding):
    """Zeros, padding and a two-dimensional convolution, image by image and channel by channel."""
    n, h, w, c = x.shape
    spread = np.zeros((n, h * up, w * up, c))
    spread[:, ::up, ::up] = x
    before, after = padding
    spread = np.pad(spread, ((0, 0), *((max(0, before), max(0, after)),) * 2, (0, 0)))
    crop = (
        slice(max(0, -before), spread.shape[1] - max(0, -after)),
        slice(max(0, -before), spread.shape[2] - max(0, -after)),
    )
    spread = spread[:, crop[0], crop[1]]
    kernel = np.outer(taps, taps)
    filtered = [[signal.convolve2d(image[..., i], kernel, "valid") for i in range(c)] for image in spread]
    return np.moveaxis(np.asarray(filtered), 1, -1)[:, ::down, ::down]


@pytest.mark.parametrize(
    "up, down, padding, taps",
    [
        (1, 1, (0, 0), (1, 2, 4)),
        (1, 1, (2, 1), (1, 3, 3, 1)),
        (2, 1, (2, 1), (1, 3, 3, 1)),
        (2, 1, (3, 0), (1, 2, 5, 7, 11)),
        (1, 2, (1, 1), (1, 3, 3, 1)),
        (1, 3, (0, 4), (1, 2, 5)),
        (3, 2, (2, 2), (1, 2, 5, 7)),
        (4, 2, (5, 3), (1, 2, 5, 7, 3, 1)),
        (3, 1, (1, 1), (2, 1)),  # phases that no tap meets
        (2, 2, (-1, -2), (1, 3)),
    ],
)
def test_it_is_a_convolution_of_the_spread_image(up, down, padding, taps):
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 3))
    expected = direct(x, taps, up, down, padding)
    found = jax.jit(lambda x: fir.upfirdn(x, taps, up=up, down=down, padding=padding))(x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-12)


def test_sizes_are_multiplied_and_divided_and_a_constant_stays_one_away_from_the_border():
    x = jnp.full((1, 8, 6, 2), 3.0)
    for taps in (fir.BINOMIAL, (1, 1), (1, 2, 1), (1, 5, 10, 10, 5, 1)):
        large, small = fir.upsample(x, taps), fir.downsample(x, taps)
        assert large.shape == (1, 16, 12, 2) and small.shape == (1, 4, 3, 2)
        np.testing.assert_allclose(large[:, 4:-4, 4:-4], 3.0, rtol=1e-12)
        np.testing.assert_allclose(small[:, 1:-1, 1:-1], 3.0, rtol=1e-12)


def test_enlarging_is_four_times_the_transpose_of_shrinking():
    x, y = (np.random.default_rng(i).normal(size=(1, n, n, 1)) for i, n in ((0, 8), (1, 4)))
    assert float(jnp.vdot(fir.upsample(y), x)) == pytest.approx(4 * float(jnp.vdot(y, fir.downsample(x))), rel=1e-12)


def test_no_convolution_is_left_to_xla_and_the_dtype_is_kept():
    x = jnp.zeros((2, 8, 8, 4), jnp.bfloat16)
    program = jax.jit(jax.grad(lambda x: fir.upsample(fir.downsample(x)).astype(jnp.float32).sum())).lower(x).as_text()
    assert "convolution" not in program and "dot_general" not in program
    assert fir.upsample(x).dtype == jnp.bfloat16


def test_what_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing is left of 3 pixels after 4 taps"):
        fir.upfirdn(jnp.zeros((1, 3, 3, 1)), fir.BINOMIAL)
