"""A data set from a NumPy file: .npz, or .npy (mapped into memory when large)."""

import math
import os
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from jaxgen import files
from jaxgen.data import labels, listing, npz, reading
from jaxgen.data.dataset import Dataset, fingerprint_of, gather_rows, in_memory, prepare_default
from jaxgen.data.decode import background_pixel
from jaxgen.names import show

IMAGE_KEYS = ("image", "images", "x", "arr_0")
LABEL_KEYS = ("label", "labels", "y", "arr_1")
CHUNK_BYTES = 64 * 2**20


def array_file(
    path: str | os.PathLike,
    *,
    value_range: tuple[float, float] | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    class_names: Sequence[str] = (),
    labelled: bool | None = True,
    background: str = "white",
    max_bytes_in_memory: int = reading.MAX_BYTES_IN_MEMORY,
    tell: Callable[[str], None] = reading.logger.warning,
) -> Dataset:
    """Open images, and labels if there are any, from a NumPy file. Nothing is ever unpickled.

    Pixels that are uint8 mean 0..255, and bool means black and white. Floats are taken as they are only if they are in
    [-1, 1] and some are negative. For everything else the range is not guessed: pass `value_range`.

    Args:
        path: a .npz with the images under `image`, `images`, `x` or `arr_0` and the labels under `label`, `labels`,
            `y` or `arr_1`; or a .npy of images. Images are [N, H, W, C] or [N, H, W]. Of 2 or 4 channels the last is
            opacity, from black's value (transparent) to white's.
        value_range: (black, white), e.g. (0, 1) or (0, 255): mapped to (-1, 1).
        image_key: the name of the images in a .npz that calls them otherwise.
        label_key: the name of the labels.
        class_names: one per label; "0", "1", ... if not given. See `jaxgen.data.labels.numbered` for labels that count
            from 1, and for strings.
        labelled: False ignores labels. None does so where what is found cannot be labels, and tells it.
        background: what transparent images are composited on, a colour by name or "#rrggbb".
        max_bytes_in_memory: the largest array that is kept as `Dataset.arrays` and so lives on the device.
        tell: is called with a line on classes without images and on labels left out; by default the log's warning.

    Returns:
        A `Dataset` with `image` [N, H, W, C] and, if there are labels, `label` [N]. Larger .npy files are mapped, and
        only the rows of a batch are read from the disk (floats are read through once, for NaN and range).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is not a NumPy file or is damaged (checksums are compared), object arrays, missing
            or ambiguous names, wrong shapes, channels that come first, an unknown range, NaN or infinity, and labels
            that do not fit.
    """
    path = os.path.abspath(os.path.expanduser(os.fspath(path)))
    name = f"arrays:{show(path)}"
    image, label = _load(path, image_key, label_key, max_bytes_in_memory, labelled is not False)
    image = _check_shape(show(path), image)
    low, high = _find_range(show(path), image, value_range)
    names: tuple[str, ...] = ()
    if label is not None:
        try:
            label, names = labels.numbered(label, len(image), tuple(class_names), show(path))
        except labels.Unfit as error:
            if labelled is not None or label_key:
                raise
            tell(f"{error}. The images are taken without labels")
            label = None
        else:
            labels.tell_empty(label, names, name, tell)
    elif class_names:
        raise ValueError(f"{show(path)}: class_names were given, but the file holds no labels")
    opaque = image.shape[-1] in (1, 3)
    num_channels = image.shape[-1] if opaque else image.shape[-1] - 1
    behind = None if opaque else _behind(show(path), image, value_range, background)

    as_stored = opaque and image.dtype == np.uint8 and (low, high) == (0, 255)

    def convert(rows):
        if behind is not None:
            shares = (rows.astype(np.float64) - low) / (high - low)
            colour, opacity = shares[..., :-1], shares[..., -1:]
            shares = colour * opacity + behind * (1.0 - opacity)
            if rows.dtype == np.uint8:
                return np.rint(shares * 255.0).astype(np.uint8)
            return (2.0 * shares - 1.0).astype(np.float32)
        if as_stored:
            return rows
        scaled = (rows.astype(np.float64) - low) * (2.0 / (high - low)) - 1.0
        return scaled.astype(np.float32)

    if image.nbytes <= max_bytes_in_memory:
        image = np.asarray(image)
        if not as_stored:  # in parts: double precision takes eight times the memory
            image = np.concatenate([convert(part) for _, part in _chunks(image)])
        return in_memory(name, image, label, names)

    def fetch(indices):
        raw = {"image": convert(np.array(image[np.asarray(indices)]))}  # a plain array, not a memmap
        return raw if label is None else raw | {"label": label[np.asarray(indices)]}

    # The first and the last rows stand for the whole, which would take long to read.
    parts = [image.shape, image.dtype.str, low, high, image[:4], image[-4:], label is not None]
    if behind is not None:
        parts.append(behind)
    return Dataset(
        name=name,
        num_examples=len(image),
        image_shape=(*image.shape[1:3], num_channels),
        class_names=names,
        fingerprint=fingerprint_of(*parts),
        arrays=None,
        gather=gather_rows,
        fetch=fetch,
        prepare=prepare_default,
    )


