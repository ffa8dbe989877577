"""Ways between latents: on the great circle (`slerp`) or straight (`lerp`), and closed loops through several."""

import jax
import jax.numpy as jnp
import numpy as np

_NEARLY = 1e-6  # a sine below which two directions are one, or opposite, and no circle is told by them


def slerp(a: jax.Array, b: jax.Array, share: jax.Array | float) -> jax.Array:
    """On the way from a to b along the circle through both: with omega the angle between a and b

        (sin((1 - share) omega) a + sin(share omega) b) / sin(omega)

    The angle grows in proportion to the share, and between vectors of one length the length stays. Normal latents have
    nearly one length, sqrt(D): what lies straight between two of them is too short, and nothing that training has seen.
    Where no circle is told by them, for a or b is 0 or they point to one side or to opposite ones, the way is straight.

    Args:
      a, b: [..., D].
      share: [...] or a number, 0 is a and 1 is b, both exactly.

    Returns:
      [..., D] float.

    Shoemake 1985; for latents White 2016.
    """
    a, b = (jnp.asarray(x, jnp.result_type(x, jnp.float32)) for x in (a, b))
    to_b = jnp.broadcast_to(jnp.asarray(share, a.dtype), jnp.broadcast_shapes(a.shape, b.shape)[:-1])[..., None]
    unit_a, unit_b = (x / jnp.maximum(_norm(x), jnp.finfo(a.dtype).tiny) for x in (a, b))
    omega = 2 * jnp.arctan2(_norm(unit_a - unit_b), _norm(unit_a + unit_b))  # of small angles, too, unlike arccos
    sine = jnp.sin(omega)
    straight = (sine < _NEARLY) | (_norm(a) * _norm(b) == 0)
    sine = jnp.where(straight, 1.0, sine)
    of_a = jnp.where(straight, 1 - to_b, jnp.sin((1 - to_b) * omega) / sine)
    of_b = jnp.where(straight, to_b, jnp.sin(to_b * omega) / sine)
    return of_a * a + of_b * b


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True))


def lerp(a: jax.Array, b: jax.Array, share: jax.Array | float) -> jax.Array:
    """(1 - share) a + share b, straight.

    Args:
      a, b: [..., D].
      share: [...] or a number.

    Returns:
      [..., D].
    """
    share = jnp.asarray(share)[..., None]
    return (1 - share) * a + share * b


def loop(num_frames: int, num_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the frames of a closed loop through points 0, 1, ..., num_points - 1 and back to 0 lie.

    Frame i is num_points * i / num_frames of the way: all steps are as long, that from the last frame to the first
    one, too.

    Args:
      num_frames: of the loop.
      num_points: on it.

    Returns:
      (start, share), int [num_frames] and float32 [num_frames]: frame i is the share of its way from point start[i] to
      the next one, which follows 0 after the last.

    Raises:
      ValueError: for less than two points, or fewer frames than points.
    """
    if num_points < 2:
        raise ValueError(f"a loop goes through at least 2 latents, not {num_points}")
    if num_frames < num_points:
        raise ValueError(f"a loop through {num_points} latents has at least as many frames, not {num_frames}")
    start, rest = np.divmod(num_points * np.arange(num_frames), num_frames)
    return start, (rest / num_frames).astype(np.float32)
