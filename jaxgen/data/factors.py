"""Images whose factors of variation are known: one shape in all sizes, orientations and places, drawn by a formula.

A set like dSprites (Matthey, Higgins, Hassabis, Lerchner 2017), for numbers that need the truth: MIG, DCI, SAP. Nothing
is stored: each image is drawn when the set is opened. Orientations go from 0 up to 90 degrees, and no shape looks the
same after so small a turn: every factor can be read off an image, where a square at 0 and 90 degrees would be one image
with two names.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
import numpy as np

from jaxgen.data import binarisation
from jaxgen.data.dataset import Dataset, Factor, fingerprint_of, from_arrays, function_name, prepare_default, read_only

SHAPES = ("rectangle", "ellipse", "triangle")
SIZES = (0.15, 0.2, 0.25, 0.3)
ORIENTATIONS = tuple(11.25 * i for i in range(8))
PLACES = tuple(round(0.31 + 0.38 * i / 15, 4) for i in range(16))

FACTORS = (
    Factor("shape", SHAPES, categorical=True),
    Factor("size", SIZES),
    Factor("orientation", ORIENTATIONS),
    Factor("x", PLACES),
    Factor("y", PLACES),
)
"""In the order of the columns of `factor`. A size is the root of the shape's area, and with x (to the right) and y
(downwards) of its centroid in units of the image's side; orientations are in degrees, clockwise."""

NUM_TEST = 4096
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 16, 128


def factors(
    split: str = "train",
    *,
    image_size: int = 32,
    binarise: Callable[[jax.Array, jax.Array], jax.Array] = binarisation.none,
) -> Dataset:
    """All 3 x 4 x 8 x 16 x 16 = 24,576 combinations of shape, size, orientation, x and y, each once.

    A shape is ink (1) on paper (-1). A pixel's ink is clip(1/2 - d, 0, 1) for the distance d in pixels from the pixel's
    centre to the edge, negative inside: smooth edges, and about the right area. All three shapes of a size have the
    same area (a rectangle and an ellipse twice as long as wide, an equilateral triangle), and from 32 pixels
    on none reaches the border.

    The test split is 4,096 combinations, drawn once for ever from all; the training split is the other 20,480. Each
    value of each factor is in both. Both are in a shuffled order, so that any part of them has all values.

    Args:
        split: "train" or "test".
        image_size: side in pixels, from 16 to 128; the same shapes in more or fewer pixels.
        binarise: `(image, key) -> image`, applied in `prepare`: a function of `jaxgen.data.binarisation`. `threshold`
            gives hard edges, as dSprites has.

    Returns:
        A `Dataset` with `image` [N, image_size, image_size, 1], `label` [N], the shape, and `factor` [N, 5], numbers of
        values; its `factors` say which.

    Raises:
        ValueError: for an unknown split, or an image size outside of 16..128.
    """
    if split not in ("train", "test"):
        raise ValueError(f'the splits of factors are "train" (20,480) and "test" ({NUM_TEST:,}), got {split!r}')
    if not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
        raise ValueError(f"image_size must be from {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE}, got {image_size}")
    rows = _order()
    rows = rows[:-NUM_TEST] if split == "train" else rows[-NUM_TEST:]
    factor = np.stack(np.unravel_index(rows, _counts()), axis=1).astype(np.int32)

    def prepare(raw: Mapping, key: jax.Array) -> dict[str, jax.Array]:
        batch = prepare_default(raw)
        return batch | {"image": binarise(batch["image"], key)}

    dataset = from_arrays(
        f"factors/{split}",
        _all_images(image_size)[rows],
        factor[:, 0],
        class_names=SHAPES,
        prepare=prepare,
        fingerprint=fingerprint_of("factors", split, image_size, FACTORS, function_name(binarise)),
        factor=factor,
    )
    return dataclasses.replace(dataset, factors=FACTORS)


def _counts() -> tuple[int, ...]:
    return tuple(len(factor.values) for factor in FACTORS)


def _order() -> np.ndarray:
    # RandomState: its stream is frozen, so the splits are the same under every NumPy version.
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([0]))).permutation(math.prod(_counts()))


@functools.lru_cache(maxsize=2)
def _all_images(image_size: int) -> np.ndarray:
    """uint8 [24576, image_size, image_size, 1], in the order of the factors, the last one changing fastest."""
    of_form = [
        draw(shape, size, angle, PLACES, image_size) for shape in SHAPES for size in SIZES for angle in ORIENTATIONS
    ]
    return read_only(np.concatenate(of_form).reshape(-1, image_size, image_size, 1))


def draw(shape: str, size: float, orientation: float, places: tuple[float, ...], image_size: int) -> np.ndarray:
    """One shape at all pairs of places: uint8 [x, y, image_size, image_size].

    Args:
        shape: of `SHAPES`.
        size: root of the area, in units of the image's side.
        orientation: degrees, clockwise.
        places: of the centroid, in units of the image's side, from the left and from the top.
        image_size: side in pixels.

    Raises:
        ValueError: for another shape.
    """
    if shape not in _DISTANCES:
        raise ValueError(f"there is no shape {shape!r}; there is: {', '.join(SHAPES)}")
    pixel = (np.arange(image_size, dtype=np.float32) + 0.5) / image_size
    away = pixel - np.asarray(places, np.float32)[:, None]  # [places, pixels]
    right, down = away[:, None, None, :], away[None, :, :, None]
    cosine, sine = np.float32(math.cos(math.radians(orientation))), np.float32(math.sin(math.radians(orientation)))
    u, v = cosine * right + sine * down, cosine * down - sine * right  # in the axes of the shape
    distance = _DISTANCES[shape](u / np.float32(size), v / np.float32(size)) * np.float32(size * image_size)
    return np.rint(255 * np.clip(0.5 - distance, 0, 1)).astype(np.uint8)


# Distances to the edges of shapes of area 1, in units of its root, negative inside ------------------------------------


def _to_rectangle(u, v):
    half = 1 / math.sqrt(2)  # 2a x 2b with a = 2b
    return np.maximum(np.abs(u) - half, np.abs(v) - half / 2)


def _to_triangle(u, v):
    """Equilateral, pointing up."""
    inner = 1 / math.sqrt(3 * math.sqrt(3))  # radius of the circle in it: the area is 3 sqrt(3) times its square
    slanted = math.sqrt(3) / 2 * np.abs(u) - v / 2
    return np.maximum(v, slanted) - np.float32(inner)


def _to_ellipse(u, v):
    """The function that is 0 at the edge over its slope: right to first order."""
    b = 1 / math.sqrt(2 * math.pi)
    a = 2 * b
    radius = np.sqrt((u / a) ** 2 + (v / b) ** 2)
    slope = np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2) / np.maximum(radius, 1e-6)
    return np.where(radius < 1e-3, np.float32(-b), (radius - 1) / np.maximum(slope, 1e-6))


_DISTANCES = {"rectangle": _to_rectangle, "ellipse": _to_ellipse, "triangle": _to_triangle}
