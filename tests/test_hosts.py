"""Several hosts, as several processes of one machine: scripts/train.py as on a pod."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from several_hosts import assert_ends_with_a_sentence, endless, finish, start, wait_for_line, write_digits

from jaxgen import building, checkpoint, experiment, hosts, loop, options, sharding
from jaxgen.run_directory import metrics_log
from jaxgen.system import Spec
from jaxgen.systems import classifier


@pytest.fixture
def digits(tmp_path):
    return write_digits(tmp_path)


def restored(directory, config):
    """The last state of a run on one device, and its step."""
    system = building.build_system(config, Spec.of_images((28, 28, 1), 3))
    state, record = checkpoint.restore(directory / "checkpoints", system.shapes)
    return jax.tree.leaves(state.network.params), record["step"]


def assert_close(together, one: loop.Result, config) -> None:
    """The weights of both runs differ by little compared with how far they have moved."""
    system = building.build_system(config, Spec.of_images((28, 28, 1), 3))
    fresh = system.init(jax.random.key(config.seed))
    a, b, start = (
        np.concatenate([np.ravel(np.asarray(leaf)) for leaf in leaves])
        for leaves in (together, jax.tree.leaves(one.state.network.params), jax.tree.leaves(fresh.network.params))
    )
    assert np.linalg.norm(a - b) < 0.01 * np.linalg.norm(b - start)


def test_two_hosts_train_together_stop_together_and_end_as_one_host_does(tmp_path, digits):
    config = classifier.Config(
        data=options.Data(name="arrays", path=str(digits), test_path=str(digits)),
        widths=(4, 4),
        batch_size=8,
        num_steps=100,
        log_every=10,
        sample_every=0,
        evaluate_every=40,
        checkpoint_every=40,
        num_devices=4,
        optimizer=options.Optimizer(name="sgd", learning_rate=1e-3),
    )
    arguments = ["mnist-cnn", "--data.name", "arrays", "--data.path", digits, "--data.test-path", digits]
    arguments += ["--widths", 4, 4, "--batch-size", 8, "--num-steps", 100, "--log-every", 10, "--sample-every", 0]
    arguments += ["--evaluate-every", 40, "--checkpoint-every", 40, "--num-devices", 4, "--ema-half-life", 0]
    arguments += ["--optimizer.name", "sgd", "--optimizer.schedule", "constant", "--directory", tmp_path / "run"]

    hosts = start(arguments)
    wait_for_line(tmp_path / "run", hosts)
    hosts[1].send_signal(signal.SIGTERM)  # not the one that writes
    codes, outputs = finish(hosts)
    assert codes == [143, 143], outputs
    assert "stopped at step" in outputs[0]
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "stopped" and 10 <= status["step"] < 100
    assert checkpoint.latest_step(tmp_path / "run" / "checkpoints") == status["step"]

    codes, outputs = finish(start(arguments))
    assert codes == [0, 0], outputs
    assert f"Resuming at step {status['step']} of 100 on 4 cpu devices" in outputs[0]
    assert "finished at step 100" in outputs[0]

    one = experiment.train(config, str(tmp_path / "one"), progress=False)
    together, step = restored(tmp_path / "run", config)
    assert step == one.step == 100
    assert_close(together, one, config)
    ends = [metrics_log.read_metrics(tmp_path / name)[-1] for name in ("run", "one")]
    assert {"eval/loss", "eval/accuracy"} <= set(ends[0])
    assert ends[0]["eval/loss"] == pytest.approx(ends[1]["eval/loss"], rel=1e-3)


@pytest.mark.parametrize(
    "lost, number",
    [
        (1, signal.SIGKILL),
        pytest.param(0, signal.SIGKILL, marks=pytest.mark.slow),  # the one that the others are connected through
        pytest.param(1, signal.SIGSTOP, marks=pytest.mark.slow),  # frozen: no connection breaks
    ],
)
@pytest.mark.slow
def test_the_others_end_soon_after_a_host_is_lost_and_all_of_them_go_on_later(tmp_path, digits, lost, number):
    run = tmp_path / "run"
    hosts = start(endless(digits, run), JAXGEN_HOST_TIMEOUT="10")
    wait_for_line(run, hosts)
    while checkpoint.latest_step(run / "checkpoints") is None and hosts[0].poll() is None:
        time.sleep(0.05)
    hosts[lost].send_signal(number)
    since = time.monotonic()
    try:
        output, _ = hosts[1 - lost].communicate(timeout=60)
    finally:
        for host in hosts:
            host.kill()
            host.wait()
    assert time.monotonic() - since < 45
    assert_ends_with_a_sentence(hosts[1 - lost].returncode, output)

    saved = checkpoint.latest_step(run / "checkpoints")
    (run / "metrics.jsonl").write_bytes(b"")  # to see the first new line
    hosts = start(endless(digits, run))
    wait_for_line(run, hosts)
    hosts[0].send_signal(signal.SIGTERM)
    codes, outputs = finish(hosts)
    assert codes == [143, 143], outputs
    assert f"Resuming at step {saved} of 1000000 on 4 cpu devices" in outputs[0]


@pytest.mark.slow
def test_a_host_that_cannot_start_says_why_and_ends_the_others_soon(tmp_path, digits):
    since = time.monotonic()
    nothing = ["--data.path", tmp_path / "nothing.npz"]
    codes, outputs = finish(start(endless(digits, tmp_path / "run"), last=nothing, JAXGEN_HOST_TIMEOUT="10"))
    assert codes == [2, 2], outputs
    why = outputs[1].split("error: ")[1].splitlines()[0]
    assert "nothing.npz" in why and f"error: host 1 has stopped: {why}" in outputs[0]
    assert time.monotonic() - since < 90
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_hosts_that_were_told_otherwise_end_alike_before_anything_is_written(tmp_path, digits):
    run, other = tmp_path / "run", ["--batch-size", 16, "--seed", 3, "--directory", tmp_path / "other"]
    codes, outputs = finish(start(endless(digits, run), last=other))
    assert codes == [2, 2], outputs
    (line,) = {output.split("error: ")[1].splitlines()[0] for output in outputs}
    assert "host 1 has --batch-size 16, host 0 has 8" in line and "host 1 has --seed 3, host 0 has 0" in line
    assert f"--directory {tmp_path / 'other'}, host 0 has {run}" in line
    assert line.endswith(": give all hosts the same command")
    assert os.listdir(tmp_path) == ["digits.npz"]


@pytest.mark.slow
def test_hosts_with_other_images_end_alike(tmp_path, digits):
    np.savez(tmp_path / "other.npz", image=255 - np.load(digits)["image"], label=np.arange(22) % 3)
    codes, outputs = finish(start(endless(digits, tmp_path / "run"), last=["--data.path", tmp_path / "other.npz"]))
    assert codes == [2, 2], outputs
    (line,) = {output.split("error: ")[1].splitlines()[0] for output in outputs}
    assert line.startswith("host 1 has the fingerprint of the data") and line.endswith("give all hosts the same data")
    assert not (tmp_path / "run").exists()


# What a process does slowly, having said so in a file, so that a signal can come just then.
SLOWLY = """
import pathlib, sys, time
from jaxgen import checkpoint, loop
from jaxgen.commands import train
place, name, marker = {place!r}, {name!r}, pathlib.Path({marker!r})
holder = {{"loop": loop, "pictures": loop.pictures, "checkpoint": loop.checkpoint}}[place]
real = getattr(holder, name)
def slowly(*arguments, **options):
    marker.touch()
    time.sleep(2)
    return real(*arguments, **options)
