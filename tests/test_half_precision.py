"""What a step in bfloat16 computes in it, and what stays in single precision: read off the traced program."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from jaxgen import building, description, systems
from jaxgen.systems.preset import Preset

PRODUCTS = {"conv_general_dilated", "dot_general"}
NEVER = {  # of losses, likelihoods, normalisations, softmax, spectral norms, optimisers, averages, random draws
    *("exp", "exp2", "expm1", "log", "log1p", "lgamma", "erf_inv", "pow", "integer_pow", "square", "sqrt", "rsqrt"),
    *("div", "reduce_max", "reduce_min", "cumsum", "reduce_prod", "sort", "is_finite", "random_bits"),
}


def operations(jaxpr):
    """All operations of a program, those of its loops and branches too."""
    for equation in jaxpr.eqns:
        inner = [
            getattr(leaf, "jaxpr", leaf)
            for value in equation.params.values()
            for leaf in jax.tree.leaves(value, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"))
            if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")
        ]
        if not inner:
            yield equation
        for program in inner:
            yield from operations(program)


def traced(name):
    """(state's shapes, its shapes after a step, metrics, operations) of a system's step in bfloat16."""
    (module,) = (module for module in systems.MODULES if systems.name_of(module) == name)
    config = dataclasses.replace(module.TINY, precision="bfloat16")
    spec = description.spec_of(config, Preset("", config))
    system = building.build_system(config, spec)
    step = jax.jit(system.train_step).trace(system.shapes, spec.example(system.images_per_step), jax.random.key(0))
    return system.shapes, *step.out_info, list(operations(step.jaxpr.jaxpr))


@pytest.mark.parametrize("name", ["dcgan", "vae"])
def test_products_are_in_half_precision_and_all_that_rounding_would_spoil_in_single(name):
    shapes, state, metrics, found = traced(name)
    assert all(x.dtype != jnp.bfloat16 for x in jax.tree.leaves((shapes, state, metrics)))
    half, single = Counter(), Counter()
    for operation in found:
        dtypes = [x.aval.dtype for x in operation.invars if hasattr(x.aval, "dtype")]
        half[operation.primitive.name] += jnp.bfloat16 in dtypes
        single[operation.primitive.name] += jnp.bfloat16 not in dtypes and jnp.float32 in dtypes
    assert single["conv_general_dilated"] == 0 < half["conv_general_dilated"]
    assert not {operation for operation in NEVER if half[operation]}
    assert single["sqrt"] and single["div"] and single["log1p"] + single["log"] + single["square"]
