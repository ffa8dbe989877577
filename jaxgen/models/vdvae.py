"""The encoder and the decoder of the Very Deep VAE (Child 2021): blocks for each size of map, in texts as published.

    Encoder("32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3")    # 11 blocks at 32x32, one that halves, 6 at 16x16, ...
    Decoder("1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21")  # a block at 1x1, one at 4x4 that adds the map of 1x1, ...

A block is four convolutions, each after a GELU (the exact one): 1x1 to a narrower map, 3x3 twice (1x1 for maps below
3x3), 1x1. The encoder's add their input, and a block "d" takes the mean of squares of pixels after it. The decoder
begins with a learned map for each size, and each of its blocks has latents z, some for each pixel. From the map x

    prior p(z | all before) and a change of x:  block(x) -> mean, log of the deviation, h
    posterior q(z | all before, image):         block(x and the encoder's last map of this size) -> mean, log deviation
    x <- x + h + linear(z)                      and then a block that adds its input

A block "m" first adds the repeated pixels of a smaller map. The output is 1x1 convolutions of the last map.

Kernels are at first uniform with variance 1 / (3 fan-in), biases 0. The last convolutions of the encoder's blocks and
of the decoder's adding ones, and that of z, are divided by the root of the number of blocks of their network, and the
prior's last convolution is 0: at first every prior is a standard normal distribution.

Sizes that halve without a remainder need no padding: 28x28 pixels are "28x2,28d2,14x2,14d2,7x2,7d7,1x1".
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.losses import variational
from jaxgen.models.convolution import Conv
from jaxgen.models.resampling import averaged, enlarge

CIFAR = ("32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3", "1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21")
IMAGENET_32 = ("32x15,32d2,16x9,16d2,8x8,8d2,4x6,4d4,1x6", "1x2,4m1,4x4,8m4,8x9,16m8,16x19,32m16,32x40")
IMAGENET_64 = (
    "64x11,64d2,32x20,32d2,16x9,16d2,8x8,8d2,4x7,4d4,1x5",
    "1x2,4m1,4x3,8m4,8x7,16m8,16x15,32m16,32x31,64m32,64x12",
)
FFHQ_256 = (
    "256x3,256d2,128x8,128d2,64x12,64d2,32x17,32d2,16x7,16d2,8x5,8d2,4x5,4d4,1x4",
    "1x2,4m1,4x3,8m4,8x4,16m8,16x9,32m16,32x21,64m32,64x13,128m64,128x7,256m128",
)
"""The published blocks of encoder and decoder."""


class Stage(NamedTuple):
    """Blocks of maps of size x size pixels; `other`: of "d" the divisor, of "m" the smaller map's size, else 0."""

    size: int
    times: int = 1
    other: int = 0


def stages_of(text: str, kind: str) -> list[Stage]:
    """The blocks that a text names.

    Args:
      text: "32x11" for eleven blocks at 32x32 pixels, "32" for one, and of the kind "32d2" or "32m16"; commas between.
      kind: "d" for an encoder, "m" for a decoder.

    Raises:
      ValueError: for what is none of these.
    """
    found = []
    for part in text.split(","):
        matched = re.fullmatch(rf"([1-9]\d*)(?:([x{kind}])([1-9]\d*))?", part.strip())
        if matched is None:
            raise ValueError(
                f"{part!r} in {text!r} names no blocks: write 32x11 for eleven of 32x32 pixels, and 32{kind}"
                + ("2 for one that halves them" if kind == "d" else "16 for one that adds the map of 16x16")
            )
        size, sign, number = int(matched[1]), matched[2], int(matched[3] or 1)
        found.append(Stage(size, other=number) if sign == kind else Stage(size, number))
    return found


def joined(stages: list[Stage]) -> list[Stage]:
    """A decoder's stages, the plain blocks after one that adds a map joined with it: they are one loop."""
    found: list[Stage] = []
    for stage in stages:
        if found and stage.size == found[-1].size and not stage.other:
            found[-1] = found[-1]._replace(times=found[-1].times + stage.times)
        else:
            found.append(stage)
    return found


def num_blocks(stages: list[Stage]) -> int:
    """Of all stages together."""
    return sum(stage.times for stage in stages)


def widths_of(width: int, custom: str, sizes: set[int]) -> dict[int, int]:
    """Channels of the maps of each size: `width`, but for those of `custom`, such as "256:64,128:128".

    Raises:
      ValueError: for a text that cannot be read, or widths below 1.
    """
    given = {}
    for part in custom.split(",") if custom else ():
        matched = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", part.strip())
        if matched is None:
            raise ValueError(f"{part!r} in {custom!r} is no width: write 256:64 for 64 channels of 256x256 pixels")
        given[int(matched[1])] = int(matched[2])
    return {size: given.get(size, width) for size in sizes}


def _kernel_init(scale: float = 1.0) -> Any:
    return nn.initializers.variance_scaling(scale / 3, "fan_in", "uniform") if scale else nn.initializers.zeros


