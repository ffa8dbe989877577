"""Tables of tensors in PyTorch's files, read without PyTorch and without running anything that a file names.

A `.pth` is a pickle, a program for Python's unpickler that may call any function. None is ever run: `read_torch`
interprets the two dozen instructions that a table of tensors needs by itself, calls nothing that the file names, and
refuses the rest. (PyTorch's own `weights_only=True` does as much, but needs PyTorch; `safetensors` reads another
format.)
"""

import io
import math
import os
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxgen.metrics.features import BackboneError

FILE = "pt_inception-2015-12-05-6726825d.pth"
"""The one such file that this package asks for: the weights of the FID's Inception v3."""
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
