"""Evaluate a run, or anybody's images against others: `evaluate.py RUN`, `evaluate.py RUN_OR_IMAGES REFERENCE`.

Prints numbers with how they were made, and keeps them as JSON. `evaluate.py --table A B ...` shows stored numbers side
by side, and refuses to if they were made in different ways.
"""

import os

# LAPACK's threads spin while they wait for each other: where other programs keep the cores busy, one thread is many
# times faster, and elsewhere little slower. OpenBLAS reads this when NumPy is imported, so it must come first; a user's
# own setting stands.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import dataclasses  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated, Literal  # noqa: E402

import tyro  # noqa: E402

from jaxgen import command_line  # noqa: E402


def evaluate(
    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_IMAGES")],
    reference: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="REFERENCE")] = None,
    /,
    metrics: tuple[str, ...] = (),
    backbone: str | None = None,
    classifier: Path | None = None,
    num: int | None = None,
    num_real: int | None = None,
    train: str | None = None,
    image_size: int | None = None,
    value_range: tuple[float, float] | None = None,
    max_broken_share: float = 0.01,
    resize_rule: Literal["tf1_bilinear", "antialiased_bicubic"] = "tf1_bilinear",
    seed: int = 0,
    step: int | None = None,
    samples: int | None = None,
    pictures: bool = True,
    output: Path | None = None,
) -> dict:
    """Evaluate a run's newest good checkpoint (its moving average), or images, against a reference.

    RUN_OR_IMAGES and REFERENCE: a run directory, which draws images; a folder of images; a .npz or .npy file; or a set
    of this package: mnist:test, emoji:train, ... With a REFERENCE, or with --metrics (then against the test split of
    the run's own data), FID, KID and others are computed in the features of --backbone, and a page of pictures is
    written.

    Without both, a VAE or classifier is evaluated on the test split of its data. A GAN on Stacked MNIST draws images,
    whose modes are counted by the classifier of digits in this package. Another GAN, or a VAE, with --classifier draws
    images, and a classifier run tells how many it is sure of and how often it sees each class; the same of its own test
    images stands beside it.

    `evaluate.py --table A B ...` shows stored evaluations side by side: see `evaluate.py --table --help`.

    Args:
      what: What to evaluate.
      reference: What to compare it with.
      metrics: Some of fid, kid, prdc (precision, recall, density, coverage), inception_score, confidence, swd; the
        first three by default.
      backbone: Feature network: one of the package's own (mnist-cnn), weights of the FID's Inception v3 (.pth or .npz),
        or the run of a classifier. By default the package's own for such images.
      classifier: Run directory of a classifier trained on the same kind of images.
      num: How many images a run draws; 10,000 by default, and 26,000 for Stacked MNIST, as is usual. Of a set: how
        many of its images, the first in the order of their paths or rows; all by default.
      num_real: How many of the reference's images, the first likewise; all by default.
      train: Images that may have been copied: for the page, for nearest_ratio, nearer_share and fid_of_train. The
        reference must be others. By default those that the run was trained on, or the training split of a built-in
        reference.
      image_size: Side in pixels for folders of images of several sizes.
      value_range: Black and white of files of numbers, such as 0 1.
      max_broken_share: Of the images of a folder, up to which broken files are told and left out.
      resize_rule: For Inception v3: tf1_bilinear, or antialiased_bicubic.
      seed: Of the latents and of subsets.
      step: Of the checkpoint; the newest by default.
      samples: For a VAE: k of the importance-weighted bound; as configured by default.
      pictures: Write the page of pictures.
      output: Directory for JSON and pictures: by default RUN/evaluation, or evaluation where no run is evaluated.

    Returns:
      The record: `metrics`, and under `protocol` everything that they depend on.

    Raises:
      ValueError: for a GAN without a classifier or reference; for images that do not fit each other or the network.
    """
    if output is not None and output.exists() and not output.is_dir():
        raise ValueError(f"--output {output}: something that is not a directory lies there")
    if reference is not None or metrics:
        for option, value in (("--classifier", classifier), ("--samples", samples)):
            if value is not None:
                raise ValueError(f"{option} is for a run by itself, not for a comparison with a REFERENCE or --metrics")
        return compare(
            what,
            reference,
            metrics=metrics or ("fid", "kid", "prdc"),
            backbone=backbone,
            num=num,
            num_real=num_real,
            train=train,
            image_size=image_size,
            value_range=value_range,
            max_broken_share=max_broken_share,
            resize_rule=resize_rule,
            seed=seed,
            step=step,
            pictures=pictures,
            output=output,
        )
    return evaluate_run(what, classifier=classifier, num=num, seed=seed, step=step, samples=samples, output=output)


