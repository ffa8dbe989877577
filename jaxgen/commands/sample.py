"""Draw new images from a run: `jaxgen sample RUN`. The run may still be training; its data need not be there.

`jaxgen sample mnist:test --separate --output FOLDER` writes images of a built-in set as files: something real to
compare with.
"""

import io
import re
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxgen import command_line, ranges
from jaxgen.commands import words
from jaxgen.ranges import Count, CountOrZero, Seed

MANY_CLASSES = 32  # above which a picture does not show all of them


@ranges.checked
def sample(
    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    /,
    num_images: Annotated[Count | None, tyro.conf.arg(aliases=["--num", "-n"])] = None,
    label: tuple[str, ...] = (),
    truncation: float | None = None,
    mixing: CountOrZero | None = None,
    temperature: float | None = None,
    seed: Seed = 0,
    step: CountOrZero | None = None,
    output: Path | None = None,
    separate: bool = False,
    system: Path | None = None,
) -> Path:
    """Draw new images with the moving average of a run's newest good checkpoint.

    Args:
      what: The run directory that train.py wrote; or a set of this package, such as mnist:test or emoji:train, whose
        first images are written.
      num_images: How many images; 64 by default, or 8 of each class that a class-conditional run is asked for.
      label: Of a class-conditional run: classes to draw, each a name or a number, in turns; a row of the picture for
        each. By default all classes.
      truncation: Of a StyleGAN: how far styles may be from their mean; 0.7 draws better and more similar images, 0 the
        mean one, 1 (the default) all.
      mixing: Of a StyleGAN: a table of six by six images (--num-images 8: eight by eight), each of which has the styles
        of the one at the left of its row up to this layer, and from there on those of the one above its column.
      temperature: Of a hierarchical VAE: what its priors' noise is multiplied by; 1 by default, less draws better and
        more similar images.
      seed: Of the latents: the same seed draws the same images.
      step: Of the checkpoint; the newest by default.
      output: A .png (one picture of all), a .npz (array `image`, uint8 [N, H, W, C]), or with --separate a folder.
        By default RUN/generated/STEP_SEED.png, or the folder of that name.
      separate: One PNG for each image instead of one picture. The folder must not hold other images.
      system: The file of a system of your own, for a run of it: nothing that a run names is imported.

    Returns:
      The path of what was written.

    Raises:
      ValueError: for a run that draws nothing, a number of images below 1, a label that there is not, what a run cannot
        be told or a number outside of its range, another ending of the output, a set without an output, or a folder
        with other images.
    """
    import jax
    import numpy as np

    from jaxgen import data, drawing, files, images, loading, opening, systems
    from jaxgen.data import listing

    if output is not None and not separate and output.suffix not in (".png", ".npz"):
        raise ValueError(f"--output {output} should end in .png or .npz, or be a folder with --separate")
    if opening.is_built_in(what):
        if output is None:
            raise ValueError(f"{what} is a set and no run: say with --output where its images are to go")
        of_runs: dict[str, Any] = {"--label": label or None, "--truncation": truncation, "--mixing": mixing}
        of_runs |= {"--temperature": temperature, "--system": system}
        for option, given in {**of_runs, "--step": step}.items():
            if given is not None:
                raise ValueError(f"{option} is for runs, and {what} is a set of images")
        num = 64 if num_images is None else num_images
        dataset = opening.open_images(what, num=num).dataset
        drawn = np.asarray(data.prepare_default(dataset.fetch(np.arange(dataset.num_examples)))["image"])
        if len(drawn) < num:
            warnings.warn(f"{what} has {len(drawn):,} images, not {num:,}", stacklevel=2)
        path, columns = output, None
    else:
        trained = loading.load(what, step=step, system=None if system is None else systems.from_file(system))
        choices = {"truncation": truncation, "mixing": mixing, "temperature": temperature}
        told: dict[str, Any] = {name: value for name, value in choices.items() if value is not None}
        loading.check_choices(trained.system, told)
        asked = labels_of(trained, label)
        num = num_images if num_images is not None else 8 * len(asked) if asked else 64
        # A row for each class: image i is of class i mod C, and column i mod R of a row is its i // C-th.
        order = np.arange(num)
        columns = -(-num // len(asked)) if asked else None
        if columns and columns % 16 == 0:
            columns = 16  # several rows for each class
        if mixing is not None:
            side = num_images or 6
            columns = side + 1
            drawn = mixing_table(trained, side, jax.random.key(seed), label=asked if label else [], **told)
        else:
            drawn = drawing.generate(trained, num, jax.random.key(seed), label=asked or None, **told)
            if asked:
                drawn = drawn[np.argsort(order % len(asked), kind="stable")]
        chosen = "" if not label else "_" + "-".join(re.sub(r"[^\w]+", "", name) for name in label)[:60]
        chosen += "".join(f"_{option}-{value:g}" for option, value in told.items())
        name = f"{trained.step:08d}_{seed}{chosen}"
        path = output or Path(what) / "generated" / (name if separate else f"{name}.png")
    if separate:
        names = [f"{i:06d}.png" for i in range(len(drawn))]
        there = [file.name for file in path.iterdir()] if path.is_dir() else []
        others = {name for name in there if listing.is_image_name(name)}.difference(names)
        if others:
            raise ValueError(f"{path} holds {len(others)} other images ({min(others)}, ...): choose another --output")
        for name, image in zip(names, drawn, strict=True):
            images.save_png(path / name, image)
    elif path.suffix == ".npz":
        file = io.BytesIO()
        np.savez_compressed(file, image=images.to_uint8(drawn))
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, file.getvalue())
    else:
        images.save_png(path, images.grid(drawn, columns=columns, upscale=None))
    return path


