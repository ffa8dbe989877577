"""A system of a user's own, as a file: images are a learnt mean and a learnt deviation for each pixel."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen import network, objective
from jaxgen.options import Data, Optimizer, Run
from jaxgen.system import Measure, System
from jaxgen.systems.preset import Preset


class Pixels(nn.Module):
    shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, *, train):
        mean = self.param("mean", nn.initializers.zeros, self.shape)
        return mean, self.param("log_deviation", nn.initializers.zeros, self.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Run):
    """Independent pixels."""

    noise: float = 1.0
    """How much of the deviation is drawn."""
    optimizer: Optimizer = Optimizer(name="sgd", b1=0.0, learning_rate=0.1)
    """Of both."""


def build(config, spec):
    model, optimizer = Pixels(spec.image_shape), config.optimizer.build(config.num_steps)

    def nll(variables, image):
        mean, log_deviation = variables
        return jnp.sum(0.5 * ((image - mean) / jnp.exp(log_deviation)) ** 2 + log_deviation, axis=(1, 2, 3))

    def loss(params, model_state, batch, key, step):
        output, model_state = network.apply(model, params, model_state, key=key)
        value = jnp.mean(nll(output, batch["image"])) / 784
        return value, (model_state, {"loss": value})

    def draw(variables, key, n):
        mean, log_deviation = model.apply(variables, train=False)
        noise = config.noise * jax.random.normal(key, (n, *spec.image_shape))
        return jnp.clip(mean + jnp.exp(log_deviation) * noise, -1, 1)

    return System(
        init=lambda key: objective.init(model.init(key, train=True), optimizer=optimizer),
        train_step=objective.make_train_step(loss, optimizer=optimizer, ema_decay=config.ema_decay),
        images_per_step=config.batch_size,
        draw=draw,
        measure=Measure(
            lambda variables, batch, key: {"nll": nll(model.apply(variables, train=False), batch["image"])},
            lambda rows: {"nll": float(rows["nll"].mean())},
            best="nll",
            mode="min",
        ),
        protocol={"images": "clipped to [-1, 1]", **config.weights},
        name="independent pixels",
    )


SHORT = {"batch_size": 8, "num_steps": 4, "num_devices": 1, "checkpoint_every": 2, "log_every": 2}
PRESETS = {
    "pixels": Preset("every pixel by itself", Config(**SHORT)),
    "quiet-pixels": Preset("with less noise", Config(**SHORT, data=Data(image_size=32), noise=0.1)),
}
