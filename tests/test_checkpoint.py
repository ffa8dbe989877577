"""Checkpoints: bit-exact, atomic, verified; every way to break one is found and the one before it is used."""

import errno
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen import checkpoint
from jaxgen.checkpoint import reading
from jaxgen.checkpoint import record as records


@flax.struct.dataclass
class State:
    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array


OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.inject_hyperparams(optax.adam)(learning_rate=1e-3))


def make_state(seed=0, width=64, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "Dense_0": {"kernel": jax.random.normal(keys[0], (32, width), dtype), "bias": jnp.zeros((width,))},
        "SpectralNorm_0": {"Dense_0/kernel/u": jax.random.normal(keys[1], (1, 8))},
    }
    return State(jnp.int32(seed), params, OPTIMIZER.init(params), keys[2])


def assert_bitwise_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(a) == jax.random.key_impl(b)
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def abstract(tree, sharding=None):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


@pytest.fixture
def manager(tmp_path):
    manager = checkpoint.open_checkpoints(tmp_path / "checkpoints")
    yield manager
    manager.close()


def save_steps(manager, *steps):
    for step in steps:
        assert checkpoint.save(manager, step, make_state(step))
    checkpoint.wait(manager)


def files_of(directory):
    return sorted(path for path in pathlib.Path(directory).rglob("*") if path.is_file())


def data_file(manager, step):
    """The largest file of a step: the one with the numbers of the tensors."""
    return max(files_of(manager.directory / str(step)), key=lambda path: path.stat().st_size)


def record_file(directory, step):
    return pathlib.Path(directory) / str(step) / "record" / "metadata"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


# ---------------------------------------------------------------------------------------------------- round trips


def test_a_state_comes_back_bit_for_bit_with_its_types_and_its_record(manager):
    state = make_state(3)
    metrics = {"fid": jnp.float32(12.5), "generator/loss": np.float64(0.1)}
    assert checkpoint.save(manager, 7, state, metrics=metrics, metadata={"preset": "dcgan", "sizes": (1, 2)})
    restored, record = checkpoint.restore(manager, state)
    assert_bitwise_equal(restored, state)
    assert type(restored.opt_state[1]) is type(state.opt_state[1])
    assert record == checkpoint.read_record(str(manager.directory), 7)
    assert (record["format"], record["step"]) == (1, 7)
    assert record["metrics"] == {"fid": 12.5, "generator/loss": 0.1}
    assert record["metadata"] == {"preset": "dcgan", "sizes": [1, 2]}
    shape, dtype, crc32 = record["leaves"][".params['Dense_0']['kernel']"]
    assert (shape, dtype) == ([32, 64], "float32") and isinstance(crc32, int)


def test_every_dtype_survives(manager):
    names = ["bfloat16", "float16", "float8_e4m3fn", "int8", "uint8", "int32", "uint32", "bool", "complex64"]
    state = {name: jnp.asarray([0, 1, 3]).astype(name) for name in names}
    state["nan"] = jnp.asarray([jnp.nan, -0.0, jnp.inf], jnp.bfloat16)
    state["keys"] = jax.random.split(jax.random.key(1, impl="rbg"), (2, 3))
    state["raw_key"] = jax.random.PRNGKey(0)
    state["empty"] = jnp.zeros((0, 3), jnp.bfloat16)
    state["numpy"] = np.arange(3.0)  # float64 stays float64, and numpy stays numpy
    state["nothing"] = None
    checkpoint.save(manager, 0, state)
    restored, _ = checkpoint.restore(manager, state)
    assert_bitwise_equal(restored, state)
    assert isinstance(restored["numpy"], np.ndarray) and isinstance(restored["int32"], jax.Array)


def test_a_template_of_shapes_suffices(manager):
    save_steps(manager, 1)
    for template in (abstract(make_state()), jax.eval_shape(make_state)):
        restored, _ = checkpoint.restore(str(manager.directory), template)
        assert_bitwise_equal(restored, make_state(1))
        assert {leaf.devices().pop() for leaf in jax.tree.leaves(restored)} == {jax.devices()[0]}


