"""Invertible maps of latents with their log determinants.

A flow is a Flax module:

    flow(z, *context) -> (z', log |dz' / dz|)       z [..., d] -> [..., d] and [...]
    flow.inverse(z', *context) -> (z, log |dz' / dz|)   both of the same pair, so that the two determinants agree
    flow.context_sizes(d)                            how many numbers of an image it is told

`context` are arrays [..., n] that broadcast against z but for the last axis.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


class Planar(nn.Module):
    """f(z) = z + u tanh(w . z + b), `length` times; the encoder returns u, w and b (Rezende and Mohamed 2015).

    u is moved along w so that w . u > -1, which makes f invertible (their appendix A.1). No formula for the inverse.
    """

    length: int = 10

    def context_sizes(self, latent_dim: int) -> tuple[int, ...]:
        """u, w and b of each step."""
        return self.length * latent_dim, self.length * latent_dim, self.length

    def __call__(self, z: jax.Array, u: jax.Array, w: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(z', log |det|)."""
        d = z.shape[-1]
        u, w = (x.reshape(*x.shape[:-1], self.length, d) for x in (u, w))
        log_det = jnp.zeros(z.shape[:-1], z.dtype)
        for i in range(self.length):
            wi, ui = w[..., i, :], u[..., i, :]
            product = jnp.sum(wi * ui, axis=-1, keepdims=True)
            shift = -1 + jax.nn.softplus(product) - product
            ui = ui + shift * wi / (jnp.sum(wi**2, axis=-1, keepdims=True) + 1e-12)
            h = jnp.tanh(jnp.sum(wi * z, axis=-1, keepdims=True) + b[..., i, None])
            inner = jnp.sum(wi * ui, axis=-1)
            log_det = log_det + jnp.log1p((1 - h[..., 0] ** 2) * inner)
            z = z + ui * h
        return z, log_det

    def inverse(self, z: jax.Array, *context: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Raises a ValueError: there is no formula."""
        raise ValueError(
            "planar flows have no inverse in closed form, so log q(z|x) is known only where z was drawn: "
            "take couplings (RealNVP), or a bound that needs no other, such as iwae or elbo"
        )


class _Masked(nn.Module):
    """A dense layer whose kernel has zeros where unit j may not see input i."""

    mask: Any  # [inputs, features], nested tuples: modules are compared by value
    dtype: Any = None
    bias: float = 0.0

    @nn.compact
    def __call__(self, x):
        mask = np.asarray(self.mask, np.float32)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), mask.shape, jnp.float32)
        bias = self.param("bias", nn.initializers.constant(self.bias), mask.shape[1:], jnp.float32)
        dtype = self.dtype or jnp.promote_types(x.dtype, jnp.float32)
        return x.astype(dtype) @ (kernel * mask).astype(dtype) + bias.astype(dtype)


def _mask(inputs: np.ndarray, outputs: np.ndarray, strict: bool) -> tuple[tuple[float, ...], ...]:
    seen = inputs[:, None] < outputs if strict else inputs[:, None] <= outputs
    return tuple(map(tuple, seen.astype(float).tolist()))


class Autoregressive(nn.Module):
    """Inverse autoregressive flow: z <- s z + (1 - s) m, `length` times, units reversed between (Kingma et al. 2016).

    m_i and s_i = sigmoid(.) depend on z_1 .. z_(i-1) and on what the encoder tells, by masked layers (Germain et al.
    2015). The gate s starts near 1 (a bias of 2, their section 4). No inverse: it would take one pass for each unit.
    """

    latent_dim: int
    length: int = 2
    width: int = 320
    context: int = 64  # numbers of an image that the encoder returns for the flow
    dtype: Any = None

    def context_sizes(self, latent_dim: int) -> tuple[int, ...]:
        """One vector."""
        return (self.context,)

    def setup(self) -> None:
        """Its parameters."""
        degrees = np.arange(self.latent_dim)
        hidden = np.arange(self.width) % max(self.latent_dim - 1, 1)
        first, last = _mask(degrees, hidden, False), _mask(hidden, degrees, True)
        numbers = range(self.length)
        self.told = [nn.Dense(self.width, dtype=self.dtype) for _ in numbers]
        self.first = [_Masked(first, self.dtype) for _ in numbers]
        self.shift = [_Masked(last, self.dtype) for _ in numbers]
        self.gate = [_Masked(last, self.dtype, 2.0) for _ in numbers]

    def __call__(self, z: jax.Array, context: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(z', log |det|)."""
        log_det = jnp.zeros(z.shape[:-1], z.dtype)
        for i in range(self.length):
            h = nn.elu(self.first[i](z) + self.told[i](context))
            shift, gate = (layer(h).astype(z.dtype) for layer in (self.shift[i], self.gate[i]))
            s = jax.nn.sigmoid(gate)
            z = s * z + (1 - s) * shift
            log_det = log_det + jnp.sum(jax.nn.log_sigmoid(gate), axis=-1)
            z = z[..., ::-1]
        return z, log_det

    def inverse(self, z: jax.Array, *context: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Raises a ValueError: it would take a pass for each unit."""
        raise ValueError(
            "an inverse autoregressive flow is not inverted here, so log q(z|x) is known only where z was drawn: "
            "take couplings (RealNVP), or a bound that needs no other, such as iwae or elbo"
        )


class Couplings(nn.Module):
    """RealNVP: one half of z is scaled and shifted by functions of the other, in turns (Dinh et al. 2017, section 3.2).

    z_b <- z_b exp(s(z_a)) + t(z_a), with s = 2 tanh(. / 2), which keeps the scale between exp(-2) and exp(2): ours.
    """

    latent_dim: int
    length: int = 4
    width: int = 64
    context: int = 0
    dtype: Any = None

    def context_sizes(self, latent_dim: int) -> tuple[int, ...]:
        """One vector, or nothing."""
        return (self.context,) if self.context else ()

    def setup(self) -> None:
        """Its parameters."""
        if self.latent_dim < 2:
            raise ValueError(f"couplings need latent_dim of 2 or more, not {self.latent_dim}")
        half = self.latent_dim // 2
        sizes = [self.latent_dim - half if i % 2 == 0 else half for i in range(self.length)]  # of what is changed
        self.hidden = [nn.Dense(self.width, dtype=self.dtype) for _ in sizes]
        small = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
        self.scale_and_shift = [nn.Dense(2 * n, kernel_init=small, dtype=self.dtype) for n in sizes]

    def _step(self, i, kept, context):
        inputs = kept
        for c in context:
            inputs = jnp.concatenate([inputs, jnp.broadcast_to(c, (*kept.shape[:-1], c.shape[-1]))], axis=-1)
        both = self.scale_and_shift[i](nn.tanh(self.hidden[i](inputs))).astype(kept.dtype)
        scale, shift = jnp.split(both, 2, axis=-1)
        return 2 * jnp.tanh(0.5 * scale), shift

    def _parts(self, i, z):
        half = self.latent_dim // 2
        return (z[..., :half], z[..., half:]) if i % 2 == 0 else (z[..., half:], z[..., :half])

    def _joined(self, i, kept, changed):
        return jnp.concatenate([kept, changed] if i % 2 == 0 else [changed, kept], axis=-1)

    def __call__(self, z: jax.Array, *context: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(z', log |det|)."""
        log_det = jnp.zeros(z.shape[:-1], z.dtype)
        for i in range(self.length):
            kept, changed = self._parts(i, z)
            scale, shift = self._step(i, kept, context)
            z = self._joined(i, kept, changed * jnp.exp(scale) + shift)
            log_det = log_det + jnp.sum(scale, axis=-1)
        return z, log_det

    def inverse(self, z: jax.Array, *context: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(z, log |det| of the forward map there)."""
        log_det = jnp.zeros(z.shape[:-1], z.dtype)
        for i in reversed(range(self.length)):
            kept, changed = self._parts(i, z)
            scale, shift = self._step(i, kept, context)
            z = self._joined(i, kept, (changed - shift) * jnp.exp(-scale))
            log_det = log_det + jnp.sum(scale, axis=-1)
        return z, log_det
