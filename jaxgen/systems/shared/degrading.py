"""Settings of what goes into a system that makes images of images: groups that build a degradation or a mask.

    source: Degradation = Degradation("noise", noise=Noise(sigma=25.0))

    def wrap(self, dataset, split):
        return degrading.with_sources(dataset, self.source, split)

Held-out images are degraded alike at every evaluation, by every run.
"""

import dataclasses
import functools
from typing import Annotated, Any, Literal

from jaxgen import data, degradations
from jaxgen.data import masks
from jaxgen.data.sources import Degrade, DrawMask
from jaxgen.options import lookup
from jaxgen.ranges import Count, Positive, Range, Weight

# Names -> functions ---------------------------------------------------------------------------------------------------

KERNELS = {
    "bicubic": degradations.bicubic,
    "bilinear": degradations.bilinear,
    "lanczos3": degradations.lanczos3,
    "box": degradations.box,
}
HOLES = {
    "centre": lambda h: functools.partial(masks.centre, share=h.share),
    "random": lambda h: functools.partial(masks.random_pixels, share=h.share),
    "boxes": lambda h: masks.boxes,
    "strokes": lambda h: masks.strokes,
    "lama": lambda h: masks.one_of,
    "deepfill": lambda h: masks.union,
}
DEGRADATIONS = {
    "noise": lambda d: d.noise,
    "super_resolution": lambda d: d.super_resolution,
    "jpeg": lambda d: d.jpeg,
    "blur": lambda d: d.blur,
    "real_world": lambda d: d.real_world,
}

# Groups ---------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SuperResolution:
    """Small images, to be enlarged."""

    scale: Count = 4
    """By which height and width shrink."""
    kernel: Literal[*KERNELS] = "bicubic"
    """Of the antialiased resize, as Pillow's on floats."""
    stored: bool = True
    """Whether small images are rounded and cut to 256 levels, as a file holds them."""

    def build(self) -> Degrade:
        """The degradation."""
        kernel = lookup(KERNELS, self.kernel, "kernel")
        small = functools.partial(degradations.downscale, scale=self.scale, kernel=kernel)
        return _stored(small) if self.stored else small

    @property
    def words(self) -> str:
        """For a protocol."""
        rounded = ", 256 levels" if self.stored else ""
        return f"1/{self.scale} of the size, {self.kernel} with antialiasing (as Pillow on floats){rounded}"


@dataclasses.dataclass(frozen=True)
class Noise:
    """Images with Gaussian noise."""

    sigma: Weight = 25.0
    """Standard deviation in levels of 255."""
    least_sigma: Weight | None = None
    """For one that is drawn for each image, evenly between this and sigma."""
    grey: bool = False
    """Whether all channels of a pixel get the same noise."""
    clip: bool = False
    """Whether what is noisy is cut to the range of images, as a file would be."""

    def build(self) -> Degrade:
        """The degradation."""
        sigma = self.sigma if self.least_sigma is None else (self.least_sigma, self.sigma)
        return functools.partial(degradations.gaussian_noise, sigma=sigma, grey=self.grey, clip=self.clip)

    @property
    def words(self) -> str:
        """For a protocol."""
        sigma = f"{self.sigma:g}" if self.least_sigma is None else f"{self.least_sigma:g} to {self.sigma:g}"
        return (
            f"Gaussian noise of sigma {sigma} of 255, {'grey' if self.grey else 'each channel on its own'}, "
            f"{'clipped' if self.clip else 'not clipped'}"
        )


@dataclasses.dataclass(frozen=True)
class Jpeg:
    """Images that went through a JPEG file."""

    quality: Annotated[int, Range(1, 100)] = 10
    """As libjpeg and Pillow count it."""
    least_quality: Annotated[int, Range(1, 100)] | None = None
    """For one that is drawn for each image, evenly from this to quality."""
    subsampled: bool = True
    """Whether chroma has half the height and width (4:2:0)."""

    def build(self) -> Degrade:
        """The degradation."""
        quality = self.quality if self.least_quality is None else (self.least_quality, self.quality)
        return functools.partial(degradations.jpeg, quality=quality, subsampled=self.subsampled)

    @property
    def words(self) -> str:
        """For a protocol."""
        quality = f"{self.quality}" if self.least_quality is None else f"{self.least_quality} to {self.quality}"
        return f"JPEG of quality {quality}, {'4:2:0' if self.subsampled else '4:4:4'}"


