"""The Inception v3 of the FID: its layers, the resizing in front of it, and its files of weights.

The weights of the slow test are random, as everywhere here; `inception_in_torch.py` makes them.
"""

import importlib.util
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen.metrics import inception as weights_of
from jaxgen.metrics.features import BackboneError
from jaxgen.models import inception

TORCH_PYTHON = os.environ.get("JAXGEN_TORCH_PYTHON") or (sys.executable if importlib.util.find_spec("torch") else None)

pytestmark = pytest.mark.usefixtures("fast_compilation")


# The network ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def optimised():
    """The program that users run, and not the one that compiles quickly."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.slow
@pytest.mark.skipif(TORCH_PYTHON is None, reason="needs PyTorch; JAXGEN_TORCH_PYTHON may name a Python that has it")
def test_every_layer_equals_pytorch_with_the_same_random_weights_from_both_of_its_file_formats(tmp_path, optimised):
    rng = np.random.default_rng(0)
    images = {
        "small": rng.uniform(-1, 1, (2, 75, 75, 3)).astype(np.float32),
        "wide": rng.uniform(-1, 1, (1, 90, 139, 3)).astype(np.float32),  # odd and even maps that are not square
        "full": rng.uniform(-1, 1, (1, 299, 299, 3)).astype(np.float32),
    }
    np.savez(tmp_path / "images.npz", **images)
    script = Path(__file__).with_name("inception_in_torch.py")
    subprocess.run([TORCH_PYTHON, str(script), str(tmp_path)], check=True, timeout=600)
    weights = weights_of.read_weights(tmp_path / "zip.pth")
    assert weights_of.digest(weights) == weights_of.digest(weights_of.read_weights(tmp_path / "legacy.pth"))
    variables = weights_of.to_variables(weights)
    network = inception.InceptionV3(logits_bias=True)

    @jax.jit
    def run(x):
        (features, logits), state = network.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
        named = {}
        for path, value in jax.tree_util.tree_leaves_with_path(state["intermediates"]):
            named[".".join(key.key for key in path[:-2])] = value
        return named | {"features": features, "logits": logits}

    for name, x in images.items():
        found = run(x)
        with np.load(tmp_path / f"outputs_{name}.npz") as expected:
            assert len(expected.files) == 94 + 11 + 2  # units, blocks, and what comes out
            worst = {}
            for layer in expected.files:
                reference, value = expected[layer], np.asarray(found[layer])
                assert value.shape == reference.shape, layer
                assert 0.1 < np.std(reference) < 100, layer  # neither dead nor exploded: there is something to compare
                worst[layer] = np.linalg.norm(value - reference) / np.linalg.norm(reference)
                np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-4 * np.std(reference), err_msg=layer)
        print(name, max(worst.items(), key=lambda item: item[1]))
        assert max(worst.values()) < 1e-5
    for file in tmp_path.iterdir():  # 300 MB, which pytest would keep
        file.unlink()


@pytest.mark.slow
def test_the_network_has_the_size_and_the_names_of_the_pytorch_port():
    shapes = weights_of.expected_shapes()
    assert len(shapes) == 94 * 5 + 2
    # torchvision's 27,161,264 less the auxiliary classifier's 3,326,696, and 8 rows more in the last layer
    learned = sum(int(np.prod(shape)) for name, shape in shapes.items() if ".running_" not in name)
    assert learned == 27_161_264 - 3_326_696 + 8 * 2049
    assert shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Mixed_5b.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert shapes["Mixed_6c.branch7x7dbl_4.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_6c.branch7x7dbl_5.conv.weight"] == (192, 160, 1, 7)
    assert shapes["Mixed_7c.branch3x3dbl_3b.bn.running_var"] == (384,)
    assert (shapes["fc.weight"], shapes["fc.bias"]) == ((1008, 2048), (1008,))


def pooled_by_hand(x, reduce):
    """The neighbours that exist, gathered one pixel after the other."""
    height, width = x.shape[:2]
    rows = [
        [reduce(x[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2], axis=(0, 1)) for j in range(width)]
        for i in range(height)
    ]
    return np.array(rows)


@pytest.mark.parametrize(("pool", "reduce"), [(inception.average_pool, np.mean), (inception.max_pool, np.max)])
def test_pools_within_blocks_know_only_the_pixels_that_there_are(pool, reduce):
    x = np.random.default_rng(0).uniform(-2, -1, (2, 4, 5, 3)).astype(np.float32)  # 0, of padding, would be the maximum
    expected = np.stack([pooled_by_hand(image, reduce) for image in x])
    np.testing.assert_allclose(pool(jnp.asarray(x)), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "block", "size", "reduce"),
    [
        ("Mixed_5b", inception.BlockA(32), (32, 192, 224), np.mean),
        ("Mixed_6b", inception.BlockC(128), (192, 768, 576), np.mean),
        ("Mixed_7b", inception.BlockE(inception.average_pool), (192, 1280, 1856), np.mean),
        ("Mixed_7c", inception.BlockE(inception.max_pool), (192, 2048, 1856), np.max),
    ],
)
def test_the_last_branch_pools_by_the_rule_of_its_block_and_comes_last(name, block, size, reduce):
    width, channels, first = size
    x = np.random.default_rng(0).uniform(0, 1, (1, 3, 3, channels)).astype(np.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    # this branch alone passes its first channels on; all others give 0
    branch = variables["params"]["branch_pool"]
    branch["conv"]["kernel"] = jnp.eye(channels, width)[None, None]
    branch["bn"]["scale"] = jnp.ones(width)
    variables["batch_stats"]["branch_pool"]["bn"]["var"] = jnp.full(width, 1 - 1e-3)  # and epsilon makes it 1
    y = jax.jit(block.apply)(variables, x)
    assert y.shape == (1, 3, 3, first + width)
    assert not np.any(y[..., :first])
    np.testing.assert_allclose(y[0, ..., first:], pooled_by_hand(x[0], reduce)[..., :width], rtol=1e-5)


def test_only_the_last_block_takes_maxima_of_neighbours_and_maps_have_the_sizes_of_the_paper(monkeypatch):
    seen = []

    def recorded(function):
        def pool(x):
            seen.append((function.__name__, x.shape[1], x.shape[3]))
            return function(x)

        return pool

    for function in (inception.average_pool, inception.max_pool, inception.halving_pool):
        monkeypatch.setattr(inception, function.__name__, recorded(function))
    image = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    jax.eval_shape(inception.InceptionV3().init, jax.random.key(0), image)
    assert seen == [
        ("halving_pool", 147, 64),
        ("halving_pool", 71, 192),
        ("average_pool", 35, 192),
        ("average_pool", 35, 256),
        ("average_pool", 35, 288),
        ("halving_pool", 35, 288),
        *[("average_pool", 17, 768)] * 4,
        ("halving_pool", 17, 768),
        ("average_pool", 8, 1280),
        ("max_pool", 8, 2048),
    ]


@pytest.mark.parametrize("shape", [(1, 74, 299, 3), (1, 299, 299, 1), (299, 299, 3)])
def test_images_that_the_network_cannot_read_are_refused_by_shape(shape):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ValueError, match=r"at least 75x75 pixels .*not \[" + ", ".join(map(str, shape))):
        jax.eval_shape(inception.InceptionV3().init, jax.random.key(0), image)


# Resizing -------------------------------------------------------------------------------------------------------------


def tf1_by_hand(image, size_out):
    """Output pixel by output pixel, in float32, as TensorFlow's first ResizeBilinear is defined."""
    height, width, channels = image.shape
    step_y, step_x = np.float32(height) / np.float32(size_out), np.float32(width) / np.float32(size_out)
    result = np.zeros((size_out, size_out, channels), np.float32)
    for i in range(size_out):
        y = np.float32(i) * step_y
        top = int(y)
        bottom = min(top + 1, height - 1)
        for j in range(size_out):
            x = np.float32(j) * step_x
            left = int(x)
            right = min(left + 1, width - 1)
            above = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            below = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (x - left)
            result[i, j] = above + (below - above) * (y - top)
    return result


