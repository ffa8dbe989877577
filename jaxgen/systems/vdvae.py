"""The Very Deep VAE: dozens of layers of latents, from one pixel up to the image's size (Child 2021).

The loss is the negative evidence lower bound for each sub-pixel, at a weight of 1 for all rates from the first step on.
AdamW with both decays 0.9 and a rate that rises linearly in the first steps; the gradient is scaled down to a norm, and
an update whose gradient is far larger is skipped. Colour images have a mixture of ten discretised logistics for each
pixel, FFHQ at 5 bits for each channel. Grey ones work, and binarised ones have a Bernoulli likelihood; sizes that the
blocks' texts name (28, 14, 7, 1) need no padding, so that all bits are of real pixels.

Deviations: no more than `max_skips` updates in a row are skipped, which the paper does not limit. The average of the
weights starts as a plain mean. Images are drawn by rounding, so that they are of the distribution that the likelihood
is of (the authors' code rounds down), and 5-bit levels reach from -1 to 1, both tails open, so that their masses sum to
1 (there the highest level is 0.945 and its tail closed). Batches are those of all the paper's GPUs together. What is
held out differs: here the test images or folder where there is one, else a share (`--data.validation-share`), and the
training images are all the others.
"""

import dataclasses
import functools
import math
from typing import Annotated, Literal

import jax

from jaxgen import hierarchical_vae, sharding
from jaxgen.losses import mixtures, variational
from jaxgen.models import vdvae as networks
from jaxgen.options import Data, Optimizer, Run, square_size
from jaxgen.ranges import Count, CountOrZero, Positive, Range
from jaxgen.system import Between, Measure, Spec, System
from jaxgen.systems.preset import Preset, Settings

ADAMW = Optimizer("adamw", 2e-4, 0.9, 0.9, weight_decay=0.01, warmup_steps=100, clip_norm=200.0)
ADAMW = dataclasses.replace(ADAMW, skip_norm=400.0, max_skips=10)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Run):
    """A very deep hierarchical variational autoencoder, for square images."""

    encoder_blocks: str = networks.CIFAR[0]
    """Of the encoder: 32x11 are eleven blocks of maps of 32x32 pixels, 32d2 is one after which they are halved."""
    decoder_blocks: str = networks.CIFAR[1]
    """Of the decoder, each with latents; 32m16 is one that first adds the map of 16x16 pixels."""
    width: Count = 384
    """Channels of the maps."""
    custom_widths: str = ""
    """Other widths for some sizes, such as 256:64,128:128."""
    bottleneck: Positive = 0.25
    """Channels inside of a block, for each of its map."""
    latent_dim: Count = 16
    """Latents of a block, for each pixel of its map."""
    no_bias_above: CountOrZero = 64
    """The largest maps for which the decoder learns what they begin with."""
    likelihood: Literal["mixture", "bernoulli"] = "mixture"
    """Of pixels given the latents: a mixture of discretised logistics; bernoulli is for binarised images."""
    num_mixtures: Count = 10
    """Components of the mixture."""
    num_bits: Annotated[int, Range(1, 8)] = 8
    """Of each channel, whose lower bits the mixture leaves out; the encoder sees all 8."""
    pixels: tuple[float, Positive] = (127.5, 127.5)
    """Mean and deviation of the data, in levels from 0 to 255: the encoder sees (level - mean) / deviation."""
    eval_samples: Count = 1
    """k of the importance-weighted bound in evaluation."""
    optimizer: Optimizer = ADAMW
    """Of encoder and decoder."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for blocks that do not fit the images, or a likelihood that the data do not.
    """
    size, channels = square_size(spec.image_shape, "the VDVAE"), spec.image_shape[2]
    if (config.likelihood == "bernoulli") != (config.data.binarise != "none"):
        raise ValueError(
            f"--likelihood {config.likelihood} and --data.binarise {config.data.binarise} do not fit: a Bernoulli "
            "likelihood is for binarised images (dynamic or threshold), the mixture for those of 256 levels"
        )
    likelihood, outputs = variational.bernoulli, channels
    if config.likelihood == "mixture":
        likelihood = mixtures.discretized_logistic_mixture(channels, config.num_bits)
        outputs = mixtures.num_outputs(config.num_mixtures, channels)
    shared = {name: getattr(config, name) for name in ("width", "custom_widths", "bottleneck", "dtype")}
    of_decoder = {name: getattr(config, name) for name in ("latent_dim", "no_bias_above")}
    encoder = networks.Encoder(config.encoder_blocks, *config.pixels, **shared)
    decoder = networks.Decoder(outputs, config.decoder_blocks, **shared, **of_decoder)
    if decoder.image_size != size:
        raise ValueError(
            f"--decoder-blocks {config.decoder_blocks} make images of {decoder.image_size} pixels, and these have "
            f"{size}: the last size must be the images', and that of --encoder-blocks the first"
        )
    optimizer, both = config.optimizer.build(config.num_steps), (encoder, decoder)
    sample = functools.partial(hierarchical_vae.sample, decoder, likelihood=likelihood)

    def latents(key, n):
        return sharding.draw(jax.random.normal, key, (n, decoder.num_latents))

    def draw(variables, key, n, temperature=1.0):
        z = latents(key, n)
        return sample(variables, z, temperature=temperature, key=jax.random.fold_in(key, 1))

    def encode(variables, batch):
        return hierarchical_vae.encode(*both, variables, batch["image"])

    drawn = "means of the decoder's distribution" if likelihood.sample is None else "draws from the mixture"
    eval_step = hierarchical_vae.make_eval_step(*both, likelihood=likelihood, num_samples=config.eval_samples)
    return System(
        init=lambda key: hierarchical_vae.init(key, *both, optimizer=optimizer, image_shape=spec.image_shape),
        train_step=hierarchical_vae.make_train_step(
            *both, optimizer=optimizer, likelihood=likelihood, ema_decay=config.ema_decay, gradients=config.gradients
        ),
        images_per_step=config.batch_size,
        draw=draw,
        choices={"temperature": Between(0.0, 1.0, "standard deviation of every layer's noise")},
        latents=latents,
        decode=lambda variables, z, temperature=1.0: sample(variables, z, temperature=temperature),
        encode=encode,
        reconstruct=lambda variables, batch: sample(variables, encode(variables, batch)),
        measure=Measure(eval_step, hierarchical_vae.summarize, best="elbo"),
        protocol={"latents": "of every layer's prior, temperature 1", "images": drawn, **config.weights},
        name="VDVAE",
    )


