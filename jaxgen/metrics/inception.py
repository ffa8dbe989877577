"""The weights of the FID's Inception v3: read from a local file, checked, converted, and made a backbone.

    python -m jaxgen.metrics.inception pt_inception-2015-12-05-6726825d.pth inception.npz

The file is the PyTorch port of TensorFlow's `inception-2015-12-05`, from the releases of `pytorch-fid`; nothing is
downloaded here. A `.pth` is a pickle, and nothing that it names is ever run (`torch_file`). The `.npz` holds the same
arrays without any pickle.
"""

import functools
import hashlib
import io
import math
import os
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import compilation, files
from jaxgen.data import npz
from jaxgen.metrics.features import Backbone, BackboneError
from jaxgen.metrics.torch_file import FILE, read_torch
from jaxgen.models import inception

NAME = "inception-v3-fid"
RULES: dict[Any, str] = {  # in words, for records; other rules go by the name of their function
    inception.tf1_bilinear: "TF-1 bilinear without antialiasing",
    inception.antialiased_bilinear: "antialiased bilinear (Pillow's)",
    inception.antialiased_bicubic: "antialiased bicubic (Pillow's)",
}


def backbone(
    path: str | os.PathLike,
    *,
    rule: inception.Rule = inception.tf1_bilinear,
    quantise: bool = True,
    logits_bias: bool = False,
    dtype: Any = None,
) -> Backbone:
    """The Inception v3 of the FID, with the weights of a local file.

    Args:
      path: the PyTorch port's `.pth`, or the `.npz` that `convert` makes of it.
      rule: how images become 299 pixels wide and high: `tf1_bilinear`, as the FID was defined, or
        `antialiased_bicubic`, as in "clean" FID. Distances by one and by the other cannot be compared.
      quantise: rounds images to 256 levels first, as PNG files do.
      logits_bias: adds the last layer's bias to the logits. Published Inception Scores are without.
      dtype: jnp.bfloat16 computes the convolutions in it, and says so in the name.

    Returns:
      A backbone for images of any size with 1 or 3 channels: features [B, 2048] (`pool3`) and logits [B, 1008]. An
      image takes 5.7 billion multiplications (a few images a second on two CPU cores), a batch of 32 about 0.3 GB.

    Raises:
      FileNotFoundError: if there is no such file.
      BackboneError: for a damaged file, one that asks for more than tensors, or weights of another network.
    """
    weights = read_weights(path)
    variables = jax.tree.map(jnp.asarray, to_variables(weights))
    network = inception.InceptionV3(logits_bias=logits_bias, dtype=dtype)

    @compilation.jit
    def run(variables, images):
        return network.apply(variables, inception.preprocess(images, rule=rule, quantise=quantise))

    name = NAME
    if logits_bias:
        name += ", logits with bias"
    if dtype is not None and jnp.dtype(dtype) != jnp.float32:
        name += f", {jnp.dtype(dtype).name}"
    resized = RULES.get(rule, getattr(rule, "__name__", repr(rule)))
    return Backbone(
        name=name,
        digest=digest(weights),
        resize=f"{'8 bits, ' * quantise}0..255, {resized} to 299x299, (x - 128) / 128",
        apply=functools.partial(run, variables),
    )


# The table of weights -------------------------------------------------------------------------------------------------


@functools.cache
def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights as the PyTorch port has them: 472 entries."""
    network = inception.InceptionV3(logits_bias=True)
    image = jax.ShapeDtypeStruct((1, inception.SMALLEST_IMAGE, inception.SMALLEST_IMAGE, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {
        _torch_name([key.key for key in path]): tuple(leaf.shape[axis] for axis in _torch_axes(leaf.ndim))
        for path, leaf in leaves
    }


_LEAVES = {"scale": "weight", "kernel": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def _torch_name(path):
    return ".".join([*path[1:-1], _LEAVES[path[-1]]])


def _torch_axes(ndim):
    # Flax's kernels are [height, width, in, out] and [in, out], PyTorch's [out, in, height, width] and [out, in].
    return {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[ndim]


def to_variables(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The weights in the places where `models.inception.InceptionV3` looks for them.

    Args:
      weights: as `read_weights` gives them.

    Returns:
      {"params": ..., "batch_stats": ...}, float32.
    """
    variables: dict[str, Any] = {}
    for name, value in weights.items():
        *path, leaf = name.split(".")
        if leaf.startswith("running_"):
            collection, leaf = "batch_stats", leaf.removeprefix("running_")
        else:
            collection = "params"
            if leaf == "weight":
                leaf = "scale" if path[-1] == "bn" else "kernel"
        place = variables.setdefault(collection, {})
        for key in path:
            place = place.setdefault(key, {})
        place[leaf] = np.ascontiguousarray(np.transpose(value, np.argsort(_torch_axes(value.ndim))))
    return variables


