"""The stability laboratory: `jaxgen stability dirac` judges a setting of the smallest GAN; `--help` lists the rest."""

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxgen import command_line, ranges
from jaxgen.commands import words
from jaxgen.ranges import Count, CountOrZero, Norm, Positive, Range, Seed, Weight

Momentum = Annotated[float, Range(-1, 1, open_least=True, open_most=True)]
UpdateRule = Literal["simultaneous", "alternating", "extragradient", "optimistic", "consensus", "lookahead"]


@ranges.checked
def dirac(
    loss: Literal["logistic", "non-saturating", "wasserstein"] = "logistic",
    r1: Weight = 0.0,
    r2: Weight = 0.0,
    instance_noise: Weight = 0.0,
    update_rule: Annotated[UpdateRule, tyro.conf.arg(aliases=["--update"])] = "alternating",
    generator_rate: Positive = 0.1,
    discriminator_rate: Positive = 0.1,
    momentum: Momentum = 0.0,
    num_discriminator_steps: Annotated[int, Range(1, 1000), tyro.conf.arg(aliases=["--discriminator-steps"])] = 1,
    consensus_weight: Positive = 0.1,
    lookahead_steps: Annotated[int, Range(1, 1000)] = 5,
    lookahead_alpha: Annotated[float, Range(0, 1, open_least=True)] = 0.5,
    clip: Literal["none", "joint", "per-player"] = "none",
    clip_norm: Positive | None = None,
    num_steps: Annotated[int, Range(31, 10_000_000), tyro.conf.arg(aliases=["--steps"])] = 10_000,
    start: tuple[float, float] = (1.0, 1.0),
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Judge one setting of the Dirac-GAN, in double precision.

    The data are the point 0, the generator the point theta, the discriminator the slope psi: L = f(psi theta) + f(0).
    Prints the eigenvalues at the equilibrium (0, 0), of the field and of one update; the largest stable rate, which is
    the discriminator's with the ratio of both rates kept (0: unstable at any); and where a simulation ends and how it
    got there: decay, cycle, square-root growth or exponential.

    Args:
      loss: logistic is the textbook game, non-saturating the usual generator.
      r1: Weight gamma of R1, gamma/2 |grad D|^2 on real points.
      r2: Weight gamma of R2, the same on fake points.
      instance_noise: Standard deviation of noise on real and fake points.
      update_rule: How the players move. An update of lookahead is its whole cycle.
      generator_rate: Learning rate of the generator.
      discriminator_rate: Learning rate of the discriminator.
      momentum: Between -1 and 1; for simultaneous and alternating updates.
      num_discriminator_steps: For each generator step; for alternating updates.
      consensus_weight: For consensus: how much both players also descend |v|^2 / 2.
      lookahead_steps: For lookahead: simultaneous steps in a cycle.
      lookahead_alpha: For lookahead: how far to go along the cycle, in (0, 1].
      clip: Gradient clipping by the joint norm of both players, or of each by its own.
      clip_norm: The norm to clip at; 1 if none is given.
      num_steps: Updates to simulate, at least 31.
      start: theta and psi at the start.
      as_json: One JSON object instead of sentences.
    """
    if update_rule not in ("simultaneous", "alternating"):
        require(momentum == 0, f"--momentum is for simultaneous and alternating updates, not for {update_rule}")
    if update_rule != "alternating":
        require(
            num_discriminator_steps == 1,
            f"--num-discriminator-steps is for alternating updates, not for {update_rule}",
        )
    require(clip_norm is None or clip != "none", "--clip-norm does nothing without --clip joint or --clip per-player")

    from jaxgen.losses import adversarial, penalties
    from jaxgen.stability import games, oracles, updates, verdict

    losses = {
        "logistic": (adversarial.minimax, oracles.LOGISTIC),
        "non-saturating": (adversarial.non_saturating, oracles.LOGISTIC),
        "wasserstein": (adversarial.wasserstein, oracles.WASSERSTEIN),
    }
    rules = {
        "simultaneous": lambda rates: (
            updates.heavy_ball(rates, momentum) if momentum != 0 else updates.simultaneous(rates)
        ),
        "alternating": lambda rates: updates.alternating(
            rates, num_discriminator_steps=num_discriminator_steps, momentum=momentum if momentum != 0 else None
        ),
        "extragradient": updates.extragradient,
        "optimistic": updates.optimistic,
        "consensus": updates.simultaneous,
        "lookahead": lambda rates: updates.lookahead(updates.simultaneous(rates), lookahead_steps, lookahead_alpha),
    }
    clips: dict[str, Callable] = {
        "none": lambda field, norm: field,
        "joint": updates.clip_jointly,
        "per-player": updates.clip_per_player,
    }
    terms = [penalty(gamma) for penalty, gamma in ((penalties.r1, r1), (penalties.r2, r2)) if gamma > 0]
    objective, link = losses[loss]
    game = games.dirac(objective, terms, instance_noise=instance_noise if instance_noise > 0 else None, start=start)
    field = games.field(game)
    if update_rule == "consensus":
        field = updates.consensus(field, consensus_weight)
    found = verdict.judge(
        rules[update_rule],
        games.Players(generator_rate, discriminator_rate),
        clips[clip](field, 1.0 if clip_norm is None else clip_norm),
        start=game.start,
        equilibrium=game.equilibrium,
        num_steps=num_steps,
    )
    theta, psi = float(found.final.generator), float(found.final.discriminator)
    record = {
        "eigenvalues": pairs(found.eigenvalues),
        "step_eigenvalues": pairs(found.step_eigenvalues),
        "spectral_radius": found.spectral_radius,
        "stable": found.stable,
        "largest_stable_rate": found.largest_stable_scale * discriminator_rate,
        "final": [theta, psi],
        "final_radius": found.final_radius,
        "growth_law": found.growth_law,
    }
    if as_json:
        print(json.dumps(without_infinities(record), allow_nan=False))
        return
    print(f"eigenvalues of the field   {complex_text(found.eigenvalues)}")
    if update_rule != "consensus":
        theory = oracles.dirac_eigenvalues(link, r1=r1, r2=r2, instance_noise=instance_noise)
        print(f"  in closed form           {complex_text(theory)}")
    print(f"eigenvalues of one update  {complex_text(found.step_eigenvalues)}")
    print(f"spectral radius            {found.spectral_radius:.12g}: {'stable' if found.stable else 'not stable'}")
    generator_limit, limit = (found.largest_stable_scale * rate for rate in (generator_rate, discriminator_rate))
    if limit == 0:
        print("largest stable rate        none: unstable at every rate with this ratio of the two")
    else:
        print(f"largest stable rate        {limit:.6g} (discriminator), with {generator_limit:.6g} (generator)")
    print(f"after {num_steps} updates      theta {theta:.6g}, psi {psi:.6g}")
    print(f"distance from (0, 0)       {found.final_radius:.6g}")
    print(f"growth law                 {found.growth_law}")
    if clip != "none":
        print("The clip does not act at (0, 0): eigenvalues and rates are those without it, the simulation is with it.")
    elif not found.stable and found.growth_law != "exponential":
        print(
            "Eigenvalues tell of small deviations. Far from (0, 0) this field does not grow with them: no exponential."
        )


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
    if newest:
        step = runs.moving_step(run, system=own)
    if from_step is not None and step is not None:
        require(from_step != step, f"--from-step {from_step} is the checkpoint itself; give another one")
        require(from_step < step, f"--from-step {from_step} must be before the other checkpoint, {step}")
    found = runs.load_game(run, step=step, batch_size=batch_size, system=own)
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
        schedule_ended_after=newest and int(found.state.step) < (checkpoint.latest_step(run / "checkpoints") or 0),
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
    norm, or 1) and without, 500 steps at constant rates. Which rates does my GAN bear, and does clipping change it? Or
    it is a preset:

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
    minus their sliced Wasserstein distance from real ones; of VAEs the ELBO. For a run it is told as a quality, from
    0 % (an untrained network) to 100 % (real images).

    Args:
      what: What is trained: ring, grid, mnist-gan, mnist-vae, or the run directory of a GAN.
      directory: For results; sweeps/PRESET, or sweeps/NAME of the run, if none is given.
      generator_rate: Learning rates of the generator, of GANs.
      discriminator_rate: Learning rates of the discriminator, of GANs.
      learning_rate: Learning rates, of VAEs.
      clip: Norms at which to clip each player's gradient; inf or none for no clip.
      r1: Weights gamma of R1, of GANs.
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
    from jaxgen.stability import sweep_presets, sweep_report

    given = {
        "generator_rate": generator_rate,
        "discriminator_rate": discriminator_rate,
        "learning_rate": learning_rate,
        "clip": None if clip is None else [math.inf if norm == "none" else norm for norm in clip],
        "r1": r1,
        "momentum": momentum,
        "beta": beta,
    }
    swept = sweep_presets.run(
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


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def pairs(values: Any) -> list[list[float]]:
    """Complex numbers as [real, imaginary], the largest modulus first."""
    ordered = sorted(values, key=lambda value: (-abs(value), -value.imag))
    return [[float(value.real) + 0.0, float(value.imag) + 0.0] for value in ordered]  # + 0.0: no minus before a zero


def complex_text(values: Any) -> str:
    """Complex numbers for people."""
    # A double eigenvalue with a single eigenvector is known to the root of rounding only.
    parts = [(x, y if abs(y) > 1e-7 * abs(x) else 0.0) for x, y in pairs(values)]
    return ", ".join(f"{real:.6g}{imaginary:+.6g}i" for real, imaginary in parts)


def without_infinities(value: Any) -> Any:
    """The same lists and dicts with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: without_infinities(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_infinities(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


COMMANDS = {"dirac": dirac, "spectrum": spectrum, "sweep": sweep, "atlas": atlas}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns 0."""
    command_line.use_compilation_cache()
    arguments = sys.argv[1:] if arguments is None else arguments
    words.check(arguments)
    if arguments and arguments[0] in COMMANDS:
        words.suggest(arguments, words.options_of(COMMANDS[arguments[0]]))
    tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog=command_line.program("stability"), description=__doc__, args=arguments or ["--help"]
    )
    return 0
