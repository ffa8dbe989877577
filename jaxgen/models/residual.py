"""What residual GANs have in common: how a generator's block is put together, the discriminator's block, its logits.

Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", for the blocks; Miyato and Koyama 2018, "cGANs with
Projection Discriminator", for the logits. A 1x1 convolution commutes exactly with repeating pixels and with averaging
them, its bias included: shortcuts are computed at the smaller of the two sizes, with a quarter of the arithmetic.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.resampling import enlarge, halve
from jaxgen.models.spectral_norm import SpectralConv, SpectralDense, SpectralEmbed, SpectralHalvingConv


def layout_for(layouts: Mapping[int, Any], image_size: int) -> Any:
    """The network of an image size, from all that there are.

    Raises:
      ValueError: for a size without one, naming those that have one.
    """
    if image_size not in layouts:
        *others, last = layouts
        allowed = f"{', '.join(map(str, others))} or {last}"
        raise ValueError(f"this network is for square images of {allowed} pixels, not {image_size}; resize the data")
    return layouts[image_size]


def widths_of(features: int, divisors: tuple[int, ...]) -> list[int]:
    """The width of each block of a network whose widths are given as what `features` is divided by.

    Raises:
      ValueError: for features that are not divisible.
    """
    if features % max(divisors):
        raise ValueError(f"features must be a multiple of {max(divisors)} for this image size, not {features}")
    return [features // divisor for divisor in divisors]


def doubled(x: jax.Array, shortcut: Callable, norm: Callable, first: Callable, second: Callable) -> jax.Array:
    """A generator's block: norm, ReLU, `first`, which enlarges, norm, ReLU, `second`, plus the shortcut, enlarged.

    Args:
      x: maps [B, H, W, C].
      shortcut: a 1x1 convolution.
      norm: makes a new normalisation whenever it is called, and applies it.
      first, second: 3x3 convolutions, of which the first enlarges.

    Returns:
      [B, 2 H, 2 W, features].
    """
    y = second(nn.relu(norm(first(nn.relu(norm(x))))))
    return y + enlarge(shortcut(x))


class DiscriminatorBlock(nn.Module):
    """ReLU, 3x3, ReLU, 3x3 and, where it halves the size, a mean over 2x2, plus a shortcut; spectrally normalised.

    The shortcut is a 1x1 convolution where the size or the width changes, the input itself otherwise. The first block
    of a network has no ReLU before its first convolution: it sees the image.
    """

    features: int
    hidden: int  # channels between the two convolutions
    halve: bool
    first: bool
    kernel_init: Any
    shortcut_init: Any = None  # as kernel_init by default
    epsilon: float = 1e-12  # of the spectral normalisation
    dtype: Any = None

    is_block = True  # see `rematerialisation`

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shared: dict[str, Any] = {"dtype": self.dtype, "epsilon": self.epsilon}
        shortcut = halve(x) if self.halve else x
        if self.halve or x.shape[-1] != self.features:
            kernel_init = self.shortcut_init or self.kernel_init
            conv = SpectralConv(self.features, 1, kernel_init=kernel_init, **shared, name="shortcut")
            shortcut = conv(shortcut, train=train)
        shared = {"kernel_init": self.kernel_init} | shared
        x = x if self.first else nn.relu(x)
        x = SpectralConv(self.hidden, 3, padding=1, **shared, name="SpectralConv_0")(x, train=train)
        last = SpectralHalvingConv if self.halve else SpectralConv
        x = last(self.features, 3, padding=1, **shared, name="SpectralConv_1")(nn.relu(x), train=train)
        return x + shortcut


def summed(x: jax.Array) -> jax.Array:
    """A discriminator's last map [B, H, W, features], rectified and summed over its pixels: [B, features], float32."""
    return nn.relu(x).astype(jnp.float32).sum((1, 2))


def projected(
    x: jax.Array, label: jax.Array | None, num_classes: int, *, kernel_init: Any, epsilon: float = 1e-12, train: bool
) -> jax.Array:
    """A discriminator's logits: <w, h> + b, with classes <w, h> + b + <e_label, h>, [B], float32.

    h is `summed(x)` of the last map. w, and the table of all e, are spectrally normalised. To be called in the compact
    method of a module, which gets both.
    """
    h = summed(x)
    shared: dict[str, Any] = {"epsilon": epsilon}
    logits = SpectralDense(1, kernel_init=kernel_init, **shared)(h, train=train)[:, 0]
    if num_classes > 0:
        assert label is not None  # `check_label` has refused it
        embed = SpectralEmbed(num_classes, h.shape[-1], embedding_init=kernel_init, **shared)
        logits += (embed(label, train=train) * h).sum(-1)
    return logits
