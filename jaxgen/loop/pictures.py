"""Pictures in a run directory: samples of the training, and what it is trained on."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from jaxgen import data, files, images, run_directory
from jaxgen.run_directory import metrics_log

LONG_STRIP = 6  # images in a group, from which on each group has a row of the picture for itself


def write_samples(directory: Path, log: metrics_log.MetricsWriter, step: int, samples: Mapping[str, jax.Array]) -> None:
    """RUN/samples/STEP.png of each, and the same for TensorBoard."""
    for name, shown in samples.items():
        picture = _picture(np.asarray(shown))
        file = f"{step:08d}.png" if name == "samples" else f"{name}_{step:08d}.png"
        images.save_png(directory / "samples" / file, picture)
        log.write_image(step, name, picture)


def _picture(shown: np.ndarray) -> np.ndarray:
    """A grid of images; of groups of images, each group a strip without gaps, on grey so that white ones show, too."""
    if shown.ndim == 4:
        return images.grid(shown, upscale=None)
    n, k, height, width, channels = shown.shape
    strips = shown.transpose(0, 2, 1, 3, 4).reshape(n, height, k * width, channels)
    columns = 1 if k >= LONG_STRIP else math.ceil(math.sqrt(n / k))
    return images.grid(strips, columns=columns, padding=images.STRIP_PADDING, background=0.6, upscale=None)


def describe_data(directory: Path, dataset: data.Dataset, seed: int) -> None:
    """RUN/data.json and RUN/real.png: what the report tells of the data; 64 images of the run's order, or fewer."""
    facts = {
        "name": dataset.name,
        "num_examples": dataset.num_examples,
        "image_shape": dataset.image_shape,
        "class_names": dataset.class_names,
    }
    files.write_atomically(directory / run_directory.DATA, (json.dumps(facts, indent=2) + "\n").encode())
    height, width, channels = dataset.image_shape
    if channels in (1, 3):  # others are no pictures
        num = min(64, max(9, 2**18 // (height * width)), dataset.num_examples)
        rows = data.batch_rows(dataset, 0, batch_size=num, seed=seed)
        real = dataset.prepare(dataset.fetch(rows), jax.random.key(seed))["image"]
        images.save_png(directory / run_directory.REAL, images.grid(np.asarray(real), upscale=None))
