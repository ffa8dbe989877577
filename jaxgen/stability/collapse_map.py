"""The collapse map: how many units of a VAE are active at each beta, beside what the linear theory predicts.

Seeds times betas of one small autoencoder are members of one program (`sweep`). Its decoder is Gaussian with a fixed
variance s^2, so that the theory (`metrics.collapse`) has a number for it: an eigenvalue of the data's covariance is
worth a unit where it is above beta s^2. A deeper autoencoder may find more than axes, or less, and the map shows by how
much; of the linear one the theory is exact, but for what training has not finished. What is finished last is which unit
has which axis (Bao, Lucas, Sachdeva, Grosse 2020, "Regularized linear autoencoders recover the principal components,
eventually"): until then two units share one and both count. So directions are counted beside units: those of the
posterior means that vary, however units lie to them.
"""

import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxgen import data, files, vae
from jaxgen.data.dataset import Dataset
from jaxgen.losses import variational
from jaxgen.metrics import collapse
from jaxgen.models import linear, mlp
from jaxgen.stability import members, sweep
from jaxgen.stability.atlas.record import INK, LINES, SOFT, finish, new_figure

BETAS = tuple(float(f"{beta:.3g}") for beta in np.geomspace(4.0, 128.0, 8))
NUM_EIGENVALUES_OF = 10_000  # images, whose covariance is taken


class Map(NamedTuple):
    """What was found, of B betas and S seeds.

    betas: [B].
    observed: [B, S] active units on held-out images, NaN of a member that did not stay finite.
    directions: [B, S] eigenvalues of the covariance of posterior means above what makes a unit active, on the same.
    rate: [B, S] nats an image on the same.
    predicted: [B] active units in the linear theory, counted by the same rule.
    predicted_rate: [B] nats in the linear theory.
    eigenvalues: [latent_dim], the largest of the data's covariance.
    settings: numbers that it was made with.
    result: of the sweep.
    """

    betas: np.ndarray
    observed: np.ndarray
    directions: np.ndarray
    rate: np.ndarray
    predicted: np.ndarray
    predicted_rate: np.ndarray
    eigenvalues: np.ndarray
    settings: dict[str, Any]
    result: sweep.Result


def eigenvalues_of(dataset: Dataset, number: int) -> np.ndarray:
    """The largest eigenvalues of the covariance of a data set's images, in falling order: [number], in [-1, 1] units.

    Args:
      dataset: of which 10,000 images are taken, evenly spaced.
      number: how many.
    """
    few = data.subset(dataset, min(NUM_EIGENVALUES_OF, dataset.num_examples))
    x = np.asarray(members.images_of(few, few.num_examples), np.float64).reshape(few.num_examples, -1)
    x -= x.mean(axis=0)
    return np.linalg.eigvalsh(x.T @ x / len(x))[::-1][:number]


def modules(
    kind: str, image_shape: tuple[int, int, int], latent_dim: int, variance: float
) -> tuple[nn.Module, nn.Module]:
    """(encoder, decoder), "linear" or "mlp" with a hidden layer of 200 on either side.

    Raises:
      ValueError: for another kind.
    """
    if kind == "linear":
        return linear.Encoder(latent_dim), linear.Decoder(image_shape, variance)
    if kind == "mlp":
        return mlp.Encoder(latent_dim, (200,)), linear.Decoder(image_shape, variance, (200,))
    raise ValueError(f"the autoencoder is linear or mlp, not {kind!r}")


def _score(encoder, decoder, batch):
    """`members.elbo_score` with the count of directions."""
    plain = members.elbo_score(encoder, decoder, batch, variational.gaussian)

    def score(settings, state, key):
        mean = vae.posterior_mean(encoder, state.ema, batch["image"])
        spread = jnp.linalg.eigvalsh(jnp.cov(mean, rowvar=False, bias=True).reshape(mean.shape[1], mean.shape[1]))
        return plain(settings, state, key) | {"directions": jnp.sum(spread > vae.ACTIVE_UNIT_VARIANCE)}

    return score


def _adam_to_zero(num_steps, rate, momentum):
    """At a constant rate units would not settle: those that are hardly worth their rate die, and turn, slowly."""
    return optax.adam(optax.cosine_decay_schedule(rate, num_steps), b1=momentum)


