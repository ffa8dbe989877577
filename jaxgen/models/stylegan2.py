"""StyleGAN2 (Karras et al. 2020a) for square images of 4, 5, 6 or 7 times a power of two, and any number of classes.

The generator first maps a latent to a style w. It starts from a learned constant, and in each layer w says how strong
every channel is (`models.modulated`); noise of a learned strength is added to each map. Its picture is the sum of what
each size draws ("skip"); the discriminator has residual blocks ("residual"), and sees the standard deviation of a group
of images as one channel more of its last map. All learning rates are equalised (`models.equalised`); sizes change
without aliasing (`models.antialiased`). Every activation is a leaky ReLU (0.2) times sqrt(2).

A map of side s has min(max_features, capacity // s) channels: the paper's capacity is 32,768 ("fmaps" 1) or half of it.

With classes (Karras et al. 2020b) an embedding of the label stands beside the latent before it is mapped; the
discriminator maps an embedding of the label, and its logit is the inner product with that over sqrt(features).

Deviations: groups of the discriminator are of neighbouring images, so that most lie on one device (the authors' code
takes images far apart). Each image draws of its own whether and where styles are mixed (there one draw for a batch). No
map is clipped: that code does so in half precision, of whose range bfloat16 has no need. Without a key the noise is
always the same (there it is stored with the weights).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from jaxgen import sharding
from jaxgen.interpolation import lerp
from jaxgen.models import fir, group_deviation
from jaxgen.models.antialiased import HalvingConv
from jaxgen.models.batch_norm import check_label, rows_of
from jaxgen.models.equalised import EqualisedConv, EqualisedDense, normalised
from jaxgen.models.modulated import StyledConv, ToImage, activate
from jaxgen.models.resampling import doubling_sizes

GENERATORS, DISCRIMINATORS = ("skip", "residual", "orig"), ("residual", "skip", "orig")
MODEL = "StyleGAN2"  # in errors
_HALF = np.sqrt(0.5)  # a sum of two maps of unit variance has it again


def num_layers_of(image_size: int) -> int:
    """How many styles an image of a size has: one for each 3x3 convolution, and one for the last layer."""
    return 2 * len(doubling_sizes(image_size, MODEL))


class Mapping(nn.Module):
    """Latents [B, D] (None: without), labels [B] where there are classes -> styles [B, features], float32."""

    features: int = 512
    num_layers: int = 8
    num_classes: int = 0
    rate: float = 0.01  # multiplies the optimiser's learning rate

    @nn.compact
    def __call__(self, z: jax.Array | None, label: jax.Array | None = None) -> jax.Array:
        inputs = [] if z is None else [normalised(z)]
        if self.num_classes:
            assert label is not None  # the generator has refused it
            shape = (self.num_classes, self.features)
            table = self.param("embedding", nn.initializers.normal(1.0), shape, jnp.float32)
            bias = self.param("embedding_bias", nn.initializers.zeros, (self.features,), jnp.float32)
            inputs.append(normalised(rows_of(table, label) / np.sqrt(self.num_classes) + bias))
        x = jnp.concatenate(inputs, axis=-1)
        for _ in range(self.num_layers):
            x = activate(EqualisedDense(self.features, self.rate)(x))
        return x


class Synthesis(nn.Module):
    """Styles [B, layers, features] -> images [B, image_size, image_size, channels], float32, not limited to [-1, 1]."""

    image_size: int
    channels: int = 3
    capacity: int = 32768
    max_features: int = 512
    architecture: str = "skip"
    dtype: Any = None

    @nn.compact
    def __call__(self, styles: jax.Array, *, train: bool) -> jax.Array:
        image: Any = None
        layer = 0
        for i, size in enumerate(doubling_sizes(self.image_size, MODEL)):
            width = min(self.max_features, max(1, self.capacity // size))
            if i == 0:
                constant = self.param("constant", nn.initializers.normal(1.0), (size, size, width), jnp.float32)
                x = jnp.broadcast_to(constant.astype(self.dtype or jnp.float32), (len(styles), *constant.shape))
            else:
                before = x
                x = StyledConv(width, enlarge=True, dtype=self.dtype)(x, styles[:, layer])
                layer += 1
            x = StyledConv(width, dtype=self.dtype)(x, styles[:, layer])
            layer += 1
            if i > 0 and self.architecture == "residual":
                conv = EqualisedConv(width, 1, use_bias=False, dtype=self.dtype, name=f"shortcut_{i}")
                x = (x + fir.upsample(conv(before))) * np.asarray(_HALF, x.dtype)
            if self.architecture == "skip" or size == self.image_size:
                drawn = ToImage(self.channels, dtype=self.dtype)(x, styles[:, layer])
                image = drawn if image is None else fir.upsample(image) + drawn
        return image


class Generator(nn.Module):
    """[B, latent_dim], and labels [B] where there are classes -> images [B, image_size, image_size, channels], float32.

    In training it draws whether and where styles are mixed, and noise, from its streams, and keeps a running mean of w
    (in "averages", `mean_style`). In evaluation noise is drawn from the key that is given, or always the same, and

        truncation: psi; w <- mean + psi (w - mean), in the first `truncated_layers` layers, all by default.
        mixing: with `fine` latents [B, latent_dim]: their styles from this layer on.
        share: with latents `toward` [B, latent_dim]: w <- (1 - share) w + share w(toward), a number or [B].

    Raises:
      ValueError: for a size that has no network, another architecture, a label that is missing or of another shape,
        mixing without fine latents, a share of no way.
    """

    image_size: int = 256
    channels: int = 3
    capacity: int = 32768
    max_features: int = 512
    style_dim: int = 512
    mapping_layers: int = 8
    num_classes: int = 0
    architecture: str = "skip"  # or "residual", or "orig": nothing but a chain of convolutions
    mixing_probability: float = 0.9
    mean_decay: float = 0.995  # of the running mean of w, for each step
    dtype: Any = None

    def setup(self) -> None:
        """The mapping, the synthesis, and the running mean of styles."""
        if self.architecture not in GENERATORS:
            raise ValueError(
                f"the generator's architecture is one of {', '.join(GENERATORS)}, not {self.architecture!r}"
            )
        self.mapping_network = Mapping(self.style_dim, self.mapping_layers, self.num_classes)
        self.synthesis_network = Synthesis(
            self.image_size, self.channels, self.capacity, self.max_features, self.architecture, self.dtype
        )
        self.mean_style = self.variable("averages", "mean_style", jnp.zeros, (self.style_dim,), jnp.float32)

    def __call__(
        self,
        z: jax.Array,
        label: jax.Array | None = None,
        *,
        train: bool,
        truncation: float | jax.Array = 1.0,
        truncated_layers: int | jax.Array | None = None,
        mixing: int | jax.Array | None = None,
        fine: jax.Array | None = None,
        toward: jax.Array | None = None,
        share: float | jax.Array | None = None,
    ) -> jax.Array:
        styles = self.mapping(z, label, train=train)
        if (mixing is None) != (fine is None):
            raise ValueError("styles are mixed with mixing= and fine= together: a number of layers, and other latents")
        if (toward is None) != (share is None):
            raise ValueError("what lies between two latents is told by toward= and share= together: the other, how far")
        if toward is not None and share is not None:
            other = self.mapping_network(toward, label)[:, None]
            styles = lerp(styles, other, jnp.reshape(share, (-1, 1)))
        layers = jnp.arange(styles.shape[1])[:, None]
        if mixing is not None and fine is not None:
            styles = jnp.where(layers < mixing, styles, self.mapping_network(fine, label)[:, None])
        if not (isinstance(truncation, (int, float)) and truncation == 1):
            mean, among = self.mean_style.value, True if truncated_layers is None else layers < truncated_layers
            styles = jnp.where(among, mean + truncation * (styles - mean), styles)
        return self.synthesis(styles, train=train)

    def mapping(self, z: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Styles of all layers [B, layers, style_dim]; in training some are those of another latent from a layer on."""
        check_label(label, self.num_classes, len(z))
        w, num_layers = self.mapping_network(z, label), num_layers_of(self.image_size)
        styles = jnp.broadcast_to(w[:, None], (len(w), num_layers, w.shape[-1]))
        if not train or self.is_initializing():
            return styles
        if self.is_mutable_collection("averages"):
            mean, decay = lax.stop_gradient(jnp.mean(w, axis=0)), self.mean_decay
            self.mean_style.value = decay * self.mean_style.value + (1 - decay) * mean
        if self.mixing_probability > 0:
            keys = jax.random.split(self.make_rng("mixing"), 3)
            other = self.mapping_network(sharding.draw(jax.random.normal, keys[0], z.shape), label)
            first = sharding.draw(lambda key, shape: jax.random.randint(key, shape, 1, num_layers), keys[1], (len(z),))
            mixed = sharding.draw(
                lambda key, shape: jax.random.bernoulli(key, self.mixing_probability, shape), keys[2], (len(z),)
            )
            from_other = mixed[:, None] & (jnp.arange(num_layers) >= first[:, None])
            styles = jnp.where(from_other[..., None], other[:, None], styles)
        return styles

    def synthesis(self, styles: jax.Array, *, train: bool) -> jax.Array:
        """Images of styles [B, layers, style_dim]."""
        return self.synthesis_network(styles, train=train)


