"""The weights of the FID's Inception v3: read from a local file, checked, converted, and made a backbone.

    python -m jaxgen.metrics.inception pt_inception-2015-12-05-6726825d.pth inception.npz

The file is the PyTorch port of TensorFlow's `inception-2015-12-05`, from the releases of `pytorch-fid`; nothing is
downloaded here. A `.pth` is a pickle, a program for Python's unpickler that may call any function. None is ever run:
`read_torch` interprets the two dozen instructions that a table of tensors needs by itself, calls nothing that the file
names, and refuses the rest. (PyTorch's own `weights_only=True` does as much, but needs PyTorch; `safetensors` reads
another format.) The `.npz` holds the same arrays without any pickle.
"""

import functools
import hashlib
import io
import math
import os
import pickletools
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import compilation, files
from jaxgen.data import npz
from jaxgen.metrics.features import Backbone, BackboneError
from jaxgen.models import inception

NAME = "inception-v3-fid"
FILE = "pt_inception-2015-12-05-6726825d.pth"
RULES: dict[Any, str] = {  # in words, for records; other rules go by the name of their function
    inception.tf1_bilinear: "TF-1 bilinear without antialiasing",
    inception.antialiased_bilinear: "antialiased bilinear (Pillow's)",
    inception.antialiased_bicubic: "antialiased bicubic (Pillow's)",
}


def backbone(
    path: str | os.PathLike,
    *,
    rule: inception.Rule = inception.tf1_bilinear,
    quantise: bool = True,
    logits_bias: bool = False,
    dtype: Any = None,
) -> Backbone:
    """The Inception v3 of the FID, with the weights of a local file.

    Args:
      path: the PyTorch port's `.pth`, or the `.npz` that `convert` makes of it.
      rule: how images become 299 pixels wide and high: `tf1_bilinear`, as the FID was defined, or
        `antialiased_bicubic`, as in "clean" FID. Distances by one and by the other cannot be compared.
      quantise: rounds images to 256 levels first, as PNG files do.
      logits_bias: adds the last layer's bias to the logits. Published Inception Scores are without.
      dtype: jnp.bfloat16 computes the convolutions in it, and says so in the name.

    Returns:
      A backbone for images of any size with 1 or 3 channels: features [B, 2048] (`pool3`) and logits [B, 1008]. An
      image takes 5.7 billion multiplications (a few images a second on two CPU cores), a batch of 32 about 0.3 GB.

    Raises:
      FileNotFoundError: if there is no such file.
      BackboneError: for a damaged file, one that asks for more than tensors, or weights of another network.
    """
    weights = read_weights(path)
    variables = jax.tree.map(jnp.asarray, to_variables(weights))
    network = inception.InceptionV3(logits_bias=logits_bias, dtype=dtype)

    @compilation.jit
    def run(variables, images):
        return network.apply(variables, inception.preprocess(images, rule=rule, quantise=quantise))

    name = NAME
    if logits_bias:
        name += ", logits with bias"
    if dtype is not None and jnp.dtype(dtype) != jnp.float32:
        name += f", {jnp.dtype(dtype).name}"
    resized = RULES.get(rule, getattr(rule, "__name__", repr(rule)))
    return Backbone(
        name=name,
        digest=digest(weights),
        resize=f"{'8 bits, ' * quantise}0..255, {resized} to 299x299, (x - 128) / 128",
        apply=functools.partial(run, variables),
    )


# The table of weights -------------------------------------------------------------------------------------------------


@functools.cache
def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights as the PyTorch port has them: 472 entries."""
    network = inception.InceptionV3(logits_bias=True)
    image = jax.ShapeDtypeStruct((1, inception.SMALLEST_IMAGE, inception.SMALLEST_IMAGE, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {
        _torch_name([key.key for key in path]): tuple(leaf.shape[axis] for axis in _torch_axes(leaf.ndim))
        for path, leaf in leaves
    }


_LEAVES = {"scale": "weight", "kernel": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def _torch_name(path):
    return ".".join([*path[1:-1], _LEAVES[path[-1]]])


def _torch_axes(ndim):
    # Flax's kernels are [height, width, in, out] and [in, out], PyTorch's [out, in, height, width] and [out, in].
    return {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[ndim]


def to_variables(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The weights in the places where `models.inception.InceptionV3` looks for them.

    Args:
      weights: as `read_weights` gives them.

    Returns:
      {"params": ..., "batch_stats": ...}, float32.
    """
    variables: dict[str, Any] = {}
    for name, value in weights.items():
        *path, leaf = name.split(".")
        if leaf.startswith("running_"):
            collection, leaf = "batch_stats", leaf.removeprefix("running_")
        else:
            collection = "params"
            if leaf == "weight":
                leaf = "scale" if path[-1] == "bn" else "kernel"
        place = variables.setdefault(collection, {})
        for key in path:
            place = place.setdefault(key, {})
        place[leaf] = np.ascontiguousarray(np.transpose(value, np.argsort(_torch_axes(value.ndim))))
    return variables


