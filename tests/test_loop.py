"""The loop: what a run does, and that a run which was stopped, killed, moved or broken ends like one that was not."""

import dataclasses
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen import (
    building,
    checkpoint,
    configuration,
    console,
    data,
    experiment,
    loop,
    options,
    report,
    run_directory,
    sharding,
    watching,
)
from jaxgen.loop import dispatch, stop_signals
from jaxgen.run_directory import lock, metrics_log
from jaxgen.system import Spec, System
from jaxgen.systems import classifier, dcgan, vae

pytestmark = pytest.mark.usefixtures("fast_compilation")

KEY = jax.random.key(5)


@pytest.fixture(autouse=True, scope="module")
def compilation_cache(tmp_path_factory):
    """Runs of one test compile the same programs; the scripts keep them, too."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    jax.config.update(names[0], str(tmp_path_factory.mktemp("compiled")))
    jax.config.update(names[1], 0.0)
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)


# A cheap train step that everything can be seen from ------------------------------------------------------------------


@flax.struct.dataclass
class State:
    step: jax.Array
    weights: jax.Array
    order: jax.Array  # a hash of all labels so far, in order
    ema: jax.Array


def fresh() -> State:
    zero = jnp.zeros((), jnp.int32)
    return State(step=zero, weights=jnp.zeros(16), order=jnp.zeros((), jnp.uint32), ema=jnp.zeros(16))


def rows(num: int = 50) -> data.Dataset:
    """Images of noise, each with its row as its label."""
    image = np.random.RandomState(0).randint(0, 256, (num, 4, 4, 1)).astype(np.uint8)
    return data.from_arrays("rows", image, np.arange(num))


def toy_step(state: State, batch, key):
    key = jax.random.fold_in(key, state.step)
    image = batch["image"].reshape(-1, 16)
    noise = sharding.draw(jax.random.normal, key, image.shape)

    def objective(weights):
        return jnp.mean((image @ weights[:, None] - 1) ** 2) + 0.1 * jnp.mean(noise * weights)

    loss, gradient = jax.value_and_grad(objective)(state.weights)
    weights = state.weights - 0.1 * gradient
    order = jnp.sum((batch["label"].astype(jnp.uint32) + 1) * (2 * jnp.arange(len(image), dtype=jnp.uint32) + 1))
    state = State(
        step=state.step + 1, weights=weights, order=state.order * 31 + order, ema=0.9 * state.ema + 0.1 * weights
    )
    return state, {
        "loss": loss,
        "update_norm": jnp.linalg.norm(gradient),
        "which": (state.step - 1).astype(jnp.float32),
    }


def nan_at(bad_step: int, *, where=lambda key: True, **metrics):
    """toy_step whose loss is NaN at one step, if `where(key)`."""

    def train_step(state, batch, key):
        new, values = toy_step(state, batch, key)
        bad = (state.step == bad_step) & where(key)
        values["loss"] = jnp.where(bad, jnp.nan, values["loss"])
        return new.replace(weights=jnp.where(bad, jnp.nan, new.weights)), values | metrics

    return train_step


def stop_at(step: int, number: int = signal.SIGTERM):
    """A `sample` that sends this process a signal at one step, as a preempted machine would."""

    def sample(state):
        if int(state.step) == step:
            os.kill(os.getpid(), number)
        return {}

    return sample


def train(directory, train_step=toy_step, *, dataset=None, **options):
    defaults = {
        "config": {"name": "test"},
        "num_steps": 20,
        "batch_size": 8,
        "key": KEY,
        "num_devices": 1,
        "log_every": 5,
        "checkpoint_every": 5,
        "progress": False,
        "tensorboard": False,
    }
    return loop.train(train_step, fresh(), dataset or rows(), directory=directory, **defaults | options)


def digests(directory, step=None) -> dict:
    """Shape, dtype and crc32 of every leaf of a checkpoint: equal for states that are equal bit for bit."""
    step = checkpoint.latest_step(directory / "checkpoints") if step is None else step
    return checkpoint.read_record(directory / "checkpoints", step)["leaves"]


def lines(directory, *, after=0) -> dict[int, dict]:
    """The log by step, without what a clock wrote."""
    return {
        line["step"]: {
            name: value for name, value in line.items() if name not in ("time", "images_per_second", "data_wait")
        }
        for line in metrics_log.read_metrics(directory)
        if line["step"] > after
    }


def status(directory) -> dict:
    return json.loads((directory / "status.json").read_text())


def order_of(num_steps: int, *, seed=0, batch_size=8, num=50, start=0, order=0) -> int:
    """What `State.order` must be, by NumPy."""
    for step in range(start, num_steps):
        labels = data.batch_indices(step, batch_size=batch_size, num_examples=num, seed=seed).astype(np.uint64)
        sum_ = int(((labels + 1) * (2 * np.arange(batch_size, dtype=np.uint64) + 1)).sum())
        order = (order * 31 + sum_) % 2**32
    return order


@pytest.fixture(autouse=True)
def no_report(monkeypatch, request):
    """Matplotlib takes a second for each report."""
    if "report" not in request.node.name:
        monkeypatch.setattr(report, "write", lambda directory: None)


# What a run does ------------------------------------------------------------------------------------------------------


def test_a_run_takes_every_step_once_on_the_batches_of_its_stream(tmp_path):
    result = train(tmp_path / "run", num_steps=23)
    assert result.step == int(result.state.step) == 23 and result.stopped_by is None
    assert int(result.state.order) == order_of(23)
    assert status(tmp_path / "run")["status"] == "finished" and status(tmp_path / "run")["step"] == 23


@pytest.mark.parametrize("most, seconds", [(64, 0.25), (64, 1e9), (7, 1e9), (1, 0.25)])
def test_a_line_of_the_log_holds_means_over_the_steps_since_the_line_before(tmp_path, monkeypatch, most, seconds):
    monkeypatch.setattr(dispatch, "MAX_STEPS_PER_DISPATCH", most)
    monkeypatch.setattr(console, "SECONDS_PER_DISPATCH", seconds)
    train(tmp_path / "run", num_steps=23, log_every=9, checkpoint_every=4)
    which = {step: line["which"] for step, line in lines(tmp_path / "run").items()}
    assert which == {9: np.mean(range(9)), 18: np.mean(range(9, 18)), 23: np.mean(range(18, 23))}


def test_the_number_of_steps_in_a_dispatch_changes_no_bit(tmp_path, monkeypatch):
    train(tmp_path / "usual")
    for most, seconds in [(1, 0.25), (3, 1e9), (64, 1e9)]:
        monkeypatch.setattr(dispatch, "MAX_STEPS_PER_DISPATCH", most)
        monkeypatch.setattr(console, "SECONDS_PER_DISPATCH", seconds)
        other = tmp_path / f"{most}"
        train(other)
        assert digests(other) == digests(tmp_path / "usual")
        assert lines(other) == lines(tmp_path / "usual")


@pytest.mark.parametrize("streamed", [False, True])
def test_the_step_is_compiled_once_in_a_run_and_once_in_its_continuation(tmp_path, caplog, streamed):
    jax.config.update("jax_enable_compilation_cache", False)
    dataset = dataclasses.replace(rows(), arrays=None) if streamed else rows()
    traces = []

    def counted(state, batch, key):
        traces.append(1)
        return toy_step(state, batch, key)

    def compilations():
        name = "one_step" if streamed else "many_steps"
        return sum("Finished XLA compilation" in r.message and name in r.message for r in caplog.records)

    try:
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            train(tmp_path / "run", counted, dataset=dataset, sample=stop_at(7), sample_every=7, log_every=3)
            assert compilations() == 1
            assert len(traces) == 1  # which learns the names of the metrics, too
            train(tmp_path / "run", counted, dataset=dataset, log_every=3)
            assert compilations() == 2
            assert len(traces) == 2
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


def test_another_training_sees_what_a_notebook_has_changed_meanwhile(tmp_path):
    shrinking = {"by": 1.0}

    def step(state, batch, key):
        state, metrics = toy_step(state, batch, key)
        return state.replace(weights=shrinking["by"] * state.weights), metrics

    first = train(tmp_path / "first", step)
    shrinking["by"] = 0.5
    second = train(tmp_path / "second", step)
    assert np.abs(second.state.weights).max() < 0.9 * np.abs(first.state.weights).max()


def test_samples_and_evaluations_come_at_their_steps_and_at_the_end(tmp_path):
    seen = {"sample": [], "evaluate": []}

    def sample(state):
        seen["sample"].append(int(state.step))
        return {"samples": jnp.zeros((4, 8, 8, 1)), "pairs": jnp.zeros((2, 8, 8, 3))}

    def evaluate(state):
        seen["evaluate"].append(int(state.step))
        return {"score": float(state.step)}

    result = train(
        tmp_path / "run", sample=sample, sample_every=6, evaluate=evaluate, evaluate_every=0, checkpoint_every=0
    )
    assert seen == {"sample": [6, 12, 18, 20], "evaluate": [20]}
    assert result.evaluation == {"eval/score": 20.0}
    assert lines(tmp_path / "run")[20] | {"eval/score": 20.0} == lines(tmp_path / "run")[20]
    names = {path.name for path in (tmp_path / "run" / "samples").iterdir()}
    assert {"00000006.png", "pairs_00000020.png"} <= names and len(names) == 8
    assert checkpoint.all_steps(tmp_path / "run" / "checkpoints") == [20]


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path):
    scores = {4: 1.0, 8: 3.0, 12: 2.0, 16: float("nan"), 20: 0.5}
    train(
        tmp_path / "run",
        evaluate=lambda state: {"score": scores[int(state.step)]},
        evaluate_every=4,
        checkpoint_every=4,
        keep_last=1,
        best_metric="eval/score",
    )
    assert checkpoint.all_steps(tmp_path / "run" / "checkpoints") == [8, 20]
    assert checkpoint.read_record(tmp_path / "run" / "checkpoints", 8)["metrics"] == {"eval/score": 3.0}


def test_a_mistyped_best_metric_is_an_error_at_the_first_evaluation_whose_checkpoint_stays(tmp_path):
    with pytest.raises(ValueError, match="best_metric is 'eval/scroe', but evaluated are: eval/score"):
        train(tmp_path / "run", evaluate=lambda s: {"score": 1.0}, evaluate_every=5, best_metric="eval/scroe")
    train(tmp_path / "run", evaluate=lambda s: {"score": 1.0}, evaluate_every=5, best_metric="eval/score")
    with pytest.raises(ValueError, match="nothing evaluates"):
        train(tmp_path / "other", best_metric="eval/score")


def test_evaluation_covers_every_example_once_and_the_padding_of_the_last_batch_never():
    dataset = rows(13)

    def eval_step(variables, batch, key):
        return {"row": batch["label"], "sum": jnp.sum(batch["image"], axis=(1, 2, 3)) * variables}

    seen = []
    for batch_size in (5, 13, 250):
        evaluate = watching.make_evaluate(
            eval_step,
            lambda per_image: seen.append(per_image["row"]) or {"mean": float(np.mean(per_image["sum"]))},
            dataset,
            key=KEY,
            batch_size=batch_size,
        )
        expected = np.mean(np.sum(dataset.arrays["image"] / 127.5 - 1, axis=(1, 2, 3)))
        assert evaluate(fresh().replace(ema=jnp.float32(1)))["mean"] == pytest.approx(expected, abs=1e-5)
        np.testing.assert_array_equal(seen[-1], np.arange(13))


@pytest.mark.parametrize("batch_size", [5, 8, 250])
def test_evaluation_is_divided_over_the_devices_and_has_the_same_numbers_on_any_number_of_them(batch_size):
    def prepare(raw, key):
        return {"image": raw["image"] / 127.5 - 1, "bits": jax.random.bernoulli(key, 0.5, raw["image"].shape)}

    dataset = dataclasses.replace(rows(13), prepare=prepare)
    seen, shares = [], []

    def eval_step(variables, batch, key):
        noise = sharding.draw(jax.random.normal, key, (len(batch["image"]), 3))
        for x in (batch["image"], noise):
            jax.debug.inspect_array_sharding(x, callback=lambda s, x=x: shares.append(s.shard_shape(x.shape)[0]))
        total = jnp.sum(batch["image"] * variables["scale"] * batch["bits"], axis=(1, 2, 3))
        return {"row": total[:, None] + noise}

    for num_devices in (1, 8, 3):
        shares.clear()
        evaluate = watching.make_evaluate(
            eval_step,
            lambda per_image: seen.append(per_image["row"]) or {"mean": float(np.mean(per_image["row"]))},
            dataset,
            key=KEY,
            batch_size=batch_size,
            mesh=sharding.make_mesh(num_devices),
        )
        state = fresh().replace(ema={"scale": jax.device_put(jnp.float32(0.5), jax.devices()[2])})
        evaluate(state)
        assert set(shares) == {-(-min(batch_size, 13) // num_devices)}
        assert seen[-1].shape == (13, 3)
        np.testing.assert_allclose(seen[-1], seen[0], rtol=1e-5, atol=1e-6)
    assert np.std(seen[0][:, 0] - seen[0][:, 1]) > 0.1  # there is noise


@pytest.mark.slow
def test_images_per_second_are_those_of_the_steps_and_not_of_the_pauses(tmp_path):
    def slow_step(state, batch, key):
        def wait(step):
            time.sleep(0.02)
            return step

        step = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.int32), state.step)
        return toy_step(state.replace(step=step), batch, key)

    train(
        tmp_path / "run",
        slow_step,
        num_steps=16,
        log_every=4,
        evaluate=lambda state: time.sleep(0.5) or {"score": 0.0},
        evaluate_every=4,
    )
    rates = [r["images_per_second"] for r in metrics_log.read_metrics(tmp_path / "run") if "images_per_second" in r]
    assert len(rates) == 4
    # 8 images each 0.02 s; a pause of 0.5 s in every 4 steps would make it less than 55.
    assert max(rates) <= 400 and np.median(rates) > 100


def test_progress_elsewhere_than_on_a_terminal_is_each_line_of_the_log(tmp_path, capsys):
    evaluate = {"evaluate": lambda state: {"accuracy": 0.5}, "evaluate_every": 10}
    train(tmp_path / "run", progress=True, log_every=2, **evaluate)
    text = capsys.readouterr().err
    first, *others = text.splitlines()
    height, width, _ = rows().image_shape
    images = f"{rows().num_examples} images of {width}x{height} pixels"
    assert first == f"Starting at step 0 of 20 on 1 cpu device, with {images}, in {tmp_path / 'run'}; compiling."
    steps = [line.split(":")[0].split(",")[0] for line in others if "eval/" not in line]
    assert all(
        (" left: " in line) == (line.split()[1] not in ("2/20:", "20/20:")) for line in others if "eval/" not in line
    )
    assert steps == [f"step {step}/20" for step in range(2, 21, 2)]
    assert "step 20/20: images/s" in text and "step 10/20: eval/accuracy 0.5" in text and "\r" not in text
    train(tmp_path / "run", progress=True, **evaluate)
    assert "is finished already, at step 20" in capsys.readouterr().err
    train(tmp_path / "silent", progress=False, **evaluate)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_a_bar(tmp_path, monkeypatch):
    import fcntl
    import struct
    import termios
    import threading

    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    received = []

    def read():
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:
                return
            received.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(follower, "w", buffering=1) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        train(tmp_path / "run", progress=True, evaluate=lambda state: {"accuracy": 0.5}, evaluate_every=10)
        monkeypatch.undo()
    reader.join()
    os.close(leader)
    text = b"".join(received).decode()
    assert "20/20" in text and "100%" in text and "loss" in text
    assert "\rstep 10/20: eval/accuracy 0.5\r\n" in text.replace(" " * 40, "")[-10000:] or "eval/accuracy 0.5" in text


def test_groups_of_images_are_drawn_as_strips(tmp_path):
    pairs = jnp.stack([-jnp.ones((3, 4, 4, 1)), jnp.ones((3, 4, 4, 1))], axis=1)
    train(tmp_path / "run", num_steps=1, sample=lambda state: {"pairs": pairs})
    picture = np.asarray(Image.open(tmp_path / "run" / "samples" / "pairs_00000001.png"))
    row = picture[picture.shape[0] // 6, :, 0]  # through the first strips: grey, black, white, grey, ...
    colours = row[np.flatnonzero(np.diff(row, prepend=-1.0))]
    assert colours.tolist() == [204, 0, 255, 204, 0, 255, 204]


def test_the_data_are_described_for_the_report(tmp_path):
    train(tmp_path / "run", dataset=rows(50))
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert facts["name"] == "rows" and facts["num_examples"] == 50 and facts["image_shape"] == [4, 4, 1]
    assert len(facts["class_names"]) == 50
    real = np.asarray(Image.open(tmp_path / "run" / "real.png"))
    assert real.shape[2] == 3 and len(np.unique(real)) > 50
    page = (tmp_path / "run" / "report.html").read_text()
    assert "rows: 50 images of 4 × 4 pixels, grey; 50 classes (0, 1, 2," in page and "Real images" in page


def test_the_report_is_written_at_the_end_and_its_failure_is_a_warning(tmp_path, monkeypatch):
    def broken(directory):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(report, "write", broken)
    with pytest.warns(UserWarning, match="no fonts"):
        assert train(tmp_path / "run").step == 20


# Stopped, killed, resumed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first_and_the_same_call_goes_on_to_the_same_bits(tmp_path, number, capfd):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    train(tmp_path / "whole")
    result = train(tmp_path / "run", sample=stop_at(7, number), sample_every=7, checkpoint_every=0)
    assert (result.step, result.stopped_by) == (7, number)
    assert f"{number.name}: saving a checkpoint" in capfd.readouterr().err
    assert status(tmp_path / "run") | {"status": "stopped", "step": 7} == status(tmp_path / "run")
    assert checkpoint.latest_step(tmp_path / "run" / "checkpoints") == 7
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    again = train(tmp_path / "run", sample=stop_at(13, number), sample_every=13)
    assert again.step == 13
    assert train(tmp_path / "run").stopped_by is None
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    # The lines at 10 and 15 hold the steps since a resume at 7 and 13 only.
    for step in (5, 20):
        assert lines(tmp_path / "run")[step] == lines(tmp_path / "whole")[step]
    assert set(lines(tmp_path / "run")) == {5, 10, 15, 20}


@pytest.fixture
def interruptible():
    """SIGINT raises KeyboardInterrupt, also where a shell ignores it: in what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_signal_ends_at_once(tmp_path):
    def sample(state):
        signal.raise_signal(signal.SIGTERM)  # to this thread: os.kill may choose another, and come late
        signal.raise_signal(signal.SIGINT)
        return {}

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", sample=sample, sample_every=7, checkpoint_every=5)
    assert checkpoint.all_steps(tmp_path / "run" / "checkpoints") == [5]
    train(tmp_path / "run")
    train(tmp_path / "whole")
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


