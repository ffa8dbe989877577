"""Images with their sources: two folders whose files have the same names, and pictures of two halves."""

import dataclasses
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from jaxgen.data import decode, folder, listing, reading
from jaxgen.data.dataset import Dataset, fingerprint_of, function_name
from jaxgen.names import show

if TYPE_CHECKING:
    import PIL.Image

DIRECTIONS = ("left-to-right", "right-to-left")


def pair_folders(
    sources: str | os.PathLike,
    targets: str | os.PathLike,
    *,
    image_size: int | tuple[int, int],
    channels: int = 3,
    background: str = "white",
    crop: decode.Crop = decode.centre_crop,
    resize: decode.Resize = decode.area,
    split: str = "train",
    validation_share: float = 0.0,
    max_broken_share: float = 0.01,
    max_bytes_in_memory: int = reading.MAX_BYTES_IN_MEMORY,
    num_threads: int | None = None,
    tell: Callable[[str], None] = reading.logger.warning,
) -> Dataset:
    """Open two folders: what goes in, and under the same names what should come out.

    Names are compared with the subfolders that they are in and without their endings, so that `a/1.jpg` belongs to
    `a/1.png`. Files without a partner are left out, and told. The two pictures of a pair have one size, or all targets
    are the same whole number of times larger than their sources (super-resolution); sources are then brought to
    image_size divided by it. Both are cut and resized alike, as `image_folder` does it, which also says how sets that
    do not fit into memory are read, and what happens to broken files.

    Args:
        sources: the folder of what goes in.
        targets: the folder of what should come out.
        image_size: of the targets, the side of a square, or (height, width).
        channels: 3 for RGB, 1 for grey, of both.
        background, crop, resize, split, validation_share, max_broken_share, max_bytes_in_memory, num_threads, tell: as
            for `image_folder`; a share is held out by the names of the targets.

    Returns:
        A `Dataset` with `image` [N, H, W, C] and `source` [N, H / k, W / k, C].

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError: if a folder cannot be read.
        ValueError: for folders without a name in common, several files of one name, pairs of unlike sizes, and
            everything that `image_folder` refuses.
    """
    height, width = decode.image_size_pair(image_size)
    decode.check_pixel_options(channels, background)
    folder.check_split(split, validation_share)
    found = [listing.list_images(path) for path in (sources, targets)]
    name = f"pairs:{show(found[0].root)} and {show(found[1].root)}"
    for side in found:
        if not side.files:
            raise ValueError(folder.nothing_found(side))
        folder.tell_ignored(name, side, tell)
    pairs = _matched(name, found[0], found[1], tell)
    threads = num_threads or os.cpu_count() or 1
    headers = [listing.check_headers(side.root, [pair[i] for pair in pairs], threads) for i, side in enumerate(found)]
    reasons = [source or target for source, target in zip(headers[0][0], headers[1][0], strict=True)]
    broken = [f"{show(pair[1])} ({reason})" for pair, reason in zip(pairs, reasons, strict=True) if reason]
    reading.report_broken(name, broken, len(pairs), max_broken_share, "left out", tell)
    keep = [i for i, reason in enumerate(reasons) if not reason]
    if not keep:
        raise ValueError(f"{name}: none of its {len(pairs)} pairs can be read: {'; '.join(broken[:5])}")
    if validation_share:
        keep = folder.part_of([pair[1] for pair in pairs], keep, split, validation_share, found[1].root)
        name = f"{name}/{split}"
    kept = [pairs[i] for i in keep]
    scale = _scale(name, found[0].root, found[1].root, kept, threads)
    if height % scale or width % scale:
        raise ValueError(
            f"{name}: the targets are {scale} times as large as their sources, which does not divide the image size "
            f"{height}x{width}: give a multiple of it"
        )
    shape, small = (height, width, channels), (height // scale, width // scale, channels)

    def read(row):
        parts = [
            decode.decode_image(
                os.path.join(side.root, file),
                image_size=size[:2],
                channels=channels,
                background=background,
                crop=crop,
                resize=resize,
            )
            for side, file, size in zip(found, kept[row], (small, shape), strict=True)
        ]
        return np.concatenate([part.reshape(-1) for part in parts])

    def unpack(packed):
        middle = int(np.prod(small))
        parts = packed[:, middle:], packed[:, :middle]
        return {n: part.reshape(-1, *s) for n, part, s in zip(("image", "source"), parts, (shape, small), strict=True)}

    options = (shape, small, background, function_name(crop), function_name(resize))
    sizes = np.array([side[1] for side in headers], np.int64)[:, keep]
    return reading.from_reader(
        name,
        read,
        lambda row: show(kept[row][1]),
        num_examples=len(kept),
        image_shape=shape,
        label=None,
        class_names=(),
        fingerprint=fingerprint_of("pairs", options, "\n".join(map("\n".join, kept)), sizes),
        max_bytes_in_memory=max_bytes_in_memory,
        max_broken_share=max_broken_share,
        num_threads=threads,
        tell=tell,
        packed_shape=(int(np.prod(shape)) + int(np.prod(small)),),
        unpack=unpack,
    )


def halves(
    path: str | os.PathLike,
    *,
    image_size: int | tuple[int, int],
    direction: str = "left-to-right",
    channels: int = 3,
    background: str = "white",
    crop: decode.Crop = decode.centre_crop,
    resize: decode.Resize = decode.area,
    split: str = "train",
    validation_share: float = 0.0,
    max_broken_share: float = 0.01,
    max_bytes_in_memory: int = reading.MAX_BYTES_IN_MEMORY,
    num_threads: int | None = None,
    tell: Callable[[str], None] = reading.logger.warning,
) -> Dataset:
    """Open a folder of pictures whose halves are a pair, as those of pix2pix are (facades, maps, edges2shoes).

    Args:
        path: the folder; subfolders are not looked at as classes.
        image_size: of a half, the side of a square, or (height, width). Each half is cut and resized on its own.
        direction: "left-to-right" (the left half goes in) or "right-to-left".
        channels, background, crop, resize, split, validation_share, max_broken_share: as for `image_folder`.
        max_bytes_in_memory, num_threads, tell: as there.

    Returns:
        A `Dataset` with `image` and `source`, both [N, H, W, C].

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError: if the folder cannot be read.
        ValueError: for an unknown direction, and everything that `image_folder` refuses.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be left-to-right or right-to-left, not {direction!r}")
    height, width = decode.image_size_pair(image_size)

    whole = folder.image_folder(
        path,
        image_size=(height, 2 * width),
        channels=channels,
        background=background,
        crop=functools.partial(_by_halves, crop),
        resize=functools.partial(_by_halves, resize),
        labelled=False,
        split=split,
        validation_share=validation_share,
        max_broken_share=max_broken_share,
        max_bytes_in_memory=max_bytes_in_memory,
        num_threads=num_threads,
        tell=tell,
    )

    def parted(raw):
        parts = raw["image"][:, :, :width], raw["image"][:, :, width:]
        source, image = parts if direction == DIRECTIONS[0] else parts[::-1]
        return {"image": image, "source": source}

    return dataclasses.replace(
        whole,
        name=whole.name.replace("folder:", "halves:", 1),
        image_shape=(height, width, channels),
        fingerprint=fingerprint_of(whole.fingerprint, direction),
        arrays=None if whole.arrays is None else parted(whole.arrays),
        fetch=lambda indices: parted(whole.fetch(indices)),
    )


def _by_halves(
    change: Callable[["PIL.Image.Image", tuple[int, int]], "PIL.Image.Image"],
    image: "PIL.Image.Image",
    size: tuple[int, int],
) -> "PIL.Image.Image":
    """A crop or a resize of either half on its own, put together again."""
    from PIL import Image

    middle = image.width // 2
    boxes = ((0, 0, middle, image.height), (image.width - middle, 0, image.width, image.height))
    left, right = (change(image.crop(box), (size[0] // 2, size[1])) for box in boxes)
    both = Image.new(image.mode, (left.width + right.width, left.height))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both


def _matched(name, sources, targets, tell) -> list[tuple[str, str]]:
    """(source, target) files of the same name, in the order of names."""
    by_name = []
    for side in (sources, targets):
        stems = [os.path.splitext(file)[0] for file in side.files]
        by_name.append(dict(zip(stems, side.files, strict=True)))
        if len(by_name[-1]) < len(stems):
            twice = max(stems, key=stems.count)
            raise ValueError(f"{show(side.root)}: several images are called {show(twice)}, apart from their endings")
    common = sorted(set(by_name[0]) & set(by_name[1]))
    if not common:
        examples = [show(side.files[0]) for side in (sources, targets)]
        raise ValueError(
            f"{name}: no source has the name of a target (there are {examples[0]} and {examples[1]}): pairs are files "
            "of the same name, apart from their endings"
        )
    sources_by_name, targets_by_name = by_name
    for what, own, other in (
        ("sources", sources_by_name, targets_by_name),
        ("targets", targets_by_name, sources_by_name),
    ):
        if alone := sorted(set(own) - set(other)):
            shown = ", ".join(show(own[stem]) for stem in alone[:5]) + (", ..." if len(alone) > 5 else "")
            tell(f"{name}: {len(alone)} of {len(own)} {what} have no partner and are left out: {shown}")
    return [(by_name[0][stem], by_name[1][stem]) for stem in common]


def _scale(name, sources, targets, pairs, num_threads) -> int:
    """How many times larger all targets are than their sources.

    Raises:
        ValueError: for a pair in which it is no whole number, or another than in the first.
    """

    def look(pair):
        try:
            return [
                decode.look(os.path.join(root, file))[:2] for root, file in zip((sources, targets), pair, strict=True)
            ]
        except Exception:  # broken further on, which the reader tells
            return None

    with decode.quiet_bombs(), ThreadPoolExecutor(num_threads) as pool:
        looks = [(pair, found) for pair, found in zip(pairs, pool.map(look, pairs), strict=True) if found]
    scale = max(1, looks[0][1][1][0] // looks[0][1][0][0]) if looks else 1
    for pair, ((width, height), (target_width, target_height)) in looks:
        if (target_width, target_height) != (scale * width, scale * height):
            times = "" if scale == 1 else f", {scale} times as large as in the first pair"
            raise ValueError(
                f"{name}: the source {show(pair[0])} has {width}x{height} pixels and its target "
                f"{target_width}x{target_height}: the two of a pair have one size{times}"
            )
    return scale
