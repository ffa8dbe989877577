"""What systems share that make an image of a source: their data, what they can do, what is looked at and measured."""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxgen import data, network, restoration
from jaxgen.data import augmentation, decode, listing, sources
from jaxgen.losses.restoration import LOSSES
from jaxgen.metrics import codes
from jaxgen.names import show
from jaxgen.options import Data, Optimizer, Run, lookup
from jaxgen.ranges import Count, CountOrZero
from jaxgen.system import Measure, Spec, System
from jaxgen.systems.shared import degrading

BRINGING_SOURCES = ("pairs", "halves", "unpaired", "unpaired_emoji")
MOST_PIXELS = 250 * 64 * 64  # of images that are measured at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources(Run):
    """Data with sources. A system's settings have `source` beside these: a group of `degrading`."""

    patch: CountOrZero = 0
    """Side of the square that is cut out of a training image at random; 0: whole images. Others stay whole."""
    flips: bool = True
    """Mirror each training image, and turn it by quarters, at random."""
    self_ensemble: bool = False
    """Restore a source turned and mirrored in all eight ways, and take the mean: eight times the work."""
    crop_border: CountOrZero = 0
    """Pixels along each side that do not count in numbers; in papers as many as images are enlarged by."""
    on_luminance: bool = False
    """Whether numbers are of the luminance (Y of BT.601), not of colours."""

    def wrap(self, dataset: data.Dataset, split: Literal["train", "test"]) -> data.Dataset:
        """Images with sources: those that the data bring, or degraded images; of training images patches, flipped."""
        return with_sources(self, dataset, split)


def with_sources(config: Any, dataset: data.Dataset, split: Literal["train", "test"]) -> data.Dataset:
    """As `Sources.wrap`."""
    if split == "train":
        warn_of_photographs(config.data, dataset.image_shape)
    if split == "train" and config.patch:
        dataset = data.augmented(dataset, functools.partial(augmentation.random_crop, size=config.patch))
    if split == "train" and config.flips:
        height, width = dataset.image_shape[:2]
        changes = [augmentation.random_flip] + ([augmentation.random_turn] if height == width else [])
        dataset = data.augmented(dataset, augmentation.alike(*changes))
    if "source" in sources.names_of(dataset):
        return dataset
    return degrading.with_sources(dataset, config.source, split)


def warn_of_photographs(settings: Data, image_shape: tuple[int, ...]) -> None:
    """Tells of files that are larger than what they are brought to: what a network is to restore is gone with that."""
    folder = {"folder": settings.path, "pairs": settings.target_path}.get(settings.name)
    file = listing.first_image(folder) if folder else None
    if folder is None or file is None:
        return
    width = height = 0
    with contextlib.suppress(Exception):  # broken files are told of where they are read
        width, height, _ = decode.look(file)
    if height > image_shape[0] and width > image_shape[1]:
        alike = " and the folder of sources alike" if settings.name == "pairs" else ""
        warnings.warn(
            f"{show(file)} has {width}x{height} pixels, and images are brought to {image_shape[1]}x{image_shape[0]}, "
            "without their details and their noise: to train on pieces at their own pixels, cut them first by "
            f"`jaxgen cut {show(folder)} PIECES --size {settings.image_size or 256}`{alike}",
            stacklevel=2,
        )


