"""Actions of runs that translate: pictures of any size, in tiles where they are large."""

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.data import masks
from jaxgen.editing.session import Holes, Session
from jaxgen.editing.translator import Translator, translator


def translate(
    session: Session,
    *,
    labels: tuple[int, ...] = (),
    direction: str | None = None,
    noise_level: float | None = None,
    tile: int | None = None,
) -> None:
    """Translates each picture, and writes it.

    Args:
      session: what is edited.
      labels: at most one: what pictures are to become.
      direction, noise_level: see `translator.translator`.
      tile: side of tiles, in pixels; 0: none.

    Raises:
      MissingCapability: for a run that does not translate.
      ValueError: for several labels, a run that is told a mask, or settings that do not fit.
    """
    editor = _editor(session, labels, direction, noise_level, tile)
    if editor.masked:
        raise ValueError(
            f"{session.trained.system.name} fills holes, and is told where they are: use jaxgen edit RUN complete"
        )
    for picture, name in session.pictures():
        try:
            background = session.background_of(picture)
            edited = editor.picture(picture, background=background, progress=session.progress)
        except ValueError as error:
            session.fail(picture.path, error)
            continue
        session.write(edited, picture, name)


def complete(
    session: Session,
    *,
    mask: Path | None = None,
    hole: str | None = None,
    labels: tuple[int, ...] = (),
    tile: int | None = None,
    resize: bool = False,
    **of_latents: object,
) -> None:
    """Fills the hole of each picture; what is known stays as it is, to the bit.

    Args:
      session: what is edited.
      mask, hole: one of them: see `Holes`.
      labels: at most one.
      tile: side of tiles, in pixels.
      resize: refused: such a run takes pictures of any size.
      of_latents: refused, unless None.

    Raises:
      ValueError: for a run that is told no mask, and settings that mean nothing for it.
    """
    del hole  # the box, where there is no mask
    for name, value in {"resize": resize or None, **of_latents}.items():
        if value is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is for runs that decode latents, and {session.trained.system.name} "
                "translates"
            )
    editor = _editor(session, labels, None, None, tile)
    if not editor.masked:
        raise ValueError(
            f"{session.trained.system.name} translates without being told a mask: complete needs a run that was "
            "trained with holes, or one that decodes latents"
        )
    holes = Holes(mask)
    for picture, name in session.pictures():
        try:
            hole_of = holes.of(picture, name)
            _warn_of_places(session, hole_of)
            background = session.background_of(picture)
            edited = editor.picture(picture, mask=hole_of, background=background, progress=session.progress)
        except ValueError as error:
            session.fail(picture.path, error)
            continue
        session.write(edited, picture, name, missing_share=float(hole_of.mean()))


def _warn_of_places(session: Session, hole: np.ndarray) -> None:
    """Says so where a hole reaches further than those that the run was trained to fill."""
    source: Any = getattr(session.trained.config, "source", None)
    if source is None or getattr(source, "kind", None) != "centre":
        return
    learnt = masks.centre(None, hole.shape[:2], share=source.share)
    if np.any(hole > np.asarray(learnt)):
        warnings.warn(
            f"{session.trained.system.name} of this run was trained to fill {source.words.partition(';')[0]}; a hole "
            "here reaches further, and what is filled there is a guess without practice, or grey",
            stacklevel=2,
        )


def _editor(session, labels, direction, noise_level, tile) -> Translator:
    if len(labels) > 1:
        raise ValueError(f"a picture is translated to one class: give one --label, not {len(labels)}")
    return translator(
        session.trained,
        key=jax.random.key(session.seed),
        label=labels[0] if labels else None,
        direction=direction,
        noise_level=noise_level,
        who=session.who,
        side=256 if tile is None else tile,
    )
