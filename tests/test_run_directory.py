import dataclasses
import errno
import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import run_directory
from jaxgen.run_directory import lock, metrics_log

CONFIG = {
    "preset": "dcgan_mnist",
    "num_steps": 1000,
    "generator_optimizer": {"learning_rate": 2e-4, "betas": (0.5, 0.999)},
    "penalties": [{"name": "r1", "gamma": 10.0}],
    "clip": math.inf,
    "spectral_norm": False,
    "labels": None,
}


def changed(**settings):
    return {**CONFIG, **settings}


def strict_json(text):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def tree(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


# Creation ------------------------------------------------------------------------------------------------------------


def test_a_new_run_stores_its_configuration_and_environment(tmp_path):
    path = run_directory.create(tmp_path / "runs" / "first", CONFIG)
    assert path == tmp_path / "runs" / "first"
    config = run_directory.load_config(path)
    assert config == {**CONFIG, "generator_optimizer": {"learning_rate": 2e-4, "betas": [0.5, 0.999]}}
    assert strict_json((path / "config.json").read_text())["clip"] == "Infinity"
    environment = strict_json((path / "environment.json").read_text())
    assert environment["device_count"] == 8 and environment["device_kind"] == "cpu"
    assert environment["process_count"] == 1 and environment["cpu_count"] == os.cpu_count()
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["numpy"] == np.__version__
    assert {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "platform", "command", "date"} <= set(environment)
    assert environment["commit"] is None or re.match(r"[0-9a-f]{40}", environment["commit"])
    assert sorted(tree(path)) == ["config.json", "environment.json"]


def test_the_files_of_a_run_have_the_permissions_of_the_umask(tmp_path):
    path = run_directory.create(tmp_path / "run", CONFIG)
    (tmp_path / "plain").touch()
    assert (path / "config.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_same_settings_resume_and_the_environment_notes_the_resume(tmp_path):
    path = run_directory.create(tmp_path, CONFIG)
    before = (path / "config.json").read_bytes()
    record = json.loads((path / "environment.json").read_text())
    (path / "environment.json").write_text(json.dumps({**record, "jax": "0.1"}))
    run_directory.create(tmp_path, CONFIG)
    assert (path / "config.json").read_bytes() == before
    after = json.loads((path / "environment.json").read_text())
    assert after["jax"] == "0.1"
    assert [sorted(resume) for resume in after["resumed"]] == [["date", "jax"]]


def test_a_damaged_environment_record_does_not_stop_a_resume(tmp_path):
    path = run_directory.create(tmp_path, CONFIG)
    (path / "environment.json").write_bytes(b"")
    run_directory.create(tmp_path, CONFIG)
    assert "jax" in json.loads((path / "environment.json").read_text())


def test_other_settings_are_refused_line_by_line_and_nothing_changes(tmp_path):
    run_directory.create(tmp_path, CONFIG)
    before = tree(tmp_path)
    other = changed(
        generator_optimizer={"learning_rate": 4e-4, "betas": [0.5, 0.999]},
        penalties=[{"name": "r1", "gamma": 1.0}],
        spectral_norm=0,
        labels="all",
        extra=3,
    )
    del other["clip"]
    with pytest.raises(run_directory.ConfigMismatch) as raised:
        run_directory.create(tmp_path, other)
    assert str(raised.value).splitlines() == [
        f"{tmp_path} was started with other settings:",
        "  generator_optimizer.learning_rate: 0.0002 there, 0.0004 asked",
        "  penalties.0.gamma: 10.0 there, 1.0 asked",
        "  clip: Infinity there, not asked",
        "  spectral_norm: false there, 0 asked",
        "  labels: null there, all asked",
        "  extra: not there, 3 asked",
        f"To resume it, give the same settings. For a new run, give another --directory, or delete {tmp_path} first.",
    ]
    assert isinstance(raised.value, ValueError)
    assert tree(tmp_path) == before


def test_settings_that_may_change_are_updated_and_the_others_still_compared(tmp_path):
    run_directory.create(tmp_path, changed(evaluation={"every": 10, "images": 5}))
    longer = changed(num_steps=2000, evaluation={"every": 20, "images": 5})
    with pytest.raises(run_directory.ConfigMismatch) as raised:
        run_directory.create(tmp_path, longer, may_change=("num_steps",))
    assert "evaluation.every" in str(raised.value) and "num_steps" not in str(raised.value)
    assert run_directory.load_config(tmp_path)["num_steps"] == 1000
    run_directory.create(tmp_path, longer, may_change=("num_steps", "evaluation"))
    assert run_directory.load_config(tmp_path)["num_steps"] == 2000
    assert run_directory.load_config(tmp_path)["evaluation"] == {"every": 20, "images": 5}


def test_tuples_numpy_numbers_and_dataclasses_compare_by_value(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Adam:
        learning_rate: float = 2e-4
        betas: tuple = (0.5, 0.999)

    run_directory.create(tmp_path, CONFIG)
    run_directory.create(tmp_path, changed(num_steps=np.int64(1000), generator_optimizer=Adam(), clip=np.inf))


def test_a_run_that_has_lost_its_configuration_is_no_folder_of_images(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.jsonl").write_text("")
    assert run_directory.is_run(tmp_path)
    with pytest.raises(run_directory.RunDirectoryError, match="holds checkpoints, but no file config.json.*restore it"):
        run_directory.load_config(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    assert not run_directory.is_run(tmp_path)


@pytest.mark.parametrize("content,what", [(b"", "is empty"), (b'{"a": 1', "is damaged"), (b"[1]", "is damaged")])
def test_a_damaged_configuration_is_named_and_kept(tmp_path, content, what):
    (tmp_path / "config.json").write_bytes(content)
    for use in (lambda: run_directory.create(tmp_path, CONFIG), lambda: run_directory.load_config(tmp_path)):
        with pytest.raises(run_directory.RunDirectoryError, match=f"config.json {what}.*restore it"):
            use()
    assert tree(tmp_path) == {"config.json": content}


def test_a_file_in_place_of_the_run_is_refused_and_kept(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(run_directory.RunDirectoryError, match="run is a file, not a directory; choose another"):
        run_directory.create(tmp_path / "run", CONFIG)
    with pytest.raises(OSError, match="run/below: a part of this path is a file"):
        run_directory.create(tmp_path / "run" / "below", CONFIG)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_dangling_link_in_place_of_the_run_is_refused(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="run: something that is not a directory"):
        run_directory.create(tmp_path / "run", CONFIG)


def test_a_directory_with_other_things_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(run_directory.RunDirectoryError, match="holds thesis.tex but no config.json.*nothing was chang"):
        run_directory.create(tmp_path, CONFIG)
    assert tree(tmp_path) == {"thesis.tex": b"mine"}


def test_what_a_start_killed_before_its_configuration_leaves_is_no_obstacle(tmp_path):
    (tmp_path / ".lock").write_text("process 1")
    (tmp_path / ".config.json.1a2b.tmp").write_text("{")
    run_directory.create(tmp_path, CONFIG)
    assert run_directory.load_config(tmp_path)["preset"] == "dcgan_mnist"


@pytest.mark.parametrize("path", ["", "gs://bucket/run"])
def test_a_path_that_is_no_local_directory_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(run_directory.RunDirectoryError, match="empty path|mount the bucket"):
        run_directory.create(path, CONFIG)
    assert not list(tmp_path.iterdir())


def test_a_parent_without_write_permission_is_named():
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o555)
        root = os.geteuid() == 0
        if root:  # root may write anywhere
            os.seteuid(65534)
        try:
            with pytest.raises(OSError, match="new: permission denied: change its permissions") as raised:
                run_directory.create(Path(parent) / "new", CONFIG)
        finally:
            if root:
                os.seteuid(0)
        assert raised.value.errno == errno.EACCES
        os.chmod(parent, 0o755)


def test_a_full_disk_is_explained_and_the_next_start_succeeds(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="config.json: the disk is full: free some space") as raised:
            run_directory.create(tmp_path / "run", CONFIG)
    assert raised.value.errno == errno.ENOSPC
    assert not list((tmp_path / "run").iterdir())
    run_directory.create(tmp_path / "run", CONFIG)


def test_only_the_primary_host_writes(tmp_path):
    path = run_directory.create(tmp_path / "run", CONFIG, is_primary=False)
    with lock.lock(path, is_primary=False), metrics_log.open_metrics(path, is_primary=False) as log:
        log.write(1, {"loss": 1.0})
        log.write_image(1, "samples", np.zeros([2, 2, 3], np.uint8))
    run_directory.write_status(path, "finished", step=1, is_primary=False)
    assert not path.exists()


# Looking a run up ----------------------------------------------------------------------------------------------------


def test_a_missing_run_lists_the_runs_beside_it(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    near = re.escape(f"runs in {tmp_path}: {tmp_path}/a, {tmp_path}/b")
    with pytest.raises(run_directory.RunDirectoryError, match=f"typo does not exist; {near}"):
        run_directory.load_config(tmp_path / "typo")
    with pytest.raises(run_directory.RunDirectoryError, match=f"holds no config.json, so it is not a run; {near}"):
        run_directory.load_config(tmp_path)


def test_a_part_of_a_run_points_to_the_run(tmp_path):
    run = tmp_path / "run"
    run_directory.create(run, CONFIG)
    (run / "checkpoints" / "100").mkdir(parents=True)
    for part in (run / "checkpoints" / "100", run / "checkpoints", run / "config.json"):
        with pytest.raises(run_directory.RunDirectoryError, match=re.escape(f"did you mean the run {run}?")):
            run_directory.load_config(part)


def test_an_empty_directory_and_a_lone_file_are_no_runs(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(run_directory.RunDirectoryError, match="empty holds no config.json"):
        run_directory.load_config(tmp_path / "empty")
    with pytest.raises(run_directory.RunDirectoryError, match="file is a file, not a run directory$"):
        run_directory.load_config(tmp_path / "file")


def test_status_is_one_of_five_words(tmp_path):
    run_directory.write_status(tmp_path, "non-finite", step=7, message="generator/loss is NaN")
    record = strict_json((tmp_path / "status.json").read_text())
    assert (record["status"], record["step"], record["message"]) == ("non-finite", 7, "generator/loss is NaN")
    with pytest.raises(ValueError, match="running, finished, stopped, non-finite, failed, got 'done'"):
        run_directory.write_status(tmp_path, "done", step=7)


# The lock ------------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from jaxgen.run_directory import lock
with lock.lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_held_by_another_process_names_it_and_ends_with_kill_9(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(lock.RunLocked, match=f"in use: process {other.pid} on .* trains there"):
            with lock.lock(tmp_path):
                raise AssertionError("entered")
        other.send_signal(signal.SIGKILL)
        other.wait()
        with lock.lock(tmp_path):
            assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def test_a_lock_is_free_again_after_the_block_and_after_an_error(tmp_path):
    with pytest.raises(KeyError):
        with lock.lock(tmp_path):
            raise KeyError
    with lock.lock(tmp_path):
        with pytest.raises(lock.RunLocked, match="this very process"):
            with lock.lock(tmp_path):
                raise AssertionError("entered")
    with lock.lock(tmp_path):
        pass


def test_a_held_run_keeps_its_settings_and_a_free_one_takes_the_new_ones(tmp_path):
    path = tmp_path / "run"
    with lock.hold(path, CONFIG) as held:
        assert held == path and run_directory.load_config(path)["num_steps"] == 1000
        before = tree(path)
        assert ".lock" in before
        for asked in (changed(num_steps=2000), changed(labels="all"), CONFIG):
            with pytest.raises(lock.RunLocked, match="this very process"):
                with lock.hold(path, asked, may_change=["num_steps"]):
                    raise AssertionError("entered")
        assert tree(path) == before
    with lock.hold(path, changed(num_steps=2000), may_change=["num_steps"]):
        assert run_directory.load_config(path)["num_steps"] == 2000
    with pytest.raises(run_directory.ConfigMismatch, match="labels: null there, all asked"):
        with lock.hold(path, changed(num_steps=2000, labels="all")):
            raise AssertionError("entered")
    with lock.hold(path, None):  # what failed before holds no lock
        pass


def test_what_is_no_run_gets_no_lock_file(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(run_directory.RunDirectoryError, match="it is not a run"):
        with lock.hold(tmp_path, CONFIG):
            raise AssertionError("entered")
    with lock.hold(tmp_path / "run", CONFIG, is_primary=False):
        assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_file_system_without_locks_warns_and_goes_on(tmp_path, monkeypatch):
    import fcntl

    def unsupported(descriptor, operation):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    entered = False
    with pytest.warns(UserWarning, match="could not lock .*without a lock"):
        with lock.lock(tmp_path):
            entered = True
    assert entered


# The metrics log -----------------------------------------------------------------------------------------------------


def test_metrics_come_back_as_they_were_written(tmp_path):
    started = time.time()
    with metrics_log.open_metrics(tmp_path, tensorboard=False) as log:
        log.write(1, {"generator/loss": jnp.float32(0.5), "rate": np.float64(0.1), "scale": jnp.ones([1, 1])})
        log.write(2, {})
    first, second = metrics_log.read_metrics(tmp_path)
    assert list(first) == ["step", "time", "generator/loss", "rate", "scale"]
    assert (first["step"], first["generator/loss"], first["rate"], first["scale"]) == (1, 0.5, 0.1, 1.0)
    assert started - 1 <= first["time"] <= second["time"] <= time.time() + 1
    assert metrics_log.read_metrics(tmp_path / "metrics.jsonl") == [first, second]


def test_non_finite_metrics_are_strict_json_and_come_back_as_floats(tmp_path):
    with metrics_log.open_metrics(tmp_path, tensorboard=False) as log:
        log.write(1, {"a": math.nan, "b": jnp.inf, "c": -math.inf, "d": 1.0})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert {k: v for k, v in strict_json(line).items() if k in "abcd"} == dict(
        a="NaN", b="Infinity", c="-Infinity", d=1
    )
    (record,) = metrics_log.read_metrics(tmp_path)
    assert math.isnan(record["a"]) and record["b"] == math.inf and record["c"] == -math.inf


@pytest.mark.parametrize(
    "metrics,message",
    [({"loss": np.zeros(3)}, r"'loss' must be a scalar, got shape \(3,\)"), ({"step": 1.0}, "'step'.*rename")],
)
def test_what_is_no_metric_is_named_and_not_written(tmp_path, metrics, message):
    with metrics_log.open_metrics(tmp_path, tensorboard=False) as log:
        with pytest.raises(ValueError, match=message):
            log.write(1, metrics)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_a_last_line_cut_short_anywhere_is_left_out_and_dropped_on_resume(tmp_path):
    with metrics_log.open_metrics(tmp_path, tensorboard=False) as log:
        for step in (1, 2, 3):
            log.write(step, {"größe": step / 2})
    file = tmp_path / "metrics.jsonl"
    whole = file.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        file.write_bytes(whole[:end])
        expected = [1, 2] if end < len(whole) - 1 else [1, 2, 3]  # only the newline is missing: nothing is lost
        assert [record["step"] for record in metrics_log.read_metrics(tmp_path)] == expected
    file.write_bytes(whole[:-5] + b"\0\0\0\0\n\0")  # a power cut can leave zeros
    with metrics_log.open_metrics(tmp_path, tensorboard=False) as log:
        log.write(4, {})
    assert [record["step"] for record in metrics_log.read_metrics(tmp_path)] == [1, 2, 4]
    assert file.read_bytes().startswith(whole[:last])


def test_a_log_in_another_encoding_is_named_and_kept(tmp_path):
    content = "".join(f'{{"step": {step}, "time": 1.0}}\n' for step in range(1, 5)).encode("utf-16")
    (tmp_path / "metrics.jsonl").write_bytes(content)
    for use in (metrics_log.read_metrics, lambda path: metrics_log.open_metrics(path, resume_step=2)):
        with pytest.raises(
            run_directory.RunDirectoryError, match="metrics.jsonl is damaged from line 2 on; restore it"
        ):
            use(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == content


def test_a_damaged_line_in_the_middle_is_named_and_kept(tmp_path):
    content = b'{"step": 1}\n{"step"\n{"step": 3}\n'
    (tmp_path / "metrics.jsonl").write_bytes(content)
    for use in (metrics_log.read_metrics, metrics_log.open_metrics):
        with pytest.raises(run_directory.RunDirectoryError, match="metrics.jsonl, line 2 is damaged"):
            use(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == content


@pytest.mark.parametrize(
    "resume_step,kept", [(None, [0, 1, 2, 2, 3]), (2, [0, 1, 2, 2]), (9, [0, 1, 2, 2, 3]), (0, [])]
)
def test_a_resumed_log_holds_no_step_twice(tmp_path, resume_step, kept):
    with metrics_log.open_metrics(tmp_path, tensorboard=False) as log:
        for step in (0, 1, 2, 2, 3):  # training and evaluation of one step are two lines
            log.write(step, {"loss": 1.0})
    with metrics_log.open_metrics(tmp_path, resume_step=resume_step, tensorboard=False) as log:
        log.write(4, {"loss": 1.0})
    assert [record["step"] for record in metrics_log.read_metrics(tmp_path)] == kept + [4]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_missing_log_reads_as_empty(tmp_path):
    assert metrics_log.read_metrics(tmp_path) == []


def test_a_full_disk_leaves_whole_lines_and_the_log_goes_on_later(tmp_path, monkeypatch):
    write = os.write
    with metrics_log.open_metrics(tmp_path, tensorboard=False) as log:
        log.write(1, {"loss": 1.0})
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
            with pytest.raises(OSError, match="metrics.jsonl: the disk is full") as raised:
                log.write(2, {"loss": 1.0})
        assert raised.value.errno == errno.ENOSPC
        log.write(3, {"loss": 1.0})
    assert [record["step"] for record in metrics_log.read_metrics(tmp_path)] == [1, 3]


KILLED = """
import os, signal, sys
import numpy as np
from jaxgen.run_directory import metrics_log
log = metrics_log.open_metrics(sys.argv[1])
for step in range(1, 51):
    log.write(step, {"loss": step / 2, "nan": float("nan")})
log.write_image(50, "samples", np.zeros([4, 5, 3], np.uint8))
os.kill(os.getpid(), signal.SIGKILL)
"""


def events(path):
    """Reads event files in the order of their names, as TensorBoard does, and checks that every record is whole."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(path.glob("events.out.tfevents.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            assert len(data) >= length + 16
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[length + 16 :]
    return found


def test_a_killed_process_loses_no_line_and_no_event(tmp_path):
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert process.returncode == -signal.SIGKILL
    assert [record["step"] for record in metrics_log.read_metrics(tmp_path)] == list(range(1, 51))
    values = [
        (event.step, value.tag, value.simple_value)
        for event in events(tmp_path)
        for value in event.summary.value
        if value.tag == "loss"
    ]
    assert values == [(step, "loss", step / 2) for step in range(1, 51)]
    last = events(tmp_path)[-1]
    assert (last.step, last.summary.value[0].image.height, last.summary.value[0].image.width) == (50, 4, 5)


def test_tensorboard_is_told_where_a_resumed_run_starts_and_keeps_the_first_file(tmp_path):
    from tensorboardX.proto.event_pb2 import SessionLog

    with metrics_log.open_metrics(tmp_path, resume_step=0) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": 1.0})
    with metrics_log.open_metrics(tmp_path, resume_step=2) as log:  # within the same second
        log.write(3, {"loss": 2.0})
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2
    starts = [event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START]
    assert starts == [0, 3]
    assert [event.step for event in events(tmp_path) if event.summary.value] == [1, 2, 3, 3]


def test_a_picture_for_tensorboard_must_be_a_picture(tmp_path):
    with metrics_log.open_metrics(tmp_path) as log:
        with pytest.raises(ValueError, match="samples: expected a uint8 picture"):
            log.write_image(1, "samples", np.zeros([4, 4, 3]))


def test_closing_twice_is_fine(tmp_path):
    log = metrics_log.open_metrics(tmp_path)
    log.close()
    log.close()


def test_importing_the_module_loads_neither_jax_nor_matplotlib_nor_pillow_nor_tensorboardx():
    code = (
        "import sys; from jaxgen import images, report, run_directory;"
        "print([name for name in ('jax', 'matplotlib', 'PIL', 'tensorboardX') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
