"""What goes in beside what should come out: `source` and `mask` next to the `image` of a batch.

A *degradation* is a pure function of one image, `degrade(image [H, W, C], key) -> source [h, w, c]`, such as those of
`jaxgen.degradations`; a partial holds its settings. It runs inside `prepare`, on the device, with a key for each image,
so that a batch is the same on one device and on eight.

    noisy = data.degraded(dataset, functools.partial(degradations.gaussian_noise, sigma=25))

In a batch `image` is what should come out, `source` what goes in, and `mask` is 1 where the image is missing.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.arguments import check_function, check_key
from jaxgen.data.binarisation import own_numbers
from jaxgen.data.dataset import Batch, Dataset, call_in_words, fingerprint_of, function_name

Degrade = Callable[[jax.Array, jax.Array], jax.Array]
"""`(image [H, W, C] in [-1, 1], key) -> source [h, w, c]`, jittable."""
DrawMask = Callable[[jax.Array, tuple[int, int]], jax.Array]
"""`(key, (H, W)) -> mask [H, W, 1]`, 1 where the image is missing, jittable: see `jaxgen.data.masks`."""
GREY = 0.0
"""What a hole is filled with: the middle of the range."""
_OWN_SEED = 2017  # of keys that are an image's own
_OF_SOURCE, _OF_MASK, _OF_CHANGE = 1, 2, 3


def degraded(dataset: Dataset, degrade: Degrade, *, once: bool = False) -> Dataset:
    """The same data with `source`, what a degradation makes of each `image`.

    Args:
        dataset: any. The other entries of its batches stay as they are.
        degrade: `(image [H, W, C] in [-1, 1], key) -> source [h, w, c]`, jittable, of one shape for all images.
        once: whether an image is degraded alike at every visit, by a key that is its own (it depends on its pixels
            alone, not on its place, its batch or the run's seed): for images that are held out. False: anew at every
            visit, by the batch's key.

    Returns:
        A `Dataset` whose batches have `source` [B, h, w, c] float32, in [-1, 1] or beyond it where noise is not
        clipped. Its name and its fingerprint say the degradation, by the name of the function and the settings of a
        partial: what a function of one's own encloses is not seen.

    Raises:
        TypeError: for what is no such function. What `degrade` itself raises is raised by the first batch.
    """
    check_function(degrade, "image, key", "degrade", "functools.partial(degradations.downscale, scale=4)")

    spoil = _compiled(degrade)

    def prepare(raw, key):
        batch = dict(dataset.prepare(raw, key))
        source = spoil(batch["image"], _keys(dataset, batch["image"], key, _OF_SOURCE, once))
        return batch | {"source": jnp.asarray(source, jnp.float32)}

    return _wrapped(dataset, prepare, "degraded", degrade, once)


def with_holes(dataset: Dataset, draw_mask: DrawMask, *, once: bool = False) -> Dataset:
    """The same data with `mask`, and with `source`: the image, its holes filled with 0, which is grey.

    Args:
        dataset: any.
        draw_mask: `(key, (H, W)) -> mask [H, W, 1]`, 1 where the image is missing: one of `jaxgen.data.masks`, or a
            partial of it.
        once: as for `degraded`.

    Returns:
        A `Dataset` whose batches have `mask` [B, H, W, 1] float32 of zeros and ones and `source` [B, H, W, C]. Name and
        fingerprint as for `degraded`.

    Raises:
        TypeError: for what is no such function. What `draw_mask` itself raises is raised by the first batch.
    """
    check_function(draw_mask, "key, shape", "draw_mask", "masks.centre")

    draw = _compiled(lambda image, key: draw_mask(key, image.shape[:2]))

    def prepare(raw, key):
        batch = dict(dataset.prepare(raw, key))
        image = batch["image"]
        mask = draw(image, _keys(dataset, image, key, _OF_MASK, once)).astype(jnp.float32)
        mask = jax.lax.optimization_barrier(mask)  # XLA would compute, as it compiles, all that follows from one mask
        return batch | {"mask": mask, "source": jnp.where(mask > 0, GREY, image)}

    return _wrapped(dataset, prepare, "with holes", draw_mask, once)


def augmented(dataset: Dataset, augment: Callable) -> Dataset:
    """The same data, every image of an example changed alike: `image`, `source`, `pair`, `mask`.

    Wrap it before `degraded`: noise that is flipped is still noise, but a picture that was compressed is not one that
    is compressed.

    Args:
        dataset: for training.
        augment: `(key, {name: images [B, h, w, c]}) -> the same names`, such as `augmentation.alike(random_flip)` or a
            partial of `augmentation.random_crop`.

    Returns:
        A `Dataset`, of another `image_shape` where the images are cut. Fingerprint as for `degraded`; its name stays.

    Raises:
        TypeError: for what is no such function. What `augment` itself raises is raised here.
    """
    check_function(augment, "key, images", "augment", "augmentation.alike(augmentation.random_flip)")

    def prepare(raw, key):
        batch = dict(dataset.prepare(raw, key))
        images = {name: value for name, value in batch.items() if value.ndim == 4}
        return batch | augment(_of_wrapper(dataset, key, _OF_CHANGE), images)

    wrapped = _wrapped(dataset, prepare, "", augment, False)
    raw = dict(dataset.fetch(np.zeros(1, np.int32)))
    shape = jax.eval_shape(prepare, raw, jax.random.key(0))["image"].shape[1:]
    return dataclasses.replace(wrapped, name=dataset.name, image_shape=tuple(shape))


def pair_as_source(dataset: Dataset) -> Dataset:
    """The same data with the `pair` of each image as its `source`, such as the other house's drawing of an emoji.

    Data that have a `source` already, such as those of two folders, are returned as they are.

    Raises:
        ValueError: for data with neither.
    """
    names = names_of(dataset)
    if "source" in names:
        return dataset
    if "pair" not in names:
        raise ValueError(
            f"{dataset.name} has images without sources: a batch has only {', '.join(sorted(names))}. Give pairs: "
            "two folders (--data.name pairs), pictures of two halves (--data.name halves), or the emoji"
        )

    def prepare(raw, key):
        batch = dict(dataset.prepare(raw, key))
        return batch | {"source": batch.pop("pair")}

    return dataclasses.replace(dataset, prepare=prepare)


def names_of(dataset: Dataset) -> tuple[str, ...]:
    """The names of the entries of a batch. Reads one row."""
    raw = dict(dataset.fetch(np.zeros(1, np.int32)))
    return tuple(jax.eval_shape(dataset.prepare, raw, jax.random.key(0)))


def _compiled(function: Callable) -> Callable:
    """Of a batch; one program where a batch is prepared outside of `jit`, and part of the other's inside."""
    return jax.jit(jax.vmap(function), inline=True)


def _keys(dataset: Dataset, image: jax.Array, key: jax.Array, number: int, once: bool) -> jax.Array:
    """A key for each image of a batch."""
    if once:
        own = jax.random.fold_in(jax.random.key(_OWN_SEED), number)
        return jax.vmap(lambda seen: jax.random.fold_in(own, seen))(own_numbers(image))
    return jax.random.split(_of_wrapper(dataset, key, number), len(image))


def _of_wrapper(dataset: Dataset, key: jax.Array, number: int) -> jax.Array:
    """A key of what is wrapped around a data set, which itself sees the batch's.

    `split` makes the keys that `fold_in` of 0, 1, ... makes, and a wrapper may be wrapped again: a number that nothing
    else takes keeps all their draws apart.
    """
    check_key(key)
    return jax.random.fold_in(key, int(fingerprint_of(dataset.fingerprint, number)[:7], 16))


def _wrapped(dataset: Dataset, prepare: Callable[..., Batch], how: str, function: Callable, once: bool) -> Dataset:
    often = ", once" if once else ""
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name}, {how} by {call_in_words(function)}{often}",
        fingerprint=fingerprint_of(dataset.fingerprint, f"{how} ({function_name(function)}{often})"),
        prepare=prepare,
    )
