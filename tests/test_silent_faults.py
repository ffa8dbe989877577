"""Faults that raise nothing and change little that one would look at: orders, keys and memory that are shared."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import data, gan
from jaxgen.models import mlp

pytestmark = pytest.mark.usefixtures("fast_compilation")

KEY = jax.random.key(3)
GENERATOR, DISCRIMINATOR = mlp.Generator(), mlp.Discriminator()
OPTIMIZERS = {"generator_optimizer": optax.adam(1e-3), "discriminator_optimizer": optax.adam(1e-3)}


def test_batches_of_each_epoch_come_in_an_order_of_their_own():
    def epoch(number):
        batches = [
            data.batch_indices(s, batch_size=10, num_examples=100, seed=4) for s in range(10 * number, 10 * number + 10)
        ]
        return np.concatenate(batches)

    orders = [epoch(number) for number in range(3)]
    for number, order in enumerate(orders):
        np.testing.assert_array_equal(np.sort(order), np.arange(100))
        np.testing.assert_array_equal(order, data.epoch_permutation(4, number, 100))
    assert all((orders[a] != orders[b]).mean() > 0.9 for a, b in ((0, 1), (0, 2), (1, 2)))


def test_a_batch_across_two_epochs_takes_the_rest_of_one_order_and_the_beginning_of_the_next():
    rows = data.batch_indices(1, batch_size=6, num_examples=10, seed=0)
    first, second = (data.epoch_permutation(0, epoch, 10) for epoch in (0, 1))
    np.testing.assert_array_equal(rows, np.concatenate([first[6:], second[:2]]))


def drawing(name):
    """A penalty that tells what it draws from its key."""

    def penalty(discriminator_fn, real, fake, key):
        return jax.random.uniform(key)

    penalty.__name__ = name
    return penalty


def test_each_penalty_draws_from_a_key_of_its_own():
    state = gan.init(KEY, GENERATOR, DISCRIMINATOR, latent_dim=2, **OPTIMIZERS)
    names = ("one", "two", "three")
    step = gan.make_train_step(
        GENERATOR, DISCRIMINATOR, latent_dim=2, penalties=[drawing(name) for name in names], **OPTIMIZERS
    )
    _, metrics = jax.jit(step)(state, {"image": jnp.zeros((4, 2))}, KEY)
    assert len({float(metrics[f"penalty/{name}"]) for name in names}) == 3


def buffers(tree):
    return {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)}


def test_a_fresh_average_has_memory_of_its_own():
    """Of arrays that are shared, donating the state would free one array twice."""

    def init(key):
        return gan.init(key, GENERATOR, DISCRIMINATOR, latent_dim=2, **OPTIMIZERS)

    compiled = init(KEY)
    with jax.disable_jit():
        eager = init(KEY)
    for state in (compiled, eager):
        assert not buffers(state.ema) & buffers(state.generator)
        jax.tree.map(np.testing.assert_array_equal, state.ema, state.generator.variables)
    jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)(compiled)
