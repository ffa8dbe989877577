"""Latents of a style generator beside z: w, which a mapping network makes of z, and w+, one w for each layer."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict

from jaxgen import network
from jaxgen.system import Space


def spaces_of(generator: nn.Module, num_layers: int) -> dict[str, Space]:
    """{"w": of rows [B, D], "w+": of rows [B, layers, D]} of a generator with methods `mapping` and `synthesis`.

    Args:
      generator: `mapping(z, label, train=) -> styles [B, layers, D]`, `synthesis(styles, train=) -> images`; a layer
        that a style enters is called `style`.
      num_layers: that have a style.

    Abdal, Qin and Wonka 2019 (w+).
    """

    def styles(variables, z, label=None):
        own = network.member(variables, "generator")
        label = None if label is None else jnp.broadcast_to(jnp.asarray(label, jnp.int32), z.shape[:1])
        return network.evaluate(generator, own, z, label, what="z", method="mapping")

    def decode(variables: Any, found: jax.Array, **told: Any) -> jax.Array:
        del told  # a label is in the styles already
        own = network.member(variables, "generator")
        if found.ndim == 2:
            found = jnp.broadcast_to(found[:, None], (len(found), num_layers, found.shape[-1]))
        return network.evaluate(generator, own, found, what="styles", method="synthesis")

    def kernels(variables):
        params = flatten_dict(network.member(variables, "generator")["params"])
        return [kernel for path, kernel in sorted(params.items()) if path[-2:] == ("style", "kernel")]

    return {
        "w": Space(lambda variables, z, label=None: styles(variables, z, label)[:, 0], decode, kernels),
        "w+": Space(styles, decode),
    }
