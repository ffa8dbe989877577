"""Contextual attention: a hole is filled with patches of what is known (Yu et al. 2018, "DeepFill").

Where a map is missing, the patches that lie nearest (by the cosine of 3x3 patches of the map at half its size) are
pasted, as weighted means of 4x4 patches of the whole map, of which four lie over each other. Weights that neighbours
agree on are raised: where a patch goes with a known one, the next should go with the next.
"""

import jax
import jax.numpy as jnp

from jaxgen.models.convolution import max_pool


def patches(x: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
    """Maps [B, H, W, C] -> [B, h, w, size * size, C], h = (H + 2 padding - size) // stride + 1; beyond them is 0."""
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    count = [(side - size) // stride + 1 for side in x.shape[1:3]]

    def shifted(i, j):
        return x[:, i : i + stride * (count[0] - 1) + 1 : stride, j : j + stride * (count[1] - 1) + 1 : stride]

    return jnp.stack([shifted(i, j) for i in range(size) for j in range(size)], axis=3)


def pasted(x: jax.Array, shape: tuple[int, ...], size: int, stride: int, padding: int) -> jax.Array:
    """The adjoint of `patches`: [B, h, w, size * size, C] -> the sum of all patches where they lie, of a shape."""

    def cut(whole):
        return patches(whole, size, stride, padding)

    return jax.linear_transpose(cut, jax.ShapeDtypeStruct(shape, x.dtype))(x)[0]


def fused(scores: jax.Array, size: tuple[int, int], others: tuple[int, int]) -> jax.Array:
    """Scores of places [B, n, m], each with those of its neighbours added: along rows, then along columns.

    A neighbour of place i and place j is i + 1 and j + 1, with i - 1 and j - 1, in the order of pixels.

    Args:
      scores: of n = h w places with m = h' w' places.
      size: (h, w).
      others: (h', w').
    """

    def along(x):
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1)))
        return x[:, 1:-1, 1:-1] + x[:, :-2, :-2] + x[:, 2:, 2:]

    def turned(x, size, others):
        x = x.reshape(len(x), *size, *others).transpose(0, 2, 1, 4, 3)
        return x.reshape(len(x), size[0] * size[1], others[0] * others[1])

    return turned(along(turned(along(scores), size, others)), size[::-1], others[::-1])


def contextual_attention(x: jax.Array, mask: jax.Array, *, scale: float = 10.0) -> jax.Array:
    """Maps [B, H, W, C] made of the known patches of themselves, for even H and W: the same shape.

    Args:
      x: maps.
      mask: [B, H, W, 1], 1 where the image is missing. A patch with a missing pixel is not pasted, and where there is
        no other, 0 is.
      scale: of the scores: large: the nearest patch alone.

    Returns:
      All of the map, of which the hole is what counts.

    Raises:
      ValueError: at trace time, for odd sides.

    Yu et al. 2018, section 4.1, with the rate, the fusion and the scale of the authors' second version.
    """
    b, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise ValueError(f"contextual attention halves maps, and {height}x{width} cannot be halved")
    size = (height // 2, width // 2)
    n = size[0] * size[1]
    small = patches(x[:, ::2, ::2].astype(jnp.float32), 3, 1, 1).reshape(b, n, 9 * channels)
    known = jnp.max(patches(max_pool(mask), 3, 1, 1), axis=(3, 4)).reshape(b, 1, n) <= 0
    length = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(small), axis=-1, keepdims=True), 1e-8))
    scores = jnp.einsum("bnc,bmc->bnm", small, small / length)
    scores = jnp.where(known, scale * fused(scores, size, size), -1e9)
    attention = jnp.where(known, jax.nn.softmax(scores, axis=-1), 0.0)
    large = patches(x, 4, 2, 1).reshape(b, n, 16 * channels)
    found = jnp.einsum("bnm,bmc->bnc", attention.astype(x.dtype), large)
    return pasted(found.reshape(b, *size, 16, channels), x.shape, 4, 2, 1) / 4
