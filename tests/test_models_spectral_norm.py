import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen import network
from jaxgen.models.convolution import Conv
from jaxgen.models.spectral_norm import SpectralConv, SpectralDense, SpectralEmbed, power_iteration

pytestmark = pytest.mark.usefixtures("fast_compilation")

IMAGES = jax.random.normal(jax.random.key(8), (2, 6, 6, 3))
LAYERS = {  # (layer, the plain layer, the name of its matrix, input)
    "conv": (SpectralConv(5, 3, strides=2, padding=1), Conv(5, 3, strides=2, padding=1), "kernel", IMAGES),
    "dense": (SpectralDense(4), nn.Dense(4), "kernel", IMAGES[0, 0]),
    "embed": (SpectralEmbed(6, 4), nn.Embed(6, 4), "embedding", jnp.array([5, 0, 0, 2])),
}
each_layer = pytest.mark.parametrize("layer", LAYERS)


@functools.partial(jax.jit, static_argnums=0)
def init(module, x, key=None):
    variables = module.init(jax.random.key(0) if key is None else key, x, train=True)
    return jax.tree.map(lambda leaf: leaf.astype(float), variables)  # parameters are of single precision by themselves


@functools.partial(jax.jit, static_argnums=0)
def step(module, variables, x):
    """(output, variables) of one application in training."""
    y, state = module.apply(variables, x, train=True, mutable=["spectral_norm"])
    return y, {**variables, **state}


def matrix(kernel):
    return np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])


def converged(variables):
    """The variables of a layer with the singular vector itself as u."""
    (kernel,) = (leaf for leaf in variables["params"].values() if leaf.ndim > 1)
    u = np.linalg.svd(matrix(kernel))[2][0]
    return {**variables, "spectral_norm": {"u": u.astype(variables["spectral_norm"]["u"].dtype)}}


@each_layer
def test_parameters_have_the_names_shapes_and_initial_values_of_the_plain_layer(layer):
    module, plain, _, x = LAYERS[layer]
    variables = init(module, x)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], plain.init(jax.random.key(0), x)["params"])
    assert set(variables) == {"params", "spectral_norm"}
    u = variables["spectral_norm"]["u"]
    assert u.shape == (module.features,) and u.dtype == jnp.float32
    assert np.linalg.norm(u) == pytest.approx(1)


