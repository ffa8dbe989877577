"""The residual discriminator without spectral normalisation: WGAN-GP's critic, and with batch normalisation ACGAN's.

Blocks, widths and sizes are those of `sngan`, whose generator plays with it. Gulrajani et al. 2017, "Improved Training
of Wasserstein GANs": no normalisation, since a gradient penalty needs a logit that depends on one image alone; the last
map is averaged over its pixels. With batch normalisation and a head for classes it is the residual ACGAN of common
benchmarks (Odena, Olah and Shlens 2017 has no residual network).

Deviations from Gulrajani et al.: the sizes other than 32 have the layouts of `sngan`, and so has its generator for 32
pixels (256 features; theirs 128).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv
from jaxgen.models.resampling import HalvingConv, halve
from jaxgen.models.residual import widths_of
from jaxgen.models.sngan import batch_norm, layout_of, residual_init, xavier_init
from jaxgen.network import Output


class DiscriminatorBlock(nn.Module):
    """ReLU, 3x3, ReLU, 3x3 and, where it halves the size, a mean over 2x2, plus a shortcut.

    As `residual.DiscriminatorBlock`, with batch normalisation before each ReLU and before the shortcut's convolution,
    or with none.
    """

    features: int
    hidden: int  # channels between the two convolutions
    halve: bool
    first: bool
    batch_norm: bool = False
    dtype: Any = None
    axis_name: str | None = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def norm(x):
            if not self.batch_norm:
                return x
            return batch_norm(x, None, 0, train=train, dtype=self.dtype, axis_name=self.axis_name)

        shortcut = x
        if self.halve or x.shape[-1] != self.features:
            shortcut = norm(halve(x)) if self.first else norm(x)
            shortcut = halve(shortcut) if self.halve and not self.first else shortcut
            shortcut = Conv(self.features, 1, kernel_init=xavier_init, dtype=self.dtype, name="shortcut")(shortcut)
        shared: dict[str, Any] = {"padding": 1, "kernel_init": residual_init, "dtype": self.dtype}
        x = x if self.first else nn.relu(norm(x))
        x = Conv(self.hidden, 3, **shared, name="Conv_0")(x)
        last = HalvingConv if self.halve else Conv
        return last(self.features, kernel_size=3, **shared, name="Conv_1")(nn.relu(norm(x))) + shortcut


class Discriminator(nn.Module):
    """Images [B, H, W, C] in [-1, 1] -> logits [B], float32; with classes `network.Output(logits, [B, num_classes])`.

    Raises:
      ValueError: for an image size without a network, images that are not square, or features that the widths do not
        divide.
    """

    features: int | None = None  # of the last map; None: as published, 128 (28, 32) or 1024 (48, 64, 128)
    num_classes: int = 0  # of a head that says which class an image is of
    batch_norm: bool = False
    dtype: Any = None
    axis_name: str | None = None  # synchronises batch statistics in the per-device view

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array | Output:
        if x.shape[1] != x.shape[2]:
            raise ValueError(f"this network needs square images, not {x.shape[1]}x{x.shape[2]}; crop or resize them")
        layout = layout_of(x.shape[1])
        widths = widths_of(self.features or layout.discriminator_features, layout.discriminator)
        for i, width in enumerate(widths):
            hidden = width if i == 0 else x.shape[-1]
            block = DiscriminatorBlock(
                width, hidden, i < layout.num_halvings, i == 0, self.batch_norm, self.dtype, self.axis_name
            )
            x = block(x, train=train)
        h = nn.relu(x).astype(jnp.float32).mean((1, 2))
        logits = nn.Dense(1, kernel_init=xavier_init)(h)[:, 0]
        return Output(logits, nn.Dense(self.num_classes, kernel_init=xavier_init)(h)) if self.num_classes else logits
