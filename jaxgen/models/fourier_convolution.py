"""Fast Fourier convolutions (Chi, Jiang and Mu 2020), as LaMa has them (Suvorov et al. 2022): each pixel sees all.

Maps have two parts. The local one goes through 3x3 convolutions, the global one through 1x1 convolutions of its
spectrum, and 3x3 convolutions join them:

    local'  = relu(norm(conv(local) + conv(global)))
    global' = relu(norm(conv(local) + spectral(global)))

A layer of the spectrum is not local, and not equivariant to shifts, since ReLU acts on real and imaginary parts: what
holds such layers cannot be divided into tiles.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv
from jaxgen.models.normalisation import Norm
from jaxgen.models.padding import pad
from jaxgen.models.restoring import uniform

Parts = tuple[jax.Array, jax.Array | None]
"""(local [B, H, W, C], global [B, H, W, C'] or None)."""


def spectrum(x: jax.Array) -> jax.Array:
    """The discrete Fourier transform of real maps, orthonormal: [B, H, W, C] -> [B, H, W // 2 + 1, 2 C], float32.

    All real parts come first, then all imaginary ones.
    """
    found = jnp.fft.rfft2(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axes=(1, 2), norm="ortho")
    return jnp.concatenate([found.real, found.imag], axis=-1)


def from_spectrum(y: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The inverse of `spectrum`: [B, H, W // 2 + 1, 2 C] -> [B, H, W, C].

    Args:
      y: real parts, then imaginary ones.
      size: (H, W), since H x 2 n and H x (2 n + 1) pixels have spectra of one shape.
    """
    real, imaginary = jnp.split(y, 2, axis=-1)
    return jnp.fft.irfft2(jax.lax.complex(real, imaginary), s=size, axes=(1, 2), norm="ortho")


class _Layer(nn.Module):
    """What these layers share."""

    features: int
    dtype: Any = None
    axis_name: str | None = None

    def conv(self, features: int, size: int = 1, strides: int = 1) -> Conv:
        """Without a bias: a normalisation follows."""
        return Conv(features, size, strides, use_bias=False, kernel_init=uniform, dtype=self.dtype)

    def rectified(self, x: jax.Array, train: bool) -> jax.Array:
        """Batch normalisation and ReLU."""
        ones = nn.initializers.ones
        norm = Norm("batch", "running", scale_init=ones, dtype=self.dtype, axis_name=self.axis_name)
        return nn.relu(norm(x, train=train))


class FourierUnit(_Layer):
    """A 1x1 convolution, batch normalisation and ReLU of the spectrum: [B, H, W, C] -> [B, H, W, features]."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        found = self.rectified(self.conv(2 * self.features)(spectrum(x)), train)
        return from_spectrum(found.astype(jnp.float32), (x.shape[1], x.shape[2])).astype(self.dtype or x.dtype)


class SpectralTransform(_Layer):
    """A `FourierUnit` and a shortcut around it, in half the features: [B, H, W, C] -> [B, H, W, features]."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        half = self.features // 2
        x = self.rectified(self.conv(half)(x), train)
        return self.conv(self.features)(x + FourierUnit(half, self.dtype, self.axis_name)(x, train=train))


class FourierConv(_Layer):
    """A fast Fourier convolution with normalisation and ReLU: parts -> parts, `share` of `features` in the global one.

    Without a global part coming in, and with a share of 0, it is a 3x3 convolution with batch normalisation and ReLU.
    Borders are reflected.
    """

    share: float = 0.75
    strides: int = 1

    @nn.compact
    def __call__(self, parts: Parts, *, train: bool) -> Parts:
        local, seen = parts
        wide = int(self.share * self.features)
        here = self.features - wide
        both = self.conv(self.features, 3, self.strides)(pad(local, 1))  # to both parts at once
        near, far = both[..., :here], both[..., here:]
        if seen is not None:
            near += self.conv(here, 3, self.strides)(pad(seen, 1))
            far += SpectralTransform(wide, self.dtype, self.axis_name)(seen, train=train)
        return self.rectified(near, train), self.rectified(far, train) if wide else None


class FourierBlock(_Layer):
    """Two fast Fourier convolutions, and a shortcut around them: parts -> parts of the same shapes."""

    share: float = 0.75

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, parts: tuple[jax.Array, jax.Array], *, train: bool) -> tuple[jax.Array, jax.Array]:
        found: Any = parts
        for _ in range(2):
            found = FourierConv(self.features, self.dtype, self.axis_name, share=self.share)(found, train=train)
        return parts[0] + found[0], parts[1] + found[1]
