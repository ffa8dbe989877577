"""Colour emoji as two houses draw them, from the copy that ships with this package: no download.

One small set of pairs for many tasks: class-conditional generation, paired and unpaired translation, super-resolution,
completion, text to image. Emoji that differ only in skin tone are never divided between train and test. Six concepts
have their neutral and their gendered drawings on different sides, because their captions differ in more than the gender
("surfer" and "man surfing"): 54 of the 440 test images, named by `SPLIT_BY_GENDER`.
"""

import csv
import functools
import io
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import numpy as np

from jaxgen.data.dataset import Dataset, fingerprint_of, from_arrays, read_only
from jaxgen.data.sources import pair_as_source
from jaxgen.data.unpaired import unpaired

HOUSES = ("noto", "twemoji")
# First code points of: surfer, face with ok gesture, adult / man / woman, cartwheel, veil, beard.
SPLIT_BY_GENDER = ("1F3C4", "1F646", "1F9D1", "1F938", "1F470", "1F9D4")
# Skin tones, presentation as a picture, joiner, the signs of woman and man.
_VARIATIONS = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF", "FE0F", "200D", "2640", "2642")
SHEET_SIZE = 64  # pixels of a cell, and cells in a row of the sheet


def emoji(split: str = "train", *, image_size: int = 64, drawn_by: str = "noto") -> Dataset:
    """Emoji on white: 3,341 training and 440 test images, each with the other house's drawing of the same emoji.

    A few are drawn alike: 2 test images by Noto and 3 by Twemoji equal a training image (flags of Norway and of the
    United States, whose islands have them, too; of Twemoji a woman with blond hair). No other test image is nearer to a
    training image than 11 of 255 levels (root mean square).

    Args:
        split: "train" or "test".
        image_size: up to 64. Smaller images are area averages (Pillow's BOX filter) of the 64x64 originals.
        drawn_by: "noto" or "twemoji": the house of `image`; `pair` is the other one.

    Returns:
        A `Dataset` with `image` and `pair` [N, image_size, image_size, 3], `label` [N], one of 9 categories
        (`class_names`, in the order of the Unicode tables), and `subcategory` [N], one of 98
        (`emoji_subcategories()`). The labels mean the same in both splits.

    Raises:
        ValueError: for an unknown split or house, or an image size outside of 1..64.

    Source: Noto Emoji (Google, Apache-2.0) and Twemoji (Twitter, Inc and other contributors, CC BY 4.0).
    """
    if drawn_by not in HOUSES:
        raise ValueError(f'drawn_by must be "noto" or "twemoji", got {drawn_by!r}')
    if not 1 <= image_size <= SHEET_SIZE:
        raise ValueError(
            f"the emoji are 64x64: image_size must be in 1..64, got {image_size}. Enlarging would add no detail; "
            "resize a batch with jax.image.resize if a network needs it"
        )
    table = _table()
    keep = _rows_of(split)
    other = HOUSES[1 - HOUSES.index(drawn_by)]
    with ThreadPoolExecutor(2) as pool:  # decoding releases the interpreter lock
        image, pair = pool.map(lambda house: _resize(load_emoji(house)[keep], image_size), (drawn_by, other))
    categories, subcategories = _names("category"), _names("subcategory")
    return from_arrays(
        f"emoji/{split}",
        image,
        np.array([categories.index(table[i]["category"]) for i in keep], np.int32),
        class_names=categories,
        fingerprint=fingerprint_of("emoji", split, image_size, drawn_by),
        pair=pair,
        subcategory=np.array([subcategories.index(table[i]["subcategory"]) for i in keep], np.int32),
    )


