"""What XLA is asked for beside its defaults, where it is known to help.

On CPU the compiler can run convolutions by its YNNPACK library. It does so (JAX 0.10) where it is told what to give to
the library, even if that is no more than the reductions that the library gets in any case. Where oneDNN runs the
convolutions (`models/onednn.py`) a step is then 1.0 to 1.2 times as fast, elsewhere SNGAN's 1.1 to 1.35 times and the
CNN's 1.4 times, and nothing here is more than 5 % slower. The option is experimental, and one version of jaxlib need
not know another's: it is tried first.
"""

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.models import onednn

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


def jit(function: Callable, **settings: Any) -> Any:
    """`jax.jit` with the options of the default platform; takes what `jax.jit` takes."""
    return jax.jit(function, compiler_options=options(jax.default_backend()), **settings)


def never_kept(program: Any) -> Any:
    """What `jax.jit` returned, traced in `onednn.uncached`: compiled so that no call of oneDNN comes to the disk.

    A program without such a call is kept in the cache on disk as any other.
    """
    compiled = set()

    @functools.wraps(program)
    def call(*arguments):
        leaves, structure = jax.tree.flatten(arguments)
        signature = structure, tuple(jnp.shape(x) for x in leaves)
        if signature not in compiled:
            _compile(program.lower(*arguments))  # the call below finds it compiled
            compiled.add(signature)
        return program(*arguments)

    call.lower, call.eval_shape = program.lower, program.eval_shape  # type: ignore[attr-defined]
    return call


def _compile(lowered: jax.stages.Lowered) -> None:
    least = jax.config.jax_persistent_cache_min_compile_time_secs  # type: ignore[attr-defined]
    if onednn.CALL in lowered.as_text():
        jax.config.update("jax_persistent_cache_min_compile_time_secs", math.inf)
    try:
        lowered.compile()
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


def keep_memory() -> bool:
    """Lets this process keep the memory that it frees. On CPU a step is then 1.1 to 1.8 times as fast.

    XLA asks for a program's temporary memory anew at every call, and fresh pages from the system cost time. It matters
    where a call is one step, as in a notebook, and hardly where it is many, as in training by the commands. To be
    called once, before anything is computed. The process then stays as large as it has ever been, and a call on CPU
    returns when it is done (`jax_cpu_enable_async_dispatch`): memory is kept in the thread that calls.

    Returns:
      Whether the C library can do it (glibc).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    mmap_threshold, trim_threshold, most = -3, -1, 2**31 - 1
    return all(mallopt(name, most) for name in (mmap_threshold, trim_threshold))
