"""Evaluate a run, or anybody's images against others: `jaxgen evaluate RUN`, `jaxgen evaluate RUN_OR_IMAGES REFERENCE`.

Prints numbers with how to read them, and keeps them as JSON with how they were made. `jaxgen evaluate --table A B ...`
shows stored numbers side by side, and refuses to if they were made in different ways.
"""

import os
from typing import Any

# LAPACK's threads spin while they wait for each other: where other programs keep the cores busy, one thread is many
# times faster, and elsewhere little slower. OpenBLAS reads this when NumPy is imported, so it must come first; a user's
# own setting stands.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import functools
import json  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated, Literal  # noqa: E402

import tyro  # noqa: E402

from jaxgen import command_line, ranges  # noqa: E402
from jaxgen.commands import words  # noqa: E402
from jaxgen.commands.by_itself import evaluate_run, keep, represent  # noqa: E402
from jaxgen.ranges import Count, CountOrZero, Seed, WholeShare  # noqa: E402


@ranges.checked
def evaluate(
    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_IMAGES")],
    reference: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="REFERENCE")] = None,
    /,
    metrics: tuple[str, ...] = (),
    backbone: str | None = None,
    classifier: Path | None = None,
    num_images: Annotated[Count | None, tyro.conf.arg(aliases=["--num", "-n"])] = None,
    num_real_images: Annotated[Count | None, tyro.conf.arg(aliases=["--num-real"])] = None,
    train: str | None = None,
    image_size: Count | None = None,
    value_range: tuple[float, float] | None = None,
    max_broken_share: WholeShare = 0.01,
    resize_rule: Literal["tf1_bilinear", "antialiased_bicubic"] = "tf1_bilinear",
    labels: Literal["training", "alike"] = "training",
    seed: Seed = 0,
    step: CountOrZero | None = None,
    samples: int | None = None,
    representation: bool = False,
    baselines: bool = False,
    system: Path | None = None,
    pictures: bool = True,
    output: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> str:
    """Evaluate a run's newest good checkpoint (its moving average), or images, against a reference.

    RUN_OR_IMAGES and REFERENCE: a run directory, which draws images, or makes them of the sources in its test split; a
    folder of images; a .npz or .npy file; or a set of this package: mnist:test, emoji:train, ... With a REFERENCE, or
    with --metrics (then against the test split of the run's own data), FID, KID and others are computed in the features
    of --backbone, and a page of pictures is written. Of a class-conditional run, whether images are of the class that
    they were asked for stands beside the others, where the reference has labels.

    Without both, a run is evaluated by itself: by what its system measures on the test split of its data, such as a
    bound of the likelihood or an accuracy, and by its reconstructions (with --backbone also by their FID). What draws
    images of Stacked MNIST is asked for modes, which the classifier of digits in this package counts. With --classifier
    it draws images, and a run that classifies tells how many it is sure of and how often it sees each class; the same
    of its own test images stands beside it.

    With --representation it is asked what the codes are good for that it gives to images: labels by a linear probe and
    by nearest neighbours; MIG, DCI and SAP where the data know their factors (`--data.name factors`); active units;
    what it measures on test images beside the same on training images; and, where there is a bound, the gap between the
    encoder's bound and that of posteriors that are optimised for each image. A page has traversals.

    `jaxgen evaluate --table A B ...` shows stored evaluations side by side: see `jaxgen evaluate --table --help`.

    Args:
      what: What to evaluate.
      reference: What to compare it with.
      metrics: Some of fid, kid, prdc (precision, recall, density, coverage), inception_score, confidence, swd; the
        first three by default.
      backbone: Feature network: one of the package's own (mnist-cnn), weights of the FID's Inception v3 (.pth or .npz),
        or the run of a classifier. By default the package's own for such images.
      classifier: Run directory of a classifier trained on the same kind of images.
      num_images: How many images a run draws; 10,000 by default, and 26,000 for Stacked MNIST, as is usual. Of a set:
        how many of its images, the first in the order of their paths or rows; all by default. With --representation:
        how many of each split are encoded; up to 20,000 by default.
      num_real_images: How many of the reference's images, the first likewise; all by default.
      train: Images that may have been copied: for the page, for nearest_ratio, nearer_share and fid_of_train. The
        reference must be others. By default those that the run was trained on, or the training split of a built-in
        reference.
      image_size: Side in pixels for folders of images of several sizes.
      value_range: Black and white of files of numbers, such as 0 1.
      max_broken_share: Of the images of a folder, up to which broken files are told and left out.
      resize_rule: For Inception v3: tf1_bilinear, or antialiased_bicubic.
      labels: What a class-conditional run is asked for in a comparison: labels of its training images, drawn at random,
        or all classes alike, in turns. By itself it is asked for all classes alike.
      seed: Of the latents and of subsets.
      step: Of the checkpoint; the newest by default.
      samples: k of the importance-weighted bound, for a run that measures one; as configured by default.
      representation: What codes are good for, of a run that encodes images.
      baselines: Of a run that restores, enlarges, translates or completes: what is reached without a network, by the
        best linear filter or map and the nearest neighbour, fitted to its training images, and by denoisers and
        completions of scikit-image and OpenCV (pip install "jaxgen[classical]"). Of a run that reconstructs: by as many
        principal components as its codes have numbers. With --backbone also the FID of each.
      system: The file of a system of your own, for runs of it: nothing that a run names is imported.
      pictures: Write the page of pictures.
      output: Directory for JSON and pictures: by default RUN/evaluation, or evaluation where no run is evaluated.
      as_json: Print the record as JSON, with everything that the numbers depend on; the file holds it in any case.

    Returns:
      What is printed: the numbers in words, or the record.

    Raises:
      ValueError: for a run that can do nothing of this by itself; for images that do not fit each other or the network.
    """
    from jaxgen import systems
    from jaxgen.evaluation import page as evaluation_page

    if output is not None and output.exists() and not output.is_dir():
        raise ValueError(f"--output {output}: something that is not a directory lies there")
    own = None if system is None else systems.from_file(system)
    if reference is not None or metrics:
        asked = representation or None
        by_itself = {"--classifier": classifier, "--samples": samples, "--representation": asked}
        for option, value in (by_itself | {"--baselines": baselines or None}).items():
            if value is not None:
                raise ValueError(f"{option} is for a run by itself, not for a comparison with a REFERENCE or --metrics")
        record = compare(
            what,
            reference,
            metrics=metrics or ("fid", "kid", "prdc"),
            backbone=backbone,
            num=num_images,
            num_real=num_real_images,
            train=train,
            image_size=image_size,
            value_range=value_range,
            max_broken_share=max_broken_share,
            resize_rule=resize_rule,
            labels=labels,
            seed=seed,
            step=step,
            system=own,
            pictures=pictures,
            output=output,
        )
    elif representation:
        if classifier is not None:
            raise ValueError("--classifier judges images that a run draws, and --representation is of its codes")
        if baselines:
            raise ValueError("--baselines stand beside images that are made of a source: give no --representation")
        record = represent(
            what, num=num_images, seed=seed, step=step, samples=samples, system=own, pictures=pictures, output=output
        )
    else:
        record = evaluate_run(
            what,
            classifier=classifier,
            num=num_images,
            seed=seed,
            step=step,
            samples=samples,
            baselines=baselines,
            backbone=backbone,
            resize_rule=resize_rule,
            system=own,
            output=output,
        )
    return json.dumps(record, indent=2) if as_json else "\n".join(evaluation_page.in_words(record))


