"""Methods without a network on the test images of a run, in the numbers of its system: `evaluate RUN --baselines`."""

import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxgen import data, images, loading, opening
from jaxgen.metrics import baselines, classical, comparison, features
from jaxgen.progress import Progress, no_progress

MOST_FOR_A_FILTER = 300  # images: a filter has a few hundred numbers
MOST_PAIRS = 10_000
MOST_NUMBERS = 64 * 64 * 3  # of an image that a linear map is fitted to: it has the square of them
PIXELS = 2**17  # at once: a filter takes the window around each


def beside(
    trained: loading.Trained,
    name: str,
    test: data.Dataset,
    *,
    backbone: features.Backbone | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Numbers of methods without a network on test images, fitted to the run's training images where they learn.

    The best linear filter for what is restored or enlarged, and classical denoisers where sources are as large as
    images; the best linear map and the nearest neighbour for what is translated in pairs, and for holes (the map where
    all images have the same one), with classical completions.

    Args:
      trained: a run that makes images of sources.
      name: what to call it.
      test: the held-out images with sources, as the run reads them.
      backbone: adds the FID in its features, of what the run makes and of what each method makes.
      seed: of the FID's standard error, and of what spoils the images.
      progress: shows it.

    Returns:
      `metrics`, such as `psnr_of_linear_filter`, and `protocol`, how each was fitted, and what is left out.

    Raises:
      ValueError: for a run without sources, one that learnt without pairs, or whose training images are not there; for
        images of another shape than the backbone takes.
    """
    measure = trained.system.measure
    if measure is None or measure.of_images is None or trained.config is None:
        raise ValueError(f"--baselines stand beside images that are made of a source in pairs, and {name} makes none")
    if trained.config.data.name.startswith("unpaired"):
        raise ValueError(f"--baselines are fitted to pairs, and {name} learnt without: train one of pairs beside it")
    found = opening.open_training_images(trained, name)
    if found is None:
        raise ValueError(f"--baselines are fitted to the images that {name} was trained on, which are not there")
    if backbone is not None:
        features.check_shape(backbone, test.image_shape, test.name)  # now, and not after minutes
    train = trained.config.wrap(found, "test")  # neither cut nor mirrored at random, and spoilt once
    prepare, numbers = jax.jit(test.prepare), jax.jit(measure.of_images)
    rows = max(1, min(250, PIXELS // int(np.prod(test.image_shape[:2]))))

    def batches(what) -> Iterator[tuple[dict[str, jax.Array], int]]:
        count = -(-test.num_examples // rows)
        for raw, num_valid in progress(data.sequential_batches(test, min(rows, test.num_examples)), count, what):
            yield prepare(raw, jax.random.key(seed)), num_valid

    metrics: dict[str, float] = {}
    protocol: dict[str, str] = {}
    distance = None
    if backbone is not None:
        real = np.concatenate([images.to_uint8(batch["image"][:n]) for batch, n in batches("reading test images")])
        distance = comparison.fid_to(data.from_arrays("test images", real), backbone, jax.random.key(seed))
        made = opening.translated(trained, name, seed=seed, progress=progress).dataset
        metrics |= distance(made)
        protocol |= {"backbone": backbone.name, "backbone_sha256": backbone.digest, "resize": backbone.resize}
    left_out: list[str] = []
    for title, method in _methods(trained, train, test, jax.random.key(seed + 1), left_out, progress):
        per_image, stored = [], []
        for batch, num_valid in batches(f"measuring the {title} on {test.num_examples:,} images"):
            image = method.apply(method.arrays, batch["source"], batch.get("mask"))
            if "mask" in batch:
                image = np.where(np.asarray(batch["mask"]) > 0, image, batch["source"])
            per_image.append(jax.tree.map(lambda x, n=num_valid: np.asarray(x)[:n], numbers(image, batch)))
            if distance is not None:
                stored.append(images.to_uint8(image[:num_valid]))
        rows_of = {number: np.concatenate([row[number] for row in per_image]) for number in per_image[0]}
        of_all = measure.summarize(rows_of)
        if distance is not None:
            of_all |= distance(data.from_arrays(title, np.concatenate(stored)))
        metrics |= {f"{number}_of_{title.replace(' ', '_')}": value for number, value in of_all.items()}
        protocol[f"the {title}"] = method.words
    if left_out:
        protocol["left out"] = "; ".join(left_out)
        warnings.warn(f"not installed, and left out: {protocol['left out']}", stacklevel=2)
    return {"metrics": metrics, "protocol": protocol}


def _methods(trained, train, test, key, left_out, progress):
    """(title, `baselines.Method`) of what suits a run's data; adds to left_out what is not installed."""
    first = _batch(train, np.zeros(1, np.int32), key)
    restores = hasattr(trained.config, "source")  # what is translated brings its sources
    if "mask" not in first and restores:
        count = min(train.num_examples, MOST_FOR_A_FILTER)
        batches = _batches(train, count, key)
        shown = progress(batches, -(-count // 50), f"fitting the linear filter to {count:,} training images")
        yield "linear filter", baselines.best_filter((batch["source"], batch["image"]) for batch in shown)
        few = _batch(train, np.arange(min(train.num_examples, classical.MOST_TO_CHOOSE)), key)
        if few["source"].shape == few["image"].shape:

            def tried(strengths):
                return progress(strengths, len(strengths), "choosing the strength of a classical method")

            methods, missing = classical.denoisers(few["source"], few["image"], tried)
            left_out += missing
            yield from _titled(methods)
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
    if "mask" in first:
        methods, missing = classical.completions()
        left_out += missing
        yield from _titled(methods)


def _titled(methods):
    for name, method in methods.items():
        yield name.replace("_", " "), method


def _batch(dataset, rows, key):
    return dataset.prepare(dataset.fetch(np.asarray(rows, np.int32)), key)


def _batches(dataset, count, key):
    for start in range(0, count, 50):
        yield _batch(dataset, np.arange(start, min(start + 50, count)), jax.random.fold_in(key, start))