def need_equal_sizes(spec: Spec, model: str) -> None:
    """Raises a ValueError for sources of another size than the images, which a network that keeps sizes cannot take."""
    (height, width), (h, w) = spec.image_shape[:2], restoration.source_of(spec.batch).shape[:2]
    if (h, w) != (height, width):
        raise ValueError(
            f"{model} keeps the size of its source: {h}x{w} pixels do not become {height}x{width}; edsr enlarges"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restoring(Sources):
    """A network that is trained to return the image, by one loss."""

    loss: Literal[*LOSSES] = "l1"
    """Between output and image: mean absolute or squared difference, its smooth form, or minus the PSNR."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-4)
    """Of all parameters."""
    halve_at: tuple[Count, ...] = ()
    """Updates at which the learning rate is halved; its schedule must be constant then."""


def rate_of(optimizer: Optimizer, halve_at: tuple[int, ...], num_steps: int) -> optax.GradientTransformation:
    """An optimiser whose rate is halved at some updates.

    Raises:
      ValueError: for these beside another schedule.
    """
    if not halve_at:
        return optimizer.build(num_steps)
    if optimizer.schedule != "constant":
        raise ValueError(f"--halve-at is for a constant rate, and this one's schedule is {optimizer.schedule}")
    halved = optax.piecewise_constant_schedule(optimizer.learning_rate, dict.fromkeys(halve_at, 0.5))
    return optimizer.build(num_steps, rate=halved)


def build(config: Restoring, spec: Spec, model: nn.Module, *, name: str) -> System:
    """The system of a module that makes images of sources.

    Args:
      config: settings.
      spec: of the batches.
      model: as for `restoration.make_train_step`.
      name: what to call it.

    Raises:
      ValueError: for batches without a source, or updates at which to halve a rate beside another schedule.
    """
    source_shape = restoration.source_of(spec.batch).shape
    optimizer = rate_of(config.optimizer, config.halve_at, config.num_steps)
    system = System(
        init=lambda key: restoration.init(key, model, optimizer=optimizer, source_shape=source_shape),
        train_step=restoration.make_train_step(
            model,
            optimizer=optimizer,
            loss=lookup(LOSSES, config.loss, "loss"),
            ema_decay=config.ema_decay,
            gradients=config.gradients,
        ),
        images_per_step=config.batch_size,
        name=name,
    )

    def restore(variables, source, key):
        return restoration.restore(model, variables, source, key=key)

    return that_restores(system, config, spec, restore)


def that_restores(
    system: System,
    config: Sources,
    spec: Spec,
    restore: Callable[[Any, jax.Array, jax.Array | None], jax.Array],
    *,
    rows: Callable[[Any, jax.Array, jax.Array], dict[str, jax.Array]] | None = None,
    best: str = "psnr",
) -> System:
    """A system with `translate`, views and numbers of what it restores, of images of any size.

    Args:
      system: that trains.
      config: its settings.
      spec: of the batches.
      restore: (variables, sources, key) -> images.
      rows: (variables, images, targets) -> further numbers of each image.
      best: by which number the best checkpoint is kept, the largest for psnr and ssim, the least for others.
    """
    group = None if config.data.name in BRINGING_SOURCES else getattr(config, "source", None)
    said = "what the data bring" if group is None else group.words
    border = f" without {config.crop_border} pixels a side" if config.crop_border else ""

    def translate(variables, batch, key):
        source = restoration.source_of(batch)
        if not config.self_ensemble:
            return restore(variables, source, key)
        return restoration.self_ensemble(lambda turned: restore(variables, turned, key))(source)

    def numbers(image, target, suffix=""):
        found = restoration.numbers(image, target, crop_border=config.crop_border, on_luminance=config.on_luminance)
        return {f"{name}{suffix}": value for name, value in found.items()}

    def of_batch(variables, batch, key):
        target = network.images_of(batch)
        image = translate(variables, batch, key)
        found = numbers(image, target) | (rows(variables, image, target) if rows is not None else {})
        for name, other in restoration.classical(batch["source"], target.shape[1:]).items():
            found |= numbers(other, target, f"_of_{name}")
        return found

    def views(variables, batch):
        target = network.images_of(batch)
        source = restoration.shown(batch["source"], target.shape[1:])
        image = translate(variables, batch, jax.random.key(0))  # what is drawn is the same at every look
        return {"restored": jnp.stack([source, image, target], axis=1)}

    return dataclasses.replace(
        system,
        translate=translate,
        views=views,
        measure=Measure(
            of_batch,
            codes.means,
            best,
            "max" if best in ("psnr", "ssim") else "min",
            most_pixels=MOST_PIXELS,
            of_images=lambda images, batch: numbers(images, network.images_of(batch)),
        ),
        protocol={
            "source": said,
            "output": "the network's, clipped" + (", the mean of eight ways" if config.self_ensemble else ""),
            "numbers": f"of {'luminance' if config.on_luminance else 'all channels'} in 256 levels{border}; means over "
            "images of each image's own; beside them those of the source, or of its enlargement by interpolation",
            **config.weights,
        },
    )
