"""What systems share that fill holes: their data, what they can do, what is looked at and measured.

A batch has `image`, `mask`, 1 where the image is missing, and `source`, the image with its holes filled with grey.
Generators are told images with their mask as the last channel. What a system returns is its own in the hole, and the
source elsewhere, to the bit.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen import data, network, restoration, turns
from jaxgen.data import augmentation
from jaxgen.losses import perceptual as distances
from jaxgen.metrics import codes
from jaxgen.models.restoring import at_multiples
from jaxgen.options import Run
from jaxgen.ranges import CountOrZero
from jaxgen.system import Measure, Spec, System
from jaxgen.systems.shared import degrading, restoring, two_player
from jaxgen.systems.shared.degrading import Holes

Complete = Callable[[Any, jax.Array, jax.Array | None], jax.Array]
"""(variables, images with their mask [B, H, W, C + 1], key) -> images [B, H, W, C], of which the hole counts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completing(Run):
    """Images with holes."""

    source: Holes = Holes()
    """The holes."""
    patch: CountOrZero = 0
    """Side of the square that is cut out of an image, for training at random, else in the middle; 0: whole images."""
    flips: bool = True
    """Mirror training images at random."""

    def wrap(self, dataset: data.Dataset, split: Literal["train", "test"]) -> data.Dataset:
        """Images with a mask, and with the source; of held-out ones the hole is the same at every evaluation."""
        if self.patch:
            cut = augmentation.random_crop if split == "train" else augmentation.centre_crop
            dataset = data.augmented(dataset, functools.partial(cut, size=self.patch))
        if split == "train" and self.flips:
            dataset = data.augmented(dataset, augmentation.alike(augmentation.random_flip))
        return degrading.with_sources(dataset, self.source, split)


def mask_of(batch: Mapping[str, Any]) -> Any:
    """Where images are missing [B, H, W, 1], float32 of zeros and ones.

    Raises:
      ValueError: where the batch has no mask, or no source.
    """
    for name in ("source", "mask"):
        if name not in batch:
            raise ValueError(
                f"what fills holes needs a {name}, and the batch has only {', '.join(sorted(batch))}: data.with_holes "
                "makes holes"
            )
    return (batch["mask"] > 0).astype(jnp.float32)


