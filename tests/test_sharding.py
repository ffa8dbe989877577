"""One device or eight, in three ways: the global view of `jit`, the per-device views of `pmap` and `shard_map`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen import classifier, gan, hosts, sharding, vae
from jaxgen.losses import adversarial, penalties
from jaxgen.models import cnn, conv_vae, dcgan, mlp

KEY = jax.random.key(11)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (16, 28, 28, 1)).astype(np.float32)
POINTS = RNG.normal(size=(16, 2)).astype(np.float32)

pytestmark = [
    pytest.mark.usefixtures("fast_compilation"),
    pytest.mark.skipif(jax.device_count() != 8, reason="needs the eight virtual devices of conftest.py"),
]


def jit_on_one_device(step, state, batch):
    return jax.jit(step)(state, batch, KEY)


def jit_on_mesh(step, state, batch):
    return sharding.jit_step(step, donate=False)(state, batch, KEY)


def pmap(step, state, batch):
    return sharding.pmap_step(step)(state, batch, KEY)


def shard_map(step, state, batch):
    per_device = jax.shard_map(
        step,
        mesh=sharding.make_mesh(),
        in_specs=(PartitionSpec(), PartitionSpec("data"), PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return jax.jit(per_device)(state, batch, KEY)


PER_DEVICE = [pmap, shard_map]


def finished(result):
    """Blocks: virtual devices that run ahead on few cores can wait for each other for ever in older JAX versions."""
    return jax.device_get(jax.block_until_ready(result))


def largest_difference(a, b):
    differences = jax.tree.map(lambda x, y: np.max(np.abs(np.asarray(x) - np.asarray(y)), initial=0), a, b)
    return max(float(d) for d in jax.tree.leaves(differences))


def assert_same(ours, reference):
    state, metrics = ours
    expected_state, expected_metrics = reference
    assert largest_difference(state, expected_state) < 1e-5
    assert metrics.keys() == expected_metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(value, expected_metrics[name], rtol=2e-4, atol=1e-5, err_msg=name)


# ------------------------------------------------------------------------------------------------------ 8 equal 1

OPTIMIZER = optax.sgd(0.1, momentum=0.9)
GAN = dict(generator_optimizer=OPTIMIZER, discriminator_optimizer=OPTIMIZER, latent_dim=4)
BATCH = {"image": IMAGES}


def dcgan_players(axis_name=None, batch_norm=True):
    return (
        dcgan.Generator(image_size=28, channels=1, features=4, axis_name=axis_name),
        dcgan.Discriminator(features=4, batch_norm=batch_norm, axis_name=axis_name),
    )


@functools.cache
def normalised_gan():
    """DCGAN with batch normalisation: (state, its reference on one device)."""
    state = gan.init(KEY, *dcgan_players(), **GAN)
    return state, finished(jit_on_one_device(gan.make_train_step(*dcgan_players(), **GAN), state, BATCH))


def test_dcgan_on_eight_devices_equals_one_in_the_global_view():
    state, reference = normalised_gan()
    assert_same(finished(jit_on_mesh(gan.make_train_step(*dcgan_players(), **GAN), state, BATCH)), reference)


@pytest.mark.parametrize("view", PER_DEVICE)
def test_dcgan_on_eight_devices_equals_one_in_the_per_device_view(view):
    state, reference = normalised_gan()
    step = gan.make_train_step(*dcgan_players("data"), **GAN, axis_name="data")
    assert_same(finished(view(step, state, BATCH)), reference)


@pytest.mark.slow
def test_without_synchronised_batch_norm_the_per_device_view_is_another_model():
    state, reference = normalised_gan()
    step = gan.make_train_step(*dcgan_players(), **GAN, axis_name="data")
    assert largest_difference(finished(pmap(step, state, BATCH))[0], reference[0]) > 1e-3


def penalties_for(axis_name=None):
    return [
        penalties.r1(1.0),
        penalties.r2(2.0),
        penalties.gradient_penalty(3.0, axis_name=axis_name),
        penalties.dragan(4.0, axis_name=axis_name),
    ]


@functools.cache
def penalised_gan():
    players = dcgan_players(batch_norm=False)
    state = gan.init(KEY, *players, **GAN)
    step = gan.make_train_step(*players, **GAN, penalties=penalties_for(), num_discriminator_steps=2)
    return state, step, finished(jit_on_one_device(step, state, BATCH))


@pytest.mark.slow
def test_penalties_and_discriminator_steps_on_eight_devices_equal_one_in_the_global_view():
    state, step, reference = penalised_gan()
    assert_same(finished(jit_on_mesh(step, state, BATCH)), reference)


@pytest.mark.slow
def test_penalties_and_discriminator_steps_on_eight_devices_equal_one_in_the_per_device_view():
    state, _, reference = penalised_gan()
    step = gan.make_train_step(
        *dcgan_players("data", batch_norm=False),
        **GAN,
        penalties=penalties_for("data"),
        num_discriminator_steps=2,
        axis_name="data",
    )
    assert_same(finished(pmap(step, state, BATCH)), reference)


@pytest.mark.slow
def test_a_random_penalty_without_the_axis_name_draws_the_same_on_every_device():
    factory = penalties.gradient_penalty
    players = mlp.Generator(widths=()), mlp.Discriminator(widths=(4,), activation=nn.tanh)
    batch = {"image": POINTS}
    state = gan.init(KEY, *players, **GAN)
    reference = finished(jit_on_one_device(gan.make_train_step(*players, **GAN, penalties=[factory()]), state, batch))
    for axis_name, same in (("data", True), (None, False)):
        step = gan.make_train_step(*players, **GAN, penalties=[factory(axis_name=axis_name)], axis_name="data")
        difference = largest_difference(finished(pmap(step, state, batch))[0], reference[0])
        assert difference < 1e-5 if same else difference > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("view", [jit_on_mesh, pmap])
def test_the_vae_on_eight_devices_equals_one(view):
    modules = conv_vae.Encoder(latent_dim=3, features=2), conv_vae.Decoder(features=2)
    # Free bits compare the mean over the global batch with the floor.
    options = dict(optimizer=OPTIMIZER, free_bits=1.8e-3, num_samples=2, ema_decay=0.9)
    batch = {"image": np.sign(IMAGES)}
    state, reference = vae_reference(modules, tuple(options.items()))
    axis_name = None if view is jit_on_mesh else "data"
    assert_same(finished(view(vae.make_train_step(*modules, **options, axis_name=axis_name), state, batch)), reference)


@functools.cache
def vae_reference(modules, options):
    options = dict(options)
    state = vae.init(KEY, *modules, optimizer=OPTIMIZER, image_shape=(28, 28, 1))
    step = vae.make_train_step(*modules, **options)
    batch = {"image": np.sign(IMAGES)}
    rates = jax.jit(vae.make_eval_step(*modules))(state.ema, batch, KEY)["kl_per_unit"].mean(0)
    assert min(rates) < options["free_bits"] < max(rates)  # the floor holds for some units
    return state, finished(jit_on_one_device(step, state, batch))


@pytest.mark.parametrize("view", [jit_on_mesh, pmap])
def test_the_classifier_on_eight_devices_equals_one(view):
    def model(dropout, axis_name=None):
        return cnn.CNN(num_classes=4, widths=(2, 3), num_features=5, dropout=dropout, axis_name=axis_name)

    # In the global view random augmentation and dropout agree too; in the per-device view devices draw for themselves.
    random = view is jit_on_mesh
    options = dict(optimizer=OPTIMIZER, ema_decay=0.9)
    if random:
        options["augment"] = lambda key, x: x + jax.random.normal(key, x.shape)
    dropout = 0.5 if random else 0.0
    batch = {"image": IMAGES, "label": np.arange(16, dtype=np.int32) % 4}
    state = classifier.init(KEY, model(dropout), optimizer=OPTIMIZER, image_shape=(28, 28, 1))
    step = classifier.make_train_step(model(dropout), **options)
    reference = finished(jit_on_one_device(step, state, batch))
    if view is pmap:
        step = classifier.make_train_step(model(dropout, "data"), **options, axis_name="data")
    assert_same(finished(view(step, state, batch)), reference)


class Dropping(nn.Module):
    """Shows by its running statistics how many of the global batch's entries were kept."""

    @nn.compact
    def __call__(self, x, *, train):
        kept = nn.Dropout(0.5, deterministic=not train)(jnp.ones((x.shape[0], 2)))
        rows = self.variable("seen", "mean", lambda: jnp.zeros(2))
        if train and not self.is_initializing():
            rows.value = jnp.mean(kept, axis=0)
        return nn.Dense(3)(kept) + 0 * x.reshape(x.shape[0], -1)[:, :3]


