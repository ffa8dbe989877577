"""Pictures for people: image arrays in [-1, 1] to uint8, to one grid, to a PNG file or a film. NumPy on the host."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from jaxgen import files
from jaxgen.local_path import local

NAN_COLOUR = (255, 0, 255)  # magenta: no training image is this colour by accident
MAX_WIDTH = 900
MAX_HEIGHT = 1800
FILM_SIDE = 512  # pixels of a film, up to which small images are enlarged
FILMS = {".webp": ("WEBP", 1), ".gif": ("GIF", 10)}  # format, and the milliseconds in which it counts
MOST_FRAMES = 50  # a second: what shows films shows no more
STRIP_PADDING = 8  # pixels around strips of images that belong together, such as those of one class


def to_uint8(images: ArrayLike) -> np.ndarray:
    """Maps floats in [-1, 1] to the 256 levels of a stored image.

    uint8 = round((x + 1) * 127.5), after clipping x to [-1, 1]; the exact inverse of x = uint8 / 127.5 - 1.

    Args:
      images: floats of any shape and any precision (bfloat16 too), NumPy or JAX. Infinities clip; NaN becomes 0.

    Returns:
      uint8 array of the same shape.

    Raises:
      TypeError: for integers and booleans, which would turn almost all white if they were read as [-1, 1].
    """
    images = np.asarray(images)
    if images.dtype.kind in "biucOSU":
        raise TypeError(
            f"expected floats in [-1, 1], got {images.dtype}; bring stored pixels there with image / 127.5 - 1"
        )
    images = images.astype(np.float32)
    levels = np.rint((np.clip(images, -1.0, 1.0) + 1.0) * 127.5)
    return np.where(np.isnan(images), 0.0, levels).astype(np.uint8)


def grid(
    images: ArrayLike, *, columns: int | None = None, padding: int = 2, background: float = 1.0, upscale: int | None = 1
) -> np.ndarray:
    """Lays images out row by row in one picture.

    With s = upscale and p = padding, image n has its top left pixel at row p + (n // columns) * (s H + p) and column
    p + (n % columns) * (s W + p). Cells past the last image show the background.

    Args:
      images: [N, H, W, C] floats in [-1, 1] with C = 1 (grey) or 3 (RGB), N >= 1, NumPy or JAX. Values outside are
        clipped; a pixel with a NaN in any channel is magenta, so that a broken network shows instead of looking black.
      columns: images in a row, at most N of them; None: the ceiling of sqrt(N), about a square.
      padding: pixels around and between the images, not scaled.
      background: the value of padding and empty cells, in [-1, 1]; 1 is white.
      upscale: whole factor that repeats every pixel (nearest neighbour, nothing is blurred). None: the largest that
        keeps the picture within 900 x 1800 pixels, so that 28-pixel digits can be read; at least 1.

    Returns:
      uint8 [rows, columns, 3].

    Raises:
      ValueError: if the shape is not [N, H, W, 1 or 3], or an option is out of its range.
      TypeError: for integer images (see `to_uint8`).
    """
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"expected images of shape [N, H, W, C], got {images.shape}; add the missing axes first")
    num_images, height, width, channels = images.shape
    if channels not in (1, 3):
        raise ValueError(
            f"expected 1 (grey) or 3 (RGB) channels in the last axis, got shape {images.shape}; images are NHWC: "
            "choose the channels to show, or transpose from NCHW"
        )
    if 0 in images.shape:
        raise ValueError(f"nothing to draw: the images have shape {images.shape}")
    if columns is not None and columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    if padding < 0:
        raise ValueError(f"padding must be at least 0 pixels, got {padding}")
    if not -1.0 <= background <= 1.0:
        raise ValueError(f"background must lie in [-1, 1], got {background}")
    if upscale is not None and upscale < 1:
        raise ValueError(f"upscale must be a whole factor of at least 1, got {upscale}")

    columns = min(columns or math.ceil(math.sqrt(num_images)), num_images)
    rows = math.ceil(num_images / columns)
    if upscale is None:
        fits_width = (MAX_WIDTH - padding * (columns + 1)) // (columns * width)
        fits_height = (MAX_HEIGHT - padding * (rows + 1)) // (rows * height)
        upscale = max(1, min(fits_width, fits_height))

    pixels = np.repeat(to_uint8(images), 3 // channels, axis=-1)
    pixels[np.isnan(images.astype(np.float32)).any(axis=-1)] = NAN_COLOUR
    pixels = pixels.repeat(upscale, axis=1).repeat(upscale, axis=2)

    cell_height, cell_width = height * upscale + padding, width * upscale + padding
    picture = np.full((rows * cell_height + padding, columns * cell_width + padding, 3), to_uint8(float(background)))
    for n in range(num_images):
        top, left = padding + n // columns * cell_height, padding + n % columns * cell_width
        picture[top : top + height * upscale, left : left + width * upscale] = pixels[n]
    return picture


def save_png(path: str | os.PathLike, image: ArrayLike) -> Path:
    """Writes one image as a PNG file, atomically: a reader sees the whole new file or the old one.

    Args:
      path: the file; missing parent directories are made.
      image: uint8 or float in [-1, 1], of shape [H, W], [H, W, 1] or [H, W, 3].

    Returns:
      The path.

    Raises:
      ValueError: if the shape is none of these.
      OSError: with the path and what to do, if the file cannot be written (full disk, permissions).
    """
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 3)) or 0 in image.shape:
        raise ValueError(
            f"cannot write {path}: expected one image of shape [H, W], [H, W, 1] or [H, W, 3], got {image.shape}; "
            "lay a batch out with `grid` first"
        )
    if image.dtype != np.uint8:
        image = to_uint8(image)
    data = png_bytes(image)
    path = local(path, "the picture")
    with files.explained(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, data)
    return path


def png_bytes(picture: np.ndarray) -> bytes:
    """A uint8 picture [H, W] or [H, W, 3] as the bytes of a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="PNG")
    return buffer.getvalue()


