"""What XLA is asked for beside its defaults, where it is known to help.

On CPU the compiler can run convolutions by its YNNPACK library. It does so (JAX 0.10) where it is told what to give to
the library, even if that is no more than the reductions that the library gets in any case. A step of SNGAN is then 1.1
to 1.35 times faster, of the CNN 1.4 times, and of nothing here more than 5 % slower. The option is experimental, and
one version of jaxlib need not know another's: it is tried first.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


@functools.cache
def options(platform: str) -> dict[str, str] | None:
    """The compiler options for "cpu", "gpu" or "tpu", or None for the defaults. jaxgen compiles its programs with them.

    For your own: `jax.jit(step, compiler_options=compilation.options("cpu"))`, or `jit`.
    """
    if platform != "cpu":
        return None
    try:
        jax.jit(lambda x: x, compiler_options=YNNPACK).lower(jax.ShapeDtypeStruct((), "float32")).compile()
    except jax.errors.JaxRuntimeError as error:
        if "option" not in str(error):
            raise
        return None
    return YNNPACK


def jit(function: Callable, **settings: Any) -> Callable:
    """`jax.jit` with the options of the default platform; takes what `jax.jit` takes."""
    return jax.jit(function, compiler_options=options(jax.default_backend()), **settings)
