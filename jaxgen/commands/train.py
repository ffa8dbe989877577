"""Train a preset: `train.py PRESET [overrides]`. Run it again to resume; `train.py --help` lists the presets."""

import sys
from typing import Annotated

from jaxgen import command_line


def help_text() -> str:
    """What `--help` without a preset prints."""
    from jaxgen import presets

    width = max(map(len, presets.PRESETS))
    rows = "\n".join(f"  {name:<{width}}  {preset.about}" for name, preset in presets.PRESETS.items())
    return f"""usage: train.py [PRESET] [overrides]

Trains a preset and writes metrics, samples, checkpoints and report.html to runs/PRESET (with other settings
than the preset's, to runs/PRESET-SETTINGS), or to --directory.
Run the same command again to go on where it stopped, even after kill -9.

presets (none given: {next(iter(presets.PRESETS))}):
{rows}

examples:
  train.py                                              the default GAN on digits
  train.py mnist-dcgan --help                           all settings of a preset
  train.py mnist-dcgan --generator.learning-rate 1e-4 --discriminator.learning-rate 4e-4 \\
      --discriminator.clip-norm 1.0 --directory runs/ttur    two time scales and a clip
  train.py mnist-dcgan --data.name folder --data.path ~/photos --data.image-size 64 --directory runs/photos
"""


def parse(arguments: list[str]):
    """Command line to (name of the preset, configuration, run directory).

    Raises:
      ValueError: for an unknown preset; suggests the nearest.
      SystemExit: for --help, and for unknown or wrong options (tyro explains them).
    """
    import tyro

    from jaxgen import presets

    name, rest = next(iter(presets.PRESETS)), arguments
    if arguments and not arguments[0].startswith("-"):
        name, rest = arguments[0], arguments[1:]
    elif any(argument in ("-h", "--help") for argument in arguments):
        print(help_text())
        raise SystemExit(0)
    preset = presets.lookup(presets.PRESETS, name, "preset")

    about_directory = f"The run directory; runs/{name} by default, or runs/{name}-SETTINGS if it has other settings."

    def collect(
        config: Annotated[type(preset.config), tyro.conf.arg(name="")] = preset.config,
        directory: Annotated[str | None, tyro.conf.arg(help=about_directory)] = None,
    ):
        return name, config, presets.default_directory(name, config) if directory is None else directory

    return tyro.cli(
        collect,
        args=rest,
        prog=f"train.py {name}",
        description=f"{preset.about}. {preset.paper}",
        config=(tyro.conf.FlagConversionOff,),
    )


def main(arguments: list[str] | None = None) -> int:
    """Trains; returns 0 for a finished run, 128 + the signal for a stopped one."""
    command_line.use_compilation_cache()
    preset, config, directory = parse(sys.argv[1:] if arguments is None else arguments)
    from jaxgen import experiment, sharding

    sharding.initialize_hosts()
    result = experiment.train(config, directory, preset=preset)
    for name, value in result.evaluation.items():
        print(f"{name}: {value:.6g}")
    if result.stopped_by is not None:
        print(f"stopped at step {result.step} of {config.num_steps}; the same command goes on from there")
        return 128 + result.stopped_by
    print(f"finished at step {result.step}; look at {directory}/report.html")
    return 0
