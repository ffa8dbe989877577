"""The work that `benchmark.py` times, and its FLOPs by hand. Both sides build it from here: neither JAX nor PyTorch."""

import dataclasses
import itertools
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Case:
    """A game of two networks, one step of both. Both workers build it from these numbers."""

    name: str
    loss: str  # "non_saturating", "wasserstein" or "hinge"
    network: str = "dcgan"  # or "sngan"
    batch_norm: bool = False  # in DCGAN's discriminator
    penalty: str | None = None  # "r1" or "gradient_penalty"
    penalty_weight: float = 0.0
    dtype: str = "float32"  # of the computation; weights are float32
    batch_size: int = 64
    features: int = 64  # DCGAN: of the layer next to the image; SNGAN: of the discriminator, half the generator's
    image_size: int = 32
    channels: int = 3
    latent_dim: int = 100
    learning_rate: float = 2e-4
    b1: float = 0.5
    b2: float = 0.999
    ema_decay: float = 0.999


@dataclasses.dataclass(frozen=True)
class Stage:
    """A piece of a network, one step of training. Both workers build it from these numbers.

    It is given x [batch_size, image_size, image_size, channels]: images, or a map from the middle of a network. Then
    the rest of that network would want the gradient in x, and in what else the stage is given: it is computed, too.
    """

    name: str
    batch_size: int
    image_size: int  # of x
    channels: int  # of x
    features: int  # of the convolutions within; U-Net: of those next to the image
    on_images: bool = False
    num_blocks: int = 1
    condition_dim: int = 0  # of the vector that modulates the maps
    group_width: int = 0  # channels of each group of a grouped convolution
    dtype: str = "float32"  # of the computation; weights are float32
    learning_rate: float = 1e-4


@dataclasses.dataclass(frozen=True)
class System:
    """A published system as one of jaxgen's presets has it, without augmentation: one step of all that is trained.

    jaxgen's side builds it from the preset and tells PyTorch's side the `settings`, and the shapes of a `batch`.
    """

    name: str
    preset: str
    batch_size: int  # of each update
    changes: dict = dataclasses.field(default_factory=dict)  # of the preset's settings
    period: int = 1  # steps, after which the work of a step comes again
    num_classes: int = 0
    image_size: int = 32
    channels: int = 3
    dtype: str = "float32"  # of the computation; weights are float32
    check_learning_rate: float = 0.05  # of plain gradient descent, in the step that is compared
    check_change: float = 0.3  # of all weights before it, in units of their size: none of them is then 0 or 1
    settings: dict = dataclasses.field(default_factory=dict)  # all of them, by the preset's names
    batch: dict = dataclasses.field(default_factory=dict)  # name -> shape, [B, H, W, C] of images


Work = Case | Stage | System

# ESRGAN half as wide, with 6 of 23 blocks, its adversary from step 0 on, and the package's perceptual network.
NARROW_RRDB = {"start": 0, "perceptual": "shipped", "features": 32, "blocks": 6, "growth": 16}

