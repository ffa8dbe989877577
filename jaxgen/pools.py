"""A pool of images that a generator made earlier, some of which its discriminator is shown instead of the newest.

The first k images go into the pool of k, and are what is shown. After that each image is shown at once with probability
one half; otherwise it takes the place of a stored one, drawn evenly, and that one is shown. A stored image stays for
2 k images on average. Shrivastava et al. 2017, with the rule of CycleGAN (Zhu et al. 2017, k = 50).

The images of a batch come one after the other, in their order: one may be stored and shown again in the same batch.
"""

import flax
import jax
import jax.numpy as jnp
from jax import lax

from jaxgen import sharding
from jaxgen.arguments import check_key


@flax.struct.dataclass
class Pool:
    """Images that were stored. Arrays only."""

    images: jax.Array  # [k, H, W, C]; zeros where none is yet
    count: jax.Array  # how many there are, int32


def empty(size: int, image_shape: tuple[int, int, int]) -> Pool:
    """A pool for so many images [H, W, C].

    Raises:
      ValueError: for fewer than one.
    """
    if size < 1:
        raise ValueError(f"a pool is of at least 1 image, not {size}; without a pool images are shown as they come")
    return Pool(jnp.zeros((size, *image_shape), jnp.float32), jnp.zeros((), jnp.int32))


def exchange(pool: Pool, images: jax.Array, key: jax.Array, *, axis_name: str | None = None) -> tuple[jax.Array, Pool]:
    """What is shown in the place of new images, and the pool after them.

    Args:
      pool: before.
      images: new ones [B, H, W, C], of this device in the per-device view. No gradient goes through.
      key: of the draws; the same on every device.
      axis_name: of the per-device view, in which all devices share one pool: their images come in order of the devices.

    Returns:
      (images [B, H, W, C], pool).
    """
    check_key(key)
    images = lax.stop_gradient(images)
    rows = images.shape[0]
    every = images if axis_name is None else lax.all_gather(images, axis_name, tiled=True)
    size, num = pool.images.shape[0], every.shape[0]
    coin_key, place_key = jax.random.split(key)
    coins = jax.random.bernoulli(coin_key, shape=(num,))
    places = jax.random.randint(place_key, (num,), 0, size, jnp.int32)

    def one(carry, drawn):
        """Numbers alone are moved about: those below `size` are stored images, the others new ones."""
        stored, count = carry
        i, coin, place = drawn
        full = count >= size
        place = jnp.where(full, place, count)
        swapped = full & coin
        shown = jnp.where(swapped, stored[place], size + i)
        stored = jnp.where(~full | coin, stored.at[place].set(size + i), stored)
        return (stored, jnp.minimum(count + 1, size)), shown

    begun = jnp.arange(size, dtype=jnp.int32), pool.count
    numbered = jnp.arange(num, dtype=jnp.int32), coins, places
    (stored, count), shown = lax.scan(one, begun, numbered)
    both = jnp.concatenate([pool.images, every.astype(pool.images.dtype)])
    if axis_name is not None:
        shown = lax.dynamic_slice_in_dim(shown, lax.axis_index(axis_name) * rows, rows)
    return sharding.divided(both[shown]).astype(images.dtype), Pool(both[stored], count)
