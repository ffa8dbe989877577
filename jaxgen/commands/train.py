"""Train a preset, or a system of your own: `jaxgen train PRESET [settings]`. Run it again to resume."""

import sys
from types import ModuleType
from typing import Annotated, Any, NamedTuple

from jaxgen import command_line


class Chosen(NamedTuple):
    """What a command line names: a preset, with its settings as they are asked."""

    name: str
    preset: Any
    config: Any
    directory: str
    module: ModuleType | None  # of a user's own


def help_text() -> str:
    """What `--help` without a preset prints."""
    from jaxgen import systems

    program = command_line.program("train")
    width = max(map(len, systems.PRESETS))
    rows = "\n".join(f"  {name:<{width}}  {preset.about}" for name, preset in systems.PRESETS.items())
    return f"""usage: {program} [PRESET or FILE.py] [settings]

Trains a preset and writes metrics, samples, checkpoints and report.html to runs/PRESET (with other settings
than the preset's, to runs/PRESET-SETTINGS), or to --directory.
Run the same command again to go on where it stopped, even after kill -9.

presets (none given: {systems.DEFAULT}):
{rows}

A system of your own is a Python file like those in jaxgen/systems: settings, build(config, spec), PRESETS.
  {program} mine.py               its first preset
  {program} mine.py:other         its preset "other"

examples:
  {program}                                              the default
  {program} mnist-dcgan --help                           all settings of a preset
  {program} mnist-dcgan --generator.learning-rate 1e-4 --discriminator.learning-rate 4e-4 \\
      --discriminator.clip-norm 1.0 --directory runs/ttur    two time scales and a clip
  {program} mnist-dcgan --data.name folder --data.path ~/photos --data.image-size 64 --directory runs/photos
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
        return name, options.lookup(systems.PRESETS, name, "preset"), None
    module = systems.from_file(file)
    chosen = chosen or next(iter(module.PRESETS))
    return chosen, options.lookup(module.PRESETS, chosen, f"preset in {file}"), module


def parse(arguments: list[str], command: str = "train") -> Chosen:
    """What a command line names, with settings.

    Raises:
      ValueError: for an unknown preset; suggests the nearest.
      SystemExit: for --help, and for unknown or wrong options (tyro explains them).
    """
    import tyro

    from jaxgen import configuration, systems

    given, rest = systems.DEFAULT, arguments
    if arguments and not arguments[0].startswith("-"):
        given, rest = arguments[0], arguments[1:]
    elif any(argument in ("-h", "--help") for argument in arguments):
        print(help_text())
        raise SystemExit(0)
    name, preset, module = find(given)

    about_directory = f"The run directory; runs/{name} by default, or runs/{name}-SETTINGS if it has other settings."

    def collect(
        config: Annotated[type(preset.config), tyro.conf.arg(name="")] = preset.config,
        directory: Annotated[str | None, tyro.conf.arg(help=about_directory)] = None,
    ):
        if directory is None:
            directory = configuration.default_directory(name, config, preset.config)
        return Chosen(name, preset, config, directory, module)

    return tyro.cli(
        collect,
        args=rest,
        prog=f"{command_line.program(command)} {given}",
        description=f"{preset.about}. {preset.paper}",
        config=(tyro.conf.FlagConversionOff,),
    )


def main(arguments: list[str] | None = None) -> int:
    """Trains; returns 0 for a finished run, 128 + the signal for a stopped one."""
    command_line.use_compilation_cache()
    chosen = parse(sys.argv[1:] if arguments is None else arguments)
    from jaxgen import experiment, sharding

    sharding.initialize_hosts()
    result = experiment.train(chosen.config, chosen.directory, preset=chosen.name)
    for name, value in result.evaluation.items():
        print(f"{name}: {value:.6g}")
    if result.stopped_by is not None:
        print(f"stopped at step {result.step} of {chosen.config.num_steps}; the same command goes on from there")
        return 128 + result.stopped_by
    print(f"finished at step {result.step}; look at {chosen.directory}/report.html")
    return 0