CASES = {
    case.name: case
    for case in (
        Case("dcgan", "non_saturating", batch_norm=True),
        Case("dcgan-r1", "non_saturating", penalty="r1", penalty_weight=1.0),
        Case("dcgan-gp", "wasserstein", penalty="gradient_penalty", penalty_weight=10.0, b1=0.0),
        Case("sngan", "hinge", network="sngan", batch_size=32, latent_dim=128, b1=0.0, b2=0.9),
        Case("sngan-published", "hinge", network="sngan", features=128, latent_dim=128, b1=0.0, b2=0.9),
        Case(
            "resnet-r1",
            "hinge",
            network="sngan",
            penalty="r1",
            penalty_weight=1.0,
            batch_size=32,
            latent_dim=128,
            b1=0.0,
            b2=0.9,
        ),
        Stage("denoiser", 16, image_size=48, channels=3, features=64, on_images=True, num_blocks=16),
        Stage("unet", 8, image_size=64, channels=3, features=64, on_images=True),
        Stage("biggan-stage", 16, image_size=16, channels=384, features=192, condition_dim=148),
        Stage("modulated", 8, image_size=32, channels=256, features=256, num_blocks=2, condition_dim=512),
        Stage("r3gan-block", 32, image_size=16, channels=192, features=384, num_blocks=2, group_width=16),
        Stage("vdvae-block", 16, image_size=32, channels=384, features=96, num_blocks=2),
        System("sagan", "emoji-sagan", 64, check_learning_rate=1e-3),
        System("biggan", "cifar-biggan", 50, {"features": 16}, num_classes=10, check_learning_rate=3e-5),
        System("stylegan2", "emoji-stylegan2", 32, period=16),
        System("r3gan", "emoji-r3gan", 64),
        System("progan", "emoji-progan", 16),
        System("fastgan", "emoji-fastgan", 16, check_learning_rate=1e-3),
        System("wgan-gp", "emoji-wgan-gp", 64),
        System("ssgan", "emoji-ssgan", 64, check_learning_rate=1e-3),
        System("cgan", "mnist-cgan", 64, num_classes=10, image_size=28, channels=1),
        System("acgan", "mnist-acgan", 64, num_classes=10, image_size=28, channels=1),
        System("pix2pix", "emoji-pix2pix", 16, image_size=64),
        System(
            "pix2pixhd",
            "cityscapes-pix2pixhd",
            1,
            {"features": 16, "discriminator_features": 16},
            image_size=256,
            check_learning_rate=1e-3,
        ),
        System("cyclegan", "emoji-cyclegan", 8),
        System("cut", "emoji-cut", 8),
        System("stargan", "mnist-stargan", 32, num_classes=10, image_size=28, channels=1),
        System("gated", "emoji-gated", 16, image_size=64),
        System("context", "emoji-context-encoder", 64, image_size=64),
        System("vae-gan", "emoji-vae-gan", 64),
        System("vqgan", "emoji-vqgan", 64, {"start": 0}),
        System("aae", "mnist-aae", 100, image_size=28, channels=1),
        System("bigan", "mnist-bigan", 128, image_size=28, channels=1),
        System("lama", "emoji-lama", 16, image_size=64),
        System("factor-vae", "mnist-factor-vae", 64, image_size=28, channels=1),
        System("classifier", "mnist-cnn", 100, {"shift": 0}, num_classes=10, image_size=28, channels=1),
        System("vae", "mnist-vae", 100, image_size=28, channels=1),
        System("cvae", "mnist-cvae", 100, num_classes=10, image_size=28, channels=1),
        System("m2", "mnist-m2", 100, num_classes=10, image_size=28, channels=1),
        System("regularised", "mnist-beta-tcvae", 100, image_size=28, channels=1),
        System("flexible", "mnist-vampprior", 100, image_size=28, channels=1),
        System("iwae", "mnist-iwae-1", 20, image_size=28, channels=1),
        System("vqvae", "emoji-vqvae", 64),
        System("vqvae2", "emoji-vqvae2", 64),
        System("dvae", "emoji-dvae", 64),
        System("vdvae", "emoji-vdvae", 32),
        System("srcnn", "emoji-srcnn-x2", 16, image_size=64),
        System("srgan", "emoji-srgan-x4", 16, {"start": 0}, image_size=64),
        System(
            "esrgan",
            "df2k-esrgan-x4",
            4,
            NARROW_RRDB | {"discriminator_features": 32},
            image_size=128,
            check_learning_rate=1e-3,
            check_change=2.0,  # batch normalisation of images of one colour, as it makes them at first, is of rounding
        ),
        System(
            "real-esrgan",
            "real-esrgan-x4",
            4,
            NARROW_RRDB | {"discriminator_features": 16, "patch": 128},
            image_size=128,
        ),
        System("deblurgan", "emoji-deblurgan", 4, image_size=64, check_learning_rate=1e-3),
        System("edsr", "emoji-edsr-x2", 16, image_size=64),
        System("partial", "emoji-partial", 16, image_size=64),
        System("rcan", "df2k-rcan-x4", 4, {"features": 32, "groups": 2}, image_size=192),
        System("nafnet", "emoji-jpeg-10", 16, image_size=64),
        System("dncnn", "emoji-dncnn-25", 16, image_size=64),
        System("drunet", "emoji-drunet", 16, image_size=64),
    )
}


