"""How well test images come back from the codes that a run gives them: PSNR, SSIM, and the FID of reconstructions."""

from typing import Any

import jax
import numpy as np

from jaxgen import data, images, loading, restoration
from jaxgen.arguments import check_key
from jaxgen.metrics import comparison, features
from jaxgen.opening import BATCH
from jaxgen.progress import Progress, no_progress


def numbers(
    trained: loading.Trained,
    test: data.Dataset,
    key: jax.Array,
    *,
    backbone: features.Backbone | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Reconstructions of test images beside what the run was given, and as a set beside the images as they are stored.

    Args:
      trained: a run that reconstructs.
      test: held-out images, as the run reads them.
      key: of what is random in them, such as a dynamic binarisation.
      backbone: adds the FID in its features.
      progress: shows it.

    Returns:
      `metrics`: `reconstruction_psnr` and `reconstruction_ssim`, means of `restoration.numbers`, and with a backbone
      `reconstruction_fid` with its standard error; and `settings`, what each depends on.

    Raises:
      MissingCapability: for a run that reconstructs nothing.
      ValueError: for images of another shape than the backbone takes, and for NaN.
    """
    check_key(key)
    trained.system.need("reconstruct", "the quality of reconstructions")
    if backbone is not None:
        features.check_shape(backbone, test.image_shape, test.name)  # now, and not after minutes
    size = min(BATCH, test.num_examples)
    count = -(-test.num_examples // size)
    compare = jax.jit(restoration.numbers)
    made, per_image = [], []
    batches = progress(data.sequential_batches(test, size), count, f"reconstructing {test.num_examples:,} test images")
    for index, (raw, num_valid) in enumerate(batches):
        batch = test.prepare(raw, jax.random.fold_in(key, index))
        found = trained.reconstruct(batch)
        if not np.isfinite(found).all():
            raise ValueError(f"reconstructions of {test.name} hold NaN: the weights are not finite")
        per_image.append({name: x[:num_valid] for name, x in compare(found, batch["image"]).items()})
        made.append(images.to_uint8(found[:num_valid]))
    metrics = {
        f"reconstruction_{name}": float(np.concatenate([found[name] for found in per_image]).mean())
        for name in per_image[0]
    }
    settings: dict[str, dict[str, str]] = dict.fromkeys(metrics, {"beside": "the images that the run was given"})
    if backbone is not None:
        stored = np.concatenate(list(comparison.stored_images(test, size)))
        distance = comparison.fid_to(data.from_arrays("test images", stored), backbone, key)
        of_set = distance(data.from_arrays("reconstructions", np.concatenate(made)))
        network = {"backbone": backbone.name, "backbone_sha256": backbone.digest, "resize": backbone.resize}
        for name, value in of_set.items():
            metrics[f"reconstruction_{name}"] = value
            settings[f"reconstruction_{name}"] = {"beside": "the stored images"} | network
    return {"metrics": metrics, "settings": settings}
