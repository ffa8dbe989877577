"""Two coupled games between two domains: the step against its objective by hand, its symmetry, its pools."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import cycle, gradients, optim, sharding
from jaxgen.losses import adversarial

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY, RNG = jax.random.key(0), np.random.default_rng(0)
SGD = {"generator_optimizer": optax.sgd(0.1), "discriminator_optimizer": optax.sgd(0.1)}
RECORDING = dict.fromkeys(SGD, optim.recording())


class Mixed(nn.Module):
    """Each pixel's channels mixed by a matrix: x W."""

    noise: float = 0.0

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(x.shape[-1], use_bias=False, name="mix")(x)
        return nn.Dropout(self.noise, deterministic=not train)(x)


class Patches(nn.Module):
    """A logit of each pixel, and what batch normalisation does with a name for the axis."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(jnp.tanh(nn.Dense(4)(x)))[..., 0]


class Same(nn.Module):
    """x itself."""

    @nn.compact
    def __call__(self, x, *, train):
        return x + self.param("zero", nn.initializers.zeros, ())


MODULES = (Mixed(), Mixed(), Patches(), Patches())
BATCH = {name: jnp.asarray(RNG.uniform(-1, 1, (8, 2, 2, 3)), jnp.float32) for name in ("source", "image")}


def first(modules=MODULES, optimizers=SGD, **settings):
    return cycle.init(KEY, *modules, **optimizers, image_shape=(2, 2, 3), **settings)


def with_matrices(state, to_image, to_source):
    params = {"to_image": {"mix": {"kernel": to_image}}, "to_source": {"mix": {"kernel": to_source}}}
    return state.replace(generators=state.generators.replace(params=jax.tree.map(jnp.asarray, params)))


def close(found, expected, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol), found, expected)


# The objective --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_both_sides_move_along_the_gradients_of_their_objectives_at_where_they_stand():
    weights = {"adversarial_weight": 2.0, "cycle_weight": 7.0, "identity_weight": 0.3}
    state = first(optimizers=RECORDING)
    after, metrics = jax.jit(cycle.make_train_step(*MODULES, **RECORDING, **weights))(state, BATCH, KEY)
    s, x = BATCH["source"], BATCH["image"]

    def run(params, name, x):
        module = MODULES[0] if name.startswith("to_") else MODULES[2]
        return module.apply({"params": params[name]}, x, train=True)

    def generators(g, d):
        def l1(a, b):
            return jnp.mean(jnp.abs(a - b))

        fake_x, fake_s = run(g, "to_image", s), run(g, "to_source", x)
        fooled = jnp.mean((run(d, "of_image", fake_x) - 1) ** 2) + jnp.mean((run(d, "of_source", fake_s) - 1) ** 2)
        cycled = l1(run(g, "to_source", fake_x), s) + l1(run(g, "to_image", fake_s), x)
        same = l1(run(g, "to_image", x), x) + l1(run(g, "to_source", s), s)
        return fooled + 7.0 * cycled + 7.0 * 0.3 * same

    def discriminators(d, g):  # halved
        fakes = {"image": run(g, "to_image", s), "source": run(g, "to_source", x)}
        of = [(run(d, f"of_{n}", BATCH[n]), run(d, f"of_{n}", fake)) for n, fake in fakes.items()]
        return sum(0.5 * jnp.mean((real - 1) ** 2) + 0.5 * jnp.mean(fake**2) for real, fake in of)

    g, d = state.generators.params, state.discriminators.params
    value, gradient = jax.value_and_grad(generators)(g, d)
    close(after.generators.opt_state.gradient, gradient)
    assert float(metrics["generators/loss"]) == pytest.approx(float(value), rel=1e-5)
    value, gradient = jax.value_and_grad(discriminators)(d, g)  # the pool shows its first images as they come
    close(after.discriminators.opt_state.gradient, gradient)
    assert float(metrics["discriminators/loss"]) == pytest.approx(float(value), rel=1e-5)
    assert int(after.step) == 1 and set(after.ema) == set(cycle.GENERATORS)


def test_generators_that_change_nothing_have_no_error_of_cycle_or_identity():
    modules = (Same(), Same(), Patches(), Patches())
    _, metrics = jax.jit(cycle.make_train_step(*modules, **SGD))(first(modules), BATCH, KEY)
    for name in ("cycle/source", "cycle/image", "to_image/identity", "to_source/identity", "to_image/change"):
        assert float(metrics[name]) == 0
    drift = BATCH["source"].mean((0, 1, 2)) - BATCH["image"].mean((0, 1, 2))
    found = [float(metrics[f"to_image/drift_{colour}"]) for colour in ("red", "green", "blue")]
    np.testing.assert_allclose(found, drift, atol=1e-6)


@pytest.mark.slow
def test_an_orthogonal_matrix_and_its_transpose_undo_each_other_and_change_what_they_are_given():
    q = np.linalg.qr(RNG.normal(size=(3, 3)))[0].astype(np.float32)
    state = with_matrices(first(), q, q.T)
    _, metrics = jax.jit(cycle.make_train_step(*MODULES, **SGD))(state, BATCH, KEY)
    assert max(float(metrics["cycle/source"]), float(metrics["cycle/image"])) < 1e-6
    assert min(float(metrics["to_image/identity"]), float(metrics["to_image/change"])) > 0.1
    inverted = with_matrices(first(), -np.eye(3, dtype=np.float32), -np.eye(3, dtype=np.float32))
    _, metrics = jax.jit(cycle.make_train_step(*MODULES, **SGD))(inverted, BATCH, KEY)
    assert float(metrics["cycle/source"]) < 1e-6  # which the cycle does not see, and the drift shows


def test_with_the_domains_exchanged_all_numbers_are_exchanged():
    step = jax.jit(cycle.make_train_step(*MODULES, **SGD, pool_size=3))
    state, batch = first(pool_size=3), BATCH
    exchanged = state
    for _ in range(3):
        state, metrics = step(state, batch, KEY)
        exchanged, others = step(_exchanged(exchanged), _exchanged_names(batch), KEY)
        exchanged = _exchanged(exchanged)
        assert set(metrics) == set(others)
        for name in metrics:
            assert float(metrics[name]) == pytest.approx(float(others[_other(name)]), rel=1e-5, abs=1e-7), name
    close(exchanged, state)


def _other(name):
    pairs = {"to_image": "to_source", "of_image": "of_source", "cycle/image": "cycle/source"}
    for a, b in pairs.items():
        if name.startswith(a):
            return name.replace(a, b)
        if name.startswith(b):
            return name.replace(b, a)
    return name


def _exchanged_names(tree):
    """{"to_image": ..., "to_source": ...} with the two in each other's places, and so for the others."""
    names = ("to_image", "to_source"), ("of_image", "of_source"), ("image", "source")
    other = {a: b for pair in names for a, b in (pair, pair[::-1])}
    return {other[name]: value for name, value in tree.items()}


