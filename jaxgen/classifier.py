"""Convolutional classifiers: the article's CNN family, and the judge of what the other families generate."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxgen import gradients as ways
from jaxgen import network, objective, sharding
from jaxgen.arguments import check_function, check_key, check_module
from jaxgen.data import check

ClassifierState = objective.State


def init(
    key: jax.Array,
    model: nn.Module,
    *,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
) -> ClassifierState:
    """The state before the first step, for images [H, W, C].

    Raises:
      TypeError: for a seed instead of a key, or what is no Linen module that takes `train`.
      ValueError: for an `image_shape` whose channels come first.
    """
    check_key(key)
    check_module(model, "model")
    network.check_optimizer(optimizer)
    check.check_layout(image_shape, f"image_shape is {tuple(image_shape)}, expected (H, W, C)")

    def build(key):
        params_key, dropout_key = jax.random.split(key)
        keys = {"params": params_key, "dropout": dropout_key}
        _, variables = network.init_with_output(model, keys, jnp.zeros((2, *image_shape)), name="model")
        return objective.init(variables, optimizer=optimizer)

    return network.compiled_init(build, key)


def make_train_step(
    model: nn.Module,
    *,
    optimizer: optax.GradientTransformation,
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    label_smoothing: float = 0.0,
    ema_decay: network.Decay = 0.0,
    gradients: ways.Way = ways.plain,
    axis_name: str | None = None,
) -> Callable:
    """Builds `train_step(state, batch, key) -> (state, metrics)` that minimises the mean cross-entropy.

    Args:
      model: `apply(variables, images, train=) -> logits [B, num_classes]`.
      optimizer: any optax transformation.
      augment: `(key, images) -> images`, such as `data.random_shift`.
      label_smoothing: share of the target that is spread over all classes.
      ema_decay: of the average of all variables; 0 keeps the latest. A number or a schedule.
      gradients: how gradients are taken: `gradients.plain`, `gradients.accumulated(n)`.
      axis_name: as in `gan.make_train_step`. Augmentation and dropout then draw on each device for itself.

    Returns:
      A pure function, not compiled. The batch holds `image` and `label` [B] int32. Metrics: `loss` in nats, `accuracy`,
      `grad_norm`, `update_norm`, `clipped`, `skipped`.

    Raises:
      TypeError: at trace time, for images that are not floating point, labels that are not whole numbers or a seed
        instead of a key; at once, for an optimiser that is a name or a number, or what is no Linen module that takes
        `train`.
      ValueError: at trace time, for images whose channels come first.
    """
    check_module(model, "model")
    if augment is not None:
        check_function(augment, "key, images", "augment", "augment=data.random_shift")

    def cross_entropy_of(params, model_state, batch, key, step):
        image, label = network.images_of(batch), labels_of(batch)
        augment_key, dropout_key = jax.random.split(sharding.per_device_key(key, axis_name))
        if augment is not None:
            image = augment(augment_key, image)
        logits, model_state = network.apply(model, params, model_state, image, key=dropout_key)
        loss = jnp.mean(cross_entropy(logits, label, label_smoothing))
        return loss, (model_state, {"loss": loss, "accuracy": jnp.mean(jnp.argmax(logits, -1) == label)})

    return objective.make_train_step(
        cross_entropy_of, optimizer=optimizer, ema_decay=ema_decay, gradients=gradients, axis_name=axis_name
    )


def labels_of(batch: Mapping[str, jax.Array]) -> jax.Array:
    """batch["label"], checked at trace time to be whole numbers, one for each image."""
    if "label" not in batch:
        raise TypeError(f"a classifier needs labels, but the batch has only {sorted(batch)}")
    label = batch["label"]
    if not jnp.issubdtype(label.dtype, jnp.integer) or label.shape != batch["image"].shape[:1]:
        raise TypeError(
            f"labels must be whole numbers, one for each of {batch['image'].shape[0]} images, "
            f"not {label.dtype} of shape {label.shape}"
        )
    return label


def cross_entropy(logits: jax.Array, label: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """-sum_c target_c log softmax(logits)_c in nats, target = (1 - smoothing) one_hot(label) + smoothing / num_classes.

    Args:
      logits: [B, num_classes].
      label: [B] whole numbers. One outside of 0..num_classes - 1 gives NaN, where one-hot vectors would give 0.
      smoothing: share of the target that is spread over all classes.

    Returns:
      [B].
    """
    num_classes = logits.shape[-1]
    label = jnp.where(label < 0, num_classes, label)  # negative indices would count from the end
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)
    return (1 - smoothing) * loss - smoothing * jnp.mean(jax.nn.log_softmax(logits), axis=-1)


def make_eval_step(model: nn.Module) -> Callable:
    """Builds `eval_step(variables, batch, key) -> dict` of numbers for each image: `loss` [B] nats, `correct` [B].

    `variables` is `state.ema`; the key is not used.
    """
    check_module(model, "model")

    def eval_step(variables, batch: Mapping[str, jax.Array], key: jax.Array):
        logits, label = network.evaluate(model, variables, network.images_of(batch), what="images"), labels_of(batch)
        return {
            "loss": cross_entropy(logits, label),
            "correct": jnp.argmax(logits, -1) == label,
        }

    return eval_step


def summarize(per_image: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The numbers of a data set from those of its images, concatenated: `loss` (mean, nats) and `accuracy`."""
    return {
        "loss": float(np.mean(np.asarray(per_image["loss"]), dtype=np.float64)),
        "accuracy": float(np.mean(np.asarray(per_image["correct"]))),
    }
