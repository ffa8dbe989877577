"""`jaxgen stability dirac`: one setting of the smallest GAN, judged by theory and by simulation."""

import json
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import tyro

from jaxgen import ranges
from jaxgen.ranges import Positive, Range, Weight

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
