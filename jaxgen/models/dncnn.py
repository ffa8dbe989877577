"""DnCNN: plain convolutions that find the noise, which is then taken away (Zhang, Zuo, Chen, Meng and Zhang 2017).

17 layers of 64 features have 557,057 parameters for grey images with a bias everywhere, 556,097 without biases before a
normalisation and 556,032 without any. Once trained, a normalisation is part of the convolution before it (`merged`):
555,137. Without normalisation and biases, 20 layers are VDSR's network (Kim, Lee and Lee 2016; 664,704).

A network without biases and normalisation scales, f(a y) = a f(y) for a > 0, and so removes noise of levels that it has
not seen (Mohan, Kadkhodaie, Simoncelli and Fernandez-Granda 2020).
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.restoring import same

EPSILON = 1e-5
Biases = Literal["everywhere", "without_norm", "nowhere"]

small = nn.initializers.orthogonal(0.2)
keeping_size = nn.initializers.orthogonal(2**0.5)  # of what a ReLU leaves; small layers in a row would end in nothing


class DnCNN(nn.Module):
    """Images [B, H, W, C] -> [B, H, W, C], float32, not bounded: the source less what the network finds in it."""

    features: int = 64
    layers: int = 17
    batch_norm: bool = True  # of all layers but the first and the last
    biases: Biases = "everywhere"  # without_norm: but in layers that are normalised
    dtype: Any = None
    axis_name: str | None = None  # synchronises batch statistics in the per-device view

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(y, features, norm=False):
            use_bias = self.biases == "everywhere" or (self.biases == "without_norm" and not norm)
            init = small if self.batch_norm or features == x.shape[-1] else keeping_size
            return same(features, 3, self.dtype, use_bias=use_bias, kernel_init=init)(y)

        y = nn.relu(conv(x, self.features))
        for _ in range(self.layers - 2):
            y = conv(y, self.features, self.batch_norm)
            if self.batch_norm:
                y = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=0.9,
                    epsilon=EPSILON,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                )(y)
            y = nn.relu(y)
        return x - conv(y, x.shape[-1]).astype(jnp.float32)


def merged(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of `DnCNN(batch_norm=False, biases="everywhere")` that computes the same with running statistics.

    A normalisation s (W x + b - m) / sqrt(v + e) + t of a convolution is one of the kernel s W / sqrt(v + e) with the
    bias t + s (b - m) / sqrt(v + e).

    Args:
      variables: of a `DnCNN` with batch normalisation: {"params": ..., "batch_stats": ...}.

    Raises:
      ValueError: for variables without statistics of batches.
    """
    if not variables.get("batch_stats"):
        raise ValueError("there is nothing to merge: these variables have no batch_stats, of a batch normalisation")
    params, found = variables["params"], {}
    count = len([name for name in params if name.startswith("Conv_")])
    for i in range(count):
        layer = params[f"Conv_{i}"]
        kernel, bias = layer["kernel"], layer.get("bias", jnp.zeros(layer["kernel"].shape[-1]))
        if f"BatchNorm_{i - 1}" in params:
            norm, statistics = params[f"BatchNorm_{i - 1}"], variables["batch_stats"][f"BatchNorm_{i - 1}"]
            factor = norm["scale"] / jnp.sqrt(statistics["var"] + EPSILON)
            kernel, bias = kernel * factor, norm["bias"] + factor * (bias - statistics["mean"])
        found[f"Conv_{i}"] = {"kernel": kernel, "bias": bias}
    return {"params": found}
