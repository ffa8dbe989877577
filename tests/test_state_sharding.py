"""A state divided over eight virtual devices: the same numbers, an eighth of the memory, the same checkpoints."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxgen
from jaxgen import checkpoint, data, gan, gradients, memory, sharding, state_sharding, vae
from jaxgen.models import mlp
from jaxgen.rematerialisation import rematerialised
from jaxgen.state_sharding import by_largest_dimension, replicated

KEY = jax.random.key(11)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (16, 8, 8, 1)).astype(np.float32)

pytestmark = [
    pytest.mark.usefixtures("fast_compilation"),
    pytest.mark.skipif(jax.device_count() != 8, reason="needs the eight virtual devices of conftest.py"),
]

# ------------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    "shape, num_devices, dimension",
    [
        ((4, 4, 256, 128), 8, 2),
        ((4, 4, 128, 256), 8, 3),
        ((256, 256), 8, 1),
        ((513, 256), 8, 1),  # the largest one that they divide
        ((513, 255), 8, None),
        ((512, 512), 1, None),
        ((512, 512), 3, None),
        ((128, 127), 8, None),  # small
        ((128, 128), 8, 1),
        ((), 8, None),
        ((0, 2**20), 8, None),
    ],
)
def test_the_largest_dimension_that_the_devices_divide_is_shared(shape, num_devices, dimension):
    assert by_largest_dimension(shape, num_devices) == dimension


def test_random_keys_and_what_training_never_changes_stay_on_every_device():
    mesh = sharding.make_mesh()
    state = {"keys": jax.random.split(KEY, 2**14), "large": jnp.zeros((2**7, 2**8)), "number": 3}
    found = state_sharding.places(mesh, state, by_largest_dimension)
    assert found["large"].spec == PartitionSpec(None, "data")
    assert found["keys"].spec == found["number"].spec == PartitionSpec()
    with_frozen = gan.GANStateWithFrozen(step=None, generator=None, discriminator=None, ema=None, frozen=state["large"])
    assert state_sharding.places(mesh, with_frozen, by_largest_dimension).frozen.spec == PartitionSpec()


def test_elsewhere_than_in_a_step_whose_state_is_divided_nothing_is_gathered():
    arrays = {"large": jnp.zeros((2**7, 2**8))}
    assert state_sharding.gathered(arrays)["large"] is arrays["large"]
    with state_sharding.dividing(by_largest_dimension):
        assert state_sharding.gathered(arrays)["large"] is arrays["large"]  # on no mesh


# ------------------------------------------------------------------------------------------------------------- steps


def momentum(rate):
    return optax.sgd(rate, momentum=0.9)


@functools.cache
def a_gan(micro_batches=1):
    """(state, step, batch) with layers of 2^16 numbers."""
    players = mlp.Generator(features=64, widths=(256, 256)), mlp.Discriminator(widths=(256, 256))
    options = dict(generator_optimizer=momentum(0.1), discriminator_optimizer=momentum(0.1), latent_dim=64)
    step = gan.make_train_step(*players, **options, gradients=gradients.accumulated(micro_batches), ema_decay=0.9)
    return gan.init(KEY, *players, **options), step, {"image": IMAGES.reshape(16, 64)}


@functools.cache
def a_vae(micro_batches=1):
    modules = mlp.Encoder(latent_dim=64, widths=(256, 256)), mlp.BernoulliDecoder((8, 8, 1), widths=(256, 256))
    step = vae.make_train_step(
        *modules, optimizer=momentum(1e-3), gradients=gradients.accumulated(micro_batches), ema_decay=0.9
    )
    return vae.init(KEY, *modules, optimizer=momentum(1e-3), image_shape=(8, 8, 1)), step, {"image": np.sign(IMAGES)}


EACH = pytest.mark.parametrize("make", [a_gan, pytest.param(a_vae, marks=pytest.mark.slow)])


def compiled(make, rule, num_devices=8, **options):
    """The program of a step, for the state's shapes."""
    state, step, batch = make(**options)
    mesh = sharding.make_mesh(num_devices)
    run = sharding.jit_global(step, mesh, batch_axes=(None, 0, None), donate=(0,), state=state, state_rule=rule)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), batch)
    return run.lower(jax.eval_shape(lambda: state), shapes, KEY).compile()


def largest_difference(a, b):
    differences = jax.tree.map(lambda x, y: np.max(np.abs(np.asarray(x) - np.asarray(y)), initial=0), a, b)
    return max(float(d) for d in jax.tree.leaves(differences))


