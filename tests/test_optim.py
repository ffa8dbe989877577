import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxgen import optim

PARAMS = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[0.5]])}
GRADIENTS = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}  # of norm 5

pytestmark = pytest.mark.usefixtures("fast_compilation")


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def updates_of(transformation, gradients=GRADIENTS):
    return transformation.update(gradients, transformation.init(PARAMS), PARAMS)


def test_a_gradient_within_the_norm_passes_bit_for_bit():
    for max_norm in (5.0, 5.1, jnp.inf):  # the norm itself is not clipped
        updates, state = updates_of(optim.clip_by_global_norm(max_norm))
        equal(updates, GRADIENTS)
        assert float(state.clipped) == 0


def test_a_gradient_beyond_the_norm_keeps_its_direction():
    updates, state = updates_of(optim.clip_by_global_norm(2.0))
    equal(updates, {"a": jnp.array([3.0, 0.0]) * 0.4, "b": jnp.array([[4.0]]) * 0.4})
    assert float(optax.tree.norm(updates)) == pytest.approx(2)
    assert float(state.clipped) == 1


@pytest.mark.parametrize("max_norm", [0.1, 4.9, 6.0])
def test_clipping_equals_that_of_optax(max_norm):
    ours, _ = updates_of(optim.clip_by_global_norm(max_norm))
    theirs, _ = updates_of(optax.clip_by_global_norm(max_norm))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_clipping_does_not_hide_a_gradient_that_is_not_finite(bad):
    updates, _ = updates_of(optim.clip_by_global_norm(1.0), GRADIENTS | {"b": jnp.array([[bad]])})
    assert all(np.isnan(u).all() for u in jax.tree.leaves(updates))


def test_clipping_of_nothing_is_nothing():
    updates, state = updates_of(optim.clip_by_global_norm(1.0), jax.tree.map(jnp.zeros_like, GRADIENTS))
    assert all((u == 0).all() for u in jax.tree.leaves(updates))
    assert float(state.clipped) == 0


def test_clip_norms_can_be_swept_by_vmap():
    def clipped_norm(max_norm):
        updates, state = updates_of(optim.clip_by_global_norm(max_norm))
        return optax.tree.norm(updates), state.clipped

    norms, clipped = jax.vmap(clipped_norm)(jnp.array([1.0, 4.0, 7.0]))
    np.testing.assert_allclose(norms, [1, 4, 5], rtol=1e-6)
    np.testing.assert_array_equal(clipped, [1, 1, 0])


def test_clipping_keeps_half_precision_half():
    gradients = jax.tree.map(lambda g: g.astype(jnp.bfloat16), GRADIENTS)
    updates, _ = updates_of(optim.clip_by_global_norm(1.0), gradients)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("double", [False, True])
def test_states_keep_their_types_so_that_steps_can_be_scanned(double):
    jax.config.update("jax_enable_x64", double)
    try:
        params = jnp.ones(3)
        gradients = jnp.array([[1.0, 2.0, 3.0], [jnp.nan] * 3, [0.1, 0.1, 0.1]])
        clip = optim.clip_by_global_norm(1.0)
        for tx in (clip, optim.skip_large_updates(optax.chain(clip, optax.adam(0.1)))):
            _, all_updates = lax.scan(
                lambda state, g, tx=tx: tx.update(g, state, params)[::-1], tx.init(params), gradients
            )
            assert all_updates.dtype == gradients.dtype
    finally:
        jax.config.update("jax_enable_x64", False)