@pytest.mark.slow
def test_in_the_per_device_view_dropout_differs_from_device_to_device():
    # One image on each of 8 devices. Were the masks the same, every mean over devices would be 0 or 2.
    step = classifier.make_train_step(Dropping(), optimizer=OPTIMIZER, axis_name="data")
    state = classifier.init(KEY, Dropping(), optimizer=OPTIMIZER, image_shape=(2, 2, 1))
    batch = {"image": IMAGES[:8, :2, :2], "label": np.zeros(8, np.int32)}
    new, _ = finished(pmap(step, state, batch))
    assert not set(new.network.model_state["seen"]["mean"].tolist()) <= {0.0, 2.0}

    class Judge(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return Dropping()(x, train=train)[:, 0]

    players = mlp.Generator(features=4, widths=()), Judge()
    state = gan.init(KEY, *players, **GAN)
    step = gan.make_train_step(*players, **GAN, axis_name="data")
    new, _ = finished(pmap(step, state, {"image": IMAGES[:8, :2, :2].reshape(8, 4)}))
    assert not set(new.discriminator.model_state["seen"]["Dropping_0"]["mean"].tolist()) <= {0.0, 2.0}


# -------------------------------------------------------------------------------------------- what devices really do

MLP_PLAYERS = mlp.Generator(widths=(4,)), mlp.Discriminator(widths=(4,))


# Means first: nothing then brings real and fake images together row by row, from which XLA could guess a division.
MEANS = adversarial.AdversarialLoss(
    generator=lambda real_logits, fake_logits: -jnp.mean(fake_logits),
    discriminator=lambda real_logits, fake_logits: jnp.mean(fake_logits) - jnp.mean(real_logits),
)


def rows_per_device(**options):
    """How many real and fake images each device has in `jit_step`."""
    seen = []

    def spy(discriminator_fn, real, fake, key):
        for x in (real, fake):
            jax.debug.inspect_array_sharding(x, callback=lambda s, shape=x.shape: seen.append(s.shard_shape(shape)[0]))
        return 0.0

    step = gan.make_train_step(*MLP_PLAYERS, **GAN, loss=MEANS, penalties=[spy], **options)
    finished(jit_on_mesh(step, gan.init(KEY, *MLP_PLAYERS, **GAN), {"image": POINTS}))
    return seen


def test_each_device_generates_its_own_share_of_the_fake_images():
    assert set(rows_per_device()) == {2}  # of 16
    assert set(rows_per_device(num_discriminator_steps=2)) == {1}  # of 8 for each discriminator step


def test_latents_drawn_without_care_would_be_replicated(monkeypatch):
    monkeypatch.setattr(sharding, "draw", lambda sampler, key, shape, axis_name=None: sampler(key, shape))
    assert rows_per_device() == [2, 16]  # real images divided, fake ones all on every device


def test_the_noise_of_the_vae_is_divided_too(monkeypatch):
    seen, draw = [], sharding.draw

    def spy(*args, **options):
        x = draw(*args, **options)
        jax.debug.inspect_array_sharding(x, callback=lambda s: seen.append(s.shard_shape(x.shape)))
        return x

    modules = mlp.Encoder(latent_dim=3, widths=()), mlp.BernoulliDecoder(image_shape=(2, 2, 1), widths=())
    state = vae.init(KEY, *modules, optimizer=OPTIMIZER, image_shape=(2, 2, 1))
    monkeypatch.setattr(sharding, "draw", spy)
    step = vae.make_train_step(*modules, optimizer=OPTIMIZER, num_samples=5)
    finished(jit_on_mesh(step, state, {"image": IMAGES[:, :2, :2]}))
    assert seen == [(2, 5, 3)]


def test_drawing_in_the_per_device_view_gives_each_device_its_rows_of_the_same_numbers():
    everything = sharding.draw(jax.random.normal, KEY, (16, 3))
    np.testing.assert_array_equal(everything, jax.random.normal(KEY, (16, 3)))
    for axis_name in ("data", "i"):
        mine = functools.partial(sharding.draw, jax.random.normal, shape=(2, 3), axis_name=axis_name)
        rows = jax.pmap(lambda _, mine=mine: mine(KEY), axis_name)(np.zeros(8))
        # The last digit of a normal number depends on the program that it is drawn in.
        np.testing.assert_allclose(np.asarray(rows).reshape(16, 3), everything, rtol=1e-6)


@functools.cache
def small_gan():
    return gan.init(KEY, *MLP_PLAYERS, **GAN), gan.make_train_step(*MLP_PLAYERS, **GAN)


@pytest.mark.parametrize("num_devices", [1, 8])
def test_the_step_is_compiled_once_from_a_fresh_state_on(num_devices):
    traces = []
    state, step = small_gan()

    def counted(state, batch, key):
        traces.append(1)
        return step(state, batch, key)

    compiled = sharding.jit_step(counted, sharding.make_mesh(num_devices))
    for start in (state, jax.device_get(state)):  # from `init`, and from host memory
        for i in range(3):
            start, metrics = jax.block_until_ready(compiled(start, {"image": POINTS + i}, KEY))
    assert len(traces) == 1
    assert all(np.isfinite(m) for m in jax.tree.leaves(metrics))


def test_results_lie_on_every_device_and_the_old_state_is_given_up():
    state, step = small_gan()
    mesh = sharding.make_mesh()
    compiled = sharding.jit_step(step, mesh)
    first, _ = jax.block_until_ready(compiled(state, {"image": POINTS}, KEY))
    second, metrics = jax.block_until_ready(compiled(first, sharding.shard_batch(mesh, {"image": POINTS}), KEY))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))
    for leaf in jax.tree.leaves((second, metrics)):
        assert leaf.sharding == NamedSharding(mesh, PartitionSpec()) and len(leaf.addressable_shards) == 8