_TINY: Settings = {"width": 8, "latent_dim": 2, "no_bias_above": 4, "num_mixtures": 2, "num_bits": 5, "batch_size": 8}
_TINY |= {"encoder_blocks": "8x2,8d2,4d4,1x1", "decoder_blocks": "1x1,4m1,8m4,8x1", "custom_widths": "8:4"}
_TINY["optimizer"] = dataclasses.replace(ADAMW, warmup_steps=2)
TINY = Config(data=Data("emoji", image_size=8), num_steps=4, **_TINY)


def _published(what, bits, split, size, blocks, million_steps, batch_size, ema, pixels, **settings):
    path, held_out = what.lower().replace("-", ""), 0.1 if what == "FFHQ" else 0.05
    folder = Data("folder", path=path, image_size=size, labelled=False, validation_share=held_out)
    settings |= {"encoder_blocks": blocks[0], "decoder_blocks": blocks[1], "pixels": pixels}
    settings |= {"ema_half_life": batch_size * math.log(0.5) / math.log(ema)}
    settings |= {"sample_every": 10_000, "evaluate_every": 25_000, "checkpoint_every": 5000}
    return Preset(
        f"{what} at {size} pixels by the VDVAE as published; give --data.path",
        Config(data=folder, num_steps=round(million_steps * 1e6), batch_size=batch_size, **settings),
        paper="Child 2021",
        published=f"{bits} bits/dim (ELBO, test split: {split})",
        spec=((size, size, 3), 0),
    )


def _wide(clip_norm, skip_norm, num_bits=8):
    rule = dataclasses.replace(ADAMW, learning_rate=1.5e-4, clip_norm=clip_norm, skip_norm=skip_norm)
    return {"width": 512, "optimizer": rule, "num_bits": num_bits}


_CIFAR = ("CIFAR-10", 2.87, "10,000 images; mean of 2.879, 2.842, 2.898 and 2.864", 32, networks.CIFAR)
_RNN = "the 49,999 validation images of PixelRNN's set"
_IMAGENET_32 = ("ImageNet", "3.80", _RNN, 32, networks.IMAGENET_32)
_IMAGENET_64 = ("ImageNet", 3.52, _RNN, 64, networks.IMAGENET_64)
_FFHQ = ("FFHQ", 0.61, "7,000 of the 70,000 images, 5 bits", 256, networks.FFHQ_256)

# Narrow where maps are large, and of a rate that falls to 0: what two CPU cores bear.
_SMALL: Settings = {"width": 64, "bottleneck": 0.5, "latent_dim": 8}
_SMALL["optimizer"] = dataclasses.replace(ADAMW, learning_rate=1e-3, b2=0.99, schedule="cosine")

PRESETS = {
    "mnist-vdvae": Preset(
        "dynamically binarised digits by a small VDVAE, without padding",
        Config(
            data=Data(binarise="dynamic"),
            likelihood="bernoulli",
            encoder_blocks="28x1,28d2,14x2,14d2,7x2,7d7,1x1",
            decoder_blocks="1x1,7m1,7x4,14m7,14x3,28m14",
            custom_widths="28:16,14:32",
            num_steps=24_000,
            evaluate_every=3000,
            ema_half_life=50_000,
            **_SMALL,
        ),
        paper="Child 2021",
    ),
    "emoji-vdvae": Preset(
        "32x32 colour emoji by a small VDVAE with a mixture of discretised logistics",
        Config(
            data=Data("emoji", image_size=32),
            encoder_blocks="32x1,32d2,16x2,16d2,8x2,8d2,4x1,4d4,1x1",
            decoder_blocks="1x1,4m1,4x1,8m4,8x2,16m8,16x2,32m16",
            custom_widths="32:16,16:32",
            num_mixtures=5,
            batch_size=32,
            num_steps=12_000,
            evaluate_every=500,  # 3,341 images are soon learnt by heart; the best checkpoint is kept
            ema_half_life=20_000,
            **_SMALL,
        ),
        paper="Child 2021",
    ),
    "cifar-vdvae": _published(*_CIFAR, 1.0, 32, 0.9999, (120.63838, 64.16736)),
    "imagenet-vdvae-32": _published(*_IMAGENET_32, 1.7, 256, 0.999, (116.2373, 69.37404), **_wide(200.0, 300.0)),
    "imagenet-vdvae-64": _published(*_IMAGENET_64, 1.6, 128, 0.999, (115.92961967, 69.37404), **_wide(220.0, 380.0)),
    "ffhq-vdvae-256": _published(*_FFHQ, 1.7, 32, 0.999, (112.8666757481, 69.84780273), **_wide(130.0, 180.0, 5)),
}