def _exchanged(state):
    def group(network):
        return network.replace(
            params=_exchanged_names(network.params), model_state=_exchanged_names(network.model_state)
        )

    return state.replace(
        generators=group(state.generators),
        discriminators=group(state.discriminators),
        pools=_exchanged_names(state.pools),
        ema=_exchanged_names(state.ema),
    )


# Pools ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_discriminators_see_earlier_fakes_from_the_pool_and_without_one_the_newest_alone():
    batches = [{name: jnp.roll(x, i, 1) * (0.5 + 0.1 * i) for name, x in BATCH.items()} for i in range(4)]
    found = {}
    for size in (0, 4):
        state = first(optimizers=RECORDING, pool_size=size)  # nothing moves
        step = jax.jit(cycle.make_train_step(*MODULES, **RECORDING, pool_size=size))
        for batch in batches:
            state, metrics = step(state, batch, KEY)
        found[size] = metrics
        assert set(state.pools) == ({"image", "source"} if size else set())
    assert found[0]["to_image/loss"] == found[4]["to_image/loss"]  # the generators see their own
    assert found[0]["of_image/real_logits"] == pytest.approx(float(found[4]["of_image/real_logits"]), rel=1e-5)
    assert abs(float(found[0]["of_image/fake_logits"] - found[4]["of_image/fake_logits"])) > 1e-4
    made = MODULES[0].apply({"params": state.generators.params["to_image"]}, batches[-1]["source"], train=True)
    stored = np.asarray(state.pools["image"].images)
    assert stored.shape == (4, 2, 2, 3) and int(state.pools["image"].count) == 4
    assert any(np.allclose(stored[i], made[j], atol=1e-6) for i in range(4) for j in range(8))


