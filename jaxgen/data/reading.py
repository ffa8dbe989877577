"""Data sets whose images are decoded one by one, and of which a few may be broken.

A small set is decoded once, and its broken images are left out. A large set is decoded while training; an image that
turns out to be broken is then replaced by the next one that is not. Which one that is depends on the files alone, not
on what was read before, so a resumed run sees the same examples.
"""

import logging
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxgen.data.dataset import Dataset, Raw, fingerprint_of, from_arrays, gather_rows, prepare_default
from jaxgen.data.decode import quiet_bombs
from jaxgen.names import show

MAX_BYTES_IN_MEMORY = 512 * 2**20

logger = logging.getLogger("jaxgen.data")


def as_warning(text: str) -> None:
    """Tells a line as a warning, which commands show and records keep, instead of in the log."""
    warnings.warn(text, stacklevel=2)


Bring = Callable[[Sequence[int]], Sequence[Any]]
"""Rows to what `read` takes in their place, such as encoded images; an exception for each row that cannot be had."""


def _image_alone(packed: np.ndarray) -> Raw:
    return {"image": packed}


def from_reader(
    name: str,
    read: Callable[[Any], np.ndarray],
    describe: Callable[[int], str],
    *,
    num_examples: int,
    image_shape: tuple[int, int, int],
    label: np.ndarray | None,
    class_names: tuple[str, ...],
    fingerprint: str,
    max_bytes_in_memory: int,
    max_broken_share: float,
    num_threads: int | None,
    tell: Callable[[str], None] = logger.warning,
    packed_shape: tuple[int, ...] | None = None,
    unpack: Callable[[np.ndarray], Raw] = _image_alone,
    bring: Bring | None = None,
) -> Dataset:
    """Make a data set of a function that decodes one image, or several that belong together.

    Args:
        name: of the data set.
        read: row to uint8 [H, W, C]; raises for a broken image; called from several threads.
        describe: row to the name of the image in messages.
        num_examples: N.
        image_shape: (H, W, C).
        label: [N] or None.
        class_names: one per label.
        fingerprint: of all that defines the content; rows left out are added to it.
        max_bytes_in_memory: a set whose decoded images are not larger is decoded here and now.
        max_broken_share: the share of N up to which broken images are reported and tolerated, see `num_tolerated`.
        num_threads: how many images to decode at once; None: one per core.
        tell: is called with a line on what was left out of a set that is decoded here and now.
        packed_shape: of what `read` returns, uint8, where that is not one image.
        unpack: a batch of that -> `image` [B, H, W, C] and what is beside it, by name.
        bring: for what is faster asked for many rows at once than for each: `read` then takes what it gives.

    Returns:
        The `Dataset`; `arrays` is None for a large set.

    Raises:
        ValueError: if too many images are broken; names some. A large set raises it while it is read.
    """
    num_threads = num_threads or os.cpu_count() or 1
    shape = image_shape if packed_shape is None else packed_shape
    if num_examples * int(np.prod(shape)) <= max_bytes_in_memory:
        image, broken = decode_all(read, num_examples, shape, num_threads, bring)
        reasons = [f"{describe(row)} ({reason})" for row, reason in sorted(broken.items())]
        report_broken(name, reasons, num_examples, max_broken_share, "left out", tell)
        if len(broken) == num_examples:
            raise ValueError(f"{name}: none of the {num_examples} images can be decoded: {'; '.join(reasons[:5])}")
        if broken:
            keep = np.setdiff1d(np.arange(num_examples), list(broken))
            image = image[keep]
            label = None if label is None else label[keep]
            fingerprint = fingerprint_of(fingerprint, keep)
        images = unpack(image)
        image = images.pop("image")
        return from_arrays(name, image, label, class_names, prepare_default, fingerprint=fingerprint, **images)
    read_batch = ReplacingReader(name, read, describe, num_examples, max_broken_share, num_threads, bring)

    def fetch(indices):
        packed, rows = read_batch(indices)
        return unpack(packed) | ({} if label is None else {"label": label[rows]})

    return Dataset(
        name=name,
        num_examples=num_examples,
        image_shape=image_shape,
        class_names=class_names,
        fingerprint=fingerprint,
        arrays=None,
        gather=gather_rows,
        fetch=fetch,
        prepare=prepare_default,
    )


