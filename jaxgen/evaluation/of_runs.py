"""A run by itself: its system's own numbers on held-out images, what a classifier sees in what it draws, modes.

Each function returns `metrics` and `protocol`, `measured` also `settings`; what numbers of every run depend on is
`evaluation.training_of`.
"""

import dataclasses
import os
import warnings
from typing import Any

import jax
import numpy as np

from jaxgen import building, checkpoint, data, evaluation, images, loading, opening, sharding
from jaxgen.evaluation import baselines, reconstructed
from jaxgen.losses import variational
from jaxgen.metrics import comparison, confidence, coverage, features
from jaxgen.opening import BATCH
from jaxgen.progress import Progress, no_progress
from jaxgen.watching import assemble

BOUND = "importance_weighted_bound"
OF_DRAWING = ("latents", "images", "labels", "batch_statistics")
"""Entries of a system's protocol that say nothing about numbers for which nothing is drawn."""


def measured(
    trained: loading.Trained,
    name: str,
    *,
    seed: int = 0,
    samples: int | None = None,
    with_baselines: bool = False,
    backbone: features.Backbone | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """The numbers of a system's `measure` on the test split of its run's data.

    Args:
      trained: a run that was made from a preset.
      name: what to call it.
      seed: of what is random in the measure.
      samples: instead of `eval_samples`, for a system with that setting.
      with_baselines: adds those of methods without a network, see `baselines.beside`; of a run that reconstructs those
        of principal components.
      backbone: for the FID of what the run and those methods make, or of what a run reconstructs.
      progress: shows it.

    Returns:
      A dict of `metrics`, `protocol` and `settings` as in `jaxgen.metrics.protocol`. Beside a bound of the likelihood
      stand `nll` and `bits_per_dim`, and of a run that reconstructs what `reconstructed.numbers` says.

    Raises:
      ValueError: for a system that measures nothing or has no `eval_samples`, for data without a test split, and for
        baselines that it has none of.
    """
    if trained.system.measure is None:
        raise ValueError(f"{trained.system.name} measures nothing by itself; give a REFERENCE")
    asked = opening.data_of(trained, name)
    assert trained.config is not None  # without one it has no data, which is refused above
    config: Any = dataclasses.replace(trained.config, seed=seed, num_devices=None, eval_metric="none")
    config = with_samples(trained, config, samples)
    if not asked.has_test_split:
        raise ValueError(f"the data {asked.name!r} of {name} have no test split to evaluate on")
    test = trained.config.wrap(opening.open_test_split(asked, name).dataset, "test")
    building.warn_of_few(test, asked)
    check_same_kind(trained, test, name)
    train = opening.open_training_images(trained, name)  # warns where they have changed, or are not there
    by_components = (
        with_baselines and trained.system.reconstruct is not None and trained.system.measure.of_images is None
    )
    if by_components:
        reconstructed.numbers_of_a_code(trained)  # refused now, and not after minutes
        if train is None:
            raise ValueError(f"--baselines are fitted to the images that {name} was trained on, which are not there")
    system = building.build_system(config, trained.spec)
    evaluate = assemble(system, test, test, key=jax.random.key(seed), mesh=sharding.make_mesh()).evaluate
    assert evaluate is not None  # of a system with `measure` and held-out images
    for _ in progress([None], 1, f"measuring {name} on {test.num_examples:,} images of {test.name}"):
        metrics = evaluate(trained.state)
    protocol: dict[str, Any] = {"samples": config.eval_samples} if hasattr(config, "eval_samples") else {}
    protocol |= {"data": dataclasses.asdict(asked), "split": "test"}
    protocol |= {entry: text for entry, text in trained.system.protocol.items() if entry not in OF_DRAWING}
    protocol |= {"n_real": test.num_examples, "reference_sha256": comparison.content_digest(test)}
    protocol |= {} if train is None else evaluation.leak_of(test, train)
    settings: dict[str, dict[str, str]] = {}
    if with_baselines and not by_components:
        beside = baselines.beside(trained, name, test, backbone=backbone, seed=seed, progress=progress)
        metrics, protocol = metrics | beside["metrics"], protocol | beside["protocol"]
    if trained.system.reconstruct is not None:
        key = jax.random.key(seed)
        learnt = trained.config.wrap(train, "test") if by_components and train is not None else None
        beside = reconstructed.numbers(trained, test, key, train=learnt, backbone=backbone, progress=progress)
        metrics, settings = metrics | beside["metrics"], beside["settings"]
    if BOUND in metrics:
        metrics |= code_length(trained, metrics[BOUND])
        protocol |= {"binarisation": asked.binarise, "dims": num_dims(trained)}
    return {"metrics": metrics, "protocol": protocol, "settings": settings}


def with_samples(trained: loading.Trained, config: Any, samples: int | None) -> Any:
    """The settings of a run with another k of the bound; as they are for None.

    Raises:
      ValueError: for a system without `eval_samples`.
    """
    if samples is None:
        return config
    if not hasattr(config, "eval_samples"):
        raise ValueError(f"--samples is for systems with the setting eval_samples, and {trained.system.name} has none")
    return dataclasses.replace(config, eval_samples=samples)


def check_same_kind(trained: loading.Trained, test: data.Dataset, name: str) -> None:
    """Raises a ValueError unless images have the shape, and for a classifier the classes, that a run learnt.

    What makes images of images may have learnt of patches: the size may be another.
    """
    spec, classifies = trained.spec, trained.system.classify is not None
    counts = slice(2 if trained.system.translate is not None else 0, None)
    if test.image_shape[counts] != spec.image_shape[counts] or classifies and len(test.class_names) != spec.num_classes:
        there = [(spec.image_shape, spec.num_classes), (test.image_shape, len(test.class_names))]
        words = [f"images {shape} of {number or 'no'} classes" for shape, number in there]
        raise ValueError(f"{name} was trained on {words[0]}, but {test.name} has {words[1]}: these are other data")


def num_dims(trained: loading.Trained) -> int:
    """Sub-pixels of an image of the run's data that are not padding."""
    height, width, channels = trained.image_shape
    if trained.config is not None and trained.config.data.name in ("mnist", "stacked_mnist"):
        height = width = 28
    return height * width * channels


def code_length(trained: loading.Trained, bound: float) -> dict[str, float]:
    """`nll`, an upper bound of the negative log-likelihood in nats an image, and `bits_per_dim` of it.

    Under a density (the Gaussian likelihood) it is no length of a code.
    """
    return {"nll": -bound, "bits_per_dim": float(variational.bits_per_dim(-bound, num_dims(trained)))}


def confidence_of_drawn(
    trained: loading.Trained,
    judge: loading.Trained,
    directory: str | os.PathLike,
    *,
    num: int = 10_000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """How sure a classifier's run is of the images of another, and how often it sees each class.

    Args:
      trained: a run that draws.
      judge: one that classifies images of that shape; `confident_share_of_test_images` is of its own test split, if it
        has one.
      directory: the judge's.
      num: images to draw.
      seed: of the latents.
      progress: shows it.

    Raises:
      MissingCapability: for a run that does not draw, or one that does not classify.
      ValueError: for images of unlike shapes.
    """
    trained.system.need("draw", "--classifier")
    judge.system.need("classify", f"--classifier {directory}")
    if trained.image_shape != judge.image_shape:
        raise ValueError(
            f"it draws images {trained.image_shape}, but {directory} classifies images {judge.image_shape}"
        )
    digest = checkpoint.read_record(os.path.join(directory, "checkpoints"), judge.record["step"])["crc32"]
    protocol = {"num": num, "classifier": str(directory), "classifier_digest": digest, "threshold": 0.9}

    def seen(batches, total, what):
        batches = progress(batches, -(-total // BATCH), what)
        return confidence.class_confidence(np.concatenate([judge.classify(batch) for batch in batches]))

    drawn = opening.drawn_batches(trained, num, jax.random.key(seed))
    metrics = seen((batch["image"] for batch in drawn), num, f"drawing {num:,} images and classifying them")
    if judge.config is None or not judge.config.data.has_test_split:
        warnings.warn(f"{directory} has no test images of its own, which would tell what real ones score", stacklevel=2)
    else:
        test = opening.open_test_split(judge.config.data, str(directory)).dataset
        real = (
            np.asarray(test.prepare(raw, jax.random.key(0))["image"])[:num_valid]
            for raw, num_valid in data.sequential_batches(test, BATCH)
        )
        found = seen(real, test.num_examples, "classifying test images")
        metrics["confident_share_of_test_images"] = found["confident_share"]
        protocol |= {"n_real": test.num_examples, "reference_sha256": comparison.content_digest(test)}
    return {"metrics": metrics, "protocol": protocol | opening.drawing_of(trained)}


def stacked_mnist(
    trained: loading.Trained,
    backbone: features.Backbone,
    *,
    num: int = 26_000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Modes and divergence of a run on Stacked MNIST, beside those of as many real images.

    A classifier of digits names each colour channel of each image; 1,000 modes are to be found. 26,000 images are usual
    (Metz et al. 2017; Srivastava et al. 2017; Lin et al. 2018).

    Args:
      trained: a run whose images have 3 channels.
      backbone: a classifier of single channels, such as `features.shipped("mnist-cnn")`.
      num: images to draw. The divergence of a perfect generator, `kl_floor`, falls with it.
      seed: of the latents.
      progress: shows it.

    Returns:
      A dict: `metrics`, with `modes`, `kl` (nats) and `kl_floor` (nats), and `modes_of_test_images` and
      `kl_of_test_images`, what the same classifier says of num real images of the test digits; and `protocol`.

    Raises:
      ValueError: for images that the classifier does not take.
    """

    def report(batches, what):
        logits = features.per_channel_logits(backbone, progress(batches, -(-num // BATCH), what))
        return {name: value.item() for name, value in coverage.stacked_mode_coverage(logits).items()}

    drawn = opening.drawn_batches(trained, num, jax.random.key(seed))
    metrics = report(
        (images.to_uint8(batch["image"]) for batch in drawn), f"drawing {num:,} images and classifying them"
    )
    real = data.stacked_mnist("test", num_examples=num)
    rows = (real.fetch(np.arange(start, min(start + BATCH, num)))["image"] for start in range(0, num, BATCH))
    of_real = report(rows, "classifying test images")
    metrics |= {f"{name}_of_test_images": of_real[name] for name in ("modes", "kl")}
    protocol = {
        "n_fake": num,
        "seed": seed,
        "backbone": backbone.name,
        "backbone_sha256": backbone.digest,
        "resize": backbone.resize,
        "preprocessing": comparison.PREPROCESSING,
        "reference": "1,000 equally frequent modes",
        **evaluation.code_version(),
    }
    return {"metrics": metrics, "protocol": protocol | opening.drawing_of(trained)}


def discriminator_gap(
    trained: loading.Trained, train: data.Dataset, held_out: data.Dataset, *, num: int = 1000, seed: int = 0
) -> dict[str, float]:
    """`comparison.discriminator_gap` of a run, on the first num images of each set and num drawn ones.

    Raises:
      MissingCapability: for a run that tells no real images from fake ones.
      ValueError: for sets without the labels that a class-conditional run is told.
    """
    trained.system.need("discriminate", "the discriminator's gap")
    told = ("image", "label") if "label" in trained.system.choices else ("image",)
    for dataset in (train, held_out):
        if "label" in told and not dataset.class_names:
            raise ValueError(f"{trained.system.name} is told labels, but {dataset.name} has none")

    def real(dataset):
        rows = np.arange(min(num, dataset.num_examples))
        for part in np.array_split(rows, -(-len(rows) // BATCH)):
            yield dataset.prepare(dataset.fetch(part), jax.random.key(seed))

    key = jax.random.key(seed)
    label = data.labels.of_some(train, num, trained.system.choices.get("label", 0), key)
    fakes = opening.drawn_batches(trained, num, key, label)
    logits = [
        np.concatenate([trained.discriminate({name: batch[name] for name in told}) for batch in batches])
        for batches in (real(train), real(held_out), fakes)
    ]
    return comparison.discriminator_gap(*logits)
