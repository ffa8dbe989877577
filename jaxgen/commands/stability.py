"""The stability laboratory: `jaxgen stability dirac` judges a setting of the smallest GAN; `--help` lists the rest."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxgen import command_line, ranges
from jaxgen.commands import words
from jaxgen.commands.collapse import collapse
from jaxgen.commands.dirac import Momentum, UpdateRule, dirac, require, without_infinities
from jaxgen.ranges import Count, CountOrZero, Norm, Positive, Range, Seed, Weight


@ranges.checked
def spectrum(
    run: tyro.conf.Positional[Path],
    /,
    step: CountOrZero | None = None,
    from_step: CountOrZero | None = None,
    iterations: Annotated[int, Range(2)] = 40,
    train_step: bool = True,
    layers: bool = True,
    probes: Annotated[int, Range(2)] = 16,
    latents: CountOrZero = 8,
    batch_size: int | None = None,
    seed: Seed = 0,
    top: Count = 8,
    system: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Spectra of a checkpoint of a GAN, and the learning rates that they predict.

    Prints the outermost eigenvalues (Ritz values) of the game's Jacobian on the batch of the next train step, with
    error bounds; how much of it is attraction and how much rotation; the largest stable rate of each update rule, which
    is the discriminator's with the run's ratio of both rates kept; the eigenvalues of the train step itself, optimiser
    state included; singular values of the layers; and how well the generator's input is conditioned. It is the game
    that the run's own train step plays, with its labels, terms and penalties: any system of two players.

    A rate of 0 means that some direction grows at every rate: the network is still learning, or rotates. The rate of
    the damped directions is where those begin to diverge, too, which is how a rate is too large for plain descent, with
    or without momentum. Adam's own row is for its second moments as they are; they grow where a direction oscillates,
    so that this limit follows the rate in use instead of bounding it (Cohen et al. 2022).

    Args:
      run: The run directory of two players that `jaxgen train` wrote.
      step: Of the checkpoint; by default the newest at which the run's schedule has not come to rate 0.
      from_step: Of an earlier checkpoint: also path-angle and path-norm on the line from there to the other.
      iterations: Of Arnoldi's method; each takes a vector as long as all parameters.
      train_step: Also linearise the train step.
      layers: Also the singular values of each layer.
      probes: Random probes for the shares of attraction and rotation.
      latents: Latents at which the generator is differentiated; 0 for none.
      batch_size: Images; as the run by default.
      seed: Of random starts, probes and latents.
      top: How many eigenvalues to show.
      system: The file of a system of your own, for a run of it: nothing that a run names is imported.
      as_json: One JSON object instead of sentences, with all eigenvalues.
    """
    from tqdm import tqdm

    from jaxgen import checkpoint, systems
    from jaxgen.stability import runs, spectrum_report

    own = None if system is None else systems.from_file(system)
    newest = step is None
    steps = runs.moving_steps(run, system=own) if step is None else [step]
    step = steps[-1] if steps else None
    if from_step is not None and step is not None:
        require(from_step != step, f"--from-step {from_step} is the checkpoint itself; give another one")
        require(from_step < step, f"--from-step {from_step} must be before the other checkpoint, {step}")
    found = runs.load_newest(run, steps, batch_size=batch_size, system=own)
    at = int(found.state.step)  # before `step` where that is damaged
    require(from_step is None or from_step < at, f"--from-step {from_step} must be before the other checkpoint, {at}")
    earlier = None
    if from_step is not None:
        earlier = runs.load_game(run, step=from_step, batch_size=batch_size, system=own)
    bar = tqdm(bar_format="{desc} [{elapsed}]", disable=None, leave=False)

    def tell(what):  # each takes seconds to a minute
        bar.set_description_str(what)
        if bar.disable:
            print(f"{what} ...", file=sys.stderr, flush=True)

    record = spectrum_report.of_run(
        found,
        str(run),
        iterations=iterations,
        train_step=train_step,
        layers=layers,
        probes=probes,
        latents=latents,
        seed=seed,
        earlier=earlier,
        schedule_ended_after=newest and step is not None and step < (checkpoint.latest_step(run / "checkpoints") or 0),
        tell=tell,
    )
    bar.close()
    if as_json:
        print(json.dumps(without_infinities(record), allow_nan=False))
    else:
        print("\n".join(spectrum_report.text(record, top)))


