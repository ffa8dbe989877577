"""Autoencoders whose loss has more terms than distortion and rate. Each term has a weight; at 0 it is not there.

beta-VAE (Higgins et al. 2017): `--beta`.
Annealed VAE (Burgess et al. 2018): `--capacity-weight`, `--capacity`, beta 0.
beta-TC-VAE (Chen et al. 2018): `--total-correlation` is their beta less 1. The minibatch's weights are unbiased, with
1/N on the diagonal, and the rate is exact where theirs is drawn.
DIP-VAE I and II (Kumar et al. 2018): `--dip-off-diagonal`, `--dip-diagonal`, `--dip-kind`.
InfoVAE (Zhao et al. 2019): `--mmd`, and beta = 1 - alpha. Unbiased MMD, which may be below 0.
WAE-MMD (Tolstikhin et al. 2018): `--deterministic`, `--mmd`. Kernels are inverse multiquadratics of seven scales.

RAE-L2, RAE-GP (Ghosh et al. 2020): `--deterministic`, `--latent-size`, `--decoder-size` or `--decoder-slope`. Codes
are drawn from a mixture of Gaussians that learns beside the networks, not one that EM fits at the end.

Networks are those of `mnist-vae` or our convolutional ones, not the papers'; for points the distortion is that of a
Gaussian with a learned variance, where WAE and RAE have the squared error.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import optax

from jaxgen import latent_model
from jaxgen.losses import latent
from jaxgen.models import posteriors, priors
from jaxgen.options import Data, Optimizer
from jaxgen.ranges import Count, CountOrZero, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import autoencoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(autoencoder.Autoencoder):
    """An autoencoder with terms."""

    beta: Weight = 1.0
    """Weight of the rate (KL divergence) in the loss; without meaning where deterministic."""
    deterministic: bool = False
    """The encoder returns a point and not a distribution: there is no rate."""
    capacity_weight: Weight = 0.0
    """Of the distance between rate and capacity."""
    capacity: Weight = 25.0
    """Nats that the rate is to have at the end."""
    capacity_steps: CountOrZero = 0
    """Steps over which the capacity rises from 0; 0: it is there at once."""
    total_correlation: Weight = 0.0
    """Weight of the dependence of the latents on each other."""
    dip_off_diagonal: Weight = 0.0
    """Weight of the squared covariances of the latents."""
    dip_diagonal: Weight = 0.0
    """Weight of the squared distances of their variances from 1."""
    dip_kind: Literal[1, 2] = 1
    """Covariances of the posterior means (1), or of the latents (2)."""
    mmd: Weight = 0.0
    """Weight of the distance (MMD) between all latents and the prior."""
    kernel: Literal["imq", "rbf"] = "imq"
    """Of that distance: inverse multiquadratics or a Gaussian."""
    latent_size: Weight = 0.0
    """Weight of half the squared length of the latents."""
    decoder_size: Weight = 0.0
    """Weight of the decoder's squared parameters."""
    decoder_slope: Weight = 0.0
    """Weight of the decoder's squared derivative by the latents."""
    num_components: CountOrZero = 0
    """Of a mixture of Gaussians that learns the density of the latents, to draw from; 0: the standard normal."""
    num_examples: Count = 60_000
    """Images in the training data, which the total correlation needs."""


