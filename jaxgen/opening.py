"""Sides of a comparison: images by what they are called, a run that draws them, a folder, a file or a built-in set."""

import contextlib
import dataclasses
import functools
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import jax
import numpy as np

from jaxgen import data, drawing, images, loading, memory, options, run_directory
from jaxgen.data import decode, folder, listing, reading
from jaxgen.progress import Progress, no_progress
from jaxgen.system import System

BATCH = 500
BUILT_IN = ("mnist", "stacked_mnist", "emoji", "factors")
SPLITS = ("train", "test")
IN_TURNS = "all classes alike, in turns"
AS_TRAINED = "of training images, drawn at random"
"""Which labels a class-conditional run is asked for, in a protocol."""
Labels = Literal["training", "alike"]


@dataclasses.dataclass(frozen=True)
class Images:
    """One side of a comparison.

    Attributes:
      dataset: the images.
      name: what to call them.
      split: of a built-in set; "" otherwise.
      resize: how its images came to their size, in words.
      run: the run that drew them.
      learnt: the images that this run learnt from, where their labels were needed.
      labels: of a class-conditional run: which it was asked for, in words.
    """

    dataset: data.Dataset
    name: str
    split: str = ""
    resize: str = "none"
    run: loading.Trained | None = None
    learnt: data.Dataset | None = None
    labels: str = IN_TURNS


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
    labels: Labels = "training",
    system: System | ModuleType | None = None,
    progress: Progress = no_progress,
) -> Images:
    """Opens one side of a comparison.

    Args:
      what: a run directory, whose newest good checkpoint draws images, or makes them of the sources of its own test
        split; a folder of images, which is read as `data.image_folder` reads it; a folder of records, of which the test
        split is taken where there is one; a .npz or .npy file; or a built-in set with its split, such as `mnist:test`,
        `emoji:train`, `stacked_mnist` (test by default).
      num: how many images: drawn by a run (10,000 by default), or the first of a set or of a run's sources (all by
        default).
      seed: of a run's latents.
      step: of a run's checkpoint; the newest by default.
      shape: (H, W, C) of the other side, which a built-in set then takes if it can.
      image_size: side in pixels that images of a folder are brought to, by area averages of the largest square in the
        middle. None: images of one size are taken as they are, others brought to a square `shape`, with a warning.
      value_range: black and white of a file of numbers, if they do not say it themselves.
      max_broken_share: of the images of a folder, up to which broken ones are told and left out.
      labels: of a class-conditional run, as for `draw`.
      system: of a run of a user's own, as for `loading.load`.
      progress: shows the drawing.

    Raises:
      ValueError, FileNotFoundError and others: for what cannot be opened, with what to do.
    """
    check_there(what)
    what = without_kind(what)
    path = Path(what).expanduser()
    if is_built_in(what):
        name, _, split = what.partition(":")
        return first(_open_built_in(name, split or "test", shape, image_size), num)
    if run_directory.is_run(path):
        trained = loading.load(path, step=step, system=system)
        if trained.system.draw is None and trained.system.translate is not None:
            return translated(trained, what, num=num, seed=seed, progress=progress)
        num = 10_000 if num is None else num
        return draw(trained, what, num=num, seed=seed, labels=labels, progress=progress)
    if data.records.is_records(path):
        return first(_open_records(path, image_size, shape), num)
    if path.is_dir():
        side, nested = _open_folder(path, image_size, shape, max_broken_share)
        if num is not None and num < side.dataset.num_examples and nested:
            warnings.warn(
                f"of {what} the first {num:,} of {side.dataset.num_examples:,} images are taken, in the order of their "
                "paths: those of its first subfolders",
                stacklevel=2,
            )
        return first(side, num)
    if path.suffix.lower() in (".npz", ".npy"):
        return first(Images(_open_array_file(path, value_range), what), num)
    raise ValueError(f"{what} is a file, but neither .npz nor .npy; images belong into a folder")


def is_built_in(what: str) -> bool:
    """Whether this names a set of the package, such as `mnist` or `mnist:test`.

    Raises:
      ValueError: where something of the same name lies in the working directory.
    """
    name, colon, _ = what.partition(":")
    if name not in BUILT_IN:
        return False
    if not colon and Path(what).exists():
        raise ValueError(
            f"{what} could be the set of this package or what lies here under this name: write {what}:test or "
            f"{what}:train for the set, ./{what} for the other"
        )
    return True


def without_kind(what: str) -> str:
    """PATH of folder:PATH, arrays:PATH and records:PATH, as training calls its data; anything else as it is."""
    kind, _, path = what.partition(":")
    return path if kind in ("folder", "arrays", "records") and path and not Path(what).exists() else what