def digest(weights: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, shapes and float32 values in the order of names: the same from a `.pth` and from its `.npz`.

    Args:
      weights: as `read_weights` gives them.

    Returns:
      64 hexadecimal digits.
    """
    state = hashlib.sha256()
    for name in sorted(weights):
        value = np.ascontiguousarray(weights[name], "<f4")
        state.update(f"{name} {list(value.shape)}\n".encode())
        state.update(value.data)
    return state.hexdigest()


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The weights of the FID's Inception v3 from a `.pth` or `.npz`, complete and finite, or an error.

    Args:
      path: the file. Its content decides which of both it is, not its name. If the name ends with a dash and eight or
        more hexadecimal digits, as PyTorch's files do, its sha256 must begin with these.

    Returns:
      float32 arrays by the PyTorch port's names and in its layout; counters of batches are left out.

    Raises:
      FileNotFoundError: if there is no such file.
      BackboneError: for a damaged file, one that asks for more than tensors, or weights of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such file. The weights of the FID's Inception are {FILE} from the releases of "
            "pytorch-fid, or an .npz made from it; they are not downloaded"
        )
    with files.explained(path, "read"), open(path, "rb"):
        pass  # it can be read
    if promised := re.search(r"-([0-9a-f]{8,64})\.pth$", path.name):
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(promised[1]):
            raise BackboneError(
                f"{path}: the name promises content with sha256 {promised[1]}..., but it has "
                f"{found[: len(promised[1])]}...: it is damaged or incomplete; get it anew"
            )
    tensors = _read_npz(path) if _is_npz(path) else read_torch(path)
    weights = {name: value for name, value in tensors.items() if not name.endswith(".num_batches_tracked")}
    _check(path, weights)
    return {name: np.ascontiguousarray(weights[name], np.float32) for name in expected_shapes()}


def _check(path, weights):
    shapes = expected_shapes()
    found = {name: value.shape for name, value in weights.items()}
    if wrong := [name for name in sorted(shapes.keys() | found.keys()) if shapes.get(name) != found.get(name)]:
        torchvision = any(name.startswith("AuxLogits.") for name in found) or found.get("fc.weight") == (1000, 2048)
        raise BackboneError(
            f"{path}: these are the weights of another network"
            + (" (torchvision's classifier of ImageNet, whose pools and logits are not the FID's)" * torchvision)
            + f": of the {len(shapes)} arrays of the FID's Inception v3, {len(shapes.keys() - found.keys())} are "
            f"absent; {len(found.keys() - shapes.keys())} others are there; first {wrong[0]}, "
            f"{_shape(found.get(wrong[0]))} in the file and {_shape(shapes.get(wrong[0]))} in the network"
        )
    for name, value in weights.items():
        if not np.isfinite(value).all() or (name.endswith("running_var") and (value < 0).any()):
            raise BackboneError(f"{path}: {name} holds NaN, infinity or a negative variance: the file is damaged")


def _shape(shape):
    return "absent" if shape is None else str(list(shape))


def convert(source: str | os.PathLike, target: str | os.PathLike) -> str:
    """Writes the weights as an `.npz` of plain arrays.

    Args:
      source: the PyTorch port's `.pth`.
      target: the `.npz`; replaced as a whole if it exists.

    Returns:
      The digest of the weights, which is that of the source.

    Raises:
      FileNotFoundError, BackboneError: as `read_weights`.
    """
    weights = read_weights(source)
    buffer = io.BytesIO()
    np.savez(buffer, **weights)  # type: ignore[arg-type]
    files.write_atomically(target, buffer.getbuffer())
    return digest(weights)


def _is_npz(path):
    """A zip archive of .npy files; PyTorch's newer files are zip archives, too."""
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _read_npz(path):
    largest = 8 * max(map(math.prod, expected_shapes().values())) + 4096
    try:
        with zipfile.ZipFile(path) as archive:
            # The sizes that the archive claims, before anything of that size is made
            if too_large := [entry.filename for entry in archive.infolist() if entry.file_size > largest]:
                raise BackboneError(f"{path}: {too_large[0]} is larger than any weights of the FID's Inception v3")
        arrays = npz.read_arrays(path, list)
    except BackboneError:
        raise
    except Exception as error:  # NumPy and zipfile raise a dozen types for damaged files
        raise BackboneError(
            f"{path}: cannot be read as an .npz of weights, it is damaged or holds other things than arrays "
            f"({type(error).__name__}: {error}); convert the .pth again"
        ) from error
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise BackboneError(f"{path}: {name} is no array of real numbers; convert the .pth again")
    return arrays


# PyTorch's files ------------------------------------------------------------------------------------------------------

_TYPES = {  # of storages, little-endian
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
}
_DICT, _TENSOR, _PARAMETER = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
)
_NAMES = {_DICT, _TENSOR, _PARAMETER, *(f"torch {name}" for name in _TYPES)}
_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of the number that marks such files


