"""What a data set is: a frozen record of arrays and pure functions.

A batch is made in two halves. The first brings *raw* rows together, still uint8: `gather` inside `jit` when the whole
set lives on the device, `fetch` on the host otherwise. The second, `prepare`, always runs inside `jit` and turns the
raw rows into what a train step takes: floats in [-1, 1] and int32 labels.
"""

import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data import check, labels

Raw = dict[str, np.ndarray]
Batch = dict[str, jax.Array]


class Factor(NamedTuple):
    """One thing that varies between images, and that the set knows.

    Attributes:
        name: such as "orientation".
        values: what the numbers from 0 in its column of `factor` stand for.
        categorical: whether these have no order, as shapes.
    """

    name: str
    values: tuple
    categorical: bool = False


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set: what it holds and the functions that read it.

    Attributes:
        name: e.g. "mnist/train".
        num_examples: N.
        image_shape: (H, W, C) of `batch["image"]`.
        class_names: the name of each label, () when there are no labels.
        fingerprint: 16 hexadecimal digits that change when the content does; a resumed run compares it.
        arrays: everything, as uint8 images and int32 labels, for a set small enough to live on the device. None for a
            larger one, whose rows `fetch` reads.
        gather: `(arrays, indices [B]) -> raw`, jittable.
        fetch: `(indices [B]) -> raw`, on the host, safe to call from several threads.
        prepare: `(raw, key) -> batch`, jittable; `key` feeds what is random in the data, such as dynamic binarisation.
        num_sources: of a set whose sources are read in an order of their own (`data.unpaired`), how many there are:
            `gather` and `fetch` then also take indices [B, 2], of images and of sources. 0 for all others.
        factors: what the columns of `batch["factor"]` are, () where there are none, or nobody said.
        workers: how many processes `fetch` for training, of a set without `arrays`; 0: threads of this one do.
    """

    name: str
    num_examples: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    fingerprint: str
    arrays: Raw | None
    gather: Callable[[Mapping, jax.Array], Mapping]
    fetch: Callable[[np.ndarray], Raw]
    prepare: Callable[[Mapping, jax.Array], Batch]
    num_sources: int = 0
    factors: tuple[Factor, ...] = ()
    workers: int = 0


def to_unit_range(image: jax.Array) -> jax.Array:
    """Map uint8 pixels to [-1, 1]: `x / 127.5 - 1`, so that 0 becomes exactly -1 and 255 exactly 1.

    Args:
        image: any shape, uint8, or floating point and then taken to be in [-1, 1] already.

    Returns:
        The same shape, float32.

    Raises:
        TypeError: for any other dtype, whose range nobody can know.
    """
    if jnp.issubdtype(image.dtype, jnp.floating):
        return jnp.asarray(image, jnp.float32)
    if image.dtype != jnp.uint8:
        raise TypeError(f"images are uint8 or floating point, got {image.dtype}: scale them to [-1, 1] first")
    # 2x - 255 is exact, so only the product rounds. Inside jit, XLA turns x / 127.5 - 1 into a product with a rounded
    # reciprocal: 255 would become 1.0000001, another number than outside of jit and outside of the range.
    return (2.0 * jnp.asarray(image, jnp.float32) - 255.0) * np.float32(1 / 255)


def prepare_default(raw: Mapping, key: jax.Array | None = None) -> Batch:
    """Turn raw rows into a batch: arrays of rank 4 are images and go to [-1, 1], all others become int32.

    Args:
        raw: `image` [B, H, W, C] uint8 or float, `label` [B] integer, others by name.
        key: unused; part of the signature because other `prepare` functions draw.

    Returns:
        The same names: images float32 in [-1, 1], the rest int32.
    """
    del key
    return {
        name: to_unit_range(value) if value.ndim == 4 else jnp.asarray(value, jnp.int32) for name, value in raw.items()
    }


def gather_rows(arrays: Mapping, indices: jax.Array) -> Mapping:
    """Take the rows `indices` [B] of every array: the default `gather` of a `Dataset`."""
    # asarray: NumPy arrays cannot be indexed by a traced index.
    return {name: jnp.asarray(value)[indices] for name, value in arrays.items()}


def fingerprint_of(*parts: Any) -> str:
    """Hash strings, numbers and arrays to 16 hexadecimal digits, in order and with their shapes and dtypes.

    >>> fingerprint_of("mnist", 28) == fingerprint_of("mnist", 28)
    True
    >>> fingerprint_of("ab", "c") == fingerprint_of("a", "bc")
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"array {part.dtype.str} {part.shape}\n".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            text = repr(part).encode(errors="surrogateescape")
            digest.update(f"{len(text)}\n".encode())
            digest.update(text)
    return digest.hexdigest()[:16]