def test_a_restored_state_does_not_retrace_a_jitted_step(manager):
    state = {"weak": jnp.asarray(0), "strong": jnp.zeros((), jnp.int32), "x": jnp.ones(3)}
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state))
    state = step(state)
    checkpoint.save(manager, 1, state)
    step(state)
    traces = step._cache_size()
    restored, _ = checkpoint.restore(manager, state)
    assert restored["weak"].weak_type and not restored["strong"].weak_type
    step(restored)
    assert step._cache_size() == traces


def test_the_state_may_be_donated_or_overwritten_right_after_save(manager):
    train_step = jax.jit(lambda x: x * 1.5 + 1, donate_argnums=0)
    x, notes = train_step(jnp.ones((1024, 1024))), np.zeros(1000)
    for step in range(4):
        notes[:] = step
        expected = np.array(x)
        checkpoint.save(manager, step, {"x": x, "notes": notes})
        for _ in range(5):
            x = train_step(x)
        notes[:] = -1
        restored, _ = checkpoint.restore(manager, {"x": x, "notes": notes}, step=step)
        np.testing.assert_array_equal(restored["x"], expected)
        np.testing.assert_array_equal(restored["notes"], step)


def test_saving_does_not_keep_a_buffer_from_being_donated(manager):
    train_step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = train_step(jnp.ones((512, 512)))
    pointer = x.unsafe_buffer_pointer()
    checkpoint.save(manager, 0, x)
    checkpoint.wait(manager)
    assert train_step(x).unsafe_buffer_pointer() == pointer


@pytest.mark.parametrize("before, after", [(8, 1), (1, 8), (8, 4)])
def test_a_checkpoint_of_some_devices_resumes_on_others(manager, before, after):
    def sharding(count, *spec):
        return NamedSharding(jax.make_mesh((count,), ("data",), devices=jax.devices()[:count]), PartitionSpec(*spec))

    state = make_state(5)
    table = jnp.arange(64.0).reshape(8, 8)  # and one leaf that is really sharded
    checkpoint.save(
        manager, 1, (jax.device_put(state, sharding(before)), jax.device_put(table, sharding(before, "data")))
    )
    template = (abstract(state, sharding(after)), abstract(table, sharding(after, "data")))
    restored, record = checkpoint.restore(manager, template)
    assert_bitwise_equal(restored, (state, table))
    assert {leaf.sharding for leaf in jax.tree.leaves(restored[0])} == {sharding(after)}
    assert restored[1].sharding == sharding(after, "data")
    assert all(crc32 is not None for _, _, crc32 in record["leaves"].values())


def test_digests_do_not_depend_on_how_many_devices_hold_the_state(tmp_path):
    mesh = jax.make_mesh((8,), ("data",))
    records = []
    for name, sharding in [("one", None), ("eight", NamedSharding(mesh, PartitionSpec()))]:
        manager = checkpoint.open_checkpoints(tmp_path / name)
        checkpoint.save(manager, 1, jax.device_put(make_state(1), sharding))
        checkpoint.close(manager)
        records.append(checkpoint.read_record(tmp_path / name, 1))
    assert records[0] == records[1]


# ------------------------------------------------------------------------------------------------- which to keep


def test_the_newest_and_the_best_are_kept_and_reopening_remembers_the_best(tmp_path):
    options = dict(keep_last=2, keep_best=1, best_metric="fid")
    manager = checkpoint.open_checkpoints(tmp_path, **options)
    for step, fid in enumerate([9.0, 3.0, 5.0, float("nan"), 4.0]):
        checkpoint.save(manager, step, {"x": jnp.ones(3)}, metrics={"fid": fid})
    checkpoint.close(manager)
    assert checkpoint.all_steps(tmp_path) == [1, 3, 4]
    manager = checkpoint.open_checkpoints(tmp_path, **options)
    checkpoint.save(manager, 5, {"x": jnp.ones(3)})  # a step without metrics is never the best
    checkpoint.wait(manager)
    assert checkpoint.all_steps(tmp_path) == [1, 4, 5]
    checkpoint.save(manager, 6, {"x": jnp.ones(3)}, metrics={"fid": 2.0})
    checkpoint.save(manager, 7, {"x": jnp.ones(3)}, metrics={"fid": 8.0})
    checkpoint.save(manager, 8, {"x": jnp.ones(3)}, metrics={"fid": 8.0})
    checkpoint.close(manager)
    assert checkpoint.all_steps(tmp_path) == [6, 7, 8]


