"""What lies between two latents, and closed loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import interpolation

pytestmark = pytest.mark.usefixtures("fast_compilation")
slerp, lerp = jax.jit(interpolation.slerp), jax.jit(interpolation.lerp)


def pair(num=5, dim=7):
    a, b = jax.random.normal(jax.random.key(0), (2, num, dim))
    return a, b


@pytest.mark.parametrize("between", [slerp, lerp])
def test_the_ends_are_the_latents_themselves_to_the_last_bit(between):
    a, b = pair()
    np.testing.assert_array_equal(between(a, b, jnp.zeros(5)), a)
    np.testing.assert_array_equal(between(a, b, jnp.ones(5)), b)


def test_between_unit_vectors_the_norm_stays_one_and_the_angle_grows_evenly():
    a, b = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in pair())
    shares = np.linspace(0, 1, 9)
    way = np.stack([slerp(a, b, share) for share in shares]).astype(float)
    np.testing.assert_allclose(np.linalg.norm(way, axis=-1), 1, atol=1e-6)
    angles = np.arccos(np.clip(np.sum(way[:-1] * way[1:], -1), -1, 1))
    np.testing.assert_allclose(
        angles, np.broadcast_to(np.arccos(np.sum(way[0] * way[-1], -1)) / 8, angles.shape), rtol=2e-3
    )
    np.testing.assert_allclose(slerp(jnp.array([2.0, 0.0]), jnp.array([0.0, 2.0]), 0.5), [2**0.5, 2**0.5], rtol=1e-6)


def test_where_no_circle_is_told_by_two_latents_the_way_is_straight():
    a = jnp.array([[1.0, 2.0]])
    for factor in (1.0, 3.0, -1.0, 0.0):
        np.testing.assert_allclose(slerp(a, factor * a, 0.25), lerp(a, factor * a, 0.25), atol=1e-6)
    one_number = slerp(jnp.array([[2.0]]), jnp.array([[-1.0]]), 0.5)
    np.testing.assert_allclose(one_number, [[0.5]], atol=1e-6)


def test_a_loop_is_closed_and_all_of_its_steps_are_as_long():
    points = np.eye(4)  # of one length, and each as far from the next
    start, share = interpolation.loop(12, 4)
    assert start.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3] and np.all(share[::3] == 0)
    way = np.asarray(slerp(points[start], points[(start + 1) % 4], share))
    np.testing.assert_array_equal(way[::3], points)
    steps = np.linalg.norm(way - np.roll(way, 1, axis=0), axis=-1)  # the first: from the last frame
    np.testing.assert_allclose(steps, steps[0], rtol=1e-5)
    start, share = interpolation.loop(10, 4)  # where points are no frames, they still move evenly
    np.testing.assert_allclose(start + share, np.arange(10) * 0.4, rtol=1e-6)


@pytest.mark.parametrize(
    "frames, points, message", [(8, 1, "at least 2 latents, not 1"), (3, 4, "4 latents has at least as many frames")]
)
def test_what_is_no_loop_is_one_sentence(frames, points, message):
    with pytest.raises(ValueError, match=message):
        interpolation.loop(frames, points)
