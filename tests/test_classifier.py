import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import classifier, optim
from jaxgen.models import cnn

KEY = jax.random.key(5)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (6, 4, 4, 1)).astype(np.float32)
LABELS = np.array([0, 1, 2, 2, 1, 0], np.int32)
BATCH = {"image": IMAGES, "label": LABELS}

pytestmark = pytest.mark.usefixtures("fast_compilation")


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), a, b)


def make(optimizer=None, model=None, image_shape=(4, 4, 1), **options):
    """(state, train_step)."""
    model = Linear() if model is None else model
    optimizer = optax.sgd(0.5) if optimizer is None else optimizer
    step = classifier.make_train_step(model, optimizer=optimizer, **options)
    return classifier.init(KEY, model, optimizer=optimizer, image_shape=image_shape), step


@functools.cache
def default():
    """(state, compiled train step), shared by all tests that need nothing special."""
    state, step = make()
    return state, jax.jit(step)


def log_probabilities(params, images=IMAGES):
    logits = images.reshape(len(images), -1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    return np.asarray(logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True)))


def test_the_loss_is_the_mean_cross_entropy_and_the_update_follows_its_gradient():
    state, step = default()
    new, metrics = step(state, BATCH, KEY)
    log_p = log_probabilities(state.network.params)
    assert float(metrics["loss"]) == pytest.approx(-log_p[range(6), LABELS].mean(), rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(np.mean(log_p.argmax(1) == LABELS))
    error = (np.exp(log_p) - np.eye(3)[LABELS]) / 6  # the gradient of the mean cross-entropy in the logits
    gradient = {"kernel": IMAGES.reshape(6, -1).T @ error, "bias": error.sum(0)}
    norm = math.sqrt(sum(np.sum(g**2) for g in gradient.values()))
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    assert float(metrics["update_norm"]) == pytest.approx(0.5 * norm, rel=1e-5)
    expected = {name: state.network.params["Dense_0"][name] - 0.5 * g for name, g in gradient.items()}
    close(new.network.params["Dense_0"], expected, rtol=1e-4, atol=1e-6)


def test_label_smoothing_spreads_its_share_over_all_classes():
    state, step = make(label_smoothing=0.3)
    _, metrics = jax.jit(step)(state, BATCH, KEY)
    targets = 0.7 * np.eye(3)[LABELS] + 0.1
    expected = -np.mean(np.sum(targets * log_probabilities(state.network.params), axis=1))
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)


def test_metrics_are_scalars_under_these_names():
    state, step = make(optim.skip_large_updates(optax.chain(optim.clip_by_global_norm(1.0), optax.sgd(0.1))))
    _, metrics = jax.eval_shape(step, state, BATCH, KEY)
    assert set(metrics) == {"loss", "accuracy", "grad_norm", "update_norm", "clipped", "skipped"}
    assert all(m.shape == () and m.dtype == jnp.float32 for m in metrics.values())


def test_images_are_augmented_before_the_model_sees_them_with_another_key_at_every_step():
    keys = []

    def augment(key, images):
        jax.debug.callback(lambda data: keys.append(tuple(np.asarray(data).tolist())), jax.random.key_data(key))
        return -images

    state, step = make(augment=augment)
    step = jax.jit(step)
    _, metrics = step(state, BATCH, KEY)
    log_p = log_probabilities(state.network.params, -IMAGES)
    assert float(metrics["loss"]) == pytest.approx(-log_p[range(6), LABELS].mean(), rel=1e-5)
    jax.block_until_ready(step(state.replace(step=state.step + 1), BATCH, KEY))
    jax.effects_barrier()
    assert len(set(keys)) == 2


def test_compiled_and_eager_steps_agree_and_the_step_is_traced_once():
    traces = []
    state, step = make()

    @jax.jit
    def compiled(state, batch, key):
        traces.append(1)
        return step(state, batch, key)

    close(step(state, BATCH, KEY), compiled(state, BATCH, KEY), rtol=1e-5, atol=1e-6)
    for _ in range(2):
        state, _ = make()
        for _ in range(2):
            state, _ = compiled(state, BATCH, KEY)
    assert len(traces) == 1


def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit():
    model = cnn.CNN(num_classes=3, widths=(2,), num_features=3, dropout=0.5)
    state, step = make(optax.adam(0.01), model, ema_decay=0.9)
    step = jax.jit(step)

    def run(state, n):
        for _ in range(n):
            state, metrics = step(state, BATCH, KEY)
        return state, metrics

    once = run(state, 4)
    equal(run(jax.device_get(run(state, 2)[0]), 2), once)
    # The average covers batch statistics, with the decay asked for.
    new, _ = step(once[0], BATCH, KEY)
    close(new.ema, jax.tree.map(lambda e, v: 0.9 * e + 0.1 * v, once[0].ema, new.network.variables), atol=1e-6)
    assert set(new.ema) == {"params", "batch_stats"}


