"""What a preset is: `jaxgen describe PRESET [any setting]`. No data are read and nothing is trained."""

import sys
from typing import Any

from jaxgen import command_line
from jaxgen.commands import words

HELP = """usage: {program} [PRESET or FILE.py] [--image-shape H W C] [--num-classes N] [--layers] [--json] [settings]

Prints networks with their numbers of parameters, the arithmetic of a step, the memory of the state, the paper and what
is known of its quality. No data are read, nothing is compiled or trained.

  --image-shape H W C   of the images, where the data are not there or others are meant
  --num-classes N       of their labels
  --layers              list every array
  --json                one JSON object
  settings              any of `{train} PRESET --help`

examples:
  {program} mnist-dcgan
  {program} cifar-sngan --json
  {program} mnist-sngan --image-shape 64 64 3 --generator-features 1024
"""


def main(arguments: list[str] | None = None) -> int:
    """Prints a description; returns 0."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(program=command_line.program("describe"), train=command_line.program("train")))
        return 0
    shape: Any = words.take_numbers(arguments, "--image-shape", 3)
    num_classes = words.take_numbers(arguments, "--num-classes", 1)
    as_json, layers = (words.take_flag(arguments, flag) for flag in ("--json", "--layers"))
    from jaxgen.commands import train

    chosen = train.parse(arguments, "describe")
    from jaxgen import description

    spec = description.spec_of(
        chosen.config,
        chosen.preset,
        shape,
        None if num_classes is None else num_classes[0],
    )
    record = description.describe(chosen.config, spec, name=chosen.name, preset=chosen.preset)
    print(description.to_json(record) if as_json else description.in_words(record, layers=layers))
    return 0
