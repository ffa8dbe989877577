"""Plate A2: what a clip of gradients does to a game, one for both players and one for each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.losses import adversarial, penalties
from jaxgen.stability import games, oracles, trajectories, updates, verdict
from jaxgen.stability.atlas.record import INK, LAW_COLOURS, LINES, Claim, Record, edges, near_boundary, new_figure
from jaxgen.stability.atlas.simulation import simulate
from jaxgen.stability.games import Players


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
