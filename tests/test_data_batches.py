import contextlib
import functools
import itertools
import textwrap
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import data


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("jaxgen-prefetch")]


def test_an_epoch_order_is_a_permutation_that_depends_on_seed_and_epoch():
    orders = [data.epoch_permutation(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert order.dtype == np.int32
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    for a, b in itertools.combinations(orders, 2):
        assert (a != b).mean() > 0.9


def test_the_order_is_frozen_across_numpy_versions():
    np.testing.assert_array_equal(data.epoch_permutation(0, 0, 8), FROZEN_0_0_8)
    np.testing.assert_array_equal(data.epoch_permutation(7, 3, 8), FROZEN_7_3_8)


FROZEN_0_0_8 = [6, 3, 5, 0, 7, 2, 1, 4]
FROZEN_7_3_8 = [4, 2, 7, 0, 5, 3, 1, 6]


@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 3), (10, 10), (3, 10), (1, 4), (7, 5)])
def test_every_example_comes_exactly_once_per_epoch(num_examples, batch_size):
    batches = [
        data.batch_indices(step, batch_size=batch_size, num_examples=num_examples, seed=5)
        for step in range(2 * num_examples)
    ]
    assert all(batch.shape == (batch_size,) and batch.dtype == np.int32 for batch in batches)
    stream = np.concatenate(batches)
    for epoch in stream[: len(stream) // num_examples * num_examples].reshape(-1, num_examples):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_examples))


def test_the_batch_of_a_step_does_not_depend_on_what_was_read_before():
    indices = functools.partial(data.batch_indices, batch_size=32, num_examples=100, seed=1)
    walked = [indices(step) for step in range(40)]
    data.epoch_permutation.cache_clear()
    for step in (39, 3, 17):
        np.testing.assert_array_equal(indices(step), walked[step])


def test_wrong_steps_sizes_and_seeds_are_refused():
    with pytest.raises(ValueError, match="negative"):
        data.epoch_permutation(-1, 0, 10)
    with pytest.raises(ValueError, match="num_examples"):
        data.epoch_permutation(0, 0, 0)
    with pytest.raises(ValueError, match="batch_size"):
        data.batch_indices(0, batch_size=0, num_examples=10, seed=0)
    with pytest.raises(ValueError, match="step"):
        data.batch_indices(-1, batch_size=1, num_examples=10, seed=0)


def test_the_slices_of_all_processes_make_up_the_global_batch():
    indices = data.batch_indices(3, batch_size=12, num_examples=50, seed=0)
    parts = [data.process_slice(indices, p, 4) for p in range(4)]
    assert [len(part) for part in parts] == [3] * 4
    np.testing.assert_array_equal(np.concatenate(parts), indices)


def test_a_batch_that_processes_cannot_share_equally_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        data.process_slice(np.arange(10), 0, 4)
    with pytest.raises(ValueError, match="process_index 4"):
        data.process_slice(np.arange(8), 4, 4)


def test_prefetched_batches_come_in_the_order_of_steps_from_any_start():
    def fetch(indices):
        time.sleep(0.002 * (indices[0] % 3))  # later steps often finish first
        return {"step": indices}

    with contextlib.closing(data.prefetch(fetch, lambda step: np.array([step]), 7, depth=6, num_threads=4)) as batches:
        assert [int(raw["step"][0]) for raw in itertools.islice(batches, 30)] == list(range(7, 37))


def test_a_bounded_prefetch_reads_no_step_beyond_its_end():
    seen = []
    batches = data.prefetch(lambda i: {"i": i}, lambda step: seen.append(step) or step, 2, stop_step=5, depth=8)
    assert [raw["i"] for raw in batches] == [2, 3, 4]
    assert sorted(seen) == [2, 3, 4]
    assert not prefetch_threads()


def test_prefetching_resumed_in_the_middle_equals_the_uninterrupted_one():
    dataset = data.from_arrays("x", np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1))
    indices = functools.partial(data.batch_indices, batch_size=8, num_examples=50, seed=2)
    whole = [raw["image"] for raw in data.prefetch(dataset.fetch, indices, stop_step=20)]
    rest = [raw["image"] for raw in data.prefetch(dataset.fetch, indices, 11, stop_step=20)]
    np.testing.assert_array_equal(whole[11:], rest)


def test_threads_read_ahead_while_the_caller_works():
    def fetch(indices):
        time.sleep(0.05)
        return indices

    start = time.perf_counter()
    assert len(list(data.prefetch(fetch, lambda step: step, stop_step=16, depth=8, num_threads=8))) == 16
    assert time.perf_counter() - start < 0.5  # one after the other: 0.8 s


def test_prefetch_holds_no_more_than_its_depth_ahead():
    started = []
    batches = data.prefetch(lambda i: started.append(i), lambda step: step, depth=3, num_threads=3)
    with contextlib.closing(batches):
        next(batches)
        time.sleep(0.05)
        assert sorted(started) == [0, 1, 2, 3]


def test_a_worker_error_is_raised_at_the_step_that_it_belongs_to():
    def fetch(indices):
        if indices == 3:
            raise OSError("disk on fire")
        return indices

    batches = data.prefetch(fetch, lambda step: step, depth=8, num_threads=4)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="disk on fire") as caught:
        next(batches)
    assert "step 3" in caught.value.__notes__[0]
    assert not prefetch_threads()