def shape_of(what: str | None) -> tuple[int, int, int] | None:
    """(H, W, C) of what a run draws, by its configuration alone; None of anything else."""
    if what is None or not run_directory.is_run(Path(what).expanduser()):
        return None
    shape = run_directory.load_config(Path(what).expanduser()).get("images", {}).get("image_shape")
    return None if shape is None else tuple(shape)


def check_there(what: str) -> None:
    """Raises what `open_images` would for a name of nothing, before anything long is begun."""
    what = without_kind(what)
    if is_built_in(what):
        name, _, split = what.partition(":")
        if split and split not in SPLITS:
            raise ValueError(f"{name} has the splits train and test, not {split!r}: write {name}:train or {name}:test")
    elif not Path(what).expanduser().exists():
        raise FileNotFoundError(
            f"{what} does not exist: give a run directory, a folder of images, a .npz or .npy file, or one of "
            f"{', '.join(f'{name}:{split}' for name in BUILT_IN for split in SPLITS)}"
        )


def data_of(trained: loading.Trained, whose: str) -> options.Data:
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


MOVED = (
    "If they have moved, give the command of its training once more with their new --data.path and its --directory: "
    "where they are the same, a run, also a finished one, learns the new place"
)


def open_test_split(config: options.Data, whose: str) -> Images:
    """The images held out from a run's own data.

    Raises:
      ValueError: where there are none.
      FileNotFoundError and others: where they cannot be opened, with what to do in a note.
    """
    if not config.has_test_split:
        raise ValueError(f"{whose} has no test split of its own to be compared with; give a REFERENCE")
    return Images(_opened(config, "test", whose), config.name, "test")


def open_training_images(trained: loading.Trained, whose: str) -> data.Dataset | None:
    """The images that a run learnt from; None, and a warning, where they cannot be opened."""
    try:
        dataset = _opened(data_of(trained, whose), "train", whose)
    except (OSError, ValueError) as error:
        notes = getattr(error, "__notes__", [])
        warnings.warn(
            f"the images that {whose} was trained on cannot be opened, and nothing is compared with them: "
            + ". ".join([str(error), *notes]),
            stacklevel=2,
        )
        return None
    assert trained.config is not None  # without one it has no data, which is refused above
    read = trained.config.wrap(dataset, "train")
    if trained.stored.get("images", {}).get("data_fingerprint") not in (None, read.fingerprint):
        warnings.warn(f"the data of {whose} have changed since it was trained", stacklevel=2)
    return dataset


def _opened(config: options.Data, split: Literal["train", "test"], whose: str) -> data.Dataset:
    try:
        return config.open(split)
    except OSError as error:
        error.add_note(f"These are the images of {whose}. {MOVED}")
        raise


def _open_built_in(name, split, shape, image_size) -> Images:
    own = {"emoji": 64, "factors": 32}.get(name, 28)
    size = image_size or (shape[0] if shape is not None and shape[0] == shape[1] else own)
    dataset = options.Data(name, image_size=size).open(split)
    rules = {"emoji": f"area average of 64x64 to {size}x{size}", "factors": f"drawn at {size}x{size}"}
    rule = rules.get(name, f"zero padding of 28x28 to {size}x{size}")
    return Images(dataset, name, split, "none" if size == own else rule)


def _open_records(path, image_size, shape) -> Images:
    """Records as one side: at a size that is asked for, their own, or that of the other side, in this order."""
    own = data.records.read_index(path)[1]["image_shape"]
    size = image_size or (None if own or shape is None or shape[0] != shape[1] else shape[0])
    config = options.Data(
        "records", str(path), image_size=size, channels=1 if shape is not None and shape[2] == 1 else 3
    )
    split: Literal["train", "test"] = "test" if config.has_test_split else "train"
    dataset = config.open(split)
    rule = "none" if own and tuple(own[:2]) == dataset.image_shape[:2] else "centre crop, area average"
    return Images(dataset, str(path), split, rule)