def compare(
    what: str,
    reference: str | None,
    *,
    metrics: tuple[str, ...],
    num: int | None,
    num_real: int | None,
    pictures: bool,
    output: Path | None,
    **options: Any,
) -> dict[str, Any]:
    """One set of images against another; see `evaluate`."""
    from jaxgen import evaluation, hosts
    from jaxgen.evaluation import of_runs
    from jaxgen.evaluation import page as evaluation_page
    from jaxgen.evaluation import pictures as evaluation_pictures
    from jaxgen.metrics import comparison
    from jaxgen.options import lookup

    names = [name for given in metrics for name in given.split(",") if name]  # fid,kid is understood, too
    for name in names:
        lookup(comparison.METRICS, name, "metric")  # now, and not after minutes
    shared: dict[str, Any] = {"cache": command_line.cache_directory() / "features", "progress": command_line.progress}
    with evaluation.kept_warnings() as said:
        fake, real, train, network = open_sides(what, reference, num=num, num_real=num_real, **options)
        seed, trained = options["seed"], fake.run
        new = train is not None and train.fingerprint != real.dataset.fingerprint
        if train is not None and not new:
            warnings.warn(
                f"{real.name} is both the reference and the images of training: copies of them score well, and copying "
                "is not measured. Give held-out images as the REFERENCE",
                stacklevel=2,
            )
        seen = evaluation.see(fake, network, progress=command_line.progress)
        against: dict[str, Any] = {"seen": seen, "train": train if new else None}
        record = evaluation.compare(fake, real, network, names, seed=seed, **against, **shared)
    for side, asked in ((fake, num), (real, num_real)):
        if asked is not None and asked > side.dataset.num_examples:
            warnings.warn(f"{side.name} has {side.dataset.num_examples:,} images, not {asked:,}", stacklevel=2)
    if said:
        record["warnings"] = said
    if trained is not None and new and real.split == "test" and has_gap(trained, train, real.dataset):
        gap = of_runs.discriminator_gap(trained, train, real.dataset, seed=seed)
        record["metrics"] |= gap
        record["settings"] |= dict.fromkeys(gap, {"images_of_each_kind": 1000})
    slug = re.sub(r"[^A-Za-z0-9]+", "-", f"{real.name}-{real.split}".strip("-"))
    if trained is not None:
        directory, name = Path(what) / "evaluation", f"{trained.step:08d}"
    else:
        directory, name = Path("evaluation"), re.sub(r"[^A-Za-z0-9]+", "-", what).strip("-")
    counts = f"{fake.dataset.num_examples}_to_{real.dataset.num_examples}"
    name = f"{name}_against_{slug}_{counts}{f'_seed{seed}' if seed else ''}.json"
    path, whole = keep(output, directory, name, record)
    if pictures:
        near = real.dataset if train is None else train
        found = evaluation_pictures.pictures(fake, network, near, seen=seen, held_out=train is None, **shared)
        if trained is not None and real.split:
            found += evaluation_pictures.reconstructions(trained, real.dataset)
        try:
            if hosts.index() == 0:  # all have made the pictures together
                page = evaluation_page.write_page(path.with_suffix(".html"), whole, found)
                print(f"pictures: {page}", file=sys.stderr)
        except OSError as error:
            warnings.warn(f"the pictures could not be kept: {error}", stacklevel=2)
    elif path.with_suffix(".html").exists():
        print(f"{path.with_suffix('.html')} is of an earlier evaluation", file=sys.stderr)
    return record


