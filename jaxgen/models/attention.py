"""Self-attention of a feature map, as in SAGAN (Zhang, Goodfellow, Metaxas and Odena 2019).

Each pixel asks all others what they hold: y = x + gain * W_o (softmax(q k') v), with q, k and v linear in x. The gain
is learned and starts at 0, so that a network begins with what its convolutions see.

The paper's text attends to every pixel. Its authors' code, and all networks whose numbers are published, take the
maximum over 2x2 pixels of keys and values, which saves three quarters of the matrix; so does this.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import max_pool
from jaxgen.models.spectral_norm import SpectralConv


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """softmax(query key') value, over the keys; not divided by sqrt(D).

    Args:
      query: [B, N, D].
      key: [B, M, D].
      value: [B, M, V].

    Returns:
      [B, N, V], in the values' dtype: means of the values. The softmax is computed in float32, or a wider dtype.
    """
    wide = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum("bnd,bmd->bnm", query, key, preferred_element_type=wide)
    return jnp.einsum("bnm,bmv->bnv", nn.softmax(logits).astype(value.dtype), value)


class SelfAttention(nn.Module):
    """x + gain * output(attend(query(x), max_pool(key(x)), max_pool(value(x)))): [B, H, W, C] -> [B, H, W, C].

    Four spectrally normalised 1x1 convolutions without biases: query and key have C / 8 channels, value C / 2, output
    C (at least one each). `gain` is a number, 0 at first.
    """

    kernel_init: Any = nn.initializers.xavier_uniform()
    dtype: Any = None  # of the computation; parameters are float32
    epsilon: float = 1e-12  # of the spectral normalisation

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        batch, height, width, channels = x.shape

        def conv(features, name, x):
            shared = {"kernel_init": self.kernel_init, "dtype": self.dtype, "epsilon": self.epsilon}
            return SpectralConv(max(1, features), 1, use_bias=False, **shared, name=name)(x, train=train)

        def pixels(x):
            return x.reshape(batch, -1, x.shape[-1])

        query = conv(channels // 8, "query", x)
        key = max_pool(conv(channels // 8, "key", x))
        value = max_pool(conv(channels // 2, "value", x))
        seen = attend(pixels(query), pixels(key), pixels(value)).reshape(batch, height, width, -1)
        gain = self.param("gain", nn.initializers.zeros, (), jnp.float32)
        seen = conv(channels, "output", seen)
        return x + gain.astype(seen.dtype) * seen


def check_size(size: int, possible: Sequence[int]) -> int:
    """The side of the map that attends, if a network has such a map; 0: none.

    Raises:
      ValueError: for another size, naming those that there are.
    """
    if size and size not in possible:
        raise ValueError(
            f"attention is for maps of {', '.join(map(str, possible))} pixels (0: nowhere) in this network, not {size}"
        )
    return size
