"""Metrics of images that each member of a sweep draws: columns of its table, and a record of each with its protocol."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxgen import command_line, data, evaluation, files, images, opening
from jaxgen.metrics import comparison, features, protocol
from jaxgen.stability import sweep
from jaxgen.stability.sweep_presets import Preset


def check_place(directory: Path, num_members: int) -> None:
    """Whether the records of so many members can be written into a directory, as far as can be seen before.

    Raises:
      OSError: with the path and what to do, if something else lies in the place of the directory or of a record.
    """
    files.check_directory(directory)
    for member in range(num_members):
        files.check_replaceable(_file_of(directory, member))


def _file_of(directory, member):
    return directory / f"member_{member:04d}.json"


def measure(
    name: str,
    preset: Preset,
    result: sweep.Result,
    reference: opening.Images,
    backbone: features.Backbone,
    metrics: Sequence[str],
    num: int,
    directory: Path,
    progress: bool,
) -> sweep.Result:
    """The result with metrics of images that each member draws; each has a record of its own in the directory.

    A record of the same images is not made again: a sweep that is resumed, or shown once more, only draws. One that is
    damaged, or was changed by hand, is made anew.

    Args:
      name: of the sweep.
      preset: what draws them.
      result: of `sweep.run`.
      reference: what they are compared with.
      backbone: the feature network.
      metrics: names in `comparison.METRICS`.
      num: how many images each member draws.
      directory: for the records.
      progress: whether to show a bar.
    """
    draw_some = preset.draw
    assert draw_some is not None  # metrics of points are refused before anything is trained
    size = min(num, 250)
    draw = jax.jit(lambda state, block: draw_some(state, jax.random.fold_in(jax.random.key(0), block), size))
    varied = [name for name, values in result.settings.items() if len(np.unique(values)) > 1]
    cache = command_line.cache_directory() / "features"
    directory.mkdir(parents=True, exist_ok=True)
    reference_sha256 = comparison.content_digest(reference.dataset)
    told: dict[str, None] = {}

    def of_member(member, state):
        row = {setting: values[member].item() for setting, values in result.settings.items()}
        subject = ", ".join(f"{setting} {row[setting]:g}" for setting in varied) or "the only member"
        drawn = np.concatenate([images.to_uint8(draw(state, block)) for block in range(-(-num // size))])[:num]
        fake = opening.Images(data.from_arrays(subject, drawn), subject)
        file = _file_of(directory, member)
        same = {
            "fake_sha256": comparison.content_digest(fake.dataset),
            "reference_sha256": reference_sha256,
            "backbone_sha256": backbone.digest,
            **evaluation.code_version(),
        }
        record = protocol.stored(file)
        if record is None or record.get("asked") != list(metrics) or not same.items() <= record["protocol"].items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they are in the record, and told once for all members
                record = evaluation.compare(fake, reference, backbone, metrics, cache=cache)
            seed = row.pop("seed")
            kind = ", ".join(f"{setting} {row[setting]:g}" for setting in varied if setting in row)
            record["protocol"] |= {
                "weights": "of the last step",
                **{what: f"{how}, the same for each member" for what, how in preset.drawing.items()},
                "step": int(result.steps[-1]),
                "preset": f"{name}: {kind}" if kind else name,
                "training_seed": seed,
                "config_sha256": hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest(),
            }
            record["asked"] = list(metrics)
            record["crc32"] = files.record_crc32(json.loads(json.dumps(record)))
            files.write_atomically(file, json.dumps(record, indent=2).encode())
        told.update(dict.fromkeys(record.get("warnings", [])))
        return {name: value for name, value in record["metrics"].items() if isinstance(value, int | float)}

    result = sweep.measure(result, of_member, progress=progress)
    for text in told:
        warnings.warn(text, stacklevel=2)
    return result
