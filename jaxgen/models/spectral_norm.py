"""Spectral normalisation (Miyato et al., 2018): layers whose matrix is divided by its largest singular value.

Each layer is linear with matrix W [n, O]; a convolution's kernel is read as [kh * kw * C, O]. Power iteration follows
the largest singular value along with training, one step for each application:

    v = W u / |W u|    u = W' v / |W' v|    sigma = v' W u    the layer uses W / sigma

u [O] is the layer's state, in the collection "spectral_norm". v and u are constants to differentiation, at any order;
the gradient flows through W. The paper writes the matrix as [O, n], so that its u is the u here and its sigma u' W v.

Conventions: sigma is computed in float32 whatever the computation's dtype. Where |W u| or |W' v| is at most epsilon
(1e-12), u stays as it is; where sigma is at most epsilon, the kernel is used undivided: a kernel of zeros remains one.
u is normalised when it is read, so that an average of u (over devices, over time) serves as well. u never depends on
the images: it is the same on all devices.

The parameters have the names, shapes and initial values of the plain layers.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxgen.models.batch_norm import rows_of
from jaxgen.models.convolution import Geometry, convolve
from jaxgen.models.resampling import convolve_then_halve, enlarge_then_convolve

COLLECTION = "spectral_norm"


def power_iteration(
    w: jax.Array, u: jax.Array, num_iterations: int = 1, epsilon: float = 1e-12
) -> tuple[jax.Array, jax.Array]:
    """Unit vectors that approach the two singular vectors of w's largest singular value.

    u = u / |u|, then num_iterations times v = w u / |w u|, u = w' v / |w' v|. Constants to differentiation.

    Args:
      w: matrix [n, O].
      u: [O], of any length but 0.
      num_iterations: 0 leaves the direction of u and gives its v.
      epsilon: a vector of at most this length is no direction: u stays as it is, v is 0.

    Returns:
      (v [n], u [O]); v' w u approaches the singular value from below.
    """
    w, u = lax.stop_gradient((w, u))
    u = _unit(u, epsilon)
    for _ in range(num_iterations):
        v = _unit(_product(w, u), epsilon)
        u = _unit(_product(v, w), epsilon, otherwise=u)
    return (v if num_iterations > 0 else _unit(_product(w, u), epsilon)), u


def _product(a, b):
    # By default TPUs multiply float32 as bfloat16; these products are too small for that to save anything.
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _unit(x, epsilon, otherwise=0.0):
    length = jnp.linalg.norm(x)
    # NaN is no direction either: u outlives an update that is not kept.
    return jnp.where(length > epsilon, x / jnp.maximum(length, epsilon), otherwise)


def spectral_norm(
    module: nn.Module, kernel: jax.Array, *, train: bool, num_iterations: int = 1, epsilon: float = 1e-12
) -> jax.Array:
    """The largest singular value of a module's kernel, by power iteration from the u that the module keeps.

    sigma = v' W u with W [n, O] the kernel, all axes but the last flattened; dsigma = v' dW u. To be called once in a
    layer's compact method, after its parameters are declared: they are then drawn as in the plain layer.

    Args:
      module: the layer, whose collection "spectral_norm" holds u [O].
      kernel: [..., O].
      train: whether power iteration goes on. Where the collection is not mutable, the new u is used and not kept.
      num_iterations: of the power iteration, for each call with train=True.
      epsilon: what counts as zero.

    Returns:
      A scalar, float32 or the kernel's wider dtype: sigma, or 1 where it is at most epsilon.
    """
    dtype = jnp.promote_types(kernel.dtype, jnp.float32)
    w = kernel.reshape(-1, kernel.shape[-1]).astype(dtype)
    state = module.variable(
        COLLECTION, "u", lambda: _unit(jax.random.normal(module.make_rng("params"), w.shape[1:], dtype), epsilon)
    )
    v, u = power_iteration(w, state.value, num_iterations if train else 0, epsilon)
    if train and module.is_mutable_collection(COLLECTION) and not module.is_initializing():
        state.value = u
    sigma = _product(v, _product(w, u))
    return jnp.where(sigma > epsilon, sigma, 1.0)


class SpectralConv(nn.Module):
    """`convolution.Conv` with its kernel [kh, kw, C, features], read as a matrix [kh * kw * C, features], over sigma.

    Images [N, H, W, C] -> [N, H', W', features] with H' = (H + 2 padding - kernel) // strides + 1.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: int | Sequence[int] = 0
    use_bias: bool = True
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = None  # of the computation; parameters are float32
    num_iterations: int = 1
    epsilon: float = 1e-12

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kernel_size = _pair(self.kernel_size)
        kernel = self.param("kernel", self.kernel_init, (*kernel_size, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32) if self.use_bias else None
        sigma = spectral_norm(self, kernel, train=train, num_iterations=self.num_iterations, epsilon=self.epsilon)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel / sigma, bias, dtype=self.dtype)
        y = self.operation(x, kernel)
        return y if bias is None else y + bias

    def operation(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """What the layer is without its bias, of a kernel that is normalised already."""
        padding = tuple((p, p) for p in _pair(self.padding))
        return convolve(x, kernel, Geometry(x.shape[1:3], _pair(self.kernel_size), _pair(self.strides), padding))


class SpectralHalvingConv(SpectralConv):
    """A 3x3 `SpectralConv` with padding 1, then the mean of 2x2 pixels: [B, H, W, C] -> [B, H / 2, W / 2, features].

    sigma is that of the 3x3 kernel, as if the mean were a layer of its own.
    """

    kernel_size: int = 3
    padding: int = 1

    def operation(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Without the bias."""
        return convolve_then_halve(x, kernel)


class SpectralEnlargingConv(SpectralConv):
    """A 3x3 `SpectralConv` with padding 1 of the enlarged image: [B, H, W, C] -> [B, 2 H, 2 W, features].

    sigma is that of the 3x3 kernel, as if enlarging were a layer of its own.
    """

    kernel_size: int = 3
    padding: int = 1

    def operation(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Without the bias."""
        return enlarge_then_convolve(x, kernel)


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


class SpectralDense(nn.Module):
    """`flax.linen.Dense` with its kernel [C, features] over sigma: [..., C] -> [..., features]."""

    features: int
    use_bias: bool = True
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = None  # of the computation; parameters are float32
    num_iterations: int = 1
    epsilon: float = 1e-12

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32) if self.use_bias else None
        sigma = spectral_norm(self, kernel, train=train, num_iterations=self.num_iterations, epsilon=self.epsilon)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel / sigma, bias, dtype=self.dtype)
        y = x @ kernel
        return y if bias is None else y + bias


class SpectralEmbed(nn.Module):
    """`flax.linen.Embed` with its embedding [num_embeddings, features] over sigma: integers [...] -> [..., features].

    An integer outside 0..num_embeddings - 1 gives NaN.
    """

    num_embeddings: int
    features: int
    embedding_init: Any = nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    dtype: Any = None  # of what is returned; parameters are float32
    num_iterations: int = 1
    epsilon: float = 1e-12

    @nn.compact
    def __call__(self, label: jax.Array, *, train: bool) -> jax.Array:
        embedding = self.param("embedding", self.embedding_init, (self.num_embeddings, self.features), jnp.float32)
        sigma = spectral_norm(self, embedding, train=train, num_iterations=self.num_iterations, epsilon=self.epsilon)
        return (rows_of(embedding, label) / sigma).astype(self.dtype or embedding.dtype)
