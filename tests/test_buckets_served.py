"""Runs in a bucket that a server keeps: killed trainings, several hosts, two trainings in one bucket."""

import os
import random
import signal
import socket
import subprocess
import sys
import time

import bucket_server
import jax
import numpy as np
import pytest

from jaxgen import loading
from jaxgen.buckets import mirror
from jaxgen.buckets import store as stores

pytestmark = pytest.mark.slow
SETTINGS = [
    "--widths",
    "4",
    "4",
    "--batch-size",
    "8",
    "--log-every",
    "5",
    "--sample-every",
    "0",
    "--evaluate-every",
    "0",
]
SETTINGS += ["--optimizer.name", "sgd", "--optimizer.schedule", "constant", "--data.name", "arrays"]


@pytest.fixture(scope="module")
def served():
    with bucket_server.running() as variables:
        yield variables


@pytest.fixture
def digits(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (22, 28, 28, 1)).astype(np.uint8)
    np.savez(tmp_path / "digits.npz", image=pixels, label=np.arange(22) % 3)
    return tmp_path / "digits.npz"


def command(digits, address, *, num_steps, checkpoint_every=5, num_devices=1) -> list[str]:
    own = ["--data.path", digits, "--data.test-path", digits, "--directory", address, "--num-steps", num_steps]
    own += ["--checkpoint-every", checkpoint_every, "--num-devices", num_devices]
    return [sys.executable, "-m", "jaxgen", "train", "mnist-cnn", *SETTINGS, *map(str, own)]


def start(arguments, variables, cache, **more) -> subprocess.Popen:
    environment = os.environ | variables | {"XDG_CACHE_HOME": str(cache)} | more
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(arguments, env=environment, **pipes)


def end_of(process, timeout=300) -> tuple[int, str]:
    try:
        return process.communicate(timeout=timeout)[0], process.returncode
    finally:
        process.kill()


def steps_in(address) -> list[int]:
    return mirror.complete_steps(stores.Store(address).sizes())


def wait_for_steps(address, process, least=1) -> None:
    while len(steps_in(address)) < least:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)


def test_a_killed_training_goes_on_from_the_bucket_on_another_machine_to_the_bit(served, digits, tmp_path, monkeypatch):
    bucket_server.set_in(served, monkeypatch)
    address, moments = "s3://bucket/killed", random.Random(0)
    for trial in range(3):
        process = start(command(digits, address, num_steps=4000), served, tmp_path / f"machine{trial}")
        before = steps_in(address)
        while steps_in(address)[-1:] == before[-1:]:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.2)
        time.sleep(2 * moments.random())
        process.kill()  # in the middle of some copy, most often
        process.wait()
        assert loading.load(address).step == steps_in(address)[-1] > (before or [0])[-1]
    last = steps_in(address)[-1]
    told, code = end_of(start(command(digits, address, num_steps=last + 20), served, tmp_path / "machine"))
    assert code == 0 and f"Resuming at step {last} of {last + 20}" in told, told
    local = tmp_path / "straight"
    told, code = end_of(start(command(digits, local, num_steps=last + 20), served, tmp_path / "machine"))
    assert code == 0, told
    ends = [jax.tree.leaves(loading.load(run).state) for run in (address, str(local))]
    assert all(np.array_equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_second_training_is_refused_while_the_first_lives_and_a_stopped_one_leaves_no_lock(
    served, digits, tmp_path, monkeypatch
):
    bucket_server.set_in(served, monkeypatch)
    address = "s3://bucket/two"
    first = start(command(digits, address, num_steps=100_000), served, tmp_path / "one")
    wait_for_steps(address, first)
    told, code = end_of(start(command(digits, address, num_steps=100_000), served, tmp_path / "two"), timeout=120)
    assert code == 2 and "s3://bucket/two is in use: process" in told, told
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    told, code = end_of(first)
    assert code == 143 and "the same command goes on from there" in told, told
    assert ".lock.json" not in stores.Store(address).sizes()


def start_two_hosts(digits, address, served, disks, **settings) -> list[subprocess.Popen]:
    """Two processes that know of each other, each with a disk of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = served | {
        "COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "NUM_PROCESSES": "2",
        "JAX_NUM_CPU_DEVICES": "1",
    }
    arguments = command(digits, address, num_devices=2, **settings)
    return [start(arguments, variables, f"{disks}{i}", PROCESS_ID=str(i)) for i in range(2)]


def check_it_is_as_on_one_host(address, digits, tmp_path, *, num_steps):
    arguments = command(digits, tmp_path / "one", num_steps=num_steps, num_devices=2)
    told, code = end_of(start(arguments, {"JAX_NUM_CPU_DEVICES": "2"}, tmp_path))
    assert code == 0, told
    together, one = (
        jax.tree.leaves(loading.load(run).state.network.params) for run in (address, str(tmp_path / "one"))
    )
    for a, b in zip(together, one, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_two_hosts_train_into_a_bucket_without_a_shared_disk(served, digits, tmp_path, monkeypatch):
    bucket_server.set_in(served, monkeypatch)
    address = "s3://bucket/hosts"
    for num_steps, kind in ((20, "Starting at step 0"), (40, "Resuming at step 20")):
        ends = [
            end_of(host) for host in start_two_hosts(digits, address, served, tmp_path / "disk", num_steps=num_steps)
        ]
        assert [code for _, code in ends] == [0, 0], ends
        assert kind in ends[0][0]
    check_it_is_as_on_one_host(address, digits, tmp_path, num_steps=40)


def test_one_of_two_hosts_is_killed_the_other_ends_and_both_go_on_from_the_bucket(
    served, digits, tmp_path, monkeypatch
):
    bucket_server.set_in(served, monkeypatch)
    address, moments, last = "s3://bucket/lost", random.Random(0), 0
    for trial, victim in enumerate((0, 1, 0)):
        hosts = start_two_hosts(digits, address, served, tmp_path / f"trial{trial}-", num_steps=4000)
        while steps_in(address)[-1:] in ([], [last]):
            assert [host.poll() for host in hosts] == [None, None], [end_of(host) for host in hosts]
            time.sleep(0.2)
        time.sleep(2 * moments.random())
        hosts[victim].kill()
        told, code = end_of(hosts[1 - victim])
        assert code == 2 and "another host has died, stopped or cannot be reached" in told, told
        end_of(hosts[victim])
        last = steps_in(address)[-1]
    hosts = start_two_hosts(digits, address, served, tmp_path / "last-", num_steps=last + 20)
    ends = [end_of(host) for host in hosts]
    assert [code for _, code in ends] == [0, 0], ends
    assert f"Resuming at step {last} of {last + 20}" in ends[0][0]
    check_it_is_as_on_one_host(address, digits, tmp_path, num_steps=last + 20)
