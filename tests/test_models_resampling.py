"""Convolutions joined with enlarging and halving are the two operations one after the other, to every order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models import resampling
from jaxgen.models.convolution import Conv, Geometry, convolve

pytestmark = pytest.mark.usefixtures("double_precision")


def plain(x, w):
    return convolve(x, w, Geometry(x.shape[1:3], (3, 3), (1, 1), ((1, 1), (1, 1))))


FORMS = {
    "halve": (resampling.convolve_then_halve, lambda x, w: resampling.halve(plain(x, w))),
    "enlarge": (resampling.enlarge_then_convolve, lambda x, w: plain(resampling.enlarge(x), w)),
}


@pytest.fixture(params=[(4, 6), (2, 2), (14, 8)], ids=str)
def arrays(request):
    height, width = request.param
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(2, height, width, 3))), jnp.asarray(rng.normal(size=(3, 3, 3, 5)))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.slow
def test_the_joined_form_has_the_values_and_both_orders_of_derivatives_of_the_two_steps(name, arrays):
    joined, apart = FORMS[name]
    np.testing.assert_allclose(joined(*arrays), apart(*arrays), rtol=1e-10, atol=1e-10)

    def loss(form):
        return lambda x, w: jnp.sum(jnp.sin(form(x, w)))

    def penalty(form):  # a gradient penalty is the derivative of a derivative
        return lambda x, w: jnp.sum(jax.grad(loss(form))(x, w) ** 2)

    for of in (loss, penalty):
        found, expected = (jax.grad(of(form), (0, 1))(*arrays) for form in (joined, apart))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_halving_and_enlarging_are_adjoint_up_to_a_factor_of_four(arrays):
    x, _ = arrays
    y = jnp.asarray(np.random.default_rng(1).normal(size=resampling.halve(x).shape))
    assert jnp.vdot(resampling.halve(x), y) == pytest.approx(jnp.vdot(x, resampling.enlarge(y)) / 4)


def test_the_layer_has_the_parameters_of_a_3x3_convolution_and_adds_its_bias_once():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 3)))
    layer = resampling.EnlargingConv(5)
    variables = layer.init(jax.random.key(0), x)
    plain_variables = Conv(5, 3, padding=1).init(jax.random.key(0), resampling.enlarge(x))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, plain_variables)
    variables = jax.tree.map(lambda p: p + 0.1, variables)
    expected = Conv(5, 3, padding=1).apply(variables, resampling.enlarge(x))
    np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-6, atol=1e-6)
