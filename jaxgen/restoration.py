"""A network that returns an image: super-resolution, denoising, whatever has a source and a target.

    state = restoration.init(key, model, optimizer=optax.adam(1e-4), source_shape=(48, 48, 3))
    step = restoration.make_train_step(model, optimizer=optax.adam(1e-4))
    state, metrics = jax.jit(step)(state, {"source": sources, "image": targets}, key)
    images = restoration.restore(model, state.ema, sources)

`batch["source"]` is what goes in, `batch["image"]` what should come out: `data.degraded` makes one of the other.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxgen import gradients as ways
from jaxgen import network, objective
from jaxgen.arguments import check_function, check_key, check_module
from jaxgen.losses import restoration as losses
from jaxgen.metrics import image as metrics


def init(
    key: jax.Array, model: nn.Module, *, optimizer: optax.GradientTransformation, source_shape: tuple[int, ...]
) -> objective.State:
    """The state before the first step.

    Args:
      key: of the parameters.
      model: as for `make_train_step`.
      optimizer: any optax transformation.
      source_shape: (h, w, c); of most networks the size does not matter.

    Raises:
      TypeError: for a seed instead of a key, or what is no Linen module that takes `train`.
    """
    check_key(key)
    check_module(model, "model")

    def new(key):
        _, variables = network.init_with_output(model, key, jnp.zeros((1, *source_shape)), name="model")
        return objective.init(variables, optimizer=optimizer)

    return network.compiled_init(new, key)


def make_train_step(
    model: nn.Module,
    *,
    optimizer: optax.GradientTransformation,
    loss: losses.Loss = losses.l1,
    ema_decay: network.Decay = 0.0,
    gradients: ways.Way = ways.plain,
    axis_name: str | None = None,
) -> Callable:
    """Builds `train_step(state, batch, key) -> (state, metrics)` that minimises E loss(model(source), image).

    Args:
      model: `apply(variables, sources [B, h, w, c], train=) -> images [B, H, W, C]`, not bounded.
      optimizer: any optax transformation.
      loss: `(output, target) -> [B]`, of `losses.restoration` or your own.
      ema_decay, gradients, axis_name: as for `objective.make_train_step`.

    Returns:
      A pure function, not compiled. Metrics: `loss`, `psnr` (dB, of outputs that are neither clipped nor rounded, the
      mean over images), and those of `objective.make_train_step`.

    Raises:
      TypeError: at once, for what is no module, function or optimiser; at trace time, for a seed instead of a key.
      ValueError: at trace time, for a batch without a source, an output of another shape than the image.
    """
    check_module(model, "model")
    check_function(loss, "output, target", "loss", "loss=losses.restoration.l1")

    def distance(params, model_state, batch, key, step):
        target = network.images_of(batch)
        output, model_state = network.apply(model, params, model_state, source_of(batch), key=key)
        if output.shape != target.shape:
            raise ValueError(
                f"the model makes images of shape {list(output.shape[1:])} of the source, but those that should come "
                f"out have {list(target.shape[1:])}"
            )
        value = jnp.mean(loss(output, target))
        error = losses.mse(jax.lax.stop_gradient(output), target)
        return value, (model_state, {"loss": value, "psnr": jnp.mean(-10 * jnp.log10(error + 1e-10))})

    return objective.make_train_step(
        distance, optimizer=optimizer, ema_decay=ema_decay, gradients=gradients, axis_name=axis_name
    )


def source_of(batch: Mapping[str, Any]) -> Any:
    """batch["source"], or its shape in a batch of shapes.

    Raises:
      ValueError: where there is none.
    """
    if "source" not in batch:
        raise ValueError(
            f"a network that restores needs a source, and the batch has only {', '.join(sorted(batch))}: "
            "data.degraded makes one of the images"
        )
    return batch["source"]


def restore(model: nn.Module, variables: Any, source: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
    """Images of sources, with running batch statistics, clipped to [-1, 1].

    Args:
      model: the network.
      variables: `state.ema`, or `state.network.variables` for the latest weights.
      source: [B, h, w, c], of any size that the network allows.
      key: of what it draws itself.

    Raises:
      TypeError, ValueError: for a whole state instead of variables, variables of another network, sources that do not
        fit them.
    """
    return jnp.clip(network.evaluate(model, variables, source, key=key, what="sources"), -1.0, 1.0)


# All eight ways to lay a square on itself: quarters of a turn, then mirrored or not.
_TURNS = [(quarters, mirrored) for quarters in range(4) for mirrored in (False, True)]


def turned(image: jax.Array, quarters: int, mirrored: bool) -> jax.Array:
    """Images [B, H, W, C] turned counterclockwise by so many quarters, and then mirrored left to right."""
    image = jnp.rot90(image, quarters, axes=(1, 2))
    return image[:, :, ::-1] if mirrored else image


def self_ensemble(restore: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """The mean of what `restore` makes of a source turned and mirrored in all eight ways, each turned back.

    Published numbers with a plus (EDSR+, RCAN+) are of it. It then commutes with turning and mirroring.

    Args:
      restore: sources [B, h, w, c] -> images [B, H, W, C]; eight times.

    Lim et al. 2017, section 3.4.
    """

    def mean(source):
        total = 0.0
        for quarters, mirrored in _TURNS:
            found = restore(turned(source, quarters, mirrored))
            found = found[:, :, ::-1] if mirrored else found
            total += jnp.rot90(found, -quarters, axes=(1, 2))
        return total / len(_TURNS)

    return mean


# Numbers --------------------------------------------------------------------------------------------------------------

METHODS = {"bicubic": "cubic", "lanczos": "lanczos3"}  # of `jax.image.resize`, enlarging as Pillow does


def classical(source: jax.Array, image_shape: tuple[int, ...]) -> dict[str, jax.Array]:
    """What there is to beat: {"input": the source}, or enlarged {"bicubic": [B, H, W, C], "lanczos": [B, H, W, C]}.

    Args:
      source: [B, h, w, c]; channels beyond those of the images, such as a noise level, are left out.
      image_shape: (H, W, C).
    """
    height, width, channels = image_shape
    source = source[..., :channels]
    if source.shape[1:3] == (height, width):
        return {"input": source}
    shape = (len(source), height, width, source.shape[-1])
    return {name: jax.image.resize(source, shape, method) for name, method in METHODS.items()}


def shown(source: jax.Array, image_shape: tuple[int, ...]) -> jax.Array:
    """Sources as pictures of the size of the images: each pixel repeated, clipped to [-1, 1]: [B, H, W, C]."""
    height, width, channels = image_shape
    source = source[..., :channels]
    if source.shape[1:3] != (height, width):
        source = jax.image.resize(source, (len(source), height, width, source.shape[-1]), "nearest")
    return jnp.clip(source, -1.0, 1.0)


def luminance(levels: jax.Array) -> jax.Array:
    """Y of ITU-R BT.601 as 16 to 235: 16 + (65.481 R + 128.553 G + 24.966 B) / 255, of levels of 255 [..., 3].

    Grey images, of one channel, are taken as they are. It is what "PSNR on Y" is of in papers on super-resolution.
    """
    if levels.shape[-1] == 1:
        return levels
    weights = np.array([65.481, 128.553, 24.966], np.float32) / 255
    return 16 + jnp.sum(levels * weights, axis=-1, keepdims=True)


def numbers(
    image: jax.Array, target: jax.Array, *, crop_border: int = 0, on_luminance: bool = False
) -> dict[str, jax.Array]:
    """How near images are to what they should be, as files of 8 bits: {"psnr": [B] in dB, "ssim": [B]}.

    Both are clipped to [-1, 1] and rounded to 256 levels. SSIM is left out for images that its window of 11 pixels does
    not fit into; PSNR is at most 100 dB, as of equal images: a single one would make every mean infinite.

    Args:
      image, target: [B, H, W, C] in [-1, 1].
      crop_border: pixels along each side that do not count: in papers as many as an image is enlarged by.
      on_luminance: compare `luminance`, not colours.

    Raises:
      ValueError: for unequal shapes, or a border that leaves nothing.
    """
    if 2 * crop_border >= min(target.shape[1:3]):
        raise ValueError(f"nothing is left of {target.shape[1]}x{target.shape[2]} pixels without {crop_border} a side")
    pair = [jnp.round(127.5 * (jnp.clip(x, -1.0, 1.0) + 1)) for x in (image, target)]
    pair = [luminance(x) for x in pair] if on_luminance else pair
    if crop_border:
        pair = [x[:, crop_border:-crop_border, crop_border:-crop_border] for x in pair]
    found = {"psnr": jnp.minimum(metrics.psnr(*pair, data_range=255.0), 100.0)}
    if min(pair[0].shape[1:3]) >= 11:
        found["ssim"] = metrics.ssim(*pair, data_range=255.0)
    return found
