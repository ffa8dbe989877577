"""Sweeps by name, for the command line: what is trained, over which settings, for how long."""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen import command_line, data, evaluation, gan, images, presets, run_directory, vae
from jaxgen.data import toy
from jaxgen.metrics import comparison, features, protocol
from jaxgen.models import dcgan, mlp
from jaxgen.stability import members, sweep

OPTIMIZERS = {"adam": members.adam, "sgd": members.sgd}
UPDATE_RULES = {
    "alternating": gan.alternating,
    "simultaneous": gan.simultaneous,
    "extragradient": gan.extragradient,
}
RING_STD = 0.05


@dataclasses.dataclass(frozen=True)
class Preset:
    """A sweep that only waits for its numbers.

    axes: setting -> values; the members are all combinations, for each seed.
    program: (optimizer, update rule or None) -> Program.
    data: (batch size) -> Data.
    draw: (state, z) -> images, for a picture and metrics; None for points.
    held_out: what drawn images are compared with.
    """

    axes: Mapping[str, Sequence[float]]
    program: Callable[[str | None, str | None], sweep.Program]
    data: Callable[[int], sweep.Data]
    seeds: int
    num_steps: int
    num_records: int
    batch_size: int
    draw: Callable[[Any, jax.Array], jax.Array] | None = None
    latent_dim: int = 0
    held_out: Callable[[], evaluation.Images] | None = None
    block_size: int | None = None


def _rule(update):
    if update is not None and update not in UPDATE_RULES:
        raise ValueError(
            f"GANs cannot use {update}: it is for games with a closed form (see `dirac`); GANs have "
            f"{', '.join(UPDATE_RULES)}, and optimistic steps by an optimiser of yours in the library"
        )
    return UPDATE_RULES[update or "alternating"]


def ring() -> Preset:
    """The ring of eight: clip norm, R1 and two rates, as in the atlas, for SGD."""
    return _points(toy.ring, toy.ring_modes(), RING_STD, 32, {"r1": (0.0, 0.1, 1.0), "clip": (0.1, 1.0, float("inf"))})


def grid() -> Preset:
    """The grid of 25."""
    return _points(toy.grid, toy.grid_modes(), 0.05, 64, {"r1": (0.0, 0.1), "clip": (1.0, float("inf"))})


def _points(draw, centres, std, width, axes):
    generator, discriminator = mlp.Generator(widths=(width, width)), mlp.Discriminator(widths=(width, width))
    score = members.mode_score(generator, 8, centres, std)
    return Preset(
        axes={"generator_rate": (0.03, 0.1), "discriminator_rate": (0.03, 0.1)} | axes,
        program=lambda optimizer, update: members.gan(
            generator,
            discriminator,
            latent_dim=8,
            optimizer=OPTIMIZERS[optimizer or "sgd"],
            update_rule=_rule(update),
            score=score,
            name=f"points, {len(centres)} modes, {width}, {optimizer or 'sgd'}, {update or 'alternating'}",
        ),
        data=lambda batch_size: sweep.stream(lambda key: draw(key, batch_size, std=std)),
        seeds=3,
        num_steps=4000,
        num_records=40,
        batch_size=64,
    )


def mnist_gan() -> Preset:
    """Sixteen small DCGANs on MNIST: two rates and a clip norm."""
    generator = dcgan.Generator(image_size=28, channels=1, features=8)
    discriminator = dcgan.Discriminator(features=8)
    dataset = data.mnist()

    def program(optimizer, update):
        real = members.images_of(dataset, 256)
        return members.gan(
            generator,
            discriminator,
            latent_dim=64,
            optimizer=OPTIMIZERS[optimizer or "adam"],
            update_rule=_rule(update),
            score=members.sliced_wasserstein_score(generator, 64, real),
            name=f"mnist gan, {optimizer or 'adam'}, {update or 'alternating'}",
        )

    return Preset(
        axes={
            "generator_rate": (4e-4, 1.6e-3),
            "discriminator_rate": (1e-4, 4e-4, 1.6e-3, 6.4e-3),
            "clip": (0.3, float("inf")),
        },
        program=program,
        data=lambda batch_size: sweep.of_dataset(dataset, batch_size),
        seeds=1,
        num_steps=2000,
        num_records=10,
        batch_size=64,
        draw=lambda state, z: gan.sample(generator, state.generator.variables, z),
        latent_dim=64,
        held_out=_test_digits,
        block_size=1 if jax.default_backend() == "cpu" else None,  # batched convolutions are slow on CPU
    )


def mnist_vae() -> Preset:
    """The 200-200 VAE of Burda et al. on binarised MNIST: rate, clip norm and beta."""
    encoder, decoder = mlp.Encoder(50), mlp.BernoulliDecoder((28, 28, 1))
    dataset = data.mnist(binarise=data.binarisation.dynamic)

    def program(optimizer, update):
        if update is not None:
            raise ValueError(f"a VAE has one network and cannot use the update {update}")
        test = data.mnist("test", binarise=data.binarisation.threshold)
        score = members.elbo_score(encoder, decoder, {"image": members.images_of(test, 1000)})
        return members.vae(
            encoder,
            decoder,
            image_shape=(28, 28, 1),
            optimizer=OPTIMIZERS[optimizer or "adam"],
            score=score,
            name=f"mnist vae, {optimizer or 'adam'}",
        )

    return Preset(
        axes={"rate": (3e-4, 1e-3, 3e-3), "clip": (10.0, float("inf")), "beta": (1.0, 2.0), "momentum": (0.9,)},
        program=program,
        data=lambda batch_size: sweep.of_dataset(dataset, batch_size),
        seeds=1,
        num_steps=2000,
        num_records=10,
        batch_size=100,
        draw=lambda state, z: vae.sample(decoder, state.ema, z),
        latent_dim=50,
        held_out=_test_digits,
    )


