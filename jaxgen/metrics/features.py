"""Feature networks of the metrics: a name, the digest of the weights, and a function from images to features.

The package ships small networks of its own, so that evaluation needs no download; `jaxgen/metrics/weights/README.md`
tells how each was trained. Weights are plain arrays in a .npz: nothing is ever unpickled.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import compilation, data, files
from jaxgen.data import npz
from jaxgen.models import cnn

SHIPPED = {
    "mnist-cnn": "de80447606a4e393b7396988e33149dbf6dd06692ce886e2d84cc195d81ad3b8",
    "emoji-cnn": "4d10f4bb93db38cc767c82a693877766dbafa2db214c15bf4e1f8b123b9f7a22",
}
"""Networks in the package, with the sha256 of their files."""
ARCHITECTURE = "architecture"  # the entry of a weights file that says, as JSON, which network they are for


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network that turns images into features.

    Attributes:
      name: what people call it.
      digest: sha256 of the weights file, 64 hexadecimal digits. Two networks are the same if their digests are.
      resize: how images become the network's input, in words: it changes numbers as much as the network does.
      apply: images [B, H, W, C] float32 in [-1, 1] -> (features [B, D], logits [B, K]), both float32. Compiled already,
        and of each image alone: other images in the batch change nothing.
      image_shape: the (H, W, C) that it takes; None: any. It is never a silent resize that makes images fit.
      network: (module, variables) of a `models.cnn.CNN`, for whoever differentiates through it; None for another.
    """

    name: str
    digest: str
    resize: str
    apply: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    image_shape: tuple[int, int, int] | None = None
    network: Any = dataclasses.field(default=None, repr=False, compare=False)


class BackboneError(ValueError):
    """A weights file that is damaged, or of another network; the message says which file and what to do."""


def shipped(name: str) -> Backbone:
    """One of the package's own networks.

    Raises:
      ValueError: for another name.
      BackboneError: if the file is not the one that was shipped.
    """
    if name not in SHIPPED:
        raise ValueError(f"the package ships no network {name!r}, only: {', '.join(SHIPPED)}")
    with resources.as_file(resources.files("jaxgen.metrics") / "weights" / f"{name}.npz") as path:
        return load_cnn(path, name=name, digest=SHIPPED[name])


def shipped_for(image_shape: tuple[int, int, int]) -> Backbone:
    """The package's own network for images [H, W, C].

    Raises:
      ValueError: if there is none, with what there is.
    """
    for name in SHIPPED:
        backbone = shipped(name)
        if backbone.image_shape == tuple(image_shape):
            return backbone
    raise ValueError(
        f"the package has no feature network for images of {shape_in_words(image_shape)} (it has: "
        + ", ".join(f"{name} for {shape_in_words(shipped(name).image_shape or ())}" for name in SHIPPED)
        + ")"
    )


