"""Perceptual distances: how far apart two images are for a network that is not trained.

    found = perceptual.judge((32, 32, 3))            # the package's own classifier of such images
    found = perceptual.vgg("vgg16.npz")              # VGG-16, of a file that you have
    found.distance(found.weights, image, target)     # [B]

Nothing is downloaded. `weights` are arrays, to be given as `frozen` to `gan.init`; terms read them as `turn.frozen`.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.arguments import short
from jaxgen.data import npz
from jaxgen.local_path import local
from jaxgen.metrics import features
from jaxgen.models.convolution import convolve, max_pool
from jaxgen.models.geometry import Geometry


class Perceptual(NamedTuple):
    """A network with what it finds different.

    weights: a tree of arrays.
    distance: (weights, images [B, H, W, C], targets of the same shape) -> [B], 0 for equal images, never negative.
    maps: (weights, images) -> what it compares, a list of [B, h, w, C]; of tiles those of an image below each other.
    """

    weights: Any
    distance: Callable[[Any, jax.Array, jax.Array], jax.Array]
    maps: Callable[[Any, jax.Array], list[jax.Array]]

    def __repr__(self) -> str:
        return short(self)


def distance_of_maps(maps: Any, others: Any, weights: Any = None) -> jax.Array:
    """sum over maps of the mean over positions of sum_c w_c (u_c - v_c)^2: [B], never negative.

    u and v are the vectors of both maps at a position, each divided by its length.

    Args:
      maps, others: lists of [B, h, w, C].
      weights: lists of w [C], not negative; 1 / C each by default.

    Zhang et al. 2018, eq. 1 (LPIPS), where w are learned.
    """
    total = jnp.zeros(())
    for i, (u, v) in enumerate(zip(maps, others, strict=True)):
        w = 1 / u.shape[-1] if weights is None else weights[i]
        total += jnp.mean(jnp.sum(w * jnp.square(_unit(u) - _unit(v)), axis=-1), axis=(1, 2))
    return total


def _unit(x):
    """Vectors of length 1; of length 0 where they are 0, and with a gradient there, too."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-10)


def judge(image_shape: tuple[int, int, int]) -> Perceptual:
    """The package's classifier of images [H, W, C]: its maps before each pooling, none of which weighs more.

    Raises:
      ValueError: for images of which the package has no classifier, with those of which it has.
    """
    module, variables = features.shipped_for(image_shape).network

    def maps(weights, images):
        def normalised(layer, _):
            return isinstance(layer, nn.BatchNorm)

        _, found = module.apply(
            weights, images, train=False, capture_intermediates=normalised, mutable=["intermediates"]
        )
        named = found["intermediates"]
        return [nn.relu(named[f"BatchNorm_{i}"]["__call__"][0]) for i in range(len(module.widths))]

    def distance(weights, images, targets):
        return distance_of_maps(maps(weights, images), maps(weights, targets))

    return Perceptual(variables, distance, maps)