def has_gap(trained: Any, *datasets: Any) -> bool:
    """Whether a run tells real images from fake ones, and these sets say what it is told beside them."""
    labelled = "label" not in trained.system.choices or all(dataset.class_names for dataset in datasets)
    return {"draw", "discriminate"} <= set(trained.can) and labelled


def open_sides(
    what: str,
    reference: str | None,
    *,
    num: int | None,
    num_real: int | None,
    backbone: str | None,
    train: Any,
    seed: int,
    step: int | None,
    resize_rule: str,
    labels: Any,
    system: Any,
    **options: Any,
) -> tuple[Any, Any, Any, Any]:
    """(evaluated images, their reference, images that may have been copied or None, feature network)."""
    from jaxgen import evaluation, opening

    shared = {**options, "system": system, "progress": command_line.progress}
    for side in (what, reference, train):
        if side is not None:
            opening.check_there(side)
    found = functools.partial(evaluation.open_backbone, backbone, rule=resize_rule, system=system)
    known = opening.shape_of(what) or opening.shape_of(reference)
    network = found(known) if backbone or known else None  # before thousands of images are drawn
    fake = opening.open_images(what, num=num, seed=seed, step=step, shape=known, labels=labels, **shared)
    if step is not None and fake.run is None:
        raise ValueError(f"--step is of a run's checkpoint, but {what} is no run")
    if labels == "alike" and fake.run is None:
        raise ValueError(f"--labels is of a class-conditional run, but {what} is no run")
    shape = fake.dataset.image_shape
    if reference is not None:
        real = opening.open_images(reference, num=num_real, seed=seed + 1, shape=shape, **shared)
    elif fake.run is None:
        raise ValueError(f"{what} is no run with a test split to be compared with; give a REFERENCE")
    else:
        real = opening.first(opening.open_test_split(opening.data_of(fake.run, what), what), num_real)
    evaluation.check_alike(fake, real)
    network = network or found(shape)
    if train is not None:
        train = opening.open_images(train, shape=shape, **shared).dataset
    elif fake.run is not None and fake.run.config is not None:
        train = fake.learnt or opening.open_training_images(fake.run, what)
    elif real.split:
        train = opening.open_images(f"{real.name}:train", shape=shape, **shared).dataset
    return fake, real, train, network


