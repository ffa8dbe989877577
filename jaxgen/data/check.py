"""Checks of images and batches, on the host or where a step is traced: wrong ranges train badly, without an error."""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxgen.arguments import described

TOLERANCE = 1e-3


def check_layout(shape: tuple[int, ...], found: str) -> None:
    """Raise a ValueError for images of a shape [..., C, H, W], whose channels come first: 1 to 4 of them.

    Args:
        shape: of one image or of many.
        found: the beginning of the error, which says the shape.
    """
    if len(shape) in (3, 4) and shape[-3] in (1, 2, 3, 4) and min(shape[-2:]) > 4:
        raise ValueError(f"{found}, which looks like channels first: give x.transpose(0, 2, 3, 1)")


def doubt_of_range(image: np.ndarray) -> str:
    """What is doubtful about the range of images, in words; "" where nothing is.

    Args:
        image: uint8, or floats that should be in [-1, 1]; any shape.

    Returns:
        Of floats of which none is below 0, and of uint8 of which none is above 1, what to do, since all others learn
        nothing from an error: they may be right, being bright or nearly black. One shade alone is not doubted.
    """
    if image.size == 0 or (low := image.min()) == (high := image.max()):
        return ""
    if image.dtype == np.uint8:
        return "" if high > 1 else "uint8 images without any value above 1: if 1 is white, give 255 * image"
    if not 0 <= low < high <= 1 + TOLERANCE:
        return ""
    return (
        f"values from {low:g} to {high:g}, none below 0, where black is -1 and white is 1: if 0 is black, give "
        "2 * image - 1 (half of the range trains badly)"
    )


def is_in_range(image: np.ndarray) -> bool:
    """Whether floats are all finite and in [-1, 1], up to 0.001; in one pass each, without copies. True for none."""
    return image.size == 0 or bool(image.min() >= -1 - TOLERANCE and image.max() <= 1 + TOLERANCE)


