"""The variational autoencoder (Kingma and Welling 2014), with beta, free bits and the importance-weighted bound.

The fully connected network is the one-layer one of Burda, Grosse and Salakhutdinov (2016), 784-200-200-50; the
convolutional one is ours.
"""

import dataclasses
from typing import Any, Literal

import jax
import optax
from flax import linen as nn

from jaxgen import sharding, vae
from jaxgen.metrics import likelihood as likelihoods
from jaxgen.models import conv_vae, mlp
from jaxgen.options import LIKELIHOODS, Data, Optimizer, Run, lookup, square_size
from jaxgen.ranges import Count, CountOrZero, Weight
from jaxgen.system import Between, Measure, Spec, System
from jaxgen.systems.preset import Preset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Run):
    """A variational autoencoder."""

    model: Literal["mlp", "conv"] = "mlp"
    """The networks: fully connected (binarised images) or convolutional (28 to 64 pixels)."""
    latent_dim: Count = 50
    """Numbers that the encoder describes an image with."""
    features: Count = 32
    """Of the outermost hidden layer of the convolutional model."""
    likelihood: Literal[*LIKELIHOODS] = "bernoulli"
    """Of pixels given the latents; bernoulli is for binarised images."""
    beta: Weight = 1.0
    """Weight of the rate (KL divergence) in the loss."""
    kl_warmup_steps: CountOrZero = 0
    """Steps over which beta rises linearly from 0."""
    free_bits: Weight = 0.0
    """Nats for each latent unit below which its rate is not pushed."""
    num_samples: Count = 1
    """Latents for each image."""
    importance_weighted: bool = False
    """Maximise the importance-weighted bound with num_samples (IWAE)."""
    eval_samples: Count = 1
    """k of the importance-weighted bound in evaluation."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-3)
    """Of encoder and decoder."""


def networks(config: Any, spec: Spec) -> tuple[nn.Module, nn.Module]:
    """(encoder, decoder) for images of a shape, of settings `model`, `latent_dim`, `features`, `likelihood` and `data`.

    Raises:
      ValueError: for a likelihood that the model or the data do not fit.
    """
    if config.likelihood == "bernoulli" and config.data.binarise == "none":
        raise ValueError(
            "a Bernoulli likelihood needs binarised images: --data.binarise dynamic (MNIST), or choose "
            "--likelihood discretized_logistic for images of 256 levels"
        )
    if config.model == "mlp":
        if config.likelihood != "bernoulli":
            raise ValueError("the MLP decoder returns Bernoulli logits; use --model conv for other likelihoods")
        encoder: nn.Module = mlp.Encoder(config.latent_dim, dtype=config.dtype)
        return encoder, mlp.BernoulliDecoder(spec.image_shape, dtype=config.dtype)
    size, channels = square_size(spec.image_shape, "the convolutional VAE"), spec.image_shape[2]
    learned_width = config.likelihood != "bernoulli"
    encoder = conv_vae.Encoder(config.latent_dim, config.features, dtype=config.dtype)
    return encoder, conv_vae.Decoder(size, channels, config.features, learned_width=learned_width, dtype=config.dtype)


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape."""
    likelihood = lookup(LIKELIHOODS, config.likelihood, "likelihood")
    encoder, decoder = networks(config, spec)
    optimizer = config.optimizer.build(config.num_steps)
    beta = config.beta
    if config.kl_warmup_steps:
        beta = optax.linear_schedule(0.0, config.beta, config.kl_warmup_steps)
    # Many samples go in chunks: all at once would not fit into memory.
    make_eval_step = vae.make_eval_step if config.eval_samples <= 50 else likelihoods.make_eval_step

    def latents(key, n, temperature=1.0):
        return temperature * sharding.draw(jax.random.normal, key, (n, config.latent_dim))

    def decode(variables, z):
        return vae.sample(decoder, variables, z, likelihood=likelihood)

    drawn = f"means of the decoder's distribution ({config.likelihood}), not draws from it"
    if config.data.binarise != "none":
        drawn += f"; trained on binarised images ({config.data.binarise}), compared with images as stored"
    return System(
        init=lambda key: vae.init(key, encoder, decoder, optimizer=optimizer, image_shape=spec.image_shape),
        train_step=vae.make_train_step(
            encoder,
            decoder,
            optimizer=optimizer,
            likelihood=likelihood,
            beta=beta,
            free_bits=config.free_bits,
            num_samples=config.num_samples,
            importance_weighted=config.importance_weighted,
            ema_decay=config.ema_decay,
            gradients=config.gradients,
        ),
        images_per_step=config.batch_size,
        draw=lambda variables, key, n, **told: decode(variables, latents(key, n, **told)),
        choices={"temperature": Between(0.0, 2.0, "standard deviation of latents")},
        latent_choices=("temperature",),
        latents=latents,
        decode=decode,
        encode=lambda variables, batch: vae.encode(encoder, variables, batch["image"]).mean,
        reconstruct=lambda variables, batch: vae.reconstruct(
            encoder, decoder, variables, batch["image"], likelihood=likelihood
        ),
        measure=Measure(
            make_eval_step(encoder, decoder, likelihood=likelihood, num_samples=config.eval_samples),
            vae.summarize,
            best="elbo",
        ),
        protocol={"latents": "standard normal, not truncated", "images": drawn, **config.weights},
        name="VAE",
    )


TINY = Config(
    model="conv", likelihood="discretized_logistic", features=2, latent_dim=3, batch_size=8, num_steps=4, beta=2.0
)

_BURDA: dict[str, Any] = {
    "data": Data(binarise="dynamic"),
    "batch_size": 100,
    "log_every": 500,
    **dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 6000),
    "optimizer": Optimizer(learning_rate=1e-3, schedule="cosine"),
}

PRESETS = {
    "mnist-vae": Preset(
        "the one-layer VAE of the IWAE paper (784-200-200-50) on dynamically binarised digits",
        Config(**_BURDA, num_steps=60_000),
        paper="Kingma and Welling 2014; network and data of Burda, Grosse, Salakhutdinov 2016",
    ),
    "mnist-iwae": Preset(
        "the same network trained on the importance-weighted bound with 5 samples",
        Config(**_BURDA, num_steps=30_000, num_samples=5, importance_weighted=True, eval_samples=50),
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