def test_a_part_of_the_devices_can_be_used():
    state, step = small_gan()
    reference = finished(jit_on_one_device(step, state, {"image": POINTS}))
    ours = sharding.jit_step(step, sharding.make_mesh(2), donate=False)(state, {"image": POINTS}, KEY)
    assert {d.id for leaf in jax.tree.leaves(ours) for d in leaf.devices()} == {0, 1}
    assert_same(finished(ours), reference)
    per_device = gan.make_train_step(*MLP_PLAYERS, **GAN, axis_name="i")
    assert_same(
        finished(sharding.pmap_step(per_device, axis_name="i", num_devices=4)(state, {"image": POINTS}, KEY)), reference
    )


def test_the_state_of_pmap_is_one_copy_that_goes_in_again():
    state, _ = small_gan()
    step = sharding.pmap_step(gan.make_train_step(*MLP_PLAYERS, **GAN, axis_name="data"))
    new, metrics = jax.block_until_ready(step(state, {"image": POINTS}, KEY))
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
    assert all(m.shape == () for m in metrics.values())
    again, _ = jax.block_until_ready(step(new, {"image": jnp.asarray(POINTS)}, KEY))
    assert int(again.step) == 2


# ---------------------------------------------------------------------------------------------- meshes and batches


def test_a_mesh_is_one_axis_over_the_devices_asked_for():
    assert dict(sharding.make_mesh().shape) == {"data": 8}
    mesh = sharding.make_mesh(3)
    assert dict(mesh.shape) == {"data": 3} and [d.id for d in mesh.devices] == [0, 1, 2]
    for number in (9, 0, -1):
        with pytest.raises(ValueError, match=f"{number} devices asked for, but this program sees 8"):
            sharding.make_mesh(number)