TINY = {  # changes of a system for a run of seconds
    "sagan": {"generator_features": 8, "discriminator_features": 8},
    "biggan": {"features": 4, "latent_dim": 8},
    "stylegan2": {"latent_dim": 6, "style_dim": 6, "capacity": 64, "max_features": 8},
    "r3gan": {"widths": (8, 8, 4, 4), "group_width": 4, "latent_dim": 6},
    "progan": {"latent_dim": 6, "capacity": 256, "max_features": 8},
    "fastgan": {"generator_features": 2, "discriminator_features": 2, "latent_dim": 6},
    "wgan-gp": {"generator_features": 8, "discriminator_features": 4, "latent_dim": 6},
    "ssgan": {"generator_features": 8, "discriminator_features": 4, "latent_dim": 6},
    "cgan": {"features": 2, "latent_dim": 4},
    "acgan": {"generator_features": 8, "discriminator_features": 4, "latent_dim": 6},
    "pix2pix": {"features": 2, "discriminator_features": 4},
    "pix2pixhd": {"batch_size": 2, "features": 2, "blocks": 1, "discriminator_features": 4},
    "cyclegan": {"features": 2, "blocks": 1, "discriminator_features": 4},
    "cut": {"features": 4, "blocks": 1, "head_features": 16, "discriminator_features": 4, "num_patches": 20},
    "stargan": {"features": 2, "blocks": 1, "discriminator_features": 2},
    "gated": {"features": 2, "rates": (2, 4), "discriminator_features": 8},
    "context": {"features": 2, "bottleneck": 4, "discriminator_features": 2},
    "vae-gan": {"features": 4, "latent_dim": 3, "encoder_hidden": 8, "discriminator_hidden": 8},
    "vqgan": {"features": 4, "latent_dim": 5, "discriminator_features": 4},
    "aae": {"latent_dim": 3, "widths": (6, 5), "discriminator_widths": (4,)},
    "bigan": {"latent_dim": 3, "widths": (6, 5)},
    "lama": {"features": 2, "blocks": 1, "discriminator_features": 2, "discriminator_layers": 2},
    "factor-vae": {"features": 2, "latent_dim": 3, "discriminator_widths": (5, 4)},
    "classifier": {"widths": (4, 5)},
    "vae": {"latent_dim": 3},
    "cvae": {"latent_dim": 3, "width": 8},
    "m2": {"latent_dim": 3, "width": 8, "num_labels": 30_000},
    "regularised": {"latent_dim": 8},
    "flexible": {"latent_dim": 3, "num_components": 5},
    "iwae": {"latent_dim": 3, "width": 8, "num_samples": 4},
    "vqvae": {"features": 8, "blocks": 1, "inner": 4},
    "vqvae2": {"batch_size": 16, "features": 8, "blocks": 1, "inner": 4},
    "dvae": {"num_codes": 6, "features": 4, "first": 3},
    "vdvae": {"width": 8, "custom_widths": "32:2,16:4", "latent_dim": 2, "num_mixtures": 2},
    "srcnn": {"widths": (3, 2)},
    "srgan": {"features": 4, "blocks": 1, "discriminator_features": 2},
    "esrgan": {"batch_size": 4, "features": 4, "blocks": 2, "growth": 2, "discriminator_features": 4, "halvings": 2},
    "real-esrgan": {"batch_size": 4, "features": 4, "blocks": 2, "growth": 2, "discriminator_features": 2},
    "deblurgan": {"batch_size": 4, "features": 2, "blocks": 1, "discriminator_features": 2},
    "edsr": {"features": 4, "blocks": 2},
    "partial": {"features": 2, "halvings": 4},
    "rcan": {"batch_size": 2, "features": 4, "blocks": 2, "reduction": 2},
    "nafnet": {"width": 4},
    "dncnn": {"features": 4, "layers": 4},
    "drunet": {"widths": (2, 4, 8), "blocks": 1},
}


