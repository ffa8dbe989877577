"""Evaluation of runs, and of anybody's images: what scripts/evaluate.py prints, with the protocol of every number."""

import base64
import contextlib
import dataclasses
import functools
import hashlib
import html
import json
import os
import re
import textwrap
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import __version__, data, experiment, images, presets, run_directory
from jaxgen.data import decode
from jaxgen.losses import variational
from jaxgen.metrics import comparison, coverage, features, inception
from jaxgen.models import inception as network

Progress = Callable[[Iterable, int, str], Iterable]
"""(batches, number of batches, what they are) -> batches, such as a progress bar."""

BATCH = 500
BUILT_IN = ("mnist", "stacked_mnist", "emoji")
SPLITS = ("train", "test")


def _no_progress(batches, total, what):
    return batches


# What can be evaluated, and against what ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Images:
    """One side of a comparison.

    Attributes:
      dataset: the images.
      name: what to call them.
      split: of a built-in set; "" otherwise.
      resize: how its images came to their size, in words.
      run: the run that drew them.
    """

    dataset: data.Dataset
    name: str
    split: str = ""
    resize: str = "none"
    run: experiment.Trained | None = None


def open_images(
    what: str,
    *,
    num: int | None = None,
    seed: int = 0,
    step: int | None = None,
    shape: tuple[int, int, int] | None = None,
    image_size: int | None = None,
    value_range: tuple[float, float] | None = None,
    max_broken_share: float = 0.01,
    progress: Progress = _no_progress,
) -> Images:
    """Opens one side of a comparison.

    Args:
      what: a run directory, whose newest good checkpoint draws images; a folder of images; a .npz or .npy file; or a
        built-in set with its split, such as `mnist:test`, `emoji:train`, `stacked_mnist` (test by default).
      num: how many images: drawn by a run (10,000 by default), or the first of a set (all by default).
      seed: of a run's latents.
      step: of a run's checkpoint; the newest by default.
      shape: (H, W, C) of the other side, which a built-in set then takes if it can.
      image_size: side in pixels that images of a folder are brought to, by area averages of the largest square in the
        middle. None: they must all have one size already, and are taken as they are.
      value_range: black and white of a file of numbers, if they do not say it themselves.
      max_broken_share: of the images of a folder, up to which broken ones are told and left out.
      progress: shows the drawing.

    Raises:
      ValueError, FileNotFoundError and others: for what cannot be opened, with what to do.
    """
    name, _, split = what.partition(":")
    path = Path(what).expanduser()
    if name in BUILT_IN:
        return first(_open_built_in(name, split or "test", shape, image_size), num)
    if (path / run_directory.CONFIG).exists():
        return draw(experiment.load(path, step=step), what, num=num or 10_000, seed=seed, progress=progress)
    if path.is_dir():
        side = _open_folder(path, image_size, shape, max_broken_share)
        if num is not None and num < side.dataset.num_examples and any(inner.is_dir() for inner in path.iterdir()):
            warnings.warn(
                f"of {what} the first {num:,} of {side.dataset.num_examples:,} images are taken, in the order of their "
                "paths: those of its first subfolders",
                stacklevel=2,
            )
        return first(side, num)
    if path.suffix.lower() in (".npz", ".npy"):
        return first(Images(_open_array_file(path, value_range), what), num)
    if path.exists():
        raise ValueError(f"{what} is a file, but neither .npz nor .npy; images belong into a folder")
    raise FileNotFoundError(
        f"{what} does not exist: give a run directory, a folder of images, a .npz or .npy file, or one of "
        f"{', '.join(f'{name}:{split}' for name in BUILT_IN for split in SPLITS)}"
    )


def open_test_split(config: presets.Data, whose: str) -> Images:
    """The images held out from a run's own data.

    Raises:
      ValueError: where there are none.
    """
    if not presets.has_test_split(config):
        raise ValueError(f"{whose} has no test split of its own to be compared with; give a REFERENCE")
    return Images(experiment.load_data(config, "test"), config.name, "test")


def _open_built_in(name, split, shape, image_size) -> Images:
    if split not in SPLITS:
        raise ValueError(f"{name} has the splits train and test, not {split!r}: write {name}:train or {name}:test")
    own = 64 if name == "emoji" else 28
    size = image_size or (shape[0] if shape is not None and shape[0] == shape[1] else own)
    dataset = presets.DATASETS[name](presets.Data(name, image_size=size), split)
    rule = {"emoji": f"area average of 64x64 to {size}x{size}"}.get(name, f"zero padding of 28x28 to {size}x{size}")
    return Images(dataset, name, split, "none" if size == own else rule)