def compare(what, reference, *, metrics, num, num_real, pictures, output, **options):
    """One set of images against another; see `evaluate`."""
    from jaxgen import evaluation, presets

    metrics = [name for given in metrics for name in given.split(",") if name]  # fid,kid is understood, too
    for name in metrics:
        presets.lookup(presets.METRICS, name, "metric")  # now, and not after minutes
    cache = command_line.cache_directory() / "features"
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
        record = evaluation.compare(
            fake,
            real,
            network,
            metrics,
            seen=seen,
            train=train if new else None,
            seed=seed,
            cache=cache,
            progress=command_line.progress,
        )
    for side, asked in ((fake, num), (real, num_real)):
        if asked is not None and asked > side.dataset.num_examples:
            warnings.warn(f"{side.name} has {side.dataset.num_examples:,} images, not {asked:,}", stacklevel=2)
    if said:
        record["warnings"] = said
    if trained is not None and trained.networks.discriminate is not None and new and real.split == "test":
        gap = evaluation.discriminator_gap(trained, train, real.dataset, seed=seed)
        record["metrics"] |= gap
        record["settings"] |= dict.fromkeys(gap, {"images_of_each_kind": 1000})
    slug = re.sub(r"[^A-Za-z0-9]+", "-", f"{real.name}-{real.split}".strip("-"))
    if trained is not None:
        directory, name = Path(what) / "evaluation", f"{int(trained.state.step):08d}"
    else:
        directory, name = Path("evaluation"), re.sub(r"[^A-Za-z0-9]+", "-", what).strip("-")
    counts = f"{fake.dataset.num_examples}_to_{real.dataset.num_examples}"
    name = f"{name}_against_{slug}_{counts}{f'_seed{seed}' if seed else ''}.json"
    path, whole = keep(output, directory, name, record)
    if pictures:
        found = evaluation.pictures(
            fake,
            network,
            real.dataset if train is None else train,
            seen=seen,
            held_out=train is None,
            cache=cache,
            progress=command_line.progress,
        )
        if trained is not None and real.split:
            found += evaluation.reconstructions(trained, real.dataset)
        try:
            print(f"pictures: {evaluation.write_page(path.with_suffix('.html'), whole, found)}", file=sys.stderr)
        except OSError as error:
            warnings.warn(f"the pictures could not be kept: {error}", stacklevel=2)
    elif path.with_suffix(".html").exists():
        print(f"{path.with_suffix('.html')} is of an earlier evaluation", file=sys.stderr)
    print("\n".join(evaluation.in_words(record)), file=sys.stderr)
    return record


def open_sides(what, reference, *, num, num_real, backbone, train, image_size, value_range, seed, step, **options):
    """(evaluated images, their reference, images that may have been copied or None, feature network)."""
    from jaxgen import evaluation, experiment

    shared = {
        "image_size": image_size,
        "value_range": value_range,
        "max_broken_share": options["max_broken_share"],
        "progress": command_line.progress,
    }
    fake = evaluation.open_images(what, num=num, seed=seed, step=step, **shared)
    if step is not None and fake.run is None:
        raise ValueError(f"--step is of a run's checkpoint, but {what} is no run")
    shape = fake.dataset.image_shape
    own = fake.run.config.data if fake.run is not None else None
    if reference is not None:
        real = evaluation.open_images(reference, num=num_real, seed=seed + 1, shape=shape, **shared)
    elif own is None:
        raise ValueError(f"{what} is no run with a test split to be compared with; give a REFERENCE")
    else:
        real = evaluation.first(evaluation.open_test_split(own, what), num_real)
    evaluation.check_alike(fake, real)
    network = evaluation.open_backbone(backbone, shape, rule=options["resize_rule"])
    if train is not None:
        train = evaluation.open_images(train, shape=shape, **shared).dataset
    elif own is not None:
        train = experiment.load_data(own, "train")
    elif real.split:
        train = evaluation.open_images(f"{real.name}:train", shape=shape, **shared).dataset
    return fake, real, train, network


def keep(output: Path | None, directory: Path, name: str, record: dict) -> tuple[Path, dict]:
    """Stores a record, and says where; (path, what is stored there with what was there already).

    Where the usual directory takes no file (somebody else's run, a full disk) the numbers are still printed.

    Raises:
      OSError: for an output that was asked for.
    """
    from jaxgen.metrics import protocol

    try:
        path, record = protocol.write((output or directory) / name, record)
        print(f"numbers: {path}", file=sys.stderr)
    except OSError as error:
        if output is not None:
            raise
        path = directory / name
        warnings.warn(f"the numbers could not be kept: {error}", stacklevel=2)
    return path, record


