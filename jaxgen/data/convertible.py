"""What can be converted to records: the images of a folder, as files or as pixels, and those of any other data set."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np

from jaxgen.data import decode, folder, reading, records
from jaxgen.data.dataset import Dataset, fingerprint_of
from jaxgen.names import show

Encoding = Literal["original", "png", "raw"]


class Source(NamedTuple):
    """A split that is to be converted.

    name: as messages call it.
    num_examples: N.
    read: rows to records, an exception in the place of a broken one.
    describe: a row to the name of its image.
    class_names: () without labels.
    image_shape: (H, W, C) of all images; None of files that are kept as they are.
    fingerprint: of what is read and how.
    """

    name: str
    num_examples: int
    read: Callable[[Sequence[int]], Sequence[records.Record | Exception]]
    describe: Callable[[int], str]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int] | None
    fingerprint: str


def of_folder(
    found: folder.Found,
    *,
    encoding: Encoding = "original",
    image_size: int | tuple[int, int] | None = None,
    channels: int = 3,
    background: str = "white",
    num_threads: int | None = None,
) -> Source:
    """The images of a folder, as the files that they are, or brought to a size as `data.image_folder` does.

    Args:
        found: of `folder.find_images`.
        encoding: "original" keeps each file to the byte, "png" and "raw" hold pixels.
        image_size, channels, background: of pixels, as for `data.image_folder`.
        num_threads: how many images to read at once; None: one per core.

    Raises:
        ValueError: for pixels without a size, or files with one.
    """
    if (encoding == "original") != (image_size is None):
        raise ValueError(
            "files that are kept as they are have no image_size, and png and raw need one: give image_size=64, or "
            "encoding='original'"
        )
    size = (1, 1) if image_size is None else decode.image_size_pair(image_size)
    threads = num_threads or os.cpu_count() or 1

    def one(row):
        label = None if found.label is None else int(found.label[row])
        try:
            content = Path(found.root, found.files[row]).read_bytes()
            pixels = decode.decode_image(content, image_size=size, channels=channels, background=background)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds
            return error
        return records.Record(content if encoding == "original" else _encoded(pixels, encoding), label)

    def read(rows):
        with decode.quiet_bombs(), ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, rows))

    shape = None if image_size is None else (*size, channels)
    return Source(
        found.name,
        len(found.files),
        read,
        lambda row: show(found.files[row]),
        found.class_names,
        shape,
        fingerprint_of(encoding, shape, background, found.class_names, "\n".join(found.files), found.sizes),
    )


def of_dataset(dataset: Dataset, *, encoding: Encoding = "png", num_threads: int | None = None) -> Source:
    """The images and labels of any data set, of 8 bits.

    Raises:
        ValueError: for images of floating point numbers, or images of images, which records do not hold.
    """
    if encoding == "original":
        raise ValueError(f"{dataset.name} has no files that could be kept: choose png or raw")
    example = dataset.fetch(np.array([[0, 0]] if dataset.num_sources else [0]))
    prepared = jax.eval_shape(dataset.prepare, example, jax.random.key(0))
    if beside := {"source", "mask"} & set(prepared):
        raise ValueError(
            f"{dataset.name} has a {min(beside)} beside each image, and records hold images and labels only"
        )
    if (dtype := example["image"].dtype) != np.uint8:
        raise ValueError(f"{dataset.name} holds {dtype} images, and records hold 8 bits: save them as uint8 first")
    if others := set(example) - {"image", "label"}:
        reading.as_warning(f"{dataset.name}: records hold images and labels; not kept are {', '.join(sorted(others))}")

    def read(rows):
        raw = dataset.fetch(np.array(rows))
        label = raw.get("label", [None] * len(rows)) if dataset.class_names else [None] * len(rows)
        with ThreadPoolExecutor(num_threads or os.cpu_count() or 1) as pool:
            images = pool.map(lambda pixels: _encoded(pixels, encoding), raw["image"])
            return [
                records.Record(image, None if one is None else int(one))
                for image, one in zip(images, label, strict=True)
            ]

    return Source(
        dataset.name,
        dataset.num_examples,
        read,
        lambda row: f"row {row}",
        dataset.class_names,
        dataset.image_shape,
        fingerprint_of(encoding, dataset.fingerprint),
    )


def _encoded(pixels: np.ndarray, encoding: str) -> bytes | np.ndarray:
    """Pixels uint8 [H, W, C] as a record holds them."""
    if encoding == "raw":
        return pixels
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()