setattr(holder, name, slowly)
sys.exit(train.main())
"""


@pytest.mark.parametrize(
    "place, name, host",
    [
        ("loop", "_evaluation", 1),
        ("pictures", "write_samples", 0),
        ("pictures", "write_samples", 1),
        ("checkpoint", "save", 1),
    ],
)
@pytest.mark.slow
def test_a_preemption_saves_one_step_on_all_hosts_whatever_they_are_doing(tmp_path, digits, place, name, host):
    marker, run = tmp_path / "now", tmp_path / "run"
    code = SLOWLY.format(place=place, name=name, marker=str(marker))
    arguments = [*endless(digits, run), "--data.test-path", digits, "--evaluate-every", 20]
    if place == "pictures":  # a classifier draws none
        cut = arguments.index("--widths")
        of_vae = ["--model", "conv", "--features", 4, "--likelihood", "discretized_logistic", "--data.binarise", "none"]
        arguments = ["mnist-vae", *of_vae, "--sample-every", 20, *arguments[1:cut], *arguments[cut + 3 :]]
    hosts, end = start(arguments, script=("-c", code)), time.monotonic() + 150
    while not marker.exists() and all(process.poll() is None for process in hosts) and time.monotonic() < end:
        time.sleep(0.05)
    hosts[host].send_signal(signal.SIGTERM)
    codes, outputs = finish(hosts)
    assert codes == [143, 143], outputs
    status = json.loads((run / "status.json").read_text())
    assert status["status"] == "stopped" and 20 <= status["step"] < 200
    assert checkpoint.latest_step(run / "checkpoints") == status["step"]


@pytest.mark.slow
def test_two_hosts_read_their_own_halves_of_a_streamed_folder(tmp_path, monkeypatch):
    from PIL import Image

    for i in range(22):
        folder = tmp_path / "images" / str(i % 3)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(i).randint(0, 256, (28, 28)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    code = (
        "import sys; from jaxgen.data import folder, reading; reading.MAX_BYTES_IN_MEMORY = 0;"
        "folder.image_folder.__kwdefaults__['max_bytes_in_memory'] = 0;"
        "from jaxgen.commands import train; sys.exit(train.main())"
    )
    arguments = ["mnist-cnn", "--data.name", "folder", "--data.path", tmp_path / "images", "--data.image-size", 28]
    arguments += ["--data.channels", 1, "--data.validation-share", 0, "--widths", 4, 4, "--batch-size", 8]
    arguments += ["--num-steps", 20, "--log-every", 5, "--num-devices", 4, "--ema-half-life", 0]
    arguments += ["--optimizer.name", "sgd", "--optimizer.schedule", "constant", "--directory", tmp_path / "run"]
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda a, **k: popen([a[0], "-c", code, *map(str, a[2:])], **k))
    codes, outputs = finish(start(arguments))
    assert codes == [0, 0], outputs
    monkeypatch.undo()

    config = classifier.Config(
        data=options.Data(
            name="folder", path=str(tmp_path / "images"), image_size=28, channels=1, validation_share=0.0
        ),
        widths=(4, 4),
        batch_size=8,
        num_steps=20,
        num_devices=4,
        optimizer=options.Optimizer(name="sgd", learning_rate=1e-3),
    )
    one = experiment.train(config, str(tmp_path / "one"), progress=False)  # from memory
    together, _ = restored(tmp_path / "run", config)
    assert_close(together, one, config)


@pytest.mark.slow
def test_two_hosts_divide_a_state_and_one_goes_on_with_it(tmp_path, digits):
    run = tmp_path / "run"
    arguments = ["mnist-cnn", "--data.name", "arrays", "--data.path", digits, "--data.test-path", digits]
    arguments += ["--widths", 4, 4, "--batch-size", 8, "--log-every", 2, "--sample-every", 0, "--directory", run]
    arguments += ["--optimizer.schedule", "constant", "--checkpoint-every", 2, "--state", "sharded"]
    for num_steps in (2, 4):
        codes, outputs = finish(start([*arguments, "--num-steps", num_steps]))
        assert codes == [0, 0], outputs
    assert "Resuming at step 2 of 4 on 4 cpu devices" in outputs[0]
    record = checkpoint.read_record(run / "checkpoints", 4)
    assert len(record["parts"]) == 4  # of the large kernel: itself, two moments, the average
    assert {len(parts) for parts in record["parts"].values()} == {4}
    alone = [*arguments[:-1], "replicated", "--num-devices", 1, "--num-steps", 6]
    codes, outputs = finish(start(alone, num_hosts=1))
    assert codes == [0], outputs
    assert "Resuming at step 4 of 6" in outputs[0]
    assert metrics_log.read_metrics(run)[-1]["step"] == 6


def test_the_variables_of_several_hosts_must_be_complete(monkeypatch):
    for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match="missing: COORDINATOR_ADDRESS, PROCESS_ID"):
        hosts.initialize_hosts()
    monkeypatch.setenv("PROCESS_ID", "first")
    monkeypatch.setenv("COORDINATOR_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ValueError, match="whole numbers"):
        hosts.initialize_hosts()


def test_the_largest_number_of_all_devices_is_found():
    mesh = sharding.make_mesh(8)
    assert int(sharding.max_over_hosts(mesh, np.int32(15))) == 15


# The second host gets a disk of its own in the place of the directory, as machines have that share nothing.
ALONE = """
import ctypes, os, subprocess
if os.environ["PROCESS_ID"] == "1":
    assert ctypes.CDLL(None).unshare(0x20000) == 0  # CLONE_NEWNS
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", {place!r}], check=True)
from jaxgen import commands
from jaxgen.loop import agreement
agreement.SECONDS_TO_SEE_A_FILE = 3.0
commands.run("train")
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount disks")
@pytest.mark.slow
def test_hosts_whose_directories_are_not_shared_end_with_a_sentence_and_leave_nothing(tmp_path, digits):
    place = tmp_path / "runs"
    place.mkdir()
    codes, outputs = finish(start(endless(digits, place / "first"), script=("-c", ALONE.format(place=str(place)))))
    if "mount" in outputs[1] and "error: " not in outputs[0]:
        pytest.skip("this machine lets nobody mount disks")
    assert codes == [2, 2], outputs
    for output in outputs:
        assert f"{place / 'first'} is not one directory: host 1 does not see there what host 0 writes" in output
        assert "a disk that they share, or a bucket" in output
    assert list(place.iterdir()) == []


