"""DeblurGAN: blurred photographs made sharp by a residual translator and a critic (Kupyn, Budzan, Mykhailych, Mishkin
and Matas 2018).

The generator adds what its network finds to the source y; the critic D judges images alone:

    G(y) = clip(y + net(y), -1, 1)
    generator    -E D(G(y)) + 100 distance(G(y), x)
    critic       E D(G(y)) - E D(x) + 10 E (|grad D(x')| - 1)^2,    x' at random between x and G(y)

The network is CycleGAN's of nine blocks, instance normalisation and tanh, with dropout of one half after the first
convolution of each block, which stays at test time. The critic judges patches of 70 pixels, with instance
normalisation after all convolutions but the first and the last, and borders of two pixels, as in the authors' code;
five of its updates go before each of the generator's. Adam at 1e-4, b1 = 0.5, a batch of one, patches of 256x256
pixels, the rate constant in the first half of the steps and linear to 0 in the second.

Deviations: the distance is that of `srgan`, of the package's classifier or of VGG-16 with the weights of a file of
yours (`--perceptual FILE`); the paper's is the squared difference of one map of VGG-19 (the third convolution of its
third stage). Each update of the critic has images of its own; in the authors' code the five share a batch. The penalty
is of the gradient of a picture's mean logit, in the norm of the whole picture, as WGAN-GP has it; their code sums the
logits, and has a norm at each pixel. Patches are turned by quarters, too, not only mirrored. The paper also trains on
photographs that it blurs along random trajectories; here are only the pairs that you give.
The emoji's preset has narrower networks, a critic that sees 34 pixels, and a larger batch.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
from flax import linen as nn

from jaxgen import restoration
from jaxgen.models import patchgan, resnet_generator
from jaxgen.models.restoring import at_multiples
from jaxgen.options import LOSSES, Data, Optimizer
from jaxgen.ranges import Count, Share, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import adversarial_restoring, restoring
from jaxgen.systems.shared.degrading import Degradation

ADAM = Optimizer(learning_rate=1e-4, b1=0.5, schedule="linear_half")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(adversarial_restoring.AdversarialRestoring):
    """A residual translator and a critic of patches, for sources of the size of the images."""

    source: Degradation = Degradation("blur")
    """What spoils the images, unless the data bring sources."""
    features: Count = 64
    """Channels of the generator's first map, doubled at each halving."""
    halvings: Count = 2
    """Of an image in the generator."""
    blocks: Count = 9
    """The generator's residual blocks."""
    dropout: Share = 0.5
    """Share of the numbers that each block drops after its first convolution."""
    dropout_at_test: bool = True
    """Whether it drops them when it restores, too, by a key."""
    discriminator_features: Count = 64
    """Channels of the critic's first map."""
    discriminator_layers: Count = 3
    """Of the critic that halve: a logit sees 70 pixels with 3, and 16, 34, 142 with 1, 2, 4."""
    loss: Literal[*LOSSES] = "wasserstein"
    """Of both players."""
    gradient_penalty: Weight = 10.0
    """Weight of the WGAN-GP penalty."""
    num_discriminator_steps: Count = 5
    """Critic updates for each generator update, each on fresh images."""
    pixels: Weight = 0.0
    """Weight of the mean absolute difference to the image."""
    perceptual_weight: Weight = 100.0
    """Weight of the perceptual distance."""
    adversarial: Weight = 1.0
    """Weight of the adversarial loss in the generator's."""
    batch_size: Count = 1
    """Images in an update, over all devices and hosts."""
    generator: Optimizer = ADAM
    """The generator's optimiser."""
    discriminator: Optimizer = ADAM
    """The critic's optimiser."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for sources of another size than the images, nothing that compares the output with the image, or a
        shipped perceptual network that there is not; when it is traced, for sides that cannot be halved so often.
      FileNotFoundError: for a file of weights that there is not.
    """
    restoring.need_equal_sizes(spec, "DeblurGAN")
    if not config.pixels and not config.start and (config.perceptual == "none" or not config.perceptual_weight):
        raise ValueError(
            "nothing tells the generator which image its source is of: give --perceptual shipped or a file, or --pixels"
        )
    generator = resnet_generator.ResNetGenerator(
        spec.image_shape[2],
        config.features,
        config.halvings,
        config.blocks,
        dtype=config.dtype,
        dropout=config.dropout,
        dropout_at_test=config.dropout_at_test,
        residual=True,
    )
    critic = patchgan.PatchDiscriminator(
        config.discriminator_features, config.discriminator_layers, "instance", padding=2, dtype=config.dtype
    )
    return adversarial_restoring.build(config, spec, generator, critic, name="DeblurGAN", restore=restore)


def restore(generator: nn.Module, variables: Any, source: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
    """`restoration.restore` of sources of any size, which are continued to sides that can be halved."""
    run = functools.partial(restoration.restore, generator, variables, key=key)
    return at_multiples(run, source, generator.factor)


_SMALL: Settings = {"features": 2, "blocks": 1, "discriminator_features": 2, "discriminator_layers": 1}
TINY = Config(data=Data("emoji", image_size=32), batch_size=8, num_steps=4, num_discriminator_steps=2, **_SMALL)

_PAPER = "Kupyn, Budzan, Mykhailych, Mishkin and Matas 2018"
_OFTEN: Settings = dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 5000)

PRESETS = {
    "emoji-deblurgan": Preset(
        "64x64 colour emoji from blur of 1.6 pixels with noise of 2 levels, by a narrow DeblurGAN",
        Config(
            data=Data("emoji"),
            features=24,
            blocks=4,
            discriminator_features=16,
            discriminator_layers=2,
            batch_size=4,
            num_steps=1500,
            evaluate_every=500,
        ),
        paper=_PAPER,
        measured="not run to its end; with --num-steps 800 PSNR 20.49 dB, SSIM 0.665 in 27 minutes of one core of an "
        "AMD EPYC beside other work (blurred 21.71 and 0.775): sharp edges, dotted by its transposed convolutions; one "
        "seed, 2026-12-01",
    ),
    "gopro-deblurgan": Preset(
        "photographs (GoPro) without their blur, by DeblurGAN; give --data.path and --data.target-path, folders of "
        "320x320 pieces of them at half their size, and --perceptual FILE",
        Config(
            data=Data("pairs", path="gopro/source", target_path="gopro/target", image_size=320),
            patch=256,
            num_steps=300_000,  # 300 passes of the paper's 1,000 photographs
            **_OFTEN,
        ),
        paper=_PAPER,
        published="PSNR 28.7 dB, SSIM 0.958 (GoPro); with the authors' weights a user found 25.2 dB (issue 106 of "
        "their repository)",
        spec=((320, 320, 3), 0),
    ),
}
