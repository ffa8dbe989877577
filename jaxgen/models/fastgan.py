"""FastGAN (Liu, Zhu, Song and Elgammal 2021): light players for few images, of 32, 64, ..., 1024 pixels, square.

Every convolution is without bias and spectrally normalised, and most are followed by batch normalisation. In the
generator a gated linear unit follows, GLU(a, b) = a sigmoid(b) of both halves of the channels, and small maps say how
strong the channels of large ones are (`Excitation`). The discriminator halves the image down to 8x8 with residual
blocks, and a smaller copy of it with plain ones; decoders draw pictures from its maps, which is learned of real images
(`losses.autoencoding`), so that the maps describe the whole image.

What the paper leaves open is as in the authors' code: widths, the small copy, and excitation in the discriminator.

Deviations: the discriminator makes the small copy of every image itself, by means of pixels (there the generator draws
it, too, in a layer of its own). Excitation has a leaky ReLU, as in the paper (there x sigmoid(x)). The first layer's
spectral norm is that of the linear map from latents to 4x4 maps (there of its kernel with other axes first). Images
below 128 pixels are ours: widths are those of maps of the same size, and `ratio` is to be smaller.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.noise import draw_noise
from jaxgen.models.resampling import averaged, halve
from jaxgen.models.spectral_norm import SpectralConv, SpectralDense, SpectralEnlargingConv
from jaxgen.network import Output

# Channels of a map of a side, in units of `features`.
GENERATOR_WIDTHS = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 1 / 2, 512: 1 / 4, 1024: 1 / 8}
DISCRIMINATOR_WIDTHS = {8: 8, 16: 4, 32: 2, 64: 1, 128: 1 / 2, 256: 1 / 4, 512: 1 / 8}
DECODER_WIDTHS = {16: 2, 32: 1, 64: 1, 128: 1 / 2}


def check_size(image_size: int) -> None:
    """Raises a ValueError for a size without a network."""
    if image_size not in (32, 64, 128, 256, 512, 1024):
        raise ValueError(f"FastGAN needs square images of 32, 64, 128, 256, 512 or 1024 pixels, not {image_size}")


def gated(x: jax.Array) -> jax.Array:
    """GLU: the first half of the channels times the sigmoid of the other half."""
    a, b = jnp.split(x, 2, axis=-1)
    return a * nn.sigmoid(b)


class Norm(nn.Module):
    """Batch normalisation [..., C] -> [..., C]."""

    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, axis_name=self.axis_name)
        nn.share_scope(self, norm)
        return norm(x)


class Excitation(nn.Module):
    """Skip-layer excitation: F(low) * high, with F in (0, 1) a number for each channel and image.

    low [B, h, h, c] is averaged to 4x4, of which a 4x4 convolution makes C numbers, and after a leaky ReLU another
    matrix C: high is [B, H, H, C].
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, low: jax.Array, high: jax.Array, *, train: bool) -> jax.Array:
        width, shared = high.shape[-1], {"use_bias": False, "dtype": self.dtype}
        x = nn.leaky_relu(SpectralConv(width, 4, **shared)(averaged(low, 4), train=train), 0.1)
        return high * nn.sigmoid(SpectralConv(width, 1, **shared)(x, train=train))


class EnlargingBlock(nn.Module):
    """[B, H, W, C] -> [B, 2 H, 2 W, features]: a 3x3 convolution of the enlarged map; with noise two of them.

    Noise [B, 2 H, 2 W, 1] is added before each batch normalisation, of a learned strength, 0 at first.
    """

    features: int
    noise: bool = False
    dtype: Any = None
    axis_name: str | None = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for layer in (SpectralEnlargingConv, SpectralConv)[: 1 + self.noise]:
            kind: Any = layer
            conv = kind(2 * self.features, kernel_size=3, padding=1, use_bias=False, dtype=self.dtype)
            x = conv(x, train=train)
            if self.noise:
                x = Noise()(x)
            x = gated(Norm(self.dtype, self.axis_name)(x, train=train))
        return x