@pytest.mark.parametrize("size", [(8, 11), (26, 39), (299, 299), (320, 13), (1, 600)])
def test_tensorflow_1_bilinear_equals_a_loop_over_pixels(size):
    image = np.random.default_rng(0).uniform(0, 255, (*size, 3)).astype(np.float32)
    for size_out in (7, 26, 47):
        resized = inception.resize(jnp.asarray(image)[None], size_out, size_out, inception.tf1_bilinear)[0]
        np.testing.assert_allclose(resized, tf1_by_hand(image, size_out), atol=1e-4)


def test_tensorflow_1_bilinear_repeats_the_last_pixels_and_starts_at_the_first():
    np.testing.assert_array_equal(inception.tf1_bilinear(2, 4), [[1, 0], [0.5, 0.5], [0, 1], [0, 1]])
    np.testing.assert_array_equal(inception.tf1_bilinear(4, 2), [[1, 0, 0, 0], [0, 0, 1, 0]])  # aliased: no filter


@pytest.mark.parametrize(
    ("rule", "pillow"),
    [
        (inception.antialiased_bilinear, Image.Resampling.BILINEAR),
        (inception.antialiased_bicubic, Image.Resampling.BICUBIC),
    ],
)
@pytest.mark.parametrize("size", [(28, 32), (75, 299), (512, 300), (299, 1024), (1, 7)])
def test_antialiased_resizing_equals_pillow(rule, pillow, size):
    image = np.random.default_rng(0).uniform(0, 255, size).astype(np.float32)
    expected = np.asarray(Image.fromarray(image).resize((299, 299), pillow))
    resized = inception.resize(jnp.asarray(image)[None, :, :, None], 299, 299, rule)[0, :, :, 0]
    np.testing.assert_allclose(resized, expected, atol=2e-4)  # of 255


