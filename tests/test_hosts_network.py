"""Two hosts whose network fails: for a moment, which does no harm, and for longer, which ends both."""

import signal
import time

import pytest
from network_namespaces import ADDRESSES, two_machines
from several_hosts import (
    assert_ends_with_a_sentence,
    assert_same_to_the_bit,
    endless,
    finish,
    lines_of,
    start,
    wait_for_line,
    write_digits,
)

from jaxgen import checkpoint

EVERY_STEP = ["--log-every", 1, "--keep-last", 1000]
PORT = 12355  # in namespaces of their own every port is free


@pytest.mark.slow
def test_a_short_cut_does_no_harm_and_a_long_one_ends_both_hosts_which_go_on_later(tmp_path):
    run, straight, digits = tmp_path / "run", tmp_path / "straight", write_digits(tmp_path)
    with two_machines(tmp_path) as machines:

        def begin(directory, *more, timeout):
            arguments = [*endless(digits, directory), *EVERY_STEP, *more]
            address = f"{ADDRESSES[0]}:{PORT}"
            return start(arguments, address=address, inside=machines.inside, JAXGEN_HOST_TIMEOUT=str(timeout))

        # Short ones: nothing is lost.
        hosts = begin(run, timeout=40)
        for seconds in (2, 5):
            wait_for_line(run, hosts, timeout=240, beyond=len(lines_of(run)) + 20)
            machines.cut()
            time.sleep(1)
            at = len(lines_of(run))
            time.sleep(seconds)
            assert len(lines_of(run)) == at  # nothing comes through
            machines.restore()
            wait_for_line(run, hosts, timeout=240, beyond=at + 20)
        hosts[1].send_signal(signal.SIGTERM)
        codes, outputs = finish(hosts)
        assert codes == [143, 143], outputs

        # A long one: both end, neither waits for the other.
        hosts = begin(run, timeout=10)
        wait_for_line(run, hosts, timeout=240, beyond=len(lines_of(run)) + 20)
        machines.cut()
        since = time.monotonic()
        codes, outputs = finish(hosts, timeout=120)
        print(f"both ended {time.monotonic() - since:.1f} seconds after the cut")
        for code, output in zip(codes, outputs, strict=True):
            print(*[line for line in output.splitlines() if line.startswith("error: ")], sep="\n")
            assert_ends_with_a_sentence(code, output)
        machines.restore()

        last = (checkpoint.latest_step(run / "checkpoints") or 0) // 20 * 20 + 40
        for directory in (run, straight):
            codes, outputs = finish(begin(directory, "--num-steps", last, timeout=40), timeout=900)
            assert codes == [0, 0], outputs
    print(f"{last} steps, {assert_same_to_the_bit(run, straight, last)} checkpoints compared")
