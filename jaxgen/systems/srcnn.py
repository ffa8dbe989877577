"""SRCNN: three convolutions on what bicubic interpolation has enlarged (Dong, Loy, He and Tang 2016).

64 features of 9x9 pixels, 32 of 1x1 or 5x5, and 5x5 to the image; squared error.

Deviations: Adam at one rate, where the paper has SGD and a tenth of the rate for the last layer, for some 10^8 patches;
maps are padded with zeros; grey images are Pillow's, not the Y of BT.601. Length and batch are ours.
"""

import dataclasses
from typing import Annotated, Literal

from jaxgen.losses.restoration import LOSSES
from jaxgen.models import srcnn as networks
from jaxgen.options import Data, Optimizer
from jaxgen.ranges import Count, Range
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import restoring
from jaxgen.systems.shared.degrading import SuperResolution

Odd = Annotated[int, Range(1, 31)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(restoring.Restoring):
    """A small network that sharpens what interpolation has enlarged."""

    source: SuperResolution = SuperResolution(4)
    """The small images."""
    widths: tuple[Count, Count] = (64, 32)
    """Channels of both hidden maps."""
    kernel_sizes: tuple[Odd, Odd, Odd] = (9, 5, 5)
    """Sides of the kernels, odd."""
    loss: Literal[*LOSSES] = "mse"
    """Between output and image."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-4)
    """Of all parameters."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for even kernels.
    """
    if any(size % 2 == 0 for size in config.kernel_sizes):
        raise ValueError(f"--kernel-sizes are odd, so that a kernel has a middle, not {config.kernel_sizes}")
    model = networks.SRCNN(
        config.source.scale, spec.image_shape[2], tuple(config.widths), tuple(config.kernel_sizes), config.dtype
    )
    return restoring.build(config, spec, model, name="SRCNN")


_SMALL: Settings = {"widths": (3, 2), "kernel_sizes": (3, 1, 3)}
TINY = Config(data=Data("emoji", image_size=16), source=SuperResolution(2), batch_size=8, num_steps=4, **_SMALL)

_PAPER = "Dong, Loy, He and Tang 2016"
_GREY = Data("folder", path="t91", image_size=180, channels=1, labelled=False)

PRESETS = {
    "emoji-srcnn-x2": Preset(
        "64x64 colour emoji from 32x32, by SRCNN of 9-5-5 taps",
        Config(
            data=Data("emoji"),
            source=SuperResolution(2),
            batch_size=16,
            num_steps=6000,
            optimizer=Optimizer(learning_rate=5e-4, schedule="cosine"),
            evaluate_every=1000,
        ),
        paper=_PAPER,
    ),
    "t91-srcnn-x4": Preset(
        "photographs four times as large, by SRCNN of 9-5-5 taps, of grey patches; give --data.path, a folder",
        Config(data=_GREY, patch=32, batch_size=128, num_steps=1_000_000, crop_border=4, sample_every=10_000),
        paper=_PAPER,
        published="PSNR on Y 30.48 dB (Set5, x4)",
        spec=((180, 180, 1), 0),
    ),
}