def check_pictures(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a ValueError for images [..., H, W, C] that cannot be drawn, by name: C must be 1 (grey) or 3 (RGB)."""
    for name, shape in shapes.items():
        if len(shape) in (4, 5) and shape[-1] not in (1, 3):
            raise ValueError(
                f"{name}: images of {shape[-1]} channels, of shape {tuple(shape)}, cannot be shown: give data of 1 "
                "(grey) or 3 (RGB) channels, with transparency composited, or a system whose views have so many"
            )


def check_images(image: Any, *, image_shape: tuple[int, int, int] | None = None, name: str = "image") -> None:
    """Check that images are what a train step takes: finite floats [B, H, W, C] in [-1, 1].

    Args:
        image: a NumPy or JAX array.
        image_shape: (H, W, C) to insist on; None: any.
        name: how errors call it.

    Raises:
        TypeError: for another dtype than floating point.
        ValueError: for another rank or shape, for values that are not finite or that are outside of [-1, 1] by more
            than 0.001. Says what was found and what to do.
    """
    dtype = np.dtype(image.dtype)
    image = np.asarray(image)
    # bfloat16 is no NumPy kind "f"; float32 holds all its values.
    if dtype.kind != "f" and dtype.name != "bfloat16":
        advice = ": scale with x / 127.5 - 1" if dtype == np.uint8 else ": convert to float32 in [-1, 1]"
        raise TypeError(f"{name} is {dtype}, expected floating point{advice}")
    image = image.astype(np.float32)
    if image.ndim != 4:
        advice = ": add a channel axis with x[..., None]" if image.ndim == 3 else ""
        raise ValueError(f"{name} has the shape {image.shape}, expected [B, H, W, C]{advice}")
    if image_shape is None or image.shape[1:] == tuple(image_shape):
        check_layout(image.shape, f"{name} has the shape {image.shape}")
    else:
        advice = ""
        if (image.shape[2], image.shape[3], image.shape[1]) == tuple(image_shape):
            advice = ": the channels come first, move them with x.transpose(0, 2, 3, 1)"
        raise ValueError(
            f"{name} has the shape {image.shape}, expected [B, {', '.join(map(str, image_shape))}]{advice}"
        )
    if image.size == 0:
        raise ValueError(f"{name} is empty, its shape is {image.shape}")
    bad = ~np.isfinite(image)
    if bad.any():
        where = tuple(int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
        raise ValueError(
            f"{name} has {int(bad.sum())} values that are not finite, the first ({image[where]}) at {where}: "
            "look at the data or at what prepares it"
        )
    low, high = float(image.min()), float(image.max())
    if low < -1 - TOLERANCE or high > 1 + TOLERANCE:
        advice = "scale to [-1, 1]"
        if low >= 0 and high <= 255:
            advice = "scale with x / 127.5 - 1"
        elif low >= 0 and high <= 65535:
            advice = "scale with x / 32767.5 - 1"
        raise ValueError(f"{name} has values from {low:g} to {high:g}, expected [-1, 1]: {advice}")


def check_given(image: Any) -> None:
    """Check the images of a step, [B, H, W, C] or of other rank: what can be seen under a trace, and known values.

    Raises:
        TypeError, ValueError: as `check_traced`, and for [B, H, W, C] as `check_known`, which warns, too.
    """
    check_traced(image)
    if image.ndim == 4 and not isinstance(image, jax.core.Tracer):
        check_known(image)


def check_traced(image: Any) -> None:
    """Check that images are an array, floating point, channels last: by what is known when a function is traced.

    Raises:
        TypeError: for what is no array of JAX or NumPy, and for another dtype than floating point.
        ValueError: for channels that come first.
    """
    if not isinstance(image, (jax.Array, np.ndarray)):
        hint = "give jnp.asarray(x.numpy())" if hasattr(image, "numpy") else "give jnp.asarray(x)"
        raise TypeError(f"images must be an array of JAX or NumPy, not {described(image)}: {hint}")
    if not jax.dtypes.issubdtype(image.dtype, np.floating):
        raise TypeError(
            f"images must be floating point in [-1, 1], not {image.dtype}; for bytes use x.astype(float32) / 127.5 - 1"
        )
    if image.ndim == 4:
        check_layout(image.shape, f"images have the shape {list(image.shape)}, expected [B, H, W, C]")


def check_known(image: jax.Array | np.ndarray) -> None:
    """Raise a ValueError for images [B, H, W, C] that are not in [-1, 1], and warn of a doubtful range."""
    check_images(image)
    if len(image) > 1 and (doubt := doubt_of_range(np.asarray(image).astype(np.float32))):
        warnings.warn(f"a batch of images has {doubt}", stacklevel=4)


def check_batch(batch: Mapping, *, image_shape: tuple[int, int, int], num_classes: int | None = None) -> None:
    """Check a batch: its images with `check_images`, and its labels if it has any.

    Args:
        batch: `image` and, unless unlabelled, `label`; `source` and `mask`, if there are any.
        image_shape: (H, W, C) that the network was built for.
        num_classes: the number of classes that the network was built for; None: do not check labels against it.

    Raises:
        KeyError: without `image`, or without `label` when num_classes is given.
        TypeError, ValueError: as `check_images`; for labels that are not [B] integers in 0..num_classes-1; for sources
            that are no finite images, and masks that are not [B, H, W, 1] of zeros and ones.
    """
    if "image" not in batch:
        raise KeyError(f'a batch needs "image", this one has {sorted(batch)}')
    check_images(batch["image"], image_shape=image_shape)
    for name in ("source", "mask"):
        if name in batch:
            _check_beside(batch[name], name, batch["image"])
    if "label" not in batch:
        if num_classes:
            raise KeyError(f"{num_classes} classes are expected, but the batch has no labels: only {sorted(batch)}")
        return
    label = np.asarray(batch["label"])
    if label.dtype.kind not in "iu":
        raise TypeError(f"label is {label.dtype}, expected int32")
    if label.shape != (len(batch["image"]),):
        raise ValueError(f"label has the shape {label.shape}, expected [{len(batch['image'])}]")
    if num_classes is not None and (label.min() < 0 or label.max() >= num_classes):
        raise ValueError(f"labels from {label.min()} to {label.max()}, expected 0 to {num_classes - 1}")


def _check_beside(value, name, image):
    value, height_width = np.asarray(value, np.float32), np.shape(image)[1:3]
    wanted = (len(image), *height_width, 1) if name == "mask" else (len(image), "h", "w", "c")
    if value.ndim != 4 or len(value) != len(image) or (name == "mask" and value.shape != wanted):
        raise ValueError(f"{name} has the shape {value.shape}, expected [{', '.join(map(str, wanted))}]")
    if not np.isfinite(value).all():
        raise ValueError(f"{name} has values that are not finite: look at what prepares it")
    if name == "mask" and not ((value == 0) | (value == 1)).all():
        raise ValueError("mask has other values than 0, where the image is known, and 1, where it is missing")
