"""From an encoded image of any size and mode to pixels of one shape: orientation, colour, crop, resize.

Pillow is imported inside the functions, so that `import jaxgen` does not pay for it.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

# Plain bitmap formats only; Pillow would also hand files to Ghostscript if asked to open anything it knows.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
ORIENTATION_TAG = 0x0112

if TYPE_CHECKING:
    import PIL.Image

Crop = Callable[["PIL.Image.Image", tuple[int, int]], "PIL.Image.Image"]
Resize = Crop


def centre_crop(image: "PIL.Image.Image", size: tuple[int, int]) -> "PIL.Image.Image":
    """Cut out the largest centred rectangle with the proportions of `size` (width, height): a square for a square."""
    width, height = image.size
    # The integer part of the largest rectangle with these proportions, never below one pixel.
    new_width = max(1, min(width, height * size[0] // size[1]))
    new_height = max(1, min(height, width * size[1] // size[0]))
    if (new_width, new_height) == image.size:
        return image  # Pillow would copy it
    left, top = (width - new_width) // 2, (height - new_height) // 2
    return image.crop((left, top, left + new_width, top + new_height))


def squash(image: "PIL.Image.Image", size: tuple[int, int]) -> "PIL.Image.Image":
    """Keep the whole image; the resize then changes its proportions."""
    del size
    return image


def area(image: "PIL.Image.Image", size: tuple[int, int]) -> "PIL.Image.Image":
    """Resize by area averaging (Pillow's BOX) if nothing grows, else by bicubic interpolation (BOX would be blocky)."""
    from PIL import Image

    if image.size == size:
        return image
    shrinks = size[0] <= image.width and size[1] <= image.height
    return image.resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)


