"""Evaluation of runs and of images: what scripts/evaluate.py prints, with the protocol of every number."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxgen import data, experiment
from jaxgen.metrics import coverage, features

Progress = Callable[[Iterable, int, str], Iterable]
"""(batches, number of batches, what they are) -> batches, such as a progress bar."""

BATCH = 500


def _no_progress(batches, total, what):
    return batches


def stacked_mnist(
    trained: experiment.Trained,
    backbone: features.Backbone,
    *,
    num: int = 26_000,
    seed: int = 0,
    progress: Progress = _no_progress,
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

    drawn = experiment.generate_batches(trained, num, jax.random.key(seed), batch_size=BATCH)
    metrics = report((quantised(batch) for batch in drawn), "drawing and classifying")
    real = data.stacked_mnist("test", num_examples=num)
    rows = (real.fetch(np.arange(start, min(start + BATCH, num)))["image"] for start in range(0, num, BATCH))
    of_real = report(rows, "classifying test images")
    metrics |= {f"{name}_of_test_images": of_real[name] for name in ("modes", "kl")}
    return {
        "metrics": metrics,
        "protocol": {
            "step": int(trained.state.step),
            "n_fake": num,
            "seed": seed,
            "backbone": backbone.name,
            "backbone_sha256": backbone.digest,
            "resize": backbone.resize,
            "preprocessing": PREPROCESSING,
            "reference": "1,000 equally frequent modes",
        },
    }


PREPROCESSING = "clipped to [-1, 1], rounded to 256 levels"


def quantised(images) -> np.ndarray:
    """Images as they would be stored, uint8: a run and its exported pictures then have the same numbers."""
    from jaxgen import images as pictures

    return pictures.to_uint8(images)