def function_name(function: Callable) -> str:
    """Return a name for the fingerprint: qualified, with the arguments of a partial, without addresses in memory."""
    if isinstance(function, functools.partial):
        arguments = tuple(map(_shown, function.args))
        return f"{function_name(function.func)}{arguments}{sorted(_shown(item) for item in function.keywords.items())}"
    return getattr(function, "__qualname__", type(function).__qualname__)


def call_in_words(function: Callable) -> str:
    """A function as people read it: with the arguments of a partial, as they would be given.

    >>> call_in_words(functools.partial(sorted, reverse=True))
    'sorted(reverse=True)'
    """
    if not isinstance(function, functools.partial):
        return function_name(function)
    named = [f"{name}={_shown(value)!r}" for name, value in sorted(function.keywords.items())]
    return f"{call_in_words(function.func)}({', '.join([*(repr(_shown(value)) for value in function.args), *named])})"


class _Name(str):
    """Text that is shown without quotes: a function's name among arguments."""

    __repr__ = str.__str__


def _shown(value: Any) -> Any:
    """A value whose `repr` holds no address: functions by their names, also inside of tuples and lists."""
    if isinstance(value, (tuple, list)):
        return type(value)(map(_shown, value)) if type(value) in (tuple, list) else value
    return _Name(function_name(value)) if callable(value) else value


def from_arrays(
    name: str,
    image: np.ndarray,
    label: np.ndarray | None = None,
    class_names: tuple[str, ...] = (),
    prepare: Callable[[Mapping, jax.Array], Batch] = prepare_default,
    *,
    fingerprint: str | None = None,
    **others: np.ndarray,
) -> Dataset:
    """Make an in-memory data set of arrays.

    Args:
        name: shown in errors and reports.
        image: [N, H, W, C], uint8, or float32 in [-1, 1].
        label: [N] integers from 0, or names of classes as strings; None for an unlabelled set.
        class_names: one per label; "0", "1", ... if not given, or the names that there are, sorted.
        prepare: raw rows to batch, see `Dataset`.
        fingerprint: computed from all arrays unless given.
        **others: more arrays of N rows, passed on by name.

    Returns:
        The `Dataset`. Its arrays are views of the given ones, closed for writing.

    Raises:
        ValueError: if shapes, dtypes, row counts or labels do not fit together, and for channels that come first.
            For floats that are not finite or not in [-1, 1], where no `prepare` is given that brings them there.
            Images in [0, 1] and classes without images are warned of.
    """
    image = np.asarray(image)
    check.check_layout(image.shape, f"{name} has images of the shape {image.shape}")
    if image.dtype in (np.uint8, np.float32) and (doubt := check.doubt_of_range(image)):
        warnings.warn(f"{name}: {doubt}", stacklevel=2)
    if image.dtype == np.float32 and image.ndim == 4 and prepare is prepare_default and not check.is_in_range(image):
        check.check_images(image, name=f"{name}: image")
    if label is not None:
        label = np.asarray(label)
        if label.dtype.kind in "US":
            label, class_names = labels.numbered(label, len(image), tuple(class_names), name)
        elif not class_names:
            labels.check_label(label, len(image), (), name)
            counted = tuple(str(i) for i in range(int(label.max()) + 1))
            labels.tell_empty(label, counted, name, lambda text: warnings.warn(text, stacklevel=4))
    return in_memory(name, image, label, class_names, prepare, fingerprint=fingerprint, **others)


