"""One network, or a group, that minimises an objective."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import gradients, network, objective, optim, sharding

KEY = jax.random.key(4)
X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(8, 1)).astype(np.float32)
BATCH = {"x": X, "y": Y}
MODEL = nn.Dense(1)

pytestmark = pytest.mark.usefixtures("fast_compilation")


def close(a, b, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), a, b)


def mean_square(params, model_state, batch, key, step):
    """Weighted by 1 + step, with noise on the input."""
    x = batch["x"] + 0.1 * jax.random.normal(key, (3,))
    error = (MODEL.apply({"params": params}, x) - batch["y"]) ** 2
    loss = (1.0 + step) * jnp.mean(error)
    return loss, ({"seen": {"largest": jnp.max(error)}}, {"loss": loss, "step": step})


def make(optimizer=None, **options):
    optimizer = optax.sgd(0.1) if optimizer is None else optimizer
    variables = {**MODEL.init(jax.random.key(0), X), "seen": {"largest": jnp.zeros(())}}
    step = objective.make_train_step(mean_square, optimizer=optimizer, **options)
    return objective.init(variables, optimizer=optimizer), step


def test_a_step_descends_the_objective_with_the_steps_own_key_and_number_and_averages_what_it_leaves():
    state, step = make(ema_decay=0.5)
    compiled = jax.jit(step)
    for i in range(2):
        new, metrics = compiled(state, BATCH, KEY)
        key = jax.random.fold_in(KEY, i)

        def loss(params, i=i, key=key):
            return mean_square(params, {}, BATCH, key, i)

        gradients, (seen, _) = jax.grad(loss, has_aux=True)(state.network.params)
        close(new.network.params, jax.tree.map(lambda p, g: p - 0.1 * g, state.network.params, gradients), rtol=1e-5)
        close(new.network.model_state, seen, rtol=1e-5)
        close(new.ema, jax.tree.map(lambda e, v: (e + v) / 2, state.ema, new.network.variables), rtol=1e-5)
        assert float(metrics["loss"]) == pytest.approx(float(loss(state.network.params)[0]), rel=1e-5)
        assert float(metrics["grad_norm"]) == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-5)
        assert int(new.step) == i + 1 and new.step.dtype == jnp.int32
        state = new


def test_metrics_are_float32_scalars_of_the_objective_and_of_the_update():
    optimizer = optim.skip_large_updates(optax.chain(optim.clip_by_global_norm(1.0), optax.sgd(0.1)))
    state, step = make(optimizer)
    after, metrics = jax.eval_shape(step, state, BATCH, KEY)
    assert set(metrics) == {"loss", "step", "grad_norm", "update_norm", "clipped", "skipped"}
    assert all(m.shape == () and m.dtype == jnp.float32 for m in metrics.values())
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_a_skipped_update_keeps_collections_and_average():
    state, step = make(optim.skip_large_updates(optax.sgd(0.1)), ema_decay=0.5)
    new, metrics = jax.jit(step)(state, BATCH | {"y": Y * np.nan}, KEY)
    assert float(metrics["skipped"]) == 1 and int(new.step) == 1
    close(
        (new.network.params, new.network.model_state, new.ema),
        (state.network.params, state.network.model_state, state.ema),
    )


def test_a_group_of_networks_learns_with_one_optimiser_and_is_averaged_as_its_modules_take_it():
    modules = {"encoder": nn.Dense(2), "decoder": nn.Dense(3)}
    variables = {
        "encoder": modules["encoder"].init(jax.random.key(0), X),
        "decoder": {**modules["decoder"].init(jax.random.key(1), X[:, :2]), "seen": {"count": jnp.zeros(())}},
    }

    def reconstruction(params, model_state, batch, key, step):
        x = batch["x"]
        for name, module in modules.items():
            x, _ = network.apply(Plain(module), {"module": params[name]}, {}, x)
        state = {"encoder": {}, "decoder": {"seen": {"count": model_state["decoder"]["seen"]["count"] + 1}}}
        return jnp.mean((x - batch["x"]) ** 2), (state, {})

    optimizer = optax.sgd(0.1)
    state = objective.init_group(variables, optimizer=optimizer)
    assert jax.tree.structure(objective.variables_of_group(state.network)) == jax.tree.structure(variables)
    close(state.ema, variables)
    step = objective.make_train_step(
        reconstruction, optimizer=optimizer, variables_of=objective.variables_of_group, ema_decay=0.5
    )
    new, _ = jax.jit(step)(state, BATCH, KEY)
    assert float(new.ema["decoder"]["seen"]["count"]) == 0.5
    latest = objective.variables_of_group(new.network)
    close(new.ema, jax.tree.map(lambda e, v: (e + v) / 2, variables, latest), rtol=1e-6)
    assert np.any(new.network.params["encoder"]["kernel"] != state.network.params["encoder"]["kernel"])


class Plain(nn.Module):
    """A layer that takes `train`, as modules here do."""

    module: nn.Module

    @nn.compact
    def __call__(self, x, *, train):
        return self.module(x)


def test_the_per_device_view_averages_gradients_collections_and_metrics():
    def without_noise(params, model_state, batch, key, step):
        error = jnp.mean((MODEL.apply({"params": params}, batch["x"]) - batch["y"]) ** 2)
        return error, ({"seen": {"largest": error}}, {"loss": error})

    state, _ = make()
    expected = jax.jit(objective.make_train_step(without_noise, optimizer=optax.sgd(0.1)))(state, BATCH, KEY)
    step = objective.make_train_step(without_noise, optimizer=optax.sgd(0.1), axis_name="data")
    close(sharding.pmap_step(step, num_devices=2)(state, BATCH, KEY), expected, rtol=1e-5)


def test_what_is_no_optimiser_and_no_objective_is_told_at_once():
    with pytest.raises(TypeError, match="the optimizer must be an optax transformation"):
        objective.make_train_step(mean_square, optimizer=0.1)
    with pytest.raises(
        TypeError, match=r"an objective is a function of \(params, model_state, batch, key, step\), not"
    ):
        objective.make_train_step("mse", optimizer=optax.sgd(0.1))


def test_frozen_arrays_reach_the_objective_as_arrays_and_stay_what_they_are():
    frozen = {"target": np.full((3,), 2.0, np.float32)}
    params = {"params": {"w": jnp.zeros(3)}}

    def towards(params, model_state, batch, key, step, frozen):
        value = jnp.mean((params["w"] - frozen["target"]) ** 2)
        return value, (model_state, {"loss": value})

    state = objective.init(params, optimizer=optax.sgd(0.5), frozen=frozen)
    step = objective.make_train_step(towards, optimizer=optax.sgd(0.5))
    for batch in ({"image": jnp.zeros((2, 1))}, {"image": jnp.zeros((4, 1))}):
        state, metrics = jax.jit(step, donate_argnums=0)(state, batch, jax.random.key(0))
    np.testing.assert_array_equal(state.frozen["target"], frozen["target"])
    np.testing.assert_allclose(state.network.params["w"], 2 * (1 - (1 - 1 / 3) ** 2), rtol=1e-6)
    sliced = objective.make_train_step(towards, optimizer=optax.sgd(0.5), gradients=gradients.accumulated(2))
    assert sliced(state, {"image": jnp.zeros((2, 1))}, jax.random.key(0))[0].step == 3
    assert not any("2.0" in str(c) for c in jax.make_jaxpr(step)(state, batch, jax.random.key(0)).consts)
