"""Importance weighted autoencoders (Burda, Grosse and Salakhutdinov 2016), and their later estimators.

The paper's networks: one stochastic layer of 50 latents, 784-200-200-50 (425,284 parameters), or two of 100 and 50,
784-200-200-100-100-100-50 (521,084). Its twelve results: `--layers 1|2 --bound elbo|iwae --num-samples 1|5|50`. Other
bounds: MIWAE, CIWAE and PIWAE (Rainforth et al. 2018), STL (Roeder et al. 2017), DReG (Tucker et al. 2019).

Eight stages of 3^i passes (schedule `stages`), from rate 1e-3 to 1e-4, batches of 20, Adam with epsilon 1e-4, as in the
paper; `-short` presets take batches of 100, Adam's usual epsilon and a cosine. Ours: the rate of `elbo` with one layer
is the formula's, all biases start at 0, and pixels go in as 0 and 1.
"""

import dataclasses
from typing import Any, Literal

from jaxgen.losses import bounds
from jaxgen.models import mlp, two_layers
from jaxgen.options import Data, Optimizer, lookup
from jaxgen.ranges import Count, WholeShare
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import autoencoder

BOUNDS = {
    "elbo": lambda config: None if config.layers == 1 else bounds.elbo,
    "iwae": lambda config: bounds.iwae,
    "stl": lambda config: bounds.stl,
    "dreg": lambda config: bounds.dreg,
    "miwae": lambda config: bounds.miwae(config.groups),
    "ciwae": lambda config: bounds.ciwae(config.elbo_share),
    "piwae": lambda config: bounds.piwae(config.groups),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(autoencoder.Autoencoder):
    """An autoencoder of binarised images, trained on a bound with several samples."""

    model: Literal["mlp"] = "mlp"
    """The networks: fully connected."""
    likelihood: Literal["bernoulli"] = "bernoulli"
    """Of pixels given the latents."""
    data: Data = Data(binarise="dynamic")
    """Which images, and how they are prepared: binarise dynamic draws pixels anew at every visit, static once."""
    layers: Literal[1, 2] = 1
    """Stochastic layers."""
    first_latent_dim: Count = 100
    """Of two layers the latents of that which the decoder sees; latent_dim are those of the other."""
    width: Count = 200
    """Of the hidden layers between pixels and latents; half of it between two layers of latents."""
    num_samples: Count = 5
    """k, latents for each image."""
    bound: Literal[*BOUNDS] = "iwae"
    """What is maximised: elbo is the VAE's, stl and dreg are other gradients of elbo and iwae."""
    groups: Count = 1
    """For miwae and piwae: m, into which the samples are divided."""
    elbo_share: WholeShare = 0.05
    """For ciwae: the ELBO's share of the bound."""
    batch_size: Count = 20
    """Images in a step."""
    optimizer: Optimizer = Optimizer(learning_rate=1e-3, eps=1e-4, schedule="stages")
    """Of all networks; by default that of the paper."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for grey images, or samples that cannot be divided into groups.
    """
    autoencoder.check_bernoulli(config)
    if config.bound in ("miwae", "piwae") and config.num_samples % config.groups:
        raise ValueError(
            f"{config.num_samples} samples cannot be divided into {config.groups} groups: make --num-samples a multiple"
        )
    widths, dtype = (config.width, config.width), config.dtype
    parts: dict[str, Any] = {}
    if config.layers == 1:
        encoder = mlp.Encoder(config.latent_dim, widths, dtype)
        decoder = mlp.BernoulliDecoder(spec.image_shape, widths, dtype)
    else:
        first, between = config.first_latent_dim, (config.width // 2, config.width // 2)
        encoder = mlp.Encoder(first, widths, dtype)
        decoder = mlp.BernoulliDecoder(spec.image_shape, widths, dtype, latent_dim=first)
        parts = {
            "posterior": two_layers.Posterior(first, config.latent_dim, between, dtype),
            "prior": two_layers.Prior(first, config.latent_dim, between, dtype),
            "prior_in_words": "standard normal, and through the learned layer below it",
        }
    return autoencoder.build(
        config,
        spec,
        encoder,
        decoder,
        name="IWAE",
        bound=lookup(BOUNDS, config.bound, "bound")(config),
        **parts,
    )


TINY = Config(layers=2, width=8, latent_dim=3, first_latent_dim=4, num_samples=4, batch_size=8, num_steps=4)

PAPER: Settings = {
    "num_steps": 9_840_000,  # 3,280 passes
    "num_samples": 50,
    "eval_samples": 50,
    **dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 100_000),
    "log_every": 3000,
}
SHORT: Settings = PAPER | {
    "batch_size": 100,
    "num_steps": 120_000,  # 200 passes
    "optimizer": Optimizer(learning_rate=1e-3, schedule="cosine"),
    **dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 30_000),
}
TABLE = "test NLL by 5,000 samples, dynamic binarisation"