@pytest.mark.slow
def test_two_hosts_sample_and_evaluate_as_one_does_and_the_first_writes(tmp_path):
    run = tmp_path / "run"
    settings = ["mnist-dcgan", "--features", 4, "--latent-dim", 8, "--batch-size", 8, "--num-steps", 5]
    settings += ["--sample-every", 0, "--evaluate-every", 0, "--directory", run]
    jaxgen = [sys.executable, "-m", "jaxgen"]
    subprocess.run([*jaxgen, "train", *map(str, settings)], check=True, capture_output=True)
    sample = ["sample", run, "--num-images", 8, "--output"]
    evaluate = ["evaluate", run, "mnist:test", "--num", 100, "--num-real", 100, "--metrics", "fid", "--output"]
    for command, ending in ((sample, "npz"), (evaluate, "json")):
        alone, together = tmp_path / f"alone.{ending}", tmp_path / f"together.{ending}"
        subprocess.run([*jaxgen, *map(str, command), str(alone)], check=True, capture_output=True)
        codes, outputs = finish(start([*command, together], script=("-m", "jaxgen")), timeout=300)
        assert codes == [0, 0], outputs
        if ending == "npz":
            drawn = [np.load(path)["image"] for path in (alone, together)]
            np.testing.assert_allclose(*(images.astype(int) for images in drawn), atol=1)
        else:
            records = [json.loads(next(path.rglob("*.json")).read_text()) for path in (alone, together)]
            assert records[0]["metrics"]["fid"] == pytest.approx(records[1]["metrics"]["fid"], rel=1e-4)
