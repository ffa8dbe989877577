"""Convolutional classifiers (LeCun, Bottou, Bengio, Haffner 1998, in today's parts): the judges of generated images."""

import dataclasses
import functools

from jaxgen import classifier, data
from jaxgen.models import cnn
from jaxgen.options import Data, Optimizer, Run
from jaxgen.ranges import Count, CountOrZero, Share
from jaxgen.system import Measure, Spec, System
from jaxgen.systems.preset import Preset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Run):
    """A convolutional classifier."""

    widths: tuple[Count, ...] = (32, 64, 128)
    """Features of each 3x3 convolution; a 2x2 pooling follows each."""
    dropout: Share = 0.3
    """Share of the last features that a train step leaves out."""
    shift: CountOrZero = 2
    """Augmentation: random shifts by up to so many pixels."""
    label_smoothing: Share = 0.0
    """Share of each label that is spread over all classes."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-3, schedule="cosine")
    """Of the classifier."""


def build(config: Config, spec: Spec) -> System:
    """The system for labelled images.

    Raises:
      ValueError: for data without labels.
    """
    if not spec.num_classes:
        raise ValueError("a classifier needs labels, and these data have none; put images into one folder a class")
    model = cnn.CNN(spec.num_classes, config.widths, dropout=config.dropout, dtype=config.dtype)
    optimizer = config.optimizer.build(config.num_steps)
    return System(
        init=lambda key: classifier.init(key, model, optimizer=optimizer, image_shape=spec.image_shape),
        train_step=classifier.make_train_step(
            model,
            optimizer=optimizer,
            augment=functools.partial(data.random_shift, pixels=config.shift) if config.shift else None,
            label_smoothing=config.label_smoothing,
            ema_decay=config.ema_decay,
            gradients=config.gradients,
        ),
        images_per_step=config.batch_size,
        classify=lambda variables, images: model.apply(variables, images, train=False),
        measure=Measure(classifier.make_eval_step(model), classifier.summarize, best="accuracy"),
        protocol=config.weights,
        backbone=model,
        name="classifier",
    )


TINY = Config(widths=(4, 4), batch_size=8, num_steps=4)

PRESETS = {
    "mnist-cnn": Preset(
        "a convolutional classifier of digits, the judge of generated ones",
        Config(batch_size=100, num_steps=4800, evaluate_every=600, checkpoint_every=600, ema_half_life=20_000),
        paper="LeCun, Bottou, Bengio, Haffner 1998",
    ),
    "emoji-cnn": Preset(
        "a convolutional classifier of 32x32 emoji into 9 categories, for the features of the metrics",
        Config(
            data=Data("emoji", image_size=32),
            batch_size=100,
            num_steps=800,  # of 3341 images; later it only learns them by heart
            evaluate_every=200,
            checkpoint_every=200,
            dropout=0.5,
            ema_half_life=20_000,
        ),
        paper="LeCun, Bottou, Bengio, Haffner 1998",
    ),
}