def after_two_steps(make, rule, num_devices=8, **options):
    state, step, batch = make(**options)
    run = sharding.jit_step(step, sharding.make_mesh(num_devices), donate=False, state_rule=rule)
    for _ in range(2):
        state, metrics = jax.block_until_ready(run(state, batch, KEY))
    return state, metrics


@EACH
def test_a_step_gives_the_same_numbers_wherever_its_state_lies(make):
    state, metrics = after_two_steps(make, by_largest_dimension)
    expected, expected_metrics = after_two_steps(make, replicated)
    assert largest_difference(state, expected) < 1e-5
    for name, value in metrics.items():
        np.testing.assert_allclose(value, expected_metrics[name], rtol=2e-4, atol=1e-5, err_msg=name)


@EACH
def test_the_new_state_lies_where_the_old_one_did_and_metrics_on_every_device(make):
    state, metrics = after_two_steps(make, by_largest_dimension)
    mesh = sharding.make_mesh()
    assert state_sharding.is_put(mesh, state, by_largest_dimension)
    assert not state_sharding.is_put(mesh, state, replicated)
    assert {x.sharding for x in metrics.values()} == {NamedSharding(mesh, PartitionSpec())}
    divided = [x for x in jax.tree.leaves(state) if not x.is_fully_replicated]
    assert divided and all(x.addressable_shards[0].data.size * 8 == x.size for x in divided)
    assert len(divided) == sum(x.size >= state_sharding.LEAST for x in jax.tree.leaves(state))


@EACH
def test_a_device_holds_an_eighth_of_the_state_and_its_share_of_the_batch(make):
    whole, part = compiled(make, replicated), compiled(make, by_largest_dimension)
    sizes = [program.memory_analysis() for program in (whole, part)]
    state, step, batch = make()
    mesh = sharding.make_mesh()
    told = [memory.of(state_sharding.parts(mesh, state, rule)) for rule in (replicated, by_largest_dimension)]
    assert told[0] / told[1] > 7.5
    assert sizes[0].output_size_in_bytes / sizes[1].output_size_in_bytes > 7.5
    key_and_batch = sizes[0].argument_size_in_bytes - told[0]
    assert sizes[1].argument_size_in_bytes == told[1] + key_and_batch
    # What a step needs beside its state: whole parameters, and nothing more; each device works on its own images.
    largest = max(x.nbytes for x in jax.tree.leaves(state))
    assert sizes[1].temp_size_in_bytes < sizes[0].temp_size_in_bytes + 4 * largest
    collectives = set(re.findall(r"(all-gather|all-to-all|collective-permute)(?:-start)?\(", part.as_text()))
    assert collectives == {"all-gather"}


@EACH
@pytest.mark.parametrize("form", [pytest.param("none", marks=pytest.mark.slow), "all"])
def test_slices_and_rematerialisation_go_with_a_divided_state(make, form):
    state, step, batch = make(micro_batches=2)
    expected, _ = after_two_steps(make, replicated, 1, micro_batches=2)
    run = sharding.jit_step(rematerialised(step, form), donate=False, state_rule=by_largest_dimension)
    for _ in range(2):
        state, metrics = jax.block_until_ready(run(state, batch, KEY))
    assert largest_difference(state, expected) < 1e-5
    assert state_sharding.is_put(sharding.make_mesh(), state, by_largest_dimension)


@pytest.mark.slow
@pytest.mark.parametrize("make", [a_gan, a_vae])
def test_one_two_four_and_eight_devices_give_the_same_numbers_wherever_the_state_lies(make):
    expected, _ = after_two_steps(make, replicated, 1)
    for num_devices in (2, 4, 8):
        for rule in (replicated, by_largest_dimension):
            state, _ = after_two_steps(make, rule, num_devices)
            assert largest_difference(state, expected) < 1e-5, (num_devices, rule)
            assert state_sharding.is_put(sharding.make_mesh(num_devices), state, rule)


# ------------------------------------------------------------------------------------------------------- checkpoints


