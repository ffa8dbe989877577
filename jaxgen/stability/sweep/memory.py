"""Whether a sweep fits into memory, and if not what would."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxgen.memory import free, in_words
from jaxgen.stability.sweep.layout import Layout


class MemoryCheck:
    """Compares what a sweep needs on each device with the bytes that may be used there; None: what is free."""

    def __init__(self, num: int, devices: Sequence[jax.Device], memory: int | None, layout: Layout) -> None:
        self.num, self.num_devices, self.layout = num, len(devices), layout
        self.memory = memory if memory is not None else free(devices)

    def check_states(self, init: Callable, settings: Mapping[str, Any]) -> None:
        """Before anything is compiled: two copies of all states must fit, or a MemoryError says how many would."""
        row = {name: jax.ShapeDtypeStruct((), jax.dtypes.canonicalize_dtype(x.dtype)) for name, x in settings.items()}
        self.state = 2 * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(init, row)))
        need = self.state * self.layout.num_rows // self.num_devices
        if self.memory is not None and need > self.memory:
            fit = self.memory // self.state * self.num_devices
            raise MemoryError(
                f"the states of {self.num:,} members need {in_words(need)} on each device, and {in_words(self.memory)} "
                f"are free: up to {fit:,} members fit. Run the sweep in parts, of other seeds for example, or with "
                "smaller networks"
            )

    def check_program(self, compiled: Any) -> None:
        """Before it runs: what it works with beside the states must fit, too, or a MemoryError says what would."""
        analysis = compiled.memory_analysis()
        working = getattr(analysis, "temp_size_in_bytes", 0)
        states = self.state * self.layout.num_rows // self.num_devices
        if self.memory is None or states + working <= self.memory:
            return
        each = max(1, working // self.layout.block_size)
        room = self.memory - states
        if room >= each and self.layout.block_size > 1:
            advice = f"use block_size={max(1, min(self.layout.block_size - 1, room // each))}"
        else:
            fit = max(0, (self.memory - each) // self.state) * self.num_devices
            advice = f"run at most {fit} members at once, with block_size=1, or a smaller batch"
        raise MemoryError(
            f"{self.num} members in blocks of {self.layout.block_size} need {in_words(states + working)} on each "
            f"device, and {in_words(self.memory)} are free: {advice}"
        )
