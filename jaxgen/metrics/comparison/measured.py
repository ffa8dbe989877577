"""What a metric of two sets gives: numbers, and what they depend on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxgen.metrics.comparison.seen import Seen


class Measured(NamedTuple):
    """What a metric gives.

    values: name -> number.
    settings: what all of them depend on, beyond both sets and the network.
    own: what single ones depend on besides, by name.
    """

    values: dict[str, Any]
    settings: dict[str, Any]
    own: dict[str, dict[str, Any]] = {}  # noqa: RUF012


Metric = Callable[[Seen, Seen, jax.Array], Measured]
"""(real, fake, key) -> Measured."""