def _open_folder(path, image_size, shape, max_broken_share) -> tuple[Images, bool]:
    """A folder as one side, and whether its images lie in subfolders."""
    found = listing.list_images(path)
    name = str(path) if str(path) not in BUILT_IN else f"./{path}"
    if not found.files:
        kind = "neither a run nor a folder of images" if os.listdir(path) else "an empty folder"
        raise ValueError(f"{name}: {kind}: no image found in it ({', '.join(listing.EXTENSIONS)})")
    tops = sorted({file.split("/", 1)[0] if "/" in file else "" for file in found.files})
    if len(tops) > 1 and all(top.lower() in folder.SPLIT_NAMES for top in tops):
        reading.as_warning(
            f"{name}: {', '.join(tops)} look like splits, and are taken together; for one of them name its folder"
        )
    looks = _looks(found)
    sizes = Counter((look.width, look.height) for look in looks.values())
    rule = "none"
    if image_size is None:
        if len(sizes) > 1:  # files that are broken further on may tell any size
            sizes = Counter({size: sizes[size] for size in _readable(found.root, looks, lambda look: look[:2])})
        if len(sizes) > 1 and shape is not None and shape[0] == shape[1]:
            image_size = shape[0]
            reading.as_warning(
                f"{name}: images of {len(sizes)} different sizes are brought to the {image_size}x{image_size} pixels "
                "of the other side: the largest square in the middle of each, by area averages (--image-size says "
                "another size)"
            )
        elif len(sizes) != 1:
            listed = ", ".join(f"{w}x{h} ({count})" for (w, h), count in sizes.most_common(3))
            listed += ", ..." if len(sizes) > 3 else ""
            raise ValueError(
                f"{name}: images of {len(sizes)} different sizes: {listed}; --image-size says which square size to "
                "bring them to, and the protocol will say so"
                if sizes
                else f"{name}: none of its {len(found.files)} images can be read"
            )
    if image_size is None:
        ((width, height),) = sizes
        size = (height, width)
    else:
        size = (image_size, image_size)
        rule = "none" if set(sizes) == {size} else f"centre crop, area average to {image_size}x{image_size}"
        if small := sum(count for found_size, count in sizes.items() if min(found_size) < image_size):
            rule += f", {small:,} of them enlarged (bicubic)"
    dataset = functools.partial(
        data.image_folder,
        path,
        image_size=size,
        crop=decode.centre_crop,
        labelled=False,
        max_broken_share=max_broken_share,
    )
    grey = all(look.is_grey for look in looks.values())
    if not grey and any(look.is_grey for look in looks.values()):
        grey = _readable(found.root, looks, lambda look: look.is_grey) == {True}
    wants_grey = shape is None or shape[2] == 1
    opened = dataset(channels=1 if grey and wants_grey else 3, tell=reading.as_warning)
    if not grey and wants_grey and _is_grey(opened):
        opened = dataset(channels=1, tell=lambda text: None)
        rule = "grey, stored as colour" if rule == "none" else f"{rule}, grey, stored as colour"
    elif grey and not wants_grey:
        rule = "grey repeated in 3 channels" if rule == "none" else f"{rule}, grey repeated in 3 channels"
        reading.as_warning(f"{name} holds grey images, repeated in 3 channels beside colour ones")
    return Images(opened, name, resize=rule), tops != [""]


def _looks(found: listing.Listing) -> dict[str, decode.Look]:
    """What the files' beginnings say; of those that say nothing `data.image_folder` tells."""

    def look(file):
        with contextlib.suppress(Exception):  # Pillow raises many kinds
            return decode.look(os.path.join(found.root, file))

    reasons, _ = listing.check_headers(found.root, found.files, os.cpu_count() or 1)
    files = [file for file, reason in zip(found.files, reasons, strict=True) if not reason]
    with decode.quiet_bombs(), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return {file: seen for file, seen in zip(files, pool.map(look, files), strict=True) if seen is not None}


def _readable(root, looks, kind_of) -> set:
    """The kinds of looks of which an image is that can be decoded."""
    there = set()
    for file, look in looks.items():
        if kind_of(look) not in there:
            with contextlib.suppress(Exception):
                decode.decode_image(os.path.join(root, file), image_size=1)
                there.add(kind_of(look))
    return there


def _is_grey(dataset) -> bool:
    """Whether all three channels are equal in all images; False for a set that is not in memory."""
    if dataset.arrays is None:
        return False
    image = np.asarray(dataset.arrays["image"])
    return bool((image[..., :1] == image[..., 1:]).all())


def _open_array_file(path, value_range) -> data.Dataset:
    opened = functools.partial(data.array_file, path, labelled=None, tell=reading.as_warning)
    try:
        return opened(value_range=value_range)
    except ValueError as error:
        if value_range is not None:  # meant for the other side, perhaps: bytes say their range themselves
            with contextlib.suppress(ValueError):
                return opened()
        elif "value_range" in str(error):
            error.add_note("On the command line: --value-range BLACK WHITE, such as --value-range 0 1.")
        raise


def first(side: Images, num: int | None) -> Images:
    """The first num images of a set, or all of them."""
    if num is None or num >= side.dataset.num_examples:
        return side
    if num < 1:
        raise ValueError(f"the number of images must be at least 1, not {num}")
    first = dataclasses.replace(side.dataset, num_examples=num)
    return dataclasses.replace(side, dataset=first)


