"""Convolutions that are as fast backwards, twice backwards and inside loops as they are forwards.

A convolution is bilinear in the images x and the kernel w. Its two adjoints are bilinear as well, and the three are
closed under differentiation:

    convolve(x, w)          dx = transposed(dy, w)    dw = kernel_gradient(x, dy)
    transposed(y, w)        dy = convolve(dx, w)      dw = kernel_gradient(dx, y)
    kernel_gradient(x, y)   dx = transposed(y, dw)    dy = convolve(x, dw)

XLA derives the same three programs by itself, but on CPU it runs some of them 25 to 100 times too slowly: the kernel
gradient of a transposed convolution, the second derivative through a convolution (any gradient penalty), and inside
`lax.scan` the kernel gradient of *every* convolution. Written this way each is one plain convolution, to every order
of reverse-mode differentiation: XLA's, arranged so that it is fast (`direct.py`), or that of oneDNN where it is there
(`onednn.py`); with few channels or few outputs a single matrix product (`im2col.py`); and where the kernel is two or
three strides wide and both sides have many channels, as in DCGAN and most residual networks, Winograd's form, which
needs nine multiplications for sixteen, or sixteen for thirty-six (`winograd.py`); channels that are each by themselves
are sums of shifted maps (`depthwise.py`). On accelerators all three are left to XLA.

Forward-mode differentiation (`jax.jvp`) is not defined for a `custom_vjp`; `jax.linearize` needs it too. A
vector-Jacobian product of a vector-Jacobian product gives the same number.
"""

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import custom_batching, lax

from jaxgen.models import depthwise, direct, im2col, onednn, winograd
from jaxgen.models.geometry import Geometry


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """Cross-correlation y[n,i,j,o] = sum_{a,b,c} x[n, i s + a - p, j s + b - p, c] w[a,b,c,o].

    In G groups, outputs g O / G to (g + 1) O / G - 1 see channels g C / G to (g + 1) C / G - 1 alone.

    Args:
      x: images [N, H, W, C].
      w: kernel [kh, kw, C / G, O].
      geometry: sizes, strides, padding and groups.

    Returns:
      [N, *geometry.output_size, O].
    """
    return _run("convolve", x, w, geometry, _widths(w, geometry))


