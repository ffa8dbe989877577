"""Pictures read from files and written as the same kind of file: name, size, turn, colour profile, alpha and depth.

    picture = read(path)                       # float32 in [-1, 1], as it is shown
    write(output / path.name, edited)              # of picture.blank(), drawn

What is kept: the EXIF turn (pixels are handed out as they are shown, and written as they lay in the file, beside the
same tag), EXIF and ICC profile, resolution, transparency, and 16 bits of grey. Colours are not converted: the numbers
in the file are the numbers that a network sees. Colours of 16 bits are refused, since Pillow reads them as 8 bits.

The same picture gives the same bytes: JPEG is written with quality 95 and full chroma, WebP with quality 95 or, if it
was lossless, lossless, PNG and TIFF always lossless. Palettes and pictures of two levels become 8 bits a channel.
"""

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgen import files
from jaxgen.data import decode, folder, listing, reading
from jaxgen.names import show

MODES = {  # of Pillow -> channels of colour, whether there is alpha, bits
    "1": (1, False, 8),
    "L": (1, False, 8),
    "LA": (1, True, 8),
    "RGB": (3, False, 8),
    "RGBA": (3, True, 8),
    "I;16": (1, False, 16),
}
ORIENTATION = decode.ORIENTATION_TAG
_SIZE_TAGS = (0xA002, 0xA003)  # of EXIF: width and height of the picture


