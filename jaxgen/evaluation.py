"""Sets of images against each other: any two, opened by what they are called, with the protocol of every number.

What `jaxgen evaluate` computes. `evaluation_of_runs` measures a run by itself, `evaluation_page` shows numbers.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from jaxgen import __version__, configuration, data, experiment, images, memory, options, run_directory, systems
from jaxgen.data import decode
from jaxgen.metrics import comparison, conditional, features, inception
from jaxgen.models import inception as network
from jaxgen.system import System

Progress = Callable[[Iterable, int, str], Iterable]
"""(batches, number of batches, what they are) -> batches, such as a progress bar."""

BATCH = 500
BUILT_IN = ("mnist", "stacked_mnist", "emoji")
SPLITS = ("train", "test")
IN_TURNS = "all classes alike, in turns"
"""Which labels a class-conditional run is asked for, in a protocol."""


def no_progress(batches: Iterable, total: int, what: str) -> Iterable:
    """The batches, unseen."""
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
    system: System | ModuleType | None = None,
    progress: Progress = no_progress,
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
      system: of a run of a user's own, as for `experiment.load`.
      progress: shows the drawing.

    Raises:
      ValueError, FileNotFoundError and others: for what cannot be opened, with what to do.
    """
    check_there(what)
    name, _, split = what.partition(":")
    path = Path(what).expanduser()
    if name in BUILT_IN:
        return first(_open_built_in(name, split or "test", shape, image_size), num)
    if run_directory.is_run(path):
        trained = experiment.load(path, step=step, system=system)
        return draw(trained, what, num=num or 10_000, seed=seed, progress=progress)
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
    raise ValueError(f"{what} is a file, but neither .npz nor .npy; images belong into a folder")


def check_there(what: str) -> None:
    """Raises what `open_images` would for a name of nothing, before anything long is begun."""
    name, _, split = what.partition(":")
    if name in BUILT_IN:
        if split and split not in SPLITS:
            raise ValueError(f"{name} has the splits train and test, not {split!r}: write {name}:train or {name}:test")
    elif not Path(what).expanduser().exists():
        raise FileNotFoundError(
            f"{what} does not exist: give a run directory, a folder of images, a .npz or .npy file, or one of "
            f"{', '.join(f'{name}:{split}' for name in BUILT_IN for split in SPLITS)}"
        )


def data_of(trained: experiment.Trained, whose: str) -> options.Data:
    """The data that a run was trained on, which can be opened again.

    Raises:
      ValueError: for a run that was handed its data as an object.
    """
    if trained.config is None:
        raise ValueError(
            f"nothing says how to open the data of {whose} again, since they were handed to its training: give a "
            "REFERENCE, and with --train the images that it was trained on"
        )
    return trained.config.data


def open_test_split(config: options.Data, whose: str) -> Images:
    """The images held out from a run's own data.

    Raises:
      ValueError: where there are none.
    """
    if not config.has_test_split:
        raise ValueError(f"{whose} has no test split of its own to be compared with; give a REFERENCE")
    return Images(config.open("test"), config.name, "test")


