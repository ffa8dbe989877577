"""Several hosts, as several processes of one machine: how tests start them, wait for them and end them."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from jaxgen import building, checkpoint
from jaxgen.commands import train
from jaxgen.run_directory import metrics_log
from jaxgen.system import Spec

TRAIN = Path(__file__).parent.parent / "scripts" / "train.py"


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(
    arguments, num_hosts=2, *, last=(), script=(TRAIN,), address=None, inside=(), **variables
) -> list[subprocess.Popen]:
    """Starts the script on all hosts.

    Args:
      arguments: of the script.
      num_hosts: how many processes.
      last: more arguments for the last one.
      script: what Python runs.
      address: of the first host; a free port of this machine where it is None.
      inside: for each host the words before its command, such as those that enter a network namespace.
      variables: of the environment.
    """
    hosts = {"COORDINATOR_ADDRESS": address or f"127.0.0.1:{free_port()}", "NUM_PROCESSES": str(num_hosts)}
    hosts["JAX_NUM_CPU_DEVICES"] = "2"
    return [
        subprocess.Popen(
            [*(inside[i] if inside else ()), sys.executable, *script]
            + [str(word) for word in [*arguments, *(last if i == num_hosts - 1 else ())]],
            env=os.environ | hosts | variables | {"PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(num_hosts)
    ]


def finish(processes, timeout=180) -> tuple[list[int], list[str]]:
    """(exit codes, all that they said); kills them after so many seconds."""
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def lines_of(directory) -> list[dict]:
    """Of the log of a run, which may not have begun."""
    return metrics_log.read_metrics(directory) if (Path(directory) / "metrics.jsonl").exists() else []


def wait_for_line(directory, processes, timeout=120, beyond=0) -> None:
    """Waits until the log has more than so many lines."""
    end = time.monotonic() + timeout
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        if len(lines_of(directory)) > beyond:
            return
        time.sleep(0.05)
    raise AssertionError(finish(processes, timeout=1))


def write_digits(directory: Path) -> Path:
    """Twenty-two labelled images: no multiple of anything."""
    random = np.random.RandomState(0)
    image = random.randint(0, 256, (22, 28, 28, 1)).astype(np.uint8)
    np.savez(directory / "digits.npz", image=image, label=np.arange(22) % 3)
    return directory / "digits.npz"


def endless(digits, directory) -> list:
    """Settings of a training of a tiny classifier, without an end."""
    arguments = ["mnist-cnn", "--data.name", "arrays", "--data.path", digits, "--directory", directory]
    arguments += ["--widths", 4, 4, "--batch-size", 8, "--num-steps", 1_000_000, "--optimizer.schedule", "constant"]
    return [*arguments, "--log-every", 10, "--checkpoint-every", 20, "--num-devices", 4]


def assert_ends_with_a_sentence(code: int, output: str) -> None:
    """What is asked of a host whose partner is lost: one sentence, an exit code, no Python traceback."""
    said = [line for line in output.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(said) == 1 and "another host has died" in said[0], (code, output)
    assert "Traceback" not in output, output


def assert_same_to_the_bit(run: Path, straight: Path, last: int) -> int:
    """Parameters, all of the state, checkpoints and the log of two runs that ended at the same step.

    Returns:
      How many checkpoints both have.
    """
    arrays = [arrays_of(directory, last) for directory in (run, straight)]
    assert arrays[0] == arrays[1] and arrays[0]
    both = sorted(set(checkpoint.all_steps(run / "checkpoints")) & set(checkpoint.all_steps(straight / "checkpoints")))
    assert last in both
    for step in both:
        records = [checkpoint.read_record(directory / "checkpoints", step) for directory in (run, straight)]
        for name in ("leaves", "keys", "metrics", "metadata"):
            assert records[0][name] == records[1][name], (step, name)
        assert records[0].get("parts") == records[1].get("parts"), step
    logs = [[without_times(line) for line in lines_of(directory)] for directory in (run, straight)]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == sorted({line["step"] for line in logs[0]})
    return len(both)


def without_times(line: dict) -> dict:
    """A line of the log, but for what a clock has told."""
    return {name: value for name, value in line.items() if name not in ("time", "images_per_second", "data_wait")}


def arrays_of(directory: Path, step: int) -> dict[str, tuple]:
    """Name -> dtype, shape and bytes of each array of the last state that `endless` has saved, on one device."""
    config = train.parse(["mnist-cnn", "--widths", "4", "4", "--optimizer.schedule", "constant"], "train").config
    system = building.build_system(config, Spec.of_images((28, 28, 1), 3))
    state, record = checkpoint.restore(directory / "checkpoints", system.shapes)
    assert record["step"] == step
    found = {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}
    return {name: (str(x.dtype), x.shape, x.tobytes()) for name, x in found.items()}
