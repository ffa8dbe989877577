"""Plates A4 and A9: from a spectrum to the rate at which a GAN diverges, and the rate at which it does."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxgen import gan
from jaxgen.data import toy
from jaxgen.losses import penalties
from jaxgen.metrics.coverage import mode_coverage
from jaxgen.models import mlp
from jaxgen.stability import games, oracles, spectrum, updates
from jaxgen.stability.atlas.networks import LATENT_DIM, RING_STD
from jaxgen.stability.atlas.record import INK, LINES, SOFT, Claim, Record, new_figure
from jaxgen.stability.atlas.simulation import linear_slopes, simulate
from jaxgen.stability.games import Field, Players

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


# ------------------------------------------------------------------------------------------------------------------ A9


class _Trained(NamedTuple):
    """A ring GAN that has settled, in double precision."""

    field: Field
    players: Players
    lengths: jax.Array  # of the field in training, [steps]
    coverage: dict


def trained_ring(
    *,
    width: int = 24,
    num_points: int = 64,
    num_steps: int = 5000,
    settling_steps: int = 5000,
    rate: float = 0.1,
    gamma: float = 0.1,
    decay: float = 1e-4,
    test_steps: int = 800,
    num_rates: int = 61,
    num_iterations: int = 60,
) -> Record:
    """A9: the spectrum of a trained ring GAN, the rate at which it should diverge, and the rate at which it does."""
    scale = np.linspace(0.7, 1.3, num_rates)
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 5)
        found = _settled_ring(keys, width, num_points, num_steps, settling_steps, rate, gamma, decay)
        ritz = spectrum.ritz_values(found.field, found.players, num_iterations=num_iterations, key=keys[4])
        sure, damped = _certain(ritz)
        predicted = {name: oracles.largest_stable_rate(damped, factor) for name, (_, factor) in PREDICTABLE.items()}
        predicted = {name: limit for name, limit in predicted.items() if 0 < limit < np.inf}
        growths = {
            name: _separations(PREDICTABLE[name][0], found, limit * scale, test_steps)
            for name, limit in predicted.items()
        }
        observed = {name: predicted[name] * _crossing(scale, apart, 10.0) for name, apart in growths.items()}
        later = {
            name: _later_limit(PREDICTABLE[name], found, 0.9 * limit, test_steps, num_iterations, keys[4])
            for name, limit in predicted.items()
        }
        clips = _clip_claims(found, predicted, num_iterations)
    mu, lengths = ritz.values, np.asarray(found.lengths)
    claims = [
        Claim(
            f"the trained GAN finds {int(found.coverage['modes'])} of 8 modes, "
            f"{float(found.coverage['high_quality_share']):.0%} of its points are of high quality; the length of the "
            f"field fell from {lengths[0]:.3g} to {lengths[-1]:.3g}"
        ),
        Claim(
            f"of {len(mu)} Ritz values {int(sure.sum())} are certain; {int(np.sum(mu[sure].real >= 0))} of these grow "
            f"in continuous time; the stiffest is {mu[0].real:.4g} {mu[0].imag:+.4g}i"
        ),
    ]
    off = {name: observed[name] / limit - 1 for name, limit in predicted.items()}
    claims += [
        Claim(
            f"{name}: predicted largest rate {limit:.4g}, observed {observed[name]:.4g}, {off[name]:+.1%}",
            bool(abs(off[name]) < 0.1),
        )
        for name, limit in predicted.items()
    ]
    claims += [
        Claim(
            "the network goes on learning, and its spectrum moves: at the end of a run at nine tenths of the predicted "
            "rate, the prediction itself has moved by "
            + ", ".join(f"{rate / predicted[name] - 1:+.1%} ({name})" for name, rate in later.items())
        )
    ]
    return Record(
        "A9",
        "The rate at which a trained GAN diverges",
        "What is the largest learning rate of this network, can its spectrum tell, and does a clip change it?",
        [
            f"A ring GAN with two layers of {width}, trained on one batch of {num_points} points with R1 = {gamma:g} "
            f"and weight decay {decay:g}, by {num_steps:,} steps of Adam and {settling_steps:,} simultaneous steps of "
            f"{rate:g}. Arnoldi's method then finds the outermost eigenvalues of its field; the table from eigenvalues "
            "to rates predicts when the damped ones begin to diverge. (Directions that grow in continuous time are the "
            "learning that is still going on.)",
            "Observed: two runs from the trained weights, the second displaced by 1e-5. Below the largest rate they "
            "stay together; the observed rate is the first at which they are ten times as far apart in the end. A cell "
            "is an update rule; it disagrees if both rates differ by more than 10 %. A prediction is of one point of "
            "the path: how far it moves along the path is how exact it can be.",
            "A clip at a norm c that the field does not reach changes nothing. Where it acts, the field is c v/|v|, "
            "with the Jacobian c/|v| (I - v v^T/|v|^2) J: rates may be |v|/c times as large, and more where the stiff "
            "direction is that of v.",
        ],
        claims + clips,
        cells=len(predicted),
        disagreeing=sum(not abs(value) < 0.1 for value in off.values()),
        numbers={
            "ritz": mu,
            "errors": ritz.errors,
            "predicted": predicted,
            "predicted_later": later,
            "observed": observed,
            "separation": growths,
        },
        figure=_trained_ring_figure(ritz, sure, predicted, lengths, scale, growths, test_steps),
    )


def _settled_ring(keys, width, num_points, num_steps, settling_steps, rate, gamma, decay) -> _Trained:
    generator = mlp.Generator(widths=(width, width), activation=nn.tanh)
    discriminator = mlp.Discriminator(widths=(width, width), activation=nn.tanh)
    real = jnp.asarray(toy.ring(keys[0], num_points, std=RING_STD), jnp.float64)
    z = jax.random.normal(keys[1], (num_points, LATENT_DIM), jnp.float64)
    settings = {"latent_dim": LATENT_DIM, "penalties": [penalties.r1(gamma)], "sample_latent": lambda key, shape: z}
    game = gan.Game(generator, discriminator, settings | spectrum.RECORDING)
    plain = spectrum.field_of_game(game, game.init(keys[2]), {"image": real}, keys[3])

    def field(players):  # a little weight decay, so that no direction is neutral
        return jax.tree.map(lambda v, w: v - decay * w, plain(players), players)

    start = Players(
        generator.init(keys[2], z, train=True)["params"], discriminator.init(keys[3], real, train=True)["params"]
    )
    start = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), start)
    adam = optax.adam(5e-3, b1=0.5, b2=0.99)

    def adam_step(carry, _):
        players, state = carry
        moves, state = adam.update(jax.tree.map(jnp.negative, field(players)), state, players)
        players = optax.apply_updates(players, moves)
        return (players, state), _norm(field(players))

    @jax.jit
    def train(players):
        (players, _), fast = jax.lax.scan(adam_step, (players, adam.init(players)), length=num_steps)
        players, settling = _steps(updates.simultaneous(rate), field, players, settling_steps)
        return players, jnp.concatenate([fast, settling])

    players, lengths = train(start)
    points: Any = generator.apply({"params": players.generator}, z, train=True)
    return _Trained(field, players, lengths, mode_coverage(points, toy.ring_modes(), RING_STD))


def _steps(rule, field, players, number):
    """(players after so many updates, the length of the field after each)."""

    def one(carry, _):
        carry = rule.update(field, *carry)
        return carry, _norm(field(carry[0]))

    (players, _), lengths = jax.lax.scan(one, (players, rule.init(field, players)), length=number)
    return players, lengths


def _certain(ritz):
    """(which Ritz values the Krylov space has found for certain, those of them that are damped)."""
    sure = ritz.errors < 1e-2 * np.abs(ritz.values).max()
    return sure, ritz.values[sure & (ritz.values.real < 0)]


def _later_limit(rule, found, rate, number, num_iterations, key):
    """The predicted largest rate after so many steps of a rate."""
    make, factor = rule
    players, _ = jax.jit(lambda players: _steps(make(rate), found.field, players, number))(found.players)
    ritz = spectrum.ritz_values(found.field, players, num_iterations=num_iterations, key=key)
    return oracles.largest_stable_rate(_certain(ritz)[1], factor)


def _separations(make, found, rates, number):
    """How far two runs of one rate are apart in the end, in units of the beginning: the path cancels. [rates]."""
    noise = jax.tree.map(lambda x: 1e-5 * jax.random.normal(jax.random.key(7), x.shape, x.dtype), found.players)
    moved = jax.tree.map(jnp.add, found.players, noise)

    def separation(rate):
        first, _ = _steps(make(rate), found.field, found.players, number)
        second, _ = _steps(make(rate), found.field, moved, number)
        return _norm(jax.tree.map(jnp.subtract, first, second)) / _norm(noise)

    return np.asarray(jax.jit(lambda rates: jax.lax.map(separation, rates))(jnp.asarray(rates)))


def _crossing(scale, values, level):
    """The first scale at which the values reach a level, between the points by their logarithms; infinity for none."""
    above = ~(values < level)
    if not above.any():
        return np.inf
    first = int(np.argmax(above))
    if first == 0 or not np.isfinite(values[first]):
        return float(scale[first])
    low, high = np.log(values[first - 1 : first + 1])
    return float(scale[first - 1] + (scale[first] - scale[first - 1]) * (np.log(level) - low) / (high - low))


def _norm(tree):
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def _clip_claims(found, predicted, num_iterations):
    """Does a clip change the largest rate? Where it does not act, and where it does."""
    before = predicted.get("simultaneous", 0.0)
    length = float(_norm(tuple(found.field(found.players))))

    def limit(norm):
        clipped = updates.clip_jointly(found.field, norm)
        ritz = spectrum.ritz_values(clipped, found.players, num_iterations=num_iterations, key=jax.random.key(5))
        return oracles.largest_stable_rate(_certain(ritz)[1], oracles.simultaneous_factor)

    idle, active = limit(10 * length), limit(length / 10)
    return [
        Claim(
            f"a joint clip at ten times the field's length here leaves the predicted rate as it is: {idle:.4g} with, "
            f"{before:.4g} without",
            bool(np.isclose(idle, before, rtol=1e-2)),
        ),
        Claim(
            f"a joint clip at a tenth of that length, which acts, multiplies it by {active / before:.4g}: a clip "
            "helps as long as the gradient is long, and not at the end"
            if before > 0
            else "no rate is predicted, so that a clip that acts has none to multiply"
        ),
    ]


def _trained_ring_figure(ritz, sure, predicted, lengths, scale, growths, test_steps):
    figure, axes = new_figure(15, 4.2, 1, 3)
    mu = ritz.values
    axes[0, 0].scatter(mu.real, mu.imag, s=14, c=[LINES[0] if good else SOFT for good in sure])
    limit = predicted.get("simultaneous")
    if limit:
        angle = np.linspace(0, 2 * np.pi, 300)
        axes[0, 0].plot((np.cos(angle) - 1) / limit, np.sin(angle) / limit, color=INK, linewidth=1)
    axes[0, 0].axvline(0, color=SOFT, linewidth=0.6)
    axes[0, 0].set(title="Ritz values, and the disc of the predicted rate", xlabel="real part", ylabel="imaginary part")
    axes[0, 0].set_aspect("equal", adjustable="datalim")
    axes[0, 1].semilogy(lengths, color=LINES[0], linewidth=0.8)
    axes[0, 1].set(title="length of the field in training", xlabel="step, of Adam and then of descent")
    for (name, apart), colour in zip(growths.items(), LINES, strict=False):
        shown = np.where(np.isfinite(apart), np.minimum(apart, 1e12), 1e12)
        axes[0, 2].semilogy(scale, shown, ".-", color=colour, label=name, linewidth=1, ms=4)
    axes[0, 2].axvline(1.0, color=INK, linewidth=1)
    axes[0, 2].axhline(10.0, color=SOFT, linewidth=0.8, linestyle=":")
    axes[0, 2].set(
        title=f"separation of two runs after {test_steps} steps", xlabel="rate / predicted rate", ylabel="growth"
    )
    if growths:
        axes[0, 2].legend(fontsize=7, frameon=False)
    return figure
