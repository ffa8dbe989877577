"""EDSR: a residual network without normalisation enlarges images (Lim, Son, Kim, Nah and Lee 2017).

Mean absolute error; Adam at 1e-4, halved after 200,000 of 300,000 updates; patches of 48x48 small pixels, mirrored and
turned. `--features 256 --blocks 32 --residual-scale 0.1` is the paper's large network; the default is its baseline.

Deviations: the network for x4 begins anew, not from that for x2. Small patches are made of large ones, not cut out of
small images, which differ at borders. Images of a folder are resized to squares: give pieces of one size, by
`jaxgen cut`.
"""

import dataclasses

from jaxgen.models import edsr as networks
from jaxgen.options import Data, Optimizer
from jaxgen.ranges import Count, Positive
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import restoring
from jaxgen.systems.shared.degrading import SuperResolution


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(restoring.Restoring):
    """A residual network that enlarges by 2, 3, 4 or 8."""

    source: SuperResolution = SuperResolution(4)
    """The small images."""
    features: Count = 64
    """Channels of all maps."""
    blocks: Count = 16
    """Residual blocks."""
    residual_scale: Positive = 1.0
    """By which a block's branch is multiplied; 0.1 for 256 features."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: when it is traced, for a scale that is neither 3 nor a power of two.
    """
    model = networks.EDSR(
        config.source.scale,
        spec.image_shape[2],
        config.features,
        config.blocks,
        config.residual_scale,
        dtype=config.dtype,
    )
    return restoring.build(config, spec, model, name="EDSR")


TINY = Config(
    data=Data("emoji", image_size=16), source=SuperResolution(2), features=4, blocks=1, batch_size=8, num_steps=4
)

_PAPER = "Lim, Son, Kim, Nah and Lee 2017"
_LONG: Settings = {"batch_size": 16, "num_steps": 300_000, "halve_at": (200_000,), "ema_half_life": 11_000.0}
_LONG |= {"optimizer": Optimizer(learning_rate=1e-4, b2=0.99)}
_LONG |= dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 5000)


def _published(scale, published):
    patch = 48 * scale
    data = Data("folder", path="div2k", image_size=480, labelled=False)
    return Preset(
        f"photographs (DIV2K) {scale} times as large, by EDSR-baseline; give --data.path, 480x480 pieces (jaxgen cut)",
        Config(data=data, source=SuperResolution(scale), patch=patch, crop_border=scale, **_LONG),
        paper=_PAPER,
        published=published,
        spec=((480, 480, 3), 0),
    )


def _emoji(scale, measured):
    return Preset(
        f"64x64 colour emoji from {64 // scale}x{64 // scale}, by a narrow EDSR",
        Config(
            data=Data("emoji"),
            source=SuperResolution(scale),
            features=48,
            blocks=8,
            batch_size=16,
            num_steps=8000,
            optimizer=Optimizer(learning_rate=5e-4, schedule="cosine"),
            ema_half_life=5000.0,
            evaluate_every=1000,
        ),
        paper=_PAPER,
        measured=f"{measured} (440 test emoji; one seed, two cores of an AMD EPYC (Zen 3), 2026-11-30)",
    )


PRESETS = {
    "emoji-edsr-x2": _emoji(
        2,
        "not run to its end; after 803 of 8,000 steps PSNR 31.22 dB, SSIM 0.960 (bicubic 26.90, Lanczos 27.60, the "
        "best linear filter 29.11 dB)",
    ),
    "emoji-edsr-x4": _emoji(
        4,
        "not run to its end; with --num-steps 800 PSNR 22.17 dB, SSIM 0.743 in 5 minutes (bicubic 20.31, Lanczos "
        "20.63, the best linear filter 21.13 dB)",
    ),
    "div2k-edsr-x2": _published(2, "PSNR on RGB 35.78 dB (Set5), 34.61 dB (DIV2K validation)"),
    "div2k-edsr-x4": _published(4, "PSNR on RGB 30.18 dB (Set5), 28.95 dB (DIV2K validation)"),
}
