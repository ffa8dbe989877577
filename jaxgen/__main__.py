"""`python -m jaxgen COMMAND`, which is `jaxgen COMMAND`."""

from jaxgen.commands import run

run()
