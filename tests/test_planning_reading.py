"""What is read from a compiled program is what the program does: collectives, products, padding, arguments."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxgen import arithmetic, gradients, sharding
from jaxgen.loop import dispatch
from jaxgen.planning import hlo, programs, reading
from jaxgen.system import Spec
from jaxgen.systems import vae
from jaxgen.systems.preset import Preset

pytestmark = pytest.mark.usefixtures("fast_compilation")


def text_of(function, *shapes, **settings) -> str:
    return jax.jit(function, **settings).lower(*shapes).compile().as_text()


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_the_gradient_of_a_divided_batch_is_reduced_once():
    mesh = sharding.make_mesh(8)

    def gradient(w, x):
        return jax.grad(lambda w: jnp.mean(jnp.tanh(x @ w)))(w)

    run = sharding.jit_global(gradient, mesh, batch_axes=(None, 0))
    text = run.lower(array(12, 5), array(16, 12)).compile().as_text()
    assert reading.collectives(text) == {"all-reduce": {"number": 1, "bytes": 4 * 12 * 5}}


def test_what_is_divided_and_never_summed_is_not_told_to_anybody():
    run = sharding.jit_global(lambda x: jnp.tanh(x).sum(axis=1), sharding.make_mesh(8), batch_axes=(0,))
    found = reading.collectives(run.lower(array(16, 4)).compile().as_text())
    assert found == {"all-gather": {"number": 1, "bytes": 4 * 16}}  # the result is replicated


def test_a_loop_of_known_length_counts_as_often_as_it_runs():
    mesh = sharding.make_mesh(8)

    def summed(x):
        def add(total, _):
            return total + jax.lax.psum(jnp.sin(total) * x, sharding.AXIS), None

        return jax.lax.scan(add, jnp.zeros(x.shape), None, length=5)[0]

    mapped = jax.shard_map(
        summed, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec(), check_vma=False
    )
    found = reading.collectives(text_of(mapped, array(8, 3, 7)))
    assert found["all-reduce"] == {"number": 5, "bytes": 5 * 4 * 3 * 7}


def test_products_of_matrices_and_convolutions_have_their_operations_channels_and_precision():
    found = reading.products(text_of(lambda a, b: a @ b, array(6, 32), array(32, 10)))
    (product, times), *more = found
    assert (product.kind, product.dtype, product.operations, times) == (
        "product of matrices",
        "f32",
        2 * 6 * 32 * 10,
        1,
    )
    assert (product.contracted, product.made, more) == (32, 10, [])
    line = (
        "ENTRY %main (a: bf16[8,14,14,16], b: bf16[4,4,16,8]) -> bf16[8,7,7,8] {\n"
        "  %a = bf16[8,14,14,16]{3,0,2,1:T(8,128)(2,1)} parameter(0)\n"
        "  %b = bf16[4,4,16,8]{3,2,1,0:T(8,128)(2,1)} parameter(1)\n"
        "  ROOT %c = bf16[8,7,7,8]{3,0,2,1:T(8,128)(2,1)} convolution(%a, %b), window={size=4x4 stride=2x2"
        ' pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(step)/Conv_0/conv"}\n}\n'
    )
    ((convolution, _),) = reading.products(line)
    assert convolution.kind == "convolution" and convolution.operations == 2 * 8 * 8 * 16 * (7 * 4 - 2) ** 2
    assert (convolution.contracted, convolution.made, convolution.where) == (16, 8, "jit(step)/Conv_0/conv")
    assert reading.precision([(convolution, 1), (product, 1)]) == {
        "convolution": {"bf16": 1},
        "product of matrices": {"f32": 1},
    }
    assert reading.filling([(convolution, 1)]) == pytest.approx(1 - (25088 + 2048 + 3136) / (200704 + 32768 + 50176))


@pytest.mark.parametrize(
    ("channels", "wasted"), [((128, 256), 0.0), ((64, 128), 0.5), ((32, 64), 7 / 8), ((129, 1), None)]
)
def test_channels_are_filled_up_to_the_width_of_the_unit(channels, wasted):
    product = reading.Product("convolution", "bf16", 1e6, *channels, "somewhere")
    expected = 1 - 129 / 256 / 128 if wasted is None else wasted
    assert reading.padding([(product, 3)], 128) == pytest.approx(expected)
    narrow = reading.narrowest([(product, 3)], 128)
    assert [entry["channels"] for entry in narrow] == ([list(channels)] if expected else [])


def test_what_fills_up_a_tile_counts_where_the_sides_lie():
    (shape,) = hlo.shapes("bf16[8,14,14,8]{3,0,2,1:T(8,128)(2,1)}")
    assert shape.bytes == 2 * 8 * 14 * 14 * 8 and shape.filled == 8 * 14 * 14 * 128
    (shape,) = hlo.shapes("f32[3,3,32]{2,1,0:T(4,128)S(1)}")
    assert shape.filled == 3 * 4 * 128
    (shape,) = hlo.shapes("f32[5,3]{1,0}")
    assert shape.filled == shape.size == 15


def test_arguments_that_a_program_uses_are_told_apart_and_those_it_does_not_are_not_there():
    def step(state, batch, unused):
        return state + batch.sum()

    text = text_of(step, array(10), array(3, 2), array(100), keep_unused=False)
    names = ["state", "batch", "unused"]
    assert reading.arguments(text, ("state", "batch", "batch"), names) == {"state": 40, "batch": 24}


def test_memory_is_what_the_compiler_says_and_what_is_donated_counts_once():
    mesh = sharding.make_mesh(8)
    step = sharding.jit_global(lambda s, x: (s + x.mean(), x.sum()), mesh, batch_axes=(None, 0), donate=(0,))
    compiled = step.lower(array(1000), array(16, 4)).compile()
    found = reading.memory(compiled, {"state": 4000, "batch": 4 * 2 * 4})
    assert found["padding"] == 0 and found["results"] < 100
    assert found["needed"] == sum(value for name, value in found.items() if name != "needed")
    assert 4032 <= found["needed"] < 4032 + 2000


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 22.46G "
            "of 15.75G hbm. Exceeded hbm capacity by 6.71G.",
            (int(22.46 * 2**30), int(15.75 * 2**30)),
        ),
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (18.00G) exceeds available HBM (15.75G). HLO module: jit_step.",
            (18 * 2**30, int(15.75 * 2**30)),
        ),
        ("RESOURCE_EXHAUSTED: no figures", None),
        ("INVALID_ARGUMENT: Used 22.46G of 15.75G hbm", None),
    ],
)
def test_a_program_that_is_too_large_is_an_answer(message, found):
    assert reading.out_of_memory(message) == found


def test_a_training_without_batch_normalisation_reduces_each_gradient_once_and_no_activation():
    config = dataclasses.replace(vae.TINY, batch_size=16)
    parts = programs.parts_of(config, Preset("", config), (28, 28, 1), 0)
    mesh = sharding.make_mesh(8)
    program = programs.program("train", parts, mesh)
    text = program.run.lower(*program.arguments).compile().as_text()
    found = reading.collectives(text)
    gradients = 4 * sum(parts.system.parameters.values())
    metrics = len(jax.eval_shape(parts.system.train_step, parts.system.shapes, parts.example, programs._key())[1])
    assert list(found) == ["all-reduce"]
    assert 0 <= found["all-reduce"]["bytes"] - gradients <= 4 * 2 * metrics
    named = reading.arguments(text, program.groups, ["state", "tally", "raw", "key"])
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(parts.system.shapes))
    assert named["state"] == state


def test_of_a_convolution_without_borders_the_operations_are_those_of_the_trace_and_borders_are_none():
    def lines(padding, size):
        return (
            f"ENTRY %main (a: f32[2,9,9,3], b: f32[3,3,3,5]) -> f32[2,{size},{size},5] {{\n"
            "  %a = f32[2,9,9,3]{3,2,1,0} parameter(0)\n  %b = f32[3,3,3,5]{3,2,1,0} parameter(1)\n"
            f"  ROOT %c = f32[2,{size},{size},5]{{3,2,1,0}} convolution(%a, %b), window={{size=3x3{padding}}},"
            " dim_labels=b01f_01io->b01f\n}\n"
        )

    images, kernel = array(2, 9, 9, 3), array(3, 3, 3, 5)
    numbers = ("NHWC", "HWIO", "NHWC")
    traced = arithmetic.operations(
        lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=numbers), images, kernel
    )
    assert reading.operations(reading.products(lines("", 7))) == traced == 2 * 2 * 7 * 7 * 5 * 27
    bordered = reading.operations(reading.products(lines(" pad=1_1x1_1", 9)))
    assert bordered == 2 * 2 * 5 * 3 * (3 * 9 - 2) ** 2  # of 9 x 9 pixels with 3 x 3 neighbours, some are outside
    spread = reading.operations(reading.products(lines(" pad=2_2x2_2 lhs_dilate=2x2", 19)))
    assert spread == 2 * 2 * 5 * 3 * (9 * 3) ** 2  # each pixel goes into nine
    assert reading.operations([(reading.Product("convolution", "f32", 0.0, 0, 0, ""), 1)]) is None


def test_in_slices_every_slice_reduces_the_gradient():
    shapes, found = (array(7, 3), array(32, 7)), []
    for slices in (1, 2, 4):

        def gradient(w, x, slices=slices):
            def gradient_of(x, key):
                return jax.grad(lambda w: jnp.mean(jnp.tanh(x @ w)))(w), {}

            return gradients.accumulated(slices)(gradient_of, x, jax.random.key(0))[0]

        run = sharding.jit_global(gradient, sharding.make_mesh(8), batch_axes=(None, 0))
        found.append(reading.collectives(run.lower(*shapes).compile().as_text())["all-reduce"]["bytes"])
    assert found == [4 * 21, 2 * 4 * 21, 4 * 4 * 21]


def test_the_program_of_a_set_that_comes_with_the_package_is_many_steps_with_the_set_on_the_devices():
    config = dataclasses.replace(vae.TINY, batch_size=16)
    parts = programs.parts_of(config, Preset("", config), None, None)
    program = programs.program("train", parts, sharding.make_mesh(8))
    assert program.groups[-1] == "data" and program.arguments[-1]["image"].shape == (60_000, 28, 28, 1)
    assert program.arguments[2].shape == (dispatch.MAX_STEPS_PER_DISPATCH, 16)
    given = programs.program("evaluation", parts, sharding.make_mesh(8)).arguments
    assert jax.tree.leaves(given[1])[0].shape[0] == 256  # 250 images, which eight devices can share


def test_a_batch_that_devices_cannot_share_is_refused():
    config = dataclasses.replace(vae.TINY, batch_size=12)
    parts = programs.parts_of(config, Preset("", config), (28, 28, 1), 0)
    with pytest.raises(ValueError, match="12 images cannot be divided over 8 devices"):
        programs.program("train", parts, sharding.make_mesh(8))


def test_shapes_of_rows_are_those_that_come_from_the_host():
    spec = Spec.of_images((6, 6, 3), 4)
    config = dataclasses.replace(vae.TINY, batch_size=16)
    parts = programs.parts_of(config, Preset("", config, spec=((6, 6, 3), 4)), (6, 6, 3), 4)
    rows = programs._rows_of(parts.dataset, 16)
    assert rows["image"].dtype == np.uint8 and rows["image"].shape == (16, 6, 6, 3)
    assert parts.example["image"] == spec.example(16)["image"]
