"""Two sets that do not belong together, image by image: sources from one, what should come out from the other."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data.dataset import Dataset, fingerprint_of

_PREFIX = "source/"  # of the arrays of the sources
_OF_SOURCES = 0x5EED  # folded into a batch's key, and no number that `split` would count to


def unpaired(sources: Dataset, images: Dataset) -> Dataset:
    """Images of one set beside sources of another, each in an order of its own.

    Step s reads the images that it would read of `images` alone, and sources in an order that has nothing to do with
    theirs: `data.batch_rows` makes both of seed and step. Each set begins again when it is through, so that the two may
    differ in length. In evaluation, row i is image i with source i, counted from 0 again after the last source.

    Args:
        sources: whose `image` is the `source` of a batch; nothing else of it is in one.
        images: what the rest of a batch comes from, its number of examples and its classes, too.

    Returns:
        A `Dataset`, which lives on the device if both do, and reads rows otherwise.

    Raises:
        ValueError: for images with sources already.
    """
    if images.num_sources or sources.num_sources:
        raise ValueError(f"{(images if images.num_sources else sources).name} has two orders already")
    in_memory = images.arrays is not None and sources.arrays is not None

    def divided(arrays: Mapping) -> tuple[dict[str, Any], dict[str, Any]]:
        own = {name: value for name, value in arrays.items() if not name.startswith(_PREFIX)}
        others = {name.removeprefix(_PREFIX): value for name, value in arrays.items() if name.startswith(_PREFIX)}
        return own, others

    def joined(own: Mapping, others: Mapping) -> dict[str, Any]:
        return {**own, **{_PREFIX + name: value for name, value in others.items()}}

    def rows(indices):
        if indices.ndim == 2:
            return indices[:, 0], indices[:, 1]
        return indices, indices % sources.num_examples

    def gather(arrays, indices):
        own, others = divided(arrays)
        of_images, of_sources = rows(jnp.asarray(indices))
        return joined(images.gather(own, of_images), sources.gather(others, of_sources))

    def fetch(indices):
        of_images, of_sources = rows(np.asarray(indices))
        return joined(images.fetch(of_images), sources.fetch(of_sources))

    def prepare(raw, key):
        own, others = divided(raw)
        source = sources.prepare(others, jax.random.fold_in(key, _OF_SOURCES))["image"]
        return {**images.prepare(own, key), "source": source}

    return dataclasses.replace(
        images,
        name=f"{images.name}, sources {sources.name}",
        fingerprint=fingerprint_of("unpaired", images.fingerprint, sources.fingerprint),
        arrays=joined(images.arrays, sources.arrays) if in_memory else None,  # type: ignore[arg-type]
        gather=gather,
        fetch=fetch,
        prepare=prepare,
        num_sources=sources.num_examples,
    )
