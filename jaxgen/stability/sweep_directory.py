"""A sweep by name, run with other values, and everything that it writes into its directory."""

import dataclasses
import difflib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen import data, files, run_directory
from jaxgen.local_path import local
from jaxgen.metrics import comparison, features
from jaxgen.options import lookup
from jaxgen.progress import tell_nobody
from jaxgen.stability import runs, sweep, sweep_metrics, sweep_page, sweep_report
from jaxgen.stability.sweep_presets import PRESETS, of_run

FILES = ("members.csv", "columns.txt", "sweep.json", "scores.png", "samples.png", "sweep.html")
"""What is written into the directory of a sweep, beside its checkpoints and the records of `evaluation`."""


class Swept(NamedTuple):
    """What `run` found, the files it wrote, what scores mean, and of a run its own settings in words."""

    result: sweep.Result
    paths: list[Path]
    scale: sweep_report.Scale
    origin: str


def run(
    name: str,
    directory: Path,
    axes: Mapping[str, Sequence[float]],
    *,
    seeds: int | None = None,
    num_steps: int | None = None,
    num_records: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    update: str | None = None,
    failed_below: float | None = None,
    block_size: int | None = None,
    num_devices: int | None = None,
    metrics: Sequence[str] = (),
    num_images: int = 2000,
    system: runs.OwnSystem | None = None,
    dataset: data.Dataset | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = tell_nobody,
) -> Swept:
    """Runs a preset with other values, and writes its results.

    Args:
      name: in `PRESETS`, or the run directory of two players, one of which makes images.
      directory: for the results.
      axes: setting -> values, instead of the preset's.
      failed_below: below this score a member has failed; for a run a quality in percent. The preset's if None.
      metrics: names in `comparison.METRICS`, of images that each network draws at the end.
      num_images: how many.
      system, dataset: of a run that is not of one of ours: see `of_run`.
      tell: is told what is going to be trained.

    Raises:
      ValueError: for numbers, updates or metrics that the family cannot use, before anything is trained.
      OSError: for a directory that takes no files, with what to do; before that, too, where it can be seen.
    """
    counts = {"seeds": seeds, "steps": num_steps, "records": num_records, "batch size": batch_size}
    for what, value in (counts | {"images": num_images}).items():
        if value is not None and value < 1:
            raise ValueError(f"the number of {what} must be at least 1, not {value}")
    if failed_below is not None and not np.isfinite(failed_below):
        raise ValueError(f"what a score may fall below must be a finite number, not {failed_below}: --failed-below")
    if num_devices is not None and not 1 <= num_devices <= len(jax.devices()):
        raise ValueError(f"{num_devices} devices asked for, but this program sees {len(jax.devices())}")
    if name not in PRESETS and not (Path(name) / run_directory.CONFIG).exists():
        try:
            run_directory.load_config(name)  # says what is missing, and which runs are near by
        except run_directory.RunDirectoryError as error:
            near = difflib.get_close_matches(name.lower(), PRESETS, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            error.add_note(f"sweep takes that, or one of the presets {', '.join(PRESETS)}{meant}")
            raise
    if name in PRESETS and system is not None:
        raise ValueError(f"{name} is a sweep of this package; a system of your own is for a run of it")
    preset = PRESETS[name]() if name in PRESETS else of_run(Path(name), system=system, dataset=dataset)
    scale = preset.scale
    if failed_below is not None:
        scale = dataclasses.replace(scale, failed_below=scale.score_of(failed_below))
    if metrics and preset.draw is None:
        raise ValueError("these metrics are of images, and this sweep is of points: its score tells modes and quality")
    if metrics and preset.held_out is None:
        raise ValueError(f"{name} makes images of sources, whose numbers are in its score: give no --metrics")
    table = {name: lookup(comparison.METRICS, name, "metric") for name in metrics}
    comparison.check_enough(table, num_images, num_images)
    reference = backbone = None
    if metrics:  # what is missing is said before anything is trained
        assert preset.held_out is not None  # whatever draws images has others to compare them with
        reference = preset.held_out()
        backbone = features.shipped_for(reference.dataset.image_shape)
    settings = sweep.product(
        *({name: list(values)} for name, values in (dict(preset.axes) | dict(axes)).items()),
        {"seed": range(preset.seeds if seeds is None else seeds)},
    )
    sweep.check_numbers(settings)
    program = preset.program(optimizer, update)
    if program.check is not None:
        program.check(settings)
    directory = local(directory, "the directory for results")
    files.check_directory(directory)
    for file in FILES:
        files.check_replaceable(directory / file)
    if metrics:
        sweep_metrics.check_place(directory / "evaluation", len(settings["seed"]))
    num_steps = preset.num_steps if num_steps is None else num_steps
    if num_records is None:
        num_records = max(k for k in range(1, preset.num_records + 1) if num_steps % k == 0)
    values = {name: [f"{value:g}" for value in np.unique(column)] for name, column in settings.items()}
    tell(
        f"{len(settings['seed'])} {'networks' if len(settings['seed']) > 1 else 'network'}, {num_steps} steps each: "
        + " x ".join(f"{name} {' '.join(found)}" for name, found in values.items())
        + "; compiling, for all of them at once"
    )
    result = sweep.run(
        program,
        preset.data(preset.batch_size if batch_size is None else batch_size),
        settings,
        num_steps=num_steps,
        num_records=num_records,
        block_size=preset.block_size if block_size is None else block_size,
        devices=None if num_devices is None else jax.devices()[:num_devices],
        directory=directory,
        progress=progress,
    )
    if reference is not None and backbone is not None:
        result = sweep_metrics.measure(
            name, preset, result, reference, backbone, metrics, num_images, directory / "evaluation", progress
        )
    facts = {"score_of_untrained": scale.untrained, "score_of_real": scale.real}
    paths = sweep.write(result, directory, failed_below=scale.failed_below, facts=facts)
    figures, drawn = {"scores.png": sweep_page.scores_figure(result, scale)}, None
    if (draw := preset.draw) is not None:
        rows = jax.jit(lambda states: jax.lax.map(lambda state: draw(state, jax.random.key(0), 16), states))
        drawn = np.asarray(rows(result.states))
        figures["samples.png"] = sweep_page.samples_figure(drawn, preset.real, result, scale)
    for file, figure in figures.items():
        if figure is not None:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=130)
            files.write_atomically(directory / file, buffer.getvalue())
            paths.append(directory / file)
    real = preset.real if preset.draw is not None else None
    shown: dict[str, Any] = {"drawn": drawn, "real": real, "origin": preset.origin}
    paths.append(sweep_page.write(directory / "sweep.html", Path(name).name, result, scale, **shown))
    return Swept(result, paths + ([directory / "evaluation"] if metrics else []), scale, preset.origin)
