"""Plates A5, A6 and A7: sweeps over real, if small, networks."""

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from flax import linen as nn

from jaxgen.data import toy
from jaxgen.losses import adversarial
from jaxgen.models import mlp
from jaxgen.stability import members, oracles, sweep
from jaxgen.stability.atlas.record import INK, LINES, SOFT, Claim, Record, folder, new_figure

RING_STD, LATENT_DIM = 0.05, 8
OPTIMIZERS = {"SGD": (members.sgd, 0.1), "Adam": (members.adam, 2e-3)}


def _ring_program(width, optimizer, name, *, num_samples):
    activation = functools.partial(nn.leaky_relu, negative_slope=0.2)
    generator = mlp.Generator(widths=(width, width), activation=activation)
    discriminator = mlp.Discriminator(widths=(width, width), activation=activation)
    score = members.mode_score(generator, LATENT_DIM, toy.ring_modes(), RING_STD, num_samples)
    return members.gan(
        generator, discriminator, latent_dim=LATENT_DIM, optimizer=optimizer, score=score, name=f"ring, {name}, {width}"
    )


def _ring_data(batch_size):
    return sweep.stream(lambda key: toy.ring(key, batch_size, std=RING_STD))


def _label(value):
    return "none" if math.isinf(value) else f"{value:g}"


# ------------------------------------------------------------------------------------------------------------------ A5