@pytest.mark.parametrize("rule", list(weights_of.RULES))
@pytest.mark.parametrize("size", [1, 3, 28, 299, 300, 1000])
def test_every_rule_keeps_a_constant_and_an_image_of_the_right_size(rule, size):
    np.testing.assert_allclose(rule(size, 299).sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(rule(size, size), np.eye(size), atol=1e-12)


def test_white_becomes_127_of_128_and_grey_images_three_equal_channels():
    levels = np.array([[0, 127], [128, 255]], np.float32)
    images = jnp.asarray(levels / 127.5 - 1)[None, :, :, None]
    x = inception.preprocess(images)
    assert x.shape == (1, 299, 299, 3)
    assert (float(x.min()), float(x.max())) == (-1.0, 127 / 128)
    np.testing.assert_array_equal(x[..., 0], x[..., 2])
    assert float(x[0, 0, -1, 1]) == -1 / 128  # 127


def test_images_are_rounded_to_stored_levels_unless_told_otherwise_and_clipped_beyond_them():
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (1, 299, 299, 3))
    near = jnp.asarray(stored / 127.5 - 1 + rng.uniform(-0.003, 0.003, stored.shape), jnp.float32)
    np.testing.assert_array_equal(inception.preprocess(near), (stored - 128.0).astype(np.float32) / 128)
    difference = np.abs(inception.preprocess(near, quantise=False) - (stored - 128.0) / 128)
    assert 1e-3 < difference.max() < 0.003
    loud = inception.preprocess(near * 5, rule=inception.antialiased_bicubic, quantise=False)
    assert (float(loud.min()), float(loud.max())) == (-1.0, 127 / 128)


def test_a_bicubic_overshoot_is_clipped():
    edge = jnp.where(jnp.arange(8) < 4, -1.0, 1.0)[:, None] * jnp.ones((1, 8, 8, 1))
    free = inception.resize((edge + 1) * 127.5, 299, 299, inception.antialiased_bicubic)
    assert float(free.max()) > 260
    assert float(inception.preprocess(edge, rule=inception.antialiased_bicubic).max()) == 127 / 128


def test_images_of_another_type_or_number_of_channels_are_refused():
    with pytest.raises(TypeError, match=r"not uint8; bring stored pixels there by x / 127.5 - 1"):
        inception.preprocess(jnp.zeros((1, 8, 8, 3), jnp.uint8))
    for shape in [(1, 8, 8, 4), (8, 8, 3), (1, 0, 8, 3)]:
        with pytest.raises(ValueError, match=r"1 \(grey\) or 3 \(RGB\) channels, not \["):
            inception.preprocess(jnp.zeros(shape))


