"""Convolution by oneDNN, whose kernels are in JAX's library for CPUs: what `convolution` runs there where it may.

They are those that PyTorch runs, and 1.2 to 1.5 times as fast as XLA's own, in groups of 16 channels four times; groups
need no loop. XLA calls them `__onednn$convolution`, and would call them by itself in another build. That call is no
public interface: a library that does not know it refuses to compile, and one that reads its settings otherwise ends the
process. So it is made with those versions of jaxlib alone that it was tested with, and `JAXGEN_ONEDNN=0` forgoes it.
Without it all is the same up to rounding, and slower.

The kernel's gradient is no such call, nor is a transposed convolution with strides. On a mesh of several CPU devices
nothing is called: XLA cannot divide among them what it does not know. (Arrays that are divided without a mesh in
context, as by `in_shardings` alone, are gathered: the numbers are right, and each device does all the work.)

A program with such a call must never be written to the compilation cache on disk: XLA (JAX 0.10) takes the call for
another kind of call when it writes it, and reads memory that is none of its own. So where programs are kept on disk
nothing is called, unless somebody sees to it that this one is not kept: `uncached` with `compilation.never_kept`.
"""

import contextlib
import functools
import json
import os
import platform
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib

from jaxgen.models import direct
from jaxgen.models.geometry import Geometry

TESTED = ("0.10.2",)  # versions of jaxlib
CALL = "__onednn$convolution"

# A part of the key of everything that `jax.jit` remembers; older versions of JAX have none, and are not in TESTED.
_uncached = jax.make_user_context(False) if hasattr(jax, "make_user_context") else None


def uncached() -> contextlib.AbstractContextManager:
    """What is traced inside may hold calls, even where programs are kept on disk. It must not be kept itself."""
    return contextlib.nullcontext() if _uncached is None else _uncached(True)


def _is_kept_on_disk() -> bool:
    """Whether what is being traced will be written to the compilation cache."""
    options = (getattr(jax.config, f"jax_{name}") for name in ("enable_compilation_cache", "compilation_cache_dir"))
    return all(options) and not (_uncached is not None and _uncached.value)


@functools.cache
def is_there() -> bool:
    """Whether this process may make the call."""
    return (
        jaxlib.__version__ in TESTED
        and (platform.system(), platform.machine()) == ("Linux", "x86_64")
        and os.environ.get("JAXGEN_ONEDNN") != "0"
    )


def fits(operation: str, geometry: Geometry, num_channels: int, num_outputs: int, dtype: Any) -> bool:
    """Whether the operation is such a call, and that of what networks are made of, for which it was tested.

    Outside that it cannot be trusted: of one channel, 16x3 pixels, 5x5 taps and strides (1, 3) it makes random numbers.
    With strides it is hardly faster than XLA.
    """
    is_call = operation in ("convolve", "transposed") and geometry.strides == (1, 1)
    mesh = jax.sharding.get_abstract_mesh()
    alone = mesh.empty or mesh.size == 1
    rows, columns = zip(geometry.image_size, geometry.kernel_size, geometry.padding, strict=True)
    usual = all(n >= k and max(p) < k for n, k, p in (rows, columns))
    many = min(num_channels, num_outputs) >= 8
    return is_call and dtype == jnp.float32 and many and usual and alone and is_there() and not _is_kept_on_disk()


def convolve(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.convolve`."""
    shape = jax.ShapeDtypeStruct((len(x), *geometry.output_size, w.shape[-1]), x.dtype)
    settings = json.dumps({"onednn_conv_config": _settings(geometry)})
    call = jax.ffi.ffi_call(CALL, shape, custom_call_api_version=1, legacy_backend_config=settings)
    return call(x, w)


def transposed(y: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """As `convolution.transposed`, of strides 1: then it is a convolution, too."""
    return convolve(y, direct.adjoint_kernel(w, geometry.groups), direct.adjoint(geometry))


def _settings(geometry):
    """XLA's OneDnnConvolutionConfig, as JSON: numbers are text."""
    (above, below), (left, right) = geometry.padding
    images = {"batch_dim": "0", "feature_dim": "3", "spatial_dims": ["1", "2"]}
    kernel = {"input_feature_dim": "2", "output_feature_dim": "3", "spatial_dims": ["0", "1"]}
    return {
        "dims": "4",
        "feature_groups": str(geometry.groups),
        "input": {"dims": "4", "data": images},
        "kernel": {"dims": "4", "filter": kernel},
        "output": {"dims": "4", "data": images},
        "window": {
            "strides": [str(s) for s in geometry.strides],
            "pad_left": [str(above), str(left)],
            "pad_right": [str(below), str(right)],
            "window_dilations": ["1", "1"],
        },
    }
