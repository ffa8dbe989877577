"""Several hosts that train together: what fails on one of them, and what is told of it."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgen import sharding


@contextlib.contextmanager
def on_all_hosts(mesh: Mesh) -> Iterator[None]:
    """What fails on one host fails on all, which would otherwise wait for it."""
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    if jax.process_count() > 1:
        failed = int(sharding.max_over_hosts(mesh, np.int32(error is not None)))
        if failed and error is None:
            raise RuntimeError("another host could not start; it says why")
    if error is not None:
        raise error


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
