"""The convolutional classifier: convolutions, pooling, dense layers (LeCun et al. 1998, in today's parts).

Its penultimate layer is the feature extractor of the metrics.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.convolution import Conv, max_pool


class CNN(nn.Module):
    """Images [B, H, W, C] in [-1, 1] -> logits [B, num_classes].

    Each width is a 3x3 convolution, batch normalisation, ReLU and 2x2 max pooling; then a dense layer of
    `num_features` with dropout. Images must be at least 2^len(widths) pixels wide and high.
    """

    num_classes: int
    widths: Sequence[int] = (32, 64, 128)
    num_features: int = 128
    dropout: float = 0.3
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, return_features: bool = False) -> Any:
        if min(x.shape[1:3]) < 2 ** len(self.widths):
            raise ValueError(
                f"{len(self.widths)} poolings need images of at least {2 ** len(self.widths)} pixels, not "
                f"{x.shape[1]}x{x.shape[2]}"
            )

        def normalise(x):
            return nn.BatchNorm(
                use_running_average=not train, momentum=0.9, dtype=self.dtype, axis_name=self.axis_name
            )(x)

        for width in self.widths:
            x = max_pool(nn.relu(normalise(Conv(width, 3, padding=1, use_bias=False, dtype=self.dtype)(x))))
        x = x.reshape(x.shape[0], -1)
        features = nn.relu(normalise(nn.Dense(self.num_features, use_bias=False, dtype=self.dtype)(x)))
        x = nn.Dropout(self.dropout, deterministic=not train)(features)
        logits = nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)
        return (logits, features.astype(jnp.float32)) if return_features else logits
