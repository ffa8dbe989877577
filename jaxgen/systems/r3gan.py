"""R3GAN: a relativistic loss, two penalties, plain residual networks (Huang, Gokaslan, Kuleshov and Tompkin 2024).

Each real image is compared with a fake one (`relativistic`), of the same label where there are labels. R1 and R2 have
the same weight gamma and go through the augmentation, whose changes have a probability that is set and does not adapt.
Adam with b1 = 0. In a burn-in, counted in images, six settings go from a first to a last value along half a cosine,

    first + (last - first) (1 - cos(pi min(images / num_images, 1))) / 2,

and stay there: both rates, Adam's b2, gamma, the probability of the augmentation (from 0), and the half-life of the
generator's average (from 0, where the average is the generator itself). `burn_in` has the last values; the first ones
are where such settings always are.

Deviations: the generator's update sees the fake images of the discriminator's, where the paper draws new ones. Of ADA's
changes the augmentation has those that only move pixels (`augmentation.blits`). The paper also mirrors one image in two
of the data. It computes large maps in half precision; here all is, or nothing (`precision`). Images are clipped to
[-1, 1] where they are drawn. How long to train for FFHQ is ours (150 million images); the rest is the paper's.
"""

import dataclasses
from typing import Literal

import optax

from jaxgen import augmentation, network, optim, turns
from jaxgen.losses import penalties
from jaxgen.models import r3gan as networks
from jaxgen.options import LOSSES, Data, Optimizer, square_size
from jaxgen.ranges import Count, Positive, Share, Weight, WholeShare
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import two_player

ADAM = Optimizer(learning_rate=2e-4, b1=0.0, b2=0.9)