def test_batches_are_divided_by_rows_and_states_are_copied():
    mesh = sharding.make_mesh()
    batch = sharding.shard_batch(mesh, {"image": POINTS, "label": np.arange(8)})
    for i, shard in enumerate(batch["image"].addressable_shards):
        np.testing.assert_array_equal(shard.data, POINTS[2 * i : 2 * i + 2])
    assert [int(shard.data[0]) for shard in batch["label"].addressable_shards] == list(range(8))
    stack = sharding.shard_batch(mesh, POINTS.T, axis=1)
    assert stack.sharding.shard_shape(stack.shape) == (2, 2)

    original = {"x": jnp.arange(3.0)}
    copies = sharding.replicate(mesh, original)
    assert len(copies["x"].addressable_shards) == 8
    jax.jit(lambda x: jax.tree.map(lambda x: x + 1, x), donate_argnums=0)(copies)
    np.testing.assert_array_equal(original["x"], [0, 1, 2])


@pytest.mark.parametrize("num_devices, rows", [(8, 16), (8, 13), (3, 13), (1, 13), (8, 1)])
def test_what_every_host_has_is_divided_in_order_and_filled_up_with_the_last_row(num_devices, rows):
    mesh, points = sharding.make_mesh(num_devices), POINTS[:rows]
    global_points = sharding.divide(mesh, {"image": points})["image"]
    share, rest = divmod(len(global_points), num_devices)
    assert rest == 0 and len(global_points) - rows < num_devices
    assert {shard.data.shape[0] for shard in global_points.addressable_shards} == {share}
    np.testing.assert_array_equal(global_points[:rows], points)
    np.testing.assert_array_equal(global_points[rows:], np.repeat(points[-1:], len(global_points) - rows, axis=0))


