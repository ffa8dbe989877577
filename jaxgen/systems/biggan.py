"""BigGAN and BigGAN-deep: class-conditional players at scale (Brock, Donahue and Simonyan 2019).

SAGAN made wider, in large batches, told the class by one embedding that all of the generator's normalisations share,
each beside a chunk of the latent. Both players are spectrally normalised and orthogonal at first; a term keeps the
generator's filters apart (`orthogonal`). Hinge loss, Adam with b1 = 0 and b2 = 0.999, two discriminator steps, an
average of the generator's weights. Latents are standard normal; truncation belongs to sampling, not to training.

The orthogonal term is of every kernel of the generator, normalisations included, and of no embedding or table.

Deviations: `models.biggan` names those of the networks. The generator's update sees the fake images of the
discriminator's last one, where the paper draws new ones, with the labels of the batch in another order
(`turns.told_shuffled_labels`), which the paper draws all alike. The average starts as a plain mean and covers the
running batch statistics, with which images are drawn; the paper draws with statistics of many batches ("standing
statistics"). For CIFAR the settings are those of the first author's PyTorch code, except epsilon (there 1e-5 and 1e-8)
and that the average starts at once; the discriminator is its narrower one. At 256 pixels latents are that code's, seven
chunks of 17 (82,108,548 parameters); the paper has chunks of 20 (`--latent-dim 140`: 82,235,844).
"""

import dataclasses
import math
from typing import Literal

from jax import nn

from jaxgen import turns
from jaxgen.losses import terms
from jaxgen.models import biggan as networks
from jaxgen.options import LOSSES, Data, Optimizer, lookup, square_size
from jaxgen.ranges import Count, CountOrZero, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import two_player

INITIALISERS = {"orthogonal": networks.orthogonal_init, "normal": nn.initializers.normal(0.02)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.TwoPlayers):
    """A wide residual GAN for labelled square images of 28, 32, 64, 128 or 256 pixels."""

    latent_dim: Count = 120
    """Numbers of noise from which the generator makes an image; a multiple of its blocks and one, for the chunks."""
    loss: Literal[*LOSSES] = "hinge"
    """Of both players."""
    generator: Optimizer = Optimizer(learning_rate=5e-5, b1=0.0, b2=0.999)
    """The generator's optimiser."""
    discriminator: Optimizer = Optimizer(learning_rate=2e-4, b1=0.0, b2=0.999)
    """The discriminator's optimiser; two learning rates are TTUR."""
    num_discriminator_steps: Count = 2
    """Discriminator updates for each generator update, each on fresh images."""
    orthogonal: Weight = 1e-4
    """Weight of the orthogonal term sum |W'W * (1 - I)|^2 of the generator."""
    features: Count = 96
    """Width of both players: of the generator's last map, and of the discriminator's first."""
    embedding_dim: CountOrZero = 128
    """Numbers in the class embedding; 0: no embedding and no chunks, but a table for each normalisation."""
    deep: bool = False
    """BigGAN-deep: blocks of four convolutions, two at each size; all of the latent is seen everywhere."""
    discriminator_wide: bool = True
    """Hidden maps of the discriminator's blocks are as wide as their output, or as their input, as in SNGAN."""
    attention: CountOrZero | None = None
    """Side of the map that attends to itself, in both players; the published one by default; 0: none."""
    initialisation: Literal[*INITIALISERS] = "orthogonal"
    """Of kernels and embeddings: orthogonal, or normal with deviation 0.02."""


def build(config: Config, spec: Spec) -> System:
    """The system for labelled images of a shape.

    Raises:
      ValueError: for data without labels, a size without a network, or attention to a map that is not there.
    """
    size, channels, num_classes = square_size(spec.image_shape, "BigGAN"), spec.image_shape[2], spec.num_classes
    if not num_classes:
        raise ValueError(
            "BigGAN is told labels, and these data have none; put images into one folder a class, or choose an sngan "
            "or sagan preset"
        )
    shared = {
        "features": config.features,
        "num_classes": num_classes,
        "deep": config.deep,
        "attention": config.attention,
        "kernel_init": lookup(INITIALISERS, config.initialisation, "initialisation"),
        "dtype": config.dtype,
    }
    return two_player.build(
        config,
        spec,
        networks.Generator(size, channels, embedding_dim=config.embedding_dim, **shared),
        networks.Discriminator(wide=config.discriminator_wide, **shared),
        name="BigGAN-deep" if config.deep else "BigGAN",
        num_labels=num_classes,
        condition=turns.told_shuffled_labels(),
        generator_terms=[terms.orthogonal(config.orthogonal)] if config.orthogonal > 0 else [],
    )


TINY = Config(features=2, embedding_dim=4, latent_dim=6, batch_size=8, num_steps=4, ema_half_life=100.0)

_PAPER = "Brock, Donahue and Simonyan 2019"


def _averaged(batch_size):
    """A batch size, and the half-life in images of the paper's decay of 0.9999 a step."""
    return {"batch_size": batch_size, "ema_half_life": round(batch_size * math.log(0.5) / math.log(0.9999), -2)}


def _imagenet(image_size, about, published="", latent_dim=120, **settings):
    large = {"num_steps": 165_000, "sample_every": 1000, "checkpoint_every": 1000} | _averaged(2048)
    data = Data("folder", path="imagenet", image_size=image_size)
    return Preset(
        f"ImageNet at {image_size} pixels by class, {about}; give --data.path, one folder a class",
        Config(data=data, latent_dim=latent_dim, **large | settings),
        paper=_PAPER,
        published=published,
        spec=((image_size, image_size, 3), 1000),
    )


_DEEP = {"deep": True, "features": 128, "latent_dim": 128}
_SLOWER = Optimizer(learning_rate=2.5e-5, b1=0.0, b2=0.999)
_CIFAR = Optimizer(learning_rate=2e-4, b1=0.0, b2=0.999)

PRESETS = {
    "cifar-biggan": Preset(
        "CIFAR-10 by class, by BigGAN as in its first author's code; give --data.path, one folder a class",
        Config(
            data=Data("folder", path="cifar10", image_size=32),
            num_steps=125_000,
            sample_every=5000,
            checkpoint_every=5000,
            latent_dim=128,
            features=64,
            embedding_dim=0,
            initialisation="normal",
            orthogonal=0.0,
            discriminator_wide=False,
            num_discriminator_steps=4,
            generator=_CIFAR,
            discriminator=_CIFAR,
            **_averaged(50),
        ),
        paper=_PAPER,
        published="FID 14.73; a reproduction FID 4.16, IS 9.96 (PyTorch-StudioGAN, training images)",
        spec=((32, 32, 3), 10),
    ),
    "imagenet-biggan-64": _imagenet(64, "by BigGAN with the settings of 128 pixels, narrower", features=64),
    "imagenet-biggan-128": _imagenet(128, "by BigGAN as published", "FID 8.7, IS 98.8 (latents not truncated)"),
    "imagenet-biggan-256": _imagenet(
        256, "by BigGAN as published", "FID 8.7, IS 142.3 (latents not truncated)", latent_dim=119
    ),
    "imagenet-biggan-deep-128": _imagenet(
        128, "by BigGAN-deep as published", "FID 5.7, IS 124.5 (latents not truncated)", **_DEEP
    ),
    "imagenet-biggan-deep-256": _imagenet(
        256,
        "by BigGAN-deep as published",
        "FID 6.9, IS 171.4 (latents not truncated)",
        generator=_SLOWER,
        discriminator=_SLOWER,
        **_DEEP,
    ),
}
