"""Several hosts that train together: what fails on one of them, and what is told of it."""

import contextlib
from collections.abc import Iterator

import jax

from jaxgen import hosts


@contextlib.contextmanager
def on_all_hosts() -> Iterator[None]:
    """What fails on one host fails on all, which would otherwise wait for it.

    Raises:
      RuntimeError: on the hosts where nothing failed, with what the others say.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    told = hosts.exchange("" if error is None else f"{error or type(error).__name__}")
    if error is not None:
        raise error
    for index, message in enumerate(told):
        if message:
            raise RuntimeError(f"host {index} could not start: {message}")


@contextlib.contextmanager
def telling_of_lost_hosts() -> Iterator[None]:
    """Adds to errors of the devices what most of them mean on several hosts."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() > 1:
            error.add_note(
                "On several hosts this means most often that another one has died or stopped: look at what it printed, "
                "then start all of them again; they go on from the last checkpoint."
            )
        raise
