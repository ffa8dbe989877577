"""NAFNet: a U-Net without activation functions restores images (Chen, Chu, Zhang and Sun 2022).

Minus the PSNR as loss; AdamW at 1e-3, both betas 0.9, along a cosine; patches of 256x256 pixels, mirrored and turned.
`--data.name pairs` trains on two folders of real pairs (SIDD's noise, GoPro's blur); other data are spoilt by `source`.

Deviations: the cosine ends at 0, not at 1e-7. Attention averages over whole images, also where these are larger than
patches (see `models.nafnet`), so GoPro's published number, which has it in windows, is out of reach of that.
"""

import dataclasses
from typing import Literal

from jaxgen.losses.restoration import LOSSES
from jaxgen.models import nafnet as networks
from jaxgen.options import Data, Optimizer
from jaxgen.ranges import Count, CountOrZero
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import restoring
from jaxgen.systems.shared.degrading import Degradation

ADAMW = Optimizer("adamw", learning_rate=1e-3, b1=0.9, b2=0.9, schedule="cosine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(restoring.Restoring):
    """A U-Net without activation functions, for sources of the size of the images."""

    source: Degradation = Degradation()
    """What spoils the images, unless the data bring sources."""
    width: Count = 32
    """Channels of the largest map, doubled by each halving."""
    encoder: tuple[CountOrZero, ...] = (2, 2, 4, 8)
    """Blocks of each size of map, from the image's down."""
    middle: CountOrZero = 12
    """Blocks of the smallest map."""
    decoder: tuple[CountOrZero, ...] = (2, 2, 2, 2)
    """Blocks of each size of map, up to the image's."""
    loss: Literal[*LOSSES] = "psnr"
    """Between output and image."""
    optimizer: Optimizer = ADAMW
    """Of all parameters."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for sources of another size than the images; when it is traced, for blocks of unlike numbers of sizes.
    """
    restoring.need_equal_sizes(spec, "NAFNet")
    model = networks.NAFNet(
        spec.image_shape[2], config.width, tuple(config.encoder), config.middle, tuple(config.decoder), config.dtype
    )
    return restoring.build(config, spec, model, name="NAFNet")


_SMALL: Settings = {"width": 3, "encoder": (1, 1), "middle": 1, "decoder": (1, 0)}
TINY = Config(data=Data("emoji", image_size=16), batch_size=8, num_steps=4, **_SMALL)

_PAPER = "Chen, Chu, Zhang and Sun 2022"
_LONG: Settings = {"patch": 256, "batch_size": 32, "num_steps": 200_000}
_LONG |= dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 5000)


def _pairs(name):
    return Data("pairs", path=f"{name}/source", target_path=f"{name}/target", image_size=512)


def _emoji(about, source, measured=""):
    return Preset(
        f"64x64 colour emoji {about}, by a narrow NAFNet",
        Config(
            data=Data("emoji"),
            source=source,
            width=24,
            encoder=(1, 1, 2),
            middle=2,
            decoder=(1, 1, 1),
            batch_size=16,
            num_steps=8000,
            optimizer=ADAMW,
            ema_half_life=5000.0,
            evaluate_every=1000,
        ),
        paper=_PAPER,
        measured=measured,
    )


_WHERE = "440 test emoji; one seed, one core of an AMD EPYC (Zen 3, about 35 GFLOP/s), 2026-11-30"

PRESETS = {
    "emoji-jpeg-10": _emoji(
        "from JPEG files of quality 10",
        Degradation("jpeg"),
        "not run to its end; with --num-steps 800 PSNR 25.58 dB, SSIM 0.851 in 20 minutes (the files 22.76 dB, the "
        f"best linear filter 23.15) ({_WHERE})",
    ),
    "emoji-deblur": _emoji(
        "from blur of 1.6 pixels with noise of 2 levels",
        Degradation("blur"),
        "not run to its end; with --num-steps 800 PSNR 30.36 dB, SSIM 0.928 in 19 minutes (the blurred ones 21.71 dB, "
        f"the best linear filter 26.71) ({_WHERE})",
    ),
    "sidd-nafnet-32": Preset(
        "photographs of a telephone (SIDD) without their noise, by NAFNet of width 32; give --data.path and "
        "--data.target-path, folders of 512x512 pieces (jaxgen cut)",
        Config(data=_pairs("sidd"), **_LONG),
        paper=_PAPER,
        published="PSNR on RGB 39.97 dB (SIDD validation)",
        spec=((512, 512, 3), 0),
    ),
    "gopro-nafnet-32": Preset(
        "photographs (GoPro) without their blur, by NAFNet of width 32; give --data.path and --data.target-path, "
        "folders of 512x512 pieces (jaxgen cut)",
        Config(
            data=_pairs("gopro"),
            encoder=(1, 1, 1, 28),
            middle=1,
            decoder=(1, 1, 1, 1),
            optimizer=dataclasses.replace(ADAMW, weight_decay=1e-3),
            **_LONG,
        ),
        paper=_PAPER,
        published="PSNR on RGB 32.87 dB (GoPro)",
        spec=((512, 512, 3), 0),
    ),
}
