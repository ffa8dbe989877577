"""Which devices a program can be compiled for, and the public figures of each.

Importing this imports no JAX: the environment of a target is set before.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

GB = 10**9
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Device:
    """One device as JAX counts them: a chip, or where JAX sees two of them in a chip, half of it.

    Attributes:
      name: such as "v5e".
      kind: "tpu", "gpu" or "cpu".
      memory: bytes; None where it is this machine's.
      operations: dtype of the factors -> operations a second at most; {} where nobody publishes them.
      bandwidth: bytes a second between memory and the arithmetic; None where nobody publishes it.
      matrix_unit: how many channels the matrix unit takes at once; 1 where that is no matter.
      source: whose figures these are.
    """

    name: str
    kind: str
    memory: int | None = None
    operations: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bandwidth: float | None = None
    matrix_unit: int = 1
    source: str = ""


def _tpu(
    name: str, memory: int, tera: float, bandwidth: float, source: str, devices: int = 1, unit: int = 128
) -> Device:
    """A TPU from the figures of a chip. JAX gives its matrix unit bfloat16, by default also of float32."""
    rates = {dtype: tera * 1e12 / devices for dtype in ("bf16", "f32")}
    half = ", of which a device is half" if devices == 2 else ""
    return Device(name, "tpu", memory // devices, rates, bandwidth / devices, unit, f"{source}{half}")


DEVICES = {
    device.name: device
    for device in (
        _tpu("v4", 32 * GIB, 275, 1200 * GB, "cloud.google.com/tpu/docs/v4", devices=2),
        # The compiler keeps a part for itself: it says 15.75 GiB of v5e's 16.
        _tpu("v5e", 16 * GIB, 197, 819 * GB, "cloud.google.com/tpu/docs/v5e"),
        _tpu("v5p", 95 * GIB, 459, 2765 * GB, "cloud.google.com/tpu/docs/v5p"),
        _tpu("v6e", 32 * GIB, 918, 1638 * GB, "cloud.google.com/tpu/docs/v6e", unit=256),
        _tpu("tpu7x", 192 * GIB, 2307, 7380 * GB, "cloud.google.com/tpu/docs/tpu7x", devices=2, unit=256),
        Device(
            "h100",
            "gpu",
            84_929_347_584,
            {"bf16": 989.4e12, "f16": 989.4e12, "f32": 494.7e12},  # f32 as TF32, as cuDNN computes it by default
            3352 * GB,
            source="NVIDIA H100 SXM data sheet, without sparsity",
        ),
        Device("cpu", "cpu", source="this machine"),
    )
}

EXAMPLES = (
    *("v4:2x2x1", "v4:4x4x4", "v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:16x16", "v5p:2x2x1", "v5p:4x4x4"),
    *("v6e:2x4", "v6e:16x16", "tpu7x:2x2x1", "h100", "8xh100", "cpu", "cpu:8"),
)
"""Names that are known to work; others of the same form may."""

_TPU = re.compile(r"(v4|v5e|v5p|v6e|tpu7x):(\d+(?:x\d+)+)")
_GPU = re.compile(r"(?:(\d+)x)?(h100)")
_CPU = re.compile(r"cpu(?::(\d+))?")
MOST = 4096  # devices; as many as the largest slices


@dataclasses.dataclass(frozen=True)
class Target:
    """Some devices of one kind.

    Attributes:
      name: as it was given, such as "v5e:2x4".
      device: of which kind.
      shape: of their grid; its product is the number of chips.
    """

    name: str
    device: Device
    shape: tuple[int, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What a process that compiles for it sets before JAX is imported: no device of the machine is asked."""
        found = {"JAX_PLATFORMS": "cpu"}
        if self.device.kind == "tpu":
            found |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
            found |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # several plans at once: none of them takes a device
            found |= {"TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3"}
        if self.device.kind == "gpu":
            found |= {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
        if self.device.kind == "cpu":
            found |= {"JAX_NUM_CPU_DEVICES": str(math.prod(self.shape))}
        return found


def target(name: str) -> Target:
    """The devices that a name means.

    Args:
      name: a TPU and the grid of its chips ("v5e:2x4"), a number of GPUs ("8xh100"), or virtual devices of this
        machine ("cpu:8").

    Raises:
      ValueError: for any other name, with those that work.
    """
    if found := _TPU.fullmatch(name):
        shape = tuple(map(int, found[2].split("x")))
        dimensions = 2 if found[1] in ("v5e", "v6e") else 3
        if len(shape) == dimensions and 0 < math.prod(shape) <= MOST:
            return Target(name, DEVICES[found[1]], shape)
        like = next(example for example in EXAMPLES if example.startswith(found[1]))
        raise ValueError(f"{found[1]} chips stand in a grid of {dimensions} sides, such as {like}, not {found[2]}")
    if found := _GPU.fullmatch(name):
        count = int(found[1] or 1)
        if 0 < count <= MOST:
            return Target(name, DEVICES[found[2]], (count,))
    if found := _CPU.fullmatch(name):
        count = int(found[1] or 1)
        if 0 < count <= 256:
            return Target(name, DEVICES["cpu"], (count,))
    raise ValueError(f"there is no target {name!r}; there is, among others: {', '.join(EXAMPLES)}")
