"""Train a preset, or a system of your own: `jaxgen train PRESET [settings]`. Run it again to resume."""

import dataclasses
import math
import os
import sys
import typing
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple

from jaxgen import command_line
from jaxgen.commands import words


class Chosen(NamedTuple):
    """What a command line names: a preset, with its settings as they are asked."""

    name: str
    preset: Any
    config: Any
    directory: str
    module: ModuleType | None  # of a user's own
    start_from: str | None  # another run, whose networks it begins with


def help_text() -> str:
    """What `--help` without a preset prints."""
    program = command_line.program("train")
    presets = Path(__file__).parents[1].joinpath("systems", "presets.txt").read_text()  # see systems.LISTED
    return f"""usage: {program} [PRESET or FILE.py] [settings]

Trains a preset and writes metrics, samples, checkpoints and report.html to runs/PRESET (with other settings
than the preset's, to runs/PRESET-SETTINGS), or to --directory.
Run the same command again to go on where it stopped, even after kill -9.

{presets}
A system of your own is a Python file like those in jaxgen/systems: settings, build(config, spec), PRESETS.
  {program} mine.py               its first preset
  {program} mine.py:other         its preset "other"

examples:
  {program}                                              the default
  {program} mnist-dcgan --help                           all settings of a preset
  {program} mnist-dcgan --generator.learning-rate 1e-4 --discriminator.learning-rate 4e-4 \\
      --discriminator.clip-norm 1.0 --directory runs/ttur    two time scales and a clip
  {program} emoji-dcgan-r1 --data.name folder --data.path ~/photos --data.image-size 64 --directory runs/photos
"""


def find(name: str) -> tuple[str, Any, ModuleType | None]:
    """(name, preset, module of a user's own or None) of what a command line calls by name.

    Raises:
      ValueError: for an unknown preset; suggests the nearest.
      FileNotFoundError, ValueError: for a file that is not there, or no system.
    """
    from jaxgen import options, systems

    file, _, chosen = name.partition(":")
    if not file.endswith(".py"):
        try:
            return name, options.lookup(systems.PRESETS, name, "preset"), None
        except ValueError as error:
            raise ValueError(f"{error}, which jaxgen train --help lists") from None
    module = systems.from_file(file)
    chosen = chosen or next(iter(module.PRESETS))
    return chosen, options.lookup(module.PRESETS, chosen, f"preset in {file}"), module


def parse(arguments: list[str], command: str = "train") -> Chosen:
    """What a command line names, with settings.

    Raises:
      ValueError: for an unknown preset; suggests the nearest.
      SystemExit: for --help, and for unknown or wrong options (tyro explains them).
    """
    words.check(arguments)
    named = bool(arguments) and not arguments[0].startswith("-")
    if not named and {"-h", "--help"}.intersection(arguments):
        print(help_text())
        raise SystemExit(0)

    import tyro

    from jaxgen import configuration, systems

    given, rest = (arguments[0], arguments[1:]) if named else (systems.DEFAULT, arguments)
    name, preset, module = find(given)
    _check_words(given, preset.config, rest, command)

    about_start = "Another run, with whose networks a new one begins; its optimisers and steps begin anew."
    about_directory = f"The run directory; runs/{name} by default, or runs/{name}-SETTINGS if it has other settings. "
    about_directory += "It may lie in a bucket: gs://BUCKET/RUN or s3://BUCKET/RUN."

    def collect(
        config: Annotated[type(preset.config), tyro.conf.arg(name="")] = preset.config,  # type: ignore[valid-type]
        directory: Annotated[str | None, tyro.conf.arg(help=about_directory)] = None,
        start_from: Annotated[str | None, tyro.conf.arg(help=about_start)] = None,
    ):
        if directory is None:
            directory = configuration.default_directory(name, config, preset.config)
            directory += f"-from-{os.path.basename(os.path.normpath(start_from))}" if start_from else ""
        return Chosen(name, preset, config, directory, module, start_from)

    return tyro.cli(
        collect,
        args=rest,
        prog=f"{command_line.program(command)} {given}",
        description=f"{preset.about}. {preset.paper}",
        config=(tyro.conf.FlagConversionOff,),
    )


def _check_words(given: str, config: Any, arguments: list[str], command: str) -> None:
    """Raises a ValueError for what other programs call otherwise, with its name here."""
    known = [*words.flags_of(config), "--directory", "--start-from"]
    words.suggest(arguments, known)
    kinds = typing.get_type_hints(type(config))
    if losses := typing.get_args(kinds.get("loss")):
        words.check_loss(arguments, losses)
    words.check_data(arguments, typing.get_args(typing.get_type_hints(type(config.data))["name"]))
    rest, epochs = words.without(arguments, words.EPOCHS)
    if len(rest) < len(arguments) and not set(words.EPOCHS) & set(known):
        said = "training is counted in steps, and there is no option for epochs: give --num-steps"
        chosen = parse([given, *rest], command).config
        try:
            wanted, num_images = float(epochs or ""), chosen.open("train").num_examples
            batch = chosen.batch_size * getattr(chosen, "num_discriminator_steps", 1)
            steps = math.ceil(wanted * num_images / batch)
        except (ValueError, TypeError, OverflowError, OSError, ImportError):  # no number, or no data
            raise ValueError(said) from None
        times = "1 epoch" if wanted == 1 else f"{epochs} epochs"
        raise ValueError(f"{said} {steps} for {times} of {num_images:,} images, {batch:,} in a step")


def main(arguments: list[str] | None = None) -> int:
    """Trains; returns 0 for a finished run, 128 + the signal for a stopped one."""
    command_line.use_compilation_cache()
    chosen = parse(sys.argv[1:] if arguments is None else arguments)
    from jaxgen import experiment, hosts

    hosts.initialize_hosts()
    if hint := _meant(chosen):
        print(hint, file=sys.stderr)
    result = experiment.train(chosen.config, chosen.directory, preset=chosen.name, start_from=chosen.start_from)
    for name, value in result.evaluation.items():
        print(f"{name}: {value:.6g}")
    if result.stopped_by is not None:
        print(f"stopped at step {result.step} of {chosen.config.num_steps}; the same command goes on from there")
        return 128 + result.stopped_by
    print(f"finished at step {result.step}; look at {chosen.directory}/report.html")
    return 0


def _meant(chosen: Chosen) -> str:
    """A new run of another length, beside one of the preset itself: how to go on with that, in case it was meant."""
    from jaxgen import configuration, run_directory

    plain = f"runs/{chosen.name}"
    only_length = dataclasses.replace(chosen.config, num_steps=chosen.preset.config.num_steps)
    unnamed, of_length = (
        configuration.default_directory(chosen.name, config, chosen.preset.config)
        for config in (chosen.config, only_length)
    )
    if chosen.directory != unnamed or unnamed == plain or of_length != plain:
        return ""
    if run_directory.is_run(chosen.directory) or not run_directory.is_run(plain):
        return ""
    return (
        f"This is a run of its own, in {chosen.directory}. To go on with {plain} to step {chosen.config.num_steps:,}, "
        f"give --directory {plain}."
    )
