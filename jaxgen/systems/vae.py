"""The variational autoencoder (Kingma and Welling 2014), with beta, free bits and the importance-weighted bound.

The fully connected network is the one-layer one of Burda, Grosse and Salakhutdinov (2016), 784-200-200-50; the
convolutional one is ours.
"""

import dataclasses
from typing import Any

import optax

from jaxgen.options import Data, Optimizer
from jaxgen.ranges import CountOrZero, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import autoencoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(autoencoder.Autoencoder):
    """A variational autoencoder."""

    beta: Weight = 1.0
    """Weight of the rate (KL divergence) in the loss."""
    kl_warmup_steps: CountOrZero = 0
    """Steps over which beta rises linearly from 0."""
    free_bits: Weight = 0.0
    """Nats for each latent unit below which its rate is not pushed."""
    importance_weighted: bool = False
    """Maximise the importance-weighted bound with num_samples (IWAE)."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape."""
    encoder, decoder = autoencoder.networks(config, spec)
    beta: Any = config.beta
    if config.kl_warmup_steps:
        beta = optax.linear_schedule(0.0, config.beta, config.kl_warmup_steps)
    return autoencoder.build(
        config,
        spec,
        encoder,
        decoder,
        name="VAE",
        beta=beta,
        free_bits=config.free_bits,
        importance_weighted=config.importance_weighted,
    )


TINY = Config(
    model="conv", likelihood="discretized_logistic", features=2, latent_dim=3, batch_size=8, num_steps=4, beta=2.0
)

PRESETS = {
    "mnist-vae": Preset(
        "the one-layer VAE of the IWAE paper (784-200-200-50) on dynamically binarised digits",
        Config(**autoencoder.DIGITS, num_steps=60_000),
        paper="Kingma and Welling 2014; network and data of Burda, Grosse, Salakhutdinov 2016",
    ),
    "mnist-iwae": Preset(
        "the same network trained on the importance-weighted bound with 5 samples",
        Config(**autoencoder.DIGITS, num_steps=30_000, num_samples=5, importance_weighted=True, eval_samples=50),
        paper="Burda, Grosse, Salakhutdinov 2016",
    ),
    "emoji-vae": Preset(
        "32x32 colour emoji by a convolutional VAE with a discretised logistic likelihood",
        Config(
            data=Data("emoji", image_size=32),
            model="conv",
            latent_dim=32,
            likelihood="discretized_logistic",
            beta=20.0,  # 3,341 images: with 1 it learns them by heart, with a worse test ELBO and no samples
            num_steps=6000,
            evaluate_every=1000,
            kl_warmup_steps=1000,
            optimizer=Optimizer(learning_rate=5e-4, schedule="cosine", skip_norm=1e5),
            ema_half_life=10_000,
        ),
        paper="Higgins et al. 2017; likelihood of Salimans et al. 2017 with one component",
    ),
}
