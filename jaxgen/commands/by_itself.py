"""A run by itself: what `jaxgen evaluate RUN` does without a REFERENCE, and with `--representation`."""

import sys
import warnings
from pathlib import Path
from typing import Any

from jaxgen import command_line


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


def evaluate_run(
    what: str,
    *,
    classifier: Path | None,
    num: int | None,
    seed: int,
    step: int | None,
    samples: int | None,
    baselines: bool,
    backbone: str | None,
    resize_rule: str,
    system: Any,
    output: Path | None,
) -> dict[str, Any]:
    """A run by itself; see `evaluate`."""
    from jaxgen import evaluation, loading, opening, run_directory
    from jaxgen.data import listing
    from jaxgen.evaluation import of_runs
    from jaxgen.metrics import features

    run = Path(what)
    holds_images = run.is_dir() and any(listing.is_image_name(file.name) for file in run.iterdir())
    if not run_directory.is_run(run) and (
        holds_images
        or run.suffix in (".npz", ".npy")
        or not run.is_dir()
        and what.partition(":")[0] in opening.BUILT_IN
    ):
        raise ValueError(f"{what} is no run; give a REFERENCE to compare these images with")
    if run.is_dir() and not any(run.iterdir()):
        raise ValueError(f"{what} is an empty folder: give a run directory, or images and a REFERENCE")
    trained = loading.load(run, step=step, system=system)
    shared: dict[str, Any] = {"seed": seed, "progress": command_line.progress}
    measures = classifier is None and trained.system.measure is not None
    if samples is not None and not (measures and samples >= 1):
        raise ValueError(f"--samples is for a run that measures a bound, and at least 1; got {samples} for {run}")
    if baselines and not measures:
        raise ValueError(f"--baselines stand beside what a run measures of images, and {run} measures nothing so")
    reconstructs = measures and trained.system.reconstruct is not None
    if backbone is not None and not (baselines or reconstructs):
        raise ValueError("--backbone is for a comparison: give a REFERENCE, --metrics or --baselines with it")
    if measures:
        network = None
        if backbone is not None:
            network = evaluation.open_backbone(backbone, trained.image_shape, rule=resize_rule, system=system)
        asked: dict[str, Any] = {"samples": samples, "with_baselines": baselines, "backbone": network}
        found = of_runs.measured(trained, str(run), **asked, **shared)
        suffix = f"bound_of_{found['protocol']['samples']}" if "samples" in found["protocol"] else "test"
    elif classifier is not None:
        num = 10_000 if num is None else num
        judge = loading.load(classifier, system=system)
        found = of_runs.confidence_of_drawn(trained, judge, classifier, num=num, **shared)
        suffix = f"confidence_of_{num}"
    else:
        trained.system.need("draw", f"an evaluation of {run}")
        if trained.config is None or trained.config.data.name != "stacked_mnist":
            raise ValueError(
                f"{run} draws images, and measures nothing by itself: give a REFERENCE, or --metrics fid kid prdc "
                "(then against the test split of its own data), or --classifier the run of a classifier of such images"
            )
        num = 26_000 if num is None else num
        found = of_runs.stacked_mnist(trained, features.shipped("mnist-cnn"), num=num, **shared)
        suffix = f"modes_of_{num}"
    common = {"run": str(run), **evaluation.training_of(trained), "seed": seed, **evaluation.code_version()}
    record = {"subject": str(run), **found, "protocol": common | found["protocol"]}
    name = f"{trained.step:08d}_{suffix}{f'_seed{seed}' if seed else ''}.json"
    keep(output, run / "evaluation", name, record)
    return record


def represent(
    what: str,
    *,
    num: int | None,
    seed: int,
    step: int | None,
    samples: int | None,
    system: Any,
    pictures: bool,
    output: Path | None,
) -> dict[str, Any]:
    """What a run's codes are good for; see `evaluate`."""
    from jaxgen import evaluation, loading, run_directory
    from jaxgen.evaluation import code_pictures, representation
    from jaxgen.evaluation import page as evaluation_page

    run = Path(what)
    if not run_directory.is_run(run):
        raise ValueError(f"{what} is no run: --representation is of the codes that a run gives to its own images")
    if samples is not None and samples < 1:
        raise ValueError(f"--samples must be at least 1, not {samples}")
    trained = loading.load(run, step=step, system=system)
    with evaluation.kept_warnings() as said:
        shown: dict[str, Any] = {"progress": command_line.progress}
        found = representation.represented(trained, str(run), seed=seed, num=num, samples=samples, **shown)
    common = {"run": str(run), **evaluation.training_of(trained), "seed": seed, **evaluation.code_version()}
    record = {"subject": str(run), **found.record, "protocol": common | found.record["protocol"]}
    if said:
        record["warnings"] = said
    count = "" if num is None else f"_of_{num}"
    name = f"{trained.step:08d}_representation{count}{f'_seed{seed}' if seed else ''}.json"
    path, whole = keep(output, run / "evaluation", name, record)
    if pictures:
        try:
            page = evaluation_page.write_page(path.with_suffix(".html"), whole, code_pictures.pictures(trained, found))
            print(f"pictures: {page}", file=sys.stderr)
        except OSError as error:
            warnings.warn(f"the pictures could not be kept: {error}", stacklevel=2)
    return record
