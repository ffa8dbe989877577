"""DALL-E's discrete VAE: a bound with codes as latents, made differentiable by relaxed draws (Ramesh et al. 2021).

The encoder returns logits of codes at each position of a map, q(z|x) being independent softmaxes. The decoder is given
softmax((logits + g) / temperature) instead of a draw of q, g of the Gumbel distribution. What is minimised is

    (-log p(x|z) + beta KL(q(z|x) || uniform)) / (numbers in an image),

both sums over an image, with a logit-Laplace likelihood. Along half a cosine the temperature falls from 1 to 1/16, beta
rises from 0 to 6.6 and the learning rate falls. All of this is the paper's (appendix A.2 and A.3).

Held-out numbers are the bound with draws of q (`elbo`), what the relaxation at the last temperature makes of it
(`relaxed_elbo`, no bound) and the difference (`gap`). Images are drawn from codes that are all alike, each by itself:
the prior of the bound, but hardly pictures.

Deviations: no random crops; one precision, where the paper computes most in half. `emoji-dvae` is ours.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxgen import network, objective, optim, sharding
from jaxgen.arguments import check_key
from jaxgen.losses.variational import logit_laplace as likelihood
from jaxgen.metrics import codes as of_codes
from jaxgen.models import dvae as networks
from jaxgen.models import quantise
from jaxgen.options import Data, Optimizer, Run
from jaxgen.ranges import Count, Positive, Weight
from jaxgen.system import Measure, Spec, System
from jaxgen.systems.preset import Preset, Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Run):
    """A discrete VAE, for images whose sides are multiples of 2^(groups - 1)."""

    num_codes: Count = 8192
    """Codes at each position."""
    features: Count = 256
    """Channels of the groups of blocks next to the image, doubled by each further one; a multiple of 4."""
    first: Count = 128
    """Channels of the decoder's first map."""
    groups: Count = 4
    """Groups of blocks, between which maps are halved and doubled."""
    blocks: Count = 2
    """Residual blocks of a group."""
    temperature: Positive = 1 / 16
    """Of the relaxation after temperature_steps; 1 at first."""
    temperature_steps: Count = 150_000
    """Steps over which it falls."""
    beta: Weight = 6.6
    """Weight of the rate after beta_steps; 0 at first."""
    beta_steps: Count = 5000
    """Steps over which it rises."""
    last_rate: Positive = 1.25e-6
    """The learning rate after rate_steps; at first the optimiser's own."""
    rate_steps: Count = 1_200_000
    """Steps over which it falls."""
    optimizer: Optimizer = Optimizer("adamw", learning_rate=1e-4, weight_decay=1e-4)
    """Of encoder and decoder, as it is at first."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a schedule beside the recipe's; when it is traced, for features that are no multiple of 4, or
        sides that cannot be halved so often.
    """
    if config.optimizer.schedule != "constant":
        raise ValueError("the rate follows --last-rate and --rate-steps: --optimizer.schedule must be constant")
    num_codes, schedule = config.num_codes, optim.half_cosine
    sizes = {"features": config.features, "groups": config.groups, "blocks": config.blocks, "dtype": config.dtype}
    encoder = networks.Encoder(num_codes, **sizes)
    decoder = networks.Decoder(spec.image_shape[2], config.first, **sizes)
    quantiser = quantise.GumbelQuantiser(num_codes)
    temperature = schedule(1.0, config.temperature, config.temperature_steps)
    beta = schedule(0.0, config.beta, config.beta_steps)
    rate = schedule(config.optimizer.learning_rate, config.last_rate, config.rate_steps)
    optimizer = config.optimizer.build(config.num_steps, rate=rate)
    sides = tuple(side >> (config.groups - 1) for side in spec.image_shape[:2])

    def negative_bound(params, old, batch, key, step):
        image = network.images_of(batch)
        logits, encoder_state = network.apply(encoder, params["encoder"], old["encoder"], image, key=key)
        found, _ = network.apply(quantiser, {}, {}, logits, temperature(step), key=key)
        output, decoder_state = network.apply(decoder, params["decoder"], old["decoder"], found.vectors, key=key)
        distortion = -jnp.mean(likelihood.log_prob(output, image))
        loss = (distortion + beta(step) * found.loss) / math.prod(spec.image_shape)
        metrics = {"loss": loss, "relaxed_elbo": -distortion - found.loss, "distortion": distortion}
        metrics |= {"temperature": temperature(step), "beta": beta(step), **found.metrics}
        return loss, ({"encoder": encoder_state, "decoder": decoder_state}, metrics)

    def init(key):
        def new(key):
            keys, image = jax.random.split(key), jnp.zeros((2, *spec.image_shape))
            logits, of_encoder = network.init_with_output(encoder, keys[0], image, name="encoder")
            _, of_decoder = network.init_with_output(decoder, keys[1], logits, name="decoder")
            return objective.init_group({"encoder": of_encoder, "decoder": of_decoder}, optimizer=optimizer)

        return network.compiled_init(new, key)

    def logits_of(variables, batch):
        image = network.images_of(batch)
        return network.evaluate(encoder, network.member(variables, "encoder"), image, what="images")

    def decoded(variables, vectors):
        return network.evaluate(decoder, network.member(variables, "decoder"), vectors, what="codes")

    def of_batch(variables, batch, key):
        check_key(key)
        logits = logits_of(variables, batch)
        noise = sharding.draw(jax.random.gumbel, key, logits.shape)
        drawn = jax.nn.one_hot(jnp.argmax(logits + noise, axis=-1), num_codes)
        relaxed = quantise.relaxed(logits, noise, config.temperature)
        hard, soft = (likelihood.log_prob(decoded(variables, z), batch["image"]) for z in (drawn, relaxed))
        rate = quantise.rate_to_uniform(logits)
        codes = jnp.argmax(logits, axis=-1).reshape(len(logits), -1)
        bounds = {"elbo": hard - rate, "relaxed_elbo": soft - rate, "gap": soft - hard}
        return bounds | {"distortion": -hard, "rate": rate, "codes": codes}

    def encode(variables, batch):
        return jnp.argmax(logits_of(variables, batch), axis=-1).astype(jnp.int32)

    def decode(variables, codes):
        return likelihood.mean(decoded(variables, quantiser.apply({}, codes, method="embed")))

    return System(
        init=init,
        train_step=objective.make_train_step(
            negative_bound,
            optimizer=optimizer,
            ema_decay=config.ema_decay,
            gradients=config.gradients,
            variables_of=objective.variables_of_group,
        ),
        images_per_step=config.batch_size,
        draw=lambda variables, key, n: decode(variables, quantise.uniform_codes(key, (n, *sides), num_codes)),
        latents=lambda key, n: quantise.uniform_codes(key, (n, *sides), num_codes),
        decode=decode,
        encode=encode,
        reconstruct=lambda variables, batch: decode(variables, encode(variables, batch)),
        measure=Measure(of_batch, lambda rows: of_codes.summarize(rows, num_codes), best="elbo"),
        protocol={
            "latents": "codes, all alike at each position by itself: the prior of the bound",
            "images": "medians of the decoder's distribution (logit-Laplace), not draws from it",
            **config.weights,
        },
        name="discrete VAE",
    )


