"""A run's page: `jaxgen report RUN ...` writes `report.html` anew, from what the run directory holds."""

import sys

from jaxgen import command_line
from jaxgen.names import show

HELP = """usage: {program} RUN [RUN ...]

Writes RUN/report.html: pictures, curves, settings, where it was run. Training writes it by itself; this is for a run
that was killed or copied, or to see with today's page what an older version trained. It needs no network.

example:
  {program} runs/mnist-cgan
"""


def main(arguments: list[str] | None = None) -> int:
    """Writes the pages, and prints where they are; returns 0."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(program=command_line.program("report")))
        return 0
    if options := [argument for argument in arguments if argument.startswith("-")]:
        raise ValueError(f"report takes no options, only runs: {', '.join(options)}")
    from jaxgen import local_path, report, run_directory

    runs = [local_path.local(argument, "the run") for argument in arguments]
    for run in runs:
        if not (run / run_directory.CONFIG).is_file():
            raise FileNotFoundError(f"{run} is no run: give the directory that training wrote, such as runs/mnist-cgan")
    for run in runs:
        print(report.write(run, tell=lambda note: print(f"warning: {show(note)}", file=sys.stderr)))
    return 0
