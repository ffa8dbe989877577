"""What the library's functions are given, checked where it is given: a key, a module, its inputs, its variables.

An error says what was wrong and what to write instead. Everything here looks at types, shapes and signatures alone, so
it happens when a function is traced, and costs a compiled step nothing.
"""

import functools
import inspect
import numbers
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import dtypes


def check_key(key: Any, name: str = "key") -> None:
    """Raises a TypeError unless it is one random key: `jax.random.key(0)`, or `jax.random.PRNGKey(0)` of older code.

    Seeds, several keys at once and anything else are refused, also inside of `jit` and `vmap`.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and dtypes.issubdtype(dtype, dtypes.prng_key):
        if jnp.ndim(key):
            raise TypeError(
                f"{name} must be one key, not {_several(jnp.shape(key))}: take one of them, or jax.vmap the function"
            )
        return
    default = jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
    if dtype == jnp.uint32 and np.shape(key)[-1:] == _shape_of_older_key(default):
        if np.ndim(key) > 1:
            raise TypeError(
                f"{name} must be one key, not {_several(np.shape(key)[:-1])}: take one of them, or jax.vmap the "
                "function"
            )
        return
    seed = isinstance(key, numbers.Integral) or (dtype is not None and np.shape(key) == () and dtype.kind in "iub")
    if seed:
        shown = key if isinstance(key, numbers.Integral) else "seed"
        raise TypeError(f"{name} must be a random key, not a seed: write jax.random.key({shown})")
    raise TypeError(f"{name} must be a random key such as jax.random.key(0), not {described(key)}")


def _several(shape):
    return f"an array of keys of shape {list(shape)}"


@functools.cache
def _shape_of_older_key(implementation):
    """Of what `jax.random.PRNGKey` returns, under `jax_default_prng_impl`."""
    return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=implementation))).shape


def check_module(module: Any, name: str) -> None:
    """Raises a TypeError unless it is an instance of a Flax Linen module whose `__call__` takes `train`.

    Args:
      module: what was given as a network.
      name: of the argument, such as "generator".
    """
    wanted = f"{name} must be a Flax Linen module (flax.linen.Module)"
    if isinstance(module, nn.Module):
        _check_train(module, name)
    elif isinstance(module, type):
        if issubclass(module, nn.Module):
            raise TypeError(f"{name} must be a module, not the class: write {module.__name__}(...)")
        raise TypeError(f"{wanted}, not the class {module.__name__}")
    elif _is_nnx(module):
        raise TypeError(
            f"{wanted}, not {type(module).__name__} of Flax NNX, which holds its own parameters: write it with "
            "flax.linen, whose parameters are in the state"
        )
    elif not _applies(module):
        raise TypeError(
            f"{wanted} with __call__(self, x, *, train), not {described(module)}: here a network holds no parameters, "
            "and flax.linen makes such modules"
        )


def _is_nnx(module):
    return any(base.__module__.startswith("flax.nnx") for base in type(module).__mro__)


def _applies(module):
    """Whether something has what is used of a Linen module: Haiku's pair of functions has not."""
    return all(callable(getattr(module, name, None)) for name in ("init", "init_with_output", "apply"))


def _check_train(module, name):
    # A Sequential hands its keywords to its first layer.
    called = module.layers[0] if isinstance(module, nn.Sequential) and module.layers else module
    try:
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):  # nobody can tell
        return
    if "train" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    hint = "write def __call__(self, x, *, train), with train=True in training"
    if isinstance(module, nn.Sequential):
        hint = "call it in a module of your own with __call__(self, x, *, train)"
    raise TypeError(f"{name} is called with train=, which __call__ of {type(called).__name__} does not take: {hint}")


def check_inputs(module: Any, inputs: tuple, name: str) -> None:
    """Raises a TypeError unless `__call__` of a module takes these positional inputs, and `train`.

    Args:
      module: a network.
      inputs: positional ones.
      name: what to call it, such as "generator".
    """
    check_module(module, name)
    try:
        signature = inspect.signature(module)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*inputs, train=True)
    except TypeError:
        given = f"{len(inputs)} input" + ("" if len(inputs) == 1 else "s")
        raise TypeError(
            f"{name} is called with {given} and train=, but its signature is "
            f"{type(module).__name__}.__call__{_plain(signature)}; the second input is the condition, if there is one"
        ) from None


def check_function(function: Any, arguments: str, name: str, example: str) -> None:
    """Raises a TypeError for what is no function of so many arguments, such as a factory that was not called.

    Args:
      function: what was given.
      arguments: that it is called with, by name: "key, images".
      name: of the argument that it is.
      example: what to write, such as "augment=augmentation.diff_augment()".
    """
    if not callable(function):
        raise TypeError(f"{name} must be a function ({arguments}), such as {example}, not {described(function)}")
    if not takes(function, len(arguments.split(", "))):
        raise TypeError(
            f"{name} is called with ({arguments}), which {called(function)} does not take; a factory is to be called, "
            f"as in {example}"
        )


def takes(function: Any, num: int) -> bool:
    """Whether a function takes so many positional arguments; True where nobody can tell."""
    try:
        inspect.signature(function).bind(*range(num))
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def at_step(value: Any, step: Any, name: str) -> Any:
    """A number as it is, a schedule step -> number at a step.

    Raises:
      TypeError: for a string, or a schedule that returns a function, as a factory does that was not called.
    """
    found = value(step) if callable(value) else value
    if callable(found) or isinstance(found, str) or found is None:
        raise TypeError(
            f"{name} must be a number, or a schedule step -> number, such as optax.linear_schedule(0.0, 1.0, 1000); "
            + (f"the schedule returned {described(found)}" if callable(value) else f"not {described(found)}")
        )
    return found


def _plain(signature):
    """A signature without annotations."""
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def short(record: Any) -> str:
    """The `repr` of a record of functions: Rule(init=init, update=update), by their names and without addresses."""
    items = record._asdict() if hasattr(record, "_asdict") else vars(record)
    shown = [f"{name}={called(value) if callable(value) else repr(value)}" for name, value in items.items()]
    return f"{type(record).__name__}({', '.join(shown)})"


def called(function: Any) -> str:
    """The name of a function, or of the kind of thing that is called."""
    if isinstance(function, functools.partial):
        return f"partial of {called(function.func)}"
    return getattr(function, "__name__", None) or repr(function)


def described(value: Any) -> str:
    """A value of any kind in a few words, for an error."""
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"an array of {value.dtype} of shape {list(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {called(value)}"
    if value is None or isinstance(value, (str, numbers.Number)):
        return repr(value)
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {', '.join(map(str, value)) or 'nothing'}"
    return f"{'an' if type(value).__name__[0] in 'AEIOUaeiou' else 'a'} {type(value).__name__}"
