"""Three residual GANs under rates, clips and penalties: what each of them bears.

    python scripts/stability_bench.py bench              # 324 networks; give it again to go on
    python scripts/stability_bench.py bench --only R3GAN --penalties R1      # a part of them
    JAX_NUM_CPU_DEVICES=2 python scripts/stability_bench.py bench     # two cores, a network on each

SNGAN, the same networks without spectral normalisation, and R3GAN, narrow ones for digits of 32x32 pixels, with their
own losses (hinge, hinge, relativistic) and without penalties of their own. Each is trained at all combinations of the
discriminator's rate (1, 8 and 64 times the generator's), the norm at which both players' gradients are clipped (0.1,
1, 10, none), the penalty (none, R1, the gradient penalty) and the seed. Quality is minus the sliced Wasserstein
distance of 256 drawn digits from real ones: 0 % is the untrained network, 100 % are other real digits.

Writes a folder for each GAN and penalty, with checkpoints, rows.json (a row a setting: median, range and failures over
seeds) and samples.png, and results.png of all that is there. What is done is not done again.
"""

import argparse
import itertools
import json
import math
import sys
from pathlib import Path

import jax
import numpy as np
import optax
from flax import linen as nn
from matplotlib import colormaps
from matplotlib.patches import Rectangle

from jaxgen import data, files, gan, images
from jaxgen.losses import adversarial
from jaxgen.models import r3gan, sngan, wgan_gp
from jaxgen.models.residual import summed
from jaxgen.stability import members, sweep, sweep_presets

RATE = 5e-4  # of all generators
RATIOS = (1, 8, 64)
CLIPS = (0.1, 1.0, 10.0, math.inf)
PENALTIES = {"no penalty": {}, "R1": {"r1": [1.0]}, "gradient penalty": {"gradient_penalty": [10.0]}}
LATENTS = 64
RECORDS = 4  # of each network
ROWS, PICTURE = "rows.json", "results.png"


class PlainDiscriminator(nn.Module):
    """`sngan.Discriminator` for 32x32 images without spectral normalisation; the same parameters."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(4):
            x = wgan_gp.DiscriminatorBlock(self.features, self.features, halve=i < 2, first=i == 0)(x, train=train)
        return nn.Dense(1, kernel_init=sngan.xavier_init)(summed(x))[:, 0]


def games() -> dict[str, gan.Game]:
    """The three, without optimisers."""
    generator = sngan.Generator(32, 1, 16)
    hinge = {"latent_dim": LATENTS, "loss": adversarial.hinge}
    relativistic = {"latent_dim": LATENTS, "loss": adversarial.relativistic}
    blocks = {"blocks": 1, "group_width": 8}
    widths = (16, 16, 8, 8)
    return {
        "SNGAN": gan.Game(generator, sngan.Discriminator(8), hinge),
        "SNGAN without spectral norm": gan.Game(generator, PlainDiscriminator(8), hinge),
        "R3GAN": gan.Game(r3gan.Generator(widths, 1, **blocks), r3gan.Discriminator(widths, **blocks), relativistic),
    }


def adam(rate, momentum):
    """With the decays that SNGAN was published with; R3GAN begins with them, too."""
    return optax.adam(rate, b1=0.0 if momentum is None else momentum, b2=0.9)


def bench(name: str, penalty: str, directory: Path, arguments: argparse.Namespace) -> list[dict]:
    """A row for each rate and clip of one GAN under one penalty; qualities in percent."""
    game, digits = games()[name], data.mnist(image_size=32)
    rule, real = adam(RATE, None), members.images_of(digits, 512)
    score = members.sliced_wasserstein_score(game.generator, LATENTS, real[:256])
    untrained = game.init(jax.random.key(0), generator_optimizer=rule, discriminator_optimizer=rule)
    scale = sweep_presets.quality_scale(score, untrained, real)
    program = members.of_game(game, optimizer=adam, score=score, name=name)
    axes = [{"generator_rate": [RATE]}, {"discriminator_rate": [RATE * ratio for ratio in RATIOS]}, {"clip": CLIPS}]
    axes += [{weight: values} for weight, values in PENALTIES[penalty].items()] + [{"seed": range(arguments.seeds)}]
    result = sweep.run(
        program,
        sweep.of_dataset(digits, arguments.batch_size),
        sweep.product(*axes),
        num_steps=arguments.steps,
        num_records=RECORDS,
        block_size=1 if jax.default_backend() == "cpu" else None,
        directory=directory,
        progress=True,
    )
    images.save_png(directory / "samples.png", samples(game, result))
    rows = sweep.over_seeds(result.table, ["discriminator_rate", "clip"], failed_below=scale.failed_below)
    told = ("median", "quantile_10", "quantile_90", "lowest", "highest")
    own = {"gan": name, "penalty": penalty, "steps": arguments.steps, "seconds": result.seconds}
    return [own | row | {key: scale.of(row[key]) for key in told} for row in rows]


def samples(game: gan.Game, result: sweep.Result) -> np.ndarray:
    """16 digits of each setting's first seed, a row each: by rate, and within it by clip."""
    latents = jax.random.normal(jax.random.key(1), (16, LATENTS))
    rows = [
        gan.sample(game.generator, jax.tree.map(lambda x, i=i: x[i], result.states).generator.variables, latents)
        for i in np.flatnonzero(result.settings["seed"] == 0)
    ]
    return images.grid(np.concatenate(rows), columns=16)


