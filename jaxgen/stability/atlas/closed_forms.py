"""Plates A1 and A3: where games of known stability converge, and on which cycles others end."""

import functools

import jax
import numpy as np

from jaxgen.losses import adversarial, penalties
from jaxgen.stability import games, oracles, updates
from jaxgen.stability.atlas.record import INK, LINES, Claim, Record, edges, near_boundary, new_figure
from jaxgen.stability.atlas.simulation import simulate, slopes
from jaxgen.stability.games import Players


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
