"""What is told on the console: by a training, whose clock is here, too, and by all that takes long."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgen import buckets, data, sharding

SECONDS_PER_DISPATCH = 0.25  # what a progress bar or Ctrl-C waits for at the most, about
RUN_AHEAD = 2  # dispatches in flight
LONG_WAIT = 0.05  # share of the time in which data were waited for, from which it is told


class Display:
    """Progress for people: a bar with the newest line of the log on a terminal, elsewhere each line of the log."""

    def __init__(
        self, num_steps: int, step: int, mesh: Mesh, directory: Path, dataset: data.Dataset, *, show: bool
    ) -> None:
        from tqdm import tqdm

        self._num_steps = num_steps
        self._timed_from: tuple[float, int] | None = None  # the first line of the log: before it lies compilation
        self._show = show
        self._advised = False  # what to do against waiting for data
        self._terminal = sys.stderr.isatty()
        if show:
            devices = f"{mesh.size} {mesh.devices.flat[0].platform} device{'s' * (mesh.size > 1)}"
            start = "Resuming at" if step else "Starting at"
            height, width, _ = dataset.image_shape
            images = f"{dataset.num_examples:,} images of {width}x{height} pixels"
            where = buckets.shown(directory)
            line = f"{start} step {step} of {num_steps} on {devices}, with {images}, in {where}; compiling."
            print(line, file=sys.stderr)
        self._bar = tqdm(
            total=num_steps, initial=step, unit="step", dynamic_ncols=True, disable=not (show and self._terminal)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def show(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """So many steps are finished; and what a line of the log says."""
        self._bar.update(step - self._bar.n)
        if metrics is None:
            return
        text = _in_short(metrics)
        self._bar.set_postfix_str(text)
        if not self._terminal:
            self._print(f"step {step}/{self._num_steps}{self._time_left(step)}: {text}")
        if metrics.get("data_wait", 0.0) > LONG_WAIT and not self._advised:
            self._advised = True
            self._print(
                f"{metrics['data_wait']:.0%} of the time goes into waiting for data: --data.workers N reads them in N "
                "processes, and `jaxgen convert` brings images to their size once and for all"
            )

    def tell(self, step: int, metrics: Mapping[str, float]) -> None:
        """What is worth a line in any case."""
        self._print(f"step {step}/{self._num_steps}: {_in_short(metrics)}")

    def _time_left(self, step: int) -> str:
        """Until all steps are done at the rate since the first line, in words; a terminal's bar says it by itself."""
        now = time.monotonic()
        if self._timed_from is None or step >= self._num_steps:
            self._timed_from = self._timed_from or (now, step)
            return ""
        began, first = self._timed_from
        return f", {in_words((now - began) / (step - first) * (self._num_steps - step))} left"

    def _print(self, line: str) -> None:
        if self._show:
            self._bar.write(line, file=sys.stderr)


def _in_short(metrics: Mapping[str, float]) -> str:
    known = ("loss", "elbo", "accuracy", "augment/probability")
    chosen = {name: value for name, value in metrics.items() if name.endswith(known)}
    if not chosen:
        chosen = {name: value for name, value in metrics.items() if name not in ("images_per_second", "data_wait")}
    if metrics.get("data_wait", 0.0) > LONG_WAIT:
        chosen = {"data_wait": metrics["data_wait"]} | chosen
    if "images_per_second" in metrics:
        chosen = {"images/s": metrics["images_per_second"]} | chosen
    return ", ".join(f"{name} {value:.4g}" for name, value in list(chosen.items())[:5])


def in_words(seconds: float) -> str:
    """A duration for people, rounded: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


class Pace:
    """The host's clock: how many steps go into a dispatch, and how many images a second come out."""

    def __init__(self, mesh: Mesh, batch_size: int, most: int, waited: Callable[[], float] | None = None) -> None:
        self._waited = waited  # seconds for which data were waited for since it was last asked
        self._mesh, self._batch_size, self._most = mesh, batch_size, most
        self._compiled = False
        self._seconds_per_step: float | None = None
        self._since = time.monotonic()
        self._images, self._seconds = 0, 0.0

    @property
    def run_ahead(self) -> int:
        """How many dispatches the host may be ahead of the device; none in the first, which is to be timed."""
        return RUN_AHEAD if self._compiled and sharding.can_run_ahead(self._mesh) else 0

    def steps_per_dispatch(self) -> int:
        """As many as take about `SECONDS_PER_DISPATCH`; one, until a step has been timed."""
        if self._seconds_per_step is None:
            return 1
        return max(1, min(self._most, int(SECONDS_PER_DISPATCH / self._seconds_per_step)))

    def resume(self) -> None:
        """Steps follow; what came before them does not count."""
        self._since = time.monotonic()

    def finished(self, count: int) -> None:
        """`count` more steps are finished on the device."""
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        if not self._compiled:  # the first dispatch is mostly compilation
            self._compiled = True
            if self._waited is not None:
                self._waited()
            return
        self._images, self._seconds = self._images + count * self._batch_size, self._seconds + seconds
        seconds_per_step = max(seconds / count, 1e-9)
        if jax.process_count() == 1:
            self._seconds_per_step = seconds_per_step
        elif self._seconds_per_step is None:
            # Hosts must agree on the steps in a dispatch: once, and not each by its own clock.
            self._seconds_per_step = float(sharding.max_over_hosts(self._mesh, np.float32(seconds_per_step)))

    def rates(self) -> dict[str, float]:
        """Since the last call: images a second, and the share of the time in which data that are not in memory were
        waited for; empty when nothing but compilation happened.
        """
        rates = {}
        if self._seconds:
            rates["images_per_second"] = self._images / self._seconds
            if self._waited is not None:
                rates["data_wait"] = min(1.0, self._waited() / self._seconds)
        self._images, self._seconds = 0, 0.0
        return rates
