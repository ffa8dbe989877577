"""An image-to-image function on images of any size, in tiles whose overlap is computed, not guessed.

    field = tiling.field_of(function, channels=3, key=key)     # how far it sees: by its gradient
    image = tiling.tiled(jax.jit(function), image, field)      # equal to function(image), in bounded memory

An output depends on the inputs within the radius of the function alone, so that a tile with that much around it gives
the same numbers as the whole image; with a pixel less it does not. A function that sees the whole image (instance
normalisation, a pooling over the image, an attention, a Fourier transform) has no such radius, and is refused.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxgen.arguments import check_key

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)  # of sizes and of shifts, which are tried
_LARGE = 1e20  # what the gradient begins with: far from its centre it may be smaller by more than float32 holds


class SeesEverything(ValueError):
    """A function has no receptive radius, or none up to the one that was looked for, and cannot be tiled."""


class Field(NamedTuple):
    """What `field_of` finds of a function.

    radius: how many pixels of the input beyond a block of `align` by `align` outputs these depend on.
    multiple: that the sides of an image are to be whole multiples of.
    align: that tiles begin at whole multiples of: 1 where the function is the same at each pixel, else its stride.
    scale: side of the output over that of the input.
    channels: of the output.
    """

    radius: int
    multiple: int
    align: int
    scale: int
    channels: int


class Tile(NamedTuple):
    """A part of an image: rows and columns, as slices.

    source: of the input that the function is given.
    kept: of what it returns, without what lies too near to an edge of the tile.
    target: of the output, where that goes. The targets of all tiles cover the output once.
    """

    source: tuple[slice, slice]
    kept: tuple[slice, slice]
    target: tuple[slice, slice]


def sizes_of(function: Callable[[jax.Array], jax.Array], channels: int) -> tuple[int, int, int]:
    """(multiple, scale, output channels): which sizes a function takes, and what becomes of them. Traces only.

    Args:
      function: images [1, H, W, channels] -> images [1, scale H, scale W, output channels].
      channels: of the input.

    Raises:
      ValueError: for a function that keeps no proportions, or takes no sizes that are multiples of 64, with what it
        said of them.
    """
    said = ""
    for multiple in MULTIPLES:
        height = multiple * (math.ceil(40 / multiple) // 2 * 2 + 1)  # an odd number of them, 40 pixels at least
        width = height + 2 * multiple
        try:
            found = jax.eval_shape(function, jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32))
        except (TypeError, ValueError, ZeroDivisionError, IndexError, AssertionError) as error:
            said = str(error).partition("\n")[0]
            continue
        if found.ndim == 4 and found.shape[1] % height == 0 and found.shape[1] * width == found.shape[2] * height:
            return multiple, found.shape[1] // height, found.shape[3]
        said = f"{height}x{width} pixels become an array of {list(found.shape[1:])}"
    raise ValueError(f"this function is not for images of any size: {said}")


def field_of(
    function: Callable[[jax.Array], jax.Array],
    channels: int,
    *,
    key: jax.Array,
    most: int = 128,
    tolerance: float = 1e-4,
    num_probes: int = 2,
) -> Field:
    """How far a function sees, from where the gradient of an output is not 0, at random images.

    The whole is then compared with a part of it that begins `align` pixels later, with the radius found: where they
    differ at `align` 1, the function has a stride, or draws noise, or knows where it is, and 2, 4, ..., 64 are tried.
    All of that happens on the CPU, where there is one for JAX: convolutions of accelerators may go by ways (Winograd's
    of large tiles, Fourier's) whose rounding reaches further than the function, and multiply in less than float32.

    Args:
      function: images [1, H, W, channels] -> images [1, scale H, scale W, any], differentiable and deterministic. A
        network's variables had better be bound by `jax.tree_util.Partial(function, variables)`: they are no constants
        of what is compiled then.
      channels: of its input.
      key: of the random images.
      most: the largest radius that is looked for; memory is that of images of 2 (most + 64) pixels a side.
      tolerance: how far the part may be from the whole, as a share of the largest output, by rounding.
      num_probes: random images; where activations are 0 a single one might hide a path.

    Raises:
      TypeError: for what is no key.
      SeesEverything: for a function that sees further than `most`, or the whole image.
      ValueError: for a function that is not for images of any size, or cannot be tiled for another reason.
    """
    check_key(key)
    multiple, scale, outputs = sizes_of(function, channels)
    argument = function if isinstance(function, Partial) else Partial(function)
    with contextlib.suppress(RuntimeError):  # no such platform
        cpu = jax.local_devices(backend="cpu")[0]
        argument, key = jax.device_put((argument, key), cpu)
    run = functools.partial(_applied, argument)
    gradient = functools.partial(_gradient, argument)
    largest = 128 * math.ceil((most + 64) / 64)
    reach_of = functools.partial(_reach, gradient, scale, outputs, channels, key)

    def radius_of(block):
        side = 64 if block <= 32 else 128
        while True:
            reaches = reach_of((side, side), block, num_probes)
            if None not in reaches:
                return max(reaches), side
            # What sees everything does so along a strip, too, at a tenth of the work of the largest square.
            strip = (multiple * math.ceil(40 / multiple), largest)
            if side >= largest or (side == 64 and reach_of(strip, 1, 1)[1] is None):
                raise SeesEverything(
                    f"an output depends on the image {largest // 2} pixels away: the function sees further than "
                    f"{most} pixels, or everything (a norm or a pooling over the image, an attention, a Fourier "
                    "transform): it gives other images in tiles"
                )
            side = min(2 * side, largest)

    error = 0.0
    for align in (m for m in MULTIPLES if m >= multiple):
        radius, side = radius_of(align)
        radius = align * math.ceil(radius / align)
        side += 2 * align * math.ceil(max(0, 2 * (radius + align) - side) / (2 * align))  # room for what is compared
        image = jax.random.uniform(jax.random.fold_in(key, num_probes), (1, side, side, channels), minval=-1.0)
        whole, part = np.asarray(run(image)), np.asarray(run(image[:, align:, align:]))
        begin = scale * radius
        difference = part[:, begin:, begin:] - whole[:, begin + scale * align :, begin + scale * align :]
        error = float(np.max(np.abs(difference))) / max(float(np.max(np.abs(whole))), 1e-30)
        if error <= tolerance:
            return Field(radius, multiple, align, scale, outputs)
    raise ValueError(
        f"this function gives another image when it is shifted, by {error:.2g} of its largest value even at shifts of "
        f"{MULTIPLES[-1]} pixels: it draws noise, knows where it is, or is not differentiable everywhere: it cannot be "
        "tiled"
    )


@jax.jit
def _applied(function, image):
    with jax.default_matmul_precision("highest"):
        return function(image)


@jax.jit
def _gradient(function, image, cotangent):
    with jax.default_matmul_precision("highest"):
        return jax.vjp(function, image)[1](cotangent)[0]


def _reach(gradient, scale, outputs, channels, key, sides, block, num_probes) -> tuple[int | None, ...]:
    """Rows and columns beyond a block in the middle that its outputs depend on; None where these reach an edge."""
    first = tuple(side // 2 for side in sides)
    outside = np.zeros((1, *(scale * side for side in sides), outputs), np.float32)
    inside = tuple(slice(scale * f, scale * (f + block)) for f in first)
    seen = np.zeros(sides, bool)
    for probe in range(num_probes):
        of_image, of_output = jax.random.split(jax.random.fold_in(key, probe))
        image = jax.random.uniform(of_image, (1, *sides, channels), minval=-1.0)
        outside[0][inside] = _LARGE * jax.random.normal(of_output, (scale * block, scale * block, outputs))
        seen |= np.any(np.asarray(gradient(image, outside))[0] != 0, axis=-1)  # NaN counts as seen
    reaches: list[int | None] = []
    for axis, (side, begin) in enumerate(zip(sides, first, strict=True)):
        at = np.flatnonzero(seen.any(axis=1 - axis))
        if not len(at):
            reaches.append(0)
        elif at[0] == 0 or at[-1] == side - 1:
            reaches.append(None)
        else:
            reaches.append(max(0, begin - int(at[0]), int(at[-1]) - (begin + block - 1)))
    return tuple(reaches)


def tiles(height: int, width: int, field: Field, side: int = 256) -> list[Tile]:
    """The tiles of an image, which all have at most `side` pixels a side, and the radius around what is kept of them.

    At an edge of the image a tile ends there, as the whole does. An image side that is not larger is not divided.

    Args:
      height, width: of the image, whole multiples of `field.multiple`.
      field: of the function.
      side: in pixels of the input; rounded down to a multiple of `field.align`.

    Raises:
      ValueError: for tiles that are no larger than what is left out of them, or sizes that are no multiples.
    """
    for length in (height, width):
        if length % field.multiple:
            raise ValueError(f"{height}x{width} pixels are no multiples of {field.multiple}: use `padded`")
    rows, columns = _parts(height, field, side), _parts(width, field, side)
    found = []
    for of_rows in rows:
        for of_columns in columns:
            source, kept, target = zip(of_rows, of_columns, strict=True)
            found.append(Tile(source, kept, target))
    return found


def _parts(length: int, field: Field, side: int) -> list[tuple[slice, slice, slice]]:
    """(source, kept, target) along an axis."""
    radius, scale = field.radius, field.scale
    side -= side % field.align
    step = (side - 2 * radius) // field.align * field.align
    if length <= side:
        starts = [0]
    elif step < field.align:
        raise ValueError(
            f"a tile of {side} pixels holds nothing that is not within {radius} pixels of its edges: take tiles of at "
            f"least {2 * radius + field.align}, better {4 * radius + field.align}"
        )
    else:
        starts = [step * i for i in range(math.ceil((length - side) / step) + 1)]
    found = []
    for i, start in enumerate(starts):
        last = i == len(starts) - 1
        end = length if last else start + side
        first_kept = start + radius if i else 0
        end_kept = length if last else starts[i + 1] + radius
        kept = slice(scale * (first_kept - start), scale * (end_kept - start))
        found.append((slice(start, end), kept, slice(scale * first_kept, scale * end_kept)))
    return found


def padded(image: np.ndarray, multiple: int) -> np.ndarray:
    """An image [H, W, C], enlarged at the bottom and the right to whole multiples by mirroring it."""
    missing = [-length % multiple for length in image.shape[:2]]
    if not any(missing):
        return image
    return np.pad(image, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="reflect")


def tiled(function: Callable[[Any], jax.Array], image: np.ndarray, field: Field, *, side: int = 256) -> np.ndarray:
    """function(image), computed in tiles: the same numbers up to rounding, where `field` is that of the function.

    An image that is no multiple of `field.multiple` is padded by mirroring, and what comes of that is cut off.

    Args:
      function: images [1, h, w, C] -> [1, scale h, scale w, channels]; compiled once for each of at most four sizes of
        tiles, if it is a `jax.jit` of something.
      image: [H, W, C].
      field: from `field_of`.
      side: of tiles, in pixels of the input.

    Returns:
      float32 [scale H, scale W, channels], on the host.
    """
    height, width = image.shape[:2]
    image = padded(np.asarray(image), field.multiple)
    found = np.empty((field.scale * image.shape[0], field.scale * image.shape[1], field.channels), np.float32)
    for tile in tiles(image.shape[0], image.shape[1], field, side):
        found[tile.target] = np.asarray(function(image[tile.source][None])[0])[tile.kept]
    return found[: field.scale * height, : field.scale * width]
