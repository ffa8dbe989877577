"""Edit pictures with a run: `jaxgen edit RUN restore IMAGES...`. The run's data are not needed.

Files come out under their names, as the kind of file that they are, in another folder; a page beside them shows each
before and after. A file that cannot be edited is named, the others are edited, and the exit code is 1.
"""

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxgen import command_line, files, ranges
from jaxgen.commands import words
from jaxgen.names import show
from jaxgen.ranges import Count, CountOrZero, Positive, Seed

ACTIONS = {
    "translate": "by a run that translates, whatever size a picture has",
    "restore": "the same, of a run that was trained to restore or to enlarge",
    "complete": "fill the hole that --mask or --hole says; known pixels stay as they are, to the bit",
    "invert": "find the latents whose image is the picture",
    "walk": "along the directions of latents in which images change most",
    "mix": "what lies between two pictures, and their styles mixed",
}
OF_ACTIONS = {  # options -> the actions that they mean something for
    "--mask": ("complete",),
    "--hole": ("complete",),
    "--resize": ("complete", "invert", "walk", "mix"),
    "--label": ("translate", "restore", "complete", "invert", "walk", "mix"),
    "--direction": ("translate",),
    "--noise-level": ("translate", "restore"),
    "--tile": ("translate", "restore", "complete"),
    "--space": ("complete", "invert", "walk", "mix"),
    "--num-starts": ("complete", "invert", "walk", "mix"),
    "--num-steps": ("complete", "invert", "walk", "mix"),
    "--noise": ("complete", "invert", "walk", "mix"),
    "--tuning-steps": ("invert",),
    "--by": ("walk",),
    "--num-directions": ("walk",),
    "--strength": ("walk",),
    "--film": ("walk", "mix"),
}