@pytest.mark.parametrize("rows, share", [(16, 2), (13, 13), (4, 4)])
def test_an_array_is_divided_inside_where_the_devices_divide_its_rows(rows, share):
    seen = []

    def spy(points):
        points = sharding.divided(points)
        jax.debug.inspect_array_sharding(points, callback=lambda s: seen.append(s.shard_shape(points.shape)[0]))
        return 2 * points

    doubled = sharding.jit_global(spy, sharding.make_mesh(), batch_axes=(None,))(POINTS[:rows])
    assert seen == [share]
    np.testing.assert_array_equal(doubled, 2 * POINTS[:rows])
    np.testing.assert_array_equal(jax.jit(sharding.divided)(POINTS), POINTS)  # where there is no mesh


def test_what_is_replicated_is_taken_as_it_is_and_the_rest_is_copied_from_any_device():
    mesh = sharding.make_mesh()
    there = sharding.replicate(mesh, jnp.arange(3.0))
    elsewhere = jax.device_put(jnp.arange(3.0), jax.devices()[5])
    same, copy, number = sharding.as_replicated(mesh, (there, elsewhere, np.float32(2)))
    assert same is there
    assert copy.sharding == number.sharding == there.sharding
    np.testing.assert_array_equal(copy, [0, 1, 2])


def test_more_random_numbers_begin_with_the_same_ones():
    """Evaluation and sampling fill batches up for the devices, and promise the same numbers on any number of them."""
    for sampler in (jax.random.normal, jax.random.uniform, lambda key, shape: jax.random.bernoulli(key, 0.3, shape)):
        few, many = (np.asarray(sampler(KEY, (rows, 5, 3)), np.float32) for rows in (13, 16))
        np.testing.assert_allclose(many[:13], few, rtol=1e-6)