@dataclasses.dataclass(frozen=True)
class BurnIn:
    """The first images, over which settings change, and what they are afterwards."""

    num_images: Count = 20_000_000
    """How many images it takes."""
    learning_rate: Positive = 5e-5
    """Of both players after it; at first each optimiser's own."""
    b2: Share = 0.99
    """Decay of the second moment after it; at first each optimiser's own."""
    gamma: Weight = 0.005
    """Weight of R1 and R2 after it; at first --r1 and --r2."""
    augmentation: WholeShare = 0.0
    """Probability of each change of what the discriminator sees after it; at first 0. 0: no such augmentation."""

    def schedule(self, first: float, last: float, images_per_step: int) -> optax.Schedule:
        """step -> a number that goes from `first` to `last` along half a cosine, and stays there."""
        return optim.half_cosine(first, last, self.num_images / images_per_step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.TwoPlayers):
    """A residual GAN without normalisation, for square images of 4, 8, 16, 32, ... pixels."""

    latent_dim: Count = 64
    """Numbers of noise from which the generator makes an image."""
    loss: Literal[*LOSSES] = "relativistic"
    """Of both players."""
    r1: Weight = 0.05
    """Weight gamma of the R1 penalty gamma/2 E|grad D(real)|^2, at first; 0: none."""
    r2: Weight = 0.05
    """Weight gamma of the R2 penalty gamma/2 E|grad D(fake)|^2, at first; 0: none."""
    generator: Optimizer = ADAM
    """The generator's optimiser, as it is at first."""
    discriminator: Optimizer = ADAM
    """The discriminator's optimiser, as it is at first."""
    burn_in: BurnIn = BurnIn()
    """The first images, and what settings are after them."""
    conditional: bool = False
    """Tell both players the label: needs labelled data."""
    widths: tuple[Count, ...] = (768,) * 4
    """Channels of both players' maps, for each size from 4x4 pixels up to the image's."""
    blocks: Count = 2
    """Residual blocks for each size of map."""
    group_width: Count = 16
    """Channels that a group of a 3x3 convolution sees."""

    @property
    def ema_decay(self) -> network.Decay:
        """That of a half-life which grows from 0 to `ema_half_life` in the burn-in."""
        images = self.batch_size * self.num_discriminator_steps
        half_life = self.burn_in.schedule(0.0, self.ema_half_life, images)
        return lambda step: 0.5 ** (images / (half_life(step) + 1e-8))


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a number of widths that does not fit the images, a conditional network for data without labels,
        two augmentations, or a schedule beside the burn-in.
    """
    size, channels = square_size(spec.image_shape, "R3GAN"), spec.image_shape[2]
    check(config, size, spec.num_classes)
    after, schedule = config.burn_in, config.burn_in.schedule
    num_classes = spec.num_classes if config.conditional else 0
    blocks = {"blocks": config.blocks, "group_width": config.group_width}
    shared: Settings = {"num_classes": num_classes, "dtype": config.dtype} | blocks
    images = config.batch_size * config.num_discriminator_steps
    settings: Settings = {"condition": turns.told("label") if num_classes else None}
    for player, per_update in (("generator", images), ("discriminator", config.batch_size)):
        optimizer = config.optimizers[player]
        rate = schedule(optimizer.learning_rate, after.learning_rate, per_update)
        b2 = schedule(optimizer.b2, after.b2, per_update)
        settings[f"{player}_optimizer"] = optimizer.build(config.num_steps, rate=rate, b2=b2)
    settings["discriminator_terms"] = [
        turns.from_penalty(penalty(1.0), weight=schedule(first, after.gamma, images))
        for penalty, first in ((penalties.r1, config.r1), (penalties.r2, config.r2))
        if first > 0
    ]
    if after.augmentation > 0:
        settings["augment"] = augmentation.scheduled(schedule(0.0, after.augmentation, images))
    return two_player.build(
        dataclasses.replace(config, r1=0.0, r2=0.0),  # they are among the terms, whose weights can follow the step
        spec,
        networks.Generator(config.widths, channels, **shared),
        networks.Discriminator(config.widths, **shared),
        name="R3GAN",
        num_labels=num_classes,
        **settings,
    )


def check(config: Config, image_size: int, num_classes: int) -> None:
    """Raises a ValueError for settings that do not fit the data or each other."""
    largest = networks.image_size_of(config.widths)
    if image_size != largest:
        raise ValueError(
            f"--widths has {len(config.widths)} numbers, for maps of 4 to {largest} pixels, and the images have "
            f"{image_size}: give one for each of 4, 8, 16, ... up to the image's size"
        )
    if config.conditional and not num_classes:
        raise ValueError("--conditional tells both players a label, and these data have none; use --conditional False")
    if config.burn_in.augmentation > 0 and config.augmentation != "none":
        raise ValueError(f"give only one of --burn-in.augmentation and --augmentation {config.augmentation}")
    for name, optimizer in config.optimizers.items():
        if optimizer.schedule != "constant":
            raise ValueError(f"R3GAN's rates follow its burn-in: --{name}.schedule must be constant")


_NARROW: Settings = {"widths": (4, 4, 4, 2), "group_width": 2, "blocks": 1, "latent_dim": 4, "ema_half_life": 100.0}
_SHORT: Settings = {"batch_size": 8, "num_steps": 4, "burn_in": BurnIn(num_images=24, augmentation=0.5)}
TINY = Config(data=Data("emoji", image_size=32), conditional=True, **_NARROW, **_SHORT)

_PAPER = "Huang, Gokaslan, Kuleshov and Tompkin 2024"


def _published(what, fid, size, million_images, gamma, augmentation, classes=0, burn_in=20_000_000, **settings):
    folder = what.lower().replace("-", "")
    data = Data("folder", path=folder, image_size=size, labelled=None if classes else False)
    steps = million_images * 1_000_000 // settings["batch_size"]
    changes = BurnIn(num_images=burn_in, gamma=gamma / 10, augmentation=augmentation)
    shared: Settings = {"num_steps": steps, "sample_every": 5000, "checkpoint_every": 5000, "r1": gamma, "r2": gamma}
    return Preset(
        f"{what} at {size} pixels{' by class' if classes else ''}, by R3GAN as published; give --data.path"
        + (", one folder a class" if classes else ""),
        Config(data=data, conditional=classes > 0, burn_in=changes, **shared, **settings),
        paper=_PAPER,
        published=f"FID {fid} (50,000 drawn, training images)",
        spec=((size, size, 3), classes),
    )


_CIFAR: Settings = {"classes": 10, "batch_size": 512, "ema_half_life": 5e6}
_FACES: Settings = {"batch_size": 256, "ema_half_life": 5e5}
_IMAGENET: Settings = {"classes": 1000, "batch_size": 4096, "group_width": 32, "ema_half_life": 5e7}
_IMAGENET |= {"burn_in": 200_000_000}
_FASTER = dataclasses.replace(ADAM, learning_rate=1e-3)  # narrow networks and few steps bear, and need, a larger rate

PRESETS = {
    "emoji-r3gan": Preset(
        "32x32 colour emoji by a narrow R3GAN with a scheduled augmentation",
        Config(
            data=Data("emoji", image_size=32),
            widths=(128, 128, 64, 32),
            blocks=1,
            num_steps=5000,
            r1=3.0,
            r2=3.0,
            generator=_FASTER,
            discriminator=_FASTER,
            burn_in=BurnIn(num_images=100_000, learning_rate=2e-4, gamma=0.3, augmentation=0.3),
            ema_half_life=10_000,
        ),
        paper=_PAPER,
    ),
    "cifar-r3gan": _published("CIFAR-10", 1.96, 32, 250, 0.05, 0.55, **_CIFAR),
    "ffhq-r3gan-64": _published("FFHQ", 1.95, 64, 150, 2.0, 0.3, widths=(*[768] * 4, 384), **_FACES),
    "ffhq-r3gan-256": _published("FFHQ", 2.75, 256, 150, 150.0, 0.3, widths=(*[768] * 4, 384, 192, 96), **_FACES),
    "imagenet-r3gan-32": _published("ImageNet", 1.27, 32, 1000, 0.5, 0.5, widths=(1536,) * 4, **_IMAGENET),
    "imagenet-r3gan-64": _published("ImageNet", 2.09, 64, 1000, 1.0, 0.4, widths=(1536,) * 5, **_IMAGENET),
}
