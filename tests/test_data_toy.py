import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data import toy


def test_the_ring_has_eight_different_modes_at_radius_one():
    modes = np.asarray(toy.ring_modes())
    assert modes.shape == (8, 2)
    np.testing.assert_allclose(np.linalg.norm(modes, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(modes[0], [1, 0], atol=1e-6)
    np.testing.assert_allclose(modes[2], [0, 1], atol=1e-6)
    distances = np.linalg.norm(modes[:, None] - modes[None], axis=-1) + 9 * np.eye(8)
    np.testing.assert_allclose(distances.min(1), 2 * np.sin(np.pi / 8), atol=1e-6)


def test_the_grid_has_the_twenty_five_points_of_even_coordinates():
    modes = {tuple(int(c) for c in mode) for mode in np.asarray(toy.grid_modes())}
    assert modes == {(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)}


def check_mixture(samples, modes, std):
    offsets = samples[:, None] - modes[None]
    nearest = (offsets**2).sum(-1).argmin(1)
    offset = offsets[np.arange(len(samples)), nearest]
    np.testing.assert_allclose(offset.mean(0), 0.0, atol=5 * std / np.sqrt(len(samples)))
    np.testing.assert_allclose(offset.std(0), std, rtol=0.03)
    expected = len(samples) / len(modes)
    np.testing.assert_allclose(np.bincount(nearest, minlength=len(modes)), expected, atol=5 * np.sqrt(expected))


def test_ring_samples_are_equally_weighted_gaussians_at_the_modes():
    samples = toy.ring(jax.random.key(0), 20_000)
    assert samples.shape == (20_000, 2) and samples.dtype == jnp.float32
    check_mixture(np.asarray(samples), np.asarray(toy.ring_modes()), 0.01)
    check_mixture(
        np.asarray(toy.ring(jax.random.key(1), 20_000, num_modes=5, radius=3.0, std=0.1)),
        np.asarray(toy.ring_modes(5, 3.0)),
        0.1,
    )


def test_grid_samples_are_equally_weighted_gaussians_at_the_modes():
    samples = toy.grid(jax.random.key(0), 20_000)
    assert samples.shape == (20_000, 2) and samples.dtype == jnp.float32
    check_mixture(np.asarray(samples), np.asarray(toy.grid_modes()), 0.05)


def test_toys_can_be_jitted_and_mapped_over_keys_and_widths():
    keys = jax.random.split(jax.random.key(0), 3)
    jitted = jax.jit(jax.vmap(lambda key, std: toy.ring(key, 16, std=std)))(keys, jnp.array([0.01, 0.1, 1.0]))
    np.testing.assert_allclose(jitted[1], toy.ring(keys[1], 16, std=0.1), atol=1e-6)
    assert jax.jit(lambda key: toy.grid(key, 16))(keys[0]).shape == (16, 2)
