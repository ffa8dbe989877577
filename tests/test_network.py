import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import network, optim
from jaxgen.losses import penalties
from jaxgen.models.convolution import Conv

pytestmark = pytest.mark.usefixtures("fast_compilation")


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.BatchNorm(use_running_average=not train, momentum=0.75)(x)


def test_applying_a_module_returns_its_new_running_statistics():
    module, x = Normalised(), jnp.array([[1.0], [5.0]])
    variables = module.init(jax.random.key(0), x, train=True)
    state = {"batch_stats": variables["batch_stats"]}
    _, new = network.apply(module, variables["params"], state, x)
    np.testing.assert_allclose(new["batch_stats"]["BatchNorm_0"]["mean"], [0.25 * 3.0])
    np.testing.assert_allclose(new["batch_stats"]["BatchNorm_0"]["var"], [0.75 + 0.25 * 4.0], rtol=1e-6)
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_a_module_without_state_has_an_empty_one_before_and_after():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(3)(x)

    module, x = Plain(), jnp.ones((2, 4))
    variables = module.init(jax.random.key(0), x, train=True)
    y, state = network.apply(module, variables["params"], {}, x)
    assert state == {} and y.shape == (2, 3)


def test_dropout_gets_its_own_random_numbers():
    class Drop(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dropout(0.5, deterministic=not train)(x)

    outputs = [network.apply(Drop(), {}, {}, jnp.ones(100), key=jax.random.key(seed))[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert set(np.asarray(outputs[0])) == {0.0, 2.0}
    assert (outputs[0] != outputs[2]).any()


# A discriminator that judges each image by itself ---------------------------------------------------------------------


class Judge(nn.Module):
    """Smooth, so that second derivatives are not zero."""

    @nn.compact
    def __call__(self, x, *, train):
        for width in (4, 6):
            x = jnp.tanh(Conv(width, 4, 2, 1)(x))
        x = nn.Dropout(0.3, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(1)(x)[:, 0]


def judged():
    module, x = Judge(), jax.random.normal(jax.random.key(1), (5, 8, 8, 2))
    params = module.init({"params": jax.random.key(2), "dropout": jax.random.key(0)}, x, train=True)["params"]
    params = jax.tree.map(lambda p: p.astype(x.dtype), params)  # in double precision where the test is

    def loss(judge, params, x):
        """Logits weighted unequally, one with a weight of zero."""
        logits, state = judge(module, params, {}, x, key=jax.random.key(3))
        assert state == {}
        return jnp.sum(jnp.arange(5.0) * logits**2)

    return params, x, loss


@pytest.mark.slow
def test_applied_to_each_image_a_network_has_the_same_logits_and_derivatives_to_second_order(double_precision):
    params, x, loss = judged()
    plain, to_each = (functools.partial(loss, judge) for judge in (network.apply, network.apply_to_each))

    def derivatives(f):
        def squared_norm(params, x):
            return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(f, (0, 1))(params, x)))

        return jax.value_and_grad(f, (0, 1))(params, x), jax.grad(squared_norm, (0, 1))(params, x)

    assert min(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(derivatives(plain))) > 1e-3
    chex.assert_trees_all_close(derivatives(to_each), derivatives(plain), rtol=1e-9, atol=1e-12)


def test_a_penalty_shares_the_backward_pass_of_a_network_applied_to_each_image():
    params, x, loss = judged()
    r1 = penalties.r1(1.0)

    def flops(judge):
        def total(params):
            def discriminator_fn(x):
                return network.apply(Judge(), params, {}, x, key=jax.random.key(3))[0]

            return loss(judge, params, x) + r1(discriminator_fn, x, None, None)

        return jax.jit(jax.grad(total)).lower(params).compile().cost_analysis()["flops"]

    assert flops(network.apply_to_each) < 0.95 * flops(network.apply)


def test_only_layers_whose_weighting_is_known_are_applied_to_each_image():
    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(1)(nn.LayerNorm()(x))[:, 0]

    module, x = Scaled(), jnp.ones((3, 2))
    params = module.init(jax.random.key(0), x, train=True)["params"]
    with pytest.raises(TypeError, match=r"only convolutions and dense layers .* not \[\('LayerNorm_0',\)\]"):
        jax.grad(lambda params: network.apply_to_each(module, params, {}, x)[0].sum())(params)


# Averages and updates -------------------------------------------------------------------------------------------------


def test_the_average_is_decay_times_old_plus_the_rest_times_new():
    old, new = {"x": jnp.array([1.0, 2.0])}, {"x": jnp.array([3.0, -2.0])}
    for decay in (0.75, lambda step: step / 12):  # at step 9
        average = network.update_ema(old, new, decay, jnp.array(9))
        np.testing.assert_allclose(average["x"], [1.5, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(network.update_ema(old, new, 0.0, jnp.array(9))["x"], new["x"])


def test_the_average_stays_where_the_update_was_skipped():
    old, new = {"x": jnp.array([1.0])}, {"x": jnp.array([jnp.nan])}
    kept = network.update_ema(old, new, 0.9, jnp.array(0), {"skipped": jnp.array(1.0)})
    np.testing.assert_array_equal(kept["x"], old["x"])


def test_a_half_life_in_images_halves_the_weight_of_the_past():
    batch_size, half_life = 50, 1000
    average = 1.0
    for step in range(half_life // batch_size):
        average = network.update_ema(average, 0.0, 0.5 ** (batch_size / half_life), jnp.array(step))
    assert float(average) == pytest.approx(0.5)


def test_the_warmed_up_decay_forgets_the_start_first_and_ends_at_its_limit():
    decay = network.warmed_up(0.99)
    np.testing.assert_allclose([decay(jnp.array(s)) for s in (0, 8, 10_000)], [0.1, 0.5, 0.99], rtol=1e-6)


def test_an_update_reports_the_gradient_before_the_optimiser_and_what_it_made_of_it():
    params = {"w": jnp.zeros(2)}
    tx = optax.chain(optim.clip_by_global_norm(0.5), optax.sgd(0.1))
    old = network.Network(params, {}, tx.init(params))
    new, metrics = network.update(old, tx, {"w": jnp.array([3.0, 4.0])}, {})
    assert float(metrics["grad_norm"]) == 5
    assert float(metrics["update_norm"]) == pytest.approx(0.05)
    assert float(metrics["clipped"]) == 1
    np.testing.assert_allclose(new.params["w"], [-0.03, -0.04], rtol=1e-6)


def test_initialisation_is_the_same_compiled_here_or_inside_of_a_callers_vmap_or_jit():
    def build(key):
        return jax.random.normal(key, (3,)), jnp.zeros(())

    keys = jax.random.split(jax.random.key(0), 2)
    together = jax.vmap(lambda key: network.compiled_init(build, key))(keys)
    for i in range(2):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6),
            together,
            network.compiled_init(build, keys[i]),
        )
    constant_key = jax.jit(lambda: network.compiled_init(build, keys[0]))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-6), together, constant_key)


def test_images_must_be_floats_in_a_dict():
    image = jnp.zeros((2, 4, 4, 1))
    assert network.images_of({"image": image, "label": 0}) is image
    assert network.images_of({"image": image.astype(jnp.bfloat16)}).dtype == jnp.bfloat16
    with pytest.raises(TypeError, match="dict with the key 'image'"):
        network.images_of(image)
    with pytest.raises(TypeError, match=r"'image', not \['picture'\]"):
        network.images_of({"picture": image})
    for dtype in (jnp.uint8, jnp.int32):
        with pytest.raises(TypeError, match=r"(uint8|int32).*127\.5"):
            network.images_of({"image": image.astype(dtype)})


def test_images_out_of_range_are_caught_where_their_values_are_known():
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        network.images_of({"image": jnp.full((2, 4, 4, 1), 200.0)})
    jax.jit(lambda x: network.images_of({"image": x}))(jnp.full((2, 4, 4, 1), 200.0))  # under jit they are not


def test_metrics_become_single_precision_scalars_under_their_prefix():
    metrics = network.mean_over_devices({"n": jnp.array(3), "x": 0.5}, None)
    assert {m.dtype for m in metrics.values()} == {jnp.dtype(jnp.float32)}
    assert set(network.prefixed("generator", metrics)) == {"generator/n", "generator/x"}


def test_parameters_are_counted():
    assert network.count_parameters({"w": jnp.zeros((3, 4)), "b": jnp.zeros(4)}) == 16