class Noise(nn.Module):
    """x + strength * noise [B, H, W, 1]; strength is learned, and 0 at first."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        strength = self.param("strength", nn.initializers.zeros, (), jnp.float32)
        return x + (strength * draw_noise(self, x.shape)).astype(x.dtype)


class Generator(nn.Module):
    """[B, latent_dim] -> images [B, image_size, image_size, channels] in (-1, 1), float32.

    Raises:
      ValueError: for a size without a network.
    """

    image_size: int = 256
    channels: int = 3
    features: int = 64
    ratio: int = 16  # a map's channels are excited by the map that is so many times smaller
    noisy: tuple[int, ...] = (8, 32, 128, 512)  # sides of maps with two convolutions and noise
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
        check_size(self.image_size)
        widths = {side: max(1, round(share * self.features)) for side, share in GENERATOR_WIDTHS.items()}
        shared: dict[str, Any] = {"dtype": self.dtype, "axis_name": self.axis_name}
        x = SpectralDense(16 * 2 * widths[4], use_bias=False, dtype=self.dtype)(z, train=train)
        x = gated(Norm(**shared)(x.reshape(len(z), 4, 4, -1), train=train))
        maps, side = {4: x}, 4
        while side < self.image_size:
            side *= 2
            x = EnlargingBlock(widths[side], side in self.noisy, **shared, name=f"block_{side}")(x, train=train)
            if side // self.ratio in maps:
                x = Excitation(self.dtype, name=f"excite_{side}")(maps[side // self.ratio], x, train=train)
            maps[side] = x
        x = SpectralConv(self.channels, 3, padding=1, use_bias=False, dtype=self.dtype, name="draw")(x, train=train)
        return jnp.tanh(x.astype(jnp.float32))


class HalvingBlock(nn.Module):
    """[B, H, W, C] -> [B, H / 2, W / 2, features]: a 4x4 convolution of strides 2; as a residual block a 3x3 one more.

    The residual block is the mean of these two and of a 1x1 convolution of the halved map.
    """

    features: int
    residual: bool = True
    dtype: Any = None
    axis_name: str | None = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def layer(x, kernel_size, strides=1, padding=0):
            conv = SpectralConv(self.features, kernel_size, strides, padding, use_bias=False, dtype=self.dtype)
            return nn.leaky_relu(Norm(self.dtype, self.axis_name)(conv(x, train=train), train=train), 0.2)

        y = layer(x, 4, 2, 1)
        if not self.residual:
            return y
        return (layer(y, 3, 1, 1) + layer(halve(x), 1)) / 2


class Decoder(nn.Module):
    """A map [B, 8, 8, C] -> a picture [B, size, size, channels] in (-1, 1), float32."""

    size: int
    channels: int = 3
    features: int = 64
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        while x.shape[1] < self.size:
            width = max(1, round(DECODER_WIDTHS[2 * x.shape[1]] * self.features))
            x = EnlargingBlock(width, dtype=self.dtype, axis_name=self.axis_name)(x, train=train)
        x = SpectralConv(self.channels, 3, padding=1, use_bias=False, dtype=self.dtype, name="draw")(x, train=train)
        return jnp.tanh(x.astype(jnp.float32))


class Eyes(nn.Module):
    """Images -> (logits [B, 50], maps): 25 logits of the image, 25 of its small copy, each of a field of its own.

    The maps are those that pictures are drawn from: "whole" and "small" [B, 8, 8, C] of either, and "part" [B, 16, 16,
    C] of the image.
    """

    features: int = 64
    ratio: int = 8
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        widths = {side: max(1, round(share * self.features)) for side, share in DISCRIMINATOR_WIDTHS.items()}
        shared: dict[str, Any] = {"dtype": self.dtype, "axis_name": self.axis_name}
        small = averaged(x, min(x.shape[1] // 2, 128))

        def conv(x, *arguments, **named):
            return SpectralConv(*arguments, **named, use_bias=False, dtype=self.dtype)(x, train=train)

        if x.shape[1] <= 256:
            x = nn.leaky_relu(conv(x, widths[x.shape[1]], 3, padding=1), 0.2)
        else:
            x = nn.leaky_relu(conv(x, widths[x.shape[1] // 2], 4, 2, 1), 0.2)
            while x.shape[1] > 256:
                x = HalvingBlock(widths[256], residual=False, **shared)(x, train=train)
        maps, side = {x.shape[1]: x}, x.shape[1]
        while side > 8:
            side //= 2
            x = HalvingBlock(widths[side], **shared, name=f"block_{side}")(x, train=train)
            if side * self.ratio in maps:
                x = Excitation(self.dtype, name=f"excite_{side}")(maps[side * self.ratio], x, train=train)
            maps[side] = x
        h = conv(x, 16 * self.features, 1, name="head")
        h = nn.leaky_relu(Norm(**shared, name="head_norm")(h, train=train), 0.2)
        logits = [conv(h, 1, 4, name="judge")]

        half = {side: max(1, width // 2) for side, width in widths.items()}
        y = nn.leaky_relu(conv(small, half[small.shape[1] // 2], 4, 2, 1, name="small"), 0.2)
        while y.shape[1] > 8:
            side = y.shape[1] // 2
            y = HalvingBlock(half[side], residual=False, **shared, name=f"small_block_{side}")(y, train=train)
        logits.append(conv(y, 1, 4, name="judge_small"))
        logits = [found.astype(jnp.float32).reshape(len(found), -1) for found in logits]
        return jnp.concatenate(logits, axis=1), {"whole": x, "small": y, "part": maps[16]}


class Discriminator(nn.Module):
    """Images [B, image_size, image_size, C] -> `Output` of logits [B, 50], float32, and the maps of `Eyes`.

    Raises:
      ValueError: for a size without a network, images of another size.
    """

    image_size: int = 256
    channels: int = 3
    features: int = 64
    ratio: int = 8  # a map's channels are excited by the map that is so many times larger
    dtype: Any = None
    axis_name: str | None = None

    def setup(self) -> None:
        """Its layers."""
        check_size(self.image_size)
        shared: dict[str, Any] = {"dtype": self.dtype, "axis_name": self.axis_name}
        self.eyes = Eyes(self.features, self.ratio, **shared)
        drawn = min(self.image_size // 2, 128)
        self.decoders = {
            name: Decoder(drawn, self.channels, self.features, **shared) for name in ("whole", "small", "part")
        }

    def __call__(self, x: jax.Array, *, train: bool) -> Output:
        if x.shape[1:3] != (self.image_size, self.image_size):
            raise ValueError(f"this network is for images of {self.image_size} pixels, not {x.shape[2]}x{x.shape[1]}")
        logits, maps = self.eyes(x, train=train)
        if self.is_initializing():
            self.decode(maps | {"part": maps["part"][:, :8, :8]}, train=train)
        return Output(logits, maps)

    def decode(self, maps: dict[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        """Pictures [B, S, S, C] of maps [B, 8, 8, ...] by name; S is half of the image's side, and at most 128."""
        return {name: decoder(maps[name], train=train) for name, decoder in self.decoders.items()}
