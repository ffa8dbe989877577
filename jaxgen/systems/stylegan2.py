"""StyleGAN2 (Karras et al. 2020a), and its training with few images, ADA (Karras et al. 2020b).

The non-saturating loss with an R1 penalty; Adam with b1 = 0 and b2 = 0.99; a path-length term, which makes a step of
the styles as long in the picture wherever it is made; styles of two latents mixed in 9 of 10 images. R1 and the path
length are lazy: computed every 16 and every 4 steps, and weighing as many times as much. With `augmentation="adaptive"`
the discriminator sees images that are changed as often as keeps it from learning them by heart.

Deviations: `models.stylegan2` names those of the networks, `terms.path_length` those of its formula. A lazy term is
part of its step's update. In the papers it makes an update of its own, k + 1 in k steps, for which Adam's numbers are
corrected (the rate times k / (k + 1), its decays to that power), so that it moves as far as without; here k steps are k
updates, and nothing is to be corrected. The discriminator moves first, and the generator's update sees the same fake
images; there each draws its own. Labels of fake images are those of the batch's real ones: as frequent as in the data,
as there. The average covers the running mean of w, which the authors copy. Images are not mirrored, unless ADA does so.
ADA's p moves after each batch, by a running mean over about four; there after every fourth.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxgen import augmentation, network, turns
from jaxgen.losses import penalties, terms
from jaxgen.models import stylegan2 as networks
from jaxgen.options import Data, Optimizer, square_size
from jaxgen.ranges import Count, Positive, Weight, WholeShare
from jaxgen.system import Between, Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import style_spaces, two_player

GROUPS = {"bgcfnc"[:i]: augmentation.ALL[:i] for i in range(1, 7)}
_LAYERS = ("truncated_layers", "mixing")  # what is told as a number of layers
ADAM = Optimizer(learning_rate=2.5e-3, b1=0.0, b2=0.99)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.TwoPlayers):
    """StyleGAN2 for square images of 28, 32, 48, 64, 128, 256, 512, ... pixels."""

    latent_dim: Count = 512
    """Numbers of noise from which the generator makes an image."""
    style_dim: Count = 512
    """Numbers in a style w."""
    capacity: Count = 32768
    """A map of side s has capacity / s channels, in both players: 32768 is the papers' fmaps 1."""
    max_features: Count = 512
    """And at most so many."""
    mapping_layers: Count = 8
    """From a latent to a style."""
    class_conditional: bool = False
    """Tell both players the label: needs labelled data."""
    generator_architecture: Literal[*networks.GENERATORS] = "skip"
    """Pictures of all sizes added up, residual blocks, or a chain of convolutions."""
    discriminator_architecture: Literal[*networks.DISCRIMINATORS] = "residual"
    """Residual blocks, pictures of all sizes as input, or a chain of convolutions."""
    group_size: Count = 4
    """Images whose deviation from each other the discriminator sees; 1: none."""
    mixing_probability: WholeShare = 0.9
    """Of a second latent, whose styles an image has from some layer on."""
    r1: Weight = 1.0
    """Weight gamma of the R1 penalty gamma/2 E|grad D(real)|^2."""
    r1_every: Count = 16
    """Steps from one R1 penalty to the next, which weighs as many times as much."""
    path_length: Weight = 2.0
    """Weight of the path-length term."""
    path_length_every: Count = 4
    """Steps from one to the next."""
    generator: Optimizer = ADAM
    """The generator's optimiser."""
    discriminator: Optimizer = ADAM
    """The discriminator's optimiser; two learning rates are TTUR."""
    ema_half_life: Weight = 20_000.0
    """Of the moving average of the weights, in images; 0: the latest weights."""
    ema_ramp_up: Weight = 0.0
    """The half-life is at most this share of the images seen so far; 0: the average starts as a plain mean."""
    augmentation_groups: Literal[*GROUPS] = "bgc"
    """Of the adaptive augmentation: blits, geometric changes, colours, filters, noise, cutouts."""
    augmentation_target: WholeShare = 0.6
    """Of the adaptive augmentation: how much more often than not real images may be judged real."""
    augmentation_images: Positive = 500_000
    """Of the adaptive augmentation: images in which its probability goes from 0 to 1 at most."""

    @property
    def ema_decay(self) -> network.Decay:
        """The half-life as decay a step, from a ramp where there is one."""
        if self.ema_ramp_up == 0 or self.ema_half_life == 0:
            return super().ema_decay

        def decay(step):
            half_life = jnp.minimum(self.ema_half_life, self.ema_ramp_up * self.batch_size * step)
            return 0.5 ** (self.batch_size / jnp.maximum(half_life, 1e-8))

        return decay


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a size without a network, or labels to be told that the data do not have.
    """
    size, channels = square_size(spec.image_shape, "StyleGAN2"), spec.image_shape[2]
    if config.class_conditional and not spec.num_classes:
        raise ValueError("the players are to be told labels, and these data have none; use --class-conditional False")
    num_classes, num_layers = spec.num_classes if config.class_conditional else 0, networks.num_layers_of(size)
    shared = {"capacity": config.capacity, "max_features": config.max_features, "dtype": config.dtype}
    shared["num_classes"] = num_classes
    generator = networks.Generator(
        size,
        channels,
        style_dim=config.style_dim,
        mapping_layers=config.mapping_layers,
        architecture=config.generator_architecture,
        mixing_probability=config.mixing_probability,
        **shared,
    )
    settings: Settings = {"condition": turns.told("label")} if num_classes else {}
    if config.augmentation == "adaptive":
        settings["augment"] = augmentation.adaptive(
            config.batch_size,
            target=config.augmentation_target,
            num_images=config.augmentation_images,
            pipeline=augmentation.pipeline(*GROUPS[config.augmentation_groups]),
        )
    if config.r1 > 0:
        settings["discriminator_terms"] = [turns.from_penalty(penalties.r1(config.r1), every=config.r1_every)]
    if config.path_length > 0:
        settings["generator_terms"] = [terms.path_length(config.path_length, every=config.path_length_every)]
    system = two_player.build(
        config,
        spec,
        generator,
        networks.Discriminator(architecture=config.discriminator_architecture, group_size=config.group_size, **shared),
        name="StyleGAN2",
        num_labels=num_classes,
        choices={
            "truncation": Between(0.0, 1.0, "of the way from the mean style to an image's own is gone"),
            **dict.fromkeys(_LAYERS, num_layers + 1),
            **dict.fromkeys(("fine", "toward"), "latents"),
            "share": Between(0.0, 1.0, "of the way between two styles is gone"),
        },
        penalties=dataclasses.replace(config, r1=0.0).penalties,
        **settings,
    )

    def draw(variables, key, n, **told):
        if told.get("mixing") is not None and told.get("fine") is None:
            told["fine"] = system.latents(jax.random.fold_in(key, 3), n)
        return system.draw(variables, key, n, **told)

    return dataclasses.replace(system, draw=draw, spaces=style_spaces.spaces_of(generator, num_layers))


_THIN: Settings = {"latent_dim": 6, "style_dim": 6, "capacity": 32, "max_features": 6, "mapping_layers": 1}
_LAZY: Settings = {"r1_every": 3, "path_length_every": 3}
_ADAPTIVE: Settings = {"augmentation": "adaptive", "augmentation_images": 32}
_ADAPTIVE |= {"ema_half_life": 100.0, "ema_ramp_up": 0.05}
TINY = Config(
    data=Data("emoji", image_size=8), class_conditional=True, batch_size=8, num_steps=4, **_THIN, **_LAZY, **_ADAPTIVE
)

_PAPER = "Karras, Laine, Aittala, Hellsten, Lehtinen and Aila 2020"
_ADA = f"{_PAPER}; adaptive augmentation of Karras, Aittala, Hellsten, Laine, Lehtinen and Aila 2020"
_LONG: Settings = {"batch_size": 64, "sample_every": 5000, "checkpoint_every": 5000}
_EMOJI = Data("emoji", image_size=32)  # widths and steps that two CPU cores bear
_NARROW: Settings = {"latent_dim": 128, "style_dim": 128, "capacity": 1024, "max_features": 128, "mapping_layers": 2}
_SHORT: Settings = {"batch_size": 32, "num_steps": 6000, "ema_half_life": 10_000.0, "r1": 0.1}
_SHORT |= {"augmentation": "adaptive", "augmentation_images": 100_000}
_CIFAR: Settings = {"mapping_layers": 2, "discriminator_architecture": "orig", "group_size": 32, "r1": 0.01}
_CIFAR |= {"class_conditional": True, "augmentation": "adaptive", "mixing_probability": 0.0, "path_length": 0.0}
_CIFAR |= {"ema_half_life": 500_000.0, "ema_ramp_up": 0.05}


def _faces(image_size, published="", **settings):
    data = Data("folder", path="ffhq", image_size=image_size, labelled=False)
    return Preset(
        f"faces (FFHQ) at {image_size} pixels, by StyleGAN2 as in the paper on ADA; give --data.path, a folder",
        Config(data=data, num_steps=25_000_000 // 64, group_size=8, **_LONG, **settings),
        paper=_PAPER,
        published=published,
        spec=((image_size, image_size, 3), 0),
    )


PRESETS = {
    "emoji-stylegan2": Preset(
        "32x32 colour emoji by a narrow StyleGAN2 with ADA", Config(data=_EMOJI, **_NARROW, **_SHORT), paper=_ADA
    ),
    "cifar-stylegan2": Preset(
        "CIFAR-10 by class, by StyleGAN2 with ADA as published; give --data.path, one folder a class",
        Config(data=Data("folder", path="cifar10", image_size=32), num_steps=100_000_000 // 64, **_LONG, **_CIFAR),
        paper=_ADA,
        published="FID 2.42, IS 10.14 (50,000 drawn, training images); a reproduction 2.31, 10.46 (PyTorch-StudioGAN)",
        spec=((32, 32, 3), 10),
    ),
    "ffhq-stylegan2-256": _faces(256, capacity=16384),
    "ffhq-stylegan2-512": _faces(512, r1=0.5),
}
