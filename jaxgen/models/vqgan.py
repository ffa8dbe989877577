"""The networks of VQGAN (Esser, Rombach and Ommer 2021, appendix A), which latent diffusion took over.

Encoder and decoder are residual blocks with group normalisation and swish, one attention in the middle and one after
each block of maps of a chosen size. The discriminator judges patches (Isola et al. 2017).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen import sharding
from jaxgen.losses import variational
from jaxgen.models.attention import attend
from jaxgen.models.convolution import Conv
from jaxgen.models.quantise import Quantised
from jaxgen.network import Output

uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # as PyTorch's convolutions begin
normal = nn.initializers.normal(0.02)


def _conv(features, kernel_size, dtype, name=None):
    return Conv(features, kernel_size, padding=kernel_size // 2, kernel_init=uniform, dtype=dtype, name=name)


def _normalise(x, dtype):
    """Group normalisation in 32 groups, or in as many as divide both 32 and the channels."""
    return nn.GroupNorm(math.gcd(32, x.shape[-1]), epsilon=1e-6, dtype=dtype)(x)


class Block(nn.Module):
    """s(x) + Conv(swish(norm(Conv(swish(norm(x)))))): [B, H, W, C] -> [B, H, W, features].

    Convolutions are 3x3; s is a 1x1 convolution where the number of channels changes.
    """

    features: int
    dtype: Any = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for _ in range(2):
            y = _conv(self.features, 3, self.dtype)(nn.swish(_normalise(y, self.dtype)))
        if x.shape[-1] != self.features:
            x = _conv(self.features, 1, self.dtype, name="shortcut")(x)
        return x + y


class Attention(nn.Module):
    """x + Conv(softmax(q k' / sqrt(C)) v), q, k and v being 1x1 convolutions of norm(x): [B, H, W, C], the same."""

    dtype: Any = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        y = _normalise(x, self.dtype)
        query, key, value = (
            _conv(channels, 1, self.dtype, name)(y).reshape(len(x), -1, channels) for name in ("query", "key", "value")
        )
        seen = attend(query * channels**-0.5, key, value)
        return x + _conv(channels, 1, self.dtype, "output")(seen.reshape(x.shape))


class _Middle(nn.Module):
    """A block, attention, a block."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        x = Block(x.shape[-1], self.dtype)(x)
        return Block(x.shape[-1], self.dtype)(Attention(self.dtype)(x))


class Encoder(nn.Module):
    """Images [B, H, W, C] -> maps [B, h, w, outputs], with sides halved between levels: h = H / 2^(levels - 1).

    Raises:
      ValueError: at trace time, for sides that cannot be halved so often.
    """

    outputs: int = 256
    features: int = 128
    multiples: tuple[int, ...] = (1, 1, 2, 2, 4)  # of the features, for each level from the image's size down
    blocks: int = 2  # of a level
    attention: int = 16  # side of maps that attend after each block; 0: none but in the middle
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        factor = 2 ** (len(self.multiples) - 1)
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"an encoder of {len(self.multiples)} levels needs sides that are multiples of {factor}, not "
                f"{x.shape[1]}x{x.shape[2]}; resize the data, or give fewer levels"
            )
        x = _conv(self.features, 3, self.dtype, "input")(x)
        for level, multiple in enumerate(self.multiples):
            if level:
                x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))  # below and to the right alone, as published
                x = Conv(x.shape[-1], 3, 2, kernel_init=uniform, dtype=self.dtype)(x)
            for _ in range(self.blocks):
                x = Block(self.features * multiple, self.dtype)(x)
                x = Attention(self.dtype)(x) if x.shape[1] == self.attention else x
        x = _Middle(self.dtype)(x)
        return _conv(self.outputs, 3, self.dtype, "output")(nn.swish(_normalise(x, self.dtype)))


class Decoder(nn.Module):
    """Maps [B, h, w, D] -> images [B, H, W, channels], float32, not bounded; the levels are the encoder's."""

    channels: int = 3
    features: int = 128
    multiples: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2  # of the encoder's levels; here each level has one more
    attention: int = 16
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = _conv(self.features * self.multiples[-1], 3, self.dtype, "input")(x)
        x = _Middle(self.dtype)(x)
        for level, multiple in enumerate(reversed(self.multiples)):
            if level:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = _conv(x.shape[-1], 3, self.dtype)(x)
            for _ in range(self.blocks + 1):
                x = Block(self.features * multiple, self.dtype)(x)
                x = Attention(self.dtype)(x) if x.shape[1] == self.attention else x
        x = nn.swish(_normalise(x, self.dtype))
        return _conv(self.channels, 3, self.dtype, "output")(x).astype(jnp.float32)


class Gaussian(nn.Module):
    """In the place of a quantiser: a draw of N(mean, exp(logvar)), the halves of its input (Rombach et al. 2022).

    [B, h, w, 2 channels] -> `Quantised`, with the mean as `codes`, the draw (outside of training the mean) as `vectors`
    and as `loss` the rate: KL(N(mean, exp(logvar)) || N(0, 1)) in nats, summed over an image, the mean over images.
    logvar is clipped to [-30, 20].
    """

    channels: int = 4
    axis_name: str | None = None

    @property
    def dim(self) -> int:
        """Numbers at each position that it takes."""
        return 2 * self.channels

    @nn.compact
    def __call__(self, moments: jax.Array, *, train: bool) -> Quantised:
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        logvar = jnp.clip(logvar, -30.0, 20.0)
        z = mean
        if train:
            noise = sharding.draw(jax.random.normal, self.make_rng("noise"), mean.shape, axis_name=self.axis_name)
            z = mean + jnp.exp(0.5 * logvar) * noise
        rate = jnp.mean(variational.gaussian_kl(mean, logvar))
        return Quantised(mean, z, rate, {"rate": rate})

    def embed(self, z: jax.Array) -> jax.Array:
        """Latents are what the decoder is given."""
        return z


class VQGAN(nn.Module):
    """Images [B, H, W, C] in [-1, 1] -> codes [B, h, w] -> `network.Output(images, {"codes", "loss"})`.

    "loss" is the quantiser's, the same number for each image [B]: its mean is the loss, also of a slice of the batch.
    """

    quantiser: nn.Module  # of `models.quantise`, or `Gaussian`
    channels: int = 3  # of the images
    latent_dim: int = 256  # channels of the decoder's first map
    outputs: int = 256  # of the encoder
    features: int = 128
    multiples: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    attention: int = 16
    dtype: Any = None

    def setup(self) -> None:
        """Layers."""
        names = ("features", "multiples", "blocks", "attention", "dtype")
        shared: dict[str, Any] = {name: getattr(self, name) for name in names}
        self.encoder = Encoder(self.outputs, **shared)
        self.to_vectors = _conv(self.quantiser.dim, 1, self.dtype)
        self.from_vectors = _conv(self.latent_dim, 1, self.dtype)
        self.decoder = Decoder(self.channels, **shared)

    def __call__(self, x: jax.Array, *, train: bool) -> Output:
        found = self.quantised(x, train=train)
        image = self.decoder(self.from_vectors(found.vectors), train=train)
        return Output(image, {"codes": found.codes, "loss": jnp.broadcast_to(found.loss, x.shape[:1])})

    def quantised(self, x: jax.Array, *, train: bool = False) -> Quantised:
        """What the quantiser makes of images."""
        return self.quantiser(self.to_vectors(self.encoder(x, train=train)), train=train)

    def decode(self, codes: jax.Array, *, train: bool = False) -> jax.Array:
        """Codes -> images, not clipped."""
        return self.decoder(self.from_vectors(self.quantiser.embed(codes)), train=train)


class Discriminator(nn.Module):
    """Images [B, H, W, C] -> logits of patches [B, h, w], float32, with h = H / 2^halvings - 2.

    4x4 convolutions, leaky ReLU 0.2, batch normalisation in all layers but the first and the last.

    Raises:
      ValueError: at trace time, for images that are too small for the halvings.
    """

    features: int = 64  # of the first layer, doubled by each up to eight times as many
    halvings: int = 3
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if min(x.shape[1:3]) >> self.halvings < 3:
            raise ValueError(
                f"a discriminator of patches that halves sides {self.halvings} times needs at least "
                f"{3 << self.halvings} pixels, not {x.shape[1]}x{x.shape[2]}; give fewer --halvings"
            )
        for i in range(self.halvings + 1):
            width, stride = self.features * min(2**i, 8), 2 if i < self.halvings else 1
            x = Conv(width, 4, stride, 1, use_bias=i == 0, kernel_init=normal, dtype=self.dtype)(x)
            if i:
                x = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=0.9,
                    epsilon=1e-5,
                    scale_init=lambda key, shape, dtype=jnp.float32: 1 + normal(key, shape, dtype),
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                )(x)
            x = nn.leaky_relu(x, 0.2)
        return Conv(1, 4, 1, 1, kernel_init=normal, dtype=self.dtype)(x)[..., 0].astype(jnp.float32)
