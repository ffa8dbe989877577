"""Layers whose kernel is scaled as they run: what they make at first, and how fast they move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.models.convolution import Conv
from jaxgen.models.equalised import EqualisedConv, EqualisedDense, equalised

KEY = jax.random.key(3)


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_outputs_of_a_dense_layer_start_with_unit_variance_whatever_its_width_and_rate(rate):
    for width in (32, 1024):
        x = jax.random.normal(KEY, (400, width))
        y, _ = EqualisedDense(500, rate=rate).init_with_output(KEY, x)
        assert float(jnp.var(y)) == pytest.approx(1, abs=0.05)
        assert np.std(EqualisedDense(500, rate=rate, gain=3.0).init_with_output(KEY, x)[0]) == pytest.approx(3, abs=0.1)


@pytest.mark.slow
def test_outputs_of_a_convolution_start_with_unit_variance_and_it_is_the_plain_one_of_the_scaled_kernel():
    x = jax.random.normal(KEY, (4, 12, 12, 48))
    layer = EqualisedConv(64, 3, gain=2.0)
    y, variables = layer.init_with_output(KEY, x)
    assert float(jnp.std(y)) == pytest.approx(2, abs=0.1)
    kernel = variables["params"]["kernel"]
    assert float(jnp.std(kernel)) == pytest.approx(1, abs=0.02)
    scaled = {"params": {"kernel": kernel * 2 / np.sqrt(9 * 48), "bias": variables["params"]["bias"]}}
    np.testing.assert_allclose(y, Conv(64, 3).apply(scaled, x), atol=1e-4)
    np.testing.assert_allclose(equalised(kernel, 2.0), scaled["params"]["kernel"], rtol=1e-6)


@pytest.mark.slow
def test_a_rate_scales_what_a_step_of_adam_changes_and_not_what_the_layer_makes_at_first():
    x = jax.random.normal(KEY, (50, 64))
    moved = {}
    for rate in (1.0, 0.1):
        layer, adam = EqualisedDense(32, rate=rate, bias_init=1.5), optax.adam(1e-3, b1=0.0)
        y, variables = layer.init_with_output(KEY, x)
        np.testing.assert_allclose(jnp.mean(y), 1.5, atol=0.2)  # the bias, too, is there from the start
        gradient = jax.grad(lambda v: jnp.sum(layer.apply(v, x)))(variables)  # noqa: B023
        updates, _ = adam.update(gradient, adam.init(variables))
        moved[rate] = layer.apply(optax.apply_updates(variables, updates), x) - y
    np.testing.assert_allclose(moved[0.1], 0.1 * moved[1.0], rtol=2e-2, atol=1e-5)


def test_parameters_are_single_precision_and_the_computation_in_what_is_asked_for():
    x = jnp.zeros((2, 8, 8, 4))
    for layer in (EqualisedConv(3, 3, dtype=jnp.bfloat16), EqualisedDense(3, dtype=jnp.bfloat16)):
        y, variables = jax.eval_shape(lambda layer=layer: layer.init_with_output(KEY, x))
        assert y.dtype == jnp.bfloat16
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