class _Name(NamedTuple):
    """A function or class that the file names. Only ever compared, never looked up."""

    name: str


class _Storage(NamedTuple):
    type: str
    key: str
    size: int  # in numbers


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Refused(Exception):
    """The file asks for something that no table of tensors needs."""


def read_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """A table of tensors (a "state dict") from a file that `torch.save` wrote, without running any of it.

    Both formats are read: the zip archive of PyTorch 1.6 and later, and the one before, which the FID's weights have.

    Args:
      path: the file.

    Returns:
      {name: array}, in the types of the file; arrays cannot be written to.

    Raises:
      BackboneError: for a file that is damaged or that names any function, class or instruction which a table of
        tensors does not need. Nothing has been executed then, either.
    """
    path = Path(path)
    with open(path, "rb") as file:
        try:
            is_zip = zipfile.is_zipfile(file)
            file.seek(0)
            return _read_zip(file) if is_zip else _read_legacy(file)
        except _Refused as error:
            raise BackboneError(
                f"{path}: refused: {error}. Nothing in the file was executed. It is not a plain table of tensors: get "
                f"{FILE} from the releases of pytorch-fid"
            ) from error
        except Exception as error:  # the parsers of zip and pickle raise a dozen types for damaged files
            raise BackboneError(
                f"{path}: cannot be read as a file of PyTorch's, it is damaged or incomplete ({type(error).__name__}: "
                f"{error}); get it anew"
            ) from error


def _read_zip(file):
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        tables = [name for name in entries if name.endswith("/data.pkl")]
        if len(tables) != 1 or len(entries) != len(archive.infolist()):
            raise ValueError("not exactly one data.pkl in the archive")
        folder = tables[0].removesuffix("data.pkl")
        if any(name.startswith(f"{folder}code/") for name in entries):
            raise _Refused("it is a TorchScript program")

        def read(name):
            # torch.save never compresses: so no small file becomes a large array
            if name in entries and (entries[name].compress_type != zipfile.ZIP_STORED or entries[name].flag_bits & 1):
                raise _Refused(f"{name} is compressed or encrypted")
            return archive.read(name)

        if f"{folder}byteorder" in entries and read(f"{folder}byteorder") != b"little":
            raise _Refused("its numbers are big-endian")
        table = _interpret(io.BytesIO(read(f"{folder}data.pkl")))
        return _tensors(table, lambda storage: read(f"{folder}data/{storage.key}"))


