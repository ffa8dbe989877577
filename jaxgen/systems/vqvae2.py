"""VQ-VAE-2: two maps of codes, one for what the whole image is and one for its details (Razavi et al. 2019).

Each level has a codebook of moving averages. What is minimised is the squared error plus, for each level, beta = 0.25
times its commitment. At 256 pixels there are 32x32 codes above 64x64. There is no prior of codes, so nothing is drawn.

Deviations: the paper's two-level network is for ImageNet; `ffhq-vqvae2` has the sizes that public code for faces has
(1,388,867 parameters, beside 65,536 numbers of both codebooks). Its batch, rate and length are ours. A code that no
vector chooses stays where it is. Codes that begin anew, k-means and other quantisers are as in `vqvae`.
"""

import dataclasses

from jaxgen.models import vqvae2 as networks
from jaxgen.options import Data, Optimizer
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset
from jaxgen.systems.shared import vector_quantised
from jaxgen.systems.shared.vector_quantised import Quantiser


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(vector_quantised.Autoencoder):
    """An autoencoder with two maps of codes, for images whose sides are multiples of 8. Quantisers are alike."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a number of codes that the quantiser cannot have; when it is traced, for sides that are no
        multiples of 8.
    """
    top, bottom = config.quantiser.build(), config.quantiser.build()
    model = networks.VQVAE2(top, bottom, spec.image_shape, **config.sizes)
    return vector_quantised.build(config, spec, model, name="VQ-VAE-2")


TINY = Config(
    data=Data("emoji", image_size=16),
    features=4,
    blocks=1,
    inner=2,
    batch_size=8,
    num_steps=4,
    quantiser=Quantiser(num_codes=12, dim=3, restart_below=0.3, k_means=True),
)

_PAPER = "Razavi, van den Oord and Vinyals 2019"

PRESETS = {
    "emoji-vqvae2": Preset(
        "32x32 colour emoji as 4x4 and 8x8 codes of 256, by a narrow VQ-VAE-2",
        Config(
            data=Data("emoji", image_size=32),
            data_variance=0.0928,
            features=64,
            quantiser=Quantiser(num_codes=256, dim=16, restart_below=0.5, k_means=True),
            num_steps=4000,
            optimizer=Optimizer(learning_rate=1e-3, schedule="cosine"),
            sample_every=1000,
            evaluate_every=1000,
        ),
        paper=_PAPER,
    ),
    "ffhq-vqvae2": Preset(
        "FFHQ at 256 pixels as 32x32 and 64x64 codes of 512, by VQ-VAE-2; give --data.path",
        Config(
            data=Data("folder", path="ffhq", image_size=256, labelled=False),
            batch_size=128,
            num_steps=300_000,
            sample_every=5000,
            evaluate_every=5000,
            checkpoint_every=5000,
        ),
        paper=_PAPER,
        spec=((256, 256, 3), 0),
    ),
}
