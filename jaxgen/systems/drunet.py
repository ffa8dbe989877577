"""DRUNet: a residual U-Net without biases removes noise of a level that it is told (Zhang, Li, Zuo, Zhang, Van Gool and
Timofte 2021).

The last channel of a source is its noise level, in the unit of the images (sigma of 255, divided by 127.5): one network
for all levels from 0 to 50, as plug-and-play restoration needs it. Mean absolute error, Adam at 1e-4, halved every
100,000 updates; batches of 16 patches of 128x128 pixels.

Deviations: how long to train is ours (800,000 updates; the paper's ends where the rate falls below 5e-7), and so is the
moving average.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen import degradations
from jaxgen.arguments import check_key
from jaxgen.data.sources import Degrade
from jaxgen.degradations.noise import number_between
from jaxgen.models import drunet as networks
from jaxgen.options import Data, Optimizer
from jaxgen.ranges import Count, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import degrading, restoring


@dataclasses.dataclass(frozen=True)
class KnownNoise(degrading.Noise):
    """Images with Gaussian noise, and its level beside them."""

    sigma: Weight = 50.0
    """Standard deviation in levels of 255."""
    least_sigma: Weight | None = 0.0
    """For one that is drawn for each image, evenly between this and sigma."""

    def build(self) -> Degrade:
        """The degradation."""
        sigma = self.sigma if self.least_sigma is None else (self.least_sigma, self.sigma)
        return functools.partial(noise_beside_its_level, sigma=sigma, grey=self.grey, clip=self.clip)


def noise_beside_its_level(
    image: jax.Array, key: jax.Array, *, sigma: float | tuple[float, float], grey: bool = False, clip: bool = False
) -> jax.Array:
    """`degradations.gaussian_noise`, in a last channel its standard deviation in the unit of images: [H, W, C + 1]."""
    check_key(key)
    of_level, of_noise = jax.random.split(key)
    level: Any = number_between(of_level, sigma, "sigma")
    noisy = degradations.gaussian_noise(image, of_noise, sigma=level, grey=grey, clip=clip)
    plane = jnp.broadcast_to(jnp.asarray(level, image.dtype) / 127.5, (*image.shape[:-1], 1))
    return jnp.concatenate([noisy, plane], axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(restoring.Restoring):
    """A residual U-Net that is told the noise level."""

    source: KnownNoise = KnownNoise()
    """The noisy images."""
    widths: tuple[Count, ...] = (64, 128, 256, 512)
    """Channels of maps, for each size from the image's down; each is half the one before."""
    blocks: Count = 4
    """Residual blocks of each size, down and up."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape."""
    restoring.need_equal_sizes(spec, "DRUNet")
    model = networks.DRUNet(spec.image_shape[2], tuple(config.widths), config.blocks, config.dtype)
    return restoring.build(config, spec, model, name="DRUNet")


TINY = Config(data=Data("emoji", image_size=16), widths=(3, 4), blocks=1, batch_size=8, num_steps=4)

_PAPER = "Zhang, Li, Zuo, Zhang, Van Gool and Timofte 2021"
_LONG: Settings = {"batch_size": 16, "num_steps": 800_000, "halve_at": tuple(range(100_000, 800_000, 100_000))}
_LONG |= {"ema_half_life": 11_000.0} | dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 5000)

PRESETS = {
    "emoji-drunet": Preset(
        "64x64 colour emoji with Gaussian noise of 0 to 50 levels of 255, which it is told, by a narrow DRUNet",
        Config(
            data=Data("emoji"),
            widths=(32, 64, 128),
            blocks=2,
            batch_size=16,
            num_steps=8000,
            optimizer=Optimizer(learning_rate=5e-4, schedule="cosine"),
            ema_half_life=5000.0,
            evaluate_every=1000,
        ),
        paper=_PAPER,
    ),
    "photographs-drunet": Preset(
        "photographs with Gaussian noise of 0 to 50 levels of 255, by DRUNet; give --data.path, "
        "480x480 pieces (jaxgen cut)",
        Config(data=Data("folder", path="images", image_size=480, labelled=False), patch=128, **_LONG),
        paper=_PAPER,
        spec=((480, 480, 3), 0),
    ),
}
