"""What `benchmark.py` measures beside steps: the start of a process, and the whole loop of a training."""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmark_cases import Case
from benchmark_report import spread
from benchmark_workers import PAUSE, WorkerError, build_arguments, command_of, worker, worker_environment


def measure_startup(case: Case, rivals: Sequence[str], settings: argparse.Namespace, say: Callable) -> dict[str, Any]:
    """Seconds from starting a process to its first finished step: imports, weights, compilation, the step.

    "cold" is with an empty compilation cache on disk, "warm" with the one that the cold process has left. Eager
    PyTorch has none.
    """
    result = {}
    for rival in rivals:
        if rival in ("jaxgen-loop", "torch-channels-last", "torch-joined"):
            continue
        for i in range(settings.startup_rounds):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
                environment = worker_environment(settings.threads, cache) | {"JAX_COMPILATION_CACHE_DIR": cache}
                for temperature in ("cold",) if rival == "torch" else ("cold", "warm"):
                    say(f"startup: {rival} {temperature}, {i + 1} of {settings.startup_rounds}")
                    time.sleep(PAUSE)
                    began = time.perf_counter()
                    try:
                        with worker(command_of(rival, settings.torch_python), environment) as ask:
                            ask("build", **build_arguments(case, rival, settings))
                            ask("run", rival=rival, steps=0)
                            seconds = time.perf_counter() - began
                    except WorkerError as error:
                        say(f"startup: {rival} failed: {error}")
                        break
                    result.setdefault(rival, {}).setdefault(temperature, []).append(seconds)
    return {
        rival: {temperature: {"seconds": seconds, **spread(seconds)} for temperature, seconds in by_temperature.items()}
        for rival, by_temperature in result.items()
    }


def measure_loop(settings: argparse.Namespace, say: Callable) -> dict[str, Any]:
    """The time of the default preset's training over that of its bare step, in turns."""
    preset = {"preset": "mnist-dcgan", "features": settings.features or 32, "batch_size": settings.batch_size or 64}
    untimed = 5 if settings.quick else 100
    steps = 5 * untimed
    seconds = {"bare": [], "loop": []}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        environment = worker_environment(settings.threads, cache) | {"JAX_COMPILATION_CACHE_DIR": cache}
        with worker(command_of("jaxgen", settings.torch_python), environment) as ask:
            ask("prepare_preset", **preset)
            for i in range(settings.rounds):
                say(f"loop: round {i + 1} of {settings.rounds}, {steps} steps")
                for name in ("bare", "loop") if i % 2 else ("loop", "bare"):
                    seconds[name].append(ask(f"run_{name}", steps=steps, untimed=untimed))
    return {
        **preset,
        "steps": steps,
        "seconds": seconds,
        "steps_per_second": {name: spread([steps / s for s in taken]) for name, taken in seconds.items()},
        "overhead": spread([loop / bare - 1 for bare, loop in zip(seconds["bare"], seconds["loop"], strict=True)]),
    }