def ring(
    *,
    ratios: Sequence[float] = (0.1, 0.3, 1.0, 3.0, 10.0),
    clips: Sequence[float] = (math.inf, 1.0, 0.1),
    gammas: Sequence[float] = (0.0, 0.1, 1.0),
    num_seeds: int = 3,
    num_steps: int = 6000,
    width: int = 32,
    batch_size: int = 64,
    num_samples: int = 2500,
    num_records: int = 20,
    progress: bool = False,
    run: Mapping | None = None,
) -> Record:
    """A5: TTUR ratio against clip norm against R1 on the ring of eight, for SGD and for Adam."""
    figure, axes = new_figure(14, 6.4, 2, len(gammas), sharex=True, sharey=True)
    scores, failed, shares, claims, seconds = {}, {}, {}, [], {}
    for row, (name, (optimizer, rate)) in zip(axes, OPTIMIZERS.items(), strict=True):
        settings = sweep.product({"r1": gammas}, {"clip": clips}, {"ratio": ratios}, {"seed": range(num_seeds)})
        ratio = settings.pop("ratio")
        settings |= {"generator_rate": rate / np.sqrt(ratio), "discriminator_rate": rate * np.sqrt(ratio)}
        result = sweep.run(
            _ring_program(width, optimizer, name, num_samples=num_samples),
            _ring_data(batch_size),
            settings,
            num_steps=num_steps,
            num_records=num_records,
            progress=progress,
            **folder(run, name),
        )
        seconds[name] = result.seconds
        shape = len(gammas), len(clips), len(ratios), num_seeds
        score = np.nan_to_num(result.table["final_score"]).reshape(shape)
        modes = np.nan_to_num(result.table["final_modes"]).reshape(shape)
        scores[name], failed[name] = score, modes < 8
        shares[name] = {p: result.table[f"{p}_clip_share"].reshape(shape) for p in ("generator", "discriminator")}
        for axis, block, found, gamma in zip(row, np.median(score, axis=-1), modes, gammas, strict=True):
            mesh = axis.imshow(block, vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
            for (i, j), value in np.ndenumerate(np.median(found, axis=-1)):
                axis.text(
                    j,
                    i,
                    f"{value:g}\n{block[i, j]:.2f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if block[i, j] < 0.6 else INK,
                )
            axis.set_title(f"{name}, R1 gamma = {gamma:g}")
            axis.set_xticks(range(len(ratios)), [f"{x:g}" for x in ratios])
            axis.set_yticks(range(len(clips)), [_label(x) for x in clips])
        row[0].set_ylabel("clip norm, per player")
    for axis in axes[-1]:
        axis.set_xlabel("discriminator's rate : generator's rate")
    figure.colorbar(
        mesh, ax=axes, label="above: modes found; below: their share x high-quality share (medians)", shrink=0.7
    )

    sgd, none = failed["SGD"], scores["SGD"]
    unclipped = [i for i, clip in enumerate(clips) if math.isinf(clip)]
    clipped = [i for i, clip in enumerate(clips) if not math.isinf(clip)]
    if unclipped and clipped:
        for g, gamma in enumerate(gammas):
            before, after = sgd[g, unclipped].mean(), sgd[g, clipped].mean()
            claims.append(
                Claim(
                    f"SGD, gamma = {gamma:g}: {before:.0%} of the runs without a clip miss a mode, {after:.0%} of "
                    "those with one"
                )
            )
        claims += _clip_for_penalty(scores, gammas, clipped, unclipped)
        effect = {
            name: float(np.mean(np.abs(score[:, clipped].mean(axis=(1, 3)) - score[:, unclipped].mean(axis=(1, 3)))))
            for name, score in scores.items()
        }
        claims.append(
            Claim(
                f"a clip moves the score by {effect['SGD']:.2f} on average under SGD and by {effect['Adam']:.2f} under "
                "Adam. (Adam's update does not depend on the gradient's scale, but a clip also changes the weight of "
                "one step among others in its moments: it is nearly blind, not blind)",
                effect["Adam"] < effect["SGD"],
            )
        )
    best = tuple(map(int, np.unravel_index(np.argmax(np.median(none, axis=-1)), none.shape[:3])))
    claims.append(
        Claim(
            f"the best setting under SGD is gamma = {gammas[best[0]]:g}, clip {_label(clips[best[1]])}, ratio "
            f"{ratios[best[2]]:g}, with a median score of {np.median(none, axis=-1)[best]:.2f} (a perfect sampler: "
            f"{oracles.perfect_high_quality_share():.2f})"
        )
    )
    checked = [claim.agrees for claim in claims if claim.agrees is not None]
    return Record(
        "A5",
        "The ring: two rates, clipping and a penalty",
        "Does clipping replace a penalty, and for which optimiser?",
        [
            f"{len(gammas) * len(clips) * len(ratios) * num_seeds} GANs for each optimiser in one program: two "
            f"layers of {width}, batch {batch_size}, {num_steps:,} steps, {num_seeds} seeds; rates of geometric mean "
            f"{OPTIMIZERS['SGD'][1]:g} (SGD) and {OPTIMIZERS['Adam'][1]:g} (Adam). Colour: modes found as a share of "
            "8 times the share of high-quality samples. Numbers: modes found, and that score; medians over seeds.",
            "From A1 and A2 one expects three ways to fail: rotation without a penalty, stiffness where "
            "discriminator's rate times penalty is large, and blindness of Adam to a clip.",
        ],
        claims,
        cells=len(checked),
        disagreeing=checked.count(False),
        numbers={"scores": scores, "missed_a_mode": failed, "clip_share": shares, "seconds": seconds},
        figure=figure,
    )


def _clip_for_penalty(scores, gammas, clipped, unclipped):
    """The best median over ratios with nothing, with a clip alone, with a penalty alone, and with both."""
    none, some = ([i for i, gamma in enumerate(gammas) if (gamma > 0) == wanted] for wanted in (False, True))
    if not none or not some:
        return []
    claims = []
    for name, score in scores.items():
        median = np.median(score, axis=-1)
        bare, clip, penalty, both = (
            median[np.ix_(chosen, norms)].max() for chosen in (none, some) for norms in (unclipped, clipped)
        )
        claims.append(
            Claim(
                f"{name}, the best ratio's score: {bare:.2f} with neither, {clip:.2f} with a clip alone, {penalty:.2f} "
                f"with R1 alone, {both:.2f} with both"
            )
        )
    return claims


# ------------------------------------------------------------------------------------------------------------------ A6

LOSSES = {
    "non-saturating": adversarial.non_saturating,
    "minimax": adversarial.minimax,
    "hinge": adversarial.hinge,
    "Wasserstein": adversarial.wasserstein,
    "least squares": adversarial.least_squares,
    "relativistic": adversarial.relativistic,
}
PENALTIES = {
    "none": {},
    "R1": {"r1": 0.1},
    "R1 + R2": {"r1": 0.1, "r2": 0.1},
    "gradient penalty": {"gradient_penalty": 1.0},
}


def grid(
    *,
    losses: Sequence[str] = tuple(LOSSES),
    kinds: Sequence[str] = tuple(PENALTIES),
    num_seeds: int = 3,
    num_steps: int = 8000,
    width: int = 128,
    batch_size: int = 128,
    num_samples: int = 2500,
    num_records: int = 20,
    rate: float = 1e-3,
    progress: bool = False,
    run: Mapping | None = None,
) -> Record:
    """A6: six losses against four penalties on the grid of 25."""
    generator, discriminator = mlp.Generator(widths=(width, width)), mlp.Discriminator(widths=(width, width))
    chosen = {name: LOSSES[name] for name in losses}
    score = members.mode_score(generator, 16, toy.grid_modes(), 0.05, num_samples)
    data = sweep.stream(lambda key: toy.grid(key, batch_size, std=0.05))
    modes, quality, failures = (np.zeros((len(kinds), len(losses), num_seeds)) for _ in range(3))
    for k, kind in enumerate(kinds):
        program = members.gan(
            generator, discriminator, latent_dim=16, losses=chosen, score=score, name=f"grid, {kind}, {width}"
        )
        weights = {f"loss/{name}": [float(name == other) for other in losses] for name in losses}
        settings = sweep.product(
            weights,
            {"seed": range(num_seeds)},
            {"generator_rate": [rate], "discriminator_rate": [2 * rate]} | {n: [w] for n, w in PENALTIES[kind].items()},
        )
        result = sweep.run(
            program,
            data,
            settings,
            num_steps=num_steps,
            num_records=num_records,
            progress=progress,
            **folder(run, f"penalty-{k}"),
        )
        modes[k] = np.nan_to_num(result.table["final_modes"]).reshape(len(losses), num_seeds)
        quality[k] = np.nan_to_num(result.table["final_high_quality"]).reshape(len(losses), num_seeds)
        failures[k] = ~result.table["finite"].reshape(len(losses), num_seeds)
    figure, axes = new_figure(12, 3.8, 1, 2, sharey=True)
    for axis, values, title, form, top in (
        (axes[0, 0], modes, "modes found, of 25", "{:g}", 25.0),
        (axes[0, 1], quality, "share of high quality", "{:.0%}", 1.0),
    ):
        median = np.median(values, axis=-1)
        top = max(float(median.max()), 0.1 * top)
        axis.imshow(median, vmin=0, vmax=top, cmap="viridis", aspect="auto")
        for (i, j), value in np.ndenumerate(median):
            axis.text(
                j,
                i,
                form.format(value),
                ha="center",
                va="center",
                fontsize=9,
                color="white" if value < 0.6 * top else INK,
            )
        axis.set_title(f"{title} (median over {num_seeds} seeds)")
        axis.set_xticks(range(len(losses)), losses, rotation=20, ha="right")
        axis.set_yticks(range(len(kinds)), kinds)
    total = modes * quality / 25
    over_penalties = np.median(total, axis=-1)
    best = tuple(map(int, np.unravel_index(np.argmax(over_penalties), over_penalties.shape)))
    claims = [
        Claim(
            f"the best pair is {losses[best[1]]} with {kinds[best[0]]}: a median of "
            f"{np.median(modes, axis=-1)[best]:g} modes and {np.median(quality, axis=-1)[best]:.0%} of high quality"
        ),
        Claim(
            f"choosing the penalty moves the score (modes x quality) by {np.ptp(over_penalties, axis=0).mean():.2f} on "
            f"average over losses, choosing the loss by {np.ptp(over_penalties, axis=1).mean():.2f} over penalties"
        ),
        Claim(
            "modes found, the mean over losses and seeds: "
            + ", ".join(f"{kind} {modes[k].mean():.1f}" for k, kind in enumerate(kinds))
        ),
        Claim(
            f"no pair samples well: the largest share of high quality is {np.median(quality, axis=-1).max():.0%}, a "
            f"perfect sampler's {oracles.perfect_high_quality_share():.0%} (small networks, constant rates)"
            if np.median(quality, axis=-1).max() < 0.5
            else f"the largest share of high quality is {np.median(quality, axis=-1).max():.0%}"
        ),
        Claim(f"{int(failures.sum())} of {failures.size} runs ended with numbers that are not finite"),
    ]
    if "none" in kinds and "Wasserstein" in losses and len(kinds) > 1:
        index = losses.index("Wasserstein")
        bare, rest = (
            total[list(kinds).index("none"), index].mean(),
            np.delete(total, list(kinds).index("none"), 0)[:, index],
        )
        claims.append(
            Claim(
                f"Wasserstein needs a constraint on its discriminator: a score of {bare:.2f} without a penalty, "
                f"{rest.mean():.2f} with one",
                bool(bare < rest.mean()),
            )
        )
    checked = [claim.agrees for claim in claims if claim.agrees is not None]
    return Record(
        "A6",
        "The grid: losses and penalties",
        "Does the loss matter more, or the penalty?",
        [
            f"25 Gaussians on a square grid; two layers of {width}, batch {batch_size}, Adam with rates {rate:g} and "
            f"{2 * rate:g}, {num_steps:,} steps. Losses are mixed by weights, so that all of one penalty are one "
            "program.",
        ],
        claims,
        cells=len(checked),
        disagreeing=checked.count(False),
        numbers={"modes": modes, "high_quality": quality, "not_finite": failures},
        figure=figure,
    )


# ------------------------------------------------------------------------------------------------------------------ A7


def budget(
    *,
    num_members: int = 48,
    num_steps: int = 4000,
    width: int = 32,
    batch_size: int = 64,
    num_samples: int = 2500,
    num_records: int = 10,
    progress: bool = False,
    run: Mapping | None = None,
) -> Record:
    """A7: how many random settings one must try, with and without a clip and a penalty."""
    rng = np.random.default_rng(0)
    uniform = rng.uniform(size=(4, num_members))
    rates = np.exp(np.log(0.01) + np.log(100) * uniform[:2])  # 0.01 to 1, the same draws for all
    clip, gamma = np.exp(np.log(0.05) + np.log(100) * uniform[2]), np.exp(np.log(0.01) + np.log(100) * uniform[3])
    base = {"generator_rate": rates[0], "discriminator_rate": rates[1], "seed": np.arange(num_members)}
    searches = {
        "rates only": {"clip": np.full(num_members, np.inf), "r1": np.zeros(num_members)},
        "and a clip norm": {"clip": clip, "r1": np.zeros(num_members)},
        "and R1": {"clip": np.full(num_members, np.inf), "r1": gamma},
        "and both": {"clip": clip, "r1": gamma},
    }
    settings = {
        name: np.concatenate([np.asarray((base | extra)[name], np.float64) for extra in searches.values()])
        for name in (*base, "clip", "r1")
    }
    result = sweep.run(
        _ring_program(width, members.sgd, "SGD", num_samples=num_samples),
        _ring_data(batch_size),
        settings,
        num_steps=num_steps,
        num_records=num_records,
        progress=progress,
        **(run or {}),
    )
    scores = np.nan_to_num(result.table["final_score"]).reshape(len(searches), num_members)
    curves = {name: sweep.budget_curve(row) for name, row in zip(searches, scores, strict=True)}
    figure, axes = new_figure(11, 4, 1, 2)
    for (name, curve), row, colour in zip(curves.items(), scores, LINES, strict=False):
        axes[0, 0].plot(np.arange(1, num_members + 1), curve, color=colour, label=name)
        axes[0, 1].plot(np.sort(row), (np.arange(num_members) + 0.5) / num_members, color=colour)
    axes[0, 0].set(
        xscale="log", xlabel="settings tried, k", ylabel="E[best score of k]", title="budget curves", ylim=(0, 1)
    )
    axes[0, 0].axhline(oracles.perfect_high_quality_share(), color=SOFT, linewidth=0.8, linestyle=":")
    axes[0, 1].set(xlabel="score of one run", ylabel="share of runs below", title="all runs")
    axes[0, 0].legend(fontsize=8, frameon=False)
    target = 0.9 * max(curve[-1] for curve in curves.values())
    claims = []
    for name, curve in curves.items():
        needed = int(np.argmax(curve >= target)) + 1 if curve[-1] >= target else None
        tries = f"{needed} tries on average reach" if needed else f"{num_members} tries do not reach"
        claims.append(
            Claim(f"{name}: one try scores {curve[0]:.2f} on average; {tries} {target:.2f}, 90 % of the best")
        )
    gains = {name: curve[0] - curves["rates only"][0] for name, curve in curves.items() if name != "rates only"}
    best = max(gains, key=lambda name: gains[name])
    claims.append(
        Claim(
            f"for a single try, adding a random choice helps most for “{best}”: by {gains[best]:+.2f}, the others by "
            + ", ".join(f"{gain:+.2f} ({name})" for name, gain in gains.items() if name != best)
        )
    )
    monotone = all(np.all(np.diff(curve) >= -1e-9) for curve in curves.values())
    exact = all(np.isclose(curve[-1], row.max()) for curve, row in zip(curves.values(), scores, strict=True))
    claims.append(Claim("every curve rises and ends at the best score found, as it must", monotone and exact))
    return Record(
        "A7",
        "Budget curves",
        "How many settings must one try, and what does a clip or a penalty save?",
        [
            f"The ring with SGD. {num_members} settings drawn at random for each search: both rates from 0.01 to 1, "
            "the clip norm from 0.05 to 5, gamma from 0.01 to 1, log-uniformly; the searches share their draws. The "
            "curve is the unbiased estimate of E[best of k] = sum_i x_(i) C(n-i, k-1) / C(n, k). Dotted: a perfect "
            "sampler.",
        ],
        claims,
        cells=1,
        disagreeing=int(not (monotone and exact)),
        numbers={"curves": curves, "scores": scores},
        figure=figure,
    )
