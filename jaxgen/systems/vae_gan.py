"""VAE-GAN: a variational autoencoder whose errors are those of a discriminator's features (Larsen et al. 2016).

With z ~ q(z|x), x~ = Dec(z), x_p = Dec(z_p) for z_p ~ N(0, 1), f(x) a map of the discriminator, and

    L_prior = KL(q(z|x) || N(0, 1)),    L_features = sum (f(x) - f(x~))^2 / 2,    both of an image,
    L_GAN   = the discriminator's loss with x as real, and x~ and x_p as fake images,

each network minimises its own sum (algorithm 1), and each moves along its own alone:

    encoder         L_prior + L_features           no adversary reaches it
    decoder         gamma L_features - L_GAN       with `minimax`; other losses have a generator's of their own
    discriminator   L_GAN                          no error of features reaches it

A network waits while its opponent is too weak (the authors' code): with the costs E -log D(x) and E -log(1 - D(fake)),
the discriminator stays where it is while one is below `equilibrium` - `margin`, the decoder while one is above
`equilibrium` + `margin`; if both would, both move.

Deviations: x~ and x_p weigh one half each as fake images; `celeba-vae-gan` shows x_p alone, as the authors' settings
do. f is the last convolution's output before its normalisation, our reading of "layer 9". The rate is constant.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxgen import sharding, vae
from jaxgen.losses import adversarial, variational
from jaxgen.models import vae_gan as networks
from jaxgen.options import LOSSES, Data, Optimizer, lookup
from jaxgen.ranges import Count, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import three_networks

RMSPROP = Optimizer("rmsprop", learning_rate=3e-4, b1=0.0, b2=0.9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(three_networks.ThreeNetworks):
    """A variational autoencoder with a discriminator of images, for images whose sides are multiples of 8."""

    features: Count = 64
    """Channels of the encoder's first map, four times as many of its last; the others' follow; an even number."""
    encoder_hidden: Count = 2048
    """Units of the encoder's dense layer."""
    discriminator_hidden: Count = 512
    """Units of the discriminator's dense layer."""
    gamma: Weight = 1e-6
    """Weight of the errors of features in the decoder's objective."""
    loss: Literal[*LOSSES] = "minimax"
    """Of the discriminator, and of the decoder against it."""
    judge_reconstructions: bool = True
    """Show the discriminator reconstructions as fake images, too, beside what is drawn."""
    equilibrium: Weight = 0.68
    """Cost around which both sides of the game are held."""
    margin: Weight = 0.0
    """How far from it before the stronger side waits; 0: none ever does."""
    encoder: Optimizer = RMSPROP
    """The encoder's optimiser."""
    decoder: Optimizer = RMSPROP
    """The decoder's optimiser."""
    discriminator: Optimizer = RMSPROP
    """The discriminator's optimiser."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for sides that are no multiples of 8.
    """
    networks.check_sides(spec.image_shape)
    loss = lookup(LOSSES, config.loss, "loss")

    def objectives(players, batch, key, step):
        image, keys = batch["image"], jax.random.split(key)
        mean, logvar = players.encode(image)
        noise, prior = (sharding.draw(jax.random.normal, k, mean.shape) for k in keys)
        again, new = players.decode(vae.reparameterize(mean, logvar, noise)), players.decode(prior)
        real, map_of_image = players.discriminate(image)
        of_again, map_of_again = players.discriminate(again)
        of_new, _ = players.discriminate(new)
        fakes = [of_again, of_new] if config.judge_reconstructions else [of_new]
        rate = jnp.mean(variational.gaussian_kl(mean, logvar))
        of_features = 0.5 * jnp.mean(jnp.sum(jnp.square(map_of_image - map_of_again), axis=(1, 2, 3)))
        of_decoder, of_discriminator = (
            sum(jnp.mean(side(real, fake)) for fake in fakes) / len(fakes)
            for side in (loss.generator, loss.discriminator)
        )
        losses = {
            "encoder": rate + of_features,
            "decoder": config.gamma * of_features + of_decoder,
            "discriminator": of_discriminator,
        }
        costs = {
            "real": jnp.mean(adversarial.softplus(-real)),
            "fake": sum(jnp.mean(adversarial.softplus(fake)) for fake in fakes) / len(fakes),
        }
        metrics = {"rate": rate, "feature_distortion": of_features}
        return losses, metrics | {f"discriminator/{side}_cost": cost for side, cost in costs.items()}

    return three_networks.build(
        config,
        spec,
        networks.Encoder(config.latent_dim, config.features, config.encoder_hidden, dtype=config.dtype),
        networks.Decoder(spec.image_shape, config.features, dtype=config.dtype),
        networks.Discriminator(config.features, config.discriminator_hidden, dtype=config.dtype),
        objectives,
        name="VAE-GAN",
        moves=lambda metrics: who_moves(metrics, config.equilibrium, config.margin) if config.margin > 0 else {},
    )


def who_moves(metrics: dict[str, jax.Array], equilibrium: float, margin: float) -> dict[str, jax.Array]:
    """Whether discriminator and decoder move, from the costs of real and of fake images in nats."""
    costs = jnp.stack([metrics["discriminator/real_cost"], metrics["discriminator/fake_cost"]])
    strong, weak = jnp.any(costs < equilibrium - margin), jnp.any(costs > equilibrium + margin)
    return {"discriminator": ~strong | weak, "decoder": ~weak | strong}


_FEW: Settings = {"features": 4, "latent_dim": 3, "encoder_hidden": 8, "discriminator_hidden": 8}
TINY = Config(data=Data("emoji", image_size=16), margin=0.35, batch_size=8, num_steps=4, **_FEW)

_PAPER = "Larsen, Sonderby, Larochelle and Winther 2016"
_ADAM = Optimizer(b1=0.5)

PRESETS = {
    "emoji-vae-gan": Preset(
        "32x32 colour emoji by a narrow VAE-GAN",
        Config(
            data=Data("emoji", image_size=32),
            latent_dim=64,
            features=32,
            encoder_hidden=512,
            discriminator_hidden=256,
            gamma=1e-4,
            loss="non_saturating",
            margin=0.4,
            num_steps=5000,
            encoder=_ADAM,
            decoder=_ADAM,
            discriminator=_ADAM,
            ema_half_life=10_000,
        ),
        paper=_PAPER,
    ),
    "celeba-vae-gan": Preset(
        "faces at 64 pixels by VAE-GAN as published; give --data.path",
        Config(
            data=Data("folder", path="celeba", image_size=64, labelled=False),
            judge_reconstructions=False,
            margin=0.35,
            num_steps=100_000,
            checkpoint_every=5000,
        ),
        paper=_PAPER,
        spec=((64, 64, 3), 0),
    ),
}
