"""Holes: pure functions `(key, shape (H, W)) -> mask [H, W, 1]`, float32, 1 where the image is missing, 0 where known.

The same key gives the same mask. Lengths are shares of the shorter side, so that the holes of small images look like
those of large ones; the defaults are the published pixels at 256.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.arguments import check_key


def centre(key: jax.Array | None, shape: tuple[int, int], *, share: float = 0.5) -> jax.Array:
    """One box in the middle, always the same. Pathak et al. 2016, "Context Encoders".

    Args:
        key: unused.
        shape: (H, W).
        share: of height and of width, so that of half the sides a quarter of the pixels is missing; rounded to pixels.

    Returns:
        float32 [H, W, 1].

    Raises:
        ValueError: for a hole larger than the image, or of no pixel.
    """
    del key
    height, width = (round(share * side) for side in shape)
    _check_sides("a hole", share, min(height, width), height, width, shape)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    mask = np.zeros((*shape, 1), np.float32)
    mask[top : top + height, left : left + width] = 1.0
    return jnp.asarray(mask)


def boxes(
    key: jax.Array,
    shape: tuple[int, int],
    *,
    num: tuple[int, int] = (1, 4),
    side: tuple[float, float] = (30 / 256, 150 / 256),
    margin: float = 10 / 256,
) -> jax.Array:
    """Boxes anywhere, which may overlap. The defaults are LaMa's (Suvorov et al. 2022).

    Args:
        key: of the draw.
        shape: (H, W).
        num: least and most boxes.
        side: shortest and longest height and width, as shares of the shorter side of the image.
        margin: that stays free at the border, likewise.

    Returns:
        float32 [H, W, 1].

    Raises:
        TypeError: for what is no key.
        ValueError: for boxes larger than the image without its margin, or of no pixel.
    """
    check_key(key)
    _check_number("boxes", num)
    unit = min(shape)
    least, most, border = round(side[0] * unit), round(side[1] * unit), round(margin * unit)
    inner = (shape[0] - 2 * border, shape[1] - 2 * border)
    _check_sides("a box", side[1], least, most, most, inner)
    of_number, of_sides, of_places = jax.random.split(key, 3)
    drawn = jax.random.randint(of_number, (), num[0], num[1] + 1)
    sides = jax.random.randint(of_sides, (num[1], 2), least, most + 1)
    room = jnp.array(inner) - sides + 1
    start = border + jnp.floor(jax.random.uniform(of_places, (num[1], 2)) * room).astype(jnp.int32)
    inside = [
        (np.arange(shape[axis]) >= start[:, axis, None]) & (np.arange(shape[axis]) < (start + sides)[:, axis, None])
        for axis in (0, 1)
    ]
    there = jnp.arange(num[1]) < drawn
    covered = inside[0][:, :, None] & inside[1][:, None, :] & there[:, None, None]
    return jnp.any(covered, axis=0)[..., None].astype(jnp.float32)


def one_box(
    key: jax.Array,
    shape: tuple[int, int],
    *,
    side: tuple[float, float] = (96 / 256, 1 / 2),
) -> jax.Array:
    """One box anywhere; the default is DeepFill v2's, 96 to 128 of 256 pixels (Yu et al. 2019).

    Args, returns and errors are those of `boxes`.
    """
    return boxes(key, shape, num=(1, 1), side=side, margin=0.0)


def strokes(
    key: jax.Array,
    shape: tuple[int, int],
    *,
    num: tuple[int, int] = (1, 5),
    pieces: tuple[int, int] = (1, 5),
    length: tuple[float, float] = (10 / 256, 210 / 256),
    width: tuple[float, float] = (5 / 256, 105 / 256),
    turn: tuple[float, float] = (0.0, 4.0),
    zigzag: bool = False,
) -> jax.Array:
    """Strokes of a brush: chains of straight pieces with round ends, whose direction is drawn anew for each piece.

    Ends are kept inside of the image. The defaults are LaMa's (Suvorov et al. 2022), which draws the width for each
    piece and angles in whole radians, here drawn evenly; `brush` has those of DeepFill v2.

    Args:
        key: of the draw.
        shape: (H, W).
        num: least and most strokes.
        pieces: least and most pieces of a stroke.
        length: of a piece, as shares of the shorter side of the image.
        width: of a stroke, likewise.
        turn: the angles, in radians from the vertical; those of every second stroke are mirrored.
        zigzag: mirrors those of every second piece instead.

    Returns:
        float32 [H, W, 1].

    Raises:
        TypeError: for what is no key.
        ValueError: for numbers that are no range, and for strokes wider than the image.
    """
    check_key(key)
    _check_number("strokes", num)
    _check_number("pieces", pieces)
    unit = min(shape)
    if width[1] > 1:
        raise ValueError(f"a stroke of {width[1]:g} of the side is wider than the image: give at most 1")
    keys = jax.random.split(key, 6)
    uniform = functools.partial(jax.random.uniform, dtype=jnp.float32)
    size = (num[1], pieces[1])
    drawn = jax.random.randint(keys[0], (), num[0], num[1] + 1)
    drawn_pieces = jax.random.randint(keys[1], (num[1], 1), pieces[0], pieces[1] + 1)
    lengths = unit * uniform(keys[2], size, minval=length[0], maxval=length[1])
    radius = unit * uniform(keys[3], (num[1],), minval=width[0], maxval=width[1]) / 2
    angle = uniform(keys[4], size, minval=turn[0], maxval=turn[1])
    order = np.arange(pieces[1])[None] if zigzag else np.arange(num[1])[:, None]
    angle = jnp.where(order % 2 == 0, 2 * jnp.pi - angle, angle)
    steps = lengths[..., None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    end = jnp.array(shape, jnp.float32)
    first = end * uniform(keys[5], (num[1], 2))

    def follow(place, step):
        after = jnp.clip(place + step, 0.0, end)
        return after, (place, after)

    _, (begin, after) = jax.lax.scan(follow, first, steps.swapaxes(0, 1))  # [pieces, num, 2] each
    there = (jnp.arange(num[1]) < drawn)[None] & (jnp.arange(pieces[1])[:, None] < drawn_pieces[:, 0])
    near = _distance_to_pieces(shape, begin, after) <= radius[:, None, None]
    return jnp.any(near & there[..., None, None], axis=(0, 1))[..., None].astype(jnp.float32)


brush = functools.partial(
    strokes,
    num=(1, 3),
    pieces=(4, 11),
    length=(0.0, 2**-1.5),
    width=(12 / 256, 40 / 256),
    turn=(4 * np.pi / 15, 8 * np.pi / 15),
    zigzag=True,
)
"""Strokes as DeepFill v2 draws them (Yu et al. 2019), its lengths being normal, cut at 0 and twice their mean, and here
even between these."""


def random_pixels(key: jax.Array, shape: tuple[int, int], *, share: float = 0.5) -> jax.Array:
    """Each pixel is missing with the same probability, on its own.

    Args:
        key: of the draw.
        shape: (H, W).
        share: the probability.

    Returns:
        float32 [H, W, 1].

    Raises:
        TypeError: for what is no key.
        ValueError: for a share outside of 0..1.
    """
    check_key(key)
    if not 0 <= share <= 1:
        raise ValueError(f"the share of missing pixels is from 0 to 1, not {share:g}")
    return jax.random.bernoulli(key, share, (*shape, 1)).astype(jnp.float32)


def one_of(key: jax.Array, shape: tuple[int, int], *, kinds: tuple[Callable, ...] = (strokes, boxes)) -> jax.Array:
    """One of several kinds of holes, at equal odds; the default is LaMa's mixture.

    Args:
        key: of the choice and of the draw.
        shape: (H, W).
        kinds: functions like those of this module.

    Returns:
        float32 [H, W, 1].
    """
    check_key(key)
    of_kind, of_mask = jax.random.split(key)
    chosen = jax.random.randint(of_kind, (), 0, len(kinds))
    return jax.lax.switch(chosen, [functools.partial(kind, shape=shape) for kind in kinds], of_mask)


def union(key: jax.Array, shape: tuple[int, int], *, kinds: tuple[Callable, ...] = (one_box, brush)) -> jax.Array:
    """The holes of several kinds at once; the default is DeepFill v2's training, a box and strokes.

    Args:
        key: of the draw, split over the kinds.
        shape: (H, W).
        kinds: functions like those of this module.

    Returns:
        float32 [H, W, 1].
    """
    check_key(key)
    masks = [kind(own, shape=shape) for kind, own in zip(kinds, jax.random.split(key, len(kinds)), strict=True)]
    return functools.reduce(jnp.maximum, masks)


def _distance_to_pieces(shape, begin, end):
    """Of the middle of each pixel to each piece: [..., H, W]."""
    rows, columns = (np.arange(side, dtype=np.float32) + 0.5 for side in shape)
    to_pixel = [rows[:, None] - begin[..., 0, None, None], columns[None] - begin[..., 1, None, None]]
    along = [(end - begin)[..., axis, None, None] for axis in (0, 1)]
    squared = along[0] ** 2 + along[1] ** 2
    share = (to_pixel[0] * along[0] + to_pixel[1] * along[1]) / jnp.maximum(squared, 1e-6)
    share = jnp.clip(share, 0.0, 1.0)
    return jnp.hypot(to_pixel[0] - share * along[0], to_pixel[1] - share * along[1])


def _check_number(what, num):
    if not 1 <= num[0] <= num[1]:
        raise ValueError(f"the number of {what} is drawn between two numbers from 1 on, not {num[0]} and {num[1]}")


def _check_sides(what, share, least, height, width, shape):
    if height > shape[0] or width > shape[1]:
        raise ValueError(f"{what} of {height}x{width} pixels is larger than the {shape[0]}x{shape[1]} that there are")
    if least < 1:
        raise ValueError(f"{what} of {share:g} of the side has no pixel in an image of {shape[0]}x{shape[1]}")