def case_from(numbers: dict) -> Work:
    """What `dataclasses.asdict` made of a case."""
    return type(CASES[numbers["name"]])(**numbers)


def resized(case: Work, **numbers: int | None) -> Work:
    """The case with another batch_size, features or image_size, those that are None left as they are.

    A stage from the middle of a network keeps its maps, a system its networks.
    """
    numbers = {name: number for name, number in numbers.items() if number is not None}
    if isinstance(case, System) or (isinstance(case, Stage) and not case.on_images):
        numbers = {name: number for name, number in numbers.items() if name == "batch_size"}
    return dataclasses.replace(case, **numbers)


def tiny(case: Work) -> Work:
    """The case for a run of seconds."""
    if isinstance(case, Case):
        return dataclasses.replace(case, batch_size=8, features=4)
    if isinstance(case, System):
        own = dict(TINY[case.name])
        return dataclasses.replace(case, batch_size=own.pop("batch_size", 8), changes=case.changes | own)
    return dataclasses.replace(
        case,
        batch_size=4,
        image_size=8,
        channels=case.channels if case.on_images else case.channels // 8,
        features=case.features // 8,
        num_blocks=min(case.num_blocks, 2),
        condition_dim=case.condition_dim // 8,
    )


# The networks' shapes, which PyTorch's side cannot import from jaxgen


