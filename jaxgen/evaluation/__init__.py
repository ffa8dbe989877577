"""Sets of images against each other, with the protocol of every number: what `jaxgen evaluate` computes.

`opening` opens the sides, `of_runs` measures a run by itself, `pictures` draws what to look at, `page` shows it with
the numbers.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from jaxgen import __version__, configuration, data, loading, options, run_directory, systems
from jaxgen.metrics import comparison, conditional, features, inception
from jaxgen.models import inception as network
from jaxgen.opening import Images, drawing_of
from jaxgen.progress import Progress, no_progress
from jaxgen.run_directory import environment
from jaxgen.system import System


def open_backbone(
    name: str | None,
    image_shape: tuple[int, int, int] | None,
    *,
    rule: str = "tf1_bilinear",
    system: System | ModuleType | None = None,
) -> features.Backbone:
    """The feature network of a comparison.

    Args:
      name: one of the package's own (`features.SHIPPED`, with "jaxgen:" before it where a file or a run has the same
        name), a file of weights (.npz of `features.save_cnn`; the FID's
        Inception v3 as .pth or converted .npz), or a run of a classifier. None: the package's own for such images.
      image_shape: (H, W, C) of the images, by which the package's own is chosen where none is named.
      rule: the resize rule of Inception v3.
      system: of a run of a user's own, as for `loading.load`.

    Raises:
      ValueError: where the package has no network for such images; for a run whose system has no `backbone`.
      features.BackboneError, FileNotFoundError: for weights that are damaged, of another network, or not there.
    """
    if name is None:
        if image_shape is None:
            raise ValueError("name a backbone, or give image_shape, by which the package's own is chosen")
        try:
            return features.shipped_for(image_shape)
        except ValueError as error:
            raise ValueError(
                f"{error}; name one with --backbone: weights of the FID's Inception v3 (.pth or .npz), which takes any "
                "size, or the run of a classifier of such images"
            ) from None
    path = Path(name).expanduser()
    if name in features.SHIPPED and path.exists():
        raise ValueError(
            f"--backbone {name} could be the package's own network or what lies here: write jaxgen:{name} for the "
            f"package's, ./{name} for the other"
        )
    if name.removeprefix("jaxgen:") in features.SHIPPED:
        return features.shipped(name.removeprefix("jaxgen:"))
    if run_directory.is_run(path):
        judge = loading.load(path, system=system)
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


MOST_TO_COMPARE = 100_000
"""Images of a set, beyond which reading them all once more, to look for equal ones, would take too long."""

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
def kept_warnings() -> Iterator[list[str]]:
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
    leak: dict[str, str] = {}
    if train is not None:
        leak = leak_of(reference.dataset, train)
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
        **leak,
        **code_version(),
    }
    if fake.run is not None:
        protocol |= {"run": fake.name, **training_of(fake.run), **drawing_of(fake.run, fake.labels)}
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


def leak_of(held_out: data.Dataset, train: data.Dataset) -> dict[str, str]:
    """`in_training`, for a protocol: how many held-out images equal one of training pixel by pixel; {} for none.

    They make numbers look better than they are, and are warned of. Sets of more than 100,000 images are not looked at.
    """
    if max(held_out.num_examples, train.num_examples) > MOST_TO_COMPARE:
        return {}
    shared = comparison.shared_images(held_out, train)
    if shared in (0, held_out.num_examples):  # all of them: it is the training set, which is told otherwise
        return {}
    said = f"{shared:,} of {held_out.num_examples:,} images"
    warnings.warn(
        f"{said} of {held_out.name} are in {train.name}, too, pixel by pixel: they were learnt, and numbers that "
        "count them look better than they are",
        stacklevel=3,
    )
    return {"in_training": said}


def _warn_of_copies(fake, reference):
    if max(side.dataset.num_examples for side in (fake, reference)) > MOST_TO_COMPARE:
        return
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
    return data.labels.of_rows(dataset, np.arange(dataset.num_examples))


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
    of_real, of_fake = labels_of(reference.dataset), labels_of(fake.dataset)
    assert of_real is not None and of_fake is not None  # both have classes
    return conditional.Labelled(seen_real, of_real), conditional.Labelled(seen_fake, of_fake)


# Protocols ------------------------------------------------------------------------------------------------------------


def training_of(trained: loading.Trained) -> dict[str, Any]:
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
    if without.get("data.labelled", True) is None:  # as it always was before it was a setting: the digest stays
        del without["data.labelled"]
    return hashlib.sha256(json.dumps(without, sort_keys=True).encode()).hexdigest()


def code_version() -> dict[str, Any]:
    """The version of this package, and the commit where it is known; JAX's, and what it computes on."""
    found = environment.of_this_process()
    return {"jaxgen": __version__, **{name: found[name] for name in ("commit", "jax", "device_kind")}}
