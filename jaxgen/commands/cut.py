"""Cut photographs to pieces of one size: `jaxgen cut PHOTOGRAPHS DESTINATION --size 480`. Run it again to go on."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from jaxgen import command_line, ranges
from jaxgen.commands import words
from jaxgen.ranges import Count, Share, WholeShare


@ranges.checked
def cut(
    photographs: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PHOTOGRAPHS")],
    destination: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DESTINATION")],
    /,
    size: Count,
    step: Count | None = None,
    validation_share: Share = 0.0,
    max_broken_share: WholeShare = 0.01,
) -> str:
    """Cut the photographs of a folder to squares at their own pixels, for networks that restore and enlarge.

    Training brings whole photographs to one small size, and with that away what such a network is to learn; of pieces
    it cuts its patches. A piece is called NAME_ROW_COLUMN.png, in the subfolder that its photograph is in: two folders
    of pairs that are cut alike are pairs again. An interrupted cut goes on with the same command, and DESTINATION is
    there when all is written.

    Args:
      photographs: A folder of images of any sizes.
      destination: A folder, new or empty.
      size: Side of a piece in pixels; of DIV2K papers take 480. Smaller photographs are told and left out.
      step: Pixels from a piece to the next; by default its size, so that only the last ones overlap. Of DIV2K 240.
      validation_share: Of the photographs, which go to DESTINATION/test, the others to DESTINATION/train. A folder with
        train/ and test/ in it keeps them.
      max_broken_share: Up to which broken images are told and left out.

    Returns:
      What is printed.

    Raises:
      ValueError, OSError: for a folder without images of that size, or a destination that holds other things.
    """
    from jaxgen import local_path
    from jaxgen.data import folder, pieces

    source = local_path.local(photographs, "the folder of photographs")
    root = local_path.local(destination, "the destination")
    done = pieces.cut(
        source,
        root,
        size=size,
        step=step,
        validation_share=validation_share,
        max_broken_share=max_broken_share,
        progress=command_line.progress,
    )
    lines = [
        f"{done.root}: {done.num_pieces:,} pieces of {size}x{size} pixels from {done.num_photographs:,} photographs",
        f"train on them with --data.name folder --data.path {destination} --data.image-size {size}",
    ]
    if not folder.split_folders(done.root):
        lines.append(
            "of a share of the pieces that is held out neighbours would be trained on: hold out whole photographs, by "
            "--validation-share 0.05 of this command, or a folder that is cut by itself and given as --data.test-path"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Cuts, and prints where."""
    arguments = sys.argv[1:] if arguments is None else arguments
    words.check(arguments)
    words.suggest(arguments, words.options_of(cut))
    print(tyro.cli(cut, args=arguments, prog=command_line.program("cut"), config=(tyro.conf.FlagCreatePairsOff,)))
    return 0