def test_the_best_can_be_the_largest_and_without_a_metric_only_the_newest_stay(tmp_path):
    for name, options, kept in [
        ("largest", dict(keep_last=1, keep_best=2, best_metric="score", best_mode="max"), [0, 2, 4]),
        ("newest", dict(keep_last=2), [3, 4]),
        ("all", dict(keep_last=None), [0, 1, 2, 3, 4]),
    ]:
        manager = checkpoint.open_checkpoints(tmp_path / name, **options)
        for step, score in enumerate([7.0, 3.0, 8.0, 1.0, 2.0]):
            checkpoint.save(manager, step, {"x": jnp.ones(3)}, metrics={"score": score})
        checkpoint.close(manager)
        assert checkpoint.all_steps(tmp_path / name) == kept


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="keep_last"):
        checkpoint.open_checkpoints(tmp_path, keep_last=0)
    with pytest.raises(ValueError, match="keep_best"):
        checkpoint.open_checkpoints(tmp_path, keep_best=-1)
    with pytest.raises(ValueError, match="best_mode"):
        checkpoint.open_checkpoints(tmp_path, best_mode="smallest")


# ------------------------------------------------------------------------------------------- the same step again


def test_saving_the_same_state_twice_writes_once(manager):
    assert checkpoint.save(manager, 1, make_state(1))
    assert not checkpoint.save(manager, 1, make_state(1))
    assert checkpoint.all_steps(manager) == [1]


def test_another_state_for_a_saved_step_is_refused_unless_forced(manager):
    save_steps(manager, 1, 2)
    with pytest.raises(ValueError, match="another state for step 2.*force=True"):
        checkpoint.save(manager, 2, make_state(7))
    assert checkpoint.save(manager, 2, make_state(7), force=True)
    restored, _ = checkpoint.restore(manager, make_state(), step=2)
    assert_bitwise_equal(restored, make_state(7))


def test_a_step_older_than_the_newest_is_refused_unless_forced(manager):
    save_steps(manager, 10, 20, 30)
    with pytest.raises(ValueError, match=r"older than steps \[20, 30\]"):
        checkpoint.save(manager, 15, make_state(15))
    checkpoint.save(manager, 5, make_state(5), force=True)
    checkpoint.wait(manager)
    assert checkpoint.all_steps(manager) == [5, 10, 20, 30]  # what was asked for is not swept away at once


# ------------------------------------------------------------------------------------------------------ questions


def test_steps_are_listed_and_strangers_are_ignored(manager, tmp_path):
    assert checkpoint.all_steps(tmp_path / "absent") == [] and checkpoint.latest_step(tmp_path / "absent") is None
    save_steps(manager, 2, 10)
    for stranger in ("11.damaged-1", "notes", "12.orbax-checkpoint-tmp", "best"):
        (manager.directory / stranger).mkdir()
    (manager.directory / "13").write_text("a file")
    assert checkpoint.all_steps(manager.directory) == checkpoint.all_steps(manager) == [2, 10]
    assert checkpoint.latest_step(str(manager.directory)) == 10
    with pytest.raises(FileNotFoundError, match=r"step 4 in .*available steps: \[2, 10\]"):
        checkpoint.restore(manager, make_state(), step=4)
    with pytest.raises(FileNotFoundError, match=r"available steps: \[2, 10\]"):
        checkpoint.read_record(manager, 4)


def test_no_checkpoint_at_all_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*absent"):
        checkpoint.restore(tmp_path / "absent", make_state())
    assert not (tmp_path / "absent").exists()


