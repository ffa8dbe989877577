"""Systems with codes: what they minimise, what they say of held-out images, and settings that do not fit."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import building, description, network, systems
from jaxgen.losses import variational
from jaxgen.models import quantise
from jaxgen.options import Optimizer
from jaxgen.system import Spec
from jaxgen.systems import dvae, vqvae, vqvae2
from jaxgen.systems.shared.vector_quantised import Quantiser

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY, SPEC = jax.random.key(0), Spec.of_images((8, 8, 1))
BATCH = {"image": jax.random.uniform(KEY, (8, 8, 8, 1), minval=-1)}
EACH = {
    "ema": Quantiser("ema", 6, 3, restart_below=0.2),
    "gradient": Quantiser("gradient", 6, 3),
    "fsq": Quantiser("fsq", levels=(4, 3)),
    "lfq": Quantiser("lfq", 8),
}


def built(module, spec=SPEC, **changes):
    return building.build_system(dataclasses.replace(module.TINY, **changes), spec)


# VQ-VAE ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name"),
    [*((vqvae, name) for name in EACH), (vqvae2, "ema"), (vqvae2, "lfq")],
    ids=["ema", "gradient", "fsq", "lfq", "two-ema", "two-lfq"],
)
def test_every_quantiser_has_a_system_whose_codes_are_its_own(module, name):
    system, quantiser = built(module, quantiser=EACH[name]), EACH[name].build()
    state, metrics = jax.eval_shape(system.train_step, system.shapes, SPEC.example(8), KEY)
    prefixes = ("",) if module is vqvae else ("top/", "bottom/")
    assert {"loss", "distortion", *(f"{prefix}perplexity" for prefix in prefixes)} <= set(metrics)
    codes = jax.eval_shape(system.encode, state.ema, SPEC.example(5))
    assert (codes.shape, codes.dtype) == ((5, 2, 2) if module is vqvae else (5, 5), jnp.int32)
    drawn = system.latents(KEY, 200)
    assert drawn.shape == (200, *codes.shape[1:]) and drawn.dtype == jnp.int32
    np.testing.assert_array_equal(np.unique(drawn), np.arange(quantiser.num_codes))
    assert system.can == ("decode", "encode", "reconstruct")  # there is no prior to draw from
    assert ("code_averages" in state.network.model_state) == (name == "ema")


def test_the_loss_is_the_error_over_the_datas_variance_and_the_quantisers():
    system = built(vqvae, quantiser=EACH["gradient"], data_variance=0.0632704)
    state = system.init(KEY)
    rows, images = jax.jit(lambda v: (system.measure.of_batch(v, BATCH, KEY), system.reconstruct(v, BATCH)))(state.ema)
    _, metrics = jax.jit(system.train_step)(state, BATCH, KEY)
    assert float(jnp.abs(images).max()) < 1  # nothing is clipped
    in_unit = lambda x: (np.asarray(x, np.float64) + 1) / 2  # noqa: E731
    expected = np.mean((in_unit(images) - in_unit(BATCH["image"])) ** 2, axis=(1, 2, 3)) / 0.0632704
    np.testing.assert_allclose(rows["distortion"], expected, rtol=1e-5)
    assert float(metrics["distortion"]) == pytest.approx(expected.mean(), rel=1e-5)
    whole = float(metrics["distortion"]) + 1.25 * float(metrics["commitment"])  # both terms are equal in value
    assert float(metrics["loss"]) == pytest.approx(whole, rel=1e-5)


def test_held_out_numbers_are_of_all_codes_and_of_each_map():
    for module in (vqvae, vqvae2):
        system = built(module, quantiser=EACH["fsq"])
        codes = np.array([[0, 1, 2, 3, 4]] * 10)[:, : 4 if module is vqvae else 5]
        found = system.measure.summarize({"distortion": np.arange(10.0), "codes": codes})
        assert found.pop("distortion") == 4.5
        if module is vqvae:
            assert found["perplexity"] == pytest.approx(4) and found["bits_per_token"] == pytest.approx(2)
            assert found["used_share"] == pytest.approx(4 / 12) and found["dead_codes"] == 8
        else:
            assert found["top/perplexity"] == 1 and found["bottom/perplexity"] == pytest.approx(4)
            assert found["top/dead_codes"] == 11 and found["bottom/dead_codes"] == 8
        assert system.measure.best == "distortion" and system.measure.mode == "min"


def test_a_step_moves_the_averages_and_no_optimiser_knows_them():
    system = built(vqvae, quantiser=EACH["ema"])
    state = system.init(KEY)
    after, metrics = jax.jit(system.train_step)(state, BATCH, KEY)
    before, moved = (s.network.model_state["code_averages"]["quantiser"] for s in (state, after))
    assert np.any(before["vectors"] != moved["vectors"]) and float(moved["batches"]) == 1
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.network.opt_state)]
    assert not any("quantiser" in path for path in paths)
    assert "dead_codes" in metrics


def test_micro_batches_of_averages_are_refused_and_of_gradients_are_not():
    for name, refused in (("ema", True), ("gradient", False)):
        system = built(vqvae, quantiser=EACH[name], micro_batches=2)
        step = lambda system=system: jax.eval_shape(system.train_step, system.shapes, SPEC.example(8), KEY)  # noqa: E731
        if refused:
            with pytest.raises(ValueError, match="by a network with a codebook of moving averages: its statistics"):
                step()
        else:
            step()


@pytest.mark.parametrize(
    ("quantiser", "message"),
    [
        (Quantiser("lfq", 100), "--quantiser.num-codes must be a power of two from 2 to 1,048,576 for lfq"),
        (Quantiser("lfq", 1), "must be a power of two from 2"),
        (Quantiser("lfq", 2**21), "must be a power of two from 2"),
        (Quantiser("fsq", levels=()), "--quantiser.levels multiply to 1 codes: 2 to 1,048,576 fit"),
        (Quantiser("fsq", levels=(1024, 1024, 2)), "--quantiser.levels multiply to 2,097,152 codes"),
    ],
)
def test_numbers_of_codes_that_a_quantiser_cannot_have_are_one_sentence(quantiser, message):
    with pytest.raises(ValueError, match=message):
        built(vqvae, quantiser=quantiser)


def test_an_unknown_quantiser_is_one_sentence():
    with pytest.raises(ValueError, match="there is no quantiser .vq.; there is: ema, gradient, fsq, lfq|did you mean"):
        built(vqvae, quantiser=Quantiser("vq"))


# Presets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cifar-vqvae", {"network": 662_723}),
        ("ffhq-vqvae2", {"network": 1_388_867}),
        ("dalle-dvae", {"encoder": 53_786_240, "decoder": 43_829_766}),
    ],
)
def test_published_presets_have_the_published_sizes_without_data(name, parameters):
    preset = systems.PRESETS[name]
    system = building.build_system(preset.config, description.spec_of(preset.config, preset))
    assert system.parameters == parameters


def test_the_published_recipes():
    cifar, dalle = systems.PRESETS["cifar-vqvae"].config, systems.PRESETS["dalle-dvae"].config
    assert (cifar.batch_size, cifar.data_variance, cifar.optimizer) == (32, 0.0632704, Optimizer(learning_rate=3e-4))
    assert cifar.quantiser == Quantiser("ema", 512, 64, beta=0.25, decay=0.99, restart_below=0.0, k_means=False)
    assert (dalle.batch_size, dalle.num_steps, dalle.beta, dalle.temperature) == (512, 3_000_000, 6.6, 1 / 16)
    assert float(dalle.ema_decay(10**6)) == pytest.approx(0.999, rel=1e-6)


# The discrete VAE -----------------------------------------------------------------------------------------------------


def logit_laplace(mean, log_scale, x):
    """Of numbers [N], each an image of its own."""
    x = jnp.asarray(x)[:, None]
    found = variational.logit_laplace_log_likelihood(jnp.full_like(x, mean), jnp.asarray(log_scale), x)
    return np.asarray(found, np.float64)


def test_the_logit_laplace_density_integrates_to_one_and_has_mass_where_no_image_is():
    x = (np.arange(400_000) + 0.5) / 400_000
    for mean, scale in ((0.0, 1.0), (1.5, 0.5), (-2.0, 0.3)):
        assert np.exp(logit_laplace(mean, math.log(scale), x)).mean() == pytest.approx(1, abs=2e-5)
    outside = (x < 0.1) | (x > 0.9)
    assert np.sum(np.exp(logit_laplace(0.0, 0.0, x))[outside]) / x.size == pytest.approx(1 / 9, rel=1e-4)
    assert float(logit_laplace(0.0, 0.0, [0.5])[0]) == pytest.approx(0.6931471806, rel=1e-6)


def test_logit_laplace_scales_of_any_size_have_finite_values_and_gradients_where_the_truth_is_finite():
    of = lambda mean, s: jnp.sum(variational.logit_laplace_log_likelihood(mean, s, jnp.full((1, 1), 0.5)))  # noqa: E731
    for log_scale in (-95.0, -80.0, 0.0, 80.0, 100.0):
        mean = 1e-10  # the logit of 1/2 is 0
        value, (of_mean, of_scale) = jax.value_and_grad(of, (0, 1))(jnp.full((1, 1), mean), jnp.asarray(log_scale))
        distance = mean * math.exp(-log_scale)
        assert float(value) == pytest.approx(-distance - log_scale + math.log(2), rel=1e-4)
        assert float(of_scale) == pytest.approx(distance - 1, rel=1e-4)
        if log_scale > -88:  # beyond it the truth is no number of float32
            assert float(of_mean.item()) == pytest.approx(-math.exp(-log_scale), rel=1e-4)


def test_images_go_to_the_middle_of_the_unit_interval_and_back_and_never_beyond_black_and_white():
    image = jnp.array([-1.0, -0.5, 0.0, 1.0]).reshape(1, 2, 2, 1)
    mapped = jnp.array([0.1, 0.3, 0.5, 0.9]).reshape(1, 2, 2, 1)
    logit = jnp.log(mapped / (1 - mapped))
    np.testing.assert_allclose(variational.logit_laplace.mean((logit, None)), image, atol=1e-6)
    assert float(jnp.abs(variational.logit_laplace.mean((9 * logit, None))).max()) == 1
    found = variational.logit_laplace.log_prob((0.3 * logit, jnp.zeros_like(logit)), image)
    expected = variational.logit_laplace_log_likelihood(0.3 * logit, jnp.zeros_like(logit), mapped)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def discrete(fast_compilation):
    """(system, state, compiled step): maps of 4x4 codes, schedules of four and two steps, plain descent."""
    system = built(
        dvae,
        temperature=0.01,
        temperature_steps=4,
        beta=2.0,
        beta_steps=2,
        last_rate=0.5,
        rate_steps=4,
        optimizer=Optimizer("sgd", learning_rate=1.0, b1=0.0),
    )
    return system, system.init(KEY), jax.jit(system.train_step)


@pytest.mark.slow
def test_what_is_minimised_is_the_bound_of_an_image_whatever_the_number_of_images(discrete):
    """Public code sums the rate over the batch and takes the mean of the distortion: another beta for every batch."""
    system, state, step = discrete
    alike = {"image": jnp.repeat(BATCH["image"][:1], 8, axis=0)}
    _, metrics = step(state.replace(step=jnp.array(1)), alike, KEY)
    logits = network.evaluate(dvae.networks.Encoder(6, 4, 2, 1), state.ema["encoder"], alike["image"][:1])
    assert float(metrics["rate"]) == pytest.approx(float(quantise.rate_to_uniform(logits)[0]), rel=1e-4)
    assert 0 < float(metrics["rate"]) <= 16 * math.log(6)
    assert float(metrics["beta"]) == pytest.approx(1, rel=1e-6)  # half way up half a cosine
    whole = float(metrics["distortion"]) + float(metrics["rate"])
    assert float(metrics["loss"]) == pytest.approx(whole / 64, rel=1e-5)
    assert float(metrics["relaxed_elbo"]) == pytest.approx(-whole, rel=1e-5)


@pytest.mark.slow
def test_temperature_beta_and_rate_go_along_half_cosines_and_stay(discrete):
    _, state, step = discrete
    found = []
    for i in range(6):
        _, metrics = step(state.replace(step=jnp.array(i), network=at_step(state.network, i)), BATCH, KEY)
        rate = float(metrics["update_norm"] / metrics["grad_norm"])
        found.append([float(metrics["temperature"]), float(metrics["beta"]), rate])
    quarter = (1 - math.cos(math.pi / 4)) / 2
    temperature = [1, 1 - 0.99 * quarter, 0.505, 0.01 + 0.99 * quarter, 0.01, 0.01]
    rate = [1, 1 - 0.5 * quarter, 0.75, 0.5 + 0.5 * quarter, 0.5, 0.5]
    np.testing.assert_allclose(np.transpose(found), [temperature, [0, 1, 2, 2, 2, 2], rate], rtol=1e-4, atol=1e-7)


def at_step(trained, i):
    """A network whose optimiser has counted i steps."""
    count = lambda x: jnp.full_like(x, i) if jnp.issubdtype(x.dtype, jnp.integer) else x  # noqa: E731
    return dataclasses.replace(trained, opt_state=jax.tree.map(count, trained.opt_state))


@pytest.mark.slow
def test_held_out_bounds_are_of_draws_and_of_relaxed_draws_which_a_cold_relaxation_does_not_tell_apart(discrete):
    system, state, _ = discrete
    rows = jax.jit(system.measure.of_batch)(state.ema, BATCH, KEY)
    assert all(len(row) == 8 for row in rows.values())
    np.testing.assert_allclose(rows["elbo"], -rows["distortion"] - rows["rate"], rtol=1e-5)
    np.testing.assert_allclose(rows["relaxed_elbo"] - rows["elbo"], rows["gap"], rtol=1e-3, atol=1e-3)
    assert float(jnp.max(rows["rate"])) <= 16 * math.log(6)
    warm = built(dvae, temperature=1.0)
    of_warm = jax.jit(warm.measure.of_batch)(state.ema, BATCH, KEY)
    np.testing.assert_allclose(of_warm["elbo"], rows["elbo"], rtol=1e-5)  # draws know no temperature
    assert float(jnp.abs(rows["gap"]).mean()) < 0.1 * float(jnp.abs(of_warm["gap"]).mean())
    found = system.measure.summarize(rows)
    assert found["gap"] == pytest.approx(float(rows["gap"].mean()), rel=1e-4, abs=1e-6)
    assert 1 <= found["perplexity"] <= 6
    assert system.measure.best == "elbo" and system.measure.mode == "max"


def test_images_are_drawn_from_codes_that_are_all_alike_and_reconstructed_from_the_likeliest(discrete):
    system, state, _ = discrete
    np.testing.assert_array_equal(np.unique(system.latents(KEY, 300)), np.arange(6))
    assert "all alike" in system.protocol["latents"]
    decode = jax.jit(system.decode)
    drawn = jax.jit(system.draw, static_argnums=2)(state.ema, KEY, 8)
    np.testing.assert_allclose(drawn, decode(state.ema, system.latents(KEY, 8)), atol=1e-5)
    codes, again = jax.jit(lambda v: (system.encode(v, BATCH), system.reconstruct(v, BATCH)))(state.ema)
    np.testing.assert_allclose(again, decode(state.ema, codes), atol=1e-5)
    assert float(jnp.abs(again).max()) <= 1


def test_a_schedule_beside_the_recipes_is_refused():
    with pytest.raises(ValueError, match="--optimizer.schedule must be constant"):
        built(dvae, optimizer=Optimizer("adamw", schedule="cosine"))
