"""Memory for time: activations that a step computes twice instead of keeping them for the way back.

`rematerialised(train_step, "blocks")` is the same step, with the same numbers and the same random draws. Whatever
`network.apply` applies while it is traced keeps, of each block (a module with a true `is_block`), or of each whole
network ("all"), only what goes in. On the way back each block is computed again, one after another, so that the inner
activations of one block, instead of all, are there at a time.

For whole networks what each layer with a kernel returns is kept, too, and what lies between these layers
(normalisations, activations, padding, resampling) is computed again: that costs little time, and works for any network.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

Form = Literal["none", "blocks", "all"]
FORMS: tuple[Form, ...] = ("none", "blocks", "all")

_PRODUCT = "product"  # the name of what is kept


def rematerialised(train_step: Callable, form: Form) -> Callable:
    """A train step that keeps fewer activations for the way back: the same numbers, less memory, more time.

    Args:
      train_step: `(state, batch, key) -> (state, metrics)`, not compiled, whose networks `network.apply` applies.
      form: "blocks": of each block of a network only its input is kept; "all": of each network only what layers with a
        kernel (convolutions, dense layers) return; "none": `train_step` as it is.

    Returns:
      A function of the same arguments.

    Raises:
      ValueError: for another form; at trace time, for "blocks" where no network has any.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")
    if form == "none":
        return train_step

    @functools.wraps(train_step)
    def step(state, batch, key):
        trace = _Trace(form)
        token = _trace.set(trace)
        try:
            result = train_step(state, batch, key)
        finally:
            _trace.reset(token)
        if form == "blocks" and not trace.blocks:
            raise ValueError(
                'rematerialisation of "blocks" needs a network with blocks, and these have none that are marked '
                '(is_block = True); "all" is for any network'
            )
        return result

    return step


class _Trace:
    """Of a step that is being traced."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.blocks = 0  # met so far
        self.inside = False  # of a block


_trace: contextvars.ContextVar[_Trace | None] = contextvars.ContextVar("trace", default=None)


def applied(apply: Callable, *arguments: Any) -> Any:
    """`apply(*arguments)`, a network's, as the step that is being traced wants it."""
    trace = _trace.get()
    if trace is None:
        return apply(*arguments)
    interceptor = functools.partial(_each_block, trace) if trace.form == "blocks" else _name_products

    def intercepted(*arguments):
        with nn.intercept_methods(interceptor):
            return apply(*arguments)

    if trace.form == "blocks":
        return intercepted(*arguments)
    return jax.checkpoint(intercepted, policy=jax.checkpoint_policies.save_only_these_names(_PRODUCT))(*arguments)


def _name_products(call, args, kwargs, context):
    """A flax interceptor: gives a name to what a layer with a kernel returns."""
    output = call(*args, **kwargs)
    if context.method_name == "__call__" and context.module.has_variable("params", "kernel"):
        return jax.tree.map(lambda x: checkpoint_name(x, _PRODUCT), output)
    return output


def _each_block(trace, call, args, kwargs, context):
    """A flax interceptor: a block keeps what goes in, and nothing else."""
    module = context.module
    if trace.inside or context.method_name != "__call__" or not getattr(type(module), "is_block", False):
        return call(*args, **kwargs)
    if module.is_initializing():
        return call(*args, **kwargs)
    trace.blocks += 1
    leaves, structure = jax.tree.flatten((args, kwargs))
    are_arrays = [hasattr(leaf, "dtype") for leaf in leaves]  # `train=True` is none, and stays what it is

    def block(module, arrays):
        arrays = iter(arrays)
        given = [next(arrays) if is_array else leaf for leaf, is_array in zip(leaves, are_arrays, strict=True)]
        args, kwargs = jax.tree.unflatten(structure, given)
        with _inside(trace):
            return module(*args, **kwargs)

    arrays = [leaf for leaf, is_array in zip(leaves, are_arrays, strict=True) if is_array]
    return nn.remat(block)(module, arrays)


@contextlib.contextmanager
def _inside(trace):
    trace.inside = True
    try:
        yield
    finally:
        trace.inside = False