def save_film(
    path: str | os.PathLike, frames: ArrayLike, *, seconds: float, hold: float = 0.0, columns: int | None = None
) -> Path:
    """Writes frames as an animated WebP, or as a GIF (256 colours a frame), which repeats for ever; atomically.

    In a WebP small images that are enlarged keep every pixel as it is; others are compressed as photographs are. Equal
    frames in a row are kept as one, shown for as long; if all are, the file holds a picture.

    Args:
      path: ends in .webp or .gif; missing parent directories are made.
      frames: [T, H, W, C] uint8 or floats in [-1, 1], with C = 1 (grey) or 3 (RGB), T >= 2; or [T, N, H, W, C] floats:
        N films side by side, each frame a `grid`, enlarged up to 512 pixels.
      seconds: that all frames take, each as long as the others up to a millisecond (in a GIF ten).
      hold: more seconds of the last frame.
      columns: of the grids, as for `grid`.

    Returns:
      The path.

    Raises:
      ValueError: for another ending, another shape, fewer than two frames, no time, or more than 50 frames a second.
      TypeError: for integers other than uint8.
      OSError: with the path and what to do, if the file cannot be written.
    """
    from PIL import Image

    path, frames = local(path, "the film"), np.asarray(frames)
    kind, tick = FILMS[check_film(path)]
    if frames.ndim not in (4, 5) or frames.shape[-1] not in (1, 3) or 0 in frames.shape:
        raise ValueError(
            f"cannot write {path}: expected frames of shape [T, H, W, C], or [T, N, H, W, C] of N films, with 1 or 3 "
            f"channels, got {frames.shape}"
        )
    num = len(frames)
    if num < 2:
        raise ValueError(f"cannot write {path}: a film has at least two frames, not {num}")
    if not (0 < seconds < math.inf and 0 <= hold < math.inf):
        raise ValueError(
            f"a film takes some seconds, not {seconds:g}, and its last frame no less than 0 more: {hold:g}"
        )
    if num > MOST_FRAMES * seconds:
        raise ValueError(
            f"{num} frames in {seconds:g} seconds are more than {MOST_FRAMES} a second, which nothing shows; take "
            "fewer frames or more seconds"
        )
    upscale = 1
    if frames.ndim == 5:
        columns = min(columns or math.ceil(math.sqrt(frames.shape[1])), frames.shape[1])
        rows = math.ceil(frames.shape[1] / columns)
        upscale = max(1, FILM_SIDE // max(rows * frames.shape[2], columns * frames.shape[3]))

    def picture(frame):
        if frame.ndim == 4:
            frame = grid(frame, columns=columns, upscale=upscale)
        elif frame.dtype != np.uint8:
            frame = to_uint8(frame)
        return Image.fromarray(np.ascontiguousarray(frame.repeat(3 // frame.shape[-1], axis=-1)))

    ends = np.rint(np.linspace(0, 1000 * seconds, num + 1) / tick).astype(int) * tick
    durations = np.diff(ends)
    durations[-1] += round(1000 * hold / tick) * tick
    options: dict = {"save_all": True, "append_images": (picture(frame) for frame in frames[1:]), "loop": 0}
    if kind == "WEBP":  # of enlarged pixels the exact file is half as large
        options |= {"lossless": True, "method": 1} if upscale > 1 else {"quality": 90}
    file = io.BytesIO()
    picture(frames[0]).save(file, kind, duration=durations.tolist(), **options)
    with files.explained(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, file.getvalue())
    return path


def check_film(path: str | os.PathLike) -> str:
    """The ending of a film's file.

    Raises:
      ValueError: for another than .webp and .gif.
    """
    ending = Path(path).suffix.lower()
    if ending not in FILMS:
        raise ValueError(f"a film is written to a file that ends in .webp or .gif, not to {path}")
    return ending
