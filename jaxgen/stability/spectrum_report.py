"""Everything about the spectrum of a run: as a record of plain numbers, and as lines for people."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from jaxgen.models import spectral_norm
from jaxgen.progress import tell_nobody
from jaxgen.stability import runs, spectrum
from jaxgen.stability.games import Players


def of_run(
    run: runs.GameRun,
    name: str,
    *,
    iterations: int = 40,
    train_step: bool = True,
    layers: bool = True,
    probes: int = 16,
    latents: int = 8,
    seed: int = 0,
    earlier: runs.GameRun | None = None,
    schedule_ended_after: bool = False,
    tell: Callable[[str], None] = tell_nobody,
) -> dict[str, Any]:
    """Spectra of a checkpoint, and the learning rates that they predict.

    Args:
      run: the checkpoint, from `runs.load_game`.
      name: of the run.
      iterations: of Arnoldi's method; each takes a vector as long as all parameters.
      train_step: also linearise the train step.
      layers: also the singular values of each layer.
      probes: random probes for the shares of attraction and rotation.
      latents: at which the generator is differentiated; 0 for none.
      seed: of random starts, probes and latents.
      earlier: another checkpoint of the same run: also path-angle and path-norm on the line from there.
      schedule_ended_after: whether a newer checkpoint was passed over, at which the schedules had come to rate 0.
      tell: is told what comes next; each takes seconds to a minute.

    Returns:
      The record, for `text` and JSON; what the run does not know of its rates is None there.

    Raises:
      ValueError: if the memory does not hold the vectors, a derivative is not finite, or nothing has converged.
    """
    spectrum.check_memory(run.players, iterations)
    if train_step:
        step_map, point = spectrum.train_step_map(run.system.train_step, run.state, run.batch, run.key)
        spectrum.check_memory(point, iterations)
    key = jax.random.key(seed)
    step = int(run.state.step)
    peak, now = runs.peak_rates(run.game), runs.learning_rates(run.opened, step)
    # Of both at the top of their schedules; where nobody knows them, both are taken to be the same.
    ratio = Players(1.0 if peak is None else peak.generator / peak.discriminator, 1.0)
    own = runs.own_rule(run)
    settings = run.game.players or Players(None, None)

    def ritz(rates=None):
        return spectrum.ritz_values(run.field, run.players, rates=rates, num_iterations=iterations, key=key)

    tell("eigenvalues of the game")
    plain = scaled = ritz()
    if ratio.generator != 1:
        tell("eigenvalues of the game at the run's ratio of rates")
        scaled = ritz(ratio)
    tell("attraction and rotation")
    shares = spectrum.shares(run.field, run.players, num_probes=probes, key=key)
    limits = spectrum.rate_table(scaled)
    if own is not None:
        called, rates, factor = own
        tell("eigenvalues under the run's own optimiser")
        limits[f"the run's: {called}"] = spectrum.rate_table(ritz(rates), {"own": factor})["own"]
    record = {
        "run": name,
        "step": step,
        "update_rule": runs.update_rule_of(run.game),
        "schedule_ended_after": schedule_ended_after,
        "batch_size": run.opened.images_per_update,
        "spectral_norm": any(
            spectral_norm.COLLECTION in player.model_state for player in (run.state.generator, run.state.discriminator)
        ),
        "learning_rates": _by_name(peak),
        "learning_rates_at_this_step": _by_name(now),
        "eigenvalues": complex_list(plain.values),
        "residuals": plain.residuals.tolist(),
        "errors": plain.errors.tolist(),
        "symmetric_share": shares.symmetric,
        "antisymmetric_share": shares.antisymmetric,
        "share_error": shares.standard_error,
        "largest_stable_rate": limits,
        "gradient_norms": {
            player: float(optax.tree.norm(move)) for player, move in run.field(run.players)._asdict().items()
        },
        "clip_norms": {p: getattr(s, "clip_norm", None) for p, s in zip(Players._fields, settings, strict=True)},
        "optimizers": {p: getattr(s, "name", None) for p, s in zip(Players._fields, settings, strict=True)},
    }
    if train_step:
        tell("eigenvalues of the train step")
        steps = spectrum.ritz_values(step_map, point, num_iterations=iterations, key=key)
        record |= {
            "step_eigenvalues": complex_list(steps.values),
            "step_residuals": steps.residuals.tolist(),
            "spectral_radius": float(np.abs(steps.values).max()),
        }
    if layers:
        tell("singular values of the layers")
        record["layers"] = _layers(run, key)
    if latents and run.game.settings["latent_dim"] is not None:
        tell("the generator's input")
        record["conditioning"] = _conditioning(run, latents, key)
    if earlier is not None:
        tell("the path between both checkpoints")
        line = spectrum.path(run.field, earlier.players, run.players)
        record["path"] = {
            "from_step": int(earlier.state.step),
            "positions": line.positions.tolist(),
            "angles": line.angles.tolist(),
            "norms": line.norms.tolist(),
        }
    return record


def _by_name(rates):
    return None if rates is None else rates._asdict()


def _layers(run, key):
    of_generator, of_discriminator = runs.inputs_of(run)
    players = (
        ("generator", run.game.generator, run.state.generator.variables, of_generator),
        ("discriminator", run.game.discriminator, run.state.discriminator.variables, of_discriminator),
    )
    return {
        f"{player}/{name}": {
            "operator": layer.operator.tolist(),
            "errors": layer.errors.tolist(),
            "matrix": layer.matrix[: len(layer.operator)].tolist(),
        }
        for player, module, variables, inputs in players
        for name, layer in spectrum.layer_singular_values(module, variables, *inputs, key=key).items()
    }


def _conditioning(run, num, key):
    (_, *condition), _ = runs.inputs_of(run)
    # As many images of the batch as are asked for, again from the first where there are fewer.
    condition = jax.tree.map(lambda x: x[np.arange(num) % len(x)], condition)
    z = run.game.settings.get("sample_latent", jax.random.normal)(key, (num, run.game.settings["latent_dim"]))
    singular = spectrum.input_singular_values(run.game.generator, run.state.ema, z, *condition)
    return {
        "mean_log_condition": float(np.log(spectrum.condition_numbers(singular)).mean()),
        "largest_singular_value": float(singular.max()),
        "smallest_singular_value": float(singular.min()),
    }


def complex_list(values: Any) -> list[list[float]]:
    """Complex numbers as [real, imaginary], in their order."""
    return [[float(value.real) + 0.0, float(value.imag) + 0.0] for value in values]


# Words ----------------------------------------------------------------------------------------------------------------


def text(record: Mapping[str, Any], top: int = 8) -> list[str]:
    """The record of `of_run` as lines for people.

    Args:
      record: of `of_run`.
      top: how many eigenvalues to show.
    """
    why = ", the newest at which its schedules have not ended" if record["schedule_ended_after"] else ""
    lines = [f"{record['run']}, step {record['step']}{why}, {record['batch_size']} images", ""]
    lines += _eigenvalues("eigenvalues of the game", record["eigenvalues"], record["residuals"], top)
    lines.append("  negative real part: damped; positive: growing; imaginary: turning; residual: absolute")
    if record["spectral_norm"]:
        lines.append(
            "  singular vectors of spectral normalisation are held, though they follow the weights: near, not exact"
        )
    growing = [
        value
        for value, bound in zip(record["eigenvalues"], record["residuals"], strict=True)
        if value[0] > max(bound, 0.0)
    ]
    lines += [
        f"  of {len(record['eigenvalues'])} found, {len(growing)} have a positive real part: directions that grow"
        + (f", the fastest {max(growing)[0]:.4g}" if growing else ""),
        "",
        f"attraction and stiffness (symmetric share)  {record['symmetric_share']:.1%} +- {record['share_error']:.1%}",
        f"rotation (antisymmetric share)              {record['antisymmetric_share']:.1%}",
        f"  {share_text(record['symmetric_share'])}",
        "",
    ]
    lines += _rates(record)
    lines += _gradients(record)
    if "step_eigenvalues" in record:
        lines += _step(record, top)
    if "layers" in record:
        lines += ["", f"{'largest singular value of a layer':40s}{'operator':>12s}{'matrix':>12s}"]
        lines += [
            f"  {name:38s}{layer['operator'][0]:12.4g}{layer['matrix'][0]:12.4g}"
            for name, layer in record["layers"].items()
        ]
        lines.append(
            "  operator: gain on the maps that it sees; matrix: of its kernel as a matrix, as in spectral norm"
        )
    if "conditioning" in record:
        found = record["conditioning"]
        lines += [
            "",
            "generator's input Jacobian J = dG/dz, and the condition number of J^T J (log 0: all directions alike)",
            f"  {'mean natural log of its condition':38s}{found['mean_log_condition']:12.4g}",
            f"  {'smallest singular value':38s}{found['smallest_singular_value']:12.4g}",
            f"  {'largest singular value':38s}{found['largest_singular_value']:12.4g}",
        ]
    if "path" in record:
        path = record["path"]
        lines += ["", f"line from step {path['from_step']} (0) to {record['step']} (1): angle and norm of the field"]
        lines += [
            f"  {position:8.3f}{angle:12.4f}{norm:12.4g}"
            for position, angle, norm in zip(path["positions"], path["angles"], path["norms"], strict=True)
        ]
    return lines


def _eigenvalues(title, eigenvalues, bounds, top) -> list[str]:
    lines = [f"{title:40s}{'modulus':>12s}{'residual':>12s}"]
    for (real, imaginary), bound in list(zip(eigenvalues, bounds, strict=True))[:top]:
        modulus = math.hypot(real, imaginary)
        unsettled = "   not settled: more --iterations" if bound > 0.01 * modulus else ""
        lines.append(f"  {f'{real:.5g}{imaginary:+.5g}i':38s}{modulus:12.5g}{bound:12.2g}{unsettled}")
    return lines


def _rates(record) -> list[str]:
    rates, now = record["learning_rates"], record["learning_rates_at_this_step"]
    ratio = "equal" if rates is None else ratio_text(rates)
    lines = [
        f"largest stable discriminator rate, the generator's being {ratio}, without a clip",
        f"  {'if both players step at once':38s}{'all':>12s}{'damped only':>14s}",
    ]
    for name, limit in record["largest_stable_rate"].items():
        lines.append(f"  {name:38s}{limit['all']:12.4g}{limit['damped']:14.4g}")
    if rates is None:
        lines += [
            "  The run's own rates are not shown: its optimisers are optax objects, which do not tell them. These rows",
            "  are for equal rates of both players",
        ]
    else:
        lines.append(f"  {'the run has':38s}{rates['discriminator']:12.4g}")
        if now["discriminator"] != rates["discriminator"]:
            lines.append(f"  {'  and at this step of its schedule':38s}{now['discriminator']:12.4g}")
    lines += [
        "  all: up to here no direction grows; 0 if one grows at every rate, as in a network that is still learning",
        "  damped only: up to here the damped directions stay damped; above it they overshoot more with every step",
    ]
    if record["update_rule"] == "alternating":
        lines += [
            "  The run's players alternate: for that there is no function of these eigenvalues, and the rows are",
            "  near it, not exact. `spectrum.largest_stable_scale` in Python finds it with any rule, in minutes",
        ]
    if _has_adam(record):
        lines += [
            "  Adam's row holds its second moments as they are. They grow where a direction oscillates, so that the",
            "  row follows the rate in use at this step, and runs train well far above it: it is no bound, and does",
            "  not say which rates the GAN bears from its start. `jaxgen stability sweep RUN` tries that",
        ]
    return lines


def _gradients(record) -> list[str]:
    lines = ["", "length of the gradient on this batch"]
    for player, norm in record["gradient_norms"].items():
        known = record["optimizers"][player] is not None
        told = clip_text(norm, record["clip_norms"][player]) if known else "whether it is clipped is not known"
        lines.append(f"  {player:38s}{norm:12.4g}   {told}")
    if _has_adam(record):
        lines += [
            "  Adam's update does not depend on the gradient's scale: a clip only evens out how much single steps",
            "  weigh in its moments. `jaxgen stability sweep RUN --clip 1 inf` tries both, and tells how often it acts",
        ]
    return lines


def _has_adam(record) -> bool:
    return any((name or "").startswith("adam") for name in record["optimizers"].values())


def _step(record, top) -> list[str]:
    now = record["learning_rates_at_this_step"]
    values = record["step_eigenvalues"], record["step_residuals"]
    lines = ["", *_eigenvalues("eigenvalues of the train step", *values, top)]
    if now is not None:
        generator, discriminator = (f"{now[player]:.4g}" for player in Players._fields)
        lines.append(f"  at the rates of this step: generator {generator}, discriminator {discriminator}")
    radius = record["spectral_radius"]
    told = radius_text(radius, None if now is None else now["discriminator"])
    lines.append(f"  {'spectral radius on this batch':38s}{radius:12.6g}{told}")
    return lines


def ratio_text(rates: Mapping[str, float]) -> str:
    """How the generator's rate compares with the discriminator's."""
    ratio = rates["generator"] / rates["discriminator"]
    return "equal" if ratio == 1 else f"{ratio:g} times as large"


def share_text(symmetric: float) -> str:
    """How to read the shares of attraction and rotation."""
    if symmetric > 0.75:
        return "mostly attraction and stiffness: at rates too large this network overshoots rather than circles"
    if symmetric < 0.25:
        return "mostly rotation: the players circle; damping (a penalty, extragradient) helps more than a smaller rate"
    return "both: the players are attracted, and circle"


def radius_text(radius: float, rate: float | None) -> str:
    """How to read the spectral radius of a train step at a discriminator's rate, None where nobody knows it."""
    if rate == 0:
        return "   the schedule is at rate 0, and nothing moves: see an earlier --step"
    if radius <= 1 + 1e-6:
        return "   nothing grows"
    return f"   above 1: some direction grows {radius:.4g} times in a step, as while learning or at a rate too large"


def clip_text(norm: float, clip: float | None) -> str:
    """What a clip does to a gradient of this length."""
    if clip is None:
        return f"the run does not clip; a clip above {norm:.3g} would change nothing here"
    if norm <= clip:
        return f"the run's clip at {clip:g} does not act here"
    return f"the run's clip at {clip:g} acts: rates of plain descent may be {norm / clip:.3g} times as large"