_SHORT: Settings = {"batch_size": 8, "num_steps": 4, "temperature_steps": 4, "beta_steps": 2}
TINY = Config(data=Data("emoji", image_size=16), num_codes=6, features=4, first=3, groups=2, blocks=1, **_SHORT)

_PAPER = "Ramesh, Pavlov, Goh, Gray, Voss, Radford, Chen and Sutskever 2021"

PRESETS = {
    "emoji-dvae": Preset(
        "32x32 colour emoji as 8x8 codes of 256, by a narrow discrete VAE",
        Config(
            data=Data("emoji", image_size=32),
            num_codes=256,
            features=32,
            first=64,
            groups=3,
            blocks=1,
            beta=2.0,
            num_steps=2000,
            temperature_steps=1500,
            beta_steps=500,
            rate_steps=2000,
            last_rate=1e-5,
            optimizer=Optimizer("adamw", learning_rate=1e-3, weight_decay=1e-4),
            ema_half_life=10_000,
            evaluate_every=500,
        ),
        paper=_PAPER,
    ),
    "dalle-dvae": Preset(
        "photographs at 256 pixels as 32x32 codes of 8192, by DALL-E's discrete VAE; give --data.path",
        Config(
            data=Data("folder", path="images", image_size=256, labelled=False),
            batch_size=512,
            num_steps=3_000_000,
            ema_half_life=355_000,  # images; 0.999 a step
            evaluate_every=10_000,
        ),
        paper=_PAPER,
        spec=((256, 256, 3), 0),
    ),
}
