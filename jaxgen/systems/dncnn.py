"""DnCNN: a plain network finds the noise, which is taken away (Zhang, Zuo, Chen, Meng and Zhang 2017).

17 layers of 64 features with batch normalisation; patches of 40x40 pixels, mirrored and turned; Gaussian noise that is
not clipped. Without a normalisation and biases (`--batch-norm False --biases nowhere`) it scales with its input, and
bears levels of noise that it has not seen.

Deviations: as its author's later code the loss is the mean absolute difference, by Adam at 1e-4, halved every 200,000
updates (the paper: squared error, SGD from 0.1 to 1e-4 in 50 passes). Normalisations are not merged while it trains;
`models.dncnn.merged` does it afterwards.
"""

import dataclasses
from typing import Literal

from jaxgen.losses.restoration import LOSSES
from jaxgen.models import dncnn as networks
from jaxgen.options import Data, Optimizer
from jaxgen.ranges import Count
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import restoring
from jaxgen.systems.shared.degrading import Degradation, Noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(restoring.Restoring):
    """Plain convolutions, for sources of the size of the images."""

    source: Degradation = Degradation("noise", noise=Noise(25.0))
    """What spoils the images."""
    features: Count = 64
    """Channels of all maps."""
    layers: Count = 17
    """Convolutions."""
    batch_norm: bool = True
    """Of all layers but the first and the last."""
    biases: Literal["everywhere", "without_norm", "nowhere"] = "everywhere"
    """Where convolutions have biases; without_norm: but before a normalisation, which has one of its own."""
    loss: Literal[*LOSSES] = "l1"
    """Between output and image."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-4)
    """Of all parameters."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for fewer than two layers, or sources of another shape than the images.
    """
    if config.layers < 2:
        raise ValueError(f"--layers must be at least 2, the first and the last, not {config.layers}")
    restoring.need_equal_sizes(spec, "DnCNN")
    model = networks.DnCNN(config.features, config.layers, config.batch_norm, config.biases, config.dtype)
    return restoring.build(config, spec, model, name="DnCNN")


TINY = Config(data=Data("emoji", image_size=16), features=3, layers=3, batch_size=8, num_steps=4)

_PAPER = "Zhang, Zuo, Chen, Meng and Zhang 2017"
_OFTEN: Settings = dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 5000)


def _emoji(sigma, measured=""):
    return Preset(
        f"64x64 colour emoji with Gaussian noise of {sigma:g} levels of 255, by a short DnCNN without normalisation",
        Config(
            data=Data("emoji"),
            source=Degradation("noise", noise=Noise(sigma)),
            features=48,
            layers=12,
            batch_norm=False,
            batch_size=16,
            num_steps=8000,
            optimizer=Optimizer(learning_rate=5e-4, schedule="cosine"),
            ema_half_life=5000.0,
            evaluate_every=1000,
        ),
        paper=_PAPER,
        measured=measured,
    )


PRESETS = {
    "emoji-dncnn-25": _emoji(
        25.0,
        "not run to its end; with --patch 32 --num-steps 1200 PSNR 30.20 dB, SSIM 0.914 in 17 minutes (the noisy ones "
        "21.71 dB, the best linear filter 26.41) (440 test emoji; one seed, one core of an AMD EPYC (Zen 3, about 35 "
        "GFLOP/s), 2026-11-30)",
    ),
    "emoji-dncnn-50": _emoji(50.0),
    "bsd-dncnn": Preset(
        "grey photographs (400 of BSD500, 180x180) with noise of 25 levels, by DnCNN; give --data.path, a folder",
        Config(
            data=Data("folder", path="bsd400", image_size=180, channels=1, labelled=False),
            patch=40,
            batch_size=64,
            num_steps=600_000,
            halve_at=(200_000, 400_000),
            **_OFTEN,
        ),
        paper=_PAPER,
        published="PSNR 29.23 dB (BSD68, grey, noise of 25 levels)",
        spec=((180, 180, 1), 0),
    ),
}
