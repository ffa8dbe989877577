"""RCAN: residual groups with channel attention enlarge images (Zhang, Li, Li, Wang, Zhong and Fu 2018).

Ten groups of 20 blocks, 64 features; mean absolute error, Adam at 1e-4, halved after 200,000 updates; patches of 48x48
small pixels, mirrored and turned.

Deviations: those of EDSR. How long to train and the moving average are BasicSR's (300,000 updates), not the paper's.
"""

import dataclasses

from jaxgen.models import rcan as networks
from jaxgen.options import Data, Optimizer
from jaxgen.ranges import Count
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import restoring
from jaxgen.systems.shared.degrading import SuperResolution


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(restoring.Restoring):
    """A deep residual network with attention over channels."""

    source: SuperResolution = SuperResolution(4)
    """The small images."""
    features: Count = 64
    """Channels of all maps."""
    groups: Count = 10
    """Residual groups."""
    blocks: Count = 20
    """Residual blocks of a group."""
    reduction: Count = 16
    """By which the attention narrows the channels."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: when it is traced, for a scale that is neither 3 nor a power of two.
    """
    model = networks.RCAN(
        config.source.scale,
        spec.image_shape[2],
        config.features,
        config.groups,
        config.blocks,
        config.reduction,
        dtype=config.dtype,
    )
    return restoring.build(config, spec, model, name="RCAN")


_SMALL: Settings = {"features": 4, "groups": 1, "blocks": 2, "reduction": 2}
TINY = Config(data=Data("emoji", image_size=16), source=SuperResolution(2), batch_size=8, num_steps=4, **_SMALL)

_PAPER = "Zhang, Li, Li, Wang, Zhong and Fu 2018"
_LONG: Settings = {"batch_size": 16, "num_steps": 300_000, "halve_at": (200_000,), "ema_half_life": 11_000.0}
_LONG |= {"optimizer": Optimizer(learning_rate=1e-4, b2=0.99)}
_LONG |= dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 5000)

PRESETS = {
    "df2k-rcan-x4": Preset(
        "photographs (DIV2K and Flickr2K) four times as large, by RCAN; give --data.path, 480x480 pieces (jaxgen cut)",
        Config(
            data=Data("folder", path="df2k", image_size=480, labelled=False),
            source=SuperResolution(4),
            patch=192,
            crop_border=4,
            **_LONG,
        ),
        paper=_PAPER,
        published="PSNR on Y 32.63 dB (Set5, x4)",
        spec=((480, 480, 3), 0),
    )
}