def _open_folder(path, image_size, shape, max_broken_share) -> Images:
    sizes, modes, num_files = Counter(), Counter(), 0
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in data.folder.EXTENSIONS and not file.name.startswith("."):
            num_files += 1
            if (found := _header(file)) is not None:
                sizes[found[0]] += 1
                modes[found[1]] += 1
    if not sizes:
        found = "an empty folder" if not any(path.iterdir()) else "neither a run nor a folder of images"
        raise ValueError(f"{path}: {found}: no image found in it ({', '.join(data.folder.EXTENSIONS)})")
    rule = "none"
    if image_size is None:
        if len(sizes) > 1:
            listed = ", ".join(f"{w}x{h} ({count})" for (w, h), count in sizes.most_common(3))
            listed += ", ..." if len(sizes) > 3 else ""
            raise ValueError(
                f"{path}: images of {len(sizes)} different sizes: {listed}; --image-size says which square size to "
                "bring them to, and the protocol will say so"
            )
        (width, height), _ = sizes.most_common(1)[0]
        size = (height, width)
    else:
        size = (image_size, image_size)
        rule = "none" if set(sizes) == {size} else f"centre crop, area average to {image_size}x{image_size}"
        if small := sum(count for found, count in sizes.items() if min(found) < image_size):
            rule += f", {small:,} of them enlarged (bicubic)"
    dataset = functools.partial(
        data.image_folder,
        path,
        image_size=size,
        crop=decode.centre_crop,
        labelled=False,
        max_broken_share=max_broken_share,
    )
    grey = set(modes) <= {"1", "L", "I;16", "I"}
    wants_grey = shape is None or shape[2] == 1
    opened = None if grey else dataset(channels=3)
    if opened is not None and wants_grey and _is_grey(opened):
        opened = dataset(channels=1)
        rule = "grey, stored as colour" if rule == "none" else f"{rule}, grey, stored as colour"
    elif opened is None:
        opened = dataset(channels=1 if wants_grey else 3)
        if not wants_grey:
            rule = "grey repeated in 3 channels" if rule == "none" else f"{rule}, grey repeated in 3 channels"
            warnings.warn(f"{path} holds grey images, repeated in 3 channels beside colour ones", stacklevel=3)
    if left_out := num_files - opened.num_examples:
        warnings.warn(f"{left_out} of the {num_files:,} files of {path} are broken and were left out", stacklevel=3)
    return Images(opened, str(path), resize=rule)


def _is_grey(dataset) -> bool:
    """Whether all three channels are equal in all images; False for a set that is not in memory."""
    if dataset.arrays is None:
        return False
    image = np.asarray(dataset.arrays["image"])
    return bool((image[..., :1] == image[..., 1:]).all())


def _open_array_file(path, value_range) -> data.Dataset:
    try:
        return data.array_file(path, value_range=value_range)
    except ValueError as error:
        if value_range is not None:  # meant for the other side, perhaps: bytes say their range themselves
            with contextlib.suppress(ValueError):
                return data.array_file(path)
        elif "value_range" in str(error):
            error.add_note("On the command line: --value-range BLACK WHITE, such as --value-range 0 1.")
        raise


def _header(file):
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return picture.size, picture.mode
    except OSError:
        return None  # counted and reported by image_folder


def first(side: Images, num: int | None) -> Images:
    """The first num images of a set, or all of them."""
    if num is None or num >= side.dataset.num_examples:
        return side
    if num < 1:
        raise ValueError(f"the number of images must be at least 1, not {num}")
    first = dataclasses.replace(side.dataset, num_examples=num)
    return dataclasses.replace(side, dataset=first)