def train(tx, all_gradients):
    params, state = PARAMS, tx.init(PARAMS)
    step = jax.jit(tx.update)
    for gradients in all_gradients:
        updates, state = step(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize(
    "bad", [jnp.nan, jnp.inf, 5.0, 4.0], ids=["NaN", "infinity", "over the threshold", "at the threshold"]
)
def test_a_skipped_update_leaves_parameters_and_optimiser_as_they_were_bit_for_bit(bad):
    tx = optim.skip_large_updates(optax.adam(0.1), max_norm=5.0)  # 4 makes the norm 5
    good = jax.tree.map(lambda g: 0.1 * g, GRADIENTS)
    before, before_state = train(tx, [good, good])
    after, after_state = train(tx, [good, good, GRADIENTS | {"b": jnp.array([[bad]])}])
    equal(after, before)
    equal(after_state.inner, before_state.inner)
    assert (float(before_state.skipped), int(before_state.num_skipped)) == (0, 0)
    assert (float(after_state.skipped), int(after_state.num_skipped)) == (1, 1)


def test_no_more_than_so_many_large_updates_in_a_row_are_skipped_so_that_a_threshold_stops_no_training():
    tx = optim.skip_large_updates(optim.clip_by_global_norm(1.0), max_norm=5.0, most_in_a_row=2)
    state, norms = tx.init(PARAMS), []
    for scale in (1.0, 1.0, 1.0, 1.0, 0.1, 1.0, 1.0, 1.0):  # norms of 5, and one of 0.5
        updates, state = tx.update(jax.tree.map(lambda g, scale=scale: scale * g, GRADIENTS), state, PARAMS)
        norms.append(float(optax.tree.norm(updates)))
    np.testing.assert_allclose(norms, [0, 0, 1, 0, 0.5, 0, 0, 1], rtol=1e-6)
    assert int(state.num_skipped) == 5


def test_a_gradient_that_is_not_finite_is_skipped_however_many_were():
    tx = optim.skip_large_updates(optax.sgd(1.0), max_norm=5.0, most_in_a_row=1)
    bad = jax.tree.map(lambda g: g * jnp.nan, GRADIENTS)
    params, state = train(tx, [bad, bad, bad])
    equal(params, PARAMS)
    params, _ = train(tx, [bad, bad, GRADIENTS])  # a large one after them is done
    equal(params, optax.apply_updates(PARAMS, jax.tree.map(jnp.negative, GRADIENTS)))
    with pytest.raises(ValueError, match="most_in_a_row must be at least 1, not 0"):
        optim.skip_large_updates(optax.sgd(1.0), most_in_a_row=0)


def test_after_a_skipped_update_training_goes_on_as_if_it_had_not_been():
    tx = optim.skip_large_updates(optax.adam(0.1))
    bad = jax.tree.map(lambda g: g * jnp.nan, GRADIENTS)
    params, state = train(tx, [GRADIENTS, bad, bad, GRADIENTS])
    expected, expected_state = train(optax.adam(0.1), [GRADIENTS, GRADIENTS])
    equal(params, expected)
    equal(state.inner, expected_state)
    assert (float(state.skipped), int(state.num_skipped)) == (0, 2)


def test_without_a_threshold_only_gradients_that_are_not_finite_are_skipped():
    tx = optim.skip_large_updates(optax.sgd(1.0))
    updates, _ = updates_of(tx, jax.tree.map(lambda g: g * 1e15, GRADIENTS))
    assert float(optax.tree.norm(updates)) == pytest.approx(5e15)


def test_skipping_looks_at_the_norm_before_the_clip_inside():
    clip = optim.clip_by_global_norm(1.0)
    _, state = updates_of(optim.skip_large_updates(optax.chain(clip, optax.sgd(1.0)), max_norm=4.0))
    assert float(state.skipped) == 1
    _, state = updates_of(optim.skip_large_updates(optax.chain(clip, optax.sgd(1.0)), max_norm=6.0))
    assert float(state.skipped) == 0
    assert float(optim.update_flags(state)["clipped"]) == 1


def test_flags_are_found_wherever_the_transformation_stands():
    clip, skip = optim.clip_by_global_norm(1.0), optim.skip_large_updates

    def flags(tx):
        return {name: float(flag) for name, flag in optim.update_flags(updates_of(tx)[1]).items()}

    assert flags(optax.adam(0.1)) == {}
    assert flags(optax.chain(clip, optax.adam(0.1))) == {"clipped": 1}
    assert flags(skip(optax.adam(0.1))) == {"skipped": 0}
    assert flags(optax.chain(optax.chain(clip, optax.identity()), skip(optax.sgd(0.1)))) == {"clipped": 1, "skipped": 0}
    assert flags(skip(optax.chain(clip, optax.sgd(0.1)))) == {"clipped": 1, "skipped": 0}
    by_name = optax.multi_transform(
        {"a": clip, "b": optim.clip_by_global_norm(100.0)}, {"a": "a", "b": "b"}
    )  # one of two clips
    assert flags(by_name) == {"clipped": 1}
    with_rate = optax.inject_hyperparams(lambda rate: optax.chain(clip, optax.sgd(rate)))(rate=0.1)
    assert flags(with_rate) == {"clipped": 1}


def test_a_skipped_update_does_not_report_the_clip_of_the_update_before():
    tx = optim.skip_large_updates(optax.chain(optim.clip_by_global_norm(1.0), optax.sgd(1.0)))
    _, state = train(tx, [GRADIENTS, jax.tree.map(lambda g: g * jnp.nan, GRADIENTS)])
    assert {name: float(flag) for name, flag in optim.update_flags(state).items()} == {"skipped": 1, "clipped": 0}


def test_what_comes_with_a_skipped_update_is_kept_too():
    old, new = {"x": jnp.array([1.0, 2.0])}, {"x": jnp.array([jnp.nan, 3.0])}
    equal(optim.keep_if_skipped({"skipped": jnp.array(1.0)}, old, new), old)
    equal(optim.keep_if_skipped({"skipped": jnp.array(0.0)}, old, new), new)
    assert optim.keep_if_skipped({"clipped": jnp.array(1.0)}, old, new) is new


def gradients_like(scale):
    return jax.tree.map(lambda g: scale * g, GRADIENTS)


def test_what_starts_late_neither_moves_nor_ages_before_it_starts():
    late = optim.starting_at(3, optax.adam(0.1))
    waited, state = train(late, [gradients_like(s) for s in (1.0, 5.0, 0.0)])
    equal(waited, PARAMS)
    equal(state.inner, optax.adam(0.1).init(PARAMS))
    assert int(state.step) == 3 and state.step.dtype == jnp.int32
    rest = [gradients_like(s) for s in (0.5, 2.0)]
    started, state = train(late, [GRADIENTS] * 3 + rest)
    expected, expected_state = train(optax.adam(0.1), rest)  # as if the first three had not been
    equal(started, expected)
    equal(state.inner, expected_state)


def test_weight_zero_instead_of_a_late_start_makes_the_first_update_ten_times_the_rate():
    adam = optax.adam(0.1, b1=0.0, b2=0.99)

    def first_update(tx):
        zeros = jax.tree.map(jnp.zeros_like, GRADIENTS)
        state, _ = lax.scan(lambda state, _: (tx.update(zeros, state, PARAMS)[1], None), tx.init(PARAMS), None, 5000)
        return float(tx.update(GRADIENTS, state, PARAMS)[0]["b"][0, 0])

    assert first_update(adam) == pytest.approx(-1.0, rel=1e-3)
    assert first_update(optim.starting_at(5000, adam)) == pytest.approx(-0.1, rel=1e-3)


def test_a_bad_gradient_before_the_start_does_no_harm_and_starts_can_be_swept_by_vmap():
    bad = jax.tree.map(lambda g: g * jnp.nan, GRADIENTS)

    def run(start):
        tx = optim.starting_at(start, optax.sgd(1.0, momentum=0.9))
        params, state = PARAMS, tx.init(PARAMS)
        for gradients in (bad, GRADIENTS, GRADIENTS):
            updates, state = tx.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        return params["b"][0, 0]

    np.testing.assert_allclose(jax.vmap(run)(jnp.array([1, 2, 3])), [0.5 - 4 - 4 * 1.9, 0.5 - 4, 0.5], rtol=1e-6)


def test_flags_of_what_waits_are_those_of_its_last_own_update():
    late = optim.starting_at(1, optax.chain(optim.clip_by_global_norm(1.0), optax.sgd(1.0)))
    state = late.init(PARAMS)
    for expected in (0, 1):
        _, state = late.update(GRADIENTS, state, PARAMS)
        assert {name: float(flag) for name, flag in optim.update_flags(state).items()} == {"clipped": expected}


def test_recording_moves_nothing_and_keeps_the_gradient_it_was_given():
    params, state = train(optim.recording(), [gradients_like(2.0), GRADIENTS])
    equal(params, PARAMS)
    equal(state.gradient, GRADIENTS)
    _, clipped = train(optax.chain(optim.clip_by_global_norm(2.5), optim.recording()), [GRADIENTS])
    equal(clipped[1].gradient, gradients_like(0.5))  # what comes before it in a chain counts
