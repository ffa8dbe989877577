"""The deep convolutional GAN of Radford, Metz and Chintala (2016), for square images of 28 to 64 pixels.

Kernels of 4 and strides of 2, doubling or halving the size; batch normalisation in all layers but the generator's last
and the discriminator's first; leaky ReLU 0.2 in the discriminator. Weights are drawn from N(0, 0.02^2), as in the
paper.

With classes the generator's batch normalisations are conditional (de Vries et al. 2017), and the discriminator adds a
projection (Miyato and Koyama 2018): its logit is <w, h> + b + <v_y, h> + c_y of the last features h, which is one dense
layer of 1 + num_classes outputs, of which the first and the label's are added up.

Deviations: the number of halvings follows from the image size (three for 28 to 47, four for 48 to 64, down to 3 to 5
pixels; odd sizes are halved rounding down), and the last discriminator layer is dense, which equals the paper's
convolution over the whole map.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.batch_norm import ConditionalBatchNorm, check_label
from jaxgen.models.convolution import Conv, ConvTranspose

normal_init = nn.initializers.normal(0.02)


def sizes(image_size: int) -> list[int]:
    """Map sizes from the image down to the smallest, each half the one before (rounded down): 28 -> [28, 14, 7, 3].

    Raises:
      ValueError: for a size outside 28..64.
    """
    if not 28 <= image_size <= 64:
        raise ValueError(f"this network is for square images of 28 to 64 pixels, not {image_size}; resize the data")
    result = [image_size]
    while result[-1] > 5:
        result.append(result[-1] // 2)
    return result


def _batch_norm(train, dtype, axis_name):
    # momentum 0.9 and epsilon 1e-5, as in the paper's code
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        scale_init=lambda key, shape, dtype=jnp.float32: 1 + normal_init(key, shape, dtype),
        dtype=dtype,
        axis_name=axis_name,
    )


class Generator(nn.Module):
    """[B, latent_dim] -> images [B, image_size, image_size, channels] in [-1, 1]; with classes, of labels [B]."""

    image_size: int = 64
    channels: int = 3
    features: int = 64  # of the last hidden layer; doubled with every halving of the size
    num_classes: int = 0  # 0: it is told no label
    dtype: Any = None
    axis_name: str | None = None  # synchronises batch statistics in the per-device view

    @nn.compact
    def __call__(self, z: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array:
        check_label(label, self.num_classes, z.shape[0])

        def normalise(x):
            if not self.num_classes:
                return _batch_norm(train, self.dtype, self.axis_name)(x)
            norm = ConditionalBatchNorm(self.num_classes, dtype=self.dtype, axis_name=self.axis_name)
            return norm(x, label, train=train)

        *larger, size = sizes(self.image_size)
        width = self.features << (len(larger) - 1)
        x = nn.Dense(size * size * width, use_bias=False, kernel_init=normal_init, dtype=self.dtype)(z)
        x = x.reshape(-1, size, size, width)
        x = nn.relu(normalise(x))
        for target in reversed(larger):
            odd = target % 2
            if target == self.image_size:
                x = ConvTranspose(self.channels, 4, 2, 1, odd, kernel_init=normal_init, dtype=self.dtype)(x)
            else:
                width //= 2
                x = ConvTranspose(width, 4, 2, 1, odd, use_bias=False, kernel_init=normal_init, dtype=self.dtype)(x)
                x = nn.relu(normalise(x))
        return jnp.tanh(x.astype(jnp.float32))


def leaky_relu(x: jax.Array) -> jax.Array:
    """max(x, 0.2 x)."""
    return nn.leaky_relu(x, 0.2)


class Discriminator(nn.Module):
    """Images [B, H, W, C] in [-1, 1] -> logits [B]; with classes, beside labels [B]. The size is read off x."""

    features: int = 64  # of the first layer; doubled with every halving of the size
    num_classes: int = 0  # 0: it is told no label
    batch_norm: bool = True  # False where a gradient penalty is used
    activation: Callable = leaky_relu
    dtype: Any = None
    axis_name: str | None = None

    @property
    def images_are_independent(self) -> bool:
        """Whether no image affects another's logit."""
        return not self.batch_norm

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array:
        check_label(label, self.num_classes, x.shape[0])
        if x.shape[1] != x.shape[2]:
            raise ValueError(f"DCGAN needs square images, not {x.shape[1]}x{x.shape[2]}; crop or resize them")
        for i in range(len(sizes(x.shape[1])) - 1):
            normalised = self.batch_norm and i > 0
            x = Conv(self.features << i, 4, 2, 1, use_bias=not normalised, kernel_init=normal_init, dtype=self.dtype)(x)
            if normalised:
                x = _batch_norm(train, self.dtype, self.axis_name)(x)
            x = self.activation(x)
        x = x.reshape(x.shape[0], -1)
        logits = nn.Dense(1 + self.num_classes, kernel_init=normal_init, dtype=self.dtype)(x).astype(jnp.float32)
        if not self.num_classes:
            return logits[:, 0]
        chosen = jax.nn.one_hot(label, self.num_classes)
        return logits[:, 0] + jnp.sum(logits[:, 1:] * chosen, axis=1)
