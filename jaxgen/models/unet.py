"""The U-Net of pix2pix: an encoder and a decoder of mirrored maps, joined at each size (Isola, Zhu, Zhou, Efros 2017).

4x4 convolutions with strides of 2 halve an image `halvings` times, eight for 256 pixels, down to one pixel, and
transposed ones double it again; each map of the encoder is handed to the decoder beside its own. Leaky ReLU 0.2 going
down, ReLU going up, tanh in the end. The first map, the smallest one and the output are not normalised. Weights are
drawn from N(0, 0.02^2), scales from N(1, 0.02^2).

Dropout of one half in the decoder's `halvings - 5` inner blocks is the method's only noise, and stays at test time:
there one key is one draw for all images of a batch, so that none depends on the others. The blocks are those of the
authors' code of 2017 and after; the paper's appendix names the three before.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv, ConvTranspose
from jaxgen.models.normalisation import Norm, has_bias

normal = nn.initializers.normal(0.02)


class UNet(nn.Module):
    """Images [B, H, W, C] -> images [B, H, W, channels] in [-1, 1], float32.

    Raises:
      ValueError: at trace time, for sides that cannot be halved so often, or fewer than two halvings.
    """

    channels: int = 3  # of what comes out
    features: int = 64  # channels of the first map, doubled at each halving up to eight times as many
    halvings: int = 8
    norm: str = "batch"
    statistics: str = "image"  # of batch normalisation at test time: of each image itself, or the running averages
    dropout: float = 0.5
    dropout_at_test: bool = True
    dtype: Any = None
    axis_name: str | None = None

    @property
    def factor(self) -> int:
        """Of which sides of images are multiples."""
        return 2**self.halvings

    @property
    def draws_at_test(self) -> bool:
        """Whether what comes out depends on a key outside of training."""
        return self.dropout_at_test and self.dropout > 0 and self.halvings > 5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.halvings < 2 or x.shape[1] % self.factor or x.shape[2] % self.factor:
            raise ValueError(
                f"a U-Net of {self.halvings} halvings, of which it needs two, takes sides that are multiples of "
                f"{self.factor}, not {x.shape[1]}x{x.shape[2]}; resize the data, or give other --halvings"
            )
        widths = [self.features * min(2**i, 8) for i in range(self.halvings)]
        shared: dict[str, Any] = {"kernel_size": 4, "strides": 2, "padding": 1, "kernel_init": normal}
        shared |= {"dtype": self.dtype, "use_bias": has_bias(self.norm)}

        def normalise(x, name):
            norm = Norm(self.norm, self.statistics, dtype=self.dtype, axis_name=self.axis_name, name=name)
            return norm(x, train=train)

        maps = []
        for i, width in enumerate(widths):
            x = Conv(width, **shared, name=f"down_{i}")(nn.leaky_relu(x, 0.2) if i else x)
            if 0 < i < self.halvings - 1:
                x = normalise(x, f"down_norm_{i}")
            maps.append(x)
        for i in reversed(range(1, self.halvings)):
            x = ConvTranspose(widths[i - 1], **shared, name=f"up_{i}")(nn.relu(x))
            x = normalise(x, f"up_norm_{i}")
            if 4 <= i < self.halvings - 1:
                still = not (train or self.dropout_at_test)
                # At test time one draw for all images.
                x = nn.Dropout(self.dropout, broadcast_dims=() if train else (0,), deterministic=still)(x)
            x = jnp.concatenate([maps[i - 1], x], axis=-1)
        x = ConvTranspose(self.channels, **shared | {"use_bias": True}, name="up_0")(nn.relu(x))
        return nn.tanh(x.astype(jnp.float32))
