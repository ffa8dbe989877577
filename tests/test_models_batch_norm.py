import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.models.batch_norm import ConditionalBatchNorm, rows_of

pytestmark = pytest.mark.usefixtures("fast_compilation")

X = 3 + 2 * jax.random.normal(jax.random.key(0), (6, 4, 4, 3))
LABEL = jnp.array([0, 3, 1, 1, 2, 0])
MODULE = ConditionalBatchNorm(4, momentum=0.8, epsilon=1e-3)
PLAIN = nn.BatchNorm(momentum=0.8, epsilon=1e-3)


def variables_of_equal_rows():
    """(of the conditional layer, of the plain one), both with the same scale, shift and statistics."""
    params = {"scale": jnp.array([0.5, 1, 2]), "bias": jnp.array([-1, 0, 3.0])}
    stats = {"batch_stats": {"mean": jnp.array([1, 2, 3.0]), "var": jnp.array([0.5, 1, 4])}}
    return {"params": jax.tree.map(lambda row: jnp.tile(row, (4, 1)), params), **stats}, {"params": params, **stats}


def test_at_first_every_class_has_scale_one_and_shift_zero_and_statistics_are_named_as_in_flax():
    variables = MODULE.init(jax.random.key(0), X, LABEL, train=True)
    np.testing.assert_array_equal(variables["params"]["scale"], np.ones((4, 3)))
    np.testing.assert_array_equal(variables["params"]["bias"], np.zeros((4, 3)))
    plain = PLAIN.init(jax.random.key(0), X, use_running_average=False)
    jax.tree.map(np.testing.assert_array_equal, variables["batch_stats"], plain["batch_stats"])


@pytest.mark.parametrize("train", [True, False])
def test_with_equal_rows_it_is_batch_normalisation_and_keeps_the_same_statistics(train):
    ours, plain = variables_of_equal_rows()
    y, state = MODULE.apply(ours, X, LABEL, train=train, mutable=["batch_stats"])
    expected, expected_state = PLAIN.apply(plain, X, use_running_average=not train, mutable=["batch_stats"])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, state, expected_state)
    assert train != np.array_equal(state["batch_stats"]["mean"], ours["batch_stats"]["mean"])


def test_with_equal_rows_the_gradients_of_the_rows_add_up_to_that_of_batch_normalisation():
    ours, plain = variables_of_equal_rows()

    def loss(params, x):
        variables = {**ours, "params": params}
        return jnp.sum(jnp.sin(MODULE.apply(variables, x, LABEL, train=True, mutable=["batch_stats"])[0]))

    def plain_loss(params, x):
        variables = {**plain, "params": params}
        return jnp.sum(jnp.sin(PLAIN.apply(variables, x, use_running_average=False, mutable=["batch_stats"])[0]))

    rows, dx = jax.grad(loss, (0, 1))(ours["params"], X)
    expected, expected_dx = jax.grad(plain_loss, (0, 1))(plain["params"], X)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.sum(0), b, rtol=1e-4, atol=1e-4), rows, expected)


def test_each_image_is_scaled_and_shifted_by_the_row_of_its_label():
    variables = MODULE.init(jax.random.key(0), X, LABEL, train=True)
    scale, bias = jax.random.normal(jax.random.key(1), (2, 4, 3))
    variables = {**variables, "params": {"scale": scale, "bias": bias}}
    y, _ = MODULE.apply(variables, X, LABEL, train=True, mutable=["batch_stats"])
    normalised = (X - X.mean((0, 1, 2))) / np.sqrt(X.var((0, 1, 2)) + 1e-3)
    for image, label, found in zip(normalised, LABEL, y, strict=True):
        np.testing.assert_allclose(found, image * scale[label] + bias[label], rtol=1e-4, atol=1e-5)
    vectors, _ = MODULE.apply(variables, X[:, 0, 0], LABEL, train=True, mutable=["batch_stats"])
    assert vectors.shape == (6, 3)  # after a dense layer, too


def test_a_label_that_does_not_exist_spoils_its_own_image_alone():
    variables = MODULE.init(jax.random.key(0), X, LABEL, train=True)
    label = jnp.array([0, 4, 1, -1, 3, 1000])
    for train in (True, False):
        y, state = MODULE.apply(variables, X, label, train=train, mutable=["batch_stats"])
        np.testing.assert_array_equal(np.isnan(y).all((1, 2, 3)), [0, 1, 0, 1, 0, 1])
        np.testing.assert_array_equal(np.isnan(y).any((1, 2, 3)), [0, 1, 0, 1, 0, 1])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_labels_are_integers_of_any_width():
    table = jnp.arange(300.0)[:, None]
    for dtype in (jnp.int8, jnp.uint8, jnp.int32):
        np.testing.assert_array_equal(rows_of(table, jnp.array([0, 7, 100], dtype)), [[0], [7], [100]])
    with pytest.raises(TypeError, match="labels must be integers, not float32"):
        rows_of(table, jnp.zeros(3))


def test_halves_of_a_batch_on_two_devices_have_the_statistics_of_the_whole():
    variables = MODULE.init(jax.random.key(0), X, LABEL, train=True)
    module = MODULE.clone(axis_name="devices")

    def on_device(x, label):
        return module.apply(variables, x, label, train=True, mutable=["batch_stats"])

    halves, state = jax.vmap(on_device, axis_name="devices")(X.reshape(2, 3, 4, 4, 3), LABEL.reshape(2, 3))
    whole, whole_state = MODULE.apply(variables, X, LABEL, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(halves.reshape(X.shape), whole, rtol=1e-4, atol=1e-5)
    for i in range(2):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5), state, whole_state)


def test_in_bfloat16_the_output_is_rounded_once_and_statistics_stay_in_float32():
    ours, _ = variables_of_equal_rows()
    x = X.astype(jnp.bfloat16)
    apply = {"train": True, "mutable": ["batch_stats"]}
    y, state = MODULE.clone(dtype=jnp.bfloat16).apply(ours, x, LABEL, **apply)
    exact, _ = MODULE.apply(ours, x.astype(jnp.float32), LABEL, **apply)
    assert y.dtype == jnp.bfloat16 and exact.dtype == jnp.float32
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))
