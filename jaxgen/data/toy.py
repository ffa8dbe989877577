"""Mixtures of Gaussians in the plane: the two standard pictures of mode collapse. Pure functions, jittable."""

import jax
import jax.numpy as jnp


def ring_modes(num_modes: int = 8, radius: float = 1.0) -> jax.Array:
    """Return the centres `radius * (cos a_i, sin a_i)` with `a_i = 2 pi i / num_modes`, float32 [num_modes, 2]."""
    # Not linspace(0, 2 pi, num_modes), whose two ends are one place: that makes one mode fewer, one of double weight.
    angles = 2.0 * jnp.pi * jnp.arange(num_modes, dtype=jnp.float32) / num_modes
    return radius * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)


def ring(key: jax.Array, n: int, *, num_modes: int = 8, radius: float = 1.0, std: float = 0.01) -> jax.Array:
    """Draw from equally weighted Gaussians on a circle.

    Args:
        key: a random key.
        n: the number of samples (static under `jit`).
        num_modes: the number of Gaussians (static under `jit`).
        radius: of the circle of centres.
        std: standard deviation of each Gaussian along each axis.

    Returns:
        float32 [n, 2].

    Source: Metz, Poole, Pfau, Sohl-Dickstein 2017, "Unrolled Generative Adversarial Networks".
    """
    return _mixture(key, n, ring_modes(num_modes, radius), std)


def grid_modes(side: int = 5, spacing: float = 2.0) -> jax.Array:
    """Return the `side * side` centres of a square grid around the origin, float32 [side**2, 2].

    The defaults are the 25 points of {-4, -2, 0, 2, 4} squared.
    """
    axis = spacing * (jnp.arange(side, dtype=jnp.float32) - (side - 1) / 2.0)
    return jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)


def grid(key: jax.Array, n: int, *, side: int = 5, spacing: float = 2.0, std: float = 0.05) -> jax.Array:
    """Draw from equally weighted Gaussians on a square grid.

    Args:
        key: a random key.
        n: the number of samples (static under `jit`).
        side: the number of Gaussians along each axis (static under `jit`).
        spacing: between neighbouring centres.
        std: standard deviation of each Gaussian along each axis.

    Returns:
        float32 [n, 2].

    Source: Lin, Khetan, Fanti, Oh 2018, "PacGAN".
    """
    return _mixture(key, n, grid_modes(side, spacing), std)


def _mixture(key, n, modes, std):
    mode_key, noise_key = jax.random.split(key)
    chosen = jax.random.randint(mode_key, (n,), 0, len(modes))
    return modes[chosen] + std * jax.random.normal(noise_key, (n, 2), jnp.float32)