def mixing_table(trained: Any, side: int, key: Any, *, mixing: int, label: list[int], **told: Any) -> Any:
    """Images [(side + 1)^2, H, W, C]: a white one, those whose fine styles the columns have, then rows.

    A row is led by the image whose coarse styles it has: those of the layers up to `mixing`.

    Raises:
      ValueError: for labels of more than one class.
    """
    import numpy as np

    if len(label) > 1:
        raise ValueError(f"--mixing draws a table of one class: give one --label, not {len(label)}")
    if label:
        told["label"] = label[0]
    coarse, fine = np.split(np.asarray(trained.latents(key, 2 * side)), 2)
    led, heads = (np.asarray(trained.decode(z, **told)) for z in (coarse, fine))
    mixed = trained.decode(np.repeat(coarse, side, axis=0), mixing=mixing, fine=np.tile(fine, (side, 1)), **told)
    rows = np.asarray(mixed).reshape(side, side, *led.shape[1:])
    table = np.concatenate([led[:, None], rows], axis=1).reshape(-1, *led.shape[1:])
    return np.concatenate([np.ones_like(led[:1]), heads, table])


def labels_of(trained: Any, asked: tuple[str, ...]) -> list[int]:
    """The labels that are asked for by name or number; all of a class-conditional run where none is; else none.

    Raises:
      ValueError: for a class that there is not, naming those that are near; for a run that is told no label.
    """
    from jaxgen import loading, options

    num = trained.system.choices.get("label", 0)
    if not asked:
        return list(range(num)) if num <= MANY_CLASSES else []
    if not num:
        loading.check_label(trained.system, [0])
    names = {name.lower(): index for index, name in enumerate(trained.class_names)}
    each = [part for name in asked for part in ([name] if name.lower() in names else name.split(","))]  # --label 3,7
    found = [
        names[name.lower()]
        if name.lower() in names
        else int(name)
        if name.isdecimal()
        else options.lookup(names, name.lower(), "class")
        for name in each
    ]
    loading.check_label(trained.system, found)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Draws, and prints where."""
    command_line.use_compilation_cache()
    arguments = sys.argv[1:] if arguments is None else arguments
    words.check(arguments)
    words.suggest(arguments, words.options_of(sample))
    program = command_line.program("sample")
    chosen = tyro.cli(sample, args=arguments, prog=program, config=(tyro.conf.FlagCreatePairsOff,))
    print(chosen)
    return 0