def judge_of_tiles(image_shape: tuple[int, int, int]) -> Perceptual:
    """`judge` of images [H, W, C], or where there is none the mean of it over tiles of a size of which there is one.

    Raises:
      ValueError: for images that no such tiles fill, with those of which the package has a classifier.
    """
    sizes = [shape for name in features.SHIPPED if (shape := features.shipped(name).image_shape) is not None]
    tiles = [shape for shape in sizes if all(n % m == 0 for n, m in zip(image_shape, shape, strict=True))]
    if tuple(image_shape) in sizes or not tiles:
        return judge(image_shape)
    found = judge(tiles[0])

    def cut(images):
        b, height, width, channels = images.shape
        h, w, _ = tiles[0]
        images = images.reshape(b, height // h, h, width // w, w, channels).swapaxes(2, 3)
        return images.reshape(-1, h, w, channels)

    def distance(weights, images, targets):
        return jnp.mean(found.distance(weights, cut(images), cut(targets)).reshape(len(images), -1), axis=1)

    def maps(weights, images):
        return [x.reshape(len(images), -1, *x.shape[2:]) for x in found.maps(weights, cut(images))]

    return Perceptual(found.weights, distance, maps)


def named(name: str, image_shape: tuple[int, int, int]) -> Perceptual | None:
    """`judge_of_tiles` of images [H, W, C] for "shipped", None for "none", and `vgg` for the path of a file.

    Raises:
      ValueError: for images of which the package has no network, or a file that does not fit.
      FileNotFoundError: for a file that there is not.
    """
    if name == "none":
        return None
    if name != "shipped":
        return vgg(name)
    try:
        return judge_of_tiles(image_shape)
    except ValueError as error:
        raise ValueError(f"{error}: give --perceptual none, or the path of VGG-16's weights") from error


VGG = {"conv1": (64, 64), "conv2": (128, 128), "conv3": (256,) * 3, "conv4": (512,) * 3, "conv5": (512,) * 3}
"""The convolutions of VGG-16 (Simonyan and Zisserman 2015): stages, between which maps are halved."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of channels in [-1, 1], as LPIPS subtracts and divides


def vgg_shapes() -> dict[str, tuple[int, ...]]:
    """Arrays of a file for `vgg`: conv1_1/kernel [3, 3, 3, 64], conv1_1/bias [64], ..., conv5_3/bias [512]."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for stage, widths in VGG.items():
        for i, width in enumerate(widths, start=1):
            shapes |= {f"{stage}_{i}/kernel": (3, 3, channels, width), f"{stage}_{i}/bias": (width,)}
            channels = width
    return shapes


def vgg(path: str | os.PathLike) -> Perceptual:
    """VGG-16 with the weights of a file, for colour images: the distance of the last maps of its five stages (LPIPS).

    Args:
      path: a .npz with the arrays of `vgg_shapes`, and, for LPIPS as published, lpips1 [64] to lpips5 [512]: what each
        channel weighs. Without these all weigh 1 / C. Kernels are [height, width, inputs, outputs].

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for a damaged file, or arrays of other names or shapes, naming the first.
    """
    path = local(path, "the file of VGG's weights")
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path}: a perceptual distance needs VGG-16's weights, which jaxgen does not download; "
            "save them as a .npz with the arrays that jaxgen.losses.perceptual.vgg_shapes() names"
        )
    learned = {f"lpips{i}": (widths[-1],) for i, widths in enumerate(VGG.values(), start=1)}
    try:
        arrays = npz.read_arrays(path, list)
    except ValueError as error:
        raise ValueError(f"{path}: no arrays can be read from it: {error}") from error
    expected = vgg_shapes() | (learned if learned.keys() & arrays.keys() else {})
    for name, shape in expected.items():
        if name not in arrays or arrays[name].shape != shape:
            there = f"is of shape {list(arrays[name].shape)}" if name in arrays else "is not there"
            raise ValueError(f"{path}: the array {name!r} {there}, and should be of shape {list(shape)}")
    return Perceptual({name: np.asarray(arrays[name], np.float32) for name in expected}, _vgg_distance, vgg_maps)


def _vgg_distance(weights, images, targets):
    learned = [weights[f"lpips{i}"] for i in range(1, len(VGG) + 1)] if "lpips1" in weights else None
    return distance_of_maps(vgg_maps(weights, images), vgg_maps(weights, targets), learned)


def vgg_maps(weights: Mapping[str, jax.Array], images: jax.Array) -> list[jax.Array]:
    """Images [B, H, W, 3] in [-1, 1] -> the last map of each of VGG-16's five stages, after its ReLU.

    Raises:
      ValueError: at trace time, for images of fewer than 16 pixels, or without three channels.
    """
    if images.shape[-1] != 3 or min(images.shape[1:3]) < 16:
        raise ValueError(f"VGG-16 is for colour images of at least 16x16 pixels, not {list(images.shape[1:])}")
    found: list[jax.Array] = []
    x = (images - np.array(SHIFT, np.float32)) / np.array(SCALE, np.float32)
    for stage, widths in VGG.items():
        x = max_pool(x) if found else x
        for i in range(1, len(widths) + 1):
            geometry = Geometry(x.shape[1:3], (3, 3), (1, 1), ((1, 1), (1, 1)), 1)
            x = nn.relu(convolve(x, weights[f"{stage}_{i}/kernel"], geometry) + weights[f"{stage}_{i}/bias"])
        found.append(x)
    return found