@each_layer
@pytest.mark.usefixtures("double_precision")
@pytest.mark.slow
def test_a_layer_becomes_the_plain_layer_with_its_matrix_over_its_largest_singular_value(layer):
    module, plain, name, x = LAYERS[layer]
    variables = init(module, x)
    variables = jax.jit(lambda v: jax.lax.fori_loop(0, 500, lambda _, v: step(module, v, x)[1], v))(variables)
    params = variables["params"]
    normalised = params[name] / np.linalg.svd(matrix(params[name]), compute_uv=False)[0]
    assert np.linalg.norm(matrix(normalised), 2) == pytest.approx(1)
    expected = plain.apply({"params": params | {name: normalised}}, x)
    np.testing.assert_allclose(module.apply(variables, x, train=False), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(step(module, variables, x)[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_a_step_in_training_is_one_power_iteration_and_five_steps_are_five():
    w = jax.random.normal(jax.random.key(0), (7, 4))
    u = jnp.array([1.0, 0, 0, 0])
    v = w[:, 0] / np.linalg.norm(w[:, 0])
    moved = v @ w / np.linalg.norm(v @ w)
    np.testing.assert_allclose(power_iteration(w, u)[0], v, rtol=1e-12)
    np.testing.assert_allclose(power_iteration(w, u)[1], moved, rtol=1e-12)

    module, x = SpectralDense(4, use_bias=False), jnp.eye(7)
    variables = {"params": {"kernel": w}, "spectral_norm": {"u": u}}
    y, once = step(module, variables, x)
    np.testing.assert_allclose(once["spectral_norm"]["u"], moved, rtol=1e-12)
    np.testing.assert_allclose(y, w / (v @ w @ moved), rtol=1e-12)
    at_once = step(module.clone(num_iterations=5), variables, x)
    for _ in range(4):
        y, once = step(module, once, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), (y, once), at_once)


def test_sigma_grows_towards_the_largest_singular_value_from_below():
    w = jax.random.normal(jax.random.key(0), (30, 20))
    u = jnp.ones(20)
    sigmas = []
    for _ in range(60):
        v, u = power_iteration(w, u)
        sigmas.append(v @ w @ u)
    top = np.linalg.svd(w, compute_uv=False)[0]
    assert all(a <= b * (1 + 1e-6) for a, b in zip(sigmas, sigmas[1:], strict=False))
    assert sigmas[0] < 0.95 * top and sigmas[-1] == pytest.approx(top, rel=1e-4)


@each_layer
def test_u_moves_in_training_alone_and_only_where_it_may_be_stored(layer):
    module, _, _, x = LAYERS[layer]
    variables = init(module, x)
    y, moved = step(module, variables, x)
    assert not np.allclose(moved["spectral_norm"]["u"], variables["spectral_norm"]["u"], atol=1e-3)
    _, same = module.apply(variables, x, train=False, mutable=["spectral_norm"])
    np.testing.assert_array_equal(same["spectral_norm"]["u"], variables["spectral_norm"]["u"])
    np.testing.assert_array_equal(module.apply(variables, x, train=True), y)  # not mutable: used, not stored


def test_u_is_a_state_that_training_carries_and_no_input_changes():
    module, _, _, x = LAYERS["conv"]
    variables = init(module, x)
    params, state = variables["params"], {"spectral_norm": variables["spectral_norm"]}
    _, a = network.apply(module, params, state, x)
    _, b = network.apply(module, params, state, 3 - x)
    np.testing.assert_array_equal(a["spectral_norm"]["u"], b["spectral_norm"]["u"])
    assert not np.array_equal(a["spectral_norm"]["u"], state["spectral_norm"]["u"])


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("layer", ["conv", "dense"])
def test_the_gradient_is_the_closed_form_of_the_paper(layer):
    # Of a loss whose gradient at W / sigma is G: (G - <G, W / sigma> v u') / sigma.
    module, plain, _, x = LAYERS[layer]
    module, x = module.clone(use_bias=False), x.astype(jnp.float64)
    variables = converged(init(module, x))
    w = matrix(variables["params"]["kernel"])
    left, sigmas, right = np.linalg.svd(w)
    normalised = {"kernel": variables["params"]["kernel"] / sigmas[0]}
    plain_loss = jax.grad(lambda p: jnp.sum(jnp.sin(plain.clone(use_bias=False).apply({"params": p}, x))))
    g = matrix(plain_loss(normalised)["kernel"])
    expected = (g - np.sum(g * w / sigmas[0]) * np.outer(left[:, 0], right[0])) / sigmas[0]

    def loss(params, train):
        return jnp.sum(jnp.sin(module.apply({**variables, "params": params}, x, train=train)))

    for train in (False, True):
        found = matrix(jax.grad(loss)(variables["params"], train)["kernel"])
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
        assert np.sum(found * w) == pytest.approx(0, abs=1e-9)  # a longer kernel is the same kernel


@pytest.mark.usefixtures("double_precision")
def test_a_penalty_on_the_gradient_is_differentiated_through_sigma():
    class Judge(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = nn.softplus(SpectralConv(4, 3)(x, train=train))
            return SpectralDense(1)(x.reshape(len(x), -1), train=train)[:, 0]

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.softplus(Conv(4, 3, name="SpectralConv_0")(x))
            return nn.Dense(1, name="SpectralDense_0")(x.reshape(len(x), -1))[:, 0]

    x = IMAGES.astype(jnp.float64)
    variables = init(Judge(), x)
    layers = {name: converged({kind: of[name] for kind, of in variables.items()}) for name in variables["params"]}
    variables = {kind: {name: layer[kind] for name, layer in layers.items()} for kind in variables}

    def r1(judge, x):
        return jnp.sum(jax.grad(lambda x: jnp.sum(judge(x)))(x) ** 2)

    def penalty(params):
        return r1(lambda x: Judge().apply({**variables, "params": params}, x, train=True), x)

    def exact(params):  # the singular value by SVD, and differentiated through it
        def normalise(path, w):
            return w / jnp.linalg.norm(w.reshape(-1, w.shape[-1]), 2) if path[-1].key == "kernel" else w

        return r1(lambda x: Plain().apply({"params": jax.tree_util.tree_map_with_path(normalise, params)}, x), x)

    found, expected = (jax.jit(jax.grad(f))(variables["params"]) for f in (penalty, exact))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), found, expected)


def test_a_kernel_of_zeros_is_used_as_it_is_and_keeps_its_u():
    module, x = SpectralDense(3, use_bias=False), jnp.ones((2, 5))
    variables = init(module, x)
    zero = {**variables, "params": {"kernel": jnp.zeros((5, 3))}}
    y, moved = step(module, zero, x)
    np.testing.assert_array_equal(y, np.zeros((2, 3)))
    np.testing.assert_allclose(moved["spectral_norm"]["u"], variables["spectral_norm"]["u"], rtol=1e-6)
    for train in (False, True):
        gradient = jax.grad(lambda p, t=train: module.apply({**zero, "params": p}, x, train=t).sum())(zero["params"])
        np.testing.assert_array_equal(gradient["kernel"], np.full((5, 3), 2.0))


def test_a_kernel_that_is_no_number_is_seen_in_the_output_and_leaves_u_alone():
    module, x = SpectralDense(3), jnp.ones((2, 5))
    variables = init(module, x)
    broken = {**variables, "params": jax.tree.map(lambda w: w * jnp.nan, variables["params"])}
    y, moved = step(module, broken, x)
    assert np.isnan(y).all()
    np.testing.assert_allclose(moved["spectral_norm"]["u"], variables["spectral_norm"]["u"], rtol=1e-6)


def test_averages_of_u_over_devices_and_over_time_serve_as_well():
    module, _, _, x = LAYERS["conv"]
    variables = init(module, x)
    shrunk = {**variables, "spectral_norm": {"u": 0.3 * variables["spectral_norm"]["u"]}}
    y = module.apply(variables, x, train=False)
    np.testing.assert_allclose(module.apply(shrunk, x, train=False), y, rtol=1e-5, atol=1e-6)

    def on_device(x):
        y, moved = step(module, variables, x[None])
        return moved["spectral_norm"]["u"], jax.lax.pmean(moved["spectral_norm"]["u"], "devices")

    own, mean = jax.vmap(on_device, axis_name="devices")(x)
    np.testing.assert_array_equal(own, mean)


@each_layer
@pytest.mark.slow
def test_two_seeds_under_vmap_are_two_runs(layer):
    module, _, _, x = LAYERS[layer]

    def run(key):
        return step(module, init(module, x, key), x)

    keys = jax.random.split(jax.random.key(3), 2)
    together = jax.jit(jax.vmap(run))(keys)
    for i, key in enumerate(keys):
        alone = run(key)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-5, atol=2e-6), together, alone)