PRESETS = {
    "mnist-iwae-1": Preset(
        "one stochastic layer on the importance-weighted bound of 50 samples, as published: 3,280 passes",
        Config(**PAPER),
        paper="Burda, Grosse, Salakhutdinov 2016",
        published=f"{TABLE}: k = 1, 5, 50: VAE 86.76, 86.47, 86.35; IWAE 86.76, 85.54, 84.78",
    ),
    "mnist-iwae-2": Preset(
        "two stochastic layers on the importance-weighted bound of 50 samples, as published: 3,280 passes",
        Config(**PAPER, layers=2),
        paper="Burda, Grosse, Salakhutdinov 2016",
        published=f"{TABLE}: k = 1, 5, 50: VAE 85.33, 85.01, 84.78; IWAE 85.33, 83.89, 82.90",
    ),
    "mnist-iwae-1-short": Preset(
        "one stochastic layer, 200 passes along a cosine in batches of 100 instead of 3,280 in stages",
        Config(**SHORT),
        paper="Burda, Grosse, Salakhutdinov 2016",
        measured="of the VAE with k = 1, --bound elbo --num-samples 1: test NLL 89.4 nats by 5,000 samples, ELBO "
        "-93.0, 16 units active, 10 minutes; k = 5 and 50 not run (one seed, one core of an Intel Xeon, 2026-11-30). "
        "With --batch-size 20 --num-steps 600000, as many passes: 88.9 nats, ELBO -92.7, 15 units active, 65 minutes "
        "of one core of an AMD EPYC beside other work (2026-12-01)",
    ),
    "mnist-iwae-2-short": Preset(
        "two stochastic layers, 200 passes along a cosine in batches of 100 instead of 3,280 in stages",
        Config(**SHORT, layers=2),
        paper="Burda, Grosse, Salakhutdinov 2016",
    ),
    "mnist-miwae": Preset(
        "means of 8 importance-weighted bounds of 8 samples each (MIWAE)",
        Config(**PAPER | {"num_samples": 64}, bound="miwae", groups=8),
        paper="Rainforth, Kosiorek, Le, Maddison, Igl, Wood, Teh 2018",
        published=f"{TABLE}: 84.97",
    ),
    "mnist-piwae": Preset(
        "the decoder on 64 samples, the encoder on 8 groups of 8 (PIWAE)",
        Config(**PAPER | {"num_samples": 64}, bound="piwae", groups=8),
        paper="Rainforth, Kosiorek, Le, Maddison, Igl, Wood, Teh 2018",
        published=f"{TABLE}: 84.46",
    ),
    "mnist-ciwae": Preset(
        "the importance-weighted bound of 64 samples with a twentieth of the ELBO (CIWAE)",
        Config(**PAPER | {"num_samples": 64}, bound="ciwae"),
        paper="Rainforth, Kosiorek, Le, Maddison, Igl, Wood, Teh 2018",
        published=f"{TABLE}, beta = 0.05: 84.57",
    ),
    "mnist-dreg": Preset(
        "the importance-weighted bound of 50 samples by doubly reparameterised gradients",
        Config(**PAPER, bound="dreg"),
        paper="Tucker, Lawson, Gu, Maddison 2019",
    ),
}
