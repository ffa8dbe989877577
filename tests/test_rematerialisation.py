"""What is computed again instead of kept: the same numbers and draws, less memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen import building, description, network, systems
from jaxgen.rematerialisation import FORMS, rematerialised
from jaxgen.systems.preset import Preset

KEY = jax.random.key(3)
X = jax.random.normal(jax.random.key(4), (8, 4, 4, 6))

pytestmark = pytest.mark.usefixtures("fast_compilation")


class Block(nn.Module):
    """Draws twice, keeps batch statistics, and is told something that is no array."""

    inner: int = 12

    is_block = True

    @nn.compact
    def __call__(self, x, scale=None, *, train, name="none"):
        assert isinstance(train, bool) and name == "by name" and scale is None
        y = nn.BatchNorm(use_running_average=not train)(nn.Dense(self.inner)(x))
        y = nn.Dropout(0.5, deterministic=not train)(nn.gelu(y))
        y = y + 0.1 * jax.random.normal(self.make_rng("noise"), y.shape)
        return x + nn.Dense(x.shape[-1])(y)


class Nested(nn.Module):
    """A block of blocks: the outer one counts."""

    is_block = True

    @nn.compact
    def __call__(self, x, *, train):
        return nn.gelu(nn.Dense(x.shape[-1])(Block()(x, train=train, name="by name")))


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return Nested()(Block()(x, train=train, name="by name"), train=train)


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3)(nn.gelu(nn.Dense(8)(x)))


def step_of(module):
    """(state, step): the gradient of a loss, and what the module changed."""
    variables = module.init({"params": KEY, "noise": KEY}, X, train=False)
    rest = {name: collection for name, collection in variables.items() if name != "params"}

    def train_step(params, batch, key):
        def loss(params):
            output, changed = network.apply(module, params, rest, batch, key=key)
            return jnp.mean(jnp.sin(output)), changed

        return jax.value_and_grad(loss, has_aux=True)(params)

    return variables.get("params", {}), train_step


def checkpoints(function, *arguments):
    """How many parts of a program are computed again."""
    return str(jax.make_jaxpr(function)(*arguments)).count("prevent_cse=True")


@functools.cache
def results(form):
    params, train_step = step_of(Network())
    return jax.jit(rematerialised(train_step, form))(params, X, KEY)


@pytest.mark.parametrize("form", ["blocks", "all"])
def test_gradients_batch_statistics_and_random_draws_are_the_same(form):
    ((loss, changed), gradient), ((loss_0, changed_0), gradient_0) = results(form), results("none")
    np.testing.assert_allclose(loss, loss_0, rtol=1e-6)
    for ours, expected in ((changed, changed_0), (gradient, gradient_0)):
        assert jax.tree.structure(ours) == jax.tree.structure(expected)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), ours, expected)


def test_each_block_is_computed_again_and_a_block_inside_of_one_only_with_it():
    params, train_step = step_of(Network())
    found = {form: checkpoints(rematerialised(train_step, form), params, X, KEY) for form in FORMS}
    assert found["none"] == 0
    assert found["blocks"] == 2 * found["all"] > 0


class Wide(nn.Module):
    is_block = True

    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(x.shape[-1])(jnp.sin(nn.Dense(1024)(x)))


class InARow(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        for _ in range(3):
            x = Wide()(x)
        return x


def test_what_is_kept_for_the_way_back_is_the_input_of_blocks_or_what_layers_return():
    module, inner = InARow(), 8 * 4 * 4 * 1024
    params = module.init(KEY, X, train=True)["params"]

    def way_back(params, x, key):
        return jax.vjp(lambda params: jnp.sum(network.apply(module, params, {}, x, key=key)[0]), params)[1]

    def kept(form):
        """In activations between the two layers of a block; parameters, too, are less than half of one."""
        found = jax.tree.leaves(jax.eval_shape(rematerialised(way_back, form), params, X, KEY))
        return round(sum(x.size for x in found) / inner)

    # Of each of three blocks the sine, which the next layer is multiplied by, and the cosine; or the argument of both.
    assert (kept("none"), kept("all"), kept("blocks")) == (6, 3, 0)


class Turn(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Wide()(x), None


class InALoop(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.scan(Turn, variable_axes={"params": 0}, split_rngs={"params": True}, length=8)()(x)[0]


def test_inner_activations_are_there_of_one_block_at_a_time():
    """In a loop: out of one XLA for CPU makes two computations of the same one, and keeps what it returns."""
    params, train_step = step_of(InALoop())
    temporary = {}
    for form in ("none", "blocks"):
        program = jax.jit(rematerialised(train_step, form)).lower(params, X, KEY).compile()
        temporary[form] = program.memory_analysis().temp_size_in_bytes
    inner = 8 * 4 * 4 * 1024 * 4  # bytes of one activation of a block
    assert temporary["none"] - temporary["blocks"] > 7 * inner


def test_the_form_none_is_the_step_itself_and_others_are_refused():
    _, train_step = step_of(Plain())
    assert rematerialised(train_step, "none") is train_step
    with pytest.raises(ValueError, match="form must be one of none, blocks, all, not 'some'"):
        rematerialised(train_step, "some")


def test_blocks_are_refused_where_there_are_none():
    params, train_step = step_of(Plain())
    with pytest.raises(ValueError, match='needs a network with blocks, and these have none.*"all" is for any network'):
        jax.eval_shape(rematerialised(train_step, "blocks"), params, X, KEY)
    assert checkpoints(rematerialised(train_step, "all"), params, X, KEY) > 0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["blocks", "all"])
@pytest.mark.parametrize("name", ["r3gan", "edsr", "vdvae", "biggan", "vqgan"])
def test_a_system_takes_the_same_step(name, form):
    (module,) = (module for module in systems.MODULES if systems.name_of(module) == name)
    spec = description.spec_of(module.TINY, Preset("", module.TINY))
    rng, states = np.random.default_rng(0), []
    for chosen in ("none", form):
        system = building.build_system(dataclasses.replace(module.TINY, remat=chosen), spec)
        batch = {
            entry: jnp.asarray(rng.uniform(-1, 1, s.shape) * jnp.issubdtype(s.dtype, jnp.floating), s.dtype)
            for entry, s in spec.example(system.images_per_step).items()
        }
        rng = np.random.default_rng(0)
        states.append(jax.jit(system.train_step)(system.init(KEY), batch, KEY)[0])
    for ours, expected in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=2e-4)
