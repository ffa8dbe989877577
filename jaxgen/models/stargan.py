"""The networks of StarGAN, one generator for all pairs of domains (Choi et al. 2018).

The generator is told an image and the domain to take it to, as planes beside the image: 7x7 and 4x4 convolutions,
instance normalisation with scale and shift, ReLU, six residual blocks, tanh. Borders are continued by zeros, on
purpose: with reflected borders a plane is the same at each pixel after the first convolution, too, and the
normalisation takes it away: the generator would not be told anything.

The discriminator halves an image `halvings` times by 4x4 convolutions, leaky ReLU 0.01, without normalisation; patches
of the last map are judged by a 3x3 convolution, and one of the whole map says which domain it sees.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv, ConvTranspose
from jaxgen.models.normalisation import Norm
from jaxgen.network import Output

uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # as PyTorch's convolutions begin


def as_vector(domain: jax.Array, num_domains: int) -> jax.Array:
    """Domains as [B, num_domains] of 0 and 1: of labels [B], or of such vectors, of attributes that hold at once.

    A label outside of 0..num_domains - 1 makes its vector NaN.

    Raises:
      ValueError: at trace time, for another shape.
    """
    if domain.ndim == 2 and domain.shape[1] == num_domains:
        return domain.astype(jnp.float32)
    if domain.ndim != 1:
        raise ValueError(
            f"domains are labels [B], or vectors [B, {num_domains}], not an array of shape {list(domain.shape)}"
        )
    known = (domain >= 0) & (domain < num_domains)
    return jnp.where(known[:, None], jax.nn.one_hot(domain, num_domains), jnp.nan)


class Generator(nn.Module):
    """(images [B, H, W, C], domains [B] or [B, num_domains]) -> images [B, H, W, channels] in [-1, 1], float32.

    Raises:
      ValueError: at trace time, for sides that cannot be halved so often.
    """

    num_domains: int
    channels: int = 3
    features: int = 64  # channels of the first map, doubled at each halving
    halvings: int = 2
    blocks: int = 6
    dtype: Any = None

    draws_at_test = False

    @property
    def factor(self) -> int:
        """Of which sides of images are multiples."""
        return 2**self.halvings

    @nn.compact
    def __call__(self, told: tuple[jax.Array, jax.Array], *, train: bool) -> jax.Array:
        x, domain = told
        if x.shape[1] % self.factor or x.shape[2] % self.factor:
            raise ValueError(
                f"a generator of {self.halvings} halvings takes sides that are multiples of {self.factor}, not "
                f"{x.shape[1]}x{x.shape[2]}; resize the data"
            )
        shared: dict[str, Any] = {"use_bias": False, "kernel_init": uniform, "dtype": self.dtype}

        def normalise(x):
            return Norm("affine_instance", scale_init=nn.initializers.ones, dtype=self.dtype)(x, train=train)

        planes = as_vector(domain, self.num_domains)[:, None, None, :]
        planes = jnp.broadcast_to(planes, (*x.shape[:3], self.num_domains)).astype(x.dtype)
        x = nn.relu(normalise(Conv(self.features, 7, padding=3, **shared)(jnp.concatenate([x, planes], axis=-1))))
        for i in range(self.halvings):
            x = nn.relu(normalise(Conv(self.features << (i + 1), 4, 2, 1, **shared)(x)))
        for _ in range(self.blocks):
            y = nn.relu(normalise(Conv(x.shape[-1], 3, padding=1, **shared)(x)))
            x = x + normalise(Conv(x.shape[-1], 3, padding=1, **shared)(y))
        for i in reversed(range(self.halvings)):
            x = nn.relu(normalise(ConvTranspose(self.features << i, 4, 2, 1, **shared)(x)))
        x = Conv(self.channels, 7, padding=3, **shared)(x)
        return nn.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
    """Images [B, H, W, C] -> `network.Output(logits of patches [B, h, w], logits of domains [B, num_domains])`.

    Raises:
      ValueError: at trace time, for images of which nothing is left.
    """

    num_domains: int
    features: int = 64  # channels of the first map, doubled at each halving
    halvings: int = 6
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Output:
        if min(x.shape[1:3]) >> self.halvings < 1:
            raise ValueError(
                f"a discriminator that halves images {self.halvings} times needs at least {2**self.halvings} pixels, "
                f"not {x.shape[1]}x{x.shape[2]}; give fewer --discriminator-halvings"
            )
        shared: dict[str, Any] = {"kernel_init": uniform, "dtype": self.dtype}
        for i in range(self.halvings):
            x = nn.leaky_relu(Conv(self.features << i, 4, 2, 1, **shared)(x), 0.01)
        logits = Conv(1, 3, padding=1, use_bias=False, **shared)(x)[..., 0]
        domains = Conv(self.num_domains, x.shape[1:3], use_bias=False, **shared)(x)[:, 0, 0]
        return Output(logits.astype(jnp.float32), domains.astype(jnp.float32))
