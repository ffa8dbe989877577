"""VQGAN: an autoencoder with codes and an adversary that judges patches (Esser, Rombach and Ommer 2021).

The autoencoder is the generator, told the image. It minimises

    mean |x - x'| + perceptual distance + codebook and commitment terms + lambda (-E D(x')),
    lambda = 0.8 min(|grad of the first two| / (|grad of -E D| + 1e-4), 10^4), gradients at the decoder's last kernel,

and the discriminator the hinge loss. Both wait for the adversary until step `start`: lambda is 0 before it, and the
discriminator's optimiser begins there. beta = 0.25 weighs the commitment, as the paper says; its code has long weighed
the other term. At 256 pixels the network for 16x16 codes has 72,141,699 parameters, codebook included.

With `--latents gaussian` it is the autoencoder of latent diffusion (Rombach et al. 2022): a diagonal Gaussian in the
place of codes, whose rate in nats weighs 1e-6 beside the sum over an image of what is the mean here: all is divided by
the numbers in an image, the bound of lambda, too.

The perceptual distance is of a network that is not trained: `shipped`, the package's classifier of such images, or
VGG-16 (LPIPS, as in the paper) with the weights of a file of yours: `losses.perceptual.vgg` tells what is in it.

Deviations: the published presets have no perceptual distance unless such a file is given. Their rate is 4.5e-6 for each
image of a batch; batch and length are ours. The discriminator's loss is not halved, which Adam would not notice. There
is no prior of codes, so nothing is drawn.
"""

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp

from jaxgen import network, optim, turns
from jaxgen.losses import perceptual as distances
from jaxgen.losses import terms
from jaxgen.models import vqgan as networks
from jaxgen.options import LOSSES, Data, Optimizer
from jaxgen.ranges import Count, CountOrZero, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import reconstructing, two_player
from jaxgen.systems.shared.vector_quantised import Quantiser

