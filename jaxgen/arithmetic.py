"""The arithmetic of a function, read off its trace: no compilation, no numbers computed.

Only convolutions and matrix products count, two operations for each multiplication with its addition: they are nearly
all of a network's work, and the part that does not depend on how a compiler arranges the rest.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax


def operations(function: Callable, *arguments: Any) -> int:
    """How many multiplications and additions the convolutions and matrix products of a function take.

    Args:
      function: traceable.
      arguments: arrays, or `jax.ShapeDtypeStruct`s of them.

    Returns:
      The number. A loop counts as often as it runs, where its length is known (`scan`); of a `cond` the larger branch
      counts; a computation that depends on the platform counts as on an accelerator.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return _of_jaxpr(jaxpr, [True] * len(jaxpr.outvars))


def _of_jaxpr(jaxpr, used: Sequence[bool]) -> int:
    """Of what the used outputs depend on; a compiler leaves the rest out."""
    needed = {id(variable) for variable, is_used in zip(jaxpr.outvars, used, strict=True) if is_used}
    total = 0
    for equation in reversed(jaxpr.eqns):
        live = [id(variable) in needed for variable in equation.outvars]
        if any(live):
            total += _of_equation(equation, live)
            needed.update(id(variable) for variable in equation.invars)
    return total


def _of_equation(equation, live: Sequence[bool]) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        (contracting, _), _ = equation.params["dimension_numbers"]
        depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracting)
        return 2 * depth * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = []
    for jaxpr in _jaxprs_of(equation):
        same = len(jaxpr.outvars) == len(live) and name not in ("scan", "while")  # what a loop carries, it uses
        inner.append(_of_jaxpr(jaxpr, live if same else [True] * len(jaxpr.outvars)))
    if name == "scan":
        return equation.params["length"] * sum(inner)
    if name == "cond":
        # `lax.platform_dependent` is a cond whose last branch is that of all platforms that are not named.
        return inner[-1] if equation.params.get("branches_platforms") else max(inner, default=0)
    return sum(inner)


def _of_convolution(equation) -> int:
    numbers = equation.params["dimension_numbers"]
    kernel = equation.invars[1].aval.shape
    out = math.prod(equation.outvars[0].aval.shape)
    taps = math.prod(kernel[axis] for axis in numbers.rhs_spec[2:])
    full = 2 * out * taps * kernel[numbers.rhs_spec[1]]
    # Zeros put between the entries of the input are no work.
    return full // math.prod(equation.params["lhs_dilation"])


def _jaxprs_of(equation):
    for value in equation.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(part, "jaxpr") and hasattr(part.jaxpr, "eqns"):
                yield part.jaxpr
            elif hasattr(part, "eqns"):
                yield part