def terms_of(config: Config) -> list[latent.Term]:
    """Those with a weight."""
    rises = config.capacity_steps
    target: Any = optax.linear_schedule(0.0, config.capacity, rises) if rises else config.capacity
    kernel = {"imq": latent.imq, "rbf": latent.rbf}[config.kernel]
    dip = max(config.dip_off_diagonal, config.dip_diagonal)
    makers: list[tuple[float, Callable[[float], latent.Term]]] = [
        (config.capacity_weight, lambda weight: latent.capacity(weight, target)),
        (config.total_correlation, lambda weight: latent.total_correlation(weight, num_examples=config.num_examples)),
        (dip, lambda _: latent.dip(config.dip_off_diagonal, config.dip_diagonal, config.dip_kind)),
        (config.mmd, lambda weight: latent.mmd(weight, kernel)),
        (config.latent_size, latent.latent_size),
        (config.decoder_size, latent.decoder_size),
        (config.decoder_slope, latent.decoder_slope),
        (float(config.num_components > 0), latent.fitted_prior),
    ]
    return [make(weight) for weight, make in makers if weight]


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for terms of a rate or a distribution that a deterministic encoder does not have.
    """
    of_distributions = ("capacity_weight", "total_correlation", "dip_off_diagonal", "dip_diagonal")
    if config.deterministic and (given := [name for name in of_distributions if getattr(config, name)]):
        raise ValueError(f"a deterministic encoder has no distribution, which --{given[0].replace('_', '-')} needs")
    posterior = posteriors.Point() if config.deterministic else latent_model.DIAGONAL
    encoder, decoder = autoencoder.networks(config, spec, posterior)
    parts: dict[str, Any] = {}
    if config.num_components:
        if not config.deterministic:
            raise ValueError("--num-components fits a density to points: it goes with --deterministic")
        parts["prior"] = priors.Mixture(config.latent_dim, config.num_components)
        parts["prior_in_words"] = f"a mixture of {config.num_components} Gaussians, learned from the codes"
    return autoencoder.build(
        config,
        spec,
        encoder,
        decoder,
        name="regularised VAE",
        posterior=posterior,
        beta=config.beta,
        terms=terms_of(config),
        **parts,
    )


_ALL: Settings = {"beta": 0.5, "capacity_weight": 1.0, "capacity_steps": 2, "total_correlation": 1.0, "mmd": 1.0}
_ALL |= {"dip_off_diagonal": 1.0, "dip_diagonal": 1.0, "dip_kind": 2}
_ALL |= {"latent_size": 0.1, "decoder_size": 0.1, "decoder_slope": 0.1}
TINY = Config(
    model="conv", likelihood="discretized_logistic", features=2, latent_dim=3, batch_size=8, num_steps=4, **_ALL
)

DIGITS: Settings = autoencoder.DIGITS | {"latent_dim": 10, "num_steps": 30_000}
POINTS: Settings = DIGITS | {"model": "conv", "data": Data(), "likelihood": "gaussian", "latent_dim": 16}
POINTS["deterministic"] = True
FACTORS: Settings = autoencoder.SHAPES | {"num_examples": 20_480, "optimizer": Optimizer(learning_rate=5e-4)}

PRESETS = {
    "mnist-beta-vae": Preset(
        "ten latents at beta = 4",
        Config(**DIGITS, beta=4.0),
        paper="Higgins et al. 2017",
        measured="test ELBO (beta = 1) -124.3 nats, rate 7.2, 5 units active; a linear probe of codes names 84.8 % of "
        "test digits (one seed, two cores of an AMD EPYC (Zen 3), 2026-11-30)",
    ),
    "mnist-annealed-vae": Preset(
        "a rate held at a capacity that rises to 25 nats",
        Config(**DIGITS, beta=0.0, capacity_weight=10.0, capacity_steps=20_000),
        paper="Burgess et al. 2018",
    ),
    "mnist-beta-tcvae": Preset(
        "total correlation of ten latents at weight beta = 6",
        Config(**DIGITS, total_correlation=5.0),
        paper="Chen, Li, Grosse, Duvenaud 2018",
        measured="test ELBO (beta = 1) -122.2 nats, rate 8.2, bound of 50 samples -117.0, 5 active units; FID of "
        "reconstructions 21.4, of drawn means 28.6 in the package's CNN; one seed, 8 minutes of one core of "
        "an AMD EPYC, 2026-12-01",
    ),
    "mnist-dip-vae": Preset(
        "decorrelated posterior means (DIP-VAE I)",
        Config(**DIGITS, dip_off_diagonal=10.0, dip_diagonal=100.0),
        paper="Kumar et al. 2018",
    ),
    "mnist-dip-vae-2": Preset(
        "decorrelated latents (DIP-VAE II)",
        Config(**DIGITS, dip_off_diagonal=10.0, dip_diagonal=10.0, dip_kind=2),
        paper="Kumar, Sattigeri, Balakrishnan 2018",
    ),
    "mnist-infovae": Preset(
        "no rate of single images, MMD of all at weight 1000",
        Config(**DIGITS, beta=0.0, mmd=1000.0, kernel="rbf"),
        paper="Zhao, Song, Ermon 2019",
        measured="distortion of test digits 87.8 nats, 10 units active; the rate, which it does not pay for, 74.9 (one "
        "seed, one core of an Intel Xeon, 2026-11-30)",
    ),
    "mnist-wae-mmd": Preset(
        "a deterministic encoder, MMD of codes and prior at weight 100",
        Config(**POINTS, mmd=100.0),
        paper="Tolstikhin, Bousquet, Gelly, Schoelkopf 2018",
        measured="not run to its end; after 12,997 of 30,000 steps reconstructions PSNR 23.89 dB (16 principal "
        "components: 16.23), FID of draws 15.97 in the package's CNN; one seed, one core of an AMD EPYC, "
        "2026-12-01",
    ),
    "mnist-rae-l2": Preset(
        "a deterministic encoder, small codes and a small decoder",
        Config(**POINTS, latent_size=1.0, decoder_size=1e-3, num_components=10),
        paper="Ghosh, Sajjadi, Vergari, Black, Schoelkopf 2020",
        published="FID 9.9 on MNIST, of their networks and Inception features",
    ),
    "mnist-rae-gp": Preset(
        "a deterministic encoder, small codes and a flat decoder",
        Config(**POINTS, latent_size=1.0, decoder_slope=1e-3, num_components=10),
        paper="Ghosh, Sajjadi, Vergari, Black, Schoelkopf 2020",
        published="FID 9.4 on MNIST, of their networks and Inception features",
    ),
    "factors-beta-vae": Preset(
        "shapes of known factors as ten numbers at beta = 4", Config(**FACTORS, beta=4.0), paper="Higgins et al. 2017"
    ),
    "factors-beta-tcvae": Preset(
        "shapes of known factors as ten numbers, total correlation at weight beta = 6",
        Config(**FACTORS, total_correlation=5.0),
        paper="Chen, Li, Grosse, Duvenaud 2018",
    ),
}
