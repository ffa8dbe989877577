import warnings
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jaxgen import sharding
from jaxgen.models import depthwise, direct, im2col, onednn, winograd
from jaxgen.models.convolution import (
    Conv,
    ConvTranspose,
    Geometry,
    convolve,
    form_of,
    kernel_gradient,
    max_pool,
    transposed,
)

GEOMETRIES = [
    Geometry((8, 8), (4, 4), (2, 2), ((1, 1), (1, 1))),
    Geometry((7, 9), (3, 5), (1, 2), ((1, 1), (2, 2))),
    Geometry((9, 6), (4, 3), (3, 2), ((0, 2), (1, 0))),  # rows at the far edge that no window reaches
    Geometry((5, 5), (1, 1), (1, 1), ((0, 0), (0, 0))),
    Geometry((7, 7), (7, 7), (1, 1), ((0, 0), (0, 0))),
    Geometry((11, 27), (4, 6), (2, 3), ((1, 1), (2, 1))),  # two strides; half-empty tiles, and a row that none reaches
    Geometry((24, 27), (3, 3), (3, 3), ((0, 0), (1, 2))),
    Geometry((7, 7), (4, 4), (2, 2), ((1, 1), (1, 1))),  # down to 3x3, below the size of the kernel
    Geometry((2, 3), (4, 4), (2, 1), ((1, 1), (2, 2))),
    Geometry((8, 6), (3, 3), (1, 1), ((1, 1), (1, 1))),
]
CASES = [  # geometry, channels, outputs, and the form in which a CPU runs them
    *[
        (g, 24, 4, form)
        for g, form in zip(GEOMETRIES, 2 * [direct] + [direct] + 2 * [im2col] + 5 * [None], strict=True)
    ],
    (GEOMETRIES[0], 64, 64, winograd),
    (GEOMETRIES[5], 64, 65, winograd),
    (GEOMETRIES[9], 96, 97, winograd),
    (Geometry((9, 10), (6, 6), (2, 2), ((1, 2), (3, 1))), 128, 64, winograd),  # three strides
    (GEOMETRIES[9], 24, 24, direct),
    (GEOMETRIES[9], 3, 24, im2col),
    (GEOMETRIES[9], 24, 3, im2col),  # patches of the outputs
    (Geometry((6, 7), (2, 3), (1, 1), ((0, 3), (2, 0))), 24, 2, im2col),
    (Geometry((12, 9), (6, 3), (3, 3), ((2, 2), (0, 0))), 30, 8, direct),  # small convolutions, one for each pixel
    (GEOMETRIES[9]._replace(groups=3), 72, 24, direct),
    (GEOMETRIES[0]._replace(groups=2), 128, 130, winograd),
    (GEOMETRIES[9]._replace(groups=6), 6, 12, im2col),  # two outputs for each channel
    (GEOMETRIES[9]._replace(groups=6), 6, 6, depthwise),
    (Geometry((6, 7), (2, 3), (1, 1), ((0, 3), (2, 0)), groups=5), 5, 5, depthwise),
]

pytestmark = pytest.mark.usefixtures("double_precision", "fast_compilation")


