"""Networks that return an image: losses, a bound that no denoiser beats, an estimate without clean images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import gradients, restoration
from jaxgen.losses import adversarial
from jaxgen.losses import restoration as losses
from jaxgen.metrics import image as metrics

pytestmark = pytest.mark.usefixtures("fast_compilation")
KEY, RNG = jax.random.key(0), np.random.default_rng(0)


def images(*shape):
    return jnp.asarray(RNG.uniform(-1, 1, shape), jnp.float32)


class Linear(nn.Module):
    """y -> W y + b, of all pixels at once."""

    hidden: int = 0  # of a layer with ReLU before it, beside which y goes on

    @nn.compact
    def __call__(self, y, *, train):
        flat = y.reshape(len(y), -1)
        found = nn.Dense(flat.shape[1])(flat)
        if self.hidden:
            found = found + nn.Dense(flat.shape[1])(nn.relu(nn.Dense(self.hidden)(flat)))
        return found.reshape(y.shape)


# Losses ---------------------------------------------------------------------------------------------------------------


def test_losses_are_those_of_images_in_which_black_is_zero_and_white_is_one():
    output, target = images(3, 4, 5, 2), images(3, 4, 5, 2)
    d = (np.asarray(output, np.float64) - np.asarray(target)) / 2
    by_hand = {
        "l1": np.abs(d).mean((1, 2, 3)),
        "mse": (d**2).mean((1, 2, 3)),
        "charbonnier": np.sqrt(d**2 + 1e-6).mean((1, 2, 3)),
        "psnr": 10 * np.log10((d**2).mean((1, 2, 3)) + 1e-8),
    }
    assert set(by_hand) == set(losses.LOSSES)
    for name, loss in losses.LOSSES.items():
        np.testing.assert_allclose(loss(output, target), by_hand[name], rtol=1e-5)
        with pytest.raises(ValueError, match=r"an output of shape \[3, 4, 5, 2\] is compared with a target of \[3, 4"):
            loss(output, target[..., :1])
    np.testing.assert_allclose(losses.psnr_loss(output, target), -metrics.psnr(output, target), atol=1e-4)
    black, white = -jnp.ones((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1))
    assert [float(losses.LOSSES[name](black, white)[0]) for name in ("l1", "mse")] == [1, 1]


def test_gradients_of_losses_are_finite_where_output_and_target_are_equal():
    x = images(2, 3, 3, 1)
    for name, loss in losses.LOSSES.items():
        found = jax.grad(lambda y, loss=loss: jnp.sum(loss(y, x)))(x)
        np.testing.assert_allclose(found, 0, atol=1e-6 if name != "l1" else 0.06, err_msg=name)  # |d| has a corner


def test_the_loss_of_the_median_is_the_least_absolute_and_that_of_the_mean_the_least_squared():
    """Of targets that are 0, 0 and 1 by chance an output should be 0 or 1/3."""
    targets = jnp.array([0.0, 0.0, 1.0]).reshape(3, 1, 1, 1)

    def best(loss):
        values = jnp.linspace(-0.5, 1.5, 601)
        return float(values[jnp.argmin(jax.vmap(lambda v: jnp.mean(loss(jnp.full_like(targets, v), targets)))(values))])

    assert best(losses.l1) == pytest.approx(0, abs=0.005)
    assert best(losses.mse) == pytest.approx(1 / 3, abs=0.005)


# Gaussian images, of which everything is known ------------------------------------------------------------------------

SIDE, SIGMA = 2, 0.5
SIZE = SIDE**2
ROOT = np.tril(RNG.normal(size=(SIZE, SIZE))) * 0.5 + 0.4 * np.eye(SIZE)
COVARIANCE, MEAN = ROOT @ ROOT.T, np.array([0.3, -0.2, 0.1, 0.5])
WIENER = COVARIANCE @ np.linalg.inv(COVARIANCE + SIGMA**2 * np.eye(SIZE))
LEAST = np.trace(COVARIANCE - WIENER @ COVARIANCE) / SIZE / 4  # in [0, 1]


def gaussian_batch(key, n):
    """x ~ N(m, C), y = x + s e: {"image": x, "source": y}."""
    of_image, of_noise = jax.random.split(key)
    x = MEAN + jax.random.normal(of_image, (n, SIZE)) @ ROOT.T
    y = x + SIGMA * jax.random.normal(of_noise, (n, SIZE))
    return {"image": x.reshape(n, SIDE, SIDE, 1), "source": y.reshape(n, SIDE, SIDE, 1)}


def error_of(module, variables, n=40_000):
    """(mean, its standard error) of the squared error on new images."""
    batch = gaussian_batch(jax.random.key(99), n)
    found = losses.mse(module.apply(variables, batch["source"], train=False), batch["image"])
    return float(found.mean()), float(found.std()) / n**0.5


@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.slow
def test_training_reaches_the_least_error_of_gaussian_images_and_no_network_beats_it(hidden):
    """MMSE: m + C (C + s^2 I)^-1 (y - m), with error tr(C - C (C + s^2 I)^-1 C) / n."""
    model, optimizer = Linear(hidden), optax.adam(optax.cosine_decay_schedule(2e-2, 600))
    step = restoration.make_train_step(model, optimizer=optimizer, loss=losses.mse)
    state = restoration.init(KEY, model, optimizer=optimizer, source_shape=(SIDE, SIDE, 1))

    def train(state):
        def body(state, i):
            return step(state, gaussian_batch(jax.random.fold_in(KEY, i), 256), KEY)

        return jax.lax.scan(body, state, jnp.arange(600))

    state, found = jax.jit(train)(state)
    assert set(found) == {"loss", "psnr", "grad_norm", "update_norm"} and int(state.step) == 600
    error, deviation = error_of(model, state.ema)
    assert LEAST - 3 * deviation < error < 1.02 * LEAST + 3 * deviation
    if not hidden:
        kernel = np.asarray(state.network.params["Dense_0"]["kernel"]).T
        np.testing.assert_allclose(kernel, WIENER, atol=0.03)


def test_an_estimate_without_clean_images_is_unbiased_for_any_denoiser():
    model = Linear(6)
    batch, n = gaussian_batch(jax.random.key(3), 60_000), 60_000
    variables = model.init(KEY, batch["source"][:1], train=True)

    def denoise(y):
        return jnp.tanh(model.apply(variables, y, train=False))

    estimate, truth = jax.jit(
        lambda batch: (
            losses.sure(denoise, batch["source"], SIGMA, jax.random.key(5)),
            losses.mse(denoise(batch["source"]), batch["image"]),
        )
    )(batch)
    assert estimate.shape == (n,)
    gap = np.asarray(estimate) - np.asarray(truth)
    assert abs(gap.mean()) < 4 * gap.std() / n**0.5
    assert float(truth.mean()) > 0.01


def test_the_estimate_of_a_linear_denoiser_is_its_closed_form_and_picks_the_best_one():
    batch = gaussian_batch(jax.random.key(7), 60_000)
    found, exact = {}, {}
    for strength in (0.3, 0.6, 0.9, 1.2):
        found[strength] = float(
            losses.sure(lambda y, a=strength: a * y, batch["source"], SIGMA, jax.random.key(1)).mean()
        )
        second = COVARIANCE + np.outer(MEAN, MEAN)
        exact[strength] = (
            ((1 - strength) ** 2 * np.trace(second) + strength**2 * SIGMA**2 * SIZE) / SIZE / 4
        )  # E |a y - x|^2
    np.testing.assert_allclose(list(found.values()), list(exact.values()), atol=0.01)
    assert min(found, key=found.get) == min(exact, key=exact.get)
    # The trace of a times the identity is exact: each sign squared is 1.
    y = batch["source"][:3]
    by_hand = (jnp.mean((0.5 * y) ** 2, axis=(1, 2, 3)) - SIGMA**2 + 2 * SIGMA**2 * 0.5) / 4
    np.testing.assert_allclose(losses.sure(lambda y: 0.5 * y, y, SIGMA, KEY), by_hand, rtol=1e-5)
    with pytest.raises(TypeError, match="not a seed"):
        losses.sure(lambda y: y, y, SIGMA, 0)
    with pytest.raises(ValueError, match="a denoiser keeps the shape of its source"):
        losses.sure(lambda y: y[:, :1], y, SIGMA, KEY)


# The step -------------------------------------------------------------------------------------------------------------


def test_a_batch_without_a_source_or_an_output_of_another_shape_is_one_sentence():
    model, optimizer = Linear(), optax.sgd(0.1)
    step = restoration.make_train_step(model, optimizer=optimizer)
    state = restoration.init(KEY, model, optimizer=optimizer, source_shape=(2, 2, 1))
    with pytest.raises(ValueError, match="needs a source, and the batch has only image: data.degraded makes one"):
        step(state, {"image": images(2, 2, 2, 1)}, KEY)
    with pytest.raises(ValueError, match=r"makes images of shape \[2, 2, 1\] .* that should come out have \[4, 4, 1\]"):
        step(state, {"source": images(2, 2, 2, 1), "image": images(2, 4, 4, 1)}, KEY)
    with pytest.raises(TypeError, match="loss must be a function"):
        restoration.make_train_step(model, optimizer=optimizer, loss="l1")
    with pytest.raises(TypeError, match="model must be a Flax Linen module"):
        restoration.make_train_step("edsr", optimizer=optimizer)
    with pytest.raises(TypeError, match="give state.ema"):
        restoration.restore(model, state, images(1, 2, 2, 1))


@pytest.mark.slow
def test_slices_of_a_batch_add_up_and_images_are_clipped():
    model, optimizer = Linear(3), optax.sgd(0.1)
    batch = {"source": images(6, 2, 2, 1), "image": images(6, 2, 2, 1)}
    state = restoration.init(KEY, model, optimizer=optimizer, source_shape=(2, 2, 1))
    found = [
        jax.jit(restoration.make_train_step(model, optimizer=optimizer, gradients=way))(state, batch, KEY)[0]
        for way in (gradients.plain, gradients.accumulated(3))
    ]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    far = jax.tree.map(lambda x: 100 * x, state.ema)
    restored = restoration.restore(model, far, batch["source"])
    assert float(restored.min()) == -1 and float(restored.max()) == 1


def test_an_ensemble_commutes_with_turning_and_mirroring():
    kernel = jnp.asarray(RNG.normal(size=(3, 3, 1, 1)), jnp.float32)

    def restore(x):
        convolved = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.repeat(jnp.repeat(jnp.tanh(convolved), 2, axis=1), 2, axis=2)

    ensemble = restoration.self_ensemble(restore)
    x = images(2, 4, 6, 1)
    for quarters in range(4):
        for mirrored in (False, True):
            turned = functools.partial(restoration.turned, quarters=quarters, mirrored=mirrored)
            np.testing.assert_allclose(ensemble(turned(x)), turned(ensemble(x)), atol=1e-6)
    assert not np.allclose(restore(restoration.turned(x, 1, False)), restoration.turned(restore(x), 1, False))
    np.testing.assert_allclose(restoration.self_ensemble(lambda x: 2 * x)(x), 2 * x, rtol=1e-6)


# Numbers --------------------------------------------------------------------------------------------------------------


def test_numbers_are_those_of_files_of_eight_bits():
    target = jnp.asarray(RNG.integers(0, 256, (2, 16, 14, 3)), jnp.float32) / 127.5 - 1
    near = target + jnp.asarray(RNG.uniform(-0.4, 0.4, target.shape), jnp.float32) / 127.5
    found = restoration.numbers(near, target)
    assert np.all(found["psnr"] == 100.0)  # rounded, they are equal, and a mean over images stays finite
    np.testing.assert_allclose(found["ssim"], 1, rtol=1e-5)
    beyond = jnp.where(target > 0, target + 5, target)
    clipped = restoration.numbers(beyond, target)
    by_hand = restoration.numbers(jnp.clip(beyond, -1, 1), target)
    np.testing.assert_array_equal(clipped["psnr"], by_hand["psnr"])
    as_bytes = [np.round((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8) for x in map(np.asarray, (beyond, target))]
    np.testing.assert_allclose(clipped["psnr"], metrics.psnr(*as_bytes), rtol=1e-5)
    np.testing.assert_allclose(clipped["ssim"], metrics.ssim(*as_bytes), rtol=1e-4)
    assert set(restoration.numbers(target[:, :10], target[:, :10])) == {"psnr"}  # no window of 11 fits


@pytest.mark.slow
def test_a_border_does_not_count_and_luminance_is_that_of_television():
    target = images(2, 20, 20, 3)
    spoilt = target.at[:, :2].set(0.0).at[:, -2:].set(0.0).at[:, :, :2].set(0.0).at[:, :, -2:].set(0.0)
    assert np.all(restoration.numbers(spoilt, target, crop_border=2)["psnr"] == 100.0)
    assert np.all(np.isfinite(restoration.numbers(spoilt, target, crop_border=1)["psnr"]))
    with pytest.raises(ValueError, match="nothing is left of 20x20 pixels without 10 a side"):
        restoration.numbers(spoilt, target, crop_border=10)
    ends = restoration.luminance(jnp.array([[0.0] * 3, [255.0] * 3, [255.0, 0, 0]]))
    np.testing.assert_allclose(ends[:, 0], [16, 235, 16 + 65.481], rtol=1e-5)
    grey = images(1, 12, 12, 1)
    np.testing.assert_array_equal(restoration.luminance(grey), grey)
    # Y has 219 of 255 levels: an equal error of all channels counts less.
    shifted = jnp.clip(target - 20 / 127.5, -1, 1)
    inside = restoration.numbers(jnp.full_like(target, 0.5), jnp.full_like(target, 0.5 - 20 / 127.5), on_luminance=True)
    np.testing.assert_allclose(inside["psnr"], 20 * np.log10(255 / (20 * 219 / 255)), rtol=1e-3)
    assert np.all(np.isfinite(restoration.numbers(shifted, target, on_luminance=True)["psnr"]))


def test_what_there_is_to_beat_is_the_source_or_its_enlargement():
    noisy = images(2, 8, 8, 4)  # the last channel is a noise level
    found = restoration.classical(noisy, (8, 8, 3))
    assert set(found) == {"input"}
    np.testing.assert_array_equal(found["input"], noisy[..., :3])
    found = restoration.classical(noisy[:, :4, :4], (8, 8, 3))
    assert set(found) == {"bicubic", "lanczos"} and found["bicubic"].shape == (2, 8, 8, 3)
    even = jnp.full((1, 4, 4, 1), 0.3)
    for enlarged in restoration.classical(even, (12, 12, 1)).values():
        np.testing.assert_allclose(enlarged, 0.3, atol=1e-6)
    shown = restoration.shown(noisy[:, :4, :4], (8, 8, 3))
    np.testing.assert_array_equal(shown, jnp.repeat(jnp.repeat(noisy[:, :4, :4, :3], 2, axis=1), 2, axis=2))


# The relativistic average loss ----------------------------------------------------------------------------------------


def test_each_kind_is_compared_with_the_mean_of_the_other():
    real, fake = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.0, 3.0, -1.0])
    loss = adversarial.relativistic_average

    def s(t):
        return np.logaddexp(0, t)

    r, f = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    np.testing.assert_allclose(loss.discriminator(real, fake), s(f.mean() - r) + s(f - r.mean()), rtol=1e-5)
    np.testing.assert_allclose(loss.generator(real, fake), s(r - f.mean()) + s(r.mean() - f), rtol=1e-5)
    for player in loss:
        np.testing.assert_allclose(player(real + 8, fake + 8), player(real, fake), rtol=1e-5)  # a shift is not seen
    np.testing.assert_allclose(loss.generator(real, fake), loss.discriminator(fake, real))  # a swap swaps the players
    np.testing.assert_allclose(loss.discriminator(jnp.zeros(2), jnp.zeros(2)), 2 * np.log(2), rtol=1e-6)


def test_the_means_are_those_of_all_devices_in_the_per_device_view():
    real, fake = jnp.asarray(RNG.normal(size=8), jnp.float32), jnp.asarray(RNG.normal(size=8), jnp.float32)
    over = adversarial.relativistic_average_over("data")
    for whole, part in zip(adversarial.relativistic_average, over, strict=True):
        found = jax.vmap(part, axis_name="data")(real.reshape(2, 4), fake.reshape(2, 4))
        np.testing.assert_allclose(found.ravel(), whole(real, fake), rtol=1e-5)