def draw(
    trained: loading.Trained,
    name: str,
    *,
    num: int = 10_000,
    seed: int = 0,
    labels: Labels = "training",
    progress: Progress = no_progress,
) -> Images:
    """Images of a run as one side, stored in 256 levels: exported pictures have the same numbers.

    Args:
      trained: a run that draws.
      name: what to call it.
      num: how many images.
      seed: of latents and labels.
      labels: of a class-conditional run: "training", those of num of its training images, drawn at random, so that each
        class has its share, as Karras et al. (2020) draw them; "alike", of all classes in turns. Where the training
        images or their labels are not there they are in turns, too, with a warning.
      progress: shows it.

    Raises:
      MissingCapability: for a run that draws nothing.
      ValueError: for NaN, and for "alike" of a run that is told no labels.
    """
    try:
        trained.system.need("draw", f"a comparison of images that {name} draws")
    except ValueError as error:
        if trained.system.measure is not None:
            error.add_note("Without a REFERENCE and --metrics it is measured by itself.")
        if trained.system.backbone is not None:
            error.add_note("As a feature network it is given with --backbone.")
        raise
    learnt, asked, key = None, None, jax.random.key(seed)
    num_labels = trained.system.choices.get("label", 0)
    if labels == "alike" and not num_labels:
        raise ValueError(f"--labels alike is of a class-conditional run, and {name} is told no labels")
    if labels == "training" and num_labels:
        learnt = None if trained.config is None else open_training_images(trained, name)
        asked = None if learnt is None else data.labels.of_some(learnt, num, num_labels, key)
        if asked is None:
            warnings.warn(
                f"the labels of the images that {name} was trained on are not there: it is asked for all classes "
                "alike, and where these are of unlike sizes, that is a distance of its own",
                stacklevel=2,
            )
    batches = drawn_batches(trained, num, key, asked)
    drawn, label = [], []
    for batch in progress(batches, -(-num // BATCH), f"drawing {num:,} images"):
        if np.isnan(batch["image"]).any():
            raise ValueError(f"{name} draws images with NaN: its weights are not finite; evaluate an earlier --step")
        drawn.append(images.to_uint8(batch["image"]))
        label += [batch["label"]] if "label" in batch else []
    told: dict[str, Any] = {}
    if label:
        count = trained.system.choices["label"]
        names = trained.class_names if len(trained.class_names) == count else tuple(map(str, range(count)))
        told = {"label": np.concatenate(label), "class_names": names}
    dataset = data.from_arrays(f"samples of {name}", np.concatenate(drawn), **told)
    return Images(dataset, name, run=trained, learnt=learnt, labels=IN_TURNS if asked is None else AS_TRAINED)


def translated(
    trained: loading.Trained, name: str, *, num: int | None = None, seed: int = 0, progress: Progress = no_progress
) -> Images:
    """What a run makes of the sources of its own test split, of all or the first num, stored in 256 levels.

    Raises:
      ValueError: for a run whose data have no test split; for NaN.
    """
    test = open_test_split(data_of(trained, name), name)
    assert trained.config is not None  # without one it has no data, which is refused above
    test = first(dataclasses.replace(test, dataset=trained.config.wrap(test.dataset, "test")), num)
    made, count = [], test.dataset.num_examples
    batches = drawing.translate_batches(trained, test.dataset, jax.random.key(seed), batch_size=BATCH)
    for image in progress(batches, -(-count // BATCH), f"making {count:,} images of test sources"):
        if np.isnan(image).any():
            raise ValueError(f"{name} makes images with NaN: its weights are not finite; evaluate an earlier --step")
        made.append(images.to_uint8(image))
    return Images(data.from_arrays(f"what {name} makes", np.concatenate(made)), name, run=trained)


def drawn_batches(
    trained: loading.Trained, num: int, key: jax.Array, label: np.ndarray | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """What a run draws, a batch at a time; of a class-conditional run image i is of label i mod their number.

    Args:
      trained: a run that draws.
      num: how many images.
      key: of the latents.
      label: of a class-conditional run; by default one of each class.
    """
    needed = num * int(np.prod(trained.image_shape))  # as stored; features come on top
    memory.check(needed, memory.free_of_machine(), f"drawing {num:,} images", "draw fewer")
    if label is None and "label" in trained.system.choices:
        label = np.arange(trained.system.choices["label"])
    return drawing.generate_batches(trained, num, key, batch_size=BATCH, label=label)


def drawing_of(trained: loading.Trained, labels: str = IN_TURNS) -> dict[str, str]:
    """How a run's images are drawn here: the protocol of its system, with the labels that it is asked for."""
    if trained.system.draw is None:
        return {**trained.system.protocol, "sources": "of the test split of the run's own data"}
    return {**trained.system.protocol, **({"labels": labels} if "label" in trained.system.choices else {})}
