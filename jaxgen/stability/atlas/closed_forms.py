"""Plates A1 to A4: games whose stability is known in closed form, and what simulation makes of them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.losses import adversarial, penalties
from jaxgen.stability import games, oracles, spectrum, trajectories, updates, verdict
from jaxgen.stability.atlas.record import (
    INK,
    LAW_COLOURS,
    LINES,
    Claim,
    Record,
    edges,
    near_boundary,
    new_figure,
)
from jaxgen.stability.games import Players

TINY = 1e-200  # a radius below this has decayed, whatever rounding does to it
HUGE = 1e150  # and one above this has diverged: its square is about to overflow


def simulate(
    make_rule: Callable,
    make_field: Callable,
    start: Players,
    settings: dict,
    num_steps: int,
    measure: Callable | None = None,
) -> np.ndarray:
    """The distance from the equilibrium at 0 of many members of a game, in double precision.

    Args:
      make_rule, make_field: settings of one member -> rule, field.
      start: of all.
      settings: name -> [N].
      num_steps: T.
      measure: (settings, trajectory) -> [T + 1], instead of the distance.

    Returns:
      [N, T + 1].
    """
    with jax.enable_x64(True):

        def one(settings):
            trajectory = updates.run(make_rule(settings), make_field(settings), start, num_steps)
            if measure is not None:
                return measure(settings, trajectory)
            centre = Players(*jax.tree.map(lambda x: jnp.zeros_like(jnp.asarray(x)), tuple(start)))
            return trajectories.radius(trajectory, centre)

        rows = {name: jnp.asarray(values, jnp.float64) for name, values in settings.items()}
        num = len(next(iter(rows.values())))
        return np.asarray(jax.jit(lambda rows: jax.lax.map(one, rows, batch_size=min(num, 1024)))(rows))


def slopes(radii: np.ndarray) -> np.ndarray:
    """Growth per step in nats, -inf where the radius has vanished and +inf where it is not finite: [N]."""
    with jax.enable_x64(True):
        slope = np.array(trajectories.slope(jnp.asarray(np.clip(np.nan_to_num(radii, nan=1.0), TINY, 1e250))))
    slope[radii[:, -1] <= TINY] = -np.inf
    slope[~(radii < HUGE).all(axis=1)] = np.inf
    return slope


PREDICTABLE: dict[str, tuple[Callable, Callable]] = {
    "simultaneous": (updates.simultaneous, oracles.simultaneous_factor),
    "extragradient": (updates.extragradient, oracles.extragradient_factor),
    "optimistic": (updates.optimistic, oracles.optimistic_factor),
    "heavy ball, b = -0.5": (
        functools.partial(updates.heavy_ball, momentum=-0.5),
        functools.partial(oracles.heavy_ball_factor, momentum=-0.5),
    ),
}
"""Rules whose largest rate follows from the eigenvalues of the field: how to make each, and its factor."""


def linear_slopes(radii: np.ndarray, low: float = 1e-12, high: float = 1e-2) -> np.ndarray:
    """Growth per step in nats while the radius is in (low, high): [N].

    Below there is nothing but the rounding of the loss, and above the game is not linear: what diverges at first may
    end on a cycle. Of that time the second half, in which the fastest direction is all that is left.
    """
    found = np.empty(len(radii))
    for row, radius in enumerate(radii):
        outside = np.flatnonzero(~((radius > low) & (radius < high)))
        stop = max(4, int(outside[0]) if len(outside) else len(radius))
        found[row] = np.polyfit(np.arange(stop // 2, stop), np.log(radius[stop // 2 : stop]), 1)[0]
    return found


def _rates(rate, ratio):
    """(eta_G, eta_D) with geometric mean `rate` and eta_D / eta_G = ratio."""
    root = ratio**0.5
    return rate / root, rate * root


# ------------------------------------------------------------------------------------------------------------------ A1

MOMENTUM = 0.5
RULES = {
    "simultaneous": (updates.simultaneous, oracles.simultaneous_factor),
    "alternating": (updates.alternating, None),
    "extragradient": (updates.extragradient, oracles.extragradient_factor),
    "optimistic": (updates.optimistic, oracles.optimistic_factor),
    f"heavy ball, b = {MOMENTUM}": (
        functools.partial(updates.heavy_ball, momentum=MOMENTUM),
        functools.partial(oracles.heavy_ball_factor, momentum=MOMENTUM),
    ),
}


def _radius_in_theory(name, rate, ratio, gamma):
    """The spectral radius of one update of the Dirac-GAN with f(t) = t, in closed form."""
    g, d = _rates(rate, ratio)
    if name == "alternating":
        trace, determinant = 2 - d * gamma - g * d, 1 - d * gamma
        root = np.sqrt(trace**2 - 4 * determinant + 0j)
        return np.maximum(np.abs(trace + root), np.abs(trace - root)) / 2
    return RULES[name][1](oracles.damped_eigenvalues(d * gamma, np.sqrt(g * d))).max(axis=-1)


def ttur_and_r1(*, num_ratios: int = 81, num_gammas: int = 80, num_steps: int = 1024, rate: float = 0.3) -> Record:
    """A1: the ratio of the learning rates against the weight of R1 on the Dirac-GAN, for five update rules."""
    ratios, gammas = np.geomspace(1e-2, 1e2, num_ratios), np.geomspace(1e-2, 20.0, num_gammas)
    fine = np.geomspace(1e-2, 1e2, 401), np.geomspace(1e-2, 20.0, 400)
    gamma, ratio = (x.ravel() for x in np.meshgrid(gammas, ratios, indexing="ij"))
    figure, axes = new_figure(15, 3.6, 1, 5, sharey=True)
    claims, wrong, stable_cells, outside, numbers = [], 0, {}, 0, {}
    for axis, (name, (make, _)) in zip(axes[0], RULES.items(), strict=True):
        radii = simulate(
            lambda s, make=make: make(Players(*_rates(rate, s["ratio"]))),
            lambda s: games.field(games.dirac(adversarial.wasserstein, [penalties.r1(s["gamma"])])),
            Players(1.0, 1.0),
            {"ratio": ratio, "gamma": gamma},
            num_steps,
        )
        slope = slopes(radii).reshape(num_gammas, num_ratios)
        exact = _radius_in_theory(name, rate, ratio, gamma).reshape(slope.shape)
        if name in ("simultaneous", "alternating"):
            closed = getattr(oracles, f"{name}_is_stable")(*_rates(rate, ratio), gamma).reshape(slope.shape)
        else:
            closed = exact < oracles.STABLE_BELOW
        disagree = (slope < 0) != closed
        far = disagree & ~near_boundary(closed)
        wrong, outside = wrong + int(disagree.sum()), outside + int(far.sum())
        known = np.isfinite(slope) & (np.abs(np.log(exact)) * num_steps < 400)
        error = np.median(np.abs(slope - np.log(exact))[known]) if known.any() else np.nan
        stable_cells[name] = float(closed.mean())
        numbers[name] = {"slope": slope, "spectral_radius": exact, "stable": closed}
        claims.append(
            Claim(
                f"{name}: {int(disagree.sum())} of {closed.size} cells disagree, {int(far.sum())} of them more than "
                f"one cell from the exact boundary; {closed.mean():.0%} of the map is stable; the simulated slope "
                f"differs from log(spectral radius) by {error:.1e} in the median",
                not far.any(),
            )
        )
        shown = np.clip(slope * 100, -20, 20)
        mesh = axis.pcolormesh(edges(ratios), edges(gammas), shown, cmap="RdBu_r", vmin=-20, vmax=20, rasterized=True)
        boundary = _radius_in_theory(name, rate, *np.meshgrid(*fine))
        axis.contour(*fine, boundary, levels=[1.0], colors=INK, linewidths=1.6)
        axis.scatter(ratio[disagree.ravel()], gamma[disagree.ravel()], s=9, color="gold", marker="x", linewidths=0.9)
        axis.set(xscale="log", yscale="log", title=name, xlabel="discriminator's rate : generator's rate")
    axes[0, 0].set_ylabel("weight of R1, gamma")
    figure.colorbar(mesh, ax=axes[0, -1], label="growth, % a step", extend="both")
    best = max(stable_cells, key=lambda name: stable_cells[name])
    claims.append(
        Claim(
            f"the largest stable region of the five is that of {best} ({stable_cells[best]:.0%}); simultaneous "
            f"{stable_cells['simultaneous']:.0%}, alternating {stable_cells['alternating']:.0%}"
        )
    )
    (slow, fast), weight = _rates(rate, np.meshgrid(*fine)[0]), np.meshgrid(*fine)[1]
    both = oracles.simultaneous_is_stable(slow, fast, weight) & ~oracles.alternating_is_stable(slow, fast, weight)
    claims.append(
        Claim(
            f"“alternating is always more stable” is false: on {both.mean():.2%} of the map, by the closed forms on a "
            "grid of 400 x 401, simultaneous updates are stable and alternating ones are not",
            bool(both.any()),
        )
    )
    return Record(
        "A1",
        "Two learning rates and R1",
        "Which ratio of the learning rates, and which penalty, make the smallest GAN converge?",
        [
            "Dirac-GAN with f(t) = t. Colour: how fast the simulated distance from the equilibrium grows (red) or "
            f"shrinks (blue), from {num_steps:,} steps with rates of geometric mean {rate:g}. Black: the exact "
            "boundary of stability. Yellow crosses: cells in which simulation and theory disagree.",
            "Simultaneous updates are stable iff eta_G s^2 < gamma and eta_D (gamma - eta_G s^2 / 2) < 2; alternating "
            "ones iff eta_D gamma < 2 and eta_G eta_D s^2 < 4 - 2 eta_D gamma; the others by the roots of their "
            "characteristic polynomials (Mescheder, Geiger, Nowozin 2018; Gidel et al. 2019).",
        ],
        claims,
        cells=5 * gamma.size,
        disagreeing=wrong,
        numbers={"ratios": ratios, "gammas": gammas, "outside_of_band": outside, **numbers},
        figure=figure,
    )


# ------------------------------------------------------------------------------------------------------------------ A2


def clipped_radius_in_theory(start_radius: Any, num_steps: Any, rate: Any, max_norm: Any) -> Any:
    """Simultaneous steps on L = theta psi with a joint clip: growth by sqrt(1 + h^2) until the clip holds, then r_t^2
    grows by (h c)^2 a step. Arrays broadcast; the result has their shape."""
    start_radius, rate, max_norm = np.broadcast_arrays(*map(np.asarray, (start_radius, rate, max_norm)))
    growth = np.log1p(rate**2) / 2
    with np.errstate(divide="ignore"):
        free = np.clip(np.ceil(np.log(max_norm / start_radius) / growth), 0, num_steps)
    radius = start_radius * np.exp(free * growth)
    return np.sqrt(radius**2 + (num_steps - free) * (rate * np.minimum(max_norm, radius)) ** 2 * (num_steps > free))


TOO_FEW = "too few turns to tell"


def clipping(*, num_rates: int = 40, num_norms: int = 41, num_steps: int = 4096) -> Record:
    """A2: clip norm against learning rate, with one clip for both players and with one for each."""
    rates, norms = np.geomspace(0.02, 0.6, num_rates), np.geomspace(1e-2, 1e4, num_norms)
    rate, norm = (x.ravel() for x in np.meshgrid(rates, norms, indexing="ij"))
    start = Players(1.0, 0.0)
    field = games.field(games.dirac(adversarial.wasserstein, start=(1.0, 0.0)))
    settings = {"rate": rate, "norm": norm}

    def make_rule(s):
        return updates.simultaneous(s["rate"])

    joint = simulate(make_rule, lambda s: updates.clip_jointly(field, s["norm"]), start, settings, num_steps)
    # A slow turn of an orbit with corners changes the radius, and not the energy.
    energy = simulate(
        make_rule,
        lambda s: updates.clip_per_player(field, s["norm"]),
        start,
        settings,
        num_steps,
        lambda s, path: _huber(path.generator, s["norm"]) + _huber(path.discriminator, s["norm"]),
    )
    shape = num_rates, num_norms
    laws = {name: _laws(x).reshape(shape) for name, x in (("joint", joint), ("per player", np.sqrt(energy)))}
    # Eight corners of length 1 at a speed of h c: an eighth of the run should hold a turn, or its law means nothing.
    turns = (num_steps * rate * np.minimum(norm, 1.0) / 8).reshape(shape)
    laws["per player"] = np.where(turns < 8, TOO_FEW, laws["per player"])
    theory = clipped_radius_in_theory(1.0, num_steps, rate, norm)
    time = np.arange(0, num_steps + 1, 8)
    expected = _laws(clipped_radius_in_theory(1.0, time[None], rate[:, None], norm[:, None])).reshape(shape)

    found = joint[:, -1]
    error = np.abs(found / theory - 1)
    wrong = int(np.sum(~(error < 1e-6)))
    odd = (laws["joint"] != expected) & ~near_boundary(expected)
    counts = {name: int(np.sum(laws["joint"] == name)) for name in trajectories.GROWTH_LAWS}
    told = laws["per player"][laws["per player"] != TOO_FEW]
    closer = int(np.sum(~(found > 1.0))), int(np.sum(~(energy[:, -1] > energy[:, 0])))
    same = _clip_and_largest_rate()
    claims = [
        Claim(
            f"joint clip: the final radius follows the closed form in {error.size - wrong} of {error.size} cells; the "
            f"largest relative error is {error.max():.1e}",
            wrong == 0,
        ),
        Claim(
            f"joint clip: the growth law is that of the closed form in all but {int(odd.sum())} of {odd.size} cells "
            f"(transitions aside): exponential in {counts['exponential']}, square-root growth in "
            f"{counts['square-root growth']}; {counts['cycle']} look like a cycle, because r^2 grows by less than "
            "0.1 % in the time that is looked at",
            not odd.any(),
        ),
        Claim(
            "one clip for each player, where the run holds turns enough: "
            + ", ".join(f"{name} in {int(np.sum(told == name))}" for name in trajectories.GROWTH_LAWS)
            + f" of {told.size} cells"
        ),
        Claim(
            "no clip norm makes simultaneous steps converge: a run ends at a smaller radius than it began in "
            f"{closer[0]} of {rate.size} cells with a joint clip, and at a smaller energy Huber(theta) + Huber(psi) in "
            f"{closer[1]} with one clip for each",
            closer == (0, 0),
        ),
        _energy_claim(field, num_steps),
        *same,
    ]
    return Record(
        "A2",
        "Gradient clipping",
        "What does a clip norm do to a GAN that diverges, and is it the same for one clip and for two?",
        [
            "The Dirac-GAN with f(t) = t and no penalty, simultaneous steps from (1, 0), which diverge exponentially. "
            "Colour: the growth law, of the radius or of the square root of the energy. Solid: where exponential "
            "growth just reaches the clip norm within the run, which is a little below where the law changes, since a "
            "law is told from much of the run; dashed: the starting radius.",
            "One clip over both players' joint norm is a change of time: orbits and the spectrum at the equilibrium "
            "stay as they are, and exponential growth becomes r_t^2 = r_0^2 + t h^2 c^2. One clip for each player is "
            "another game, whose flow conserves Huber(theta) + Huber(psi): orbits with corners.",
        ],
        claims,
        cells=2 * error.size + len(same),
        disagreeing=wrong + int(odd.sum()) + sum(claim.agrees is False for claim in same),
        numbers={"rates": rates, "norms": norms, "laws": laws, "final_radius": found, "theory": theory},
        figure=_clipping_figure(rates, norms, laws, field, num_steps),
    )


def _laws(radii):
    """The name of each row's growth law."""
    with jax.enable_x64(True):
        return np.array(trajectories.GROWTH_LAWS)[np.asarray(trajectories.growth_law(jnp.asarray(radii)))]


