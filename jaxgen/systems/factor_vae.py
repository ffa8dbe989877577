"""FactorVAE: a variational autoencoder whose latents shall not depend on each other (Kim and Mnih 2018).

Beside the bound, the encoder minimises gamma times the total correlation KL(q(z) || product of q(z_j)), which is
estimated by a discriminator of latents that tells draws of q(z) (real) from ones whose columns are permuted over the
batch (fake): its best logit is log q(z) - log product of q(z_j), and its mean over draws of q(z) the total correlation.

    encoder         distortion + rate + gamma E logit(z)
    decoder         distortion
    discriminator   -log D(z) - log(1 - D(permuted z))

Deviations: z and the permuted z are of one batch, where the paper takes a second one. All networks move at once.
The autoencoder is the convolutional one of `vae`, or its perceptrons.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxgen import sharding, vae
from jaxgen.losses import adversarial, latent, variational
from jaxgen.metrics import amortisation
from jaxgen.models import pairs
from jaxgen.options import LIKELIHOODS, Data, Optimizer, lookup
from jaxgen.ranges import Count, Weight
from jaxgen.system import Inference, Measure, Spec, System
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import autoencoder, three_networks

VAE_ADAM = Optimizer(learning_rate=1e-4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(three_networks.ThreeNetworks):
    """A variational autoencoder with a discriminator of latents."""

    model: Literal["mlp", "conv"] = "conv"
    """The autoencoder: fully connected (binarised images) or convolutional (28 to 64 pixels)."""
    latent_dim: Count = 10
    """Numbers that the encoder describes an image with."""
    features: Count = 32
    """Of the outermost hidden layer of the convolutional model."""
    likelihood: Literal[*LIKELIHOODS] = "bernoulli"
    """Of pixels given the latents; bernoulli is for binarised images."""
    gamma: Weight = 10.0
    """Weight of the total correlation, in nats."""
    discriminator_widths: tuple[Count, ...] = (1000,) * 6
    """Units of the hidden layers of the discriminator."""
    encoder: Optimizer = VAE_ADAM
    """The encoder's optimiser."""
    decoder: Optimizer = VAE_ADAM
    """The decoder's optimiser."""
    discriminator: Optimizer = Optimizer(learning_rate=1e-4, b1=0.5, b2=0.9)
    """The discriminator's optimiser."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a likelihood that the model or the data do not fit.
    """
    likelihood = lookup(LIKELIHOODS, config.likelihood, "likelihood")
    encoder, decoder = autoencoder.networks(config, spec)
    loss = adversarial.non_saturating.discriminator

    def objectives(players, batch, key, step):
        noise_key, order_key = jax.random.split(key)
        mean, logvar = players.encode(batch["image"])
        z = vae.reparameterize(mean, logvar, sharding.draw(jax.random.normal, noise_key, mean.shape))
        distortion = -jnp.mean(likelihood.log_prob(players.decode(z), batch["image"]))
        rate = jnp.mean(variational.gaussian_kl(mean, logvar))
        logits = players.discriminate(z)
        of_permuted = players.discriminate(latent.permuted(order_key, z))
        correlation = jnp.mean(logits)
        losses = {
            "encoder": distortion + rate + config.gamma * correlation,
            "decoder": distortion,
            "discriminator": jnp.mean(loss(logits, of_permuted)),
        }
        found = {"elbo": -distortion - rate, "distortion": distortion, "rate": rate}
        return losses, found | {"total_correlation": correlation}

    system = three_networks.build(
        config,
        spec,
        encoder,
        decoder,
        pairs.CodeDiscriminator(config.discriminator_widths, slope=0.2, dtype=config.dtype),
        objectives,
        name="FactorVAE",
        judged=three_networks.code_alone,
        picture=likelihood.mean,
    )
    bound = Measure(vae.make_eval_step(encoder, decoder, likelihood=likelihood), vae.summarize, best="elbo")
    inference = Inference(*amortisation.make_inference(encoder, decoder, likelihood=likelihood))
    return dataclasses.replace(system, measure=bound, inference=inference)


TINY = Config(
    likelihood="discretized_logistic",
    features=2,
    latent_dim=3,
    discriminator_widths=(5, 4),
    batch_size=8,
    num_steps=4,
)

PRESETS = {
    "mnist-factor-vae": Preset(
        "dynamically binarised digits as 10 numbers, by FactorVAE",
        Config(data=Data(binarise="dynamic"), num_steps=20_000, evaluate_every=5000),
        paper="Kim and Mnih 2018",
    ),
    "factors-factor-vae": Preset(
        "shapes of known factors as ten numbers, by FactorVAE at the paper's gamma for dSprites",
        Config(**autoencoder.SHAPES, gamma=35.0),
        paper="Kim and Mnih 2018",
    ),
}