def test_closing_ends_the_threads_and_cancels_what_has_not_begun():
    started = []

    def fetch(indices):
        started.append(indices)
        time.sleep(0.02)
        return indices

    batches = data.prefetch(fetch, lambda step: step, depth=100, num_threads=2)
    next(batches)
    assert prefetch_threads()
    batches.close()
    assert not prefetch_threads()
    assert len(started) < 10


def test_a_prefetch_without_depth_or_threads_is_refused_at_once():
    with pytest.raises(ValueError, match="depth"):
        data.prefetch(lambda i: i, lambda s: s, depth=0)
    with pytest.raises(ValueError, match="num_threads"):
        data.prefetch(lambda i: i, lambda s: s, num_threads=0)


@pytest.mark.parametrize(("num_examples", "batch_size", "valid"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 5, [3])])
def test_sequential_batches_cover_every_example_once_and_pad_the_last(num_examples, batch_size, valid):
    dataset = data.from_arrays("x", np.arange(num_examples, dtype=np.uint8).reshape(-1, 1, 1, 1))
    batches = list(data.sequential_batches(dataset, batch_size))
    assert [num_valid for _, num_valid in batches] == valid
    assert all(len(raw["image"]) == batch_size for raw, _ in batches)
    rows = np.concatenate([raw["image"][:num_valid].ravel() for raw, num_valid in batches])
    np.testing.assert_array_equal(rows, np.arange(num_examples))
    last, num_valid = batches[-1]
    assert (last["image"][num_valid:] == num_examples - 1).all()


def test_leaving_sequential_batches_early_leaves_no_threads():
    dataset = data.from_arrays("x", np.zeros((10, 1, 1, 1), np.uint8))
    batches = data.sequential_batches(dataset, 2)
    next(batches)
    batches.close()
    assert not prefetch_threads()
    with pytest.raises(ValueError, match="batch_size"):
        data.sequential_batches(dataset, 0)


def test_the_batch_of_a_step_is_the_rows_of_that_step_prepared_with_a_key_of_its_own():
    dataset = data.mnist("test", binarise=data.binarisation.dynamic)
    key = jax.random.key(3)
    batch = data.batch(dataset, 7, batch_size=16, seed=5, key=key)
    rows = data.batch_indices(7, batch_size=16, num_examples=10_000, seed=5)
    expected = dataset.prepare(dataset.fetch(rows), jax.random.fold_in(key, 7))
    for name in ("image", "label"):
        np.testing.assert_array_equal(batch[name], expected[name])
    assert set(np.unique(batch["image"])) == {-1.0, 1.0}
    data.check_batch(batch, image_shape=(28, 28, 1))


def test_a_step_inside_of_jit_or_scan_or_vmap_is_refused_with_the_way_to_do_it():
    dataset = data.from_arrays("pixels", np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1))
    key = jax.random.key(0)

    def batch(step):
        return data.batch(dataset, step, batch_size=4, seed=0, key=key)["image"]

    traces = {
        "jit": lambda: jax.jit(batch)(0),
        "scan": lambda: jax.lax.scan(lambda carry, i: (carry, batch(i)), 0, jnp.arange(3)),
        "vmap": lambda: jax.vmap(batch)(jnp.arange(3)),
    }
    for trace in traces.values():
        with pytest.raises(
            TypeError, match="batch_indices of all steps beforehand, .* dataset.gather and dataset.prepare"
        ):
            trace()
    with pytest.raises(TypeError, match="the seed of the order must be a whole number such as 0, not a key"):
        data.batch(dataset, 0, batch_size=4, seed=key, key=key)
    with pytest.raises(TypeError, match=r"key must be a random key, not a seed: write jax\.random\.key\(0\)"):
        data.batch(dataset, 0, batch_size=4, seed=0, key=0)


def test_the_recipe_for_a_scan_in_the_docstring_gives_the_batches_of_the_host_to_the_bit():
    """What the docstring shows is run as it stands, with a step that keeps what it sees."""
    image = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1)).astype(np.uint8)
    dataset = data.from_arrays(
        "digits",
        image,
        np.arange(50) % 10,
        prepare=lambda raw, key: {
            **data.prepare_default(raw),
            "binary": data.binarisation.dynamic(data.to_unit_range(raw["image"]), key),
        },
    )
    recipe = textwrap.dedent(data.batch.__doc__.split("on the device:\n")[1].split("    Args:")[0])
    scope = {
        **{"jax": jax, "np": np, "data": data, "dataset": dataset, "n": 50, "key": jax.random.key(3)},
        **{"state": jnp.zeros((), jnp.int32), "train_step": lambda state, batch, key: (state + 1, batch)},
    }
    exec(recipe, scope)
    assert int(scope["state"]) == 100
    for i in (0, 7, 99):
        expected = data.batch(dataset, i, batch_size=64, seed=0, key=jax.random.key(3))
        for name, value in expected.items():
            np.testing.assert_array_equal(scope["metrics"][name][i], value)