def test_a_crash_between_checkpoints_repeats_the_lost_steps_and_the_log_shows_none_twice(tmp_path):
    class Crash(Exception):
        pass

    def crash(state):
        if int(state.step) == 14:
            raise Crash
        return {}

    train(tmp_path / "whole")
    with pytest.raises(Crash):
        train(tmp_path / "run", sample=crash, sample_every=7, log_every=1)
    assert max(lines(tmp_path / "run")) == 14
    train(tmp_path / "run")
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    steps = [line["step"] for line in metrics_log.read_metrics(tmp_path / "run")]
    assert steps == [*range(1, 11), 15, 20]
    assert lines(tmp_path / "run", after=10) == lines(tmp_path / "whole", after=10)


def test_a_finished_run_started_again_changes_nothing_and_can_be_prolonged(tmp_path):
    evaluate = {"evaluate": lambda state: {"score": 2.5}}
    train(tmp_path / "run", num_steps=10, **evaluate)
    before, log = digests(tmp_path / "run"), (tmp_path / "run" / "metrics.jsonl").read_bytes()
    result = train(tmp_path / "run", num_steps=10, **evaluate)
    assert result.step == 10 and result.stopped_by is None and result.evaluation == {"eval/score": 2.5}
    assert digests(tmp_path / "run") == before and (tmp_path / "run" / "metrics.jsonl").read_bytes() == log
    train(tmp_path / "run")
    train(tmp_path / "whole")
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    with pytest.raises(ValueError, match="is at step 20 already, beyond num_steps 10"):
        train(tmp_path / "run", num_steps=10)