def lanczos(image: "PIL.Image.Image", size: tuple[int, int]) -> "PIL.Image.Image":
    """Resize with Pillow's antialiased LANCZOS filter: sharper than `area`, with slight ringing at edges."""
    from PIL import Image

    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def image_size_pair(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a side or of a pair.

    Raises:
        ValueError: unless these are one or two positive integers.
    """
    pair = (image_size, image_size) if isinstance(image_size, int | np.integer) else tuple(image_size)
    if len(pair) != 2 or not all(isinstance(side, int | np.integer) and side >= 1 for side in pair):
        raise ValueError(f"image_size must be a positive integer or (height, width), got {image_size!r}")
    return int(pair[0]), int(pair[1])


def check_pixel_options(channels: int, background: str) -> None:
    """Raise a ValueError for a number of channels or a background that `decode_image` does not know."""
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    background_pixel(background, channels)


def background_pixel(background: str, channels: int) -> np.ndarray:
    """The uint8 pixel of a colour by name or "#rrggbb", [channels]: RGB, or luma; a ValueError for no colour."""
    from PIL import Image, ImageColor

    try:
        rgb = ImageColor.getrgb(background)[:3]
    except (ValueError, AttributeError) as error:
        raise ValueError(f'background must be a colour such as "white" or "#80ff00", got {background!r}') from error
    pixel = Image.new("RGB", (1, 1), rgb).convert("L" if channels == 1 else "RGB")
    return np.asarray(pixel).reshape(channels)


def decode_image(
    source: str | os.PathLike | bytes,
    *,
    image_size: int | tuple[int, int],
    channels: int = 3,
    background: str = "white",
    crop: Crop = centre_crop,
    resize: Resize = area,
) -> np.ndarray:
    """Decode one image to uint8 pixels of a given shape.

    The EXIF orientation is applied first. Transparency (RGBA, LA, palettes, transparent colours) is composited on
    `background`. 16-bit grey is scaled, 65535 to 255, not clipped. Of an animation the first frame is taken.

    Args:
        source: a path, or the encoded bytes.
        image_size: the side of a square, or (height, width).
        channels: 3 for RGB, 1 for grey (luma, ITU-R 601-2).
        background: a colour by name or "#rrggbb".
        crop: `(image, (width, height)) -> image`: `centre_crop` or `squash`, or one's own, on Pillow images.
        resize: `(image, (width, height)) -> image`: `area` or `lanczos`, or one's own.

    Returns:
        uint8 [H, W, channels].

    Raises:
        Exception: whatever Pillow raises for data that are broken (mostly OSError); ValueError for an image that
            claims more pixels than `PIL.Image.MAX_IMAGE_PIXELS`, or whose range is unknown (float, 32-bit).
    """
    image = upright_image(source)
    return fit_image(image, image_size=image_size, channels=channels, background=background, crop=crop, resize=resize)


def upright_image(source: str | os.PathLike | bytes) -> "PIL.Image.Image":
    """The whole image, turned as its EXIF says, 16-bit grey brought to 8 bits: the first half of `decode_image`.

    Raises:
        Exception: as `decode_image`.
    """
    from PIL import Image

    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as opened:
        check_claim(opened)
        opened.load()
        return _to_eight_bits(_upright(opened))


def fit_image(
    image: "PIL.Image.Image",
    *,
    image_size: int | tuple[int, int],
    channels: int = 3,
    background: str = "white",
    crop: Crop = centre_crop,
    resize: Resize = area,
) -> np.ndarray:
    """Bring an upright 8-bit image to a shape: the second half of `decode_image`, with the same arguments."""
    from PIL import Image

    height, width = image_size_pair(image_size)
    mode = "L" if channels == 1 else "RGB"
    if has_opacity(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    if image.mode != mode:
        image = image.convert(mode)
    pixels = np.asarray(resize(crop(image, (width, height)), (width, height)))
    return pixels.reshape(height, width, channels)


def has_opacity(image: "PIL.Image.Image") -> bool:
    """Whether some of an image may be transparent: by a channel, or a colour that is."""
    return image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info


class Look(NamedTuple):
    """What the beginning of an image says: its size in pixels as it is shown, and whether it is stored as grey."""

    width: int
    height: int
    is_grey: bool


def look(path: str | os.PathLike) -> Look:
    """The size of an image after its turn by EXIF, as `decode_image` turns it. Pixels are not decoded, but of TIFF.

    Raises:
        Exception: as `decode_image`, for what is no image by its header; a later damage is not seen.
    """
    from PIL import Image

    with Image.open(path, formats=FORMATS) as image:
        check_claim(image)
        if image.format == "TIFF":  # Pillow turns it when it decodes it
            image.load()
        # Pillow decodes a PNG to look for EXIF that no early chunk holds: only where a late one does.
        unread = image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info)
        turned = (not unread or _has_late_exif(path)) and _orientation(image) in (5, 6, 7, 8)
        width, height = image.size[::-1] if turned else image.size
        return Look(width, height, image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I"))


@contextlib.contextmanager
def quiet_bombs() -> Iterator[None]:
    """Without Pillow's warning of images that claim many pixels: `decode_image` and `look` refuse those by name."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def check_claim(image: "PIL.Image.Image") -> None:
    """Raise a ValueError for an image that claims more pixels than `PIL.Image.MAX_IMAGE_PIXELS`."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(
            f"claims {image.width}x{image.height} pixels, more than the limit of {limit} against decompression "
            "bombs; set PIL.Image.MAX_IMAGE_PIXELS if it is real"
        )


def _has_late_exif(path) -> bool:
    """Whether a PNG holds a chunk after its pixels that may be EXIF. Reads the heads of chunks only."""
    late = False
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            late |= head[4:] == b"IDAT"
            if late and head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def _orientation(image) -> int:
    try:
        return image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # Malformed EXIF says nothing about the pixels, which are fine.
        return 1


def _upright(image):
    from PIL import Image

    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _to_eight_bits(image):
    from PIL import Image

    if image.mode == "F":
        raise ValueError("holds floating point pixels, whose range is unknown: convert it to 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    # Pillow's own convert("L") clips 16-bit values at 255: almost everything would be white.
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"holds integers from {values.min()} to {values.max()}, more than 16 bits: convert it")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