# Files of weights -----------------------------------------------------------------------------------------------------
#
# `torch.save` written out by hand, instruction by instruction, so that these tests need no PyTorch. That the real one
# writes such files is shown by the slow test.


def instructions(value, legacy):
    match value:
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"J" + struct.pack("<i", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(instructions(item, legacy) for item in value) + b"t"
        case list():
            return b"](" + b"".join(instructions(item, legacy) for item in value) + b"e"
        case dict():
            items = b"".join(instructions(item, legacy) for pair in value.items() for item in pair)
            return b"ccollections\nOrderedDict\n)R(" + items + b"u"
        case Tensor(key, size, offset, shape, strides, kind):
            storage = b"(" + instructions("storage", legacy) + b"ctorch\n" + kind + b"Storage\n"
            storage += instructions(key, legacy) + instructions("cpu", legacy) + instructions(size, legacy)
            storage += b"N" * legacy + b"tQ"
            place = instructions(offset, legacy) + instructions(shape, legacy) + instructions(strides, legacy)
            call = b"ctorch._utils\n_rebuild_tensor_v2\n("
            return call + storage + place + b"\x89" + instructions({}, legacy) + b"tR"
    raise TypeError(value)


class Tensor:
    __match_args__ = ("key", "size", "offset", "shape", "strides", "kind")

    def __init__(self, key, size, offset, shape, strides, kind=b"Float"):
        self.key, self.size, self.offset, self.shape, self.strides, self.kind = key, size, offset, shape, strides, kind


def pickled(value, legacy=False):
    return b"\x80\x02" + instructions(value, legacy) + b"."


def write_zip(path, table, storages, *, compression=zipfile.ZIP_STORED, extra=()):
    """`table` is a value or a pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", table if isinstance(table, bytes) else pickled(table))
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data.tobytes())
        for name in extra:
            archive.writestr(name, b"x")
    return path


def write_legacy(path, table, storages):
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    parts = [magic, pickled(1001), pickled({"protocol_version": 1001, "little_endian": True})]
    parts += [table if isinstance(table, bytes) else pickled(table, legacy=True), pickled(list(storages))]
    parts += [struct.pack("<q", data.size) + data.tobytes() for data in storages.values()]
    path.write_bytes(b"".join(parts))
    return path


WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])
NUMBERS = np.arange(12, dtype=np.float32)


@WRITERS
def test_tensors_are_read_with_their_offsets_and_strides(tmp_path, write):
    table = {
        "whole": Tensor("7", 12, 0, (3, 4), (4, 1)),
        "transposed": Tensor("7", 12, 0, (4, 3), (1, 4)),
        "part": Tensor("7", 12, 5, (2, 2), (4, 1)),
        "counter": Tensor("8", 1, 0, (), (), b"Long"),
        "empty": Tensor("7", 12, 0, (0, 3), (3, 1)),
    }
    path = write(tmp_path / "table.pth", table, {"7": NUMBERS, "8": np.array([5], np.int64)})
    arrays = weights_of.read_torch(path)
    np.testing.assert_array_equal(arrays["whole"], NUMBERS.reshape(3, 4))
    np.testing.assert_array_equal(arrays["transposed"], NUMBERS.reshape(3, 4).T)
    np.testing.assert_array_equal(arrays["part"], [[5, 6], [9, 10]])
    assert (arrays["counter"].dtype, arrays["counter"].item()) == (np.int64, 5)
    assert arrays["empty"].shape == (0, 3)


class Malice:
    """Runs when it is unpickled: makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@WRITERS
@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, write, protocol):
    attack = pickle.dumps({"weight": Malice(tmp_path / "made")}, protocol)
    path = write(tmp_path / "table.pth", attack, {})
    with pytest.raises(BackboneError, match="refused: it .* Nothing in the file was executed"):
        weights_of.read_torch(path)
    assert not (tmp_path / "made").exists()
    pickle.loads(attack)  # and it would have run
    assert (tmp_path / "made").exists()


