"""ProGAN's players, which grow while they are trained (Karras, Aila, Laine and Lehtinen 2018).

Stage 0 makes and judges pictures of 4x4 pixels, each further stage doubles them. All stages have their parameters from
the start; how far the players have grown is a number, `progress`: k where stage k is the last that counts, and between
k - 1 and k while it is faded in. Stage i has a share of it:

    share(progress, i) = min(max(progress - i + 1, 0), 1)

A generator's picture is (1 - share) times the one of the stage before, each pixel repeated, plus share times the
stage's own; a discriminator's map likewise, of what it sees in the halved picture and of what its finer stages make of
the picture. Stages whose share is 0 are not computed. Pictures have full size at all times: a small one is enlarged.

All learning rates are equalised (`models.equalised`); activations are leaky ReLUs (0.2). In the generator each pixel's
features are divided by the root of their mean square after every 3x3 convolution; in the discriminator the last map is
told how far the images of a group differ. A map of side s has min(max_features, capacity // s) channels.

Deviations: groups are of neighbouring images, so that most lie on one device. Sides need not be powers of two: 28
pixels begin with 7x7.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from jaxgen.models import group_deviation
from jaxgen.models.equalised import EqualisedConv, EqualisedDense, equalised, normalised
from jaxgen.models.resampling import averaged, doubling_sizes, enlarge, enlarge_then_convolve, halve

_GAIN = np.sqrt(2)  # of He et al., in all layers but those without an activation
Apply = Callable[[jax.Array], jax.Array]


def stages_of(image_size: int) -> list[int]:
    """Sides of the stages' pictures: 4, 8, 16, 32 for 32 pixels; 7, 14, 28 for 28.

    Raises:
      ValueError: for a size that halving does not bring to 4, 5, 6 or 7.
    """
    return doubling_sizes(image_size, "ProGAN")


def share(progress: jax.Array, stage: int) -> jax.Array:
    """How much a stage counts: 0 before it begins, 1 from the end of its fade on; float32."""
    return jnp.clip(jnp.asarray(progress, jnp.float32) - (stage - 1), 0.0, 1.0)


def blend(coarse: jax.Array, fine: jax.Array, share: jax.Array) -> jax.Array:
    """(1 - share) coarse + share fine: exactly one of them where the share is 0 or 1."""
    share = share.astype(fine.dtype)
    return (1 - share) * coarse + share * fine


def faded(images: jax.Array, progress: jax.Array) -> jax.Array:
    """What the discriminator is to see of images of full size: those of the stage, faded as its generator's are.

    Args:
      images: [B, H, H, C].
      progress: a number.

    Returns:
      [B, H, H, C]: means of squares of pixels, enlarged.
    """
    smallest, *larger = stages_of(images.shape[1])
    seen = averaged(images, smallest)
    for stage, size in enumerate(larger, 1):
        seen = blend(enlarge(seen), averaged(images, size), share(progress, stage))
    return seen


def pixel_norm(x: jax.Array) -> jax.Array:
    """x over the root of the mean square of its last axis; computed in float32."""
    return normalised(x).astype(x.dtype)


def _activate(x):
    return nn.leaky_relu(x, 0.2)


class EnlargingConv(EqualisedConv):
    """An equalised 3x3 convolution of the enlarged map: [B, H, W, C] -> [B, 2 H, 2 W, features]."""

    kernel_size: Any = 3

    def scaled_operation(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Without the bias."""
        return enlarge_then_convolve(x, kernel)


