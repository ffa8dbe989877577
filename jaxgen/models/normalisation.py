"""Normalisation of networks from image to image, by its name: of the batch, of each image, or none at all.

`batch` is batch normalisation with scale and shift. Outside of training it takes the statistics of each image itself,
as pix2pix does (Isola et al. 2017, section 3.4), or the running averages: a choice, since both are used, and images
differ. `instance` is of each image alone, in training, too, and without parameters (Ulyanov, Vedaldi and Lempitsky
2016); `affine_instance` is the same with scale and shift. A batch of one image in training is normalised alike by
`batch` and `affine_instance`. `none` leaves all as it is.

With statistics of each image the others of its batch change nothing: one by one, images come out as in a batch.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.arguments import check_key

KINDS = ("batch", "instance", "affine_instance", "none")
STATISTICS = ("image", "running")
Kind = Literal["batch", "instance", "affine_instance", "none"]
Statistics = Literal["image", "running"]


def about_one(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draws of N(1, 0.02^2), with which pix2pix's scales begin."""
    check_key(key)
    return 1 + 0.02 * jax.random.normal(key, shape, dtype)


def has_bias(kind: str) -> bool:
    """Whether the published convolutions before a normalisation have a bias: where it brings no shift of its own."""
    return kind in ("instance", "none")


def of_each_image(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """(x - mean) / sqrt(var + epsilon), of each channel of each image: [B, H, W, C] -> the same, at least float32.

    Variances are without Bessel's correction. A map of one pixel becomes 0.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    x = x - jnp.mean(x, axis=(1, 2), keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=(1, 2), keepdims=True) + epsilon)


class Norm(nn.Module):
    """Normalises maps [B, H, W, C] by the kind that is named; `batch` keeps running averages as `nn.BatchNorm` does.

    Raises:
      ValueError: at trace time, for a kind or statistics that there are not.
    """

    kind: str = "instance"
    statistics: str = "image"  # of `batch` outside of training
    epsilon: float = 1e-5
    scale_init: Any = about_one
    dtype: Any = None  # of what is returned; statistics and parameters are float32
    axis_name: str | None = None  # synchronises batch statistics in the per-device view

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.kind not in KINDS or self.statistics not in STATISTICS:
            raise ValueError(
                f"a normalisation is one of {', '.join(KINDS)}, with statistics of {' or '.join(STATISTICS)}, not "
                f"{self.kind!r} with {self.statistics!r}"
            )
        if self.kind == "none":
            return x
        dtype = self.dtype or x.dtype
        if self.kind != "batch":
            y = of_each_image(x, self.epsilon)
        else:
            norm = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=self.epsilon,
                dtype=jnp.promote_types(x.dtype, jnp.float32),  # rounded once, after scale and shift
                use_scale=False,
                use_bias=False,
                axis_name=self.axis_name,
            )
            nn.share_scope(self, norm)  # `mean` and `var` stand beside `scale` and `bias`, as in nn.BatchNorm
            own = not train and self.statistics == "image"
            y = of_each_image(x, self.epsilon) if own else norm(x)
        if self.kind != "instance":
            scale = self.param("scale", self.scale_init, x.shape[-1:], jnp.float32)
            y = y * scale + self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return y.astype(dtype)