def test_without_decay_the_average_is_the_latest_network():
    state, step = default()
    new, _ = step(state, BATCH, KEY)
    equal(new.ema, new.network.variables)


def test_a_bad_batch_is_skipped_with_everything_that_would_have_changed():
    class Normalised(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = nn.BatchNorm(use_running_average=not train)(x.reshape(x.shape[0], -1))
            return nn.Dense(3)(x)

    state, step = make(optim.skip_large_updates(optax.sgd(0.1, momentum=0.9)), Normalised(), ema_decay=0.5)
    step = jax.jit(step)
    state, _ = step(state, BATCH, KEY)
    after, metrics = step(state, BATCH | {"image": IMAGES * np.nan}, KEY)
    assert float(metrics["skipped"]) == 1 and int(after.network.opt_state.num_skipped) == 1
    equal(after.network.variables, state.network.variables)
    equal(after.network.opt_state.inner, state.network.opt_state.inner)
    equal(after.ema, state.ema)


def test_evaluation_gives_numbers_for_each_image_and_their_means():
    state, _ = default()
    numbers = jax.jit(classifier.make_eval_step(Linear()))(state.ema, BATCH, KEY)
    log_p = log_probabilities(state.network.params)
    np.testing.assert_allclose(numbers["loss"], -log_p[range(6), LABELS], rtol=1e-4)
    np.testing.assert_array_equal(numbers["correct"], log_p.argmax(1) == LABELS)
    summary = classifier.summarize(numbers)
    assert set(summary) == {"loss", "accuracy"}
    assert summary["loss"] == pytest.approx(-log_p[range(6), LABELS].mean(), rel=1e-5)
    assert summary["accuracy"] == pytest.approx(np.mean(log_p.argmax(1) == LABELS))


def test_evaluation_of_the_convolutional_classifier_uses_running_statistics_and_no_dropout():
    model = cnn.CNN(num_classes=3, widths=(2,), num_features=3, dropout=0.9)
    state, _ = make(model=model)
    evaluate = jax.jit(classifier.make_eval_step(model))
    together = evaluate(state.ema, BATCH, KEY)
    alone = evaluate(state.ema, {name: value[:2] for name, value in BATCH.items()}, jax.random.key(6))
    np.testing.assert_allclose(together["loss"][:2], alone["loss"], rtol=1e-5)


def test_training_learns_a_separable_problem():
    images = IMAGES.copy()
    images[:, 0, :3, 0] = 2 * np.eye(3)[LABELS] - 1
    state, step = default()
    for _ in range(100):
        state, metrics = step(state, {"image": images, "label": LABELS}, KEY)
    assert float(metrics["accuracy"]) == 1 and float(metrics["loss"]) < 0.1


def test_missing_and_mistyped_labels_are_refused_at_trace_time():
    state, step = default()
    with pytest.raises(TypeError, match=r"needs labels, but the batch has only \['image'\]"):
        step(state, {"image": IMAGES}, KEY)
    with pytest.raises(TypeError, match="whole numbers, one for each of 6 images, not float32"):
        step(state, BATCH | {"label": LABELS.astype(np.float32)}, KEY)
    with pytest.raises(TypeError, match=r"not int32 of shape \(6, 3\)"):  # one-hot
        step(state, BATCH | {"label": np.eye(3, dtype=np.int32)[LABELS]}, KEY)
    with pytest.raises(TypeError, match=r"one for each of 6 images, not int32 of shape \(5,\)"):
        step(state, BATCH | {"label": LABELS[:5]}, KEY)
    with pytest.raises(TypeError, match="needs labels"):
        jax.eval_shape(classifier.make_eval_step(Linear()), state.ema, {"image": IMAGES}, KEY)


@pytest.mark.parametrize("label", [-1, 3, 255])
def test_a_label_without_a_class_cannot_pass_unnoticed(label):
    state, step = default()
    labels = LABELS.copy()
    labels[4] = label
    _, metrics = step(state, BATCH | {"label": labels}, KEY)
    assert np.isnan(metrics["loss"])
    per_image = jax.jit(classifier.cross_entropy)(jnp.zeros((6, 3)), labels)
    assert np.isnan(per_image).tolist() == [False] * 4 + [True, False]


def test_bytes_are_refused_at_trace_time_with_the_remedy():
    state, step = default()
    with pytest.raises(TypeError, match=r"uint8.*127\.5"):
        step(state, BATCH | {"image": np.zeros((6, 4, 4, 1), np.uint8)}, KEY)