ADAM = Optimizer(learning_rate=5.4e-5, b1=0.5, b2=0.9)
LAST_LAYER = ("decoder", "output", "kernel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(two_player.TwoPlayers):
    """An autoencoder with an adversary, for images whose sides are multiples of 2^(number of multiples - 1)."""

    latent_dim: Count = 256
    """Channels of the map that the decoder begins with; for gaussian latents their numbers at each position."""
    latents: Literal["codes", "gaussian"] = "codes"
    """What is between encoder and decoder: codes, or draws of a Gaussian."""
    quantiser: Quantiser = Quantiser("gradient", 1024, 256)
    """How vectors become codes, for codes."""
    rate_weight: Weight = 1e-6
    """Weight of the rate (KL divergence) beside errors summed over an image, for gaussian latents."""
    features: Count = 128
    """Channels of maps, times the multiples."""
    multiples: tuple[Count, ...] = (1, 1, 2, 2, 4)
    """Of the features, for each size of map from the image's down; each is half the one before."""
    blocks: Count = 2
    """Residual blocks of the encoder for each size of map; the decoder has one more."""
    attention: CountOrZero = 16
    """Side of the maps that attend; 0: none but in the middle."""
    discriminator_features: Count = 64
    """Channels of the discriminator's first layer."""
    halvings: Count = 3
    """Halvings of an image before the discriminator judges patches of it."""
    pixels: Weight = 1.0
    """Weight of the mean absolute error."""
    perceptual: str = "shipped"
    """Network of the perceptual distance: shipped, none, or the path of a .npz with VGG-16's weights."""
    perceptual_weight: Weight = 1.0
    """Weight of the perceptual distance."""
    adversarial: Weight = 0.8
    """Factor of the adaptive weight of the adversary."""
    start: CountOrZero = 10_000
    """Step at which the discriminator begins to learn, and to count."""
    loss: Literal[*LOSSES] = "hinge"
    """Of both players."""
    generator: Optimizer = ADAM
    """The autoencoder's optimiser."""
    discriminator: Optimizer = ADAM
    """The discriminator's optimiser, from step `start` on."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a shipped perceptual network that there is not, a number of codes that the quantiser cannot have;
        when it is traced, for sides that cannot be halved so often.
      FileNotFoundError: for a file of weights that there is not.
    """
    gaussian = config.latents == "gaussian"
    quantiser = networks.Gaussian(config.latent_dim) if gaussian else config.quantiser.build()
    sizes: Settings = {name: getattr(config, name) for name in ("features", "multiples", "blocks", "attention")}
    widths = (spec.image_shape[2], config.latent_dim, config.latent_dim * (2 if gaussian else 1))
    model = networks.VQGAN(quantiser, *widths, dtype=config.dtype, **sizes)
    perceptual = distances.named(config.perceptual, spec.image_shape) if config.perceptual_weight > 0 else None
    scale = math.prod(spec.image_shape) if gaussian else 1
    of_quantiser = turns.term(
        lambda turn: turn.generated_aux["loss"],
        name="rate" if gaussian else "quantiser",
        weight=config.rate_weight / scale if gaussian else 1.0,
    )

    def distance(turn, image):
        return perceptual.distance(turn.frozen, image, turn.real)

    def distortion(turn, output):
        image, _ = network.split_output(output)
        value = config.pixels * jnp.mean(jnp.abs(image - turn.real))
        return value if perceptual is None else value + config.perceptual_weight * jnp.mean(distance(turn, image))

    adaptive = terms.adaptive_weight(distortion, LAST_LAYER, factor=config.adversarial, most=1e4 / scale)
    generator_terms = [terms.reconstruction(config.pixels), of_quantiser]
    if perceptual is not None:
        of_maps = turns.term(lambda turn: distance(turn, turn.fake), name="perceptual", weight=config.perceptual_weight)
        generator_terms.append(of_maps)
    updates = config.num_steps * config.num_discriminator_steps
    system = two_player.build(
        config,
        spec,
        model,
        networks.Discriminator(config.discriminator_features, config.halvings, dtype=config.dtype),
        name="autoencoder with an adversary" if gaussian else "VQGAN",
        latent_dim=None,
        condition=lambda batch, step, key: turns.Conditions(generator=batch["image"]),
        generator_terms=generator_terms,
        adversarial_weight=lambda turn: jnp.where(turn.step < config.start, 0.0, adaptive(turn)),
        discriminator_optimizer=optim.starting_at(
            config.start * config.num_discriminator_steps, config.discriminator.build(updates)
        ),
        frozen=None if perceptual is None else perceptual.weights,
    )
    sides = tuple(side >> (len(config.multiples) - 1) for side in spec.image_shape[:2])
    of_latents = (*sides, config.latent_dim) if gaussian else sides
    return reconstructing.instead_of_drawing(system, config, model, of_latents, 0 if gaussian else quantiser.num_codes)


_FEW: Settings = {"features": 4, "multiples": (1, 2), "blocks": 1, "attention": 0, "latent_dim": 5, "halvings": 1}
_SHORT: Settings = {"discriminator_features": 4, "start": 2, "batch_size": 8, "num_steps": 4}
TINY = Config(quantiser=Quantiser("gradient", 6, 3), **_FEW, **_SHORT)

_PAPER = "Esser, Rombach and Ommer 2021"
_KL = "Rombach, Blattmann, Lorenz, Esser and Ommer 2022"
_OFTEN: Settings = dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 5000)
_PUBLISHED: Settings = {"batch_size": 12, "num_steps": 500_000, "perceptual": "none", **_OFTEN}
_FASTER = dataclasses.replace(ADAM, learning_rate=2e-4)
_NARROW: Settings = {
    **{"data": Data("emoji", image_size=32), "features": 32, "multiples": (1, 2, 2), "blocks": 1, "attention": 8},
    **{"discriminator_features": 32, "halvings": 2, "start": 2000, "num_steps": 6000},
    **{"generator": _FASTER, "discriminator": _FASTER, "ema_half_life": 10_000, "evaluate_every": 1000},
}


def _images(name):
    return Data("folder", path=name, image_size=256, labelled=False)


PRESETS = {
    "emoji-vqgan": Preset(
        "32x32 colour emoji as 8x8 codes of 256, by a narrow VQGAN",
        Config(latent_dim=64, quantiser=Quantiser("ema", 256, 16, restart_below=0.5, k_means=True), **_NARROW),
        paper=_PAPER,
    ),
    "emoji-klgan": Preset(
        "32x32 colour emoji as 8x8 draws of 4 numbers, by a narrow autoencoder with an adversary",
        Config(latents="gaussian", latent_dim=4, adversarial=0.5, **_NARROW),
        paper=_KL,
    ),
    "imagenet-vqgan-f16": Preset(
        "ImageNet at 256 pixels as 16x16 codes of 1024, by VQGAN; give --data.path, and --perceptual FILE for LPIPS",
        Config(data=_images("imagenet"), start=250_001, **_PUBLISHED),
        paper=_PAPER,
        published="FID of reconstructions 7.94 (validation images), 10.54 (training images), with LPIPS",
        spec=((256, 256, 3), 0),
    ),
    "openimages-klgan-f8": Preset(
        "photographs at 256 pixels as 32x32 draws of 4 numbers; give --data.path, and --perceptual FILE for LPIPS",
        Config(
            data=_images("openimages"),
            latents="gaussian",
            latent_dim=4,
            multiples=(1, 2, 4, 4),
            attention=0,
            adversarial=0.5,
            start=50_001,
            **_PUBLISHED,
        ),
        paper=_KL,
        spec=((256, 256, 3), 0),
    ),
}
