"""Singular values: of each layer of a network, and of a generator at its latents."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from jaxgen import network
from jaxgen.arguments import check_key
from jaxgen.models import spectral_norm
from jaxgen.stability.spectrum.products import exactly, jacobian_product
from jaxgen.stability.spectrum.ritz import arnoldi, ritz_of


class Layer(NamedTuple):
    """The largest singular values of one layer without its bias, descending."""

    operator: np.ndarray  # of the linear map that the layer is, from one image's features to the next
    errors: np.ndarray  # of these, from the residuals
    matrix: np.ndarray  # of the kernel reshaped to [all axes but the last, the last], all of them


def layer_singular_values(
    module: nn.Module,
    variables: Mapping[str, Any],
    *inputs: Any,
    num: int = 3,
    num_iterations: int = 30,
    key: jax.Array | None = None,
) -> dict[str, Layer]:
    """The top singular values of every layer that has a kernel: dense, convolution, transposed convolution.

    For a convolution the two kinds differ: `operator` is the true gain of the layer on maps of the size that it sees,
    padding and strides included, by Arnoldi's method on A^T A; `matrix` is that of the reshaped kernel, which spectral
    normalisation bounds (Miyato et al. 2018) and which may be several times smaller. For a dense layer they agree. Of a
    layer with spectral normalisation both are of the kernel as it is used, divided by its estimate of sigma.

    Args:
      module: any Flax module, called as `module(*inputs, train=False)`.
      variables: of the module.
      inputs: such as latents and labels, of which only the shapes count.
      num: how many values of `operator`.
      num_iterations: of Arnoldi's method.
      key: of its random start.

    Returns:
      A dict from the layer's path, such as "Conv_0", in the order in which they are called. Layers that are told
      something beside their input (a style) are left out.
    """
    if key is not None:
        check_key(key)
    key = jax.random.key(0) if key is None else key
    called = {}

    def record(call, arguments, options, context):
        if context.method_name == "__call__" and context.module.has_variable("params", "kernel"):
            is_linear = len(arguments) == 1 and not any(hasattr(x, "shape") for x in jax.tree.leaves(options))
            if is_linear:
                called[context.module.path] = context.module.clone(parent=None), arguments[0].shape, options
        return call(*arguments, **options)

    def apply(variables, *inputs):
        return module.apply(variables, *inputs, train=False, rngs={"params": key})  # for a network that draws noise

    with nn.intercept_methods(record):
        jax.eval_shape(apply, variables, *inputs)
    found = {}
    for path, (layer, shape, options) in called.items():
        own, name = _at(variables, path), "/".join(path)
        kernel = jnp.asarray(own["params"]["kernel"])
        matrix = np.linalg.svd(np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1]), compute_uv=False)
        matrix /= _spectral_norm_in_use(own)
        if kernel.ndim == 2:
            top = matrix[:num]
            found[name] = Layer(top, np.finfo(np.float64).eps * top[0] * np.ones_like(top), matrix)
            continue
        without_bias = {part: x if part == "kernel" else jnp.zeros_like(x) for part, x in own["params"].items()}
        run = functools.partial(layer.apply, **options)
        ritz = ritz_of(*_gain(run, own | {"params": without_bias}, (1, *shape[1:]), key, num_iterations))
        top = np.sqrt(np.maximum(ritz.values.real, 0))[:num]
        # sigma^2 +- r is sigma +- r / (sigma + sqrt(sigma^2 + r)), also where sigma is 0.
        errors = ritz.residuals[:num] / np.maximum(top + np.sqrt(top**2 + ritz.residuals[:num]), 1e-300)
        found[name] = Layer(top, errors, matrix)
    return found


def _at(variables, path):
    """A module's own variables: {collection: its part}, for the collections that it has."""
    found = {}
    for collection, tree in variables.items():
        for name in path:
            tree = tree.get(name, {})
        if tree:
            found[collection] = tree
    return found


def _spectral_norm_in_use(variables):
    """What a layer divides its kernel by: the estimate of its largest singular value, or 1."""
    if spectral_norm.COLLECTION not in variables:
        return 1.0
    kernel = jnp.asarray(variables["params"]["kernel"])
    matrix = kernel.reshape(-1, kernel.shape[-1])
    v, u = spectral_norm.power_iteration(matrix, variables[spectral_norm.COLLECTION]["u"], 0)
    with exactly():
        sigma = float(v @ matrix @ u)
    return sigma if sigma > 0 else 1.0


def _gain(apply, variables, shape, key, num_iterations):
    """Arnoldi's H of A^T A, where A is the layer without its bias."""

    @jax.jit
    def factorise(variables):
        with exactly():
            zero = jnp.zeros(shape, variables["params"]["kernel"].dtype)
            _, pull_back = jax.vjp(lambda x: apply(variables, x), zero)

            def operator(x):
                return pull_back(apply(variables, x.reshape(shape)))[0].ravel()

            start = jax.random.normal(key, (zero.size,), zero.dtype)
            return arnoldi(operator, start, min(num_iterations, zero.size))[1]

    hessenberg = factorise(variables)
    return hessenberg, float(jnp.finfo(hessenberg.dtype).eps)


def input_singular_values(
    generator: nn.Module, variables: Mapping[str, Any], z: jax.Array, *condition: Any
) -> np.ndarray:
    """Singular values of the generator's Jacobian dG/dz at each latent, descending, with running batch statistics.

    Args:
      generator: the module.
      variables: of the generator.
      z: [B, latent_dim].
      condition: what else it is given, such as labels [B]; each image's own is held.

    Returns:
      [B, min(latent_dim, pixels)] in double precision.
    """
    jacobians = np.asarray(_input_jacobians(generator, variables, z, condition), np.float64)
    return np.linalg.svd(jacobians, compute_uv=False)


@functools.partial(jax.jit, static_argnums=0)
def _input_jacobians(generator, variables, z, condition):
    with exactly():

        def jacobian(inputs):
            z, condition = inputs

            def image(z):
                given = jax.tree.map(lambda x: x[None], (z, *condition))
                output = generator.apply(variables, *given, train=False, rngs={"params": jax.random.key(0)})
                return network.split_output(output)[0].ravel()

            return jax.vmap(jacobian_product(image, z))(jnp.eye(z.size, dtype=z.dtype))

        return lax.map(jacobian, (z, condition))


def condition_numbers(singular_values: np.ndarray) -> np.ndarray:
    """(sigma_max / sigma_min)^2, the condition number of the metric J^T J: [B, k] -> [B]. Infinite where singular.

    Odena et al. 2018, "Is generator conditioning causally related to GAN performance?", who report its mean logarithm.
    """
    singular_values = np.asarray(singular_values)
    with np.errstate(divide="ignore"):
        return (singular_values.max(axis=-1) / singular_values.min(axis=-1)) ** 2
