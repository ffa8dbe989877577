"""From labels as people store them, numbers from 0 or 1 or names, to class numbers from 0 with their names."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxgen.arguments import check_key
from jaxgen.names import show

MAX_CLASSES = 1_000_000
ROWS_AT_ONCE = 500
_OWN = 2**30  # latents of batch i fold i into the same key


class Unfit(ValueError):
    """An array that cannot be labels; the message says why."""


def check_label(label: np.ndarray, num_examples: int, class_names: tuple[str, ...], name: str) -> None:
    """Raise a ValueError unless `label` is [N], integer, and inside `class_names`."""
    if label.ndim != 1:
        advice = "take labels.argmax(axis=1) of one-hot labels" if label.ndim == 2 else "flatten them"
        raise ValueError(f"{name}: labels have the shape {label.shape}, expected [{num_examples}]: {advice}")
    if len(label) != num_examples:
        raise ValueError(f"{name}: {len(label)} labels for {num_examples} images: there must be one label per image")
    if label.dtype.kind not in "iu":
        raise ValueError(f"{name}: labels are {label.dtype}, expected integers from 0 or names of classes")
    if label.size and label.min() < 0:
        raise ValueError(
            f"{name}: {int((label < 0).sum())} negative labels, the first at row {int((label < 0).argmax())}: labels "
            "count from 0; drop the label array if -1 means unlabelled"
        )
    if class_names and label.size and label.max() >= len(class_names):
        raise ValueError(
            f"{name}: label {int(label.max())} at row {int(label.argmax())}, but only {len(class_names)} class names "
            f"were given, which allow labels 0 to {len(class_names) - 1}"
        )


def numbered(
    label: np.ndarray, num_examples: int, class_names: tuple[str, ...], name: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return class numbers int32 [N] from 0, and their names.

    Strings are names of classes, which are sorted. Numbers that begin with 1 count from 1: the names are then "1",
    "2", ... Other numbers are class numbers as they are, with the names "0", "1", ...

    Args:
        label: [N] or [N, 1] integers or strings.
        num_examples: N.
        class_names: in the order of their numbers; () for those that are found. With them strings are looked up, and
            numbers from 1 are taken as such only if there are as many names or the names are "1", "2", ...
        name: of the data, for errors.

    Raises:
        Unfit: for other shapes, dtypes, numbers of rows, negative or huge numbers, names that are not among those.
    """
    label = np.asarray(label)
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    try:
        if label.dtype.kind in "US":
            return _named(label, num_examples, class_names, name)
        first, largest = (int(label.min()), int(label.max())) if label.size and label.dtype.kind in "iu" else (0, 0)
        if largest >= MAX_CLASSES:
            raise ValueError(f"{name}: label {largest} is too large for a class number: number the classes from 0")
        from_one = tuple(map(str, range(1, max(largest, len(class_names)) + 1)))
        if first >= 1 and (class_names == from_one or first == 1 and len(class_names) in (0, largest)):
            class_names = class_names or from_one
            label = label - 1
        check_label(label, num_examples, class_names, name)
        return label.astype(np.int32), class_names or tuple(map(str, range(int(label.max()) + 1)))
    except ValueError as error:
        raise Unfit(str(error)) from error


def _named(label, num_examples, class_names, name):
    if label.ndim != 1 or len(label) != num_examples:
        check_label(np.zeros(label.shape, np.int32), num_examples, (), name)
    try:
        values = label.astype(str) if label.dtype.kind == "U" else np.char.decode(label, "utf-8")
    except UnicodeDecodeError:
        raise ValueError(
            f"{name}: labels are {label.dtype}, bytes that are no text; expected integers or names"
        ) from None
    found, number = np.unique(values, return_inverse=True)
    names = tuple(map(str, found))
    if not class_names:
        return number.reshape(-1).astype(np.int32), names
    place = {known: i for i, known in enumerate(class_names)}
    if unknown := [known for known in names if known not in place]:
        raise ValueError(
            f"{name}: {len(unknown)} of the labels' names are no classes, e.g. {show(unknown[0])!r}: there are "
            f"{', '.join(map(show, class_names[:5]))}{', ...' if len(class_names) > 5 else ''}"
        )
    return np.array([place[known] for known in names], np.int32)[number.reshape(-1)], tuple(class_names)


def tell_empty(label: np.ndarray, class_names: tuple[str, ...], name: str, tell: Callable[[str], None]) -> None:
    """Tell which classes no image is of: what is asked for them has never been seen."""
    counts = np.bincount(label, minlength=len(class_names))
    if not (empty := np.flatnonzero(counts == 0)).size:
        return
    shown = ", ".join(show(class_names[i]) for i in empty[:5]) + (", ..." if len(empty) > 5 else "")
    tell(f"{name}: {len(empty)} of {len(class_names)} classes hold no images: {shown}")


def of_rows(dataset: Any, rows: np.ndarray) -> np.ndarray:
    """The labels [N] of rows of a labelled `Dataset`; where it is not in memory, their images are read, too."""
    if dataset.arrays is not None:
        return np.asarray(dataset.arrays["label"])[rows]
    parts = np.array_split(rows, -(-len(rows) // ROWS_AT_ONCE))
    return np.concatenate([np.asarray(dataset.fetch(part)["label"]) for part in parts])


def of_some(dataset: Any, num: int, num_labels: int, key: jax.Array) -> np.ndarray | None:
    """Labels of images drawn at random from a `Dataset`, none twice: what a class-conditional system is asked for.

    Args:
      dataset: what the system learns from.
      num: how many images are drawn; all where there are fewer.
      num_labels: that the system knows; 0 for one that is told none.
      key: also of the latents: the images are drawn by a part of it that latents do not take.

    Returns:
      [N] int32 in [0, num_labels), N up to num: images whose label is not known have none. None for a data set with
      another number of classes, or without any label.
    """
    check_key(key)
    if not num_labels or len(dataset.class_names) != num_labels:
        return None
    rows = np.asarray(jax.random.permutation(jax.random.fold_in(key, _OWN), dataset.num_examples))[:num]
    label = of_rows(dataset, rows)
    known = label[(label >= 0) & (label < num_labels)]
    return known.astype(np.int32) if known.size else None