class Discriminator(nn.Module):
    """Images [B, H, W, C] in [-1, 1], and labels [B] where there are classes -> logits [B], float32.

    The size is read off x.

    Raises:
      ValueError: for a size that has no network, images that are not square, another architecture, a label that is
        missing or of another shape; in training, for a batch that does not divide into groups.
    """

    capacity: int = 32768
    max_features: int = 512
    mapping_layers: int = 8
    num_classes: int = 0
    architecture: str = "residual"  # or "skip", or "orig": nothing but a chain of convolutions
    group_size: int = 4
    dtype: Any = None
    axis_name: str | None = None  # for groups of the global batch in the per-device view

    @property
    def couples_images(self) -> bool:
        """Whether images of a batch affect each other."""
        return self.group_size > 1

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array:
        if self.architecture not in DISCRIMINATORS:
            allowed = ", ".join(DISCRIMINATORS)
            raise ValueError(f"the discriminator's architecture is one of {allowed}, not {self.architecture!r}")
        if x.shape[1] != x.shape[2]:
            raise ValueError(f"StyleGAN2 needs square images, not {x.shape[1]}x{x.shape[2]}; crop or resize them")
        check_label(label, self.num_classes, len(x))
        shared, image = {"dtype": self.dtype}, x
        *sizes, smallest = reversed(doubling_sizes(image.shape[1], MODEL))
        widths = {size: min(self.max_features, max(1, self.capacity // size)) for size in (*sizes, smallest)}

        def conv(layer, *arguments, **settings):
            return layer(*arguments, **settings, **shared)

        for i, size in enumerate((*sizes, smallest)):
            if i == 0 or self.architecture == "skip":
                seen = activate(conv(EqualisedConv, widths[size], 1, name=f"from_image_{size}")(image))
                x = seen if i == 0 else x + seen
            if size == smallest:
                break
            before, width = x, widths[size // 2]
            x = activate(conv(EqualisedConv, widths[size], 3, padding=1, name=f"conv_{size}")(x))
            x = activate(conv(HalvingConv, width, name=f"halving_{size}")(x))
            if self.architecture == "residual":
                shortcut = conv(EqualisedConv, width, 1, use_bias=False, name=f"shortcut_{size}")
                x = (x + shortcut(fir.downsample(before))) * np.asarray(_HALF, x.dtype)
            if self.architecture == "skip":
                image = fir.downsample(image)
        x = group_deviation.appended(x, self.group_size, train=train, axis_name=self.axis_name)
        x = activate(conv(EqualisedConv, widths[smallest], 3, padding=1, name=f"conv_{smallest}")(x))
        x = activate(EqualisedDense(widths[smallest], **shared)(x.reshape(len(x), -1)))
        if not self.num_classes:
            return EqualisedDense(1)(x.astype(jnp.float32))[:, 0]
        h = EqualisedDense(widths[smallest])(x.astype(jnp.float32))
        told = Mapping(widths[smallest], self.mapping_layers, self.num_classes)(None, label)
        return jnp.sum(h * told, axis=-1) / np.sqrt(widths[smallest])