def _energy_claim(field, num_steps, rate=0.05, norm=0.5):
    """Do steps with a clip for each player conserve the energy of their flow?"""
    drift = {}
    with jax.enable_x64(True):
        for name, rule in (("alternating", updates.alternating), ("simultaneous", updates.simultaneous)):
            path = updates.run(rule(rate), updates.clip_per_player(field, norm), Players(2.0, 0.0), num_steps)
            energy = oracles.per_player_clip_energy(np.asarray(path.generator), np.asarray(path.discriminator), norm)
            drift[name] = energy / energy[0] - 1
    grown, swing = float(drift["simultaneous"][-1]), float(np.abs(drift["alternating"]).max())
    return Claim(
        f"per player, Huber(theta) + Huber(psi) is the energy of the clipped flow: after {num_steps:,} steps of "
        f"{rate:g} at c = {norm:g} it has changed by {grown:+.1%} under simultaneous steps and never by more than "
        f"{swing:.1%} under alternating ones",
        5 * swing < grown,
    )


def _clipping_figure(rates, norms, laws, field, num_steps):
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    figure, axes = new_figure(15, 4.0, 1, 4)
    law_colours = LAW_COLOURS | {TOO_FEW: "#d9dce0"}
    names = list(law_colours)
    colours = ListedColormap([law_colours[name] for name in names])
    for axis, (name, law) in zip(axes[0], laws.items(), strict=False):
        index = np.vectorize(names.index)(law)
        axis.pcolormesh(
            edges(norms), edges(rates), index, cmap=colours, norm=BoundaryNorm(np.arange(6) - 0.5, 5), rasterized=True
        )
        axis.axvline(1.0, color=INK, linewidth=1.2, linestyle="--")
        if name == "joint":
            fine = np.geomspace(rates[0], rates[-1], 200)
            reached = np.exp(num_steps * np.log1p(fine**2) / 2)
            axis.plot(np.where(reached < norms[-1], reached, np.nan), fine, color=INK, linewidth=1.6)
        axis.set(xscale="log", yscale="log", title=f"clip {name}", xlabel="clip norm c", ylabel="learning rate h")
    axes[0, 0].legend(
        handles=[Patch(color=law_colours[name], label=name) for name in names], fontsize=7, loc="upper left"
    )
    with jax.enable_x64(True):
        for axis, (name, clip) in zip(
            axes[0, 2:], (("joint", updates.clip_jointly), ("per player", updates.clip_per_player)), strict=True
        ):
            for radius, colour in zip((0.3, 1.0, 2.0), LINES, strict=False):
                path = updates.run(updates.alternating(0.02), clip(field, 0.5), Players(radius, 0.0), 1500)
                axis.plot(path.generator, path.discriminator, color=colour, linewidth=0.9)
            axis.set(title=f"orbits, clip {name}, c = 0.5", xlabel="theta", ylabel="psi", aspect="equal")
    return figure