def draw(
    trained: experiment.Trained, name: str, *, num: int = 10_000, seed: int = 0, progress: Progress = _no_progress
) -> Images:
    """Images of a run as one side, stored in 256 levels: exported pictures have the same numbers."""
    if trained.networks.generate is None:
        raise ValueError(
            f"{name} is the run of a {type(trained.config).__name__.lower()}, which draws no images: there is nothing "
            "to compare. As a feature network it is given with --backbone, and evaluated by itself without a REFERENCE"
        )
    batches = experiment.generate_batches(trained, num, jax.random.key(seed), batch_size=BATCH)
    batches = progress(batches, -(-num // BATCH), f"drawing {num:,} images")
    drawn = []
    for batch in batches:
        if np.isnan(batch).any():
            raise ValueError(f"{name} draws images with NaN: its weights are not finite; evaluate an earlier --step")
        drawn.append(images.to_uint8(batch))
    return Images(data.from_arrays(f"samples of {name}", np.concatenate(drawn)), name, run=trained)


def open_backbone(name: str | None, image_shape: tuple[int, int, int], *, rule: str = "tf1_bilinear"):
    """The feature network of a comparison.

    Args:
      name: one of the package's own (`features.SHIPPED`), a file of weights (.npz of `features.save_cnn`; the FID's
        Inception v3 as .pth or converted .npz), or a run of a classifier. None: the package's own for such images.
      image_shape: (H, W, C) of the images.
      rule: the resize rule of Inception v3.

    Raises:
      ValueError: where the package has no network for such images; for a run that is no classifier.
      features.BackboneError, FileNotFoundError: for weights that are damaged, of another network, or not there.
    """
    if name is None:
        try:
            return features.shipped_for(image_shape)
        except ValueError as error:
            raise ValueError(
                f"{error}; name one with --backbone: weights of the FID's Inception v3 (.pth or .npz), which takes any "
                "size, or the run of a classifier of such images"
            ) from None
    if name in features.SHIPPED:
        return features.shipped(name)
    path = Path(name).expanduser()
    if (path / run_directory.CONFIG).exists():
        judge = experiment.load(path)
        if judge.networks.features is None:
            raise ValueError(f"{name} is no classifier but a {type(judge.config).__name__}")
        shape = run_directory.load_config(path)["images"]["image_shape"]
        return features.of_cnn(judge.networks.features, judge.state.ema, shape, name=f"{name} at {judge.state.step}")
    if path.is_dir():
        raise ValueError(f"{name} is a folder, but not the run of a classifier that --backbone could take")
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no feature network {name!r}: no file, no run, and not one of {', '.join(features.SHIPPED)}"
        )
    if features.is_cnn_file(path):
        return features.load_cnn(path)
    if path.suffix == ".npz" and not zipfile.is_zipfile(path):
        raise features.BackboneError(f"{path}: no .npz of weights, it is damaged or cut short; get it anew")
    rules = {"tf1_bilinear": network.tf1_bilinear, "antialiased_bicubic": network.antialiased_bicubic}
    return inception.backbone(path, rule=presets.lookup(rules, rule, "resize rule"))


# Numbers --------------------------------------------------------------------------------------------------------------


def check_alike(fake: Images, reference: Images) -> None:
    """Raises a ValueError unless both sides have images of one size and number of channels."""
    shapes = [side.dataset.image_shape for side in (fake, reference)]
    sizes, channels = [shape[:2] for shape in shapes], [shape[2] for shape in shapes]
    if sizes[0] != sizes[1]:
        words = [f"{width}x{height}" for height, width in sizes]
        raise ValueError(
            f"{fake.name} has images of {words[0]} pixels, but {reference.name} has {words[1]}: numbers of unlike "
            "images mean nothing. Bring both to one size (--image-size does it for folders, and the record says so)"
        )
    if channels[0] != channels[1]:
        words = ["grey" if number == 1 else f"{number}-channel" for number in channels]
        raise ValueError(
            f"{fake.name} has {words[0]} images, but {reference.name} has {words[1]} ones: numbers of unlike images "
            "mean nothing. Bring both to one number of channels"
        )


def see(
    side: Images,
    backbone: features.Backbone,
    *,
    cache: str | os.PathLike | None = None,
    digest: str | None = None,
    progress: Progress = _no_progress,
) -> comparison.Seen:
    """What a network sees in one side of a comparison; see `comparison.see`."""
    # The FID's Inception v3 takes any size and needs a gigabyte for 50 images of 299 x 299.
    size = 50 if backbone.image_shape is None else 250
    return comparison.see(backbone, side.dataset, batch_size=size, cache=cache, digest=digest, progress=progress)


def compare(
    fake: Images,
    reference: Images,
    backbone: features.Backbone,
    metrics: Sequence[str],
    *,
    seen: comparison.Seen | None = None,
    train: data.Dataset | None = None,
    seed: int = 0,
    cache: str | os.PathLike | None = None,
    progress: Progress = _no_progress,
) -> dict[str, Any]:
    """Metrics of one set of images against another, with everything that they depend on.

    Args:
      fake: what is evaluated.
      reference: what it is compared with.
      backbone: the feature network.
      metrics: names in `presets.METRICS`.
      seen: what the network sees in `fake`, where that is known already.
      train: the images that `fake` may have copied; adds `nearest_ratio` and `nearer_share`, with the reference as the
        held-out images, and beside an FID `fid_of_train`.
      seed: of subsets and divisions, and of the run's latents in the protocol.
      cache: a directory for what the network sees in `reference` and `train`.
      progress: shows it.

    Returns:
      `subject`, `metrics`, `protocol`, `settings` and, if there are any, `warnings` as in `jaxgen.metrics.protocol`.

    Raises:
      ValueError: for images that do not fit each other or the network, too few of them, NaN, unknown metrics.
    """
    with kept_warnings() as said:
        record = _compare(fake, reference, backbone, metrics, seen, train, seed, cache, progress)
    return record | ({"warnings": said} if said else {})


@contextlib.contextmanager
def kept_warnings():
    """Gives a list that holds, after the block, what its warnings said; they are warned of then, too."""
    said: list[str] = []
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
    finally:
        for found in {(str(found.message), found.category): found for found in caught}.values():
            warnings.warn_explicit(found.message, found.category, found.filename, found.lineno)
            if issubclass(found.category, UserWarning):
                said.append(str(found.message))


def _compare(fake, reference, backbone, metrics, seen_fake, train, seed, cache, progress):
    table = {name: presets.lookup(presets.METRICS, name, "metric") for name in metrics}
    check_alike(fake, reference)
    comparison.check_enough(table, reference.dataset.num_examples, fake.dataset.num_examples)
    fake_digest, real_digest = (comparison.content_digest(side.dataset) for side in (fake, reference))
    if fake_digest == real_digest:
        warnings.warn(f"{fake.name} and {reference.name} are the same images, pixel by pixel", stacklevel=2)
    else:
        _warn_of_copies(fake, reference)
    seen_real = see(reference, backbone, cache=cache, digest=real_digest, progress=progress)
    seen_fake = see(fake, backbone, progress=progress) if seen_fake is None else seen_fake
    key = jax.random.key(seed)
    values, settings = comparison.compare(backbone, seen_real, seen_fake, table, key)
    if train is not None:
        train_digest = comparison.content_digest(train)
        seen_train = see(Images(train, train.name), backbone, cache=cache, digest=train_digest, progress=progress)
        measured = [comparison.memorisation(seen_train.features, seen_real.features, seen_fake.features)]
        if np.isnan(measured[0].values["nearest_ratio"]):
            warnings.warn(
                f"{reference.name} is among the training images {train.name}: it cannot tell how near new images are "
                "to them, so copying is not measured. Give held-out images as the reference",
                stacklevel=3,
            )
            measured = []
        else:
            count = fake.dataset.num_examples
            measured.append(comparison.of_train(seen_train, seen_real, count, list(table), key))
            best = measured[-1].values.get("fid_of_train")
            if best is not None and values["fid"] <= best:
                warnings.warn(
                    f"the FID, {values['fid']:.3g}, is not above that of as many training images, {best:.3g}: against "
                    "this reference no generator could be told from one that learnt their distribution perfectly",
                    stacklevel=3,
                )
        for found in measured:
            values |= found.values
            own = found.settings | {"train": train.name, "train_sha256": train_digest}
            settings |= dict.fromkeys(found.values, own)
    protocol = {
        "fake": fake.name,
        "fake_sha256": fake_digest,
        "reference": reference.name,
        "reference_split": reference.split or "all of it",
        "reference_sha256": real_digest,
        "n_real": reference.dataset.num_examples,
        "n_fake": fake.dataset.num_examples,
        "image_shape": list(fake.dataset.image_shape),
        "preprocessing": f"real: {reference.resize}, fake: {fake.resize}; {comparison.PREPROCESSING}",
        "backbone": backbone.name,
        "backbone_sha256": backbone.digest,
        "resize": backbone.resize,
        "seed": seed,
        **code_version(),
    }
    if fake.run is not None:
        protocol |= {"run": fake.name, **training_of(fake.run, fake.name), **drawing_of(fake.run)}
    subject = f"{fake.name}:{fake.split}" if fake.split else fake.name
    return {"subject": subject, "metrics": values, "protocol": protocol, "settings": settings}


def _warn_of_copies(fake, reference):
    if max(side.dataset.num_examples for side in (fake, reference)) > 100_000:
        return  # reading so many once more would take too long
    of_fake, of_real = (comparison.image_digests(side.dataset) for side in (fake, reference))
    distinct, of_real = set(of_fake), set(of_real)
    if shared := sum(digest in of_real for digest in of_fake):
        warnings.warn(
            f"{shared:,} of the {len(of_fake):,} images of {fake.name} are in {reference.name}, too, pixel by pixel: "
            "numbers that compare the two look better than they are",
            stacklevel=3,
        )
    if len(distinct) < 0.99 * len(of_fake):
        warnings.warn(f"of the {len(of_fake):,} images of {fake.name} only {len(distinct):,} differ", stacklevel=3)


def num_dims(trained: experiment.Trained) -> int:
    """Sub-pixels of an image of the run's data that are not padding."""
    height, width, channels = trained.image_shape
    if trained.config.data.name in ("mnist", "stacked_mnist"):
        height = width = 28
    return height * width * channels


def code_length(trained: experiment.Trained, bound: float) -> dict[str, float]:
    """`nll`, an upper bound of the negative log-likelihood in nats an image, and `bits_per_dim` of it.

    Under a density (the Gaussian likelihood) it is no length of a code.
    """
    return {"nll": -bound, "bits_per_dim": float(variational.bits_per_dim(-bound, num_dims(trained)))}


def training_of(trained: experiment.Trained, directory: str | os.PathLike) -> dict[str, Any]:
    """Which training a run was: preset, step, seed, and a digest of everything else that training depends on."""
    return {
        "step": int(trained.state.step),
        "preset": run_directory.load_config(directory).get("preset", ""),
        "training_seed": trained.config.seed,
        "config_sha256": config_digest(trained.config),
    }


def config_digest(config: presets.Config) -> str:
    """A digest of all that a training depends on but its seed."""
    without = presets.to_dict(config)
    for name in ("seed", *presets.MAY_CHANGE):
        without.pop(name, None)
    return hashlib.sha256(json.dumps(without, sort_keys=True).encode()).hexdigest()


def weights_of(trained: experiment.Trained) -> dict[str, str]:
    """Which of a run's weights are evaluated, and the precision in which they compute."""
    half_life = trained.config.ema_half_life
    weights = f"moving average, half-life {half_life:,.0f} images" if half_life > 0 else "the latest"
    return {"weights": weights, "precision": trained.config.precision}


def drawing_of(trained: experiment.Trained) -> dict[str, str]:
    """How a run's images are drawn: from which latents, what of the network's output, and by which weights."""
    drawn = "the generator's output"
    if isinstance(trained.config, presets.VAE):
        drawn = f"means of the decoder's distribution ({trained.config.likelihood}), not draws from it"
        if trained.config.data.binarise != "none":
            drawn += f"; trained on binarised images ({trained.config.data.binarise}), compared with images as stored"
    return {"latents": "standard normal, not truncated", "images": drawn, **weights_of(trained)}


def code_version() -> dict[str, Any]:
    """The version of this package, and the commit where it is known; JAX's, and what it computes on."""
    found = run_directory.environment()
    return {"jaxgen": __version__, **{name: found[name] for name in ("commit", "jax", "device_kind")}}


def discriminator_gap(
    trained: experiment.Trained, train: data.Dataset, held_out: data.Dataset, *, num: int = 1000, seed: int = 0
) -> dict[str, float]:
    """`comparison.discriminator_gap` of a run, on the first num images of each set and num drawn ones.

    Raises:
      ValueError: for a run without a discriminator.
    """
    if trained.networks.discriminate is None:
        raise ValueError(f"a {type(trained.config).__name__} has no discriminator")
    run = jax.jit(trained.networks.discriminate)

    def real(dataset):
        rows = np.arange(min(num, dataset.num_examples))
        for part in np.array_split(rows, -(-len(rows) // BATCH)):
            yield dataset.prepare(dataset.fetch(part), jax.random.key(seed))["image"]

    fakes = experiment.generate_batches(trained, num, jax.random.key(seed), batch_size=BATCH)
    logits = [
        np.concatenate([run(trained.state.discriminator.variables, jnp.asarray(batch)) for batch in batches])
        for batches in (real(train), real(held_out), fakes)
    ]
    return comparison.discriminator_gap(*logits)


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
    metrics = report((images.to_uint8(batch) for batch in drawn), "drawing and classifying")
    real = data.stacked_mnist("test", num_examples=num)
    rows = (real.fetch(np.arange(start, min(start + BATCH, num)))["image"] for start in range(0, num, BATCH))
    of_real = report(rows, "classifying test images")
    metrics |= {f"{name}_of_test_images": of_real[name] for name in ("modes", "kl")}
    return {
        "metrics": metrics,
        "protocol": {
            "n_fake": num,
            "seed": seed,
            "backbone": backbone.name,
            "backbone_sha256": backbone.digest,
            "resize": backbone.resize,
            "preprocessing": comparison.PREPROCESSING,
            "reference": "1,000 equally frequent modes",
            **code_version(),
        },
    }


# Pictures -------------------------------------------------------------------------------------------------------------


def pictures(
    fake: Images,
    backbone: features.Backbone,
    train: data.Dataset,
    *,
    seen: comparison.Seen | None = None,
    held_out: bool = False,
    cache: str | os.PathLike | None = None,
    num: int = 24,
    progress: Progress = _no_progress,
) -> list[tuple[str, str, np.ndarray]]:
    """What to look at: samples; those most like copies beside what they may be copies of; and, of a run, its latents.

    Args:
      fake: what is evaluated.
      backbone: in whose features images are near to each other.
      train: the images that may have been copied.
      seen: what the network sees in `fake`, where that is known already.
      held_out: they are the reference, since nobody said which images these ones were learnt from.
      cache: as in `compare`.
      num: samples whose neighbours are shown, those that are most like a copy first.
      progress: shows it.

    Returns:
      (title, caption, uint8 picture [H, W, 3]) each.
    """
    shown = first(fake, 64).dataset
    samples = _floats(shown.fetch(np.arange(shown.num_examples))["image"])
    found = [("Samples", f"The first {len(samples)}.", images.grid(samples, upscale=None))]
    of_train = see(Images(train, train.name), backbone, cache=cache, progress=progress).features
    of_fake = (see(fake, backbone, progress=progress) if seen is None else seen).features
    index, distance = comparison.nearest_neighbours(of_fake, of_train)
    # Plain images are near to many others without being copies: so beside how near the neighbour has one of its own.
    _, around = comparison.nearest_neighbours(of_train[index], of_train, but=index)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(distance > 0, distance / around, 0.0)
    chosen = np.argsort(ratio, kind="stable")[:num]
    columns = [_floats(fake.dataset.fetch(chosen)["image"])]
    barred = np.zeros((len(chosen), 0), np.int64)
    for _ in range(min(3, train.num_examples)):
        index = _nearest_but(of_fake[chosen], of_train, barred)
        barred = np.concatenate([barred, index[:, None]], axis=1)
        columns.append(_floats(train.fetch(index)["image"]))
    pairs = np.stack(columns, axis=1)
    kind = "reference" if held_out else "training"
    caption = (
        f"Of {fake.dataset.num_examples:,} images the {len(chosen)} that are nearest to a {kind} image, for how near "
        f"others of {train.name} are to that one, each with the {len(columns) - 1} nearest right of it, in features of "
        f"{backbone.name}. A copy looks like its neighbour."
    )
    if held_out:
        caption += " --train names the images that these were learnt from; then copying is measured, too."
    found.append((f"Nearest {kind} images", caption, _groups(pairs, in_a_row=2)))
    return found + (_latents(fake.run) if fake.run is not None and fake.run.networks.decode is not None else [])


def _groups(groups, *, in_a_row):
    """A grid of groups [N, K, H, W, C] that stand apart, as does the first image of each from its others."""
    size = groups.shape[1]
    columns = min(in_a_row * size, len(groups) * size)
    padding = 2
    picture = images.grid(groups.reshape(-1, *groups.shape[2:]), columns=columns, padding=padding, upscale=None)
    cell = (picture.shape[1] - padding) // columns
    gaps = np.select([np.arange(columns) % size == 0, np.arange(columns) % size == 1], [24, 4], 0)
    gaps[0] = 0
    return np.insert(picture, np.repeat(padding + cell * np.arange(columns), gaps), 255, axis=1)


def _nearest_but(queries, points, barred):
    """The nearest of the points to each query, those of its row of `barred` left out."""
    distances = ((queries**2).sum(1)[:, None] - 2 * queries @ points.T) + (points**2).sum(1)
    np.put_along_axis(distances, barred, np.inf, axis=1)
    return distances.argmin(axis=1)


def _latents(trained: experiment.Trained) -> list[tuple[str, str, np.ndarray]]:
    """Reconstructions of a VAE, interpolations and traversals."""
    config, variables = trained.config, trained.state.ema
    run = jax.jit(trained.networks.decode)
    ends = np.asarray(jax.random.normal(jax.random.key(0), (2, 8, config.latent_dim)))
    paths = np.stack([slerp(ends[0], ends[1], t) for t in np.linspace(0, 1, 10)], axis=1)
    between = np.asarray(run(variables, paths.reshape(-1, config.latent_dim)))
    found = [
        (
            "Interpolations",
            "Each row goes from one latent to another on the great circle between them.",
            images.grid(between, columns=10, upscale=None),
        )
    ]
    # The units that change an image most, measured and not guessed.
    origin, steps = ends[0, :1], np.linspace(-2.5, 2.5, 10)
    moved = np.repeat(origin, 2 * config.latent_dim, axis=0).reshape(2, config.latent_dim, -1)
    units = np.arange(config.latent_dim)
    moved[0, units, units], moved[1, units, units] = -2.0, 2.0
    low, high = np.asarray(run(variables, moved.reshape(-1, config.latent_dim))).reshape(2, config.latent_dim, -1)
    effect = np.mean((high - low) ** 2, axis=1)
    chosen = np.argsort(-effect)[:8]
    walk = np.repeat(origin, len(chosen) * 10, axis=0).reshape(len(chosen), 10, -1)
    for row, unit in enumerate(chosen):
        walk[row, :, unit] = steps
    walked = np.asarray(run(variables, walk.reshape(-1, config.latent_dim)))
    caption = f"One latent, in which one unit goes from -2.5 to 2.5 in each row: units {', '.join(map(str, chosen))}, "
    found.append(("Traversals", caption + "which change it most.", images.grid(walked, columns=10, upscale=None)))
    return found


def reconstructions(trained: experiment.Trained, held_out: data.Dataset) -> list[tuple[str, str, np.ndarray]]:
    """Images that a VAE was not trained on, each beside its reconstruction; nothing for other families."""
    if not isinstance(trained.config, presets.VAE):
        return []
    rows = np.arange(min(32, held_out.num_examples))
    real = held_out.prepare(held_out.fetch(rows), jax.random.key(0))["image"]
    pairs = np.asarray(trained.networks.show(trained.state.ema, real)["reconstructions"])
    picture = _groups(pairs.reshape(-1, 2, *pairs.shape[1:]), in_a_row=4)
    return [("Reconstructions", f"Images of {held_out.name}, each with its reconstruction right of it.", picture)]


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """From a (t = 0) to b (t = 1) along the great circle, as far from the origin as Gaussian latents are. [..., D]."""
    cosine = np.sum(a * b, axis=-1, keepdims=True) / (
        np.linalg.norm(a, axis=-1, keepdims=True) * np.linalg.norm(b, axis=-1, keepdims=True)
    )
    angle = np.arccos(np.clip(cosine, -1, 1))
    straight = np.sin(angle) < 1e-6
    safe = np.where(straight, 1.0, np.sin(angle))
    return np.where(straight, (1 - t) * a + t * b, (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / safe)


def _floats(image) -> np.ndarray:
    return np.asarray(data.prepare_default({"image": np.asarray(image)})["image"])


MEANINGS = {
    "fid": "distance between the features' means and covariances: 0 at best. Comparable under one protocol only",
    "fid_standard_error": "of the FID, had the generator drawn other images. Two generators differ by more than chance "
    "where their FIDs do by more than twice the root of both squared errors added up",
    "fid_of_equal_sets": "about what two sets of these sizes have that come from the reference's own distribution",
    "fid_of_train": "of as many training images: what a generator that learnt their distribution perfectly has. Where "
    "it is far above that of equal sets, training images and reference are not of one kind",
    "fid_floor": "the FID between two random halves of the reference, which have fewer images, so a larger one",
    "kid": "like the FID, but 0 in the mean for no difference with any number of images, and so sometimes negative",
    "kid_standard_error": "of the KID, had the generator drawn other images: use as that of the FID",
    "kid_of_equal_sets": "how far from 0 two sets of these sizes from one distribution typically are",
    "kid_of_train": "of as many training images",
    "kid_standard_deviation": "between subsets, as is usual to report; no error of the KID",
    "precision": "share of the images that lie among the real ones: quality, more is better; copies of real images "
    "have a high one, too",
    "precision_of_equal_sets": "about what sets from the reference's own distribution have",
    "precision_of_train": "of as many training images",
    "recall": "share of the real images that lie among these: variety, more is better; too few images raise it, clumps "
    "of near copies lower it",
    "recall_of_equal_sets": "about what sets from the reference's own distribution have",
    "recall_of_train": "of as many training images",
    "density": "how densely real images surround these: about 1 for equal sets, and not better above it",
    "density_of_train": "of as many training images",
    "coverage": "share of the real images that have one of these near by: quality and variety, more is better",
    "coverage_of_equal_sets": "what sets from the reference's own distribution have",
    "coverage_of_train": "of as many training images",
    "inception_score": "sure and varied classes: more is better, up to the number of classes",
    "inception_score_of_real": "the same of the real images",
    "inception_score_standard_deviation": "over the splits",
    "confident_share": "share of images of whose class the network is sure (over 0.9); compare with the real ones",
    "confident_share_of_real": "the same of the real images",
    "class_shares": "how often the network sees each class",
    "swd": "sliced Wasserstein distance of the features: 0 at best",
    "nearest_ratio": "distance to the nearest training image, the median over that of the reference's images, which "
    "were held out: 1 is good, 0 is copies, and above 1 images are unlike the training images, blurred perhaps",
    "nearer_share": "share of images nearer to a training image than 1 % of the reference's: 0.01 is good, 1 is copies",
    "nearer_share_by_chance": "up to this that share may be without copies",
    "logit_of_train": "the discriminator's mean logit of images that it was trained on",
    "logit_of_held_out": "of real images that it was not",
    "logit_of_fake": "of generated images",
    "discriminator_overfitting": "0: held-out images look as real to the discriminator as those of the training; "
    "1: as fake as generated ones",
}
"""How to read a number."""


def in_words(record: Mapping[str, Any]) -> list[str]:
    """A record's numbers with how to read them, in lines of up to 120 characters."""
    lines = []
    for name, value in record["metrics"].items():
        text = f"{name:26s}{_in_words(value):>10s}   {MEANINGS.get(name, '')}".rstrip()
        lines += textwrap.wrap(text, 120, subsequent_indent=39 * " ", drop_whitespace=True)
    return [*lines, f"features: {_of_backbone(record['protocol'])}"] if "backbone" in record["protocol"] else lines


def _of_backbone(protocol) -> str:
    name = protocol["backbone"]
    if name in features.SHIPPED:
        return f"{name} of this package: comparable with other numbers of it, not with published ones"
    return f"{name}, {protocol['backbone_sha256'][:12]}..."


def write_page(path: Path, record: Mapping[str, Any], found: Sequence[tuple[str, str, np.ndarray]]) -> Path:
    """One HTML file with the pictures, the numbers and their protocol; nothing is loaded from elsewhere."""
    sections = []
    for title, caption, picture in found:
        file = images.save_png(path.with_name(f"{path.stem}_{re.sub(r'[^a-z]+', '_', title.lower())}.png"), picture)
        source = base64.b64encode(file.read_bytes()).decode()
        sections.append(
            f'<h2>{html.escape(title)}</h2><p>{html.escape(caption)}</p><img alt="{html.escape(title)}" '
            f'src="data:image/png;base64,{source}">'
        )
    rows = {"metrics": "", "protocol": ""}
    settings = record.get("settings", {})
    for title in rows:
        for name, value in record[title].items():
            told = settings.get(name, {}) if title == "metrics" else {}
            how = ", ".join(f"{entry} {_in_words(found)}" for entry, found in told.items() if entry != "train_sha256")
            cells = (str(name), _in_words(value), MEANINGS.get(name, ""), how)
            rows[title] += f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
    tables = [f"<h2>{title.capitalize()}</h2><table>{text}</table>" for title, text in rows.items()]
    told = f"<p>Features: {html.escape(_of_backbone(record['protocol']))}.</p>"
    told += "".join(f"<p><b>Note:</b> {html.escape(text)}.</p>" for text in record.get("warnings", []))
    style = "body{font:15px sans-serif;max-width:920px;margin:2em auto}td{padding:2px 12px 2px 0}img{max-width:100%}"
    name = html.escape(str(record["subject"]))
    text = f"<!doctype html><meta charset=utf-8><title>{name}</title><style>{style}</style><h1>{name}</h1>"
    run_directory.write_atomically(path, (text + tables[0] + told + "".join(sections) + tables[1] + "\n").encode())
    return path


def _in_words(value) -> str:
    if isinstance(value, list):
        return " ".join(map(_in_words, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
