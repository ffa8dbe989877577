"""Two hosts that are killed and stopped again and again end as two that never were.

JAXGEN_SOAK="10 4" says how often they are killed and stopped, JAXGEN_SOAK_SEED when.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from several_hosts import (
    assert_ends_with_a_sentence,
    assert_same_to_the_bit,
    endless,
    finish,
    free_port,
    lines_of,
    start,
    write_digits,
)

from jaxgen import checkpoint

TIMEOUT = 10  # after which a host counts as lost
PATIENCE = 60  # seconds that the other one may take until it ends, on a machine that has much else to do


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's list of connections")
@pytest.mark.slow
def test_a_run_that_was_killed_and_stopped_on_random_hosts_ends_as_one_that_never_was(tmp_path):
    moments, run, straight = random.Random(int(os.environ.get("JAXGEN_SOAK_SEED", "0"))), *both(tmp_path)
    digits = write_digits(tmp_path)
    kills, stops = map(int, os.environ.get("JAXGEN_SOAK", "10 4").split())
    ends = [signal.SIGKILL] * kills + [signal.SIGTERM] * stops
    moments.shuffle(ends)
    for number in ends:
        port = free_port()
        arguments = [*endless(digits, run), *EVERY_STEP]
        hosts = start(arguments, address=f"127.0.0.1:{port}", JAXGEN_HOST_TIMEOUT=str(TIMEOUT))
        if number == signal.SIGKILL and moments.random() < 0.3:  # while the hosts begin, but know of each other
            wait_until(lambda port=port: has_met(port), hosts)
            time.sleep(1 + 5 * moments.random())
        else:
            beyond = len(lines_of(run)) + moments.randrange(30)
            wait_until(lambda beyond=beyond: len(lines_of(run)) > beyond, hosts)
            time.sleep(moments.random())
        lost, since = moments.randrange(2), time.monotonic()
        hosts[lost].send_signal(number)
        codes, outputs = finish(hosts, timeout=TIMEOUT + PATIENCE + 60)
        print(f"{number.name} to host {lost} at {len(lines_of(run))} lines, ended after {time.monotonic() - since:.1f}")
        if number == signal.SIGTERM:
            assert codes == [143, 143], outputs
        else:
            assert codes[lost] == -signal.SIGKILL
            assert_ends_with_a_sentence(codes[1 - lost], outputs[1 - lost])
            assert time.monotonic() - since < TIMEOUT + PATIENCE
    last = (checkpoint.latest_step(run / "checkpoints") or 0) // 20 * 20 + 40
    for directory in (run, straight):
        arguments = [*endless(digits, directory), *EVERY_STEP, "--num-steps", last]
        codes, outputs = finish(start(arguments), timeout=900)
        assert codes == [0, 0], outputs
    print(f"{last} steps, {assert_same_to_the_bit(run, straight, last)} checkpoints compared")


# A line of the log holds means since the line before, in this process: of one step each they are the same however
# often the run began anew.
EVERY_STEP = ["--log-every", 1, "--keep-last", 1000]


def both(directory):
    """Where the run lies that is disturbed, and the one that is not."""
    return directory / "run", directory / "straight"


def wait_until(is_so, hosts, timeout=240) -> None:
    """Waits while the hosts run."""
    end = time.monotonic() + timeout
    while not is_so():
        if time.monotonic() > end or any(host.poll() is not None for host in hosts):
            raise AssertionError(finish(hosts, timeout=1))
        time.sleep(0.05)


def has_met(port) -> bool:
    """Whether two processes are connected with the one that listens at a port: both ends of two connections."""
    lines = Path("/proc/net/tcp").read_text().splitlines() + Path("/proc/net/tcp6").read_text().splitlines()
    ends = [line.split()[1:4] for line in lines if line.split()[3] == "01"]  # of connections that stand
    return sum(f":{port:04X}" in f"{here} {there} " for here, there, _ in ends) >= 4
