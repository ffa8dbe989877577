"""A pool of earlier images: which are shown, which are kept, and for how long."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import pools

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY = jax.random.key(0)


def numbered(first, num):
    """Images of one pixel, each of another number."""
    return jnp.arange(first, first + num, dtype=jnp.float32).reshape(-1, 1, 1, 1)


def by_hand(stored, size, images, coins, places):
    """The published rule, image by image."""
    shown = []
    for image, coin, place in zip(images, coins, places, strict=True):
        if len(stored) < size:
            stored.append(image)
            shown.append(image)
        elif coin:
            shown.append(stored[place])
            stored[place] = image
        else:
            shown.append(image)
    return shown


@pytest.mark.parametrize("size, batch", [(1, 1), (3, 1), (3, 2), (4, 7), (5, 5)])
def test_images_are_stored_and_shown_one_after_the_other_also_within_a_batch(size, batch):
    pool, stored = pools.empty(size, (1, 1, 1)), []
    run = jax.jit(pools.exchange)
    for step in range(12):
        key, images = jax.random.fold_in(KEY, step), numbered(1 + step * batch, batch)
        shown, pool = run(pool, images, key)
        coin_key, place_key = jax.random.split(key)
        coins = jax.random.bernoulli(coin_key, shape=(batch,)).tolist()
        places = jax.random.randint(place_key, (batch,), 0, size).tolist()
        expected = by_hand(stored, size, images.ravel().tolist(), coins, places)
        assert shown.ravel().tolist() == expected
        assert int(pool.count) == len(stored)
        assert pool.images.ravel().tolist()[: len(stored)] == stored


def test_the_first_images_are_shown_as_they_come():
    shown, pool = pools.exchange(pools.empty(5, (1, 1, 1)), numbered(1, 5), KEY)
    assert shown.ravel().tolist() == pool.images.ravel().tolist() == [1, 2, 3, 4, 5]


def test_half_of_all_images_are_shown_at_once_and_the_others_stay_for_twice_the_size_on_average():
    size, steps = 10, 20_000

    def step(carry, i):
        pool = carry
        shown, pool = pools.exchange(pool, jnp.full((1, 1, 1, 1), i, jnp.float32), jax.random.fold_in(KEY, i))
        return pool, shown[0, 0, 0, 0]

    _, shown = jax.jit(lambda pool: jax.lax.scan(step, pool, jnp.arange(steps)))(pools.empty(size, (1, 1, 1)))
    age = np.arange(steps) - np.asarray(shown)
    later = age[steps // 10 :]
    assert np.mean(later == 0) == pytest.approx(0.5, abs=0.02)
    assert np.mean(later[later > 0]) == pytest.approx(2 * size, rel=0.05)


def test_devices_share_a_pool_whose_images_come_in_their_order():
    images = numbered(10, 8)
    pool = pools.Pool(numbered(1, 3), jnp.array(3))
    shown, after = pools.exchange(pool, images, KEY)
    parts, afters = jax.vmap(lambda images: pools.exchange(pool, images, KEY, axis_name="data"), axis_name="data")(
        images.reshape(4, 2, 1, 1, 1)
    )
    np.testing.assert_array_equal(parts.reshape(shown.shape), shown)
    for i in range(4):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), afters, after)


def test_no_gradient_goes_through_and_wrong_arguments_are_one_sentence():
    pool = pools.empty(2, (1, 1, 1))
    gradient = jax.grad(lambda x: pools.exchange(pool, x, KEY)[0].sum())(numbered(1, 3))
    np.testing.assert_array_equal(gradient, 0)
    with pytest.raises(ValueError, match="a pool is of at least 1 image, not 0"):
        pools.empty(0, (1, 1, 1))
    with pytest.raises(TypeError, match="key must be a random key, not a seed"):
        pools.exchange(pool, numbered(1, 1), 0)
