"""Edited pictures as a page: each before and after, one over the other with a slider between them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgen import files, images, pages
from jaxgen.editing.files import Picture
from jaxgen.pages import pictures

MOST = 16  # pictures on a page
SIDE = 1200  # pixels that a picture is reduced to


class View(NamedTuple):
    """What is shown of a picture.

    name: of its file.
    before: as it was, or all that there is to be shown.
    after: as it is now; None where `before` is all.
    caption: in words.
    """

    name: str
    before: pictures.Picture
    after: pictures.Picture | None = None
    caption: str = ""


def before_and_after(name: str, before: Picture, after: Picture, caption: str = "", background: Any = -1.0) -> View:
    """Both at one size: the smaller one enlarged without interpolation, large ones reduced by area averages.

    Args:
      name: of the file.
      before, after: of one size, or `after` some times as large.
      caption: in words.
      background: in [-1, 1], of what is transparent.
    """
    words = [caption] if caption else []
    if after.size != before.size:
        words.append(f"{before.size[1]}x{before.size[0]} to {after.size[1]}x{after.size[0]} pixels")
    if max(after.size) > SIDE:
        words.append(f"reduced to {SIDE} pixels on this page")
    shown = [pictures.Picture.of(_png(picture, after.size, background)) for picture in (before, after)]
    return View(name, shown[0]._replace(label="before"), shown[1]._replace(label="after"), "; ".join(words))


def _png(picture: Picture, size: tuple[int, int], background: Any) -> bytes:
    from PIL import Image

    levels = images.to_uint8(picture.pixels(channels=3, background=background))
    image = Image.fromarray(levels)
    if picture.size != size:
        image = image.resize((size[1], size[0]), Image.Resampling.NEAREST)
    if max(size) > SIDE:
        share = SIDE / max(size)
        image = image.resize((max(1, round(size[1] * share)), max(1, round(size[0] * share))), Image.Resampling.BOX)
    return images.png_bytes(np.asarray(image))


def write(
    path: Path,
    views: Sequence[View],
    *,
    title: str,
    subject: str,
    settings: Mapping[str, Any],
    failed: Mapping[str, str],
) -> Path:
    """One HTML file with up to 16 pictures; nothing is loaded from elsewhere.

    Args:
      path: of the page.
      views: of the pictures.
      title, subject: what was done, and by which run.
      settings: name -> value.
      failed: name of a picture that was not edited -> why.

    Raises:
      OSError: with the path and what to do, if the file cannot be written.
    """
    page = pages.render(
        "edit",
        title=title,
        subject=subject,
        views=views[:MOST],
        views_left=max(0, len(views) - MOST),
        settings=settings,
        failed=failed,
    )
    with files.explained(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, page)
    return path