def load_cnn(path: str | os.PathLike, *, name: str | None = None, digest: str | None = None) -> Backbone:
    """A `models.cnn.CNN` from a file that `save_cnn` wrote.

    Args:
      path: the .npz.
      name: the file's name by default.
      digest: the sha256 that the file must have; None: any.

    Returns:
      A backbone whose features are those of the penultimate layer, after its ReLU.

    Raises:
      FileNotFoundError: if there is no such file.
      BackboneError: for another digest, a damaged file, or weights of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of weights")
    with files.explained(path, "read"):
        content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if digest is not None and found != digest:
        raise BackboneError(
            f"{path}: the weights have sha256 {found[:16]}..., but should have {digest[:16]}...: the file is damaged "
            "or another one; numbers made with it would not compare. Install the package again, or get the file anew"
        )
    try:
        arrays = npz.read_arrays(path, list)
        architecture = json.loads(str(arrays.pop(ARCHITECTURE)))
        model = cnn.CNN(
            architecture["num_classes"], tuple(architecture["widths"]), num_features=architecture["num_features"]
        )
        shape = tuple(architecture["image_shape"])
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise BackboneError(
            f"{path}: no weights of a classifier of this package can be read from it ({type(error).__name__}: {error})"
            "; such files are written by features.save_cnn"
        ) from error
    return of_cnn(model, _unflatten(path, model, shape, arrays), shape, name=name or path.stem, digest=found)


def of_cnn(
    model: cnn.CNN, variables: Any, image_shape: tuple[int, int, int], *, name: str, digest: str | None = None
) -> Backbone:
    """A backbone of a classifier in memory, such as the moving average of a run.

    Args:
      model: the module.
      variables: `state.ema`.
      image_shape: (H, W, C) that it was trained on.
      name: what to call it in records.
      digest: of a file that holds the weights; by default of the weights themselves.
    """

    @compilation.jit
    def run(variables, images):
        logits, features = model.apply(variables, images, train=False, return_features=True)
        return features, logits

    variables = jax.tree.map(jnp.asarray, variables)
    return Backbone(
        name=name,
        digest=digest or hashlib.sha256(_file_of(model, variables, image_shape)[0]).hexdigest(),
        resize="none",
        apply=lambda images: run(variables, images),
        image_shape=image_shape,
        network=(model, variables),
    )


def save_cnn(
    path: str | os.PathLike, model: cnn.CNN, variables: Any, image_shape: tuple[int, int, int], *, half: bool = True
) -> str:
    """Writes a classifier's weights and architecture as a .npz that holds plain arrays only.

    Args:
      path: the file.
      model, variables, image_shape: as in `of_cnn`.
      half: float16, half the size; running statistics stay float32.

    Returns:
      The sha256 of the file. The same weights make the same file.
    """
    content, digest = _file_of(model, variables, image_shape, half=half)
    Path(path).write_bytes(content)
    return digest


def is_cnn_file(path: str | os.PathLike) -> bool:
    """Whether a file may be one of `save_cnn`: a .npz that says which network it is for."""
    names: list[str] = []
    with contextlib.suppress(ValueError, OSError):
        npz.read_arrays(path, lambda there: names.extend(there) or [])  # type: ignore[func-returns-value]
    return ARCHITECTURE in names


def _file_of(model, variables, image_shape, *, half=False) -> tuple[bytes, str]:
    architecture = {
        "num_classes": model.num_classes,
        "widths": list(model.widths),
        "num_features": model.num_features,
        "image_shape": list(image_shape),
    }
    arrays = {
        name: value.astype(np.float16) if half and name.startswith("params/") else value
        for name, value in _flatten(variables).items()
    }
    buffer = io.BytesIO()
    np.savez(buffer, **{ARCHITECTURE: np.array(json.dumps(architecture))}, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue(), hashlib.sha256(buffer.getvalue()).hexdigest()


def _flatten(variables) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(variables)[0]
    return {"/".join(str(key.key) for key in path): np.asarray(value) for path, value in leaves}


def _unflatten(path, model, image_shape, arrays):
    """The model's variables, with the arrays of a file in their places."""
    expected = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False))
    shapes = {name: tuple(value.shape) for name, value in _flatten_shapes(expected).items()}
    given = {name: value.shape for name, value in arrays.items()}
    if wrong := sorted(name for name in shapes.keys() | given.keys() if shapes.get(name) != given.get(name)):
        first, absent = wrong[0], "absent"
        raise BackboneError(
            f"{path}: these are the weights of another network: {len(wrong)} of {len(shapes)} arrays do not fit, "
            f"the first is {first}, {given.get(first, absent)} in the file and {shapes.get(first, absent)} in the net"
        )
    for name, value in arrays.items():
        if not np.isfinite(value.astype(np.float32)).all():
            raise BackboneError(f"{path}: {name} holds NaN or infinity; the file is damaged")
    treedef = jax.tree.structure(expected)
    return jax.tree.unflatten(treedef, [arrays[name].astype(np.float32) for name in shapes])


def _flatten_shapes(tree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): value for path, value in leaves}


# Images -> network ----------------------------------------------------------------------------------------------------


def check_shape(backbone: Backbone, image_shape: tuple[int, int, int], name: str) -> None:
    """Raises a ValueError unless the network takes such images."""
    if backbone.image_shape is not None and tuple(image_shape) != backbone.image_shape:
        raise ValueError(
            f"{name} has images of {shape_in_words(image_shape)}, but the network {backbone.name} takes "
            f"{shape_in_words(backbone.image_shape)}; "
            "no image is resized in silence: choose another network (--backbone), or bring the images to that size"
        )


def shape_in_words(shape: tuple[int, ...]) -> str:
    """(28, 28, 1) -> "28x28 pixels and 1 channel"."""
    height, width, channels = shape
    return f"{height}x{width} pixels and {channels} channel{'s' * (channels != 1)}"


def per_channel_logits(backbone: Backbone, images: Iterable[np.ndarray]) -> np.ndarray:
    """What a classifier of grey images sees in each channel of colour images: logits [N, C, K], for Stacked MNIST.

    Args:
      backbone: takes [H, W, 1].
      images: batches [B, H, W, C], uint8, or floats in [-1, 1]; all of one B but the last.
    """
    logits = []
    for batch in images:
        batch = np.asarray(data.prepare_default({"image": np.asarray(batch)})["image"])
        check_shape(backbone, (*batch.shape[1:3], 1), "each channel")
        rows = np.moveaxis(batch, -1, 1).reshape(-1, *batch.shape[1:3], 1)
        logits.append(np.asarray(backbone.apply(jnp.asarray(rows))[1]).reshape(len(batch), batch.shape[-1], -1))
    return np.concatenate(logits)
