"""Signals that end a training early: the first one lets it save, on all hosts at the same step."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgen import sharding


class Stop:
    """Whether SIGINT or SIGTERM came, to any host.

    All hosts must learn of it between the same two dispatches, or one would wait for ever in a step that the others do
    not take. So each dispatch is followed by the question, and the answer is read where its metrics are read: that
    costs no waiting.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._received = 0
        self.number = 0  # of the signal that all hosts know of
        self.is_too_late = False  # whether all steps are taken, and what remains to be done is done in any case

    def receive(self, number: int) -> None:
        """A signal came to this host."""
        self._received = number
        if jax.process_count() == 1:
            self.number = number

    def ask(self) -> Any:
        """A signal's number or 0, of all hosts: on several, an array that may not be there yet."""
        if jax.process_count() == 1:
            return self.number
        return sharding.max_over_hosts(self._mesh, np.int32(self._received))

    def hear(self, answer: Any) -> None:
        """Takes an answer to `ask`."""
        self.number = self.number or int(answer)


@contextlib.contextmanager
def listen(mesh: Mesh) -> Iterator[Stop]:
    """Yields a `Stop` that learns of the first SIGINT or SIGTERM; a second one acts as if nobody listened."""
    stop = Stop(mesh)
    previous: dict[int, Any] = {}

    def let_go() -> None:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def on_signal(number, frame):
        let_go()
        stop.receive(number)
        does = "saving a checkpoint, then stopping"
        if stop.is_too_late:
            does = "all steps are taken; what is left to draw, measure and save is still done"
        text = f"\n{signal.Signals(number).name}: {does}. Once more to stop at once.\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())  # not print: the signal may have come in the middle of another print

    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        let_go()
