"""What is beyond the border of an image."""

import jax
import jax.numpy as jnp

MODES = {"zeros": "constant", "reflect": "reflect", "edge": "edge"}
"""Name -> that of `jnp.pad`."""


def pad(x: jax.Array, width: int, mode: str = "reflect") -> jax.Array:
    """[B, H, W, C] -> [B, H + 2 width, W + 2 width, C], each side continued by zeros, reflection, or its last pixel.

    Raises:
      ValueError: at trace time, for another mode; for a reflection that is wider than what is reflected.
    """
    if mode not in MODES:
        raise ValueError(f"an image is continued by one of {', '.join(MODES)}, not {mode!r}")
    if mode == "reflect" and width >= min(x.shape[1:3]):
        raise ValueError(
            f"{x.shape[1]}x{x.shape[2]} pixels are too few to be reflected by {width}: give larger images, or a "
            "network that halves them less often"
        )
    return jnp.pad(x, ((0, 0), (width, width), (width, width), (0, 0)), mode=MODES[mode])