class FirstMap(nn.Module):
    """Latents [B, D] on the unit sphere times sqrt(D) -> maps [B, size, size, features]."""

    size: int
    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        shape = (self.size, self.size, z.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        z, kernel, bias = nn.dtypes.promote_dtype(normalised(z), equalised(kernel, _GAIN), bias, dtype=self.dtype)
        x = pixel_norm(_activate(jnp.einsum("bc,hwco->bhwo", z, kernel) + bias))
        return pixel_norm(_activate(EqualisedConv(self.features, 3, padding=1, gain=_GAIN, dtype=self.dtype)(x)))


class Enlarging(nn.Module):
    """A stage of the generator: [B, H, W, C] -> [B, 2 H, 2 W, features]."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        settings = {"padding": 1, "gain": _GAIN, "dtype": self.dtype}
        x = pixel_norm(_activate(EnlargingConv(self.features, **settings)(x)))
        return pixel_norm(_activate(EqualisedConv(self.features, 3, **settings)(x)))


class Halving(nn.Module):
    """A stage of the discriminator: [B, H, W, C] -> [B, H / 2, W / 2, features]."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features in (x.shape[-1], self.features):
            x = _activate(EqualisedConv(features, 3, padding=1, gain=_GAIN, dtype=self.dtype)(x))
        return halve(x)


class Judging(nn.Module):
    """The last map [B, size, size, C] -> logits [B], float32."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for kernel_size, padding in ((3, 1), (x.shape[1], 0)):
            x = _activate(EqualisedConv(self.features, kernel_size, padding=padding, gain=_GAIN, dtype=self.dtype)(x))
        return EqualisedDense(1)(x.reshape(len(x), -1).astype(jnp.float32))[:, 0]


class Growing(nn.Module):
    """What both players have: parts with parameters of their own, which branches of a program may or may not run.

    A part is a function of its parameters and not a submodule, since Flax's modules cannot be run inside of `lax.cond`.
    """

    capacity: int = 16384
    max_features: int = 512
    dtype: Any = None  # of the computation; parameters are float32

    def width(self, size: int) -> int:
        """Channels of a map of a side."""
        return min(self.max_features, max(1, self.capacity // size))

    def part(self, name: str, module: nn.Module, *shape: int) -> Apply:
        """A module with the parameters of this name, made for inputs [1, *shape]."""
        params: Any
        if self.has_variable("params", name):  # Flax would trace the initialisation at every call, to compare shapes
            params = self.get_variable("params", name)
        else:
            params = self.param(name, lambda key: module.init(key, jnp.zeros((1, *shape)))["params"])

        def apply(x: jax.Array) -> Any:
            return module.apply({"params": params}, x)

        return apply


def _as_number(progress, last):
    """One number of what may be one for each image; the last stage alone where nothing is told."""
    return jnp.float32(last) if progress is None else jnp.ravel(jnp.asarray(progress, jnp.float32))[0]


class Generator(Growing):
    """Latents [B, latent_dim] -> images [B, image_size, image_size, channels], float32, not limited to [-1, 1].

    `progress` is a number, or the same one for each image [B]; None: all stages.

    Raises:
      ValueError: for a size that has no network.
    """

    image_size: int = 1024
    channels: int = 3

    @nn.compact
    def __call__(self, z: jax.Array, progress: jax.Array | None = None, *, train: bool) -> jax.Array:
        sizes = stages_of(self.image_size)
        last, now = len(sizes) - 1, _as_number(progress, len(sizes) - 1)
        before, grow, draw = z.shape[-1], list[Apply](), list[Apply]()
        for stage, size in enumerate(sizes):
            width, shared = self.width(size), {"dtype": self.dtype, "parent": None}
            if stage == 0:
                grow.append(self.part(f"first_{size}", FirstMap(size, width, **shared), before))
            else:
                grow.append(self.part(f"stage_{size}", Enlarging(width, **shared), 4, 4, before))
            draw.append(self.part(f"to_image_{size}", EqualisedConv(self.channels, 1, **shared), 4, 4, width))
            before = width

        x = grow[0](z)
        image = draw[0](x).astype(jnp.float32)
        for stage in range(1, last + 1):
            run = functools.partial(_finer, grow[stage], draw[stage], share(now, stage))
            x, image = _if(now > stage - 1, run, lambda x, image: (None, enlarge(image)), x, image)
        return image


def _finer(grow, draw, share, x, image):
    """A stage's map and picture, of those of the stage before."""
    x = grow(x)
    return x, blend(enlarge(image), draw(x).astype(jnp.float32), share)


def _coarser(see, shrink, share, image, x):
    """What the stage before is given, of a stage's picture and what finer stages made of theirs."""
    own = _activate(see(image))
    return shrink(own if x is None else blend(own, x, share))


def _if(runs, function, otherwise, *operands):
    """`function` of the operands where it runs, else `otherwise`, which may return None for arrays of zeros."""

    def skip(*operands):
        return jax.tree.map(
            lambda shape, x: jnp.zeros(shape.shape, shape.dtype) if x is None else x,
            jax.eval_shape(function, *operands),
            otherwise(*operands),
        )

    return lax.cond(runs, function, skip, *operands)


class Discriminator(Growing):
    """Images [B, H, H, C] -> logits [B], float32. The size is read off x; small images are to be enlarged to it.

    `progress` is as the generator's.

    Raises:
      ValueError: for a size that has no network, or images that are not square; in training, for a batch that does not
        divide into groups.
    """

    group_size: int = 4  # images whose deviation from each other is seen; 1: none
    axis_name: str | None = None  # for groups of the global batch in the per-device view

    @property
    def couples_images(self) -> bool:
        """Whether images of a batch affect each other."""
        return self.group_size > 1

    @nn.compact
    def __call__(self, x: jax.Array, progress: jax.Array | None = None, *, train: bool) -> jax.Array:
        if x.shape[1] != x.shape[2]:
            raise ValueError(f"ProGAN needs square images, not {x.shape[1]}x{x.shape[2]}; crop or resize them")
        sizes = stages_of(x.shape[1])
        last, now, channels = len(sizes) - 1, _as_number(progress, len(sizes) - 1), x.shape[-1]
        shared, width = {"dtype": self.dtype, "parent": None}, self.width(sizes[0])
        see, shrink = list[Apply](), list[Apply]()
        for stage, size in enumerate(sizes):
            own = EqualisedConv(self.width(size), 1, gain=_GAIN, **shared)
            see.append(self.part(f"from_image_{size}", own, 4, 4, channels))
            if stage > 0:
                coarser = Halving(self.width(sizes[stage - 1]), **shared)
                shrink.append(self.part(f"stage_{size}", coarser, 4, 4, self.width(size)))
        seen = width + (self.group_size > 1)
        judge = self.part(f"judging_{sizes[0]}", Judging(width, **shared), sizes[0], sizes[0], seen)

        finer = None
        for stage in range(last, 0, -1):
            run = functools.partial(_coarser, see[stage], shrink[stage - 1], share(now, stage + 1))
            image = averaged(x, sizes[stage])
            finer = _if(now > stage - 1, run, lambda *_: None, image, finer)
        x = _activate(see[0](averaged(x, sizes[0])))
        if finer is not None:
            x = blend(x, finer, share(now, 1))
        x = group_deviation.appended(x, self.group_size, train=train, axis_name=self.axis_name)
        return judge(x)