@WRITERS
@pytest.mark.parametrize(
    "name", ["os system", "builtins eval", "torch load", "torch._utils _rebuild_tensor", "collections Counter"]
)
def test_a_function_that_no_table_of_tensors_needs_is_refused_by_name(tmp_path, write, name):
    attack = b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n)R."
    with pytest.raises(BackboneError, match=f"refused: it asks for '{name.replace(' ', '.')}'"):
        weights_of.read_torch(write(tmp_path / "table.pth", attack, {}))


@pytest.mark.slow
def test_nesting_without_end_is_refused_and_does_not_exhaust_the_stack(tmp_path):
    deep = b"(" * 100_000 + b"t" * 100_000  # to hash or print this tuple may end the process
    for table in (b"\x80\x02" + deep + b".", b"\x80\x02}" + deep + b"Ns.", b"\x80\x02}X\x01\0\0\0a" + deep + b"s."):
        for write in (write_zip, write_legacy):
            with pytest.raises(BackboneError, match="its table has keys|holds no table|its table holds other things"):
                weights_of.read_torch(write(tmp_path / "table.pth", table, {}))
    path = write_legacy(tmp_path / "table.pth", {}, {})
    path.write_bytes(path.read_bytes().removesuffix(pickled([])) + b"\x80\x02](" + deep + b"e.")
    with pytest.raises(BackboneError, match="storages and their list differ"):
        weights_of.read_torch(path)


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("7", 12, 0, (13,), (1,)),
        Tensor("7", 12, 1, (12,), (1,)),
        Tensor("7", 12, 0, (3, 4), (5, 1)),
        Tensor("7", 12, 0, (1 << 30, 1 << 30), (0, 0)),
        Tensor("7", 12, -1, (2,), (1,)),
        Tensor("7", 12, 11, (2,), (-1,)),
        Tensor("7", 12, 0, (2,), (1, 1)),
        Tensor("7", 24, 0, (2,), (1,)),
        Tensor("7", 12, 0, (2,), (1,), b"Double"),
        Tensor("../data.pkl", 12, 0, (2,), (1,)),
    ],
)
@WRITERS
def test_a_tensor_beyond_its_numbers_is_refused(tmp_path, write, tensor):
    path = write(tmp_path / "table.pth", {"weight": tensor}, {"7": NUMBERS})
    with pytest.raises(BackboneError, match="damaged or incomplete"):
        weights_of.read_torch(path)


def test_compressed_programs_and_unknown_archives_are_refused(tmp_path):
    table = {"weight": Tensor("7", 12, 0, (12,), (1,))}
    path = tmp_path / "table.pth"
    write_zip(path, table, {"7": NUMBERS}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BackboneError, match="compressed"):
        weights_of.read_torch(path)
    write_zip(path, table, {"7": NUMBERS}, extra=["archive/code/__torch__.py"])
    with pytest.raises(BackboneError, match="TorchScript program"):
        weights_of.read_torch(path)
    write_zip(path, table, {"7": NUMBERS}, extra=["other/data.pkl"])
    with pytest.raises(BackboneError, match="not exactly one data.pkl"):
        weights_of.read_torch(path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of pickletools, in strings that are refused behind it
@WRITERS
def test_every_damaged_file_is_an_error_that_says_so_or_is_read(tmp_path, write):
    table = {"weight": Tensor("7", 12, 0, (3, 4), (4, 1)), "bias": Tensor("8", 2, 0, (2,), (1,))}
    path = write(tmp_path / "table.pth", table, {"7": NUMBERS, "8": NUMBERS[:2]})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(BackboneError, match="damaged or incomplete"):
            weights_of.read_torch(path)
    rng = np.random.default_rng(0)
    errors = 0
    for _ in range(1000):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            weights_of.read_torch(path)
        except BackboneError:
            errors += 1
    assert errors > 300


@pytest.fixture(scope="module")
def weights():
    """Random weights that keep activations finite."""
    rng = np.random.default_rng(0)
    result = {}
    for name, shape in weights_of.expected_shapes().items():
        if len(shape) > 1:
            value = rng.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:]), dtype=np.float32)
        elif name.endswith("running_var") or name.endswith("bn.weight"):
            value = rng.uniform(0.7, 1.3, shape).astype(np.float32)
        else:
            value = 0.2 * rng.standard_normal(shape, np.float32)
        result[name] = value
    return result