def drawn(rows: list[dict], path: Path) -> None:
    """The median quality of each setting, a plate for each GAN and penalty; x where a seed failed."""
    from matplotlib.figure import Figure

    names, kinds = [name for name in games() if any(row["gan"] == name for row in rows)], list(PENALTIES)
    figure = Figure(figsize=(3.2 * len(kinds), 2.6 * len(names)), layout="constrained")
    for i, name in enumerate(names):
        for j, penalty in enumerate(kinds):
            axes = figure.add_subplot(len(names), len(kinds), i * len(kinds) + j + 1)
            of = {(r["discriminator_rate"], r["clip"]): r for r in rows if (r["gan"], r["penalty"]) == (name, penalty)}
            for (y, ratio), (x, clip) in itertools.product(enumerate(RATIOS), enumerate(CLIPS)):
                row = of.get((RATE * ratio, clip))
                if row is None:
                    continue
                median = row["median"]
                failed = f"\nx {row['failures']}/{row['seeds']}" if row["failures"] else ""
                axes.text(x, y, f"{median:.0f} %{failed}", ha="center", va="center", fontsize=8)
                colour = np.clip(np.nan_to_num(median) / 100, 0, 1)
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=colormaps["RdYlGn"](colour), alpha=0.6))
            axes.set(xlim=(-0.5, len(CLIPS) - 0.5), ylim=(-0.5, len(RATIOS) - 0.5), title=f"{name}\n{penalty}")
            axes.set_xticks(range(len(CLIPS)), [f"{clip:g}" for clip in CLIPS])
            axes.set_yticks(range(len(RATIOS)), [f"{ratio} x" for ratio in RATIOS])
            axes.title.set_fontsize(9)
            if j == 0:
                axes.set_ylabel("discriminator's rate")
            if i == len(names) - 1:
                axes.set_xlabel("clip")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Trains what is missing, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", nargs="+", help="GANs of these names", choices=list(games()), default=list(games()))
    parser.add_argument("--penalties", nargs="+", choices=list(PENALTIES), default=list(PENALTIES))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.steps < 1 or arguments.steps % RECORDS:
        parser.error(f"--steps {arguments.steps} must be a multiple of {RECORDS}, in which each network is scored")
    for name, penalty in itertools.product(arguments.only, arguments.penalties):
        directory = arguments.directory / f"{name} {penalty}".replace(" ", "-").lower()
        if not (directory / ROWS).exists():
            print(f"{name}, {penalty}", file=sys.stderr, flush=True)
            rows = bench(name, penalty, directory, arguments)
            files.write_atomically(directory / ROWS, files.json_bytes(rows))
    found = sorted(arguments.directory.glob(f"*/{ROWS}"))
    drawn([row for path in found for row in files.decoded(json.loads(path.read_text()))], arguments.directory / PICTURE)
    print(arguments.directory / PICTURE)


if __name__ == "__main__":
    main()
