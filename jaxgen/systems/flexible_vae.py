"""Autoencoders with other posteriors and priors than a diagonal Gaussian and the standard normal.

VampPrior (Tomczak and Welling 2018): `--prior vamp`, the mean of the posteriors at learned pseudo-inputs. Their
networks are gated and have 40 latents; here they are those of `mnist-vae`.

Hyperspherical VAE (Davidson et al. 2018): `--posterior von_mises_fisher --prior sphere`. Its derivative by
kappa is implicit, without the variance of their correction for rejection.

Planar flows (Rezende and Mohamed 2015): `--posterior planar`, the flow's parameters from the encoder. No annealing of
the target density, which the paper has for the first 10,000 steps.

Inverse autoregressive flow (Kingma et al. 2016): `--posterior iaf`, on the networks of `mnist-vae`, not their ResNet.

RealNVP (Dinh et al. 2017): couplings as posterior or as prior. A full covariance; a learned normal; a mixture.
"""

import dataclasses
from typing import Any, Literal

from jaxgen.losses import von_mises_fisher
from jaxgen.models import flows, posteriors, priors
from jaxgen.options import lookup
from jaxgen.ranges import Count
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import autoencoder

POSTERIORS = {
    "gaussian": lambda c: posteriors.Diagonal(),
    "full": lambda c: posteriors.Cholesky(),
    "von_mises_fisher": lambda c: posteriors.VonMisesFisher(),
    "planar": lambda c: posteriors.Flow(flows.Planar(c.flow_length)),
    "iaf": lambda c: posteriors.Flow(
        flows.Autoregressive(c.latent_dim, c.flow_length, c.flow_width, c.context, c.dtype)
    ),
    "couplings": lambda c: posteriors.Flow(
        flows.Couplings(c.latent_dim, c.flow_length, c.flow_width, c.context, c.dtype)
    ),
}
PRIORS = {
    "standard": lambda c, spec: None,
    "learned": lambda c, spec: priors.LearnedNormal(c.latent_dim),
    "mixture": lambda c, spec: priors.Mixture(c.latent_dim, c.num_components),
    "vamp": lambda c, spec: priors.VampPrior(spec.image_shape, c.num_components),
    "couplings": lambda c, spec: priors.Flow(
        flows.Couplings(c.latent_dim, c.flow_length, c.flow_width, dtype=c.dtype), c.latent_dim
    ),
    "sphere": lambda c, spec: priors.UniformOnSphere(c.latent_dim),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(autoencoder.Autoencoder):
    """An autoencoder with a posterior and a prior of one's choice."""

    posterior: Literal[*POSTERIORS] = "gaussian"
    """What the encoder's output means."""
    prior: Literal[*PRIORS] = "standard"
    """Of the latents; sphere goes with von_mises_fisher."""
    flow_length: Count = 4
    """Steps of a flow."""
    flow_width: Count = 64
    """Hidden numbers in a step of a flow; planar ones have none."""
    context: Count = 32
    """Numbers that the encoder tells iaf and couplings of an image."""
    num_components: Count = 500
    """Of a mixture, and pseudo-inputs of vamp."""
    importance_weighted: bool = False
    """Maximise the importance-weighted bound with num_samples."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a sphere in fewer than two dimensions, or a posterior and a prior that live on different sets.
    """
    sphere = config.posterior == "von_mises_fisher"
    if sphere:
        von_mises_fisher.check_dim(config.latent_dim)
    if sphere != (config.prior == "sphere"):
        raise ValueError(
            f"the posterior {config.posterior} does not go with the prior {config.prior}: von_mises_fisher and sphere "
            "are on the unit sphere, and all others are not"
        )
    if config.prior == "vamp" and config.posterior in ("planar", "iaf"):
        raise ValueError(
            f"a VampPrior needs the posterior's density at every latent, which {config.posterior} flows do not have: "
            "take gaussian, full or couplings"
        )
    posterior = lookup(POSTERIORS, config.posterior, "posterior")(config)
    encoder, decoder = autoencoder.networks(config, spec, posterior)
    return autoencoder.build(
        config,
        spec,
        encoder,
        decoder,
        name="flexible VAE",
        posterior=posterior,
        prior=lookup(PRIORS, config.prior, "prior")(config, spec),
        prior_in_words="uniform on the sphere" if sphere else f"the learned prior ({config.prior})",
        importance_weighted=config.importance_weighted,
    )


TINY = Config(
    model="conv",
    likelihood="discretized_logistic",
    features=2,
    latent_dim=3,
    batch_size=8,
    num_steps=4,
    num_samples=2,
    posterior="couplings",
    prior="vamp",
    flow_length=2,
    flow_width=4,
    context=2,
    num_components=2,
)

DIGITS: Settings = autoencoder.DIGITS | {"latent_dim": 40, "num_steps": 60_000, "eval_samples": 50}


def _preset(about: str, paper: str, published: str = "", measured: str = "", **changes: Any) -> Preset:
    return Preset(about, Config(**DIGITS | changes), paper=paper, published=published, measured=measured)


PRESETS = {
    "mnist-vampprior": _preset(
        "a prior of 500 learned pseudo-inputs, 40 latents",
        "Tomczak and Welling 2018",
        "test NLL 85.57 by 5,000 samples, static binarisation, their networks",
        prior="vamp",
    ),
    "mnist-svae": _preset(
        "a sphere of ten dimensions (11 numbers), von Mises-Fisher posterior",
        "Davidson, Falorsi, De Cao, Kipf, Tomczak 2018",
        "test NLL 93.16 in 10 dimensions, dynamic binarisation, their networks",
        posterior="von_mises_fisher",
        prior="sphere",
        latent_dim=11,
    ),
    "mnist-planar-vae": _preset(
        "a posterior through 10 planar flows",
        "Rezende and Mohamed 2015",
        posterior="planar",
        flow_length=10,
        measured="test ELBO -94.3 nats (distortion 69.8, rate 24.5), bound of 50 samples -91.4, 19 active units; FID "
        "of drawn means 16.83 in the package's CNN; one seed, 31 minutes of one core of an AMD EPYC beside other work, "
        "2026-12-01",
    ),
    "mnist-iaf-vae": _preset(
        "a posterior through two inverse autoregressive flows",
        "Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling 2016",
        measured="test ELBO -92.7 nats (distortion 69.6, rate 23.1), bound of 50 samples -90.1, 18 units active; 13 "
        "minutes (one seed, one core of an Intel Xeon, 2026-11-30)",
        posterior="iaf",
        flow_length=2,
        flow_width=320,
        context=64,
    ),
    "mnist-realnvp-prior": _preset(
        "a prior of eight couplings, trained with the autoencoder",
        "couplings of Dinh, Sohl-Dickstein, Bengio 2017",
        prior="couplings",
        flow_length=8,
    ),
}