@ranges.checked
def edit(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    action: Annotated[Literal[*ACTIONS], tyro.conf.Positional, tyro.conf.arg(metavar="ACTION")],  # type: ignore
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")] = (),
    /,
    mask: Path | None = None,
    hole: Literal["centre"] | None = None,
    resize: bool = False,
    label: tuple[str, ...] = (),
    direction: Literal["to_image", "to_source"] | None = None,
    noise_level: Annotated[float, ranges.Range(0, 255)] | None = None,
    background: str | None = None,
    tile: CountOrZero | None = None,
    space: str | None = None,
    num_starts: Annotated[Count | None, tyro.conf.arg(aliases=["--restarts"])] = None,
    num_steps: CountOrZero | None = None,
    noise: Positive | None = None,
    tuning_steps: CountOrZero | None = None,
    by: Literal["images", "weights", "styles"] | None = None,
    num_directions: Count | None = None,
    strength: Positive | None = None,
    film: bool = False,
    seed: Seed = 0,
    step: CountOrZero | None = None,
    output: Path | None = None,
    page: bool = True,
    system: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> tuple[str, int]:
    """Edit pictures with the moving average of a run's newest good checkpoint.

    ACTION is one of translate, restore, complete, invert, walk, mix. The first three of them need a run that
    translates (complete also does with any that decodes), the others one that decodes latents.

    Args:
      run: The run directory that train.py wrote.
      action: What to do: translate or restore (a picture of any size; its kind of file, turn, transparency, colour
        profile and 16 bits of grey are kept), complete (a hole), invert (find latents), walk (along directions of
        latents; without IMAGES from latents that are drawn), mix (two pictures).
      images: Files, or folders, whose pictures keep their subfolders.
      mask: For complete: a picture that is white where something is missing; or a folder of such, of the same names.
      hole: For complete, in the place of a mask: centre, a box of half the sides.
      resize: For runs that decode: cut the middle out of pictures of another size than the run's and bring it to that,
        as training data are. Without it they are refused.
      label: The class of what is drawn, by name or number: of a class-conditional run that decodes (by default all are
        tried, and the best is kept), or what a picture is to be translated to.
      direction: For a CycleGAN: to_source, the other way.
      noise_level: For runs that are told the noise of a picture (DRUNet): its standard deviation, of 255.
      background: What transparent pictures lie on for the network, a colour; that of the run's data by default.
      tile: Side of the tiles in which large pictures are edited, in pixels; 256 by default. What is around them is
        computed, and the picture is the same as without tiles. 0: without, as is needed for a network that sees the
        whole picture.
      space: For runs that decode: z (the default), or of a StyleGAN w or w+, one w for each layer.
      num_starts: For each picture, of which the best is kept; 4 by default, or one for each class.
      num_steps: Of gradient descent; 300 by default.
      noise: Standard deviation of a pixel in [-1, 1], 0.1 by default: less follows the picture, more the prior.
      tuning_steps: For invert: then tune the generator itself to each picture, as PTI does with 350; 0 by default.
      by: For walk: directions of the largest variance of images, from the weights of the first layer, or of the largest
        variance of styles; images by default, and styles in a space of styles.
      num_directions: For walk: how many; 5 by default.
      strength: For walk: how far to go to both sides; 3 by default.
      film: For walk and mix: films (WebP) in the place of pictures in a row.
      seed: Of starts, of latents that are drawn, and of what a network draws itself.
      step: Of the checkpoint; the newest by default.
      output: The folder to write into; by default RUN/edited/ACTION. No picture that is read is overwritten.
      page: Write edited.html: each picture before and after, with a slider between them.
      system: The file of a system of your own, for a run of it: nothing that a run names is imported.
      as_json: Print the record as JSON; edited.json holds it in any case.

    Returns:
      What is printed, and the exit code: 1 where a picture could not be edited.

    Raises:
      MissingCapability: for a run that cannot do it.
      ValueError: for options that would be ignored or do not fit, no pictures, two of one name, or an --output that is
        a file.
    """
    given: dict[str, Any] = {
        "--mask": mask,
        "--hole": hole,
        "--resize": resize or None,
        "--label": label or None,
        "--direction": direction,
        "--noise-level": noise_level,
        "--tile": tile,
        "--space": space,
        "--num-starts": num_starts,
        "--num-steps": num_steps,
        "--noise": noise,
        "--tuning-steps": tuning_steps,
        "--by": by,
        "--num-directions": num_directions,
        "--strength": strength,
        "--film": film or None,
    }
    for option, value in given.items():
        if value is not None and action not in OF_ACTIONS[option]:
            raise ValueError(f"{option} would be ignored: it is for {', '.join(OF_ACTIONS[option])}, not for {action}")
    if action == "complete" and (mask is None) == (hole is None):
        raise ValueError("complete is told what is missing by --mask FILE or by --hole centre, one of them")
    if not images and action != "walk":
        raise ValueError(f"name what to {action}: jaxgen edit {show(str(run))} {action} PICTURE_OR_FOLDER ...")
    folder = output or run / "edited" / action
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder}: something that is not a directory lies there")
    from jaxgen import loading, systems
    from jaxgen.editing import files as picture_files
    from jaxgen.editing import session as sessions

    drawn = action == "walk" and not images
    found = picture_files.Found([], {}) if drawn else picture_files.find(images)
    trained = loading.load(run, step=step, system=None if system is None else systems.from_file(system))
    asked = {option[2:].replace("-", "_"): value for option, value in given.items() if value is not None}
    if label:
        asked["labels"] = tuple(labels_of(trained, asked.pop("label")))
    session = sessions.Session(
        trained, action, found, folder, seed=seed, background=background, page=page, progress=command_line.progress
    )
    sessions.edit(session, **asked)
    session.keep(str(run))
    code = int(bool(session.failed))
    if as_json:
        return json.dumps(files.encoded({"run": str(run)} | session.record), indent=2), code
    count = len(session.written)
    lines = [f"{count:,} file{'s' * (count != 1)} in {folder}" + (f", and {folder / sessions.PAGE}" if page else "")]
    lines = lines if count else ["nothing was edited"]
    lines += [f"not edited: {show(path)}: {reason}" for path, reason in session.failed.items()]
    return "\n".join(lines), code


def labels_of(trained: Any, asked: tuple[str, ...]) -> list[int]:
    """Labels by name or number, of a run whose decoder or translation is told them; [] where none is asked for."""
    from jaxgen import options

    names = {name.lower(): index for index, name in enumerate(trained.class_names)}
    found = []
    for name in asked:
        if name.lower() in names or not re.fullmatch(r"\d+", name):
            found.append(options.lookup(names, name.lower(), "class"))
        else:
            found.append(int(name))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Edits, and prints what was written; returns 1 where a picture was not."""
    command_line.use_compilation_cache()
    arguments = sys.argv[1:] if arguments is None else arguments
    words.check(arguments)
    words.suggest(arguments, words.options_of(edit))
    command_line.meet_hosts(arguments)
    program = command_line.program("edit")
    said, code = tyro.cli(edit, args=arguments, prog=program, config=(tyro.conf.FlagCreatePairsOff,))
    print(said)
    return code
