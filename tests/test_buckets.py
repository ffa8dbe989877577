"""Runs in buckets: what is copied in which order, and who may train there. The buckets are fsspec's, in memory."""

import json
import os
import shutil
import threading
import time

import flax
import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen
from jaxgen import buckets, checkpoint, commands, data, run_directory
from jaxgen.buckets import local_copy, mirror
from jaxgen.buckets import lock as locks
from jaxgen.buckets import store as stores
from jaxgen.commands import words
from jaxgen.run_directory import metrics_log


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def store():
    return stores.Store("memory://bucket/runs/first")


# Addresses ----------------------------------------------------------------------------------------------------------


def test_only_runs_may_lie_in_a_bucket():
    for given in (["--directory", "gs://b/r"], ["--start-from=s3://b/r"]):
        words.check(given)
    for given in (
        ["--data.path", "gs://b/r"],
        ["runs/a", "s3://b/r"],
        ["http://x/y"],
        ["--output=s3://b/r"],
        ["--directory", "gs://"],
    ):
        with pytest.raises(ValueError, match="is an URL"):
            words.check(given)


def test_a_missing_driver_is_told_with_how_to_install_it(monkeypatch):
    def missing(kind, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(ValueError, match=r"s3://b/r is an URL, and .* without s3fs.*pip install 'jaxgen\[buckets\]'"):
        jaxgen.load("s3://b/r")


def test_a_bucket_that_does_not_answer_is_told_of_within_seconds(monkeypatch):
    monkeypatch.setattr(stores, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "find", lambda *a, **k: time.sleep(3))
    since = time.monotonic()
    with pytest.raises(OSError, match="could not open memory://bucket/run: nobody answers within 0.2 seconds"):
        stores.Store("memory://bucket/run")
    assert time.monotonic() - since < 2


@pytest.mark.parametrize(
    "error, advice",
    [
        (PermissionError("403 Forbidden"), "sign in by `gcloud auth"),
        (RuntimeError("Unable to locate credentials"), "sign in by `gcloud auth"),
        (FileNotFoundError("The specified bucket does not exist"), "is there such a bucket"),
        (ConnectionError("refused"), "look at the network"),
    ],
)
def test_what_a_driver_raises_becomes_a_sentence_that_says_what_to_do(error, advice):
    told = stores._explained(error, "gs://b/r", "read")
    assert told.strerror.startswith(f"could not read gs://b/r ({type(error).__name__}: ") and advice in told.strerror


# What is copied -----------------------------------------------------------------------------------------------------


def make_step(directory, step, content=b"numbers"):
    """A directory like a checkpoint of Orbax, made as Orbax does: under another name first."""
    part = directory / "checkpoints" / f"{step}.orbax-checkpoint-tmp"
    (part / "state" / "d").mkdir(parents=True)
    (part / "record").mkdir()
    for name in ("state/d/a", "state/d/b", "record/metadata", mirror.LAST):
        (part / name).write_bytes(content + f" {name} {step}".encode())
    os.rename(part, directory / "checkpoints" / str(step))


def whole(store) -> dict[int, set]:
    """Contents of each checkpoint that counts as whole."""
    names = store.sizes()
    steps = mirror.complete_steps(names)
    return {s: {store.read(n) for n in names if n.startswith(f"checkpoints/{s}/")} for s in steps}


class Killed(BaseException):
    """The end of a process."""


def killed_after(store, count):
    """The same store, for which the process ends in the middle of its count-th change."""
    left = [count]

    def wrap(function):
        def changed(names, *rest, **options):
            for name in [names] if isinstance(names, str) else list(names):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                at = [] if not rest else [rest[0][list(names).index(name)]] if isinstance(rest[0], list) else [*rest]
                function(name, *at, **options)

        return changed

    class Files:
        def __getattr__(self, name):
            inner = getattr(store._files, name)
            changes = {"put": "put_file", "rm": "rm_file", "pipe_file": "pipe_file"}
            return wrap(getattr(store._files, changes[name])) if name in changes else inner

    inner = object.__new__(stores.Store)
    inner.__dict__ |= store.__dict__ | {"_files": Files()}
    return inner


@pytest.mark.parametrize("count", range(11))
def test_a_kill_at_any_moment_leaves_whole_checkpoints_or_none(store, tmp_path, count):
    run = tmp_path / "run"
    make_step(run, 10)
    first = mirror.Mirror(store, run)
    first._steps, first._files = {}, {}
    first.push()
    before = whole(store)
    assert list(before) == [10] and len(before[10]) == 4

    cut = mirror.Mirror(killed_after(store, count), run)
    (run / "metrics.jsonl").write_text("{}\n")
    make_step(run, 20)
    shutil.rmtree(run / "checkpoints" / "10")
    complete = False
    try:
        cut.push()
        complete = True
    except Killed:
        pass
    left = whole(store)
    assert left, "no checkpoint is left"
    for step, contents in left.items():
        expected = (
            before[10] if step == 10 else {p.read_bytes() for p in (run / "checkpoints/20").rglob("*") if p.is_file()}
        )
        assert contents == expected
    if complete:
        assert list(left) == [20]

    again = tmp_path / "again"
    mirror.Mirror(store, again).delete_unfinished()
    mirror.pull_files(store, again)
    assert mirror.pull_steps(store, again) == sorted(left)
    assert {name.split("/")[1] for name in store.sizes("checkpoints")} == set(map(str, left))


def test_small_files_are_copied_before_the_checkpoint_that_they_tell_of(store, tmp_path):
    made = mirror.Mirror(store, tmp_path)
    order = []
    for name in ("write", "upload"):
        inner = getattr(store, name)

        def told(first, names, inner=inner):
            order.append(first if isinstance(first, str) else names[-1])
            inner(first, names)

        setattr(store, name, told)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    (tmp_path / ".lock").write_text("mine")
    (tmp_path / ".config.json.ab.tmp").write_text("half")
    make_step(tmp_path, 5)
    assert made.push() == ["metrics.jsonl"]
    assert order[0] == "metrics.jsonl" and order[-1] == f"checkpoints/5/{mirror.LAST}" and len(order) == 3
    assert made.push() == [] and len(order) == 3  # nothing is copied twice
    assert set(store.sizes()) == {"metrics.jsonl"} | {n for n in store.sizes() if n.startswith("checkpoints/5/")}


def test_a_checkpoint_that_is_saved_again_replaces_the_one_in_the_bucket(store, tmp_path):
    made = mirror.Mirror(store, tmp_path)
    make_step(tmp_path, 5)
    made.push()
    os.rename(tmp_path / "checkpoints" / "5", tmp_path / "checkpoints" / "5.damaged-1")
    time.sleep(0.01)
    make_step(tmp_path, 5, b"anew")
    made.push()
    assert all(content.startswith(b"anew") for content in whole(store)[5])


# Who trains ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fast_signs(monkeypatch):
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_SIGNS", 0.1)
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_SIGNS", 0.1)


def test_a_living_owner_is_found_by_its_signs_and_named(store, fast_signs):
    first, second = locks.Lock(store), locks.Lock(store)
    first.take()
    ended = threading.Event()

    def live():
        while not ended.wait(0.05):
            assert first.renew()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(buckets.BucketLocked, match=f"in use: process {os.getpid()} on .* trains there; wait"):
            second.take()
    finally:
        ended.set()
        thread.join()
    first.release()
    second.take()
    assert first.renew() is False  # and it does not take it back
    first.release()
    assert second.renew()


def test_the_lock_of_a_dead_process_is_taken_over_after_some_missed_signs(store, fast_signs, monkeypatch, capsys):
    locks.Lock(store).take()
    monkeypatch.setattr(locks, "_ended_here", lambda record: False)  # it was another machine's
    since = time.monotonic()
    locks.Lock(store).take()
    assert 0.3 < time.monotonic() - since < 5
    assert "looking whether that is alive" in capsys.readouterr().err


def test_the_lock_of_a_process_that_ended_on_this_machine_is_taken_at_once(store):
    record = {"process": 2**22 + 1, "host": "here", "boot": locks._boot(), "nonce": "x"}
    store.write(locks.NAME, json.dumps(record).encode())
    since = time.monotonic()
    locks.Lock(store).take()
    assert time.monotonic() - since < 1


def test_a_damaged_lock_keeps_nobody_out_for_ever(store, fast_signs):
    store.write(locks.NAME, b"\0\0")
    locks.Lock(store).take()


def test_a_process_whose_lock_was_taken_stops_and_copies_nothing_more(store, fast_signs, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_LOOKS", 0.05)
    stopped = threading.Event()
    lock = locks.Lock(store)
    lock.take()
    copying = mirror.Copying(store, tmp_path, lock, stopped.set)
    copying.start()
    store.write(locks.NAME, json.dumps({"nonce": "another"}).encode())
    assert stopped.wait(5)
    (tmp_path / "config.json").write_text("{}")
    copying.finish()
    assert set(store.sizes()) == {locks.NAME}


def test_a_bucket_that_fails_for_a_while_is_tried_again(store, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_LOOKS", 0.05)
    lock = locks.Lock(store)
    lock.take()
    copying, failures, write = mirror.Copying(store, tmp_path, lock, lambda: None), [2], store.write

    def failing(name, content):
        failures[0] -= 1
        if failures[0] >= 0:
            raise OSError(None, "could not write")
        write(name, content)

    copying.start()
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(store, "write", failing)
    copying.finish()
    assert failures[0] < 0 and set(store.sizes()) == {"config.json"}


# Trainings ----------------------------------------------------------------------------------------------------------


@flax.struct.dataclass
class State:
    step: jax.Array
    mean: jax.Array


def system():
    """A step that is cheap to compile: the mean image is learnt."""

    def train_step(state, batch, key):
        error = state.mean - batch["image"].mean(0) + 0.1 * jax.random.normal(key, (4, 4, 1))
        return State(state.step + 1, state.mean - 0.1 * error), {"loss": jnp.mean(error**2)}

    def init(key):
        return State(jnp.zeros((), jnp.int32), jax.random.normal(key, (4, 4, 1)))

    return jaxgen.System(init=init, train_step=train_step, images_per_step=4)


IMAGES = data.from_arrays("noise", image=np.random.RandomState(0).randint(0, 256, (12, 4, 4, 1)).astype(np.uint8))
OPTIONS = {"log_every": 2, "sample_every": 0, "checkpoint_every": 2, "num_devices": 1, "progress": False}


def test_a_run_in_a_bucket_goes_on_to_the_bit_and_is_read_back_from_there(tmp_path, capsys):
    address = "memory://bucket/runs/first"
    jaxgen.train(system(), IMAGES, address, num_steps=4, **OPTIONS)
    names = stores.Store(address).sizes()
    assert {"config.json", "metrics.jsonl", "status.json", "report.html"} < set(names) and locks.NAME not in names
    assert mirror.complete_steps(names) == [2, 4]
    end = jaxgen.train(system(), IMAGES, address, num_steps=8, **OPTIONS)
    straight = jaxgen.train(system(), IMAGES, tmp_path / "local", num_steps=8, **OPTIONS)
    assert end.step == 8 and np.array_equal(end.state.mean, straight.state.mean)
    assert mirror.complete_steps(stores.Store(address).sizes()) == [4, 6, 8]

    read = jaxgen.load(address, system=system())
    assert read.step == 8 and np.array_equal(read.state.mean, straight.state.mean)
    assert jaxgen.load(address, system=system(), step=6).step == 6
    with buckets.reading(address) as copy:
        lines = metrics_log.read_metrics(copy)
        assert checkpoint.all_steps(copy / "checkpoints") == [4, 6, 8]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert not list((tmp_path / "cache" / "jaxgen" / "buckets").glob("*/*"))  # copies are removed

    with pytest.raises(run_directory.ConfigMismatch, match=f"{address} was started with other settings"):
        jaxgen.train(system(), IMAGES, address, num_steps=8, seed=1, **OPTIONS)
    assert locks.NAME not in stores.Store(address).sizes()

    assert commands.main(["report", address]) == 0
    assert f"copied to {address}/report.html" in capsys.readouterr().err
    page = stores.Store(address).read("report.html").decode()
    assert address in page and str(tmp_path) not in page and "jaxgen-" not in page  # of the copy nothing is told
    with pytest.raises(FileNotFoundError, match="memory://bucket/none is no run"):
        jaxgen.load("memory://bucket/none")


def test_what_a_training_could_not_copy_at_its_end_is_said_where_it_lies(monkeypatch):
    monkeypatch.setattr(mirror, "SECONDS_TO_TRY", 0.1)
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_LOOKS", 0.05)

    def failing(self, name, content):
        raise OSError(None, f"could not write {name} to memory://bucket/run")

    with pytest.raises(OSError, match=r"could not write .*\. What was trained since the last copy lies in .*-0/run"):
        with buckets.training("memory://bucket/run") as directory:
            monkeypatch.setattr(stores.Store, "write", failing)
            (directory / "config.json").write_text("{}")
    assert (directory / "config.json").read_text() == "{}"


def test_paths_of_a_copy_are_shown_as_addresses():
    with buckets.training("memory://bucket/run") as directory:
        assert buckets.shown(directory / "report.html") == "memory://bucket/run/report.html"
        assert buckets.each_host_for_itself(directory / "checkpoints")
        with (
            pytest.raises(ValueError, match=r"^memory://bucket/run/x$"),
            local_copy._naming(directory, "memory://bucket/run"),
        ):
            raise ValueError(f"{directory}/x")
    assert not buckets.each_host_for_itself(directory) and not directory.exists()


def test_checkpoints_that_come_and_go_faster_than_they_are_copied_leave_one_in_the_bucket(store, tmp_path, monkeypatch):
    made, upload = mirror.Mirror(store, tmp_path), store.upload

    def slow(directory, names):
        step = int(names[0].split("/")[1])
        if names[0].endswith(mirror.LAST) and step < 50:  # meanwhile the training has deleted it, and saved the next
            shutil.rmtree(tmp_path / "checkpoints" / str(step))
            make_step(tmp_path, step + 10)
        upload(directory, names)

    monkeypatch.setattr(store, "upload", slow)
    make_step(tmp_path, 10)
    for _ in range(5):
        made.push()
        left = whole(store)
        assert left and all(len(contents) == 4 for contents in left.values())
    made.push()
    assert list(whole(store)) == [50] and not made.has_new_steps()