def assert_equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def test_checkpoints_move_between_layouts_and_numbers_of_devices_to_the_bit(tmp_path):
    state = after_two_steps(a_vae, by_largest_dimension)[0]
    layouts = [(1, replicated), (8, by_largest_dimension), (4, by_largest_dimension), (8, replicated), (1, replicated)]
    there = state
    for i, (num_devices, rule) in enumerate(layouts):
        manager = checkpoint.open_checkpoints(tmp_path / str(i))
        checkpoint.save(manager, 2, there)
        checkpoint.close(manager)
        mesh = sharding.make_mesh(num_devices)
        there, record = checkpoint.restore(tmp_path / str(i), state_sharding.shapes(mesh, a_vae()[0], rule))
        assert state_sharding.is_put(mesh, there, rule)
        assert None not in [crc32 for _, _, crc32 in record["leaves"].values()]  # every leaf was verified
        assert_equal(there, state)
    alone, _ = checkpoint.restore(tmp_path / "1", jax.eval_shape(lambda: a_vae()[0]))  # as `jaxgen.load` reads it
    assert {len(x.devices()) for x in jax.tree.leaves(alone)} == {1}
    assert_equal(alone, state)


def test_what_no_process_holds_as_a_whole_is_verified_part_by_part(tmp_path, monkeypatch):
    mesh = sharding.make_mesh()
    state = state_sharding.put(mesh, {"large": jnp.arange(2.0**15).reshape(2**7, 2**8)}, by_largest_dimension)
    monkeypatch.setattr(checkpoint.writing, "host_copy", lambda leaf: None)  # as on several hosts
    manager = checkpoint.open_checkpoints(tmp_path)
    checkpoint.save(manager, 1, state)
    checkpoint.wait(manager)
    assert not checkpoint.save(manager, 1, state)  # the very same
    monkeypatch.undo()
    restored, record = checkpoint.restore(tmp_path, state)
    assert_equal(restored, state)
    parts = record["parts"]["['large']"]
    assert [bounds for bounds, _ in parts] == [[[0, 128], [32 * i, 32 * i + 32]] for i in range(8)]
    assert record["leaves"]["['large']"][2] is None
    read = checkpoint.reading.crc32
    monkeypatch.setattr(checkpoint.reading, "crc32", lambda part: read(part) ^ (part[0, 0] == 32 * 5))  # of the sixth
    with pytest.raises(checkpoint.CheckpointDamaged, match=r"1 of 1 leaves changed.*\['large'\]"):
        checkpoint.restore(tmp_path, state)
    checkpoint.close(manager)


# ---------------------------------------------------------------------------------------------------------- the loop

DIGITS = data.from_arrays("ones", np.sign(IMAGES))


def a_system():
    modules = mlp.Encoder(latent_dim=64, widths=(256, 256)), mlp.BernoulliDecoder((8, 8, 1), widths=(256, 256))
    return jaxgen.System(
        init=lambda key: vae.init(key, *modules, optimizer=momentum(1e-3), image_shape=(8, 8, 1)),
        train_step=a_vae()[1],
        images_per_step=16,
        draw=lambda variables, key, n: vae.sample(modules[1], variables, jax.random.normal(key, (n, 64))),
    )


def trained(directory, num_steps, rule, num_devices=8):
    options = dict(num_devices=num_devices, checkpoint_every=2, log_every=2, progress=False)
    return jaxgen.train(a_system(), DIGITS, directory, num_steps=num_steps, state_rule=rule, **options).state


@pytest.mark.slow
def test_a_run_whose_state_is_divided_resumes_to_the_bit_and_goes_on_and_draws_on_one_device(tmp_path):
    at_once = trained(tmp_path / "at once", 4, by_largest_dimension)
    assert state_sharding.is_put(sharding.make_mesh(), at_once, by_largest_dimension)
    trained(tmp_path / "twice", 2, by_largest_dimension)
    assert_equal(trained(tmp_path / "twice", 4, by_largest_dimension), at_once)
    run = jaxgen.load(tmp_path / "twice", system=a_system())
    assert {len(x.devices()) for x in jax.tree.leaves(run.state)} == {1}
    assert_equal(run.state, at_once)
    assert run.draw(KEY, 4).shape == (4, 8, 8, 1)


@pytest.mark.slow
def test_a_run_goes_on_with_its_state_elsewhere(tmp_path):
    expected = trained(tmp_path / "one", 6, replicated, 1)
    trained(tmp_path / "moving", 2, replicated, 1)
    trained(tmp_path / "moving", 4, by_largest_dimension, 8)
    state = trained(tmp_path / "moving", 6, by_largest_dimension, 4)
    assert largest_difference(state, expected) < 1e-5
    assert state_sharding.is_put(sharding.make_mesh(4), state, by_largest_dimension)
