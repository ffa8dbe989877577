"""Draw new images from a run: `jaxgen sample RUN`, or films. The run may still be training; no data are needed.

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
from jaxgen.ranges import Count, CountOrZero, Positive, Seed

MANY_CLASSES = 32  # above which a picture does not show all of them


@ranges.checked
def sample(
    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    /,
    num_images: Annotated[Count | None, tyro.conf.arg(aliases=["--num", "-n"])] = None,
    label: tuple[str, ...] = (),
    truncation: float | None = None,
    temperature: float | None = None,
    standing_statistics: Count | None = None,
    mixing: CountOrZero | None = None,
    film: bool = False,
    over_training: bool = False,
    traversals: bool = False,
    image: tuple[CountOrZero, ...] = (),
    seconds: Positive | None = None,
    num_frames: Count | None = None,
    num_latents: Count | None = None,
    seed: Seed = 0,
    step: CountOrZero | None = None,
    output: Path | None = None,
    separate: bool = False,
    system: Path | None = None,
) -> Path:
    """Draw new images with the moving average of a run's newest good checkpoint, or films.

    Args:
      what: The run directory that train.py wrote; or a set of this package, such as mnist:test or emoji:train, whose
        first images are written.
      num_images: How many images; 64 by default, or 8 of each class that a class-conditional run is asked for. Of a
        film: how many beside each other; 16 by default, fewer of large images.
      label: Of a class-conditional run: classes to draw, each a name or a number, in turns; a row of the picture for
        each. By default all classes.
      truncation: Better and more similar images. Of a GAN with normal latents: every coordinate beyond this threshold
        is drawn again, up to 5; 0.5 is strong, none the default. Of a StyleGAN: how far styles may be from their mean;
        0.7 is usual, 0 draws the mean one, 1 (the default) all. `jaxgen describe` says which a system has.
      temperature: Of a VAE: the standard deviation of latents; of a hierarchical one, of every layer's noise. 1 by
        default; less draws better and more similar images.
      standing_statistics: Of a generator with batch normalisation: its means and variances are taken anew from so many
        batches of images, drawn with the same truncation, in place of the running averages of training. 16 is usual;
        with a strong truncation the running averages are wrong. The run is not changed.
      mixing: Of a StyleGAN: a table of six by six images (--num-images 8: eight by eight), each of which has the styles
        of the one at the left of its row up to this layer, and from there on those of the one above its column.
      film: A film of what lies between latents: a closed loop through --num-latents of them, several side by side, a
        class-conditional run's each of one class. An animated WebP, or a GIF where --output ends in .gif.
      over_training: A film of the pictures that the training kept in RUN/samples, always of the same latents, the last
        one held for two seconds. Nothing is drawn.
      traversals: Of a run that encodes images: a picture of what its latents mean. An image, what is decoded of its
        code, and below it a row for each latent, which goes from -3 to 3 while the others stay; ten of them, those
        first that vary most over the run's own test images, which must be there.
      image: Of --traversals: which of the test images, one picture below the other; 0 by default.
      seconds: Of a film: how long it takes; 8 by default, of few pictures over training half a second each.
      num_frames: Of --film: how many frames; 15 a second by default.
      num_latents: Of --film: how many latents the loop goes through; 4 by default.
      seed: Of the latents: the same seed draws the same images.
      step: Of the checkpoint; the newest by default.
      output: A .png (one picture of all), a .npz (array `image`, uint8 [N, H, W, C]), with --separate a folder, of a
        film a .webp or .gif. By default RUN/generated/STEP_SEED.png, or the folder or .webp of that name.
      separate: One PNG for each image instead of one picture. The folder must not hold other images.
      system: The file of a system of your own, for a run of it: nothing that a run names is imported.

    Returns:
      The path of what was written.

    Raises:
      ValueError: for a run that draws nothing, a number of images below 1, a label that there is not, what a run cannot
        be told or a number outside of its range, another ending of the output, a set without an output, a folder with
        other images, an option of something else than what is asked for, or a film of no or unlike pictures.
    """
    of_images: dict[str, Any] = {"--num-images": num_images, "--label": label or None, "--truncation": truncation}
    of_images |= {"--temperature": temperature, "--standing-statistics": standing_statistics, "--system": system}
    of_tables = {"--mixing": mixing, "--separate": separate or None}
    of_films = {"--num-frames": num_frames, "--num-latents": num_latents}
    if not traversals:
        refuse({"--image": image or None}, "it is of --traversals")
    else:
        ignored = {name: given for name, given in of_images.items() if name != "--system"}
        refuse({**ignored, **of_films, "--mixing": mixing, "--film": film or None}, "--traversals walks along latents")
        refuse({"--over-training": over_training or None, "--seconds": seconds}, "--traversals is one picture")
    if over_training:
        refuse({**of_images, **of_tables, **of_films, "--step": step}, "--over-training shows pictures that are there")
        return film_over_training(Path(what), output, seconds)
    import jax
    import numpy as np

    from jaxgen import data, drawing, images, loading, opening, systems

    if film:
        refuse(of_tables, "--film writes one film")
    else:
        refuse({**of_films, "--seconds": seconds}, "a picture has no frames; is --film missing?")
    check_output(output, film=film, separate=separate)
    if opening.is_built_in(what):
        if output is None:
            raise ValueError(f"{what} is a set and no run: say with --output where its images are to go")
        of_runs = {name: given for name, given in of_images.items() if name != "--num-images"}
        of_runs |= {"--mixing": mixing, "--film": film or None, "--step": step, "--traversals": traversals or None}
        for option, given in of_runs.items():
            if given is not None:
                raise ValueError(f"{option} is for runs, and {what} is a set of images")
        num = 64 if num_images is None else num_images
        dataset = opening.open_images(what, num=num).dataset
        drawn = np.asarray(data.prepare_default(dataset.fetch(np.arange(dataset.num_examples)))["image"])
        if len(drawn) < num:
            warnings.warn(f"{what} has {len(drawn):,} images, not {num:,}", stacklevel=2)
        return write(output, drawn, separate=separate)
    trained = loading.load(what, step=step, system=None if system is None else systems.from_file(system))
    if traversals:
        return write_traversals(trained, Path(what), image or (0,), output, seed=seed, separate=separate)
    choices = {"truncation": truncation, "temperature": temperature, "mixing": mixing}
    told: dict[str, Any] = {name: value for name, value in choices.items() if value is not None}
    loading.check_choices(trained.system, told)
    asked, key, columns = labels_of(trained, label), jax.random.key(seed), None
    if standing_statistics is not None:
        of_latents = {name: value for name, value in told.items() if name in trained.system.latent_choices}
        own = jax.random.fold_in(key, 2**32 - 1)  # of no batch
        trained = drawing.with_standing_statistics(trained, own, num_batches=standing_statistics, **of_latents)
    name = f"{trained.step:08d}_{seed}"
    name += "" if not label else "_" + "-".join(re.sub(r"[^\w]+", "", part) for part in label)[:60]
    name += "".join(f"_{option}-{value:g}" for option, value in told.items())
    name += "" if standing_statistics is None else f"_standing-statistics-{standing_statistics}"
    path = output or Path(what) / "generated" / (f"{name}.webp" if film else name if separate else f"{name}.png")
    if mixing is not None:
        side = num_images or 6
        drawn = mixing_table(trained, side, key, label=asked if label else [], **told)
        return write(path, drawn, separate=separate, columns=side + 1)
    shown = num_of_film(trained.image_shape, len(asked)) if film else 8 * len(asked) if asked else 64
    num = shown if num_images is None else num_images
    # A row for each class: image i is of class i mod C, and column i mod R of a row is its i // C-th.
    by_class = np.argsort(np.arange(num) % len(asked), kind="stable") if asked else np.arange(num)
    if asked and not (film and num <= len(asked)):
        columns = -(-num // len(asked))
        columns = 16 if columns % 16 == 0 else columns  # several rows for each class
    if film:
        seconds = 8.0 if seconds is None else seconds
        num_latents = num_latents or 4
        told |= {"num_latents": num_latents, "num_frames": num_frames or max(num_latents, round(15 * seconds))}
        drawn = drawing.interpolate(trained, key, num=num, label=asked or None, **told)
        return images.save_film(path, drawn[:, by_class], seconds=seconds, columns=columns)
    drawn = drawing.generate(trained, num, key, label=asked or None, **told)[by_class]
    return write(path, drawn, separate=separate, columns=columns)


def refuse(options: dict[str, Any], why: str) -> None:
    """Raises a ValueError for the first of some options that was given, and would be ignored."""
    for option, given in options.items():
        if given is not None:
            raise ValueError(f"{option} would be ignored: {why}")


def check_output(output: Path | None, *, film: bool, separate: bool) -> None:
    """Raises a ValueError for an ending that is none of what is written."""
    from jaxgen import images

    if output is not None and film:
        images.check_film(output)
    elif output is not None and not separate and output.suffix not in (".png", ".npz"):
        raise ValueError(f"--output {output} should end in .png or .npz, or be a folder with --separate")


def num_of_film(image_shape: tuple[int, int, int], num_classes: int) -> int:
    """How many films side by side make about a 512-pixel square, at most 16; of classes as many of each, at least one.

    Args:
      image_shape: (H, W, C) of a run.
      num_classes: that it is asked for; 0 of a run that knows none.
    """
    num = max(1, min(16, (512 // max(image_shape[:2])) ** 2))
    return num if not num_classes else num_classes * max(1, num // num_classes)


def film_over_training(run: Path, output: Path | None, seconds: float | None) -> Path:
    """A film of RUN/samples/STEP.png, in the order of their steps, the last one for two seconds more.

    Raises:
      ValueError: for a run without two pictures, or pictures of several sizes; for another ending of the output.
    """
    import numpy as np
    from PIL import Image

    from jaxgen import images, run_directory

    run_directory.load_config(run)
    path = output or run / "generated" / "over_training.webp"
    images.check_film(path)
    pictures = sorted((run / "samples").glob("*.png"), key=lambda file: (len(file.stem), file.stem))
    pictures = [file for file in pictures if file.stem.isdecimal()]  # others are of something else than samples
    if len(pictures) < 2:
        raise ValueError(
            f"{run}/samples holds {len(pictures)} pictures of samples, and a film is of two or more: training "
            "writes one every --sample-every steps"
        )
    frames = []
    for file in pictures:
        with Image.open(file) as picture:
            frames.append(np.asarray(picture.convert("RGB")))
        if frames[-1].shape != frames[0].shape:
            (first, other) = (f"{x.shape[1]}x{x.shape[0]}" for x in (frames[0], frames[-1]))
            raise ValueError(
                f"{pictures[0]} has {first} pixels and {file.name} {other}: a film is of pictures of one size"
            )
    seconds = min(8.0, len(frames) / 2) if seconds is None else seconds
    return images.save_film(path, np.stack(frames), seconds=seconds, hold=2.0)


def write(path: Path, drawn: Any, *, separate: bool, columns: int | None = None) -> Path:
    """Images [N, H, W, C] as one picture, an array, or a folder of pictures.

    Raises:
      ValueError: for a folder that holds other images.
    """
    import numpy as np

    from jaxgen import files, images
    from jaxgen.data import listing

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


def write_traversals(
    trained: Any, run: Path, rows: tuple[int, ...], output: Path | None, *, seed: int, separate: bool
) -> Path:
    """A picture of `traversal.table` for test images of a run; says which latents are its rows.

    Raises:
      ValueError: for codes that are no vectors, data that are not there, or an image that is not among them.
    """
    import jax
    import numpy as np

    from jaxgen import data, opening, traversal
    from jaxgen.evaluation import code_pictures, representation

    trained.system.need("decode", "--traversals")
    if len(representation.code_shape(trained, "--traversals")) != 1:
        raise ValueError(f"--traversals goes along numbers of vectors, and codes of {trained.system.name} are maps")
    test = opening.open_test_split(opening.data_of(trained, str(run)), str(run)).dataset
    if max(rows) >= test.num_examples:
        raise ValueError(f"--image {max(rows)}: {test.name} has the images 0 to {test.num_examples - 1}")
    key = jax.random.key(seed)
    few = data.subset(test, min(2000, test.num_examples))
    units = traversal.most_active(representation.rows_of(trained, few, key)["codes"])[: code_pictures.MOST_UNITS]
    drawn = traversal.table(trained, test.prepare(test.fetch(np.array(rows)), key), units)
    print(f"units of the rows: {', '.join(map(str, units))}", file=sys.stderr)
    name = f"{trained.step:08d}_traversals_{'-'.join(map(str, rows))}"
    path = output or run / "generated" / (name if separate else f"{name}.png")
    return write(path, drawn, separate=separate, columns=traversal.STEPS)


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
    command_line.meet_hosts(arguments)
    program = command_line.program("sample")
    chosen = tyro.cli(sample, args=arguments, prog=program, config=(tyro.conf.FlagCreatePairsOff,))
    print(chosen)
    return 0
