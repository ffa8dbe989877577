"""Weights of PyTorch's networks, as `benchmark_torch.py` needs them: jaxgen's, copies of them, and differences."""

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d
AVERAGES = ("averages", "code_averages")  # jaxgen's collections of a module's own buffers


def copy_of(network):
    """Weights and running statistics that do not change any more."""
    return {name: x.detach().clone() for name, x in network.state_dict().items()}


def load(network, weights):
    """Gives a network the weights that `weights_from` has made.

    Raises:
      ValueError: if either has weights that the other has not.
    """
    missing, unexpected = network.load_state_dict(weights, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"the networks differ: jaxgen's has no {missing}, PyTorch's no {unexpected}")


def step_difference(found, before, after):
    """Of weights by name: how far `found` is from `after`, over the length of the step from `before` to there."""
    error = sum(float((found[k].detach().cpu() - after[k]).square().sum()) for k in found)
    length = sum(float((before[k] - after[k]).square().sum()) for k in found)
    return (error / length) ** 0.5


def weights_from(arrays, prefix, network):
    """jaxgen's weights as a state_dict of the PyTorch network.

    Kernels [kh, kw, in, out] become [out, in, kh, kw]; of a transposed convolution both store the kernel of the
    convolution whose adjoint it is. jaxgen flattens maps as [H, W, C], PyTorch as [C, H, W]. A layer with spectral
    normalisation may lack jaxgen's prefix "Spectral".
    """
    state = {}
    for name, layer in network.named_modules():
        path = name.replace(".", "/")
        if "parametrizations" in path:
            continue  # parts of their layer
        if parametrize.is_parametrized(layer) and f"{prefix}/params/{path}/kernel" not in arrays:
            path = "/".join([*path.split("/")[:-1], f"Spectral{path.split('/')[-1]}"])
        parameters = f"{prefix}/params/{path}"
        if not isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding | NORMS):
            state |= _own_arrays(arrays, prefix, name, layer)  # of a module that is no layer of PyTorch's
            continue
        if isinstance(layer, NORMS):
            own, bias = {}, arrays.get(f"{parameters}/bias")
            if getattr(layer, "weight", None) is not None:
                own["weight"] = arrays[f"{parameters}/scale"]
            if getattr(layer, "running_mean", None) is not None:
                own["running_mean"] = arrays[f"{prefix}/batch_stats/{path}/mean"]
                own["running_var"] = arrays[f"{prefix}/batch_stats/{path}/var"]
            if channels := getattr(network, "makes_maps_of", {}).get(name):  # of each number of a flattened map
                own = {leaf: _channels_first(x, 0, channels) for leaf, x in own.items()}
                bias = _channels_first(bias, 0, channels)
            state |= {f"{name}.{leaf}": x for leaf, x in own.items()}
        elif isinstance(layer, nn.Embedding):
            weight, u = arrays[f"{parameters}/embedding"], arrays[f"{prefix}/spectral_norm/{path}/u"]
            state[f"{name}.parametrizations.weight.original"], bias = weight, None
            state[f"{name}.parametrizations.weight.0._u"] = weight @ u / np.linalg.norm(weight @ u)
            state[f"{name}.parametrizations.weight.0._v"] = u  # not transposed, jaxgen's u is PyTorch's v
        else:
            kernel, bias = arrays[f"{parameters}/kernel"], arrays.get(f"{parameters}/bias")
            u = arrays.get(f"{prefix}/spectral_norm/{path}/u")
            if isinstance(layer, nn.Linear):
                if channels := getattr(network, "reads_maps_of", {}).get(name):
                    kernel = _channels_first(kernel, 0, channels)
                if channels := getattr(network, "makes_maps_of", {}).get(name):
                    kernel = _channels_first(kernel, 1, channels)
                    bias, u = (None if x is None else _channels_first(x, 0, channels) for x in (bias, u))
                weight = kernel.T
            else:
                weight = kernel.transpose(3, 2, 0, 1)
            if parametrize.is_parametrized(layer):
                state[f"{name}.parametrizations.weight.original"] = weight
                u, v = _singular_vectors(weight, u)
                state[f"{name}.parametrizations.weight.0._u"] = u
                state[f"{name}.parametrizations.weight.0._v"] = v
            else:
                state[f"{name}.weight"] = weight
        if bias is not None:
            state[f"{name}.bias"] = bias
    return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in state.items()}


def _own_arrays(arrays, prefix, name, layer):
    """Parameters and buffers of a module itself: kernels as those of layers, maps [H, W, C] as [C, H, W].

    Of those that the module names in `makes_rows` each image is a row.
    """
    state = {}
    kept = {leaf: x for leaf, x in layer._buffers.items() if leaf not in layer._non_persistent_buffers_set}
    for collections, own in ((("params",), layer._parameters), (AVERAGES, kept)):
        for leaf in (leaf for leaf, x in own.items() if x is not None):
            path = "/".join(filter(None, [*name.split("."), "kernel" if leaf == "weight" else leaf]))
            x = next(arrays[key] for key in (f"{prefix}/{c}/{path}" for c in collections) if key in arrays)
            x = x.reshape(len(x), -1) if leaf in getattr(layer, "makes_rows", ()) else x
            axes = {4: (3, 2, 0, 1), 3: (2, 0, 1)}.get(x.ndim)
            state[".".join(filter(None, [name, leaf]))] = x if axes is None else x.transpose(axes)
    return state


def _channels_first(x, axis, channels):
    """One axis of a dense layer's kernel [in, out] or bias [out], a flattened map, from [H, W, C] to [C, H, W]."""
    shape = x.shape
    return x.reshape(*shape[:axis], -1, channels, *shape[axis + 1 :]).swapaxes(axis, axis + 1).reshape(shape)


def _singular_vectors(weight, u):
    """The vectors from which PyTorch's power iteration goes on where jaxgen's does from u [O], with M = weight [O, n].

    jaxgen keeps u and in a step takes v = M' u, then u = M v, each made a unit vector, and sigma = u' M v = |M v|.
    PyTorch keeps both and takes u = M v, then v = M' u, and sigma = u' M v = |M' u|. Given the v of jaxgen's u, all
    PyTorch's u are jaxgen's, whatever the start, but its sigma has gone on by half a step.
    """
    v = weight.reshape(len(weight), -1).T @ u
    return u, v / np.linalg.norm(v)