def _huber(x, c):
    x = jnp.abs(x)
    return jnp.where(x <= c, x**2 / 2, c * x - c**2 / 2)


def _clip_and_largest_rate():
    """Does clipping change the largest stable rate? By the verdict on one penalised game, with and without clips."""
    game = games.dirac(adversarial.minimax, [penalties.r1(0.5)], start=(0.1, 0.1))
    field, claims = games.field(game), []
    limits = {}
    for name, clipped in (
        ("no clip", field),
        ("joint", updates.clip_jointly(field, 0.05)),
        ("per player", updates.clip_per_player(field, 0.05)),
    ):
        found = verdict.judge(
            updates.simultaneous,
            Players(1.0, 1.0),
            clipped,
            start=game.start,
            equilibrium=game.equilibrium,
            num_steps=64,
        )
        limits[name] = found.largest_stable_scale
    for name in ("joint", "per player"):
        claims.append(
            Claim(
                f"a clip ({name}) leaves the largest stable rate of the penalised game as it is: {limits[name]:.6g} "
                f"with, {limits['no clip']:.6g} without",
                bool(np.isclose(limits[name], limits["no clip"], rtol=1e-6)),
            )
        )
    return claims


# ------------------------------------------------------------------------------------------------------------------ A3


def limit_cycles(*, num_rates: int = 8, num_turns: int = 300) -> Record:
    """A3: where simultaneous non-saturating GANs and WGAN-GP end: on cycles of known radius."""
    figure, axes = new_figure(15, 4.2, 1, 4)
    claims, cells, wrong, numbers = [], 0, 0, {}

    # Non-saturating, simultaneous: a cycle of radius sqrt(2 h), asymptotically for small h.
    rates = np.geomspace(0.02, 0.2, num_rates)
    field = games.field(games.dirac(adversarial.non_saturating))
    num_steps = int(num_turns * 2 * np.pi / 0.5 / 0.05)  # the cycle attracts within 4 / h^2 steps
    radii = simulate(
        lambda s: updates.simultaneous(s["rate"]), lambda s: field, Players(0.2, 0.2), {"rate": rates}, num_steps
    )
    settled = radii[:, -(num_steps // 4) :].mean(axis=1)
    theory = oracles.non_saturating_cycle_radius(rates)
    error = np.abs(settled / theory - 1)
    bad = int(np.sum(error > 0.1))
    cells, wrong = cells + num_rates, wrong + bad
    numbers["non_saturating"] = {"rates": rates, "radius": settled, "theory": theory}
    claims.append(
        Claim(
            f"non-saturating, simultaneous: the cycle's radius is sqrt(2h) within {error.max():.2%} for all "
            f"{num_rates} rates, within {error[0]:.2%} at the smallest, h = {rates[0]:g}",
            bad == 0,
        )
    )
    axes[0, 0].loglog(rates, theory, color=INK, label="sqrt(2h)")
    axes[0, 0].loglog(rates, settled, "o", color=LINES[0], label="simulation")
    axes[0, 0].set(title="non-saturating, simultaneous", xlabel="learning rate h", ylabel="radius of the cycle")

    # Non-saturating, alternating: decay like 1 / sqrt(t).
    rate = 0.05
    radius = simulate(
        lambda s: updates.alternating(s["rate"]), lambda s: field, Players(0.4, 0.0), {"rate": [rate]}, num_steps
    )[0]
    time = np.arange(num_steps + 1)
    predicted = oracles.non_saturating_radius(0.4, time, rate)
    window = max(1, int(2 * np.pi / 0.5 / rate))
    smooth = np.convolve(radius, np.ones(window) / window, mode="valid")
    middle = np.convolve(predicted, np.ones(window) / window, mode="valid")
    error = np.abs(smooth / middle - 1)
    exponent = np.polyfit(np.log(time[num_steps // 4 :]), np.log(radius[num_steps // 4 :]), 1)[0]
    cells, wrong = cells + 1, wrong + int(error.max() > 0.1)
    numbers["alternating"] = {"exponent": exponent, "largest_error": error.max()}
    claims.append(
        Claim(
            "non-saturating, alternating: the radius decays as the closed form 1/sqrt(1/r_0^2 + h t / 8), within "
            f"{error.max():.2%} at all times; its exponent at the end is {exponent:.3f}, that of 1/sqrt(t) is -0.5",
            bool(error.max() <= 0.1),
        )
    )
    thin = np.unique(np.geomspace(1, num_steps, 400).astype(int))
    axes[0, 1].loglog(time[thin], radius[thin], color=LINES[0], linewidth=0.8, label="simulation")
    axes[0, 1].loglog(time[thin], predicted[thin], color=INK, linestyle="--", label="closed form")
    axes[0, 1].set(title=f"non-saturating, alternating, h = {rate:g}", xlabel="step", ylabel="distance")

    # WGAN-GP: cycles of radius 4 g0 / pi / (1 - h / g).
    weight, target = 0.025, 1.0
    g = 2 * weight
    field = games.field(games.dirac(adversarial.wasserstein, [penalties.gradient_penalty(weight, target)]))
    over = np.linspace(0.05, 0.4, num_rates)
    num_steps = int(max(400 / g / (over[0] * g), 20000))
    num_steps = min(num_steps, num_turns * 400)
    for name, rule, ratio, colour in (
        ("simultaneous", updates.simultaneous, over, LINES[0]),
        ("alternating", updates.alternating, np.zeros(num_rates), LINES[1]),
        ("extragradient", updates.extragradient, -over, LINES[2]),
    ):
        radii = simulate(
            lambda s, rule=rule: rule(s["rate"]), lambda s: field, Players(1.2, 0.0), {"rate": over * g}, num_steps
        )
        settled = radii[:, -(num_steps // 4) :].mean(axis=1)
        theory = oracles.gradient_penalty_cycle_radius(target, ratio)
        error = np.abs(settled / theory - 1)
        bad = int(np.sum(error > 0.1))
        cells, wrong = cells + num_rates, wrong + bad
        numbers[f"wgan_gp, {name}"] = {"rate_over_weight": over, "radius": settled, "theory": theory}
        claims.append(
            Claim(
                f"WGAN-GP, {name}: a cycle, of the predicted radius within {error.max():.2%} for all {num_rates} rates",
                bad == 0,
            )
        )
        axes[0, 2].plot(over, theory, color=colour)
        axes[0, 2].plot(over, settled, "o", color=colour, label=name)
    axes[0, 2].set(title="WGAN-GP does not converge", xlabel="h / g", ylabel="radius of the cycle")
    with jax.enable_x64(True):
        for start, colour in ((0.3, LINES[0]), (2.2, LINES[1])):
            path = updates.run(updates.alternating(0.01), field, Players(start, 0.0), 12000)
            axes[0, 3].plot(path.generator, path.discriminator, color=colour, linewidth=0.5)
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = oracles.gradient_penalty_cycle_radius(target)
    axes[0, 3].plot(circle * np.cos(angle), circle * np.sin(angle), color=INK, linestyle="--", linewidth=1.2)
    axes[0, 3].set(title="WGAN-GP, from inside and outside", xlabel="theta", ylabel="psi", aspect="equal")
    for axis in axes[0, :3]:
        axis.legend(fontsize=7, frameon=False)
    return Record(
        "A3",
        "Limit cycles",
        "Where do GANs end that neither converge nor diverge?",
        [
            "Simultaneous non-saturating steps on the Dirac-GAN add energy in proportion to h^2 and lose it in "
            "proportion to h: they end on a cycle of radius sqrt(2h), for small h. Alternating steps add nothing, and "
            "decay like 1/sqrt(t).",
            "WGAN-GP pulls |psi| towards 1, not towards 0, and so keeps a cycle of radius 4/pi at any rate "
            "(Mescheder, Geiger, Nowozin 2018); simultaneous steps widen it to 4/pi / (1 - h/g), "
            "extragradient shrinks it. Lines: closed forms; dots: simulation. A cell is one rate; it disagrees if the "
            "radii differ by more than 10 %.",
        ],
        claims,
        cells=cells,
        disagreeing=wrong,
        numbers=numbers,
        figure=figure,
    )


# ------------------------------------------------------------------------------------------------------------------ A4


def shift_gan(*, dimension: int = 12, gammas: tuple = (0.0, 0.3, 1.0, 3.0), num_steps: int = 16384) -> Record:
    """A4: Ritz values of the shift GAN against the closed form; predicted against observed largest rate."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(dimension, dimension)))[0]
    covariance = rotation @ np.diag(np.geomspace(0.05, 4.0, dimension)) @ rotation.T
    samples = games.sigma_points(covariance)
    moments = samples.T @ samples / len(samples)
    figure, axes = new_figure(11, 4.4, 1, 2)
    claims, cells, wrong, numbers = [], 0, 0, {}
    predicted: dict[str, list[float]] = {}
    observed: dict[str, list[float]] = {}
    with jax.enable_x64(True):
        for gamma, colour in zip(gammas, LINES, strict=False):
            field = games.field(games.shift(samples, penalties=[penalties.r1(gamma)] if gamma else ()))
            centre = Players(jnp.zeros(dimension), jnp.zeros(dimension))
            closed = oracles.shift_eigenvalues(oracles.LOGISTIC, moments, gamma)
            ritz = spectrum.ritz_values(field, centre, num_iterations=2 * dimension, key=jax.random.key(1))
            nearest = np.array([np.abs(closed - value).min() for value in ritz.values])
            missed = np.array([np.abs(ritz.values - value).min() for value in closed])
            bad = int(np.sum(missed > 1e-6))
            cells, wrong = cells + len(closed), wrong + bad
            numbers[f"gamma {gamma:g}"] = {"ritz": ritz.values, "closed_form": closed}
            claims.append(
                Claim(
                    f"gamma = {gamma:g}: {len(ritz.values)} Ritz values are eigenvalues within {nearest.max():.1e}, "
                    f"and {len(closed) - bad} of {len(closed)} eigenvalues of the closed form are found",
                    bad == 0,
                )
            )
            axes[0, 0].plot(closed.real, closed.imag, "o", ms=8, mfc="none", color=colour, label=f"gamma = {gamma:g}")
            axes[0, 0].plot(ritz.values.real, ritz.values.imag, ".", ms=4, color=INK)
            for name, (make, factor) in PREDICTABLE.items():
                limit = oracles.largest_stable_rate(ritz.values, factor)
                if not 0 < limit < np.inf:
                    continue
                scale = np.linspace(0.9, 1.1, 41)
                tiny = np.random.default_rng(1).normal(size=(2, dimension)) * 1e-6
                # Long enough for the slowest direction to be all that is left: near the boundary all are slow.
                radii = simulate(
                    lambda s, make=make: make(s["rate"]),
                    lambda s, field=field: field,
                    Players(*map(jnp.asarray, tiny)),
                    {"rate": limit * scale},
                    num_steps,
                )
                growth = linear_slopes(radii)
                first = int(np.argmax(growth >= 0)) if (growth >= 0).any() else len(scale) - 1
                crossing = scale[first]
                if 0 < first and growth[first] > growth[first - 1]:
                    crossing -= growth[first] / (growth[first] - growth[first - 1]) * (scale[1] - scale[0])
                predicted.setdefault(name, []).append(limit)
                observed.setdefault(name, []).append(limit * crossing)
    off = []
    for (name, limits), colour, marker in zip(predicted.items(), LINES, "os^Dv", strict=False):
        error = np.abs(np.array(observed[name]) / limits - 1)
        off += error.tolist()
        axes[0, 1].plot(limits, observed[name], marker, color=colour, label=name, ms=6)
        claims.append(
            Claim(
                f"{name}: the observed largest rate is the predicted one within {error.max():.1e} of it in all "
                f"{len(limits)} cases",
                bool(error.max() < 0.01),
            )
        )
    ends = [min(map(min, predicted.values())), max(map(max, predicted.values()))]
    axes[0, 1].plot(ends, ends, color=INK, linewidth=0.8)
    axes[0, 1].set(
        xscale="log", yscale="log", xlabel="predicted largest rate", ylabel="observed", title="the rate of divergence"
    )
    axes[0, 0].set(xlabel="real part", ylabel="imaginary part", title="circles: closed form; dots: Ritz values")
    axes[0, 0].axvline(0, color=INK, linewidth=0.6)
    for axis in axes[0]:
        axis.legend(fontsize=7, frameon=False)
    cells, wrong = cells + len(off), wrong + int(np.sum(np.array(off) >= 0.01))
    return Record(
        "A4",
        "From the spectrum to the rate at which a GAN diverges",
        "Do matrix-free Ritz values predict the largest stable learning rate?",
        [
            f"The shift GAN in {dimension} dimensions: the data have a known covariance, the generator shifts them, "
            "the discriminator is linear. For each eigenvalue e of the covariance the field has the eigenvalues -d/2 "
            "± sqrt(d²/4 - s²), d = 2 e |f''(0)| + gamma: the spread of the data themselves damps the game.",
            "Arnoldi's method finds them without forming a matrix; the table from eigenvalues to stable steps then "
            "predicts a rate for each update rule, and simulations at rates around it look for the change of sign.",
        ],
        claims,
        cells=cells,
        disagreeing=wrong,
        numbers={"predicted": predicted, "observed": observed, **numbers},
        figure=figure,
    )
