"""What systems share that translate images: their data, what they can do, what is looked at and measured."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen import data, network, restoration, turns
from jaxgen.arguments import check_key
from jaxgen.data import augmentation
from jaxgen.losses import perceptual
from jaxgen.metrics import codes
from jaxgen.models.restoring import at_multiples
from jaxgen.options import Run
from jaxgen.system import Measure, Spec, System
from jaxgen.systems.shared import restoring, two_player


def of_players(
    config: two_player.Adversaries,
    spec: Spec,
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    name: str,
    condition: turns.Condition,
    truth: bool = True,
    frozen: Any = None,
    **settings: Any,
) -> System:
    """The system of a generator that is told a source, and of its discriminator.

    Args:
      config: losses, penalties, optimisers, averages.
      spec: of the batches.
      generator, discriminator, condition, settings: as for `gan.make_train_step`.
      name: of the system.
      truth: whether the images of held-out batches are what their sources should become.
      frozen: arrays that terms read as `turn.frozen`.
    """
    game = two_player.game_of(
        config, spec, generator, discriminator, frozen=frozen, latent_dim=None, condition=condition, **settings
    )

    def translate(variables, batch, key):
        return of_network(generator, network.member(variables, "generator"), source_of(batch), key)

    return System(
        init=game.init,
        train_step=game.train_step(),
        images_per_step=config.batch_size * config.num_discriminator_steps,
        variables=two_player.variables_of,
        translate=translate,
        discriminate=two_player.judging(discriminator, condition),
        views=looks(translate, truth=truth),
        measure=measure(translate, truth=truth),
        protocol=protocol(config, generator, truth=truth),
        game=game,
        frozen=frozen,
        name=name,
    )


def check_augmentation(config: two_player.Adversaries) -> None:
    """Raises a ValueError for an augmentation where the discriminator judges pairs: it would move the image alone."""
    if config.augmentation != "none":
        raise ValueError(
            f"--augmentation {config.augmentation} would change the image and not the source that it is judged beside: "
            "give none; --flips and --patch change both alike"
        )


def source_of(batch: Mapping[str, Any]) -> Any:
    """batch["source"], of a batch or of its shapes.

    Raises:
      ValueError: where there is none.
    """
    if "source" not in batch:
        raise ValueError(f"what is translated is the source, and the batch has only {', '.join(sorted(batch))}")
    return batch["source"]


def has_truth(config: Run) -> bool:
    """Whether a held-out image is what its source should become: in pairs, and in the emoji trained without them."""
    return config.data.name != "unpaired"


def prepared(config: Any, dataset: data.Dataset, split: Literal["train", "test"]) -> data.Dataset:
    """Sources and images as a run reads them: for training cut and mirrored alike at random, others cut in the middle.

    Args:
      config: settings with `patch`, the side of what is cut out (0: nothing), and `flips`.
      dataset: with a `source`, or a `pair` that becomes it.
      split: of the run.
    """
    dataset = data.pair_as_source(dataset)
    if config.patch:
        cut = augmentation.random_crop if split == "train" else augmentation.centre_crop
        dataset = data.augmented(dataset, functools.partial(cut, size=config.patch))
    if split == "train" and config.flips:
        dataset = data.augmented(dataset, augmentation.alike(augmentation.random_flip))
    return dataset


def of_network(generator: nn.Module, variables: Any, source: jax.Array, key: jax.Array | None) -> jax.Array:
    """What a generator makes of sources [B, H, W, C] of any size, outside of training: [B, H, W, C'].

    Args:
      generator: told the source alone, with a `factor` of which sides must be multiples: others are continued, and
        what comes out is cropped.
      variables: of it.
      source: images.
      key: of what it draws (dropout), the same for all images.
    """
    if key is not None:
        check_key(key)
    run = functools.partial(network.evaluate, generator, variables, key=key, what="sources")
    return at_multiples(run, source, generator.factor)


def numbers(image: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
    """How near images [B, H, W, C] are to what they should be, a row for each.

    Returns:
      `l1` (mean absolute difference, black being 0 and white 1), `psnr` and `ssim` (of 256 levels), and where the
      package has a network that sees such images `feature_distance`, which a blurred image does not please.
    """
    found = {"l1": 0.5 * jnp.mean(jnp.abs(jnp.clip(image, -1, 1) - target), axis=(1, 2, 3))}
    found |= restoration.numbers(image, target)
    with contextlib.suppress(ValueError):  # the package has no network for such images
        judge = perceptual.judge_of_tiles(image.shape[1:])  # type: ignore[arg-type]
        found["feature_distance"] = judge.distance(judge.weights, jnp.clip(image, -1, 1), target)
    return found


def colours(image: jax.Array, given: jax.Array) -> dict[str, jax.Array]:
    """What shows a translator that does nothing, or that inverts colours, a row for each image.

    Returns:
      `change`: mean absolute difference of what goes in and comes out, and `drift`: that of the mean colours; of images
      of one shape. Black is 0 and white 1.
    """
    if image.shape != given.shape:
        return {}
    shift = jnp.mean(image, axis=(1, 2)) - jnp.mean(given, axis=(1, 2))
    return {
        "change": 0.5 * jnp.mean(jnp.abs(image - given), axis=(1, 2, 3)),
        "drift": 0.5 * jnp.mean(jnp.abs(shift), axis=-1),
    }


def looks(
    translate: Callable[[Any, Mapping[str, jax.Array], jax.Array], jax.Array],
    *,
    truth: bool,
    key: jax.Array | None = None,
) -> Callable:
    """`System.views` of a translator: rows of source, output and, where it is the true one, target.

    Args:
      translate: (variables, batch, key) -> images.
      truth: whether the images of a batch are what its sources should become.
      key: of what is drawn, the same at every look.
    """

    key = jax.random.key(0) if key is None else key
    check_key(key)

    def views(variables, batch):
        target = network.images_of(batch)
        made = jnp.clip(translate(variables, batch, key), -1.0, 1.0)
        source = source_of(batch)
        rows = [source] if source.shape[-1] == target.shape[-1] else []
        return {"translations": jnp.stack([*rows, made] + ([target] if truth else []), axis=1)}

    return views


def measure(translate: Callable[[Any, Mapping[str, jax.Array], jax.Array], jax.Array], *, truth: bool) -> Measure:
    """`System.measure` of a translator: `numbers` against the true partner, the same of the source, and `colours`.

    Args:
      translate: (variables, batch, key) -> images.
      truth: as for `looks`; without it nothing says which checkpoint is best.
    """

    def of_batch(variables, batch, key):
        target, source = network.images_of(batch), source_of(batch)
        image = translate(variables, batch, key)
        found = colours(image, source)
        if truth:
            found |= numbers(image, target)
            if source.shape == target.shape:
                found |= {f"{name}_of_input": x for name, x in numbers(source, target).items()}
        return found

    def of_images(images, batch):
        return colours(images, source_of(batch)) | numbers(images, network.images_of(batch))

    best = "l1" if truth else None
    return Measure(
        of_batch,
        codes.means,
        best=best,
        mode="min",
        most_pixels=restoring.MOST_PIXELS,
        of_images=of_images if truth else None,
    )


def protocol(config: Run, generator: nn.Module, *, truth: bool) -> dict[str, str]:
    """What the numbers depend on, in words."""
    draws = getattr(generator, "draws_at_test", False)
    drawn = "with dropout, one draw for all images" if draws else "nothing is drawn"
    norm, statistics = (getattr(generator, name, "") for name in ("norm", "statistics"))
    said = "of each image itself" if norm != "batch" or statistics == "image" else "running averages"
    against = "against the true partner; _of_input: of the source itself" if truth else "of source and output"
    return {
        "images": f"the generator's output, {drawn}",
        "statistics": said,
        "numbers": f"{against}; l1, change and drift with black 0 and white 1, psnr and ssim of 256 levels; means over "
        "images of each image's own",
        **config.weights,
    }