@ranges.checked
def sweep(
    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET_OR_RUN")],
    /,
    directory: Path | None = None,
    generator_rate: tuple[Positive, ...] | None = None,
    discriminator_rate: tuple[Positive, ...] | None = None,
    learning_rate: tuple[Positive, ...] | None = None,
    clip: tuple[Norm | Literal["none"], ...] | None = None,
    r1: tuple[Weight, ...] | None = None,
    weight: tuple[str, ...] | None = None,
    momentum: tuple[Momentum, ...] | None = None,
    beta: tuple[Weight, ...] | None = None,
    seeds: Count | None = None,
    num_steps: Annotated[Count | None, tyro.conf.arg(aliases=["--steps"])] = None,
    records: Count | None = None,
    batch_size: Count | None = None,
    optimizer: Literal["adam", "sgd"] | None = None,
    update_rule: Annotated[UpdateRule | None, tyro.conf.arg(aliases=["--update"])] = None,
    failed_below: float | None = None,
    block_size: Count | None = None,
    num_devices: Count | None = None,
    metrics: tuple[str, ...] = (),
    num_images: Count = 2000,
    system: Path | None = None,
) -> None:
    """Train many networks in one program, one for each combination of settings, and tabulate what became of them.

    PRESET_OR_RUN is the run directory of a GAN, of labels or without, whose networks, data, loss, terms and optimisers
    are taken: they are trained anew at 1, 4, 16 and 64 times its discriminator's rate, with a clip (at the run's own
    norm, or 1) and without, 500 steps at constant rates. Which rates does my GAN bear, and does clipping change it? Of
    a run that makes images of sources (pix2pix and others), the score is of held-out pairs. Or it is a preset:

    ring: GANs of points on a ring, SGD, 4000 steps, 3 seeds; --generator-rate 0.03 0.1, --discriminator-rate 0.03 0.1,
    --r1 0 0.1 1, --clip 0.1 1 inf.

    grid: the same on a grid of 25 modes; --r1 0 0.1, --clip 1 inf.

    mnist-gan: small DCGANs of digits, Adam, 2000 steps, 1 seed; --generator-rate 0.0004 0.0016, --discriminator-rate
    0.0001 0.0004 0.0016 0.0064, --clip 0.3 inf.

    mnist-vae: VAEs of digits, Adam, 2000 steps, 1 seed; --learning-rate 0.0003 0.001 0.003, --clip 10 inf, --beta 1 2,
    --momentum 0.9.

    Give a list to replace these values: `--clip 0.1 1 inf`; one value fixes a setting. Writes members.csv (one row a
    network), columns.txt (what its columns mean), sweep.json (all numbers, medians and failure probabilities over
    seeds, the budget curve), scores.png (scores against the rate), samples.png of images (one row a network, in the
    order of members.csv), sweep.html (all of this on one page), and checkpoints: run the same line again to resume.

    The score (more is better) is, of points, the share of modes found times the share of samples near one; of images
    minus their sliced Wasserstein distance from real ones; of VAEs the ELBO. For a run that draws it is told as a
    quality, from 0 % (an untrained network) to 100 % (real images).

    Args:
      what: What is trained: ring, grid, mnist-gan, mnist-vae, or the run directory of a GAN.
      directory: For results; sweeps/PRESET, or sweeps/NAME of the run, if none is given.
      generator_rate: Learning rates of the generator, of GANs.
      discriminator_rate: Learning rates of the discriminator, of GANs.
      learning_rate: Learning rates, of VAEs.
      clip: Norms at which to clip each player's gradient; inf or none for no clip.
      r1: Weights gamma of R1, of GANs.
      weight: Weights of a run's own terms: l1=10,100 of pix2pix; pixels=, perceptual= and others by their names.
      momentum: Of SGD; b1 of Adam.
      beta: Weights of the rate, of VAEs.
      seeds: How many for each setting; 1 for a run.
      num_steps: Of training.
      records: How often all networks are scored.
      batch_size: Images or points in a step.
      optimizer: For both players.
      update_rule: How the players move; those of games with a closed form are not all for networks.
      failed_below: A final score below this counts as a failure; for a run, a quality in percent. If none is given, a
        failure is what is not finite; and for a run also a quality below 50.
      block_size: Networks that a device trains at once; chosen by default.
      num_devices: To divide the networks over; all by default.
      metrics: Of images that each network draws at the end, against the test images in the package's own feature
        network: fid, kid, prdc, inception_score, confidence, swd. They are columns of members.csv, and one record
        each with its protocol in evaluation/, so that `jaxgen evaluate --table DIRECTORY` prints them.
      num_images: How many each network draws for that.
      system: The file of a system of your own, for a run of it: nothing that a run names is imported.
    """
    one_device_for_each_core()
    from jaxgen import systems
    from jaxgen.stability import sweep_directory, sweep_presets, sweep_report

    given = {
        "generator_rate": generator_rate,
        "discriminator_rate": discriminator_rate,
        "learning_rate": learning_rate,
        "clip": None if clip is None else [math.inf if norm == "none" else norm for norm in clip],
        "r1": r1,
        "momentum": momentum,
        "beta": beta,
        **_weights(weight or ()),
    }
    swept = sweep_directory.run(
        what,
        Path("sweeps") / (what if what in sweep_presets.PRESETS else Path(what).resolve().name)
        if directory is None
        else directory,
        {name: values for name, values in given.items() if values is not None},
        seeds=seeds,
        num_steps=num_steps,
        num_records=records,
        batch_size=batch_size,
        optimizer=optimizer,
        update=update_rule,
        failed_below=failed_below,
        block_size=block_size,
        num_devices=num_devices,
        metrics=metrics,
        num_images=num_images,
        system=None if system is None else systems.from_file(system),
        tell=lambda line: print(line, file=sys.stderr),
    )
    print("\n".join(sweep_report.summary(swept.result, swept.scale)))
    if swept.origin:
        print(swept.origin)
    print("wrote " + ", ".join(map(str, swept.paths)))


