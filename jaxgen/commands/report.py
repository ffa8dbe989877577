"""Pages of runs: `jaxgen report RUN ...` writes `report.html` anew, and of several runs a page of all side by side."""

import sys

from jaxgen import command_line
from jaxgen.names import show

HELP = """usage: {program} RUN [RUN ...]

Writes RUN/report.html: pictures, curves, settings, where it was run. Training writes it by itself; this is for a run
that was killed or copied, or to see with today's page what an older version trained. It needs no network.

Of several runs A, B it also writes comparison-of-A-and-B.html, beside the first: the settings in which they differ,
their samples, their curves in one plot for each metric, their numbers. Evaluations are compared where they were made
in one way.

examples:
  {program} runs/mnist-cgan
  {program} runs/mnist-cgan runs/mnist-cgan-r1
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
    from jaxgen.pages import curves
    from jaxgen.report import comparison

    runs = [local_path.local(argument, "the run") for argument in arguments]
    for run in runs:
        if not (run / run_directory.CONFIG).is_file():
            raise FileNotFoundError(f"{run} is no run: give the directory that training wrote, such as runs/mnist-cgan")
    for run in runs:
        print(report.write(run, tell=lambda note: print(f"warning: {show(note)}", file=sys.stderr)))
    different = list({run.resolve(): run for run in runs}.values())
    if len(different) > curves.MAX_CURVES:
        why = f"more than {curves.MAX_CURVES} runs do not fit beside each other"
        print(f"no page of all was written: {why}", file=sys.stderr)
    elif len(different) > 1:
        print(comparison.write(different))
    return 0