def digest(weights: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, shapes and float32 values in the order of names: the same from a `.pth` and from its `.npz`.

    Args:
      weights: as `read_weights` gives them.

    Returns:
      64 hexadecimal digits.
    """
    state = hashlib.sha256()
    for name in sorted(weights):
        value = np.ascontiguousarray(weights[name], "<f4")
        state.update(f"{name} {list(value.shape)}\n".encode())
        state.update(value.data)
    return state.hexdigest()


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The weights of the FID's Inception v3 from a `.pth` or `.npz`, complete and finite, or an error.

    Args:
      path: the file. Its content decides which of both it is, not its name. If the name ends with a dash and eight or
        more hexadecimal digits, as PyTorch's files do, its sha256 must begin with these.

    Returns:
      float32 arrays by the PyTorch port's names and in its layout; counters of batches are left out.

    Raises:
      FileNotFoundError: if there is no such file.
      BackboneError: for a damaged file, one that asks for more than tensors, or weights of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such file. The weights of the FID's Inception are {FILE} from the releases of "
            "pytorch-fid, or an .npz made from it; they are not downloaded"
        )
    with files.explained(path, "read"), open(path, "rb"):
        pass  # it can be read
    if promised := re.search(r"-([0-9a-f]{8,64})\.pth$", path.name):
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(promised[1]):
            raise BackboneError(
                f"{path}: the name promises content with sha256 {promised[1]}..., but it has "
                f"{found[: len(promised[1])]}...: it is damaged or incomplete; get it anew"
            )
    tensors = _read_npz(path) if _is_npz(path) else read_torch(path)
    weights = {name: value for name, value in tensors.items() if not name.endswith(".num_batches_tracked")}
    _check(path, weights)
    return {name: np.ascontiguousarray(weights[name], np.float32) for name in expected_shapes()}


def _check(path, weights):
    shapes = expected_shapes()
    found = {name: value.shape for name, value in weights.items()}
    if wrong := [name for name in sorted(shapes.keys() | found.keys()) if shapes.get(name) != found.get(name)]:
        torchvision = any(name.startswith("AuxLogits.") for name in found) or found.get("fc.weight") == (1000, 2048)
        raise BackboneError(
            f"{path}: these are the weights of another network"
            + (" (torchvision's classifier of ImageNet, whose pools and logits are not the FID's)" * torchvision)
            + f": of the {len(shapes)} arrays of the FID's Inception v3, {len(shapes.keys() - found.keys())} are "
            f"absent; {len(found.keys() - shapes.keys())} others are there; first {wrong[0]}, "
            f"{_shape(found.get(wrong[0]))} in the file and {_shape(shapes.get(wrong[0]))} in the network"
        )
    for name, value in weights.items():
        if not np.isfinite(value).all() or (name.endswith("running_var") and (value < 0).any()):
            raise BackboneError(f"{path}: {name} holds NaN, infinity or a negative variance: the file is damaged")


def _shape(shape):
    return "absent" if shape is None else str(list(shape))


def convert(source: str | os.PathLike, target: str | os.PathLike) -> str:
    """Writes the weights as an `.npz` of plain arrays.

    Args:
      source: the PyTorch port's `.pth`.
      target: the `.npz`; replaced as a whole if it exists.

    Returns:
      The digest of the weights, which is that of the source.

    Raises:
      FileNotFoundError, BackboneError: as `read_weights`.
    """
    weights = read_weights(source)
    buffer = io.BytesIO()
    np.savez(buffer, **weights)  # type: ignore[arg-type]
    files.write_atomically(target, buffer.getbuffer())
    return digest(weights)


def _is_npz(path):
    """A zip archive of .npy files; PyTorch's newer files are zip archives, too."""
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _read_npz(path):
    largest = 8 * max(map(math.prod, expected_shapes().values())) + 4096
    try:
        with zipfile.ZipFile(path) as archive:
            # The sizes that the archive claims, before anything of that size is made
            if too_large := [entry.filename for entry in archive.infolist() if entry.file_size > largest]:
                raise BackboneError(f"{path}: {too_large[0]} is larger than any weights of the FID's Inception v3")
        arrays = npz.read_arrays(path, list)
    except BackboneError:
        raise
    except Exception as error:  # NumPy and zipfile raise a dozen types for damaged files
        raise BackboneError(
            f"{path}: cannot be read as an .npz of weights, it is damaged or holds other things than arrays "
            f"({type(error).__name__}: {error}); convert the .pth again"
        ) from error
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise BackboneError(f"{path}: {name} is no array of real numbers; convert the .pth again")
    return arrays


def main(arguments: list[str] | None = None) -> int:
    """`python -m jaxgen.metrics.inception SOURCE.pth TARGET.npz`; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 2 or {"-h", "--help"} & set(arguments):
        print(__doc__.split("\n\n")[0], "\n\nusage: python -m jaxgen.metrics.inception SOURCE.pth TARGET.npz")
        return 0 if {"-h", "--help"} & set(arguments) else 2
    try:
        print(f"{arguments[1]}: {len(expected_shapes())} arrays, digest {convert(*arguments)}")
    except (OSError, BackboneError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