def collapse_map(
    dataset: Dataset,
    held_out: Dataset,
    *,
    kind: str = "mlp",
    betas: Sequence[float] = BETAS,
    num_seeds: int = 8,
    latent_dim: int = 24,
    variance: float = 0.25,
    learning_rate: float = 3e-3,
    num_steps: int = 6000,
    num_records: int = 10,
    batch_size: int = 100,
    **run: Any,
) -> Map:
    """Trains an autoencoder for each beta and seed, all in one program, and counts active units.

    Args:
      dataset: grey or colour images, small enough for the device.
      held_out: on 1,000 of which units are counted.
      kind: "linear" or "mlp".
      betas: weights of the rate.
      num_seeds: for each.
      latent_dim: units.
      variance: s^2 of a pixel, in units of images in [-1, 1].
      learning_rate: of Adam (b1 = 0.9), from which it falls to 0 by a cosine.
      num_steps: of training, a multiple of num_records.
      num_records: how often members are scored.
      batch_size: images in a step.
      run: what `sweep.run` takes besides: `directory`, `progress`, `block_size`, `devices`.

    Raises:
      ValueError: for numbers that mean nothing.
    """
    shape = dataset.image_shape
    if latent_dim > np.prod(shape):
        raise ValueError(f"there are {np.prod(shape)} pixels, fewer than latent_dim {latent_dim}")
    encoder, decoder = modules(kind, shape, latent_dim, variance)
    eigenvalues = eigenvalues_of(dataset, latent_dim)
    score = _score(encoder, decoder, {"image": members.images_of(held_out, 1000)})
    program = members.vae(
        encoder,
        decoder,
        image_shape=shape,
        optimizer=functools.partial(_adam_to_zero, num_steps),
        likelihood=variational.gaussian,
        score=score,
        name=f"collapse of {kind}, cosine, {latent_dim} units, variance {variance:g}, {dataset.fingerprint}",
    )
    fixed = {"learning_rate": [learning_rate], "momentum": [0.9]}
    settings = sweep.product({"beta": list(betas)}, {"seed": range(num_seeds)}, fixed)
    result = sweep.run(
        program,
        sweep.of_dataset(dataset, batch_size),
        settings,
        num_steps=num_steps,
        num_records=num_records,
        **run,
    )
    found = {
        name: np.asarray(result.table[f"final_{name}"], np.float64).reshape(len(betas), num_seeds)
        for name in ("active_units", "directions", "rate")
    }
    return Map(
        np.array(betas, np.float64),
        found["active_units"],
        found["directions"],
        found["rate"],
        collapse.active_units(eigenvalues, variance, np.array(betas)),
        collapse.rates(eigenvalues, variance, np.array(betas)).sum(axis=1),
        eigenvalues,
        {
            "data": dataset.name,
            "kind": kind,
            "latent_dim": latent_dim,
            "variance": variance,
            "learning_rate": learning_rate,
            "num_steps": num_steps,
            "batch_size": batch_size,
            "num_seeds": num_seeds,
        },
        result,
    )


def in_words(found: Map) -> list[str]:
    """A table of active units, directions and rates, medians over seeds with the least and the most, as lines."""
    told = found.settings
    lines = [
        f"{found.observed.size} autoencoders ({told['kind']}, {told['latent_dim']} units, s^2 = {told['variance']:g}), "
        f"{told['data']}, {told['num_steps']:,} steps, in {found.result.seconds:.0f} s; "
        f"medians of {told['num_seeds']} (least, most)",
        f"{'beta':>8}{'beta s^2':>10}{'theory':>8}{'directions':>16}{'active units':>16}"
        f"{'rate: theory':>14}{'found':>8}",
    ]
    for i, beta in enumerate(found.betas):
        line = f"{beta:>8.4g}{beta * told['variance']:>10.3g}{found.predicted[i]:>8}"
        for counts in (found.directions[i], found.observed[i]):
            kept = counts[np.isfinite(counts)]
            text = f"{np.median(kept):g} ({kept.min():g}, {kept.max():g})" if len(kept) else "none finite"
            line += f"{text:>16}"
        rate = found.rate[i][np.isfinite(found.rate[i])]
        line += f"{found.predicted_rate[i]:>14.1f}" + (f"{np.median(rate):>8.1f}" if len(rate) else "")
        lines.append(line)
    return lines


def figure_of(found: Map) -> Any:
    """Directions, active units and rates against beta: dots are members, lines the linear theory; of Matplotlib."""
    figure, axes = new_figure(13, 3.8, 1, 3)
    fine = np.geomspace(found.betas.min() / 1.2, found.betas.max() * 1.2, 400)
    variance, seeds = found.settings["variance"], found.observed.shape[1]
    spread = 1 + 0.04 * (np.arange(seeds) / max(seeds - 1, 1) - 0.5)  # that dots do not hide each other
    units = collapse.active_units(found.eigenvalues, variance, fine)
    shown = (
        (units, found.directions, "directions that vary"),
        (units, found.observed, "active units"),
        (collapse.rates(found.eigenvalues, variance, fine).sum(axis=1), found.rate, "rate, nats an image"),
    )
    for one, (line, values, name) in zip(axes[0], shown, strict=True):
        one.plot(fine, line, color=INK, linewidth=1.2, label="linear theory")
        one.plot(found.betas[:, None] * spread, values, "o", ms=3, color=LINES[0], alpha=0.6)
        one.plot(found.betas, np.nanmedian(values, axis=1), color=LINES[0], linewidth=0.8, label="found, median")
        one.set(xscale="log", xlabel="beta", ylabel=name)
        one.axhline(0, color=SOFT, linewidth=0.5)
        one.legend(fontsize=7, frameon=False)
    told = found.settings
    axes[0, 0].set_title(f"{told['kind']}, {told['latent_dim']} units, s^2 = {variance:g}, {seeds} seeds", color=INK)
    finish(figure)
    return figure


def write(directory: Path, found: Map) -> list[Path]:
    """collapse.json with all numbers, collapse.txt with the table, collapse.png with the picture; their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    names = ("betas", "predicted", "predicted_rate", "eigenvalues")
    numbers = {name: np.asarray(getattr(found, name)).tolist() for name in names}
    for name in ("observed", "directions", "rate"):
        numbers[name] = [[None if np.isnan(value) else value for value in row] for row in getattr(found, name).tolist()]
    picture = io.BytesIO()
    figure_of(found).savefig(picture, format="png", dpi=130)
    contents = {
        "collapse.json": json.dumps({"settings": found.settings, **numbers}, indent=2).encode() + b"\n",
        "collapse.txt": "\n".join(in_words(found)).encode() + b"\n",
        "collapse.png": picture.getvalue(),
    }
    for name, content in contents.items():
        files.write_atomically(directory / name, content)
    return [directory / name for name in contents]
