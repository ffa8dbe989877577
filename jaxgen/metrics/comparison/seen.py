"""What a feature network sees in a set of images: computed once, and kept by the digest of the pixels."""

import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen import data, files, images
from jaxgen.data import npz
from jaxgen.metrics.features import Backbone, check_shape
from jaxgen.progress import Progress, no_progress

PREPROCESSING = "clipped to [-1, 1], rounded to 256 levels"
CACHE_FORMAT = 1  # part of the key: raise it when features of the same images by the same network change


class Seen(NamedTuple):
    """What a network sees in a set of images.

    features: float32 [N, D].
    logits: float32 [N, K].
    """

    features: np.ndarray
    logits: np.ndarray


def stored_images(dataset: data.Dataset, batch_size: int) -> Iterable[np.ndarray]:
    """A set's images as uint8 batches, each image once; floats as they would be stored.

    Raises:
      ValueError: for NaN.
    """
    for i, (raw, num_valid) in enumerate(data.sequential_batches(dataset, min(batch_size, dataset.num_examples))):
        image = np.asarray(raw["image"])[:num_valid]
        if image.dtype != np.uint8:
            if np.isnan(image).any():
                raise ValueError(f"{dataset.name}: batch {i} holds NaN; no metric has a meaning for such images")
            image = images.to_uint8(image)
        yield image


def content_digest(dataset: data.Dataset) -> str:
    """sha256 of the pixels of all images in order, as they are stored (uint8), and of their shape."""
    digest = hashlib.sha256(repr((dataset.num_examples, *dataset.image_shape)).encode())
    for batch in stored_images(dataset, 500):
        digest.update(np.ascontiguousarray(batch).data)
    return digest.hexdigest()


def image_digests(dataset: data.Dataset) -> list[bytes]:
    """A digest of the pixels of each image, as they are stored."""
    return [
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        for batch in stored_images(dataset, 500)
        for image in batch
    ]


def shared_images(dataset: data.Dataset, others: data.Dataset) -> int:
    """How many images of a set are in another one, too, pixel by pixel."""
    known = set(image_digests(others))
    return sum(digest in known for digest in image_digests(dataset))


def see(
    backbone: Backbone,
    dataset: data.Dataset,
    *,
    batch_size: int = 250,
    cache: str | os.PathLike | None = None,
    digest: str | None = None,
    progress: Progress = no_progress,
) -> Seen:
    """Runs a network over every image of a set.

    Args:
      backbone: the network.
      dataset: the images.
      batch_size: images at once; changes nothing but the time.
      cache: a directory that keeps what is seen, by the digest of the pixels and that of the network, never by name.
      digest: of the pixels, from `content_digest`, if it is known already.
      progress: `(batches, number of batches, what) -> batches`, such as a progress bar.

    Raises:
      ValueError: for images of another shape than the network takes, for NaN in images or features.
    """
    check_shape(backbone, dataset.image_shape, dataset.name)
    file = None
    if cache is not None:
        content = content_digest(dataset) if digest is None else digest
        names = json.dumps([CACHE_FORMAT, content, backbone.digest, backbone.resize])
        file = Path(cache) / f"{hashlib.sha256(names.encode()).hexdigest()}.npz"
        if (seen := _cached(file, dataset.num_examples)) is not None:
            return seen
    size = min(batch_size, dataset.num_examples)
    batches = progress(stored_images(dataset, size), -(-dataset.num_examples // size), dataset.name)
    features, logits = [], []
    for i, batch in enumerate(batches):
        padded = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])  # one compilation
        pair = backbone.apply(data.to_unit_range(jnp.asarray(padded)))
        found = [np.asarray(x, np.float32)[: len(batch)] for x in pair]
        if not np.isfinite(found[0]).all():
            row = i * size + int(np.flatnonzero(~np.isfinite(found[0]).all(axis=1))[0])
            raise ValueError(f"{dataset.name}: features of image {row} by {backbone.name} are NaN or infinite")
        features.append(found[0])
        logits.append(found[1])
    seen = Seen(np.concatenate(features), np.concatenate(logits))
    if file is not None:
        _keep(file, seen)
    return seen


def _cached(file: Path, num_examples: int) -> Seen | None:
    try:
        seen = Seen(**npz.read_arrays(file, lambda names: ["features", "logits"]))  # checksums are compared
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, ValueError, KeyError) as error:
        warnings.warn(f"{file} is damaged, and made anew: {error}", RuntimeWarning, stacklevel=3)
        return None
    return seen if len(seen.features) == num_examples else None


def _keep(file: Path, seen: Seen) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **seen._asdict())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(file, buffer.getvalue())
    except OSError as error:
        warnings.warn(f"what was seen could not be kept: {error}", RuntimeWarning, stacklevel=3)  # no note of a number
