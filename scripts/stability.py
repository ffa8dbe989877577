#!/usr/bin/env python
"""The stability laboratory: `stability.py dirac` judges one setting of the smallest GAN; `--help` lists the rest."""

import json
import math
import sys
from typing import Annotated, Literal

import tyro

from jaxgen import command_line


def dirac(
    loss: Literal["logistic", "non-saturating", "wasserstein"] = "logistic",
    r1: float = 0.0,
    r2: float = 0.0,
    instance_noise: float = 0.0,
    update: Literal[
        "simultaneous", "alternating", "extragradient", "optimistic", "consensus", "lookahead"
    ] = "alternating",
    generator_rate: float = 0.1,
    discriminator_rate: float = 0.1,
    momentum: float = 0.0,
    discriminator_steps: int = 1,
    consensus_weight: float = 0.1,
    lookahead_steps: int = 5,
    lookahead_alpha: float = 0.5,
    clip: Literal["none", "joint", "per-player"] = "none",
    clip_norm: float | None = None,
    steps: int = 10_000,
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
      update: How the players move. An update of lookahead is its whole cycle.
      generator_rate: Learning rate of the generator.
      discriminator_rate: Learning rate of the discriminator.
      momentum: Between -1 and 1; for simultaneous and alternating updates.
      discriminator_steps: For each generator step; for alternating updates.
      consensus_weight: For consensus: how much both players also descend |v|^2 / 2.
      lookahead_steps: For lookahead: simultaneous steps in a cycle.
      lookahead_alpha: For lookahead: how far to go along the cycle, in (0, 1].
      clip: Gradient clipping by the joint norm of both players, or of each by its own.
      clip_norm: The norm to clip at; 1 if none is given.
      steps: Updates to simulate, at least 31.
      start: theta and psi at the start.
      as_json: One JSON object instead of sentences.
    """
    for option, value in (("--generator-rate", generator_rate), ("--discriminator-rate", discriminator_rate)):
        require(0 < value < math.inf, f"{option} must be above 0 and finite, not {value:g}")
    for option, value in (("--r1", r1), ("--r2", r2), ("--instance-noise", instance_noise)):
        require(0 <= value < math.inf, f"{option} must be at least 0 and finite, not {value:g}")
    require(-1 < momentum < 1, f"--momentum must be between -1 and 1, not {momentum:g}")
    require(discriminator_steps >= 1, f"--discriminator-steps must be at least 1, not {discriminator_steps}")
    if update not in ("simultaneous", "alternating"):
        require(momentum == 0, f"--momentum is for simultaneous and alternating updates, not for {update}")
    if update != "alternating":
        require(discriminator_steps == 1, f"--discriminator-steps is for alternating updates, not for {update}")
    require(0 < consensus_weight < math.inf, f"--consensus-weight must be above 0, not {consensus_weight:g}")
    require(lookahead_steps >= 1, f"--lookahead-steps must be at least 1, not {lookahead_steps}")
    require(0 < lookahead_alpha <= 1, f"--lookahead-alpha must be in (0, 1], not {lookahead_alpha:g}")
    if clip_norm is not None:
        require(0 < clip_norm < math.inf, f"--clip-norm must be above 0 and finite, not {clip_norm:g}")
        require(clip != "none", "--clip-norm does nothing without --clip joint or --clip per-player")
    require(steps >= 31, f"--steps must be at least 31 for a growth law, not {steps}")
    require(all(map(math.isfinite, start)), f"--start must be two finite numbers, not {start[0]:g} {start[1]:g}")

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
            rates, num_discriminator_steps=discriminator_steps, momentum=momentum if momentum != 0 else None
        ),
        "extragradient": updates.extragradient,
        "optimistic": updates.optimistic,
        "consensus": updates.simultaneous,
        "lookahead": lambda rates: updates.lookahead(updates.simultaneous(rates), lookahead_steps, lookahead_alpha),
    }
    clips = {"none": lambda field, norm: field, "joint": updates.clip_jointly, "per-player": updates.clip_per_player}
    terms = [penalty(gamma) for penalty, gamma in ((penalties.r1, r1), (penalties.r2, r2)) if gamma > 0]
    objective, link = losses[loss]
    game = games.dirac(objective, terms, instance_noise=instance_noise if instance_noise > 0 else None, start=start)
    field = games.field(game)
    if update == "consensus":
        field = updates.consensus(field, consensus_weight)
    found = verdict.judge(
        rules[update],
        games.Players(generator_rate, discriminator_rate),
        clips[clip](field, 1.0 if clip_norm is None else clip_norm),
        start=game.start,
        equilibrium=game.equilibrium,
        num_steps=steps,
    )
    record = {
        "eigenvalues": pairs(found.eigenvalues),
        "step_eigenvalues": pairs(found.step_eigenvalues),
        "spectral_radius": found.spectral_radius,
        "stable": found.stable,
        "largest_stable_rate": found.largest_stable_scale * discriminator_rate,
        "final": [float(found.final.generator), float(found.final.discriminator)],
        "final_radius": found.final_radius,
        "growth_law": found.growth_law,
    }
    if as_json:
        print(json.dumps(without_infinities(record), allow_nan=False))
        return
    print(f"eigenvalues of the field   {complex_text(found.eigenvalues)}")
    if update != "consensus":
        theory = oracles.dirac_eigenvalues(link, r1=r1, r2=r2, instance_noise=instance_noise)
        print(f"  in closed form           {complex_text(theory)}")
    print(f"eigenvalues of one update  {complex_text(found.step_eigenvalues)}")
    print(f"spectral radius            {found.spectral_radius:.12g}: {'stable' if found.stable else 'not stable'}")
    generator_limit, limit = (found.largest_stable_scale * rate for rate in (generator_rate, discriminator_rate))
    if limit == 0:
        print("largest stable rate        none: unstable at every rate with this ratio of the two")
    else:
        print(f"largest stable rate        {limit:.6g} (discriminator), with {generator_limit:.6g} (generator)")
    print(f"after {steps} updates      theta {record['final'][0]:.6g}, psi {record['final'][1]:.6g}")
    print(f"distance from (0, 0)       {found.final_radius:.6g}")
    print(f"growth law                 {found.growth_law}")


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def pairs(values) -> list[list[float]]:
    """Complex numbers as [real, imaginary], the largest modulus first."""
    ordered = sorted(values, key=lambda value: (-abs(value), -value.imag))
    return [[float(value.real) + 0.0, float(value.imag) + 0.0] for value in ordered]  # + 0.0: no minus before a zero


def complex_text(values) -> str:
    """Complex numbers for people."""
    return ", ".join(f"{real:.6g}{imaginary:+.6g}i" for real, imaginary in pairs(values))


def without_infinities(value):
    """The same lists and dicts with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: without_infinities(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_infinities(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


COMMANDS = {"dirac": dirac}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns 0."""
    command_line.use_compilation_cache()
    arguments = sys.argv[1:] if arguments is None else arguments
    tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="stability.py", description=__doc__, args=arguments or ["--help"]
    )
    return 0


if __name__ == "__main__":
    command_line.run(main)