GROUPS = {
    "prdc": ("precision", "recall", "density", "coverage"),
    "confidence": ("confident_share",),
    "fid": ("fid", "fid_standard_error", "fid_of_equal_sets", "fid_of_train"),
    "kid": ("kid", "kid_standard_error", "kid_of_equal_sets", "kid_of_train"),
    "as_asked": ("as_asked", "as_asked_of_real"),
    "fid_within_classes": ("fid_within_classes", "fid_within_classes_of_train"),
}
"""Numbers of metrics that are called otherwise, and what a number is to be read with, where it is there."""


def table(
    paths: tyro.conf.Positional[tuple[Path, ...]],
    /,
    mix: bool = False,
    by_preset: bool = False,
    metrics: tuple[str, ...] = (),
) -> str:
    """Show stored evaluations side by side, if they were made in the same way.

    Args:
      paths: JSON files that `jaxgen evaluate` wrote, folders of them, or run directories.
      mix: Show numbers of unlike protocols, too, and how they differ.
      by_preset: Runs of one preset with several seeds make one row, with mean and standard deviation.
      metrics: Only these, in this order; all if none is named.
    """
    from jaxgen.metrics import protocol

    found = [record for path in paths for record in protocol.read(path)]
    metrics = tuple(name for given in metrics for name in GROUPS.get(given, (given,)))
    if metrics:
        there = dict.fromkeys(record.metric for record in found)
        beside = {name for group in GROUPS.values() for name in group[1:]} - set(GROUPS["prdc"])
        if missing := set(metrics) - set(there) - beside:
            raise ValueError(f"no evaluation has {', '.join(sorted(missing))}; there is: {', '.join(there)}")
        found = [record for metric in metrics for record in found if record.metric == metric]
    return protocol.table(protocol.by_preset(found) if by_preset else found, mix=mix)


def main(arguments: list[str] | None = None) -> int:
    """Evaluates, and prints the numbers; with --table, prints a table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command_line.use_compilation_cache()
    words.check(arguments)
    words.suggest(arguments, [*words.options_of(evaluate), "--table"])
    command_line.meet_hosts(arguments)
    program = command_line.program("evaluate")
    if "--table" in arguments:
        arguments = [argument for argument in arguments if argument != "--table"]
        print(tyro.cli(table, args=arguments, prog=f"{program} --table"))
    else:
        print(tyro.cli(evaluate, args=arguments, prog=program))
    return 0
