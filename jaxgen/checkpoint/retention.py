"""Which checkpoints are kept."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxgen.checkpoint.errors import CheckpointError
from jaxgen.checkpoint.record import read_record

if TYPE_CHECKING:
    from etils import epath


@dataclasses.dataclass(frozen=True)
class KeepLastAndBest:
    """Orbax's `PreservationPolicy` protocol: keep the newest steps and the best ones by a metric of the record.

    Orbax's own `BestN` needs the metrics as an item of their own, and a damaged one would keep the manager from
    opening at all.
    """

    directory: "epath.Path"
    keep_last: int | None
    keep_best: int
    metric: str | None
    mode: str

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any = None) -> list[bool]:
        del context
        if self.keep_last is None or not checkpoints:
            return [True] * len(checkpoints)
        newest = sorted(info.step for info in checkpoints)[-self.keep_last :]
        keep = {*newest, checkpoints[-1].step}  # the last entry is the one being saved, also with force=True
        if self.keep_best:
            values = {info.step: self._value(info) for info in checkpoints}
            ranked = sorted((step for step in values if math.isfinite(values[step])), key=lambda step: values[step])
            keep.update(ranked[: self.keep_best] if self.mode == "min" else ranked[-self.keep_best :])
        return [info.step in keep for info in checkpoints]

    def _value(self, info) -> float:
        metrics = info.metrics  # known for steps saved by this manager, on disk for earlier runs
        if metrics is None:
            try:
                metrics = read_record(self.directory, info.step)["metrics"]
            except (CheckpointError, OSError):
                metrics = {}
        return metrics.get(self.metric, math.nan)