def evaluate_run(what, *, classifier, num, seed, step, samples, output) -> dict:
    """A run by itself; see `evaluate`."""
    import jax
    import numpy as np

    from jaxgen import checkpoint, data, evaluation, experiment, presets, run_directory
    from jaxgen.data import folder
    from jaxgen.metrics import comparison, features
    from jaxgen.metrics.confidence import class_confidence

    run = Path(what)
    holds_images = run.is_dir() and any(file.suffix.lower() in folder.EXTENSIONS for file in run.iterdir())
    if not (run / run_directory.CONFIG).exists() and (
        holds_images
        or run.suffix in (".npz", ".npy")
        or not run.is_dir()
        and what.partition(":")[0] in evaluation.BUILT_IN
    ):
        raise ValueError(f"{what} is no run; give a REFERENCE to compare these images with")
    trained = experiment.load(run, step=step)
    is_stacked = (
        classifier is None and isinstance(trained.config, presets.GAN) and (trained.config.data.name == "stacked_mnist")
    )
    num = (26_000 if is_stacked else 10_000) if num is None else num
    protocol = {"run": str(run), **evaluation.training_of(trained, run), "seed": seed, **evaluation.code_version()}
    if is_stacked:
        record = evaluation.stacked_mnist(
            trained, features.shipped("mnist-cnn"), num=num, seed=seed, progress=command_line.progress
        )
        metrics, protocol = record["metrics"], protocol | record["protocol"] | evaluation.drawing_of(trained)
    elif classifier is None:
        if trained.networks.eval_step is None:
            raise ValueError(
                f"{run} is a GAN: give --classifier the run of a classifier of such images, or a REFERENCE"
            )
        config = dataclasses.replace(trained.config, seed=seed, num_devices=None)
        if samples is not None:
            if not isinstance(config, presets.VAE) or samples < 1:
                raise ValueError(f"--samples is for a VAE, and at least 1; got {samples} for {run}")
            config = dataclasses.replace(config, eval_samples=samples)
        if isinstance(config, presets.VAE):
            protocol["samples"] = config.eval_samples
        if not presets.has_test_split(config.data):
            raise ValueError(f"the data {config.data.name!r} of {run} have no test split to evaluate on")
        built = experiment.build(config)
        stored = run_directory.load_config(run)["images"].get("data_fingerprint")
        if stored != built.dataset.fingerprint:
            warnings.warn(f"the data of {run} have changed since it was trained", stacklevel=2)
        metrics = built.evaluate(trained.state)
        protocol |= {"data": dataclasses.asdict(config.data), "split": "test", **evaluation.weights_of(trained)}
        test = experiment.load_data(config.data, "test")
        protocol |= {"n_real": test.num_examples, "reference_sha256": comparison.content_digest(test)}
        if isinstance(config, presets.VAE):
            metrics |= evaluation.code_length(trained, metrics["importance_weighted_bound"])
            protocol |= {"binarisation": config.data.binarise, "dims": evaluation.num_dims(trained)}
    else:
        judge = experiment.load(classifier)
        if judge.networks.classify is None:
            raise ValueError(f"{classifier} is no classifier but a {type(judge.config).__name__}")
        shapes = [tuple(run_directory.load_config(r)["images"]["image_shape"]) for r in (run, classifier)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{run} draws images {shapes[0]}, but {classifier} classifies images {shapes[1]}")
        drawn = experiment.generate(trained, num, jax.random.key(seed))
        classify = jax.jit(judge.networks.classify)

        def confidence(images):
            images = np.array_split(images, max(1, len(images) // 500))
            return class_confidence(np.concatenate([classify(judge.state.ema, part) for part in images]))

        metrics = confidence(drawn)
        test = experiment.load_data(judge.config.data, "test")
        real = [
            np.asarray(test.prepare(raw, jax.random.key(0))["image"])[:valid]
            for raw, valid in data.sequential_batches(test, 500)
        ]
        metrics["confident_share_of_test_images"] = confidence(np.concatenate(real))["confident_share"]
        digest = checkpoint.read_record(classifier / "checkpoints", judge.record["step"])["crc32"]
        protocol |= {"num": num, "classifier": str(classifier), "classifier_digest": digest, "threshold": 0.9}
        protocol |= {"n_real": test.num_examples, "reference_sha256": comparison.content_digest(test)}
        protocol |= evaluation.drawing_of(trained)
    record = {"subject": str(run), "metrics": metrics, "protocol": protocol}
    suffix = f"modes_of_{num}" if is_stacked else f"confidence_of_{num}"
    if classifier is None and not is_stacked:
        suffix = f"bound_of_{protocol['samples']}" if "samples" in protocol else "test"
    name = f"{protocol['step']:08d}_{suffix}{f'_seed{seed}' if seed else ''}.json"
    keep(output, run / "evaluation", name, record)
    return record


GROUPS = {
    "prdc": ("precision", "recall", "density", "coverage"),
    "confidence": ("confident_share",),
    "fid": ("fid", "fid_standard_error", "fid_of_equal_sets", "fid_of_train"),
    "kid": ("kid", "kid_standard_error", "kid_of_equal_sets", "kid_of_train"),
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
      paths: JSON files that evaluate.py wrote, folders of them, or run directories.
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
            there = ", ".join(there)
            raise ValueError(f"no evaluation has {', '.join(sorted(missing))}; there is: {there}")
        found = [record for metric in metrics for record in found if record.metric == metric]
    return protocol.table(protocol.by_preset(found) if by_preset else found, mix=mix)


def main(arguments: list[str] | None = None) -> int:
    """Evaluates, and prints the record; with --table, prints a table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command_line.use_compilation_cache()
    if "--table" in arguments:
        arguments = [argument for argument in arguments if argument != "--table"]
        print(tyro.cli(table, args=arguments, prog="evaluate.py --table"))
    else:
        print(json.dumps(tyro.cli(evaluate, args=arguments, prog="evaluate.py"), indent=2))
    return 0
