"""When a training pauses: for a line of the log, samples, an evaluation, a checkpoint."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Plan:
    """What there is to do beside the steps of a run, and when."""

    num_steps: int
    log_every: int
    sample_every: int
    evaluate_every: int
    checkpoint_every: int
    sample: Callable | None
    evaluate: Callable | None
    best_metric: str | None

    @property
    def numbers(self) -> dict[str, Any]:
        """What hosts must have in common to pause together."""
        numbers = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return numbers | {"sample": self.sample is not None, "evaluate": self.evaluate is not None}

    def next_line(self, step: int) -> int:
        """The first step after this one with a line of the log."""
        return min(_next_multiple(step, self.log_every), self.num_steps)

    def next_pause(self, step: int) -> int:
        """The first step after this one at which the steps pause for samples, an evaluation or a checkpoint."""
        every = [
            self.checkpoint_every,
            self.sample_every if self.sample else 0,
            self.evaluate_every if self.evaluate else 0,
        ]
        return min([self.num_steps, *(_next_multiple(step, number) for number in every if number)])

    def is_due(self, step: int, every: int) -> bool:
        """Whether something that is done every so many steps, and at the end, is done after this one."""
        return step == self.num_steps or (every > 0 and step % every == 0)


def _next_multiple(step: int, every: int) -> int:
    return (step // every + 1) * every
