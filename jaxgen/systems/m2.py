"""Semi-supervised learning with a class-conditional autoencoder: M2 of Kingma, Mohamed, Rezende and Welling 2014.

Images with a known label maximise a bound on log p(x, y), the others one on log p(x), in which the classifier q(y|x)
weighs all classes; the labels that are known also teach the classifier (their eq. 9).

Which labels are known is a number of the pixels: about `num_labels` of all, the same at every visit, and not an equal
number of each class. So pixels must not be drawn anew. The networks are those of the IWAE paper, where theirs have
500 softplus units; the batch is of images as they come, not half of labelled ones.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen import latent_model, network, objective, sharding, vae
from jaxgen.data import binarisation
from jaxgen.losses import variational
from jaxgen.models import mlp
from jaxgen.options import Data, Optimizer
from jaxgen.ranges import Count, Weight
from jaxgen.system import Measure, Spec, System
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import autoencoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(autoencoder.Autoencoder):
    """A class-conditional autoencoder and a classifier, few of whose images have labels."""

    data: Data = Data(binarise="static")
    """Which images, and how they are prepared: binarise static or threshold."""
    model: Literal["mlp"] = "mlp"
    """The networks: fully connected."""
    likelihood: Literal["bernoulli"] = "bernoulli"
    """Of pixels given the latents."""
    width: Count = 200
    """Of the hidden layers."""
    num_labels: Count = 3000
    """How many labels are known, about."""
    num_examples: Count = 60_000
    """Images in the training data."""
    classification: Weight = 0.1
    """Weight of the classifier's own loss on known labels (alpha = 0.1 N in the paper)."""


def is_known(images: jax.Array, num_labels: int, num_examples: int) -> jax.Array:
    """Whether the label of an image counts as known: bool [B], true for a share of num_labels / num_examples."""
    end = min(int(num_labels / num_examples * 2**32), 2**32 - 1)
    return binarisation.own_numbers(images) <= np.uint32(end)


def build(config: Config, spec: Spec) -> System:
    """The system for labelled images of a shape.

    Raises:
      ValueError: for images without labels, grey ones, pixels that are drawn anew, or more labels than images.
    """
    autoencoder.check_bernoulli(config)
    if config.data.binarise == "dynamic":
        raise ValueError(
            "which labels are known is told by the pixels, which dynamic binarisation draws anew at every visit: take "
            "--data.binarise static"
        )
    if not spec.num_classes:
        raise ValueError("M2 learns from labels, and these images have none")
    if config.num_labels > config.num_examples:
        raise ValueError(f"{config.num_labels} labels cannot be known of {config.num_examples} images")
    widths, classes = (config.width, config.width), spec.num_classes
    encoder = mlp.Encoder(config.latent_dim, widths, config.dtype, num_classes=classes)
    decoder = mlp.BernoulliDecoder(spec.image_shape, widths, config.dtype, num_classes=classes)
    classifier = mlp.Encoder(widths=widths, dtype=config.dtype, sizes=(classes,))
    optimizer = config.optimizer.build(config.num_steps)
    pair = autoencoder.build(config, spec, encoder, decoder, name="M2", num_labels=classes)

    def new(key):
        variables = objective.variables_of_group(pair.init(key).network)
        own = classifier.init(jax.random.fold_in(key, 5), jnp.zeros((2, *spec.image_shape)), train=True)
        return objective.init_group(variables | {"classifier": own}, optimizer=optimizer)

    def classify(variables, images):
        return network.evaluate(classifier, network.member(variables, "classifier"), images, what="images")[0]

    assert pair.measure is not None
    of_pair = pair.measure.of_batch

    def of_batch(variables, batch, key):
        found = jnp.argmax(classify(variables, batch["image"]), axis=-1)
        return of_pair(variables, batch, key) | {"correct": found == batch["label"]}

    def summarize(rows):
        return vae.summarize(rows) | {"accuracy": float(np.mean(np.asarray(rows["correct"]), dtype=np.float64))}

    return dataclasses.replace(
        pair,
        init=lambda key: network.compiled_init(new, key),
        train_step=objective.make_train_step(
            objective_of(config, encoder, decoder, classifier, classes),
            optimizer=optimizer,
            ema_decay=config.ema_decay,
            gradients=config.gradients,
            variables_of=objective.variables_of_group,
        ),
        classify=classify,
        measure=Measure(of_batch, summarize, best="accuracy"),
    )


def objective_of(
    config: Config, encoder: nn.Module, decoder: nn.Module, classifier: nn.Module, classes: int
) -> objective.Objective:
    """The negative of (sum over known of L(x, y) + sum over others of U(x)) / B, and the classifier's loss.

    L(x, y) = E log p(x|y, z) + log p(y) - KL;  U(x) = sum_y q(y|x) (L(x, y) - log q(y|x))
    """

    def negative_bound(params, old, batch, key, step):
        image, label = network.images_of(batch), autoencoder.label_of(batch)
        noise_key, dropout_key = jax.random.split(key)
        size, states = len(image), {}

        def apply(name, module, *inputs):
            output, states[name] = network.apply(module, params[name], old[name], *inputs, key=dropout_key)
            return output

        images, labels = jnp.repeat(image, classes, axis=0), jnp.tile(jnp.arange(classes), size)
        mean, logvar = latent_model.DIAGONAL.read(apply("encoder", encoder, images, labels))
        noise = sharding.draw(jax.random.normal, noise_key, (size, classes, mean.shape[1])).reshape(mean.shape)
        decoded = apply("decoder", decoder, vae.reparameterize(mean, logvar, noise), labels)
        distortion = -variational.bernoulli.log_prob(decoded, images).reshape(size, classes)
        rate = variational.gaussian_kl(mean, logvar).reshape(size, classes)
        of_each = -distortion - rate - math.log(classes)
        log_q = jax.nn.log_softmax(apply("classifier", classifier, image)[0])

        def at_label(x):
            return jnp.take_along_axis(x, label[:, None], axis=1)[:, 0]

        known = is_known(image, config.num_labels, config.num_examples)
        unsupervised = jnp.sum(jnp.exp(log_q) * (of_each - log_q), axis=1)
        bound = jnp.mean(jnp.where(known, at_label(of_each), unsupervised))
        cross_entropy = jnp.mean(jnp.where(known, -at_label(log_q), 0.0)) * config.num_examples / config.num_labels
        metrics = {
            "loss": -bound + config.classification * cross_entropy,
            "elbo": bound,
            "distortion": jnp.mean(at_label(distortion)),
            "rate": jnp.mean(at_label(rate)),
            "classification": cross_entropy,
            "accuracy": jnp.mean(jnp.argmax(log_q, axis=1) == label),
            "known": jnp.mean(known),
        }
        return metrics["loss"], (states, metrics)

    return negative_bound


TINY = Config(width=8, latent_dim=3, batch_size=8, num_steps=4, num_labels=30_000)

PRESETS = {
    "mnist-m2": Preset(
        "digits about 3,000 of whose 60,000 labels are known",
        Config(
            batch_size=100,
            num_steps=60_000,
            log_every=500,
            sample_every=6000,
            evaluate_every=6000,
            checkpoint_every=6000,
            optimizer=Optimizer(learning_rate=3e-4),
        ),
        paper="Kingma, Mohamed, Rezende, Welling 2014",
    ),
}