def _gelu(x):
    """x Phi(x), exact; of `erf`, which on CPU takes half the time of `jax.nn.gelu`'s `erfc`."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


class Block(nn.Module):
    """Four convolutions, each after a GELU: [B, H, W, C] -> [B, H, W, features]."""

    features: int
    inner: int  # channels between the first and the last
    scale: float = 1.0  # of the last kernel's variance at first
    dtype: Any = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = 3 if x.shape[1] > 2 else 1
        for size in (1, kernel, kernel):
            x = _gelu(x)
            x = Conv(self.inner, size, padding=size // 2, kernel_init=_kernel_init(), dtype=self.dtype)(x)
        x = _gelu(x)
        return Conv(self.features, 1, kernel_init=_kernel_init(self.scale), dtype=self.dtype)(x)


def _in_a_row(block, count, in_axes):
    """Blocks of the same kind, each with parameters of its own, as one loop: it is compiled once."""
    settings = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "length": count}
    return nn.scan(block, in_axes=in_axes, **settings)


class AddingBlock(nn.Module):
    """x -> (x + block(x), None): a turn of a loop."""

    inner: int
    scale: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, None]:
        return x + Block(x.shape[-1], self.inner, self.scale, self.dtype)(x), None


class Encoder(nn.Module):
    """Images [B, H, H, C] in [-1, 1] -> the last map of each size, {H: [B, H, H, width], ...}.

    Raises:
      ValueError: at trace time, for blocks that do not follow on each other or do not fit the images.
    """

    blocks: str = CIFAR[0]
    pixel_mean: float = 127.5  # of the data, in levels from 0 to 255; the network sees (level - mean) / deviation
    pixel_deviation: float = 127.5
    width: int = 384
    custom_widths: str = ""  # for some sizes others: "256:64,128:128"
    bottleneck: float = 0.25  # of a map's channels, inside of a block
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> dict[int, jax.Array]:
        stages = stages_of(self.blocks, "d")
        sizes = {x.shape[1]} | {stage.size // (stage.other or 1) for stage in stages}
        widths = widths_of(self.width, self.custom_widths, sizes)
        x = ((x + 1) * 127.5 - self.pixel_mean) / self.pixel_deviation
        x = Conv(widths[x.shape[1]], 3, padding=1, kernel_init=_kernel_init(), dtype=self.dtype)(x)
        maps = {x.shape[1]: x}
        for size, count, divisor in stages:
            if x.shape[1:3] != (size, size) or size % (divisor or 1):
                raise ValueError(
                    f"the encoder's blocks {self.blocks!r} come to maps of {x.shape[1]}x{x.shape[2]} pixels where they "
                    f"name {f'{size}d{divisor}' if divisor else size}: the first size is that of the images, and "
                    "each that follows the one before it, whole"
                )
            width = x.shape[-1]
            blocks = _in_a_row(AddingBlock, count, ())
            x, _ = blocks(max(1, int(width * self.bottleneck)), 1 / num_blocks(stages), self.dtype)(x)
            if divisor:
                x = averaged(x, size // divisor)
                more = widths[x.shape[1]] - width
                if more < 0:
                    raise ValueError(
                        f"maps of {x.shape[1]} pixels must have as many channels as those of {size}, or more"
                    )
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more)))
            maps[x.shape[1]] = x
        return maps


class Layer(NamedTuple):
    """What a block of latents found, of each image; rate and log_ratio only where there are images."""

    latents: jax.Array  # as the prior's noise: (z - its mean) / its deviation, [B, H, H, latent_dim]
    rate: jax.Array | None  # KL(posterior || prior), [B] nats
    log_ratio: jax.Array | None  # log p(z) - log q(z) at the drawn z, [B] nats


class LatentBlock(nn.Module):
    """A map [B, H, H, C] and noise [B, H, H, latent_dim] -> (a map, Layer)."""

    inner: int
    scale: float  # of the variance of two kernels at first
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, noise: jax.Array, image_map: jax.Array | None, temperature: Any
    ) -> tuple[jax.Array, Layer]:
        width, latent_dim = x.shape[-1], noise.shape[-1]
        prior = Block(width + 2 * latent_dim, self.inner, 0.0, self.dtype, name="prior")(x)
        prior_mean, prior_log_std, change = jnp.split(prior, (latent_dim, 2 * latent_dim), axis=-1)
        prior_mean, prior_log_std = prior_mean.astype(jnp.float32), prior_log_std.astype(jnp.float32)
        if image_map is None:
            latents, rate, log_ratio = temperature * noise, None, None
            z = prior_mean + jnp.exp(prior_log_std) * latents
        else:
            seen = jnp.concatenate([x, image_map], axis=-1)
            posterior = Block(2 * latent_dim, self.inner, 1.0, self.dtype, name="posterior")(seen)
            mean, log_std = jnp.split(posterior.astype(jnp.float32), 2, axis=-1)
            z = mean + jnp.exp(log_std) * noise
            latents = (z - prior_mean) * jnp.exp(-prior_log_std)
            kl = variational.gaussian_kl_per_unit(mean, 2 * log_std, prior_mean, 2 * prior_log_std)
            rate = jnp.sum(kl, axis=(1, 2, 3))
            log_ratio = jnp.sum(0.5 * (noise**2 - latents**2) + log_std - prior_log_std, axis=(1, 2, 3))
        of_z = Conv(width, 1, kernel_init=_kernel_init(self.scale), dtype=self.dtype, name="of_z")
        x = x + change + of_z(z)
        x = x + Block(width, self.inner, self.scale, self.dtype, name="after")(x)
        return x, Layer(latents, rate, log_ratio)


class Decoded(NamedTuple):
    """What a decoder returns.

    output: what the likelihood reads, float32 [B, H, H, num_outputs].
    latents: as noise of the priors, all layers after each other: given again as noise they make the same output.
    rates: KL(posterior || prior) in nats, {"8x8": [B], ...} by the size of map; without images empty.
    log_ratio: log p(z) - log q(z|x) of all latents as drawn, [B] nats; without images None.
    """

    output: jax.Array
    latents: jax.Array
    rates: dict[str, jax.Array]
    log_ratio: jax.Array | None


class Decoder(nn.Module):
    """Standard normal noise [B, num_latents], with the encoder's maps or without -> Decoded.

    Without maps the noise is the prior's, times a temperature; with them the posterior's.

    Raises:
      ValueError: at trace time, for blocks that do not follow on each other, noise of another size, or no map of the
        encoder for a size.
    """

    num_outputs: int  # for each pixel
    blocks: str = CIFAR[1]
    width: int = 384
    custom_widths: str = ""
    latent_dim: int = 16  # for each pixel of a block
    bottleneck: float = 0.25
    no_bias_above: int = 64  # the largest maps that begin with a learned one, others with zeros
    dtype: Any = None

    @property
    def image_size(self) -> int:
        """H of the images."""
        return stages_of(self.blocks, "m")[-1].size

    @property
    def num_latents(self) -> int:
        """Of an image, in all blocks together."""
        return sum(self.latent_dim * size**2 * count for size, count, _ in stages_of(self.blocks, "m"))

    @nn.compact
    def __call__(
        self, noise: jax.Array, maps: dict[int, jax.Array] | None = None, *, temperature: Any = 1.0, train: bool
    ) -> Decoded:
        stages = joined(stages_of(self.blocks, "m"))
        sizes = {stage.size for stage in stages}
        widths = widths_of(self.width, self.custom_widths, sizes)
        if noise.shape[1:] != (self.num_latents,):
            raise ValueError(f"these blocks have {self.num_latents:,} latents, and are given noise {noise.shape[1:]}")
        if maps is not None and (missing := sizes - set(maps)):
            raise ValueError(f"the decoder has blocks of {min(missing)} pixels, and the encoder makes no such map")
        dtype, rows = self.dtype or jnp.float32, noise.shape[0]
        found, layers, start = {}, [], 0
        for size in sorted(sizes):
            shape = (size, size, widths[size])
            has_bias = size <= self.no_bias_above
            learned = self.param(f"map_{size}", nn.initializers.zeros, shape, jnp.float32) if has_bias else 0.0
            found[size] = jnp.broadcast_to(jnp.asarray(learned, dtype), (rows, *shape))
        begun: set[int] = set()
        for size, count, smaller in stages:
            x, width = found[size], widths[size]
            if smaller:
                if smaller not in begun or size % smaller or widths[smaller] < width:
                    raise ValueError(
                        f"{size}m{smaller} in {self.blocks!r} adds a map of {smaller} pixels: blocks of that size must "
                        "come before it, divide it, and have as many channels or more"
                    )
                x = x + enlarge(found[smaller][..., :width], size // smaller)
            end = start + self.latent_dim * size**2 * count
            eps, start = noise[:, start:end].reshape(rows, count, size, size, self.latent_dim).swapaxes(0, 1), end
            blocks = _in_a_row(LatentBlock, count, (0, nn.broadcast, nn.broadcast))
            row = blocks(max(1, int(width * self.bottleneck)), 1 / num_blocks(stages), self.dtype)
            found[size], layer = row(x, eps, None if maps is None else maps[size], temperature)
            layers.append(layer)
            begun.add(size)
        x = found[self.image_size]
        if self.image_size != max(sizes):
            raise ValueError(f"the last of the blocks {self.blocks!r} must be of the largest size, the image's")
        gain = self.param("gain", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        x = x * gain.astype(dtype) + bias.astype(dtype)
        output = Conv(self.num_outputs, 1, kernel_init=_kernel_init(), dtype=self.dtype)(x).astype(jnp.float32)
        latents = jnp.concatenate([layer.latents.swapaxes(0, 1).reshape(rows, -1) for layer in layers], axis=1)
        rates: dict[str, jax.Array] = {}
        if maps is None:
            return Decoded(output, latents, rates, None)
        for (size, *_), layer in zip(stages, layers, strict=True):
            rates[f"{size}x{size}"] = rates.get(f"{size}x{size}", 0.0) + jnp.sum(layer.rate, axis=0)
        return Decoded(output, latents, rates, jnp.stack([jnp.sum(layer.log_ratio, axis=0) for layer in layers]).sum(0))
