"""Folders of pictures, edited by a run: what is read, what is written, what failed, and the record of it."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen import files
from jaxgen.data import decode, reading
from jaxgen.editing import files as picture_files
from jaxgen.editing import page as pages
from jaxgen.editing.files import Found, Picture
from jaxgen.loading import Trained
from jaxgen.names import show
from jaxgen.progress import Progress, no_progress

PAGE, RECORD = "edited.html", "edited.json"


@dataclasses.dataclass
class Session:
    """An edit of pictures, and what has become of them so far.

    Attributes:
      trained: the run.
      action: what is done.
      found: the pictures.
      folder: that is written into.
      seed: of all that is drawn.
      background: that transparent pictures lie on for the network, a colour.
      page: whether views are made.
      progress: shows how far it is.
      written: a dict for each file: `source`, `output`, and numbers.
      failed: path of a picture -> what is wrong with it.
      views: for the page.
      settings: what else was asked for, for the record.
    """

    trained: Trained
    action: str
    found: Found
    folder: Path
    seed: int = 0
    background: str | None = None
    page: bool = True
    progress: Progress = no_progress
    written: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    views: list[pages.View] = dataclasses.field(default_factory=list)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.failed |= self.found.failed
        if self.background is None:
            config = self.trained.config
            self.background = "white" if config is None else config.data.background
        decode.background_pixel(self.background, 3)

    @property
    def who(self) -> str:
        """Asks for a capability."""
        return f"jaxgen edit {self.action}"

    def background_of(self, picture: Picture) -> np.ndarray:
        """The background in [-1, 1], one number for each of the picture's channels."""
        assert self.background is not None
        return decode.background_pixel(self.background, picture.channels) / np.float32(127.5) - 1

    def pictures(self) -> Iterator[tuple[Picture, str]]:
        """Pictures that can be read, each with its name below the output folder; others have failed."""
        for path, name in self.progress(self.found.named, len(self.found.named), self.action):
            try:
                picture = picture_files.read(path)
            except Exception as error:  # Pillow raises many kinds
                self.fail(path, error)
                continue
            yield picture, name

    def fail(self, path: Path, error: Exception) -> None:
        """A picture that is not edited. Nothing is written in its place."""
        self.failed[str(path)] = reading.describe_error(error)

    def write(self, edited: Picture, before: Picture, name: str, caption: str = "", **numbers: Any) -> None:
        """Writes an edited picture, under its name."""
        path = picture_files.write(self.folder / name, edited)
        size = {"height": edited.size[0], "width": edited.size[1]}
        self.written.append({"source": str(before.path), "output": str(path), **size, **numbers})
        if self.page and len(self.views) < pages.MOST:
            background = float(np.mean(self.background_of(before)))
            self.views.append(pages.before_and_after(show(name), before, edited, caption, background))

    @property
    def record(self) -> dict[str, Any]:
        """What was done, the same each time."""
        return {
            "system": self.trained.system.name,
            "step": self.trained.step,
            "action": self.action,
            "seed": self.seed,
            "settings": self.settings,
            "written": self.written,
            "failed": self.failed,
        }

    def keep(self, subject: str) -> None:
        """Writes the record, and the page where one is wanted.

        Args:
          subject: which run it was, for the page.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_atomically(self.folder / RECORD, files.json_bytes(self.record))
        if self.page:
            shown = {"seed": self.seed, "step": self.trained.step} | self.settings
            pages.write(
                self.folder / PAGE,
                self.views,
                title=self.action,
                subject=subject,
                settings={name.replace("_", " "): value for name, value in shown.items()},
                failed={show(path): reason for path, reason in self.failed.items()},
            )


def edit(session: Session, **settings: Any) -> None:
    """Does what a session is for; its `written`, `failed` and `views` tell what came of it.

    Args:
      session: a new one.
      settings: of the action, as the functions of `by_translation` and `by_latents` take them.

    Raises:
      MissingCapability: for a run that cannot do it.
      ValueError: for settings that do not fit, or files that would be overwritten.
    """
    from jaxgen.editing import by_latents, by_translation

    actions: dict[str, Callable[..., None]] = {
        "translate": by_translation.translate,
        "restore": by_translation.translate,
        "complete": by_latents.complete if session.trained.system.translate is None else by_translation.complete,
        "invert": by_latents.invert,
        "walk": by_latents.walk,
        "mix": by_latents.mix,
    }
    picture_files.check_targets(session.found.named, session.folder)
    session.settings |= {name: value for name, value in settings.items() if value not in (None, (), [])}
    actions[session.action](session, **settings)


class Holes:
    """Masks of pictures: `--mask` or `--hole`.

    Args:
      mask: a file, or a folder of files of the pictures' names; None: the box.
    """

    def __init__(self, mask: Path | None) -> None:
        self._folder = mask if mask is not None and mask.is_dir() else None
        self._one = None if mask is None or self._folder is not None else picture_files.read(mask)

    def of(self, picture: Picture, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """The mask [H, W, 1] of a picture: 1 where it is missing.

        Args:
          picture: as it was read.
          name: of its file, below the folder.
          size: (height, width) that both are brought to; None: they keep theirs.

        Raises:
          ValueError: for a mask of another size, of nothing or of everything, or none of this name.
        """
        from jaxgen.data import masks

        if self._folder is None and self._one is None:
            return np.asarray(masks.centre(None, picture.size if size is None else size))
        own = self._one
        if own is None:
            assert self._folder is not None
            path = self._folder / name
            if not path.exists():
                same = sorted(self._folder.glob(f"{Path(name).stem}.*"))
                if len(same) != 1:
                    raise ValueError(f"{show(str(self._folder))} holds no mask called {show(name)}")
                path = same[0]
            try:
                own = picture_files.read(path)
            except Exception as error:  # Pillow raises many kinds
                raise ValueError(f"the mask {show(str(path))}: {reading.describe_error(error)}") from error
        found = picture_files.mask_of(own, picture.size)
        if size is not None and size != picture.size:
            levels = (found * 255).astype(np.uint8)
            found = (picture_files.resized(own._replace(levels=levels, alpha=None), size).levels > 127).astype(
                np.float32
            )
        share = float(found.mean())
        if share in (0.0, 1.0):
            raise ValueError("the mask is white nowhere" if share == 0 else "the mask is white everywhere")
        return found