@pytest.mark.slow
def test_another_number_of_devices_may_go_on_with_close_results(tmp_path):
    whole = train(tmp_path / "whole")
    train(tmp_path / "run", num_devices=8, sample=stop_at(6), sample_every=6)
    train(tmp_path / "run", num_devices=1, sample=stop_at(12), sample_every=12)
    moved = train(tmp_path / "run", num_devices=4)
    assert int(moved.state.order) == int(whole.state.order)
    np.testing.assert_allclose(moved.state.weights, whole.state.weights, rtol=1e-5, atol=1e-6)
    assert len(moved.state.weights.sharding.device_set) == 4


def damage(path, how) -> None:
    """Cuts the files of the arrays in half, or flips a bit of the record."""
    if how == "cut":
        for file in (path / "state").rglob("*"):
            if file.is_file():
                os.truncate(file, file.stat().st_size // 2)
    else:
        content = bytearray((path / "record" / "metadata").read_bytes())
        content[len(content) // 2] ^= 0x01
        (path / "record" / "metadata").write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_damaged_newest_checkpoint_costs_a_warning_and_some_steps_but_no_bit(tmp_path, how):
    train(tmp_path / "whole")
    train(tmp_path / "run", sample=stop_at(15), sample_every=15)
    damage(tmp_path / "run" / "checkpoints" / "15", how)
    with pytest.warns(UserWarning, match="step 15 is damaged.*Trying step 10"):
        train(tmp_path / "run")
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train(tmp_path / "run", num_steps=5)
    other = fresh().replace(weights=jnp.zeros(16, jnp.bfloat16))
    with pytest.raises(checkpoint.CheckpointMismatch, match=r"another model.*\n.*weights"):
        loop.train(
            lambda state, batch, key: (state, {"loss": jnp.float32(0)}),
            other,
            rows(),
            directory=tmp_path / "run",
            num_steps=10,
            batch_size=8,
            key=KEY,
            progress=False,
        )


# Streamed data --------------------------------------------------------------------------------------------------------


def test_streamed_and_resident_data_give_the_same_numbers(tmp_path):
    resident = train(tmp_path / "resident").state
    streamed = train(tmp_path / "streamed", dataset=dataclasses.replace(rows(), arrays=None)).state
    assert int(streamed.order) == int(resident.order) == order_of(20)
    np.testing.assert_allclose(streamed.weights, resident.weights, rtol=1e-6, atol=1e-7)
    for step, line in lines(tmp_path / "resident").items():
        assert lines(tmp_path / "streamed")[step] == pytest.approx(line, rel=1e-5)


def test_a_streamed_folder_resumes_bit_for_bit(tmp_path):
    from PIL import Image

    for i in range(20):
        (tmp_path / "images" / f"class{i % 3}").mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(i).randint(0, 256, (9, 7, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"class{i % 3}" / f"{i}.png")
    dataset = data.image_folder(tmp_path / "images", image_size=4, channels=1, max_bytes_in_memory=0)
    assert dataset.arrays is None
    train(tmp_path / "whole", dataset=dataset)
    result = train(tmp_path / "run", dataset=dataset, sample=stop_at(7), sample_every=7)
    assert result.step == 7
    train(tmp_path / "run", dataset=dataset)
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


def test_a_failure_while_reading_names_the_step_of_its_batch(tmp_path):
    dataset = rows()
    bad_rows = data.batch_indices(9, batch_size=8, num_examples=50, seed=0)

    def fetch(indices):
        if np.array_equal(indices, bad_rows):
            raise OSError("the network drive is gone")
        return dataset.fetch(indices)

    with pytest.raises(OSError, match="network drive") as raised:
        train(tmp_path / "run", dataset=dataclasses.replace(dataset, arrays=None, fetch=fetch))
    assert raised.value.__notes__ == ["This happened while reading the batch of step 9."]
    train(tmp_path / "run")  # the drive is back
    assert int(train(tmp_path / "run").state.order) == order_of(20)


# Numbers that are not finite ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_a_loss_that_is_not_finite_ends_the_run_with_nothing_bad_saved(tmp_path, streamed):
    dataset = dataclasses.replace(rows(), arrays=None) if streamed else rows()
    with pytest.raises(loop.NonFiniteLoss) as raised:
        train(tmp_path / "run", nan_at(7), dataset=dataset)
    message = str(raised.value)
    assert "after step 7" in message and "loss nan" in message and "which 7" in message
    assert "With max_rollbacks above 0 the same run goes back and on" in message and "for a new run" in message
    assert f"last good checkpoint is {tmp_path / 'run' / 'checkpoints' / '5'}" in message
    assert status(tmp_path / "run")["status"] == "non-finite" and status(tmp_path / "run")["step"] == 7
    assert checkpoint.all_steps(tmp_path / "run" / "checkpoints") == [5]
    assert set(lines(tmp_path / "run")) == {5}
    for name in ("run", "whole"):  # mended
        train(tmp_path / name, nan_at(99), dataset=dataset)
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


def test_without_a_checkpoint_the_message_says_so(tmp_path):
    with pytest.raises(loop.NonFiniteLoss, match="There is no checkpoint yet"):
        train(tmp_path / "run", nan_at(0))


def depends_on_noise():
    """Whether this is the first attempt, by its key."""
    first = jax.random.key_data(jax.random.split(KEY)[1])
    return lambda key: jnp.all(jax.random.key_data(key) == first)


@pytest.mark.parametrize("bad_step, good_step", [(7, 5), (2, 0)])
def test_a_rollback_goes_on_from_the_last_checkpoint_or_the_beginning_with_other_noise(tmp_path, bad_step, good_step):
    step = nan_at(bad_step, where=depends_on_noise())
    with pytest.warns(UserWarning, match=r"Going back \(1 of 1 times\)"):
        result = train(tmp_path / "run", step, max_rollbacks=1)
    assert result.step == 20 and bool(jnp.all(jnp.isfinite(result.state.weights)))
    assert int(result.state.order) == order_of(20, seed=1, start=good_step, order=order_of(good_step))
    assert sorted(lines(tmp_path / "run")) == [5, 10, 15, 20]
    assert checkpoint.read_record(tmp_path / "run" / "checkpoints", 20)["metadata"] == {"rollbacks": 1}


def test_a_run_resumed_after_a_rollback_keeps_its_noise_bit_for_bit(tmp_path):
    step = nan_at(7, where=depends_on_noise())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(tmp_path / "whole", step, max_rollbacks=1)
        train(tmp_path / "run", step, max_rollbacks=1, sample=stop_at(13), sample_every=13)
        train(tmp_path / "run", step, max_rollbacks=1)
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


def test_rollbacks_end_when_they_are_used_up_also_across_processes(tmp_path):
    always = nan_at(7)
    with pytest.warns(UserWarning) as caught, pytest.raises(loop.NonFiniteLoss):
        train(tmp_path / "run", always, max_rollbacks=2)
    messages = [str(warning.message) for warning in caught if "Going back" in str(warning.message)]
    assert [message[-14:] for message in messages] == ["1 of 2 times).", "2 of 2 times)."]
    assert checkpoint.all_steps(tmp_path / "run" / "checkpoints") == [5]

    # The checkpoints after a rollback remember it: one that was used up is not granted again.
    def twice(state, batch, key):
        first = nan_at(7, where=depends_on_noise())(state, batch, key)
        new, metrics = first
        return new, metrics | {"loss": jnp.where(state.step == 14, jnp.nan, metrics["loss"])}

    with pytest.warns(UserWarning, match="1 of 1") as caught, pytest.raises(loop.NonFiniteLoss, match="after step 14"):
        train(tmp_path / "two", twice, max_rollbacks=1)
    assert sum("Going back" in str(warning.message) for warning in caught) == 1
    with warnings.catch_warnings(), pytest.raises(loop.NonFiniteLoss, match="after step 14"):
        warnings.simplefilter("error")
        train(tmp_path / "two", twice, max_rollbacks=1)


def test_a_skipped_update_is_no_failure_and_does_not_spoil_the_means(tmp_path):
    def skipping(state, batch, key):
        new, metrics = toy_step(state, batch, key)
        bad = state.step == 7
        weights = jnp.where(bad, state.weights, new.weights)
        metrics = {name: jnp.where(bad, jnp.nan, value) for name, value in metrics.items() if name != "which"}
        return new.replace(weights=weights), metrics | {"skipped": bad.astype(jnp.float32), "update_norm": 0.0}

    train(tmp_path / "run", skipping)
    line = lines(tmp_path / "run")[10]
    assert line["skipped"] == pytest.approx(0.2) and math.isfinite(line["loss"])


def test_which_metrics_count_as_wrong():
    def wrong(**metrics):
        return bool(dispatch.went_wrong({k.replace("__", "/"): jnp.float32(v) for k, v in metrics.items()}))

    nan, inf = float("nan"), float("inf")
    assert not wrong(loss=1.0, grad_norm=inf, elbo=-3.0)
    assert wrong(loss=nan) and wrong(elbo=-inf) and wrong(generator__update_norm=inf) and wrong(penalty__r1=nan)
    assert not wrong(loss=nan, skipped=1.0)
    assert wrong(generator__loss=nan, discriminator__skipped=1.0)
    assert not wrong(penalty__r1=inf, discriminator__loss=inf, discriminator__skipped=1.0)


def test_nan_in_the_data_is_found_in_the_first_batch_or_at_its_step(tmp_path):
    image = np.zeros((50, 4, 4, 1), np.float32)
    first, late = (data.batch_indices(step, batch_size=8, num_examples=50, seed=0)[0] for step in (0, 3))
    for row in (first, late):
        image[row, 2, 1, 0] = np.nan
        dataset = data.dataset.in_memory("floats", image.copy(), np.arange(50))
        image[row] = 0
        if row == first:
            with pytest.raises(ValueError, match="not finite"):
                train(tmp_path / "first", dataset=dataset)
            assert not (tmp_path / "first").exists()
        else:
            with pytest.raises(loop.NonFiniteLoss, match="after step 3"):
                train(tmp_path / "late", dataset=dataset)


# Wrong use ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_steps": 0}, "num_steps must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"log_every": 0}, "log_every must be at least 1"),
        ({"checkpoint_every": -1}, "checkpoint_every must be at least 0, not -1; 0 stands for only at the end"),
        ({"sample_every": -3}, "sample_every"),
        ({"evaluate_every": -3}, "evaluate_every"),
        ({"max_rollbacks": -1}, "max_rollbacks must be at least 0"),
        ({"seed": -1}, "seed"),
        ({"num_devices": 9}, "9 devices asked for, but this program sees 8"),
        ({"num_devices": 0}, "0 devices"),
        ({"num_devices": 8, "batch_size": 12}, "cannot be divided over 8 devices; use a multiple of 8, for example 16"),
        ({"train_step": lambda s, b, k: (s, {"loss": b["image"]})}, "metric 'loss' has shape"),
    ],
)
def test_wrong_options_are_refused_before_a_directory_is_made(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_arrays_that_are_no_data_set_are_refused_with_what_makes_one(tmp_path):
    own = System(init=lambda key: {}, train_step=lambda state, batch, key: (state, {}), images_per_step=1)
    for train in (
        lambda images: experiment.train_system(own, images, tmp_path / "run", num_steps=1),
        lambda images: loop.train(None, None, images, directory=tmp_path / "run", num_steps=1, batch_size=1, key=None),
    ):
        with pytest.raises(TypeError, match=r"must be a jaxgen.data.Dataset, .*, not a dict of image"):
            train({"image": np.zeros((4, 8, 8, 1))})
    assert not (tmp_path / "run").exists()


def test_a_run_in_use_is_refused_and_left_alone(tmp_path):
    train(tmp_path / "run", num_steps=5, config={"log_every": 5})
    with lock.lock(tmp_path / "run"):
        before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
        for asked in ({"log_every": 7}, {"log_every": 5}, {"features": 8}):
            with pytest.raises(lock.RunLocked, match="is in use"):
                train(tmp_path / "run", config=asked, may_change=["log_every"])
        assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_other_settings_are_refused_with_the_differences(tmp_path):
    train(tmp_path / "run", num_steps=5, config={"features": 4, "log_every": 5})
    with pytest.raises(run_directory.ConfigMismatch, match="features: 4 there, 8 asked"):
        train(tmp_path / "run", config={"features": 8, "log_every": 5})
    train(tmp_path / "run", config={"features": 4, "log_every": 7}, may_change=["log_every"], log_every=7)


def test_a_directory_that_is_a_file_or_holds_other_things_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(run_directory.RunDirectoryError, match="is a file"):
        train(tmp_path / "file")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("mine")
    with pytest.raises(run_directory.RunDirectoryError, match="holds a.jpg but no config.json"):
        train(tmp_path / "photos")
    assert os.listdir(tmp_path / "photos") == ["a.jpg"]


# Disks ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("no permission to mount")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def fill(path) -> None:
    with open(path / "filler", "wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"0" * size)
            except OSError:
                pass


@pytest.mark.parametrize("at", ["checkpoint", "metrics"])
def test_a_full_disk_ends_the_run_with_a_clear_message_and_it_goes_on_when_there_is_space(tmp_path, small_disk, at):
    def fill_at_twelve(state):
        if int(state.step) == 12:
            fill(small_disk)
        return {}

    every = {"checkpoint": {"checkpoint_every": 12}, "metrics": {"log_every": 1}}[at]
    with pytest.raises((OSError, checkpoint.CheckpointError), match="disk.* is full: free"):
        train(small_disk / "run", sample=fill_at_twelve, sample_every=6, **{"checkpoint_every": 6} | every)
    os.remove(small_disk / "filler")
    train(small_disk / "run", log_every=5)
    train(tmp_path / "whole")
    assert digests(small_disk / "run") == digests(tmp_path / "whole")


def test_a_read_only_directory_is_refused(tmp_path, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match="read-only: choose another directory"):
        train(small_disk / "run")


# The families ---------------------------------------------------------------------------------------------------------

TINY = {
    "gan": dcgan.Config(
        features=4,
        latent_dim=4,
        batch_size=8,
        num_discriminator_steps=2,
        ema_half_life=100,
        discriminator=options.Optimizer(b1=0.5, clip_norm=1.0, skip_norm=100.0),
    ),
    "vae": vae.Config(
        data=options.Data(binarise="dynamic"),
        latent_dim=2,
        batch_size=8,
        kl_warmup_steps=10,
        ema_half_life=50,
        optimizer=options.Optimizer(learning_rate=1e-3, schedule="cosine"),
    ),
    "classifier": classifier.Config(widths=(4, 4), batch_size=8, ema_half_life=50),
}


def train_family(directory, config, *, streamed=False, **options):
    digits = config.data.open("train")
    arrays = {name: value[:60] for name, value in digits.arrays.items()}
    small = data.from_arrays("digits", arrays["image"], arrays["label"], digits.class_names, digits.prepare)
    if streamed:
        small = dataclasses.replace(small, arrays=None)
    system = building.build_system(config, Spec.of(small))
    defaults = {
        "config": configuration.to_dict(config, dataset=small),
        "num_steps": 12,
        "num_devices": 1,
        "log_every": 4,
        "checkpoint_every": 4,
        "progress": False,
        "tensorboard": False,
        "key": KEY,
    }
    return loop.train(
        system.train_step,
        system.init(jax.random.key(config.seed)),
        small,
        directory=directory,
        batch_size=system.images_per_step,
        **defaults | options,
    )


@pytest.mark.parametrize(
    "family", ["gan", *(pytest.param(name, marks=pytest.mark.slow) for name in TINY if name != "gan")]
)
def test_every_family_resumes_to_the_same_bits(tmp_path, monkeypatch, family):
    whole = train_family(tmp_path / "whole", TINY[family])
    assert any(float(jnp.max(jnp.abs(x))) > 0 for x in jax.tree.leaves(whole.state.ema))
    train_family(tmp_path / "run", TINY[family], sample=stop_at(3), sample_every=3)
    monkeypatch.setattr(console, "SECONDS_PER_DISPATCH", 1e9)
    train_family(tmp_path / "run", TINY[family], sample=stop_at(8), sample_every=8)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "8")  # as if killed while it was written: from 4 again
    train_family(tmp_path / "run", TINY[family])
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    assert lines(tmp_path / "run", after=4) == lines(tmp_path / "whole", after=4)


@pytest.mark.slow
def test_a_vae_streamed_computes_what_it_computes_resident_and_resumes_bit_for_bit(tmp_path):
    config = TINY["vae"]
    resident = train_family(tmp_path / "resident", config, num_steps=6)
    streamed = train_family(tmp_path / "whole", config, num_steps=6, streamed=True)
    for a, b in zip(jax.tree.leaves(resident.state), jax.tree.leaves(streamed.state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    train_family(tmp_path / "run", config, num_steps=6, streamed=True, sample=stop_at(5), sample_every=5)
    train_family(tmp_path / "run", config, num_steps=6, streamed=True)
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


@pytest.mark.slow
def test_a_classifier_moves_from_eight_devices_to_one_to_four_with_close_results(tmp_path):
    # Not Adam, which divides the smallest gradients by their size, rounding included.
    config = dataclasses.replace(TINY["classifier"], optimizer=options.Optimizer(name="sgd", learning_rate=0.05))
    whole = train_family(tmp_path / "whole", config)
    train_family(tmp_path / "run", config, num_devices=8, sample=stop_at(4), sample_every=4)
    train_family(tmp_path / "run", config, num_devices=1, sample=stop_at(8), sample_every=8)
    moved = train_family(tmp_path / "run", config, num_devices=4)
    weights = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(result.state.network.params))])
        for result in (whole, moved)
    ]
    assert np.linalg.norm(weights[0] - weights[1]) < 1e-3 * np.linalg.norm(weights[0])
    assert lines(tmp_path / "run")[12]["loss"] == pytest.approx(lines(tmp_path / "whole")[12]["loss"], rel=1e-3)


def test_a_signal_after_the_last_step_is_told_that_the_rest_is_still_done(capfd):
    with stop_signals.listen(sharding.make_mesh(1)) as stop:
        stop.is_too_late = True
        signal.raise_signal(signal.SIGTERM)
    assert "SIGTERM: all steps are taken; what is left" in capfd.readouterr().err