def missing_patches(mask: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """1 for each patch of which a pixel is missing: masks [B, H, W, 1] -> [B, h, w].

    Patch i of h stands for rows floor(i H / h) to ceil((i + 1) H / h) - 1; it may be smaller than what a logit sees.
    """
    found = mask[..., 0]
    for axis, (side, count) in enumerate(zip(mask.shape[1:3], shape, strict=True)):
        first, place = np.arange(count)[:, None], np.arange(side)
        inside = (place >= first * side // count) & (place < -(-(first + 1) * side // count))
        found = jnp.max(jnp.where(inside, jnp.expand_dims(jnp.moveaxis(found, axis + 1, -1), -2), 0.0), axis=-1)
        found = jnp.moveaxis(found, -1, axis + 1)
    return found


def with_mask(batch: Mapping[str, Any]) -> jax.Array:
    """What a generator is told: sources with their mask as the last channel, [B, H, W, C + 1]."""
    return jnp.concatenate([batch["source"], mask_of(batch)], axis=-1)


def composite(image: jax.Array, batch: Mapping[str, Any]) -> jax.Array:
    """The image in the hole, the source elsewhere, to the bit."""
    return jnp.where(mask_of(batch) > 0, image, batch["source"])


def told_mask(batch: Mapping[str, Any], step: jax.Array, key: jax.Array) -> turns.Conditions:
    """The generator's source and mask; the discriminator is told the mask beside both kinds of images."""
    mask = mask_of(batch)
    return turns.Conditions(with_mask(batch), mask, mask)


def told_generator(batch: Mapping[str, Any], step: jax.Array, key: jax.Array) -> turns.Conditions:
    """The generator's source and mask; the discriminator judges images alone."""
    return turns.Conditions(generator=with_mask(batch))


def of_network(generator: nn.Module) -> Complete:
    """What a generator with a `factor` makes of images of any size."""

    def complete(variables, told, key):
        run = functools.partial(network.evaluate, generator, variables, key=key, what="sources")
        return at_multiples(run, told, generator.factor)

    return complete


def of_players(
    config: Any,
    spec: Spec,
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    name: str,
    condition: turns.Condition,
    frozen: Any = None,
    complete: Complete | None = None,
    **settings: Any,
) -> System:
    """The system of a generator that fills holes, and of its discriminator.

    Args:
      config: losses, penalties, optimisers, averages, and the holes.
      spec: of the batches.
      generator, discriminator, condition, settings: as for `gan.make_train_step`.
      name: of the system.
      frozen: arrays that terms read as `turn.frozen`.
      complete: of the generator's variables, `of_network` by default.

    Raises:
      ValueError: for an augmentation, which would move the image and not its hole.
    """
    if config.augmentation != "none":
        raise ValueError(
            f"--augmentation {config.augmentation} would change the image and not its mask: give none; --flips and "
            "--patch change both alike"
        )
    game = two_player.game_of(
        config, spec, generator, discriminator, frozen=frozen, latent_dim=None, condition=condition, **settings
    )
    system = System(
        init=game.init,
        train_step=game.train_step(),
        images_per_step=config.batch_size * config.num_discriminator_steps,
        variables=two_player.variables_of,
        discriminate=two_player.judging(discriminator, condition),
        game=game,
        frozen=frozen,
        name=name,
    )
    own = of_network(generator) if complete is None else complete
    return that_completes(
        system,
        config,
        lambda variables, told, key: own(network.member(variables, "generator"), told, key),
    )


def that_completes(system: System, config: Any, complete: Complete) -> System:
    """A system with `translate`, views and numbers of what it fills, of images of any size.

    Args:
      system: that trains.
      config: its settings, with the holes.
      complete: of the variables of the whole system.
    """

    def translate(variables, batch, key):
        return composite(jnp.clip(complete(variables, with_mask(batch), key), -1.0, 1.0), batch)

    def of_batch(variables, batch, key):
        target, mask = network.images_of(batch), mask_of(batch)
        found = numbers(translate(variables, batch, key), target, mask)
        beside = numbers(mean_filled(batch["source"], mask), target, mask)
        return found | {f"{name}_of_mean_colour": value for name, value in beside.items()}

    def of_images(images, batch):
        return numbers(composite(jnp.clip(images, -1.0, 1.0), batch), network.images_of(batch), mask_of(batch))

    def views(variables, batch):
        made = translate(variables, batch, jax.random.key(0))
        return {"completed": jnp.stack([batch["source"], made, network.images_of(batch)], axis=1)}

    return dataclasses.replace(
        system,
        translate=translate,
        views=views,
        measure=Measure(
            of_batch, codes.means, "psnr_in_hole", "max", most_pixels=restoring.MOST_PIXELS, of_images=of_images
        ),
        protocol={
            "holes": config.source.words,
            "images": "the network's in the hole, the source elsewhere",
            "numbers": "of all pixels, and _in_hole of those that are missing, in 256 levels; means over images of "
            "each image's own; beside them those of holes filled with the mean colour of what is known",
            **config.weights,
        },
    )


def mean_filled(source: jax.Array, mask: jax.Array) -> jax.Array:
    """Holes filled with the mean of each image's known pixels: what is there to beat."""
    known = 1 - mask
    count = jnp.maximum(jnp.sum(known, axis=(1, 2), keepdims=True), 1)
    mean = jnp.sum(source * known, axis=(1, 2), keepdims=True) / count
    return jnp.where(mask > 0, mean, source)


def numbers(image: jax.Array, target: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """How near completed images [B, H, W, C] are to the true ones, a row for each.

    Args:
      image, target: in [-1, 1].
      mask: [B, H, W, 1], 1 where the image was missing.

    Returns:
      `psnr` and `ssim` of whole images, `psnr_in_hole` of the missing pixels (all of 256 levels, at most 100 dB), and
      where the package has a network that sees such images `feature_distance`, which a blurred image does not please.
    """
    found = restoration.numbers(image, target)
    levels = [jnp.round(127.5 * (jnp.clip(x, -1.0, 1.0) + 1)) for x in (image, target)]
    squared = jnp.sum(mask * jnp.square((levels[0] - levels[1]) / 255), axis=(1, 2, 3))
    missing = jnp.maximum(jnp.sum(mask, axis=(1, 2, 3)), 1) * image.shape[-1]
    found["psnr_in_hole"] = -10 * jnp.log10(jnp.maximum(squared / missing, 1e-10))
    with contextlib.suppress(ValueError):  # the package has no network for such images
        judge = distances.judge_of_tiles(image.shape[1:])  # type: ignore[arg-type]
        found["feature_distance"] = judge.distance(judge.weights, image, target)
    return found