def test_leaves_that_are_no_arrays_are_named(manager):
    with pytest.raises(TypeError, match=r"\['step'\].*int.*jnp.asarray"):
        checkpoint.save(manager, 0, {"step": 3})
    with pytest.raises(TypeError, match="metadata.*JSON"):
        checkpoint.save(manager, 0, {"x": jnp.ones(2)}, metadata={"f": print})
    assert checkpoint.all_steps(manager) == []


# --------------------------------------------------------------------------------------------------- another model


def test_another_model_is_an_error_that_names_its_leaves_and_no_reason_to_fall_back(manager):
    save_steps(manager, 1)
    checkpoint.save(manager, 2, make_state(2, width=48), metadata={"preset": "small"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(checkpoint.CheckpointMismatch) as error:
            checkpoint.restore(manager, make_state())
    text = str(error.value)
    assert "step 2" in text and '"preset": "small"' in text
    assert f"6 of {len(jax.tree.leaves(make_state()))} leaves differ" in text
    assert ".params['Dense_0']['kernel']: expected float32[32, 64], found float32[32, 48]" in text


def test_missing_and_additional_leaves_are_named(manager):
    checkpoint.save(manager, 1, {"a": jnp.ones(2), "b": jnp.ones(3)})
    with pytest.raises(checkpoint.CheckpointMismatch) as error:
        checkpoint.restore(manager, {"a": jnp.ones(2), "c": jnp.ones(4, jnp.int32)})
    assert "['b']: expected nothing, found float32[3]" in str(error.value)
    assert "['c']: expected int32[4], found nothing" in str(error.value)


def test_another_dtype_is_refused_instead_of_cast(manager):
    save_steps(manager, 1)
    with pytest.raises(checkpoint.CheckpointMismatch, match=r"expected bfloat16\[32, 64\], found float32\[32, 64\]"):
        checkpoint.restore(manager, make_state(dtype=jnp.bfloat16))
    checkpoint.save(manager, 2, {"key": jax.random.key(0, impl="rbg")})
    with pytest.raises(checkpoint.CheckpointMismatch, match="key<fry>.*key<rbg>"):
        checkpoint.restore(manager, {"key": jax.random.key(0)})


def test_a_record_of_a_newer_format_asks_for_an_upgrade(manager, monkeypatch):
    save_steps(manager, 1)
    monkeypatch.setattr(records, "FORMAT", 2)
    save_steps(manager, 2)
    monkeypatch.undo()
    with pytest.raises(checkpoint.CheckpointMismatch, match="format 2.*Upgrade"):
        checkpoint.restore(manager, make_state())


# --------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("damage", [flip, truncate, empty, delete])
def test_a_damaged_data_file_is_noticed_and_the_step_before_it_is_used(manager, damage):
    save_steps(manager, 10, 20)
    damage(data_file(manager, 20))
    with pytest.warns(UserWarning, match="step 20 is damaged: .*20/state.*Trying step 10") as caught:
        restored, record = checkpoint.restore(str(manager.directory), make_state())
    assert len(caught) == 1 and record["step"] == 10
    assert_bitwise_equal(restored, make_state(10))
    with pytest.raises(checkpoint.CheckpointDamaged, match="step 20 is damaged"):
        checkpoint.restore(manager, make_state(), step=20)


def test_a_checkpoint_of_which_nothing_can_be_read_costs_one_warning_and_no_traceback(manager):
    """In a process of its own: what reads that nobody waits for print goes past Python's sys.stderr."""
    for step in (10, 20):
        checkpoint.save(manager, step, {f"leaf {i}": np.full(2000, i, np.float32) for i in range(40)})
    checkpoint.wait(manager)
    (index,) = (manager.directory / "20" / "state" / "d").iterdir()  # where each array lies in the files
    flip(index)
    code = f"""
import numpy as np
from jaxgen import checkpoint
template = {{f"leaf {{i}}": np.zeros(2000, np.float32) for i in range(40)}}
state, record = checkpoint.restore({os.fspath(manager.directory)!r}, template)
print(record["step"], state["leaf 39"][0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "10 39.0\n" and done.returncode == 0
    assert done.stderr.count("step 20 is damaged") == 1 and "Traceback" not in done.stderr


def test_a_flipped_byte_names_the_leaf_that_changed(manager):
    checkpoint.save(manager, 1, {"large": jax.random.normal(jax.random.key(0), (500, 500)), "small": jnp.ones(2)})
    checkpoint.wait(manager)
    flip(data_file(manager, 1))
    with pytest.raises(checkpoint.CheckpointDamaged, match=r"crc32 differs\): \['large'\]$"):
        checkpoint.restore(manager, {"large": jnp.ones((500, 500)), "small": jnp.ones(2)}, step=1)


@pytest.mark.parametrize("damage", [flip, truncate, empty, delete])
def test_whatever_file_is_damaged_no_wrong_number_is_returned(tmp_path, damage):
    manager = checkpoint.open_checkpoints(tmp_path / "whole")
    save_steps(manager, 10, 20)
    checkpoint.close(manager)
    files = [path.relative_to(tmp_path / "whole") for path in files_of(tmp_path / "whole/20")]
    assert len(files) >= 8
    noticed = []
    for number, file in enumerate(files):
        if not (tmp_path / "whole" / file).stat().st_size:
            continue
        shutil.copytree(tmp_path / "whole", tmp_path / str(number))
        damage(tmp_path / str(number) / file)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            restored, record = checkpoint.restore(tmp_path / str(number), make_state())
        assert_bitwise_equal(restored, make_state(record["step"]))
        fell_back = any("step 20 is damaged" in str(warning.message) for warning in caught)
        assert fell_back == (record["step"] == 10)
        noticed += [file.name] if fell_back else []
        shutil.rmtree(tmp_path / str(number))
    assert len(noticed) >= 3, noticed


def test_no_flipped_byte_of_the_record_passes_for_the_truth(manager):
    checkpoint.save(manager, 1, {"x": jnp.ones(3)}, metrics={"fid": 12.5}, metadata={"preset": "dcgan"})
    checkpoint.wait(manager)
    path = record_file(manager.directory, 1)
    content, record = path.read_bytes(), checkpoint.read_record(manager, 1)
    for position in range(len(content)):
        for bit in (1, 4, 32, 128):
            changed = bytearray(content)
            changed[position] ^= bit
            path.write_bytes(bytes(changed))
            try:
                assert checkpoint.read_record(manager, 1) == record
            except checkpoint.CheckpointDamaged as error:
                assert str(path) in str(error)


def test_several_damaged_steps_are_skipped_one_by_one(manager):
    save_steps(manager, 10, 20, 30)
    flip(data_file(manager, 30))
    delete(record_file(manager.directory, 20))
    with pytest.warns(UserWarning, match="damaged") as caught:
        _, record = checkpoint.restore(manager, make_state())
    assert record["step"] == 10
    messages = [str(warning.message) for warning in caught]
    assert "Trying step 20" in messages[0] and "20/record/metadata is missing" in messages[1]


def test_when_everything_is_damaged_the_error_lists_it_and_nothing_is_touched(manager):
    save_steps(manager, 10, 20)
    flip(data_file(manager, 10))
    empty(record_file(manager.directory, 20))
    with pytest.warns(UserWarning), pytest.raises(checkpoint.CheckpointDamaged) as error:
        checkpoint.restore(manager, make_state())
    assert "step 10 is damaged" in str(error.value) and "step 20 is damaged" in str(error.value)
    assert "not readable as JSON" in str(error.value)
    assert checkpoint.all_steps(manager) == [10, 20]


def deleting(monkeypatch, manager, *, saved=None):
    """The first read of a step finds it deleted by a training beside, which has saved another one, perhaps."""
    read, calls = reading._read_verified, []

    def read_late(directory, step, template):
        calls.append(step)
        if len(calls) == 1:
            if saved is not None:
                checkpoint.save(manager, saved, make_state(saved))
                checkpoint.wait(manager)
            shutil.rmtree(directory / str(step) / "state")  # half of it: Orbax deletes file by file
            if saved is None:
                shutil.rmtree(directory / str(step))
        return read(directory, step, template)

    monkeypatch.setattr(reading, "_read_verified", read_late)
    return calls


@pytest.mark.parametrize("saved", [3, None])
def test_a_step_that_is_deleted_while_it_is_read_is_no_damage(tmp_path, monkeypatch, saved):
    manager = checkpoint.open_checkpoints(tmp_path, keep_last=None)
    save_steps(manager, *([2] if saved else [1, 2]))
    calls = deleting(monkeypatch, manager, saved=saved)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, record = checkpoint.restore(tmp_path, make_state())
    assert record["step"] == (saved or 1) and calls == [2, saved or 1]
    checkpoint.close(manager)


def test_a_step_that_was_asked_for_and_is_deleted_meanwhile_is_not_there(tmp_path, monkeypatch):
    manager = checkpoint.open_checkpoints(tmp_path)
    save_steps(manager, 1, 2)
    deleting(monkeypatch, manager)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 2 in .*; available steps: \[1\]"):
        checkpoint.restore(tmp_path, make_state(), step=2)
    deleting(monkeypatch, manager)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        checkpoint.restore(tmp_path, make_state())
    checkpoint.close(manager)


@pytest.mark.parametrize("narrow, wide", [("float32", "float64"), ("int32", "int64"), ("uint32", "uint64")])
def test_a_state_of_the_other_precision_names_the_switch(manager, narrow, wide):
    def state(dtype):
        return {"step": np.zeros((), np.int8), "x": np.zeros(3, dtype)}

    checkpoint.save(manager, 1, state(narrow))
    message = rf"saved with jax_enable_x64 off, and it is on now: 1 of 2 .*\['x'\] \({narrow} there, {wide} here\)"
    with pytest.raises(checkpoint.CheckpointMismatch, match=message):
        checkpoint.restore(manager, state(wide))
    checkpoint.save(manager, 2, state(wide))
    with pytest.raises(checkpoint.CheckpointMismatch, match="with jax_enable_x64 on, and it is off now.*X64=1"):
        checkpoint.restore(manager, state(narrow))
    with pytest.raises(checkpoint.CheckpointMismatch, match="is of another model"):
        checkpoint.restore(manager, {"step": np.zeros((), np.int8), "x": np.zeros(4, narrow)})


def test_a_damaged_step_is_moved_aside_and_can_be_saved_again(manager):
    for attempt in (1, 2):
        save_steps(manager, *([10, 20] if attempt == 1 else [20]))
        flip(data_file(manager, 20))
        with pytest.warns(UserWarning, match="step 20 is damaged"):
            _, record = checkpoint.restore(manager, make_state())
        assert record["step"] == 10 and checkpoint.all_steps(manager) == [10]
        assert (manager.directory / f"20.damaged-{attempt}" / "state").is_dir()
    save_steps(manager, 20, 30)
    restored, record = checkpoint.restore(manager, make_state())
    assert record["step"] == 30
    assert_bitwise_equal(restored, make_state(30))
    reopened = checkpoint.open_checkpoints(manager.directory)
    assert list(reopened.all_steps()) == [10, 20, 30]
    checkpoint.close(reopened)


def test_a_reader_changes_nothing_in_the_directory(manager):
    save_steps(manager, 10, 20)
    flip(data_file(manager, 20))
    before = files_of(manager.directory)
    with pytest.warns(UserWarning, match="step 20 is damaged"):
        checkpoint.restore(str(manager.directory), make_state())
    assert files_of(manager.directory) == before


def test_a_step_whose_record_is_lost_is_replaced_by_a_new_save(manager):
    save_steps(manager, 10, 20)
    delete(record_file(manager.directory, 20))
    with pytest.warns(UserWarning, match="moved aside and saved anew"):
        assert checkpoint.save(manager, 20, make_state(20))
    restored, record = checkpoint.restore(manager, make_state())
    assert record["step"] == 20
    assert_bitwise_equal(restored, make_state(20))


def test_a_damaged_record_does_not_keep_the_directory_from_opening(tmp_path):
    for _ in range(2):
        manager = checkpoint.open_checkpoints(tmp_path, keep_last=1, best_metric="fid")
        step = (checkpoint.latest_step(manager) or 0) + 1
        checkpoint.save(manager, step, {"x": jnp.ones(3)}, metrics={"fid": 1.0})
        checkpoint.close(manager)
        empty(record_file(tmp_path, step))
    assert checkpoint.all_steps(tmp_path) == [2]


def test_a_directory_in_the_place_of_a_record_is_damage_that_names_it(manager):
    save_steps(manager, 10, 20)
    checkpoint.wait(manager)
    file = record_file(manager.directory, 20)
    file.unlink()
    file.mkdir()
    with pytest.warns(UserWarning, match=f"its record {re.escape(str(file))} is no file. Trying step 10"):
        assert checkpoint.restore(manager.directory, make_state())[1]["step"] == 10


def test_a_record_that_may_not_be_read_is_named_with_what_to_do(manager, monkeypatch):
    save_steps(manager, 10)
    checkpoint.wait(manager)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(records.json, "loads", refuse)
    with pytest.raises(PermissionError, match="could not read .*/10/record/metadata: permission denied: change its"):
        checkpoint.restore(manager.directory, make_state())


# ---------------------------------------------------------------------------------------------- killed, full, closed


def test_leftovers_of_a_killed_save_are_ignored_and_removed(tmp_path):
    manager = checkpoint.open_checkpoints(tmp_path)
    save_steps(manager, 10)
    checkpoint.close(manager)
    leftover = tmp_path / "20.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "10", leftover)
    assert checkpoint.all_steps(tmp_path) == [10]
    assert checkpoint.restore(tmp_path, make_state())[1]["step"] == 10
    manager = checkpoint.open_checkpoints(tmp_path)
    save_steps(manager, 20)
    checkpoint.close(manager)
    assert not leftover.exists() and checkpoint.all_steps(tmp_path) == [10, 20]


def run_python(program, *arguments, **options):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-u", "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_a_process_killed_while_saving_leaves_its_last_finished_checkpoint(tmp_path):
    program = """
        import sys, numpy as np
        from jaxgen import checkpoint
        manager = checkpoint.open_checkpoints(sys.argv[1], keep_last=2)
        first = (checkpoint.latest_step(manager) or 0) + 1
        for step in range(first, 10_000):
            checkpoint.save(manager, step, {"x": np.random.default_rng(step).random(4_000_000)})
            checkpoint.wait(manager)
            print(step)
    """
    delays = random.Random(0)
    for _ in range(4):
        child = run_python(program, tmp_path)
        finished = int(child.stdout.readline())
        time.sleep(delays.uniform(0.0, 0.4))
        child.send_signal(signal.SIGKILL)
        finished = max([finished, *map(int, child.communicate()[0].split())])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            restored, record = checkpoint.restore(tmp_path, {"x": np.empty(4_000_000)})
        # One more may have been renamed into place before it was announced.
        assert record["step"] in (finished, finished + 1)
        np.testing.assert_array_equal(restored["x"], np.random.default_rng(record["step"]).random(4_000_000))


def test_a_full_disk_is_named_and_the_earlier_checkpoint_restores(tmp_path):
    program = """
        import sys, resource, numpy as np
        from jaxgen import checkpoint
        manager = checkpoint.open_checkpoints(sys.argv[1])
        state = lambda step: {name: np.random.default_rng(step).random(400_000) for name in "xyz"}
        checkpoint.save(manager, 1, state(1))
        checkpoint.wait(manager)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        try:
            checkpoint.save(manager, 2, state(2))  # fails in the background
            checkpoint.save(manager, 3, state(3))
        except checkpoint.SaveFailed as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        checkpoint.save(manager, 4, state(4))  # the manager is still of use
        checkpoint.close(manager)
        print(checkpoint.restore(sys.argv[1], state(1))[1]["step"])
    """
    child = run_python(program, tmp_path)
    output, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    assert "Traceback" not in errors and "absl" not in errors, errors  # Orbax's and asyncio's, beside the sentence
    assert "step 2 could not be written" in output and str(tmp_path) in output and "free space" in output, output
    assert "Earlier checkpoints are untouched: steps [1]" in output
    assert output.splitlines()[-1] == "4"
    there = [name for name in os.listdir(tmp_path) if not name.endswith("-tmp")]  # Orbax removes those in its own time
    assert sorted(there) == ["1", "4"]


@pytest.fixture
def tiny_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True).returncode
    ):
        pytest.skip("mounting a file system of 2 MB needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_keeps_what_it_has_and_recovers_when_space_is_freed(tiny_disk):
    def state(step):
        return {"x": jax.random.normal(jax.random.key(step), (200_000,))}

    ballast = tiny_disk / "ballast"
    manager = checkpoint.open_checkpoints(tiny_disk / "checkpoints", keep_last=1)
    checkpoint.save(manager, 1, state(1))
    checkpoint.wait(manager)
    ballast.write_bytes(bytes(800_000))
    with pytest.raises(checkpoint.SaveFailed, match=r"step 2 could not be written to .*free space.*steps \[1\]"):
        checkpoint.save(manager, 2, state(2))
        checkpoint.wait(manager)
    assert_bitwise_equal(checkpoint.restore(manager, state(0))[0], state(1))
    ballast.unlink()
    assert checkpoint.save(manager, 2, state(2))
    checkpoint.close(manager)
    assert os.listdir(tiny_disk / "checkpoints") == ["2"]
    assert_bitwise_equal(checkpoint.restore(tiny_disk / "checkpoints", state(0))[0], state(2))


def test_a_failed_save_is_told_by_close_too_and_the_manager_is_closed(tmp_path, monkeypatch):
    manager = checkpoint.open_checkpoints(tmp_path)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manager, "wait_until_finished", fail)
    closed = []
    monkeypatch.setattr(manager, "close", lambda: closed.append(True))
    with pytest.raises(checkpoint.SaveFailed, match="No space left on device"):
        checkpoint.close(manager)
    assert closed == [True]


def test_a_directory_that_cannot_be_written_says_what_and_where(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(NotADirectoryError, match="cannot be written to .*file: it is a file. Choose"):
        checkpoint.open_checkpoints(file)
    with pytest.raises(NotADirectoryError, match="cannot be written to .*file/below"):
        checkpoint.open_checkpoints(file / "below")


def test_a_read_only_directory_can_be_read_and_says_so_when_opened_for_writing(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write to read-only directories")
    manager = checkpoint.open_checkpoints(tmp_path / "checkpoints")
    save_steps(manager, 1)
    checkpoint.close(manager)
    (tmp_path / "checkpoints").chmod(0o555)
    try:
        with pytest.raises(PermissionError, match="cannot be written to .*checkpoints"):
            checkpoint.open_checkpoints(tmp_path / "checkpoints")
        assert checkpoint.restore(tmp_path / "checkpoints", make_state())[1]["step"] == 1
    finally:
        (tmp_path / "checkpoints").chmod(0o755)


def test_a_read_only_disk_can_be_read_and_says_so_when_opened_for_writing(tiny_disk):
    manager = checkpoint.open_checkpoints(tiny_disk / "checkpoints")
    save_steps(manager, 1)
    checkpoint.close(manager)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(OSError, match="cannot be written to .*Read-only file system"):
        checkpoint.open_checkpoints(tiny_disk / "checkpoints")
    assert checkpoint.restore(tiny_disk / "checkpoints", make_state())[1]["step"] == 1


def test_importing_the_module_does_not_import_orbax():
    child = run_python("import sys, jaxgen.checkpoint; print('orbax.checkpoint' in sys.modules)")
    output, errors = child.communicate(timeout=60)
    assert output.strip() == "False", errors


def test_orbax_is_quiet(tmp_path, capfd):
    manager = checkpoint.open_checkpoints(tmp_path)
    save_steps(manager, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.restore(manager, make_state())
    checkpoint.close(manager)
    assert capfd.readouterr() == ("", "")


def test_the_record_is_plain_json_beside_the_state(manager):
    save_steps(manager, 1)
    record = json.loads(record_file(manager.directory, 1).read_text())
    assert set(record) == {"format", "jaxgen", "step", "leaves", "keys", "metrics", "metadata", "crc32"}