def in_memory(
    name: str,
    image: np.ndarray,
    label: np.ndarray | None = None,
    class_names: tuple[str, ...] = (),
    prepare: Callable[[Mapping, jax.Array], Batch] = prepare_default,
    *,
    fingerprint: str | None = None,
    **others: np.ndarray,
) -> Dataset:
    """As `from_arrays`, for images of a range and labels of a numbering that are known."""
    image = np.asarray(image)
    if image.ndim != 4:
        advice = "; add a channel axis with image[..., None]" if image.ndim == 3 else ""
        raise ValueError(f"{name}: images have the shape {image.shape}, expected [N, H, W, C]{advice}")
    if 0 in image.shape:
        raise ValueError(f"{name}: the images are empty, their shape is {image.shape}")
    if image.dtype not in (np.uint8, np.float32):
        raise ValueError(
            f"{name}: images are {image.dtype}, expected uint8 in 0..255 or float32 in [-1, 1]: convert them first"
        )
    num_examples = len(image)
    arrays = {"image": image}
    if label is not None:
        label = np.asarray(label)
        labels.check_label(label, num_examples, class_names, name)
        class_names = tuple(class_names) or tuple(str(i) for i in range(int(label.max()) + 1))
        arrays["label"] = label.astype(np.int32)
    elif class_names:
        raise ValueError(f"{name}: {len(class_names)} class names but no labels")
    for other, value in others.items():
        value = np.asarray(value)
        if len(value) != num_examples:
            raise ValueError(f"{name}: {other!r} has {len(value)} rows for {num_examples} images")
        arrays[other] = value
    arrays = {key: read_only(value) for key, value in arrays.items()}
    return Dataset(
        name=name,
        num_examples=num_examples,
        image_shape=tuple(image.shape[1:]),
        class_names=class_names,
        fingerprint=fingerprint or fingerprint_of(*(part for item in arrays.items() for part in item)),
        arrays=arrays,
        gather=gather_rows,
        fetch=lambda indices: {key: value[np.asarray(indices)] for key, value in arrays.items()},
        prepare=prepare,
    )


def read_only(value: np.ndarray) -> np.ndarray:
    """Return a view that cannot be written: data sets share their arrays, also through caches."""
    view = value.view()
    view.flags.writeable = False
    return view


def subset(dataset: Dataset, num_examples: int) -> Dataset:
    """So many examples of a data set, evenly spaced in its order, which often is that of classes: row i N // n.

    Args:
        dataset: of N examples.
        num_examples: n, from 1 to N.

    Returns:
        The `Dataset`; of n = N the same one. Classes keep their numbers, also one that has no example left. Of sources
        in an order of their own there are at most as many, likewise.

    Raises:
        ValueError: for fewer than one or more than N.
    """
    total = dataset.num_examples
    if not 1 <= num_examples <= total:
        raise ValueError(f"{dataset.name} has {total} examples: 1 to {total} of them can be taken, not {num_examples}")
    if num_examples == total:
        return dataset
    rows, others = _evenly(num_examples, total), _evenly(min(num_examples, dataset.num_sources), dataset.num_sources)
    arrays, gather = dataset.arrays, dataset.gather

    def old(indices, xp):
        if not dataset.num_sources:
            return xp.asarray(rows)[indices]
        images, sources = indices.T if indices.ndim == 2 else (indices, indices % len(others))
        return xp.stack([xp.asarray(rows)[images], xp.asarray(others)[sources]], axis=1)

    if arrays is not None and all(len(value) == total for value in arrays.values()) and not dataset.num_sources:
        arrays = {name: read_only(np.asarray(value)[rows]) for name, value in arrays.items()}
    elif arrays is not None:  # of which an example is put together

        def gather(arrays, indices):
            return dataset.gather(arrays, old(jnp.asarray(indices), jnp))

    return dataclasses.replace(
        dataset,
        num_examples=num_examples,
        fingerprint=fingerprint_of(dataset.fingerprint, rows),
        arrays=arrays,
        gather=gather,
        fetch=lambda indices: dataset.fetch(old(np.asarray(indices), np)),
        num_sources=len(others),
    )


def _evenly(num: int, total: int) -> np.ndarray:
    return np.arange(num) * total // max(num, 1)
