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
    """What fails because another host is lost says so in one sentence.

    Raises:
      hosts.HostFailed: in the place of such an error.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, hosts.HostFailed) or jax.process_count() == 1:
            raise
        if (sentence := hosts.sentence_of_lost_host(error)) is None:
            raise
        raise hosts.HostFailed(sentence) from error