@dataclasses.dataclass(frozen=True)
class RealWorld:
    """Small images as they are found: blurred, resized, noisy, compressed, twice over."""

    scale: Count = 4
    """By which height and width shrink."""
    sharpened: bool = True
    """Whether the image is sharpened first."""

    def build(self) -> Degrade:
        """The degradation."""
        return functools.partial(degradations.real_world, scale=self.scale, sharpened=self.sharpened)

    @property
    def words(self) -> str:
        """For a protocol."""
        sharpened = ", after sharpening" if self.sharpened else ""
        return f"1/{self.scale} of the size by the two rounds of Real-ESRGAN with its published ranges{sharpened}"


@dataclasses.dataclass(frozen=True)
class Blur:
    """Blurred images, with a little noise."""

    sigma: Positive = 1.6
    """Standard deviation of the Gaussian in pixels."""
    noise: Weight = 2.0
    """That of the noise, in levels of 255."""

    def build(self) -> Degrade:
        """The degradation."""
        blurred = functools.partial(degradations.gaussian_blur, sigma=self.sigma)
        if not self.noise:
            return blurred
        noisy = functools.partial(degradations.gaussian_noise, sigma=self.noise)
        return functools.partial(degradations.chain, parts=(blurred, noisy))

    @property
    def words(self) -> str:
        """For a protocol."""
        noise = f", then Gaussian noise of sigma {self.noise:g} of 255, not clipped" if self.noise else ""
        return f"Gaussian blur of sigma {self.sigma:g} pixels, mirrored at the border{noise}"


@dataclasses.dataclass(frozen=True)
class Degradation:
    """One of several, by its name; the settings of the others are without effect."""

    name: Literal[*DEGRADATIONS] = "noise"
    """What spoils the images."""
    noise: Noise = Noise()
    """Of `noise`."""
    super_resolution: SuperResolution = SuperResolution()
    """Of `super_resolution`."""
    jpeg: Jpeg = Jpeg()
    """Of `jpeg`."""
    blur: Blur = Blur()
    """Of `blur`."""
    real_world: RealWorld = RealWorld()
    """Of `real_world`."""

    @property
    def chosen(self) -> Any:
        """The group that counts."""
        return lookup(DEGRADATIONS, self.name, "degradation")(self)

    def build(self) -> Degrade:
        """The degradation."""
        return self.chosen.build()

    @property
    def words(self) -> str:
        """For a protocol."""
        return self.chosen.words


@dataclasses.dataclass(frozen=True)
class Holes:
    """Images of which a part is missing."""

    kind: Literal[*HOLES] = "lama"
    """`centre`, `random` pixels, `boxes`, `strokes`; `lama` has boxes or strokes, `deepfill` a box and strokes."""
    share: Annotated[float, Range(0, 1, open_least=True)] = 0.5
    """Of `centre`: of either side; of `random`: of the pixels."""

    def build(self) -> DrawMask:
        """What draws a mask."""
        return lookup(HOLES, self.kind, "kind of holes")(self)

    @property
    def words(self) -> str:
        """For a protocol."""
        said = {
            "centre": f"a box in the middle, {self.share:g} of either side",
            "random": f"{self.share:.0%} of the pixels, drawn on their own",
            "boxes": "1 to 4 boxes",
            "strokes": "1 to 5 strokes",
            "lama": "1 to 4 boxes or 1 to 5 strokes, at equal odds (LaMa's sizes, in proportion to the image)",
            "deepfill": "a box and strokes (DeepFill v2's sizes, in proportion to the image)",
        }
        return f"{said[self.kind]}; filled with grey"


# Of a run -------------------------------------------------------------------------------------------------------------


def with_sources(dataset: data.Dataset, group: Any, split: str) -> data.Dataset:
    """A run's data with sources: what `Run.wrap` of a system returns that holds one of these groups.

    Args:
        dataset: the images.
        group: a group of this module; `Holes` also gives a mask.
        split: of the test split each image is degraded once for all.
    """
    once = split == "test"
    if isinstance(group, Holes):
        return data.with_holes(dataset, group.build(), once=once)
    return data.degraded(dataset, group.build(), once=once)


def _stored(degrade: Degrade) -> Degrade:
    return functools.partial(degradations.chain, parts=(degrade, degradations.stored))