def map_sizes(image_size: int) -> list[int]:
    """DCGAN's map sizes from the image down, as `jaxgen.models.dcgan.sizes` has them."""
    sizes = [image_size]
    while sizes[-1] > 5:
        sizes.append(sizes[-1] // 2)
    return sizes


class SNGANLayout(NamedTuple):
    """A network of `jaxgen.models.sngan.LAYOUTS`, one in which all maps of a player have the same width."""

    generator_width: int
    smallest: int  # size of the generator's first map
    num_doublings: int  # the generator's blocks
    discriminator_width: int
    num_blocks: int  # the discriminator's
    num_halvings: int  # the first of these, which halve the size


def sngan_layout(case: Case) -> SNGANLayout:
    """The case's networks.

    Raises:
      ValueError: for another image size than 28 or 32: there the widths differ from map to map.
    """
    if case.image_size not in (28, 32):
        raise ValueError(f"SNGAN is here for 28 or 32 pixels, not {case.image_size}")
    smallest, num_doublings = {28: (7, 2), 32: (4, 3)}[case.image_size]
    return SNGANLayout(2 * case.features, smallest, num_doublings, case.features, 4, 2)


# The work, counted by hand


class Forward(NamedTuple):
    """FLOPs of one forward pass of a network."""

    layers: dict[str, int]  # dense layers and convolutions, by their names in jaxgen
    on_input: tuple[str, ...]  # those that the network's input goes into

    def total(self) -> int:
        """Of all layers."""
        return sum(self.layers.values())

    def of_input(self) -> int:
        """Of those that the input goes into: what its gradient costs."""
        return sum(self.layers[name] for name in self.on_input)


def layer_flops(case: Case) -> tuple[Forward, Forward]:
    """FLOPs of the generator and of the discriminator: two for each multiply-add but those with padding."""
    return {"dcgan": _dcgan_flops, "sngan": _sngan_flops}[case.network](case)


def _dense(case, inner, outer):
    return 2 * case.batch_size * inner * outer


def _conv(case, kernel_size, size, inner, outer):
    """Of 1x1 or 3x3 taps, but for those outside."""
    return 2 * case.batch_size * (kernel_size * size - (kernel_size - 1)) ** 2 * inner * outer


def _dcgan_flops(case):
    sizes = map_sizes(case.image_size)
    widths = [case.channels] + [case.features << i for i in range(len(sizes) - 1)]
    convolutions = [  # from the image inwards; a transposed convolution costs as much as the one it is the adjoint of
        2 * case.batch_size * (4 * small - 2 + large % 2) ** 2 * inner * outer  # four taps, but for those outside
        for large, small, inner, outer in zip(sizes, sizes[1:], widths, widths[1:], strict=False)
    ]
    flat = sizes[-1] ** 2 * widths[-1]
    generator = {"Dense_0": _dense(case, case.latent_dim, flat)}
    generator |= {f"ConvTranspose_{i}": flops for i, flops in enumerate(reversed(convolutions))}
    discriminator = {f"Conv_{i}": flops for i, flops in enumerate(convolutions)}
    discriminator["Dense_0"] = _dense(case, flat, 1)
    return Forward(generator, ("Dense_0",)), Forward(discriminator, ("Conv_0",))


def _sngan_flops(case):
    layout = sngan_layout(case)
    width, size = layout.generator_width, layout.smallest
    generator = {"Dense_0": _dense(case, case.latent_dim, size**2 * width)}
    for i in range(layout.num_doublings):
        generator[f"GeneratorBlock_{i}/shortcut"] = _conv(case, 1, size, width, width)
        size *= 2
        generator |= {f"GeneratorBlock_{i}/Conv_{j}": _conv(case, 3, size, width, width) for j in (0, 1)}
    generator["Conv_0"] = _conv(case, 3, size, width, case.channels)

    discriminator, inner, width = {}, case.channels, layout.discriminator_width
    for i in range(layout.num_blocks):
        block, halve = f"DiscriminatorBlock_{i}", i < layout.num_halvings
        discriminator[f"{block}/SpectralConv_0"] = _conv(case, 3, size, inner, width)
        discriminator[f"{block}/SpectralConv_1"] = _conv(case, 3, size, width, width)
        if halve:
            size //= 2
            discriminator[f"{block}/shortcut"] = _conv(case, 1, size, inner, width)
        inner = width
    discriminator["SpectralDense_0"] = _dense(case, width, 1)
    first = ("DiscriminatorBlock_0/SpectralConv_0", "DiscriminatorBlock_0/shortcut")
    return Forward(generator, ("Dense_0",)), Forward(discriminator, first)


def stage_flops(stage: Stage) -> dict[str, int]:
    """FLOPs of a stage by layer, counted as those of the networks: without padding, and each layer as it is written.

    Raises:
      ValueError: for numbers that the stage cannot have.
    """
    return {
        "denoiser": _denoiser_flops,
        "unet": _unet_flops,
        "biggan-stage": _biggan_flops,
        "modulated": _modulated_flops,
        "r3gan-block": _r3gan_flops,
        "vdvae-block": _vdvae_flops,
    }[stage.name](stage)


def _denoiser_flops(stage):
    widths = [stage.channels, *[stage.features] * (2 * stage.num_blocks + 2), stage.channels]
    return {
        f"Conv_{i}": _conv(stage, 3, stage.image_size, inner, outer)
        for i, (inner, outer) in enumerate(itertools.pairwise(widths))
    }


def _unet_flops(stage):
    if stage.image_size % 4:
        raise ValueError(f"the U-Net halves its maps twice: the size must be a multiple of 4, not {stage.image_size}")
    large, middle, small = (stage.image_size // n for n in (1, 2, 4))
    f = stage.features
    convolutions = [
        (large, stage.channels, f),
        (large, f, f),
        (middle, f, 2 * f),
        (middle, 2 * f, 2 * f),
        (small, 2 * f, 4 * f),
        (small, 4 * f, 4 * f),
        (middle, 4 * f, 2 * f),
        (middle, 2 * f, 2 * f),
        (large, 2 * f, f),
        (large, f, f),
    ]
    layers = {f"Conv_{i}": _conv(stage, 3, *convolution) for i, convolution in enumerate(convolutions)}
    layers["Conv_10"] = _conv(stage, 1, large, f, stage.channels)
    # Each pixel of the smaller map goes to four of the larger one.
    layers["ConvTranspose_0"] = 4 * _conv(stage, 1, small, 4 * f, 2 * f)
    layers["ConvTranspose_1"] = 4 * _conv(stage, 1, middle, 2 * f, f)
    return layers


def _biggan_flops(stage):
    inner, width, size = stage.channels, stage.features, stage.image_size
    return {
        **{f"ConditionalNorm_0/{name}": _dense(stage, stage.condition_dim, inner) for name in ("scale", "shift")},
        **{f"ConditionalNorm_1/{name}": _dense(stage, stage.condition_dim, width) for name in ("scale", "shift")},
        "shortcut": _conv(stage, 1, size, inner, width),
        "Conv_0": _conv(stage, 3, 2 * size, inner, width),
        "Conv_1": _conv(stage, 3, 2 * size, width, width),
    }


def _modulated_flops(stage):
    layers, inner = {}, stage.channels
    for i in range(stage.num_blocks):
        layers |= {
            f"ModulatedConv_{i}": _conv(stage, 3, stage.image_size, inner, stage.features),
            f"ModulatedConv_{i}/Dense_0": _dense(stage, stage.condition_dim, inner),
            f"ModulatedConv_{i}/demodulation": _dense(stage, inner, stage.features),
        }
        inner = stage.features
    return layers


def _r3gan_flops(stage):
    if stage.features % stage.group_width:
        raise ValueError(f"groups of {stage.group_width} channels do not divide {stage.features}")
    layers = {}
    for i in range(stage.num_blocks):
        layers |= {
            f"R3GANBlock_{i}/Conv_0": _conv(stage, 1, stage.image_size, stage.channels, stage.features),
            f"R3GANBlock_{i}/Conv_1": _conv(stage, 3, stage.image_size, stage.group_width, stage.features),
            f"R3GANBlock_{i}/Conv_2": _conv(stage, 1, stage.image_size, stage.features, stage.channels),
        }
    return layers


def _vdvae_flops(stage):
    widths = (stage.channels, stage.features, stage.features, stage.features, stage.channels)
    return {
        f"VDVAEBlock_{i}/Conv_{j}": _conv(stage, kernel_size, stage.image_size, inner, outer)
        for i in range(stage.num_blocks)
        for j, (kernel_size, (inner, outer)) in enumerate(zip((1, 3, 3, 1), itertools.pairwise(widths), strict=True))
    }


def step_flops(case: Case | Stage) -> int:
    """FLOPs that the mathematics of one train step needs in dense layers and convolutions.

    Each gradient, of a layer's weights or of its input, costs as much as the layer forwards; gradients that nobody uses
    are not counted: of the latents, of the images in the discriminator's step, of the discriminator's weights in the
    generator's step, of the images that a stage is given. A penalty needs the images' gradient, and of that again
    gradients in the weights and along the way; R1 shares the forward pass of the real images.
    """
    if isinstance(case, Stage):
        layers = stage_flops(case)
        return 3 * sum(layers.values()) - (layers["Conv_0"] if case.on_images else 0)
    g, d = layer_flops(case)
    discriminator_step = 2 * (3 * d.total() - d.of_input())
    generator_step = 2 * d.total() + 3 * g.total() - g.of_input()
    penalty = {None: 0, "r1": 3 * d.total(), "gradient_penalty": 4 * d.total()}[case.penalty]
    return discriminator_step + generator_step + penalty
