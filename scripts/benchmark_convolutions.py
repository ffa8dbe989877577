"""Times each form of convolution that `jaxgen.models.convolution` has for CPUs, and says which one it takes.

    python scripts/benchmark_convolutions.py                  # the geometries that systems here are made of
    python scripts/benchmark_convolutions.py --only 3x3       # those whose name contains it
    python scripts/benchmark_convolutions.py --json forms.json

The forms: `im2col` (a matrix product of patches), `winograd` (kernels of two or three strides), `onednn` (where jaxlib
has it), `direct` (XLA's own, arranged). Which is taken is decided by their `fits` and by `convolution.form_of`, from
measurements like these; a wrong choice costs speed only. A row where another form is faster by a tenth or more is
marked with `<`: on a machine where many are, the rules deserve another look.

Milliseconds are the least of many calls, each of one operation alone: inside a step, memory counts more.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen import compilation
from jaxgen.models import direct, im2col, onednn, winograd
from jaxgen.models.convolution import Geometry, form_of

FORMS = {"im2col": im2col, "winograd": winograd, "onednn": onednn, "direct": direct}
OPERATIONS = ("convolve", "transposed", "kernel_gradient")


class Layer(NamedTuple):
    """A convolution of square images with padding alike on all sides."""

    name: str
    batch_size: int
    image_size: int
    kernel_size: int
    strides: int
    padding: int
    channels: int
    features: int

    @property
    def geometry(self) -> Geometry:
        """As `convolution` takes it."""
        size, kernel, strides = ((n, n) for n in (self.image_size, self.kernel_size, self.strides))
        return Geometry(size, kernel, strides, ((self.padding,) * 2,) * 2)


LAYERS = (
    Layer("SNGAN's first 3x3", 32, 32, 3, 1, 1, 3, 64),
    Layer("SNGAN's last 3x3", 32, 32, 3, 1, 1, 64, 3),
    Layer("3x3, 64 features at 48", 16, 48, 3, 1, 1, 64, 64),
    Layer("3x3, 96 features at 32", 16, 32, 3, 1, 1, 96, 96),
    Layer("3x3, 128 features at 32", 32, 32, 3, 1, 1, 128, 128),
    Layer("3x3, 256 features at 16", 32, 16, 3, 1, 1, 256, 256),
    Layer("3x3, 512 features at 8", 32, 8, 3, 1, 1, 512, 512),
    Layer("3x3, 128 features at 3", 64, 3, 3, 1, 1, 128, 128),
    Layer("3x3, 256 features at 4", 64, 4, 3, 1, 1, 256, 256),
    Layer("3x3, 128 to 64 features at 64", 8, 64, 3, 1, 1, 128, 64),
    Layer("3x3, 128 features at 7", 64, 7, 3, 1, 1, 128, 128),
    Layer("3x3 with strides, 64 to 128 at 32", 32, 32, 3, 2, 1, 64, 128),
    Layer("1x1, 384 to 96 at 16", 32, 16, 1, 1, 0, 384, 96),
    Layer("DCGAN's first 4x4", 64, 32, 4, 2, 1, 3, 64),
    Layer("DCGAN's second 4x4", 64, 16, 4, 2, 1, 64, 128),
    Layer("DCGAN's third 4x4", 64, 8, 4, 2, 1, 128, 256),
    Layer("a narrow 4x4 with strides", 64, 14, 4, 2, 1, 32, 64),
    Layer("MNIST's first 5x5", 64, 28, 5, 1, 2, 1, 32),
)


def can(form: str, operation: str, layer: Layer) -> bool:
    """Whether a form computes it at all, wherever it pays."""
    whole = layer.kernel_size % layer.strides == 0
    if form == "onednn":
        return onednn.fits(operation, layer.geometry, layer.channels, layer.features, jnp.dtype("float32"))
    return {
        "im2col": whole,
        "winograd": whole and layer.kernel_size // layer.strides in winograd.TRANSFORMS,
        "direct": True,
    }[form]


def operands(operation: str, layer: Layer) -> tuple[jax.Array, jax.Array]:
    """Normal numbers."""
    geometry = layer.geometry
    shapes = {
        "x": (layer.batch_size, *geometry.image_size, layer.channels),
        "w": (*geometry.kernel_size, layer.channels, layer.features),
        "y": (layer.batch_size, *geometry.output_size, layer.features),
    }
    chosen = {"convolve": "xw", "transposed": "yw", "kernel_gradient": "xy"}[operation]
    return tuple(jax.random.normal(jax.random.key(i), shapes[name]) for i, name in enumerate(chosen))


def measure(layer: Layer, seconds: float) -> dict[str, dict]:
    """By operation: the form that is taken, and the milliseconds of all, which take turns."""
    found = {}
    for operation in OPERATIONS:
        taken = form_of(operation, layer.geometry, layer.channels, layer.features, jnp.dtype("float32"))
        programs = {form: program(form, operation, layer) for form in FORMS if can(form, operation, layer)}
        times = milliseconds(programs, operands(operation, layer), seconds)
        found[operation] = {"taken": next(name for name, form in FORMS.items() if form is taken), "milliseconds": times}
    return found


def program(form: str, operation: str, layer: Layer) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The operation in a form, compiled as jaxgen compiles its programs."""
    run = getattr(FORMS[form], operation)
    return compilation.jit(lambda a, b: run(a, b, layer.geometry))


def milliseconds(programs: dict[str, Callable], arrays: tuple[jax.Array, ...], seconds: float) -> dict[str, float]:
    """Of each program, the least of the calls that fit into so many seconds for each; they take turns."""
    least = {name: float("inf") for name in programs}
    for run in programs.values():
        jax.block_until_ready(run(*arrays))
    end = time.perf_counter() + seconds * len(programs)
    while time.perf_counter() < end or float("inf") in least.values():
        for name, run in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(run(*arrays))
            least[name] = min(least[name], time.perf_counter() - began)
    return {name: 1e3 * s for name, s in least.items()}


def main(arguments: list[str] | None = None) -> dict[str, dict]:
    """Prints the table; returns (and, if asked, writes) the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="layers whose name contains it")
    parser.add_argument("--seconds", type=float, default=0.3, metavar="S", help="for each number (0.3)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write everything there")
    settings = parser.parse_args(arguments)
    layers = [layer for layer in LAYERS if settings.only in layer.name]
    if not layers:
        parser.error(f"no layer's name contains {settings.only!r}: {', '.join(layer.name for layer in LAYERS)}")
    compilation.keep_memory()  # as in a training, where many steps are one dispatch
    if jax.default_backend() != "cpu":
        parser.error("these forms are for CPUs: elsewhere all is left to XLA; set JAX_PLATFORMS=cpu")
    results = {}
    print(f"{'':<34}{'':<16}" + "".join(f"{form:>10}" for form in FORMS) + "   ms; * is taken")
    for layer in layers:
        results[layer.name] = measure(layer, settings.seconds)
        for operation, found in results[layer.name].items():
            times, taken = found["milliseconds"], found["taken"]
            cells = (f"{times[form]:.2f}{'*' if form == taken else ' '}" if form in times else "" for form in FORMS)
            slow = " <" if times[taken] > 1.1 * min(times.values()) else ""
            print(f"{layer.name:<34}{operation:<16}" + "".join(f"{cell:>10}" for cell in cells) + slow, flush=True)
    if settings.json:
        settings.json.write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main()