def _open_built_in(name, split, shape, image_size) -> Images:
    own = 64 if name == "emoji" else 28
    size = image_size or (shape[0] if shape is not None and shape[0] == shape[1] else own)
    dataset = options.Data(name, image_size=size).open(split)
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
    trained: experiment.Trained, name: str, *, num: int = 10_000, seed: int = 0, progress: Progress = no_progress
) -> Images:
    """Images of a run as one side, stored in 256 levels: exported pictures have the same numbers.

    Raises:
      MissingCapability: for a run that draws nothing.
      ValueError: for NaN.
    """
    try:
        trained.system.need("draw", f"a comparison of images that {name} draws")
    except ValueError as error:
        if trained.system.measure is not None:
            error.add_note("Without a REFERENCE and --metrics it is measured by itself.")
        if trained.system.backbone is not None:
            error.add_note("As a feature network it is given with --backbone.")
        raise
    batches = drawn_batches(trained, num, jax.random.key(seed))
    drawn, label = [], []
    for batch in progress(batches, -(-num // BATCH), f"drawing {num:,} images"):
        if np.isnan(batch["image"]).any():
            raise ValueError(f"{name} draws images with NaN: its weights are not finite; evaluate an earlier --step")
        drawn.append(images.to_uint8(batch["image"]))
        label += [batch["label"]] if "label" in batch else []
    told = {}
    if label:
        count = trained.system.choices["label"]
        names = trained.class_names if len(trained.class_names) == count else tuple(map(str, range(count)))
        told = {"label": np.concatenate(label), "class_names": names}
    return Images(data.from_arrays(f"samples of {name}", np.concatenate(drawn), **told), name, run=trained)


def drawn_batches(trained: experiment.Trained, num: int, key: jax.Array) -> Iterator[dict[str, np.ndarray]]:
    """What a run draws, a batch at a time; of a class-conditional run image i is of class i mod num_classes."""
    needed = num * int(np.prod(trained.image_shape))  # as stored; features come on top
    memory.check(needed, memory.free_of_machine(), f"drawing {num:,} images", "draw fewer")
    classes = range(trained.system.choices.get("label", 0))
    return experiment.generate_batches(trained, num, key, batch_size=BATCH, label=classes or None)


def drawing_of(trained: experiment.Trained) -> dict[str, str]:
    """How a run's images are drawn here: the protocol of its system, with the labels that it is asked for."""
    return {**trained.system.protocol, **({"labels": IN_TURNS} if "label" in trained.system.choices else {})}


def open_backbone(
    name: str | None,
    image_shape: tuple[int, int, int],
    *,
    rule: str = "tf1_bilinear",
    system: System | ModuleType | None = None,
) -> features.Backbone:
    """The feature network of a comparison.

    Args:
      name: one of the package's own (`features.SHIPPED`), a file of weights (.npz of `features.save_cnn`; the FID's
        Inception v3 as .pth or converted .npz), or a run of a classifier. None: the package's own for such images.
      image_shape: (H, W, C) of the images.
      rule: the resize rule of Inception v3.
      system: of a run of a user's own, as for `experiment.load`.

    Raises:
      ValueError: where the package has no network for such images; for a run whose system has no `backbone`.
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
    if run_directory.is_run(path):
        judge = experiment.load(path, system=system)
        judge.system.need("classify", f"--backbone {name}")
        if judge.system.backbone is None:
            raise ValueError(f"{name} classifies, but its system ({judge.system.name}) names no backbone for features")
        title = f"{name} at {judge.step}"
        return features.of_cnn(judge.system.backbone, judge.variables, judge.image_shape, name=title)
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
    return inception.backbone(path, rule=options.lookup(rules, rule, "resize rule"))


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
    progress: Progress = no_progress,
) -> comparison.Seen:
    """What a network sees in one side of a comparison; see `comparison.see`."""
    # The FID's Inception v3 takes any size and needs a gigabyte for 50 images of 299 x 299.
    size = 50 if backbone.image_shape is None else 250

    def shown(batches, total, what):
        return progress(batches, total, f"features of {what}")

    return comparison.see(backbone, side.dataset, batch_size=size, cache=cache, digest=digest, progress=shown)


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
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Metrics of one set of images against another, with everything that they depend on.

    Of a class-conditional run, against a reference with labels of as many classes, these stand beside them:
    `fid_within_classes` with an FID, and `as_asked` where the network classifies into as many.

    Args:
      fake: what is evaluated.
      reference: what it is compared with.
      backbone: the feature network.
      metrics: names in `comparison.METRICS`.
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
            # JAX warns so of a cache that cannot be written, which is of this machine and not of the images.
            if issubclass(found.category, UserWarning) and "persistent compilation cache" not in str(found.message):
                said.append(str(found.message))


def _compare(fake, reference, backbone, metrics, seen_fake, train, seed, cache, progress):
    table = {name: options.lookup(comparison.METRICS, name, "metric") for name in metrics}
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
    values, settings = {}, {}
    for name in progress(list(table), len(table), f"computing {', '.join(table)}"):
        found = comparison.compare(backbone, seen_real, seen_fake, {name: table[name]}, key)
        values |= found[0]
        settings |= found[1]
    measured, num_classes = [], len(fake.dataset.class_names)
    labelled = _labelled(fake, reference, seen_fake, seen_real)
    if labelled is not None and seen_fake.logits.shape[1] == num_classes:
        measured.append(conditional.as_asked(*labelled))
    if labelled is not None and "fid" in table:
        measured.append(conditional.within_classes(*labelled, num_classes))
    if train is not None:
        train_digest = comparison.content_digest(train)
        seen_train = see(Images(train, train.name), backbone, cache=cache, digest=train_digest, progress=progress)
        found = _against_train(train, seen_train, seen_real, seen_fake, reference, table, values, key)
        if found and labelled is not None and "fid" in table and len(train.class_names) == num_classes:
            of_train = conditional.Labelled(seen_train, labels_of(train))
            found.append(conditional.within_classes_of_train(of_train, *labelled, num_classes, key))
        own = {"train": train.name, "train_sha256": train_digest}
        measured += [part._replace(settings=part.settings | own) for part in found]
    for found in measured:
        values |= found.values
        settings |= dict.fromkeys(found.values, found.settings)
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
        protocol |= {"run": fake.name, **training_of(fake.run), **drawing_of(fake.run)}
    subject = f"{fake.name}:{fake.split}" if fake.split else fake.name
    return {"subject": subject, "metrics": values, "protocol": protocol, "settings": settings}


def _against_train(train, seen_train, seen_real, seen_fake, reference, table, values, key):
    """Whether images are copies, and what as many training images have in their place."""
    copying = comparison.memorisation(seen_train.features, seen_real.features, seen_fake.features)
    if np.isnan(copying.values["nearest_ratio"]):
        warnings.warn(
            f"{reference.name} is among the training images {train.name}: it cannot tell how near new images are "
            "to them, so copying is not measured. Give held-out images as the reference",
            stacklevel=4,
        )
        return []
    alike = comparison.of_train(seen_train, seen_real, len(seen_fake.features), list(table), key)
    best = alike.values.get("fid_of_train")
    if best is not None and values["fid"] <= best:
        warnings.warn(
            f"the FID, {values['fid']:.3g}, is not above that of as many training images, {best:.3g}: against "
            "this reference no generator could be told from one that learnt their distribution perfectly",
            stacklevel=4,
        )
    return [copying, alike]


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


def labels_of(dataset: data.Dataset) -> np.ndarray | None:
    """The labels of all images, in order; None for a set without."""
    if not dataset.class_names:
        return None
    if dataset.arrays is not None:
        return np.asarray(dataset.arrays["label"])[: dataset.num_examples]
    batches = data.sequential_batches(dataset, min(BATCH, dataset.num_examples))
    return np.concatenate([np.asarray(raw["label"])[:num_valid] for raw, num_valid in batches])


def _labelled(fake, reference, seen_fake, seen_real) -> tuple[conditional.Labelled, conditional.Labelled] | None:
    """(real, fake) with their labels, where a run was asked for labels and the reference has the same classes."""
    if fake.run is None or not fake.dataset.class_names:
        return None
    asked, there = fake.dataset.class_names, reference.dataset.class_names
    if len(asked) != len(there):
        found = f"has {len(there)} classes and not {len(asked)}" if there else "has no labels"
        warnings.warn(
            f"{reference.name} {found}: whether images are of the class that they were asked for is not measured",
            stacklevel=4,
        )
        return None
    if asked != there:
        a, b = next(names for names in zip(asked, there, strict=True) if names[0] != names[1])
        warnings.warn(
            f"the classes of {fake.name} and {reference.name} have other names ({a} and {b}, ...): they are compared "
            "in their order",
            stacklevel=4,
        )
    label = labels_of(reference.dataset), labels_of(fake.dataset)
    return conditional.Labelled(seen_real, label[0]), conditional.Labelled(seen_fake, label[1])


# Protocols ------------------------------------------------------------------------------------------------------------


def training_of(trained: experiment.Trained) -> dict[str, Any]:
    """Which training a run was: preset, step, seed, and a digest of everything else that training depends on."""
    return {
        "step": trained.step,
        "preset": trained.stored.get("preset", ""),
        "training_seed": trained.stored.get("seed", 0),
        "config_sha256": config_digest(trained.stored if trained.config is None else trained.config),
    }


def config_digest(config: options.Run | Mapping[str, Any]) -> str:
    """A digest of all that a training depends on but its seed.

    Args:
      config: the settings of a system; or, where there are none, what the run stores.
    """
    if dataclasses.is_dataclass(config):
        config = {"system": systems.name_of(systems.module_of(config)), **dataclasses.asdict(config)}
    flat = run_directory.flatten(config)
    ignored = ("seed", *configuration.MAY_CHANGE)  # a name covers everything below it
    without = {n: v for n, v in flat.items() if not any(n == name or n.startswith(f"{name}.") for name in ignored)}
    return hashlib.sha256(json.dumps(without, sort_keys=True).encode()).hexdigest()


def code_version() -> dict[str, Any]:
    """The version of this package, and the commit where it is known; JAX's, and what it computes on."""
    found = run_directory.environment()
    return {"jaxgen": __version__, **{name: found[name] for name in ("commit", "jax", "device_kind")}}
