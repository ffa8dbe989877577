"""The largest batch that fits, by compiling for several: memory grows nearly in proportion, so few are needed."""

import math
from collections.abc import Callable
from typing import NamedTuple

MOST = 2**22  # images; a search without an end would follow from a memory that nobody knows


class Largest(NamedTuple):
    """What was found.

    Attributes:
      fits: the largest batch that was found to fit; 0 where the smallest does not.
      too_large: the smallest that was found not to; None where none was.
      needed: batch -> bytes of each that was tried.
    """

    fits: int
    too_large: int | None
    needed: dict[int, int]


def largest_batch(
    needed: Callable[[int], int], there: int, *, start: int, multiple: int, within: float = 0.0
) -> Largest:
    """The largest batch whose program needs no more memory than there is.

    Args:
      needed: batch -> bytes of a device, growing with it.
      there: bytes.
      start: where to begin.
      multiple: only multiples of this are tried.
      within: the search ends where the next batch that does not fit is no more than this share larger; 0: where it is
        the next multiple.

    Raises:
      ValueError: for a multiple below 1.
    """
    if multiple < 1:
        raise ValueError(f"a batch is a multiple of at least 1, not {multiple}")
    tried: dict[int, int] = {}
    fits, too_large, n = 0, None, max(1, start // multiple)
    while True:
        tried[n] = needed(n * multiple)
        if tried[n] <= there:
            fits = max(fits, n)
        else:
            too_large = n if too_large is None else min(n, too_large)
        step = max(1, math.floor(within * fits))
        if (too_large is not None and too_large - fits <= step) or fits * multiple >= MOST:
            break
        n = _next(tried, there, fits, too_large, step)
    in_images = {n * multiple: size for n, size in sorted(tried.items())}
    return Largest(fits * multiple, None if too_large is None else too_large * multiple, in_images)


def _next(tried: dict[int, int], there: int, fits: int, too_large: int | None, step: int) -> int:
    """What to try after some: where the line through two of them meets the memory, and beside it."""
    if len(tried) == 1:
        return 2 * fits if too_large is None else max(1, too_large // 2)
    if too_large is None:
        least, most = fits + 1, 64 * fits
    else:
        least, most = fits + 1, too_large - 1
    near = sorted(tried, key=lambda n: abs(tried[n] - there))[:2]
    (a, b), slope = sorted(near), 0.0
    slope = (tried[b] - tried[a]) / (b - a)
    if slope <= 0 or len(tried) > 6:  # not as it should grow: halve what is left
        return (least + most) // 2
    meets = math.floor(a + (there - tried[a]) / slope)
    if meets <= fits:  # the line says that no more fits: one step more shows it
        meets = fits + step
    elif too_large is not None and meets >= too_large:
        meets = too_large - step
    return min(max(meets, least), most)