def _convolve(x, w, geometry):
    return lax.conv_general_dilated(
        x,
        w,
        geometry.strides,
        geometry.padding,
        dimension_numbers=direct.DIMENSIONS,
        feature_group_count=geometry.groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def transposed(y: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """The adjoint of `convolve` in its images: <transposed(y, w), x> = <y, convolve(x, w)> for all x, y and w.

    Args:
      y: [N, *geometry.output_size, O].
      w: kernel [kh, kw, C / G, O], the same as for `convolve`.
      geometry: of the convolution whose adjoint this is.

    Returns:
      [N, H, W, C] with (H, W) = geometry.image_size.
    """
    return _run("transposed", y, w, geometry, _widths(w, geometry))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def kernel_gradient(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The adjoint of `convolve` in its kernel: <kernel_gradient(x, y), w> = <y, convolve(x, w)>.

    Args:
      x: images [N, H, W, C].
      y: [N, *geometry.output_size, O].
      geometry: of the convolution.

    Returns:
      [kh, kw, C / G, O].
    """
    widths = x.shape[-1] // geometry.groups, y.shape[-1] // geometry.groups
    return _run("kernel_gradient", x, y, geometry, widths)


def _kernel_gradient(x, y, geometry):
    kernel = jax.ShapeDtypeStruct((*geometry.kernel_size, x.shape[-1] // geometry.groups, y.shape[-1]), x.dtype)
    return jax.linear_transpose(functools.partial(_convolve, x, geometry=geometry), kernel)(y)[0]


def _widths(w, geometry):
    """Channels and outputs of a group."""
    return w.shape[2], w.shape[3] // geometry.groups


def form_of(operation: str, geometry: Geometry, num_channels: int, num_outputs: int, dtype: Any) -> ModuleType:
    """The fastest known form on CPU: a module with a function of the operation's name.

    Args:
      operation: "convolve", "transposed" or "kernel_gradient".
      geometry: of the convolution.
      num_channels, num_outputs: of each group.
      dtype: of the computation.
    """
    forms = (depthwise, onednn, im2col, winograd) if geometry.groups > 1 else (im2col, winograd, onednn)
    return next((form for form in forms if form.fits(operation, geometry, num_channels, num_outputs, dtype)), direct)


def _run(operation, a, b, geometry, widths):
    """An operation as the platform has it that the program is for."""
    return _program(operation, geometry, form_of(operation, geometry, *widths, a.dtype))(a, b)


@functools.cache
def _program(operation, geometry, form):
    """Is traced once for all convolutions of the same shapes: a network has many, and each form has many lines."""
    cpu = _on_cpu(operation, geometry, form)
    default = {"convolve": _convolve, "transposed": direct.dilated, "kernel_gradient": _kernel_gradient}[operation]

    def run(a, b):
        return lax.platform_dependent(a, b, cpu=cpu, default=functools.partial(default, geometry=geometry))

    return jax.jit(run, inline=True)


def _on_cpu(operation, geometry, form):
    """A form of an operation. Groups, and members of a `vmap`, go through most one after another.

    XLA's own code for grouped convolutions, which convolutions of several kernels become under `vmap`, is slow on CPU.
    """
    if form in (depthwise, onednn) or geometry.groups == 1:
        run = functools.partial(getattr(form, operation), geometry=geometry)
    else:
        run = functools.partial(getattr(form, operation), geometry=geometry._replace(groups=1))
        run = _group_after_group(run, geometry.groups)
    one = custom_batching.custom_vmap(run)

    @one.def_vmap
    def members(size, batched, *arrays):
        if not batched[1] and operation != "kernel_gradient":  # the same kernel: all images are one batch
            images, w = arrays
            found = one(images.reshape(-1, *images.shape[2:]), w)
            return found.reshape(size, -1, *found.shape[1:]), True

        def member(mapped):
            mapped = iter(mapped)
            return one(*(next(mapped) if b else x for x, b in zip(arrays, batched, strict=True)))

        return lax.map(member, [x for x, b in zip(arrays, batched, strict=True) if b]), True

    return one


def _group_after_group(run, groups):
    def one(i, arrays):
        sizes = [a.shape[-1] // groups for a in arrays]
        return run(*(lax.dynamic_slice_in_dim(a, i * n, n, -1) for a, n in zip(arrays, sizes, strict=True)))

    def all_groups(*arrays):
        found = lax.map(lambda i: one(i, arrays), jnp.arange(groups))
        return jnp.moveaxis(found, 0, -2).reshape(*found.shape[1:-1], -1)

    return all_groups


def _save_both(f):
    return lambda a, b, geometry: (f(a, b, geometry), (a, b))


convolve.defvjp(
    _save_both(convolve),
    lambda geometry, xw, dy: (transposed(dy, xw[1], geometry), kernel_gradient(xw[0], dy, geometry)),
)
transposed.defvjp(
    _save_both(transposed),
    lambda geometry, yw, dx: (convolve(dx, yw[1], geometry), kernel_gradient(dx, yw[0], geometry)),
)
kernel_gradient.defvjp(
    _save_both(kernel_gradient),
    lambda geometry, xy, dw: (transposed(xy[1], dw, geometry), convolve(xy[0], dw, geometry)),
)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return height, width


class Conv(nn.Module):
    """Convolution [N, H, W, C] -> [N, H', W', features] with H' = (H + 2 padding - kernel) // strides + 1.

    The parameters have the names and shapes of `flax.linen.Conv`. `padding` counts pixels on each side, as in PyTorch.

    Raises:
      ValueError: at trace time, for groups that do not divide the channels and the features.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: int | Sequence[int] = 0
    groups: int = 1  # of channels, each of which makes as many of the features, and sees no other
    use_bias: bool = True
    kernel_init: Any = nn.initializers.lecun_normal()
    dtype: Any = None  # of the computation; parameters are float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel_size = _pair(self.kernel_size)
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise ValueError(f"{self.groups} groups must divide {x.shape[-1]} channels and {self.features} features")
        kernel = self.param(
            "kernel", self.kernel_init, (*kernel_size, x.shape[-1] // self.groups, self.features), jnp.float32
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = self.operation(x, kernel)
        return y if bias is None else y + bias

    def operation(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """What the layer is without its bias, which a layer that joins it with something else replaces."""
        padding = tuple((p, p) for p in _pair(self.padding))
        size, strides = _pair(self.kernel_size), _pair(self.strides)
        return convolve(x, kernel, Geometry(x.shape[1:3], size, strides, padding, self.groups))


class ConvTranspose(nn.Module):
    """Transposed convolution [N, H, W, C] -> [N, H', W', features].

    H' = (H - 1) strides - 2 padding + kernel + output_padding: the adjoint of `Conv` with the same numbers, as
    PyTorch's `ConvTranspose2d` is. Kernel 4, strides 2, padding 1 doubles the size; output_padding 1 makes it odd. The
    kernel is stored as that convolution's kernel, [kh, kw, features, C].
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: int | Sequence[int] = 0
    output_padding: int = 0
    use_bias: bool = True
    kernel_init: Any = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)
    dtype: Any = None  # of the computation; parameters are float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel_size, strides, padding = _pair(self.kernel_size), _pair(self.strides), _pair(self.padding)
        kernel = self.param("kernel", self.kernel_init, (*kernel_size, self.features, x.shape[-1]), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        size = tuple(
            (n - 1) * s - 2 * p + k + self.output_padding
            for n, s, p, k in zip(x.shape[1:3], strides, padding, kernel_size, strict=True)
        )
        y = transposed(x, kernel, Geometry(size, kernel_size, strides, tuple((p, p) for p in padding)))
        return y if bias is None else y + bias


def max_pool(x: jax.Array, size: int = 2) -> jax.Array:
    """Maximum over non-overlapping size x size windows: [N, H, W, C] -> [N, H // size, W // size, C].

    A reshape and comparisons: the derivative of `reduce_window`, which `flax.linen.max_pool` uses, is slow on CPU. Rows
    and columns that do not fill a window are dropped. Where several entries of a window are equal and largest, the
    first gets the gradient.
    """
    n, h, w, c = x.shape
    x = x[:, : h // size * size, : w // size * size].reshape(n, h // size, size, w // size, size, c)
    x = functools.reduce(_larger, [x[:, :, i] for i in range(size)])
    return functools.reduce(_larger, [x[:, :, :, i] for i in range(size)])


def _larger(x, y):
    """The larger of two numbers, NaN if one is.

    The derivative of `max` looks for the entry that equals the maximum. XLA may compute x once for the maximum and once
    more for that comparison, rounded differently: then none is found, and the gradient is wrong or NaN. Whichever of
    two entries this comparison chooses, one of them gets the gradient.
    """
    return jnp.where((x >= y) | jnp.isnan(x), x, y)