def class_names_of(path: str | os.PathLike, label_key: str | None = None) -> tuple[str, ...]:
    """The class names of an array file as `array_file` finds them, read from its labels alone; () without labels.

    Raises:
        FileNotFoundError, ValueError: as `array_file`.
    """
    path = os.path.abspath(os.path.expanduser(os.fspath(path)))
    label = _load(path, None, label_key, 0, True, only_labels=True)[1]
    if label is None:
        return ()
    try:
        return labels.numbered(label, len(label), (), show(path))[1]
    except labels.Unfit:
        return ()


def _behind(path, image, value_range, background) -> np.ndarray:
    """The background's share of white in each channel, for images with opacity."""
    if image.dtype.kind == "f" and value_range is None:
        raise ValueError(
            f"{path}: the images have {image.shape[-1]} channels, the last of which may be opacity, and are floats: "
            "its range is not guessed. Pass value_range=(black, white), or composite them yourself"
        )
    return background_pixel(background, image.shape[-1] - 1) / 255.0


def _load(path, image_key, label_key, max_bytes_in_memory, labelled, only_labels=False):
    shown = show(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{shown}: no such file")
    if os.path.isdir(path):
        raise ValueError(f"{shown}: a folder; array_file wants a .npz or .npy file (for images there is image_folder)")
    listing.check_regular(path)
    if not path.lower().endswith((".npz", ".npy")):
        raise ValueError(f"{shown}: array_file reads .npz and .npy files")
    with files.explained(path, "read"), open(path, "rb") as file:
        begin = file.read(6)
    if begin and not begin.startswith((b"PK", b"\x93NUMPY"[: len(begin)])):
        raise ValueError(f"{shown}: it is no NumPy file, whatever its name: save it with numpy.savez or numpy.save")
    named_npy = path.lower().endswith(".npy")
    if begin and begin.startswith(b"PK") == named_npy:
        inside = "npz" if named_npy else "npy"
        raise ValueError(f"{shown}: it is called .{path[-3:]} but is a .{inside} inside: rename it")
    try:
        if named_npy:
            if image_key or label_key:
                raise npz.Refused("a .npy file holds one array without a name: image_key and label_key have no meaning")
            large = os.path.getsize(path) > max_bytes_in_memory
            with npz.explained():
                with open(path, "rb") as file:
                    npz.check_head(file, os.path.getsize(path), "its array")
                return np.load(path, mmap_mode="r" if large else None, allow_pickle=False), None
        keys: list[str | None] = []

        def choose(names):
            images = None if only_labels else _choose("images", image_key, IMAGE_KEYS, names, required=True)
            found = _choose("labels", label_key, LABEL_KEYS, names, required=False) if labelled else None
            keys.extend((images, found))
            return [key for key in dict.fromkeys(keys) if key is not None]

        arrays = npz.read_arrays(path, choose)
        return arrays.get(keys[0]), arrays.get(keys[1])
    except npz.Damaged as error:
        raise ValueError(f"{shown}: damaged or cut short ({error}); copy or download it again") from error
    except MemoryError as error:
        raise ValueError(f"{shown}: its arrays do not fit into memory; save fewer images, or a .npy") from error
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from error


def _choose(what, key, candidates, present, *, required):
    if key is not None:
        if key not in present:
            raise ValueError(f"it has no array {key!r}, only {', '.join(map(show, sorted(present))) or 'none at all'}")
        return key
    matches = [candidate for candidate in candidates if candidate in present]
    advice = f"save them as `{what[:-1]}`, or name them with {what[:-1]}_key in Python"
    if len(matches) > 1:
        raise ValueError(f"both {' and '.join(matches)} could be the {what}: {advice}")
    if not matches and required:
        there = ", ".join(map(show, sorted(present))) or "nothing"
        raise ValueError(f"no {what} found under {', '.join(candidates)}; it holds {there}: {advice}")
    return matches[0] if matches else None


def _check_shape(path, image):
    if image.dtype.kind not in "buif":
        raise ValueError(f"{path}: the images are of dtype {image.dtype}, expected numbers")
    if image.ndim == 3:
        image = image[..., None]
    if image.ndim != 4:
        hint = ""
        if image.ndim == 2 and (side := math.isqrt(image.shape[1])) ** 2 == image.shape[1]:
            hint = f": if each row is an image, save images.reshape(-1, {side}, {side}) instead"
        raise ValueError(f"{path}: the images have the shape {image.shape}, expected [N, H, W, C] or [N, H, W]{hint}")
    if 0 in image.shape:
        raise ValueError(f"{path}: there are no images, the shape is {image.shape}")
    if image.shape[1] in (1, 2, 3, 4) and image.shape[3] not in (1, 2, 3, 4):
        raise ValueError(
            f"{path}: the shape {image.shape} looks like channels first: save images.transpose(0, 2, 3, 1) instead"
        )
    if image.shape[3] > 4 and image.shape[2] <= 4:
        raise ValueError(f"{path}: the shape {image.shape} is not [N, H, W, C]: its axes seem to be out of order")
    if image.shape[3] > 4:
        raise ValueError(
            f"{path}: the images have {image.shape[3]} channels, the shape is {image.shape}: expected 1 (grey), 3 "
            "(RGB), or 2 and 4 with opacity"
        )
    return image


def _find_range(path, image, value_range) -> tuple[float, float]:
    """Return the pixel values of black and white, once all values are known to be finite and in between."""
    if value_range is not None:
        if len(value_range) != 2 or not value_range[0] < value_range[1]:
            raise ValueError(f"{path}: value_range must be (black, white) with black < white, got {value_range}")
    elif image.dtype == bool:
        return 0.0, 1.0
    elif image.dtype == np.uint8:
        # Masks of zeros and ones stored as uint8 would train as nearly black images.
        if not any(chunk.max() > 1 for _, chunk in _chunks(image)):
            raise ValueError(
                f"{path}: uint8 images without any value above 1: pass value_range=(0, 1) if 1 is white, or (0, 255)"
            )
        return 0.0, 255.0
    low, high = _extremes(path, image)
    if value_range is not None:
        margin = 1e-3 * (value_range[1] - value_range[0])
        if low < value_range[0] - margin or high > value_range[1] + margin:
            raise ValueError(f"{path}: values from {low:g} to {high:g}, outside of value_range={tuple(value_range)}")
        if high - low < 0.02 * (value_range[1] - value_range[0]):
            warnings.warn(
                f"{path}: values from {low:g} to {high:g} fill hardly any of value_range={tuple(value_range)}: these "
                "images are nearly of one shade",
                stacklevel=4,
            )
        return float(value_range[0]), float(value_range[1])
    if image.dtype.kind == "f" and -1.001 <= low < 0 and high <= 1.001:
        return -1.0, 1.0
    raise ValueError(
        f"{path}: {image.dtype} images with values from {low:g} to {high:g}: their range is not guessed. Pass "
        "value_range=(black, white), e.g. (0, 1), (0, 255) or (-1, 1)"
    )


def _extremes(path, image) -> tuple[float, float]:
    low, high, num_bad, first = np.inf, -np.inf, 0, None
    for start, chunk in _chunks(image):
        if chunk.dtype.kind == "f" and not np.isfinite(chunk).all():
            bad = ~np.isfinite(chunk)
            num_bad += int(bad.sum())
            if first is None:
                where = np.unravel_index(bad.argmax(), bad.shape)
                first = f"{chunk[where]} at {(start + int(where[0]), *(int(i) for i in where[1:]))}"
        elif not num_bad:
            low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
    if num_bad:
        raise ValueError(f"{path}: {num_bad} values are NaN or infinite, the first is {first}: repair the file")
    return low, high


def _chunks(image):
    rows = max(1, CHUNK_BYTES // max(1, image[:1].nbytes))
    for start in range(0, len(image), rows):
        yield start, image[start : start + rows]
