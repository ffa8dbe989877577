"""How what takes long tells of it; how that looks is the matter of who calls (see `console`)."""

from collections.abc import Callable, Iterable

Progress = Callable[[Iterable, int, str], Iterable]
"""(batches, number of batches, what they are) -> batches, such as a progress bar."""


def no_progress(batches: Iterable, total: int, what: str) -> Iterable:
    """The batches, unseen."""
    return batches


def tell_nobody(line: str) -> None:
    """Says nothing: where no lines are wanted."""
