"""The commands of `jaxgen COMMAND`: a module each, with `main(arguments) -> exit code`. They parse, call, and print."""

import importlib
import sys

COMMANDS = {
    "train": "train a preset, or a system of your own",
    "sample": "draw images from a run",
    "evaluate": "measure a run, or anybody's images against others",
    "report": "write a run's page anew",
    "describe": "what a preset is: networks, parameters, arithmetic, paper; without data or training",
    "stability": "the stability laboratory: dirac, spectrum, sweep, atlas",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        rows = "\n".join(f"  {name:<{width}}  {about}" for name, about in COMMANDS.items())
        print(f"usage: jaxgen COMMAND ...\n\ncommands (jaxgen COMMAND --help tells more):\n{rows}")
        return 0
    name, *rest = arguments
    if name == "--version":
        from jaxgen import __version__

        print(__version__)
        return 0
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? There is" if near else "there is"
        raise ValueError(f"there is no command {name!r}; {hint}: {', '.join(COMMANDS)}")
    return importlib.import_module(f"jaxgen.commands.{name}").main(rest)


def run() -> None:
    """The installed command."""
    from jaxgen import command_line

    command_line.run(main)
