"""Bring images to files that training reads fast: `jaxgen convert SOURCE DESTINATION`. Run it again to go on."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxgen import command_line, ranges
from jaxgen.commands import words
from jaxgen.ranges import Count, Share, WholeShare

BUILT_IN = ("mnist", "stacked_mnist", "emoji", "factors")


@ranges.checked
def convert(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    destination: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DESTINATION")],
    /,
    image_size: Count | None = None,
    encoding: Literal["original", "png", "raw"] | None = None,
    num_shards: Count | None = None,
    channels: Literal[1, 3] | None = None,
    background: str | None = None,
    labelled: bool | None = None,
    test_path: str | None = None,
    validation_share: Share | None = None,
    max_broken_share: WholeShare | None = None,
) -> str:
    """Write images to files of records (ArrayRecord), for sets that are larger than memory or slow to decode.

    Train on them by `--data.name records --data.path DESTINATION`. Labels and class names come along; images are held
    out as training would hold them out, and are the test split. An interrupted conversion goes on with the same
    command, and nothing reads it before it is whole. Needs pip install "jaxgen[grain]".

    Args:
      source: A folder of images, a .npz or .npy file, a set of this package (mnist, emoji, ...), or hub:OWNER/NAME.
      destination: A folder, new or empty.
      image_size: Side in pixels to which images are brought now and not at every visit; by default files of a folder
        are kept as they are, and others have their own size.
      encoding: How images are stored: original (the bytes of the files of a folder), png (pixels, without loss), raw
        (pixels as they are: the fastest to read, and the largest). By default original for a folder without
        --image-size, else png.
      num_shards: Files of each split; by default of about 1 GiB each.
      channels: 1 for grey, 3 for colour, of folders and hub sets that are stored as pixels.
      background: What transparent images are composited on, where pixels are stored.
      labelled: Whether there are labels; by default where what is found can be labels.
      test_path: Held-out images of a folder or an array file; of a folder with train/ and test/ in it the latter.
      validation_share: Share of a folder that is held out where nothing else is; 0.05 by default.
      max_broken_share: Up to which broken images are told and left out; 0.01 by default.

    Returns:
      What is printed.

    Raises:
      ImportError: without Grain.
      ValueError, OSError: for images that cannot be opened or kept so, or a folder that holds other things.
    """
    from jaxgen import local_path, options
    from jaxgen.data import conversion, records

    root = local_path.local(destination, "the destination")
    config = data_of(
        source,
        image_size=image_size,
        channels=channels,
        background=background,
        labelled=labelled,
        test_path=test_path,
        validation_share=validation_share,
        max_broken_share=max_broken_share,
    )
    options.check(config)
    records.import_grain()  # before images are looked at, which may take minutes
    if encoding == "original" and image_size is not None:
        raise ValueError("--encoding original keeps files as they are, and --image-size changes them: leave one out")
    sources = sources_of(config, encoding)
    conversion.convert(
        sources,
        root,
        num_shards=num_shards,
        max_broken_share=config.max_broken_share,
        made={"source": source, "data": dataclasses.asdict(config), "encoding": encoding},
        progress=command_line.progress,
    )
    _, index = records.read_index(root)
    sizes = [file["bytes"] for split in index["splits"].values() for file in split["files"]]
    counts = " and ".join(f"{part['num_examples']:,} {split}" for split, part in index["splits"].items())
    held = len(sizes), sum(sizes) / 1e6
    return (
        f"{root}: {counts} images in {held[0]} files, {held[1]:,.0f} MB\n"
        f"train on them with --data.name records --data.path {destination}"
    )


def data_of(source: str, *, image_size: int | None, **settings: Any) -> Any:
    """The settings of data that a SOURCE means.

    Raises:
      ValueError, FileNotFoundError: for what is none, or settings that mean nothing for it.
    """
    from jaxgen import local_path, options
    from jaxgen.data import records

    kind, colon, rest = source.partition(":")
    path: str | None = source
    if colon and kind in ("hub", "folder", "arrays") and rest:
        path = rest
    elif source in BUILT_IN and not os.path.exists(source):
        kind, path = source, None
    else:
        found = local_path.local(source, "the source")
        if not found.exists():
            raise FileNotFoundError(
                f"{source} does not exist: give a folder of images, a .npz or .npy file, one of {', '.join(BUILT_IN)}, "
                "or hub:OWNER/NAME"
            )
        if records.is_records(found):
            raise ValueError(f"{source} holds records already")
        kind = "folder" if found.is_dir() else "arrays"
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given:
        if kind not in options.OF_DATA[name]:
            kinds = [one for one in options.OF_DATA[name] if one in ("folder", "arrays", "hub")]
            raise ValueError(f"--{name.replace('_', '-')} would be ignored for {source}: it is for {', '.join(kinds)}")
    return options.Data(kind, path=path, image_size=image_size, **given)


def sources_of(config: Any, encoding: str | None) -> dict[str, Any]:
    """The splits of some data, as `data.conversion.convert` takes them."""
    from jaxgen import options
    from jaxgen.data import convertible, folder

    splits: tuple[Literal["train", "test"], ...] = ("train", "test") if config.has_test_split else ("train",)
    if config.name != "folder":
        chosen: Any = encoding or "png"
        return {split: convertible.of_dataset(config.open(split), encoding=chosen) for split in splits}
    chosen = encoding or ("original" if config.image_size is None else "png")
    if chosen != "original" and config.image_size is None:
        raise ValueError(f"--encoding {chosen} of a folder needs --image-size: its images may have any sizes")
    threads = os.cpu_count() or 1
    sources: dict[str, Any] = {}
    for split in splits:
        path, settings = options.folder_of(config, split)
        sources[split] = convertible.of_folder(
            folder.find_images(path, num_threads=threads, **settings),
            encoding=chosen,
            image_size=config.image_size,
            channels=config.channels,
            background=config.background,
        )
    return sources


def main(arguments: list[str] | None = None) -> int:
    """Converts, and prints where."""
    arguments = sys.argv[1:] if arguments is None else arguments
    words.check(arguments)
    words.suggest(arguments, words.options_of(convert))
    program = command_line.program("convert")
    print(tyro.cli(convert, args=arguments, prog=program, config=(tyro.conf.FlagCreatePairsOff,)))
    return 0