def _weights(given: tuple[str, ...]) -> dict[str, list[float]]:
    """("l1=10,100", ...) -> {"weight/l1": [10, 100], ...}."""
    found = {}
    for text in given:
        name, equals, numbers = text.partition("=")
        try:
            values = [float(number) for number in numbers.split(",")]
        except ValueError:
            values = []
        if not (name and equals and values):
            raise ValueError(f"--weight is a term and its weights, such as l1=10,100, and not {text!r}")
        found[f"weight/{name}"] = values
    return found


def atlas(
    names: tyro.conf.Positional[tuple[Literal["A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "A9"], ...]] = (),
    directory: Path = Path("atlas"),
    quick: bool = False,
    again: bool = False,
) -> None:
    """Compute the atlas: nine plates of what theory says, beside what then happens, on one page without a network.

    A1 two rates and R1, A2 clipping, A3 limit cycles, A4 from spectrum to rate, A5 the ring, A6 losses and penalties,
    A7 budget curves, A8 collapse of a linear VAE, A9 the rate at which a trained GAN diverges. An atlas that was
    interrupted goes on where it was.

    Args:
      names: Plates; all if none is named.
      directory: For atlas.html and, of each plate, PNG, SVG and JSON.
      quick: Coarser grids and fewer steps.
      again: Make plates anew that are there; complete sweeps are read.
    """
    one_device_for_each_core()
    from jaxgen.stability import atlas as library

    records = library.write(
        directory,
        names,
        library.QUICK if quick else library.FULL,
        again=again,
        progress=sys.stderr.isatty(),
        tell=lambda line: print(line, flush=True),
    )
    cells, wrong = sum(r.cells for r in records), sum(r.disagreeing for r in records)
    print(f"{wrong} of {cells} cells disagree; open {directory / 'atlas.html'}")


def one_device_for_each_core() -> None:
    """Before JAX is imported: networks that do not talk to each other train fastest with one core each."""
    if hasattr(os, "sched_getaffinity"):
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(len(os.sched_getaffinity(0))))


COMMANDS = {"dirac": dirac, "spectrum": spectrum, "sweep": sweep, "collapse": collapse, "atlas": atlas}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns 0."""
    command_line.use_compilation_cache()
    arguments = sys.argv[1:] if arguments is None else arguments
    words.check(arguments)
    program = command_line.program("stability")
    if arguments and (command := COMMANDS.get(arguments[0])):
        words.suggest(arguments, words.options_of(command))
        tyro.cli(command, args=arguments[1:], prog=f"{program} {arguments[0]}")
    else:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog=program, description=__doc__, args=arguments or ["--help"])
    return 0