def _read_legacy(file: BinaryIO):
    """Five pickles (a magic number, a version, facts of the machine, the table, keys of storages), then storages."""
    if file.read(len(_LEGACY_START)) != _LEGACY_START:
        raise ValueError("it does not begin as such a file does")
    if _interpret(file) != 1001:
        raise _Refused("it is of an unknown version")
    machine = _interpret(file)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise _Refused("its numbers are not little-endian")
    storages: dict[str, _Storage] = {}
    table, keys = _interpret(file, storages), _interpret(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise ValueError("storages and their list differ")
    content, end = {}, os.fstat(file.fileno()).st_size
    for key in keys:
        size = int.from_bytes(file.read(8), "little")
        if size != storages[key].size:
            raise ValueError(f"storage {key} has not the size that the table says")
        size *= np.dtype(storages[key].type).itemsize
        if size > end - file.tell():
            raise EOFError(f"storage {key} ends too early")
        content[key] = file.read(size)
    return _tensors(table, lambda storage: content[storage.key])


def _tensors(table: Any, read: Callable[[_Storage], bytes]) -> dict[str, np.ndarray]:
    if not isinstance(table, dict):
        raise _Refused("it holds no table")
    arrays: dict[str, np.ndarray] = {}
    flat: dict[_Storage, np.ndarray] = {}
    for name, tensor in table.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise _Refused("its table holds other things than names and tensors")
        storage, offset, shape, strides = tensor
        if storage not in flat:
            data = read(storage)
            if len(data) != storage.size * np.dtype(storage.type).itemsize:
                raise ValueError(f"the numbers of {name} end too early")
            flat[storage] = np.frombuffer(data, storage.type)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        # The second: no array is larger than its storage, whatever its strides
        if math.prod(shape) and (last >= storage.size or math.prod(shape) > storage.size):
            raise ValueError(f"{name} reaches beyond its storage")
        start = flat[storage][offset:]
        bytes_apart = [step * start.itemsize for step in strides]
        if not math.prod(shape):
            start, bytes_apart = np.zeros(0, storage.type), [0] * len(shape)
        # Not copied: however many tensors share a storage, they take its memory once
        arrays[name] = np.lib.stride_tricks.as_strided(start, shape, bytes_apart, writeable=False)
    return arrays


def _interpret(file: BinaryIO, storages: dict[str, _Storage] | None = None) -> Any:
    """What the pickle at the file's position describes, made of dicts, lists, tuples, numbers, strings and tensors.

    `pickletools.genops` divides the bytes into instructions and executes none.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark():
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def last(kind):
        if not isinstance(stack[-1], kind):
            raise ValueError(f"an instruction finds no {kind.__name__}")
        return stack[-1]

    def pop(count):
        if len(stack) < count:
            raise ValueError("an instruction finds nothing to take")
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    def fill(items):
        table = last(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):  # of other keys, tuples of tuples, hashing alone may exhaust the stack
                raise _Refused("its table has keys that are not names")
            table[key] = value

    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "PROTO":
                if argument > 2:
                    raise _Refused(f"it is pickled by protocol {argument}, where PyTorch uses 2")
            case "STOP":
                (result,) = stack
                return result
            case "GLOBAL":
                if argument not in _NAMES:
                    raise _Refused(f"it asks for {argument.replace(' ', '.')!r}")
                stack.append(_Name(argument))
            case "REDUCE":
                function, arguments = pop(2)
                stack.append(_result_of(function, arguments))
            case "BUILD":  # attributes of the table: the versions of its modules. Not needed
                pop(1)
                last(dict)
            case "BINPERSID":
                storage = _storage(*pop(1))
                if storages is not None and storages.setdefault(storage.key, storage) != storage:
                    raise ValueError("one storage is described twice, and differently")
                stack.append(storage)
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop(int(opcode.name[-1]))))
            case "APPEND":
                (item,) = pop(1)
                last(list).append(item)
            case "APPENDS":
                items = since_mark()
                last(list).extend(items)
            case "SETITEM":
                fill(pop(2))
            case "SETITEMS":
                fill(since_mark())
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case other:
                raise _Refused(f"it uses the pickle instruction {other}")
    raise ValueError("it ends within a pickle")


def _result_of(function, arguments):
    """What the three functions of a table of tensors would return, in this file's own terms."""
    match function, arguments:
        case _Name(name=name), () if name == _DICT:
            return {}
        case _Name(name=name), (_Storage() as storage, offset, shape, strides, *_) if name == _TENSOR:
            for numbers in ((offset,), shape, strides):
                if not isinstance(numbers, tuple) or not all(type(n) is int and n >= 0 for n in numbers):
                    raise ValueError("a tensor's place is not given by whole numbers")
            if len(shape) != len(strides) or len(shape) > 8:
                raise ValueError("a tensor has not as many strides as axes, or too many")
            return _Tensor(storage, offset, shape, strides)
        case _Name(name=name), (_Tensor() as tensor, *_) if name == _PARAMETER:
            return tensor
    raise _Refused("it calls a function in a way that no table of tensors needs")


def _storage(identity):
    match identity:
        case ("storage", _Name(name=name), str(key), str(), int(size), *rest) if rest in ([], [None]) and size >= 0:
            if name.removeprefix("torch ") in _TYPES:
                return _Storage(_TYPES[name.removeprefix("torch ")], key, size)
    raise _Refused("it describes numbers in a way that is not PyTorch's")


def main(arguments: list[str] | None = None) -> int:
    """`python -m jaxgen.metrics.inception SOURCE.pth TARGET.npz`; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 2 or {"-h", "--help"} & set(arguments):
        print(__doc__.split("\n\n")[0], "\n\nusage: python -m jaxgen.metrics.inception SOURCE.pth TARGET.npz")
        return 0 if {"-h", "--help"} & set(arguments) else 2
    try:
        print(f"{arguments[1]}: {len(expected_shapes())} arrays, digest {convert(*arguments)}")
    except (OSError, BackboneError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
