"""Plate A8: posterior collapse, where it can be computed: the linear VAE and probabilistic PCA."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen import vae
from jaxgen.losses import variational
from jaxgen.metrics import collapse as closed_form
from jaxgen.stability import games, members, sweep
from jaxgen.stability.atlas.record import INK, LINES, SOFT, Claim, Record, folder, new_figure


class LinearEncoder(nn.Module):
    """Images [B, 1, 1, D] -> mean, linear in the image, and logvar, the same for all images: each [B, latent_dim]."""

    latent_dim: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        x = x.reshape(len(x), -1)
        mean = nn.Dense(self.latent_dim, use_bias=False)(x)
        logvar = self.param("logvar", nn.initializers.zeros, (self.latent_dim,))
        return mean, jnp.broadcast_to(logvar, mean.shape)


class LinearDecoder(nn.Module):
    """[B, latent_dim] -> (mean, logvar) of images [B, 1, 1, D], the variance fixed."""

    dimension: int
    variance: float

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> Any:
        mean = nn.Dense(self.dimension, use_bias=False)(z).reshape(-1, 1, 1, self.dimension)
        return mean, jnp.full_like(mean, np.log(self.variance))


def rate_in_theory(eigenvalues: np.ndarray, variance: float, beta: np.ndarray) -> np.ndarray:
    """The rate of each unit at the optimum, 1/2 log(l_i / (beta s^2)) where that is positive, else 0: [..., k] nats.

    At weight beta the objective is, up to a factor, the ELBO of probabilistic PCA with noise beta s^2.

    Lucas, Tucker, Grosse, Norouzi 2019, "Don't blame the ELBO! A linear VAE perspective on posterior collapse".
    """
    return closed_form.rates(eigenvalues, variance, beta)


def collapse(
    *,
    eigenvalues: tuple = (8.0, 4.0, 2.0, 1.0, 0.5),
    dimension: int = 8,
    variance: float = 0.25,
    num_betas: int = 24,
    num_steps: int = 10_000,
    batch_size: int = 256,
    learning_rate: float = 1e-2,
    free_bits: float = 0.25,
    num_records: int = 10,
    progress: bool = False,
    run: Mapping | None = None,
) -> Record:
    """A8: the beta at which each unit of a linear VAE dies, and what free bits do about it."""
    betas = np.geomspace(0.5, 64.0, num_betas)
    latent_dim = len(eigenvalues)
    variances = np.concatenate([eigenvalues, np.full(dimension - latent_dim, variance / 4)])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(dimension, dimension)))[0]
    # Few points with exactly these moments, which are all that a linear VAE sees, each many times.
    points = games.sigma_points(rotation @ np.diag(variances) @ rotation.T)
    points = np.tile(points, (max(1, batch_size // len(points)), 1)).reshape(-1, 1, 1, dimension)

    def batch(arrays, step):
        return {"image": jnp.asarray(points, jnp.float32)}

    encoder, decoder = LinearEncoder(latent_dim), LinearDecoder(dimension, variance)
    eval_step = vae.make_eval_step(encoder, decoder, likelihood=variational.gaussian)

    def score(settings, state, key):
        found = eval_step(state.ema, batch((), 0), key)
        units = jnp.sort(jnp.mean(found["kl_per_unit"], axis=0))[::-1]
        return {"score": jnp.mean(found["elbo"])} | {f"unit_{i}": units[i] for i in range(latent_dim)}

    rates, elbos = {}, {}
    for name, floor in (("beta-VAE", 0.0), (f"free bits, {free_bits:g} nats", free_bits)):
        program = members.vae(
            encoder,
            decoder,
            image_shape=(1, 1, dimension),
            likelihood=variational.gaussian,
            free_bits=floor,
            score=score,
            name=f"linear vae, {floor:g}",
        )
        result = sweep.run(
            program,
            sweep.Data((), sweep.NO_DATA.inputs, batch),
            {"learning_rate": np.full(num_betas, learning_rate), "beta": betas},
            num_steps=num_steps,
            num_records=num_records,
            progress=progress,
            **folder(run, f"floor-{floor:g}"),
        )
        rates[name] = np.stack([result.table[f"final_unit_{i}"] for i in range(latent_dim)], axis=1)
        elbos[name] = result.table["final_score"]
    plain, floored = rates.values()
    theory = rate_in_theory(np.array(eigenvalues), variance, betas)
    alive, should_live = plain > 0.02, theory > 0.02
    # Next to its threshold a unit's rate is small for a long time: a tenth on either side is not judged.
    ratio = np.array(eigenvalues) / (betas[:, None] * variance)
    judged = np.abs(np.log(ratio)) > 0.1
    wrong = (alive != should_live) & judged
    error = np.abs(plain - theory)[judged & should_live]
    dies = []
    for i in range(latent_dim):
        dead = np.flatnonzero(~alive[:, i])
        dies.append(float(betas[dead[0]]) if len(dead) else np.inf)
    expected = np.array(eigenvalues) / variance
    spacing = betas[1] / betas[0]
    close = [
        bool(e / spacing**1.5 <= d <= e * spacing**1.5) if e < betas[-1] else None
        for d, e in zip(dies, expected, strict=True)
    ]
    claims = [
        Claim(
            f"a unit lives iff its eigenvalue is above beta s^2: {int(wrong.sum())} of {int(judged.sum())} judged "
            "pairs of unit and beta disagree",
            not wrong.any(),
        ),
        Claim(
            "beta at which each unit dies: "
            + ", ".join(f"{d:.3g} (theory {e:.3g})" for d, e in zip(dies, expected, strict=True))
            + f"; the betas are {spacing - 1:.0%} apart",
            all(value is not False for value in close),
        ),
        Claim(
            f"living units have the rate 1/2 log(l / (beta s^2)) within {np.median(error):.3f} nats in the median and "
            f"{error.max():.3f} at most",
            bool(np.median(error) < 0.05),
        ),
        Claim(
            f"with free bits of {free_bits:g} nats the weakest unit at beta = {betas[-1]:.3g} keeps "
            f"{floored[-1].min():.3f} nats, without it has {plain[-1].min():.4f}",
            bool(floored[-1].min() > 0.5 * free_bits > plain[-1].min()),
        ),
    ]
    figure, axes = new_figure(14, 4.2, 1, 3, sharex=True)
    for i, colour in zip(range(latent_dim), LINES, strict=False):
        axes[0, 0].plot(betas, theory[:, i], color=colour)
        axes[0, 0].plot(betas, plain[:, i], "o", ms=4, color=colour, label=f"eigenvalue {eigenvalues[i]:g}")
        axes[0, 1].plot(betas, floored[:, i], "o-", ms=3, color=colour, linewidth=0.8)
        axes[0, 0].axvline(expected[i], color=SOFT, linewidth=0.5, linestyle=":")
    axes[0, 1].axhline(free_bits, color=INK, linestyle="--", linewidth=1)
    axes[0, 0].set(xscale="log", title="rate of each unit; lines: theory", xlabel="beta", ylabel="nats")
    axes[0, 1].set(title=f"with free bits of {free_bits:g} nats", xlabel="beta", ylabel="nats")
    for (name, values), colour in zip(elbos.items(), LINES, strict=False):
        axes[0, 2].plot(betas, values, "o-", ms=3, color=colour, label=name)
    axes[0, 2].set(title="ELBO (at beta = 1)", xlabel="beta", ylabel="nats")
    axes[0, 0].legend(fontsize=7, frameon=False)
    axes[0, 2].legend(fontsize=7, frameon=False)
    return Record(
        "A8",
        "Posterior collapse of a linear VAE",
        "At which beta does each latent unit die?",
        [
            f"Data of {dimension} dimensions with {latent_dim} strong directions; linear encoder and decoder, noise "
            f"variance {variance:g}, Adam, {num_steps:,} steps, {num_betas} values of beta in one program. The "
            "optimum is probabilistic PCA with noise beta s^2: a unit dies at beta = l / s^2 (Lucas et al. 2019).",
            "Free bits take the pressure off a unit below the floor: the gradient of its rate there is exactly 0.",
        ],
        claims,
        cells=int(judged.sum()),
        disagreeing=int(wrong.sum()),
        numbers={"betas": betas, "rates": rates, "theory": theory, "elbo": elbos},
        figure=figure,
    )