# Ways, devices --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 3])
def test_micro_batches_are_the_batch(size):
    state, found = first(pool_size=size), []
    for way in (gradients.plain, gradients.accumulated(4)):
        step = jax.jit(cycle.make_train_step(*MODULES, **SGD, pool_size=size, gradients=way, ema_decay=0.9))
        found.append(step(step(state, BATCH, KEY)[0], BATCH, KEY))
    close(found[1], found[0])


def test_two_devices_with_a_name_for_their_axis_compute_what_one_computes_and_share_the_pools():
    expected = first(pool_size=3)
    found, batches = expected, [BATCH, _exchanged_names(BATCH)]
    step = jax.jit(cycle.make_train_step(*MODULES, **SGD, pool_size=3))
    named = cycle.make_train_step(*MODULES, **SGD, pool_size=3, axis_name="data")
    on_two = sharding.pmap_step(named, num_devices=2)
    for batch in batches:
        expected, metrics = step(expected, batch, KEY)
        found, others = on_two(found, batch, KEY)
    close((found, others), (expected, metrics))


def test_each_call_of_a_generator_has_a_dropout_of_its_own():
    modules = (Mixed(noise=0.5), Mixed(noise=0.5), Patches(), Patches())
    step = jax.jit(cycle.make_train_step(*modules, **SGD))
    state = with_matrices(first(modules), 0.5 * np.eye(3, dtype=np.float32), 0.5 * np.eye(3, dtype=np.float32))
    _, metrics = step(state, BATCH, KEY)
    _, again = step(state, BATCH, KEY)
    _, other = step(state, BATCH, jax.random.key(1))
    assert metrics["cycle/source"] == again["cycle/source"] != other["cycle/source"]


def test_averages_of_the_generators_follow_them():
    state = first()
    after, _ = jax.jit(cycle.make_train_step(*MODULES, **SGD, ema_decay=0.75))(state, BATCH, KEY)
    before, now = (x.generators.params["to_image"]["mix"]["kernel"] for x in (state, after))
    np.testing.assert_allclose(after.ema["to_image"]["params"]["mix"]["kernel"], 0.75 * before + 0.25 * now, rtol=1e-5)


# Errors ---------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_one_sentence():
    def trace(batch, state=None, **settings):
        step = cycle.make_train_step(*MODULES, **SGD, **settings)
        jax.eval_shape(step, first() if state is None else state, batch, KEY)

    with pytest.raises(ValueError, match=r"two domains are needed, .* but the batch has only image"):
        trace({"image": BATCH["image"]})
    with pytest.raises(ValueError, match="as many sources as images are needed, not 4 and 8"):
        trace(BATCH | {"source": BATCH["source"][:4]})
    with pytest.raises(ValueError, match="an identity weight needs domains of one shape, .*: give 0"):
        trace(BATCH | {"source": BATCH["source"][..., :2]})
    with pytest.raises(ValueError, match="pools of {'image': 50, 'source': 50}: give cycle.init the same pool_size=3"):
        trace(BATCH, pool_size=3)
    with pytest.raises(ValueError, match="pools of no images: give cycle.init the same pool_size=50"):
        trace(BATCH, first(pool_size=0))
    with pytest.raises(TypeError, match="key must be a random key, not a seed"):
        cycle.make_train_step(*MODULES, **SGD)(first(), BATCH, 0)
    with pytest.raises(TypeError, match="of_source must be a Flax Linen module"):
        cycle.make_train_step(*MODULES[:3], "patches", **SGD)
    with pytest.raises(TypeError, match="generator_optimizer must be an optax transformation"):
        cycle.make_train_step(*MODULES, **SGD | {"generator_optimizer": 2e-4})
    with pytest.raises(TypeError, match="loss must be a pair of functions"):
        cycle.make_train_step(*MODULES, **SGD, loss="lsgan")
    with pytest.raises(ValueError, match=r"to_image makes images of shape \(2, 2, 4\), and \(2, 2, 3\) are asked"):
        cycle.init(KEY, *MODULES, **SGD, image_shape=(2, 2, 3), source_shape=(2, 2, 4))


def test_constants_of_the_losses_at_a_discriminator_that_does_not_know():
    half, none = jnp.full((4, 3, 3), 0.5), jnp.zeros((4, 3, 3))
    assert float(adversarial.least_squares.discriminator(half, half).mean()) == pytest.approx(0.25)
    assert float(adversarial.non_saturating.discriminator(none, none).mean()) == pytest.approx(2 * np.log(2))
