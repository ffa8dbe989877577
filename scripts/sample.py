#!/usr/bin/env python
"""Draw new images from a run: `sample.py RUN`. The run may still be training; its data need not be there."""

import io
from pathlib import Path

import tyro

from jaxgen import command_line


def sample(
    run: tyro.conf.Positional[Path],
    /,
    num: int = 64,
    seed: int = 0,
    step: int | None = None,
    output: Path | None = None,
    separate: bool = False,
) -> Path:
    """Draw new images with the moving average of a run's newest good checkpoint.

    Args:
      run: The run directory that train.py wrote.
      num: How many images.
      seed: Of the latents: the same seed draws the same images.
      step: Of the checkpoint; the newest by default.
      output: A .png (one picture of all), a .npz (array `image`, uint8 [N, H, W, C]), or with --separate a folder.
        By default RUN/generated/STEP_SEED.png, or the folder of that name.
      separate: One PNG for each image instead of one picture.

    Returns:
      The path of what was written.

    Raises:
      ValueError: for a run that draws nothing (a classifier), num below 1, or another ending of the output.
    """
    import jax
    import numpy as np

    from jaxgen import experiment, images, run_directory

    if output is not None and not separate and output.suffix not in (".png", ".npz"):
        raise ValueError(f"--output {output} should end in .png or .npz, or be a folder with --separate")
    trained = experiment.load(run, step=step)
    drawn = experiment.generate(trained, num, jax.random.key(seed))
    name = f"{int(trained.state.step):08d}_{seed}"
    path = output or run / "generated" / (name if separate else f"{name}.png")
    if separate:
        for i, image in enumerate(drawn):
            images.save_png(path / f"{i:06d}.png", image)
    elif path.suffix == ".npz":
        file = io.BytesIO()
        np.savez_compressed(file, image=images.to_uint8(drawn))
        path.parent.mkdir(parents=True, exist_ok=True)
        run_directory.write_atomically(path, file.getvalue())
    else:
        images.save_png(path, images.grid(drawn, upscale=None))
    return path


def main(arguments: list[str] | None = None) -> int:
    """Draws, and prints where."""
    command_line.use_compilation_cache()
    chosen = tyro.cli(sample, args=arguments, prog="sample.py", config=(tyro.conf.FlagCreatePairsOff,))
    print(chosen)
    return 0


if __name__ == "__main__":
    command_line.run(main)