@pytest.fixture
def few(weights, monkeypatch):
    """A network of a few layers, so that no test writes a hundred megabytes only to look at the reading."""
    names = [name for name in weights if name.startswith(("Conv2d_1a", "Conv2d_2a", "Mixed_6a.branch3x3.bn", "fc."))]
    few = {name: weights[name] for name in names} | {"fc.weight": np.zeros((1008, 2048), np.float32)}
    monkeypatch.setattr(weights_of, "expected_shapes", lambda: {name: value.shape for name, value in few.items()})
    return few


def write_weights(write, path, weights):
    table, storages = {}, {}
    for i, (name, value) in enumerate(weights.items()):
        strides = tuple(step // value.itemsize for step in value.strides)
        kind = {"f": b"Float", "i": b"Long"}[value.dtype.kind]
        table[name], storages[str(i)] = Tensor(str(i), value.size, 0, value.shape, strides, kind), value
    return write(path, table, storages)


@WRITERS
def test_the_digest_is_that_of_the_content_in_either_format_and_in_the_npz(tmp_path, few, write, capsys):
    counters = {"Conv2d_1a_3x3.bn.num_batches_tracked": np.array([0], np.int64)}
    source = write_weights(write, tmp_path / "inception.pth", few | counters)
    assert weights_of.main([str(source), str(tmp_path / "inception.npz")]) == 0
    digest = weights_of.digest(few)
    assert f"{len(few)} arrays, digest {digest}" in capsys.readouterr().out
    found = weights_of.read_weights(tmp_path / "inception.npz")
    assert weights_of.digest(found) == digest
    for name, value in few.items():
        np.testing.assert_array_equal(found[name], value)
    changed = few | {"fc.bias": np.nextafter(few["fc.bias"], np.float32(1))}
    assert weights_of.digest(changed) != digest
    renamed = few | {"Conv2d_1a_3x3.bn.weight": few["Conv2d_1a_3x3.bn.bias"]}
    assert weights_of.digest(renamed) != digest


def test_weights_find_their_places_in_the_network(weights):
    variables = weights_of.to_variables(weights)
    network = inception.InceptionV3(logits_bias=True)
    expected = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, expected)
    kernel = variables["params"]["Mixed_6b"]["branch7x7_2"]["conv"]["kernel"]
    assert kernel[0, 5, 17, 40] == weights["Mixed_6b.branch7x7_2.conv.weight"][40, 17, 0, 5]
    assert variables["params"]["fc"]["kernel"][3, 1000] == weights["fc.weight"][1000, 3]
    statistics = variables["batch_stats"]["Mixed_7a"]["branch3x3_1"]["bn"]
    np.testing.assert_array_equal(statistics["var"], weights["Mixed_7a.branch3x3_1.bn.running_var"])


def test_weights_of_another_network_are_refused_with_the_first_that_does_not_fit(tmp_path, few):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, **few | {"fc.weight": np.zeros((1000, 2048), np.float32)})
    with pytest.raises(BackboneError, match=r"torchvision's classifier.*fc.weight, \[1000, 2048\] in the file and"):
        weights_of.read_weights(path)
    np.savez_compressed(path, **{name: value for name, value in few.items() if name != "Conv2d_2a_3x3.bn.bias"})
    with pytest.raises(
        BackboneError, match=r"of the 16 arrays .*, 1 are absent; 0 others .* Conv2d_2a_3x3.bn.bias, absent in"
    ):
        weights_of.read_weights(path)
    small = write_zip(tmp_path / "small.pth", {"conv1.weight": Tensor("7", 12, 0, (3, 4), (4, 1))}, {"7": NUMBERS})
    with pytest.raises(BackboneError, match=f"of the {len(few)} arrays .*, {len(few)} are absent; 1 others"):
        weights_of.read_weights(small)