def draw(geometry, channels=24, features=4, batch=2):
    x, w, y = (jax.random.fold_in(jax.random.key(0), i) for i in range(3))
    return (
        jax.random.normal(x, (batch, *geometry.image_size, channels)),
        jax.random.normal(w, (*geometry.kernel_size, channels // geometry.groups, features)),
        jax.random.normal(y, (batch, *geometry.output_size, features)),
    )


def plain(x, w, geometry):
    return lax.conv_general_dilated(
        x,
        w,
        geometry.strides,
        geometry.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=geometry.groups,
    )


def tap_after_tap(x, w, geometry):
    (kh, kw), (sh, sw), (n, m) = geometry.kernel_size, geometry.strides, geometry.output_size
    x = jnp.pad(x, ((0, 0), *geometry.padding, (0, 0)))
    x, w = (a.reshape(*a.shape[:-1], geometry.groups, -1) for a in (x, w))
    y = sum(
        jnp.einsum("nijgc,cgo->nijgo", x[:, a : a + (n - 1) * sh + 1 : sh, b : b + (m - 1) * sw + 1 : sw], w[a, b])
        for a in range(kh)
        for b in range(kw)
    )
    return y.reshape(*y.shape[:3], -1)


def plain_transposed(y, w, geometry):
    """Not of `plain`: over that of geometry 42 of the 200 XLA (JAX 0.10.2) ends the process."""
    x = jax.ShapeDtypeStruct((y.shape[0], *geometry.image_size, w.shape[2] * geometry.groups), y.dtype)
    return jax.linear_transpose(lambda x: tap_after_tap(x, w, geometry), x)(y)[0]


def plain_kernel_gradient(x, y, geometry):
    w = jax.ShapeDtypeStruct((*geometry.kernel_size, x.shape[-1] // geometry.groups, y.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda w: plain(x, w, geometry), w)(y)[0]


def operands(name, x, w, y):
    return {
        "convolve": (convolve, plain, x, w),
        "transposed": (transposed, plain_transposed, y, w),
        "kernel_gradient": (kernel_gradient, plain_kernel_gradient, x, y),
    }[name]


def close(a, b):
    """Equal to 13 digits of the largest entry: the order of a sum may differ, and so the last digits of a small one."""
    scale = max(1.0, *(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(b)))
    chex.assert_trees_all_close(a, b, rtol=1e-12, atol=1e-13 * scale)


NAMES = ["convolve", "transposed", "kernel_gradient"]


def form_in_double_precision(geometry, channels, features):
    return form_of("convolve", geometry, channels // geometry.groups, features // geometry.groups, jnp.float64)


def is_as_plain_lax(geometry, *widths):
    """All three operations, in one compilation."""
    x, w, y = draw(geometry, *widths)

    @jax.jit
    def both(x, w, y):
        found = [operands(name, x, w, y) for name in NAMES]
        return [f(a, b, geometry) for f, _, a, b in found], [f(a, b, geometry) for _, f, a, b in found]

    close(*both(x, w, y))


@pytest.mark.parametrize(("geometry", "channels", "features", "form"), CASES)
def test_values_equal_those_of_plain_lax(geometry, channels, features, form):
    assert form in (None, form_in_double_precision(geometry, channels, features))
    is_as_plain_lax(geometry, channels, features)


@pytest.mark.slow
def test_values_equal_those_of_plain_lax_for_200_geometries():
    """To every order: each derivative of the three is one of the three (`test_gradients...`)."""
    random, forms = np.random.default_rng(0), []
    for i in range(200):
        size, kernel = random.integers(1, 13, 2), random.integers(1, 6, 2)
        strides = tuple(int(random.choice([s for s in (1, 1, 2, 3) if s <= k])) for k in kernel)
        widths = random.choice([1, 3, 16, 64], 2)
        if i % 8 == 0:  # where Winograd's form is taken
            size, kernel, widths = size + 9, (2 + i // 8 % 2) * np.array(strides), np.array([64, 129])
        padding = tuple((int(random.integers(k)), int(random.integers(k))) for k in kernel)
        short = [max(0, k - n - sum(p)) for n, k, p in zip(size, kernel, padding, strict=True)]
        groups = int(random.choice([1, 1, 2, 3]))
        geometry = Geometry(tuple((size + short).tolist()), tuple(kernel.tolist()), strides, padding, groups)
        case = (geometry, *(groups * widths).tolist())
        is_as_plain_lax(*case)
        forms.append(form_in_double_precision(*case))
    assert min(forms.count(form) for form in (im2col, winograd, direct)) >= 5


def test_a_batch_that_outgrows_the_cache_goes_through_the_kernel_gradient_in_chunks(monkeypatch):
    monkeypatch.setattr(direct, "CHUNK", 2 * 8 * 6 * 24)  # two images: three chunks
    geometry = GEOMETRIES[9]
    x, w, y = draw(geometry, 24, 16, batch=6)
    assert "while" in jax.jit(lambda x, y: kernel_gradient(x, y, geometry)).lower(x, y).as_text()
    close(kernel_gradient(x, y, geometry), plain_kernel_gradient(x, y, geometry))
    monkeypatch.setattr(direct, "CHUNK", 4 * 8 * 6 * 24)
    x, w, y = draw(geometry, 24, 16, batch=7)  # in chunks of one it would be slower than at once
    assert "while" not in jax.jit(lambda x, y: kernel_gradient(x, y, geometry)).lower(x, y).as_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("geometry, channels", [(GEOMETRIES[0], 64), (GEOMETRIES[9], 96)])
def test_winograds_form_goes_through_a_large_batch_in_chunks(geometry, channels, name, monkeypatch):
    monkeypatch.setattr(winograd, "CHUNK", dict.fromkeys((2, 3), 8 * 8 * channels))  # one or two images
    _, theirs, *operands_ = operands(name, *draw(geometry, channels, channels, batch=6))
    run = jax.jit(lambda a, b: getattr(winograd, name)(a, b, geometry))
    assert "while" in run.lower(*operands_).as_text()
    close(run(*operands_), theirs(*operands_, geometry))


@pytest.mark.parametrize(
    "case",
    [CASES[i] for i in (0, 2, 3, 10, 16, 22)] + [pytest.param(CASES[i], marks=pytest.mark.slow) for i in (12, 13, 19)],
)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_second_gradients_equal_those_of_plain_lax(name, case):
    geometry, channels, features, _ = case
    ours, theirs, a, b = operands(name, *draw(geometry, channels, features))

    def penalty(f):  # a gradient of a gradient, as in R1 and WGAN-GP
        energy = lambda a, b: jnp.sum(jnp.sin(f(a, b, geometry)))  # noqa: E731
        return lambda a, b: energy(a, b) + sum(jnp.sum(g**2) for g in jax.grad(energy, (0, 1))(a, b))

    close(*(jax.jit(jax.value_and_grad(penalty(f), (0, 1)))(a, b) for f in (ours, theirs)))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_get_plain_convolutions_wherever_it_is_traced(platform):
    for geometry, channels, features, _ in (CASES[0], CASES[10], CASES[14], CASES[16], CASES[17]):
        for name in NAMES:
            ours, _, a, b = operands(name, *draw(geometry, channels, features))
            program = jax.jit(lambda a, b, f=ours, g=geometry: f(a, b, g)).trace(a, b)
            text = program.lower(lowering_platforms=(platform,)).as_text()
            assert text.count("stablehlo.convolution") == 1 and "dot_general" not in text and "while" not in text


@pytest.mark.slow
@pytest.mark.parametrize("geometry, channels", [(GEOMETRIES[0], 64), (GEOMETRIES[9], 96)])
@pytest.mark.parametrize("name", NAMES)
def test_winograds_form_loses_no_more_digits_in_float32_than_plain_lax(name, geometry, channels):
    assert winograd.fits(name, geometry, channels, channels, jnp.float32)
    assert not winograd.fits(name, geometry, channels, channels, jnp.bfloat16)  # sums would be rounded to 8 bits
    ours, theirs, *operands_ = operands(name, *draw(geometry, channels=channels, features=channels, batch=16))
    exact = theirs(*operands_, geometry)
    single = [a.astype(jnp.float32) for a in operands_]

    def error(f):
        return float(jnp.abs(f(*single, geometry) - exact).max() / jnp.abs(exact).max())

    assert error(ours) < 4 * error(theirs) < 1e-4


needs_onednn = pytest.mark.skipif(not onednn.is_there(), reason="this jaxlib was not tested with the call")


def errors_of_onednn(geometry, channels, features, batch=2):
    """Of its forms in float32, relative to the largest entry of what plain lax has in float64."""
    x, w, y = draw(geometry, channels, features, batch)
    for name in NAMES[:2]:
        _, plain_form, a, b = operands(name, x, w, y)
        exact = jax.jit(plain_form, static_argnums=2)(a, b, geometry)
        run = jax.jit(getattr(onednn, name), static_argnums=2)
        found = run(a.astype(jnp.float32), b.astype(jnp.float32), geometry)
        assert found.shape == exact.shape and found.dtype == jnp.float32
        yield float(jnp.abs(found - exact).max() / jnp.abs(exact).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    "geometry, channels, features",
    [
        (GEOMETRIES[9], 16, 24),
        (GEOMETRIES[9]._replace(groups=3), 24, 48),
        (GEOMETRIES[0], 16, 24),
        (GEOMETRIES[0]._replace(groups=2), 16, 32),
        (GEOMETRIES[1]._replace(groups=2), 16, 16),
    ],
)
def test_in_single_precision_all_three_are_those_of_double_precision(geometry, channels, features):
    x, w, y = draw(geometry, channels, features)

    def error(name, x, w, y):
        run, plain_form, a, b = operands(name, x, w, y)
        found, exact = run(a.astype(jnp.float32), b.astype(jnp.float32), geometry), plain_form(a, b, geometry)
        assert found.shape == exact.shape and found.dtype == jnp.float32
        return jnp.abs(found - exact).max() / jnp.abs(exact).max()

    assert max(jax.jit(lambda *arrays: [error(name, *arrays) for name in NAMES])(x, w, y)) < 2e-6


@needs_onednn
@pytest.mark.parametrize(
    "geometry, channels, features",
    [
        (Geometry((16, 12), (3, 3), (1, 1), ((1, 1), (1, 1))), 64, 32),
        (Geometry((9, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), 4), 64, 32),
        (Geometry((9, 8), (3, 5), (1, 1), ((1, 0), (2, 1))), 8, 9),
        (Geometry((7, 7), (4, 4), (1, 1), ((0, 3), (3, 0)), 2), 48, 34),
    ],
)
def test_onednn_is_plain_lax_in_single_precision(geometry, channels, features, nothing_is_kept):
    widths = channels // geometry.groups, features // geometry.groups
    assert form_of("convolve", geometry, *widths, jnp.float32) is onednn
    assert max(errors_of_onednn(geometry, channels, features)) < 2e-6


@needs_onednn
@pytest.mark.slow
def test_onednn_is_plain_lax_in_single_precision_for_200_geometries(nothing_is_kept):
    random, tried = np.random.default_rng(0), 0
    while tried < 200:
        kernel = random.integers(1, 6, 2)
        padding = tuple((int(random.integers(k)), int(random.integers(k))) for k in kernel)
        groups, batch = int(random.choice([1, 1, 2, 3, 8])), int(random.choice([1, 2, 7]))
        size = tuple(random.integers(1, 25, 2).tolist())
        geometry = Geometry(size, tuple(kernel.tolist()), (1, 1), padding, groups)
        widths = random.choice([8, 9, 16, 24, 33, 64], 2)
        if min(geometry.output_size) > 0 and onednn.fits("convolve", geometry, *widths, jnp.float32):
            assert max(errors_of_onednn(geometry, *(groups * widths).tolist(), batch)) < 5e-6, (geometry, widths)
            tried += 1


@needs_onednn
def test_onednn_is_called_where_it_was_tested_and_nowhere_else(monkeypatch, nothing_is_kept):
    geometry = Geometry((8, 8), (3, 3), (1, 1), ((1, 1), (1, 1)))
    x, w, _ = (a.astype(jnp.float32) for a in draw(geometry, 16, 16))

    def program(x=x, w=w, geometry=geometry):
        return jax.jit(lambda x, w: convolve(x, w, geometry)).lower(x, w).as_text()

    assert "onednn" in program()
    assert "onednn" not in program(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16))
    assert "onednn" not in program(x.astype(jnp.float64), w.astype(jnp.float64))
    assert "onednn" not in program(w=w[:, :, :, :4])
    assert "onednn" not in program(geometry=geometry._replace(strides=(2, 2)))
    with jax.sharding.use_abstract_mesh(jax.make_mesh((2,), ("data",)).abstract_mesh):
        assert "onednn" not in program()
    for change in (
        lambda: monkeypatch.setattr(onednn, "TESTED", ()),
        lambda: monkeypatch.setenv("JAXGEN_ONEDNN", "0"),
    ):
        change()
        onednn.is_there.cache_clear()
        assert "onednn" not in program()
        monkeypatch.undo()
    onednn.is_there.cache_clear()


@needs_onednn
def test_no_call_of_onednn_comes_to_the_cache_on_disk():
    geometry = Geometry((8, 8), (3, 3), (1, 1), ((1, 1), (1, 1)))
    x, w = jnp.ones((2, 8, 8, 16), jnp.float32), jnp.ones((3, 3, 16, 16), jnp.float32)
    cache, mesh = Path(jax.config.jax_compilation_cache_dir), sharding.make_mesh(1)

    def with_a_call(x, w):
        return convolve(x, w, geometry) + 1.0

    def with_none(x, w):
        return x[..., :8] + w[0, 0, 0, :8]

    def written(program):
        """The files that a call leaves behind, with JAX's warning where a program cannot be written as an error."""
        before = set(cache.iterdir())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = program(x, w)
        return found, {path.name for path in set(cache.iterdir()) - before if path.name.startswith("jit_with")}

    ours, free = (
        sharding.jit_global(f, mesh, batch_axes=(None, None), may_be_kept=False) for f in (with_a_call, with_none)
    )
    plain = jax.jit(with_a_call)
    assert "onednn" in ours.lower(x, w).as_text() and "onednn" not in plain.lower(x, w).as_text()
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        found, files = written(ours)
        assert not files and jax.config.jax_persistent_cache_min_compile_time_secs == 0.0
        assert written(free)[1]
        expected, files = written(plain)
        assert files
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("geometry", [GEOMETRIES[1], GEOMETRIES[9]._replace(groups=2)])
@pytest.mark.parametrize("name", NAMES)
def test_inside_scan_and_vmap_nothing_changes(name, geometry):
    ours, theirs, a, b = operands(name, *draw(geometry))

    def descend(f):
        def step(b, _):
            return b - 1e-3 * jax.grad(lambda b: jnp.sum(f(a, b, geometry) ** 2))(b), None

        return jax.jit(lambda b: lax.scan(step, b, None, length=3)[0])

    close(descend(ours)(b), descend(theirs)(b))
    many_a, many_b = jnp.stack([a, -a, a]), jnp.stack([b, 2 * b, -b])
    for batched in ((0, 0), (0, None), (None, 0)):
        arrays = [many if axis == 0 else one for axis, many, one in zip(batched, (many_a, many_b), (a, b), strict=True)]
        close(
            *(
                jax.vmap(jax.grad(lambda a, b, f=f: jnp.sum(jnp.sin(f(a, b, geometry))), (0, 1)), batched)(*arrays)
                for f in (ours, theirs)
            )
        )


@pytest.mark.slow
def test_transposed_is_the_adjoint_of_convolve():
    for geometry in GEOMETRIES:
        x, w, y = draw(geometry)
        products = [
            jnp.vdot(y, jax.jit(convolve, static_argnums=2)(x, w, geometry)),
            jnp.vdot(jax.jit(transposed, static_argnums=2)(y, w, geometry), x),
            jnp.vdot(jax.jit(kernel_gradient, static_argnums=2)(x, y, geometry), w),
        ]
        np.testing.assert_allclose(products, products[0], rtol=1e-12)


def test_conv_layer_equals_flax_with_the_same_parameters():
    x = jax.random.normal(jax.random.key(0), (2, 9, 9, 3))
    ours = Conv(5, 3, strides=2, padding=1)
    theirs = nn.Conv(5, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    variables = ours.init(jax.random.key(1), x)
    chex.assert_trees_all_equal_shapes(variables, theirs.init(jax.random.key(1), x))
    close(ours.apply(variables, x), theirs.apply(variables, x))


def test_grouped_conv_layer_equals_flax_with_the_same_parameters():
    x = jax.random.normal(jax.random.key(0), (2, 9, 9, 6))
    ours = Conv(4, 3, padding=1, groups=2)
    theirs = nn.Conv(4, (3, 3), padding=((1, 1), (1, 1)), feature_group_count=2)
    variables = ours.init(jax.random.key(1), x)
    chex.assert_trees_all_equal_shapes(variables, theirs.init(jax.random.key(1), x))
    close(ours.apply(variables, x), theirs.apply(variables, x))
    with pytest.raises(ValueError, match="4 groups must divide 6 channels and 4 features"):
        Conv(4, 3, groups=4).init(jax.random.key(1), x)


def test_transposed_layer_with_kernel_four_and_strides_two_doubles_the_size():
    x = jax.random.normal(jax.random.key(0), (2, 7, 5, 3))
    layer = ConvTranspose(6, 4, strides=2, padding=1)
    y, variables = layer.init_with_output(jax.random.key(1), x)
    assert y.shape == (2, 14, 10, 6)
    # Flax flips neither axis and stores [kh, kw, in, out]: the adjoint is its transpose_kernel form.
    theirs = nn.ConvTranspose(6, (4, 4), strides=(2, 2), padding=((2, 2), (2, 2)), transpose_kernel=True)
    close(y, theirs.apply(variables, x))


@pytest.mark.slow
def test_max_pool_equals_flax_and_drops_what_does_not_fill_a_window():
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
    close(max_pool(x), nn.max_pool(x, (2, 2), strides=(2, 2)))