def _test_digits():
    return evaluation.Images(data.mnist("test"), "mnist", "test")


def run(
    make: Callable[[], Preset],
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
    progress: bool = True,
) -> tuple[sweep.Result, list[Path]]:
    """Runs a preset with other values, and writes its results.

    Args:
      metrics: names in `presets.METRICS`, of images that each network draws at the end.
      num_images: how many.

    Raises:
      ValueError: for numbers, updates or metrics that the family cannot use, before anything is trained.
    """
    counts = {"seeds": seeds, "steps": num_steps, "records": num_records, "batch size": batch_size}
    for name, value in (counts | {"images": num_images}).items():
        if value is not None and value < 1:
            raise ValueError(f"the number of {name} must be at least 1, not {value}")
    if num_devices is not None and not 1 <= num_devices <= len(jax.devices()):
        raise ValueError(f"{num_devices} devices asked for, but this program sees {len(jax.devices())}")
    preset = make()
    if metrics and preset.draw is None:
        raise ValueError("these metrics are of images, and this sweep is of points: its score tells modes and quality")
    table = {name: presets.lookup(presets.METRICS, name, "metric") for name in metrics}
    comparison.check_enough(table, num_images, num_images)
    settings = sweep.product(
        *({name: list(values)} for name, values in (dict(preset.axes) | dict(axes)).items()),
        {"seed": range(preset.seeds if seeds is None else seeds)},
    )
    sweep.check_numbers(settings)
    program = preset.program(optimizer, update)
    program.check(settings)
    num_steps = preset.num_steps if num_steps is None else num_steps
    if num_records is None:
        num_records = max(k for k in range(1, preset.num_records + 1) if num_steps % k == 0)
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
    if metrics:
        result = _evaluate(make.__name__, preset, result, metrics, num_images, directory / "evaluation", progress)
    paths = sweep.write(result, directory, failed_below=failed_below)
    if preset.draw is not None:
        z = jax.random.normal(jax.random.key(0), (16, preset.latent_dim))
        rows = jax.jit(lambda states: jax.lax.map(lambda state: preset.draw(state, z), states))
        found = np.asarray(rows(result.states))
        picture = images.grid(found.reshape(-1, *found.shape[2:]), columns=16)
        paths.append(images.save_png(directory / "samples.png", picture))
    return result, paths + ([directory / "evaluation"] if metrics else [])


def _evaluate(name, preset, result, metrics, num, directory, progress):
    """The result with metrics of images that each member draws; each has a record of its own in the directory.

    A record of the same images is not made again: a sweep that is resumed, or shown once more, only draws.
    """
    reference = preset.held_out()
    backbone = features.shipped_for(reference.dataset.image_shape)
    size = min(num, 250)
    draw = jax.jit(lambda state, block: preset.draw(state, _latents(block, size, preset.latent_dim)))
    varied = [name for name, values in result.settings.items() if len(np.unique(values)) > 1]
    cache = command_line.cache_directory() / "features"
    directory.mkdir(parents=True, exist_ok=True)

    reference_sha256 = comparison.content_digest(reference.dataset)
    told: dict[str, None] = {}

    def of_member(member, state):
        row = {setting: values[member].item() for setting, values in result.settings.items()}
        subject = ", ".join(f"{setting} {row[setting]:g}" for setting in varied) or "the only member"
        drawn = np.concatenate([images.to_uint8(draw(state, block)) for block in range(-(-num // size))])[:num]
        fake = evaluation.Images(data.from_arrays(subject, drawn), subject)
        file = directory / f"member_{member:04d}.json"
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
                "latents": "standard normal, the same for each member",
                "step": int(result.steps[-1]),
                "preset": f"{name.replace('_', '-')}: {kind}" if kind else name.replace("_", "-"),
                "training_seed": seed,
                "config_sha256": hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest(),
            }
            record["asked"] = list(metrics)
            run_directory.write_atomically(file, json.dumps(record, indent=2).encode())
        told.update(dict.fromkeys(record.get("warnings", [])))
        return {name: value for name, value in record["metrics"].items() if isinstance(value, int | float)}

    result = sweep.measure(result, of_member, progress=progress)
    for text in told:
        warnings.warn(text, stacklevel=2)
    return result


def _latents(block, size, latent_dim):
    return jax.random.normal(jax.random.fold_in(jax.random.key(0), block), (size, latent_dim))


def text(result: sweep.Result, *, failed_below: float | None = None, best: int = 5) -> list[str]:
    """A summary for people: how many failed, and the best settings by the median over seeds."""
    finite = result.table["finite"]
    lines = [
        f"{len(finite)} members, {int(result.steps[-1])} steps, {result.seconds:.0f} s: "
        f"{int(finite.sum())} finite to the end"
    ]
    names = [name for name, values in result.settings.items() if name != "seed" and len(np.unique(values)) > 1]
    names = names or [name for name in result.settings if name != "seed"][:1]
    rows = sweep.over_seeds(result.table, names, failed_below=failed_below)
    rows.sort(key=lambda row: -np.inf if np.isnan(row["median"]) else row["median"], reverse=True)
    for row in rows[:best]:
        setting = ", ".join(f"{name} {row[name]:g}" for name in names)
        lines.append(
            f"  score {row['median']:.4g} (10 to 90 %: {row['quantile_10']:.4g} to {row['quantile_90']:.4g}), "
            f"fails {row['failures']} of {row['seeds']}: {setting}"
        )
    return lines