def test_a_batch_that_cannot_be_divided_evenly_is_refused_with_a_size_that_can():
    state, step = small_gan()
    message = "a batch of 12 images cannot be divided over 8 devices; use a multiple of 8, for example 16"
    with pytest.raises(ValueError, match=message):
        sharding.jit_step(step)(state, {"image": POINTS[:12]}, KEY)
    with pytest.raises(ValueError, match=message):
        sharding.pmap_step(step)(state, {"image": POINTS[:12]}, KEY)
    with pytest.raises(ValueError, match=message):
        sharding.shard_batch(sharding.make_mesh(), {"image": POINTS[:12]})


def test_images_out_of_range_are_refused_before_anything_is_compiled():
    traces = []

    def train_step(state, batch, key):
        traces.append(batch)
        return state, {"mean": jnp.mean(batch["image"])}

    step = sharding.jit_step(train_step)
    bytes_as_floats = np.full((8, 4, 4, 1), 255.0, np.float32)
    with pytest.raises(ValueError, match=r"x / 127.5 - 1"):
        step({"x": jnp.zeros(())}, {"image": bytes_as_floats}, KEY)
    with pytest.raises(ValueError, match="not finite"):
        step({"x": jnp.zeros(())}, {"image": bytes_as_floats * np.nan}, KEY)
    assert not traces
    _, metrics = step({"x": jnp.zeros(())}, {"image": bytes_as_floats / 127.5 - 1}, KEY)
    assert float(metrics["mean"]) == 1.0


def test_more_devices_than_there_are_are_refused_by_pmap_too():
    for number in (9, 0):
        with pytest.raises(ValueError, match=f"{number} devices asked for, but this host has 8"):
            sharding.pmap_step(lambda state, batch, key: (state, {}), num_devices=number)


# ------------------------------------------------------------------------------------------------------------ hosts


@pytest.fixture
def environment(monkeypatch):
    calls = []
    for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID", "TPU_WORKER_HOSTNAMES", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: calls.append((args, options)))

    def connect(**variables):
        calls.clear()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            hosts.initialize_hosts()
        return calls

    return connect


def test_one_host_needs_no_setting_up(environment):
    assert environment() == []
    assert environment(SLURM_NTASKS="1", TPU_WORKER_HOSTNAMES="localhost") == []


def test_hosts_are_found_by_jax_where_it_can_and_by_three_variables_elsewhere(environment):
    usual = {"heartbeat_timeout_seconds": 60}
    assert environment(SLURM_NTASKS="4") == [((), usual)]
    assert environment(TPU_WORKER_HOSTNAMES="a,b", JAXGEN_HOST_TIMEOUT="7") == [((), {"heartbeat_timeout_seconds": 7})]
    calls = environment(COORDINATOR_ADDRESS="a:1234", NUM_PROCESSES="2", PROCESS_ID="0")
    assert calls == [(("a:1234",), {"num_processes": 2, "process_id": 0} | usual)]


def test_half_a_set_of_variables_is_refused(environment):
    with pytest.raises(ValueError, match="missing: NUM_PROCESSES, PROCESS_ID"):
        environment(COORDINATOR_ADDRESS="a:1234")
    with pytest.raises(ValueError, match=r"whole numbers, not \['two', '0'\]"):
        environment(COORDINATOR_ADDRESS="a:1234", NUM_PROCESSES="two", PROCESS_ID="0")


@pytest.mark.parametrize("timeout", ["0", "soon", "-3", ""])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(environment, timeout):
    with pytest.raises(ValueError, match=f"JAXGEN_HOST_TIMEOUT is a whole number of seconds.*not '{timeout}'"):
        environment(JAXGEN_HOST_TIMEOUT=timeout, SLURM_NTASKS="4")
