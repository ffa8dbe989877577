"""A run that translates, as an editor of pictures of any size: `translator(run, key=key).picture(files.read(path))`."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxgen.arguments import check_key
from jaxgen.editing import tiling
from jaxgen.editing.files import Picture
from jaxgen.loading import Trained
from jaxgen.names import show
from jaxgen.progress import Progress, no_progress

WHOLE = 1024 * 1024  # pixels of a picture up to which it is not divided
MANY_TILES = 50  # a picture of so many takes long enough to tell how far it is


@jax.jit
def _applied(function, images):
    return function(images)


@dataclasses.dataclass(frozen=True)
class Translator:
    """A run that translates, as a function of pictures of any size.

    Attributes:
      function: images [n, h, w, channels (+ 1 with a mask)] -> images; the last channel of a masked one is the mask.
      channels: of the pictures that it takes, 1 or 3.
      masked: whether it is told a mask, 1 where the image is missing.
      key: of the images by which its receptive field is measured.
      side: of tiles, in pixels; 0: no picture is divided, whatever memory it takes.
      whole: pixels up to which a picture is not divided.
    """

    function: Callable[[jax.Array], jax.Array]
    channels: int
    masked: bool
    key: jax.Array
    side: int = 256
    whole: int = WHOLE

    @functools.cached_property
    def sizes(self) -> tuple[int, int, int]:
        """(multiple, scale, channels of the output): see `tiling.sizes_of`."""
        return tiling.sizes_of(self.function, self.channels + self.masked)

    @functools.cached_property
    def field(self) -> tiling.Field:
        """What it sees, measured when the first picture is too large to be taken as a whole.

        Raises:
          SeesEverything, ValueError: for what cannot be tiled.
        """
        return tiling.field_of(self.function, self.channels + self.masked, key=self.key)

    def picture(
        self,
        picture: Picture,
        *,
        mask: np.ndarray | None = None,
        background: float | np.ndarray = -1.0,
        progress: Progress = no_progress,
    ) -> Picture:
        """What the run makes of a picture: of the same kind, as large or `scale` times as large.

        A grey run is given the colours of a picture one by one; of a grey picture a colour run's colours are averaged.
        Pixels are turned into numbers, and back, one tile after the other.

        Args:
          picture: from `files.read`.
          mask: [H, W, 1], 1 where it is missing: what is there is not seen, and known pixels stay as they are, to the
            bit.
          background: in [-1, 1], a number or one for each of the picture's channels: what a transparent picture is
            composited on for the network, and taken off again.
          progress: shows how far it is with a picture of many tiles.

        Raises:
          ValueError: for a mask of another size; for a picture too large to be taken as a whole by a function that
            cannot be tiled.
        """
        multiple, scale, _ = self.sizes
        height, width = picture.size
        if mask is not None and mask.shape[:2] != (height, width):
            raise ValueError(f"the mask has {mask.shape[1]}x{mask.shape[0]} pixels, and the picture {width}x{height}")
        edited = picture.blank(scale)
        rows, columns = (length + -length % multiple for length in (height, width))
        if height * width <= self.whole or not self.side:
            field = tiling.Field(0, multiple, multiple, scale, 0)
            tiles = tiling.tiles(rows, columns, field, max(rows, columns))
        else:
            tiles = tiling.tiles(rows, columns, self._field_for(picture), self.side)
        many = len(tiles) >= MANY_TILES
        for tile in progress(tiles, len(tiles), f"tiles of {show(picture.path.name)}") if many else tiles:
            down, across = (
                slice(into.start, min(into.stop, scale * length))
                for into, length in zip(tile.target, (height, width), strict=True)
            )
            drawn = self._drawn(picture, mask, tile, background)
            inside = drawn[: down.stop - down.start, : across.stop - across.start]
            edited.draw(down, across, inside, background=background, source=picture)
        if mask is not None and scale == 1:
            known = mask[..., 0] <= 0
            edited.levels[known] = picture.levels[known]
        return edited

    def _field_for(self, picture: Picture) -> tiling.Field:
        try:
            return self.field
        except ValueError as error:
            height, width = picture.size
            raise type(error)(
                f"{width}x{height} pixels are more than are taken as a whole ({self.whole:,}), and in tiles it would "
                f"not be the same: {error}. --tile 0 takes it as a whole, if there is the memory"
            ) from error

    def _drawn(self, picture, mask, tile, background) -> np.ndarray:
        """What a tile becomes, without what is not kept, [h, w, C]."""
        rows, columns = tile.source
        own = picture.pixels(rows, columns, background=background)
        by_colour = self.channels == 1 and own.shape[-1] == 3
        if not by_colour and own.shape[-1] != self.channels:
            own = picture.pixels(rows, columns, channels=self.channels, background=background)
        if mask is not None:
            hole = mask[rows, columns].astype(np.float32)
            own = own * (1 - hole)
        pad = [(0, rows.stop - rows.start - own.shape[0]), (0, columns.stop - columns.start - own.shape[1]), (0, 0)]
        images = np.moveaxis(own, -1, 0)[..., None] if by_colour else own[None]
        if self.masked:
            told = np.zeros((*own.shape[:2], 1), np.float32) if mask is None else hole
            images = np.concatenate([images, np.broadcast_to(told, (len(images), *told.shape))], axis=-1)
        images = np.pad(images, [(0, 0), *pad], mode="reflect")
        made = np.asarray(_applied(self.function, images), np.float32)
        made = np.moveaxis(made[..., 0], 0, -1) if by_colour else made[0]
        return made[tile.kept]


def translator(
    trained: Trained,
    *,
    key: jax.Array,
    label: int | None = None,
    direction: str | None = None,
    noise_level: float | None = None,
    who: str = "editing a picture",
    **settings: Any,
) -> Translator:
    """A run that translates, as an editor of pictures.

    Args:
      trained: from `loading.load`.
      key: of what the network draws itself: the same for all pictures and tiles.
      label: of a run whose `translate` is told one: what the picture is to become.
      direction: of a run whose `translate` is told one, such as CycleGAN's "to_source".
      noise_level: of a run whose sources have a channel more than its images, their noise: its standard deviation, in
        levels of 255.
      who: asks, for errors.
      settings: `side` and `whole` of the `Translator`.

    Raises:
      TypeError: for what is no key.
      MissingCapability: for a run that does not translate.
      ValueError: for a label, a direction or a noise level that the run is not told, or needs.
    """
    check_key(key)
    system, batch = trained.system, trained.spec.batch
    translate = system.need("translate", who)
    shape = tuple(batch["source"].shape) if "source" in batch else trained.image_shape
    told_level = "source" in batch and shape[2] == trained.image_shape[2] + 1
    if told_level != (noise_level is not None):
        raise ValueError(
            f"{system.name} is told the noise of a picture: give --noise-level, its standard deviation of 255"
            if told_level
            else f"--noise-level is for runs that are told the noise of a picture, and {system.name} is not"
        )
    known = inspect.signature(translate).parameters
    for name, value in {"label": label, "direction": direction}.items():
        if value is not None and name not in known:
            raise ValueError(f"{system.name} translates without being told a {name}: leave --{name} out")
    if "label" in known and label is None:
        raise ValueError(f"{system.name} is told what a picture is to become: give --label, a class by name or number")
    if label is not None and not 0 <= label < trained.spec.num_classes:
        raise ValueError(f"there is no label {label}; this run has the labels 0 to {trained.spec.num_classes - 1}")
    masked, channels = "mask" in batch, shape[2] - told_level

    def function(variables, key, images):
        picture = images[..., :channels]
        given = {"image": picture, "source": picture}  # which of both is read is the system's affair
        if masked:
            given["mask"] = images[..., channels:]
        if told_level:
            plane = jnp.full((*images.shape[:-1], 1), noise_level / 127.5, images.dtype)
            given["source"] = jnp.concatenate([picture, plane], axis=-1)
        told = {} if direction is None else {"direction": direction}
        if label is not None:
            told["label"] = jnp.full(len(images), label, jnp.int32)
        return jnp.clip(translate(variables, given, key, **told), -1.0, 1.0)

    bound = Partial(function, trained.variables, key)
    return Translator(bound, channels, masked, key, **settings)
