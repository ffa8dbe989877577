import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxgen import network
from jaxgen.models.attention import SelfAttention, attend, check_size

pytestmark = pytest.mark.usefixtures("double_precision")

MODULE = SelfAttention()
X = np.random.default_rng(0).normal(size=(2, 4, 6, 16))


def variables_of(x, gain=0.7, seed=1):
    """Random weights, with the exact singular vectors."""
    shapes = jax.eval_shape(lambda: MODULE.init(jax.random.key(0), x, train=True))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes["params"])
    state = {
        name: {"u": jnp.asarray(np.linalg.svd(matrix(layer["kernel"]))[2][0])}
        for name, layer in params.items()
        if name != "gain"
    }
    return {"params": params | {"gain": jnp.asarray(gain)}, "spectral_norm": state}


def matrix(kernel):
    return np.asarray(kernel).reshape(-1, kernel.shape[-1])


def apply(variables, x):
    return MODULE.apply(variables, x, train=False)


@pytest.fixture
def variables():
    return variables_of(X)


@pytest.mark.slow
def test_it_is_softmax_of_queries_and_keys_times_values_written_out(variables):
    w = {n: matrix(p["kernel"]) for n, p in variables["params"].items() if n != "gain"}
    w = {name: kernel / np.linalg.norm(kernel, 2) for name, kernel in w.items()}

    def largest_of_windows(x):
        return np.stack([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]).max(0)

    query, key, value = X @ w["query"], largest_of_windows(X @ w["key"]), largest_of_windows(X @ w["value"])
    assert query.shape == (2, 4, 6, 2) and key.shape == (2, 2, 3, 2) and value.shape == (2, 2, 3, 8)
    logits = np.einsum("bhwc,bijc->bhwij", query, key)
    weights = np.exp(logits) / np.exp(logits).sum((-2, -1), keepdims=True)
    seen = np.einsum("bhwij,bijv->bhwv", weights, value) @ w["output"]
    np.testing.assert_allclose(apply(variables, X), X + 0.7 * seen, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_it_starts_as_the_identity_and_only_the_gain_has_a_gradient():
    variables = MODULE.init(jax.random.key(0), jnp.asarray(X), train=True)
    np.testing.assert_array_equal(apply(variables, X), X)
    gradients = jax.grad(lambda p: jnp.sum(apply({**variables, "params": p}, X) ** 3))(variables["params"])
    for path, gradient in flatten_dict(gradients).items():
        assert np.any(gradient) == (path == ("gain",)), path


@pytest.mark.slow
def test_once_the_gain_is_not_zero_every_kernel_has_a_gradient(variables):
    gradients = jax.grad(lambda p: jnp.sum(apply({**variables, "params": p}, X) ** 3))(variables["params"])
    assert all(np.abs(gradient).max() > 1e-6 for gradient in jax.tree.leaves(gradients))


@pytest.mark.parametrize(("channels", "count"), [(128, 20_481), (256, 81_921)])
def test_it_has_no_biases_and_all_of_its_four_matrices_are_normalised(channels, count):
    x = jax.ShapeDtypeStruct((1, 2, 2, channels), jnp.float32)
    variables = jax.eval_shape(lambda x: MODULE.init(jax.random.key(0), x, train=True), x)
    c = channels
    assert network.count_parameters(variables["params"]) == count == 2 * c * c // 8 + 2 * c * c // 2 + 1
    assert set(variables["spectral_norm"]) == {"query", "key", "value", "output"}


def test_each_pixel_sees_a_mean_of_the_values():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 4, 3))
    weights = attend(query, key, np.broadcast_to(np.eye(4), (2, 4, 4)))
    assert weights.shape == (2, 5, 4) and weights.min() > 0
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(attend(query, key, np.full((2, 4, 1), 3.0)), 3, rtol=1e-6)


def test_permuting_queries_permutes_what_is_seen_and_permuting_keys_with_their_values_changes_nothing():
    rng = np.random.default_rng(0)
    query, key, value = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, 6))
    seen, of_queries, of_keys = attend(query, key, value), rng.permutation(5), rng.permutation(4)
    np.testing.assert_allclose(attend(query[:, of_queries], key, value), seen[:, of_queries], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(attend(query, key[:, of_keys], value[:, of_keys]), seen, rtol=1e-6, atol=1e-7)


def test_pixels_may_be_permuted_if_those_of_a_window_stay_together_and_only_then(variables):
    rng = np.random.default_rng(0)
    windows, within = rng.permutation(6), [rng.permutation(4) for _ in range(6)]

    def permute(x):
        x = np.asarray(x).reshape(2, 2, 2, 3, 2, -1).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 4, -1)
        x = np.stack([x[:, w][:, order] for w, order in zip(windows, within, strict=True)], axis=1)
        return x.reshape(2, 2, 3, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5).reshape(X.shape)

    y = apply(variables, X)
    np.testing.assert_allclose(apply(variables, permute(X)), permute(y), rtol=1e-6, atol=1e-6)
    shifted = np.roll(X, 1, axis=2)  # other pixels share a window
    assert np.abs(apply(variables, shifted) - np.roll(y, 1, axis=2)).max() > 1e-3


def test_an_image_sees_itself_alone(variables):
    y = apply(variables, X)
    other = X.copy()
    other[1] = np.nan
    np.testing.assert_allclose(apply(variables, other)[0], y[0], rtol=1e-7)


@pytest.mark.slow
def test_in_bfloat16_the_softmax_is_in_float32(variables):
    x = jnp.asarray(X, jnp.bfloat16)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), variables)
    y = SelfAttention(dtype=jnp.bfloat16).apply(variables, x, train=False)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), apply(variables, X), rtol=0.03, atol=0.03)
    query, key = jnp.full((1, 1, 2), 15.0, jnp.bfloat16), jnp.asarray([[[20.0, 0], [20, 0.0625]]], jnp.bfloat16)
    found = attend(query, key, jnp.eye(2)[None])[0, 0]  # logits 300 and 300.9375, which bfloat16 cannot tell apart
    np.testing.assert_allclose(found[1] / found[0], np.exp(0.9375), rtol=1e-5)


def test_a_map_that_a_network_does_not_have_is_refused_with_those_it_has():
    assert check_size(16, [8, 16]) == 16 and check_size(0, [8, 16]) == 0
    with pytest.raises(ValueError, match=r"maps of 8, 16 pixels \(0: nowhere\) in this network, not 12"):
        check_size(12, [8, 16])
