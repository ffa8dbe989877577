"""How well test images come back from the codes that a run gives them: PSNR, SSIM, and the FID of reconstructions."""

import math
from typing import Any

import jax
import numpy as np

from jaxgen import data, images, loading, memory, restoration
from jaxgen.arguments import check_key
from jaxgen.evaluation import representation
from jaxgen.metrics import baselines, comparison, features
from jaxgen.opening import BATCH
from jaxgen.progress import Progress, no_progress

MOST_IMAGES = 4000
"""That principal components are fitted to."""


def numbers(
    trained: loading.Trained,
    test: data.Dataset,
    key: jax.Array,
    *,
    train: data.Dataset | None = None,
    backbone: features.Backbone | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Reconstructions of test images beside what the run was given, and as a set beside the images as they are stored.

    Args:
      trained: a run that reconstructs.
      test: held-out images, as the run reads them.
      key: of what is random in them, such as a dynamic binarisation.
      train: the images that it was trained on, alike: adds what as many principal components as a code has numbers
        make of the test images.
      backbone: adds the FID in its features.
      progress: shows it.

    Returns:
      `metrics`: `reconstruction_psnr` and `reconstruction_ssim`, means of `restoration.numbers`, and with a backbone
      `reconstruction_fid` with its standard error; and `settings`, what each depends on.

    Raises:
      MissingCapability: for a run that reconstructs nothing.
      ValueError: for images of another shape than the backbone takes, for NaN, and with `train` as `numbers_of_a_code`.
      MemoryError: for more reconstructions than fit, of which an FID is asked.
    """
    check_key(key)
    trained.system.need("reconstruct", "the quality of reconstructions")
    if backbone is not None:
        features.check_shape(backbone, test.image_shape, test.name)  # now, and not after minutes
        sub_pixels = test.num_examples * int(np.prod(test.image_shape))
        words = f"the FID of {test.num_examples:,} reconstructions"
        memory.check(sub_pixels, memory.free_of_machine(), words, "leave out --backbone")
    methods: dict[str, tuple[Any, dict[str, str]]] = {"": (trained.reconstruct, {})}
    if train is not None:
        components = _components(train, numbers_of_a_code(trained), key, progress)

        def by_components(batch):
            return np.asarray(components.apply(components.arrays, batch["image"], None))

        methods["_of_principal_components"] = by_components, {"fitted": components.words}
    size = min(BATCH, test.num_examples)
    distance, network = None, {}
    if backbone is not None:
        distance = comparison.fid_to(test, backbone, key)
        network = {"backbone": backbone.name, "backbone_sha256": backbone.digest, "resize": backbone.resize}
    compare = jax.jit(restoration.numbers)
    metrics: dict[str, float] = {}
    settings: dict[str, dict[str, str]] = {}
    for method, (reconstruct, told) in methods.items():
        made, per_image = [], []
        words = f"reconstructing {test.num_examples:,} test images{method.replace('_of_', ' by ').replace('_', ' ')}"
        batches = progress(data.sequential_batches(test, size), -(-test.num_examples // size), words)
        for index, (raw, num_valid) in enumerate(batches):
            batch = test.prepare(raw, jax.random.fold_in(key, index))
            found = reconstruct(batch)
            if not np.isfinite(found).all():
                raise ValueError(f"reconstructions of {test.name} hold NaN: the weights are not finite")
            per_image.append({name: x[:num_valid] for name, x in compare(found, batch["image"]).items()})
            made += [] if distance is None else [images.to_uint8(found[:num_valid])]
        for name in per_image[0]:
            entry = f"reconstruction_{name}{method}"
            metrics[entry] = float(np.concatenate([found[name] for found in per_image]).mean())
            settings[entry] = {"beside": "the images that the run was given"} | told
        of_set = {} if distance is None else distance(data.from_arrays("reconstructions", np.concatenate(made)))
        for name, value in of_set.items():
            entry = f"reconstruction_{name}{method}"
            metrics[entry], settings[entry] = value, {"beside": "the stored images"} | network | told
    return {"metrics": metrics, "settings": settings}


def _components(train, width, key, progress):
    """As many principal components of training images, as the run reads them."""
    rows = np.arange(min(train.num_examples, MOST_IMAGES))
    parts = np.array_split(rows, -(-len(rows) // BATCH))
    shown = progress(parts, len(parts), f"reading {len(rows):,} training images")
    given = [np.asarray(train.prepare(train.fetch(part), key)["image"]) for part in shown]
    return baselines.principal_components(np.concatenate(given), width)


def numbers_of_a_code(trained: loading.Trained) -> int:
    """How many numbers a run gives to an image.

    Raises:
      MissingCapability: for a run that encodes nothing.
      ValueError: for codes that are no real numbers, beside which principal components would be unequal.
    """
    return math.prod(representation.code_shape(trained, "--baselines"))
