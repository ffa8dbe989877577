"""Batch normalisation whose scale and shift depend on a label (de Vries et al., 2017; Miyato and Koyama, 2018)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def rows_of(table: jax.Array, label: jax.Array) -> jax.Array:
    """The row table[label] for each label; NaN for a label that has none.

    Args:
      table: [num_classes, ...].
      label: integers [...].

    Returns:
      [*label.shape, *table.shape[1:]].

    Raises:
      TypeError: at trace time, for labels that are not integers.
    """
    label = jnp.asarray(label)
    if not jnp.issubdtype(label.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, not {label.dtype}; for one-hot rows use x.argmax(-1)")
    label = label.astype(jnp.int32)  # the number of rows need not fit into a smaller type
    # Below zero, `take` would count from the end: -1, often "no label", would be the last row.
    return jnp.take(table, jnp.where(label < 0, len(table), label), axis=0, mode="fill", fill_value=jnp.nan)


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation with one scale and one shift per class: images [B, H, W, C], labels [B] -> [B, H, W, C].

    y = scale[label] (x - mean) / sqrt(var + epsilon) + bias[label], with mean and var over all axes but the last, of
    the whole batch whatever its labels: in training those of the batch, otherwise the running averages. The parameters
    `scale` (1 at first) and `bias` (0 at first) are [num_classes, C]; the statistics are those of
    `flax.linen.BatchNorm` under the same names, `mean` and `var` [C] in "batch_stats". A label outside
    0..num_classes - 1 makes its image NaN, and no other.
    """

    num_classes: int
    momentum: float = 0.9  # of the running averages: new = momentum * old + (1 - momentum) * batch
    epsilon: float = 1e-5
    dtype: Any = None  # of what is returned; statistics and parameters are float32
    axis_name: str | None = None  # synchronises batch statistics in the per-device view

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array, *, train: bool) -> jax.Array:
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=jnp.promote_types(x.dtype, jnp.float32),  # rounded once, after scale and shift
            use_scale=False,
            use_bias=False,
            axis_name=self.axis_name,
        )
        nn.share_scope(self, norm)  # `mean` and `var` stand beside `scale` and `bias`, as in nn.BatchNorm
        shape = (self.num_classes, x.shape[-1])
        scale = rows_of(self.param("scale", nn.initializers.ones, shape, jnp.float32), label)
        bias = rows_of(self.param("bias", nn.initializers.zeros, shape, jnp.float32), label)
        along = (-1, *(1,) * (x.ndim - 2), x.shape[-1])
        y = norm(x) * scale.reshape(along) + bias.reshape(along)
        return y.astype(self.dtype or y.dtype)


def check_label(label: jax.Array | None, num_classes: int, batch_size: int) -> None:
    """Refuses a label where a network knows no classes, and none, or one of another shape, where it does.

    Raises:
      ValueError: at trace time, with what to do.
    """
    if num_classes == 0:
        if label is not None:
            raise ValueError("this network knows no classes: build it with num_classes, or leave the label out")
    elif label is None:
        raise ValueError(f"this network is told the class of each image: give a label [B] in 0..{num_classes - 1}")
    elif jnp.shape(label) != (batch_size,):
        raise ValueError(f"label must have the shape [{batch_size}], one for each image, not {list(jnp.shape(label))}")
