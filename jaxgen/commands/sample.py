"""Draw new images from a run: `sample.py RUN`. The run may still be training; its data need not be there.

`sample.py mnist:test --separate --output FOLDER` writes images of a built-in set as files: something real to compare
with.
"""

import io
import warnings
from pathlib import Path
from typing import Annotated

import tyro

from jaxgen import command_line


def sample(
    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    /,
    num: int = 64,
    seed: int = 0,
    step: int | None = None,
    output: Path | None = None,
    separate: bool = False,
) -> Path:
    """Draw new images with the moving average of a run's newest good checkpoint.

    Args:
      what: The run directory that train.py wrote; or a set of this package, such as mnist:test or emoji:train, whose
        first images are written.
      num: How many images.
      seed: Of the latents: the same seed draws the same images.
      step: Of the checkpoint; the newest by default.
      output: A .png (one picture of all), a .npz (array `image`, uint8 [N, H, W, C]), or with --separate a folder.
        By default RUN/generated/STEP_SEED.png, or the folder of that name.
      separate: One PNG for each image instead of one picture. The folder must not hold other images.

    Returns:
      The path of what was written.

    Raises:
      ValueError: for a run that draws nothing (a classifier), num below 1, another ending of the output, a set without
        an output, or a folder with other images.
    """
    import jax
    import numpy as np

    from jaxgen import data, evaluation, experiment, images, run_directory
    from jaxgen.data import folder

    if output is not None and not separate and output.suffix not in (".png", ".npz"):
        raise ValueError(f"--output {output} should end in .png or .npz, or be a folder with --separate")
    if what.partition(":")[0] in evaluation.BUILT_IN and not Path(what).exists():
        if output is None:
            raise ValueError(f"{what} is a set and no run: say with --output where its images are to go")
        dataset = evaluation.open_images(what, num=num).dataset
        drawn = data.prepare_default(dataset.fetch(np.arange(dataset.num_examples)))["image"]
        if len(drawn) < num:
            warnings.warn(f"{what} has {len(drawn):,} images, not {num:,}", stacklevel=2)
        path = output
    else:
        trained = experiment.load(what, step=step)
        drawn = experiment.generate(trained, num, jax.random.key(seed))
        name = f"{int(trained.state.step):08d}_{seed}"
        path = output or Path(what) / "generated" / (name if separate else f"{name}.png")
    if separate:
        names = [f"{i:06d}.png" for i in range(len(drawn))]
        there = [file.name for file in path.iterdir()] if path.is_dir() else []
        others = {name for name in there if Path(name).suffix.lower() in folder.EXTENSIONS}.difference(names)
        if others:
            raise ValueError(f"{path} holds {len(others)} other images ({min(others)}, ...): choose another --output")
        for name, image in zip(names, drawn, strict=True):
            images.save_png(path / name, image)
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
