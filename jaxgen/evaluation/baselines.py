"""Methods without a network on the test images of a run, in the numbers of its system: `evaluate RUN --baselines`."""

from typing import Any

import jax
import numpy as np

from jaxgen import data, loading, opening
from jaxgen.metrics import baselines
from jaxgen.progress import Progress, no_progress
from jaxgen.watching import make_evaluate

MOST_FOR_A_FILTER = 300  # images: a filter has a few hundred numbers
MOST_PAIRS = 10_000
MOST_NUMBERS = 64 * 64 * 3  # of an image that a linear map is fitted to: it has the square of them


def beside(
    trained: loading.Trained, name: str, test: data.Dataset, *, seed: int = 0, progress: Progress = no_progress
) -> dict[str, Any]:
    """Numbers of closed forms on test images, fitted to the run's training images.

    The best linear filter for what is restored or enlarged; the best linear map and the nearest neighbour for what is
    translated in pairs, and for holes (the map where all images have the same one).

    Args:
      trained: a run that makes images of sources.
      name: what to call it.
      test: the held-out images with sources, as the run reads them.
      seed: of what spoils the images.
      progress: shows it.

    Returns:
      `metrics`, such as `psnr_of_filter`, and `protocol`, how each was fitted.

    Raises:
      ValueError: for a run without sources, one that learnt without pairs, or whose training images are not there.
    """
    measure = trained.system.measure
    if measure is None or measure.of_images is None or trained.config is None:
        raise ValueError(f"--baselines stand beside images that are made of a source in pairs, and {name} makes none")
    if trained.config.data.name.startswith("unpaired"):
        raise ValueError(f"--baselines are fitted to pairs, and {name} learnt without: train one of pairs beside it")
    images = opening.open_training_images(trained, name)
    if images is None:
        raise ValueError(f"--baselines are fitted to the images that {name} was trained on, which are not there")
    train = trained.config.wrap(images, "test")  # neither cut nor mirrored at random, and spoilt once
    metrics: dict[str, float] = {}
    protocol: dict[str, str] = {}
    for title, method in _methods(trained, train, test, jax.random.key(seed + 1), progress):
        apply, of_images = method.apply, measure.of_images

        def of_batch(arrays, batch, key, apply=apply, of_images=of_images):
            return of_images(apply(arrays, batch["source"], batch.get("mask")), batch)

        rows = max(1, min(250, (measure.most_pixels or 2**20) // int(np.prod(test.image_shape[:2]))))
        evaluate = make_evaluate(
            of_batch, measure.summarize, test, key=jax.random.key(seed), batch_size=rows, variables=lambda found: found
        )
        for _ in progress([None], 1, f"measuring the {title} on {test.num_examples:,} images"):
            found = evaluate(method.arrays)
        metrics |= {f"{number}_of_{title.replace(' ', '_')}": value for number, value in found.items()}
        protocol[f"the {title}"] = method.words
    return {"metrics": metrics, "protocol": protocol}


def _methods(trained, train, test, key, progress):
    """(title, `baselines.Method`) of what suits a run's data."""
    first = _batch(train, np.zeros(1, np.int32), key)
    restores = hasattr(trained.config, "source")  # what is translated brings its sources
    if "mask" not in first and restores:
        count = min(train.num_examples, MOST_FOR_A_FILTER)
        batches = _batches(train, count, key)
        shown = progress(batches, -(-count // 50), f"fitting the linear filter to {count:,} training images")
        yield "linear filter", baselines.best_filter((batch["source"], batch["image"]) for batch in shown)
        return
    count = min(train.num_examples, MOST_PAIRS)
    parts = progress(_batches(train, count, key), -(-count // 50), f"reading {count:,} training images")
    pairs = [(np.asarray(b["source"]), np.asarray(b["image"]), np.asarray(b.get("mask", 0))) for b in parts]
    source, image = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
    if "mask" in first:
        masks = np.concatenate([pair[2] for pair in pairs])
        held = np.asarray(_batch(test, np.arange(min(2, test.num_examples)), key)["mask"])
        alike = (masks == masks[:1]).all() and (held == masks[:1]).all()
    else:
        alike = True
    if alike and image[0].size <= MOST_NUMBERS:
        for _ in progress([None], 1, "fitting the linear map"):
            method = baselines.best_linear_map(source, image)
        yield "linear map", method
    yield "nearest", baselines.nearest(source, image)


def _batch(dataset, rows, key):
    return dataset.prepare(dataset.fetch(np.asarray(rows, np.int32)), key)


def _batches(dataset, count, key):
    for start in range(0, count, 50):
        yield _batch(dataset, np.arange(start, min(start + 50, count)), jax.random.fold_in(key, start))
