"""Processes that answer one line of JSON with another: how `benchmark.py` talks to each rival."""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmark_cases import Work

HERE = pathlib.Path(__file__).parent
PAUSE = 0.3  # seconds between rivals, in which the thread pools of the last one fall asleep


def serve(requests: dict[str, Callable[..., Any]]) -> None:
    """Answers requests from stdin until it closes: {"do": name, ...} is answered by `requests[name](...)`.

    What libraries print to stdout goes to stderr instead.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = {"result": requests[arguments.pop("do")](**arguments)}
        except Exception as error:  # the parent reports it and goes on with the other rivals
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


class WorkerError(RuntimeError):
    """A worker could not do what it was asked."""


@contextlib.contextmanager
def worker(command: Sequence[str], environment: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """Starts a worker and gives `ask(name, **arguments)`, which waits for the answer. The process ends on leaving."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )

        def ask(name, **arguments):
            try:
                process.stdin.write(json.dumps({"do": name, **arguments}) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
            if not line:
                log.seek(0)
                raise WorkerError(f"{command[0]} ended with status {process.wait()}: ...{log.read()[-1500:]}")
            answer = json.loads(line)
            if "error" in answer:
                raise WorkerError(answer["error"])
            return answer["result"]

        try:
            yield ask
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # which ends it
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def worker_environment(threads: int, cache: str) -> dict[str, str]:
    """The environment of every worker: threads, one device, GPU memory as it is needed, where compiled code is kept."""
    ours = {
        "NPROC": str(threads),  # the thread pool of XLA on CPU
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the rivals share one GPU
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TORCHINDUCTOR_CACHE_DIR": cache,
    }
    unwanted = ("JAX_NUM_CPU_DEVICES", "JAX_COMPILATION_CACHE_DIR")
    return {name: value for name, value in os.environ.items() if name not in unwanted} | ours


def command_of(rival: str, torch_python: str) -> list[str]:
    """What starts the worker of a rival."""
    if rival.startswith("jaxgen"):
        return [sys.executable, str(HERE / "benchmark_jaxgen.py")]
    return [torch_python, str(HERE / "benchmark_torch.py")]


def build_arguments(case: Work, rival: str, settings: argparse.Namespace) -> dict[str, Any]:
    """What a worker needs to know to build a case."""
    return {
        "case": dataclasses.asdict(case),
        "rival": rival,
        "tf32": settings.tf32,
        "threads": settings.threads,
        "compile_mode": settings.torch_compile_mode,
    }
