"""`jaxgen stability collapse`: active units of a VAE at each beta, beside the linear theory."""

import sys
from pathlib import Path
from typing import Literal

from jaxgen import ranges
from jaxgen.ranges import Count, Positive


@ranges.checked
def collapse(
    model: Literal["linear", "mlp"] = "mlp",
    data: Literal["mnist", "factors"] = "mnist",
    beta: tuple[Positive, ...] | None = None,
    seeds: Count = 8,
    latent_dim: Count = 24,
    variance: Positive = 0.25,
    learning_rate: Positive = 3e-3,
    num_steps: Count = 6000,
    records: Count | None = None,
    batch_size: Count = 100,
    block_size: Count | None = None,
    num_devices: Count | None = None,
    directory: Path | None = None,
) -> None:
    """Train a small VAE at each beta with several seeds, all in one program, and count its active units.

    Beside them stands what the linear theory predicts of the data's covariance: a unit for each eigenvalue above beta
    times the decoder's variance, which is fixed. Writes collapse.txt (the table), collapse.png (active units and rates
    against beta), collapse.json (all numbers), and checkpoints: run the same line again to resume.

    Args:
      model: linear, of which the theory is exact, or mlp with a hidden layer of 200 units on either side.
      data: Grey digits, or shapes of known factors.
      beta: Weights of the rate; eight from 4 to 128 by default.
      seeds: How many autoencoders for each.
      latent_dim: Units.
      variance: Of a pixel given the latents, in units of images in [-1, 1].
      learning_rate: Of Adam at the start; it falls to 0 by a cosine.
      num_steps: Of training.
      records: How often all are scored; up to 10 by default.
      batch_size: Images in a step.
      block_size: Networks that a device trains at once; chosen by default.
      num_devices: To divide the networks over; all by default.
      directory: For results; sweeps/collapse-MODEL-DATA if none is given.
    """
    from jaxgen.commands.stability import one_device_for_each_core

    one_device_for_each_core()
    import jax

    from jaxgen import data as sets
    from jaxgen.stability import collapse_map

    if num_devices is not None and num_devices > len(jax.devices()):
        raise ValueError(f"{num_devices} devices asked for, but this program sees {len(jax.devices())}")
    opened = {"mnist": sets.mnist, "factors": sets.factors}[data]
    directory = Path("sweeps") / f"collapse-{model}-{data}" if directory is None else directory
    betas = collapse_map.BETAS if beta is None else beta
    print(f"{len(betas) * seeds} autoencoders, {num_steps} steps each", file=sys.stderr)
    found = collapse_map.collapse_map(
        opened("train"),
        opened("test"),
        kind=model,
        betas=betas,
        num_seeds=seeds,
        latent_dim=latent_dim,
        variance=variance,
        learning_rate=learning_rate,
        num_steps=num_steps,
        num_records=max(k for k in range(1, 11) if num_steps % k == 0) if records is None else records,
        batch_size=batch_size,
        block_size=block_size,
        devices=None if num_devices is None else jax.devices()[:num_devices],
        directory=directory,
        progress=True,
    )
    print("\n".join(collapse_map.in_words(found)))
    print("wrote " + ", ".join(map(str, collapse_map.write(directory, found))))