def test_damaged_weights_are_refused(tmp_path, few, capsys):
    path = tmp_path / "weights.npz"
    for name, value in (("Mixed_6a.branch3x3.bn.running_var", -1.0), ("fc.weight", np.nan)):
        broken = few[name].copy()
        broken.flat[0] = value
        np.savez_compressed(path, **few | {name: broken})
        with pytest.raises(BackboneError, match=f"{name} holds NaN, infinity or a negative variance"):
            weights_of.read_weights(path)
    np.savez_compressed(path, **few)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackboneError, match="damaged or incomplete"):
        weights_of.read_weights(path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    with pytest.raises(BackboneError, match="it is damaged or holds other things than arrays"):
        weights_of.read_weights(path)
    assert weights_of.main([str(path), str(tmp_path / "other.npz")]) == 1
    assert "damaged" in capsys.readouterr().err
    assert not (tmp_path / "other.npz").exists()


def test_an_npz_with_pickled_objects_is_refused_and_nothing_runs(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, weight=np.array([Malice(tmp_path / "made")], dtype=object))
    with pytest.raises(BackboneError, match="damaged or holds other things than arrays"):
        weights_of.read_weights(path)
    assert not (tmp_path / "made").exists()


def test_an_archive_that_unpacks_to_more_than_the_network_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, bomb=np.zeros(40_000_000, np.uint8))
    assert path.stat().st_size < 100_000
    with pytest.raises(BackboneError, match="bomb.npy is larger than any weights"):
        weights_of.read_weights(path)


def test_a_name_that_promises_a_checksum_must_keep_it(tmp_path):
    path = write_legacy(tmp_path / "pt_inception-2015-12-05-6726825d.pth", {}, {})
    with pytest.raises(BackboneError, match=r"promises content with sha256 6726825d\.\.\., but it has [0-9a-f]{8}"):
        weights_of.read_weights(path)


def test_a_missing_file_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file.* are pt_inception-2015-12-05-6726825d.pth"):
        weights_of.backbone(tmp_path / "absent.pth")


# The backbone ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_backbone_says_what_it_is_and_gives_features_of_each_image_alone(tmp_path, weights):
    path = tmp_path / "inception.npz"
    np.savez(path, **weights)
    backbone = weights_of.backbone(path)
    clean = weights_of.backbone(path, rule=inception.antialiased_bicubic, quantise=False, dtype=jnp.bfloat16)
    path.unlink()  # 96 MB, which pytest would keep
    assert (backbone.name, backbone.digest) == ("inception-v3-fid", weights_of.digest(weights))
    assert backbone.resize == "8 bits, 0..255, TF-1 bilinear without antialiasing to 299x299, (x - 128) / 128"
    assert (clean.name, clean.digest) == ("inception-v3-fid, bfloat16", backbone.digest)
    assert clean.resize == "0..255, antialiased bicubic (Pillow's) to 299x299, (x - 128) / 128"

    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)), jnp.float32)
    features, logits = backbone.apply(images)
    assert (features.shape, logits.shape) == ((2, 2048), (2, 1008))
    assert features.dtype == logits.dtype == jnp.float32
    assert np.std(features) > 0.01
    np.testing.assert_allclose(logits, features @ weights["fc.weight"].T, rtol=1e-3, atol=1e-3)  # no bias
    swapped, _ = backbone.apply(images[::-1])
    np.testing.assert_allclose(swapped[::-1], features, rtol=1e-4, atol=1e-5)
    assert not np.allclose(features[0], features[1], rtol=1e-2)


@pytest.mark.slow
def test_bfloat16_changes_features_by_less_than_one_in_fifty_and_the_bias_is_added_to_logits_alone(weights):
    variables = weights_of.to_variables(weights)
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 75, 75, 3)), jnp.float32)
    exact, plain = jax.jit(inception.InceptionV3().apply)(variables, x)
    rounded, biased = jax.jit(inception.InceptionV3(dtype=jnp.bfloat16, logits_bias=True).apply)(variables, x)
    assert {y.dtype for y in (exact, plain, rounded, biased)} == {np.dtype(np.float32)}
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.02  # it does compute in bfloat16, and rightly
    np.testing.assert_allclose(plain, exact @ weights["fc.weight"].T, atol=1e-3)
    np.testing.assert_allclose(biased, rounded @ weights["fc.weight"].T + weights["fc.bias"], atol=1e-3)