def unpaired_emoji(split: str = "train", *, image_size: int = 64, drawn_by: str = "twemoji") -> Dataset:
    """Emoji of one house as sources, those of the other as images, for methods that learn without pairs.

    In training the concepts are divided: half of them are only seen as sources, half only as images, so that the true
    partner of no source is ever seen. What differs in skin tone or gender, or looks the same, is on one side. In the
    test split each source has its true partner as its image: the truth that unpaired data usually lack.

    Args:
        split: "train" or "test".
        image_size: as for `emoji`.
        drawn_by: the house of `image`; `source` is the other one's.

    Returns:
        A `Dataset` with `image` and `source` [N, image_size, image_size, 3], `label` and `subcategory` [N] of the
        images. For training see `data.unpaired`.

    Raises:
        ValueError: as `emoji`.
    """
    images = emoji(split, image_size=image_size, drawn_by=drawn_by)
    if split == "test":
        return pair_as_source(images)
    assert images.arrays is not None
    side = np.array(list(_sides(_rows_of(split))))
    parts = []
    for number, house in enumerate((drawn_by, HOUSES[1 - HOUSES.index(drawn_by)])):
        picture = "image" if house == drawn_by else "pair"
        arrays = {name: value[side == number] for name, value in images.arrays.items()}
        parts.append(
            from_arrays(
                f"emoji/{split} by {house}",
                arrays[picture],
                arrays["label"],
                images.class_names,
                fingerprint=fingerprint_of("unpaired emoji", images.fingerprint, number),
                subcategory=arrays["subcategory"],
            )
        )
    return unpaired(parts[1], parts[0])


def emoji_captions(split: str = "train") -> tuple[str, ...]:
    """Return the captions of a split in the order of its images, e.g. "woman firefighter with medium-dark skin tone".

    Raises:
        ValueError: for an unknown split.
    """
    table = _table()
    return tuple(table[i]["caption"] for i in _rows_of(split))


def emoji_subcategories() -> tuple[str, ...]:
    """Return the names of the 98 subcategories; `subcategory` in a batch indexes them."""
    return _names("subcategory")


@functools.cache
def load_emoji(house: str) -> np.ndarray:
    """Return all drawings of one house, uint8 [3781, 64, 64, 3], in the order of the table."""
    from PIL import Image

    data = (resources.files("jaxgen.data") / "files" / "emoji" / f"{house}.webp").read_bytes()
    with Image.open(io.BytesIO(data), formats=("WEBP",)) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    num_rows = pixels.shape[0] // SHEET_SIZE
    cells = pixels.reshape(num_rows, SHEET_SIZE, SHEET_SIZE, SHEET_SIZE, 3).swapaxes(1, 2)
    return read_only(cells.reshape(-1, SHEET_SIZE, SHEET_SIZE, 3)[: len(_table())])


@functools.cache
def _table() -> tuple[dict[str, str], ...]:
    text = (resources.files("jaxgen.data") / "files" / "emoji" / "index.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(io.StringIO(text)))


def _rows_of(split: str) -> np.ndarray:
    if split not in ("train", "test"):
        raise ValueError(f'the splits of the emoji are "train" (3,341) and "test" (440), got {split!r}')
    return np.array([i for i, row in enumerate(_table()) if row["split"] == split])


@functools.cache
def _names(column: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row[column] for row in _table()))


def _sides(rows: np.ndarray) -> Iterator[int]:
    """0 or 1 for each row, in turns: one number for concepts that differ in skin tone or gender, or look the same."""
    drawings, table = [load_emoji(house) for house in HOUSES], _table()
    group: dict[Hashable, list[Hashable]] = {}  # each name of a concept -> all that are joined with it
    names: list[Hashable] = []
    for row in rows:
        points = [point for point in table[row]["codepoints"].split("-") if point not in _VARIATIONS]
        concept = tuple("1F9D1" if point in ("1F468", "1F469") else point for point in points)
        names.append(concept)
        joined: list[Hashable] = [concept, *((i, drawn[row].tobytes()) for i, drawn in enumerate(drawings))]
        whole = list({name: None for one in joined for name in group.get(one, [one])})
        group.update(dict.fromkeys(whole, whole))
    seen: dict[int, int] = {}
    for name in names:
        yield seen.setdefault(id(group[name]), len(seen) % 2)


def _resize(images: np.ndarray, image_size: int) -> np.ndarray:
    if image_size == SHEET_SIZE:
        return images
    from PIL import Image

    size = (image_size, image_size)
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)) for image in images])