def decode_all(
    read: Callable[[Any], np.ndarray],
    num_examples: int,
    image_shape: tuple[int, ...],
    num_threads: int,
    bring: Bring | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode every image; return them, uint8 [N, H, W, C], and why the broken ones (left black) are broken."""
    image = np.zeros((num_examples, *image_shape), np.uint8)
    broken = {}

    def decode(row, source):
        try:
            image[row] = read(given(source))
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds.
            broken[row] = describe_error(error)

    with quiet_bombs(), ThreadPoolExecutor(num_threads, thread_name_prefix="jaxgen-decode") as pool:
        for begin in range(0, num_examples, _TOGETHER):
            rows = range(begin, min(begin + _TOGETHER, num_examples))
            for _ in pool.map(decode, rows, rows if bring is None else bring(rows)):
                pass
    return image, broken


_TOGETHER = 1024  # rows that are brought at once where all are read


def given(source: Any) -> Any:
    """What `Bring` gave for a row, or raise why it could not."""
    if isinstance(source, Exception):
        raise source
    return source


class ReplacingReader:
    """`read_batch(indices [B]) -> (images [B, H, W, C], rows [B])`, where `rows` are those really read.

    A broken image is replaced by the next readable row (cyclically). What is known to be broken is remembered only to
    save time and to count it; of several processes each counts what it has met.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[Any], np.ndarray],
        describe: Callable[[int], str],
        num_examples: int,
        max_broken_share: float,
        num_threads: int,
        bring: Bring | None = None,
    ) -> None:
        self._name, self._read, self._describe, self._bring = name, read, describe, bring
        self._num_examples, self._max_broken_share, self._num_threads = num_examples, max_broken_share, num_threads
        self._broken: dict[int, str] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # A process that reads for another is one of several: each decodes one image at a time.
        return self.__dict__ | {"_lock": None, "_num_threads": 1}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __call__(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = [int(row) for row in indices]
        sources = rows if self._bring is None else self._bring(rows)
        # A few tasks for each thread and not one for each image: small ones are decoded faster than handed over.
        size = max(1, -(-len(rows) // (2 * self._num_threads)))
        parts = [(rows[i : i + size], sources[i : i + size]) for i in range(0, len(rows), size)]
        if self._num_threads == 1:
            read = [self._read_rows(*part) for part in parts]
        else:
            with ThreadPoolExecutor(self._num_threads, thread_name_prefix="jaxgen-decode") as pool:
                read = list(pool.map(self._read_rows, *zip(*parts, strict=True)))
        images, used = zip(*(pair for part in read for pair in part), strict=True)
        return np.stack(images), np.array(used)

    def _read_rows(self, rows: Sequence[int], sources: Sequence[Any]) -> list[tuple[np.ndarray, int]]:
        return list(map(self._read_row, rows, sources))

    def _read_row(self, row: int, source: Any) -> tuple[np.ndarray, int]:
        for candidate in range(row, row + self._num_examples):
            candidate %= self._num_examples
            if candidate in self._broken:
                continue
            try:
                if candidate != row:
                    source = candidate if self._bring is None else self._bring([candidate])[0]
                return self._read(given(source)), candidate
            except MemoryError:
                raise
            except Exception as error:
                self._note(candidate, error)
        raise ValueError(f"{self._name}: none of the {self._num_examples} images can be decoded")

    def _note(self, row: int, error: Exception) -> None:
        with self._lock:
            if row in self._broken:
                return
            self._broken[row] = f"{self._describe(row)} ({describe_error(error)})"
            count = len(self._broken)
            reasons = list(self._broken.values())
        if count > num_tolerated(self._num_examples, self._max_broken_share):
            report_broken(self._name, reasons, self._num_examples, self._max_broken_share, "replaced")
        if count & (count - 1) == 0:  # at 1, 2, 4, 8, ...: a log that stays readable
            logger.warning(
                "%s: %d images broken so far, replaced by their next; latest: %s", self._name, count, reasons[-1]
            )


def num_tolerated(total: int, max_broken_share: float) -> int:
    """How many of `total` images may be broken: the share of them, but one in any case unless the share is 0."""
    return max(1, int(max_broken_share * total)) if max_broken_share > 0 else 0


def report_broken(
    name: str,
    broken: Sequence[str],
    total: int,
    max_broken_share: float,
    treatment: str,
    tell: Callable[[str], None] = logger.warning,
) -> None:
    """Tell how many of `total` images are broken, or raise a ValueError that names some if they are too many."""
    if not broken:
        return
    some = "; ".join(broken[:5]) + (f"; and {len(broken) - 5} more" if len(broken) > 5 else "")
    allowed = num_tolerated(total, max_broken_share)
    if len(broken) > allowed:
        raise ValueError(
            f"{name}: {len(broken)} of {total} images are broken, more than the {allowed} that max_broken_share="
            f"{max_broken_share:g} allows: {some}. Mend or remove them, or raise max_broken_share"
        )
    tell(f"{name}: {len(broken)} of {total} images are broken and were {treatment}: {some}")


def describe_error(error: Exception) -> str:
    """Return one line that says what happened."""
    text = " ".join(str(error).split())
    return show(text[:200]) or type(error).__name__
