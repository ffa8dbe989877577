"""Arithmetic is counted from the trace, as it would be by hand."""

import jax
import jax.numpy as jnp
import pytest

from jaxgen import arithmetic
from jaxgen.models.convolution import Conv, ConvTranspose


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_a_matrix_product_takes_two_operations_for_each_multiplication():
    assert arithmetic.operations(lambda x, y: x @ y, shape(3, 4), shape(4, 5)) == 2 * 3 * 4 * 5
    batched = lambda x, y: jnp.einsum("bij,bjk->bik", x, y)  # noqa: E731
    assert arithmetic.operations(batched, shape(7, 3, 4), shape(7, 4, 5)) == 7 * 2 * 3 * 4 * 5


@pytest.mark.parametrize(
    "layer, size, expected",
    [
        (Conv(8, 3, padding=1), 16, 2 * 2 * 16 * 16 * 8 * 3 * 3 * 5),
        (Conv(8, 4, 2, 1), 16, 2 * 2 * 8 * 8 * 8 * 4 * 4 * 5),
        (ConvTranspose(8, 4, 2, 1), 8, 2 * 2 * 8 * 8 * 8 * 4 * 4 * 5),  # zeros between pixels are no work
    ],
)
def test_a_convolution_counts_its_taps_whatever_form_the_cpu_has_for_it(layer, size, expected):
    x = shape(2, size, size, 5)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert arithmetic.operations(layer.apply, variables, x) == expected


def test_backwards_a_layer_takes_twice_what_it_takes_forwards():
    x, layer = shape(2, 16, 16, 8), Conv(8, 4, 2, 1)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    forwards = arithmetic.operations(layer.apply, variables, x)
    loss = lambda variables, x: jnp.sum(layer.apply(variables, x) ** 2)  # noqa: E731
    assert arithmetic.operations(jax.grad(loss, (0, 1)), variables, x) == pytest.approx(3 * forwards, rel=0.01)


def test_a_loop_counts_as_often_as_it_runs_and_a_choice_as_its_larger_branch():
    def loop(x):
        return jax.lax.scan(lambda carry, _: (carry @ carry, None), x, length=6)[0]

    assert arithmetic.operations(loop, shape(4, 4)) == 6 * 2 * 4**3

    def choice(flag, x):
        return jax.lax.cond(flag, lambda x: x @ x @ x, lambda x: x, x)

    assert arithmetic.operations(choice, jax.ShapeDtypeStruct((), bool), shape(4, 4)) == 2 * 2 * 4**3


def test_what_no_output_depends_on_does_not_count():
    def unused(x):
        _ = jax.jit(lambda x: x @ x)(x)
        return jax.jit(lambda x: (x @ x, x + 1))(x)[1]

    assert arithmetic.operations(unused, shape(4, 4)) == 0