class Picture(NamedTuple):
    """A picture as it is shown.

    path: where it was read.
    levels: uint8 or uint16 [H, W, 1 or 3], as stored: colours are not multiplied by alpha.
    alpha: uint8 [H, W, 1]; None without transparency.
    format: of the file, such as "PNG".
    turn: 1 to 8, of EXIF: how the file's pixels are turned to be shown.
    kept: what Pillow is given when it writes: profile, EXIF, resolution, compression.
    """

    path: Path
    levels: np.ndarray
    alpha: np.ndarray | None
    format: str
    turn: int
    kept: dict[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as it is shown."""
        return self.levels.shape[0], self.levels.shape[1]

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.levels.shape[2]

    @property
    def most(self) -> int:
        """The level of white: 255 or 65535."""
        return int(np.iinfo(self.levels.dtype).max)

    def pixels(
        self,
        rows: slice = slice(None),
        columns: slice = slice(None),
        *,
        channels: int | None = None,
        background: float | np.ndarray = -1.0,
    ) -> np.ndarray:
        """A part of it as float32 [h, w, channels] in [-1, 1], composited on a background.

        On black (-1) these are the colours multiplied by alpha.

        Args:
          rows, columns: of the part.
          channels: 3 repeats grey, 1 makes grey (luma, ITU-R 601-2) of colour; as it is by default.
          background: in [-1, 1], of what is transparent; a number, or one for each channel of the picture.
        """
        found = self.levels[rows, columns].astype(np.float32) / (self.most / 2) - 1
        if self.alpha is not None:
            share = self.alpha[rows, columns].astype(np.float32) / 255
            found = share * found + (1 - share) * np.asarray(background, np.float32)
        if channels == 3 and self.channels == 1:
            return found.repeat(3, axis=-1)
        if channels == 1 and self.channels == 3:
            return found @ np.array([[0.299], [0.587], [0.114]], np.float32)
        return found

    def blank(self, scale: int = 1) -> "Picture":
        """The same picture `scale` times as large with nothing drawn yet: for `draw`. Alpha is enlarged (Lanczos)."""
        height, width = (scale * side for side in self.size)
        alpha = self.alpha
        if alpha is not None and scale > 1:
            from PIL import Image

            enlarged = Image.fromarray(alpha[..., 0]).resize((width, height), Image.Resampling.LANCZOS)
            alpha = np.asarray(enlarged)[..., None]
        return self._replace(levels=np.empty((height, width, self.channels), self.levels.dtype), alpha=alpha)

    def draw(
        self,
        rows: slice,
        columns: slice,
        pixels: np.ndarray,
        *,
        background: float | np.ndarray = -1.0,
        source: "Picture | None",
    ) -> None:
        """Sets a part of `levels` to floats [h, w, 1 or 3] in [-1, 1] that lie on a background; clips and rounds.

        Args:
          rows, columns: of the part.
          pixels: what a network made of `pixels()`. Colours are averaged where the file is grey, and grey repeated.
          background: that they are composited on.
          source: the picture that this one is made of. Where both are of one size, colours that nobody sees, of alpha
            0, stay those of the source.
        """
        if pixels.shape[-1] != self.channels:
            mean = pixels.mean(axis=-1, keepdims=True, dtype=np.float32)
            pixels = mean if self.channels == 1 else mean.repeat(3, axis=-1)
        hidden = None
        if self.alpha is not None:
            share = self.alpha[rows, columns].astype(np.float32) / 255
            hidden = np.broadcast_to(share == 0, pixels.shape)
            pixels = (pixels - (1 - share) * np.asarray(background, np.float32)) / np.where(share == 0, 1, share)
        if np.isnan(pixels).any():
            raise ValueError("the network made NaN of it: its weights or what it was given are not finite")
        levels = np.rint((np.clip(pixels, -1.0, 1.0) + 1) * (self.most / 2)).astype(self.levels.dtype)
        if hidden is not None and hidden.any():
            same = source is not None and source.size == self.size
            levels = np.where(hidden, source.levels[rows, columns] if same and source else levels, levels)
        self.levels[rows, columns] = levels


def resized(picture: Picture, size: tuple[int, int]) -> Picture:
    """The middle of a picture at another size (height, width), by the rule of training data: area averages, or bicubic.

    The largest part of the same proportions is cut out of the middle; see `decode.centre_crop` and `decode.area`.
    """
    from PIL import Image

    if picture.size == size:
        return picture
    target = (size[1], size[0])

    def of(pixels):
        channels = [Image.fromarray(pixels[..., i].astype(np.float32)) for i in range(pixels.shape[-1])]
        made = [np.asarray(decode.area(decode.centre_crop(one, target), target)) for one in channels]
        limit = int(np.iinfo(pixels.dtype).max)
        return np.clip(np.rint(np.stack(made, axis=-1)), 0, limit).astype(pixels.dtype)

    return picture._replace(levels=of(picture.levels), alpha=None if picture.alpha is None else of(picture.alpha))


def mask_of(picture: Picture, size: tuple[int, int]) -> np.ndarray:
    """A mask [H, W, 1] of a picture that is white where something is missing: 1 there, 0 elsewhere.

    Args:
      picture: of the mask; what is transparent in it is known.
      size: (height, width) of the picture that it is for, as that is shown.

    Raises:
      ValueError: for a mask of another size, which says so where it is that of the picture before its turn by EXIF.
    """
    if picture.size != size:
        turned = ": it lies as the file does before it is turned by EXIF" if picture.size == size[::-1] else ""
        raise ValueError(
            f"the mask {show(str(picture.path))} has {picture.size[1]}x{picture.size[0]} pixels, and the picture "
            f"{size[1]}x{size[0]} as it is shown{turned}"
        )
    return (picture.pixels(channels=1) > 0).astype(np.float32)


def read(path: str | os.PathLike) -> Picture:
    """Reads a picture. Files of every kind that training reads: PNG, JPEG, WebP, GIF, BMP, TIFF.

    Raises:
      OSError and others: what Pillow raises for a file that is broken.
      ValueError: for an animation, colours of 16 bits, floats, more than 16 bits, CMYK and other spaces, and claims of
        more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    from PIL import Image

    path = Path(path)
    listing.check_regular(path)
    with decode.quiet_bombs(), Image.open(path, formats=decode.FORMATS) as image:
        decode.check_claim(image)
        # The further pictures of a camera's MPO are previews and depths: a JPEG for those who look at it.
        format, lossless = "JPEG" if image.format == "MPO" else str(image.format), _is_lossless(path)
        if format != "JPEG" and (frames := getattr(image, "n_frames", 1)) > 1:
            raise ValueError(f"holds {frames} frames, of which only the first would be left: split it first")
        _check_depth(path, image)
        image.load()
        kept = _kept(image, format, lossless)
        exif = image.getexif()
        turn = int(exif.get(ORIENTATION, 1))
        if format == "TIFF":  # Pillow has turned it already, and its writer makes the tags of its own
            turn = 1
        elif len(exif):
            kept["exif"] = exif
        pixels, alpha = _levels_of(image)
    turn = turn if turn in range(1, 9) else 1
    levels = turned(pixels, turn)
    return Picture(path, levels, None if alpha is None else turned(alpha, turn), format, turn, kept)


def _levels_of(image) -> tuple[np.ndarray, np.ndarray | None]:
    """Levels [H, W, C] and alpha, as they lie in the file."""
    if image.mode == "P" or (image.mode in ("L", "RGB", "1") and "transparency" in image.info):
        grey = image.mode in ("L", "1")
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        image = image.convert("LA") if grey else image
    elif image.mode == "PA":
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode.startswith("I"):
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ValueError(f"holds integers from {values.min()} to {values.max()}, more than 16 bits: convert it")
        return values.astype(np.uint16)[..., None], None
    if image.mode not in MODES:
        raise ValueError(f"holds pixels of the kind {image.mode}, and not grey or RGB: convert it")
    channels, has_alpha, _ = MODES[image.mode]
    pixels = np.asarray(image).reshape(image.height, image.width, channels + has_alpha)
    return pixels[..., :channels].copy(), pixels[..., channels:].copy() if has_alpha else None


def _check_depth(path: Path, image) -> None:
    """Refuses colours of 16 bits, which Pillow would read as 8 bits without a word."""
    bits = 8
    if image.format == "PNG":
        with open(path, "rb") as file:
            head = file.read(26)
        bits = head[24] if len(head) == 26 and head[25] != 0 else 8
    elif image.format == "TIFF":
        bits = max(image.tag_v2.get(258, (8,)))
    if bits > 8 and image.mode in MODES and not image.mode.startswith("I"):
        what = "grey with alpha" if image.mode == "LA" else "colours"
        raise ValueError(
            f"holds {what} of {bits} bits, which would be read as 8 bits: convert it to 8 bits, or to grey of 16 bits"
        )


def _is_lossless(path: Path) -> bool:
    """Whether a WebP file holds the chunk of lossless pixels near its beginning."""
    with open(path, "rb") as file:
        head = file.read(4096)
    return head[:4] == b"RIFF" and b"VP8L" in head


def _kept(image, format: str, lossless: bool) -> dict[str, Any]:
    """What a writer is told so that the file is of the same kind."""
    kept: dict[str, Any] = {}
    if profile := image.info.get("icc_profile"):
        kept["icc_profile"] = profile
    if format in ("PNG", "JPEG", "BMP") and (dpi := image.info.get("dpi")):
        kept["dpi"] = tuple(map(float, dpi))
    if format == "JPEG":
        kept |= {"quality": 95, "subsampling": 0}
    elif format == "WEBP":
        kept |= {"lossless": True, "method": 4} if lossless else {"quality": 95, "method": 4}
    elif format == "TIFF":
        compression = image.info.get("compression", "raw")
        kept["compression"] = "tiff_adobe_deflate" if compression in ("jpeg", "group3", "group4") else compression
    return kept


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Pixels [H, W, ...] of a file, turned as EXIF's number (1 to 8) says that they are to be shown."""
    if turn in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def turned_back(pixels: np.ndarray, turn: int) -> np.ndarray:
    """The inverse of `turned`."""
    inverse = {6: 8, 8: 6}.get(turn, turn)  # two quarters; all others are their own inverse
    return turned(pixels, inverse)


def encoded(picture: Picture) -> bytes:
    """The bytes of a file of the picture's kind, the same each time."""
    from PIL import Image

    pixels = picture.levels if picture.alpha is None else np.concatenate([picture.levels, picture.alpha], axis=-1)
    pixels = np.ascontiguousarray(turned_back(pixels, picture.turn))
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    kept = dict(picture.kept)
    if "exif" in kept:
        kept["exif"] = _exif_of(kept["exif"], image.size)
    file = io.BytesIO()
    image.save(file, picture.format, **kept)
    return file.getvalue()


def _exif_of(exif, size: tuple[int, int]) -> bytes:
    """EXIF of another size, without a thumbnail of what was there before."""
    from PIL import Image

    copy = Image.Exif()
    copy.load(exif.tobytes())
    inner = copy.get_ifd(0x8769)
    for tag, side in zip(_SIZE_TAGS, size, strict=True):
        if tag in inner:
            inner[tag] = side
    return copy.tobytes()


def write(path: str | os.PathLike, picture: Picture) -> Path:
    """Writes a picture as a file of its kind, atomically; never in the place of that which was read.

    Args:
      path: the file; missing parent directories are made. `check_targets` looks at many files at once.
      picture: from `Picture.blank`, drawn.

    Raises:
      ValueError: for the path that the picture was read from, also under another name.
      OSError: with the path and what to do, if the file cannot be written.
    """
    path = Path(path)
    if path.exists() and picture.path.exists() and os.path.samefile(path, picture.path):
        raise ValueError(f"{show(str(path))} is the picture that was read, and would be overwritten: choose another")
    with files.explained(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, encoded(picture))
    return path


def check_targets(named: Iterable[tuple[Path, str]], folder: Path) -> None:
    """Raises a ValueError where writing into a folder would overwrite a picture that is to be read."""
    named = list(named)
    inputs = {(status.st_dev, status.st_ino) for status in (os.stat(path) for path, _ in named if path.exists())}
    for _, name in named:
        target = folder / name
        if target.exists() and (target.stat().st_dev, target.stat().st_ino) in inputs:
            raise ValueError(
                f"{show(str(target))} is a picture that is read, and would be overwritten: choose another --output"
            )


class Found(NamedTuple):
    """Pictures that were asked for.

    named: (path, name below the output folder), in the order in which they were given, those of a folder by name.
    failed: path -> what is wrong with it.
    """

    named: list[tuple[Path, str]]
    failed: dict[str, str]


def find(paths: Iterable[str | os.PathLike]) -> Found:
    """The pictures of files and folders. Of folders those below them, which keep their subfolders.

    Raises:
      FileNotFoundError: for a path of nothing.
      ValueError: for two pictures that would be written under one name, and for no picture at all.
    """
    named: list[tuple[Path, str]] = []
    failed: dict[str, str] = {}
    for given in map(Path, paths):
        given = given.expanduser()
        if given.is_dir():
            listed = listing.list_images(given)
            named += [(given / name, name) for name in listed.files]
            failed |= {str(given / name): reason for name, reason in listed.broken}
            folder.tell_ignored(show(str(given)), listed, reading.as_warning)
        elif not given.exists():
            raise FileNotFoundError(f"{show(str(given))} does not exist: give pictures, or folders of them")
        else:
            named.append((given, given.name))
    if not named:
        raise ValueError(f"no picture was found ({', '.join(listing.EXTENSIONS)})")
    first: dict[str, Path] = {}
    for path, name in named:
        if name in first:
            raise ValueError(
                f"{show(str(first[name]))} and {show(str(path))} would be written under one name: edit them by "
                "commands of their own"
            )
        first[name] = path
    return Found(named, failed)