@each_layer
def test_in_bfloat16_the_kernel_is_normalised_before_it_is_rounded(layer):
    module, plain, name, x = LAYERS[layer]
    variables = converged(init(module, x))
    params = variables["params"]
    normalised = params[name] / np.linalg.norm(matrix(params[name]), 2)
    half = jnp.bfloat16
    expected = plain.clone(dtype=half).apply({"params": params | {name: normalised}}, x)
    y, moved = step(module.clone(dtype=half), variables, x)
    assert y.dtype == half and moved["spectral_norm"]["u"].dtype == jnp.float32
    np.testing.assert_allclose(y.astype(jnp.float32), expected.astype(jnp.float32), rtol=0.02, atol=0.01)
    np.testing.assert_allclose(moved["spectral_norm"]["u"], variables["spectral_norm"]["u"], rtol=1e-4, atol=1e-5)


def test_an_embedding_of_a_label_that_does_not_exist_is_not_a_number():
    module = SpectralEmbed(3, 2)
    variables = init(module, jnp.arange(3))
    rows = module.apply(variables, jnp.array([[0, 3], [2, -1]]), train=False)
    np.testing.assert_array_equal(np.isnan(rows).any(-1), [[False, True], [False, True]])
    with pytest.raises(TypeError, match="labels must be integers, not float32"):
        module.apply(variables, jnp.eye(3), train=False)
