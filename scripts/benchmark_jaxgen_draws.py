"""What a step of jaxgen draws, recorded so that PyTorch can be given it, and given back to jaxgen."""

import contextlib
import itertools
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import stochastic

from jaxgen import sharding
from jaxgen.losses import latent
from jaxgen.models import quantise


@contextlib.contextmanager
def recorded():
    """What `sharding.draw` draws in a step that is traced and run meanwhile: a list of (place in the trace, array)."""
    drawn, places, draw = [], itertools.count(), sharding.draw

    def recording(sampler, key, shape, *, axis_name=None):
        x, place = draw(sampler, key, shape, axis_name=axis_name), next(places)
        jax.debug.callback(lambda x: drawn.append((place, np.asarray(x))), x)
        return x

    with mock.patch.object(sharding, "draw", recording), all_by_draw():
        yield drawn


def in_order(drawn):
    """What was recorded as a program draws it: place by place, and where several are run again together, in turns."""
    of_place = {}
    for place, x in drawn:
        of_place.setdefault(place, []).append(x)
    order = []
    for _, together in itertools.groupby((of_place[place] for place in sorted(of_place)), len):
        order.extend(itertools.chain.from_iterable(zip(*together, strict=True)))
    return order


@contextlib.contextmanager
def replayed(numbers):
    """`sharding.draw` takes these numbers, one after another."""
    numbers = iter(numbers)
    taken = mock.patch.object(sharding, "draw", lambda sampler, key, shape, *, axis_name=None: next(numbers))
    with taken, all_by_draw():
        yield


@contextlib.contextmanager
def all_by_draw():
    """What else is drawn is, too, drawn by `sharding.draw`."""
    with dropout_by_draw(), permutations_by_draw(), columns_by_draw(), begun_codebooks():
        yield


def begun_codebooks():
    """The beginning of a codebook draws nothing: the step that is compared is a later one, which traces it, too."""

    def nothing(key, z, num, **settings):
        return jnp.zeros((num, z.shape[-1]), z.dtype)

    return mock.patch.object(quantise, "k_means", nothing)


def permutations_by_draw():
    """What `jax.random.permutation` makes, as everything else."""
    permutation = jax.random.permutation

    def drawn(key, x):
        shape = (x,) if isinstance(x, int) else x.shape
        return sharding.draw(lambda key, shape: permutation(key, x), key, tuple(shape))

    return mock.patch.object(jax.random, "permutation", drawn)


def columns_by_draw():
    """What `losses.latent.permuted` sorts columns by, as everything else."""

    def permuted(key, z, *, axis_name=None):
        order = jnp.argsort(sharding.draw(jax.random.uniform, key, z.shape, axis_name=axis_name), axis=0)
        return jnp.take_along_axis(z, order, axis=0)

    return mock.patch.object(latent, "permuted", permuted)


def dropout_by_draw():
    """What dropout keeps is drawn by `sharding.draw`, as everything else."""

    def bernoulli(key, p, shape):
        return sharding.draw(lambda key, shape: jax.random.bernoulli(key, p, shape), key, tuple(shape))

    return mock.patch.object(stochastic, "random", SimpleNamespace(bernoulli=bernoulli))
