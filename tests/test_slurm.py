"""Hosts under Slurm: `tests/slurm/setup.sh` sets up one machine that runs two tasks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgen import loading

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("srun") is None, reason="needs Slurm")]
TRAIN = Path(__file__).parent.parent / "scripts" / "train.py"


@pytest.fixture
def train(tmp_path):
    """`train(directory, *before, devices)` trains the same few steps, the command behind `srun -n 2`, say."""
    if subprocess.run(["srun", "-n", "2", "--immediate=10", "true"], capture_output=True).returncode:
        pytest.skip("Slurm does not run two tasks here: sh tests/slurm/setup.sh")
    pixels = np.random.RandomState(0).randint(0, 256, (22, 28, 28, 1)).astype(np.uint8)
    np.savez(tmp_path / "digits.npz", image=pixels, label=np.arange(22) % 3)
    settings = ["mnist-cnn", "--data.name", "arrays", "--data.path", tmp_path / "digits.npz", "--widths", 4, 4]
    settings += ["--batch-size", 8, "--num-steps", 20, "--log-every", 10, "--num-devices", 2, "--ema-half-life", 0]
    settings += ["--optimizer.name", "sgd", "--optimizer.learning-rate", 1e-3, "--optimizer.schedule", "constant"]
    settings += ["--data.test-path", tmp_path / "digits.npz"]

    def run(directory, *before, devices):
        command = [*before, sys.executable, TRAIN, *settings, "--directory", directory]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(list(map(str, command)), env=environment, timeout=600, **pipes)
        assert done.returncode == 0, done.stdout
        return done.stdout, jax.tree.leaves(loading.load(directory).state.network.params)

    return run


def test_two_tasks_train_together_as_one_process_does(train, tmp_path):
    told, together = train(tmp_path / "together", "srun", "-n", "2", devices=1)
    assert told.count("finished at step 20") == 2 and told.count("on 2 cpu devices") == 1
    _, alone = train(tmp_path / "alone", devices=2)
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_one_task_alone_waits_for_nobody(train, tmp_path):
    told, _ = train(tmp_path / "one", "srun", "-n", "1", devices=2)
    assert told.count("finished at step 20") == 1
