"""Noise that a generator draws for itself, beside its latents."""

import zlib

import jax
from flax import linen as nn

from jaxgen import sharding


def draw_noise(module: nn.Module, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise [B, H, W, 1]: from a module's stream "noise", and where it has no key always the same."""
    if module.has_rng("noise") or module.has_rng("params"):
        return sharding.draw(jax.random.normal, module.make_rng("noise"), (*shape[:3], 1))
    return jax.random.normal(jax.random.key(zlib.crc32("/".join(module.path).encode())), (1, *shape[1:3], 1))
